//! The machine: every balance, stake and slash as a function of the events.

use crate::agreement::{Opinion, agree};
use crate::config::Config;
use crate::escrow::{Dispute, Escrow, EscrowCounts, Escrows, Stake, Verdict};
use crate::event::{Ask, Cause, Effect, Event, Fact, Offence, Refusal, Request, RequestId};
use crate::units::apportion;
use crate::{Account, EscrowId, Ledger, Posting, PostingError, Units};
use base::{NodeName, Sequence, Time, Token};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A bank: the ledger, and every rule about who may move what.
///
/// Its methods, in the order in which a shell uses them:
/// 1. [`Bank::decide`] and [`Bank::settle`] say what to log (`&self`);
/// 2. [`Bank::apply`] is the only writer, live and in a replay;
/// 3. [`Bank::answer`] and [`Bank::pending`] say what to tell, [`Bank::due`] when to call `settle`;
/// 4. the rest are views.
///
/// Cost: a request takes time in proportion to those who stand behind one operator, of whom there
/// are at most 101 with bonds, and logarithmic in all else; `pending` looks at every undecided slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bank {
    config: Config,
    ledger: Ledger,
    /// When what is on its way arrives.
    arrivals: BTreeMap<(NodeName, NodeName), Time>,
    arrivals_by_time: BTreeSet<(Time, NodeName, NodeName)>,
    escrows: Escrows,
    /// The undecided slashes by operator.
    slashes: BTreeSet<(NodeName, EscrowId)>,
    /// Those whose votes decide, and all by deadline.
    escrows_by_time: BTreeSet<(Time, EscrowId)>,
    votes_complete: BTreeSet<EscrowId>,
    /// Evidence that was used, as long as it could be used again.
    evidence: BTreeMap<Token, Time>,
    evidence_by_time: BTreeSet<(Time, Token)>,
    /// When an operator was slashed for its score last.
    reviewed: BTreeMap<NodeName, Time>,
    rewarded: BTreeMap<NodeName, u64>,
    answers: BTreeMap<NodeName, Answer>,
    /// What was done under each key, as long as that is remembered.
    done: BTreeMap<(NodeName, Token), Sequence>,
    done_by_time: VecDeque<(Time, NodeName, Token)>,
    last_escrow: EscrowId,
    counts: EscrowCounts,
    last: Sequence,
    latest: Time,
}

/// The last request of an asker that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its number.
    pub number: u64,
    /// The record that did it: the answer waits until that is durable.
    pub after: Sequence,
}

/// An event that does not follow. Nothing was changed.
///
/// In a log that is replayed: an anomaly of that log, to be reported. While running: a bug of the
/// shell, which applied something else than what `decide` or `settle` said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IllegalTransition {
    /// An asker's requests are done in the order of their numbers.
    #[error("request {number} of {by:?} was done, or one before it was not")]
    WrongNumber {
        /// Whose.
        by: NodeName,
        /// Which.
        number: u64,
    },
    /// Events are in the order of time.
    #[error("it is earlier than the event before it")]
    Earlier,
    /// What it moves is not there.
    #[error(transparent)]
    Posting(#[from] PostingError),
    /// It takes something from where nothing stands behind the operator, or gives it elsewhere.
    #[error("{account:?} has no part in this slash")]
    NoPart {
        /// Which account.
        account: Account,
    },
    /// Slashes are numbered one by one.
    #[error("slash {escrow:?} is not the next one, or not undecided")]
    WrongEscrow {
        /// Which.
        escrow: EscrowId,
    },
    /// One dispute, then votes, each of another node.
    #[error("slash {escrow:?} cannot be disputed or voted on this way")]
    WrongVote {
        /// Which.
        escrow: EscrowId,
    },
    /// Nothing is on its way.
    #[error("nothing is on its way from {operator:?} to {owner:?}")]
    NotUnbonding {
        /// From where.
        operator: NodeName,
        /// To whom.
        owner: NodeName,
    },
    /// Evidence counts once, a period is rewarded once, a key's request is done once.
    #[error("it was counted before")]
    CountedBefore,
}

