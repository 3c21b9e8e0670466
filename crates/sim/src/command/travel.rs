//! Time travel in one run of either kind of world: to an event, event by event, and along another course.

use super::repro::ReproArgs;
use crate::terminal::Output;
use crate::{INFRASTRUCTURE, Stop, USAGE, failure};
use serde_json::{Map, Value, json};
use sim::judge::Moment;
use sim::{NodeView, Note, Report, Verdict, World, storage};
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// What a run was.
pub trait Told {
    /// The verdict in a word.
    fn verdict(&self) -> &'static str;
    /// What was wrong; empty if nothing was.
    fn what(&self) -> String;
    /// Whether it failed by this invariant, or in this way.
    fn is_of(&self, invariant: &str) -> bool;
    /// The hash of everything that happened.
    fn hash(&self) -> u128;
    /// The exit code that goes with it; 0 if it is clean, and only then.
    fn exit_code(&self) -> u8;
    /// It as a line of JSON.
    fn json(&self) -> Value;
}

impl Told for Report {
    fn verdict(&self) -> &'static str {
        self.verdict.name()
    }

    fn what(&self) -> String {
        self.verdict.what()
    }

    fn is_of(&self, invariant: &str) -> bool {
        self.verdict != Verdict::Clean && self.verdict.is_of(invariant)
    }

    fn hash(&self) -> u128 {
        self.hash
    }

    fn exit_code(&self) -> u8 {
        self.verdict.exit_code()
    }

    fn json(&self) -> Value {
        self.json()
    }
}

impl Told for storage::Report {
    fn verdict(&self) -> &'static str {
        self.verdict()
    }

    fn what(&self) -> String {
        self.what()
    }

    fn is_of(&self, invariant: &str) -> bool {
        self.rule() == Some(invariant)
    }

    fn hash(&self) -> u128 {
        self.hash
    }

    fn exit_code(&self) -> u8 {
        self.exit_code()
    }

    fn json(&self) -> Value {
        self.json()
    }
}

/// A run on its way. A copy goes on as the original does.
pub trait Course: Clone {
    /// What comes of it.
    type Report: Told;
    /// Begins to note what happens.
    fn note_all(&mut self);
    /// Notes nothing any more.
    fn stop_notes(&mut self);
    /// What was noted since the last call.
    fn take_notes(&mut self) -> Vec<Note>;
    /// Where it is.
    fn moment(&self) -> Moment;
    /// The hash of everything that has happened.
    fn hash(&self) -> u128;
    /// Goes on until so many events have happened, or it is over: then how.
    fn run_to(&mut self, event: u64) -> Option<String>;
    /// Goes on to the end.
    fn finish(&mut self) -> Self::Report;
    /// Goes on to the end, and is handed over now and then, and at the end.
    fn finish_each(&mut self, each: &mut dyn FnMut(&mut Self)) -> Self::Report;
    /// Messages that will arrive, earliest first.
    fn in_flight(&self) -> Vec<(base::Time, u32, u32, String)>;
    /// How many nodes there are.
    fn nodes(&self) -> u32;
    /// A node as it is now.
    fn view(&self, node: u32) -> Option<NodeView>;
}

impl Course for World<'_> {
    type Report = Report;

    fn note_all(&mut self) {
        self.note_all();
    }

    fn stop_notes(&mut self) {
        self.stop_notes();
    }

    fn take_notes(&mut self) -> Vec<Note> {
        self.take_notes()
    }

    fn moment(&self) -> Moment {
        self.moment()
    }

    fn hash(&self) -> u128 {
        self.hash()
    }

    fn run_to(&mut self, event: u64) -> Option<String> {
        self.run_to(event).map(how)
    }

    fn finish(&mut self) -> Report {
        sim::finish(self)
    }

    fn finish_each(&mut self, each: &mut dyn FnMut(&mut Self)) -> Report {
        sim::finish_each(self, each)
    }

    fn in_flight(&self) -> Vec<(base::Time, u32, u32, String)> {
        self.in_flight()
    }

    fn nodes(&self) -> u32 {
        *self.scenario().cluster.nodes.get_ref()
    }

    fn view(&self, node: u32) -> Option<NodeView> {
        self.view(node)
    }
}

