//! `trinity wal import --acks`, killed at random moments: nothing that was acknowledged is lost, doubled
//! or changed, and the next import goes on behind it.

#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::Sequence;
use tempfile::TempDir;
use wal_core::{EventType, FileStorage, Place, Record, ScanConfig, Visitor};

/// Repeatable choices.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The payload of the `n`-th event that was ever fed: no two are the same. Some are long, so that groups
/// have many sectors and segments are full soon.
fn payload(n: u64) -> Vec<u8> {
    let mut choices = Choices(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let filler = match choices.below(40) {
        0 => 60_000,
        1..5 => choices.below(3_000),
        _ => choices.below(30),
    };
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.resize(8 + filler as usize, n as u8);
    bytes
}

/// The event as a line of the import.
fn line(n: u64) -> String {
    let mut line = String::from(r#"{"type":"0x2a","timestamp_ms":1,"payload":{"raw":""#);
    for byte in payload(n) {
        write!(line, "{byte:02x}").unwrap();
    }
    line += "\"}}\n";
    line
}

/// What an acknowledgement says of a record: the CRC-32 of its payload.
fn hash(payload: &[u8]) -> String {
    let mut bytes = Vec::new();
    let (sequence, event) = (Sequence::FIRST, EventType(0x2A));
    wal_core::encode_record(&Record { sequence, event, timestamp_ms: 1, payload }, &mut bytes);
    format!("{:08x}", u32::from_le_bytes(bytes[25..29].try_into().unwrap()))
}

#[derive(Default)]
struct Payloads(Vec<Vec<u8>>);

impl Visitor for Payloads {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        assert_eq!(record.sequence.0, self.0.len() as u64 + 1, "in order, each once");
        self.0.push(record.payload.to_vec());
    }
}

/// When the process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after its start.
    At(Duration),
    /// So long after that many acknowledgements.
    Behind(u64, Duration),
}

/// Runs an import of events from number `from` on and kills it. Returns the acknowledgements, in order.
fn import_and_kill(dir: &Path, from: u64, direct: bool, moment: Moment) -> Vec<(u64, String)> {
    let mut import = Command::new(env!("CARGO_BIN_EXE_trinity"));
    import.args(["wal", "import", "--acks"]).arg(dir);
    if direct {
        import.arg("--direct");
    }
    import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = import.spawn().unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let acknowledged = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Groups of many sizes, until nobody reads them any more.
            let mut choices = Choices(from | 1);
            let mut next = from;
            loop {
                let group: String = (0..=choices.below(30)).map(|n| line(next + n)).collect();
                next += group.lines().count() as u64;
                if stdin.write_all(group.as_bytes()).is_err() {
                    return;
                }
            }
        });
        let acks = scope.spawn(|| {
            let mut acks = Vec::new();
            let mut stdout = BufReader::new(stdout);
            loop {
                let mut line = String::new();
                stdout.read_line(&mut line).unwrap();
                // A last line without its end was cut by the kill.
                let Some(ack) = line.strip_suffix('\n') else { return acks };
                let [word, sequence, hash] = ack.split(' ').collect::<Vec<_>>()[..] else {
                    panic!("{ack}")
                };
                assert_eq!(word, "ack");
                acks.push((sequence.parse().unwrap(), hash.to_owned()));
                acknowledged.store(acks.len() as u64, Ordering::Relaxed);
            }
        });
        let pause = |time| {
            #[expect(clippy::disallowed_methods, reason = "the moment of the kill is real time")]
            std::thread::sleep(time);
        };
        match moment {
            Moment::At(time) => pause(time),
            Moment::Behind(count, time) => {
                let mut waited = 0;
                while acknowledged.load(Ordering::Relaxed) < count {
                    pause(Duration::from_micros(100));
                    waited += 1;
                    if waited % 1_000 == 0 && child.try_wait().unwrap().is_some() {
                        let mut told = String::new();
                        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
                        panic!("it ended by itself: {told}");
                    }
                    assert!(waited < 300_000, "no acknowledgement comes");
                }
                pause(time);
            }
        }
        assert!(child.try_wait().unwrap().is_none(), "it ends only when it is killed");
        child.kill().unwrap();
        let told = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&told.stderr);
        assert!(!told.contains("panicked") && !told.contains("damaged"), "{told}");
        acks.join().unwrap()
    })
}

/// G1, G3 with a real process: 40 kills, and in a heavy run as many as `cargo xtask crash wal` asks for.
#[test]
fn what_was_acknowledged_survives_a_kill() {
    let rounds = std::env::var("WAL_CRASH_ROUNDS").ok();
    let rounds: u64 = rounds.map_or(40, |rounds| rounds.parse().unwrap());
    let mut choices = Choices(0x5EED_0F0F_1234_5678);
    let mut kills = 0;
    let (mut fed, mut with_acks, mut unacknowledged, mut torn, mut none) = (0, 0, 0, 0, 0);
    let new_dir = || TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut dir = new_dir();
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for round in 0..20 * rounds {
        // On a fast disk few kills come between a write and its acknowledgement: on until one has.
        if round >= rounds && unacknowledged + torn > 0 {
            break;
        }
        if round % 25 == 0 {
            dir = new_dir();
            kept.clear();
        }
        let micros = Duration::from_micros(choices.below(6_000));
        let moment = match choices.below(3) {
            // Before it has opened the log, too.
            _ if round % 10 == 9 => Moment::At(micros / 20),
            0 => Moment::At(micros * 3),
            _ => Moment::Behind(1 + choices.below(80), micros),
        };
        kills += 1;
        // Through the page cache and past it, in the same log.
        let direct = choices.below(2) == 0;
        let acks = import_and_kill(dir.path(), fed, direct, moment);
        let what = format!("round {round}, {moment:?}, direct: {direct}");

        let mut found = Payloads::default();
        let storage = FileStorage::read(dir.path()).unwrap();
        let scanned = wal_core::scan(&storage, &ScanConfig::default(), &mut found).unwrap();
        let found = found.0;
        assert!(!scanned.is_corrupt(), "{what}: {:?}", scanned.corruption);
        assert!(found.starts_with(&kept), "{what}: what was there is lost or changed");
        for (n, payload_found) in found[kept.len()..].iter().enumerate() {
            assert!(*payload_found == payload(fed + n as u64), "{what}: not what was fed: {n}");
        }
        let acknowledged = kept.len() + acks.len();
        assert!(found.len() >= acknowledged, "{what}: {} of {acknowledged}", found.len());
        for ((sequence, ack_hash), n) in acks.iter().zip(kept.len()..) {
            assert_eq!(*sequence, n as u64 + 1, "{what}: acknowledged in order, each once");
            assert_eq!(*ack_hash, hash(&found[n]), "{what}: {sequence}");
        }
        with_acks += u64::from(!acks.is_empty());
        unacknowledged += u64::from(found.len() > acknowledged);
        torn += u64::from(scanned.torn_tail_bytes > 0);
        none += u64::from(found.len() == kept.len());
        // No payload comes twice, whatever became of this round's.
        fed += 1_000_000;
        kept = found;
    }
    eprintln!(
        "{kills} kills: {with_acks} behind acknowledgements, {unacknowledged} with records that were \
         kept and not acknowledged, {torn} with a torn tail, {none} that left nothing new"
    );
    assert!(with_acks > rounds / 3 && unacknowledged + torn > 0 && none > 0);
}
