//! Finding who holds a record, by asking those who are closer and closer to its key.

use base::{NodeName, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is looked up: the digest that names a manifest.
pub type RecordKey = [u8; 32];

/// How far a node is from a key: the exclusive-or of the two, as a number.
#[must_use]
pub fn distance(node: NodeName, key: &RecordKey) -> [u8; 32] {
    std::array::from_fn(|at| node.0[at] ^ key[at])
}

/// The numbers of the lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupConfig {
    /// How many of the closest nodes hold a record: 3.
    pub replication: u32,
    /// How many nodes are known of each distance, and told in an answer: 8.
    pub bucket: u32,
    /// How many are asked at once: 3.
    pub parallel: u32,
    /// How long one is waited for: 5 s.
    pub patience: Duration,
    /// The longest record, in bytes: 1 MiB. Longer ones are refused, whoever sends them.
    pub record_bytes_max: u32,
    /// How many records a node holds at most: 65,536.
    pub records_max: u32,
    /// How many lookups are under way at most: 1,024.
    pub lookups_max: u32,
}

impl Default for LookupConfig {
    fn default() -> LookupConfig {
        LookupConfig {
            replication: 3,
            bucket: 8,
            parallel: 3,
            patience: Duration::from_secs(5),
            record_bytes_max: 1 << 20,
            records_max: 65_536,
            lookups_max: 1_024,
        }
    }
}

/// Known nodes by their distance: dense nearby, sparse far away (Maymounkov and Mazières, *Kademlia*,
/// 2002).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingTable {
    own: NodeName,
    bucket: usize,
    /// By the number of leading bits in common with this node.
    buckets: BTreeMap<u32, Vec<NodeName>>,
    /// Whether somebody was taken out: there may be room for others who are there.
    thin: bool,
}

impl RoutingTable {
    fn new(own: NodeName, bucket: u32) -> RoutingTable {
        RoutingTable { own, bucket: bucket.max(1) as usize, buckets: BTreeMap::new(), thin: false }
    }

    fn in_common(&self, node: NodeName) -> u32 {
        let distance = distance(node, &self.own.0);
        let zeros = distance.iter().take_while(|byte| **byte == 0).count() as u32;
        zeros * 8 + distance.get(zeros as usize).map_or(0, |byte| byte.leading_zeros())
    }

    /// The node is there. In a full bucket those who are known stay: who was there long will be.
    fn seen(&mut self, node: NodeName) {
        if node == self.own {
            return;
        }
        let bucket = self.buckets.entry(self.in_common(node)).or_default();
        if bucket.len() < self.bucket && !bucket.contains(&node) {
            bucket.push(node);
        }
    }

    fn gone(&mut self, node: NodeName) {
        if let Some(bucket) = self.buckets.get_mut(&self.in_common(node)) {
            let before = bucket.len();
            bucket.retain(|other| *other != node);
            self.thin |= bucket.len() < before;
        }
    }

    /// The closest `count` to a key that are known, closest first. At most 256 buckets are looked at.
    #[must_use]
    pub fn closest(&self, key: &RecordKey, count: usize) -> Vec<NodeName> {
        let all = self.buckets.values().flatten().copied();
        let mut sorted: Vec<([u8; 32], NodeName)> =
            all.map(|node| (distance(node, key), node)).collect();
        if count < sorted.len() {
            sorted.select_nth_unstable(count);
            sorted.truncate(count);
        }
        sorted.sort_unstable();
        sorted.into_iter().map(|(_, node)| node).collect()
    }

    /// How many nodes are known.
    #[must_use]
    pub fn known(&self) -> u32 {
        self.buckets.values().map(|bucket| bucket.len() as u32).sum()
    }
}

/// The number of a lookup of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(pub u64);

