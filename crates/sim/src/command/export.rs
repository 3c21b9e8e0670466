//! `sim export`: a run for tools of others: Perfetto (or any reader of Chrome's traces), and ShiViz.

use super::sweep::whole;
use crate::terminal::{Output, say};
use crate::{EXIT_CODES, Stop, parse_seed, path_of, read, read_text};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sim::plan::Plan;
use sim::recording::{Happening, Recording, Role, Wanted};
use sim::{Scenario, Verdict, judge::Moment, storage};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What `export` is told.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct ExportArgs {
    /// A scenario's file or name, or a failure file
    scenario: String,
    /// Another seed than the file's
    #[arg(long, value_parser = parse_seed)]
    seed: Option<u64>,
    /// For which tool
    #[arg(long, value_enum)]
    format: Format,
    /// The file to be written [default: standard output]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// For whom a run is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Chrome's trace format in JSON, in simulated time: for ui.perfetto.dev or chrome://tracing
    Perfetto,
    /// A log with vector clocks: for ShiViz
    Shiviz,
}

/// ShiViz draws a column for each host: of larger worlds it gets the nodes that matter.
const HOSTS_MAX: usize = 32;

/// A run of either kind of world that was written down.
pub struct Run {
    /// The scenario's name.
    pub scenario: String,
    /// What it is about.
    pub about: String,
    /// The seed.
    pub seed: u64,
    /// What came of it, in a word.
    pub verdict: &'static str,
    /// What was wrong.
    pub what: String,
    /// The event at which that was seen, if a judge saw it.
    pub violation: Option<u64>,
    /// The hash of everything that happened.
    pub hash: u128,
    /// The region of each node.
    pub regions: Vec<u32>,
    /// What happened.
    pub recording: Recording,
}

impl Run {
    /// How many nodes there were.
    pub fn nodes(&self) -> usize {
        self.regions.len()
    }

    /// What is not in the recording, for people.
    pub fn left_out(&self) -> Option<String> {
        let count = self.recording.left_out;
        (count > 0).then(|| format!("{count} messages of who is there are left out"))
    }
}

/// Runs a scenario or failure file, and writes down what happens.
pub fn record(name: &str, seed: Option<u64>) -> Result<Run, Stop> {
    let path = path_of(name);
    let text = read_text(&path)?;
    if storage::Scenario::is_one(&text) {
        let scenario = super::storage::scenario(&path.display().to_string(), &text)?;
        return Ok(of_storage(&scenario, seed.unwrap_or(scenario.seed)));
    }
    let source = read(name)?;
    Ok(of_coordinators(&source.scenario, seed.unwrap_or(source.scenario.seed)))
}

/// Runs a world of coordinators.
pub fn of_coordinators(scenario: &Scenario, seed: u64) -> Run {
    let plan = Plan::generate(scenario, seed);
    let recording = Some(Recording::new(Wanted::Happenings));
    let (report, recording) = sim::run_plan(scenario, seed, plan, recording);
    let regions = *scenario.cluster.regions.get_ref();
    Run {
        about: scenario.about.clone(),
        seed,
        verdict: report.verdict.name(),
        what: report.verdict.what(),
        violation: match &report.verdict {
            Verdict::Violation(violation) => Some(violation.at.event),
            _ => None,
        },
        hash: report.hash,
        regions: (0..recording.logs.len() as u32).map(|node| node % regions).collect(),
        scenario: report.scenario,
        recording,
    }
}

/// Runs a world of storage nodes.
pub fn of_storage(scenario: &storage::Scenario, seed: u64) -> Run {
    let (report, recording, regions) = storage::run_recorded(scenario, seed);
    Run {
        about: scenario.about.clone(),
        seed,
        verdict: report.verdict(),
        what: report.what(),
        // What a judge objects to ends the run.
        violation: report.finding.as_ref().map(|_| report.totals.events),
        hash: report.hash,
        regions,
        scenario: report.scenario,
        recording,
    }
}

/// Exports.
pub fn main(args: &ExportArgs, out: &mut Output) -> Result<u8, Stop> {
    let run = record(&args.scenario, args.seed)?;
    let text = match args.format {
        Format::Perfetto => perfetto(&run),
        Format::Shiviz => {
            let shown = matter(&run, HOSTS_MAX);
            let nodes = run.nodes();
            if shown.len() < nodes {
                let shown = shown.len();
                say(format_args!(
                    "{shown} of {nodes} nodes: those that faults struck, then the busiest"
                ));
            }
            shiviz(&run.recording, &shown)
        }
    };
    match &args.out {
        Some(file) => whole(file, text.as_bytes())?,
        None => out.write(format_args!("{text}")),
    }
    if let Some(left_out) = run.left_out() {
        say(format_args!("{left_out}"));
    }
    if !run.what.is_empty() {
        say(format_args!("{}: {}", run.verdict, run.what));
    }
    // The run's verdict is not what was asked for.
    Ok(0)
}

