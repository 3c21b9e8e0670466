//! Nodes of several processes, each with its own folder, and transactions over all of them.
//!
//! In three terminals, all with the same addresses, each with its own number:
//!
//! ```sh
//! cargo run -p runtime --example peers -- /tmp/peers 1 127.0.0.1:7001 127.0.0.1:7002 127.0.0.1:7003
//! ```
//!
//! Each node moves a coin from the second to the third a hundred times, as seen from itself. Kill any of
//! them at any moment and start it again: every transfer is made whole, or not at all.

use base::{NodeName, RequestKey, ShardId};
use node::{Branch, Outcome, Request, Work, work};
use runtime::{Handle, Links, Network, Options, start};
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// What can go wrong.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Where the nodes of a group are; they are numbered by their places, from 1.
pub type Group = [SocketAddr];

/// A node of the group, and its links to the others. Dropping both is as good as a crash.
pub async fn join(folder: &Path, number: u64, group: &Group) -> Result<(Handle, Links), Failure> {
    let network = Network::default();
    let (mut own, mut others) = (None, Vec::new());
    for (at, address) in (1..).zip(group) {
        match at == number {
            true => own = Some(*address),
            false => others.push((NodeName::numbered(at), *address)),
        }
    }
    let links = Links::open(&network, own.ok_or("no address has this number")?).await?;
    for (name, address) in others {
        links.reach(name, address);
    }
    let mut options = Options::new(NodeName::numbered(number));
    options.resend_after = Duration::from_millis(50);
    let (node, _) = start(&folder.join(number.to_string()), options, &network).await?;
    Ok((node, links))
}

/// The cell that a transfer of a node's is about, at both ends.
pub fn cell(number: u64, transfer: u64) -> u64 {
    number << 32 | transfer
}

/// A coin from the node behind this one to the node behind that.
pub async fn transfer(
    node: &Handle,
    number: u64,
    group: &Group,
    transfer: u64,
) -> Result<Outcome, Failure> {
    let cell = cell(number, transfer);
    let branch = |behind: u64, amount| {
        let node = NodeName::numbered((number - 1 + behind) % group.len() as u64 + 1);
        let work = work::encode(&[work::Change::Add { cell, amount }]);
        Branch { shard: ShardId(node.0), node, work }
    };
    let work = Work::Transaction(vec![branch(1, -1), branch(2, 1)]);
    // The same after every start: it is the same transfer.
    let key = RequestKey::new(&cell.to_le_bytes())?;
    Ok(node.submit(Request { key, work }).await?)
}

/// A node of the group.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> Result<(), Failure> {
    const USAGE: &str = "a folder, this node's number and the addresses of three nodes or more";
    let mut arguments = std::env::args().skip(1);
    let (folder, number) = (arguments.next().ok_or(USAGE)?, arguments.next().ok_or(USAGE)?);
    let group = arguments.map(|address| address.parse()).collect::<Result<Vec<_>, _>>()?;
    if group.len() < 3 {
        return Err(USAGE.into());
    }
    let number = number.parse()?;
    let (node, links) = join(Path::new(&folder), number, &group).await?;
    for turn in 0..100 {
        println!("transfer {turn}: {:?}", transfer(&node, number, &group, turn).await?);
    }
    node.quiet().await?;
    println!("all mine are done; {:?}", links.stats());
    println!("the others may still need me: stop me with Ctrl-C");
    std::future::pending().await
}
