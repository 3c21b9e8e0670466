//! SQLite, with a write-ahead log that is synced by every commit.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use crate::log::{Log, Payload, Trouble, number, payload};
use crate::replay::Seen;

pub const NAME: &str = "SQLite FULL";

const INSERT: &str = "INSERT INTO log (payload) VALUES (?1)";

fn connection(directory: &Path) -> Result<Connection, Trouble> {
    let connection = Connection::open(directory.join("log.db"))?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)",
    )?;
    Ok(connection)
}

/// One connection that callers take turns with: several would wait for each other by polling.
struct Sqlite(Mutex<Connection>);

pub fn open(directory: &Path) -> Result<Box<dyn Log>, Trouble> {
    Ok(Box::new(Sqlite(Mutex::new(connection(directory)?))))
}

impl Log for Sqlite {
    fn append(&self, _: usize, payload: &Payload) -> Result<(), Trouble> {
        let connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        connection.prepare_cached(INSERT)?.execute([payload])?;
        Ok(())
    }
}

pub fn build(directory: &Path, records: u64) -> Result<(), Trouble> {
    let connection = connection(directory)?;
    for first in (1..=records).step_by(65_536) {
        let transaction = connection.unchecked_transaction()?;
        {
            let mut insert = connection.prepare_cached(INSERT)?;
            for number in first..(first + 65_536).min(records + 1) {
                insert.execute([payload(number)])?;
            }
        }
        transaction.commit()?;
    }
    Ok(())
}

pub fn replay(directory: &Path) -> Result<Seen, Trouble> {
    let connection = connection(directory)?;
    let (mut records, mut sum) = (0, 0_u64);
    {
        let mut select = connection.prepare("SELECT payload FROM log ORDER BY id")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            records += 1;
            sum = sum.wrapping_add(number(row.get_ref(0)?.as_blob()?));
        }
    }
    Ok(Seen { records, sum, open: Box::new(connection) })
}
