//! Two-phase commit, model-checked: the machines of this crate, as they are, in every world of a few
//! crashes.
//!
//! A world is one coordinator and up to three participants, each with a log whose unsynced suffix a crash
//! may lose in part or whole; a network that loses, doubles and reorders without limit (what was ever sent
//! stays deliverable for ever); time-outs, inquiries and refusals at any moment. Every state that can
//! be reached within the bounds is visited, and the invariants of 2PC are looked at in each.
//!
//! States are small and canonical. A machine is a function of its log, so a state holds logs; the order
//! of durable records, which decides nothing, is left out; so are messages that nobody will ever act
//! on, and the names of the participants, which are alike.
//!
//! Apart from crashes nothing is ever undone, and an action that changes nothing is none. So a walk
//! without crashes ends, and "everything ends at last, if what is sent again arrives at last" is: no state
//! in which something is unfinished is without a further step. That is checked in every state too.
//!
//! The small worlds are explored in every test run. The large ones take minutes:
//! `cargo xtask model --heavy`.

mod machines;
mod packed;

use machines::{Heard, Mood, View, hear, view, waits};
use packed::{
    Broken, Coordinator, CoordinatorRecord, FromParticipant, Kind, PARTICIPANTS_MAX, PackedLog,
    Participant, ParticipantRecord, State, TRANSACTIONS_MAX, ToParticipant, tx_key,
};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::time::{Duration, Instant};
use twopc::Transaction;
use twopc::coordinator::{Decision, Member};

/// What a planted fault changes. Each must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// YES leaves before the promise is durable.
    YesEarly,
    /// COMMIT leaves, and the client hears "committed", before the decision is durable.
    CommitEarly,
    /// An inquiry is answered "committed" before the decision is durable.
    AnswerEarly,
    /// ACK leaves before the commit is durable.
    AckEarly,
    /// The timer still goes off when the commit is decided, and ABORT is sent.
    AbortAfterCommit,
    /// A participant's restart does not see its promises.
    PromiseForgotten,
    /// A coordinator's restart does not see its decision.
    DecisionForgotten,
    /// A coordinator's earlier epoch is obeyed.
    LowerEpochObeyed,
    /// A participant that has voted yes promises a peer that it never will.
    PromisedBlindly,
    /// A participant that has voted yes aborts by itself.
    AbortsAlone,
    /// A participant forgets at once that it has voted read-only.
    ReadOnlyForgotten,
    /// Inquiries are never answered: nothing breaks, but somebody waits for ever.
    InquiriesUnanswered,
}

/// How large a world is.
#[derive(Clone, Copy, Debug)]
struct World {
    participants: usize,
    transactions: usize,
    coordinator_crashes: u8,
    /// Of each participant.
    participant_crashes: u8,
    fault: Fault,
    /// Leave out of a state what nobody will ever act on: see [`World::forget`].
    forgetful: bool,
    /// Participants may have nothing to change.
    reads: bool,
}

impl World {
    const fn new(participants: usize, transactions: usize, crashes: (u8, u8)) -> World {
        World {
            participants,
            transactions,
            coordinator_crashes: crashes.0,
            participant_crashes: crashes.1,
            fault: Fault::None,
            forgetful: true,
            reads: false,
        }
    }

    /// Participants may vote read-only too.
    const fn reading(self) -> World {
        World { reads: true, ..self }
    }

    const fn with(self, fault: Fault) -> World {
        World { fault, ..self }
    }

    /// With every message that was ever sent in the state.
    const fn plain(self) -> World {
        World { forgetful: false, ..self }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Hears {
        participant: usize,
        transaction: usize,
        message: ToParticipant,
        mood: Mood,
    },
    PeerHears {
        participant: usize,
        transaction: usize,
        heard: Heard,
    },
    CoordinatorHears {
        participant: usize,
        transaction: usize,
        message: FromParticipant,
    },
    CoordinatorSyncs,
    CoordinatorCrashes {
        kept: u8,
    },
    TimesOut {
        transaction: usize,
    },
    /// ABORT was sent as often as it is going to be.
    GivesUp {
        transaction: usize,
    },
    ParticipantSyncs {
        participant: usize,
    },
    ParticipantCrashes {
        participant: usize,
        kept: u8,
    },
    Asks {
        participant: usize,
        transaction: usize,
    },
    /// Only under [`Fault::AbortsAlone`].
    AbortsAlone {
        participant: usize,
        transaction: usize,
    },
}

fn bits(mut bits: u32) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros() as u8)?;
        bits &= bits - 1;
        Some(bit)
    })
}

