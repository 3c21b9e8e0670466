//! The table: who has which shard, until when, and who waits.

use crate::hypervector::{Hypervector, Vectors};
use base::prng::Key;
use base::{BootCount, NodeName, Ratio, ShardId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who takes locks: one operation of one node. An operation that begins anew is another holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// Where it runs.
    pub node: NodeName,
    /// Its number at that node, over all of the node's lives.
    pub operation: u64,
}

/// Grows with every grant of a table, over its restarts too: whoever shows a lower one has lost the
/// lock since. What is locked has to compare it: see [`Fence`](crate::Fence).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub u64);

/// The numbers of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a grant holds unless it is renewed: 60 s.
    pub lease: Duration,
    /// How many locks a holder has at most: 64.
    pub locks_max_per_holder: u32,
    /// How long a request waits at most: 30 s.
    pub wait_max: Duration,
    /// How many requests wait at most: 1,024.
    pub waiting_max: u32,
    /// The cosine from which on a tag is recognised: 0.85.
    pub similarity: Ratio,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            lease: Duration::from_secs(60),
            locks_max_per_holder: 64,
            wait_max: Duration::from_secs(30),
            waiting_max: 1_024,
            similarity: Ratio::percent(85),
        }
    }
}

/// What a holder has been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// On what.
    pub shard: ShardId,
    /// Under which token.
    pub token: FencingToken,
    /// Until when, exclusive, on the table's clock.
    pub until: Time,
    /// bind(shard, holder).
    pub tag: Hypervector,
}

/// What shows that somebody has a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// On what.
    pub shard: ShardId,
    /// Who has it.
    pub holder: Holder,
    /// Under which token.
    pub token: FencingToken,
    /// The tag of its grant, as it arrived.
    pub tag: Hypervector,
}

/// What a table is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Take these locks, all or none, wait for them if the holder is older than all that have them.
    /// What the holder has of them already it keeps, under the same token. Sent again, it is
    /// answered again.
    Acquire {
        /// For whom.
        holder: Holder,
        /// When the operation began: its age, the same at every table and after every refusal.
        born: Time,
        /// Which.
        shards: Vec<ShardId>,
    },
    /// Begin the lease anew.
    Renew {
        /// Which.
        claim: Claim,
    },
    /// Give it back.
    Release {
        /// Which.
        claim: Claim,
    },
    /// Stop waiting.
    Withdraw {
        /// Who.
        holder: Holder,
    },
    /// Is that so? Anybody may ask.
    Verify {
        /// What.
        claim: Claim,
    },
}

/// What a table says, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The holder has all that it asked for.
    Granted {
        /// To its node.
        holder: Holder,
        /// What, in the order of the shards.
        leases: Vec<Lease>,
    },
    /// The holder's request waits; it is granted or refused by then.
    Waits {
        /// To its node.
        holder: Holder,
        /// By when.
        until: Time,
    },
    /// It gets none of what it asked for.
    Refused {
        /// To its node.
        holder: Holder,
        /// Why.
        refusal: Refusal,
    },
    /// It was given back.
    Released {
        /// To its node.
        holder: Holder,
        /// What.
        shard: ShardId,
    },
    /// It is so.
    Verified {
        /// To whom.
        to: NodeName,
        /// What.
        shard: ShardId,
        /// By whom.
        holder: Holder,
        /// Until when.
        until: Time,
    },
    /// It is not so.
    NotVerified {
        /// To whom.
        to: NodeName,
        /// What is not.
        shard: ShardId,
        /// Whose it is not.
        holder: Holder,
        /// Why.
        refusal: Refusal,
    },
}

