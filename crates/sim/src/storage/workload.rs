//! Clients of the storage network: what they want, of which node, and what they know.

use super::scenario::Scenario;
use base::prng::Key;
use base::{NodeName, RequestKey, ShardId};
use erasure::{Codec, Scheme};
use incentives::{Ask, Units};
use network::Request;
use node::work::{Change, encode};
use node::{Branch, Work};
use saga::{Action, Definition, Step};
use std::fmt;
use store::{Digest, EncodedShard, Manifest, Salt};

/// What one client wants.
#[derive(Clone, Debug)]
pub enum Want {
    /// Store the file of this number.
    Put(u32),
    /// A saga; false: its last step is refused.
    Saga(bool),
    /// A transaction.
    Transaction,
    /// Locks at a table.
    Locks,
    /// The treasury gives a node what it puts at stake.
    Grant(u32),
    /// It does.
    Stake(u32),
    /// Fetch the file of this number, and compare.
    Get(u32),
    /// Something else of the ledger.
    Ledger(Ask),
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Want::Put(file) => write!(f, "file {file} to be stored"),
            Want::Saga(true) => f.write_str("a saga"),
            Want::Saga(false) => f.write_str("a saga that is refused"),
            Want::Transaction => f.write_str("a transaction"),
            Want::Locks => f.write_str("locks"),
            Want::Grant(node) => write!(f, "units for n{node}"),
            Want::Stake(node) => write!(f, "the stake of n{node}"),
            Want::Get(file) => write!(f, "file {file}"),
            Want::Ledger(ask) => write!(f, "{ask:?}"),
        }
    }
}

/// One client, its number from 1.
#[derive(Clone, Debug)]
pub struct Client {
    /// What it wants.
    pub want: Want,
    /// Of whom.
    pub node: u32,
    /// When it asks next.
    pub asks: base::Time,
    /// When it asked first, if it has.
    pub asked: Option<base::Time>,
    /// Whether it was answered.
    pub answered: bool,
}

impl Client {
    /// One that has not asked yet.
    #[must_use]
    pub fn new(want: Want, node: u32) -> Client {
        Client { want, node, asks: base::Time::ZERO, asked: None, answered: false }
    }
}

/// A file as its owner has it.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name, hashed.
    pub name: Digest,
    /// Its content.
    pub content: Vec<u8>,
    /// What encoding made of it.
    pub manifest: Manifest,
    /// Its shards.
    pub shards: Vec<EncodedShard>,
}

/// The owner's key of all files.
#[must_use]
pub fn owner() -> store::Key {
    store::Key::new([0x5A; 32])
}

/// All files. No two of them have a shard in common (the padding of a short chunk, say), so that what
/// befalls one says nothing about another.
#[must_use]
pub fn files(scenario: &Scenario, key: &Key) -> Vec<File> {
    let (mut codec, mut seen) = (Codec::new(), std::collections::BTreeSet::new());
    let mut files = Vec::new();
    for number in 0..scenario.storage.files {
        let made = (0..1_000).map(|attempt| file(scenario, key, &mut codec, (number, attempt)));
        let alone = |file: &File| {
            let digests: std::collections::BTreeSet<Digest> =
                file.shards.iter().map(|shard| shard.digest).collect();
            digests.len() == file.shards.len() && digests.is_disjoint(&seen)
        };
        let file = made.into_iter().find(alone);
        let file = file.expect("files of other lengths have other shards");
        seen.extend(file.shards.iter().map(|shard| shard.digest));
        files.push(file);
    }
    files
}

/// A file: a function of the seed, its number, and how often that was drawn before.
#[must_use]
pub fn file(
    scenario: &Scenario,
    key: &Key,
    codec: &mut Codec,
    (number, attempt): (u32, u32),
) -> File {
    let storage = &scenario.storage;
    let mut stream =
        key.child("storage.file").keyed(u64::from(attempt) << 32 | u64::from(number)).stream();
    let length = stream.between(1, storage.file_bytes.max(1)) as usize;
    // Half of it is text that compresses, half of it noise.
    let noise = stream.below(2) == 0;
    let byte = |stream: &mut base::prng::Stream| {
        if noise { stream.next_u64() as u8 } else { b"storage "[stream.below(8) as usize] }
    };
    let content: Vec<u8> = (0..length).map(|_| byte(&mut stream)).collect();
    let scheme = Scheme::new(storage.data, storage.parity).expect("checked when it was parsed");
    let config = store::Config { shard_bytes: storage.shard_bytes, ..store::Config::new(scheme) };
    let salt = Salt(stream.next_u128().to_le_bytes());
    let encoded = store::encode(&config, codec, &owner(), salt, &content);
    let (manifest, shards) = encoded.expect("a short file, and shards of a length that is allowed");
    let name = Digest::of(format!("file {number}").as_bytes());
    File { name, content, manifest, shards }
}

