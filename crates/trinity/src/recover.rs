//! `trinity wal recover`: what a log says, and what a recovery would do about it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use coordinator::{OperationKind, OperationReport, RecoveryReport, Replay};
use serde::Serialize;
use twopc::Vote;
use twopc::coordinator::Decision;
use wal_core::{Corruption, Guard, Integrity, Place, Record, Scanned, Visitor};

use crate::error::{Error, Exit};
use crate::line::Name;
use crate::source::{FileNames, Source};
use crate::terminal::{Brake, Output, Progress, notes, utc};

/// What to look at.
///
/// The log is read as if it ended where it is sound; opening it for writing is what repairs it.
#[derive(clap::Args)]
pub struct Args {
    /// A log's directory, or a file that holds a raw stream
    path: PathBuf,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Replays a log and prints what it finds.
///
/// # Errors
/// [`Error`]. Damage is none: it is part of what is printed, and the exit code.
pub fn run(args: &Args) -> Result<Exit, Error> {
    let mut source = Source::open(&args.path)?;
    let brake = Brake::default();
    let mut watched =
        Watched { replay: Replay::default(), progress: Progress::new("records", false) };
    let scanned = source.scan(&brake, &mut watched)?;
    drop(watched.progress);
    let report = watched.replay.report(&scanned);
    let files = source.file_names();
    let mut output = Output::new(&brake);
    if args.json {
        let json = Json::of(&report, &files);
        output.write(|to| {
            serde_json::to_writer(&mut *to, &json)?;
            to.write_all(b"\n")
        });
    } else {
        output.write(|to| print(to, &report));
    }
    output.finish()?;
    let clean = !scanned.is_corrupt() && report.anomalies.total() == 0;
    Ok(if clean { Exit::Clean } else { Exit::Damaged })
}

struct Watched {
    replay: Replay,
    progress: Progress,
}

impl Visitor for Watched {
    fn record(&mut self, record: &Record<'_>, place: Place) {
        self.progress.tick();
        self.replay.record(record, place);
    }

    fn guard(&mut self, guard: &Guard, place: Place) {
        self.replay.guard(guard, place);
    }

    fn hole(&mut self, hole: &Corruption) {
        self.replay.hole(hole);
    }
}

// ---- JSON: the fields' order is the one that is documented ----

#[derive(Serialize)]
struct Json<'a> {
    records: u64,
    last_sequence: u64,
    saga_events: u64,
    tx_events: u64,
    checkpoints: u64,
    corrupted_records: u64,
    torn_tail_bytes: u64,
    integrity: &'static str,
    operations: Vec<Operation<'a>>,
    completed: Completed,
    completed_left_out: u64,
    anomalies: Vec<Anomaly<'a>>,
    anomalies_left_out: u64,
    corruption: Vec<Damaged>,
    corruption_left_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<End>,
    #[serde(skip_serializing_if = "is_zero")]
    lost_header_copies: u64,
    #[serde(skip_serializing_if = "is_zero")]
    fenced_bytes: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unknown_ids_in_doubt: bool,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Operation<'a> {
    Saga {
        id: u64,
        state: &'static str,
        action: &'static str,
        in_doubt: bool,
        steps: u32,
        next_step: Option<u32>,
        run: &'a [u32],
        undo: &'a [u32],
        /// Steps that wait for an operator: no log holds any yet.
        parked: [u32; 0],
        #[serde(flatten)]
        records: Records,
    },
    Tx {
        id: u64,
        state: &'static str,
        action: &'static str,
        in_doubt: bool,
        participants: Vec<Participant>,
        votes: BTreeMap<String, &'static str>,
        #[serde(flatten)]
        records: Records,
    },
    Participant {
        coordinator: String,
        id: u64,
        state: &'static str,
        action: &'static str,
        in_doubt: bool,
        shard: String,
        #[serde(flatten)]
        records: Records,
    },
}

#[derive(Serialize)]
struct Records {
    evidence_sequence: u64,
    last_sequence: u64,
    created_ms: Option<i64>,
}

#[derive(Serialize)]
struct Participant {
    shard: String,
    node: String,
}

#[derive(Serialize)]
struct Completed {
    saga: BTreeMap<u64, &'static str>,
    tx: BTreeMap<u64, &'static str>,
}

#[derive(Serialize)]
struct Anomaly<'a> {
    sequence: u64,
    what: &'a str,
}

#[derive(Serialize)]
struct Damaged {
    file: String,
    offset: u64,
    bytes: u64,
    what: String,
}

/// Where the sound part of the log ends, if a torn tail follows.
#[derive(Serialize)]
struct End {
    file: String,
    offset: u64,
}

