//! What incentives elsewhere have done wrong, one test each; and what bad input is answered.

use base::{NodeName, Ratio, Sequence, Time, Token};
use incentives::*;
use std::time::Duration;

const AUTHORITY: NodeName = NodeName::numbered(1_000);
const HOUR: Duration = Duration::from_secs(3_600);

fn node(number: u64) -> NodeName {
    NodeName::numbered(number)
}

/// A bank, and the numbers of everybody's requests.
struct Desk {
    bank: Bank,
    now: Time,
    sequence: u64,
    evidence: u128,
    key: u128,
}

impl Desk {
    /// Nodes 1 … `nodes` have 20,000 each, 10,000 of it at stake.
    fn with_stakes(nodes: u64) -> Desk {
        let config = Config::new(AUTHORITY, Units(1_000_000_000));
        let now = Time::ZERO + HOUR * 100;
        let mut desk = Desk { bank: Bank::new(config), now, sequence: 0, evidence: 0, key: 0 };
        for number in 1..=nodes {
            let to = node(number);
            desk.ask(AUTHORITY, Ask::Grant { to, units: Units(20_000) }).expect("enough is there");
            desk.ask(to, Ask::Bond { operator: to, units: Units(10_000) }).expect("it has them");
        }
        desk
    }

    fn apply(&mut self, event: &Event) {
        self.sequence += 1;
        self.bank.apply(Sequence(self.sequence), event).expect("what was decided follows");
        self.bank.ledger().audit();
    }

    fn ask(&mut self, by: NodeName, ask: Ask) -> Result<Fact, Refusal> {
        let number = self.bank.answer(by).map_or(0, |answer| answer.number) + 1;
        let before = self.bank.clone();
        self.key += 1;
        let key = Token::new(self.key);
        match self.bank.decide(self.now, &Request { by, number, key, ask }) {
            Ok(event) => {
                let event = event.expect("the number is new");
                self.apply(&event);
                Ok(event.fact)
            }
            Err(refusal) => {
                assert_eq!(self.bank, before, "a refusal changes nothing");
                Err(refusal)
            }
        }
    }

    fn report(&mut self, operator: u64, offence: Offence) -> Result<EscrowId, Refusal> {
        self.evidence += 1;
        let (evidence, operator) = (Token::new(self.evidence), node(operator));
        let by = if operator == node(1) { node(2) } else { node(1) };
        match self.ask(by, Ask::Report { operator, offence, evidence, happened: self.now })? {
            Fact::Slashed { escrow, .. } => Ok(escrow),
            fact => panic!("{fact:?}"),
        }
    }

    fn settle(&mut self) -> Vec<Fact> {
        let mut facts = Vec::new();
        while let Some(event) = self.bank.settle(self.now) {
            self.apply(&event);
            facts.push(event.fact);
        }
        facts
    }

    fn wallet(&self, number: u64) -> u64 {
        self.bank.ledger().balance(Account::Wallet(node(number))).0
    }
}

#[test]
fn a_stake_depletes_to_zero_and_not_below() {
    let mut desk = Desk::with_stakes(2);
    let mut slashes = 0;
    while desk.bank.stake(node(2)).at_risk() > Units::ZERO {
        desk.report(2, Offence::FailedProof).unwrap();
        slashes += 1;
        if slashes % 64 == 0 {
            let refused = desk.report(2, Offence::FailedProof);
            assert_eq!(refused, Err(Refusal::TooManyEscrows { max: 64 }));
            desk.now += HOUR * 24;
            assert_eq!(desk.settle().len(), 64);
        }
    }
    assert_eq!(slashes, 517);
    assert_eq!(desk.report(2, Offence::FailedProof), Err(Refusal::NothingAtStake));
    desk.now += HOUR * 24;
    desk.settle();
    assert_eq!(desk.bank.ledger().balance(Account::Forfeited), Units(10_000));
    assert_eq!(desk.wallet(2), 10_000, "what is not at stake is not touched");
}

