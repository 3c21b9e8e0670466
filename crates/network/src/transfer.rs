//! Uploads and downloads of clients.

use crate::StorageDisks;
use crate::fetches::Why;
use crate::intent::Intent;
use crate::node::{Answer, StorageNode};
use crate::operation::{Ended, Purpose};
use crate::record::FileRecord;
use crate::work::{Current, Work};
use base::bytes::Writer;
use base::{NodeName, RequestKey, ShardId, Time};
use node::{Branch, Work as Operation};
use placement::{Candidate, LookupId, Placer, PlacerConfig, Shortfall};
use saga::{Action, Definition, Step};
use std::collections::{BTreeMap, BTreeSet};
use store::{Assembly, Digest, EncodedShard, Manifest};

/// How many steps one saga of an upload has: below the coordinator's limit, with room for the record's.
pub(crate) const BATCH: usize = 24;

/// A download asks another holder after this part of the time for which an answer is waited for.
const SLOW: u32 = 5;

/// So often an upload waits twice as long as before, until it begins anew.
const DOUBLINGS: u32 = 4;

/// Whose transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TransferId {
    /// A client's, by its number.
    Client(u64),
    /// One that this node goes on with by itself.
    Own(u64),
}

#[derive(Clone, Debug)]
enum Stage {
    /// Is there such a file, and who answers closest to its name?
    Looking,
    /// Shards are kept, batch by batch; the record with the last.
    Keeping { record: Box<FileRecord>, batches: Vec<Vec<(NodeName, Digest)>>, at: usize },
    /// The record becomes the current one.
    Publishing { record: Box<FileRecord>, digest: Digest },
    /// Shards are fetched.
    Fetching(Box<Fetching>),
    /// It begins anew.
    Resting(Time),
}

#[derive(Clone, Debug)]
struct Fetching {
    record: Digest,
    assembly: Assembly,
    /// Who holds each shard.
    holders: BTreeMap<(u32, u16), NodeName>,
    /// Whom it has asked, and when each counts as slow: then another one is asked too. [`Time::NEVER`]: it does.
    asked: BTreeMap<(NodeName, Digest), Time>,
    tried: BTreeSet<(u32, u16)>,
    needed: usize,
}

#[derive(Clone, Debug)]
enum What {
    Put {
        manifest: Box<Manifest>,
        shards: Vec<EncodedShard>,
    },
    /// An upload that an earlier life of this node began.
    Resume,
    Get,
}

#[derive(Clone, Debug)]
struct Transfer {
    file: Digest,
    what: What,
    /// How many attempts there were before this one.
    attempt: u32,
    /// Of an upload: the number of the attempt whose shards it has kept now, over all lives of this node.
    number: u64,
    /// Of a download: records that led to too few shards. Who has one of those may be behind.
    failed: BTreeSet<Digest>,
    stage: Stage,
}

/// What a node does for its clients now, by their numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transfers {
    all: BTreeMap<TransferId, Transfer>,
    by_lookup: BTreeMap<LookupId, TransferId>,
    /// Uploads of an earlier life, by their intents' digests.
    pub(crate) left: BTreeMap<Digest, Intent>,
    /// What attempts that came to nothing have had kept, by their numbers and each with its record, until nobody goes
    /// on with them any more.
    given_up: BTreeMap<u64, (Digest, Vec<(NodeName, Digest)>)>,
}

impl Transfers {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.left.is_empty() && self.given_up.is_empty()
    }

    /// Whether a client's transfer is.
    pub(crate) fn is_under_way(&self, number: u64) -> bool {
        self.all.contains_key(&TransferId::Client(number))
    }

    /// Whether an upload of this file has its shards kept now.
    fn is_uploading(&self, file: Digest) -> bool {
        let keeps =
            |stage: &Stage| matches!(stage, Stage::Keeping { .. } | Stage::Publishing { .. });
        self.all.values().any(|transfer| transfer.file == file && keeps(&transfer.stage))
    }

    pub(crate) fn due(&self) -> Option<Time> {
        let each = self.all.values().filter_map(|transfer| match &transfer.stage {
            Stage::Resting(until) => Some(*until),
            Stage::Fetching(fetching) => {
                fetching.asked.values().min().copied().filter(|at| *at != Time::NEVER)
            }
            _ => None,
        });
        each.min()
    }
}

