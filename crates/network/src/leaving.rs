//! A node that leaves in order: it says so, takes no new work, finishes what it has begun, and goes once
//! no record needs anything of it.
//!
//! It moves nothing itself. Whoever keeps a record that names it takes what it holds for lost, though it is
//! still a source: rebuilds it elsewhere, and makes the next version current, as after a death. So the
//! node is free when its own log says that nothing on its disk is needed, and not when a plan says so.

use crate::message::Message;
use crate::node::{Answer, StorageNode};
use crate::work;
use base::{NodeName, Time};
use std::collections::BTreeSet;

/// How many times the patience it says again that it leaves: who has come meanwhile has not heard it.
const SAY_AGAIN: u32 = 12;

#[derive(Clone, Debug)]
pub(crate) struct Leaving {
    /// The client that wants it to leave.
    number: u64,
    say_at: Time,
    look_at: Time,
    gone: bool,
}

impl Leaving {
    pub(crate) fn due(&self) -> Option<Time> {
        (!self.gone).then(|| self.say_at.min(self.look_at))
    }
}

impl StorageNode {
    /// This node is to leave. After a restart it has to be told again.
    pub(crate) fn leave(&mut self, now: Time, number: u64) {
        if let Some(leaving) = &mut self.leaving {
            leaving.number = number;
            leaving.gone = false;
            return;
        }
        self.holdings.shards.drain();
        self.leaving = Some(Leaving { number, say_at: now, look_at: now, gone: false });
        // What it keeps the records of itself has to name others.
        self.keeping.leaving.insert(self.name);
        self.reassess(now, self.name);
        // What is not released by then is asked about.
        self.sweep.hurry(now + SAY_AGAIN * self.config.patience);
    }

    /// Another node says that it leaves: what it holds is rebuilt elsewhere.
    pub(crate) fn node_leaves(&mut self, now: Time, node: NodeName) {
        if self.keeping.leaving.insert(node) {
            self.reassess(now, node);
        }
    }

    pub(crate) fn leaving_wake(&mut self, now: Time) {
        let Some(leaving) = self.leaving.clone().filter(|leaving| !leaving.gone) else { return };
        if leaving.say_at <= now {
            let all: BTreeSet<NodeName> =
                self.membership.candidates().map(|candidate| candidate.node).collect();
            all.into_iter().for_each(|node| self.send(node, Message::Leaving));
        }
        let free = leaving.look_at <= now && self.is_unneeded(now);
        if let Some(leaving) = &mut self.leaving {
            if leaving.say_at <= now {
                leaving.say_at = now + SAY_AGAIN * self.config.patience;
            }
            if leaving.look_at <= now {
                leaving.look_at = now + self.config.patience;
            }
            leaving.gone = free;
        }
        if free {
            self.tell(leaving.number, Answer::Left);
        }
    }

    /// Whether no record needs what this node holds, and nothing is under way here.
    fn is_unneeded(&self, now: Time) -> bool {
        let Some(host) = self.transactions.participant() else { return false };
        let needed = |digest| host.store().value(work::needed(digest)) > 0;
        !self.holdings.shards.shards().any(|(digest, _)| needed(digest)) && self.is_at_rest(now)
    }

    /// Whether it is about to leave, and takes no new work.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }
}
