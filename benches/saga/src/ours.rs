//! Trinity's coordinator over a log of real files, fed by hand in one thread. Steps and participants
//! answer at once, as the peer's actions do: what is measured is the coordinator and its log.

use std::path::Path;
use std::time::Instant;

use base::prng::Key;
use base::{BootCount, NodeName, RequestKey, ShardId, StoreId, Time};
use coordinator::StepAnswer;
use node::{Branch, Config, Disks, Input, LogSlot, Message, Node, Outcome, Output, Request, Work};
use saga::{Action, Definition, Limits, Step};
use twopc::Vote;
use wal_core::{Directory, DiskOp, FileStorage, OpenMode, SegmentAhead, Storage};

use crate::Trouble;
use crate::shape::{Load, Meter, Sample, Shape};

/// The one log that this node has.
struct Disk(FileStorage);

impl Disks for Disk {
    fn directory(&self, _: LogSlot) -> &dyn Directory {
        &self.0
    }
}

/// The coordinator and what it is asked to do.
struct Shell {
    node: Node,
    disk: Disk,
    ahead: SegmentAhead,
    zero: Instant,
    out: Vec<Output>,
    /// Those before, that are being performed.
    due: Vec<Output>,
    flush: Option<Vec<DiskOp>>,
    ended: Vec<Outcome>,
}

impl Shell {
    fn start(folder: &Path) -> Result<Shell, Trouble> {
        let mut storage = FileStorage::write(folder)?;
        let log = wal_core::Config::default();
        storage.zero_fill_next(log.segment_bytes_first);
        let name = NodeName::numbered(0);
        let mut config = Config::both(name, 1, Key::root(1));
        config.participant = None;
        config.log = log;
        if let Some(coordinator) = &mut config.coordinator {
            coordinator.active_transactions_max = 1_024;
        }
        let (disk, zero, mut out) = (Disk(storage), Instant::now(), Vec::new());
        let node = Node::start(config, OpenMode::Exclusive, Time::ZERO, &disk, &mut out);
        let (due, ended) = (Vec::new(), Vec::new());
        let ahead = SegmentAhead::default();
        let mut shell = Shell { node, disk, ahead, zero, out, due, flush: None, ended };
        shell.perform(Time::ZERO)?;
        while !shell.node.is_ready() {
            shell.turn()?;
        }
        Ok(shell)
    }

    fn now(&self) -> Time {
        Time::ZERO + self.zero.elapsed()
    }

    fn take(&mut self, now: Time, input: Input) {
        self.node.take(now, input, &self.disk, &mut self.out);
    }

    /// Does all that there is to do but the flush. Whoever is called answers at once, so that the answers come
    /// in the order of the calls.
    fn perform(&mut self, now: Time) -> Result<(), Trouble> {
        while !self.out.is_empty() {
            std::mem::swap(&mut self.out, &mut self.due);
            for output in &mut self.due {
                match output {
                    Output::Disk { ops, .. } => self.flush = Some(std::mem::take(ops)),
                    Output::Send { to, message } => {
                        if let Some(message) = answer(*to, message) {
                            let input = Input::Message { from: *to, message };
                            self.node.take(now, input, &self.disk, &mut self.out);
                        }
                    }
                    Output::Reply { outcome, .. } => self.ended.push(outcome.clone()),
                    Output::Appended { .. }
                    | Output::Recovered { .. }
                    | Output::Parked { .. }
                    | Output::Operated(_)
                    | Output::Heuristic { .. }
                    | Output::Intervened(_) => {}
                    Output::Died { reason, .. } => return Err(std::mem::take(reason).into()),
                }
            }
            self.due.clear();
        }
        Ok(())
    }

    /// Ends a round, and lets the disk do what there is to do; then does what has waited for that.
    fn turn(&mut self) -> Result<(), Trouble> {
        let now = self.now();
        self.node.end_round(now, &mut self.out);
        self.perform(now)?;
        if let Some(ops) = self.flush.take() {
            let result = self.disk.0.perform_all(&ops);
            self.node.reuse(LogSlot::Coordinator, ops);
            let now = self.now();
            if let Some(log) = self.node.log(LogSlot::Coordinator) {
                self.ahead.go_on(log, &mut self.disk.0, now);
            }
            self.take(now, Input::Flushed { slot: LogSlot::Coordinator, result });
        }
        self.perform(now)
    }

