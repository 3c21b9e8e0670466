//! `trinity wal recover`: what a log says, and what a recovery would do about it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use base::{Epoch, OperationId, Sequence, ShardId};
use coordinator::{OperationKind, OperationReport, RecoveryReport, Replay};
use coordinator::{explain_decision, explain_end};
use saga::End;
use serde::Serialize;
use twopc::coordinator::Decision;
use twopc::heuristic::{Forced, Reported};
use twopc::participant::PromiseKey;
use twopc::{Audit, Heuristic, Vote};
use wal_core::{
    Corruption, EventType, Guard, Integrity, NotUnderstood, Place, Record, Scanned, Visitor,
};

use crate::error::{Error, Exit};
use crate::line::{EventName, Name};
use crate::source::{FileNames, Source};
use crate::streams::{Faulty, Named, StreamSources, print_faults};
use crate::terminal::{Brake, LISTED_MAX, Output, Progress};
use crate::terminal::{counted, notes, print_corruption, print_rest, print_table, utc};

/// What to look at.
///
/// The log is read as if it ended where it is sound; opening it for writing is what repairs it. Of a
/// directory of streams each is told by itself: an operation lives in one of them.
#[derive(clap::Args)]
pub struct Args {
    /// A log's directory, or a file that holds a raw stream
    path: PathBuf,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Why each operation has its class, and where the record is that proves it; `--explain=all`
    /// for what has ended too. The log is read twice
    #[arg(
        long,
        value_name = "WHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "unfinished"
    )]
    explain: Option<Explain>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Explain {
    /// What is unfinished
    Unfinished,
    /// What has ended too
    All,
}

/// Replays a log and prints what it finds.
///
/// # Errors
/// [`Error`]. Damage is none: it is part of what is printed, and the exit code.
pub fn run(args: &Args) -> Result<Exit, Error> {
    if let Some(mut streams) = StreamSources::open(&args.path)? {
        return run_streams(args, &mut streams);
    }
    let brake = Brake::default();
    let mut source = Source::open(&args.path)?;
    let found = Found::of(&mut source, args.explain, &brake, false)?;
    let mut output = Output::new(&brake);
    if args.json {
        output.write(|to| {
            serde_json::to_writer(&mut *to, &found.json())?;
            to.write_all(b"\n")
        });
    } else {
        output.write(|to| found.print(to));
    }
    output.finish()?;
    Ok(if found.is_clean() { Exit::Clean } else { Exit::Damaged })
}

/// The same of each stream.
fn run_streams(args: &Args, streams: &mut StreamSources) -> Result<Exit, Error> {
    let found = streams.each(|source| Found::of(source, args.explain, &Brake::default(), true))?;
    let scanned: Vec<&Scanned> = found.iter().map(|found| &found.report.scanned).collect();
    let faults = wal_core::faults(&scanned);
    let brake = Brake::default();
    let mut output = Output::new(&brake);
    if args.json {
        let each = found.iter().map(Found::json);
        let json = JsonStreams { streams: streams.named(each), faults: Faulty::of(&faults) };
        output.write(|to| {
            serde_json::to_writer(&mut *to, &json)?;
            to.write_all(b"\n")
        });
    } else {
        output.write(|to| {
            for (heading, found) in streams.headings().zip(&found) {
                writeln!(to, "{heading}")?;
                found.print(to)?;
            }
            print_faults(to, &faults)
        });
    }
    output.finish()?;
    let clean = faults.is_empty() && found.iter().all(Found::is_clean);
    Ok(if clean { Exit::Clean } else { Exit::Damaged })
}

#[derive(Serialize)]
struct JsonStreams<'a> {
    streams: Vec<Named<Json<'a>>>,
    faults: Vec<Faulty>,
}

/// What one log says.
struct Found {
    report: RecoveryReport,
    files: FileNames,
    proofs: Proofs,
}

