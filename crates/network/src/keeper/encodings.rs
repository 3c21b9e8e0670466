//! Files whose scheme is not the one that is advised, and how they come to have it.
//!
//! The first keeper of a file's record does it, for one file at a time, while nothing is lost:
//!
//! 1. It fetches any k shards of each chunk, rebuilds the ciphertext, sees by the owner's seal that it is that, and
//!    cuts it anew. It has no key, and needs none: see [`store::Manifest`].
//! 2. The new shards are kept by sagas, and with the first of them a note, on its own disk, of what all this is.
//! 3. Their holders read them again.
//! 4. The next version of the record, with the new manifest and the new holders, is kept and becomes current by a
//!    2PC, like that of a repair.
//! 5. What the version before needed is released; last the note.
//!
//! Until 4 the old version is whole, and from then on the new one is. What goes wrong before is undone. A node that has
//! crashed finds the note, and runs the same operations under the same keys: what was done is not done twice, and
//! either all of it follows or nothing is left. Whoever was fetching the old shards looks the file up again.

use crate::StorageDisks;
use crate::fetches::Why;
use crate::intent::Recoding;
use crate::message::{Message, RECORD_BYTES_MAX, SHARD_BYTES_MAX};
use crate::node::StorageNode;
use crate::operation::{Ended, Purpose};
use crate::record::FileRecord;
use crate::transfer::{BATCH, request_key};
use crate::work;
use base::{NodeName, Time};
use erasure::{Codec, Scheme};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::{Assembly, Digest};

/// How files come to have the scheme that is advised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodingConfig {
    /// How many files a node gives another encoding within a minute, at most; none, if 0. Default 2.
    pub per_minute: u32,
    /// How long the same scheme has to have been advised before a file takes it that is safe as it is: 600 s. One
    /// that has too little parity for it, or more shards than there are nodes, takes it at once.
    pub steady: Duration,
}

impl Default for EncodingConfig {
    fn default() -> EncodingConfig {
        EncodingConfig { per_minute: 2, steady: Duration::from_secs(600) }
    }
}

/// So many times the patience of a message the new holders have to read their shards again, and a file that could not
/// be encoded anew is left alone; twice as long each time …
const PATIENCE: u32 = 6;
/// … but no more often than that.
const DOUBLINGS: u32 = 6;

/// What of files' encodings is under way.
#[derive(Clone, Debug)]
pub(super) struct Encodings {
    config: EncodingConfig,
    /// What the authority advises, and since when it has been the same.
    advised: Option<(Scheme, Time)>,
    at: Option<(Digest, Stage)>,
    /// What an earlier life has begun, by its notes.
    left: BTreeMap<Digest, Recoding>,
    next: Time,
    /// Files that could not be encoded anew, until when they are left alone, and how often it was.
    later: BTreeMap<Digest, (Time, u32)>,
    codec: Codec,
}

#[derive(Clone, Debug)]
enum Stage {
    Fetching(Box<Fetching>),
    Keeping(Box<Keeping>),
    /// New holders read what they have kept.
    Verifying {
        anew: Box<Anew>,
        left: BTreeSet<(NodeName, Digest)>,
        ask_at: Time,
        until: Time,
    },
    /// Another version is current by now, and an earlier life may have come so far before: its transaction is asked
    /// for again, by its key.
    Asking(Box<Anew>),
    /// The next version is on its way: see `versions.rs`.
    Turning(Box<Anew>),
}

#[derive(Clone, Debug)]
struct Fetching {
    record: Digest,
    to: Scheme,
    assembly: Assembly,
    asked: BTreeMap<(NodeName, Digest), Time>,
    tried: BTreeSet<(u32, u16)>,
}

/// New shards are kept, batch by batch.
#[derive(Clone, Debug)]
struct Keeping {
    anew: Anew,
    /// How many batches are kept, and whether the next one has still to be asked for.
    done: usize,
    ask: bool,
    staged: Vec<Digest>,
}