    fn stats(&self) -> (u64, u64) {
        let log = self.node.coordinator().map(|engine| engine.log().stats());
        log.map_or((0, 0), |stats| (stats.syncs, stats.bytes))
    }
}

/// What a node says to a message, at once.
fn answer(from: NodeName, message: &Message) -> Option<Message> {
    let store = StoreId(from.number() + 1);
    let boot = BootCount(1);
    Some(match *message {
        Message::Hello => Message::Announce { store, boot },
        Message::StepCall { key, token, ref call, .. } => {
            let (step, direction, answer) = (call.step, call.direction, StepAnswer::Done);
            Message::StepReply { key, step, direction, token, answer, output: None }
        }
        Message::Transaction(twopc::Message::Prepare { key, shard, .. }) => {
            let vote = Vote::Commit;
            Message::Transaction(twopc::Message::Vote { key, shard, vote, store, boot })
        }
        Message::Transaction(twopc::Message::Commit { key, shard, .. }) => {
            Message::Transaction(twopc::Message::Ack { key, shard, store, heuristic: None })
        }
        _ => return None,
    })
}

/// What an operation of this shape asks for.
fn work(shape: Shape) -> Result<Work, Trouble> {
    let at = |number: u64| NodeName::numbered(1 + number % 8);
    let step = |number: u64| Step::new(Action::Custom, at(number), number.to_le_bytes());
    let mut builder = Definition::builder();
    builder.limits(Limits { dependencies_max: 16, ..Limits::default() });
    match shape {
        Shape::Decision => {
            let branch = |number: u64| Branch {
                shard: ShardId::numbered(number),
                node: at(number),
                work: number.to_le_bytes().as_slice().into(),
            };
            return Ok(Work::Transaction((0..8).map(branch).collect()));
        }
        Shape::Linear => {
            let first = builder.step(step(0));
            (1..5).fold(first, |last, number| builder.step(step(number).after(last)));
        }
        Shape::Wide => {
            let wide: Vec<u32> = (0..16).map(|number| builder.step(step(number))).collect();
            builder.step(wide.into_iter().fold(step(16), Step::after));
        }
    }
    Ok(Work::Saga(builder.build()?))
}

/// Measures.
pub fn measure(folder: &Path, shape: Shape, load: &Load) -> Result<Sample, Trouble> {
    let mut shell = Shell::start(folder)?;
    let work = work(shape)?;
    let expected = match shape {
        Shape::Decision => Outcome::Committed,
        Shape::Linear | Shape::Wide => Outcome::Completed,
    };
    let (before, mut asked, mut ended) = (shell.stats(), 0_u64, 0_u64);
    let mut meter = Meter::start(load);
    let mut submit = |shell: &mut Shell| -> Result<(), Trouble> {
        asked += 1;
        let key = RequestKey::new(&asked.to_le_bytes())?;
        let now = shell.now();
        shell.take(now, Input::Submit(Request { key, work: work.clone() }));
        shell.perform(now)
    };
    for _ in 0..load.in_flight {
        submit(&mut shell)?;
    }
    let mut running = load.in_flight;
    while running > 0 {
        shell.turn()?;
        for outcome in std::mem::take(&mut shell.ended) {
            if outcome != expected {
                return Err(format!("an operation ended as {outcome:?}").into());
            }
            ended += 1;
            if meter.ended() {
                submit(&mut shell)?;
            } else {
                running -= 1;
            }
        }
    }
    let after = shell.stats();
    Ok(Sample {
        per_second: meter.per_second(load),
        syncs_per_operation: (after.0 - before.0) as f64 / ended as f64,
        bytes_per_operation: (after.1 - before.1) as f64 / ended as f64,
    })
}
