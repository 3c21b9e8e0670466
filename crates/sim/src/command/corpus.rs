//! `corpus`: what failed once, run again before anything else.

use super::shrink;
use crate::failure::{self, Failed};
use crate::terminal::{Output, say};
use crate::{FOLDER, Stop, files, folder, read_text};
use clap::Args;
use sim::{Report, Scenario, storage};
use std::path::{Path, PathBuf};

/// Where they are, in a folder of scenarios.
const REGRESSIONS: &str = "regressions";

/// `corpus`
#[derive(Args)]
pub struct CorpusArgs {
    /// The folder [default: sim-scenarios/regressions, here or above]
    folder: Option<PathBuf>,
    /// One line of JSON for each file, on standard output
    #[arg(long)]
    json: bool,
    /// Where failure files go
    #[arg(long, default_value = "out")]
    out: PathBuf,
    /// Do not shrink the first failure
    #[arg(long)]
    no_shrink: bool,
}

/// A file of the corpus, read and found to be one.
struct Lesson {
    path: PathBuf,
    /// What went wrong once.
    why: String,
    world: World,
    text: String,
}

/// Either kind of world.
enum World {
    Coordinators(Box<Scenario>),
    Storage(Box<storage::Scenario>),
}

impl World {
    fn derivation(&self) -> Option<u32> {
        match self {
            World::Coordinators(scenario) => scenario.derivation.as_ref().map(|it| *it.get_ref()),
            World::Storage(scenario) => scenario.derivation,
        }
    }

    fn run(&self) -> Ran {
        match self {
            World::Coordinators(scenario) => {
                Ran::Coordinators(Box::new(sim::run(scenario, scenario.seed)))
            }
            World::Storage(scenario) => {
                Ran::Storage(Box::new(storage::run(scenario, scenario.seed)))
            }
        }
    }
}

/// What came of one file.
enum Ran {
    Coordinators(Box<Report>),
    Storage(Box<storage::Report>),
}

impl Ran {
    fn exit_code(&self) -> u8 {
        match self {
            Ran::Coordinators(report) => report.verdict.exit_code(),
            Ran::Storage(report) => report.exit_code(),
        }
    }

    fn is_clean(&self) -> bool {
        self.exit_code() == 0
    }

    fn verdict(&self) -> &'static str {
        match self {
            Ran::Coordinators(report) => report.verdict.name(),
            Ran::Storage(report) => report.verdict(),
        }
    }

    fn what(&self) -> String {
        match self {
            Ran::Coordinators(report) => report.verdict.what(),
            Ran::Storage(report) => report.what(),
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Ran::Coordinators(report) => report.json(),
            Ran::Storage(report) => report.json(),
        }
    }
}

/// What came of running all of them.
#[derive(Default)]
pub struct Replayed {
    /// The highest exit code.
    pub code: u8,
    /// How many there are.
    pub files: usize,
    /// The first that failed.
    pub failure: Option<Failed>,
}

/// Runs every file, and lists it with its reason.
pub fn corpus(args: &CorpusArgs, out: &mut Output) -> Result<u8, Stop> {
    let folder = args.folder.clone().unwrap_or_else(|| folder().join(REGRESSIONS));
    if files(&folder).is_empty() {
        let shown = folder.display();
        return Err(Stop::usage(miette::miette!(
            help = format!("name a folder of scenario files, such as {FOLDER}/{REGRESSIONS}"),
            "no scenario file (*.toml) in {shown}"
        )));
    }
    let json = args.json;
    let replayed = replay(&folder, &args.out, &mut |lesson, ran| {
        if json {
            let mut line = ran.json();
            line["file"] = lesson.path.display().to_string().into();
            line["why"] = lesson.why.clone().into();
            out.line(format_args!("{line}"));
        } else {
            let name = lesson.path.file_stem().unwrap_or_default().to_string_lossy();
            let verdict = ran.verdict();
            out.line(format_args!("{verdict:<12}{name}\n{:<12}{}", "", lesson.why));
            if !ran.is_clean() {
                out.line(format_args!("{:<12}{}", "", ran.what()));
            }
        }
    })?;
    let Replayed { code, files, failure } = replayed;
    if let Some(failed) = failure {
        let mut file = failed.file().to_owned();
        if !args.no_shrink {
            file = failed.shrink(shrink::BUDGET, json, out)?;
        }
        let repeat = failure::command(&file);
        if json {
            say(format_args!("to repeat it:\n{repeat}"));
        } else {
            out.line(format_args!("\nto repeat it:\n{repeat}"));
        }
    } else if !json {
        out.line(format_args!("{files} files, all clean"));
    }
    Ok(code)
}

