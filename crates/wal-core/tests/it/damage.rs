//! G7-G10: what is damaged is reported, and no other record ever takes a record's place.

use std::collections::BTreeMap;

use base::{Sequence, Time};
use wal_core::{
    Damage, DiskOp, EventType, Guard, MemoryStorage, OpenError, Place, Record, ScanConfig,
    ScanError, Scanned, SegmentId, Storage, Visitor,
};

use crate::support::{Choices, SECTOR, config, open, payload, scan};

/// Records by sequence, and where batches and holes are.
#[derive(Default)]
struct Found {
    records: BTreeMap<u64, (u8, i64, Vec<u8>)>,
    batches: Vec<(Place, Guard)>,
    holes: usize,
}

impl Visitor for Found {
    fn record(&mut self, record: &Record<'_>, _: Place) {
        let value = (record.event.0, record.timestamp_ms, record.payload.to_vec());
        let before = self.records.insert(record.sequence.0, value);
        assert_eq!(before, None, "a sequence is told once");
    }
    fn guard(&mut self, guard: &Guard, place: Place) {
        self.batches.push((place, *guard));
    }
    fn hole(&mut self, _: &wal_core::Corruption) {
        self.holes += 1;
    }
}

fn find(storage: &MemoryStorage) -> Result<(Found, Scanned), ScanError> {
    let mut found = Found::default();
    let scanned = wal_core::scan(storage, &ScanConfig::default(), &mut found)?;
    Ok((found, scanned))
}

/// Two segments and a few batches in each.
fn small_log(close: bool) -> MemoryStorage {
    let mut storage = MemoryStorage::new();
    for life in 0..2u64 {
        let (mut log, _, _) = open(&mut storage).unwrap();
        for n in 0..5 {
            let sequence = log.append(EventType::TX_CREATED, -1, &payload(n + life)).unwrap();
            if n != 3 {
                log.force(sequence);
            }
            wal_core::drive(&mut storage, &mut log, Time::ZERO);
        }
        if close {
            wal_core::close(&mut storage, &mut log, Time::ZERO);
        } else if life == 1 {
            let later = Time::ZERO + 2 * config().idle_guard_after;
            wal_core::drive(&mut storage, &mut log, later);
        }
    }
    let (_, scanned) = scan(&storage);
    assert_eq!((scanned.records, scanned.is_corrupt()), (10, false));
    storage
}

/// Whatever was done to the log: what is told is what was written.
fn same_records(whole: &Found, found: &Found) -> bool {
    found.records.iter().all(|(sequence, record)| whole.records.get(sequence) == Some(record))
}

#[test]
fn every_flipped_bit_is_corruption() {
    for close in [true, false] {
        let whole = small_log(close);
        let (all, _) = find(&whole).unwrap();
        let ids: Vec<SegmentId> = whole.files().map(|(id, _)| id).collect();
        let mut seen_behind = 0u32;
        for &id in &ids {
            let mut damaged = whole.clone();
            for at in 0..damaged.file_mut(id).len() {
                for bit in 0..8 {
                    damaged.file_mut(id)[at] ^= 1 << bit;
                    let (found, scanned) = find(&damaged).unwrap();
                    let what = format!("close {close}, {id}, byte {at}, bit {bit}");
                    assert!(scanned.is_corrupt(), "{what}: not seen");
                    assert!(same_records(&all, &found), "{what}");
                    let hides = found.records.len() < all.records.len();
                    assert!(!hides || found.holes > 0, "{what}: hidden without a hole");
                    assert_eq!(scanned.torn_tail_bytes, 0, "{what}");
                    let last = all.records.keys().last();
                    seen_behind += u32::from(hides && found.records.keys().last() == last);
                    damaged.file_mut(id)[at] ^= 1 << bit;
                }
            }
        }
        assert!(seen_behind > 1000, "the scan goes on behind a hole");
    }
}

/// Segments that hold nothing: one was sealed and never used, of the other only the claim is there.
#[test]
fn a_flipped_bit_in_an_empty_segment_is_reported() {
    let mut whole = small_log(true);
    open(&mut whole).unwrap();
    let mut opening =
        wal_core::Opening::scan(&whole, config(), wal_core::OpenMode::Exclusive, &mut ()).unwrap();
    whole.perform_all(&opening.claim(base::Epoch::NONE, 0).unwrap()).unwrap();
    let (all, scanned) = find(&whole).unwrap();
    assert_eq!((scanned.segments, scanned.is_corrupt(), scanned.lost_header_copies), (4, false, 0));
    for id in [SegmentId(3), SegmentId(4)] {
        for at in 0..2 * SECTOR {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged.file_mut(id)[at] ^= 1 << bit;
                let (found, scanned) = find(&damaged).unwrap();
                let reported = scanned.is_corrupt() || scanned.lost_header_copies == 1;
                assert!(reported, "{id}, byte {at}, bit {bit}");
                assert_eq!(found.records, all.records);
            }
        }
    }
}

