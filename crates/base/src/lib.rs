//! The words that every Trinity crate speaks: identifiers, time, keyed randomness and ratios.
//!
//! Nothing here reads a clock, a socket, a disk or global randomness. A value of [`Time`] is told to
//! a machine by whoever runs it; a [`prng::Key`] turns a seed and a question into the same answer on
//! every machine.
//!
//! ```
//! use base::{Epoch, OperationId, Time, prng::Key};
//! use std::time::Duration;
//!
//! // An operation's id holds the epoch of the coordinator that drew it.
//! let id = OperationId::draw(Epoch::new(3), 41).expect("41 fits in 40 bits");
//! assert_eq!((id.epoch(), id.counter()), (Epoch::new(3), 41));
//!
//! // Time is told, never read.
//! let later = Time::ZERO + Duration::from_millis(5);
//! assert_eq!(later - Time::ZERO, Duration::from_millis(5));
//!
//! // A draw is a function of its key, an entity and an occurrence: asking one question more moves
//! // no other answer.
//! let losses = Key::root(42).child("net.loss");
//! assert_eq!(losses.draw(7, 1).u64(), losses.draw(7, 1).u64());
//! assert_ne!(losses.draw(7, 1).u64(), losses.draw(7, 2).u64());
//! ```

pub mod bytes;
mod ids;
mod latency;
pub mod prng;
mod ratio;
mod time;

pub use ids::{
    BootCount, CoordinatorId, Epoch, NodeName, OperationId, ParentStep, RequestKey,
    RequestKeyTooLong, Sequence, ShardId, StoreId, Token,
};
pub use latency::Latency;
pub use ratio::{ParseRatioError, Ratio};
pub use time::Time;
