//! One phase, model-checked: the machines of this crate, as they are, in every world of a few crashes.
//!
//! One coordinator and the only participant of its transaction, each with a log whose unsynced suffix a
//! crash may lose in part or whole; a network that loses, doubles and reorders without limit; and a
//! participant's process that was replaced, still runs, and can make nothing durable.

use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, Sequence, ShardId, StoreId};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::BTreeSet;
use twopc::coordinator::{Decision, Effect, Event, Input, Member};
use twopc::participant::{Event as Kept, PromiseKey, Resources, Ruling};
use twopc::{Message, Participant, Peer, Transaction, TxKey, Vote};

const STORE: StoreId = StoreId(7);
/// The list names this boot; the one before it still runs.
const NAMED: u32 = 2;

fn key() -> TxKey {
    TxKey { coordinator: CoordinatorId::numbered(0), id: OperationId(1 << 40 | 1) }
}

fn peer() -> Peer {
    let (shard, node) = (ShardId::numbered(1), NodeName::numbered(1));
    Peer { shard, node, store: STORE, boot: BootCount(NAMED) }
}

/// What the participant's data make of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Refuses,
    Writes,
    Reads,
}

impl Resources for Mood {
    fn can_prepare(&self, _: &PromiseKey, _: &[u8]) -> bool {
        *self != Mood::Refuses
    }

    fn is_read_only(&self, _: &PromiseKey, _: &[u8]) -> bool {
        *self == Mood::Reads
    }
}

/// What was ever sent: it stays deliverable for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Sent {
    Prepare,
    Resolve(u32),
    Answer(u8),
}

const VOTES: [Vote; 3] = [Vote::Commit, Vote::Abort, Vote::ReadOnly];

impl Sent {
    fn answer(vote: Vote) -> Sent {
        let at = VOTES.iter().position(|other| *other == vote).expect("all are listed");
        Sent::Answer(at as u8)
    }

    fn to_participant(self) -> Option<Message> {
        let (key, shard) = (key(), peer().shard);
        match self {
            Sent::Prepare => {
                let (epoch, peers, work) = (Epoch::new(1), [peer()].into(), [1].into());
                Some(Message::Prepare { key, epoch, shard, peers, work, one_phase: true })
            }
            Sent::Resolve(epoch) => Some(Message::Resolve { key, epoch: Epoch::new(epoch), shard }),
            Sent::Answer(_) => None,
        }
    }
}

/// What a planted fault changes. Each must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The participant is asked before the beginning is durable.
    AskedEarly,
    /// A coordinator that was restarted aborts what it has left to its participant.
    RestartAborts,
    /// Whoever was not named says NO without a record.
    RefusesUnrecorded,
    /// Whoever has decided nothing says so without a record.
    ResolvesUnrecorded,
    /// The participant's answer leaves before its record is durable.
    AnswersEarly,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    log: Vec<Event>,
    durable: usize,
    epoch: u32,
    kept: Vec<Kept>,
    kept_durable: usize,
    boot: u32,
    /// What the replaced process knows.
    replaced: Vec<Kept>,
    network: BTreeSet<Sent>,
    /// What the client was told, a bit each.
    told: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Hears(Sent, u8),
    ReplacedHears(Sent, u8),
    CoordinatorHears(Sent),
    CoordinatorSyncs,
    CoordinatorCrashes(usize),
    ParticipantSyncs,
    ParticipantCrashes(usize),
    TimesOut,
    GivesUp,
}

const MOODS: [Mood; 3] = [Mood::Refuses, Mood::Writes, Mood::Reads];

struct World {
    crashes: (u32, u32),
    fault: Fault,
}

fn transaction(log: &[Event]) -> Option<Transaction> {
    let (created, rest) = log.split_first()?;
    let created = Transaction::created(key().id, Sequence(1), created);
    let mut machine = created.expect("an admission begins with a creation");
    for (at, event) in (2..).zip(rest) {
        machine.apply(Sequence(at), event).expect("a log holds only what its machine decided");
    }
    Some(machine)
}

fn participant(kept: &[Kept], boot: u32) -> Participant {
    let mut machine = Participant::new(peer().node, STORE, BootCount(boot));
    for (at, event) in (1..).zip(kept) {
        machine.apply(Sequence(at), event).expect("a log holds only what its machine decided");
    }
    machine
}

impl World {
    fn settle(state: &mut State) {
        while let Some(event) = transaction(&state.log).and_then(|machine| machine.settle()) {
            state.log.push(event);
        }
    }

