//! What nodes of the storage network say to each other, and its bytes.

use crate::sweep::{Claim, Doubt};
use crate::traffic::Transfer;
use crate::work::Current;
use base::bytes::{Malformed, Reader, Writer};
use base::{CoordinatorId, NodeName, OperationId, ShardId, Token};
use erasure::Scheme;
use incentives::Ask;
use locks::{FencingToken, Holder, Hypervector, Lease};
use placement::{Announcement, DirectoryMessage, LookupId, Region, Rumour};
use std::sync::Arc;
use store::{Digest, merkle};
use twopc::TxKey;

/// The longest shard on a wire, in bytes.
pub const SHARD_BYTES_MAX: u32 = 16 << 20;
/// The longest record of a file, in bytes.
pub const RECORD_BYTES_MAX: u32 = 1 << 20;
/// How many of anything else one message lists at most.
const LIST_MAX: u32 = 4_096;

/// A message. Those of transactions have their own type; all others are bytes on their way, by
/// [`encode`](Self::encode).
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// On behalf of sagas and transactions.
    Transaction(coordinator::Message),
    /// Give me a shard, or a record: anything by its digest.
    Get {
        /// Which.
        digest: Digest,
        /// The number of this transfer, over all lives of the sender.
        number: u64,
    },
    /// Here it is; or it is not here.
    Bytes {
        /// What was asked for.
        digest: Digest,
        /// Its bytes.
        bytes: Option<Vec<u8>>,
        /// The number under which it was asked for.
        number: u64,
    },
    /// Prove that you store a shard.
    Challenge(repair::Challenge),
    /// The proof.
    Proof(repair::Answer),
    /// Read your copy of a shard again.
    Scrub {
        /// Which.
        digest: Digest,
    },
    /// What the sender found when it read its own copy: asked for, or by its own scrubbing.
    Scrubbed {
        /// Which.
        digest: Digest,
        /// Whether it is what it is called.
        healthy: bool,
    },
    /// Who is there.
    Membership(placement::Message),
    /// Who holds the record of a file.
    Directory(DirectoryMessage),
    /// To a table of locks. Its grants are larger than all else that there is.
    Lock(Box<locks::Message>),
    /// From it.
    Locked(LockAnswer),
    /// Something is wanted of the ledger.
    Ask {
        /// The sender's number for it.
        number: u64,
        /// Its key: the same whenever the same is asked for, also after a crash.
        key: Token,
        /// What.
        ask: Ask,
    },
    /// What became of it.
    Asked {
        /// The asker's number.
        number: u64,
        /// Whether it is done, durably.
        done: bool,
        /// If it is refused: the lowest number that the asker's next request may have.
        next: u64,
    },
    /// To the authority: what the sender has seen since it said so last.
    Report(Observed),
    /// The sender is about to leave: give it nothing, and rebuild elsewhere what it holds.
    Leaving,
    /// The sender holds these, and does not know who needs them.
    Doubts(Vec<Doubt>),
    /// To whoever asked that: what the sender, a keeper of the files, knows of it.
    Claims(Vec<Claim>),
    /// From one keeper of a file's record to another: which record is current here.
    Version {
        /// Which file.
        file: Digest,
        /// Its record.
        has: Current,
    },
    /// To a keeper that has shown the sender its record, which names the sender: it is not what is current here, and
    /// nothing is in doubt.
    Astray {
        /// Which file.
        file: Digest,
        /// The record that was shown.
        than: Current,
        /// The one that is current here, as the sender's log says.
        has: Current,
    },
    /// From one participant of a transaction to another: its coordinator is gone, and nobody tells its outcome.
    Orphan {
        /// The transaction.
        tx: TxKey,
        /// The addressee's branch.
        of: ShardId,
        /// The sender's.
        by: ShardId,
        /// What the sender says of its own.
        says: InDoubt,
    },
    /// To the authority: what the sender has moved since it said so last.
    Moved(Vec<Transfer>),
    /// From a holder of a lock: what is the value that it guards?
    Read {
        /// The holder's number.
        number: u64,
        /// On what the lock is.
        shard: ShardId,
    },
    /// This is.
    Value {
        /// The holder's number.
        number: u64,
        /// On what the lock is.
        shard: ShardId,
        /// The value.
        value: i64,
    },
    /// From the authority, to whoever reports: the scheme that files should have.
    Advice(Scheme),
}

