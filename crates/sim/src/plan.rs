//! Fault plans: numbered lists of what goes wrong and when. The world only executes them; a
//! generator draws one from a seed and a scenario.

use crate::disk::DiskFate;
use crate::scenario::{Chaos, Kind, Scenario};
use base::Time;
use base::prng::{Key, Stream};
use node::MessageKind;
use std::time::Duration;
use wal_core::EventType;

/// Something that a node does, for faults to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A record of this type is appended.
    Append(EventType),
    /// A record of this type has become durable.
    Durable(EventType),
    /// A message of this kind is about to leave.
    Send(MessageKind),
    /// A write is about to be made.
    Write,
    /// A sync is about to begin.
    Sync,
    /// A segment in front of a snapshot is about to be taken out of its log.
    Retire,
    /// A segment that was taken out is about to be overwritten.
    Blank,
    /// Anything at all is about to leave the process: a write, a message, an answer to a client.
    Output,
    /// A disk operation of a recovery is about to be made.
    Recovery,
}

/// When a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// At this time.
    At(Time),
    /// At a node's `nth` signal (from 1), counted from `from`.
    On {
        /// Which signal.
        signal: Signal,
        /// Whose.
        node: u32,
        /// Which of them.
        nth: u32,
        /// Counted from when.
        from: Time,
    },
}

/// Some of the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeSet {
    /// All that are not in the other set of a pair; alone, all.
    Rest,
    /// Those of one region.
    Region(u32),
    /// Those listed.
    Nodes(Vec<u32>),
}

/// What a disk does to a sector that it has said to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It reads as zeros.
    Zeroed,
    /// It reads as it was before it was written last: that write was never done.
    Stale,
    /// It was written over another sector, and its own reads as before.
    Misdirected,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The node loses its power: unsynced data meet their fates. Back after `down`.
    PowerLoss {
        /// Who.
        node: u32,
        /// For how long.
        down: Duration,
        /// At which disk operations of the recoveries that follow it loses power again.
        again: Vec<u32>,
        /// What is left of what it had not synced; `None`: as drawn.
        unsynced: Option<DiskFate>,
    },
    /// The process dies, the page cache lives. Back after `down`.
    ProcessCrash {
        /// Who.
        node: u32,
        /// For how long.
        down: Duration,
    },
    /// The process stops in the middle of what it does. A successor takes its logs over after
    /// `successor`; the old process goes on after `resume`, not knowing, until it notices, or for
    /// two seconds.
    Zombie {
        /// Who.
        node: u32,
        /// When the successor starts.
        successor: Duration,
        /// When the zombie wakes.
        resume: Duration,
    },
    /// The process stops, and goes on as if nothing had happened.
    Pause {
        /// Who.
        node: u32,
        /// For how long.
        lasts: Duration,
    },
    /// No message passes from one set to the other.
    Partition {
        /// From here …
        from: NodeSet,
        /// … to here.
        to: NodeSet,
        /// And back.
        symmetric: bool,
        /// For how long.
        lasts: Duration,
    },
    /// The node's next sync fails: what it was to make durable is not, and no later one makes it so.
    SyncError {
        /// Who.
        node: u32,
    },
    /// The node's next write fails, perhaps after a part of it was written.
    WriteError {
        /// Who.
        node: u32,
        /// A part of it is written.
        short: bool,
    },
    /// Nothing can be read from the node's disk.
    ReadError {
        /// Who.
        node: u32,
        /// For how long.
        lasts: Duration,
    },
    /// The node's disk has no room: whatever takes more fails.
    DiskFull {
        /// Who.
        node: u32,
        /// For how long.
        lasts: Duration,
    },
    /// The node's disk has no room for the next segment of a log, and its shell knows: a log takes what fits into
    /// the segment that it has, and refuses the rest before it is accepted.
    LogConfined {
        /// Who.
        node: u32,
        /// For how long.
        lasts: Duration,
    },
    /// The node's syncs are not done before this is over.
    Stall {
        /// Who.
        node: u32,
        /// For how long.
        lasts: Duration,
    },
    /// One bit changes of what a log of the node holds for good.
    BitRot {
        /// Who.
        node: u32,
    },
    /// A sector changes of what a log of the node holds for good.
    Damage {
        /// Who.
        node: u32,
        /// How.
        how: Damage,
    },
    /// Messages from one set to the other wait until this is over, and then all of them arrive.
    Clog {
        /// From here …
        from: NodeSet,
        /// … to here.
        to: NodeSet,
        /// And back.
        symmetric: bool,
        /// For how long.
        lasts: Duration,
    },
    /// The node's clock goes forward at once, as where a machine was suspended. Its calendar, which a
    /// process reads when it starts, may be put back as well.
    ClockJump {
        /// Whose.
        node: u32,
        /// How far.
        by: Duration,
        /// The calendar goes back.
        back: bool,
    },
    /// Every partition, drop and disk fault that lasts ends now.
    Heal,
    /// Messages of one kind are lost.
    Drop {
        /// Which.
        kind: MessageKind,
        /// From here …
        from: NodeSet,
        /// … to here.
        to: NodeSet,
        /// For how long.
        lasts: Duration,
    },
}

