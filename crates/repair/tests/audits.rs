//! Proofs of storage: who can pass, who fails, and whom nobody can make fail.

use base::prng::Key;
use base::{NodeName, Time};
use proptest::prelude::*;
use repair::{
    Answer, AuditConfig, Auditor, Challenge, Failure, Ignored, Outcome, Verdict, respond,
};
use std::collections::BTreeSet;
use std::time::Duration;
use store::{Digest, merkle};

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut stream = Key::root(seed).stream();
    (0..length).map(|_| stream.next_u64() as u8).collect()
}

const PROVER: NodeName = NodeName::numbered(1);
const OTHER: NodeName = NodeName::numbered(2);

fn asked(auditor: &mut Auditor, now: Time, node: NodeName, shard: &[u8]) -> Challenge {
    let (name, root) = (Digest::of(shard), merkle::root(shard));
    auditor.challenge(now, node, name, root).expect("few are open")
}

fn outcome(verdict: Result<Verdict, Ignored>) -> Outcome {
    verdict.expect("it was asked").outcome
}

proptest! {
    /// Whoever has the shard passes; whoever changed a byte fails as soon as that block is asked for, and
    /// every block is, some time.
    #[test]
    fn a_prover_passes_with_the_shard_only(length in 1usize..6_000, hit: u32, seed: u64) {
        let shard = bytes(length, seed);
        let mut damaged = shard.clone();
        let hit = hit as usize % length;
        damaged[hit] ^= 1;
        let mut auditor = Auditor::new(AuditConfig::default(), u128::from(seed));
        let mut caught = 0;
        for round in 0..200 {
            let challenge = asked(&mut auditor, at(round), PROVER, &shard);
            let good = respond(&challenge, Some(&shard));
            let bad = respond(&challenge, Some(&damaged));
            let shown = bad.proof.as_ref().expect("it has that many blocks");
            let first = shown.first as usize * 256;
            let covers = (first..first + shown.blocks.len() * 256).contains(&hit);
            // Beside the damaged block the hashes are wrong as well, so this liar always fails.
            prop_assert_eq!(outcome(auditor.clone().answer(at(round), PROVER, &bad)),
                Outcome::Failed(Failure::WrongProof));
            caught += u64::from(covers);
            prop_assert_eq!(outcome(auditor.answer(at(round), PROVER, &good)), Outcome::Passed);
        }
        prop_assert!(caught > 0, "block {} is never asked for", hit / 256);
    }

    /// Answers of any kind from anybody: only the prover's own can end its challenge, and once.
    #[test]
    fn nobody_fails_by_what_others_say(steps in prop::collection::vec((0u8..6, 0u64..400), 1..40)) {
        let shard = bytes(3_000, 1);
        let mut auditor = Auditor::new(AuditConfig::default(), 7);
        let (mut now, mut open, mut old) = (0, Vec::new(), Vec::new());
        for (kind, wait) in steps {
            now += wait;
            for verdict in auditor.expire(at(now)) {
                prop_assert_eq!(verdict.outcome, Outcome::Failed(Failure::NoAnswer));
                open.retain(|&(_, asked): &(Challenge, u64)| asked + 300 >= now);
            }
            open.retain(|&(_, asked)| asked + 300 >= now);
            match (kind, open.last().copied()) {
                (0 | 1, _) => open.push((asked(&mut auditor, at(now), PROVER, &shard), now)),
                (2, Some((challenge, _))) => {
                    open.pop();
                    let answer = respond(&challenge, Some(&shard));
                    prop_assert_eq!(
                        outcome(auditor.answer(at(now), PROVER, &answer)), Outcome::Passed);
                    old.push(answer);
                }
                (3, Some((challenge, _))) => {
                    let answer = respond(&challenge, None);
                    let ignored = auditor.answer(at(now), OTHER, &answer);
                    prop_assert_eq!(ignored, Err(Ignored::NotYou { asked: PROVER }));
                }
                (4, _) => for answer in &old {
                    prop_assert_eq!(
                        auditor.answer(at(now), PROVER, answer), Err(Ignored::NotAsked));
                },
                _ => {
                    let answer = Answer { nonce: u128::from(now), proof: None };
                    prop_assert_eq!(
                        auditor.answer(at(now), PROVER, &answer), Err(Ignored::NotAsked));
                }
            }
        }
    }
}

