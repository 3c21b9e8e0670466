//! A keeper that is to go on without most of the others, and what it has to know before.
//!
//! That most keepers of the version that it has are gone does not say that nobody keeps the file: others may have gone
//! on from that version while it was away, with keepers of whom it has not heard. So it asks all who are there, and
//! goes on only once each of them has said that it has nothing newer, or is gone too. Who has promised a version and
//! does not know yet whether that is current, or has not read its records yet, says nothing until it does.
//!
//! So does who has the greatest of several records of one number, none of which was decided, if no record has most keepers:
//! see `versions.rs`.
//!
//! And it goes on only where most of the network is. When a network is cut in two, at most one part has more than half
//! of those who were there before: in the other part nobody goes on alone, however long that lasts. What the one part
//! has repaired, and released, is not forgotten by what the other does.
//!
//! *A start* has heard of nobody who went before it, and would take any part for the whole. So whom its current records
//! name counts as gone with the others: they were there when those became current. Whoever keeps few files knows few
//! names by that, and may still be wrong in a part that has more nodes than these are.
//!
//! *A cut that becomes another one* lets a node see most of the others again, and not those who keep a file. They have
//! been silent for long, but that was this node's doing: for how long somebody is gone is counted from when this node
//! came to see most of the others at the earliest.

use super::ORPHANED;
use crate::message::Message;
use crate::node::StorageNode;
use crate::record::FileRecord;
use crate::work::{self, Current};
use base::{NodeName, Time};
use placement::{DirectoryMessage, LookupId, Member, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
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

/// Whether a node sees most of the others, and since when.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// When this life began.
    started: Time,
    /// Who is gone, and may come back: since when.
    missed: BTreeMap<NodeName, Time>,
    /// They again, in the order in which they went.
    by_time: BTreeSet<(Time, NodeName)>,
    /// Whom current records name, and of whom nothing was heard in this life.
    unheard: BTreeSet<NodeName>,
    sees_most: bool,
    /// Since when it does, or has last.
    most_since: Time,
}

impl Sight {
    pub(super) fn new(now: Time) -> Sight {
        Sight {
            started: now,
            missed: BTreeMap::new(),
            by_time: BTreeSet::new(),
            unheard: BTreeSet::new(),
            sees_most: true,
            most_since: now,
        }
    }

    fn gone(&mut self, now: Time, node: NodeName) {
        if self.missed.insert(node, now).is_none() {
            self.by_time.insert((now, node));
        }
    }

    fn is_there(&mut self, node: NodeName) {
        self.unheard.remove(&node);
        if let Some(since) = self.missed.remove(&node) {
            self.by_time.remove(&(since, node));
        }
    }

    /// Those who do not come back are not missed any more: who has been gone for `patience` while this node saw most.
    fn forget(&mut self, now: Time, patience: Duration) {
        if !self.sees_most {
            return;
        }
        let is_lost = |since: Time| since.max(self.most_since) + patience <= now;
        if is_lost(self.started) {
            self.unheard.clear();
        }
        while let Some(&(since, node)) = self.by_time.first()
            && is_lost(since)
        {
            self.by_time.remove(&(since, node));
            self.missed.remove(&node);
        }
    }

    /// So many others are there now.
    fn look(&mut self, now: Time, there: usize) {
        let sees_most = there + 1 > self.missed.len() + self.unheard.len();
        if sees_most && !self.sees_most {
            self.most_since = now;
        }
        self.sees_most = sees_most;
    }
}

impl StorageNode {
    /// A node is gone, or there again: this one may see most of the others no more, or again.
    pub(crate) fn sees_otherwise(&mut self, now: Time, node: NodeName, status: Status) {
        let patience = ORPHANED * self.config.membership.alive;
        let (sight, there) = (&mut self.keeping.sight, self.membership.not_dead());
        sight.forget(now, patience);
        match status {
            Status::Dead => sight.gone(now, node),
            Status::Alive => sight.is_there(node),
            Status::Suspected => return,
        }
        sight.look(now, there);
    }

    /// This node has heard of everybody who is there: whom its records name beside them is gone.
    pub(super) fn misses_unheard(&mut self, now: Time) {
        let unheard = self.holdings.named().filter(|node| self.is_unheard(*node)).collect();
        self.keeping.sight.unheard = unheard;
        self.keeping.sight.look(now, self.membership.not_dead());
    }

