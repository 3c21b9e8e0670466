//! Salvage: what a damaged log proves, as a log that can be gone on with.

use crate::codec::{self, Doubt};
use crate::replay::Replay;
use crate::report::{OperationKind, OperationReport, RecoveryReport};
use base::{CoordinatorId, Epoch, Sequence, Time};
use std::fmt;
use std::io;
use wal_core::{
    AppendError, Config, Corruption, Damage, Directory, DiskError, EventType, Guard, Log,
    NotUnderstood, OpenError, OpenMode, Opening, Place, Record, ScanConfig, ScanError, Scanned,
    SegmentId, Storage, StreamFault, StreamId, Visitor,
};

/// What a [`salvage`] has done.
#[derive(Clone, Debug)]
pub struct Salvaged {
    /// What the damaged log says, read up to its end over every hole. The new log says the same.
    pub report: RecoveryReport,
    /// The new log's id.
    pub log_id: u64,
    /// The new log's epoch.
    pub epoch: Epoch,
    /// Records that were copied, each under its own number.
    pub records: u64,
    /// Numbers of which the record is lost: the new log holds a record `in_doubt` in its place. Behind
    /// the last record that could be read more may be lost; nobody can tell how many.
    pub lost: u64,
    /// The new log's last record.
    pub last: Sequence,
}

impl Salvaged {
    /// The operations that the new log holds as being in doubt. Promises are in doubt by nature and not
    /// among them.
    pub fn in_doubt(&self) -> impl Iterator<Item = &OperationReport> {
        let promise = |kind: &OperationKind| matches!(kind, OperationKind::Promise { .. });
        self.report.operations.iter().filter(move |it| it.in_doubt && !promise(&it.kind))
    }
}

/// Why nothing was salvaged. What was written so far is no log to go on with.
#[derive(Debug)]
#[non_exhaustive]
pub enum SalvageError {
    /// The damaged log cannot be read. That is no damage: repair the disk, or check the path.
    Scan(ScanError),
    /// The place for the new log holds a log. Name another.
    NotEmpty,
    /// The new log cannot be opened.
    Open(OpenError),
    /// The new log's disk failed.
    Disk(DiskError),
    /// The new log does not take a record, through its configuration's fault.
    Append(AppendError),
    /// So many numbers in a row have no record that filling them is not sensible.
    TooManyLost {
        /// How many.
        lost: u64,
        /// The most that are filled.
        max: u64,
    },
    /// The old log's epochs are used up: no new one is higher.
    EpochsExhausted,
    /// The log read differently the second time: somebody writes to it, or the disk is failing.
    Changed,
    /// A newer version has written what must not be passed over: salvage with that version, or a later one.
    Newer(NotUnderstood),
    /// The log in this stream's place is that of another stream or directory. Put the right one there, or
    /// none.
    ForeignStream,
}

impl fmt::Display for SalvageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scan(error) => error.fmt(f),
            Self::NotEmpty => f.write_str("there is a log in the place of the new one"),
            Self::Open(error) => write!(f, "the new log: {error}"),
            Self::Disk(error) => write!(f, "the new log: {error}"),
            Self::Append(error) => write!(f, "the new log does not take a record: {error}"),
            Self::TooManyLost { lost, max } => {
                write!(f, "{lost} records are missing: at most {max} can be stood in for")
            }
            Self::EpochsExhausted => f.write_str("the log has used up its epochs"),
            Self::Newer(found) => {
                write!(f, "{found}: salvage with the version that wrote it, or a later one")
            }
            Self::Changed => f.write_str("the log read differently than a moment ago"),
            Self::ForeignStream => f.write_str("it holds the log of another stream or directory"),
        }
    }
}

impl std::error::Error for SalvageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Scan(error) => Some(error),
            Self::Open(error) => Some(error),
            Self::Disk(error) => Some(error),
            Self::Append(error) => Some(error),
            _ => None,
        }
    }
}

/// So many numbers without a record are stood in for: the new log is 5 GB longer by them.
const LOST_MAX: u64 = 1 << 26;