/// A request key of this crate's own: a purpose, and what it is about, hashed.
pub(crate) fn request_key(purpose: u8, about: &[&[u8]]) -> RequestKey {
    let mut bytes = Writer::default();
    about.iter().for_each(|part| {
        bytes.bytes(part);
    });
    let mut key = vec![purpose];
    key.extend_from_slice(&Digest::of(&bytes.finish()).0);
    RequestKey::new(&key).expect("33 bytes are few")
}

/// Who has to keep what for an upload: this node the intent, others every shard, and the record itself.
fn wanted_by(
    record: &FileRecord,
    digest: Digest,
    intent: (NodeName, Digest),
) -> Vec<(NodeName, Digest)> {
    let shards = record.shards().map(|(_, _, shard, node)| (node, shard.digest));
    let records = record.keepers.iter().map(|node| (*node, digest));
    [intent].into_iter().chain(shards).chain(records).collect()
}

/// By which name the placer knows a stripe.
pub(crate) fn stripe_name(manifest: &Digest, chunk: u32) -> ShardId {
    let mut name = manifest.0.to_vec();
    name.extend_from_slice(&chunk.to_le_bytes());
    ShardId(Digest::of(&name).0)
}

/// What a keeper votes for when a file's record changes: each has a name of its own in the transaction.
fn ballot(file: Digest, keeper: NodeName) -> ShardId {
    let mut bytes = file.0.to_vec();
    bytes.extend_from_slice(&keeper.0);
    ShardId(Digest::of(&bytes).0)
}

impl StorageNode {
    /// Has bytes kept by nodes, all at once or none, as one saga.
    pub(crate) fn keep_all(
        &mut self,
        now: Time,
        key: RequestKey,
        purpose: Purpose,
        wanted: &[(NodeName, Digest)],
        disks: &dyn StorageDisks,
    ) {
        let from = self.name;
        let steps = wanted.iter().map(|&(node, digest)| (node, Work::Keep { digest, from }));
        self.run_saga(now, key, purpose, steps, disks);
    }

    /// Tells a node that it need not hold these bytes any more; nobody waits for it.
    pub(crate) fn release(
        &mut self,
        now: Time,
        node: NodeName,
        digest: Digest,
        disks: &dyn StorageDisks,
    ) {
        let number = self.draw_number();
        let key = request_key(b'r', &[&self.name.0, &number.to_le_bytes(), &digest.0]);
        self.release_once(now, key, node, digest, disks);
    }

    /// Likewise, but however often it is asked for under the same key, it is done once.
    pub(crate) fn release_once(
        &mut self,
        now: Time,
        key: RequestKey,
        node: NodeName,
        digest: Digest,
        disks: &dyn StorageDisks,
    ) {
        let steps = [(node, Work::Release { digest })].into_iter();
        self.run_saga(now, key, Purpose::Release, steps, disks);
    }

    /// Releases the intent of an upload's attempt, and then all else that it has had kept.
    pub(crate) fn give_up_upload(
        &mut self,
        now: Time,
        number: u64,
        intent: Digest,
        disks: &dyn StorageDisks,
    ) {
        let key = request_key(b'y', &[&self.name.0, &number.to_le_bytes(), &intent.0]);
        let steps = [(self.name, Work::Release { digest: intent })].into_iter();
        self.run_saga(now, key, Purpose::GivenUp { number }, steps, disks);
    }

    fn run_saga(
        &mut self,
        now: Time,
        key: RequestKey,
        purpose: Purpose,
        steps: impl Iterator<Item = (NodeName, Work)>,
        disks: &dyn StorageDisks,
    ) {
        let mut builder = Definition::builder();
        for (node, work) in steps {
            builder.step(Step::new(Action::from_code(0), node, work.encode()));
        }
        let definition = builder.build().expect("a few steps that wait for nothing");
        self.operate(now, key, purpose, Operation::Saga(definition), disks);
    }

