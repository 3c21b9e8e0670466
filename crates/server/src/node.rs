//! A node that runs, as a source.

use crate::snapshot::{Health, Kind, Log, Operations, Snapshot};
use crate::{Pending, Source};
use runtime::{Observer, Stats};
use std::collections::BTreeMap;

impl Source for Observer {
    fn snapshot(&self) -> Pending<'_> {
        Box::pin(async {
            match self.stats().await {
                Ok(stats) => of(stats),
                // Its counters went with it.
                Err(stopped) => {
                    let health = Health::NotReady(stopped.to_string());
                    Snapshot { health, ..Snapshot::default() }
                }
            }
        })
    }
}

fn of(stats: Stats) -> Snapshot {
    let Stats { ready, ended, sagas, transactions, in_doubt, locks_held, logs } = stats;
    let sagas = sagas.into_iter().map(|(state, n)| ((Kind::Saga, state), n));
    let transactions = transactions.into_iter().map(|(state, n)| ((Kind::Transaction, state), n));
    let ended = [
        ((Kind::Transaction, "committed"), ended.committed),
        ((Kind::Transaction, "aborted"), ended.aborted),
        ((Kind::Saga, "completed"), ended.completed),
        ((Kind::Saga, "compensated"), ended.compensated),
        ((Kind::Saga, "aborted"), ended.saga_aborted),
    ];
    let logs: BTreeMap<&'static str, Log> = logs
        .into_iter()
        .map(|(name, log)| {
            let log = Log {
                records: log.stats.records,
                bytes: log.stats.bytes,
                syncs: log.stats.syncs,
                last_sequence: log.stats.last_sequence.0,
                durable_sequence: log.durable.0,
                corrupted_records: log.stats.corrupted_records,
                scrubbed_bytes: log.scrubbed.stats.bytes,
                damaged_places: log.scrubbed.damaged.len() as u64,
                flushes: log.flushes,
            };
            (name, log)
        })
        .collect();
    let health = match ready {
        true => Health::Ready,
        false => Health::NotReady("its logs are being recovered".into()),
    };
    Snapshot {
        health,
        operations: Some(Operations {
            active: sagas.chain(transactions).collect(),
            ended: ended.into(),
            in_doubt,
            in_doubt_oldest: None,
            parked: 0,
            locks_held,
        }),
        logs,
        ..Snapshot::default()
    }
}
