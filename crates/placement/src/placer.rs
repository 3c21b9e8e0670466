use crate::{Region, hash_name};
use base::prng::Key;
use base::{NodeName, Ratio, ShardId};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A node where bytes could be, or come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub node: NodeName,
    /// Where.
    pub region: Region,
    /// What is thought of it.
    pub reputation: Ratio,
    /// How much it can store, in bytes. Shards are spread in proportion to it.
    pub capacity_bytes: u64,
    /// How much of that is free.
    pub free_bytes: u64,
}

/// The numbers of placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacerConfig {
    /// How many nodes hold a shard: 3.
    pub replicas: u32,
    /// In how many regions at least: 2.
    pub regions_min: u32,
    /// Below this reputation a node gets nothing: 0.3.
    pub reputation_min: Ratio,
}

impl Default for PlacerConfig {
    fn default() -> PlacerConfig {
        PlacerConfig { replicas: 3, regions_min: 2, reputation_min: Ratio::percent(30) }
    }
}

/// There are not enough nodes or regions for what the policy wants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} of {replicas} nodes in {regions} of {regions_min} regions have room", .nodes.len())]
pub struct Shortfall {
    /// The best that there is.
    pub nodes: Vec<NodeName>,
    /// How many nodes there should be.
    pub replicas: u32,
    /// In how many regions those are that there are.
    pub regions: u32,
    /// In how many they should be.
    pub regions_min: u32,
}

/// Where each shard should be: rendezvous hashing (Thaler and Ravishankar, 1998), weighted by
/// capacity, across regions.
///
/// Everybody who knows the same nodes wants the same places, without asking. When a node comes or
/// goes, only shards that it gets or had are to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placer {
    config: PlacerConfig,
    key: Key,
}

impl Placer {
    /// The placer of a network: all of it uses one key.
    #[must_use]
    pub fn new(config: PlacerConfig, key: &Key) -> Placer {
        Placer { config, key: key.child("placement.rendezvous") }
    }

    /// The nodes that should hold a shard of this many bytes, the most wanted first. Who has it
    /// already needs no room for it.
    ///
    /// # Errors
    /// [`Shortfall`] has the best that there is: too few, or too close together.
    pub fn place(
        &self,
        shard: ShardId,
        bytes: u64,
        candidates: &[Candidate],
        holders: &BTreeSet<NodeName>,
    ) -> Result<Vec<NodeName>, Shortfall> {
        let name = hash_name(&self.key, &shard.0);
        let fits = |candidate: &&Candidate| {
            candidate.reputation >= self.config.reputation_min
                && candidate.capacity_bytes > 0
                && (candidate.free_bytes >= bytes || holders.contains(&candidate.node))
        };
        // By score and place in the list: names and regions stay where they are.
        let mut ranked: Vec<(Reverse<u64>, u32)> = Vec::with_capacity(candidates.len());
        ranked.extend((0u32..).zip(candidates).filter(|(_, it)| fits(it)).map(|(at, it)| {
            let draw = self.key.draw(name, hash_name(&self.key, &it.node.0));
            (Reverse(score(draw.u64(), it.capacity_bytes)), at)
        }));
        let which = |at: u32| {
            let Candidate { node, region, .. } = candidates[at as usize];
            (node, region)
        };
        ranked.sort_unstable_by(|one, two| {
            one.0.cmp(&two.0).then_with(|| which(one.1).cmp(&which(two.1)))
        });
        ranked.dedup_by_key(|(_, at)| which(*at).0);

        let replicas = self.config.replicas as usize;
        let regions_min = (self.config.regions_min as usize).min(replicas);
        let mut nodes = Vec::with_capacity(replicas);
        let mut regions = BTreeSet::new();
        for (node, region) in ranked.iter().map(|(_, at)| which(*at)) {
            // The last places are kept for regions that are still missing.
            let missing = regions_min.saturating_sub(regions.len());
            if nodes.len() + missing < replicas || !regions.contains(&region) {
                nodes.push(node);
                regions.insert(region);
            }
            if nodes.len() == replicas {
                break;
            }
        }
        if nodes.len() == replicas {
            return Ok(nodes);
        }
        // Too few regions: better too close together than too few.
        for (node, region) in ranked.iter().map(|(_, at)| which(*at)) {
            if nodes.len() < replicas && !nodes.contains(&node) {
                nodes.push(node);
                regions.insert(region);
            }
        }
        let Self { config: PlacerConfig { replicas, regions_min, .. }, .. } = *self;
        Err(Shortfall { nodes, replicas, regions: regions.len() as u32, regions_min })
    }
}

/// A draw of a node that has this weight: the highest of many wins in proportion to the weights, if it
/// is weight / -ln(u). The base of the logarithm does not matter.
fn score(draw: u64, weight: u64) -> u64 {
    ((u128::from(weight) << 24) / u128::from(minus_log2(draw))).min(u128::from(u64::MAX)) as u64
}

/// -log2((draw + 1/2) / 2^64), at least 1, in units of 2^-24, by squaring the mantissa for each binary
/// digit.
fn minus_log2(draw: u64) -> u64 {
    let number = (u128::from(draw) << 1) | 1;
    let whole = number.ilog2();
    let mut mantissa = (number << (127 - whole)) >> 64;
    let mut digits = 0u64;
    for _ in 0..24 {
        // A mantissa is in 1..2, in units of 2^-63.
        let square = (mantissa * mantissa) >> 63;
        let carry = square >> 64;
        mantissa = square >> carry;
        digits = digits << 1 | carry as u64;
    }
    ((65 << 24) - (u64::from(whole) << 24 | digits)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for shift in 0..64 {
            for draw in [
                1u64 << shift,
                (1 << shift) | (0x5DEE_CE66_D123_4567 >> (63 - shift)),
                u64::MAX >> shift,
            ] {
                let exact = -((draw as f64 + 0.5) / 2f64.powi(64)).log2();
                let got = minus_log2(draw) as f64 / f64::from(1 << 24);
                assert!((got - exact).abs() < 1e-6, "{draw}: {got} {exact}");
            }
        }
        assert_eq!(minus_log2(u64::MAX), 1);
    }
}
