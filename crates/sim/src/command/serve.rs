//! `sim FILE --serve`: what a world says of itself, over HTTP, while it runs and after it has ended.
//!
//! The world knows nothing of it: it is looked at between two events, and what it has is copied. So the
//! run is the same run.

use crate::clock::Watch;
use crate::terminal::{Output, say};
use crate::{SeedArgs, Stop};
use base::{Latency, Time};
use coordinator::Engine;
use node::Node;
use server::{Health, Kind, Ledger, Log, Network, Operations, Server, Snapshot, Storage};
use sim::storage;
use sim::{Scenario, Verdict, World};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long an answer of the own server is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen of a world last, and what has to be remembered of what was seen before.
#[derive(Debug, Default)]
struct Board {
    shown: Arc<Mutex<Snapshot>>,
    /// Since when each operation in doubt was seen to be, by its node and its name.
    in_doubt: BTreeMap<(u32, String), Time>,
    /// Of each count: what lives of its node that have ended had counted, and what this one has.
    counts: BTreeMap<(u32, &'static str), (u64, u64)>,
}

impl Board {
    fn show(&self, snapshot: Snapshot) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    /// A count that begins anew with each life of a node, over all of them.
    fn count(&mut self, node: u32, what: &'static str, now: u64) -> u64 {
        let (before, last) = self.counts.entry((node, what)).or_default();
        if now < *last {
            *before += *last;
        }
        *last = now;
        *before + now
    }

    /// The sum of a count over all nodes that were ever seen.
    fn sum(&self, what: &'static str) -> u64 {
        let of = self.counts.iter().filter(|((_, other), _)| *other == what);
        of.map(|(_, (before, now))| before + now).sum()
    }

    /// Operations and logs of these nodes.
    fn nodes<'a>(
        &mut self,
        now: Time,
        nodes: impl Iterator<Item = (u32, &'a Node)>,
        flushes: &[Latency],
    ) -> (Operations, BTreeMap<&'static str, Log>) {
        let mut operations = Operations::default();
        let mut logs: BTreeMap<&'static str, Log> = BTreeMap::new();
        let mut in_doubt = BTreeMap::new();
        for (number, node) in nodes {
            let mut doubt = |name: String| {
                let key = (number, name);
                let since = self.in_doubt.get(&key).copied().unwrap_or(now);
                in_doubt.insert(key, since);
            };
            if let Some(host) = node.participant() {
                for (key, _) in host.participant().prepared() {
                    doubt(format!("{}.{}", key.tx.coordinator, key.tx.id));
                }
                operations.locks_held += host.locks().held(now).count() as u64;
            }
            if let Some(engine) = node.coordinator() {
                engine.sagas_in_doubt().for_each(|id| doubt(format!("saga {id}")));
                engine.transactions_in_doubt().for_each(|id| doubt(format!("transaction {id}")));
                self.engine(number, engine, &mut operations);
                self.log(
                    number,
                    engine.log(),
                    ["records", "bytes", "syncs"],
                    "coordinator",
                    &mut logs,
                );
            }
            if let Some(host) = node.participant() {
                let names = ["its records", "its bytes", "its syncs"];
                self.log(number, host.log(), names, "participant", &mut logs);
            }
        }
        let counted = [
            ("coordinator", ["records", "bytes", "syncs"]),
            ("participant", ["its records", "its bytes", "its syncs"]),
        ];
        for ((name, [records, bytes, syncs]), flushes) in counted.into_iter().zip(flushes) {
            let log = logs.entry(name).or_default();
            (log.records, log.bytes, log.syncs) =
                (self.sum(records), self.sum(bytes), self.sum(syncs));
            log.flushes = flushes.clone();
        }
        operations.in_doubt = in_doubt.len() as u64;
        operations.in_doubt_oldest = in_doubt.values().min().map(|since| now.since(*since));
        self.in_doubt = in_doubt;
        for (key, what) in ENDS {
            operations.ended.insert(key, self.sum(what));
        }
        (operations, logs)
    }

