//! The binary's own clocks: how long a run took. Nothing simulated ever sees them.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Two clocks since a moment: the wall's, and the processor time that this process has used.
pub struct Watch {
    wall: Timespec,
    cpu: Timespec,
}

impl Watch {
    /// Starts now.
    pub fn start() -> Watch {
        Watch {
            wall: clock_gettime(ClockId::Monotonic),
            cpu: clock_gettime(ClockId::ProcessCPUTime),
        }
    }

    /// Time gone by.
    pub fn wall(&self) -> Duration {
        between(self.wall, clock_gettime(ClockId::Monotonic))
    }

    /// Processor time used, in all threads.
    pub fn cpu(&self) -> Duration {
        between(self.cpu, clock_gettime(ClockId::ProcessCPUTime))
    }
}

fn between(from: Timespec, to: Timespec) -> Duration {
    let nanos = (to.tv_sec - from.tv_sec) * 1_000_000_000 + (to.tv_nsec - from.tv_nsec);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// How many seeds run at once by default.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