/// One entry of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub trigger: Trigger,
    /// What.
    pub action: Action,
    /// It stands in the scenario: a run in which it never strikes has not tested what it says.
    pub named: bool,
}

/// What goes wrong in one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By number.
    pub faults: Vec<Fault>,
}

impl Action {
    /// The names of all.
    pub const NAMES: [&'static str; 19] = [
        "power-loss",
        "process-crash",
        "zombie",
        "pause",
        "partition",
        "heal",
        "drop",
        "sync-error",
        "write-error",
        "read-error",
        "disk-full",
        "log-confined",
        "stall",
        "bit-rot",
        "zeroed-sector",
        "stale-sector",
        "misdirected-write",
        "clog",
        "clock-jump",
    ];

    /// Its name in counters and files.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::PowerLoss { .. } => "power-loss",
            Self::ProcessCrash { .. } => "process-crash",
            Self::Zombie { .. } => "zombie",
            Self::Pause { .. } => "pause",
            Self::Partition { .. } => "partition",
            Self::Heal => "heal",
            Self::Drop { .. } => "drop",
            Self::SyncError { .. } => "sync-error",
            Self::WriteError { .. } => "write-error",
            Self::ReadError { .. } => "read-error",
            Self::DiskFull { .. } => "disk-full",
            Self::LogConfined { .. } => "log-confined",
            Self::Stall { .. } => "stall",
            Self::BitRot { .. } => "bit-rot",
            Self::Damage { how: Damage::Zeroed, .. } => "zeroed-sector",
            Self::Damage { how: Damage::Stale, .. } => "stale-sector",
            Self::Damage { how: Damage::Misdirected, .. } => "misdirected-write",
            Self::Clog { .. } => "clog",
            Self::ClockJump { .. } => "clock-jump",
        }
    }
}

impl Action {
    /// Whether it waits until a node comes upon it: it has struck once that shows.
    #[must_use]
    pub fn shows_later(&self) -> bool {
        matches!(
            self,
            Self::SyncError { .. }
                | Self::WriteError { .. }
                | Self::ReadError { .. }
                | Self::DiskFull { .. }
                | Self::Stall { .. }
                | Self::BitRot { .. }
                | Self::Damage { .. }
        )
    }

    /// Whom it strikes, if that is one node.
    #[must_use]
    pub fn node(&self) -> Option<u32> {
        match self {
            Self::PowerLoss { node, .. }
            | Self::ProcessCrash { node, .. }
            | Self::Zombie { node, .. }
            | Self::Pause { node, .. }
            | Self::SyncError { node }
            | Self::WriteError { node, .. }
            | Self::ReadError { node, .. }
            | Self::DiskFull { node, .. }
            | Self::LogConfined { node, .. }
            | Self::Stall { node, .. }
            | Self::BitRot { node }
            | Self::Damage { node, .. }
            | Self::ClockJump { node, .. } => Some(*node),
            Self::Partition { .. } | Self::Clog { .. } | Self::Heal | Self::Drop { .. } => None,
        }
    }
}