    /// Another record is current: whom none names any more says nothing of how many there are.
    pub(super) fn misses_named(&mut self, now: Time) {
        let (sight, holdings) = (&mut self.keeping.sight, &self.holdings);
        if !sight.unheard.is_empty() {
            sight.unheard.retain(|node| holdings.is_named(*node));
            sight.look(now, self.membership.not_dead());
        }
    }

    fn is_unheard(&self, node: NodeName) -> bool {
        node != self.name && self.membership.member(node).is_none()
    }

    /// Since when somebody who is gone has been gone while this node saw most of the others, as far as it knows.
    pub(crate) fn missed_since(&self, now: Time, node: NodeName) -> Time {
        let sight = &self.keeping.sight;
        let since = match self.membership.member(node) {
            Some(member) if member.status == Status::Dead => member.since,
            Some(_) => now,
            None => sight.started,
        };
        since.max(sight.most_since)
    }

    /// Whether most keepers of a record have been gone for so long that nobody waits for them any more, or have another
    /// record that is less than this one, and not most of them the same: then it is nobody else's turn either.
    pub(super) fn is_left_alone(&self, now: Time, record: &FileRecord) -> bool {
        let (gone, there): (Vec<NodeName>, Vec<NodeName>) =
            record.keepers.iter().partition(|keeper| self.is_dead(**keeper));
        let own = self.holdings.has(record.file).unwrap_or_default();
        let mut less: BTreeMap<Current, usize> = BTreeMap::new();
        for has in there.iter().filter_map(|keeper| self.astray(record.file, *keeper)) {
            if has < own {
                *less.entry(has).or_default() += 1;
            }
        }
        let without = gone.len() + less.values().sum::<usize>();
        2 * without >= record.keepers.len()
            && less.values().all(|have| 2 * have <= record.keepers.len())
            && gone.iter().all(|keeper| self.is_lost(now, *keeper))
            && self.sees_most_since(&gone)
    }

    /// Whether all others are to be asked before a next version of a record is made.
    fn is_to_ask(&self, now: Time, record: &FileRecord) -> bool {
        self.has_rival(record.file) || self.is_left_alone(now, record)
    }

    /// Whether more of the others are there than have gone since these began to go. Whom a current record names was
    /// there too, also if this node has started since, and has not heard of it.
    pub(crate) fn sees_most_since(&self, gone: &[NodeName]) -> bool {
        let members = || self.membership.members();
        let since = gone.iter().filter_map(|node| self.membership.member(*node));
        let first = since.map(|member| member.since).min();
        // Not all are missed at the same time.
        let slack = MISSED_WITHIN * self.config.membership.alive;
        let lately = |member: &&Member| {
            member.status == Status::Dead
                && first.is_some_and(|first| member.since + slack >= first)
        };
        let mut missed: BTreeSet<NodeName> = gone.iter().copied().collect();
        missed.extend(members().filter(lately).map(|member| member.announcement.node));
        missed.extend(self.holdings.named().filter(|node| self.is_dead(*node)));
        self.membership.not_dead() + 1 > missed.len()
    }

    /// Whether everybody has said that this version of a file's record is the newest, and that there is no other of its
    /// number that has its way.
    pub(super) fn nobody_has_newer(&self, record: &FileRecord) -> bool {
        let seeking = self.keeping.seeking.get(&record.file);
        seeking.is_some_and(|seeking| seeking.version == record.version && !seeking.is_open())
    }

    /// Asks everybody for a newer version of a file's record, if this node is to go on alone.
    pub(super) fn seek_newer(&mut self, now: Time, file: Digest) {
        let Some(record) = self.holdings.current(file) else { return };
        let is_asked = self.keeping.seeking.contains_key(&file);
        if is_asked || !self.is_chief(record) || !self.is_to_ask(now, record) {
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
                record.version == seeking.version && self.is_to_ask(now, record)
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
        let both = self.holdings.current(file).zip(self.holdings.has(file));
        let Some((own, is_here)) = both else { return };
        let theirs = record.and_then(|record| Some((record, FileRecord::decode(record).ok()?)));
        let newer = theirs.is_some_and(|(record, theirs)| {
            let shown = Current::of(theirs.version, Digest::of(record));
            // One that names this node, which has not taken it, was never decided.
            let is_refuted = theirs.keepers.contains(&self.name);
            let is_less = shown < is_here || self.most_have(own);
            let is_rival = theirs.version == own.version && shown != is_here;
            theirs.file == file
                && (theirs.version > own.version || is_rival && (!is_refuted || !is_less))
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
