use base::prng::keyed_hash;
use base::{NodeName, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::{Digest, merkle};

/// The numbers of an [`Auditor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// How long a prover has. Default 300 s.
    pub deadline: Duration,
    /// After how many failures in a row a node is condemned. Default 3.
    pub failures: u32,
    /// How many blocks of [`merkle::BLOCK_BYTES`] are asked for; all of a shard that has fewer.
    /// Default 4.
    pub blocks: u32,
    /// How many challenges may be open at once. Default 4096.
    pub open_max: u32,
}

impl Default for AuditConfig {
    fn default() -> AuditConfig {
        let deadline = Duration::from_secs(300);
        AuditConfig { deadline, failures: 3, blocks: 4, open_max: 4_096 }
    }
}

/// "Show me some blocks of this shard." Which ones follows from nonce and length, so nobody knows before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Never used before, and not to be guessed.
    pub nonce: u128,
    /// The shard.
    pub shard: Digest,
    /// How many blocks.
    pub blocks: u32,
}

/// What a prover says to a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The challenge's.
    pub nonce: u128,
    /// The blocks with their path; `None` admits that they are not there.
    pub proof: Option<merkle::Proof>,
}

/// The prover's side: the answer to a challenge, from the bytes that its store has given.
#[must_use]
pub fn respond(challenge: &Challenge, shard: Option<&[u8]>) -> Answer {
    let proof = shard.and_then(|shard| {
        let (first, count) = range(challenge.nonce, challenge.blocks, shard.len() as u64);
        merkle::prove(shard, first, count)
    });
    Answer { nonce: challenge.nonce, proof }
}

/// The blocks that a nonce asks for, of a shard of this length.
fn range(nonce: u128, blocks: u32, shard_bytes: u64) -> (u64, u64) {
    let all = merkle::blocks(shard_bytes);
    let count = u64::from(blocks).min(all);
    let starts = u128::from(all - count + 1);
    (((u128::from(nonce as u64) * starts) >> 64) as u64, count)
}

/// Why a prover failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It said nothing until the deadline.
    NoAnswer,
    /// It says that it does not have the shard, or no good copy of it.
    Admitted,
    /// Its answer does not fit the root, or shows other blocks than those asked for.
    WrongProof,
}

/// How a challenge ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The prover showed the blocks in time.
    Passed,
    /// It did not.
    Failed(Failure),
}

/// The end of one challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Who was asked.
    pub node: NodeName,
    /// For which shard.
    pub shard: Digest,
    /// What came of it.
    pub outcome: Outcome,
    /// How many of this node's challenges have failed in a row, this one included.
    pub failures: u32,
    /// That is [`AuditConfig::failures`] or more: take its copies for lost.
    pub condemned: bool,
}

/// Too many challenges are open: wait for answers or deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{open} challenges are open, as many as may be")]
pub struct Busy {
    /// How many.
    pub open: u32,
}

/// An answer that decides nothing. It is held against nobody: whoever sends it could name anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ignored {
    /// No open challenge has this nonce: a replay, an answer after the deadline, or an invention.
    #[error("no open challenge has this nonce")]
    NotAsked,
    /// Another node was asked.
    #[error("{asked} was asked, and not who answers")]
    NotYou {
        /// Who was.
        asked: NodeName,
    },
}

#[derive(Clone, Debug)]
struct Open {
    node: NodeName,
    shard: Digest,
    root: Digest,
    blocks: u32,
    deadline: Time,
}

/// Asks nodes to prove that they store shards, knowing each shard's Merkle root and nothing else.
///
/// Nonces are a pseudo-random function (ChaCha8) of a secret and a counter: the shell draws the secret
/// anew at each start, from a source of entropy.
#[derive(Clone, Debug)]
pub struct Auditor {
    config: AuditConfig,
    secret: u128,
    drawn: u64,
    open: BTreeMap<u128, Open>,
    deadlines: BTreeSet<(Time, u128)>,
    failures: BTreeMap<NodeName, u32>,
}

