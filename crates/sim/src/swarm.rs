//! Swarm testing: each seed leaves some kinds of fault out and draws how strong the others are, so that
//! one kind does not hide what another would find.
//!
//! What is drawn is a function of the seed and of the setting's name: one more that varies moves no other.

use crate::disk::Fates;
use crate::scenario::{Chaos, Disk, Network, Share};
use base::Ratio;
use base::prng::Key;
use serde::Deserialize;
use toml::Spanned;

/// `[swarm]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Swarm {
    /// Which settings vary, by their names, such as `network.loss`, or all of a kind: `network.*`.
    pub vary: Vec<Spanned<String>>,
}

/// What can vary.
pub const NAMES: [&str; 27] = [
    "network.loss",
    "network.duplicate",
    "network.reorder",
    "disk.lost_unsynced",
    "disk.torn",
    "faults.coordinator_crashes",
    "faults.participant_crashes",
    "faults.compaction_crashes",
    "faults.process_crashes",
    "faults.zombies",
    "faults.pauses",
    "faults.partitions",
    "faults.drops",
    "faults.heals",
    "faults.sync_errors",
    "faults.write_errors",
    "faults.read_errors",
    "faults.disks_full",
    "faults.stalls",
    "faults.bit_rot",
    "faults.clock_jumps",
    "faults.zeroed_sectors",
    "faults.stale_sectors",
    "faults.misdirected_writes",
    "faults.clogs",
    "faults.recovery_sync_errors",
    "faults.logs_confined",
];

/// All of a kind.
pub const KINDS: [&str; 3] = ["network.*", "disk.*", "faults.*"];

impl Swarm {
    /// Hundredths of a setting's strength that a seed is left with; 100 if it does not vary.
    fn strength(&self, seed: u64, name: &str) -> u32 {
        let named = |entry: &Spanned<String>| {
            let entry = entry.get_ref().as_str();
            entry == name || entry.strip_suffix('*').is_some_and(|kind| name.starts_with(kind))
        };
        if !self.vary.iter().any(named) {
            return 100;
        }
        let draw = Key::root(seed).child("swarm").child(name).draw(0, 0);
        if draw.nth(1).below(2) == 0 { 0 } else { draw.nth(2).between(1, 100) as u32 }
    }

    /// The network of a seed.
    #[must_use]
    pub fn network(&self, network: &Network, seed: u64) -> Network {
        let share = |share: Share, name| {
            let parts = u64::from(share.0.parts_per_million());
            let parts = (parts * u64::from(self.strength(seed, name))).div_ceil(100);
            Share(Ratio::per_million(parts as u32))
        };
        Network {
            loss: share(network.loss, "network.loss"),
            duplicate: share(network.duplicate, "network.duplicate"),
            reorder: share(network.reorder, "network.reorder"),
            ..network.clone()
        }
    }

    /// What a seed's disks do to what is unsynced when the power fails.
    #[must_use]
    pub fn fates(&self, disk: &Disk, seed: u64) -> Fates {
        let fates = disk.fates();
        let torn = self.strength(seed, "disk.torn");
        Fates {
            lost: fates.lost && self.strength(seed, "disk.lost_unsynced") > 0,
            // Of the two ways to be torn a strong one has both.
            cut: fates.cut && torn > 0,
            torn: fates.torn && (torn > 50 || torn > 0 && !fates.cut),
        }
    }

    /// How many faults of each kind are drawn for a seed.
    #[must_use]
    pub fn chaos(&self, chaos: &Chaos, seed: u64) -> Chaos {
        let mut chaos = chaos.clone();
        for (name, count) in [
            ("faults.coordinator_crashes", &mut chaos.coordinator_crashes),
            ("faults.participant_crashes", &mut chaos.participant_crashes),
            ("faults.compaction_crashes", &mut chaos.compaction_crashes),
            ("faults.process_crashes", &mut chaos.process_crashes),
            ("faults.zombies", &mut chaos.zombies),
            ("faults.pauses", &mut chaos.pauses),
            ("faults.partitions", &mut chaos.partitions),
            ("faults.drops", &mut chaos.drops),
            ("faults.heals", &mut chaos.heals),
            ("faults.sync_errors", &mut chaos.sync_errors),
            ("faults.write_errors", &mut chaos.write_errors),
            ("faults.read_errors", &mut chaos.read_errors),
            ("faults.disks_full", &mut chaos.disks_full),
            ("faults.stalls", &mut chaos.stalls),
            ("faults.bit_rot", &mut chaos.bit_rot),
            ("faults.clock_jumps", &mut chaos.clock_jumps),
            ("faults.zeroed_sectors", &mut chaos.zeroed_sectors),
            ("faults.stale_sectors", &mut chaos.stale_sectors),
            ("faults.misdirected_writes", &mut chaos.misdirected_writes),
            ("faults.clogs", &mut chaos.clogs),
            ("faults.recovery_sync_errors", &mut chaos.recovery_sync_errors),
            ("faults.logs_confined", &mut chaos.logs_confined),
        ] {
            let strength = u64::from(self.strength(seed, name));
            *count = (u64::from(*count) * strength).div_ceil(100) as u32;
        }
        chaos.recovery_crashes = chaos.recovery_crashes.min(chaos.coordinator_crashes);
        chaos
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::scenario::Scenario;
    use std::collections::BTreeSet;

    const TEXT: &str = "format = 1\nname = \"s\"\n[cluster]\nnodes = 3\n[workload]\nkind = \"saga\"\n\
                        operations = 1\n[network]\nloss = \"10%\"\n[chaos]\nzombies = 4\npauses = 4\n";

    fn scenario(vary: &str) -> Scenario {
        Scenario::parse("s", &format!("{TEXT}[swarm]\nvary = [{vary}]\n"))
            .expect("it is a scenario")
    }

    #[test]
    fn each_seed_draws_what_goes_wrong_and_how_much_of_it() {
        let varied = scenario("\"network.*\", \"faults.zombies\"");
        let (mut losses, mut zombies) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..100 {
            let network = varied.swarm.network(&varied.network, seed);
            losses.insert(network.loss.0.parts_per_million());
            let chaos = varied.swarm.chaos(&varied.chaos, seed);
            zombies.insert(chaos.zombies);
            assert_eq!((chaos.pauses, network.latency), (4, varied.network.latency));
            assert_eq!(Plan::generate(&varied, seed).faults.len() as u32, chaos.zombies + 4);
        }
        assert!(losses.contains(&0) && losses.len() > 20, "{losses:?}");
        assert_eq!(zombies, BTreeSet::from([0, 1, 2, 3, 4]));
    }

    #[test]
    fn one_more_that_varies_moves_no_other() {
        let (one, two) = (scenario("\"faults.zombies\""), scenario("\"faults.*\""));
        for seed in 0..100 {
            let zombies = |of: &Scenario| of.swarm.chaos(&of.chaos, seed).zombies;
            assert_eq!(zombies(&one), zombies(&two));
        }
    }

    #[test]
    fn every_name_stands_for_a_setting() {
        for name in NAMES.iter().chain(&KINDS) {
            scenario(&format!("\"{name}\""));
        }
        let strange = Scenario::parse("s", &format!("{TEXT}[swarm]\nvary = [\"network.los\"]\n"));
        assert!(strange.unwrap_err().to_string().contains("network.los"));
    }
}
