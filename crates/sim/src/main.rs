//! `sim`: runs scenario files. `cargo xtask sim` builds it and calls it.

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sim::{Report, Scenario, Verdict};
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

mod clock;
mod failure;
mod table;

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
    All(AllArgs),
    /// Runs random small worlds, 3 to 9 nodes with dense faults: each seed is another one.
    Random(SeedArgs),
    /// Runs a failure file, and says whether it fails as it did.
    Repro(ReproArgs),
    /// Runs each seed again in a fresh process, and compares the hashes.
    Check(RunArgs),
    /// Prints how many messages the simulator delivers per second of processor time.
    Bench,
}

#[derive(Args)]
struct RunArgs {
    /// Scenario files, or names of files in sim-scenarios/ [default: coordinator-crashes]
    scenarios: Vec<String>,
    #[command(flatten)]
    seeds: SeedArgs,
}

#[derive(Args, Clone)]
struct SeedArgs {
    /// One seed [default: the scenario's]
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds from the first to before the last, such as 0..1000
    #[arg(long, value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// Only a part of the seeds: the i-th of n, such as 0/4
    #[arg(long, value_parser = parse_shard)]
    shard: Option<(u64, u64)>,
    /// Stop beginning new seeds after this time, such as 10m
    #[arg(long = "for", value_parser = parse_time)]
    within: Option<Duration>,
    /// How many seeds to run at once [default: one per processor]
    #[arg(long)]
    jobs: Option<usize>,
    /// Stop at the first seed that fails
    #[arg(long)]
    first: bool,
    /// One line of JSON per run, on standard output
    #[arg(long)]
    json: bool,
    /// Where failure files go
    #[arg(long, default_value = "out")]
    out: PathBuf,
}

#[derive(Args)]
struct AllArgs {
    /// The folder
    #[arg(default_value = "sim-scenarios")]
    folder: PathBuf,
    #[command(flatten)]
    seeds: SeedArgs,
}

#[derive(Args)]
struct ReproArgs {
    /// The failure file
    file: PathBuf,
    /// One line of JSON, on standard output
    #[arg(long)]
    json: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let bad = || format!("\"{text}\" is no range of seeds: expected one such as 0..1000");
    let (from, to) = text.split_once("..").ok_or_else(bad)?;
    let range = from.parse().map_err(|_| bad())?..to.parse().map_err(|_| bad())?;
    if range.is_empty() { Err(bad()) } else { Ok(range) }
}

