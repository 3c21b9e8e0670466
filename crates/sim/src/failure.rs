//! Failure files: a scenario with its seed, its plan in so many words, and what went wrong.

use crate::{INFRASTRUCTURE, Stop, USAGE};
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
    let body = format!("# {}\n{table}", report.verdict.what().replace('\n', " "));
    let path = folder.join(format!("{}-{}.toml", report.scenario, report.seed));
    let written = std::fs::create_dir_all(folder).and_then(|()| {
        let draft = path.with_extension("part");
        std::fs::write(&draft, body)?;
        std::fs::rename(&draft, &path)
    });
    written.map_err(|error| stop(format!("cannot write {}: {error}", path.display())))?;
    Ok(path)
}

/// The entries that were drawn and never struck.
fn idle(report: &Report) -> Vec<u32> {
    let drawn = report.never_struck.iter().filter(|(_, fault)| !fault.named);
    drawn.map(|(number, _)| *number).collect()
}

/// Runs a failure file. 1 if it fails as it did (2 if that was for lack of progress), 0 if it runs
/// clean, 4 if it fails otherwise.
pub fn repro(file: &Path, json: bool) -> Result<u8, Stop> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Stop::usage(miette::miette!("cannot read {name}: {error}")))?;
    let scenario = Scenario::parse(&name, &text).map_err(Stop::usage)?;
    let Some(repeats) = scenario.repeats.clone() else {
        return Err(Stop::usage(miette::miette!(
            help = "run it with `cargo xtask sim FILE`",
            "{name} repeats no failure: it has no [repeats] table"
        )));
    };
    if repeats.derivation != base::prng::DERIVATION_VERSION {
        return Err(Stop::usage(miette::miette!(
            "{name} was made with version {} of the randomness, this build has version {}: its seed \
             means another run here",
            repeats.derivation,
            base::prng::DERIVATION_VERSION
        )));
    }
    println!("{name}: seed {}", scenario.seed);
    let report = sim::run(&scenario, scenario.seed);
    if json {
        println!("{}", report.json());
    } else if report.verdict != Verdict::Clean {
        println!("{}: {}", report.verdict.name(), report.verdict.what());
    }
    println!("run hash {:032x}", report.hash);
    if report.verdict == Verdict::Clean {
        println!("it runs clean: {} does not come up any more", repeats.invariant);
        return Ok(0);
    }
    if report.verdict.signature() != repeats.invariant {
        println!("another failure than in the file, which has {}", repeats.invariant);
        return Ok(USAGE);
    }
    let code = report.verdict.exit_code();
    assert!(code != 0 && code != INFRASTRUCTURE, "a failure has an exit code of its own");
    println!("it fails as it did");
    Ok(code)
}
