//! Worlds of storage nodes: `sim FILE`, `sim storage`, and `repro` and `shrink` of what fails.

use super::repro::{ReproArgs, nothing_else};
use super::shrink::{ShrinkArgs, spinner};
use super::travel::{EARLIER, compare, tell, travel};
use super::{Quiet, repeats, same_derivation};
use crate::clock::Watch;
use crate::failure::{self, Kept};
use crate::terminal::{Output, say};
use crate::{Ended, SeedArgs, Stop, USAGE, parallel_by, progress, read_text};
use clap::Args;
use serde_json::json;
use sim::shrink::{Progress, Shrunk, Size};
use sim::storage::plan::{Entry, happening, just};
use sim::storage::shrink::{NotShrunk, Signature, shrink as make_smaller};
use sim::storage::{Report, Scenario, World, hostile, large, run, run_told, small};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Args)]
pub struct StorageArgs {
    #[command(flatten)]
    seeds: SeedArgs,
    /// Nodes lie, are cut off for long and have slow disks too, locks are fought for, claims are forged
    #[arg(long)]
    hostile: bool,
    /// 600 nodes, with faults of all kinds
    #[arg(long, conflicts_with = "hostile")]
    large: bool,
}

/// The scenario of a text.
pub fn scenario(name: &str, text: &str) -> Result<Scenario, Stop> {
    let scenario =
        Scenario::parse(text).map_err(|error| Stop::usage(miette::miette!("{name}: {error}")))?;
    if let Some(derivation) = scenario.derivation {
        same_derivation(name, derivation)?;
    }
    Ok(scenario)
}

/// Runs a file's scenario with each seed.
pub fn file(name: &str, text: &str, args: &SeedArgs, out: &mut Output) -> Result<Ended, Stop> {
    let scenario = scenario(name, text)?;
    let mut ended = Ended::default();
    for seed in args.seeds(scenario.seed).iter() {
        say(format_args!("{}: seed {seed}", scenario.name));
        let watch = Watch::start();
        let report = run(&scenario, seed);
        let code = report.exit_code();
        ended.code = ended.code.max(code);
        if args.json {
            out.line(format_args!("{}", report.json()));
        } else {
            out.write(format_args!("{}", report.table(watch.cpu())));
        }
        if code > 0 && ended.failure.is_none() {
            ended.failure = Some(failure::keep_storage(&args.out, report, text.to_owned())?);
        }
        if ended.code > 0 && args.first || out.is_closed() {
            break;
        }
    }
    Ok(ended)
}

/// Runs random worlds of storage nodes.
pub fn random(args: &StorageArgs, out: &mut Output) -> Result<u8, Stop> {
    let (kind, text_of): (_, fn(u64) -> String) = match args {
        StorageArgs { hostile: true, .. } => ("hostile", hostile),
        StorageArgs { large: true, .. } => ("large", large),
        _ => ("small", small),
    };
    let args = &args.seeds;
    let seeds = args.seeds(1);
    let (mut ended, mut tally) = (Ended::default(), Tally::default());
    let (watch, progress) = (Watch::start(), progress(seeds.len()));
    let mut left = seeds.iter();
    // Rounds keep the order of what is printed, and bound what is in memory.
    'rounds: loop {
        let round: Vec<u64> = left.by_ref().take(args.jobs() * 8).collect();
        // However little time there is, whoever asks for runs gets some.
        let is_late = args.within.is_some_and(|within| tally.runs > 0 && watch.wall() >= within);
        if round.is_empty() || is_late {
            break;
        }
        let ran = parallel_by(&round, args.jobs(), &|seed| {
            let text = text_of(seed);
            Ok((run(&scenario(kind, &text)?, seed), text))
        })?;
        for (seed, (report, text)) in round.iter().zip(ran) {
            progress.inc(1);
            tally.add(&report);
            ended.code = ended.code.max(report.exit_code());
            if args.json {
                out.line(format_args!("{}", report.json()));
            }
            if report.exit_code() > 0 {
                let told = format!("seed {seed}: {}: {}", report.verdict(), report.what());
                progress.suspend(|| say(format_args!("{told}")));
                let kept = failure::keep_storage(&args.out, report, text)?;
                ended.failure = ended.failure.or(Some(kept));
                if args.first {
                    break 'rounds;
                }
            }
            if out.is_closed() {
                break 'rounds;
            }
        }
    }
    progress.finish_and_clear();
    if !args.json {
        out.line(format_args!("{kind} storage worlds: {}", tally.told(watch.cpu())));
    }
    ended.tell(args, out)
}

/// What came of many worlds.
#[derive(Default)]
struct Tally {
    runs: u64,
    crashes: u64,
    repaired: u64,
    moved: u64,
    reencoded: u64,
    stored: u64,
    failed: Vec<u64>,
}

