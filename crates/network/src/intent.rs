//! What a node remembers of an upload that it runs, so that nothing is left of one that nobody finishes.
//!
//! An upload is several operations: sagas that have shards kept, then a 2PC. Each ends well over any crash
//! by itself; that one follows the other is up to the node. So with the first saga it keeps, among its own
//! shards, what the upload is; after a start it goes on with it, whether or not its client comes again. All
//! operations have the keys that they had, so what was done is not done twice. Shards that only the client
//! had cannot be had then: their saga fails, and what the others have had kept is released.

use crate::message::RECORD_BYTES_MAX;
use crate::record::FileRecord;
use base::bytes::{Malformed, Reader, Writer};

/// An upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    /// Which attempt of its transfer.
    pub(crate) attempt: u32,
    /// The record that it makes current.
    pub(crate) record: FileRecord,
}

const MAGIC: [u8; 4] = *b"TRUP";

impl Intent {
    /// Its bytes: `TRUP`, attempt 4, record.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.raw(&MAGIC).u32(self.attempt).bytes(&self.record.encode());
        to.finish()
    }

    /// The intent of these bytes.
    ///
    /// # Errors
    /// [`Malformed`]: they are none.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Intent, Malformed> {
        let mut from = Reader::new(bytes);
        if from.array()? != MAGIC {
            return Err(from.wrong("not an upload's intent"));
        }
        let attempt = from.u32()?;
        let record = FileRecord::decode(from.bytes(RECORD_BYTES_MAX)?)?;
        from.end()?;
        Ok(Intent { attempt, record })
    }
}

/// What a node finds its way by after a start: these are pinned, and read then.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    Record(FileRecord),
    Upload(Box<Intent>),
}

impl Note {
    /// The note of these bytes; `None` for a file's shard.
    pub(crate) fn of(bytes: &[u8]) -> Option<Note> {
        let record = || FileRecord::decode(bytes).ok().map(Note::Record);
        record().or_else(|| Intent::decode(bytes).ok().map(|it| Note::Upload(Box::new(it))))
    }
}

/// Whether bytes are a node's own notes, a file's record among them, and not a file's shard.
#[must_use]
pub fn is_note(bytes: &[u8]) -> bool {
    Note::of(bytes).is_some()
}