/// Copies what the log in `from` proves into a new log in `to`, and records there what it does not.
///
/// The new log:
///
/// - holds every record that is proved, *under its own number*. Where a number's record is lost, a
///   record [`in_doubt`](EventType::IN_DOUBT) stands in its place ([`Doubt::LostRecord`]), so a number
///   that named a record never names another one; only behind the last record that can be read may
///   numbers be used again, if nothing tells that they were;
/// - names behind them each operation that is in doubt ([`Doubt::Saga`], [`Doubt::Transaction`]), and up
///   to which epoch unknown ids are ([`Doubt::UnknownIds`]). A [`Replay`] of it finds what one of the
///   damaged log finds, and the [`Engine`](crate::Engine) leaves what is in doubt alone. Of a log from
///   which no record is missing it is a plain copy;
/// - has an id of its own, `new_log_id`, which is to be random: of a participant's log it is the
///   store's name, and a store that may have forgotten a promise must not pass for the one that gave it;
/// - has an epoch above every one of the old log, so whoever still writes there is out of date.
///
/// A torn tail is left out, as opening the old log would cut it. `from` is only read, twice. When this
/// returns `Ok`, the new log is closed and durable; until then what is in `to` must not be taken for a
/// log, so let it have a name there that is not the log's yet. The new log's `config` is `config`, but
/// with room for the old one's longest record. `timestamp_ms` goes into the new records.
///
/// # Errors
/// [`SalvageError`]. Damage is none.
pub fn salvage(
    from: &dyn Directory,
    to: &mut dyn Storage,
    config: &Config,
    new_log_id: u64,
    timestamp_ms: i64,
) -> Result<Salvaged, SalvageError> {
    Survey::of(from)?.copy(from, to, config, Epoch::NONE, new_log_id, timestamp_ms)
}

/// Copies what the streams of a directory prove into new ones, each as [`salvage`] does: `from` and `to`
/// are every stream's, in order, and an empty directory stands for a stream that is not there.
///
/// The new directory has the id `new_id`, which is to be random, and one epoch, which is above every old
/// stream's. A stream that has lost its end, as the others show ([`StreamFault::Behind`]), is salvaged like
/// a log with a hole there: whatever lived in it is in doubt, known or not.
///
/// # Errors
/// The first stream's of which nothing was salvaged, and why. What was written so far is nothing to go on
/// with.
///
/// # Panics
/// Unless there are as many new streams as old ones, and at most [`Streams::MAX`](wal_core::Streams::MAX).
pub fn salvage_streams<S: Storage>(
    from: &[&dyn Directory],
    to: &mut [S],
    config: &Config,
    new_id: u64,
    timestamp_ms: i64,
) -> Result<Vec<Salvaged>, (StreamId, SalvageError)> {
    assert_eq!(from.len(), to.len(), "every stream has a new one");
    let ids = (0..from.len()).map(|at| StreamId(u16::try_from(at).expect("streams are few")));
    let ids: Vec<StreamId> = ids.collect();
    let surveys = ids
        .iter()
        .zip(from)
        .map(|(stream, from)| Survey::of(*from).map_err(|error| (*stream, error)));
    let mut surveys = surveys.collect::<Result<Vec<_>, _>>()?;
    let scanned: Vec<&Scanned> = surveys.iter().map(|survey| &survey.scanned).collect();
    let highest = scanned.iter().map(|scanned| scanned.highest_epoch()).max();
    let highest = highest.unwrap_or(Epoch::NONE);
    for fault in wal_core::faults(&scanned) {
        let stream = fault.stream();
        match fault {
            StreamFault::Behind { .. } => surveys[usize::from(stream.0)].lose_end(highest),
            _ => return Err((stream, SalvageError::ForeignStream)),
        }
    }
    let mut salvaged = Vec::with_capacity(surveys.len());
    for (((stream, survey), from), to) in ids.into_iter().zip(surveys).zip(from).zip(to) {
        let log_id = stream.log_id(new_id);
        let copied = survey.copy(*from, to, config, highest, log_id, timestamp_ms);
        salvaged.push(copied.map_err(|error| (stream, error))?);
    }
    Ok(salvaged)
}

