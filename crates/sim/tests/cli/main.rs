//! The binary as people and scripts meet it: what it prints and writes, and the exit code.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

mod storage;

// ---- running it ----

/// A small world in which all goes well.
const GOOD: &str = r#"
format = 1
name = "good"

[cluster]
nodes = 4
coordinators = 2
regions = 2

[workload]
kind = "mixed"
operations = 10
participants = 3

[network]
loss = "1%"

[[fault]]
on = "append(tx_commit_start)#1@n0"
kind = "power-loss"
down = "20ms"

[[fault]]
at = "10ms"
kind = "partition"
between = ["region:1", "n0,n2"]
for = "50ms"

[[fault]]
at = "15ms"
kind = "drop"
message = "commit"
for = "60ms"

[liveness]
budget = "30s"

[expect]
sometimes = ["presumed_abort"]

[budget]
events = 1_000_000
"#;

struct Ran {
    out: String,
    err: String,
}

impl Ran {
    /// What was printed, every line of it JSON.
    fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn last_line(&self) -> &str {
        self.out.lines().last().unwrap()
    }
}

/// A folder to run in: nothing is found or left anywhere else.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(TempDir::new().unwrap())
    }

    fn with(name: &str, text: impl AsRef<[u8]>) -> Folder {
        let folder = Folder::new();
        folder.write(name, text);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn entries(&self) -> Vec<String> {
        let entries = self.0.path().read_dir().unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
        command.current_dir(self.0.path()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs, and insists on the exit code.
    #[track_caller]
    fn check(&self, args: &[&str], code: i32) -> Ran {
        let output = self.command(args).output().unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{err}");
        assert!(!err.contains("panicked"), "{err}");
        // No terminal looks: neither colours nor progress.
        assert!(!err.contains(['\x1b', '\r']), "{err:?}");
        Ran { out, err }
    }

    /// Runs the command of a last line with the binary that it builds.
    #[track_caller]
    fn repeat(&self, printed: &str, code: i32) -> Ran {
        let command = printed.lines().last().unwrap();
        let args = command.strip_prefix("cargo xtask sim ");
        let args = args.unwrap_or_else(|| panic!("{command:?} repeats nothing"));
        self.check(&args.split(' ').collect::<Vec<_>>(), code)
    }
}

/// A scenario is refused at `LINE:COLUMN`, in these words, and nothing is run or written.
#[track_caller]
fn check_refused_at(text: impl AsRef<[u8]>, place: &str, words: &[&str]) {
    let folder = Folder::with("bad.toml", text);
    for json in [&[][..], &["--json"]] {
        let ran = folder.check(&[&["bad.toml", "--out", "failures"], json].concat(), 4);
        let place = format!("bad.toml:{place}");
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit());
        let told = ran.err.split(place.as_str()).skip(1).any(ends);
        assert!(told, "not at {place}: {}", ran.err);
        for word in words {
            assert!(ran.err.contains(word), "{word:?} is not in: {}", ran.err);
        }
        assert_eq!(ran.out, "");
        assert_eq!(folder.entries(), ["bad.toml"]);
    }
}

/// The good scenario with `from` replaced by `to` is refused at `at`, which is in `to`.
#[track_caller]
fn check_refused(from: &str, to: &str, at: &str, words: &[&str]) {
    assert_eq!(GOOD.matches(from).count(), 1, "{from}");
    let text = GOOD.replace(from, to);
    let inside = to.find(at).unwrap_or_else(|| panic!("{at:?} is not in {to:?}"));
    let before = &text[..GOOD.find(from).unwrap() + inside];
    let line = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').map_or(0, |end| end + 1) + 1;
    check_refused_at(&text, &format!("{line}:{column}"), words);
}

#[test]
fn the_good_scenario_is_good() {
    let folder = Folder::with("good.toml", GOOD);
    let ran = folder.check(&["good.toml"], 0);
    assert!(ran.out.starts_with("good: seed 1\n"), "the seed comes first: {}", ran.out);
    assert_eq!((ran.err.as_str(), folder.entries()), ("", vec!["good.toml".to_owned()]));
}

/// The good scenario with nothing that only most seeds reach.
fn easy() -> String {
    GOOD.replace("[\"presumed_abort\"]", "[]").replace("tx_commit_start", "tx_created")
}

// ---- scenarios that are none ----

#[test]
fn a_key_that_is_not_known() {
    check_refused("regions =", "regoins =", "regoins", &["did you mean `regions`?"]);
    check_refused("[cluster]", "[clutser]", "clutser", &["did you mean `cluster`?"]);
    check_refused("sometimes =", "someimes =", "someimes", &["did you mean `sometimes`?"]);
    check_refused("budget = \"30s\"", "bugdet = \"30s\"", "bugdet", &["did you mean `budget`?"]);
    check_refused("down = ", "dwon = ", "dwon", &["did you mean `down`?"]);
    check_refused("sometimes =", "min_comitted = 1\nsometimes =", "min", &["`min_committed`?"]);
    // Near nothing: then all of them are told.
    check_refused("operations = 10", "operations = 10\nxyzzy = 1", "xyzzy", &["`in_flight`"]);
}

#[test]
fn a_value_of_the_wrong_type() {
    let whole = "expected a whole number from 0 to 4294967295";
    let groups = "[\"region:1\", \"n0,n2\"]";
    for (from, to, at, words) in [
        ("nodes = 4", "nodes = \"4\"", "\"4\"", whole),
        ("nodes = 4", "nodes = 4.5", "4.5", whole),
        ("nodes = 4", "nodes = -4", "-4", whole),
        ("nodes = 4", "nodes = [4]", "[4]", whole),
        ("nodes = 4", "nodes = 99999999999", "999", whole),
        ("events = 1_000_000", "events = \"many\"", "\"", "expected a whole number, not below 0"),
        ("\"1%\"", "0.01", "0.01", "floating point `0.01`, expected a share such as \"1%\""),
        ("\"20ms\"", "20", "20", "integer `20`, expected a length of time such as \"20ms\""),
        ("on = \"append(tx_commit_start)#1@n0\"", "on = 1", "1", "expected a trigger such as"),
        (groups, "\"n0\"", "\"n0\"", "expected two groups such as [\"n0\", \"rest\"]"),
        (groups, "[\"n0\"]", "[\"n0\"]", "expected two groups such as [\"n0\", \"rest\"]"),
        ("for = \"50ms\"", "for = \"50ms\"\nsymmetric = 1", "1", "expected true or false"),
        ("name = \"good\"", "name = 7", "7", "expected a text in quotes"),
        ("kind = \"mixed\"", "kind = \"mxied\"", "\"mxied\"", "did you mean `mixed`?"),
        (
            "kind = \"mixed\"",
            "kind = \"storage\"",
            "\"s",
            "expected one of `saga`, `twopc`, `mixed`",
        ),
    ] {
        check_refused(from, to, at, &[words]);
    }
}

#[test]
fn an_impossible_value() {
    for (from, to, at, words) in [
        ("nodes = 4", "nodes = 0", "0", "expected 1 to 100000 nodes"),
        ("nodes = 4", "nodes = 100001", "1", "expected 1 to 100000 nodes"),
        ("tors = 2", "tors = 5", "5", "expected 1 to 4 coordinators: the cluster has 4 nodes"),
        ("tors = 2", "tors = 0", "0", "expected 1 to 4 coordinators"),
        ("regions = 2", "regions = 0", "0", "expected 1 to 9 regions"),
        ("regions = 2", "regions = 10", "10", "expected 1 to 9 regions"),
        ("pants = 3", "pants = 5", "5", "expected 1 to 4 participants: the cluster has 4 nodes"),
        ("pants = 3", "pants = 0", "0", "expected 1 to 4 participants"),
        ("ions = 10", "ions = 0", "0", "expected operations from 1 to"),
        ("ions = 10", "ions = 10\nin_flight = 20_000_000", "20", "expected in_flight from 1 to"),
        ("ions = 10", "ions = 10\ncells = 20_000_000", "20", "expected cells from 1 to"),
        ("ions = 10", "ions = 10\nsteps = 33", "33", "expected 1 to 32 steps"),
        ("ions = 10", "ions = 10\nwaves = [9]", "[9]", "hold 9 operations, the workload 10"),
        ("ions = 10", "ions = 10\nwaves = [10, 0]", "[10, 0]", "at least one operation"),
        ("\"1%\"", "\"200%\"", "\"200%\"", "expected per cent from 0% to 100%"),
        ("\"1%\"", "\"-1%\"", "\"-1%\"", "expected per cent from 0% to 100%"),
        ("\"20ms\"", "\"-20ms\"", "\"-", "no length of time: expected one such as \"20ms\""),
        ("\"20ms\"", "\"20\"", "\"20\"", "no length of time: expected one such as \"20ms\""),
        ("\"20ms\"", "\"9000h\"", "\"9000h\"", "longer than a year"),
        ("budget = \"30s\"", "budget = \"0s\"", "\"0s\"", "expected `budget` above zero"),
        ("events = 1_000_000", "events = 0", "0", "at least one event"),
        ("\"good\"", "\"../good\"", "\"../good\"", "failure files are called after it"),
        ("\"good\"", "\"\"", "\"\"", "failure files are called after it"),
        ("format = 1", "format = 2", "2", "format 2: this build reads format 1"),
        // Whatever else is new in it, the version is what is wrong.
        ("format = 1", "format = 2\nring = true", "2", "format 2: this build reads format 1"),
    ] {
        check_refused(from, to, at, &[words]);
    }
    for (table, at, words) in [
        ("[node]\nresend = \"0ms\"", "\"0ms\"", "expected `resend` above zero"),
        ("[node]\ninquire = \"0s\"", "\"0s\"", "expected `inquire` above zero"),
        ("[node]\nstep_timeout = \"-1s\"", "\"-1s\"", "no length of time"),
        ("[disk]\nidle_guard = \"0s\"", "\"0s\"", "expected `idle_guard` above zero"),
        ("[disk]\nsync = \"5ms..1ms\"", "\"5ms..1ms\"", "runs backwards"),
        ("[disk]\nsegment_bytes_first = 9", "9", "at least 4096"),
        ("[disk]\nsegment_bytes_max = 9", "9", "at least 4096"),
        ("[disk]\ncheckpoint_interval = 0", "0", "checkpoint_interval is 0"),
        ("[chaos]\nzombies = 4_000_000_000", "4_0", "expected at most 100000 zombies"),
        (
            "[chaos]\ncoordinator_crashes = 2\nrecovery_crashes = 3",
            "3",
            "expected at most as many recovery_crashes as coordinator_crashes, 2",
        ),
    ] {
        check_refused("[network]", &format!("{table}\n[network]"), at, &[words]);
    }
}

#[test]
fn a_default_that_does_not_fit_is_told_where_it_comes_from() {
    let small = GOOD.replace("nodes = 4", "nodes = 2").replace("participants = 3\n", "");
    let small = small.replace("\"n0,n2\"", "\"n0\"");
    check_refused_at(&small, "6:9", &["2 nodes: a transaction has 3 participants unless"]);
    // Where no transaction is asked for it does not matter.
    let sagas = small.replace("\"mixed\"", "\"saga\"").replace("[\"presumed_abort\"]", "[]");
    let sagas = sagas.replace("tx_commit_start", "saga_created");
    Folder::with("sagas.toml", sagas).check(&["sagas.toml"], 0);
}

#[test]
fn a_fault_that_cannot_be() {
    let commit = "append(tx_commit_start)#1@n0";
    for (trigger, words) in [
        ("append(tx_comit_start)#1@n0", "unknown event `tx_comit_start`: did you mean `tx_commit_"),
        ("apend(tx_commit_start)#1@n0", "unknown signal `apend`: did you mean `append`?"),
        ("send(comit)#1@n0", "unknown message `comit`: did you mean `commit`?"),
        ("append#1@n0", "expected SIGNAL#NTH@nNODE, such as"),
        ("append(tx_commit_start)@n0", "expected SIGNAL#NTH@nNODE, such as"),
        ("append(tx_commit_start)#1", "expected SIGNAL#NTH@nNODE, such as"),
        ("append(tx_commit_start)#-1@n0", "expected SIGNAL#NTH@nNODE, such as"),
        ("append(tx_commit_start)#0@n0", "the first one is #1"),
        ("append(tx_commit_start)#1@n4", "there is no node n4: the cluster has n0 to n3"),
    ] {
        check_refused(&format!("\"{commit}\""), &format!("\"{trigger}\""), "\"", &[words]);
    }
    for (from, to, at, words) in [
        ("\"power-loss\"", "\"powerloss\"", "\"", "did you mean `power-loss`?"),
        ("\"power-loss\"", "\"meteor\"", "\"", "expected one of `power-loss`, `process-crash`"),
        ("down =", "node = 9\ndown =", "9", "there is no node n9: the cluster has n0 to n3"),
        ("down =", "again = [0]\ndown =", "[0]", "counted from 1"),
        ("down =", "again = [1, 1, 1, 1]\ndown =", "[1", "at most three entries in `again`"),
        ("down =", "for = \"1s\"\ndown =", "\"1s\"", "a power-loss has no `for`: only `at`, `on`,"),
        ("[\"region:1\"", "[\"region:2\"", "[", "no region 2: the cluster has the regions 0 to 1"),
        (
            "[\"region:1\"",
            "[\"region:x\"",
            "\"region",
            "expected \"rest\", \"region:2\", \"n0\" or",
        ),
        ("[\"region:1\"", "[\"n4\"", "[", "there is no node n4"),
        ("\"commit\"", "\"comit\"", "\"comit\"", "did you mean `commit`?"),
        ("\"10ms\"", "\"soon\"", "\"soon\"", "no length of time"),
        // What is missing is missing from the whole entry.
        (
            "[[fault]]\nat = \"15ms\"",
            "[[fault]]",
            "[[fault]]",
            "needs `at` (a time), `on` (a trigger)",
        ),
    ] {
        check_refused(from, to, at, &[words]);
    }
    for (line, place, words) in [
        ("down = \"20ms\"\n", "18:1", "a power-loss needs `down`, such as down = \"20ms\""),
        ("between = [\"region:1\", \"n0,n2\"]\n", "23:1", "a partition needs `between`, such as"),
        ("for = \"60ms\"\n", "29:1", "a drop needs `for`, such as for = "),
        ("message = \"commit\"\n", "29:1", "a drop needs `message`, such as message = \"commit\""),
    ] {
        check_refused_at(GOOD.replacen(line, "", 1), place, &[words]);
    }
    let timed = GOOD.replace(&format!("on = \"{commit}\""), "at = \"1ms\"");
    check_refused_at(timed, "18:1", &["a power-loss needs `node`, such as node = 0"]);
    let heal = GOOD.replace("\"drop\"", "\"heal\"");
    check_refused_at(heal, "32:11", &["a heal has no `message`: only `at` and `on`"]);
}

#[test]
fn an_expectation_that_nothing_can_meet() {
    let near = "unknown condition `presumed_abrot`: did you mean `presumed_abort`?";
    check_refused("[\"presumed_abort\"]", "[\"presumed_abrot\"]", "\"", &[near]);
    check_refused(
        "[\"presumed_abort\"]",
        "[\"sunshine\"]",
        "\"",
        &["expected one of", "late_outcome"],
    );
    for (line, at, words) in [
        ("recovered = { tx_resume_comit = 1 }", "{", "did you mean `tx_resume_commit`?"),
        ("committed = -1", "-1", "expected a whole number, not below 0"),
        ("invariants = \"none\"", "\"none\"", "expected `all`"),
    ] {
        check_refused("sometimes =", &format!("{line}\nsometimes ="), at, &[words]);
    }
}

#[test]
fn what_is_no_scenario_at_all() {
    check_refused_at(GOOD.replace("[cluster]", "[cluster"), "5:9", &[]);
    check_refused_at(GOOD.replace("nodes = 4", "nodes = 4\nnodes = 5"), "7:1", &["duplicate key"]);
    check_refused_at(GOOD.replace("nodes = 4", "nodes 4"), "6:7", &[]);
    check_refused_at("", "1:1", &["missing field `format`"]);
    check_refused_at(GOOD.replace("format = 1", ""), "1:1", &["missing field `format`"]);
    check_refused_at(b"format = 1\nname = \"\xFF\"\n", "2:9", &["not UTF-8", "help: "]);
    // What a terminal would take for a command is not passed on to it.
    check_refused_at("\"\\u001b[2J\" = 1\nformat = 1", "1:1", &[r"unknown field `\u{1b}[2J`"]);
    check_refused_at("x = \"\x1b[2J\"", "1:6", &["x = \"?[2J\""]);
}

#[test]
fn a_file_that_cannot_be_read() {
    let folder = Folder::with("sim-scenarios/dense-mixed-9.toml", GOOD);
    folder.write("sim-scenarios/saga-recovery.toml", GOOD);
    fs::create_dir(folder.path("folder")).unwrap();
    for (name, words) in [
        (
            "nowhere",
            &["sim-scenarios/nowhere.toml: No such file", "dense-mixed-9, saga-recovery"][..],
        ),
        ("dense-mixd-9", &["did you mean dense-mixed-9?"]),
        ("./nowhere.toml", &["cannot read ./nowhere.toml: No such file", "dense-mixed-9"]),
        ("folder", &["cannot read folder: Is a directory", "cargo xtask sim all folder"]),
        ("sim-scenarios/saga-recovery.toml/x", &["Not a directory"]),
    ] {
        for args in [&[name][..], &[name, "--json"], &["check", name]] {
            let ran = folder.check(args, 4);
            for word in words {
                assert!(ran.err.contains(word), "{args:?}: {word:?} is not in: {}", ran.err);
            }
            assert_eq!(ran.out, "", "{args:?}");
        }
    }
    assert!(folder.check(&["repro", "nowhere.toml"], 4).err.contains("cannot read nowhere.toml: "));
    assert!(
        folder.check(&["all", "folder"], 4).err.contains("no scenario file (*.toml) in folder")
    );
    assert!(folder.check(&["all", "nowhere"], 4).err.contains("help: name a folder"));
    // One that is wrong keeps all from running.
    folder.write("bad.toml", "format = 1");
    assert_eq!(folder.check(&["saga-recovery", "bad.toml"], 4).out, "");
    assert_eq!(folder.entries(), ["bad.toml", "folder", "sim-scenarios"]);
    assert!(Folder::new().check(&[], 4).err.contains("no folder sim-scenarios here"));
}

#[test]
fn a_name_is_looked_up_in_the_folder() {
    let folder = Folder::with("sim-scenarios/good.toml", GOOD);
    for args in [&["good", "--json"], &["all", "--json"]] {
        assert_eq!(folder.check(args, 0).lines().len(), 1);
    }
}

/// The command's help lies in the project, and the folder is found from anywhere in it.
#[test]
fn a_name_is_looked_up_from_below_too() {
    let folder = Folder::with("sim-scenarios/good.toml", GOOD);
    folder.write("below/deep/good2.toml", easy().replace("\"good\"", "\"good2\""));
    let below = |args: &[&str], code| {
        let mut command = folder.command(args);
        command.current_dir(folder.path("below/deep"));
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
        (String::from_utf8(output.stdout).unwrap(), err)
    };
    for args in [&["good", "--json"][..], &["all", "--json"], &["good2.toml", "--json"]] {
        assert_eq!(below(args, 0).0.lines().count(), 1, "{args:?}");
    }
    assert!(below(&["check", "good"], 0).0.contains("in both processes"));
    let (_, err) = below(&["goood"], 4);
    assert!(err.contains("cannot read ../../sim-scenarios/goood.toml: "), "{err}");
    assert!(err.contains("did you mean good? name a file, or one of those in ../../sim-"), "{err}");
    // What is here is meant first, and a path is one from here.
    folder.write("below/deep/good", "format = 1");
    assert!(below(&["good"], 4).1.contains("good:1:1"));
    assert!(below(&["sim-scenarios/good.toml"], 4).1.contains("No such file"));
    // So is the nearest folder.
    folder.write("below/sim-scenarios/nearest.toml", GOOD.replace("\"good\"", "\"nearest\""));
    assert!(below(&["all", "--json"], 0).0.contains("\"scenario\":\"nearest\""));
}

#[test]
fn a_folder_without_scenarios_is_told_with_a_remedy() {
    let folder = Folder::with("sim-scenarios/README", "nothing yet");
    for (args, help) in [
        (&["good"][..], "help: name a scenario file; sim-scenarios has none that goes by its name"),
        (&["all"], "help: name a folder with scenario files in it"),
        (&["all", "sim-scenarios"], "help: name a folder with scenario files in it"),
    ] {
        let ran = folder.check(args, 4);
        assert!(ran.err.contains(help), "{args:?}: {}", ran.err);
    }
    let nowhere = Folder::new();
    for args in [&["good"][..], &["all"]] {
        let ran = nowhere.check(args, 4);
        let help = "; there is no folder sim-scenarios here or above";
        assert!(ran.err.contains(help), "{args:?}: {}", ran.err);
    }
}

#[test]
fn the_scenarios_of_the_repository_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sim-scenarios");
    let mut read = 0;
    for file in folder.read_dir().unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = fs::read_to_string(&path).unwrap();
            sim::Scenario::parse(&path.display().to_string(), &text).unwrap();
            read += 1;
        }
    }
    assert!(read >= 10);
}

