//! Branches that operators have ended, and what becomes of that.
//!
//! Only such a branch may end otherwise than its transaction, and one that does is on its coordinator's
//! list until an operator has seen to it.

use super::facts::{Added, Facts, Promise, ensure};
use super::ledger::{Checked, Objection};
use super::payload::{Fields, array, tag};
use super::reader::LogRecord;
use super::survey::BranchKey;
use base::{OperationId, ShardId};
use coordinator::{Doubtful, Force, Intervened, RecoveryReport};
use std::collections::BTreeMap;
use twopc::Heuristic;

/// A branch that an operator has ended, as its participant's log says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForcedBranch {
    /// To commit; else to abort.
    pub commit: bool,
    /// What its transaction has decided, if that is another one.
    pub decided: Option<bool>,
    pub forgotten: bool,
    /// What a commit adds: cell and amount.
    adds: Vec<(u64, i64)>,
    /// Its records: number, event, and a checksum of the payload.
    records: Vec<(u64, u8, u32)>,
}

fn summed(at: u64, event: u8, payload: &[u8]) -> (u64, u8, u32) {
    (at, event, crc32fast::hash(payload))
}

/// An operator's note is whole, and says who and why.
fn signed(audit: Option<&[u8]>) -> bool {
    let Some(audit) = audit else { return false };
    let mut fields = Fields(audit);
    let (Some(_when), Some(who)) = (fields.u64(), fields.array().map(u16::from_le_bytes)) else {
        return false;
    };
    who > 0 && fields.0.len() > usize::from(who)
}

/// What a recovery has found of branches that were forced, against what the log says.
pub(super) fn recovered(
    forced: &BTreeMap<BranchKey, ForcedBranch>,
    report: &RecoveryReport,
) -> Result<(), String> {
    let found: BTreeMap<_, _> = report
        .forced
        .iter()
        .map(|(key, it)| {
            let (by, shard) = (key.tx.coordinator.number(), key.shard.number());
            let decided = it.decided.map(|(commit, _)| commit);
            ((by, key.tx.id, shard), (it.commit, decided, it.forgotten.is_some()))
        })
        .collect();
    // One that is forgotten and finished may be left out.
    let right = forced.iter().all(|(key, it)| match found.get(key) {
        Some(found) => *found == (it.commit, it.decided, it.forgotten),
        None => it.forgotten,
    });
    let none_more = found.keys().all(|key| forced.contains_key(key));
    if right && none_more {
        return Ok(());
    }
    Err(format!("branches that were forced are {forced:?}, and {found:?} are found"))
}

impl Facts {
    /// An operator has ended a branch.
    pub(super) fn forced(
        &mut self,
        node: u32,
        key: BranchKey,
        record: &LogRecord<'_>,
        commit: bool,
        audit: Option<&[u8]>,
    ) -> Checked {
        let (by, id, shard) = (key.0 as usize, key.1, key.2);
        ensure(signed(audit), "legal", || {
            format!("n{node}: an operator ends a branch of {id}, and nobody knows who and why")
        })?;
        let participant = &mut self.participants[node as usize];
        let spread = self.coordinators[by].spread.get_mut(id);
        let place = spread.as_ref().and_then(|spread| spread.place(shard));
        let (Some(spread), Some(place)) = (spread, place) else {
            let what = format!("n{node}: an operator ends a branch of {id} that is none");
            return Err(Objection::new("G14", what));
        };
        let branch = spread.branches[place];
        let waits = branch.node == node && branch.open && branch.promise == Promise::Prepared;
        ensure(waits, "G14", || {
            format!("n{node}: an operator ends a branch of {id} that is {:?}", branch.promise)
        })?;
        let held = spread.held.iter().filter(|held| held.shard == shard);
        let adds = held.map(|held| (held.cell, held.add)).collect();
        spread.close(place, node, record.sequence, commit, participant);
        spread.branches[place].promise = if commit { Promise::Committed } else { Promise::Aborted };
        let records = vec![summed(record.sequence, record.event, record.payload)];
        let (decided, forgotten) = (None, false);
        let forced = ForcedBranch { commit, decided, forgotten, adds, records };
        participant.forced.insert(key, forced);
        self.seen.forced += 1;
        Ok(())
    }

