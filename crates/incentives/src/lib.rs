//! What a storage node risks and earns: a ledger by double entry, stakes and delegations, slashing with
//! an escrow that can be disputed, reputation, and what voters agree on. Integers only.
//!
//! A [`Bank`] is a value. It is told `(now, request)` and says what to log and what to tell; it reads
//! no clock, no disk, no socket. It has the four functions of the other machines: [`Bank::decide`],
//! [`Bank::apply`], [`Bank::settle`], [`Bank::pending`]; recovery is to `apply` each record, then to
//! `settle`. [`Reputation`] and [`agree`] make what a node tells the bank about others.
//!
//! ```
//! use base::{NodeName, Sequence, Time, Token};
//! use incentives::{Account, Ask, Bank, Config, Event, Offence, Request, Units};
//! use std::time::Duration;
//!
//! let [authority, alice, bob] = [0, 1, 2].map(NodeName::numbered);
//! let mut bank = Bank::new(Config::new(authority, Units(1_000_000)));
//! let mut log: Vec<Event> = Vec::new();
//! let mut ask = |bank: &mut Bank, now, by, number, ask| {
//!     let request = Request { by, number, key: Token::new(number.into()), ask };
//!     let event = bank.decide(now, &request)?.expect("it is asked once");
//!     log.push(event);
//!     let sequence = Sequence(log.len() as u64);
//!     bank.apply(sequence, &log[log.len() - 1]).expect("what was decided follows");
//!     Ok::<(), incentives::Refusal>(())
//! };
//!
//! let now = Time::ZERO + Duration::from_secs(1);
//! for (number, node) in [(1, alice), (2, bob)] {
//!     let units = Units(10_000);
//!     ask(&mut bank, now, authority, number, Ask::Grant { to: node, units })?;
//!     ask(&mut bank, now, node, 1, Ask::Bond { operator: node, units })?;
//! }
//! // Bob reports that Alice holds a corrupted shard: 5 % of her stake is held in escrow.
//! let (offence, evidence) = (Offence::Corruption, Token::new(7));
//! let report = Ask::Report { operator: alice, offence, evidence, happened: now };
//! ask(&mut bank, now, bob, 2, report.clone())?;
//! assert_eq!(bank.stake(alice).own, Units(9_500));
//! // The same evidence does not count twice.
//! assert!(ask(&mut bank, now, bob, 3, report).is_err());
//! // Nobody disputes it, and after a day it is forfeited.
//! let due = bank.due().expect("a slash is undecided");
//! assert_eq!(due, now + Duration::from_secs(86_400));
//! let end = bank.settle(due).expect("its deadline has passed");
//! bank.apply(Sequence(6), &end)?;
//! assert_eq!(bank.ledger().balance(Account::Forfeited), Units(500));
//! bank.ledger().audit();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it guarantees
//!
//! - Units are moved, never made or lost: the sum of all balances is the supply, and that is asserted
//!   at every entry. No balance is ever below zero.
//! - A request is done at most once, however often it is delivered, and over any crash of the bank or of
//!   who asks: its number and its key are in the log with what it did.
//! - A slash takes its part of all that stands behind the operator, rounded up, pro rata to the unit;
//!   so stakes deplete, and nobody loses more than was there. What is on its way back is reached too.
//! - A slash ends: by distinct votes or by its deadline.
//! - One piece of evidence slashes once, whoever reports it and however often.
//! - No event makes `apply` panic; one that does not follow is refused and changes nothing.
//!
//! # What it does not
//!
//! - It does not know whether evidence is true: whoever hands it a report has checked the proof. A
//!   reporter who lies risks only that the slash is overturned.
//! - It does not know who sends a message. `by` is what the shell vouches for.
//! - Times in events are compared over restarts, so the shell's clock has to go on over them.
//! - There is one bank per ledger; how nodes find it, and how it would be replicated, is not here.
//!
//! # The rules, and where they come from
//!
//! - **Amounts in facts.** An event holds what it moves. A replay computes nothing anew: rounding, rates
//!   and minimums are decided once.
//! - **Pro rata by largest remainders** (Hamilton's method): parts of an amount add up to it.
//! - **Taken is rounded up, paid is rounded down.** With 1 % rounded down a stake of 99 would be slashed
//!   by nothing for ever.
//! - **Unbonding is slashable**, and longer than evidence can be old: who cheats cannot leave before it is
//!   found out (as in the Cosmos SDK's staking and slashing).
//! - **The evidence stands until voters say it does not.** If a dispute without votes were overturned at
//!   its deadline, everybody would dispute everything.
//! - **Parties have no vote:** neither the operator, nor the reporter, nor who has a portion in escrow.

mod agreement;
mod bank;
mod codec;
mod config;
mod decay;
mod escrow;
mod event;
mod ledger;
mod reputation;
mod units;

pub use agreement::{Agreed, Disagreement, Opinion, agree};
pub use bank::{Answer, Bank, IllegalTransition};
pub use config::{AgreementConfig, Config, ConfigError, Majority};
pub use escrow::{Escrow, EscrowCounts, Escrows, Stake, Verdict};
pub use event::{Ask, Cause, Effect, Event, Fact, Offence, Refusal, Request, RequestId};
pub use ledger::{Account, EscrowId, Ledger, Posting, PostingError};
pub use reputation::{Observation, Reputation, ReputationConfig};
pub use units::{Units, apportion};