#[test]
fn one_percent_and_five_percent() {
    let mut desk = Desk::with_stakes(3);
    desk.report(2, Offence::FailedProof).unwrap();
    desk.report(3, Offence::Corruption).unwrap();
    let stakes = [2, 3].map(|number| desk.bank.stake(node(number)));
    assert_eq!((stakes[0].own, stakes[0].escrowed), (Units(9_900), Units(100)));
    assert_eq!((stakes[1].own, stakes[1].escrowed), (Units(9_500), Units(500)));
}

#[test]
fn unstaking_waits_and_is_refused_while_a_slash_is_undecided() {
    let mut desk = Desk::with_stakes(2);
    let two = node(2);
    let unbond = |units| Ask::Unbond { operator: two, units: Units(units) };
    assert_eq!(desk.ask(two, unbond(9_950)), Err(Refusal::BelowMinimum { needed: Units(100) }));
    let balance = Units(10_000);
    assert_eq!(desk.ask(two, unbond(10_001)), Err(Refusal::Insufficient { balance }));
    desk.ask(two, unbond(10_000)).unwrap();
    assert!(!desk.bank.is_active(two));
    // It can still be slashed: cheat and leave does not work.
    let until = desk.now + HOUR * 48;
    desk.now += HOUR;
    let escrow = desk.report(2, Offence::Corruption).unwrap();
    assert_eq!(desk.bank.stake(two).at_risk(), Units(9_500));
    desk.ask(two, Ask::Bond { operator: two, units: Units(5_000) }).unwrap();
    let undecided = Err(Refusal::SlashUndecided { escrow, until: desk.now + HOUR * 24 });
    assert_eq!(desk.ask(two, unbond(5_000)), undecided);
    desk.now = until;
    let facts = desk.settle();
    assert_eq!(facts, [Fact::Upheld { escrow }, Fact::Unbonded { operator: two, owner: two }]);
    assert_eq!(desk.wallet(2), 5_000 + 9_500);
    desk.ask(two, unbond(5_000)).unwrap();
}

#[test]
fn delegations_have_a_minimum_a_maximum_and_a_share() {
    let mut desk = Desk::with_stakes(105);
    let operator = node(1);
    let delegate = |units| Ask::Bond { operator, units: Units(units) };
    assert_eq!(desk.ask(node(2), delegate(9)), Err(Refusal::BelowMinimum { needed: Units(10) }));
    for number in 2..=101 {
        desk.ask(node(number), delegate(10)).unwrap();
    }
    assert_eq!(desk.ask(node(102), delegate(10)), Err(Refusal::TooManyDelegators { max: 100 }));
    desk.ask(node(101), delegate(90)).unwrap();

    // 10,000 own + 99 x 10 + 100: a slash of 1 % is 111 of 11,090, whole and pro rata.
    let escrow = desk.report(1, Offence::FailedProof).unwrap();
    let stake = desk.bank.stake(operator);
    assert_eq!(stake.escrowed, Units(111));
    assert_eq!(stake.at_risk(), Units(11_090 - 111));
    assert_eq!(stake.own, Units(10_000 - 100));
    let portions = desk.bank.escrows()[&escrow].portions().to_vec();
    assert_eq!(portions.iter().map(|(_, units)| units.0).sum::<u64>(), 111);

    // To an operator without a stake nothing can be delegated.
    let poor = Ask::Bond { operator: node(500), units: Units(10) };
    assert_eq!(desk.ask(node(3), poor), Err(Refusal::Inactive { node: node(500) }));
}

#[test]
fn a_slash_takes_no_more_than_there_was_from_anybody() {
    let mut desk = Desk::with_stakes(8);
    let operator = node(1);
    for number in 2..=4 {
        desk.ask(node(number), Ask::Bond { operator, units: Units(10) }).unwrap();
    }
    let opinion = |number| Opinion { voter: node(number), score: Ratio::ZERO };
    let opinions = (2..=8).map(opinion).collect();
    let fact = desk.ask(AUTHORITY, Ask::Review { operator, opinions }).unwrap();
    let Fact::Slashed { portions, .. } = fact else { panic!("{fact:?}") };
    let expected = [(1, 8_000), (2, 8), (3, 8), (4, 8)]
        .map(|(owner, units)| (Account::Bonded { operator, owner: node(owner) }, Units(units)));
    assert_eq!(portions, expected, "four fifths of everybody's part");
}