/// What is to become of a file, and by which note it is found after a crash.
#[derive(Clone, Debug)]
struct Anew {
    note: Digest,
    recoding: Recoding,
}

impl Anew {
    /// Who has to keep what: this node the note, others every shard.
    fn wanted(&self, own: NodeName) -> Vec<(NodeName, Digest)> {
        let shards = self.recoding.record.shards();
        let shards = shards.map(|(_, _, shard, node)| (node, shard.digest));
        [(own, self.note)].into_iter().chain(shards).collect()
    }
}

impl Encodings {
    pub(super) fn new(config: EncodingConfig, now: Time) -> Encodings {
        let next = now + Duration::from_secs(60) / config.per_minute.max(1);
        Encodings {
            config,
            advised: None,
            at: None,
            left: BTreeMap::new(),
            next,
            later: BTreeMap::new(),
            codec: Codec::new(),
        }
    }

    pub(super) fn is_at(&self, file: Digest) -> bool {
        self.at.as_ref().is_some_and(|(at, _)| *at == file)
            || self.left.values().any(|left| left.record.file == file)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.at.is_none() && self.left.is_empty()
    }

    pub(super) fn due(&self) -> Option<Time> {
        let stage = self.at.as_ref().and_then(|(_, stage)| match stage {
            Stage::Fetching(fetching) => fetching.asked.values().min().copied(),
            Stage::Verifying { ask_at, until, .. } => Some(*ask_at.min(until)),
            Stage::Keeping(_) | Stage::Asking(_) | Stage::Turning(_) => None,
        });
        let next = (self.config.per_minute > 0).then_some(self.next);
        Time::earliest(stage, next)
    }
}

impl StorageNode {
    /// The authority advises a scheme.
    pub(crate) fn advised(&mut self, now: Time, from: NodeName, scheme: Scheme) {
        let advised = &mut self.keeping.encodings.advised;
        if from == self.config.authority && advised.is_none_or(|(before, _)| before != scheme) {
            *advised = Some((scheme, now));
        }
    }

    /// A note is found that an earlier life of this node has left.
    pub(crate) fn encoding_left(&mut self, note: Digest, recoding: Recoding) {
        self.keeping.encodings.left.insert(note, recoding);
    }

    pub(super) fn encodings_wake(&mut self, now: Time) {
        match &mut self.keeping.encodings.at {
            Some((_, Stage::Fetching(fetching))) => {
                let before = fetching.asked.len();
                fetching.asked.retain(|_, until| *until > now);
                if fetching.asked.len() < before {
                    self.fetch_to_encode(now);
                }
            }
            Some((_, Stage::Verifying { until, .. })) if *until <= now => {
                self.encoding_failed(now, false);
            }
            Some((_, Stage::Verifying { ask_at, left, .. })) if *ask_at <= now => {
                *ask_at = now + self.config.patience;
                for (node, digest) in left.clone() {
                    self.send(node, Message::Scrub { digest });
                }
            }
            _ => {}
        }
        let encodings = &mut self.keeping.encodings;
        if encodings.config.per_minute > 0 && encodings.next <= now {
            encodings.next = now + Duration::from_secs(60) / encodings.config.per_minute;
            self.begin_encoding(now);
        }
    }

