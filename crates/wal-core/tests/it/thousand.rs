//! G7, G9 and G10 over a log of a thousand records: whatever is done to its bytes is reported, no record
//! takes another's place, and where records may be hidden a hole is told.

use std::sync::OnceLock;

use base::{Sequence, Time};
use wal_core::{
    Config, Damage, EventType, Guard, MemoryStorage, OpenError, OpenMode, Place, Record,
    ScanConfig, Scanned, SegmentId, Visitor,
};

use crate::support::{Choices, SECTOR, in_parallel, rounds};

const RECORDS: u64 = 1000;

/// A whole log, what it holds, and the bytes it once had.
struct Whole {
    storage: MemoryStorage,
    /// By sequence, from 1: event, timestamp, payload.
    records: Vec<(EventType, i64, Vec<u8>)>,
    batches: Vec<(Place, Guard)>,
    places: Vec<Place>,
    /// What the disk held after every fifth flush.
    earlier: Vec<MemoryStorage>,
}

fn config() -> Config {
    Config {
        max_payload: 900,
        segment_bytes_first: 16 << 10,
        segment_bytes_max: 16 << 10,
        batch_bytes_max: 3072,
        buffered_bytes_max: 8192,
        ..Config::default()
    }
}

/// Small payloads, so that every bit of them can be tried: ids, zeros, nothing, and now and then the
/// next records of this very log, forged.
fn payload(n: u64) -> Vec<u8> {
    match n % 8 {
        1 => Vec::new(),
        3 => vec![0; 9],
        5 if n % 40 == 5 => {
            let mut forged = Vec::new();
            for sequence in [n + 1, n + 2] {
                let (event, payload) = (EventType::TX_COMMIT_START, b"forged");
                let sequence = Sequence(sequence);
                let record = Record { sequence, event, timestamp_ms: 0, payload };
                wal_core::encode_record(&record, &mut forged);
            }
            forged
        }
        _ => n.to_le_bytes()[..3].to_vec(),
    }
}

impl Visitor for Whole {
    fn record(&mut self, record: &Record<'_>, place: Place) {
        let Record { event, timestamp_ms, payload, .. } = *record;
        self.records.push((event, timestamp_ms, payload.to_vec()));
        self.places.push(place);
    }
    fn guard(&mut self, guard: &Guard, place: Place) {
        self.batches.push((place, *guard));
    }
}

/// Two lives, the second closed cleanly: a few segments, dozens of batches.
fn whole() -> &'static Whole {
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let mut storage = MemoryStorage::new();
        let mut earlier = Vec::new();
        for life in 0..2 {
            let (mode, id) = (OpenMode::Exclusive, 0xC0FF_EE00_1234_5678);
            let opened =
                wal_core::open(&mut storage, &config(), mode, id, Time::ZERO, &mut ()).unwrap();
            let mut log = opened.0;
            for n in life * RECORDS / 2 + 1..=(life + 1) * RECORDS / 2 {
                let event = if n % 3 == 0 { EventType::TX_ABORT_START } else { EventType(0x14) };
                // The clock goes backwards: nothing is ordered by it.
                let sequence = log.append(event, 1000 - n as i64, &payload(n)).unwrap();
                if n % 24 == 0 {
                    log.force(sequence);
                    wal_core::drive(&mut storage, &mut log, Time::ZERO);
                    if n % 120 == 0 {
                        earlier.push(storage.clone());
                    }
                }
            }
            wal_core::close(&mut storage, &mut log, Time::ZERO);
        }
        let (records, batches, places) = Default::default();
        let mut whole = Whole { storage: storage.clone(), records, batches, places, earlier };
        let scanned = wal_core::scan(&storage, &ScanConfig::default(), &mut whole).unwrap();
        assert!(!scanned.is_corrupt() && scanned.torn_tail_bytes == 0);
        assert_eq!((scanned.records, whole.records.len() as u64), (RECORDS, RECORDS));
        assert!(scanned.segments >= 4 && whole.batches.len() > 40, "{scanned:?}");
        whole
    })
}

