//! A SQLite file for asynchronous code.

use rusqlite::Connection;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

type Failure = Box<dyn Error + Send + Sync>;

/// A file, used by one task at a time, on threads that may wait for the disk.
#[derive(Clone)]
pub struct File(pub Arc<Mutex<Connection>>);

impl File {
    /// Opens it, and makes its tables if they are not there.
    pub fn open(path: &Path, schema: &str) -> rusqlite::Result<File> {
        let connection = Connection::open(path)?;
        // A commit that returns is durable.
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.execute_batch(schema)?;
        Ok(File(Arc::new(Mutex::new(connection))))
    }

    /// Does something with it.
    ///
    /// # Errors
    /// What `act` says.
    pub async fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let connection = self.0.clone();
        let done = tokio::task::spawn_blocking(move || {
            act(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await?
    }
}
