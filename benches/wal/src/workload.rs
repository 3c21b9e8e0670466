//! What the logs are given to do.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::log::{Buffered, Log, Multiplexed, Trouble, payload};
use crate::sample::Sample;

/// How long a cell lasts: first the part that is not counted.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub warm: Duration,
    pub counted: Duration,
}

/// Nothing waits longer than a minute.
const LONGEST_NANOS: u64 = 60_000_000_000;

fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1_000, LONGEST_NANOS, 2).expect("the bounds are in order")
}

fn record(into: &mut Histogram<u32>, waited: Duration) {
    into.saturating_record(u64::try_from(waited.as_nanos()).unwrap_or(LONGEST_NANOS));
}

/// A moment, on the clock and in processor time.
struct Moment {
    wall: Instant,
    cpu: Timespec,
}

/// What went by since a moment, in seconds.
struct Gone {
    wall: f64,
    cpu: f64,
}

impl Moment {
    fn now() -> Moment {
        Moment { wall: Instant::now(), cpu: clock_gettime(ClockId::ProcessCPUTime) }
    }

    fn gone(&self) -> Gone {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = (cpu.tv_sec - self.cpu.tv_sec) as f64;
        let nanos = (cpu.tv_nsec - self.cpu.tv_nsec) as f64;
        Gone { wall: self.wall.elapsed().as_secs_f64(), cpu: seconds + nanos / 1e9 }
    }
}

impl Gone {
    fn sample(&self, latencies: &Histogram<u32>) -> Result<Sample, Trouble> {
        if latencies.is_empty() {
            return Err("no record became durable in the time".into());
        }
        let at = |quantile| Some(latencies.value_at_quantile(quantile) as f64 / 1e3);
        let records = latencies.len() as f64;
        Ok(Sample {
            per_second: records / self.wall,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            cpu_us_per_record: Some(self.cpu * 1e6 / records),
            ..Sample::default()
        })
    }
}

const WARM: u8 = 0;
const COUNTED: u8 = 1;
const OVER: u8 = 2;

/// So many threads, each appending one record after another.
pub fn durable(log: &dyn Log, callers: usize, times: Times) -> Result<Sample, Trouble> {
    let phase = AtomicU8::new(WARM);
    let call = |caller: usize| -> Result<Histogram<u32>, Trouble> {
        let mut latencies = histogram();
        for number in 1.. {
            if phase.load(Relaxed) == OVER {
                break;
            }
            let payload = payload(number);
            let began = Instant::now();
            log.append(caller, &payload)?;
            let waited = began.elapsed();
            if phase.load(Relaxed) == COUNTED {
                record(&mut latencies, waited);
            }
        }
        Ok(latencies)
    };
    let call = &call;
    std::thread::scope(|scope| {
        // Whatever goes wrong on the way out, nobody is left calling.
        let over = Over(&phase);
        let mut threads = Vec::new();
        for caller in 0..callers {
            let builder = std::thread::Builder::new().stack_size(512 << 10);
            threads.push(builder.spawn_scoped(scope, move || call(caller))?);
        }
        std::thread::sleep(times.warm);
        let (syncs, moment) = (log.syncs(), Moment::now());
        phase.store(COUNTED, Relaxed);
        std::thread::sleep(times.counted);
        drop(over);
        let (gone, synced) = (moment.gone(), log.syncs());

        let mut latencies = histogram();
        for thread in threads {
            let of_one = thread.join().map_err(|_| "a caller panicked")??;
            latencies.add(&of_one)?;
        }
        let mut sample = gone.sample(&latencies)?;
        if let (Some(before), Some(after)) = (syncs, synced) {
            sample.records_per_flush = Some(latencies.len() as f64 / (after - before) as f64);
        }
        Ok(sample)
    })
}

struct Over<'a>(&'a AtomicU8);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(OVER, Relaxed);
    }
}

