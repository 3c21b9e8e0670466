//! Nodes that lie, that boast, and those who forge claims.

use super::World;
use super::agenda::{Cargo, Event};
use crate::storage::plan::Kind;
use crate::storage::watch::{FORGER, forged};
use network::{LockAnswer, Message};
use std::time::Duration;
use store::Digest;

impl World<'_> {
    /// Whether a node lies, or will.
    pub(super) fn will_lie(&self, node: u32) -> bool {
        let is_one = (1..=self.scenario.faults.liars).contains(&node);
        is_one && self.plan.has(Kind::Liar, node - 1)
    }

    pub(super) fn turn_liar(&mut self, node: u32) {
        *self.totals.faults.entry("liars").or_default() += 1;
        self.befell(Some(node), || format!("liar {}: n{node} throws its shards away", node - 1));
        let machine = &mut self.machines[node as usize];
        machine.liar = true;
        let thrown: Vec<Digest> = machine
            .shards
            .all()
            .filter(|(_, bytes)| !network::is_note(bytes))
            .map(|(digest, _)| digest)
            .collect();
        machine.shards.throw_away();
        for digest in thrown {
            self.hurt.insert(digest);
            self.hurt_one(digest, "thrown away");
        }
    }

    /// A liar says that all is well, and proves it with what it once proved, or with an invention.
    pub(super) fn lie(&mut self, node: u32, message: &mut Message) {
        match message {
            Message::Scrubbed { healthy, .. } => *healthy = true,
            Message::Proof(answer) if answer.proof.is_none() => {
                let machine = &self.machines[node as usize];
                let shard = machine.asked.get(&answer.nonce);
                let repeated = shard.and_then(|shard| machine.proofs.get(shard)).cloned();
                answer.proof = repeated.or_else(|| {
                    let invented = vec![0xEE; 256];
                    store::merkle::prove(&invented, 0, 1)
                });
            }
            Message::Bytes { bytes: bytes @ None, .. } => *bytes = Some(vec![0xEE; 256]),
            _ => {}
        }
    }

    /// Who boasts has moved twice as much, and to a node that knows nothing of it as well.
    pub(super) fn boast(&mut self, message: &mut Message) {
        let Message::Moved(transfers) = message else { return };
        transfers.iter_mut().for_each(|transfer| transfer.bytes *= 2);
        if let Some(first) = transfers.first().copied() {
            let token = base::Token(first.token.0.map(|byte| !byte));
            transfers.push(network::Transfer { token, sent: true, bytes: 1 << 20, ..first });
        }
    }

    /// Who will lie keeps the proofs that it makes. One that shows the whole shard would be the shard.
    pub(super) fn keep_proof(&mut self, node: u32, answer: &repair::Answer) {
        let machine = &mut self.machines[node as usize];
        let shard = machine.asked.get(&answer.nonce).copied();
        if let (Some(shard), Some(proof)) = (shard, &answer.proof)
            && (proof.blocks.len() as u64) < store::merkle::blocks(proof.shard_bytes)
        {
            machine.proofs.insert(shard, proof.clone());
        }
    }

    /// Somebody shows the table that has just granted something what it has not granted.
    pub(super) fn forge(&mut self, table: u32, message: &Message) {
        if self.scenario.faults.forged_claims
            && let Message::Locked(LockAnswer::Granted { holder, leases }) = message
        {
            for claim in forged(*holder, leases) {
                let message = Message::Lock(Box::new(locks::Message::Verify { claim }));
                let cargo = Cargo::Bytes(message.encode().expect("a claim has bytes"));
                let at = self.now + Duration::from_millis(1);
                self.schedule(at, table, Event::Arrives { from: FORGER, cargo });
            }
        }
    }
}
