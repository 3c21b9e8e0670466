//! `check`: each run again with the other queue in a fresh process. If anything is different, the
//! first event that is: hashes at checkpoints are compared, then the events between two of them.

use super::travel::in_words;
use crate::terminal::Output;
use crate::{
    NOT_DETERMINISTIC, RunArgs, SHOWCASE, Seeds, Source, Stop, clock, failure, parallel_by,
    parse_range, progress, read,
};
use clap::Args;
use serde_json::{Value, json};
use sim::plan::Plan;
use sim::queue::QueueKind;
use sim::{Scenario, Verdict, World};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};

/// `check`
#[derive(Args)]
pub struct CheckArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Random small worlds instead of scenarios, such as 0..10000
    #[arg(long, value_parser = parse_range, conflicts_with_all = ["scenarios", "seed", "seeds"])]
    random: Option<Range<u64>>,
}

/// What a second process is asked for.
#[derive(Args)]
pub struct SideArgs {
    /// The scenario; none: random small worlds
    scenario: Option<String>,
    /// The first seed, to before the last
    #[arg(long, value_parser = parse_range)]
    seeds: Range<u64>,
    /// From one seed to the next
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    step: u64,
    /// `wheel` or `heap`
    #[arg(long, value_parser = parse_queue)]
    queue: QueueKind,
    /// How many seeds at once
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// The hashes behind these events instead of a report
    #[arg(long, value_delimiter = ',')]
    at: Vec<u64>,
    /// Every event of these instead of a report, and the hash behind it
    #[arg(long, value_parser = parse_range)]
    window: Option<Range<u64>>,
}

fn parse_queue(text: &str) -> Result<QueueKind, String> {
    let kind = [QueueKind::Wheel, QueueKind::Heap].into_iter().find(|kind| kind.name() == text);
    kind.ok_or_else(|| "expected wheel or heap".to_owned())
}

/// The queue of this process, and that of the other.
const HERE: QueueKind = QueueKind::Wheel;
const THERE: QueueKind = QueueKind::Heap;

/// So many seeds of small worlds go to one process …
const SMALL: usize = 256;
/// … and so many of a scenario, each of which is told.
const LARGE: usize = 16;

/// Where runs come from.
struct Runs<'a> {
    /// As on a command line; `None`: random small worlds.
    name: Option<&'a str>,
    source: Option<&'a Source>,
}

impl Runs<'_> {
    fn scenario(&self, seed: u64) -> Result<Scenario, Stop> {
        match self.source {
            Some(source) => Ok(source.scenario.clone()),
            None => Ok(sim::random_small(seed)),
        }
    }

    fn text(&self, seed: u64) -> String {
        self.source.map_or_else(|| sim::small(seed), |source| source.text.clone())
    }

    fn called(&self) -> String {
        self.name.unwrap_or("random small worlds").to_owned()
    }

    /// The command that repeats a check of one seed.
    fn command(&self, seed: u64) -> String {
        match self.name {
            Some(name) => {
                format!("cargo xtask sim check {} --seed {seed}", failure::quoted(name))
            }
            None => format!("cargo xtask sim check --random {seed}..{}", seed + 1),
        }
    }
}

/// 3 if a run is different, 0 if not.
pub fn check(args: &CheckArgs, out: &mut Output) -> Result<u8, Stop> {
    let seeds = &args.run.seeds;
    if let Some(range) = &args.random {
        let seeds = Seeds { range: range.clone(), step: 1 };
        return check_seeds(&Runs { name: None, source: None }, &seeds, args, out);
    }
    let names: Vec<String> = match args.run.scenarios.as_slice() {
        [] => vec![SHOWCASE.to_owned()],
        names => names.to_vec(),
    };
    for name in &names {
        let source = read(name)?;
        let seeds = seeds.seeds(source.scenario.seed);
        let runs = Runs { name: Some(name), source: Some(&source) };
        let code = check_seeds(&runs, &seeds, args, out)?;
        if code > 0 || out.is_closed() {
            return Ok(code);
        }
    }
    Ok(0)
}

