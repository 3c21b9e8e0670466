//! An operator ends transactions that a salvage has left in doubt, and one that its only participant does
//! not decide; and forgets what came of it. Over a log in memory that is read anew again and again.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use base::prng::Key;
use base::{BootCount, CoordinatorId, NodeName, OperationId, RequestKey, ShardId, StoreId, Time};
use coordinator::{
    Branch, Config, Doubt, Doubtful, Engine, Force, ForceError, Intervened, Intervention, Message,
    Outcome, Output, RecoveryAction, RecoveryReport, Replay, Request, Work, codec,
};
use std::sync::Arc;
use std::time::Duration;
use twopc::coordinator::{Event as Tx, Member};
use twopc::participant::PromiseKey;
use twopc::{Audit, ForceRefusal, Heuristic, Message as Spoken, Peer, TxKey, Verdict, Vote};
use wal_core::{EventType, MemoryStorage, OpenMode, Storage};

const COORDINATOR: CoordinatorId = CoordinatorId::numbered(1);
/// In doubt: prepared, and one has voted.
const UNDECIDED: OperationId = OperationId(1 << 40 | 1);
/// In doubt, although its log says that it aborts: a commit may be lost.
const ABORTED: OperationId = OperationId(1 << 40 | 2);
/// In doubt, and nothing else is known of it.
const ORPHAN: OperationId = OperationId(1 << 40 | 3);

fn peer(number: u64) -> Peer {
    let (shard, node) = (ShardId::numbered(number), NodeName::numbered(number));
    Peer { shard, node, store: StoreId(number), boot: BootCount(1) }
}

fn key(name: &str) -> RequestKey {
    RequestKey::new(name.as_bytes()).unwrap()
}

fn tx(id: OperationId) -> TxKey {
    TxKey { coordinator: COORDINATOR, id }
}

struct Bench {
    storage: MemoryStorage,
    log: wal_core::Config,
    engine: Option<Engine>,
    report: Option<RecoveryReport>,
    now: Time,
    sent: Vec<(NodeName, Message)>,
    told: Vec<Output>,
}

impl Bench {
    fn new(max_records: u64) -> Bench {
        let mut log_config = wal_core::Config { max_records, ..Default::default() };
        log_config.segment_bytes_first = 8 << 10;
        let mut storage = MemoryStorage::new();
        let mode = OpenMode::Exclusive;
        let opened = wal_core::open(&mut storage, &log_config, mode, 7, Time::ZERO, &mut ());
        let mut log = opened.unwrap().0;
        let mut write = |encode: &mut dyn FnMut(&mut Vec<u8>) -> EventType| {
            let mut payload = Vec::new();
            let event = encode(&mut payload);
            log.append(event, 1_000, &payload).unwrap();
        };
        for (id, name) in [(UNDECIDED, "undecided"), (ABORTED, "aborted")] {
            let members = [1, 2].map(|number| Member::at(peer(number)));
            let admission =
                twopc::Transaction::admission(COORDINATOR, Some(key(name)), None, &members);
            for event in admission.unwrap() {
                write(&mut |payload| codec::encode_transaction(id, &event, payload));
            }
            let vote = Tx::VoteReceived { shard: peer(1).shard, vote: Vote::Commit };
            write(&mut |payload| codec::encode_transaction(id, &vote, payload));
        }
        write(&mut |payload| codec::encode_doubt(COORDINATOR, &Doubt::LostRecord, payload));
        write(&mut |payload| codec::encode_transaction(ABORTED, &Tx::AbortStart, payload));
        for id in [UNDECIDED, ABORTED, ORPHAN] {
            let doubt = Doubt::Transaction(id);
            write(&mut |payload| codec::encode_doubt(COORDINATOR, &doubt, payload));
        }
        log.force(log.last());
        wal_core::drive(&mut storage, &mut log, Time::ZERO);
        wal_core::close(&mut storage, &mut log, Time::ZERO);
        let (engine, report, now) = (None, None, Time::ZERO);
        let (sent, told) = (vec![], vec![]);
        let mut bench = Bench { storage, log: log_config, engine, report, now, sent, told };
        bench.restart();
        bench
    }

