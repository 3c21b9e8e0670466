//! `trinity wal import`: events from standard input, through the durable log.

use std::io::{self, IsTerminal, Read, StdinLock, Write};
use std::path::{Path, PathBuf};

use base::Sequence;
use wal_core::{
    AppendError, Config, DurableError, EventType, FileLog, Record, SnapshotPart, Writes,
};

use crate::error::{Error, Exit, LineError};
use crate::line::{self, Checksum, Event, checksum};
use crate::source::has_log;
use crate::terminal::{Progress, print_notes};

/// What a line looks like, for `--help`.
pub const LINES: &str = "\
A line is an event:

  {\"type\":\"tx_vote_received\",\"timestamp_ms\":1700000000000,
   \"payload\":{\"id\":3,\"shard\":\"<64 hex digits>\",\"vote\":\"commit\"}}

A line of `trinity wal dump --json` is one too: its `file`, `off`, `len` and `hash` are ignored, \
`seq` must be the log's next (a new log's first is 1), and what was read with a wrong checksum \
(\"crc_ok\":false) is refused. Guards are passed over, and so are empty lines.

Each event has the fields of the published format and no other: `id`, `coordinator`, `step`, \
`action` (a number), `error_code`, `attempt`, `shard`, `node`, `vote` (commit, abort), \
`active_sagas`, `active_txs`. A value of 32 bytes that is missing is zero; every other field must \
be there. Beside the fields there may be \"ext\":{\"version\":1,\"tags\":[[TAG,\"HEX\"],...]}. Any \
payload may stand as {\"raw\":\"HEX\"} instead; of a type that has no name, such as \"0x2a\", it \
has to.

A line that is none of this ends the import with exit code 4; the lines before it are kept. If \
there are none, no log is created where there was none. \
Whether an event follows from those before it is not asked: the log keeps what it is told, and \
`trinity wal recover` reports what does not follow.";

/// Where the events go.
///
/// When it ends with exit code 0, every event is durable.
#[derive(clap::Args)]
pub struct Args {
    /// The log's directory; the log is created if the directory is empty or not there
    dir: PathBuf,
    /// Print `ack SEQUENCE HASH` for each event as soon as it is durable, in order (the hash is the
    /// CRC-32 of its payload)
    #[arg(long)]
    acks: bool,
    /// Write past the page cache where the file system can
    #[arg(long)]
    direct: bool,
}

/// Imports events.
///
/// # Errors
/// [`Error`]; the events before it are durable, unless the log itself failed.
pub fn run(args: &Args) -> Result<Exit, Error> {
    refuse_file(&args.dir)?;
    let (config, mut lines) = (Config::default(), Lines::new(io::stdin().lock()));
    if !has_log(&args.dir)? {
        lines.check_first(&config)?;
    }
    let writes = if args.direct { Writes::Direct } else { Writes::Cached };
    let opened = FileLog::open_with(&args.dir, &config, writes, &mut ());
    let (log, scanned) = opened.map_err(|error| Error::file(&args.dir, error))?;
    print_notes(&scanned);
    let mut import = Import {
        dir: &args.dir,
        log,
        acks: args.acks.then(Vec::new),
        progress: Progress::new("events", args.acks && io::stdout().is_terminal()),
        scratch: Vec::new(),
    };
    let fed = import.feed(&mut lines);
    import.finish(fed)?;
    Ok(Exit::Clean)
}

fn refuse_file(path: &Path) -> Result<(), Error> {
    if path.is_file() {
        return Err(Error::NotALog {
            path: path.to_owned(),
            why: "it is a file, not a log's directory",
            remedy: "name a directory, or a path where one can be created".to_owned(),
        });
    }
    Ok(())
}

/// Why a log would not take the event, whatever is in it.
fn untaken(event: &Event, config: &Config) -> Option<AppendError> {
    let (bytes, max) = (event.payload.len() as u64, config.max_payload);
    if event.event == EventType::GUARD {
        return Some(AppendError::Reserved);
    }
    (bytes > u64::from(max)).then_some(AppendError::PayloadTooLarge { bytes, max })
}

struct Import<'a> {
    dir: &'a Path,
    log: FileLog,
    /// Appended and not acknowledged yet, if acknowledgements are wanted.
    acks: Option<Vec<(Sequence, Checksum)>>,
    progress: Progress,
    scratch: Vec<u8>,
}

