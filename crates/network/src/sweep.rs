//! What a node holds that no record names, and how it gets rid of it.
//!
//! A repair whose keeper crashed half way, or a node that was released while it was away, leaves shards
//! and old records. Whoever keeps a file asks for a proof of each of its shards, round by round. So what
//! nobody has asked for in [`ROUNDS`] rounds is in doubt, and of a node that leaves everything that is
//! left. Then all members are asked, in one message each, and whoever keeps the record of the file says
//! which version is current and whether that names the asker. Silence is no answer, and neither is one
//! voice: only if most of the keepers of the newest version that anybody speaks of say that it does not is
//! one claim given up, by the same step that a keeper would have used.

use crate::message::Message;
use crate::node::StorageNode;
use crate::work;
use base::{NodeName, Time};
use std::collections::{BTreeMap, BTreeSet};
use store::Digest;

/// For so many rounds of audits nobody has to have asked for a shard before it is in doubt.
pub const ROUNDS: u32 = 4;
/// So many things are asked about at once.
pub(crate) const DOUBTS_MAX: usize = 256;

/// Something that a node holds, and does not know who needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Which.
    pub digest: Digest,
    /// If it is a record: of which file.
    pub file: Option<Digest>,
}

/// What a keeper says of a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// About what.
    pub digest: Digest,
    /// The version of the file's record that is current at the sender.
    pub version: u64,
    /// How many keepers that names.
    pub keepers: u32,
    /// Whether it says that the asker holds this, or may be about to.
    pub named: bool,
}

/// What a node asks about its own holdings.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    /// When each came, or a keeper has asked for a proof of it last.
    cared: BTreeMap<Digest, Time>,
    started: Time,
    next: Time,
    /// The doubts that are asked about, until when, and what keepers have said.
    asked: BTreeMap<Digest, BTreeMap<NodeName, Claim>>,
    until: Option<Time>,
}

impl Sweep {
    pub(crate) fn new(now: Time, first: Time) -> Sweep {
        let (cared, asked) = (BTreeMap::new(), BTreeMap::new());
        Sweep { cared, started: now, next: first, asked, until: None }
    }

    pub(crate) fn due(&self) -> Option<Time> {
        Some(self.until.unwrap_or(self.next))
    }

    /// A keeper has asked for a proof of it.
    pub(crate) fn cares(&mut self, now: Time, digest: Digest) {
        self.cared.insert(digest, now);
    }

    /// It has come, and there has to be time to ask for it.
    pub(crate) fn written(&mut self, now: Time, digest: Digest) {
        self.cared.insert(digest, now);
    }

    pub(crate) fn forget(&mut self, digest: Digest) {
        self.cared.remove(&digest);
        self.asked.remove(&digest);
    }

    /// It looks at what is left before long: the node is about to leave.
    pub(crate) fn hurry(&mut self, at: Time) {
        self.next = self.next.min(at);
    }
}

/// Whether the answers show that nobody needs it: most keepers of the newest version say so.
fn is_unneeded(claims: &BTreeMap<NodeName, Claim>) -> bool {
    let Some(newest) = claims.values().map(|claim| claim.version).max() else { return false };
    let current = || claims.values().filter(|claim| claim.version == newest);
    let keepers = current().map(|claim| claim.keepers).max().unwrap_or(u32::MAX);
    current().all(|claim| !claim.named) && 2 * current().count() as u64 > u64::from(keepers)
}

impl StorageNode {
    /// What is needed here by the log, and by nobody that has shown it for long.
    fn doubts(&self, now: Time) -> Vec<Doubt> {
        let Some(host) = self.transactions.participant() else { return Vec::new() };
        let rounds = ROUNDS * self.config.audit_every;
        let sweep = &self.sweep;
        let old = |digest: &Digest| {
            let since = sweep.cared.get(digest).copied().unwrap_or(sweep.started);
            self.is_leaving() || since + rounds <= now
        };
        let files = self.holdings.superseded();
        let mut doubts = Vec::new();
        for (digest, _) in self.holdings.shards.shards() {
            let needed = host.store().value(work::needed(digest)) > 0;
            let file = files.get(&digest).copied();
            let note = self.holdings.shards.pinned(digest).is_some();
            if needed && old(&digest) && (file.is_some() || !note) {
                doubts.push(Doubt { digest, file });
            }
            if doubts.len() == DOUBTS_MAX {
                break;
            }
        }
        doubts
    }

