//! Whom the writer waits for before it begins a flush, and how long.

use std::time::Duration;

/// Who is about to ask for the next flush, and how patiently they are waited for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Company {
    /// How many were in the last flush, and how many had come for the next one when it ended.
    pub(super) expected: u32,
    /// So long they are waited for at most.
    pub(super) patience: Duration,
    /// How long a synced flush takes: lately, and over the last few.
    takes: (Duration, Duration),
    /// Nobody came the last time while they were waited for.
    in_vain: bool,
}

impl Company {
    /// Waking a thread takes no longer, however slow the disk is, unless others have the processors; and
    /// whoever waits keeps one busy.
    const PATIENCE_MAX: Duration = Duration::from_micros(200);

    /// A flush has ended that so many had asked for, and so many have come for the next one meanwhile; if it
    /// was synced, how long it took.
    ///
    /// Both are expected for the next one. Those who came alone would be a flush of their own, those who are
    /// woken would come during that, and so on: each half as large, and everybody would wait for two.
    pub(super) fn flushed(&mut self, synced: Option<Duration>, asked: u32, came: u32) {
        self.expected = asked + came;
        if let Some(took) = synced {
            self.takes = (took, (7 * self.takes.1 + took) / 8);
        }
        // One slow flush is no reason to wait longer.
        let usual = self.takes.0.min(self.takes.1);
        self.patience =
            if self.in_vain { Duration::ZERO } else { (usual / 2).min(Self::PATIENCE_MAX) };
    }

    /// The writer has waited for them, and somebody came meanwhile or nobody did.
    ///
    /// Callers who do something else in between are not worth the wait: it would slow down those who do not.
    pub(super) fn gathered(&mut self, somebody_came: bool) {
        self.in_vain = !somebody_came;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    #[test]
    fn patience_is_half_of_what_a_flush_usually_takes() {
        let mut company = Company::default();
        for _ in 0..100 {
            company.flushed(Some(us(80)), 2, 1);
        }
        assert!((us(39)..=us(40)).contains(&company.patience), "{company:?}");
        // A disk that was busy once, and a flush without a sync.
        company.flushed(Some(us(50_000)), 2, 1);
        company.flushed(Some(us(80)), 2, 1);
        company.flushed(None, 2, 1);
        assert!(company.patience <= us(40), "{company:?}");
        company.flushed(Some(us(20)), 2, 1);
        assert_eq!(company.patience, us(10));
        for _ in 0..100 {
            company.flushed(Some(us(10_000)), 2, 1);
        }
        assert_eq!(company.patience, Company::PATIENCE_MAX);
    }

    #[test]
    fn who_was_in_a_flush_and_who_came_meanwhile_are_expected() {
        let mut company = Company::default();
        company.flushed(Some(us(80)), 5, 3);
        assert_eq!(company.expected, 8);
        company.flushed(Some(us(80)), 8, 0);
        assert_eq!(company.expected, 8);
        // One of them has left.
        company.flushed(Some(us(80)), 7, 0);
        assert_eq!(company.expected, 7);
    }

    #[test]
    fn there_is_none_for_those_who_do_not_come() {
        let mut company = Company::default();
        for _ in 0..100 {
            company.flushed(Some(us(80)), 1, 1);
        }
        company.gathered(false);
        company.flushed(Some(us(80)), 1, 1);
        assert_eq!(company.patience, Duration::ZERO);
        company.gathered(true);
        company.flushed(Some(us(80)), 1, 1);
        assert!(company.patience > us(30), "{company:?}");
    }
}
