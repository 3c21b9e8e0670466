//! Failure files: a scenario with its seed, its plan in so many words, and what went wrong.

use crate::terminal::Output;
use crate::{INFRASTRUCTURE, Stop, USAGE, read_text};
use sim::{FaultEntry, Repeats, Report, Scenario, Verdict};
use std::path::{Path, PathBuf};

/// Writes the failure to a file in `folder`, whole or not at all.
pub fn keep(folder: &Path, report: &Report, text: &str) -> Result<PathBuf, Stop> {
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
    // A comment ends with its line, and TOML allows no control characters in one.
    let what = report.verdict.what().replace(char::is_control, " ");
    let body = format!("# {what}\n{table}");
    let path = folder.join(format!("{}-{}.toml", report.scenario, report.seed));
    let written = std::fs::create_dir_all(folder).and_then(|()| {
        let draft = path.with_extension("part");
        std::fs::write(&draft, body)?;
        std::fs::rename(&draft, &path)
    });
    written.map_err(|error| {
        let (seed, scenario) = (report.seed, &report.scenario);
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

/// Runs a failure file. 1 if it fails as it did (2 if that was for lack of progress), 0 if it runs
/// clean, 4 if it fails otherwise.
pub fn repro(file: &Path, json: bool, out: &mut Output) -> Result<u8, Stop> {
    let name = file.display().to_string();
    let text = read_text(file)?;
    let scenario = Scenario::parse(&name, &text).map_err(Stop::usage)?;
    let Some(repeats) = scenario.repeats.clone() else {
        let help = format!("run it with `cargo xtask sim {}`", quoted(&name));
        return Err(Stop::usage(miette::miette!(
            help = help,
            "{name} repeats no failure: it has no [repeats] table"
        )));
    };
    if repeats.derivation != base::prng::DERIVATION_VERSION {
        return Err(Stop::usage(miette::miette!(
            help = "repeat it with the build that wrote it, or look for it anew with this one",
            "{name} was made with version {} of the randomness, this build has version {}: its seed \
             means another run here",
            repeats.derivation,
            base::prng::DERIVATION_VERSION
        )));
    }
    if !json {
        out.line(format_args!("{name}: seed {}", scenario.seed));
    }
    let report = sim::run(&scenario, scenario.seed);
    let verdict = &report.verdict;
    let fails_as_it_did = verdict.is_of(&repeats.invariant);
    if json {
        let mut line = report.json();
        line["fails_as_it_did"] = fails_as_it_did.into();
        out.line(format_args!("{line}"));
    } else {
        if *verdict != Verdict::Clean {
            out.line(format_args!("{}: {}", verdict.name(), verdict.what()));
        }
        out.line(format_args!("run hash {:032x}", report.hash));
        let invariant = &repeats.invariant;
        if *verdict == Verdict::Clean {
            out.line(format_args!("it runs clean: {invariant} does not come up any more"));
        } else if fails_as_it_did {
            out.line(format_args!("it fails as it did"));
        } else {
            out.line(format_args!("another failure than in the file, which has {invariant}"));
        }
    }
    if *verdict != Verdict::Clean && !fails_as_it_did {
        return Ok(USAGE);
    }
    let code = verdict.exit_code();
    assert!(code != INFRASTRUCTURE, "a verdict has an exit code of its own");
    Ok(code)
}
