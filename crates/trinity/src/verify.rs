//! `trinity wal verify`: every byte of a log, checked, with the place of whatever is wrong.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use wal_core::{
    CopyState, Corruption, Guard, Place, Record, Scanned, SegmentExtent, SegmentId, SegmentInfo,
    Visitor,
};

use crate::error::{Error, Exit};
use crate::recover::integrity;
use crate::source::{FileNames, Source};
use crate::streams::{Faulty, Named, StreamSources, print_faults};
use crate::terminal::{Brake, LISTED_MAX, Output, Progress};
use crate::terminal::{counted, notes, print_corruption, print_rest, print_table};

/// What to check.
///
/// Every segment, both copies of its header and their seals, every batch and the checksum of each of
/// its sectors, and every record's own checksum. What the records say is not asked: that is
/// `trinity wal recover`. Of a directory of streams each is checked, and what they say of each other.
#[derive(clap::Args)]
pub struct Args {
    /// A log's directory, or a file that holds a raw stream
    path: PathBuf,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Checks a log and prints what it finds.
///
/// # Errors
/// [`Error`]. Damage is none: it is part of what is printed, and the exit code.
pub fn run(args: &Args) -> Result<Exit, Error> {
    if let Some(mut streams) = StreamSources::open(&args.path)? {
        return run_streams(args, &mut streams);
    }
    let brake = Brake::default();
    let mut source = Source::open(&args.path)?;
    let found = Found::of(&mut source, &brake, false)?;
    let mut output = Output::new(&brake);
    if args.json {
        output.write(|to| {
            serde_json::to_writer(&mut *to, &Json::of(&found))?;
            to.write_all(b"\n")
        });
    } else {
        output.write(|to| print(to, &found));
    }
    output.finish()?;
    Ok(if found.scanned.is_corrupt() { Exit::Damaged } else { Exit::Clean })
}

/// The same of each stream, and whether they belong together.
fn run_streams(args: &Args, streams: &mut StreamSources) -> Result<Exit, Error> {
    let found = streams.each(|source| Found::of(source, &Brake::default(), true))?;
    let scanned: Vec<&Scanned> = found.iter().map(|found| &found.scanned).collect();
    let faults = wal_core::faults(&scanned);
    let any = |verdict| found.iter().any(|found| found.verdict() == verdict);
    let corrupt = !faults.is_empty() || any("corrupt");
    let verdict = match corrupt {
        true => "corrupt",
        false if any("torn") => "torn",
        false => "clean",
    };
    let brake = Brake::default();
    let mut output = Output::new(&brake);
    if args.json {
        let each = streams.named(found.iter().map(Json::of));
        let json = JsonStreams { verdict, streams: each, faults: Faulty::of(&faults) };
        output.write(|to| {
            serde_json::to_writer(&mut *to, &json)?;
            to.write_all(b"\n")
        });
    } else {
        output.write(|to| {
            for (heading, found) in streams.headings().zip(&found) {
                writeln!(to, "{heading}")?;
                print(to, found)?;
            }
            print_faults(to, &faults)?;
            writeln!(to, "verdict of all streams: {verdict}")
        });
    }
    output.finish()?;
    Ok(if corrupt { Exit::Damaged } else { Exit::Clean })
}

#[derive(Serialize)]
struct JsonStreams {
    verdict: &'static str,
    streams: Vec<Named<Json>>,
    faults: Vec<Faulty>,
}

/// What was looked at, as it is looked at.
struct Checked {
    segments: Vec<Segment>,
    sectors: Vec<(SegmentId, u64)>,
    progress: Progress,
}

/// A segment, with what it holds.
struct Segment {
    info: SegmentInfo,
    batches: u64,
    sectors: u64,
    records: u64,
}

struct Found {
    segments: Vec<Segment>,
    /// Those that are known to be wrong.
    sectors: Vec<(SegmentId, u64)>,
    scanned: Scanned,
    files: FileNames,
}

impl Checked {
    fn new(quiet: bool) -> Checked {
        let progress = Progress::new("records", quiet);
        Checked { segments: Vec::new(), sectors: Vec::new(), progress }
    }
}

impl Visitor for Checked {
    fn record(&mut self, _: &Record<'_>, _: Place) {
        self.progress.tick();
        if let Some(segment) = self.segments.last_mut() {
            segment.records += 1;
        }
    }

