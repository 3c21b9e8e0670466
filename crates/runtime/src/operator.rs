//! What an operator sees of a coordinator's operations that do not end by themselves, and may order.

use crate::coordinator::{Coordinator, text_of};
use crate::force::{BranchOf, ForcedBranch, HeuristicBranch, branches, heuristics};
use crate::participant::Mail;
use crate::process::{Arrival, Handle, Stopped};
use ::coordinator::{Engine, OrderError, StepOperation};
use base::{OperationId, ParentStep, RequestKey};
use node::{Node, Refusal};
use saga::{Direction, Order, What};
use std::sync::Arc;
use tokio::sync::oneshot;

/// A step of a saga that waits for an operator, while the saga's other branches go on. Its compensation has
/// failed, or was not answered, as often as it is tried. Or an operator has forced the abort of the transaction
/// that did it, or undid it: whether that had committed, he has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The saga.
    pub saga: OperationId,
    /// The key under which it was submitted.
    pub key: Option<RequestKey>,
    /// The step's number.
    pub step: u32,
    /// It is to be done; false: to be undone.
    pub forward: bool,
    /// The name of its action, if it has one.
    pub action: String,
    /// How many attempts have failed, over all starts.
    pub attempts: u32,
}

/// A call of a step that has been made more than once and is not answered as it should be. It is made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retrying {
    /// The saga.
    pub saga: OperationId,
    /// The step's number.
    pub step: u32,
    /// False: its compensation.
    pub forward: bool,
    /// How often it was called since this start.
    pub attempts: u32,
}

/// What cannot end without somebody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stuck {
    /// Steps that wait for an operator: see [`Coordinator::order`].
    pub parked: Vec<Parked>,
    /// Calls that are made again and again.
    pub retrying: Vec<Retrying>,
    /// Steps for which a transaction or a saga of their own runs, and which that is. What keeps it from its end
    /// is in the other lists under its own id: a sub-saga's parked step, say.
    pub nested: Vec<(ParentStep, StepOperation)>,
    /// Steps for which no transaction or saga could begin under this start's configuration, and why: the log takes
    /// no record so long, say. Open it again with one that allows it.
    pub unbegun: Vec<(ParentStep, Refusal)>,
    /// Sagas with a step whose action this start was opened without.
    pub held: Vec<OperationId>,
    /// Transactions that their only participant decides, and of which it has not told how.
    pub delegated: Vec<OperationId>,
    /// Sagas of which a damaged log does not prove how far they were. Nothing is done about them; an operator says
    /// how they ended: see [`Coordinator::force_saga`].
    pub sagas_in_doubt: Vec<OperationId>,
    /// Transactions of which a damaged log does not prove how they were decided. Nothing is done about them
    /// until an operator does: see [`Coordinator::force`].
    pub transactions_in_doubt: Vec<OperationId>,
    /// Branches that have promised and wait for the outcome; most wait for no longer than a message takes.
    /// See [`Coordinator::force_branch`].
    pub branches: Vec<BranchOf>,
    /// Branches whose outcome an operator has forced, until it turns out to be the transaction's, or is
    /// forgotten.
    pub forced: Vec<ForcedBranch>,
    /// Branches of this coordinator's transactions that ended otherwise, until they are forgotten.
    pub heuristics: Vec<HeuristicBranch>,
}

/// Why an operator's order was not taken: nothing of it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderRefused {
    /// The saga does not take it now: the text says why.
    #[error(transparent)]
    Refused(#[from] OrderError),
    /// Who or why is longer than [`Order::TEXT_BYTES_MAX`] bytes.
    #[error("who orders, and why, is said in at most {} bytes each", Order::TEXT_BYTES_MAX)]
    TooLong,
    /// The coordinator runs no more. Whether the order was taken is not known.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Handle {
    /// What cannot end without somebody else, as it is now.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn stuck(&self) -> Result<Stuck, Stopped> {
        self.ask(|answer| Arrival::Stuck { answer }).await
    }
}

impl Coordinator {
    /// What cannot end without somebody else, as it is now.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn stuck(&self) -> Result<Stuck, Stopped> {
        let mut stuck = self.handle.stuck().await?;
        for seat in self.seats.values() {
            let (answer, answered) = oneshot::channel();
            // One that has stopped has nothing that could be forced.
            if seat.send(Mail::Branches { answer }).is_ok()
                && let Ok(branches) = answered.await
            {
                stuck.branches.extend(branches.waiting);
                stuck.forced.extend(branches.forced);
            }
        }
        Ok(stuck)
    }

    /// Orders something about a step of a saga that goes backward, or of one that waits: to try it again now,
    /// that it was done by hand, that nobody will ever answer, or to ask something else instead. Returns once the order,
    /// with who gave it and why, is durably in the log.
    ///
    /// A step that is marked done counts as undone when its action says so:
    /// see [`Action::mark_undone`](crate::Action::mark_undone).
    ///
    /// # Errors
    /// [`OrderRefused`]
    pub async fn order(
        &self,
        saga: OperationId,
        step: u32,
        what: What,
        (who, why): (&str, &str),
    ) -> Result<(), OrderRefused> {
        let fits = |text: &str| text.len() <= Order::TEXT_BYTES_MAX as usize;
        if !fits(who) || !fits(why) {
            return Err(OrderRefused::TooLong);
        }
        let order = Box::new(Order { who: Arc::from(who), why: Arc::from(why), what });
        let (answer, answered) = oneshot::channel();
        let gone = || Stopped { reason: "its thread has ended".into() };
        let sent = self.handle.inbox.send(Arrival::Order { id: saga, step, order, answer });
        sent.map_err(|_| gone())?;
        Ok(answered.await.unwrap_or_else(|_| Err(gone()))??)
    }
}

/// What an engine's node has that is stuck.
pub(crate) fn stuck(node: &Node) -> Stuck {
    let own = node.participant().map(|host| branches(node.name(), host.participant()));
    let own = own.unwrap_or_default();
    let Some(engine) = node.coordinator() else {
        return Stuck { branches: own.waiting, forced: own.forced, ..Stuck::default() };
    };
    let retrying = engine.retrying().map(|call| Retrying {
        saga: call.id,
        step: call.step,
        forward: call.direction == Direction::Forward,
        attempts: call.attempts,
    });
    let delegated = engine.active_transactions().filter(|tx| tx.is_delegated());
    Stuck {
        parked: parked(engine),
        retrying: retrying.collect(),
        nested: engine.step_operations().collect(),
        unbegun: engine.unbegun().map(|(step, why)| (step, why.clone())).collect(),
        held: engine.held().map(|(id, _)| id).collect(),
        delegated: delegated.map(|tx| tx.id()).collect(),
        sagas_in_doubt: engine.sagas_in_doubt().collect(),
        transactions_in_doubt: engine.transactions_in_doubt().collect(),
        branches: own.waiting,
        forced: own.forced,
        heuristics: heuristics(node),
    }
}

fn parked(engine: &Engine) -> Vec<Parked> {
    let sagas = engine.active_sagas().filter(|saga| saga.parked().next().is_some());
    let mut parked = Vec::new();
    for saga in sagas {
        for number in saga.parked() {
            let Some(step) = saga.step(number) else { continue };
            parked.push(Parked {
                saga: saga.id(),
                key: saga.request_key().cloned(),
                step: number,
                forward: saga.phase() == saga::Phase::Executing,
                action: text_of(&step.node()),
                attempts: step.attempts(),
            });
        }
    }
    parked
}
