//! Heuristic outcomes: what an operator has forced where nobody else could decide, what the real decision
//! turns out to be, and what is left of it until an operator has seen to it.
//!
//! The names are those of X/Open XA. A participant's side is part of [`Participant`](crate::Participant); a
//! coordinator keeps one [`Heuristics`] beside its transactions, since a report may come long after the
//! transaction has ended.

use crate::IllegalTransition;
use crate::participant::{Finding, PromiseKey};
use base::{NodeName, OperationId, Sequence, ShardId};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Who did what the protocol would not have done, when, and why. It stands in the log beside what was done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audit {
    /// When, in milliseconds of the Unix clock.
    pub at_ms: i64,
    /// Who.
    pub who: Arc<str>,
    /// Why.
    pub why: Arc<str>,
}

impl Audit {
    /// The most that `who` and `why` may have, each.
    pub const TEXT_BYTES_MAX: u32 = 1_024;

    /// # Errors
    /// [`ForceRefusal::TextTooLong`]
    pub fn check(&self) -> Result<(), ForceRefusal> {
        let bytes = self.who.len().max(self.why.len());
        if bytes > Self::TEXT_BYTES_MAX as usize {
            return Err(ForceRefusal::TextTooLong { bytes: bytes as u64 });
        }
        Ok(())
    }
}

/// How a branch ended against its transaction, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Heuristic {
    /// The transaction commits, and the branch's store knows nothing of it: its disk was lost, or it never
    /// promised. A hazard: nobody can say what of it was done.
    Lost,
    /// The transaction commits, and the branch has aborted.
    Aborted,
    /// The transaction aborts, and the branch has committed.
    Committed,
}

impl Heuristic {
    /// Every one; its code in logs and messages is its place, from 1.
    pub const ALL: [Heuristic; 3] = [Self::Lost, Self::Aborted, Self::Committed];

    /// Its code in logs and messages.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Lost => 1,
            Self::Aborted => 2,
            Self::Committed => 3,
        }
    }

    /// The one of this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Heuristic> {
        Self::ALL.into_iter().find(|found| found.code() == code)
    }

    /// What X/Open calls it: `hazard` where nobody knows, `mixed` where branches are known to have ended
    /// differently.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "hazard",
            Self::Aborted | Self::Committed => "mixed",
        }
    }

    /// The transaction's decision against which it is.
    #[must_use]
    pub fn commits(self) -> bool {
        self != Self::Committed
    }
}

impl fmt::Display for Heuristic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "hazard: the transaction commits, and the store knows nothing of it",
            Self::Aborted => "mixed: the transaction commits, and the branch has aborted",
            Self::Committed => "mixed: the transaction aborts, and the branch has committed",
        })
    }
}

/// Why an operator's word about something in doubt is not taken. Nothing was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForceRefusal {
    /// Nothing of this name is in doubt here: list what is.
    NotInDoubt,
    /// It is decided, and not by an operator: the decision stands and is on its way to everybody.
    Decided {
        /// To commit; else to abort.
        commit: bool,
    },
    /// Another outcome was forced before, and stands.
    ForcedOtherwise {
        /// It was to commit; else to abort.
        commit: bool,
    },
    /// There is no heuristic outcome of this name to be forgotten.
    NotListed,
    /// No transaction that is decided to commit waits for this participant.
    NotAwaited,
    /// Who or why is longer than [`Audit::TEXT_BYTES_MAX`].
    TextTooLong {
        /// How long it is, in bytes.
        bytes: u64,
    },
}

impl fmt::Display for ForceRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |commit: &bool| if *commit { "commit" } else { "abort" };
        match self {
            Self::NotInDoubt => f.write_str("nothing of this name is in doubt here"),
            Self::Decided { commit } => {
                write!(f, "the decision is known, {}, and stands", name(commit))
            }
            Self::ForcedOtherwise { commit } => {
                write!(f, "an operator has forced the other outcome before: {}", name(commit))
            }
            Self::NotListed => f.write_str("no heuristic outcome of this name is listed here"),
            Self::NotAwaited => {
                f.write_str("no transaction that is to commit waits for this participant")
            }
            Self::TextTooLong { bytes } => {
                let max = Audit::TEXT_BYTES_MAX;
                write!(f, "who or why has {bytes} bytes: at most {max} are kept")
            }
        }
    }
}