    /// Makes a record the current one at all of its keepers, or at none. `was` says which record has
    /// to be current at each. The nodes beside it keep the version before, and none from then on.
    pub(crate) fn turn_head(
        &mut self,
        now: Time,
        key: RequestKey,
        purpose: Purpose,
        record: (&FileRecord, Digest, &[NodeName]),
        was: impl Fn(NodeName) -> Current,
        disks: &dyn StorageDisks,
    ) {
        let (FileRecord { file, version, keepers, .. }, digest, retired) = record;
        let branch = |&keeper: &NodeName| {
            let (was, to) = (was(keeper), *version);
            let work = Work::Head { file: *file, record: digest, was, to };
            Branch { shard: ballot(*file, keeper), node: keeper, work: work.encode() }
        };
        let retire = |&keeper: &NodeName| {
            let work = Work::Retire { file: *file, was: was(keeper), to: *version };
            Branch { shard: ballot(*file, keeper), node: keeper, work: work.encode() }
        };
        let branches = keepers.iter().map(branch).chain(retired.iter().map(retire)).collect();
        self.operate(now, key, purpose, Operation::Transaction(branches), disks);
    }

    pub(crate) fn put(
        &mut self,
        now: Time,
        number: u64,
        file: Digest,
        manifest: Manifest,
        shards: Vec<EncodedShard>,
        disks: &dyn StorageDisks,
    ) {
        for shard in &shards {
            self.holdings.stage(shard.digest, shard.bytes.as_slice().into());
        }
        let what = What::Put { manifest: Box::new(manifest), shards };
        self.begin(now, number, file, what, disks);
    }

    pub(crate) fn get(&mut self, now: Time, number: u64, file: Digest, disks: &dyn StorageDisks) {
        self.begin(now, number, file, What::Get, disks);
    }

    fn begin(
        &mut self,
        now: Time,
        number: u64,
        file: Digest,
        what: What,
        disks: &dyn StorageDisks,
    ) {
        let id = TransferId::Client(number);
        // The same number again: the client has not heard, and what is under way goes on.
        if self.transfers.all.contains_key(&id) {
            if let What::Put { shards, .. } = what {
                shards.iter().for_each(|shard| self.holdings.unstage(shard.digest));
            }
            return;
        }
        let (failed, stage) = (BTreeSet::new(), Stage::Resting(now));
        let transfer = Transfer { file, what, attempt: 0, number: 0, failed, stage };
        self.transfers.all.insert(id, transfer);
        self.look(now, id, disks);
    }

    fn look(&mut self, now: Time, id: TransferId, disks: &dyn StorageDisks) {
        self.directory.refill(self.membership.alive().map(|member| member.announcement.node));
        let Some(transfer) = self.transfers.all.get_mut(&id) else { return };
        let (key, mut out) = (transfer.file.0, Vec::new());
        match self.directory.fetch(now, key, &mut out) {
            Ok(lookup) => {
                transfer.stage = Stage::Looking;
                self.transfers.by_lookup.insert(lookup, id);
            }
            Err(_) => transfer.stage = Stage::Resting(now + self.config.patience),
        }
        self.take_directory(now, out, disks);
    }

    /// It begins anew after a while, or is given up. An upload waits twice as long each time: what it has
    /// asked of a node that is too slow for it is still on that one's way, and more of it every time.
    fn rest(&mut self, now: Time, id: TransferId) {
        let max = self.config.attempts_max;
        let Some(transfer) = self.transfers.all.get_mut(&id) else { return };
        let doubled = match transfer.what {
            What::Put { .. } => 1 << transfer.attempt.min(DOUBLINGS),
            What::Resume | What::Get => 1,
        };
        transfer.attempt += 1;
        if transfer.attempt >= max || matches!(transfer.what, What::Resume) {
            return self.finish_transfer(id, Answer::Failed);
        }
        transfer.stage = Stage::Resting(now + doubled * self.config.patience);
    }

    fn finish_transfer(&mut self, id: TransferId, answer: Answer) {
        let Some(transfer) = self.transfers.all.remove(&id) else { return };
        if let What::Put { shards, .. } = transfer.what {
            shards.iter().for_each(|shard| self.holdings.unstage(shard.digest));
        }
        if let TransferId::Client(number) = id {
            self.tell(number, answer);
        }
    }

