//! `sim view`: one run as one page that opens from the disk and asks no network for anything.

use super::export::{Run, describe, matter, record};
use super::sweep::whole;
use crate::junit::escaped;
use crate::terminal::Output;
use crate::{EXIT_CODES, Stop, parse_seed};
use clap::Args;
use serde_json::{Value, json};
use sim::judge::Moment;
use sim::recording::Happening;
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
    out.line(format_args!("{}: seed {}: {}", run.scenario, run.seed, run.verdict));
    out.line(format_args!("{}", args.out.display()));
    Ok(0)
}

/// The page of a run.
fn page(run: &Run, nodes: usize) -> String {
    let title = format!("{} · seed {}", run.scenario, run.seed);
    // Within a script element only what could end it, or begin a comment, must not stand.
    let data = payload(run, nodes).to_string().replace('<', "\\u003c");
    PAGE.replacen("{{title}}", &escaped(&title), 1).replacen("{{data}}", &data, 1)
}

/// What the page shows, as it stands in it. Numbers of 64 bits are texts: a page's numbers are floats.
fn payload(run: &Run, nodes: usize) -> Value {
    let shown = matter(run, nodes);
    let mut lanes: Vec<u32> = shown.iter().copied().collect();
    let region = |node: u32| run.regions[node as usize];
    lanes.sort_by_key(|node| (region(*node), *node));
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
                    messages.push(json!([from, to, t, null, kind, text(about), event, 0]));
                }
                for (copy, due) in arrives {
                    let (end, fate) = match arrivals.get(copy) {
                        Some((at, true)) => (at.now, 1),
                        Some((at, false)) => (at.now, 2),
                        None => (*due, 3),
                    };
                    let end = end.as_nanos() as f64 / 1e6;
                    let row = json!([from, to, t, end, kind, text(about), event, fate]);
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
                        role.name()
                    }
                    _ => "",
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
        for (role, lines) in of_node {
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
                "node": node, "role": role, "left_out": left_out, "records": rows,
            }));
        }
    }
    json!({
        "scenario": run.scenario,
        "about": run.about,
        "seed": run.seed.to_string(),
        "hash": format!("{:032x}", run.hash),
        "verdict": run.verdict,
        "what": run.what,
        "violation_event": run.violation,
        "nodes": run.nodes(),
        "left_out": run.left_out(),
        "lanes": lanes.iter().map(|node| json!([node, region(*node)])).collect::<Vec<_>>(),
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
        Happening::Version { .. } => "version",
        Happening::Fault { .. } | Happening::Befell { .. } => "fault",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::export::{of_coordinators, of_storage};

    fn run(text: &str, seed: u64) -> Run {
        of_coordinators(&sim::Scenario::parse("scenario", text).expect("it is a scenario"), seed)
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
        assert_eq!(data["hash"], format!("{:032x}", run.hash));
        assert_eq!(data["lanes"].as_array().map(Vec::len), Some(9));
        let messages = data["messages"].as_array().expect("a list");
        let arrived = messages.iter().filter(|row| matches!(row[7].as_u64(), Some(1 | 2))).count();
        let scenario = sim::Scenario::parse("scenario", SMALL).expect("it is a scenario");
        let plan = sim::plan::Plan::generate(&scenario, 3);
        let delivered = sim::run_plan(&scenario, 3, plan, None).0.counters.delivered;
        assert_eq!(arrived as u64 + data["skipped"].as_u64().unwrap_or(1), delivered);
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
        run.scenario = "<b>&\"'".to_owned();
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

    /// Of storage nodes a page has all that it has of others, and the versions of records.
    #[test]
    fn a_page_holds_a_run_of_storage_nodes() {
        // One with a ledger.
        let mut texts = (100..).map(|seed| (seed, sim::storage::small(seed)));
        let (seed, text) = texts.find(|(_, text)| text.contains("stake = 10000")).expect("a seed");
        let scenario = sim::storage::Scenario::parse(&text).expect("its text is a scenario");
        let run = of_storage(&scenario, seed);
        let whole = sim::storage::run(&scenario, seed);
        assert_eq!((run.hash, run.verdict), (whole.hash, "clean"), "it is the run itself");
        let page = page(&run, 40);
        assert!(page.len() < 12_000_000, "{}", page.len());
        let data = data(&page);
        let list = |name: &str| data[name].as_array().cloned().expect("a list");
        assert_eq!(data["nodes"], run.regions.len());
        let lanes: Vec<u64> = list("lanes").iter().filter_map(|lane| lane[1].as_u64()).collect();
        assert!(lanes.is_sorted(), "by region: {lanes:?}");
        let kinds: std::collections::BTreeSet<String> =
            list("messages").iter().filter_map(|row| row[4].as_str().map(str::to_owned)).collect();
        for kind in ["get", "bytes", "find", "prepare", "heartbeat", "scrub"] {
            assert!(kinds.contains(kind), "{kind}: {kinds:?}");
        }
        let arrived = list("messages").iter().filter(|row| row[7] == 1 || row[7] == 2).count();
        assert_eq!(arrived as u64, whole.totals.messages, "each that arrived is there");
        let all = list("events");
        let of = |kind: &str| all.iter().filter(|row| row[2] == kind).count() as u64;
        assert_eq!(of("crash"), whole.totals.crashes + whole.totals.nodes.1);
        let few = ["start", "recovered", "fault", "asked", "told", "version", "durable"];
        assert!(few.iter().all(|kind| of(kind) > 0), "{:?}", few.map(of));
        let answers: u64 = whole.totals.answers.values().sum();
        assert!(of("told") <= answers && data["skipped"] == 0, "{answers}");
        // What recovery found is what the bytes say.
        let recoveries = list("recoveries");
        let same = |one: &Value| one["truth"].is_null() || one["found"] == one["truth"];
        assert!(recoveries.len() > 9 && recoveries.iter().all(same));
        let names = ["coordinator", "participant", "ledger"];
        assert!(names.iter().all(|name| list("logs").iter().any(|log| log["role"] == *name)));
    }

    /// Of many nodes most messages are about who is there: a page says how many it leaves out.
    #[test]
    fn a_page_of_many_storage_nodes_leaves_out_who_is_there() {
        let text =
            "format = 1\nname = \"many\"\n[storage]\nnodes = 120\nfiles = 2\nlasts = \"1s\"\n";
        let scenario = sim::storage::Scenario::parse(text).expect("it is a scenario");
        let run = of_storage(&scenario, 1);
        let whole = sim::storage::run(&scenario, 1);
        assert_eq!((run.hash, run.verdict), (whole.hash, "clean"));
        let page = page(&run, 40);
        assert!(page.len() < 2_000_000, "{}", page.len());
        let data = data(&page);
        let told = data["left_out"].as_str().expect("it says so");
        let count: u64 = told.split(' ').next().and_then(|it| it.parse().ok()).expect("a number");
        assert!(count > whole.totals.messages / 2 && count < whole.totals.messages * 11 / 10);
        assert_eq!(data["lanes"].as_array().map(Vec::len), Some(40));
        let messages = data["messages"].as_array().expect("a list");
        assert!(!messages.is_empty() && messages.iter().all(|row| row[4] != "heartbeat"));
    }
}
