//! What a node holds: shards and files' records, as bytes under their digests.
//!
//! A step that asks for bytes to be kept waits here until they are durable; only then the participant
//! hears of it, and counts them as needed. What is not needed any more, durably, is removed.

use crate::fetches::Why;
use crate::intent::Note;
use crate::message::Message;
use crate::node::{Config, ShardDone, StorageNode};
use crate::record::FileRecord;
use crate::work::{self, Current, Work};
use base::{NodeName, ShardId, Time};
use locks::FencingToken;
use node::Input as NodeInput;
use placement::{DirectoryMessage, LookupId, distance};
use repair::{Challenge, Scrubber, respond};
use saga::Direction;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::{Digest, Put, ShardStore};

/// Who waits for a shard to be read.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// To whom, and under which number it was asked for.
    Give(NodeName, u64),
    Prove(NodeName, Challenge),
    /// Read it again, and tell who asked; or, by one's own scrubbing, who cares if it is bad.
    Scrub(Option<NodeName>),
    /// It is a record, by its pin.
    Record,
}

/// Steps that wait for bytes.
#[derive(Clone, Debug)]
struct Awaited {
    from: NodeName,
    /// The bytes have come, and it is the disk that is waited for.
    came: bool,
    /// From whom each call came, and the call.
    calls: Vec<(NodeName, coordinator::Message)>,
}

/// What bytes are that somebody else releases.
enum Standing {
    /// The record of this file that is current here.
    Current(Digest),
    /// The first record of this file, which is current here.
    First(Digest),
    /// A record that is promised to become current, and of which nobody knows whether it is.
    Promised,
    /// Anything else.
    Other,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) struct Holdings {
    pub(crate) shards: ShardStore,
    capacity_bytes: u64,
    scrubber: Scrubber,
    reading: BTreeMap<Digest, Vec<Wanted>>,
    awaited: BTreeMap<Digest, Awaited>,
    /// Bytes that others are asked to keep, and may fetch here; how often, and what.
    staged: BTreeMap<Digest, (u32, Arc<[u8]>)>,
    /// Looked at when the log is durable: whether they are needed.
    doubtful: BTreeSet<Digest>,
    /// Who asked for a proof of a shard last: it keeps the file's record.
    cares: BTreeMap<Digest, NodeName>,
    /// What is being written, or pinned: a removal waits for that. Nothing tells one write from another, so
    /// the report of what was removed meanwhile would be taken for that of what was asked for anew.
    writing: BTreeSet<Digest>,
    /// Records and intents that are being written.
    fresh: BTreeMap<Digest, Note>,
    /// Every record here, by file, version and digest: two records may have the same version, of which at
    /// most one becomes current.
    versions: BTreeMap<Digest, BTreeMap<(u64, Digest), FileRecord>>,
    /// The same by digest: of which file, and which version.
    record_of: BTreeMap<Digest, (Digest, u64)>,
    current: BTreeMap<Digest, (u64, Digest)>,
    /// Whom the current record of each file names, and by each node which files' do.
    names: BTreeMap<Digest, BTreeSet<NodeName>>,
    named: BTreeMap<NodeName, BTreeSet<Digest>>,
    /// Files of which there is a version that is not current, or not yet.
    unsettled: BTreeSet<Digest>,
    /// What the participant's count of changes was when they were looked at; `None` if something else has happened to
    /// them since.
    settled_at: Option<u64>,
    /// How far from each file that keeper of its current record is that is furthest: read for all files at once.
    furthest: BTreeMap<Digest, [u8; 32]>,
    pins: Vec<Digest>,
}

