use crate::disks::Disks;
use crate::host::{self, Host};
use base::prng::Key;
use base::{CoordinatorId, NodeName, OperationId, RequestKey, Time};
use coordinator::{Doubtful, Engine, ForceError, Intervened, Intervention};
use coordinator::{LogSlot, Message, Output, Replay, Request};
use saga::Order;
use wal_core::{DiskError, DiskOp, Log, OpenError, OpenMode, Opening, SegmentId};

/// What a node is.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name: where messages reach it.
    pub name: NodeName,
    /// Its coordinator, if it has one. The coordinator's id is the node's name.
    pub coordinator: Option<coordinator::Config>,
    /// Its participant, if it has one.
    pub participant: Option<host::Config>,
    /// Both logs' configuration.
    pub log: wal_core::Config,
    /// The id of a log that does not exist yet: 64 random bits of the shell's, never used twice. The
    /// participant's log takes this, the coordinator's its complement.
    pub new_log_id: u64,
}

impl Config {
    /// A coordinator and a participant, by the defaults.
    #[must_use]
    pub fn both(name: NodeName, new_log_id: u64, key: Key) -> Config {
        Config {
            name,
            coordinator: Some(coordinator::Config::new(CoordinatorId(name.0), key)),
            participant: Some(host::Config::new(name)),
            log: wal_core::Config::default(),
            new_log_id,
        }
    }
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message arrived.
    Message {
        /// From whom.
        from: NodeName,
        /// What.
        message: Message,
    },
    /// The last [`Output::Disk`] of this log is done, or one of its operations failed.
    Flushed {
        /// Which log.
        slot: LogSlot,
        /// How it went.
        result: Result<(), DiskError>,
    },
    /// The time that [`Node::next_wake`] named has come.
    Wake,
    /// A client's request.
    Submit(Request),
    /// A client cancels its request: see [`Engine::cancel`]. What comes of it is told as the request's
    /// outcome.
    Cancel(RequestKey),
    /// An operator orders something about a step of a saga: see [`Engine::order`].
    Order {
        /// The saga.
        id: OperationId,
        /// Its step.
        step: u32,
        /// What.
        order: Box<Order>,
    },
    /// An operator ends something in doubt, or forgets what came of it: see [`Engine::intervene`] and
    /// [`Host::intervene`].
    Intervene(Box<Intervention>),
}

/// What runs behind one log, once it is open.
trait Resident: Sized {
    type Config: Clone + std::fmt::Debug;
    const SLOT: LogSlot;
    fn resume(
        config: Self::Config,
        replay: Replay,
        log: Log,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Self;
    fn log(&self) -> &Log;
}

/// In a box: most nodes of a network have none.
impl Resident for Box<Engine> {
    type Config = coordinator::Config;
    const SLOT: LogSlot = LogSlot::Coordinator;
    fn resume(
        config: Self::Config,
        replay: Replay,
        log: Log,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Self {
        Box::new(Engine::resume(config, replay, log, now, out))
    }

    fn log(&self) -> &Log {
        Engine::log(self)
    }
}

impl Resident for Host {
    type Config = host::Config;
    const SLOT: LogSlot = LogSlot::Participant;
    fn resume(
        config: Self::Config,
        replay: Replay,
        log: Log,
        now: Time,
        out: &mut Vec<Output>,
    ) -> Self {
        Host::resume(config, replay, log, now, out)
    }

    fn log(&self) -> &Log {
        Host::log(self)
    }
}

/// A log's configuration, the id that it gets if it is new, how it is opened, and the node's name.
type Settings = (wal_core::Config, u64, OpenMode, NodeName);

/// A part of the node: absent, not begun, recovering, running, or stopped for good.
#[derive(Clone, Debug)]
enum Part<R: Resident> {
    Absent,
    /// It is opened once the other log is claimed.
    Held(Box<(R::Config, Settings)>),
    Opening(Box<Recovery<R>>),
    Running(R),
    Dead,
}

#[derive(Clone, Debug)]
struct Recovery<R: Resident> {
    config: R::Config,
    log: wal_core::Config,
    new_log_id: u64,
    mode: OpenMode,
    node: NodeName,
    opening: Opening,
    replay: Replay,
    step: Step,
}

/// What the disk was last asked for while a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The new epoch, in a new segment.
    Claim,
    /// The old tail, rewritten or cut, and its seal.
    Seal,
}

impl<R: Resident> Recovery<R> {
    /// Reads what is there, and claims the log under a new epoch.
    fn begin(
        config: R::Config,
        settings: Settings,
        disks: &dyn Disks,
    ) -> Result<(Recovery<R>, Vec<DiskOp>), OpenError> {
        let (log, new_log_id, mode, node) = settings;
        let directory = disks.directory(R::SLOT);
        let mut replay = Replay::new(node);
        let mut opening = Opening::scan(directory, log.clone(), mode, &mut replay)?;
        let candidate = opening.scanned().epoch.next().ok_or(OpenError::EpochsExhausted)?;
        let epoch = replay.free_epoch(candidate).ok_or(OpenError::EpochsExhausted)?;
        let ops = opening.claim(epoch, new_log_id)?;
        let step = Step::Claim;
        let recovery = Recovery { config, log, new_log_id, mode, node, opening, replay, step };
        Ok((recovery, ops))
    }
}

impl<R: Resident> Part<R> {
    fn open(
        config: Option<R::Config>,
        settings: Settings,
        disks: &dyn Disks,
        out: &mut Vec<Output>,
    ) -> Part<R> {
        let Some(config) = config else { return Part::Absent };
        match Recovery::begin(config, settings, disks) {
            Ok((recovery, ops)) => {
                out.push(Output::Disk { slot: R::SLOT, ops });
                Part::Opening(Box::new(recovery))
            }
            Err(error) => Self::die(&error, out),
        }
    }

