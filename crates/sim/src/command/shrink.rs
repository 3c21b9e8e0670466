//! `shrink`: a smaller run that fails in the same way. A failure is shrunk by itself when it is found.

use super::{Quiet, repeats};
use crate::clock::Watch;
use crate::failure::{self, Kept};
use crate::terminal::{Output, say};
use crate::{Stop, USAGE, parse_time, read_text};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sim::shrink::{NotShrunk, Progress, Shrunk, Signature};
use sim::{Report, Scenario, Verdict};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a failure is shrunk that nobody has asked to be shrunk.
pub const BUDGET: Duration = Duration::from_secs(10);

/// `shrink`
#[derive(Args)]
pub struct ShrinkArgs {
    /// The failure file, or a scenario that fails with its own seed
    file: PathBuf,
    /// How long to try, such as 10s
    #[arg(long = "for", value_parser = parse_time, default_value = "10s")]
    pub within: Duration,
    /// Where the smaller file goes [default: beside the file]
    #[arg(long)]
    out: Option<PathBuf>,
    /// One line of JSON, on standard output
    #[arg(long)]
    pub json: bool,
}

impl ShrinkArgs {
    /// Where the smaller file goes.
    pub fn folder(&self) -> PathBuf {
        let beside = self.file.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.out.as_deref().or(beside).unwrap_or(Path::new(".")).to_owned()
    }
}

/// What was made of a failure, and where it is kept.
struct Smaller {
    shrunk: Shrunk,
    file: PathBuf,
    wall: Duration,
}

/// Shrinks a failure file. The exit code is the smaller file's: 1, or 2 if it fails for lack of
/// progress; 0 if nothing fails; 4 if it fails otherwise than the file says.
pub fn shrink(args: &ShrinkArgs, out: &mut Output) -> Result<u8, Stop> {
    let name = args.file.display().to_string();
    let text = read_text(&args.file)?;
    if sim::storage::Scenario::is_one(&text) {
        return super::storage::shrink(args, &name, &text, out);
    }
    let scenario = Scenario::parse(&name, &text).map_err(Stop::usage)?;
    let repeats = repeats(&name, scenario.repeats.as_ref())?;
    if !args.json {
        out.line(format_args!("{name}: seed {}", scenario.seed));
    }
    let report = sim::run(&scenario, scenario.seed);
    if let Some(repeats) = repeats
        && report.verdict != Verdict::Clean
        && !report.verdict.is_of(&repeats.invariant)
    {
        let (found, wanted) = (report.verdict.signature(), repeats.invariant);
        return Err(Stop::usage(miette::miette!(
            help = "`repro` shows it; it is shrunk as it is once its [repeats] table is left out",
            "{name} fails otherwise than it says: by {found}, not by {wanted}"
        )));
    }
    if !args.json && report.verdict != Verdict::Clean {
        out.line(format_args!("{}: {}", report.verdict.name(), report.verdict.what()));
    }
    let code = report.verdict.exit_code();
    match make_smaller(&text, report, &args.folder(), args.within)? {
        Ok(smaller) => {
            if args.json {
                out.line(format_args!("{}", json_of(&smaller)));
            } else {
                out.line(format_args!("{}", told(&smaller)));
                out.line(format_args!("\nto repeat it:\n{}", failure::command(&smaller.file)));
            }
            Ok(code)
        }
        Err(NotShrunk::Clean) => {
            if args.json {
                out.line(format_args!("{}", json!({ "verdict": "clean" })));
            } else {
                out.line(format_args!("it runs clean: there is nothing to shrink"));
            }
            Ok(0)
        }
        Err(why) => Err(Stop { code: USAGE, report: miette::miette!("{name}: {why}") }),
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
    let folder = file.parent().unwrap_or(Path::new(".")).to_owned();
    let line = match make_smaller(&text, report, &folder, within)? {
        Ok(smaller) => {
            let line = told(&smaller);
            if json {
                say(format_args!("{line}"));
            } else {
                out.line(format_args!("{line}"));
            }
            return Ok(smaller.file);
        }
        Err(why) => format!("not shrunk: {why}"),
    };
    if json {
        say(format_args!("{line}"));
    } else {
        out.line(format_args!("{line}"));
    }
    Ok(file)
}

fn make_smaller(
    text: &str,
    report: Report,
    folder: &Path,
    within: Duration,
) -> Result<Result<Smaller, NotShrunk>, Stop> {
    let quiet = Quiet::begin();
    let watch = Watch::start();
    let spinner = spinner();
    let signature = Signature::of(&report.verdict);
    let shrunk = sim::shrink::shrink(text, report, &mut |progress: &Progress| {
        spinner.set_message(format!("{} entries left, {} runs", progress.entries, progress.runs));
        spinner.tick();
        watch.wall() < within
    });
    spinner.finish_and_clear();
    let shrunk = match shrunk {
        Ok(shrunk) => shrunk,
        Err(why) => return Ok(Err(why)),
    };
    let file = failure::keep_as(folder, ".shrunk", &shrunk.report, &shrunk.text)?;
    let wall = watch.wall();
    // The file is what counts: it is read and run as everybody will.
    let kept = read_text(&file)?;
    let scenario = Scenario::parse(&file.display().to_string(), &kept).map_err(Stop::usage)?;
    let again = sim::run(&scenario, scenario.seed);
    drop(quiet);
    if Signature::of(&again.verdict) != signature {
        return Err(Stop::infrastructure(miette::miette!(
            help = "this is a mistake of the simulator: keep both files, and report it",
            "{} does not repeat the failure: it ends with {} {}",
            file.display(),
            again.verdict.name(),
            again.verdict.what()
        )));
    }
    Ok(Ok(Smaller { shrunk, file, wall }))
}

fn told(smaller: &Smaller) -> String {
    let Smaller { shrunk, wall, .. } = smaller;
    let Shrunk { before, after, runs, finished, .. } = shrunk;
    let early = if *finished { "" } else { ", when the time was over" };
    format!(
        "shrunk in {:.1} s and {runs} runs{early}: {} plan entries to {}, {} operations to {}, {} nodes \
         to {}, {} events to {}",
        wall.as_secs_f64(),
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

fn json_of(smaller: &Smaller) -> serde_json::Value {
    let Smaller { shrunk, file, wall } = smaller;
    let size = |size: &sim::shrink::Size| {
        json!({
            "entries": size.entries,
            "operations": size.operations,
            "nodes": size.nodes,
            "events": size.events,
        })
    };
    json!({
        "file": file.display().to_string(),
        "verdict": shrunk.report.verdict.name(),
        "signature": shrunk.report.verdict.signature(),
        "violation": shrunk.report.verdict.what(),
        "before": size(&shrunk.before),
        "after": size(&shrunk.after),
        "runs": shrunk.runs,
        "milliseconds": u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        "finished": shrunk.finished,
    })
}

/// While something is shrunk.
pub fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("shrinking {spinner} {elapsed}  {msg}");
    spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    spinner
}