impl Holdings {
    pub(crate) fn recover(
        config: &Config,
        now: Time,
        shards: impl IntoIterator<Item = (Digest, u64)>,
        pins: impl IntoIterator<Item = Digest> + Clone,
    ) -> Holdings {
        Holdings {
            shards: ShardStore::recover(config.shards, now, shards, pins.clone()),
            capacity_bytes: config.shards.capacity_bytes,
            scrubber: Scrubber::new(config.scrub, now),
            reading: BTreeMap::new(),
            awaited: BTreeMap::new(),
            staged: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            cares: BTreeMap::new(),
            writing: BTreeSet::new(),
            fresh: BTreeMap::new(),
            versions: BTreeMap::new(),
            record_of: BTreeMap::new(),
            current: BTreeMap::new(),
            names: BTreeMap::new(),
            named: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            settled_at: None,
            furthest: BTreeMap::new(),
            pins: pins.into_iter().collect(),
        }
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.shards.used_bytes())
    }

    pub(crate) fn due(&self) -> Option<Time> {
        (self.shards.count() > 0).then(|| self.scrubber.next_wake())
    }

    pub(crate) fn current(&self, file: Digest) -> Option<&FileRecord> {
        self.versions.get(&file)?.get(self.current.get(&file)?)
    }

    pub(crate) fn all_current(&self) -> impl Iterator<Item = &FileRecord> {
        self.current.keys().filter_map(|file| self.current(*file))
    }

    /// Those of this file and of all behind it.
    pub(crate) fn current_from(&self, file: Digest) -> impl Iterator<Item = &FileRecord> {
        self.current.range(file..).filter_map(|(file, _)| self.current(*file))
    }

    /// Everybody whom a current record names.
    pub(crate) fn named(&self) -> impl Iterator<Item = NodeName> {
        self.named.keys().copied()
    }

    pub(crate) fn is_named(&self, node: NodeName) -> bool {
        self.named.contains_key(&node)
    }

    /// The files whose current record names this node.
    pub(crate) fn naming(&self, node: NodeName) -> Vec<Digest> {
        self.named.get(&node).into_iter().flatten().copied().collect()
    }

    /// Another version of a file's record is current here, or none.
    fn turn(&mut self, file: Digest, version: Option<(u64, Digest)>) {
        match version {
            Some(version) => drop(self.current.insert(file, version)),
            None => drop(self.current.remove(&file)),
        }
        let mut names = BTreeSet::new();
        let mut furthest = None;
        if let Some(record) = self.current(file) {
            names.extend(record.keepers.iter().chain(record.holders.iter().flatten()).copied());
            furthest = record.keepers.iter().map(|keeper| distance(*keeper, &file.0)).max();
        }
        match furthest {
            Some(furthest) => drop(self.furthest.insert(file, furthest)),
            None => drop(self.furthest.remove(&file)),
        }
        let before = self.names.remove(&file).unwrap_or_default();
        for node in before.difference(&names) {
            if let Some(files) = self.named.get_mut(node) {
                files.remove(&file);
                if files.is_empty() {
                    self.named.remove(node);
                }
            }
        }
        for node in names.difference(&before) {
            self.named.entry(*node).or_default().insert(file);
        }
        if !names.is_empty() {
            self.names.insert(file, names);
        }
    }

    /// The current record's bytes.
    pub(crate) fn current_digest(&self, file: Digest) -> Option<Digest> {
        self.current.get(&file).map(|(_, digest)| *digest)
    }

    /// The record of a file that is current: its version and its mark.
    pub(crate) fn has(&self, file: Digest) -> Option<Current> {
        self.current.get(&file).map(|(version, digest)| Current::of(*version, *digest))
    }

    /// Whether this node has this record of a file, current or not.
    fn has_record(&self, file: Digest, version: u64, record: Digest) -> bool {
        self.versions.get(&file).is_some_and(|all| all.contains_key(&(version, record)))
    }

    /// The file of which this cell says which version is current, if a record of it is here.
    pub(crate) fn file_with_head(&self, cell: u64) -> Option<Digest> {
        self.versions.keys().copied().find(|file| work::head(*file) == cell)
    }

    /// Whether all records have been read that a start has found.
    pub(crate) fn has_read_records(&self) -> bool {
        let mut reads = self.reading.values().flatten();
        self.pins.is_empty() && !reads.any(|wanted| matches!(wanted, Wanted::Record))
    }

    /// A record is not here any more, if it was one.
    fn forget_record(&mut self, digest: Digest) {
        let Some((file, version)) = self.record_of.remove(&digest) else { return };
        if let Some(versions) = self.versions.get_mut(&file) {
            versions.remove(&(version, digest));
            if versions.is_empty() {
                self.versions.remove(&file);
            }
        }
        self.unsettle(file);
    }

    fn unsettle(&mut self, file: Digest) {
        self.unsettled.insert(file);
        self.settled_at = None;
    }

    /// The files of whose current record some keeper is further away than this node.
    pub(crate) fn further_than(&self, node: NodeName) -> impl Iterator<Item = Digest> {
        let further = self
            .furthest
            .iter()
            .filter(move |(file, furthest)| distance(node, &file.0) < **furthest);
        further.map(|(file, _)| *file)
    }

    /// The records here that are not current, and of which files.
    pub(crate) fn superseded(&self) -> BTreeMap<Digest, Digest> {
        let all = self.versions.iter().flat_map(|(file, versions)| {
            let current = self.current_digest(*file);
            let others = versions.keys().map(|(_, digest)| *digest);
            others.filter(move |digest| Some(*digest) != current).map(|digest| (digest, *file))
        });
        all.collect()
    }

    /// Others may fetch these bytes here, until they are unstaged as often.
    pub(crate) fn stage(&mut self, digest: Digest, bytes: Arc<[u8]>) {
        self.staged.entry(digest).or_insert((0, bytes)).0 += 1;
    }

    pub(crate) fn unstage(&mut self, digest: Digest) {
        if let Some((times, _)) = self.staged.get_mut(&digest) {
            *times -= 1;
            if *times == 0 {
                self.staged.remove(&digest);
            }
        }
    }
}

