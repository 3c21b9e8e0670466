//! Random histories of a bank, against a model that shares no code with it: signed balances by name, and
//! the specification's rules said once more, the naive way.

use base::{NodeName, Ratio, Sequence, Time, Token};
use incentives::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const AUTHORITY: NodeName = NodeName::numbered(0);
const SUPPLY: i128 = 1_000_000;

/// What a history consists of, before it is known what it means.
#[derive(Clone, Debug)]
struct Move {
    kind: u8,
    by: u8,
    other: u8,
    amount: u64,
    wait_hours: u8,
    again: bool,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let amount = prop_oneof![Just(0), 1..30u64, 30..5_000u64, Just(u64::MAX)];
    let one = (0..20u8, 0..10u8, 0..10u8, amount, 0..60u8, any::<bool>());
    let one = one.prop_map(|(kind, by, other, amount, wait, again)| {
        let wait_hours = wait.saturating_sub(30);
        Move { kind, by, other, amount, wait_hours, again }
    });
    proptest::collection::vec(one, 0..200)
}

type Votes = BTreeMap<u64, bool>;
/// By account and owner.
type Taken = BTreeMap<(String, u64), i128>;

/// Balances as anybody would keep them: names, signed numbers.
#[derive(Clone, Debug, Default)]
struct Model {
    balances: BTreeMap<String, i128>,
    /// Per undecided slash: votes by voter, or none while it is undisputed; what was taken.
    slashes: BTreeMap<u64, (Option<Votes>, Taken)>,
    ends: u64,
}

fn name(account: Account) -> String {
    match account {
        Account::Treasury => "treasury".into(),
        Account::Forfeited => "forfeited".into(),
        Account::Wallet(node) => format!("wallet {}", node.number()),
        Account::Bonded { operator, owner } => {
            format!("bonded {} {}", operator.number(), owner.number())
        }
        Account::Unbonding { operator, owner } => {
            format!("unbonding {} {}", operator.number(), owner.number())
        }
        Account::Escrow(escrow) => format!("escrow {}", escrow.0),
    }
}

fn owner_in(account: &str) -> u64 {
    let (_, owner) = account.rsplit_once(' ').expect("it has an owner");
    owner.parse().expect("a number")
}

impl Model {
    fn of(&self, name: &str) -> i128 {
        self.balances.get(name).copied().unwrap_or(0)
    }

    fn shift(&mut self, from: &str, to: &str, units: i128) {
        *self.balances.entry(from.into()).or_default() -= units;
        *self.balances.entry(to.into()).or_default() += units;
    }

    fn behind(&self, operator: u64) -> Vec<(String, i128)> {
        let (bonded, unbonding) = (format!("bonded {operator} "), format!("unbonding {operator} "));
        let of = |name: &&String| name.starts_with(&bonded) || name.starts_with(&unbonding);
        let names = self.balances.keys().filter(of);
        names.map(|name| (name.clone(), self.of(name))).filter(|(_, units)| *units > 0).collect()
    }