impl Plan {
    /// The plan of a run: what the scenario names, then what its chaos draws from the seed. Each
    /// entry is a function of the seed, its kind and its number: one more moves no other.
    #[must_use]
    pub fn generate(scenario: &Scenario, seed: u64) -> Plan {
        let mut faults = scenario.named_faults();
        let chaos = &scenario.swarm.chaos(&scenario.chaos, seed);
        let draw = Generator {
            key: Key::root(seed).child("plan"),
            chaos,
            nodes: *scenario.cluster.nodes.get_ref(),
            coordinators: *scenario.cluster.coordinators.get_ref(),
            regions: *scenario.cluster.regions.get_ref(),
            kind: scenario.workload.kind,
        };
        let kinds: [(&str, u32, Draw<'_>); 22] = [
            ("coordinator_crashes", chaos.coordinator_crashes, Generator::coordinator_crash),
            ("participant_crashes", chaos.participant_crashes, Generator::participant_crash),
            ("compaction_crashes", chaos.compaction_crashes, Generator::compaction_crash),
            ("process_crashes", chaos.process_crashes, Generator::process_crash),
            ("zombies", chaos.zombies, Generator::zombie),
            ("pauses", chaos.pauses, Generator::pause),
            ("partitions", chaos.partitions, Generator::partition),
            ("drops", chaos.drops, Generator::drop),
            ("heals", chaos.heals, Generator::heal),
            ("sync_errors", chaos.sync_errors, Generator::sync_error),
            ("write_errors", chaos.write_errors, Generator::write_error),
            ("read_errors", chaos.read_errors, Generator::read_error),
            ("disks_full", chaos.disks_full, Generator::disk_full),
            ("stalls", chaos.stalls, Generator::stall),
            ("bit_rot", chaos.bit_rot, Generator::bit_rot),
            ("clock_jumps", chaos.clock_jumps, Generator::clock_jump),
            ("zeroed_sectors", chaos.zeroed_sectors, Generator::zeroed_sector),
            ("stale_sectors", chaos.stale_sectors, Generator::stale_sector),
            ("misdirected_writes", chaos.misdirected_writes, Generator::misdirected_write),
            ("clogs", chaos.clogs, Generator::clog),
            ("recovery_sync_errors", chaos.recovery_sync_errors, Generator::recovery_sync_error),
            ("logs_confined", chaos.logs_confined, Generator::log_confined),
        ];
        for (kind, count, make) in kinds {
            let key = draw.key.child(kind);
            for number in 0..count {
                let mut stream = key.keyed(u64::from(number)).stream();
                faults.push(make(&draw, number, &mut stream));
            }
        }
        Plan { faults }
    }

    /// True if a process may be replaced while it is still there.
    #[must_use]
    pub fn has_zombies(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault.action, Action::Zombie { .. }))
    }

    /// True if anything goes wrong.
    #[must_use]
    pub fn is_not_empty(&self) -> bool {
        !self.faults.is_empty()
    }

    /// The last moment that an entry names, or from which it counts.
    #[must_use]
    pub fn last_moment(&self) -> Time {
        let moments = self.faults.iter().map(|fault| match fault.trigger {
            Trigger::At(at) => at,
            Trigger::On { from, .. } => from,
        });
        moments.max().unwrap_or(Time::ZERO)
    }
}

