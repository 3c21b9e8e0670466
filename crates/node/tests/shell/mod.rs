//! One node by itself that coordinates and takes part, its disk in memory: for tests that ask it for much.

use base::{NodeName, RequestKey, Time};
use node::{Config, Input, MemoryDisks, Node, Outcome, Output};
use std::collections::VecDeque;
use wal_core::{DiskOp, OpenMode};

pub const ME: NodeName = NodeName::numbered(7);

pub struct Shell {
    pub node: Node,
    pub now: Time,
    /// Answers since somebody last took them away.
    pub told: Vec<(RequestKey, Outcome)>,
    /// The most memory that a write was handed out in, by log.
    pub written_from: [usize; 2],
    disks: MemoryDisks,
    todo: VecDeque<Output>,
}

impl Shell {
    pub fn start(config: Config) -> Shell {
        let (disks, mut out) = (MemoryDisks::default(), Vec::new());
        let node = Node::start(config, OpenMode::Exclusive, Time::ZERO, &disks, &mut out);
        let (now, told, written_from, todo) = (Time::ZERO, Vec::new(), [0; 2], out.into());
        let mut shell = Shell { node, now, told, written_from, disks, todo };
        shell.run();
        shell
    }

    /// Gives the node an input, and does all that it wants then.
    pub fn handle(&mut self, input: Input) {
        self.give(input);
        self.run();
    }

    fn give(&mut self, input: Input) {
        let mut out = Vec::new();
        self.node.handle(self.now, input, &self.disks, &mut out);
        self.todo.extend(out);
    }

    fn run(&mut self) {
        while let Some(output) = self.todo.pop_front() {
            match output {
                Output::Disk { slot, ops } => {
                    let result = self.disks.perform(slot, &ops);
                    for op in &ops {
                        if let DiskOp::Write { bytes, .. } = op {
                            let most = &mut self.written_from[slot as usize];
                            *most = bytes.capacity().max(*most);
                        }
                    }
                    self.node.reuse(slot, ops);
                    self.give(Input::Flushed { slot, result });
                }
                Output::Send { to, message } => {
                    assert_eq!(to, ME, "there is nobody else");
                    self.give(Input::Message { from: ME, message });
                }
                Output::Reply { key, outcome } => self.told.push((key, outcome)),
                Output::Died { reason, .. } => panic!("{reason}"),
                _ => {}
            }
        }
    }
}
