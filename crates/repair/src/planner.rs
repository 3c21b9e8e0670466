use crate::{Admission, BadCopies, Breaker, BreakerConfig, TokenBucket};
use base::{NodeName, Time};
use erasure::{Codec, Scheme};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use store::Digest;

/// The numbers of a [`RepairPlanner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Shards that may be rebuilt within [`Config::period`]. Default 10.
    pub shards: u32,
    /// Shards that lie in the wrong place and may be moved within it. Default 4.
    pub moves: u32,
    /// The token bucket's period. Default 60 s.
    pub period: Duration,
    /// The circuit breaker. Default 5 failures, 300 s.
    pub breaker: BreakerConfig,
    /// Plans under way at once: each holds up to k + m shards in memory. Default 4.
    pub plans_max: u32,
    /// Stripes that wait, at most. Default 65,536.
    pub queue_max: u32,
    /// How long a node has for one answer. Default 30 s.
    pub answer_max: Duration,
    /// How often a stripe is tried before it is given up. Default 5.
    pub attempts_max: u32,
    /// How long it waits before the second attempt; twice as long before each later one. Default 60 s.
    pub retry_after: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            shards: 10,
            moves: 4,
            period: Duration::from_secs(60),
            breaker: BreakerConfig::default(),
            plans_max: 4,
            queue_max: 65_536,
            answer_max: Duration::from_secs(30),
            attempts_max: 5,
            retry_after: Duration::from_secs(60),
        }
    }
}

/// One chunk of a file: what is repaired together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StripeId {
    /// The file's manifest.
    pub manifest: Digest,
    /// The chunk in it.
    pub chunk: u32,
}

/// One attempt at one stripe. Numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlanId(pub u64);

/// A copy of a shard that is believed to be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The shard's place in its stripe.
    pub index: u16,
    /// Who has it.
    pub node: NodeName,
}

/// Why shards of a stripe are to be somewhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// They are lost, and rebuilt from any `k` others.
    Lost,
    /// They lie in the wrong place, and are copied from there. It is tried once, and only while nothing is
    /// lost.
    Misplaced,
}

/// A stripe that lacks shards, and what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which stripe.
    pub stripe: StripeId,
    /// Its scheme.
    pub scheme: Scheme,
    /// The `k + m` shards' names, from the manifest.
    pub digests: Vec<Digest>,
    /// Why they are to be replaced.
    pub need: Need,
    /// The places of shards to replace.
    pub lost: BTreeSet<u16>,
    /// Copies that are believed to be good, the preferred ones first.
    pub sources: Vec<Source>,
    /// Nodes that can be given a shard, the preferred ones first: the placement policy's choice. Those
    /// among the sources are passed over, and those whose copy is bad come last.
    pub candidates: Vec<NodeName>,
}

/// A report that no repair can follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// The names are not `k + m`, or a place is not below that.
    #[error("the damage does not fit its scheme {scheme}")]
    Shape {
        /// The scheme.
        scheme: Scheme,
    },
    /// Nothing is lost.
    #[error("no shard is lost")]
    NothingLost,
    /// It can wait: the stripe is repaired, or waits for it, already.
    #[error("the stripe has something else to wait for")]
    Busy,
    /// As many stripes wait as may: report it again later.
    #[error("{waiting} stripes wait for repair, as many as may")]
    QueueFull {
        /// How many.
        waiting: u32,
    },
}

