//! Keeping shards alive: read them again, have their holders prove that they have them, and rebuild
//! what is lost, within a budget.
//!
//! | part | what | runs |
//! |---|---|---|
//! | [`Scrubber`] | which shard a node reads again next, at a paced rate | on each node, over its own store |
//! | [`BadCopies`] | *which node's* copy of which shard is bad | wherever repairs are planned |
//! | [`Auditor`], [`respond`] | challenges with a nonce and a deadline; answers checked against a Merkle root alone | verifier, prover |
//! | [`RepairPlanner`] | from damage to a verified replacement on another node | wherever repairs are planned |
//! | [`TokenBucket`], [`Breaker`] | how much, and whether at all | within the planner |
//!
//! All of them are values: told the time and what happened, they say what they want. None calls a
//! node; what they want is messages for the shell to send, and what comes back is told to them.
//!
//! ```
//! use base::{NodeName, Time};
//! use repair::{AuditConfig, Auditor, Outcome, respond};
//! use std::time::Duration;
//! use store::{Digest, merkle};
//!
//! let shard = vec![7; 4_000];
//! let (name, root) = (Digest::of(&shard), merkle::root(&shard));
//! let holder = NodeName::numbered(4);
//!
//! // The verifier has the root and no byte of the shard. Its secret comes from a source of entropy.
//! let mut auditor = Auditor::new(AuditConfig::default(), 0x5ec7e7);
//! let challenge = auditor.challenge(Time::ZERO, holder, name, root)?;
//! let answer = respond(&challenge, Some(&shard));
//!
//! let soon = Time::ZERO + Duration::from_secs(2);
//! assert_eq!(auditor.answer(soon, holder, &answer)?.outcome, Outcome::Passed);
//! assert!(auditor.answer(soon, holder, &answer).is_err(), "once is enough: this is a replay");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it guarantees
//!
//! - A node speaks of its own copies only, and an answer counts only from the node that was asked: the
//!   types have no room for blame of others.
//! - No answer in time is a failure, like a wrong one.
//! - A repair uses no bytes whose digest is wrong, counts as done only when the new holder has read its
//!   copy again and found it right, and ends: it succeeds, or is given up with a reason.
//!
//! # What it does not
//!
//! A proof shows that the prover could get at those blocks within the deadline, not that they are on its
//! own disk. Everything here is volatile: after a restart, scrubs and audits find again what is bad.
//! Files are re-encoded by whoever has their key: [`store::encode`] with the scheme that
//! [`erasure::SchemePolicy::reencode`] names.

mod audit;
mod budget;
mod planner;
mod scrub;

pub use audit::{
    Answer, AuditConfig, Auditor, Busy, Challenge, Failure, Ignored, Outcome, Verdict, respond,
};
pub use budget::{Admission, Breaker, BreakerConfig, Position, TokenBucket};
pub use planner::{
    Config, Damage, GaveUp, Need, Output, PlanId, RepairPlanner, Source, Stats, StripeId, Unusable,
};
pub use scrub::{BadCopies, ScrubConfig, Scrubber};