#[test]
fn two_flipped_bits_are_reported() {
    let whole = small_log(true);
    let (all, _) = find(&whole).unwrap();
    let ids: Vec<SegmentId> = whole.files().map(|(id, _)| id).collect();
    let mut choices = Choices(99);
    let mut damaged = whole.clone();
    for round in 0..60_000 {
        let mut flips = Vec::new();
        for _ in 0..2 {
            let id = ids[choices.below(ids.len())];
            let len = damaged.file_mut(id).len();
            // Half of the time in the headers, where both copies can be hit.
            let at = choices.below(if round % 2 == 0 { 120 } else { len });
            let at = if round % 4 == 0 { at + SECTOR * choices.below(2) } else { at };
            flips.push((id, at, 1u8 << choices.below(8)));
        }
        if flips[0] == flips[1] {
            continue;
        }
        for &(id, at, mask) in &flips {
            damaged.file_mut(id)[at] ^= mask;
        }
        match find(&damaged) {
            Ok((found, scanned)) => {
                assert!(scanned.is_corrupt(), "{flips:?}");
                assert!(same_records(&all, &found), "{flips:?}");
            }
            Err(error) => panic!("{flips:?}: {error}"),
        }
        for &(id, at, mask) in &flips {
            damaged.file_mut(id)[at] ^= mask;
        }
    }
}

#[test]
fn a_cut_file_is_torn_if_nothing_proves_more() {
    let whole = small_log(false);
    let (all, _) = find(&whole).unwrap();
    let ids: Vec<SegmentId> = whole.files().map(|(id, _)| id).collect();
    let (sealed, last) = (ids[0], ids[1]);
    for len in 0..whole.clone().file_mut(last).len() {
        let mut cut = whole.clone();
        cut.file_mut(last).truncate(len);
        let (found, scanned) = find(&cut).unwrap();
        assert!(same_records(&all, &found));
        assert!(!scanned.is_corrupt(), "cut to {len}: {:?}", scanned.corruption);
        let next = found.records.len() as u64;
        assert!(found.records.keys().copied().eq(1..=next), "a prefix");
    }
    for len in 0..whole.clone().file_mut(sealed).len() {
        let mut cut = whole.clone();
        cut.file_mut(sealed).truncate(len);
        let (found, scanned) = find(&cut).unwrap();
        assert!(same_records(&all, &found));
        assert!(scanned.is_corrupt(), "sealed, cut to {len}");
        assert!(matches!(open(&mut cut), Err(OpenError::Corrupt(_))));
    }
}

#[test]
fn a_zeroed_sector_below_the_watermark_is_corruption() {
    let whole = small_log(true);
    let (all, whole_scanned) = find(&whole).unwrap();
    let (last, end) = whole_scanned.end.unwrap();
    for (id, bytes) in whole.files() {
        for sector in 0..bytes.len().div_ceil(SECTOR) {
            let mut damaged = whole.clone();
            let file = damaged.file_mut(id);
            let to = ((sector + 1) * SECTOR).min(file.len());
            if file[sector * SECTOR..to].iter().all(|b| *b == 0) {
                continue; // A payload of zeros.
            }
            file[sector * SECTOR..to].fill(0);
            let (found, scanned) = find(&damaged).unwrap();
            assert!(same_records(&all, &found));
            // Of a clean close only the very last guard is proved by nothing behind it.
            let last_guard = all.batches.last().unwrap().0.offset;
            let tail = id == last && (sector * SECTOR) as u64 >= last_guard;
            assert!(scanned.is_corrupt() || tail, "{id} sector {sector}");
            assert_eq!(end, last_guard + u64::from(all.batches.last().unwrap().0.len));
            if !scanned.is_corrupt() {
                assert_eq!(found.records, all.records);
            }
        }
    }
}

