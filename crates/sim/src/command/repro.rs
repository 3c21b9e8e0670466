//! `repro`: a failure again, up to any of its events, and as it would have been.

use super::repeats;
use crate::terminal::Output;
use crate::{INFRASTRUCTURE, Stop, USAGE, failure, read_text};
use clap::Args;
use serde_json::{Value, json};
use sim::plan::{Fault, Plan, Trigger};
use sim::{FaultEntry, NodeView, Note, Report, Scenario, Verdict, World};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// `repro`
#[derive(Args)]
pub struct ReproArgs {
    /// The failure file
    file: PathBuf,
    /// Stop behind this event, and print the nodes, their logs and the messages on their way
    #[arg(long, value_name = "EVENT")]
    pub goto: Option<u64>,
    /// With --goto: only this node, such as n3; may be given more than once
    #[arg(long, value_name = "NODE", value_parser = parse_node, requires = "goto")]
    node: Vec<u32>,
    /// Print each event, and what it led to
    #[arg(long)]
    pub trace: bool,
    /// Go on from the event of --goto, or from the beginning, with other faults, and compare
    #[arg(long)]
    pub fork: bool,
    /// With --fork: one fault more, as in a scenario file; without `at` and `on` it strikes at once
    #[arg(long, value_name = "TOML", requires = "fork")]
    add: Vec<String>,
    /// With --fork: one fault less, by its number in the file, from 0
    #[arg(long, value_name = "N", requires = "fork")]
    without: Vec<usize>,
    /// With --fork: where the file of a fork that fails goes
    #[arg(long, default_value = "out")]
    out: PathBuf,
    /// JSON on standard output: a line for the run, or for each event and the state
    #[arg(long)]
    pub json: bool,
}

fn parse_node(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix('n').unwrap_or(text).parse();
    number.map_err(|_| "expected a node such as n3".to_owned())
}

/// A failure file that was read.
struct Failure {
    name: String,
    text: String,
    scenario: Scenario,
    invariant: String,
}

fn read(name: String, text: String) -> Result<Failure, Stop> {
    let scenario = Scenario::parse(&name, &text).map_err(Stop::usage)?;
    let Some(repeats) = repeats(&name, scenario.repeats.as_ref())? else {
        let help = format!("run it with `cargo xtask sim {}`", failure::quoted(&name));
        return Err(Stop::usage(miette::miette!(
            help = help,
            "{name} repeats no failure: it has no [repeats] table"
        )));
    };
    Ok(Failure { name, text, scenario, invariant: repeats.invariant })
}

/// Runs a failure file. 1 if it fails as it did (2 if that was for lack of progress), 0 if it runs
/// clean, 4 if it fails otherwise. To an event: 0, or 4 if it never comes. Forked: as the fork ends.
pub fn repro(args: &ReproArgs, out: &mut Output) -> Result<u8, Stop> {
    let (name, text) = (args.file.display().to_string(), read_text(&args.file)?);
    if sim::storage::Scenario::is_one(&text) {
        return super::storage::repro(args, &name, &text, out);
    }
    let failure = read(name, text)?;
    if !args.json {
        out.line(format_args!("{}: seed {}", failure.name, failure.scenario.seed));
    }
    let scenario = &failure.scenario;
    let mut plan = Plan::generate(scenario, scenario.seed);
    if args.fork {
        plan = unnamed(plan);
    }
    let mut world = World::new(scenario, scenario.seed, plan, sim::judge::all(scenario));
    if args.trace {
        world.note_all();
    }
    let over = match args.goto {
        Some(event) => go_to(&mut world, event, args, out)?,
        None => false,
    };
    if args.fork {
        if over {
            return Err(Stop::usage(miette::miette!(
                help = "fork at an earlier event, or at the beginning: leave --goto out",
                "the run is over with event {}",
                world.moment().event
            )));
        }
        return fork(&failure, world, args, out);
    }
    if args.goto.is_some() {
        let views = views(&world, &args.node)?;
        if args.json {
            out.line(format_args!("{}", state_json(&world, &views)));
        } else {
            print_state(&world, &views, args.node.is_empty(), out);
        }
        return Ok(0);
    }
    let report =
        if args.trace { traced(&mut world, args.json, out) } else { sim::finish(&mut world) };
    tell(&failure, &report, args.json, out)
}