impl std::error::Error for ForceRefusal {}

/// A branch whose outcome an operator has forced, at its participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forced {
    /// To commit; else to abort.
    pub commit: bool,
    /// The record that says so.
    pub at: Sequence,
    /// Who, when and why.
    pub audit: Arc<Audit>,
    /// What the transaction's decision turned out to be, if it is another one, and the record that says so.
    /// Of one that is the same nothing is left to be remembered.
    pub decided: Option<(bool, Sequence)>,
    /// The coordinator has it on its list.
    pub noted: Option<Sequence>,
    /// An operator has seen to it: it is listed no more.
    pub forgotten: Option<(Sequence, Arc<Audit>)>,
}

impl Forced {
    /// What it is against the decision, as far as that is known.
    #[must_use]
    pub fn heuristic(&self) -> Option<Heuristic> {
        self.decided.map(|(commit, _)| match commit {
            true => Heuristic::Aborted,
            false => Heuristic::Committed,
        })
    }

    /// The events that say all of it, in the order of their records: the first is the [`Forced`] one.
    ///
    /// [`Forced`]: crate::participant::Event::Forced
    pub fn events(
        &self,
        key: PromiseKey,
    ) -> impl Iterator<Item = (Sequence, crate::participant::Event)> + use<> {
        use crate::participant::Event;
        let (commit, audit) = (self.commit, self.audit.clone());
        let forced = (self.at, Event::Forced { key, commit, audit });
        let decided = self.decided.map(|(commit, at)| (at, Finding::Decided { commit }));
        let noted = self.noted.map(|at| (at, Finding::Noted));
        let seen = self.forgotten.clone();
        let seen = seen.map(|(at, audit)| (at, Finding::Forgotten { audit }));
        // An operator may see to it before it is decided, or before that is noted.
        let mut found: Vec<_> = decided.into_iter().chain(noted).chain(seen).collect();
        found.sort_unstable_by_key(|(at, _)| *at);
        let found = found.into_iter().map(move |(at, found)| (at, Event::Heuristic { key, found }));
        std::iter::once(forced).chain(found)
    }

    /// Nobody has to be asked or told any more.
    pub(crate) fn is_settled(&self) -> bool {
        match self.decided {
            None => self.forgotten.is_some(),
            Some(_) => self.noted.is_some(),
        }
    }
}

/// A fact about heuristic outcomes in a coordinator's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// `tx_heuristic`: a branch ended otherwise.
    Reported {
        /// The transaction.
        id: OperationId,
        /// The branch's shard.
        shard: ShardId,
        /// Who reported it.
        node: NodeName,
        /// What.
        heuristic: Heuristic,
    },
    /// `tx_heuristic` of an operator: the transaction commits, and this participant is gone for good, its store with
    /// it. Listed as [`Heuristic::Lost`], by the node that will not report it.
    Gone {
        /// The transaction.
        id: OperationId,
        /// The branch's shard.
        shard: ShardId,
        /// Who is gone.
        node: NodeName,
        /// Who says so, when and why.
        audit: Arc<Audit>,
    },
    /// `tx_heuristic` of an operator who has seen to all that was reported of this transaction.
    Forgotten {
        /// The transaction.
        id: OperationId,
        /// Who, when and why.
        audit: Arc<Audit>,
    },
}

impl Event {
    /// The record's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        "tx_heuristic"
    }

    /// The transaction.
    #[must_use]
    pub fn id(&self) -> OperationId {
        match self {
            Self::Reported { id, .. } | Self::Gone { id, .. } | Self::Forgotten { id, .. } => *id,
        }
    }
}

