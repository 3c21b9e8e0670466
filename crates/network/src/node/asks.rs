//! What a node wants of the ledger, one thing after the other.

use super::StorageNode;
use super::face::Answer;
use crate::message::Message;
use base::bytes::Writer;
use base::{Time, Token};
use incentives::Ask;
use store::Digest;

/// The key of what is wanted of the ledger: a client's number with what it asks for, so that a client that
/// asks again after its node has crashed asks for the same. What nobody waits for is told apart by what it
/// says, such as its evidence.
fn ledger_key(number: u64, ask: &Ask) -> Token {
    let mut bytes = Writer::default();
    bytes.u64(number);
    ask.encode(&mut bytes);
    let digest = Digest::of(&bytes.finish());
    Token(digest.0[..16].try_into().expect("a digest has 32 bytes"))
}

impl StorageNode {
    /// Something is wanted of the ledger. Number 0: nobody waits.
    pub(crate) fn want(&mut self, now: Time, number: u64, ask: Ask) {
        let key = ledger_key(number, &ask);
        if self.asks.iter().any(|(_, other, _)| *other == key) {
            return;
        }
        self.asks.push_back((number, key, ask));
        if self.asks.len() == 1 {
            self.ask_next(now);
        }
    }

    /// Asks for what is wanted next, under a number that no request of any life of this node has had: a
    /// message of an earlier one may still be on its way, and its answer must not be taken for this one's.
    fn ask_next(&mut self, now: Time) {
        self.ask_number = self.draw_number();
        self.say_ask(now);
    }

    pub(super) fn say_ask(&mut self, now: Time) {
        let Some((_, key, ask)) = self.asks.front() else {
            self.ask_again = None;
            return;
        };
        self.ask_again = Some(now + self.config.patience);
        let message = Message::Ask { number: self.ask_number, key: *key, ask: ask.clone() };
        self.send(self.config.authority, message);
    }

    pub(super) fn asked(&mut self, now: Time, number: u64, done: bool) {
        if number != self.ask_number {
            return;
        }
        if let Some((number, ..)) = self.asks.pop_front()
            && number > 0
        {
            self.tell(number, Answer::Ledger { done });
        }
        self.ask_next(now);
    }
}