    fn guard(&mut self, _: &Guard, place: Place) {
        if let Some(segment) = self.segments.last_mut() {
            segment.batches += 1;
            let last = place.offset + u64::from(place.len) - 1;
            segment.sectors += last / 512 - place.offset / 512 + 1;
        }
    }

    fn segment(&mut self, info: &SegmentInfo) {
        let info = info.clone();
        self.segments.push(Segment { info, batches: 0, sectors: 0, records: 0 });
    }

    fn damaged_sector(&mut self, segment: SegmentId, offset: u64) {
        if self.sectors.len() < Scanned::CORRUPTION_MAX {
            self.sectors.push((segment, offset));
        }
    }
}

impl Found {
    fn of(source: &mut Source, brake: &Brake, quiet: bool) -> Result<Found, Error> {
        let mut checked = Checked::new(quiet);
        let scanned = source.scan(brake, &mut checked)?;
        let Checked { segments, sectors, .. } = checked;
        Ok(Found { segments, sectors, scanned, files: source.file_names() })
    }

    fn verdict(&self) -> &'static str {
        if self.scanned.is_corrupt() {
            "corrupt"
        } else if self.scanned.torn_tail_bytes > 0 {
            "torn"
        } else {
            "clean"
        }
    }

    fn sum(&self, count: impl Fn(&Segment) -> u64) -> u64 {
        self.segments.iter().map(count).sum()
    }
}

// ---- JSON: the fields' order is the one that is documented ----

#[derive(Serialize)]
struct Json {
    verdict: &'static str,
    integrity: &'static str,
    log_id: Option<u64>,
    epoch: u32,
    records: u64,
    last_sequence: u64,
    proved_sequence: u64,
    batches: u64,
    sectors: u64,
    corrupted_records: u64,
    torn_tail_bytes: u64,
    fenced_bytes: u64,
    lost_header_copies: u64,
    abandoned_starts: u64,
    end: Option<At>,
    segments: Vec<JsonSegment>,
    corruption: Vec<Damaged>,
    corruption_left_out: u64,
    damaged_sectors: Vec<At>,
}

#[derive(Serialize)]
struct At {
    file: String,
    offset: u64,
}

#[derive(Serialize)]
struct JsonSegment {
    file: String,
    bytes: u64,
    epoch: Option<u32>,
    header_copies: [&'static str; 2],
    seals: Option<Seals>,
    extent: &'static str,
    sealed_at: Option<u64>,
    batches: u64,
    sectors: u64,
    records: u64,
}

/// What a segment's seal says of the log in front of it.
#[derive(Serialize)]
struct Seals {
    file: Option<String>,
    length: u64,
    last_sequence: u64,
    take_over: bool,
}

#[derive(Serialize)]
struct Damaged {
    file: String,
    offset: u64,
    bytes: u64,
    what: String,
    hides_records: bool,
    last_sequence_before: u64,
}

impl Json {
    fn of(found: &Found) -> Json {
        let (scanned, files) = (&found.scanned, &found.files);
        let at = |segment, offset| At { file: files.of(segment).into_owned(), offset };
        Json {
            verdict: found.verdict(),
            integrity: integrity(scanned),
            log_id: scanned.log_id,
            epoch: scanned.epoch.value(),
            records: scanned.records,
            last_sequence: scanned.last_sequence.0,
            proved_sequence: scanned.watermark.0,
            batches: found.sum(|segment| segment.batches),
            sectors: found.sum(|segment| segment.sectors),
            corrupted_records: scanned.corrupted_records,
            torn_tail_bytes: scanned.torn_tail_bytes,
            fenced_bytes: scanned.fenced_bytes,
            lost_header_copies: scanned.lost_header_copies,
            abandoned_starts: scanned.abandoned_starts,
            end: scanned.end.map(|(segment, offset)| at(segment, offset)),
            segments: found
                .segments
                .iter()
                .map(|segment| JsonSegment::of(segment, files))
                .collect(),
            corruption: scanned.corruption.iter().map(|it| Damaged::of(it, files)).collect(),
            corruption_left_out: scanned.corruption_left_out,
            damaged_sectors: found.sectors.iter().map(|(file, off)| at(*file, *off)).collect(),
        }
    }
}

impl JsonSegment {
    fn of(segment: &Segment, files: &FileNames) -> JsonSegment {
        let info = &segment.info;
        JsonSegment {
            file: files.of(info.segment).into_owned(),
            bytes: info.file_bytes,
            epoch: info.epoch.map(base::Epoch::value),
            header_copies: info.copies.map(copy_name),
            seals: info.seal.map(|seal| Seals {
                file: (seal.segment.0 > 0).then(|| files.of(seal.segment).into_owned()),
                length: seal.length,
                last_sequence: seal.last.0,
                take_over: seal.take_over,
            }),
            extent: extent_name(info.extent),
            sealed_at: match info.extent {
                SegmentExtent::Sealed(length) => Some(length),
                _ => None,
            },
            batches: segment.batches,
            sectors: segment.sectors,
            records: segment.records,
        }
    }
}

impl Damaged {
    fn of(damage: &Corruption, files: &FileNames) -> Damaged {
        Damaged {
            file: files.of(damage.segment.unwrap_or_default()).into_owned(),
            offset: damage.offset,
            bytes: damage.bytes,
            what: damage.what.to_string(),
            hides_records: damage.hides_records,
            last_sequence_before: damage.last_sequence_before.0,
        }
    }
}

fn copy_name(copy: CopyState) -> &'static str {
    match copy {
        CopyState::Sealed => "sealed",
        CopyState::Unsealed => "unsealed",
        CopyState::Lost => "lost",
        CopyState::Corrupt => "corrupt",
    }
}

