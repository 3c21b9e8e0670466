//! What crosses crates.

mod answers;
mod compaction;
mod forces;
mod histories;
mod limits;
mod readme;
mod vectors;
mod village;