impl Whole {
    /// Each segment's id and length.
    fn segments(&self) -> Vec<(SegmentId, usize)> {
        self.storage.files().map(|(id, bytes)| (id, bytes.len())).collect()
    }

    fn bytes(&self, segment: SegmentId) -> &[u8] {
        let file = self.storage.files().find(|(id, _)| *id == segment);
        file.expect("the segment is there").1
    }

    /// Where the batch ends that holds this.
    fn batch_end(&self, piece: Place) -> usize {
        let mut batches = self.batches.iter().map(|(place, _)| place);
        let holds = |place: &&Place| {
            place.segment == piece.segment && piece.offset < place.offset + u64::from(place.len)
        };
        let batch = batches.find(holds).expect("every piece is in a batch");
        batch.offset as usize + batch.len as usize
    }

    /// Where what no watermark covers begins: the two guards of the clean close, without any record.
    fn unproven_from(&self) -> (SegmentId, usize) {
        let watermark = self.batches.iter().map(|(_, guard)| guard.watermark).max().unwrap();
        let unproven = self.batches.iter().find(|(_, guard)| guard.first > watermark);
        let (place, guard) = unproven.unwrap();
        assert_eq!((guard.first, guard.records), (Sequence(RECORDS + 1), 0));
        (place.segment, place.offset as usize)
    }
}

/// Compares what is told with what was written, as it is told.
struct Told<'a> {
    whole: &'a Whole,
    records: u64,
    last: u64,
    hole_since: bool,
    holes: u64,
    wrong: Option<String>,
}

impl Visitor for Told<'_> {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        let at = record.sequence.0;
        let written = self.whole.records.get(at.wrapping_sub(1) as usize);
        let same = written.is_some_and(|(event, timestamp_ms, payload)| {
            (*event, *timestamp_ms, &payload[..])
                == (record.event, record.timestamp_ms, record.payload)
        });
        let next = at == self.last + 1 || at > self.last && self.hole_since;
        if !(same && next) {
            self.wrong = Some(format!("{record:?} told behind {}", self.last));
        }
        self.records += 1;
        self.last = at;
        self.hole_since = false;
    }
    fn hole(&mut self, _: &wal_core::Corruption) {
        self.hole_since = true;
        self.holes += 1;
    }
}

/// What came of reading a damaged log.
#[derive(Debug)]
struct Verdict {
    corrupt: bool,
    /// How many records were told.
    records: u64,
    /// Whether the last record of all was.
    to_the_end: bool,
    scanned: Scanned,
}

/// Reads a damaged log: every record told is the one that was written, in order, and where one is
/// missing a hole was told. So is the end, if damage hides it.
fn read(whole: &Whole, damaged: &MemoryStorage, what: &dyn Fn() -> String) -> Verdict {
    let (records, last, hole_since, holes, wrong) = Default::default();
    let mut told = Told { whole, records, last, hole_since, holes, wrong };
    let scanned = match wal_core::scan(damaged, &ScanConfig::default(), &mut told) {
        Ok(scanned) => scanned,
        Err(error) => panic!("{}: {error}", what()),
    };
    assert!(told.wrong.is_none(), "{}: {:?}", what(), told.wrong);
    let (corrupt, to_the_end) = (scanned.is_corrupt(), told.last == RECORDS);
    assert!(to_the_end || !corrupt || told.hole_since, "{}: the end is hidden unsaid", what());
    assert!(corrupt || told.holes == 0, "{}: a hole without damage", what());
    Verdict { corrupt, records: told.records, to_the_end, scanned }
}

/// Damage at a place: reported, or, where nothing on the disk could tell it from a crash's work, at
/// least no record is lost by it that a watermark covers.
fn reported_unless_unproven(
    whole: &Whole,
    damaged: &MemoryStorage,
    segment: SegmentId,
    first_byte: usize,
    what: &dyn Fn() -> String,
) -> bool {
    let verdict = read(whole, damaged, what);
    let unproven = whole.unproven_from();
    let tail = segment == unproven.0 && first_byte >= unproven.1;
    assert!(verdict.corrupt || tail, "{}: not seen: {verdict:?}", what());
    assert!(verdict.corrupt || verdict.records == RECORDS, "{}: records are gone", what());
    verdict.corrupt
}

