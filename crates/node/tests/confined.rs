//! A disk that has room for the logs' current segments only: what does not fit is refused or waits, nothing
//! fails, and when there is room again everything that was accepted ends, and what was refused can be asked
//! for again.

mod shell;

use base::prng::Key;
use base::{RequestKey, ShardId};
use node::work::{self, Change};
use node::{Branch, Config, Input, LogSlot, Outcome, Refusal, Request, Work};
use shell::{ME, Shell};
use std::collections::BTreeMap;
use std::time::Duration;
use wal_core::{DiskOp, SegmentId};

const LOGS: [LogSlot; 2] = [LogSlot::Coordinator, LogSlot::Participant];

/// A node with small segments.
fn start() -> Shell {
    let mut config = Config::both(ME, 1, Key::root(1));
    config.log.max_payload = 2 << 10;
    config.log.batch_bytes_max = 8 << 10;
    config.log.buffered_bytes_max = 32 << 10;
    config.log.segment_bytes_first = 64 << 10;
    config.log.segment_bytes_max = 64 << 10;
    Shell::start(config)
}

/// Asks for a transaction, and notes every answer that there is by then.
fn submit(shell: &mut Shell, told: &mut BTreeMap<RequestKey, Outcome>, number: u64) -> RequestKey {
    let key = RequestKey::new(&number.to_le_bytes()).expect("eight bytes are few");
    let branch = |shard| Branch {
        shard: ShardId::numbered(shard),
        node: ME,
        work: work::encode(&[Change::Add { cell: 100 * shard + number % 50, amount: 1 }]),
    };
    let work = Work::Transaction(vec![branch(1), branch(2)]);
    shell.handle(Input::Submit(Request { key: key.clone(), work }));
    told.extend(shell.told.drain(..));
    key
}

/// Time passes, with whatever is due.
fn wait(shell: &mut Shell, told: &mut BTreeMap<RequestKey, Outcome>, times: u32) {
    for _ in 0..times {
        shell.now += Duration::from_millis(500);
        shell.handle(Input::Wake);
    }
    told.extend(shell.told.drain(..));
}

fn segments(shell: &Shell) -> [u64; 2] {
    LOGS.map(|slot| shell.node.log(slot).expect("it runs").segment().0)
}

#[test]
fn what_a_full_disk_has_no_room_for_is_refused_or_waits() {
    for confined in [&LOGS[..1], &LOGS[1..], &LOGS] {
        let (mut shell, mut told) = (start(), BTreeMap::new());
        let first = segments(&shell);
        confined.iter().for_each(|slot| shell.node.confine_log(*slot, true));
        let mut asked = Vec::new();
        for number in 0..2_000 {
            let key = submit(&mut shell, &mut told, number);
            let busy = Outcome::Refused(Refusal::LogBusy);
            let is_done = told.get(&key).is_some_and(|outcome| *outcome != busy);
            asked.push(key);
            // Somebody waits for ever: the log that is full is the participant's.
            if !is_done && asked.len() > 100 && asked.len().is_multiple_of(100) {
                break;
            }
        }
        wait(&mut shell, &mut told, 20);
        let now = segments(&shell);
        for slot in confined {
            assert_eq!(now[*slot as usize], first[*slot as usize], "{slot:?} stays where it is");
        }
        let before = told.values().filter(|outcome| **outcome == Outcome::Committed).count();
        assert!(before >= 20 && before < asked.len(), "{before} of {}", asked.len());

        confined.iter().for_each(|slot| shell.node.confine_log(*slot, false));
        wait(&mut shell, &mut told, 200);
        for key in &asked {
            match told.get(key) {
                Some(Outcome::Committed | Outcome::Aborted) => {}
                Some(Outcome::Refused(Refusal::LogBusy)) if confined.contains(&LOGS[0]) => {}
                told => panic!("{confined:?}, {key:?}: {told:?}"),
            }
        }
        let engine = shell.node.coordinator().expect("it coordinates");
        let host = shell.node.participant().expect("it takes part");
        assert_eq!(engine.active(), 0, "everything that was accepted has ended");
        assert!(
            host.participant().prepared().next().is_none()
                && host.locks().held(shell.now).next().is_none()
        );
        // And what was refused is asked for again.
        let refused: Vec<u64> = (0..asked.len() as u64)
            .filter(|n| told[&asked[*n as usize]] == Outcome::Refused(Refusal::LogBusy))
            .collect();
        for number in refused {
            let key = submit(&mut shell, &mut told, number);
            wait(&mut shell, &mut told, 1);
            assert_eq!(told.get(&key), Some(&Outcome::Committed), "{number}");
        }
    }
}

/// What a shell gives back of a flush is what the next one of the same log is written from.
#[test]
fn a_flush_is_written_from_memory_that_was_given_back() {
    const MUCH: usize = 20 << 10;
    for slot in LOGS {
        let (mut shell, mut told) = (start(), BTreeMap::new());
        submit(&mut shell, &mut told, 1);
        wait(&mut shell, &mut told, 1);
        assert!(shell.written_from.iter().all(|most| *most < MUCH), "{:?}", shell.written_from);
        let bytes = Vec::with_capacity(MUCH);
        shell.node.reuse(slot, vec![DiskOp::Write { segment: SegmentId(1), offset: 0, bytes }]);
        let key = submit(&mut shell, &mut told, 2);
        wait(&mut shell, &mut told, 1);
        assert_eq!(told.get(&key), Some(&Outcome::Committed));
        let mine = LOGS.map(|it| it == slot);
        assert_eq!(shell.written_from.map(|most| most >= MUCH), mine, "{slot:?}");
    }
}
