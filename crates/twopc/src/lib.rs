//! Two-phase commit with presumed abort, as two pure machines: the coordinator's [`Transaction`] and
//! the [`Participant`].
//!
//! Both have the same four verbs. `decide` looks at an input and says at most one fact to log; `apply`
//! takes a logged fact and is the only writer of durable state, live and in recovery alike; `settle`
//! says what the state itself owes the log; `pending` says what is owed to the world. So recovery is
//! replay: apply the log, tell the machine [`coordinator::Input::Restarted`], settle, and send what is
//! pending.
//!
//! Guaranteed, if the caller holds each effect back until the record that it names is durable:
//! a transaction commits only on every participant's vote and a durable decision; no two participants
//! end differently; a participant that voted yes never decides alone and never forgets.
//!
//! Not here: the log, the network, time, and what a participant does with its data. A transaction is
//! blocked while its coordinator *and* all knowing participants are away; that is the price of 2PC. An operator
//! may end a branch or a transaction that is in doubt; what comes of that is in [`heuristic`].
//!
//! Rules: Mohan, Lindsay, Obermarck 1986 (presumed abort in R*); Lampson and Lomet 1993; Bernstein,
//! Hadzilacos, Goodman, chapter 7 (cooperative termination).
//!
//! ```
//! use base::{CoordinatorId, NodeName, OperationId, Sequence, ShardId};
//! use twopc::coordinator::{Effect, Input, Member, Transaction};
//! use twopc::Vote;
//!
//! let shard = ShardId::numbered(7);
//! let members = [Member::new(shard, NodeName::numbered(1))];
//! let mut admission = Transaction::admission(CoordinatorId::numbered(0), None, None, &members)?;
//! let mut log = 1u64; // the log gives sequence numbers
//! let created = admission.remove(0);
//! let mut tx = Transaction::created(OperationId(1), Sequence(log), &created)?;
//! for event in admission {
//!     log += 1;
//!     tx.apply(Sequence(log), &event)?;
//! }
//!
//! // The only participant votes; the machine wants the vote logged, then owes the decision.
//! let vote = tx.decide(&Input::Vote { shard, vote: Vote::Commit }).expect("a first vote");
//! tx.apply(Sequence(4), &vote)?;
//! let decision = tx.settle().expect("all voted commit");
//! tx.apply(Sequence(5), &decision)?;
//!
//! // COMMIT may leave once record 5 is durable.
//! let mut owed = Vec::new();
//! tx.pending(&mut owed);
//! assert!(owed.contains(&Effect::Commit { member: 0, after: Sequence(5) }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod coordinator;
pub mod heuristic;
mod illegal;
mod message;
pub mod participant;
mod promises;
mod watermark;

pub use coordinator::Transaction;
pub use heuristic::{Audit, ForceRefusal, Heuristic};
pub use illegal::IllegalTransition;
pub use message::{Message, Peer, PeerVerdict, TxKey, Verdict, Vote};
pub use participant::Participant;
pub use watermark::Watermark;
