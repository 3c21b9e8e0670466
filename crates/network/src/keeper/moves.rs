//! What lies in the wrong place, and how it comes to lie in the right one.
//!
//! A few stripes are looked at in each round. A move goes the way of a repair: the new holder keeps the shard by a
//! saga and reads it again, the next version of the record names it and becomes current by a 2PC, and only then
//! the old copy is released. So a node that has no room is not named, and the shard is never on fewer nodes than
//! before.

use crate::node::StorageNode;
use crate::transfer::stripe_name;
use base::Time;
use placement::{Lies, Status};
use repair::{Damage, Need, Source, StripeId};
use std::collections::BTreeSet;
use store::Digest;

impl StorageNode {
    /// Looks at some stripes of files that this node sees to, if it is time, and nothing is lost.
    pub(super) fn rebalance(&mut self, now: Time) {
        if self.keeping.rebalancer.due() > now {
            return;
        }
        let started = self.candidates().into_iter().map(|it| {
            let member = self.membership.member(it.node);
            let alive = member.filter(|member| member.status == Status::Alive);
            (it, alive.map_or(Time::ZERO, |member| member.since))
        });
        let started: Vec<_> = started.collect();
        let Some(round) = self.keeping.rebalancer.begin(now, started.into_iter()) else { return };
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
        let chief = self.holdings.all_current().filter(|record| self.is_chief(record));
        let all: Vec<(Digest, u32)> = chief
            .flat_map(|record| {
                (0u32..).zip(record.manifest.chunks()).map(|(chunk, _)| (record.file, chunk))
            })
            .collect();
        let first = all.partition_point(|stripe| *stripe <= after);
        let (before, behind) = all.split_at(first);
        behind.iter().chain(before).take(count as usize).copied().collect()
    }
}