/// What a participant says of its branch to another one when their coordinator is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InDoubt {
    /// It is in doubt, and asks under this number of its own.
    Asks(u64),
    /// It is in doubt too: the answer to that question.
    IsToo(u64),
    /// It has committed, as it was told or since it has kept its promise by itself.
    Kept,
}

/// What a table of locks says to a holder.
#[derive(Clone, Debug, PartialEq)]
pub enum LockAnswer {
    /// All that was asked for.
    Granted {
        /// To whom.
        holder: Holder,
        /// What.
        leases: Vec<Lease>,
    },
    /// Not now: the holder asks again, unless it waits already.
    Refused {
        /// Whom.
        holder: Holder,
        /// Whether it waits, and hears more.
        waits: bool,
    },
    /// It was given back.
    Released {
        /// To whom it had been granted.
        holder: Holder,
        /// What.
        shard: ShardId,
    },
    /// Whether the claim holds.
    Verified {
        /// Whose.
        holder: Holder,
        /// On what.
        shard: ShardId,
        /// Whether it does.
        holds: bool,
    },
}

/// Counts of what a node has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Challenges that ended.
    pub proofs_ended: u64,
    /// How many of them well.
    pub proofs_passed: u64,
    /// Own shards that were read again.
    pub shards_checked: u64,
    /// How many of them were bad.
    pub shards_corrupt: u64,
    /// Bytes that shards take.
    pub used_bytes: u64,
    /// Bytes that they may take.
    pub capacity_bytes: u64,
}

fn digest(from: &mut Reader<'_>) -> Result<Digest, Malformed> {
    from.array().map(Digest)
}

