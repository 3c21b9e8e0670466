//! Whether what a scenario file asks for can be at all.

use super::errors::{place_of, unknown, value_below};
use super::faults::{FaultEntry, Misfit};
use super::values::{Share, Span};
use super::{Cluster, DiskMode, FORMAT, Kind, Scenario};
use crate::plan::{Action, NodeSet, Trigger};
use crate::swarm;
use base::prng::DERIVATION_VERSION;
use serde::Deserialize;
use std::ops::Range;
use toml::Spanned;

/// What is wrong with a scenario whose text can be read, and where.
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) place: Range<usize>,
    pub(super) help: Option<String>,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>, place: Range<usize>) -> Wrong {
        Wrong { message: message.into(), place, help: None }
    }
}

impl Scenario {
    pub(super) fn check(&self, text: &str) -> Result<(), Wrong> {
        if let Some(derivation) = &self.derivation
            && *derivation.get_ref() != DERIVATION_VERSION
        {
            let message = format!(
                "version {} of the randomness: this build has version {DERIVATION_VERSION}, and the seed \
                 means another run here",
                derivation.get_ref()
            );
            let help =
                "use the build that the file was written for, or look for it anew with this one";
            return Err(Wrong { message, place: derivation.span(), help: Some(help.to_owned()) });
        }
        self.check_cluster()?;
        self.check_workload(text)?;
        self.check_disk(text)?;
        self.check_times(text)?;
        self.check_stuck(text)?;
        self.check_chaos(text)?;
        let valid = || swarm::NAMES.into_iter().chain(swarm::KINDS);
        let strange = |name: &&Spanned<String>| valid().all(|valid| valid != name.get_ref());
        if let Some(name) = self.swarm.vary.iter().find(strange) {
            return Err(Wrong::new(unknown("setting", name.get_ref(), valid()), name.span()));
        }
        for entry in &self.fault {
            self.check_fault(entry.get_ref()).map_err(|Misfit { key, message }| {
                let header = entry.span();
                let place = key.and_then(|key| value_below(text, header.end, key));
                Wrong::new(message, place.unwrap_or(header))
            })?;
        }
        self.check_expect()
    }

    fn check_cluster(&self) -> Result<(), Wrong> {
        let Cluster { nodes, coordinators, regions } = &self.cluster;
        let count = *nodes.get_ref();
        if count == 0 || count > 100_000 {
            return Err(Wrong::new("expected 1 to 100000 nodes", nodes.span()));
        }
        if *coordinators.get_ref() == 0 || *coordinators.get_ref() > count {
            let message =
                format!("expected 1 to {count} coordinators: the cluster has {count} nodes");
            return Err(Wrong::new(message, coordinators.span()));
        }
        if *regions.get_ref() == 0 || *regions.get_ref() > crate::net::REGIONS {
            let message = format!("expected 1 to {} regions", crate::net::REGIONS);
            return Err(Wrong::new(message, regions.span()));
        }
        Ok(())
    }

    fn check_workload(&self, text: &str) -> Result<(), Wrong> {
        let workload = &self.workload;
        for (name, number) in [
            ("operations", &workload.operations),
            ("in_flight", &workload.in_flight),
            ("cells", &workload.cells),
        ] {
            if !(1..=10_000_000).contains(number.get_ref()) {
                let message = format!("expected {name} from 1 to 10000000");
                return Err(Wrong::new(message, number.span()));
            }
        }
        let nodes = *self.cluster.nodes.get_ref();
        let participants = *workload.participants.get_ref();
        let most = nodes.min(64);
        if place_of(text, "workload", "participants").is_none() {
            // Nobody has asked for the default where no transaction will be.
            if workload.kind != Kind::Saga && participants > most {
                let message = format!(
                    "the cluster has {nodes} nodes: a transaction has {participants} participants \
                     unless `participants` in [workload] says otherwise"
                );
                return Err(Wrong::new(message, self.cluster.nodes.span()));
            }
        } else if participants == 0 || participants > most {
            let message = format!(
                "expected 1 to {most} participants: the cluster has {nodes} nodes, and a transaction \
                 at most 64 participants"
            );
            return Err(Wrong::new(message, workload.participants.span()));
        }
        let steps = &workload.steps;
        if *steps.get_ref() == 0 || *steps.get_ref() > 32 {
            return Err(Wrong::new("expected 1 to 32 steps", steps.span()));
        }
        let changes = &workload.changes;
        if *changes.get_ref() == 0 || *changes.get_ref() > 8 {
            return Err(Wrong::new("expected 1 to 8 changes", changes.span()));
        }
        let waves = &workload.waves;
        let sum: u64 = waves.get_ref().iter().map(|wave| u64::from(*wave)).sum();
        if !waves.get_ref().is_empty() && sum != u64::from(*workload.operations.get_ref()) {
            let operations = workload.operations.get_ref();
            let message = format!("the waves hold {sum} operations, the workload {operations}");
            return Err(Wrong::new(message, waves.span()));
        }
        if waves.get_ref().contains(&0) {
            return Err(Wrong::new("expected waves of at least one operation", waves.span()));
        }
        let operations = *workload.operations.get_ref();
        let only = &workload.only;
        if let Some(strange) = only.get_ref().iter().find(|number| **number >= operations) {
            let message = format!(
                "there is no operation {strange}: they are numbered 0 to {}",
                operations - 1
            );
            return Err(Wrong::new(message, only.span()));
        }
        Ok(())
    }

