//! The node: what it is told, and to which of its parts that goes.

use crate::holder::Holdings;
use crate::keeper::{COMPARING, Keeping};
use crate::leaving::Leaving;
use crate::ledger::Teller;
use crate::locker::Locking;
use crate::message::{Message, Observed, lock_answer};
use crate::operation::Operations;
use crate::routing::Routing;
use crate::sweep::Sweep;
use crate::transfer::Transfers;
use base::bytes::Writer;
use base::prng::Key;
use base::{BootCount, NodeName, RequestKey, ShardId, Time, Token};
use erasure::{Advice, SchemePolicy};
use incentives::{Ask, Bank};
use node::{Disks, Node, Outcome};
use placement::{
    Directory, DirectoryMessage, DirectoryOutput, LookupConfig, Membership, MembershipConfig,
    Region,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use store::{Assembly, Digest, EncodedShard, Manifest, Op, StoreConfig};
use wal_core::{DiskError, DiskOp, OpenMode};

/// What a node is.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its transactions; the coordinator and the participant have to be there.
    pub transactions: node::Config,
    /// Where it is.
    pub region: Region,
    /// Its store of shards.
    pub shards: StoreConfig,
    /// How it reads its own shards again.
    pub scrub: repair::ScrubConfig,
    /// How it repairs what it keeps the records of.
    pub repair: repair::Config,
    /// How it asks others for proofs.
    pub audit: repair::AuditConfig,
    /// How often each shard of a record's file is asked a proof of: 300 s.
    pub audit_every: Duration,
    /// Its table of locks.
    pub locks: locks::Config,
    /// Who is there.
    pub membership: MembershipConfig,
    /// Who holds records, and how many do.
    pub lookup: LookupConfig,
    /// How long a message is waited for before it is sent again, or somebody else is asked: 5 s.
    pub patience: Duration,
    /// How often an upload or a download begins anew before its client is told that it failed: 20.
    pub attempts_max: u32,
    /// Who keeps the ledger, and hears what all have seen.
    pub authority: NodeName,
    /// Of the authority: the bank's numbers.
    pub bank: Option<incentives::Config>,
    /// How often what was seen is reported to the authority; never, if `None`.
    pub report_every: Option<Duration>,
    /// Some who are there already; empty for the first. They are met in turn, again and again.
    pub meet: Vec<NodeName>,
    /// The network's key: the same on all nodes.
    pub network: Key,
    /// This start's own secret.
    pub secret: Key,
    /// How often the node was started before, over all of its lives.
    pub boot: BootCount,
    /// Milliseconds of the Unix clock at [`Time::ZERO`].
    pub unix_ms_at_zero: i64,
}

/// A client's request.
#[derive(Clone, Debug)]
pub enum Request {
    /// Store a file. Asked again, with the same manifest, it is the same upload.
    Put {
        /// The client's number.
        number: u64,
        /// The file's name, hashed.
        file: Digest,
        /// The manifest that its owner made.
        manifest: Manifest,
        /// All of its shards.
        shards: Vec<EncodedShard>,
    },
    /// Fetch a file.
    Get {
        /// The client's number.
        number: u64,
        /// The file's name, hashed.
        file: Digest,
    },
    /// Take locks at a table, have them verified, and give them back.
    Lock {
        /// The client's number.
        number: u64,
        /// Whose table.
        table: NodeName,
        /// Which.
        shards: Vec<ShardId>,
    },
    /// Something is wanted of the ledger, by this node. Asked again under its number it is done once, also
    /// after a crash, for as long as the ledger remembers ([`incentives::Config::request_kept`]).
    Ledger {
        /// The client's number: another one for each thing that it wants.
        number: u64,
        /// What.
        ask: Ask,
    },
    /// Leave in order: take no new work, finish what is under way, and hold nothing that a record needs.
    /// Asked again after a restart, it goes on.
    Leave {
        /// The client's number.
        number: u64,
    },
    /// A saga or a transaction of a client's own.
    Submit(node::Request),
}