    /// What has become of it.
    pub(super) fn heuristic(
        &mut self,
        node: u32,
        key: BranchKey,
        record: &LogRecord<'_>,
        [found]: [u8; 1],
        audit: Option<&[u8]>,
    ) -> Checked {
        let (by, id, shard) = (key.0 as usize, key.1, key.2);
        let place = || format!("n{node}: of a branch of {id}, record {}", record.sequence);
        let participant = &mut self.participants[node as usize];
        let Some(forced) = participant.forced.get_mut(&key) else {
            return Err(Objection::new("legal", format!("{}: nobody has forced it", place())));
        };
        forced.records.push(summed(record.sequence, record.event, record.payload));
        let coordinator = &mut self.coordinators[by];
        match found {
            0 | 1 => {
                let commits = found == 1;
                ensure(forced.decided.is_none(), "legal", || format!("{}: twice", place()))?;
                let spread = coordinator.spread.get_mut(id);
                let known = spread.as_ref().is_some_and(|spread| match commits {
                    true => spread.committing,
                    false => !spread.committing && (spread.abort_said || spread.aborted > 0),
                });
                ensure(known, "G14", || {
                    format!("{}: its decision is known ({commits}), and is not decided", place())
                })?;
                let Some(spread) = spread else { return Ok(()) };
                if commits == forced.commit {
                    let count = if commits { &mut spread.committed } else { &mut spread.aborted };
                    *count += 1;
                    if let Some(place) = spread.place(shard) {
                        spread.branches[place].at = record.sequence;
                    }
                    participant.forced.remove(&key);
                    self.seen.forced_as_decided += 1;
                    return Ok(());
                }
                forced.decided = Some(commits);
                let seen = &mut self.seen;
                *(if commits { &mut seen.heuristic_abort } else { &mut seen.heuristic_commit }) +=
                    1;
                // The books say what was promised, and the branch has done otherwise.
                for (cell, add) in &forced.adds {
                    let amount = if commits { add.wrapping_neg() } else { *add };
                    self.expected.push(Added { node, cell: *cell, amount });
                }
                Ok(())
            }
            2 => ensure(coordinator.reported.contains(&(id, shard)), "G1", || {
                format!("{}: its coordinator has noted it, and its log does not say so", place())
            }),
            3 => {
                forced.forgotten = true;
                self.seen.heuristic_forgotten += 1;
                ensure(signed(audit), "legal", || {
                    format!("{}: forgotten, and nobody knows by whom and why", place())
                })
            }
            _ => Err(Objection::new("legal", format!("{}: found {found}", place()))),
        }
    }

    /// What operators have ended and forgotten before anybody knew the decision: at the end it is known, and
    /// nobody asks for it any more.
    pub(super) fn settle_forgotten(&mut self) {
        for (node, participant) in (0..).zip(self.participants.iter()) {
            for ((by, id, _), forced) in &participant.forced {
                let spread = self.coordinators[*by as usize].spread.get(*id);
                let commits = spread.is_some_and(|spread| spread.committing);
                if forced.decided.is_some() || forced.commit == commits {
                    continue;
                }
                for (cell, add) in &forced.adds {
                    let amount = if commits { add.wrapping_neg() } else { *add };
                    self.expected.push(Added { node, cell: *cell, amount });
                }
            }
        }
    }

    /// A participant says that its branch has ended otherwise.
    pub(super) fn reports(&self, from: u32, key: BranchKey, heuristic: Heuristic) -> Checked {
        let forced = self.participants[from as usize].forced.get(&key);
        let against = forced.and_then(|forced| forced.decided);
        let says = match heuristic {
            Heuristic::Lost => None,
            Heuristic::Aborted => Some(true),
            Heuristic::Committed => Some(false),
        };
        ensure(says.is_some() && against == says, "I1", || {
            format!("n{from} says of its branch of {}: {heuristic}; its log says {forced:?}", key.1)
        })
    }