    /// What a fact does, and whether it may.
    fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::Granted { to, units } => {
                self.shift("treasury", &format!("wallet {}", to.number()), units.0.into());
            }
            Fact::Transferred { from, to, units } => {
                let (from, to) = (from.number(), to.number());
                self.shift(&format!("wallet {from}"), &format!("wallet {to}"), units.0.into());
            }
            Fact::Bonded { operator, owner, units } => {
                let (operator, owner) = (operator.number(), owner.number());
                let bond = format!("bonded {operator} {owner}");
                self.shift(&format!("wallet {owner}"), &bond, units.0.into());
                let least = if operator == owner { 100 } else { 10 };
                assert!(self.of(&bond) >= least);
            }
            Fact::Unbonding { operator, owner, units, .. } => {
                let (operator, owner) = (operator.number(), owner.number());
                let (from, to) =
                    (format!("bonded {operator} {owner}"), format!("unbonding {operator} {owner}"));
                self.shift(&from, &to, units.0.into());
                let least = if operator == owner { 100 } else { 10 };
                assert!(self.of(&from) == 0 || self.of(&from) >= least);
            }
            Fact::Unbonded { operator, owner } => {
                let (operator, owner) = (operator.number(), owner.number());
                let from = format!("unbonding {operator} {owner}");
                let units = self.of(&from);
                self.shift(&from, &format!("wallet {owner}"), units);
            }
            Fact::Rewarded { operator, shares, .. } => {
                let all: i128 = shares.iter().map(|(_, units)| i128::from(units.0)).sum();
                let bonds: i128 =
                    (0..10).map(|o| self.of(&format!("bonded {} {o}", operator.number()))).sum();
                for (owner, units) in shares {
                    let (owner, operator) = (owner.number(), operator.number());
                    self.shift("treasury", &format!("wallet {owner}"), units.0.into());
                    if owner != operator {
                        // Nine tenths of its part, to a unit on either side of each rounding.
                        let bond = self.of(&format!("bonded {operator} {owner}"));
                        let exact = all * bond * 9;
                        let got = i128::from(units.0) * 10 * bonds;
                        assert!((got - exact).abs() <= 20 * bonds, "{fact:?}");
                    }
                }
            }
            Fact::Slashed { escrow, operator, cause, portions, .. } => {
                let parts = self.behind(operator.number());
                let total: i128 = parts.iter().map(|(_, units)| units).sum();
                let amount: i128 = portions.iter().map(|(_, units)| i128::from(units.0)).sum();
                let (lost, of) = match cause {
                    Cause::Reported { offence: Offence::FailedProof, .. } => (1, 100),
                    Cause::Reported { offence: Offence::Corruption, .. } => (5, 100),
                    Cause::LowScore { score, voters } => {
                        assert!(*voters >= 5);
                        // 0.8 - 0.7 * score / 0.5, of a million; rounded down.
                        let score = i128::from(score.parts_per_million());
                        assert!(score < 500_000);
                        let rate = 100_000 + (700_000 * (500_000 - score)).div_euclid(500_000);
                        (rate, 1_000_000)
                    }
                };
                assert!(
                    amount * of >= total * lost && (amount - 1) * of < total * lost,
                    "{fact:?}"
                );
                let mut taken = BTreeMap::new();
                for (account, units) in portions {
                    let (account, units) = (name(*account), i128::from(units.0));
                    let part = self.of(&account);
                    assert!(parts.iter().any(|(other, _)| *other == account));
                    assert!((units * total - amount * part).abs() < total, "pro rata: {fact:?}");
                    self.shift(&account, &format!("escrow {}", escrow.0), units);
                    let owner = owner_in(&account);
                    *taken.entry((account, owner)).or_default() += units;
                }
                self.slashes.insert(escrow.0, (None, taken));
            }
            Fact::Disputed { escrow, .. } => {
                let slash = self.slashes.get_mut(&escrow.0).expect("it is undecided");
                assert!(slash.0.replace(BTreeMap::new()).is_none());
            }
            Fact::Voted { escrow, voter, uphold } => {
                let slash = self.slashes.get_mut(&escrow.0).expect("it is undecided");
                let votes = slash.0.as_mut().expect("it is disputed");
                assert!(votes.insert(voter.number(), *uphold).is_none(), "a vote twice");
            }
            Fact::Upheld { escrow } => {
                self.slashes.remove(&escrow.0).expect("it is undecided");
                let from = format!("escrow {}", escrow.0);
                let units = self.of(&from);
                self.shift(&from, "forfeited", units);
                self.ends += 1;
            }
            Fact::Overturned { escrow, portions } => {
                let (votes, taken) = self.slashes.remove(&escrow.0).expect("it is undecided");
                let votes = votes.expect("only a dispute overturns");
                let against = votes.values().filter(|uphold| !**uphold).count();
                assert!(votes.len() >= 5 && against * 3 >= votes.len() * 2);
                let mut owed: BTreeMap<u64, i128> = BTreeMap::new();
                for ((_, owner), units) in taken {
                    *owed.entry(owner).or_default() += units;
                }
                for (account, units) in portions {
                    let account = name(*account);
                    let owner = owner_in(&account);
                    *owed.get_mut(&owner).expect("it had a portion") -= i128::from(units.0);
                    self.shift(&format!("escrow {}", escrow.0), &account, units.0.into());
                }
                assert!(owed.values().all(|&units| units == 0), "{fact:?}");
                self.ends += 1;
            }
            fact => panic!("{fact:?}"),
        }
    }

    fn agrees(&self, bank: &Bank) {
        let kept: BTreeMap<String, i128> = bank
            .ledger()
            .accounts()
            .map(|(account, units)| (name(account), i128::from(units.0)))
            .collect();
        let mut known = self.balances.clone();
        known.retain(|_, units| *units != 0);
        assert!(known.values().all(|&units| units > 0), "below zero: {known:?}");
        assert_eq!(known, kept);
        assert_eq!(known.values().sum::<i128>(), SUPPLY);
    }
}