impl Message {
    /// The number of its kind, 0 for those of transactions.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Message::Transaction(_) => 0,
            Message::Get { .. } => 1,
            Message::Bytes { .. } => 2,
            Message::Challenge(_) => 3,
            Message::Proof(_) => 4,
            Message::Scrub { .. } => 5,
            Message::Scrubbed { .. } => 6,
            Message::Membership(_) => 7,
            Message::Directory(_) => 8,
            Message::Lock(_) => 9,
            Message::Locked(_) => 10,
            Message::Ask { .. } => 11,
            Message::Asked { .. } => 12,
            Message::Report(_) => 13,
            Message::Leaving => 14,
            Message::Doubts(_) => 15,
            Message::Claims(_) => 16,
            Message::Version { .. } => 17,
            Message::Moved(_) => 18,
            Message::Read { .. } => 19,
            Message::Value { .. } => 20,
            Message::Advice(_) => 21,
            Message::Astray { .. } => 22,
            Message::Orphan { .. } => 23,
        }
    }

    /// Its bytes; `None` for a transaction's message.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut to = Writer::behind(Vec::with_capacity(self.room()));
        to.u8(self.kind());
        match self {
            Message::Transaction(_) => return None,
            Message::Leaving => {}
            Message::Doubts(doubts) => {
                to.len(doubts.len());
                for Doubt { digest, file } in doubts {
                    to.raw(&digest.0).bool(file.is_some());
                    if let Some(file) = file {
                        to.raw(&file.0);
                    }
                }
            }
            Message::Claims(claims) => {
                to.len(claims.len());
                for Claim { digest, version, keepers, named } in claims {
                    to.raw(&digest.0).u64(*version).u32(*keepers).bool(*named);
                }
            }
            Message::Version { file, has } => has.write(to.raw(&file.0)),
            Message::Astray { file, than, has } => {
                than.write(to.raw(&file.0));
                has.write(&mut to);
            }
            Message::Orphan { tx, of, by, says } => {
                to.raw(&tx.coordinator.0).u64(tx.id.0).raw(&of.0).raw(&by.0);
                match says {
                    InDoubt::Asks(number) => to.u8(0).u64(*number),
                    InDoubt::IsToo(number) => to.u8(1).u64(*number),
                    InDoubt::Kept => to.u8(2),
                };
            }
            Message::Advice(scheme) => {
                to.u16(scheme.data()).u16(scheme.parity());
            }
            Message::Get { digest, number } => {
                to.raw(&digest.0).u64(*number);
            }
            Message::Scrub { digest } => {
                to.raw(&digest.0);
            }
            Message::Bytes { digest, bytes, number } => {
                to.raw(&digest.0).bool(bytes.is_some());
                if let Some(bytes) = bytes {
                    to.bytes(bytes);
                }
                to.u64(*number);
            }
            Message::Challenge(challenge) => {
                to.u128(challenge.nonce).raw(&challenge.shard.0).u32(challenge.blocks);
            }
            Message::Proof(answer) => {
                to.u128(answer.nonce).bool(answer.proof.is_some());
                if let Some(proof) = &answer.proof {
                    to.u64(proof.shard_bytes).u64(proof.first).len(proof.blocks.len());
                    proof.blocks.iter().for_each(|block| {
                        to.bytes(block);
                    });
                    to.len(proof.beside.len());
                    proof.beside.iter().for_each(|hash| {
                        to.raw(&hash.0);
                    });
                }
            }
            Message::Scrubbed { digest, healthy } => {
                to.raw(&digest.0).bool(*healthy);
            }
            Message::Membership(message) => membership(&mut to, message),
            Message::Directory(message) => directory(&mut to, message),
            Message::Lock(message) => lock(&mut to, message),
            Message::Locked(answer) => locked(&mut to, answer),
            Message::Ask { number, key, ask } => {
                to.u64(*number).raw(&key.0);
                ask.encode(&mut to);
            }
            Message::Asked { number, done, next } => {
                to.u64(*number).bool(*done).u64(*next);
            }
            Message::Report(seen) => {
                to.u64(seen.proofs_ended).u64(seen.proofs_passed).u64(seen.shards_checked);
                to.u64(seen.shards_corrupt).u64(seen.used_bytes).u64(seen.capacity_bytes);
            }
            Message::Read { number, shard } => {
                to.u64(*number).raw(&shard.0);
            }
            Message::Value { number, shard, value } => {
                to.u64(*number).raw(&shard.0).u64(value.cast_unsigned());
            }
            Message::Moved(transfers) => {
                to.len(transfers.len());
                for Transfer { token, other, sent, bytes } in transfers {
                    to.raw(&token.0).node(*other).bool(*sent).u64(*bytes);
                }
            }
        }
        Some(to.finish())
    }

    /// Room for its bytes: enough for nearly all, so that they are not moved while they are written.
    fn room(&self) -> usize {
        use placement::Message::{Heartbeat, Members};
        match self {
            Message::Transaction(_) => 0,
            Message::Moved(transfers) => 16 + 57 * transfers.len(),
            Message::Bytes { bytes, .. } => 64 + bytes.as_ref().map_or(0, Vec::len),
            Message::Membership(Heartbeat { rumours, .. } | Members { rumours }) => {
                128 + 64 * rumours.len()
            }
            _ => 128,
        }
    }

    /// The message of these bytes.
    ///
    /// # Errors
    /// [`Malformed`]: they are none, or something in it is longer than it may be.
    pub fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
        let mut from = Reader::new(bytes);
        let from = &mut from;
        let message = match from.u8()? {
            1 => Message::Get { digest: digest(from)?, number: from.u64()? },
            2 => {
                let digest = digest(from)?;
                let there = from.bool()?;
                let bytes = if there { Some(from.bytes(SHARD_BYTES_MAX)?.to_vec()) } else { None };
                Message::Bytes { digest, bytes, number: from.u64()? }
            }
            3 => Message::Challenge(repair::Challenge {
                nonce: from.u128()?,
                shard: digest(from)?,
                blocks: from.u32()?,
            }),
            4 => {
                let nonce = from.u128()?;
                let proof = if from.bool()? { Some(read_proof(from)?) } else { None };
                Message::Proof(repair::Answer { nonce, proof })
            }
            5 => Message::Scrub { digest: digest(from)? },
            6 => Message::Scrubbed { digest: digest(from)?, healthy: from.bool()? },
            7 => Message::Membership(read_membership(from)?),
            8 => Message::Directory(read_directory(from)?),
            9 => Message::Lock(Box::new(read_lock(from)?)),
            10 => Message::Locked(read_locked(from)?),
            11 => {
                let (number, key) = (from.u64()?, Token(from.array()?));
                Message::Ask { number, key, ask: Ask::decode(from)? }
            }
            12 => Message::Asked { number: from.u64()?, done: from.bool()?, next: from.u64()? },
            13 => Message::Report(Observed {
                proofs_ended: from.u64()?,
                proofs_passed: from.u64()?,
                shards_checked: from.u64()?,
                shards_corrupt: from.u64()?,
                used_bytes: from.u64()?,
                capacity_bytes: from.u64()?,
            }),
            14 => Message::Leaving,
            15 => {
                let count = from.len(LIST_MAX, 33)?;
                let doubt = |from: &mut Reader<'_>| {
                    let digest = digest(from)?;
                    let file = if from.bool()? { Some(Digest(from.array()?)) } else { None };
                    Ok(Doubt { digest, file })
                };
                Message::Doubts((0..count).map(|_| doubt(from)).collect::<Result<_, Malformed>>()?)
            }
            16 => {
                let count = from.len(LIST_MAX, 45)?;
                let claim = |from: &mut Reader<'_>| {
                    let (digest, version) = (digest(from)?, from.u64()?);
                    Ok(Claim { digest, version, keepers: from.u32()?, named: from.bool()? })
                };
                Message::Claims((0..count).map(|_| claim(from)).collect::<Result<_, Malformed>>()?)
            }
            17 => Message::Version { file: digest(from)?, has: Current::read(from)? },
            18 => {
                let count = from.len(LIST_MAX, 57)?;
                let transfer = |from: &mut Reader<'_>| {
                    let (token, other) = (Token(from.array()?), from.node()?);
                    Ok(Transfer { token, other, sent: from.bool()?, bytes: from.u64()? })
                };
                let all = (0..count).map(|_| transfer(from)).collect::<Result<_, Malformed>>()?;
                Message::Moved(all)
            }
            19 => Message::Read { number: from.u64()?, shard: from.shard()? },
            20 => Message::Value {
                number: from.u64()?,
                shard: from.shard()?,
                value: from.u64()?.cast_signed(),
            },
            21 => {
                let scheme = Scheme::new(from.u16()?, from.u16()?);
                Message::Advice(scheme.map_err(|_| from.wrong("no scheme has this k and m"))?)
            }
            22 => {
                let (file, than) = (digest(from)?, Current::read(from)?);
                Message::Astray { file, than, has: Current::read(from)? }
            }
            23 => {
                let (coordinator, id) = (CoordinatorId(from.array()?), OperationId(from.u64()?));
                let (tx, of, by) = (TxKey { coordinator, id }, from.shard()?, from.shard()?);
                let says = match from.u8()? {
                    0 => InDoubt::Asks(from.u64()?),
                    1 => InDoubt::IsToo(from.u64()?),
                    2 => InDoubt::Kept,
                    _ => return Err(from.wrong("nothing that is said of what is in doubt")),
                };
                Message::Orphan { tx, of, by, says }
            }
            _ => return Err(from.wrong("no kind of message")),
        };
        from.end()?;
        Ok(message)
    }
}