#[test]
fn a_batch_elsewhere_never_verifies() {
    let ours = small_log(true);
    let other = {
        let mut storage = MemoryStorage::new();
        let opened = wal_core::open(
            &mut storage,
            &config(),
            wal_core::OpenMode::Exclusive,
            0xBAD,
            Time::ZERO,
            &mut (),
        );
        let mut log = opened.unwrap().0;
        for n in 0..5 {
            let sequence = log.append(EventType::SAGA_ABORTED, 0, &payload(n)).unwrap();
            log.force(sequence);
            wal_core::drive(&mut storage, &mut log, Time::ZERO);
        }
        storage
    };
    let (all, _) = find(&ours).unwrap();
    for source in [&ours, &other] {
        let (theirs, _) = find(source).unwrap();
        for (from, _) in &theirs.batches {
            let batch = {
                let mut copy = source.clone();
                let at = from.offset as usize;
                copy.file_mut(from.segment)[at..at + from.len as usize].to_vec()
            };
            for (to, _) in &all.batches {
                let same_place = (to.segment, to.offset) == (from.segment, from.offset);
                if same_place && std::ptr::eq(source, &ours) {
                    continue;
                }
                let mut damaged = ours.clone();
                let segment = to.segment;
                let op = DiskOp::Write { segment, offset: to.offset, bytes: batch.clone() };
                damaged.perform(&op).unwrap();
                let (found, scanned) = find(&damaged).unwrap();
                assert!(same_records(&all, &found), "{from:?} to {to:?}");
                assert!(scanned.is_corrupt(), "{from:?} to {to:?}");
            }
        }
    }
    // A whole segment of another log, or in another place.
    let (first, second) = (SegmentId(1), SegmentId(2));
    for (id, bytes) in [
        (second, other.clone().file_mut(first).clone()),
        (first, other.clone().file_mut(first).clone()),
        (second, ours.clone().file_mut(first).clone()),
    ] {
        let mut damaged = ours.clone();
        *damaged.file_mut(id) = bytes;
        let (found, scanned) = find(&damaged).unwrap();
        assert!(scanned.is_corrupt());
        assert!(same_records(&all, &found) || id == first, "{:?}", found.records);
    }
}

#[test]
fn missing_segments_are_reported() {
    let mut storage = small_log(true);
    for _ in 0..2 {
        let (mut log, _, _) = open(&mut storage).unwrap();
        let sequence = log.append(EventType::TX_CREATED, 0, b"more").unwrap();
        log.force(sequence);
        wal_core::drive(&mut storage, &mut log, Time::ZERO);
    }
    let (all, _) = find(&storage).unwrap();
    for missing in 1..=3 {
        let mut damaged = storage.clone();
        damaged.remove(SegmentId(missing)).unwrap();
        let (found, scanned) = find(&damaged).unwrap();
        assert_eq!(scanned.corruption[0].what, Damage::SegmentsMissing);
        assert!(found.holes > 0 && same_records(&all, &found));
        assert!(found.records.contains_key(&12), "what follows is read");
        assert!(scanned.corrupted_records > 0);
    }
}

