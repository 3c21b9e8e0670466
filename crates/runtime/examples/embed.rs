//! A transfer that survives restarts.

use base::{NodeName, RequestKey, ShardId};
use node::{Branch, Outcome, Request, Work, work::Change, work::encode};
use runtime::{Network, Options, start};

/// Two lives of one node.
#[tokio::main(flavor = "current_thread")]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (folder, network) = (tempfile::tempdir()?, Network::default());
    let (bank, key) = (NodeName::numbered(1), RequestKey::new(b"rent, May")?);
    for life in ["first", "second"] {
        let (node, found) = start(folder.path(), Options::new(bank), &network).await?;
        let branch = |shard, cell, amount| Branch {
            shard: ShardId::numbered(shard),
            node: bank,
            work: encode(&[Change::Add { cell, amount }]),
        };
        let work = Work::Transaction(vec![branch(1, 100, -40), branch(2, 200, 40)]);
        let outcome = node.submit(Request { key: key.clone(), work }).await?;
        let unfinished: usize = found.iter().map(|log| log.operations.len()).sum();
        println!("{life} life: {unfinished} unfinished found; the transfer is {outcome:?}");
        assert_eq!(outcome, Outcome::Committed);
        if life == "second" {
            node.quiet().await?;
            assert_eq!((node.value(100).await?, node.value(200).await?), (-40, 40));
        }
        drop(node); // as good as a crash
    }
    Ok(())
}
