//! Where a log ends: one table, over what can be seen at the first offset where no valid batch begins.
//! It is the table of FORMAT.md, "The end", and has its reasons there.

/// What is seen at B, the first offset in the open segment at which no valid batch begins, and behind.
///
/// A condition that cannot be asked (the list of a batch whose head does not verify) is false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    /// Every byte from B on is zero.
    pub all_zero: bool,
    /// A head behind B verifies and its watermark is at least B's sequence: B was synced.
    pub covered: bool,
    /// A head verifies at B.
    pub head: bool,
    /// It has the next sequence and the chain.
    pub in_order: bool,
    /// Byte B or byte B + 57 is zero.
    pub head_edge_zero: bool,
    /// An opening that was cut short may have been writing B again, and the head's part of its first sector,
    /// which is not all of it, ends in a zero.
    pub head_half_rewritten: bool,
    /// The list verifies.
    pub list: bool,
    /// A sector of the list, behind the head's last, is zero within the batch.
    pub list_sector_lost: bool,
    /// The batch is zero from a byte of the list to its end.
    pub cut_in_list: bool,
    /// An opening that was cut short may have been writing B again, and a sector that the list touches
    /// ends in a zero.
    pub list_half_rewritten: bool,
    /// The guard's CRC-32 is right.
    pub crc: bool,
    /// Some sector fails, and every one that does is zero within the batch.
    pub lost_sectors_only: bool,
    /// The batch is zero from some byte to its end, and every failing sector before that byte's is
    /// zero within the batch.
    pub cut: bool,
    /// An opening that was cut short may have been writing B again, and every sector that fails ends in a
    /// zero.
    pub half_rewritten: bool,
}

/// How a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With its last batch.
    Clean,
    /// With a write that a crash has cut short: it was never acknowledged.
    Torn,
    /// Something that was synced, or that no crash leaves, is damaged.
    Corrupt(Reason),
}

/// Why it is corruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Synced,
    OutOfOrder,
    Head,
    List,
    Crc,
    Body,
}

/// A row of the table: when it holds, and what it says.
type Row = (fn(&Conditions) -> bool, End);

/// The rows exclude each other; together they cover everything. The test walks all patterns.
const TABLE: [Row; 15] = [
    (|c| c.all_zero, End::Clean),
    (|c| !c.all_zero && c.covered, End::Corrupt(Reason::Synced)),
    (|c| open(c) && c.head && !c.in_order, End::Corrupt(Reason::OutOfOrder)),
    (|c| open(c) && !c.head && c.head_edge_zero, End::Torn),
    (|c| headless(c) && c.head_half_rewritten, End::Torn),
    (|c| headless(c) && !c.head_half_rewritten, End::Corrupt(Reason::Head)),
    (|c| unlisted(c) && c.list_sector_lost, End::Torn),
    (|c| unlisted(c) && !c.list_sector_lost && c.cut_in_list, End::Torn),
    (|c| unlisted(c) && !list_ends_early(c) && c.list_half_rewritten, End::Torn),
    (|c| unlisted(c) && !list_ends_early(c) && !c.list_half_rewritten, End::Corrupt(Reason::List)),
    (|c| headed(c) && c.list && !c.crc, End::Corrupt(Reason::Crc)),
    (|c| listed(c) && c.lost_sectors_only, End::Torn),
    (|c| listed(c) && !c.lost_sectors_only && c.cut, End::Torn),
    (|c| listed(c) && !c.lost_sectors_only && !c.cut && c.half_rewritten, End::Torn),
    (
        |c| listed(c) && !c.lost_sectors_only && !c.cut && !c.half_rewritten,
        End::Corrupt(Reason::Body),
    ),
];

/// Something is there, and nothing proves that it was synced.
fn open(c: &Conditions) -> bool {
    !c.all_zero && !c.covered
}

/// ... and neither a head, nor one that a write has begun or ended.
fn headless(c: &Conditions) -> bool {
    open(c) && !c.head && !c.head_edge_zero
}

/// ... and the head is the one that was to come.
fn headed(c: &Conditions) -> bool {
    open(c) && c.head && c.in_order
}

/// ... and its list is not as it was written.
fn unlisted(c: &Conditions) -> bool {
    headed(c) && !c.list
}

/// ... as a write that lost a sector or was cut leaves it.
fn list_ends_early(c: &Conditions) -> bool {
    c.list_sector_lost || c.cut_in_list
}

/// ... and so is all that says what the batch was.
fn listed(c: &Conditions) -> bool {
    headed(c) && c.list && c.crc
}