// ---- the command line ----

#[test]
fn a_wrong_command_line_is_told_with_the_usage() {
    let folder = Folder::with("good.toml", GOOD);
    let good = "good.toml";
    for (args, words) in [
        (&[good, "--sed", "1"][..], &["--seed", "Usage: "][..]),
        (&[good, "--seed", "1", "--seeds", "0..2"], &["cannot be used with", "Usage: "]),
        (&[good, "--seed", "x"], &["--seed", "expected a whole number from 0 to 92233720368547"]),
        (&[good, "--seed", "18446744073709551615"], &["expected a whole number from 0 to 922337"]),
        (&[good, "--seeds", "5"], &["--seeds", "such as 0..1000"]),
        (&[good, "--seeds", "5..5"], &["not empty"]),
        (&[good, "--seeds", "9..5"], &["not empty"]),
        (&[good, "--seeds", "0..18446744073709551615"], &["not above"]),
        (&[good, "--shard", "4/4"], &["--shard", "such as 0/4"]),
        (&[good, "--shard", "0/0"], &["such as 0/4"]),
        (&[good, "--for", "ten"], &["--for", "no length of time"]),
        (&[good, "--for", "0s"], &["expected a time above zero"]),
        (&[good, "--jobs", "0"], &["--jobs", "1..=64"]),
        (&[good, "--jobs", "65"], &["1..=64"]),
        (&[good, "--out"], &["--out"]),
        (&["repro"], &["<FILE>", "Usage: "]),
        (&["repro", good, "--seed", "1"], &["--seed", "Usage: "]),
        (&["random", good], &[good, "Usage: "]),
    ] {
        let ran = folder.check(args, 4);
        for word in words {
            assert!(ran.err.contains(word), "{args:?}: {word:?} is not in: {}", ran.err);
        }
        assert!(ran.err.contains("--help"), "{args:?}: {}", ran.err);
        assert_eq!(ran.out, "", "{args:?}");
    }
    assert_eq!(folder.entries(), [good]);
}

