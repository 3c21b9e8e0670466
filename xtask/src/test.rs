//! `cargo xtask test`: everything that CI runs, one step after another, each with its own output.

use crate::run::{USAGE, build_sim, cargo};
use crate::{canary, edges, schedules};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// A step's name, and what it does; an error says what failed.
type Step = (&'static str, fn() -> Result<(), String>);

const STEPS: &[Step] = &[
    ("format", || passes(&mut cargo(&["fmt", "--all", "--check"]))),
    ("lints", || {
        passes(&mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "--deny",
            "warnings",
        ]))
    }),
    ("edges between crates", || {
        if edges::main() == ExitCode::SUCCESS { Ok(()) } else { Err("an arrow too many".into()) }
    }),
    ("unit, property, scenario and doc tests", || {
        passes(&mut cargo(&["test", "--workspace", "--no-fail-fast"]))
    }),
    ("the commit path under many schedules", || passes(&mut schedules::few())),
    ("the program for fuzzers", || {
        passes(&mut cargo(&["check", "--quiet", "--locked", "--manifest-path", "fuzz/Cargo.toml"]))
    }),
    ("documentation", || {
        let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
        passes(doc.env("RUSTDOCFLAGS", "--deny warnings"))
    }),
    ("what failed once, scenario files, and 10,000 random fault plans", scenarios),
    ("one hash in debug and optimised, and in a process elsewhere", hashes),
    ("a few planted bugs", || canary::few()),
];

/// `cargo xtask test`
pub fn main(arguments: &[String]) -> ExitCode {
    if let Some(argument) = arguments.first() {
        eprintln!("xtask test: takes no arguments, not {argument}");
        return ExitCode::from(USAGE);
    }
    // Built beside the steps that do not keep every processor busy. Whoever needs it waits for it, and says
    // what is wrong.
    #[expect(clippy::disallowed_methods, reason = "nothing here is to be repeated")]
    let ahead = std::thread::spawn(|| build_sim(OPTIMISED));
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        eprintln!("\n── {name}");
        // For people: no step is any different by it.
        #[expect(clippy::disallowed_methods)]
        let began = Instant::now();
        let outcome = step();
        let seconds = began.elapsed().as_secs();
        match outcome {
            Ok(()) => eprintln!("── {name}: {seconds} s"),
            Err(error) => {
                eprintln!("── {name}: FAILED after {seconds} s: {error}");
                failed.push(*name);
            }
        }
    }
    // It ended long ago, or its step failed.
    let _ = ahead.join();
    if failed.is_empty() {
        println!("\nall {} steps passed", STEPS.len());
        ExitCode::SUCCESS
    } else {
        println!("\nfailed: {}", failed.join(", "));
        ExitCode::FAILURE
    }
}

fn passes(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("cannot start: {error}"))?;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

/// The profile of what runs many worlds: as fast as a release but for an eighth, and built in half the time.
const OPTIMISED: &str = "optimised";

/// The storage scenario that takes minutes: the small one beside it shows the same.
const LONG: &str = "churn.toml";

fn scenarios() -> Result<(), String> {
    let sim = build_sim(OPTIMISED)?;
    // What failed once comes first.
    passes(Command::new(&sim).args(["corpus"]).current_dir(crate::run::root()))?;
    passes(Command::new(&sim).args(["all"]).current_dir(crate::run::root()))?;
    passes(Command::new(&sim).args(["random", "--seeds", "0..10000"]))?;
    let folder = crate::run::root().join("sim-scenarios/storage");
    let files = std::fs::read_dir(&folder).and_then(|entries| {
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<BTreeSet<_>>>()
    });
    let files = files.map_err(|error| format!("{}: {error}", folder.display()))?;
    for file in files.iter().filter(|file| !file.ends_with(LONG)) {
        passes(Command::new(&sim).arg(file))?;
    }
    passes(Command::new(&sim).args(["storage", "--seeds", "0..300"]))
}