/// Decides by the table.
pub(crate) fn decide(conditions: &Conditions) -> End {
    let row = TABLE.iter().find(|(holds, _)| holds(conditions));
    row.expect("the rows cover every pattern, as the test proves").1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns() -> impl Iterator<Item = Conditions> {
        (0u32..1 << 14).map(|bits| {
            let bit = |at: u32| bits >> at & 1 == 1;
            Conditions {
                all_zero: bit(0),
                covered: bit(1),
                head: bit(2),
                in_order: bit(3),
                head_edge_zero: bit(4),
                list: bit(5),
                list_sector_lost: bit(6),
                cut_in_list: bit(7),
                crc: bit(8),
                lost_sectors_only: bit(9),
                cut: bit(10),
                list_half_rewritten: bit(11),
                half_rewritten: bit(12),
                head_half_rewritten: bit(13),
            }
        })
    }

    #[test]
    fn every_pattern_is_claimed_by_exactly_one_row() {
        let mut claims = [0; TABLE.len()];
        for conditions in patterns() {
            let rows: Vec<_> = (0..TABLE.len()).filter(|&row| TABLE[row].0(&conditions)).collect();
            assert_eq!(rows.len(), 1, "{conditions:?} is claimed by {rows:?}");
            claims[rows[0]] += 1;
        }
        assert!(claims.iter().all(|&n| n > 0), "every row decides something: {claims:?}");
        assert_eq!(claims.iter().sum::<i32>(), 16384);
    }

    /// The rules of the log's specification, "Where a log ends", in their order and not by rows: written
    /// down again from there, so that table and text can be held against each other. Rule 2's sealed
    /// lengths are asked before the table is, and its batches out of order stand at the end of rule 3. What
    /// an opening that was cut short leaves is this format's own addition to (b) and (c).
    fn by_the_rules(c: &Conditions) -> &'static str {
        // 1. Only zeros, or the file's end.
        if c.all_zero {
            return "clean";
        }
        // 2. A head later in the log verifies and has a watermark at or above B's first sequence.
        if c.covered {
            return "corrupt";
        }
        // 3. Nothing proves that B was synced: torn, if
        let torn = match (c.head, c.list) {
            // (a) no head verifies at B, and its first or last byte is zero;
            (false, _) => c.head_edge_zero || c.head_half_rewritten,
            // (b) the head verifies and the list does not, and the write has lost a sector of it, or ends
            // in it;
            (true, false) => c.list_sector_lost || c.cut_in_list || c.list_half_rewritten,
            // (c) head and list verify, and all that fails are sectors that were never written; or (d) the
            // write ends early, and so much fails before. The guard's CRC-32 is over what head and list
            // have proved: no crash makes it alone wrong, so a wrong one is a flipped bit.
            (true, true) => c.crc && (c.lost_sectors_only || c.cut || c.half_rewritten),
        };
        // A head that verifies with the wrong sequence or chain is corruption.
        let misplaced = c.head && !c.in_order;
        // 4. Otherwise: corruption.
        if torn && !misplaced { "torn" } else { "corrupt" }
    }

    #[test]
    fn the_table_says_what_the_rules_say() {
        let mut said = std::collections::BTreeMap::new();
        for conditions in patterns() {
            let by_table = match decide(&conditions) {
                End::Clean => "clean",
                End::Torn => "torn",
                End::Corrupt(_) => "corrupt",
            };
            assert_eq!(by_table, by_the_rules(&conditions), "{conditions:?}");
            *said.entry(by_table).or_insert(0) += 1;
        }
        // Of the 16384 patterns half are zeros, and half of the rest are covered.
        assert_eq!(said["clean"], 8192);
        assert_eq!(said["corrupt"] + said["torn"], 8192);
        assert!(said["torn"] > 100 && said["corrupt"] > 4096, "{said:?}");
    }

    #[test]
    fn what_was_synced_is_never_torn() {
        for conditions in patterns().filter(|c| c.covered && !c.all_zero) {
            assert_eq!(decide(&conditions), End::Corrupt(Reason::Synced));
        }
    }

    #[test]
    fn a_batch_in_the_wrong_place_is_never_torn() {
        for c in patterns().filter(|c| !c.all_zero && c.head && !c.in_order) {
            assert!(matches!(decide(&c), End::Corrupt(_)), "{c:?}");
        }
    }

    #[test]
    fn without_a_zero_nothing_is_torn() {
        for c in patterns() {
            let in_list = c.list_sector_lost || c.cut_in_list || c.list_half_rewritten;
            let in_body = c.lost_sectors_only || c.cut || c.half_rewritten;
            let in_head = c.head_edge_zero || c.head_half_rewritten;
            if !in_head && !in_list && !in_body && !c.all_zero {
                assert!(matches!(decide(&c), End::Corrupt(_)), "{c:?}");
            }
        }
    }
}
