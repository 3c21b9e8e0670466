//! `cargo xtask crash wal` and the like: the sampled tests of the log and of the erasure code, with as many rounds as
//! an evening has, instead of the few that every test run has. They are the same tests; how often they
//! try is told by a variable of the environment.

use crate::run::{USAGE, cargo, infrastructure};
use std::process::ExitCode;

/// A heavy run: which tests, and how much by default.
struct Heavy {
    name: &'static str,
    /// What is tested: the word behind the name.
    subject: &'static str,
    variable: &'static str,
    rounds: u64,
    /// Arguments of `cargo test`: one call each.
    tests: &'static [&'static [&'static str]],
}

const HEAVY: [Heavy; 7] = [
    Heavy {
        name: "crash",
        subject: "examples",
        variable: "EXAMPLES_CRASH_ROUNDS",
        rounds: 500,
        tests: &[&["--package=runtime", "--test=kill"]],
    },
    Heavy {
        name: "crash",
        subject: "cluster",
        variable: "CLUSTER_CRASH_ROUNDS",
        rounds: 500,
        tests: &[&["--package=runtime", "--test=cluster"]],
    },
    Heavy {
        name: "crash",
        subject: "wal",
        variable: "WAL_CRASH_ROUNDS",
        rounds: 2_000,
        tests: &[
            &["--package=trinity", "--test=kill", "--", "--nocapture"],
            &["--package=wal-core", "--test=it", "--", "--nocapture", "faults::", "sectors::"],
        ],
    },
    Heavy {
        name: "damage",
        subject: "wal",
        variable: "WAL_DAMAGE_ROUNDS",
        rounds: 1_000_000,
        tests: &[&["--package=wal-core", "--test=it", "--", "thousand::"]],
    },
    Heavy {
        name: "fuzz",
        subject: "wal",
        variable: "WAL_FUZZ_ROUNDS",
        rounds: 1_000_000,
        tests: &[&["--package=wal-core", "--test=fuzz", "--", "--nocapture"]],
    },
    Heavy {
        name: "memory",
        subject: "node",
        variable: "NODE_MEMORY_OPERATIONS",
        rounds: 1_000_000,
        tests: &[&["--package=node", "--test=memory", "--", "--nocapture"]],
    },
    Heavy {
        name: "recovery",
        subject: "erasure",
        variable: "ERASURE_ROUNDS",
        rounds: 10_000,
        tests: &[&["--release", "--package=erasure", "--test=recovery", "--", "--nocapture"]],
    },
];

/// `cargo xtask crash wal|examples|cluster [--rounds N]`, `cargo xtask damage|fuzz wal [--rounds N]`,
/// `cargo xtask recovery erasure [--rounds N]`, `cargo xtask memory node [--rounds N]`
pub fn main(name: &str, arguments: &[String]) -> ExitCode {
    let named = || HEAVY.iter().filter(|heavy| heavy.name == name);
    let (subject, rest) = arguments.split_first().map_or(("", arguments), |(a, b)| (a, b));
    let heavy = named().find(|heavy| heavy.subject == subject);
    let rounds = heavy.and_then(|heavy| match rest {
        [] => Some(heavy.rounds),
        [option, rounds] if option == "--rounds" => {
            rounds.parse().ok().filter(|rounds| *rounds > 0)
        }
        _ => None,
    });
    let (Some(heavy), Some(rounds)) = (heavy, rounds) else {
        let subjects: Vec<&str> = named().map(|heavy| heavy.subject).collect();
        let subjects = subjects.join("|");
        eprintln!(
            "xtask {name}: usage: cargo xtask {name} {subjects} [--rounds N], of at least one"
        );
        return ExitCode::from(USAGE);
    };
    for tests in heavy.tests {
        let mut test = cargo(&["test"]);
        test.args(*tests).env(heavy.variable, rounds.to_string());
        match test.status() {
            Ok(status) if status.success() => {}
            Ok(_) => return ExitCode::FAILURE,
            Err(error) => return infrastructure(&format!("cannot start cargo: {error}")),
        }
    }
    println!("{name} {}: {rounds} rounds passed", heavy.subject);
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::root;

    /// A variable that no test reads would make a heavy run a light one.
    #[test]
    fn every_variable_is_read_by_the_tests_it_is_for() {
        for heavy in &HEAVY {
            for tests in heavy.tests {
                let part = |key: &str| tests.iter().find_map(|part| part.strip_prefix(key));
                let package = part("--package=").expect("it names a package");
                let test = part("--test=").expect("it names a test");
                let folder = root().join("crates").join(package).join("tests");
                let filters = tests.iter().filter_map(|part| part.strip_suffix("::"));
                let mut files: Vec<_> =
                    filters.map(|module| folder.join(test).join(format!("{module}.rs"))).collect();
                if files.is_empty() {
                    let alone = folder.join(format!("{test}.rs"));
                    files.push(if alone.exists() {
                        alone
                    } else {
                        folder.join(test).join("main.rs")
                    });
                }
                let reads = |file: &std::path::PathBuf| {
                    let text = std::fs::read_to_string(file).expect("the test's file is there");
                    text.contains(heavy.variable)
                };
                assert!(files.iter().any(reads), "{}: {files:?}", heavy.name);
            }
        }
    }
}