/// What is run for its hashes: many seeds of a small world, and one of a large one.
const HASHED: [&[&str]; 2] = [
    &["sim-scenarios/dense-mixed-9.toml", "--seeds", "0..20"],
    &["sim-scenarios/coordinator-crashes.toml", "--seed", "1"],
];

/// Where a process runs that must not matter to a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Surroundings {
    /// The project's folder, and what is set there.
    Ours,
    /// Another folder, another time zone, other conventions.
    Foreign,
}

/// The simulator, printing hashes.
fn hashing(sim: &Path, arguments: &[&str], surroundings: Surroundings) -> Command {
    let root = crate::run::root();
    let (scenario, seeds) = arguments.split_first().expect("a scenario and its seeds");
    let mut run = Command::new(sim);
    run.arg(root.join(scenario)).args(seeds).arg("--json").arg("--out").arg(root.join("out"));
    match surroundings {
        Surroundings::Ours => run.current_dir(root),
        Surroundings::Foreign => run
            .current_dir(std::env::temp_dir())
            .env("TZ", "XYZ-13:30")
            .env("LC_ALL", "tr_TR.UTF-8")
            .env("LANG", "tr_TR.UTF-8"),
    };
    run
}

fn hashes() -> Result<(), String> {
    let hashes = |profile: &str, surroundings| -> Result<String, String> {
        let sim = build_sim(profile)?;
        let mut all = Vec::new();
        for arguments in HASHED {
            let run = hashing(&sim, arguments, surroundings)
                .output()
                .map_err(|error| format!("cannot start the simulator: {error}"))?;
            if !run.status.success() {
                let told = String::from_utf8_lossy(&run.stderr);
                return Err(format!("the {profile} build: {}: {told}", run.status));
            }
            let text = String::from_utf8_lossy(&run.stdout);
            let found = text.split("\"hash\":\"").skip(1).filter_map(|s| s.split('"').next());
            let before = all.len();
            all.extend(found.map(str::to_owned));
            if all.len() == before {
                return Err(format!("{}: no hash was printed", arguments[0]));
            }
        }
        Ok(all.join(" "))
    };
    let first = hashes(OPTIMISED, Surroundings::Ours)?;
    let second = hashes(OPTIMISED, Surroundings::Foreign)?;
    let debug = hashes("dev", Surroundings::Ours)?;
    println!("optimised: {first}\nelsewhere: {second}\ndebug:     {debug}");
    if first != second {
        Err("two processes disagree".into())
    } else if first != debug {
        Err("the debug build and the optimised one disagree".into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::ffi::OsStr;

    #[test]
    fn a_small_and_a_large_world_are_hashed() {
        let nodes = HASHED.map(|arguments| {
            let path = crate::run::root().join(arguments[0]);
            let text = std::fs::read_to_string(path).expect("the scenario is there");
            let nodes = text.lines().find_map(|line| line.strip_prefix("nodes = "));
            nodes.and_then(|nodes| nodes.parse::<u32>().ok()).expect("it says how many nodes")
        });
        assert_eq!(nodes, [9, 600]);
    }

    #[test]
    fn the_second_process_shares_nothing_that_must_not_matter() {
        let sim = Path::new("sim");
        let ours = hashing(sim, HASHED[0], Surroundings::Ours);
        let foreign = hashing(sim, HASHED[0], Surroundings::Foreign);
        assert!(ours.get_args().eq(foreign.get_args()), "the same run");
        assert_ne!(ours.get_current_dir(), foreign.get_current_dir());
        assert_eq!(ours.get_envs().count(), 0);
        let set: BTreeMap<&OsStr, Option<&OsStr>> = foreign.get_envs().collect();
        for name in ["TZ", "LC_ALL", "LANG"] {
            assert!(set.get(OsStr::new(name)).is_some_and(Option::is_some), "{name}");
        }
    }
}
