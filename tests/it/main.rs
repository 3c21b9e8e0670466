//! What crosses crates.

mod forces;
mod vectors;
mod village;
