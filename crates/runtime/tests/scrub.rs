//! Sealed segments of a running node are read again, and what the disk has changed in them is told.

use base::{NodeName, RequestKey, ShardId};
use node::work::{self, Change};
use node::{Branch, Outcome, Request, Work};
use runtime::{Handle, Network, Options, ScrubConfig, Scrubbed, start};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const NAME: NodeName = NodeName::numbered(1);

/// Segments of a few records, which stay until the end.
fn options(scrub: Option<ScrubConfig>) -> Options {
    let mut options = Options::new(NAME);
    options.log.segment_bytes_first = 16 << 10;
    options.log.segment_bytes_max = 16 << 10;
    options.log.max_payload = 2 << 10;
    options.log.batch_bytes_max = 8 << 10;
    options.log.max_records = 1 << 20;
    options.scrub = scrub;
    options
}

fn without_rest() -> ScrubConfig {
    let pause = Duration::from_millis(5);
    ScrubConfig { bytes_per_second: 1 << 30, pause, ..ScrubConfig::default() }
}

async fn add(node: &Handle, key: u64) -> Result<()> {
    let work = work::encode(&[Change::Add { cell: 1, amount: 1 }]);
    let branch = Branch { shard: ShardId::numbered(1), node: NAME, work };
    let key = RequestKey::new(&key.to_le_bytes())?;
    let request = Request { key, work: Work::Transaction(vec![branch]) };
    assert_eq!(node.submit(request).await?, Outcome::Committed);
    Ok(())
}

fn segments(log: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(log)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wal") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

async fn scrubbed(node: &Handle, log: &str) -> Result<Scrubbed> {
    Ok(node.observer().stats().await?.logs[log].scrubbed.clone())
}

/// Changes one byte of a file that is read meanwhile: in place, for a file that is cut off and
/// written anew is, to whoever reads it just then, damaged in other places too.
fn flip(path: &Path, at: u64) -> Result<()> {
    let file = fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x10], at)?;
    Ok(())
}

/// Looks until it is so, for half a minute.
async fn until(node: &Handle, log: &str, is_so: impl Fn(&Scrubbed) -> bool) -> Result<Scrubbed> {
    for _ in 0..600 {
        let now = scrubbed(node, log).await?;
        if is_so(&now) {
            return Ok(now);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("after half a minute: {:?}", scrubbed(node, log).await?).into())
}

#[tokio::test]
async fn damage_to_a_sealed_segment_is_told_while_the_node_runs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for log in ["coordinator", "participant"] {
        let path = folder.path().join(log);
        let network = Network::default();
        let (node, _) = start(&path, options(Some(without_rest())), &network).await?;
        let log_path = path.join(log);
        let mut key = 0;
        while segments(&log_path)?.len() < 4 {
            key += 1;
            assert!(key < 2_000, "no segment is ever full");
            add(&node, key).await?;
        }
        // All that is sealed is whole, and was read.
        let whole = until(&node, log, |it| it.stats.rounds >= 2).await?;
        assert_eq!((whole.damaged, whole.unreadable), (vec![], None));
        assert!(whole.stats.bytes > 0);

        let victim = segments(&log_path)?.remove(1);
        flip(&victim, 3_000)?;
        let told = until(&node, log, |it| !it.damaged.is_empty()).await?;
        let named = |it: &wal_core::Corruption| {
            let segment = it.segment.map(|segment| segment.file_name());
            victim.file_name().and_then(|name| name.to_str()) == segment.as_deref()
        };
        assert!(told.damaged.iter().all(named), "{:?}", told.damaged);
        // It is told once, however often it is found, and the node goes on.
        let later = until(&node, log, |it| it.stats.rounds > told.stats.rounds + 2).await?;
        assert!(later.stats.damaged > told.damaged.len() as u64);
        assert_eq!(later.damaged, told.damaged);
        let before = node.value(1).await?;
        add(&node, key + 1).await?;
        node.quiet().await?;
        assert_eq!(node.value(1).await?, before + 1);
    }
    Ok(())
}

#[tokio::test]
async fn whoever_wants_none_has_none() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (node, _) = start(folder.path(), options(None), &Network::default()).await?;
    for key in 0..200 {
        add(&node, key).await?;
    }
    assert_eq!(scrubbed(&node, "coordinator").await?, Scrubbed::default());
    Ok(())
}
