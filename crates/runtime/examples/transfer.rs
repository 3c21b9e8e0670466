//! Transfers between two SQLite files, each a transaction: both files change, or neither.
//!
//! `cargo run -p runtime --example transfer -- FOLDER [TRANSFERS]`: kill it at any moment, start it again.

#[path = "support/accounts.rs"]
mod accounts;

use accounts::{Accounts, work};
use runtime::{Coordinator, Outcome, Refusal};
use std::{collections::VecDeque, error::Error, path::Path, time::Duration};

type Failure = Box<dyn Error + Send + Sync>;

/// In each file.
pub const ACCOUNTS: u64 = 8;
/// In each account, at first.
pub const EACH: i64 = 100;

/// What a transfer is: from which account to which, and how much. Some are more than there is.
pub fn transfer(number: u64) -> (u64, u64, i64) {
    let amount = if number.is_multiple_of(7) { EACH * 10_000 } else { 1 + (number % 5) as i64 };
    (number % ACCOUNTS, number / ACCOUNTS % ACCOUNTS, amount)
}

/// Makes the transfers that this folder has not seen yet, and waits for all of them, sixty-four at a time.
pub async fn make(
    folder: &Path,
    transfers: u64,
    mut told: impl FnMut(u64, Outcome),
) -> Result<(), Failure> {
    let accounts = |file: &str| Accounts::open(&folder.join(file), ACCOUNTS as i64, EACH);
    let bank = Coordinator::open(folder.join("log"))
        .participant("north", accounts("north.db")?)
        .participant("south", accounts("south.db")?)
        .start()
        .await?;
    let ask = |number: u64| {
        let (from, to, amount) = transfer(number);
        // Every other one goes north.
        let (payer, payee) =
            if number.is_multiple_of(2) { ("north", "south") } else { ("south", "north") };
        // One that was asked for before, by a process that was killed, is not made again.
        bank.transaction(format!("transfer {number}"), |tx| {
            tx.at(payer, work(from, -amount, number)).at(payee, work(to, amount, number));
        })
    };
    let mut waiting = VecDeque::new();
    let mut fresh = 0..transfers;
    loop {
        while waiting.len() < 64
            && let Some(number) = fresh.next()
        {
            waiting.push_back((number, ask(number)?));
        }
        let Some((number, mut made)) = waiting.pop_front() else { break };
        let mut outcome = made.outcome().await?;
        // A transfer that is decided is active until both files have it.
        while matches!(outcome, Outcome::Refused(Refusal::TooManyActive { .. })) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            outcome = ask(number)?.outcome().await?;
        }
        told(number, outcome);
    }
    bank.shutdown(Duration::from_secs(60)).await?;
    Ok(())
}

/// Transfers in a folder.
#[tokio::main]
#[allow(dead_code, reason = "the test that kills this has a main function of its own")]
pub async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let temporary = tempfile::tempdir()?;
    let folder = arguments.next().map_or(temporary.path().to_owned(), Into::into);
    let transfers = arguments.next().map_or(Ok(20), |transfers| transfers.parse())?;
    std::fs::create_dir_all(&folder)?;
    make(&folder, transfers, |number, outcome| println!("transfer {number}: {outcome:?}")).await
}
