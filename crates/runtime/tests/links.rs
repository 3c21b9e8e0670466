//! Nodes of several processes: here each has a network of its own, and reaches the others over loopback.

use base::prng::{Key, Stream};
use base::{NodeName, RequestKey, ShardId};
use node::work::{self, Change};
use node::{Branch, Outcome, Request, Work};
use runtime::{Handle, Links, Network, Options, start};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// As much of a process as there is in one: its node, and its way to others.
struct Life {
    node: Handle,
    links: Links,
}

async fn live(folder: &std::path::Path, name: NodeName) -> Result<Life> {
    let network = Network::default();
    let links = Links::open(&network, LOOPBACK).await?;
    let mut options = Options::new(name);
    options.resend_after = Duration::from_millis(20);
    let (node, _) = start(&folder.join(name.number().to_string()), options, &network).await?;
    Ok(Life { node, links })
}

fn transfer(key: u64, from: NodeName, to: NodeName) -> Result<Request> {
    let branch = |node: NodeName, amount| Branch {
        shard: ShardId(node.0),
        node,
        // Each has a cell of its own: none is in another's way.
        work: work::encode(&[Change::Add { cell: key, amount }]),
    };
    let branches = vec![branch(from, -1), branch(to, 1)];
    Ok(Request { key: RequestKey::new(&key.to_le_bytes())?, work: Work::Transaction(branches) })
}

/// What a node holds in all, once it has nothing unfinished.
async fn total(life: &Life, keys: impl Iterator<Item = u64>) -> Result<i64> {
    life.node.quiet().await?;
    let mut total = 0;
    for key in keys {
        total += life.node.value(key).await?;
    }
    Ok(total)
}

#[tokio::test]
async fn nodes_of_several_processes_commit_together() -> Result {
    let folder = tempfile::tempdir()?;
    let names = [1, 2, 3].map(NodeName::numbered);
    let mut lives = Vec::new();
    for name in names {
        lives.push(live(folder.path(), name).await?);
    }
    for (life, own) in lives.iter().zip(names) {
        for (other, name) in lives.iter().zip(names).filter(|(_, name)| *name != own) {
            life.links.reach(name, other.links.address());
        }
    }
    for round in 0..30 {
        let at = round as usize;
        let (from, to) = (names[(at + 1) % 3], names[(at + 2) % 3]);
        let outcome = lives[at % 3].node.submit(transfer(round, from, to)?).await?;
        assert_eq!(outcome, Outcome::Committed);
    }
    // One of them dies, and comes back at another address.
    drop(lives.remove(2));
    let again = live(folder.path(), names[2]).await?;
    for (life, name) in lives.iter().zip(names) {
        life.links.reach(names[2], again.links.address());
        again.links.reach(name, life.links.address());
    }
    lives.push(again);
    // A transaction that names the life before may be aborted; whoever asks anew is served.
    for (round, life) in (100..).zip(&lives) {
        let mut attempts = (0..100).map(|attempt| round + 10 * attempt);
        loop {
            let key = attempts.next().ok_or("not one of a hundred was committed")?;
            let request = transfer(key, names[0], names[2])?;
            if life.node.submit(request).await? == Outcome::Committed {
                break;
            }
        }
    }
    let mut totals = Vec::new();
    for life in &lives {
        totals.push(total(life, (0..30).chain(100..1_100)).await?);
    }
    assert_eq!(totals, [-3, 0, 3]);
    Ok(())
}

/// Passes on what comes, and after some bytes flips one, or closes the connection in the middle of a
/// message. How many connections it has spoilt.
async fn bad_line(
    to: SocketAddr,
    mut chance: Stream,
) -> Result<(SocketAddr, tokio::task::JoinHandle<u32>)> {
    let listener = TcpListener::bind(LOOPBACK).await?;
    let address = listener.local_addr()?;
    let line = tokio::spawn(async move {
        let mut spoilt = 0;
        // After this many it is a good line.
        while spoilt < 40 {
            let Ok((mut from, _)) = listener.accept().await else { break };
            let Ok(mut to) = TcpStream::connect(to).await else { continue };
            let (mut left, flips) = (chance.below(4_000) as usize, chance.below(2) == 0);
            let mut bytes = [0; 512];
            while let Ok(read @ 1..) = from.read(&mut bytes).await {
                let last = read >= left;
                let read = read.min(left);
                if last && flips && read > 0 {
                    bytes[read - 1] ^= 0x10;
                }
                if to.write_all(&bytes[..read]).await.is_err() || last {
                    spoilt += 1;
                    break;
                }
                left -= read;
            }
        }
        while let Ok((mut from, _)) = listener.accept().await {
            let Ok(mut to) = TcpStream::connect(to).await else { continue };
            tokio::spawn(async move { tokio::io::copy(&mut from, &mut to).await });
        }
        spoilt
    });
    Ok((address, line))
}

#[tokio::test]
async fn a_line_that_breaks_and_lies_changes_nothing() -> Result {
    let folder = tempfile::tempdir()?;
    let names = [1, 2].map(NodeName::numbered);
    let (a, b) = (live(folder.path(), names[0]).await?, live(folder.path(), names[1]).await?);
    let (there, out) = bad_line(b.links.address(), Key::root(1).keyed(0).stream()).await?;
    let (back, home) = bad_line(a.links.address(), Key::root(1).keyed(1).stream()).await?;
    a.links.reach(names[1], there);
    b.links.reach(names[0], back);
    let mut committed = 0;
    for key in 0..200 {
        let outcome = a.node.submit(transfer(key, names[0], names[1])?);
        match tokio::time::timeout(Duration::from_secs(60), outcome).await?? {
            Outcome::Committed => committed += 1,
            Outcome::Aborted => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((total(&a, 0..200).await?, total(&b, 0..200).await?), (-committed, committed));
    assert!(committed > 0);
    let refused = a.links.stats().refused + b.links.stats().refused;
    assert!(refused > 4, "{refused}: the lines were hardly bad");
    out.abort();
    home.abort();
    Ok(())
}

#[tokio::test]
async fn whoever_does_not_speak_as_a_node_harms_nobody() -> Result {
    let folder = tempfile::tempdir()?;
    let names = [1, 2].map(NodeName::numbered);
    let (a, b) = (live(folder.path(), names[0]).await?, live(folder.path(), names[1]).await?);
    a.links.reach(names[1], b.links.address());
    b.links.reach(names[0], a.links.address());
    let stray = {
        // Whole, and for a node that is not there.
        let body = [&[7; 64][..], &[coordinator::wire::VERSION, 12]].concat();
        let crc = crc32c::crc32c(&body).to_le_bytes();
        [b"TRINITY\x01", &(body.len() as u32).to_le_bytes()[..], &crc, &body].concat()
    };
    let noise: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"TRINITY\x02",
        b"TRINITY\x01\xff\xff\xff\xff0000",
        b"TRINITY\x01\x04\0\0\0\0\0\0\0abcd",
        &stray,
    ];
    for bytes in noise {
        let mut stream = TcpStream::connect(a.links.address()).await?;
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        // It is closed from the other side, and nothing is answered.
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
        assert!(read.await?.is_err() || answer.is_empty());
    }
    assert_eq!(a.node.submit(transfer(1, names[0], names[1])?).await?, Outcome::Committed);
    let stats = a.links.stats();
    assert_eq!((stats.refused, stats.strayed), (4, 1), "{stats:?}");
    assert!(stats.received > 0 && stats.sent > 0, "{stats:?}");
    Ok(())
}