fn parse_shard(text: &str) -> Result<(u64, u64), String> {
    let bad = || format!("\"{text}\" is no shard: expected one such as 0/4");
    let (part, of) = text.split_once('/').ok_or_else(bad)?;
    let (part, of) = (part.parse().map_err(|_| bad())?, of.parse().map_err(|_| bad())?);
    if part < of { Ok((part, of)) } else { Err(bad()) }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    text.parse::<sim::Span>().map(|span| span.0)
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let ended = match cli.command {
        None => run_all(&cli.run),
        Some(Command::All(all)) => run_folder(&all),
        Some(Command::Random(seeds)) => run_random(&seeds),
        Some(Command::Repro(repro)) => failure::repro(&repro.file, repro.json),
        Some(Command::Check(run)) => check(&run),
        Some(Command::Bench) => bench(),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(stop) => {
            eprintln!("{:?}", stop.report);
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

fn read(name: &str) -> Result<Source, Stop> {
    let given = Path::new(name);
    let in_folder = Path::new("sim-scenarios").join(format!("{name}.toml"));
    let path = if given.exists() || name.contains(['/', '.']) { given } else { &in_folder };
    let text = std::fs::read_to_string(path).map_err(|error| {
        let help = if path == in_folder { known_scenarios() } else { String::new() };
        Stop::usage(miette::miette!(help = help, "cannot read {}: {error}", path.display()))
    })?;
    let scenario = Scenario::parse(&path.display().to_string(), &text).map_err(Stop::usage)?;
    Ok(Source { scenario, text })
}

fn known_scenarios() -> String {
    let names: Vec<String> = files(Path::new("sim-scenarios"))
        .iter()
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    format!("scenarios here: {}", names.join(", "))
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

impl SeedArgs {
    fn seeds(&self, default: u64) -> Vec<u64> {
        let seeds = match (&self.seeds, self.seed) {
            (Some(range), _) => range.clone(),
            (None, Some(seed)) => seed..seed + 1,
            (None, None) => default..default + 1,
        };
        let (part, of) = self.shard.unwrap_or((0, 1));
        seeds.filter(|seed| seed % of == part).collect()
    }
}

fn run_all(run: &RunArgs) -> Result<u8, Stop> {
    let names: Vec<String> = match run.scenarios.as_slice() {
        [] => vec![SHOWCASE.to_owned()],
        names => names.to_vec(),
    };
    let sources: Vec<Source> = names.iter().map(|name| read(name)).collect::<Result<_, _>>()?;
    let mut worst = 0;
    for source in &sources {
        let seeds = run.seeds.seeds(source.scenario.seed);
        let code = batch(&source.scenario.name, &seeds, &run.seeds, &|_| {
            Ok((source.scenario.clone(), source.text.clone()))
        })?;
        worst = worst.max(code);
        if worst > 0 && run.seeds.first {
            break;
        }
    }
    Ok(worst)
}

fn run_folder(all: &AllArgs) -> Result<u8, Stop> {
    let scenarios: Vec<String> =
        files(&all.folder).iter().map(|path| path.display().to_string()).collect();
    if scenarios.is_empty() {
        let folder = all.folder.display();
        return Err(Stop::usage(miette::miette!("no scenario file (*.toml) in {folder}")));
    }
    run_all(&RunArgs { scenarios, seeds: all.seeds.clone() })
}

fn run_random(args: &SeedArgs) -> Result<u8, Stop> {
    let seeds = args.seeds(1);
    batch("random small worlds", &seeds, args, &|seed| {
        let text = sim::small(seed);
        let scenario = Scenario::parse("small", &text).map_err(Stop::usage)?;
        Ok((scenario, text))
    })
}

type Make<'a> = dyn Fn(u64) -> Result<(Scenario, String), Stop> + Sync + 'a;

/// Runs seeds, in parallel, and shows what came out.
fn batch(name: &str, seeds: &[u64], args: &SeedArgs, make: &Make<'_>) -> Result<u8, Stop> {
    if !args.json {
        match seeds {
            [seed] => println!("{name}: seed {seed}"),
            [first, .., last] => println!("{name}: {} seeds, {first} to {last}", seeds.len()),
            [] => println!("{name}: no seed in this shard"),
        }
        let _ = std::io::stdout().flush();
    }
    let progress = progress(seeds.len() as u64);
    let watch = clock::Watch::start();
    let mut tally = table::Tally::default();
    let mut failed: Option<(Report, String)> = None;
    let jobs = args.jobs.unwrap_or_else(clock::processors).clamp(1, 64);
    let mut code = 0;
    // Rounds keep the order of what is printed, and bound what is in memory.
    for round in seeds.chunks(jobs * 32) {
        if args.within.is_some_and(|within| watch.wall() >= within) {
            break;
        }
        for (seed, (report, text)) in round.iter().zip(parallel(round, jobs, make)?) {
            progress.inc(1);
            tally.add(&report);
            code = code.max(report.verdict.exit_code());
            if args.json {
                println!("{}", report.json());
            }
            if report.verdict != Verdict::Clean && failed.is_none() {
                debug_assert_eq!(*seed, report.seed, "reports come in the order of their seeds");
                failed = Some((report, text));
                if args.first {
                    break;
                }
            }
        }
        if failed.is_some() && args.first {
            break;
        }
    }
    progress.finish_and_clear();
    if !args.json {
        print!("{}", tally.table(name, &watch));
    }
    if let Some((report, text)) = failed {
        let file = failure::keep(&args.out, &report, &text)?;
        if !args.json {
            println!("\n{}: {}", report.verdict.name(), report.verdict.what());
            println!("to repeat it:\ncargo xtask sim repro {}", file.display());
        }
    }
    Ok(code)
}

fn parallel(seeds: &[u64], jobs: usize, make: &Make<'_>) -> Result<Vec<(Report, String)>, Stop> {
    let one = |seed: u64| -> Result<(Report, String), Stop> {
        let (scenario, text) = make(seed)?;
        Ok((sim::run(&scenario, seed), text))
    };
    if jobs == 1 || seeds.len() == 1 {
        return seeds.iter().map(|seed| one(*seed)).collect();
    }
    let mut results: Vec<Option<Result<(Report, String), Stop>>> = Vec::new();
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

/// Runs each seed here and in a fresh process, and compares the hashes.
fn check(run: &RunArgs) -> Result<u8, Stop> {
    let names: Vec<String> = match run.scenarios.as_slice() {
        [] => vec![SHOWCASE.to_owned()],
        names => names.to_vec(),
    };
    let this = std::env::current_exe()
        .map_err(|error| Stop::infrastructure(miette::miette!("where am I? {error}")))?;
    for name in names {
        let source = read(&name)?;
        for seed in run.seeds.seeds(source.scenario.seed) {
            println!("{name}: seed {seed}");
            let here = format!("{:032x}", sim::run(&source.scenario, seed).hash);
            let seed_text = seed.to_string();
            let output = std::process::Command::new(&this)
                .args([name.as_str(), "--seed", &seed_text, "--json"])
                .output()
                .map_err(|error| Stop::infrastructure(miette::miette!("no process: {error}")))?;
            let line = String::from_utf8_lossy(&output.stdout);
            let there = line.split("\"hash\":\"").nth(1).and_then(|rest| rest.split('"').next());
            if there != Some(here.as_str()) {
                println!("not deterministic: {here} here, {} there", there.unwrap_or("nothing"));
                println!("to repeat it:\ncargo xtask sim check {name} --seed {seed}");
                return Ok(NOT_DETERMINISTIC);
            }
            println!("{here} in both processes");
        }
    }
    Ok(0)
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

fn bench() -> Result<u8, Stop> {
    let scenario = bench_scenario()?;
    println!(
        "600 nodes, 10,000 transactions of 8 participants, 20 coordinator crashes, every judge on"
    );
    let mut rates = Vec::new();
    for seed in 1..=5 {
        let watch = clock::Watch::start();
        let report = sim::run(&scenario, seed);
        let cpu = watch.cpu();
        let rate = report.counters.delivered as f64 / cpu.as_secs_f64() / 1e6;
        println!(
            "seed {seed}: {} messages, {} events, {:.2} s of processor time: {rate:.2} M messages/s, {}",
            report.counters.delivered,
            report.counters.events,
            cpu.as_secs_f64(),
            report.verdict.name()
        );
        rates.push(rate);
    }
    rates.sort_by(f64::total_cmp);
    println!("median: {:.2} M delivered messages per second of processor time", rates[2]);
    Ok(0)
}