impl Bank {
    /// A bank at the beginning: everything is in the treasury.
    ///
    /// # Panics
    /// If the numbers do not go together: [`Config::check`].
    #[must_use]
    pub fn new(config: Config) -> Bank {
        if let Err(error) = config.check() {
            panic!("{error}");
        }
        Bank {
            ledger: Ledger::new(config.supply),
            config,
            arrivals: BTreeMap::new(),
            arrivals_by_time: BTreeSet::new(),
            escrows: BTreeMap::new(),
            slashes: BTreeSet::new(),
            escrows_by_time: BTreeSet::new(),
            votes_complete: BTreeSet::new(),
            evidence: BTreeMap::new(),
            evidence_by_time: BTreeSet::new(),
            reviewed: BTreeMap::new(),
            rewarded: BTreeMap::new(),
            answers: BTreeMap::new(),
            done: BTreeMap::new(),
            done_by_time: VecDeque::new(),
            last_escrow: EscrowId(0),
            counts: EscrowCounts::default(),
            last: Sequence::NONE,
            latest: Time::ZERO,
        }
    }

    /// The one fact that the request is worth: to be appended to the log, then applied. `None` if it
    /// was done before, by its number or by its key: [`done`](Self::done) says with which record.
    ///
    /// # Errors
    /// [`Refusal`] says why it is not done. Nothing is changed, and the number is still free; so a
    /// request that was refused and is delivered once more may be done then. An asker that no
    /// longer wants it uses its number for another.
    pub fn decide(&self, now: Time, request: &Request) -> Result<Option<Event>, Refusal> {
        if self.done(request).is_some() {
            return Ok(None);
        }
        let done = self.answers.get(&request.by).map_or(0, |answer| answer.number);
        if request.number != done + 1 {
            return Err(Refusal::WrongNumber { next: done + 1 });
        }
        let at = now.max(self.latest);
        let by = request.by;
        let id = RequestId { by, number: request.number, key: request.key };
        let fact = match request.ask {
            Ask::Grant { to, units } => {
                self.authority(by)?;
                self.has(Account::Treasury, units)?;
                Fact::Granted { to, units }
            }
            Ask::Transfer { to, units } => {
                if to == by {
                    return Err(Refusal::Nothing);
                }
                self.has(Account::Wallet(by), units)?;
                Fact::Transferred { from: by, to, units }
            }
            Ask::Bond { operator, units } => self.bond(operator, by, units)?,
            Ask::Unbond { operator, units } => self.unbond(at, operator, by, units)?,
            Ask::Reward { operator, period, units } => {
                self.authority(by)?;
                self.reward(operator, period, units)?
            }
            Ask::Report { operator, offence, evidence, happened } => {
                self.active(by)?;
                if by == operator {
                    return Err(Refusal::Party);
                }
                if self.evidence.contains_key(&evidence) {
                    return Err(Refusal::EvidenceUsed);
                }
                if happened > at || happened + self.config.evidence_age_max <= at {
                    return Err(Refusal::EvidenceOutdated);
                }
                let rate = match offence {
                    Offence::FailedProof => self.config.slash_failed_proof,
                    Offence::Corruption => self.config.slash_corruption,
                };
                let cause = Cause::Reported { offence, by, evidence, happened };
                self.slash(at, operator, rate, cause)?
            }
            Ask::Review { operator, ref opinions } => {
                self.authority(by)?;
                self.review(at, operator, opinions)?
            }
            Ask::Dispute { escrow } => self.dispute(at, escrow, by)?,
            Ask::Vote { escrow, uphold } => self.vote(at, escrow, by, uphold)?,
        };
        Ok(Some(Event { at, request: Some(id), fact }))
    }

    fn authority(&self, by: NodeName) -> Result<(), Refusal> {
        if by == self.config.authority { Ok(()) } else { Err(Refusal::NotAuthority) }
    }

    fn has(&self, account: Account, units: Units) -> Result<(), Refusal> {
        let balance = self.ledger.balance(account);
        match units {
            Units::ZERO => Err(Refusal::Nothing),
            units if units > balance => Err(Refusal::Insufficient { balance }),
            _ => Ok(()),
        }
    }