    pub(crate) fn sweep_wake(&mut self, now: Time) {
        if self.sweep.until.is_some_and(|until| until <= now) {
            self.sweep.until = None;
            for (digest, claims) in std::mem::take(&mut self.sweep.asked) {
                if is_unneeded(&claims) {
                    self.stats.let_go += 1;
                    self.keeping.to_release.push((self.name, digest));
                }
            }
        }
        if self.sweep.until.is_some() || self.sweep.next > now {
            return;
        }
        let pause =
            if self.is_leaving() { 4 * self.config.patience } else { self.config.audit_every };
        self.sweep.next = now + pause;
        let doubts = self.doubts(now);
        if doubts.is_empty() {
            return;
        }
        self.sweep.until = Some(now + 2 * self.config.patience);
        self.sweep.asked = doubts.iter().map(|doubt| (doubt.digest, BTreeMap::new())).collect();
        let members: BTreeSet<NodeName> =
            self.membership.candidates().map(|candidate| candidate.node).collect();
        for node in members {
            self.send(node, Message::Doubts(doubts.clone()));
        }
        let own = self.claims(now, self.name, &doubts);
        self.claimed(self.name, &own);
    }

    /// Somebody does not know who needs what it holds.
    pub(crate) fn doubted(&mut self, now: Time, from: NodeName, doubts: &[Doubt]) {
        let claims = self.claims(now, from, doubts);
        if !claims.is_empty() {
            self.send(from, Message::Claims(claims));
        }
    }

    fn claims(&self, now: Time, of: NodeName, doubts: &[Doubt]) -> Vec<Claim> {
        // A version that is promised, and of which nobody knows whether it is current, may name it.
        let promised = |file| {
            let host = self.transactions.participant();
            host.is_none_or(|host| !host.locks().is_free(now, work::head(file)))
        };
        let claim = |doubt: &Doubt| {
            let Doubt { digest, file } = *doubt;
            let file = file.or_else(|| self.keeping.file_of(digest))?;
            let record = self.holdings.current(file)?;
            let named = match doubt.file {
                Some(_) => self.holdings.current_digest(file) == Some(digest),
                None => {
                    record.shards().any(|(.., shard, node)| shard.digest == digest && node == of)
                }
            };
            let named = named || self.keeping.is_at(file) || promised(file);
            let (version, keepers) = (record.version, record.keepers.len() as u32);
            Some(Claim { digest, version, keepers, named })
        };
        doubts.iter().take(DOUBTS_MAX).filter_map(claim).collect()
    }

    /// A keeper has answered.
    pub(crate) fn claimed(&mut self, from: NodeName, claims: &[Claim]) {
        for claim in claims.iter().take(DOUBTS_MAX) {
            if let Some(said) = self.sweep.asked.get_mut(&claim.digest) {
                said.insert(from, *claim);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_most_keepers_of_the_newest_version_are_a_sure_answer() {
        let digest = Digest::of(b"shard");
        let say = |all: &[(u64, bool)]| {
            let claim = |&(version, named)| Claim { digest, version, keepers: 3, named };
            let nodes = (0..).map(NodeName::numbered);
            is_unneeded(&nodes.zip(all.iter().map(claim)).collect())
        };
        assert!(!say(&[]), "silence");
        assert!(!say(&[(1, false)]), "one voice of three");
        assert!(say(&[(1, false), (1, false)]));
        assert!(!say(&[(1, false), (1, false), (1, true)]), "one may be about to name it");
        assert!(!say(&[(1, false), (1, false), (2, true)]), "the newest names it");
        assert!(!say(&[(1, false), (1, false), (2, false)]), "most of an old version");
        assert!(say(&[(1, true), (2, false), (2, false)]));
    }
}
