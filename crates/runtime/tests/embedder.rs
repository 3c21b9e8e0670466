//! A coordinator as an embedder has it: what is asked of actions and participants, and what goes wrong.

#![expect(clippy::unwrap_used, reason = "a lock is poisoned only by a test that has failed")]

use base::Token;
use runtime::{
    Action, Answer, BranchOf, Call, Change, Coordinator, Definition, Drained, Entry, Force,
    ForceError, ForceRefusal, ForceRefused, Heuristic, OpenError, Opened, Operation, OrderError,
    OrderRefused, Outcome, Output, Parked, Participant, Refusal, Status, Step, StepInput, StepKind,
    Stuck, SubmitError, ValueType, What, Write, Written, branches, step, transaction_step,
    undone_by,
};
use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

type Failure = Box<dyn Error + Send + Sync>;
type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// Keeps what it was asked, and answers as it is told.
#[derive(Clone, Default)]
struct Recorder {
    calls: Arc<Mutex<Vec<(&'static str, Token)>>>,
    refuses: bool,
    /// So many forward calls fail first: one by a panic, then by an error, …
    fails: Arc<Mutex<u32>>,
    /// Forward calls wait for this.
    waits: Option<Arc<Notify>>,
}

impl Recorder {
    fn calls(&self) -> Vec<(&'static str, Token)> {
        self.calls.lock().unwrap().clone()
    }

    fn record(&self, what: &'static str, call: &Call) {
        self.calls.lock().unwrap().push((what, call.token));
    }

    fn fails_now(&self) -> Option<bool> {
        let mut fails = self.fails.lock().unwrap();
        let left = *fails;
        *fails = left.saturating_sub(1);
        (left > 0).then_some(left.is_multiple_of(2))
    }
}

impl Action for Recorder {
    async fn run(&self, call: Call) -> Result<Answer> {
        self.record("run", &call);
        if let Some(waits) = &self.waits {
            waits.notified().await;
        }
        match self.fails_now() {
            Some(true) => panic!("planted"),
            Some(false) => Err("planted".into()),
            None if self.refuses => Ok(Answer::Refused { code: 7 }),
            None => Ok(Answer::Done),
        }
    }

