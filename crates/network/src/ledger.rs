//! The node that keeps the ledger: a bank behind a log of its own.

use crate::message::Message;
use base::{Epoch, NodeName, Sequence, Time};
use incentives::{Bank, Event, Refusal, Request};
use std::collections::VecDeque;
use wal_core::{
    Directory, DiskError, DiskOp, EventType, Log, OpenMode, Opening, Place, Record, Visitor,
};

/// The code of a ledger's record: its payload is [`incentives::Event::encode`]'s.
pub const LEDGER_EVENT: EventType = EventType(0x40);

/// Rebuilds the bank.
#[derive(Clone, Debug)]
struct Replay {
    bank: Bank,
    /// Records that say nothing, or what does not follow.
    anomalies: u64,
}

impl Visitor for Replay {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        if record.event != LEDGER_EVENT {
            return;
        }
        let event = Event::decode(record.payload).ok();
        let followed = event.and_then(|event| self.bank.apply(record.sequence, &event).ok());
        self.anomalies += u64::from(followed.is_none());
    }
}

#[derive(Clone, Debug)]
enum State {
    Claiming(Box<(Opening, Replay)>),
    Sealing(Box<(Opening, Replay)>),
    Running(Box<(Log, Bank)>),
    Dead,
}

/// The ledger's keeper.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    state: State,
    /// Answers that wait for their record.
    owed: VecDeque<(Sequence, NodeName, Message)>,
    pub(crate) anomalies: u64,
    /// Why it stopped, until somebody has asked.
    pub(crate) died: Option<String>,
}

impl Teller {
    /// Opens the log; the operations that claim it.
    pub(crate) fn start(
        bank: Bank,
        log: wal_core::Config,
        new_log_id: u64,
        disk: &dyn Directory,
    ) -> (Teller, Vec<DiskOp>) {
        let mut replay = Replay { bank, anomalies: 0 };
        let opening = Opening::scan(disk, log, OpenMode::Exclusive, &mut replay);
        let claimed = opening.and_then(|mut opening| {
            let ops = opening.claim(Epoch::NONE, new_log_id)?;
            Ok((opening, ops))
        });
        let (state, ops) = match claimed {
            Ok((opening, ops)) => (Ok(State::Claiming(Box::new((opening, replay)))), ops),
            Err(error) => (Err(error.to_string()), Vec::new()),
        };
        let mut teller =
            Teller { state: State::Dead, owed: VecDeque::new(), anomalies: 0, died: None };
        teller.becomes(state);
        (teller, ops)
    }

    fn becomes(&mut self, state: Result<State, String>) {
        match state {
            Ok(state) => self.state = state,
            Err(reason) => self.died = Some(reason),
        }
    }

    /// The bank, once it is recovered.
    pub(crate) fn bank(&self) -> Option<&Bank> {
        match &self.state {
            State::Running(running) => Some(&running.1),
            _ => None,
        }
    }

    /// Whether everything that was decided is durable.
    pub(crate) fn is_settled(&self) -> bool {
        match &self.state {
            State::Running(running) => running.0.durable() == running.0.last(),
            _ => false,
        }
    }

    /// The disk has done what was asked for last.
    pub(crate) fn flushed(
        &mut self,
        now: Time,
        result: Result<(), DiskError>,
        disk: &dyn Directory,
        ops: &mut Vec<DiskOp>,
        out: &mut Vec<(NodeName, Message)>,
    ) {
        let was = std::mem::replace(&mut self.state, State::Dead);
        let state = match (was, result) {
            (State::Running(mut running), result) => {
                running.0.flushed(now, result);
                match running.0.poisoned().map(ToString::to_string) {
                    None => Ok(State::Running(running)),
                    Some(reason) => Err(reason),
                }
            }
            (State::Dead, _) => return,
            (_, Err(error)) => Err(error.to_string()),
            (State::Claiming(mut both), Ok(())) => {
                let (opening, replay) = &mut *both;
                let read = opening.read_tail(disk, replay).map_err(|error| error.to_string());
                read.map(|more| {
                    ops.extend(more);
                    State::Sealing(both)
                })
            }
            (State::Sealing(both), Ok(())) => {
                let (opening, replay) = *both;
                self.anomalies = replay.anomalies;
                let log = opening.finish(disk, now).map_err(|error| error.to_string());
                log.map(|log| State::Running(Box::new((log, replay.bank))))
            }
        };
        self.becomes(state);
        self.tell(out);
    }

    fn tell(&mut self, out: &mut Vec<(NodeName, Message)>) {
        let State::Running(running) = &self.state else { return };
        let durable = running.0.durable();
        while let Some((after, ..)) = self.owed.front()
            && *after <= durable
            && let Some((_, to, message)) = self.owed.pop_front()
        {
            out.push((to, message));
        }
    }

    /// Somebody asks for something. Without an answer it was not heard: it comes again.
    pub(crate) fn ask(
        &mut self,
        now: Time,
        request: &Request,
        unix_ms: i64,
        out: &mut Vec<(NodeName, Message)>,
    ) {
        let State::Running(running) = &mut self.state else { return };
        let (log, bank) = &mut **running;
        let (by, number) = (request.by, request.number);
        let done = |bank: &Bank| {
            let next = bank.answer(by).map_or(1, |answer| answer.number + 1);
            Message::Asked { number, done: true, next }
        };
        match bank.decide(now, request) {
            Ok(Some(event)) => {
                if let Some(sequence) = append(log, bank, &event, unix_ms) {
                    self.owed.push_back((sequence, by, done(bank)));
                }
            }
            Ok(None) => {
                let after = bank.done(request).unwrap_or(Sequence::NONE);
                // Behind those that wait for an earlier record.
                let at = self.owed.partition_point(|(other, ..)| *other <= after);
                self.owed.insert(at, (after, by, done(bank)));
            }
            Err(Refusal::WrongNumber { next }) => {
                out.push((by, Message::Asked { number, done: false, next }));
            }
            Err(_) => out.push((by, Message::Asked { number, done: false, next: number })),
        }
        self.tell(out);
    }

    /// What time alone brings: slashes end, unbonded units arrive. And the next flush.
    pub(crate) fn settle(&mut self, now: Time, unix_ms: i64, ops: &mut Vec<DiskOp>) {
        let State::Running(running) = &mut self.state else { return };
        let (log, bank) = &mut **running;
        while let Some(event) = bank.settle(now)
            && append(log, bank, &event, unix_ms).is_some()
        {}
        if let Some(flush) = log.next_flush(now) {
            ops.extend(flush.ops);
        }
    }

    /// When [`settle`](Self::settle) is due.
    pub(crate) fn next_wake(&self) -> Option<Time> {
        let State::Running(running) = &self.state else { return None };
        Time::earliest(running.0.next_wake(), running.1.due())
    }
}

/// Logs an event, and applies it. None if the log takes nothing now: nothing has changed.
fn append(log: &mut Log, bank: &mut Bank, event: &Event, unix_ms: i64) -> Option<Sequence> {
    let sequence = log.append(LEDGER_EVENT, unix_ms, &event.encode()).ok()?;
    log.force(sequence);
    bank.apply(sequence, event).expect("what was just decided follows");
    Some(sequence)
}
