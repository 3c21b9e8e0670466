//! The plan is executed: triggers are counted, faults strike and end.

use super::agenda::What;
use super::ailing::Ailing;
use super::disks::OpKind;
use super::{AGAIN_DOWN, Armed, SLOTS, World, ZOMBIE_LIFE};
use crate::disk::{DiskFate, Unsafe};
use crate::plan::{Action, Damage, Signal, Trigger};
use crate::recording::{Doing, Happening, Point, Role};
use base::Time;
use node::{LogSlot, Output};
use std::time::Duration;

impl World<'_> {
    // ---- faults ----

    /// True if somebody waits for what a node does next.
    pub(super) fn is_watched(&self, node: u32) -> bool {
        self.recording.is_some() || self.machines[node as usize].is_watched()
    }

    /// A fault may strike here: for the record.
    fn point(&mut self, node: u32, doing: Doing, role: Role) {
        let moment = self.moment();
        let machine = &self.machines[node as usize];
        let (Some(recording), Some(process)) = (&mut self.recording, &machine.process) else {
            return;
        };
        if !recording.wants_points() {
            return;
        }
        let mut unsynced = Unsafe::default();
        machine.disks.0.iter().for_each(|disk| disk.add_unsynced(&mut unsynced));
        let (boot, state) = (process.boot, String::new());
        let point = Point { node, boot, doing, nth: 0, at: moment, role, state, unsynced };
        recording.point(point, &process.node);
    }

    pub(super) fn arm(&mut self, entry: u32) {
        self.arm_from(entry, Time::ZERO);
    }

    /// The same, where what would be earlier is then.
    pub(super) fn arm_from(&mut self, entry: u32, earliest: Time) {
        self.faults_open += 1;
        match self.plan.faults[entry as usize].trigger {
            Trigger::At(at) => self.agenda.schedule(at.max(earliest), entry, What::Fault),
            // Counting begins then: see `strike`.
            Trigger::On { from, .. } if from > earliest => {
                self.agenda.schedule(from, entry, What::Fault);
            }
            Trigger::On { signal, node, nth, .. } => {
                self.machines[node as usize].armed.push(Armed { entry, signal, left: nth });
            }
        }
    }

    /// Counts a signal down; true if a fault struck.
    pub(super) fn count(&mut self, node: u32, matches: impl Fn(Signal) -> bool) -> bool {
        let armed = &mut self.machines[node as usize].armed;
        let mut struck = None;
        for (at, waiting) in armed.iter_mut().enumerate() {
            if matches(waiting.signal) {
                waiting.left -= 1;
                if waiting.left == 0 && struck.is_none() {
                    struck = Some(at);
                } else if waiting.left == 0 {
                    // One at a time: it strikes at the next such signal.
                    waiting.left = 1;
                }
            }
        }
        let Some(at) = struck else { return false };
        let entry = armed.remove(at).entry;
        self.act(entry);
        true
    }

    pub(super) fn signals(&mut self, node: u32, id: u32, output: &Output) -> bool {
        if !self.is_current(node, id) {
            return false;
        }
        match output {
            Output::Appended { slot, event, .. } => {
                self.point(node, Doing::Append(*event), Role::of(*slot));
                self.count(node, |signal| signal == Signal::Append(*event))
            }
            Output::Send { message, .. } => {
                let kind = message.kind();
                self.point(node, Doing::Send(kind), Role::sending(kind));
                self.count(node, |signal| signal == Signal::Send(kind) || signal == Signal::Output)
            }
            Output::Reply { .. } => {
                self.point(node, Doing::Reply, Role::Coordinator);
                self.count(node, |signal| signal == Signal::Output)
            }
            Output::Disk { .. }
            | Output::Recovered { .. }
            | Output::Parked { .. }
            | Output::Operated(_)
            | Output::Heuristic { .. }
            | Output::Intervened(_)
            | Output::Died { .. } => false,
        }
    }

    pub(super) fn signals_op(&mut self, node: u32, id: u32, slot: LogSlot, op: OpKind) -> bool {
        if !self.is_current(node, id) {
            return false;
        }
        self.point(node, Doing::Disk(op.name()), Role::of(slot));
        let machine = &mut self.machines[node as usize];
        let Some(process) = &mut machine.process else { return false };
        let recovers = match slot {
            LogSlot::Coordinator => process.node.coordinator().is_none(),
            LogSlot::Participant => process.node.participant().is_none(),
        };
        if recovers && process.boot > 1 {
            process.recovery_ops += 1;
            let at = process.recovery_ops;
            if machine.again.last().is_some_and(|next| *next <= at) {
                machine.again.pop();
                self.counters.recovery_crashes += 1;
                self.power_loss(node, AGAIN_DOWN);
                return true;
            }
            if self.count(node, |signal| signal == Signal::Recovery) {
                self.counters.recovery_crashes += 1;
                return true;
            }
        }
        self.count(node, |signal| match signal {
            Signal::Write => op == OpKind::Write,
            Signal::Sync => op == OpKind::Sync,
            Signal::Retire => op == OpKind::Retire,
            Signal::Blank => op == OpKind::Blank,
            Signal::Output => true,
            _ => false,
        })
    }

    /// After a flush: records that a fault waits for may have become durable. What they let out has
    /// not left yet.
    pub(super) fn signals_durable(&mut self, node: u32, id: u32, slot: LogSlot) {
        if !self.is_current(node, id) {
            return;
        }
        let Some(process) = &mut self.machines[node as usize].process else { return };
        let log = match slot {
            LogSlot::Coordinator => process.node.coordinator().map(|engine| engine.log()),
            LogSlot::Participant => process.node.participant().map(|host| host.log()),
        };
        let Some(durable) = log.map(wal_core::Log::durable) else { return };
        let mut done = Vec::new();
        process.held.appended.retain(|appended| {
            let is = appended.slot == slot && appended.sequence <= durable;
            if is {
                done.push((appended.event, appended.awaited));
            }
            !is
        });
        if !done.is_empty() {
            self.happened(|| Happening::Durable { node, role: Role::of(slot), through: durable.0 });
        }
        for (event, awaited) in done {
            self.point(node, Doing::Durable(event), Role::of(slot));
            let struck = awaited && self.count(node, |signal| signal == Signal::Durable(event));
            if struck && !self.is_current(node, id) {
                return;
            }
        }
    }

    /// The moment of an entry has come: it strikes, or begins to wait for its signal.
    pub(super) fn strike(&mut self, entry: u32) {
        // One that was taken away is marked so that it never strikes.
        if self.healed || self.struck[entry as usize] {
            return;
        }
        match self.plan.faults[entry as usize].trigger {
            Trigger::At(_) => self.act(entry),
            Trigger::On { signal, node, nth, .. } => {
                self.machines[node as usize].armed.push(Armed { entry, signal, left: nth });
            }
        }
    }

    /// An entry has done what it is for.
    pub(super) fn took_effect(&mut self, entry: u32) {
        if !std::mem::replace(&mut self.struck[entry as usize], true) {
            let name = self.plan.faults[entry as usize].action.name();
            *self.counters.faults.entry(name).or_default() += 1;
        }
    }

    /// Something that lasts is over at a node's disks.
    pub(super) fn ends_at(&mut self, node: u32, end: impl FnOnce(&mut Ailing)) {
        let machine = &mut self.machines[node as usize];
        if let Some(ails) = &mut machine.ails {
            end(ails);
            machine.disks.1 = !ails.read_errors.is_empty();
        }
        self.confine(node);
    }

    /// Tells a node whether its logs have room for what they hold only. One that still recovers is told again.
    pub(super) fn confine(&mut self, node: u32) {
        let machine = &mut self.machines[node as usize];
        let Some(ails) = &machine.ails else { return };
        let confined = !ails.confined.is_empty();
        for process in machine.process.iter_mut().chain(&mut machine.zombies) {
            SLOTS.into_iter().for_each(|slot| process.node.confine_log(slot, confined));
        }
    }

    /// Something is wrong with a node's disks from now on. It counts once it has shown.
    pub(super) fn ails(&mut self, node: u32) -> &mut Ailing {
        self.machines[node as usize].ails.get_or_insert_default()
    }

    /// Something of what a node's logs hold for good changes, if they hold anything yet: a bit, or a
    /// sector. Not while they are being read, when some of it may have been read already; nor before, when
    /// a crash may have left bytes that are part of no log.
    fn rots(&mut self, entry: u32, node: u32, how: Option<Damage>) {
        let process = self.machines[node as usize].process.as_ref();
        if process.is_none_or(|process| !process.node.is_ready()) {
            return;
        }
        let draw = self.disk_key.child("rot").draw(u64::from(entry), 0);
        let first = draw.below(2) as usize;
        for slot in [SLOTS[first], SLOTS[1 - first]] {
            let disk = &mut self.machines[node as usize].disks.0[slot as usize];
            let changed = match how {
                None => disk.rots(&draw).into_iter().collect(),
                Some(how) => disk.damages(how, &draw),
            };
            if !changed.is_empty() {
                let changed = changed.into_iter().map(|(segment, at)| (slot, segment, at));
                self.ails(node).rotten.extend(changed);
                self.took_effect(entry);
                break;
            }
        }
    }

    fn act(&mut self, entry: u32) {
        let fault = self.plan.faults[entry as usize].clone();
        self.progress = self.now;
        self.trace.word(u64::from(entry) | 1 << 40);
        self.note(None, || format!("fault {entry} strikes: {}", fault.action.name()));
        let (kind, struck) = (fault.action.name(), fault.action.node());
        self.happened(|| Happening::Fault { entry, kind, node: struck });
        if !fault.action.shows_later() {
            self.took_effect(entry);
        }
        match fault.action {
            Action::PowerLoss { node, down, mut again, unsynced } => {
                again.reverse();
                if !again.is_empty() {
                    self.forget_again(node);
                    self.faults_open += again.len() as u32;
                    self.machines[node as usize].again = again;
                }
                self.crash(node, Crash::Power(unsynced));
                self.start_later(node, down);
            }
            Action::ProcessCrash { node, down } => {
                self.crash(node, Crash::Process);
                self.start_later(node, down);
            }
            Action::Pause { node, lasts } => self.pause(node, lasts),
            Action::Zombie { node, successor, resume } => self.zombie(node, successor, resume),
            Action::Partition { from, to, symmetric, lasts } => {
                self.net.block(entry, None, from.clone(), to.clone());
                if symmetric {
                    self.net.block(entry, None, to, from);
                }
                self.agenda.schedule(self.now + lasts, entry, What::FaultEnds);
            }
            Action::SyncError { node } => {
                self.ails(node).sync_errors.push(entry);
                self.fault_is_over();
            }
            Action::WriteError { node, short } => {
                self.ails(node).write_errors.push((entry, short));
                self.fault_is_over();
            }
            Action::ReadError { node, lasts } => {
                self.ails(node).read_errors.push(entry);
                self.machines[node as usize].disks.1 = true;
                self.agenda.schedule(self.now + lasts, entry, What::FaultEnds);
            }
            Action::DiskFull { node, lasts } => {
                self.ails(node).full.push(entry);
                self.agenda.schedule(self.now + lasts, entry, What::FaultEnds);
            }
            Action::LogConfined { node, lasts } => {
                self.ails(node).confined.push(entry);
                self.confine(node);
                self.agenda.schedule(self.now + lasts, entry, What::FaultEnds);
            }
            Action::Stall { node, lasts } => {
                let until = self.now + lasts;
                self.ails(node).stalls.push((entry, until));
                self.agenda.schedule(until, entry, What::FaultEnds);
            }
            Action::BitRot { node } => {
                self.rots(entry, node, None);
                self.fault_is_over();
            }
            Action::Damage { node, how } => {
                self.rots(entry, node, Some(how));
                self.fault_is_over();
            }
            Action::Clog { from, to, symmetric, lasts } => {
                let until = self.now + lasts;
                self.net.clog(entry, from.clone(), to.clone(), until);
                if symmetric {
                    self.net.clog(entry, to, from, until);
                }
                self.agenda.schedule(until, entry, What::FaultEnds);
            }
            Action::ClockJump { node, by, back } => {
                let clock = &mut self.machines[node as usize].clock;
                clock.ahead = clock.ahead.saturating_add(by.as_nanos() as u64);
                if back {
                    clock.calendar_ms -= 2 * by.as_millis() as i64;
                }
                // Whatever it waits for may be due.
                let running = self.machines[node as usize].process.as_ref();
                if let Some(id) = running.map(|process| process.id) {
                    self.arm_timer(node, id);
                }
                self.fault_is_over();
            }
            Action::Heal => {
                self.net.unblock_all();
                for node in 0..self.machines.len() as u32 {
                    self.ends_at(node, Ailing::heals);
                }
                self.fault_is_over();
            }
            Action::Drop { kind, from, to, lasts } => {
                self.net.block(entry, Some(kind), from, to);
                self.agenda.schedule(self.now + lasts, entry, What::FaultEnds);
            }
        }
    }

    /// A recovery is through, or a new crash brings its own: the crashes that were to hit it do not
    /// come.
    pub(super) fn forget_again(&mut self, node: u32) {
        let left = std::mem::take(&mut self.machines[node as usize].again).len() as u32;
        self.faults_open = self.faults_open.saturating_sub(left);
    }

    pub(super) fn fault_is_over(&mut self) {
        self.progress = self.now;
        self.faults_open = self.faults_open.saturating_sub(1);
    }

    fn crash(&mut self, node: u32, crash: Crash) {
        let coordinators = *self.scenario.cluster.coordinators.get_ref();
        let machine = &mut self.machines[node as usize];
        if machine.process.is_some() && node < coordinators {
            self.counters.coordinator_crashes += 1;
        } else if machine.process.is_some() {
            self.counters.participant_crashes += 1;
        }
        machine.process = None;
        if let Crash::Power(unsynced) = crash {
            machine.zombies.clear();
            machine.power_failures += 1;
            let fates = self.fates;
            let mut before = Unsafe::default();
            for slot in SLOTS {
                let entity = u64::from(node) << 1 | slot as u64;
                let disk = &mut machine.disks.0[slot as usize];
                let failure = machine.power_failures;
                let losses = match unsynced {
                    Some(fate) => disk.fails_as(fate, &mut before),
                    None => disk.power_fails(fates, &self.power_key, entity, failure),
                };
                self.counters.disk_losses(losses);
            }
        }
        let power = crash != Crash::Process;
        self.happened(|| Happening::Crashed { node, power });
        let moment = self.moment();
        let machine = &self.machines[node as usize];
        for slot in SLOTS {
            let disk = machine.disks.seen(slot);
            for judge in &mut self.judges {
                judge.crashed(moment, node, slot, power, disk, &mut self.findings);
            }
        }
    }

    fn power_loss(&mut self, node: u32, down: Duration) {
        self.crash(node, Crash::Power(None));
        self.start_later(node, down);
    }

    fn start_later(&mut self, node: u32, down: Duration) {
        let machine = &mut self.machines[node as usize];
        let boot = machine.boots;
        self.agenda.schedule(self.now + down, node, What::Start { boot });
    }

    fn pause(&mut self, node: u32, lasts: Duration) {
        let at = self.now + lasts;
        match &mut self.machines[node as usize].process {
            Some(process) => {
                process.paused = true;
                let process = process.id;
                self.agenda.schedule(at, node, What::Resume { process });
            }
            None => self.fault_is_over(),
        }
    }

    /// The process stops where it is; a successor takes over on the same disks; later the old one
    /// goes on with what it was about to do.
    pub(super) fn zombie(&mut self, node: u32, successor: Duration, resume: Duration) {
        let machine = &mut self.machines[node as usize];
        let Some(mut process) = machine.process.take() else { return self.fault_is_over() };
        process.paused = true;
        let (id, boot) = (process.id, machine.boots);
        machine.zombies.push(process);
        let process = id;
        self.counters.zombies += 1;
        self.faults_open += 2;
        self.agenda.schedule(self.now + successor, node, What::Start { boot });
        self.agenda.schedule(self.now + resume, node, What::Resume { process });
        let end = self.now + resume + ZOMBIE_LIFE;
        self.agenda.schedule(end, node, What::Retire { process });
    }
}

/// What a node loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    /// Its process.
    Process,
    /// Its power: of what is unsynced this is left, or what is drawn.
    Power(Option<DiskFate>),
}