/// Why something is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// An older operation has one of the shards or waits for it: a younger one does not wait for an
    /// older. Give back what you have, and ask again with the same age; that makes you the oldest in
    /// time.
    #[error("{shard:?} is with an older operation")]
    Older {
        /// Which shard.
        shard: ShardId,
    },
    /// It has waited for [`Config::wait_max`].
    #[error("it has waited long enough")]
    WaitedTooLong,
    /// Ask for less, or give something back.
    #[error("a holder has at most {max} locks")]
    TooMany {
        /// How many.
        max: u32,
    },
    /// Ask again later.
    #[error("{max} requests wait")]
    Crowded {
        /// How many may.
        max: u32,
    },
    /// The table has started a short time ago, and leases of its last life may still hold.
    #[error("leases from before the table's restart end at {until}")]
    Restarting {
        /// Ask again then.
        until: Time,
    },
    /// Nobody has this lock, or the holder does no more: its lease is over.
    #[error("the holder does not have it")]
    NotHeld,
    /// The token is not that of the grant.
    #[error("the token is not the one of the grant")]
    WrongToken,
    /// The tag is not that of this shard and this holder.
    #[error("the tag is not the one of the grant")]
    WrongTag,
    /// The message does not come from the holder's node.
    #[error("it comes from another node than the holder's")]
    NotYours,
    /// Nothing was asked for.
    #[error("no shard is named")]
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    holder: Holder,
    age: Age,
    token: FencingToken,
    until: Time,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiting {
    age: Age,
    shards: BTreeSet<ShardId>,
    until: Time,
}

/// The lower is the older. Of two that began at once the holder's name decides.
type Age = (Time, Holder);

/// Exclusive locks on shards, of one node, with leases.
///
/// # Deadlocks
///
/// Wait-die (Rosenkrantz, Stearns and Lewis, 1978). A request waits only for younger operations;
/// if an older one has a shard or waits for it, the request is refused at once. So every wait goes
/// from older to younger, over any number of tables that know nothing of each other, and no circle
/// can close. A refused operation keeps its age, so it is the oldest at last, and the oldest is
/// never refused for its age. Taking locks in one global order would need every holder to know all
/// of its shards, at all nodes, before its first request; a repair that finds out what to lock while
/// it runs does not. Within one request shards are taken all or none.
///
/// A wait ends after [`Config::wait_max`] whatever happens, and a lease after [`Config::lease`].
///
/// # Crashes
///
/// A holder that dies is not asked: its leases end. The table keeps nothing on disk. After a restart
/// it grants nothing for the length of one lease, since those of its last life may still hold, and its
/// tokens go on from a higher [`BootCount`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockTable {
    config: Config,
    vectors: Vectors,
    locks: BTreeMap<ShardId, Held>,
    by_end: BTreeSet<(Time, ShardId)>,
    held: BTreeMap<Holder, BTreeSet<ShardId>>,
    waiting: BTreeMap<Holder, Waiting>,
    waiting_by_end: BTreeSet<(Time, Holder)>,
    wanted: BTreeMap<ShardId, BTreeSet<Age>>,
    last_token: FencingToken,
    grants_from: Time,
    stats: Stats,
}

/// What a table has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Locks granted.
    pub granted: u64,
    /// Locks given back.
    pub released: u64,
    /// Leases that ended by themselves.
    pub lapsed: u64,
    /// Requests that waited.
    pub waited: u64,
    /// Requests refused for their age.
    pub died: u64,
    /// Tags that were not recognised.
    pub wrong_tags: u64,
}

const COUNTER_BITS: u32 = 40;

impl LockTable {
    /// A table at the start of its node, which was opened `boot` times, this one included.
    ///
    /// # Panics
    /// If `boot` needs more than 24 bits, as no epoch does.
    #[must_use]
    pub fn new(config: Config, key: &Key, boot: BootCount, now: Time) -> LockTable {
        assert!(boot.0 < 1 << (64 - COUNTER_BITS), "a boot count has 24 bits");
        LockTable {
            config,
            vectors: Vectors::new(key),
            locks: BTreeMap::new(),
            by_end: BTreeSet::new(),
            held: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_by_end: BTreeSet::new(),
            wanted: BTreeMap::new(),
            last_token: FencingToken(u64::from(boot.0) << COUNTER_BITS),
            grants_from: if boot.0 <= 1 { now } else { now + config.lease },
            stats: Stats::default(),
        }
    }