#[test]
fn help_is_everywhere_and_names_the_exit_codes() {
    let folder = Folder::new();
    for args in [
        &["--help"][..],
        &["-h"],
        &["all", "--help"],
        &["random", "--help"],
        &["repro", "-h"],
        &["check", "--help"],
        &["shrink", "--help"],
        &["corpus", "--help"],
        &["bench", "--help"],
    ] {
        let ran = folder.check(args, 0);
        let text = ran.out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("Usage: cargo xtask sim"), "{args:?}: {text}");
        assert!(text.contains("Exit codes: 0 clean; 1 an invariant"), "{args:?}: {text}");
    }
    assert!(folder.check(&["--version"], 0).out.contains(env!("CARGO_PKG_VERSION")));
}

// ---- what is printed ----

#[test]
fn json_is_one_line_for_each_run_and_nothing_else() {
    let folder = Folder::with("good.toml", GOOD);
    let ran = folder.check(&["good.toml", "good.toml", "--seeds", "3..6", "--json"], 0);
    let lines = ran.lines();
    let seeds: Vec<u64> = lines.iter().map(|line| line["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds, [3, 4, 5, 3, 4, 5]);
    assert!(lines.iter().all(|line| line["verdict"] == "clean"));
    assert_eq!(ran.err, "");
    let alone = folder.check(&["good.toml", "--seed", "4", "--json"], 0);
    assert_eq!(alone.lines()[0], lines[1], "a seed is a run, alone or among others");
}

#[test]
fn shards_are_parts_of_the_seeds() {
    let folder = Folder::with("good.toml", GOOD);
    let seeds = |shard: &str| -> Vec<u64> {
        let args = ["good.toml", "--seeds", "5..12", "--shard", shard, "--json"];
        let lines = folder.check(&args, 0).lines();
        lines.iter().map(|line| line["seed"].as_u64().unwrap()).collect()
    };
    assert_eq!((seeds("0/3"), seeds("1/3")), (vec![6, 9], vec![7, 10]));
    assert_eq!((seeds("2/3"), seeds("4/4294967295")), (vec![5, 8, 11], vec![]));
    let none = folder.check(&["good.toml", "--seed", "5", "--shard", "0/2"], 0);
    assert!(none.out.contains("no seed in this shard"), "{}", none.out);
}

/// A range far too long to be held in memory, and the very last seed.
#[test]
fn seeds_may_be_many_and_large() {
    let folder = Folder::with("failing.toml", failing());
    let (last, all) = ("9223372036854775807", "0..9223372036854775808");
    let args = ["failing.toml", "--seeds", all, "--for", "1ms", "--jobs", "1", "--json"];
    assert_eq!(folder.check(&args, 1).lines()[0]["seed"], 0);
    let ran = folder.check(&["failing.toml", "--seed", last], 1);
    assert_eq!(folder.repeat(&ran.out, 1).last_line(), "it fails as it did");
}

#[test]
fn nobody_has_to_read_to_the_end() {
    let folder = Folder::with("easy.toml", easy());
    for args in [
        &["easy.toml", "--seeds", "0..1000000", "--json"][..],
        &["easy.toml"],
        &["random", "--seed", "1"],
        &["check", "easy.toml", "--seeds", "0..1000000"],
    ] {
        let mut command = folder.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn an_error_that_nobody_reads_is_no_panic() {
    let folder = Folder::new();
    let mut command = folder.command(&["nowhere.toml"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(4));
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_fails_is_told() {
    let folder = Folder::with("easy.toml", easy());
    for args in [&["easy.toml", "--seeds", "0..1000000", "--json"][..], &["easy.toml"]] {
        let mut command = folder.command(args);
        command.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{err}");
        assert!(err.contains("standard output: No space left"), "{err}");
    }
}

// ---- failures, and repeating them ----

/// A scenario that expects too much.
fn failing() -> String {
    GOOD.replace("[expect]", "[expect]\ncommitted = 99")
}

#[test]
fn an_expectation_that_is_not_met_can_be_repeated() {
    let folder = Folder::with("failing.toml", failing());
    let ran = folder.check(&["failing.toml", "--seed", "7"], 1);
    assert!(ran.out.contains("expectation: expected committed = 99, found "), "{}", ran.out);
    assert_eq!(folder.entries(), ["failing.toml", "out"]);
    let again = folder.repeat(&ran.out, 1);
    assert_eq!(again.last_line(), "it fails as it did");
    assert!(again.out.contains("seed 7"), "{}", again.out);
    // The file says in its first line what it is.
    let file = folder.read("out/good-7.toml");
    assert!(file.starts_with("# expected committed = 99, found "), "{file}");
    // As JSON it is one line, and says the same.
    let json = folder.check(&["repro", "out/good-7.toml", "--json"], 1).lines();
    assert_eq!(json.len(), 1);
    assert_eq!(json[0]["fails_as_it_did"], true);
    assert_eq!(json[0]["verdict"], "expectation");
}

#[test]
fn of_many_runs_all_are_printed_and_the_first_that_fails_is_kept() {
    let folder = Folder::with("failing.toml", failing());
    let many = ["failing.toml", "--seeds", "3..6", "--json", "--out", "kept"];
    let ran = folder.check(&many, 1);
    assert_eq!(ran.lines().len(), 3);
    assert_eq!(folder.repeat(&ran.err, 1).last_line(), "it fails as it did");
    assert!(folder.path("kept/good-3.toml").is_file() && !folder.path("kept/good-4.toml").exists());
    assert_eq!(folder.check(&[&many[..], &["--first"]].concat(), 1).lines().len(), 1);
    // Its command is the last line also if what runs clean comes behind it, and is one for a shell.
    folder.write("good.toml", GOOD);
    let ran = folder.check(&["failing.toml", "good.toml", "--out", "my failures"], 1);
    assert_eq!(ran.last_line(), "cargo xtask sim repro 'my failures/good-1.shrunk.toml'");
    let args = ["failing.toml", "good.toml", "--out", "my failures", "--no-shrink"];
    let ran = folder.check(&args, 1);
    assert_eq!(ran.last_line(), "cargo xtask sim repro 'my failures/good-1.toml'");
}

#[test]
fn a_fault_that_never_strikes_is_named() {
    let folder = Folder::with("idle.toml", GOOD.replace("#1@n0", "#5000@n0"));
    let ran = folder.check(&["idle.toml"], 1);
    let which = "fault 0 never struck: power-loss on append(tx_commit_start)#5000@n0";
    // What the scenario expects of that crash is not met either, and is told first.
    assert!(ran.out.contains("expected to see presumed_abort"), "{}", ran.out);
    let idle = GOOD.replace("#1@n0", "#5000@n0").replace("[\"presumed_abort\"]", "[]");
    folder.write("idle.toml", idle);
    let ran = folder.check(&["idle.toml"], 1);
    assert!(ran.out.contains(which), "{}", ran.out);
    assert_eq!(folder.check(&["idle.toml", "--json"], 1).lines()[0]["violation"], which);
    assert_eq!(folder.repeat(&ran.out, 1).last_line(), "it fails as it did");
}

#[test]
fn no_progress_has_its_own_exit_code() {
    // A participant is away for longer than anybody is patient.
    let crash = "on = \"append(tx_commit_start)#1@n0\"\nkind = \"power-loss\"\ndown = \"20ms\"";
    let away =
        "on = \"durable(tx_commit_start)#1@n0\"\nnode = 3\nkind = \"power-loss\"\ndown = \"2h\"";
    let stuck = GOOD.replace(crash, away).replace("[\"presumed_abort\"]", "[]");
    let stuck = stuck.replace("\"mixed\"", "\"twopc\"").replace("pants = 3", "pants = 4");
    let folder = Folder::with("stuck.toml", stuck);
    let ran = folder.check(&["stuck.toml"], 2);
    assert!(ran.out.contains("no progress: "), "{}", ran.out);
    assert!(ran.out.contains("something has not ended"), "{}", ran.out);
    assert_eq!(folder.repeat(&ran.out, 2).last_line(), "it fails as it did");
    // A budget of events that runs out is no progress either.
    let poor = Folder::with("poor.toml", GOOD.replace("1_000_000", "20"));
    assert!(poor.check(&["poor.toml"], 2).out.contains("the budget of events is used up"));
}

#[test]
fn a_failure_whose_cause_is_gone_runs_clean() {
    // Of what is drawn, some never strikes. In the failure file it stands by name like the rest.
    let drawn = "[chaos]\npauses = 40\nwindow = \"1s..5s\"\n\n[expect]";
    let folder = Folder::with("failing.toml", failing().replace("[expect]", drawn));
    let lines = folder.check(&["failing.toml", "--json"], 1).lines();
    assert!(lines[0]["never_struck"].as_u64().unwrap() > 0);
    assert_eq!(folder.check(&["repro", "out/good-1.toml"], 1).last_line(), "it fails as it did");
    let mended = folder.read("out/good-1.toml").replace("committed = 99\n", "");
    folder.write("mended.toml", &mended);
    let ran = folder.check(&["repro", "mended.toml"], 0);
    assert_eq!(ran.last_line(), "it runs clean: expect.committed does not come up any more");
}

#[test]
fn only_failure_files_of_this_build_are_repeated() {
    let folder = Folder::with("failing.toml", failing());
    folder.check(&["failing.toml"], 1);
    let ran = folder.check(&["repro", "failing.toml"], 4);
    assert!(ran.err.contains("failing.toml repeats no failure"), "{}", ran.err);
    assert!(ran.err.contains("help: run it with `cargo xtask sim failing.toml`"), "{}", ran.err);
    let file = folder.read("out/good-1.toml");
    for (from, to, words) in [
        ("derivation = 1", "derivation = 99", "other.toml was made with version 99"),
        ("derivation = 1", "", "missing field `derivation`"),
        ("format = 1", "format = 2", "format 2: this build reads format 1"),
        ("kind = \"power-loss\"", "kind = \"powerloss\"", "did you mean `power-loss`?"),
    ] {
        assert!(file.contains(from), "{from}: {file}");
        folder.write("other.toml", file.replacen(from, to, 1));
        let ran = folder.check(&["repro", "other.toml"], 4);
        assert!(ran.err.contains(words) && ran.err.contains("other.toml"), "{}", ran.err);
        assert_eq!(ran.out, "");
    }
    // Another failure than the file's is no repetition of it.
    folder.write(
        "another.toml",
        file.replace("invariant = \"expect.committed\"", "invariant = \"I3\""),
    );
    let ran = folder.check(&["repro", "another.toml"], 4);
    assert_eq!(ran.last_line(), "another failure than in the file, which has I3");
    let json = folder.check(&["repro", "another.toml", "--json"], 4).lines();
    assert_eq!(json[0]["fails_as_it_did"], false);
    // Files of earlier builds do not say which expectation was not met.
    folder.write("old.toml", file.replace("\"expect.committed\"", "\"expectation\""));
    let ran = folder.check(&["repro", "old.toml"], 1);
    assert_eq!(ran.last_line(), "it fails as it did");
}

/// Each expectation is a failure of its own.
#[test]
fn another_expectation_is_another_failure() {
    let never = "never struck: power-loss on append(tx_commit_start)#5000@n0";
    let idle = GOOD.replace("#1@n0", "#5000@n0").replace("[\"presumed_abort\"]", "[]");
    let expecting = |what: &str| easy().replace("[expect]", &format!("[expect]\n{what}"));
    let mut kept = Vec::new();
    for (text, signature) in [
        (expecting("committed = 99"), "expect.committed"),
        (expecting("completed = 99"), "expect.completed"),
        (expecting("min_committed = 99"), "expect.min_committed"),
        (expecting("min_coordinator_crashes = 99"), "expect.min_coordinator_crashes"),
        (
            expecting("recovered = { saga_resume_execute = 99 }"),
            "expect.recovered.saga_resume_execute",
        ),
        (
            easy().replace("sometimes = []", "sometimes = [\"zombie_fenced\"]"),
            "expect.sometimes.zombie_fenced",
        ),
        (idle, never),
    ] {
        let folder = Folder::with("failing.toml", text);
        let lines = folder.check(&["failing.toml", "--json"], 1).lines();
        assert_eq!(lines[0]["signature"], signature);
        folder.check(&["repro", "out/good-1.toml"], 1);
        let file = folder.read("out/good-1.toml");
        assert!(file.contains(&format!("invariant = \"{signature}\"")), "{file}");
        kept.push((folder, file, signature));
    }
    for (folder, file, signature) in &kept {
        for (_, _, other) in kept.iter().filter(|(_, _, other)| other != signature) {
            let named = |which| format!("invariant = \"{which}\"");
            folder.write("other.toml", file.replace(&named(signature), &named(other)));
            let ran = folder.check(&["repro", "other.toml"], 4);
            let told = format!("another failure than in the file, which has {other}");
            assert_eq!(ran.last_line(), told);
        }
    }
}

#[test]
fn a_failure_that_cannot_be_kept_is_told() {
    let folder = Folder::with("failing.toml", failing());
    folder.write("file", "");
    for json in [&[][..], &["--json"]] {
        let ran = folder.check(&[&["failing.toml", "--out", "file"], json].concat(), 5);
        assert!(ran.err.contains("cannot write file/good-1.toml: "), "{}", ran.err);
        assert!(ran.err.contains("`--out DIR` puts failure files elsewhere"), "{}", ran.err);
        assert!(ran.err.contains("seed 1 of good"), "{}", ran.err);
        // What was run is printed all the same.
        assert!(ran.out.contains("expected committed = 99"), "{}", ran.out);
    }
    // Nobody needs the folder if nothing fails.
    folder.write("good.toml", GOOD);
    folder.check(&["good.toml", "--out", "file/below"], 0);
    assert_eq!(folder.entries(), ["failing.toml", "file", "good.toml"]);
}

#[test]
fn a_check_keeps_failures_where_it_is_told() {
    let folder = Folder::with("failing.toml", failing());
    let ran = folder.check(&["check", "failing.toml", "--seeds", "1..3", "--out", "kept"], 0);
    assert_eq!(ran.out.matches("in both processes").count(), 2, "{}", ran.out);
    assert_eq!(folder.entries(), ["failing.toml", "kept"]);
}

// ---- smaller failures, and what led to them ----

/// A participant is away for longer than anybody is patient, and much else goes wrong beside it.
fn stuck() -> String {
    let crash = "on = \"append(tx_commit_start)#1@n0\"\nkind = \"power-loss\"\ndown = \"20ms\"";
    let away =
        "on = \"durable(tx_commit_start)#1@n0\"\nnode = 3\nkind = \"power-loss\"\ndown = \"7201s\"";
    let chaos = "[chaos]\npauses = 9\ndrops = 5\nwindow = \"0ms..1s\"\n\n[liveness]";
    let stuck = GOOD.replace(crash, away).replace("[\"presumed_abort\"]", "[]");
    let stuck = stuck.replace("\"mixed\"", "\"twopc\"").replace("pants = 3", "pants = 4");
    stuck.replace("[liveness]", chaos)
}

#[test]
fn a_failure_is_shrunk_when_it_is_found() {
    let folder = Folder::with("stuck.toml", stuck());
    let ran = folder.check(&["stuck.toml"], 2);
    assert!(
        ran.out.contains(": 17 plan entries to 1, 10 operations to 1, 4 nodes to "),
        "{}",
        ran.out
    );
    assert_eq!(ran.last_line(), "cargo xtask sim repro out/good-1.shrunk.toml");
    assert_eq!(folder.repeat(&ran.out, 2).last_line(), "it fails as it did");
    // Both files are there, and both fail.
    folder.check(&["repro", "out/good-1.toml"], 2);
    let small = folder.read("out/good-1.shrunk.toml");
    assert_eq!(small.matches("[[fault]]").count(), 1, "{small}");
    assert!(!small.contains("loss = ") && !small.contains("about"), "{small}");
    assert!(small.contains("down = \"7000s\""), "a simpler time is as good: {small}");
    // It is as small as it gets.
    let again = folder.check(&["shrink", "out/good-1.shrunk.toml", "--json", "--out", "again"], 2);
    let line = &again.lines()[0];
    assert_eq!(line["before"], line["after"], "{line}");
    assert_eq!((&line["finished"], &line["signature"]), (&true.into(), &"no progress".into()));
}

#[test]
fn only_the_same_failure_counts() {
    // Without its faults the run fails too, but by an expectation.
    let folder =
        Folder::with("stuck.toml", stuck().replace("[expect]", "[expect]\ncommitted = 99"));
    folder.check(&["stuck.toml", "--no-shrink"], 2);
    let ran = folder.check(&["shrink", "out/good-1.toml", "--for", "60s"], 2);
    assert!(ran.out.starts_with("out/good-1.toml: seed 1\nno progress: "), "{}", ran.out);
    assert_eq!(folder.repeat(&ran.out, 2).last_line(), "it fails as it did");
    let small = folder.read("out/good-1.shrunk.toml");
    assert_eq!(small.matches("[[fault]]").count(), 1, "{small}");
}

#[test]
fn what_cannot_be_shrunk_is_told() {
    let folder = Folder::with("good.toml", GOOD);
    assert_eq!(
        folder.check(&["shrink", "good.toml"], 0).last_line(),
        "it runs clean: there is nothing to shrink"
    );
    // What has not happened does not happen in a smaller run either.
    folder.write("idle.toml", easy().replace("sometimes = []", "sometimes = [\"zombie_fenced\"]"));
    let ran = folder.check(&["idle.toml"], 1);
    assert!(
        ran.out.contains("not shrunk: `expect.sometimes.zombie_fenced` asks for"),
        "{}",
        ran.out
    );
    assert_eq!(ran.last_line(), "cargo xtask sim repro out/good-1.toml");
    assert!(folder.check(&["shrink", "idle.toml"], 4).err.contains("asks for something"));
    let other = folder.read("out/good-1.toml").replace("expect.sometimes.zombie_fenced", "I3");
    folder.write("other.toml", other);
    let ran = folder.check(&["shrink", "other.toml"], 4);
    assert!(ran.err.contains("fails otherwise than it says"), "{}", ran.err);
    folder.check(&["shrink", "nowhere.toml"], 4);
    folder.check(&["shrink", "good.toml", "--for", "soon"], 4);
}

#[test]
fn a_failure_is_shown_at_any_event() {
    let folder = Folder::with("stuck.toml", stuck());
    folder.check(&["stuck.toml", "--no-shrink"], 2);
    let file = "out/good-1.toml";
    let ran = folder.check(&["repro", file, "--goto", "120"], 0);
    for words in ["behind event 120, at ", "n0: runs, start 1", "coordinator log: ", "on their way"]
    {
        assert!(ran.out.contains(words), "{words}: {}", ran.out);
    }
    let one = folder.check(&["repro", file, "--goto", "120", "--node", "n3", "--json"], 0).lines();
    assert_eq!((one.len(), &one[0]["event"]), (1, &120.into()));
    assert_eq!(one[0]["nodes"][0]["node"], 3);
    // The events before it lead there, and the run goes on as it went.
    let traced = folder.check(&["repro", file, "--goto", "120", "--trace", "--json"], 0).lines();
    let events: Vec<u64> = traced.iter().filter_map(|line| line["event"].as_u64()).collect();
    assert!(events.is_sorted() && events[0] == 1 && events.ends_with(&[120]), "{events:?}");
    assert_eq!(traced.last().unwrap()["hash"], one[0]["hash"]);
    let all = folder.check(&["repro", file, "--trace"], 2);
    assert!(all.out.contains("fault 0 strikes: power-loss"), "{}", all.out);
    assert_eq!(all.last_line(), "it fails as it did");
    let never = folder.check(&["repro", file, "--goto", "99999999"], 4);
    assert!(
        never.err.contains("event 99999999 never comes: the run ends with event "),
        "{}",
        never.err
    );
    assert!(
        folder.check(&["repro", file, "--goto", "9", "--node", "n7"], 4).err.contains("no node n7")
    );
}

#[test]
fn a_failure_is_forked_with_a_fault_less_or_more() {
    let folder = Folder::with("stuck.toml", stuck());
    folder.check(&["stuck.toml", "--no-shrink"], 2);
    let file = "out/good-1.toml";
    // Without the one that matters it runs clean.
    let ran = folder.check(&["repro", file, "--fork", "--without", "0"], 0);
    assert!(
        ran.out.contains("they part at event ") && ran.out.contains("forked:     clean"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("as it went: no progress"), "{}", ran.out);
    // With one more it still fails, and its file repeats it.
    let add = "kind = \"power-loss\", node = 1, down = \"20ms\"";
    // So early that the time in which all has to end does not begin anew with it.
    let args = ["repro", file, "--goto", "60", "--fork", "--add", add];
    let ran = folder.check(&args, 2);
    assert!(ran.out.contains("forked behind event 60\nthey part at event 6"), "{}", ran.out);
    assert_eq!(ran.last_line(), "cargo xtask sim repro out/good-1.fork.toml");
    assert_eq!(folder.repeat(&ran.out, 2).last_line(), "it fails as it did");
    let forked = folder.check(&["repro", file, "--fork", "--without", "0", "--json"], 0).lines();
    assert_eq!(forked[0]["forked"]["verdict"], "clean");
    for (args, words) in [
        (&["--fork"][..], "--fork needs a fault more"),
        (&["--without", "0"], "--fork"),
        (&["--goto", "100", "--fork", "--without", "1"], "fault 1 has struck before event 100"),
        (&["--fork", "--without", "99"], "there is no fault 99: the plan has 17 entries"),
        (&["--fork", "--add", "kind = \"meteor\""], "unknown variant"),
        (&["--fork", "--add", "kind ="], "is no fault"),
        (&["--fork", "--add", "kind = \"pause\", node = 9, for = \"1s\""], "no node n9"),
    ] {
        let ran = folder.check(&[&["repro", file][..], args].concat(), 4);
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
    }
}

// ---- what failed once ----

#[test]
fn the_corpus_is_listed_and_run_first() {
    let folder = Folder::with("scenarios/good.toml", GOOD);
    let lesson = easy().replace("format = 1", "format = 1\nderivation = 1");
    let lesson = format!("# A vote was counted twice.{lesson}");
    folder.write("scenarios/regressions/votes.toml", &lesson);
    let ran = folder.check(&["corpus", "scenarios/regressions"], 0);
    let listed = "clean       votes\n            A vote was counted twice.\n";
    assert!(ran.out.starts_with(listed), "{}", ran.out);
    assert_eq!(ran.last_line(), "1 files, all clean");
    let ran = folder.check(&["all", "scenarios"], 0);
    let first = "scenarios/regressions: 1 files that failed once, all clean\ngood: seed 1\n";
    assert!(ran.out.starts_with(first), "{}", ran.out);
    // One that fails again.
    let failing = lesson.replace("[expect]", "[expect]\ncommitted = 99");
    folder.write("scenarios/regressions/again.toml", failing);
    let ran = folder.check(&["corpus", "scenarios/regressions"], 1);
    assert!(ran.out.contains("expectation again\n"), "{}", ran.out);
    assert_eq!(folder.repeat(&ran.out, 1).last_line(), "it fails as it did");
    let lines = folder.check(&["corpus", "scenarios/regressions", "--json"], 1).lines();
    assert_eq!((lines.len(), &lines[1]["why"]), (2, &"A vote was counted twice.".into()));
    folder.check(&["all", "scenarios", "--no-shrink"], 1);
}

#[test]
fn a_corpus_file_of_another_version_is_refused() {
    let lesson = easy().replace("format = 1", "format = 1\nderivation = 1");
    let lesson = format!("# A vote was counted twice.{lesson}");
    for (from, to, words) in [
        ("format = 1", "format = 7", "format 7: this build reads format 1"),
        (
            "derivation = 1",
            "derivation = 9",
            "version 9 of the randomness: this build has version 1",
        ),
        ("derivation = 1\n", "", "does not say with which version of the randomness"),
        ("# A vote was counted twice.", "", "does not say why it is kept"),
    ] {
        let folder = Folder::with("regressions/votes.toml", lesson.replacen(from, to, 1));
        for args in [&["corpus", "regressions"][..], &["all", "."]] {
            folder.write("good.toml", GOOD);
            let ran = folder.check(args, 4);
            assert!(ran.err.contains(words) && ran.err.contains("votes.toml"), "{}", ran.err);
            assert_eq!(ran.out, "");
        }
    }
    let empty = Folder::new();
    assert!(empty.check(&["corpus"], 4).err.contains("no scenario file (*.toml) in "));
}

// ---- the same run twice ----

#[test]
fn random_worlds_are_checked_with_the_other_queue() {
    let folder = Folder::new();
    let ran = folder.check(&["check", "--random", "0..300"], 0);
    assert!(ran.out.starts_with("random small worlds: 300 seeds, 0 on\n"), "{}", ran.out);
    assert!(ran.last_line().starts_with("300 runs with the wheel here and the heap there, in "));
    let lines = folder.check(&["check", "--random", "0..20", "--json"], 0).lines();
    assert_eq!((&lines[0]["checked"], &lines[0]["mismatches"]), (&20.into(), &0.into()));
    folder.check(&["check", "--random", "0..3", "--seed", "1"], 4);
}

// ---- sweep and merge ----

#[test]
fn shards_add_up_to_the_whole_and_nothing_else_does() {
    // Whatever the seed, this one is clean.
    let text = include_str!("../../../../sim-scenarios/enumerate/twopc-3.toml");
    let folder = Folder::with("good.toml", text.replace("enumerate-twopc-3", "good"));
    let sweep = |shard: &str, out: &str| {
        let args = [
            "sweep",
            "good.toml",
            "--seeds",
            "5..17",
            "--shard",
            shard,
            "--out",
            out,
            "--jobs",
            "1",
        ];
        folder.check(&args, 0)
    };
    for (shard, out) in [("0/3", "a"), ("1/3", "b"), ("2/3", "c"), ("0/1", "all")] {
        sweep(shard, out);
    }
    // Whole, and nothing beside it.
    assert_eq!(folder.entries(), ["a", "all", "b", "c", "good.toml"]);
    let digest = |files: &[&str]| {
        let args: Vec<&str> =
            ["merge", "--json"].into_iter().chain(files.iter().copied()).collect();
        folder.check(&args, 0).lines()[0]["digest"].as_str().unwrap().to_owned()
    };
    let whole = digest(&["all"]);
    assert_eq!((digest(&["a", "b", "c"]), digest(&["c", "a", "b"])), (whole.clone(), whole));
    let refused = |files: &[&str], code, words: &[&str]| {
        let args: Vec<&str> = ["merge"].into_iter().chain(files.iter().copied()).collect();
        let err = folder.check(&args, code).err;
        words.iter().for_each(|word| assert!(err.contains(word), "{word}: {err}"));
    };
    refused(&["a", "c"], 5, &["4 seeds of 5..17 are missing, the first is 7, of shard 1/3"]);
    refused(&["a", "b", "c", "b"], 5, &["seed 7 is in b and in b"]);
    refused(&["a", "all"], 5, &["shards of 3", "shards of 1"]);
    refused(&["a", "nowhere"], 5, &["cannot read nowhere"]);
    refused(&["good.toml"], 4, &["good.toml is no result of a sweep"]);
    let text = folder.read("b");
    folder.write("cut", &text[..text.len() - 5]);
    refused(&["a", "cut", "c"], 5, &["cut is cut or damaged: it has no footer"]);
    folder.write("changed", text.replacen("clean", "ClEan", 1));
    refused(&["a", "changed", "c"], 5, &["its checksum"]);
    // Another build's file is whole, and of another build.
    let build = text.split("\"build\":\"").nth(1).unwrap().split('"').next().unwrap();
    let other = text.replace(build, "0123456789abcdef0123456789abcdef");
    let end = other.trim_end().rfind('\n').unwrap() + 1;
    let sum = format!("{:08x}", crc32c::crc32c(&other.as_bytes()[..end]));
    let before = text.split("\"checksum\":\"").nth(1).unwrap().split('"').next().unwrap();
    folder.write("other", other.replace(before, &sum));
    refused(&["a", "other", "c"], 5, &["not one build: a has", "other has 0123456789abcdef"]);
    // Random small worlds, and what does not go.
    folder.check(&["sweep", "random", "--seeds", "0..8", "--out", "r"], 0);
    refused(&["a", "r"], 5, &["not one scenario: a has good, r has random"]);
    folder.check(&["merge", "r"], 0);
    folder.check(&["sweep", "good.toml", "--seeds", "0..2", "--out", "good.toml/x"], 5);
    folder.check(&["sweep", "good.toml", "--seeds", "0..2"], 4);
}

#[test]
fn a_sweep_that_fails_says_so_in_every_way() {
    let bad = GOOD.replace("[expect]", "[expect]\ncommitted = 4711");
    let folder = Folder::with("bad.toml", bad);
    let args = ["sweep", "bad.toml", "--seeds", "0..3", "--out", "f", "--junit", "r.xml"];
    let ran = folder.check(&args, 1);
    folder.repeat(&ran.out, 1);
    let xml = folder.read("r.xml");
    assert!(xml.contains("tests=\"3\" failures=\"3\""), "{xml}");
    assert_eq!(
        xml.matches("<failure type=\"expectation\" message=\"expect.committed\">").count(),
        3
    );
    let merged = folder.check(&["merge", "f"], 1);
    assert!(merged.out.contains("verdict  3 expectation"), "{}", merged.out);
    assert_eq!(merged.last_line(), "cargo xtask sim good --seed 0");
}

// ---- enumerate ----

#[test]
fn an_enumeration_says_what_it_reached_and_repeats_what_failed() {
    let folder = Folder::with("good.toml", "");
    let text = include_str!("../../../../sim-scenarios/enumerate/twopc-3.toml");
    folder.write("good.toml", text);
    let few = ["enumerate", "good.toml", "--cuts", "1", "--every", "4"];
    let ran = folder.check(&["enumerate", "good.toml", "--cuts", "1"], 0);
    for word in ["misclassified 0", "unreached", "append(tx_commit_start)", "send(commit)"] {
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
    }
    let json = folder.check(&[&few[..], &["--json", "--depth", "2"]].concat(), 0);
    let line = &json.lines()[0];
    assert_eq!(line["misclassified"], 0);
    let cells = line["cells"].as_array().unwrap();
    let runs: u64 = cells.iter().map(|cell| cell["runs"].as_u64().unwrap()).sum();
    assert_eq!(Some(runs), line["runs"].as_u64());
    assert!(cells.iter().any(|cell| cell["crash"] == 2 && cell["state"] == "recovering"));
    // What does not end in time fails, and its file fails as it did. It heals like any other scenario,
    // and the file says otherwise, so that its fault may wait for the last step.
    let tight = text
        .replace("heals = \"rest\"\n", "")
        .replace("[budget]\nevents = 20_000", "[budget]\nevents = 90");
    folder.write("tight.toml", tight);
    let ran = folder.check(&["enumerate", "tight.toml", "--cuts", "1"], 2);
    folder.repeat(&ran.out, 2);
    folder.check(&["enumerate"], 4);
    folder.check(&["enumerate", "good.toml", "--depth", "3"], 4);
}

// ---- export and view ----

#[test]
fn an_export_is_what_its_readers_read() {
    let folder = Folder::with("good.toml", GOOD);
    let args = ["export", "good.toml", "--seed", "2", "--format"];
    let trace: Value =
        serde_json::from_str(&folder.check(&[&args[..], &["perfetto"]].concat(), 0).out).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |ph: &'static str| events.iter().filter(move |event| event["ph"] == ph);
    assert_eq!(of("M").filter(|event| event["name"] == "process_name").count(), 4);
    let ids = |ph| of(ph).map(|event| event["id"].as_u64().unwrap()).collect::<Vec<u64>>();
    let (sent, arrived) = (ids("s"), ids("f"));
    assert!(arrived.len() > 50 && arrived.iter().all(|id| sent.contains(id)));
    assert!(events.iter().all(|event| event["ph"] == "M" || event["ts"].as_f64().is_some()));
    assert!(of("i").any(|event| event["name"] == "its power fails"));

    folder.check(&[&args[..], &["shiviz", "--out", "x.log"]].concat(), 0);
    let log = folder.read("x.log");
    let mut lines = log.lines();
    assert_eq!(lines.next(), Some(r"(?<event>.*)\n(?<host>\S*) (?<clock>{.*})"));
    assert_eq!(lines.next(), Some(""));
    let mut clocks = std::collections::BTreeMap::new();
    let mut merged = false;
    while let Some(what) = lines.next() {
        let (host, clock) = lines.next().unwrap().split_once(' ').unwrap();
        let clock: std::collections::BTreeMap<String, u64> = serde_json::from_str(clock).unwrap();
        // Each host counts its own events from 1, and forgets nobody.
        let before = clocks.insert(host.to_owned(), clock.clone()).unwrap_or_default();
        assert_eq!(clock[host], before.get(host).copied().unwrap_or(0) + 1, "{what}");
        assert!(before.iter().all(|(other, time)| clock[other] >= *time), "{what}");
        merged |= clock.len() > 2;
    }
    assert!(merged && clocks.len() == 4);
    folder.check(&["export", "good.toml", "--format", "pdf"], 4);
    folder.check(&["export", "nothing.toml", "--format", "shiviz"], 4);
}

#[test]
fn a_view_is_one_file() {
    let folder = Folder::with("good.toml", GOOD);
    let ran = folder.check(&["view", "good.toml", "--out", "page.html"], 0);
    assert_eq!(ran.last_line(), "page.html");
    assert_eq!(folder.entries(), ["good.toml", "page.html"]);
    assert!(folder.read("page.html").starts_with("<!DOCTYPE html>"));
}