    /// Somebody says that this is a file's record.
    pub(crate) fn record_found(&mut self, now: Time, lookup: LookupId, record: &[u8]) {
        let Some(&id) = self.transfers.by_lookup.get(&lookup) else { return };
        let Some(transfer) = self.transfers.all.get_mut(&id) else { return };
        let digest = Digest::of(record);
        let record = FileRecord::decode(record).ok().filter(|it| it.file == transfer.file);
        let Some(record) = record.filter(|_| !transfer.failed.contains(&digest)) else { return };
        self.transfers.by_lookup.remove(&lookup);
        self.directory.accept(lookup);
        match &transfer.what {
            What::Put { manifest, .. } => {
                let answer = if manifest.content() == record.manifest.content() {
                    Answer::Stored { version: record.version }
                } else {
                    Answer::NameTaken
                };
                self.finish_transfer(id, answer);
            }
            What::Resume => {}
            What::Get => {
                let holders =
                    record.shards().map(|(stripe, index, _, node)| ((stripe.chunk, index), node));
                let fetching = Fetching {
                    record: digest,
                    holders: holders.collect(),
                    asked: BTreeMap::new(),
                    tried: BTreeSet::new(),
                    needed: usize::from(record.manifest.scheme().data()),
                    assembly: Assembly::new(record.manifest),
                };
                transfer.stage = Stage::Fetching(Box::new(fetching));
                self.fetch_more(now, id);
            }
        }
    }

    /// Nobody has a record. These answered, the closest first.
    pub(crate) fn no_record(
        &mut self,
        now: Time,
        lookup: LookupId,
        closest: Vec<NodeName>,
        disks: &dyn StorageDisks,
    ) {
        let Some(id) = self.transfers.by_lookup.remove(&lookup) else { return };
        if let Some(transfer) = self.transfers.all.get_mut(&id) {
            transfer.failed.clear();
        }
        let Some(transfer) = self.transfers.all.get(&id) else { return };
        let What::Put { manifest, .. } = &transfer.what else {
            // Its keepers may only be away.
            return if transfer.attempt < 3 {
                self.rest(now, id);
            } else {
                self.finish_transfer(id, Answer::NotFound);
            };
        };
        let file = transfer.file;
        if self.transfers.is_uploading(file) {
            // Another upload of it is under way, perhaps of this very record: it is waited for.
            return self.wait(now, id);
        }
        let mut keepers = closest;
        keepers.truncate(self.config.lookup.replication as usize);
        let manifest = manifest.clone();
        let candidates = self.candidates();
        let mut holders = Vec::new();
        for (chunk, entry) in (0u32..).zip(manifest.chunks()) {
            let bytes = manifest.shard_bytes(entry);
            let total = u32::from(manifest.scheme().total());
            match self.places(&manifest.id(), chunk, bytes, total, &candidates) {
                Some(nodes) => holders.push(nodes),
                None => return self.rest(now, id),
            }
        }
        if keepers.len() < self.config.lookup.replication as usize {
            return self.rest(now, id);
        }
        let record = FileRecord { file, version: 1, keepers, manifest: *manifest, holders };
        let number = self.draw_number();
        self.begin_keeping(now, id, Intent { number, record }, disks);
    }

    /// Has all that an upload needs kept, batch by batch.
    fn begin_keeping(
        &mut self,
        now: Time,
        id: TransferId,
        intent: Intent,
        disks: &dyn StorageDisks,
    ) {
        let note = intent.encode();
        let own = (self.name, Digest::of(&note));
        let Intent { number, record } = intent;
        let bytes = record.encode();
        let digest = Digest::of(&bytes);
        let batches = wanted_by(&record, digest, own).chunks(BATCH).map(<[_]>::to_vec).collect();
        if let Some(transfer) = self.transfers.all.get_mut(&id) {
            self.holdings.stage(digest, bytes.into());
            self.holdings.stage(own.1, note.into());
            transfer.number = number;
            transfer.stage = Stage::Keeping { record: Box::new(record), batches, at: 0 };
            self.keep_batch(now, id, number, digest, disks);
        }
    }