fn check_seeds(
    runs: &Runs<'_>,
    seeds: &Seeds,
    args: &CheckArgs,
    out: &mut Output,
) -> Result<u8, Stop> {
    let json = args.run.seeds.json;
    let called = runs.called();
    if !json {
        match seeds.len() {
            1 => out.line(format_args!("{called}: seed {}", seeds.range.start)),
            many => out.line(format_args!("{called}: {many} seeds, {} on", seeds.range.start)),
        }
    }
    let bar = progress(seeds.len());
    let watch = clock::Watch::start();
    // Both processes run at once.
    let jobs = args.run.seeds.jobs.map_or_else(clock::processors, usize::from).div_ceil(2);
    let size = if runs.source.is_some() { LARGE } else { SMALL };
    let (mut checked, mut kept) = (0_u64, false);
    let mut hash = 0_u128;
    let mut left = seeds.iter();
    loop {
        let is_late = args.run.seeds.within.is_some_and(|time| checked > 0 && watch.wall() >= time);
        let batch: Vec<u64> = left.by_ref().take(size).collect();
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else { break };
        if is_late || out.is_closed() {
            break;
        }
        let asked = SideArgs {
            scenario: runs.name.map(str::to_owned),
            seeds: *first..last + 1,
            step: seeds.step,
            queue: THERE,
            jobs: u8::try_from(jobs).unwrap_or(64),
            at: Vec::new(),
            window: None,
        };
        let other = Other::start(&asked)?;
        let here = parallel_by(&batch, jobs, &|seed| {
            let report = sim::run_on(&runs.scenario(seed)?, seed, HERE);
            Ok((report.json(), report))
        })?;
        let there = other.lines()?;
        for (at, (seed, (line, report))) in batch.iter().zip(here).enumerate() {
            bar.inc(1);
            let other = there.get(at).unwrap_or(&Value::Null);
            if line == *other {
                let run_hash = report.hash;
                hash = hash.wrapping_add(run_hash);
                checked += 1;
                // That a run fails is not what was asked for, but worth keeping.
                if !kept && report.verdict != Verdict::Clean {
                    kept = true;
                    failure::keep_as(&args.run.seeds.out, "", &report, &runs.text(*seed))?;
                }
                if !json && runs.source.is_some() {
                    out.line(format_args!("seed {seed}: {run_hash:032x} in both processes"));
                }
                continue;
            }
            bar.finish_and_clear();
            return differ(runs, *seed, [&line, other], json, out);
        }
        if !json && runs.source.is_none() && seeds.len() > size as u64 {
            out.line(format_args!("{first} to {last}: {hash:032x} in both processes, so far"));
        }
    }
    bar.finish_and_clear();
    let seconds = watch.wall().as_secs_f64();
    if json {
        let line = json!({
            "scenario": called,
            "checked": checked,
            "mismatches": 0,
            "milliseconds": u64::try_from(watch.wall().as_millis()).unwrap_or(u64::MAX),
            "hash": format!("{hash:032x}"),
        });
        out.line(format_args!("{line}"));
    } else {
        let (here, there) = (HERE.name(), THERE.name());
        out.line(format_args!(
            "{checked} runs with the {here} here and the {there} there, in {seconds:.1} s: no difference; \
             together {hash:032x}"
        ));
    }
    Ok(0)
}

/// A run is different: says where.
fn differ(
    runs: &Runs<'_>,
    seed: u64,
    [here, there]: [&Value; 2],
    json: bool,
    out: &mut Output,
) -> Result<u8, Stop> {
    let scenario = runs.scenario(seed)?;
    let events = [here, there].map(|line| line["events"].as_u64().unwrap_or(0));
    let mut this = Local { scenario: &scenario, seed, queue: HERE };
    let mut that = Remote { runs, seed };
    let found = first_difference(&mut this, &mut that, events[0].max(events[1]))?;
    let (a, b) = (&here["hash"], &there["hash"]);
    let repeat = runs.command(seed);
    if json {
        let (event, here, there) = match &found {
            Some(found) => (Some(found.event), found.here.clone(), found.there.clone()),
            None => (None, Vec::new(), Vec::new()),
        };
        let line = json!({
            "scenario": runs.called(),
            "seed": seed,
            "mismatches": 1,
            "hash": a,
            "hash_there": b,
            "event": event,
            "here": here,
            "there": there,
            "repeat": repeat,
        });
        out.line(format_args!("{line}"));
        return Ok(NOT_DETERMINISTIC);
    }
    let (a, b) = (a.as_str().unwrap_or("nothing"), b.as_str().unwrap_or("nothing"));
    out.line(format_args!("not deterministic: seed {seed}: {a} here, {b} there"));
    match found {
        Some(Difference { event, here, there }) => {
            out.line(format_args!("the first event that differs is event {event}"));
            for (queue, side, lines) in [(HERE, "here", here), (THERE, "there", there)] {
                out.line(format_args!("  {side}, with the {}:", queue.name()));
                for line in lines {
                    out.line(format_args!("    {line}"));
                }
            }
        }
        None if a == b => {
            out.line(format_args!("every event is the same; what was counted is not:"));
            out.line(format_args!("  here:  {here}\n  there: {there}"));
        }
        None => out.line(format_args!(
            "run again, both processes agree: something that changes by itself is in a run, such as \
             the time or an address"
        )),
    }
    out.line(format_args!("\nto repeat it:\n{repeat}"));
    Ok(NOT_DETERMINISTIC)
}

