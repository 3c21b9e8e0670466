use base::NodeName;
use std::collections::BTreeMap;

/// Where on earth a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they are the names of regions")]
pub enum Region {
    UsEast,
    UsWest,
    EuWest,
    EuEast,
    AsiaEast,
    AsiaSouth,
    Oceania,
    SouthAmerica,
    Africa,
}

/// How close two nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Locality {
    /// In one region.
    Same,
    /// In regions at most [`Topology::NEAR_MS_MAX`] apart.
    Near,
    /// Farther.
    Far,
}

impl Region {
    /// All of them, in the order of the specification.
    pub const ALL: [Region; 9] = [
        Region::UsEast,
        Region::UsWest,
        Region::EuWest,
        Region::EuEast,
        Region::AsiaEast,
        Region::AsiaSouth,
        Region::Oceania,
        Region::SouthAmerica,
        Region::Africa,
    ];

    /// Its name in the specification, such as `"us_east"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Region::UsEast => "us_east",
            Region::UsWest => "us_west",
            Region::EuWest => "eu_west",
            Region::EuEast => "eu_east",
            Region::AsiaEast => "asia_east",
            Region::AsiaSouth => "asia_south",
            Region::Oceania => "oceania",
            Region::SouthAmerica => "south_america",
            Region::Africa => "africa",
        }
    }

    /// Milliseconds from here to there, by the specification's matrix; 0 within a region.
    #[must_use]
    pub const fn latency_ms(self, to: Region) -> u32 {
        LATENCY_MS[self as usize][to as usize]
    }

    /// How close the other region is.
    #[must_use]
    pub fn locality(self, to: Region) -> Locality {
        if self == to {
            Locality::Same
        } else if self.latency_ms(to) <= Topology::NEAR_MS_MAX {
            Locality::Near
        } else {
            Locality::Far
        }
    }
}

const LATENCY_MS: [[u32; 9]; 9] = [
    [0, 60, 80, 100, 180, 200, 220, 120, 160],
    [60, 0, 140, 160, 120, 180, 140, 160, 200],
    [80, 140, 0, 30, 200, 140, 260, 180, 100],
    [100, 160, 30, 0, 160, 120, 240, 200, 80],
    [180, 120, 200, 160, 0, 80, 100, 240, 220],
    [200, 180, 140, 120, 80, 0, 140, 220, 140],
    [220, 140, 260, 240, 100, 140, 0, 280, 260],
    [120, 160, 180, 200, 240, 220, 280, 0, 200],
    [160, 200, 100, 80, 220, 140, 260, 200, 0],
];

/// Which node is where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    regions: BTreeMap<NodeName, Region>,
}

impl Topology {
    /// Regions up to this far apart are near each other: 100 ms.
    pub const NEAR_MS_MAX: u32 = 100;

    /// The node is there, whatever was said before.
    pub fn place(&mut self, node: NodeName, region: Region) {
        self.regions.insert(node, region);
    }

    /// The node is nowhere any more.
    pub fn remove(&mut self, node: NodeName) {
        self.regions.remove(&node);
    }

    /// Where the node is.
    #[must_use]
    pub fn region(&self, node: NodeName) -> Option<Region> {
        self.regions.get(&node).copied()
    }

    /// Milliseconds between two nodes by their regions; `None` if one is nowhere.
    #[must_use]
    pub fn latency_ms(&self, one: NodeName, two: NodeName) -> Option<u32> {
        Some(self.region(one)?.latency_ms(self.region(two)?))
    }

    /// How many nodes are in each region that has any.
    #[must_use]
    pub fn census(&self) -> BTreeMap<Region, u32> {
        let mut census = BTreeMap::new();
        for region in self.regions.values() {
            *census.entry(*region).or_default() += 1;
        }
        census
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_is_symmetric_and_zero_only_within_a_region() {
        for (at, one) in Region::ALL.into_iter().enumerate() {
            assert_eq!(one as usize, at);
            for two in Region::ALL {
                assert_eq!(one.latency_ms(two), two.latency_ms(one));
                assert_eq!(one.latency_ms(two) == 0, one == two);
            }
        }
        // A few of the specification's, by name.
        assert_eq!(Region::EuWest.latency_ms(Region::EuEast), 30);
        assert_eq!(Region::SouthAmerica.latency_ms(Region::Oceania), 280);
        assert_eq!(Region::UsEast.locality(Region::EuEast), Locality::Near);
        assert_eq!(Region::UsEast.locality(Region::SouthAmerica), Locality::Far);
    }
}
