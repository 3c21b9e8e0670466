//! What nodes report, and how well the network is by that.

use super::StorageNode;
use crate::message::{Message, Observed};
use base::{NodeName, Time};
use placement::Status;

/// So many nodes are kept for what is rebuilt: with as many shards of a stripe as there are nodes, a lost one would have
/// no place, since no node is to have two.
const SPARE: u32 = 1;

/// A report that says nothing new is sent once in so many.
const REPORTS: u32 = 10;

impl StorageNode {
    /// The authority hears what this node has seen. What it has said already it says again now and then: it
    /// may not have been heard.
    pub(super) fn report(&mut self) {
        let used_bytes = self.holdings.shards.used_bytes();
        let capacity_bytes = self.config.shards.capacity_bytes;
        let seen = Observed { used_bytes, capacity_bytes, ..self.observed };
        self.reports += 1;
        if self.reported != Some(seen) || self.reports.is_multiple_of(REPORTS) {
            self.reported = Some(seen);
            self.send(self.config.authority, Message::Report(seen));
        }
        self.report_moved();
    }

    /// The authority tells whoever reports which scheme files should have, once most of those that are there have
    /// reported: after a restart it knows nothing, and what it would advise then is not for files that there are.
    pub(super) fn advise(&mut self, to: NodeName) {
        let there = self.membership.candidates().count() + 1;
        if let Some((policy, all)) = &self.policy
            && let Some(scheme) = policy.scheme()
            && self.config.encodings.per_minute > 0
            && 2 * all.len() > there
        {
            self.send(to, Message::Advice(scheme));
        }
    }

    /// The authority looks at what all have reported.
    pub(super) fn judge_health(&mut self, now: Time) {
        if self.policy.is_none() {
            return;
        }
        let there = self.membership.candidates().count() as u32 + 1;
        let known = self.membership.members().count() as u32 + 1;
        // Who is missed and may answer still is no reason to cut files anew.
        let dead = self.membership.members().filter(|member| member.status == Status::Dead);
        let nodes = known - dead.count() as u32;
        let reputations: Vec<u64> = self
            .membership
            .members()
            .map(|member| u64::from(member.reputation.parts_per_million()))
            .collect();
        let Some((policy, all)) = &mut self.policy else { return };
        let sum = |pick: fn(&Observed) -> u64| all.values().map(pick).sum::<u64>();
        let mean = reputations.iter().sum::<u64>().checked_div(reputations.len() as u64);
        let seen = erasure::Observation {
            proofs_ended: sum(|seen| seen.proofs_ended),
            proofs_passed: sum(|seen| seen.proofs_passed),
            shards_checked: sum(|seen| seen.shards_checked),
            shards_corrupt: sum(|seen| seen.shards_corrupt),
            // Neutral is no evidence: nobody here has judged anybody.
            reputation: mean.filter(|mean| *mean != 500_000).map(|mean| {
                base::Ratio::per_million(u32::try_from(mean).expect("a mean of ratios is one"))
            }),
            nodes: known,
            nodes_left: known - there,
            used_bytes: sum(|seen| seen.used_bytes),
            capacity_bytes: sum(|seen| seen.capacity_bytes),
        };
        self.advice = Some(policy.observe(now, &seen, nodes.saturating_sub(SPARE)));
    }

    /// What it has seen.
    #[must_use]
    pub fn observed(&self) -> Observed {
        self.observed
    }

    /// Of the authority: how well the network is, and with which scheme new files should be stored.
    #[must_use]
    pub fn health(&self) -> Option<(erasure::Tier, erasure::Scheme)> {
        let (policy, _) = self.policy.as_ref()?;
        Some((policy.tier()?, policy.scheme()?))
    }
}
