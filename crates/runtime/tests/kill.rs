//! The examples, killed at random with sixty-four operations in flight, started again, and at last let
//! finish: no effect twice, none missing, none half done, and everything ends.
//!
//! A program of its own: it starts itself again as the process that is killed. Few kills in every test run;
//! `cargo xtask crash examples` kills them hundreds of times.

#![expect(clippy::disallowed_methods, reason = "a process is killed at some moment of real time")]
#![expect(clippy::duplicate_mod, reason = "both examples are as they are, with what they share")]

#[path = "../examples/order.rs"]
mod order;
#[path = "../examples/transfer.rs"]
mod transfer;

use base::prng::Key;
use runtime::Outcome;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Failure = Box<dyn Error + Send + Sync>;

/// Which example the process is that is killed; the parent does not have it.
const ROLE: &str = "KILL_ROLE";
/// A folder lives for so many kills, then it is looked at, and the next one begins.
const KILLS: u64 = 10;
/// With each start of a folder so many operations are new; those before are asked for again.
const OPERATIONS: u64 = 128;
/// The last start of a folder has this long for everything that is left.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> Result<(), Failure> {
    if let Ok(role) = std::env::var(ROLE) {
        return child(&role);
    }
    let rounds = std::env::var("EXAMPLES_CRASH_ROUNDS");
    let rounds: u64 = rounds.map_or(Ok(6), |rounds| rounds.parse())?;
    for (role, judge) in [("order", judge_orders as Judge), ("transfer", judge_transfers)] {
        let (mut operations, mut at_work) = (0, 0);
        let mut left = rounds;
        for life in 0.. {
            let kills = left.min(KILLS);
            if kills == 0 {
                break;
            }
            left -= kills;
            let (done, killed) = live(role, judge, life, kills)?;
            operations += done;
            at_work += killed;
        }
        println!("{role}: {rounds} kills, {at_work} of them at work, {operations} operations");
        assert!(at_work * 2 >= rounds, "too few kills came in the middle");
    }
    Ok(())
}

/// The process that is killed: says each outcome that it hears.
fn child(role: &str) -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(operations)) = (arguments.next(), arguments.next()) else {
        return Err("a folder and a number are missing".into());
    };
    let (folder, operations) = (Path::new(&folder), operations.parse()?);
    let told = |number: u64, outcome: Outcome| {
        // One write: a line is said whole, or not at all.
        let line = format!("{number} {outcome:?}\n");
        let said = std::io::stdout().write_all(line.as_bytes());
        said.expect("the parent reads to the end");
    };
    let tokio = tokio::runtime::Runtime::new()?;
    match role {
        "order" => tokio.block_on(order::place(folder, operations, told)),
        _ => tokio.block_on(transfer::make(folder, operations, told)),
    }
}

type Judge = fn(&Path, &BTreeMap<u64, String>) -> Result<(), Failure>;

/// A folder, its kills, its end. How many operations it had, and how many kills found it at work.
fn live(role: &str, judge: Judge, life: u64, kills: u64) -> Result<(u64, u64), Failure> {
    let folder = tempfile::tempdir()?;
    let random = Key::root(1).child(role);
    let mut told = BTreeMap::new();
    let mut at_work = 0;
    for kill in 0..=kills {
        let operations = OPERATIONS * (kill + 1);
        let mut child = Command::new(std::env::current_exe()?)
            .arg(folder.path())
            .arg(operations.to_string())
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("its output was piped")?;
        let said = Arc::new(AtomicU64::new(0));
        let counted = said.clone();
        let reader = std::thread::spawn(move || {
            let (mut stdout, mut text) = (BufReader::new(stdout), String::new());
            while stdout.read_line(&mut text)? > 0 {
                counted.fetch_add(1, Ordering::Release);
            }
            Ok::<String, std::io::Error>(text)
        });
        // Most die when so many of the new operations have been told, some as they start.
        let draw = |n| random.draw(life, 3 * kill + n);
        let early = draw(0).below(4) == 0;
        let enough = if early { u64::MAX } else { OPERATIONS * kill + draw(1).below(OPERATIONS) };
        let limit = if early { Duration::from_millis(draw(2).below(60)) } else { PATIENCE };
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            let late = begun.elapsed() >= if kill == kills { PATIENCE } else { limit };
            if late || kill < kills && said.load(Ordering::Acquire) >= enough {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        let text = reader.join().map_err(|_| "the reader panicked")??;
        match status {
            Some(status) => {
                assert!(status.success(), "{role}, life {life}, start {kill}: {status}")
            }
            None => at_work += 1,
        }
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let (number, outcome) = line.split_once(' ').ok_or("a line is two words")?;
            let number: u64 = number.parse()?;
            let before = told.entry(number).or_insert_with(|| outcome.to_owned());
            assert_eq!(before, outcome, "{role}, life {life}: operation {number} was told both");
        }
        if kill == kills {
            assert!(status.is_some(), "{role}, life {life}: it did not end within {PATIENCE:?}");
            assert_eq!(told.len() as u64, operations, "{role}, life {life}: some have no outcome");
        }
    }
    judge(folder.path(), &told)?;
    // The last start is not killed, unless it is stuck.
    Ok((told.len() as u64, at_work))
}