    fn active(&self, node: NodeName) -> Result<(), Refusal> {
        if self.is_active(node) { Ok(()) } else { Err(Refusal::Inactive { node }) }
    }

    fn minimum(&self, operator: NodeName, owner: NodeName) -> Units {
        if operator == owner {
            self.config.stake_units_min
        } else {
            self.config.delegation_units_min
        }
    }

    fn bond(&self, operator: NodeName, owner: NodeName, units: Units) -> Result<Fact, Refusal> {
        self.has(Account::Wallet(owner), units)?;
        let bonded = self.ledger.balance(Account::Bonded { operator, owner });
        let needed = self.minimum(operator, owner);
        if bonded.0 + units.0 < needed.0 {
            return Err(Refusal::BelowMinimum { needed });
        }
        if operator != owner {
            self.active(operator)?;
            let max = self.config.delegators_max;
            if bonded == Units::ZERO && self.stake(operator).delegators >= max {
                return Err(Refusal::TooManyDelegators { max });
            }
        }
        Ok(Fact::Bonded { operator, owner, units })
    }

    fn unbond(
        &self,
        at: Time,
        operator: NodeName,
        owner: NodeName,
        units: Units,
    ) -> Result<Fact, Refusal> {
        let account = Account::Bonded { operator, owner };
        self.has(account, units)?;
        if let Some((escrow, undecided)) = self.undecided(operator).next() {
            return Err(Refusal::SlashUndecided { escrow, until: undecided.until });
        }
        let left = Units(self.ledger.balance(account).0 - units.0);
        let needed = self.minimum(operator, owner);
        if left != Units::ZERO && left < needed {
            return Err(Refusal::BelowMinimum { needed });
        }
        Ok(Fact::Unbonding { operator, owner, units, until: at + self.config.unbonding })
    }

    /// In proportion to what everyone has bonded; then the operator takes its commission from what
    /// the others have earned.
    fn reward(&self, operator: NodeName, period: u64, units: Units) -> Result<Fact, Refusal> {
        self.has(Account::Treasury, units)?;
        if let Some(&last) = self.rewarded.get(&operator)
            && period <= last
        {
            return Err(Refusal::PeriodOver { last });
        }
        let (accounts, weights): (Vec<_>, Vec<_>) = self.ledger.bonded(operator).unzip();
        if accounts.is_empty() {
            return Err(Refusal::NothingAtStake);
        }
        let mut shares: Vec<(NodeName, Units)> =
            accounts.into_iter().map(owner_of).zip(apportion(units, &weights)).collect();
        let earned =
            |(owner, share): &(NodeName, Units)| if *owner == operator { 0 } else { share.0 };
        let delegated = Units(shares.iter().map(earned).sum());
        let commission = delegated.part_down(self.config.commission);
        let lent: Vec<Units> = shares.iter().map(|share| Units(earned(share))).collect();
        for (share, part) in shares.iter_mut().zip(apportion(commission, &lent)) {
            share.1.0 -= part.0;
        }
        match shares.iter_mut().find(|(owner, _)| *owner == operator) {
            Some((_, own)) => own.0 += commission.0,
            None => shares.push((operator, commission)),
        }
        shares.retain(|(_, share)| *share != Units::ZERO);
        Ok(Fact::Rewarded { operator, period, shares })
    }

    fn slash(
        &self,
        at: Time,
        operator: NodeName,
        rate: base::Ratio,
        cause: Cause,
    ) -> Result<Fact, Refusal> {
        let (accounts, weights): (Vec<_>, Vec<_>) =
            self.ledger.bonded(operator).chain(self.ledger.unbonding(operator)).unzip();
        let total = Units(weights.iter().map(|weight: &Units| weight.0).sum());
        let amount = total.part_up(rate);
        if amount == Units::ZERO {
            return Err(Refusal::NothingAtStake);
        }
        let max = self.config.escrows_max_per_operator;
        if self.undecided(operator).count() >= max as usize {
            return Err(Refusal::TooManyEscrows { max });
        }
        let mut portions: Vec<_> = accounts.into_iter().zip(apportion(amount, &weights)).collect();
        portions.retain(|(_, units)| *units != Units::ZERO);
        let escrow = EscrowId(self.last_escrow.0 + 1);
        let until = at + self.config.dispute_window;
        Ok(Fact::Slashed { escrow, operator, cause, portions, until })
    }