/// How a run ended, and whether that is how it ended before.
fn tell(failure: &Failure, report: &Report, json: bool, out: &mut Output) -> Result<u8, Stop> {
    let verdict = &report.verdict;
    let invariant = &failure.invariant;
    let fails_as_it_did = verdict.is_of(invariant);
    if json {
        let mut line = report.json();
        line["fails_as_it_did"] = fails_as_it_did.into();
        out.line(format_args!("{line}"));
    } else {
        if *verdict != Verdict::Clean {
            out.line(format_args!("{}: {}", verdict.name(), verdict.what()));
        }
        out.line(format_args!("run hash {:032x}", report.hash));
        if *verdict == Verdict::Clean {
            out.line(format_args!("it runs clean: {invariant} does not come up any more"));
        } else if fails_as_it_did {
            out.line(format_args!("it fails as it did"));
        } else {
            out.line(format_args!("another failure than in the file, which has {invariant}"));
        }
    }
    if *verdict != Verdict::Clean && !fails_as_it_did {
        return Ok(USAGE);
    }
    let code = verdict.exit_code();
    assert!(code != INFRASTRUCTURE, "a verdict has an exit code of its own");
    Ok(code)
}

/// Runs to an event, and prints those before it if they are wanted. True if the run is over then.
fn go_to(
    world: &mut World<'_>,
    event: u64,
    args: &ReproArgs,
    out: &mut Output,
) -> Result<bool, Stop> {
    let mut over = None;
    while over.is_none() && world.moment().event < event && !out.is_closed() {
        let next = if args.trace { world.moment().event + 1 } else { event };
        // A broken assertion ends a run as a violation does.
        let ended = catch_unwind(AssertUnwindSafe(|| world.run_to(next)));
        over = ended.map_or(Some("a panic".to_owned()), |ended| {
            ended.map(|ending| format!("{ending:?}").to_lowercase())
        });
        print_notes(&world.take_notes(), args.json, out);
    }
    let last = world.moment().event;
    match over {
        Some(how) if last < event => Err(Stop::usage(miette::miette!(
            help = format!("name an event from 0 to {last}"),
            "event {event} never comes: the run ends with event {last}, by {how}"
        ))),
        over => Ok(over.is_some()),
    }
}

/// Runs to the end, and prints each event.
fn traced(world: &mut World<'_>, json: bool, out: &mut Output) -> Report {
    sim::finish_each(world, &mut |world| {
        let notes = world.take_notes();
        if out.is_closed() {
            world.stop_notes();
        }
        print_notes(&notes, json, out);
    })
}

fn print_notes(notes: &[Note], json: bool, out: &mut Output) {
    let mut last = None;
    for Note { at, node, what } in notes {
        let node = node.map(|node| format!("n{node}"));
        if json {
            let at_ns = at.now.as_nanos();
            let line = json!({ "event": at.event, "at_ns": at_ns, "node": node, "what": what });
            out.line(format_args!("{line}"));
        } else {
            // What an event led to stands below it.
            let node = node.unwrap_or_default();
            if last == Some(at.event) {
                out.line(format_args!("{:>8} {:>14}  {node:<5}   {what}", "", ""));
            } else {
                let now = at.now.to_string();
                out.line(format_args!("{:>8} {now:>14}  {node:<5} {what}", at.event));
            }
        }
        last = Some(at.event);
    }
}

// ---- the state at an event ----

fn views(world: &World<'_>, nodes: &[u32]) -> Result<Vec<NodeView>, Stop> {
    let count = *world.scenario().cluster.nodes.get_ref();
    let chosen: Vec<u32> = if nodes.is_empty() { (0..count).collect() } else { nodes.to_vec() };
    let view = |node: u32| {
        world.view(node).ok_or_else(|| {
            Stop::usage(miette::miette!(
                "there is no node n{node}: the cluster has n0 to n{}",
                count - 1
            ))
        })
    };
    chosen.into_iter().map(view).collect()
}

fn state_json(world: &World<'_>, views: &[NodeView]) -> Value {
    let nodes: Vec<Value> = views
        .iter()
        .map(|view| {
            let logs: Vec<Value> = view
                .logs
                .iter()
                .map(|log| {
                    json!({
                        "name": log.name,
                        "durable": log.durable,
                        "records": log.records,
                        "flaw": log.flaw,
                    })
                })
                .collect();
            json!({ "node": view.node, "state": view.state, "open": view.open, "logs": logs })
        })
        .collect();
    let messages: Vec<Value> = world
        .in_flight()
        .into_iter()
        .map(|(at, from, to, what)| {
            json!({ "at_ns": at.as_nanos(), "from": from, "to": to, "what": what })
        })
        .collect();
    let moment = world.moment();
    json!({
        "event": moment.event,
        "at_ns": moment.now.as_nanos(),
        "hash": format!("{:032x}", world.hash()),
        "nodes": nodes,
        "in_flight": messages,
    })
}

