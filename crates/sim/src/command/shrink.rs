//! `shrink`: a smaller run that fails in the same way. A failure is shrunk by itself when it is found.

use super::travel::Told;
use super::{Quiet, repeats};
use crate::clock::Watch;
use crate::failure::{self, Kept};
use crate::terminal::{Output, say};
use crate::{Stop, USAGE, parse_time, read_text};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sim::shrink::{NotShrunk, Progress, Shrunk, Signature};
use sim::{Repeats, Report, Scenario};
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

/// A kind of world whose failures are shrunk.
pub trait Kind {
    /// What its files hold.
    type Scenario;
    /// What came of a run.
    type Report: Told;
    /// What makes two failures the same.
    type Signature: PartialEq;
    /// What its faults and its clients are called.
    const WORDS: [&'static str; 2];

    /// The scenario of a file.
    fn read(name: &str, text: &str) -> Result<Self::Scenario, Stop>;
    /// Its seed, and what it repeats.
    fn says(scenario: &Self::Scenario) -> (u64, Option<&Repeats>);
    /// Runs it with its own seed.
    fn run(scenario: &Self::Scenario) -> Self::Report;
    /// What makes another failure the same as this one.
    fn signature(report: &Self::Report) -> Self::Signature;
    /// Makes a failing run smaller.
    fn smaller(
        text: &str,
        report: Self::Report,
        goes_on: &mut dyn FnMut(&Progress) -> bool,
    ) -> Result<Shrunk<Self::Report>, NotSmaller>;
    /// Writes its file.
    fn keep(folder: &Path, shrunk: &Shrunk<Self::Report>) -> Result<PathBuf, Stop>;
}

/// Why nothing was made smaller.
pub enum NotSmaller {
    /// Nothing fails.
    Clean,
    /// Why else.
    Else(String),
}

impl NotSmaller {
    fn told(self) -> String {
        match self {
            NotSmaller::Clean => "it runs clean".to_owned(),
            NotSmaller::Else(why) => why,
        }
    }
}

/// Worlds of coordinators and participants.
pub struct Coordinators;

impl Kind for Coordinators {
    type Scenario = Scenario;
    type Report = Report;
    type Signature = Option<Signature>;
    const WORDS: [&'static str; 2] = ["plan entries", "operations"];

    fn read(name: &str, text: &str) -> Result<Scenario, Stop> {
        Scenario::parse(name, text).map_err(Stop::usage)
    }

    fn says(scenario: &Scenario) -> (u64, Option<&Repeats>) {
        (scenario.seed, scenario.repeats.as_ref())
    }

    fn run(scenario: &Scenario) -> Report {
        sim::run(scenario, scenario.seed)
    }

    fn signature(report: &Report) -> Option<Signature> {
        Signature::of(&report.verdict)
    }

    fn smaller(
        text: &str,
        report: Report,
        goes_on: &mut dyn FnMut(&Progress) -> bool,
    ) -> Result<Shrunk, NotSmaller> {
        sim::shrink::shrink(text, report, goes_on).map_err(|why| match why {
            NotShrunk::Clean => NotSmaller::Clean,
            why => NotSmaller::Else(why.to_string()),
        })
    }

    fn keep(folder: &Path, shrunk: &Shrunk) -> Result<PathBuf, Stop> {
        failure::keep_as(folder, ".shrunk", &shrunk.report, &shrunk.text)
    }
}

/// What was made of a failure, and where it is kept.
struct Smaller<R> {
    shrunk: Shrunk<R>,
    file: PathBuf,
    wall: Duration,
}

/// Shrinks a failure file. The exit code is the smaller file's: 1, or 2 if it fails for lack of
/// progress; 0 if nothing fails; 4 if it fails otherwise than the file says.
pub fn shrink(args: &ShrinkArgs, out: &mut Output) -> Result<u8, Stop> {
    let name = args.file.display().to_string();
    let text = read_text(&args.file)?;
    if sim::storage::Scenario::is_one(&text) {
        return file::<super::storage::Storage>(args, &name, &text, out);
    }
    file::<Coordinators>(args, &name, &text, out)
}

fn file<K: Kind>(args: &ShrinkArgs, name: &str, text: &str, out: &mut Output) -> Result<u8, Stop> {
    let scenario = K::read(name, text)?;
    let (seed, wanted) = K::says(&scenario);
    let wanted = repeats(name, wanted)?;
    if !args.json {
        out.line(format_args!("{name}: seed {seed}"));
    }
    let report = K::run(&scenario);
    let code = report.exit_code();
    if let (Some(wanted), Some(found)) = (wanted, report.signature())
        && !report.is_of(&wanted.invariant)
    {
        let wanted = wanted.invariant;
        return Err(Stop::usage(miette::miette!(
            help = "`repro` shows it; it is shrunk as it is once its [repeats] table is left out",
            "{name} fails otherwise than it says: by {found}, not by {wanted}"
        )));
    }
    if !args.json && code > 0 {
        out.line(format_args!("{}: {}", report.verdict(), report.what()));
    }
    match make_smaller::<K>(text, report, &args.folder(), args.within)? {
        Ok(smaller) if args.json => out.line(format_args!("{}", json_of(&smaller))),
        Ok(smaller) => {
            out.line(format_args!("{}", told::<K>(&smaller)));
            out.line(format_args!("\nto repeat it:\n{}", failure::command(&smaller.file)));
        }
        Err(NotSmaller::Clean) if args.json => {
            out.line(format_args!("{}", json!({ "verdict": "clean" })));
        }
        Err(NotSmaller::Clean) => {
            out.line(format_args!("it runs clean: there is nothing to shrink"));
        }
        Err(NotSmaller::Else(why)) => {
            return Err(Stop { code: USAGE, report: miette::miette!("{name}: {why}") });
        }
    }
    Ok(code)
}

/// Shrinks what was just found, and says what is left. The smaller file, if there is one.
pub fn automatically<K: Kind>(
    kept: Kept<K::Report>,
    within: Duration,
    json: bool,
    out: &mut Output,
) -> Result<PathBuf, Stop> {
    let Kept { file, report, text } = kept;
    let folder = file.parent().unwrap_or(Path::new("."));
    let (file, line) = match make_smaller::<K>(&text, report, folder, within)? {
        Ok(smaller) => (smaller.file.clone(), told::<K>(&smaller)),
        Err(why) => (file, format!("not shrunk: {}", why.told())),
    };
    if json {
        say(format_args!("{line}"));
    } else {
        out.line(format_args!("{line}"));
    }
    Ok(file)
}

fn make_smaller<K: Kind>(
    text: &str,
    report: K::Report,
    folder: &Path,
    within: Duration,
) -> Result<Result<Smaller<K::Report>, NotSmaller>, Stop> {
    let quiet = Quiet::begin();
    let (watch, spinner) = (Watch::start(), spinner());
    let signature = K::signature(&report);
    let shrunk = K::smaller(text, report, &mut |progress: &Progress| {
        spinner.set_message(format!("{} entries left, {} runs", progress.entries, progress.runs));
        spinner.tick();
        watch.wall() < within
    });
    spinner.finish_and_clear();
    let shrunk = match shrunk {
        Ok(shrunk) => shrunk,
        Err(why) => return Ok(Err(why)),
    };
    let file = K::keep(folder, &shrunk)?;
    let wall = watch.wall();
    // The file is what counts: it is read and run as everybody will.
    let again = K::run(&K::read(&file.display().to_string(), &read_text(&file)?)?);
    drop(quiet);
    if K::signature(&again) != signature {
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

fn told<K: Kind>(smaller: &Smaller<K::Report>) -> String {
    let Smaller { shrunk, wall, .. } = smaller;
    let Shrunk { before, after, runs, finished, .. } = shrunk;
    let early = if *finished { "" } else { ", when the time was over" };
    let [entries, operations] = K::WORDS;
    format!(
        "shrunk in {:.1} s and {runs} runs{early}: {} {entries} to {}, {} {operations} to {}, {} nodes \
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

fn json_of<R: Told>(smaller: &Smaller<R>) -> serde_json::Value {
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
        "verdict": shrunk.report.verdict(),
        "signature": shrunk.report.signature(),
        "violation": shrunk.report.what(),
        "before": size(&shrunk.before),
        "after": size(&shrunk.after),
        "runs": shrunk.runs,
        "milliseconds": u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        "finished": shrunk.finished,
    })
}

/// While something is shrunk.
fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("shrinking {spinner} {elapsed}  {msg}");
    spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    spinner
}