    /// Everything that is not durable is gone.
    fn restart(&mut self) {
        let (mut replay, mut out) = (Replay::default(), Vec::new());
        let mode = OpenMode::Exclusive;
        let opened = wal_core::open(&mut self.storage, &self.log, mode, 7, self.now, &mut replay);
        let (log, scanned) = opened.unwrap();
        self.report = Some(replay.report(&scanned));
        let mut config = Config::new(COORDINATOR, Key::root(3));
        config.jitter_percent = 0;
        self.engine = Some(Engine::resume(config, replay, log, self.now, &mut out));
        (self.sent, self.told) = (vec![], vec![]);
        self.take(out);
        self.flush();
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().unwrap()
    }

    fn take(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send { to, message } => self.sent.push((to, message)),
                Output::Appended { .. } => {}
                output => self.told.push(output),
            }
        }
    }

    fn flush(&mut self) {
        loop {
            let (now, mut out) = (self.now, Vec::new());
            self.engine().flush(now, &mut out);
            let Some(Output::Disk { ops, .. }) = out.pop() else { break };
            self.storage.perform_all(&ops).unwrap();
            self.engine().flushed(now, Ok(()), &mut out);
            self.take(out);
        }
    }

    fn intervene(&mut self, of: Doubtful, force: Force) -> Result<(), ForceError> {
        let audit = Arc::new(Audit { at_ms: 5, who: "eva".into(), why: "they asked".into() });
        let (now, mut out) = (self.now, Vec::new());
        self.engine().intervene(now, &Intervention { of, force, audit }, &mut out);
        let early = |output: &Output| match output {
            Output::Intervened(told) => told.result.is_ok(),
            Output::Send { message: Message::Transaction(Spoken::Commit { .. }), .. } => true,
            _ => false,
        };
        let durable = self.engine().log().durable() == self.engine().log().last();
        assert!(durable || !out.iter().any(early), "it leaves before the log has it: {out:?}");
        self.take(out);
        self.flush();
        let heard = self.told.iter().position(|output| matches!(output, Output::Intervened(_)));
        let Output::Intervened(told) = self.told.remove(heard.unwrap()) else { unreachable!() };
        let Intervened { of: about, force: what, result } = *told;
        assert_eq!((about, what), (of, force));
        result
    }

    fn force(&mut self, id: OperationId, force: Force) -> Result<(), ForceError> {
        self.intervene(Doubtful::Transaction(id), force)
    }

    fn hear(&mut self, from: u64, message: Spoken) {
        let (now, mut out) = (self.now, Vec::new());
        let (from, message) = (NodeName::numbered(from), Message::Transaction(message));
        self.engine().receive(now, from, &message, &mut out);
        self.take(out);
        self.flush();
    }

    fn ack(&mut self, from: u64, id: OperationId, heuristic: Option<Heuristic>) {
        let Peer { shard, store, .. } = peer(from);
        self.hear(from, Spoken::Ack { key: tx(id), shard, store, heuristic });
    }

    fn verdict(&mut self, id: OperationId) -> Verdict {
        self.sent.clear();
        let Peer { shard, store, .. } = peer(1);
        self.hear(1, Spoken::Inquiry { key: tx(id), shard, store });
        let [(_, Message::Transaction(Spoken::Answer { verdict, .. }))] = self.sent[..] else {
            panic!("{:?}", self.sent)
        };
        verdict
    }

    /// Whom a decision was sent to, and for which store.
    fn commits(&mut self) -> Vec<(u64, Option<StoreId>)> {
        let sent = std::mem::take(&mut self.sent);
        sent.into_iter()
            .filter_map(|(to, message)| match message {
                Message::Transaction(Spoken::Commit { store, .. }) => Some((to.number(), store)),
                _ => None,
            })
            .collect()
    }

    fn action(&self, id: OperationId) -> Option<(RecoveryAction, bool)> {
        let operations = &self.report.as_ref().unwrap().operations;
        let found = operations.iter().find(|operation| operation.id == id);
        found.map(|found| (found.action, found.in_doubt))
    }

    fn listed(&mut self) -> Vec<(OperationId, u64, Heuristic)> {
        let engine = self.engine.as_ref().unwrap();
        engine.heuristics().map(|(id, shard, it)| (id, shard.number(), it.heuristic)).collect()
    }

    /// Runs transactions until whatever was in the log before is in snapshots only.
    fn go_on_until_compacted(&mut self) {
        let before = self.engine().log().stats().compactions;
        for number in 0..200u64 {
            let work = vec![Branch {
                shard: peer(3).shard,
                node: peer(3).node,
                work: number.to_le_bytes().into(),
            }];
            let (now, mut out) = (self.now, Vec::new());
            let name = format!("{number} at {now:?}");
            let request = Request { key: key(&name), work: Work::Transaction(work) };
            let announce = Message::Announce { store: peer(3).store, boot: peer(3).boot };
            self.engine().receive(now, peer(3).node, &announce, &mut out);
            self.engine().submit(now, request, &mut out);
            self.take(out);
            self.flush();
            let id = self.engine().active_transactions().map(twopc::Transaction::id).max().unwrap();
            let Peer { shard, store, boot, .. } = peer(3);
            self.hear(3, Spoken::Vote { key: tx(id), shard, vote: Vote::Commit, store, boot });
            self.now += Duration::from_micros(1);
        }
        let compactions = self.engine().log().stats().compactions - before;
        assert!(compactions > 1, "{compactions}");
    }

    fn asked(&mut self, name: &str) -> Vec<Outcome> {
        self.told.clear();
        let (now, mut out, work) = (self.now, Vec::new(), Work::Transaction(vec![]));
        self.engine().submit(now, Request { key: key(name), work }, &mut out);
        self.take(out);
        self.flush();
        let told = std::mem::take(&mut self.told);
        told.into_iter()
            .filter_map(|output| match output {
                Output::Reply { outcome, .. } => Some(outcome),
                _ => None,
            })
            .collect()
    }
}

