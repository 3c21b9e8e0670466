//! The machines that are checked, as they are: each is built from its log, told one thing, and asked
//! what it says. They are pure, so what one says to one thing is asked once and kept.

use crate::packed::{
    CoordinatorRecord, FromParticipant, Kind, PackedLog, ParticipantRecord, ToParticipant,
    index_of, node, shard, tx_key,
};
use base::{BootCount, Epoch, Sequence, StoreId};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use twopc::coordinator::{Decision, Effect, Input};
use twopc::participant::{PromiseKey, Resources, Ruling};
use twopc::{Message, Participant, Peer, PeerVerdict, Transaction, Verdict, Vote};

/// Whether a branch could be done: nobody else's promise holds the participant's one lock, and the
/// participant does not refuse for reasons of its own.
struct Allowed {
    possible: bool,
    reads: bool,
}

impl Resources for Allowed {
    fn can_prepare(&self, _: &PromiseKey, _: &[u8]) -> bool {
        self.possible
    }

    fn is_read_only(&self, _: &PromiseKey, _: &[u8]) -> bool {
        self.reads
    }
}

/// What a participant's own data make of PREPARE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mood {
    Refuses,
    Writes,
    Reads,
}

/// One thing that a participant hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    Coordinator(ToParticipant),
    PeerInquiry { from: usize },
    PeerAnswer { from: usize, verdict: u8 },
}

/// What the participant makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub refused: bool,
    /// What it appends, in order.
    pub appended: [Option<ParticipantRecord>; 2],
    /// Its answer, and the length of the log that must be durable first.
    pub reply: Option<(FromParticipant, u8)>,
}

/// What a participant owes for a promise, and after which record; whether it waits for an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    pub asks: Option<u8>,
    /// How many promises of its own wait, of all transactions.
    pub waiting: u8,
}

/// A transaction, seen by its coordinator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub exists: bool,
    pub ended: bool,
    /// True for a commit.
    pub decision: Option<bool>,
    pub evidence: u8,
    /// To whom, a bit each.
    pub prepare: u8,
    pub commit: u8,
    pub commit_after: u8,
    pub abort: u8,
    /// What the client is told, and after which record.
    pub tell: Option<(Decision, u8)>,
    pub settles: Option<Kind>,
    pub times_out: Option<Kind>,
    pub gives_up: Option<Kind>,
    pub restarts: Option<Kind>,
    /// Whose vote would be worth a record: yes, then no, then read-only.
    pub votes: [u8; 3],
    /// Who has voted read-only.
    pub read_only: u8,
}

type SaidKey = (PackedLog, u8, usize, usize, Heard, Mood);
type ViewKey = (PackedLog, u8, usize, u8);

/// What was asked before. Each thread of a checker has its own.
#[derive(Default)]
struct Kept {
    said: BTreeMap<SaidKey, Said>,
    waits: BTreeMap<(PackedLog, u8, usize, usize), Waits>,
    views: BTreeMap<ViewKey, View>,
}

thread_local! {
    /// By the number of participants, which the lists of peers depend on.
    static KEPT: RefCell<[Kept; 4]> = RefCell::default();
}

/// Asks once: what is kept under a key is found, or made by `ask` without anything being borrowed.
fn once<K: Ord, V: Copy>(
    participants: usize,
    of: impl Fn(&mut Kept) -> &mut BTreeMap<K, V>,
    key: K,
    ask: impl FnOnce() -> V,
) -> V {
    let found = KEPT.with_borrow_mut(|kept| of(&mut kept[participants]).get(&key).copied());
    found.unwrap_or_else(|| {
        let value = ask();
        KEPT.with_borrow_mut(|kept| of(&mut kept[participants]).insert(key, value));
        value
    })
}

pub fn peers(participants: usize) -> Arc<[Peer]> {
    let peer = |n: usize| Peer {
        shard: shard(n),
        node: node(n),
        store: StoreId(100 + n as u64),
        boot: BootCount(1),
    };
    (0..participants).map(peer).collect()
}

fn participant(participants: usize, name: usize, boot: u8, log: PackedLog) -> Participant {
    let (store, boot) = (StoreId(100 + name as u64), BootCount(u32::from(boot)));
    let mut machine = Participant::new(node(name), store, boot);
    let peers = peers(participants);
    for (at, record) in (1..).zip(log.records::<ParticipantRecord>()) {
        let applied = machine.apply(Sequence(at), &record.event(name, &peers));
        applied.expect("a log holds only what its machine decided");
    }
    machine
}

