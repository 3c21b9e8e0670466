//! What clients asked for, and what they were told.

use super::super::ledger::{Checked, Objection};
use super::super::payload;
use super::super::payload::ChangeKind;
use super::participants::Added;
use super::{Asked, Ended, Facts, ensure, number_of};
use base::{NodeName, RequestKey};
use coordinator::{Outcome, Refusal, Request, Work};
use saga::End;

impl Facts {
    // ---- clients ----

    /// A request is handed to a coordinator, perhaps again.
    pub fn submitted(&mut self, request: &Request) {
        if self.place(request.key.as_bytes()).is_some() {
            return;
        }
        let mut adds = Vec::new();
        let mut add = |node: NodeName, work: &[u8]| {
            let node = node.number() as u32;
            for change in payload::changes(work) {
                // What is added of another step's output is known when it is.
                if change.kind == ChangeKind::Add {
                    adds.push(Added { node, cell: change.cell, amount: change.amount });
                }
            }
        };
        match &request.work {
            Work::Transaction(branches) => {
                branches.iter().for_each(|branch| add(branch.node, &branch.work));
            }
            Work::Saga(definition) => crate::judge::nested::works(definition, &mut add),
        }
        self.requests.push(Asked {
            adds,
            operation: None,
            ended: None,
            told: None,
            told_unproved: false,
        });
        let place = u32::try_from(self.requests.len()).expect("fewer than 2^32 requests");
        match number_of(request.key.as_bytes()) {
            Some(number) => {
                if self.numbered.len() <= number {
                    self.numbered.resize(number + 1, 0);
                }
                self.numbered[number] = place;
            }
            None => {
                self.named.insert(request.key.as_bytes().into(), place - 1);
            }
        }
    }

    pub(super) fn place(&self, key: &[u8]) -> Option<u32> {
        match number_of(key) {
            Some(number) => self.numbered.get(number)?.checked_sub(1),
            None => self.named.get(key).copied(),
        }
    }

    /// A client is told how its request ended.
    ///
    /// # Errors
    /// Nothing durable says so, or it was told something else before.
    pub fn replied(&mut self, key: &RequestKey, outcome: &Outcome) -> Checked {
        let Some(place) = self.place(key.as_bytes()) else {
            return Err(Objection::new("reply", format!("{key:?} was never asked for")));
        };
        let told = match outcome {
            Outcome::Committed => Ended::Committed,
            Outcome::Aborted => Ended::Aborted,
            Outcome::ReadOnly => Ended::ReadOnly,
            Outcome::Completed => Ended::Saga(End::Completed),
            Outcome::Compensated => Ended::Saga(End::Compensated),
            Outcome::SagaAborted => Ended::Saga(End::Aborted),
            Outcome::Refused(_) => return Ok(()),
            Outcome::InDoubt => {
                let what = format!("{key:?} is called in doubt, and no log was damaged");
                return Err(Objection::new("reply", what));
            }
        };
        let asked = &mut self.requests[place as usize];
        asked.told_unproved |= told == Ended::Aborted && asked.operation.is_none();
        let before = asked.told.replace(told);
        let anew = asked.told_unproved && before == Some(Ended::Aborted);
        // A crash may forget that nobody had anything to change.
        let forgot = before == Some(Ended::ReadOnly) && told == Ended::Aborted;
        ensure(anew || forgot || before.is_none_or(|before| before == told), "I2", || {
            format!("the client of {key:?} was told {before:?}, and now {told:?}")
        })?;
        let proved = match told {
            Ended::Aborted => asked.ended.is_none(),
            Ended::ReadOnly => asked.ended.is_none() && asked.adds.is_empty(),
            told => asked.ended == Some(told),
        };
        self.seen.all_read_only += u64::from(told == Ended::ReadOnly);
        let unproved = matches!(told, Ended::Aborted | Ended::ReadOnly);
        let invariant = if unproved { "I2" } else { "G1" };
        ensure(proved, invariant, || {
            format!(
                "the client of {key:?} is told {told:?}; what is durable says {:?}",
                asked.ended
            )
        })
    }

    /// A client that was told how its request ended has asked again.
    ///
    /// # Errors
    /// It was not told the same at once, or not that another request has the key.
    pub fn asked_again(&mut self, key: &RequestKey, other: bool, heard: &[Outcome]) -> Checked {
        let place = self.place(key.as_bytes());
        let asked = place.map(|place| &self.requests[place as usize]);
        let Some(told) = asked.and_then(|asked| asked.told) else { return Ok(()) };
        self.seen.asked_again += 1;
        let taken = heard.contains(&Outcome::Refused(Refusal::KeyTaken));
        let again = heard.iter().any(|heard| !matches!(heard, Outcome::Refused(_)));
        self.seen.key_taken += u64::from(taken);
        // What its only participant has decided is there to be asked for, after a crash.
        let alone = asked.and_then(|asked| asked.operation).is_some_and(|id| {
            self.coordinators.iter().any(|coordinator| {
                let ours = coordinator.spread.get(id).is_some_and(|it| it.request == place);
                let known = coordinator.model.transactions.get(id);
                ours && known.is_some_and(|tx| tx.is_delegated())
            })
        });
        let right = match (told, other) {
            // It may have begun anew.
            (Ended::Aborted | Ended::ReadOnly, false) => !taken,
            (Ended::Aborted | Ended::ReadOnly, true) => !(taken && again),
            (Ended::Committed, false) if alone => !taken,
            (_, false) => again && !taken,
            (_, true) => taken && !again,
        };
        ensure(right, "key", || {
            let what = if other { "something else" } else { "the same" };
            format!(
                "{key:?}, of which {told:?} was told, asks for {what} again and hears {heard:?}"
            )
        })
    }

    /// A request has ended, says its coordinator's log; what it asked for is expected if it succeeded.
    pub(super) fn decided(&mut self, request: Option<u32>, ended: Ended) -> Checked {
        // Work that nobody asked for under a name that is known has no client.
        let Some(place) = request else { return Ok(()) };
        let asked = &mut self.requests[place as usize];
        let before = asked.ended.replace(ended);
        ensure(before.is_none(), "G15", || {
            format!("one request ended twice, {before:?} and {ended:?}")
        })?;
        let told = asked.told;
        let anew = asked.told_unproved && told == Some(Ended::Aborted);
        self.seen.run_anew += u64::from(anew);
        ensure(anew || told.is_none_or(|told| told == ended), "I2", || {
            format!("a client was told {told:?}, and then it was {ended:?}")
        })?;
        let adds = std::mem::take(&mut asked.adds);
        if matches!(ended, Ended::Committed | Ended::Saga(End::Completed)) {
            self.expected.extend(adds);
        }
        Ok(())
    }
}