/// At most so many nodes: those that stopped or that a fault struck, then those that did most.
pub fn matter(run: &Run, most: usize) -> BTreeSet<u32> {
    let nodes = run.nodes();
    let mut weights = vec![(false, 0u64); nodes];
    for (_, happening) in &run.recording.happenings {
        let Some(node) = happening.node() else { continue };
        let weight = &mut weights[node as usize];
        weight.1 += 1;
        weight.0 |= matches!(
            happening,
            Happening::Crashed { .. }
                | Happening::Stopped { .. }
                | Happening::Fault { .. }
                | Happening::Befell { .. }
        );
    }
    let mut order: Vec<u32> = (0..nodes as u32).collect();
    order.sort_by_key(|node| {
        let (struck, count) = weights[*node as usize];
        (!struck, u64::MAX - count, *node)
    });
    order.into_iter().take(most).collect()
}

/// Microseconds, as these traces count.
fn micros(at: Moment) -> Value {
    json!((at.now.as_nanos() as f64) / 1000.0)
}

/// A node's tracks.
fn track(role: Role) -> u32 {
    match role {
        Role::Coordinator => 1,
        Role::Participant => 2,
    }
}

const PROCESS: u32 = 0;
const MESSAGES: u32 = 3;

/// Chrome's trace format: a node is a process, with tracks for its life, its two logs and its messages;
/// an arrow leads from where a message left to where it arrived.
fn perfetto(run: &Run) -> String {
    let mut events: Vec<Value> = Vec::new();
    for (node, region) in run.regions.iter().enumerate() {
        let name = format!("n{node} (region {region})");
        events
            .push(json!({"ph": "M", "name": "process_name", "pid": node, "args": {"name": name}}));
        let sort = json!({"ph": "M", "name": "process_sort_index", "pid": node, "args": {"sort_index": node}});
        events.push(sort);
        for (track, name) in [
            (PROCESS, "process"),
            (1, "coordinator's log"),
            (2, "participant's log"),
            (3, "messages"),
        ] {
            let args = json!({"name": name});
            events.push(
                json!({"ph": "M", "name": "thread_name", "pid": node, "tid": track, "args": args}),
            );
        }
    }
    let instant = |at: Moment, node: u32, track: u32, name: String, args: Value| json!({"ph": "i", "s": "t", "ts": micros(at), "pid": node, "tid": track, "name": name, "args": args});
    let mut up: BTreeMap<u32, Moment> = BTreeMap::new();
    let mut end = Moment::default();
    let mut lived = Vec::new();
    for (at, happening) in &run.recording.happenings {
        end = *at;
        let event = at.event;
        match happening {
            Happening::Sent { from, to, kind, about, arrives } => {
                let name = kind;
                let args = json!({"to": format!("n{to}"), "operation": about.map(|id| id.to_string()), "copies": arrives.len(), "event": event});
                events.push(json!({"ph": "X", "ts": micros(*at), "dur": 1, "pid": from, "tid": MESSAGES, "name": name, "cat": "message", "args": args}));
                for (copy, _) in arrives {
                    events.push(json!({"ph": "s", "ts": micros(*at), "pid": from, "tid": MESSAGES, "name": name, "cat": "message", "id": copy}));
                }
            }
            Happening::Arrived { copy, from, to, kind, heard } => {
                let name = kind;
                let args = json!({"from": format!("n{from}"), "heard": heard, "event": event});
                events.push(json!({"ph": "X", "ts": micros(*at), "dur": 1, "pid": to, "tid": MESSAGES, "name": name, "cat": "message", "args": args}));
                events.push(json!({"ph": "f", "bp": "e", "ts": micros(*at), "pid": to, "tid": MESSAGES, "name": name, "cat": "message", "id": copy}));
            }
            Happening::Started { node, .. } => {
                up.insert(*node, *at);
            }
            Happening::Crashed { node, .. } | Happening::Stopped { node, .. } => {
                lived.extend(up.remove(node).map(|from| (*node, from, *at)));
            }
            Happening::Told { .. }
            | Happening::Asked { .. }
            | Happening::Recovered { .. }
            | Happening::Resumed { .. }
            | Happening::Appended { .. }
            | Happening::Durable { .. }
            | Happening::Version { .. }
            | Happening::Befell { .. }
            | Happening::Fault { .. } => {}
        }
        let (track, what) = match happening {
            Happening::Sent { .. } | Happening::Arrived { .. } => continue,
            Happening::Appended { role, .. }
            | Happening::Durable { role, .. }
            | Happening::Recovered { role, .. } => (track(*role), describe(happening)),
            _ => (PROCESS, describe(happening)),
        };
        let Some(node) = happening.node() else { continue };
        let args = match happening {
            Happening::Recovered { found, truth, .. } => {
                json!({"event": event, "found": found, "truth": truth})
            }
            _ => json!({"event": event}),
        };
        events.push(instant(*at, node, track, what, args));
    }
    lived.extend(up.into_iter().map(|(node, from)| (node, from, end)));
    for (node, from, to) in lived {
        let lasts = (to.now - from.now).as_nanos() as f64 / 1000.0;
        events.push(json!({"ph": "X", "ts": micros(from), "dur": lasts, "pid": node, "tid": PROCESS, "name": "up", "args": {}}));
    }
    let about = json!({
        "scenario": run.scenario,
        "seed": run.seed.to_string(),
        "verdict": run.verdict,
        "hash": format!("{:032x}", run.hash),
    });
    let mut text = String::from("{\"displayTimeUnit\":\"ms\",\"otherData\":");
    text.push_str(&about.to_string());
    text.push_str(",\"traceEvents\":[\n");
    for (at, event) in events.iter().enumerate() {
        text.push_str(if at > 0 { ",\n" } else { "" });
        text.push_str(&event.to_string());
    }
    text.push_str("\n]}\n");
    text
}

