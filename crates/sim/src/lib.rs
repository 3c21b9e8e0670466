//! A world of virtual nodes in one thread, from one seed: their disks, network and clients, the
//! faults that strike them, and judges that share no code with what they judge.
//!
//! The nodes are the ones that run in production ([`node::Node`]); nothing in them knows that it is
//! simulated. Faults live in the world: see the heads of `disk` and `net` for what may go wrong,
//! and [`plan`] for when. The same scenario and seed give the same run, event for event, in every
//! build and process; [`Report::hash`] proves it.
//!
//! What it does not show: bugs of the file and socket shells, which it replaces; faults that it
//! does not know (stale and misdirected sectors among them).
//!
//! ```
//! let scenario = sim::Scenario::parse(
//!     "example.toml",
//!     r#"
//!     format = 1
//!     name = "example"
//!     [cluster]
//!     nodes = 4
//!     [workload]
//!     kind = "twopc"
//!     operations = 5
//!     [chaos]
//!     coordinator_crashes = 2
//!     window = "0ms..100ms"
//!     lasts = "10ms..50ms"
//!     "#,
//! )?;
//! let report = sim::run(&scenario, 42);
//! assert_eq!(report.verdict, sim::Verdict::Clean);
//! assert_eq!(report.hash, sim::run(&scenario, 42).hash);
//! # Ok::<(), sim::ScenarioError>(())
//! ```

mod disk;
pub mod enumerate;
pub mod judge;
mod net;
pub mod plan;
pub mod queue;
mod random;
pub mod recording;
mod report;
mod run;
mod scenario;
mod shared;
pub mod shrink;
pub mod storage;
mod swarm;
mod trace;
mod workload;
mod world;

pub use disk::{DiskFate, Fates, Losses as DiskLosses, SimDisk, Unsafe};
pub use net::Losses as NetLosses;
pub use random::{random_small, small};
pub use report::{Counters, Report, Unmet, Verdict};
pub use run::{finish, finish_each, finish_while, run, run_on, run_plan};
pub use scenario::{FaultEntry, Heals, Repeats, Scenario, ScenarioError, Span, nearest};
pub use trace::Trace;
pub use workload::Answers;
pub use world::{Ending, Group, LogView, NodeView, Note, World};