    /// Begins with a file, if nothing more pressing is to be done: first with one that is in danger as it is.
    fn begin_encoding(&mut self, now: Time) {
        let keeping = &self.keeping;
        let busy = !keeping.changes.is_empty()
            || !keeping.next.is_empty()
            || !keeping.encodings.is_idle()
            || self.is_leaving();
        let Some((to, since)) = keeping.encodings.advised.filter(|_| !busy) else { return };
        let there = self.candidates().len();
        if usize::from(to.total()) > there {
            return;
        }
        // What is in danger does not wait for repairs: there may be no place for what they would rebuild.
        let rests = keeping.planner.pending() == 0;
        let steady = rests && since + keeping.encodings.config.steady <= now;
        let is_urgent = |file: Scheme| {
            let parity = u32::from(file.parity()) * u32::from(to.data());
            usize::from(file.total()) > there
                || parity < u32::from(to.parity()) * u32::from(file.data())
        };
        let may = |record: &&FileRecord| {
            let scheme = record.manifest.scheme();
            scheme != to
                && (steady || is_urgent(scheme))
                && keeping.encodings.later.get(&record.file).is_none_or(|it| it.0 <= now)
                && record.manifest.chunks().iter().all(|chunk| chunk.sealed.is_some())
                && self.may_turn(now, record).is_some()
        };
        let files = self.holdings.all_current().filter(may);
        let first = files.min_by_key(|record| (!is_urgent(record.manifest.scheme()), record.file));
        let Some(record) = first else { return };
        let (file, manifest) = (record.file, record.manifest.clone());
        let Some(record) = self.holdings.current_digest(file) else { return };
        let (asked, tried) = (BTreeMap::new(), BTreeSet::new());
        let fetching = Fetching { record, to, assembly: Assembly::new(manifest), asked, tried };
        self.keeping.encodings.at = Some((file, Stage::Fetching(Box::new(fetching))));
        self.fetch_to_encode(now);
    }

    /// The number of a record's next version, if this node may make it and all of its keepers can keep it.
    fn may_turn(&self, now: Time, record: &FileRecord) -> Option<u64> {
        let floor = self.keeping.floor.get(&record.file).map_or(0, |floor| floor.0);
        if record.version < floor || !self.is_chief(record) {
            return None;
        }
        let reach = self.reach(record.file);
        let mut keepers = record.keepers.iter();
        if !keepers.all(|keeper| self.can_keep(*keeper, record.file, reach)) {
            return None;
        }
        self.version_anew(now, record)
    }

    /// Asks for as many shards of each chunk as are missing. Once there are enough, the node goes on.
    fn fetch_to_encode(&mut self, now: Time) {
        let until = now + self.config.patience;
        let Some((file, Stage::Fetching(fetching))) = &self.keeping.encodings.at else { return };
        let Some(record) = self.holdings.current(*file) else { return self.leave_file(now) };
        let needed = usize::from(fetching.assembly.manifest().scheme().data());
        let total = usize::from(fetching.assembly.manifest().scheme().total());
        let mut wanted: BTreeMap<u32, Vec<(u16, Digest)>> = BTreeMap::new();
        for (chunk, index, digest) in fetching.assembly.wanted() {
            wanted.entry(chunk).or_default().push((index, digest));
        }
        let mut asks = Vec::new();
        for (chunk, missing) in wanted {
            let Some(holders) = record.holders.get(chunk as usize) else { continue };
            let under_way = missing.iter().filter(|(index, digest)| {
                let holder = holders.get(usize::from(*index));
                holder.is_some_and(|node| fetching.asked.contains_key(&(*node, *digest)))
            });
            let mut more = needed.saturating_sub(total - missing.len() + under_way.count());
            for (index, digest) in missing {
                let Some(&node) = holders.get(usize::from(index)) else { continue };
                let lost = self.is_dead(node) || self.keeping.bad.is_bad(node, digest);
                if more > 0 && !lost && !fetching.tried.contains(&(chunk, index)) {
                    more -= 1;
                    asks.push(((chunk, index), node, digest));
                }
            }
        }
        let Some((_, Stage::Fetching(fetching))) = &mut self.keeping.encodings.at else { return };
        for (place, node, digest) in &asks {
            fetching.tried.insert(*place);
            fetching.asked.insert((*node, *digest), until);
        }
        if fetching.asked.is_empty() && fetching.assembly.wanted().next().is_some() {
            return self.leave_file(now);
        }
        for (_, node, digest) in asks {
            // A line that is full is an answer that does not come.
            let _ = self.fetch(now, node, digest, Why::Keep);
        }
    }

