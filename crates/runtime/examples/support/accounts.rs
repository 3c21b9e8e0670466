//! Accounts in a SQLite file that take part in transactions. What the protocol needs is kept in the local
//! transaction that makes the change.

#[path = "file.rs"]
mod file;

use file::File;
use runtime::{Change, Entry, Opened, Participant, Write, Written};
use rusqlite::{OptionalExtension, params};
use std::error::Error;
use std::path::Path;
use std::sync::PoisonError;

type Failure = Box<dyn Error + Send + Sync>;

/// Accounts in a file, as a participant of transactions.
///
/// A promise to pay holds the money: it is missing from the balance at once, and comes back if the transaction
/// aborts. A promise to receive holds nothing.
pub struct Accounts(File);

/// An amount for an account, negative to take it away: the work of a branch.
pub fn work(account: u64, amount: i64, transfer: u64) -> Vec<u8> {
    [account.to_le_bytes(), amount.to_le_bytes(), transfer.to_le_bytes()].concat()
}

fn read(work: &[u8]) -> Result<(i64, i64, i64), Failure> {
    let (words, rest) = work.as_chunks::<8>();
    match (words, rest) {
        (&[account, amount, transfer], []) => Ok((
            i64::from_le_bytes(account),
            i64::from_le_bytes(amount),
            i64::from_le_bytes(transfer),
        )),
        _ => Err("this is no transfer".into()),
    }
}

impl Accounts {
    /// Opens the file, with so much in each of the first `accounts` accounts if it is new.
    pub fn open(path: &Path, accounts: i64, each: i64) -> Result<Accounts, Failure> {
        let file = File::open(
            path,
            "CREATE TABLE IF NOT EXISTS store (id INTEGER NOT NULL, boot INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS entries (sequence INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
             CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS moves (transfer INTEGER NOT NULL, amount INTEGER NOT NULL);",
        )?;
        {
            let mut connection = file.0.lock().unwrap_or_else(PoisonError::into_inner);
            let tx = connection.transaction()?;
            let new =
                tx.query_row("SELECT count(*) FROM store", [], |row| row.get::<_, i64>(0))? == 0;
            if new {
                tx.execute("INSERT INTO store VALUES (random(), 0)", [])?;
                for account in 0..accounts {
                    tx.execute("INSERT INTO accounts VALUES (?, ?)", params![account, each])?;
                }
            }
            tx.commit()?;
        }
        Ok(Accounts(file))
    }
}

impl Participant for Accounts {
    async fn open(&self) -> Result<Opened, Failure> {
        let opened = self.0.with(|connection| {
            let tx = connection.transaction()?;
            tx.execute("UPDATE store SET boot = boot + 1", [])?;
            let (store, boot) = tx.query_row("SELECT id, boot FROM store", [], |row| {
                Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?))
            })?;
            let mut entries = Vec::new();
            {
                let mut all =
                    tx.prepare("SELECT sequence, bytes FROM entries ORDER BY sequence")?;
                let mut rows = all.query([])?;
                while let Some(row) = rows.next()? {
                    let sequence = row.get::<_, i64>(0)?.cast_unsigned();
                    entries.push(Entry { sequence, bytes: row.get(1)? });
                }
            }
            tx.commit()?;
            Ok(Opened { store, boot, entries })
        });
        opened.await
    }

    async fn write(&self, write: Write) -> Result<Written, Failure> {
        let written = self.0.with(move |connection| {
            let tx = connection.transaction()?;
            let boot: u32 = tx.query_row("SELECT boot FROM store", [], |row| row.get(0))?;
            if boot != write.boot {
                return Err("another process has opened this store".into());
            }
            let add = |account: i64, amount: i64| {
                let change = "UPDATE accounts SET balance = balance + ? WHERE id = ?";
                tx.execute(change, params![amount, account])
            };
            let has = |account: i64, least: i64| -> rusqlite::Result<bool> {
                let balance = "SELECT balance FROM accounts WHERE id = ?";
                let balance: Option<i64> =
                    tx.query_row(balance, [account], |row| row.get(0)).optional()?;
                Ok(balance.is_some_and(|balance| balance >= least))
            };
            let moved = |transfer: i64, amount: i64| {
                tx.execute("INSERT INTO moves VALUES (?, ?)", params![transfer, amount])
            };
            match &write.change {
                Change::Promise { work, .. } => {
                    let (account, amount, _) = read(work)?;
                    if !has(account, -amount.min(0))? {
                        return Ok(Written::Refused);
                    }
                    add(account, amount.min(0))?;
                }
                Change::Do { work } => {
                    let (account, amount, transfer) = read(work)?;
                    if !has(account, -amount.min(0))? {
                        return Ok(Written::Refused);
                    }
                    add(account, amount)?;
                    moved(transfer, amount)?;
                }
                Change::Commit { work, .. } => {
                    let (account, amount, transfer) = read(work)?;
                    add(account, amount.max(0))?;
                    moved(transfer, amount)?;
                }
                Change::Abort { work, .. } => {
                    let (account, amount, _) = read(work)?;
                    add(account, -amount.min(0))?;
                }
                Change::None => {}
            }
            for Entry { sequence, bytes } in &write.entries {
                let entry = params![sequence.cast_signed(), bytes];
                tx.execute("INSERT INTO entries VALUES (?, ?)", entry)?;
            }
            tx.commit()?;
            Ok(Written::Done)
        });
        written.await
    }
}