/// What a client hears.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The file is stored: all of its shards are durable, and it is found.
    Stored {
        /// The current version of its record.
        version: u64,
    },
    /// Another file has this name.
    NameTaken,
    /// Enough shards of the file to decode it.
    Got(Box<Assembly>),
    /// Nobody has a record of such a file.
    NotFound,
    /// The locks were had, verified, and given back.
    Locked {
        /// How many.
        locks: u32,
    },
    /// The ledger has done it durably, or refuses it.
    Ledger {
        /// Which of the two.
        done: bool,
    },
    /// How a saga or a transaction of its own has ended.
    Ended {
        /// Its key.
        key: RequestKey,
        /// How.
        outcome: Outcome,
    },
    /// This node is about to leave: ask another one. What was begun here before goes on, and is told.
    Leaving,
    /// The node has left: its process may be ended, and its disks may go.
    Left,
    /// It was tried often enough. It may be asked again.
    Failed,
}

/// What the shell has done for the store.
#[derive(Clone, Debug)]
pub enum ShardDone {
    /// An [`Op::Write`] is durable, or was not kept.
    Written {
        /// Of which shard.
        digest: Digest,
        /// Whether it is.
        durable: bool,
    },
    /// What an [`Op::Read`] gave.
    Loaded {
        /// Of which shard.
        digest: Digest,
        /// The bytes, if there are any.
        bytes: Option<Vec<u8>>,
    },
    /// An [`Op::Pin`] is durable.
    Pinned {
        /// Of which shard.
        digest: Digest,
    },
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message arrived.
    Message {
        /// From whom it really came.
        from: NodeName,
        /// What.
        message: Message,
    },
    /// The last flush of one of the transactions' logs is done.
    Flushed {
        /// Which log.
        slot: node::LogSlot,
        /// How it went.
        result: Result<(), DiskError>,
    },
    /// The last flush of the ledger's log is done.
    LedgerFlushed(Result<(), DiskError>),
    /// The store's disk has done something.
    Shards(ShardDone),
    /// The time that [`StorageNode::next_wake`] named has come.
    Wake,
    /// A client wants something.
    Request(Request),
}

/// What a node wants of its shell, which performs it strictly in this order.
#[derive(Clone, Debug)]
pub enum Output {
    /// For the transactions' logs, and what they tell. Messages and replies are not among these.
    Transactions(node::Output),
    /// For the ledger's log: perform these in order, and report the end.
    Ledger(Vec<DiskOp>),
    /// For the disk of shards.
    Shards(Op),
    /// Send it. It may be lost, doubled or late.
    Send {
        /// To whom.
        to: NodeName,
        /// What.
        message: Message,
    },
    /// Tell the client with this number.
    Tell {
        /// The client's number; 0 with [`Answer::Ended`].
        number: u64,
        /// What.
        answer: Answer,
    },
}

/// The read side of a node's disks.
pub trait StorageDisks: Disks {
    /// Where the ledger's log is.
    fn ledger(&self) -> &dyn wal_core::Directory;
}

/// What a node has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Shards that were rebuilt, placed, and read again by their new holder.
    pub repaired: u64,
    /// Repairs of a stripe that were given up.
    pub gave_up: u64,
    /// Of these, for want of good shards …
    pub without_sources: u64,
    /// … of a node that takes, keeps and verifies one …
    pub without_place: u64,
    /// … and because the manifest does not fit its shards.
    pub inconsistent: u64,
    /// Bytes that repairs have moved.
    pub repair_bytes: u64,
    /// Bytes that repairs without any failure would have moved.
    pub repair_bytes_min: u64,
    /// Versions of records that were made current here.
    pub versions: u64,
    /// Versions that were not, since another one came first or a keeper was missing.
    pub superseded: u64,
    /// Shards and records that nobody needed, and that were let go.
    pub let_go: u64,
    /// Messages that were no messages.
    pub malformed: u64,
    /// Proofs that were refused: wrong, or missing.
    pub failed_proofs: u64,
}

/// One node of the storage network: see the crate's page.
#[derive(Clone, Debug)]
pub struct StorageNode {
    pub(crate) config: Config,
    pub(crate) name: NodeName,
    pub(crate) transactions: Node,
    pub(crate) holdings: Holdings,
    pub(crate) transfers: Transfers,
    pub(crate) keeping: Keeping,
    pub(crate) routing: Routing,
    pub(crate) locking: Locking,
    pub(crate) membership: Membership,
    pub(crate) directory: Directory,
    pub(crate) table: locks::LockTable,
    pub(crate) teller: Option<Teller>,
    policy: Option<(SchemePolicy, BTreeMap<NodeName, Observed>)>,
    advice: Option<Advice>,
    pub(crate) operations: Operations,
    pub(crate) drawn: u64,
    pub(crate) stats: Stats,
    pub(crate) observed: Observed,
    /// What this node wants of the ledger, one after the other: for which client, under which key, and what.
    asks: VecDeque<(u64, Token, Ask)>,
    ask_number: u64,
    ask_again: Option<Time>,
    report_at: Option<Time>,
    /// What was reported last, and how often it was looked whether to report.
    reported: Option<Observed>,
    reports: u32,
    meet_at: Option<(Time, u32)>,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) sweep: Sweep,
    /// Whether the participant has been seen to run.
    opened: bool,
    queue: VecDeque<Output>,
}

