//! Clients: they ask, ask again, and are told; some of them are busy with the ledger.

use super::agenda::Event;
use super::judging::{all_right, has_right};
use super::{Phase, World};
use crate::recording::Happening;
use crate::storage::judge::Done;
use crate::storage::plan::Kind;
use crate::storage::workload::{self, Client, Want};
use base::{NodeName, Time};
use erasure::Codec;
use incentives::{Ask, Units};
use network::{Answer, Input, StorageNode};
use node::Outcome;
use std::time::Duration;

/// A client that hears nothing asks again after this long.
const CLIENT_PATIENCE: Duration = Duration::from_secs(20);
/// A client that was told to, or whose node is not there, asks again after this long.
const CLIENT_PAUSE: Duration = Duration::from_secs(1);
/// Between two stages of what is asked of the ledger.
pub(super) const LEDGER_PAUSE: Duration = Duration::from_secs(120);
/// Nodes below this try to spend what they have three times.
const SPENDERS: u32 = 9;

impl World<'_> {
    pub(super) fn start_clients(&mut self, at: Time) {
        while self.next_client < self.clients.len() && self.open < self.scenario.storage.in_flight {
            self.next_client += 1;
            // Those who come later are not drawn: they follow from what has happened.
            let number = self.next_client as u32;
            if number > self.drawn_clients || self.plan.has(Kind::Client, number) {
                self.open += 1;
                self.ask_at(at, u64::from(number));
            }
        }
    }

    /// A client asks then, and not at the time that was named before.
    fn ask_at(&mut self, at: Time, number: u64) {
        let at = at.max(self.now);
        self.clients[number as usize - 1].asks = at;
        self.schedule(at, 0, Event::Client(number));
    }

    pub(super) fn ask(&mut self, number: u64) {
        let at = number as usize - 1;
        if self.clients[at].answered || self.clients[at].asks != self.now {
            return;
        }
        let mut node = self.clients[at].node;
        while self.machines[node as usize].gone {
            // Its node has left for good: it goes to the next.
            node = (node + 1) % self.machines.len() as u32;
            self.clients[at].node = node;
        }
        let client = self.clients[at].clone();
        let process = self.machines[node as usize].process.as_ref();
        let stalled = self.machines[node as usize].stalled > self.now;
        let ready = process.filter(|process| process.node.transactions().is_ready() && !stalled);
        let Some(id) = ready.map(|process| process.id) else {
            return self.ask_at(self.now + CLIENT_PAUSE, number);
        };
        let request = workload::request(self.scenario, &self.root, number, &client, &self.files);
        let leaves = &self.scenario.faults.clients_leave.0;
        let draw = self.root.child("client.leaves").draw(number, 0);
        if matches!(client.want, Want::Put(_)) && leaves.holds(&draw) {
            // Whatever comes of it, nobody waits for it.
            self.note(Some(node), || {
                format!("client {number} asks n{node} for {} and leaves", client.want)
            });
            self.feed(node, id, Input::Request(request));
            self.totals.faults.entry("clients left").and_modify(|n| *n += 1).or_insert(1);
            return self.answered(number, "nobody waits");
        }
        self.clients[at].asked.get_or_insert(self.now);
        self.ask_at(self.now + CLIENT_PATIENCE, number);
        self.note(Some(node), || format!("client {number} asks n{node} for {}", client.want));
        self.happened(|| Happening::Asked { operation: number as u32, node });
        self.feed(node, id, Input::Request(request));
    }

    pub(super) fn told(&mut self, number: u64, answer: Answer) {
        let number = match &answer {
            Answer::Ended { key, .. } => key.as_bytes().try_into().map_or(0, u64::from_le_bytes),
            _ => number,
        };
        let Some(at) = (number as usize).checked_sub(1).filter(|at| *at < self.clients.len())
        else {
            return;
        };
        if self.clients[at].answered {
            return;
        }
        let now = self.now;
        let want = self.clients[at].want.clone();
        let kind = match (answer, want) {
            (Answer::Stored { .. }, Want::Put(file)) => {
                let scheme = self.scheme_of(file);
                let World { judge, machines, lay, hurt, .. } = self;
                judge.stored(now, file, &|digest| has_right(machines, lay, digest), hurt);
                judge.spread(now, file, scheme, &|digest| all_right(machines, lay, digest));
                "stored"
            }
            (Answer::Got(assembly), Want::Get(file)) => {
                let got = assembly.decode(&mut Codec::new(), &workload::owner()).ok();
                let expected = &self.files[file as usize].content;
                self.judge.fetched(now, file, expected, got.as_deref());
                if let (Phase::Faults, Some(asked)) = (self.phase, self.clients[at].asked) {
                    let took = now - asked;
                    self.totals.downloads.0 += 1;
                    self.totals.downloads.1 += took;
                    self.totals.downloads.2 = self.totals.downloads.2.max(took);
                }
                self.compared += 1;
                "fetched"
            }
            (Answer::Locked { locks }, Want::Locks) => {
                *self.totals.answers.entry("locks taken and given back").or_default() +=
                    u64::from(locks);
                "lockings"
            }
            (Answer::Ledger { done: true }, want) => {
                let name = |node: u32| NodeName::numbered(u64::from(node));
                match want {
                    Want::Grant(node) => self.told.push(Done::Granted(name(node))),
                    Want::Stake(node) => self.told.push(Done::Staked(name(node))),
                    _ => {}
                }
                self.grants += u64::from(is_grant(&want));
                "ledger requests"
            }
            (Answer::Ledger { done: false }, Want::Ledger(_)) => "ledger requests refused",
            (Answer::Ended { outcome, .. }, _) => match outcome {
                Outcome::Completed => "sagas completed",
                Outcome::Compensated | Outcome::SagaAborted => "sagas undone",
                Outcome::Committed => "transactions committed",
                Outcome::Aborted => "transactions aborted",
                Outcome::ReadOnly => "transactions that changed nothing",
                Outcome::Refused(_) | Outcome::InDoubt => {
                    return self.ask_at(now + CLIENT_PAUSE, number);
                }
            },
            (Answer::Leaving, _) => {
                self.clients[at].node = (self.clients[at].node + 1) % self.machines.len() as u32;
                return self.ask_at(now + CLIENT_PAUSE, number);
            }
            // Not yet: it asks again.
            _ => return self.ask_at(now + CLIENT_PAUSE, number),
        };
        self.answered(number, kind);
    }

    /// A client waits no more.
    fn answered(&mut self, number: u64, kind: &'static str) {
        let now = self.now;
        self.clients[number as usize - 1].answered = true;
        let operation = number as u32;
        self.happened(|| Happening::Told { operation, outcome: kind.to_owned() });
        if self.story.is_some() {
            let Client { want, node, .. } = self.clients[number as usize - 1].clone();
            self.note(Some(node), || format!("client {number}, who wanted {want}: {kind}"));
        }
        self.trace.word(number);
        *self.totals.answers.entry(kind).or_default() += 1;
        self.open -= 1;
        self.start_clients(now);
        if self.open == 0 && self.next_client == self.clients.len() {
            self.served();
        }
    }

    /// Every client of this phase has its answer.
    fn served(&mut self) {
        match self.phase {
            Phase::Serving => {
                self.phase = Phase::Faults;
                self.rest_by = Time::NEVER;
                self.plan_faults();
                let at = self.now + self.scenario.storage.lasts.0;
                self.schedule(at, 0, Event::Heal);
            }
            Phase::Fetching => self.schedule(self.now, 0, Event::Look),
            Phase::Faults | Phase::Resting => {}
        }
    }

    /// Somebody asks something of the ledger, by a node of its own.
    fn asks(&mut self, node: u32, ask: Ask) {
        self.clients.push(Client::new(Want::Ledger(ask), node));
    }

    /// Some client fetches some file that is stored.
    pub(super) fn download(&mut self, number: u32) {
        let stored: Vec<u32> = self.judge.all_stored().collect();
        if self.healed || stored.is_empty() {
            return;
        }
        let draw = self.root.child("download.which").draw(u64::from(number), 0);
        let file = stored[draw.below(stored.len() as u64) as usize];
        let node = draw.nth(1).below(u64::from(self.scenario.storage.nodes)) as u32;
        self.clients.push(Client::new(Want::Get(file), node));
        self.start_clients(self.now);
    }

    pub(super) fn ledger(&mut self, stage: u32) {
        let nodes = self.scenario.storage.nodes;
        let name = |node: u32| NodeName::numbered(u64::from(node));
        let slashes: Vec<(incentives::EscrowId, NodeName, NodeName)> = self
            .node(0)
            .and_then(StorageNode::bank)
            .into_iter()
            .flat_map(|bank| bank.escrows())
            .map(|(escrow, slash)| {
                let reporter = match slash.cause() {
                    incentives::Cause::Reported { by, .. } => by,
                    incentives::Cause::LowScore { .. } => slash.operator(),
                };
                (*escrow, slash.operator(), reporter)
            })
            .collect();
        let against = self.scenario.faults.disputes.unwrap_or_default();
        let key = self.root.child("vote");
        match stage {
            0 => {
                for (escrow, operator, _) in slashes {
                    self.asks(operator.number() as u32, Ask::Dispute { escrow });
                }
            }
            1 => {
                for (escrow, operator, reporter) in slashes {
                    let draw = key.draw(escrow.0, 0);
                    // Of every seventh slash hardly anybody cares: its deadline decides.
                    let voters = if escrow.0 % 7 == 0 { 2 } else { 8 };
                    let first = draw.below(u64::from(nodes)) as u32;
                    for number in 0..voters {
                        let voter = (first + number) % nodes;
                        if name(voter) != operator && name(voter) != reporter {
                            let uphold = !against.0.holds(&draw.nth(1));
                            self.asks(voter, Ask::Vote { escrow, uphold });
                            // A second vote of the same node counts for nothing.
                            self.asks(voter, Ask::Vote { escrow, uphold: !uphold });
                        }
                    }
                }
            }
            2 => {
                for node in 1..SPENDERS.min(nodes) {
                    self.asks(0, Ask::Grant { to: name(node), units: Units(500) });
                }
            }
            _ => {
                for node in 1..SPENDERS.min(nodes) {
                    for nth in 1..4 {
                        // Not to one that would spend it in turn.
                        let to = name((SPENDERS - 1 + nth) % nodes);
                        self.asks(node, Ask::Transfer { to, units: Units(500) });
                    }
                }
            }
        }
        *self.totals.faults.entry("stages of the ledger").or_default() += 1;
        self.start_clients(self.now);
    }
}

/// Whether a client wants units of the treasury.
fn is_grant(want: &Want) -> bool {
    matches!(want, Want::Grant(_) | Want::Ledger(Ask::Grant { .. }))
}