/// What a participant says to one thing that it hears. `mood`: what its own data make of PREPARE, if no
/// other promise is in the way.
pub fn hear(
    participants: usize,
    (name, boot, log): (usize, u8, PackedLog),
    transaction: usize,
    heard: Heard,
    mood: Mood,
) -> Said {
    let key = (log, boot, name, transaction, heard, mood);
    once(
        participants,
        |kept| &mut kept.said,
        key,
        || {
            let mut machine = participant(participants, name, boot, log);
            let (key, list) = (tx_key(transaction), peers(participants));
            let (from, message) = match heard {
                Heard::Coordinator(message) => (
                    key.coordinator_node(),
                    to_participant(participants, name, transaction, message),
                ),
                Heard::PeerInquiry { from } => {
                    let peer = Box::new(list[name]);
                    (node(from), Message::PeerInquiry { key, shard: shard(from), peer })
                }
                Heard::PeerAnswer { from, verdict } => {
                    let verdict = [
                        PeerVerdict::Committed,
                        PeerVerdict::Aborted,
                        PeerVerdict::Prepared,
                        PeerVerdict::Unknown,
                    ][usize::from(verdict)];
                    (node(from), Message::PeerAnswer { key, shard: shard(name), verdict })
                }
            };
            let free = machine.prepared().next().is_none();
            let (possible, reads) = (mood != Mood::Refuses && free, mood == Mood::Reads);
            let ruling = machine.rule(&message, &Allowed { possible, reads });
            let Ruling::Heard { seen, fact, mut found } = ruling else {
                return Said { refused: true, appended: [None; 2], reply: None };
            };
            let mut appended = [None; 2];
            let mut at = u64::from(log.len());
            if let Some(epoch) = seen {
                let event = twopc::participant::Event::CoordinatorSeen {
                    coordinator: key.coordinator,
                    epoch,
                };
                at += 1;
                machine.apply(Sequence(at), &event).expect("an epoch contradicts nothing");
                appended[0] = Some(ParticipantRecord::of(&event));
            }
            if let Some(event) = fact {
                at += 1;
                appended[1] = Some(ParticipantRecord::of(&event));
                let applied = machine.apply_at(&mut found, Sequence(at), event);
                applied.expect("a participant decides only what it may apply");
            }
            let reply = machine.reply_at(&found, from, &message);
            let reply = reply.map(|reply| (from_participant(&reply.message), reply.after.0 as u8));
            Said { refused: false, appended, reply }
        },
    )
}

/// What a participant owes for its promise of a transaction.
pub fn waits(
    participants: usize,
    (name, boot, log): (usize, u8, PackedLog),
    transaction: usize,
) -> Waits {
    let key = (log, boot, name, transaction);
    once(
        participants,
        |kept| &mut kept.waits,
        key,
        || {
            let machine = participant(participants, name, boot, log);
            let promise = PromiseKey { tx: tx_key(transaction), shard: shard(name) };
            let mut owed = Vec::new();
            machine.pending(&promise, true, &mut owed);
            let mut asks = None;
            if !owed.is_empty() {
                let asked: Vec<_> =
                    owed.iter().map(|reply| from_participant(&reply.message)).collect();
                let others = (0..participants).filter(|peer| *peer != name);
                let inquiries = others.map(|peer| FromParticipant::PeerInquiry { peer });
                let expected: Vec<_> =
                    std::iter::once(FromParticipant::Inquiry).chain(inquiries).collect();
                assert_eq!(asked, expected, "a promise asks its coordinator and every peer");
                assert!(owed.iter().all(|reply| reply.after == owed[0].after));
                asks = Some(owed[0].after.0 as u8);
            }
            Waits { asks, waiting: machine.waiting().count() as u8 }
        },
    )
}

fn to_participant(
    participants: usize,
    name: usize,
    transaction: usize,
    message: ToParticipant,
) -> Message {
    let (key, shard) = (tx_key(transaction), shard(name));
    let epoch = Epoch::new(u32::from(message.epoch()));
    let answer = |verdict| Message::Answer { key, epoch, shard, verdict };
    match message {
        ToParticipant::Prepare => {
            let (peers, work) = (peers(participants), [].into());
            Message::Prepare { key, epoch, shard, peers, work, one_phase: false }
        }
        ToParticipant::Commit { .. } => {
            let store = Some(StoreId(100 + name as u64));
            Message::Commit { key, epoch, shard, store }
        }
        ToParticipant::Abort { .. } => Message::Abort { key, epoch, shard },
        ToParticipant::Committed { .. } => answer(Verdict::Committed),
        ToParticipant::Aborted { .. } => answer(Verdict::Aborted),
        ToParticipant::Pending { .. } => answer(Verdict::Pending),
    }
}

