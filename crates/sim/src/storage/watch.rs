//! What messages show: whether leases exclude each other, and whether repairs keep to their rate.
//!
//! | rule | |
//! |---|---|
//! | S7 | a table grants nothing that somebody else has a living lease on, its tokens grow with every grant, over its restarts too, and it takes no claim under another token or with another tag |
//! | S9 | in each of its lives a node has no more shards rebuilt, moved or encoded anew than it may |
//! | S16 | a node has at most four requests for bytes under way to another one, and uses no connection for longer than a request is |
//! | S15 | no version of a record but the first names a holder that has not said before that it read its shard and found it right |
//!
//! All are told by what a node sends, whoever receives it. Nothing of a table or a planner is asked.

use base::{NodeName, ShardId, Time};
use locks::{Claim, FencingToken, Holder};
use network::{FileRecord, LockAnswer, Message};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::Digest;

/// Whoever shows claims that nobody was given: no node of the world.
pub const FORGER: u32 = u32::MAX - 1;

/// How many requests for bytes one node has under way to another one at most.
const CONNECTIONS: usize = 4;

/// The period of the token buckets.
const PERIOD: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Lease {
    holder: Holder,
    token: FencingToken,
    until: Time,
}

/// What was seen of one table's lock.
#[derive(Clone, Copy, Debug, Default)]
struct Lock {
    living: Option<Lease>,
    highest: FencingToken,
}

/// What one node has had rebuilt since it started.
#[derive(Clone, Debug, Default)]
struct Rebuilt {
    since: Time,
    shards: BTreeSet<Digest>,
}

/// What has been seen of all nodes.
#[derive(Clone, Debug)]
pub struct Watch {
    /// What each of a node's token buckets gives in a minute: for repairs, for moves, and for shards of files that
    /// are encoded anew.
    per_minute: [u32; 3],
    patience: Duration,
    /// Requests for bytes without an answer, by who asked whom: when each was sent.
    asked: BTreeMap<(u32, NodeName), BTreeMap<u64, Time>>,
    locks: BTreeMap<(u32, ShardId), Lock>,
    rebuilt: BTreeMap<u32, Rebuilt>,
    /// Who has read which shard and found it right when it was asked, or was named by a first version.
    verified: BTreeSet<(NodeName, Digest)>,
    /// How many grants were seen, and how many of them of a lock that another operation had had.
    pub grants: (u64, u64),
    /// How many forged claims were answered.
    pub forgeries: u64,
}

