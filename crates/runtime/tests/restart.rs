//! A node over real files, started again and again.

use base::{NodeName, RequestKey, ShardId};
use node::work::{self, Change};
use node::{Branch, Outcome, Request, Work};
use runtime::{Network, Options, start};
use saga::{Action, Definition, Step};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn transfer(key: &str, from: NodeName, to: NodeName, amount: i64) -> Result<Request> {
    let branch = |node: NodeName, shard, amount| Branch {
        shard: ShardId::numbered(shard),
        node,
        work: work::encode(&[Change::Add { cell: 1, amount }]),
    };
    let branches = vec![branch(from, 1, -amount), branch(to, 2, amount)];
    Ok(Request { key: RequestKey::new(key.as_bytes())?, work: Work::Transaction(branches) })
}

fn order(key: &str, node: NodeName, last: Change) -> Result<Request> {
    let mut definition = Definition::builder();
    definition.step(Step::new(
        Action::Custom,
        node,
        work::encode(&[Change::Add { cell: 2, amount: 5 }]),
    ));
    definition.step(Step::new(Action::Custom, node, work::encode(&[last])).after(0));
    Ok(Request { key: RequestKey::new(key.as_bytes())?, work: Work::Saga(definition.build()?) })
}

#[tokio::test]
async fn what_was_answered_holds_after_every_start() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (a, b) = (NodeName::numbered(1), NodeName::numbered(2));
    for round in 1..=3 {
        let network = Network::default();
        let (first, found) = start(&folder.path().join("a"), Options::new(a), &network).await?;
        let (second, _) = start(&folder.path().join("b"), Options::new(b), &network).await?;
        assert!(found.iter().all(|log| log.anomalies.total() == 0 && !log.scanned.is_corrupt()));
        let known = transfer("the first", a, b, 40)?;
        assert_eq!(first.submit(known).await?, Outcome::Committed);
        let fresh = transfer(&format!("round {round}"), a, b, 1)?;
        assert_eq!(first.submit(fresh).await?, Outcome::Committed);
        let done = order(&format!("order {round}"), b, Change::Add { cell: 3, amount: 1 })?;
        assert_eq!(second.submit(done).await?, Outcome::Completed);
        let impossible = Change::Require { cell: 3, at_least: 1_000 };
        let undone = order(&format!("undone {round}"), b, impossible)?;
        assert_eq!(second.submit(undone).await?, Outcome::Compensated);
        first.quiet().await?;
        second.quiet().await?;
        assert_eq!((first.value(1).await?, second.value(1).await?), (-40 - round, 40 + round));
        assert_eq!(second.value(2).await?, 5 * round);
        assert_eq!(second.value(3).await?, round);
        drop(first);
        drop(second);
    }
    Ok(())
}

#[tokio::test]
async fn one_node_may_serve_two_shards_of_a_transaction() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (name, network) = (NodeName::numbered(1), Network::default());
    let (node, _) = start(folder.path(), Options::new(name), &network).await?;
    let branch = |shard, cell, amount| Branch {
        shard: ShardId::numbered(shard),
        node: name,
        work: work::encode(&[Change::Add { cell, amount }]),
    };
    let branches = vec![branch(1, 100, -40), branch(2, 200, 40)];
    let request = Request { key: RequestKey::new(b"rent")?, work: Work::Transaction(branches) };
    assert_eq!(node.submit(request).await?, Outcome::Committed);
    node.quiet().await?;
    assert_eq!((node.value(100).await?, node.value(200).await?), (-40, 40));
    Ok(())
}

#[tokio::test]
async fn many_requests_at_once_share_flushes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (name, network) = (NodeName::numbered(1), Network::default());
    let (node, _) = start(folder.path(), Options::new(name), &network).await?;
    let requests: Vec<Request> = (0..100)
        .map(|n| order(&format!("{n}"), name, Change::Add { cell: 3, amount: 1 }))
        .collect::<Result<_>>()?;
    let mut waiting = Vec::new();
    for request in requests {
        waiting.push(node.submit(request));
    }
    for outcome in waiting {
        assert_eq!(outcome.await?, Outcome::Completed);
    }
    node.quiet().await?;
    assert_eq!((node.value(2).await?, node.value(3).await?), (500, 100));
    Ok(())
}

#[tokio::test]
async fn a_directory_in_use_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let network = Network::default();
    let (node, _) = start(folder.path(), Options::new(NodeName::numbered(1)), &network).await?;
    let again = start(folder.path(), Options::new(NodeName::numbered(1)), &network).await;
    let error = again.map(drop).expect_err("the logs are locked");
    assert!(error.to_string().contains("is in use"), "{error}");
    drop(node);
    start(folder.path(), Options::new(NodeName::numbered(1)), &network).await?;
    Ok(())
}
