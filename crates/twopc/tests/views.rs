//! What can be seen of a transaction, and of what it owes.

use base::{BootCount, CoordinatorId, NodeName, OperationId, Sequence, ShardId, StoreId};
use std::collections::BTreeSet;
use twopc::coordinator::{Decision, Effect, MEMBERS_MAX, Member};
use twopc::{Peer, Transaction};

#[test]
fn no_two_things_that_are_owed_share_a_slot() {
    let mut slots = BTreeSet::new();
    let tell = Effect::Tell { decision: Decision::Commit, after: Sequence(1) };
    assert!(slots.insert(tell.slot()));
    for member in 0..MEMBERS_MAX {
        let after = Sequence(1);
        for owed in
            [Effect::Prepare { member }, Effect::Commit { member, after }, Effect::Abort { member }]
        {
            assert!(slots.insert(owed.slot()), "{owed:?}");
        }
    }
    assert_eq!(slots.len() as u32, 1 + 3 * MEMBERS_MAX);
}

#[test]
fn by_what_a_request_is_known_again() {
    let member = Member::at(Peer {
        shard: ShardId::numbered(1),
        node: NodeName::numbered(1),
        store: StoreId(7),
        boot: BootCount(1),
    });
    for fingerprint in [None, Some(0), Some(1), Some(u128::MAX)] {
        let coordinator = CoordinatorId::numbered(1);
        let log = Transaction::admission(coordinator, None, fingerprint, &[member]).unwrap();
        let begun = Transaction::created(OperationId(1), Sequence(1), &log[0]).unwrap();
        assert_eq!(begun.fingerprint(), fingerprint);
    }
}