impl Tally {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.crashes += report.totals.crashes;
        self.repaired += report.totals.repaired.0;
        self.moved += report.totals.moved.0;
        self.reencoded += report.totals.reencoded.0;
        self.stored += report.totals.files.0;
        if report.exit_code() > 0 {
            self.failed.push(report.seed);
        }
    }

    fn told(&self, cpu: Duration) -> String {
        let Tally { runs, crashes, repaired, moved, reencoded, stored, failed } = self;
        let clean = runs - failed.len() as u64;
        let failed =
            if failed.is_empty() { String::new() } else { format!("; failed: {failed:?}") };
        let seconds = cpu.as_secs_f64();
        format!(
            "{clean} of {runs} clean; {stored} files stored, {crashes} crashes, {repaired} shards repaired, {moved} moved, {reencoded} files encoded anew; \
             {seconds:.1} s of processor time{failed}"
        )
    }
}

/// Shrinks what was just found, and says what is left. The smaller file, if there is one.
pub fn automatically(
    kept: Kept<Report>,
    within: Duration,
    json: bool,
    out: &mut Output,
) -> Result<PathBuf, Stop> {
    let Kept { file, report, text } = kept;
    let folder = file.parent().unwrap_or(Path::new("."));
    let (file, line) = match smaller(&text, report, folder, within)? {
        Ok(smaller) => (smaller.file.clone(), smaller.told()),
        Err(why) => (file, format!("not shrunk: {why}")),
    };
    if json {
        say(format_args!("{line}"));
    } else {
        out.line(format_args!("{line}"));
    }
    Ok(file)
}

/// A smaller failure, and where it is kept.
struct Smaller {
    shrunk: Shrunk<Report>,
    file: PathBuf,
    wall: Duration,
}

impl Smaller {
    fn told(&self) -> String {
        let Shrunk { before, after, runs, finished, .. } = &self.shrunk;
        let early = if *finished { "" } else { ", when the time was over" };
        format!(
            "shrunk in {:.1} s and {runs} runs{early}: {} faults to {}, {} clients to {}, {} nodes to {}, {} \
             events to {}",
            self.wall.as_secs_f64(),
            before.entries,
            after.entries,
            before.operations,
            after.operations,
            before.nodes,
            after.nodes,
            before.events,
            after.events
        )
    }

    fn json(&self) -> serde_json::Value {
        let size = |size: &Size| {
            json!({
                "entries": size.entries,
                "operations": size.operations,
                "nodes": size.nodes,
                "events": size.events,
            })
        };
        json!({
            "file": self.file.display().to_string(),
            "verdict": self.shrunk.report.verdict(),
            "signature": self.shrunk.report.rule(),
            "violation": self.shrunk.report.what(),
            "before": size(&self.shrunk.before),
            "after": size(&self.shrunk.after),
            "runs": self.shrunk.runs,
            "milliseconds": u64::try_from(self.wall.as_millis()).unwrap_or(u64::MAX),
            "finished": self.shrunk.finished,
        })
    }
}

fn smaller(
    text: &str,
    report: Report,
    folder: &Path,
    within: Duration,
) -> Result<Result<Smaller, NotShrunk>, Stop> {
    let quiet = Quiet::begin();
    let (watch, spinner) = (Watch::start(), spinner());
    let signature = Signature::of(&report);
    let shrunk = make_smaller(text, report, &mut |progress: &Progress| {
        spinner.set_message(format!("{} entries left, {} runs", progress.entries, progress.runs));
        spinner.tick();
        watch.wall() < within
    });
    spinner.finish_and_clear();
    let shrunk = match shrunk {
        Ok(shrunk) => shrunk,
        Err(why) => return Ok(Err(why)),
    };
    let file = failure::keep_storage_as(folder, ".shrunk", &shrunk.report, &shrunk.text)?;
    let wall = watch.wall();
    // The file is what counts: it is read and run as everybody will.
    let kept = scenario(&file.display().to_string(), &read_text(&file)?)?;
    let again = run(&kept, kept.seed);
    drop(quiet);
    if Signature::of(&again) != signature {
        return Err(Stop::infrastructure(miette::miette!(
            help = "this is a mistake of the simulator: keep both files, and report it",
            "{} does not repeat the failure: it ends with {} {}",
            file.display(),
            again.verdict(),
            again.what()
        )));
    }
    Ok(Ok(Smaller { shrunk, file, wall }))
}

