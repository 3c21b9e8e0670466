//! A record's next version: begun, kept, made current; and what keepers tell each other of versions.
//!
//! # Two records of one number
//!
//! A version is made of one record, by its number and its mark, and most keepers of that one vote for it. So of two next
//! versions of one record a coordinator decides for one at most. But what was promised and never decided may be kept all
//! the same (see `orphans.rs`), and its coordinator, or somebody who has heard it abort, may have made another one by then.
//! Then two records of one number are current, at different nodes. Keepers tell each other both number and mark; of two
//! records of one number each of the two nodes comes to see the other's, and all come to have one.
//!
//! *What was decided is at all keepers that it names.* Its decision took the votes of all of them, old and new, and none of
//! them hears of an abort. So a keeper that says, while it is in doubt of nothing, that it has another record of this number
//! or an earlier one, *refutes* the record that names it: nobody has decided for that, nobody was told of it, and nothing was
//! released on the strength of it. A record that was decided is never refuted: a participant that its coordinator has given up
//! for gone may be told of an abort, a day later, but then it is not named any more.
//!
//! | what a node sees beside its own record | |
//! |---|---|
//! | the other node refutes its own, and is not refuted: the other record does not name this node | it gives its own up, as it would for a newer one |
//! | the other one is refuted by this node, its own is not by that one | it says so, and the other one is given up |
//! | both are refuted, and most keepers of its own have that | it makes the next version, and gives it to the others whatever they have |
//! | both are refuted, and most keepers of its own have others, but not most of them the same | if its own is the greater by its mark, the same as who is left alone: see `alone.rs` |
//! | neither refutes the other's | its own is given up if others have refuted it and it is the lesser by its mark; else both stay, each with keepers of its own, until a next version names a keeper of the other one |
//!
//! *Before a next version is made of a record that has such a rival*, all nodes are asked: each has said that it has nothing
//! newer, and no other record of this number that is not refuted, or is gone. So what was decided is found, by its keepers,
//! and has its way. Who goes on then goes on from a record whose rivals were all of them never decided; then the version
//! before was the last that was, and none of what that names was released for any of them. The next version counts from
//! higher up, if most keepers have not the record that it is made of.
//!
//! *What only the one that is given up names* is not released by anybody for that. Its holder asks who needs it when nobody
//! has asked it for a proof in four rounds, in each of which the keepers of the other one ask proofs of all that it names;
//! and most of them have to say that they do not need it, which none does while it repairs the file.

use super::COMPARING;
use crate::StorageDisks;
use crate::message::Message;
use crate::node::StorageNode;
use crate::operation::{Ended, Purpose};
use crate::record::FileRecord;
use crate::transfer::request_key;
use crate::work::Current;
use base::{NodeName, Time};
use placement::{DirectoryMessage, distance};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use store::Digest;

/// For so many times the time after which a silent node is dead most keepers of a record have to be gone
/// before the others go on without them.
pub(crate) const ORPHANED: u32 = 10;

/// A version of which most keepers were missing counts from the next multiple of 2 to this on …
const ORPHANS: u32 = 32;
/// … and one with another encoding from the next of 2 to this: whatever anybody has done with the one before, on
/// whichever side of a partition, is older. Its shards are gone.
const ANEW: u32 = 48;

/// Among so many of the closest nodes those are looked for that will keep a record.
const PASSED_OVER: u32 = 8;

/// So often the pause behind a next version that came to nothing is twice the one before.
const PAUSES_DOUBLE: u32 = 6;

/// A record's next version, on its way.
#[derive(Clone, Debug)]
pub(super) struct Next {
    record: FileRecord,
    digest: Digest,
    /// Who keeps the version before, and is to keep none from then on.
    retired: Vec<NodeName>,
    /// What it takes the place of.
    before: FileRecord,
    before_digest: Digest,
    /// Keepers that have another version than the one before: it is made without their votes, whatever they have.
    astray: BTreeSet<NodeName>,
    /// By which note, if it has another encoding.
    anew: Option<Digest>,
}

/// Whether most keepers of a record have been missing since it was encoded last.
fn is_orphaned(version: u64) -> bool {
    version >> ORPHANS & ((1 << (ANEW - ORPHANS)) - 1) != 0
}