/// The key of what is wanted of the ledger: a client's number with what it asks for, so that a client that
/// asks again after its node has crashed asks for the same. What nobody waits for is told apart by what it
/// says, such as its evidence.
fn ledger_key(number: u64, ask: &Ask) -> Token {
    let mut bytes = Writer::default();
    bytes.u64(number);
    ask.encode(&mut bytes);
    let digest = Digest::of(&bytes.finish());
    Token(digest.0[..16].try_into().expect("a digest has 32 bytes"))
}

/// A report that says nothing new is sent once in so many.
const REPORTS: u32 = 10;

/// So many times somebody is met soon after the start; later once in a round of audits.
const MEETINGS: u32 = 1;

impl StorageNode {
    /// Starts a node on its disks: `shards` and `pins` are what is there by name, each shard with its
    /// length.
    pub fn start(
        config: Config,
        now: Time,
        disks: &dyn StorageDisks,
        shards: impl IntoIterator<Item = (Digest, u64)>,
        pins: impl IntoIterator<Item = Digest> + Clone,
        out: &mut Vec<Output>,
    ) -> StorageNode {
        let name = config.transactions.name;
        let mut todo = Vec::new();
        let transactions =
            Node::start(config.transactions.clone(), OpenMode::Exclusive, now, disks, &mut todo);
        let holdings = Holdings::recover(&config, now, shards, pins);
        let own = placement::Announcement {
            node: name,
            // Higher than whatever it said in an earlier life.
            incarnation: u64::from(config.boot.0) << 40,
            region: config.region,
            capacity_bytes: config.shards.capacity_bytes,
            free_bytes: config.shards.capacity_bytes,
        };
        let membership = Membership::new(config.membership, &config.network, own, now);
        let directory = Directory::new(config.lookup, name);
        let table = locks::LockTable::new(config.locks, &config.network, config.boot, now);
        let teller = config.bank.clone().map(|bank| {
            let log = config.transactions.log.clone();
            let id = config.transactions.new_log_id.rotate_left(17);
            let (teller, ops) = Teller::start(Bank::new(bank), log, id, disks.ledger());
            out.push(Output::Ledger(ops));
            teller
        });
        let policy = (config.authority == name).then(|| {
            let policy = SchemePolicy::new(erasure::Config::default());
            (policy.expect("the defaults go together"), BTreeMap::new())
        });
        let mut node = StorageNode {
            keeping: Keeping::new(&config, now),
            routing: Routing::new(&config),
            locking: Locking::default(),
            transfers: Transfers::default(),
            report_at: config.report_every.map(|every| now + every),
            reported: None,
            reports: 0,
            meet_at: (!config.meet.is_empty()).then_some((now, 0)),
            name,
            transactions,
            holdings,
            membership,
            directory,
            table,
            teller,
            policy,
            advice: None,
            operations: Operations::default(),
            leaving: None,
            sweep: Sweep::new(now, now + config.audit_every),
            drawn: 0,
            stats: Stats::default(),
            observed: Observed::default(),
            asks: VecDeque::new(),
            // No request has this number.
            ask_number: 0,
            ask_again: None,
            opened: false,
            queue: VecDeque::new(),
            config,
        };
        node.take_transactions(now, todo);
        node.read_records(now);
        node.finish(now, disks, out);
        node
    }