impl<'a> Json<'a> {
    fn of(report: &'a RecoveryReport, files: &FileNames) -> Json<'a> {
        let scanned = &report.scanned;
        let (completed, completed_left_out) = Completed::of(report);
        let anomalies = report.anomalies.entries.iter();
        let corruption = scanned.corruption.iter();
        Json {
            records: scanned.records,
            last_sequence: scanned.last_sequence.0,
            saga_events: scanned.stats.saga_events,
            tx_events: scanned.stats.transaction_events,
            checkpoints: scanned.stats.checkpoints,
            corrupted_records: scanned.corrupted_records,
            torn_tail_bytes: scanned.torn_tail_bytes,
            integrity: integrity(scanned),
            operations: report.operations.iter().map(Operation::of).collect(),
            completed,
            completed_left_out,
            anomalies: anomalies
                .map(|anomaly| Anomaly { sequence: anomaly.sequence.0, what: &anomaly.what })
                .collect(),
            anomalies_left_out: report.anomalies.left_out,
            corruption: corruption.map(|damage| Damaged::of(damage, files)).collect(),
            corruption_left_out: scanned.corruption_left_out,
            end: scanned
                .end
                .filter(|_| scanned.torn_tail_bytes > 0)
                .map(|(segment, offset)| End { file: files.of(segment).into_owned(), offset }),
            lost_header_copies: scanned.lost_header_copies,
            fenced_bytes: scanned.fenced_bytes,
            unknown_ids_in_doubt: report.unknown_ids_in_doubt,
        }
    }
}

impl<'a> Operation<'a> {
    fn of(operation: &'a OperationReport) -> Operation<'a> {
        let OperationReport { state, in_doubt, created_ms, .. } = *operation;
        let id = operation.id.0;
        let action = operation.action.name();
        let records = Records {
            evidence_sequence: operation.evidence.0,
            last_sequence: operation.last.0,
            created_ms,
        };
        match &operation.kind {
            OperationKind::Saga { steps, next_step, run, undo } => {
                let (steps, next_step, parked) = (*steps, *next_step, []);
                Operation::Saga {
                    id,
                    state,
                    action,
                    in_doubt,
                    steps,
                    next_step,
                    run,
                    undo,
                    parked,
                    records,
                }
            }
            OperationKind::Transaction { members, votes } => {
                let participants = members.iter().map(|member| Participant {
                    shard: member.shard.to_string(),
                    node: member.node.to_string(),
                });
                let participants = participants.collect();
                let votes = votes.iter().map(|(shard, vote)| (shard.to_string(), vote_name(*vote)));
                let votes = votes.collect();
                Operation::Tx { id, state, action, in_doubt, participants, votes, records }
            }
            OperationKind::Promise { coordinator, shard } => {
                let (coordinator, shard) = (coordinator.to_string(), shard.to_string());
                Operation::Participant { coordinator, id, state, action, in_doubt, shard, records }
            }
        }
    }
}

impl Completed {
    const ENTRIES_MAX: usize = 100_000;

    /// What is listed, and how many are not. Each kind has half of the room, and what the other
    /// leaves.
    fn of(report: &RecoveryReport) -> (Completed, u64) {
        let (sagas, txs) = (&report.completed_sagas, &report.completed_transactions);
        let half = Self::ENTRIES_MAX / 2;
        let saga_max = Self::ENTRIES_MAX - txs.entries.len().min(half);
        let saga = sagas.entries.iter().take(saga_max).map(|(id, how)| (id.0, how.name()));
        let saga: BTreeMap<_, _> = saga.collect();
        let tx_max = Self::ENTRIES_MAX - saga.len();
        let tx = txs.entries.iter().take(tx_max).map(|(id, how)| (id.0, decision_name(*how)));
        let tx: BTreeMap<_, _> = tx.collect();
        let listed = (saga.len() + tx.len()) as u64;
        (Completed { saga, tx }, sagas.total() + txs.total() - listed)
    }
}

impl Damaged {
    fn of(damage: &Corruption, files: &FileNames) -> Damaged {
        Damaged {
            file: files.of(damage.segment.unwrap_or_default()).into_owned(),
            offset: damage.offset,
            bytes: damage.bytes,
            what: damage.what.to_string(),
        }
    }
}

fn integrity(scanned: &Scanned) -> &'static str {
    match scanned.integrity {
        Integrity::Guarded => "guarded",
        Integrity::Unprotected => "unprotected",
    }
}

fn vote_name(vote: Vote) -> &'static str {
    match vote {
        Vote::Commit => "commit",
        Vote::Abort => "abort",
    }
}

fn decision_name(decision: Decision) -> &'static str {
    match decision {
        Decision::Commit => "committed",
        Decision::Abort => "aborted",
    }
}

// ---- a table, for people ----

