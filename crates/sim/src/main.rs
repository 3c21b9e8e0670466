//! `sim`: runs scenario files. `cargo xtask sim` builds it and calls it.

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sim::{Report, Scenario, Verdict};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

mod clock;
mod command;
mod failure;
mod junit;
mod table;
mod terminal;

use terminal::{Output, say};

/// A run makes and drops a message or a buffer every few hundred nanoseconds.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes: see `--help`.
const NOT_DETERMINISTIC: u8 = 3;
const USAGE: u8 = 4;
const INFRASTRUCTURE: u8 = 5;

/// The scenario that runs if none is named.
const SHOWCASE: &str = "coordinator-crashes";

const EXIT_CODES: &str = "\
Exit codes: 0 clean; 1 an invariant or an expectation failed, or a named fault never struck (in repro: 4); \
2 no progress after faults were healed; 3 not deterministic; 4 usage, scenario error, file of another \
version; 5 infrastructure.";

/// Runs scenario files in a simulated world: nodes, disks, network and clients from one seed.
#[derive(Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim", version, after_help = EXIT_CODES)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Runs every scenario file of a folder, each with its own seed.
    #[command(after_help = EXIT_CODES)]
    All(AllArgs),
    /// Runs random small worlds, 3 to 9 nodes with dense faults: each seed is another one.
    #[command(after_help = EXIT_CODES)]
    Random(SeedArgs),
    /// Runs random worlds of storage nodes, most of them small: files, repairs and a ledger under dense faults.
    #[command(after_help = EXIT_CODES)]
    Storage(command::storage::StorageArgs),
    /// Runs a failure file, and says whether it fails as it did.
    #[command(after_help = EXIT_CODES)]
    Repro(command::repro::ReproArgs),
    /// Makes a failure smaller: fewer faults, operations and nodes, and no bad luck beside them.
    #[command(after_help = EXIT_CODES)]
    Shrink(command::shrink::ShrinkArgs),
    /// Runs each seed again with the other queue in a fresh process, and names the first event that
    /// differs.
    #[command(after_help = EXIT_CODES)]
    Check(command::check::CheckArgs),
    /// Runs what failed once, and lists it.
    #[command(after_help = EXIT_CODES)]
    Corpus(command::corpus::CorpusArgs),
    /// Compares the hashes of a few runs with those that were written down.
    #[command(after_help = EXIT_CODES)]
    Golden(command::golden::GoldenArgs),
    /// What `check` starts: prints what a run does, in the queue that is named.
    #[command(hide = true)]
    Side(command::check::SideArgs),
    /// Crashes a scenario at each of its steps, with every outcome for what was unsynced.
    Enumerate(command::enumerate::EnumerateArgs),
    /// Runs one shard of many seeds into a file.
    Sweep(command::sweep::SweepArgs),
    /// Puts the files of a sweep's shards together.
    Merge(command::sweep::MergeArgs),
    /// Writes a run for other tools: Perfetto, ShiViz.
    Export(command::export::ExportArgs),
    /// Writes a run as a page for a browser.
    View(command::view::ViewArgs),
    /// Prints how many messages the simulator delivers per second of processor time.
    #[command(after_help = EXIT_CODES)]
    Bench,
}

#[derive(Args)]
struct RunArgs {
    /// Scenario files, or names of files in sim-scenarios/, here or above [default:
    /// coordinator-crashes]
    scenarios: Vec<String>,
    #[command(flatten)]
    seeds: SeedArgs,
    /// Serve /metrics and /healthz of the one run on this address of loopback, while it runs and then
    /// until interrupted: the exit code is the run's [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:9090")]
    serve: Option<SocketAddr>,
    /// After the run, serve for this long instead, such as 30s
    #[arg(long, value_name = "TIME", requires = "serve", value_parser = parse_time)]
    serve_for: Option<Duration>,
}

#[derive(Args, Clone)]
struct SeedArgs {
    /// One seed [default: the scenario's]
    #[arg(long, conflicts_with = "seeds", value_parser = parse_seed)]
    seed: Option<u64>,
    /// Seeds from the first to before the last, such as 0..1000
    #[arg(long, value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// Only a part of the seeds: the i-th of n, such as 0/4
    #[arg(long, value_parser = parse_shard)]
    shard: Option<(u32, u32)>,
    /// Stop beginning new seeds after this time, such as 10m
    #[arg(long = "for", value_parser = parse_time)]
    within: Option<Duration>,
    /// How many seeds to run at once, 1 to 64 [default: one per processor]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: Option<u8>,
    /// Stop at the first seed that fails
    #[arg(long)]
    first: bool,
    /// One line of JSON per run, on standard output
    #[arg(long)]
    json: bool,
    /// Where failure files go
    #[arg(long, default_value = "out")]
    out: PathBuf,
    /// How long the first failure is shrunk, such as 10s [default: 10s]
    #[arg(long, value_parser = parse_time)]
    shrink_for: Option<Duration>,
    /// Do not shrink the first failure
    #[arg(long, conflicts_with = "shrink_for")]
    no_shrink: bool,
}

