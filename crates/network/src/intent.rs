//! What a node remembers of what it runs that is several operations, so that nothing is left of what nobody
//! finishes.
//!
//! An upload is several operations: sagas that have shards kept, then a 2PC. Each ends well over any crash
//! by itself; that one follows the other is up to the node. So with the first saga it keeps, among its own
//! shards, what the upload is; after a start it goes on with it, whether or not its client comes again. All
//! operations have the keys that they had, so what was done is not done twice. Shards that only the client
//! had cannot be had then: their saga fails, and what the others have had kept is released. The same holds of a
//! file that it gives another encoding.

use crate::message::RECORD_BYTES_MAX;
use crate::record::FileRecord;
use base::bytes::{Malformed, Reader, Writer};

/// An upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    /// Which attempt, over all lives of this node: another one is other operations.
    pub(crate) number: u64,
    /// The record that it makes current.
    pub(crate) record: FileRecord,
}

const MAGIC: [u8; 4] = *b"TRUP";
const RECODING: [u8; 4] = *b"TRRE";

/// A file that this node gives another encoding: see `keeper/encodings.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recoding {
    /// Which attempt, over all lives of this node: another one is other operations.
    pub(crate) number: u64,
    /// The record that is current.
    pub(crate) before: FileRecord,
    /// The one that takes its place.
    pub(crate) record: FileRecord,
}

impl Recoding {
    /// Its bytes: `TRRE`, number 8, the two records.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.raw(&RECODING).u64(self.number);
        to.bytes(&self.before.encode()).bytes(&self.record.encode());
        to.finish()
    }

    /// The recoding of these bytes.
    ///
    /// # Errors
    /// [`Malformed`]: they are none.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Recoding, Malformed> {
        let mut from = Reader::new(bytes);
        if from.array()? != RECODING {
            return Err(from.wrong("no encoding that is made anew"));
        }
        let number = from.u64()?;
        let before = FileRecord::decode(from.bytes(RECORD_BYTES_MAX)?)?;
        let record = FileRecord::decode(from.bytes(RECORD_BYTES_MAX)?)?;
        from.end()?;
        Ok(Recoding { number, before, record })
    }
}

impl Intent {
    /// Its bytes: `TRUP`, number 8, record.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.raw(&MAGIC).u64(self.number).bytes(&self.record.encode());
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
        let number = from.u64()?;
        let record = FileRecord::decode(from.bytes(RECORD_BYTES_MAX)?)?;
        from.end()?;
        Ok(Intent { number, record })
    }
}

/// What a node finds its way by after a start: these are pinned, and read then.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    Record(FileRecord),
    Upload(Box<Intent>),
    Recoding(Box<Recoding>),
}

impl Note {
    /// The note of these bytes; `None` for a file's shard.
    pub(crate) fn of(bytes: &[u8]) -> Option<Note> {
        let record = || FileRecord::decode(bytes).ok().map(Note::Record);
        let upload = || Intent::decode(bytes).ok().map(|it| Note::Upload(Box::new(it)));
        let recoding = || Recoding::decode(bytes).ok().map(|it| Note::Recoding(Box::new(it)));
        record().or_else(upload).or_else(recoding)
    }
}

/// Whether bytes are a node's own notes, a file's record among them, and not a file's shard.
#[must_use]
pub fn is_note(bytes: &[u8]) -> bool {
    Note::of(bytes).is_some()
}
