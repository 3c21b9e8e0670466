//! Sagas and two-phase commit on one durable log.
//!
//! The [`Engine`] runs every saga and transaction of one coordinator. It guarantees, over a log that
//! keeps what it acknowledged:
//!
//! * every event is in the log before it is acted upon, and durable before anybody outside could
//!   contradict it: effects wait in a [`Gate`] for the record that they rest on;
//! * after a crash a [`Replay`] of the log rebuilds every unfinished operation, a [`RecoveryReport`]
//!   says what each of them is, and [`Engine::resume`] finishes them;
//! * the same [request key](Request::key) is the same operation, before and after a crash.
//!
//! Over a log that was damaged and [salvaged](salvage) it acts on nothing that a lost record could
//! contradict.
//!
//! It does not read a clock, open a file or send a message: it is told `(now, input)` and says what it
//! wants. It starts no thread, and two engines on one log are excluded by the log's epoch.
//!
//! What a log says can be looked at without acting on it:
//!
//! ```
//! use coordinator::{RecoveryAction, Replay, codec};
//! use base::{CoordinatorId, OperationId, Sequence};
//! use saga::Event;
//! use wal_core::{EventType, Record, ScanConfig};
//!
//! // A raw stream of two records, as the published system would have written it.
//! let (id, mut stream) = (OperationId(7), Vec::new());
//! let (coordinator, terms) = (CoordinatorId::default(), Default::default());
//! let created = Event::Created { coordinator, nonce: 0, request_key: None, terms };
//! for (sequence, event) in [(1, created), (2, Event::ExecuteStart)] {
//!     let mut payload = Vec::new();
//!     let event = codec::encode_saga(id, &event, &mut payload);
//!     let record = Record { sequence: Sequence(sequence), event, timestamp_ms: 0, payload: &payload };
//!     wal_core::encode_record(&record, &mut stream);
//! }
//!
//! let mut replay = Replay::default();
//! let scanned = wal_core::scan_stream(&mut stream.as_slice(), &ScanConfig::default(), &mut replay)?;
//! let report = replay.report(&scanned);
//! assert_eq!(report.operations[0].action, RecoveryAction::SagaResumeExecute);
//! # Ok::<(), wal_core::ScanError>(())
//! ```

pub mod codec;
mod engine;
mod explain;
mod gate;
mod gated;
mod message;
mod output;
mod replay;
mod report;
mod salvage;
mod snapshot;
mod snapshot_writer;
pub mod wire;

pub use codec::{Doubt, StepOutcome};
pub use engine::{CancelRefusal, Config, Engine, Retrying, Stats, StepOperation};
pub use explain::{explain_decision, explain_end};
pub use gate::Gate;
pub use gated::GatedLog;
pub use message::{Call, Message, MessageKind, SagaKey, StepAnswer, UndoOrder};
pub use output::{Branch, LogSlot, Operated, OrderError, Outcome, Output, Refusal, Request, Work};
pub use output::{Doubtful, Force, ForceError, Intervened, Intervention};
pub use replay::{EndedOperation, InDoubt, LocalEffect, Operations, Replay};
pub use report::{Anomaly, Capped, OperationKind, OperationReport, RecoveryAction, RecoveryReport};
pub use salvage::{SalvageError, Salvaged, salvage, salvage_streams};
pub use snapshot::{Answered, carried};
pub use snapshot_writer::SnapshotWriter;