    /// Whatever the coordinator owes and may let go, leaves.
    fn sends(&self, state: &mut State) {
        let Some(machine) = transaction(&state.log) else { return };
        let mut owed = Vec::new();
        machine.pending(&mut owed);
        for effect in owed {
            match effect {
                Effect::Delegate { after, .. } => {
                    if after.0 as usize <= state.durable || self.fault == Fault::AskedEarly {
                        // Of the work only the first epoch knows.
                        let asks = if state.epoch == 1 {
                            Sent::Prepare
                        } else {
                            Sent::Resolve(state.epoch)
                        };
                        state.network.insert(asks);
                    }
                }
                Effect::Tell { decision, after } => {
                    assert_eq!(after, Sequence::NONE, "the participant's record is the decision");
                    state.told |= match decision {
                        Decision::Commit => 1,
                        Decision::Abort => 2,
                        Decision::ReadOnly => 4,
                    };
                }
                // Nobody was asked anything yet, so nobody will mind.
                Effect::Abort { .. } if !state.log.contains(&Event::OnePhaseStart) => {}
                effect => panic!("{effect:?} has no place in one phase"),
            }
        }
    }

    fn hears(&self, state: &mut State, sent: Sent, mood: Mood, replaced: bool) {
        let Some(message) = sent.to_participant() else { return };
        let (kept, boot) = match replaced {
            true => (&state.replaced, NAMED - 1),
            false => (&state.kept, state.boot),
        };
        let mut machine = participant(kept, boot);
        let unrecorded = match (self.fault, sent) {
            (Fault::RefusesUnrecorded, Sent::Prepare) => boot != NAMED,
            (Fault::ResolvesUnrecorded, Sent::Resolve(_)) => true,
            _ => false,
        };
        let Ruling::Heard { seen, fact, mut found } = machine.rule(&message, &mood) else { return };
        if unrecorded && matches!(fact, Some(Kept::Aborted { .. })) {
            state.network.insert(Sent::answer(Vote::Abort));
            return;
        }
        let coordinator = key().coordinator;
        let seen = seen.map(|epoch| Kept::CoordinatorSeen { coordinator, epoch });
        let mut last = kept.len();
        let mut appended = Vec::new();
        for event in seen.into_iter().chain(fact) {
            last += 1;
            appended.push(event.clone());
            let applied = match &event {
                Kept::CoordinatorSeen { .. } => machine.apply(Sequence(last as u64), &event),
                _ => machine.apply_at(&mut found, Sequence(last as u64), event),
            };
            applied.expect("a participant decides only what it may apply");
        }
        let durable = if replaced { state.replaced.len() } else { state.kept_durable };
        if !replaced {
            state.kept.extend(appended);
        }
        if let Some(reply) = machine.reply_at(&found, NodeName(coordinator.0), &message)
            && (reply.after.0 as usize <= durable || self.fault == Fault::AnswersEarly && !replaced)
        {
            let Message::Vote { vote, .. } = reply.message else {
                panic!("{:?} is no answer", reply.message);
            };
            state.network.insert(Sent::answer(vote));
        }
    }

    /// How the participant ended it for good: true for a commit.
    fn ended(state: &State) -> Option<bool> {
        state.kept[..state.kept_durable].iter().find_map(|event| match event {
            Kept::OnePhase { .. } => Some(true),
            Kept::Aborted { .. } => Some(false),
            _ => None,
        })
    }