    fn review(&self, at: Time, operator: NodeName, opinions: &[Opinion]) -> Result<Fact, Refusal> {
        if let Some(&last) = self.reviewed.get(&operator)
            && at < last + self.config.review_period
        {
            return Err(Refusal::ReviewedLately { at: last + self.config.review_period });
        }
        let counts =
            |opinion: &&Opinion| opinion.voter != operator && self.is_active(opinion.voter);
        let agreed = agree(opinions.iter().filter(counts).copied(), &self.config.agreement)?;
        let Some(rate) = self.config.review_rate(agreed.score) else {
            return Err(Refusal::ScoreIsFine { score: agreed.score });
        };
        let cause = Cause::LowScore { score: agreed.score, voters: agreed.voters };
        self.slash(at, operator, rate, cause)
    }

    fn dispute(&self, at: Time, escrow: EscrowId, by: NodeName) -> Result<Fact, Refusal> {
        let held = self.escrows.get(&escrow).ok_or(Refusal::UnknownEscrow)?;
        if held.operator != by {
            Err(Refusal::Party)
        } else if held.is_disputed() {
            Err(Refusal::AlreadyDisputed)
        } else if held.until <= at {
            Err(Refusal::TooLate { until: held.until })
        } else {
            Ok(Fact::Disputed { escrow, until: at + self.config.voting_window })
        }
    }

    fn vote(
        &self,
        at: Time,
        escrow: EscrowId,
        by: NodeName,
        uphold: bool,
    ) -> Result<Fact, Refusal> {
        let held = self.escrows.get(&escrow).ok_or(Refusal::UnknownEscrow)?;
        let dispute = held.dispute.as_ref().ok_or(Refusal::NotDisputed)?;
        self.active(by)?;
        let reporter = matches!(held.cause, Cause::Reported { by: reporter, .. } if reporter == by);
        let portion = held.portions.iter().any(|(account, _)| owner_of(*account) == by);
        if by == held.operator || reporter || portion {
            Err(Refusal::Party)
        } else if dispute.votes.contains_key(&by) {
            Err(Refusal::AlreadyVoted)
        } else if self.votes_complete.contains(&escrow) {
            Err(Refusal::VotesComplete)
        } else if held.until <= at {
            Err(Refusal::TooLate { until: held.until })
        } else {
            Ok(Fact::Voted { escrow, voter: by, uphold })
        }
    }

    /// The fact that this state owes the log without any request: a slash ends, or what was on its way
    /// arrives. Ask again after each.
    #[must_use]
    pub fn settle(&self, now: Time) -> Option<Event> {
        let at = now.max(self.latest);
        let late = self.escrows_by_time.first().filter(|(until, _)| *until <= at);
        if let Some(escrow) = self.votes_complete.first().or(late.map(|(_, escrow)| escrow)) {
            let held = &self.escrows[escrow];
            let verdict = held.verdict(at, &self.config);
            let fact = match verdict.expect("its votes decide, or its time is over") {
                Verdict::Uphold => Fact::Upheld { escrow: *escrow },
                Verdict::Overturn => {
                    Fact::Overturned { escrow: *escrow, portions: self.returns(held) }
                }
            };
            return Some(Event { at, request: None, fact });
        }
        let &(until, operator, owner) = self.arrivals_by_time.first()?;
        (until <= at).then_some(Event {
            at,
            request: None,
            fact: Fact::Unbonded { operator, owner },
        })
    }

    /// What was taken goes back to where it was taken from while the owner still has something
    /// there, else to its wallet: an overturned slash opens no bond that its owner has closed.
    fn returns(&self, held: &Escrow) -> Vec<(Account, Units)> {
        let place = |account: Account| {
            if self.ledger.balance(account) == Units::ZERO {
                Account::Wallet(owner_of(account))
            } else {
                account
            }
        };
        held.portions.iter().map(|&(account, units)| (place(account), units)).collect()
    }

