//! A service whose calls are steps of sagas, over a SQLite file. A step's token is kept in the local
//! transaction that makes its effect.

#[path = "file.rs"]
mod file;

use file::File;
use runtime::{Action, Answer, Call};
use rusqlite::{OptionalExtension, params};
use std::error::Error;
use std::path::Path;

type Failure = Box<dyn Error + Send + Sync>;

/// A service with a file of its own, whose calls are steps of sagas. It does one thing per order, which can
/// be undone, and has enough for all orders but every fifth.
#[derive(Clone)]
pub struct Ledger {
    file: File,
    refuses: bool,
}

const OUT_OF_STOCK: u32 = 1;
const UNDONE_ALREADY: u32 = 2;

impl Ledger {
    /// Opens the file. `refuses`: every fifth order is refused.
    pub fn open(path: &Path, refuses: bool) -> Result<Ledger, Failure> {
        let file = File::open(
            path,
            "CREATE TABLE IF NOT EXISTS tokens (token BLOB PRIMARY KEY, state TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS effects (number INTEGER NOT NULL, change INTEGER NOT NULL);",
        )?;
        Ok(Ledger { file, refuses })
    }

    /// Looks what is kept of the token, and keeps `wanted` together with the effect, if there is to be one.
    async fn take(&self, call: Call, undo: bool) -> Result<Answer, Failure> {
        let order = i64::from_le_bytes(call.input[..].try_into()?);
        let refused = self.refuses && order % 5 == 0;
        let answer = self.file.with(move |connection| {
            let tx = connection.transaction()?;
            let kept = "SELECT state FROM tokens WHERE token = ?";
            let kept: Option<String> =
                tx.query_row(kept, [call.token.0], |row| row.get(0)).optional()?;
            let keep = |state: &str| {
                tx.execute(
                    "INSERT OR REPLACE INTO tokens VALUES (?, ?)",
                    params![call.token.0, state],
                )
            };
            let effect =
                |change: i64| tx.execute("INSERT INTO effects VALUES (?, ?)", [order, change]);
            let answer = match (undo, kept.as_deref()) {
                (false, Some("done")) | (true, Some("undone")) => Answer::Done,
                (false, Some("refused")) => Answer::Refused { code: OUT_OF_STOCK },
                (false, Some(_)) => Answer::Refused { code: UNDONE_ALREADY },
                (false, None) if refused => {
                    keep("refused")?;
                    Answer::Refused { code: OUT_OF_STOCK }
                }
                (false, None) => {
                    effect(1)?;
                    keep("done")?;
                    Answer::Done
                }
                (true, kept) => {
                    if kept == Some("done") {
                        effect(-1)?;
                    }
                    keep("undone")?;
                    Answer::Done
                }
            };
            tx.commit()?;
            Ok(answer)
        });
        answer.await
    }
}

impl Action for Ledger {
    async fn run(&self, call: Call) -> Result<Answer, Failure> {
        self.take(call, false).await
    }

    async fn undo(&self, call: Call) -> Result<Answer, Failure> {
        self.take(call, true).await
    }
}
