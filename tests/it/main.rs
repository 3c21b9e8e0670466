//! What crosses crates.

mod answers;
mod forces;
mod histories;
mod vectors;
mod village;
