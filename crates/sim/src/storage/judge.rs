//! What has to be true of stored files, whatever goes wrong.
//!
//! | rule | |
//! |---|---|
//! | S1 | when a client hears that its file is stored, every shard of it lies on some node's disk, right |
//! | S2 | of a stored file every stripe has k different shards that are right on disks, at all times, in one of its encodings |
//! | S3 | what a client fetches is its file, byte for byte, and a stored file is found |
//! | S4 | a node removes nothing, if k right shards of a stripe would not be left |
//! | S5 | the ledger's balances add up to its supply, as its log says it by itself; nobody's units are spent twice, and whoever asks again for units is given them once |
//! | S6 | once faults have ended and all is at rest, every shard of every stored file is right on a node |
//! | S8 | of a node that says that it has left in order no current record names anything |
//! | S10 | at rest no node holds what its own log does not need: nothing is left of what was undone or released |
//! | S11 | what a node has removed itself, its log does not need after a restart: a removal waits until it is durable that nobody does |
//! | S12 | no repair rebuilds what does not fit its manifest: all manifests are right, and sources are looked at |
//! | S13 | of a stored file's stripe each shard can be read from a node of its own: no two are lost together |
//! | S14 | what a node's log needs lies on its disk, right and found, after each restart and at rest: nothing counts as kept before it is durable |
//! | S17 | nobody is credited with more bytes sent or received than have really come where they were asked for |
//! | S18 | what locks guard is written in the order of their tokens, and no write is lost |
//! | S19 | no current record names a node that keeps nothing, whatever room it announces |
//! | S20 | each version of a record names the shards that its file's owner would have cut it into, in a scheme that there is |
//! | S21 | at rest, whoever keeps a record of a file and is named a keeper by another one has that, or a later version: there is one record of a version at all of its keepers |
//!
//! S7, S9, S15 and S16 are what messages show: see `watch.rs`.
//!
//! The judge looks at disks, and knows files from their owners. It hashes by itself, and reads the
//! ledger's log by itself: balances by what each event moves, without the bank.

use super::workload::File;
use base::Time;
use erasure::{Codec, Scheme};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use store::Digest;

/// A rule was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub rule: &'static str,
    /// When.
    pub at: Time,
    /// How.
    pub what: String,
}

/// The judge of one world.
#[derive(Clone, Debug)]
pub struct Judge {
    /// In which a file may be encoded: the first is its owner's.
    schemes: Vec<Scheme>,
    /// Of each shard of any encoding: of which file, and which chunk.
    places: BTreeMap<Digest, (u32, u32)>,
    /// By file, by its encoding's place among the schemes, and by chunk: the digests.
    stripes: BTreeMap<(u32, u32, u32), Vec<Digest>>,
    /// Files by their names.
    names: BTreeMap<Digest, u32>,
    acknowledged: BTreeSet<u32>,
    /// What was found first.
    pub finding: Option<Finding>,
}

/// Whether bytes are what they are called.
#[must_use]
pub fn is_right(digest: Digest, bytes: Option<&[u8]>) -> bool {
    bytes.is_some_and(|bytes| Sha256::digest(bytes)[..] == digest.0)
}

/// Whether some disk has a right copy of a shard.
pub type HasRight<'a> = &'a dyn Fn(Digest) -> bool;

/// The nodes whose disks have a right copy of a shard.
pub type Holders<'a> = &'a dyn Fn(Digest) -> BTreeSet<u32>;

fn name_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