const NOT_IN_DOUBT: Result<(), ForceError> = Err(ForceError::Refused(ForceRefusal::NotInDoubt));

#[test]
fn a_transaction_in_doubt_commits_by_force_and_says_who_did_not() {
    let mut bench = Bench::new(10_000);
    assert_eq!(bench.verdict(UNDECIDED), Verdict::InDoubt);
    assert_eq!(bench.asked("undecided"), [Outcome::InDoubt]);
    assert_eq!(bench.force(OperationId(1 << 40 | 77), Force::Commit), NOT_IN_DOUBT);
    let branch = PromiseKey { tx: tx(UNDECIDED), shard: peer(1).shard };
    assert_eq!(bench.intervene(Doubtful::Branch(branch), Force::Abort), Err(ForceError::NotHere));
    let not_listed = Err(ForceError::Refused(ForceRefusal::NotListed));
    assert_eq!(bench.force(UNDECIDED, Force::Forget), not_listed);

    assert_eq!(bench.force(UNDECIDED, Force::Commit), Ok(()));
    // Only the first is known to have voted, and so only of that one it is known which store it was.
    assert_eq!(bench.commits(), [(1, Some(StoreId(1))), (2, None)]);
    for restarted in [false, true] {
        if restarted {
            bench.restart();
            assert_eq!(bench.action(UNDECIDED), Some((RecoveryAction::TxResumeCommit, false)));
        }
        assert_eq!(bench.verdict(UNDECIDED), Verdict::Committed);
        assert_eq!(bench.asked("undecided"), [Outcome::Committed]);
        assert_eq!(bench.force(UNDECIDED, Force::Commit), Ok(()));
        let otherwise = ForceRefusal::ForcedOtherwise { commit: true };
        assert_eq!(bench.force(UNDECIDED, Force::Abort), Err(ForceError::Refused(otherwise)));
        let others: Vec<_> = bench.engine().transactions_in_doubt().collect();
        assert_eq!(others, [ABORTED, ORPHAN]);
    }
    // A report against the other decision is nobody's.
    bench.ack(2, UNDECIDED, Some(Heuristic::Committed));
    assert_eq!(bench.listed(), []);
    bench.ack(1, UNDECIDED, None);
    bench.sent.clear();
    bench.ack(2, UNDECIDED, Some(Heuristic::Lost));
    assert!(matches!(
        bench.sent[..],
        [(_, Message::Transaction(Spoken::Noted { key: TxKey { id: UNDECIDED, .. }, .. }))]
    ));
    let told = bench.told.iter().filter(|output| matches!(output, Output::Heuristic { .. }));
    assert_eq!(told.count(), 1);
    assert_eq!(bench.engine().active(), 0, "it counts as an acknowledgement");
    let decided = ForceError::Refused(ForceRefusal::Decided { commit: true });
    assert_eq!(bench.force(UNDECIDED, Force::Abort), Err(decided));
    for restarted in [false, true] {
        if restarted {
            bench.restart();
        }
        assert_eq!(bench.listed(), [(UNDECIDED, 2, Heuristic::Lost)]);
        // It is noted again, and listed once.
        bench.sent.clear();
        bench.ack(2, UNDECIDED, Some(Heuristic::Lost));
        assert_eq!((bench.sent.len(), bench.listed().len()), (1, 1));
        assert_eq!(bench.verdict(UNDECIDED), Verdict::Committed);
    }
    assert_eq!(bench.force(UNDECIDED, Force::Forget), Ok(()));
    assert_eq!(bench.listed(), []);
    bench.restart();
    assert_eq!(bench.listed(), []);
    assert_eq!(bench.report.as_ref().unwrap().anomalies.total(), 0);
}