    fn die(error: &impl ToString, out: &mut Vec<Output>) -> Part<R> {
        out.push(Output::Died { slot: R::SLOT, reason: error.to_string() });
        Part::Dead
    }

    /// The disk has done what a recovery asked for.
    fn opened(
        self,
        now: Time,
        result: Result<(), DiskError>,
        disks: &dyn Disks,
        out: &mut Vec<Output>,
    ) -> Part<R> {
        let Part::Opening(mut recovery) = self else { return self };
        let directory = disks.directory(R::SLOT);
        if let Err(error) = result {
            // Somebody else claimed the same segment first: look again at what is there now.
            if recovery.step == Step::Claim && error.is_already_there() {
                let Recovery { config, log, new_log_id, mode, node, .. } = *recovery;
                return Self::open(Some(config), (log, new_log_id, mode, node), disks, out);
            }
            return Self::die(&error, out);
        }
        if recovery.step == Step::Claim {
            return match recovery.opening.read_tail(directory, &mut recovery.replay) {
                Ok(ops) => {
                    recovery.step = Step::Seal;
                    out.push(Output::Disk { slot: R::SLOT, ops });
                    Part::Opening(recovery)
                }
                // Another one who takes over has sealed less than was read: what was told is void.
                Err(OpenError::ClaimedMeanwhile) => {
                    let Recovery { config, log, new_log_id, mode, node, .. } = *recovery;
                    Self::open(Some(config), (log, new_log_id, mode, node), disks, out)
                }
                Err(error) => Self::die(&error, out),
            };
        }
        let Recovery { config, opening, replay, .. } = *recovery;
        let report = Box::new(replay.report(opening.scanned()));
        match opening.finish(directory, now) {
            Ok(log) => {
                out.push(Output::Recovered { slot: R::SLOT, report });
                Part::Running(R::resume(config, replay, log, now, out))
            }
            Err(error) => Self::die(&error, out),
        }
    }

    /// The segment under which this process has its log, once that is claimed.
    fn claimed(&self) -> Option<SegmentId> {
        match self {
            Part::Opening(recovery) if recovery.step == Step::Seal => recovery.opening.segment(),
            Part::Running(resident) => Some(resident.log().segment()),
            _ => None,
        }
    }

    fn running(&mut self) -> Option<&mut R> {
        match self {
            Part::Running(resident) => Some(resident),
            _ => None,
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self, Part::Running(_) | Part::Absent)
    }
}

/// One node: see the crate's page.
///
/// Inputs: [`start`](Self::start), [`handle`](Self::handle), [`receive`](Self::receive); for inputs
/// that came together [`take`](Self::take) and [`end_round`](Self::end_round). Views: the rest. A
/// message for a part that is absent, or still recovering, is as good as lost.
#[derive(Clone, Debug)]
pub struct Node {
    name: NodeName,
    coordinator: Part<Box<Engine>>,
    participant: Part<Host>,
    /// When each of the two is to be woken: only what an input touches can change it.
    wakes: [Option<Time>; 2],
    /// What this round's inputs have touched so far.
    touched: Touched,
}

impl Node {
    /// Starts a node: its logs are read, claimed and recovered, each in a few steps that wait for the
    /// disk. [`Output::Recovered`] tells what was found, before anything acts on it.
    pub fn start(
        config: Config,
        mode: OpenMode,
        now: Time,
        disks: &dyn Disks,
        out: &mut Vec<Output>,
    ) -> Node {
        let Config { name, coordinator, participant, log, new_log_id } = config;
        let settings = |id| (log.clone(), id, mode, name);
        let coordinator = Part::open(coordinator, settings(!new_log_id), disks, out);
        let settings = settings(new_log_id);
        // See `keep_both`.
        let participant = match (participant, &coordinator) {
            (Some(config), Part::Opening(_)) if mode == OpenMode::TakeOver => {
                Part::Held(Box::new((config, settings)))
            }
            (config, _) => Part::open(config, settings, disks, out),
        };
        let (wakes, touched) = ([None, None], Touched::BOTH);
        let mut node = Node { name, coordinator, participant, wakes, touched };
        node.end_round(now, out);
        node
    }

