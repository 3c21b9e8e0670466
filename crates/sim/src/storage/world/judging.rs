//! What is looked at for the judges while it runs: disks, logs, locks, connections and credit.

use super::World;
use super::machine::Machine;
use base::{NodeName, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use store::Digest;

impl World<'_> {
    /// Once a node's log is recovered: what it needs is there, and nothing of it has the node removed.
    pub(super) fn check_recovered(&mut self, node: u32) {
        let machine = &mut self.machines[node as usize];
        let process = machine.process.as_ref();
        let Some(host) = process.and_then(|it| it.node.transactions().participant()) else {
            return;
        };
        let needed = |digest: &&Digest| host.store().value(network::work::needed(**digest)) > 0;
        let absent = |digest: &&Digest| machine.shards.read(**digest).is_none();
        let missed = machine.removed.iter().filter(absent).find(needed);
        let what =
            missed.map(|digest| format!("n{node} has removed {digest}, and its log needs it"));
        machine.unchecked = false;
        if let Some(what) = what {
            self.judge.object("S11", self.now, what);
        }
        if let Some(what) = self.missed(node) {
            self.judge.object("S14", self.now, what);
        }
    }

    /// Something that a node's log needs and that no fault has struck, and its disk does not have.
    pub(super) fn missed(&self, node: u32) -> Option<String> {
        let machine = &self.machines[node as usize];
        let process = machine.process.as_ref().filter(|_| !machine.liar)?;
        let cells = process.node.transactions().participant()?.store();
        let asked = machine.laid.iter();
        let needed = asked.filter(|it| cells.value(network::work::needed(**it)) > 0);
        let kept = |digest: &Digest| {
            let bytes = machine.shards.read(*digest);
            machine.shards.is_right(*digest)
                && (!bytes.is_some_and(network::is_note) || machine.shards.is_pinned(*digest))
        };
        let mut lost = needed.filter(|it| !self.hurt.contains(it));
        let lost = lost.find(|digest| !kept(digest))?;
        let has = match machine.shards.read(*lost) {
            None => "does not have it",
            Some(_) if machine.shards.is_right(*lost) => "has it without its pin",
            Some(_) => "has other bytes",
        };
        Some(format!("the log of n{node} needs {lost}, and its disk {has}"))
    }

    /// What is guarded at a node has taken no lower token than before.
    pub(super) fn check_fences(&mut self, node: u32) {
        let Some(host) = self.node(node).and_then(|it| it.transactions().participant()) else {
            return;
        };
        let here = self.guarded.iter().filter(|(_, at)| *at == node);
        let seen: Vec<(ShardId, u64)> = here
            .map(|(shard, _)| {
                (*shard, host.store().value(network::work::fence(*shard)).cast_unsigned())
            })
            .collect();
        for (shard, token) in seen {
            let before = self.fences.insert((node, shard), token).unwrap_or(0);
            if token < before {
                let what = format!(
                    "n{node} has {shard:?} written under token {token}, and before under {before}"
                );
                self.judge.object("S18", self.now, what);
            }
        }
    }

    /// What locks guard was written as often as it says, and as often as clients were told at least.
    pub(super) fn check_guarded(&self) -> Option<String> {
        let told = self.totals.answers.get("lockings").copied().unwrap_or(0);
        for &(shard, node) in &self.guarded {
            let Some(process) = &self.machines[node as usize].process else { continue };
            let Some(host) = process.node.transactions().participant() else { continue };
            let value = host.store().value(network::work::guarded(shard));
            let writes = host.store().value(network::work::writes(shard));
            if value != writes || writes.cast_unsigned() < told {
                return Some(format!(
                    "n{node}: {shard:?} was written {writes} times and is {value}; {told} clients were told"
                ));
            }
        }
        None
    }

    /// Nobody is credited with more than it has moved.
    pub(super) fn check_credit(&mut self) {
        let Some(authority) = self.node(0) else { return };
        let too_much = authority.reconciled_bytes().find_map(|(node, credit)| {
            let (sent, received) = self.machines.get(node.number() as usize)?.moved;
            let says = (credit.sent_bytes, credit.received_bytes);
            (says.0 > sent || says.1 > received).then(|| {
                format!(
                    "{node} is credited with {says:?} bytes sent and received of {:?}",
                    (sent, received)
                )
            })
        });
        if let Some(what) = too_much {
            self.judge.object("S17", self.now, what);
        }
    }

    /// An answer has come: its connection is free, and all that are in use have a request on its way.
    pub(super) fn check_connections(&mut self, node: u32, id: u32, peer: NodeName) {
        let Some(process) = self.process(node, id) else { return };
        let used = process.node.connections_to(peer);
        let asked = self.watch.asked_of(self.now, node, peer);
        if used > asked {
            let what = format!("n{node} uses {used} connections to {peer} for {asked} requests");
            self.judge.object("S16", self.now, what);
        }
    }

    pub(super) fn hurt_one(&mut self, digest: Digest, why: &'static str) {
        let World { judge, machines, lay, now, .. } = self;
        judge.gone(*now, digest, &|digest| has_right(machines, lay, digest), why);
    }

    /// All manifests are right, so sources that do not fit one were not looked at.
    pub(super) fn check_repairs(&mut self, node: u32) {
        let process = self.machines[node as usize].process.as_ref();
        if process.is_some_and(|process| process.node.stats().mismatched > 0) {
            let what = format!("n{node} has rebuilt shards that do not fit their right manifest");
            self.judge.object("S12", self.now, what);
        }
    }

    /// Bytes on the disk of a node whose own log does not need them, while nothing is under way there.
    pub(super) fn leftover(&self) -> Option<String> {
        for (number, machine) in (0u32..).zip(&self.machines) {
            let process = machine.process.as_ref();
            let host = process.and_then(|process| process.node.transactions().participant());
            let Some(host) = host else { continue };
            let settled = host.log().durable() == host.log().last() && !machine.shards.is_busy();
            if !settled || machine.liar || machine.drains {
                continue;
            }
            let needed = |digest| host.store().value(network::work::needed(digest)) > 0;
            if let Some((digest, _)) = machine.shards.shards().find(|(digest, _)| !needed(*digest))
            {
                return Some(format!("n{number} holds {digest}, and its log does not need it"));
            }
        }
        None
    }

    /// A node that keeps nothing and that a record names all the same.
    pub(super) fn named_without_room(&self) -> Option<String> {
        let newest = self.newest();
        newest.values().find_map(|record| {
            let mut named = record.keepers.iter().chain(record.holders.iter().flatten());
            let is_full = |node: &&NodeName| {
                self.machines.get(node.number() as usize).is_some_and(|machine| machine.full)
            };
            let node = named.find(is_full)?.number();
            let version = record.version;
            Some(format!("version {version} of a record names n{node}, which keeps nothing"))
        })
    }
}

/// Whether some node that has not left has a right copy of a shard on its disk.
pub(super) fn has_right(
    machines: &[Machine],
    lay: &BTreeMap<Digest, BTreeSet<u32>>,
    digest: Digest,
) -> bool {
    lay.get(&digest).into_iter().flatten().any(|node| {
        let machine = &machines[*node as usize];
        !machine.gone && machine.shards.is_right(digest)
    })
}

/// The nodes that have not left and have a right copy of a shard on their disks.
pub(super) fn all_right(
    machines: &[Machine],
    lay: &BTreeMap<Digest, BTreeSet<u32>>,
    digest: Digest,
) -> BTreeSet<u32> {
    let right = |node: &u32| {
        let machine = &machines[*node as usize];
        !machine.gone && machine.shards.is_right(digest)
    };
    lay.get(&digest).into_iter().flatten().copied().filter(right).collect()
}