/// G7. Every single flipped bit of the log, payloads and headers, guards and marks, is reported; every
/// record that is still told is the one that was written.
#[test]
fn g7_every_single_flipped_bit_is_reported() {
    let whole = whole();
    for (id, len) in whole.segments() {
        let told_behind: u64 = in_parallel(len, |range| {
            let mut damaged = whole.storage.clone();
            let mut told_behind = 0;
            for at in range {
                for bit in 0..8 {
                    let what = || format!("{id}, byte {at}, bit {bit}");
                    damaged.file_mut(id)[at] ^= 1 << bit;
                    let verdict = read(whole, &damaged, &what);
                    assert!(verdict.corrupt, "{}: not seen", what());
                    assert_eq!(verdict.scanned.torn_tail_bytes, 0, "{}", what());
                    told_behind += u64::from(verdict.to_the_end && verdict.records < RECORDS);
                    damaged.file_mut(id)[at] ^= 1 << bit;
                }
            }
            told_behind
        });
        assert!(
            told_behind > 1000 || id == whole.unproven_from().0,
            "reading goes on behind a hole"
        );
    }
}

/// G7. Two flipped bits anywhere, near each other, or in both copies of a header: sampled, a million in
/// a heavy run.
#[test]
fn g7_two_flipped_bits_are_reported() {
    let whole = whole();
    let segments = whole.segments();
    let count = rounds("WAL_DAMAGE_ROUNDS", 6_000) as usize;
    in_parallel(count, |range| {
        let mut damaged = whole.storage.clone();
        for round in range {
            let mut choices = Choices::seeded(round as u64);
            let (id, len) = segments[choices.below(segments.len())];
            let at = choices.below(if round % 4 == 0 { 120 } else { len });
            let (id_too, too) = match round % 4 {
                0 => (id, choices.below(120) + SECTOR * choices.below(2)),
                1 => (id, (at + choices.below(80)).min(len - 1)),
                _ => {
                    let (id, len) = segments[choices.below(segments.len())];
                    (id, choices.below(len))
                }
            };
            let (bit, bit_too) = (choices.below(8), choices.below(8));
            if (id, at, bit) == (id_too, too, bit_too) {
                continue;
            }
            damaged.file_mut(id)[at] ^= 1 << bit;
            damaged.file_mut(id_too)[too] ^= 1 << bit_too;
            let what = || format!("round {round}: {id} {at}.{bit} and {id_too} {too}.{bit_too}");
            let verdict = read(whole, &damaged, &what);
            assert!(verdict.corrupt, "{}: not seen", what());
            damaged.file_mut(id)[at] ^= 1 << bit;
            damaged.file_mut(id_too)[too] ^= 1 << bit_too;
        }
        0
    });
}

/// G9. Cut at any byte, the segment where the log ends has a torn tail and yields a prefix; one that a
/// later seal proves is damaged.
#[test]
fn g9_every_cut_is_torn_at_the_end_and_damage_before_it() {
    let whole = whole();
    let open = whole.unproven_from().0;
    for (id, len) in whole.segments() {
        in_parallel(len, |range| {
            let mut damaged = whole.storage.clone();
            for at in range.rev() {
                damaged.file_mut(id).truncate(at);
                let what = || format!("{id} cut to {at}");
                let verdict = read(whole, &damaged, &what);
                assert_eq!(verdict.corrupt, id != open, "{}", what());
                let torn = verdict.scanned.torn_tail_bytes;
                assert!(torn == 0 || !verdict.corrupt, "{}", what());
                if id == open && at > 2 * SECTOR {
                    let (segment, end) = verdict.scanned.end.unwrap();
                    // Without a whole batch in it, the log ends in the segment before.
                    let end = if segment == id { end as usize } else { 2 * SECTOR };
                    let left = &whole.bytes(id)[end..at];
                    let counted = left.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
                    assert_eq!(torn, counted as u64, "{}", what());
                }
            }
            0
        });
    }
}

