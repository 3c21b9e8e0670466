//! `cargo xtask test`: everything that CI runs, in steps, each with its own output.
//!
//! Most of it is building, and then tests that leave a processor idle. So what needs the optimised simulator only
//! goes on beside the rest, in processes of its own, and what it prints is shown at its end.

use crate::run::{USAGE, build_sim, cargo, target};
use crate::{canary, edges, schedules};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Instant;

/// A part of all that there is to test.
struct Step {
    /// What it is called on the command line.
    name: &'static str,
    what: &'static str,
    /// An error says what failed.
    run: fn() -> Result<(), String>,
}

const FORMAT: Step = Step {
    name: "format",
    what: "format",
    run: || passes(&mut cargo(&["fmt", "--all", "--check"])),
};
const LINTS: Step = Step {
    name: "lints",
    what: "lints",
    run: || {
        let mut clippy = cargo(&["clippy", "--workspace", "--all-targets", "--quiet"]);
        passes(clippy.args(["--", "--deny", "warnings"]))
    },
};
const EDGES: Step = Step {
    name: "edges",
    what: "edges between crates",
    run: || {
        if edges::main() == ExitCode::SUCCESS { Ok(()) } else { Err("an arrow too many".into()) }
    },
};
const BUILD: Step = Step {
    name: "build",
    what: "all tests are built",
    run: || passes(&mut cargo(&["test", "--workspace", "--no-run", "--quiet"])),
};
const TESTS: Step = Step {
    name: "tests",
    what: "unit, property, scenario and doc tests",
    run: || passes(&mut cargo(&["test", "--workspace", "--no-fail-fast"])),
};
const SCHEDULES: Step = Step {
    name: "schedules",
    what: "the commit path under many schedules",
    run: || passes(&mut schedules::few()),
};
const FUZZ: Step = Step {
    name: "fuzz",
    what: "the program for fuzzers",
    run: || {
        passes(&mut cargo(&["check", "--quiet", "--locked", "--manifest-path", "fuzz/Cargo.toml"]))
    },
};
const DOCS: Step = Step {
    name: "docs",
    what: "documentation",
    run: || {
        let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
        passes(doc.env("RUSTDOCFLAGS", "--deny warnings"))
    },
};
const WORLDS: Step = Step {
    name: "worlds",
    what: "what failed once, scenario files, and 10,000 random fault plans",
    run: worlds,
};
const HASHES: Step = Step {
    name: "hashes",
    what: "one hash in debug and optimised, and in a process elsewhere",
    run: hashes,
};
const CANARIES: Step = Step { name: "canaries", what: "a few planted bugs", run: || canary::few() };

const STEPS: [Step; 11] =
    [FORMAT, LINTS, EDGES, BUILD, TESTS, SCHEDULES, FUZZ, DOCS, WORLDS, CANARIES, HASHES];

/// `cargo xtask test [STEP…]`
pub fn main(arguments: &[String]) -> ExitCode {
    let mut chosen = Vec::new();
    for argument in arguments {
        match STEPS.iter().find(|step| step.name == argument) {
            Some(step) => chosen.push(step),
            None => {
                let names = STEPS.map(|step| step.name).join(", ");
                eprintln!("xtask test: no step is called {argument}; there are {names}");
                return ExitCode::from(USAGE);
            }
        }
    }
    let failed = if chosen.is_empty() {
        all()
    } else {
        chosen.into_iter().filter(|step| !step.passes()).map(|step| step.name).collect()
    };
    if !failed.is_empty() {
        println!("\nfailed: {}", failed.join(", "));
        return ExitCode::FAILURE;
    }
    if arguments.is_empty() {
        println!("\nall {} steps passed", STEPS.len());
    }
    ExitCode::SUCCESS
}

/// Every step; says which have failed.
fn all() -> Vec<&'static str> {
    let (built, are_built) = mpsc::channel::<()>();
    #[expect(clippy::disallowed_methods, reason = "nothing here is to be repeated")]
    let beside = std::thread::spawn(move || {
        let worlds = Aside::run(WORLDS);
        // They begin with what the tests need too. One that is not built says so itself.
        let _ = are_built.recv();
        [worlds, Aside::run(CANARIES)]
    });
    let (mut failed, mut built) = (Vec::new(), Some(built));
    for step in [FORMAT, LINTS, EDGES, BUILD, TESTS, SCHEDULES, FUZZ, DOCS] {
        if !step.passes() {
            failed.push(step.name);
        }
        if step.name == BUILD.name {
            built = None;
        }
    }
    drop(built);
    match beside.join() {
        Ok(steps) => failed.extend(steps.iter().filter(|it| !it.show()).map(|it| it.step.name)),
        Err(_) => failed.push("what went on beside"),
    }
    // It builds nothing that is not there by now.
    if !HASHES.passes() {
        failed.push(HASHES.name);
    }
    failed
}

impl Step {
    /// Runs it; whether it passes.
    fn passes(&self) -> bool {
        eprintln!("\n── {}", self.what);
        // For people: no step is any different by it.
        #[expect(clippy::disallowed_methods)]
        let began = Instant::now();
        let outcome = (self.run)();
        let seconds = began.elapsed().as_secs();
        match &outcome {
            Ok(()) => eprintln!("── {}: {seconds} s", self.what),
            Err(error) => eprintln!("── {}: FAILED after {seconds} s: {error}", self.what),
        }
        outcome.is_ok()
    }
}

/// A step that ran in a process of its own.
struct Aside {
    step: Step,
    /// What it printed.
    printed: String,
    passed: bool,
}

impl Aside {
    fn run(step: Step) -> Aside {
        let path = target().join(format!("step-{}.txt", step.name));
        let run = || -> std::io::Result<(ExitStatus, String)> {
            // Both streams into one file keep their order.
            let file = File::create(&path)?;
            let mut child = Command::new(std::env::current_exe()?);
            child.args(["test", step.name]).stdin(Stdio::null());
            let status = child.stdout(file.try_clone()?).stderr(file).status()?;
            Ok((status, String::from_utf8_lossy(&std::fs::read(&path)?).into_owned()))
        };
        match run() {
            Ok((status, printed)) => Aside { step, printed, passed: status.success() },
            Err(error) => {
                let printed = format!("\n── {}: FAILED: {}: {error}\n", step.what, path.display());
                Aside { step, printed, passed: false }
            }
        }
    }

    /// Prints what it has printed; whether it passed.
    fn show(&self) -> bool {
        eprint!("{}", self.printed);
        self.passed
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

fn worlds() -> Result<(), String> {
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
