//! Worlds of storage nodes: `sim FILE`, `sim storage`, and `repro` and `shrink` of what fails.

use super::repro::ReproArgs;
use super::shrink::{ShrinkArgs, spinner};
use super::{Quiet, repeats};
use crate::clock::Watch;
use crate::terminal::{Output, say};
use crate::{SeedArgs, Stop, USAGE, failure, read_text};
use clap::Args;
use serde_json::json;
use sim::storage::shrink::{NotShrunk, Progress, Shrunk, Signature, Size, shrink as make_smaller};
use sim::storage::{Report, Scenario, hostile, run, run_told, small};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Args)]
pub struct StorageArgs {
    #[command(flatten)]
    seeds: SeedArgs,
    /// Nodes lie, are cut off for long and have slow disks too, locks are fought for, claims are forged
    #[arg(long)]
    hostile: bool,
}

/// The scenario of a text.
fn scenario(name: &str, text: &str) -> Result<Scenario, Stop> {
    Scenario::parse(text).map_err(|error| Stop::usage(miette::miette!("{name}: {error}")))
}

/// A failure that is in a file.
struct Kept {
    file: PathBuf,
    report: Report,
    text: String,
}

/// Runs a file's scenario with each seed.
pub fn file(name: &str, text: &str, args: &SeedArgs, out: &mut Output) -> Result<u8, Stop> {
    let scenario = scenario(name, text)?;
    let mut worst = 0;
    let mut failure = None;
    for seed in args.seeds(scenario.seed).iter() {
        say(format_args!("{}: seed {seed}", scenario.name));
        let watch = Watch::start();
        let report = run(&scenario, seed);
        let code = report.exit_code();
        worst = worst.max(code);
        if args.json {
            out.line(format_args!("{}", report.json()));
        } else {
            out.write(format_args!("{}", report.table(watch.cpu())));
        }
        if code > 0 && failure.is_none() {
            failure = Some(keep(args, report, text)?);
        }
        if worst > 0 && args.first || out.is_closed() {
            break;
        }
    }
    how_to_repeat(failure, args, out)?;
    Ok(worst)
}

/// Runs random small worlds of storage nodes.
pub fn random(args: &StorageArgs, out: &mut Output) -> Result<u8, Stop> {
    let (kind, text_of): (_, fn(u64) -> String) =
        if args.hostile { ("hostile", hostile) } else { ("small", small) };
    let args = &args.seeds;
    let (mut worst, mut runs, mut clean) = (0, 0u64, 0u64);
    let (mut failed, mut failure) = (Vec::new(), None);
    let watch = Watch::start();
    let (mut crashes, mut repaired, mut stored) = (0, 0, 0);
    for seed in args.seeds(1).iter() {
        if args.within.is_some_and(|within| watch.wall() > within) || out.is_closed() {
            break;
        }
        let text = text_of(seed);
        let report = run(&scenario(kind, &text)?, seed);
        runs += 1;
        clean += u64::from(report.exit_code() == 0);
        crashes += report.totals.crashes;
        repaired += report.totals.repaired.0;
        stored += report.totals.files.0;
        worst = worst.max(report.exit_code());
        if args.json {
            out.line(format_args!("{}", report.json()));
        }
        if report.exit_code() > 0 {
            failed.push(seed);
            say(format_args!("seed {seed}: {}: {}", report.verdict(), report.what()));
            let kept = keep(args, report, &text)?;
            failure = failure.or(Some(kept));
            if args.first {
                break;
            }
        }
    }
    if !args.json {
        out.line(format_args!(
            "{kind} storage worlds: {clean} of {runs} clean; {stored} files stored, {crashes} crashes, {repaired} \
             shards repaired; {:.1} s of processor time{}",
            watch.cpu().as_secs_f64(),
            if failed.is_empty() { String::new() } else { format!("; failed: {failed:?}") }
        ));
    }
    how_to_repeat(failure, args, out)?;
    Ok(worst)
}