impl World {
    fn view(&self, c: &Coordinator, transaction: usize) -> View {
        view(self.participants, c.log, transaction, c.acknowledged[transaction], c.epoch)
    }

    fn is_decided(&self, c: &Coordinator, transaction: usize) -> bool {
        c.log
            .first(c.durable)
            .records::<CoordinatorRecord>()
            .any(|record| record.transaction == transaction && record.kind == Kind::CommitStart)
    }

    /// Appends, and what the machines owe the log after it.
    fn appends(&self, state: &mut State, transaction: usize, kind: Kind, participant: usize) {
        let c = &mut state.coordinator;
        c.log.push(CoordinatorRecord { transaction, kind, participant });
        while let Some(kind) = self.view(c, transaction).settles {
            c.log.push(CoordinatorRecord { transaction, kind, participant: 0 });
        }
    }

    /// Whatever the coordinator owes and may let go, leaves.
    fn coordinator_sends(&self, state: &mut State) {
        for transaction in 0..self.transactions {
            let c = &state.coordinator;
            let view = self.view(c, transaction);
            let (epoch, durable) = (c.epoch, c.durable);
            let decided = self.is_decided(c, transaction);
            let early = self.fault == Fault::CommitEarly;
            let may_commit = view.commit_after <= durable || early;
            if view.abort != 0 && decided {
                state.broken = Some(Broken::AbortAfterCommit);
            }
            if view.commit != 0 && may_commit && !decided {
                state.broken = Some(Broken::Gate);
            }
            if let Some((decision, after)) = view.tell
                && (after <= durable || early)
            {
                state.coordinator.told[transaction] |= told_bit(decision);
            }
            for (participant, p) in state.participants.iter_mut().enumerate() {
                let is_owed = |owed: u8| owed >> participant & 1 == 1;
                if is_owed(view.prepare) {
                    p.inbox[transaction] |= 1 << ToParticipant::Prepare.bit();
                }
                if is_owed(view.commit) && may_commit {
                    p.inbox[transaction] |= 1 << ToParticipant::Commit { epoch }.bit();
                }
                if is_owed(view.abort) {
                    p.inbox[transaction] |= 1 << ToParticipant::Abort { epoch }.bit();
                }
            }
        }
    }

    /// What an inquiry is answered: the rule of the engine, in the words of the specification.
    fn verdict(&self, c: &Coordinator, transaction: usize) -> Option<ToParticipant> {
        let (view, epoch) = (self.view(c, transaction), c.epoch);
        let durable = view.evidence <= c.durable || self.fault == Fault::AnswerEarly;
        match view.decision {
            _ if self.fault == Fault::InquiriesUnanswered => None,
            Some(true) if durable => Some(ToParticipant::Committed { epoch }),
            Some(true) => Some(ToParticipant::Pending { epoch }),
            Some(false) => Some(ToParticipant::Aborted { epoch }),
            None if view.exists => Some(ToParticipant::Pending { epoch }),
            // Nothing of it survived, and the id is of an earlier epoch.
            None => (epoch > 1).then_some(ToParticipant::Aborted { epoch }),
        }
    }

    fn coordinator_hears(
        &self,
        state: &mut State,
        participant: usize,
        transaction: usize,
        message: FromParticipant,
    ) {
        let c = &mut state.coordinator;
        let view = self.view(c, transaction);
        match message {
            FromParticipant::VotedYes if view.votes[0] >> participant & 1 == 1 => {
                self.appends(state, transaction, Kind::VotedYes, participant);
            }
            FromParticipant::VotedNo if view.votes[1] >> participant & 1 == 1 => {
                self.appends(state, transaction, Kind::VotedNo, participant);
            }
            FromParticipant::VotedReadOnly if view.votes[2] >> participant & 1 == 1 => {
                self.appends(state, transaction, Kind::VotedReadOnly, participant);
            }
            // The machine says whether this is news: only in the state that waits for it.
            FromParticipant::Ack { .. } if view.commit >> participant & 1 == 1 => {
                c.acknowledged[transaction] |= 1 << participant;
                if let Some(kind) = self.view(c, transaction).settles {
                    c.log.push(CoordinatorRecord { transaction, kind, participant: 0 });
                }
            }
            FromParticipant::Inquiry => {
                if let Some(answer) = self.verdict(c, transaction) {
                    let decided = self.is_decided(c, transaction);
                    if matches!(answer, ToParticipant::Committed { .. }) && !decided {
                        state.broken = Some(Broken::Gate);
                    }
                    state.participants[participant].inbox[transaction] |= 1 << answer.bit();
                }
            }
            _ => {}
        }
        self.coordinator_sends(state);
    }

