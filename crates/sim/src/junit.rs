//! Reports in JUnit's XML, which continuous integration shows.

use sim::{Report, Verdict};
use std::fmt::Write;

/// A suite: one case per run.
pub struct Junit {
    name: String,
    cases: String,
    tests: u64,
    failures: u64,
    /// In simulated milliseconds: a report of the same runs is the same.
    time_ms: u128,
}

impl Junit {
    /// An empty one.
    pub fn new(name: &str) -> Junit {
        Junit { name: name.to_owned(), cases: String::new(), tests: 0, failures: 0, time_ms: 0 }
    }

    /// One more run.
    pub fn add(&mut self, report: &Report) {
        let simulated = report.counters.simulated.as_millis();
        self.tests += 1;
        self.time_ms += simulated;
        let (class, seed) = (escaped(&report.scenario), report.seed);
        let _ = write!(
            self.cases,
            "  <testcase classname=\"{class}\" name=\"seed {seed}\" time=\"{}\"",
            seconds(simulated)
        );
        if report.verdict == Verdict::Clean {
            self.cases.push_str("/>\n");
            return;
        }
        self.failures += 1;
        let (signature, what) = (report.verdict.signature(), report.verdict.what());
        let _ = writeln!(
            self.cases,
            ">\n    <failure type=\"{}\" message=\"{}\">{}</failure>\n  </testcase>",
            escaped(report.verdict.name()),
            escaped(signature),
            escaped(&what)
        );
    }

    /// The file.
    pub fn xml(&self) -> String {
        let Junit { name, cases, tests, failures, time_ms } = self;
        let (name, time) = (escaped(name), seconds(*time_ms));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"{name}\" \
             tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\" \
             time=\"{time}\">\n{cases}</testsuite>\n</testsuites>\n"
        )
    }
}

fn seconds(ms: u128) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// A text within XML. What XML has no place for is shown as a question mark in a box.
pub fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&quot;"),
            '\'' => shown.push_str("&#39;"),
            '\n' | '\t' => shown.push(c),
            '\u{FFFE}' | '\u{FFFF}' => shown.push('\u{FFFD}'),
            c if c.is_control() => shown.push('\u{FFFD}'),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_gets_out_of_its_place() {
        assert_eq!(
            super::escaped("a<b>&\"'\u{1}\u{FFFF}é"),
            "a&lt;b&gt;&amp;&quot;&#39;\u{FFFD}\u{FFFD}é"
        );
    }
}