/// What a planner wants done. Each want but the last three is answered by a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask a node for a shard: [`RepairPlanner::fetched`].
    Fetch {
        /// For which plan.
        plan: PlanId,
        /// The copy.
        source: Source,
        /// The shard.
        shard: Digest,
    },
    /// Give a node a shard, durably: [`RepairPlanner::stored`].
    Store {
        /// For which plan.
        plan: PlanId,
        /// Its place in the stripe.
        index: u16,
        /// Who is to have it.
        node: NodeName,
        /// Its name.
        shard: Digest,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Have a node read its new copy again: [`RepairPlanner::scrubbed`].
    Scrub {
        /// For which plan.
        plan: PlanId,
        /// Its place in the stripe.
        index: u16,
        /// Who has it.
        node: NodeName,
        /// Its name.
        shard: Digest,
    },
    /// A node's copy was found to be bad. The planner has told the [`BadCopies`] that it was given.
    Bad {
        /// Whose copy.
        node: NodeName,
        /// Of which shard.
        shard: Digest,
    },
    /// A shard is there again, read and found right by its new holder: record it as such.
    Repaired {
        /// The stripe.
        stripe: StripeId,
        /// The place in it.
        index: u16,
        /// The new holder.
        node: NodeName,
        /// The shard.
        shard: Digest,
    },
    /// A stripe was given up; report it again when something has changed.
    GaveUp {
        /// The stripe.
        stripe: StripeId,
        /// What is still lost.
        lost: BTreeSet<u16>,
        /// Why the last attempt failed.
        why: GaveUp,
    },
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// Fewer than `k` good shards could be had.
    TooFewSources,
    /// No candidate took, kept and verified a shard.
    NoPlace,
    /// The shards are what the manifest names, and what is rebuilt from them is not: the manifest is wrong.
    Inconsistent,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Attempts that began.
    pub attempts: u64,
    /// Attempts that did not repair all they were for.
    pub failed: u64,
    /// Shards that were repaired and verified.
    pub repaired: u64,
    /// Stripes that were given up.
    pub gave_up: u64,
    /// Attempts whose sources, each of them right, rebuilt something else than the manifest says: it lies.
    pub inconsistent: u64,
    /// Bytes of shards that came from sources, bad ones included.
    pub fetched_bytes: u64,
    /// Bytes of shards that were sent to new holders.
    pub stored_bytes: u64,
    /// Bytes that a repair without any failure would have moved: `k` shards to each attempt that
    /// repaired something, and each repaired shard once.
    pub minimum_bytes: u64,
    /// Shards that lay in the wrong place, and were moved and verified.
    pub moved: u64,
    /// Moves that came to nothing.
    pub not_moved: u64,
    /// Bytes that moves have fetched and stored. No other number counts these.
    pub moved_bytes: u64,
}

impl Stats {
    fn fetched(&mut self, need: Need) -> &mut u64 {
        match need {
            Need::Lost => &mut self.fetched_bytes,
            Need::Misplaced => &mut self.moved_bytes,
        }
    }

    fn stored(&mut self, need: Need) -> &mut u64 {
        match need {
            Need::Lost => &mut self.stored_bytes,
            Need::Misplaced => &mut self.moved_bytes,
        }
    }
}

#[derive(Clone, Debug)]
struct Job {
    damage: Damage,
    attempts: u32,
    not_before: Time,
}

#[derive(Clone, Debug)]
struct Plan {
    job: Job,
    /// A repair's.
    admission: Option<Admission>,
    /// What this plan repairs: as many of the lost as there were tokens.
    lost: BTreeSet<u16>,
    spare: VecDeque<Source>,
    /// Fetches under way, with their deadlines.
    asked: BTreeMap<Source, Time>,
    got: BTreeMap<u16, Vec<u8>>,
    candidates: VecDeque<NodeName>,
    /// Shards on their way to a holder.
    placing: BTreeMap<u16, Placing>,
    shard_bytes: u64,
    repaired: u64,
    why: Option<GaveUp>,
}

#[derive(Clone, Debug)]
struct Placing {
    node: NodeName,
    bytes: Vec<u8>,
    scrubbing: bool,
    deadline: Time,
}