    fn engine(&mut self, number: u32, engine: &Engine, operations: &mut Operations) {
        for saga in engine.active_sagas() {
            *operations.active.entry((Kind::Saga, saga.phase().name())).or_default() += 1;
            operations.parked += saga.steps().filter(|step| step.is_parked()).count() as u64;
        }
        for transaction in engine.active_transactions() {
            let key = (Kind::Transaction, transaction.state());
            *operations.active.entry(key).or_default() += 1;
        }
        let stats = engine.stats();
        let counts = [
            stats.committed,
            stats.aborted,
            stats.completed,
            stats.compensated,
            stats.saga_aborted,
        ];
        for ((_, what), now) in ENDS.into_iter().zip(counts) {
            self.count(number, what, now);
        }
    }

    fn log(
        &mut self,
        number: u32,
        log: &wal_core::Log,
        [records, bytes, syncs]: [&'static str; 3],
        name: &'static str,
        logs: &mut BTreeMap<&'static str, Log>,
    ) {
        let stats = log.stats();
        self.count(number, records, stats.records);
        self.count(number, bytes, stats.bytes);
        self.count(number, syncs, stats.syncs);
        let shown = logs.entry(name).or_default();
        shown.last_sequence = shown.last_sequence.max(stats.last_sequence.0);
        shown.durable_sequence = shown.durable_sequence.max(log.durable().0);
        shown.corrupted_records += stats.corrupted_records;
    }

    /// Looks at a world of coordinators and participants.
    fn look(&mut self, world: &World<'_>, health: Health) {
        let counters = world.counters();
        let (operations, logs) =
            self.nodes(world.moment().now, world.nodes(), &world.flushes()[..]);
        let all = u64::from(*world.scenario().cluster.nodes.get_ref());
        let up = world.nodes().count() as u64;
        let lost = counters.net.lost + counters.net.partitioned + counters.net.dropped;
        let network = Network {
            nodes: [("up", up), ("down", all - up)].into(),
            messages: [
                ("sent", counters.sent),
                ("delivered", counters.delivered),
                ("to_nobody", counters.to_nobody),
                ("lost", lost),
            ]
            .into(),
            crashes: [
                ("coordinator", counters.coordinator_crashes),
                ("participant", counters.participant_crashes),
            ]
            .into(),
            simulated: Some(counters.simulated),
        };
        let (operations, network) = (Some(operations), Some(network));
        self.show(Snapshot { health, operations, logs, network, ..Snapshot::default() });
    }

    /// Looks at a world of storage nodes.
    fn look_at_storage(&mut self, world: &storage::World<'_>, health: Health) {
        let nodes = world.running().map(|(number, node)| (number, node.transactions()));
        let (operations, logs) = self.nodes(world.now(), nodes, world.flushes());
        let totals = world.totals().0;
        let (up, gone) = totals.nodes;
        let down = world.all_nodes() - up - gone;
        let network = Network {
            nodes: [("up", up), ("down", down), ("gone", gone)].into(),
            messages: [("delivered", totals.messages)].into(),
            crashes: [("node", totals.crashes)].into(),
            simulated: Some(totals.simulated),
        };
        for (number, node) in world.running() {
            let stats = node.stats();
            self.count(number, "verified", stats.repaired);
            self.count(number, "given up", stats.gave_up);
        }
        let (healthy, rotten) = world.shards();
        let storage = Storage {
            used_bytes: totals.space.0,
            capacity_bytes: totals.space.1,
            shards: [("healthy", healthy), ("corrupted", rotten)].into(),
            repairs: [("verified", self.sum("verified")), ("given_up", self.sum("given up"))]
                .into(),
        };
        let units: BTreeMap<&'static str, u64> =
            totals.units.iter().map(|(of, units)| (account(of), *units)).collect();
        let ledger =
            (!units.is_empty()).then_some(Ledger { units, escrows_open: totals.escrows.0 });
        self.show(Snapshot {
            health,
            operations: Some(operations),
            logs,
            network: Some(network),
            storage: Some(storage),
            ledger,
        });
    }
}

/// How operations end, and under which name that is counted here.
const ENDS: [((Kind, &str), &str); 5] = [
    ((Kind::Transaction, "committed"), "committed"),
    ((Kind::Transaction, "aborted"), "aborted"),
    ((Kind::Saga, "completed"), "completed"),
    ((Kind::Saga, "compensated"), "compensated"),
    ((Kind::Saga, "aborted"), "saga aborted"),
];

/// A kind of account as a label.
fn account(kind: &'static str) -> &'static str {
    match kind {
        "in wallets" => "wallets",
        "in escrow" => "escrow",
        other => other,
    }
}

fn health(verdict: &str, what: &str) -> Health {
    if verdict == "clean" {
        return Health::Ready;
    }
    Health::NotReady(format!("the run has ended: {verdict}: {what}"))
}

/// A server in a thread of its own.
struct Serving {
    address: SocketAddr,
    ended: oneshot::Sender<Option<Duration>>,
    thread: JoinHandle<Result<(), String>>,
}

impl Serving {
    #[allow(clippy::disallowed_methods, reason = "a shell: the world runs in the thread beside it")]
    fn begin(address: SocketAddr, shown: Arc<Mutex<Snapshot>>) -> Result<Serving, Stop> {
        let (bound, binds) = mpsc::channel();
        let (ended, ends) = oneshot::channel();
        let thread = std::thread::spawn(move || serve(address, shown, &bound, ends));
        match binds.recv() {
            Ok(address) => Ok(Serving { address, ended, thread }),
            // It has gone without an address: it says why.
            Err(_) => Err(Stop::infrastructure(miette::miette!("{}", why(thread)))),
        }
    }

    /// One request as a scraper makes it: the status.
    fn status(&self, path: &str) -> Result<u16, std::io::Error> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let host = self.address;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))
    }

