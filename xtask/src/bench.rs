//! `cargo xtask bench`: ours beside its peers. What is measured against other people's libraries is a
//! package of its own in `benches/`, outside the workspace, with its own Cargo.lock: nothing else that
//! anybody builds or tests needs those libraries.

use crate::run::{INFRASTRUCTURE, USAGE, cargo, infrastructure, root, target};
use std::path::Path;
use std::process::{Command, ExitCode};

struct Bench {
    /// What people type.
    name: &'static str,
    /// The package's folder, from the workspace's.
    folder: &'static str,
    about: &'static str,
    /// What its whole build is given for `cfg`: a peer may want that.
    cfg: Option<&'static str>,
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "wal",
        folder: "benches/wal",
        about:
            "the log: durable and buffered appends, replay, rotation; beside raft-engine, okaywal,
          commitlog, spacetimedb-commitlog, SQLite, and what the disk allows. Several minutes; with
          --quick one or two. Needs a C compiler",
        cfg: None,
    },
    Bench {
        name: "sim",
        folder: "benches/sim",
        about:
            "the simulator: messages per second at 600 nodes, start-up, memory, tiny worlds; beside
          madsim, tokio on paused time, and event loops written by hand. One or two minutes",
        // madsim simulates only then.
        cfg: Some("madsim"),
    },
    Bench {
        name: "saga",
        folder: "benches/saga",
        about:
            "sagas and transactions, durable, 1, 16 and 64 in flight; beside steno and what the disk
          allows. Two minutes; with --quick half a minute",
        cfg: None,
    },
    Bench {
        name: "store",
        folder: "benches/store",
        about: "erasure coding beside the library under it, and files as shards and back. Half a minute.
          Needs a C compiler",
        cfg: None,
    },
];

const EXIT_CODES: &str = "\
Exit codes: 0 measured, whether the bars are met or not; 1 ours failed; 4 usage; 5 infrastructure: a
build, no real disk.";

/// `cargo xtask bench …`
pub fn main(arguments: &[String]) -> ExitCode {
    let bench = match chosen(arguments) {
        Ok(Some(bench)) => bench,
        Ok(None) => {
            print!("{}", list());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("xtask bench: {error}\n\n{}", list());
            return ExitCode::from(USAGE);
        }
    };
    // A failed build and a failed measurement are told apart: `cargo run` would not.
    match build(bench, &target()).status() {
        Ok(status) if status.success() => {}
        Ok(_) => return infrastructure(&format!("{} does not build", bench.folder)),
        Err(error) => return infrastructure(&format!("cannot start cargo: {error}")),
    }
    match measure(bench, &target(), &arguments[1..]).status() {
        Ok(status) => ExitCode::from(
            status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(INFRASTRUCTURE),
        ),
        Err(error) => infrastructure(&format!("cannot start the benchmark: {error}")),
    }
}

/// The benchmark that is asked for; none if people only want to know what there is.
fn chosen(arguments: &[String]) -> Result<Option<&'static Bench>, String> {
    match arguments.first().map(String::as_str) {
        None | Some("help" | "--help" | "-h") => Ok(None),
        Some(name) => match BENCHES.iter().find(|bench| bench.name == name) {
            Some(bench) => Ok(Some(bench)),
            None => Err(format!("no such benchmark: {name}")),
        },
    }
}

fn list() -> String {
    let mut text = String::from("cargo xtask bench NAME [OPTIONS]\n\n");
    for Bench { name, about, .. } in BENCHES {
        text.push_str(&format!("  {name:7} {about}\n"));
    }
    text.push_str("\n`cargo xtask bench NAME --help` lists a benchmark's options.\n");
    text.push_str(EXIT_CODES);
    text.push('\n');
    text
}

/// Where the packages of `benches/` are built: beside the workspace's own, and not among them.
fn built(target: &Path) -> std::path::PathBuf {
    target.join("peers")
}