/// The new log's limits: those that are configured, or what the longest record needs.
fn with_room_for(longest: u32, config: &Config) -> Config {
    let mut config = config.clone();
    if longest > config.max_payload {
        config.max_payload = longest;
        config.batch_bytes_max = BATCH_BYTES_LIMIT;
        config.buffered_bytes_max = Config::BUFFERED_BYTES_LIMIT;
    }
    config
}

/// The format's limit for a batch, in bytes.
const BATCH_BYTES_LIMIT: u32 = 16 << 20;

fn begin(
    to: &mut dyn Storage,
    config: Config,
    epoch: Epoch,
    new_log_id: u64,
    first: Option<Sequence>,
) -> Result<Log, SalvageError> {
    let there = to.segments().map_err(|error| SalvageError::Disk(error.into()))?;
    if !there.is_empty() {
        return Err(SalvageError::NotEmpty);
    }
    let opened = Opening::scan(&*to, config, OpenMode::Exclusive, &mut ());
    let mut opening = opened.map_err(SalvageError::Open)?;
    if let Some(first) = first {
        opening.begin_at(first);
    }
    let ops = opening.claim(epoch, new_log_id).map_err(SalvageError::Open)?;
    to.perform_all(&ops).map_err(SalvageError::Disk)?;
    let ops = opening.read_tail(&*to, &mut ()).map_err(SalvageError::Open)?;
    to.perform_all(&ops).map_err(SalvageError::Disk)?;
    opening.finish(&*to, Time::ZERO).map_err(SalvageError::Open)
}

/// The first reading: what the log says, and how much room it needs.
struct Survey {
    found: Found,
    scanned: Scanned,
    /// The same, and what others know of it besides.
    known: Scanned,
}

impl Survey {
    fn of(from: &dyn Directory) -> Result<Survey, SalvageError> {
        let mut found = Found { replay: Replay::default(), longest: 0, first: None };
        let scanned = wal_core::scan(from, &ScanConfig::default(), &mut found);
        let scanned = scanned.map_err(SalvageError::Scan)?;
        if let Some(newer) = found.replay.not_understood() {
            return Err(SalvageError::Newer(newer));
        }
        Ok(Survey { found, known: scanned.clone(), scanned })
    }

    /// Segments are gone behind all that was read, the last of them of an epoch up to `highest`.
    fn lose_end(&mut self, highest: Epoch) {
        let known = &mut self.known;
        let (segment, offset) = known.end.unwrap_or((SegmentId::FIRST, 0));
        let hole = Corruption {
            segment: Some(segment),
            offset,
            bytes: 0,
            what: Damage::SegmentsMissing,
            last_sequence_before: known.last_sequence,
            hides_records: true,
        };
        self.found.replay.hole(&hole);
        known.corruption.push(hole);
        known.epoch = known.epoch.max(highest);
    }

    /// `above`: the new epoch is higher, and higher than the old log's.
    fn copy(
        self,
        from: &dyn Directory,
        to: &mut dyn Storage,
        config: &Config,
        above: Epoch,
        new_log_id: u64,
        timestamp_ms: i64,
    ) -> Result<Salvaged, SalvageError> {
        let Found { replay, longest, first } = self.found;
        let (report, doubts) = (replay.report(&self.known), replay.doubts(&self.known));
        let highest = self.known.highest_epoch().max(above);
        let epoch = highest.next().ok_or(SalvageError::EpochsExhausted)?;
        let config = with_room_for(longest, config);
        // A log that begins with a snapshot is copied from there; nothing of what was in front of it is
        // lost.
        let first = first.filter(|_| self.scanned.base_is_whole);
        let log = begin(to, config, epoch, new_log_id, first)?;

        let mut copy = Copy { log, to, timestamp_ms, records: 0, lost: 0, failed: None };
        let again = wal_core::scan(from, &ScanConfig::default(), &mut copy);
        if again.map_err(SalvageError::Scan)? != self.scanned {
            return Err(copy.failed.unwrap_or(SalvageError::Changed));
        }
        if let Some(error) = copy.failed.take() {
            return Err(error);
        }
        // Those that are known to have followed the last one that could be read.
        copy.stand_in_for(self.scanned.corrupted_records.saturating_sub(copy.lost))?;
        for (coordinator, doubt) in &doubts {
            copy.doubt(*coordinator, doubt)?;
        }
        let (records, lost, last) = (copy.records, copy.lost, copy.log.last());
        copy.close()?;
        Ok(Salvaged { report, log_id: new_log_id, epoch, records, lost, last })
    }
}

