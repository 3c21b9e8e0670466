//! When a participant's log is compacted, and what its snapshots say.
//!
//! In this order: the promises that wait for their outcome, the data, how branches ended, what
//! operators have forced, what steps gave or were given, what they were answered, and the coordinators that were heard of. A commit of a promise that has no part is in the
//! data, whose parts come behind those of all promises; its outcome is among those that come later still.
//! What coordinators have said to be finished is left out.

use super::Host;
use base::{CoordinatorId, Time};
use coordinator::{Answered, GatedLog, Message, Output, SagaKey, SnapshotWriter, codec};
use twopc::participant::{Ending, Event, Promise, PromiseKey};
use wal_core::AppendError;

/// How far a snapshot has come: what is still to be looked at, the next one last.
///
/// Each list is made when it is come to. What is new since then stands in ordinary records behind the
/// snapshot's first part.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Promises(Vec<PromiseKey>),
    Cells(Vec<u64>),
    Outcomes(Vec<PromiseKey>),
    Forced(Vec<PromiseKey>),
    Brought(Vec<(SagaKey, u32)>),
    Steps(Vec<(SagaKey, u32)>),
    Coordinators(Vec<CoordinatorId>),
}

/// About so many bytes of parts are appended in one round, and no more than about a batch of the log's.
const ROUND_BYTES: usize = 4 << 10;

impl Host {
    /// Begins a snapshot if one is due, and appends the next parts of one that is begun.
    pub(super) fn compact(&mut self, now: Time, out: &mut Vec<Output>) {
        let log = self.log.log();
        // Half way to it, so that the answers are there in time.
        if self.snapshot.is_none()
            && self.asked != Some(log.stats().compactions)
            && log.records_held() >= (log.config().max_records / 2).max(1)
        {
            self.asked = Some(log.stats().compactions);
            for coordinator in self.participant.coordinators() {
                let to = base::NodeName(coordinator.0);
                out.push(Output::Send { to, message: Message::AskFinished });
            }
        }
        let log = self.log.log();
        if !log.is_compacting() {
            // Until its first part is in the log, whatever is written still has to be in a part.
            self.snapshot = None;
            if !log.compaction_due() || SnapshotWriter::room(log).is_none() {
                return;
            }
        }
        if log.is_flushing() {
            // One round for each flush: others go first.
            return;
        }
        let mut left = ROUND_BYTES.min(log.config().batch_bytes_max as usize);
        if self.snapshot.is_none() {
            let waiting = self.participant.prepared().map(|(key, _)| key);
            self.snapshot = Some(Stage::Promises(waiting.collect()));
        }
        while let Some(stage) = self.snapshot.take() {
            match self.append_next(now, stage, out) {
                Ok((next, bytes)) => {
                    self.snapshot = next;
                    if bytes >= left {
                        return;
                    }
                    left -= bytes;
                }
                Err(stage) => {
                    // The log is busy: the same part is due in the next round.
                    self.snapshot = Some(stage);
                    return;
                }
            }
        }
    }