    /// What its two pages answer, for the table.
    fn row(&self) -> Result<String, Stop> {
        let status = |path: &str| {
            self.status(path).map_err(|error| {
                Stop::infrastructure(miette::miette!("{path} of {}: {error}", self.address))
            })
        };
        let (metrics, health) = (status("/metrics")?, status("/healthz")?);
        Ok(format!("http://{}: /metrics {metrics}, /healthz {health}", self.address))
    }

    /// Serves on for a time, or until it is interrupted.
    fn end(self, lasts: Option<Duration>) -> Result<(), Stop> {
        // If it has failed there is nobody to hear it; it says why below.
        let _ = self.ended.send(lasts);
        match self.thread.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Stop::infrastructure(miette::miette!("{error}"))),
            Err(_) => Err(Stop::infrastructure(miette::miette!("the server has panicked"))),
        }
    }
}

fn why(thread: JoinHandle<Result<(), String>>) -> String {
    match thread.join() {
        Ok(Err(error)) => error,
        _ => "the server has ended before it began".to_owned(),
    }
}

fn serve(
    address: SocketAddr,
    shown: Arc<Mutex<Snapshot>>,
    bound: &mpsc::Sender<SocketAddr>,
    ends: oneshot::Receiver<Option<Duration>>,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot serve: {error}"))?;
    runtime.block_on(async move {
        let server = Server::bind(address).await.map_err(|error| error.to_string())?;
        // Who waits for it is there: it has just started this thread.
        let _ = bound.send(server.address());
        let source = move || shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let until = async {
            // Interrupted before the run has ended, the process ends as any other.
            match ends.await {
                Ok(Some(lasts)) => drop(tokio::time::timeout(lasts, tokio::signal::ctrl_c()).await),
                Ok(None) => drop(tokio::signal::ctrl_c().await),
                Err(_) => {}
            }
        };
        server.run(Arc::new(source), until).await.map_err(|error| error.to_string())
    })
}

/// What to serve, and for how long after the run.
pub struct Served {
    pub address: SocketAddr,
    pub lasts: Option<Duration>,
}