fn read_proof(from: &mut Reader<'_>) -> Result<merkle::Proof, Malformed> {
    let (shard_bytes, first) = (from.u64()?, from.u64()?);
    let count = from.len(SHARD_BYTES_MAX / 256, 4)?;
    let block = |from: &mut Reader<'_>| Ok(from.bytes(merkle::BLOCK_BYTES as u32)?.to_vec());
    let blocks = (0..count).map(|_| block(from)).collect::<Result<_, Malformed>>()?;
    let count = from.len(LIST_MAX, 32)?;
    let beside = (0..count).map(|_| digest(from)).collect::<Result<_, Malformed>>()?;
    Ok(merkle::Proof { shard_bytes, first, blocks, beside })
}

fn announcement(to: &mut Writer, said: &Announcement) {
    to.node(said.node).u64(said.incarnation).u8(said.region as u8);
    to.u64(said.capacity_bytes).u64(said.free_bytes);
}

fn read_announcement(from: &mut Reader<'_>) -> Result<Announcement, Malformed> {
    let (node, incarnation) = (from.node()?, from.u64()?);
    let region = Region::ALL.get(usize::from(from.u8()?)).copied();
    let region = region.ok_or(from.wrong("no region"))?;
    let (capacity_bytes, free_bytes) = (from.u64()?, from.u64()?);
    Ok(Announcement { node, incarnation, region, capacity_bytes, free_bytes })
}

fn rumours(to: &mut Writer, rumours: &[Rumour]) {
    to.len(rumours.len());
    for rumour in rumours {
        announcement(to, &rumour.announcement);
        to.bool(rumour.suspected);
    }
}

fn read_rumours(from: &mut Reader<'_>) -> Result<Arc<[Rumour]>, Malformed> {
    let count = from.len(LIST_MAX, 58)?;
    let rumour = |from: &mut Reader<'_>| {
        Ok(Rumour { announcement: read_announcement(from)?, suspected: from.bool()? })
    };
    (0..count).map(|_| rumour(from)).collect()
}

