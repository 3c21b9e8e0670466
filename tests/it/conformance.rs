//! The simulator's shell and the one that runs in production do the same with the same inputs.
//!
//! A run of the simulator without faults is recorded: what its clients asked for, in order, what they
//! heard, what each node held at the end, and what each log says. The same requests go to `runtime`'s
//! nodes, over real files and threads. How long messages take, and so in which order records of independent
//! things stand, is no part of what must be equal; everything else is.

use base::NodeName;
use node::{Node, Outcome, Request};
use runtime::{Network, Options, start};
use sim::judge::{Findings, Judge, Moment, reader};
use sim::{Scenario, World, plan::Plan};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use wal_core::{EventType, FileStorage};

const SCENARIO: &str = r#"
    format = 1
    name = "conformance"

    [cluster]
    nodes = 3
    coordinators = 1

    [workload]
    kind = "mixed"
    shape = "row"
    operations = 60
    participants = 2
    steps = 4
    in_flight = 1
    refuse = "10%"
    kinds = true
    feeds = "50%"
    alone = "30%"
    looks = "30%"
    cells = 8

    [network]
    latency = "1ms..2ms"
"#;
const NODES: u64 = 3;
const CELLS: u64 = 8;

/// What there is to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    told: Vec<Outcome>,
    /// By node, then by cell.
    cells: Vec<Vec<i64>>,
    /// By node, then by log, then by event: how many records there are.
    records: Vec<[BTreeMap<String, u64>; 2]>,
}

#[derive(Clone, Default)]
struct Recorder {
    asked: Rc<RefCell<Vec<Request>>>,
    seen: Rc<RefCell<Seen>>,
}

impl Judge for Recorder {
    fn submitted(&mut self, _: Moment, _: u32, request: &Request) {
        self.asked.borrow_mut().push(request.clone());
    }

    fn replied(&mut self, _: Moment, _: &base::RequestKey, outcome: &Outcome, _: &mut Findings) {
        self.seen.borrow_mut().told.push(outcome.clone());
    }

    fn copied(&self) -> Box<dyn Judge> {
        Box::new(self.clone())
    }

    fn ended(&mut self, _: Moment, nodes: &[Option<&Node>], _: &mut Findings) {
        let cells = nodes.iter().map(|node| {
            let host = node.and_then(|node| node.participant()).expect("every node takes part");
            (0..CELLS).map(|cell| host.store().value(cell)).collect()
        });
        self.seen.borrow_mut().cells = cells.collect();
    }
}

fn counted(events: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    // When a marker is due depends on when the log is flushed.
    for event in events.filter(|event| *event != EventType::CHECKPOINT.to_string()) {
        *counts.entry(event).or_default() += 1;
    }
    counts
}

fn simulated() -> (Vec<Request>, Seen) {
    let scenario = Scenario::parse("conformance", SCENARIO).expect("it is a scenario");
    let recorder = Recorder::default();
    let judges: Vec<Box<dyn Judge>> = vec![Box::new(recorder.clone())];
    let mut world = World::new(&scenario, 3, Plan { faults: Vec::new() }, judges);
    world.run();
    let mut seen = recorder.seen.borrow().clone();
    for node in 0..NODES as u32 {
        let view = world.view(node).expect("there are three");
        let mut logs = <[BTreeMap<String, u64>; 2]>::default();
        for log in view.logs {
            assert_eq!(log.flaw, None, "nothing is being written any more");
            let at = usize::from(log.name == "participant");
            logs[at] = counted(log.records.into_iter().map(|(_, event)| event));
        }
        seen.records.push(logs);
    }
    (recorder.asked.borrow().clone(), seen)
}

async fn in_production(asked: Vec<Request>) -> Result<Seen, Box<dyn std::error::Error>> {
    let (folder, network, mut seen) = (tempfile::tempdir()?, Network::default(), Seen::default());
    let folder_of = |node: u64| folder.path().join(node.to_string());
    let mut nodes = Vec::new();
    for node in 0..NODES {
        let options = Options::new(NodeName::numbered(node));
        nodes.push(start(&folder_of(node), options, &network).await?.0);
    }
    for request in asked {
        seen.told.push(nodes[0].submit(request).await?);
    }
    for node in &nodes {
        node.quiet().await?;
    }
    for node in &nodes {
        let mut cells = Vec::new();
        for cell in 0..CELLS {
            cells.push(node.value(cell).await?);
        }
        seen.cells.push(cells);
    }
    // What nobody waits for is written once a log is idle.
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(nodes);
    for node in 0..NODES {
        let mut logs = <[BTreeMap<String, u64>; 2]>::default();
        for (at, name) in ["coordinator", "participant"].into_iter().enumerate() {
            let mut events = Vec::new();
            let files = FileStorage::read(&folder_of(node).join(name))?;
            let read = reader::read_log(&files, &mut |record| {
                events.push(EventType(record.event).to_string());
            });
            read.map_err(|flaw| flaw.to_string())?;
            logs[at] = counted(events.into_iter());
        }
        seen.records.push(logs);
    }
    Ok(seen)
}

#[tokio::test]
async fn the_shells_of_simulation_and_production_do_the_same()
-> Result<(), Box<dyn std::error::Error>> {
    let (asked, simulated) = simulated();
    let kinds = [Outcome::Committed, Outcome::ReadOnly, Outcome::Completed, Outcome::Compensated];
    assert!(kinds.iter().all(|kind| simulated.told.contains(kind)), "{:?}", simulated.told);
    assert_eq!((asked.len(), simulated.told.len()), (60, 60), "nobody had to ask twice");
    let produced = in_production(asked).await?;
    assert_eq!(produced.told, simulated.told);
    assert_eq!(produced.cells, simulated.cells);
    for (node, logs) in produced.records.iter().zip(&simulated.records).enumerate() {
        assert_eq!(logs.0, logs.1, "node {node}");
    }
    Ok(())
}