/// A branch that ended otherwise than its transaction, as its coordinator lists it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reported {
    /// Who reported it, or is gone for good.
    pub node: NodeName,
    /// What.
    pub heuristic: Heuristic,
    /// The record.
    pub at: Sequence,
    /// Of one that is gone for good: which operator said so, when and why.
    pub gone: Option<Arc<Audit>>,
}

/// The heuristic outcomes that a coordinator was told of, until an operator forgets them.
///
/// A report that comes again once it was forgotten is listed again: its participant had not heard that it
/// was noted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Heuristics {
    listed: BTreeMap<(OperationId, ShardId), Reported>,
}

impl Heuristics {
    /// What a report is worth to the log: nothing if it is listed already.
    #[must_use]
    pub fn decide(
        &self,
        id: OperationId,
        shard: ShardId,
        node: NodeName,
        heuristic: Heuristic,
    ) -> Option<Event> {
        let listed = self.listed.contains_key(&(id, shard));
        (!listed).then_some(Event::Reported { id, shard, node, heuristic })
    }

    /// The fact that an operator has seen to a transaction's.
    ///
    /// # Errors
    /// [`ForceRefusal::NotListed`], [`ForceRefusal::TextTooLong`]
    pub fn forget(&self, id: OperationId, audit: &Arc<Audit>) -> Result<Event, ForceRefusal> {
        audit.check()?;
        if self.of(id).next().is_none() {
            return Err(ForceRefusal::NotListed);
        }
        Ok(Event::Forgotten { id, audit: audit.clone() })
    }