    /// Goes on with the uploads that an earlier life of this node has begun.
    pub(crate) fn resume_uploads(&mut self, now: Time, disks: &dyn StorageDisks) {
        if self.transfers.left.is_empty() || !self.transactions.is_ready() {
            return;
        }
        for (digest, intent) in std::mem::take(&mut self.transfers.left) {
            let host = self.transactions.participant();
            let needed = |host: &node::Host| host.store().value(crate::work::needed(digest)) > 0;
            if !host.is_some_and(needed) {
                continue;
            }
            let id = TransferId::Own(self.draw_number());
            let (file, number) = (intent.record.file, intent.number);
            let (what, failed, stage) = (What::Resume, BTreeSet::new(), Stage::Looking);
            let transfer = Transfer { file, what, attempt: 0, number, failed, stage };
            self.transfers.all.insert(id, transfer);
            self.begin_keeping(now, id, intent, disks);
        }
    }

    /// It looks again after a while, and has not failed.
    fn wait(&mut self, now: Time, id: TransferId) {
        if let Some(transfer) = self.transfers.all.get_mut(&id) {
            transfer.stage = Stage::Resting(now + self.config.patience);
        }
    }

    /// What this node has given out for an upload is not asked for any more; the intent's digest.
    fn unstage_notes(&mut self, record: &FileRecord, digest: Digest, number: u64) -> Digest {
        let note = Intent { number, record: record.clone() }.encode();
        let intent = Digest::of(&note);
        self.holdings.unstage(digest);
        self.holdings.unstage(intent);
        intent
    }

    fn keep_batch(
        &mut self,
        now: Time,
        id: TransferId,
        number: u64,
        record: Digest,
        disks: &dyn StorageDisks,
    ) {
        let Some(Transfer { stage: Stage::Keeping { batches, at, .. }, .. }) =
            self.transfers.all.get(&id)
        else {
            return;
        };
        let (at, batch) = (*at as u32, batches[*at].clone());
        let (number_, at) = (number.to_le_bytes(), at.to_le_bytes());
        let key = request_key(b'u', &[&self.name.0, &record.0, &number_, &at]);
        let purpose = Purpose::Upload { id, number };
        self.keep_all(now, key, purpose, &batch, disks);
    }

    /// A saga of an upload has ended.
    pub(crate) fn batch_ended(&mut self, now: Time, id: TransferId, number: u64, ended: Ended) {
        let Some(transfer) = self.transfers.all.get_mut(&id) else { return };
        if transfer.number != number {
            return;
        }
        let Stage::Keeping { record, batches, at } = &mut transfer.stage else { return };
        let digest = Digest::of(&record.encode());
        if ended != Ended::Done {
            let (record, kept) = (record.clone(), batches[..*at].concat());
            self.unstage_notes(&record, digest, number);
            if ended == Ended::Undone {
                self.undo_upload(digest, number, kept);
            }
            return self.rest(now, id);
        }
        *at += 1;
        if *at < batches.len() {
            self.keeping.batches.push((id, number, digest));
            return;
        }
        let record = record.clone();
        transfer.stage = Stage::Publishing { record, digest };
        self.keeping.heads.push((id, number));
    }

    /// What an ended saga has left to do: in a round of its own, since it was told within one.
    pub(crate) fn go_on_uploading(&mut self, now: Time, disks: &dyn StorageDisks) {
        for (id, number, digest) in std::mem::take(&mut self.keeping.batches) {
            self.keep_batch(now, id, number, digest, disks);
        }
        for (id, number) in std::mem::take(&mut self.keeping.heads) {
            let Some(Transfer { stage: Stage::Publishing { record, digest }, .. }) =
                self.transfers.all.get(&id)
            else {
                continue;
            };
            let (record, digest) = (record.clone(), *digest);
            let key = request_key(b'h', &[&self.name.0, &digest.0, &number.to_le_bytes()]);
            let purpose = Purpose::Publish { id, number };
            self.turn_head(
                now,
                key,
                purpose,
                (&record, digest, &[]),
                |_| Current::default(),
                disks,
            );
        }
    }

