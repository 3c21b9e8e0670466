//! Sagas as a pure machine: a graph of steps, each with a compensation that undoes it.
//!
//! A [`Saga`] is a value. It is told what happened and says what to log and what to do; it reads no
//! clock, no disk, no socket and no randomness. Running and recovering use the same four functions:
//!
//! | function | says |
//! |---|---|
//! | [`Saga::decide`] | the one fact that an input is worth, if any |
//! | [`Saga::apply`] | nothing: it is the only writer of state, live and in a replay |
//! | [`Saga::settle`] | the fact that this state owes the log without any input |
//! | [`Saga::pending`] | all that is owed to the world, each with the record to wait for |
//!
//! Recovery is: `apply` each record, `decide` on [`Input::Restarted`], `settle` until quiet,
//! `pending`.
//!
//! ```
//! use base::{CoordinatorId, NodeName, OperationId, Sequence};
//! use saga::{Action, Definition, Direction, Effect, End, Input, Outcome, Saga, Step};
//!
//! let mut order = Definition::builder();
//! let stake = order.step(Step::new(Action::StakeLock, NodeName::numbered(1), *b"10 coins"));
//! order.step(Step::new(Action::ShardWrite, NodeName::numbered(2), *b"a shard").after(stake));
//! let order = order.build()?;
//! let admission = Saga::admission(&order, CoordinatorId::numbered(1), 0x6e6f6e6365, None);
//!
//! // The shell appends each fact to its log, and then applies it under its sequence.
//! let mut log = (1..).map(Sequence);
//! let mut saga = Saga::created(OperationId(1), log.next().unwrap(), &admission[0])?;
//! for event in &admission[1..] {
//!     saga.apply(log.next().unwrap(), event)?;
//! }
//! // The stake is locked, the write is refused: the stake is unlocked, and the caller hears of it.
//! for (step, direction, outcome) in [
//!     (0, Direction::Forward, Outcome::Done),
//!     (1, Direction::Forward, Outcome::Refused { code: 28 }),
//!     (0, Direction::Backward, Outcome::Done),
//! ] {
//!     let mut fact = saga.decide(&Input::Outcome { step, direction, outcome });
//!     while let Some(event) = fact {
//!         saga.apply(log.next().unwrap(), &event)?;
//!         fact = saga.settle();
//!     }
//! }
//! let mut owed = Vec::new();
//! saga.pending(&mut owed);
//! assert_eq!(owed, [Effect::Tell { end: End::Compensated, after: Sequence(8) }]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A step may be a transaction, or a saga of its own, and is checked with the others when the definition is built:
//!
//! ```
//! use base::{NodeName, ShardId};
//! use saga::{Action, Branch, Definition, DefinitionError, Step, StepKind};
//!
//! let call = |node, body: &[u8]| Step::new(Action::Custom, NodeName::numbered(node), body);
//! let branch = |node, work: &[u8]| {
//!     let (shard, node) = (ShardId::numbered(node), NodeName::numbered(node));
//!     Branch { shard, node, work: work.into() }
//! };
//! // Packing can be taken back, and so the whole of it can, in reverse.
//! let mut delivery = Definition::builder();
//! let packed = delivery.step(call(3, b"pack"));
//! delivery.step(call(4, b"book a van").after(packed));
//! let delivery = delivery.build()?;
//!
//! let mut order = Definition::builder();
//! let paid = order.step(
//!     Step::transaction([branch(1, b"-40"), branch(2, b"+40")])
//!         .undone_by_transaction([branch(1, b"+40"), branch(2, b"-40")]),
//! );
//! let delivered = order.step(Step::saga(delivery.clone()).after(paid));
//! order.step(call(5, b"send a letter").kind(StepKind::Pivot).after(delivered));
//! assert_eq!(order.build()?.depth(), 2);
//!
//! // What has a point of no return within cannot be undone as if it had none.
//! let mut sent = Definition::builder();
//! sent.step(call(5, b"send a letter").kind(StepKind::Pivot));
//! let sent = sent.build()?;
//! let mut order = Definition::builder();
//! order.step(Step::saga(sent));
//! assert_eq!(order.build(), Err(DefinitionError::Irreversible { step: 0, inner: 0 }));
//! # Ok::<(), DefinitionError>(())
//! ```
//!
//! # What it guarantees
//!
//! Given a log that keeps a prefix of what was appended, with everything in it that was durable; a
//! shell that lets an [`Effect`] leave only once the record that it names is durable; and
//! participants that keep a step's token with its effect:
//!
//! - a step runs only while the effects of all its dependencies are there;
//! - a step is undone only when no effect of a step that depends on it is there, or can come any
//!   more;
//! - *completed* is told only if every effect is there, *compensated* and *aborted* only if none
//!   is, and never both, over any number of crashes;
//! - while calls are answered at last, every state leads to an end, but for branches that were given
//!   up and wait for an operator; an end that rests on an operator's word alone is flagged heuristic;
//! - no event makes `apply` panic; one that does not follow is refused and changes nothing.
//!
//! # What it does not
//!
//! It does not run the transactions and sagas that steps may be: it is told what became of them. How often and how soon a call is
//! tried, and after how many attempts a compensation is given up, is the shell's matter, as are all
//! clocks.
//!
//! # The rules, and where they come from
//!
//! - **A graph, undone in reverse.** Garcia-Molina and Salem, *Sagas* (1987), generalised from a
//!   row to a graph as in steno: independent branches run and are undone in parallel.
//! - **No record says that a step was started.** Steps whose dependencies have all succeeded, with
//!   their own outcome missing, *may* have been: a function of the log. Going forward they are
//!   called again with the same token; going backward they are undone too. The set is fixed by the
//!   record that turns the saga: a success that comes in later starts nothing, and what a step
//!   answers after it was undone is worth nothing. To log each start costs a force per step (steno:
//!   40 for a join of 16).
//! - **A time-out is not a refusal.** [`Outcome::Refused`] says that the participant has durably
//!   refused the token, so there is nothing to undo; a step that was given up without an answer
//!   ([`FailedEffect::Maybe`]) is undone like one that succeeded. Sagas that treat the two alike
//!   leave effects behind (steno#66, omicron#3085).
//! - **The undo list** is: succeeded + failed with [`FailedEffect::Maybe`] + maybe started, minus
//!   compensated. A step's turn comes when no step that depends on it is on the list.
//! - **What an effect waits for** is every record that, were it lost, would make the effect wrong.
//!   To run a step: execute_start and the success of *all* its dependencies. To undo one: the
//!   record that turned the saga and, of each step that depends on it, the compensation's success
//!   or the late refusal that took it off the list. Without the last one:
//!   1. step 1 depends on step 0, and is in flight when the saga is cancelled;
//!   2. its refusal arrives, is appended, and leaves step 0 alone on the undo list;
//!   3. step 0 is undone; a crash loses the refusal, which was not durable;
//!   4. the next start finds step 1 on the undo list, and undoes it after what it depended on.
//! - **Cancelling is compensating**, durable and in one call. A saga whose execute_start is missing
//!   aborts instead: execute_start is durable before the first call, so nothing ran. A restart
//!   aborts it, too, for nobody waits for it any more.
//! - **Kinds of steps.** Once the pivot may have been started, nothing but its own refusal turns the
//!   saga: not a cancel, not a time-out, not what a step behind it says. A pivot or a retriable step
//!   does not fail because nobody answers. A step without an undo is on no undo list, and yet it stands
//!   between those before and those behind it: what it depends on is undone after what depends on it.
//! - **An operation is undone as what it is known to have done.** What became of a transaction or a sub-saga is
//!   in the log of whoever runs it, so such a step never fails with an unknown effect; going backward it is
//!   first ended, and undone if it succeeded. Its undo waits for the record of that success.
//! - **A saga that is a step of another one ends when that one says so**: by then that one knows how, and will
//!   not turn it any more.
//! - **An attempt that fails for the last time parks its branch**, and others go on. Only an operator
//!   has it called again, and that order is what the call waits for. A success that comes late counts.
//!   An operator who has undone a step by hand has its participant told so, under the token of the
//!   compensation, so that neither a late call nor a late compensation does anything there; the step
//!   is off the list when the participant has answered, or when the operator gives it up as well.
//! - **Outputs** are in the log with the success that brought them. What is not of the declared type
//!   is as good as no answer, for a later step may need it.
//! - **A failed forward attempt that is tried again leaves no record**: step_failed turns the saga.
//! - **`settle` exists** because two records of one decision may be cut apart by a crash: a saga
//!   whose last success is in the log and whose end is not must not be stranded.
//! - **Tokens** name the step and the direction, never the attempt, under a random nonce in the
//!   log, so that a call repeated by any number of starts has its effect once.

mod definition;
mod event;
mod kind;
mod machine;
mod order;
mod performer;
mod terms;

pub use definition::{Action, Builder, Definition, DefinitionError, Limits, Step};
pub use event::{
    AttemptNote, Direction, Effect, End, Event, EventKind, FailedEffect, Input, OPERATION_FAILED,
    Outcome, STEP_TIMED_OUT,
};
pub use kind::StepKind;
pub use machine::{
    Classification, IllegalTransition, Phase, Reason, RecoveryAction, Saga, StepOutcome, StepState,
    Turn,
};
pub use order::{Order, OrderRefusal, What};
pub use performer::{Branch, Performer, Undo};
pub use terms::{
    DefinitionName, Label, LabelLength, Output, SagaTerms, StepInput, StepTerms, ValueType,
};