/// Of anomalies and of damaged places a person sees so many.
const LISTED_MAX: usize = 20;

fn print(to: &mut dyn Write, report: &RecoveryReport) -> io::Result<()> {
    let scanned = &report.scanned;
    let stats = &scanned.stats;
    writeln!(
        to,
        "{} up to sequence {}: {}, {}, {}; integrity: {}",
        counted(scanned.records, "record"),
        scanned.last_sequence,
        counted(stats.saga_events, "saga event"),
        counted(stats.transaction_events, "transaction event"),
        counted(stats.checkpoints, "checkpoint"),
        integrity(scanned)
    )?;
    for note in notes(scanned) {
        writeln!(to, "note: {note}")?;
    }
    print_operations(to, report)?;
    let (sagas, txs) = (&report.completed_sagas, &report.completed_transactions);
    let (sagas, txs) = (counted(sagas.total(), "saga"), counted(txs.total(), "transaction"));
    writeln!(to, "completed: {sagas}, {txs}")?;
    if report.unknown_ids_in_doubt {
        writeln!(to, "in doubt besides: operations that the damage may hide altogether")?;
    }
    let anomalies = report.anomalies.total();
    if anomalies > 0 {
        let events = counted(anomalies, "event");
        writeln!(to, "anomalies: {events} out of place; they changed nothing")?;
        for anomaly in report.anomalies.entries.iter().take(LISTED_MAX) {
            writeln!(to, "  record {}: {}", anomaly.sequence, anomaly.what)?;
        }
        print_rest(to, anomalies)?;
    }
    let places = scanned.corruption.len() as u64 + scanned.corruption_left_out;
    if places > 0 {
        let (in_places, records) =
            (counted(places, "place"), counted(scanned.corrupted_records, "record"));
        writeln!(to, "corruption: {in_places}, at least {records} lost or changed")?;
        for damage in scanned.corruption.iter().take(LISTED_MAX) {
            writeln!(to, "  {damage}")?;
        }
        print_rest(to, places)?;
    }
    Ok(())
}

/// "1 record", "2 records".
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn print_rest(to: &mut dyn Write, total: u64) -> io::Result<()> {
    match total.saturating_sub(LISTED_MAX as u64) {
        0 => Ok(()),
        rest => writeln!(to, "  ... and {rest} more; --json lists them"),
    }
}

fn print_operations(to: &mut dyn Write, report: &RecoveryReport) -> io::Result<()> {
    if report.operations.is_empty() {
        return writeln!(to, "nothing is unfinished");
    }
    let head = ["KIND", "ID", "STATE", "ACTION", "EVIDENCE", "LAST", "CREATED", "DETAIL"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(report.operations.iter().map(row));
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line += &format!("{cell:<width$}  ");
        }
        writeln!(to, "{}", line.trim_end())?;
    }
    let actions = report.actions();
    let actions = actions.iter().map(|(action, count)| format!("{count} x {}", action.name()));
    let mut summary: Vec<String> = actions.collect();
    let doubt = report.operations.iter().filter(|operation| operation.in_doubt).count();
    if doubt > 0 {
        summary.push(format!("{doubt} in doubt"));
    }
    writeln!(to, "unfinished: {}", summary.join(", "))
}

fn row(operation: &OperationReport) -> [String; 8] {
    let (kind, mut detail) = match &operation.kind {
        OperationKind::Saga { steps, run, undo, .. } => {
            let mut detail = counted(u64::from(*steps), "step");
            for (what, which) in [("run", run), ("undo", undo)] {
                if !which.is_empty() {
                    let which: Vec<String> = which.iter().map(u32::to_string).collect();
                    detail += &format!(", {what} {}", which.join(" "));
                }
            }
            ("saga", detail)
        }
        OperationKind::Transaction { members, votes } => {
            let commit = votes.iter().filter(|(_, vote)| *vote == Vote::Commit).count();
            let abort = votes.len() - commit;
            let members = counted(members.len() as u64, "participant");
            ("tx", format!("{members}, {commit} voted commit, {abort} abort"))
        }
        OperationKind::Promise { coordinator, shard } => {
            let (coordinator, shard) = (Name::from(coordinator.0), Name::from(shard.0));
            let (coordinator, shard) = (coordinator.short(), shard.short());
            ("participant", format!("shard {shard}, asks coordinator {coordinator}"))
        }
    };
    if operation.in_doubt {
        detail += ", IN DOUBT";
    }
    [
        kind.to_owned(),
        operation.id.to_string(),
        operation.state.to_owned(),
        operation.action.name().to_owned(),
        operation.evidence.to_string(),
        operation.last.to_string(),
        operation.created_ms.map_or_else(|| "?".to_owned(), utc),
        detail,
    ]
}