    /// The 2PC of an upload has ended. If nobody can say how, everything stays, and the file is looked up
    /// again: if its record is current, it is found.
    pub(crate) fn published(&mut self, now: Time, id: TransferId, number: u64, ended: Ended) {
        let Some(transfer) = self.transfers.all.get(&id) else { return };
        let Stage::Publishing { record, digest } = &transfer.stage else { return };
        if transfer.number != number {
            return;
        }
        let (record, digest) = (record.clone(), *digest);
        let intent = (self.name, self.unstage_notes(&record, digest, number));
        match ended {
            Ended::Done => {
                self.undo_upload(digest, number, vec![intent]);
                return self.finish_transfer(id, Answer::Stored { version: record.version });
            }
            Ended::Undone => {
                self.undo_upload(digest, number, wanted_by(&record, digest, intent));
            }
            Ended::Unknown => {}
        }
        self.rest(now, id);
    }

    /// Releases what the sagas of an upload's attempt have had kept: the intent, which is the first of it, before all
    /// else. As long as that is here the attempt is gone on with after a start: its sagas are not done again, and its
    /// 2PC may be, since it need not have become durable that it was aborted. So nothing else is released before the
    /// intent is.
    fn undo_upload(&mut self, record: Digest, number: u64, kept: Vec<(NodeName, Digest)>) {
        let mut kept = kept.into_iter();
        if let Some((_, intent)) = kept.next() {
            self.keeping.to_give_up.push((number, intent));
            self.transfers.given_up.insert(number, (record, kept.collect()));
        }
    }

    /// Nobody goes on with an attempt any more: all else is released. If somebody may, it stays, and whoever holds it
    /// asks one day who needs it.
    pub(crate) fn given_up(&mut self, number: u64, ended: Ended) {
        let given_up = self.transfers.given_up.remove(&number);
        let Some((record, kept)) = given_up.filter(|_| ended == Ended::Done) else { return };
        for (at, (node, digest)) in (0u32..).zip(kept) {
            let (number, at) = (number.to_le_bytes(), at.to_le_bytes());
            let key = request_key(b'z', &[&self.name.0, &record.0, &number, &at]);
            self.keeping.to_undo.push((key, node, digest));
        }
    }

    pub(crate) fn own_candidate(&self) -> Candidate {
        Candidate {
            node: self.name,
            region: self.config.region,
            reputation: base::Ratio::percent(50),
            capacity_bytes: self.config.shards.capacity_bytes,
            free_bytes: self.holdings.free_bytes(),
        }
    }

