//! Three processes over loopback, killed at random and started again, while each has transactions over the
//! other two: all are whole or not there at all, and all end.
//!
//! A program of its own: it starts itself again as the processes that are killed. Few kills in every test
//! run; `cargo xtask crash cluster` kills them hundreds of times.

#![expect(clippy::disallowed_methods, reason = "a process is killed at some moment of real time")]

#[path = "../examples/peers.rs"]
#[expect(dead_code, reason = "the example is as it is, its start included")]
mod peers;

use base::prng::Key;
use peers::Failure;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

const NODES: u64 = 3;
/// The node that a process is; the parent does not have it.
const ROLE: &str = "CLUSTER_NODE";
/// So many transfers of each node are under way at once.
const AT_ONCE: u64 = 16;
/// With each kill so many transfers of each node are new.
const TRANSFERS: u64 = 1_000;
/// Everything that is left has to end within this, once nobody is killed any more.
const PATIENCE: Duration = Duration::from_secs(120);
/// A group lives for so many kills.
const KILLS: u64 = 10;

fn main() -> Result<(), Failure> {
    if let Ok(role) = std::env::var(ROLE) {
        return child(role.parse()?);
    }
    let rounds = std::env::var("CLUSTER_CRASH_ROUNDS");
    let mut left: u64 = rounds.map_or(Ok(10), |rounds| rounds.parse())?;
    let rounds = left;
    let (mut transfers, mut committed, mut at_work) = (0, 0, 0);
    for life in 0.. {
        let kills = left.min(KILLS);
        if kills == 0 {
            break;
        }
        left -= kills;
        let found = live(life, kills)?;
        transfers += found.transfers;
        committed += found.committed;
        at_work += found.at_work;
    }
    println!(
        "{rounds} kills, {at_work} of them at work, {transfers} transfers, {committed} committed"
    );
    assert!(committed * 2 > transfers, "hardly one was committed");
    assert!(at_work * 2 >= rounds, "too few kills came in the middle");
    Ok(())
}

// ---- a node ----

/// Says each outcome that it hears. When it is told so it says what it holds, and ends when its input does.
fn child(number: u64) -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(transfers)) = (arguments.next(), arguments.next()) else {
        return Err("a folder and a number are missing".into());
    };
    let transfers: u64 = transfers.parse()?;
    let group = arguments.map(|address| address.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let tokio = tokio::runtime::Runtime::new()?;
    tokio.block_on(async {
        let (node, _links) = peers::join(Path::new(&folder), number, &group).await?;
        let (node, group) = (std::sync::Arc::new(node), std::sync::Arc::new(group));
        let next = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let (node, group, next) = (node.clone(), group.clone(), next.clone());
            workers.spawn(async move {
                loop {
                    let turn = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if turn >= transfers {
                        return Ok::<(), Failure>(());
                    }
                    let outcome = peers::transfer(&node, number, &group, turn).await?;
                    say(&format!("told {turn} {outcome:?}"));
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        say("idle");
        let mut orders = tokio::io::BufReader::new(tokio::io::stdin());
        let mut order = String::new();
        while tokio::io::AsyncBufReadExt::read_line(&mut orders, &mut order).await? > 0 {
            node.quiet().await?;
            for owner in 1..=NODES {
                for turn in 0..transfers {
                    let cell = peers::cell(owner, turn);
                    let value = node.value(cell).await?;
                    if value != 0 {
                        say(&format!("holds {cell} {value}"));
                    }
                }
            }
            say("done");
        }
        Ok(())
    })
}

/// One write: a line is said whole, or not at all.
fn say(line: &str) {
    let said = std::io::stdout().write_all(format!("{line}\n").as_bytes());
    said.expect("the parent reads to the end");
}

// ---- the group ----

struct Node {
    child: Child,
    orders: ChildStdin,
    lines: Receiver<String>,
}

struct Group<'a> {
    folder: &'a Path,
    addresses: Vec<SocketAddr>,
    /// What each node was told of each of its transfers.
    told: BTreeMap<(u64, u64), String>,
}

impl Group<'_> {
    fn start(&self, number: u64, transfers: u64) -> Result<Node, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(self.folder)
            .arg(transfers.to_string())
            .args(self.addresses.iter().map(SocketAddr::to_string))
            .env(ROLE, number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().ok_or("its input was piped")?;
        let stdout = child.stdout.take().ok_or("its output was piped")?;
        let (heard, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            while lines.next().is_some_and(|line| heard.send(line).is_ok()) {}
        });
        Ok(Node { child, orders, lines })
    }

    fn kill(&mut self, number: u64, mut node: Node) -> Result<(), Failure> {
        node.child.kill()?;
        node.child.wait()?;
        // All that it said before.
        for line in node.lines {
            self.hear(number, &line)?;
        }
        Ok(())
    }

    /// # Errors
    /// It says another outcome than it did before.
    fn hear(&mut self, number: u64, line: &str) -> Result<(), Failure> {
        let Some(("told", said)) = line.split_once(' ') else { return Ok(()) };
        let (turn, outcome) = said.split_once(' ').ok_or("a line is three words")?;
        let before = self.told.entry((number, turn.parse()?)).or_insert_with(|| outcome.into());
        if before != outcome {
            return Err(format!("node {number} was told {before} of {turn}, then {outcome}").into());
        }
        Ok(())
    }

    /// Hears it until it says this.
    fn until(&mut self, number: u64, node: &Node, what: &str) -> Result<Vec<String>, Failure> {
        let (begun, mut lines) = (Instant::now(), Vec::new());
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let line = node.lines.recv_timeout(left);
            let line = line.map_err(|_| format!("node {number} never said {what:?}: {lines:?}"))?;
            self.hear(number, &line)?;
            if line == what {
                return Ok(lines);
            }
            lines.push(line);
        }
    }
}