impl Judge {
    /// A judge of these files, which their owners have given the first of these schemes, and nodes may give the
    /// others. It cuts each file by itself, as its owner could, from what its owner has encrypted.
    #[must_use]
    pub fn new(schemes: Vec<Scheme>, files: &[File]) -> Judge {
        let (mut places, mut stripes) = (BTreeMap::new(), BTreeMap::<_, Vec<Digest>>::new());
        let mut codec = Codec::new();
        for (number, file) in (0u32..).zip(files) {
            for shard in &file.shards {
                let digest = name_of(&shard.bytes);
                places.insert(digest, (number, shard.chunk));
                stripes.entry((number, 0, shard.chunk)).or_default().push(digest);
            }
            let others = (1u32..).zip(schemes.iter().skip(1));
            for (chunk, entry) in (0u32..).zip(file.manifest.chunks()).filter(|_| schemes.len() > 1)
            {
                let own = schemes[0];
                let shards = file.shards.iter().filter(|shard| shard.chunk == chunk);
                let data: Vec<&[u8]> = shards
                    .filter(|shard| shard.index < own.data())
                    .map(|shard| shard.bytes.as_slice())
                    .collect();
                let mut sealed = data.concat();
                sealed.truncate(entry.sealed_bytes() as usize);
                for (at, scheme) in others.clone() {
                    let (mut words, _) = scheme.split(&sealed);
                    let parity = codec
                        .encode(*scheme, &words)
                        .map(|parity| parity.iter().map(<[u8]>::to_vec).collect::<Vec<Vec<u8>>>());
                    words.extend(parity.unwrap_or_default());
                    let names: Vec<Digest> = words.iter().map(|word| name_of(word)).collect();
                    places.extend(names.iter().map(|name| (*name, (number, chunk))));
                    stripes.insert((number, at, chunk), names);
                }
            }
        }
        let names = (0u32..).zip(files).map(|(number, file)| (file.name, number)).collect();
        let (acknowledged, finding) = Default::default();
        Judge { schemes, places, stripes, names, acknowledged, finding }
    }

    /// Something is not as it has to be; the first finding counts.
    pub fn object(&mut self, rule: &'static str, at: Time, what: String) {
        if self.finding.is_none() {
            self.finding = Some(Finding { rule, at, what });
        }
    }

