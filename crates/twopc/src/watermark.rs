use base::OperationId;

/// Which of a coordinator's operations are finished: what a participant keeps for them may go.
///
/// Every id up to the highest is, but for those that are listed as active. So one operation that does
/// not end pins only itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Watermark {
    highest: OperationId,
    /// Ascending, none above the highest.
    active: Vec<OperationId>,
}

impl Watermark {
    /// So many active ids are listed at most. Of a coordinator that has more, the ids from the next one on
    /// do not count as finished yet.
    pub const ACTIVE_MAX: usize = 32;

    /// The watermark of a coordinator that has drawn ids up to `highest`, and of which these are active:
    /// ascending.
    #[must_use]
    pub fn new(highest: OperationId, active: impl Iterator<Item = OperationId>) -> Watermark {
        let mut listed = Vec::new();
        for id in active.take_while(|id| *id <= highest) {
            if listed.len() == Self::ACTIVE_MAX {
                // Whatever is behind it is left open.
                return Watermark { highest: OperationId(id.0 - 1), active: listed };
            }
            listed.push(id);
        }
        Watermark { highest, active: listed }
    }

    /// Whether the operation is finished.
    #[must_use]
    pub fn covers(&self, id: OperationId) -> bool {
        id <= self.highest && self.active.binary_search(&id).is_err()
    }

    /// Whether it says no less than another one of the same coordinator, which only ever finishes more.
    #[must_use]
    pub fn is_newer_than(&self, other: &Watermark) -> bool {
        let rank = |mark: &Watermark| (mark.highest, std::cmp::Reverse(mark.active.len()));
        rank(self) > rank(other)
    }

    /// The highest id that may be finished.
    #[must_use]
    pub fn highest(&self) -> OperationId {
        self.highest
    }

    /// The ids up to there that are not.
    #[must_use]
    pub fn active(&self) -> &[OperationId] {
        &self.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_active_or_not_drawn_is_not_finished() {
        let ids = |ids: &[u64]| ids.iter().copied().map(OperationId).collect::<Vec<_>>();
        let mark = Watermark::new(OperationId(9), ids(&[3, 7, 12]).into_iter());
        let finished: Vec<u64> = (0..20).filter(|id| mark.covers(OperationId(*id))).collect();
        assert_eq!(finished, [0, 1, 2, 4, 5, 6, 8, 9]);
        let later = Watermark::new(OperationId(9), ids(&[7]).into_iter());
        assert!(later.is_newer_than(&mark) && !mark.is_newer_than(&later));
        assert!(!mark.is_newer_than(&mark));
        let many = (1..100).map(|id| OperationId(2 * id));
        let mark = Watermark::new(OperationId(500), many);
        assert_eq!(mark.active().len(), Watermark::ACTIVE_MAX);
        assert!(mark.covers(OperationId(65)) && !mark.covers(OperationId(66)));
        assert!(!mark.covers(OperationId(67)), "behind the first that is not listed");
    }
}