    /// Takes one input, and adds what it wants done, in order.
    pub fn handle(
        &mut self,
        now: Time,
        input: Input,
        disks: &dyn StorageDisks,
        out: &mut Vec<Output>,
    ) {
        match input {
            Input::Message { from, message } => self.receive(now, from, message, disks),
            Input::Flushed { slot, result } => {
                self.feed(now, node::Input::Flushed { slot, result }, disks);
            }
            Input::LedgerFlushed(result) => {
                if let Some(teller) = &mut self.teller {
                    let (mut ops, mut told) = (Vec::new(), Vec::new());
                    teller.flushed(now, result, disks.ledger(), &mut ops, &mut told);
                    if !ops.is_empty() {
                        self.queue.push_back(Output::Ledger(ops));
                    }
                    told.into_iter().for_each(|(to, message)| self.send(to, message));
                }
            }
            Input::Shards(done) => self.shards_done(now, done, disks),
            Input::Wake => self.wake(now, disks),
            Input::Request(request) => self.request(now, request, disks),
        }
        self.finish(now, disks, out);
    }

    /// What follows from whatever has happened, until nothing does.
    fn finish(&mut self, now: Time, disks: &dyn StorageDisks, out: &mut Vec<Output>) {
        if !self.opened && self.transactions.participant().is_some() {
            self.opened = true;
            self.sweep_at_start();
        }
        self.settle_records(now);
        self.remove_unneeded();
        self.resume_uploads(now, disks);
        self.plan_repairs(now, disks);
        if let Some(teller) = &mut self.teller {
            let mut ops = Vec::new();
            let unix_ms = self.config.unix_ms_at_zero.saturating_add_unsigned(now.as_millis());
            teller.settle(now, unix_ms, &mut ops);
            if !ops.is_empty() {
                self.queue.push_back(Output::Ledger(ops));
            }
        }
        out.extend(self.queue.drain(..));
    }

    pub(crate) fn send(&mut self, to: NodeName, message: Message) {
        self.queue.push_back(Output::Send { to, message });
    }

    pub(crate) fn tell(&mut self, number: u64, answer: Answer) {
        self.queue.push_back(Output::Tell { number, answer });
    }

    pub(crate) fn shard_ops(&mut self, ops: Vec<Op>) {
        self.queue.extend(ops.into_iter().map(Output::Shards));
    }

    /// Gives the transactions an input.
    pub(crate) fn feed(&mut self, now: Time, input: node::Input, disks: &dyn StorageDisks) {
        let mut todo = Vec::new();
        self.transactions.handle(now, input, disks, &mut todo);
        self.take_transactions(now, todo);
    }

    fn take_transactions(&mut self, now: Time, todo: Vec<node::Output>) {
        for output in todo {
            match output {
                node::Output::Send { to, message } => {
                    self.send(to, Message::Transaction(message));
                }
                node::Output::Reply { key, outcome } => {
                    if !self.replied(now, &key, &outcome) {
                        self.tell(0, Answer::Ended { key, outcome });
                    }
                }
                other => self.queue.push_back(Output::Transactions(other)),
            }
        }
    }

    /// A number that nothing else of this node has, over all of its lives.
    pub(crate) fn draw_number(&mut self) -> u64 {
        self.drawn += 1;
        u64::from(self.config.boot.0) << 32 | self.drawn
    }

    fn receive(&mut self, now: Time, from: NodeName, message: Message, disks: &dyn StorageDisks) {
        match message {
            Message::Transaction(message) => self.transact(now, from, message, disks),
            Message::Get { digest } => self.get_asked(now, from, digest),
            Message::Bytes { digest, bytes } => self.bytes_came(now, from, digest, bytes, disks),
            Message::Challenge(challenge) => self.challenged(now, from, challenge),
            Message::Proof(answer) => self.proof_came(now, from, &answer),
            Message::Scrub { digest } => self.scrub_asked(now, from, digest),
            Message::Scrubbed { digest, healthy } => self.scrubbed(now, from, digest, healthy),
            Message::Membership(message) => {
                let mut out = Vec::new();
                self.membership.handle(now, from, &message, &mut out);
                self.take_membership(now, out);
            }
            Message::Directory(DirectoryMessage::Found { lookup: COMPARING, record, .. }) => {
                if let Some(record) = record {
                    self.compared(&record);
                }
            }
            Message::Directory(message) => {
                let mut out = Vec::new();
                self.directory.handle(now, from, &message, &mut out);
                self.take_directory(now, out, disks);
            }
            Message::Lock(message) => {
                let mut out = Vec::new();
                self.table.handle(now, from, &message, &mut out);
                self.take_locks(out);
            }
            Message::Locked(answer) => self.locked(now, from, answer),
            Message::Ask { number, key, ask } => {
                if let Some(teller) = &mut self.teller {
                    let mut told = Vec::new();
                    let ms = self.config.unix_ms_at_zero.saturating_add_unsigned(now.as_millis());
                    let request = incentives::Request { by: from, number, key, ask };
                    teller.ask(now, &request, ms, &mut told);
                    told.into_iter().for_each(|(to, message)| self.send(to, message));
                }
            }
            Message::Asked { number, done, .. } => self.asked(now, number, done),
            Message::Leaving => self.node_leaves(now, from),
            Message::Doubts(doubts) => self.doubted(from, &doubts),
            Message::Claims(claims) => self.claimed(from, &claims),
            Message::Version { file, version } => self.version_told(from, file, version),
            Message::Report(seen) => {
                if let Some((_, all)) = &mut self.policy {
                    all.insert(from, seen);
                }
            }
        }
    }

