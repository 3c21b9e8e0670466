use crate::process::{Arrival, Stopped};
use crate::scrubber::{Scrubbed, name};
use base::{Latency, Sequence, Time};
use node::{LogSlot, Node};
use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use tokio::sync::oneshot;

/// What a node has done since it started, and what it is doing.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Whether everything that it has is recovered and running.
    pub ready: bool,
    /// What has ended since the start.
    pub ended: ::coordinator::Stats,
    /// How many sagas are in which state: `created`, `executing`, `compensating`.
    pub sagas: BTreeMap<&'static str, u64>,
    /// How many transactions are in which state, such as `preparing`.
    pub transactions: BTreeMap<&'static str, u64>,
    /// How many operations have an outcome that this node does not know: promises of its participant, and
    /// what a salvage left in doubt.
    pub in_doubt: u64,
    /// How many cells are locked.
    pub locks_held: u64,
    /// Each log that is open.
    pub logs: BTreeMap<&'static str, LogStats>,
}

/// One log of a node.
#[derive(Clone, Debug)]
pub struct LogStats {
    /// What the log counts.
    pub stats: wal_core::Stats,
    /// The last record that is durable.
    pub durable: Sequence,
    /// How long its flushes took, writes and syncs, since the start.
    pub flushes: Latency,
    /// What reading its sealed segments again has found; nothing, if nobody does.
    pub scrubbed: Scrubbed,
}

/// Asks a node that runs for its [`Stats`], as often as one likes. It does not keep the node running.
#[derive(Clone, Debug)]
pub struct Observer {
    pub(crate) inbox: Sender<Arrival>,
}

impl Observer {
    /// What is so now: the node tells between two rounds, so while its disk is busy this waits for it.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn stats(&self) -> Result<Stats, Stopped> {
        let gone = || Stopped { reason: "its thread has ended".into() };
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Arrival::Stats { answer }).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}

/// What a node says of itself; `flushes` is counted by whoever performs them, `scrubbed` by whoever reads again.
pub(crate) fn stats_of(
    node: &Node,
    now: Time,
    flushes: &[Latency; 2],
    mut scrubbed: BTreeMap<LogSlot, Scrubbed>,
) -> Stats {
    let mut stats = Stats { ready: node.is_ready(), ..Stats::default() };
    let mut log = |log: &wal_core::Log, slot: LogSlot| LogStats {
        stats: log.stats().clone(),
        durable: log.durable(),
        flushes: flushes[slot as usize].clone(),
        scrubbed: scrubbed.remove(&slot).unwrap_or_default(),
    };
    if let Some(engine) = node.coordinator() {
        stats.ended = engine.stats();
        for saga in engine.active_sagas() {
            *stats.sagas.entry(saga.phase().name()).or_default() += 1;
        }
        for transaction in engine.active_transactions() {
            *stats.transactions.entry(transaction.state()).or_default() += 1;
        }
        let in_doubt = engine.sagas_in_doubt().count() + engine.transactions_in_doubt().count();
        stats.in_doubt += in_doubt as u64;
        let slot = LogSlot::Coordinator;
        stats.logs.insert(name(slot), log(engine.log(), slot));
    }
    if let Some(host) = node.participant() {
        stats.in_doubt += host.participant().prepared().count() as u64;
        stats.locks_held = host.locks().held(now).count() as u64;
        let slot = LogSlot::Participant;
        stats.logs.insert(name(slot), log(host.log(), slot));
    }
    stats
}
