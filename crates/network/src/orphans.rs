//! What was promised to a coordinator that is gone for good: nobody else would ever end it.
//!
//! Who has voted yes waits for the decision, and asks its peers. If one of them knows it, or has not voted, that
//! ends it. If all who are there have voted yes and the coordinator never comes back, then nobody knows what it
//! decided; and what was promised keeps a file's record from ever being turned again. Here all of them take it as
//! committed, each by itself, as an operator would order it (Bernstein, Hadzilacos, Goodman, 1987, section 7.4: a
//! heuristic decision). That is right for what is stored: a commit that was told to somebody is never taken back, and
//! a version that nobody was told of is as good as any, since all that it names was kept before anyone was asked.
//!
//! A coordinator counts as gone for good after the same time after which the keepers that are left go on without
//! the others. One that comes back after that, from the other side of a partition, may have decided otherwise.

use crate::StorageDisks;
use crate::keeper::ORPHANED;
use crate::node::StorageNode;
use base::{NodeName, Time};
use node::{Doubtful, Force, Input, Intervention};
use placement::Status;
use std::sync::Arc;
use twopc::Audit;
use twopc::participant::PromiseKey;

impl StorageNode {
    /// When a node that is gone now is gone for good; `None`: it is.
    fn is_lost_at(&self, now: Time, node: NodeName) -> Option<Time> {
        let member = self.membership.member(node).filter(|member| member.status == Status::Dead)?;
        let lost = member.since + ORPHANED * self.config.membership.alive;
        (lost > now).then_some(lost)
    }

    /// Whether a node has been gone for so long that nobody waits for it any more.
    pub(crate) fn is_lost(&self, now: Time, node: NodeName) -> bool {
        self.is_dead(node) && self.is_lost_at(now, node).is_none()
    }

    /// Somebody is gone, or is known to be: once it is gone for good, this node looks what it has promised it.
    pub(crate) fn look_for_orphans(&mut self, at: Time) {
        self.orphans_at = Time::earliest(self.orphans_at, Some(at));
    }

    /// Time has passed: promises to those who are gone for good are kept.
    pub(crate) fn orphans_wake(&mut self, now: Time, disks: &dyn StorageDisks) {
        if self.orphans_at.is_none_or(|at| at > now) {
            return;
        }
        self.orphans_at = None;
        let Some(participant) = self.transactions.participant().map(node::Host::participant) else {
            // Its log is being read.
            return self.look_for_orphans(now + self.config.patience);
        };
        let of = |key: &PromiseKey| NodeName(key.tx.coordinator.0);
        // Nobody will ask what was made of these.
        let forced = participant.forced().filter(|(_, forced)| forced.forgotten.is_none());
        let forced = forced.map(|(key, _)| key).filter(|key| self.is_lost(now, of(key)));
        let forced: Vec<PromiseKey> = forced.collect();
        let promised = participant.prepared().map(|(key, _)| key);
        let gone: Vec<PromiseKey> = promised.filter(|key| self.is_dead(of(key))).collect();
        if !forced.is_empty() {
            // What has become current by that may name what was given up meanwhile.
            self.keeping.audit_at_once(now);
        }
        for key in forced {
            self.intervene(now, key, Force::Forget, disks);
        }
        for key in gone {
            if let Some(later) = self.is_lost_at(now, of(&key)) {
                self.look_for_orphans(later);
            } else {
                self.stats.orphans += 1;
                self.intervene(now, key, Force::Commit, disks);
                self.look_for_orphans(now + self.config.patience);
            }
        }
    }

    fn intervene(&mut self, now: Time, key: PromiseKey, force: Force, disks: &dyn StorageDisks) {
        let at_ms = self.config.unix_ms_at_zero.saturating_add_unsigned(now.as_millis());
        let (who, why) = ("keeper".into(), "its coordinator is gone for good".into());
        let audit = Arc::new(Audit { at_ms, who, why });
        let what = Intervention { of: Doubtful::Branch(key), force, audit };
        self.feed(now, Input::Intervene(Box::new(what)), disks);
    }
}