/// The corpus of a folder of scenarios, if it has one.
pub fn of(folder: &Path) -> Option<PathBuf> {
    let corpus = folder.join(REGRESSIONS);
    corpus.is_dir().then_some(corpus)
}

/// Runs every file of a corpus with its own seed, in the order of their names.
fn replay(
    folder: &Path,
    kept: &Path,
    each: &mut dyn FnMut(&Lesson, &Ran),
) -> Result<Replayed, Stop> {
    let mut replayed = Replayed::default();
    // All are read before one is run: what is wrong with a file is no surprise at the end.
    let lessons: Vec<Lesson> =
        files(folder).iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    for lesson in lessons {
        let ran = lesson.world.run();
        replayed.files += 1;
        replayed.code = replayed.code.max(ran.exit_code());
        each(&lesson, &ran);
        if !ran.is_clean() && replayed.failure.is_none() {
            replayed.failure = Some(match ran {
                Ran::Coordinators(report) => {
                    Failed::Coordinators(failure::keep(kept, *report, lesson.text)?)
                }
                Ran::Storage(report) => failure::keep_storage(kept, *report, lesson.text)?,
            });
        }
    }
    Ok(replayed)
}

fn read(path: &Path) -> Result<Lesson, Stop> {
    let name = path.display().to_string();
    let text = read_text(path)?;
    let world = if storage::Scenario::is_one(&text) {
        World::Storage(Box::new(super::storage::scenario(&name, &text)?))
    } else {
        World::Coordinators(Box::new(Scenario::parse(&name, &text).map_err(Stop::usage)?))
    };
    let ours = base::prng::DERIVATION_VERSION;
    if world.derivation().is_none() {
        return Err(Stop::usage(miette::miette!(
            help = format!("if it was made with this build's version, add `derivation = {ours}`"),
            "{name} does not say with which version of the randomness its seed was found"
        )));
    }
    let why = text.lines().next().and_then(|line| line.strip_prefix("# ")).map(str::trim);
    let Some(why) = why.filter(|why| !why.is_empty()) else {
        return Err(Stop::usage(miette::miette!(
            help = "begin it with a comment of one line, such as `# A vote was counted twice.`",
            "{name} does not say why it is kept"
        )));
    };
    let why = why.to_owned();
    Ok(Lesson { path: path.to_owned(), why, world, text })
}

/// The same, in a line for all of them, before other runs.
pub fn first(folder: &Path, kept: &Path, json: bool, out: &mut Output) -> Result<Replayed, Stop> {
    let shown = folder.display().to_string();
    let replayed = replay(folder, kept, &mut |lesson, ran| {
        if json {
            out.line(format_args!("{}", ran.json()));
        } else if !ran.is_clean() {
            let (verdict, what) = (ran.verdict(), ran.what());
            out.line(format_args!("{}: {verdict}: {what}", lesson.path.display()));
        }
    })?;
    if !json {
        let count = replayed.files;
        let verdict = if replayed.code == 0 { "all clean" } else { "not all of them clean" };
        out.line(format_args!("{shown}: {count} files that failed once, {verdict}"));
    }
    Ok(replayed)
}
