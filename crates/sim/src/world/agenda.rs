//! What will happen and when, and the messages that are on their way.

use super::{IS_MESSAGE, KIND_SHIFT, NUMBER};
use crate::queue::{AnyQueue, Entry, Queue, QueueKind, Slab};
use base::Time;
use node::{LogSlot, Message};

/// Something that will happen, but for messages: those are in a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    SyncDone {
        process: u32,
        slot: LogSlot,
    },
    Wake {
        process: u32,
    },
    Fault,
    FaultEnds,
    Start {
        boot: u32,
    },
    Resume {
        process: u32,
    },
    Retire {
        process: u32,
    },
    Ask,
    NextWave,
    /// An operator looks at what its coordinator could not finish.
    Operate,
    Cancel,
    /// A client that was answered asks again.
    AskAgain {
        /// For something else, under the same key.
        other: bool,
    },
}

impl What {
    /// Its kind, and which process or boot it is about.
    fn parts(self) -> (u32, u32) {
        match self {
            Self::SyncDone { slot: LogSlot::Coordinator, process } => (2, process),
            Self::SyncDone { slot: LogSlot::Participant, process } => (3, process),
            Self::Wake { process } => (4, process),
            Self::Fault => (5, 0),
            Self::FaultEnds => (6, 0),
            Self::Start { boot } => (7, boot),
            Self::Resume { process } => (8, process),
            Self::Retire { process } => (9, process),
            Self::Ask => (10, 0),
            Self::NextWave => (11, 0),
            Self::Operate => (12, 0),
            Self::Cancel => (13, 0),
            Self::AskAgain { other } => (14, u32::from(other)),
        }
    }

    /// It as an entry's `what`.
    fn pack(self) -> u32 {
        let (kind, of) = self.parts();
        assert!(of <= NUMBER, "a node starts fewer than 2^27 times");
        kind << KIND_SHIFT | of
    }

    pub(super) fn unpack(what: u32) -> What {
        let of = what & NUMBER;
        match what >> KIND_SHIFT {
            2 => Self::SyncDone { slot: LogSlot::Coordinator, process: of },
            3 => Self::SyncDone { slot: LogSlot::Participant, process: of },
            4 => Self::Wake { process: of },
            5 => Self::Fault,
            6 => Self::FaultEnds,
            7 => Self::Start { boot: of },
            8 => Self::Resume { process: of },
            9 => Self::Retire { process: of },
            10 => Self::Ask,
            11 => Self::NextWave,
            12 => Self::Operate,
            13 => Self::Cancel,
            14 => Self::AskAgain { other: of == 1 },
            kind => unreachable!("no event is of kind {kind}: `pack` makes none"),
        }
    }
}

/// A message on its way: with its place in the slab, and its sender there, two lines of the cache.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Envelope {
    pub(super) digest: u64,
    pub(super) message: Message,
}

/// Everything that is to come.
#[derive(Clone, Debug)]
pub(super) struct Agenda {
    pub(super) queue: AnyQueue,
    /// Each with its sender.
    pub(super) messages: Slab<Envelope>,
    pub(super) scheduled: u64,
}

impl Agenda {
    pub(super) fn new(kind: QueueKind, nodes: u32) -> Agenda {
        Agenda { queue: AnyQueue::new(kind, nodes), messages: Slab::default(), scheduled: 0 }
    }

    pub(super) fn schedule(&mut self, at: Time, target: u32, what: What) {
        self.push(at, target, what.pack());
    }

    /// An envelope that arrives then, for a message to be put into.
    pub(super) fn deliver(&mut self, at: Time, from: u32, to: u32, digest: u64) -> &mut Message {
        let (place, envelope) = self.messages.take(from);
        assert!(place < IS_MESSAGE, "fewer than 2^31 messages are on their way");
        self.scheduled += 1;
        self.queue.push(Entry { at, tie: self.scheduled, target: to, what: place | IS_MESSAGE });
        envelope.digest = digest;
        &mut envelope.message
    }

    pub(super) fn push(&mut self, at: Time, target: u32, what: u32) {
        self.scheduled += 1;
        self.queue.push(Entry { at, tie: self.scheduled, target, what });
    }
}