/// What a group has been through.
#[derive(Default)]
struct Found {
    transfers: u64,
    committed: u64,
    /// Kills of a node that had not heard of everything that it had asked for.
    at_work: u64,
}

/// A group, its kills, its end.
fn live(life: u64, kills: u64) -> Result<Found, Failure> {
    let folder = tempfile::tempdir()?;
    let free = (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0"));
    let free = free.collect::<Result<Vec<_>, _>>()?;
    let addresses = free.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    drop(free);
    let mut group = Group { folder: folder.path(), addresses, told: BTreeMap::new() };
    let random = Key::root(2).keyed(life);
    let transfers = TRANSFERS * (kills + 1);
    let (mut nodes, mut asked) = (BTreeMap::new(), BTreeMap::new());
    let mut at_work = 0;
    for number in 1..=NODES {
        nodes.insert(number, group.start(number, TRANSFERS)?);
    }
    for kill in 0..kills {
        let draw = |n| random.draw(kill, n);
        std::thread::sleep(Duration::from_millis(draw(0).below(250)));
        let number = 1 + draw(1).below(NODES);
        let node = nodes.remove(&number).ok_or("every node runs")?;
        group.kill(number, node)?;
        let told = group.told.range((number, 0)..(number + 1, 0)).count() as u64;
        at_work += u64::from(told < asked.get(&number).copied().unwrap_or(TRANSFERS));
        asked.insert(number, TRANSFERS * (kill + 2));
        // The others meet nobody there for a while, or hardly notice.
        std::thread::sleep(Duration::from_millis(draw(2).below(2) * draw(3).below(300)));
        nodes.insert(number, group.start(number, TRANSFERS * (kill + 2))?);
    }
    // Each once more, for all that were ever asked for.
    for number in 1..=NODES {
        let node = nodes.remove(&number).ok_or("every node runs")?;
        group.kill(number, node)?;
        nodes.insert(number, group.start(number, transfers)?);
    }
    for (number, node) in &nodes {
        group.until(*number, node, "idle")?;
    }
    let mut held: BTreeMap<u64, BTreeMap<u64, i64>> = BTreeMap::new();
    for (number, node) in &mut nodes {
        node.orders.write_all(b"what do you hold?\n")?;
        for line in group.until(*number, node, "done")? {
            let mut words = line.split(' ').skip(1);
            let (Some(cell), Some(value)) = (words.next(), words.next()) else {
                return Err(format!("node {number} said {line:?}").into());
            };
            held.entry(*number).or_default().insert(cell.parse()?, value.parse()?);
        }
    }
    for (number, Node { mut child, orders, .. }) in nodes {
        drop(orders);
        let status = child.wait()?;
        assert!(status.success(), "node {number}: {status}");
    }
    Ok(Found { at_work, ..judge(&group, &held, transfers)? })
}

/// Every transfer has an outcome, and both ends say the same.
fn judge(
    group: &Group<'_>,
    held: &BTreeMap<u64, BTreeMap<u64, i64>>,
    transfers: u64,
) -> Result<Found, Failure> {
    let mut found = Found::default();
    for owner in 1..=NODES {
        for turn in 0..transfers {
            let outcome = group.told.get(&(owner, turn)).ok_or("an outcome is missing")?;
            let cell = peers::cell(owner, turn);
            let at = |behind: u64| {
                let number = (owner - 1 + behind) % NODES + 1;
                held.get(&number).and_then(|cells| cells.get(&cell)).copied().unwrap_or(0)
            };
            let expected = match outcome.as_str() {
                "Committed" => (-1, 1),
                "Aborted" => (0, 0),
                other => return Err(format!("node {owner} was told {other} of {turn}").into()),
            };
            assert_eq!((at(1), at(2)), expected, "node {owner}, transfer {turn}: {outcome}");
            assert_eq!(at(0), 0, "node {owner}, transfer {turn}: it had no part in it");
            found.transfers += 1;
            found.committed += u64::from(expected.1 == 1);
        }
    }
    Ok(found)
}