/// Brings stripes back to their full number of shards, the most endangered one first, within a token bucket
/// (a token per shard) and a circuit breaker (an attempt that fails is a failure).
///
/// An attempt has three steps, and a shell may run them as a saga's: fetch any `k` good shards and
/// rebuild; store each lost shard on a candidate; have the candidate read it again. Bytes are checked
/// against the manifest's digests when they come and before they leave, so a corrupt copy is never a
/// source. A source or candidate that fails, lies or is silent for [`Config::answer_max`] is replaced
/// by the next one, and each is asked at most once in an attempt: so an attempt ends. Attempts are
/// counted: so a repair ends.
///
/// A shard that lies in the wrong place takes the same three steps, but for the rebuilding: its own copy is its
/// source, and is checked like any other. It has a bucket of its own, and begins only while no stripe that
/// lacks something waits or is repaired.
#[derive(Clone, Debug)]
pub struct RepairPlanner {
    config: Config,
    queue: BTreeMap<StripeId, Job>,
    plans: BTreeMap<PlanId, Plan>,
    last: u64,
    bucket: TokenBucket,
    moves: TokenBucket,
    breaker: Breaker,
    codec: Codec,
    stats: Stats,
}

impl RepairPlanner {
    /// A planner with nothing to do.
    #[must_use]
    pub fn new(config: Config) -> RepairPlanner {
        RepairPlanner {
            bucket: TokenBucket::new(config.shards, config.period),
            moves: TokenBucket::new(config.moves, config.period),
            breaker: Breaker::new(config.breaker),
            config,
            queue: BTreeMap::new(),
            plans: BTreeMap::new(),
            last: 0,
            codec: Codec::new(),
            stats: Stats::default(),
        }
    }

    /// A stripe is damaged. What is reported later about a stripe that waits takes the older report's
    /// place; a stripe that is being repaired is looked at again afterwards.
    ///
    /// # Errors
    /// [`Unusable`]: the report contradicts itself, or too many wait.
    pub fn report(&mut self, now: Time, damage: Damage) -> Result<(), Unusable> {
        let (scheme, total) = (damage.scheme, damage.scheme.total());
        let sources = damage.sources.iter().map(|source| source.index);
        let mut places = damage.lost.iter().copied().chain(sources);
        if damage.digests.len() != usize::from(total) || places.any(|index| index >= total) {
            return Err(Unusable::Shape { scheme });
        }
        if damage.lost.is_empty() {
            return Err(Unusable::NothingLost);
        }
        let waiting = self.queue.len() as u32;
        let busy = self.plans.values().any(|plan| plan.job.damage.stripe == damage.stripe);
        if damage.need == Need::Misplaced
            && (busy || self.config.moves == 0 || self.queue.contains_key(&damage.stripe))
        {
            return Err(Unusable::Busy);
        }
        match self.queue.get_mut(&damage.stripe) {
            // Its attempts stay: who reports often does not hurry.
            Some(job) => job.damage = damage,
            None if waiting >= self.config.queue_max => {
                return Err(Unusable::QueueFull { waiting });
            }
            None => {
                let job = Job { attempts: 0, not_before: now, damage };
                self.queue.insert(job.damage.stripe, job);
            }
        }
        Ok(())
    }

    /// Of the stripes that are named nothing is repaired any more; what is under way ends.
    pub fn forget(&mut self, of: impl Fn(&StripeId) -> bool) {
        self.queue.retain(|stripe, _| !of(stripe));
        let plans = self.plans.values_mut().map(|plan| &mut plan.job);
        for job in plans.filter(|job| of(&job.damage.stripe)) {
            job.attempts = self.config.attempts_max;
        }
    }

    /// Begins what may begin, and gives up waiting for those who are silent. Call it when
    /// [`RepairPlanner::next_wake`] says so, and after reports.
    pub fn poll(&mut self, now: Time, bad: &mut BadCopies, out: &mut Vec<Output>) {
        self.time_out(now, bad, out);
        while (self.plans.len() as u32) < self.config.plans_max
            && let Some(stripe) = self.most_endangered(now)
            && self.bucket.available(now) > 0
            && let Some(admission) = self.breaker.admit(now)
        {
            let job = self.queue.remove(&stripe).expect("most_endangered has found it there");
            self.begin(now, job, Some(admission), bad, out);
        }
        while self.moves_may_begin()
            && self.moves.available(now) > 0
            && let Some(stripe) = self.queue.keys().next().copied()
            && let Some(job) = self.queue.remove(&stripe)
        {
            self.begin(now, job, None, bad, out);
        }
    }

