//! What is sent: nothing that is not durable, nothing that was not decided.

use super::super::ledger::{Checked, Objection, Opened};
use super::coordinators::Coordinator;
use super::participants::{Promise, Spread};
use super::{Facts, ensure, seen, store};
use base::{CoordinatorId, OperationId};
use coordinator::{LogSlot, Message};
use twopc::{PeerVerdict, Verdict, Vote, Watermark};

impl Facts {
    // ---- messages ----

    /// A message leaves a node. `opened` says who has durably opened each node's logs.
    ///
    /// # Errors
    /// What it says does not rest on anything durable, or contradicts it.
    pub fn sent(
        &mut self,
        from: u32,
        to: u32,
        message: &Message,
        opened: &[[Opened; 2]],
    ) -> Checked {
        match message {
            Message::Transaction(message) => {
                let by = self.known(message.key().coordinator)?;
                if let Some(sent) = message.coordinator_epoch() {
                    self.commands(from, to, by, sent.value(), opened)?;
                }
                self.transaction(from, by, message, opened)?;
                match message {
                    twopc::Message::Vote { key, .. } | twopc::Message::Ack { key, .. } => {
                        self.answers(from, by, key.id)
                    }
                    _ => Ok(()),
                }
            }
            Message::StepCall { key, epoch: sent, call, .. } => {
                let by = self.known(key.coordinator)?;
                self.commands(from, to, by, sent.value(), opened)?;
                let newest = opened[by as usize][LogSlot::Coordinator as usize].epoch;
                self.step_called(to, by, key.id, call, sent.value(), newest)
            }
            Message::StepReply { key, step, direction, answer, .. } => {
                let by = self.known(key.coordinator)?;
                self.step_answered(from, by, key.id, *step, *direction, answer)?;
                self.answers(from, by, key.id)
            }
            Message::Announce { store: id, boot } => {
                announces(from, id.0, boot.0, store(opened, from))
            }
            Message::Finished { coordinator, epoch, watermark } => {
                let by = self.known(*coordinator)?;
                self.commands(from, to, by, epoch.value(), opened)?;
                self.finished(by, watermark)
            }
            Message::Hello | Message::AskFinished => Ok(()),
        }
    }

    pub(super) fn known(&self, coordinator: CoordinatorId) -> Result<u32, Box<Objection>> {
        let number = coordinator.number();
        if number < self.coordinators.len() as u64 {
            Ok(number as u32)
        } else {
            Err(Objection::new("gate", format!("a message of an unknown {coordinator:?}")))
        }
    }

    /// A coordinator speaks for itself, and only under an epoch that is durable.
    fn commands(
        &mut self,
        from: u32,
        to: u32,
        by: u32,
        sent: u32,
        opened: &[[Opened; 2]],
    ) -> Checked {
        ensure(from == by, "gate", || format!("n{from} speaks as coordinator n{by}"))?;
        let epoch = opened[by as usize][LogSlot::Coordinator as usize].epoch;
        ensure((1..=epoch).contains(&sent), "G17", || {
            format!("n{from} speaks under epoch {sent}; durable are those up to {epoch}")
        })?;
        let seen = seen(&self.coordinators[by as usize].seen, to);
        self.seen.stale_epoch_sent += u64::from(sent < seen);
        Ok(())
    }

    /// A coordinator says which of its operations are finished: the records that ended them are durable, and
    /// it will draw no id among them.
    pub(super) fn finished(&self, by: u32, mark: &Watermark) -> Checked {
        let Coordinator { model, .. } = &self.coordinators[by as usize];
        let covered = |id: &OperationId| *id <= mark.highest() && !mark.active().contains(id);
        let sagas = model.sagas.iter().filter(|(_, saga)| saga.ended.is_none());
        let transactions = model.transactions.iter().filter(|(_, tx)| tx.ended.is_none());
        let open = sagas.map(|(id, _)| id).chain(transactions.map(|(id, _)| id)).find(covered);
        ensure(open.is_none(), "finished", || {
            format!("n{by} says that {open:?} is finished; its log does not")
        })
    }

    /// A coordinator is answered only once its epoch is durable where the answer comes from: else a
    /// crash there would forget it, and a process of before that epoch could command again. An answer
    /// names no epoch. That of the operation's id is the lowest that can have asked, so what is
    /// answered to a later epoch of the same coordinator is not held against that one.
    pub(super) fn answers(&self, from: u32, by: u32, id: OperationId) -> Checked {
        let seen = seen(&self.coordinators[by as usize].seen, from);
        let asked = id.epoch().value();
        ensure(seen >= asked, "gate", || {
            format!(
                "n{from} answers epoch {asked} of n{by} about {id}; durable there is epoch {seen}"
            )
        })
    }