/// What the first reading looks for.
struct Found {
    replay: Replay,
    longest: u32,
    /// The first record that is proved.
    first: Option<Sequence>,
}

impl Visitor for Found {
    fn record(&mut self, record: &Record<'_>, place: Place) {
        let bytes = u32::try_from(record.payload.len()).unwrap_or(u32::MAX);
        self.longest = self.longest.max(bytes);
        self.first.get_or_insert(record.sequence);
        self.replay.record(record, place);
    }

    fn guard(&mut self, guard: &Guard, place: Place) {
        self.replay.guard(guard, place);
    }

    fn hole(&mut self, hole: &Corruption) {
        self.replay.hole(hole);
    }
}

/// The second reading: what is proved goes into the new log.
struct Copy<'a> {
    log: Log,
    to: &'a mut dyn Storage,
    timestamp_ms: i64,
    records: u64,
    lost: u64,
    /// A visitor returns no error: after the first nothing more is copied.
    failed: Option<SalvageError>,
}

impl Visitor for Copy<'_> {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        if self.failed.is_none()
            && let Err(error) = self.copy(record)
        {
            self.failed = Some(error);
        }
    }
}

impl Copy<'_> {
    fn copy(&mut self, record: &Record<'_>) -> Result<(), SalvageError> {
        let next = self.log.last().next();
        let lost = record.sequence.0.checked_sub(next.0).ok_or(SalvageError::Changed)?;
        self.stand_in_for(lost)?;
        self.append(record.event, record.timestamp_ms, record.payload)?;
        self.records += 1;
        Ok(())
    }

    /// Takes the place of so many records.
    fn stand_in_for(&mut self, lost: u64) -> Result<(), SalvageError> {
        let all = self.lost.saturating_add(lost);
        if all > LOST_MAX {
            return Err(SalvageError::TooManyLost { lost: all, max: LOST_MAX });
        }
        for _ in 0..lost {
            self.doubt(CoordinatorId::default(), &Doubt::LostRecord)?;
        }
        self.lost = all;
        Ok(())
    }

    fn doubt(&mut self, coordinator: CoordinatorId, doubt: &Doubt) -> Result<(), SalvageError> {
        let mut payload = Vec::new();
        let event = codec::encode_doubt(coordinator, doubt, &mut payload);
        self.append(event, self.timestamp_ms, &payload)
    }

    fn append(
        &mut self,
        event: EventType,
        timestamp_ms: i64,
        payload: &[u8],
    ) -> Result<(), SalvageError> {
        loop {
            match self.log.append(event, timestamp_ms, payload) {
                Ok(_) => {
                    // Only a full batch is due at the beginning of time.
                    self.drive()?;
                    return Ok(());
                }
                Err(AppendError::Full { .. }) => {
                    self.log.force(self.log.last());
                    self.drive()?;
                }
                Err(error) => return Err(SalvageError::Append(error)),
            }
        }
    }

    fn drive(&mut self) -> Result<(), SalvageError> {
        wal_core::drive(self.to, &mut self.log, Time::ZERO);
        self.check()
    }

    fn check(&mut self) -> Result<(), SalvageError> {
        match self.log.poisoned() {
            None => Ok(()),
            Some(DiskError::Io(error)) => {
                let error = io::Error::new(error.kind(), error.to_string());
                Err(SalvageError::Disk(error.into()))
            }
            Some(_) => Err(SalvageError::Disk(DiskError::Fenced)),
        }
    }

    fn close(mut self) -> Result<(), SalvageError> {
        wal_core::close(self.to, &mut self.log, Time::ZERO);
        self.check()
    }
}