    /// A message has come from a node.
    pub fn handle(&mut self, now: Time, from: NodeName, message: &Message, out: &mut Vec<Output>) {
        self.tick(now, out);
        match *message {
            Message::Acquire { holder, born, ref shards } => {
                if let Err(refusal) = self.acquire(now, from, holder, born, shards, out) {
                    out.push(Output::Refused { holder, refusal });
                }
            }
            Message::Renew { ref claim } => match self.renew(now, from, claim) {
                Ok(lease) => {
                    out.push(Output::Granted { holder: claim.holder, leases: vec![lease] });
                }
                Err(refusal) => out.push(Output::Refused { holder: claim.holder, refusal }),
            },
            Message::Release { ref claim } => match self.release(from, claim) {
                Ok(()) => {
                    out.push(Output::Released { holder: claim.holder, shard: claim.shard });
                    self.serve(now, BTreeSet::from([claim.shard]), out);
                }
                Err(refusal) => out.push(Output::Refused { holder: claim.holder, refusal }),
            },
            Message::Withdraw { holder } => {
                if from == holder.node
                    && let Some(waiting) = self.stop_waiting(holder)
                {
                    self.serve(now, waiting.shards, out);
                }
            }
            Message::Verify { ref claim } => {
                let Claim { shard, holder, .. } = *claim;
                out.push(match self.check(claim) {
                    Ok(until) => Output::Verified { to: from, shard, holder, until },
                    Err(refusal) => Output::NotVerified { to: from, shard, holder, refusal },
                });
            }
        }
    }

