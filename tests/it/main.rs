//! What crosses crates.

mod answers;
mod forces;
mod histories;
mod limits;
mod readme;
mod vectors;
mod village;
