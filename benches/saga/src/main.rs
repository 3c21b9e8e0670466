//! `cargo xtask bench saga`: sagas and transactions, durable, beside steno and beside what the disk
//! allows.
//!
//! | module | what |
//! |---|---|
//! | `shape` | what is run, how many at once, for how long |
//! | `ours` | Trinity's coordinator on real files |
//! | `ceiling` | as many bytes and syncs as the protocol needs, and nothing else |
//! | `peer` | steno, with a store that syncs every event, and with group commit |

mod ceiling;
mod ours;
mod peer;
mod shape;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use peer::Syncs;
use serde::Serialize;
use shape::{Load, Sample, Shape};

pub type Trouble = Box<dyn std::error::Error + Send + Sync>;

const EXIT_CODES: &str = "\
Exit codes:
  0  measured, whether the bars are met or not
  1  an operation failed, or the disk
  4  usage";

const FAILED: u8 = 1;
const USAGE: u8 = 4;

/// Measures sagas and transactions beside steno, and beside what the disk allows.
#[derive(Parser)]
#[command(name = "saga-bench", bin_name = "cargo xtask bench saga", after_help = EXIT_CODES)]
struct Options {
    /// Two repetitions of half a second in place of five of two.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object in place of tables.
    #[arg(long)]
    json: bool,
    /// Measure these shapes only.
    #[arg(long, value_name = "SHAPE", value_delimiter = ',', num_args = 1..)]
    only: Vec<Shape>,
    /// Where the logs are put, in a fresh folder that is removed afterwards; on a real disk
    /// [default: beside this program, in the target folder].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum System {
    Ours,
    Ceiling,
    StenoEachEvent,
    StenoGroups,
}

const SYSTEMS: [System; 4] =
    [System::Ours, System::Ceiling, System::StenoEachEvent, System::StenoGroups];

impl System {
    fn title(self) -> &'static str {
        match self {
            System::Ours => "Trinity's coordinator",
            System::Ceiling => "ceiling: as many bytes and forces",
            System::StenoEachEvent => "steno, fdatasync per event",
            System::StenoGroups => "steno, group commit",
        }
    }

    fn runs(self, shape: Shape) -> bool {
        shape != Shape::Decision || matches!(self, System::Ours | System::Ceiling)
    }
}

/// A system's repetitions in one row.
#[derive(Debug, Serialize)]
struct Cell {
    system: System,
    samples: Vec<Sample>,
}

/// A shape with so many in flight.
#[derive(Debug, Serialize)]
struct Row {
    shape: Shape,
    in_flight: usize,
    cells: Vec<Cell>,
    bars: Vec<Bar>,
}

