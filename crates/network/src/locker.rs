//! What a node does for a client under locks of a table: takes them, writes what they guard, gives them back.
//!
//! | step | how |
//! |---|---|
//! | take | from the table, all or none; then each is verified |
//! | claim | a 2PC shows the tokens to the nodes that keep what the locks guard: from now on none of these takes a lower one |
//! | read | each is asked for its value: nobody with a lower token can change it any more |
//! | write | a 2PC makes each value one more than what was read, under the tokens |
//! | give back | to the table |
//!
//! A lease may end in the middle, since this node stood still, or cannot reach the table: then somebody else has the
//! lock and a higher token, and what this node wants to write is refused by whom it wants to write to. It begins
//! anew, with the age that it has. Without the claim a holder could read what one before it is still about to write.
//! A lease is renewed when half of it is over; a refusal of that is no news that counts, for the tokens decide.
//!
//! A client that asks again after its node has crashed has another errand done, beside the one that may have been.

use crate::StorageDisks;
use crate::message::{LockAnswer, Message};
use crate::node::{Answer, StorageNode};
use crate::operation::{Ended, Purpose};
use crate::transfer::request_key;
use crate::work::Work;
use base::{NodeName, ShardId, Time};
use locks::{Claim, Holder, Lease};
use node::{Branch, Work as Operation};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Stage {
    Acquiring,
    /// What is not verified yet.
    Verifying(BTreeSet<ShardId>),
    /// The tokens are shown to whoever is written to.
    Claiming,
    /// What was read so far.
    Reading(BTreeMap<ShardId, i64>),
    Writing,
    Releasing(BTreeSet<ShardId>),
}

#[derive(Clone, Debug)]
struct Errand {
    number: u64,
    table: NodeName,
    born: Time,
    /// Each with the node that keeps what it guards.
    shards: BTreeMap<ShardId, NodeName>,
    leases: Vec<Lease>,
    /// When half of the leases is over, at the latest.
    renew: Time,
    stage: Stage,
    again: Time,
    /// How often it has begun anew.
    attempt: u64,
}

impl Errand {
    fn claims(&self, holder: Holder) -> impl Iterator<Item = Claim> {
        self.leases.iter().map(move |lease| {
            let Lease { shard, token, tag, .. } = *lease;
            Claim { shard, holder, token, tag }
        })
    }
}

/// The errands under locks that a node does for its clients, by the number of the holder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locking(BTreeMap<u64, Errand>);