    /// When [`settle`](Self::settle) has something to say without a request, at the latest.
    #[must_use]
    pub fn due(&self) -> Option<Time> {
        if !self.votes_complete.is_empty() {
            return Some(self.latest);
        }
        let escrow = self.escrows_by_time.first().map(|(until, _)| *until);
        Time::earliest(escrow, self.arrivals_by_time.first().map(|(until, ..)| *until))
    }

    /// Applies the record `sequence`: live and in recovery the only writer of state.
    ///
    /// # Errors
    /// [`IllegalTransition`] if the event does not follow from this state. Nothing was changed.
    pub fn apply(&mut self, sequence: Sequence, event: &Event) -> Result<(), IllegalTransition> {
        if event.at < self.latest {
            return Err(IllegalTransition::Earlier);
        }
        if let Some(RequestId { by, number, key }) = event.request {
            let done = self.answers.get(&by).map_or(0, |answer| answer.number);
            if done.checked_add(1) != Some(number) {
                return Err(IllegalTransition::WrongNumber { by, number });
            }
            if self.done.contains_key(&(by, key)) {
                return Err(IllegalTransition::CountedBefore);
            }
        }
        self.apply_fact(sequence, event.at, &event.fact)?;
        if let Some(RequestId { by, number, key }) = event.request {
            self.answers.insert(by, Answer { number, after: sequence });
            self.done.insert((by, key), sequence);
            self.done_by_time.push_back((event.at, by, key));
        }
        self.last = sequence;
        self.latest = event.at;
        self.forget_evidence();
        self.forget_requests();
        Ok(())
    }

