//! Events and requests as bytes: the payload of a record in the ledger's log, and what travels to it.
//!
//! Little-endian, a kind before each variant. An event begins with the version, 2; of another version
//! none is read.

use crate::{Account, Ask, Cause, EscrowId, Event, Fact, Offence, Opinion, RequestId, Units};
use base::bytes::{Malformed, Reader, Writer};
use base::{NodeName, Token};

const VERSION: u8 = 2;
/// The accounts that one fact names at most: 101 with a bond, as many unbonding, and some.
const PARTS_MAX: u32 = 4_096;

impl Event {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u8(VERSION).time(self.at);
        match self.request {
            None => to.u8(0),
            Some(RequestId { by, number, key }) => to.u8(1).node(by).u64(number).raw(&key.0),
        };
        fact(&mut to, &self.fact);
        to.finish()
    }

    /// The event of these bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Event, Malformed> {
        let mut from = Reader::new(bytes);
        if from.u8()? != VERSION {
            return Err(from.wrong("an event of another version"));
        }
        let at = from.time()?;
        let request = if from.bool()? {
            let (by, number, key) = (from.node()?, from.u64()?, Token(from.array()?));
            Some(RequestId { by, number, key })
        } else {
            None
        };
        let fact = read_fact(&mut from)?;
        from.end()?;
        Ok(Event { at, request, fact })
    }
}

