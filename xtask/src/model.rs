//! `cargo xtask model`: the model checker's worlds, built for speed; with `--heavy` those that no test
//! run has time for.

use crate::run::{USAGE, cargo, infrastructure};
use std::process::ExitCode;

/// The variable that the tests look for.
const VARIABLE: &str = "TWOPC_MODEL_HEAVY";

/// `cargo xtask model [--heavy]`
pub fn main(arguments: &[String]) -> ExitCode {
    let mut test = cargo(&["test", "--release", "--package=twopc", "--test=model"]);
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {}
        ["--heavy"] => drop(test.env(VARIABLE, "1")),
        _ => {
            eprintln!("xtask model: usage: cargo xtask model [--heavy]");
            return ExitCode::from(USAGE);
        }
    }
    match test.args(["--", "--nocapture", "--test-threads=1"]).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => infrastructure(&format!("cannot start cargo: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::VARIABLE;

    /// A variable that no test reads would make a heavy run a light one.
    #[test]
    fn the_variable_is_read_by_the_tests() {
        let file = crate::run::root().join("crates/twopc/tests/model/main.rs");
        let text = std::fs::read_to_string(file).expect("the tests are there");
        assert!(text.contains(VARIABLE));
    }
}
