//! `trinity wal dump`: a log's records, one line each.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use wal_core::{Corruption, Guard, Place, Record, Visitor};

use crate::error::{Error, Exit};
use crate::line::{Checksum, Dumped, DumpedGuard, EventName, Fields, GUARD, GuardFields, checksum};
use crate::source::{FileNames, Source};
use crate::terminal::{Brake, Output, Progress, print_notes, utc};

/// What to dump, and how.
#[derive(clap::Args)]
pub struct Args {
    /// A log's directory, or a file that holds a raw stream
    path: PathBuf,
    /// One JSON object per record; `trinity wal import` reads them
    #[arg(long)]
    json: bool,
    /// The batches' guards too, each in front of its records
    #[arg(long)]
    guards: bool,
}

/// Dumps a log.
///
/// # Errors
/// [`Error`], damage included; the records on both sides of it are printed.
pub fn run(args: &Args) -> Result<Exit, Error> {
    let mut source = Source::open(&args.path)?;
    let brake = Brake::default();
    let mut dump = Dump {
        json: args.json,
        guards: args.guards,
        files: source.file_names(),
        output: Output::new(&brake),
        progress: Progress::new("records", io::stdout().is_terminal()),
        scratch: Vec::new(),
        hole: String::new(),
    };
    let scanned = source.scan(&brake, &mut dump);
    drop(dump.progress);
    if !dump.output.finish()? {
        // Nobody reads any more: `dump | head`.
        return Ok(Exit::Clean);
    }
    let scanned = scanned?;
    print_notes(&scanned);
    if scanned.is_corrupt() {
        let remedy = "`trinity wal recover` tells which operations are in doubt";
        return Err(Error::damaged(&args.path, &scanned, remedy));
    }
    Ok(Exit::Clean)
}

struct Dump<'a> {
    json: bool,
    guards: bool,
    files: FileNames,
    output: Output<'a>,
    progress: Progress,
    scratch: Vec<u8>,
    /// Damage that was found and not printed. What no record follows is told at the end.
    hole: String,
}

impl Dump<'_> {
    fn print(&mut self, record: &Record<'_>, place: Place) {
        self.progress.tick();
        let dumped = Dumped {
            seq: record.sequence.0,
            event: EventName(record.event),
            timestamp_ms: record.timestamp_ms,
            file: &self.files.of(place.segment),
            off: place.offset,
            len: place.len,
            crc_ok: place.crc_ok,
            hash: checksum(record, &mut self.scratch),
            payload: Fields::of(record.event, record.payload),
        };
        let json = self.json;
        let print = |to: &mut dyn Write| {
            if json { json_line(to, &dumped) } else { text_line(to, &dumped) }
        };
        write(&mut self.output, &mut self.hole, print);
    }
}

impl Visitor for Dump<'_> {
    fn record(&mut self, record: &Record<'_>, place: Place) {
        self.print(record, place);
    }

    fn damaged(&mut self, record: &Record<'_>, place: Place) {
        self.print(record, place);
    }

    fn guard(&mut self, guard: &Guard, place: Place) {
        if !self.guards {
            return;
        }
        let dumped = DumpedGuard {
            seq: guard.first.0,
            event: GUARD,
            timestamp_ms: 0,
            file: &self.files.of(place.segment),
            off: place.offset,
            len: place.len,
            crc_ok: place.crc_ok,
            payload: GuardFields {
                records: guard.records,
                watermark: guard.watermark.0,
                chain: Checksum(guard.chain),
                list: Checksum(guard.list_checksum),
                checksum: Checksum(guard.checksum),
            },
        };
        let json = self.json;
        let print = |to: &mut dyn Write| {
            if json { json_line(to, &dumped) } else { text_guard(to, &dumped) }
        };
        write(&mut self.output, &mut self.hole, print);
    }

    fn hole(&mut self, hole: &Corruption) {
        // A line of JSON is a record; people see the damage where it is.
        if !self.json {
            self.hole.push_str(&format!("!!! damage: {hole}\n"));
        }
    }
}

/// Writes a line, and in front of it the damage that was found since the last.
fn write(
    output: &mut Output<'_>,
    hole: &mut String,
    print: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) {
    output.write(|to| {
        to.write_all(hole.as_bytes())?;
        print(to)
    });
    hole.clear();
}

fn json_line(to: &mut dyn Write, line: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

fn text_line(to: &mut dyn Write, dumped: &Dumped<'_>) -> io::Result<()> {
    let event = dumped.event.0.to_string();
    write!(to, "{:>8}  {}  {event:<27}", dumped.seq, utc(dumped.timestamp_ms))?;
    for (name, value) in dumped.payload.entries() {
        write!(to, " {name}={value}")?;
    }
    write!(to, "  [{}+{} {}B {}", dumped.file, dumped.off, dumped.len, dumped.hash)?;
    writeln!(to, "{}", if dumped.crc_ok { "]" } else { " WRONG CHECKSUM]" })
}

fn text_guard(to: &mut dyn Write, dumped: &DumpedGuard<'_>) -> io::Result<()> {
    let GuardFields { records, watermark, chain, checksum, .. } = dumped.payload;
    write!(to, "{:>8}  {:<24}  {:<27}", dumped.seq, "", GUARD)?;
    write!(to, " records={records} watermark={watermark} chain={chain} checksum={checksum}")?;
    writeln!(to, "  [{}+{} {}B]", dumped.file, dumped.off, dumped.len)
}
