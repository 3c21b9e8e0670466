//! Histories of a participant at random, beside a plain model: what each message is worth and is answered,
//! what each record changes, and everything that can be seen of the participant in between.
//!
//! The model keeps its branches in a map, and says what is to be done with a message as a table.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use base::prng::{Key, Stream};
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, Sequence, ShardId, StoreId};
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use twopc::heuristic::Forced;
use twopc::participant::{
    Change, Ending, Event, Finding, Participant, Prepared, Promise, PromiseKey, Reply, Resources,
    Ruling,
};
use twopc::{Audit, ForceRefusal, Heuristic, IllegalTransition, Message, Peer, PeerVerdict, TxKey};
use twopc::{Verdict, Vote, Watermark};

const NODE: NodeName = NodeName::numbered(1);
const STORE: StoreId = StoreId(7);
const BOOT: BootCount = BootCount(2);
const COORDINATORS: [CoordinatorId; 2] = [CoordinatorId::numbered(10), CoordinatorId::numbered(11)];
const IDS: u64 = 5;
const SHARDS: u64 = 2;

#[derive(Clone, Copy, Debug)]
enum Mood {
    Refuses,
    Writes,
    Reads,
}

impl Resources for Mood {
    fn can_prepare(&self, _: &PromiseKey, _: &[u8]) -> bool {
        !matches!(self, Mood::Refuses)
    }

    fn is_read_only(&self, _: &PromiseKey, _: &[u8]) -> bool {
        matches!(self, Mood::Reads)
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Stands {
    Prepared { peers: Arc<[Peer]>, work: Arc<[u8]> },
    Committed,
    Aborted,
    ReadOnly,
}

impl Stands {
    fn name(&self) -> &'static str {
        match self {
            Stands::Prepared { .. } => "prepared",
            Stands::Committed => "committed",
            Stands::Aborted => "aborted",
            Stands::ReadOnly => "read_only",
        }
    }

    fn ended(commit: bool) -> Stands {
        if commit { Stands::Committed } else { Stands::Aborted }
    }
}

/// What a participant knows, as plainly as it can be kept.
#[derive(Clone, Debug, Default, PartialEq)]
struct Plain {
    branches: BTreeMap<PromiseKey, (Sequence, Stands)>,
    forced: BTreeMap<PromiseKey, Forced>,
    epochs: BTreeMap<CoordinatorId, Epoch>,
    marks: BTreeMap<CoordinatorId, Watermark>,
    seen_at: Sequence,
}

fn audit() -> Arc<Audit> {
    Arc::new(Audit { at_ms: 3, who: "eva".into(), why: "its site is gone".into() })
}

fn is_me(peer: &Peer) -> bool {
    (peer.node, peer.store, peer.boot) == (NODE, STORE, BOOT)
}

/// The branch of this participant that a message is about.
fn concerns(message: &Message) -> PromiseKey {
    let shard = match message {
        Message::PeerInquiry { peer, .. } => peer.shard,
        Message::Prepare { shard, .. }
        | Message::Resolve { shard, .. }
        | Message::Commit { shard, .. }
        | Message::Abort { shard, .. }
        | Message::Answer { shard, .. }
        | Message::Noted { shard, .. }
        | Message::PeerAnswer { shard, .. } => *shard,
        other => panic!("{other:?} is for coordinators"),
    };
    PromiseKey { tx: message.key(), shard }
}

/// The decision that a message tells.
fn tells(message: &Message) -> Option<bool> {
    match message {
        Message::Commit { .. }
        | Message::Answer { verdict: Verdict::Committed, .. }
        | Message::PeerAnswer { verdict: PeerVerdict::Committed, .. } => Some(true),
        Message::Abort { .. }
        | Message::Answer { verdict: Verdict::Aborted, .. }
        | Message::PeerAnswer { verdict: PeerVerdict::Aborted, .. } => Some(false),
        _ => None,
    }
}

impl Plain {
    fn epoch(&self, coordinator: CoordinatorId) -> Epoch {
        self.epochs.get(&coordinator).copied().unwrap_or(Epoch::NONE)
    }

