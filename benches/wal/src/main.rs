//! `cargo xtask bench wal`: wal-core measured beside other logs, and beside what the disk allows.
//!
//! | module | what |
//! |---|---|
//! | `log` | the faces that every log shows to the workloads |
//! | `ours` | wal-core behind them |
//! | `ceiling` | logs with nothing in them but what a log cannot do without |
//! | `peers` | other logs |
//! | `workload`, `replay` | what the logs are given to do |
//! | `rows` | what is measured against what |
//! | `bars` | what wal-core has to reach |
//! | `sample`, `report`, `plot` | figures, tables, a picture |
//! | `place`, `machine` | a fresh folder on a real disk; what else the machine is doing |

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

mod bars;
mod ceiling;
mod log;
mod machine;
mod ours;
mod peers;
mod place;
mod plot;
mod replay;
mod report;
mod rows;
mod sample;
mod workload;

use log::Trouble;
use place::Place;
use report::Report;
use rows::{Extent, NOT_BUILT, RowName};
use workload::Times;

const EXIT_CODES: &str = "\
Exit codes:
  0  measured, whether the bars are met or not
  1  wal-core itself failed
  4  usage
  5  infrastructure: no real disk, a file could not be written";

const FAILED: u8 = 1;
const USAGE: u8 = 4;
const INFRASTRUCTURE: u8 = 5;

/// Measures wal-core beside other logs, and beside what the disk allows.
#[derive(Parser)]
#[command(name = "wal-bench", bin_name = "cargo xtask bench wal", after_help = EXIT_CODES)]
struct Options {
    /// Half a second per cell in place of two, and a million records replayed in place of ten.
    #[arg(long)]
    quick: bool,
    /// Print one JSON object in place of tables.
    #[arg(long)]
    json: bool,
    /// Measure these rows only.
    #[arg(long, value_name = "ROW", value_delimiter = ',', num_args = 1..)]
    only: Vec<RowName>,
    /// How often each log is measured in each row.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    repetitions: u8,
    /// Where the logs are put, in a fresh folder that is removed afterwards; on a real disk
    /// [default: beside this program, in the target folder].
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Where the plot is put, as `bench-wal.svg`.
    #[arg(long, value_name = "FOLDER", default_value = "out")]
    out: PathBuf,
    /// Reads the log in --dir once: what this program starts itself for.
    #[arg(long, hide = true)]
    replay: Option<String>,
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
    let result = match (&options.replay, &options.dir) {
        (Some(name), Some(directory)) => replay::child(name, directory).map(|()| true),
        _ => run(&options),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => {
            eprintln!("wal-bench: {error}");
            ExitCode::from(INFRASTRUCTURE)
        }
    }
}

/// Returns whether wal-core did all that it was asked to.
fn run(options: &Options) -> Result<bool, Trouble> {
    let beneath = match &options.dir {
        Some(dir) => dir.clone(),
        None => std::env::current_exe()?.parent().ok_or("this program is in no folder")?.to_owned(),
    };
    let load = machine::load();
    let place = Place::new(&beneath)?;
    let extent = extent(options);
    let mut report = Report {
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        load,
        disk: place.disk.clone(),
        repetitions: extent.repetitions,
        seconds_per_cell: extent.times.counted.as_secs_f64(),
        replayed_records: extent.replayed,
        rows: Vec::new(),
        bars: Vec::new(),
    };
    let mut out = std::io::stdout().lock();
    if !options.json {
        write!(out, "{}", report.heading())?;
        out.flush()?;
    }
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |row: RowName, repetition: usize, system: &str| {
        if terminal {
            let row = name(row);
            let of = extent.repetitions;
            eprint!("\r\x1b[2K{row}, repetition {repetition} of {of}: {system}");
        }
    };
    for &row in RowName::ALL {
        if options.only.is_empty() || options.only.contains(&row) {
            report.rows.push(rows::measure(row, &place, extent, &mut progress));
        }
    }
    if terminal {
        eprint!("\r\x1b[2K");
    }
    drop(place);
    report.bars = bars::judge(&report.rows);

    std::fs::create_dir_all(&options.out)?;
    let picture = options.out.join("bench-wal.svg");
    std::fs::write(&picture, plot::svg(&report))?;
    if options.json {
        serde_json::to_writer(&mut out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{}\nplot: {}\n", report.table(), picture.display())?;
    }
    let failed = report.rows.iter().flat_map(|row| &row.left_out);
    let mut failed = failed.filter(|out| out.name.starts_with(ours::NAME) && out.why != NOT_BUILT);
    Ok(failed.next().is_none())
}

fn extent(options: &Options) -> Extent {
    let (warm, counted, replayed) =
        if options.quick { (150, 500, 1_000_000) } else { (300, 2_000, 10_000_000) };
    let times =
        Times { warm: Duration::from_millis(warm), counted: Duration::from_millis(counted) };
    Extent { repetitions: usize::from(options.repetitions), times, replayed }
}

/// The name by which `--only` knows a row.
fn name(row: RowName) -> String {
    row.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
