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

/// The operations that a salvaged stream holds as being in doubt, and up to which epoch unknown ids are.
fn doubts(stream: &Value) -> (Vec<u64>, Option<u64>) {
    let in_doubt = stream["in_doubt"].as_array().unwrap().iter();
    let ids = in_doubt.map(|operation| operation["id"].as_u64().unwrap()).collect();
    (ids, stream["unknown_ids_up_to_epoch"].as_u64())
}

#[test]
fn each_stream_is_salvaged_and_those_that_are_whole_are_copied() {
    let inside = tempfile::tempdir().unwrap();
    let (old, new) = (inside.path().join("old"), inside.path().join("new"));
    fs::create_dir(&old).unwrap();
    written(&old);
    let file = old.join("stream-1-of-3").join(SegmentId::FIRST.file_name());
    let mut bytes = fs::read(&file).unwrap();
    // A record's payload, in a batch that was synced.
    bytes[1100] ^= 1;
    fs::write(&file, bytes).unwrap();
    json("recover", &old, 2);

    let flags = ["--to", new.to_str().unwrap(), "--json"];
    let told: Value = serde_json::from_slice(&trinity("salvage", &old, &flags, 0).stdout).unwrap();
    let streams = told["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 3);
    assert_eq!(streams[1]["folder"], "stream-1-of-3");
    for whole in [&streams[0], &streams[2]] {
        assert_eq!(doubts(whole), (vec![], None));
        assert_eq!(whole["lost_records"], 0);
    }
    assert_eq!(streams[0]["records"], 2);
    assert_eq!(
        streams[1]["records"].as_u64().unwrap() + streams[1]["lost_records"].as_u64().unwrap(),
        3
    );
    assert_eq!(doubts(&streams[1]).1, Some(1));
    assert_ne!(streams[1]["lost_records"], 0);

    // It is a directory of streams like any other: of one id and one epoch.
    assert_eq!(json("recover", &new, 0)["faults"], Value::Array(vec![]));
    assert_eq!(json("verify", &new, 0)["streams"][2]["epoch"], streams[1]["epoch"]);
    assert_eq!(fs::read_dir(&new).unwrap().count(), 4, "three streams and the lock");
    let (open, _) = FileStreams::open(&new, &Config::default(), &mut [(); 3]).unwrap();
    assert!(u64::from(open.epoch().value()) > streams[1]["epoch"].as_u64().unwrap());
    open.close().unwrap();
    trinity("salvage", &old, &flags, 4);
}

#[test]
fn everything_is_in_doubt_that_lived_in_a_stream_that_is_lost() {
    let inside = tempfile::tempdir().unwrap();
    let (old, new) = (inside.path().join("old"), inside.path().join("new"));
    fs::create_dir(&old).unwrap();
    written(&old);
    let kept = inside.path().join("kept");
    fs::rename(old.join("stream-1-of-3"), &kept).unwrap();
    let to = ["--to", new.to_str().unwrap()];
    let text = String::from_utf8(trinity("salvage", &old, &to, 0).stdout).unwrap();
    assert!(text.contains("stream 1 of 3\n"), "{text}");
    assert!(
        text.contains("in doubt besides: operations up to epoch 1 that are not known"),
        "{text}"
    );
    let recovered = json("recover", &new, 0);
    assert_eq!(recovered["faults"], Value::Array(vec![]));
    assert_eq!(recovered["streams"][1]["unknown_ids_up_to_epoch"], 1);
    assert_eq!(recovered["streams"][0]["unknown_ids_up_to_epoch"], Value::Null);

    // One that is there, but an older state of it: what it still knows is in doubt as well.
    fs::remove_dir_all(&new).unwrap();
    fs::rename(&kept, old.join("stream-1-of-3")).unwrap();
    let (open, _) = FileStreams::open(&old, &Config::default(), &mut [(); 3]).unwrap();
    for (_, log) in open.logs() {
        log.append(EventType::TX_PREPARE_START, 1, &[1, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    }
    open.close().unwrap();
    for segment in fs::read_dir(old.join("stream-1-of-3")).unwrap() {
        let path = segment.unwrap().path();
        if !path.ends_with(SegmentId::FIRST.file_name()) {
            fs::remove_file(path).unwrap();
        }
    }
    let flags = ["--to", new.to_str().unwrap(), "--json"];
    let told: Value = serde_json::from_slice(&trinity("salvage", &old, &flags, 0).stdout).unwrap();
    assert_eq!(doubts(&told["streams"][1]), (vec![1, 4, 7], Some(2)));
}

#[test]
fn a_stream_of_another_directory_is_not_salvaged_and_nothing_is_left() {
    let inside = tempfile::tempdir().unwrap();
    let (old, new) = (inside.path().join("old"), inside.path().join("new"));
    fs::create_dir(&old).unwrap();
    written(&old);
    let other = tempfile::tempdir().unwrap();
    written(other.path());
    let file = Path::new("stream-2-of-3").join(SegmentId::FIRST.file_name());
    fs::copy(other.path().join(&file), old.join(&file)).unwrap();
    let refused = trinity("salvage", &old, &["--to", new.to_str().unwrap()], 3);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("stream-2-of-3") && said.contains("another stream"), "{said}");
    assert_eq!(fs::read_dir(inside.path()).unwrap().count(), 1, "neither a log nor a part of one");
}
