use crate::{Message, RecoveryReport};
use base::{NodeName, OperationId, RequestKey, Sequence, ShardId};
pub use saga::Branch;
use saga::{Definition, End, Label};
use std::fmt;
use std::sync::Arc;
use twopc::coordinator::{AdmissionError, Decision};
use twopc::participant::PromiseKey;
use twopc::{Audit, ForceRefusal, Heuristic};
use wal_core::{DiskOp, EventType};

/// Which of a node's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogSlot {
    /// The coordinator's: sagas and decisions.
    Coordinator,
    /// The participant's: promises and the outcomes of steps.
    Participant,
}

/// What a machine behind a log wants from its shell. The shell performs one node's outputs strictly in
/// order; a crash may fall between any two.
#[derive(Clone, Debug)]
pub enum Output {
    /// Perform these operations in order, and report once the last is done or one has failed.
    Disk {
        /// On which log's directory.
        slot: LogSlot,
        /// What to do.
        ops: Vec<DiskOp>,
    },
    /// Send this message. It may be lost, doubled or late.
    Send {
        /// To whom.
        to: NodeName,
        /// What.
        message: Message,
    },
    /// Tell the client who submitted the request.
    Reply {
        /// The request's key.
        key: RequestKey,
        /// How it ended.
        outcome: Outcome,
    },
    /// A record was appended; nothing to do. It is not durable yet.
    Appended {
        /// To which log.
        slot: LogSlot,
        /// What it says.
        event: EventType,
        /// Its number.
        sequence: Sequence,
    },
    /// A log was opened and replayed: this is what was found, before anything acts on it.
    Recovered {
        /// Which log.
        slot: LogSlot,
        /// What was found.
        report: Box<RecoveryReport>,
    },
    /// A branch of a saga waits for an operator, durably: its compensation did not succeed in as many
    /// attempts as are made, or an operator has forced the abort of the transaction that did or undid the step
    /// and would be begun anew. Told once; [`Engine::parked`](crate::Engine::parked) lists those that wait.
    Parked {
        /// The saga.
        id: OperationId,
        /// Its step.
        step: u32,
        /// How many attempts have failed.
        attempts: u32,
    },
    /// Tell the operator what became of an order.
    Operated(Box<Operated>),
    /// A branch is durably known to have ended otherwise than its transaction: an operator has to see to it.
    /// Told once; [`Engine::heuristics`](crate::Engine::heuristics) lists them until they are forgotten.
    Heuristic {
        /// The transaction.
        id: OperationId,
        /// The branch's shard.
        shard: ShardId,
        /// Who reported it.
        node: NodeName,
        /// What.
        heuristic: Heuristic,
    },
    /// Tell the operator what became of an [`Intervention`].
    Intervened(Box<Intervened>),
    /// The log failed or belongs to a successor: this process must stop, and a new start recover.
    Died {
        /// Which log.
        slot: LogSlot,
        /// Why.
        reason: String,
    },
}

/// What became of an operator's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operated {
    /// The saga.
    pub id: OperationId,
    /// Its step.
    pub step: u32,
    /// It is taken, and durable; or why not.
    pub result: Result<(), OrderError>,
}

/// What an operator ends, or has seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doubtful {
    /// A transaction, at its coordinator.
    Transaction(OperationId),
    /// A saga that is in doubt, at its coordinator: what an operator says of it is how it ended, and nothing of it
    /// is called any more.
    Saga(OperationId),
    /// A branch, at its participant.
    Branch(PromiseKey),
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Force {
    /// It commits; a saga counts as completed.
    Commit,
    /// It aborts; a saga counts as compensated.
    Abort,
    /// Its heuristic outcome has been seen to, and is listed no more.
    Forget,
    /// Of a transaction that commits, at its coordinator: the participant of this shard is gone for good, and its store
    /// with it. Its acknowledgement is not waited for any more, and the branch is listed as [`Heuristic::Lost`]. If it
    /// comes back after all, and has kept its promise, it is told to commit as long as it is listed; so it is to be
    /// forgotten only when that cannot happen, and not before the transaction has ended: it would be waited for again
    /// after a restart.
    Gone(ShardId),
}

/// An operator does what the protocol would not: ends something in doubt, or forgets what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intervention {
    /// What is concerned.
    pub of: Doubtful,
    /// What is done.
    pub force: Force,
    /// Who, when and why: it is kept in the log.
    pub audit: Arc<Audit>,
}

/// What became of an operator's intervention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intervened {
    /// What was concerned.
    pub of: Doubtful,
    /// What was to be done.
    pub force: Force,
    /// It is done, and durable; or why not.
    pub result: Result<(), ForceError>,
}

/// Why an operator's intervention did not take place. Nothing was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForceError {
    /// It does not fit what is known.
    Refused(ForceRefusal),
    /// The log takes nothing more just now, is being compacted, or has failed: try again.
    LogBusy,
    /// This node has no such part, or it has not recovered yet.
    NotHere,
}

impl fmt::Display for ForceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::LogBusy => f.write_str("the log is busy or has failed: try again"),
            Self::NotHere => f.write_str("what would do it does not run here, or not yet"),
        }
    }
}