impl Auditor {
    /// An auditor that has asked nobody yet.
    #[must_use]
    pub fn new(config: AuditConfig, secret: u128) -> Auditor {
        let (open, deadlines, failures) = Default::default();
        Auditor { config, secret, drawn: 0, open, deadlines, failures }
    }

    /// A challenge to send to this node. The clock runs from now on, also if the message is lost: that a
    /// node cannot be reached is no excuse, which is why it takes several failures in a row.
    ///
    /// # Errors
    /// [`Busy`]: too many are open.
    pub fn challenge(
        &mut self,
        now: Time,
        node: NodeName,
        shard: Digest,
        root: Digest,
    ) -> Result<Challenge, Busy> {
        let open = self.open.len() as u32;
        if open >= self.config.open_max {
            return Err(Busy { open });
        }
        self.drawn += 1;
        let nonce = keyed_hash(self.secret, self.drawn, 0);
        let (blocks, deadline) = (self.config.blocks, now + self.config.deadline);
        let old = self.open.insert(nonce, Open { node, shard, root, blocks, deadline });
        assert!(old.is_none(), "128 bits do not repeat");
        self.deadlines.insert((deadline, nonce));
        Ok(Challenge { nonce, shard, blocks })
    }

    /// An answer that this node sent; the shell knows from whom it is.
    ///
    /// # Errors
    /// [`Ignored`]: it decides nothing, and the challenge, if there is one, stays open.
    pub fn answer(
        &mut self,
        now: Time,
        from: NodeName,
        answer: &Answer,
    ) -> Result<Verdict, Ignored> {
        let open = self.open.get(&answer.nonce).ok_or(Ignored::NotAsked)?;
        if open.node != from {
            return Err(Ignored::NotYou { asked: open.node });
        }
        let outcome = match &answer.proof {
            _ if now > open.deadline => Outcome::Failed(Failure::NoAnswer),
            None => Outcome::Failed(Failure::Admitted),
            Some(proof) => {
                let asked = range(answer.nonce, open.blocks, proof.shard_bytes);
                let shown = (proof.first, proof.blocks.len() as u64);
                if shown == asked && merkle::verify(open.root, proof) {
                    Outcome::Passed
                } else {
                    Outcome::Failed(Failure::WrongProof)
                }
            }
        };
        Ok(self.end(answer.nonce, outcome))
    }

    /// The challenges whose deadline has passed without an answer: all are failures.
    pub fn expire(&mut self, now: Time) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        while let Some(&(deadline, nonce)) = self.deadlines.first()
            && deadline < now
        {
            verdicts.push(self.end(nonce, Outcome::Failed(Failure::NoAnswer)));
        }
        verdicts
    }

    /// The next moment at which [`Auditor::expire`] has something to say: just after the first deadline.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        self.deadlines.first().map(|&(deadline, _)| deadline + Duration::from_nanos(1))
    }

    /// A node has left for good.
    pub fn forget_node(&mut self, node: NodeName) {
        self.failures.remove(&node);
        self.open.retain(|_, open| open.node != node);
        let Auditor { open, deadlines, .. } = self;
        deadlines.retain(|(_, nonce)| open.contains_key(nonce));
    }

    fn end(&mut self, nonce: u128, outcome: Outcome) -> Verdict {
        let Open { node, shard, deadline, .. } =
            self.open.remove(&nonce).expect("both callers have seen it there");
        self.deadlines.remove(&(deadline, nonce));
        let failures = match outcome {
            Outcome::Passed => {
                self.failures.remove(&node);
                0
            }
            Outcome::Failed(_) => {
                let failures = self.failures.entry(node).or_default();
                *failures = failures.saturating_add(1);
                *failures
            }
        };
        let condemned = failures >= self.config.failures.max(1);
        Verdict { node, shard, outcome, failures, condemned }
    }
}