    /// Takes one input, and adds what it wants done, in order: a round of its own.
    pub fn handle(&mut self, now: Time, input: Input, disks: &dyn Disks, out: &mut Vec<Output>) {
        self.take(now, input, disks, out);
        self.end_round(now, out);
    }

    /// Takes one of several inputs that are there together. What they want of the disk is handed out by
    /// [`end_round`](Self::end_round), in one flush, so that they share a sync. A shell under load that
    /// ends a round after each input pays for two: the first input's records go alone, and those of
    /// all others wait for that to be done.
    pub fn take(&mut self, now: Time, input: Input, disks: &dyn Disks, out: &mut Vec<Output>) {
        let touched = match input {
            Input::Message { from, message } => self.take_in(now, from, &message, out),
            Input::Flushed { slot: LogSlot::Coordinator, result } => {
                match &mut self.coordinator {
                    Part::Running(engine) => engine.flushed(now, result, out),
                    part => {
                        let opening = std::mem::replace(part, Part::Dead);
                        *part = opening.opened(now, result, disks, out);
                        if part.claimed().is_some() {
                            self.open_held(disks, out);
                        }
                    }
                }
                Touched::COORDINATOR
            }
            Input::Flushed { slot: LogSlot::Participant, result } => {
                match &mut self.participant {
                    Part::Running(host) => host.flushed(now, result, out),
                    part => {
                        let opening = std::mem::replace(part, Part::Dead);
                        *part = opening.opened(now, result, disks, out);
                        if part.claimed().is_some() {
                            self.keep_both(disks, out);
                        }
                    }
                }
                Touched::BOTH
            }
            Input::Wake => {
                if let Some(engine) = self.coordinator.running() {
                    engine.wake(now, out);
                }
                if let Some(host) = self.participant.running() {
                    host.wake(now, out);
                }
                Touched::BOTH
            }
            Input::Submit(request) => {
                if let Some(engine) = self.coordinator.running() {
                    engine.submit(now, request, out);
                }
                Touched::COORDINATOR
            }
            Input::Cancel(key) => {
                if let Some(engine) = self.coordinator.running() {
                    // One that comes too late changes nothing.
                    let _ = engine.cancel(now, &key, out);
                }
                Touched::COORDINATOR
            }
            Input::Order { id, step, order } => {
                if let Some(engine) = self.coordinator.running() {
                    engine.order(now, id, step, *order, out);
                }
                Touched::COORDINATOR
            }
            Input::Intervene(what) => self.intervene(now, &what, out),
        };
        self.touched.add(touched);
    }

    /// Ends a round: hands out what the logs have to write by now. A part that was not touched is left
    /// alone, unless it was to be woken by now.
    pub fn end_round(&mut self, now: Time, out: &mut Vec<Output>) {
        let due = |wake: Option<Time>| wake.is_some_and(|wake| wake <= now);
        let touched = std::mem::take(&mut self.touched);
        let [coordinator, participant] = &mut self.wakes;
        if touched.coordinator || due(*coordinator) {
            *coordinator = self.coordinator.running().and_then(|engine| {
                engine.flush(now, out);
                engine.next_wake()
            });
        }
        if touched.participant || due(*participant) {
            *participant = self.participant.running().and_then(|host| {
                host.flush(now, out);
                host.next_wake()
            });
        }
    }

    /// Takes a message: the same as [`Input::Message`], for a shell that keeps it.
    pub fn receive(&mut self, now: Time, from: NodeName, message: &Message, out: &mut Vec<Output>) {
        let touched = self.take_in(now, from, message, out);
        self.touched.add(touched);
        self.end_round(now, out);
    }

    /// When [`Input::Wake`] is due, at the latest. It may come earlier.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        let [coordinator, participant] = self.wakes;
        Time::earliest(coordinator, participant)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> NodeName {
        self.name
    }

    /// True once everything that it has is recovered and running.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.coordinator.is_ready() && self.participant.is_ready()
    }

    /// Its coordinator, if it has one and it runs.
    #[must_use]
    pub fn coordinator(&self) -> Option<&Engine> {
        match &self.coordinator {
            Part::Running(engine) => Some(engine),
            _ => None,
        }
    }

    /// Its participant, if it has one and it runs.
    #[must_use]
    pub fn participant(&self) -> Option<&Host> {
        match &self.participant {
            Part::Running(host) => Some(host),
            _ => None,
        }
    }

