//! What one measurement gave, and what several say together.

use serde::{Deserialize, Serialize};

/// One measurement of one log. What was not measured, or has no meaning there, is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Records per second.
    pub per_second: f64,
    /// Half of the callers waited so long at most, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    /// 99 % of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
    /// 99.9 % of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_us: Option<f64>,
    /// Processor time of the whole process, callers included, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_record: Option<f64>,
    /// How many records shared a sync.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_per_flush: Option<f64>,
    /// By how much the process grew at its largest, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<f64>,
}

/// One figure of a sample.
#[derive(Clone, Copy)]
pub struct Figure {
    /// As the head of a column.
    pub name: &'static str,
    pub unit: &'static str,
    /// What a figure is divided by to be shown in its unit.
    per: f64,
    pub of: fn(&Sample) -> Option<f64>,
}

impl Figure {
    const fn new(name: &'static str, unit: &'static str, of: fn(&Sample) -> Option<f64>) -> Figure {
        Figure { name, unit, per: 1.0, of }
    }

    /// For people, with the digits that mean something.
    pub fn show(self, figure: Option<f64>) -> String {
        figure.map_or("-".into(), |figure| thousands(figure / self.per))
    }
}

pub const PER_SECOND: Figure = Figure::new("records/s", "records/s", |s| Some(s.per_second));
pub const P50: Figure = Figure::new("p50 µs", "µs", |s| s.p50_us);
pub const P99: Figure = Figure::new("p99 µs", "µs", |s| s.p99_us);
pub const P999: Figure = Figure::new("p99.9 µs", "µs", |s| s.p999_us);
pub const CPU: Figure = Figure::new("CPU µs/rec", "µs", |s| s.cpu_us_per_record);
pub const RECORDS_PER_FLUSH: Figure = Figure::new("rec/flush", "", |s| s.records_per_flush);
pub const MEMORY: Figure =
    Figure { per: 1e6, ..Figure::new("memory MB", "MB", |s| s.memory_bytes) };

/// One log's samples, one for each repetition.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub name: &'static str,
    pub samples: Vec<Sample>,
}

impl Measured {
    /// The median over the repetitions.
    pub fn median(&self, figure: Figure) -> Option<f64> {
        median(self.samples.iter().filter_map(figure.of))
    }

    /// The median, over the repetitions, of how many times the other's figure this one's is. Two
    /// figures of one repetition were taken within seconds of each other, on the same noisy machine.
    pub fn ratio(&self, figure: Figure, other: &Measured) -> Option<f64> {
        let pairs = self.samples.iter().zip(&other.samples);
        median(pairs.filter_map(|(ours, theirs)| Some((figure.of)(ours)? / (figure.of)(theirs)?)))
    }
}

/// The median; of an even number, the mean of the two in the middle. `None` of nothing.
pub fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let upper = *figures.get(figures.len() / 2)?;
    if figures.len() % 2 == 1 {
        Some(upper)
    } else {
        Some(f64::midpoint(figures[figures.len() / 2 - 1], upper))
    }
}

fn thousands(figure: f64) -> String {
    if figure < 10.0 {
        return format!("{figure:.2}");
    }
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
    fn medians() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 8.0].into_iter()), Some(3.0));
    }

    #[test]
    fn a_ratio_compares_within_repetitions() {
        let measured = |name, figures: [f64; 3]| Measured {
            name,
            samples: figures.map(|per_second| Sample { per_second, ..Sample::default() }).to_vec(),
        };
        // The machine was slow once for both.
        let ours = measured("a", [200.0, 20.0, 210.0]);
        let theirs = measured("b", [100.0, 10.0, 300.0]);
        assert_eq!(ours.ratio(PER_SECOND, &theirs), Some(2.0));
        assert_eq!(ours.median(PER_SECOND), Some(200.0));
        assert_eq!(ours.ratio(P99, &theirs), None);
    }

    #[test]
    fn figures() {
        assert_eq!(thousands(6.543), "6.54");
        assert_eq!(thousands(65.43), "65.4");
        assert_eq!(thousands(123.4), "123");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(123_456.0), "123,456");
    }
}
