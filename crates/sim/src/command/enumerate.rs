//! `sim enumerate`: every crash point of a scenario, with every outcome.

use crate::clock::{Watch, processors};
use crate::terminal::{Output, say};
use crate::{EXIT_CODES, FOLDER, Stop, failure, files, folder, parse_seed, parse_time, read};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sim::enumerate::{Breadth, Enumeration, Matrix, OUTCOMES};
use sim::{Report, Scenario, Verdict};
use std::fmt::Write;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

/// What `enumerate` is told.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct EnumerateArgs {
    /// Scenario files, or names of files in sim-scenarios/ [default: all of
    /// sim-scenarios/enumerate/]
    scenarios: Vec<String>,
    /// Another seed than the scenario's
    #[arg(long, value_parser = parse_seed)]
    seed: Option<u64>,
    /// 1: crash once; 2: and again at each point of the way back
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    depth: u8,
    /// Cut what is unsynced at so many bytes at most, spread evenly
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..))]
    cuts: u64,
    /// Crash first at every so-manieth point only
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// How long a node is down
    #[arg(long, default_value = "5ms", value_parser = parse_time)]
    down: Duration,
    /// How many points to try at once, 1 to 64 [default: one per processor]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: Option<u8>,
    /// Stop soon after the first run that fails
    #[arg(long)]
    first: bool,
    /// One line of JSON per scenario, on standard output
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// A page of Markdown, on standard output
    #[arg(long)]
    markdown: bool,
    /// Where failure files go
    #[arg(long, default_value = "out")]
    out: PathBuf,
}

/// A scenario in which a fault may wait for an operation's last step: see `liveness.heals`.
fn at_rest(name: &str, text: &str) -> Result<(Scenario, String), Stop> {
    let parse = |text: &str| Scenario::parse(name, text).map_err(Stop::usage);
    let scenario = parse(text)?;
    if scenario.liveness.heals == sim::Heals::Rest {
        return Ok((scenario, text.to_owned()));
    }
    let why = |error: String| Stop::infrastructure(miette::miette!("{name}: {error}"));
    let mut table: toml::Table = text.parse().map_err(|e: toml::de::Error| why(e.to_string()))?;
    let liveness = table.entry("liveness").or_insert_with(|| toml::Table::new().into());
    if let Some(liveness) = liveness.as_table_mut() {
        liveness.insert("heals".into(), "rest".into());
    }
    let text = table.to_string();
    Ok((parse(&text)?, text))
}

/// Enumerates, and says what came of it.
pub fn main(args: &EnumerateArgs, out: &mut Output) -> Result<u8, Stop> {
    let mut names = args.scenarios.clone();
    if names.is_empty() {
        let folder = folder().join("enumerate");
        names = files(&folder).iter().map(|path| path.display().to_string()).collect();
        if names.is_empty() {
            let help = format!("name a scenario; {FOLDER}/enumerate has those that go without");
            let folder = folder.display();
            return Err(Stop::usage(miette::miette!(help = help, "no scenario in {folder}")));
        }
    }
    let watch = Watch::start();
    let (mut all, mut code, mut repeat) = (Matrix::default(), 0, None);
    for name in &names {
        let source = read(name)?;
        let (scenario, text) = at_rest(name, &source.text)?;
        let seed = args.seed.unwrap_or(scenario.seed);
        let matrix = one(args, &scenario, seed, out);
        if let Some(report) = &matrix.failure {
            code = code.max(report.verdict.exit_code());
            if repeat.is_none() {
                let report = Report::clone(report);
                repeat = Some(failure::keep(&args.out, report, text)?);
            }
        }
        if args.json {
            out.line(format_args!("{}", as_json(&scenario.name, seed, &matrix)));
        }
        all.add(matrix);
        if code > 0 && args.first || out.is_closed() {
            break;
        }
    }
    if args.markdown {
        out.write(format_args!("{}", page(args, &all)));
    } else if !args.json {
        out.write(format_args!("{}\n{}", all.markdown(), unreached(&all)));
        out.write(format_args!("{}", totals(&all)));
        let seconds = watch.wall().as_secs_f64();
        let rate = all.runs as f64 / seconds.max(1e-9);
        out.line(format_args!("in {seconds:.1} s: {rate:.0} runs per second"));
    }
    if let Some(failure::Kept { file, report, .. }) = repeat {
        let (verdict, what) = (report.verdict.name(), report.verdict.what());
        let repeat = failure::command(&file);
        if args.json || args.markdown {
            say(format_args!("{verdict}: {what}\nto repeat it:\n{repeat}"));
        } else {
            out.line(format_args!("\n{verdict}: {what}\n\nto repeat it:\n{repeat}"));
        }
    }
    Ok(code)
}