/// Whether one version has another encoding than an earlier one.
pub(crate) fn is_anew(was: u64, to: u64) -> bool {
    was >> ANEW != to >> ANEW
}

impl StorageNode {
    /// The number of a record's next version, if there may be one. Most of its keepers have to be there: on
    /// the other side of a partition there may be as many, and two versions of one number must not be. If most
    /// have been gone for so long that they do not come back, and nobody who is there has a newer version, those who
    /// are left go on, and count from higher up: what the others have done, if they are there after all, is older than
    /// that.
    pub(super) fn next_version(&self, now: Time, record: &FileRecord) -> Option<u64> {
        if self.most_have(record) {
            let astray = self.keeping.astray.get(&record.file);
            // Whoever has come further alone is given this one too.
            let further = astray.into_iter().flat_map(BTreeMap::values).map(|has| has.version);
            let may = !self.has_rival(record.file) || self.nobody_has_newer(record);
            return may.then_some(further.fold(record.version, u64::max) + 1);
        }
        let may = self.is_left_alone(now, record) && self.nobody_has_newer(record);
        may.then_some(((record.version >> ORPHANS) + 1) << ORPHANS)
    }

    /// Whether most keepers of the current record are there, and not known to have another one.
    pub(super) fn most_have(&self, record: &FileRecord) -> bool {
        let astray = |keeper| self.astray(record.file, keeper).is_some();
        let has_it = |keeper: &&NodeName| !self.is_dead(**keeper) && !astray(**keeper);
        2 * record.keepers.iter().filter(has_it).count() > record.keepers.len()
    }

    /// Whether a keeper is known to have, or to have given up, another record of the number that is current here.
    pub(super) fn has_rival(&self, file: Digest) -> bool {
        let Some(own) = self.holdings.has(file) else { return false };
        let mut astray = self.keeping.astray.get(&file).into_iter().flat_map(BTreeMap::values);
        astray.any(|has| has.version == own.version && *has != own)
    }

    /// Whether a keeper of the record that is current here is known not to have taken it: then nobody has decided that it
    /// becomes current, and nobody was told that it has.
    fn is_refuted(&self, file: Digest) -> bool {
        let Some(own) = self.holdings.has(file) else { return false };
        let mut astray = self.keeping.astray.get(&file).into_iter().flat_map(BTreeMap::values);
        astray.any(|has| has.version <= own.version && *has != own)
    }

    /// The number of a record's next version, if that has another encoding. Only while most of its keepers have
    /// always been there: those who go on alone might do so on either side of a partition.
    pub(super) fn version_anew(&self, now: Time, record: &FileRecord) -> Option<u64> {
        let next = self.next_version(now, record)?;
        (!is_orphaned(next)).then_some(((next >> ANEW) + 1) << ANEW)
    }