    async fn undo(&self, call: Call) -> Result<Answer> {
        self.record("undo", &call);
        Ok(Answer::Done)
    }
}

/// One step after the other.
fn row(actions: &[&str]) -> Result<Definition> {
    let mut saga = Definition::builder();
    let mut last = None;
    for action in actions {
        let step = step(action, *b"input")?;
        last = Some(saga.step(match last {
            Some(last) => step.after(last),
            None => step,
        }));
    }
    Ok(saga.build()?)
}

async fn outcome(mut operation: Operation) -> Result<Outcome> {
    let outcome = operation.outcome().await?;
    assert_eq!(operation.outcome().await?, outcome, "it may be asked twice");
    Ok(outcome)
}

#[tokio::test]
async fn a_refused_step_undoes_the_one_before_under_the_same_token() -> Result {
    let folder = tempfile::tempdir()?;
    let (first, second) = (Recorder::default(), Recorder { refuses: true, ..Recorder::default() });
    let shop = Coordinator::open(&folder)
        .action("first", first.clone())
        .action("second", second.clone())
        .start()
        .await?;
    assert_eq!(outcome(shop.submit("a", row(&["first", "second"])?)?).await?, Outcome::Compensated);
    let calls = first.calls();
    let [("run", done), ("undo", undone)] = calls[..] else { panic!("{calls:?}") };
    assert_eq!(done, undone, "an undo names what it takes back");
    let calls = second.calls();
    let [("run", refused)] = calls[..] else { panic!("{calls:?}") };
    assert_ne!(refused, done);
    // The same key is the same operation.
    assert_eq!(outcome(shop.submit("a", row(&["first", "second"])?)?).await?, Outcome::Compensated);
    assert_eq!(first.calls().len(), 2);
    assert_eq!(shop.shutdown(Duration::from_secs(10)).await?, Drained::Whole);
    let late = shop.submit("b", row(&["first"])?);
    assert!(matches!(late, Err(SubmitError::ShuttingDown)), "{late:?}");
    Ok(())
}

#[tokio::test]
async fn a_call_that_panics_or_fails_is_made_again() -> Result {
    let folder = tempfile::tempdir()?;
    let action = Recorder { fails: Arc::new(Mutex::new(4)), ..Recorder::default() };
    let shop = Coordinator::open(&folder)
        .resend_after(Duration::from_millis(5))
        .action("flaky", action.clone())
        .start()
        .await?;
    assert_eq!(outcome(shop.submit("a", row(&["flaky"])?)?).await?, Outcome::Completed);
    let calls = action.calls();
    assert_eq!(calls.len(), 5);
    assert!(calls.iter().all(|call| *call == calls[0]), "always under the same token");
    Ok(())
}

#[tokio::test]
async fn what_waits_can_be_asked_after_and_cancelled() -> Result {
    let folder = tempfile::tempdir()?;
    let gate = Arc::new(Notify::new());
    let slow = Recorder { waits: Some(gate.clone()), ..Recorder::default() };
    let shop = Coordinator::open(&folder).action("slow", slow.clone()).start().await?;
    let mut operation = shop.submit("a", row(&["slow"])?)?;
    while slow.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(operation.status().await?, Status::Saga { state: "executing" });
    let waiting = tokio::time::timeout(Duration::from_millis(20), operation.outcome()).await;
    assert!(waiting.is_err(), "waiting for it may be given up");
    assert_eq!(shop.shutdown(Duration::from_millis(20)).await?, Drained::Cut);
    drop(shop);

    let shop = Coordinator::open(&folder).action("slow", slow.clone()).start().await?;
    let found: usize = shop.recovered().iter().map(|log| log.operations.len()).sum();
    assert_eq!(found, 1);
    let operation = shop.submit("a", row(&["slow"])?)?;
    operation.cancel();
    assert_eq!(outcome(operation).await?, Outcome::Compensated);
    assert_eq!(slow.calls().last().map(|call| call.0), Some("undo"));
    Ok(())
}

#[tokio::test]
async fn a_step_whose_action_is_gone_waits_and_delays_nobody() -> Result {
    let folder = tempfile::tempdir()?;
    let gate = Arc::new(Notify::new());
    let slow = Recorder { waits: Some(gate.clone()), ..Recorder::default() };
    let shop = Coordinator::open(&folder).action("slow", slow.clone()).start().await?;
    let _unfinished = shop.submit("a", row(&["slow"])?)?;
    while slow.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(shop);

    let quick = Recorder::default();
    let shop = Coordinator::open(&folder).action("quick", quick.clone()).start().await?;
    assert_eq!(outcome(shop.submit("b", row(&["quick"])?)?).await?, Outcome::Completed);
    assert_eq!(shop.shutdown(Duration::from_millis(20)).await?, Drained::Cut);
    drop(shop);

    let shop = Coordinator::open(&folder).action("slow", quick.clone()).start().await?;
    shop.quiet().await?;
    assert_eq!(quick.calls().len(), 2, "its own, and the one that had waited");
    Ok(())
}

/// A store in memory, which outlives the coordinators that open it.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    boot: u32,
    entries: Vec<Entry>,
    held: u64,
    done: Vec<Vec<u8>>,
    refuses: bool,
    /// Of the writes that follow, this one fails: before it is made, or after it.
    fails: Option<(u32, bool)>,
}

impl Participant for Memory {
    async fn open(&self) -> Result<Opened> {
        let mut stored = self.0.lock().unwrap();
        stored.boot += 1;
        let (store, boot) = (std::ptr::from_ref(&*self.0).addr() as u64, stored.boot);
        Ok(Opened { store, boot, entries: stored.entries.clone() })
    }