    /// Bytes came that a file is encoded from, perhaps.
    pub(super) fn bytes_to_encode(
        &mut self,
        now: Time,
        from: NodeName,
        digest: Digest,
        bytes: Option<&Vec<u8>>,
    ) {
        let Some((_, Stage::Fetching(fetching))) = &mut self.keeping.encodings.at else { return };
        if fetching.asked.remove(&(from, digest)).is_none() {
            return;
        }
        if let Some(bytes) = bytes {
            self.stats.reencoded_bytes += bytes.len() as u64;
            // A lie is as good as none.
            let _ = fetching.assembly.offer(digest, bytes.clone());
        }
        self.fetch_to_encode(now);
    }

    /// A file is not encoded anew now; nothing of it is kept yet.
    fn leave_file(&mut self, now: Time) {
        if let Some((file, _)) = self.keeping.encodings.at.take() {
            self.stats.not_reencoded += 1;
            let (until, times) = self.keeping.encodings.later.entry(file).or_default();
            *until = now + (PATIENCE << (*times).min(DOUBLINGS)) * self.config.patience;
            *times += 1;
        }
    }

    /// Does what is to be done next: in a round of its own, since most of it is told within another.
    pub(super) fn go_on_encoding(&mut self, now: Time, disks: &dyn StorageDisks) {
        // Once it is known here whether what was promised has become current.
        let host = self.transactions.participant();
        let promises = |host: &node::Host| host.participant().prepared().next().is_some();
        if self.keeping.encodings.at.is_none()
            && !self.keeping.encodings.left.is_empty()
            && host.is_some_and(|host| !promises(host))
            && let Some((note, recoding)) = self.keeping.encodings.left.pop_first()
        {
            self.resume_encoding(note, recoding);
        }
        match &self.keeping.encodings.at {
            Some((_, Stage::Fetching(fetching))) if fetching.assembly.wanted().next().is_none() => {
                self.encode_anew(now);
                self.keep_encoded(disks, now);
            }
            Some((_, Stage::Keeping(_))) => self.keep_encoded(disks, now),
            Some((_, Stage::Verifying { left, .. })) if left.is_empty() => {
                self.turn_encoding(now, disks);
            }
            Some((file, Stage::Asking(anew))) if !self.keeping.next.contains_key(file) => {
                let (file, anew) = (*file, anew.clone());
                let Recoding { before, record, .. } = anew.recoding.clone();
                let note = anew.note;
                self.keeping.encodings.at = Some((file, Stage::Turning(anew)));
                self.begin_anew(now, (before, record), note, disks);
            }
            _ => {}
        }
    }

    /// Cuts a file anew, and says who is to have what.
    fn encode_anew(&mut self, now: Time) {
        let Some((file, Stage::Fetching(fetching))) = &self.keeping.encodings.at else { return };
        let Fetching { record, to, assembly, .. } = &**fetching;
        let (file, to) = (*file, *to);
        let before = self.holdings.current(file).cloned();
        let Some(before) = before.filter(|_| self.holdings.current_digest(file) == Some(*record))
        else {
            return self.leave_file(now);
        };
        let Some(version) = self.may_turn(now, &before) else { return self.leave_file(now) };
        let made = assembly.reencode(&mut self.keeping.encodings.codec, to);
        let Ok((manifest, shards)) = made else { return self.leave_file(now) };
        let all = self.candidates();
        let (id, total) = (manifest.id(), u32::from(to.total()));
        let places = (0u32..).zip(manifest.chunks()).map(|(chunk, entry)| {
            let bytes = manifest.shard_bytes(entry);
            let fits = bytes <= u64::from(SHARD_BYTES_MAX);
            self.places(&id, chunk, bytes, total, &all).filter(|_| fits)
        });
        let Some(holders) = places.collect::<Option<Vec<_>>>() else { return self.leave_file(now) };
        let keepers = before.keepers.clone();
        let record = FileRecord { file, version, keepers, manifest, holders };
        if record.encode().len() > RECORD_BYTES_MAX as usize {
            return self.leave_file(now);
        }
        let recoding = Recoding { number: self.draw_number(), before, record };
        let bytes = recoding.encode();
        let note = Digest::of(&bytes);
        let mut staged = vec![note];
        self.holdings.stage(note, bytes.into());
        for shard in shards {
            self.stats.reencoded_bytes += shard.bytes.len() as u64;
            self.holdings.stage(shard.digest, shard.bytes.into());
            staged.push(shard.digest);
        }
        let keeping = Keeping { anew: Anew { note, recoding }, done: 0, ask: true, staged };
        self.keeping.encodings.at = Some((file, Stage::Keeping(Box::new(keeping))));
    }