    /// Begins a record's next version, if there is something to say that it does not.
    pub(super) fn begin_next(&mut self, now: Time, file: Digest, disks: &dyn StorageDisks) {
        let (floor, not_before) = self.keeping.floor.get(&file).copied().unwrap_or_default();
        if floor == u64::MAX {
            // It was replaced, and its record is on its way out.
            self.keeping.changes.remove(&file);
            return;
        }
        if self.keeping.next.contains_key(&file) || now < not_before {
            return;
        }
        let Some(before) = self.holdings.current(file).cloned() else {
            // Others keep it now: what was rebuilt here is theirs to rebuild.
            self.keeping.changes.remove(&file);
            return;
        };
        if before.version < floor {
            return;
        }
        let Some(version) = self.next_version(now, &before).filter(|_| self.is_chief(&before))
        else {
            // The next audit looks again, here or elsewhere.
            self.keeping.changes.remove(&file);
            return self.seek_newer(now, file);
        };
        let Some(before_digest) = self.holdings.current_digest(file) else { return };
        let changes = self.keeping.changes.remove(&file).unwrap_or_default();
        let mut record = before.clone();
        record.version = version;
        let manifest = record.manifest.id();
        for ((stripe, index), (node, shard)) in changes {
            if stripe.manifest == manifest {
                record.holders[stripe.chunk as usize][usize::from(index)] = node;
            } else {
                // It was repaired, and the file has another encoding now.
                self.keeping.to_release.push((node, shard));
            }
        }
        let reach = self.reach(file);
        record.keepers.retain(|keeper| self.can_keep(*keeper, file, reach));
        let astray = self.keeping.astray.get(&file).into_iter().flat_map(BTreeMap::keys);
        let astray: BTreeSet<NodeName> = astray.copied().collect();
        let mut retired = before.keepers.clone();
        retired.retain(|keeper| {
            !record.keepers.contains(keeper) && !self.is_dead(*keeper) && !astray.contains(keeper)
        });
        let attempts = self.keeping.attempts.get(&file).copied().unwrap_or(0);
        if attempts % 2 == 1 {
            // One that is there may not answer: every other time so many are asked as there have to be.
            let most = before.keepers.len() / 2 + 1;
            let voting = record.keepers.iter().filter(|keeper| !astray.contains(*keeper)).count();
            retired.truncate(most.saturating_sub(voting));
        }
        let wanted = self.config.lookup.replication as usize;
        if record.keepers.len() < wanted {
            let missing = wanted - record.keepers.len();
            let is_new = |node: &NodeName| {
                !before.keepers.contains(node) && !self.keeping.leaving.contains(node)
            };
            let others =
                self.membership.nearest(&file.0, PASSED_OVER as usize + missing, |member| {
                    is_new(&member.announcement.node)
                });
            // One that has kept the file before, or has no room, says no, and nobody tells which: of the closest
            // ones each attempt passes over others, by the bits of its number: none at first.
            let asked =
                |(at, it): (u32, _)| (at >= PASSED_OVER || attempts >> at & 1 == 0).then_some(it);
            let others = (0u32..).zip(others);
            record.keepers.extend(others.filter_map(asked).take(missing));
        }
        let to_mend = record.keepers.iter().any(|keeper| astray.contains(keeper));
        if record.holders == before.holders && record.keepers == before.keepers && !to_mend {
            return;
        }
        let bytes = record.encode();
        let digest = Digest::of(&bytes);
        self.holdings.stage(digest, bytes.into());
        let wanted: Vec<_> = record.keepers.iter().map(|keeper| (*keeper, digest)).collect();
        let next = Next { record, digest, retired, before, before_digest, astray, anew: None };
        self.keeping.seeking.remove(&file);
        self.keeping.next.insert(file, next);
        let number = self.draw_number();
        let key = request_key(b'n', &[&self.name.0, &number.to_le_bytes(), &digest.0]);
        self.keep_all(now, key, Purpose::NextKept { file }, &wanted, disks);
    }

    /// Begins a record's next version that has another encoding.
    pub(super) fn begin_anew(
        &mut self,
        now: Time,
        (before, record): (FileRecord, FileRecord),
        note: Digest,
        disks: &dyn StorageDisks,
    ) {
        let (bytes, file) = (record.encode(), record.file);
        let (digest, before_digest) = (Digest::of(&bytes), Digest::of(&before.encode()));
        self.holdings.stage(digest, bytes.into());
        let wanted: Vec<_> = record.keepers.iter().map(|keeper| (*keeper, digest)).collect();
        let (retired, astray, anew) = (Vec::new(), BTreeSet::new(), Some(note));
        let next = Next { record, digest, retired, before, before_digest, astray, anew };
        self.keeping.next.insert(file, next);
        let key = request_key(b'f', &[&self.name.0, &note.0]);
        self.keep_all(now, key, Purpose::NextKept { file }, &wanted, disks);
    }

    /// The saga has ended that had a record's next version kept.
    pub(crate) fn next_kept(&mut self, now: Time, file: Digest, ended: Ended) {
        match ended {
            Ended::Done => self.keeping.kept.push(file),
            Ended::Undone => self.next_failed(now, file, false),
            Ended::Unknown => self.next_unknown(now, file),
        }
    }