    /// Takes a logged fact: the only writer.
    ///
    /// # Errors
    /// [`IllegalTransition`]: it was listed already, or there is nothing to be forgotten.
    pub fn apply(&mut self, sequence: Sequence, event: &Event) -> Result<(), IllegalTransition> {
        match event {
            Event::Reported { id, shard, node, heuristic } => {
                let (node, heuristic, at) = (*node, *heuristic, sequence);
                self.list((*id, *shard), Reported { node, heuristic, at, gone: None })?;
            }
            Event::Gone { id, shard, node, audit } => {
                let (heuristic, gone) = (Heuristic::Lost, Some(audit.clone()));
                let reported = Reported { node: *node, heuristic, at: sequence, gone };
                self.list((*id, *shard), reported)?;
            }
            Event::Forgotten { id, .. } => {
                let shards: Vec<_> = self.of(*id).map(|(shard, _)| shard).collect();
                if shards.is_empty() {
                    return Err(IllegalTransition::Unknown { event: event.name() });
                }
                for shard in shards {
                    self.listed.remove(&(*id, shard));
                }
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        branch: (OperationId, ShardId),
        reported: Reported,
    ) -> Result<(), IllegalTransition> {
        if self.listed.contains_key(&branch) {
            return Err(IllegalTransition::CreatedTwice);
        }
        self.listed.insert(branch, reported);
        Ok(())
    }

    /// Whether a transaction was decided to commit, if a branch of it is listed: each ended against what was decided.
    #[must_use]
    pub fn decision(&self, id: OperationId) -> Option<bool> {
        self.of(id).next().map(|(_, reported)| reported.heuristic.commits())
    }

    /// Takes one from a snapshot.
    pub fn restore(&mut self, id: OperationId, shard: ShardId, reported: Reported) {
        self.listed.insert((id, shard), reported);
    }

    /// Takes from a snapshot who said that a participant is gone. Without effect on what is not listed as lost: it was
    /// forgotten while the snapshot was written.
    pub fn restore_gone(&mut self, id: OperationId, shard: ShardId, audit: Arc<Audit>) {
        let listed = self.listed.get_mut(&(id, shard));
        if let Some(reported) = listed.filter(|it| it.heuristic == Heuristic::Lost) {
            reported.gone = Some(audit);
        }
    }

    /// What is listed of a branch.
    #[must_use]
    pub fn get(&self, id: OperationId, shard: ShardId) -> Option<&Reported> {
        self.listed.get(&(id, shard))
    }

    /// What is listed of a transaction.
    pub fn of(&self, id: OperationId) -> impl Iterator<Item = (ShardId, &Reported)> {
        let (first, last) = (ShardId([0; 32]), ShardId([u8::MAX; 32]));
        let range = self.listed.range((id, first)..=(id, last));
        range.map(|((_, shard), reported)| (*shard, reported))
    }

    /// All of it, by transaction and shard.
    pub fn iter(&self) -> impl Iterator<Item = (OperationId, ShardId, &Reported)> {
        self.listed.iter().map(|((id, shard), reported)| (*id, *shard, reported))
    }

    /// What is listed behind this branch.
    pub fn behind(
        &self,
        last: Option<(OperationId, ShardId)>,
    ) -> impl Iterator<Item = (OperationId, ShardId, &Reported)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let range = self.listed.range((last.map_or(Unbounded, Excluded), Unbounded));
        range.map(|((id, shard), reported)| (*id, *shard, reported))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit() -> Arc<Audit> {
        Arc::new(Audit { at_ms: 5, who: "eva".into(), why: "because".into() })
    }

    #[test]
    fn what_is_reported_is_listed_once_and_until_it_is_forgotten() {
        let (mut list, node) = (Heuristics::default(), NodeName::numbered(1));
        let (a, b) = (ShardId::numbered(1), ShardId([u8::MAX; 32]));
        let (one, two) = (OperationId(1), OperationId(2));
        for (at, (id, shard)) in (1..).zip([(one, a), (one, b), (two, a)]) {
            let event = list.decide(id, shard, node, Heuristic::Aborted).unwrap();
            assert_eq!(list.apply(Sequence(at), &event), Ok(()));
            assert_eq!(list.decide(id, shard, node, Heuristic::Lost), None);
            assert_eq!(list.apply(Sequence(9), &event), Err(IllegalTransition::CreatedTwice));
            assert_eq!(list.get(id, shard).map(|reported| reported.at), Some(Sequence(at)));
        }
        let committed = list.decide(OperationId(3), a, node, Heuristic::Committed).unwrap();
        assert_eq!(list.apply(Sequence(4), &committed), Ok(()));
        let decided = [one, two, OperationId(3), OperationId(4)].map(|id| list.decision(id));
        assert_eq!(decided, [Some(true), Some(true), Some(false), None]);
        let of_three = list.forget(OperationId(3), &audit()).unwrap();
        assert_eq!(list.apply(Sequence(5), &of_three), Ok(()));
        assert_eq!(list.of(one).count(), 2);
        assert_eq!(list.behind(Some((one, a))).count(), 2);
        assert_eq!(list.behind(None).count(), list.iter().count());
        let forgotten = list.forget(one, &audit()).unwrap();
        assert_eq!(forgotten.id(), one);
        assert_eq!(list.apply(Sequence(4), &forgotten), Ok(()));
        assert_eq!(list.iter().map(|(id, ..)| id).collect::<Vec<_>>(), [two]);
        assert_eq!(list.forget(one, &audit()), Err(ForceRefusal::NotListed));
        assert!(list.apply(Sequence(5), &forgotten).is_err());
        let long = Audit { who: "x".repeat(1_025).into(), ..(*audit()).clone() };
        let too_long = Err(ForceRefusal::TextTooLong { bytes: 1_025 });
        assert_eq!(list.forget(two, &Arc::new(long)), too_long);
        let most = Audit { why: "x".repeat(1_024).into(), ..(*audit()).clone() };
        assert_eq!(most.check(), Ok(()));
    }

    #[test]
    fn codes_are_read_back() {
        for heuristic in Heuristic::ALL {
            assert_eq!(Heuristic::from_code(heuristic.code()), Some(heuristic));
        }
        assert_eq!((Heuristic::from_code(0), Heuristic::from_code(4)), (None, None));
        assert!(Heuristic::Lost.commits() && Heuristic::Aborted.commits());
        assert!(!Heuristic::Committed.commits());
        assert_eq!((Heuristic::Lost.name(), Heuristic::Committed.name()), ("hazard", "mixed"));
    }
}
