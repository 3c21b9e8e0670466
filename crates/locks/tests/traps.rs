//! What shard locks elsewhere have done wrong, and what bad input is answered.

use base::prng::Key;
use base::{BootCount, NodeName, ShardId, Time};
use locks::{
    Claim, Config, Fence, FencingToken, Holder, Hypervector, LockTable, Message, Output, Refusal,
};
use std::time::Duration;

const SHARD: ShardId = ShardId::numbered(7);

fn holder(number: u64) -> Holder {
    Holder { node: NodeName::numbered(number), operation: 1 }
}

fn second(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn table(boot: u32, now: Time) -> LockTable {
    LockTable::new(Config::default(), &Key::root(1), BootCount(boot), now)
}

fn tell(table: &mut LockTable, now: u64, from: Holder, message: &Message) -> Vec<Output> {
    let mut out = Vec::new();
    table.handle(second(now), from.node, message, &mut out);
    table.audit();
    out
}

fn acquire(table: &mut LockTable, now: u64, by: Holder, shards: &[ShardId]) -> Vec<Output> {
    let message = Message::Acquire { holder: by, born: second(0), shards: shards.to_vec() };
    tell(table, now, by, &message)
}

/// The claim to the one lock that was granted.
fn claim(out: &[Output]) -> Claim {
    let [Output::Granted { holder, leases }] = out else { panic!("{out:?}") };
    let [lease] = leases[..] else { panic!("{leases:?}") };
    Claim { shard: lease.shard, holder: *holder, token: lease.token, tag: lease.tag }
}

#[test]
fn an_expired_lock_does_not_verify_and_is_neither_renewed_nor_released() {
    let mut table = table(1, second(0));
    let first = claim(&acquire(&mut table, 0, holder(1), &[SHARD]));
    let verify = Message::Verify { claim: first };
    let asker = holder(9);
    let good = tell(&mut table, 59, asker, &verify);
    assert!(
        matches!(good[..], [Output::Verified { until, .. }] if until == second(60)),
        "{good:?}"
    );
    let bad = tell(&mut table, 60, asker, &verify);
    assert!(matches!(bad[..], [Output::NotVerified { refusal: Refusal::NotHeld, .. }]), "{bad:?}");
    for message in [Message::Renew { claim: first }, Message::Release { claim: first }] {
        let late = tell(&mut table, 61, holder(1), &message);
        assert_eq!(late, [Output::Refused { holder: holder(1), refusal: Refusal::NotHeld }]);
    }

    // The holder stood still, and another has the lock: its token is lower, and the shard says so.
    let second_claim = claim(&acquire(&mut table, 62, holder(2), &[SHARD]));
    let mut fence = Fence::default();
    fence.admit(second_claim.token).unwrap();
    assert!(fence.admit(first.token).is_err());
    // And if the first takes it again later, what it showed before is not good again.
    tell(&mut table, 63, holder(2), &Message::Release { claim: second_claim });
    claim(&acquire(&mut table, 64, holder(1), &[SHARD]));
    let old = tell(&mut table, 65, asker, &verify);
    assert!(matches!(old[..], [Output::NotVerified { refusal: Refusal::WrongToken, .. }]));
}

#[test]
fn a_renewed_lease_goes_on_under_its_token() {
    let mut table = table(1, second(0));
    let first = claim(&acquire(&mut table, 0, holder(1), &[SHARD]));
    let renewed = claim(&tell(&mut table, 50, holder(1), &Message::Renew { claim: first }));
    assert_eq!(renewed, first);
    assert_eq!(table.held(second(109)).count(), 1);
    assert_eq!(table.held(second(110)).count(), 0);
}

#[test]
fn release_and_verification_look_at_the_tag() {
    let mut table = table(1, second(0));
    let first = claim(&acquire(&mut table, 0, holder(1), &[SHARD]));
    // Of another shard or another holder, and one that is damaged beyond the threshold.
    let other = claim(&acquire(&mut table, 0, holder(2), &[ShardId::numbered(8)]));
    let flipped = |count: u32| {
        (0..Hypervector::TRITS)
            .filter(|&at| first.tag.trit(at) != 0)
            .take(count as usize)
            .fold(first.tag, |tag, at| tag.with_trit(at, -first.tag.trit(at)))
    };
    let nonzero = first.tag.norm_squared() as u32;
    // A cosine of 1 - 2 x/n: 7.5 % of the signs may be wrong.
    let most = nonzero * 75 / 1_000;
    for tag in [other.tag, flipped(most + 1), first.tag.bind(&first.tag)] {
        let forged = Claim { tag, ..first };
        let out = tell(&mut table, 1, holder(1), &Message::Release { claim: forged });
        assert_eq!(out, [Output::Refused { holder: holder(1), refusal: Refusal::WrongTag }]);
        let out = tell(&mut table, 1, holder(9), &Message::Verify { claim: forged });
        assert!(matches!(out[..], [Output::NotVerified { refusal: Refusal::WrongTag, .. }]));
    }
    assert_eq!(table.stats().wrong_tags, 6);
    let damaged = Claim { tag: flipped(most), ..first };
    let out = tell(&mut table, 1, holder(1), &Message::Release { claim: damaged });
    assert_eq!(out, [Output::Released { holder: holder(1), shard: SHARD }]);

    // The right tag with another token or from another node is not enough.
    let token = FencingToken(other.token.0 + 1);
    let wrong = Claim { token, ..other };
    let out = tell(&mut table, 1, holder(2), &Message::Release { claim: wrong });
    assert_eq!(out, [Output::Refused { holder: holder(2), refusal: Refusal::WrongToken }]);
    let out = tell(&mut table, 1, holder(1), &Message::Release { claim: other });
    assert_eq!(out, [Output::Refused { holder: holder(2), refusal: Refusal::NotYours }]);
}

#[test]
fn a_holder_has_sixty_four_locks_and_takes_all_or_none() {
    let mut table = table(1, second(0));
    let shards: Vec<ShardId> = (0..66).map(ShardId::numbered).collect();
    let refusal = Refusal::TooMany { max: 64 };
    let refused = [Output::Refused { holder: holder(1), refusal }];
    assert_eq!(acquire(&mut table, 0, holder(1), &shards[..65]), refused);
    assert_eq!(table.held(second(0)).count(), 0);
    // A shard named twice is one shard, and does not wait for itself.
    let twice: Vec<ShardId> = shards[..64].iter().chain(&shards[..64]).copied().collect();
    let out = acquire(&mut table, 0, holder(1), &twice);
    assert!(matches!(&out[..], [Output::Granted { leases, .. }] if leases.len() == 64));
    assert_eq!(
        acquire(&mut table, 0, holder(1), &shards[..64]),
        out,
        "asked again, answered again"
    );
    assert_eq!(acquire(&mut table, 0, holder(1), &shards[64..65]), refused);
    let nothing = [Output::Refused { holder: holder(1), refusal: Refusal::Nothing }];
    assert_eq!(acquire(&mut table, 0, holder(1), &[]), nothing);
    // Of two shards one is taken: the other stays free.
    let out = acquire(&mut table, 1, holder(2), &shards[63..65]);
    let shard = shards[63];
    assert_eq!(out, [Output::Refused { holder: holder(2), refusal: Refusal::Older { shard } }]);
    assert_eq!(table.held(second(1)).count(), 64);
}

#[test]
fn after_a_restart_old_leases_are_waited_out_and_tokens_go_on() {
    let mut before = table(1, second(0));
    let first = claim(&acquire(&mut before, 5, holder(1), &[SHARD]));
    let mut after = table(2, second(10));
    let until = second(70);
    let refused = acquire(&mut after, 69, holder(2), &[SHARD]);
    assert_eq!(
        refused,
        [Output::Refused { holder: holder(2), refusal: Refusal::Restarting { until } }]
    );
    let next = claim(&acquire(&mut after, 70, holder(2), &[SHARD]));
    assert!(next.token > first.token);
}

#[test]
fn a_wait_ends_by_itself() {
    let mut table = table(1, second(0));
    let young = Message::Acquire { holder: holder(1), born: second(9), shards: vec![SHARD] };
    tell(&mut table, 10, holder(1), &young);
    let waits = acquire(&mut table, 11, holder(2), &[SHARD]);
    assert_eq!(waits, [Output::Waits { holder: holder(2), until: second(41) }]);
    assert_eq!(acquire(&mut table, 20, holder(2), &[SHARD]), waits, "and is not begun anew");
    assert_eq!(table.due(), Some(second(41)));
    let mut out = Vec::new();
    table.tick(second(41), &mut out);
    let refusal = Refusal::WaitedTooLong;
    assert_eq!(out, [Output::Refused { holder: holder(2), refusal }]);
    // The next one is served when the dead holder's lease ends.
    acquire(&mut table, 45, holder(3), &[SHARD]);
    out.clear();
    table.tick(second(70), &mut out);
    assert!(matches!(&out[..], [Output::Granted { holder: got, .. }] if *got == holder(3)));
}

#[test]
fn eight_locks_of_a_transaction_are_taken_and_given_back() {
    let mut table = table(1, second(0));
    let shards: Vec<ShardId> = (0..8).map(ShardId::numbered).collect();
    let out = acquire(&mut table, 0, holder(1), &shards);
    let [Output::Granted { leases, .. }] = &out[..] else { panic!("{out:?}") };
    for lease in leases {
        let (shard, token, tag) = (lease.shard, lease.token, lease.tag);
        let claim = Claim { shard, holder: holder(1), token, tag };
        tell(&mut table, 1, holder(1), &Message::Release { claim });
    }
    assert_eq!((table.stats().granted, table.stats().released), (8, 8));
    assert_eq!(table.held(second(1)).count(), 0);
    assert_eq!(table.due(), None);
}