impl Import<'_> {
    /// Appends line by line. Whatever is at hand is one group: it is acknowledged when the next
    /// read may have to wait.
    fn feed(&mut self, lines: &mut Lines<StdinLock<'_>>) -> Result<(), Error> {
        loop {
            while let Some(line) = lines.at_hand()? {
                let appended = self.append(&line)?;
                lines.any_appended |= appended;
            }
            self.acknowledge()?;
            if !lines.read_more()? {
                return Ok(());
            }
        }
    }

    /// True if the line is an event.
    fn append(&mut self, line: &Line<'_>) -> Result<bool, Error> {
        let Some(event) = line.event()? else { return Ok(false) };
        line.check_sequence(&event, self.log.last().next())?;
        let appended = self.log.append(event.event, event.timestamp_ms, &event.payload);
        let sequence = appended.map_err(|error| match error {
            AppendError::PayloadTooLarge { .. } | AppendError::Reserved => line.refused(&error),
            error => self.failed(DurableError::Append(error)),
        })?;
        self.progress.tick();
        if let Some(acks) = &mut self.acks {
            let Event { event, timestamp_ms, payload, .. } = &event;
            let record = Record { sequence, event: *event, timestamp_ms: *timestamp_ms, payload };
            acks.push((sequence, checksum(&record, &mut self.scratch)));
        }
        Ok(true)
    }

    fn acknowledge(&mut self) -> Result<(), Error> {
        let Some(&(last, _)) = self.acks.as_ref().and_then(|acks| acks.last()) else {
            return Ok(());
        };
        self.log.wait(last).map_err(|error| self.failed(error))?;
        let mut text = String::new();
        for (sequence, checksum) in self.acks.iter_mut().flat_map(|acks| acks.drain(..)) {
            text += &format!("ack {sequence} {checksum}\n");
        }
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        written.map_err(Error::acks)
    }

    /// Acknowledges what is left and closes the log. What ended the feeding matters only if the log
    /// has kept what was fed.
    fn finish(mut self, fed: Result<(), Error>) -> Result<(), Error> {
        let acknowledged = self.acknowledge();
        // Waited for while the log can still tell what made it fail.
        self.log.wait(self.log.last()).map_err(|error| self.failed(error))?;
        let path = self.dir.to_owned();
        self.log.close().map_err(|error| Error::Failed { path, error, cause: None })?;
        fed.and(acknowledged)
    }

    fn failed(&self, error: DurableError) -> Error {
        Error::Failed { path: self.dir.to_owned(), error, cause: self.log.failure() }
    }
}

/// One line of the input, without its end.
struct Line<'a> {
    number: u64,
    text: &'a [u8],
    /// An event of a line before it was appended.
    any_appended: bool,
}

impl Line<'_> {
    /// The event that it is; nothing if it is empty or a guard.
    fn event(&self) -> Result<Option<Event>, Error> {
        if self.text.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        line::parse(self.text).map_err(|wrong| self.error(wrong.column, wrong.what))
    }

    fn check_sequence(&self, event: &Event, next: Sequence) -> Result<(), Error> {
        match event.sequence {
            Some(sequence) if sequence != next.0 => {
                if next == Sequence::FIRST && begins_snapshot(event) {
                    return Err(self.error(self.column_of(b"\"seq\""), compacted(sequence)));
                }
                let what = format!("`seq` is {sequence}: the log's next is {next}");
                Err(self.error(self.column_of(b"\"seq\""), what))
            }
            _ => Ok(()),
        }
    }

    /// No log takes it, through the line's own fault.
    fn refused(&self, error: &AppendError) -> Error {
        let part: &[u8] =
            if *error == AppendError::Reserved { b"\"type\"" } else { b"\"payload\"" };
        self.error(self.column_of(part), error.to_string())
    }

    fn error(&self, column: u64, what: String) -> Error {
        let kept = if self.any_appended { self.number - 1 } else { 0 };
        Error::Line(Box::new(LineError::new(self.number, column, self.text, what, kept)))
    }

    fn column_of(&self, quoted: &[u8]) -> u64 {
        let place = self.text.windows(quoted.len()).position(|window| window == quoted);
        place.map_or(1, |at| at as u64 + 1)
    }
}

/// Whether it is the first part of a snapshot, with which a log begins that was compacted.
fn begins_snapshot(event: &Event) -> bool {
    SnapshotPart::of(event.event, &event.payload).is_some_and(|part| part.number == 0)
}