/// So many of a log's last records are shown, and so many messages, unless nodes are named.
const LAST: usize = 8;
const MESSAGES: usize = 50;

fn print_state(world: &World<'_>, views: &[NodeView], all: bool, out: &mut Output) {
    let moment = world.moment();
    out.line(format_args!("behind event {}, at {}:", moment.event, moment.now));
    let mut quiet = 0;
    for view in views {
        // Of many nodes those that have nothing to do are not worth a line.
        if all
            && views.len() > 16
            && view.open.is_empty()
            && view.state.starts_with("runs, start 1")
        {
            quiet += 1;
            continue;
        }
        out.line(format_args!("\nn{}: {}", view.node, view.state));
        for open in &view.open {
            out.line(format_args!("  {open}"));
        }
        for log in &view.logs {
            let count = log.records.len();
            let durable = match log.durable {
                Some(durable) => format!(", {durable} known to be durable"),
                None => String::new(),
            };
            out.line(format_args!("  {} log: {count} records on the disk{durable}", log.name));
            let shown = if all { LAST } else { count };
            if count > shown {
                out.line(format_args!("    … {} earlier ones", count - shown));
            }
            for (sequence, event) in &log.records[count.saturating_sub(shown)..] {
                out.line(format_args!("    {sequence:>6} {event}"));
            }
            if let Some(flaw) = &log.flaw {
                out.line(format_args!("    behind them: {flaw}"));
            }
        }
    }
    if quiet > 0 {
        out.line(format_args!("\n{quiet} more nodes run and have nothing open"));
    }
    let wanted = |node: &u32| all || views.iter().any(|view| view.node == *node);
    let mut messages = world.in_flight();
    messages.retain(|(_, from, to, _)| wanted(from) || wanted(to));
    out.line(format_args!("\n{} messages on their way", messages.len()));
    for (at, from, to, what) in messages.iter().take(MESSAGES) {
        out.line(format_args!("  at {at} n{from} to n{to}: {what}"));
    }
    if messages.len() > MESSAGES {
        out.line(format_args!("  … and {} later ones", messages.len() - MESSAGES));
    }
}

// ---- another course ----

/// Goes on twice from where the world is: as it went, and with other faults.
fn fork(
    failure: &Failure,
    mut world: World<'_>,
    args: &ReproArgs,
    out: &mut Output,
) -> Result<u8, Stop> {
    if args.add.is_empty() && args.without.is_empty() {
        return Err(Stop::usage(miette::miette!(
            help =
                "such as --without 0, or --add 'kind = \"power-loss\", node = 0, down = \"20ms\"'",
            "--fork needs a fault more, --add, or one less, --without"
        )));
    }
    let changed = other_file(failure, &world, args)?;
    let other = Scenario::parse("the fork", &changed.to_string()).map_err(Stop::usage)?;
    let mut forked = world.clone();
    for entry in &args.without {
        if *entry >= world.plan().faults.len() {
            let most = world.plan().faults.len();
            return Err(Stop::usage(miette::miette!(
                "there is no fault {entry}: the plan has {most} entries, numbered from 0"
            )));
        }
        if !forked.take_fault_away(*entry) {
            return Err(Stop::usage(miette::miette!(
                help = "fork at an earlier event, or at the beginning: leave --goto out",
                "fault {entry} has struck before event {}",
                world.moment().event
            )));
        }
    }
    let added = other.named_faults();
    for fault in &added[added.len() - args.add.len()..] {
        let mut fault: Fault = fault.clone();
        fault.named = false;
        forked.add_fault(fault);
    }
    let from = world.moment().event;
    world.note_all();
    forked.note_all();
    let parting = parting(&mut world.clone(), &mut forked.clone());
    world.take_notes();
    let (as_it_went, otherwise) =
        (sim::finish(&mut quietly(world)), sim::finish(&mut quietly(forked)));
    let kept = if otherwise.verdict == Verdict::Clean {
        None
    } else {
        let plan = unnamed(Plan::generate(&other, other.seed));
        let judges = sim::judge::all(&other);
        let again = sim::finish(&mut World::new(&other, other.seed, plan, judges));
        let file = failure::keep_as(&args.out, ".fork", &again, &changed.to_string())?;
        Some((file, again.verdict.signature() == otherwise.verdict.signature()))
    };
    if args.json {
        let part = parting.as_ref().map(
            |(event, here, there)| json!({ "event": event, "as_it_went": here, "forked": there }),
        );
        let line = json!({
            "from": from,
            "as_it_went": as_it_went.json(),
            "forked": otherwise.json(),
            "part": part,
            "file": kept.as_ref().map(|(file, _)| file.display().to_string()),
        });
        out.line(format_args!("{line}"));
        return Ok(otherwise.verdict.exit_code());
    }
    out.line(format_args!("forked behind event {from}"));
    match parting {
        None => out.line(format_args!("both runs are the same, event for event")),
        Some((event, here, there)) => {
            out.line(format_args!("they part at event {event}"));
            out.line(format_args!("  as it went: {here}\n  forked:     {there}"));
        }
    }
    for (name, report) in [("as it went: ", &as_it_went), ("forked:     ", &otherwise)] {
        let (verdict, what) = (report.verdict.name(), report.verdict.what());
        let what = if what.is_empty() { what } else { format!(": {what}") };
        out.line(format_args!("{name}{verdict}{what}"));
    }
    if let Some((file, same)) = kept {
        if !same {
            out.line(format_args!(
                "from the beginning, with the same faults, it fails otherwise: numbers of events shift"
            ));
        }
        out.line(format_args!("\nto repeat the fork:\n{}", failure::command(&file)));
    }
    Ok(otherwise.verdict.exit_code())
}

