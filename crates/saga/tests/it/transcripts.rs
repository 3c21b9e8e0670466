//! Transcripts: what the machine is told, and indented below it what it says and what is in the log
//! then. `TRANSCRIPTS=rewrite cargo test -p saga` writes down what comes out: review the
//! difference.
//!
//! `saga 0 1<0 2<0,1` admits a saga (`1~` depends on the step before it by number); `log …` applies
//! a record as a foreign log may hold it; every other line is an input. Below it stand the records
//! that follow, with their sequences, then what is owed, `@` the record that must be durable first.
//! `crash` rebuilds the machine from the log and tells it so; `class` prints its classification.
//! After an empty line everything starts afresh.

use crate::{ID, created, step_added, succeeded, undo_failed, undone};
use base::{Epoch, Sequence};
use saga::{Direction, Effect, Event, FailedEffect, Input, Outcome, STEP_TIMED_OUT, Saga};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::mem::take;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[derive(Default)]
struct Session {
    log: Vec<Event>,
    saga: Option<Saga>,
    out: String,
}

#[test]
fn transcripts() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/transcripts");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<PathBuf> = files.collect();
    assert_eq!(files.len(), 12);
    let different: Vec<_> = files.iter().filter(|file| !same(file)).collect();
    assert!(different.is_empty(), "not as written: {different:?}; see TRANSCRIPTS=rewrite");
}

/// Runs the transcript and compares it with what comes out.
fn same(file: &Path) -> bool {
    let transcript = fs::read_to_string(file).unwrap();
    let mut session = Session::default();
    for line in transcript.lines().filter(|line| !line.starts_with(' ')) {
        writeln!(session.out, "{line}").unwrap();
        session.command(line);
    }
    if env::var_os("TRANSCRIPTS").is_some_and(|value| value == "rewrite") {
        fs::write(file, &session.out).unwrap();
    }
    session.out == transcript
}

impl Session {
    fn command(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] => *self = Session { out: take(&mut self.out), ..Session::default() },
            ["#", ..] => {}
            ["saga", ..] => self.admit(&words[1..]),
            ["class"] => self.class(),
            ["log", ..] => self.record(&event(&words[1..])),
            ["crash"] => {
                let old = self.saga.take();
                for at in 0..self.log.len() {
                    self.rebuild(at);
                }
                assert_eq!(self.saga, old, "replay leads elsewhere");
                self.input(&Input::Restarted { epoch: Epoch::new(2) });
            }
            _ => self.input(&input(&words)),
        }
    }

    fn rebuild(&mut self, at: usize) {
        let (sequence, event) = (Sequence(at as u64 + 1), &self.log[at]);
        match &mut self.saga {
            None => self.saga = Some(Saga::created(ID, sequence, event).unwrap()),
            Some(saga) => saga.apply(sequence, event).unwrap(),
        }
    }

    fn saga(&self) -> &Saga {
        self.saga.as_ref().expect("the transcript begins with saga or with log created")
    }

    fn admit(&mut self, steps: &[&str]) {
        self.log = vec![created()];
        self.log.extend(steps.iter().map(|step| added(step)));
        self.log.push(Event::ExecuteStart);
        (0..self.log.len()).for_each(|at| self.rebuild(at));
        self.pending();
    }

    fn record(&mut self, event: &Event) {
        let sequence = Sequence(self.log.len() as u64 + 1);
        let result = match &mut self.saga {
            None => Saga::created(ID, sequence, event).map(|saga| self.saga = Some(saga)),
            Some(saga) => saga.apply(sequence, event),
        };
        match result {
            Ok(()) => self.log.push(event.clone()),
            Err(error) => writeln!(self.out, "  {error}").unwrap(),
        }
    }

    fn input(&mut self, input: &Input) {
        let mut next = self.saga().decide(input).or_else(|| self.saga().settle());
        while let Some(event) = next {
            self.record(&event);
            writeln!(self.out, "  {} {}", self.log.len(), text(&event)).unwrap();
            next = self.saga().settle();
        }
        self.pending();
    }

    fn pending(&mut self) {
        let mut pending = Vec::new();
        self.saga().pending(&mut pending);
        let debts: Vec<String> = pending
            .iter()
            .map(|effect| match effect {
                Effect::Run { step, after, .. } => format!("run {step} @{after}"),
                Effect::Compensate { step, after, .. } => format!("undo {step} @{after}"),
                Effect::MarkDone { step, after, .. } => format!("mark {step} @{after}"),
                Effect::Tell { end, after } => format!("tell {} @{after}", end.name()),
            })
            .collect();
        writeln!(self.out, "  {}", debts.join(", ")).unwrap();
    }

    fn class(&mut self) {
        let class = self.saga().classification();
        writeln!(
            self.out,
            "  {} {} next {:?} run {:?} undo {:?} evidence {} last {}",
            class.state,
            class.action.name(),
            class.next_step,
            class.run,
            class.undo,
            class.evidence,
            class.last
        )
        .unwrap();
    }
}