#[test]
fn no_answer_in_time_is_a_failure_and_three_condemn() {
    let shard = bytes(3_000, 1);
    let mut auditor = Auditor::new(AuditConfig::default(), 7);
    for round in 1..=3 {
        let challenge = asked(&mut auditor, at(round * 1_000), PROVER, &shard);
        assert_eq!(auditor.expire(at(round * 1_000 + 300)), [], "the deadline itself is in time");
        let late = at(round * 1_000 + 301);
        assert!(auditor.next_wake().expect("one is open") <= late);
        let verdicts = auditor.expire(late);
        let verdict = Verdict {
            node: PROVER,
            shard: Digest::of(&shard),
            outcome: Outcome::Failed(Failure::NoAnswer),
            failures: round as u32,
            condemned: round == 3,
        };
        assert_eq!(verdicts, [verdict]);
        let answer = respond(&challenge, Some(&shard));
        assert_eq!(auditor.answer(late, PROVER, &answer), Err(Ignored::NotAsked), "too late");
    }
    assert_eq!(auditor.next_wake(), None);
}

#[test]
fn a_late_answer_fails_also_before_the_deadline_was_looked_at() {
    let shard = bytes(3_000, 1);
    let mut auditor = Auditor::new(AuditConfig::default(), 7);
    let challenge = asked(&mut auditor, at(0), PROVER, &shard);
    let verdict = auditor.answer(at(301), PROVER, &respond(&challenge, Some(&shard)));
    assert_eq!(outcome(verdict), Outcome::Failed(Failure::NoAnswer));
}

#[test]
fn success_ends_a_row_of_failures_and_nodes_are_counted_apart() {
    let shard = bytes(3_000, 1);
    let mut auditor = Auditor::new(AuditConfig::default(), 7);
    let fail = |auditor: &mut Auditor, node| {
        let challenge = asked(auditor, at(0), node, &shard);
        auditor.answer(at(1), node, &respond(&challenge, None)).expect("it was asked")
    };
    assert_eq!(fail(&mut auditor, PROVER).failures, 1);
    assert_eq!(fail(&mut auditor, PROVER).failures, 2);
    assert_eq!(fail(&mut auditor, OTHER).failures, 1);
    let challenge = asked(&mut auditor, at(0), PROVER, &shard);
    let verdict = auditor.answer(at(1), PROVER, &respond(&challenge, Some(&shard)));
    assert_eq!(verdict.expect("it was asked").failures, 0);
    let again = fail(&mut auditor, PROVER);
    assert_eq!((again.failures, again.condemned), (1, false));
    assert_eq!(again.outcome, Outcome::Failed(Failure::Admitted));
}

/// A prover that kept one old answer, or chooses what it shows, or says the shard is shorter.
#[test]
fn an_answer_shows_what_was_asked_for() {
    let shard = bytes(20_000, 1);
    let mut auditor = Auditor::new(AuditConfig::default(), 7);
    let first = asked(&mut auditor, at(0), PROVER, &shard);
    let kept = respond(&first, Some(&shard));
    let _ = auditor.answer(at(1), PROVER, &kept);
    let mut ranges = BTreeSet::new();
    for round in 0..100 {
        let challenge = asked(&mut auditor, at(round), PROVER, &shard);
        let right = respond(&challenge, Some(&shard)).proof.expect("it has the shard").first;
        ranges.insert(right);
        if kept.proof.as_ref().expect("it has the shard").first == right {
            continue;
        }
        let forged = Answer { nonce: challenge.nonce, proof: kept.proof.clone() };
        let verdict = auditor.answer(at(round), PROVER, &forged);
        assert_eq!(outcome(verdict), Outcome::Failed(Failure::WrongProof));
        let challenge = asked(&mut auditor, at(round), PROVER, &shard);
        let shorter = respond(&challenge, Some(&shard[..1_024]));
        let verdict = auditor.answer(at(round), PROVER, &shorter);
        assert_eq!(outcome(verdict), Outcome::Failed(Failure::WrongProof));
    }
    assert!(ranges.len() > 40, "{} of 76 ranges in 100 challenges", ranges.len());
}

#[test]
fn open_challenges_are_bounded_and_a_node_that_left_is_forgotten() {
    let config = AuditConfig { open_max: 2, ..AuditConfig::default() };
    let shard = bytes(10, 1);
    let mut auditor = Auditor::new(config, 7);
    asked(&mut auditor, at(0), PROVER, &shard);
    asked(&mut auditor, at(0), OTHER, &shard);
    let (name, root) = (Digest::of(&shard), merkle::root(&shard));
    assert!(auditor.challenge(at(0), PROVER, name, root).is_err());
    auditor.forget_node(PROVER);
    assert!(auditor.challenge(at(0), OTHER, name, root).is_ok());
    assert_eq!(auditor.expire(at(1_000)).len(), 2);
}
