//! What is served over a real socket, read as a scraper reads it, and by Prometheus itself.

use server::{
    Health, Kind, Latency, Ledger, Log, Network, Operations, ServeError, Server, Snapshot, Storage,
};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// One of everything.
fn full() -> Snapshot {
    let mut flushes = Latency::default();
    for micros in [30, 150, 150, 9_000_000] {
        flushes.observe(Duration::from_micros(micros));
    }
    let log = Log {
        records: 12,
        bytes: 3_456,
        syncs: 4,
        last_sequence: 12,
        durable_sequence: 11,
        corrupted_records: 0,
        scrubbed_bytes: 4096,
        damaged_places: 1,
        flushes,
    };
    Snapshot {
        health: Health::Ready,
        operations: Some(Operations {
            active: [((Kind::Saga, "executing"), 2), ((Kind::Transaction, "committing"), 1)].into(),
            ended: [((Kind::Transaction, "committed"), 7), ((Kind::Saga, "compensated"), 3)].into(),
            in_doubt: 1,
            in_doubt_oldest: Some(Duration::from_millis(1_500)),
            parked: 0,
            locks_held: 8,
        }),
        logs: [("coordinator", log.clone()), ("participant", log)].into(),
        network: Some(Network {
            nodes: [("up", 599), ("down", 1)].into(),
            messages: [("delivered", 1_000), ("lost", 10)].into(),
            crashes: [("coordinator", 20)].into(),
            simulated: Some(Duration::from_secs(12)),
        }),
        storage: Some(Storage {
            used_bytes: 65_536,
            capacity_bytes: 1 << 30,
            shards: [("healthy", 600), ("corrupted", 0)].into(),
            repairs: [("verified", 10)].into(),
        }),
        ledger: Some(Ledger { units: [("staked", 6_000_000)].into(), escrows_open: 10 }),
    }
}

/// A server that runs while it is kept.
struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<Result<(), ServeError>>,
}

async fn serve(source: impl server::Source) -> Running {
    let any = "127.0.0.1:0".parse().expect("an address");
    let server = Server::bind(any).await.expect("some port is free");
    let address = server.address();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(Arc::new(source), async { _ = stopped.await }));
    Running { address, stop: Some(stop), task }
}