    fn name(&self, key: &PromiseKey) -> &'static str {
        self.branches.get(key).map_or("unknown", |(_, stands)| stands.name())
    }

    fn covered(&self, tx: &TxKey) -> bool {
        self.marks.get(&tx.coordinator).is_some_and(|mark| mark.covers(tx.id))
    }

    fn is_over(&self, key: &PromiseKey) -> bool {
        self.covered(&key.tx) && !self.branches.contains_key(key)
    }

    fn worth(&self, message: &Message, mood: Mood) -> Option<Event> {
        let key = concerns(message);
        let coordinator = key.tx.coordinator;
        if self.is_over(&key) {
            return None;
        }
        if let Some(forced) = self.forced.get(&key) {
            let noted = matches!(message, Message::Noted { .. });
            let found = match tells(message) {
                Some(commit) if forced.decided.is_none() => Some(Finding::Decided { commit }),
                None if noted && forced.decided.is_some() && forced.noted.is_none() => {
                    Some(Finding::Noted)
                }
                _ => None,
            };
            if let Some(found) = found {
                return Some(Event::Heuristic { key, found });
            }
        }
        let told = message.coordinator_epoch().unwrap_or(Epoch::NONE);
        let epoch = told.max(self.epoch(coordinator));
        let aborted = |promised| Some(Event::Aborted { key, promised });
        match (message, self.name(&key)) {
            (Message::Prepare { peers, work, one_phase, .. }, "unknown") => {
                let named = peers.iter().any(|peer| peer.shard == key.shard && is_me(peer));
                match (named, mood, *one_phase) {
                    (false, _, false) => None,
                    (false, _, true) | (_, Mood::Refuses, true) => aborted(true),
                    (_, Mood::Refuses, false) => aborted(false),
                    (_, Mood::Reads, _) => Some(Event::ReadOnly { key }),
                    (_, Mood::Writes, true) => {
                        Some(Event::OnePhase { key, epoch, work: work.clone() })
                    }
                    (_, Mood::Writes, false) => {
                        let (peers, work) = (peers.clone(), work.clone());
                        Some(Event::Prepared { key, epoch: told, peers, work })
                    }
                }
            }
            (Message::Resolve { .. }, "unknown") => aborted(true),
            (Message::PeerInquiry { peer, .. }, "unknown") if is_me(peer) => aborted(true),
            (Message::Commit { .. }, "unknown") => {
                Some(Event::CoordinatorSeen { coordinator, epoch })
            }
            (Message::Abort { .. }, "unknown") => aborted(false),
            (_, "prepared") => match tells(message) {
                Some(true) => Some(Event::Committed { key, epoch }),
                Some(false) => aborted(false),
                None => None,
            },
            _ => None,
        }
    }

