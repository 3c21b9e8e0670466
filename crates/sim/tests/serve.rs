//! `sim FILE --serve`, over a real socket, read as a scraper reads it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A simulator that serves, on any port that is free.
struct Serving {
    child: Child,
    address: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        // If it has ended by itself there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(arguments: &[&str]) -> Serving {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(arguments)
        .args(["--serve", "127.0.0.1:0"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the simulator starts");
    let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("it says where it serves");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
    let address = address.unwrap_or_else(|| panic!("no address: {line}")).to_owned();
    // What else it says is nobody's concern, but has to go somewhere.
    #[allow(clippy::disallowed_methods, reason = "a test reads what another process says")]
    std::thread::spawn(move || {
        let mut rest = String::new();
        let _ = said.read_to_string(&mut rest);
    });
    Serving { child, address }
}

/// Status and body.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

fn value(body: &str, metric: &str) -> f64 {
    let line = body.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("no {metric} in\n{body}"));
    line.trim().parse().expect("a number")
}

/// What Prometheus's own tool says of it, where that is installed.
fn promtool_accepts(body: &str) {
    let tool = Path::new("/usr/bin/promtool");
    if !tool.exists() {
        return;
    }
    let mut child = Command::new(tool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is installed");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(body.as_bytes()).expect("it reads");
    drop(input);
    let ended = child.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// Reads the table up to the row of what was served: then the run has ended.
fn table(serving: &mut Serving) -> String {
    let mut stdout = BufReader::new(serving.child.stdout.take().expect("it is piped"));
    let mut text = String::new();
    while !text.contains("/metrics") {
        let read = stdout.read_line(&mut text).expect("it is text");
        assert!(read > 0, "it has ended: {text}");
    }
    text
}

/// The specification's fourth scenario ends with /metrics answering 200.
#[test]
fn the_full_pipeline_is_served() {
    let mut serving = serve(&["full-pipeline"]);
    let (status, _) = get(&serving.address, "/metrics");
    assert_eq!(status, 200, "while it runs");
    let table = table(&mut serving);
    assert!(table.contains("/metrics 200, /healthz 200"), "{table}");
    assert_eq!(get(&serving.address, "/healthz"), (200, "ok\n".to_owned()));
    let (status, body) = get(&serving.address, "/metrics");
    assert_eq!(status, 200);
    for (metric, expected) in [
        ("trinity_nodes{state=\"up\"}", 600.0),
        ("trinity_operations_in_doubt", 0.0),
        ("trinity_repairs_total{outcome=\"verified\"}", 10.0),
        ("trinity_escrows_open", 10.0),
    ] {
        assert_eq!(value(&body, metric), expected, "{metric}");
    }
    assert!(value(&body, "trinity_ledger_units{account=\"staked\"}") > 5_000_000.0);
    assert!(
        value(&body, "trinity_operations_ended_total{kind=\"saga\",outcome=\"compensated\"}")
            >= 5.0
    );
    assert!(value(&body, "trinity_log_flush_seconds_count{log=\"participant\"}") > 1_000.0);
    promtool_accepts(&body);
}

/// A world of coordinators and participants, for a time; then the exit code is the run's.
#[test]
fn a_plain_world_is_served_for_a_time() {
    let mut serving = serve(&["saga-recovery", "--serve-for", "3s"]);
    let table = table(&mut serving);
    assert!(table.contains("/metrics 200"), "{table}");
    let (status, body) = get(&serving.address, "/metrics");
    assert_eq!(status, 200);
    assert!(value(&body, "trinity_log_records_total{log=\"coordinator\"}") > 0.0);
    promtool_accepts(&body);
    assert_eq!(serving.child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn one_run_is_served_on_loopback_and_nothing_else() {
    let run = |arguments: &[&str]| {
        let ran = Command::new(env!("CARGO_BIN_EXE_sim"))
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("the simulator starts");
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let (code, said) = run(&["saga-recovery", "--serve", "0.0.0.0:0"]);
    assert!(code == Some(5) && said.contains("loopback"), "{code:?}: {said}");
    let (code, said) = run(&["saga-recovery", "clocks", "--serve", "127.0.0.1:0"]);
    assert!(code == Some(4) && said.contains("one scenario"), "{code:?}: {said}");
    let (code, said) = run(&["saga-recovery", "--seeds", "0..2", "--serve", "127.0.0.1:0"]);
    assert!(code == Some(4) && said.contains("one seed"), "{code:?}: {said}");
    assert_eq!(run(&["saga-recovery", "--serve-for", "1s"]).0, Some(4));
}
