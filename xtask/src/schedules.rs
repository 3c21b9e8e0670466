//! `cargo xtask schedules`: the log's commit path under many schedules of its threads.

use crate::run::{USAGE, cargo, target};
use std::process::{Command, ExitCode};

const SCHEDULES: u32 = 5_000;

/// `cargo xtask schedules`
pub fn main(arguments: &[String]) -> ExitCode {
    let schedules = match arguments {
        [] => Some(SCHEDULES),
        [number] => number.parse().ok().filter(|number| *number > 0),
        _ => None,
    };
    let Some(schedules) = schedules else {
        eprintln!("xtask schedules: takes one number above 0, not {}", arguments.join(" "));
        return ExitCode::from(USAGE);
    };
    match command(schedules).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask schedules: cannot start cargo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The tests' own build, in which the checker's primitives take the place of the system's.
pub fn command(schedules: u32) -> Command {
    let mut test = cargo(&["test", "--package", "wal-core", "--test", "schedules"]);
    test.env("RUSTFLAGS", "--cfg shuttle")
        .env("CARGO_TARGET_DIR", target().join("schedules"))
        .env("SCHEDULES", schedules.to_string());
    test
}

/// As many as CI runs.
pub fn few() -> Command {
    command(SCHEDULES)
}
