//! `cargo xtask bench sim`: Trinity's simulator measured beside others, and beside event loops written
//! by hand with nothing in them but what a loop cannot do without.
//!
//! | module | what |
//! |---|---|
//! | `protocol` | what the peers simulate: two-phase commit in memory |
//! | `bare`, `paused`, `mad` | a loop written by hand; tokio on paused time; madsim |
//! | `ours` | Trinity's worlds |
//! | `measure` | one measurement, in a process of its own |

mod bare;
mod mad;
mod measure;
mod ours;
mod paused;
mod protocol;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use measure::{Row, Sample, System};
use serde::Serialize;

// As in the command `sim`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXIT_CODES: &str = "\
Exit codes:
  0  measured, whether the bars are met or not
  1  a world failed
  4  usage";

const FAILED: u8 = 1;
const USAGE: u8 = 4;

/// Measures Trinity's simulator beside others.
#[derive(Parser)]
#[command(name = "sim-bench", bin_name = "cargo xtask bench sim", after_help = EXIT_CODES)]
struct Options {
    /// Two repetitions in place of five.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object in place of tables.
    #[arg(long)]
    json: bool,
    /// Measure these rows only.
    #[arg(long, value_name = "ROW", value_delimiter = ',', num_args = 1..)]
    only: Vec<Row>,
    /// The first repetition's seed; each has one of its own.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Measures one system once: what this program starts itself for.
    #[arg(long, hide = true, num_args = 2, value_names = ["SYSTEM", "ROW"])]
    child: Vec<String>,
}

/// A system's medians in a row.
#[derive(Debug, Serialize)]
struct Cell {
    system: System,
    messages: u64,
    messages_per_cpu_second: f64,
    worlds_per_cpu_second: f64,
    ms_per_world: f64,
    peak_mib: f64,
}

/// What ours has to reach.
#[derive(Debug, Serialize)]
struct Bar {
    what: String,
    wanted: f64,
    measured: f64,
    met: bool,
}

#[derive(Debug, Serialize)]
struct Table {
    row: Row,
    cells: Vec<Cell>,
    bars: Vec<Bar>,
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // Where it cannot be told, the exit code tells.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if let [system, row] = options.child.as_slice() {
        let (Ok(system), Ok(row)) = (System::from_str(system, false), Row::from_str(row, false))
        else {
            return ExitCode::from(USAGE);
        };
        let sample = measure::here(system, row, options.seed);
        println!("{}", serde_json::to_string(&sample).expect("numbers are JSON"));
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sim-bench: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let repetitions = if options.quick { 2 } else { 5 };
    if !options.json {
        println!(
            "sim-bench: {repetitions} interleaved repetitions, each in a process of its own; figures \
             are medians.\nMachines are shared and noisy: only ratios within this run count."
        );
    }
    let mut tables = Vec::new();
    for row in Row::ALL {
        if !options.only.is_empty() && !options.only.contains(&row) {
            continue;
        }
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); System::ALL.len()];
        for repetition in 0..repetitions {
            for (system, samples) in System::ALL.into_iter().zip(&mut samples) {
                if std::io::stderr().is_terminal() {
                    eprint!(
                        "\r\x1b[2K{row:?}, repetition {} of {repetitions}: {system:?}",
                        repetition + 1
                    );
                }
                let sample = measure::in_a_child(system, row, options.seed + repetition);
                samples.push(sample.map_err(|error| format!("{system:?}, {row:?}: {error}"))?);
            }
        }
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[2K");
        }
        let cells: Vec<Cell> =
            System::ALL.into_iter().zip(&samples).map(|(system, all)| cell(system, all)).collect();
        let table = Table { row, bars: bars(row, &cells, &samples), cells };
        if !options.json {
            print(&table);
        }
        tables.push(table);
    }
    if options.json {
        println!("{}", serde_json::to_string(&tables).expect("numbers and names are JSON"));
    }
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

fn rate(sample: &Sample) -> f64 {
    sample.messages as f64 / sample.cpu_seconds
}

fn cell(system: System, samples: &[Sample]) -> Cell {
    let worlds = |sample: &Sample| sample.worlds as f64 / sample.cpu_seconds;
    Cell {
        system,
        messages: samples.first().map_or(0, |sample| sample.messages / sample.worlds),
        messages_per_cpu_second: median(samples.iter().map(rate)),
        worlds_per_cpu_second: median(samples.iter().map(worlds)),
        ms_per_world: 1e3 / median(samples.iter().map(worlds)),
        peak_mib: median(samples.iter().map(|sample| sample.peak_mib)),
    }
}

/// The bars of a row; ratios are medians of the ratios within each repetition.
fn bars(row: Row, cells: &[Cell], samples: &[Vec<Sample>]) -> Vec<Bar> {
    let at = |system: System| System::ALL.iter().position(|&one| one == system).unwrap_or(0);
    let ours = &samples[at(System::Ours)];
    let times = |peer: System| {
        median(ours.iter().zip(&samples[at(peer)]).map(|(ours, peer)| rate(ours) / rate(peer)))
    };
    let least = |what: &str, wanted, measured| Bar {
        what: what.to_owned(),
        wanted,
        measured,
        met: measured >= wanted,
    };
    let most = |what: &str, wanted, measured| Bar {
        what: what.to_owned(),
        wanted,
        measured,
        met: measured <= wanted,
    };
    let cell = &cells[at(System::Ours)];
    match row {
        Row::Large => vec![
            least("million messages per CPU-second", 4.0, cell.messages_per_cpu_second / 1e6),
            least("times madsim", 10.0, times(System::Madsim)),
            least("times tokio on paused time", 2.5, times(System::TokioPaused)),
            most("MiB at most", 64.0, cell.peak_mib),
        ],
        Row::Start => vec![most("ms at most", 1.0, cell.ms_per_world)],
        Row::Tiny => vec![least("worlds per CPU-second", 100_000.0, cell.worlds_per_cpu_second)],
    }
}

fn print(table: &Table) {
    println!("\n{}\n", table.row.title());
    println!(
        "  {:47} {:>9} {:>11} {:>11} {:>9} {:>9}",
        "", "messages", "M/CPU-s", "worlds/s", "ms/world", "MiB"
    );
    for cell in &table.cells {
        println!(
            "  {:47} {:>9} {:>11.3} {:>11.1} {:>9.3} {:>9.1}",
            cell.system.title(),
            cell.messages,
            cell.messages_per_cpu_second / 1e6,
            cell.worlds_per_cpu_second,
            cell.ms_per_world,
            cell.peak_mib
        );
    }
    println!();
    for bar in &table.bars {
        let verdict = if bar.met { "met" } else { "NOT MET" };
        println!(
            "  bar: {:>9} {:33} measured {:>9.3}  {verdict}",
            bar.wanted, bar.what, bar.measured
        );
    }
}
