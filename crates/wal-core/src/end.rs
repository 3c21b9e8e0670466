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
    /// The list verifies.
    pub list: bool,
    /// A sector of the list, behind the head's last, is zero within the batch.
    pub list_sector_lost: bool,
    /// The batch is zero from a byte of the list to its end.
    pub cut_in_list: bool,
    /// The guard's CRC-32 is right.
    pub crc: bool,
    /// Some sector fails, and every one that does is zero within the batch.
    pub lost_sectors_only: bool,
    /// The batch is zero from some byte to its end, and every failing sector before that byte's is
    /// zero within the batch.
    pub cut: bool,
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
const TABLE: [Row; 12] = [
    (|c| c.all_zero, End::Clean),
    (|c| !c.all_zero && c.covered, End::Corrupt(Reason::Synced)),
    (|c| open(c) && c.head && !c.in_order, End::Corrupt(Reason::OutOfOrder)),
    (|c| open(c) && !c.head && c.head_edge_zero, End::Torn),
    (|c| open(c) && !c.head && !c.head_edge_zero, End::Corrupt(Reason::Head)),
    (|c| headed(c) && !c.list && c.list_sector_lost, End::Torn),
    (|c| headed(c) && !c.list && !c.list_sector_lost && c.cut_in_list, End::Torn),
    (|c| headed(c) && !c.list && !c.list_sector_lost && !c.cut_in_list, End::Corrupt(Reason::List)),
    (|c| headed(c) && c.list && !c.crc, End::Corrupt(Reason::Crc)),
    (|c| headed(c) && c.list && c.crc && c.lost_sectors_only, End::Torn),
    (|c| headed(c) && c.list && c.crc && !c.lost_sectors_only && c.cut, End::Torn),
    (
        |c| headed(c) && c.list && c.crc && !c.lost_sectors_only && !c.cut,
        End::Corrupt(Reason::Body),
    ),
];

/// Something is there, and nothing proves that it was synced.
fn open(c: &Conditions) -> bool {
    !c.all_zero && !c.covered
}

/// ... and the head is the one that was to come.
fn headed(c: &Conditions) -> bool {
    open(c) && c.head && c.in_order
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
        (0u32..1 << 11).map(|bits| {
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
        assert_eq!(claims.iter().sum::<i32>(), 2048);
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
            let zeros = c.head_edge_zero || c.list_sector_lost || c.cut_in_list;
            if !zeros && !c.lost_sectors_only && !c.cut && !c.all_zero {
                assert!(matches!(decide(&c), End::Corrupt(_)), "{c:?}");
            }
        }
    }
}