    /// Nobody can say whether the next version is kept, or current: nothing of it is released, and the next
    /// audit looks at what is.
    fn next_unknown(&mut self, now: Time, file: Digest) {
        let Some(next) = self.keeping.next.remove(&file) else { return };
        self.holdings.unstage(next.digest);
        if next.anew.is_some() {
            self.encoding_unknown();
        }
        self.keeping.floor.insert(file, (next.before.version, now + self.config.patience));
        self.compare_records(&next.record);
    }

    pub(super) fn next_to_head(&mut self, now: Time, file: Digest, disks: &dyn StorageDisks) {
        let Some(next) = self.keeping.next.get(&file).cloned() else { return };
        let Next { record, digest, retired, before, before_digest, astray, anew } = next;
        let key = match anew {
            Some(note) => request_key(b'g', &[&self.name.0, &note.0]),
            None => {
                let number = self.draw_number();
                request_key(b'v', &[&self.name.0, &number.to_le_bytes(), &digest.0])
            }
        };
        let is_at = |keeper| before.keepers.contains(&keeper) && !astray.contains(&keeper);
        let current = Current::of(before.version, before_digest);
        let was = |keeper| if is_at(keeper) { current } else { Current::default() };
        let purpose = Purpose::NextHead { file };
        self.turn_head(now, key, purpose, (&record, digest, &retired), was, disks);
    }

    /// The 2PC has ended that makes a record's next version current.
    pub(crate) fn next_headed(&mut self, now: Time, file: Digest, ended: Ended) {
        match ended {
            Ended::Done => {}
            Ended::Undone => return self.next_failed(now, file, true),
            Ended::Unknown => return self.next_unknown(now, file),
        }
        let Some(next) = self.keeping.next.remove(&file) else { return };
        self.stats.versions += 1;
        self.keeping.attempts.remove(&file);
        self.holdings.unstage(next.digest);
        self.keeping.floor.insert(file, (next.record.version, now));
        if next.anew.is_some() {
            self.encoding_done();
            return self.look_after(now, file);
        }
        // What the version before needed, and this one does not.
        let left = &mut self.keeping.to_release;
        left.extend(next.before.keepers.iter().map(|keeper| (*keeper, next.before_digest)));
        let both = next.before.shards().zip(next.record.shards());
        for ((.., shard, old), (.., new)) in both {
            if old != new {
                left.push((old, shard.digest));
            }
        }
        self.look_after(now, file);
    }

    /// The next version does not become current: another came first, or a keeper was away.
    fn next_failed(&mut self, now: Time, file: Digest, kept: bool) {
        let Some(next) = self.keeping.next.remove(&file) else { return };
        self.stats.superseded += 1;
        let attempts = self.keeping.attempts.entry(file).or_default();
        *attempts += 1;
        // A keeper may wait for somebody who is gone for as long as nodes wait for anybody.
        let pause = self.config.patience * (1 << (*attempts - 1).min(PAUSES_DOUBLE));
        self.holdings.unstage(next.digest);
        if next.anew.is_some() {
            self.encoding_failed(now, kept);
            self.keeping.floor.insert(file, (next.before.version, now + self.config.patience));
            self.look_after(now, file);
            return self.compare_records(&next.record);
        }
        if kept {
            let keepers = next.record.keepers.iter();
            self.keeping.to_release.extend(keepers.map(|keeper| (*keeper, next.digest)));
        }
        let newer = self.holdings.current(file).is_none_or(|at| at.version > next.before.version);
        let both = next.before.shards().zip(next.record.shards());
        for ((stripe, index, shard, old), (.., new)) in both {
            if old == new {
                continue;
            }
            if newer {
                self.keeping.to_release.push((new, shard.digest));
            } else {
                let changes = self.keeping.changes.entry(file).or_default();
                changes.entry((stripe, index)).or_insert((new, shard.digest));
            }
        }
        self.keeping.floor.insert(file, (next.before.version, now + pause));
        self.look_after(now, file);
        self.compare_records(&next.record);
    }

