//! What a run says: tables for people, one JSON object for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::bars::{Bar, Verdict};
use crate::ours;
use crate::place::Disk;
use crate::replay::OURS_EACH;
use crate::rows::Row;
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

/// A row's columns, where it has them.
const COLUMNS: &[Figure] = &[PER_SECOND, P50, P99, P999, CPU, RECORDS_PER_FLUSH, MEMORY];

/// Where others take more of the processors than this, callers wait for a processor, not for the disk.
const NOISY: f64 = 0.2;

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

    /// Why a verdict is worth little, if it is.
    fn doubt(&self, bar: &Bar) -> String {
        let others = self.rows.iter().find(|row| row.name == bar.row).and_then(|row| row.others);
        match others {
            Some(others) if others > NOISY => {
                format!(" (others took {:.0} % of the processors)", others * 100.0)
            }
            _ => String::new(),
        }
    }

    pub fn table(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            row_table(row, &mut text);
        }
        let _ = writeln!(text, "\nBars for {}\n", ours::NAME);
        let head = ["row", "bar", "wanted", "measured", "", "of the bar", ""];
        let mut lines = vec![head.map(String::from)];
        for bar in &self.bars {
            let verdict = match &bar.verdict {
                Verdict::Met => format!("met{}", self.doubt(bar)),
                Verdict::NotMet => format!("NOT MET{}", self.doubt(bar)),
                Verdict::NotMeasured(why) => why.clone(),
            };
            let times = bar.times.map_or("-".into(), |times| format!("{times:.2} x"));
            let row = crate::name(bar.row);
            let (wanted, got) = (bar.figure.show(bar.wanted), bar.figure.show(bar.got));
            let unit = bar.figure.unit.to_owned();
            lines.push([row, bar.text.clone(), wanted, got, unit, times, verdict]);
        }
        aligned(&lines, &[2, 3, 5], &mut text);
        text
    }
}

fn row_table(row: &Row, text: &mut String) {
    let _ = writeln!(text, "\n{}\n", row.name.title());
    let has = |column: &&Figure| row.systems.iter().any(|s| s.median(**column).is_some());
    let columns: Vec<&Figure> = COLUMNS.iter().filter(has).collect();
    let ours = row.system(ours::NAME);
    let mut head = vec![String::new()];
    head.extend(columns.iter().map(|column| column.name.to_owned()));
    if ours.is_some() {
        head.push("wal-core is".into());
    }
    let mut lines = vec![head];
    for system in &row.systems {
        let mut line = vec![system.name.to_owned()];
        line.extend(columns.iter().map(|&&column| column.show(system.median(column))));
        line.extend(ours.map(|ours| times(ours, system)));
        lines.push(line);
    }
    let right: Vec<usize> = (1..lines[0].len()).collect();
    aligned(&lines, &right, text);
    if let Some(others) = row.others {
        let _ = writeln!(text, "  others took {:.0} % of the processors", others * 100.0);
    }
    for out in &row.left_out {
        let _ = writeln!(text, "  left out: {}: {}", out.name, out.why);
    }
}

/// How many times the other's rate ours is.
fn times(ours: &Measured, other: &Measured) -> String {
    match ours.ratio(PER_SECOND, other) {
        _ if std::ptr::eq(ours, other) => String::new(),
        _ if other.name == OURS_EACH => String::new(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::RowName;

    #[test]
    fn a_verdict_of_a_noisy_row_says_so() {
        let report = |others| Report {
            processors: 2,
            load: None,
            disk: Disk { file_system: "ext4".into(), fdatasync_p50_us: 120.0 },
            repetitions: 1,
            seconds_per_cell: 0.5,
            replayed_records: 1,
            rows: vec![Row {
                name: RowName::Callers8,
                others: Some(others),
                systems: vec![],
                left_out: vec![],
            }],
            bars: vec![Bar {
                row: RowName::Callers8,
                text: "more".into(),
                figure: PER_SECOND,
                wanted: Some(1.0),
                got: Some(2.0),
                times: Some(2.0),
                verdict: Verdict::Met,
            }],
        };
        assert!(report(0.1).table().ends_with("2.00 x  met\n"), "{}", report(0.1).table());
        let noisy = report(0.93).table();
        assert!(noisy.ends_with("met (others took 93 % of the processors)\n"), "{noisy}");
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let mut text = String::new();
        let line = |cells: [&str; 3]| cells.map(String::from);
        aligned(&[line(["a", "µ", "x"]), line(["bbb", "1", ""])], &[1], &mut text);
        assert_eq!(text, "  a    µ  x\n  bbb  1\n");
        text.clear();
        aligned(&[line(["a", "1", "x"]), line(["b", "123", "y"])], &[1], &mut text);
        assert_eq!(text, "  a    1  x\n  b  123  y\n");
    }
}
