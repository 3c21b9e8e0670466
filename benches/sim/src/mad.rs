//! The same nodes in madsim: a node and an endpoint each, its network with its loss and latency. It
//! simulates only if the whole build has `--cfg madsim`.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use madsim::net::Endpoint;
use madsim::runtime::{Handle, Runtime};
use madsim::time::{Instant, sleep, timeout};

use crate::protocol::{AGAIN_MS, Chance, DOWN_MS, LATENCY_NS, LOST_OF, Message, Node, Workload};

const TAG: u64 = 1;
const PORT: u16 = 1;

fn ip(node: u32) -> IpAddr {
    let [_, a, b, c] = (node + 1).to_be_bytes();
    IpAddr::from([10, a, b, c])
}

/// What outlives a process: its node's state, as if a log held it.
type Disk = Arc<Mutex<Node>>;

async fn send(endpoint: &Endpoint, out: &mut Vec<Message>) {
    for message in out.drain(..) {
        let to = SocketAddr::new(ip(message.to), PORT);
        // A message that cannot be sent is lost, as others are.
        let _ = endpoint.send_to_raw(to, TAG, Box::new(message)).await;
    }
}

async fn serve(number: u32, disk: Disk, delivered: Arc<AtomicU64>, boots: Arc<AtomicU64>) {
    let at = SocketAddr::new(ip(number), PORT);
    let endpoint = Endpoint::bind(at).await.expect("the address is free: nobody else is here");
    let lock = || disk.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = Vec::new();
    if boots.fetch_add(1, Ordering::Relaxed) > 0
        && let Some(coordinator) = &mut lock().coordinator
    {
        coordinator.restarted(&mut out);
    }
    send(&endpoint, &mut out).await;
    let mut next = Instant::now();
    loop {
        let asks = lock().coordinator.as_ref().is_some_and(|one| !one.is_done());
        let received = if asks {
            let left = next.saturating_duration_since(Instant::now());
            timeout(left, endpoint.recv_from_raw(TAG)).await.ok()
        } else {
            Some(endpoint.recv_from_raw(TAG).await)
        };
        match received {
            Some(Ok((payload, _))) => {
                delivered.fetch_add(1, Ordering::Relaxed);
                let message = payload.downcast::<Message>().expect("nobody sends anything else");
                lock().receive(*message, &mut out);
            }
            Some(Err(_)) => return,
            None => {
                next = Instant::now() + Duration::from_millis(AGAIN_MS);
                if let Some(coordinator) = &lock().coordinator {
                    coordinator.ask(&mut out);
                }
            }
        }
        send(&endpoint, &mut out).await;
    }
}

/// Runs a world; returns how many messages arrived.
pub fn run(workload: &Workload, seed: u64) -> u64 {
    let mut config = madsim::Config::default();
    config.net.packet_loss_rate = 1.0 / LOST_OF as f64;
    config.net.send_latency =
        Duration::from_nanos(LATENCY_NS.0)..Duration::from_nanos(LATENCY_NS.1);
    let runtime = Runtime::with_seed_and_config(seed, config);
    let workload = *workload;
    runtime.block_on(async move {
        let handle = Handle::current();
        let chance = Chance::new(seed);
        let delivered = Arc::new(AtomicU64::new(0));
        let mut disks = Vec::new();
        let mut nodes = Vec::new();
        for number in 0..workload.nodes {
            let disk: Disk = Arc::new(Mutex::new(Node::new(number, &workload, &chance)));
            let boots = Arc::new(AtomicU64::new(0));
            let (kept, counted) = (disk.clone(), delivered.clone());
            let node = handle
                .create_node()
                .ip(ip(number))
                .init(move || serve(number, kept.clone(), counted.clone(), boots.clone()))
                .build();
            disks.push(disk);
            nodes.push(node.id());
        }
        let mut faults = Vec::new();
        for crash in 0..workload.crashes {
            let at = workload.first_crash_ms + workload.every_crash_ms * u64::from(crash);
            faults.push((at, crash, true));
            faults.push((at + DOWN_MS, crash, false));
        }
        faults.sort_unstable();
        let begin = Instant::now();
        for (at, crash, kill) in faults {
            madsim::time::sleep_until(begin + Duration::from_millis(at)).await;
            if kill {
                handle.kill(nodes[crash as usize]);
            } else {
                handle.restart(nodes[crash as usize]);
            }
        }
        let done = |disk: &Disk| {
            let node = disk.lock().unwrap_or_else(PoisonError::into_inner);
            node.coordinator.as_ref().is_none_or(|one| one.is_done())
        };
        while !disks.iter().all(done) {
            sleep(Duration::from_millis(5)).await;
        }
        delivered.load(Ordering::Relaxed)
    })
}
