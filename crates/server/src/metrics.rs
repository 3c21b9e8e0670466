//! A snapshot as Prometheus reads it. This is the one place that knows metrics' names.

use crate::snapshot::{Health, Kind, Snapshot};
use base::Latency;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// The media type of OpenMetrics, which Prometheus asks for.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The media type of the older text format, for everybody who does not ask for the other.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The snapshot in the OpenMetrics format.
#[must_use]
pub fn open_metrics(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("trinity");
    registry.register_collector(Box::new(Shown(snapshot)));
    let mut text = String::new();
    text::encode(&mut text, &registry).expect("writing to a string does not fail");
    text
}

/// The snapshot in the older text format. In it a counter is described under the name that its values
/// have, with `_total`, and there is neither a unit's line nor an end.
#[must_use]
pub fn classic(snapshot: Snapshot) -> String {
    let open = open_metrics(snapshot);
    let mut text = String::with_capacity(open.len());
    // A metric's help comes before its type, which says whether it is a counter.
    let mut help: Option<(&str, &str)> = None;
    for line in open.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap_or((described, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, said)) = help.take().filter(|(of, _)| *of == name) {
                text.push_str(&format!("# HELP {name}{suffix} {said}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[derive(Debug)]
struct Shown(Snapshot);

/// One metric: its name, what it says, its unit, and a value per label set.
struct Metric {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

fn metric(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help, unit: None }
}

impl Metric {
    fn in_unit(self, unit: Unit) -> Metric {
        Metric { unit: Some(unit), ..self }
    }

    fn counters<'l>(
        self,
        to: &mut DescriptorEncoder<'_>,
        values: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        self.all(to, MetricType::Counter, values, |value, encoder| {
            ConstCounter::new(value).encode(encoder)
        })
    }

    fn gauges<'l>(
        self,
        to: &mut DescriptorEncoder<'_>,
        values: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        self.all(to, MetricType::Gauge, values, |value, encoder| {
            ConstGauge::new(value).encode(encoder)
        })
    }

    fn histograms<'l>(
        self,
        to: &mut DescriptorEncoder<'_>,
        values: impl IntoIterator<Item = (Labels<'l>, &'l Latency)>,
    ) -> fmt::Result {
        self.all(to, MetricType::Histogram, values, |value, mut encoder| {
            let (sum, count) = (value.sum().as_secs_f64(), value.count());
            let bound = |bound: Option<std::time::Duration>| {
                bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64())
            };
            let buckets: Vec<_> = value.buckets().map(|(to, n)| (bound(to), n)).collect();
            encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })
    }

    fn all<'l, T>(
        self,
        to: &mut DescriptorEncoder<'_>,
        kind: MetricType,
        values: impl IntoIterator<Item = (Labels<'l>, T)>,
        each: impl Fn(T, prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let Metric { name, help, unit } = self;
        let mut encoder = to.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            each(value, encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn kind(kind: Kind) -> (&'static str, &'static str) {
    let kind = match kind {
        Kind::Saga => "saga",
        Kind::Transaction => "transaction",
    };
    ("kind", kind)
}

/// A number as a gauge: exact up to 2^53.
fn number(value: u64) -> f64 {
    value as f64
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let to = &mut encoder;
        let Snapshot { health, operations, logs, network, storage, ledger } = &self.0;
        let ready = f64::from(u8::from(*health == Health::Ready));
        metric("ready", "Whether requests are taken").gauges(to, [(vec![], ready)])?;
        if let Some(operations) = operations {
            let states = operations.active.iter();
            let states =
                states.map(|((of, state), n)| (vec![kind(*of), ("state", *state)], number(*n)));
            metric("operations_active", "Operations that have not ended, by state")
                .gauges(to, states)?;
            let ends = operations.ended.iter();
            let ends = ends.map(|((of, outcome), n)| (vec![kind(*of), ("outcome", *outcome)], *n));
            metric("operations_ended", "Operations that have ended, by outcome")
                .counters(to, ends)?;
            let one = |value| [(vec![], number(value))];
            metric("operations_in_doubt", "Operations that wait for an outcome from elsewhere")
                .gauges(to, one(operations.in_doubt))?;
            let oldest = operations.in_doubt_oldest.unwrap_or_default().as_secs_f64();
            metric("operations_in_doubt_oldest_age", "Age of the oldest operation in doubt")
                .in_unit(Unit::Seconds)
                .gauges(to, [(vec![], oldest)])?;
            metric("saga_branches_parked", "Branches of sagas that wait for an operator")
                .gauges(to, one(operations.parked))?;
            metric("locks_held", "Shards that are locked")
                .gauges(to, one(operations.locks_held))?;
        }
        if !logs.is_empty() {
            let label = |log: &'static str| vec![("log", log)];
            let sequences = |pick: fn(&crate::snapshot::Log) -> u64| {
                logs.iter().map(move |(name, log)| (label(name), number(pick(log))))
            };
            let counts = |pick: fn(&crate::snapshot::Log) -> u64| {
                logs.iter().map(move |(name, log)| (label(name), pick(log)))
            };
            metric("log_records", "Records appended").counters(to, counts(|log| log.records))?;
            metric("log_written", "Bytes written to the log, guards included")
                .in_unit(Unit::Bytes)
                .counters(to, counts(|log| log.bytes))?;
            metric("log_syncs", "Syncs of the log").counters(to, counts(|log| log.syncs))?;
            metric("log_last_sequence", "Number of the last record")
                .gauges(to, sequences(|log| log.last_sequence))?;
            metric("log_durable_sequence", "Number of the last durable record")
                .gauges(to, sequences(|log| log.durable_sequence))?;
            metric("log_corrupted_records", "Records lost to damage when the log was opened")
                .gauges(to, sequences(|log| log.corrupted_records))?;
            metric("log_scrubbed", "Bytes of sealed segments that were read again")
                .in_unit(Unit::Bytes)
                .counters(to, counts(|log| log.scrubbed_bytes))?;
            metric("log_damaged_places", "Places of sealed segments that were found damaged then")
                .gauges(to, sequences(|log| log.damaged_places))?;
            let flushes = logs.iter().map(|(name, log)| (label(name), &log.flushes));
            metric("log_flush", "Time that flushes took, write and sync")
                .in_unit(Unit::Seconds)
                .histograms(to, flushes)?;
        }
        if let Some(network) = network {
            let nodes =
                network.nodes.iter().map(|(state, n)| (vec![("state", *state)], number(*n)));
            metric("nodes", "Nodes by state").gauges(to, nodes)?;
            let messages = network.messages.iter().map(|(fate, n)| (vec![("fate", *fate)], *n));
            metric("messages", "Messages by what became of them").counters(to, messages)?;
            let crashes = network.crashes.iter().map(|(part, n)| (vec![("part", *part)], *n));
            metric("crashes", "Crashes by what crashed").counters(to, crashes)?;
            if let Some(simulated) = network.simulated {
                metric("simulated_time", "Simulated time that has passed")
                    .in_unit(Unit::Seconds)
                    .gauges(to, [(vec![], simulated.as_secs_f64())])?;
            }
        }
        if let Some(storage) = storage {
            for (name, help, value) in [
                ("storage_used", "Bytes that shards take", storage.used_bytes),
                ("storage_capacity", "Bytes that there is room for", storage.capacity_bytes),
            ] {
                metric(name, help).in_unit(Unit::Bytes).gauges(to, [(vec![], number(value))])?;
            }
            let shards =
                storage.shards.iter().map(|(state, n)| (vec![("state", *state)], number(*n)));
            metric("shards", "Shards by state").gauges(to, shards)?;
            let repairs = storage.repairs.iter().map(|(end, n)| (vec![("outcome", *end)], *n));
            metric("repairs", "Repairs that have ended, by outcome").counters(to, repairs)?;
        }
        if let Some(ledger) = ledger {
            let units = ledger.units.iter().map(|(of, n)| (vec![("account", *of)], number(*n)));
            metric("ledger_units", "Balances by kind of account; their sum is the supply")
                .gauges(to, units)?;
            metric("escrows_open", "Escrows that are not decided")
                .gauges(to, [(vec![], number(ledger.escrows_open))])?;
        }
        Ok(())
    }
}