impl std::error::Error for ForceError {}

impl From<ForceRefusal> for ForceError {
    fn from(refusal: ForceRefusal) -> ForceError {
        ForceError::Refused(refusal)
    }
}

/// Why an operator's order is not taken. Nothing was logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OrderError {
    /// No saga of this id is active here.
    NotActive,
    /// The saga does not take it now.
    Refused(saga::OrderRefusal),
    /// What is asked instead is larger than a log takes.
    TooLarge,
    /// The log takes nothing more just now, or has failed: order it again.
    LogBusy,
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotActive => f.write_str("no saga of this id is active"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::TooLarge => f.write_str("what is asked instead is larger than a log takes"),
            Self::LogBusy => f.write_str("the log's buffer is full: order it again"),
        }
    }
}

impl std::error::Error for OrderError {}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The transaction is committed at every participant, or durably will be.
    Committed,
    /// The transaction is aborted: nothing of it happened.
    Aborted,
    /// Nobody had anything to change: the transaction did what it was asked for, which is nothing. Asked
    /// again after a crash, the same may be called aborted.
    ReadOnly,
    /// Every step of the saga succeeded.
    Completed,
    /// The saga failed, and everything that it did is undone.
    Compensated,
    /// The saga was given up before anything ran.
    SagaAborted,
    /// It was never started.
    Refused(Refusal),
    /// Nobody can say: the coordinator's log was damaged and salvaged, and what it still holds of the
    /// operation does not prove how it went. It is not started again.
    InDoubt,
}

impl From<Decision> for Outcome {
    fn from(decision: Decision) -> Outcome {
        match decision {
            Decision::Commit => Outcome::Committed,
            Decision::Abort => Outcome::Aborted,
            Decision::ReadOnly => Outcome::ReadOnly,
        }
    }
}

impl From<End> for Outcome {
    fn from(end: End) -> Outcome {
        match end {
            End::Completed => Outcome::Completed,
            End::Compensated => Outcome::Compensated,
            End::Aborted => Outcome::SagaAborted,
        }
    }
}

/// Why a request was not started. Nothing of it was logged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// As many operations are active as the configuration allows: ask again later.
    TooManyActive {
        /// The limit.
        active_max: u32,
    },
    /// The saga has more steps than the configuration allows: split it.
    TooManySteps {
        /// The limit.
        steps_max: u32,
    },
    /// Its steps that are sagas nest deeper than the configuration allows: put the innermost ones together.
    TooDeep {
        /// The limit.
        depth_max: u32,
    },
    /// There is no code for an action of this name here.
    UnknownAction {
        /// The name.
        action: Label,
    },
    /// Another request has this key: it goes on as if this one had never come. Choose another key.
    KeyTaken,
    /// The list of participants is wrong.
    Participants(AdmissionError),
    /// A record of it would be larger than a log takes: the coordinator's, or that of a participant,
    /// which has to write the work with the list of all participants (76 bytes each), or with a step's
    /// outcome, and some 80 to 160 bytes besides. Participants are taken to have the coordinator's
    /// limit, `max_payload`.
    TooLarge {
        /// The largest payload, in bytes.
        payload_bytes_max: u32,
    },
    /// The log takes nothing more just now: ask again later.
    LogBusy,
    /// This epoch has used all of its 2^40 ids: restart the coordinator.
    OutOfIds,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyActive { active_max } => {
                write!(f, "{active_max} operations are active, the configured limit: try later")
            }
            Self::TooManySteps { steps_max } => {
                write!(f, "a saga may have at most {steps_max} steps here")
            }
            Self::TooDeep { depth_max } => {
                write!(f, "sagas may nest at most {depth_max} deep here")
            }
            Self::UnknownAction { action } => {
                write!(f, "there is no code for the action \"{action}\" here")
            }
            Self::KeyTaken => f.write_str("another request has this key: choose another one"),
            Self::Participants(error) => error.fmt(f),
            Self::TooLarge { payload_bytes_max } => {
                write!(
                    f,
                    "a record of it, here or at a participant, is larger than {payload_bytes_max} \
                     bytes: ask for less at once"
                )
            }
            Self::LogBusy => f.write_str("the log's buffer is full: try later"),
            Self::OutOfIds => f.write_str("this epoch has no id left: restart the coordinator"),
        }
    }
}

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Run a saga.
    Saga(Definition),
    /// Run a transaction.
    Transaction(Vec<Branch>),
}

/// A client's request. The same key again is the same operation, never a second one, for as long as
/// the coordinator keeps its result: [`Config::results_kept`](crate::Config::results_kept) from its
/// end, or from the start that found the end in the log, and no longer than until
/// [`Config::results_max`](crate::Config::results_max) others have ended.
///
/// One exception: that a transaction is aborted is told before anything of it is durable, since no record
/// is needed for that. A crash may then take it away, and whoever asks again begins it anew. Nothing was
/// done under the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's name for it.
    pub key: RequestKey,
    /// What to do.
    pub work: Work,
}