/// What clients want first, in this order; what they want at the end is in [`gets`].
pub fn wants_first(scenario: &Scenario) -> impl Iterator<Item = Want> + use<> {
    let storage = scenario.storage.clone();
    let lockers = if storage.locks > 0 { storage.lockers } else { 0 };
    let stakers = if storage.stake > 0 { storage.nodes } else { 0 };
    (0..storage.files)
        .map(Want::Put)
        .chain((0..storage.sagas).map(|_| Want::Saga(true)))
        .chain((0..storage.sagas_failing).map(|_| Want::Saga(false)))
        .chain((0..storage.transactions).map(|_| Want::Transaction))
        .chain((0..lockers).map(|_| Want::Locks))
        .chain((0..stakers).map(Want::Grant))
        .chain((0..stakers).map(Want::Stake))
}

/// Those who want it.
#[must_use]
pub fn wants(scenario: &Scenario, key: &Key) -> Vec<Client> {
    clients(wants_first(scenario).collect(), scenario.storage.nodes, key)
}

/// At the end every file is fetched, each by another node.
#[must_use]
pub fn gets(files: &[u32], nodes: u32, key: &Key) -> Vec<Client> {
    clients(files.iter().copied().map(Want::Get).collect(), nodes, &key.child("gets"))
}

fn clients(wants: Vec<Want>, nodes: u32, key: &Key) -> Vec<Client> {
    let key = key.child("storage.client");
    let of = |(number, want)| {
        let node = match want {
            Want::Grant(_) => 0,
            Want::Stake(node) => node,
            _ => key.draw(number, 0).below(u64::from(nodes)) as u32,
        };
        Client::new(want, node)
    };
    (0u64..).zip(wants).map(of).collect()
}

/// The locks that clients take, each with the node that keeps what it guards.
#[must_use]
pub fn guarded(scenario: &Scenario, key: &Key) -> Vec<(ShardId, u32)> {
    let (nodes, key) = (u64::from(scenario.storage.nodes), key.child("storage.guarded"));
    let at = |n| key.draw(u64::from(n), 0).below(nodes) as u32;
    (0..scenario.storage.locks).map(|n| (ShardId::numbered(u64::from(n) << 20), at(n))).collect()
}

/// The request of a client.
#[must_use]
pub fn request(
    scenario: &Scenario,
    key: &Key,
    number: u64,
    client: &Client,
    files: &[File],
) -> Request {
    let storage = &scenario.storage;
    let mut stream = key.child("storage.request").keyed(number).stream();
    let request_key = RequestKey::new(&number.to_le_bytes()).expect("eight bytes are few");
    // Cells that no shard has: the two lowest bits of those are not 3.
    let cell = |stream: &mut base::prng::Stream| stream.below(1_000) << 2 | 3;
    let name = |node: u32| NodeName::numbered(u64::from(node));
    match &client.want {
        Want::Put(file) => {
            let File { name, manifest, shards, .. } = &files[*file as usize];
            let (manifest, shards) = (manifest.clone(), shards.clone());
            Request::Put { number, file: *name, manifest, shards }
        }
        Want::Get(file) => Request::Get { number, file: files[*file as usize].name },
        Want::Saga(succeeds) => {
            let mut builder = Definition::builder();
            for step in 0..4u32 {
                let node = name(stream.below(u64::from(storage.nodes)) as u32);
                let cell = cell(&mut stream);
                let add = Change::Add { cell, amount: 1 };
                let never = Change::Require { cell, at_least: i64::MAX };
                let body =
                    if *succeeds || step < 3 { encode(&[add]) } else { encode(&[add, never]) };
                let made = Step::new(Action::from_code(0), node, body);
                builder.step(if step > 0 { made.after(step - 1) } else { made });
            }
            let definition = builder.build().expect("four steps in a row");
            Request::Submit(node::Request { key: request_key, work: Work::Saga(definition) })
        }
        Want::Transaction => {
            let nodes = stream.distinct(storage.participants, storage.nodes);
            let branch = |node: u32| Branch {
                shard: ShardId::numbered(u64::from(node)),
                node: name(node),
                work: encode(&[Change::Add { cell: u64::from(node) << 2 | 3, amount: 1 }]),
            };
            let work = Work::Transaction(nodes.into_iter().map(branch).collect());
            Request::Submit(node::Request { key: request_key, work })
        }
        Want::Locks => {
            let mut which = stream.below(u64::from(storage.nodes));
            if storage.lockers > 1 {
                which = key.child("storage.table").draw(0, 0).below(u64::from(storage.nodes));
            }
            let table = name(which as u32);
            let shards = guarded(scenario, key).into_iter().map(|(shard, at)| (shard, name(at)));
            Request::Lock { number, table, shards: shards.collect() }
        }
        Want::Grant(node) => {
            let ask = Ask::Grant { to: name(*node), units: Units(storage.stake) };
            Request::Ledger { number, ask }
        }
        Want::Stake(node) => {
            let ask = Ask::Bond { operator: name(*node), units: Units(storage.stake) };
            Request::Ledger { number, ask }
        }
        Want::Ledger(ask) => Request::Ledger { number, ask: ask.clone() },
    }
}
