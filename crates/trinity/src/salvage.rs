//! `trinity wal salvage`: what a damaged log proves, as a new log.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base::Epoch;
use coordinator::{OperationKind, OperationReport, SalvageError, Salvaged};
use serde::Serialize;
use wal_core::{Config, Directory, FileStorage, MemoryStorage, SegmentId, StreamFiles, Streams};

use crate::error::{Error, Exit};
use crate::recover::{Damaged, Operation, print_operations};
use crate::source::{FileNames, Source};
use crate::streams::{Named, StreamSources};
use crate::terminal::{Brake, Output, counted, notes, print_damage};

/// What to salvage, and where to.
///
/// Every record that is proved is copied under its own number. The number of one that is lost is taken
/// by a record `in_doubt`; each operation that lost records put in doubt is named by another, and so
/// is up to which epoch ids that the log does not know are. A coordinator that is started on the new
/// log acts on none of these. DIR is only read.
///
/// The new log is made beside NEW, as NEW.incomplete, and gets its name once it is whole and durable:
/// under the name NEW there is a whole log or none. Exit code 0 says that it is there, whatever was
/// lost.
#[derive(clap::Args)]
pub struct Args {
    /// The damaged log's directory
    dir: PathBuf,
    /// The new log's directory: not there yet, or empty
    #[arg(long, value_name = "NEW")]
    to: PathBuf,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Salvages a log.
///
/// # Errors
/// [`Error`]; then there is no new log.
pub fn run(args: &Args) -> Result<Exit, Error> {
    if let Some(streams) = StreamSources::open(&args.dir)? {
        return run_streams(args, &streams);
    }
    let source = Source::open_directory(&args.dir)?;
    let Some(from) = source.directory() else {
        return Err(Error::not_a_log(&args.dir, "it is no directory"));
    };
    let place = NewLog::begin(&args.dir, &args.to, None)?;
    let salvaged = place.fill(|to| {
        let config = Config::default();
        let made = coordinator::salvage(from, &mut to[0], &config, random_id(), unix_millis());
        made.map_err(|error| salvage_error(&args.dir, &args.to, error))
    })?;
    let files = source.file_names();
    tell(args.json.then(|| Json::of(&salvaged, &files)), |to| print(to, &salvaged, &args.to))
}

/// The same of each stream.
fn run_streams(args: &Args, streams: &StreamSources) -> Result<Exit, Error> {
    // In the place of a stream that is not there.
    let lost = MemoryStorage::new();
    let from: Vec<&dyn Directory> = streams
        .sources()
        .map(|source| source.directory().map_or(&lost as &dyn Directory, |there| there))
        .collect();
    let place = NewLog::begin(&args.dir, &args.to, Some(streams.streams()))?;
    let salvaged = place.fill(|to| {
        let config = Config::default();
        let made = coordinator::salvage_streams(&from, to, &config, random_id(), unix_millis());
        made.map_err(|(stream, error)| {
            let folder = streams.streams().folder_name(stream);
            salvage_error(&args.dir.join(&folder), &args.to.join(folder), error)
        })
    })?;
    let files: Vec<FileNames> = streams.sources().map(Source::file_names).collect();
    let json = || {
        let each = salvaged.iter().zip(&files).map(|(salvaged, files)| Json::of(salvaged, files));
        JsonStreams { streams: streams.named(each) }
    };
    tell(args.json.then(json), |to| {
        for (heading, salvaged) in streams.headings().zip(&salvaged) {
            writeln!(to, "{heading}")?;
            print(to, salvaged, &args.to)?;
        }
        Ok(())
    })
}

/// Prints one or the other.
fn tell(
    json: Option<impl Serialize>,
    text: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Exit, Error> {
    let brake = Brake::default();
    let mut output = Output::new(&brake);
    match json {
        Some(json) => output.write(|to| {
            serde_json::to_writer(&mut *to, &json)?;
            to.write_all(b"\n")
        }),
        None => output.write(text),
    }
    output.finish()?;
    Ok(Exit::Clean)
}

fn salvage_error(from: &Path, to: &Path, error: SalvageError) -> Error {
    match error {
        SalvageError::Scan(error) => Error::scan(from, error),
        SalvageError::Newer(found) => Error::NewerRecord { path: from.to_owned(), found },
        error => Error::Salvage { path: to.to_owned(), error: Box::new(error) },
    }
}

/// The place of a log that is not whole yet, and the name that it will have.
struct NewLog {
    incomplete: PathBuf,
    to: PathBuf,
    /// The one log's, or every stream's.
    storages: Vec<FileStorage>,
}

impl NewLog {
    const SUFFIX: &'static str = ".incomplete";

    fn begin(dir: &Path, to: &Path, streams: Option<Streams>) -> Result<NewLog, Error> {
        let to = std::path::absolute(to).map_err(|error| Error::io(to, error))?;
        refuse_taken(&to)?;
        refuse_inside(dir, &to)?;
        let Some(name) = to.file_name() else {
            return Err(taken(&to, "it has no name"));
        };
        let mut incomplete = name.to_owned();
        incomplete.push(Self::SUFFIX);
        let incomplete = to.with_file_name(incomplete);
        refuse_foreign(&incomplete)?;
        let storages = match streams {
            None => {
                let storage = FileStorage::write(&incomplete);
                vec![storage.map_err(|error| Error::file(&incomplete, error))?]
            }
            Some(streams) => {
                let storages = StreamFiles::create(&incomplete, streams);
                storages.map_err(|error| Error::streams(&incomplete, error))?
            }
        };
        let new = NewLog { incomplete, to, storages };
        // What a salvage left that came to no end.
        new.clear()?;
        Ok(new)
    }

    /// Has the log made, and gives it its name.
    fn fill<R>(
        mut self,
        make: impl FnOnce(&mut [FileStorage]) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let named = make(&mut self.storages).and_then(|salvaged| {
            let io = |error| Error::io(&self.to, error);
            // Elsewhere a directory takes no other's place, not even an empty one's.
            #[cfg(not(unix))]
            let _ = fs::remove_dir(&self.to);
            fs::rename(&self.incomplete, &self.to).map_err(io)?;
            sync_directory_of(&self.to).map_err(io)?;
            Ok(salvaged)
        });
        if named.is_err() && self.clear().is_ok() {
            // What is left goes too, if it can: its name says what it is.
            for storage in &self.storages {
                let _ = fs::remove_file(self.incomplete.join(FileStorage::LOCK));
                let _ = fs::remove_dir(storage.path());
            }
            let _ = fs::remove_dir(&self.incomplete);
        }
        named
    }

    /// Takes away what segments there are.
    fn clear(&self) -> Result<(), Error> {
        for storage in &self.storages {
            let io = |error| Error::io(storage.path(), error);
            for segment in storage.segments().map_err(io)? {
                fs::remove_file(storage.path().join(segment.file_name())).map_err(io)?;
            }
        }
        Ok(())
    }
}

/// Something else has that name.
fn refuse_taken(to: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(to, error)),
        Ok(there) if there.is_dir() => {
            let mut entries = to.read_dir().map_err(|error| Error::io(to, error))?;
            if entries.next().is_some() {
                return Err(taken(to, "the directory is there, and not empty"));
            }
            Ok(())
        }
        Ok(_) => Err(taken(to, "it is there, and no directory")),
    }
}