impl Found {
    fn of(
        source: &mut Source,
        explain: Option<Explain>,
        brake: &Brake,
        quiet: bool,
    ) -> Result<Found, Error> {
        let mut watched =
            Watched { replay: Replay::default(), progress: Progress::new("records", quiet) };
        let scanned = source.scan(brake, &mut watched)?;
        drop(watched.progress);
        let report = watched.replay.report(&scanned);
        let mut proofs = Proofs::wanted(explain, &report, &watched.replay);
        proofs.find(source, brake)?;
        Ok(Found { report, files: source.file_names(), proofs })
    }

    fn is_clean(&self) -> bool {
        !self.report.scanned.is_corrupt() && self.report.anomalies.total() == 0
    }

    fn json(&self) -> Json<'_> {
        Json::of(&self.report, &self.files, &self.proofs)
    }

    fn print(&self, to: &mut dyn Write) -> io::Result<()> {
        print(to, &self.report, &self.files, &self.proofs)
    }
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

    fn not_understood(&self) -> Option<NotUnderstood> {
        self.replay.not_understood()
    }

    fn guard(&mut self, guard: &Guard, place: Place) {
        self.replay.guard(guard, place);
    }

    fn hole(&mut self, hole: &Corruption) {
        self.replay.hole(hole);
    }
}

/// The records that prove what is to be explained, and where they are.
#[derive(Default)]
struct Proofs {
    found: BTreeMap<Sequence, Option<(EventType, Place)>>,
    /// The operations that they prove, by kind (a saga?) and id: the snapshot that a log begins with may
    /// carry the record.
    proved: BTreeMap<(bool, OperationId), Sequence>,
    /// The ends that are to be explained, as they are listed.
    sagas: BTreeMap<OperationId, (Sequence, End)>,
    transactions: BTreeMap<OperationId, (Sequence, Decision)>,
}

impl Proofs {
    fn wanted(explain: Option<Explain>, report: &RecoveryReport, replay: &Replay) -> Proofs {
        let mut proofs = Proofs::default();
        if explain.is_none() {
            return proofs;
        }
        for operation in &report.operations {
            let saga = match operation.kind {
                OperationKind::Saga { .. } => true,
                OperationKind::Transaction { .. } => false,
                OperationKind::Promise { .. } => continue,
            };
            proofs.proved.insert((saga, operation.id), operation.evidence);
        }
        let evidence = report.operations.iter().map(|operation| operation.evidence);
        proofs.found.extend(evidence.map(|sequence| (sequence, None)));
        let forced = report.forced.iter().map(|(_, forced)| forced.at);
        let heuristic = report.heuristics.iter().map(|(.., reported)| reported.at);
        proofs.found.extend(forced.chain(heuristic).map(|sequence| (sequence, None)));
        if explain == Some(Explain::All) {
            let (completed, _) = Completed::of(report);
            let listed = replay.ended_sagas().take(completed.saga.len());
            proofs.sagas.extend(listed.map(|ended| (ended.id, (ended.at, ended.how))));
            let listed = replay.ended_transactions().take(completed.tx.len());
            proofs.transactions.extend(listed.map(|ended| (ended.id, (ended.at, ended.how))));
            let of_sagas = proofs.sagas.values().map(|(at, _)| *at);
            let ends = of_sagas.chain(proofs.transactions.values().map(|(at, _)| *at));
            proofs.found.extend(ends.map(|sequence| (sequence, None)));
        }
        proofs
    }

    /// Looks for them in the log.
    fn find(&mut self, source: &mut Source, brake: &Brake) -> Result<(), Error> {
        if !self.found.is_empty() {
            source.scan(brake, self)?;
        }
        Ok(())
    }

    fn of(&self, sequence: Sequence, files: &FileNames) -> Option<Evidence> {
        let (event, place) = (*self.found.get(&sequence)?)?;
        let file = files.of(place.segment).into_owned();
        Some(Evidence { sequence: sequence.0, event: EventName(event), file, offset: place.offset })
    }
}