// ---- the first event that differs ----

/// An event: its number, the hash behind it, and what happened.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    event: u64,
    hash: u128,
    what: Vec<String>,
}

/// One of two runs that should be the same. Each question makes the run anew.
trait Side {
    /// The hashes behind these events, ascending; behind the end: the last one.
    fn hashes(&mut self, at: &[u64]) -> Result<Vec<u128>, Stop>;
    /// The events of a range.
    fn window(&mut self, events: Range<u64>) -> Result<Vec<Step>, Stop>;
}

struct Difference {
    event: u64,
    here: Vec<String>,
    there: Vec<String>,
}

/// So many checkpoints are compared at once: a run of a million events is narrowed down in three.
const CHECKPOINTS: u64 = 64;
/// So few events are compared one by one.
const WINDOW: u64 = 512;
/// A run that is another one every time can differ earlier than it did: then from the start again.
const ATTEMPTS: u32 = 5;

fn first_difference(
    one: &mut dyn Side,
    other: &mut dyn Side,
    events: u64,
) -> Result<Option<Difference>, Stop> {
    for _ in 0..ATTEMPTS {
        // Behind `low` events both were the same; behind `high` not.
        let (mut low, mut high) = (0, events.saturating_add(1));
        let mut found = true;
        while found && high - low > WINDOW {
            let points: Vec<u64> = (1..=CHECKPOINTS)
                .map(|part| {
                    low + u64::try_from(u128::from(high - low) * u128::from(part) / 64).unwrap_or(0)
                })
                .collect();
            let (here, there) = (one.hashes(&points)?, other.hashes(&points)?);
            let differs = here.iter().zip(&there).position(|(here, there)| here != there);
            match differs {
                Some(at) => {
                    low = at.checked_sub(1).map_or(low, |before| points[before]);
                    high = points[at];
                }
                None => found = false,
            }
        }
        if !found {
            continue;
        }
        let (here, there) = (one.window(low + 1..high + 1)?, other.window(low + 1..high + 1)?);
        let length = here.len().max(there.len());
        let step = |steps: &[Step], at: usize| steps.get(at).cloned();
        let differs = (0..length).find(|at| {
            let hash = |steps| step(steps, *at).map(|step| step.hash);
            hash(&here) != hash(&there)
        });
        let Some(at) = differs else { continue };
        if at == 0 && low > 0 && one.hashes(&[low])? != other.hashes(&[low])? {
            continue;
        }
        let over = || vec!["the run is over".to_owned()];
        let what = |steps: &[Step]| step(steps, at).map_or_else(over, |step| step.what);
        return Ok(Some(Difference {
            event: low + 1 + at as u64,
            here: what(&here),
            there: what(&there),
        }));
    }
    Ok(None)
}

/// A run in this process.
struct Local<'a> {
    scenario: &'a Scenario,
    seed: u64,
    queue: QueueKind,
}

impl Local<'_> {
    fn world(&self) -> World<'_> {
        let plan = Plan::generate(self.scenario, self.seed);
        let judges = sim::judge::all(self.scenario);
        World::with_queue(self.scenario, self.seed, plan, judges, self.queue)
    }
}