impl Locking {
    pub(crate) fn due(&self) -> Option<Time> {
        self.0.values().map(|errand| errand.again.min(errand.renew)).min()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl StorageNode {
    pub(crate) fn lock(
        &mut self,
        now: Time,
        number: u64,
        table: NodeName,
        shards: Vec<(ShardId, NodeName)>,
    ) {
        // The same number again: the client has not heard, and what is under way goes on.
        if self.locking.0.values().any(|errand| errand.number == number) {
            return;
        }
        let operation = self.draw_number();
        let errand = Errand {
            number,
            table,
            born: now,
            shards: shards.into_iter().collect(),
            leases: Vec::new(),
            renew: Time::NEVER,
            stage: Stage::Acquiring,
            again: now,
            attempt: 0,
        };
        self.locking.0.insert(operation, errand);
        self.say_again(now, operation);
    }

    /// What the errand is at is said, or said again.
    fn say_again(&mut self, now: Time, operation: u64) {
        let holder = Holder { node: self.name, operation };
        let Some(errand) = self.locking.0.get_mut(&operation) else { return };
        errand.again = now + self.config.patience;
        let table = errand.table;
        let with = |left: &BTreeSet<ShardId>, say: fn(Claim) -> locks::Message| {
            let claims = errand.claims(holder).filter(|claim| left.contains(&claim.shard));
            claims.map(|claim| (table, Message::Lock(Box::new(say(claim))))).collect()
        };
        let said: Vec<(NodeName, Message)> = match &errand.stage {
            Stage::Acquiring => {
                let shards = errand.shards.keys().copied().collect();
                let acquire = locks::Message::Acquire { holder, born: errand.born, shards };
                vec![(table, Message::Lock(Box::new(acquire)))]
            }
            Stage::Verifying(left) => with(left, |claim| locks::Message::Verify { claim }),
            Stage::Releasing(left) => with(left, |claim| locks::Message::Release { claim }),
            Stage::Reading(read) => {
                let left = errand.shards.iter().filter(|(shard, _)| !read.contains_key(shard));
                let read = |(shard, keeper): (&ShardId, &NodeName)| {
                    (*keeper, Message::Read { number: operation, shard: *shard })
                };
                left.map(read).collect()
            }
            // The coordinator asks again by itself.
            Stage::Claiming | Stage::Writing => Vec::new(),
        };
        said.into_iter().for_each(|(to, message)| self.send(to, message));
    }

    pub(crate) fn locked(
        &mut self,
        now: Time,
        from: NodeName,
        answer: LockAnswer,
        disks: &dyn StorageDisks,
    ) {
        let (LockAnswer::Granted { holder, .. }
        | LockAnswer::Refused { holder, .. }
        | LockAnswer::Released { holder, .. }
        | LockAnswer::Verified { holder, .. }) = answer;
        let operation = holder.operation;
        let half = self.config.locks.lease / 2;
        let Some(errand) = self.locking.0.get_mut(&operation) else { return };
        if holder.node != self.name || errand.table != from {
            return;
        }
        let all: BTreeSet<ShardId> = errand.shards.keys().copied().collect();
        match (&mut errand.stage, answer) {
            (Stage::Acquiring, LockAnswer::Granted { leases, .. })
                if leases.iter().map(|lease| lease.shard).collect::<BTreeSet<_>>() == all =>
            {
                errand.leases = leases;
                errand.renew = now + half;
                errand.stage = Stage::Verifying(all);
            }
            (Stage::Verifying(left), LockAnswer::Verified { shard, holds, .. }) => {
                if holds {
                    left.remove(&shard);
                    if !left.is_empty() {
                        return;
                    }
                    errand.stage = Stage::Claiming;
                    return self.write_guarded(now, operation, None, disks);
                }
                // The lease has ended meanwhile: it is taken anew.
                errand.stage = Stage::Acquiring;
            }
            // A lease that was renewed.
            (
                Stage::Claiming | Stage::Reading(_) | Stage::Writing,
                LockAnswer::Granted { leases, .. },
            ) => {
                for lease in leases {
                    let known = errand.leases.iter_mut().find(|known| known.token == lease.token);
                    if let Some(known) = known.filter(|known| known.shard == lease.shard) {
                        *known = lease;
                    }
                }
                return;
            }
            (Stage::Releasing(left), LockAnswer::Released { shard, .. }) => {
                left.remove(&shard);
                if !left.is_empty() {
                    return;
                }
                return self.done(operation);
            }
            // What was released before, and asked again, is not held any more.
            (Stage::Releasing(_), LockAnswer::Refused { waits: false, .. }) => {
                return self.done(operation);
            }
            _ => return,
        }
        self.say_again(now, operation);
    }

    /// A 2PC of all that keep what the locks guard: shows them the tokens, and changes what was read.
    fn write_guarded(
        &mut self,
        now: Time,
        operation: u64,
        values: Option<BTreeMap<ShardId, i64>>,
        disks: &dyn StorageDisks,
    ) {
        let Some(errand) = self.locking.0.get_mut(&operation) else { return };
        errand.again = Time::NEVER;
        let branch = |lease: &Lease| {
            let shard = lease.shard;
            let value = values.as_ref().and_then(|values| values.get(&shard));
            let value = value.map(|value| value.wrapping_add(1));
            let work = Work::Guarded { shard, token: lease.token, value };
            Branch { shard, node: errand.shards[&shard], work: work.encode() }
        };
        let branches = errand.leases.iter().map(branch).collect();
        let attempt = errand.attempt;
        let about = [operation, attempt, u64::from(values.is_some())].map(u64::to_le_bytes);
        let key = request_key(b'g', &[&self.name.0, &about[0], &about[1], &about[2]]);
        let purpose = Purpose::Guarded { operation, attempt };
        self.operate(now, key, purpose, Operation::Transaction(branches), disks);
    }

    /// A 2PC of an errand has ended.
    pub(crate) fn guarded_ended(&mut self, now: Time, operation: u64, attempt: u64, ended: Ended) {
        let Some(errand) = self.locking.0.get_mut(&operation) else { return };
        if errand.attempt != attempt {
            return;
        }
        match (&errand.stage, ended) {
            (Stage::Claiming, Ended::Done) => errand.stage = Stage::Reading(BTreeMap::new()),
            (Stage::Writing, Ended::Done) => {
                self.stats.guarded += errand.shards.len() as u64;
                errand.stage = Stage::Releasing(errand.shards.keys().copied().collect());
            }
            // A higher token was seen, or somebody is not there, or nobody can say: whatever was done, it is read
            // again under the lock.
            (Stage::Claiming | Stage::Writing, _) => {
                errand.attempt += 1;
                errand.stage = Stage::Acquiring;
                errand.renew = Time::NEVER;
                errand.again = now + self.config.patience / 5;
                return;
            }
            _ => return,
        }
        self.say_again(now, operation);
    }

    /// Somebody reads what a lock guards here. While a promise about it waits for its outcome nothing is said: it
    /// asks again.
    pub(crate) fn read_guarded(&mut self, now: Time, from: NodeName, number: u64, shard: ShardId) {
        let Some(host) = self.transactions.participant() else { return };
        let cells = crate::work::guarded_cells(shard);
        if cells.iter().all(|cell| host.locks().is_free(now, *cell)) {
            let value = host.store().value(crate::work::guarded(shard));
            self.send(from, Message::Value { number, shard, value });
        }
    }

    /// What a lock guards, by whoever keeps it.
    pub(crate) fn value_read(
        &mut self,
        now: Time,
        from: NodeName,
        (number, shard, value): (u64, ShardId, i64),
        disks: &dyn StorageDisks,
    ) {
        let Some(errand) = self.locking.0.get_mut(&number) else { return };
        if errand.shards.get(&shard) != Some(&from) {
            return;
        }
        let Stage::Reading(read) = &mut errand.stage else { return };
        read.insert(shard, value);
        if read.len() == errand.shards.len() {
            let values = std::mem::take(read);
            errand.stage = Stage::Writing;
            self.write_guarded(now, number, Some(values), disks);
        }
    }

    fn done(&mut self, operation: u64) {
        if let Some(errand) = self.locking.0.remove(&operation) {
            let locks = errand.shards.len() as u32;
            self.tell(errand.number, Answer::Locked { locks });
        }
    }

    pub(crate) fn locks_wake(&mut self, now: Time) {
        let half = self.config.locks.lease / 2;
        let due = |errand: &Errand| errand.again <= now || errand.renew <= now;
        let late = self.locking.0.iter().filter(|(_, errand)| due(errand));
        for operation in late.map(|(operation, _)| *operation).collect::<Vec<u64>>() {
            let holder = Holder { node: self.name, operation };
            let errand = &self.locking.0[&operation];
            let table = errand.table;
            let gone = errand.shards.values().chain([&table]).any(|node| self.is_dead(*node));
            if gone {
                self.give_up(operation);
                continue;
            }
            if errand.renew <= now {
                let claims: Vec<Claim> = errand.claims(holder).collect();
                for claim in claims {
                    self.send(table, Message::Lock(Box::new(locks::Message::Renew { claim })));
                }
                self.locking.0.entry(operation).and_modify(|errand| errand.renew = now + half);
            }
            if self.locking.0[&operation].again <= now {
                self.say_again(now, operation);
            }
        }
    }

    /// The table is gone, and its locks with it, or somebody who keeps what they guard is: nothing can be written.
    fn give_up(&mut self, operation: u64) {
        let holder = Holder { node: self.name, operation };
        let Some(errand) = self.locking.0.remove(&operation) else { return };
        let said: Vec<locks::Message> = match errand.stage {
            Stage::Acquiring => vec![locks::Message::Withdraw { holder }],
            _ => errand.claims(holder).map(|claim| locks::Message::Release { claim }).collect(),
        };
        let said = said.into_iter().map(|message| Message::Lock(Box::new(message)));
        said.for_each(|message| self.send(errand.table, message));
        self.tell(errand.number, Answer::Failed);
    }
}