impl Visitor for Proofs {
    fn record(&mut self, record: &Record<'_>, place: Place) {
        if let Some(operation) = coordinator::carried(record.event, record.payload)
            && let Some(at) = self.proved.get(&operation)
            && let Some(found @ None) = self.found.get_mut(at)
        {
            *found = Some((record.event, place));
        }
        if let Some(found) = self.found.get_mut(&record.sequence) {
            *found = Some((record.event, place));
        }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_evidence: Option<CompletedEvidence>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    forced: Vec<ForcedBranch<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    heuristics: Vec<HeuristicBranch<'a>>,
    anomalies: Vec<Anomaly<'a>>,
    anomalies_left_out: u64,
    corruption: Vec<Damaged>,
    corruption_left_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<Cut>,
    #[serde(skip_serializing_if = "is_zero")]
    lost_header_copies: u64,
    #[serde(skip_serializing_if = "is_zero")]
    fenced_bytes: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unknown_ids_in_doubt: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown_ids_up_to_epoch: Option<u32>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Operation<'a> {
    Saga {
        id: u64,
        state: &'static str,
        action: &'static str,
        in_doubt: bool,
        steps: u32,
        next_step: Option<u32>,
        run: &'a [u32],
        undo: &'a [u32],
        /// Steps that wait for an operator.
        parked: &'a [u32],
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
pub struct Records {
    evidence_sequence: u64,
    last_sequence: u64,
    created_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Parent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<Evidence>,
}

/// The step that an operation does, or undoes.
#[derive(Serialize)]
struct Parent {
    saga: u64,
    step: u32,
    undo: bool,
}

/// The record that proves a class, and where it is.
#[derive(Serialize)]
struct Evidence {
    sequence: u64,
    event: EventName,
    file: String,
    offset: u64,
}

#[derive(Serialize)]
struct CompletedEvidence {
    saga: BTreeMap<u64, Explained>,
    tx: BTreeMap<u64, Explained>,
}

#[derive(Serialize)]
struct Explained {
    explanation: &'static str,
    evidence: Option<Evidence>,
}

#[derive(Serialize)]
pub struct Participant {
    shard: String,
    node: String,
}

/// A branch whose outcome an operator has forced at this log's participant.
#[derive(Serialize)]
struct ForcedBranch<'a> {
    coordinator: String,
    id: u64,
    shard: String,
    forced: &'static str,
    at_ms: i64,
    who: &'a str,
    why: &'a str,
    /// The transaction's decision, if it is known: it is another one.
    decided: Option<&'static str>,
    noted: bool,
    forgotten: bool,
    evidence_sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<Evidence>,
}

/// A branch that ended otherwise than its transaction, by this log's coordinator.
#[derive(Serialize)]
struct HeuristicBranch<'a> {
    id: u64,
    shard: String,
    node: String,
    heuristic: &'static str,
    branch: &'static str,
    /// The operator's word that the participant is gone for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    gone: Option<Word<'a>>,
    evidence_sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<Evidence>,
}

/// Who said it, when and why.
#[derive(Serialize)]
struct Word<'a> {
    at_ms: i64,
    who: &'a str,
    why: &'a str,
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

/// One damaged place.
#[derive(Serialize)]
pub struct Damaged {
    file: String,
    offset: u64,
    bytes: u64,
    what: String,
}

/// Where the sound part of the log ends, if a torn tail follows.
#[derive(Serialize)]
struct Cut {
    file: String,
    offset: u64,
}

impl<'a> Json<'a> {
    fn of(report: &'a RecoveryReport, files: &FileNames, proofs: &Proofs) -> Json<'a> {
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
            operations: report
                .operations
                .iter()
                .map(|operation| Operation::of(operation, proofs.of(operation.evidence, files)))
                .collect(),
            completed,
            completed_left_out,
            completed_evidence: CompletedEvidence::of(proofs, files),
            forced: forced_branches(report, files, proofs),
            heuristics: heuristic_branches(report, files, proofs),
            anomalies: anomalies
                .map(|anomaly| Anomaly { sequence: anomaly.sequence.0, what: &anomaly.what })
                .collect(),
            anomalies_left_out: report.anomalies.left_out,
            corruption: corruption.map(|damage| Damaged::of(damage, files)).collect(),
            corruption_left_out: scanned.corruption_left_out,
            end: scanned
                .end
                .filter(|_| scanned.torn_tail_bytes > 0)
                .map(|(segment, offset)| Cut { file: files.of(segment).into_owned(), offset }),
            lost_header_copies: scanned.lost_header_copies,
            fenced_bytes: scanned.fenced_bytes,
            unknown_ids_in_doubt: report.unknown_ids_in_doubt,
            unknown_ids_up_to_epoch: report.unknown_ids_up_to.map(Epoch::value),
        }
    }
}

fn forced_branches<'a>(
    report: &'a RecoveryReport,
    files: &FileNames,
    proofs: &Proofs,
) -> Vec<ForcedBranch<'a>> {
    let branch = |(key, forced): &'a (PromiseKey, Forced)| ForcedBranch {
        coordinator: key.tx.coordinator.to_string(),
        id: key.tx.id.0,
        shard: key.shard.to_string(),
        forced: commit_name(forced.commit),
        at_ms: forced.audit.at_ms,
        who: &forced.audit.who,
        why: &forced.audit.why,
        decided: forced.decided.map(|(commit, _)| commit_name(commit)),
        noted: forced.noted.is_some(),
        forgotten: forced.forgotten.is_some(),
        evidence_sequence: forced.at.0,
        evidence: proofs.of(forced.at, files),
    };
    report.forced.iter().map(branch).collect()
}

