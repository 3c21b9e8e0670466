//! The binary as people and scripts meet it: what it prints, and the exit code.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use base::{CoordinatorId, Epoch, OperationId, ShardId};
use coordinator::{OperationReport, RecoveryReport, Replay};
use serde_json::{Value, json};
use tempfile::TempDir;
use twopc::Transaction;
use wal_core::{Config, EventType, FileLog, MemoryStorage, ScanConfig, SegmentId};

// ---- running it ----

struct Ran {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl Ran {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap()
    }
}

fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trinity"));
    command.arg("wal").args(args).stdin(Stdio::null());
    command
}

fn run(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(!err.contains("panicked"), "{err}");
    // No terminal looks: neither colours nor progress.
    assert!(!err.contains(['\x1b', '\r']), "{err:?}");
    Ran { code: output.status.code().unwrap(), out: output.stdout, err }
}

fn trinity(verb: &str, path: impl AsRef<OsStr>, flags: &[&str]) -> Ran {
    let args = [OsStr::new(verb), path.as_ref()].into_iter().chain(flags.iter().map(OsStr::new));
    run(command(args))
}

/// Runs, and insists on the exit code.
#[track_caller]
fn check(verb: &str, path: impl AsRef<OsStr>, flags: &[&str], code: i32) -> Ran {
    let ran = trinity(verb, path, flags);
    assert_eq!(ran.code, code, "{verb} {flags:?}: {}{}", ran.text(), ran.err);
    ran
}

#[track_caller]
fn import(dir: &Path, lines: impl AsRef<[u8]>, flags: &[&str], code: i32) -> Ran {
    let input = TempDir::new().unwrap();
    let file = input.path().join("lines");
    fs::write(&file, lines).unwrap();
    let args = [OsStr::new("import"), dir.as_ref()].into_iter();
    let mut command = command(args.chain(flags.iter().map(OsStr::new)));
    command.stdin(File::open(file).unwrap());
    let ran = run(command);
    assert_eq!(ran.code, code, "{}", ran.err);
    ran
}

/// A path that is not there yet.
fn fresh() -> (TempDir, PathBuf) {
    let inside = TempDir::new().unwrap();
    let path = inside.path().join("log");
    (inside, path)
}

/// Every file of a directory, with what is in it.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = dir.read_dir().unwrap().map(|entry| entry.unwrap());
    files
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .collect()
}

fn segment(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:016x}.wal"))
}

fn vectors() -> Vec<(PathBuf, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors");
    let expected = fs::read(folder.join("expected.json")).unwrap();
    let expected: BTreeMap<String, Value> = serde_json::from_slice(&expected).unwrap();
    assert_eq!(expected.len(), 8);
    expected.into_iter().map(|(name, value)| (folder.join(name), value)).collect()
}

fn vector(beginning: &str) -> PathBuf {
    let named = |path: &PathBuf| {
        path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(beginning))
    };
    vectors().into_iter().map(|(path, _)| path).find(named).unwrap()
}

/// A log in a directory, imported from the vector.
fn imported(path: &Path) -> (TempDir, PathBuf) {
    let (inside, dir) = fresh();
    import(&dir, check("dump", path, &["--json"], 0).out, &[], 0);
    (inside, dir)
}

fn event(event: &str, payload: &str) -> String {
    format!("{{\"type\":\"{event}\",\"timestamp_ms\":1700000000000,\"payload\":{payload}}}\n")
}

// ---- the published logs ----

fn check_expected(report: &Value, expected: &Value, integrity: &str) {
    for count in
        ["records", "last_sequence", "saga_events", "tx_events", "checkpoints", "corrupted_records"]
    {
        assert_eq!(report[count], expected[count], "{count}");
    }
    assert_eq!(report["integrity"], integrity);
    assert_eq!(report["torn_tail_bytes"], 0);
    for empty in ["anomalies", "corruption"] {
        assert_eq!(report[empty], json!([]));
    }
    for kind in ["saga", "tx"] {
        let completed = report["completed"][kind].as_object().unwrap();
        let mut ids: Vec<u64> = completed.keys().map(|id| id.parse().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(json!(ids), expected["completed"][kind]);
    }
    let (found, expected) = (&report["operations"], &expected["operations"]);
    let (found, expected) = (found.as_array().unwrap(), expected.as_array().unwrap());
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found["in_doubt"], false);
        for (field, value) in expected.as_object().unwrap() {
            let votes = |which: &str| {
                found["votes"].as_object().unwrap().values().filter(|vote| *vote == which).count()
            };
            let found = match field.as_str() {
                "participants" => json!(found["participants"].as_array().unwrap().len()),
                "votes_commit" => json!(votes("commit")),
                "votes_abort" => json!(votes("abort")),
                field => found[field].clone(),
            };
            assert_eq!(found, *value, "{field}");
        }
    }
}

#[test]
fn published_logs_are_recovered() {
    for (path, expected) in vectors() {
        let report = check("recover", &path, &["--json"], 0).json();
        check_expected(&report, &expected, "unprotected");
        check("recover", &path, &[], 0);
    }
}

#[test]
fn published_logs_go_in_and_out_unchanged() {
    for (path, expected) in vectors() {
        let (_inside, dir) = imported(&path);
        let report = check("recover", &dir, &["--json"], 0).json();
        check_expected(&report, &expected, "guarded");
        assert_eq!(check("export", &dir, &[], 0).out, fs::read(&path).unwrap());

        let (_inside, again) = fresh();
        import(&again, check("dump", &dir, &["--json", "--guards"], 0).out, &[], 0);
        assert_eq!(check("export", &again, &[], 0).out, fs::read(&path).unwrap());
    }
}

