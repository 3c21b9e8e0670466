//! The node: what it is told, and to which of its parts that goes.

mod asks;
mod face;
mod health;
mod views;

pub use self::face::{Answer, Input, Output, Request, ShardDone, Stats, StorageDisks};
use crate::fetches::Fetches;
use crate::holder::Holdings;
pub use crate::keeper::EncodingConfig;
use crate::keeper::{COMPARING, Keeping, is_sought};
use crate::leaving::Leaving;
use crate::ledger::Teller;
use crate::locker::Locking;
use crate::message::{Message, Observed, lock_answer};
use crate::operation::Operations;
use crate::orphans::Orphans;
use crate::routing::Routing;
use crate::sweep::Sweep;
use crate::traffic::Traffic;
use crate::transfer::Transfers;
use base::prng::Key;
use base::{BootCount, NodeName, Time, Token};
use erasure::{Advice, SchemePolicy};
use incentives::{Ask, Bank};
use node::Node;
use placement::{
    AdaptiveConfig, ConnectionConfig, Directory, DirectoryMessage, DirectoryOutput, LookupConfig,
    Membership, MembershipConfig, Region,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use store::{Digest, Op, StoreConfig};
use wal_core::{EventType, OpenMode};

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
    /// How it repairs what it keeps the records of, and how many shards it may move.
    pub repair: repair::Config,
    /// How it looks whether what it keeps the records of lies where it should.
    pub rebalance: placement::RebalanceConfig,
    /// How it asks others for proofs.
    pub audit: repair::AuditConfig,
    /// How the network's health is judged, and which schemes there are for files. All of it by the authority.
    pub schemes: erasure::Config,
    /// How files come to have the scheme that the authority advises.
    pub encodings: EncodingConfig,
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
    /// How many requests for bytes there are to one peer at once, and how long an unused connection is kept. How
    /// long one may be used is [`patience`](Self::patience).
    pub connections: ConnectionConfig,
    /// How it learns whom to ask first.
    pub routing: AdaptiveConfig,
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
    pub(crate) fetches: Fetches,
    pub(crate) traffic: Traffic,
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
    pub(crate) orphans: Orphans,
    /// Whether the participant has been seen to run.
    opened: bool,
    /// What is wanted done. Between two inputs it is empty: it is the caller's own, so that no node keeps room
    /// for what another one could use.
    wanted: Vec<Output>,
}

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
            let policy = SchemePolicy::new(config.schemes.clone());
            (policy.expect("whoever configures it has seen that it goes together"), BTreeMap::new())
        });
        let mut node = StorageNode {
            keeping: Keeping::new(&config, now),
            routing: Routing::new(&config),
            fetches: Fetches::new(&config),
            traffic: Traffic::new(&config, now),
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
            orphans: Orphans::new(now, &config),
            opened: false,
            wanted: std::mem::take(out),
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
        std::mem::swap(&mut self.wanted, out);
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
                        self.wanted.push(Output::Ledger(ops));
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
            self.hold_promises(now);
        }
        self.settle_records(now);
        self.remove_unneeded();
        self.tell_of_kept();
        self.resume_uploads(now, disks);
        if self.keeping.undoes {
            self.see_to_undoing(now, false, disks);
        }
        self.plan_repairs(now, disks);
        if let Some(teller) = &mut self.teller {
            let mut ops = Vec::new();
            let unix_ms = self.config.unix_ms_at_zero.saturating_add_unsigned(now.as_millis());
            teller.settle(now, unix_ms, &mut ops);
            if !ops.is_empty() {
                self.wanted.push(Output::Ledger(ops));
            }
            let died = teller.died.take();
            self.wanted.extend(died.map(|reason| Output::LedgerDied { reason }));
        }
        std::mem::swap(&mut self.wanted, out);
    }

    pub(crate) fn send(&mut self, to: NodeName, message: Message) {
        self.wanted.push(Output::Send { to, message });
    }

    pub(crate) fn tell(&mut self, number: u64, answer: Answer) {
        self.wanted.push(Output::Tell { number, answer });
    }

    pub(crate) fn shard_ops(&mut self, ops: Vec<Op>) {
        self.wanted.extend(ops.into_iter().map(Output::Shards));
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
                node::Output::Appended { slot, event, sequence } => {
                    self.keeping.undoes |= event == EventType::SAGA_COMPENSATION_START;
                    let appended = node::Output::Appended { slot, event, sequence };
                    self.wanted.push(Output::Transactions(appended));
                }
                other => self.wanted.push(Output::Transactions(other)),
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
            Message::Get { digest, number } => self.get_asked(now, from, digest, number),
            Message::Bytes { digest, bytes, number } => {
                self.fetched(now, from, (digest, number), bytes, disks);
            }
            Message::Challenge(challenge) => self.challenged(now, from, challenge),
            Message::Proof(answer) => self.proof_came(now, from, &answer),
            Message::Scrub { digest } => self.scrub_asked(now, from, digest),
            Message::Scrubbed { digest, healthy } => self.scrubbed(now, from, digest, healthy),
            Message::Membership(message) => {
                let mut out = Vec::new();
                self.membership.handle(now, from, &message, &mut out);
                self.take_membership(now, out, disks);
            }
            Message::Directory(DirectoryMessage::Found { lookup: COMPARING, record, .. }) => {
                if let Some(record) = record {
                    self.compared(now, from, &record);
                }
            }
            Message::Directory(DirectoryMessage::Found { lookup, record, .. })
                if is_sought(lookup) =>
            {
                self.sought(now, from, lookup, record.as_deref());
            }
            Message::Directory(DirectoryMessage::Find { lookup, key })
                if is_sought(lookup) && !self.can_say(now, Digest(key)) => {}
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
            Message::Locked(answer) => self.locked(now, from, answer, disks),
            Message::Read { number, shard } => self.read_guarded(now, from, number, shard),
            Message::Value { number, shard, value } => {
                self.value_read(now, from, (number, shard, value), disks);
            }
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
            Message::Doubts(doubts) => self.doubted(now, from, &doubts),
            Message::Claims(claims) => self.claimed(from, &claims),
            Message::Version { file, has } => self.version_told(now, from, file, has),
            Message::Astray { file, than, has } => {
                self.astray_told(now, from, file, (than, has));
            }
            Message::Orphan { tx, of, by, says } => self.orphan_told(now, from, (tx, of, by), says),
            Message::Moved(transfers) => self.moved_reported(now, from, &transfers),
            Message::Report(seen) => {
                if let Some((_, all)) = &mut self.policy {
                    all.insert(from, seen);
                }
                self.advise(from);
            }
            Message::Advice(scheme) => self.advised(now, from, scheme),
        }
    }

    fn take_locks(&mut self, said: Vec<locks::Output>) {
        for said in said {
            let (to, answer) = lock_answer(said);
            self.send(to, Message::Locked(answer));
        }
    }

    fn take_membership(
        &mut self,
        now: Time,
        said: Vec<placement::Output>,
        disks: &dyn StorageDisks,
    ) {
        for said in said {
            match said {
                placement::Output::Send { to, message } => {
                    self.send(to, Message::Membership(message));
                }
                placement::Output::Changed { node, status } => {
                    self.sees_otherwise(now, node, status);
                    match status {
                        placement::Status::Dead => {
                            self.directory.gone(node);
                            self.fetches_gone(now, node, disks);
                            self.node_gone(now, node);
                        }
                        placement::Status::Alive => {
                            self.directory.seen(node);
                            self.keeping.is_back(node);
                            self.node_comes(node);
                        }
                        placement::Status::Suspected => {}
                    }
                }
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

    fn wake(&mut self, now: Time, disks: &dyn StorageDisks) {
        self.feed(now, node::Input::Wake, disks);
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if self.membership.due() <= now {
            let free = self.holdings.free_bytes();
            self.membership.set_free_bytes(free);
            let mut out = Vec::new();
            self.membership.tick(now, &mut out);
            self.take_membership(now, out, disks);
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
            self.report();
            self.judge_health(now);
            self.see_to_undoing(now, true, disks);
        }
        self.operations_wake(now, disks);
        self.fetches_wake(now, disks);
        self.traffic_wake(now);
        self.transfers_wake(now, disks);
        self.locks_wake(now);
        self.leaving_wake(now);
        self.sweep_wake(now);
        self.holder_wake(now);
        self.keeper_wake(now);
        self.orphans_wake(now, disks);
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
            self.fetches.due(),
            self.traffic.due(),
            self.transfers.due(),
            self.locking.due(),
            self.leaving.as_ref().and_then(Leaving::due),
            self.sweep.due(),
            self.holdings.due(),
            self.keeping.due(),
            self.orphans.due(),
            self.teller.as_ref().and_then(Teller::next_wake),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
