//! Whoever runs an engine is woken for what is due, and not for operations that have ended.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use base::prng::Key;
use base::{CoordinatorId, NodeName, RequestKey, Time};
use coordinator::{Config, Engine, Message, Output, Replay, Request, SagaKey, StepAnswer, Work};
use saga::{Action, Definition, Direction, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wal_core::{MemoryStorage, OpenMode, Storage};

const NODE: NodeName = NodeName::numbered(1);

struct Bench {
    storage: MemoryStorage,
    engine: Engine,
    replies: u32,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(|_| {})
    }

    fn with(edit: impl Fn(&mut Config)) -> Bench {
        let (mut storage, mut replay) = (MemoryStorage::new(), Replay::default());
        let (config, mode) = (wal_core::Config::default(), OpenMode::Exclusive);
        let opened = wal_core::open(&mut storage, &config, mode, 9, Time::ZERO, &mut replay);
        let mut config = Config::new(CoordinatorId([7; 32]), Key::root(3));
        edit(&mut config);
        let log = opened.unwrap().0;
        let engine = Engine::resume(config, replay, log, Time::ZERO, &mut Vec::new());
        Bench { storage, engine, replies: 0 }
    }

    /// Submits a saga of one step; the calls that it makes.
    fn submit(&mut self, now: Time, number: u64) -> Vec<Message> {
        let mut saga = Definition::builder();
        saga.step(Step::new(Action::Custom, NODE, [0]));
        let key = RequestKey::new(&number.to_le_bytes()).unwrap();
        let (work, mut out) = (Work::Saga(saga.build().unwrap()), Vec::new());
        self.engine.submit(now, Request { key, work }, &mut out);
        self.take(now, out)
    }

    fn answer(&mut self, now: Time, calls: &[Message]) {
        for call in calls {
            let Message::StepCall { key, token, .. } = call else { panic!("{call:?}") };
            let (direction, answer) = (Direction::Forward, StepAnswer::Done);
            let (key, token) = (*key, *token);
            let reply = Message::StepReply { key, step: 0, direction, token, answer, output: None };
            let mut out = Vec::new();
            self.engine.receive(now, NODE, &reply, &mut out);
            self.take(now, out);
        }
    }

    fn wake(&mut self, now: Time) -> Vec<Message> {
        let mut out = Vec::new();
        self.engine.wake(now, &mut out);
        self.take(now, out)
    }

    /// Performs what is wanted, and what that leads to; what is sent.
    fn take(&mut self, now: Time, mut out: Vec<Output>) -> Vec<Message> {
        let mut sent = Vec::new();
        loop {
            self.engine.flush(now, &mut out);
            let mut more = Vec::new();
            for output in out.drain(..) {
                match output {
                    Output::Disk { ops, .. } => {
                        self.storage.perform_all(&ops).unwrap();
                        self.engine.flushed(now, Ok(()), &mut more);
                    }
                    Output::Send { message, .. } => sent.push(message),
                    Output::Reply { .. } => self.replies += 1,
                    _ => {}
                }
            }
            if more.is_empty() && self.engine.next_wake() != Some(Time::ZERO) {
                return sent;
            }
            out = more;
        }
    }
}

#[test]
fn nobody_is_woken_for_what_has_ended() {
    let mut bench = Bench::new();
    let at = |ms| Time::ZERO + Duration::from_millis(ms);
    let first = bench.submit(at(0), 1);
    let second = bench.submit(at(100), 2);
    assert_eq!((first.len(), second.len()), (1, 1));
    // The first goes on to be owed: its call is made again in time, and no later.
    bench.answer(at(110), &second);
    let due = bench.engine.next_wake().unwrap();
    assert!(due <= at(500), "{due}");
    let mut now = due;
    while bench.wake(now).is_empty() {
        now = bench.engine.next_wake().unwrap();
        assert!(now <= at(500), "the call that is owed is made again");
    }
    bench.answer(now, &first);
    assert_eq!(bench.replies, 2);
    // What is left is that the log proves what was synced.
    let mut wakes = 0;
    while let Some(next) = bench.engine.next_wake() {
        assert_eq!(bench.wake(next), []);
        wakes += 1;
        assert!(wakes <= 2, "woken at {next} with nothing to do");
    }
}

/// Calls that nobody answers are made again and again: each time after twice as long, up to the longest, and by
/// chance up to so many percent earlier, so that not all come at once.
#[test]
fn what_nobody_answers_is_sent_again_ever_later_and_not_all_at_once() {
    for percent in [0, 25] {
        let mut bench = Bench::with(|config| {
            config.jitter_percent = percent;
            config.active_sagas_max = 100;
        });
        let mut called: BTreeMap<SagaKey, Vec<Time>> = BTreeMap::new();
        let mut calls = |now: Time, messages: Vec<Message>| {
            for message in messages {
                let Message::StepCall { key, .. } = message else { panic!("{message:?}") };
                called.entry(key).or_default().push(now);
            }
        };
        for number in 0..40 {
            calls(Time::ZERO, bench.submit(Time::ZERO, number));
        }
        while let Some(next) = bench.engine.next_wake()
            && next < Time::ZERO + Duration::from_secs(50)
        {
            calls(next, bench.wake(next));
        }
        assert_eq!(called.len(), 40);
        let mut early = [0, 0];
        for times in called.values() {
            assert!(times.len() >= 8, "{times:?}");
            let mut wait = Duration::from_millis(500);
            for pair in times.windows(2) {
                let waited = pair[1].since(pair[0]);
                let least = wait * (100 - percent) / 100;
                assert!(least <= waited && waited <= wait, "{waited:?} of {wait:?}");
                early[usize::from(waited < wait - wait * percent / 200)] += 1;
                wait = (2 * wait).min(Duration::from_secs(8));
            }
        }
        // About as many come in the one half of the time as in the other.
        if percent > 0 {
            assert!(early[0] * 2 > early[1] && early[1] * 2 > early[0], "{early:?}");
            let first: BTreeSet<Time> = called.values().map(|times| times[1]).collect();
            assert!(first.len() > 35, "{first:?}");
            for times in called.values() {
                // The longest waits of one operation are not alike either.
                let waits = times[5..].windows(2).map(|pair| pair[1].since(pair[0]));
                assert!(waits.collect::<BTreeSet<_>>().len() > 1, "{times:?}");
            }
        }
    }
}
