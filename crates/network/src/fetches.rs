//! Bytes that this node has asked others for: at most four requests to one peer at once, the others wait for
//! their turn.
//!
//! # What a connection is here
//!
//! The network is messages, and needs none. What takes room on a line is a shard's bytes, and those come only
//! to who has asked for them ([`Message::Get`]). So a connection to a peer is the right to one such request and its
//! answer at a time. It is made with its first request, whose answer shows that the peer is there; it is used
//! again as long as each request on it is answered in time, and closed when one is not, when the peer is dead, or
//! when nobody has used it for a while. Whoever keeps connections of a real network has one of them for each of
//! these. Nothing else is counted or waits here: votes, heartbeats, lookups and proofs, of a few blocks each, leave
//! at once, whatever is on its way.
//!
//! Every request ends: by its answer, by time-out, or with its peer. In each case the next one in line has the
//! connection's place, and whoever waits for the bytes hears of it.

use crate::StorageDisks;
use crate::message::Message;
use crate::node::{Config, StorageNode};
use base::{NodeName, Time};
use placement::{Acquired, ConnectionConfig, ConnectionId, Connections};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use store::Digest;

/// So many requests to one peer wait at most.
pub(crate) const WAITING_MAX: usize = 64;

/// A request that is not taken: as many wait for this peer as may. Ask another one, or again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{WAITING_MAX} requests wait for this peer")]
pub(crate) struct Busy;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Send it, under this number.
    Now(u64),
    /// It waits, or is under way already.
    Later,
}

/// What became of a node's requests for bytes since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that had to wait for their turn.
    pub waited: u64,
    /// Requests that were not taken, since as many waited as may.
    pub refused: u64,
    /// Requests that were not answered in time.
    pub late: u64,
}

/// Why bytes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A step has them kept here: nobody chose whom to ask.
    Keep,
    /// To read a file: whom to ask first was chosen, and what comes of it is learned.
    Read,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    number: u64,
    connection: ConnectionId,
    since: Time,
    why: Why,
}

/// How a request has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) why: Why,
    /// How long it took.
    pub(crate) latency: Duration,
}

/// What this node waits for, of whom.
#[derive(Clone, Debug)]
pub(crate) struct Fetches {
    connections: Connections,
    patience: Duration,
    under_way: BTreeMap<(NodeName, Digest), Request>,
    by_end: BTreeSet<(Time, NodeName, Digest)>,
    waiting: BTreeMap<NodeName, VecDeque<(Digest, Why)>>,
    stats: FetchStats,
}

impl Fetches {
    pub(crate) fn new(config: &Config) -> Fetches {
        let patience = config.patience;
        let limits = ConnectionConfig { connect: patience, lease: patience, ..config.connections };
        Fetches {
            connections: Connections::new(limits),
            patience,
            under_way: BTreeMap::new(),
            by_end: BTreeSet::new(),
            waiting: BTreeMap::new(),
            stats: FetchStats::default(),
        }
    }

    /// Something is wanted of a peer. `number`: under which it is sent, if it is now.
    fn ask(
        &mut self,
        now: Time,
        peer: NodeName,
        (digest, why): (Digest, Why),
        number: u64,
    ) -> Result<Turn, Busy> {
        if self.under_way.contains_key(&(peer, digest)) {
            return Ok(Turn::Later);
        }
        if let Some(line) = self.waiting.get_mut(&peer) {
            if line.iter().any(|(other, _)| *other == digest) {
                return Ok(Turn::Later);
            }
            if line.len() >= WAITING_MAX {
                self.stats.refused += 1;
                return Err(Busy);
            }
            self.stats.waited += 1;
            line.push_back((digest, why));
            return Ok(Turn::Later);
        }
        // Those that nobody has used for long take no place.
        self.connections.tick(now, &mut Vec::new());
        match self.connections.acquire(now, peer) {
            Acquired::Ready(connection) | Acquired::Connect(connection) => {
                let until = now + self.patience;
                self.by_end.insert((until, peer, digest));
                let request = Request { number, connection, since: now, why };
                self.under_way.insert((peer, digest), request);
                self.stats.sent += 1;
                Ok(Turn::Now(number))
            }
            Acquired::Busy => {
                self.stats.waited += 1;
                self.waiting.insert(peer, VecDeque::from([(digest, why)]));
                Ok(Turn::Later)
            }
        }
    }

    /// What is next in a peer's line, if there is a connection for it.
    fn next(&mut self, now: Time, peer: NodeName, number: u64) -> Option<Digest> {
        let mut line = self.waiting.remove(&peer)?;
        let (digest, why) = line.pop_front()?;
        let waited = self.stats.waited;
        let sent = self.ask(now, peer, (digest, why), number) == Ok(Turn::Now(number));
        if sent {
            if !line.is_empty() {
                self.waiting.insert(peer, line);
            }
            return Some(digest);
        }
        self.stats.waited = waited;
        line.push_front((digest, why));
        self.waiting.insert(peer, line);
        None
    }

