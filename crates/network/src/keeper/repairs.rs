//! What a file lacks, and how it comes to have it again.

use super::Keeping;
use crate::StorageDisks;
use crate::fetches::Why;
use crate::message::Message;
use crate::node::StorageNode;
use crate::operation::{Ended, Purpose};
use crate::transfer::request_key;
use base::{NodeName, ShardId, Time};
use placement::{Placer, PlacerConfig, Shortfall};
use repair::{Damage, GaveUp, Need, Output, PlanId, Source, StripeId};
use std::collections::BTreeSet;
use std::time::Duration;
use store::Digest;

impl StorageNode {
    /// Reports to the planner what a file lacks, if this node is the one to see to it.
    pub(super) fn assess(&mut self, now: Time, file: Digest) {
        let Some(record) = self.holdings.current(file) else { return };
        let floor = self.keeping.floor.get(&file).map_or(0, |floor| floor.0);
        let busy = self.keeping.next.contains_key(&file) || record.version < floor;
        if busy || !self.is_chief(record) {
            return;
        }
        if self.next_version(now, record).is_none() {
            let again = now + self.config.membership.alive;
            self.keeping.revisits.entry(file).or_insert(again);
            return self.seek_newer(now, file);
        }
        let scheme = record.manifest.scheme();
        let (manifest, version) = (record.manifest.id(), record.version);
        let mut damages = Vec::new();
        let changes = self.keeping.changes.get(&file);
        for (chunk, (entry, nodes)) in
            (0u32..).zip(record.manifest.chunks().iter().zip(&record.holders))
        {
            let mut lost = BTreeSet::new();
            let (mut sources, mut last) = (Vec::new(), Vec::new());
            for (index, (shard, &node)) in (0u16..).zip(entry.shards.iter().zip(nodes)) {
                let place = (StripeId { manifest, chunk }, index);
                let moved = changes.and_then(|changes| changes.get(&place));
                if let Some(&(node, _)) = moved {
                    sources.push(Source { index, node });
                } else if self.is_dead(node) || self.keeping.bad.is_bad(node, shard.digest) {
                    lost.insert(index);
                } else if self.keeping.leaving.contains(&node) {
                    // It has it still, if the others are not enough.
                    lost.insert(index);
                    last.push(Source { index, node });
                } else {
                    sources.push(Source { index, node });
                }
            }
            sources.append(&mut last);
            if !lost.is_empty() {
                let digests = entry.shards.iter().map(|shard| shard.digest).collect();
                let bytes = record.manifest.shard_bytes(entry);
                damages.push((chunk, digests, lost, sources, bytes, nodes.clone()));
            }
        }
        if damages.is_empty() {
            return;
        }
        let all = self.candidates();
        for (chunk, digests, lost, mut sources, bytes, nodes) in damages {
            let known: Vec<_> = all
                .iter()
                .filter(|it| sources.iter().any(|at| at.node == it.node))
                .copied()
                .collect();
            let needed = usize::from(scheme.data());
            let order = self.routing.order(self.config.region, &known, needed);
            // Who leaves, and is none of those, is asked last.
            let turn = |source: &Source| order.iter().position(|node| *node == source.node);
            sources.sort_by_key(|source| turn(source).unwrap_or(usize::MAX));
            let free: Vec<_> =
                all.iter().filter(|other| !nodes.contains(&other.node)).copied().collect();
            let replicas = 2 * lost.len() as u32 + 2;
            let config = PlacerConfig { replicas, ..PlacerConfig::default() };
            let placer = Placer::new(config, &self.config.network);
            let mut name = manifest.0.to_vec();
            name.extend_from_slice(&chunk.to_le_bytes());
            name.extend_from_slice(&version.to_le_bytes());
            let name = ShardId(Digest::of(&name).0);
            let (Ok(mut candidates) | Err(Shortfall { nodes: mut candidates, .. })) =
                placer.place(name, bytes, &free, &BTreeSet::new());
            // Whose copy is bad can be given a good one, if nobody else takes it.
            let bad = lost.iter().map(|index| nodes[usize::from(*index)]);
            candidates.extend(bad.filter(|node| !self.goes(*node)));
            let stripe = StripeId { manifest, chunk };
            let need = Need::Lost;
            let damage = Damage { stripe, scheme, digests, need, lost, sources, candidates };
            // A full queue is emptied by repairs; the next audit reports it again.
            let _ = self.keeping.planner.report(now, damage);
        }
        self.keeping.look = true;
    }

    /// What repairs have to do now, and what ended operations have left.
    pub(crate) fn plan_repairs(&mut self, now: Time, disks: &dyn StorageDisks) {
        if !self.transactions.is_ready() {
            // What is found at a start waits for whom it is asked of.
            return;
        }
        self.go_on_uploading(now, disks);
        self.go_on_encoding(now, disks);
        for file in std::mem::take(&mut self.keeping.kept) {
            self.next_to_head(now, file, disks);
        }
        for (verdict, evidence) in std::mem::take(&mut self.keeping.verdicts) {
            self.judged(now, verdict, evidence);
        }
        self.release_left(now, disks);
        let due = self.keeping.plan_at.is_some_and(|at| at <= now);
        if !std::mem::take(&mut self.keeping.look) && !due {
            return;
        }
        let mut out = std::mem::take(&mut self.keeping.pending);
        if self.keeping.planner.pending() > 0 || !out.is_empty() {
            let Keeping { planner, bad, .. } = &mut self.keeping;
            planner.poll(now, bad, &mut out);
            self.take_plans(now, out, disks);
        }
        let files: Vec<Digest> = self.keeping.changes.keys().copied().collect();
        files.into_iter().for_each(|file| self.begin_next(now, file, disks));
        self.release_left(now, disks);
        let planner = self.keeping.planner.next_wake(now);
        // Those whose time has come wait for what makes this node look again by itself.
        let floors = self.keeping.changes.keys().filter_map(|file| self.keeping.floor.get(file));
        let floors = floors.map(|floor| floor.1).filter(|at| *at > now);
        self.keeping.plan_at =
            Time::earliest(planner, floors.min()).map(|at| at.max(now + Duration::from_millis(1)));
    }

