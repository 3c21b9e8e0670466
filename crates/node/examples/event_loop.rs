//! A transaction and a saga over files, a crash in the middle, and what the next start makes of it.

use base::{NodeName, RequestKey, ShardId, Time, prng::Key};
use node::work::{Change, encode};
use node::{Branch, Config, Disks, Input, LogSlot, MessageKind, Node, Output, Request, Work};
use saga::{Action, Definition, Step};
use std::{collections::VecDeque, error::Error, path::Path};
use wal_core::{Directory, FileStorage, OpenMode, Storage};

/// The coordinator's log and the participant's, each in a directory of its own.
struct Files([FileStorage; 2]);

impl Disks for Files {
    fn directory(&self, slot: LogSlot) -> &dyn Directory {
        &self.0[slot as usize]
    }
}

/// The life of one process. It ends when nothing is left to do, or, if it is to crash, just before
/// the first COMMIT leaves.
fn live(folder: &Path, mut requests: Vec<Request>, crash: bool) -> Result<Node, Box<dyn Error>> {
    let open = |name| FileStorage::write(&folder.join(name));
    let mut files = Files([open("coordinator")?, open("participant")?]);
    // A real process draws the log's id and the key at random, and tells the node the time.
    let (me, now) = (NodeName::numbered(1), Time::ZERO);
    let (config, mut out) = (Config::both(me, 77, Key::root(1)), Vec::new());
    let mut node = Node::start(config, OpenMode::Exclusive, now, &files, &mut out);
    let mut todo = VecDeque::from(std::mem::take(&mut out));
    while let Some(output) = todo.pop_front() {
        let input = match output {
            Output::Disk { slot, ops } => {
                Input::Flushed { slot, result: files.0[slot as usize].perform_all(&ops) }
            }
            Output::Send { message, .. } if crash && message.kind() == MessageKind::Commit => {
                return Ok(node); // everything that was not durable is as good as gone
            }
            Output::Send { message, .. } => Input::Message { from: me, message },
            Output::Recovered { slot, report } => {
                for found in &report.operations {
                    println!("  {slot:?} found: {} -> {}", found.state, found.action.name());
                }
                continue;
            }
            Output::Reply { key, outcome } => {
                println!("  {} -> {outcome:?}", String::from_utf8_lossy(key.as_bytes()));
                continue;
            }
            Output::Died { reason, .. } => return Err(reason.into()),
            Output::Appended { .. }
            | Output::Parked { .. }
            | Output::Operated(_)
            | Output::Heuristic { .. }
            | Output::Intervened(_) => continue,
        };
        node.handle(now, input, &files, &mut out);
        if node.is_ready() {
            for request in requests.drain(..) {
                node.handle(now, Input::Submit(request), &files, &mut out);
            }
        }
        todo.extend(out.drain(..));
    }
    Ok(node)
}

fn requests() -> Result<Vec<Request>, Box<dyn Error>> {
    let me = NodeName::numbered(1);
    // All or nothing: 40 from cell 1 to cell 2, which two shards keep.
    let branch = |shard, cell, amount| Branch {
        shard: ShardId::numbered(shard),
        node: me,
        work: encode(&[Change::Add { cell, amount }]),
    };
    let transfer = Work::Transaction(vec![branch(1, 1, -40), branch(2, 2, 40)]);
    // Step by step: cell 4 holds too little, so the second step is refused and the first undone.
    let mut order = Definition::builder();
    let reserve = encode(&[Change::Add { cell: 3, amount: 5 }]);
    let reserve = order.step(Step::new(Action::ShardWrite, me, reserve));
    let charge = encode(&[Change::Require { cell: 4, at_least: 10 }]);
    order.step(Step::new(Action::Custom, me, charge).after(reserve));
    let order = Work::Saga(order.build()?);
    Ok(vec![
        Request { key: RequestKey::new(b"transfer")?, work: transfer },
        Request { key: RequestKey::new(b"order")?, work: order },
    ])
}

/// Two lives of one node.
pub fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    println!("first life");
    drop(live(folder.path(), requests()?, true)?);
    // The clients ask again: a request with the same key is the same operation.
    println!("second life");
    let node = live(folder.path(), requests()?, false)?;
    let store = node.participant().ok_or("the participant runs")?.store();
    let cells = [1, 2, 3, 4].map(|cell| store.value(cell));
    println!("cells 1 to 4: {cells:?}");
    assert_eq!(cells, [-40, 40, 0, 0]);
    Ok(())
}
