//! Runs that are written down: sim-scenarios/golden.txt.

use std::path::Path;
use std::process::Command;

fn golden(folder: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    let ran = command.arg("golden").current_dir(folder).output().expect("the simulator starts");
    let text = [ran.stdout, ran.stderr].concat();
    (ran.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// If this fails and the change was meant to change runs: `cargo xtask sim golden --write`, and say in the
/// commit why they are others. If it was not meant, something has an effect that it should not have; `cargo
/// xtask sim check` tells whether a run differs from itself.
#[test]
fn runs_are_what_they_were() {
    let (code, text) = golden(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert_eq!(code, Some(0), "{text}");
}

/// A table with another hash, one with none and one that is none are told apart.
#[test]
fn a_run_that_is_another_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let scenarios = folder.path().join("sim-scenarios");
    std::fs::create_dir(&scenarios).expect("a folder");
    let write = |text: &str| std::fs::write(scenarios.join("golden.txt"), text).expect("a file");
    write("random 3 00\n");
    let (code, text) = golden(folder.path());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("random 3: ") && text.contains("--write"), "{text}");
    write("random three\n");
    assert_eq!(golden(folder.path()).0, Some(4));
    write("# nothing\n");
    assert_eq!(golden(folder.path()).0, Some(1), "no run is no evidence");
}
