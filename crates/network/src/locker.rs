//! Taking locks at a table for a client: acquired, verified, given back.

use crate::message::{LockAnswer, Message};
use crate::node::{Answer, StorageNode};
use base::{NodeName, ShardId, Time};
use locks::{Claim, Holder, Lease};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Stage {
    Acquiring,
    /// What is not verified yet.
    Verifying(BTreeSet<ShardId>),
    Releasing(BTreeSet<ShardId>),
}

#[derive(Clone, Debug)]
struct Errand {
    number: u64,
    table: NodeName,
    born: Time,
    shards: Vec<ShardId>,
    leases: Vec<Lease>,
    stage: Stage,
    again: Time,
}

/// The locks that a node takes for its clients, by the number of the holder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locking(BTreeMap<u64, Errand>);

impl Locking {
    pub(crate) fn due(&self) -> Option<Time> {
        self.0.values().map(|errand| errand.again).min()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl StorageNode {
    pub(crate) fn lock(&mut self, now: Time, number: u64, table: NodeName, shards: Vec<ShardId>) {
        // The same number again: the client has not heard, and what is under way goes on.
        if self.locking.0.values().any(|errand| errand.number == number) {
            return;
        }
        let operation = self.draw_number();
        let (leases, stage) = (Vec::new(), Stage::Acquiring);
        let errand = Errand { number, table, born: now, shards, leases, stage, again: now };
        self.locking.0.insert(operation, errand);
        self.say_again(now, operation);
    }

    /// What the errand is at is said, or said again.
    fn say_again(&mut self, now: Time, operation: u64) {
        let holder = Holder { node: self.name, operation };
        let Some(errand) = self.locking.0.get_mut(&operation) else { return };
        errand.again = now + self.config.patience;
        let claims = |left: &BTreeSet<ShardId>| -> Vec<Claim> {
            let leases = errand.leases.iter().filter(|lease| left.contains(&lease.shard));
            let claim = |lease: &Lease| {
                let Lease { shard, token, tag, .. } = *lease;
                Claim { shard, holder, token, tag }
            };
            leases.map(claim).collect()
        };
        let said: Vec<locks::Message> = match &errand.stage {
            Stage::Acquiring => {
                let (born, shards) = (errand.born, errand.shards.clone());
                vec![locks::Message::Acquire { holder, born, shards }]
            }
            Stage::Verifying(left) => {
                claims(left).into_iter().map(|claim| locks::Message::Verify { claim }).collect()
            }
            Stage::Releasing(left) => {
                claims(left).into_iter().map(|claim| locks::Message::Release { claim }).collect()
            }
        };
        let table = errand.table;
        said.into_iter().for_each(|message| self.send(table, Message::Lock(message)));
    }

    pub(crate) fn locked(&mut self, now: Time, from: NodeName, answer: LockAnswer) {
        let (LockAnswer::Granted { holder, .. }
        | LockAnswer::Refused { holder, .. }
        | LockAnswer::Released { holder, .. }
        | LockAnswer::Verified { holder, .. }) = answer;
        let operation = holder.operation;
        let Some(errand) = self.locking.0.get_mut(&operation) else { return };
        if holder.node != self.name || errand.table != from {
            return;
        }
        let all: BTreeSet<ShardId> = errand.shards.iter().copied().collect();
        match (&mut errand.stage, answer) {
            (Stage::Acquiring, LockAnswer::Granted { leases, .. }) => {
                errand.leases = leases;
                errand.stage = Stage::Verifying(all);
            }
            (Stage::Verifying(left), LockAnswer::Verified { shard, holds, .. }) => {
                if holds {
                    left.remove(&shard);
                    if !left.is_empty() {
                        return;
                    }
                    errand.stage = Stage::Releasing(all);
                } else {
                    // The lease has ended meanwhile: it is taken anew.
                    errand.stage = Stage::Acquiring;
                }
            }
            (Stage::Releasing(left), LockAnswer::Released { shard, .. }) => {
                left.remove(&shard);
                if !left.is_empty() {
                    return;
                }
                self.done(operation);
                return;
            }
            // What was released before, and asked again, is not held any more.
            (Stage::Releasing(_), LockAnswer::Refused { waits: false, .. }) => {
                self.done(operation);
                return;
            }
            _ => return,
        }
        self.say_again(now, operation);
    }

    fn done(&mut self, operation: u64) {
        if let Some(errand) = self.locking.0.remove(&operation) {
            let locks = errand.shards.len() as u32;
            self.tell(errand.number, Answer::Locked { locks });
        }
    }

    pub(crate) fn locks_wake(&mut self, now: Time) {
        let late = self.locking.0.iter().filter(|(_, errand)| errand.again <= now);
        for operation in late.map(|(operation, _)| *operation).collect::<Vec<u64>>() {
            let table = self.locking.0[&operation].table;
            if self.is_dead(table) {
                // Its locks went with it.
                let number = self.locking.0.remove(&operation).map_or(0, |errand| errand.number);
                self.tell(number, Answer::Failed);
            } else {
                self.say_again(now, operation);
            }
        }
    }
}