/// One line of what happens, for people.
pub fn describe(happening: &Happening) -> String {
    let of = |id: &Option<u64>| id.map(|id| format!(" of {id}")).unwrap_or_default();
    match happening {
        Happening::Asked { operation, .. } => format!("a client asks for operation {operation}"),
        Happening::Told { operation, outcome } => {
            format!("operation {operation} is told {outcome}")
        }
        Happening::Sent { to, kind, about, arrives, .. } => {
            let copies = match arrives.len() {
                0 => ", lost",
                1 => "",
                _ => ", twice",
            };
            format!("sends {kind}{} to n{to}{copies}", of(about))
        }
        Happening::Arrived { from, kind, heard, .. } => {
            let nobody = if *heard { "" } else { ", to nobody" };
            format!("{kind} from n{from}{nobody}")
        }
        Happening::Started { boot, .. } => format!("starts for the {boot}. time"),
        Happening::Recovered { role, records, found, truth, .. } => {
            let agrees = match truth {
                Some(truth) if found == truth => "as the bytes say",
                Some(_) => "NOT as the bytes say",
                None => "from a snapshot",
            };
            let unfinished = found.len();
            format!(
                "recovers its {}'s log: {records} records, {unfinished} unfinished, {agrees}",
                role.name()
            )
        }
        Happening::Crashed { power: true, .. } => "its power fails".to_owned(),
        Happening::Crashed { .. } => "its process dies".to_owned(),
        Happening::Stopped { reason, .. } => format!("stops: {reason}"),
        Happening::Resumed { .. } => "goes on".to_owned(),
        Happening::Appended { event, sequence, .. } => format!("appends {sequence}: {event}"),
        Happening::Durable { through, .. } => format!("durable up to {through}"),
        Happening::Fault { entry, kind, .. } => format!("fault {entry}: {kind}"),
        Happening::Version { file, version, scheme, .. } => {
            format!("version {version} of {file} is current, {scheme}")
        }
        Happening::Befell { what, .. } => what.clone(),
    }
}

/// ShiViz's default format: two lines for each event, with a vector clock of those who are known.
fn shiviz(recording: &Recording, shown: &BTreeSet<u32>) -> String {
    let mut text = "(?<event>.*)\\n(?<host>\\S*) (?<clock>{.*})\n\n".to_owned();
    let mut clocks: BTreeMap<u32, BTreeMap<u32, u64>> = BTreeMap::new();
    let mut sent: BTreeMap<u64, BTreeMap<u32, u64>> = BTreeMap::new();
    for (at, happening) in &recording.happenings {
        let Some(node) = happening.node().filter(|node| shown.contains(node)) else { continue };
        // A message of a host that is not shown comes from nowhere.
        let clock = clocks.entry(node).or_default();
        if let Happening::Arrived { copy, heard: true, .. } = happening
            && let Some(other) = sent.remove(copy)
        {
            for (host, time) in other {
                let known = clock.entry(host).or_default();
                *known = time.max(*known);
            }
        }
        *clock.entry(node).or_default() += 1;
        if let Happening::Sent { arrives, .. } = happening {
            for (copy, _) in arrives {
                sent.insert(*copy, clock.clone());
            }
        }
        let known: Vec<String> =
            clock.iter().map(|(host, time)| format!("\"n{host}\":{time}")).collect();
        // One line is one event.
        let what = describe(happening).replace(char::is_control, " ");
        text.push_str(&format!(
            "{} (event {}) {what}\nn{node} {{{}}}\n",
            at.now,
            at.event,
            known.join(",")
        ));
    }
    text
}
