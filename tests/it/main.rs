//! What crosses crates.

mod answers;
mod forces;
mod histories;
mod readme;
mod vectors;
mod village;