/// A rule, and how it was broken.
pub type Broken = (&'static str, String);

impl Watch {
    /// Nothing has been seen.
    #[must_use]
    pub fn new(per_minute: [u32; 3], patience: Duration) -> Watch {
        let (asked, locks, rebuilt, verified) = Default::default();
        let (grants, forgeries) = ((0, 0), 0);
        Watch { per_minute, patience, asked, locks, rebuilt, verified, grants, forgeries }
    }

    /// A node has started: its bucket is full, and it has asked nobody for anything.
    pub fn started(&mut self, now: Time, node: u32) {
        let (first, last) = (NodeName([0; 32]), NodeName([255; 32]));
        let before: Vec<_> =
            self.asked.range((node, first)..=(node, last)).map(|(both, _)| *both).collect();
        before.iter().for_each(|both| drop(self.asked.remove(both)));
        self.rebuilt.insert(node, Rebuilt { since: now, shards: BTreeSet::new() });
    }

    /// A node sends a message.
    ///
    /// # Errors
    /// What it shows to be wrong.
    pub fn sent(
        &mut self,
        now: Time,
        from: u32,
        to: NodeName,
        message: &Message,
    ) -> Result<(), Broken> {
        match message {
            Message::Locked(answer) => self.answered(now, from, to, answer),
            Message::Scrub { digest } => self.rebuilt(now, from, *digest),
            Message::Scrubbed { digest, healthy: true } => {
                self.verified.insert((NodeName::numbered(u64::from(from)), *digest));
                Ok(())
            }
            Message::Bytes { bytes: Some(bytes), .. } => self.named(from, bytes),
            Message::Get { number, .. } => self.asks(now, from, to, *number),
            _ => Ok(()),
        }
    }

    /// A node asks another one for bytes.
    fn asks(&mut self, now: Time, from: u32, to: NodeName, number: u64) -> Result<(), Broken> {
        let patience = self.patience;
        let asked = self.asked.entry((from, to)).or_default();
        asked.retain(|_, sent| *sent + patience > now);
        asked.insert(number, now);
        if asked.len() > CONNECTIONS {
            let count = asked.len();
            return Err(("S16", format!("n{from} asks {to} for {count} things at once")));
        }
        Ok(())
    }

    /// An answer to that has come; whether it was still waited for.
    pub fn answered_bytes(&mut self, now: Time, to: u32, from: NodeName, number: u64) -> bool {
        let Some(asked) = self.asked.get_mut(&(to, from)) else { return false };
        let sent = asked.remove(&number);
        if asked.is_empty() {
            self.asked.remove(&(to, from));
        }
        sent.is_some_and(|sent| sent + self.patience >= now)
    }

    /// How many requests to a node may still be answered in time.
    #[must_use]
    pub fn asked_of(&self, now: Time, from: u32, to: NodeName) -> u32 {
        let asked = self.asked.get(&(from, to)).into_iter().flatten();
        asked.filter(|(_, sent)| **sent + self.patience >= now).count() as u32
    }

    fn answered(
        &mut self,
        now: Time,
        table: u32,
        to: NodeName,
        answer: &LockAnswer,
    ) -> Result<(), Broken> {
        match answer {
            LockAnswer::Granted { holder, leases } => {
                for lease in leases {
                    self.granted(now, table, *holder, lease)?;
                }
                Ok(())
            }
            LockAnswer::Released { holder, shard } => {
                if let Some(lock) = self.locks.get_mut(&(table, *shard)) {
                    lock.living = lock.living.filter(|lease| lease.holder != *holder);
                }
                Ok(())
            }
            LockAnswer::Verified { holds, shard, .. }
                if to == NodeName::numbered(u64::from(FORGER)) =>
            {
                self.forgeries += 1;
                if *holds {
                    let what = format!("n{table} takes a forged claim of {shard:?}");
                    return Err(("S7", what));
                }
                Ok(())
            }
            LockAnswer::Refused { .. } | LockAnswer::Verified { .. } => Ok(()),
        }
    }

    fn granted(
        &mut self,
        now: Time,
        table: u32,
        holder: Holder,
        lease: &locks::Lease,
    ) -> Result<(), Broken> {
        let lock = self.locks.entry((table, lease.shard)).or_default();
        let living = lock.living.filter(|living| living.until > now);
        if let Some(living) = living
            && living.holder != holder
        {
            let what = format!(
                "n{table} grants {:?} to {holder:?} although {:?} has it until {}",
                lease.shard, living.holder, living.until
            );
            return Err(("S7", what));
        }
        let again = lock.living.is_some_and(|it| it.holder == holder && it.token == lease.token);
        if !again {
            self.grants.1 += u64::from(lock.highest != FencingToken::default());
            if lease.token <= lock.highest {
                let what = format!(
                    "n{table} grants {:?} under {:?} after {:?}",
                    lease.shard, lease.token, lock.highest
                );
                return Err(("S7", what));
            }
        }
        self.grants.0 += 1;
        lock.highest = lock.highest.max(lease.token);
        lock.living = Some(Lease { holder, token: lease.token, until: lease.until });
        Ok(())
    }

    /// Bytes are given out that may be a file's record.
    fn named(&mut self, from: u32, bytes: &[u8]) -> Result<(), Broken> {
        let Ok(record) = FileRecord::decode(bytes) else { return Ok(()) };
        let mut shards = record.shards().map(|(.., shard, node)| (node, shard.digest));
        if record.version == 1 {
            self.verified.extend(shards);
            return Ok(());
        }
        match shards.find(|named| !self.verified.contains(named)) {
            Some((node, digest)) => {
                let version = record.version;
                let what = format!(
                    "n{from} has version {version} name {node:?} for {digest}, which it has not verified"
                );
                Err(("S15", what))
            }
            None => Ok(()),
        }
    }

    fn rebuilt(&mut self, now: Time, node: u32, shard: Digest) -> Result<(), Broken> {
        let rebuilt = self.rebuilt.entry(node).or_default();
        rebuilt.shards.insert(shard);
        let lived = now.since(rebuilt.since).as_nanos();
        let given =
            |bucket: u32| u128::from(bucket) + u128::from(bucket) * lived / PERIOD.as_nanos();
        let [repairs, moves, encoded] = self.per_minute;
        let given = given(repairs.max(1)) + given(moves) + given(encoded);
        let count = rebuilt.shards.len() as u128;
        if count > given {
            let since = rebuilt.since;
            let what = format!(
                "n{node} has had {count} shards rebuilt or moved since {since}: {given} may"
            );
            return Err(("S9", what));
        }
        Ok(())
    }
}

/// Claims like those of a grant, which nobody was given: under the token before, and with the tag of
/// another shard.
#[must_use]
pub fn forged(holder: Holder, leases: &[locks::Lease]) -> Vec<Claim> {
    let mut claims = Vec::new();
    if let Some(first) = leases.first() {
        let token = FencingToken(first.token.0.wrapping_sub(1));
        claims.push(Claim { shard: first.shard, holder, token, tag: first.tag });
        if let Some(other) = leases.get(1) {
            claims.push(Claim { shard: first.shard, holder, token: first.token, tag: other.tag });
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::prng::Key;
    use locks::Hypervector;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn tag() -> Hypervector {
        let key = Key::root(1);
        let mut table =
            locks::LockTable::new(locks::Config::default(), &key, base::BootCount(1), Time::ZERO);
        let holder = holder(1);
        let shards = vec![ShardId::numbered(1)];
        let message = locks::Message::Acquire { holder, born: Time::ZERO, shards };
        let mut out = Vec::new();
        table.handle(Time::ZERO, holder.node, &message, &mut out);
        match out.pop() {
            Some(locks::Output::Granted { leases, .. }) => leases[0].tag,
            other => panic!("it is free: {other:?}"),
        }
    }

    fn holder(operation: u64) -> Holder {
        Holder { node: NodeName::numbered(operation), operation }
    }

    fn grant(operation: u64, token: u64, until: u64) -> Message {
        let shard = ShardId::numbered(1);
        let lease =
            locks::Lease { shard, token: FencingToken(token), until: at(until), tag: tag() };
        Message::Locked(LockAnswer::Granted { holder: holder(operation), leases: vec![lease] })
    }

    fn rules(messages: &[(u64, Message)]) -> Option<&'static str> {
        let mut watch = Watch::new([2, 0, 0], Duration::from_secs(5));
        watch.started(Time::ZERO, 7);
        let to = NodeName::numbered(1);
        messages.iter().find_map(|(time, message)| {
            watch.sent(at(*time), 7, to, message).err().map(|(rule, _)| rule)
        })
    }

    #[test]
    fn leases_exclude_each_other_and_tokens_grow() {
        let released = Message::Locked(LockAnswer::Released {
            holder: holder(1),
            shard: ShardId::numbered(1),
        });
        assert_eq!(rules(&[(0, grant(1, 1, 60)), (1, grant(1, 1, 60))]), None, "told again");
        assert_eq!(rules(&[(0, grant(1, 1, 60)), (59, grant(2, 2, 119))]), Some("S7"));
        assert_eq!(rules(&[(0, grant(1, 1, 60)), (60, grant(2, 2, 120))]), None, "it has ended");
        let given_back = [(0, grant(1, 1, 60)), (1, released), (2, grant(2, 2, 62))];
        assert_eq!(rules(&given_back), None);
        assert_eq!(rules(&[(0, grant(1, 5, 60)), (60, grant(2, 5, 120))]), Some("S7"));
        assert_eq!(rules(&[(0, grant(1, 5, 60)), (60, grant(2, 4, 120))]), Some("S7"));
    }

    #[test]
    fn a_forged_claim_must_not_hold() {
        let answer = |holds| {
            let (holder, shard) = (holder(1), ShardId::numbered(1));
            Message::Locked(LockAnswer::Verified { holder, shard, holds })
        };
        let forger = NodeName::numbered(u64::from(FORGER));
        let mut watch = Watch::new([2, 0, 0], Duration::from_secs(5));
        assert_eq!(watch.sent(at(0), 7, forger, &answer(false)), Ok(()));
        assert_eq!(watch.sent(at(0), 7, NodeName::numbered(1), &answer(true)), Ok(()));
        assert_eq!(watch.sent(at(0), 7, forger, &answer(true)).map_err(|it| it.0), Err("S7"));
        assert_eq!(watch.forgeries, 2);
    }

    #[test]
    fn more_than_four_requests_for_bytes_at_once_are_too_many() {
        let get = |number| Message::Get { digest: Digest([1; 32]), number };
        let four: Vec<(u64, Message)> = (1..=4).map(|number| (0, get(number))).collect();
        let with = |more: (u64, Message)| [four.clone(), vec![more]].concat();
        assert_eq!(rules(&with((4, get(5)))), Some("S16"));
        assert_eq!(rules(&with((5, get(5)))), None, "the others are not waited for any more");
        let mut watch = Watch::new([2, 0, 0], Duration::from_secs(5));
        let to = NodeName::numbered(1);
        for (time, message) in &four {
            assert_eq!(watch.sent(at(*time), 7, to, message), Ok(()));
        }
        assert!(watch.answered_bytes(at(1), 7, to, 2) && !watch.answered_bytes(at(1), 7, to, 2));
        assert_eq!(watch.asked_of(at(1), 7, to), 3);
        assert_eq!(watch.sent(at(1), 7, to, &get(5)), Ok(()));
    }

    #[test]
    fn more_repairs_than_tokens_are_too_many() {
        let scrub = |n: u8| Message::Scrub { digest: Digest([n; 32]) };
        assert_eq!(rules(&[(0, scrub(1)), (0, scrub(2)), (1, scrub(2))]), None, "read again");
        assert_eq!(rules(&[(0, scrub(1)), (0, scrub(2)), (29, scrub(3))]), Some("S9"));
        assert_eq!(rules(&[(0, scrub(1)), (0, scrub(2)), (30, scrub(3))]), None);
    }
}
