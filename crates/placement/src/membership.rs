//! Who is there, by announcements, rumours and a failure detector.

use crate::phi::Phi;
use crate::roster::Roster;
use crate::rumours::Rumours;
use crate::{Candidate, Region};
use base::prng::Key;
use base::{NodeName, Ratio, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The numbers of membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipConfig {
    /// How often a node is heard by its neighbours: 5 s.
    pub beat: Duration,
    /// How many neighbours watch a node: 8.
    pub neighbours: u32,
    /// From which phi on, in thousandths, a watched node is suspected: 8,000.
    pub suspect_phi_milli: u64,
    /// How long after a suspicion a node that does not answer it is dead, and how long a watched one is
    /// silent at most: 60 s.
    pub alive: Duration,
    /// How many rumours, and how many other members, a heartbeat carries at most: 8.
    pub rumours_max: u32,
    /// Of how many nodes anything is known at most: 4,096.
    pub members_max: u32,
    /// By one in how many parts of its capacity a node's free space has to change to be told: 32.
    pub free_parts: u32,
}

impl Default for MembershipConfig {
    fn default() -> MembershipConfig {
        MembershipConfig {
            beat: Duration::from_secs(5),
            neighbours: 8,
            suspect_phi_milli: 8_000,
            alive: Duration::from_secs(60),
            rumours_max: 8,
            members_max: 4_096,
            free_parts: 32,
        }
    }
}

/// What a node says about itself. It holds no time: nobody's clock is believed but one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Who.
    pub node: NodeName,
    /// The higher is the newer. Only the node itself raises it.
    pub incarnation: u64,
    /// Where.
    pub region: Region,
    /// How much it can store, in bytes.
    pub capacity_bytes: u64,
    /// How much of that is free.
    pub free_bytes: u64,
}

/// What is told of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rumour {
    /// What it said of itself last.
    pub announcement: Announcement,
    /// Whether somebody misses it.
    pub suspected: bool,
}

/// What members tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// I am here; watch me. And some of what I know.
    Heartbeat {
        /// Of the sender.
        own: Announcement,
        /// Of others.
        rumours: Vec<Rumour>,
    },
    /// Others watch me now.
    Unwatch,
    /// The receiver is missed, or was. It answers, and says something newer of itself if this is its
    /// last.
    Missed {
        /// What is known of it.
        incarnation: u64,
    },
    /// I am new. Who is there?
    Join {
        /// Of the sender.
        own: Announcement,
    },
    /// An answer to [`Message::Join`]: everybody, once. Or to a heartbeat whose rumours are old: what is
    /// known instead.
    Members {
        /// Of members.
        rumours: Vec<Rumour>,
    },
}

/// What a node thinks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It is there.
    Alive,
    /// Somebody misses it, and it has not answered that yet.
    Suspected,
    /// It is gone until it says otherwise.
    Dead,
}

/// What membership wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send it.
    Send {
        /// To whom.
        to: NodeName,
        /// What.
        message: Message,
    },
    /// A member's status is another than before.
    Changed {
        /// Whose.
        node: NodeName,
        /// Which it is now.
        status: Status,
    },
}

/// What is known of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it said of itself last.
    pub announcement: Announcement,
    /// What is thought of it.
    pub status: Status,
    /// Since when, by the clock of whoever thinks so.
    pub since: Time,
    /// Its reputation, as it was last set. No announcement changes it.
    pub reputation: Ratio,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    phi: Phi,
    heard: bool,
}

/// After so many beats a node begins to tell rumours to members by lot.
const GOSSIP_AFTER: u64 = 32;
/// So many members hear the newest of them with each beat.
const GOSSIPS: u64 = 2;
/// The number of the first of these lots; those of neighbours are lower.
const GOSSIP_LOT: u64 = 1 << 32;

/// Every so many beats one of the dead is asked whether it is.
const RECONNECT_BEATS: u64 = 4;