    fn take_locks(&mut self, said: Vec<locks::Output>) {
        for said in said {
            let (to, answer) = lock_answer(said);
            self.send(to, Message::Locked(answer));
        }
    }

    fn take_membership(&mut self, now: Time, said: Vec<placement::Output>) {
        for said in said {
            match said {
                placement::Output::Send { to, message } => {
                    self.send(to, Message::Membership(message));
                }
                placement::Output::Changed { node, status } => match status {
                    placement::Status::Dead => {
                        self.directory.gone(node);
                        self.node_gone(now, node);
                    }
                    placement::Status::Alive => {
                        self.directory.seen(node);
                        self.keeping.is_back(node);
                    }
                    placement::Status::Suspected => {}
                },
            }
        }
    }

    pub(crate) fn take_directory(
        &mut self,
        now: Time,
        said: Vec<DirectoryOutput>,
        disks: &dyn StorageDisks,
    ) {
        for said in said {
            match said {
                // What was put into the own directory by this node itself has no asker.
                DirectoryOutput::Send { to, .. } if to == self.name => {}
                DirectoryOutput::Send { to, message } => {
                    self.send(to, Message::Directory(message));
                }
                DirectoryOutput::Record { lookup, record, .. } => {
                    self.record_found(now, lookup, &record);
                }
                DirectoryOutput::NotFound { lookup, closest } => {
                    self.no_record(now, lookup, closest, disks);
                }
                DirectoryOutput::Published { .. } => {}
            }
        }
    }

    fn request(&mut self, now: Time, request: Request, disks: &dyn StorageDisks) {
        if self.leaving.is_some() {
            let new = match &request {
                Request::Put { number, .. } | Request::Get { number, .. } => {
                    (!self.transfers.is_under_way(*number)).then_some(*number)
                }
                Request::Lock { number, .. } | Request::Ledger { number, .. } => Some(*number),
                Request::Leave { .. } => None,
                Request::Submit(_) => Some(0),
            };
            if let Some(number) = new {
                return self.tell(number, Answer::Leaving);
            }
        }
        match request {
            Request::Leave { number } => self.leave(now, number),
            Request::Put { number, file, manifest, shards } => {
                self.put(now, number, file, manifest, shards, disks);
            }
            Request::Get { number, file } => self.get(now, number, file, disks),
            Request::Lock { number, table, shards } => self.lock(now, number, table, shards),
            Request::Ledger { number, ask } => self.want(now, number, ask),
            Request::Submit(request) => self.feed(now, node::Input::Submit(request), disks),
        }
    }

    /// Something is wanted of the ledger. Number 0: nobody waits.
    pub(crate) fn want(&mut self, now: Time, number: u64, ask: Ask) {
        let key = ledger_key(number, &ask);
        if self.asks.iter().any(|(_, other, _)| *other == key) {
            return;
        }
        self.asks.push_back((number, key, ask));
        if self.asks.len() == 1 {
            self.ask_next(now);
        }
    }

    /// Asks for what is wanted next, under a number that no request of any life of this node has had: a
    /// message of an earlier one may still be on its way, and its answer must not be taken for this one's.
    fn ask_next(&mut self, now: Time) {
        self.ask_number = self.draw_number();
        self.say_ask(now);
    }

    fn say_ask(&mut self, now: Time) {
        let Some((_, key, ask)) = self.asks.front() else {
            self.ask_again = None;
            return;
        };
        self.ask_again = Some(now + self.config.patience);
        let message = Message::Ask { number: self.ask_number, key: *key, ask: ask.clone() };
        self.send(self.config.authority, message);
    }