struct History {
    bank: Bank,
    model: Model,
    log: Vec<Event>,
    now: Time,
    refused: u64,
}

impl History {
    fn new() -> History {
        let bank = Bank::new(config());
        let model =
            Model { balances: BTreeMap::from([("treasury".into(), SUPPLY)]), ..Model::default() };
        History { bank, model, log: Vec::new(), now: Time::ZERO, refused: 0 }
    }

    fn append(&mut self, event: Event) {
        // What a log holds is bytes: they say the same, and less of them says nothing.
        let bytes = event.encode();
        assert_eq!(Event::decode(&bytes), Ok(event.clone()));
        let cut = bytes.len() * 7 / 8;
        assert!(Event::decode(&bytes[..cut]).is_err(), "cut at {cut}: {event:?}");
        self.model.take(&event.fact);
        self.log.push(event);
        let at = Sequence(self.log.len() as u64);
        let event = &self.log[self.log.len() - 1];
        self.bank.apply(at, event).expect("what was decided follows");
        self.model.agrees(&self.bank);
    }

    fn settle(&mut self) {
        while let Some(event) = self.bank.settle(self.now) {
            self.append(event);
        }
    }

    fn ask(&mut self, by: NodeName, ask: Ask, again: bool) {
        let number = self.bank.answer(by).map_or(0, |answer| answer.number) + 1;
        let key = Token::new(self.log.len() as u128 + 1);
        let request = Request { by, number, key, ask };
        match self.bank.decide(self.now, &request) {
            Ok(event) => {
                self.append(event.expect("the number is new"));
                if again {
                    assert_eq!(self.bank.decide(self.now, &request), Ok(None));
                }
            }
            Err(_) => self.refused += 1,
        }
    }

    fn step(&mut self, step: &Move) {
        let (by, other) =
            (NodeName::numbered(step.by.into()), NodeName::numbered(step.other.into()));
        let units = Units(step.amount);
        let escrow = self.bank.escrows().keys().nth(step.amount as usize % 5).copied();
        let escrow = escrow.unwrap_or(EscrowId(step.amount));
        let evidence = Token::new(u128::from(step.amount % 7));
        let happened = self.now;
        let (by, ask) = match step.kind {
            0 | 1 => (AUTHORITY, Ask::Grant { to: other, units }),
            2 => (by, Ask::Transfer { to: other, units }),
            3 | 4 => (by, Ask::Bond { operator: by, units }),
            5 | 6 => (by, Ask::Bond { operator: other, units }),
            7 => (by, Ask::Unbond { operator: other, units }),
            8 => (by, Ask::Unbond { operator: by, units }),
            9 => {
                let period = self.log.len() as u64 / 2;
                (AUTHORITY, Ask::Reward { operator: other, period, units })
            }
            10 | 11 => {
                let offence = Offence::FailedProof;
                (by, Ask::Report { operator: other, offence, evidence, happened })
            }
            12 | 13 => {
                let offence = Offence::Corruption;
                (by, Ask::Report { operator: other, offence, evidence, happened })
            }
            14 => {
                let score = Ratio::per_million((step.amount % 600_000) as u32);
                let opinion = |number| Opinion { voter: NodeName::numbered(number), score };
                (
                    AUTHORITY,
                    Ask::Review { operator: other, opinions: (0..10).map(opinion).collect() },
                )
            }
            15 | 16 => {
                let operator = self.bank.escrows().get(&escrow).map_or(by, Escrow::operator);
                (operator, Ask::Dispute { escrow })
            }
            _ => {
                // Everybody is asked, and a part of them agrees.
                for voter in 0..10u64 {
                    let uphold = (u64::from(step.by) * 7 + voter * 3) % 10 < u64::from(step.other);
                    self.ask(NodeName::numbered(voter), Ask::Vote { escrow, uphold }, step.again);
                }
                return;
            }
        };
        self.ask(by, ask, step.again);
    }
}

fn config() -> Config {
    Config::new(AUTHORITY, Units(SUPPLY as u64))
}