    /// Tells other keepers of each record which one this node has: one that was away may have been
    /// replaced meanwhile, and hears so. The first keeper tells all others; each of them the first, and
    /// another one each round, since the first may have been away too.
    pub(super) fn tell_versions(&mut self, now: Time) {
        self.keeping.rounds += 1;
        let mut told = Vec::new();
        // Who is in doubt of the next one says nothing.
        for record in self.holdings.all_current().filter(|it| self.can_say(now, it.file)) {
            let others: Vec<NodeName> =
                record.keepers.iter().copied().filter(|keeper| *keeper != self.name).collect();
            let chief = record.chief(|node| !self.is_dead(node));
            let turn = others.get(self.keeping.rounds % others.len().max(1)).copied();
            let to = |node: &NodeName| {
                chief == Some(self.name) || chief == Some(*node) || turn == Some(*node)
            };
            let Some(has) = self.holdings.has(record.file) else { continue };
            let message = Message::Version { file: record.file, has };
            told.extend(others.into_iter().filter(to).map(|node| (node, message.clone())));
        }
        told.into_iter().for_each(|(node, message)| self.send(node, message));
        self.look_for_others();
    }

    /// Whoever went on without most of the keepers asks those that a lookup would ask whether the others are there
    /// after all, and have come further.
    fn look_for_others(&mut self) {
        let orphans = self.holdings.all_current().filter(|record| is_orphaned(record.version));
        let files: Vec<Digest> = orphans.map(|record| record.file).collect();
        for file in files {
            let reach = self.reach(file);
            let near = self.membership.candidates().map(|candidate| candidate.node);
            let near = near.filter(|node| reach.is_none_or(|it| distance(*node, &file.0) <= it));
            for node in near.collect::<Vec<NodeName>>() {
                let (lookup, key) = (COMPARING, file.0);
                let message = DirectoryMessage::Find { lookup, key };
                self.send(node, Message::Directory(message));
            }
        }
    }

    /// Another keeper says which record is current there: whoever has the older one gets the newer, and of two of one
    /// number each comes to see the other.
    pub(crate) fn version_told(&mut self, now: Time, from: NodeName, file: Digest, has: Current) {
        let (lookup, key) = (COMPARING, file.0);
        let both = self.holdings.current(file).zip(self.holdings.has(file));
        let Some((own, is_here)) = both else {
            if self.can_say(now, file) {
                // Its record may name this node, which has none.
                self.send(from, Message::Directory(DirectoryMessage::Find { lookup, key }));
            }
            return;
        };
        let message = match own.version.cmp(&has.version) {
            Ordering::Equal if has == is_here => return self.is_with(file, from),
            Ordering::Less => DirectoryMessage::Find { lookup, key },
            Ordering::Equal | Ordering::Greater => {
                let (nodes, record) = (Vec::new(), Some(own.encode()));
                DirectoryMessage::Found { lookup, nodes, record }
            }
        };
        self.send(from, Message::Directory(message));
    }

    /// Another node has released the record that is current here: either it has a newer one, or will in a moment, or it is
    /// wrong.
    pub(crate) fn is_released_of(&mut self, now: Time, file: Digest, by: NodeName) {
        self.keeping.released_by.insert(file, (by, now + self.config.patience));
    }

    pub(super) fn ask_who_released(&mut self, now: Time) {
        let due = self.keeping.released_by.extract_if(.., |_, (_, at)| *at <= now);
        for (file, (by, _)) in due.collect::<Vec<_>>() {
            if self.holdings.current(file).is_some() {
                let (lookup, key) = (COMPARING, file.0);
                self.send(by, Message::Directory(DirectoryMessage::Find { lookup, key }));
            }
        }
    }

    /// A keeper has the record that this node has.
    fn is_with(&mut self, file: Digest, keeper: NodeName) {
        if let Some(astray) = self.keeping.astray.get_mut(&file) {
            astray.remove(&keeper);
            if astray.is_empty() {
                self.keeping.astray.remove(&file);
            }
        }
    }

    /// A keeper has another record than the one that this node has shown it.
    pub(crate) fn astray_told(
        &mut self,
        now: Time,
        from: NodeName,
        file: Digest,
        (than, has): (Current, Current),
    ) {
        let own = self.holdings.current(file).filter(|_| self.holdings.has(file) == Some(than));
        if own.is_some_and(|own| own.keepers.contains(&from)) {
            self.goes_astray(now, file, from, has);
        }
    }