/// G7. Every sector zeroed: below the highest watermark or a seal that is damage. Only the
/// guards of the clean close, which hold no record, may be lost unsaid: so does a crash leave them.
#[test]
fn g7_every_zeroed_sector_is_reported() {
    let whole = whole();
    let mut reported = 0;
    for (id, len) in whole.segments() {
        for from in (0..len).step_by(SECTOR) {
            let mut damaged = whole.storage.clone();
            damaged.file_mut(id)[from..len.min(from + SECTOR)].fill(0);
            let what = || format!("{id}, sector at {from}");
            reported += u64::from(reported_unless_unproven(whole, &damaged, id, from, &what));
        }
    }
    assert!(reported > 80, "{reported}");
}

/// G7. A sector that holds what it held some time ago: a write that the disk confirmed and never did.
#[test]
fn g7_every_stale_sector_is_reported() {
    let whole = whole();
    let mut reported = 0;
    for (number, earlier) in whole.earlier.iter().enumerate() {
        for (id, len) in whole.segments() {
            let before = earlier.files().find(|(old, _)| *old == id).map_or(&[][..], |f| f.1);
            for from in (0..len).step_by(SECTOR) {
                let to = len.min(from + SECTOR);
                let mut stale = before.get(from..).unwrap_or_default().to_vec();
                stale.resize(to - from, 0);
                let mut damaged = whole.storage.clone();
                let sector = &mut damaged.file_mut(id)[from..to];
                if sector == stale {
                    continue;
                }
                sector.copy_from_slice(&stale);
                let what = || format!("{id}, sector at {from} as of snapshot {number}");
                reported += u64::from(reported_unless_unproven(whole, &damaged, id, from, &what));
            }
        }
    }
    assert!(reported > 300, "{reported}");
}

/// G7. A sector written at another's place: each one over its neighbour, over the same place in every
/// other segment, and over some other.
#[test]
fn g7_every_misdirected_sector_is_reported() {
    let whole = whole();
    let segments = whole.segments();
    let mut choices = Choices::seeded(8);
    let mut reported = 0;
    for &(from_id, from_len) in &segments {
        for from in (0..from_len - SECTOR).step_by(SECTOR) {
            let sector = &whole.bytes(from_id)[from..from + SECTOR];
            let random = segments[choices.below(segments.len())];
            let elsewhere = choices.below(random.1 / SECTOR) * SECTOR;
            let mut targets = vec![(from_id, from + SECTOR), (random.0, elsewhere)];
            targets.extend(segments.iter().map(|&(id, _)| (id, from)));
            for (id, to) in targets {
                let mut damaged = whole.storage.clone();
                let file = damaged.file_mut(id);
                // A last sector that is not whole grows to one, as a misdirected write makes it.
                file.resize(file.len().max(to + SECTOR), 0);
                if to > whole.bytes(id).len() || file[to..to + SECTOR] == *sector {
                    continue;
                }
                file[to..to + SECTOR].copy_from_slice(sector);
                let what = || format!("{from_id} {from} written at {id} {to}");
                reported += u64::from(reported_unless_unproven(whole, &damaged, id, to, &what));
            }
        }
    }
    assert!(reported > 300, "{reported}");
}

/// How far what follows moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shift {
    Batch,
    File,
}

/// What may happen to pieces of a file, whole records or whole batches.
#[derive(Clone, Copy, Debug)]
enum Surgery {
    /// Zeroed where it is.
    Zeroed,
    /// Taken out; what follows moves up, to the end of its batch or of the file.
    Dropped(Shift),
    /// There twice; what follows moves down, to the end of its batch or of the file.
    Doubled(Shift),
    /// Written over the next one too.
    Repeated,
    /// Changed places with the next one.
    Swapped,
    /// Written over the same place in the segment behind, or before.
    Copied(SegmentId),
}

