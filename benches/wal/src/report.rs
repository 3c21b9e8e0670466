//! What a run says: tables for people, one JSON object for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::bars::{Bar, Verdict};
use crate::ours;
use crate::place::Disk;
use crate::replay::OURS_BATCHES;
use crate::rows::{Row, WITH_ROTATION};
use crate::sample::{CPU, Figure, MEMORY, Measured, P50, P99, P999, PER_SECOND, RECORDS_PER_FLUSH};

/// Everything that a run found out.
#[derive(Serialize)]
pub struct Report {
    pub processors: usize,
    /// The load average over a minute, before the run: what else the machine was doing.
    pub load: Option<f64>,
    pub disk: Disk,
    pub repetitions: usize,
    pub seconds_per_cell: f64,
    pub replayed_records: u64,
    pub rows: Vec<Row>,
    pub bars: Vec<Bar>,
}

struct Column {
    head: &'static str,
    figure: Figure,
    show: fn(f64) -> String,
}

const COLUMNS: &[Column] = &[
    Column { head: "records/s", figure: PER_SECOND, show: thousands },
    Column { head: "p50 µs", figure: P50, show: thousands },
    Column { head: "p99 µs", figure: P99, show: thousands },
    Column { head: "p99.9 µs", figure: P999, show: thousands },
    Column { head: "CPU µs/rec", figure: CPU, show: |us| format!("{us:.2}") },
    Column { head: "rec/flush", figure: RECORDS_PER_FLUSH, show: |n| format!("{n:.1}") },
    Column { head: "memory MB", figure: MEMORY, show: |bytes| format!("{:.1}", bytes / 1e6) },
];

impl Report {
    /// What is known before anything is measured.
    pub fn heading(&self) -> String {
        let mut text = String::new();
        let load = self.load.map_or(String::new(), |load| format!(", load {load:.1} before"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "wal-bench: {} processors{load}; {}, fdatasync p50 {:.0} µs",
            self.processors, self.disk.file_system, self.disk.fdatasync_p50_us
        );
        let _ = writeln!(
            text,
            "{} interleaved repetitions of {} s; figures are medians. Machines are shared and noisy: \
             only ratios within this run count.",
            self.repetitions, self.seconds_per_cell
        );
        text
    }

    pub fn table(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            row_table(row, &mut text);
        }
        let _ = writeln!(text, "\nBars for {}\n", ours::NAME);
        let mut lines =
            vec![["row", "bar", "wanted", "measured", "of the bar", ""].map(String::from)];
        let show = |figure: Option<f64>| figure.map_or("-".into(), thousands);
        for bar in &self.bars {
            let verdict = match &bar.verdict {
                Verdict::Met => "met".to_owned(),
                Verdict::NotMet => "NOT MET".to_owned(),
                Verdict::NotMeasured(why) => why.clone(),
            };
            let times = bar.times.map_or("-".into(), |times| format!("{times:.2} x"));
            let row = crate::name(bar.row);
            let (wanted, got) = (show(bar.wanted), show(bar.got));
            lines.push([row, bar.text.clone(), wanted, got, times, verdict]);
        }
        aligned(&lines, &[2, 3, 4], &mut text);
        text
    }
}

fn row_table(row: &Row, text: &mut String) {
    let _ = writeln!(text, "\n{}\n", row.name.title());
    let has = |column: &&Column| row.systems.iter().any(|s| s.median(column.figure).is_some());
    let columns: Vec<&Column> = COLUMNS.iter().filter(has).collect();
    let ours = row.system(ours::NAME).or_else(|| row.system(WITH_ROTATION));
    let mut head = vec![String::new()];
    head.extend(columns.iter().map(|column| column.head.to_owned()));
    if ours.is_some() {
        head.push("wal-core is".into());
    }
    let mut lines = vec![head];
    for system in &row.systems {
        let mut line = vec![system.name.to_owned()];
        line.extend(columns.iter().map(|column| {
            system.median(column.figure).map_or("-".into(), |figure| (column.show)(figure))
        }));
        line.extend(ours.map(|ours| times(ours, system)));
        lines.push(line);
    }
    let right: Vec<usize> = (1..lines[0].len()).collect();
    aligned(&lines, &right, text);
    for out in &row.left_out {
        let _ = writeln!(text, "  left out: {}: {}", out.name, out.why);
    }
}

/// How many times the other's rate ours is.
fn times(ours: &Measured, other: &Measured) -> String {
    match ours.ratio(PER_SECOND, other) {
        _ if std::ptr::eq(ours, other) => String::new(),
        _ if other.name == OURS_BATCHES => String::new(),
        Some(times) => format!("{times:.2} x"),
        None => "-".into(),
    }
}

/// Writes lines in columns; those named are flush right.
fn aligned<L: AsRef<[String]>>(lines: &[L], right: &[usize], text: &mut String) {
    let cells = |line: &L| line.as_ref().len();
    let count = lines.iter().map(cells).max().unwrap_or(0);
    let length = |column: usize| {
        let of = |line: &L| line.as_ref().get(column).map_or(0, |cell| cell.chars().count());
        lines.iter().map(of).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(length).collect();
    for line in lines {
        let mut out = String::from(" ");
        for (column, cell) in line.as_ref().iter().enumerate() {
            let width = widths[column];
            let _ = if right.contains(&column) {
                write!(out, " {cell:>width$} ")
            } else {
                write!(out, " {cell:<width$} ")
            };
        }
        let _ = writeln!(text, "{}", out.trim_end());
    }
}

/// A figure with the digits that mean something.
pub fn thousands(figure: f64) -> String {
    if figure < 100.0 {
        return format!("{figure:.1}");
    }
    let digits = format!("{figure:.0}");
    let mut grouped = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(thousands(6.54), "6.5");
        assert_eq!(thousands(123.4), "123");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(123_456.0), "123,456");
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let mut text = String::new();
        let line = |cells: [&str; 3]| cells.map(String::from);
        aligned(&[line(["a", "µ", "x"]), line(["bbb", "12", ""])], &[1], &mut text);
        assert_eq!(text, "  a     µ  x\n  bbb  12\n");
    }
}