/// What ours has to reach.
#[derive(Debug, Serialize)]
struct Bar {
    what: String,
    wanted: f64,
    measured: f64,
    met: bool,
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
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("saga-bench: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(options: &Options) -> Result<(), Trouble> {
    let beneath = match &options.dir {
        Some(dir) => dir.clone(),
        None => std::env::current_exe()?.parent().ok_or("this program is in no folder")?.to_owned(),
    };
    let place = tempfile::Builder::new().prefix("saga-bench-").tempdir_in(beneath)?;
    let (repetitions, counted) = if options.quick { (2, 500) } else { (5, 2_000) };
    if !options.json {
        println!(
            "saga-bench: {repetitions} interleaved repetitions of {counted} ms; figures are medians. \
             Machines are shared\nand noisy: only ratios within this run count."
        );
    }
    let mut rows = Vec::new();
    for shape in Shape::ALL {
        if !options.only.is_empty() && !options.only.contains(&shape) {
            continue;
        }
        for in_flight in [1, 16, 64] {
            let load = Load {
                in_flight,
                warm_up: Duration::from_millis(counted / 4),
                counted: Duration::from_millis(counted),
            };
            let row = measure(place.path(), shape, &load, repetitions)?;
            if !options.json {
                print(&row);
            }
            rows.push(row);
        }
    }
    if options.json {
        println!("{}", serde_json::to_string(&rows)?);
    }
    Ok(())
}

fn measure(place: &Path, shape: Shape, load: &Load, repetitions: u32) -> Result<Row, Trouble> {
    let mut cells: Vec<Cell> = SYSTEMS
        .into_iter()
        .filter(|system| system.runs(shape))
        .map(|system| Cell { system, samples: Vec::new() })
        .collect();
    let terminal = std::io::stderr().is_terminal();
    // The ceiling writes as many bytes as ours, which is measured before it.
    let mut bytes = 0.0;
    for repetition in 1..=repetitions {
        for cell in &mut cells {
            if terminal {
                let in_flight = load.in_flight;
                eprint!(
                    "\r\x1b[2K{shape:?}, {in_flight} in flight, repetition {repetition}: {:?}",
                    cell.system
                );
            }
            let fresh = tempfile::tempdir_in(place)?;
            let sample = match cell.system {
                System::Ours => ours::measure(fresh.path(), shape, load)?,
                System::Ceiling => ceiling::measure(fresh.path(), shape, load, bytes)?,
                System::StenoEachEvent => {
                    peer::measure(fresh.path(), shape, load, Syncs::EachEvent)?
                }
                System::StenoGroups => peer::measure(fresh.path(), shape, load, Syncs::Groups)?,
            };
            if cell.system == System::Ours {
                bytes = sample.bytes_per_operation;
            }
            cell.samples.push(sample);
        }
    }
    if terminal {
        eprint!("\r\x1b[2K");
    }
    let bars = bars(shape, load.in_flight, &cells);
    Ok(Row { shape, in_flight: load.in_flight, cells, bars })
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

/// The bars hold with 64 in flight; ratios are medians of the ratios within each repetition. With one
/// in flight nothing shares a force, so that their number can be read off.
fn bars(shape: Shape, in_flight: usize, cells: &[Cell]) -> Vec<Bar> {
    let of = |system: System| cells.iter().find(|cell| cell.system == system);
    let Some(ours) = of(System::Ours) else { return Vec::new() };
    let times = |what: &str, wanted: f64, system: System| {
        let peer = of(system)?;
        let pairs = ours.samples.iter().zip(&peer.samples);
        let measured = median(pairs.map(|(ours, peer)| ours.per_second / peer.per_second));
        Some(Bar { what: what.to_owned(), wanted, measured, met: measured >= wanted })
    };
    match (in_flight, shape) {
        (1, _) => {
            let wanted = f64::from(shape.forces());
            let measured = median(ours.samples.iter().map(|sample| sample.syncs_per_operation));
            let met = (measured - wanted).abs() < 0.05;
            vec![Bar { what: "forces per operation, exactly".into(), wanted, measured, met }]
        }
        (64, Shape::Linear) => [
            times("times the ceiling", 0.5, System::Ceiling),
            times("times steno with group commit", 2.5, System::StenoGroups),
        ]
        .into_iter()
        .flatten()
        .collect(),
        (64, Shape::Wide) => times("times the ceiling", 0.5, System::Ceiling).into_iter().collect(),
        (64, Shape::Decision) => {
            times("times the ceiling", 0.4, System::Ceiling).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn print(row: &Row) {
    println!("\n{}, {} in flight\n", row.shape.title(), row.in_flight);
    println!("  {:35} {:>12} {:>10} {:>10}", "", "operations/s", "syncs/op", "bytes/op");
    for cell in &row.cells {
        let of = |figure: fn(&Sample) -> f64| median(cell.samples.iter().map(figure));
        println!(
            "  {:35} {:>12.0} {:>10.2} {:>10.0}",
            cell.system.title(),
            of(|sample| sample.per_second),
            of(|sample| sample.syncs_per_operation),
            of(|sample| sample.bytes_per_operation)
        );
    }
    for bar in &row.bars {
        let verdict = if bar.met { "met" } else { "NOT MET" };
        println!(
            "  bar: {:>5} {:35} measured {:>7.2}  {verdict}",
            bar.wanted, bar.what, bar.measured
        );
    }
}