/// The damaged log's directory is not to be touched, not even by a new folder.
fn refuse_inside(dir: &Path, to: &Path) -> Result<(), Error> {
    let damaged = dir.canonicalize().map_err(|error| Error::io(dir, error))?;
    let above = to.ancestors().skip(1).find_map(|above| above.canonicalize().ok());
    if above.is_some_and(|above| above.starts_with(&damaged)) {
        return Err(taken(to, "it is inside the damaged log's directory"));
    }
    Ok(())
}

/// What a salvage may have left is segments and a lock, and folders of streams with segments; anything
/// else is somebody else's.
fn refuse_foreign(incomplete: &Path) -> Result<(), Error> {
    let io = |error| Error::io(incomplete, error);
    let entries = match incomplete.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io)?,
    };
    for entry in entries {
        let name = entry.map_err(io)?.file_name();
        let name = name.to_str().unwrap_or_default();
        if Streams::from_folder_name(name).is_some() {
            refuse_foreign(&incomplete.join(name))?;
        } else if SegmentId::from_file_name(name).is_none() && name != FileStorage::LOCK {
            return Err(taken(incomplete, "it holds files that no salvage has left there"));
        }
    }
    Ok(())
}

fn taken(path: &Path, why: &'static str) -> Error {
    Error::Taken { path: path.to_owned(), why }
}

