//! The run as one picture: a panel for each row, a bar for each log.

use std::fmt::Write as _;

use crate::replay::OURS_EACH;
use crate::report::Report;
use crate::rows::{COMPACTED, Row, WITH_ROTATION, WITHOUT_ROTATION};
use crate::sample::{Measured, P999, PER_SECOND};

const WIDTH: u32 = 900;
const LEFT: u32 = 250;
const RIGHT: u32 = 110;
const LINE: u32 = 22;
const HEAD: u32 = 34;

/// An SVG document.
pub fn svg(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 30;
    for line in report.heading().lines() {
        text(&mut body, 16, y, "start", "note", line);
        y += 18;
    }
    for row in &report.rows {
        panel(&mut body, &mut y, row);
    }
    let height = y + 20;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <style>.title{{font-weight:bold;font-size:15px}}.note{{fill:#555;font-size:12px}}\
         .ours{{fill:#0b6e4f}}.ceiling{{fill:#c9c9c9}}.peer{{fill:#5b7db1}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn panel(body: &mut String, y: &mut u32, row: &Row) {
    let rotation = row.system(WITH_ROTATION).is_some();
    let figure = if rotation { P999 } else { PER_SECOND };
    *y += HEAD;
    text(body, 16, *y, "start", "title", &format!("{}, {}", row.name.title(), figure.name));
    if let Some(others) = row.others {
        let note = format!("others: {:.0} % of the processors", others * 100.0);
        text(body, WIDTH - 16, *y, "end", "note", &note);
    }
    *y += 8;
    let medians: Vec<(&Measured, f64)> =
        row.systems.iter().filter_map(|system| Some((system, system.median(figure)?))).collect();
    let most = medians.iter().map(|(_, median)| *median).fold(1.0, f64::max);
    for (system, median) in &medians {
        let length = f64::from(WIDTH - LEFT - RIGHT) * median / most;
        text(body, LEFT - 8, *y + 15, "end", "", system.name);
        // Writing to a string cannot fail.
        let _ = writeln!(
            body,
            "<rect class=\"{}\" x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\"/>",
            class(system.name),
            *y + 3,
            LINE - 6
        );
        let end = LEFT + length as u32 + 6;
        text(body, end, *y + 15, "start", "", &figure.show(Some(*median)));
        *y += LINE;
    }
    for out in &row.left_out {
        text(body, LEFT - 8, *y + 15, "end", "", out.name);
        text(body, LEFT, *y + 15, "start", "note", &out.why);
        *y += LINE;
    }
}

fn class(name: &str) -> &'static str {
    let ours = [
        crate::ours::NAME,
        crate::ours::DIRECT,
        OURS_EACH,
        WITH_ROTATION,
        WITHOUT_ROTATION,
        COMPACTED,
    ];
    let by_hand = ["ceiling", "raw", "read +", "memcpy"];
    match name {
        name if ours.contains(&name) => "ours",
        name if by_hand.iter().any(|start| name.starts_with(start)) => "ceiling",
        _ => "peer",
    }
}

fn text(body: &mut String, x: u32, y: u32, anchor: &str, class: &str, text: &str) {
    let _ = writeln!(
        body,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>",
        escaped(text)
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Disk;
    use crate::rows::{LeftOut, RowName};
    use crate::sample::Sample;

    #[test]
    fn every_log_has_its_bar_and_text_is_escaped() {
        let sample = |per_second| vec![Sample { per_second, ..Sample::default() }];
        let row = Row {
            name: RowName::Callers1,
            others: Some(0.256),
            systems: vec![
                Measured { name: crate::ours::NAME, samples: sample(500.0) },
                Measured { name: "raft-engine", samples: sample(1_000.0) },
            ],
            left_out: vec![LeftOut { name: "okaywal", why: "<broken> & gone".into() }],
        };
        let report = Report {
            processors: 2,
            load: None,
            disk: Disk { file_system: "ext4".into(), fdatasync_p50_us: 120.0 },
            repetitions: 1,
            seconds_per_cell: 0.5,
            replayed_records: 1,
            rows: vec![row],
            bars: vec![],
        };
        let svg = svg(&report);
        assert!(svg.contains("class=\"ours\" x=\"250\" y=\"111\" width=\"270.0\""), "{svg}");
        assert!(svg.contains("class=\"peer\" x=\"250\" y=\"133\" width=\"540.0\""), "{svg}");
        assert!(svg.contains("others: 26 % of the processors"), "{svg}");
        assert!(svg.contains("&lt;broken&gt; &amp; gone"), "{svg}");
    }
}