/// One node's view of who is there.
///
/// After SWIM (Das, Gupta, Motivala, 2002), with phi in place of probes. A node is heard every five
/// seconds by those eight that follow it on a ring of hashed names, and by nobody else. Whoever misses it
/// spreads that as a rumour; the node answers with a higher incarnation, and who does not for a minute
/// is dead. So a node sends and receives a number of messages that does not grow with the network. A
/// rumour is passed on about 3 log2 n times by each who hears it.
#[derive(Clone, Debug)]
pub struct Membership {
    config: MembershipConfig,
    key: Key,
    /// This node's own lots.
    lots: Key,
    own: Announcement,
    /// This node's place on the ring.
    own_place: (u64, NodeName),
    members: Roster,
    /// Everybody not dead, by place on the ring.
    ring: BTreeSet<(u64, NodeName)>,
    /// Whom this node is heard by.
    heard_by: BTreeSet<NodeName>,
    /// Whom it watches: those it has heard, and those it should hear, which it may never have.
    watched: BTreeMap<NodeName, Watched>,
    /// Who said that others watch it, and until when that is believed.
    excused: BTreeMap<NodeName, Time>,
    suspected: BTreeSet<(Time, NodeName)>,
    /// Those of them that were not asked yet.
    unasked: BTreeSet<(Time, NodeName)>,
    /// What is still to be passed on.
    rumours: Rumours,
    next_beat: Time,
    beats: u64,
}

impl Membership {
    /// A node that knows only itself, and is next heard at `now`. To meet others, send
    /// [`join`](Self::join) to one of them.
    #[must_use]
    pub fn new(config: MembershipConfig, key: &Key, own: Announcement, now: Time) -> Membership {
        let key = key.child("placement.membership");
        let own_place = (place(&key, own.node), own.node);
        Membership {
            config,
            lots: key.child("lots").keyed(own_place.0),
            members: Roster::new(&key),
            key,
            own,
            own_place,
            ring: BTreeSet::new(),
            heard_by: BTreeSet::new(),
            watched: BTreeMap::new(),
            excused: BTreeMap::new(),
            suspected: BTreeSet::new(),
            unasked: BTreeSet::new(),
            rumours: Rumours::default(),
            next_beat: now,
            beats: 0,
        }
    }

    /// What to send to a node that is known to be there.
    #[must_use]
    pub fn join(&self) -> Message {
        Message::Join { own: self.own }
    }

    /// This node has another amount of free space. It is told with the next heartbeats, if it is off by a
    /// [part](MembershipConfig::free_parts) of the capacity, or if hardly as much is left: everything that a
    /// node says of itself is news, and goes to everybody.
    pub fn set_free_bytes(&mut self, free_bytes: u64) {
        let told = self.own.free_bytes;
        let part = self.own.capacity_bytes / u64::from(self.config.free_parts.max(1));
        let little = free_bytes < part && free_bytes != told;
        if little || told.abs_diff(free_bytes) > part {
            self.own.free_bytes = free_bytes;
            self.own.incarnation += 1;
        }
    }

    /// A message has come. `from` is whom it really came from.
    pub fn handle(&mut self, now: Time, from: NodeName, message: &Message, out: &mut Vec<Output>) {
        match message {
            Message::Heartbeat { own, rumours } => {
                if own.node != from || from == self.own.node {
                    return;
                }
                self.heard_itself(now, *own, out);
                if self.members.get(from).is_none() {
                    return;
                }
                let beat = self.config.beat;
                let fresh = Watched { phi: Phi::new(now, beat), heard: true };
                match self.watched.get_mut(&from) {
                    Some(watched) if watched.heard => watched.phi.heard(now),
                    _ => drop(self.watched.insert(from, fresh)),
                }
                let max = 2 * self.config.rumours_max as usize;
                let mut news = Vec::new();
                for rumour in rumours.iter().take(max) {
                    if self.knows(rumour) {
                        continue;
                    }
                    news.extend(self.newer(rumour));
                    self.rumour(now, rumour, out);
                }
                // A rumour that the sender has not heard would not reach it any more.
                if !news.is_empty() {
                    let message = Message::Members { rumours: news };
                    out.push(Output::Send { to: from, message });
                }
            }
            Message::Unwatch => {
                self.watched.remove(&from);
            }
            Message::Join { own } => {
                if own.node != from || from == self.own.node {
                    return;
                }
                self.heard_itself(now, *own, out);
                let mut rumours = vec![Rumour { announcement: self.own, suspected: false }];
                let others = self.members.iter().filter(|member| {
                    member.status != Status::Dead && member.announcement.node != from
                });
                rumours.extend(others.map(Member::rumour));
                out.push(Output::Send { to: from, message: Message::Members { rumours } });
            }
            Message::Missed { incarnation } => {
                if *incarnation >= self.own.incarnation {
                    self.own.incarnation = incarnation.saturating_add(1);
                }
                let rumours = vec![Rumour { announcement: self.own, suspected: false }];
                out.push(Output::Send { to: from, message: Message::Members { rumours } });
            }
            Message::Members { rumours } => {
                let own = rumours.iter().find(|rumour| rumour.announcement.node == from);
                if let Some(own) = own {
                    self.heard_itself(now, own.announcement, out);
                }
                for rumour in rumours.iter().take(self.config.members_max as usize) {
                    if !self.knows(rumour) {
                        self.rumour(now, rumour, out);
                    }
                }
            }
        }
    }

