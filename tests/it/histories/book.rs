//! The model: what a history says, by sections 5 (legal transitions) and 6 (classification) of the
//! format's document. A saga is a set of steps with what is known of each, a transaction a list of
//! participants with their votes; an event is legal by a rule over these, never by a state machine.
//! No code of the machines, of the codec or of the replay is used here.

use super::record::{Entry, Event, Flaw, Participant};
use std::collections::{BTreeMap, BTreeSet};

/// Why a record is an anomaly.
pub type Fault = &'static str;

/// A commit decision without every vote: an anomaly that stands.
pub const UNBACKED: Fault = "a commit decision without every vote";

/// A commit decision whose extensions cannot be read: an anomaly that stands too.
pub const UNREADABLE_COMMIT: Fault = "a commit decision that cannot be read to its end";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Succeeded,
    NoEffect,
    MaybeEffect,
}

#[derive(Clone, Debug)]
struct Step {
    needs: Option<Vec<u32>>,
    outcome: Option<Outcome>,
    /// When the saga turned, it was ready to run, without an outcome.
    maybe_started: bool,
    undone: bool,
}

#[derive(Clone, Debug)]
pub struct Saga {
    created: u64,
    last: u64,
    started: Option<u64>,
    turned: Option<u64>,
    announced: bool,
    steps: BTreeMap<u32, Step>,
    ended: Option<&'static str>,
}

