//! What operators see of sagas that do not come to their end by themselves, and what they may do.

use super::{Engine, SagaOp};
use crate::output::{Operated, OrderError, Output};
use base::{OperationId, Time};
use saga::{Direction, Label, Order};
use std::fmt;

/// A call that has not been answered as it should be, and is made again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retrying {
    /// The saga.
    pub id: OperationId,
    /// Its step.
    pub step: u32,
    /// Forward, or its compensation.
    pub direction: Direction,
    /// How often it was called since this start, or since an operator's last order about it.
    pub attempts: u32,
    /// When it was called first.
    pub since: Time,
}

/// Why an operation is not cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelRefusal {
    /// No operation of this key is active: it has ended, or never began.
    NotActive,
    /// Nobody can say how far it is: the log was salvaged.
    InDoubt,
    /// It goes backward already, or is decided.
    TooLate,
    /// The saga's pivot may have been started: from there it only goes forward.
    PastPivot {
        /// The pivot's number.
        step: u32,
    },
    /// The log takes nothing more just now, or has failed: ask again.
    LogBusy,
}

impl fmt::Display for CancelRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotActive => f.write_str("no operation of this key is active"),
            Self::InDoubt => f.write_str("the operation is in doubt: the log was damaged"),
            Self::TooLate => {
                f.write_str("it is too late: the operation goes backward, or is decided")
            }
            Self::PastPivot { step } => {
                write!(
                    f,
                    "step {step}, the pivot, may have been started: the saga only goes forward"
                )
            }
            Self::LogBusy => f.write_str("the log's buffer is full: try later"),
        }
    }
}

impl std::error::Error for CancelRefusal {}

impl Engine {
    /// An operator orders something about a step of a saga that goes backward, or of one that
    /// [waits](Self::parked). The order is logged, and forced; [`Output::Operated`] tells the operator once it
    /// is durable, or why it is not taken.
    pub fn order(
        &mut self,
        now: Time,
        id: OperationId,
        step: u32,
        order: Order,
        out: &mut Vec<Output>,
    ) {
        let result =
            if self.dead { Err(OrderError::LogBusy) } else { self.take(now, id, step, order, out) };
        if let Err(error) = result {
            out.push(Output::Operated(Box::new(Operated { id, step, result: Err(error) })));
        }
        self.run_errands(now, out);
    }

    fn take(
        &mut self,
        now: Time,
        id: OperationId,
        step: u32,
        order: Order,
        out: &mut Vec<Output>,
    ) -> Result<(), OrderError> {
        let op = self.sagas.get(&id).ok_or(OrderError::NotActive)?;
        op.machine.check_order(step, &order).map_err(OrderError::Refused)?;
        match &order.what {
            saga::What::Override { body } => {
                let largest = crate::codec::step_outcome_bytes(body.len(), None);
                self.desk.check_payload(largest).map_err(|_| OrderError::TooLarge)?;
            }
            saga::What::Instead { branches } => {
                self.check_branches(branches).map_err(|_| OrderError::TooLarge)?;
            }
            _ => {}
        }
        let input = saga::Input::Ordered { step, order: Box::new(order) };
        let op = self.sagas.get_mut(&id).ok_or(OrderError::NotActive)?;
        let event = op.machine.decide(&input).expect("an order that is taken is worth a record");
        let mut payload = Vec::new();
        crate::codec::encode_saga(id, &event, &mut payload);
        self.desk.check_payload(payload.len()).map_err(|_| OrderError::TooLarge)?;
        if !self.desk.record_saga(now, op, &event, out) {
            return Err(OrderError::LogBusy);
        }
        op.called_anew(step);
        let told = Output::Operated(Box::new(Operated { id, step, result: Ok(()) }));
        self.desk.log.owe(op.machine.last(), told, out);
        self.advance_saga(now, id, out);
        Ok(())
    }

    /// The branches that wait for an operator: saga and step. While the saga goes forward, that is a step that
    /// cannot fail, and of whose transaction an operator has forced the abort.
    pub fn parked(&self) -> impl Iterator<Item = (OperationId, u32)> + '_ {
        self.sagas.values().flat_map(|op| op.machine.parked().map(|step| (op.machine.id(), step)))
    }

    /// The calls that were made more than once, and are not answered.
    pub fn retrying(&self) -> impl Iterator<Item = Retrying> + '_ {
        self.sagas.values().flat_map(|op| op.retrying())
    }

    /// The sagas of which a step's code is missing, and whose. Nothing of them is called until a start
    /// that has it.
    pub fn held(&self) -> impl Iterator<Item = (OperationId, &Label)> {
        self.sagas.values().filter_map(|op| Some((op.machine.id(), op.held.as_ref()?)))
    }
}

impl SagaOp {
    fn retrying(&self) -> impl Iterator<Item = Retrying> + '_ {
        let again = self.calls.iter().filter(|call| call.attempts > 1);
        again.map(|call| Retrying {
            id: self.machine.id(),
            step: call.step,
            direction: call.direction,
            attempts: call.attempts,
            since: call.since,
        })
    }
}