fn one(args: &EnumerateArgs, scenario: &Scenario, seed: u64, out: &mut Output) -> Matrix {
    let breadth =
        Breadth { depth: args.depth, cuts_max: args.cuts, every: args.every, down: args.down };
    let quiet = args.json || args.markdown;
    let name = &scenario.name;
    let enumeration = match Enumeration::new(scenario, seed, breadth) {
        Ok(enumeration) => enumeration,
        Err(report) => {
            // There is nothing to enumerate in a run that fails by itself.
            let signature = report.verdict.signature().to_owned();
            let mut matrix = Matrix { scenarios: vec![name.clone()], ..Matrix::default() };
            matrix.failed.insert(signature, 1);
            matrix.failure = Some(report);
            return matrix;
        }
    };
    let points = enumeration.points();
    if !quiet {
        out.line(format_args!("{name}: seed {seed}, {points} points, depth {}", args.depth));
    }
    let bar = progress(points as u64);
    let jobs = args.jobs.map_or_else(processors, usize::from);
    let matrix = enumeration.run(jobs, args.first, &|_| bar.inc(1));
    bar.finish_and_clear();
    matrix
}

fn progress(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{pos}/{len} points  {elapsed}  {wide_bar}  {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn totals(all: &Matrix) -> String {
    let failed: u64 = all.failed.values().sum();
    let rules: Vec<String> = all.failed.iter().map(|(rule, n)| format!("{n} by {rule}")).collect();
    let rules = if rules.is_empty() { String::new() } else { format!(" ({})", rules.join(", ")) };
    let stuck = all.failed.get(Verdict::NoProgress(String::new()).signature()).unwrap_or(&0);
    format!(
        "crash points  {} runs: {} points of the runs without crashes, {} on the way back\n\
         crashes       {}, {} restarts\n\
         misclassified {}\n\
         unfinished    {stuck}\n\
         failed        {failed}{rules}\n\
         run hash      {:032x} (the sum)\n",
        all.runs,
        all.first_points,
        all.second_points,
        all.crashes,
        all.restarts,
        all.misclassified(),
        all.hash
    )
}

fn unreached(all: &Matrix) -> String {
    let lines = all.unreached();
    let list: String = lines.iter().map(|line| format!("- {line}\n")).collect();
    format!("unreached, {} lines:\n{list}\n", lines.len())
}

/// What `--markdown` prints. It names no time and no place, so that the same code prints the same.
fn page(args: &EnumerateArgs, all: &Matrix) -> String {
    let shown: Vec<String> = all.scenarios.iter().map(|name| format!("`{name}`")).collect();
    let mut command = "cargo xtask sim enumerate --markdown".to_owned();
    if args.depth != 1 {
        let _ = write!(command, " --depth {}", args.depth);
    }
    for name in &args.scenarios {
        let _ = write!(command, " {}", failure::quoted(name));
    }
    format!(
        "# Every crash point of {}\n\n\
         Made by `{command}`.\n\n\
         A row is a kind of step before which a node's power failed, in the state that its machine was \
         in; a number is how many runs did that with this outcome for what was unsynced. Where nothing \
         was unsynced the four outcomes are the same, and one run stands for them. In the tables of \
         second crashes the node was on its way back from a first one.\n\n\
         ```text\n{}```\n\n{}## Unreached\n\n{}",
        shown.join(", "),
        totals(all),
        all.markdown().replace("### ", "## "),
        all.unreached().iter().map(|line| format!("- {line}\n")).collect::<String>()
    )
}

fn as_json(name: &str, seed: u64, matrix: &Matrix) -> Value {
    let cells: Vec<Value> = matrix
        .cells
        .iter()
        .flat_map(|((depth, role, doing, state), outcomes)| {
            OUTCOMES.iter().filter_map(move |outcome| {
                let cell = outcomes.get(outcome)?;
                Some(json!({
                    "crash": depth,
                    "role": role.name(),
                    "before": doing.name(),
                    "state": state,
                    "unsynced": outcome,
                    "runs": cell.runs,
                    "failed": cell.failed,
                    "found": cell.found,
                }))
            })
        })
        .collect();
    json!({
        "scenario": name,
        "seed": seed,
        "runs": matrix.runs,
        "first_points": matrix.first_points,
        "second_points": matrix.second_points,
        "crashes": matrix.crashes,
        "restarts": matrix.restarts,
        "misclassified": matrix.misclassified(),
        "failed": matrix.failed,
        "hash": format!("{:032x}", matrix.hash),
        "cells": cells,
        "unreached": matrix.unreached(),
    })
}