impl Saga {
    pub fn state(&self) -> &'static str {
        match (self.ended, self.turned, self.started) {
            (Some(end), _, _) => end,
            (None, Some(_), _) => "compensating",
            (None, None, Some(_)) => "executing",
            (None, None, None) => "created",
        }
    }

    pub fn numbers(&self) -> Vec<u32> {
        self.steps.keys().copied().collect()
    }

    /// What a step waits for. In sequence means: for the step with the next lower number.
    fn needs(&self, step: u32) -> Vec<u32> {
        match self.steps.get(&step).and_then(|entry| entry.needs.clone()) {
            Some(needs) => needs,
            None => self
                .steps
                .range(..step)
                .next_back()
                .map(|(before, _)| *before)
                .into_iter()
                .collect(),
        }
    }

    fn succeeded(&self, step: u32) -> bool {
        self.steps.get(&step).is_some_and(|entry| entry.outcome == Some(Outcome::Succeeded))
    }

    fn ready(&self, step: u32) -> bool {
        self.needs(step).into_iter().all(|before| self.succeeded(before))
    }

    fn all_succeeded(&self) -> bool {
        self.steps.keys().all(|step| self.succeeded(*step))
    }

    /// Succeeded, failed with `effect: maybe`, or maybe started; minus compensated.
    fn undo_list(&self) -> BTreeSet<u32> {
        let listed = |step: &Step| match step.outcome {
            Some(Outcome::Succeeded | Outcome::MaybeEffect) => true,
            Some(Outcome::NoEffect) => false,
            None => step.maybe_started,
        };
        let listed = self.steps.iter().filter(|(_, step)| !step.undone && listed(step));
        if self.turned.is_none() {
            BTreeSet::new()
        } else {
            listed.map(|(step, _)| *step).collect()
        }
    }

    /// The maybe-started set is fixed at the record that makes the saga compensating.
    fn turn(&mut self, at: u64) {
        let ready: Vec<u32> = self.numbers().into_iter().filter(|step| self.ready(*step)).collect();
        for (number, step) in &mut self.steps {
            step.maybe_started = step.outcome.is_none() && ready.contains(number);
        }
        self.turned = Some(at);
    }

    fn may_have_outcome(&self, step: u32) -> Result<(), Fault> {
        let entry = self.steps.get(&step).ok_or("a step that was never added")?;
        if self.started.is_none() {
            return Err("an outcome before execute_start");
        }
        if entry.outcome.is_some() {
            return Err("a second outcome");
        }
        match self.turned {
            None if !self.ready(step) => Err("an outcome before its dependencies"),
            Some(_) if entry.undone => Err("an outcome after the compensation"),
            Some(_) if !entry.maybe_started => Err("an outcome of what was not in flight"),
            _ => Ok(()),
        }
    }

    fn may(&self, event: &Event) -> Result<(), Fault> {
        let fail_if = |wrong: bool, why| if wrong { Err(why) } else { Ok(()) };
        fail_if(self.ended.is_some(), "an event after a saga's end")?;
        let executing = self.started.is_some() && self.turned.is_none();
        match event {
            Event::SagaCreated => Err("a second saga_created"),
            Event::StepAdded { step, needs } => {
                fail_if(self.started.is_some(), "a step after execute_start")?;
                fail_if(self.steps.contains_key(step), "a step's number twice")?;
                let earlier = |before: &u32| before < step && self.steps.contains_key(before);
                let all_earlier = needs.iter().flatten().all(earlier);
                fail_if(!all_earlier, "a dependency on no earlier step")
            }
            Event::ExecuteStart => fail_if(self.started.is_some(), "a second execute_start"),
            Event::StepSucceeded { step } | Event::StepFailed { step, .. } => {
                self.may_have_outcome(*step)
            }
            Event::CompensationStart { .. } => {
                fail_if(self.started.is_none(), "compensation before execute_start")?;
                fail_if(self.announced, "a second compensation_start")
            }
            Event::CompensationSucceeded { step } => {
                let list = self.undo_list();
                fail_if(self.turned.is_none(), "a compensation while going forward")?;
                fail_if(!list.contains(step), "a compensation of what is not to be undone")?;
                let waits = list.iter().any(|later| self.needs(*later).contains(step));
                fail_if(waits, "a compensation out of order")
            }
            Event::CompensationFailed { step, .. } => {
                fail_if(self.turned.is_none(), "a compensation while going forward")?;
                let listed = self.undo_list().contains(step);
                fail_if(!listed, "a compensation of what is not to be undone")
            }
            Event::Completed => {
                fail_if(!executing, "completed, but not from executing")?;
                fail_if(!self.all_succeeded(), "completed before every success")
            }
            Event::Compensated => {
                fail_if(self.turned.is_none(), "compensated, but it never turned")?;
                fail_if(!self.undo_list().is_empty(), "compensated before everything is undone")
            }
            Event::Aborted => Ok(()),
            _ => unreachable!("an event of a saga"),
        }
    }

    /// Takes a legal event.
    fn take(&mut self, at: u64, event: &Event) {
        self.last = at;
        let executing = self.started.is_some() && self.turned.is_none();
        let mut outcome = |step: &u32, outcome| {
            self.steps.get_mut(step).expect("it is legal").outcome = Some(outcome);
        };
        match event {
            Event::StepAdded { step, needs } => {
                let (needs, maybe_started) = (needs.clone(), false);
                let entry = Step { needs, outcome: None, maybe_started, undone: false };
                self.steps.insert(*step, entry);
            }
            Event::ExecuteStart => self.started = Some(at),
            Event::StepSucceeded { step } => outcome(step, Outcome::Succeeded),
            Event::StepFailed { step, maybe } => {
                let maybe = maybe.unwrap_or(false);
                outcome(step, if maybe { Outcome::MaybeEffect } else { Outcome::NoEffect });
                if executing {
                    self.turn(at);
                }
            }
            Event::CompensationStart { .. } => {
                self.announced = true;
                if executing {
                    self.turn(at);
                }
            }
            Event::CompensationSucceeded { step } => {
                self.steps.get_mut(step).expect("it is legal").undone = true;
            }
            Event::CompensationFailed { .. } => {}
            Event::Completed => self.ended = Some("completed"),
            Event::Compensated => self.ended = Some("compensated"),
            Event::Aborted => {
                if executing {
                    self.turn(at);
                }
                if self.undo_list().is_empty() {
                    self.ended = Some("aborted");
                }
            }
            _ => unreachable!("an event of a saga"),
        }
    }

    fn operation(&self, id: u64) -> Operation {
        let turned = self.turned.is_some();
        let ready = |step: &u32| self.ready(*step) && self.steps[step].outcome.is_none();
        let forward = self.started.is_some() && !turned;
        let run: Vec<u32> =
            self.numbers().into_iter().filter(|step| forward && ready(step)).collect();
        let undo: Vec<u32> = self.undo_list().into_iter().rev().collect();
        Operation {
            kind: "saga",
            id,
            state: self.state(),
            action: match self.state() {
                "created" => "none",
                "executing" => "saga_resume_execute",
                _ => "saga_resume_compensate",
            },
            in_doubt: false,
            evidence: self.turned.or(self.started).unwrap_or(self.created),
            last: self.last,
            created_ms: Some(super::record::timestamp_ms(self.created)),
            steps: self.steps.len() as u32,
            next_step: run.first().or(undo.first()).copied(),
            run,
            undo,
            ..Operation::default()
        }
    }

    /// What sets this event apart from others of its kind, where section 5 or 6 tells them apart.
    fn nuance(&self, event: &Event) -> &'static str {
        match event {
            Event::StepAdded { needs: None, step } => {
                let highest = self.steps.keys().next_back();
                let late = highest.is_some_and(|highest| highest > step);
                if late { " in sequence, late" } else { " in sequence" }
            }
            Event::StepAdded { needs: Some(needs), .. } if needs.is_empty() => " at once",
            Event::StepAdded { .. } => " behind others",
            Event::StepFailed { maybe: None, .. } => "",
            Event::StepFailed { maybe: Some(false), .. } => " effect none",
            Event::StepFailed { maybe: Some(true), .. } => " effect maybe",
            Event::CompensationStart { cause: super::record::CANCELLED } => " cancelled",
            Event::CompensationSucceeded { step } => {
                let outcome = self.steps.get(step).and_then(|step| step.outcome);
                match (outcome, self.announced) {
                    (Some(Outcome::Succeeded), true) => " of a success",
                    (Some(Outcome::Succeeded), false) => " of a success, unannounced",
                    (Some(Outcome::MaybeEffect), _) => " of effect maybe",
                    _ => " of maybe started",
                }
            }
            _ => "",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Transaction {
    created: u64,
    last: u64,
    participants: Vec<(Participant, Option<bool>)>,
    prepare: Option<u64>,
    commit: Option<u64>,
    abort: Option<u64>,
    rollback: Option<u64>,
    ended: Option<&'static str>,
}

impl Transaction {
    pub fn state(&self) -> &'static str {
        match self {
            Transaction { ended: Some(end), .. } => end,
            Transaction { commit: Some(_), .. } => "committing",
            Transaction { abort: Some(_), .. } => "aborting",
            Transaction { rollback: Some(_), .. } => "rolling_back",
            Transaction { prepare: Some(_), .. } => "preparing",
            _ => "created",
        }
    }

    pub fn participants(&self) -> impl Iterator<Item = Participant> {
        self.participants.iter().map(|(participant, _)| *participant)
    }

    fn vote_of(&self, shard: u8) -> Option<Option<bool>> {
        let mut found = self.participants.iter().filter(|(known, _)| known.shard == shard);
        found.next().map(|(_, vote)| *vote)
    }

    fn all_yes(&self) -> bool {
        self.prepare.is_some() && self.participants.iter().all(|(_, vote)| *vote == Some(true))
    }

    fn may(&self, event: &Event) -> Result<(), Fault> {
        let fail_if = |wrong: bool, why| if wrong { Err(why) } else { Ok(()) };
        fail_if(self.ended.is_some(), "an event after a transaction's end")?;
        let turned_back = self.abort.is_some() || self.rollback.is_some();
        let decided = self.commit.is_some() || turned_back;
        match event {
            Event::TxCreated => Err("a second tx_created"),
            Event::ParticipantAdded(participant) => {
                let open = self.prepare.is_none() && !decided;
                fail_if(!open, "a participant after prepare_start or a decision")?;
                fail_if(self.vote_of(participant.shard).is_some(), "a shard twice")
            }
            Event::PrepareStart => {
                fail_if(self.prepare.is_some(), "a second prepare_start")?;
                fail_if(decided, "prepare_start after a decision")
            }
            Event::Vote { shard, .. } => {
                let asked = self.prepare.is_some() || self.abort.is_some();
                fail_if(!asked, "a vote before prepare_start")?;
                fail_if(self.commit.is_some(), "a vote after the commit decision")?;
                let vote = self.vote_of(*shard).ok_or("a vote of an unknown shard")?;
                fail_if(vote.is_some(), "a second vote")
            }
            Event::CommitStart { list } => {
                fail_if(decided, "a second decision")?;
                let voted = |named: &Participant| self.vote_of(named.shard) == Some(Some(true));
                let backed = self.all_yes() && list.iter().flatten().all(voted);
                fail_if(!backed, UNBACKED)
            }
            Event::CommitComplete => {
                fail_if(self.commit.is_none(), "commit_complete without its decision")
            }
            Event::AbortStart => fail_if(self.commit.is_some(), "a second decision"),
            Event::AbortComplete => {
                fail_if(self.commit.is_some(), "abort_complete after the commit decision")
            }
            Event::RollbackStart => {
                let after = self.prepare.is_some() || self.abort.is_some();
                fail_if(!after, "rollback_start after neither prepare nor abort")?;
                fail_if(self.commit.is_some(), "a rollback after the commit decision")
            }
            Event::RollbackComplete => {
                fail_if(self.rollback.is_none(), "rollback_complete without its start")?;
                fail_if(self.commit.is_some(), "a rollback after the commit decision")
            }
            _ => unreachable!("an event of a transaction"),
        }
    }

    /// Takes a legal event, or a decision that stands.
    fn take(&mut self, at: u64, event: &Event) {
        self.last = at;
        match event {
            Event::ParticipantAdded(participant) => self.participants.push((*participant, None)),
            Event::PrepareStart => self.prepare = Some(at),
            Event::Vote { shard, yes } => {
                for (participant, vote) in &mut self.participants {
                    if participant.shard == *shard {
                        *vote = Some(*yes);
                    }
                }
            }
            Event::CommitStart { list } => {
                self.commit = Some(at);
                list.iter().flatten().for_each(|named| self.learn(*named));
            }
            Event::CommitComplete => self.ended = Some("committed"),
            Event::AbortStart => self.abort = self.abort.or(Some(at)),
            Event::AbortComplete => self.ended = Some("aborted"),
            Event::RollbackStart => self.rollback = self.rollback.or(Some(at)),
            Event::RollbackComplete if self.abort.is_none() => self.ended = Some("aborted"),
            Event::RollbackComplete => {}
            _ => unreachable!("an event of a transaction"),
        }
    }

    /// The decision's own list says whom to tell, and where.
    fn learn(&mut self, named: Participant) {
        match self.participants.iter_mut().find(|(known, _)| known.shard == named.shard) {
            Some((known, _)) => *known = named,
            None => self.participants.push((named, None)),
        }
    }

    fn operation(&self, id: u64) -> Operation {
        let back = self.abort.into_iter().chain(self.rollback).min();
        let voted = self.participants.iter().filter_map(|(p, vote)| Some((p.shard, (*vote)?)));
        Operation {
            kind: "tx",
            id,
            state: self.state(),
            action: if self.commit.is_some() { "tx_resume_commit" } else { "tx_resume_abort" },
            in_doubt: false,
            evidence: self.commit.or(back).unwrap_or(self.last),
            last: self.last,
            created_ms: Some(super::record::timestamp_ms(self.created)),
            participants: self.participants().collect(),
            votes: voted.collect(),
            ..Operation::default()
        }
    }

    fn nuance(&self, event: &Event) -> &'static str {
        let refused = self.participants.iter().any(|(_, vote)| *vote == Some(false));
        let all_yes = self.all_yes() && !self.participants.is_empty();
        match event {
            Event::ParticipantAdded(Participant { store: Some(_), .. }) => " with its store",
            Event::Vote { yes: true, .. } => " yes",
            Event::Vote { yes: false, .. } => " no",
            Event::CommitStart { list: Some(_) } => " with its list",
            Event::AbortStart | Event::AbortComplete if self.state() == "preparing" => {
                match (refused, all_yes) {
                    (true, _) => " after a NO",
                    (false, true) => " after all yes",
                    (false, false) => " early",
                }
            }
            Event::RollbackComplete if self.abort.is_some() => " inside the abort",
            _ => "",
        }
    }
}