fn extent_name(extent: SegmentExtent) -> &'static str {
    match extent {
        SegmentExtent::Open => "open",
        SegmentExtent::Sealed(_) => "sealed",
        SegmentExtent::Empty => "empty",
        SegmentExtent::Passed => "passed",
        SegmentExtent::Unproven => "unproven",
    }
}

// ---- a table, for people ----

fn print(to: &mut dyn Write, found: &Found) -> io::Result<()> {
    let (scanned, files) = (&found.scanned, &found.files);
    if !found.segments.is_empty() {
        let head = ["FILE", "BYTES", "EPOCH", "HEADER", "EXTENT", "BATCHES", "SECTORS", "RECORDS"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(found.segments.iter().map(row));
        print_table(to, &rows)?;
    }
    write!(to, "{} up to sequence {}", counted(scanned.records, "record"), scanned.last_sequence)?;
    if !found.segments.is_empty() {
        let (batches, sectors) = (found.sum(|s| s.batches), found.sum(|s| s.sectors));
        write!(to, ", in {} of {}", batches_name(batches), counted(sectors, "sector"))?;
        write!(to, "; proved to have been synced: {}", scanned.watermark)?;
    }
    writeln!(to, "; integrity: {}", integrity(scanned))?;
    for note in notes(scanned) {
        writeln!(to, "note: {note}")?;
    }
    print_corruption(to, scanned, |damage| {
        if damage.hides_records { "; may hide records" } else { "; hides nothing" }
    })?;
    if !found.sectors.is_empty() {
        let sectors = counted(found.sectors.len() as u64, "sector");
        writeln!(to, "of damaged batches, {sectors} not as written:")?;
        for (segment, offset) in found.sectors.iter().take(LISTED_MAX) {
            writeln!(to, "  {} offset {offset}", files.of(*segment))?;
        }
        print_rest(to, found.sectors.len() as u64)?;
    }
    writeln!(to, "verdict: {}", found.verdict())
}

fn batches_name(count: u64) -> String {
    format!("{count} batch{}", if count == 1 { "" } else { "es" })
}

fn row(segment: &Segment) -> [String; 8] {
    let info = &segment.info;
    let [first, second] = info.copies.map(copy_name);
    [
        info.segment.file_name(),
        info.file_bytes.to_string(),
        info.epoch.map_or_else(|| "?".to_owned(), |epoch| epoch.value().to_string()),
        if first == second { first.to_owned() } else { format!("{first}, {second}") },
        match info.extent {
            SegmentExtent::Sealed(length) => format!("sealed at {length}"),
            extent => extent_name(extent).to_owned(),
        },
        segment.batches.to_string(),
        segment.sectors.to_string(),
        segment.records.to_string(),
    ]
}
