//! An event loop written by hand, with nothing that a simulator of a system needs: a ceiling. And the
//! same with what ours does to each message besides running nodes: encoded, checksummed, hashed into a
//! trace.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::protocol::{AGAIN_MS, Chance, DOWN_MS, Kind, Message, Node, Workload};

const MS: u64 = 1_000_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Message(u32),
    Ask(u32),
    Crash(u32),
    Start(u32),
}

/// What becomes of each message on its way.
pub trait Care {
    fn sent(&mut self, message: &Message);
}

/// Nothing.
pub struct Careless;

impl Care for Careless {
    fn sent(&mut self, _: &Message) {}
}

/// It is encoded, checksummed and hashed.
#[derive(Default)]
pub struct Careful {
    trace: u64,
    committed: std::collections::BTreeSet<u32>,
}

impl Care for Careful {
    fn sent(&mut self, message: &Message) {
        let mut bytes = [0; 64];
        for (at, word) in [message.from, message.to, message.transaction].into_iter().enumerate() {
            bytes[at * 8..at * 8 + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes[24] = message.kind as u8;
        let checksum = u64::from(crc32fast::hash(&bytes));
        self.trace = (self.trace.rotate_left(23) ^ checksum).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        match message.kind {
            Kind::Commit => _ = self.committed.insert(message.transaction),
            Kind::Abort => assert!(!self.committed.contains(&message.transaction), "one decision"),
            _ => {}
        }
    }
}

/// Runs a world; returns how many messages arrived.
pub fn run(workload: &Workload, seed: u64, mut care: impl Care) -> u64 {
    let chance = Chance::new(seed);
    let mut nodes: Vec<Node> =
        (0..workload.nodes).map(|node| Node::new(node, workload, &chance)).collect();
    let mut down = vec![false; workload.nodes as usize];
    let mut messages: Vec<Message> = Vec::new();
    let mut free: Vec<u32> = Vec::new();
    let mut queue = BinaryHeap::new();
    let (mut tie, mut sent, mut delivered) = (0_u64, 0, 0);
    let mut out = Vec::new();
    for node in 0..workload.coordinators {
        queue.push(Reverse((0, tie, What::Ask(node))));
        tie += 1;
    }
    for crash in 0..workload.crashes {
        let at = workload.first_crash_ms + workload.every_crash_ms * u64::from(crash);
        queue.push(Reverse((at * MS, tie, What::Crash(crash))));
        tie += 1;
    }
    while let Some(Reverse((now, _, what))) = queue.pop() {
        match what {
            What::Message(place) => {
                let message = messages[place as usize];
                free.push(place);
                if down[message.to as usize] {
                    continue;
                }
                delivered += 1;
                nodes[message.to as usize].receive(message, &mut out);
            }
            What::Ask(node) => {
                let Some(coordinator) = &nodes[node as usize].coordinator else { continue };
                if !coordinator.is_done() {
                    if !down[node as usize] {
                        coordinator.ask(&mut out);
                    }
                    queue.push(Reverse((now + AGAIN_MS * MS, tie, What::Ask(node))));
                    tie += 1;
                }
            }
            What::Crash(node) => {
                down[node as usize] = true;
                queue.push(Reverse((now + DOWN_MS * MS, tie, What::Start(node))));
                tie += 1;
            }
            What::Start(node) => {
                down[node as usize] = false;
                if let Some(coordinator) = &mut nodes[node as usize].coordinator {
                    coordinator.restarted(&mut out);
                }
            }
        }
        for message in out.drain(..) {
            sent += 1;
            care.sent(&message);
            let Some(way) = chance.way(sent) else { continue };
            let place = free.pop().unwrap_or_else(|| {
                messages.push(message);
                messages.len() as u32 - 1
            });
            messages[place as usize] = message;
            queue.push(Reverse((now + way, tie, What::Message(place))));
            tie += 1;
        }
    }
    assert!(nodes.iter().filter_map(|node| node.coordinator.as_ref()).all(|one| one.is_done()));
    delivered
}
