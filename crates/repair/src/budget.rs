use base::Time;
use std::time::Duration;

/// So many tokens, and as many more in each period: at most that many at once, and over any longer time
/// no more than one period's more than its share.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    capacity: u32,
    /// How long one token takes.
    each: Duration,
    /// When the bucket is full again, or was.
    full_at: Time,
}

impl TokenBucket {
    /// A full bucket of at least one token.
    #[must_use]
    pub fn new(capacity: u32, period: Duration) -> TokenBucket {
        let capacity = capacity.max(1);
        TokenBucket { capacity, each: period / capacity, full_at: Time::ZERO }
    }

    /// Takes up to `wanted` tokens, and says how many.
    pub fn take(&mut self, now: Time, wanted: u32) -> u32 {
        let taken = wanted.min(self.available(now));
        self.full_at = self.full_at.max(now) + self.each * taken;
        taken
    }

    /// How many tokens there are.
    #[must_use]
    pub fn available(&self, now: Time) -> u32 {
        let missing = self.full_at.since(now).as_nanos().div_ceil(self.each.as_nanos().max(1));
        self.capacity.saturating_sub(u32::try_from(missing).unwrap_or(u32::MAX))
    }

    /// When there is a token.
    #[must_use]
    pub fn next_token(&self, now: Time) -> Time {
        let full = self.each * (self.capacity - 1);
        now.max(Time::ZERO + self.full_at.since(Time::ZERO).saturating_sub(full))
    }
}

/// The numbers of a [`Breaker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// After how many failures in a row it opens. Default 5.
    pub failures: u32,
    /// How long it stays open. Default 300 s.
    pub pause: Duration,
}

impl Default for BreakerConfig {
    fn default() -> BreakerConfig {
        BreakerConfig { failures: 5, pause: Duration::from_secs(300) }
    }
}

/// Where a breaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// All is admitted.
    Closed,
    /// Nothing is, until then.
    Open {
        /// Until when.
        until: Time,
    },
    /// One trial is, and decides.
    HalfOpen,
}

/// That something was admitted, and in which phase: to be shown when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Admission {
    phase: u64,
}

/// Stops what keeps failing, and tries again with one after a pause.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    state: State,
    /// Grows with each change of position: the end of what was admitted before does not count.
    phase: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Time },
    HalfOpen { trying: bool },
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(config: BreakerConfig) -> Breaker {
        Breaker { config, state: State::Closed { failures: 0 }, phase: 0 }
    }

    /// Whether something may begin. If it does, its end must be told, or a trial blocks all others.
    pub fn admit(&mut self, now: Time) -> Option<Admission> {
        if let State::Open { until } = self.state
            && now >= until
        {
            self.turn(State::HalfOpen { trying: false });
        }
        match &mut self.state {
            State::Closed { .. } => {}
            State::Open { .. } | State::HalfOpen { trying: true } => return None,
            State::HalfOpen { trying } => *trying = true,
        }
        Some(Admission { phase: self.phase })
    }

    /// What was admitted has ended.
    pub fn ended(&mut self, now: Time, admission: Admission, well: bool) {
        if admission.phase != self.phase {
            return;
        }
        match (&mut self.state, well) {
            (State::Closed { failures }, true) => *failures = 0,
            (State::HalfOpen { .. }, true) => self.turn(State::Closed { failures: 0 }),
            (State::Closed { failures }, false) => {
                *failures += 1;
                if *failures >= self.config.failures {
                    self.turn(State::Open { until: now + self.config.pause });
                }
            }
            (State::HalfOpen { .. }, false) => {
                self.turn(State::Open { until: now + self.config.pause });
            }
            (State::Open { .. }, _) => unreachable!("nothing is admitted while it is open"),
        }
    }

    /// Where it is now.
    #[must_use]
    pub fn position(&self, now: Time) -> Position {
        match self.state {
            State::Closed { .. } => Position::Closed,
            State::Open { until } if now < until => Position::Open { until },
            State::Open { .. } | State::HalfOpen { .. } => Position::HalfOpen,
        }
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.phase += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn ten_at_once_and_one_every_six_seconds() {
        let mut bucket = TokenBucket::new(10, Duration::from_secs(60));
        assert_eq!(bucket.take(at(0), 25), 10);
        assert_eq!((bucket.take(at(5), 1), bucket.next_token(at(5))), (0, at(6)));
        assert_eq!((bucket.take(at(6), 5), bucket.take(at(18), 5)), (1, 2));
        assert_eq!(bucket.take(at(10_000), 25), 10);
    }

    proptest! {
        /// In no window more than a bucket and its refill.
        #[test]
        fn the_rate_is_bounded(asks in prop::collection::vec((0u64..20, 0u32..8), 1..100)) {
            let mut bucket = TokenBucket::new(10, Duration::from_secs(60));
            let (mut now, mut taken) = (1_000, Vec::new());
            for (wait, wanted) in asks {
                now += wait;
                let got = bucket.take(at(now), wanted);
                // Never stingy: a plain count of whole tokens since the last would give as many.
                taken.push((now, u64::from(got)));
                for (from, &(start, _)) in taken.iter().enumerate() {
                    let sum: u64 = taken[from..].iter().map(|(_, got)| got).sum();
                    prop_assert!(sum <= 10 + (now - start) / 6);
                }
                if got < wanted {
                    let next = bucket.next_token(at(now));
                    prop_assert!(next > at(now) && next <= at(now + 6));
                    prop_assert!(bucket.available(next) >= 1);
                }
            }
        }
    }

    fn failing(breaker: &mut Breaker, now: Time, times: u32) {
        for _ in 0..times {
            let admission = breaker.admit(now).expect("it is closed");
            breaker.ended(now, admission, false);
        }
    }

    #[test]
    fn closed_open_half_open() {
        let mut breaker = Breaker::new(BreakerConfig::default());
        failing(&mut breaker, at(0), 4);
        let well = breaker.admit(at(0)).expect("four are not five");
        breaker.ended(at(0), well, true);
        let late = breaker.admit(at(1)).expect("it is closed");
        failing(&mut breaker, at(1), 5);
        assert_eq!(breaker.position(at(1)), Position::Open { until: at(301) });
        assert_eq!(breaker.admit(at(300)), None);
        assert_eq!(breaker.position(at(301)), Position::HalfOpen);
        let trial = breaker.admit(at(301)).expect("one is tried");
        assert_eq!(breaker.admit(at(301)), None, "one, not two");
        // What began before it opened decides nothing now.
        breaker.ended(at(302), late, true);
        assert_eq!(breaker.position(at(302)), Position::HalfOpen);
        breaker.ended(at(303), trial, false);
        assert_eq!(breaker.position(at(303)), Position::Open { until: at(603) });
        let trial = breaker.admit(at(603)).expect("one is tried");
        breaker.ended(at(604), trial, true);
        assert_eq!(breaker.position(at(604)), Position::Closed);
        failing(&mut breaker, at(605), 4);
        assert_eq!(breaker.position(at(605)), Position::Closed, "it counts anew");
    }
}
