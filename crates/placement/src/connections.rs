//! How many connections there are to whom, and when they end.

use base::{NodeName, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The numbers of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// How many there are to one peer at most: 4.
    pub per_peer_max: u32,
    /// How long an unused one is kept: 30 s.
    pub idle: Duration,
    /// How long one may take to be made: 5 s.
    pub connect: Duration,
    /// How long one may be used without being given back: 60 s. Whoever forgets it does not keep
    /// it.
    pub lease: Duration,
}

impl Default for ConnectionConfig {
    fn default() -> ConnectionConfig {
        ConnectionConfig {
            per_peer_max: 4,
            idle: Duration::from_secs(30),
            connect: Duration::from_secs(5),
            lease: Duration::from_secs(60),
        }
    }
}

/// The number of a connection: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What became of asking for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Use this one.
    Ready(ConnectionId),
    /// Make this one, and tell [`Connections::connected`] or [`Connections::closed`]. Nothing waits
    /// for it here: the pool is a list, and connecting is the shell's.
    Connect(ConnectionId),
    /// There are as many as there may be, all in use. Try again when one is given back.
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Used,
    Idle,
}

/// The connections of one node: at most four to each peer, used again, closed when idle. Each has an end
/// in time, whatever state it is in; so none leaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    config: ConnectionConfig,
    connections: BTreeMap<ConnectionId, (NodeName, State, Time)>,
    peers: BTreeMap<NodeName, BTreeSet<ConnectionId>>,
    ends: BTreeSet<(Time, ConnectionId)>,
    last: ConnectionId,
}

impl Connections {
    /// None yet.
    #[must_use]
    pub fn new(config: ConnectionConfig) -> Connections {
        Connections {
            config,
            connections: BTreeMap::new(),
            peers: BTreeMap::new(),
            ends: BTreeSet::new(),
            last: ConnectionId(0),
        }
    }

    /// One to this peer, for [`ConnectionConfig::lease`] at most. The one used last is used again
    /// first, so that the others can end.
    pub fn acquire(&mut self, now: Time, peer: NodeName) -> Acquired {
        let known = self.peers.get(&peer).into_iter().flatten();
        let idle = known.filter_map(|id| match self.connections[id] {
            (_, State::Idle, until) if until > now => Some((until, *id)),
            _ => None,
        });
        if let Some((_, id)) = idle.max() {
            self.set(id, State::Used, now + self.config.lease);
            return Acquired::Ready(id);
        }
        let count = self.peers.get(&peer).map_or(0, BTreeSet::len);
        if count >= self.config.per_peer_max as usize {
            return Acquired::Busy;
        }
        self.last.0 += 1;
        let (id, until) = (self.last, now + self.config.connect);
        self.connections.insert(id, (peer, State::Connecting, until));
        self.peers.entry(peer).or_default().insert(id);
        self.ends.insert((until, id));
        Acquired::Connect(id)
    }

    /// It is made, and used by whoever asked for it. False: it has taken too long; close it.
    pub fn connected(&mut self, now: Time, id: ConnectionId) -> bool {
        let known = matches!(self.connections.get(&id), Some((_, State::Connecting, _)));
        if known {
            self.set(id, State::Used, now + self.config.lease);
        }
        known
    }

    /// It is given back, in good health. False: it is not known any more; close it.
    pub fn release(&mut self, now: Time, id: ConnectionId) -> bool {
        let known = matches!(self.connections.get(&id), Some((_, State::Used, _)));
        if known {
            self.set(id, State::Idle, now + self.config.idle);
        }
        known
    }

    /// It is broken, was closed by the peer, or could not be made.
    pub fn closed(&mut self, id: ConnectionId) {
        if let Some((peer, _, until)) = self.connections.remove(&id) {
            self.ends.remove(&(until, id));
            if let Some(ids) = self.peers.get_mut(&peer) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.peers.remove(&peer);
                }
            }
        }
    }

    /// The peer is gone, and all connections to it with it.
    pub fn gone(&mut self, peer: NodeName) {
        for id in self.peers.get(&peer).cloned().unwrap_or_default() {
            self.closed(id);
        }
    }

    fn set(&mut self, id: ConnectionId, state: State, until: Time) {
        let entry = self.connections.get_mut(&id).expect("the caller found it");
        self.ends.remove(&(entry.2, id));
        (entry.1, entry.2) = (state, until);
        self.ends.insert((until, id));
    }

    /// Time has passed: these are to be closed, and are forgotten.
    pub fn tick(&mut self, now: Time, close: &mut Vec<ConnectionId>) {
        while let Some(&(until, id)) = self.ends.first()
            && until <= now
        {
            self.closed(id);
            close.push(id);
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// How many there are to a peer.
    #[must_use]
    pub fn count(&self, peer: NodeName) -> u32 {
        self.peers.get(&peer).map_or(0, |ids| ids.len() as u32)
    }

    /// How many to a peer are being made, or in use.
    #[must_use]
    pub fn used(&self, peer: NodeName) -> u32 {
        let all = self.peers.get(&peer).into_iter().flatten();
        all.filter(|id| self.connections[id].1 != State::Idle).count() as u32
    }

    /// How many are being made, or in use, to anybody.
    #[must_use]
    pub fn used_in_all(&self) -> u32 {
        self.connections.values().filter(|(_, state, _)| *state != State::Idle).count() as u32
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.connections.len() as u32
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }
}
