//! A disk that has room for the logs' current segments only: what does not fit is refused or waits, nothing
//! fails, and when there is room again everything that was accepted ends, and what was refused can be asked
//! for again.

use base::prng::Key;
use base::{NodeName, RequestKey, ShardId, Time};
use node::work::{self, Change};
use node::{Branch, Config, Input, LogSlot, MemoryDisks, Node, Outcome, Output, Refusal};
use node::{Request, Work};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use wal_core::OpenMode;

const ME: NodeName = NodeName::numbered(7);
const LOGS: [LogSlot; 2] = [LogSlot::Coordinator, LogSlot::Participant];

/// One node that coordinates and takes part.
struct Shell {
    node: Node,
    disks: MemoryDisks,
    now: Time,
    todo: VecDeque<Output>,
    told: BTreeMap<RequestKey, Outcome>,
}

impl Shell {
    fn start() -> Shell {
        let mut config = Config::both(ME, 1, Key::root(1));
        config.log.max_payload = 2 << 10;
        config.log.batch_bytes_max = 8 << 10;
        config.log.buffered_bytes_max = 32 << 10;
        config.log.segment_bytes_first = 64 << 10;
        config.log.segment_bytes_max = 64 << 10;
        let (disks, mut out) = (MemoryDisks::default(), Vec::new());
        let node = Node::start(config, OpenMode::Exclusive, Time::ZERO, &disks, &mut out);
        let told = BTreeMap::new();
        let mut shell = Shell { node, disks, now: Time::ZERO, todo: out.into(), told };
        shell.run();
        shell
    }

    fn handle(&mut self, input: Input) {
        let mut out = Vec::new();
        self.node.handle(self.now, input, &self.disks, &mut out);
        self.todo.extend(out);
    }

    fn run(&mut self) {
        while let Some(output) = self.todo.pop_front() {
            match output {
                Output::Disk { slot, ops } => {
                    let result = self.disks.perform(slot, &ops);
                    self.handle(Input::Flushed { slot, result });
                }
                Output::Send { to, message } => {
                    assert_eq!(to, ME, "there is nobody else");
                    self.handle(Input::Message { from: ME, message });
                }
                Output::Reply { key, outcome } => {
                    self.told.insert(key, outcome);
                }
                Output::Died { reason, .. } => panic!("{reason}"),
                _ => {}
            }
        }
    }

    fn submit(&mut self, number: u64) -> RequestKey {
        let key = RequestKey::new(&number.to_le_bytes()).expect("eight bytes are few");
        let branch = |shard| Branch {
            shard: ShardId::numbered(shard),
            node: ME,
            work: work::encode(&[Change::Add { cell: 100 * shard + number % 50, amount: 1 }]),
        };
        let work = Work::Transaction(vec![branch(1), branch(2)]);
        self.handle(Input::Submit(Request { key: key.clone(), work }));
        self.run();
        key
    }

    /// Time passes, with whatever is due.
    fn wait(&mut self, times: u32) {
        for _ in 0..times {
            self.now += Duration::from_millis(500);
            self.handle(Input::Wake);
            self.run();
        }
    }

    fn segments(&self) -> [u64; 2] {
        LOGS.map(|slot| self.node.log(slot).expect("it runs").segment().0)
    }
}

#[test]
fn what_a_full_disk_has_no_room_for_is_refused_or_waits() {
    for confined in [&LOGS[..1], &LOGS[1..], &LOGS] {
        let mut shell = Shell::start();
        let first = shell.segments();
        confined.iter().for_each(|slot| shell.node.confine_log(*slot, true));
        let mut asked = Vec::new();
        for number in 0..2_000 {
            let key = shell.submit(number);
            let busy = Outcome::Refused(Refusal::LogBusy);
            let is_done = shell.told.get(&key).is_some_and(|outcome| *outcome != busy);
            asked.push(key);
            // Somebody waits for ever: the log that is full is the participant's.
            if !is_done && asked.len() > 100 && asked.len().is_multiple_of(100) {
                break;
            }
        }
        shell.wait(20);
        let now = shell.segments();
        for slot in confined {
            assert_eq!(now[*slot as usize], first[*slot as usize], "{slot:?} stays where it is");
        }
        let committed = |shell: &Shell| {
            shell.told.values().filter(|outcome| **outcome == Outcome::Committed).count()
        };
        let before = committed(&shell);
        assert!(before >= 20 && before < asked.len(), "{before} of {}", asked.len());

        confined.iter().for_each(|slot| shell.node.confine_log(*slot, false));
        shell.wait(200);
        for key in &asked {
            match shell.told.get(key) {
                Some(Outcome::Committed | Outcome::Aborted) => {}
                Some(Outcome::Refused(Refusal::LogBusy)) if confined.contains(&LOGS[0]) => {}
                told => panic!("{confined:?}, {key:?}: {told:?}"),
            }
        }
        let engine = shell.node.coordinator().expect("it coordinates");
        let host = shell.node.participant().expect("it takes part");
        assert_eq!(engine.active(), 0, "everything that was accepted has ended");
        assert!(
            host.participant().prepared().next().is_none()
                && host.locks().held(shell.now).next().is_none()
        );
        // And what was refused is asked for again.
        let refused: Vec<u64> = (0..asked.len() as u64)
            .filter(|n| shell.told[&asked[*n as usize]] == Outcome::Refused(Refusal::LogBusy))
            .collect();
        for number in refused {
            let key = shell.submit(number);
            shell.wait(1);
            assert_eq!(shell.told.get(&key), Some(&Outcome::Committed), "{number}");
        }
    }
}