/// In another course of things no fault has to strike.
fn unnamed(mut plan: Plan) -> Plan {
    for fault in &mut plan.faults {
        fault.named = false;
    }
    plan
}

/// The world without notes, which nobody reads.
fn quietly(mut world: World<'_>) -> World<'_> {
    world.stop_notes();
    world
}

/// The first event at which two worlds differ, and what it is in each.
fn parting(one: &mut World<'_>, other: &mut World<'_>) -> Option<(u64, String, String)> {
    loop {
        let next = one.moment().event + 1;
        let step = |world: &mut World<'_>| {
            let ended = catch_unwind(AssertUnwindSafe(|| world.run_to(next)));
            let notes = world.take_notes();
            let first = notes.first().map_or("the run is over".to_owned(), in_words);
            (!matches!(ended, Ok(None)), world.hash(), first)
        };
        let (a, b) = (step(one), step(other));
        if a.1 != b.1 || a.0 != b.0 {
            return Some((next, a.2, b.2));
        }
        if a.0 {
            return None;
        }
    }
}

pub(super) fn in_words(note: &Note) -> String {
    let node = note.node.map(|node| format!("n{node}: ")).unwrap_or_default();
    format!("at {} {node}{}", note.at.now, note.what)
}

/// The failure file with the faults of the fork.
fn other_file(failure: &Failure, world: &World<'_>, args: &ReproArgs) -> Result<toml::Table, Stop> {
    let mut table: toml::Table = failure
        .text
        .parse()
        .map_err(|error: toml::de::Error| Stop::usage(miette::miette!("{error}")))?;
    table.remove("repeats");
    let plan = world.plan().faults.iter().enumerate();
    let left = plan.filter(|(entry, _)| !args.without.contains(entry));
    let value = |fault: &Fault| {
        toml::Value::try_from(FaultEntry::of(fault))
            .map_err(|error| Stop::infrastructure(miette::miette!("{error}")))
    };
    let mut faults: Vec<toml::Value> =
        left.map(|(_, fault)| value(fault)).collect::<Result<_, _>>()?;
    let now = Trigger::At(world.moment().now);
    for text in &args.add {
        let mut entry = entry_of(text)?;
        if !entry.contains_key("at") && !entry.contains_key("on") {
            // A time that every reader of the file understands.
            let at = FaultEntry::of(&Fault {
                trigger: now,
                action: sim::plan::Action::Heal,
                named: true,
            });
            let at = toml::Table::try_from(at)
                .map_err(|error| Stop::infrastructure(miette::miette!("{error}")))?;
            entry.extend(at.into_iter().filter(|(key, _)| key == "at"));
        }
        faults.push(toml::Value::Table(entry));
    }
    table.insert("fault".into(), toml::Value::Array(faults));
    Ok(table)
}

/// A fault as people type it: the lines of a `[[fault]]`, or the same with commas.
fn entry_of(text: &str) -> Result<toml::Table, Stop> {
    if let Ok(table) = text.parse::<toml::Table>() {
        return Ok(table);
    }
    let inline = text.trim().trim_start_matches('{').trim_end_matches('}');
    let table: Result<toml::Table, _> = format!("fault = {{ {inline} }}").parse();
    match table.as_ref().map(|table| table.get("fault")) {
        Ok(Some(toml::Value::Table(fault))) => Ok(fault.clone()),
        _ => Err(Stop::usage(miette::miette!(
            help = "as in a scenario file: kind = \"power-loss\", node = 0, down = \"20ms\"",
            "--add {text:?} is no fault"
        ))),
    }
}