impl Ask {
    /// Writes it.
    pub fn encode(&self, to: &mut Writer) {
        match *self {
            Ask::Grant { to: node, units } => to.u8(1).node(node).u64(units.0),
            Ask::Transfer { to: node, units } => to.u8(2).node(node).u64(units.0),
            Ask::Bond { operator, units } => to.u8(3).node(operator).u64(units.0),
            Ask::Unbond { operator, units } => to.u8(4).node(operator).u64(units.0),
            Ask::Reward { operator, period, units } => {
                to.u8(5).node(operator).u64(period).u64(units.0)
            }
            Ask::Report { operator, offence: of, evidence, happened } => {
                to.u8(6).node(operator).u8(offence_code(of)).raw(&evidence.0).time(happened)
            }
            Ask::Review { operator, ref opinions } => {
                to.u8(7).node(operator).len(opinions.len());
                for opinion in opinions {
                    to.node(opinion.voter).ratio(opinion.score);
                }
                to
            }
            Ask::Dispute { escrow } => to.u8(8).u64(escrow.0),
            Ask::Vote { escrow, uphold } => to.u8(9).u64(escrow.0).bool(uphold),
        };
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(from: &mut Reader<'_>) -> Result<Ask, Malformed> {
        Ok(match from.u8()? {
            1 => Ask::Grant { to: from.node()?, units: units(from)? },
            2 => Ask::Transfer { to: from.node()?, units: units(from)? },
            3 => Ask::Bond { operator: from.node()?, units: units(from)? },
            4 => Ask::Unbond { operator: from.node()?, units: units(from)? },
            5 => Ask::Reward { operator: from.node()?, period: from.u64()?, units: units(from)? },
            6 => Ask::Report {
                operator: from.node()?,
                offence: offence(from)?,
                evidence: from.token()?,
                happened: from.time()?,
            },
            7 => {
                let operator = from.node()?;
                let count = from.len(PARTS_MAX, 36)?;
                let opinions = (0..count)
                    .map(|_| Ok(Opinion { voter: from.node()?, score: from.ratio()? }))
                    .collect::<Result<_, Malformed>>()?;
                Ask::Review { operator, opinions }
            }
            8 => Ask::Dispute { escrow: EscrowId(from.u64()?) },
            9 => Ask::Vote { escrow: EscrowId(from.u64()?), uphold: from.bool()? },
            _ => return Err(from.wrong("nothing that can be asked")),
        })
    }
}

fn units(from: &mut Reader<'_>) -> Result<Units, Malformed> {
    from.u64().map(Units)
}

fn offence_code(of: Offence) -> u8 {
    match of {
        Offence::FailedProof => 1,
        Offence::Corruption => 2,
    }
}

fn offence(from: &mut Reader<'_>) -> Result<Offence, Malformed> {
    match from.u8()? {
        1 => Ok(Offence::FailedProof),
        2 => Ok(Offence::Corruption),
        _ => Err(from.wrong("no offence")),
    }
}

fn account(to: &mut Writer, account: Account) {
    match account {
        Account::Treasury => to.u8(1),
        Account::Forfeited => to.u8(2),
        Account::Wallet(node) => to.u8(3).node(node),
        Account::Bonded { operator, owner } => to.u8(4).node(operator).node(owner),
        Account::Unbonding { operator, owner } => to.u8(5).node(operator).node(owner),
        Account::Escrow(escrow) => to.u8(6).u64(escrow.0),
    };
}

fn read_account(from: &mut Reader<'_>) -> Result<Account, Malformed> {
    Ok(match from.u8()? {
        1 => Account::Treasury,
        2 => Account::Forfeited,
        3 => Account::Wallet(from.node()?),
        4 => Account::Bonded { operator: from.node()?, owner: from.node()? },
        5 => Account::Unbonding { operator: from.node()?, owner: from.node()? },
        6 => Account::Escrow(EscrowId(from.u64()?)),
        _ => return Err(from.wrong("no account")),
    })
}

fn portions(to: &mut Writer, portions: &[(Account, Units)]) {
    to.len(portions.len());
    for &(of, units) in portions {
        account(to, of);
        to.u64(units.0);
    }
}

fn read_portions(from: &mut Reader<'_>) -> Result<Vec<(Account, Units)>, Malformed> {
    let count = from.len(PARTS_MAX, 9)?;
    (0..count).map(|_| Ok((read_account(from)?, units(from)?))).collect()
}

fn cause(to: &mut Writer, cause: &Cause) {
    match *cause {
        Cause::Reported { offence, by, evidence, happened } => {
            to.u8(1).u8(offence_code(offence)).node(by).raw(&evidence.0).time(happened)
        }
        Cause::LowScore { score, voters } => to.u8(2).ratio(score).u32(voters),
    };
}

fn read_cause(from: &mut Reader<'_>) -> Result<Cause, Malformed> {
    Ok(match from.u8()? {
        1 => Cause::Reported {
            offence: offence(from)?,
            by: from.node()?,
            evidence: Token(from.array()?),
            happened: from.time()?,
        },
        2 => Cause::LowScore { score: from.ratio()?, voters: from.u32()? },
        _ => return Err(from.wrong("no cause of a slash")),
    })
}

fn fact(to: &mut Writer, fact: &Fact) {
    match *fact {
        Fact::Granted { to: node, units } => {
            to.u8(1).node(node).u64(units.0);
        }
        Fact::Transferred { from, to: node, units } => {
            to.u8(2).node(from).node(node).u64(units.0);
        }
        Fact::Bonded { operator, owner, units } => {
            to.u8(3).node(operator).node(owner).u64(units.0);
        }
        Fact::Unbonding { operator, owner, units, until } => {
            to.u8(4).node(operator).node(owner).u64(units.0).time(until);
        }
        Fact::Unbonded { operator, owner } => {
            to.u8(5).node(operator).node(owner);
        }
        Fact::Rewarded { operator, period, ref shares } => {
            to.u8(6).node(operator).u64(period).len(shares.len());
            for &(node, units) in shares {
                to.node(node).u64(units.0);
            }
        }
        Fact::Slashed { escrow, operator, cause: why, portions: ref of, until } => {
            to.u8(7).u64(escrow.0).node(operator);
            cause(to, &why);
            portions(to, of);
            to.time(until);
        }
        Fact::Disputed { escrow, until } => {
            to.u8(8).u64(escrow.0).time(until);
        }
        Fact::Voted { escrow, voter, uphold } => {
            to.u8(9).u64(escrow.0).node(voter).bool(uphold);
        }
        Fact::Upheld { escrow } => {
            to.u8(10).u64(escrow.0);
        }
        Fact::Overturned { escrow, portions: ref of } => {
            to.u8(11).u64(escrow.0);
            portions(to, of);
        }
    }
}

fn read_fact(from: &mut Reader<'_>) -> Result<Fact, Malformed> {
    let escrow = |from: &mut Reader<'_>| from.u64().map(EscrowId);
    Ok(match from.u8()? {
        1 => Fact::Granted { to: from.node()?, units: units(from)? },
        2 => Fact::Transferred { from: from.node()?, to: from.node()?, units: units(from)? },
        3 => Fact::Bonded { operator: from.node()?, owner: from.node()?, units: units(from)? },
        4 => Fact::Unbonding {
            operator: from.node()?,
            owner: from.node()?,
            units: units(from)?,
            until: from.time()?,
        },
        5 => Fact::Unbonded { operator: from.node()?, owner: from.node()? },
        6 => {
            let (operator, period) = (from.node()?, from.u64()?);
            let count = from.len(PARTS_MAX, 40)?;
            let shares: Result<Vec<(NodeName, Units)>, Malformed> =
                (0..count).map(|_| Ok((from.node()?, units(from)?))).collect();
            Fact::Rewarded { operator, period, shares: shares? }
        }
        7 => Fact::Slashed {
            escrow: escrow(from)?,
            operator: from.node()?,
            cause: read_cause(from)?,
            portions: read_portions(from)?,
            until: from.time()?,
        },
        8 => Fact::Disputed { escrow: escrow(from)?, until: from.time()? },
        9 => Fact::Voted { escrow: escrow(from)?, voter: from.node()?, uphold: from.bool()? },
        10 => Fact::Upheld { escrow: escrow(from)? },
        11 => Fact::Overturned { escrow: escrow(from)?, portions: read_portions(from)? },
        _ => return Err(from.wrong("no fact")),
    })
}
