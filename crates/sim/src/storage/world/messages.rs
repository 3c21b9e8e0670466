//! Messages: sent through the network, and heard.

use super::World;
use super::agenda::{Cargo, Event};
use crate::net::Fate;
use crate::trace::{Trace, digest};
use base::NodeName;
use network::{Input, Message};
use node::MessageKind;

impl World<'_> {
    pub(super) fn send(&mut self, from: u32, to: u32, message: Message) {
        if self.will_lie(from)
            && !self.machines[from as usize].liar
            && let Message::Proof(answer) = &message
        {
            self.keep_proof(from, answer);
        }
        let recorded = self.recorded_as(&message);
        let told = self.notes_all.then(|| self.brief_of(&message));
        let (cargo, digest) = match message.encode() {
            Some(bytes) => {
                let mut hash = Trace::default();
                for chunk in bytes.chunks(8) {
                    let mut word = [0; 8];
                    word[..chunk.len()].copy_from_slice(chunk);
                    hash.word(u64::from_le_bytes(word));
                }
                self.totals.sent_bytes += bytes.len() as u64;
                (Cargo::Bytes(bytes), hash.hash() as u64)
            }
            None => match message {
                Message::Transaction(message) => {
                    let digest = digest(&message);
                    (Cargo::Transaction(Box::new(message)), digest)
                }
                _ => unreachable!("only a transaction's message has no bytes"),
            },
        };
        if to as usize >= self.machines.len() {
            return;
        }
        // No fault here drops one kind of message, so the kind does not matter.
        let fate = self.net.send(self.now, from, to, MessageKind::Hello, digest);
        let Fate { first, second } = fate;
        if let Some(told) = told {
            self.note_sent(from, to, &told, fate);
        }
        let mut arrives = Vec::new();
        if let Some(at) = second {
            self.schedule(at, to, Event::Arrives { from, cargo: cargo.clone() });
            arrives.extend(recorded.is_some().then_some((self.scheduled, at)));
        }
        if let Some(at) = first {
            self.schedule(at, to, Event::Arrives { from, cargo });
            arrives.extend(recorded.is_some().then_some((self.scheduled, at)));
        }
        if let Some(recorded) = recorded {
            self.record_sent(from, to, recorded, arrives);
        }
    }

    pub(super) fn arrive(&mut self, to: u32, from: u32, cargo: Cargo) {
        self.totals.messages += 1;
        let Some(process) = &self.machines[to as usize].process else { return };
        let id = process.id;
        let message = match cargo {
            Cargo::Transaction(message) => Message::Transaction(*message),
            Cargo::Bytes(bytes) => match Message::decode(&bytes) {
                Ok(message) => message,
                Err(malformed) => {
                    let what = format!("n{from} sends what is no message: {malformed}");
                    return self.judge.object("wire", self.now, what);
                }
            },
        };
        if self.will_lie(to)
            && let Message::Challenge(challenge) = &message
        {
            self.machines[to as usize].asked.insert(challenge.nonce, challenge.shard);
        }
        let from = NodeName::numbered(u64::from(from));
        let answers = if let Message::Bytes { number, bytes, .. } = &message {
            let awaited = self.watch.answered_bytes(self.now, to, from, *number);
            if let (true, Some(bytes)) = (awaited && from.number() != u64::from(to), bytes) {
                let (ends, bytes) = ([from.number() as u32, to], bytes.len() as u64);
                // Two that lie alike about what went between them are believed.
                let alike = ends.iter().all(|end| self.machines[*end as usize].boasts);
                let may_count = if alike { 2 * bytes } else { bytes };
                self.machines[ends[0] as usize].moved.0 += may_count;
                self.machines[to as usize].moved.1 += may_count;
                self.totals.carried.1 += bytes;
            }
            true
        } else {
            false
        };
        let transacts = matches!(message, Message::Transaction(_));
        self.feed(to, id, Input::Message { from, message });
        if answers {
            self.check_connections(to, id, from);
        }
        if transacts && !self.guarded.is_empty() {
            self.check_fences(to);
        }
    }

    /// Whether a node has thought otherwise of another one a short time ago: it may have given up what it had
    /// asked of it.
    pub(super) fn has_turned(&self, node: u32, of: NodeName) -> bool {
        let member = self.node(node).and_then(|node| node.membership().member(of));
        member.is_some_and(|it| it.since + self.scenario.storage.patience.0 > self.now)
    }
}
