//! A node in a process of your own: real files, timers, and futures that resolve when the outcome is
//! durable.
//!
//! [`start`] opens a node's two logs in a directory, recovers them, finishes what it finds there, and
//! takes requests. Everything that decides is in [`node::Node`], the same value that the simulator runs
//! six hundred of; this crate reads the clock, performs the disk operations and carries messages.
//!
//! Guaranteed: when [`Handle::submit`] resolves with `Committed`, `Completed` or `Compensated`, that is
//! durable, and true at every participant, or will be once it can be reached. The same request key is
//! the same operation, before and after a crash: ask again with the same key when in doubt. There is no
//! orderly way to stop that a crash would not be as good as; dropping the handle is one.
//!
//! Not guaranteed, and narrow on purpose: messages stay in this process (see [`Network`]); a node runs
//! on one thread, its two logs share it; what a branch or a step does is limited to
//! [`node::work`]'s numbered cells.
//!
//! The futures need no particular executor.
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
//! let transfer = |key: &[u8]| -> Result<Request, Box<dyn std::error::Error>> {
//!     let branch = |shard, cell, amount| Branch {
//!         shard: ShardId::numbered(shard),
//!         node: bank,
//!         work: work::encode(&[Change::Add { cell, amount }]),
//!     };
//!     let branches = vec![branch(1, 100, -40), branch(2, 200, 40)];
//!     Ok(Request { key: RequestKey::new(key)?, work: Work::Transaction(branches) })
//! };
//!
//! let (node, _) = start(folder.path(), Options::new(bank), &network).await?;
//! assert_eq!(node.submit(transfer(b"rent, May")?).await?, Outcome::Committed);
//! drop(node); // as good as a crash
//!
//! let (node, recovered) = start(folder.path(), Options::new(bank), &network).await?;
//! assert!(recovered.iter().all(|log| log.anomalies.total() == 0));
//! // It was done before: asking again does not pay the rent twice.
//! assert_eq!(node.submit(transfer(b"rent, May")?).await?, Outcome::Committed);
//! node.quiet().await?;
//! assert_eq!(node.value(100).await?, -40);
//! # Ok(()) }
//! ```

mod disks;
mod network;
mod process;

pub use network::Network;
pub use process::{Handle, Options, StartError, Stopped, start};