    fn take_in(
        &mut self,
        now: Time,
        from: NodeName,
        message: &Message,
        out: &mut Vec<Output>,
    ) -> Touched {
        let for_coordinator = match message {
            Message::Transaction(message) => matches!(
                message,
                twopc::Message::Vote { .. }
                    | twopc::Message::Ack { .. }
                    | twopc::Message::Inquiry { .. }
            ),
            Message::StepReply { .. } | Message::Announce { .. } | Message::AskFinished => true,
            Message::StepCall { .. } | Message::Hello | Message::Finished { .. } => false,
        };
        if for_coordinator {
            if let Some(engine) = self.coordinator.running() {
                engine.receive(now, from, message, out);
            }
            Touched::COORDINATOR
        } else {
            if let Some(host) = self.participant.running() {
                host.receive(now, from, message, out);
            }
            Touched::PARTICIPANT
        }
    }

    fn intervene(&mut self, now: Time, what: &Intervention, out: &mut Vec<Output>) -> Touched {
        let (part, touched) = match what.of {
            Doubtful::Transaction(_) | Doubtful::Saga(_) => {
                let engine = self.coordinator.running();
                (engine.map(|engine| engine.intervene(now, what, out)), Touched::COORDINATOR)
            }
            Doubtful::Branch(_) => {
                let host = self.participant.running();
                (host.map(|host| host.intervene(now, what, out)), Touched::PARTICIPANT)
            }
        };
        if part.is_none() {
            let (of, force, result) = (what.of, what.force, Err(ForceError::NotHere));
            out.push(Output::Intervened(Box::new(Intervened { of, force, result })));
        }
        touched
    }

    fn open_held(&mut self, disks: &dyn Disks, out: &mut Vec<Output>) {
        match std::mem::replace(&mut self.participant, Part::Dead) {
            Part::Held(held) => {
                let (config, settings) = *held;
                self.participant = Part::open(Some(config), settings, disks, out);
            }
            begun => self.participant = begun,
        }
    }

    /// One of its logs, once it is open.
    #[must_use]
    pub fn log(&self, slot: LogSlot) -> Option<&Log> {
        match slot {
            LogSlot::Coordinator => self.coordinator().map(Engine::log),
            LogSlot::Participant => self.participant().map(Host::log),
        }
    }

    /// Takes the operations of an [`Output::Disk`] back once they were performed. Optional: the log's next flush writes
    /// from the same memory.
    pub fn reuse(&mut self, slot: LogSlot, spent: Vec<DiskOp>) {
        match slot {
            LogSlot::Coordinator => {
                if let Some(engine) = self.coordinator.running() {
                    engine.reuse(spent);
                }
            }
            LogSlot::Participant => {
                if let Some(host) = self.participant.running() {
                    host.reuse(spent);
                }
            }
        }
    }

    /// Whether the disk has room for the current segment only of one of its logs, as the shell knows: while it has,
    /// what does not fit is refused or done later, and nothing fails. See [`Log::confine`].
    pub fn confine_log(&mut self, slot: LogSlot, confined: bool) {
        match slot {
            LogSlot::Coordinator => {
                self.coordinator.running().into_iter().for_each(|it| it.confine_log(confined));
            }
            LogSlot::Participant => {
                self.participant.running().into_iter().for_each(|it| it.confine_log(confined));
            }
        }
    }

    /// Two processes that take a node over at the same time may each get one of its logs. Then neither
    /// may stay: whoever has the other log of one that went could be idle for ever, refused by everybody,
    /// and never look. So a coordinator's log is claimed before the participant's is begun, and once
    /// that is claimed too it is looked whether the first is still ours: whoever claims the
    /// participant's log last has both, or stops here.
    fn keep_both(&mut self, disks: &dyn Disks, out: &mut Vec<Output>) {
        let Some(own) = self.coordinator.claimed() else { return };
        let stays = match disks.directory(LogSlot::Coordinator).segments() {
            Ok(there) => there.last().is_none_or(|newest| *newest <= own),
            // What cannot be read now fails at the next flush.
            Err(_) => true,
        };
        if !stays {
            self.coordinator = Part::die(&DiskError::Fenced, out);
        }
    }
}

/// Which parts a round's inputs concern.
#[derive(Clone, Copy, Debug, Default)]
struct Touched {
    coordinator: bool,
    participant: bool,
}

impl Touched {
    const COORDINATOR: Touched = Touched { coordinator: true, participant: false };
    const PARTICIPANT: Touched = Touched { coordinator: false, participant: true };
    const BOTH: Touched = Touched { coordinator: true, participant: true };

    fn add(&mut self, more: Touched) {
        self.coordinator |= more.coordinator;
        self.participant |= more.participant;
    }
}