/// Status line, head and body.
async fn get(address: SocketAddr, path: &str, accept: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn health_is_told_by_the_status() {
    let calls = AtomicU64::new(0);
    let running = serve(move || Snapshot {
        health: match calls.fetch_add(1, Ordering::Relaxed) {
            0 => Health::NotReady("the log is being recovered".into()),
            _ => Health::Ready,
        },
        ..Snapshot::default()
    })
    .await;
    let (head, body) = get(running.address, "/healthz", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(body, "the log is being recovered\n");
    let (head, body) = get(running.address, "/healthz", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(body, "ok\n");
    let (head, _) = get(running.address, "/nothing", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
}

#[tokio::test]
async fn both_formats_say_the_same_numbers() {
    let running = serve(full).await;
    let (head, open) = get(running.address, "/metrics", "application/openmetrics-text").await;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(open.ends_with("# EOF\n"));
    let (head, classic) = get(running.address, "/metrics", "*/*").await;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let values = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#')).map(String::from).collect()
    };
    assert_eq!(values(&open), values(&classic));
    for wanted in [
        "trinity_ready 1.0",
        "trinity_operations_active{kind=\"saga\",state=\"executing\"} 2.0",
        "trinity_operations_ended_total{kind=\"transaction\",outcome=\"committed\"} 7",
        "trinity_operations_in_doubt_oldest_age_seconds 1.5",
        "trinity_log_written_bytes_total{log=\"participant\"} 3456",
        "trinity_log_scrubbed_bytes_total{log=\"coordinator\"} 4096",
        "trinity_log_damaged_places{log=\"participant\"} 1.0",
        "trinity_log_flush_seconds_count{log=\"coordinator\"} 4",
        "trinity_log_flush_seconds_bucket{le=\"0.00005\",log=\"coordinator\"} 1",
        "trinity_log_flush_seconds_bucket{le=\"+Inf\",log=\"coordinator\"} 4",
        "trinity_nodes{state=\"up\"} 599.0",
        "trinity_messages_total{fate=\"lost\"} 10",
        "trinity_repairs_total{outcome=\"verified\"} 10",
        "trinity_ledger_units{account=\"staked\"} 6000000.0",
        "trinity_escrows_open 10.0",
    ] {
        assert!(classic.lines().any(|line| line == wanted), "{wanted} is not in\n{classic}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_shown() {
    let running = serve(Snapshot::default).await;
    let (_, body) = get(running.address, "/metrics", "*/*").await;
    let shown: Vec<&str> = body.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(shown, ["trinity_ready 1.0"]);
}

#[tokio::test]
async fn it_stops_when_it_is_told_to() {
    let mut running = serve(full).await;
    running.stop.take();
    let ended = tokio::time::timeout(Duration::from_secs(20), &mut running.task).await;
    ended.expect("it ends").expect("without a panic").expect("well");
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn only_loopback_is_served_and_a_port_once() {
    let error = Server::bind("0.0.0.0:0".parse().expect("an address")).await.expect_err("all");
    assert!(matches!(error, ServeError::NotLoopback { .. }), "{error}");
    let first = Server::bind("127.0.0.1:0".parse().expect("an address")).await.expect("free");
    let error = Server::bind(first.address()).await.expect_err("taken");
    assert!(error.to_string().contains("is it in use?"), "{error}");
}

/// A step that changes nothing.
struct Note;

type Answered = Result<runtime::Answer, Box<dyn std::error::Error + Send + Sync>>;

impl runtime::Action for Note {
    async fn run(&self, _: runtime::Call) -> Answered {
        Ok(runtime::Answer::Done)
    }

    async fn undo(&self, _: runtime::Call) -> Answered {
        Ok(runtime::Answer::Done)
    }
}

/// A coordinator over real files, before and after it stops.
#[tokio::test]
async fn a_coordinator_is_seen_as_it_is() {
    use runtime::{Coordinator, Definition, step};
    let folder = tempfile::tempdir().expect("a folder");
    let started = Coordinator::open(folder.path()).action("note", Note).start().await;
    let coordinator = started.expect("an empty folder is a new log");
    let mut saga = Definition::builder();
    saga.step(step("note", b"hello".as_slice()).expect("a short name"));
    let saga = saga.build().expect("one step");
    let mut operation = coordinator.submit("order 1", saga).expect("it is new");
    assert_eq!(operation.outcome().await, Ok(runtime::Outcome::Completed));
    let running = serve(coordinator.observer()).await;
    let (head, _) = get(running.address, "/healthz", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let (_, body) = get(running.address, "/metrics", "*/*").await;
    let value = |name: &str| -> f64 {
        let line = body.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| {
            panic!("{name} is not in\n{body}");
        });
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
    };
    assert!(
        (value("trinity_operations_ended_total{kind=\"saga\",outcome=\"completed\"}") - 1.0).abs()
            < 0.1
    );
    assert!(
        (value("trinity_log_durable_sequence{log=\"coordinator\"}")
            - value("trinity_log_last_sequence{log=\"coordinator\"}"))
        .abs()
            < 0.1
    );
    assert!(value("trinity_log_flush_seconds_count{log=\"coordinator\"}") >= 2.0);
    assert!(value("trinity_log_syncs_total{log=\"coordinator\"}") >= 2.0);
    drop(coordinator);
    let (head, body) = get(running.address, "/healthz", "*/*").await;
    assert!(head.starts_with("HTTP/1.1 503 ") && body.contains("stopped"), "{head} {body}");
}

/// A process that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where they are not installed this is skipped, aloud; whoever installs them says so with
/// `TRINITY_PROMETHEUS=1`, and then they must be there.
fn installed(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    let required = std::env::var_os("TRINITY_PROMETHEUS").is_some();
    assert!(there || !required, "TRINITY_PROMETHEUS is set, and there is no {program}");
    if !there {
        eprintln!("skipped: there is no {program} (Debian's package prometheus has it)");
    }
    there
}

#[tokio::test]
async fn promtool_accepts_every_metric() {
    if !installed("promtool") {
        return;
    }
    let running = serve(full).await;
    let (_, body) = get(running.address, "/metrics", "*/*").await;
    check(&body, true);
    // What it is given has to matter: a counter without its description is refused.
    check(&body.replace("# HELP trinity_messages_total", "# HELP trinity_messages"), false);
}

fn check(metrics: &str, accepted: bool) {
    use std::io::Write;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is installed");
    promtool.stdin.take().expect("piped").write_all(metrics.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(output.status.success(), accepted, "{}", String::from_utf8_lossy(&said));
}

fn prometheus(folder: &Path, target: SocketAddr, listen: SocketAddr) -> Ends {
    let config = format!(
        "global:\n  scrape_interval: 100ms\nscrape_configs:\n  - job_name: trinity\n    static_configs:\n      - targets: ['{target}']\n"
    );
    let file = folder.join("prometheus.yml");
    std::fs::write(&file, config).expect("a folder of our own");
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={listen}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it is installed");
    Ends(child)
}

#[tokio::test]
async fn a_real_prometheus_scrapes_it() {
    if !installed("prometheus") {
        return;
    }
    let running = serve(full).await;
    let folder = tempfile::tempdir().expect("a folder");
    // Whoever takes it in between makes this fail: it is asked for again then.
    let free = Server::bind("127.0.0.1:0".parse().expect("an address")).await.expect("free");
    let listen = free.address();
    drop(free);
    let _prometheus = prometheus(folder.path(), running.address, listen);
    let query = "/api/v1/query?query=trinity_messages_total";
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if TcpStream::connect(listen).await.is_err() {
            continue;
        }
        let (_, body) = get(listen, query, "application/json").await;
        if body.contains("\"fate\":\"lost\"") && body.contains("\"10\"") {
            let (_, up) = get(listen, "/api/v1/query?query=up", "application/json").await;
            assert!(up.contains("\"1\""), "{up}");
            return;
        }
    }
    panic!("Prometheus has not seen the metrics within half a minute");
}
