use crate::Units;
use base::{NodeName, Ratio};
use std::time::Duration;

/// How many of how many: two thirds are two of three, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Majority {
    /// So many …
    pub of: u32,
    /// … of so many, or more.
    pub out_of: u32,
}

impl Majority {
    /// Whether `votes` of `cast` are enough. Exactly as many are.
    #[must_use]
    pub const fn reached(self, votes: u32, cast: u32) -> bool {
        votes as u64 * self.out_of as u64 >= cast as u64 * self.of as u64
    }
}

/// The numbers of the network's economy. [`Config::new`] has those of the specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who grants, rewards and reviews: the node that keeps this ledger, or who speaks for it.
    pub authority: NodeName,
    /// What there is, all of it in the treasury at first.
    pub supply: Units,
    /// The smallest stake with which an operator is active: 100.
    pub stake_units_min: Units,
    /// The smallest delegation: 10.
    pub delegation_units_min: Units,
    /// How many may delegate to one operator: 100.
    pub delegators_max: u32,
    /// The operator's part of what its delegators earn: 10 %.
    pub commission: Ratio,
    /// What a failed proof costs, of all that stands behind the operator: 1 %.
    pub slash_failed_proof: Ratio,
    /// What a corrupted shard costs: 5 %.
    pub slash_corruption: Ratio,
    /// Below this score an operator is slashed for it: 0.5.
    pub review_score: Ratio,
    /// What a score just below [`review_score`](Self::review_score) costs: 0.1. The rate rises in a
    /// line …
    pub slash_review_min: Ratio,
    /// … to what a score of zero costs: 0.8.
    pub slash_review_max: Ratio,
    /// An operator is slashed for its score once in this time: 24 h, the half-life of reputation.
    pub review_period: Duration,
    /// How long what was unstaked can still be slashed: 48 h. At least
    /// [`evidence_age_max`](Self::evidence_age_max), lest one can cheat and leave.
    pub unbonding: Duration,
    /// How old a reported offence may be: 24 h.
    pub evidence_age_max: Duration,
    /// How long a request that was done is known by its key: 24 h.
    pub request_kept: Duration,
    /// How long a slash can be disputed: 24 h.
    pub dispute_window: Duration,
    /// How long a dispute can be voted on: 24 h.
    pub voting_window: Duration,
    /// How many distinct votes decide a dispute: 5.
    pub votes_min: u32,
    /// Which part of them has to agree: 2/3.
    pub majority: Majority,
    /// How many slashes of one operator may be undecided: 64.
    pub escrows_max_per_operator: u32,
    /// When voters agree about a score.
    pub agreement: AgreementConfig,
}

/// When distinct voters agree about a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgreementConfig {
    /// How many distinct voters there have to be: 5.
    pub voters_min: u32,
    /// Which part of them has to be near the median: 2/3.
    pub majority: Majority,
    /// How near: 0.2 above or below, inclusive.
    pub band: Ratio,
}

impl Default for AgreementConfig {
    fn default() -> AgreementConfig {
        AgreementConfig {
            voters_min: 5,
            majority: Majority { of: 2, out_of: 3 },
            band: Ratio::percent(20),
        }
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

impl Config {
    /// The specification's numbers.
    #[must_use]
    pub fn new(authority: NodeName, supply: Units) -> Config {
        Config {
            authority,
            supply,
            stake_units_min: Units(100),
            delegation_units_min: Units(10),
            delegators_max: 100,
            commission: Ratio::percent(10),
            slash_failed_proof: Ratio::percent(1),
            slash_corruption: Ratio::percent(5),
            review_score: Ratio::percent(50),
            slash_review_min: Ratio::percent(10),
            slash_review_max: Ratio::percent(80),
            review_period: 24 * HOUR,
            unbonding: 48 * HOUR,
            evidence_age_max: 24 * HOUR,
            request_kept: 24 * HOUR,
            dispute_window: 24 * HOUR,
            voting_window: 24 * HOUR,
            votes_min: 5,
            majority: Majority { of: 2, out_of: 3 },
            escrows_max_per_operator: 64,
            agreement: AgreementConfig::default(),
        }
    }

    /// What a score costs: nothing from [`review_score`](Self::review_score) on, below it a part of
    /// all that stands behind the operator.
    #[must_use]
    pub fn review_rate(&self, score: Ratio) -> Option<Ratio> {
        if score >= self.review_score {
            return None;
        }
        let parts = |ratio: Ratio| u64::from(ratio.parts_per_million());
        let (low, high) = (parts(self.slash_review_min), parts(self.slash_review_max));
        let missing = parts(self.review_score) - parts(score);
        let rate = low + (high - low) * missing / parts(self.review_score);
        Some(Ratio::per_million(u32::try_from(rate).expect("between two ratios")))
    }

    /// # Errors
    /// [`ConfigError`] names what does not go together.
    pub fn check(&self) -> Result<(), ConfigError> {
        let sound = |majority: Majority| majority.of > 0 && majority.of <= majority.out_of;
        if self.unbonding < self.evidence_age_max {
            Err(ConfigError::UnbondingTooShort)
        } else if self.slash_review_min > self.slash_review_max {
            Err(ConfigError::RatesReversed)
        } else if !sound(self.majority) || !sound(self.agreement.majority) {
            Err(ConfigError::NoMajority)
        } else if self.stake_units_min == Units::ZERO || self.delegation_units_min == Units::ZERO {
            Err(ConfigError::NoMinimum)
        } else {
            Ok(())
        }
    }
}

/// Numbers that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// See [`Config::unbonding`].
    #[error("unbonding is shorter than evidence_age_max: an operator could cheat and leave")]
    UnbondingTooShort,
    /// See [`Config::slash_review_min`].
    #[error("slash_review_min is above slash_review_max")]
    RatesReversed,
    /// A majority is above none and at most all.
    #[error("a majority is above zero and at most one")]
    NoMajority,
    /// The minimum of a stake or a delegation is zero.
    #[error("a minimum of zero would let anybody vote: set it to 1 or more")]
    NoMinimum,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_two_thirds_are_a_majority() {
        let two_thirds = Majority { of: 2, out_of: 3 };
        for (votes, cast, reached) in
            [(4, 6, true), (6, 9, true), (3, 5, false), (4, 5, true), (5, 8, false), (2, 3, true)]
        {
            assert_eq!(two_thirds.reached(votes, cast), reached, "{votes} of {cast}");
        }
    }

    #[test]
    fn the_rate_falls_from_four_fifths_to_a_tenth() {
        let config = Config::new(NodeName::numbered(0), Units(1));
        let rate = |percent| config.review_rate(Ratio::percent(percent));
        assert_eq!(rate(0), Some(Ratio::percent(80)));
        assert_eq!(rate(25), Some(Ratio::percent(45)));
        assert_eq!(
            config.review_rate(Ratio::per_million(499_999)),
            Some(Ratio::per_million(100_001))
        );
        assert_eq!(rate(50), None, "a new node is not below");
        assert_eq!(rate(100), None);
    }

    #[test]
    fn numbers_that_do_not_go_together_are_named() {
        let config = Config::new(NodeName::numbered(0), Units(1));
        assert_eq!(config.check(), Ok(()));
        let short = Config { unbonding: Duration::ZERO, ..config.clone() };
        assert_eq!(short.check(), Err(ConfigError::UnbondingTooShort));
        let none = Config { majority: Majority { of: 0, out_of: 3 }, ..config };
        assert_eq!(none.check(), Err(ConfigError::NoMajority));
    }
}
