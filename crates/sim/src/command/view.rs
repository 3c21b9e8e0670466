//! `sim view`: one run as one page that opens from the disk and asks no network for anything.

use super::export::{Run, describe, matter, record};
use super::sweep::whole;
use crate::junit::escaped;
use crate::terminal::Output;
use crate::{EXIT_CODES, Stop, parse_seed};
use clap::Args;
use serde_json::{Value, json};
use sim::Verdict;
use sim::judge::Moment;
use sim::recording::{Happening, Role};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What `view` is told.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct ViewArgs {
    /// A scenario's file or name, or a failure file
    scenario: String,
    /// Another seed than the file's
    #[arg(long, value_parser = parse_seed)]
    seed: Option<u64>,
    /// The page
    #[arg(long, default_value = "view.html")]
    out: PathBuf,
    /// At most so many nodes: those that faults struck, then the busiest
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=1000))]
    nodes: u16,
}

/// So many events are on a page at most: of longer runs the ones before the end, which is where a
/// violation is.
const EVENTS_MAX: usize = 60_000;
/// So many records of one log: the last ones.
const RECORDS_MAX: usize = 500;

const PAGE: &str = include_str!("view.html");

/// Writes the page.
pub fn main(args: &ViewArgs, out: &mut Output) -> Result<u8, Stop> {
    let run = record(&args.scenario, args.seed)?;
    whole(&args.out, page(&run, usize::from(args.nodes)).as_bytes())?;
    let (name, seed) = (&run.report.scenario, run.report.seed);
    out.line(format_args!("{name}: seed {seed}: {}", run.report.verdict.name()));
    out.line(format_args!("{}", args.out.display()));
    Ok(0)
}

/// The page of a run.
fn page(run: &Run, nodes: usize) -> String {
    let title = format!("{} · seed {}", run.report.scenario, run.report.seed);
    // Within a script element only what could end it, or begin a comment, must not stand.
    let data = payload(run, nodes).to_string().replace('<', "\\u003c");
    PAGE.replacen("{{title}}", &escaped(&title), 1).replacen("{{data}}", &data, 1)
}

/// What the page shows, as it stands in it. Numbers of 64 bits are texts: a page's numbers are floats.
fn payload(run: &Run, nodes: usize) -> Value {
    let shown = matter(run, nodes);
    let regions = *run.source.scenario.cluster.regions.get_ref();
    let mut lanes: Vec<u32> = shown.iter().copied().collect();
    lanes.sort_by_key(|node| (node % regions, *node));
    let mut arrivals: BTreeMap<u64, (Moment, bool)> = BTreeMap::new();
    for (at, happening) in &run.recording.happenings {
        if let Happening::Arrived { copy, heard, .. } = happening {
            arrivals.insert(*copy, (*at, *heard));
        }
    }
    let mut events: Vec<Value> = Vec::new();
    let mut messages: Vec<Value> = Vec::new();
    let mut recoveries: Vec<Value> = Vec::new();
    let is_shown = |happening: &Happening| match happening {
        Happening::Sent { from, to, .. } | Happening::Arrived { from, to, .. } => {
            shown.contains(from) && shown.contains(to)
        }
        other => other.node().is_none_or(|node| shown.contains(&node)),
    };
    let all: Vec<&(Moment, Happening)> =
        run.recording.happenings.iter().filter(|(_, happening)| is_shown(happening)).collect();
    let skipped = all.len().saturating_sub(EVENTS_MAX);
    for (at, happening) in all.into_iter().skip(skipped) {
        let (t, event) = (at.now.as_nanos() as f64 / 1e6, at.event);
        match happening {
            Happening::Sent { from, to, kind, about, arrives } => {
                if arrives.is_empty() {
                    messages.push(json!([from, to, t, null, kind.name(), text(about), event, 0]));
                }
                for (copy, due) in arrives {
                    let (end, fate) = match arrivals.get(copy) {
                        Some((at, true)) => (at.now, 1),
                        Some((at, false)) => (at.now, 2),
                        None => (*due, 3),
                    };
                    let end = end.as_nanos() as f64 / 1e6;
                    let row = json!([from, to, t, end, kind.name(), text(about), event, fate]);
                    messages.push(row);
                }
            }
            Happening::Arrived { .. } => {}
            other => {
                if let Happening::Recovered { node, role, records, found, truth } = other {
                    recoveries.push(json!({
                        "event": event, "t": t, "node": node, "role": role.name(),
                        "records": records, "found": found, "truth": truth,
                    }));
                }
                let kind = kind(other);
                let role = match other {
                    Happening::Appended { role, .. } | Happening::Durable { role, .. } => {
                        u8::from(*role == Role::Participant)
                    }
                    _ => 0,
                };
                let sequence = match other {
                    Happening::Appended { sequence, .. } => *sequence,
                    Happening::Durable { through, .. } => *through,
                    _ => 0,
                };
                events.push(json!([other.node(), t, kind, describe(other), event, role, sequence]));
            }
        }
    }
    let mut logs = Vec::new();
    for node in &lanes {
        let Some(of_node) = run.recording.logs.get(*node as usize) else { continue };
        for (role, lines) in [Role::Coordinator, Role::Participant].iter().zip(of_node) {
            if lines.is_empty() {
                continue;
            }
            let left_out = lines.len().saturating_sub(RECORDS_MAX);
            let rows: Vec<Value> = lines[left_out..]
                .iter()
                .map(|line| {
                    json!([line.sequence, line.event.to_string(), text(&line.about), line.bytes])
                })
                .collect();
            logs.push(json!({
                "node": node, "role": role.name(), "left_out": left_out, "records": rows,
            }));
        }
    }
    let verdict = &run.report.verdict;
    let at = match verdict {
        Verdict::Violation(violation) => Some(violation.at.event),
        _ => None,
    };
    json!({
        "scenario": run.report.scenario,
        "about": run.source.scenario.about,
        "seed": run.report.seed.to_string(),
        "hash": format!("{:032x}", run.report.hash),
        "verdict": verdict.name(),
        "what": verdict.what(),
        "violation_event": at,
        "nodes": run.recording.logs.len(),
        "lanes": lanes.iter().map(|node| json!([node, node % regions])).collect::<Vec<_>>(),
        "skipped": skipped,
        "events": events,
        "messages": messages,
        "recoveries": recoveries,
        "logs": logs,
    })
}

