use crate::Units;
use base::NodeName;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The number of an escrow: they are counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EscrowId(pub u64);

/// Where units can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// What nobody has earned yet. All units begin here.
    Treasury,
    /// What was slashed for good. Nothing leaves it.
    Forfeited,
    /// What a node can spend.
    Wallet(NodeName),
    /// What stands behind an operator: its stake if it owns it, a delegation if somebody else does.
    Bonded {
        /// Who stores.
        operator: NodeName,
        /// To whom it belongs.
        owner: NodeName,
    },
    /// What was bonded and is on its way back to its owner. It can still be slashed.
    Unbonding {
        /// Who stores.
        operator: NodeName,
        /// To whom it belongs.
        owner: NodeName,
    },
    /// What one slash has taken and nobody has decided about.
    Escrow(EscrowId),
}

/// One movement: both of its sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Whose balance falls.
    pub from: Account,
    /// Whose balance rises.
    pub to: Account,
    /// By how much.
    pub units: Units,
}

/// A movement that cannot be. Nothing was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostingError {
    /// Nothing can be spent that is not there.
    #[error("{account:?} has {balance} of the {needed} units that are to leave it")]
    Overdraft {
        /// Which account.
        account: Account,
        /// What it has, with the earlier movements of the same entry.
        balance: Units,
        /// What is to leave.
        needed: Units,
    },
    /// A movement has two sides and an amount.
    #[error("a movement of {units} units from {account:?} to the same account or of nothing")]
    Nothing {
        /// Which account.
        account: Account,
        /// How much.
        units: Units,
    },
    /// What is forfeited stays so.
    #[error("forfeited units do not come back")]
    Forfeited,
}

/// Balances by double entry: whatever is moved leaves one account and arrives in another, so the sum
/// of all balances is the supply, for ever.
///
/// Both are asserted: each entry leaves the sum of the accounts that it touches as it was, and
/// [`Ledger::audit`] adds up everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Accounts without a balance are not here.
    balances: BTreeMap<Account, Units>,
    supply: Units,
}

impl Ledger {
    /// A ledger whose whole supply is in the treasury.
    #[must_use]
    pub fn new(supply: Units) -> Ledger {
        let mut ledger = Ledger { balances: BTreeMap::new(), supply };
        ledger.set(Account::Treasury, supply);
        ledger
    }

    /// Makes all movements in this order, or none.
    ///
    /// # Errors
    /// [`PostingError`]: one of them cannot be made; nothing was moved.
    pub fn post(&mut self, entry: &[Posting]) -> Result<(), PostingError> {
        let mut touched: BTreeMap<Account, Units> = BTreeMap::new();
        for posting in entry {
            let Posting { from, to, units } = *posting;
            if from == to || units == Units::ZERO {
                return Err(PostingError::Nothing { account: from, units });
            }
            if from == Account::Forfeited {
                return Err(PostingError::Forfeited);
            }
            let source = touched.entry(from).or_insert_with(|| self.balance(from));
            let Some(rest) = source.0.checked_sub(units.0) else {
                let balance = *source;
                return Err(PostingError::Overdraft { account: from, balance, needed: units });
            };
            *source = Units(rest);
            let target = touched.entry(to).or_insert_with(|| self.balance(to));
            target.0 = target.0.checked_add(units.0).expect("no balance is above the supply");
        }
        let sum = |balances: &mut dyn Iterator<Item = Units>| -> u128 {
            balances.map(|units| u128::from(units.0)).sum()
        };
        assert_eq!(
            sum(&mut touched.keys().map(|&account| self.balance(account))),
            sum(&mut touched.values().copied()),
            "an entry has changed the supply: {entry:?}"
        );
        for (account, balance) in touched {
            self.set(account, balance);
        }
        Ok(())
    }

    fn set(&mut self, account: Account, balance: Units) {
        if balance == Units::ZERO {
            self.balances.remove(&account);
        } else {
            self.balances.insert(account, balance);
        }
    }

    /// What the account has.
    #[must_use]
    pub fn balance(&self, account: Account) -> Units {
        self.balances.get(&account).copied().unwrap_or_default()
    }

    /// Every account with a balance, in order.
    pub fn accounts(&self) -> impl Iterator<Item = (Account, Units)> {
        self.balances.iter().map(|(&account, &units)| (account, units))
    }

    /// What is bonded to the operator, in the order of the owners.
    pub fn bonded(&self, operator: NodeName) -> impl Iterator<Item = (Account, Units)> {
        let (low, high) = (NodeName([0; 32]), NodeName([0xFF; 32]));
        let account = |owner| Account::Bonded { operator, owner };
        self.range(account(low)..=account(high))
    }

    /// What is on its way back from the operator, in the order of the owners.
    pub fn unbonding(&self, operator: NodeName) -> impl Iterator<Item = (Account, Units)> {
        let (low, high) = (NodeName([0; 32]), NodeName([0xFF; 32]));
        let account = |owner| Account::Unbonding { operator, owner };
        self.range(account(low)..=account(high))
    }

    fn range(&self, range: RangeInclusive<Account>) -> impl Iterator<Item = (Account, Units)> {
        self.balances.range(range).map(|(&account, &units)| (account, units))
    }

    /// What there is.
    #[must_use]
    pub fn supply(&self) -> Units {
        self.supply
    }

    /// Adds up every balance. Cost: all accounts.
    ///
    /// # Panics
    /// If the sum is not the supply: a bug of this crate, after which no balance can be trusted.
    pub fn audit(&self) {
        let sum: u128 = self.balances.values().map(|units| u128::from(units.0)).sum();
        assert_eq!(sum, u128::from(self.supply.0), "the sum of all balances has changed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wallet(number: u64) -> Account {
        Account::Wallet(NodeName::numbered(number))
    }

    #[test]
    fn an_entry_is_made_whole_or_not_at_all() {
        let mut ledger = Ledger::new(Units(100));
        let posting = |from, to, units| Posting { from, to, units: Units(units) };
        ledger.post(&[posting(Account::Treasury, wallet(1), 60)]).unwrap();
        let before = ledger.clone();
        let refused =
            ledger.post(&[posting(wallet(1), wallet(2), 50), posting(wallet(1), wallet(3), 11)]);
        assert_eq!(
            refused,
            Err(PostingError::Overdraft {
                account: wallet(1),
                balance: Units(10),
                needed: Units(11)
            })
        );
        assert_eq!(ledger, before);
        // What comes in by the first movement can leave by the second.
        ledger
            .post(&[posting(wallet(1), wallet(2), 60), posting(wallet(2), wallet(3), 60)])
            .unwrap();
        assert_eq!(ledger.balance(wallet(3)), Units(60));
        assert!(ledger.post(&[posting(wallet(3), wallet(3), 1)]).is_err());
        assert!(ledger.post(&[posting(wallet(3), wallet(4), 0)]).is_err());
        ledger.post(&[posting(wallet(3), Account::Forfeited, 1)]).unwrap();
        let back = ledger.post(&[posting(Account::Forfeited, wallet(3), 1)]);
        assert_eq!(back, Err(PostingError::Forfeited));
        ledger.audit();
    }
}