    /// Each arm checks everything before it changes anything; posting is the last check.
    fn apply_fact(
        &mut self,
        sequence: Sequence,
        at: Time,
        fact: &Fact,
    ) -> Result<(), IllegalTransition> {
        match *fact {
            Fact::Granted { to, units } => {
                self.post_one(Account::Treasury, Account::Wallet(to), units)
            }
            Fact::Transferred { from, to, units } => {
                self.post_one(Account::Wallet(from), Account::Wallet(to), units)
            }
            Fact::Bonded { operator, owner, units } => {
                self.post_one(Account::Wallet(owner), Account::Bonded { operator, owner }, units)
            }
            Fact::Unbonding { operator, owner, units, until } => {
                let (from, to) =
                    (Account::Bonded { operator, owner }, Account::Unbonding { operator, owner });
                self.post_one(from, to, units)?;
                if let Some(before) = self.arrivals.insert((operator, owner), until) {
                    self.arrivals_by_time.remove(&(before, operator, owner));
                }
                self.arrivals_by_time.insert((until, operator, owner));
                Ok(())
            }
            Fact::Unbonded { operator, owner } => {
                let Some(&until) = self.arrivals.get(&(operator, owner)) else {
                    return Err(IllegalTransition::NotUnbonding { operator, owner });
                };
                let account = Account::Unbonding { operator, owner };
                // A slash may have left nothing.
                let units = self.ledger.balance(account);
                if units != Units::ZERO {
                    self.post_one(account, Account::Wallet(owner), units)?;
                }
                self.arrivals.remove(&(operator, owner));
                self.arrivals_by_time.remove(&(until, operator, owner));
                Ok(())
            }
            Fact::Rewarded { operator, period, ref shares } => {
                if self.rewarded.get(&operator).is_some_and(|&last| period <= last) {
                    return Err(IllegalTransition::CountedBefore);
                }
                let posting = |&(owner, units): &(NodeName, Units)| Posting {
                    from: Account::Treasury,
                    to: Account::Wallet(owner),
                    units,
                };
                self.ledger.post(&shares.iter().map(posting).collect::<Vec<_>>())?;
                self.rewarded.insert(operator, period);
                Ok(())
            }
            Fact::Slashed { escrow, operator, cause, ref portions, until } => {
                self.apply_slash(sequence, at, escrow, operator, cause, portions, until)
            }
            Fact::Disputed { escrow, until } => {
                let before = self.undecided_mut(escrow)?;
                if before.is_disputed() {
                    return Err(IllegalTransition::WrongVote { escrow });
                }
                let deadline = std::mem::replace(&mut before.until, until);
                before.dispute = Some(Dispute { since: sequence, votes: BTreeMap::new() });
                self.escrows_by_time.remove(&(deadline, escrow));
                self.escrows_by_time.insert((until, escrow));
                self.counts.pending -= 1;
                self.counts.disputed += 1;
                Ok(())
            }
            Fact::Voted { escrow, voter, uphold } => {
                // A later vote could take back what the votes had decided.
                if self.votes_complete.contains(&escrow) {
                    return Err(IllegalTransition::WrongVote { escrow });
                }
                let held = self.undecided_mut(escrow)?;
                match &mut held.dispute {
                    Some(dispute) if !dispute.votes.contains_key(&voter) => {
                        dispute.votes.insert(voter, uphold);
                    }
                    _ => return Err(IllegalTransition::WrongVote { escrow }),
                }
                if self.escrows[&escrow].verdict(Time::ZERO, &self.config).is_some() {
                    self.votes_complete.insert(escrow);
                }
                Ok(())
            }
            Fact::Upheld { escrow } => {
                let units = self.undecided_mut(escrow)?.held();
                self.post_one(Account::Escrow(escrow), Account::Forfeited, units)?;
                self.close(escrow);
                self.counts.upheld += 1;
                Ok(())
            }
            Fact::Overturned { escrow, ref portions } => {
                let held = self.undecided_mut(escrow)?.clone();
                if *portions != self.returns(&held) {
                    let account = Account::Escrow(escrow);
                    return Err(IllegalTransition::NoPart { account });
                }
                let posting = |&(to, units): &(Account, Units)| Posting {
                    from: Account::Escrow(escrow),
                    to,
                    units,
                };
                self.ledger.post(&portions.iter().map(posting).collect::<Vec<_>>())?;
                self.close(escrow);
                self.counts.overturned += 1;
                Ok(())
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one fact")]
    fn apply_slash(
        &mut self,
        sequence: Sequence,
        at: Time,
        escrow: EscrowId,
        operator: NodeName,
        cause: Cause,
        portions: &[(Account, Units)],
        until: Time,
    ) -> Result<(), IllegalTransition> {
        if self.last_escrow.0.checked_add(1) != Some(escrow.0) || portions.is_empty() {
            return Err(IllegalTransition::WrongEscrow { escrow });
        }
        for &(account, _) in portions {
            let (Account::Bonded { operator: of, .. } | Account::Unbonding { operator: of, .. }) =
                account
            else {
                return Err(IllegalTransition::NoPart { account });
            };
            if of != operator {
                return Err(IllegalTransition::NoPart { account });
            }
        }
        if let Cause::Reported { evidence, .. } = cause
            && self.evidence.contains_key(&evidence)
        {
            return Err(IllegalTransition::CountedBefore);
        }
        let to = Account::Escrow(escrow);
        let posting = |&(from, units): &(Account, Units)| Posting { from, to, units };
        self.ledger.post(&portions.iter().map(posting).collect::<Vec<_>>())?;
        match cause {
            Cause::Reported { evidence, happened, .. } => {
                let usable = happened + self.config.evidence_age_max;
                self.evidence.insert(evidence, usable);
                self.evidence_by_time.insert((usable, evidence));
            }
            Cause::LowScore { .. } => {
                self.reviewed.insert(operator, at);
            }
        }
        let portions = portions.to_vec();
        let held = Escrow { operator, cause, portions, until, opened: sequence, dispute: None };
        self.escrows.insert(escrow, held);
        self.slashes.insert((operator, escrow));
        self.escrows_by_time.insert((until, escrow));
        self.last_escrow = escrow;
        self.counts.pending += 1;
        Ok(())
    }

    fn post_one(
        &mut self,
        from: Account,
        to: Account,
        units: Units,
    ) -> Result<(), IllegalTransition> {
        Ok(self.ledger.post(&[Posting { from, to, units }])?)
    }

    fn undecided_mut(&mut self, escrow: EscrowId) -> Result<&mut Escrow, IllegalTransition> {
        self.escrows.get_mut(&escrow).ok_or(IllegalTransition::WrongEscrow { escrow })
    }

    fn close(&mut self, escrow: EscrowId) {
        let held = self.escrows.remove(&escrow).expect("the caller found it");
        self.slashes.remove(&(held.operator, escrow));
        self.escrows_by_time.remove(&(held.until, escrow));
        self.votes_complete.remove(&escrow);
        let open =
            if held.is_disputed() { &mut self.counts.disputed } else { &mut self.counts.pending };
        *open -= 1;
        let left = self.ledger.balance(Account::Escrow(escrow));
        assert_eq!(left, Units::ZERO, "an escrow ends empty");
    }

    /// Evidence that is too old to be used is not remembered.
    fn forget_evidence(&mut self) {
        while let Some(&(usable, evidence)) = self.evidence_by_time.first()
            && usable <= self.latest
        {
            self.evidence_by_time.remove(&(usable, evidence));
            self.evidence.remove(&evidence);
        }
    }

    /// What was done long ago may be asked for anew.
    fn forget_requests(&mut self) {
        while let Some(&(at, by, key)) = self.done_by_time.front()
            && at + self.config.request_kept <= self.latest
        {
            self.done_by_time.pop_front();
            self.done.remove(&(by, key));
        }
    }

    /// The record that has done this request, however often and under whatever number it comes: the answer
    /// waits until that is durable.
    #[must_use]
    pub fn done(&self, request: &Request) -> Option<Sequence> {
        let last = self.answers.get(&request.by).filter(|answer| answer.number == request.number);
        let known = self.done.get(&(request.by, request.key)).copied();
        known.or_else(|| last.map(|answer| answer.after))
    }

    /// The asker's last request that was done.
    #[must_use]
    pub fn answer(&self, by: NodeName) -> Option<Answer> {
        self.answers.get(&by).copied()
    }

    /// All that is owed to the world, in the order of the slashes.
    pub fn pending(&self, out: &mut Vec<Effect>) {
        out.extend(self.escrows.iter().map(|(&escrow, held)| {
            let Escrow { operator, until, opened, .. } = *held;
            match &held.dispute {
                None => {
                    let (units, after) = (held.held(), opened);
                    Effect::NoticeSlash { operator, escrow, units, until, after }
                }
                Some(dispute) => {
                    Effect::CallVotes { operator, escrow, until, after: dispute.since }
                }
            }
        }));
    }

    /// Whether the node has enough of its own at stake to take delegations, to report and to vote.
    #[must_use]
    pub fn is_active(&self, node: NodeName) -> bool {
        let own = self.ledger.balance(Account::Bonded { operator: node, owner: node });
        own >= self.config.stake_units_min
    }

    /// What stands behind an operator.
    #[must_use]
    pub fn stake(&self, operator: NodeName) -> Stake {
        let mut stake = Stake::default();
        for (account, units) in self.ledger.bonded(operator) {
            if owner_of(account) == operator {
                stake.own = units;
            } else {
                stake.delegated.0 += units.0;
                stake.delegators += 1;
            }
        }
        stake.unbonding.0 = self.ledger.unbonding(operator).map(|(_, units)| units.0).sum();
        stake.escrowed.0 = self.undecided(operator).map(|(_, held)| held.held().0).sum();
        stake
    }

    /// The undecided slashes of an operator, oldest first.
    pub fn undecided(&self, operator: NodeName) -> impl Iterator<Item = (EscrowId, &Escrow)> {
        let range = (operator, EscrowId(0))..=(operator, EscrowId(u64::MAX));
        self.slashes.range(range).map(|(_, escrow)| (*escrow, &self.escrows[escrow]))
    }

    /// Every undecided slash.
    #[must_use]
    pub fn escrows(&self) -> &Escrows {
        &self.escrows
    }

    /// How slashes stand, the ended ones included.
    #[must_use]
    pub fn counts(&self) -> EscrowCounts {
        self.counts
    }

    /// The balances.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Its numbers.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// To whom an account of a bond, or a wallet, belongs.
fn owner_of(account: Account) -> NodeName {
    match account {
        Account::Wallet(owner)
        | Account::Bonded { owner, .. }
        | Account::Unbonding { owner, .. } => owner,
        Account::Treasury | Account::Forfeited | Account::Escrow(_) => NodeName([0; 32]),
    }
}
