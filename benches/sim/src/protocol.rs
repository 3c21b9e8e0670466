//! What the peers simulate: two-phase commit with its state in memory, as small as it can be. It has
//! no log, no locks and no judges; ours runs the nodes of production with all of these.

use base::prng::Key;

/// What is run in one world.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub nodes: u32,
    pub coordinators: u32,
    pub transactions: u32,
    pub participants: u32,
    /// The n-th coordinator loses its state `first_crash_ms + every_crash_ms * n` after the start.
    pub crashes: u32,
    pub first_crash_ms: u64,
    pub every_crash_ms: u64,
}

/// 600 nodes, 10,000 transactions at once, 20 crashes: the bars' workload.
pub const LARGE: Workload = Workload {
    nodes: 600,
    coordinators: 40,
    transactions: 10_000,
    participants: 8,
    crashes: 20,
    first_crash_ms: 10,
    every_crash_ms: 10,
};

/// 9 nodes, one transaction, one crash in the middle of it.
pub const TINY: Workload = Workload {
    nodes: 9,
    coordinators: 1,
    transactions: 1,
    participants: 8,
    crashes: 1,
    first_crash_ms: 12,
    every_crash_ms: 0,
};

/// Nodes that start, and nearly nothing else.
pub const START: Workload = Workload { transactions: 1, crashes: 0, ..LARGE };

/// A crashed coordinator is down for so long.
pub const DOWN_MS: u64 = 50;
/// What is unanswered is sent again after this long.
pub const AGAIN_MS: u64 = 25;
/// The shortest and the longest way of a message.
pub const LATENCY_NS: (u64, u64) = (1_000_000, 10_000_000);
/// Of so many messages one is lost.
pub const LOST_OF: u64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Prepare,
    Yes,
    No,
    Commit,
    Abort,
    Done,
}

#[derive(Clone, Copy, Debug)]
pub struct Message {
    pub from: u32,
    pub to: u32,
    pub transaction: u32,
    pub kind: Kind,
}

/// The chance of one world: keyed, as ours is.
#[derive(Clone, Copy)]
pub struct Chance {
    key: Key,
}

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance { key: Key::root(seed).child("peer") }
    }

    /// How long the n-th message takes; nothing if it is lost.
    pub fn way(&self, nth: u64) -> Option<u64> {
        let draw = self.key.draw(0, nth);
        let lost = draw.nth(1).below(LOST_OF) == 0;
        (!lost).then(|| draw.between(LATENCY_NS.0, LATENCY_NS.1))
    }

    /// Who takes part in a transaction.
    fn participants(&self, workload: &Workload, transaction: u32) -> Vec<u32> {
        let own = transaction % workload.coordinators;
        let mut stream = self.key.keyed(u64::from(transaction)).stream();
        let others = stream.distinct(workload.participants, workload.nodes - 1);
        others.into_iter().map(|node| if node >= own { node + 1 } else { node }).collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Asking,
    Committing,
    Over,
}

struct Transaction {
    id: u32,
    state: State,
    participants: Vec<u32>,
    /// Whose answer to the last question is there.
    answered: u32,
}

impl Transaction {
    fn is_answered(&self) -> bool {
        self.answered.count_ones() as usize == self.participants.len()
    }
}

/// One coordinator. Its decisions survive a crash, and what was undecided is aborted then.
pub struct Coordinator {
    node: u32,
    coordinators: u32,
    transactions: Vec<Transaction>,
    unfinished: usize,
}

impl Coordinator {
    pub fn new(node: u32, workload: &Workload, chance: &Chance) -> Coordinator {
        let own = (node..workload.transactions).step_by(workload.coordinators as usize);
        let transactions: Vec<Transaction> = own
            .map(|id| Transaction {
                id,
                state: State::Asking,
                participants: chance.participants(workload, id),
                answered: 0,
            })
            .collect();
        let unfinished = transactions.len();
        Coordinator { node, coordinators: workload.coordinators, transactions, unfinished }
    }

    pub fn is_done(&self) -> bool {
        self.unfinished == 0
    }

    /// Whatever is unanswered, at the start and from time to time.
    pub fn ask(&self, out: &mut Vec<Message>) {
        for transaction in &self.transactions {
            let kind = match transaction.state {
                State::Asking => Kind::Prepare,
                State::Committing => Kind::Commit,
                State::Over => continue,
            };
            self.tell(transaction, kind, !transaction.answered, out);
        }
    }

    fn tell(&self, transaction: &Transaction, kind: Kind, whom: u32, out: &mut Vec<Message>) {
        for (at, &to) in transaction.participants.iter().enumerate() {
            if whom >> at & 1 == 1 {
                out.push(Message { from: self.node, to, transaction: transaction.id, kind });
            }
        }
    }

    pub fn restarted(&mut self, out: &mut Vec<Message>) {
        for at in 0..self.transactions.len() {
            if self.transactions[at].state == State::Asking {
                self.transactions[at].state = State::Over;
                self.unfinished -= 1;
                self.tell(&self.transactions[at], Kind::Abort, u32::MAX, out);
            }
        }
        self.ask(out);
    }

    pub fn receive(&mut self, message: Message, out: &mut Vec<Message>) {
        let at = ((message.transaction - self.node) / self.coordinators) as usize;
        let transaction = &mut self.transactions[at];
        let expected = match message.kind {
            Kind::Yes => State::Asking,
            Kind::Done => State::Committing,
            _ => return,
        };
        let who = transaction.participants.iter().position(|&node| node == message.from);
        let Some(who) = who.filter(|_| transaction.state == expected) else { return };
        transaction.answered |= 1 << who;
        if !transaction.is_answered() {
            return;
        }
        transaction.answered = 0;
        if expected == State::Asking {
            transaction.state = State::Committing;
            self.tell(&self.transactions[at], Kind::Commit, u32::MAX, out);
        } else {
            transaction.state = State::Over;
            self.unfinished -= 1;
        }
    }
}

/// One participant: it always agrees, unless it has been told to abort.
#[derive(Default)]
pub struct Participant {
    ends: std::collections::BTreeMap<u32, Kind>,
}

impl Participant {
    pub fn receive(&mut self, message: Message) -> Option<Message> {
        let kind = match message.kind {
            Kind::Prepare => match self.ends.entry(message.transaction).or_insert(Kind::Yes) {
                Kind::Abort => Kind::No,
                _ => Kind::Yes,
            },
            Kind::Commit => {
                self.ends.insert(message.transaction, Kind::Commit);
                Kind::Done
            }
            Kind::Abort => {
                self.ends.insert(message.transaction, Kind::Abort);
                return None;
            }
            _ => return None,
        };
        Some(Message { from: message.to, to: message.from, kind, ..message })
    }
}

/// Both sides of one node.
pub struct Node {
    pub coordinator: Option<Coordinator>,
    pub participant: Participant,
}

impl Node {
    pub fn new(node: u32, workload: &Workload, chance: &Chance) -> Node {
        let coordinates = node < workload.coordinators;
        Node {
            coordinator: coordinates.then(|| Coordinator::new(node, workload, chance)),
            participant: Participant::default(),
        }
    }

    pub fn receive(&mut self, message: Message, out: &mut Vec<Message>) {
        match message.kind {
            Kind::Prepare | Kind::Commit | Kind::Abort => {
                out.extend(self.participant.receive(message));
            }
            Kind::Yes | Kind::No | Kind::Done => {
                if let Some(coordinator) = &mut self.coordinator {
                    coordinator.receive(message, out);
                }
            }
        }
    }
}