fn membership(to: &mut Writer, message: &placement::Message) {
    match message {
        placement::Message::Heartbeat { own, view, rumours: told } => {
            to.u8(1);
            announcement(to, own);
            to.u64(*view);
            rumours(to, told);
        }
        placement::Message::Unwatch => {
            to.u8(2);
        }
        placement::Message::Missed { incarnation } => {
            to.u8(3).u64(*incarnation);
        }
        placement::Message::Join { own } => {
            to.u8(4);
            announcement(to, own);
        }
        placement::Message::Members { rumours: told } => {
            to.u8(5);
            rumours(to, told);
        }
        placement::Message::Compare { views } => {
            to.u8(6);
            views.iter().for_each(|view| {
                to.u64(*view);
            });
        }
    }
}

fn read_membership(from: &mut Reader<'_>) -> Result<placement::Message, Malformed> {
    Ok(match from.u8()? {
        1 => placement::Message::Heartbeat {
            own: read_announcement(from)?,
            view: from.u64()?,
            rumours: read_rumours(from)?,
        },
        2 => placement::Message::Unwatch,
        3 => placement::Message::Missed { incarnation: from.u64()? },
        4 => placement::Message::Join { own: read_announcement(from)? },
        5 => placement::Message::Members { rumours: read_rumours(from)? },
        6 => {
            let mut views = [0; placement::PARTS];
            for view in &mut views {
                *view = from.u64()?;
            }
            placement::Message::Compare { views: Box::new(views) }
        }
        _ => return Err(from.wrong("nothing that members say")),
    })
}

fn directory(to: &mut Writer, message: &DirectoryMessage) {
    match message {
        DirectoryMessage::Find { lookup, key } => {
            to.u8(1).u64(lookup.0).raw(key);
        }
        DirectoryMessage::Found { lookup, nodes, record } => {
            to.u8(2).u64(lookup.0).len(nodes.len());
            nodes.iter().for_each(|node| {
                to.node(*node);
            });
            to.bool(record.is_some());
            if let Some(record) = record {
                to.bytes(record);
            }
        }
        DirectoryMessage::Store { lookup, key, record } => {
            to.u8(3).u64(lookup.0).raw(key).bytes(record);
        }
        DirectoryMessage::Stored { lookup, held } => {
            to.u8(4).u64(lookup.0).bool(*held);
        }
    }
}

fn read_directory(from: &mut Reader<'_>) -> Result<DirectoryMessage, Malformed> {
    let kind = from.u8()?;
    let lookup = LookupId(from.u64()?);
    Ok(match kind {
        1 => DirectoryMessage::Find { lookup, key: from.array()? },
        2 => {
            let count = from.len(LIST_MAX, 32)?;
            let nodes = (0..count).map(|_| from.node()).collect::<Result<_, Malformed>>()?;
            let there = from.bool()?;
            let record = if there { Some(from.bytes(RECORD_BYTES_MAX)?.to_vec()) } else { None };
            DirectoryMessage::Found { lookup, nodes, record }
        }
        3 => {
            let key = from.array()?;
            DirectoryMessage::Store { lookup, key, record: from.bytes(RECORD_BYTES_MAX)?.to_vec() }
        }
        4 => DirectoryMessage::Stored { lookup, held: from.bool()? },
        _ => return Err(from.wrong("nothing that directories say")),
    })
}

fn holder(to: &mut Writer, holder: Holder) {
    to.node(holder.node).u64(holder.operation);
}

fn read_holder(from: &mut Reader<'_>) -> Result<Holder, Malformed> {
    Ok(Holder { node: from.node()?, operation: from.u64()? })
}

fn tag(from: &mut Reader<'_>) -> Result<Hypervector, Malformed> {
    let bytes: [u8; Hypervector::BYTES] = from.array()?;
    Hypervector::from_bytes(&bytes).ok_or(from.wrong("not a vector of trits"))
}

fn claim(to: &mut Writer, claim: &locks::Claim) {
    to.raw(&claim.shard.0);
    holder(to, claim.holder);
    to.u64(claim.token.0).raw(&claim.tag.to_bytes());
}

fn read_claim(from: &mut Reader<'_>) -> Result<locks::Claim, Malformed> {
    let (shard, holder) = (from.shard()?, read_holder(from)?);
    Ok(locks::Claim { shard, holder, token: FencingToken(from.u64()?), tag: tag(from)? })
}

