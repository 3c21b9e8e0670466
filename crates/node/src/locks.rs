use crate::table::Table;
use base::{Sequence, Time};

/// Who holds a lock: a transaction's branch at this node, by the record of its promise.
pub type Holder = Sequence;

/// Grows with every grant of this table: whoever shows a lower one has lost the lock since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(pub u64);

/// A lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// By whom.
    pub holder: Holder,
    /// Under which token.
    pub token: FencingToken,
    /// Until when; `None` once the holder has voted: then until the outcome.
    pub lease_until: Option<Time>,
}

/// The lock is held by somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which lock.
    pub cell: u64,
    /// By whom.
    pub holder: Holder,
}

/// A grant as it is kept: small, since a table holds many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    holder: Holder,
    token: FencingToken,
    /// [`Time::NEVER`] once the holder has voted.
    until: Time,
}

impl Kept {
    fn lapsed(&self, now: Time) -> bool {
        self.until <= now && self.until != Time::NEVER
    }
}

/// Exclusive locks on cells. At most one holder each; what a holder took together is given back
/// together.
///
/// A lock is taken with a lease, so that a branch that never votes does not keep it; the vote turns the
/// lease into a hold that only the outcome ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockTable {
    grants: Table<Kept>,
    last_token: FencingToken,
}

impl LockTable {
    /// Who is in the way of taking these cells now.
    #[must_use]
    pub fn conflict(
        &self,
        now: Time,
        holder: Holder,
        cells: impl Iterator<Item = u64>,
    ) -> Option<Held> {
        for cell in cells {
            if let Some(grant) = self.grants.get(cell)
                && grant.holder != holder
                && !grant.lapsed(now)
            {
                return Some(Held { cell, holder: grant.holder });
            }
        }
        None
    }

    /// True if nobody holds the cell now.
    #[must_use]
    pub fn is_free(&self, now: Time, cell: u64) -> bool {
        self.grants.get(cell).is_none_or(|grant| grant.lapsed(now))
    }

    /// Takes the cells, all or none, until `lease_until`. A lease until [`Time::NEVER`] never lapses.
    ///
    /// # Errors
    /// [`Held`]: somebody else has one of them; nothing was taken.
    pub fn acquire(
        &mut self,
        now: Time,
        holder: Holder,
        cells: impl Iterator<Item = u64> + Clone,
        lease_until: Time,
    ) -> Result<FencingToken, Held> {
        if let Some(held) = self.conflict(now, holder, cells.clone()) {
            return Err(held);
        }
        self.last_token.0 += 1;
        let token = self.last_token;
        let grant = Kept { holder, token, until: lease_until };
        for cell in cells {
            self.grants.insert(cell, grant);
        }
        Ok(token)
    }

    /// The holder has voted: its locks stay until the outcome.
    pub fn hold(&mut self, holder: Holder, cells: impl Iterator<Item = u64>) {
        for cell in cells {
            if let Some(grant) = self.grants.get_mut(cell)
                && grant.holder == holder
            {
                grant.until = Time::NEVER;
            }
        }
    }

    /// As [`acquire`](Self::acquire) and [`hold`](Self::hold) at once: takes the cells, all or none,
    /// until the outcome.
    ///
    /// # Errors
    /// [`Held`]: somebody else has one of them; nothing was taken.
    pub fn acquire_held(
        &mut self,
        now: Time,
        holder: Holder,
        cells: impl Iterator<Item = u64> + Clone,
    ) -> Result<FencingToken, Held> {
        let token = FencingToken(self.last_token.0 + 1);
        let grant = Kept { holder, token, until: Time::NEVER };
        for (taken, cell) in cells.clone().enumerate() {
            match self.grants.get_mut(cell) {
                None => self.grants.insert(cell, grant),
                Some(known) => {
                    if known.holder != holder && !known.lapsed(now) {
                        let held = Held { cell, holder: known.holder };
                        self.release(holder, cells.take(taken));
                        return Err(held);
                    }
                    *known = grant;
                }
            }
        }
        self.last_token = token;
        Ok(token)
    }

    /// Gives back what the holder has of these cells.
    pub fn release(&mut self, holder: Holder, cells: impl Iterator<Item = u64>) {
        for cell in cells {
            if self.grants.get(cell).is_some_and(|grant| grant.holder == holder) {
                self.grants.remove(cell);
            }
        }
    }

    /// Every lock that is held at `now`, in the order of the cells.
    pub fn held(&self, now: Time) -> impl Iterator<Item = (u64, Grant)> {
        self.grants.iter().filter(move |(_, kept)| !kept.lapsed(now)).map(|(cell, kept)| {
            let lease_until = (kept.until != Time::NEVER).then_some(kept.until);
            (cell, Grant { holder: kept.holder, token: kept.token, lease_until })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn holder(id: u64) -> Holder {
        Sequence(id)
    }

    #[test]
    fn a_lock_has_one_holder_and_a_lease_ends_unless_it_is_held() {
        let mut table = LockTable::default();
        let end = Time::ZERO + Duration::from_secs(1);
        let first = table.acquire(Time::ZERO, holder(1), [1, 2].into_iter(), end).unwrap();
        let refused = table.acquire(Time::ZERO, holder(2), [3, 2].into_iter(), end);
        assert_eq!(refused, Err(Held { cell: 2, holder: holder(1) }));
        assert!(table.is_free(Time::ZERO, 3), "all or none");

        // The lease of a branch that never voted lapses, and the next grant's token is higher.
        assert!(table.is_free(end, 2));
        let second = table.acquire(end, holder(2), [2].into_iter(), end).unwrap();
        assert!(second > first);

        // A vote keeps its locks for as long as it takes.
        table.hold(holder(2), [2].into_iter());
        assert!(!table.is_free(Time::NEVER, 2));
        table.release(holder(1), [2].into_iter());
        assert!(!table.is_free(Time::NEVER, 2), "only its holder gives a lock back");
        table.release(holder(2), [2].into_iter());
        assert_eq!(table.held(end).count(), 0);
    }

    #[test]
    fn what_is_taken_and_held_at_once_is_taken_whole_or_not_at_all() {
        let mut table = LockTable::default();
        table.acquire_held(Time::ZERO, holder(1), [2, 3].into_iter()).unwrap();
        assert!(!table.is_free(Time::NEVER, 2));
        let refused = table.acquire_held(Time::NEVER, holder(2), [1, 3, 4].into_iter());
        assert_eq!(refused, Err(Held { cell: 3, holder: holder(1) }));
        let held: Vec<u64> = table.held(Time::ZERO).map(|(cell, _)| cell).collect();
        assert_eq!(held, [2, 3]);
    }
}
