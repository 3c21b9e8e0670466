use crate::config::AgreementConfig;
use base::{NodeName, Ratio};
use std::collections::BTreeMap;

/// What one node says about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Who says it: whoever the message came from, never what it claims.
    pub voter: NodeName,
    /// From 0, never holds what it promises, to 1.
    pub score: Ratio,
}

/// What distinct voters agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The median; of an even number of scores the lower of the two in the middle.
    pub score: Ratio,
    /// How many distinct voters there were.
    pub voters: u32,
    /// How many of them were within the band.
    pub near: u32,
}

/// There is no agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Disagreement {
    /// Wait for more.
    #[error("{voters} distinct voters of at least {needed}")]
    TooFewVoters {
        /// How many there were.
        voters: u32,
        /// How many there have to be.
        needed: u32,
    },
    /// Too many are too far from the median.
    #[error("{near} of {voters} voters are near the median")]
    Apart {
        /// How many are near.
        near: u32,
        /// How many there were.
        voters: u32,
    },
}

/// The median of distinct voters, if enough of them are near it.
///
/// A voter counts once, with the first score that it gave: one voter five times is one voter. The
/// median makes what a minority says worth no more than its direction.
///
/// # Errors
/// [`Disagreement`] says what is missing.
pub fn agree(
    opinions: impl IntoIterator<Item = Opinion>,
    config: &AgreementConfig,
) -> Result<Agreed, Disagreement> {
    let mut scores: BTreeMap<NodeName, Ratio> = BTreeMap::new();
    for opinion in opinions {
        scores.entry(opinion.voter).or_insert(opinion.score);
    }
    let voters = u32::try_from(scores.len()).expect("fewer voters than nodes");
    if voters < config.voters_min.max(1) {
        return Err(Disagreement::TooFewVoters { voters, needed: config.voters_min.max(1) });
    }
    let mut sorted: Vec<Ratio> = scores.into_values().collect();
    sorted.sort_unstable();
    let score = sorted[(sorted.len() - 1) / 2];
    let apart = |other: Ratio| other.parts_per_million().abs_diff(score.parts_per_million());
    let near = sorted.iter().filter(|&&other| apart(other) <= config.band.parts_per_million());
    let near = u32::try_from(near.count()).expect("at most as many as voters");
    if config.majority.reached(near, voters) {
        Ok(Agreed { score, voters, near })
    } else {
        Err(Disagreement::Apart { near, voters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(scores: &[(u64, u32)]) -> Result<Agreed, Disagreement> {
        let opinion = |&(voter, percent)| Opinion {
            voter: NodeName::numbered(voter),
            score: Ratio::percent(percent),
        };
        agree(scores.iter().map(opinion), &AgreementConfig::default())
    }

    #[test]
    fn one_voter_five_times_is_one() {
        let alone = check(&[(1, 0), (1, 0), (1, 0), (1, 0), (1, 0)]);
        assert_eq!(alone, Err(Disagreement::TooFewVoters { voters: 1, needed: 5 }));
        // Nor does whoever repeats itself move the median.
        let loud = [(1, 0), (1, 0), (1, 0), (1, 0), (2, 70), (3, 75), (4, 80), (5, 85)];
        let agreed = check(&loud).unwrap();
        assert_eq!((agreed.score, agreed.voters), (Ratio::percent(75), 5));
    }

    #[test]
    fn exactly_two_thirds_agree() {
        // 6 of 9 within 0.2 of the median, both ends included.
        let scores = [10, 20, 21, 40, 50, 60, 60, 60, 90];
        let voters: Vec<(u64, u32)> = (1..).zip(scores).collect();
        assert_eq!(check(&voters), Err(Disagreement::Apart { near: 5, voters: 9 }));
        let scores = [10, 20, 30, 40, 50, 60, 70, 90, 90];
        let voters: Vec<(u64, u32)> = (1..).zip(scores).collect();
        assert_eq!(check(&voters), Err(Disagreement::Apart { near: 5, voters: 9 }));
        let scores = [10, 20, 30, 40, 50, 60, 60, 70, 90];
        let voters: Vec<(u64, u32)> = (1..).zip(scores).collect();
        let agreed = check(&voters).unwrap();
        assert_eq!(agreed, Agreed { score: Ratio::percent(50), voters: 9, near: 6 });
    }

    #[test]
    fn a_minority_of_liars_moves_the_median_by_one_honest_voter() {
        let agreed = check(&[(1, 0), (2, 0), (3, 80), (4, 82), (5, 84), (6, 86), (7, 88)]);
        assert_eq!(agreed.unwrap().score, Ratio::percent(82));
    }
}
