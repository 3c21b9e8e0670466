//! How it comes to rest: whether all is mended, what is left then, and what has not ended.

use super::agenda::Event;
use super::judging::{all_right, has_right};
use super::machine::Machine;
use super::{Ending, LOOK_PAUSE, Phase, SUPPLY, World};
use crate::storage::report::{Health, Totals};
use crate::storage::scenario::Expected;
use crate::storage::workload::{self, Want};
use base::NodeName;
use network::{StorageDisks, StorageNode};
use std::collections::{BTreeMap, BTreeSet};
use store::Digest;

impl World<'_> {
    /// Whether everything has come to rest and is mended; then files are fetched, then it ends.
    pub(super) fn look(&mut self) -> Option<Ending> {
        let now = self.now;
        self.check_credit();
        // Whoever asked has been answered.
        let answered = self.open == 0 && self.next_client == self.clients.len();
        let mended = answered && self.all_rest() && self.is_mended();
        if !mended {
            self.schedule(now + LOOK_PAUSE, 0, Event::Look);
            return None;
        }
        let stored: Vec<u32> = self.judge.all_stored().collect();
        let newest = self.newest();
        let scheme = |file: u32| {
            let record = newest.get(&self.files[file as usize].name)?;
            Some(record.manifest.scheme())
        };
        let schemes: Vec<_> = stored.iter().map(|file| (*file, scheme(*file))).collect();
        let World { judge, machines, lay, .. } = self;
        for (file, scheme) in schemes {
            judge.spread(now, file, scheme, &|digest| all_right(machines, lay, digest));
        }
        match self.phase {
            Phase::Resting => {
                self.phase = Phase::Fetching;
                self.totals.reconciled =
                    (self.node(0).map_or(0, |it| it.stats().agreed_bytes), self.totals.carried.1);
                let stored: Vec<u32> = self.judge.all_stored().collect();
                if stored.is_empty() {
                    return Some(self.end());
                }
                let nodes = self.scenario.storage.nodes;
                self.clients.extend(workload::gets(&stored, nodes, &self.root));
                self.start_clients(now);
                None
            }
            _ => Some(self.end()),
        }
    }

    /// The newest of the records of each file that are current somewhere.
    pub(super) fn newest(&self) -> BTreeMap<Digest, &network::FileRecord> {
        let mut newest: BTreeMap<Digest, &network::FileRecord> = BTreeMap::new();
        for record in self.nodes().flat_map(StorageNode::records) {
            let at = newest.entry(record.file).or_insert(record);
            if at.version < record.version {
                *at = record;
            }
        }
        newest
    }

    /// The scheme of a file by the newest record that is current somewhere, if there may be another than its owner's.
    pub(super) fn scheme_of(&self, file: u32) -> Option<erasure::Scheme> {
        let name = self.files[file as usize].name;
        let encodes = self.scenario.storage.reencodes_per_minute > 0;
        let records = self.nodes().filter(|_| encodes).filter_map(|node| node.record(name));
        let newest = records.max_by_key(|record| record.version)?;
        Some(newest.manifest.scheme())
    }

    /// In how many regions the stripe is that is in the fewest, and how much fuller the fullest node is than the
    /// emptiest one, in percent of what each can store.
    pub(super) fn spread(&self) -> (u64, u64) {
        let stripes = self.newest().into_values().flat_map(|record| record.holders.clone());
        let regions = stripes.map(|nodes| {
            let all = nodes.iter().map(|node| self.region_of(node.number() as u32));
            all.collect::<BTreeSet<u32>>().len() as u64
        });
        let regions = regions.min().unwrap_or(0);
        let taken = |machine: &Machine| {
            let stats = machine.process.as_ref()?.node.shards().stats();
            (stats.used_bytes * 100).checked_div(stats.capacity_bytes)
        };
        let all = self.machines.iter().filter(|machine| !machine.gone && !machine.full);
        let all: Vec<u64> = all.filter_map(taken).collect();
        let gap = all.iter().max().zip(all.iter().min()).map_or(0, |(most, least)| most - least);
        (regions, gap)
    }

    /// Whether every shard of every stored file is right at the node that the newest record of its file names:
    /// a copy that no record names may be gone at any time.
    fn is_mended(&self) -> bool {
        let World { judge, machines, lay, .. } = self;
        if !judge.is_mended(&|digest| has_right(machines, lay, digest)) {
            return false;
        }
        let newest = self.newest();
        let shards = newest.values().flat_map(|record| record.shards());
        let named: BTreeMap<Digest, NodeName> =
            shards.map(|(.., shard, node)| (shard.digest, node)).collect();
        judge.is_mended(&|digest| named.get(&digest).is_some_and(|node| self.has_at(*node, digest)))
    }

    pub(super) fn all_rest(&self) -> bool {
        self.machines.iter().filter(|machine| !machine.gone).all(|machine| {
            // Who leaves in order has still to go.
            !machine.drains
                && machine.process.as_ref().is_some_and(|process| process.node.is_at_rest(self.now))
        })
    }

    /// What lies on disks at the end, and no current record names there.
    fn look_for_leaks(&mut self) {
        let mut newest: BTreeMap<Digest, (&network::FileRecord, Digest)> = BTreeMap::new();
        for record in self.nodes().flat_map(StorageNode::records) {
            let digest = Digest::of(&record.encode());
            match newest.get(&record.file) {
                Some((other, _)) if other.version >= record.version => {}
                _ => drop(newest.insert(record.file, (record, digest))),
            }
        }
        let mut named: BTreeSet<(NodeName, Digest)> = BTreeSet::new();
        for (record, digest) in newest.values() {
            named.extend(record.shards().map(|(.., shard, node)| (node, shard.digest)));
            named.extend(record.keepers.iter().map(|node| (*node, *digest)));
        }
        let mut leaks = Vec::new();
        for (node, disk) in self.disks() {
            let name = NodeName::numbered(u64::from(node));
            let left = disk.shards().filter(|(digest, _)| !named.contains(&(name, *digest)));
            leaks.extend(left.map(|(digest, bytes)| (node, digest, bytes)));
        }
        self.totals.left = (leaks.len() as u64, leaks.iter().map(|(.., bytes)| bytes).sum());
    }

    fn end(&mut self) -> Ending {
        self.look_for_leaks();
        let machine = &self.machines[0];
        if let Some(process) = &machine.process
            && let Some(bank) = process.node.bank()
        {
            self.judge.ledger(
                self.now,
                SUPPLY,
                self.grants,
                machine.disks.ledger(),
                bank,
                &self.told,
            );
            if process.node.ledger_anomalies() > 0 {
                self.judge.object("S5", self.now, "a record of the ledger did not follow".into());
            }
        }
        if let Some(what) = self.leftover() {
            self.judge.object("S10", self.now, what);
        }
        if let Some(what) = self.check_guarded() {
            self.judge.object("S18", self.now, what);
        }
        let in_use = self.running().find(|(_, node)| node.connections_used() > 0);
        if let Some(node) = in_use.map(|(node, _)| node) {
            let what = format!("n{node} uses connections, and asks nobody for anything");
            self.judge.object("S16", self.now, what);
        }
        let missed = (0..self.machines.len() as u32).find_map(|node| self.missed(node));
        if let Some(what) = missed {
            self.judge.object("S14", self.now, what);
        }
        (0..self.machines.len() as u32).for_each(|node| self.check_repairs(node));
        if let Some(what) = self.named_without_room() {
            self.judge.object("S19", self.now, what);
        }
        let all = self.running();
        let records: Vec<(u32, &network::FileRecord)> =
            all.flat_map(|(node, it)| it.records().map(move |record| (node, record))).collect();
        if let Some(what) = self.judge.disagree(&records) {
            self.judge.object("S21", self.now, what);
        }
        self.totals.spread = self.spread();
        let mut schemes: BTreeMap<String, u64> = BTreeMap::new();
        for record in self.newest().into_values() {
            *schemes.entry(record.manifest.scheme().to_string()).or_default() += 1;
        }
        self.totals.schemes = schemes;
        if self.judge.finding.is_some() { Ending::Violation } else { Ending::Quiet }
    }

    /// What has not come to rest, for people.
    pub(super) fn unfinished(&self) -> String {
        let mut found = Vec::new();
        let open = self.clients.iter().zip(1u64..).filter(|(client, _)| !client.answered);
        for (client, number) in open.take(3) {
            found.push(format!("client {number} of n{} waits: {:?}", client.node, client.want));
            if let Want::Get(file) | Want::Put(file) = client.want {
                let name = self.files[file as usize].name;
                let versions = (0u32..).zip(&self.machines).filter_map(|(at, machine)| {
                    let record = machine.process.as_ref()?.node.record(name)?;
                    let keepers = record.keepers.iter().map(|keeper| keeper.number());
                    let keepers: Vec<u64> = keepers.collect();
                    Some(format!("n{at} has version {} of {keepers:?}", record.version))
                });
                found.push(versions.collect::<Vec<String>>().join(", "));
            }
        }
        for (at, machine) in self.machines.iter().enumerate().filter(|(_, m)| !m.gone) {
            match &machine.process {
                None => found.push(format!("n{at} is down")),
                Some(process) if !process.node.is_at_rest(self.now) => {
                    let node = &process.node;
                    let engine = node.transactions().coordinator();
                    let sagas = engine.map_or(0, |engine| engine.active_sagas().count());
                    let all = engine.map_or(0, coordinator::Engine::active);
                    found.push(format!(
                        "n{at} is not at rest: {sagas} sagas of {all} operations, {:?}",
                        node.unrest(self.now)
                    ));
                }
                _ => {}
            }
        }
        found.truncate(9);
        found.extend(self.unmended());
        found.join("; ")
    }

    /// Where the shards are of the first stored file that a keeper would mend.
    fn unmended(&self) -> Option<String> {
        let mends = |node: &&StorageNode| node.unrest(self.now).contains(&"repairs");
        let keeper = self.nodes().find(mends)?;
        let lacks = |record: &&network::FileRecord| {
            record.shards().any(|(.., shard, node)| !self.has_at(node, shard.digest))
        };
        let record = keeper.records().find(lacks)?;
        let places = record.shards().map(|(stripe, index, shard, node)| {
            let right = if self.has_at(node, shard.digest) { "right" } else { "wrong" };
            let elsewhere = has_right(&self.machines, &self.lay, shard.digest);
            let (chunk, node) = (stripe.chunk, node.number());
            format!("{chunk}.{index} n{node} {right}{}", if elsewhere { "" } else { " everywhere" })
        });
        let places: Vec<String> = places.collect();
        Some(format!("version {} of a record says: {}", record.version, places.join(", ")))
    }

    pub(super) fn has_at(&self, node: NodeName, digest: Digest) -> bool {
        let machine = self.machines.get(node.number() as usize);
        machine.is_some_and(|machine| !machine.gone && machine.shards.is_right(digest))
    }
}