/// `shrink` of such a world's file.
pub fn shrink(args: &ShrinkArgs, name: &str, text: &str, out: &mut Output) -> Result<u8, Stop> {
    let scenario = scenario(name, text)?;
    let repeats = repeats(name, scenario.repeats.as_ref())?;
    if !args.json {
        out.line(format_args!("{name}: seed {}", scenario.seed));
    }
    let report = run(&scenario, scenario.seed);
    let (code, rule) = (report.exit_code(), report.rule());
    if let (Some(repeats), Some(found)) = (repeats, rule)
        && repeats.invariant != found
    {
        let wanted = repeats.invariant;
        return Err(Stop::usage(miette::miette!(
            help = "`repro` shows it; it is shrunk as it is once its [repeats] table is left out",
            "{name} fails otherwise than it says: by {found}, not by {wanted}"
        )));
    }
    if !args.json && code > 0 {
        out.line(format_args!("{}: {}", report.verdict(), report.what()));
    }
    match smaller(text, report, &args.folder(), args.within)? {
        Ok(smaller) if args.json => out.line(format_args!("{}", smaller.json())),
        Ok(smaller) => {
            out.line(format_args!("{}", smaller.told()));
            out.line(format_args!("\nto repeat it:\n{}", failure::command(&smaller.file)));
        }
        Err(NotShrunk::Clean) if args.json => {
            out.line(format_args!("{}", json!({ "verdict": "clean" })));
        }
        Err(NotShrunk::Clean) => {
            out.line(format_args!("it runs clean: there is nothing to shrink"))
        }
        Err(why) => return Err(Stop { code: USAGE, report: miette::miette!("{name}: {why}") }),
    }
    Ok(code)
}

/// `repro` of such a world's file: what happened in it, and whether it fails as it did; and time travel in it.
pub fn repro(args: &ReproArgs, name: &str, text: &str, out: &mut Output) -> Result<u8, Stop> {
    let scenario = scenario(name, text)?;
    let Some(repeats) = repeats(name, scenario.repeats.as_ref())? else {
        let help = format!("run it with `cargo xtask sim {}`", failure::quoted(name));
        return Err(Stop::usage(miette::miette!(
            help = help,
            "{name} repeats no failure: it has no [repeats] table"
        )));
    };
    if !args.json {
        out.line(format_args!("{name}: seed {}", scenario.seed));
    }
    if args.goto.is_some() || args.fork || args.trace {
        let world = World::new(&scenario, scenario.seed);
        let fork = |world: World<'_>, out: &mut Output| fork(args, text, world, out);
        return travel(world, args, &repeats.invariant, out, fork);
    }
    let (report, story) = run_told(&scenario, scenario.seed);
    let mut line = report.json();
    if args.json {
        let told =
            story.iter().map(|note| json!({ "ns": note.at.now.as_nanos(), "what": note.what }));
        line["story"] = told.collect();
    } else {
        for note in &story {
            out.line(format_args!("{:>14} {}", note.at.now.to_string(), note.what));
        }
    }
    tell(&repeats.invariant, &report, line, args.json, out)
}

/// Goes on twice from where the world is: as it went, and with other faults. They are other faults from the
/// beginning, each of which draws for itself: up to here both runs have to be the same.
fn fork(args: &ReproArgs, text: &str, world: World<'_>, out: &mut Output) -> Result<u8, Stop> {
    if args.add.is_empty() && args.without.is_empty() {
        return Err(nothing_else("such as --without \"rot 0\", or --add \"power-loss 7\""));
    }
    let entry = |text: &String| {
        text.parse::<Entry>().map_err(|error| Stop::usage(miette::miette!("{error}")))
    };
    let mut entries = happening(world.scenario());
    for without in &args.without {
        let entry = entry(without)?;
        let Ok(at) = entries.binary_search(&entry) else {
            let of_kind = entries.iter().filter(|it| it.kind == entry.kind);
            let those: Vec<String> = of_kind.take(20).map(|it| format!("`{it}`")).collect();
            let help = match those.as_slice() {
                [] => "nothing of that kind strikes".to_owned(),
                those => format!("of that kind there are {}", those.join(", ")),
            };
            return Err(Stop::usage(miette::miette!(help = help, "there is no `{entry}`")));
        };
        entries.remove(at);
    }
    for add in &args.add {
        let entry = entry(add)?;
        let Err(at) = entries.binary_search(&entry) else {
            return Err(Stop::usage(miette::miette!(
                help = "another number is another one of its kind",
                "`{entry}` is there already"
            )));
        };
        entries.insert(at, entry);
    }
    let changed =
        just(text, &entries).map_err(|error| Stop::usage(miette::miette!("the fork: {error}")))?;
    let changed = changed.to_string();
    let other = scenario("the fork", &changed)?;
    let mut forked = World::new(&other, other.seed);
    let from = world.moment();
    let ended = catch_unwind(AssertUnwindSafe(|| forked.run_to(from.event)));
    if !matches!(ended, Ok(None)) || forked.hash() != world.hash() {
        let all: Vec<String> =
            args.without.iter().chain(&args.add).map(|it| format!("`{it}`")).collect();
        return Err(Stop::usage(miette::miette!(
            help = EARLIER,
            "{} is due before event {}, at {}: what was cannot be another",
            all.join(" or "),
            from.event,
            from.now
        )));
    }
    compare(world, forked, args.json, out, |otherwise| {
        let file = failure::keep_storage_as(&args.out, ".fork", otherwise, &changed)?;
        Ok((file, true))
    })
}