#[test]
fn whatever_the_log_says_of_it_the_force_counts() {
    for force in [Force::Commit, Force::Abort] {
        for id in [ABORTED, ORPHAN] {
            let mut bench = Bench::new(10_000);
            assert!(bench.action(id).unwrap().1);
            assert_eq!(bench.force(id, force), Ok(()));
            let commits = force == Force::Commit;
            let verdict = if commits { Verdict::Committed } else { Verdict::Aborted };
            assert_eq!(bench.verdict(id), verdict);
            bench.restart();
            assert_eq!(bench.verdict(id), verdict, "{id} {force:?}");
            let expected = match (id, commits) {
                (ORPHAN, true) => None,
                (_, true) => Some((RecoveryAction::TxResumeCommit, false)),
                (_, false) => Some((RecoveryAction::TxResumeAbort, false)),
            };
            assert_eq!(bench.action(id), expected);
            if id == ABORTED {
                let outcome = if commits { Outcome::Committed } else { Outcome::Aborted };
                assert_eq!(bench.asked("aborted"), [outcome]);
            }
            // It ends as any other does.
            for node in [1, 2] {
                bench.ack(node, id, None);
            }
            for _ in 0..6 {
                bench.now += Duration::from_secs(9);
                let (now, mut out) = (bench.now, Vec::new());
                bench.engine().wake(now, &mut out);
                bench.take(out);
                bench.flush();
            }
            assert_eq!(bench.engine().active(), 0);
            bench.restart();
            assert_eq!(bench.verdict(id), verdict);
        }
    }
}

/// What was forced, and what is listed, is in a snapshot that takes the place of the records.
#[test]
fn a_snapshot_says_what_was_forced_and_what_is_listed() {
    let mut bench = Bench::new(8);
    assert_eq!(bench.force(UNDECIDED, Force::Commit), Ok(()));
    assert_eq!(bench.force(ABORTED, Force::Abort), Ok(()));
    bench.ack(2, UNDECIDED, Some(Heuristic::Aborted));
    bench.ack(1, ABORTED, Some(Heuristic::Committed));
    let listed = vec![(UNDECIDED, 2, Heuristic::Aborted), (ABORTED, 1, Heuristic::Committed)];
    let orphan = |bench: &Bench| {
        let mut all = bench.report.as_ref().unwrap().operations.iter();
        all.find(|operation| operation.id == ORPHAN).cloned()
    };
    let before = orphan(&bench);
    assert!(before.is_some());
    bench.go_on_until_compacted();
    bench.restart();
    let report = bench.report.as_ref().unwrap();
    assert!(report.scanned.records < 600, "the older records are gone");
    assert_eq!(report.anomalies.total(), 0, "{:?}", report.anomalies);
    assert_eq!(bench.listed(), listed);
    assert_eq!(bench.action(UNDECIDED), Some((RecoveryAction::TxResumeCommit, false)));
    assert_eq!(bench.verdict(UNDECIDED), Verdict::Committed);
    assert_eq!(bench.verdict(ABORTED), Verdict::Aborted);
    assert_eq!(orphan(&bench), before, "with the records that it was known from");
    assert_eq!(bench.action(ORPHAN).map(|(_, in_doubt)| in_doubt), Some(true));
    assert_eq!(bench.force(ORPHAN, Force::Abort), Ok(()));
}