#[derive(Args)]
struct AllArgs {
    /// The folder [default: sim-scenarios, here or above]
    folder: Option<PathBuf>,
    #[command(flatten)]
    seeds: SeedArgs,
}

/// The first seed that a scenario file cannot hold: TOML's integers end there.
const SEEDS_END: u64 = 1 << 63;

fn parse_seed(text: &str) -> Result<u64, String> {
    let seed = text.parse().ok().filter(|seed| *seed < SEEDS_END);
    seed.ok_or_else(|| format!("expected a whole number from 0 to {}", SEEDS_END - 1))
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let bad = || {
        format!("expected a range of seeds such as 0..1000, not empty and not above {SEEDS_END}")
    };
    let (from, to) = text.split_once("..").ok_or_else(bad)?;
    let range = from.parse().map_err(|_| bad())?..to.parse().map_err(|_| bad())?;
    if range.is_empty() || range.end > SEEDS_END { Err(bad()) } else { Ok(range) }
}

fn parse_shard(text: &str) -> Result<(u32, u32), String> {
    let bad = || "expected a part and of how many, such as 0/4 for the first of four".to_owned();
    let (part, of) = text.split_once('/').ok_or_else(bad)?;
    let (part, of) = (part.parse().map_err(|_| bad())?, of.parse().map_err(|_| bad())?);
    if part < of { Ok((part, of)) } else { Err(bad()) }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let sim::Span(time) = text.parse()?;
    if time.is_zero() { Err("expected a time above zero".into()) } else { Ok(time) }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    terminal::plain_errors();
    let mut out = Output::default();
    let ended = match cli.command {
        None => run_all(&cli.run, &mut out),
        Some(Command::All(all)) => run_folder(&all, &mut out),
        Some(Command::Random(seeds)) => run_random(&seeds, &mut out),
        Some(Command::Storage(args)) => command::storage::random(&args, &mut out),
        Some(Command::Repro(repro)) => command::repro::repro(&repro, &mut out),
        Some(Command::Shrink(shrink)) => command::shrink::shrink(&shrink, &mut out),
        Some(Command::Check(args)) => command::check::check(&args, &mut out),
        Some(Command::Corpus(corpus)) => command::corpus::corpus(&corpus, &mut out),
        Some(Command::Golden(args)) => command::golden::main(&args, &mut out),
        Some(Command::Side(side)) => command::check::side(&side, &mut out),
        Some(Command::Enumerate(args)) => command::enumerate::main(&args, &mut out),
        Some(Command::Sweep(args)) => command::sweep::sweep(&args, &mut out),
        Some(Command::Merge(args)) => command::sweep::merge(&args, &mut out),
        Some(Command::Export(args)) => command::export::main(&args, &mut out),
        Some(Command::View(args)) => command::view::main(&args, &mut out),
        Some(Command::Bench) => bench(&mut out),
    };
    match ended.and_then(|code| out.finish().map(|()| code)) {
        Ok(code) => ExitCode::from(code),
        Err(stop) => {
            say(format_args!("{:?}", stop.report));
            ExitCode::from(stop.code)
        }
    }
}

/// Why there is no verdict.
struct Stop {
    code: u8,
    report: miette::Report,
}

impl Stop {
    fn usage(report: impl Into<miette::Report>) -> Stop {
        Stop { code: USAGE, report: report.into() }
    }

    fn infrastructure(report: miette::Report) -> Stop {
        Stop { code: INFRASTRUCTURE, report }
    }
}

/// A scenario, and the text that it was read from.
struct Source {
    scenario: Scenario,
    text: String,
}

/// Where the scenarios are that go by name.
const FOLDER: &str = "sim-scenarios";

/// The folder of scenarios, here or in the nearest folder above that has one, so that names mean the
/// same everywhere in the project. As a relative path, which is what people want to read; if there is
/// none, where it is looked for first.
fn folder() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let found = here.ancestors().position(|above| above.join(FOLDER).is_dir());
    let up = std::iter::repeat_n("..", found.unwrap_or(0));
    up.collect::<PathBuf>().join(FOLDER)
}