    fn answers(&self, from: NodeName, message: &Message) -> Option<Reply> {
        let key = concerns(message);
        let (tx, shard) = (key.tx, key.shard);
        let (inquires, asker) = match message {
            Message::PeerInquiry { shard, .. } => (true, *shard),
            _ => (false, shard),
        };
        let peer_answer = |verdict, after| {
            let message = Message::PeerAnswer { key: tx, shard: asker, verdict };
            Some(Reply { to: from, message, after })
        };
        if self.is_over(&key) {
            return peer_answer(PeerVerdict::Finished, self.seen_at).filter(|_| inquires);
        }
        let (at, stands) = match self.branches.get(&key) {
            Some((at, stands)) => (*at, stands.name()),
            None => (Sequence::NONE, "unknown"),
        };
        let ack = |heuristic, after| {
            let message = Message::Ack { key: tx, shard, store: STORE, heuristic };
            Some(Reply { to: tx.coordinator_node(), message, after })
        };
        let vote = |vote, after| {
            let message = Message::Vote { key: tx, shard, vote, store: STORE, boot: BOOT };
            Some(Reply { to: from, message, after })
        };
        let at_once = Sequence::NONE;
        let forced = self.forced.get(&key);
        let from_coordinator = matches!(
            message,
            Message::Commit { .. } | Message::Abort { .. } | Message::Answer { .. }
        );
        let reply = match (message, stands) {
            _ if inquires && let Some(forced) = forced => match forced.decided {
                Some((true, at)) => peer_answer(PeerVerdict::Committed, at),
                Some((false, at)) => peer_answer(PeerVerdict::Aborted, at),
                None => peer_answer(PeerVerdict::Prepared, at_once),
            },
            _ if from_coordinator && let Some((commit, at)) = forced.and_then(|f| f.decided) => {
                let mixed = if commit { Heuristic::Aborted } else { Heuristic::Committed };
                ack(Some(mixed), at)
            }
            (Message::Prepare { one_phase: true, .. } | Message::Resolve { .. }, _) => match stands
            {
                "committed" => vote(Vote::Commit, at),
                "aborted" => vote(Vote::Abort, at),
                "read_only" => vote(Vote::ReadOnly, at_once),
                _ => None,
            },
            (Message::Prepare { .. }, _) => match stands {
                "prepared" | "committed" => vote(Vote::Commit, at),
                "read_only" => vote(Vote::ReadOnly, at_once),
                _ => vote(Vote::Abort, at_once),
            },
            (Message::Commit { .. }, "committed") => ack(None, at),
            (Message::Commit { .. }, "aborted") => ack(Some(Heuristic::Aborted), at),
            (Message::Commit { .. }, "read_only") => ack(None, at_once),
            (Message::Commit { store, .. }, "unknown") if *store == Some(STORE) => {
                ack(None, at_once)
            }
            (Message::Commit { .. }, "unknown") => ack(Some(Heuristic::Lost), at_once),
            (Message::Answer { verdict: Verdict::Committed, .. }, "committed") => ack(None, at),
            (Message::Abort { .. }, "committed") => ack(Some(Heuristic::Committed), at),
            (Message::PeerInquiry { .. }, "committed") => peer_answer(PeerVerdict::Committed, at),
            (Message::PeerInquiry { .. }, "aborted") => peer_answer(PeerVerdict::Aborted, at),
            (Message::PeerInquiry { .. }, "prepared") => {
                peer_answer(PeerVerdict::Prepared, at_once)
            }
            (Message::PeerInquiry { .. }, _) => peer_answer(PeerVerdict::Unknown, at_once),
            _ => None,
        };
        let answers_epoch = message.coordinator_epoch().is_some();
        reply.map(|reply| {
            let seen = if answers_epoch { self.seen_at } else { Sequence::NONE };
            Reply { after: reply.after.max(seen), ..reply }
        })
    }

