//! Sagas and transactions in a process of your own: real files, timers, and futures that resolve when the
//! outcome is durable.
//!
//! [`Coordinator::open`] takes a folder for its log, *actions* (what the steps of sagas do, and how it is
//! undone) and *participants* (stores that take part in transactions). It recovers what it finds, goes on
//! with what is unfinished, and takes requests:
//!
//! ```
//! use runtime::{Action, Answer, Call, Coordinator, Definition, Outcome, step};
//! use std::{error::Error, time::Duration};
//!
//! /// A step of a saga. See [`Action`] for what one that changes something has to keep.
//! struct Say(&'static str);
//! impl Action for Say {
//!     async fn run(&self, call: Call) -> Result<Answer, Box<dyn Error + Send + Sync>> {
//!         println!("{} {:?}", self.0, call.input);
//!         Ok(Answer::Done)
//!     }
//!     async fn undo(&self, _: Call) -> Result<Answer, Box<dyn Error + Send + Sync>> {
//!         Ok(Answer::Done)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
//! # let folder = tempfile::tempdir()?;
//! let open = || Coordinator::open(&folder).action("pay", Say("pay")).action("ship", Say("ship"));
//! let shop = open().start().await?;
//! let order = || -> Result<Definition, Box<dyn Error + Send + Sync>> {
//!     let mut order = Definition::builder();
//!     let paid = order.step(step("pay", *b"40 coins")?);
//!     order.step(step("ship", *b"a book")?.after(paid));
//!     Ok(order.build()?)
//! };
//! let mut first = shop.submit("order 17", order()?)?;
//! assert_eq!(first.outcome().await?, Outcome::Completed);
//! drop(shop); // as good as a crash
//!
//! // The next process asks again, under the same key: it was done before, and is not done again.
//! let shop = open().start().await?;
//! assert_eq!(shop.submit("order 17", order()?)?.outcome().await?, Outcome::Completed);
//! shop.shutdown(Duration::from_secs(10)).await?;
//! # Ok(()) }
//! ```
//!
//! A step may give something to later ones ([`Answer::Gave`], [`Call::given_by`]), and whoever submitted the saga
//! reads it from its handle. What cannot end by itself is listed, and an operator orders what becomes of it:
//!
//! ```
//! use runtime::{Action, Answer, Call, Coordinator, Definition, Outcome, ValueType, What, step};
//! use std::{error::Error, time::Duration};
//! # type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;
//!
//! /// Reserves a seat and says which; cannot give it back by itself.
//! struct Reserve;
//! impl Action for Reserve {
//!     async fn run(&self, _: Call) -> Result<Answer> {
//!         Ok(Answer::Gave((*b"12A").into()))
//!     }
//!     async fn undo(&self, _: Call) -> Result<Answer> {
//!         Err("somebody has to phone the airline".into())
//!     }
//!     async fn mark_undone(&self, _: Call) -> Result<Answer> {
//!         Ok(Answer::Done)
//!     }
//! }
//!
//! /// Pays for a seat, unless it is in the first row.
//! struct Pay;
//! impl Action for Pay {
//!     async fn run(&self, call: Call) -> Result<Answer> {
//!         let seat = call.given_by(0).ok_or("no seat")?;
//!         Ok(if seat.starts_with(b"1") { Answer::Refused { code: 1 } } else { Answer::Done })
//!     }
//!     async fn undo(&self, _: Call) -> Result<Answer> {
//!         Ok(Answer::Done)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! # let folder = tempfile::tempdir()?;
//! let desk = Coordinator::open(&folder)
//!     .resend_after(Duration::from_millis(1))
//!     .undo_attempts_max(2)
//!     .action("reserve", Reserve)
//!     .action("pay", Pay)
//!     .start()
//!     .await?;
//! let mut trip = Definition::builder();
//! let seat = trip.step(step("reserve", *b"a window")?.gives(ValueType::Text));
//! trip.step(step("pay", *b"cash")?.after(seat).takes(seat, ValueType::Text));
//! let mut trip = desk.submit("trip 3", trip.build()?)?;
//!
//! let parked = loop {
//!     if let Some(parked) = desk.stuck().await?.parked.pop() {
//!         break parked;
//!     }
//!     tokio::time::sleep(Duration::from_millis(1)).await;
//! };
//! assert_eq!(trip.outputs().await?.len(), 1);
//! let audit = ("ann", "the airline took seat 12A back by phone");
//! desk.order(parked.saga, parked.step, What::MarkDone, audit).await?;
//! assert_eq!(trip.outcome().await?, Outcome::Compensated);
//! # Ok(()) }
//! ```
//!
//! A transaction changes several stores, or none: `bank.transaction("rent, May", |tx| { tx.at("north", pay)
//! .at("south", receive); })`. A store takes part by implementing [`Participant`], two functions that are one
//! local transaction each. The examples `order` and `transfer` do both over SQLite files, and survive being
//! killed at any moment.
//!
//! A step may be a transaction ([`transaction_step`]) or a saga of its own ([`Step::saga`](saga::Step::saga)), in
//! the same log; what undoes it is a transaction too, an action ([`undone_by`]), or the sub-saga's own
//! compensations. [`Coordinator::stuck`] says which step waits for which.
//!
//! Guaranteed:
//!
//! - an outcome is told once it is durable, and is the same for the same key ever after, over crashes;
//! - `Committed`: every participant has made its change, or will once it can be reached; `Aborted`: none
//!   has, nor ever will;
//! - `Completed`: every step has had its effect; `Compensated` and `SagaAborted`: none has one, nor ever
//!   will. This rests on the actions keeping their tokens;
//! - one operation that cannot go on, such as a step whose action this start was opened without, delays no
//!   other, and is not lost.
//!
//! Not guaranteed, and narrow on purpose: actions and participants are in this process (what they talk to
//! need not be); entries of a participant's store are never discarded; what steps have given is known as long
//! as their saga's result is.
//!
//! # Nodes
//!
//! [`start`] runs a whole [`node::Node`], the same value that the simulator runs six hundred of, whose
//! participant has a log and data of its own: numbered cells ([`node::work`]). Messages between the nodes of
//! one process are carried by a [`Network`], to those of other processes over its [`Links`]. Its futures need no particular executor; a [`Coordinator`] needs
//! tokio.
//!
//! ```
//! use base::{NodeName, RequestKey, ShardId};
//! use node::{Branch, Outcome, Request, Work, work::{self, Change}};
//! use runtime::{Network, Options, start};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let (network, bank) = (Network::default(), NodeName::numbered(1));
//! let branch = |shard, cell, amount| Branch {
//!     shard: ShardId::numbered(shard),
//!     node: bank,
//!     work: work::encode(&[Change::Add { cell, amount }]),
//! };
//! let rent = Request {
//!     key: RequestKey::new(b"rent, May")?,
//!     work: Work::Transaction(vec![branch(1, 100, -40), branch(2, 200, 40)]),
//! };
//! let (node, recovered) = start(folder.path(), Options::new(bank), &network).await?;
//! assert!(recovered.iter().all(|log| log.anomalies.total() == 0));
//! assert_eq!(node.submit(rent).await?, Outcome::Committed);
//! node.quiet().await?;
//! assert_eq!(node.value(100).await?, -40);
//! # Ok(()) }
//! ```