    fn release_left(&mut self, now: Time, disks: &dyn StorageDisks) {
        for (number, intent) in std::mem::take(&mut self.keeping.to_give_up) {
            self.give_up_upload(now, number, intent, disks);
        }
        for (key, node, digest) in std::mem::take(&mut self.keeping.to_undo) {
            if self.is_dead(node) {
                self.keeping.owed.entry(node).or_default().push((now, Some(key), digest));
            } else {
                self.release_once(now, key, node, digest, disks);
            }
        }
        for (node, digest) in std::mem::take(&mut self.keeping.to_release) {
            if self.is_dead(node) {
                self.keeping.owed.entry(node).or_default().push((now, None, digest));
            } else {
                self.release(now, node, digest, disks);
            }
        }
    }

    fn take_plans(&mut self, now: Time, mut out: Vec<Output>, disks: &dyn StorageDisks) {
        while !out.is_empty() {
            for output in std::mem::take(&mut out) {
                match output {
                    Output::Fetch { plan, source, shard } => {
                        let asked = self.keeping.fetching.entry((source.node, shard)).or_default();
                        asked.push((plan, source));
                        if self.fetch(now, source.node, shard, Why::Read).is_err() {
                            // Another source is asked.
                            self.keeping.fetching.remove(&(source.node, shard));
                            let Keeping { planner, bad, .. } = &mut self.keeping;
                            planner.fetched(now, plan, source, None, bad, &mut out);
                        }
                    }
                    Output::Store { plan, index, node, shard, bytes } => {
                        self.holdings.stage(shard, bytes.into());
                        self.keeping.placing.insert((plan, index), (node, shard));
                        let number = self.draw_number();
                        let key =
                            request_key(b'k', &[&self.name.0, &number.to_le_bytes(), &shard.0]);
                        let purpose = Purpose::Rebuilt { plan, index, node, shard };
                        self.keep_all(now, key, purpose, &[(node, shard)], disks);
                    }
                    Output::Scrub { plan, index, node, shard } => {
                        self.keeping.scrubbing.insert((node, shard), (plan, index));
                        self.send(node, Message::Scrub { digest: shard });
                    }
                    Output::Bad { node, shard } => {
                        if self.keeping.scrubbing.remove(&(node, shard)).is_some() {
                            self.keeping.to_release.push((node, shard));
                        }
                    }
                    Output::Repaired { stripe, index, node, shard } => {
                        if let Some(&file) = self.keeping.by_manifest.get(&stripe.manifest) {
                            let changes = self.keeping.changes.entry(file).or_default();
                            let before = changes.insert((stripe, index), (node, shard));
                            // Repaired twice before the record says so: the first copy is one too many.
                            if let Some((before, shard)) = before
                                && before != node
                            {
                                self.keeping.to_release.push((before, shard));
                            }
                        }
                    }
                    Output::GaveUp { why, .. } => match why {
                        GaveUp::TooFewSources => self.stats.without_sources += 1,
                        GaveUp::NoPlace => self.stats.without_place += 1,
                        GaveUp::Inconsistent => self.stats.inconsistent += 1,
                    },
                }
            }
        }
    }

    /// Bytes came that a repair waits for.
    pub(crate) fn bytes_to_rebuild(
        &mut self,
        now: Time,
        from: NodeName,
        digest: Digest,
        bytes: Option<&Vec<u8>>,
    ) {
        self.bytes_to_encode(now, from, digest, bytes);
        let Some(asked) = self.keeping.fetching.remove(&(from, digest)) else { return };
        let mut out = Vec::new();
        for (plan, source) in asked {
            let Keeping { planner, bad, .. } = &mut self.keeping;
            planner.fetched(now, plan, source, bytes.cloned(), bad, &mut out);
        }
        self.keeping.pending.extend(out);
        self.keeping.look = true;
    }

    /// The saga has ended that had a rebuilt shard kept.
    pub(crate) fn rebuilt_kept(
        &mut self,
        now: Time,
        plan: PlanId,
        index: u16,
        (node, shard): (NodeName, Digest),
        ended: Ended,
    ) {
        let well = ended == Ended::Done;
        self.holdings.unstage(shard);
        if ended == Ended::Undone {
            self.keeping.rebalancer.refused(now, node);
        }
        let mut out = Vec::new();
        let awaited = self.keeping.placing.get(&(plan, index)) == Some(&(node, shard));
        if awaited {
            self.keeping.placing.remove(&(plan, index));
            self.keeping.planner.stored(now, plan, index, node, well, &mut out);
        }
        let goes_on = out.iter().any(|output| matches!(output, Output::Scrub { .. }));
        if well && !goes_on {
            // The plan has gone on without it.
            self.keeping.to_release.push((node, shard));
        }
        self.keeping.pending.extend(out);
        self.keeping.look = true;
    }
}
