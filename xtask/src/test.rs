//! `cargo xtask test`: everything that CI runs, one step after another, each with its own output.

use crate::run::{USAGE, build_sim, cargo};
use crate::{canary, edges};
use std::process::{Command, ExitCode};

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
    ("documentation", || {
        let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
        passes(doc.env("RUSTDOCFLAGS", "--deny warnings"))
    }),
    ("scenario files, and 10,000 random fault plans", scenarios),
    ("one hash in debug and release, in two processes", hashes),
    ("a few planted bugs", || canary::few()),
];

/// `cargo xtask test`
pub fn main(arguments: &[String]) -> ExitCode {
    if let Some(argument) = arguments.first() {
        eprintln!("xtask test: takes no arguments, not {argument}");
        return ExitCode::from(USAGE);
    }
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        eprintln!("\n── {name}");
        if let Err(error) = step() {
            eprintln!("── {name}: FAILED: {error}");
            failed.push(*name);
        }
    }
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

fn scenarios() -> Result<(), String> {
    let sim = build_sim("release")?;
    passes(Command::new(&sim).args(["all"]).current_dir(crate::run::root()))?;
    passes(Command::new(&sim).args(["random", "--seeds", "0..10000"]))
}

fn hashes() -> Result<(), String> {
    let hash = |profile: &str| -> Result<String, String> {
        let sim = build_sim(profile)?;
        let run = Command::new(&sim)
            .args(["dense-mixed-9", "--seeds", "0..20", "--json"])
            .current_dir(crate::run::root())
            .output()
            .map_err(|error| format!("cannot start the simulator: {error}"))?;
        if !run.status.success() {
            return Err(format!("the {profile} build: {}", run.status));
        }
        let text = String::from_utf8_lossy(&run.stdout);
        let hashes: Vec<&str> =
            text.split("\"hash\":\"").skip(1).filter_map(|s| s.split('"').next()).collect();
        if hashes.is_empty() { Err("no hash was printed".into()) } else { Ok(hashes.join(" ")) }
    };
    let (first, second, debug) = (hash("release")?, hash("release")?, hash("dev")?);
    println!("release: {first}\nagain:   {second}\ndebug:   {debug}");
    if first != second {
        Err("two processes disagree".into())
    } else if first != debug {
        Err("debug and release disagree".into())
    } else {
        Ok(())
    }
}