const SAGA_EVENTS: [EventType; 8] = [
    EventType::SAGA_CREATED,
    EventType::SAGA_EXECUTE_START,
    EventType::SAGA_STEP_SUCCEEDED,
    EventType::SAGA_STEP_FAILED,
    EventType::SAGA_COMPENSATION_START,
    EventType::SAGA_COMPENSATION_SUCCEEDED,
    EventType::SAGA_COMPENSATED,
    EventType::SAGA_COMPLETED,
];
const TRANSACTION_EVENTS: [EventType; 6] = [
    EventType::TX_CREATED,
    EventType::TX_PREPARE_START,
    EventType::TX_VOTE_RECEIVED,
    EventType::TX_COMMIT_START,
    EventType::TX_COMMIT_COMPLETE,
    EventType::TX_ABORT_START,
];
const PARTICIPANT_EVENTS: [EventType; 3] = [
    EventType::TX_PREPARED,
    EventType::TX_PARTICIPANT_COMMITTED,
    EventType::TX_PARTICIPANT_ABORTED,
];
const TRANSACTION_SENDS: [MessageKind; 4] =
    [MessageKind::Prepare, MessageKind::Commit, MessageKind::Abort, MessageKind::Answer];
/// One of the first of all kinds is dropped by chance: what belongs to operations.
const DROPPED: usize = 13;
const PARTICIPANT_SENDS: [MessageKind; 4] =
    [MessageKind::Vote, MessageKind::Ack, MessageKind::Inquiry, MessageKind::PeerAnswer];

type Draw<'a> = fn(&Generator<'a>, u32, &mut Stream) -> Fault;

struct Generator<'a> {
    key: Key,
    chaos: &'a Chaos,
    nodes: u32,
    coordinators: u32,
    regions: u32,
    kind: Kind,
}