/// One thread that plays so many callers: whoever's record is durable appends the next at once.
pub fn multiplexed(
    log: &mut dyn Multiplexed,
    callers: usize,
    times: Times,
) -> Result<Sample, Trouble> {
    let mut latencies = histogram();
    let mut began = vec![Instant::now(); callers];
    let mut numbers = vec![0; callers];
    let mut ready: Vec<usize> = (0..callers).collect();
    let start = Instant::now();
    let mut counting: Option<Moment> = None;
    loop {
        for token in ready.drain(..) {
            numbers[token] += 1;
            began[token] = Instant::now();
            log.submit(token, &payload(numbers[token]))?;
        }
        log.completed(&mut ready)?;
        let now = Instant::now();
        match &counting {
            None if now - start >= times.warm => counting = Some(Moment::now()),
            None => {}
            Some(moment) => {
                ready.iter().for_each(|&token| record(&mut latencies, now - began[token]));
                if now - moment.wall >= times.counted {
                    return moment.gone().sample(&latencies);
                }
            }
        }
    }
}

/// No more than this in one cell: what nobody waits for fills memory and disk.
const BUFFERED_RECORDS_MAX: u64 = 8_000_000;

/// One thread that waits for nothing.
pub fn buffered(mut log: Box<dyn Buffered>, times: Times) -> Result<Sample, Trouble> {
    let mut records = 0;
    let mut append = |log: &mut dyn Buffered, time: Duration, most: u64| -> Result<u64, Trouble> {
        let (start, before) = (Instant::now(), records);
        while start.elapsed() < time && records - before < most {
            for _ in 0..256 {
                records += 1;
                log.append(&payload(records))?;
            }
        }
        Ok(records - before)
    };
    append(&mut *log, times.warm, BUFFERED_RECORDS_MAX / 8)?;
    let moment = Moment::now();
    let appended = append(&mut *log, times.counted, BUFFERED_RECORDS_MAX)? as f64;
    let gone = moment.gone();
    log.finish()?;
    Ok(Sample {
        per_second: appended / gone.wall,
        cpu_us_per_record: Some(gone.cpu * 1e6 / appended),
        ..Sample::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Closures, Done, Payload, number};
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;

    const TIMES: Times =
        Times { warm: Duration::from_millis(20), counted: Duration::from_millis(100) };

    /// Durable after a millisecond, and one at a time.
    #[derive(Default)]
    struct Slow(Mutex<Vec<u64>>, AtomicU64);

    impl Log for Slow {
        fn append(&self, caller: usize, payload: &Payload) -> Result<(), Trouble> {
            let mut last = self.0.lock().unwrap();
            let callers = last.len().max(caller + 1);
            last.resize(callers, 0);
            last[caller] += 1;
            assert_eq!(number(payload), last[caller]);
            std::thread::sleep(Duration::from_millis(1));
            self.1.fetch_add(1, Relaxed);
            Ok(())
        }

        fn syncs(&self) -> Option<u64> {
            Some(self.1.load(Relaxed))
        }
    }

    #[test]
    fn callers_are_counted_and_timed() {
        let sample = durable(&Slow::default(), 4, TIMES).unwrap();
        assert!((100.0..=1_000.0).contains(&sample.per_second), "{sample:?}");
        assert!(sample.p50_us.unwrap() >= 1_000.0, "{sample:?}");
        assert!(sample.p99_us.unwrap() >= sample.p50_us.unwrap(), "{sample:?}");
        // The record that was under way at either end may be counted on one side only.
        assert!((0.5..=1.5).contains(&sample.records_per_flush.unwrap()), "{sample:?}");
    }

    struct Failing;

    impl Log for Failing {
        fn append(&self, caller: usize, _: &Payload) -> Result<(), Trouble> {
            if caller == 1 { Err("broken".into()) } else { Ok(()) }
        }
    }

    #[test]
    fn one_failing_caller_fails_the_cell_and_it_ends() {
        assert_eq!(durable(&Failing, 2, TIMES).unwrap_err().to_string(), "broken");
    }

    #[test]
    fn one_thread_plays_many_callers() {
        let mut held: Vec<Done> = Vec::new();
        let mut log = Closures::new(move |_: &Payload, done| {
            held.push(done);
            // Four at a time, of eight in flight.
            if held.len() == 4 {
                std::thread::sleep(Duration::from_millis(1));
                held.drain(..).for_each(|done| done(Ok(())));
            }
            Ok(())
        });
        let sample = multiplexed(&mut log, 8, TIMES).unwrap();
        assert!((400.0..=4_100.0).contains(&sample.per_second), "{sample:?}");
    }
}