/// Goes on to behind an event; true if the run is over.
fn go_on(world: &mut World<'_>, event: u64) -> bool {
    !matches!(catch_unwind(AssertUnwindSafe(|| world.run_to(event))), Ok(None))
}

impl Side for Local<'_> {
    fn hashes(&mut self, at: &[u64]) -> Result<Vec<u128>, Stop> {
        let mut world = self.world();
        let mut over = false;
        let hash = |event: &u64| {
            over = over || go_on(&mut world, *event);
            world.hash()
        };
        Ok(at.iter().map(hash).collect())
    }

    fn window(&mut self, events: Range<u64>) -> Result<Vec<Step>, Stop> {
        let mut world = self.world();
        let mut steps = Vec::new();
        if go_on(&mut world, events.start - 1) {
            return Ok(steps);
        }
        world.note_all();
        for event in events {
            let over = go_on(&mut world, event);
            let what: Vec<String> = world.take_notes().iter().map(in_words).collect();
            if !what.is_empty() {
                steps.push(Step { event, hash: world.hash(), what });
            }
            if over {
                break;
            }
        }
        Ok(steps)
    }
}

/// The same run in a process of its own.
struct Remote<'a> {
    runs: &'a Runs<'a>,
    seed: u64,
}

impl Remote<'_> {
    fn ask(&self, at: &[u64], window: Option<Range<u64>>) -> Result<Vec<Value>, Stop> {
        Other::start(&SideArgs {
            scenario: self.runs.name.map(str::to_owned),
            seeds: self.seed..self.seed + 1,
            step: 1,
            queue: THERE,
            jobs: 1,
            at: at.to_vec(),
            window,
        })?
        .lines()
    }
}

impl Side for Remote<'_> {
    fn hashes(&mut self, at: &[u64]) -> Result<Vec<u128>, Stop> {
        Ok(self.ask(at, None)?.iter().map(hash_of).collect())
    }

    fn window(&mut self, events: Range<u64>) -> Result<Vec<Step>, Stop> {
        let lines = self.ask(&[], Some(events))?;
        let step = |line: &Value| {
            let words = line["what"].as_array().cloned().unwrap_or_default();
            let word = |word: &Value| word.as_str().unwrap_or_default().to_owned();
            Step {
                event: line["event"].as_u64().unwrap_or(0),
                hash: hash_of(line),
                what: words.iter().map(word).collect(),
            }
        };
        Ok(lines.iter().map(step).collect())
    }
}

fn hash_of(line: &Value) -> u128 {
    let hash = line["hash"].as_str().and_then(|hash| u128::from_str_radix(hash, 16).ok());
    hash.unwrap_or(0)
}

/// A second process of this program.
struct Other(Child);

impl Other {
    fn start(asked: &SideArgs) -> Result<Other, Stop> {
        let this = std::env::current_exe()
            .map_err(|error| Stop::infrastructure(miette::miette!("where am I? {error}")))?;
        let Range { start, end } = asked.seeds;
        let mut command = Command::new(this);
        command.arg("side").args(["--seeds", &format!("{start}..{end}")]);
        command.args(["--step", &asked.step.to_string(), "--queue", asked.queue.name()]);
        command.args(["--jobs", &asked.jobs.to_string()]);
        if !asked.at.is_empty() {
            let at: Vec<String> = asked.at.iter().map(u64::to_string).collect();
            command.args(["--at", &at.join(",")]);
        }
        if let Some(Range { start, end }) = asked.window {
            command.args(["--window", &format!("{start}..{end}")]);
        }
        // What it is called may begin with anything.
        command.arg("--").args(&asked.scenario);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn();
        child
            .map(Other)
            .map_err(|error| Stop::infrastructure(miette::miette!("no process: {error}")))
    }

    /// What it prints, once it is done.
    fn lines(self) -> Result<Vec<Value>, Stop> {
        let broken =
            |what: String| Stop::infrastructure(miette::miette!("the other process: {what}"));
        let output = self.0.wait_with_output().map_err(|error| broken(error.to_string()))?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(broken(format!("{}: {told}", output.status)));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().map_err(|error| broken(error.to_string()))
    }
}

