//! Seeded random walks of a coordinator and two participants over a network that loses, doubles and
//! reorders without limit, with crashes that lose any unsynced suffix of a log.
//!
//! A message that was ever sent stays deliverable for ever, which is loss, duplication and reordering at
//! once.

#![expect(clippy::unwrap_used, reason = "a test world: a panic is a failed test")]

use base::prng::Key;
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, Sequence, ShardId, StoreId};
use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::Arc;
use twopc::coordinator::{self, Decision, Effect, Input, Member, Transaction};
use twopc::participant::{self, Participant, Promise, PromiseKey, Resources};
use twopc::{Message, Peer, TxKey, Verdict, Vote};

const ID: OperationId = OperationId(1 << 40 | 1);

/// What a planted fault changes: the explorer must then find a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// COMMIT leaves before the decision is durable.
    CommitEarly,
    /// YES leaves before the promise is durable.
    VoteEarly,
    /// Recovery does not see the commit decision.
    ForgetDecision,
    /// A peer promises NO although it has voted yes.
    PromiseBlindly,
}

struct Yes;
impl Resources for Yes {
    fn can_prepare(&self, _: &PromiseKey, _: &[u8]) -> bool {
        true
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct CoordinatorState {
    log: Vec<coordinator::Event>,
    durable: usize,
    machine: Option<Transaction>,
    epoch: u32,
    crashes: u32,
    told: Option<bool>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct ParticipantState {
    log: Vec<participant::Event>,
    durable: usize,
    machine: Participant,
    crashes: u32,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    coordinator: CoordinatorState,
    participants: Vec<ParticipantState>,
    /// (to, message) in the order of their hashes; participants are 0 and 1, the coordinator 2.
    network: Vec<(u64, (u8, Message))>,
}

fn key() -> TxKey {
    TxKey { coordinator: CoordinatorId::numbered(2), id: ID }
}

fn shard(index: usize) -> ShardId {
    ShardId::numbered(index as u64)
}

fn peers() -> Arc<[Peer]> {
    (0..2)
        .map(|i| Peer {
            shard: shard(i),
            node: NodeName::numbered(i as u64),
            store: StoreId(100 + i as u64),
            boot: BootCount(1),
        })
        .collect()
}

fn participant(index: usize, boot: u32) -> Participant {
    let node = NodeName::numbered(index as u64);
    Participant::new(node, StoreId(100 + index as u64), BootCount(boot))
}

impl World {
    fn new() -> World {
        let participants = (0..2)
            .map(|i| ParticipantState {
                log: Vec::new(),
                durable: 0,
                machine: participant(i, 1),
                crashes: 0,
            })
            .collect();
        let coordinator = CoordinatorState {
            log: Vec::new(),
            durable: 0,
            machine: None,
            epoch: 1,
            crashes: 0,
            told: None,
        };
        let mut world = World { coordinator, participants, network: Vec::new() };
        let members: Vec<Member> = peers().iter().copied().map(Member::at).collect();
        for event in Transaction::admission(key().coordinator, None, None, &members).unwrap() {
            world.coordinator_logs(event);
        }
        world
    }

    fn send(&mut self, to: u8, message: Message) {
        let entry = (to, message);
        let name = hash(&entry);
        let found = self.network.binary_search_by_key(&name, |(name, _)| *name);
        if let Err(at) = found {
            self.network.insert(at, (name, entry));
        }
    }

    fn coordinator_logs(&mut self, event: coordinator::Event) {
        let c = &mut self.coordinator;
        c.log.push(event.clone());
        let sequence = Sequence(c.log.len() as u64);
        match &mut c.machine {
            None => c.machine = Some(Transaction::created(ID, sequence, &event).unwrap()),
            Some(machine) => machine.apply(sequence, &event).unwrap(),
        }
    }

    fn coordinator_settles(&mut self) {
        while let Some(event) = self.coordinator.machine.as_ref().and_then(Transaction::settle) {
            self.coordinator_logs(event);
        }
    }

    /// Sends all that is owed and may leave.
    fn coordinator_sends(&mut self, fault: Fault) -> Result<(), String> {
        let Some(machine) = self.coordinator.machine.clone() else { return Ok(()) };
        let mut owed = Vec::new();
        machine.pending(&mut owed);
        let durable = Sequence(self.coordinator.durable as u64);
        let epoch = Epoch::new(self.coordinator.epoch);
        for effect in owed {
            match effect {
                Effect::Delegate { .. } => unreachable!("there are two phases here"),
                Effect::Prepare { member } => {
                    let (shard, peers) = (shard(member as usize), peers());
                    let work = Arc::new([]);
                    let one_phase = false;
                    let prepare =
                        Message::Prepare { key: key(), epoch, shard, peers, work, one_phase };
                    self.send(member as u8, prepare);
                }
                Effect::Commit { member, after } => {
                    if after <= durable || fault == Fault::CommitEarly {
                        let store = Some(StoreId(100 + u64::from(member)));
                        let shard = shard(member as usize);
                        self.send(
                            member as u8,
                            Message::Commit { key: key(), epoch, shard, store },
                        );
                    }
                }
                Effect::Abort { member } => {
                    let shard = shard(member as usize);
                    self.send(member as u8, Message::Abort { key: key(), epoch, shard });
                }
                Effect::Tell { decision, after } => {
                    if after <= durable {
                        let commit = decision == Decision::Commit;
                        if *self.coordinator.told.get_or_insert(commit) != commit {
                            return Err("the client was told both".into());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn verdict(&self) -> Verdict {
        let durable = Sequence(self.coordinator.durable as u64);
        match &self.coordinator.machine {
            Some(machine) => match machine.decision() {
                Some(Decision::Commit) if machine.evidence() <= durable => Verdict::Committed,
                Some(Decision::Commit) | None => Verdict::Pending,
                Some(Decision::Abort | Decision::ReadOnly) => Verdict::Aborted,
            },
            // Nothing of it survived, and the id is of an earlier epoch.
            None => Verdict::Aborted,
        }
    }

    fn deliver(&mut self, index: usize, fault: Fault) -> Result<(), String> {
        let (_, (to, message)) = self.network[index].clone();
        if to == 2 {
            match message {
                Message::Vote { shard, vote, .. } => {
                    let input = Input::Vote { shard, vote };
                    let event = self.coordinator.machine.as_ref().and_then(|m| m.decide(&input));
                    if let Some(event) = event {
                        self.coordinator_logs(event);
                        self.coordinator_settles();
                    }
                }
                Message::Ack { shard, .. } => {
                    if let Some(machine) = &mut self.coordinator.machine {
                        machine.acknowledge(shard);
                        self.coordinator_settles();
                    }
                }
                Message::Inquiry { shard, .. } => {
                    let (verdict, epoch) = (self.verdict(), Epoch::new(self.coordinator.epoch));
                    let answer = Message::Answer { key: key(), epoch, shard, verdict };
                    self.send(shard.number() as u8, answer);
                }
                _ => {}
            }
            return self.coordinator_sends(fault);
        }
        let p = &mut self.participants[usize::from(to)];
        let from = match &message {
            Message::PeerInquiry { shard, .. } => NodeName::numbered(shard.number()),
            Message::PeerAnswer { .. } => NodeName::numbered(1 - u64::from(to)),
            _ => key().coordinator_node(),
        };
        if let Some(epoch) = message.coordinator_epoch()
            && p.machine.refuses(key().coordinator, epoch)
        {
            return Ok(());
        }
        let mut event = p.machine.decide(&message, &Yes);
        if fault == Fault::PromiseBlindly
            && let Message::PeerInquiry { peer, .. } = &message
        {
            let key = PromiseKey { tx: key(), shard: peer.shard };
            if let Some(Promise::Prepared { .. }) = p.machine.promise(&key) {
                event = Some(participant::Event::Aborted { key, promised: true });
            }
        }
        let carries = matches!(
            event,
            Some(participant::Event::Prepared { .. } | participant::Event::Committed { .. })
        );
        let seen = message.coordinator_epoch().filter(|_| !carries);
        let seen = seen.and_then(|epoch| p.machine.newer_epoch(key().coordinator, epoch));
        for event in seen.into_iter().chain(event) {
            p.log.push(event.clone());
            p.machine.apply(Sequence(p.log.len() as u64), &event).unwrap();
        }
        self.participant_replies(usize::from(to), from, &message, fault);
        Ok(())
    }

    fn participant_replies(
        &mut self,
        index: usize,
        from: NodeName,
        message: &Message,
        fault: Fault,
    ) {
        let p = &self.participants[index];
        let Some(reply) = p.machine.reply(from, message) else { return };
        let early = fault == Fault::VoteEarly && matches!(reply.message, Message::Vote { .. });
        if reply.after.0 <= p.durable as u64 || early {
            self.send(reply.to.number() as u8, reply.message);
        }
    }

    fn participant_asks(&mut self, index: usize) {
        let p = &self.participants[index];
        let mut owed = Vec::new();
        let key = PromiseKey { tx: key(), shard: shard(index) };
        p.machine.pending(&key, true, &mut owed);
        let durable = p.durable as u64;
        for reply in owed {
            if reply.after.0 <= durable {
                self.send(reply.to.number() as u8, reply.message);
            }
        }
    }

    fn coordinator_crashes(&mut self, kept: usize, fault: Fault) {
        let c = &mut self.coordinator;
        let mut kept = kept;
        if fault == Fault::ForgetDecision {
            let decision = |event: &_| matches!(event, coordinator::Event::CommitStart { .. });
            kept = kept.min(c.log.iter().position(decision).unwrap_or(kept));
        }
        c.log.truncate(kept);
        c.durable = kept;
        c.epoch += 1;
        c.crashes += 1;
        c.machine = None;
        for (at, event) in c.log.clone().iter().enumerate() {
            let sequence = Sequence(at as u64 + 1);
            match &mut c.machine {
                None => c.machine = Some(Transaction::created(ID, sequence, event).unwrap()),
                Some(machine) => machine.apply(sequence, event).unwrap(),
            }
        }
        let restarted = Input::Restarted { epoch: Epoch::new(c.epoch) };
        let owed = c.machine.as_ref().and_then(|m| m.decide(&restarted));
        if let Some(event) = owed {
            self.coordinator_logs(event);
        }
        self.coordinator_settles();
    }

    fn participant_crashes(&mut self, index: usize, kept: usize) {
        let p = &mut self.participants[index];
        p.log.truncate(kept);
        p.durable = kept;
        p.crashes += 1;
        p.machine = participant(index, 1 + p.crashes);
        for (at, event) in p.log.iter().enumerate() {
            p.machine.apply(Sequence(at as u64 + 1), event).unwrap();
        }
    }

    /// What must hold in every state. Only what is durable counts: the rest may never have been.
    fn check(&self) -> Result<(), String> {
        let ends: Vec<Option<bool>> = self
            .participants
            .iter()
            .map(|p| {
                p.log[..p.durable].iter().find_map(|event| match event {
                    participant::Event::Committed { .. } => Some(true),
                    participant::Event::Aborted { .. } => Some(false),
                    _ => None,
                })
            })
            .collect();
        if ends.contains(&Some(true)) && ends.contains(&Some(false)) {
            return Err("one participant committed, the other aborted".into());
        }
        if self.coordinator.told == Some(true) && ends.contains(&Some(false)) {
            return Err("the client heard committed, a participant aborted".into());
        }
        for (_, (_, message)) in &self.network {
            if let Message::Vote { shard, vote: Vote::Commit, .. } = message {
                let p = &self.participants[shard.number() as usize];
                let promised = p.log[..p.durable]
                    .iter()
                    .any(|event| matches!(event, participant::Event::Prepared { .. }));
                if !promised {
                    return Err("a YES left without a durable promise".into());
                }
            }
        }
        let decided = self.coordinator.log[..self.coordinator.durable]
            .iter()
            .any(|event| matches!(event, coordinator::Event::CommitStart { .. }));
        let aborting = self.network.iter().any(|(_, (_, m))| matches!(m, Message::Abort { .. }));
        if decided && aborting {
            return Err("ABORT was sent for a durable commit".into());
        }
        Ok(())
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What may happen next.
#[derive(Clone, Copy)]
enum Step {
    Deliver(usize),
    CoordinatorSyncs,
    CoordinatorCrashes(usize),
    TimesOut,
    ParticipantSyncs(usize),
    ParticipantCrashes(usize, usize),
    Asks(usize),
}

/// Everything that may happen next, the likelier the more often it is listed: news and syncs often,
/// repetitions, time-outs and crashes rarely.
fn steps(world: &World, delivered: &BTreeSet<u64>, crashes: (u32, u32)) -> Vec<Step> {
    const OFTEN: usize = 12;
    let mut steps = Vec::new();
    let mut add = |step, times| steps.extend(std::iter::repeat_n(step, times));
    for (index, (name, _)) in world.network.iter().enumerate() {
        add(Step::Deliver(index), if delivered.contains(name) { 1 } else { OFTEN });
    }
    let c = &world.coordinator;
    if c.durable < c.log.len() {
        add(Step::CoordinatorSyncs, OFTEN);
    }
    if c.crashes < crashes.0 {
        (c.durable..=c.log.len()).for_each(|kept| add(Step::CoordinatorCrashes(kept), 1));
    }
    if c.machine.as_ref().is_some_and(|m| m.decide(&Input::TimedOut).is_some()) {
        add(Step::TimesOut, 1);
    }
    for (index, p) in world.participants.iter().enumerate() {
        if p.durable < p.log.len() {
            add(Step::ParticipantSyncs(index), OFTEN);
        }
        if p.crashes < crashes.1 {
            (p.durable..=p.log.len())
                .for_each(|kept| add(Step::ParticipantCrashes(index, kept), 1));
        }
        let key = PromiseKey { tx: key(), shard: shard(index) };
        if matches!(p.machine.promise(&key), Some(Promise::Prepared { .. })) {
            add(Step::Asks(index), 2);
        }
    }
    steps
}

fn take(world: &mut World, step: Step, fault: Fault) -> Result<(), String> {
    match step {
        Step::Deliver(index) => world.deliver(index, fault)?,
        Step::CoordinatorSyncs => {
            world.coordinator.durable = world.coordinator.log.len();
            world.coordinator_sends(fault)?;
        }
        Step::CoordinatorCrashes(kept) => {
            world.coordinator_crashes(kept, fault);
            world.coordinator_sends(fault)?;
        }
        Step::TimesOut => {
            let machine = world.coordinator.machine.as_ref();
            if let Some(event) = machine.and_then(|m| m.decide(&Input::TimedOut)) {
                world.coordinator_logs(event);
            }
            world.coordinator_sends(fault)?;
        }
        Step::ParticipantSyncs(index) => {
            let p = &mut world.participants[index];
            p.durable = p.log.len();
        }
        Step::ParticipantCrashes(index, kept) => world.participant_crashes(index, kept),
        Step::Asks(index) => world.participant_asks(index),
    }
    world.check()
}

/// Walks at random, each walk from the beginning; how many different states were seen, or the first
/// violation.
fn walk(walks: u64, crashes: (u32, u32), fault: Fault) -> Result<u64, String> {
    let key = Key::root(1).child("walks");
    let mut seen = BTreeSet::new();
    for walk in 0..walks {
        let mut world = World::new();
        world.coordinator_sends(fault)?;
        let mut delivered = BTreeSet::new();
        for at in 0..80 {
            let steps = steps(&world, &delivered, crashes);
            let Some(count) = NonZeroU64::new(steps.len() as u64) else { break };
            let pick = key.draw(walk, at).below(count.get()) as usize;
            if let Step::Deliver(index) = steps[pick] {
                delivered.insert(world.network[index].0);
            }
            take(&mut world, steps[pick], fault)?;
            seen.insert(hash(&world));
        }
    }
    Ok(seen.len() as u64)
}

#[test]
fn no_walk_with_crashes_of_everybody_breaks_atomicity() {
    let states = walk(10_000, (2, 2), Fault::None).expect("no violation");
    assert!(states > 100_000, "only {states} different states were seen");
}

#[test]
fn planted_faults_are_found() {
    for (fault, crashes) in [
        (Fault::CommitEarly, (1, 0)),
        (Fault::ForgetDecision, (1, 0)),
        (Fault::VoteEarly, (0, 1)),
        (Fault::PromiseBlindly, (0, 1)),
    ] {
        let found = walk(20_000, crashes, fault);
        assert!(found.is_err(), "{fault:?}: {found:?}");
    }
}