fn added(word: &str) -> Event {
    if let Some(step) = word.strip_suffix('~') {
        return step_added(step.parse().unwrap(), None);
    }
    let (step, on) = word.split_once('<').unwrap_or((word, ""));
    let on = on.split(',').filter(|on| !on.is_empty()).map(|on| on.parse().unwrap());
    step_added(step.parse().unwrap(), Some(&Vec::from_iter(on)))
}

fn event(words: &[&str]) -> Event {
    let number = |at: usize| words[at].parse::<u32>().unwrap();
    match words[0] {
        "created" => created(),
        "step_added" => added(words[1]),
        "execute_start" => Event::ExecuteStart,
        "step_succeeded" => succeeded(number(1)),
        "step_failed" => Event::StepFailed {
            step: number(1),
            error_code: 500,
            effect: if words.len() > 2 { FailedEffect::Maybe } else { FailedEffect::None },
        },
        "compensation_start" => Event::CompensationStart { cause: words.get(1).map(|_| number(1)) },
        "compensation_succeeded" => undone(number(1)),
        "compensation_failed" => undo_failed(number(1), number(2)),
        "completed" => Event::Completed,
        "compensated" => Event::Compensated,
        "aborted" => Event::Aborted,
        other => panic!("no such event: {other}"),
    }
}

fn input(words: &[&str]) -> Input {
    let step = || words[1].parse::<u32>().unwrap();
    let outcome =
        |direction, outcome| Input::Outcome { step: words[1].parse().unwrap(), direction, outcome };
    let refused = Outcome::Refused { code: 7 };
    match words[0] {
        "done" => outcome(Direction::Forward, Outcome::Done),
        "refused" => outcome(Direction::Forward, refused),
        "unknown" => outcome(Direction::Forward, Outcome::Unknown),
        "undone" => outcome(Direction::Backward, Outcome::Done),
        "undo-failed" => outcome(Direction::Backward, refused),
        "undo-unknown" => outcome(Direction::Backward, Outcome::Unknown),
        "step-timed-out" => Input::StepTimedOut { step: step() },
        "cancel" => Input::Cancel,
        "timed-out" => Input::TimedOut,
        other => panic!("no such input: {other}"),
    }
}

fn text(event: &Event) -> String {
    let name = event.kind().name();
    match event {
        Event::StepFailed { step, error_code, effect } => {
            let code = match *error_code {
                STEP_TIMED_OUT => "timed-out".to_owned(),
                code => code.to_string(),
            };
            format!("{name} {step} code {code} effect {effect:?}")
        }
        Event::CompensationStart { cause } => format!("{name} {cause:?}"),
        Event::CompensationFailed { step, attempt, .. } => {
            format!("{name} {step} attempt {attempt}")
        }
        _ => event.step().map_or(name.to_owned(), |step| format!("{name} {step}")),
    }
}