    fn check_disk(&self, text: &str) -> Result<(), Wrong> {
        self.disk.log().validate().map_err(|error| {
            let message = error.to_string();
            // The configuration's fields are called as the keys, and named by the error.
            let keys = ["checkpoint_interval", "batch_bytes_max", "segment_bytes_first"];
            let named = keys.into_iter().filter(|key| message.contains(key));
            let others = ["segment_bytes_first", "segment_bytes_max"];
            let mut places = named.chain(others).filter_map(|key| place_of(text, "disk", key));
            Wrong::new(message.as_str(), places.next().unwrap_or(0..0))
        })
    }

    /// Times that must go by: what is due again at once keeps the simulator at one moment for ever.
    fn check_times(&self, text: &str) -> Result<(), Wrong> {
        let node = &self.node;
        for (table, key, Span(span)) in [
            ("node", "resend", node.resend),
            ("node", "prepare_timeout", node.prepare_timeout),
            ("node", "step_timeout", node.step_timeout),
            ("node", "saga_timeout", node.saga_timeout),
            ("node", "inquire", node.inquire),
            ("disk", "idle_guard", self.disk.idle_guard),
            ("liveness", "budget", self.liveness.budget),
        ] {
            if span.is_zero() {
                let place = place_of(text, table, key).unwrap_or(0..0);
                return Err(Wrong::new(format!("expected `{key}` above zero"), place));
            }
        }
        if self.clock.drift_ppm > 500_000 {
            let place = place_of(text, "clock", "drift_ppm").unwrap_or(0..0);
            return Err(Wrong::new("expected a drift of at most 500000 millionths", place));
        }
        if self.budget.events == 0 {
            let place = place_of(text, "budget", "events").unwrap_or(0..0);
            return Err(Wrong::new("expected a budget of at least one event", place));
        }
        Ok(())
    }

    /// What never succeeds by itself is somebody's to see to.
    fn check_stuck(&self, text: &str) -> Result<(), Wrong> {
        let stuck = self.workload.stuck != Share::default();
        if stuck && self.node.undo_attempts == 0 {
            let message = "compensations are stuck for ever unless `undo_attempts` in [node] says \
                           after how many attempts an operator sees to them";
            let place = place_of(text, "workload", "stuck").unwrap_or(0..0);
            return Err(Wrong::new(message, place));
        }
        if self.node.jitter_percent > 100 {
            let place = place_of(text, "node", "jitter_percent").unwrap_or(0..0);
            return Err(Wrong::new("expected at most 100 hundredths", place));
        }
        Ok(())
    }

    fn check_chaos(&self, text: &str) -> Result<(), Wrong> {
        const MOST: u32 = 100_000;
        let chaos = &self.chaos;
        for (key, count) in [
            ("coordinator_crashes", chaos.coordinator_crashes),
            ("recovery_crashes", chaos.recovery_crashes),
            ("participant_crashes", chaos.participant_crashes),
            ("compaction_crashes", chaos.compaction_crashes),
            ("process_crashes", chaos.process_crashes),
            ("zombies", chaos.zombies),
            ("pauses", chaos.pauses),
            ("partitions", chaos.partitions),
            ("drops", chaos.drops),
            ("heals", chaos.heals),
            ("sync_errors", chaos.sync_errors),
            ("write_errors", chaos.write_errors),
            ("read_errors", chaos.read_errors),
            ("disks_full", chaos.disks_full),
            ("stalls", chaos.stalls),
            ("bit_rot", chaos.bit_rot),
            ("clock_jumps", chaos.clock_jumps),
            ("zeroed_sectors", chaos.zeroed_sectors),
            ("stale_sectors", chaos.stale_sectors),
            ("misdirected_writes", chaos.misdirected_writes),
            ("clogs", chaos.clogs),
            ("recovery_sync_errors", chaos.recovery_sync_errors),
            ("logs_confined", chaos.logs_confined),
        ] {
            let place = || place_of(text, "chaos", key).unwrap_or(0..0);
            if count > MOST {
                return Err(Wrong::new(format!("expected at most {MOST} {key}"), place()));
            }
            let damages =
                ["bit_rot", "zeroed_sectors", "stale_sectors", "misdirected_writes"].contains(&key);
            if damages && count > 0 && self.disk.mode == DiskMode::Atlas {
                return Err(Wrong::new(NO_ROT, place()));
            }
            if key == "recovery_crashes" && count > chaos.coordinator_crashes {
                let message = format!(
                    "expected at most as many recovery_crashes as coordinator_crashes, {}: each hits \
                     one of those again",
                    chaos.coordinator_crashes
                );
                return Err(Wrong::new(message, place()));
            }
        }
        Ok(())
    }