pub(super) fn unmet(expect: &Expected, totals: &Totals, health: Option<&Health>) -> Option<String> {
    let answer = |name: &str| totals.answers.get(name).copied().unwrap_or(0);
    let exactly = [
        ("stored", expect.stored, totals.files.0),
        ("completed", expect.completed, answer("sagas completed")),
        ("compensated", expect.compensated, answer("sagas undone")),
        ("committed", expect.committed, answer("transactions committed")),
        ("locked", expect.locked, answer("locks taken and given back")),
        ("repaired", expect.repaired, totals.repaired.0),
        ("staked", expect.staked, totals.staked),
        ("escrows", expect.escrows, totals.escrows.0),
        ("refused", expect.refused, answer("ledger requests refused")),
        ("regions", expect.regions, totals.regions.0),
    ];
    for (name, expected, found) in exactly {
        if let Some(expected) = expected
            && expected != found
        {
            return Some(format!("expected {name} = {expected}, found {found}"));
        }
    }
    let at_least = [
        ("repaired", expect.min_repaired, totals.repaired.0),
        ("shards moved", expect.min_moved, totals.moved.0),
        ("files encoded anew", expect.min_reencoded, totals.reencoded.0),
        ("regions of each stripe", expect.min_stripe_regions, totals.spread.0),
        ("decided slashes", expect.min_decided, totals.escrows.1),
        ("local candidates in percent", expect.min_local_percent, totals.regions.1),
        ("writes refused for their token", expect.min_fenced, totals.guarded.1),
    ];
    for (name, expected, found) in at_least {
        if let Some(expected) = expected
            && found < expected
        {
            return Some(format!("expected at least {expected} {name}, found {found}"));
        }
    }
    if let Some(percent) = expect.min_reconciled_percent {
        let (counts, moved) = totals.reconciled;
        if moved == 0 || counts * 100 < moved * percent {
            return Some(format!(
                "expected {percent} % of all bytes to be reconciled, found {counts} of {moved}"
            ));
        }
    }
    if let Some(most) = expect.max_download_mean {
        let (count, all, _) = totals.downloads;
        let mean = all.checked_div(u32::try_from(count).unwrap_or(u32::MAX)).unwrap_or_default();
        if count == 0 || mean > most.0 {
            return Some(format!(
                "expected downloads to take {:?}, found {mean:?} of {count}",
                most.0
            ));
        }
    }
    let at_most = [
        ("shards moved", expect.max_moved, totals.moved.0),
        (
            "percent between the fullest and the emptiest node",
            expect.max_gap_percent,
            totals.spread.1,
        ),
    ];
    for (name, expected, found) in at_most {
        if let Some(expected) = expected
            && found > expected
        {
            return Some(format!("expected at most {expected} {name}, found {found}"));
        }
    }
    if let Some(expected) = &expect.scheme
        && !totals.schemes.keys().eq([expected])
    {
        let found = &totals.schemes;
        return Some(format!("expected all files to have the scheme {expected}, found {found:?}"));
    }
    let tier = health.map(|health| health.tier.clone());
    match &expect.health {
        Some(expected) if tier.as_ref() != Some(expected) => {
            Some(format!("expected the network to be {expected}, found {tier:?}"))
        }
        _ => None,
    }
}