    /// An answer has come; `None` if it is of no request that is under way: it came too late, or twice.
    fn answered(
        &mut self,
        now: Time,
        peer: NodeName,
        digest: Digest,
        number: u64,
    ) -> Option<Fetched> {
        let request = self.under_way.get(&(peer, digest)).filter(|it| it.number == number)?;
        let Request { connection, since, why, .. } = *request;
        self.under_way.remove(&(peer, digest));
        self.by_end.remove(&(since + self.patience, peer, digest));
        self.connections.connected(now, connection);
        self.connections.release(now, connection);
        Some(Fetched { why, latency: now - since })
    }

    /// A request has not been answered: its connection is not used again.
    fn fail(&mut self, peer: NodeName, digest: Digest) -> Option<Fetched> {
        let Request { connection, since, why, .. } = self.under_way.remove(&(peer, digest))?;
        self.by_end.remove(&(since + self.patience, peer, digest));
        self.connections.closed(connection);
        Some(Fetched { why, latency: self.patience })
    }

    /// The requests that were not answered in time.
    fn late(&self, now: Time) -> Vec<(NodeName, Digest)> {
        let late = self.by_end.iter().take_while(|(until, ..)| *until <= now);
        late.map(|(_, peer, digest)| (*peer, *digest)).collect()
    }

    /// What was wanted of a peer, whether it was asked for it or waits.
    fn of(&self, peer: NodeName) -> Vec<Digest> {
        let asked = self.under_way.range((peer, Digest([0; 32]))..=(peer, Digest([255; 32])));
        let waits = self.waiting.get(&peer).into_iter().flatten().map(|(digest, _)| *digest);
        asked.map(|((_, digest), _)| *digest).chain(waits).collect()
    }

    /// When a request is not waited for any longer. Connections that are merely idle wake nobody: they are closed
    /// on the way.
    pub(crate) fn due(&self) -> Option<Time> {
        self.by_end.first().map(|(until, ..)| *until)
    }

    /// Whether nothing is under way, and nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.under_way.is_empty() && self.waiting.is_empty()
    }
}

impl StorageNode {
    /// Asks a node for bytes, now or when it is their turn. However it ends, [`bytes_came`](Self::bytes_came) hears of
    /// it.
    pub(crate) fn fetch(
        &mut self,
        now: Time,
        peer: NodeName,
        digest: Digest,
        why: Why,
    ) -> Result<(), Busy> {
        let number = self.draw_number();
        if let Turn::Now(number) = self.fetches.ask(now, peer, (digest, why), number)? {
            self.send(peer, Message::Get { digest, number });
        }
        Ok(())
    }

    /// Whoever waits for a peer has its turn, if there is a connection again.
    fn fetch_next(&mut self, now: Time, peer: NodeName) {
        if !self.fetches.waiting.contains_key(&peer) {
            return;
        }
        let number = self.draw_number();
        if let Some(digest) = self.fetches.next(now, peer, number) {
            self.send(peer, Message::Get { digest, number });
        }
    }

    /// An answer has come to a request for bytes.
    pub(crate) fn fetched(
        &mut self,
        now: Time,
        from: NodeName,
        (digest, number): (Digest, u64),
        bytes: Option<Vec<u8>>,
        disks: &dyn StorageDisks,
    ) {
        // A node that has stood still hears answers before it looks at the time.
        self.fetches_late(now, disks);
        if let Some(Fetched { why, latency }) = self.fetches.answered(now, from, digest, number) {
            // A lie is as good as none.
            let right = bytes.as_ref().filter(|bytes| Digest::of(bytes) == digest).map(Vec::len);
            if let Some(length) = right {
                self.moved_from(from, number, length);
            }
            if why == Why::Read {
                self.routing.learn(now, from, right.map(|_| latency));
            }
            self.fetch_next(now, from);
        }
        self.bytes_came(now, from, digest, bytes, disks);
    }

    /// Time has passed: who has not answered is not waited for.
    pub(crate) fn fetches_wake(&mut self, now: Time, disks: &dyn StorageDisks) {
        self.fetches_late(now, disks);
        self.fetches.connections.tick(now, &mut Vec::new());
    }

    fn fetches_late(&mut self, now: Time, disks: &dyn StorageDisks) {
        if self.fetches.due().is_none_or(|due| due > now) {
            return;
        }
        for (peer, digest) in self.fetches.late(now) {
            self.fetches.stats.late += 1;
            self.fetch_failed(now, peer, digest, disks);
            self.fetch_next(now, peer);
        }
    }

    /// A node is gone: nothing of what is wanted of it comes.
    pub(crate) fn fetches_gone(&mut self, now: Time, peer: NodeName, disks: &dyn StorageDisks) {
        let wanted = self.fetches.of(peer);
        self.fetches.waiting.remove(&peer);
        self.fetches.connections.gone(peer);
        wanted.into_iter().for_each(|digest| self.fetch_failed(now, peer, digest, disks));
    }

