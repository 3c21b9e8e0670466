//! What crosses crates.

mod forces;
mod village;
