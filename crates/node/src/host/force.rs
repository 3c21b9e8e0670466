//! What an operator forces at a participant.

use super::Host;
use base::{Sequence, Time};
use coordinator::{Doubtful, Force, ForceError, Intervened, Intervention, Output};
use std::sync::Arc;
use twopc::Audit;
use twopc::heuristic::Forced;
use twopc::participant::PromiseKey;

impl Host {
    /// An operator ends a promise of which nobody tells the outcome, or forgets what came of that. It is
    /// logged, and forced; [`Output::Intervened`] tells once it is durable, or why it is not done.
    pub fn intervene(&mut self, now: Time, what: &Intervention, out: &mut Vec<Output>) {
        let Intervention { of, force, ref audit } = *what;
        let done = match of {
            _ if self.dead => Err(ForceError::LogBusy),
            Doubtful::Transaction(_) | Doubtful::Saga(_) => Err(ForceError::NotHere),
            Doubtful::Branch(key) => self.force(now, &key, force, audit, out),
        };
        let result = done.map(|_| ());
        let told = Output::Intervened(Box::new(Intervened { of, force, result }));
        match done {
            Ok(after) => self.log.owe(after, told, out),
            Err(_) => out.push(told),
        }
    }

    /// The record after which it is done.
    fn force(
        &mut self,
        now: Time,
        key: &PromiseKey,
        force: Force,
        audit: &Arc<Audit>,
        out: &mut Vec<Output>,
    ) -> Result<Sequence, ForceError> {
        let event = match force {
            Force::Commit => self.participant.force(key, true, audit)?,
            Force::Abort => self.participant.force(key, false, audit)?,
            Force::Forget => Some(self.participant.forget(key, audit)?),
            Force::Gone(_) => return Err(twopc::ForceRefusal::NotAwaited.into()),
        };
        if let Some(event) = event {
            let mut found = self.participant.find(key);
            if !self.take(now, &mut found, event, out) {
                return Err(ForceError::LogBusy);
            }
        }
        let known = self.participant.forced_of(key);
        let at = |forced: &Forced| match &forced.forgotten {
            Some((at, _)) if force == Force::Forget => *at,
            _ => forced.at,
        };
        Ok(known.map_or(Sequence::NONE, at))
    }

    /// The events that say what became of an outcome that was forced, each with its record.
    pub(super) fn forced_events(
        &self,
        key: &PromiseKey,
    ) -> Option<Vec<(Sequence, twopc::participant::Event)>> {
        let forced = self.participant.forced_of(key)?;
        Some(forced.events(*key).collect())
    }
}
