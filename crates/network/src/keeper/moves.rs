//! What lies in the wrong place, and how it comes to lie in the right one.
//!
//! A few stripes are looked at in each round. A move goes the way of a repair: the new holder keeps the shard by a
//! saga and reads it again, the next version of the record names it and becomes current by a 2PC, and only then
//! the old copy is released. So a node that has no room is not named, and the shard is never on fewer nodes than
//! before.

use super::Keeping;
use crate::node::StorageNode;
use crate::record::FileRecord;
use crate::transfer::stripe_name;
use base::Time;
use placement::Lies;
use repair::{Damage, Need, Source, StripeId};
use std::collections::BTreeSet;
use store::Digest;

impl StorageNode {
    /// Looks at some stripes of files that this node sees to, if it is time, and nothing is lost.
    pub(super) fn rebalance(&mut self, now: Time) {
        if self.keeping.rebalancer.due() > now {
            return;
        }
        let own = (self.own_candidate(), Time::ZERO);
        let others = self.membership.alive().map(|member| (member.candidate(), member.since));
        let Keeping { rebalancer, leaving, .. } = &mut self.keeping;
        let there = others.chain([own]).filter(|(it, _)| !leaving.contains(&it.node));
        let Some(round) = rebalancer.begin(now, there) else { return };
        let (idle, mut waiting) = self.keeping.planner.moves();
        if !idle || self.config.repair.moves == 0 || self.is_leaving() {
            return;
        }
        let after = self.keeping.looked_at;
        let stripes = self.stripes_after(after, self.config.rebalance.stripes_per_round);
        for (file, chunk) in stripes {
            if waiting >= self.config.repair.moves {
                break;
            }
            self.keeping.looked_at = (file, chunk);
            let Some(record) = self.holdings.current(file) else { continue };
            let floor = self.keeping.floor.get(&file).map_or(0, |floor| floor.0);
            if record.version < floor || self.keeping.is_at(file) || !self.is_chief(record) {
                continue;
            }
            let manifest = record.manifest.id();
            let entry = &record.manifest.chunks()[chunk as usize];
            let holders = &record.holders[chunk as usize];
            let (name, bytes) = (stripe_name(&manifest, chunk), record.manifest.shard_bytes(entry));
            let Some(it) = self.keeping.rebalancer.look(Lies { name, bytes, holders }, &round)
            else {
                continue;
            };
            let shard = entry.shards[usize::from(it.place)].digest;
            if self.keeping.bad.is_bad(it.from, shard) {
                // That is a repair's matter.
                continue;
            }
            let damage = Damage {
                stripe: StripeId { manifest, chunk },
                scheme: record.manifest.scheme(),
                digests: entry.shards.iter().map(|shard| shard.digest).collect(),
                need: Need::Misplaced,
                lost: BTreeSet::from([it.place]),
                sources: vec![Source { index: it.place, node: it.from }],
                candidates: it.to,
            };
            if self.keeping.planner.report(now, damage).is_ok() {
                waiting += 1;
                self.keeping.look = true;
            }
        }
    }

    /// So many stripes of files that this node sees to, each once, from the one behind this on, and around.
    fn stripes_after(&self, after: (Digest, u32), count: u32) -> Vec<(Digest, u32)> {
        let stripes = |record: &FileRecord| {
            let (file, chunks) = (record.file, record.manifest.chunks().len() as u32);
            (0..chunks).map(move |chunk| (file, chunk))
        };
        let chief = |record: &&FileRecord| self.is_chief(record);
        let behind = self.holdings.current_from(after.0).filter(chief).flat_map(stripes);
        let behind = behind.filter(|stripe| *stripe > after);
        let before = self.holdings.all_current().take_while(|record| record.file <= after.0);
        let before = before.filter(chief).flat_map(stripes).filter(|stripe| *stripe <= after);
        behind.chain(before).take(count as usize).collect()
    }
}