    fn goes_on(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        actions.into_iter().any(|action| {
            let crash =
                matches!(action, Action::CoordinatorCrashes(_) | Action::ParticipantCrashes(_));
            !crash && self.next_state(state, action).is_some()
        })
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let member = Member::at(peer());
        let log = Transaction::one_phase_admission(key().coordinator, None, None, member);
        let mut state = State {
            log,
            durable: 0,
            epoch: 1,
            kept: Vec::new(),
            kept_durable: 0,
            boot: NAMED,
            replaced: Vec::new(),
            network: BTreeSet::new(),
            told: 0,
        };
        self.sends(&mut state);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for sent in &state.network {
            match sent {
                Sent::Answer(_) => actions.push(Action::CoordinatorHears(*sent)),
                Sent::Prepare | Sent::Resolve(_) => {
                    for mood in 0..MOODS.len() as u8 {
                        actions.push(Action::Hears(*sent, mood));
                        actions.push(Action::ReplacedHears(*sent, mood));
                    }
                }
            }
        }
        if state.durable < state.log.len() {
            actions.push(Action::CoordinatorSyncs);
        }
        if state.epoch <= self.crashes.0 {
            actions.extend((state.durable..=state.log.len()).map(Action::CoordinatorCrashes));
        }
        if state.kept_durable < state.kept.len() {
            actions.push(Action::ParticipantSyncs);
        }
        if state.boot < NAMED + self.crashes.1 {
            actions.extend((state.kept_durable..=state.kept.len()).map(Action::ParticipantCrashes));
        }
        actions.extend([Action::TimesOut, Action::GivesUp]);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let tells = |state: &mut State, input: &Input| {
            let fact = transaction(&state.log).and_then(|machine| machine.decide(input));
            state.log.extend(fact);
            Self::settle(state);
        };
        match action {
            Action::Hears(sent, mood) => {
                self.hears(&mut state, sent, MOODS[usize::from(mood)], false);
            }
            Action::ReplacedHears(sent, mood) => {
                self.hears(&mut state, sent, MOODS[usize::from(mood)], true);
            }
            Action::CoordinatorHears(sent) => {
                let Sent::Answer(at) = sent else { return None };
                let vote = VOTES[usize::from(at)];
                tells(&mut state, &Input::Vote { shard: peer().shard, vote });
            }
            Action::CoordinatorSyncs => state.durable = state.log.len(),
            Action::CoordinatorCrashes(kept) => {
                state.log.truncate(kept);
                state.durable = kept;
                state.epoch += 1;
                let mut input = Input::Restarted { epoch: Epoch::new(state.epoch) };
                if self.fault == Fault::RestartAborts {
                    input = Input::Vote { shard: peer().shard, vote: Vote::Abort };
                }
                tells(&mut state, &input);
            }
            Action::ParticipantSyncs => state.kept_durable = state.kept.len(),
            Action::ParticipantCrashes(kept) => {
                state.kept.truncate(kept);
                state.kept_durable = kept;
                state.boot += 1;
            }
            Action::TimesOut => {
                tells(&mut state, &Input::TimedOut);
                tells(&mut state, &Input::AbortRequested);
            }
            Action::GivesUp => tells(&mut state, &Input::AbortsSent),
        }
        self.sends(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<World>> {
        vec![
            Property::always(TOLD, |_, state: &State| {
                let ended = World::ended(state);
                let committed = state.told & 1 == 1 && ended != Some(true);
                let not = state.told & 6 > 0 && (ended == Some(true) || state.told & 1 == 1);
                !committed && !not
            }),
            Property::always(LOGGED, |_, state: &State| {
                let ended = World::ended(state);
                state.log.iter().all(|event| match event {
                    Event::CommitStart { .. } => ended == Some(true),
                    // Before the participant was asked it is an ordinary one.
                    Event::AbortStart if state.log.contains(&Event::OnePhaseStart) => {
                        ended == Some(false)
                    }
                    Event::AbortStart | Event::ReadOnlyComplete => ended != Some(true),
                    _ => true,
                })
            }),
            Property::always(KNOWN, |_, state: &State| {
                let begun = state.log.contains(&Event::OnePhaseStart);
                begun || World::ended(state) != Some(true)
            }),
            Property::always(ENDS, |world: &World, state: &State| {
                let ended = transaction(&state.log).is_none_or(|machine| machine.ended().is_some());
                ended || world.goes_on(state)
            }),
            Property::sometimes("it commits", |_, state: &State| state.told & 1 == 1),
            Property::sometimes("it is refused", |_, state: &State| state.told & 2 == 2),
            Property::sometimes("there is nothing to do", |_, state: &State| state.told & 4 == 4),
            Property::sometimes(
                "what a later epoch asks about has been done",
                |_, state: &State| {
                    let asked = state.network.iter().any(|sent| matches!(sent, Sent::Resolve(_)));
                    asked && state.told & 1 == 1
                },
            ),
        ]
    }
}

const TOLD: &str = "I2: the client hears what the participant has durably done";
const LOGGED: &str = "I1: the coordinator's log says what the participant has durably done";
const KNOWN: &str = "G15: a coordinator whose log lost the beginning has asked nobody";
const ENDS: &str = "I6: whatever is unfinished can go on without a crash";

#[test]
fn every_world_of_two_crashes_each_is_explored() {
    let checker = World { crashes: (2, 2), fault: Fault::None }.checker().threads(2);
    let checker = checker.spawn_dfs().join();
    checker.assert_properties();
    assert_eq!(checker.unique_state_count(), 1_307, "a rule that is new or gone changes it");
}

#[test]
fn planted_faults_are_found() {
    for (fault, rule) in [
        (Fault::AskedEarly, KNOWN),
        (Fault::RestartAborts, LOGGED),
        (Fault::RefusesUnrecorded, TOLD),
        (Fault::ResolvesUnrecorded, LOGGED),
        (Fault::AnswersEarly, TOLD),
    ] {
        let finish = HasDiscoveries::AllOf([rule].into());
        let world = World { crashes: (1, 1), fault };
        let checker = world.checker().finish_when(finish).spawn_bfs().join();
        assert!(checker.discovery(rule).is_some(), "{fault:?} breaks: {rule}");
    }
}
