//! Worlds of storage nodes: the storage network in hundreds of nodes, with its clients, faults and judges.
//!
//! It has the queue of events, the network, the disks of logs and the keyed randomness in common with
//! [`World`](crate::World). What is different is what runs in a node ([`network::StorageNode`]) and what
//! may go wrong with shards: see [`disk`].

pub mod disk;
mod judge;
pub mod plan;
mod report;
mod scenario;
pub mod shrink;
mod watch;
mod workload;
mod world;

pub use judge::{Finding, Judge};
pub use report::{Health, Report, Totals};
pub use scenario::{Expected, Faults, Scenario, Storage, hostile, large, small};
pub use workload::Want;
pub use world::{Ending, World, run, run_recorded, run_told, run_watched, run_while};