    /// Everybody who can be given a shard, this node included.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let own = self.own_candidate();
        let leaves = |candidate: &Candidate| self.keeping.leaving.contains(&candidate.node);
        let mut all = Vec::with_capacity(self.membership.len() + 1);
        all.extend(self.membership.candidates().chain([own]).filter(|it| !leaves(it)));
        all
    }

    /// A node for each shard of a stripe, in two regions at least if there are as many.
    pub(crate) fn places(
        &self,
        manifest: &Digest,
        chunk: u32,
        bytes: u64,
        total: u32,
        candidates: &[Candidate],
    ) -> Option<Vec<NodeName>> {
        let config = PlacerConfig { replicas: total, ..PlacerConfig::default() };
        let placer = Placer::new(config, &self.config.network);
        match placer.place(stripe_name(manifest, chunk), bytes, candidates, &BTreeSet::new()) {
            Ok(nodes) => Some(nodes),
            // Better too close together than not at all; but each on a node of its own.
            Err(Shortfall { nodes, .. }) => (nodes.len() == total as usize).then_some(nodes),
        }
    }

    /// Asks for as many shards of each chunk as are missing: of the holders that the router puts first.
    fn fetch_more(&mut self, now: Time, id: TransferId) {
        let Some(Transfer { stage: Stage::Fetching(fetching), .. }) = self.transfers.all.get(&id)
        else {
            return;
        };
        let mut missing: BTreeMap<u32, Vec<(u16, Digest)>> = BTreeMap::new();
        for (chunk, index, digest) in fetching.assembly.wanted() {
            missing.entry(chunk).or_default().push((index, digest));
        }
        if missing.is_empty() {
            let assembly = fetching.assembly.clone();
            return self.finish_transfer(id, Answer::Got(Box::new(assembly)));
        }
        let mut wanted = Vec::new();
        for (chunk, missing) in missing {
            let all = fetching.holders.range((chunk, 0)..=(chunk, u16::MAX)).count();
            let there = all - missing.len();
            let under_way = missing.iter().filter(|(index, digest)| {
                let asked = (fetching.holders[&(chunk, *index)], *digest);
                fetching.asked.get(&asked).is_some_and(|slow_at| *slow_at != Time::NEVER)
            });
            let more = fetching.needed.saturating_sub(there + under_way.count());
            let untried = |(index, _): &(u16, Digest)| !fetching.tried.contains(&(chunk, *index));
            let left: Vec<(NodeName, u16, Digest)> = missing
                .into_iter()
                .filter(untried)
                .map(|(index, digest)| (fetching.holders[&(chunk, index)], index, digest))
                .collect();
            if more > 0 && !left.is_empty() {
                wanted.push((chunk, more, left));
            }
        }
        let slow_at = now + self.config.patience / SLOW;
        for (chunk, more, left) in wanted {
            let nodes: Vec<NodeName> = left.iter().map(|(node, ..)| *node).collect();
            let mut more = more;
            for node in self.by_promise(&nodes, more) {
                let Some(&(_, index, digest)) = left.iter().find(|(other, ..)| *other == node)
                else {
                    continue;
                };
                // One that has no room for more requests is tried later.
                if more > 0
                    && self.fetch(now, node, digest, Why::Read).is_ok()
                    && let Some(Transfer { stage: Stage::Fetching(fetching), .. }) =
                        self.transfers.all.get_mut(&id)
                {
                    more -= 1;
                    fetching.tried.insert((chunk, index));
                    fetching.asked.insert((node, digest), slow_at);
                }
            }
        }
        let Some(transfer) = self.transfers.all.get_mut(&id) else { return };
        if let Stage::Fetching(fetching) = &transfer.stage
            && fetching.asked.is_empty()
        {
            // Who has shards may be back, or repair may have moved them: look again, first elsewhere.
            transfer.failed.insert(fetching.record);
            self.rest(now, id);
        }
    }

    /// Bytes came, or are not there: for steps, downloads and repairs that wait for them.
    pub(crate) fn bytes_came(
        &mut self,
        now: Time,
        from: NodeName,
        digest: Digest,
        bytes: Option<Vec<u8>>,
        disks: &dyn StorageDisks,
    ) {
        self.bytes_to_keep(now, from, digest, bytes.as_deref(), disks);
        self.bytes_to_rebuild(now, from, digest, bytes.as_ref());
        let mut more = Vec::new();
        for (id, transfer) in &mut self.transfers.all {
            if let Stage::Fetching(fetching) = &mut transfer.stage
                && fetching.asked.remove(&(from, digest)).is_some()
            {
                if let Some(bytes) = &bytes {
                    // A lie is as good as none.
                    let _ = fetching.assembly.offer(digest, bytes.clone());
                }
                more.push(*id);
            }
        }
        for id in more {
            self.fetch_more(now, id);
        }
    }

    pub(crate) fn transfers_wake(&mut self, now: Time, disks: &dyn StorageDisks) {
        let ids: Vec<TransferId> = self.transfers.all.keys().copied().collect();
        for id in ids {
            let Some(transfer) = self.transfers.all.get_mut(&id) else { continue };
            match &mut transfer.stage {
                Stage::Resting(until) if *until <= now => self.look(now, id, disks),
                Stage::Fetching(fetching) => {
                    let slow = fetching.asked.values_mut().filter(|at| **at <= now);
                    let slow: Vec<&mut Time> = slow.collect();
                    if !slow.is_empty() {
                        slow.into_iter().for_each(|at| *at = Time::NEVER);
                        self.fetch_more(now, id);
                    }
                }
                _ => {}
            }
        }
    }
}