impl StorageNode {
    /// Reads what is pinned: the records.
    pub(crate) fn read_records(&mut self, now: Time) {
        for digest in std::mem::take(&mut self.holdings.pins) {
            self.read(now, digest, Wanted::Record);
        }
    }

    /// Everything that was found on the disk may be the rest of a step that was undone.
    pub(crate) fn sweep_at_start(&mut self) {
        let all: Vec<Digest> = self.holdings.shards.shards().map(|(digest, _)| digest).collect();
        self.holdings.doubtful.extend(all);
    }

    /// Has a shard read for somebody; false if it is not here.
    fn read(&mut self, now: Time, digest: Digest, wanted: Wanted) -> bool {
        if let Some(others) = self.holdings.reading.get_mut(&digest) {
            others.push(wanted);
            return true;
        }
        let mut ops = Vec::new();
        let there = self.holdings.shards.read(now, digest, &mut ops).is_ok();
        if there {
            self.holdings.reading.insert(digest, vec![wanted]);
            self.shard_ops(ops);
        }
        there
    }

    pub(crate) fn shards_done(
        &mut self,
        now: Time,
        done: ShardDone,
        disks: &dyn crate::StorageDisks,
    ) {
        match done {
            ShardDone::Written { digest, durable } => {
                let mut ops = Vec::new();
                self.holdings.writing.remove(&digest);
                let kept = self.holdings.shards.written(digest, durable, &mut ops).is_ok();
                let note = self.holdings.fresh.remove(&digest);
                if kept {
                    self.sweep.written(now, digest);
                }
                if kept && let Some(note) = note {
                    // Counted once it is pinned too: by its pin a record is found after a restart.
                    if let Note::Record(record) = note {
                        self.take_record(digest, record);
                    }
                    let _ = self.holdings.shards.pin(digest, &mut ops);
                    if self.holdings.shards.pinned(digest) == Some(false) {
                        self.holdings.writing.insert(digest);
                    }
                }
                self.shard_ops(ops);
                if !kept {
                    // Whoever asked asks again.
                    self.holdings.awaited.remove(&digest);
                } else if self.is_kept(digest) {
                    self.kept(now, digest, disks);
                }
            }
            ShardDone::Pinned { digest } => {
                self.holdings.writing.remove(&digest);
                self.holdings.shards.pin_durable(digest);
                if self.is_kept(digest) {
                    self.kept(now, digest, disks);
                } else {
                    // It was read meanwhile, and is bad: whoever asked asks again.
                    self.holdings.awaited.remove(&digest);
                }
            }
            ShardDone::Loaded { digest, bytes } => self.loaded(digest, bytes),
        }
    }

    fn take_record(&mut self, digest: Digest, record: FileRecord) {
        let (file, version) = (record.file, record.version);
        self.holdings.record_of.insert(digest, (file, version));
        self.holdings.versions.entry(file).or_default().insert((version, digest), record);
        self.holdings.unsettle(file);
    }