fn replayed(log: &[Event]) -> Bank {
    let mut bank = Bank::new(config());
    for (at, event) in (1..).zip(log) {
        bank.apply(Sequence(at), event).expect("it was legal before");
    }
    bank
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn balances_are_conserved_and_every_slash_ends(moves in moves(), cut in any::<u16>()) {
        let mut history = History::new();
        // A start from which something can go wrong.
        for number in 0..10 {
            let to = NodeName::numbered(number);
            history.ask(AUTHORITY, Ask::Grant { to, units: Units(20_000) }, false);
            history.ask(to, Ask::Bond { operator: to, units: Units(10_000) }, false);
        }
        for step in &moves {
            history.now += Duration::from_secs(3_600) * u32::from(step.wait_hours);
            history.step(step);
            if step.again {
                history.settle();
            }
        }
        prop_assert_eq!(&replayed(&history.log), &history.bank);
        // Time alone ends every slash and brings everything home.
        let opened = history.log.iter().filter(|event| matches!(event.fact, Fact::Slashed { .. }));
        let opened = opened.count() as u64;
        let mut waits = 0;
        while let Some(due) = history.bank.due() {
            history.now = history.now.max(due);
            prop_assert!(history.bank.settle(history.now).is_some(), "due, and nothing to do");
            history.settle();
            waits += 1;
            prop_assert!(waits < 1_000);
        }
        prop_assert_eq!(history.model.ends, opened);
        prop_assert!(history.bank.escrows().is_empty());
        let left: BTreeSet<_> = history.bank.ledger().accounts().map(|(account, _)| account).collect();
        let loose = |account: &Account| matches!(account, Account::Unbonding { .. } | Account::Escrow(_));
        prop_assert!(!left.iter().any(loose));

        // Every prefix of the log is a place to go on from.
        let cut = usize::from(cut) % (history.log.len() + 1);
        let mut bank = replayed(&history.log[..cut]);
        let mut at = cut as u64;
        while let Some(due) = bank.due() {
            let event = bank.settle(due).expect("it is due");
            at += 1;
            bank.apply(Sequence(at), &event).expect("what was settled follows");
            bank.ledger().audit();
        }
    }

    /// Events out of place are refused and change nothing; they never panic.
    #[test]
    fn events_that_do_not_follow_change_nothing(
        moves in moves(),
        swaps in proptest::collection::vec((any::<u16>(), any::<u16>()), 1..30),
    ) {
        let mut history = History::new();
        for number in 0..10 {
            let to = NodeName::numbered(number);
            history.ask(AUTHORITY, Ask::Grant { to, units: Units(20_000) }, false);
            history.ask(to, Ask::Bond { operator: to, units: Units(10_000) }, false);
        }
        for step in &moves {
            history.now += Duration::from_secs(3_600) * u32::from(step.wait_hours);
            history.step(step);
        }
        let mut log = history.log;
        for (one, two) in swaps {
            let (one, two) = (usize::from(one) % log.len(), usize::from(two) % log.len());
            log.swap(one, two);
        }
        let mut bank = Bank::new(config());
        for (at, event) in (1..).zip(&log) {
            let before = bank.clone();
            if bank.apply(Sequence(at), event).is_err() {
                prop_assert_eq!(&bank, &before);
            }
            bank.ledger().audit();
        }
    }
}

/// The histories are worth something: they come to every fact.
#[test]
fn histories_reach_everything() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..200 {
        let moves = moves().new_tree(&mut runner).unwrap().current();
        let mut history = History::new();
        for number in 0..10 {
            let to = NodeName::numbered(number);
            history.ask(AUTHORITY, Ask::Grant { to, units: Units(20_000) }, false);
            history.ask(to, Ask::Bond { operator: to, units: Units(10_000) }, false);
        }
        for step in &moves {
            history.now += Duration::from_secs(3_600) * u32::from(step.wait_hours);
            history.step(step);
            history.settle();
        }
        for event in &history.log {
            let text = format!("{:?}", event.fact);
            *seen.entry(text.split(' ').next().unwrap().into()).or_default() += 1;
        }
        *seen.entry("refused".into()).or_default() += history.refused;
    }
    println!("{seen:?}");
    assert!(seen.len() == 12 && seen.values().all(|&times| times > 20), "{seen:?}");
}
