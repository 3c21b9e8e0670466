//! Where bytes live and how to reach them: regions, membership, lookup of manifests, placement,
//! rebalancing, routing, connections, bandwidth.
//!
//! Each part is a value of its own. It is told `(now, what happened)` and says what it wants; it reads
//! no clock, opens no connection, and draws no lots but from a key. Which message belongs to
//! which part is the node's matter; so is who really sent it.
//!
//! ```
//! use base::prng::Key;
//! use base::{NodeName, Ratio, ShardId};
//! use placement::{
//!     Candidate, LatencyConfig, PeerLatency, Placer, PlacerConfig, Region, Router, RouterConfig,
//! };
//! use std::collections::BTreeSet;
//!
//! let candidates: Vec<Candidate> = (0..90)
//!     .map(|number| Candidate {
//!         node: NodeName::numbered(number),
//!         region: Region::ALL[number as usize % 9],
//!         reputation: Ratio::percent(50),
//!         capacity_bytes: 1 << 30,
//!         free_bytes: if number == 0 { 0 } else { 1 << 20 },
//!     })
//!     .collect();
//!
//! // Three nodes in at least two regions, of those that have room.
//! let placer = Placer::new(PlacerConfig::default(), &Key::root(1));
//! let shard = ShardId::numbered(7);
//! let wanted = placer.place(shard, 65_536, &candidates, &BTreeSet::new())?;
//! assert_eq!(wanted.len(), 3);
//! let regions: BTreeSet<u64> = wanted.iter().map(|node| node.number() % 9).collect();
//! assert!(regions.len() >= 2);
//!
//! // When one of them is gone, the others stay where they are.
//! let left: Vec<Candidate> =
//!     candidates.iter().filter(|candidate| candidate.node != wanted[0]).copied().collect();
//! let again = placer.place(shard, 65_536, &left, &BTreeSet::new())?;
//! assert!(wanted[1..].iter().all(|node| again.contains(node)));
//!
//! // From Europe a node nearby is asked first, and every region is among those that could be.
//! let router = Router::new(RouterConfig::default(), Region::EuWest);
//! let latencies = PeerLatency::new(LatencyConfig::default(), &Key::root(1));
//! let ranked = router.rank(&candidates, &latencies);
//! assert_eq!(ranked[0].region, Region::EuWest);
//! assert_eq!(ranked.len(), 20);
//! assert_eq!(ranked.iter().map(|ranked| ranked.region).collect::<BTreeSet<_>>().len(), 9);
//! # Ok::<(), placement::Shortfall>(())
//! ```
//!
//! # What it guarantees
//!
//! - [`Membership`]: a node's messages per beat do not grow with the network. A node that is there and can
//!   be reached is not dead for long; one that is gone is, in time. No clock but one's own is read, and
//!   no announcement changes a reputation.
//! - [`Directory`]: a lookup asks those who should know, each at most once, waits for each at most
//!   [`LookupConfig::patience`], and ends. Who is said to hold a record has said so.
//! - [`Placer`]: the same nodes give the same places, in two regions or more if there are. Of a node
//!   that comes or goes only its own shards move.
//! - [`Rebalancer`]: names one shard of a stripe at a time, and where it should be: toward the placer's places, never to
//!   a node that has another of the stripe or has just refused one, never into fewer regions; what it has had
//!   moved it does not want back while the same nodes are there.
//! - [`Router`] and [`AdaptiveRouter`]: every region is looked at, who has a reputation below 0.3 is not,
//!   and the same seed and outcomes give the same choices.
//! - [`Connections`]: at most four to a peer, each with an end in time.
//! - [`Bandwidth`]: what counts is what both ends say, and of two numbers the lower. Two ends that lie alike are believed.
//!
//! # What it does not
//!
//! - Nothing is signed. A rumour can tell of a node what it never said; the node answers with a higher
//!   incarnation once it hears that, and not before.
//! - A record is whatever a node says it is: whoever looked it up verifies its digest, and only then
//!   [accepts](Directory::accept) it.
//! - There are no floats: latencies are in microseconds, scores in millionths, phi from a table.

mod bandwidth;
mod connections;
mod lookup;
mod membership;
mod phi;
mod placer;
mod rebalance;
mod roster;
mod router;
mod rumours;
mod topology;

pub use bandwidth::{Bandwidth, BandwidthConfig, Moved, Reconciled, ReportError, TransferReport};
pub use connections::{Acquired, ConnectionConfig, ConnectionId, Connections};
pub use lookup::{
    Directory, DirectoryMessage, DirectoryOutput, LookupConfig, LookupId, RecordKey, RoutingTable,
    TooManyLookups, distance,
};
pub use membership::{
    Announcement, Member, Membership, MembershipConfig, Message, Output, PARTS, Rumour, Status,
};
pub use phi::Phi;
pub use placer::{Candidate, Placer, PlacerConfig, Shortfall};
pub use rebalance::{Lies, Move, Reason, RebalanceConfig, Rebalancer, Round};
pub use router::{
    AdaptiveConfig, AdaptiveRouter, LatencyConfig, Outcome, PeerLatency, Ranked, Router,
    RouterConfig,
};
pub use topology::{Locality, Region, Topology};

use base::prng::Key;

/// 64 bits that depend on every byte of a name, and on a key.
fn hash_name(key: &Key, name: &[u8; 32]) -> u64 {
    name.chunks_exact(8).fold(0, |hash, word| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(word);
        key.draw(u64::from_le_bytes(bytes), hash).u64()
    })
}
