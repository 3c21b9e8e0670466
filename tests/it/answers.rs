//! What clients hear.

use crate::village::Village;
use base::{NodeName, ShardId};
use node::work::{self, Change};
use node::{Branch, MessageKind, Outcome, Work};

/// Restarts lose whoever waits for an answer: who asks again with the same key is answered, whether or
/// not everybody has acknowledged meanwhile.
#[test]
fn who_asks_again_is_answered_before_the_last_acknowledgement() {
    let mut village = Village::new(3);
    village.lost = Some(MessageKind::Ack);
    let branch = |node: u64| Branch {
        shard: ShardId::numbered(node),
        node: NodeName::numbered(node),
        work: work::encode(&[Change::Add { cell: 1, amount: 1 }]),
    };
    for _ in 0..3 {
        let work = Work::Transaction(vec![branch(1), branch(2)]);
        assert_eq!(village.submit("once", work), Outcome::Committed);
        let coordinator = village.node(0).coordinator().expect("number 0 coordinates");
        assert_eq!(coordinator.active(), 1, "nobody's acknowledgement arrives");
    }
    let host = village.node(1).participant().expect("all take part");
    assert_eq!(host.store().value(1), 1, "it was done once");
}