    /// A keeper of the current record is known to have another one.
    fn goes_astray(&mut self, now: Time, file: Digest, keeper: NodeName, has: Current) {
        let astray = self.keeping.astray.entry(file).or_default();
        if astray.insert(keeper, has) != Some(has) {
            self.look_after(now, file);
        }
    }

    /// Somebody has another record of the number that this node's has: the head of this file says who gives way.
    fn rival_came(&mut self, now: Time, from: NodeName, theirs: &FileRecord, shown: Current) {
        let file = theirs.file;
        let Some(own) = self.holdings.current(file) else { return };
        let (is_named, names) = (theirs.keepers.contains(&self.name), own.keepers.contains(&from));
        if !is_named {
            // If others have refuted it, they may have refuted the other one too: one of the two stays.
            let is_less = self.holdings.has(file) < Some(shown);
            if names || is_less && self.is_refuted(file) {
                self.give_way(file);
            }
            return;
        }
        if self.astray(file, from) != Some(shown) {
            // It hears that this node, which its record names, has not taken that.
            let (nodes, record) = (Vec::new(), Some(own.encode()));
            let message = DirectoryMessage::Found { lookup: COMPARING, nodes, record };
            self.send(from, Message::Directory(message));
        }
        if names {
            self.goes_astray(now, file, from, shown);
        }
    }

    /// Others keep the file, by a record that does not name this node: it gives up its own.
    fn give_way(&mut self, file: Digest) {
        if self.keeping.next.contains_key(&file) {
            return;
        }
        if let Some(digest) = self.holdings.current_digest(file)
            && self.keeping.floor.insert(file, (u64::MAX, Time::NEVER)).map(|it| it.0)
                != Some(u64::MAX)
        {
            self.keeping.changes.remove(&file);
            self.keeping.to_release.push((self.name, digest));
        }
    }

    /// Asks the other keepers of a record which version they have.
    fn compare_records(&mut self, record: &FileRecord) {
        let own = self.name;
        for keeper in record.keepers.iter().filter(|keeper| **keeper != own) {
            let (lookup, key) = (COMPARING, record.file.0);
            let message = DirectoryMessage::Find { lookup, key };
            self.send(*keeper, Message::Directory(message));
        }
    }

    /// Another keeper's version has come. If it is newer, and others keep it, this node's is not needed
    /// any more. If it names this node, then this node has missed it, and does not have it by itself: most keepers
    /// have to say so, by the next one. So its sender hears of that.
    pub(crate) fn compared(&mut self, now: Time, from: NodeName, record: &[u8]) {
        let Ok(theirs) = FileRecord::decode(record) else { return };
        let (file, is_named) = (theirs.file, theirs.keepers.contains(&self.name));
        let own = self.holdings.current(file);
        if own.is_some_and(|own| own.manifest.content() != theirs.manifest.content()) {
            return;
        }
        let order = own.map_or(Ordering::Greater, |own| theirs.version.cmp(&own.version));
        let shown = Current::of(theirs.version, Digest::of(record));
        match order {
            Ordering::Equal if self.holdings.has(file) == Some(shown) => {
                return self.is_with(file, from);
            }
            Ordering::Equal => return self.rival_came(now, from, &theirs, shown),
            Ordering::Less => {
                if let Some(own) = own.filter(|own| own.keepers.contains(&from)) {
                    let (nodes, record) = (Vec::new(), Some(own.encode()));
                    let message = DirectoryMessage::Found { lookup: COMPARING, nodes, record };
                    self.send(from, Message::Directory(message));
                }
                return;
            }
            Ordering::Greater => {}
        }
        if is_named && self.can_say(now, file) {
            let (than, has) = (shown, self.head_of(file));
            self.send(from, Message::Astray { file, than, has });
        }
        let Some(own) = self.holdings.current(file) else { return };
        // Whoever has gone on alone counts from higher up, and has its way.
        if own.keepers.contains(&from)
            && own.version >> ORPHANS == theirs.version >> ORPHANS
            && self.can_say(now, file)
        {
            self.goes_astray(now, file, from, shown);
        }
        if !is_named {
            self.give_way(file);
        }
    }
}