/// What directories say to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryMessage {
    /// Who is close to this key; and if a record is wanted, that.
    Find {
        /// The asker's number, for the answer.
        lookup: LookupId,
        /// Which key.
        key: RecordKey,
    },
    /// An answer to [`DirectoryMessage::Find`].
    Found {
        /// The asker's number.
        lookup: LookupId,
        /// The closest nodes that the sender knows.
        nodes: Vec<NodeName>,
        /// The record, if the sender has it.
        record: Option<Vec<u8>>,
    },
    /// Hold this.
    Store {
        /// The sender's number.
        lookup: LookupId,
        /// Under which key.
        key: RecordKey,
        /// What.
        record: Vec<u8>,
    },
    /// Whether it is held now.
    Stored {
        /// The number of who sent it.
        lookup: LookupId,
        /// False: no room, or too long.
        held: bool,
    },
}

/// What a directory wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryOutput {
    /// Send it.
    Send {
        /// To whom.
        to: NodeName,
        /// What.
        message: DirectoryMessage,
    },
    /// A node says that this is the record. Verify it; [`Directory::accept`] ends the lookup, and
    /// without that it goes on.
    Record {
        /// Of which lookup.
        lookup: LookupId,
        /// Who says so.
        from: NodeName,
        /// What it says.
        record: Vec<u8>,
    },
    /// The lookup has asked all of the closest nodes that answer, and none had a record that was
    /// accepted.
    NotFound {
        /// Which lookup.
        lookup: LookupId,
        /// Whom it asked, and who answered; closest first.
        closest: Vec<NodeName>,
    },
    /// The record is with these, each of which has said so. Fewer than
    /// [`LookupConfig::replication`] if no more could be found.
    Published {
        /// Which lookup.
        lookup: LookupId,
        /// Who holds it.
        holders: Vec<NodeName>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Not,
    Until(Time),
    Answered,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Purpose {
    Fetch,
    Publish { record: Vec<u8>, storing: BTreeMap<NodeName, Asked> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lookup {
    key: RecordKey,
    purpose: Purpose,
    /// By distance.
    nodes: BTreeMap<[u8; 32], (NodeName, Asked)>,
}

/// One node's part of the directory of manifests: what it holds for others, whom it knows, and what it is
/// looking for.
///
/// A lookup asks the closest nodes that it knows, and those that they name, until the closest
/// [`LookupConfig::bucket`] have all answered or failed to in time. So the answer comes from those who
/// hold it, not from what happens to be known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    config: LookupConfig,
    table: RoutingTable,
    records: BTreeMap<RecordKey, Vec<u8>>,
    lookups: BTreeMap<LookupId, Lookup>,
    deadlines: BTreeSet<(Time, LookupId, NodeName)>,
    last: LookupId,
}

/// Too many lookups are under way. Try again when one has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{max} lookups are under way")]
pub struct TooManyLookups {
    /// How many may be.
    pub max: u32,
}

impl Directory {
    /// A directory that knows nobody.
    #[must_use]
    pub fn new(config: LookupConfig, own: NodeName) -> Directory {
        Directory {
            table: RoutingTable::new(own, config.bucket),
            config,
            records: BTreeMap::new(),
            lookups: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            last: LookupId(0),
        }
    }

    /// The node is there, by membership or because it sent something.
    pub fn seen(&mut self, node: NodeName) {
        self.table.seen(node);
    }

    /// These are there, by membership. A lookup takes whoever is silent out of the routing table, and a node that
    /// was cut off for a while would know hardly anybody for good. Free if nobody was taken out since the last time.
    pub fn refill(&mut self, alive: impl Iterator<Item = NodeName>) {
        if std::mem::take(&mut self.table.thin) {
            alive.for_each(|node| self.table.seen(node));
        }
    }

    /// The node is dead.
    pub fn gone(&mut self, node: NodeName) {
        self.table.gone(node);
    }

    /// Looks for the record of a key.
    ///
    /// # Errors
    /// [`TooManyLookups`].
    pub fn fetch(
        &mut self,
        now: Time,
        key: RecordKey,
        out: &mut Vec<DirectoryOutput>,
    ) -> Result<LookupId, TooManyLookups> {
        self.begin(now, key, Purpose::Fetch, out)
    }

    /// Looks for the closest nodes to the key, and has them hold the record.
    ///
    /// # Errors
    /// [`TooManyLookups`].
    pub fn publish(
        &mut self,
        now: Time,
        key: RecordKey,
        record: Vec<u8>,
        out: &mut Vec<DirectoryOutput>,
    ) -> Result<LookupId, TooManyLookups> {
        self.begin(now, key, Purpose::Publish { record, storing: BTreeMap::new() }, out)
    }

    fn begin(
        &mut self,
        now: Time,
        key: RecordKey,
        purpose: Purpose,
        out: &mut Vec<DirectoryOutput>,
    ) -> Result<LookupId, TooManyLookups> {
        let max = self.config.lookups_max;
        if self.lookups.len() >= max as usize {
            return Err(TooManyLookups { max });
        }
        self.last.0 += 1;
        let id = self.last;
        let known = self.table.closest(&key, self.config.bucket as usize);
        let nodes = known.into_iter().map(|node| (distance(node, &key), (node, Asked::Not)));
        self.lookups.insert(id, Lookup { key, purpose, nodes: nodes.collect() });
        self.go_on(now, id, out);
        Ok(id)
    }

    /// The record that came is good: the lookup ends.
    pub fn accept(&mut self, id: LookupId) {
        self.lookups.remove(&id);
        self.deadlines.retain(|(_, lookup, _)| *lookup != id);
    }

    /// A message has come.
    pub fn handle(
        &mut self,
        now: Time,
        from: NodeName,
        message: &DirectoryMessage,
        out: &mut Vec<DirectoryOutput>,
    ) {
        self.table.seen(from);
        match message {
            DirectoryMessage::Find { lookup, key } => {
                let mut nodes = self.table.closest(key, self.config.bucket as usize + 1);
                nodes.retain(|node| *node != from);
                nodes.truncate(self.config.bucket as usize);
                let record = self.records.get(key).cloned();
                let message = DirectoryMessage::Found { lookup: *lookup, nodes, record };
                out.push(DirectoryOutput::Send { to: from, message });
            }
            DirectoryMessage::Store { lookup, key, record } => {
                let room = self.records.len() < self.config.records_max as usize;
                let held = record.len() <= self.config.record_bytes_max as usize
                    && (room || self.records.contains_key(key));
                if held {
                    self.records.insert(*key, record.clone());
                }
                let message = DirectoryMessage::Stored { lookup: *lookup, held };
                out.push(DirectoryOutput::Send { to: from, message });
            }
            DirectoryMessage::Found { lookup, nodes, record } => {
                self.found(now, from, *lookup, nodes, record.as_ref(), out);
            }
            DirectoryMessage::Stored { lookup, held } => {
                if let Some(Lookup { purpose: Purpose::Publish { storing, .. }, .. }) =
                    self.lookups.get_mut(lookup)
                    && let Some(asked @ Asked::Until(_)) = storing.get_mut(&from)
                {
                    *asked = if *held { Asked::Answered } else { Asked::Failed };
                    self.go_on(now, *lookup, out);
                }
            }
        }
    }

    fn found(
        &mut self,
        now: Time,
        from: NodeName,
        id: LookupId,
        nodes: &[NodeName],
        record: Option<&Vec<u8>>,
        out: &mut Vec<DirectoryOutput>,
    ) {
        let Some(lookup) = self.lookups.get_mut(&id) else { return };
        // Only whom one has asked has something to say, and once.
        let Some((_, asked @ Asked::Until(_))) = lookup.nodes.get_mut(&distance(from, &lookup.key))
        else {
            return;
        };
        *asked = Asked::Answered;
        for &node in nodes.iter().take(self.config.bucket as usize) {
            if node != self.table.own {
                let place = distance(node, &lookup.key);
                lookup.nodes.entry(place).or_insert((node, Asked::Not));
            }
        }
        if let Some(record) = record
            && record.len() <= self.config.record_bytes_max as usize
            && lookup.purpose == Purpose::Fetch
        {
            out.push(DirectoryOutput::Record { lookup: id, from, record: record.clone() });
        }
        self.go_on(now, id, out);
    }

    /// Time has passed: who has not answered is not waited for any more.
    pub fn tick(&mut self, now: Time, out: &mut Vec<DirectoryOutput>) {
        while let Some(&(until, id, node)) = self.deadlines.first()
            && until <= now
        {
            self.deadlines.remove(&(until, id, node));
            let Some(lookup) = self.lookups.get_mut(&id) else { continue };
            let mut late = false;
            let place = distance(node, &lookup.key);
            let asked = lookup.nodes.get_mut(&place).map(|(_, asked)| asked);
            let storing = match &mut lookup.purpose {
                Purpose::Publish { storing, .. } => storing.get_mut(&node),
                Purpose::Fetch => None,
            };
            for asked in asked.into_iter().chain(storing) {
                if *asked == Asked::Until(until) {
                    *asked = Asked::Failed;
                    late = true;
                }
            }
            if late {
                self.table.gone(node);
                self.go_on(now, id, out);
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        self.deadlines.first().map(|(until, ..)| *until)
    }

    /// Asks whoever is next, or ends.
    fn go_on(&mut self, now: Time, id: LookupId, out: &mut Vec<DirectoryOutput>) {
        let Some(lookup) = self.lookups.get_mut(&id) else { return };
        let until = now + self.config.patience;
        let waiting = |asked: &Asked| matches!(asked, Asked::Until(_));
        let mut under_way = lookup.nodes.values().filter(|(_, asked)| waiting(asked)).count();
        let mut open = false;
        let closest = lookup.nodes.values_mut().filter(|(_, asked)| *asked != Asked::Failed);
        for (node, asked) in closest.take(self.config.bucket as usize) {
            if *asked == Asked::Not && under_way < self.config.parallel as usize {
                *asked = Asked::Until(until);
                under_way += 1;
                self.deadlines.insert((until, id, *node));
                let message = DirectoryMessage::Find { lookup: id, key: lookup.key };
                out.push(DirectoryOutput::Send { to: *node, message });
            }
            open |= *asked != Asked::Answered;
        }
        if open {
            return;
        }
        let answered = lookup.nodes.values().filter(|(_, asked)| *asked == Asked::Answered);
        let closest: Vec<NodeName> = answered.map(|(node, _)| *node).collect();
        match &mut lookup.purpose {
            Purpose::Fetch => {
                out.push(DirectoryOutput::NotFound { lookup: id, closest });
                self.accept(id);
            }
            Purpose::Publish { record, storing } => {
                // Those who refuse or are silent are replaced by the next.
                let alive = |asked: &&Asked| **asked != Asked::Failed;
                let mut count = storing.values().filter(alive).count();
                for node in closest {
                    if count < self.config.replication as usize && !storing.contains_key(&node) {
                        count += 1;
                        storing.insert(node, Asked::Until(until));
                        self.deadlines.insert((until, id, node));
                        let (key, record) = (lookup.key, record.clone());
                        let message = DirectoryMessage::Store { lookup: id, key, record };
                        out.push(DirectoryOutput::Send { to: node, message });
                    }
                }
                if !storing.values().any(waiting_ref) {
                    let holds = storing.iter().filter(|(_, asked)| **asked == Asked::Answered);
                    let holders = holds.map(|(node, _)| *node).collect();
                    out.push(DirectoryOutput::Published { lookup: id, holders });
                    self.accept(id);
                }
            }
        }
    }

    /// This node holds a record no more, and does not give it out.
    pub fn forget(&mut self, key: &RecordKey) {
        self.records.remove(key);
    }

    /// What this node holds of a key.
    #[must_use]
    pub fn record(&self, key: &RecordKey) -> Option<&[u8]> {
        self.records.get(key).map(Vec::as_slice)
    }

    /// Whom it knows.
    #[must_use]
    pub fn table(&self) -> &RoutingTable {
        &self.table
    }

    /// How many lookups are under way.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        u32::try_from(self.lookups.len()).expect("at most lookups_max")
    }
}

fn waiting_ref(asked: &Asked) -> bool {
    matches!(asked, Asked::Until(_))
}
