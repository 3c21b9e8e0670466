//! What else the machine is doing: without it, figures of a shared machine cannot be read.

use std::fs::read_to_string;

/// Processor time so far, in the kernel's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Of all processors.
    total: u64,
    /// Of that, not idle.
    busy: u64,
    /// Of that, by this process and by those that it started and that have ended.
    ours: u64,
}

impl Usage {
    /// `None` where the kernel does not say.
    pub fn now() -> Option<Usage> {
        Usage::parse(&read_to_string("/proc/stat").ok()?, &read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(machine: &str, process: &str) -> Option<Usage> {
        let numbers = |text: &str| -> Vec<u64> {
            text.split_whitespace().map_while(|number| number.parse().ok()).collect()
        };
        // User, nice, system, idle, waiting for a disk, interrupts twice, stolen by other machines;
        // guests behind them are counted under user.
        let machine = numbers(machine.lines().next()?.strip_prefix("cpu ")?);
        let (total, idle) = (machine.get(..8)?.iter().sum(), machine[3] + machine[4]);
        // Behind the name, in brackets, a letter and ten numbers.
        let fields = process.rsplit_once(") ")?.1.split_whitespace().skip(11).take(4);
        let ours = fields.map(str::parse::<u64>).sum::<Result<u64, _>>().ok()?;
        Some(Usage { total, busy: total - idle, ours })
    }

    /// The part of all processors' time that others have taken since, the kernel's own threads
    /// included: from 0 to 1.
    pub fn others(self, now: Usage) -> f64 {
        let (total, busy) = (now.total - self.total, now.busy - self.busy);
        let others = busy.saturating_sub(now.ours - self.ours);
        if total == 0 { 0.0 } else { others as f64 / total as f64 }
    }
}

/// The load average over a minute.
pub fn load() -> Option<f64> {
    read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: &str = "7 (a (b) c) R 1 2 3 0 -1 4194304 97 5 0 6 30 20 7 3 20 0 1 0 99";

    #[test]
    fn what_others_took_is_what_is_busy_and_not_ours() {
        let before = Usage::parse("cpu  100 1 50 800 40 2 3 4 9 9\ncpu0 1\n", PROCESS).unwrap();
        assert_eq!(before, Usage { total: 1_000, busy: 160, ours: 60 });
        let now = Usage { total: 2_000, busy: 760, ours: 260 };
        assert!((before.others(now) - 0.4).abs() < 1e-9);
        assert!(before.others(before).abs() < 1e-9);
        assert_eq!(Usage::parse("cpu  100 1", PROCESS), None);
    }
}