    fn asked(&mut self, now: Time, number: u64, done: bool) {
        if number != self.ask_number {
            return;
        }
        if let Some((number, ..)) = self.asks.pop_front()
            && number > 0
        {
            self.tell(number, Answer::Ledger { done });
        }
        self.ask_next(now);
    }

    fn wake(&mut self, now: Time, disks: &dyn StorageDisks) {
        self.feed(now, node::Input::Wake, disks);
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if self.membership.due() <= now {
            let free = self.holdings.free_bytes();
            self.membership.set_free_bytes(free);
            let mut out = Vec::new();
            self.membership.tick(now, &mut out);
            self.take_membership(now, out);
        }
        if due(self.directory.due()) {
            let mut out = Vec::new();
            self.directory.tick(now, &mut out);
            self.take_directory(now, out, disks);
        }
        if due(self.table.due()) {
            let mut out = Vec::new();
            self.table.tick(now, &mut out);
            self.take_locks(out);
        }
        if let Some((at, times)) = self.meet_at
            && at <= now
        {
            let to = self.config.meet[times as usize % self.config.meet.len()];
            let message = Message::Membership(self.membership.join());
            self.send(to, message);
            // Whom it asked first may not have known many yet, or may not have been there. And those who
            // met each other while they were cut off from all others hear of them by this alone.
            let alone = self.membership.candidates().next().is_none();
            let soon = times < MEETINGS || alone;
            let pause = if soon { self.config.patience } else { self.config.audit_every };
            self.meet_at = Some((now + pause, times.wrapping_add(1)));
        }
        if due(self.ask_again) {
            self.say_ask(now);
        }
        if due(self.report_at)
            && let Some(every) = self.config.report_every
        {
            self.report_at = Some(now + every);
            let used_bytes = self.holdings.shards.used_bytes();
            let capacity_bytes = self.config.shards.capacity_bytes;
            let seen = Observed { used_bytes, capacity_bytes, ..self.observed };
            // What it has said already it says again now and then: it may not have been heard.
            self.reports += 1;
            if self.reported != Some(seen) || self.reports.is_multiple_of(REPORTS) {
                self.reported = Some(seen);
                self.send(self.config.authority, Message::Report(seen));
            }
            self.judge_health(now);
            self.see_to_parked(now, disks);
        }
        self.operations_wake(now, disks);
        self.transfers_wake(now, disks);
        self.locks_wake(now);
        self.leaving_wake(now);
        self.sweep_wake(now);
        self.holder_wake(now);
        self.keeper_wake(now);
    }

    /// The authority looks at what all have reported.
    fn judge_health(&mut self, now: Time) {
        if self.policy.is_none() {
            return;
        }
        let there = self.membership.candidates().count() as u32 + 1;
        let known = self.membership.members().count() as u32 + 1;
        let reputations: Vec<u64> = self
            .membership
            .members()
            .map(|member| u64::from(member.reputation.parts_per_million()))
            .collect();
        let Some((policy, all)) = &mut self.policy else { return };
        let sum = |pick: fn(&Observed) -> u64| all.values().map(pick).sum::<u64>();
        let mean = reputations.iter().sum::<u64>().checked_div(reputations.len() as u64);
        let seen = erasure::Observation {
            proofs_ended: sum(|seen| seen.proofs_ended),
            proofs_passed: sum(|seen| seen.proofs_passed),
            shards_checked: sum(|seen| seen.shards_checked),
            shards_corrupt: sum(|seen| seen.shards_corrupt),
            // Neutral is no evidence: nobody here has judged anybody.
            reputation: mean.filter(|mean| *mean != 500_000).map(|mean| {
                base::Ratio::per_million(u32::try_from(mean).expect("a mean of ratios is one"))
            }),
            nodes: known,
            nodes_left: known - there,
            used_bytes: sum(|seen| seen.used_bytes),
            capacity_bytes: sum(|seen| seen.capacity_bytes),
        };
        self.advice = Some(policy.observe(now, &seen, there));
    }

    /// When [`Input::Wake`] is due, at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        [
            self.transactions.next_wake(),
            Some(self.membership.due()),
            self.directory.due(),
            self.table.due(),
            self.meet_at.map(|(at, _)| at),
            self.ask_again,
            self.report_at,
            self.operations.due(),
            self.transfers.due(),
            self.locking.due(),
            self.leaving.as_ref().and_then(Leaving::due),
            self.sweep.due(),
            self.holdings.due(),
            self.keeping.due(),
            self.teller.as_ref().and_then(Teller::next_wake),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Where it is.
    #[must_use]
    pub fn region(&self) -> Region {
        self.config.region
    }

