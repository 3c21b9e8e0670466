//! Standard output and error, as a person or a pipe sees them.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::{Duration, Instant};

use miette::MietteHandlerOpts;
use wal_core::{Corruption, Scanned};

use crate::error::Error;

/// Errors are one sentence to a line, however narrow the terminal: places can be searched for.
/// Colours are left out if `NO_COLOR` says so, or if nobody looks.
pub fn plain_errors() {
    let handler = |_: &(dyn miette::Diagnostic + 'static)| -> Box<dyn miette::ReportHandler> {
        Box::new(MietteHandlerOpts::new().wrap_lines(false).break_words(false).build())
    };
    // Fails only where a hook is set already, and nobody else sets one.
    let _ = miette::set_hook(Box::new(handler));
}

/// Writes to standard error. If that is closed, nobody is left to tell.
pub fn say(what: fmt::Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(what);
}

/// What a crash has left in a log, and is no damage: one line each on standard error.
pub fn print_notes(scanned: &Scanned) {
    for note in notes(scanned) {
        say(format_args!("note: {note}\n"));
    }
}

/// What a crash has left in a log, and is no damage.
pub fn notes(scanned: &Scanned) -> Vec<String> {
    let mut notes = Vec::new();
    if scanned.torn_tail_bytes > 0 {
        let (bytes, last) = (scanned.torn_tail_bytes, scanned.last_sequence);
        let place = match scanned.end {
            Some((segment, offset)) if segment.0 > 0 => format!(" ({segment} offset {offset})"),
            Some((_, offset)) => format!(" (offset {offset})"),
            None => String::new(),
        };
        notes.push(format!(
            "a torn tail of {bytes} bytes behind record {last}{place}: a crash has left it, and \
             nothing of it was acknowledged"
        ));
    }
    if scanned.lost_header_copies > 0 {
        notes.push(format!(
            "{} header copies were cut short by a crash; opening the log for writing mends them",
            scanned.lost_header_copies
        ));
    }
    if scanned.fenced_bytes > 0 {
        notes.push(format!(
            "{} bytes of a writer that was replaced lie behind the end; they are none of the log",
            scanned.fenced_bytes
        ));
    }
    notes
}

// ---- lists ----

/// Of anomalies and of damaged places a person sees so many.
pub const LISTED_MAX: usize = 20;

/// "1 record", "2 records".
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Says that not everything was listed.
pub fn print_rest(to: &mut dyn Write, total: u64) -> io::Result<()> {
    match total.saturating_sub(LISTED_MAX as u64) {
        0 => Ok(()),
        rest => writeln!(to, "  ... and {rest} more; --json lists them"),
    }
}

/// Lists what is damaged, and what `more` has to say of each place.
pub fn print_damage(
    to: &mut dyn Write,
    scanned: &Scanned,
    more: impl Fn(&Corruption) -> &'static str,
) -> io::Result<()> {
    for damage in scanned.corruption.iter().take(LISTED_MAX) {
        writeln!(to, "  {damage}{}", more(damage))?;
    }
    print_rest(to, scanned.corruption.len() as u64 + scanned.corruption_left_out)
}

/// Says how much is damaged, and lists it.
pub fn print_corruption(
    to: &mut dyn Write,
    scanned: &Scanned,
    more: impl Fn(&Corruption) -> &'static str,
) -> io::Result<()> {
    let places = scanned.corruption.len() as u64 + scanned.corruption_left_out;
    if places == 0 {
        return Ok(());
    }
    let (in_places, records) =
        (counted(places, "place"), counted(scanned.corrupted_records, "record"));
    writeln!(to, "corruption: {in_places}, at least {records} lost or changed")?;
    print_damage(to, scanned, more)
}

/// Columns as wide as they need to be.
pub fn print_table<const N: usize>(to: &mut dyn Write, rows: &[[String; N]]) -> io::Result<()> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line += &format!("{cell:<width$}  ");
        }
        writeln!(to, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Pulled once reading on is pointless: the scan then ends at its next read.
#[derive(Debug, Default)]
pub struct Brake(Cell<bool>);

impl Brake {
    /// Stops the scan.
    pub fn pull(&self) {
        self.0.set(true);
    }

    /// # Errors
    /// Once it was pulled.
    pub fn check(&self) -> io::Result<()> {
        if self.0.get() { Err(io::Error::other("stopped")) } else { Ok(()) }
    }
}

/// Standard output, written to from where no error can be returned: the first one pulls the brake.
pub struct Output<'a> {
    to: BufWriter<StdoutLock<'static>>,
    brake: &'a Brake,
    failed: Option<io::Error>,
}

impl<'a> Output<'a> {
    pub fn new(brake: &'a Brake) -> Output<'a> {
        Output { to: BufWriter::with_capacity(64 << 10, io::stdout().lock()), brake, failed: None }
    }

    pub fn write(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if self.failed.is_none()
            && let Err(error) = write(&mut self.to)
        {
            self.failed = Some(error);
            self.brake.pull();
        }
    }

    /// True if everything was written; false if nobody reads any more, which is their decision.
    ///
    /// # Errors
    /// [`Error::Stream`].
    pub fn finish(mut self) -> Result<bool, Error> {
        let failed = self.failed.take().map_or_else(|| self.to.flush(), Err);
        // What could not be written is not to be tried again when this is dropped.
        let _ = self.to.into_parts();
        match failed {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Error::stdout(error)),
        }
    }
}

/// A line on standard error that counts, if a person watches and it takes long.
pub struct Progress {
    unit: &'static str,
    watched: bool,
    count: u64,
    begun: Instant,
    shown: Option<Instant>,
}

impl Progress {
    const TICKS: u64 = 1 << 13;
    const PATIENCE: Duration = Duration::from_secs(1);
    const PERIOD: Duration = Duration::from_millis(200);

    /// `quiet`: something else is printed to the same terminal.
    pub fn new(unit: &'static str, quiet: bool) -> Progress {
        let watched = !quiet && io::stderr().is_terminal();
        Progress { unit, watched, count: 0, begun: now(), shown: None }
    }

    /// One more.
    pub fn tick(&mut self) {
        self.count += 1;
        if !self.watched || !self.count.is_multiple_of(Self::TICKS) {
            return;
        }
        let now = now();
        let due = match self.shown {
            None => now - self.begun > Self::PATIENCE,
            Some(shown) => now - shown > Self::PERIOD,
        };
        if due {
            say(format_args!("\r{} {}", self.count, self.unit));
            self.shown = Some(now);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            say(format_args!("\r{:width$}\r", "", width = 21 + self.unit.len()));
        }
    }
}

fn now() -> Instant {
    // A shell may read the clock: this one only decides when to say something.
    #[expect(clippy::disallowed_methods)]
    Instant::now()
}

/// Unix milliseconds as a date and time of day, UTC.
pub fn utc(timestamp_ms: i64) -> String {
    let (days, ms) = (timestamp_ms.div_euclid(86_400_000), timestamp_ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", ms % 1000)
}

/// The Gregorian date, so many days behind 1970-01-01. A year is counted from March on, so that the
/// leap day is its last; 400 of them have 146,097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // from 0000-03-01 on
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(utc(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(utc(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn no_timestamp_is_too_far_away() {
        for timestamp in [i64::MIN, i64::MAX] {
            assert!(utc(timestamp).ends_with('Z'));
        }
    }
}