    /// How many different shards of a file's stripe are right on some disk, for each chunk of each encoding, with how
    /// many there are of them and how many are needed.
    fn right<'a>(
        &'a self,
        file: u32,
        disks: HasRight<'a>,
    ) -> impl Iterator<Item = (u32, Vec<Stripe>)> + 'a {
        (0u32..).zip(&self.schemes).map(move |(at, scheme)| {
            let stripes = self.stripes.range((file, at, 0)..=(file, at, u32::MAX));
            let stripe = |(&(_, _, chunk), digests): (&(u32, u32, u32), &Vec<Digest>)| Stripe {
                chunk,
                right: digests.iter().filter(|digest| disks(**digest)).count(),
                total: digests.len(),
                needed: usize::from(scheme.data()),
            };
            (at, stripes.map(stripe).collect())
        })
    }

    /// What is wrong with the encoding of a file in which the least is, by what has to be of each stripe: `None`, if
    /// one is as it has to be.
    fn least_wrong(
        &self,
        file: u32,
        disks: HasRight<'_>,
        is_well: impl Fn(&Stripe) -> bool,
    ) -> Option<Stripe> {
        let mut worst = None;
        for (_, stripes) in self.right(file, disks) {
            let wrong: Vec<Stripe> =
                stripes.into_iter().filter(|stripe| !is_well(stripe)).collect();
            match wrong.first() {
                None => return None,
                Some(first) => {
                    let known: &mut (usize, Stripe) = worst.get_or_insert((wrong.len(), *first));
                    if wrong.len() < known.0 {
                        *known = (wrong.len(), *first);
                    }
                }
            }
        }
        worst.map(|(_, stripe)| stripe)
    }

    /// A client hears that its file is stored. `hurt`: shards that faults have struck.
    pub fn stored(&mut self, at: Time, file: u32, disks: HasRight<'_>, hurt: &BTreeSet<Digest>) {
        self.acknowledged.insert(file);
        let there = |digest: Digest| disks(digest) || hurt.contains(&digest);
        let wrong = self.least_wrong(file, &there, |stripe| stripe.right == stripe.total);
        if let Some(Stripe { chunk, right, total, .. }) = wrong {
            let what = format!(
                "file {file} is said to be stored, and of chunk {chunk} {right} of {total} shards are on disks"
            );
            self.object("S1", at, what);
        }
    }

    /// A file that was said to be stored.
    #[must_use]
    pub fn is_stored(&self, file: u32) -> bool {
        self.acknowledged.contains(&file)
    }

    /// Files that were.
    pub fn all_stored(&self) -> impl Iterator<Item = u32> {
        self.acknowledged.iter().copied()
    }

    /// A shard has gone from a disk, or rotted.
    pub fn gone(&mut self, at: Time, digest: Digest, disks: HasRight<'_>, why: &'static str) {
        let Some(&(file, _)) = self.places.get(&digest) else { return };
        if !self.acknowledged.contains(&file) {
            return;
        }
        let wrong = self.least_wrong(file, disks, |stripe| stripe.right >= stripe.needed);
        if let Some(Stripe { chunk, right, needed, .. }) = wrong {
            let rule = if why == "removed" { "S4" } else { "S2" };
            let what = format!(
                "file {file} is lost: a shard was {why}, and {right} of the {needed} that chunk {chunk} needs \
                 are left"
            );
            self.object(rule, at, what);
        }
    }

    /// Whose file a shard is of.
    #[must_use]
    pub fn file_of(&self, digest: Digest) -> Option<u32> {
        self.places.get(&digest).map(|(file, ..)| *file)
    }

    /// How many more shards of a shard's stripe may be hurt, if its file has this scheme. 0 for what is no shard of
    /// a file.
    #[must_use]
    pub fn spare(&self, digest: Digest, scheme: Scheme, disks: HasRight<'_>) -> usize {
        let Some(&(file, chunk)) = self.places.get(&digest) else { return 0 };
        let Some(at) = self.schemes.iter().position(|other| *other == scheme) else { return 0 };
        let stripe = self.stripes.get(&(file, at as u32, chunk));
        let Some(digests) = stripe.filter(|digests| digests.contains(&digest)) else { return 0 };
        let right = digests.iter().filter(|digest| disks(**digest)).count();
        right.saturating_sub(usize::from(scheme.data()))
    }

    /// Looks at every stored file; `at_rest`: everything has to be mended.
    pub fn look(&mut self, at: Time, disks: HasRight<'_>, at_rest: bool) {
        for file in self.acknowledged.clone() {
            let lost = self.least_wrong(file, disks, |stripe| stripe.right >= stripe.needed);
            if let Some(Stripe { chunk, right, .. }) = lost {
                let what = format!("file {file}: {right} shards of chunk {chunk} are left");
                self.object("S2", at, what);
                continue;
            }
            let wrong = self.least_wrong(file, disks, |stripe| stripe.right == stripe.total);
            if let Some(Stripe { chunk, right, total, .. }) = wrong.filter(|_| at_rest) {
                let what = format!(
                    "all is at rest, and of chunk {chunk} of file {file} {right} of {total} shards are right"
                );
                self.object("S6", at, what);
            }
        }
    }

    /// Whether every shard of every stored file is right somewhere, in one encoding.
    #[must_use]
    pub fn is_mended(&self, disks: HasRight<'_>) -> bool {
        let whole = |stripe: &Stripe| stripe.right == stripe.total;
        self.acknowledged.iter().all(|file| self.least_wrong(*file, disks, whole).is_none())
    }

    /// Looks whether the right shards of a file's stripes are on as many nodes. `scheme`: what it has now.
    pub fn spread(&mut self, at: Time, file: u32, scheme: Option<Scheme>, holders: Holders<'_>) {
        let place = self.schemes.iter().position(|other| Some(*other) == scheme).unwrap_or(0);
        let stripes = self.stripes.range((file, place as u32, 0)..=(file, place as u32, u32::MAX));
        let mut found = Vec::new();
        for (&(.., chunk), digests) in stripes {
            let all = digests.iter().map(|digest| holders(*digest));
            let right: Vec<BTreeSet<u32>> = all.filter(|nodes| !nodes.is_empty()).collect();
            let apart = matched(&right);
            if apart < right.len() {
                found.push(format!(
                    "{} right shards of chunk {chunk} of file {file} are on {apart} nodes: {right:?}",
                    right.len(),
                ));
            }
        }
        found.into_iter().for_each(|what| self.object("S13", at, what));
    }

    /// A record of a file is given out: it names the shards that its owner would have cut the file into, in a scheme
    /// that there is, and somebody for each.
    pub fn named(&mut self, at: Time, record: &network::FileRecord) {
        let Some(&file) = self.names.get(&record.file) else { return };
        let (scheme, version) = (record.manifest.scheme(), record.version);
        let Some(place) = self.schemes.iter().position(|other| *other == scheme) else {
            let what = format!(
                "version {version} of file {file} has the scheme {scheme}, which nobody chose"
            );
            return self.object("S20", at, what);
        };
        for (chunk, (entry, holders)) in
            (0u32..).zip(record.manifest.chunks().iter().zip(&record.holders))
        {
            let right = &self.stripes[&(file, place as u32, chunk)];
            let named = entry.shards.iter().map(|shard| shard.digest);
            if !named.eq(right.iter().copied()) || holders.len() != right.len() {
                let what = format!(
                    "version {version} of file {file} names other shards of chunk {chunk} than {scheme} makes"
                );
                return self.object("S20", at, what);
            }
        }
    }

    /// All is at rest, and these records are current, each at the node beside it. Whoever is there, has a record of a file,
    /// and is named a keeper by another one, has that or a later version. What is otherwise.
    #[must_use]
    pub fn disagree(&self, records: &[(u32, &network::FileRecord)]) -> Option<String> {
        let all: BTreeMap<(Digest, base::NodeName), &network::FileRecord> = records
            .iter()
            .map(|(node, record)| {
                ((record.file, base::NodeName::numbered((*node).into())), *record)
            })
            .collect();
        records.iter().find_map(|(node, record)| {
            let (file, version) = (record.file, record.version);
            let has = |keeper: &base::NodeName| Some((keeper.number(), *all.get(&(file, *keeper))?));
            let mut others = record.keepers.iter().filter_map(has);
            let (keeper, other) =
                others.find(|(_, it)| it.version <= version && *it != *record)?;
            let (called, its) = (self.called(file), other.version);
            Some(format!(
                "version {version} of {called} at n{node} names n{keeper}, which has another one, of version {its}"
            ))
        })
    }

    fn called(&self, file: Digest) -> String {
        self.names.get(&file).map_or("a file of nobody's".into(), |number| format!("file {number}"))
    }

    /// What a client fetched.
    pub fn fetched(&mut self, at: Time, file: u32, expected: &[u8], got: Option<&[u8]>) {
        if got != Some(expected) {
            let what = match got {
                None => format!("file {file} was stored, and cannot be had"),
                Some(got) => format!("file {file} came with {} other bytes", got.len()),
            };
            self.object("S3", at, what);
        }
    }

    /// The ledger's log as it lies on the disk, what the bank says of balances, and what clients were told
    /// to be done. `grants`: how many clients were told that the treasury gave what they asked for; all
    /// have been answered.
    pub fn ledger(
        &mut self,
        at: Time,
        supply: u64,
        grants: u64,
        log: &dyn wal_core::Directory,
        bank: &incentives::Bank,
        told: &[Done],
    ) {
        let mut books = Books {
            balances: BTreeMap::from([("treasury".to_owned(), i128::from(supply))]),
            ..Books::default()
        };
        let config = wal_core::ScanConfig::default();
        if wal_core::scan(log, &config, &mut books).is_err() || books.strange > 0 {
            self.object("S5", at, "the ledger's log holds what nobody understands".to_owned());
        }
        if let Some((account, balance)) = books.balances.iter().find(|(_, units)| **units < 0) {
            let what = format!("{account} has {balance}: it was spent twice");
            self.object("S5", at, what);
        }
        if let Some(wrong) = books.wrong {
            self.object("S5", at, wrong);
        }
        if let Some(lost) = told.iter().find(|done| !books.done.contains(done)) {
            let what =
                format!("a client was told that {lost:?} is done, and the log does not say so");
            self.object("S5", at, what);
        }
        if grants != books.grants {
            let what = format!("the treasury gave {} times to {grants} clients", books.grants);
            self.object("S5", at, what);
        }
        let sum: i128 = books.balances.values().sum();
        let told: BTreeMap<String, i128> = bank
            .ledger()
            .accounts()
            .filter(|(_, units)| units.0 > 0)
            .map(|(account, units)| (name(account), i128::from(units.0)))
            .collect();
        books.balances.retain(|_, units| *units != 0);
        if sum != i128::from(supply) || told != books.balances {
            let what =
                format!("the log's balances sum up to {sum} of {supply}, or are not the bank's");
            self.object("S5", at, what);
        }
    }
}