    /// What a record changes; `Err`: it does not follow, and changes nothing.
    fn apply(&mut self, at: Sequence, event: &Event) -> Result<Changed, IllegalTransition> {
        let name = event.name();
        let of = |key: &PromiseKey| self.branches.get(key).cloned().map(|(_, stands)| stands);
        let illegal = |stands: Option<Stands>| match stands {
            None => Err(IllegalTransition::Unknown { event: name }),
            Some(stands) => {
                Err(IllegalTransition::OutOfPlace { event: name, state: stands.name() })
            }
        };
        let before = match event {
            Event::Prepared { key, .. }
            | Event::Committed { key, .. }
            | Event::OnePhase { key, .. }
            | Event::Aborted { key, .. }
            | Event::ReadOnly { key }
            | Event::Forced { key, .. } => {
                let stands = of(key);
                let (new, waits) =
                    (stands.is_none(), matches!(stands, Some(Stands::Prepared { .. })));
                let follows = match event {
                    Event::Prepared { .. } | Event::OnePhase { .. } | Event::ReadOnly { .. } => new,
                    Event::Aborted { .. } => new || waits,
                    _ => waits,
                };
                if !follows {
                    return illegal(stands);
                }
                self.epochs.entry(key.tx.coordinator).or_insert(Epoch::NONE);
                self.branches.get(key).cloned()
            }
            Event::Heuristic { key, .. } if !self.forced.contains_key(key) => return illegal(None),
            _ => None,
        };
        let ended = match before {
            Some((at, Stands::Prepared { peers, work })) => {
                Changed::Ended(Prepared { at, peers, work })
            }
            _ => Changed::Nothing,
        };
        match event {
            Event::Prepared { key, epoch, peers, work } => {
                let stands = Stands::Prepared { peers: peers.clone(), work: work.clone() };
                self.branches.insert(*key, (at, stands));
                self.saw(key.tx.coordinator, *epoch, at);
                return Ok(Changed::Promised);
            }
            Event::Committed { key, epoch } => {
                self.branches.insert(*key, (at, Stands::Committed));
                self.saw(key.tx.coordinator, *epoch, at);
            }
            Event::OnePhase { key, epoch, work } => {
                self.branches.insert(*key, (at, Stands::Committed));
                self.saw(key.tx.coordinator, *epoch, at);
                return Ok(Changed::Done(work.clone()));
            }
            Event::Aborted { key, .. } => _ = self.branches.insert(*key, (at, Stands::Aborted)),
            Event::ReadOnly { key } => _ = self.branches.insert(*key, (at, Stands::ReadOnly)),
            Event::Forced { key, commit, audit } => {
                self.branches.insert(*key, (at, Stands::ended(*commit)));
                let (decided, noted, forgotten) = (None, None, None);
                let (commit, audit) = (*commit, audit.clone());
                let forced = Forced { commit, at, audit, decided, noted, forgotten };
                self.forced.insert(*key, forced);
            }
            Event::Heuristic { key, found } => {
                let forced = self.forced.get_mut(key).unwrap();
                match found {
                    Finding::Decided { commit } if *commit == forced.commit => {
                        self.branches.insert(*key, (at, Stands::ended(*commit)));
                        self.forced.remove(key);
                    }
                    Finding::Decided { commit } => _ = forced.decided.get_or_insert((*commit, at)),
                    Finding::Noted => _ = forced.noted.get_or_insert(at),
                    Finding::Forgotten { audit } => {
                        forced.forgotten.get_or_insert((at, audit.clone()));
                    }
                }
            }
            Event::CoordinatorSeen { coordinator, epoch } => {
                self.saw(*coordinator, *epoch, at);
                self.seen_at = at;
            }
            Event::Finished { coordinator, epoch, watermark } => {
                self.saw(*coordinator, *epoch, at);
                let covers = |key: &PromiseKey| {
                    key.tx.coordinator == *coordinator && watermark.covers(key.tx.id)
                };
                self.forced.retain(|key, forced| {
                    let told = forced.decided.is_none() || forced.noted.is_some();
                    !(covers(key) && forced.forgotten.is_some() && told)
                });
                let known = self.marks.get(coordinator);
                if known.is_none_or(|known| watermark.is_newer_than(known)) {
                    self.branches.retain(|key, (_, stands)| {
                        let waits = matches!(stands, Stands::Prepared { .. });
                        waits || !covers(key) || self.forced.contains_key(key)
                    });
                    self.marks.insert(*coordinator, watermark.clone());
                }
            }
        }
        Ok(ended)
    }

    fn saw(&mut self, coordinator: CoordinatorId, epoch: Epoch, at: Sequence) {
        let known = self.epochs.entry(coordinator).or_insert(Epoch::NONE);
        if epoch > *known {
            *known = epoch;
            self.seen_at = at;
        }
    }

    /// Somebody is still to be asked about what was forced, or to be told.
    fn is_unsettled(forced: &Forced) -> bool {
        match forced.decided {
            None => forced.forgotten.is_none(),
            Some(_) => forced.noted.is_none(),
        }
    }

    fn owes(&self, key: &PromiseKey, ask_peers: bool) -> Vec<Reply> {
        let (tx, shard) = (key.tx, key.shard);
        let to = tx.coordinator_node();
        let inquiry = Message::Inquiry { key: tx, shard, store: STORE };
        match (self.branches.get(key), self.forced.get(key)) {
            (Some((after, Stands::Prepared { peers, .. })), _) => {
                let mut owed = vec![Reply { to, message: inquiry, after: *after }];
                for peer in peers.iter().filter(|peer| ask_peers && peer.shard != shard) {
                    let message = Message::PeerInquiry { key: tx, shard, peer: Box::new(*peer) };
                    owed.push(Reply { to: peer.node, message, after: *after });
                }
                owed
            }
            (_, Some(forced)) if Self::is_unsettled(forced) => match forced.decided {
                None => vec![Reply { to, message: inquiry, after: forced.at }],
                Some((commit, after)) => {
                    let mixed = if commit { Heuristic::Aborted } else { Heuristic::Committed };
                    let heuristic = Some(mixed);
                    let message = Message::Ack { key: tx, shard, store: STORE, heuristic };
                    vec![Reply { to, message, after }]
                }
            },
            _ => vec![],
        }
    }