#[test]
fn commission_is_a_tenth_of_what_delegators_earn() {
    let mut desk = Desk::with_stakes(3);
    let operator = node(1);
    for number in [2, 3] {
        desk.ask(node(number), Ask::Bond { operator, units: Units(5_000) }).unwrap();
    }
    let before = [1, 2, 3].map(|number| desk.wallet(number));
    let reward = |period| Ask::Reward { operator, period, units: Units(1_001) };
    desk.ask(AUTHORITY, reward(7)).unwrap();
    let after = [1, 2, 3].map(|number| desk.wallet(number));
    // 1,001 = 501 + 250 + 250; a tenth of 500 goes over.
    assert_eq!([0, 1, 2].map(|at| after[at] - before[at]), [551, 225, 225]);
    assert_eq!(desk.ask(AUTHORITY, reward(7)), Err(Refusal::PeriodOver { last: 7 }));
    assert_eq!(desk.ask(node(1), reward(8)), Err(Refusal::NotAuthority));
}

#[test]
fn a_new_node_is_not_slashed_for_its_score() {
    let mut desk = Desk::with_stakes(7);
    let reputation = Reputation::new(ReputationConfig::default());
    let review = |reputation: &Reputation, now, voters: std::ops::RangeInclusive<u64>| {
        let score = reputation.score(now, node(1));
        let opinions = voters.map(|number| Opinion { voter: node(number), score }).collect();
        Ask::Review { operator: node(1), opinions }
    };
    let now = desk.now;
    let fine = desk.ask(AUTHORITY, review(&reputation, now, 2..=7));
    assert_eq!(fine, Err(Refusal::ScoreIsFine { score: Ratio::percent(50) }));

    // One that has earned it is, at most once in a day, and by distinct voters only.
    let mut reputation = reputation;
    for _ in 0..100 {
        reputation.observe(now, node(1), Observation::Proof { passed: false });
    }
    let few = desk.ask(AUTHORITY, review(&reputation, now, 2..=5));
    let too_few = Disagreement::TooFewVoters { voters: 4, needed: 5 };
    assert_eq!(few, Err(Refusal::Disagreement(too_few)));
    let own = Opinion { voter: node(1), score: Ratio::ZERO };
    let stranger = Opinion { voter: node(77), score: Ratio::ZERO };
    let twice = Opinion { voter: node(2), score: Ratio::ZERO };
    let opinions = vec![own, stranger, twice, twice, twice, twice, twice];
    let stuffed = desk.ask(AUTHORITY, Ask::Review { operator: node(1), opinions });
    let too_few = Disagreement::TooFewVoters { voters: 1, needed: 5 };
    assert_eq!(stuffed, Err(Refusal::Disagreement(too_few)));

    desk.ask(AUTHORITY, review(&reputation, now, 2..=7)).unwrap();
    let at = desk.now + HOUR * 24;
    let again = desk.ask(AUTHORITY, review(&reputation, now, 2..=7));
    assert_eq!(again, Err(Refusal::ReviewedLately { at }));
}

#[test]
fn a_dispute_without_votes_ends() {
    let mut desk = Desk::with_stakes(3);
    let escrow = desk.report(1, Offence::Corruption).unwrap();
    desk.now += HOUR * 23;
    assert_eq!(desk.ask(node(2), Ask::Dispute { escrow }), Err(Refusal::Party));
    desk.ask(node(1), Ask::Dispute { escrow }).unwrap();
    assert_eq!(desk.ask(node(1), Ask::Dispute { escrow }), Err(Refusal::AlreadyDisputed));
    desk.now += HOUR * 23;
    assert_eq!(desk.settle(), []);
    desk.now = desk.bank.due().unwrap();
    assert_eq!(desk.settle(), [Fact::Upheld { escrow }]);
    assert_eq!(desk.ask(node(1), Ask::Dispute { escrow }), Err(Refusal::UnknownEscrow));
    assert_eq!(desk.bank.due(), None);
}