impl Generator<'_> {
    fn moment(&self, stream: &mut Stream) -> Time {
        Time::ZERO + span(self.chaos.window.0, self.chaos.window.1, stream)
    }

    fn lasts(&self, stream: &mut Stream) -> Duration {
        span(self.chaos.lasts.0, self.chaos.lasts.1, stream)
    }

    /// At one of the node's next doings after a moment: any output, or one that the protocol turns
    /// on.
    fn at_a_signal(&self, node: u32, stream: &mut Stream) -> Trigger {
        let from = if stream.below(4) == 0 { Time::ZERO } else { self.moment(stream) };
        let coordinates = node < self.coordinators && stream.below(4) > 0;
        let saga = match self.kind {
            Kind::Saga => true,
            Kind::Twopc => false,
            Kind::Mixed => stream.below(2) == 0,
        };
        let (events, kinds) = match (coordinates, saga) {
            (true, true) => (&SAGA_EVENTS[..], &[MessageKind::Step][..]),
            (true, false) => (&TRANSACTION_EVENTS[..], &TRANSACTION_SENDS[..]),
            (false, true) => (&[EventType::STEP_OUTCOME][..], &[MessageKind::StepReply][..]),
            (false, false) => (&PARTICIPANT_EVENTS[..], &PARTICIPANT_SENDS[..]),
        };
        let signal = match stream.below(8) {
            0 => Signal::Append(pick(events, stream)),
            1 => Signal::Durable(pick(events, stream)),
            2 => Signal::Send(pick(kinds, stream)),
            3 => Signal::Sync,
            4 => Signal::Write,
            _ => Signal::Output,
        };
        // More often soon than late, so that most of them strike.
        let most = 1 << stream.below(6);
        let nth = stream.between(1, most) as u32;
        Trigger::On { signal, node, nth, from }
    }

    fn a_coordinator(&self, stream: &mut Stream) -> u32 {
        stream.below(u64::from(self.coordinators)) as u32
    }

    fn anybody(&self, stream: &mut Stream) -> u32 {
        stream.below(u64::from(self.nodes)) as u32
    }

    fn coordinator_crash(&self, number: u32, stream: &mut Stream) -> Fault {
        let node = self.a_coordinator(stream);
        let trigger = self.at_a_signal(node, stream);
        let down = self.lasts(stream);
        let mut again = Vec::new();
        if number < self.chaos.recovery_crashes {
            let depth = stream.between(1, 3);
            again = (0..depth).map(|_| stream.between(1, 12) as u32).collect();
        }
        Fault {
            trigger,
            action: Action::PowerLoss { node, down, again, unsynced: None },
            named: false,
        }
    }

    fn participant_crash(&self, _: u32, stream: &mut Stream) -> Fault {
        let others = self.nodes - self.coordinators;
        let node = match others {
            0 => self.anybody(stream),
            others => self.coordinators + stream.below(u64::from(others)) as u32,
        };
        let trigger = self.at_a_signal(node, stream);
        let again = if stream.below(4) == 0 { vec![stream.between(1, 12) as u32] } else { vec![] };
        let down = self.lasts(stream);
        Fault {
            trigger,
            action: Action::PowerLoss { node, down, again, unsynced: None },
            named: false,
        }
    }

    /// While a snapshot is written, or while what it stands for is taken away.
    fn compaction_crash(&self, _: u32, stream: &mut Stream) -> Fault {
        let coordinates = stream.below(2) == 0;
        let node = if coordinates { self.a_coordinator(stream) } else { self.anybody(stream) };
        let signal = match stream.below(4) {
            0 => Signal::Append(EventType::CHECKPOINT),
            1 => Signal::Durable(EventType::CHECKPOINT),
            2 => Signal::Retire,
            _ => Signal::Blank,
        };
        let most = 1 << stream.below(4);
        let nth = stream.between(1, most) as u32;
        let down = self.lasts(stream);
        Fault {
            trigger: Trigger::On { signal, node, nth, from: Time::ZERO },
            action: Action::PowerLoss { node, down, again: Vec::new(), unsynced: None },
            named: false,
        }
    }

    fn process_crash(&self, _: u32, stream: &mut Stream) -> Fault {
        let node = self.anybody(stream);
        let trigger = self.at_a_signal(node, stream);
        let down = self.lasts(stream);
        Fault { trigger, action: Action::ProcessCrash { node, down }, named: false }
    }

    fn zombie(&self, _: u32, stream: &mut Stream) -> Fault {
        let node = self.a_coordinator(stream);
        let trigger = self.at_a_signal(node, stream);
        let successor = span(Duration::from_millis(1), Duration::from_millis(100), stream);
        let resume = span(Duration::from_millis(1), Duration::from_secs(1), stream);
        Fault { trigger, action: Action::Zombie { node, successor, resume }, named: false }
    }

    fn pause(&self, _: u32, stream: &mut Stream) -> Fault {
        let node = self.anybody(stream);
        let trigger = self.at_a_signal(node, stream);
        let lasts = self.lasts(stream);
        Fault { trigger, action: Action::Pause { node, lasts }, named: false }
    }

    /// A region, or one node.
    fn few(&self, stream: &mut Stream) -> NodeSet {
        if self.regions > 1 && stream.below(2) == 0 {
            NodeSet::Region(stream.below(u64::from(self.regions)) as u32)
        } else {
            NodeSet::Nodes(vec![self.anybody(stream)])
        }
    }

    fn partition(&self, _: u32, stream: &mut Stream) -> Fault {
        let from = self.few(stream);
        let (to, symmetric) = (NodeSet::Rest, stream.below(3) > 0);
        let trigger = Trigger::At(self.moment(stream));
        let lasts = self.lasts(stream);
        Fault { trigger, action: Action::Partition { from, to, symmetric, lasts }, named: false }
    }

    fn drop(&self, _: u32, stream: &mut Stream) -> Fault {
        let kind = MessageKind::ALL[stream.below(DROPPED as u64) as usize];
        let (from, to) = (NodeSet::Rest, NodeSet::Rest);
        let trigger = Trigger::At(self.moment(stream));
        let lasts = self.lasts(stream);
        Fault { trigger, action: Action::Drop { kind, from, to, lasts }, named: false }
    }

    fn sync_error(&self, _: u32, stream: &mut Stream) -> Fault {
        let node = self.anybody(stream);
        let trigger = self.at_a_signal(node, stream);
        Fault { trigger, action: Action::SyncError { node }, named: false }
    }

    fn write_error(&self, _: u32, stream: &mut Stream) -> Fault {
        let node = self.anybody(stream);
        let trigger = self.at_a_signal(node, stream);
        let short = stream.below(2) == 0;
        Fault { trigger, action: Action::WriteError { node, short }, named: false }
    }

    fn read_error(&self, _: u32, stream: &mut Stream) -> Fault {
        let node = self.anybody(stream);
        let trigger = Trigger::At(self.moment(stream));
        let lasts = self.lasts(stream);
        Fault { trigger, action: Action::ReadError { node, lasts }, named: false }
    }

    fn disk_full(&self, _: u32, stream: &mut Stream) -> Fault {
        let node = self.anybody(stream);
        let trigger = Trigger::At(self.moment(stream));
        let lasts = self.lasts(stream);
        Fault { trigger, action: Action::DiskFull { node, lasts }, named: false }
    }

    fn log_confined(&self, _: u32, stream: &mut Stream) -> Fault {
        let coordinates = stream.below(2) == 0;
        let node = if coordinates { self.a_coordinator(stream) } else { self.anybody(stream) };
        let trigger = self.at_a_signal(node, stream);
        let lasts = self.lasts(stream);
        Fault { trigger, action: Action::LogConfined { node, lasts }, named: false }
    }

    fn stall(&self, _: u32, stream: &mut Stream) -> Fault {
        let node = self.anybody(stream);
        let trigger = self.at_a_signal(node, stream);
        let lasts = self.lasts(stream);
        Fault { trigger, action: Action::Stall { node, lasts }, named: false }
    }

    fn bit_rot(&self, _: u32, stream: &mut Stream) -> Fault {
        let node = self.anybody(stream);
        let trigger = Trigger::At(self.moment(stream));
        Fault { trigger, action: Action::BitRot { node }, named: false }
    }

    fn damage(&self, how: Damage, stream: &mut Stream) -> Fault {
        let node = self.anybody(stream);
        let trigger = Trigger::At(self.moment(stream));
        Fault { trigger, action: Action::Damage { node, how }, named: false }
    }

    fn zeroed_sector(&self, _: u32, stream: &mut Stream) -> Fault {
        self.damage(Damage::Zeroed, stream)
    }

    fn stale_sector(&self, _: u32, stream: &mut Stream) -> Fault {
        self.damage(Damage::Stale, stream)
    }

    fn misdirected_write(&self, _: u32, stream: &mut Stream) -> Fault {
        self.damage(Damage::Misdirected, stream)
    }

    fn clog(&self, _: u32, stream: &mut Stream) -> Fault {
        let from = self.few(stream);
        let (to, symmetric) = (NodeSet::Rest, stream.below(3) > 0);
        let trigger = Trigger::At(self.moment(stream));
        let lasts = self.lasts(stream);
        Fault { trigger, action: Action::Clog { from, to, symmetric, lasts }, named: false }
    }

    /// Of a recovery one of the first syncs fails.
    fn recovery_sync_error(&self, _: u32, stream: &mut Stream) -> Fault {
        let node = self.anybody(stream);
        let (from, nth) = (self.moment(stream), stream.between(1, 6) as u32);
        let trigger = Trigger::On { signal: Signal::Recovery, node, nth, from };
        Fault { trigger, action: Action::SyncError { node }, named: false }
    }

    fn clock_jump(&self, _: u32, stream: &mut Stream) -> Fault {
        let node = self.anybody(stream);
        let trigger = Trigger::At(self.moment(stream));
        let by = self.lasts(stream);
        let back = stream.below(2) == 0;
        Fault { trigger, action: Action::ClockJump { node, by, back }, named: false }
    }

    fn heal(&self, _: u32, stream: &mut Stream) -> Fault {
        Fault { trigger: Trigger::At(self.moment(stream)), action: Action::Heal, named: false }
    }
}

fn pick<T: Copy>(from: &[T], stream: &mut Stream) -> T {
    from[stream.below(from.len() as u64) as usize]
}

fn span(low: Duration, high: Duration, stream: &mut Stream) -> Duration {
    let nanos = |duration: Duration| duration.as_nanos() as u64;
    Duration::from_nanos(stream.between(nanos(low), nanos(high)))
}