    /// Its transactions.
    #[must_use]
    pub fn transactions(&self) -> &Node {
        &self.transactions
    }

    /// The ledger, if this node keeps it and has recovered it.
    #[must_use]
    pub fn bank(&self) -> Option<&Bank> {
        self.teller.as_ref().and_then(Teller::bank)
    }

    /// How many records of the ledger's log did not follow when it was recovered: 0, unless it is damaged.
    #[must_use]
    pub fn ledger_anomalies(&self) -> u64 {
        self.teller.as_ref().map_or(0, |teller| teller.anomalies)
    }

    /// Its locks.
    #[must_use]
    pub fn locks(&self) -> &locks::LockTable {
        &self.table
    }

    /// Who it thinks is there.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Its store.
    #[must_use]
    pub fn shards(&self) -> &store::ShardStore {
        &self.holdings.shards
    }

    /// What it has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let repair = self.keeping.repair_stats();
        Stats {
            repaired: repair.repaired,
            gave_up: repair.gave_up,
            repair_bytes: repair.fetched_bytes + repair.stored_bytes,
            repair_bytes_min: repair.minimum_bytes,
            ..self.stats
        }
    }

    /// What it has seen.
    #[must_use]
    pub fn observed(&self) -> Observed {
        self.observed
    }

    /// Of the authority: how well the network is, and with which scheme new files should be stored.
    #[must_use]
    pub fn health(&self) -> Option<(erasure::Tier, erasure::Scheme)> {
        let (policy, _) = self.policy.as_ref()?;
        Some((policy.tier()?, policy.scheme()?))
    }

    /// What is under way, in words; empty if nothing is. A step that waits for an operator is not.
    #[must_use]
    pub fn unrest(&self, now: Time) -> Vec<&'static str> {
        let engine = self.transactions.coordinator();
        let host = self.transactions.participant();
        let waits = |saga: &saga::Saga| saga.steps().any(saga::StepState::is_parked);
        let parts = [
            ("its logs", engine.is_none() || host.is_none()),
            (
                "operations",
                engine.is_some_and(|engine| {
                    let parked = engine.active_sagas().filter(|saga| waits(saga)).count();
                    // Decided, and all that lacks is that somebody who is gone says so.
                    let owed = engine.active_transactions().filter(|transaction| {
                        let members = transaction.members();
                        transaction.decision().is_some()
                            && members.iter().any(|member| self.is_dead(member.node))
                    });
                    engine.active() > parked + owed.count()
                }),
            ),
            ("promises", host.is_some_and(|host| host.participant().prepared().next().is_some())),
            ("cells", host.is_some_and(|host| host.locks().held(now).next().is_some())),
            ("operations to be asked for again", self.operations.waits()),
            ("transfers", !self.transfers.is_empty()),
            ("lockings", !self.locking.is_empty()),
            ("requests to the ledger", !self.asks.is_empty()),
            ("locks", self.table.held(now).next().is_some()),
            ("the ledger", !self.teller.as_ref().is_none_or(Teller::is_settled)),
        ];
        let parts = parts.into_iter().chain(self.keeping.unrest());
        parts.filter(|(_, is)| *is).map(|(what, _)| what).collect()
    }

    /// Whether nothing is under way: no operation, no transfer, no repair, no lock that somebody has.
    #[must_use]
    pub fn is_at_rest(&self, now: Time) -> bool {
        self.unrest(now).is_empty()
    }

    /// Whom this node would ask first, by its router: in which region that node is.
    #[must_use]
    pub fn nearest(&self) -> Option<Region> {
        let router = placement::Router::new(placement::RouterConfig::default(), self.config.region);
        let latencies =
            placement::PeerLatency::new(placement::LatencyConfig::default(), &self.config.network);
        let candidates: Vec<_> = self.membership.candidates().collect();
        router.rank(&candidates, &latencies).first().map(|ranked| ranked.region)
    }

    /// The record of a file that is current here.
    #[must_use]
    pub fn record(&self, file: Digest) -> Option<&crate::FileRecord> {
        self.holdings.current(file)
    }

    /// Every file of which this node has a current record.
    pub fn records(&self) -> impl Iterator<Item = &crate::FileRecord> {
        self.holdings.all_current()
    }
}
