//! A keeper that is to go on without most of the others, and what it has to know before.
//!
//! That most keepers of the version that it has are gone does not say that nobody keeps the file: others may have gone
//! on from that version while it was away, with keepers of whom it has not heard. So it asks all who are there, and
//! goes on only once each of them has said that it has nothing newer, or is gone too. Who has promised a version and
//! does not know yet whether that is current, or has not read its records yet, says nothing until it does.
//!
//! And it goes on only where most of the network is. When a network is cut in two, at most one part has more than half
//! of those who were there before: in the other part nobody goes on alone, however long that lasts. What the one part
//! has repaired, and released, is not forgotten by what the other does.

use crate::message::Message;
use crate::node::StorageNode;
use crate::record::FileRecord;
use crate::work;
use base::{NodeName, Time};
use placement::{DirectoryMessage, LookupId, Member, Status};
use std::collections::BTreeSet;
use store::Digest;

/// Such questions are numbered from here; a directory's own lookups are counted from 1.
const SEEKING: u64 = 1 << 63;

/// Who is silent is asked again after so many times the patience.
const AGAIN: u32 = 4;

/// Those who were lost together are dead within so many times the time after which a silent node is.
const MISSED_WITHIN: u32 = 2;

/// Whether an answer is to one of these questions.
pub(crate) fn is_sought(lookup: LookupId) -> bool {
    lookup.0 >= SEEKING && lookup != super::COMPARING
}

/// What a node asks all others about a file before it goes on alone.
#[derive(Clone, Debug)]
pub(super) struct Seeking {
    lookup: LookupId,
    /// The version that it would go on from.
    version: u64,
    /// Who has not answered.
    silent: BTreeSet<NodeName>,
    /// When they are asked again; if nobody is silent, from when on the answers are too old.
    until: Time,
}

impl Seeking {
    pub(super) fn is_open(&self) -> bool {
        !self.silent.is_empty()
    }

    pub(super) fn due(&self) -> Time {
        self.until
    }
}

impl StorageNode {
    /// Whether most keepers of a record have been gone for so long that nobody waits for them any more.
    pub(super) fn is_left_alone(&self, now: Time, record: &FileRecord) -> bool {
        let (gone, there): (Vec<NodeName>, Vec<NodeName>) =
            record.keepers.iter().partition(|keeper| self.is_dead(**keeper));
        gone.len() >= there.len()
            && gone.iter().all(|keeper| self.is_lost(now, *keeper))
            && self.sees_most_since(&gone)
    }

    /// Whether more of the others are there than have gone since these began to go.
    fn sees_most_since(&self, gone: &[NodeName]) -> bool {
        let since = gone.iter().filter_map(|node| self.membership.member(*node));
        let Some(first) = since.map(|member| member.since).min() else { return true };
        // Not all are missed at the same time.
        let slack = MISSED_WITHIN * self.config.membership.alive;
        let is_dead = |member: &&Member| member.status == Status::Dead;
        let lately = |member: &&Member| member.since + slack >= first;
        let there = self.membership.members().filter(|member| !is_dead(member)).count();
        there + 1 > self.membership.members().filter(is_dead).filter(lately).count()
    }

    /// Whether everybody has said that this version of a file's record is the newest.
    pub(super) fn nobody_has_newer(&self, file: Digest, version: u64) -> bool {
        let seeking = self.keeping.seeking.get(&file);
        seeking.is_some_and(|seeking| seeking.version == version && !seeking.is_open())
    }

    /// Asks everybody for a newer version of a file's record, if this node is to go on alone.
    pub(super) fn seek_newer(&mut self, now: Time, file: Digest) {
        let Some(record) = self.holdings.current(file) else { return };
        let is_asked = self.keeping.seeking.contains_key(&file);
        if is_asked || !self.is_chief(record) || !self.is_left_alone(now, record) {
            return;
        }
        let version = record.version;
        let there = self.membership.members().filter(|member| member.status != Status::Dead);
        let silent = there.map(|member| member.announcement.node).collect();
        let lookup = LookupId(SEEKING | self.draw_number());
        let seeking = Seeking { lookup, version, silent, until: now };
        self.keeping.seeking.insert(file, seeking);
        self.seeking_wake(now);
    }

    /// Time has passed: the silent are asked again, and answers grow old.
    pub(super) fn seeking_wake(&mut self, now: Time) {
        let due = self.keeping.seeking.iter().filter(|(_, seeking)| seeking.until <= now);
        for file in due.map(|(file, _)| *file).collect::<Vec<Digest>>() {
            let Some(mut seeking) = self.keeping.seeking.remove(&file) else { continue };
            let record = self.holdings.current(file);
            let goes_on = record.is_some_and(|record| {
                record.version == seeking.version && self.is_left_alone(now, record)
            });
            if !goes_on || !seeking.is_open() {
                continue;
            }
            seeking.silent.retain(|node| !self.is_dead(*node));
            seeking.until = now + AGAIN * self.config.patience;
            for node in &seeking.silent {
                let message = DirectoryMessage::Find { lookup: seeking.lookup, key: file.0 };
                self.send(*node, Message::Directory(message));
            }
            let is_open = seeking.is_open();
            self.keeping.seeking.insert(file, seeking);
            if !is_open {
                self.look_after(now, file);
            }
        }
    }

    /// Whether this node can say which version of a file's record it has, if any.
    pub(crate) fn can_say(&self, now: Time, file: Digest) -> bool {
        let host = self.transactions.participant();
        host.is_some_and(|host| host.locks().is_free(now, work::head(file)))
            && self.holdings.has_read_records()
    }

    /// Somebody has answered.
    pub(crate) fn sought(
        &mut self,
        now: Time,
        from: NodeName,
        lookup: LookupId,
        record: Option<&[u8]>,
    ) {
        let mut all = self.keeping.seeking.iter();
        let Some(file) = all.find(|(_, it)| it.lookup == lookup).map(|(file, _)| *file) else {
            return;
        };
        let Some(own) = self.holdings.current(file) else { return };
        let theirs = record.and_then(|record| FileRecord::decode(record).ok());
        let newer = theirs.is_some_and(|theirs| {
            theirs.file == file
                && theirs.version > own.version
                && theirs.manifest.content() == own.manifest.content()
        });
        if newer {
            self.keeping.seeking.remove(&file);
            let again = now + self.config.membership.alive;
            self.keeping.revisits.entry(file).or_insert(again);
            return record.into_iter().for_each(|record| self.compared(now, from, record));
        }
        let Some(seeking) = self.keeping.seeking.get_mut(&file) else { return };
        if seeking.silent.remove(&from) && !seeking.is_open() {
            seeking.until = now + self.config.membership.alive;
            self.look_after(now, file);
        }
    }
}
