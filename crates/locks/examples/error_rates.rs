//! How often a tag is taken for one that it is not, and how often one is not recognised for a part of its
//! trits being damaged. Prints both; the same for the same seed.

use base::prng::Key;
use base::{NodeName, Ratio, ShardId};
use locks::{Holder, Hypervector, Vectors};

const SHARDS: u64 = 3_200;
const HOLDERS: u64 = 3_200;
const DAMAGED: u64 = 100_000;

fn main() {
    let vectors = Vectors::new(&Key::root(1));
    let threshold = Ratio::percent(85);
    let shards: Vec<Hypervector> =
        (0..SHARDS).map(|number| vectors.shard(ShardId::numbered(number))).collect();
    let holder = |number| Holder { node: NodeName::numbered(number), operation: number };
    let holders: Vec<Hypervector> =
        (0..HOLDERS).map(|number| vectors.holder(holder(number))).collect();

    // A tag of one pair, shown for another shard or by another holder.
    let (mut tried, mut accepted, mut highest) = (0u64, 0u64, 0.0f64);
    for (at, key) in holders.iter().enumerate() {
        let tag = shards[at].bind(key);
        let length = (tag.norm_squared() as f64).sqrt();
        let mut meet = |got: Hypervector, other: &Hypervector| {
            tried += 1;
            accepted += u64::from(got.similar(other, threshold));
            let lengths = length * (other.norm_squared() as f64).sqrt();
            highest = highest.max(got.dot(other) as f64 / lengths);
        };
        let own = tag.unbind(key);
        for (number, shard) in shards.iter().enumerate() {
            if number != at {
                meet(own, shard);
                meet(tag.unbind(&holders[number]), &shards[at]);
            }
        }
    }
    println!("false accepts: {accepted} of {tried}; the highest cosine {highest:.3}");

    println!("changed trits   false rejects of {DAMAGED}");
    let damage = Key::root(1).child("damage");
    for percent in 0..=12 {
        let mut rejected = 0;
        for round in 0..DAMAGED {
            let number = round % SHARDS;
            let key = &holders[number as usize];
            let mut tag = shards[number as usize].bind(key);
            let mut stream = damage.keyed(percent).keyed(round).stream();
            let count = (u64::from(Hypervector::TRITS) * percent).div_ceil(100) as u32;
            for at in stream.distinct(count, Hypervector::TRITS) {
                // One of the two other values.
                let other = (i64::from(tag.trit(at)) + 2 + stream.below(2) as i64) % 3 - 1;
                tag = tag.with_trit(at, other as i8);
            }
            let shard = &shards[number as usize];
            rejected += u64::from(!tag.unbind(key).similar(shard, threshold));
        }
        println!("{percent:>12} %   {rejected}");
    }
}