impl Surgery {
    const IN_PLACE: [Surgery; 5] = [
        Surgery::Zeroed,
        Surgery::Dropped(Shift::Batch),
        Surgery::Doubled(Shift::Batch),
        Surgery::Repeated,
        Surgery::Swapped,
    ];
    const MOVING: [Surgery; 2] = [Surgery::Dropped(Shift::File), Surgery::Doubled(Shift::File)];

    /// Returns where the first change is; `None` if nothing changes.
    fn perform(
        self,
        whole: &Whole,
        damaged: &mut MemoryStorage,
        piece: Place,
        next: Place,
    ) -> Option<(SegmentId, usize)> {
        let (from, len) = (piece.offset as usize, piece.len as usize);
        let bytes = &whole.bytes(piece.segment)[from..from + len];
        let mut target = piece.segment;
        let follows = next.segment == piece.segment && next.offset == piece.offset + len as u64;
        let both = from..from + len + if follows { next.len as usize } else { 0 };
        match self {
            Surgery::Zeroed => damaged.file_mut(target)[from..from + len].fill(0),
            Surgery::Dropped(shift) | Surgery::Doubled(shift) => {
                let file = damaged.file_mut(target);
                let end = if shift == Shift::Batch { whole.batch_end(piece) } else { file.len() };
                let mut moved = file[from..end].to_vec();
                match self {
                    Surgery::Dropped(_) => drop(moved.drain(..len)),
                    _ => drop(moved.splice(0..0, bytes.iter().copied())),
                }
                if shift == Shift::Batch {
                    moved.resize(end - from, 0);
                }
                drop(file.splice(from..end, moved));
            }
            Surgery::Repeated if follows => {
                let file = damaged.file_mut(target);
                let end = from + 2 * len;
                file.resize(file.len().max(end), 0);
                file[from + len..end].copy_from_slice(bytes);
            }
            Surgery::Swapped if follows => damaged.file_mut(target)[both].rotate_left(len),
            Surgery::Copied(segment) if segment != target => {
                target = segment;
                let file = damaged.file_mut(segment);
                file.resize(file.len().max(from + len), 0);
                file[from..from + len].copy_from_slice(bytes);
            }
            _ => return None,
        }
        let (before, after) = (whole.bytes(target), &*damaged.file_mut(target));
        let changed = before.iter().zip(after).position(|(a, b)| a != b);
        let longer = (before.len() != after.len()).then_some(before.len().min(after.len()));
        changed.or(longer).map(|at| (target, at))
    }
}

/// Performs every surgery on every piece, and asks `judge` about what it leaves.
fn operate(
    pieces: &[Place],
    surgeries: &[Surgery],
    judge: impl Fn(&MemoryStorage, SegmentId, usize, &dyn Fn() -> String) -> bool + Sync,
) -> u64 {
    let whole = whole();
    in_parallel(pieces.len() - 1, |range| {
        let mut reported = 0;
        for index in range {
            let (piece, next) = (pieces[index], pieces[index + 1]);
            for surgery in surgeries {
                let mut damaged = whole.storage.clone();
                let Some((id, at)) = surgery.perform(whole, &mut damaged, piece, next) else {
                    continue;
                };
                let what = || format!("{surgery:?} {piece:?}");
                reported += u64::from(judge(&damaged, id, at, &what));
            }
        }
        reported
    })
}

/// Those that leave everything else where it is, copies over the other segments among them.
fn in_place() -> Vec<Surgery> {
    let copies = whole().segments().into_iter().map(|(id, _)| Surgery::Copied(id));
    Surgery::IN_PLACE.into_iter().chain(copies).collect()
}

/// G7. Batches dropped, doubled, swapped, zeroed, or written where another segment has one.
#[test]
fn g7_every_batch_out_of_place_is_reported() {
    let whole = whole();
    let places: Vec<Place> = whole.batches.iter().map(|(place, _)| *place).collect();
    let mut surgeries = in_place();
    surgeries.extend(Surgery::MOVING);
    let reported = operate(&places, &surgeries, |damaged, id, at, what| {
        reported_unless_unproven(whole, damaged, id, at, what)
    });
    assert!(reported > 300, "{reported}");
}