    fn participant_hears(
        &self,
        state: &mut State,
        participant: usize,
        transaction: usize,
        heard: Heard,
        mood: Mood,
    ) {
        let p = &mut state.participants[participant];
        let epoch = match heard {
            Heard::Coordinator(message) => message.epoch(),
            Heard::PeerInquiry { .. } | Heard::PeerAnswer { .. } => u8::MAX,
        };
        let machine = (participant, p.boot, p.log);
        let mut said = hear(self.participants, machine, transaction, heard, mood);
        if said.refused && self.fault == Fault::LowerEpochObeyed {
            // As a machine that never heard of the later epoch.
            let records = p.log.records().filter(|r| !matches!(r, ParticipantRecord::Seen { .. }));
            let mut log = PackedLog::default();
            records.for_each(|record| log.push(record));
            let machine = (participant, p.boot, log);
            said = hear(self.participants, machine, transaction, heard, mood);
            said.appended[0] = None;
            said.reply = None;
        }
        let promised = waits(self.participants, machine, transaction).asks;
        if self.fault == Fault::PromisedBlindly
            && matches!(heard, Heard::PeerInquiry { .. })
            && promised.is_some()
        {
            said.appended[1] = Some(ParticipantRecord::Aborted { transaction });
            said.reply = None;
        }
        let reads = Some(ParticipantRecord::ReadOnly { transaction });
        if self.fault == Fault::ReadOnlyForgotten && said.appended[1] == reads {
            said.appended[1] = None;
        }
        let highest = p.durable_records().map(|record| record.epoch()).max().unwrap_or(0);
        let acts = said.appended != [None; 2] || said.reply.is_some();
        if acts && epoch < highest {
            state.broken = Some(Broken::LowerEpoch);
        }
        for record in said.appended.into_iter().flatten() {
            // A participant that has forgotten its promise says the same epoch without end: once is
            // enough.
            let last = p.log.records::<ParticipantRecord>().last();
            if !(matches!(record, ParticipantRecord::Seen { .. }) && last == Some(record)) {
                p.log.push(record);
            }
        }
        let Some((message, after)) = said.reply else { return };
        let early = match message {
            FromParticipant::VotedYes => self.fault == Fault::YesEarly,
            FromParticipant::Ack { .. } => self.fault == Fault::AckEarly,
            _ => false,
        };
        if after.min(p.log.len()) <= p.durable || early {
            self.participant_sends(state, participant, transaction, message);
        }
    }

    /// A message leaves: what it says must be durable.
    fn participant_sends(
        &self,
        state: &mut State,
        participant: usize,
        transaction: usize,
        message: FromParticipant,
    ) {
        let p = &mut state.participants[participant];
        let proved = match message {
            FromParticipant::VotedYes => p.durable_records().any(|record| match record {
                ParticipantRecord::Prepared { transaction: t, .. }
                | ParticipantRecord::Committed { transaction: t, .. } => t == transaction,
                _ => false,
            }),
            FromParticipant::Ack { heuristic: false }
            | FromParticipant::PeerAnswer { verdict: 0, .. } => p.ended(transaction) == Some(true),
            FromParticipant::PeerAnswer { verdict: 1, .. } => p.ended(transaction) == Some(false),
            _ => true,
        };
        if !proved {
            state.broken = Some(Broken::Gate);
        }
        p.outbox[transaction] |= 1 << message.bit();
    }

    fn coordinator_crashes(&self, state: &mut State, kept: u8) {
        let c = &mut state.coordinator;
        let mut log = c.log.first(kept);
        if self.fault == Fault::DecisionForgotten {
            let decision = |record: &CoordinatorRecord| record.kind == Kind::CommitStart;
            if let Some(at) = log.records().position(|record| decision(&record)) {
                log = log.first(at as u8);
            }
        }
        // What a recovery keeps it has synced.
        (c.log, c.durable) = (log, log.len());
        c.acknowledged = [0; TRANSACTIONS_MAX];
        c.epoch += 1;
        c.sort_durable();
        for transaction in 0..self.transactions {
            let c = &state.coordinator;
            match self.view(c, transaction).restarts {
                Some(kind) => self.appends(state, transaction, kind, 0),
                None => {
                    if let Some(kind) = self.view(c, transaction).settles {
                        self.appends(state, transaction, kind, 0);
                    }
                }
            }
        }
        self.coordinator_sends(state);
    }

