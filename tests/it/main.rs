//! What crosses crates.

mod forces;
mod histories;
mod readme;
mod vectors;
mod village;
