//! What an operator sees of branches and transactions that nobody decides, and of those that ended otherwise,
//! and what he may do about it.

use crate::coordinator::{Coordinator, text_of};
use crate::participant::Mail;
use crate::process::{Arrival, Clock, Handle, Stopped};
use base::{NodeName, OperationId};
use node::{Doubtful, Force, ForceError, Intervention, Node};
use std::sync::Arc;
use tokio::sync::oneshot;
use twopc::heuristic::Forced;
use twopc::participant::PromiseKey;
use twopc::{Audit, Heuristic, Participant};

/// A participant's part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchOf {
    /// The participant's name.
    pub participant: String,
    /// The coordinator's name: another one than this coordinator's, if the store has served another.
    pub coordinator: String,
    /// The transaction.
    pub transaction: OperationId,
    /// The name that [`Handle::force`] takes.
    pub key: PromiseKey,
}

/// A branch whose outcome an operator has forced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForcedBranch {
    /// Which.
    pub branch: BranchOf,
    /// To commit; else to abort.
    pub commit: bool,
    /// Who, when and why.
    pub audit: Audit,
    /// What it is against the transaction's decision. `None`: that is not known yet. Where it has turned out
    /// to be the same the branch is listed no more.
    pub heuristic: Option<Heuristic>,
}

/// A branch that ended otherwise than its transaction, as its coordinator was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeuristicBranch {
    /// The transaction.
    pub transaction: OperationId,
    /// The participant's name.
    pub participant: String,
    /// How.
    pub heuristic: Heuristic,
    /// Of a participant that is gone for good: which operator said so, when and why.
    pub gone: Option<Audit>,
}

/// Why an operator's intervention did not take place: nothing of it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForceRefused {
    /// It does not fit what is known: the text says why.
    #[error(transparent)]
    Refused(#[from] ForceError),
    /// This coordinator was opened without that participant.
    #[error("there is no participant \"{name}\": open the coordinator with it")]
    UnknownParticipant {
        /// Its name.
        name: String,
    },
    /// The participant's store took nothing: try again once it can be written.
    #[error("the store of participant {name} took nothing: {reason}")]
    Store {
        /// The participant.
        name: String,
        /// What its store said.
        reason: String,
    },
    /// It runs no more. Whether it was done is not known: list what is in doubt after the next start.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Handle {
    /// Ends a transaction or a branch that nobody else decides, or forgets what came of that. Returns once it
    /// is durably in the log with who did it, when, and why.
    ///
    /// What is forced may contradict what others have done or will do. That is found out when the real
    /// decision comes: see [`Stuck::heuristics`](crate::Stuck::heuristics).
    ///
    /// # Errors
    /// [`ForceRefused`]
    pub async fn force(
        &self,
        of: Doubtful,
        force: Force,
        (who, why): (&str, &str),
    ) -> Result<(), ForceRefused> {
        let audit = audit(who, why);
        let what = Box::new(Intervention { of, force, audit });
        Ok(self.ask(|answer| Arrival::Intervene { what, answer }).await??)
    }
}

impl Coordinator {
    /// Ends a transaction of this coordinator's that nobody else decides: one in doubt after its log was
    /// salvaged, or one whose only participant decides and does not answer. Or forgets the branches of it
    /// that ended otherwise, once somebody has seen to them. As [`Handle::force`].
    ///
    /// # Errors
    /// [`ForceRefused`]
    pub async fn force(
        &self,
        transaction: OperationId,
        force: Force,
        audit: (&str, &str),
    ) -> Result<(), ForceRefused> {
        self.handle.force(Doubtful::Transaction(transaction), force, audit).await
    }

    /// Says how a saga has ended that a damaged log has left in doubt: completed, or else compensated. Whoever asks
    /// for it hears that; nothing of it is called any more, and what its steps were ends. As [`Handle::force`].
    ///
    /// # Errors
    /// [`ForceRefused`]
    pub async fn force_saga(
        &self,
        saga: OperationId,
        completed: bool,
        audit: (&str, &str),
    ) -> Result<(), ForceRefused> {
        let force = if completed { Force::Commit } else { Force::Abort };
        self.handle.force(Doubtful::Saga(saga), force, audit).await
    }

    /// Ends a participant's branch that waits for an outcome which nobody tells, such as that of a coordinator
    /// which is gone; or forgets what came of that. The store keeps it, with who did it, when, and why, in the
    /// same transaction as its effect.
    ///
    /// # Errors
    /// [`ForceRefused`]
    pub async fn force_branch(
        &self,
        branch: &BranchOf,
        force: Force,
        (who, why): (&str, &str),
    ) -> Result<(), ForceRefused> {
        let name = branch.participant.clone();
        let unknown = || ForceRefused::UnknownParticipant { name: name.clone() };
        let mut seats = self.seats.iter();
        let (_, seat) =
            seats.find(|(node, _)| text_of(node) == branch.participant).ok_or_else(unknown)?;
        let (answer, answered) = oneshot::channel();
        let (key, audit) = (branch.key, audit(who, why));
        let gone = || Stopped { reason: "its task has ended".into() };
        seat.send(Mail::Intervene { key, force, audit, answer }).map_err(|_| gone())?;
        match answered.await.map_err(|_| gone())? {
            Ok(done) => Ok(done?),
            Err(reason) => Err(ForceRefused::Store { name, reason }),
        }
    }
}

fn audit(who: &str, why: &str) -> Arc<Audit> {
    Arc::new(Audit { at_ms: Clock::unix_ms(), who: who.into(), why: why.into() })
}

/// What a participant knows of branches that wait, and of those that were forced.
#[derive(Clone, Debug, Default)]
pub(crate) struct Branches {
    pub waiting: Vec<BranchOf>,
    pub forced: Vec<ForcedBranch>,
}

/// What a participant of this name has.
pub(crate) fn branches(node: NodeName, participant: &Participant) -> Branches {
    let branch = |key: PromiseKey| BranchOf {
        participant: text_of(&node),
        coordinator: text_of(&NodeName(key.tx.coordinator.0)),
        transaction: key.tx.id,
        key,
    };
    let listed = |(key, forced): (PromiseKey, &Forced)| {
        let seen = forced.forgotten.is_some();
        (!seen).then(|| ForcedBranch {
            branch: branch(key),
            commit: forced.commit,
            audit: (*forced.audit).clone(),
            heuristic: forced.heuristic(),
        })
    };
    Branches {
        waiting: participant.prepared().map(|(key, _)| branch(key)).collect(),
        forced: participant.forced().filter_map(listed).collect(),
    }
}

/// The branches of which a node's coordinator was told that they ended otherwise.
pub(crate) fn heuristics(node: &Node) -> Vec<HeuristicBranch> {
    let engine = node.coordinator().into_iter();
    let listed = engine.flat_map(|engine| engine.heuristics());
    listed
        .map(|(transaction, _, reported)| HeuristicBranch {
            transaction,
            participant: text_of(&reported.node),
            heuristic: reported.heuristic,
            gone: reported.gone.as_deref().cloned(),
        })
        .collect()
}