    fn participant_crashes(&self, state: &mut State, participant: usize, kept: u8) {
        let p = &mut state.participants[participant];
        let log = p.log.first(kept);
        (p.log, p.durable) = (log, log.len());
        p.boot += 1;
        p.sort_durable();
        if self.fault == Fault::PromiseForgotten {
            let records: Vec<ParticipantRecord> = p.log.records().collect();
            let open = |record: &ParticipantRecord| match *record {
                ParticipantRecord::Prepared { transaction, .. } => p.ended(transaction).is_none(),
                _ => false,
            };
            let mut log = PackedLog::default();
            records.iter().filter(|record| !open(record)).for_each(|record| log.push(*record));
            (p.log, p.durable) = (log, log.len());
        }
    }

    /// Leaves out what nobody will ever act on, whatever comes: see each rule.
    fn forget(&self, state: &mut State) {
        state.coordinator.sort_durable();
        state.participants[..self.participants].iter_mut().for_each(Participant::sort_durable);
        for transaction in 0..self.transactions {
            if self.forgetful {
                self.forget_of(state, transaction);
            }
        }
    }

    fn forget_of(&self, state: &mut State, transaction: usize) {
        let c = &state.coordinator;
        let view = self.view(c, transaction);
        let of = self.participants;
        // A vote that is worth nothing now never will be: it is recorded, or the transaction decided, and
        // a restart aborts what is not.
        let votes = view.votes;
        let all_acknowledged =
            c.log.first(c.durable).records::<CoordinatorRecord>().any(|record| {
                record.transaction == transaction && record.kind == Kind::CommitComplete
            });
        let known: [bool; PARTICIPANTS_MAX] = std::array::from_fn(|n| {
            let p = &state.participants[n];
            let promised = p.durable_records().any(|record| match record {
                ParticipantRecord::Prepared { transaction: t, .. }
                | ParticipantRecord::ReadOnly { transaction: t } => t == transaction,
                _ => false,
            });
            promised || p.ended(transaction).is_some()
        });
        let boots = state.participants.map(|p| p.boot);
        let ended = state.participants.map(|p| p.ended(transaction).is_some());
        for participant in 0..of {
            let p = &mut state.participants[participant];
            let voting = (votes[0] | votes[1] | votes[2]) >> participant & 1 == 1;
            let mut dead = 0;
            for bit in bits(p.outbox[transaction]) {
                let message = FromParticipant::from_bit(bit);
                let is_dead = match message {
                    FromParticipant::VotedYes
                    | FromParticipant::VotedNo
                    | FromParticipant::VotedReadOnly => !voting,
                    FromParticipant::Ack { .. } => all_acknowledged,
                    FromParticipant::Inquiry => false,
                    // It comes to an answer for somebody who needs none.
                    FromParticipant::PeerInquiry { peer } => {
                        ended[participant] && (known[peer] || boots[peer] > 1)
                    }
                    // Prepared and unknown decide nothing.
                    FromParticipant::PeerAnswer { peer, verdict } => verdict >= 2 || ended[peer],
                };
                dead |= u32::from(is_dead) << bit;
            }
            p.outbox[transaction] &= !dead;
            let durable = (participant, p.boot, p.log.first(p.durable));
            let highest = p.durable_records().map(|record| record.epoch()).max().unwrap_or(0);
            for bit in bits(u32::from(p.inbox[transaction])) {
                let message = ToParticipant::from_bit(bit);
                let heard = Heard::Coordinator(message);
                let said = hear(of, durable, transaction, heard, Mood::Writes);
                let is_dead = match message {
                    // A log that grows refuses no less.
                    _ if said.refused => self.fault != Fault::LowerEpochObeyed,
                    ToParticipant::Prepare => {
                        !voting && (known[participant] || p.boot > 1) && highest >= 1
                    }
                    ToParticipant::Pending { epoch } => epoch <= highest,
                    ToParticipant::Commit { epoch }
                    | ToParticipant::Committed { epoch }
                    | ToParticipant::Abort { epoch }
                    | ToParticipant::Aborted { epoch } => {
                        let answered = match said.reply {
                            None => true,
                            Some((FromParticipant::Ack { .. }, _)) if all_acknowledged => true,
                            Some((reply, _)) => p.outbox[transaction] >> reply.bit() & 1 == 1,
                        };
                        ended[participant] && epoch <= highest && answered
                    }
                };
                p.inbox[transaction] &= !(u16::from(is_dead) << bit);
            }
        }
    }