    /// Whether nothing that is lost waits or is under way, and there is room.
    fn moves_may_begin(&self) -> bool {
        (self.plans.len() as u32) < self.config.plans_max && self.moves().0
    }

    /// What a source gave; `None` if it refused.
    pub fn fetched(
        &mut self,
        now: Time,
        plan: PlanId,
        source: Source,
        bytes: Option<Vec<u8>>,
        bad: &mut BadCopies,
        out: &mut Vec<Output>,
    ) {
        let Some(at) = self.plans.get_mut(&plan) else { return };
        if at.asked.remove(&source).is_none() {
            return;
        }
        if let Some(bytes) = bytes {
            *self.stats.fetched(at.job.damage.need) += bytes.len() as u64;
            let shard = at.job.damage.digests[usize::from(source.index)];
            if Digest::of(&bytes) == shard {
                at.got.insert(source.index, bytes);
            } else {
                bad.learn(source.node, shard, false);
                out.push(Output::Bad { node: source.node, shard });
            }
        }
        self.go_on(now, plan, out);
    }

    /// Whether a candidate has a shard durably now.
    pub fn stored(
        &mut self,
        now: Time,
        plan: PlanId,
        index: u16,
        node: NodeName,
        durable: bool,
        out: &mut Vec<Output>,
    ) {
        let Some(at) = self.plans.get_mut(&plan) else { return };
        let Some(placing) = at.placing.get_mut(&index) else { return };
        if placing.node != node || placing.scrubbing {
            return;
        }
        if durable {
            placing.scrubbing = true;
            placing.deadline = now + self.config.answer_max;
            let shard = at.job.damage.digests[usize::from(index)];
            out.push(Output::Scrub { plan, index, node, shard });
        } else {
            self.place_elsewhere(now, plan, index, out);
            self.finish(now, plan, out);
        }
    }

    /// What a new holder has found when it read its copy again.
    pub fn scrubbed(
        &mut self,
        now: Time,
        plan: PlanId,
        (index, node): (u16, NodeName),
        healthy: bool,
        bad: &mut BadCopies,
        out: &mut Vec<Output>,
    ) {
        let Some(at) = self.plans.get_mut(&plan) else { return };
        let Some(placing) = at.placing.get(&index) else { return };
        if placing.node != node || !placing.scrubbing {
            return;
        }
        let shard = at.job.damage.digests[usize::from(index)];
        bad.learn(node, shard, healthy);
        if healthy {
            at.placing.remove(&index);
            at.job.damage.lost.remove(&index);
            at.job.damage.sources.push(Source { index, node });
            at.repaired += 1;
            match at.job.damage.need {
                Need::Lost => self.stats.repaired += 1,
                Need::Misplaced => self.stats.moved += 1,
            }
            out.push(Output::Repaired { stripe: at.job.damage.stripe, index, node, shard });
        } else {
            out.push(Output::Bad { node, shard });
            self.place_elsewhere(now, plan, index, out);
        }
        self.finish(now, plan, out);
    }

