//! Messages as bytes: each comes back as it was, and nothing else does.

use base::{CoordinatorId, NodeName, OperationId, ShardId, Time, Token, prng::Key};
use incentives::{Ask, Offence, Opinion, Units};
use locks::{Claim, FencingToken, Holder, Lease, Vectors};
use network::work::Current;
use network::{InDoubt, LockAnswer, Message, Observed, Transfer};
use placement::{Announcement, DirectoryMessage, LookupId, Region, Rumour};
use std::sync::Arc;
use store::{Digest, merkle};
use twopc::TxKey;

fn all() -> Vec<Message> {
    let digest = Digest([7; 32]);
    let node = NodeName::numbered(3);
    let own = Announcement {
        node,
        incarnation: 9,
        region: Region::Oceania,
        capacity_bytes: 10,
        free_bytes: 4,
    };
    let rumours: Arc<[Rumour]> = [Rumour { announcement: own, suspected: true }; 3].into();
    let shard = ShardId::numbered(5);
    let holder = Holder { node, operation: 8 };
    let tag = Vectors::new(&Key::root(1)).tag(shard, holder);
    let claim = Claim { shard, holder, token: FencingToken(6), tag };
    let lease = Lease { shard, token: FencingToken(6), until: Time::from_nanos(77), tag };
    let bytes: Vec<u8> = (0..1_000u32).map(|n| n as u8).collect();
    let proof = merkle::prove(&bytes, 1, 2);
    let membership = [
        placement::Message::Heartbeat { own, view: 77, rumours: rumours.clone() },
        placement::Message::Unwatch,
        placement::Message::Missed { incarnation: 4 },
        placement::Message::Join { own },
        placement::Message::Compare { views: Box::new(std::array::from_fn(|part| part as u64)) },
        placement::Message::Members { rumours },
    ];
    let lookup = LookupId(12);
    let directory = [
        DirectoryMessage::Find { lookup, key: [1; 32] },
        DirectoryMessage::Found { lookup, nodes: vec![node; 2], record: Some(vec![1, 2]) },
        DirectoryMessage::Found { lookup, nodes: vec![], record: None },
        DirectoryMessage::Store { lookup, key: [2; 32], record: vec![3] },
        DirectoryMessage::Stored { lookup, held: true },
    ];
    let lock = [
        locks::Message::Acquire { holder, born: Time::from_nanos(5), shards: vec![shard] },
        locks::Message::Renew { claim },
        locks::Message::Release { claim },
        locks::Message::Withdraw { holder },
        locks::Message::Verify { claim },
    ];
    let locked = [
        LockAnswer::Granted { holder, leases: vec![lease; 2] },
        LockAnswer::Refused { holder, waits: true },
        LockAnswer::Released { holder, shard },
        LockAnswer::Verified { holder, shard, holds: false },
    ];
    let units = Units(40);
    let score = base::Ratio::percent(20);
    let asks = [
        Ask::Grant { to: node, units },
        Ask::Transfer { to: node, units },
        Ask::Bond { operator: node, units },
        Ask::Unbond { operator: node, units },
        Ask::Reward { operator: node, period: 2, units },
        Ask::Report {
            operator: node,
            offence: Offence::Corruption,
            evidence: Token::new(5),
            happened: Time::from_nanos(6),
        },
        Ask::Review { operator: node, opinions: vec![Opinion { voter: node, score }] },
        Ask::Dispute { escrow: incentives::EscrowId(4) },
        Ask::Vote { escrow: incentives::EscrowId(4), uphold: true },
    ];
    let mut all = vec![
        Message::Read { number: 2, shard },
        Message::Value { number: 2, shard, value: -9 },
        Message::Get { digest, number: 3 << 32 },
        Message::Moved(vec![
            Transfer { token: Token([8; 16]), other: node, sent: true, bytes: 7 };
            2
        ]),
        Message::Bytes { digest, bytes: Some(bytes), number: 4 },
        Message::Bytes { digest, bytes: None, number: 5 },
        Message::Challenge(repair::Challenge { nonce: 1, shard: digest, blocks: 4 }),
        Message::Proof(repair::Answer { nonce: 2, proof }),
        Message::Proof(repair::Answer { nonce: 2, proof: None }),
        Message::Scrub { digest },
        Message::Scrubbed { digest, healthy: true },
        Message::Asked { number: 1, done: false, next: 2 },
        Message::Leaving,
        Message::Doubts(vec![
            network::Doubt { digest, file: None },
            network::Doubt { digest, file: Some(digest) },
        ]),
        Message::Version { file: digest, has: Current { version: 7, mark: 1 << 61 } },
        Message::Advice(erasure::Scheme::new(8, 3).expect("it exists")),
        Message::Claims(vec![network::Claim { digest, version: 1, keepers: 3, named: true }]),
        Message::Astray {
            file: digest,
            than: Current { version: 4, mark: 5 },
            has: Current::default(),
        },
        Message::Report(Observed { proofs_ended: 3, ..Observed::default() }),
    ];
    let tx = TxKey { coordinator: CoordinatorId([4; 32]), id: OperationId(9) };
    let said = [InDoubt::Asks(1 << 40), InDoubt::IsToo(3), InDoubt::Kept];
    let orphan = |says| Message::Orphan { tx, of: shard, by: ShardId::numbered(6), says };
    all.extend(said.map(orphan));
    all.extend(membership.map(Message::Membership));
    all.extend(directory.map(Message::Directory));
    all.extend(lock.map(|message| Message::Lock(Box::new(message))));
    all.extend(locked.map(Message::Locked));
    all.extend(asks.map(|ask| Message::Ask { number: 6, key: Token::new(7), ask }));
    all
}

#[test]
fn every_message_comes_back_as_it_was() {
    let all = all();
    let kinds: std::collections::BTreeSet<u8> = all.iter().map(Message::kind).collect();
    assert_eq!(kinds, (1..=23).collect(), "every kind that has bytes");
    for message in all {
        let bytes = message.encode().expect("it is no transaction's message");
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
}

#[test]
fn what_is_cut_or_longer_is_no_message_and_noise_breaks_nothing() {
    let mut stream = Key::root(4).stream();
    for message in all() {
        let bytes = message.encode().expect("it is no transaction's message");
        for cut in 0..bytes.len() {
            assert!(Message::decode(&bytes[..cut]).is_err(), "{message:?} cut at {cut}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Message::decode(&longer).is_err(), "{message:?} and a byte");
        for _ in 0..64 {
            let mut noisy = bytes.clone();
            for _ in 0..stream.between(1, 4) {
                let at = stream.below(noisy.len() as u64) as usize;
                noisy[at] = stream.next_u64() as u8;
            }
            if let Ok(other) = Message::decode(&noisy) {
                assert!(other.encode().is_some());
            }
        }
    }
}
