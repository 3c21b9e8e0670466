//! spacetimedb-commitlog. It leaves group commit to the database around it, so that it is measured
//! where nobody waits for the disk.

use std::cell::Cell;
use std::path::Path;

use spacetimedb_commitlog::payload::ArrayDecodeError;
use spacetimedb_commitlog::{Commitlog, Decoder, Options};
use spacetimedb_paths::FromPathUnchecked;
use spacetimedb_paths::server::CommitLogDir;
use spacetimedb_sats::buffer::BufReader;

use crate::log::{Buffered, PAYLOAD, Payload, Trouble, number, payload};
use crate::replay::Seen;

fn log(directory: &Path) -> Result<Commitlog<Payload>, Trouble> {
    let directory = CommitLogDir::from_path_unchecked(directory);
    Ok(Commitlog::open(directory, Options::default())?)
}

struct Space(Commitlog<Payload>);

pub fn buffered(directory: &Path) -> Result<Box<dyn Buffered>, Trouble> {
    Ok(Box::new(Space(log(directory)?)))
}

impl Buffered for Space {
    fn append(&mut self, payload: &Payload) -> Result<(), Trouble> {
        Ok(self.0.append_maybe_flush(*payload).map_err(|error| error.source)?)
    }

    fn finish(self: Box<Self>) -> Result<(), Trouble> {
        self.0.flush()?;
        Ok(())
    }
}

pub fn build(directory: &Path, records: u64) -> Result<(), Trouble> {
    let log = log(directory)?;
    for number in 1..=records {
        log.append_maybe_flush(payload(number)).map_err(|error| error.source)?;
        if number % 16 == 0 {
            log.flush()?;
        }
    }
    log.flush_and_sync()?;
    Ok(())
}

#[derive(Default)]
struct Replay {
    records: Cell<u64>,
    sum: Cell<u64>,
}

impl Decoder for &Replay {
    type Record = ();
    type Error = ArrayDecodeError;

    fn decode_record<'a, R: BufReader<'a>>(
        &self,
        _: u8,
        _: u64,
        reader: &mut R,
    ) -> Result<(), ArrayDecodeError> {
        let payload: &[u8; PAYLOAD] = reader.get_array()?;
        self.records.set(self.records.get() + 1);
        self.sum.set(self.sum.get().wrapping_add(number(payload)));
        Ok(())
    }

    fn skip_record<'a, R: BufReader<'a>>(
        &self,
        _: u8,
        _: u64,
        reader: &mut R,
    ) -> Result<(), ArrayDecodeError> {
        reader.get_array::<PAYLOAD>()?;
        Ok(())
    }
}

/// Only reads: opening it for writing would read the last segment once more.
pub fn replay(directory: &Path) -> Result<Seen, Trouble> {
    let directory = CommitLogDir::from_path_unchecked(directory);
    let replay = Replay::default();
    spacetimedb_commitlog::fold_transactions(directory, &replay)?;
    Ok(Seen { records: replay.records.get(), sum: replay.sum.get(), open: Box::new(()) })
}