#[cfg(unix)]
fn sync_directory_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(not(unix))]
fn sync_directory_of(_: &Path) -> io::Result<()> {
    // Names are durable with their files where directories cannot be opened.
    Ok(())
}

/// A random log id, from the source that seeds the standard library's hash maps.
fn random_id() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn unix_millis() -> i64 {
    // A shell may read the clock: this is for people who read the log.
    #[expect(clippy::disallowed_methods)]
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

// ---- JSON: the fields' order is the one that is documented ----

#[derive(Serialize)]
struct Json<'a> {
    log_id: u64,
    epoch: u32,
    records: u64,
    lost_records: u64,
    last_sequence: u64,
    torn_tail_bytes: u64,
    in_doubt: Vec<Operation<'a>>,
    unknown_ids_up_to_epoch: Option<u32>,
    corruption: Vec<Damaged>,
    corruption_left_out: u64,
}

#[derive(Serialize)]
struct JsonStreams<'a> {
    streams: Vec<Named<Json<'a>>>,
}

impl<'a> Json<'a> {
    fn of(salvaged: &'a Salvaged, files: &FileNames) -> Json<'a> {
        let scanned = &salvaged.report.scanned;
        Json {
            log_id: salvaged.log_id,
            epoch: salvaged.epoch.value(),
            records: salvaged.records,
            lost_records: salvaged.lost,
            last_sequence: salvaged.last.0,
            torn_tail_bytes: scanned.torn_tail_bytes,
            in_doubt: salvaged.in_doubt().map(Operation::listed).collect(),
            unknown_ids_up_to_epoch: salvaged.report.unknown_ids_up_to.map(Epoch::value),
            corruption: scanned.corruption.iter().map(|it| Damaged::of(it, files)).collect(),
            corruption_left_out: scanned.corruption_left_out,
        }
    }
}

// ---- a table, for people ----

fn print(to: &mut dyn Write, salvaged: &Salvaged, new: &Path) -> io::Result<()> {
    let scanned = &salvaged.report.scanned;
    let (records, lost) = (counted(salvaged.records, "record"), salvaged.lost);
    writeln!(to, "{}: {records} copied, {lost} lost, epoch {}", new.display(), salvaged.epoch)?;
    for note in notes(scanned) {
        writeln!(to, "note: {note}")?;
    }
    let in_doubt: Vec<OperationReport> = salvaged.in_doubt().cloned().collect();
    print_operations(to, &in_doubt)?;
    let of = |wanted: fn(&OperationKind) -> bool| {
        in_doubt.iter().filter(|operation| wanted(&operation.kind)).count() as u64
    };
    let sagas = counted(of(|kind| matches!(kind, OperationKind::Saga { .. })), "saga");
    let txs = of(|kind| matches!(kind, OperationKind::Transaction { .. }));
    writeln!(to, "in doubt: {sagas}, {}", counted(txs, "transaction"))?;
    if let Some(up_to) = salvaged.report.unknown_ids_up_to {
        let up_to = up_to.value();
        writeln!(to, "in doubt besides: operations up to epoch {up_to} that are not known at all")?;
    }
    let places = scanned.corruption.len() as u64 + scanned.corruption_left_out;
    if places > 0 {
        writeln!(to, "corruption: {}", counted(places, "place"))?;
        print_damage(to, scanned, |_| "")?;
    }
    Ok(())
}