    /// Whether these bytes are held durably, a record's pin included.
    fn is_kept(&self, digest: Digest) -> bool {
        let shards = &self.holdings.shards;
        shards.holds(digest) && shards.pinned(digest) != Some(false)
    }

    /// The steps that waited for these bytes are told to the participant.
    fn kept(&mut self, now: Time, digest: Digest, disks: &dyn crate::StorageDisks) {
        let Some(awaited) = self.holdings.awaited.remove(&digest) else { return };
        for (from, call) in awaited.calls {
            self.pass_on(now, from, call, |work| work.translated(Current::default()), disks);
        }
    }

    /// Gives a step's call to the participant, its body in the participant's words.
    fn pass_on(
        &mut self,
        now: Time,
        from: NodeName,
        mut message: coordinator::Message,
        translate: impl Fn(&Work) -> Arc<[u8]>,
        disks: &dyn crate::StorageDisks,
    ) {
        if let coordinator::Message::StepCall { body, .. } = &mut message
            && let Ok(work) = Work::decode(body)
        {
            *body = translate(&work);
        }
        self.feed(now, NodeInput::Message { from, message }, disks);
    }

    /// The record of a file that the log says is current here.
    pub(crate) fn head_of(&self, file: Digest) -> Current {
        let host = self.transactions.participant();
        let value = |cell| host.map_or(0, |host| host.store().value(cell));
        let version = u64::try_from(value(work::head(file))).unwrap_or(0);
        Current { version, mark: value(work::head_record(file)) }
    }

    /// What the participant does for whoever shows this token; nothing if it has lost the lock.
    fn guard(
        &mut self,
        shard: ShardId,
        token: FencingToken,
        value: Option<i64>,
    ) -> Option<Arc<[u8]>> {
        let cells = self.transactions.participant()?.store();
        let guarded = work::guard(cells, shard, token, value).ok();
        self.stats.fenced += u64::from(guarded.is_none());
        guarded
    }

    /// A message of a saga or a transaction.
    pub(crate) fn transact(
        &mut self,
        now: Time,
        from: NodeName,
        mut message: coordinator::Message,
        disks: &dyn crate::StorageDisks,
    ) {
        match &mut message {
            coordinator::Message::StepCall { body, call, .. } => {
                if let Ok(work) = Work::decode(body) {
                    let direction = call.direction;
                    return self.step(now, from, message, work, direction, disks);
                }
            }
            coordinator::Message::Transaction(told) if self.comes_too_late(now, told) => return,
            coordinator::Message::Transaction(twopc::Message::Prepare { work, .. }) => {
                if let Ok(asked) = Work::decode(work) {
                    *work = match asked {
                        Work::Head { file, record, to, .. }
                            if self.holdings.has_record(file, to, record)
                                && self.is_kept(record) =>
                        {
                            asked.translated(self.head_of(file))
                        }
                        Work::Retire { file, .. } => {
                            self.holdings.unsettle(file);
                            asked.translated(self.head_of(file))
                        }
                        Work::Guarded { shard, token, value } => {
                            self.guard(shard, token, value).unwrap_or_else(|| asked.impossible())
                        }
                        // It does not have the record, or it is asked for what only a saga does.
                        _ => asked.impossible(),
                    };
                }
            }
            _ => {}
        }
        self.feed(now, NodeInput::Message { from, message }, disks);
    }

    /// Whether a call of a step comes again, or after its compensation: the participant knows the answer.
    fn is_answered(&self, message: &coordinator::Message) -> bool {
        let coordinator::Message::StepCall { key, call, .. } = message else { return false };
        let host = self.transactions.participant();
        host.is_some_and(|host| host.steps().of(*key, call.step).is_some())
    }