/// A log that begins with a snapshot is one only once all of that is there. Events come one by one, each
/// durable before the next is looked for, and nobody could tell what there is until then from damage.
fn compacted(first: u64) -> String {
    format!(
        "the log that this is from was compacted: it begins with a snapshot, record {first}, and no log is \
         one with a part of a snapshot only. Copy its directory, or let `trinity wal salvage` make a copy"
    )
}

/// The lines of a reader. They are told apart from reading, so that whoever waits for them can be
/// answered before the next read.
struct Lines<R> {
    reader: R,
    bytes: Vec<u8>,
    /// Where the next line begins.
    at: usize,
    /// No line ends before here.
    searched: usize,
    number: u64,
    any_appended: bool,
    ended: bool,
}

impl<R: Read> Lines<R> {
    const READ_BYTES: usize = 256 << 10;
    /// No event needs more: a payload's limit in hexadecimal digits is an eighth of it.
    const LINE_BYTES_MAX: usize = 1 << 20;

    fn new(reader: R) -> Lines<R> {
        let (bytes, any_appended) = (Vec::new(), false);
        Lines { reader, bytes, at: 0, searched: 0, number: 0, any_appended, ended: false }
    }

    /// Reads up to the first event, which is told again, and refuses what a new log would.
    fn check_first(&mut self, config: &Config) -> Result<(), Error> {
        loop {
            let (at, number) = (self.at, self.number);
            let Some(line) = self.at_hand()? else {
                if self.read_more()? {
                    continue;
                }
                return Ok(());
            };
            let Some(event) = line.event()? else { continue };
            line.check_sequence(&event, Sequence::NONE.next())?;
            if let Some(error) = untaken(&event, config) {
                return Err(line.refused(&error));
            }
            (self.at, self.searched, self.number) = (at, at, number);
            return Ok(());
        }
    }

    /// The next line, if it is at hand whole.
    fn at_hand(&mut self) -> Result<Option<Line<'_>>, Error> {
        let (from, len) = (self.at, self.bytes.len());
        let end = self.bytes[self.searched..].iter().position(|&byte| byte == b'\n');
        let end = match end {
            Some(found) => self.searched + found,
            None if self.ended && from < len => len,
            None => {
                self.searched = len;
                return if len - from > Self::LINE_BYTES_MAX { self.too_long() } else { Ok(None) };
            }
        };
        if end - from > Self::LINE_BYTES_MAX {
            return self.too_long();
        }
        self.at = (end + 1).min(len);
        self.searched = self.at;
        self.number += 1;
        let text = &self.bytes[from..end];
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        Ok(Some(Line { number: self.number, text, any_appended: self.any_appended }))
    }

    fn too_long(&self) -> Result<Option<Line<'_>>, Error> {
        let (number, any_appended) = (self.number + 1, self.any_appended);
        let line = Line { number, text: &[], any_appended };
        let what = format!("the line is longer than {} bytes", Self::LINE_BYTES_MAX);
        Err(line.error(1, what))
    }

    /// Reads what there is, and waits if there is nothing. False at the end.
    fn read_more(&mut self) -> Result<bool, Error> {
        if self.ended {
            return Ok(false);
        }
        self.bytes.drain(..self.at);
        self.searched -= self.at;
        self.at = 0;
        let filled = self.bytes.len();
        self.bytes.resize(filled + Self::READ_BYTES, 0);
        let read = loop {
            match self.reader.read(&mut self.bytes[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.bytes.truncate(filled + *read.as_ref().unwrap_or(&0));
        let read = read.map_err(Error::stdin)?;
        self.ended = read == 0;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its parts one read at a time.
    struct Parts(Vec<&'static [u8]>);

    impl Read for Parts {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0);
            into[..part.len()].copy_from_slice(part);
            Ok(part.len())
        }
    }

    #[test]
    fn lines_are_told_as_they_come() {
        let mut lines = Lines::new(Parts(vec![b"a\nb\r\nc", b"d", b"\n\ne"]));
        let mut told = Vec::new();
        while lines.read_more().unwrap() {
            while let Some(line) = lines.at_hand().unwrap() {
                told.push((line.number, String::from_utf8(line.text.to_vec()).unwrap()));
            }
            told.push((0, String::new()));
        }
        let told: Vec<(u64, &str)> = told.iter().map(|(n, text)| (*n, text.as_str())).collect();
        let wait = (0, "");
        assert_eq!(
            told,
            [(1, "a"), (2, "b"), wait, wait, (3, "cd"), (4, ""), wait, (5, "e"), wait]
        );
    }
}