fn build(bench: &Bench, target: &Path) -> Command {
    let manifest = root().join(bench.folder).join("Cargo.toml");
    let mut command = cargo(&["build", "--release", "--manifest-path"]);
    command.arg(manifest).arg("--target-dir").arg(built(target));
    if let Some(cfg) = bench.cfg {
        command.arg("--config").arg(format!("build.rustflags=[\"--cfg\", \"{cfg}\"]"));
    }
    command
}

fn measure(bench: &Bench, target: &Path, arguments: &[String]) -> Command {
    let binary = format!("{}-bench{}", bench.name, std::env::consts::EXE_SUFFIX);
    let mut command = Command::new(built(target).join("release").join(binary));
    command.current_dir(root()).args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn strings(arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(|&argument| argument.to_owned()).collect()
    }

    fn name(arguments: &[&str]) -> Result<Option<&'static str>, String> {
        chosen(&strings(arguments)).map(|bench| bench.map(|bench| bench.name))
    }

    #[test]
    fn the_first_argument_names_the_benchmark() {
        assert_eq!(name(&["wal"]), Ok(Some("wal")));
        assert_eq!(name(&["wal", "--quick", "--json"]), Ok(Some("wal")));
        // Help of a benchmark is the benchmark's own.
        assert_eq!(name(&["wal", "--help"]), Ok(Some("wal")));
        assert_eq!(name(&[]), Ok(None));
        assert_eq!(name(&["--help"]), Ok(None));
        assert_eq!(name(&["wall"]), Err("no such benchmark: wall".to_owned()));
        assert_eq!(name(&["--quick"]), Err("no such benchmark: --quick".to_owned()));
    }

    #[test]
    fn what_follows_the_name_is_the_benchmarks_own() {
        let flags = strings(&["--quick", "--json", "--only", "callers-64,replay"]);
        let command = measure(&BENCHES[0], Path::new("/target"), &flags);
        assert!(command.get_args().eq(flags.iter().map(OsStr::new)), "{command:?}");
        let program = Path::new(command.get_program());
        assert!(program.starts_with("/target/peers/release"), "{program:?}");
        assert_eq!(command.get_current_dir(), Some(&*root()));
    }

    #[test]
    fn a_benchmark_is_built_with_its_own_lock_file_and_folder() {
        for bench in BENCHES {
            let command = build(bench, Path::new("/target"));
            let arguments: Vec<&OsStr> = command.get_args().collect();
            assert!(arguments.contains(&OsStr::new("--release")));
            assert!(arguments.contains(&OsStr::new("/target/peers")));
            let manifest = arguments.iter().find(|argument| Path::new(argument).is_file());
            let manifest = Path::new(manifest.expect("the manifest is there"));
            assert!(manifest.with_file_name("Cargo.lock").is_file(), "{}", bench.folder);
            let text = std::fs::read_to_string(manifest).expect("the manifest is there");
            assert!(text.contains(&format!("name = \"{}-bench\"", bench.name)), "{}", bench.folder);
        }
    }

    #[test]
    fn the_workspace_holds_no_benchmark_and_knows_no_peer() {
        let read = |file: &str| std::fs::read_to_string(root().join(file)).expect(file);
        let manifest = read("Cargo.toml");
        let excluded = manifest.lines().find(|line| line.starts_with("exclude = "));
        let excluded = excluded.expect("the workspace excludes something");
        for bench in BENCHES {
            let folder = bench.folder.split('/').next().unwrap_or(bench.folder);
            assert!(excluded.contains(&format!("\"{folder}\"")), "{excluded}");
        }
        let lock = read("Cargo.lock");
        let peers: [(&str, &[&str]); 3] = [
            ("wal", &["raft-engine", "okaywal", "commitlog", "spacetimedb-commitlog", "rusqlite"]),
            ("sim", &["madsim"]),
            ("saga", &["steno"]),
        ];
        // The examples for embedders keep their data in it.
        let ours_too = ["rusqlite"];
        for (bench, peers) in peers {
            let own = read(&format!("benches/{bench}/Cargo.lock"));
            for peer in peers {
                let named = format!("name = \"{peer}\"");
                assert_eq!(lock.contains(&named), ours_too.contains(peer), "{peer}");
                assert!(own.contains(&named), "{peer}");
            }
        }
    }
}