    /// When to poll next; `None` while there is nothing to do.
    #[must_use]
    pub fn next_wake(&self, now: Time) -> Option<Time> {
        let asked = self.plans.values().flat_map(|plan| plan.asked.values().copied());
        let placing = self.plans.values().flat_map(|plan| plan.placing.values());
        let answers = asked.chain(placing.map(|placing| placing.deadline)).min();
        // A stripe that a plan is at waits for that plan's answers.
        let busy: BTreeSet<StripeId> =
            self.plans.values().map(|plan| plan.job.damage.stripe).collect();
        let free = self
            .queue
            .iter()
            .filter(|(stripe, job)| !busy.contains(stripe) && job.damage.need == Need::Lost);
        let ready = free.map(|(_, job)| job.not_before).min();
        let begin = ready.map(|ready| {
            let token = self.bucket.next_token(now);
            match self.breaker.position(now) {
                crate::Position::Open { until } => ready.max(token).max(until),
                _ => ready.max(token),
            }
        });
        // A full house, or a trial under way, begins something when an answer comes, or is missing.
        let full = self.plans.len() as u32 >= self.config.plans_max;
        let trial = self.breaker.position(now) == crate::Position::HalfOpen;
        let begin = begin.filter(|_| !(full || trial && !self.plans.is_empty()));
        let moves = !self.queue.is_empty() && self.moves_may_begin();
        let moves = moves.then(|| self.moves.next_token(now));
        Time::earliest(answers, Time::earliest(begin, moves))
    }

    /// Whether nothing that is lost waits or is being rebuilt, and how many moves wait.
    #[must_use]
    pub fn moves(&self) -> (bool, u32) {
        let plans = self.plans.values().map(|plan| &plan.job);
        let mut all = plans.chain(self.queue.values());
        let idle = all.all(|job| job.damage.need == Need::Misplaced);
        let waits = self.queue.values().filter(|job| job.damage.need == Need::Misplaced).count();
        (idle, waits as u32)
    }