fn lock(to: &mut Writer, message: &locks::Message) {
    match message {
        locks::Message::Acquire { holder: who, born, shards } => {
            to.u8(1);
            holder(to, *who);
            to.time(*born).len(shards.len());
            shards.iter().for_each(|shard| {
                to.raw(&shard.0);
            });
        }
        locks::Message::Renew { claim: of } => {
            to.u8(2);
            claim(to, of);
        }
        locks::Message::Release { claim: of } => {
            to.u8(3);
            claim(to, of);
        }
        locks::Message::Withdraw { holder: who } => {
            to.u8(4);
            holder(to, *who);
        }
        locks::Message::Verify { claim: of } => {
            to.u8(5);
            claim(to, of);
        }
    }
}

fn read_lock(from: &mut Reader<'_>) -> Result<locks::Message, Malformed> {
    Ok(match from.u8()? {
        1 => {
            let (holder, born) = (read_holder(from)?, from.time()?);
            let count = from.len(LIST_MAX, 32)?;
            let shards = (0..count).map(|_| from.shard()).collect::<Result<_, Malformed>>()?;
            locks::Message::Acquire { holder, born, shards }
        }
        2 => locks::Message::Renew { claim: read_claim(from)? },
        3 => locks::Message::Release { claim: read_claim(from)? },
        4 => locks::Message::Withdraw { holder: read_holder(from)? },
        5 => locks::Message::Verify { claim: read_claim(from)? },
        _ => return Err(from.wrong("nothing that a table of locks is told")),
    })
}

fn locked(to: &mut Writer, answer: &LockAnswer) {
    match answer {
        LockAnswer::Granted { holder: who, leases } => {
            to.u8(1);
            holder(to, *who);
            to.len(leases.len());
            for lease in leases {
                to.raw(&lease.shard.0).u64(lease.token.0).time(lease.until);
                to.raw(&lease.tag.to_bytes());
            }
        }
        LockAnswer::Refused { holder: who, waits } => {
            to.u8(2);
            holder(to, *who);
            to.bool(*waits);
        }
        LockAnswer::Released { holder: who, shard } => {
            to.u8(3);
            holder(to, *who);
            to.raw(&shard.0);
        }
        LockAnswer::Verified { holder: who, shard, holds } => {
            to.u8(4);
            holder(to, *who);
            to.raw(&shard.0).bool(*holds);
        }
    }
}

fn read_locked(from: &mut Reader<'_>) -> Result<LockAnswer, Malformed> {
    let kind = from.u8()?;
    let holder = read_holder(from)?;
    Ok(match kind {
        1 => {
            let count = from.len(LIST_MAX, 48 + Hypervector::BYTES)?;
            let lease = |from: &mut Reader<'_>| {
                let (shard, token) = (from.shard()?, FencingToken(from.u64()?));
                Ok(Lease { shard, token, until: from.time()?, tag: tag(from)? })
            };
            let leases = (0..count).map(|_| lease(from)).collect::<Result<_, Malformed>>()?;
            LockAnswer::Granted { holder, leases }
        }
        2 => LockAnswer::Refused { holder, waits: from.bool()? },
        3 => LockAnswer::Released { holder, shard: from.shard()? },
        4 => LockAnswer::Verified { holder, shard: from.shard()?, holds: from.bool()? },
        _ => return Err(from.wrong("nothing that a table of locks says")),
    })
}

/// To whom a table's answer goes, and the answer.
#[must_use]
pub(crate) fn lock_answer(said: locks::Output) -> (NodeName, LockAnswer) {
    match said {
        locks::Output::Granted { holder, leases } => {
            (holder.node, LockAnswer::Granted { holder, leases })
        }
        locks::Output::Waits { holder, .. } => {
            (holder.node, LockAnswer::Refused { holder, waits: true })
        }
        locks::Output::Refused { holder, .. } => {
            (holder.node, LockAnswer::Refused { holder, waits: false })
        }
        locks::Output::Released { holder, shard } => {
            (holder.node, LockAnswer::Released { holder, shard })
        }
        locks::Output::Verified { to, shard, holder, .. } => {
            (to, LockAnswer::Verified { holder, shard, holds: true })
        }
        locks::Output::NotVerified { to, shard, holder, .. } => {
            (to, LockAnswer::Verified { holder, shard, holds: false })
        }
    }
}
