//! `sim golden`: whether the runs of a few scenarios and seeds are what they were when their hashes were
//! written down.

use crate::terminal::{Output, say};
use crate::{Stop, folder, read_text};
use clap::Args;
use sim::{Scenario, storage};
use std::path::{Path, PathBuf};

/// The table, in the folder of scenarios.
const TABLE: &str = "golden.txt";

const HEAD: &str = "\
# Runs, by scenario and seed, and their hashes. `cargo xtask sim golden` compares them, and so does a test of
# the simulator. A line that differs without need is a run that has changed by accident: look for what the
# change has to do with it. If it was meant, `cargo xtask sim golden --write` makes the table anew, and the
# commit says why runs are others now.
";

#[derive(Args)]
pub struct GoldenArgs {
    /// Make the table anew
    #[arg(long)]
    write: bool,
}

/// One line of the table.
struct Run {
    name: String,
    seed: u64,
    hash: String,
}

fn parse(line: &str) -> Option<Run> {
    let mut words = line.split_whitespace();
    let (name, seed) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    let hash = words.next().unwrap_or("-").to_owned();
    words.next().is_none().then_some(Run { name, seed, hash })
}

/// The hash of a run: of a file's scenario, or of a random small world.
fn hash(folder: &Path, name: &str, seed: u64) -> Result<u128, Stop> {
    let text = match name {
        "random" => sim::small(seed),
        "storage" => storage::small(seed),
        "hostile-storage" => storage::hostile(seed),
        file => read_text(&folder.join(file))?,
    };
    if storage::Scenario::is_one(&text) {
        let scenario = storage::Scenario::parse(&text)
            .map_err(|error| Stop::usage(miette::miette!("{name}: {error}")))?;
        return Ok(storage::run(&scenario, seed).hash);
    }
    let scenario = Scenario::parse(name, &text).map_err(Stop::usage)?;
    Ok(sim::run(&scenario, seed).hash)
}

/// Compares the table, or makes it anew.
pub fn main(args: &GoldenArgs, out: &mut Output) -> Result<u8, Stop> {
    let folder = folder();
    let path: PathBuf = folder.join(TABLE);
    let text = read_text(&path)?;
    let (mut made, mut changed, mut runs) = (HEAD.to_owned(), 0u32, 0u32);
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some(run) = parse(line) else {
            let shown = path.display();
            return Err(Stop::usage(miette::miette!(
                help = "a line is a scenario, a seed and a hash",
                "{shown}:{number}: not a run"
            )));
        };
        let Run { name, seed, hash: before } = run;
        let now = format!("{:032x}", hash(&folder, &name, seed)?);
        runs += 1;
        if now != before {
            changed += 1;
            out.line(format_args!("{name} {seed}: {now}, and was {before}"));
        }
        made.push_str(&format!("{name} {seed} {now}\n"));
    }
    if args.write {
        std::fs::write(&path, made).map_err(|error| {
            Stop::infrastructure(miette::miette!("cannot write {}: {error}", path.display()))
        })?;
        out.line(format_args!("{}: {runs} runs, {changed} of them others now", path.display()));
        return Ok(0);
    }
    if changed > 0 {
        say(format_args!(
            "{changed} of {runs} runs are not what they were. If that was not meant, the change has an \
             effect that it should not have. If it was: `cargo xtask sim golden --write`, and say in the \
             commit why."
        ));
        return Ok(1);
    }
    out.line(format_args!("{runs} runs are what they were"));
    Ok(u8::from(runs == 0))
}
