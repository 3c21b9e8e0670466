//! A few nodes in one process over logs in memory and a network that loses nothing: for tests of what
//! nodes do, not of faults.

use base::{NodeName, RequestKey, Time, prng::Key};
use node::{Config, Input, MemoryDisks, MessageKind, Node, Outcome, Output, Request, Work};
use std::collections::{BTreeMap, VecDeque};
use wal_core::{OpenMode, Stats};

pub struct Village {
    nodes: Vec<(Node, MemoryDisks)>,
    configs: Vec<Config>,
    todo: VecDeque<(usize, Output)>,
    pub now: Time,
    pub told: BTreeMap<RequestKey, Outcome>,
    pub sent: BTreeMap<MessageKind, u64>,
    /// Messages of this kind are lost.
    pub lost: Option<MessageKind>,
    /// After so many more of its outputs the coordinator's process ends, and another one starts. What it had
    /// said and nobody has performed is gone.
    pub crash_in: Option<u32>,
}

impl Village {
    /// `count` nodes; number 0 coordinates. All take part.
    pub fn new(count: usize) -> Village {
        Village::with_log(count, &wal_core::Config::default())
    }

    /// As [`Village::new`], with logs that are kept so.
    pub fn with_log(count: usize, log: &wal_core::Config) -> Village {
        let mut village = Village {
            nodes: Vec::new(),
            configs: Vec::new(),
            todo: VecDeque::new(),
            now: Time::ZERO,
            told: BTreeMap::new(),
            sent: BTreeMap::new(),
            lost: None,
            crash_in: None,
        };
        for number in 0..count {
            let name = NodeName::numbered(number as u64);
            let mut config = Config::both(name, 100 + number as u64, Key::root(number as u64));
            config.log = log.clone();
            if number > 0 {
                config.coordinator = None;
            }
            let (disks, mut out) = (MemoryDisks::default(), Vec::new());
            village.configs.push(config.clone());
            let node = Node::start(config, OpenMode::Exclusive, village.now, &disks, &mut out);
            village.nodes.push((node, disks));
            village.todo.extend(out.into_iter().map(|output| (number, output)));
        }
        village.run();
        village
    }

    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number].0
    }

    /// The node's process ends and another one starts on the same disks.
    pub fn restart(&mut self, number: usize) {
        self.start(number);
        self.run();
    }

    fn start(&mut self, number: usize) {
        let (config, mut out) = (self.configs[number].clone(), Vec::new());
        let (node, disks) = &mut self.nodes[number];
        *node = Node::start(config, OpenMode::Exclusive, self.now, &*disks, &mut out);
        self.todo.extend(out.into_iter().map(|output| (number, output)));
    }

    pub fn disks(&self, number: usize) -> &MemoryDisks {
        &self.nodes[number].1
    }

    /// The coordinator's log.
    pub fn log(&self) -> &Stats {
        self.node(0).coordinator().expect("number 0 coordinates").log().stats()
    }

    pub fn submit(&mut self, key: &str, work: Work) -> Outcome {
        let key = RequestKey::new(key.as_bytes()).expect("short");
        self.input(0, Input::Submit(Request { key: key.clone(), work }));
        self.run();
        // ABORT is sent three times, at intervals.
        for _ in 0..40 {
            self.now += std::time::Duration::from_millis(500);
            (0..self.nodes.len()).for_each(|number| self.input(number, Input::Wake));
            self.run();
        }
        self.told.remove(&key).expect("every request is answered")
    }

    /// As [`submit`](Self::submit), of a client that asks again when it hears nothing. `None`: it never heard.
    pub fn submit_until_told(&mut self, key: &str, work: &Work) -> Option<Outcome> {
        let key = RequestKey::new(key.as_bytes()).expect("short");
        for _ in 0..120 {
            if !self.told.contains_key(&key) {
                self.input(0, Input::Submit(Request { key: key.clone(), work: work.clone() }));
            }
            self.run();
            self.now += std::time::Duration::from_millis(500);
            (0..self.nodes.len()).for_each(|number| self.input(number, Input::Wake));
            self.run();
        }
        self.told.remove(&key)
    }

    /// Submits requests that come together, in one round. How many flushes that is, at once.
    pub fn submit_together(&mut self, requests: impl IntoIterator<Item = (String, Work)>) -> usize {
        let (node, disks) = &mut self.nodes[0];
        let mut out = Vec::new();
        for (key, work) in requests {
            let key = RequestKey::new(key.as_bytes()).expect("short");
            node.take(self.now, Input::Submit(Request { key, work }), disks, &mut out);
        }
        let before = out.iter().filter(|output| matches!(output, Output::Disk { .. })).count();
        assert_eq!(before, 0, "a round that has not ended asks nothing of the disk");
        node.end_round(self.now, &mut out);
        let flushes = out.iter().filter(|output| matches!(output, Output::Disk { .. })).count();
        self.todo.extend(out.into_iter().map(|output| (0, output)));
        self.run();
        flushes
    }

    fn input(&mut self, number: usize, input: Input) {
        let (node, disks) = &mut self.nodes[number];
        let mut out = Vec::new();
        node.handle(self.now, input, disks, &mut out);
        self.todo.extend(out.into_iter().map(|output| (number, output)));
    }

    fn run(&mut self) {
        while let Some((number, output)) = self.todo.pop_front() {
            if number == 0
                && let Some(left) = self.crash_in.as_mut()
            {
                *left = left.wrapping_sub(1);
                if *left == u32::MAX {
                    self.crash_in = None;
                    self.todo.retain(|(number, _)| *number != 0);
                    self.start(0);
                    continue;
                }
            }
            match output {
                Output::Disk { slot, ops } => {
                    let result = self.nodes[number].1.perform(slot, &ops);
                    self.input(number, Input::Flushed { slot, result });
                }
                Output::Send { to, message } => {
                    *self.sent.entry(message.kind()).or_default() += 1;
                    if self.lost == Some(message.kind()) {
                        continue;
                    }
                    let from = NodeName::numbered(number as u64);
                    self.input(to.number() as usize, Input::Message { from, message });
                }
                Output::Reply { key, outcome } => {
                    self.told.insert(key, outcome);
                }
                Output::Appended { .. } | Output::Recovered { .. } | Output::Operated(_) => {}
                Output::Parked { .. } | Output::Heuristic { .. } | Output::Intervened(_) => {
                    panic!("{output:?}")
                }
                Output::Died { reason, .. } => panic!("{reason}"),
            }
        }
    }
}