    fn force(&self, key: &PromiseKey, commit: bool) -> Result<Option<Event>, ForceRefusal> {
        match (self.forced.get(key), self.name(key)) {
            (Some(forced), _) if forced.commit == commit => Ok(None),
            (Some(_), _) => Err(ForceRefusal::ForcedOtherwise { commit: !commit }),
            (_, "prepared") => Ok(Some(Event::Forced { key: *key, commit, audit: audit() })),
            (_, "committed") => Err(ForceRefusal::Decided { commit: true }),
            (_, "aborted") => Err(ForceRefusal::Decided { commit: false }),
            _ => Err(ForceRefusal::NotInDoubt),
        }
    }

    fn check(&self, participant: &Participant) {
        assert_eq!((participant.store(), participant.boot()), (STORE, BOOT));
        assert_eq!(participant.seen_at(), self.seen_at);
        let epochs: Vec<_> = self.epochs.iter().map(|(of, epoch)| (*of, *epoch)).collect();
        assert_eq!(participant.epochs().collect::<Vec<_>>(), epochs);
        let heard_of = epochs.iter().filter(|(_, epoch)| *epoch > Epoch::NONE).map(|(of, _)| *of);
        assert!(participant.coordinators().eq(heard_of));
        for coordinator in COORDINATORS {
            assert_eq!(participant.epoch_seen(coordinator), self.epoch(coordinator));
            assert_eq!(participant.watermark(coordinator), self.marks.get(&coordinator));
        }
        let shown: Vec<_> = participant.promises().collect();
        assert_eq!(shown.len(), self.branches.len());
        for ((key, promise), (expected, (at, stands))) in shown.into_iter().zip(&self.branches) {
            let at = *at;
            let as_shown = match stands {
                Stands::Prepared { peers, work } => Promise::Prepared { at, peers, work },
                Stands::Committed => Promise::Committed { at },
                Stands::Aborted => Promise::Aborted { at },
                Stands::ReadOnly => Promise::ReadOnly { at },
            };
            assert_eq!((key, promise), (*expected, as_shown));
            assert_eq!(participant.promise(&key), Some(as_shown));
        }
        let waits = self.branches.iter().filter_map(|(key, (at, stands))| match stands {
            Stands::Prepared { work, .. } => Some((*key, *at, work)),
            _ => None,
        });
        let waits: Vec<_> = waits.collect();
        assert!(participant.prepared().eq(waits.iter().map(|(key, at, _)| (*key, *at))));
        let names: Vec<_> = participant.waiting().collect();
        assert_eq!(names.len(), waits.len());
        for ((name, work), (key, at, expected)) in names.into_iter().zip(waits) {
            assert_eq!((name.at, work), (at, expected));
            assert!(participant.is_waiting(name));
            for ask_peers in [false, true] {
                let mut owed = Vec::new();
                participant.pending_of(name, ask_peers, &mut owed);
                assert_eq!(owed, self.owes(&key, ask_peers));
            }
        }
        assert!(participant.forced().eq(self.forced.iter().map(|(key, forced)| (*key, forced))));
        let unsettled = self.forced.iter().filter(|(_, forced)| Self::is_unsettled(forced));
        assert!(participant.unsettled().eq(unsettled.map(|(key, _)| *key)));
        for key in keys() {
            let finished = participant.is_finished(key.tx.coordinator, key.tx.id);
            assert_eq!(finished, self.covered(&key.tx), "{key:?}");
            assert_eq!(participant.promise(&key).is_some(), self.branches.contains_key(&key));
            assert_eq!(participant.forced_of(&key), self.forced.get(&key));
            for asks in [false, true] {
                let mut owed = Vec::new();
                participant.pending(&key, asks, &mut owed);
                assert_eq!(owed, self.owes(&key, asks), "{key:?}");
                let (commit, expected) = (asks, self.force(&key, asks));
                assert_eq!(participant.force(&key, commit, &audit()), expected, "{key:?}");
            }
            let listed = self.forced.get(&key).is_some_and(|forced| forced.forgotten.is_none());
            let found = Finding::Forgotten { audit: audit() };
            let forget = Event::Heuristic { key, found };
            let expected = if listed { Ok(forget) } else { Err(ForceRefusal::NotListed) };
            assert_eq!(participant.forget(&key, &audit()), expected, "{key:?}");
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Changed {
    Nothing,
    Promised,
    Ended(Prepared),
    Done(Arc<[u8]>),
}

fn assert_changed(participant: &Participant, at: Sequence, change: Change, expected: &Changed) {
    let change = match change {
        Change::None => Changed::Nothing,
        Change::Promised(name) => {
            assert!(name.at == at && participant.is_waiting(name));
            Changed::Promised
        }
        Change::Ended(prepared) => Changed::Ended(prepared),
        Change::Done(work) => Changed::Done(work),
    };
    assert_eq!(change, *expected);
}

fn keys() -> Vec<PromiseKey> {
    let mut keys = Vec::new();
    for coordinator in COORDINATORS {
        for id in 1..=IDS {
            for shard in 1..=SHARDS {
                let tx = TxKey { coordinator, id: OperationId(id) };
                keys.push(PromiseKey { tx, shard: ShardId::numbered(shard) });
            }
        }
    }
    keys
}

fn epoch(stream: &mut Stream, highest: Epoch) -> Epoch {
    // Mostly the one that is known.
    match stream.below(8) {
        0 => Epoch::new(1 + stream.below(6) as u32),
        _ => highest.max(Epoch::new(1)),
    }
}

fn message(stream: &mut Stream, plain: &Plain) -> Message {
    let all = keys();
    let PromiseKey { tx: key, shard } = all[stream.below(all.len() as u64) as usize];
    let epoch = epoch(stream, plain.epoch(key.coordinator));
    let me = |shard| Peer { shard, node: NODE, store: STORE, boot: BOOT };
    let other = ShardId::numbered(9);
    match stream.below(14) {
        0..4 => {
            let myself = match stream.below(8) {
                0 => Peer { boot: BootCount(1), ..me(shard) },
                1 => Peer { store: StoreId(8), ..me(shard) },
                2 => Peer { node: NodeName::numbered(2), ..me(shard) },
                3 => me(ShardId::numbered(8)),
                _ => me(shard),
            };
            let stranger = Peer { shard: other, node: NodeName::numbered(3), ..me(other) };
            let one_phase = stream.below(4) == 0;
            let peers = if one_phase { vec![myself] } else { vec![stranger, myself] };
            let work = [stream.below(3) as u8].into();
            Message::Prepare { key, epoch, shard, peers: peers.into(), work, one_phase }
        }
        4 if stream.below(2) == 0 => Message::Resolve { key, epoch, shard },
        4..6 => {
            let store = [None, Some(STORE), Some(StoreId(8))][stream.below(3) as usize];
            Message::Commit { key, epoch, shard, store }
        }
        6 => Message::Abort { key, epoch, shard },
        7..9 => {
            let all = [Verdict::Committed, Verdict::Aborted, Verdict::Pending, Verdict::InDoubt];
            Message::Answer { key, epoch, shard, verdict: all[stream.below(4) as usize] }
        }
        9..11 => Message::Noted { key, epoch, shard },
        11 => {
            let boot = BootCount(2 - (stream.below(3) == 0) as u32);
            let peer = Box::new(Peer { boot, ..me(shard) });
            Message::PeerInquiry { key, shard: other, peer }
        }
        _ => {
            let all = [
                PeerVerdict::Committed,
                PeerVerdict::Aborted,
                PeerVerdict::Prepared,
                PeerVerdict::Unknown,
                PeerVerdict::Finished,
            ];
            Message::PeerAnswer { key, shard, verdict: all[stream.below(5) as usize] }
        }
    }
}

/// A record that no message is worth: an operator's, a coordinator's watermark, or one that a log may hold
/// where it does not belong.
fn record(stream: &mut Stream, plain: &Plain) -> Event {
    let all = keys();
    let key = all[stream.below(all.len() as u64) as usize];
    let coordinator = key.tx.coordinator;
    let epoch = epoch(stream, plain.epoch(coordinator));
    let of = |stream: &mut Stream, keys: Vec<PromiseKey>| match keys.len() as u64 {
        0 => key,
        some => keys[stream.below(some) as usize],
    };
    match stream.below(12) {
        0..4 => {
            let waits = |key: &&PromiseKey| plain.name(key) == "prepared";
            let waiting = plain.branches.keys().filter(waits).copied().collect();
            let (key, commit) = (of(stream, waiting), stream.below(2) == 0);
            Event::Forced { key, commit, audit: audit() }
        }
        4..7 => {
            let key = of(stream, plain.forced.keys().copied().collect());
            let found = match stream.below(4) {
                0 => Finding::Decided { commit: stream.below(2) == 0 },
                1 => Finding::Noted,
                _ => Finding::Forgotten { audit: audit() },
            };
            Event::Heuristic { key, found }
        }
        7 => {
            let highest = OperationId(stream.below(IDS + 2));
            let active: BTreeSet<_> =
                (0..stream.below(3)).map(|_| OperationId(stream.below(IDS))).collect();
            let watermark = Watermark::new(highest, active.into_iter());
            Event::Finished { coordinator, epoch, watermark }
        }
        8 => Event::Committed { key, epoch },
        9 => Event::Aborted { key, promised: false },
        10 => Event::ReadOnly { key },
        _ => match stream.below(2) {
            0 => Event::OnePhase { key, epoch, work: [1].into() },
            _ => Event::Prepared { key, epoch, peers: [].into(), work: [1].into() },
        },
    }
}

fn hash(participant: &Participant) -> u64 {
    let mut hasher = DefaultHasher::new();
    participant.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn histories_at_random_go_as_a_plain_model_says() {
    let mut names: BTreeMap<&str, u32> = BTreeMap::new();
    let (mut refused, mut over, mut reports) = (0, 0, 0);
    for history in 0..600 {
        let mut stream = Key::root(history).child("promises").stream();
        let mut participant = Participant::new(NODE, STORE, BOOT);
        let (mut plain, mut log, mut last) = (Plain::default(), Vec::new(), 0);
        for _ in 0..60 {
            let (known, was) = (plain.clone(), participant.clone());
            if stream.below(4) == 0 {
                let event = record(&mut stream, &plain);
                let at = Sequence(last + 1);
                let expected = plain.apply(at, &event);
                match (participant.apply(at, &event), &expected) {
                    (Ok(change), Ok(expected)) => {
                        assert_changed(&participant, at, change, expected);
                        last += 1;
                        log.push(event);
                    }
                    (applied, expected) => {
                        assert_eq!(applied.unwrap_err(), *expected.as_ref().unwrap_err());
                        assert!(participant == was, "what was refused changed something");
                    }
                }
            } else {
                let message = message(&mut stream, &plain);
                let mood = [Mood::Refuses, Mood::Writes, Mood::Writes, Mood::Reads];
                let mood = mood[stream.below(4) as usize];
                let (key, told) = (concerns(&message), message.coordinator_epoch());
                let (coordinator, highest) = (key.tx.coordinator, plain.epoch(key.tx.coordinator));
                let is_old = told.is_some_and(|told| told < highest);
                if let Some(told) = told {
                    assert_eq!(participant.refuses(coordinator, told), is_old);
                    let newer = Event::CoordinatorSeen { coordinator, epoch: told };
                    let newer = (told > highest).then_some(newer);
                    assert_eq!(participant.newer_epoch(coordinator, told), newer);
                }
                let Ruling::Heard { seen, fact, mut found } = participant.rule(&message, &mood)
                else {
                    assert!(is_old, "{message:?}");
                    refused += 1;
                    continue;
                };
                assert!(!is_old, "{message:?}");
                assert_eq!(fact, plain.worth(&message, mood), "{message:?} while {plain:?}");
                assert_eq!(participant.decide(&message, &mood), fact, "asked alone");
                over += u32::from(plain.is_over(&key));
                let carries = matches!(
                    fact,
                    Some(
                        Event::Prepared { .. }
                            | Event::Committed { .. }
                            | Event::OnePhase { .. }
                            | Event::CoordinatorSeen { .. }
                    )
                );
                assert_eq!(seen, told.filter(|told| *told > highest && !carries), "{message:?}");
                if let Some(epoch) = seen {
                    last += 1;
                    let event = Event::CoordinatorSeen { coordinator, epoch };
                    plain.apply(Sequence(last), &event).unwrap();
                    participant.apply(Sequence(last), &event).unwrap();
                    log.push(event);
                    found = participant.find(&key);
                }
                if let Some(event) = fact {
                    last += 1;
                    let at = Sequence(last);
                    let expected = plain.apply(at, &event).expect("what it decides it may apply");
                    log.push(event.clone());
                    let change = participant.apply_at(&mut found, at, event).unwrap();
                    assert_changed(&participant, at, change, &expected);
                }
                let from = match message {
                    Message::PeerInquiry { .. } | Message::PeerAnswer { .. } => {
                        NodeName::numbered(3)
                    }
                    _ => key.tx.coordinator_node(),
                };
                let reply = participant.reply(from, &message);
                assert_eq!(reply, plain.answers(from, &message), "{message:?} while {plain:?}");
                assert_eq!(participant.reply_at(&found, from, &message), reply);
                let report = |reply: &Reply| {
                    matches!(reply.message, Message::Ack { heuristic: Some(_), .. })
                };
                reports += u32::from(reply.as_ref().is_some_and(report));
            }
            plain.check(&participant);
            // What tells no more than a watermark is not compared.
            let known = Plain { marks: plain.marks.clone(), ..known };
            assert_eq!(participant == was, plain == known, "equal means that they know the same");
            for key in keys() {
                *names.entry(plain.name(&key)).or_default() += 1;
            }
        }
        assert_comes_back(&participant, &plain, &log);
    }
    assert!(names.len() == 5 && names.values().all(|times| *times > 5_000), "{names:?}");
    assert!(refused > 400 && over > 400 && reports > 400, "{refused} {over} {reports}");
}

/// From its log it is the same; from a snapshot it knows the same.
fn assert_comes_back(participant: &Participant, plain: &Plain, log: &[Event]) {
    let mut replayed = Participant::new(NODE, StoreId(1), BootCount(1));
    for (at, event) in (1..).zip(log) {
        replayed.apply(Sequence(at), event).unwrap();
    }
    assert!(replayed != *participant, "of another store");
    replayed.opened(STORE, BOOT);
    assert!(replayed == *participant && hash(&replayed) == hash(participant));

    let mut restored = Participant::new(NODE, STORE, BOOT);
    for (coordinator, epoch) in participant.epochs() {
        let mark = participant.watermark(coordinator).cloned();
        restored.restore_coordinator(coordinator, epoch, mark, plain.seen_at);
    }
    for (key, (at, stands)) in &plain.branches {
        let ending = match stands {
            Stands::Prepared { peers, work } => {
                let (peers, work) = (peers.clone(), work.clone());
                let promise = Event::Prepared { key: *key, epoch: Epoch::NONE, peers, work };
                restored.apply(*at, &promise).unwrap();
                continue;
            }
            Stands::Committed => Ending::Committed,
            Stands::Aborted => Ending::Aborted,
            Stands::ReadOnly => Ending::ReadOnly,
        };
        restored.restore_outcome(key, *at, ending);
    }
    for (key, forced) in participant.forced() {
        for (at, event) in forced.events(key) {
            restored.restore_forced(at, &event).unwrap();
        }
    }
    let restored_seen = restored.seen_at();
    let any = plain.epochs.values().any(|epoch| *epoch > Epoch::NONE);
    assert_eq!(restored_seen, if any { plain.seen_at } else { Sequence::NONE });
    plain.check(&restored);
}