    fn fetch_failed(
        &mut self,
        now: Time,
        peer: NodeName,
        digest: Digest,
        disks: &dyn StorageDisks,
    ) {
        if let Some(Fetched { why: Why::Read, .. }) = self.fetches.fail(peer, digest) {
            self.routing.learn(now, peer, None);
        }
        self.bytes_came(now, peer, digest, None, disks);
    }

    /// How many connections to another node this one uses.
    #[must_use]
    pub fn connections_to(&self, peer: NodeName) -> u32 {
        self.fetches.connections.used(peer)
    }

    /// How many connections it uses in all.
    #[must_use]
    pub fn connections_used(&self) -> u32 {
        self.fetches.connections.used_in_all()
    }

    /// What became of its requests for bytes.
    #[must_use]
    pub fn fetch_stats(&self) -> FetchStats {
        self.fetches.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeName = NodeName::numbered(1);
    const PATIENCE: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    fn digest(number: u64) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    fn fetches() -> Fetches {
        let config =
            ConnectionConfig { connect: PATIENCE, lease: PATIENCE, ..ConnectionConfig::default() };
        Fetches {
            connections: Connections::new(config),
            patience: PATIENCE,
            under_way: BTreeMap::new(),
            by_end: BTreeSet::new(),
            waiting: BTreeMap::new(),
            stats: FetchStats::default(),
        }
    }

    fn ask(fetches: &mut Fetches, now: Time, number: u64) -> Result<Turn, Busy> {
        fetches.ask(now, PEER, (digest(number), Why::Read), number)
    }

    #[test]
    fn four_are_under_way_and_the_others_have_their_turn() {
        let mut all = fetches();
        for number in 1..=4 {
            assert_eq!(ask(&mut all, at(0), number), Ok(Turn::Now(number)));
        }
        for number in 5..=68 {
            assert_eq!(ask(&mut all, at(0), number), Ok(Turn::Later));
        }
        assert_eq!(ask(&mut all, at(0), 69), Err(Busy));
        assert_eq!(ask(&mut all, at(0), 5), Ok(Turn::Later), "it is in line already");
        assert_eq!(all.next(at(0), PEER, 100), None, "all four are in use");
        assert_eq!(all.connections.used(PEER), 4);

        // An answer gives its place to whoever has waited longest; twice it gives nothing.
        let latency = Duration::from_secs(1);
        let fetched = Some(Fetched { why: Why::Read, latency });
        assert_eq!(all.answered(at(1), PEER, digest(2), 99), None, "another request's answer");
        assert_eq!(all.answered(at(1), PEER, digest(2), 2), fetched);
        assert_eq!(all.answered(at(1), PEER, digest(2), 2), None);
        assert_eq!(all.next(at(1), PEER, 100), Some(digest(5)));
        assert_eq!(all.next(at(1), PEER, 101), None);
        assert_eq!(ask(&mut all, at(1), 70), Ok(Turn::Later), "behind those that wait");

        // So does a time-out.
        assert_eq!(all.late(at(4)), []);
        let late: BTreeSet<Digest> = all.late(at(5)).into_iter().map(|(_, it)| it).collect();
        assert_eq!(late, BTreeSet::from([digest(1), digest(3), digest(4)]));
        for digest in late {
            assert!(all.fail(PEER, digest).is_some());
            assert!(all.next(at(5), PEER, 102).is_some());
        }
        assert_eq!(all.connections.used(PEER), 4);
    }

    #[test]
    fn nothing_is_left_whatever_becomes_of_requests() {
        let mut all = fetches();
        for number in 1..=6 {
            ask(&mut all, at(0), number).unwrap();
        }
        assert_eq!(all.of(PEER).len(), 6);
        all.waiting.remove(&PEER);
        for digest in all.of(PEER) {
            assert!(all.fail(PEER, digest).is_some());
        }
        assert!(all.is_empty() && all.due().is_none() && all.connections.is_empty());

        // Connections that nobody uses are closed, and are in nobody's way.
        for number in 7..=10 {
            ask(&mut all, at(10), number).unwrap();
        }
        for number in 7..=10 {
            all.answered(at(10), PEER, digest(number), number).unwrap();
        }
        assert_eq!((all.connections.count(PEER), all.connections.used(PEER)), (4, 0));
        assert_eq!(all.due(), None, "they wake nobody");
        assert_eq!(ask(&mut all, at(39), 11), Ok(Turn::Now(11)));
        all.answered(at(39), PEER, digest(11), 11).unwrap();
        assert_eq!(ask(&mut all, at(70), 12), Ok(Turn::Now(12)));
        assert_eq!(all.connections.count(PEER), 1, "the others have ended");
    }
}
