//! One node of the storage network: a coordinator, a participant and its locks behind one inbox and
//! one outbox.
//!
//! A [`Node`] is a value. It is told `(now, input)` and adds to a list what it wants done; it reads no
//! clock, no socket and no global randomness, and it touches a disk only through the read side of
//! [`Disks`] while it recovers. A simulated world runs hundreds of them in one thread; a process runs
//! one over files and sockets.
//!
//! Guaranteed, if the shell performs a node's outputs in order and reports each flush: nothing that a
//! node says or does rests on a record that a crash could take back. Not guaranteed: that a message
//! arrives, that a request whose client crashed is heard of again.
//!
//! ```
//! use base::{CoordinatorId, NodeName, RequestKey, ShardId, Time, prng::Key};
//! use node::{Branch, Config, Input, LogSlot, Node, Output, Request, Work, work::Change};
//! use wal_core::{MemoryStorage, OpenMode, Storage};
//!
//! // A node that coordinates and takes part, over two logs in memory.
//! let name = NodeName::numbered(1);
//! let mut disks = node::MemoryDisks::default();
//! let config = Config::both(name, 77, Key::root(1));
//! let (mut todo, mut told) = (Vec::new(), Vec::new());
//! let mut node = Node::start(config, OpenMode::Exclusive, Time::ZERO, &disks, &mut todo);
//!
//! let request = Request {
//!     key: RequestKey::new(b"first")?,
//!     work: Work::Transaction(vec![Branch {
//!         shard: ShardId::numbered(9),
//!         node: name,
//!         work: node::work::encode(&[Change::Add { cell: 3, amount: 40 }]),
//!     }]),
//! };
//! let mut request = Some(request);
//! while !todo.is_empty() {
//!     for output in std::mem::take(&mut todo) {
//!         let input = match output {
//!             Output::Disk { slot, ops } => Input::Flushed { slot, result: disks.perform(slot, &ops) },
//!             Output::Send { message, .. } => Input::Message { from: name, message },
//!             Output::Reply { outcome, .. } => { told.push(outcome); continue }
//!             _ => continue,
//!         };
//!         node.handle(Time::ZERO, input, &disks, &mut todo);
//!         if node.is_ready() && let Some(request) = request.take() {
//!             node.handle(Time::ZERO, Input::Submit(request), &disks, &mut todo);
//!         }
//!     }
//! }
//! assert_eq!(told, [node::Outcome::Committed]);
//! assert_eq!(node.participant().expect("it takes part").store().value(3), 40);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod disks;
mod host;
mod locks;
mod node;
mod steps;
mod store;
mod table;
mod timers;
pub mod work;

pub use coordinator::{
    Branch, Doubtful, Force, ForceError, Intervened, Intervention, LogSlot, Message, MessageKind,
    Operated, OrderError, Outcome, Output, RecoveryReport, Refusal, Request, Work,
};
pub use disks::{Disks, MemoryDisks};
pub use host::{Config as ParticipantConfig, Host, Stats as ParticipantStats};
pub use locks::{FencingToken, Grant, Held, Holder, LockTable};
pub use node::{Config, Input, Node};
pub use steps::StepLedger;
pub use store::Store;
