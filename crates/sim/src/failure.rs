//! Failure files: a scenario with its seed, its plan in so many words, and what went wrong.

use crate::terminal::Output;
use crate::{Stop, command};
use sim::{FaultEntry, Repeats, Report, Verdict, storage};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A failure that is in a file.
pub struct Kept<R> {
    /// The file.
    pub file: PathBuf,
    /// What came out of the run.
    pub report: R,
    /// The scenario's text.
    pub text: String,
}

/// A failure of either kind of world.
pub enum Failed {
    /// Of coordinators and participants.
    Coordinators(Kept<Report>),
    /// Of storage nodes.
    Storage(Kept<storage::Report>),
}

impl Failed {
    /// The file.
    pub fn file(&self) -> &Path {
        match self {
            Failed::Coordinators(kept) => &kept.file,
            Failed::Storage(kept) => &kept.file,
        }
    }

    /// Shrinks it, and says what is left. The file to repeat.
    pub fn shrink(self, within: Duration, json: bool, out: &mut Output) -> Result<PathBuf, Stop> {
        match self {
            Failed::Coordinators(kept) => command::shrink::automatically::<
                command::shrink::Coordinators,
            >(kept, within, json, out),
            Failed::Storage(kept) => {
                command::shrink::automatically::<command::storage::Storage>(kept, within, json, out)
            }
        }
    }
}

/// Writes the failure to a file in `folder`, whole or not at all.
pub fn keep(folder: &Path, report: Report, text: String) -> Result<Kept<Report>, Stop> {
    let file = keep_as(folder, "", &report, &text)?;
    Ok(Kept { file, report, text })
}

/// The same of a world of storage nodes.
pub fn keep_storage(folder: &Path, report: storage::Report, text: String) -> Result<Failed, Stop> {
    let file = keep_storage_as(folder, "", &report, &text)?;
    Ok(Failed::Storage(Kept { file, report, text }))
}

/// The same, the file's name ending in `kind`.
pub fn keep_as(folder: &Path, kind: &str, report: &Report, text: &str) -> Result<PathBuf, Stop> {
    let stop = |what: String| Stop::infrastructure(miette::miette!("{what}"));
    let mut table: toml::Table =
        text.parse().map_err(|error| stop(format!("a scenario that was read is none: {error}")))?;
    table.remove("chaos");
    table.insert(
        "seed".into(),
        toml::Value::try_from(report.seed).map_err(|e| stop(e.to_string()))?,
    );
    let faults: Vec<FaultEntry> = report.plan.faults.iter().map(FaultEntry::of).collect();
    let faults = toml::Value::try_from(faults).map_err(|error| stop(error.to_string()))?;
    table.insert("fault".into(), faults);
    let event = match &report.verdict {
        Verdict::Violation(violation) => violation.at.event,
        _ => report.counters.events,
    };
    let repeats = Repeats {
        derivation: base::prng::DERIVATION_VERSION,
        invariant: report.verdict.signature().to_owned(),
        event,
        idle: idle(report),
    };
    let repeats = toml::Value::try_from(repeats).map_err(|error| stop(error.to_string()))?;
    table.insert("repeats".into(), repeats);
    write(folder, (&report.scenario, report.seed), kind, &report.verdict.what(), &table)
}

/// The same of a world of storage nodes.
pub fn keep_storage_as(
    folder: &Path,
    kind: &str,
    report: &storage::Report,
    text: &str,
) -> Result<PathBuf, Stop> {
    let stop = |what: String| Stop::infrastructure(miette::miette!("{what}"));
    let mut table: toml::Table =
        text.parse().map_err(|error| stop(format!("a scenario that was read is none: {error}")))?;
    let seed = i64::try_from(report.seed).map_err(|error| stop(error.to_string()))?;
    table.insert("seed".into(), toml::Value::Integer(seed));
    let repeats = Repeats {
        derivation: base::prng::DERIVATION_VERSION,
        invariant: report.rule().unwrap_or_default().to_owned(),
        event: report.totals.events,
        idle: Vec::new(),
    };
    let repeats = toml::Value::try_from(repeats).map_err(|error| stop(error.to_string()))?;
    table.insert("repeats".into(), repeats);
    write(folder, (&report.scenario, report.seed), kind, &report.what(), &table)
}

fn write(
    folder: &Path,
    (scenario, seed): (&str, u64),
    kind: &str,
    what: &str,
    table: &toml::Table,
) -> Result<PathBuf, Stop> {
    // A comment ends with its line, and TOML allows no control characters in one.
    let what = what.replace(char::is_control, " ");
    let body = format!("# {what}\n{table}");
    let path = folder.join(format!("{scenario}-{seed}{kind}.toml"));
    let written = std::fs::create_dir_all(folder).and_then(|()| {
        let draft = path.with_extension("part");
        std::fs::write(&draft, body)?;
        std::fs::rename(&draft, &path)
    });
    written.map_err(|error| {
        let help =
            format!("`--out DIR` puts failure files elsewhere; it was seed {seed} of {scenario}");
        Stop::infrastructure(miette::miette!(
            help = help,
            "cannot write {}: {error}",
            path.display()
        ))
    })?;
    Ok(path)
}

/// The entries that were drawn and never struck.
fn idle(report: &Report) -> Vec<u32> {
    let drawn = report.never_struck.iter().filter(|(_, fault)| !fault.named);
    drawn.map(|(number, _)| *number).collect()
}

/// The command that repeats a failure.
pub fn command(file: &Path) -> String {
    format!("cargo xtask sim repro {}", quoted(&file.display().to_string()))
}

/// A word of a command line, in quotes if a shell would not leave it as it is.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