#[test]
fn a_hole_has_its_place_and_both_sides_are_told() {
    let whole = small_log(true);
    let (all, _) = find(&whole).unwrap();
    let (place, guard) = all.batches[2];
    let mut damaged = whole.clone();
    damaged.file_mut(place.segment)[place.offset as usize + 40] ^= 1;
    let (found, scanned) = find(&damaged).unwrap();
    let hole = &scanned.corruption[0];
    assert_eq!(scanned.corruption.len(), 1);
    assert_eq!((hole.segment, hole.offset), (Some(place.segment), place.offset));
    assert_eq!(hole.bytes, u64::from(place.len));
    assert_eq!(hole.last_sequence_before, Sequence(guard.first.0 - 1));
    assert_eq!(scanned.corrupted_records, u64::from(guard.records));
    assert_eq!(found.records.len() as u64, 10 - u64::from(guard.records));
    assert!(hole.to_string().contains("0000000000000001.wal offset"));
    match open(&mut damaged) {
        Err(OpenError::Corrupt(scanned)) => assert_eq!(scanned.corruption.len(), 1),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn a_newer_version_is_not_touched() {
    // The claim's checksum is over bytes 0..48 with bytes 12..16 as zero.
    let mut storage = small_log(true);
    let file = storage.file_mut(SegmentId(2));
    for copy in [0, SECTOR] {
        file[copy + 8] = 2;
        let mut claim: Vec<u8> = file[copy..copy + 48].to_vec();
        claim[12..16].fill(0);
        let checksum = crc32c_slow(&claim);
        file[copy + 12..copy + 16].copy_from_slice(&checksum.to_le_bytes());
    }
    let result = wal_core::scan(&storage, &ScanConfig::default(), &mut ());
    assert!(matches!(result, Err(ScanError::NewerFormat { version: 2 })));
    let result = open(&mut storage).map(|_| ());
    assert!(matches!(result, Err(OpenError::Scan(ScanError::NewerFormat { version: 2 }))));
}

/// Bit by bit, from the definition.
fn crc32c_slow(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
fn garbage_is_read_without_panic() {
    let whole = small_log(true);
    let ids: Vec<SegmentId> = whole.files().map(|(id, _)| id).collect();
    let (all, _) = find(&whole).unwrap();
    let mut choices = Choices(5);
    for _ in 0..20_000 {
        let mut damaged = whole.clone();
        for _ in 0..=choices.below(4) {
            let id = ids[choices.below(ids.len())];
            let file = damaged.file_mut(id);
            let len = file.len();
            if len == 0 {
                continue;
            }
            let (from, to) = (choices.below(len), choices.below(len));
            let n = choices.below(700).min(len - from.max(to));
            match choices.below(6) {
                0 => file[from..from + n].fill(0),
                1 => file[from..from + n].fill(0xFF),
                2 => file.copy_within(from..from + n, to),
                3 => file.truncate(from),
                4 => drop(file.drain(from..from + n)),
                _ => {
                    for byte in &mut file[from..from + n] {
                        *byte = choices.below(256) as u8;
                    }
                }
            }
        }
        match find(&damaged) {
            Ok((found, _)) => assert!(same_records(&all, &found)),
            Err(ScanError::NotALog) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Somebody who knows the log's id can make heads that verify: thousands, each of a batch that is
/// not there. It costs time in proportion, no more.
#[test]
fn heads_without_batches_do_not_hang_a_scan() {
    let mut storage = MemoryStorage::new();
    let (mut log, _, _) = open(&mut storage).unwrap();
    for _ in 0..3000 {
        let sequence = log.append(EventType::TX_CREATED, 0, b"").unwrap();
        log.force(sequence);
        wal_core::drive(&mut storage, &mut log, Time::ZERO);
    }
    let ids: Vec<SegmentId> = storage.files().map(|(id, _)| id).collect();
    for id in ids {
        let file = storage.file_mut(id);
        // The first byte of every batch's mark, which is its last eight bytes.
        let marks: Vec<usize> =
            (1024..file.len() - 8).filter(|&at| file[at..at + 8] == [0xDB; 8]).collect();
        for at in marks {
            file[at] ^= 1;
        }
    }
    let (found, scanned) = find(&storage).unwrap();
    assert!(found.records.len() < 3000 && scanned.corruption.len() > 5);
}

#[test]
fn what_is_no_log_is_said_to_be_none() {
    let mut storage = MemoryStorage::new();
    let (_, scanned) = scan(&storage);
    assert_eq!((scanned.records, scanned.segments, scanned.end), (0, 0, None));
    *storage.file_mut(SegmentId(1)) = b"hello, world. ".repeat(100);
    let result = wal_core::scan(&storage, &ScanConfig::default(), &mut ());
    assert!(matches!(result, Err(ScanError::NotALog)));
    assert!(open(&mut storage).is_err());
    *storage.file_mut(SegmentId(1)) = Vec::new();
    let (_, scanned) = scan(&storage);
    assert_eq!((scanned.records, scanned.abandoned_starts), (0, 1));
}

mod stream {
    use super::*;

    fn raw() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for n in 1..=8 {
            let mut payload = payload(n - 1);
            // Else a length's flip would lead to the very record that is forged in the last one.
            payload.insert(0, 1);
            let event = EventType::SAGA_CREATED;
            let record =
                Record { sequence: Sequence(n), event, timestamp_ms: 3, payload: &payload };
            wal_core::encode_record(&record, &mut bytes);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn read(bytes: &[u8]) -> Result<(Found, Scanned), ScanError> {
        let mut found = Found::default();
        let scanned = wal_core::scan_stream(&mut { bytes }, &ScanConfig::default(), &mut found)?;
        Ok((found, scanned))
    }

    #[test]
    fn every_cut_is_a_torn_tail() {
        let (bytes, ends) = raw();
        for cut in 1..bytes.len() {
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            if whole == 0 {
                assert!(matches!(read(&bytes[..cut]), Err(ScanError::NotALog)));
                continue;
            }
            let (found, scanned) = read(&bytes[..cut]).unwrap();
            assert_eq!(found.records.len(), whole, "cut at {cut}");
            assert!(!scanned.is_corrupt(), "cut at {cut}: {:?}", scanned.corruption);
            let torn = (cut - ends[whole]) as u64;
            let zeros_aside = bytes[ends[whole]..cut].iter().rposition(|b| *b != 0);
            assert_eq!(scanned.torn_tail_bytes, zeros_aside.map_or(0, |at| at as u64 + 1));
            assert!(scanned.torn_tail_bytes <= torn);
            let mut zeroed = bytes[..ends[whole]].to_vec();
            zeroed.resize(cut + 3000, 0);
            let (found, scanned) = read(&zeroed).unwrap();
            assert_eq!((found.records.len(), scanned.is_corrupt()), (whole, false));
        }
        let (found, scanned) = read(&[]).unwrap();
        assert_eq!((found.records.len(), scanned.is_corrupt()), (0, false));
        assert!(matches!(read(b"no log at all, whatever it is"), Err(ScanError::NotALog)));
        assert!(matches!(read(&[0; 100]), Err(ScanError::NotALog)));
    }

    #[test]
    fn a_flip_never_makes_another_payload() {
        let (bytes, ends) = raw();
        let (all, _) = read(&bytes).unwrap();
        for at in 0..bytes.len() {
            let record = ends.iter().filter(|end| **end <= at).count() as u64;
            let in_record = at - ends[record as usize - 1];
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                let (found, scanned) = read(&flipped).unwrap();
                // Type and timestamp have no checksum in this format: that is why logs have guards.
                let unprotected = in_record == 4 || (13..21).contains(&in_record);
                if unprotected {
                    continue;
                }
                let last_length = record == 8 && (21..25).contains(&in_record);
                assert!(scanned.is_corrupt() || last_length, "byte {at} bit {bit}");
                assert!(same_records(&all, &found), "byte {at} bit {bit}");
                // A length that runs over the end of the stream hides everything behind it.
                let too_long = in_record == 21 || in_record == 22 || in_record == 23;
                assert!(found.records.len() >= 7 || too_long, "byte {at} bit {bit}");
                assert_eq!(found.holes, usize::from(scanned.is_corrupt()));
            }
        }
    }

    #[test]
    fn a_forged_record_in_a_payload_stays_inside() {
        let mut bytes = Vec::new();
        let mut forged = Vec::new();
        for n in 3..=4 {
            let event = EventType::TX_COMMIT_START;
            let record = Record { sequence: Sequence(n), event, timestamp_ms: 0, payload: b"x" };
            wal_core::encode_record(&record, &mut forged);
        }
        for n in 1..=4 {
            let event = EventType::TX_ABORT_START;
            let payload = if n == 2 { &forged[..] } else { b"plain" };
            let record = Record { sequence: Sequence(n), event, timestamp_ms: 0, payload };
            wal_core::encode_record(&record, &mut bytes);
        }
        let at = bytes.len() - 2 * (29 + 5) - 1;
        bytes[at] ^= 1;
        let (found, scanned) = read(&bytes).unwrap();
        assert_eq!(scanned.corrupted_records, 1);
        assert_eq!(scanned.corruption[0].what, Damage::RecordCrc);
        assert_eq!(found.records.keys().copied().collect::<Vec<_>>(), [1, 3, 4]);
        assert!(found.records.values().all(|r| r.0 == EventType::TX_ABORT_START.0));
    }

    #[test]
    fn garbage_is_read_without_panic() {
        let (bytes, _) = raw();
        let mut choices = Choices(17);
        for _ in 0..20_000 {
            let mut damaged = bytes.clone();
            let (from, to) = (choices.below(bytes.len()), choices.below(bytes.len()));
            let n = choices.below(900).min(bytes.len() - from.max(to));
            match choices.below(4) {
                0 => damaged.copy_within(from..from + n, to),
                1 => drop(damaged.drain(from..from + n)),
                2 => damaged[from..from + n].fill(0),
                _ => damaged[from] ^= choices.below(256) as u8,
            }
            match read(&damaged) {
                Ok(_) | Err(ScanError::NotALog) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// A compacted stream begins with any number: one near the last must not run out of them.
    #[test]
    fn no_number_is_too_high_to_go_on_from() {
        for first in [u64::MAX, u64::MAX - 1, u64::MAX - 2, 1 << 63, (1 << 63) + 1, (1 << 63) - 1] {
            let mut bytes = Vec::new();
            for sequence in [first, first.wrapping_add(1), first.wrapping_add(2)] {
                let (event, payload) = (EventType::CHECKPOINT, &[0; 16]);
                let sequence = Sequence(sequence);
                let record = Record { sequence, event, timestamp_ms: 0, payload };
                wal_core::encode_record(&record, &mut bytes);
            }
            for behind in [&b""[..], &[1; 100], b"WAL!\xF0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", &bytes]
            {
                let bytes = [&bytes, behind].concat();
                match read(&bytes) {
                    Ok((found, _)) => {
                        assert_eq!(found.records.contains_key(&first), first <= 1 << 63);
                    }
                    Err(ScanError::NotALog) => assert!(first > 1 << 63),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}