/// G7. The same of records, within their batches and over others'.
#[test]
fn g7_every_record_out_of_place_is_reported() {
    let whole = whole();
    let reported = operate(&whole.places, &in_place(), |damaged, id, at, what| {
        reported_unless_unproven(whole, damaged, id, at, what)
    });
    assert!(reported > 5_000, "{reported}");
}

/// G7. A record dropped from a file or doubled in it, which moves everything behind it. A sealed
/// segment is damaged then. Where the log ends no guard is at its own place any more behind the record,
/// so that no watermark proves anything there: that may look like a torn tail, and is counted as one.
#[test]
fn g7_records_that_move_a_file_are_reported_or_torn() {
    let whole = whole();
    let open = whole.unproven_from().0;
    let reported = operate(&whole.places, &Surgery::MOVING, |damaged, id, _, what| {
        let verdict = read(whole, damaged, what);
        let torn = id == open && verdict.scanned.torn_tail_bytes > 0;
        assert!(verdict.corrupt || torn, "{}: {verdict:?}", what());
        verdict.corrupt
    });
    assert!(reported > 1_900, "{reported}");
}

/// G10. A damaged log is not opened, and not touched: nothing that is built on it could contradict
/// what it hides. What is told behind the damage is told behind a hole.
#[test]
fn g10_a_damaged_log_is_told_up_to_holes_and_never_opened() {
    let whole = whole();
    let mut behind_a_hole = 0;
    for (place, guard) in &whole.batches {
        let mut damaged = whole.storage.clone();
        damaged.file_mut(place.segment)[place.offset as usize + 30] ^= 4;
        let untouched = damaged.clone();
        let what = || format!("{place:?}");
        let verdict = read(whole, &damaged, &what);
        assert!(verdict.corrupt, "{}", what());
        assert_eq!(verdict.records, RECORDS - u64::from(guard.records), "{}", what());
        assert_eq!(verdict.scanned.corrupted_records, u64::from(guard.records), "{}", what());
        let hole = &verdict.scanned.corruption[0];
        assert_eq!((hole.segment, hole.offset), (Some(place.segment), place.offset));
        assert_eq!(hole.last_sequence_before.next(), guard.first);
        behind_a_hole += u64::from(guard.records > 0 && verdict.to_the_end);
        for mode in [OpenMode::Exclusive, OpenMode::TakeOver] {
            match wal_core::open(&mut damaged, &config(), mode, 1, Time::ZERO, &mut ()) {
                Err(OpenError::Corrupt(scanned)) => assert!(scanned.is_corrupt()),
                other => panic!("{}: {mode:?}: {:?}", what(), other.map(drop)),
            }
            let touched = untouched.files().any(|(id, bytes)| damaged.file_mut(id) != bytes);
            // A take-over leaves the end to its second reading, after its claim.
            let claimed =
                mode == OpenMode::TakeOver && damaged.files().count() > untouched.files().count();
            assert!(
                !touched && (!claimed || place.segment == whole.unproven_from().0),
                "{}",
                what()
            );
            damaged = untouched.clone();
        }
    }
    assert!(behind_a_hole > 30, "{behind_a_hole}");
}

/// Without any header nothing can be verified: damage in every segment, not another kind of file.
#[test]
fn a_log_without_any_header_is_still_known() {
    let whole = whole();
    let mut damaged = whole.storage.clone();
    for (id, _) in whole.segments() {
        damaged.file_mut(id)[..2 * SECTOR].fill(0);
    }
    let verdict = read(whole, &damaged, &|| "no header".to_owned());
    assert!(verdict.corrupt && verdict.records == 0);
    let places: Vec<_> = verdict.scanned.corruption.iter().map(|c| (c.segment, c.what)).collect();
    for (id, _) in whole.segments() {
        assert!(places.contains(&(Some(id), Damage::BatchesWithoutHeader)), "{places:?}");
    }
}