/// What is there of a stripe, in one encoding.
#[derive(Clone, Copy, Debug)]
struct Stripe {
    chunk: u32,
    right: usize,
    total: usize,
    needed: usize,
}

/// How many of these sets can each be given a member of its own: a greatest matching (Kuhn).
fn matched(sets: &[BTreeSet<u32>]) -> usize {
    fn free(
        sets: &[BTreeSet<u32>],
        of: usize,
        taken: &mut BTreeMap<u32, usize>,
        tried: &mut BTreeSet<u32>,
    ) -> bool {
        sets[of].iter().any(|member| {
            if !tried.insert(*member) {
                return false;
            }
            let by = taken.get(member).copied();
            let found = by.is_none_or(|by| free(sets, by, taken, tried));
            if found {
                taken.insert(*member, of);
            }
            found
        })
    }
    let mut taken = BTreeMap::new();
    (0..sets.len()).filter(|of| free(sets, *of, &mut taken, &mut BTreeSet::new())).count()
}

/// What a client of the ledger was told to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Done {
    /// A node has been given units.
    Granted(base::NodeName),
    /// A node has put units at stake.
    Staked(base::NodeName),
}

/// Balances by what each event of the log moves, and whether slashes follow from what is said before them.
#[derive(Default)]
struct Books {
    balances: BTreeMap<String, i128>,
    strange: u64,
    /// What somebody was slashed for.
    evidence: BTreeSet<base::Token>,
    /// Of each undecided slash: who voted to uphold it, and who did not.
    votes: BTreeMap<incentives::EscrowId, BTreeMap<base::NodeName, bool>>,
    decided: BTreeSet<incentives::EscrowId>,
    done: BTreeSet<Done>,
    wrong: Option<String>,
    grants: u64,
}