impl Course for storage::World<'_> {
    type Report = storage::Report;

    fn note_all(&mut self) {
        self.note_all();
    }

    fn stop_notes(&mut self) {
        self.stop_notes();
    }

    fn take_notes(&mut self) -> Vec<Note> {
        self.take_notes()
    }

    fn moment(&self) -> Moment {
        self.moment()
    }

    fn hash(&self) -> u128 {
        self.hash()
    }

    fn run_to(&mut self, event: u64) -> Option<String> {
        self.run_to(event).map(how)
    }

    fn finish(&mut self) -> storage::Report {
        self.finish()
    }

    fn finish_each(&mut self, each: &mut dyn FnMut(&mut Self)) -> storage::Report {
        self.finish_each(each)
    }

    fn in_flight(&self) -> Vec<(base::Time, u32, u32, String)> {
        self.in_flight()
    }

    fn nodes(&self) -> u32 {
        u32::try_from(self.all_nodes()).unwrap_or(u32::MAX)
    }

    fn view(&self, node: u32) -> Option<NodeView> {
        self.view(node)
    }
}

/// How a run ended, in words.
fn how(ending: impl Debug) -> String {
    let mut words = String::new();
    for letter in format!("{ending:?}").chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

/// Goes where the arguments say: to an event, whose state is printed, or to the end; with `--fork` the world that
/// is there is handed over. `invariant` is what the run fails by according to its file.
pub fn travel<C: Course>(
    mut world: C,
    args: &ReproArgs,
    invariant: &str,
    out: &mut Output,
    fork: impl FnOnce(C, &mut Output) -> Result<u8, Stop>,
) -> Result<u8, Stop> {
    if args.trace {
        world.note_all();
    }
    let (over, last) = match args.goto {
        Some(event) => go_to(&mut world, event, args, out)?,
        None => (false, Vec::new()),
    };
    if args.fork {
        if over {
            return Err(Stop::usage(miette::miette!(
                help = EARLIER,
                "the run is over with event {}",
                world.moment().event
            )));
        }
        return fork(world, out);
    }
    if args.goto.is_some() {
        let views = views(&world, &args.node)?;
        if args.json {
            out.line(format_args!("{}", state_json(&world, &views, &last)));
        } else {
            print_state(&world, &views, &last, args.node.is_empty(), out);
        }
        return Ok(0);
    }
    let report = if args.trace { traced(&mut world, args.json, out) } else { world.finish() };
    tell(invariant, &report, report.json(), args.json, out)
}

/// How a run ended, and whether that is how it ended before. `line` is what is told of it in JSON.
pub fn tell(
    invariant: &str,
    report: &impl Told,
    mut line: Value,
    json: bool,
    out: &mut Output,
) -> Result<u8, Stop> {
    let (is_clean, fails_as_it_did) = (report.exit_code() == 0, report.is_of(invariant));
    if json {
        line["fails_as_it_did"] = fails_as_it_did.into();
        out.line(format_args!("{line}"));
    } else {
        if !is_clean {
            out.line(format_args!("{}: {}", report.verdict(), report.what()));
        }
        out.line(format_args!("run hash {:032x}", report.hash()));
        if is_clean {
            out.line(format_args!("it runs clean: {invariant} does not come up any more"));
        } else if fails_as_it_did {
            out.line(format_args!("it fails as it did"));
        } else {
            out.line(format_args!("another failure than in the file, which has {invariant}"));
        }
    }
    if !is_clean && !fails_as_it_did {
        return Ok(USAGE);
    }
    let code = report.exit_code();
    assert!(code != INFRASTRUCTURE, "a verdict has an exit code of its own");
    Ok(code)
}

/// What helps if it is too late for a fork.
pub const EARLIER: &str = "fork at an earlier event, or at the beginning: leave --goto out";

/// Runs to an event, and prints those before it if they are wanted. True if the run is over then; and what the last
/// events were, if they were not printed.
fn go_to<C: Course>(
    world: &mut C,
    event: u64,
    args: &ReproArgs,
    out: &mut Output,
) -> Result<(bool, Vec<Note>), Stop> {
    let (mut over, mut lately) = (None, Vec::new());
    while over.is_none() && world.moment().event < event && !out.is_closed() {
        let here = world.moment().event;
        let before = event.saturating_sub(LATELY);
        let next = match args.trace {
            true => here + 1,
            false if here < before => before,
            false => {
                world.note_all();
                event
            }
        };
        // A broken assertion ends a run as a violation does.
        let ended = catch_unwind(AssertUnwindSafe(|| world.run_to(next)));
        over = ended.unwrap_or(Some("a panic".to_owned()));
        lately = world.take_notes();
        if args.trace {
            print_notes(&std::mem::take(&mut lately), args.json, out);
        }
    }
    let last = world.moment().event;
    match over {
        Some(how) if last < event => Err(Stop::usage(miette::miette!(
            help = format!("name an event from 0 to {last}"),
            "event {event} never comes: the run ends with event {last}, by {how}"
        ))),
        over => Ok((over.is_some(), lately)),
    }
}

/// Runs to the end, and prints each event.
fn traced<C: Course>(world: &mut C, json: bool, out: &mut Output) -> C::Report {
    world.finish_each(&mut |world| {
        let notes = world.take_notes();
        if out.is_closed() {
            world.stop_notes();
        }
        print_notes(&notes, json, out);
    })
}

fn print_notes(notes: &[Note], json: bool, out: &mut Output) {
    let mut last = None;
    for note in notes {
        let Note { at, node, what } = note;
        if json {
            out.line(format_args!("{}", note_json(note)));
        } else {
            // What an event led to stands below it.
            let node = node.map(|node| format!("n{node}")).unwrap_or_default();
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

fn note_json(Note { at, node, what }: &Note) -> Value {
    let node = node.map(|node| format!("n{node}"));
    json!({ "event": at.event, "at_ns": at.now.as_nanos(), "node": node, "what": what })
}

// ---- the state at an event ----

fn views(world: &impl Course, nodes: &[u32]) -> Result<Vec<NodeView>, Stop> {
    let count = world.nodes();
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

fn state_json(world: &impl Course, views: &[NodeView], last: &[Note]) -> Value {
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
            let mut node =
                json!({ "node": view.node, "state": view.state, "open": view.open, "logs": logs });
            if !view.keeps.is_empty() {
                let keeps = view.keeps.iter().map(|it| (it.name.to_owned(), json!(it.lines)));
                node["keeps"] = Value::Object(keeps.collect::<Map<String, Value>>());
            }
            node
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
        "last": last.iter().map(note_json).collect::<Vec<Value>>(),
    })
}

/// So many of a log's last records are shown, of what a node keeps the first, and so many messages, unless nodes
/// are named.
const LAST: usize = 8;
const MESSAGES: usize = 50;
/// So many events are told that were the last before a state.
const LATELY: u64 = 5;

fn print_state(
    world: &impl Course,
    views: &[NodeView],
    last: &[Note],
    all: bool,
    out: &mut Output,
) {
    let moment = world.moment();
    out.line(format_args!("behind event {}, at {}:", moment.event, moment.now));
    print_notes(last, false, out);
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
        for group in &view.keeps {
            let count = group.lines.len();
            out.line(format_args!("  {}: {count}", group.name));
            let shown = if all { LAST } else { count };
            for line in group.lines.iter().take(shown) {
                out.line(format_args!("    {line}"));
            }
            if count > shown {
                out.line(format_args!("    … {} more", count - shown));
            }
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

/// Goes on twice, as it went and forked, and tells where the two part and how each ends. A fork that fails is kept by
/// `keep`: in which file, and whether that fails in the same way when it is run from the beginning.
pub fn compare<C: Course>(
    mut world: C,
    mut forked: C,
    json: bool,
    out: &mut Output,
    keep: impl FnOnce(&C::Report) -> Result<(PathBuf, bool), Stop>,
) -> Result<u8, Stop> {
    let from = world.moment().event;
    world.note_all();
    forked.note_all();
    let parting = parting(&mut world.clone(), &mut forked.clone());
    // Nobody reads more of them.
    world.stop_notes();
    forked.stop_notes();
    let (as_it_went, otherwise) = (world.finish(), forked.finish());
    let kept = if otherwise.exit_code() == 0 { None } else { Some(keep(&otherwise)?) };
    if json {
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
        return Ok(otherwise.exit_code());
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
        let (verdict, what) = (report.verdict(), report.what());
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
    Ok(otherwise.exit_code())
}

/// The first event at which two worlds differ, and what it is in each.
fn parting<C: Course>(one: &mut C, other: &mut C) -> Option<(u64, String, String)> {
    loop {
        let next = one.moment().event + 1;
        let step = |world: &mut C| {
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