/// By number, every change that a file holds.
fn changes(file: &Path, query: &str) -> Result<BTreeMap<u64, Vec<i64>>, Failure> {
    let connection = Connection::open(file)?;
    let mut rows = connection.prepare(query)?;
    let mut rows = rows.query([])?;
    let mut changes: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        changes.entry(row.get::<_, i64>(0)?.cast_unsigned()).or_default().push(row.get(1)?);
    }
    Ok(changes)
}

fn judge_orders(folder: &Path, told: &BTreeMap<u64, String>) -> Result<(), Failure> {
    let of = |file: &str| {
        changes(&folder.join(file), "SELECT number, change FROM effects ORDER BY rowid")
    };
    let (paid, shipped) = (of("payment.db")?, of("shipping.db")?);
    for (order, outcome) in told {
        let has = (
            paid.get(order).map_or(&[][..], Vec::as_slice),
            shipped.get(order).map_or(&[][..], Vec::as_slice),
        );
        let expected: (&[i64], &[i64]) = match outcome.as_str() {
            "Completed" => (&[1], &[1]),
            "Compensated" => (&[1, -1], &[]),
            "SagaAborted" => (&[], &[]),
            other => return Err(format!("order {order} ended {other}").into()),
        };
        assert_eq!(has, expected, "order {order}, {outcome}: payment, shipping");
        let in_stock = !order.is_multiple_of(5);
        assert!(outcome == "SagaAborted" || in_stock == (outcome == "Completed"), "order {order}");
    }
    let strangers = paid.keys().chain(shipped.keys()).find(|order| !told.contains_key(order));
    assert_eq!(strangers, None, "nobody ordered this");
    assert!(told.values().any(|outcome| outcome == "Completed"));
    assert!(told.values().any(|outcome| outcome == "Compensated"));
    Ok(())
}

fn judge_transfers(folder: &Path, told: &BTreeMap<u64, String>) -> Result<(), Failure> {
    let of = |file: &str, query: &str| changes(&folder.join(file), query);
    let moves = "SELECT transfer, amount FROM moves ORDER BY rowid";
    let moved = [of("north.db", moves)?, of("south.db", moves)?];
    let mut expected = [(); 2].map(|()| [transfer::EACH; transfer::ACCOUNTS as usize]);
    for (number, outcome) in told {
        let (from, to, amount) = transfer::transfer(*number);
        let payer = usize::from(number % 2 == 1);
        let committed = match outcome.as_str() {
            "Committed" => true,
            "Aborted" => false,
            other => return Err(format!("transfer {number} ended {other}").into()),
        };
        for (side, sign) in [(payer, -1), (1 - payer, 1)] {
            let has = moved[side].get(number).map_or(&[][..], Vec::as_slice);
            let wanted = if committed { &[sign * amount][..] } else { &[] };
            assert_eq!(has, wanted, "transfer {number}, {outcome}, in file {side}");
        }
        if committed {
            expected[payer][from as usize] -= amount;
            expected[1 - payer][to as usize] += amount;
        }
    }
    for (file, expected) in ["north.db", "south.db"].iter().zip(expected) {
        let balances = of(file, "SELECT id, balance FROM accounts ORDER BY id")?;
        let balances: Vec<i64> = balances.into_values().flatten().collect();
        assert_eq!(
            balances, expected,
            "{file}: something is held that nobody waits for, or was lost"
        );
        assert!(
            expected.iter().all(|balance| *balance >= 0),
            "{file}: more was paid than there was"
        );
    }
    let strangers = moved.iter().flat_map(BTreeMap::keys).find(|number| !told.contains_key(number));
    assert_eq!(strangers, None, "nobody asked for this");
    assert!(told.values().any(|outcome| outcome == "Committed"));
    Ok(())
}