    /// True if everything has ended, everywhere alike, and nothing is held any more.
    fn is_quiet(&self, state: &State) -> bool {
        (0..self.transactions).all(|transaction| {
            let view = self.view(&state.coordinator, transaction);
            let commits = view.decision == Some(true);
            let told = state.coordinator.told[transaction];
            // A client whose request was lost with its coordinator asks again; nothing is owed to it.
            let expected = match view.tell {
                Some((decision, _)) => told_bit(decision),
                None => 0,
            };
            let client = !view.exists || told & expected != 0;
            let ends = (0..self.participants).all(|participant| {
                let p = &state.participants[participant];
                let machine = (participant, p.boot, p.log);
                let free = waits(self.participants, machine, transaction).waiting == 0;
                let left_out = view.read_only >> participant & 1 == 1;
                free && (!commits || left_out || p.ended(transaction) == Some(true))
            });
            (view.ended || !view.exists) && client && ends
        })
    }

    /// True if something other than a crash can still change this state.
    fn goes_on(&self, state: &State) -> bool {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        actions.into_iter().any(|action| {
            let crash = matches!(
                action,
                Action::CoordinatorCrashes { .. } | Action::ParticipantCrashes { .. }
            );
            !crash && self.next_state(state, action).is_some()
        })
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let coordinator = Coordinator {
            log: PackedLog::default(),
            durable: 0,
            epoch: 1,
            acknowledged: [0; TRANSACTIONS_MAX],
            told: [0; TRANSACTIONS_MAX],
        };
        let mut participants = [Participant::default(); PARTICIPANTS_MAX];
        participants[..self.participants].iter_mut().for_each(|p| p.boot = 1);
        let mut state = State { coordinator, participants, broken: None };
        let list = machines::peers(self.participants);
        let members: Vec<Member> = list.iter().copied().map(Member::at).collect();
        for transaction in 0..self.transactions {
            let admission =
                Transaction::admission(tx_key(transaction).coordinator, None, None, &members);
            for event in admission.expect("a short list without a shard twice") {
                let record = CoordinatorRecord::of(transaction, &event);
                state.coordinator.log.push(record);
            }
        }
        self.coordinator_sends(&mut state);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let c = &state.coordinator;
        for transaction in 0..self.transactions {
            let view = self.view(c, transaction);
            if view.times_out.is_some()
                || self.fault == Fault::AbortAfterCommit && view.decision == Some(true)
            {
                actions.push(Action::TimesOut { transaction });
            }
            if view.gives_up.is_some() {
                actions.push(Action::GivesUp { transaction });
            }
        }
        if c.durable < c.log.len() {
            actions.push(Action::CoordinatorSyncs);
        }
        if c.epoch <= self.coordinator_crashes {
            let kept = c.durable..=c.log.len();
            actions.extend(kept.map(|kept| Action::CoordinatorCrashes { kept }));
        }
        for (participant, p) in state.participants[..self.participants].iter().enumerate() {
            let machine = (participant, p.boot, p.log);
            for transaction in 0..self.transactions {
                for bit in bits(u32::from(p.inbox[transaction])) {
                    let message = ToParticipant::from_bit(bit);
                    let hears = |mood| Action::Hears { participant, transaction, message, mood };
                    actions.push(hears(Mood::Writes));
                    if message == ToParticipant::Prepare {
                        actions.push(hears(Mood::Refuses));
                        if self.reads {
                            actions.push(hears(Mood::Reads));
                        }
                    }
                }
                for bit in bits(p.outbox[transaction]) {
                    let message = FromParticipant::from_bit(bit);
                    actions.push(match message {
                        FromParticipant::PeerInquiry { peer } => {
                            let heard = Heard::PeerInquiry { from: participant };
                            Action::PeerHears { participant: peer, transaction, heard }
                        }
                        FromParticipant::PeerAnswer { peer, verdict } => {
                            let heard = Heard::PeerAnswer { from: participant, verdict };
                            Action::PeerHears { participant: peer, transaction, heard }
                        }
                        message => Action::CoordinatorHears { participant, transaction, message },
                    });
                }
                if waits(self.participants, machine, transaction).asks.is_some() {
                    actions.push(Action::Asks { participant, transaction });
                    if self.fault == Fault::AbortsAlone {
                        actions.push(Action::AbortsAlone { participant, transaction });
                    }
                }
            }
            if p.durable < p.log.len() {
                actions.push(Action::ParticipantSyncs { participant });
            }
            if p.boot <= self.participant_crashes {
                let kept = p.durable..=p.log.len();
                actions.extend(kept.map(|kept| Action::ParticipantCrashes { participant, kept }));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = *last;
        match action {
            Action::Hears { participant, transaction, message, mood } => {
                let heard = Heard::Coordinator(message);
                self.participant_hears(&mut state, participant, transaction, heard, mood);
            }
            Action::PeerHears { participant, transaction, heard } => {
                let mood = Mood::Writes;
                self.participant_hears(&mut state, participant, transaction, heard, mood);
            }
            Action::CoordinatorHears { participant, transaction, message } => {
                self.coordinator_hears(&mut state, participant, transaction, message);
            }
            Action::CoordinatorSyncs => {
                state.coordinator.durable = state.coordinator.log.len();
                self.coordinator_sends(&mut state);
            }
            Action::CoordinatorCrashes { kept } => self.coordinator_crashes(&mut state, kept),
            Action::TimesOut { transaction } => {
                match self.view(&state.coordinator, transaction).times_out {
                    Some(kind) => self.appends(&mut state, transaction, kind, 0),
                    // Only under this fault: ABORT leaves, whatever the log says.
                    None => {
                        let epoch = state.coordinator.epoch;
                        if self.is_decided(&state.coordinator, transaction) {
                            state.broken = Some(Broken::AbortAfterCommit);
                        }
                        for p in &mut state.participants[..self.participants] {
                            p.inbox[transaction] |= 1 << ToParticipant::Abort { epoch }.bit();
                        }
                    }
                }
                self.coordinator_sends(&mut state);
            }
            Action::GivesUp { transaction } => {
                let kind = self.view(&state.coordinator, transaction).gives_up?;
                self.appends(&mut state, transaction, kind, 0);
                self.coordinator_sends(&mut state);
            }
            Action::ParticipantSyncs { participant } => {
                let p = &mut state.participants[participant];
                p.durable = p.log.len();
            }
            Action::ParticipantCrashes { participant, kept } => {
                self.participant_crashes(&mut state, participant, kept);
            }
            Action::Asks { participant, transaction } => {
                let p = &state.participants[participant];
                let after =
                    waits(self.participants, (participant, p.boot, p.log), transaction).asks?;
                if after <= p.durable {
                    let others = (0..self.participants).filter(|peer| *peer != participant);
                    let inquiries = others.map(|peer| FromParticipant::PeerInquiry { peer });
                    for message in std::iter::once(FromParticipant::Inquiry).chain(inquiries) {
                        self.participant_sends(&mut state, participant, transaction, message);
                    }
                }
            }
            Action::AbortsAlone { participant, transaction } => {
                state.participants[participant]
                    .log
                    .push(ParticipantRecord::Aborted { transaction });
            }
        }
        self.forget(&mut state);
        let state = state.canonical(self.participants);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<World>> {
        vec![
            Property::always(ATOMIC, |world: &World, state: &State| {
                (0..world.transactions)
                    .all(|t| !(ends_as(world, state, t, true) && ends_as(world, state, t, false)))
            }),
            Property::always(TOLD, |world: &World, state: &State| {
                (0..world.transactions).all(|t| {
                    let told = state.coordinator.told[t];
                    let committed = told & 1 == 1;
                    let aborted = told & 2 == 2;
                    let acknowledged = state.coordinator.acknowledged[t];
                    let acknowledged = (0..world.participants)
                        .filter(|p| acknowledged >> p & 1 == 1)
                        .all(|p| state.participants[p].ended(t) == Some(true));
                    // A crash may forget that it was read-only; that it is aborted is no less true.
                    let read_only = told & 4 == 4;
                    let contradicted = committed && ends_as(world, state, t, false)
                        || (aborted || read_only) && (committed || ends_as(world, state, t, true));
                    acknowledged && !contradicted
                })
            }),
            Property::always(NO_ABORT_AFTER_COMMIT, |_, state: &State| {
                state.broken != Some(Broken::AbortAfterCommit)
            }),
            Property::always(EPOCHS, |_, state: &State| state.broken != Some(Broken::LowerEpoch)),
            Property::always(GATE, |_, state: &State| state.broken != Some(Broken::Gate)),
            Property::always(LOCKS, |world: &World, state: &State| {
                (0..world.participants).all(|participant| {
                    let p = &state.participants[participant];
                    let machine = (participant, p.boot, p.log);
                    // Who has voted yes holds its lock, over restarts too, until the outcome.
                    let held = (0..world.transactions).all(|t| {
                        let yes =
                            CoordinatorRecord { transaction: t, kind: Kind::VotedYes, participant };
                        let voted = p.outbox[t] >> FromParticipant::VotedYes.bit() & 1 == 1
                            || state.coordinator.log.records().any(|record| yes == record);
                        !voted
                            || p.log.records().any(|record| match record {
                                ParticipantRecord::Prepared { transaction, .. }
                                | ParticipantRecord::Committed { transaction, .. }
                                | ParticipantRecord::Aborted { transaction } => transaction == t,
                                ParticipantRecord::ReadOnly { .. }
                                | ParticipantRecord::Seen { .. } => false,
                            })
                    });
                    held && waits(world.participants, machine, 0).waiting <= 1
                })
            }),
            Property::always(ENDS, |world: &World, state: &State| {
                world.is_quiet(state) || world.goes_on(state)
            }),
            Property::sometimes(
                "a commit is acknowledged by all",
                |world: &World, state: &State| {
                    world.view(&state.coordinator, 0).decision == Some(true)
                        && world.view(&state.coordinator, 0).ended
                },
            ),
            Property::sometimes(
                "all have promised, and it is aborted",
                |world: &World, state: &State| {
                    let promised = |p: &Participant| {
                        waits(world.participants, (0, p.boot, p.log), 0).asks.is_some()
                    };
                    world.view(&state.coordinator, 0).decision == Some(false)
                        && state.participants[..world.participants].iter().all(promised)
                },
            ),
            Property::sometimes(
                "one commits, and another has nothing to change",
                |world: &World, state: &State| {
                    let view = world.view(&state.coordinator, 0);
                    let mixed = view.decision == Some(true) && view.read_only != 0;
                    mixed || !world.reads || world.participants == 1
                },
            ),
            Property::sometimes(
                "nobody has anything to change, and the client is told so",
                |world: &World, state: &State| state.coordinator.told[0] & 4 == 4 || !world.reads,
            ),
            Property::sometimes(
                "a participant hears of it from a later epoch",
                |world: &World, state: &State| {
                    state.participants[..world.participants].iter().any(|p| {
                        p.durable_records().any(|record| record.epoch() > 1)
                            || world.coordinator_crashes == 0
                    })
                },
            ),
        ]
    }
}

/// The bit of [`Coordinator::told`].
fn told_bit(decision: Decision) -> u8 {
    match decision {
        Decision::Commit => 1,
        Decision::Abort => 2,
        Decision::ReadOnly => 4,
    }
}

const ATOMIC: &str = "I1: no two participants of a transaction end differently";
const TOLD: &str = "I2: what the client heard, and what was acknowledged, is so everywhere";
const NO_ABORT_AFTER_COMMIT: &str = "I3: no ABORT once a commit decision is durable";
const ENDS: &str = "I6: whatever is unfinished can go on without a crash, and so ends";
const EPOCHS: &str = "I8: no effect of an epoch lower than one that was acknowledged";
const LOCKS: &str = "I12: one holder at most, from its vote to the outcome";
const GATE: &str = "nothing leaves before the record that it rests on is durable";

fn ends_as(world: &World, state: &State, transaction: usize, commit: bool) -> bool {
    let participants = &state.participants[..world.participants];
    participants.iter().any(|p| p.ended(transaction) == Some(commit))
}

/// Everything that can be reached in a world, or as much as there is time for: how many states.
fn explore(world: World, time: Option<Duration>) -> usize {
    #[expect(clippy::disallowed_methods, reason = "how long it took is for people to read")]
    let begun = Instant::now();
    let checker = world.checker().threads(2);
    let checker = match time {
        Some(time) => checker.timeout(time),
        None => checker,
    };
    let checker = checker.spawn_dfs().join();
    let states = checker.unique_state_count();
    println!(
        "{} participants, {} transactions, crashes {} + {}{}{}: {states} states, {} steps, {} deep, \
         {:.0} s{}",
        world.participants,
        world.transactions,
        world.coordinator_crashes,
        world.participant_crashes,
        if world.reads { ", read-only too" } else { "" },
        if world.forgetful { "" } else { ", nothing left out" },
        checker.state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64(),
        if time.is_some() { ", as far as that went" } else { "" },
    );
    if time.is_none() {
        checker.assert_properties();
    } else {
        for (name, path) in checker.discoveries() {
            let property = checker.model().property(name);
            assert!(!property.expectation.discovery_is_failure(), "{name}: {path:?}");
        }
    }
    states
}

/// Explores each, and holds how many states it has: a rule that is gone, or one that is new, changes it.
fn counts(worlds: &[(World, usize)]) {
    let counted = worlds.iter().map(|(world, _)| explore(*world, None));
    let counted: Vec<usize> = counted.collect();
    let expected: Vec<usize> = worlds.iter().map(|(_, states)| *states).collect();
    assert_eq!(counted, expected);
}

#[test]
fn small_worlds_are_explored_completely() {
    counts(&[
        (World::new(2, 1, (0, 0)), 1_771),
        (World::new(2, 1, (1, 0)), 22_694),
        (World::new(2, 1, (0, 1)), 7_474),
        (World::new(2, 1, (1, 1)), 104_693),
        (World::new(3, 1, (0, 0)), 37_339),
        (World::new(1, 2, (1, 0)), 85_562),
        (World::new(2, 1, (0, 0)).plain(), 77_180),
        (World::new(2, 1, (1, 1)).reading(), 123_997),
        (World::new(3, 1, (0, 0)).reading(), 51_154),
    ]);
}

/// `cargo xtask model --heavy` sets the variable: then the large worlds are explored, which takes
/// minutes and some memory, and the small ones with nothing left out.
#[test]
fn large_worlds_are_explored_on_request() {
    if std::env::var_os("TWOPC_MODEL_HEAVY").is_none() {
        return;
    }
    counts(&[
        (World::new(1, 2, (1, 1)), 152_739),
        (World::new(2, 1, (2, 2)), 2_345_790),
        (World::new(3, 1, (1, 1)), 8_540_752),
        (World::new(2, 1, (1, 0)).plain(), 3_069_005),
        (World::new(2, 1, (0, 1)).plain(), 378_957),
    ]);
}

/// Also on request: three participants with two crashes each, as far as ten minutes and 2 GiB go.
#[test]
fn the_largest_world_is_explored_for_ten_minutes_on_request() {
    if std::env::var_os("TWOPC_MODEL_HEAVY").is_none() {
        return;
    }
    let states = explore(World::new(3, 1, (2, 2)), Some(Duration::from_secs(600)));
    let memory = peak_memory_bytes().expect("this system tells how much memory was used");
    println!("peak memory: {} MiB", memory >> 20);
    assert!(memory <= 2 << 30, "more than 2 GiB");
    assert!(states > 1_000_000, "next to nothing was explored");
}

/// The most memory that this process has had, where the system tells.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

/// Each fault breaks the rule that it should, and the shortest way there is told.
#[test]
fn planted_faults_are_found() {
    let two = World::new(2, 1, (1, 1));
    let faults = [
        (two.with(Fault::YesEarly), &[GATE, LOCKS, TOLD][..]),
        (two.with(Fault::CommitEarly), &[GATE, ATOMIC]),
        (two.with(Fault::AnswerEarly), &[GATE, ATOMIC]),
        (two.with(Fault::AckEarly), &[GATE, TOLD]),
        (two.with(Fault::AbortAfterCommit), &[NO_ABORT_AFTER_COMMIT, ATOMIC, TOLD]),
        (two.with(Fault::PromiseForgotten), &[LOCKS]),
        (two.with(Fault::DecisionForgotten), &[TOLD, ATOMIC]),
        (World::new(1, 2, (1, 0)).with(Fault::LowerEpochObeyed), &[EPOCHS]),
        (two.with(Fault::PromisedBlindly), &[ATOMIC]),
        (two.with(Fault::AbortsAlone), &[TOLD]),
        (World::new(2, 1, (1, 0)).with(Fault::InquiriesUnanswered), &[ENDS]),
        (World::new(2, 1, (0, 0)).reading().with(Fault::ReadOnlyForgotten), &[TOLD, ATOMIC]),
    ];
    for (world, rules) in faults {
        for rule in rules {
            let finish = HasDiscoveries::AllOf([*rule].into());
            let checker = world.checker().threads(2).finish_when(finish).spawn_bfs().join();
            let path = checker.discovery(rule);
            let path = path.unwrap_or_else(|| panic!("{:?} breaks: {rule}", world.fault));
            println!("{:?}, {} steps: {rule}", world.fault, path.into_actions().len());
        }
    }
}