    /// A record of a coordinator's log about branches that ended otherwise.
    pub(super) fn heuristic_logged(&mut self, node: u32, record: &LogRecord<'_>) -> Checked {
        let what = |what: &str| {
            let at = record.sequence;
            Objection::new("legal", format!("n{node}: record {at}, tx_heuristic: {what}"))
        };
        let mut fields = Fields(record.payload);
        let (id, by) = (fields.id(), fields.coordinator());
        let tags = fields.extensions([tag::SHARD, tag::FOUND, tag::NODE, tag::FORCED]);
        let (Some(id), Some(by), Some([shard, found, on, audit])) = (id, by, tags) else {
            return Err(what("it is cut"));
        };
        if by.number() != u64::from(node) {
            return Err(what("it is another coordinator's"));
        }
        let listed = &mut self.coordinators[node as usize];
        match (found, array::<32>(shard), array::<32>(on)) {
            (Some([code @ 1..=3]), Some(shard), Some(on)) => {
                let shard = ShardId(shard).number();
                let on = base::NodeName(on).number();
                let forced = self.participants.get(on as usize);
                let key = (u64::from(node), id, shard);
                let decided = forced.and_then(|it| it.forced.get(&key)).and_then(|it| it.decided);
                let right = matches!((code, decided), (2, Some(true)) | (3, Some(false)));
                ensure(right, "I1", || {
                    format!(
                        "n{node} lists a branch of {id} at n{on} as {code}; its log: {decided:?}"
                    )
                })?;
                if !listed.listed.insert((id, shard)) {
                    return Err(what("it is listed already"));
                }
                if listed.reported.insert((id, shard))
                    && *code == 2
                    && let Some(spread) = listed.spread.get_mut(id)
                {
                    spread.missed += 1;
                }
                Ok(())
            }
            (Some([4]), None, None) if signed(audit) => {
                let before = listed.listed.len();
                listed.listed.retain(|(of, _)| *of != id);
                listed.seen_to.insert(id);
                ensure(listed.listed.len() < before, "legal", || {
                    format!("n{node} forgets what was reported of {id}, and nothing was")
                })
            }
            _ => Err(what("it says nothing that is known")),
        }
    }

    /// Whether what an operator is told is in the log.
    pub(super) fn has_intervened(&self, node: u32, told: &Intervened) -> bool {
        match told.of {
            Doubtful::Transaction(id) => {
                let coordinator = &self.coordinators[node as usize];
                match told.force {
                    Force::Forget => coordinator.seen_to.contains(&id),
                    Force::Gone(shard) => coordinator.listed.contains(&(id, shard.number())),
                    // No log is salvaged here, so that none is in doubt.
                    Force::Commit | Force::Abort => false,
                }
            }
            // No log is salvaged here, so that none is in doubt.
            Doubtful::Saga(_) => false,
            Doubtful::Branch(key) => {
                let of = (key.tx.coordinator.number(), key.tx.id, key.shard.number());
                let forced = self.participants[node as usize].forced.get(&of);
                match (told.force, forced) {
                    (Force::Commit, Some(forced)) => forced.commit,
                    (Force::Abort, Some(forced)) => !forced.commit,
                    (Force::Forget, Some(forced)) => forced.forgotten,
                    (Force::Gone(_), _) => false,
                    // It has turned out to be the transaction's decision meanwhile.
                    (_, None) => self.branch_ended(node, of).is_some(),
                }
            }
        }
    }

    /// Whose records these are, if they are those of a branch that an operator has ended at a node, all of
    /// them and as they were.
    ///
    /// # Errors
    /// What is wrong.
    pub fn forced_as_carried(&self, node: u32, records: &[u8]) -> Result<BranchKey, String> {
        let (mut rest, mut found, mut key) = (Fields(records), Vec::new(), None);
        while !rest.0.is_empty() {
            let (Some(at), Some(_ms), Some(event), Some(length)) =
                (rest.u64(), rest.u64(), rest.u8(), rest.u32())
            else {
                return Err("a record is cut".into());
            };
            let Some((payload, behind)) = rest.0.split_at_checked(length as usize) else {
                return Err("a record is cut".into());
            };
            rest = Fields(behind);
            found.push(summed(at, event, payload));
            key = key.or_else(|| branch_of(payload));
        }
        let key = key.ok_or("a branch that was forced has no name")?;
        let known = self.participants[node as usize].forced.get(&key).map(|it| &it.records);
        if known != Some(&found) {
            return Err(format!("what was forced of {} is carried otherwise: {found:?}", key.1));
        }
        Ok(key)
    }

    /// Whether a branch is one that an operator has ended, and has to be remembered.
    #[must_use]
    pub fn is_forced(&self, node: u32, key: BranchKey) -> bool {
        let forced = self.participants[node as usize].forced.get(&key);
        forced.is_some_and(|forced| !forced.forgotten)
    }
}

fn branch_of(payload: &[u8]) -> Option<(u64, OperationId, u64)> {
    let mut fields = Fields(payload);
    let (id, by) = (fields.id()?, fields.coordinator()?);
    let [shard] = fields.extensions([tag::SHARD])?;
    Some((by.number(), id, ShardId(array(shard)?).number()))
}
