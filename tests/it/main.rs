//! What crosses crates.

mod forces;
mod histories;
mod vectors;
mod village;