    /// Time has passed: leases end, waits end, and whoever waits for what is free gets it.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Output>) {
        let mut free = BTreeSet::new();
        while let Some(&(until, shard)) = self.by_end.first()
            && until <= now
        {
            self.free(shard);
            self.stats.lapsed += 1;
            free.insert(shard);
        }
        while let Some(&(until, holder)) = self.waiting_by_end.first()
            && until <= now
        {
            if let Some(waiting) = self.stop_waiting(holder) {
                free.extend(waiting.shards);
                out.push(Output::Refused { holder, refusal: Refusal::WaitedTooLong });
            }
        }
        self.serve(now, free, out);
    }

    /// When [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        let lease = self.by_end.first().map(|(until, _)| *until);
        Time::earliest(lease, self.waiting_by_end.first().map(|(until, _)| *until))
    }

    fn acquire(
        &mut self,
        now: Time,
        from: NodeName,
        holder: Holder,
        born: Time,
        shards: &[ShardId],
        out: &mut Vec<Output>,
    ) -> Result<(), Refusal> {
        if from != holder.node {
            return Err(Refusal::NotYours);
        }
        if now < self.grants_from {
            return Err(Refusal::Restarting { until: self.grants_from });
        }
        let shards: BTreeSet<ShardId> = shards.iter().copied().collect();
        if shards.is_empty() {
            return Err(Refusal::Nothing);
        }
        // What it asked before is replaced by what it asks now.
        if let Some(before) = self.waiting.get(&holder) {
            if before.shards == shards {
                out.push(Output::Waits { holder, until: before.until });
                return Ok(());
            }
            if let Some(before) = self.stop_waiting(holder) {
                self.serve(now, before.shards, out);
            }
        }
        let max = self.config.locks_max_per_holder;
        let has = self.held.get(&holder);
        let more = shards.iter().filter(|shard| has.is_none_or(|has| !has.contains(shard))).count();
        if has.map_or(0, BTreeSet::len) + more > max as usize {
            return Err(Refusal::TooMany { max });
        }
        let age = (born, holder);
        if let Some(shard) = self.older(&shards, age) {
            self.stats.died += 1;
            return Err(Refusal::Older { shard });
        }
        if self.is_free_for(&shards, holder) {
            self.grant(now, &shards, age, out);
            return Ok(());
        }
        let max = self.config.waiting_max;
        if self.waiting.len() >= max as usize {
            return Err(Refusal::Crowded { max });
        }
        let until = now + self.config.wait_max;
        for &shard in &shards {
            self.wanted.entry(shard).or_default().insert(age);
        }
        self.waiting.insert(holder, Waiting { age, shards, until });
        self.waiting_by_end.insert((until, holder));
        self.stats.waited += 1;
        out.push(Output::Waits { holder, until });
        Ok(())
    }

    /// A shard that an older operation has or waits for.
    fn older(&self, shards: &BTreeSet<ShardId>, age: Age) -> Option<ShardId> {
        let others = |shard: &ShardId| {
            let held = self.locks.get(shard);
            let held = held.is_some_and(|held| held.holder != age.1 && held.age < age);
            // What it holds itself it does not lose to who waits.
            let mine = self.locks.get(shard).is_some_and(|held| held.holder == age.1);
            let oldest = self.wanted.get(shard).and_then(BTreeSet::first);
            held || !mine && oldest.is_some_and(|oldest| *oldest < age)
        };
        shards.iter().copied().find(others)
    }

    fn is_free_for(&self, shards: &BTreeSet<ShardId>, holder: Holder) -> bool {
        let free = |shard| self.locks.get(shard).is_none_or(|held| held.holder == holder);
        shards.iter().all(free)
    }

    /// Gives all of them. Whoever waits for one and is younger would wait for an older one now.
    fn grant(&mut self, now: Time, shards: &BTreeSet<ShardId>, age: Age, out: &mut Vec<Output>) {
        let holder = age.1;
        let mut leases = Vec::with_capacity(shards.len());
        let mut young = BTreeSet::new();
        let key = self.vectors.holder(holder);
        for &shard in shards {
            if !self.locks.contains_key(&shard) {
                self.last_token.0 += 1;
                assert!(
                    self.last_token.0.trailing_zeros() < COUNTER_BITS,
                    "a life of a table has fewer than 2^40 grants"
                );
                let (token, until) = (self.last_token, now + self.config.lease);
                self.locks.insert(shard, Held { holder, age, token, until });
                self.by_end.insert((until, shard));
                self.held.entry(holder).or_default().insert(shard);
                self.stats.granted += 1;
            }
            let held = self.locks[&shard];
            assert_eq!(held.holder, holder, "a lock has one holder");
            let tag = self.vectors.shard(shard).bind(&key);
            leases.push(Lease { shard, token: held.token, until: held.until, tag });
            let waiting = self.wanted.get(&shard).into_iter().flatten();
            young.extend(waiting.filter(|other| **other > age).map(|other| (other.1, shard)));
        }
        out.push(Output::Granted { holder, leases });
        for (other, shard) in young {
            if self.stop_waiting(other).is_some() {
                self.stats.died += 1;
                out.push(Output::Refused { holder: other, refusal: Refusal::Older { shard } });
            }
        }
    }

    /// These shards may have become free, or free of who waited: the oldest first, everyone who now
    /// gets all that it waits for. Nobody stands in the way of the others only because it waits: else
    /// an older one could be waited for after all.
    fn serve(&mut self, now: Time, shards: BTreeSet<ShardId>, out: &mut Vec<Output>) {
        let mut ready: BTreeSet<Age> = BTreeSet::new();
        for shard in &shards {
            ready.extend(self.wanted.get(shard).into_iter().flatten());
        }
        for age in ready {
            let Some(waiting) = self.waiting.get(&age.1) else { continue };
            if self.is_free_for(&waiting.shards, age.1) {
                let waiting = self.stop_waiting(age.1).expect("it was just there");
                self.grant(now, &waiting.shards, age, out);
            }
        }
    }

    fn stop_waiting(&mut self, holder: Holder) -> Option<Waiting> {
        let waiting = self.waiting.remove(&holder)?;
        self.waiting_by_end.remove(&(waiting.until, holder));
        for shard in &waiting.shards {
            if let Some(wanted) = self.wanted.get_mut(shard) {
                wanted.remove(&waiting.age);
                if wanted.is_empty() {
                    self.wanted.remove(shard);
                }
            }
        }
        Some(waiting)
    }

    fn free(&mut self, shard: ShardId) {
        let held = self.locks.remove(&shard).expect("the caller found it");
        self.by_end.remove(&(held.until, shard));
        if let Some(shards) = self.held.get_mut(&held.holder) {
            shards.remove(&shard);
            if shards.is_empty() {
                self.held.remove(&held.holder);
            }
        }
    }

    /// Until when the claim is good. The lease and the token decide; the tag has to fit too.
    fn check(&mut self, claim: &Claim) -> Result<Time, Refusal> {
        let held = self.locks.get(&claim.shard).filter(|held| held.holder == claim.holder);
        let held = held.ok_or(Refusal::NotHeld)?;
        if held.token != claim.token {
            return Err(Refusal::WrongToken);
        }
        let until = held.until;
        let Claim { shard, holder, .. } = *claim;
        if !self.vectors.verify(&claim.tag, shard, holder, self.config.similarity) {
            self.stats.wrong_tags += 1;
            return Err(Refusal::WrongTag);
        }
        Ok(until)
    }

    fn renew(&mut self, now: Time, from: NodeName, claim: &Claim) -> Result<Lease, Refusal> {
        if from != claim.holder.node {
            return Err(Refusal::NotYours);
        }
        let before = self.check(claim)?;
        let Claim { shard, holder, token, .. } = *claim;
        let until = now + self.config.lease;
        self.by_end.remove(&(before, shard));
        self.by_end.insert((until, shard));
        self.locks.get_mut(&shard).expect("the claim was checked").until = until;
        Ok(Lease { shard, token, until, tag: self.vectors.tag(shard, holder) })
    }

    fn release(&mut self, from: NodeName, claim: &Claim) -> Result<(), Refusal> {
        if from != claim.holder.node {
            return Err(Refusal::NotYours);
        }
        self.check(claim)?;
        self.free(claim.shard);
        self.stats.released += 1;
        Ok(())
    }

    /// Every lock that is held at `now`, in the order of the shards: by whom, under which token, until
    /// when.
    pub fn held(&self, now: Time) -> impl Iterator<Item = (ShardId, Holder, FencingToken, Time)> {
        let held = self.locks.iter().filter(move |(_, held)| held.until > now);
        held.map(|(&shard, held)| (shard, held.holder, held.token, held.until))
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        u32::try_from(self.waiting.len()).expect("at most waiting_max")
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// # Panics
    /// If two of its lists disagree, or somebody waits for an older one. Cost: all of them.
    pub fn audit(&self) {
        assert_eq!(self.locks.len(), self.by_end.len());
        assert_eq!(self.locks.len(), self.held.values().map(BTreeSet::len).sum::<usize>());
        assert_eq!(self.waiting.len(), self.waiting_by_end.len());
        let wanted: usize = self.waiting.values().map(|waiting| waiting.shards.len()).sum();
        assert_eq!(wanted, self.wanted.values().map(BTreeSet::len).sum::<usize>());
        for (shard, held) in &self.locks {
            assert!(self.by_end.contains(&(held.until, *shard)));
            assert!(self.held[&held.holder].contains(shard));
            for age in self.wanted.get(shard).into_iter().flatten() {
                assert!(age.1 == held.holder || *age < held.age, "a younger one waits: {shard:?}");
            }
        }
    }
}
