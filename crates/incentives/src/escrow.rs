use crate::config::{Config, Majority};
use crate::event::Cause;
use crate::{Account, EscrowId, Units};
use base::{NodeName, Sequence, Time};
use std::collections::BTreeMap;

/// A slash that nobody has decided about: what it took is held.
///
/// It always ends. Undisputed it is upheld at its deadline. Disputed it ends as soon as enough
/// distinct voters have voted and a majority of them agrees, or at its deadline, when it is
/// overturned by such a majority and upheld without one: the evidence stands until voters say that
/// it does not. So a dispute that nobody votes on does not lock anything for ever, and gains
/// nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Escrow {
    pub(crate) operator: NodeName,
    pub(crate) cause: Cause,
    pub(crate) portions: Vec<(Account, Units)>,
    pub(crate) until: Time,
    pub(crate) opened: Sequence,
    pub(crate) dispute: Option<Dispute>,
}

/// What is voted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dispute {
    pub(crate) since: Sequence,
    /// True: uphold.
    pub(crate) votes: BTreeMap<NodeName, bool>,
}

/// How a slash ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What was held is forfeited.
    Uphold,
    /// What was held goes back.
    Overturn,
}

impl Escrow {
    /// Who was slashed.
    #[must_use]
    pub const fn operator(&self) -> NodeName {
        self.operator
    }

    /// Why.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// From which accounts how much was taken.
    #[must_use]
    pub fn portions(&self) -> &[(Account, Units)] {
        &self.portions
    }

    /// How much is held.
    #[must_use]
    pub fn held(&self) -> Units {
        Units(self.portions.iter().map(|(_, units)| units.0).sum())
    }

    /// When it ends at the latest.
    #[must_use]
    pub const fn until(&self) -> Time {
        self.until
    }

    /// Whether the operator disputes it.
    #[must_use]
    pub const fn is_disputed(&self) -> bool {
        self.dispute.is_some()
    }

    /// Votes to uphold, and all votes, by distinct voters.
    #[must_use]
    pub fn votes(&self) -> (u32, u32) {
        let Some(dispute) = &self.dispute else { return (0, 0) };
        let count = |votes: usize| u32::try_from(votes).expect("fewer voters than nodes");
        let uphold = dispute.votes.values().filter(|&&uphold| uphold).count();
        (count(uphold), count(dispute.votes.len()))
    }

    /// How it ends, if it does now.
    #[must_use]
    pub fn verdict(&self, now: Time, config: &Config) -> Option<Verdict> {
        let (uphold, cast) = self.votes();
        decided(uphold, cast, config.votes_min, config.majority)
            .or((self.until <= now).then_some(Verdict::Uphold))
    }
}

/// What the votes alone say.
fn decided(uphold: u32, cast: u32, votes_min: u32, majority: Majority) -> Option<Verdict> {
    if cast == 0 || cast < votes_min {
        return None;
    }
    let (up, down) = (majority.reached(uphold, cast), majority.reached(cast - uphold, cast));
    match (up, down) {
        // A majority of half or less can be reached by both: then the evidence stands.
        (true, _) => Some(Verdict::Uphold),
        (false, true) => Some(Verdict::Overturn),
        (false, false) => None,
    }
}

/// What is at stake behind an operator, seen from one ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stake {
    /// Its own.
    pub own: Units,
    /// Of others.
    pub delegated: Units,
    /// How many others.
    pub delegators: u32,
    /// Its own and of others, on its way back and still to be slashed.
    pub unbonding: Units,
    /// Held in escrow.
    pub escrowed: Units,
}

impl Stake {
    /// All that a slash can reach: what is bonded and what is on its way back.
    #[must_use]
    pub fn at_risk(&self) -> Units {
        Units(self.own.0 + self.delegated.0 + self.unbonding.0)
    }
}

/// Of a bank's slashes: where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EscrowCounts {
    /// Undecided, undisputed.
    pub pending: u64,
    /// Undecided, disputed.
    pub disputed: u64,
    /// Ended: forfeited.
    pub upheld: u64,
    /// Ended: given back.
    pub overturned: u64,
}

/// The slashes that are undecided, by number.
pub type Escrows = BTreeMap<EscrowId, Escrow>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_decide_by_table() {
        let two_thirds = Majority { of: 2, out_of: 3 };
        for (uphold, cast, verdict) in [
            (0, 0, None),
            (4, 4, None),
            (3, 5, None),
            (2, 5, None),
            (4, 5, Some(Verdict::Uphold)),
            (1, 5, Some(Verdict::Overturn)),
            (4, 6, Some(Verdict::Uphold)),
            (2, 6, Some(Verdict::Overturn)),
            (3, 6, None),
            (6, 9, Some(Verdict::Uphold)),
            (3, 9, Some(Verdict::Overturn)),
        ] {
            assert_eq!(decided(uphold, cast, 5, two_thirds), verdict, "{uphold} of {cast}");
        }
    }
}