    /// Goes on with what an earlier life has begun: under the same keys.
    fn resume_encoding(&mut self, note: Digest, recoding: Recoding) {
        let host = self.transactions.participant();
        if host.is_none_or(|host| host.store().value(work::needed(note)) <= 0) {
            return;
        }
        // Whatever this node has promised is settled: if the new version was made current, it was here too, for
        // this node is one of its keepers.
        let (file, version) = (recoding.record.file, recoding.record.version);
        let head = self.head_of(file);
        if head.version >= version {
            let is_this = head.mark == work::mark(Digest::of(&recoding.record.encode()));
            let anew = Box::new(Anew { note, recoding });
            if head.version == version && is_this {
                self.keeping.encodings.at = Some((file, Stage::Turning(anew)));
                return self.encoding_done();
            }
            self.keeping.encodings.at = Some((file, Stage::Asking(anew)));
            return;
        }
        let bytes = recoding.encode();
        self.holdings.stage(note, bytes.into());
        let (anew, staged) = (Anew { note, recoding }, vec![note]);
        let keeping = Keeping { anew, done: 0, ask: true, staged };
        self.keeping.encodings.at = Some((file, Stage::Keeping(Box::new(keeping))));
    }

    /// Has the next batch of shards kept.
    fn keep_encoded(&mut self, disks: &dyn StorageDisks, now: Time) {
        let own = self.name;
        let Some((_, Stage::Keeping(keeping))) = &mut self.keeping.encodings.at else { return };
        if !std::mem::take(&mut keeping.ask) {
            return;
        }
        let (note, at) = (keeping.anew.note, keeping.done);
        let wanted = keeping.anew.wanted(own);
        let batch = wanted[at * BATCH..].iter().take(BATCH).copied().collect::<Vec<_>>();
        let key = request_key(b'e', &[&own.0, &note.0, &(at as u32).to_le_bytes()]);
        self.keep_all(now, key, Purpose::Encoded { note }, &batch, disks);
    }

    /// The saga has ended that had a batch of new shards kept.
    pub(crate) fn encoded_kept(&mut self, now: Time, note: Digest, ended: Ended) {
        let own = self.name;
        let Some((file, Stage::Keeping(keeping))) = &mut self.keeping.encodings.at else { return };
        if keeping.anew.note != note {
            return;
        }
        let wanted = keeping.anew.wanted(own);
        if ended == Ended::Done {
            keeping.done += 1;
            if keeping.done * BATCH < wanted.len() {
                keeping.ask = true;
                self.keeping.look = true;
                return;
            }
        }
        let (file, staged) = (*file, std::mem::take(&mut keeping.staged));
        let (done, anew) = (keeping.done, Box::new(keeping.anew.clone()));
        staged.into_iter().for_each(|digest| self.holdings.unstage(digest));
        match ended {
            Ended::Done => {
                // The note is nobody's shard.
                let left: BTreeSet<_> = wanted.into_iter().skip(1).collect();
                for (node, digest) in &left {
                    self.send(*node, Message::Scrub { digest: *digest });
                }
                let ask_at = now + self.config.patience;
                let until = now + PATIENCE * self.config.patience;
                let stage = Stage::Verifying { anew, left, ask_at, until };
                self.keeping.encodings.at = Some((file, stage));
            }
            Ended::Undone => {
                self.undo_encoding(now, &anew, &wanted[..(done * BATCH).min(wanted.len())]);
            }
            Ended::Unknown => self.encoding_unknown(),
        }
    }

