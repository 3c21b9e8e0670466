//! The trace's hash: one number for everything that happened in a run, in order.

use node::Message;

/// What tells a message from others, in 64 bits: its kind, operation, shard or step, and answer.
/// Two copies of a message have the same.
#[must_use]
pub fn digest(message: &Message) -> u64 {
    let mut digest = 0x4528_21E6_38D0_1377;
    message.digest(&mut |word| digest = fold(digest ^ word, 0xBE54_66CF_34E9_0C6C));
    digest
}

/// Both halves of a 128-bit product, xored.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// A running hash of 128 bits over words of 64. Fixed arithmetic on fixed widths: the same in every
/// build and on every processor.
///
/// Each word is folded into one half by a 64 x 64 -> 128 bit multiply, and the halves change
/// places, so that the order of words counts. It is for telling runs apart, not for secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    left: u64,
    right: u64,
    /// How many events were mixed in.
    events: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Trace { left: 0x243F_6A88_85A3_08D3, right: 0x1319_8A2E_0370_7344, events: 0 }
    }
}

impl Trace {
    /// Mixes one word in.
    pub fn word(&mut self, word: u64) {
        let folded = fold(self.left ^ word ^ 0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93);
        (self.left, self.right) = (self.right.rotate_left(23) ^ folded, folded.wrapping_add(word));
    }

    /// One more event begins.
    pub fn event(&mut self, at_nanos: u64, kind: u64) {
        self.events += 1;
        self.word(at_nanos);
        self.word(kind);
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash so far.
    pub fn hash(&self) -> u128 {
        let mut end = *self;
        end.word(self.events);
        end.word(self.right);
        u128::from(end.left) << 64 | u128::from(end.right)
    }
}
