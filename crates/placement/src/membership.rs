//! Who is there, by announcements, rumours and a failure detector.

use crate::phi::Phi;
use crate::roster::Roster;
use crate::rumours::Rumours;
use crate::{Candidate, RecordKey, Region, distance};
use base::prng::Key;
use base::{NodeName, Ratio, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
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
    /// How many rumours a heartbeat carries at most: 8.
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
    /// I am here; watch me. And what is new.
    Heartbeat {
        /// Of the sender.
        own: Announcement,
        /// All who are there, as the sender sees it: their places on the ring, each added to the others by
        /// exclusive or.
        view: u64,
        /// Of others. Everybody who is sent it now is sent the same.
        rumours: Arc<[Rumour]>,
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
    /// The receiver has seen others than the sender for a while. Whom?
    Compare {
        /// Who is there as the sender sees it, as in a heartbeat, for each part of the ring by itself: the
        /// first of them is where places begin with five bits of zero.
        views: Box<[u64; PARTS]>,
    },
    /// An answer to [`Message::Join`]: everybody, once. To a heartbeat whose rumours are old: what is known
    /// instead. To [`Message::Compare`]: everybody in those parts that differ, the dead as missed.
    Members {
        /// Of members.
        rumours: Arc<[Rumour]>,
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
    /// How many of its heartbeats in a row were of another view.
    apart: u32,
}

/// In so many parts two nodes compare whom they see.
pub const PARTS: usize = 32;
const PART_SHIFT: u32 = u64::BITS - PARTS.trailing_zeros();
const PART_MASK: u64 = (1 << PART_SHIFT) - 1;

/// After so many heartbeats in a row with another view a node asks. What is on its way gets there before.
const APART: u32 = 3;

/// For so many beats a node is new: it compares at once whom it sees, and tells nobody by lot whom it hears of.
const NEW: u64 = 8;
/// The number of that lot.
const GOSSIP_LOT: u64 = 1;
/// So many members hear at once who has come, or is missed.
const PUSHES: u64 = 2;

/// Every so many beats one of the dead is asked whether it is.
const RECONNECT_BEATS: u64 = 4;

/// One node's view of who is there.
///
/// After SWIM (Das, Gupta, Motivala, 2002), with phi in place of probes. A node is heard every five
/// seconds by those eight that follow it on a ring of hashed names, and by nobody else. Whoever misses it
/// spreads that as a rumour; the node answers with a higher incarnation, and who does not for a minute
/// is dead. A rumour is passed on about 3 log2 n times by each who hears it, with its heartbeats; that
/// somebody comes, is missed or is missed no more also at once, to two others by lot. So what a node sends and
/// receives does not grow with the network, but for who comes and goes in it.
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
    /// Whom this node has missed since its last beat. It was asked, and others are told if it has not answered.
    missed: Vec<NodeName>,
    /// The places of all on the ring, each added to the others by exclusive or.
    others: u64,
    /// At which of its own beats this node has asked a neighbour last.
    compared: u64,
    /// Everybody dead, by place on the ring.
    dead: BTreeSet<(u64, NodeName)>,
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
            missed: Vec::new(),
            others: 0,
            compared: 0,
            dead: BTreeSet::new(),
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

    /// What says nothing but that this node is there.
    fn is_there(&self) -> Message {
        Message::Members { rumours: [Rumour { announcement: self.own, suspected: false }].into() }
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
            Message::Heartbeat { own, view, rumours } => {
                if own.node != from || from == self.own.node {
                    return;
                }
                self.heard_itself(now, *own, out);
                if self.members.get(from).is_none() {
                    return;
                }
                let beat = self.config.beat;
                let fresh = Watched { phi: Phi::new(now, beat), heard: true, apart: 0 };
                match self.watched.get_mut(&from) {
                    Some(watched) if watched.heard => watched.phi.heard(now),
                    _ => drop(self.watched.insert(from, fresh)),
                }
                let mut news = Vec::new();
                for rumour in rumours.iter().take(self.config.rumours_max as usize) {
                    if self.knows(rumour) {
                        continue;
                    }
                    news.extend(self.newer(rumour));
                    self.rumour(now, rumour, out);
                }
                // A rumour that the sender has not heard would not reach it any more.
                if !news.is_empty() {
                    let message = Message::Members { rumours: news.into() };
                    out.push(Output::Send { to: from, message });
                }
                self.compare(from, *view, out);
            }
            Message::Compare { views } => {
                let own = self.views();
                let parts =
                    (0u64..).zip(own.iter().zip(views.iter())).filter(|(_, (own, it))| own != it);
                let all = parts.flat_map(|(part, _)| {
                    let part = (part << PART_SHIFT, NodeName([0; 32]))
                        ..=(part << PART_SHIFT | PART_MASK, NodeName([0xFF; 32]));
                    self.ring.range(part.clone()).chain(self.dead.range(part))
                });
                let all = all.filter_map(|(_, node)| self.members.get(*node));
                let rumours: Arc<[Rumour]> = all.map(Member::rumour).collect();
                if !rumours.is_empty() {
                    out.push(Output::Send { to: from, message: Message::Members { rumours } });
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
                out.push(Output::Send {
                    to: from,
                    message: Message::Members { rumours: rumours.into() },
                });
            }
            Message::Missed { incarnation } => {
                if *incarnation >= self.own.incarnation {
                    self.own.incarnation = incarnation.saturating_add(1);
                }
                out.push(Output::Send { to: from, message: self.is_there() });
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

    /// A neighbour sees others than this node, if their views differ. If that stays so, it is asked: what rumours
    /// that were lost have left is mended by that.
    fn compare(&mut self, from: NodeName, view: u64, out: &mut Vec<Output>) {
        let alike = view == self.view();
        let asked = self.compared == self.beats;
        let Some(watched) = self.watched.get_mut(&from) else { return };
        watched.apart = if alike { 0 } else { watched.apart + 1 };
        let patience = if self.beats < NEW { 1 } else { APART };
        if watched.apart >= patience && !asked {
            watched.apart = 0;
            self.compared = self.beats;
            let views = Box::new(self.views());
            out.push(Output::Send { to: from, message: Message::Compare { views } });
        }
    }

    /// Everybody who is not dead, this node included.
    fn view(&self) -> u64 {
        self.others ^ self.own_place.0
    }

    /// The same by parts of the ring.
    fn views(&self) -> [u64; PARTS] {
        let mut views = [0; PARTS];
        for (place, _) in self.ring.iter().chain([&self.own_place]) {
            views[(place >> PART_SHIFT) as usize] ^= place;
        }
        views
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
                let is_back = member.status != Status::Alive;
                self.spread(said.node);
                self.set_status(now, said.node, Status::Alive, out);
                if is_back {
                    self.push(said.node, out);
                }
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
                self.push(said.node, out);
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
        self.dead.remove(&(place(&self.key, node), node));
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
        // Of whom nothing is known but that it is missed, nothing has to be known.
        if rumour.suspected && self.members.get(said.node).is_none() {
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
            self.push(said.node, out);
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
                self.dead.remove(&place);
                if self.ring.insert(place) {
                    self.others ^= place.0;
                }
            }
            Status::Suspected => {
                self.suspected.insert((now, node));
                self.unasked.insert((now, node));
            }
            Status::Dead => {
                if self.ring.remove(&place) {
                    self.others ^= place.0;
                }
                self.dead.insert(place);
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
                self.missed.push(node);
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
        let told = self.rumours.pass_on(max, neighbours.len() as u32);
        let told = told.into_iter().filter_map(|node| self.members.get(node));
        let rumours: Arc<[Rumour]> = told.map(Member::rumour).collect();
        let (own, view) = (self.own, self.view());
        for &to in &neighbours {
            let rumours = rumours.clone();
            out.push(Output::Send { to, message: Message::Heartbeat { own, view, rumours } });
            // Whoever is missed hears that from all whom it watches, until it has said something newer.
            let missed = self.members.get(to).filter(|member| member.status != Status::Alive);
            if let Some(incarnation) = missed.map(|member| member.announcement.incarnation) {
                out.push(Output::Send { to, message: Message::Missed { incarnation } });
            }
        }
        self.heard_by = neighbours;
        for node in std::mem::take(&mut self.missed) {
            if self.members.get(node).is_some_and(|member| member.status != Status::Alive) {
                self.push(node, out);
            }
        }
        self.gossip(out);
        // Now and then one of the dead is asked: after a partition each side takes the other for dead.
        if self.beats.is_multiple_of(RECONNECT_BEATS) {
            let pick = self.lots.draw(u64::MAX, self.beats).u64();
            let place = (pick, NodeName([0; 32]));
            if let Some(&(_, to)) = self.dead.range(place..).chain(&self.dead).next() {
                out.push(Output::Send { to, message: self.join() });
            }
        }
    }

    /// The newest rumours go to one by lot as well: along the ring alone they would take as many beats as
    /// there are eights of nodes. Not at first, when everybody who joins is news.
    fn gossip(&mut self, out: &mut Vec<Output>) {
        if self.beats < NEW {
            return;
        }
        let newest = self.rumours.newest().filter_map(|node| self.members.get(node));
        let rumours: Arc<[Rumour]> =
            newest.take(self.config.rumours_max as usize).map(Member::rumour).collect();
        if !rumours.is_empty() {
            let to = self.by_lot(self.lots.draw(GOSSIP_LOT, self.beats).u64());
            let message = Message::Members { rumours };
            out.extend(to.map(|to| Output::Send { to, message }));
        }
    }

    /// Who comes, is missed, or is missed no more is told to two by lot at once, by each who hears it first:
    /// that reaches four of five within seconds, and all others have a neighbour among those.
    fn push(&self, node: NodeName, out: &mut Vec<Output>) {
        let Some(member) = self.members.get(node).filter(|_| self.beats >= NEW) else {
            return;
        };
        let rumours: Arc<[Rumour]> = [member.rumour()].into();
        let lots = self.lots.keyed(place(&self.key, node));
        for number in 0..PUSHES {
            let number = number + u64::from(member.status == Status::Alive) * PUSHES;
            let to = self.by_lot(lots.draw(number, member.announcement.incarnation).u64());
            let message = Message::Members { rumours: rumours.clone() };
            out.extend(to.filter(|to| *to != node).map(|to| Output::Send { to, message }));
        }
    }

    /// Who is at this place of the ring, or behind it.
    fn by_lot(&self, place: u64) -> Option<NodeName> {
        let mut from = self.ring.range((place, NodeName([0; 32]))..).chain(&self.ring);
        from.next().map(|(_, node)| *node)
    }

    /// Who should be heard by this node is watched even if it never was: in a part of the network in
    /// which nobody has heard a node, nobody would miss it. It is told that this node is there: it may not
    /// have heard so yet, and would be missed for that by everybody.
    fn watch(&mut self, now: Time, out: &mut Vec<Output>) {
        let before = self.ring.range(..self.own_place).rev().chain(self.ring.iter().rev());
        let count = (self.config.neighbours as usize).min(self.ring.len());
        let expected: BTreeSet<NodeName> = before.map(|(_, node)| *node).take(count).collect();
        self.watched.retain(|node, watched| watched.heard || expected.contains(node));
        let is_there = self.is_there();
        for node in expected {
            let alive = self.members.get(node).is_some_and(|m| m.status == Status::Alive);
            if alive {
                self.watched.entry(node).or_insert_with(|| {
                    out.push(Output::Send { to: node, message: is_there.clone() });
                    // Patiently: it may know of others between.
                    let phi = Phi::new(now, self.config.beat.max(self.config.alive / 4));
                    Watched { phi, heard: false, apart: 0 }
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

    /// Of how many nodes anything is known, this one excepted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nothing is known of anybody else.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of those are not dead. Costs nothing.
    #[must_use]
    pub fn not_dead(&self) -> usize {
        self.ring.len()
    }

    /// Everybody of whom anything is known, this node excepted.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// Where bytes can be placed: everybody who is alive, this node excepted.
    pub fn candidates(&self) -> impl Iterator<Item = Candidate> {
        self.alive().map(Member::candidate)
    }

    /// The `count` closest to a key among those who are alive and for whom `counts` is true, this node excepted, the
    /// closest first; or all of them, if they are fewer. Few of the others are looked at.
    pub fn nearest(
        &self,
        key: &RecordKey,
        count: usize,
        counts: impl Fn(&Member) -> bool,
    ) -> Vec<NodeName> {
        let mut nearest = Vec::new();
        let mut last = 0;
        for (bits, member) in self.members.around(key) {
            // Of those with as many bits in common any may be closer.
            if nearest.len() >= count && bits < last {
                break;
            }
            if member.status == Status::Alive && counts(member) {
                last = bits;
                nearest.push((distance(member.announcement.node, key), member.announcement.node));
            }
        }
        nearest.sort_unstable();
        nearest.truncate(count);
        nearest.into_iter().map(|(_, node)| node).collect()
    }

    /// Everybody who is alive, this node excepted, ascending by name.
    pub fn alive(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.status == Status::Alive)
    }
}

impl Member {
    /// As a place for bytes.
    #[must_use]
    pub fn candidate(&self) -> Candidate {
        let Announcement { node, region, capacity_bytes, free_bytes, .. } = self.announcement;
        Candidate { node, region, reputation: self.reputation, capacity_bytes, free_bytes }
    }

    fn rumour(&self) -> Rumour {
        Rumour { announcement: self.announcement, suspected: self.status != Status::Alive }
    }
}

/// A node's place on the ring: the same for everyone who has the same key.
fn place(key: &Key, node: NodeName) -> u64 {
    crate::hash_name(key, &node.0)
}