/// An unfinished operation, as a report has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    pub kind: &'static str,
    pub id: u64,
    pub state: &'static str,
    pub action: &'static str,
    pub in_doubt: bool,
    pub evidence: u64,
    pub last: u64,
    pub created_ms: Option<i64>,
    pub steps: u32,
    pub next_step: Option<u32>,
    pub run: Vec<u32>,
    pub undo: Vec<u32>,
    pub participants: Vec<Participant>,
    pub votes: Vec<(u8, bool)>,
}

/// All that a report says of what a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Sagas, then transactions, each by id.
    pub operations: Vec<Operation>,
    pub completed_sagas: Vec<(u64, &'static str)>,
    pub completed_transactions: Vec<(u64, &'static str)>,
    /// Their sequences.
    pub anomalies: Vec<u64>,
    pub records: u64,
    pub saga_events: u64,
    pub transaction_events: u64,
    pub markers: u64,
}

/// Everything that a history says.
#[derive(Clone, Debug, Default)]
pub struct Book {
    pub sagas: BTreeMap<u64, Saga>,
    pub transactions: BTreeMap<u64, Transaction>,
    anomalies: Vec<u64>,
    records: u64,
    saga_events: u64,
    transaction_events: u64,
    markers: u64,
}

impl Book {
    /// The state of the operation that a record is about.
    pub fn state(&self, entry: &Entry) -> &'static str {
        if entry.event.is_saga() {
            self.sagas.get(&entry.id).map_or("none", Saga::state)
        } else {
            self.transactions.get(&entry.id).map_or("none", Transaction::state)
        }
    }

    /// Whether there is an operation of that name.
    pub fn knows(&self, saga: bool, id: u64) -> bool {
        if saga { self.sagas.contains_key(&id) } else { self.transactions.contains_key(&id) }
    }

    /// What has not ended: whether it is a saga, and its id.
    pub fn unfinished(&self) -> Vec<(bool, u64)> {
        let sagas = self.sagas.iter().filter(|(_, saga)| saga.ended.is_none());
        let txs = self.transactions.iter().filter(|(_, tx)| tx.ended.is_none());
        sagas.map(|(id, _)| (true, *id)).chain(txs.map(|(id, _)| (false, *id))).collect()
    }

    /// See [`Saga::nuance`].
    pub fn nuance(&self, entry: &Entry) -> &'static str {
        if entry.event.is_saga() {
            self.sagas.get(&entry.id).map_or("", |saga| saga.nuance(&entry.event))
        } else {
            self.transactions.get(&entry.id).map_or("", |tx| tx.nuance(&entry.event))
        }
    }

    /// Whether the next record may be this one.
    pub fn may(&self, entry: &Entry) -> Result<(), Fault> {
        let Entry { id, event, flaw, .. } = entry;
        match (flaw, event) {
            (_, Event::Unknown(_)) => return Err("a code that names no event"),
            (Some(Flaw::Short), _) => return Err("a payload shorter than its prefix"),
            (Some(_), Event::CommitStart { .. }) => {
                let tx = self.transactions.get(id).ok_or("an event of an unknown transaction")?;
                let plain = tx.may(&Event::CommitStart { list: None });
                return plain
                    .err()
                    .filter(|why| *why != UNBACKED)
                    .map_or(Err(UNREADABLE_COMMIT), Err);
            }
            (Some(Flaw::Value), Event::Vote { .. }) => return Err("a vote that is none"),
            (Some(_), event) if event.is_extensible() => {
                return Err("extensions that cannot be read");
            }
            _ => {}
        }
        match event {
            Event::Marker => Ok(()),
            Event::SagaCreated if !self.sagas.contains_key(id) => Ok(()),
            Event::TxCreated if !self.transactions.contains_key(id) => Ok(()),
            event if event.is_saga() => {
                self.sagas.get(id).map_or(Err("an event of an unknown saga"), |s| s.may(event))
            }
            event => {
                let tx = self.transactions.get(id).ok_or("an event of an unknown transaction")?;
                tx.may(event)
            }
        }
    }

    /// Takes the next record. An anomaly changes nothing, except for a commit decision that stands.
    pub fn take(&mut self, entry: &Entry) -> Result<(), Fault> {
        self.records += 1;
        self.saga_events += u64::from(entry.event.is_saga());
        self.transaction_events += u64::from(entry.event.is_transaction());
        self.markers += u64::from(entry.event == Event::Marker);
        let (at, verdict) = (self.records, self.may(entry));
        match verdict {
            Ok(()) => self.enter(at, entry.id, &entry.event),
            Err(fault) => {
                self.anomalies.push(at);
                if fault == UNBACKED {
                    self.enter(at, entry.id, &entry.event);
                } else if fault == UNREADABLE_COMMIT {
                    self.enter(at, entry.id, &Event::CommitStart { list: None });
                }
            }
        }
        verdict
    }

    fn enter(&mut self, at: u64, id: u64, event: &Event) {
        match event {
            Event::Marker => {}
            Event::SagaCreated => {
                let saga = Saga {
                    created: at,
                    last: at,
                    started: None,
                    turned: None,
                    announced: false,
                    steps: BTreeMap::new(),
                    ended: None,
                };
                self.sagas.insert(id, saga);
            }
            Event::TxCreated => {
                let tx = Transaction {
                    created: at,
                    last: at,
                    participants: Vec::new(),
                    prepare: None,
                    commit: None,
                    abort: None,
                    rollback: None,
                    ended: None,
                };
                self.transactions.insert(id, tx);
            }
            event if event.is_saga() => {
                self.sagas.get_mut(&id).expect("it is legal").take(at, event);
            }
            event => self.transactions.get_mut(&id).expect("it is legal").take(at, event),
        }
    }

    /// What a report must say.
    pub fn summary(&self) -> Summary {
        let open = |(_, saga): &(&u64, &Saga)| saga.ended.is_none();
        let sagas = self.sagas.iter().filter(open).map(|(id, saga)| saga.operation(*id));
        let open = |(_, tx): &(&u64, &Transaction)| tx.ended.is_none();
        let txs = self.transactions.iter().filter(open).map(|(id, tx)| tx.operation(*id));
        let ended_sagas = self.sagas.iter().filter_map(|(id, saga)| Some((*id, saga.ended?)));
        let ended_txs = self.transactions.iter().filter_map(|(id, tx)| Some((*id, tx.ended?)));
        Summary {
            operations: sagas.chain(txs).collect(),
            completed_sagas: ended_sagas.collect(),
            completed_transactions: ended_txs.collect(),
            anomalies: self.anomalies.clone(),
            records: self.records,
            saga_events: self.saga_events,
            transaction_events: self.transaction_events,
            markers: self.markers,
        }
    }
}
