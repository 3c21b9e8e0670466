//! What a node shows of itself.

use super::StorageNode;
use super::face::Stats;
use crate::ledger::Teller;
use crate::record::FileRecord;
use base::Time;
use incentives::Bank;
use node::Node;
use placement::{Membership, Region};
use store::Digest;

impl StorageNode {
    /// Where it is.
    #[must_use]
    pub fn region(&self) -> Region {
        self.config.region
    }

    /// Its transactions.
    #[must_use]
    pub fn transactions(&self) -> &Node {
        &self.transactions
    }

    /// The ledger, if this node keeps it and has recovered it.
    #[must_use]
    pub fn bank(&self) -> Option<&Bank> {
        self.teller.as_ref().and_then(Teller::bank)
    }

    /// How many records of the ledger's log did not follow when it was recovered: 0, unless it is damaged.
    #[must_use]
    pub fn ledger_anomalies(&self) -> u64 {
        self.teller.as_ref().map_or(0, |teller| teller.anomalies)
    }

    /// Its locks.
    #[must_use]
    pub fn locks(&self) -> &locks::LockTable {
        &self.table
    }

    /// Who it thinks is there.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Its store.
    #[must_use]
    pub fn shards(&self) -> &store::ShardStore {
        &self.holdings.shards
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let repair = self.keeping.repair_stats();
        Stats {
            repaired: repair.repaired,
            gave_up: repair.gave_up,
            mismatched: repair.inconsistent,
            repair_bytes: repair.fetched_bytes + repair.stored_bytes,
            repair_bytes_min: repair.minimum_bytes,
            moved: repair.moved,
            moved_bytes: repair.moved_bytes,
            not_moved: repair.not_moved,
            ..self.stats
        }
    }

    /// What is under way, in words; empty if nothing is. A step that waits for an operator is not.
    #[must_use]
    pub fn unrest(&self, now: Time) -> Vec<&'static str> {
        let engine = self.transactions.coordinator();
        let host = self.transactions.participant();
        let waits = |saga: &saga::Saga| saga.steps().any(saga::StepState::is_parked);
        let parts = [
            ("its logs", engine.is_none() || host.is_none()),
            (
                "operations",
                engine.is_some_and(|engine| {
                    let parked = engine.active_sagas().filter(|saga| waits(saga)).count();
                    engine.active() > parked
                }),
            ),
            ("promises", host.is_some_and(|host| host.participant().prepared().next().is_some())),
            (
                "promises to those who are gone",
                host.is_some_and(|host| {
                    let mut forced = host.participant().forced();
                    forced.any(|(_, forced)| forced.forgotten.is_none())
                }),
            ),
            ("cells", host.is_some_and(|host| host.locks().held(now).next().is_some())),
            ("operations to be asked for again", self.operations.waits()),
            ("transfers", !self.transfers.is_empty()),
            ("requests for bytes", !self.fetches.is_empty()),
            ("lockings", !self.locking.is_empty()),
            ("requests to the ledger", !self.asks.is_empty()),
            ("locks", self.table.held(now).next().is_some()),
            ("the ledger", !self.teller.as_ref().is_none_or(Teller::is_settled)),
        ];
        let parts = parts.into_iter().chain(self.keeping.unrest());
        parts.filter(|(_, is)| *is).map(|(what, _)| what).collect()
    }

    /// Whether nothing is under way: no operation, no transfer, no repair, no lock that somebody has.
    #[must_use]
    pub fn is_at_rest(&self, now: Time) -> bool {
        self.unrest(now).is_empty()
    }

    /// Whom this node would ask first, by its router: in which region that node is.
    #[must_use]
    pub fn nearest(&self) -> Option<Region> {
        let router = placement::Router::new(placement::RouterConfig::default(), self.config.region);
        let latencies =
            placement::PeerLatency::new(placement::LatencyConfig::default(), &self.config.network);
        let candidates: Vec<_> = self.membership.candidates().collect();
        router.rank(&candidates, &latencies).first().map(|ranked| ranked.region)
    }

    /// The record of a file that is current here.
    #[must_use]
    pub fn record(&self, file: Digest) -> Option<&FileRecord> {
        self.holdings.current(file)
    }

    /// Every file of which this node has a current record.
    pub fn records(&self) -> impl Iterator<Item = &FileRecord> {
        self.holdings.all_current()
    }
}