mod action;
mod coordinator;
mod disks;
mod force;
mod links;
mod network;
mod operator;
mod participant;
mod process;
mod scrubber;
mod stats;

pub use crate::action::{Action, Answer, Call};
pub use crate::coordinator::{
    Builder, Coordinator, Drained, NameError, OpenError, Operation, SubmitError, Transaction,
    branches, step, transaction_step, undone_by,
};
pub use crate::force::{BranchOf, ForceRefused, ForcedBranch, HeuristicBranch};
pub use crate::participant::{Change, Entry, Opened, Participant, StoreError, Write, Written};
pub use ::coordinator::StepOperation;
pub use base::{ParentStep, RequestKeyTooLong};
pub use links::{LinkStats, Links};
pub use network::Network;
pub use node::{Doubtful, Force, ForceError, OrderError, Outcome, RecoveryReport, Refusal};
pub use operator::{OrderRefused, Parked, Retrying, Stuck};
pub use process::{Handle, Options, StartError, Status, Stopped, start};
pub use saga::{Definition, DefinitionError, Output, Step, StepInput, StepKind, ValueType, What};
pub use scrubber::Scrubbed;
pub use stats::{LogStats, Observer, Stats};
pub use twopc::{Audit, ForceRefusal, Heuristic};
pub use wal_core::{ScrubConfig, Writes};