fn heuristic_branches<'a>(
    report: &'a RecoveryReport,
    files: &FileNames,
    proofs: &Proofs,
) -> Vec<HeuristicBranch<'a>> {
    let word =
        |audit: &'a Arc<Audit>| Word { at_ms: audit.at_ms, who: &audit.who, why: &audit.why };
    let branch = |(id, shard, reported): &'a (OperationId, ShardId, Reported)| HeuristicBranch {
        id: id.0,
        shard: shard.to_string(),
        node: reported.node.to_string(),
        heuristic: reported.heuristic.name(),
        branch: match reported.heuristic {
            Heuristic::Lost => "lost",
            Heuristic::Aborted => "aborted",
            Heuristic::Committed => "committed",
        },
        gone: reported.gone.as_ref().map(word),
        evidence_sequence: reported.at.0,
        evidence: proofs.of(reported.at, files),
    };
    report.heuristics.iter().map(branch).collect()
}

fn commit_name(commit: bool) -> &'static str {
    if commit { "commit" } else { "abort" }
}

impl CompletedEvidence {
    fn of(proofs: &Proofs, files: &FileNames) -> Option<CompletedEvidence> {
        let of = |at, explanation| Explained { explanation, evidence: proofs.of(at, files) };
        let sagas = proofs.sagas.iter();
        let saga: BTreeMap<_, _> =
            sagas.map(|(id, (at, how))| (id.0, of(*at, explain_end(*how)))).collect();
        let txs = proofs.transactions.iter();
        let tx: BTreeMap<_, _> =
            txs.map(|(id, (at, how))| (id.0, of(*at, explain_decision(*how)))).collect();
        (!saga.is_empty() || !tx.is_empty()).then_some(CompletedEvidence { saga, tx })
    }
}