    /// A node was heard by oneself: it is alive, whatever others say. If they say so of what it last said,
    /// it has to say something newer, which the others believe.
    fn heard_itself(&mut self, now: Time, own: Announcement, out: &mut Vec<Output>) {
        self.hear(now, own, true, out);
        let Some(member) = self.members.get(own.node) else { return };
        if member.status != Status::Alive {
            let incarnation = member.announcement.incarnation;
            out.push(Output::Send { to: own.node, message: Message::Missed { incarnation } });
            self.set_status(now, own.node, Status::Alive, out);
        }
    }

    /// What a node says of itself, from itself or passed on: worth something if it is newer.
    fn hear(&mut self, now: Time, said: Announcement, itself: bool, out: &mut Vec<Output>) {
        if said.node == self.own.node {
            return;
        }
        match self.members.get_mut(said.node) {
            Some(member) if said.incarnation > member.announcement.incarnation => {
                // Its reputation stays: whoever comes back has not become another.
                member.announcement = said;
                self.spread(said.node);
                self.set_status(now, said.node, Status::Alive, out);
            }
            Some(_) => {}
            None => {
                if !self.make_room() {
                    return;
                }
                let member = Member {
                    announcement: said,
                    status: Status::Dead,
                    since: now,
                    reputation: Ratio::percent(50),
                };
                self.members.insert(member);
                // Whom a newcomer is told of when it joins, the others know.
                if itself || self.beats > 1 {
                    self.spread(said.node);
                }
                self.set_status(now, said.node, Status::Alive, out);
            }
        }
    }

    /// Forgets who has been dead longest if there are too many. Cost: all members, when it is full.
    fn make_room(&mut self) -> bool {
        if self.members.len() < self.config.members_max as usize {
            return true;
        }
        let dead = self.members.iter().filter(|member| member.status == Status::Dead);
        let Some(oldest) = dead.min_by_key(|member| (member.since, member.announcement.node))
        else {
            return false;
        };
        let node = oldest.announcement.node;
        self.members.remove(node);
        self.rumours.remove(node);
        true
    }

    fn rumour(&mut self, now: Time, rumour: &Rumour, out: &mut Vec<Output>) {
        let said = rumour.announcement;
        if said.node == self.own.node {
            // Somebody misses this node, or tells what it never said: it says something newer.
            let newer = said.incarnation > self.own.incarnation;
            if newer || rumour.suspected && said.incarnation == self.own.incarnation {
                self.own.incarnation = said.incarnation.saturating_add(1);
            }
            return;
        }
        self.hear(now, said, false, out);
        let Some(member) = self.members.get(said.node) else { return };
        if rumour.suspected
            && said.incarnation == member.announcement.incarnation
            && member.status == Status::Alive
        {
            self.set_status(now, said.node, Status::Suspected, out);
            self.spread(said.node);
        }
    }

    /// Whether a rumour says just what is known.
    fn knows(&self, rumour: &Rumour) -> bool {
        let Rumour { announcement: said, suspected } = rumour;
        self.members.get(said.node).is_some_and(|member| {
            member.announcement.incarnation == said.incarnation
                && (member.status != Status::Alive) == *suspected
        })
    }

    /// What is known of a member, if that is newer than the rumour.
    fn newer(&self, rumour: &Rumour) -> Option<Rumour> {
        let said = rumour.announcement;
        let known = self.members.get(said.node)?.rumour();
        let own = known.announcement.incarnation;
        let newer = own > said.incarnation
            || own == said.incarnation && known.suspected && !rumour.suspected;
        newer.then_some(known)
    }