    /// Appends what comes next. Says what comes then and how many bytes that was, or gives back the stage.
    fn append_next(
        &mut self,
        now: Time,
        stage: Stage,
        out: &mut Vec<Output>,
    ) -> Result<(Option<Stage>, usize), Stage> {
        let Some(mut writer) = SnapshotWriter::new(self.log.log()) else { return Err(stage) };
        match stage {
            Stage::Promises(mut keys) => {
                let Some(&key) = keys.last() else {
                    let mut cells: Vec<u64> = self.store.cells().map(|(cell, _)| cell).collect();
                    cells.reverse();
                    return Ok((Some(Stage::Cells(cells)), 0));
                };
                let Some(Promise::Prepared { at, peers, work }) = self.participant.promise(&key)
                else {
                    keys.pop();
                    return Ok((Some(Stage::Promises(keys)), 0));
                };
                let epoch = self.participant.epoch_seen(key.tx.coordinator);
                let (peers, work) = (peers.clone(), work.clone());
                let event = Event::Prepared { key, epoch, peers, work };
                let ms = self.promised_ms.get(&at).copied().unwrap_or(i64::MIN);
                writer.promise(key.tx.id, at, ms, |payload| {
                    codec::encode_participant(&event, payload)
                });
                match append(&mut self.log, now, writer, false, out) {
                    Ok(bytes) => {
                        keys.pop();
                        Ok((Some(Stage::Promises(keys)), bytes))
                    }
                    Err(_) => Err(Stage::Promises(keys)),
                }
            }
            Stage::Cells(mut cells) => {
                let fit = writer.cells_fit().min(cells.len());
                let chunk = cells.split_off(cells.len() - fit);
                if chunk.is_empty() {
                    let ended = |(key, promise)| match promise {
                        Promise::Prepared { .. } => None,
                        Promise::Committed { .. }
                        | Promise::Aborted { .. }
                        | Promise::ReadOnly { .. } => Some(key),
                    };
                    let ended = self.participant.promises().filter_map(ended).collect();
                    return Ok((Some(Stage::Outcomes(ended)), 0));
                }
                writer.cells(chunk.iter().rev().map(|cell| (*cell, self.store.value(*cell))));
                match append(&mut self.log, now, writer, false, out) {
                    Ok(bytes) => Ok((Some(Stage::Cells(cells)), bytes)),
                    Err(_) => {
                        cells.extend(chunk);
                        Err(Stage::Cells(cells))
                    }
                }
            }
            Stage::Outcomes(mut keys) => {
                let fit = writer.outcomes_fit().min(keys.len());
                let chunk = keys.split_off(keys.len() - fit);
                if chunk.is_empty() {
                    let forced = self.participant.forced().map(|(key, _)| key);
                    return Ok((Some(Stage::Forced(forced.collect())), 0));
                }
                writer.outcomes(chunk.iter().filter_map(
                    |key| match self.participant.promise(key)? {
                        Promise::Committed { at } => Some((*key, at, Ending::Committed)),
                        Promise::Aborted { at } => Some((*key, at, Ending::Aborted)),
                        Promise::ReadOnly { at } => Some((*key, at, Ending::ReadOnly)),
                        Promise::Prepared { .. } => None,
                    },
                ));
                match append(&mut self.log, now, writer, false, out) {
                    Ok(bytes) => Ok((Some(Stage::Outcomes(keys)), bytes)),
                    Err(_) => {
                        keys.extend(chunk);
                        Err(Stage::Outcomes(keys))
                    }
                }
            }
            Stage::Forced(mut keys) => {
                let Some(&key) = keys.last() else {
                    return Ok((Some(Stage::Brought(self.steps.brought().collect())), 0));
                };
                let Some(events) = self.forced_events(&key) else {
                    // It has turned out to be the transaction's decision meanwhile.
                    keys.pop();
                    return Ok((Some(Stage::Forced(keys)), 0));
                };
                writer.forced(key.tx.id, events.into_iter());
                match append(&mut self.log, now, writer, false, out) {
                    Ok(bytes) => {
                        keys.pop();
                        Ok((Some(Stage::Forced(keys)), bytes))
                    }
                    Err(_) => Err(Stage::Forced(keys)),
                }
            }
            Stage::Brought(mut steps) => {
                let Some(&(key, step)) = steps.last() else {
                    let steps = self.steps.answered().map(|it| (it.key, it.step)).collect();
                    return Ok((Some(Stage::Steps(steps)), 0));
                };
                let Some((at, outcome)) = self.steps.kept(key, step) else {
                    // Its saga has been told to be finished meanwhile.
                    steps.pop();
                    return Ok((Some(Stage::Brought(steps)), 0));
                };
                writer.step(at, &outcome);
                match append(&mut self.log, now, writer, false, out) {
                    Ok(bytes) => {
                        steps.pop();
                        Ok((Some(Stage::Brought(steps)), bytes))
                    }
                    Err(_) => Err(Stage::Brought(steps)),
                }
            }
            Stage::Steps(mut calls) => {
                let fit = writer.steps_fit().min(calls.len());
                let chunk = calls.split_off(calls.len() - fit);
                if chunk.is_empty() {
                    let known = self.participant.epochs().map(|(name, _)| name).collect();
                    return Ok((Some(Stage::Coordinators(known)), 0));
                }
                let all: Vec<Answered> =
                    chunk.iter().filter_map(|(key, step)| self.steps.of(*key, *step)).collect();
                writer.steps(all.iter());
                match append(&mut self.log, now, writer, false, out) {
                    Ok(bytes) => Ok((Some(Stage::Steps(calls)), bytes)),
                    Err(_) => {
                        calls.extend(chunk);
                        Err(Stage::Steps(calls))
                    }
                }
            }
            Stage::Coordinators(mut names) => {
                let name = names.last().copied();
                if let Some(name) = name {
                    let epoch = self.participant.epoch_seen(name);
                    writer.coordinator(name, epoch, self.participant.watermark(name));
                }
                let last = names.len() <= 1;
                if last && let Some(up_to) = self.unknown_ids_up_to {
                    writer.unknown_ids(up_to);
                }
                match append(&mut self.log, now, writer, last, out) {
                    Ok(bytes) => {
                        names.pop();
                        Ok(((!last).then_some(Stage::Coordinators(names)), bytes))
                    }
                    Err(_) => Err(Stage::Coordinators(names)),
                }
            }
        }
    }

    /// What a coordinator says to be finished: logged, and what it covers is forgotten. The log keeps it
    /// until a snapshot behind that record leaves it out.
    pub(super) fn take_finished(&mut self, now: Time, event: Event, out: &mut Vec<Output>) {
        let Event::Finished { coordinator, watermark, .. } = &event else { return };
        let newer = |known| watermark.is_newer_than(known);
        let coordinator = *coordinator;
        if !self.participant.watermark(coordinator).is_none_or(newer)
            || codec::FINISHED_BYTES_MAX > self.log.log().config().max_payload as usize
        {
            return;
        }
        let encode = |payload: &mut Vec<u8>| codec::encode_participant(&event, payload);
        let Ok(sequence) = self.log.append(now, out, encode) else { return };
        let applied = self.participant.apply(sequence, &event);
        applied.expect("what is finished contradicts nothing");
        self.forget_steps(coordinator);
    }

    /// Forgets the steps of a coordinator's finished sagas.
    pub(super) fn forget_steps(&mut self, coordinator: CoordinatorId) {
        if let Some(watermark) = self.participant.watermark(coordinator) {
            self.steps.forget(coordinator, |id| watermark.covers(id));
        }
    }
}

/// Appends the parts that the writer has made, all of them or none.
fn append(
    log: &mut GatedLog,
    now: Time,
    writer: SnapshotWriter,
    last: bool,
    out: &mut Vec<Output>,
) -> Result<usize, AppendError> {
    writer.append(log, now, (0, 0), last, out)
}
