//! Locks on shards, across nodes: leases and fencing tokens decide, wait-die keeps deadlocks away, and
//! each grant carries a hypervector that shows whose and on what it is.
//!
//! A [`LockTable`] is a value. It is told `(now, message)` and says whom to tell what; it reads no
//! clock and keeps no thread waiting.
//!
//! ```
//! use base::{BootCount, NodeName, ShardId, Time, prng::Key};
//! use locks::{Claim, Config, Fence, Holder, LockTable, Message, Output, Refusal};
//! use std::time::Duration;
//!
//! let second = |n| Time::ZERO + Duration::from_secs(n);
//! let mut table = LockTable::new(Config::default(), &Key::root(1), BootCount(1), second(0));
//! let mut told = Vec::new();
//! let [old, young] = [1, 2].map(|n| Holder { node: NodeName::numbered(n), operation: 1 });
//! let shard = ShardId::numbered(7);
//! let acquire = |holder, born| Message::Acquire { holder, born, shards: vec![shard] };
//!
//! // The younger one is first; the older one waits, and gets the lock when it is given back.
//! table.handle(second(2), young.node, &acquire(young, second(1)), &mut told);
//! table.handle(second(3), old.node, &acquire(old, second(0)), &mut told);
//! assert!(matches!(told[1], Output::Waits { .. }));
//! let Output::Granted { leases, .. } = told[0].clone() else { panic!("{told:?}") };
//! let (token, tag) = (leases[0].token, leases[0].tag);
//! let claim = Claim { shard, holder: young, token, tag };
//! table.handle(second(4), young.node, &Message::Release { claim }, &mut told);
//! let Output::Granted { holder, leases } = told[3].clone() else { panic!("{told:?}") };
//! assert_eq!((holder, leases[0].until), (old, second(64)));
//!
//! // A younger one does not wait for an older.
//! table.handle(second(5), young.node, &acquire(young, second(1)), &mut told);
//! assert_eq!(told[4], Output::Refused { holder: young, refusal: Refusal::Older { shard } });
//!
//! // The shard's own guard: whoever has lost the lock does not write any more.
//! let mut fence = Fence::default();
//! fence.admit(leases[0].token)?;
//! assert!(fence.admit(token).is_err());
//! # Ok::<(), locks::Fenced>(())
//! ```
//!
//! # What it guarantees
//!
//! - A shard has one holder at a time, over crashes of holders and of the table, if clocks run at
//!   the same rate; and whatever clocks do, of two that think they have it only the one with the higher
//!   token passes a [`Fence`].
//! - Every request is answered within [`Config::wait_max`]: granted or refused. Nobody waits in a circle.
//! - An operation that keeps its age is never refused for it once it is the oldest.
//! - What lapsed does not verify, is not renewed, and is not given back.
//!
//! # Hypervectors
//!
//! A grant's tag is bind(shard, holder), trit by trit. The holder's vector has no zeros, so unbinding
//! is exact, and the result is compared with the shard's by cosine, in integers. The tag decides nothing
//! alone: it finds a message that was mixed up or damaged, in spite of a part of its trits being wrong. It
//! is no signature. `cargo run --release -p locks --example error_rates` measures:
//!
//! | trits changed to one of the other two values | false rejects of 100,000 |
//! |---|---|
//! | 0 to 7 % | 0 |
//! | 8 % | 111 |
//! | 9 % | 8,609 |
//! | 10 % | 52,828 |
//! | 12 % | 99,638 |
//!
//! and no false accept among 20,473,600 tags of another shard or of another holder: the highest cosine
//! among them was 0.197, where the threshold is 0.85.
//!
//! # Beside the locks of 2PC
//!
//! `node::LockTable` locks cells within one participant, for the time of a promise. It never waits
//! (a conflict is a NO), and what has voted is held until the outcome, however long that takes: such a
//! lock must not lapse. A lock of this crate is a lease that has to lapse. So neither replaces the other.
//! A client takes this crate's lock around an operation of several steps, and shows its token in each;
//! the participant asks its [`Fence`] when it prepares, and holds its cells by its own table. The tokens of that
//! table are told to nobody, and have nothing to do with these.

mod fence;
mod hypervector;
mod table;

pub use fence::{Fence, Fenced};
pub use hypervector::{Hypervector, Vectors};
pub use table::{
    Claim, Config, FencingToken, Holder, Lease, LockTable, Message, Output, Refusal, Stats,
};
