//! `repro`: a failure again, up to any of its events, and as it would have been.

use super::repeats;
use super::travel::{EARLIER, compare, travel};
use crate::terminal::Output;
use crate::{Stop, failure, read_text};
use clap::Args;
use sim::plan::{Fault, Plan, Trigger};
use sim::{FaultEntry, Scenario, World};
use std::path::PathBuf;

/// `repro`
#[derive(Args)]
pub struct ReproArgs {
    /// The failure file
    file: PathBuf,
    /// Stop behind this event, and print the last events, the nodes, what they keep, their logs and the messages on their way
    #[arg(long, value_name = "EVENT")]
    pub goto: Option<u64>,
    /// With --goto: only this node, such as n3; may be given more than once
    #[arg(long, value_name = "NODE", value_parser = parse_node, requires = "goto")]
    pub node: Vec<u32>,
    /// Print each event, and what it led to
    #[arg(long)]
    pub trace: bool,
    /// Go on from the event of --goto, or from the beginning, with other faults, and compare
    #[arg(long)]
    pub fork: bool,
    /// With --fork: one fault more, as in a scenario file; without `at` and `on` it strikes at once. Of storage nodes:
    /// one that is drawn, or could be, by its name, such as "rot 3"
    #[arg(long, value_name = "FAULT", requires = "fork")]
    pub add: Vec<String>,
    /// With --fork: one fault less, by its number in the file, from 0; of storage nodes by its name, such as "rot 2"
    #[arg(long, value_name = "FAULT", requires = "fork")]
    pub without: Vec<String>,
    /// With --fork: where the file of a fork that fails goes
    #[arg(long, default_value = "out")]
    pub out: PathBuf,
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
    let world = World::new(scenario, scenario.seed, plan, sim::judge::all(scenario));
    travel(world, args, &failure.invariant, out, |world, out| fork(&failure, world, args, out))
}

/// Goes on twice from where the world is: as it went, and with other faults.
fn fork(
    failure: &Failure,
    world: World<'_>,
    args: &ReproArgs,
    out: &mut Output,
) -> Result<u8, Stop> {
    if args.add.is_empty() && args.without.is_empty() {
        let help =
            "such as --without 0, or --add 'kind = \"power-loss\", node = 0, down = \"20ms\"'";
        return Err(nothing_else(help));
    }
    let without = numbers(&args.without)?;
    let changed = other_file(failure, &world, args, &without)?;
    let other = Scenario::parse("the fork", &changed.to_string()).map_err(Stop::usage)?;
    let mut forked = world.clone();
    for entry in &without {
        if *entry >= world.plan().faults.len() {
            let most = world.plan().faults.len();
            return Err(Stop::usage(miette::miette!(
                "there is no fault {entry}: the plan has {most} entries, numbered from 0"
            )));
        }
        if !forked.take_fault_away(*entry) {
            return Err(Stop::usage(miette::miette!(
                help = EARLIER,
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
    compare(world, forked, args.json, out, |otherwise| {
        let plan = unnamed(Plan::generate(&other, other.seed));
        let judges = sim::judge::all(&other);
        let again = sim::finish(&mut World::new(&other, other.seed, plan, judges));
        let file = failure::keep_as(&args.out, ".fork", &again, &changed.to_string())?;
        Ok((file, again.verdict.signature() == otherwise.verdict.signature()))
    })
}

/// A fork without any fault more or less.
pub fn nothing_else(help: &str) -> Stop {
    Stop::usage(miette::miette!(
        help = help,
        "--fork needs a fault more, --add, or one less, --without"
    ))
}

/// The numbers of faults.
fn numbers(faults: &[String]) -> Result<Vec<usize>, Stop> {
    let number = |text: &String| {
        text.parse().map_err(|_| {
            Stop::usage(miette::miette!(
                help = "faults have names, such as `rot 2`, where nodes store",
                "--without {text:?} is no fault: expected its number in the file, from 0"
            ))
        })
    };
    faults.iter().map(number).collect()
}

/// In another course of things no fault has to strike.
fn unnamed(mut plan: Plan) -> Plan {
    for fault in &mut plan.faults {
        fault.named = false;
    }
    plan
}

/// The failure file with the faults of the fork.
fn other_file(
    failure: &Failure,
    world: &World<'_>,
    args: &ReproArgs,
    without: &[usize],
) -> Result<toml::Table, Stop> {
    let mut table: toml::Table = failure
        .text
        .parse()
        .map_err(|error: toml::de::Error| Stop::usage(miette::miette!("{error}")))?;
    table.remove("repeats");
    let plan = world.plan().faults.iter().enumerate();
    let left = plan.filter(|(entry, _)| !without.contains(entry));
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