    fn check_fault(&self, entry: &FaultEntry) -> Result<(), Misfit> {
        let nodes = *self.cluster.nodes.get_ref();
        let regions = *self.cluster.regions.get_ref();
        let fault = entry.fault()?;
        let check_node = |key, node: u32| {
            let message =
                || format!("there is no node n{node}: the cluster has n0 to n{}", nodes - 1);
            if node < nodes { Ok(()) } else { Err(Misfit::at(key, message())) }
        };
        if let Trigger::On { node, .. } = fault.trigger {
            check_node("on", node)?;
        }
        match &fault.action {
            Action::PowerLoss { node, again, .. } => {
                check_node("node", *node)?;
                if again.len() > 3 || again.contains(&0) {
                    let message =
                        "expected at most three entries in `again`, counted from 1".into();
                    return Err(Misfit::at("again", message));
                }
            }
            Action::ProcessCrash { node, .. }
            | Action::Zombie { node, .. }
            | Action::Pause { node, .. }
            | Action::SyncError { node }
            | Action::WriteError { node, .. }
            | Action::ReadError { node, .. }
            | Action::DiskFull { node, .. }
            | Action::LogConfined { node, .. }
            | Action::Stall { node, .. }
            | Action::ClockJump { node, .. } => check_node("node", *node)?,
            Action::BitRot { node } | Action::Damage { node, .. } => {
                check_node("node", *node)?;
                if self.disk.mode == DiskMode::Atlas {
                    return Err(Misfit::at("kind", NO_ROT.into()));
                }
            }
            Action::Heal => {}
            Action::Partition { from, to, .. }
            | Action::Clog { from, to, .. }
            | Action::Drop { from, to, .. } => {
                for set in [from, to] {
                    match set {
                        NodeSet::Rest => {}
                        NodeSet::Region(region) if *region < regions => {}
                        NodeSet::Region(region) => {
                            let message = format!(
                                "there is no region {region}: the cluster has the regions 0 to {}",
                                regions - 1
                            );
                            return Err(Misfit::at("between", message));
                        }
                        NodeSet::Nodes(listed) => {
                            listed.iter().try_for_each(|node| check_node("between", *node))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn check_expect(&self) -> Result<(), Wrong> {
        if let Some(recovered) = &self.expect.recovered {
            let names: Vec<&str> =
                coordinator::RecoveryAction::ALL.iter().map(|action| action.name()).collect();
            let strange = recovered.get_ref().keys().find(|name| !names.contains(&name.as_str()));
            if let Some(name) = strange {
                return Err(Wrong::new(
                    unknown("action", name, names.into_iter()),
                    recovered.span(),
                ));
            }
        }
        if self.expect.sometimes.is_empty() {
            return Ok(());
        }
        // Whoever counts a condition names it before anything has happened.
        let mut counters = crate::report::Counters::default();
        for judge in crate::judge::all(self) {
            judge.observed(&mut counters.sometimes);
        }
        let conditions = counters.conditions();
        let mut sometimes = self.expect.sometimes.iter();
        match sometimes.find(|name| !conditions.contains_key(name.get_ref().as_str())) {
            None => Ok(()),
            Some(name) => {
                let message = unknown("condition", name.get_ref(), conditions.keys().copied());
                Err(Wrong::new(message, name.span()))
            }
        }
    }
}

/// Why a bit may not rot.
const NO_ROT: &str = "a log that rots is not opened again, so nothing would end: expected mode = \
                      \"unrestricted\" in [disk], where only safety is asked for";

pub(super) fn check_format(text: &str) -> Result<(), Wrong> {
    #[derive(Deserialize)]
    struct Header {
        format: Spanned<u32>,
    }
    // What is no such header is told by whoever reads the whole.
    let Ok(Header { format }) = toml::from_str(text) else { return Ok(()) };
    if *format.get_ref() == FORMAT {
        return Ok(());
    }
    let message = format!("format {}: this build reads format {FORMAT}", format.get_ref());
    let help = "use the build that the file was written for, or write it anew for this one";
    Err(Wrong { message, place: format.span(), help: Some(help.to_owned()) })
}
