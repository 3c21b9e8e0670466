//! A directory of streams, as operators see it: all of it, or one stream.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use base::OperationId;
use serde_json::Value;
use wal_core::{Config, EventType, FileStreams, SegmentId};

fn trinity(verb: &str, path: &Path, flags: &[&str], code: i32) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trinity"));
    let ran = command.args(["wal", verb]).arg(path).args(flags).output().unwrap();
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(code), "{verb}: {stderr}");
    ran
}

fn json(verb: &str, path: &Path, code: i32) -> Value {
    serde_json::from_slice(&trinity(verb, path, &["--json"], code).stdout).unwrap()
}

fn text(verb: &str, path: &Path, code: i32) -> String {
    String::from_utf8(trinity(verb, path, &[], code).stdout).unwrap()
}

/// Three streams with the transactions 1 to 7, each created and no more.
fn written(path: &Path) {
    let (streams, _) = FileStreams::open(path, &Config::default(), &mut [(); 3]).unwrap();
    for id in 1..=7 {
        let mut payload = [0; 40];
        payload[0] = id;
        let log = streams.of(OperationId(u64::from(id)));
        log.append(EventType::TX_CREATED, 1_700_000_000_000, &payload).unwrap();
    }
    streams.close().unwrap();
}

#[test]
fn each_stream_is_recovered_and_verified() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    written(path);
    let recovered = json("recover", path, 0);
    assert_eq!(recovered["faults"], Value::Array(vec![]));
    let streams = recovered["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 3);
    for (number, stream) in streams.iter().enumerate() {
        assert_eq!(stream["stream"], number);
        assert_eq!(stream["folder"], format!("stream-{number}-of-3"));
        let ids = stream["operations"].as_array().unwrap().iter().map(|operation| {
            assert_eq!(operation["action"], "tx_resume_abort");
            operation["id"].as_u64().unwrap()
        });
        assert!(ids.eq((1..=7).filter(|id| id % 3 == number as u64)));
    }
    let explained = trinity("recover", path, &["--explain"], 0).stdout;
    let explained = String::from_utf8(explained).unwrap();
    assert!(explained.contains("stream-2-of-3/0000000000000001.wal at offset"), "{explained}");

    let verified = json("verify", path, 0);
    assert_eq!(verified["verdict"], "clean");
    assert_eq!(verified["streams"][1]["records"], 3);
    assert_eq!(verified["streams"][1]["verdict"], "clean");
    let epochs: Vec<_> =
        (0..3).map(|stream| verified["streams"][stream]["epoch"].clone()).collect();
    assert_eq!(epochs, [1, 1, 1]);
    let verified = text("verify", path, 0);
    assert!(verified.contains("stream 2 of 3\n"), "{verified}");
    assert!(verified.ends_with("verdict of all streams: clean\n"), "{verified}");
}

#[test]
fn damage_and_a_lost_stream_are_told_with_their_stream() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    written(path);
    let file = path.join("stream-1-of-3").join(SegmentId::FIRST.file_name());
    let mut bytes = fs::read(&file).unwrap();
    bytes[1100] ^= 1;
    fs::write(&file, bytes).unwrap();
    let verified = json("verify", path, 2);
    assert_eq!(verified["verdict"], "corrupt");
    let verdicts: Vec<_> =
        (0..3).map(|stream| verified["streams"][stream]["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["clean", "corrupt", "clean"]);
    let place = &verified["streams"][1]["corruption"][0]["file"];
    assert_eq!(place, "stream-1-of-3/0000000000000001.wal");
    json("recover", path, 2);

    fs::remove_dir_all(path.join("stream-1-of-3")).unwrap();
    for verb in ["recover", "verify"] {
        let told = json(verb, path, 2);
        assert_eq!(told["faults"][0]["stream"], 1, "{told}");
        assert_eq!(told["streams"][1]["records"], 0);
        assert!(text(verb, path, 2).contains("stream 1 has lost its end"), "{verb}");
    }
}

#[test]
fn one_stream_is_read_by_itself_and_never_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    written(path);
    let one = path.join("stream-1-of-3");
    assert_eq!(text("dump", &one, 0).lines().count(), 3);
    assert_eq!(trinity("export", &one, &[], 0).stdout.len(), 3 * 69);
    for (verb, at) in [("dump", path), ("export", path), ("import", path), ("import", &one)] {
        let ran = trinity(verb, at, &[], 4);
        assert!(String::from_utf8_lossy(&ran.stderr).contains("stream"), "{verb}");
    }
    let (open, _) = FileStreams::open(path, &Config::default(), &mut [(); 3]).unwrap();
    for at in [path, &one] {
        trinity("verify", at, &[], 3);
    }
    open.close().unwrap();
    assert_eq!(fs::read_dir(&one).unwrap().count(), 2, "the two starts' segments, and no lock");
}