    fn step(
        &mut self,
        now: Time,
        from: NodeName,
        message: coordinator::Message,
        work: Work,
        direction: Direction,
        disks: &dyn crate::StorageDisks,
    ) {
        match (work, direction) {
            (Work::Keep { digest, from: source }, Direction::Forward) => {
                // A call that was answered before changes nothing, and needs nothing.
                if self.is_kept(digest) || self.is_answered(&message) {
                    return self.pass_on(
                        now,
                        from,
                        message,
                        |work| work.translated(Current::default()),
                        disks,
                    );
                }
                let asked = self.holdings.awaited.contains_key(&digest);
                let awaited = self.holdings.awaited.entry(digest).or_insert_with(|| Awaited {
                    from: source,
                    came: false,
                    calls: Vec::new(),
                });
                awaited.calls.retain(|(_, other)| !is_same_call(other, &message));
                awaited.calls.push((from, message));
                if !asked && self.fetch(now, source, digest, Why::Keep).is_err() {
                    // Its coordinator calls the step again.
                    self.holdings.awaited.remove(&digest);
                }
            }
            (Work::Release { digest }, Direction::Forward)
                if from != self.name && !self.is_answered(&message) =>
            {
                match self.standing(now, digest) {
                    // It is called again when that is known.
                    Standing::Promised => {}
                    Standing::Current(file) => {
                        self.pass_on(now, from, message, |_| node::work::encode(&[]), disks);
                        self.is_released_of(now, file, from);
                    }
                    Standing::First(file) => {
                        let unmade = |_: &Work| Work::unmade(file, digest, 1);
                        self.pass_on(now, from, message, unmade, disks);
                        self.holdings.unsettle(file);
                        self.holdings.doubtful.insert(digest);
                    }
                    Standing::Other => self.unkeep(now, from, message, work, direction, disks),
                }
            }
            (Work::Keep { .. } | Work::Release { .. }, _) => {
                self.unkeep(now, from, message, work, direction, disks);
            }
            (Work::Head { .. } | Work::Retire { .. } | Work::Guarded { .. }, _) => {
                self.pass_on(now, from, message, |work| work.impossible(), disks);
            }
        }
    }

    /// Whether these bytes are a record that nobody but this node itself may release now. Who had a version made and
    /// heard that it did not become current may be wrong: most of its participants may have kept their promises (see
    /// `orphans.rs`). Who knows of a newer version says so when it is asked.
    ///
    /// That is said of next versions: an upload that comes to nothing leaves nothing to be kept, and its name is free.
    fn standing(&self, now: Time, digest: Digest) -> Standing {
        let Some(&(file, version)) = self.holdings.record_of.get(&digest) else {
            return Standing::Other;
        };
        let Some(host) = self.transactions.participant() else { return Standing::Other };
        let current = self.head_of(file);
        let is_free = host.locks().is_free(now, work::head(file));
        if version <= 1 {
            let is_current = is_free && current == Current::of(1, digest);
            let is_last = host.store().value(work::needed(digest)) == 1;
            if is_current && is_last { Standing::First(file) } else { Standing::Other }
        } else if !is_free && version > current.version {
            Standing::Promised
        } else if is_free
            && current == Current::of(version, digest)
            && host.store().value(work::needed(digest)) == 1
        {
            Standing::Current(file)
        } else {
            Standing::Other
        }
    }

    /// A step that has bytes released, or undoes that it had them kept or released.
    fn unkeep(
        &mut self,
        now: Time,
        from: NodeName,
        message: coordinator::Message,
        work: Work,
        direction: Direction,
        disks: &dyn crate::StorageDisks,
    ) {
        match work {
            Work::Keep { digest, .. } | Work::Release { digest } => {
                if let Some(awaited) = self.holdings.awaited.get_mut(&digest) {
                    awaited.calls.clear();
                }
                // What was released may be gone: undone, a release changes nothing. Its saga turns back when its
                // coordinator has stood still for longer than a step may take.
                let undoes_release =
                    matches!((work, direction), (Work::Release { .. }, Direction::Backward));
                let translate = |work: &Work| match undoes_release {
                    true => node::work::encode(&[]),
                    false => work.translated(Current::default()),
                };
                self.pass_on(now, from, message, translate, disks);
                self.holdings.doubtful.insert(digest);
            }
            Work::Head { .. } | Work::Retire { .. } | Work::Guarded { .. } => {}
        }
    }

