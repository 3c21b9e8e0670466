//! `trinity wal export`: a log's records as a raw stream.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use wal_core::{Corruption, Place, Record, Visitor, encode_record};

use crate::error::{Error, Exit};
use crate::source::Source;
use crate::terminal::{Brake, Output, Progress, print_notes};

/// What to export.
///
/// Of a damaged log only the records in front of the first damage are written; the exit code is 2.
#[derive(clap::Args)]
pub struct Args {
    /// A log's directory
    dir: PathBuf,
}

/// Exports a log.
///
/// # Errors
/// [`Error`], damage included.
pub fn run(args: &Args) -> Result<Exit, Error> {
    let mut source = Source::open_directory(&args.dir)?;
    let brake = Brake::default();
    let mut export = Export {
        output: Output::new(&brake),
        progress: Progress::new("records", io::stdout().is_terminal()),
        scratch: Vec::new(),
        hole: false,
    };
    let scanned = source.scan(&brake, &mut export);
    drop(export.progress);
    if !export.output.finish()? {
        return Ok(Exit::Clean);
    }
    let scanned = scanned?;
    print_notes(&scanned);
    if scanned.is_corrupt() {
        let remedy = if export.hole {
            "what was written ends in front of the first of them that may hide records"
        } else {
            "no record is hidden by it: all of them were written"
        };
        return Err(Error::damaged(&args.dir, &scanned, remedy));
    }
    Ok(Exit::Clean)
}

struct Export<'a> {
    output: Output<'a>,
    progress: Progress,
    scratch: Vec<u8>,
    /// Records may be missing from here on: a raw stream cannot say so.
    hole: bool,
}

impl Visitor for Export<'_> {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        if self.hole {
            return;
        }
        self.progress.tick();
        self.scratch.clear();
        encode_record(record, &mut self.scratch);
        self.output.write(|to| to.write_all(&self.scratch));
    }

    fn hole(&mut self, _: &Corruption) {
        self.hole = true;
    }
}