    fn spread(&mut self, node: NodeName) {
        let members = self.members.len().max(2) as u64;
        self.rumours.insert(node, 3 * (members.ilog2() + 1));
    }

    fn set_status(&mut self, now: Time, node: NodeName, status: Status, out: &mut Vec<Output>) {
        let Some(member) = self.members.get_mut(node) else { return };
        if member.status == status {
            return;
        }
        if member.status == Status::Suspected {
            self.suspected.remove(&(member.since, node));
            self.unasked.remove(&(member.since, node));
        }
        member.status = status;
        member.since = now;
        let place = (place(&self.key, node), node);
        match status {
            Status::Alive => {
                self.ring.insert(place);
            }
            Status::Suspected => {
                self.suspected.insert((now, node));
                self.unasked.insert((now, node));
            }
            Status::Dead => {
                self.ring.remove(&place);
                self.watched.remove(&node);
            }
        }
        out.push(Output::Changed { node, status });
    }

    /// Time has passed: whom one misses is suspected, whom nobody has found is dead, and one is heard.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Output>) {
        let config = self.config;
        let silent: Vec<NodeName> = self
            .watched
            .iter()
            .filter(|(_, Watched { phi, .. })| {
                phi.milli(now) >= config.suspect_phi_milli || phi.last() + config.alive <= now
            })
            .map(|(node, _)| *node)
            .collect();
        for node in silent {
            // From here on it is a matter of rumours: another heartbeat makes it watched again.
            self.watched.remove(&node);
            let member = self.members.get(node).filter(|member| member.status == Status::Alive);
            if let Some(incarnation) = member.map(|member| member.announcement.incarnation) {
                self.set_status(now, node, Status::Suspected, out);
                self.spread(node);
                out.push(Output::Send { to: node, message: Message::Missed { incarnation } });
            }
        }
        // Its answer may have reached all but this node: before it is dead, it is asked itself.
        while let Some(&(since, node)) = self.unasked.first()
            && since + config.alive / 2 <= now
        {
            self.unasked.remove(&(since, node));
            let asked = self.members.get(node).map(|member| member.announcement.incarnation);
            let message = asked.map(|incarnation| Message::Missed { incarnation });
            out.extend(message.map(|message| Output::Send { to: node, message }));
        }
        while let Some(&(since, node)) = self.suspected.first()
            && since + config.alive <= now
        {
            self.set_status(now, node, Status::Dead, out);
        }
        if self.next_beat <= now {
            self.beat(now, out);
        }
    }

    /// When [`tick`](Self::tick) has something to do at the latest.
    #[must_use]
    pub fn due(&self) -> Time {
        let dead = self.suspected.first().map(|(since, _)| *since + self.config.alive);
        dead.map_or(self.next_beat, |dead| dead.min(self.next_beat))
    }

    fn beat(&mut self, now: Time, out: &mut Vec<Output>) {
        self.next_beat = now + self.config.beat;
        self.beats += 1;
        self.watch(now, out);
        let neighbours = self.neighbours();
        for &former in self.heard_by.difference(&neighbours) {
            out.push(Output::Send { to: former, message: Message::Unwatch });
        }
        let max = self.config.rumours_max as usize;
        for (number, &to) in (0..).zip(&neighbours) {
            let mut rumours: Vec<Rumour> = Vec::with_capacity(2 * max);
            for node in self.rumours.pass_on(max, to) {
                rumours.extend(self.members.get(node).map(Member::rumour));
            }
            // What was told the neighbour itself, if it is missed; and some members by lot, for
            // rumours that were lost.
            rumours.extend(
                self.members.get(to).filter(|m| m.status != Status::Alive).map(Member::rumour),
            );
            let draw = self.lots.draw(number, self.beats);
            let from = self.ring.range((draw.u64(), NodeName([0; 32]))..);
            let lot = from.chain(&self.ring).filter(|(_, node)| *node != to);
            let lot = lot.filter_map(|(_, node)| self.members.get(*node)).map(Member::rumour);
            rumours.extend(lot.take(max.min(self.ring.len())));
            rumours.truncate(2 * max);
            let message = Message::Heartbeat { own: self.own, rumours };
            out.push(Output::Send { to, message });
        }
        self.heard_by = neighbours;
        self.gossip(out);
        // Now and then one of the dead is asked: after a partition each side takes the other for dead.
        if self.beats.is_multiple_of(RECONNECT_BEATS) {
            let dead = || self.members.iter().filter(|member| member.status == Status::Dead);
            let count = dead().count() as u64;
            if count > 0 {
                let pick = self.lots.draw(u64::MAX, self.beats).below(count);
                let to = dead().nth(pick as usize).map(|member| member.announcement.node);
                let message = self.join();
                out.extend(to.map(|to| Output::Send { to, message }));
            }
        }
    }

    /// The newest rumours go to some by lot as well: along the ring alone they would take as many beats as
    /// there are eights of nodes. Not at first, when everybody who joins is news.
    fn gossip(&mut self, out: &mut Vec<Output>) {
        if self.ring.is_empty() || self.beats < GOSSIP_AFTER {
            return;
        }
        let max = self.config.rumours_max as usize;
        let newest = self.rumours.newest().filter_map(|node| self.members.get(node));
        let rumours: Vec<Rumour> = newest.take(max).map(Member::rumour).collect();
        if rumours.is_empty() {
            return;
        }
        for number in 0..GOSSIPS {
            let place = self.lots.draw(GOSSIP_LOT + number, self.beats).u64();
            let mut from = self.ring.range((place, NodeName([0; 32]))..).chain(&self.ring);
            if let Some(&(_, to)) = from.next() {
                let rumours = rumours.clone();
                out.push(Output::Send { to, message: Message::Members { rumours } });
            }
        }
    }

    /// Who should be heard by this node is watched even if it never was: in a part of the network in
    /// which nobody has heard a node, nobody would miss it. It is told that this node is there: it may not
    /// have heard so yet, and would be missed for that by everybody.
    fn watch(&mut self, now: Time, out: &mut Vec<Output>) {
        self.excused.retain(|_, until| *until > now);
        let before = self.ring.range(..self.own_place).rev().chain(self.ring.iter().rev());
        let count = (self.config.neighbours as usize).min(self.ring.len());
        let expected: BTreeSet<NodeName> = before.map(|(_, node)| *node).take(count).collect();
        self.watched.retain(|node, watched| watched.heard || expected.contains(node));
        for node in expected {
            let alive = self.members.get(node).is_some_and(|m| m.status == Status::Alive);
            if alive && !self.excused.contains_key(&node) {
                self.watched.entry(node).or_insert_with(|| {
                    let rumours = vec![Rumour { announcement: self.own, suspected: false }];
                    out.push(Output::Send { to: node, message: Message::Members { rumours } });
                    // Patiently: it may know of others between.
                    Watched { phi: Phi::new(now, self.config.alive / 4), heard: false }
                });
            }
        }
    }

    /// Those who follow this node on the ring, as far as it knows.
    #[must_use]
    pub fn neighbours(&self) -> BTreeSet<NodeName> {
        let after = self.ring.range(self.own_place..).chain(&self.ring).map(|(_, node)| *node);
        after.take((self.config.neighbours as usize).min(self.ring.len())).collect()
    }

    /// The reputation of a member, from whoever keeps it. It stays over announcements and deaths.
    pub fn set_reputation(&mut self, node: NodeName, reputation: Ratio) {
        if let Some(member) = self.members.get_mut(node) {
            member.reputation = reputation;
        }
    }

    /// What is known of a node; `None` of this one.
    #[must_use]
    pub fn member(&self, node: NodeName) -> Option<&Member> {
        self.members.get(node)
    }

    /// Everybody of whom anything is known, this node excepted.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// Where bytes can be placed: everybody who is alive, this node excepted.
    pub fn candidates(&self) -> impl Iterator<Item = Candidate> {
        let alive = self.members.iter().filter(|member| member.status == Status::Alive);
        alive.map(|member| {
            let Announcement { node, region, capacity_bytes, free_bytes, .. } = member.announcement;
            let reputation = member.reputation;
            Candidate { node, region, reputation, capacity_bytes, free_bytes }
        })
    }
}

impl Member {
    fn rumour(&self) -> Rumour {
        Rumour { announcement: self.announcement, suspected: self.status != Status::Alive }
    }
}

/// A node's place on the ring: the same for everyone who has the same key.
fn place(key: &Key, node: NodeName) -> u64 {
    crate::hash_name(key, &node.0)
}