fn text(id: &Option<u64>) -> Value {
    id.map_or(Value::Null, |id| Value::from(id.to_string()))
}

/// The class by which the page draws it.
fn kind(happening: &Happening) -> &'static str {
    match happening {
        Happening::Asked { .. } => "asked",
        Happening::Told { .. } => "told",
        Happening::Sent { .. } | Happening::Arrived { .. } => "message",
        Happening::Started { .. } => "start",
        Happening::Recovered { .. } => "recovered",
        Happening::Crashed { .. } | Happening::Stopped { .. } => "crash",
        Happening::Resumed { .. } => "resume",
        Happening::Appended { .. } => "append",
        Happening::Durable { .. } => "durable",
        Happening::Fault { .. } => "fault",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sim::plan::Plan;
    use sim::recording::{Recording, Wanted};

    fn run(text: &str, seed: u64) -> Run {
        let scenario = sim::Scenario::parse("scenario", text).expect("it is a scenario");
        let plan = Plan::generate(&scenario, seed);
        let recording = Some(Recording::new(Wanted::Happenings));
        let (report, recording) = sim::run_plan(&scenario, seed, plan, recording);
        let source = crate::Source { scenario, text: text.to_owned() };
        Run { source, report, recording }
    }

    /// What a page holds, as a browser would read it.
    fn data(page: &str) -> Value {
        let (_, rest) =
            page.split_once("<script type=\"application/json\" id=\"data\">").expect("it is there");
        let (data, _) = rest.split_once("</script>").expect("it ends");
        serde_json::from_str(data).expect("it is JSON")
    }

    const SMALL: &str = include_str!("../../../../sim-scenarios/dense-mixed-9.toml");

    #[test]
    fn a_page_holds_the_run_and_asks_nobody_for_anything() {
        let run = run(SMALL, 3);
        let page = page(&run, 40);
        let data = data(&page);
        assert_eq!(data["hash"], format!("{:032x}", run.report.hash));
        assert_eq!(data["lanes"].as_array().map(Vec::len), Some(9));
        let messages = data["messages"].as_array().expect("a list");
        let arrived = messages.iter().filter(|row| matches!(row[7].as_u64(), Some(1 | 2))).count();
        assert_eq!(
            arrived as u64 + data["skipped"].as_u64().unwrap_or(1),
            run.report.counters.delivered
        );
        let recoveries = data["recoveries"].as_array().expect("a list");
        let same = |one: &Value| one["truth"].is_null() || one["found"] == one["truth"];
        assert!(recoveries.len() > 9 && recoveries.iter().all(same));
        assert!(recoveries.iter().any(|one| !one["truth"].is_null()));
        assert!(
            recoveries.iter().any(|one| one["found"].as_array().is_some_and(|f| !f.is_empty()))
        );
        assert!(!data["logs"].as_array().expect("a list").is_empty());
        for word in ["http:", "https:", "src=", "@import", "url(", "{{"] {
            let markup = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!markup.contains(word), "{word}");
        }
    }

    #[test]
    fn a_name_stays_a_name() {
        let text = SMALL.replacen(
            "about = \"\"\"",
            "about = \"\"\"</script><script>alert(1)</script><!-- ",
            1,
        );
        assert!(text.contains("alert(1)"));
        let mut run = run(&text, 3);
        run.report.scenario = "<b>&\"'".to_owned();
        let page = page(&run, 40);
        assert!(!page.contains("<script>alert") && !page.contains("<b>&"));
        assert!(page.contains("<title>&lt;b&gt;&amp;&quot;&#39; · seed 3</title>"));
        let about = data(&page)["about"].as_str().map(str::to_owned);
        assert!(
            about.is_some_and(|about| about.contains("</script><script>alert(1)</script><!-- "))
        );
    }

    #[test]
    fn a_large_world_gets_a_page_of_bounded_size() {
        let text = include_str!("../../../../sim-scenarios/saga-recovery.toml");
        let run = run(text, 1);
        let page = page(&run, 40);
        assert!(page.len() < 12_000_000, "{}", page.len());
        let data = data(&page);
        assert_eq!(
            (data["nodes"].as_u64(), data["lanes"].as_array().map(Vec::len)),
            (Some(600), Some(40))
        );
        assert!(
            data["lanes"].as_array().is_some_and(|lanes| lanes.iter().any(|lane| lane[0] == 0)),
            "who crashed is there"
        );
    }
}