/// Runs one scenario with one seed, and serves it.
pub fn run(
    served: &Served,
    name: &str,
    text: &str,
    args: &SeedArgs,
    out: &mut Output,
) -> Result<u8, Stop> {
    let mut board = Board::default();
    board.show(Snapshot {
        health: Health::NotReady("the world has not begun".into()),
        ..Snapshot::default()
    });
    let serving = Serving::begin(served.address, Arc::clone(&board.shown))?;
    say(format_args!("serving http://{}/metrics and /healthz", serving.address));
    let watch = Watch::start();
    let seed = |default: u64| {
        let mut seeds = args.seeds(default).iter().collect::<Vec<u64>>().into_iter();
        match (seeds.next(), seeds.next()) {
            (Some(seed), None) => Ok(seed),
            _ => Err(Stop::usage(miette::miette!("--serve shows one run: name one seed"))),
        }
    };
    let code = if storage::Scenario::is_one(text) {
        let scenario = storage::Scenario::parse(text)
            .map_err(|error| Stop::usage(miette::miette!("{name}: {error}")))?;
        let report = storage::run_watched(&scenario, seed(scenario.seed)?, &mut |world| {
            let health = world.finding().map_or(Health::Ready, |finding| {
                Health::NotReady(format!("{}: {}", finding.rule, finding.what))
            });
            board.look_at_storage(world, health);
        });
        if report.exit_code() > 0 {
            let mut shown = board.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.health = health(report.verdict(), &report.what());
        }
        let row = serving.row()?;
        if args.json {
            out.line(format_args!("{}", report.json()));
        } else {
            out.write(format_args!("{}", report.table(watch.cpu())));
        }
        tell(&row, args, out);
        report.exit_code()
    } else {
        let scenario = Scenario::parse(name, text).map_err(Stop::usage)?;
        let seed = seed(scenario.seed)?;
        let plan = sim::plan::Plan::generate(&scenario, seed);
        let mut world = World::new(&scenario, seed, plan, sim::judge::all(&scenario));
        let report = sim::finish_while(&mut world, &mut |world| {
            board.look(world, Health::Ready);
            true
        });
        let report = report.expect("nobody stops it");
        let ended = match &report.verdict {
            Verdict::Clean => Health::Ready,
            other => health(other.name(), &other.what()),
        };
        board.look(&world, ended);
        let row = serving.row()?;
        let code = report.verdict.exit_code();
        if args.json {
            out.line(format_args!("{}", report.json()));
        } else {
            let mut tally = crate::table::Tally::default();
            tally.add(&report);
            out.write(format_args!("{}", tally.table(&scenario.name, &watch)));
        }
        tell(&row, args, out);
        code
    };
    serving.end(served.lasts)?;
    Ok(code)
}

fn tell(row: &str, args: &SeedArgs, out: &mut Output) {
    if args.json {
        say(format_args!("served {row}"));
    } else {
        out.line(format_args!("  {:<19} {row}", "served"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever restarts counts from nothing; what is shown only grows.
    #[test]
    fn counts_grow_over_restarts() {
        let mut board = Board::default();
        let seen = [5, 9, 2, 2, 4].map(|now| board.count(1, "records", now));
        assert_eq!(seen, [5, 9, 11, 11, 13]);
        assert_eq!(board.count(2, "records", 7), 7);
        assert_eq!(board.sum("records"), 20);
    }

    /// Watching changes nothing, in worlds of both kinds.
    #[test]
    fn a_watched_run_is_the_same_run() {
        let mut looks = 0u64;
        for seed in [3, 4, 5, 6, 7, 8, 11] {
            let scenario = storage::Scenario::parse(&storage::small(seed)).expect("a scenario");
            let mut board = Board::default();
            let watched = storage::run_watched(&scenario, seed, &mut |world| {
                looks += 1;
                board.look_at_storage(world, Health::Ready);
            });
            assert_eq!(watched.hash, storage::run(&scenario, seed).hash, "seed {seed}");
            let shown = board.shown.lock().expect("nobody panicked").clone();
            let operations = shown.operations.expect("there are some");
            assert!(operations.ended[&(Kind::Saga, "completed")] > 0, "{operations:?}");
            assert!(shown.logs["coordinator"].flushes.count() > 0);

            let text = sim::small(seed);
            let scenario = Scenario::parse("small", &text).expect("a scenario");
            let plan = sim::plan::Plan::generate(&scenario, seed);
            let mut world = World::new(&scenario, seed, plan, sim::judge::all(&scenario));
            let mut board = Board::default();
            let watched = sim::finish_while(&mut world, &mut |world| {
                board.look(world, Health::Ready);
                true
            });
            board.look(&world, Health::Ready);
            let watched = watched.expect("nobody stops it");
            assert_eq!(watched.hash, sim::run(&scenario, seed).hash, "seed {seed}");
            let shown = board.shown.lock().expect("nobody panicked").clone();
            let logs = shown.logs;
            assert!(logs["participant"].records > 0 && logs["participant"].flushes.count() > 0);
            assert_eq!(shown.network.expect("there is one").nodes["down"], 0);
        }
        assert!(looks > 10, "{looks}");
    }
}
