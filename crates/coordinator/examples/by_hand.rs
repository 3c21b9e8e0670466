//! An engine fed by hand: no runtime, no thread, no clock. A saga of two steps, a process that dies when the
//! first has had its effect and nobody has heard of it, and the next process, which finishes it.
//!
//! `cargo run -p coordinator --example by_hand`

use base::{CoordinatorId, NodeName, RequestKey, Time, Token, prng::Key};
use coordinator::{Config, Engine, Message, Output, Replay, Request, StepAnswer, Work};
use saga::{Action, Definition, Step};
use std::collections::{BTreeSet, VecDeque};
use std::error::Error;
use std::path::Path;
use wal_core::{FileStorage, OpenMode, Opening, Storage};

/// What the steps do, outside of the coordinator: it outlives every process of this example.
#[derive(Default)]
struct World {
    /// The tokens whose effect is there. A call that comes again finds its own.
    effects: BTreeSet<Token>,
    calls: u32,
}

/// The life of one process, until nothing is left to do; or, if it is to die, until a step has been done.
fn live(
    folder: &Path,
    order: &Request,
    world: &mut World,
    dies: bool,
) -> Result<(), Box<dyn Error>> {
    // A real process draws these two at random, and tells the engine the time.
    let (log_id, key, now) = (77, Key::root(1), Time::ZERO);
    let mut files = FileStorage::write(folder)?;

    // Open the log: claim it, decide where it ends, seal that. What it holds goes into the replay.
    let me = NodeName::numbered(1);
    let mut replay = Replay::new(me);
    let log = wal_core::Config::default();
    let mut opening = Opening::scan(&files, log, OpenMode::Exclusive, &mut replay)?;
    let epoch = opening.scanned().epoch.next().and_then(|epoch| replay.free_epoch(epoch));
    let claim = opening.claim(epoch.ok_or("no epoch is left")?, log_id)?;
    files.perform_all(&claim)?;
    let seal = opening.read_tail(&files, &mut replay)?;
    files.perform_all(&seal)?;
    for found in &replay.report(opening.scanned()).operations {
        println!("  found a saga {}: {}", found.state, found.action.name());
    }
    let log = opening.finish(&files, now)?;

    // From here on it is a loop: outputs are performed in order, and what comes of them is told.
    let mut out = Vec::new();
    let config = Config::new(CoordinatorId(me.0), key);
    let mut engine = Engine::resume(config, replay, log, now, &mut out);
    engine.submit(now, order.clone(), &mut out);
    engine.flush(now, &mut out);
    let mut todo = VecDeque::from(std::mem::take(&mut out));
    while let Some(output) = todo.pop_front() {
        match output {
            Output::Disk { ops, .. } => {
                let result = files.perform_all(&ops);
                engine.flushed(now, result, &mut out);
            }
            Output::Send { to, message: Message::StepCall { key, token, call, .. } } => {
                let (step, direction) = (call.step, call.direction);
                world.calls += 1;
                let fresh = world.effects.insert(token);
                println!(
                    "  step {step} is called; its effect {}",
                    if fresh { "is new" } else { "was there" }
                );
                if dies {
                    return Ok(()); // what is not durable is as good as gone, and so is the answer
                }
                let (answer, output) = (StepAnswer::Done, None);
                let reply = Message::StepReply { key, step, direction, token, answer, output };
                engine.receive(now, to, &reply, &mut out);
            }
            Output::Reply { key, outcome } => {
                println!("  {} -> {outcome:?}", String::from_utf8_lossy(key.as_bytes()));
            }
            Output::Died { reason, .. } => return Err(reason.into()),
            Output::Send { .. } | Output::Appended { .. } | Output::Recovered { .. } => {}
            // No compensation fails here, and there is no operator.
            Output::Parked { .. }
            | Output::Operated(_)
            | Output::Heuristic { .. }
            | Output::Intervened(_) => {}
        }
        engine.flush(now, &mut out);
        todo.extend(out.drain(..));
    }
    assert_eq!(engine.active(), 0);
    Ok(())
}

/// Two processes, one after the other.
pub fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut saga = Definition::builder();
    let paid = saga.step(Step::new(Action::Custom, NodeName::numbered(2), *b"40 coins"));
    saga.step(Step::new(Action::Custom, NodeName::numbered(3), *b"a book").after(paid));
    let order = Request { key: RequestKey::new(b"order 17")?, work: Work::Saga(saga.build()?) };
    let mut world = World::default();
    for (process, dies) in [("first", true), ("second", false)] {
        println!("the {process} process");
        live(folder.path(), &order, &mut world, dies)?;
    }
    assert_eq!(
        (world.calls, world.effects.len()),
        (3, 2),
        "the first step was called twice, and done once"
    );
    Ok(())
}
