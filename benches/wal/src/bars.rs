//! What wal-core has to reach, and whether it did.
//!
//! A bar on a rate is compared within each repetition; the median over the repetitions counts. Where
//! 0.9 times the hand-written ceiling is less than a multiple of a peer, that is the bar: no log can
//! do more than the disk allows. The ceiling is the better of the two with `pwrite` and `fdatasync`, which is
//! how wal-core writes unless it is told to write past the page cache; of a replay, the one with a checksum for as many records as a batch has.

use serde::Serialize;

use crate::ours;
use crate::replay::{EACH, SIXTEEN, SPACETIME};
use crate::rows::{
    CEILING, CEILING_DIRECT, CEILING_GATHER, COMPACTED, COPYING, NOT_BUILT, RAW, Row, RowName,
    WITH_ROTATION, WITHOUT_ROTATION,
};
use crate::sample::{
    CPU, Figure, MEMORY, Measured, P99, P999, PER_SECOND, RECORDS_PER_FLUSH, Sample, median,
};

/// A bar, and what came of it.
#[derive(Serialize)]
pub struct Bar {
    pub row: RowName,
    pub text: String,
    #[serde(rename = "unit", serialize_with = "unit")]
    pub figure: Figure,
    /// The median of what was wanted.
    pub wanted: Option<f64>,
    /// The median of what was measured.
    pub got: Option<f64>,
    /// How many times the bar was reached: met from 1 on.
    pub times: Option<f64>,
    pub verdict: Verdict,
}

fn unit<S: serde::Serializer>(figure: &Figure, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if figure.unit == MEMORY.unit { "bytes" } else { figure.unit })
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Met,
    NotMet,
    /// With the reason.
    NotMeasured(String),
}