#[test]
fn exactly_two_thirds_of_distinct_votes_decide() {
    let mut desk = Desk::with_stakes(12);
    let escrow = desk.report(1, Offence::Corruption).unwrap();
    let vote = |uphold| Ask::Vote { escrow, uphold };
    assert_eq!(desk.ask(node(3), vote(false)), Err(Refusal::NotDisputed));
    desk.ask(node(1), Ask::Dispute { escrow }).unwrap();
    assert_eq!(desk.ask(node(1), vote(false)), Err(Refusal::Party));
    assert_eq!(desk.ask(node(2), vote(true)), Err(Refusal::Party), "it has reported");
    assert_eq!(desk.ask(node(99), vote(false)), Err(Refusal::Inactive { node: node(99) }));
    for (voter, uphold) in [(3, false), (4, false), (5, false), (6, true), (7, true)] {
        desk.ask(node(voter), vote(uphold)).unwrap();
        assert_eq!(desk.ask(node(voter), vote(uphold)), Err(Refusal::AlreadyVoted));
        assert_eq!(desk.settle(), [], "three of five are not two thirds");
    }
    desk.ask(node(8), vote(false)).unwrap();
    assert_eq!(desk.ask(node(9), vote(true)), Err(Refusal::VotesComplete));
    assert_eq!(desk.bank.due(), Some(desk.now));
    let facts = desk.settle();
    assert!(matches!(facts[..], [Fact::Overturned { .. }]), "four of six are: {facts:?}");
    assert_eq!(desk.bank.stake(node(1)).own, Units(10_000), "all of it is back");
}

#[test]
fn what_is_overturned_goes_back_to_whom_it_was_taken_from() {
    let mut desk = Desk::with_stakes(12);
    let operator = node(1);
    desk.ask(node(11), Ask::Bond { operator, units: Units(1_000) }).unwrap();
    desk.ask(node(11), Ask::Unbond { operator, units: Units(1_000) }).unwrap();
    desk.now += HOUR * 30;
    let escrow = desk.report(1, Offence::Corruption).unwrap();
    assert_eq!(desk.bank.stake(operator).escrowed, Units(550));
    desk.now += HOUR * 18;
    // What was on its way arrives, less the part that is held.
    assert_eq!(desk.settle(), [Fact::Unbonded { operator, owner: node(11) }]);
    assert_eq!(desk.wallet(11), 10_000 - 1_000 + 950);
    desk.ask(operator, Ask::Dispute { escrow }).unwrap();
    let vote = Ask::Vote { escrow, uphold: false };
    assert_eq!(desk.ask(node(11), vote.clone()), Err(Refusal::Party), "it has a portion");
    for voter in 3..=7 {
        desk.ask(node(voter), vote.clone()).unwrap();
    }
    desk.settle();
    assert_eq!(desk.wallet(11), 10_000);
    assert_eq!(desk.bank.stake(operator).own, Units(10_000));
    assert_eq!(desk.bank.counts(), EscrowCounts { overturned: 1, ..EscrowCounts::default() });
}

#[test]
fn evidence_counts_once_and_not_for_ever() {
    let mut desk = Desk::with_stakes(3);
    let (offence, evidence, happened) = (Offence::FailedProof, Token::new(9), desk.now);
    let report = Ask::Report { operator: node(1), offence, evidence, happened };
    assert_eq!(desk.ask(node(1), report.clone()), Err(Refusal::Party));
    assert_eq!(desk.ask(node(9), report.clone()), Err(Refusal::Inactive { node: node(9) }));
    desk.ask(node(2), report.clone()).unwrap();
    assert_eq!(desk.ask(node(3), report.clone()), Err(Refusal::EvidenceUsed));
    desk.now += HOUR * 24;
    desk.settle();
    // It is forgotten, and would be refused for its age.
    assert_eq!(desk.ask(node(3), report), Err(Refusal::EvidenceOutdated));
    let happened = desk.now + HOUR;
    let future = Ask::Report { operator: node(1), offence, evidence: Token::new(1), happened };
    assert_eq!(desk.ask(node(2), future), Err(Refusal::EvidenceOutdated));
}