/// The file that a name means.
fn path_of(name: &str) -> PathBuf {
    let path = PathBuf::from(name);
    if !name.contains(['/', '.']) && !path.exists() {
        let inner = |folder: PathBuf| folder.join(format!("{name}.toml"));
        let storage = inner(folder().join("storage"));
        return if storage.exists() { storage } else { inner(folder()) };
    }
    path
}

fn read(name: &str) -> Result<Source, Stop> {
    let path = path_of(name);
    let text = read_text(&path)?;
    let scenario = Scenario::parse(&path.display().to_string(), &text).map_err(Stop::usage)?;
    Ok(Source { scenario, text })
}

/// Reads a file that must be text.
fn read_text(path: &Path) -> Result<String, Stop> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        let help = if path.is_dir() {
            format!("`cargo xtask sim all {shown}` runs every scenario file of a folder")
        } else {
            known_scenarios(path)
        };
        Stop::usage(miette::miette!(help = help, "cannot read {shown}: {error}"))
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        Stop::usage(miette::miette!(
            help = "a scenario file is TOML, which is text in UTF-8",
            "{shown}:{line}:{column}: not UTF-8"
        ))
    })
}

/// What could have been meant by a file that cannot be read.
fn known_scenarios(path: &Path) -> String {
    let folder = folder();
    let files = files(&folder);
    let names: Vec<&str> = files.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
    if names.is_empty() {
        let why = no_names(&folder);
        return format!("name a scenario file; {why}");
    }
    let wanted = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    let near = sim::nearest(&wanted, &names);
    let near = near.map(|near| format!("did you mean {near}? ")).unwrap_or_default();
    format!("{near}name a file, or one of those in {}: {}", folder.display(), names.join(", "))
}

