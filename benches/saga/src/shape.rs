//! What is run: shapes of operations, so many of them in flight, for so long.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde::Serialize;

/// What one operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// A saga of five steps, one after another.
    Linear,
    /// A saga of sixteen steps side by side and one that joins them.
    Wide,
    /// A transaction with eight participants that all agree.
    Decision,
}

impl Shape {
    pub const ALL: [Shape; 3] = [Shape::Linear, Shape::Wide, Shape::Decision];

    pub fn title(self) -> &'static str {
        match self {
            Shape::Linear => "a saga of 5 steps in a row",
            Shape::Wide => "a saga of 16 steps side by side, and a join",
            Shape::Decision => "a transaction of 8 participants",
        }
    }

    /// How often the coordinator must wait for its disk: what the protocol cannot do without.
    pub fn forces(self) -> u32 {
        match self {
            Shape::Linear => 6,
            Shape::Wide => 3,
            Shape::Decision => 1,
        }
    }
}

/// So many operations at once, begun for so long, then finished.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub in_flight: usize,
    pub warm_up: Duration,
    pub counted: Duration,
}

/// Counts what ends while it is counted.
pub struct Meter {
    counting: Instant,
    end: Instant,
    ended: u64,
}

impl Meter {
    pub fn start(load: &Load) -> Meter {
        let counting = Instant::now() + load.warm_up;
        Meter { counting, end: counting + load.counted, ended: 0 }
    }

    /// An operation ended; whether another is to begin.
    pub fn ended(&mut self) -> bool {
        let now = Instant::now();
        let counts = now >= self.counting && now < self.end;
        self.ended += u64::from(counts);
        now < self.end
    }

    pub fn per_second(&self, load: &Load) -> f64 {
        self.ended as f64 / load.counted.as_secs_f64()
    }
}

/// What one measurement found.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    pub per_second: f64,
    /// Of the log, all operations of the measurement taken together.
    pub syncs_per_operation: f64,
    pub bytes_per_operation: f64,
}