/// What a figure is held against.
#[derive(Clone, Copy)]
enum Against {
    /// At least so many times another log's rate; where `ceiling` is set, no more than 0.9 of that.
    AtLeast { times: f64, of: &'static str, ceiling: bool },
    /// At most so many times another log's figure.
    AtMost { times: f64, of: &'static str },
    /// At least so much.
    Least(f64),
    /// At most so much.
    Most(f64),
}

struct Wanted {
    row: RowName,
    whose: &'static str,
    text: &'static str,
    figure: Figure,
    against: Against,
}

/// Every bar, in the order in which they are told.
fn wanted() -> Vec<Wanted> {
    use Against::{AtLeast, AtMost, Least, Most};
    use RowName::{
        Buffered, Callers1, Callers8, Callers64, Callers512, Multiplexed, Replay, Rotation,
    };
    let raft = crate::peers::raft::NAME;
    let bar = |row, text, figure, against| Wanted { row, whose: ours::NAME, text, figure, against };
    let rate = |times, of| AtLeast { times, of, ceiling: true };
    let plain = |times, of| AtLeast { times, of, ceiling: false };
    let mut all = vec![
        bar(Callers64, "records/s >= 1.7 x raft-engine", PER_SECOND, rate(1.7, raft)),
        bar(Callers64, "records/s >= 1.9 x okaywal", PER_SECOND, rate(1.9, "okaywal")),
        bar(Callers64, "p99 <= 0.5 x raft-engine", P99, AtMost { times: 0.5, of: raft }),
        bar(Callers64, "CPU/record <= 0.6 x raft-engine", CPU, AtMost { times: 0.6, of: raft }),
        bar(Callers64, "stretch: records/s >= 2.3 x raft-engine", PER_SECOND, plain(2.3, raft)),
        bar(Callers8, "records/s >= 1.25 x raft-engine", PER_SECOND, rate(1.25, raft)),
        bar(Callers8, "records per flush >= 6.5", RECORDS_PER_FLUSH, Least(6.5)),
        bar(Callers1, "records/s >= 0.95 x raw pwrite + fdatasync", PER_SECOND, plain(0.95, RAW)),
        bar(Callers512, "records/s >= 2.0 x raft-engine", PER_SECOND, rate(2.0, raft)),
        bar(Callers512, "p99 <= 0.5 x raft-engine", P99, AtMost { times: 0.5, of: raft }),
        bar(Multiplexed, "records/s >= 1.4 x raft-engine", PER_SECOND, rate(1.4, raft)),
        bar(Buffered, "records/s >= 0.7 x memcpy + CRC + write", PER_SECOND, plain(0.7, COPYING)),
        bar(Buffered, "records/s >= commitlog", PER_SECOND, plain(1.0, "commitlog")),
    ];
    // Past the page cache the same is wanted, beside that mode's own ceiling.
    let direct = all.iter().filter(|bar| !matches!(bar.row, Buffered));
    let direct = direct.map(|bar| Wanted { whose: ours::DIRECT, ..*bar });
    all.extend(direct.collect::<Vec<_>>());
    all.extend([
        bar(Replay, "records/s >= 1.5 x read + CRC per record", PER_SECOND, rate(1.5, EACH)),
        bar(Replay, "records/s >= spacetimedb-commitlog", PER_SECOND, plain(1.0, SPACETIME)),
        bar(Replay, "memory <= 16 MB", MEMORY, Most(16e6)),
    ]);
    all.push(Wanted {
        row: Rotation,
        whose: WITH_ROTATION,
        text: "rotation: p99.9 <= 3 x without",
        figure: P999,
        against: AtMost { times: 3.0, of: WITHOUT_ROTATION },
    });
    all.push(Wanted {
        row: Rotation,
        whose: COMPACTED,
        text: "compaction: p99.9 <= 3 x without",
        figure: P999,
        against: AtMost { times: 3.0, of: WITH_ROTATION },
    });
    all
}

/// Holds what was measured against every bar of these rows.
pub fn judge(rows: &[Row]) -> Vec<Bar> {
    let mut bars: Vec<Bar> = wanted().iter().map(|wanted| wanted.judge(rows)).collect();
    bars.retain(|bar| rows.iter().any(|row| row.name == bar.row));
    bars
}

impl Wanted {
    fn judge(&self, rows: &[Row]) -> Bar {
        let mut bar = Bar {
            row: self.row,
            text: match self.whose {
                ours::DIRECT => format!("O_DIRECT: {}", self.text),
                _ => self.text.to_owned(),
            },
            figure: self.figure,
            wanted: None,
            got: None,
            times: None,
            verdict: Verdict::Met,
        };
        match self.compare(rows) {
            Err(why) => bar.verdict = Verdict::NotMeasured(why),
            Ok(compared) => {
                if compared.iter().filter(|one| one.ceiling).count() * 2 > compared.len() {
                    bar.text.push_str(" (0.9 x the ceiling is lower, and counts)");
                }
                bar.wanted = median(compared.iter().map(|one| one.wanted));
                bar.got = median(compared.iter().map(|one| one.got));
                bar.times = median(compared.iter().map(|one| one.times));
                if bar.times.is_none_or(|times| times < 1.0) {
                    bar.verdict = Verdict::NotMet;
                }
            }
        }
        bar
    }

    /// Each repetition's comparison, or why there is none.
    fn compare(&self, rows: &[Row]) -> Result<Vec<Compared>, String> {
        let row = rows.iter().find(|row| row.name == self.row).ok_or("not asked for")?;
        let system = |name: &str| -> Result<&Measured, String> {
            row.system(name).ok_or_else(|| {
                let out = row.left_out.iter().find(|out| out.name == name);
                match out {
                    Some(out) if out.why == NOT_BUILT => NOT_BUILT.to_owned(),
                    Some(out) => format!("{name}: {}", out.why),
                    None => format!("no figures of {name}"),
                }
            })
        };
        let ours = system(self.whose)?;
        let other = match self.against {
            Against::AtLeast { of, .. } | Against::AtMost { of, .. } => Some(system(of)?),
            Against::Least(_) | Against::Most(_) => None,
        };
        let names: &[&str] = match self.whose {
            ours::DIRECT => &[CEILING_DIRECT],
            _ => &[CEILING, CEILING_GATHER, SIXTEEN],
        };
        let ceilings: Vec<&Measured> = names.iter().filter_map(|name| row.system(name)).collect();
        let figure = |of: &Sample| (self.figure.of)(of).ok_or("the figure was not measured");
        let compare = |(n, ours): (usize, &Sample)| -> Result<Compared, String> {
            let got = figure(ours)?;
            let theirs = other.map_or(Ok(0.0), |other| figure(&other.samples[n]))?;
            let highest = ceilings.iter().map(|ceiling| 0.9 * ceiling.samples[n].per_second);
            let highest = highest.fold(f64::NAN, f64::max);
            Ok(match self.against {
                Against::AtLeast { times, ceiling: true, .. } if highest < times * theirs => {
                    Compared { wanted: highest, got, times: got / highest, ceiling: true }
                }
                Against::AtLeast { times, .. } => Compared::at_least(times * theirs, got),
                Against::Least(least) => Compared::at_least(least, got),
                Against::AtMost { times, .. } => Compared::at_most(times * theirs, got),
                Against::Most(most) => Compared::at_most(most, got),
            })
        };
        ours.samples.iter().enumerate().map(compare).collect()
    }
}

struct Compared {
    wanted: f64,
    got: f64,
    times: f64,
    ceiling: bool,
}

impl Compared {
    fn at_least(wanted: f64, got: f64) -> Compared {
        Compared { wanted, got, times: got / wanted, ceiling: false }
    }

    fn at_most(wanted: f64, got: f64) -> Compared {
        Compared { wanted, got, times: wanted / got, ceiling: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::LeftOut;

    fn measured(name: &'static str, per_second: f64, p99_us: f64) -> Measured {
        let sample = Sample { per_second, p99_us: Some(p99_us), ..Sample::default() };
        Measured { name, samples: vec![sample; 5] }
    }

    fn verdict(bars: &[Bar], row: RowName, text: &str) -> Verdict {
        let mut found = bars.iter().filter(|bar| bar.row == row && bar.text.starts_with(text));
        let verdict = found.next().expect(text).verdict.clone();
        assert!(found.next().is_none(), "{text} names two");
        verdict
    }

    fn callers_64(ours: f64, ceiling: f64) -> Vec<Bar> {
        let systems = vec![
            measured(ours::NAME, ours, 100.0),
            measured(CEILING, ceiling, 50.0),
            measured("raft-engine", 100.0, 199.0),
        ];
        let left_out = vec![LeftOut { name: "okaywal", why: "broke".into() }];
        judge(&[Row { name: RowName::Callers64, others: None, systems, left_out }])
    }

    #[test]
    fn a_bar_is_met_from_its_figure_on() {
        let text = "records/s >= 1.7 x raft-engine";
        assert_eq!(verdict(&callers_64(170.0, 1e9), RowName::Callers64, text), Verdict::Met);
        assert_eq!(verdict(&callers_64(169.0, 1e9), RowName::Callers64, text), Verdict::NotMet);
        let p99 = "p99 <= 0.5 x raft-engine";
        assert_eq!(verdict(&callers_64(1.0, 1e9), RowName::Callers64, p99), Verdict::NotMet);
    }

    #[test]
    fn a_low_ceiling_lowers_the_bar_but_not_the_stretch() {
        let text = "records/s >= 1.7 x raft-engine (0.9 x the ceiling";
        assert_eq!(verdict(&callers_64(136.0, 150.0), RowName::Callers64, text), Verdict::Met);
        assert_eq!(verdict(&callers_64(134.0, 150.0), RowName::Callers64, text), Verdict::NotMet);
        let stretch = "stretch";
        let bars = callers_64(136.0, 150.0);
        assert_eq!(verdict(&bars, RowName::Callers64, stretch), Verdict::NotMet);
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let bars = callers_64(170.0, 1e9);
        let why = |row, text| match verdict(&bars, row, text) {
            Verdict::NotMeasured(why) => why,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(why(RowName::Callers64, "records/s >= 1.9 x okaywal"), "okaywal: broke");
        assert_eq!(why(RowName::Callers64, "CPU"), "the figure was not measured");
        let asked_for = |row| bars.iter().any(|bar| bar.row == row);
        assert!(!asked_for(RowName::Callers8));

        let left_out = vec![LeftOut { name: ours::NAME, why: NOT_BUILT.into() }];
        let name = RowName::Multiplexed;
        let bars = judge(&[Row { name, others: None, systems: vec![], left_out }]);
        let not_built = Verdict::NotMeasured(NOT_BUILT.into());
        assert_eq!(verdict(&bars, RowName::Multiplexed, "records/s"), not_built);
    }
}