/// Who said that a participant is gone, when and why, is in the report, and in a snapshot: also in one of one.
#[test]
fn a_snapshot_says_who_said_that_a_participant_is_gone() {
    let mut bench = Bench::new(8);
    assert_eq!(bench.force(UNDECIDED, Force::Commit), Ok(()));
    assert_eq!(bench.force(UNDECIDED, Force::Gone(peer(1).shard)), Ok(()));
    bench.ack(2, UNDECIDED, Some(Heuristic::Lost));
    for _ in 0..2 {
        bench.go_on_until_compacted();
        bench.restart();
        let report = bench.report.as_ref().unwrap();
        assert_eq!(report.anomalies.total(), 0, "{:?}", report.anomalies);
        let [(UNDECIDED, _, gone), (UNDECIDED, _, lost)] = &report.heuristics[..] else {
            panic!("{:?}", report.heuristics)
        };
        assert_eq!((gone.heuristic, lost.heuristic), (Heuristic::Lost, Heuristic::Lost));
        let audit = gone.gone.as_deref().unwrap();
        assert_eq!((audit.at_ms, &*audit.who, &*audit.why), (5, "eva", "they asked"));
        assert_eq!(lost.gone, None, "it has said so itself");
        let of_engine: Vec<_> = bench.engine.as_ref().unwrap().heuristics().collect();
        assert_eq!(of_engine[0].2, gone);
    }
}

/// The only participant of a transaction decides, and is gone: its operator ends the wait, and finds out
/// if it had decided otherwise.
#[test]
fn what_is_left_to_a_participant_that_is_gone_is_forced() {
    for force in [Force::Commit, Force::Abort] {
        let mut bench = Bench::new(10_000);
        let (now, mut out) = (bench.now, Vec::new());
        let branch = Branch { shard: peer(3).shard, node: peer(3).node, work: [1].into() };
        let request = Request { key: key("alone"), work: Work::Transaction(vec![branch]) };
        let announce = Message::Announce { store: peer(3).store, boot: peer(3).boot };
        bench.engine().receive(now, peer(3).node, &announce, &mut out);
        bench.engine().submit(now, request, &mut out);
        bench.take(out);
        bench.flush();
        let id = bench.engine().active_transactions().next().unwrap().id();
        bench.sent.clear();
        assert_eq!(bench.force(id, force), Ok(()));
        let commits = force == Force::Commit;
        assert_eq!(bench.commits(), if commits { vec![(3, None)] } else { vec![] });
        let outcome = if commits { Outcome::Committed } else { Outcome::Aborted };
        assert!(bench.told.iter().any(|output| {
            matches!(output, Output::Reply { outcome: told, .. } if *told == outcome)
        }));
        let against = if commits { Heuristic::Aborted } else { Heuristic::Committed };
        bench.ack(3, id, Some(against));
        assert_eq!(bench.listed(), [(id, 3, against)]);
        assert_eq!(bench.engine().stats().heuristic, 1);
    }
    // One in two phases is not forced: it ends by itself.
    let mut bench = Bench::new(10_000);
    let (now, mut out) = (bench.now, Vec::new());
    for number in [3, 4] {
        let Peer { node, store, boot, .. } = peer(number);
        bench.engine().receive(now, node, &Message::Announce { store, boot }, &mut out);
    }
    let branch =
        |number| Branch { shard: peer(number).shard, node: peer(number).node, work: [1].into() };
    let work = Work::Transaction(vec![branch(3), branch(4)]);
    bench.engine().submit(now, Request { key: key("two"), work }, &mut out);
    bench.take(out);
    bench.flush();
    let id = bench.engine().active_transactions().next().unwrap().id();
    assert_eq!(bench.force(id, Force::Commit), NOT_IN_DOUBT);
}