    async fn write(&self, write: Write) -> Result<Written> {
        let mut stored = self.0.lock().unwrap();
        if stored.boot != write.boot {
            return Err("opened again since".into());
        }
        let fails = match &mut stored.fails {
            Some((0, after)) => Some(*after),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if fails.is_some() {
            stored.fails = None;
        }
        if fails == Some(false) {
            return Err("planted, before".into());
        }
        match write.change {
            Change::None => {}
            Change::Promise { .. } | Change::Do { .. } if stored.refuses => {
                return Ok(Written::Refused);
            }
            Change::Promise { work, .. } | Change::Do { work } if *work == *b"look" => {
                return Ok(Written::ReadOnly);
            }
            Change::Promise { .. } => stored.held += 1,
            Change::Do { work } => stored.done.push(work.to_vec()),
            Change::Commit { work, .. } => {
                stored.held -= 1;
                stored.done.push(work.to_vec());
            }
            Change::Abort { .. } => stored.held -= 1,
        }
        stored.entries.extend(write.entries);
        if fails == Some(true) { Err("planted, after".into()) } else { Ok(Written::Done) }
    }
}

async fn transfer(bank: &Coordinator, key: &str) -> Result<Outcome> {
    let operation = bank.transaction(key, |tx| {
        tx.at("north", *b"pay").at("south", *b"receive");
    });
    outcome(operation?).await
}

/// Whichever write fails, and whether it was made or not: both stores end alike, and hold nothing.
#[tokio::test]
async fn a_write_that_fails_breaks_no_transaction() -> Result {
    let (mut committed, mut aborted) = (0, 0);
    for at in 0..4 {
        for after in [false, true] {
            let folder = tempfile::tempdir()?;
            let (north, south) = (Memory::default(), Memory::default());
            let bank = Coordinator::open(&folder)
                .resend_after(Duration::from_millis(5))
                .participant("north", north.clone())
                .participant("south", south.clone())
                .start()
                .await?;
            north.0.lock().unwrap().fails = Some((at, after));
            let how = transfer(&bank, "a").await?;
            let again = transfer(&bank, "b").await?;
            assert_eq!(bank.shutdown(Duration::from_secs(10)).await?, Drained::Whole);
            let mut expected = 0;
            for outcome in [how, again] {
                match outcome {
                    Outcome::Committed => expected += 1,
                    Outcome::Aborted => aborted += 1,
                    other => panic!("{other:?}"),
                }
            }
            committed += expected;
            for (store, work) in [(&north, "pay"), (&south, "receive")] {
                let stored = store.0.lock().unwrap();
                assert_eq!(stored.held, 0, "{at} {after}: a promise is left");
                assert_eq!(stored.done, vec![work.as_bytes().to_vec(); expected], "{at} {after}");
            }
            assert_eq!(north.0.lock().unwrap().fails, None, "it did fail");
        }
    }
    assert!(committed > 0 && aborted > 0, "{committed} {aborted}: both ways were seen");
    Ok(())
}

/// A store that waits for a coordinator which is gone is freed by an operator; when the coordinator comes
/// back after all, its operator hears that it had decided otherwise.
#[tokio::test]
async fn a_branch_of_a_coordinator_that_is_gone_is_forced() -> Result {
    let mut name = [0; 32];
    name[..3].copy_from_slice(b"old");
    let (coordinator, id) = (base::CoordinatorId(name), base::OperationId(5));
    let mut shard = [0; 32];
    shard[..5].copy_from_slice(b"north");
    let (tx, shard) = (twopc::TxKey { coordinator, id }, base::ShardId(shard));
    let promised = twopc::participant::Event::Prepared {
        key: twopc::participant::PromiseKey { tx, shard },
        epoch: base::Epoch::new(1),
        peers: [].into(),
        work: (*b"pay").into(),
    };
    let mut bytes = vec![0];
    bytes[0] = coordinator::codec::encode_participant(&promised, &mut bytes).0;
    let north = Memory::default();
    north.0.lock().unwrap().entries.push(Entry { sequence: 1, bytes });
    north.0.lock().unwrap().held = 1;

    let folder = tempfile::tempdir()?;
    let open = |name: &str| {
        let open = Coordinator::open(folder.path().join(name)).name(name);
        open.resend_after(Duration::from_millis(5)).participant("north", north.clone()).start()
    };
    let new = open("new").await?;
    let branch = new.stuck().await?.branches.pop().ok_or("it is listed")?;
    assert_eq!((&branch.coordinator[..], &branch.participant[..]), ("old", "north"));
    let audit = ("ann", "the old site burnt down");
    let strange = BranchOf { participant: "east".into(), ..branch.clone() };
    let unknown = new.force_branch(&strange, Force::Commit, audit).await;
    assert!(matches!(unknown, Err(ForceRefused::UnknownParticipant { .. })), "{unknown:?}");
    let refused = |refusal| Err(ForceRefused::Refused(ForceError::Refused(refusal)));
    let forget = new.force_branch(&branch, Force::Forget, audit).await;
    assert_eq!(forget, refused(ForceRefusal::NotListed));
    // A store that fails takes nothing, and is asked again.
    north.0.lock().unwrap().fails = Some((0, false));
    let failed = new.force_branch(&branch, Force::Commit, audit).await;
    assert!(matches!(failed, Err(ForceRefused::Store { .. })), "{failed:?}");
    assert_eq!(new.force_branch(&branch, Force::Commit, audit).await, Ok(()));
    assert_eq!(new.force_branch(&branch, Force::Commit, audit).await, Ok(()));
    let otherwise = refused(ForceRefusal::ForcedOtherwise { commit: true });
    assert_eq!(new.force_branch(&branch, Force::Abort, audit).await, otherwise);
    let in_doubt = new.force(id, Force::Commit, audit).await;
    assert_eq!(in_doubt, refused(ForceRefusal::NotInDoubt), "it is no transaction of this one");
    {
        let stored = north.0.lock().unwrap();
        assert_eq!((stored.held, &stored.done[..]), (0, &[b"pay".to_vec()][..]));
    }
    drop(new);

    // The old one comes back, and has aborted it.
    let old = open("old").await?;
    let listed = loop {
        if let Some(listed) = old.stuck().await?.heuristics.pop() {
            break listed;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!((listed.transaction, &listed.participant[..]), (id, "north"));
    assert_eq!(listed.heuristic, Heuristic::Committed);
    let stuck = old.stuck().await?;
    let [forced] = &stuck.forced[..] else { panic!("{stuck:?}") };
    assert_eq!((forced.commit, forced.heuristic), (true, Some(Heuristic::Committed)));
    assert_eq!((&*forced.audit.who, &*forced.audit.why), audit);
    assert!(forced.audit.at_ms > 1_700_000_000_000, "by the wall clock");
    let seen = ("ann", "the books are set right");
    assert_eq!(old.force(id, Force::Forget, seen).await, Ok(()));
    assert_eq!(old.force_branch(&forced.branch, Force::Forget, seen).await, Ok(()));
    let again = old.force(id, Force::Forget, seen).await;
    assert_eq!(again, refused(ForceRefusal::NotListed));
    drop(old);
    let stuck = open("old").await?.stuck().await?;
    assert_eq!((stuck.heuristics.len(), stuck.forced.len(), stuck.branches.len()), (0, 0, 0));
    Ok(())
}

/// Gives a price, is given it, and cannot take back what it did until an operator says how.
#[derive(Clone, Default)]
struct Shop {
    seen: Arc<Mutex<Vec<String>>>,
    /// What undoes work: `None` nothing does.
    undone_by: Arc<Mutex<Option<Vec<u8>>>>,
    refuses: bool,
    /// It keeps what was undone by hand.
    marks: bool,
}

impl Shop {
    fn saw(&self, what: String) {
        self.seen.lock().unwrap().push(what);
    }
}

impl Action for Shop {
    async fn run(&self, call: Call) -> Result<Answer> {
        let given = call.given_by(0).map(<[u8]>::to_vec);
        self.saw(format!("run {} {given:?}", call.step));
        if self.refuses {
            return Ok(Answer::Refused { code: 1 });
        }
        Ok(if call.step == 0 { Answer::Gave(42u64.to_le_bytes().into()) } else { Answer::Done })
    }

    async fn undo(&self, call: Call) -> Result<Answer> {
        let own = call.given_by(call.step).map(<[u8]>::to_vec);
        self.saw(format!("undo {} {own:?} {}", call.step, call.overridden));
        let undone = self.undone_by.lock().unwrap().as_deref() == Some(&call.input[..]);
        Ok(if undone { Answer::Done } else { Answer::Refused { code: 2 } })
    }

    async fn mark_undone(&self, call: Call) -> Result<Answer> {
        self.saw(format!("mark {}", call.step));
        if self.marks { Ok(Answer::Done) } else { Err("planted".into()) }
    }
}

/// Step 0 of action `quote` gives a number, step 1 of action `pay` takes it.
fn purchase() -> Result<Definition> {
    let mut builder = Definition::builder();
    let quoted = builder.step(step("quote", *b"a book")?.gives(ValueType::U64));
    builder.step(step("pay", *b"for it")?.after(quoted).takes(quoted, ValueType::U64));
    Ok(builder.build()?)
}

#[tokio::test]
async fn what_a_step_gives_comes_to_later_steps_and_to_the_handle() -> Result {
    let folder = tempfile::tempdir()?;
    let (quote, pay) = (Shop::default(), Shop::default());
    let shop = Coordinator::open(&folder)
        .action("quote", quote)
        .action("pay", pay.clone())
        .start()
        .await?;
    let mut bought = shop.submit("a", purchase()?)?;
    assert_eq!(bought.outcome().await?, Outcome::Completed);
    let price = 42u64.to_le_bytes();
    assert_eq!(*pay.seen.lock().unwrap(), [format!("run 1 {:?}", Some(price.to_vec()))]);
    let output = Output::Inline(price.into());
    assert_eq!(bought.outputs().await?, [StepInput { step: 0, output }]);
    Ok(())
}

/// A compensation that fails is parked, listed, and ends as its operator orders; who ordered it, and why,
/// is in the log.
#[tokio::test]
async fn a_parked_step_ends_as_its_operator_orders() -> Result {
    for (what, marks) in [
        (What::RetryNow, false),
        (What::Override { body: (*b"refund").into() }, false),
        (What::MarkDone, true),
        (What::MarkDone, false),
    ] {
        let folder = tempfile::tempdir()?;
        let quote = Shop { marks, ..Shop::default() };
        let pay = Shop { refuses: true, ..Shop::default() };
        let shop = Coordinator::open(&folder)
            .resend_after(Duration::from_millis(5))
            .undo_attempts_max(2)
            .action("quote", quote.clone())
            .action("pay", pay)
            .start()
            .await?;
        let mut bought = shop.submit("a", purchase()?)?;
        let mut parked = Vec::new();
        for _ in 0..2_000 {
            parked = shop.stuck().await?.parked;
            if !parked.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let [Parked { saga, step: 0, forward: false, ref action, ref key, attempts: 2 }] =
            parked[..]
        else {
            panic!("{what:?}: {parked:?}");
        };
        assert_eq!((action.as_str(), key.as_ref()), ("quote", Some(bought.key())));
        let who = ("ann", "a call from the bank");
        let wrong = shop.order(saga, 1, What::RetryNow, who).await;
        assert!(matches!(wrong, Err(OrderRefused::Refused(_))), "{wrong:?}");
        let unknown = shop.order(base::OperationId(9), 0, What::RetryNow, who).await;
        assert!(matches!(unknown, Err(OrderRefused::Refused(OrderError::NotActive))));
        let long = "x".repeat(2_000);
        let long = shop.order(saga, 0, What::RetryNow, ("ann", &long)).await;
        assert!(matches!(long, Err(OrderRefused::TooLong)), "{long:?}");
        let undone_by = match &what {
            What::RetryNow => Some(b"a book".to_vec()),
            What::Override { body } => Some(body.to_vec()),
            What::MarkDone | What::CloseUnanswered | What::Instead { .. } => None,
        };
        *quote.undone_by.lock().unwrap() = undone_by;
        shop.order(saga, 0, what.clone(), who).await?;
        if what == What::MarkDone && !marks {
            // Nobody can say that it is undone: it is closed on the operator's word.
            shop.order(saga, 0, What::CloseUnanswered, who).await?;
        }
        assert_eq!(bought.outcome().await?, Outcome::Compensated, "{what:?}");
        assert_eq!(shop.stuck().await?, Stuck::default());
        let seen = quote.seen.lock().unwrap().clone();
        let price = Some(42u64.to_le_bytes().to_vec());
        let overridden = matches!(what, What::Override { .. });
        let last = match what {
            What::MarkDone => "mark 0".to_owned(),
            _ => format!("undo 0 {price:?} {overridden}"),
        };
        assert_eq!(seen.last(), Some(&last), "{what:?}");
        shop.shutdown(Duration::from_secs(10)).await?;
        drop(shop);
        let log = std::fs::read_dir(folder.path().join("coordinator"))?
            .flatten()
            .map(|entry| entry.path());
        let log: Vec<u8> = log.filter_map(|path| std::fs::read(path).ok()).flatten().collect();
        assert!(log.windows(who.1.len()).any(|bytes| bytes == who.1.as_bytes()), "{what:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_refuses_aborts_all_of_it() -> Result {
    let folder = tempfile::tempdir()?;
    let (north, south) = (Memory::default(), Memory::default());
    south.0.lock().unwrap().refuses = true;
    let bank = Coordinator::open(&folder)
        .participant("north", north.clone())
        .participant("south", south.clone())
        .start()
        .await?;
    assert_eq!(transfer(&bank, "a").await?, Outcome::Aborted);
    south.0.lock().unwrap().refuses = false;
    assert_eq!(transfer(&bank, "b").await?, Outcome::Committed);
    assert_eq!(bank.shutdown(Duration::from_secs(10)).await?, Drained::Whole);
    for store in [north, south] {
        let stored = store.0.lock().unwrap();
        assert_eq!((stored.held, stored.done.len()), (0, 1));
    }
    Ok(())
}

/// A saga that pays by a transaction and delivers by a saga of its own: done as a whole, or undone as one, the
/// transaction by another one or by an action that is run for it.
#[tokio::test]
async fn steps_may_be_transactions_and_sagas() -> Result {
    for (refused, by_action) in [(false, false), (true, false), (true, true)] {
        let folder = tempfile::tempdir()?;
        let (north, south) = (Memory::default(), Memory::default());
        let (pack, ship) = (Recorder::default(), Recorder::default());
        let last = Recorder { refuses: refused, ..Recorder::default() };
        let refund = Recorder::default();
        let shop = Coordinator::open(&folder)
            .resend_after(Duration::from_millis(5))
            .participant("north", north.clone())
            .participant("south", south.clone())
            .action("pack", pack.clone())
            .action("ship", ship.clone())
            .action("last", last)
            .action("refund", refund.clone())
            .start()
            .await?;
        let pay = transaction_step(|tx| {
            tx.at("north", *b"pay").at("south", *b"receive");
        })?;
        let pay = match by_action {
            true => undone_by(pay, "refund", *b"40 coins")?,
            false => pay.undone_by_transaction(branches(|tx| {
                tx.at("north", *b"take back").at("south", *b"give back");
            })?),
        };
        let mut order = Definition::builder();
        let paid = order.step(pay);
        let delivered = order.step(Step::saga(row(&["pack", "ship"])?).after(paid));
        order.step(step("last", *b"")?.after(delivered));
        let (told, done) = match refused {
            true => (Outcome::Compensated, 2),
            false => (Outcome::Completed, 1),
        };
        assert_eq!(outcome(shop.submit("a", order.build()?)?).await?, told);
        assert_eq!(shop.shutdown(Duration::from_secs(10)).await?, Drained::Whole);
        let done = if by_action { 1 } else { done };
        for store in [north, south] {
            let stored = store.0.lock().unwrap();
            assert_eq!((stored.held, stored.done.len()), (0, done), "{refused} {by_action}");
        }
        for action in [pack, ship] {
            let names: Vec<_> = action.calls().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, if refused { vec!["run", "undo"] } else { vec!["run"] });
        }
        assert_eq!(refund.calls().len(), usize::from(by_action));
    }
    Ok(())
}

/// What undoes a step is refused by its store. It is parked, and an operator has another transaction do it, or
/// says that it is done.
#[tokio::test]
async fn an_undo_by_transaction_is_replaced_or_marked_done() -> Result {
    for replaced in [true, false] {
        let folder = tempfile::tempdir()?;
        let (north, south) = (Memory::default(), Memory::default());
        south.0.lock().unwrap().refuses = true;
        let last = Recorder { refuses: true, ..Recorder::default() };
        let shop = Coordinator::open(&folder)
            .resend_after(Duration::from_millis(5))
            .undo_attempts_max(1)
            .participant("north", north.clone())
            .participant("south", south.clone())
            .action("last", last)
            .start()
            .await?;
        let pay = transaction_step(|tx| _ = tx.at("north", *b"pay"))?;
        let mut order = Definition::builder();
        let back = branches(|tx| _ = tx.at("south", *b"give back"))?;
        let paid = order.step(pay.undone_by_transaction(back));
        order.step(step("last", *b"")?.after(paid));
        let bought = shop.submit("a", order.build()?)?;
        let parked = loop {
            if let Some(parked) = shop.stuck().await?.parked.pop() {
                break parked;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        assert_eq!((parked.step, parked.forward), (0, false));
        let what = match replaced {
            true => {
                What::Instead { branches: branches(|tx| _ = tx.at("north", *b"take back"))?.into() }
            }
            false => What::MarkDone,
        };
        shop.order(parked.saga, 0, what, ("ann", "south is closed")).await?;
        assert_eq!(outcome(bought).await?, Outcome::Compensated);
        assert_eq!(shop.shutdown(Duration::from_secs(10)).await?, Drained::Whole);
        let done: Vec<_> = north.0.lock().unwrap().done.clone();
        let expected = if replaced {
            vec![b"pay".to_vec(), b"take back".to_vec()]
        } else {
            vec![b"pay".to_vec()]
        };
        assert_eq!(done, expected);
        assert!(south.0.lock().unwrap().done.is_empty());
    }
    Ok(())
}

/// What a saga of a saga asks for has to be bound as well, and what waits for whom can be asked.
#[tokio::test]
async fn a_sub_saga_that_waits_is_seen_from_its_saga() -> Result {
    let folder = tempfile::tempdir()?;
    let waits = Recorder { waits: Some(Arc::default()), ..Recorder::default() };
    let shop = Coordinator::open(&folder).action("wait", waits.clone()).start().await?;
    let nest = |actions: &[&str]| -> Result<Definition> {
        let mut outer = Definition::builder();
        outer.step(Step::saga(row(actions)?));
        Ok(outer.build()?)
    };
    let unknown = shop.submit("a", nest(&["wait", "gone"])?);
    assert!(matches!(unknown, Err(SubmitError::UnknownAction { name }) if name == "gone"));
    let mut outer = Definition::builder();
    outer.step(transaction_step(|tx| _ = tx.at("nowhere", *b""))?.kind(StepKind::Pivot));
    let unknown = shop.submit("a", outer.build()?);
    assert!(matches!(unknown, Err(SubmitError::UnknownParticipant { name }) if name == "nowhere"));

    let operation = shop.submit("a", nest(&["wait"])?)?;
    let nested = loop {
        if let Some(nested) = shop.stuck().await?.nested.pop() {
            break nested;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!((nested.0.step, nested.0.undo), (0, false));
    assert!(matches!(nested.1, runtime::StepOperation::Saga(id) if id != nested.0.saga));
    // Cancelled as a whole: the sub-saga is undone, and the saga with it.
    operation.cancel();
    waits.waits.as_ref().unwrap().notify_one();
    assert_eq!(outcome(operation).await?, Outcome::Compensated);
    assert_eq!(shop.stuck().await?.nested, []);
    Ok(())
}

/// Who takes part alone does it at once, and writes one entry; one that only looks writes nothing of
/// its own, and hears nothing more; one that refuses ends it.
#[tokio::test]
async fn a_store_alone_decides_and_one_that_looks_is_left_out() -> Result {
    let folder = tempfile::tempdir()?;
    let (north, south) = (Memory::default(), Memory::default());
    let open = || {
        Coordinator::open(&folder)
            .participant("north", north.clone())
            .participant("south", south.clone())
            .start()
    };
    let bank = open().await?;
    let alone = |bank: &Coordinator, key: &str, work: &'static [u8]| {
        bank.transaction(key, |tx| {
            tx.at("north", work);
        })
    };
    assert_eq!(outcome(alone(&bank, "a", b"pay")?).await?, Outcome::Committed);
    assert_eq!(north.0.lock().unwrap().entries.len(), 1, "one entry, one sync");
    assert_eq!(outcome(alone(&bank, "b", b"look")?).await?, Outcome::ReadOnly);
    let both = bank.transaction("c", |tx| {
        tx.at("north", *b"pay").at("south", *b"look");
    });
    assert_eq!(outcome(both?).await?, Outcome::Committed);
    let looks = bank.transaction("d", |tx| {
        tx.at("north", *b"look").at("south", *b"look");
    });
    assert_eq!(outcome(looks?).await?, Outcome::ReadOnly);
    north.0.lock().unwrap().refuses = true;
    assert_eq!(outcome(alone(&bank, "e", b"pay")?).await?, Outcome::Aborted);
    north.0.lock().unwrap().refuses = false;
    assert_eq!(bank.shutdown(Duration::from_secs(10)).await?, Drained::Whole);
    drop(bank);
    for (store, done) in [(&north, 2), (&south, 0)] {
        let stored = store.0.lock().unwrap();
        assert_eq!((stored.held, stored.done.len()), (0, done));
    }
    // The keys are known after a restart, and what they asked for.
    let bank = open().await?;
    assert_eq!(outcome(alone(&bank, "a", b"pay")?).await?, Outcome::Committed);
    assert_eq!(outcome(alone(&bank, "e", b"pay")?).await?, Outcome::Aborted);
    let other = outcome(alone(&bank, "a", b"pay twice")?).await?;
    assert_eq!(other, Outcome::Refused(Refusal::KeyTaken));
    assert_eq!(north.0.lock().unwrap().done.len(), 2);
    Ok(())
}

/// Whichever write of a store that decides alone fails, and whether it was made or not: what the client
/// is told is what the store did.
#[tokio::test]
async fn a_write_that_fails_in_one_phase_is_told_as_it_went() -> Result {
    for after in [false, true] {
        let (folder, north) = (tempfile::tempdir()?, Memory::default());
        let bank = Coordinator::open(&folder)
            .resend_after(Duration::from_millis(5))
            .participant("north", north.clone())
            .start()
            .await?;
        north.0.lock().unwrap().fails = Some((0, after));
        let how = bank.transaction("a", |tx| {
            tx.at("north", *b"pay");
        });
        let how = outcome(how?).await?;
        assert_eq!(bank.shutdown(Duration::from_secs(10)).await?, Drained::Whole);
        let stored = north.0.lock().unwrap();
        let done = usize::from(how == Outcome::Committed);
        assert_eq!((stored.held, stored.done.len()), (0, done), "{how:?}");
        assert_eq!(how == Outcome::Committed, after, "{how:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_store_whose_entries_are_wrong_is_not_opened() -> Result {
    let folder = tempfile::tempdir()?;
    let (north, south) = (Memory::default(), Memory::default());
    let open = || {
        Coordinator::open(&folder)
            .participant("north", north.clone())
            .participant("south", south.clone())
            .start()
    };
    let bank = open().await?;
    assert_eq!(transfer(&bank, "a").await?, Outcome::Committed);
    bank.shutdown(Duration::from_secs(10)).await?;
    drop(bank);
    let whole = north.0.lock().unwrap().entries.clone();
    assert_eq!(whole.len(), 2, "a promise and its outcome");
    let damages: [fn(&mut Vec<Entry>); 5] = [
        |entries| drop(entries.remove(0)),
        |entries| entries[1].bytes.clear(),
        |entries| entries[1].bytes[0] = 0xFF,
        |entries| entries[1].bytes = entries[0].bytes.clone(),
        |entries| entries[0].bytes.truncate(20),
    ];
    for damage in damages {
        let mut entries = whole.clone();
        damage(&mut entries);
        north.0.lock().unwrap().entries = entries;
        let error = open().await.map(drop).expect_err("it is damaged");
        assert!(matches!(error, OpenError::Store(_)), "{error}");
        assert!(error.to_string().contains("participant north"), "{error}");
    }
    north.0.lock().unwrap().entries = whole;
    assert_eq!(transfer(&open().await?, "b").await?, Outcome::Committed);
    Ok(())
}

#[tokio::test]
async fn mistakes_are_named() -> Result {
    let folder = tempfile::tempdir()?;
    let open = |name: &str| Coordinator::open(&folder).action(name, Recorder::default());
    for name in ["", "with space", "a name that is longer than thirty-two bytes", "ß"] {
        let error = open(name).start().await.map(drop).expect_err(name);
        assert!(matches!(error, OpenError::Name(_)), "{error}");
    }
    let twice = open("a").action("a", Recorder::default()).start().await.map(drop);
    assert!(matches!(twice, Err(OpenError::NamedTwice { name }) if name == "a"));
    let mine = open("a").participant("coordinator", Memory::default()).start().await.map(drop);
    assert!(matches!(mine, Err(OpenError::NamedTwice { name }) if name == "coordinator"));

    let shop = open("a").start().await?;
    let error = open("a").start().await.map(drop).expect_err("the log is locked");
    assert!(matches!(error, OpenError::Start(_)), "{error}");
    assert!(error.to_string().contains("is in use"), "{error}");
    let unknown = shop.submit("key", row(&["a", "b"])?);
    assert!(matches!(unknown, Err(SubmitError::UnknownAction { name }) if name == "b"));
    let unknown = shop.transaction("key", |tx| {
        tx.at("nobody", *b"");
    });
    assert!(matches!(unknown, Err(SubmitError::UnknownParticipant { name }) if name == "nobody"));
    let long = shop.submit([0; 65], row(&["a"])?);
    assert!(matches!(long, Err(SubmitError::Key(_))));
    let empty = outcome(shop.transaction("key", |_| ())?).await?;
    assert!(matches!(empty, Outcome::Refused(_)), "{empty:?}");
    // Nothing of all that was begun: the key is free.
    assert_eq!(outcome(shop.submit("key", row(&["a"])?)?).await?, Outcome::Completed);
    Ok(())
}

#[test]
fn outside_of_a_runtime_it_says_so() -> Result {
    let folder = tempfile::tempdir()?;
    let mut start = std::pin::pin!(Coordinator::open(&folder).start());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = start.as_mut().poll(&mut context) else {
        panic!("it waits for nothing");
    };
    assert!(matches!(error, OpenError::NoRuntime { .. }), "{error}");
    Ok(())
}
