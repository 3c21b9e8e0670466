//! Processes: started with their configuration, fed with what comes, and what they put out performed.

use super::agenda::{Event, Strike};
use super::machine::{LEDGER, Machine, Process};
use super::{SUPPLY, World};
use crate::net::REGIONS;
use crate::recording::Happening;
use crate::storage::scenario::Storage;
use crate::world::recovered_in_words;
use base::{BootCount, NodeName, Time};
use incentives::Units;
use network::{Answer, Config, Input, Message, Output, StorageNode};
use placement::Region;

impl World<'_> {
    fn config(&self, node: u32) -> Config {
        let Storage { patience, keepers, capacity, repairs_per_minute, beat, alive, .. } =
            self.scenario.storage;
        let storage = &self.scenario.storage;
        let name = NodeName::numbered(u64::from(node));
        let boots = self.machines[node as usize].boots;
        let key = self.root.child("node").keyed(u64::from(node));
        let secret = key.child("boot").keyed(u64::from(boots));
        let mut transactions =
            node::Config::both(name, key.draw(0, 0).u64(), secret.child("engine"));
        transactions.log = self.scenario.disk.log();
        if let Some(engine) = &mut transactions.coordinator {
            engine.step_timeout = 6 * patience.0;
            engine.prepare_timeout = 4 * patience.0;
            engine.output_bytes_max = 8;
            engine.resend_after = storage.resend_after.0;
            engine.resend_after_max = 16 * storage.resend_after.0;
            if let active @ 1.. = self.scenario.faults.active_max {
                engine.active_sagas_max = active;
                engine.active_transactions_max = active;
            }
        }
        // Whoever starts a node names some that are there.
        let there: Vec<u64> =
            (0u64..).zip(&self.machines).filter(|(_, it)| !it.gone).map(|(at, _)| at).collect();
        let mut meet: Vec<u64> = (0..4)
            .map(|nth| there[secret.draw(1, nth).below(there.len() as u64) as usize])
            .filter(|other| *other != u64::from(node))
            .collect();
        if meet.is_empty() {
            // All of the lots were its own: it would meet nobody, and nobody it.
            meet.extend(there.iter().find(|other| **other != u64::from(node)));
        }
        let authority = NodeName::numbered(0);
        let bank = (node == 0).then(|| incentives::Config::new(authority, Units(SUPPLY)));
        Config {
            transactions,
            region: Region::ALL[self.region_of(node) as usize],
            shards: store::StoreConfig {
                shard_bytes_max: if self.machines[node as usize].full { 1 } else { 1 << 20 },
                ..store::StoreConfig::new(name, capacity)
            },
            scrub: repair::ScrubConfig { round: storage.scrub_round.0, burst_max: 16 },
            repair: repair::Config {
                shards: repairs_per_minute,
                moves: storage.moves_per_minute,
                answer_max: 6 * patience.0,
                retry_after: 2 * patience.0,
                ..repair::Config::default()
            },
            rebalance: placement::RebalanceConfig {
                period: storage.rebalance_every.0,
                steady: storage.steady.0,
                ..placement::RebalanceConfig::default()
            },
            audit: repair::AuditConfig {
                deadline: storage.audit_deadline.0,
                ..repair::AuditConfig::default()
            },
            schemes: self.scenario.policy(),
            encodings: network::EncodingConfig {
                per_minute: storage.reencodes_per_minute,
                steady: storage.advice_steady.0,
            },
            audit_every: storage.audit_every.0,
            locks: locks::Config::default(),
            membership: placement::MembershipConfig {
                beat: beat.0,
                neighbours: storage.neighbours,
                alive: alive.0,
                ..placement::MembershipConfig::default()
            },
            lookup: placement::LookupConfig {
                replication: keepers,
                patience: patience.0,
                ..placement::LookupConfig::default()
            },
            patience: patience.0,
            connections: placement::ConnectionConfig::default(),
            routing: if storage.learns { placement::AdaptiveConfig::default() } else { by_score() },
            attempts_max: 20,
            authority,
            bank,
            report_every: Some(storage.report_every.0),
            meet: meet.into_iter().map(NodeName::numbered).collect(),
            network: self.root.child("network"),
            secret,
            boot: BootCount(boots),
            unix_ms_at_zero: 1_700_000_000_000,
        }
    }

    /// In which region a node is.
    pub(super) fn region_of(&self, node: u32) -> u32 {
        let storage = &self.scenario.storage;
        node % if node < storage.nodes { storage.regions } else { REGIONS }
    }

    pub(super) fn start(&mut self, node: u32) {
        let machine = &mut self.machines[node as usize];
        if machine.gone || machine.process.is_some() {
            return;
        }
        machine.boots += 1;
        machine.unchecked = true;
        let config = self.config(node);
        let id = self.machines[node as usize].boots;
        self.watch.started(self.now, node);
        self.note_detail(node, |_| format!("starts for the {id}. time"));
        self.happened(|| Happening::Started { node, boot: id });
        // What was committed and not durable is committed again.
        self.fences.retain(|(at, _), _| *at != node);
        let mut out = std::mem::take(&mut self.out);
        let machine = &mut self.machines[node as usize];
        let Machine { disks, shards, .. } = machine;
        let (there, pins) = (shards.shards(), shards.pins());
        let running = StorageNode::start(config, self.now, disks, there, pins, &mut out);
        machine.process = Some(Process {
            stricken: false,
            node: Box::new(running),
            id,
            armed: Time::NEVER,
            lanes: Default::default(),
        });
        self.go_on(node, id, out);
    }

    pub(super) fn process(&mut self, node: u32, id: u32) -> Option<&mut Process> {
        self.machines[node as usize].process.as_mut().filter(|process| process.id == id)
    }

    pub(super) fn feed(&mut self, node: u32, id: u32, input: Input) {
        let machine = &mut self.machines[node as usize];
        let Some(process) = machine.process.as_mut().filter(|process| process.id == id) else {
            return;
        };
        let mut out = std::mem::take(&mut self.out);
        process.node.handle(self.now, input, &machine.disks, &mut out);
        if machine.unchecked {
            self.check_recovered(node);
        }
        self.go_on(node, id, out);
    }

    /// Performs a process's outputs one by one; it may go down before any of them.
    fn go_on(&mut self, node: u32, id: u32, mut out: Vec<Output>) {
        let mut heard: Vec<Input> = Vec::new();
        loop {
            for output in out.drain(..) {
                if let Some(strike) = &mut self.machines[node as usize].strike {
                    strike.outputs -= 1;
                    if strike.outputs == 0 {
                        let Strike { entry, down, .. } = *strike;
                        self.strike(node, entry, down);
                    }
                }
                self.departs_before(node, &output);
                self.holder_crashes_before(node, &output);
                if self.process(node, id).is_none() {
                    break;
                }
                self.perform(node, id, output, &mut heard);
            }
            if self.process(node, id).is_none() || heard.is_empty() {
                break;
            }
            for input in std::mem::take(&mut heard) {
                let machine = &mut self.machines[node as usize];
                let Some(process) = &mut machine.process else { break };
                process.node.handle(self.now, input, &machine.disks, &mut out);
            }
        }
        self.out = out;
        self.out.clear();
        self.record_progress(node);
        self.arm(node, id);
    }

    pub(super) fn perform(&mut self, node: u32, id: u32, output: Output, heard: &mut Vec<Input>) {
        match output {
            Output::Transactions(node::Output::Disk { slot, ops }) => {
                self.flush(node, id, slot as usize, ops, heard);
            }
            Output::Transactions(node::Output::Died { reason, .. })
            | Output::LedgerDied { reason } => self.died(node, &reason),
            Output::Transactions(node::Output::Recovered { slot, report }) => {
                self.note_detail(node, |_| recovered_in_words(slot, &report));
                self.record_recovered(node, slot, &report);
            }
            Output::Transactions(_) => {}
            Output::Ledger(ops) => self.flush(node, id, LEDGER, ops, heard),
            Output::Shards(op) => {
                self.note_detail(node, |world| world.shard_op(&op));
                if let store::Op::Write { digest, .. } = &op {
                    self.lay.entry(*digest).or_default().insert(node);
                    self.machines[node as usize].laid.insert(*digest);
                }
                if self.machines[node as usize].shards.push(op) {
                    self.shard_later(node, id);
                }
            }
            Output::Send { to, mut message } => {
                if self.machines[node as usize].liar {
                    self.lie(node, &mut message);
                }
                if self.machines[node as usize].boasts {
                    self.boast(&mut message);
                }
                if let Err((rule, what)) = self.watch.sent(self.now, node, to, &message)
                    && !(rule == "S16" && self.has_turned(node, to))
                {
                    self.judge.object(rule, self.now, what);
                }
                if self.scenario.storage.reencodes_per_minute > 0
                    && let Message::Bytes { bytes: Some(bytes), .. } = &message
                    && let Ok(record) = network::FileRecord::decode(bytes)
                {
                    self.judge.named(self.now, &record);
                }
                self.forge(node, &message);
                self.send(node, to.number() as u32, message);
            }
            Output::Tell { answer: Answer::Left, .. } => {
                self.machines[node as usize].drained = true;
            }
            Output::Tell { number, answer } => self.told(number, answer),
        }
    }

    fn arm(&mut self, node: u32, id: u32) {
        let now = self.now;
        let Some(process) = self.process(node, id) else { return };
        if let Some(wake) = process.node.next_wake() {
            let wake = wake.max(now);
            if wake < process.armed {
                process.armed = wake;
                self.schedule(wake, node, Event::Wake { process: id });
            }
        }
    }

    pub(super) fn wake(&mut self, node: u32, id: u32) {
        let now = self.now;
        let Some(process) = self.process(node, id) else { return };
        if process.armed != now {
            return;
        }
        process.armed = Time::NEVER;
        match process.node.next_wake() {
            Some(due) if due <= now => self.feed(node, id, Input::Wake),
            _ => self.arm(node, id),
        }
    }
}

/// Nobody learns: whom to ask first is decided by the static score alone.
pub(super) fn by_score() -> placement::AdaptiveConfig {
    let none = base::Ratio::ZERO;
    let prior_outcomes = u32::MAX;
    placement::AdaptiveConfig {
        prior_outcomes,
        confidence: none,
        explore: none,
        ..Default::default()
    }
}