fn keep(args: &SeedArgs, report: Report, text: &str) -> Result<Kept, Stop> {
    let file = failure::keep_storage(&args.out, "", &report, text)?;
    Ok(Kept { file, report, text: text.to_owned() })
}

/// The last that is printed: the first failure, smaller, and how to repeat it. Where each line on standard
/// output is a run, it goes to standard error.
fn how_to_repeat(failure: Option<Kept>, args: &SeedArgs, out: &mut Output) -> Result<(), Stop> {
    let Some(Kept { mut file, report, text }) = failure else { return Ok(()) };
    let mut tell = |line: String| {
        if args.json { say(format_args!("{line}")) } else { out.line(format_args!("{line}")) }
    };
    if !args.no_shrink {
        let within = args.shrink_for.unwrap_or(super::shrink::BUDGET);
        match smaller(&text, report, &args.out, within)? {
            Ok(smaller) => {
                tell(smaller.told());
                file = smaller.file;
            }
            Err(why) => tell(format!("not shrunk: {why}")),
        }
    }
    tell(format!("\nto repeat it:\n{}", failure::command(&file)));
    Ok(())
}

/// A smaller failure, and where it is kept.
struct Smaller {
    shrunk: Shrunk,
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
            before.faults,
            after.faults,
            before.clients,
            after.clients,
            before.nodes,
            after.nodes,
            before.events,
            after.events
        )
    }

    fn json(&self) -> serde_json::Value {
        let size = |size: &Size| {
            json!({
                "entries": size.faults,
                "operations": size.clients,
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
    let file = failure::keep_storage(folder, ".shrunk", &shrunk.report, &shrunk.text)?;
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

/// `repro` of such a world's file: what happened in it, and whether it fails as it did.
pub fn repro(args: &ReproArgs, name: &str, text: &str, out: &mut Output) -> Result<u8, Stop> {
    if args.goto.is_some() || args.fork || args.trace {
        return Err(Stop::usage(miette::miette!(
            help = "without them, `repro` tells what struck and what clients were told; the file's `only` says \
                    which faults and clients there are: take one out to see what it would have been without",
            "--goto, --fork and --trace are for worlds of coordinators; {name} is one of storage nodes"
        )));
    }
    let scenario = scenario(name, text)?;
    let Some(repeats) = repeats(name, scenario.repeats.as_ref())? else {
        let help = format!("run it with `cargo xtask sim {}`", failure::quoted(name));
        return Err(Stop::usage(miette::miette!(
            help = help,
            "{name} repeats no failure: it has no [repeats] table"
        )));
    };
    let (report, story) = run_told(&scenario, scenario.seed);
    let as_it_did = report.rule() == Some(repeats.invariant.as_str());
    if args.json {
        let mut line = report.json();
        line["fails_as_it_did"] = as_it_did.into();
        let told = story.iter().map(|(at, what)| json!({ "ns": at.as_nanos(), "what": what }));
        line["story"] = told.collect();
        out.line(format_args!("{line}"));
    } else {
        out.line(format_args!("{name}: seed {}", scenario.seed));
        for (at, what) in &story {
            out.line(format_args!("{:>14} {what}", at.to_string()));
        }
        if report.rule().is_some() {
            out.line(format_args!("{}: {}", report.verdict(), report.what()));
        }
        out.line(format_args!("run hash {:032x}", report.hash));
        let invariant = repeats.invariant;
        match (report.rule(), as_it_did) {
            (None, _) => {
                out.line(format_args!("it runs clean: {invariant} does not come up any more"))
            }
            (_, true) => out.line(format_args!("it fails as it did")),
            (_, false) => {
                out.line(format_args!("another failure than in the file, which has {invariant}"))
            }
        }
    }
    Ok(if report.rule().is_some() && !as_it_did { USAGE } else { report.exit_code() })
}