    pub(super) fn transaction(
        &mut self,
        from: u32,
        by: u32,
        message: &twopc::Message,
        opened: &[[Opened; 2]],
    ) -> Checked {
        use twopc::Message as M;
        let id = message.key().id;
        let Coordinator { model, spread, .. } = &mut self.coordinators[by as usize];
        match message {
            // Once it has left, only its participant's answer ends it: its beginning must not be lost.
            M::Prepare { one_phase: true, .. } | M::Resolve { .. } => {
                self.seen.resolved += u64::from(matches!(message, M::Resolve { .. }));
                let tx = model.transactions.get(id);
                ensure(tx.is_some_and(|tx| tx.one_phase), "gate", || {
                    format!("n{from} leaves transaction {id} to its participant: not durably so")
                })
            }
            M::Prepare { .. } | M::Inquiry { .. } | M::PeerInquiry { .. } => Ok(()),
            M::Noted { shard, .. } => {
                let listed =
                    self.coordinators[by as usize].reported.contains(&(id, shard.number()));
                ensure(listed, "gate", || {
                    format!("n{from} has noted a branch of transaction {id}: not durably so")
                })
            }
            M::Commit { .. } | M::Answer { verdict: Verdict::Committed, .. } => {
                ensure(spread.get(id).is_some_and(|spread| spread.committing), "gate", || {
                    format!("n{from} says that transaction {id} commits: not durably so")
                })
            }
            M::Abort { .. } | M::Answer { verdict: Verdict::Aborted, .. } => {
                let spread = spread.entry(id, Spread::new);
                ensure(!spread.committing, "I3", || {
                    format!("n{from} says that transaction {id} aborts; it has decided to commit")
                })?;
                spread.abort_said = true;
                Ok(())
            }
            M::Answer { .. } => Ok(()),
            M::Vote { shard, vote, store: named, boot, .. } => {
                let own = store(opened, from);
                announces(from, named.0, boot.0, own)?;
                let branch = spread.get(id).and_then(|spread| spread.branch_at(*shard, from));
                let tx = model.transactions.get(id);
                match vote {
                    Vote::ReadOnly => {
                        let promise = branch.map(|branch| branch.promise);
                        // A replaced process does not know what its successor promised.
                        let replaced = boot.0 < own.epoch;
                        ensure(
                            replaced || matches!(promise, None | Some(Promise::ReadOnly)),
                            "G14",
                            || {
                                format!(
                                    "n{from} has nothing to change in transaction {id}, and {promise:?}"
                                )
                            },
                        )?;
                        self.seen.read_only_vote += 1;
                        let spread = spread.entry(id, Spread::new);
                        if !spread.read_only.contains(&shard.number()) {
                            spread.read_only.push(shard.number());
                        }
                        Ok(())
                    }
                    // In one phase the answer is the end of it.
                    _ if tx.is_some_and(|tx| tx.one_phase) => {
                        let expected = match vote {
                            Vote::Commit => Promise::Committed,
                            Vote::Abort | Vote::ReadOnly => Promise::Aborted,
                        };
                        let promise = branch.map(|branch| branch.promise);
                        self.seen.one_phase_refused += u64::from(*vote == Vote::Abort);
                        ensure(promise == Some(expected), "gate", || {
                            format!(
                                "n{from} says {vote:?} of transaction {id}; it has {promise:?} durably"
                            )
                        })
                    }
                    // An ABORT may have come while the promise was on its way to the disk.
                    Vote::Commit => {
                        ensure(branch.is_some_and(|branch| branch.prepared), "gate", || {
                            format!("n{from} votes YES for transaction {id} without a promise")
                        })
                    }
                    Vote::Abort => {
                        let committed = branch.is_some_and(|b| b.promise == Promise::Committed);
                        // A replaced process does not know what its successor promised: it says NO
                        // to a PREPARE that names another boot. The first vote counts.
                        let replaced = boot.0 < own.epoch;
                        ensure(!committed || replaced, "G14", || {
                            format!("n{from} votes NO for transaction {id} and has committed it")
                        })
                    }
                }
            }
            M::Ack { shard, heuristic, .. } => {
                if let Some(heuristic) = heuristic {
                    return self.reports(from, (u64::from(by), id, shard.number()), *heuristic);
                }
                let key = (u64::from(by), id, shard.number());
                ensure(!self.participants[from as usize].forced.contains_key(&key), "I1", || {
                    format!("n{from} acknowledges transaction {id}, which an operator has ended")
                })?;
                let promise = spread.get(id).and_then(|spread| spread.promise(*shard, from));
                ensure(promise == Some(Promise::Committed), "gate", || {
                    format!("n{from} acknowledges transaction {id}; it has {promise:?} durably")
                })
            }
            M::PeerAnswer { verdict, .. } => {
                // It does not say for which of its shards it answers.
                let expected = match verdict {
                    PeerVerdict::Committed => Promise::Committed,
                    PeerVerdict::Aborted => Promise::Aborted,
                    PeerVerdict::Prepared | PeerVerdict::Unknown | PeerVerdict::Finished => {
                        return Ok(());
                    }
                };
                self.seen.peer_decided += 1;
                let has = spread.get(id).is_some_and(|spread| {
                    let forced = &self.participants[from as usize].forced;
                    spread.branches.iter().filter(|branch| branch.node == from).any(|branch| {
                        match forced.get(&(u64::from(by), id, branch.shard)) {
                            None => branch.promise == expected,
                            // What an operator decides here is decided nowhere else.
                            Some(forced) => forced.decided == Some(expected == Promise::Committed),
                        }
                    })
                });
                ensure(has, "gate", || {
                    format!("n{from} tells a peer {verdict:?} of transaction {id}: not durably so")
                })
            }
        }
    }
}

/// A node names its own store, and no boot that is not durable.
fn announces(node: u32, id: u64, boot: u32, store: Opened) -> Checked {
    let Opened { log_id: own, epoch: boots } = store;
    ensure(id == own && (1..=boots).contains(&boot), "gate", || {
        format!("n{node} says that its store is {id:x}, boot {boot}; it is {own:x}, boot {boots}")
    })
}