#[test]
fn units_are_not_spent_twice() {
    let mut desk = Desk::with_stakes(3);
    let (by, number) = (node(1), 2);
    let ask = Ask::Transfer { to: node(2), units: Units(10_000) };
    let key = Token::new(1 << 64);
    let request = Request { by, number, key, ask };
    let event = desk.bank.decide(desk.now, &request).unwrap().unwrap();
    desk.apply(&event);
    // The message arrives again, and a second one tries the same units.
    assert_eq!(desk.bank.decide(desk.now, &request), Ok(None));
    let after = Sequence(desk.sequence);
    assert_eq!(desk.bank.answer(by), Some(Answer { number, after }));
    let other = Ask::Transfer { to: node(3), units: Units(1) };
    assert_eq!(desk.ask(by, other), Err(Refusal::Insufficient { balance: Units::ZERO }));
    let old = Request { number: 1, key: Token::new(2 << 64), ..request.clone() };
    assert_eq!(desk.bank.decide(desk.now, &old), Err(Refusal::WrongNumber { next: 3 }));
    let applied = desk.bank.apply(Sequence(desk.sequence + 1), &event);
    assert_eq!(applied, Err(IllegalTransition::WrongNumber { by, number }));
    assert_eq!([desk.wallet(1), desk.wallet(2)], [0, 20_000]);
}

/// An asker that crashed numbers its request anew, and does not know whether it was done.
#[test]
fn what_is_asked_again_after_a_crash_is_done_once_by_its_key() {
    let mut desk = Desk::with_stakes(2);
    let by = node(1);
    let ask = Ask::Transfer { to: node(2), units: Units(4_000) };
    let request = Request { by, number: 2, key: Token::new(1 << 64), ask };
    let event = desk.bank.decide(desk.now, &request).unwrap().unwrap();
    desk.apply(&event);
    let after = Sequence(desk.sequence);
    // Others are done meanwhile, the asker's too.
    desk.ask(by, Ask::Transfer { to: node(2), units: Units(1) }).unwrap();
    for number in [0, 2, 3, 4, u64::MAX] {
        let again = Request { number, ..request.clone() };
        assert_eq!(desk.bank.decide(desk.now, &again), Ok(None), "as number {number}");
        assert_eq!(desk.bank.done(&again), Some(after));
    }
    // Under the same key somebody else has asked for nothing.
    let other = Request { by: node(2), number: 2, ..request.clone() };
    assert!(matches!(desk.bank.decide(desk.now, &other), Ok(Some(_)) | Err(Refusal::Nothing)));
    let forged = Event { request: Some(RequestId { by, number: 4, key: request.key }), ..event };
    let applied = desk.bank.apply(Sequence(desk.sequence + 1), &Event { at: desk.now, ..forged });
    assert_eq!(applied, Err(IllegalTransition::CountedBefore));
    assert_eq!([desk.wallet(1), desk.wallet(2)], [5_999, 14_001]);
    // A day later it is forgotten, once something else happens.
    desk.now += HOUR * 24;
    desk.ask(by, Ask::Transfer { to: node(2), units: Units(1) }).unwrap();
    assert_eq!(desk.bank.done(&Request { number: 9, ..request }), None);
}

#[test]
fn six_hundred_stakes_and_ten_escrows() {
    let mut desk = Desk::with_stakes(600);
    for operator in 11..=20 {
        desk.report(operator, Offence::FailedProof).unwrap();
    }
    assert_eq!(desk.bank.counts().pending, 10);
    let mut owed = Vec::new();
    desk.bank.pending(&mut owed);
    assert_eq!(owed.len(), 10);
    let staked: u64 = (1..=600).map(|number| desk.bank.stake(node(number)).own.0).sum();
    assert_eq!(staked, 6_000_000 - 10 * 100);
}