fn from_participant(message: &Message) -> FromParticipant {
    match message {
        Message::Vote { vote: Vote::Commit, .. } => FromParticipant::VotedYes,
        Message::Vote { vote: Vote::Abort, .. } => FromParticipant::VotedNo,
        Message::Vote { vote: Vote::ReadOnly, .. } => FromParticipant::VotedReadOnly,
        Message::Ack { heuristic, .. } => FromParticipant::Ack { heuristic: heuristic.is_some() },
        Message::Inquiry { .. } => FromParticipant::Inquiry,
        Message::PeerInquiry { peer, .. } => {
            FromParticipant::PeerInquiry { peer: index_of(peer.shard) }
        }
        Message::PeerAnswer { shard, verdict, .. } => {
            let peer = index_of(*shard);
            let verdict = match verdict {
                PeerVerdict::Committed => 0,
                PeerVerdict::Aborted => 1,
                PeerVerdict::Prepared => 2,
                PeerVerdict::Unknown => 3,
                PeerVerdict::Finished => unreachable!("no coordinator tells what is finished here"),
            };
            FromParticipant::PeerAnswer { peer, verdict }
        }
        Message::Prepare { .. }
        | Message::Resolve { .. }
        | Message::Noted { .. }
        | Message::Commit { .. }
        | Message::Abort { .. }
        | Message::Answer { .. } => unreachable!("participants do not send these"),
    }
}

/// A transaction as its coordinator's log and the acknowledgements say.
pub fn view(
    participants: usize,
    log: PackedLog,
    transaction: usize,
    acknowledged: u8,
    epoch: u8,
) -> View {
    let key = (log, epoch, transaction, acknowledged);
    once(
        participants,
        |kept| &mut kept.views,
        key,
        || {
            let list = peers(participants);
            let mut machine: Option<Transaction> = None;
            for (at, record) in (1..).zip(log.records::<CoordinatorRecord>()) {
                if record.transaction != transaction {
                    continue;
                }
                let event = record.event(&list);
                match &mut machine {
                    None => {
                        let id = tx_key(transaction).id;
                        let created = Transaction::created(id, Sequence(at), &event);
                        machine = Some(created.expect("an admission begins with a creation"));
                    }
                    Some(machine) => {
                        let applied = machine.apply(Sequence(at), &event);
                        applied.expect("a log holds only what its machine decided");
                    }
                }
            }
            let Some(mut machine) = machine else { return View::default() };
            for peer in (0..participants).filter(|peer| acknowledged >> peer & 1 == 1) {
                machine.acknowledge(shard(peer));
            }
            let kind = |event: Option<twopc::coordinator::Event>| {
                event.map(|event| CoordinatorRecord::of(transaction, &event).kind)
            };
            if let Some(twopc::coordinator::Event::CommitStart { members }) = machine.settle() {
                let named = members.iter().map(|member| (member.shard, Vote::Commit));
                let voted = machine.votes().filter(|(_, vote)| *vote != Vote::ReadOnly);
                assert!(named.eq(voted), "a decision names everybody who has to be told");
            }
            let decision = machine.decision().map(|decision| decision == Decision::Commit);
            let epoch = Epoch::new(u32::from(epoch));
            let mut view = View {
                exists: true,
                ended: machine.ended().is_some(),
                decision,
                evidence: machine.evidence().0 as u8,
                settles: kind(machine.settle()),
                times_out: kind(machine.decide(&Input::TimedOut)),
                gives_up: kind(machine.decide(&Input::AbortsSent)),
                restarts: kind(machine.decide(&Input::Restarted { epoch })),
                ..View::default()
            };
            for peer in 0..participants {
                let all = [Vote::Commit, Vote::Abort, Vote::ReadOnly];
                for (votes, vote) in view.votes.iter_mut().zip(all) {
                    let worth = machine.decide(&Input::Vote { shard: shard(peer), vote });
                    *votes |= u8::from(worth.is_some()) << peer;
                }
            }
            for (shard, _) in machine.votes().filter(|(_, vote)| *vote == Vote::ReadOnly) {
                view.read_only |= 1 << index_of(shard);
            }
            let mut owed = Vec::new();
            machine.pending(&mut owed);
            let bit = |member: u32| 1 << index_of(machine.members()[member as usize].shard);
            for effect in owed {
                match effect {
                    Effect::Prepare { member } => view.prepare |= bit(member),
                    Effect::Delegate { .. } => unreachable!("there are two phases here"),
                    Effect::Commit { member, after } => {
                        view.commit |= bit(member);
                        view.commit_after = after.0 as u8;
                    }
                    Effect::Abort { member } => view.abort |= bit(member),
                    Effect::Tell { decision, after } => {
                        view.tell = Some((decision, after.0 as u8));
                    }
                }
            }
            view
        },
    )
}