/// Why nothing goes by name.
fn no_names(folder: &Path) -> String {
    if folder.is_dir() {
        format!("{} has none that goes by its name", folder.display())
    } else {
        format!("there is no folder {FOLDER} here or above")
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

/// Some seeds, ascending, never all in memory.
#[derive(Clone)]
struct Seeds {
    /// Empty, or of one shard's seeds the first to behind the last.
    range: Range<u64>,
    /// From one to the next.
    step: u64,
}

impl Seeds {
    /// Those of a range that are a shard's: the i-th of n has each seed that leaves i when it is divided
    /// by n.
    fn of(range: &Range<u64>, (part, of): (u32, u32)) -> Seeds {
        let (part, of) = (u64::from(part), u64::from(of));
        let first = range.start + (part + of - range.start % of) % of;
        Seeds { range: first.min(range.end)..range.end, step: of }
    }

    fn len(&self) -> u64 {
        (self.range.end - self.range.start).div_ceil(self.step)
    }

    fn last(&self) -> u64 {
        self.range.start + (self.len() - 1) * self.step
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        let (first, step) = (self.range.start, self.step);
        (0..self.len()).map(move |number| first + number * step)
    }
}

impl SeedArgs {
    /// How many seeds run at once.
    fn jobs(&self) -> usize {
        self.jobs.map_or_else(clock::processors, usize::from).clamp(1, 64)
    }

    fn seeds(&self, default: u64) -> Seeds {
        let range = match (&self.seeds, self.seed) {
            (Some(range), _) => range.clone(),
            (None, Some(seed)) => seed..seed + 1,
            (None, None) => default..default + 1,
        };
        Seeds::of(&range, self.shard.unwrap_or((0, 1)))
    }
}

fn run_all(run: &RunArgs, out: &mut Output) -> Result<u8, Stop> {
    let names: Vec<String> = match run.scenarios.as_slice() {
        [] => vec![SHOWCASE.to_owned()],
        names => names.to_vec(),
    };
    if let Some(address) = run.serve {
        let [name] = names.as_slice() else {
            return Err(Stop::usage(miette::miette!("--serve shows one run: name one scenario")));
        };
        let path = path_of(name);
        let served = command::serve::Served { address, lasts: run.serve_for };
        let (shown, text) = (path.display().to_string(), read_text(&path)?);
        return command::serve::run(&served, &shown, &text, &run.seeds, out);
    }
    run_each(&names, &run.seeds, Ended::default(), out)
}

/// Runs scenario files, unless what ended before is enough.
fn run_each(
    scenarios: &[String],
    seeds: &SeedArgs,
    before: Ended,
    out: &mut Output,
) -> Result<u8, Stop> {
    let mut before = before;
    let mut names = Vec::new();
    for name in scenarios {
        let path = path_of(name);
        let storage = std::fs::read_to_string(&path).ok();
        match storage.filter(|text| sim::storage::Scenario::is_one(text)) {
            Some(text) => {
                let shown = path.display().to_string();
                before = before.and(command::storage::file(&shown, &text, seeds, out)?);
            }
            None => names.push(name),
        }
    }
    let names = names.into_iter();
    let sources: Vec<Source> = names.map(|name| read(name)).collect::<Result<_, _>>()?;
    let mut worst = before;
    for source in &sources {
        if worst.code > 0 && seeds.first || out.is_closed() {
            break;
        }
        let those = seeds.seeds(source.scenario.seed);
        let make = |_| Ok((source.scenario.clone(), source.text.clone()));
        let ended = batch(&source.scenario.name, &those, seeds, out, &make)?;
        worst = worst.and(ended);
    }
    worst.tell(seeds, out)
}

fn run_folder(all: &AllArgs, out: &mut Output) -> Result<u8, Stop> {
    let folder = all.folder.clone().unwrap_or_else(folder);
    let scenarios: Vec<String> =
        files(&folder).iter().map(|path| path.display().to_string()).collect();
    if scenarios.is_empty() {
        let mut help = "name a folder with scenario files in it".to_owned();
        if all.folder.is_none() && !folder.is_dir() {
            help = format!("{help}; {}", no_names(&folder));
        }
        let folder = folder.display();
        return Err(Stop::usage(miette::miette!(
            help = help,
            "no scenario file (*.toml) in {folder}"
        )));
    }
    let mut ended = Ended::default();
    if let Some(corpus) = command::corpus::of(&folder) {
        let seeds = &all.seeds;
        let replayed = command::corpus::first(&corpus, &seeds.out, seeds.json, out)?;
        ended = Ended { code: replayed.code, failure: replayed.failure };
    }
    run_each(&scenarios, &all.seeds, ended, out)
}

fn run_random(args: &SeedArgs, out: &mut Output) -> Result<u8, Stop> {
    let seeds = args.seeds(1);
    let ended = batch("random small worlds", &seeds, args, out, &|seed| {
        let text = sim::small(seed);
        let scenario = Scenario::parse("small", &text).map_err(Stop::usage)?;
        Ok((scenario, text))
    })?;
    ended.tell(args, out)
}

/// How many runs ended, together.
#[derive(Default)]
struct Ended {
    /// The highest of their exit codes.
    code: u8,
    /// The first that failed.
    failure: Option<failure::Failed>,
}

impl Ended {
    fn and(self, later: Ended) -> Ended {
        Ended { code: self.code.max(later.code), failure: self.failure.or(later.failure) }
    }

    /// The last that is printed: how to repeat the failure, if there is one. Where each line on
    /// standard output is a run, it goes to standard error.
    fn tell(self, args: &SeedArgs, out: &mut Output) -> Result<u8, Stop> {
        if let Some(failed) = self.failure {
            let mut file = failed.file().to_owned();
            if !args.no_shrink && !out.is_closed() {
                let within = args.shrink_for.unwrap_or(command::shrink::BUDGET);
                file = failed.shrink(within, args.json, out)?;
            }
            let repeat = failure::command(&file);
            if args.json {
                say(format_args!("to repeat it:\n{repeat}"));
            } else {
                out.line(format_args!("\nto repeat it:\n{repeat}"));
            }
        }
        Ok(self.code)
    }
}

type Make<'a> = dyn Fn(u64) -> Result<(Scenario, String), Stop> + Sync + 'a;

/// Runs seeds, in parallel, and shows what came out.
fn batch(
    name: &str,
    seeds: &Seeds,
    args: &SeedArgs,
    out: &mut Output,
    make: &Make<'_>,
) -> Result<Ended, Stop> {
    if !args.json {
        match seeds.len() {
            0 => out.line(format_args!("{name}: no seed in this shard")),
            1 => out.line(format_args!("{name}: seed {}", seeds.range.start)),
            many => {
                let (first, last) = (seeds.range.start, seeds.last());
                out.line(format_args!("{name}: {many} seeds, {first} to {last}"));
            }
        }
    }
    let progress = progress(seeds.len());
    let watch = clock::Watch::start();
    let mut tally = table::Tally::default();
    let mut failed: Option<(Report, String)> = None;
    let jobs = args.jobs();
    let mut code = 0;
    let mut left = seeds.iter();
    // Rounds keep the order of what is printed, and bound what is in memory.
    'rounds: loop {
        let round: Vec<u64> = left.by_ref().take(jobs * 32).collect();
        // However little time there is, whoever asks for runs gets some.
        let is_late = args.within.is_some_and(|within| tally.runs() > 0 && watch.wall() >= within);
        if round.is_empty() || is_late {
            break;
        }
        for (seed, (report, text)) in round.iter().zip(parallel(&round, jobs, make)?) {
            progress.inc(1);
            tally.add(&report);
            code = code.max(report.verdict.exit_code());
            if args.json {
                out.line(format_args!("{}", report.json()));
            }
            if report.verdict != Verdict::Clean && failed.is_none() {
                debug_assert_eq!(*seed, report.seed, "reports come in the order of their seeds");
                failed = Some((report, text));
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
        out.write(format_args!("{}", tally.table(name, &watch)));
    }
    let Some((report, text)) = failed else { return Ok(Ended { code, failure: None }) };
    if !args.json {
        out.line(format_args!("\n{}: {}", report.verdict.name(), report.verdict.what()));
    }
    let kept = failure::keep(&args.out, report, text)?;
    Ok(Ended { code, failure: Some(failure::Failed::Coordinators(kept)) })
}

fn parallel(seeds: &[u64], jobs: usize, make: &Make<'_>) -> Result<Vec<(Report, String)>, Stop> {
    parallel_by(seeds, jobs, &|seed| {
        let (scenario, text) = make(seed)?;
        Ok((sim::run(&scenario, seed), text))
    })
}

/// Something for each seed, in their order.
fn parallel_by<T: Send>(
    seeds: &[u64],
    jobs: usize,
    one: &(dyn Fn(u64) -> Result<T, Stop> + Sync),
) -> Result<Vec<T>, Stop> {
    if jobs == 1 || seeds.len() == 1 {
        return seeds.iter().map(|seed| one(*seed)).collect();
    }
    let mut results: Vec<Option<Result<T, Stop>>> = Vec::new();
    results.resize_with(seeds.len(), || None);
    let share = seeds.len().div_ceil(jobs);
    std::thread::scope(|scope| {
        for (seeds, results) in seeds.chunks(share).zip(results.chunks_mut(share)) {
            scope.spawn(move || {
                for (seed, result) in seeds.iter().zip(results) {
                    *result = Some(one(*seed));
                }
            });
        }
    });
    results.into_iter().map(|result| result.expect("every seed was run")).collect()
}

fn progress(length: u64) -> ProgressBar {
    if length < 2 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{pos}/{len} seeds  {elapsed}  {wide_bar}  {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// 600 nodes, 10,000 transactions of 8 participants, 1 to 10 ms, 1 % loss, 20 coordinator crashes. All
/// transactions are asked for at once, as in the measured peers' runs; so many coordinators are needed
/// for that, each of which takes 256 at a time.
const BENCH: &str = r#"
format = 1
name = "bench"
[cluster]
nodes = 600
coordinators = 40
[workload]
kind = "twopc"
operations = 10_000
participants = 8
in_flight = 10_000
cells = 1_000_000
[network]
latency = "1ms..10ms"
loss = "1%"
"#;

/// The crashes of the benchmark: in the thick of it, every 10 ms another coordinator.
fn bench_scenario() -> Result<Scenario, Stop> {
    let mut text = BENCH.to_owned();
    for crash in 0..20 {
        let at = 10 + 10 * crash;
        text += &format!(
            "[[fault]]\nat = \"{at}ms\"\nkind = \"power-loss\"\nnode = {crash}\ndown = \"50ms\"\n"
        );
    }
    Scenario::parse("bench", &text).map_err(Stop::usage)
}

fn bench(out: &mut Output) -> Result<u8, Stop> {
    let scenario = bench_scenario()?;
    out.line(format_args!(
        "600 nodes, 10,000 transactions of 8 participants, 20 coordinator crashes, every judge on"
    ));
    let mut rates = Vec::new();
    for seed in 1..=5 {
        let watch = clock::Watch::start();
        let report = sim::run(&scenario, seed);
        let cpu = watch.cpu();
        let rate = report.counters.delivered as f64 / cpu.as_secs_f64() / 1e6;
        out.line(format_args!(
            "seed {seed}: {} messages, {} events, {:.2} s of processor time: {rate:.2} M messages/s, {}",
            report.counters.delivered,
            report.counters.events,
            cpu.as_secs_f64(),
            report.verdict.name()
        ));
        rates.push(rate);
    }
    rates.sort_by(f64::total_cmp);
    let median = rates[2];
    out.line(format_args!("median: {median:.2} M delivered messages per second of processor time"));
    command::copies(&scenario, out);
    Ok(0)
}