    /// Bytes came that a step waits for.
    pub(crate) fn bytes_to_keep(
        &mut self,
        now: Time,
        from: NodeName,
        digest: Digest,
        bytes: Option<&[u8]>,
        disks: &dyn crate::StorageDisks,
    ) {
        match self.holdings.awaited.get(&digest) {
            Some(awaited) if awaited.from == from && !awaited.came => {}
            _ => return,
        }
        let Some(bytes) = bytes else {
            // The source has it no more, or not again yet: the step is called again, or given up.
            self.holdings.awaited.remove(&digest);
            return;
        };
        let mut ops = Vec::new();
        let put = self.holdings.shards.put(now, digest, bytes.to_vec(), &mut ops);
        self.shard_ops(ops);
        match put {
            Ok(Put::Held) if self.is_kept(digest) => self.kept(now, digest, disks),
            // It was found here, and is being pinned.
            Ok(Put::Held) => {
                if let Some(awaited) = self.holdings.awaited.get_mut(&digest) {
                    awaited.came = true;
                }
            }
            Ok(Put::Writing) => {
                self.holdings.writing.insert(digest);
                if let Some(note) = Note::of(bytes) {
                    self.holdings.fresh.insert(digest, note);
                }
                if let Some(awaited) = self.holdings.awaited.get_mut(&digest) {
                    awaited.came = true;
                }
            }
            // A liar's bytes say nothing about room here.
            Err(store::Refusal::Mismatch { .. }) => {
                self.holdings.awaited.remove(&digest);
            }
            Err(_) => {
                let awaited = self.holdings.awaited.remove(&digest);
                for (from, call) in awaited.into_iter().flat_map(|awaited| awaited.calls) {
                    self.pass_on(now, from, call, |work| work.impossible(), disks);
                }
            }
        }
    }

    pub(crate) fn get_asked(&mut self, now: Time, from: NodeName, digest: Digest, number: u64) {
        if let Some((_, bytes)) = self.holdings.staged.get(&digest) {
            let bytes = Some(bytes.to_vec());
            return self.give(from, digest, bytes, number);
        }
        if !self.read(now, digest, Wanted::Give(from, number)) {
            self.give(from, digest, None, number);
        }
    }

    /// Gives bytes to whoever asked for them, or says that they are not here.
    fn give(&mut self, to: NodeName, digest: Digest, bytes: Option<Vec<u8>>, number: u64) {
        if let Some(bytes) = &bytes {
            self.moved_to(to, number, bytes.len());
        }
        self.send(to, Message::Bytes { digest, bytes, number });
    }

    pub(crate) fn challenged(&mut self, now: Time, from: NodeName, challenge: Challenge) {
        self.holdings.cares.insert(challenge.shard, from);
        self.sweep.cares(now, challenge.shard);
        if !self.read(now, challenge.shard, Wanted::Prove(from, challenge)) {
            self.send(from, Message::Proof(respond(&challenge, None)));
        }
    }

    pub(crate) fn scrub_asked(&mut self, now: Time, from: NodeName, digest: Digest) {
        if !self.read(now, digest, Wanted::Scrub(Some(from))) {
            self.send(from, Message::Scrubbed { digest, healthy: false });
        }
    }

    fn loaded(&mut self, digest: Digest, bytes: Option<Vec<u8>>) {
        let read = self.holdings.shards.loaded(digest, bytes).ok();
        let healthy = read.is_some();
        self.observed.shards_checked += 1;
        self.observed.shards_corrupt += u64::from(!healthy);
        if let Some(bytes) = &read {
            self.adopt(digest, bytes);
        }
        let mut told = BTreeSet::new();
        for wanted in self.holdings.reading.remove(&digest).unwrap_or_default() {
            match wanted {
                Wanted::Give(to, number) => {
                    self.give(to, digest, read.clone(), number);
                }
                Wanted::Prove(to, challenge) => {
                    self.send(to, Message::Proof(respond(&challenge, read.as_deref())));
                }
                Wanted::Scrub(Some(to)) => {
                    told.insert(to);
                    self.send(to, Message::Scrubbed { digest, healthy });
                }
                Wanted::Scrub(None) => {}
                Wanted::Record => match read.as_deref().and_then(Note::of) {
                    Some(Note::Record(record)) => self.take_record(digest, record),
                    Some(Note::Upload(intent)) => {
                        self.transfers.left.insert(digest, *intent);
                    }
                    Some(Note::Recoding(recoding)) => self.encoding_left(digest, *recoding),
                    None => {}
                },
            }
        }
        // A bad copy is nobody's fault to hide: whoever keeps the record hears of it.
        if !healthy
            && let Some(&to) = self.holdings.cares.get(&digest)
            && told.insert(to)
        {
            self.send(to, Message::Scrubbed { digest, healthy });
        }
    }