    /// A node has read a shard again: whether it is one of a file's next encoding.
    pub(super) fn scrubbed_anew(
        &mut self,
        now: Time,
        from: NodeName,
        digest: Digest,
        healthy: bool,
    ) -> bool {
        let Some((_, Stage::Verifying { left, .. })) = &mut self.keeping.encodings.at else {
            return false;
        };
        if !left.contains(&(from, digest)) {
            return false;
        }
        if healthy {
            left.remove(&(from, digest));
            self.keeping.look = true;
        } else {
            self.encoding_failed(now, false);
        }
        true
    }

    /// All new shards are there, read and found right: the record's next version names them.
    fn turn_encoding(&mut self, now: Time, disks: &dyn StorageDisks) {
        let Some((file, Stage::Verifying { anew, .. })) = &self.keeping.encodings.at else {
            return;
        };
        let (file, anew) = (*file, anew.clone());
        let Recoding { before, record, .. } = anew.recoding.clone();
        self.keeping.encodings.at = Some((file, Stage::Turning(anew.clone())));
        let as_before = self.holdings.current(file) == Some(&before);
        if !as_before || self.keeping.next.contains_key(&file) {
            // A repair was faster.
            return self.encoding_failed(now, false);
        }
        self.begin_anew(now, (before, record), anew.note, disks);
    }

    /// The file has its new encoding: what the old one needed is released, and the note last.
    pub(super) fn encoding_done(&mut self) {
        let Some((file, Stage::Turning(anew))) = self.keeping.encodings.at.take() else { return };
        self.stats.reencoded += 1;
        self.keeping.encodings.later.remove(&file);
        let before = &anew.recoding.before;
        let digest = Digest::of(&before.encode());
        let shards = before.shards().map(|(_, _, shard, node)| (node, shard.digest));
        let records = before.keepers.iter().map(|keeper| (*keeper, digest));
        let all = shards.chain(records).chain([(self.name, anew.note)]);
        let all: Vec<_> = (0u32..).zip(all).collect();
        self.release_each(b'o', anew.note, all);
    }

    /// It does not: what the new one has had kept is released. `record_kept`: the next version's record too.
    pub(super) fn encoding_failed(&mut self, now: Time, record_kept: bool) {
        let anew = match &self.keeping.encodings.at {
            Some((_, Stage::Verifying { anew, .. } | Stage::Turning(anew))) => anew.clone(),
            _ => return,
        };
        let record = &anew.recoding.record;
        let mut kept = anew.wanted(self.name);
        if record_kept {
            let digest = Digest::of(&record.encode());
            kept.extend(record.keepers.iter().map(|keeper| (*keeper, digest)));
        }
        self.undo_encoding(now, &anew, &kept);
    }

    fn undo_encoding(&mut self, now: Time, anew: &Anew, kept: &[(NodeName, Digest)]) {
        self.leave_file(now);
        let mut all: Vec<_> = (0u32..).zip(kept.iter().copied()).collect();
        // The note goes last: as long as there is something to undo, it is found.
        all.rotate_left(1.min(kept.len()));
        self.release_each(b'q', anew.note, all);
    }

    /// Nobody can say what has come of it: nothing is released, and the note stays until the next start.
    pub(super) fn encoding_unknown(&mut self) {
        if self.keeping.encodings.at.take().is_some() {
            self.stats.not_reencoded += 1;
        }
    }

    /// Each of these under a key of its own, which is the same after a crash.
    fn release_each(&mut self, purpose: u8, note: Digest, all: Vec<(u32, (NodeName, Digest))>) {
        for (at, (node, digest)) in all {
            let key = request_key(purpose, &[&self.name.0, &note.0, &at.to_le_bytes()]);
            self.keeping.to_undo.push((key, node, digest));
        }
        self.keeping.look = true;
    }
}
