//! What crosses crates.

mod answers;
mod compaction;
mod conformance;
mod forces;
mod histories;
mod limits;
mod readme;
mod steps;
mod vectors;
mod village;