    /// A note that a crash has left without its pin would not be found after the next start: it gets one now,
    /// and does not count as kept before that is durable.
    fn adopt(&mut self, digest: Digest, bytes: &[u8]) {
        if self.holdings.shards.pinned(digest).is_some() {
            return;
        }
        let Some(note) = Note::of(bytes) else { return };
        let mut ops = Vec::new();
        if self.holdings.shards.pin(digest, &mut ops).is_ok() {
            if let Note::Record(record) = note {
                self.take_record(digest, record);
            }
            self.holdings.writing.insert(digest);
            self.shard_ops(ops);
        }
    }

    /// Makes those versions current that the log says are.
    pub(crate) fn settle_records(&mut self, now: Time) {
        let Some(host) = self.transactions.participant() else { return };
        let changes = Some(host.store().changes());
        if changes == self.holdings.settled_at {
            return;
        }
        self.holdings.settled_at = changes;
        let mut turned = Vec::new();
        for &file in &self.holdings.unsettled {
            let Current { version, mark } = self.head_of(file);
            let versions = self.holdings.versions.get(&file);
            let mut all = versions.into_iter().flat_map(BTreeMap::keys).copied();
            let newest = all.clone().next_back().map(|(version, _)| version);
            let there = all.find(|(at, record)| *at == version && work::mark(*record) == mark);
            // Who is asked to keep it no longer has no newer one, and is not told in any other way.
            let is_free = host.locks().is_free(now, work::head(file));
            turned.push((file, there, is_free && newest.is_none_or(|at| at <= version)));
        }
        for (file, version, settled) in turned {
            let before = self.holdings.current.get(&file).copied();
            if before != version {
                self.holdings.turn(file, version);
                match self.holdings.current(file).map(FileRecord::encode) {
                    Some(record) => {
                        let message =
                            DirectoryMessage::Store { lookup: LookupId(0), key: file.0, record };
                        // Its answer goes to this node, which has not asked.
                        self.directory.handle(now, self.name, &message, &mut Vec::new());
                    }
                    None => self.directory.forget(&file.0),
                }
                self.record_turned(now, file);
            }
            if settled {
                self.holdings.unsettled.remove(&file);
            }
        }
    }

    /// Removes what the log says, durably, that nothing needs.
    pub(crate) fn remove_unneeded(&mut self) {
        if self.holdings.doubtful.is_empty() {
            return;
        }
        let Some(host) = self.transactions.participant() else { return };
        if host.log().durable() != host.log().last() {
            return;
        }
        let mut ops = Vec::new();
        let doubtful = std::mem::take(&mut self.holdings.doubtful);
        for digest in doubtful {
            let awaited = self.holdings.awaited.get(&digest);
            if awaited.is_some_and(|awaited| !awaited.calls.is_empty()) {
                continue;
            }
            if self.holdings.writing.contains(&digest) {
                // It is being written: looked at again then.
                self.holdings.doubtful.insert(digest);
                continue;
            }
            if host.store().value(work::needed(digest)) > 0 {
                continue;
            }
            let _ = self.holdings.shards.remove(digest, &mut ops);
            self.holdings.cares.remove(&digest);
            self.sweep.forget(digest);
            self.holdings.awaited.remove(&digest);
            self.holdings.forget_record(digest);
        }
        self.shard_ops(ops);
    }

    /// Time has passed: a shard may be read again.
    pub(crate) fn holder_wake(&mut self, now: Time) {
        let shards = self.holdings.shards.count();
        while shards > 0
            && let Some(digest) = {
                let Holdings { scrubber, shards: store, .. } = &mut self.holdings;
                scrubber.due(now, shards, |after| store.next_after(after))
            }
        {
            self.read(now, digest, Wanted::Scrub(None));
        }
    }
}

fn is_same_call(one: &coordinator::Message, two: &coordinator::Message) -> bool {
    match (one, two) {
        (
            coordinator::Message::StepCall { token: one, .. },
            coordinator::Message::StepCall { token: two, .. },
        ) => one == two,
        _ => false,
    }
}