#[test]
fn evidence_is_the_record_that_proves_the_class() {
    let evidence = |name| {
        let report = check("recover", vector(name), &["--json"], 0).json();
        let operations = report["operations"].as_array().unwrap().iter();
        operations.map(|found| found["evidence_sequence"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(evidence("05"), [10]);
    assert_eq!(evidence("22"), [117, 122, 130, 137, 144]);
}

// ---- what is printed ----

#[test]
fn a_report_has_its_fields_in_order() {
    let report = check("recover", vector("04"), &["--json"], 0);
    assert_eq!(
        report.text(),
        concat!(
            r#"{"records":7,"last_sequence":7,"saga_events":7,"tx_events":0,"checkpoints":0,"#,
            r#""corrupted_records":0,"torn_tail_bytes":0,"integrity":"unprotected","#,
            r#""operations":[{"kind":"saga","id":1,"state":"executing","#,
            r#""action":"saga_resume_execute","in_doubt":false,"steps":3,"next_step":2,"run":[2],"#,
            r#""undo":[],"parked":[],"evidence_sequence":5,"last_sequence":7,"created_ms":1000}],"#,
            r#""completed":{"saga":{},"tx":{}},"completed_left_out":0,"anomalies":[],"#,
            r#""anomalies_left_out":0,"corruption":[],"corruption_left_out":0}"#,
            "\n"
        )
    );
}

#[test]
fn a_dumped_record_has_its_fields_in_order() {
    let (_inside, dir) = fresh();
    let shard = "ab".repeat(32);
    let lines = [
        event("tx_vote_received", &format!(r#"{{"id":3,"shard":"{shard}","vote":"commit"}}"#)),
        event("saga_completed", r#"{"id":5,"ext":{"version":1,"tags":[[7,"0a0b"],[7,""]]}}"#),
        event("0x2a", r#"{"raw":"00ff"}"#),
        event("saga_completed", r#"{"raw":""}"#),
    ];
    import(&dir, lines.concat(), &[], 0);
    let dump = check("dump", &dir, &["--json"], 0);
    let mut off = 1024 + 58 + 4;
    for (line, (kind, len, payload)) in [
        ("tx_vote_received", 70, format!(r#"{{"id":3,"shard":"{shard}","vote":"commit"}}"#)),
        (
            "saga_completed",
            46,
            r#"{"id":5,"ext":{"version":1,"tags":[[7,"0a0b"],[7,""]]}}"#.to_owned(),
        ),
        ("0x2a", 31, r#"{"raw":"00ff"}"#.to_owned()),
        ("saga_completed", 29, r#"{"raw":""}"#.to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let (seq, hash) = (line + 1, hash(&dump, line));
        let what = format!(r#"{{"seq":{seq},"type":"{kind}","timestamp_ms":1700000000000,"#);
        let place = format!(r#""file":"0000000000000001.wal","off":{off},"len":{len},"#);
        let rest = format!(r#""crc_ok":true,"hash":"{hash}","payload":{payload}}}"#);
        assert_eq!(dump.text().lines().nth(line), Some(&*(what + &place + &rest)));
        off += len;
    }
    assert_eq!(hash(&dump, 3), "00000000");
    let text = check("dump", &dir, &[], 0);
    let lines: Vec<&str> = text.text().lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].contains("tx_vote_received"), "{}", lines[0]);
    assert!(lines[0].contains("2023-11-14T22:13:20.000Z"), "{}", lines[0]);
    assert!(lines[0].contains("id=3 shard=abababab..abababab vote=commit"), "{}", lines[0]);
}

/// A dumped record's hash. It is the CRC-32 of its payload, as the raw stream has it.
fn hash(dump: &Ran, line: usize) -> String {
    let line: Value = serde_json::from_str(dump.text().lines().nth(line).unwrap()).unwrap();
    line["hash"].as_str().unwrap().to_owned()
}

#[test]
fn the_hash_is_the_records_own() {
    for (path, _) in vectors() {
        let bytes = fs::read(&path).unwrap();
        let dump = check("dump", &path, &["--json"], 0);
        for line in dump.text().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let at = line["off"].as_u64().unwrap() as usize;
            let field = [bytes[at + 28], bytes[at + 27], bytes[at + 26], bytes[at + 25]];
            assert_eq!(line["hash"], format!("{:08x}", u32::from_be_bytes(field)));
            assert_eq!(line["file"], path.file_name().unwrap().to_str().unwrap());
        }
    }
}

#[test]
fn guards_are_shown_on_demand() {
    let (_inside, dir) = imported(&vector("04"));
    assert!(!check("dump", &dir, &["--json"], 0).text().contains("guard"));
    for flags in [&["--guards"][..], &["--guards", "--json"]] {
        let dump = check("dump", &dir, flags, 0);
        // The batch, and the two of a clean close; a slow machine makes more batches, and idle ones.
        let guards = dump.text().lines().filter(|line| line.contains("guard")).count();
        assert!(guards >= 3, "{guards} guards");
        assert_eq!(dump.text().lines().count(), 7 + guards);
    }
    // A raw stream has none.
    assert_eq!(check("dump", vector("04"), &["--guards"], 0).text().lines().count(), 7);
}

#[test]
fn integers_are_exact() {
    let (_inside, dir) = fresh();
    let id = u64::MAX;
    let line = |event: &str, ms: i64| {
        format!("{{\"type\":\"{event}\",\"timestamp_ms\":{ms},\"payload\":{{\"id\":{id}}}}}\n")
    };
    import(&dir, line("tx_created", i64::MIN) + &line("tx_abort_complete", i64::MAX), &[], 0);
    let report = check("recover", &dir, &["--json"], 0);
    assert!(report.text().contains(r#""tx":{"18446744073709551615":"aborted"}"#));
    let dump = check("dump", &dir, &["--json"], 0);
    assert!(dump.text().contains(r#""timestamp_ms":-9223372036854775808,"#));
    assert!(dump.text().contains(r#""payload":{"id":18446744073709551615,"coordinator":"#));
    check("dump", &dir, &[], 0);
}

#[test]
fn a_promise_is_told_with_its_coordinator() {
    let (coordinator, shard) = (CoordinatorId::numbered(1), ShardId::numbered(2));
    let key = twopc::participant::PromiseKey {
        tx: twopc::TxKey { coordinator, id: OperationId(9) },
        shard,
    };
    let prepared = twopc::participant::Event::Prepared {
        key,
        epoch: Epoch::new(1),
        peers: [].into(),
        work: [1, 2, 3].into(),
    };
    let mut payload = Vec::new();
    coordinator::codec::encode_participant(&prepared, &mut payload);
    let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    let (_inside, dir) = fresh();
    import(&dir, event("tx_prepared", &format!(r#"{{"raw":"{hex}"}}"#)), &[], 0);
    let report = check("recover", &dir, &["--json"], 0).json();
    assert_eq!(
        report["operations"],
        json!([{
            "kind": "participant", "coordinator": coordinator.to_string(), "id": 9,
            "state": "prepared", "action": "none", "in_doubt": true, "shard": shard.to_string(),
            "evidence_sequence": 1, "last_sequence": 1, "created_ms": 1_700_000_000_000u64,
        }])
    );
    assert!(check("recover", &dir, &[], 0).text().contains("1 in doubt"));
}

/// What operators have forced, and what ended otherwise, is told, and why and by which record.
#[test]
fn what_operators_have_forced_is_told() {
    use twopc::participant::{Event, Finding};
    let (coordinator, shard) = (CoordinatorId::numbered(1), ShardId::numbered(2));
    let (id, node) = (OperationId(9), base::NodeName::numbered(3));
    let tx = twopc::TxKey { coordinator, id };
    let key = twopc::participant::PromiseKey { tx, shard };
    let audit = std::sync::Arc::new(twopc::Audit {
        at_ms: 1_700_000_000_000,
        who: "eva".into(),
        why: "the site is gone".into(),
    });
    let (epoch, peers, work) = (Epoch::new(1), [].into(), [1].into());
    let events = [
        Event::Prepared { key, epoch, peers, work },
        Event::Forced { key, commit: true, audit: audit.clone() },
        Event::Heuristic { key, found: Finding::Decided { commit: false } },
    ];
    let line = |name: &str, payload: &[u8]| {
        let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        event(name, &format!(r#"{{"raw":"{hex}"}}"#))
    };
    let mut lines = String::new();
    for event in &events {
        let mut payload = Vec::new();
        coordinator::codec::encode_participant(event, &mut payload);
        lines += &line(event.name(), &payload);
    }
    let heuristic = twopc::Heuristic::Committed;
    let reported = twopc::heuristic::Event::Reported { id, shard, node, heuristic };
    let mut payload = Vec::new();
    coordinator::codec::encode_heuristic(coordinator, &reported, &mut payload);
    lines += &line(reported.name(), &payload);
    let (shard, audit) = (ShardId::numbered(3), audit.clone());
    let gone = twopc::heuristic::Event::Gone { id, shard, node, audit };
    payload.clear();
    coordinator::codec::encode_heuristic(coordinator, &gone, &mut payload);
    lines += &line(gone.name(), &payload);
    let (_inside, dir) = fresh();
    import(&dir, lines, &[], 0);
    let report = check("recover", &dir, &["--json", "--explain"], 0).json();
    let forced = &report["forced"][0];
    assert_eq!((&forced["forced"], &forced["decided"]), (&json!("commit"), &json!("abort")));
    assert_eq!((&forced["who"], &forced["why"]), (&json!("eva"), &json!("the site is gone")));
    assert_eq!(forced["evidence"]["event"], json!("tx_participant_committed"));
    let heuristic = &report["heuristics"][0];
    assert_eq!(heuristic["heuristic"], json!("mixed"));
    assert_eq!((&heuristic["branch"], &heuristic["id"]), (&json!("committed"), &json!(9)));
    assert_eq!(heuristic["evidence"]["sequence"], json!(4));
    let listed = report["heuristics"].as_array().unwrap();
    let gone = listed.iter().find(|it| it["heuristic"] == json!("hazard")).unwrap();
    let word = json!({ "at_ms": 1_700_000_000_000_i64, "who": "eva", "why": "the site is gone" });
    assert_eq!((&gone["gone"], &gone["evidence"]["sequence"]), (&word, &json!(5)));
    assert_eq!(heuristic.get("gone"), None);
    let told = check("recover", &dir, &["--explain"], 0);
    let told = told.text();
    for part in [
        " is gone for good, says eva, 2023-11-14T22:13:20.000Z: the site is gone",
        "commit by eva, 2023-11-14T22:13:20.000Z: the site is gone; mixed: ",
        "heuristic: tx 9, shard ",
        "record 4, tx_heuristic, in ",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

/// A record says under a tag of a newer version what nobody may pass over: what the log holds can be printed,
/// and what it means is not guessed.
#[test]
fn what_has_to_be_understood_is_not_passed_over() {
    let (inside, dir) = fresh();
    let (log, _) = FileLog::open(&dir, &Config::default(), &mut ()).unwrap();
    let mut payload = 7_u64.to_le_bytes().to_vec();
    payload.push(coordinator::codec::EXTENSION_VERSION);
    wal_core::encode_extension(100, b"new", &mut payload);
    log.append_durable(EventType::SAGA_EXECUTE_START, 0, &payload).unwrap();
    log.close().unwrap();
    let before = contents(&dir);
    for verb in ["dump", "verify"] {
        check(verb, &dir, &[], 0);
    }
    let to = inside.path().join("new");
    for flags in [&["recover"][..], &["salvage", "--to", to.to_str().unwrap()]] {
        let ran = check(flags[0], &dir, &flags[1..], 4);
        assert!(
            ran.err.contains("record 1, saga_execute_start, says under tag 100"),
            "{}",
            ran.err
        );
        assert!(ran.err.contains("use the trinity that wrote it, or a newer one"), "{}", ran.err);
    }
    assert_eq!(contents(&dir), before);
}

#[test]
fn nobody_has_to_read_to_the_end() {
    let (_inside, dir) = fresh();
    let lines: String =
        (1..=5_000).map(|id| event("tx_created", &format!(r#"{{"id":{id}}}"#))).collect();
    import(&dir, lines, &[], 0);
    for verb in ["dump", "export", "recover", "verify"] {
        let mut command = command([OsStr::new(verb), dir.as_ref()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut first = [0; 1];
        let mut stdout = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut stdout, &mut first).unwrap();
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{verb}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{verb}");
    }
}

#[test]
fn help_names_the_exit_codes() {
    for args in [
        &["--help"][..],
        &["recover", "--help"],
        &["dump", "-h"],
        &["import", "--help"],
        &["import", "-h"],
        &["export", "--help"],
        &["verify", "--help"],
        &["salvage", "--help"],
        &["salvage", "-h"],
    ] {
        let ran = run(command(args));
        assert_eq!(ran.code, 0);
        assert!(ran.text().contains("Exit codes:\n  0  clean"), "{}", ran.text());
    }
    for args in [
        &[][..],
        &["recover"],
        &["recover", "x", "--jsno"],
        &["recover", "x", "--explain=some"],
        &["dmup", "x"],
        &["salvage", "x"],
        &["salvage", "--to", "x"],
        &["verify"],
    ] {
        let ran = run(command(args));
        assert_eq!(ran.code, 4, "{args:?}: {}", ran.err);
        assert_eq!(ran.text(), "");
    }
}

// ---- importing ----

#[test]
fn acknowledgements_come_in_order_with_the_hash() {
    let (_inside, dir) = fresh();
    let dump = check("dump", vector("22"), &["--json"], 0);
    let acks = import(&dir, &dump.out, &["--acks"], 0);
    let expected: String =
        (0..144).map(|line| format!("ack {} {}\n", line + 1, hash(&dump, line))).collect();
    assert_eq!(acks.text(), expected);
    assert_eq!(
        import(&dir, event("0x2a", r#"{"raw":""}"#), &["--acks"], 0).text(),
        "ack 145 00000000\n"
    );
}

#[test]
fn a_log_grows_over_several_imports() {
    let (_inside, dir) = fresh();
    let bytes = fs::read(vector("22")).unwrap();
    let dump = check("dump", vector("22"), &["--json"], 0);
    for line in dump.text().split_inclusive('\n') {
        import(&dir, line, &[], 0);
    }
    assert_eq!(check("export", &dir, &[], 0).out, bytes);
    import(&dir, "", &[], 0);
    assert_eq!(check("export", &dir, &[], 0).out, bytes);
}

#[test]
fn no_marker_is_written() {
    let (_inside, dir) = fresh();
    let lines: String =
        (1..=2_500).map(|id| event("tx_created", &format!(r#"{{"id":{id}}}"#))).collect();
    import(&dir, lines, &[], 0);
    let report = check("recover", &dir, &["--json"], 0).json();
    assert_eq!((&report["records"], &report["checkpoints"]), (&json!(2_500), &json!(0)));
}

#[test]
fn a_wrong_line_ends_the_import_and_those_before_it_are_kept() {
    let good =
        event("saga_created", r#"{"id":1}"#) + "\n" + &event("saga_execute_start", r#"{"id":1}"#);
    let over_limit = event("0x2a", &format!(r#"{{"raw":"{}"}}"#, "00".repeat(65_537)));
    let long_line = " ".repeat(2 << 20);
    for (wrong, what) in [
        ("{\"type\":\"saga_completed\"\n", "line 4, column 24: EOF"),
        (
            &*event("saga_complete", r#"{"id":1}"#),
            "line 4, column 23: unknown event type `saga_complete`",
        ),
        (&*event("saga_completed", r#"{"ID":1}"#), "line 4, column 69: unknown field `ID`"),
        (&*event("saga_completed", r#"{"id":"1"}"#), "line 4, column 73: invalid type: string"),
        (&*event("0xf1", r#"{"raw":""}"#), "line 4, column 2: event code 0xf1"),
        (&*over_limit, "line 4, column 45: a payload of 65537 bytes"),
        (&*long_line, "line 4, column 1: the line is longer"),
        ("\u{1}\n", "line 4, column 1: expected a JSON object"),
        (
            r#"{"seq":2,"type":"0x2a","timestamp_ms":0,"raw":""}"#,
            "line 4, column 2: `seq` is 2: the log's next is 3",
        ),
        (r#"{"seq":4,"type":"0x2a","timestamp_ms":0,"raw":""}"#, "`seq` is 4: the log's next is 3"),
        (
            r#"{"crc_ok":false,"type":"0x2a","timestamp_ms":0,"raw":""}"#,
            "line 4, column 2: the record was read with a wrong checksum",
        ),
    ] {
        let (_inside, dir) = fresh();
        let lines = format!("{good}{wrong}\n{good}");
        let ran = import(&dir, &lines, &["--acks"], 4);
        assert!(ran.err.contains(what), "{what}: {}", ran.err);
        assert!(ran.err.contains("lines 1 to 3 are appended and durable"), "{}", ran.err);
        assert_eq!(ran.text().lines().count(), 2);
        assert_eq!(check("recover", &dir, &["--json"], 0).json()["records"], 2);
        let with_seq = r#"{"seq":3,"type":"saga_completed","timestamp_ms":0,"payload":{"id":1}}"#;
        import(&dir, with_seq, &[], 0);
    }
}

#[test]
fn a_new_log_begins_with_the_first_sequence() {
    let line = r#"{"seq":7,"type":"0x2a","timestamp_ms":0,"payload":{"raw":""}}"#;
    let (_inside, dir) = fresh();
    let ran = import(&dir, line, &[], 4);
    assert!(ran.err.contains("`seq` is 7: the log's next is 1"), "{}", ran.err);
    assert!(ran.err.contains("nothing was appended"), "{}", ran.err);
    assert!(!dir.exists(), "nothing was written either");
}

/// A log that begins with a snapshot is copied whole or not at all: an import says so, and salvage does it.
#[test]
fn a_compacted_log_is_copied_by_salvage_and_not_by_import() {
    let (inside, dir) = fresh();
    let config = Config { max_records: 1, ..Config::default() };
    let (log, _) = FileLog::open(&dir, &config, &mut ()).unwrap();
    for id in 1..=3_u8 {
        let mut payload = [0; 40];
        payload[0] = id;
        log.append_durable(EventType::TX_CREATED, 1, &payload).unwrap();
    }
    for last in [false, true] {
        log.append_part(1, (0, 0), last, &[]).unwrap();
    }
    for id in 4..=5_u8 {
        let mut payload = [0; 40];
        payload[0] = id;
        log.append_durable(EventType::TX_CREATED, 1, &payload).unwrap();
    }
    log.close().unwrap();
    let dump = check("dump", &dir, &["--json"], 0);
    assert!(dump.text().starts_with("{\"seq\":4,\"type\":\"checkpoint\""), "{}", dump.text());

    let to = inside.path().join("imported");
    let refused = import(&to, &dump.out, &[], 4);
    assert!(refused.err.contains("was compacted: it begins with a snapshot, record 4"));
    assert!(refused.err.contains("trinity wal salvage"), "{}", refused.err);
    assert!(!to.exists(), "no log was created");

    let to = inside.path().join("copy");
    check("salvage", &dir, &["--to", to.to_str().unwrap()], 0);
    let copied = check("dump", &to, &["--json"], 0);
    let without_place = |dump: &Ran| -> Vec<Value> {
        let lines = dump.text().lines().map(|line| serde_json::from_str(line).unwrap());
        let records = lines.map(|mut line: Value| {
            for place in ["file", "off"] {
                line.as_object_mut().unwrap().remove(place);
            }
            line
        });
        records.collect()
    };
    assert_eq!(without_place(&copied), without_place(&dump));
}

#[test]
fn a_wrong_first_event_creates_no_log() {
    let good = event("saga_created", r#"{"id":1}"#);
    let over_limit = event("0x2a", &format!(r#"{{"raw":"{}"}}"#, "00".repeat(65_537)));
    let long_line = " ".repeat(2 << 20);
    let guard = r#"{"seq":1,"type":"guard","timestamp_ms":0}"#;
    for (wrong, what) in [
        ("not even JSON\n", "line 1, column 1: expected a JSON object"),
        ("\n  \nnot even JSON", "line 3, column 1: expected a JSON object"),
        (&*event("saga_complete", r#"{"id":1}"#), "line 1, column 23: unknown event type"),
        (&*event("0xf1", r#"{"raw":""}"#), "line 1, column 2: event code 0xf1"),
        (&*over_limit, "line 1, column 45: a payload of 65537 bytes"),
        (&*long_line, "line 1, column 1: the line is longer"),
        (
            r#"{"seq":2,"type":"0x2a","timestamp_ms":0,"raw":""}"#,
            "line 1, column 2: `seq` is 2: the log's next is 1",
        ),
        (&*format!("{guard}\n{{}}\n"), "line 2, column 2: missing field"),
    ] {
        let lines = format!("{wrong}\n{good}");
        let (inside, dir) = fresh();
        let (empty, begun) = (inside.path().join("empty"), inside.path().join("begun"));
        for there in [&empty, &begun] {
            fs::create_dir(there).unwrap();
        }
        fs::write(begun.join("lock"), "").unwrap();
        fs::write(begun.join("spare-100000"), [0; 4096]).unwrap();
        for dir in [&dir, &empty, &begun] {
            let ran = import(dir, &lines, &["--acks"], 4);
            assert!(ran.err.contains(what), "{what}: {}", ran.err);
            assert!(ran.err.contains("nothing was appended"), "{}", ran.err);
            assert_eq!(ran.text(), "");
        }
        assert!(!dir.exists());
        assert_eq!((contents(&empty).len(), contents(&begun).len()), (0, 2));
        // The right lines begin a log in each of them.
        for dir in [&dir, &empty, &begun] {
            import(dir, &good, &[], 0);
            assert_eq!(check("recover", dir, &["--json"], 0).json()["records"], 1);
        }
    }
}

/// What no other command would call a log does not become one in passing.
#[test]
fn no_log_is_created_among_foreign_files() {
    let inside = TempDir::new().unwrap();
    let good = event("saga_created", r#"{"id":1}"#);
    for (name, foreign) in
        [("files", &["data"][..]), ("locked", &["data", "lock"]), ("misnamed", &["1.wal"])]
    {
        let dir = inside.path().join(name);
        fs::create_dir(&dir).unwrap();
        for file in foreign {
            fs::write(dir.join(file), "theirs").unwrap();
        }
        let before = contents(&dir);
        check("recover", &dir, &[], 4);
        for lines in [&*good, "", "not even JSON"] {
            let ran = import(&dir, lines, &[], 4);
            let told = format!("{}: not a Trinity log: the directory holds other", dir.display());
            assert!(ran.err.contains(&told), "{}", ran.err);
            assert!(ran.err.contains("help: nothing was written; name a log's dir"), "{}", ran.err);
        }
        assert_eq!(contents(&dir), before);
        // Below it there is room for one.
        import(&dir.join("log"), &good, &[], 0);
    }
}

#[test]
fn lines_may_end_as_they_like() {
    let (_inside, dir) = fresh();
    let line = |id: u32| event("tx_created", &format!(r#"{{"id":{id}}}"#)).trim().to_owned();
    let lines = format!("{}\r\n\n \t\r\n  {}  \n{}", line(1), line(2), line(3));
    assert_eq!(import(&dir, lines, &["--acks"], 0).text().lines().count(), 3);
    assert_eq!(check("recover", &dir, &["--json"], 0).json()["records"], 3);
}

#[test]
fn a_line_that_is_not_text_is_refused_and_not_shown() {
    let good = event("tx_created", r#"{"id":1}"#);
    for (wrong, what) in [
        (&b"{\"type\":\"tx_\xFFcreated\"}"[..], "line 2, column 13: invalid unicode"),
        (b"\xFF\xFE", "line 2, column 1: expected a JSON object"),
        (b"\xEF\xBB\xBF{}", "line 2, column 1: expected a JSON object"),
        (b"\0\0\0", "line 2, column 1: expected a JSON object"),
        (b"\x1b[2J", "line 2, column 1: expected a JSON object"),
        (b"{\"type\":\"\\u001b[2J\"}", r"unknown event type `\u{1b}[2J`"),
    ] {
        let (_inside, dir) = fresh();
        let ran = import(&dir, [good.as_bytes(), wrong].concat(), &[], 4);
        assert!(ran.err.contains(what), "{what}: {}", ran.err);
        assert!(!ran.err.contains('\0'), "{}", ran.err);
        assert!(ran.err.contains("line 1 is appended and durable"), "{}", ran.err);
        assert_eq!(check("recover", &dir, &["--json"], 0).json()["records"], 1);
    }
}

#[test]
fn events_are_kept_when_nobody_hears_the_acknowledgements() {
    let (_inside, dir) = fresh();
    let mut command = command([OsStr::new("import"), dir.as_ref(), OsStr::new("--acks")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(event("tx_created", r#"{"id":1}"#).as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(err.contains("standard output: ") && err.contains("are durable"), "{err}");
    assert_eq!(check("recover", &dir, &["--json"], 0).json()["records"], 1);
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_fails_is_told() {
    let (_inside, dir) = imported(&vector("09"));
    for (verb, flags) in [
        ("recover", &[][..]),
        ("recover", &["--json"]),
        ("dump", &[]),
        ("export", &[]),
        ("verify", &[]),
    ] {
        let args = [OsStr::new(verb), dir.as_ref()].into_iter();
        let mut command = command(args.chain(flags.iter().map(OsStr::new)));
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let ran = run(command);
        assert_eq!(ran.code, 3, "{verb}: {}", ran.err);
        assert!(ran.err.contains("standard output: No space left"), "{}", ran.err);
        assert!(ran.err.contains("help: "), "{}", ran.err);
    }
}

/// Where a file may not grow, the error says which and why, and what was acknowledged is there.
#[cfg(unix)]
#[test]
fn a_full_disk_is_told_with_its_cause() {
    for acks in [true, false] {
        let (inside, dir) = fresh();
        let input = inside.path().join("lines");
        let lines: String =
            (1..=5_000).map(|id| event("tx_created", &format!(r#"{{"id":{id}}}"#))).collect();
        fs::write(&input, lines).unwrap();
        let flag = if acks { "--acks" } else { "" };
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(r#"trap "" XFSZ; ulimit -f 64; exec "$0" wal import "$1" $2"#);
        shell.arg(env!("CARGO_BIN_EXE_trinity")).arg(&dir).arg(flag);
        shell.stdin(File::open(&input).unwrap());
        let ran = run(shell);
        assert_eq!(ran.code, 3, "{}", ran.err);
        let cause = "0000000000000001.wal: File too large";
        assert!(ran.err.contains(cause), "{}", ran.err);
        let acknowledged = ran.text().lines().count() as u64;
        let report = check("recover", &dir, &["--json"], 0).json();
        assert!(report["records"].as_u64().unwrap() >= acknowledged);
        assert!(report["records"].as_u64().unwrap() < 5_000);
    }
}

#[test]
fn an_input_that_fails_is_no_end_of_input() {
    let (inside, dir) = fresh();
    let mut command = command([OsStr::new("import"), dir.as_ref()]);
    command.stdin(File::open(inside.path()).unwrap());
    let ran = run(command);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("standard input"), "{}", ran.err);
}

#[test]
fn an_event_out_of_place_is_kept_and_told() {
    let (_inside, dir) = fresh();
    let lines = event("tx_created", r#"{"id":1}"#)
        + &event("tx_commit_complete", r#"{"id":1}"#)
        + &event("0x2a", r#"{"raw":"00"}"#);
    import(&dir, lines, &[], 0);
    let report = check("recover", &dir, &["--json"], 2).json();
    assert_eq!(report["records"], 3);
    assert_eq!(report["corruption"], json!([]));
    let anomalies = report["anomalies"].as_array().unwrap();
    assert_eq!(anomalies.len(), 2);
    assert_eq!((&anomalies[0]["sequence"], &anomalies[1]["sequence"]), (&json!(2), &json!(3)));
    assert_eq!(report["operations"][0]["action"], "tx_resume_abort");
    let text = check("recover", &dir, &[], 2);
    assert!(text.text().contains("anomalies: 2 events"), "{}", text.text());
    // They are no damage.
    check("dump", &dir, &[], 0);
    check("export", &dir, &[], 0);
}

#[test]
fn lists_are_cut_and_what_is_left_out_is_counted() {
    let (_inside, dir) = fresh();
    let mut lines = String::new();
    for id in 0..60_000 {
        for kind in ["saga", "tx"] {
            lines += &event(&format!("{kind}_created"), &format!(r#"{{"id":{id}}}"#));
            let end = if kind == "saga" { "saga_aborted" } else { "tx_abort_complete" };
            lines += &event(end, &format!(r#"{{"id":{id}}}"#));
        }
    }
    for id in 0..100_007 {
        lines += &event("saga_execute_start", &format!(r#"{{"id":{}}}"#, 1_000_000 + id));
    }
    import(&dir, lines, &[], 0);
    let report = check("recover", &dir, &["--json"], 2).json();
    let listed = |kind: &str| report["completed"][kind].as_object().unwrap().len();
    assert_eq!((listed("saga"), listed("tx")), (50_000, 50_000));
    assert_eq!(report["completed_left_out"], 20_000);
    assert_eq!(report["anomalies"].as_array().unwrap().len(), 100_000);
    assert_eq!(report["anomalies_left_out"], 7);
    let text = check("recover", &dir, &[], 2);
    assert!(text.text().contains("... and 99987 more"), "{}", text.text());
}

// ---- what is not a log, or not a whole one ----

#[test]
fn a_path_must_be_a_log() {
    let (inside, dir) = fresh();
    let foreign = inside.path().join("foreign");
    fs::write(&foreign, "# Not a log\n").unwrap();
    let empty_dir = inside.path().join("empty");
    fs::create_dir(&empty_dir).unwrap();
    let dir_of_files = inside.path().join("files");
    fs::create_dir(&dir_of_files).unwrap();
    fs::write(dir_of_files.join("lock"), "").unwrap();
    fs::write(dir_of_files.join("data"), "").unwrap();
    let foreign_segments = inside.path().join("segments");
    fs::create_dir(&foreign_segments).unwrap();
    fs::write(segment(&foreign_segments, 1), [7; 5000]).unwrap();
    import(&dir, event("0x2a", r#"{"raw":""}"#), &[], 0);
    let one_segment = segment(&dir, 1);
    for verb in ["recover", "dump", "export", "verify"] {
        for path in [&empty_dir, &dir_of_files, &foreign_segments, &foreign, &one_segment] {
            let ran = check(verb, path, &[], 4);
            assert!(ran.err.contains("not a Trinity log"), "{}", ran.err);
            assert!(ran.err.contains(path.to_str().unwrap()), "{}", ran.err);
            assert_eq!(ran.text(), "");
        }
        let ran = check(verb, inside.path().join("missing"), &[], 3);
        assert!(ran.err.contains("missing: No such file"), "{}", ran.err);
    }
    for path in [&foreign, &one_segment] {
        let before = fs::read(path).unwrap();
        import(path, "", &[], 4);
        assert_eq!(fs::read(path).unwrap(), before);
    }
    import(&foreign_segments, "", &[], 4);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    // An empty segment 2 that is no file: even root cannot read it.
    let (_inside, dir) = imported(&vector("04"));
    fs::create_dir(segment(&dir, 2)).unwrap();
    for verb in ["recover", "dump", "export", "import", "verify"] {
        let ran = check(verb, &dir, &[], 3);
        assert!(ran.err.contains("0000000000000002.wal: "), "{}", ran.err);
        assert!(ran.err.contains("help: check the path"), "{}", ran.err);
        assert_eq!(ran.text(), "");
    }
    // A path below a file is no missing log: it cannot be one.
    let below = vector("04").join("log");
    for verb in ["recover", "dump", "export", "import", "verify"] {
        let ran = check(verb, &below, &[], 3);
        assert!(ran.err.contains("04_saga_mid_execution.bin/log: "), "{}", ran.err);
    }
}

#[test]
fn names_in_a_log_are_not_trusted() {
    let (inside, dir) = imported(&vector("09"));
    // Whatever is not a segment's name is none of the log.
    for foreign in
        ["notes.txt", "0000000000000000.wal", "ffffffffffffffff.wal", "000000000000000A.wal"]
    {
        fs::copy(segment(&dir, 1), dir.join(foreign)).unwrap();
    }
    fs::create_dir(dir.join("folder")).unwrap();
    check("recover", &dir, &["--json"], 0);
    import(&dir, "", &[], 0);
    // A segment under another segment's name is.
    fs::copy(segment(&dir, 1), dir.join("fffffffffffffffe.wal")).unwrap();
    let report = check("recover", &dir, &["--json"], 2).json();
    assert_eq!(report["corruption"][0]["what"], "one or more segments are missing");
    import(&dir, "", &[], 2);
    // The only segment under a name that no log reaches: there is no log.
    let lost = inside.path().join("lost");
    fs::create_dir(&lost).unwrap();
    fs::copy(segment(&dir, 1), lost.join("ffffffffffffffff.wal")).unwrap();
    check("recover", &lost, &[], 4);
    // A folder called `lock` is no sign of a log either.
    let locked = inside.path().join("locked");
    fs::create_dir_all(locked.join("lock")).unwrap();
    check("recover", &locked, &[], 4);
    import(&locked, "", &[], 4);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_broken_ones_named() {
    let (inside, dir) = imported(&vector("09"));
    let link = inside.path().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    assert_eq!(check("recover", &link, &["--json"], 0).json()["records"], 9);
    import(&link, event("tx_commit_complete", r#"{"id":1}"#), &[], 0);
    assert_eq!(check("recover", &dir, &["--json"], 0).json()["records"], 10);
    std::os::unix::fs::symlink("nowhere", segment(&dir, 3)).unwrap();
    for verb in ["recover", "dump", "export", "import", "verify"] {
        let ran = check(verb, &dir, &[], 3);
        assert!(ran.err.contains("0000000000000003.wal: No such file"), "{}", ran.err);
    }
}

#[test]
fn a_log_may_be_empty() {
    let (inside, dir) = fresh();
    let stream = inside.path().join("stream");
    fs::write(&stream, "").unwrap();
    import(&dir, "", &[], 0);
    let only_lock = inside.path().join("begun");
    fs::create_dir(&only_lock).unwrap();
    fs::write(only_lock.join("lock"), "").unwrap();
    // A crash has come before the first segment had its name.
    let half_made = inside.path().join("half-made");
    fs::create_dir(&half_made).unwrap();
    fs::write(half_made.join("lock"), "").unwrap();
    fs::write(half_made.join("spare-100000"), [0; 4096]).unwrap();
    for path in [&stream, &dir, &only_lock, &half_made] {
        assert_eq!(check("verify", path, &["--json"], 0).json()["verdict"], "clean");
        assert_eq!(check("recover", path, &["--json"], 0).json()["records"], 0);
        assert_eq!(check("recover", path, &[], 0).err, "");
        assert_eq!(check("dump", path, &[], 0).text(), "");
    }
    assert_eq!(check("export", &dir, &[], 0).text(), "");
    check("export", &stream, &[], 4);
}

#[test]
fn a_newer_format_is_not_damage() {
    let (_inside, dir) = imported(&vector("04"));
    // Format version 2 with a claim that verifies, as FORMAT.md promises of every version.
    let mut bytes = fs::read(segment(&dir, 1)).unwrap();
    for copy in [0, 512] {
        bytes[copy + 8] = 2;
        bytes[copy + 12..copy + 16].fill(0);
        let checksum = crc32c(&bytes[copy..copy + 48]);
        bytes[copy + 12..copy + 16].copy_from_slice(&checksum.to_le_bytes());
    }
    fs::write(segment(&dir, 1), bytes).unwrap();
    for verb in ["recover", "dump", "export", "import", "verify"] {
        let ran = check(verb, &dir, &[], 4);
        assert!(ran.err.contains("format version 2"), "{}", ran.err);
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |mut crc, &byte| {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
        }
        crc
    })
}

#[test]
fn a_stream_that_ends_inside_a_record_is_torn() {
    let (inside, _) = fresh();
    let bytes = fs::read(vector("09")).unwrap();
    let path = inside.path().join("torn");
    let dump = check("dump", vector("09"), &["--json"], 0);
    let last: Value = serde_json::from_str(dump.text().lines().last().unwrap()).unwrap();
    let end = last["off"].as_u64().unwrap() as usize;
    for len in end + 1..bytes.len() {
        fs::write(&path, &bytes[..len]).unwrap();
        let report = check("recover", &path, &["--json"], 0).json();
        assert_eq!(report["records"], 8, "{len}");
        assert_eq!(report["operations"][0]["action"], "tx_resume_abort");
        if report["torn_tail_bytes"] != json!(0) {
            assert_eq!(report["end"], json!({"file": "torn", "offset": end}));
        }
    }
    let text = check("recover", &path, &[], 0);
    assert!(text.text().contains(&format!("behind record 8 (offset {end})")), "{}", text.text());
    let dump = check("dump", &path, &[], 0);
    assert_eq!(dump.text().lines().count(), 8);
    assert!(dump.err.contains("a torn tail"), "{}", dump.err);
}

#[test]
fn a_torn_log_is_read_as_it_is_and_mended_by_writing() {
    let (_inside, dir) = imported(&vector("09"));
    let whole = fs::read(segment(&dir, 1)).unwrap();
    for len in (1025..1024 + 58 + 656).step_by(7) {
        fs::write(segment(&dir, 1), &whole[..len]).unwrap();
        let before = contents(&dir);
        let report = check("recover", &dir, &["--json"], 0).json();
        assert_eq!(report["records"], 0);
        assert!(report["torn_tail_bytes"].as_u64().unwrap() > 0, "{len}");
        check("recover", &dir, &[], 0);
        check("dump", &dir, &["--guards"], 0);
        check("export", &dir, &[], 0);
        assert_eq!(contents(&dir), before, "reading writes nothing");
    }
    let ran = import(&dir, check("dump", vector("09"), &["--json"], 0).out, &[], 0);
    assert!(ran.err.contains("a torn tail"), "{}", ran.err);
    let report = check("recover", &dir, &["--json"], 0).json();
    assert_eq!((&report["records"], &report["torn_tail_bytes"]), (&json!(9), &json!(0)));
}

#[test]
fn a_lost_header_copy_is_told() {
    let (_inside, dir) = fresh();
    import(&dir, "", &[], 0);
    let mut bytes = fs::read(segment(&dir, 1)).unwrap();
    bytes.truncate(1024);
    bytes[512..].fill(0);
    fs::write(segment(&dir, 1), bytes).unwrap();
    let report = check("recover", &dir, &["--json"], 0).json();
    assert_eq!(report["lost_header_copies"], 1);
    assert!(check("recover", &dir, &[], 0).text().contains("1 header copies"));
}

#[test]
fn damage_in_a_stream_is_named() {
    let (inside, _) = fresh();
    let path = inside.path().join("damaged");
    let mut bytes = fs::read(vector("22")).unwrap();
    let dump = check("dump", vector("22"), &["--json"], 0);
    let record: Value = serde_json::from_str(dump.text().lines().nth(70).unwrap()).unwrap();
    let (off, len) = (record["off"].as_u64().unwrap(), record["len"].as_u64().unwrap());
    bytes[off as usize + 33] ^= 0x10;
    fs::write(&path, &bytes).unwrap();

    let report = check("recover", &path, &["--json"], 2).json();
    assert_eq!((&report["records"], &report["corrupted_records"]), (&json!(143), &json!(1)));
    let damage = &report["corruption"][0];
    assert_eq!((&damage["file"], &damage["offset"]), (&json!("damaged"), &json!(off)));
    assert_eq!(damage["bytes"], len);
    assert_eq!(report["corruption"].as_array().unwrap().len(), 1);
    let text = check("recover", &path, &[], 2);
    assert!(text.text().contains(&format!("offset {off}, {len} bytes")), "{}", text.text());

    // It is dumped as what it is, and import does not take it.
    let dump = check("dump", &path, &["--json"], 2);
    assert_eq!(dump.text().lines().count(), 144);
    assert!(dump.err.contains(&format!("offset {off}")), "{}", dump.err);
    let wrong: Value = serde_json::from_str(dump.text().lines().nth(70).unwrap()).unwrap();
    assert_eq!((&wrong["seq"], &wrong["crc_ok"]), (&json!(71), &json!(false)));
    let (_inside, dir) = fresh();
    let ran = import(&dir, &dump.out, &[], 4);
    assert!(ran.err.contains("line 71"), "{}", ran.err);
    assert_eq!(check("recover", &dir, &["--json"], 0).json()["records"], 70);
}

#[test]
fn damage_in_a_log_is_named_and_nothing_is_appended() {
    let (_inside, dir) = fresh();
    let dump = check("dump", vector("22"), &["--json"], 0);
    for line in dump.text().split_inclusive('\n').collect::<Vec<_>>().chunks(36) {
        import(&dir, line.concat(), &[], 0);
    }
    let damaged = segment(&dir, 3);
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[1024 + 1000] ^= 4;
    fs::write(&damaged, bytes).unwrap();
    let before = contents(&dir);

    let report = check("recover", &dir, &["--json"], 2).json();
    let places = report["corruption"].as_array().unwrap();
    assert_eq!(places[0]["file"], "0000000000000003.wal");
    assert!(places[0]["offset"].as_u64().unwrap() >= 1024);
    let doubtful = report["operations"].as_array().unwrap().iter();
    assert!(doubtful.filter(|operation| operation["in_doubt"] == true).count() > 0);
    let text = check("recover", &dir, &[], 2);
    assert!(text.text().contains("IN DOUBT"), "{}", text.text());

    // Both sides of the damage are dumped, only the near one is exported.
    let dump = check("dump", &dir, &["--json"], 2);
    assert!(dump.err.contains("0000000000000003.wal offset"), "{}", dump.err);
    assert!(dump.text().lines().last().unwrap().starts_with(r#"{"seq":144,"#));
    assert!(check("dump", &dir, &[], 2).text().contains("!!! damage: 0000000000000003.wal"));
    let export = check("export", &dir, &[], 2);
    assert!(export.out.len() > 2000);
    assert!(fs::read(vector("22")).unwrap().starts_with(&export.out));
    assert!(export.err.contains("0000000000000003.wal"), "{}", export.err);

    let ran = import(&dir, event("0x2a", r#"{"raw":""}"#), &["--acks"], 2);
    assert!(ran.err.contains("0000000000000003.wal"), "{}", ran.err);
    assert_eq!(ran.text(), "");
    assert_eq!(contents(&dir), before, "a damaged log is left as it is");
}

// ---- every bit, every cut ----

/// The segments of a log's directory, to be damaged many times over.
fn loaded(dir: &Path) -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    for (name, bytes) in contents(dir) {
        if let Some(id) = SegmentId::from_file_name(&name) {
            *storage.file_mut(id) = bytes;
        }
    }
    storage
}

fn recovered(storage: &MemoryStorage) -> RecoveryReport {
    let mut replay = Replay::default();
    let scanned = wal_core::scan(storage, &ScanConfig::default(), &mut replay).unwrap();
    replay.report(&scanned)
}

/// A log of several segments, each with a batch of a few of the vector's records.
fn imported_in_parts(path: &Path) -> (TempDir, PathBuf) {
    let (inside, dir) = fresh();
    let dump = check("dump", path, &["--json"], 0);
    for lines in dump.text().split_inclusive('\n').collect::<Vec<_>>().chunks(3) {
        import(&dir, lines.concat(), &[], 0);
    }
    (inside, dir)
}

#[test]
fn a_flipped_bit_changes_no_class_unseen() {
    for name in ["05", "09"] {
        let (_inside, dir) = imported_in_parts(&vector(name));
        let mut damaged = loaded(&dir);
        let whole = recovered(&damaged);
        let [operation] = &whole.operations[..] else { panic!("{whole:?}") };
        assert!(!operation.in_doubt && !whole.scanned.is_corrupt());
        let is_same =
            |told: &OperationReport| (told.id, told.action) == (operation.id, operation.action);
        let mut doubtful = 0;
        let ids: Vec<SegmentId> = damaged.files().map(|(id, _)| id).collect();
        assert!(ids.len() >= 3);
        for id in ids {
            for at in 0..damaged.file_mut(id).len() {
                for bit in 0..8 {
                    damaged.file_mut(id)[at] ^= 1 << bit;
                    let report = recovered(&damaged);
                    let what = format!("{name}: {id}, byte {at}, bit {bit}");
                    assert!(report.scanned.is_corrupt(), "{what}: not seen");
                    for told in &report.operations {
                        assert!(told.in_doubt || is_same(told), "{what}: {told:?}");
                        doubtful += u32::from(told.in_doubt);
                    }
                    damaged.file_mut(id)[at] ^= 1 << bit;
                }
            }
        }
        assert!(doubtful > 1000, "{name}: {doubtful}");
    }
}

/// The binary says the same of some of them, and writes nothing.
#[test]
fn a_flipped_bit_is_told_with_exit_code_2() {
    let (_inside, dir) = imported(&vector("09"));
    let whole = fs::read(segment(&dir, 1)).unwrap();
    for at in
        (0..whole.len()).filter(|at| !(120..512).contains(&(at % 512)) || *at > 1024).step_by(61)
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(segment(&dir, 1), bytes).unwrap();
        let before = contents(&dir);
        let report = check("recover", &dir, &["--json"], 2).json();
        let places = report["corruption"].as_array().unwrap();
        assert_eq!(places[0]["file"], "0000000000000001.wal", "byte {at}");
        for (verb, flags) in [("dump", &["--json"][..]), ("export", &[]), ("import", &["--acks"])] {
            let ran = check(verb, &dir, flags, 2);
            assert!(ran.err.contains("0000000000000001.wal offset"), "byte {at}: {}", ran.err);
        }
        assert_eq!(contents(&dir), before, "byte {at}");
    }
}

#[test]
fn a_log_cut_anywhere_is_read_up_to_there() {
    let (_inside, dir) = fresh();
    let dump = check("dump", vector("09"), &["--json"], 0);
    let path = segment(&dir, 1);
    import(&dir, &dump.out, &[], 0);
    let whole = loaded(&dir);
    let bytes = fs::read(&path).unwrap();
    let mut seen = [0; 2];
    for len in 0..bytes.len() {
        let mut cut = whole.clone();
        cut.file_mut(SegmentId::FIRST).truncate(len);
        let report = recovered(&cut);
        assert!(!report.scanned.is_corrupt(), "{len}: {:?}", report.scanned.corruption);
        // The events are one batch: all of them, or none.
        let records = report.scanned.records;
        assert!([0, 9].contains(&records), "{len}: {records}");
        seen[usize::from(records > 0)] += 1;
        if len % 97 == 0 {
            fs::write(&path, &bytes[..len]).unwrap();
            assert_eq!(check("recover", &dir, &["--json"], 0).json()["records"], records);
            assert_eq!(fs::read(&path).unwrap(), &bytes[..len]);
            // And writing goes on from there.
            import(&dir, event("0x2a", r#"{"raw":""}"#), &[], 0);
            assert_eq!(check("recover", &dir, &["--json"], 2).json()["records"], records + 1);
            fs::remove_file(segment(&dir, 2)).unwrap();
        }
    }
    assert!(seen[0] > 1000 && seen[1] > 100, "{seen:?}");
}

/// What a raw stream cannot prove may pass, but nothing makes the program do anything but tell.
#[test]
fn a_flipped_bit_in_a_stream_ends_in_a_verdict() {
    let bytes = fs::read(vector("05")).unwrap();
    let mut corrupt = 0;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let mut replay = Replay::default();
            let scanned =
                wal_core::scan_stream(&mut &flipped[..], &ScanConfig::default(), &mut replay);
            let report = replay.report(&scanned.unwrap());
            corrupt += u32::from(report.scanned.is_corrupt());
        }
    }
    assert!(corrupt > 1000, "{corrupt}");
}

#[test]
fn a_length_is_not_believed() {
    let (inside, _) = fresh();
    let path = inside.path().join("long");
    let dump = check("dump", vector("09"), &["--json"], 0);
    for line in [0, 4, 8] {
        let record: Value = serde_json::from_str(dump.text().lines().nth(line).unwrap()).unwrap();
        let at = record["off"].as_u64().unwrap() as usize;
        let mut bytes = fs::read(vector("09")).unwrap();
        bytes[at + 21..at + 25].fill(0xFF);
        fs::write(&path, bytes).unwrap();
        let report = check("recover", &path, &["--json"], 2).json();
        assert_eq!(report["corruption"][0]["offset"], at);
        assert_eq!(report["records"], 8);
    }
}

// ---- somebody else is there ----

/// An import that has acknowledged the event with that sequence, and waits for more.
fn writer(dir: &Path, sequence: u64) -> (Child, ChildStdin) {
    let mut command = command([OsStr::new("import"), dir.as_ref(), OsStr::new("--acks")]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // What is whole is not held up by what is not.
    let lines = event("tx_created", &format!(r#"{{"id":{sequence}}}"#)) + "{\"type\":";
    stdin.write_all(lines.as_bytes()).unwrap();
    let mut ack = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ack).unwrap();
    assert!(ack.starts_with(&format!("ack {sequence} ")), "{ack}");
    (child, stdin)
}

#[test]
fn a_log_in_use_is_left_alone() {
    let (_inside, dir) = fresh();
    let (mut child, stdin) = writer(&dir, 1);
    for verb in ["recover", "dump", "export", "import", "verify"] {
        let ran = check(verb, &dir, &[], 3);
        assert!(ran.err.contains("in use"), "{}", ran.err);
        assert!(ran.err.contains(dir.to_str().unwrap()), "{}", ran.err);
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(4), "the line it was told was not whole");
    assert_eq!(check("recover", &dir, &["--json"], 0).json()["records"], 1);
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let (_inside, dir) = fresh();
    for killed in 1..4 {
        let (mut child, _stdin) = writer(&dir, killed);
        child.kill().unwrap();
        child.wait().unwrap();
        let report = check("recover", &dir, &["--json"], 0).json();
        assert_eq!(report["records"], killed);
        assert_eq!(report["corruption"], json!([]));
    }
}

// ---- verify ----

#[test]
fn verify_has_its_fields_in_order() {
    let (_inside, dir) = imported(&vector("09"));
    let ran = check("verify", &dir, &["--json"], 0);
    let report = ran.json();
    let (id, bytes) = (&report["log_id"], fs::metadata(segment(&dir, 1)).unwrap().len());
    let end = &report["end"]["offset"];
    let expected = concat!(
        r#"{"verdict":"clean","integrity":"guarded","log_id":ID,"epoch":1,"records":9,"#,
        r#""last_sequence":9,"proved_sequence":9,"batches":3,"sectors":4,"corrupted_records":0,"#,
        r#""torn_tail_bytes":0,"fenced_bytes":0,"lost_header_copies":0,"abandoned_starts":0,"#,
        r#""end":{"file":"0000000000000001.wal","offset":END},"segments":[{"#,
        r#""file":"0000000000000001.wal","bytes":BYTES,"epoch":1,"#,
        r#""header_copies":["sealed","sealed"],"seals":{"file":null,"length":0,"#,
        r#""last_sequence":0,"take_over":false},"extent":"open","sealed_at":null,"batches":3,"#,
        r#""sectors":4,"records":9}],"corruption":[],"corruption_left_out":0,"#,
        r#""damaged_sectors":[]}"#,
        "\n"
    );
    let expected = expected.replace("ID", &id.to_string()).replace("END", &end.to_string());
    assert_eq!(ran.text(), expected.replace("BYTES", &bytes.to_string()));

    let text = check("verify", &dir, &[], 0);
    assert!(text.text().contains("9 records up to sequence 9, in 3 batches"), "{}", text.text());
    assert!(text.text().ends_with("verdict: clean\n"), "{}", text.text());
}

#[test]
fn verify_reads_raw_streams() {
    for (path, expected) in vectors() {
        let report = check("verify", &path, &["--json"], 0).json();
        assert_eq!(
            (&report["verdict"], &report["records"]),
            (&json!("clean"), &expected["records"])
        );
        assert_eq!(
            (&report["integrity"], &report["segments"]),
            (&json!("unprotected"), &json!([]))
        );
    }
    let (inside, _) = fresh();
    let path = inside.path().join("damaged");
    let mut bytes = fs::read(vector("09")).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    assert_eq!(check("verify", &path, &["--json"], 0).json()["verdict"], "torn");
    bytes[33] ^= 0x10;
    fs::write(&path, bytes).unwrap();
    let report = check("verify", &path, &["--json"], 2).json();
    let place = json!([{
        "file": "damaged", "offset": 0, "bytes": 69, "what": "a record's checksum is wrong",
        "hides_records": true, "last_sequence_before": 0,
    }]);
    assert_eq!((&report["verdict"], &report["corruption"]), (&json!("corrupt"), &place));
}

/// Of every flipped bit it says which file, and of one in a record which sector; and whether records may
/// be hidden.
#[test]
fn verify_names_what_is_damaged() {
    let (_inside, dir) = imported(&vector("09"));
    import(&dir, event("0x2a", r#"{"raw":"07"}"#), &[], 0);
    let whole = fs::read(segment(&dir, 1)).unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(segment(&dir, 1), bytes).unwrap();
        let before = contents(&dir);
        let text = check("verify", &dir, &[], 2);
        assert!(text.text().contains("0000000000000001.wal offset"), "{}", text.text());
        assert!(text.text().ends_with("verdict: corrupt\n"), "{}", text.text());
        let report = check("verify", &dir, &["--json"], 2).json();
        assert_eq!(contents(&dir), before);
        report
    };
    // A header copy, a seal.
    for (at, copies, what) in [
        (20, ["corrupt", "sealed"], "a header copy does not verify"),
        (512 + 20, ["sealed", "corrupt"], "a header copy does not verify"),
        (100, ["corrupt", "sealed"], "a seal does not verify"),
    ] {
        let report = flipped(at);
        assert_eq!(report["segments"][0]["header_copies"], json!(copies), "{at}");
        let damage = &report["corruption"][0];
        assert_eq!((&damage["what"], &damage["hides_records"]), (&json!(what), &json!(false)));
        assert_eq!(damage["offset"], at / 512 * 512, "{at}");
        assert_eq!(report["records"], 10, "{at}: nothing is hidden");
    }
    // A batch's head.
    let report = flipped(1024 + 20);
    let damage = &report["corruption"][0];
    assert_eq!(damage["what"], "a batch that was synced does not verify");
    assert_eq!((&damage["offset"], &damage["hides_records"]), (&json!(1024), &json!(true)));
    assert_eq!(report["damaged_sectors"], json!([]));
    // Each of the sectors that its records lie in.
    let mut sectors = 0;
    for at in (1024 + 200..1024 + 58 + 8 + 656).step_by(100) {
        let report = flipped(at);
        let sector = json!([{"file": "0000000000000001.wal", "offset": at / 512 * 512}]);
        assert_eq!(report["damaged_sectors"], sector, "{at}");
        sectors += 1;
    }
    assert!(sectors > 3);
    fs::write(segment(&dir, 1), &whole).unwrap();
    // A whole segment.
    fs::remove_file(segment(&dir, 1)).unwrap();
    let report = check("verify", &dir, &["--json"], 2).json();
    assert_eq!(report["corruption"][0]["what"], "one or more segments are missing");
    assert_eq!((&report["corrupted_records"], &report["records"]), (&json!(9), &json!(1)));
}

#[test]
fn verify_takes_what_a_crash_leaves_for_what_it_is() {
    let (_inside, dir) = imported(&vector("09"));
    let whole = fs::read(segment(&dir, 1)).unwrap();
    fs::write(segment(&dir, 1), &whole[..1500]).unwrap();
    let report = check("verify", &dir, &["--json"], 0).json();
    assert_eq!((&report["verdict"], &report["records"]), (&json!("torn"), &json!(0)));
    assert!(check("verify", &dir, &[], 0).text().contains("note: a torn tail of 476 bytes"));
}

// ---- why ----

/// The record of that number, as it is dumped.
fn dumped(path: &Path, sequence: &Value) -> Value {
    let dump = check("dump", path, &["--json"], 0);
    let line = dump.text().lines().nth(sequence.as_u64().unwrap() as usize - 1).unwrap();
    serde_json::from_str(line).unwrap()
}

#[test]
fn recover_explains_with_the_record_that_proves_it() {
    for (path, _) in vectors() {
        let (_inside, dir) = imported(&path);
        for path in [&path, &dir] {
            let plain = check("recover", path, &["--json"], 0).json();
            let mut told = check("recover", path, &["--json", "--explain=all"], 0).json();
            let mut explained = 0;
            let check_evidence = |evidence: &Value| {
                let record = dumped(path, &evidence["sequence"]);
                let found = (&evidence["event"], &evidence["file"], &evidence["offset"]);
                assert_eq!(found, (&record["type"], &record["file"], &record["off"]));
            };
            for operation in told["operations"].as_array_mut().unwrap() {
                let operation = operation.as_object_mut().unwrap();
                let explanation = operation.remove("explanation").unwrap();
                assert!(explanation.as_str().unwrap().len() > 20);
                let evidence = operation.remove("evidence").unwrap();
                assert_eq!(evidence["sequence"], operation["evidence_sequence"]);
                check_evidence(&evidence);
                explained += 1;
            }
            if let Some(ends) = told.as_object_mut().unwrap().remove("completed_evidence") {
                for kind in ["saga", "tx"] {
                    let ends = ends[kind].as_object().unwrap();
                    let listed = plain["completed"][kind].as_object().unwrap();
                    assert!(ends.keys().eq(listed.keys()));
                    for end in ends.values() {
                        assert!(end["explanation"].as_str().unwrap().len() > 20);
                        check_evidence(&end["evidence"]);
                        explained += 1;
                    }
                }
            }
            assert!(explained > 0);
            // Nothing else is changed by it.
            assert_eq!(told, plain);
        }
    }
}

#[test]
fn an_explanation_can_be_read() {
    let text = check("recover", vector("09"), &["--explain"], 0);
    let expected = "  tx 1: the decision to commit is durable and not everybody is known to have heard \
                    it: it is sent until all have acknowledged it\n    record 9, tx_commit_start, in \
                    09_tx_mid_commit.bin at offset ";
    assert!(text.text().contains(expected), "{}", text.text());
    assert!(!check("recover", vector("09"), &[], 0).text().contains("record 9, tx_commit"));
    // What has ended is explained if that is asked for.
    let ended = "every step has succeeded";
    assert!(!check("recover", vector("22"), &["--explain"], 0).text().contains(ended));
    assert!(check("recover", vector("22"), &["--explain=all"], 0).text().contains(ended));
}

#[test]
fn an_explanation_has_its_fields_in_order() {
    let report = check("recover", vector("04"), &["--json", "--explain"], 0);
    let expected = concat!(
        r#""evidence_sequence":5,"last_sequence":7,"created_ms":1000,"#,
        r#""explanation":"it was started, and nothing has turned it back: steps without an outcome "#,
        r#"are called again","evidence":{"sequence":5,"event":"saga_execute_start","#,
        r#""file":"04_saga_mid_execution.bin","offset":195}}],"#,
        r#""completed":{"saga":{},"tx":{}},"completed_left_out":0,"anomalies":[]"#,
    );
    assert!(report.text().contains(expected), "{}", report.text());
}

/// A saga whose first step is a transaction that commits, and whose second is a saga that is done.
fn nested() -> Vec<u8> {
    use base::{NodeName, ParentStep};
    use saga::{Action, Branch, Definition, Saga, Step};
    use twopc::coordinator::{Event as Tx, Member};
    let node = NodeName::numbered(1);
    let mut inner = Definition::builder();
    inner.step(Step::new(Action::Custom, node, *b"inner"));
    let inner = inner.build().unwrap();
    let mut outer = Definition::builder();
    let branch = Branch { shard: ShardId::numbered(1), node, work: b"work".as_slice().into() };
    outer.step(Step::transaction([branch]).undone_at(node, *b"back"));
    outer.step(Step::saga(inner.clone()));
    let coordinator = CoordinatorId::numbered(1);
    let saga = |id, event| coordinator::codec::Fact::Saga { id: OperationId(id), event };
    let tx = |event| coordinator::codec::Fact::Transaction { id: OperationId(1), event };
    let parent = |step| ParentStep { saga: OperationId(1), step, undo: false };
    let outer = Saga::admission(&outer.build().unwrap(), coordinator, 1, None);
    let inner = Saga::admission(&inner, coordinator, 2, None);
    let mut facts: Vec<_> = outer.into_iter().map(|event| saga(1, event)).collect();
    let member = Member::new(ShardId::numbered(1), node);
    let transaction = Transaction::admission(coordinator, None, None, &[member]).unwrap();
    facts.extend(Transaction::on_behalf_of(parent(0), transaction).into_iter().map(tx));
    facts.push(tx(Tx::VoteReceived { shard: member.shard, vote: twopc::Vote::Commit }));
    facts.push(tx(Tx::CommitStart { members: vec![member] }));
    facts.extend(Saga::on_behalf_of(parent(1), inner).into_iter().map(|event| saga(2, event)));
    facts.push(saga(2, saga::Event::StepSucceeded { step: 0, output: None }));
    let mut stream = Vec::new();
    for (sequence, fact) in (1..).zip(&facts) {
        let mut payload = Vec::new();
        let event = match fact {
            coordinator::codec::Fact::Saga { id, event } => {
                coordinator::codec::encode_saga(*id, event, &mut payload)
            }
            coordinator::codec::Fact::Transaction { id, event } => {
                coordinator::codec::encode_transaction(*id, event, &mut payload)
            }
            other => panic!("{other:?}"),
        };
        let (sequence, timestamp_ms) = (base::Sequence(sequence), 1_000);
        let record = wal_core::Record { sequence, event, timestamp_ms, payload: &payload };
        wal_core::encode_record(&record, &mut stream);
    }
    stream
}

#[test]
fn operations_of_steps_are_listed_with_their_steps() {
    let folder = TempDir::new().unwrap();
    let stream = folder.path().join("nested.bin");
    fs::write(&stream, nested()).unwrap();
    let (_inside, dir) = imported(&stream);
    for path in [&stream, &dir] {
        let text = check("recover", path, &["--explain"], 0);
        for expected in [
            "1 step, for step 1 of saga 1",
            "1 participant, 1 voted commit, 0 abort, for step 0 of saga 1",
            "saga 2: every step has succeeded: it ends when the saga that it is a step of has ended",
            "tx 1: the decision to commit is durable: when everybody has acknowledged it, the saga",
        ] {
            assert!(text.text().contains(expected), "{}", text.text());
        }
        let report = check("recover", path, &["--json"], 0).json();
        let parents: Vec<_> = report["operations"].as_array().unwrap().iter().collect();
        let parents: Vec<_> = parents.iter().map(|operation| &operation["parent"]).collect();
        let of = |step: u32| json!({ "saga": 1, "step": step, "undo": false });
        assert_eq!(parents, [&Value::Null, &of(1), &of(0)]);
    }
    // What they are comes through the lines of a dump as well.
    let exported = check("export", &dir, &[], 0);
    assert_eq!(exported.out, fs::read(&stream).unwrap());
}

#[test]
fn doubt_is_explained() {
    let (_inside, dir) = damaged("22");
    let report = check("recover", &dir, &["--json", "--explain"], 2).json();
    let mut doubtful = 0;
    for operation in report["operations"].as_array().unwrap() {
        let lost = operation["explanation"].as_str().unwrap().contains("records are lost")
            || operation["explanation"].as_str().unwrap().contains("lost records");
        assert_eq!(lost, operation["in_doubt"] == true, "{operation}");
        assert_eq!(operation["evidence"]["sequence"], operation["evidence_sequence"]);
        doubtful += u32::from(lost);
    }
    assert!(doubtful > 0);
}

#[cfg(unix)]
#[test]
fn what_cannot_be_read_twice_is_told() {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(r#"cat "$1" | "$0" wal recover /dev/stdin $2"#);
    shell.arg(env!("CARGO_BIN_EXE_trinity")).arg(vector("09"));
    let ran = run(shell);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(r#"cat "$1" | "$0" wal recover /dev/stdin $2"#);
    shell.arg(env!("CARGO_BIN_EXE_trinity")).arg(vector("09")).arg("--explain");
    let ran = run(shell);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("/dev/stdin: "), "{}", ran.err);
}

// ---- salvage ----

#[track_caller]
fn salvage(dir: &Path, to: &Path, flags: &[&str], code: i32) -> Ran {
    let args = [OsStr::new("salvage"), dir.as_ref(), OsStr::new("--to"), to.as_ref()];
    let ran = run(command(args.into_iter().chain(flags.iter().map(OsStr::new))));
    assert_eq!(ran.code, code, "{}{}", ran.text(), ran.err);
    ran
}

/// A log of a few segments with a batch each, of which the third is damaged.
fn damaged(name: &str) -> (TempDir, PathBuf) {
    let (inside, dir) = imported_in_parts(&vector(name));
    let path = segment(&dir, 3);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1024 + 12] ^= 4;
    fs::write(path, bytes).unwrap();
    (inside, dir)
}

/// What a report says of operations.
fn classes(path: &Path, code: i32) -> Value {
    let mut report = check("recover", path, &["--json"], code).json();
    let names = ["operations", "completed", "anomalies", "unknown_ids_up_to_epoch"];
    names.iter().map(|name| report[*name].take()).collect()
}

#[test]
fn a_salvaged_log_says_what_the_damaged_one_proves() {
    for name in ["05", "09", "22"] {
        let (inside, dir) = damaged(name);
        let new = inside.path().join("new");
        let before = contents(&dir);
        let ran = salvage(&dir, &new, &["--json"], 0);
        assert_eq!(ran.err, "");
        assert_eq!(contents(&dir), before, "{name}");
        let made = ran.json();
        assert_eq!(made["lost_records"], 3, "{name}");

        assert_eq!(check("verify", &new, &["--json"], 0).json()["verdict"], "clean");
        let report = check("recover", &new, &["--json"], 0).json();
        assert_eq!(report["records"], made["last_sequence"]);
        assert_eq!(classes(&new, 0), classes(&dir, 2), "{name}");
        let doubtful = report["operations"].as_array().unwrap().iter();
        let doubtful: Vec<&Value> = doubtful.filter(|found| found["in_doubt"] == true).collect();
        assert!(!doubtful.is_empty(), "{name}");
        assert_eq!(json!(doubtful), made["in_doubt"], "{name}");

        // What is proved has kept its number, its time and its bytes.
        let lines = |path: &Path, code| -> BTreeMap<u64, (Value, Value, Value)> {
            let dump = check("dump", path, &["--json"], code);
            let lines =
                dump.text().lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let told = |line: Value| {
                let what =
                    (line["type"].clone(), line["timestamp_ms"].clone(), line["payload"].clone());
                (line["seq"].as_u64().unwrap(), what)
            };
            lines.map(told).collect()
        };
        let (old, now) = (lines(&dir, 2), lines(&new, 0));
        for (sequence, record) in &old {
            assert_eq!(&now[sequence], record, "{name}");
        }
        let others = now.iter().filter(|(sequence, _)| !old.contains_key(sequence));
        assert!(others.clone().all(|(_, record)| record.0 == "in_doubt"), "{name}");
        assert_eq!(others.count(), 3 + doubtful.len() + 1, "{name}");

        // It opens for writing, under a higher epoch and another id.
        import(&new, event("0x2a", r#"{"raw":""}"#), &[], 0);
        let (was, is) =
            (check("verify", &dir, &["--json"], 2), check("verify", &new, &["--json"], 0));
        let (was, is) = (was.json(), is.json());
        assert_ne!(was["log_id"], is["log_id"]);
        assert!(is["segments"][0]["epoch"].as_u64() > was["epoch"].as_u64(), "{name}");
        assert_eq!(is["log_id"], made["log_id"]);
    }
}

#[test]
fn a_salvage_has_its_fields_in_order() {
    let (inside, dir) = damaged("09");
    let ran = salvage(&dir, &inside.path().join("new"), &["--json"], 0);
    let at = |field: &str| ran.text().find(&format!("\"{field}\":")).unwrap_or(usize::MAX);
    let fields = [
        "log_id",
        "epoch",
        "records",
        "lost_records",
        "last_sequence",
        "torn_tail_bytes",
        "in_doubt",
        "unknown_ids_up_to_epoch",
        "corruption",
        "corruption_left_out",
    ];
    assert!(fields.map(at).is_sorted() && at("corruption_left_out") < usize::MAX, "{}", ran.text());
    assert_eq!(ran.json().as_object().unwrap().len(), fields.len());

    let text = salvage(&dir, &inside.path().join("text"), &[], 0);
    for line in [
        "6 records copied, 3 lost, epoch 4",
        "in doubt: 0 sagas, 1 transaction",
        "in doubt besides: operations up to epoch 3 that are not known at all",
        "  0000000000000003.wal offset 1024",
    ] {
        assert!(text.text().contains(line), "{line}: {}", text.text());
    }
}

#[test]
fn a_clean_log_is_salvaged_as_it_is() {
    for (path, _) in vectors() {
        let (inside, dir) = imported(&path);
        let new = inside.path().join("new");
        let made = salvage(&dir, &new, &["--json"], 0).json();
        assert_eq!((&made["lost_records"], &made["in_doubt"]), (&json!(0), &json!([])));
        assert_eq!(made["unknown_ids_up_to_epoch"], Value::Null);
        assert_eq!(classes(&new, 0), classes(&dir, 0));
        assert_eq!(check("export", &new, &[], 0).out, fs::read(&path).unwrap());
    }
}

#[test]
fn a_torn_tail_is_left_out() {
    let (inside, dir) = imported_in_parts(&vector("09"));
    let whole = fs::read(segment(&dir, 3)).unwrap();
    fs::write(segment(&dir, 3), &whole[..1100]).unwrap();
    let new = inside.path().join("new");
    let made = salvage(&dir, &new, &["--json"], 0).json();
    assert!(made["torn_tail_bytes"].as_u64().unwrap() > 0);
    assert_eq!((&made["records"], &made["lost_records"]), (&json!(6), &json!(0)));
    assert_eq!(classes(&new, 0), classes(&dir, 0));
}

#[test]
fn an_empty_log_is_salvaged_too() {
    let (inside, dir) = fresh();
    import(&dir, "", &[], 0);
    let new = inside.path().join("new");
    salvage(&dir, &new, &[], 0);
    assert_eq!(check("recover", &new, &["--json"], 0).json()["records"], 0);
    import(&new, event("0x2a", r#"{"raw":""}"#), &[], 0);
}

#[test]
fn nothing_is_salvaged_over_something() {
    let (inside, dir) = damaged("09");
    let before = contents(&dir);
    let taken = inside.path().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("theirs"), "theirs").unwrap();
    let file = inside.path().join("file");
    fs::write(&file, "theirs").unwrap();
    for (to, why) in [
        (&taken, "the directory is there, and not empty"),
        (&dir, "the directory is there, and not empty"),
        (&file, "it is there, and no directory"),
        (&dir.join("new"), "it is inside the damaged log's directory"),
        (&dir.join("deep/new"), "it is inside the damaged log's directory"),
    ] {
        let ran = salvage(&dir, to, &[], 4);
        assert!(ran.err.contains(why), "{}", ran.err);
        assert!(ran.err.contains("nothing was written"), "{}", ran.err);
        assert_eq!(contents(&dir), before);
    }
    assert_eq!(contents(&taken).len(), 1);
    assert_eq!(fs::read(&file).unwrap(), b"theirs");
    // An empty directory is as good as none.
    let empty = inside.path().join("empty");
    fs::create_dir(&empty).unwrap();
    salvage(&dir, &empty, &[], 0);
    check("recover", &empty, &[], 0);
    // And so is one whose parents are not there yet.
    salvage(&dir, &inside.path().join("a/b/c"), &[], 0);
}

/// A salvage that was cut short leaves what nobody takes for the log, and the next one goes over it.
#[test]
fn what_is_not_whole_has_another_name() {
    let (inside, dir) = damaged("09");
    let (new, incomplete) = (inside.path().join("new"), inside.path().join("new.incomplete"));
    let (_other, older) = imported(&vector("05"));
    fs::create_dir(&incomplete).unwrap();
    for file in ["lock", "0000000000000001.wal"] {
        fs::copy(older.join(file), incomplete.join(file)).unwrap();
    }
    fs::copy(older.join("0000000000000001.wal"), segment(&incomplete, 9)).unwrap();
    salvage(&dir, &new, &[], 0);
    assert!(!incomplete.exists());
    assert_eq!(classes(&new, 0), classes(&dir, 2));

    // What no salvage has left there is left alone.
    let (new, incomplete) = (inside.path().join("two"), inside.path().join("two.incomplete"));
    fs::create_dir(&incomplete).unwrap();
    fs::write(incomplete.join("theirs"), "theirs").unwrap();
    let ran = salvage(&dir, &new, &[], 4);
    assert!(ran.err.contains("two.incomplete: "), "{}", ran.err);
    assert!(!new.exists());
    assert_eq!(contents(&incomplete).len(), 1);
}

/// Where a file may not grow, nothing is left: neither a log nor a part of one.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_leaves_no_half_log() {
    let (inside, dir) = fresh();
    let lines: String =
        (1..=5_000).map(|id| event("tx_created", &format!(r#"{{"id":{id}}}"#))).collect();
    import(&dir, lines, &[], 0);
    let new = inside.path().join("new");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(r#"trap "" XFSZ; ulimit -f 64; exec "$0" wal salvage "$1" --to "$2""#);
    shell.arg(env!("CARGO_BIN_EXE_trinity")).arg(&dir).arg(&new);
    let ran = run(shell);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("File too large"), "{}", ran.err);
    assert!(ran.err.contains("the damaged log is as it was"), "{}", ran.err);
    assert!(!new.exists() && !inside.path().join("new.incomplete").exists());
    salvage(&dir, &new, &[], 0);
}

/// A seal that verifies and claims a number that no log reaches makes nobody fill a disk.
#[cfg(unix)]
#[test]
fn no_number_makes_a_salvage_endless() {
    let (inside, dir) = imported_in_parts(&vector("09"));
    let mut bytes = fs::read(segment(&dir, 2)).unwrap();
    for copy in [0, 512] {
        let last = 1u64 << 40;
        bytes[copy + 88..copy + 96].copy_from_slice(&last.to_le_bytes());
        bytes[copy + 104..copy + 112].copy_from_slice(&(last + 1).to_le_bytes());
        bytes[copy + 68..copy + 72].fill(0);
        let sealed = [&bytes[copy..copy + 48], &bytes[copy + 64..copy + 120]].concat();
        bytes[copy + 68..copy + 72].copy_from_slice(&crc32c(&sealed).to_le_bytes());
    }
    fs::write(segment(&dir, 2), bytes).unwrap();
    let new = inside.path().join("new");
    // Were there no limit, this one would end it.
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(r#"trap "" XFSZ; ulimit -f 8192; exec "$0" wal salvage "$1" --to "$2""#);
    shell.arg(env!("CARGO_BIN_EXE_trinity")).arg(&dir).arg(&new);
    let ran = run(shell);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("records are missing: at most"), "{}", ran.err);
    assert!(!new.exists() && !inside.path().join("new.incomplete").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_place_that_cannot_be_written_is_named() {
    let (_inside, dir) = damaged("09");
    // Not even root creates a folder there.
    let ran = salvage(&dir, Path::new("/proc/new"), &[], 3);
    assert!(ran.err.contains("/proc/new.incomplete: "), "{}", ran.err);
}

#[test]
fn only_a_log_that_nobody_writes_is_salvaged() {
    let (inside, dir) = fresh();
    let new = inside.path().join("new");
    let (mut child, stdin) = writer(&dir, 1);
    let ran = salvage(&dir, &new, &[], 3);
    assert!(ran.err.contains("in use"), "{}", ran.err);
    drop(stdin);
    child.wait().unwrap();
    salvage(&dir, &new, &[], 0);

    let foreign = inside.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    let stream = vector("09");
    let new = inside.path().join("other");
    for (path, code) in [(&foreign, 4), (&stream, 4), (&inside.path().join("missing"), 3)] {
        salvage(path, &new, &[], code);
    }
    fs::write(segment(&foreign, 1), [7; 5000]).unwrap();
    salvage(&foreign, &new, &[], 4);
    assert!(!new.exists() && !inside.path().join("other.incomplete").exists());
}

#[test]
fn whoever_opens_a_damaged_log_hears_of_salvage() {
    let (_inside, dir) = damaged("09");
    let ran = import(&dir, event("0x2a", r#"{"raw":""}"#), &[], 2);
    assert!(ran.err.contains("`trinity wal salvage`"), "{}", ran.err);
    let opened = FileLog::open(&dir, &Config::default(), &mut ());
    let error = opened.unwrap_err().to_string();
    assert!(error.contains("`trinity wal salvage`"), "{error}");
}