    /// Stripes that wait or are being repaired.
    #[must_use]
    pub fn pending(&self) -> u64 {
        (self.queue.len() + self.plans.len()) as u64
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Where the circuit breaker is.
    #[must_use]
    pub fn breaker(&self, now: Time) -> crate::Position {
        self.breaker.position(now)
    }

    /// Of the stripes whose time has come and that no plan is at, the one with the fewest spare shards.
    fn most_endangered(&self, now: Time) -> Option<StripeId> {
        let busy: BTreeSet<StripeId> =
            self.plans.values().map(|plan| plan.job.damage.stripe).collect();
        let ready = self.queue.iter();
        ready
            .filter(|(stripe, job)| {
                job.damage.need == Need::Lost && job.not_before <= now && !busy.contains(stripe)
            })
            .min_by_key(|(stripe, job)| {
                let left: BTreeSet<u16> =
                    job.damage.sources.iter().map(|source| source.index).collect();
                (left.len() as i64 - i64::from(job.damage.scheme.data()), job.not_before, **stripe)
            })
            .map(|(&stripe, _)| stripe)
    }

    fn begin(
        &mut self,
        now: Time,
        mut job: Job,
        admission: Option<Admission>,
        bad: &BadCopies,
        out: &mut Vec<Output>,
    ) {
        job.attempts += 1;
        self.stats.attempts += u64::from(job.damage.need == Need::Lost);
        let damage = &job.damage;
        let bucket = match damage.need {
            Need::Lost => &mut self.bucket,
            Need::Misplaced => &mut self.moves,
        };
        let tokens = bucket.take(now, damage.lost.len() as u32);
        let lost: BTreeSet<u16> = damage.lost.iter().copied().take(tokens as usize).collect();
        let name = |index: u16| damage.digests[usize::from(index)];
        let good = |source: &&Source| !bad.is_bad(source.node, name(source.index));
        let spare: VecDeque<Source> = damage.sources.iter().filter(good).copied().collect();
        let holders: BTreeSet<NodeName> = spare.iter().map(|source| source.node).collect();
        let is_bad = |node: &NodeName| damage.digests.iter().any(|&shard| bad.is_bad(*node, shard));
        let mut free: Vec<NodeName> = Vec::new();
        for &node in &damage.candidates {
            if !holders.contains(&node) && !free.contains(&node) {
                free.push(node);
            }
        }
        let (last, first): (Vec<_>, Vec<_>) = free.into_iter().partition(is_bad);
        self.last += 1;
        let id = PlanId(self.last);
        let plan = Plan {
            job,
            admission,
            lost,
            spare,
            asked: BTreeMap::new(),
            got: BTreeMap::new(),
            candidates: first.into_iter().chain(last).collect(),
            placing: BTreeMap::new(),
            shard_bytes: 0,
            repaired: 0,
            why: None,
        };
        self.plans.insert(id, plan);
        self.go_on(now, id, out);
    }

    /// Asks for as many shards as are missing; rebuilds once there are `k`.
    fn go_on(&mut self, now: Time, id: PlanId, out: &mut Vec<Output>) {
        let Some(plan) = self.plans.get_mut(&id) else { return };
        let k = match plan.job.damage.need {
            Need::Lost => usize::from(plan.job.damage.scheme.data()),
            Need::Misplaced => plan.lost.len(),
        };
        if !plan.placing.is_empty() || plan.why.is_some() || plan.shard_bytes > 0 {
            return;
        }
        while plan.got.len() + plan.asked.len() < k
            && let Some(source) = plan.spare.pop_front()
        {
            // One copy of a shard at a time.
            let index = source.index;
            if plan.got.contains_key(&index) {
                continue;
            }
            if plan.asked.keys().any(|asked| asked.index == index) {
                // If that one fails, this one is needed.
                let others = plan.spare.iter().any(|other| {
                    !plan.got.contains_key(&other.index)
                        && !plan.asked.keys().any(|asked| asked.index == other.index)
                });
                plan.spare.push_back(source);
                if others {
                    continue;
                }
                break;
            }
            plan.asked.insert(source, now + self.config.answer_max);
            let shard = plan.job.damage.digests[usize::from(index)];
            out.push(Output::Fetch { plan: id, source, shard });
        }
        if plan.got.len() < k {
            if plan.asked.is_empty() {
                plan.why = Some(GaveUp::TooFewSources);
                self.finish(now, id, out);
            }
            return;
        }
        self.rebuild(now, id, out);
    }

    fn rebuild(&mut self, now: Time, id: PlanId, out: &mut Vec<Output>) {
        let Some(plan) = self.plans.get_mut(&id) else { return };
        plan.asked.clear();
        let scheme = plan.job.damage.scheme;
        let present: Vec<(u16, &[u8])> =
            plan.got.iter().map(|(&index, bytes)| (index, bytes.as_slice())).collect();
        let lost: Vec<u16> = plan.lost.iter().copied().collect();
        let rebuilt = match plan.job.damage.need {
            Need::Lost => self.codec.rebuild(scheme, &present, &lost).unwrap_or_default(),
            Need::Misplaced => present.iter().map(|(_, bytes)| bytes.to_vec()).collect(),
        };
        let right = |(&index, bytes): (&u16, &Vec<u8>)| {
            Digest::of(bytes) == plan.job.damage.digests[usize::from(index)]
        };
        if rebuilt.len() != lost.len() || !lost.iter().zip(&rebuilt).all(right) {
            self.stats.inconsistent += 1;
            plan.why = Some(GaveUp::Inconsistent);
            return self.finish(now, id, out);
        }
        plan.shard_bytes = rebuilt[0].len() as u64;
        plan.got.clear();
        for (index, bytes) in lost.into_iter().zip(rebuilt) {
            let (node, deadline) = (NodeName::default(), now);
            plan.placing.insert(index, Placing { node, bytes, scrubbing: false, deadline });
        }
        for index in plan.placing.keys().copied().collect::<Vec<_>>() {
            self.place_elsewhere(now, id, index, out);
        }
        self.finish(now, id, out);
    }

    /// Gives a rebuilt shard to the next candidate; without one it stays lost in this attempt.
    fn place_elsewhere(&mut self, now: Time, id: PlanId, index: u16, out: &mut Vec<Output>) {
        let Some(plan) = self.plans.get_mut(&id) else { return };
        let Some(placing) = plan.placing.get_mut(&index) else { return };
        let Some(node) = plan.candidates.pop_front() else {
            plan.placing.remove(&index);
            plan.why = Some(GaveUp::NoPlace);
            return;
        };
        (placing.node, placing.scrubbing) = (node, false);
        placing.deadline = now + self.config.answer_max;
        let (shard, bytes) = (plan.job.damage.digests[usize::from(index)], placing.bytes.clone());
        *self.stats.stored(plan.job.damage.need) += bytes.len() as u64;
        out.push(Output::Store { plan: id, index, node, shard, bytes });
    }

    fn time_out(&mut self, now: Time, bad: &mut BadCopies, out: &mut Vec<Output>) {
        let late: Vec<(PlanId, Source)> = self
            .plans
            .iter()
            .flat_map(|(&id, plan)| plan.asked.iter().map(move |(&source, &by)| (id, source, by)))
            .filter(|&(_, _, by)| by <= now)
            .map(|(id, source, _)| (id, source))
            .collect();
        for (id, source) in late {
            self.fetched(now, id, source, None, bad, out);
        }
        let late: Vec<(PlanId, u16)> = self
            .plans
            .iter()
            .flat_map(|(&id, plan)| plan.placing.iter().map(move |(&index, at)| (id, index, at)))
            .filter(|(_, _, placing)| placing.deadline <= now)
            .map(|(id, index, _)| (id, index))
            .collect();
        for (id, index) in late {
            self.place_elsewhere(now, id, index, out);
            self.finish(now, id, out);
        }
    }

    /// Ends an attempt that has nothing under way any more.
    fn finish(&mut self, now: Time, id: PlanId, out: &mut Vec<Output>) {
        let Some(plan) = self.plans.get(&id) else { return };
        let rebuilt = plan.shard_bytes > 0 || plan.why.is_some();
        if !rebuilt || !plan.placing.is_empty() {
            return;
        }
        let plan = self.plans.remove(&id).expect("it was there a line above");
        let well = plan.why.is_none();
        if let Some(admission) = plan.admission {
            self.breaker.ended(now, admission, well);
        }
        if plan.job.damage.need == Need::Misplaced {
            self.stats.not_moved += u64::from(!well);
        } else if plan.repaired > 0 {
            let shards = u64::from(plan.job.damage.scheme.data()) + plan.repaired;
            self.stats.minimum_bytes += shards * plan.shard_bytes;
        }
        let need = plan.job.damage.need;
        self.stats.failed += u64::from(!well && need == Need::Lost);
        let Job { damage, mut attempts, .. } = plan.job;
        let stripe = damage.stripe;
        // What was reported meanwhile knows better; but not of what was just repaired.
        let newer = self.queue.remove(&stripe).map(|job| job.damage);
        let repaired: BTreeSet<u16> = plan.lost.difference(&damage.lost).copied().collect();
        let damage = match newer {
            None => damage,
            Some(mut newer) => {
                newer.lost.retain(|index| !repaired.contains(index));
                for &source in damage.sources.iter().filter(|s| repaired.contains(&s.index)) {
                    newer.sources.push(source);
                }
                newer
            }
        };
        // A move that came to nothing is not missed.
        if damage.lost.is_empty() || damage.need == Need::Misplaced {
            return;
        }
        if need == Need::Misplaced {
            attempts = 0;
        }
        let mut not_before = now;
        match plan.why {
            // There were not tokens enough for all: that is no failure.
            None => attempts = 0,
            Some(_) if need == Need::Misplaced => {}
            Some(why) if attempts >= self.config.attempts_max => {
                self.stats.gave_up += 1;
                out.push(Output::GaveUp { stripe, lost: damage.lost, why });
                return;
            }
            Some(_) => {
                let doubled = 1 << (attempts - 1).min(16);
                not_before = now + self.config.retry_after.saturating_mul(doubled);
            }
        }
        self.queue.insert(stripe, Job { damage, attempts, not_before });
    }
}