impl Books {
    /// What is wrong first.
    fn object(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    /// A slash is decided, once: given back only if two thirds of five voters at least want it so, kept
    /// unless they do.
    fn decide(&mut self, escrow: incentives::EscrowId, given_back: bool) {
        if !self.decided.insert(escrow) {
            self.object(format!("slash {} is decided twice", escrow.0));
        }
        let votes = self.votes.remove(&escrow).unwrap_or_default();
        let (against, all) = (votes.values().filter(|uphold| !**uphold).count(), votes.len());
        if given_back != (all >= 5 && 3 * against >= 2 * all) {
            let what = if given_back { "given back" } else { "kept" };
            let escrow = escrow.0;
            self.object(format!("slash {escrow} is {what} by {against} of {all} votes against it"));
        }
    }

    fn shift(&mut self, from: String, to: String, units: u64) {
        *self.balances.entry(from).or_default() -= i128::from(units);
        *self.balances.entry(to).or_default() += i128::from(units);
    }
}

fn name(account: incentives::Account) -> String {
    use incentives::Account;
    match account {
        Account::Treasury => "treasury".to_owned(),
        Account::Forfeited => "forfeited".to_owned(),
        Account::Wallet(node) => format!("wallet {}", node.number()),
        Account::Bonded { operator, owner } => {
            format!("bond {} {}", operator.number(), owner.number())
        }
        Account::Unbonding { operator, owner } => {
            format!("unbonding {} {}", operator.number(), owner.number())
        }
        Account::Escrow(escrow) => format!("escrow {}", escrow.0),
    }
}

impl wal_core::Visitor for Books {
    fn record(&mut self, record: &wal_core::Record<'_>, _: wal_core::Place) {
        use incentives::{Account, Fact};
        if record.event != network::LEDGER_EVENT {
            return;
        }
        let Ok(event) = incentives::Event::decode(record.payload) else {
            self.strange += 1;
            return;
        };
        match event.fact {
            Fact::Granted { to, units } => {
                self.done.insert(Done::Granted(to));
                self.grants += 1;
                self.shift("treasury".to_owned(), name(Account::Wallet(to)), units.0);
            }
            Fact::Transferred { from, to, units } => {
                self.shift(name(Account::Wallet(from)), name(Account::Wallet(to)), units.0);
            }
            Fact::Bonded { operator, owner, units } => {
                if operator == owner {
                    self.done.insert(Done::Staked(owner));
                }
                let to = name(Account::Bonded { operator, owner });
                self.shift(name(Account::Wallet(owner)), to, units.0);
            }
            Fact::Unbonding { operator, owner, units, .. } => {
                let from = name(Account::Bonded { operator, owner });
                self.shift(from, name(Account::Unbonding { operator, owner }), units.0);
            }
            Fact::Unbonded { operator, owner } => {
                let from = name(Account::Unbonding { operator, owner });
                let units = self.balances.get(&from).copied().unwrap_or(0);
                let units = u64::try_from(units).unwrap_or(0);
                self.shift(from, name(Account::Wallet(owner)), units);
            }
            Fact::Rewarded { shares, .. } => {
                for (to, units) in shares {
                    self.shift("treasury".to_owned(), name(Account::Wallet(to)), units.0);
                }
            }
            Fact::Slashed { escrow, cause, portions, .. } => {
                if let incentives::Cause::Reported { evidence, .. } = cause
                    && !self.evidence.insert(evidence)
                {
                    self.object(format!("slash {} is for what was slashed before", escrow.0));
                }
                for (from, units) in portions {
                    self.shift(name(from), name(Account::Escrow(escrow)), units.0);
                }
            }
            Fact::Upheld { escrow } => {
                self.decide(escrow, false);
                let from = name(Account::Escrow(escrow));
                let units = self.balances.get(&from).copied().unwrap_or(0);
                let units = u64::try_from(units).unwrap_or(0);
                self.shift(from, "forfeited".to_owned(), units);
            }
            Fact::Overturned { escrow, portions } => {
                self.decide(escrow, true);
                for (to, units) in portions {
                    self.shift(name(Account::Escrow(escrow)), name(to), units.0);
                }
            }
            Fact::Voted { escrow, voter, uphold } => {
                let votes = self.votes.entry(escrow).or_default();
                if votes.insert(voter, uphold).is_some() {
                    self.object(format!("{voter} votes twice about slash {}", escrow.0));
                }
            }
            Fact::Disputed { .. } => {}
            _ => self.strange += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::workload::files;
    use crate::storage::{Scenario, small};

    /// Each rule objects to what breaks it, and to nothing else.
    #[test]
    fn every_rule_can_fail() {
        let scenario = Scenario::parse(&small(1)).expect("it is a scenario");
        let files = files(&scenario, &base::prng::Key::root(1));
        let judge = || Judge::new(scenario.schemes(), &files);
        let rule = |judge: &Judge| judge.finding.as_ref().map(|finding| finding.rule);
        let lost: BTreeSet<Digest> =
            files[0].shards.iter().filter(|s| s.chunk == 0).map(|s| s.digest).collect();
        let first = *lost.first().expect("a file has shards");
        let all = |_: Digest| true;
        let but_one = |digest: Digest| digest != first;
        let none = |digest: Digest| !lost.contains(&digest);

        let mut one = judge();
        one.stored(Time::ZERO, 0, &all, &BTreeSet::new());
        assert!(one.is_mended(&all) && rule(&one).is_none());
        one.stored(Time::ZERO, 0, &but_one, &BTreeSet::from([first]));
        assert_eq!(rule(&one), None, "a fault has struck it");
        one.look(Time::ZERO, &but_one, false);
        assert_eq!(rule(&one), None, "it can be mended");
        one.stored(Time::ZERO, 0, &but_one, &BTreeSet::new());
        assert_eq!(rule(&one), Some("S1"));

        for (why, expected) in [("removed", "S4"), ("rotted", "S2")] {
            let mut one = judge();
            one.gone(Time::ZERO, first, &none, why);
            assert_eq!(rule(&one), None, "nobody was told that it is stored");
            one.stored(Time::ZERO, 0, &all, &BTreeSet::new());
            one.gone(Time::ZERO, first, &none, why);
            assert_eq!(rule(&one), Some(expected));
        }
        let mut one = judge();
        one.stored(Time::ZERO, 0, &all, &BTreeSet::new());
        one.look(Time::ZERO, &but_one, true);
        assert_eq!(rule(&one), Some("S6"));
        let mut one = judge();
        one.fetched(Time::ZERO, 0, b"content", Some(b"content"));
        assert_eq!(rule(&one), None);
        one.fetched(Time::ZERO, 0, b"content", Some(b"Content"));
        assert_eq!(rule(&one), Some("S3"));
    }

    /// A record that names what its file's owner would not have made of it, or nobody for it.
    #[test]
    fn a_record_of_other_shards_is_found() {
        let text = small(1).replace("schemes = [", "schemes = [5, ");
        let scenario = Scenario::parse(&text).expect("it is a scenario");
        let schemes = scenario.schemes();
        let files = files(&scenario, &base::prng::Key::root(1));
        let record = |of: &File, manifest: &store::Manifest| {
            let places = usize::from(manifest.scheme().total());
            let holders = vec![vec![base::NodeName::numbered(1); places]; manifest.chunks().len()];
            let (keepers, manifest) = (Vec::new(), manifest.clone());
            network::FileRecord { file: of.name, version: 1, keepers, manifest, holders }
        };
        let found = |record: &network::FileRecord| {
            let mut judge = Judge::new(schemes.clone(), &files);
            judge.named(Time::ZERO, record);
            judge.finding.map(|finding| finding.rule)
        };
        let anew = |of: &File, to: Scheme| {
            let mut assembly = store::Assembly::new(of.manifest.clone());
            for shard in &of.shards {
                assembly.offer(shard.digest, shard.bytes.clone()).expect("the owner made it");
            }
            assembly.reencode(&mut Codec::new(), to).expect("all of it is there").0
        };
        let (one, two) = (&files[0], &files[1]);
        assert_eq!(found(&record(one, &one.manifest)), None);
        assert_eq!(found(&record(one, &two.manifest)), Some("S20"), "another file's");
        for to in &schemes {
            assert_eq!(found(&record(one, &anew(one, *to))), None, "{to}");
        }
        let to = *schemes.last().expect("its owner's is one");
        let other = Scheme::new(to.data(), to.parity() + 9).expect("it exists");
        assert_eq!(found(&record(one, &anew(one, other))), Some("S20"), "nobody chose {other}");
        let mut lacking = record(one, &anew(one, to));
        lacking.holders[0].pop();
        assert_eq!(found(&lacking), Some("S20"), "a shard is nobody's");
    }

    /// Of one version there is one record, and whoever keeps the newest has that.
    #[test]
    fn records_that_do_not_agree_are_found() {
        let scenario = Scenario::parse(&small(1)).expect("it is a scenario");
        let files = files(&scenario, &base::prng::Key::root(1));
        let record = |file: usize, version: u64, keepers: [u64; 2]| {
            let manifest = files[file].manifest.clone();
            let places = usize::from(manifest.scheme().total());
            let holders = vec![vec![base::NodeName::numbered(1); places]; manifest.chunks().len()];
            let keepers = keepers.map(base::NodeName::numbered).to_vec();
            network::FileRecord { file: files[file].name, version, keepers, manifest, holders }
        };
        let judge = Judge::new(scenario.schemes(), &files);
        let [one, two] = [[1, 2], [1, 3]].map(|keepers| record(0, 7, keepers));
        let (other, old) = (record(1, 7, [1, 3]), record(0, 6, [2, 3]));
        let agree = |records: &[_]| judge.disagree(records).is_none();
        assert!(agree(&[(1, &one), (2, &one), (3, &other)]), "two files");
        assert!(!agree(&[(1, &one), (2, &two)]), "two of one version");
        assert!(!agree(&[(1, &one), (3, &two)]), "whoever of them is named by which");
        assert!(!agree(&[(1, &one), (2, &old)]), "a keeper is behind");
        assert!(agree(&[(1, &one), (3, &old)]), "who keeps it no longer, and has not heard");
        assert!(agree(&[(2, &old), (3, &two)]), "who was named, and has a later one");
    }

    /// A log whose events spend what is not there, and a bank that says something else than its log.
    #[test]
    fn a_ledger_that_does_not_add_up_is_found() {
        use incentives::{Bank, Config, Event, Fact, Units};
        let name = base::NodeName::numbered;
        let bank = Bank::new(Config::new(name(0), Units(1_000)));
        let look = |facts: &[Fact], grants, told: &[Done]| {
            let mut disk = wal_core::MemoryStorage::default();
            let mut nothing = Books::default();
            let (config, mode) = (wal_core::Config::default(), wal_core::OpenMode::Exclusive);
            let (mut log, _) =
                wal_core::open(&mut disk, &config, mode, 7, Time::ZERO, &mut nothing)
                    .expect("a new log opens");
            for fact in facts {
                let event = Event { at: Time::ZERO, request: None, fact: fact.clone() };
                let sequence =
                    log.append(network::LEDGER_EVENT, 0, &event.encode()).expect("a short record");
                log.force(sequence);
            }
            wal_core::close(&mut disk, &mut log, Time::ZERO);
            let mut judge = Judge::new(vec![Scheme::new(4, 2).expect("it exists")], &[]);
            judge.ledger(Time::ZERO, 1_000, grants, &disk, &bank, told);
            judge.finding.map(|finding| finding.rule)
        };
        assert_eq!(look(&[], 0, &[]), None);
        assert_eq!(look(&[], 0, &[Done::Staked(name(1))]), Some("S5"), "not in the log");
        let units = Units(5);
        let granted = Fact::Granted { to: name(1), units };
        assert_eq!(look(&[granted], 1, &[]), Some("S5"), "not the bank's");
        assert_eq!(look(&[], 1, &[]), Some("S5"), "a client was told what did not happen");
        let spent = Fact::Transferred { from: name(1), to: name(2), units };
        assert_eq!(look(&[spent], 0, &[]), Some("S5"), "it was not there");
    }

    /// What the books say of a slash with these votes, by whether it was given back.
    fn decided(votes: &[(u64, bool)], given_back: bool) -> Option<String> {
        let mut books = Books::default();
        let escrow = incentives::EscrowId(1);
        for (voter, uphold) in votes {
            let of = books.votes.entry(escrow).or_default();
            of.insert(base::NodeName::numbered(*voter), *uphold);
        }
        books.decide(escrow, given_back);
        books.wrong
    }

    #[test]
    fn a_slash_is_given_back_by_two_thirds_of_five_and_kept_otherwise() {
        let votes = |uphold: u64, against: u64| -> Vec<(u64, bool)> {
            (0..uphold + against).map(|voter| (voter, voter < uphold)).collect()
        };
        for (uphold, against, given_back) in
            [(0, 0, false), (0, 4, false), (0, 5, true), (2, 4, true), (3, 4, false), (8, 0, false)]
        {
            let votes = votes(uphold, against);
            assert_eq!(decided(&votes, given_back), None, "{uphold} {against}");
            assert!(decided(&votes, !given_back).is_some(), "{uphold} {against}");
        }
    }

    #[test]
    fn two_shards_on_one_node_are_found() {
        let scenario = Scenario::parse(&small(1)).expect("it is a scenario");
        let files = files(&scenario, &base::prng::Key::root(1));
        let stripe: Vec<Digest> =
            files[0].shards.iter().filter(|s| s.chunk == 0).map(|s| s.digest).collect();
        let look = |nodes: &dyn Fn(usize) -> BTreeSet<u32>| {
            let mut judge = Judge::new(scenario.schemes(), &files);
            let holders = |digest: Digest| {
                stripe.iter().position(|other| *other == digest).map_or(BTreeSet::new(), nodes)
            };
            judge.spread(Time::ZERO, 0, None, &holders);
            judge.finding.map(|finding| finding.rule)
        };
        assert_eq!(look(&|at| BTreeSet::from([at as u32])), None);
        assert_eq!(look(&|at| BTreeSet::from([at as u32 / 2])), Some("S13"));
        assert_eq!(
            look(&|at| BTreeSet::from([at as u32 / 2, at as u32 + 9])),
            None,
            "one is apart"
        );
        assert_eq!(look(&|_| BTreeSet::new()), None, "that is S2's");
    }
}