impl<'a> Operation<'a> {
    /// Explained, if the record that proves it was looked for.
    fn of(operation: &'a OperationReport, evidence: Option<Evidence>) -> Operation<'a> {
        let OperationReport { state, in_doubt, created_ms, .. } = *operation;
        let id = operation.id.0;
        let action = operation.action.name();
        let records = Records {
            evidence_sequence: operation.evidence.0,
            last_sequence: operation.last.0,
            created_ms,
            parent: operation.parent.map(|it| Parent {
                saga: it.saga.0,
                step: it.step,
                undo: it.undo,
            }),
            explanation: evidence.is_some().then(|| operation.explanation()),
            evidence,
        };
        match &operation.kind {
            OperationKind::Saga { steps, next_step, run, undo, parked } => {
                let (steps, next_step) = (*steps, *next_step);
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

impl<'a> Operation<'a> {
    /// As it is listed, without an explanation.
    pub fn listed(operation: &'a OperationReport) -> Operation<'a> {
        Operation::of(operation, None)
    }
}

impl Damaged {
    pub fn of(damage: &Corruption, files: &FileNames) -> Damaged {
        Damaged {
            file: files.of(damage.segment.unwrap_or_default()).into_owned(),
            offset: damage.offset,
            bytes: damage.bytes,
            what: damage.what.to_string(),
        }
    }
}

pub fn integrity(scanned: &Scanned) -> &'static str {
    match scanned.integrity {
        Integrity::Guarded => "guarded",
        Integrity::Unprotected => "unprotected",
    }
}

fn vote_name(vote: Vote) -> &'static str {
    match vote {
        Vote::Commit => "commit",
        Vote::Abort => "abort",
        Vote::ReadOnly => "read_only",
    }
}

fn decision_name(decision: Decision) -> &'static str {
    match decision {
        Decision::Commit => "committed",
        Decision::Abort => "aborted",
        Decision::ReadOnly => "read_only",
    }
}

// ---- a table, for people ----

fn print(
    to: &mut dyn Write,
    report: &RecoveryReport,
    files: &FileNames,
    proofs: &Proofs,
) -> io::Result<()> {
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
    print_operations(to, &report.operations)?;
    print_summary(to, report)?;
    print_explanations(to, report, files, proofs)?;
    print_forced(to, report, files, proofs)?;
    let (sagas, txs) = (&report.completed_sagas, &report.completed_transactions);
    let (sagas, txs) = (counted(sagas.total(), "saga"), counted(txs.total(), "transaction"));
    writeln!(to, "completed: {sagas}, {txs}")?;
    if report.unknown_ids_in_doubt {
        let up_to = report.unknown_ids_up_to.map_or(0, Epoch::value);
        writeln!(to, "in doubt besides: operations up to epoch {up_to} that are not known at all")?;
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
    print_corruption(to, scanned, |_| "")?;
    Ok(())
}

/// What operators have forced, and what ended otherwise.
fn print_forced(
    to: &mut dyn Write,
    report: &RecoveryReport,
    files: &FileNames,
    proofs: &Proofs,
) -> io::Result<()> {
    let place = |to: &mut dyn Write, at: Sequence| match proofs.of(at, files) {
        None => Ok(()),
        Some(Evidence { sequence, event, file, offset }) => {
            writeln!(to, "    record {sequence}, {}, in {file} at offset {offset}", event.0)
        }
    };
    for (key, forced) in report.forced.iter().filter(|(_, forced)| forced.forgotten.is_none()) {
        let (id, shard, what) = (key.tx.id, key.shard, commit_name(forced.commit));
        let (who, why) = (forced.audit.who.escape_debug(), forced.audit.why.escape_debug());
        let when = utc(forced.audit.at_ms);
        write!(to, "forced: tx {id}, shard {shard}: {what} by {who}, {when}: {why}; ")?;
        match forced.heuristic() {
            None => writeln!(to, "the transaction's decision is not known here yet")?,
            Some(heuristic) => writeln!(to, "{heuristic}")?,
        }
        place(to, forced.at)?;
    }
    for (id, shard, reported) in &report.heuristics {
        writeln!(to, "heuristic: tx {id}, shard {shard}: {}", reported.heuristic)?;
        if let Some(audit) = &reported.gone {
            let (who, why) = (audit.who.escape_debug(), audit.why.escape_debug());
            let when = utc(audit.at_ms);
            writeln!(to, "    {} is gone for good, says {who}, {when}: {why}", reported.node)?;
        }
        place(to, reported.at)?;
    }
    Ok(())
}

/// A table of operations; nothing, if there are none.
pub fn print_operations(to: &mut dyn Write, operations: &[OperationReport]) -> io::Result<()> {
    if operations.is_empty() {
        return Ok(());
    }
    let head = ["KIND", "ID", "STATE", "ACTION", "EVIDENCE", "LAST", "CREATED", "DETAIL"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(operations.iter().map(row));
    print_table(to, &rows)
}

fn print_summary(to: &mut dyn Write, report: &RecoveryReport) -> io::Result<()> {
    if report.operations.is_empty() {
        return writeln!(to, "nothing is unfinished");
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

fn print_explanations(
    to: &mut dyn Write,
    report: &RecoveryReport,
    files: &FileNames,
    proofs: &Proofs,
) -> io::Result<()> {
    let mut explain = |kind: &str, id: OperationId, why: &str, at: Sequence| {
        let Some(Evidence { sequence, event, file, offset }) = proofs.of(at, files) else {
            return Ok(());
        };
        writeln!(to, "  {kind} {id}: {why}")?;
        writeln!(to, "    record {sequence}, {}, in {file} at offset {offset}", event.0)
    };
    for operation in &report.operations {
        let kind = kind_name(&operation.kind);
        explain(kind, operation.id, operation.explanation(), operation.evidence)?;
    }
    for (id, (at, how)) in &proofs.sagas {
        explain("saga", *id, explain_end(*how), *at)?;
    }
    for (id, (at, how)) in &proofs.transactions {
        explain("tx", *id, explain_decision(*how), *at)?;
    }
    Ok(())
}

fn kind_name(kind: &OperationKind) -> &'static str {
    match kind {
        OperationKind::Saga { .. } => "saga",
        OperationKind::Transaction { .. } => "tx",
        OperationKind::Promise { .. } => "participant",
    }
}

fn row(operation: &OperationReport) -> [String; 8] {
    let mut detail = match &operation.kind {
        OperationKind::Saga { steps, run, undo, parked, .. } => {
            let mut detail = counted(u64::from(*steps), "step");
            for (what, which) in [("run", run), ("undo", undo), ("parked", parked)] {
                if !which.is_empty() {
                    let which: Vec<String> = which.iter().map(u32::to_string).collect();
                    detail += &format!(", {what} {}", which.join(" "));
                }
            }
            detail
        }
        OperationKind::Transaction { members, votes } => {
            let count = |of| votes.iter().filter(|(_, vote)| *vote == of).count();
            let (commit, abort) = (count(Vote::Commit), count(Vote::Abort));
            let members = counted(members.len() as u64, "participant");
            let mut detail = format!("{members}, {commit} voted commit, {abort} abort");
            if count(Vote::ReadOnly) > 0 {
                detail += &format!(", {} read-only", count(Vote::ReadOnly));
            }
            detail
        }
        OperationKind::Promise { coordinator, shard } => {
            let (coordinator, shard) = (Name::from(coordinator.0), Name::from(shard.0));
            let (coordinator, shard) = (coordinator.short(), shard.short());
            format!("shard {shard}, asks coordinator {coordinator}")
        }
    };
    if let Some(parent) = operation.parent {
        detail += &format!(", for {parent}");
    }
    if operation.in_doubt {
        detail += ", IN DOUBT";
    }
    [
        kind_name(&operation.kind).to_owned(),
        operation.id.to_string(),
        operation.state.to_owned(),
        operation.action.name().to_owned(),
        operation.evidence.to_string(),
        operation.last.to_string(),
        operation.created_ms.map_or_else(|| "?".to_owned(), utc),
        detail,
    ]
}
