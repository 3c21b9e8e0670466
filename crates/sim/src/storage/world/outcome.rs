//! What came out, for those who look from outside.

use super::World;
use crate::storage::judge::Finding;
use crate::storage::report::{Health, Totals};
use base::{NodeName, Time};
use network::StorageNode;
use std::collections::BTreeSet;

impl World<'_> {
    /// A node, if it is up.
    #[must_use]
    pub fn node(&self, node: u32) -> Option<&StorageNode> {
        self.machines.get(node as usize)?.process.as_ref().map(|process| &*process.node)
    }

    /// The time in it.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// What a judge has found.
    #[must_use]
    pub fn finding(&self) -> Option<&Finding> {
        self.judge.finding.as_ref()
    }

    /// The nodes that run, by number.
    pub fn running(&self) -> impl Iterator<Item = (u32, &StorageNode)> {
        let all = (0u32..).zip(&self.machines);
        all.filter_map(|(number, machine)| Some((number, &*machine.process.as_ref()?.node)))
    }

    /// How many nodes there have been.
    #[must_use]
    pub fn all_nodes(&self) -> u64 {
        self.machines.len() as u64
    }

    /// How long syncs of coordinators' logs have taken, of participants' and of the ledger's, in simulated
    /// time.
    #[must_use]
    pub fn flushes(&self) -> &[base::Latency] {
        &self.flushes
    }

    /// Of all bytes that nodes hold under a name: how many are not known to be bad, and how many are.
    #[must_use]
    pub fn shards(&self) -> (u64, u64) {
        let stats = self.nodes().map(|node| node.shards().stats());
        stats.fold((0, 0), |(good, bad), it| (good + it.shards - it.bad, bad + it.bad))
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &StorageNode> {
        self.machines.iter().filter_map(|machine| machine.process.as_ref().map(|p| &*p.node))
    }

    /// What came out so far, and how well the network is by its authority.
    #[must_use]
    pub fn totals(&self) -> (Totals, Option<Health>) {
        let mut totals = self.totals.clone();
        totals.events = self.trace.events();
        totals.simulated = self.now - Time::ZERO;
        totals.files = (self.judge.all_stored().count() as u64, self.compared);
        let gone = self.machines.iter().filter(|machine| machine.gone).count() as u64;
        totals.nodes = (self.nodes().count() as u64, gone);
        for node in self.nodes() {
            let (stats, seen, space) = (node.stats(), node.observed(), node.shards().stats());
            totals.repaired.0 += stats.repaired;
            totals.repaired.1 += stats.gave_up;
            let why = [stats.without_sources, stats.without_place, stats.inconsistent];
            totals.gave_up.iter_mut().zip(why).for_each(|(sum, more)| *sum += more);
            totals.repair_bytes.0 += stats.repair_bytes;
            totals.repair_bytes.1 += stats.repair_bytes_min;
            totals.let_go += stats.let_go;
            add_moves(&mut totals, stats);
            let regret = node.regret();
            totals.regret.0 += regret.choices;
            totals.regret.1 += regret.learned_micros;
            totals.regret.2 += regret.static_micros;
            totals.carried.0 += stats.agreed_bytes;
            totals.disputed.0 += stats.disputed;
            totals.disputed.1 += stats.unconfirmed;
            totals.guarded.0 += stats.guarded;
            totals.guarded.1 += stats.fenced;
            let fetches = node.fetch_stats();
            totals.fetches.0 += fetches.sent;
            totals.fetches.1 += fetches.waited;
            totals.fetches.2 += fetches.refused;
            totals.fetches.3 += fetches.late;
            totals.versions.0 += stats.versions;
            totals.versions.1 += stats.superseded;
            totals.orphans += stats.orphans;
            totals.orphans_shared += stats.orphans_shared;
            totals.given_up += stats.given_up;
            totals.proofs.0 += seen.proofs_ended;
            totals.proofs.1 += seen.proofs_passed;
            totals.checked.0 += seen.shards_checked;
            totals.checked.1 += seen.shards_corrupt;
            totals.space.0 += space.used_bytes;
            totals.space.1 += space.capacity_bytes;
        }
        let regions: BTreeSet<u32> = (0..self.machines.len() as u32)
            .filter(|node| !self.machines[*node as usize].gone)
            .map(|node| self.region_of(node))
            .collect();
        totals.regions = (regions.len() as u64, self.local_percent());
        let mut health = None;
        if let Some(authority) = self.node(0) {
            health = authority.health().map(|(tier, scheme)| Health {
                tier: tier.to_string(),
                scheme: scheme.to_string(),
            });
            if let Some(bank) = authority.bank() {
                let counts = bank.counts();
                totals.escrows =
                    (counts.pending + counts.disputed, counts.upheld + counts.overturned);
                let stake = self.scenario.storage.stake;
                let whole = (0..self.scenario.storage.nodes).filter(|node| {
                    let it = bank.stake(NodeName::numbered(u64::from(*node)));
                    it.own.0 + it.escrowed.0 == stake
                });
                totals.staked = whole.count() as u64;
                for (account, units) in bank.ledger().accounts() {
                    let kind = match account {
                        incentives::Account::Treasury => "treasury",
                        incentives::Account::Forfeited => "forfeited",
                        incentives::Account::Wallet(_) => "in wallets",
                        incentives::Account::Bonded { .. } => "staked",
                        incentives::Account::Unbonding { .. } => "unbonding",
                        incentives::Account::Escrow(_) => "in escrow",
                    };
                    *totals.units.entry(kind).or_default() += units.0;
                }
            }
        }
        (totals, health)
    }

    /// How many of the nodes would first ask one in their own region, in percent.
    fn local_percent(&self) -> u64 {
        let (mut local, mut all) = (0u64, 0u64);
        for node in self.nodes().take(90) {
            let Some(region) = node.nearest() else { continue };
            all += 1;
            local += u64::from(region == node.region());
        }
        (local * 100).checked_div(all).unwrap_or(0)
    }
}

/// What a life of a node has moved and encoded anew.
pub(super) fn add_moves(totals: &mut Totals, stats: network::Stats) {
    totals.moved.0 += stats.moved;
    totals.moved.1 += stats.not_moved;
    totals.moved.2 += stats.moved_bytes;
    totals.reencoded.0 += stats.reencoded;
    totals.reencoded.1 += stats.not_reencoded;
    totals.reencoded.2 += stats.reencoded_bytes;
}