/// Prints what was asked for, a line of JSON each.
pub fn side(args: &SideArgs, out: &mut Output) -> Result<u8, Stop> {
    let source = args.scenario.as_deref().map(read).transpose()?;
    let runs = Runs { name: args.scenario.as_deref(), source: source.as_ref() };
    let scenario = runs.scenario(args.seeds.start)?;
    let mut local = Local { scenario: &scenario, seed: args.seeds.start, queue: args.queue };
    let hex = |hash: u128| format!("{hash:032x}");
    if !args.at.is_empty() {
        for (event, hash) in args.at.iter().zip(local.hashes(&args.at)?) {
            out.line(format_args!("{}", json!({ "event": event, "hash": hex(hash) })));
        }
    } else if let Some(window) = &args.window {
        for Step { event, hash, what } in local.window(window.clone())? {
            let line = json!({ "event": event, "hash": hex(hash), "what": what });
            out.line(format_args!("{line}"));
        }
    } else {
        let seeds: Vec<u64> = Seeds { range: args.seeds.clone(), step: args.step }.iter().collect();
        let lines = parallel_by(&seeds, usize::from(args.jobs), &|seed| {
            Ok(sim::run_on(&runs.scenario(seed)?, seed, args.queue).json())
        })?;
        for line in lines {
            out.line(format_args!("{line}"));
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Time;
    use sim::plan::{Action, Fault, Trigger};

    /// A run in which something that has no place in it happens behind an event.
    struct Disordered<'a> {
        local: Local<'a>,
        behind: u64,
    }

    impl Disordered<'_> {
        fn run(&self, mut each: impl FnMut(&mut World<'_>, u64, bool)) {
            let mut world = self.local.world();
            for event in 1.. {
                let over = go_on(&mut world, event);
                each(&mut world, event, over);
                if over {
                    break;
                }
                if event == self.behind {
                    let trigger = Trigger::At(Time::ZERO);
                    world.add_fault(Fault { trigger, action: Action::Heal, named: false });
                }
            }
        }
    }

    impl Side for Disordered<'_> {
        fn hashes(&mut self, at: &[u64]) -> Result<Vec<u128>, Stop> {
            let mut all = vec![self.local.world().hash()];
            self.run(|world, _, _| all.push(world.hash()));
            let last = all.len() - 1;
            Ok(at.iter().map(|event| all[last.min(*event as usize)]).collect())
        }

        fn window(&mut self, events: Range<u64>) -> Result<Vec<Step>, Stop> {
            let mut steps = Vec::new();
            self.run(|world, event, _| {
                world.note_all();
                let what: Vec<String> = world.take_notes().iter().map(in_words).collect();
                if events.contains(&event) && world.moment().event == event {
                    steps.push(Step { event, hash: world.hash(), what });
                }
            });
            Ok(steps)
        }
    }

    #[test]
    fn a_source_of_disorder_is_named_at_its_first_event() {
        // Checkpoints are needed.
        let long =
            |seed: &u64| sim::run(&sim::random_small(*seed), *seed).counters.events > 2 * WINDOW;
        let seed = (40..100).find(long).expect("one world in ten is long");
        let scenario = sim::random_small(seed);
        let local = |queue| Local { scenario: &scenario, seed, queue };
        let events = sim::run(&scenario, seed).counters.events;
        let every: Vec<u64> = (1..=events).collect();
        let clean = local(HERE).hashes(&every).unwrap_or_else(|_| panic!("a run"));
        for behind in [1, 2, 63, 700, events - 2] {
            let mut planted = Disordered { local: local(THERE), behind };
            // Event by event, without checkpoints.
            let with = planted.hashes(&every).unwrap_or_else(|_| panic!("a run"));
            let first = every.iter().zip(clean.iter().zip(&with)).find(|(_, (a, b))| a != b);
            let (expected, _) = first.expect("it shows");
            assert!(*expected > behind, "not before it is there");
            let found = first_difference(&mut local(HERE), &mut planted, events);
            let found = found.unwrap_or_else(|_| panic!("a run")).expect("it is found");
            assert_eq!(found.event, *expected, "planted behind {behind}");
            assert!(found.there.iter().any(|what| what.contains("the moment of fault")));
            assert_ne!(found.here, found.there);
        }
        let same = first_difference(&mut local(HERE), &mut local(THERE), events);
        assert!(same.is_ok_and(|found| found.is_none()), "both queues give one order");
    }
}
