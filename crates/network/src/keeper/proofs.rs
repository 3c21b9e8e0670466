//! Proofs that holders owe, and what follows from those that fail.

use super::Keeping;
use crate::message::Message;
use crate::node::StorageNode;
use base::{NodeName, Ratio, Time, Token};
use incentives::{Ask, Observation, Offence};
use repair::{Answer, Failure, Outcome, Verdict};
use store::Digest;

impl StorageNode {
    /// A node says what it found when it read its own copy.
    pub(crate) fn scrubbed(&mut self, now: Time, from: NodeName, digest: Digest, healthy: bool) {
        if let Some(&(plan, index)) = self.keeping.scrubbing.get(&(from, digest)) {
            let mut out = Vec::new();
            let Keeping { planner, bad, .. } = &mut self.keeping;
            planner.scrubbed(now, plan, (index, from), healthy, bad, &mut out);
            if healthy {
                self.keeping.scrubbing.remove(&(from, digest));
            }
            self.keeping.pending.extend(out);
            self.keeping.look = true;
        } else if self.scrubbed_anew(now, from, digest, healthy) {
            // It is what a file is to have next, and nobody's yet.
        } else if !healthy && let Some(&file) = self.keeping.by_shard.get(&digest) {
            // Its word against itself is enough to look; the proof that it owes is what counts.
            let shard = self.holdings.current(file).and_then(|record| {
                record.shards().find(|(.., shard, node)| shard.digest == digest && *node == from)
            });
            if let Some((.., shard, node)) = shard {
                self.challenge(now, node, digest, shard.root);
            }
        }
    }

    pub(super) fn challenge(&mut self, now: Time, node: NodeName, shard: Digest, root: Digest) {
        if let Ok(challenge) = self.keeping.auditor.challenge(now, node, shard, root) {
            self.send(node, Message::Challenge(challenge));
        }
    }

    pub(crate) fn proof_came(&mut self, now: Time, from: NodeName, answer: &Answer) {
        // What was not asked of whom it comes from is held against nobody.
        if let Ok(verdict) = self.keeping.auditor.answer(now, from, answer) {
            self.keeping.verdicts.push((verdict, Token::new(answer.nonce)));
        }
    }

    pub(super) fn judged(&mut self, now: Time, verdict: Verdict, evidence: Token) {
        let Verdict { node, shard, outcome, condemned, .. } = verdict;
        let passed = outcome == Outcome::Passed;
        if !passed && !self.is_named(node, shard) {
            // It was released while the challenge was on its way: a node owes no proof of what it need not hold.
            return;
        }
        self.observed.proofs_ended += 1;
        self.observed.proofs_passed += u64::from(passed);
        self.stats.failed_proofs += u64::from(!passed);
        self.keeping.reputation.observe(now, node, Observation::Proof { passed });
        let score = self.keeping.reputation.score(now, node);
        self.membership.set_reputation(node, score.max(Ratio::ZERO));
        match outcome {
            Outcome::Passed => {
                self.keeping.condemned.remove(&node);
                self.keeping.bad.learn(node, shard, true);
            }
            Outcome::Failed(failure) => {
                let offence = match failure {
                    Failure::NoAnswer => {
                        if condemned {
                            self.keeping.condemned.insert(node);
                        }
                        Offence::FailedProof
                    }
                    Failure::Admitted | Failure::WrongProof => {
                        self.keeping.bad.learn(node, shard, false);
                        Offence::Corruption
                    }
                };
                let silent_once = failure == Failure::NoAnswer && !condemned;
                if node != self.name && !silent_once {
                    // A bad copy is one offence, however many proofs of it fail.
                    let evidence = match offence {
                        Offence::FailedProof => evidence,
                        Offence::Corruption => self.bad_copy(node, shard),
                    };
                    let ask = Ask::Report { operator: node, offence, evidence, happened: now };
                    self.want(now, 0, ask);
                }
                if let Some(&file) = self.keeping.by_shard.get(&shard) {
                    self.assess(now, file);
                }
            }
        }
    }

    /// Whether the current record of the shard's file says that the node holds it.
    fn is_named(&self, node: NodeName, shard: Digest) -> bool {
        let file = self.keeping.by_shard.get(&shard);
        let record = file.and_then(|file| self.holdings.current(*file));
        record.is_some_and(|record| {
            record.shards().any(|(.., it, holder)| it.digest == shard && holder == node)
        })
    }

    /// What names a bad copy, for as long as the record says that the node holds it.
    fn bad_copy(&self, node: NodeName, shard: Digest) -> Token {
        let file = self.keeping.by_shard.get(&shard);
        let version = file.and_then(|file| self.holdings.current(*file)).map_or(0, |it| it.version);
        let mut bytes = node.0.to_vec();
        bytes.extend_from_slice(&shard.0);
        bytes.extend_from_slice(&version.to_le_bytes());
        let mut token = [0; 16];
        token.copy_from_slice(&Digest::of(&bytes).0[..16]);
        Token(token)
    }
}
