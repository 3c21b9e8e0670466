//! How payloads are read: the fixed front, and the tags behind it.

use super::sagas::decode_saga;
use super::write::{CALL, PARENT_BYTES, PARTICIPANT_BYTES, SAGA, TRANSACTION};
use super::{CodecError, EXTENSION_VERSION, tag};
use base::{
    BootCount, CoordinatorId, Epoch, NodeName, OperationId, ParentStep, RequestKey, ShardId,
    StoreId,
};
use saga::{Branch, Definition, Output, Performer, Undo};
use std::sync::Arc;
use twopc::Audit;
use twopc::coordinator::Member;
use wal_core::EventType;

// ---- reading ----

/// A payload, read from the front.
pub(super) struct Reader<'a> {
    pub(super) event: EventType,
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(CodecError::Short(self.event))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_le_bytes)
    }

    /// See [`put_long`].
    pub(super) fn long(&mut self) -> Result<&'a [u8], CodecError> {
        let len = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let short = CodecError::Short(self.event);
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(short)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn coordinator(&mut self) -> Result<CoordinatorId, CodecError> {
        self.array().map(CoordinatorId)
    }

    /// What stands behind the prefix, checked as a whole: each (tag, value).
    pub(super) fn extensions(&self) -> Result<Extensions<'a>, CodecError> {
        let bad = CodecError::Extensions(self.event);
        let Some((version, tags)) = self.rest.split_first() else {
            return Ok(Extensions(&[]));
        };
        if *version != EXTENSION_VERSION {
            return Err(bad);
        }
        let mut rest = tags;
        let mut unknown = None;
        while !rest.is_empty() {
            let ((tag, _), behind) = split_tag(rest).ok_or(bad)?;
            unknown = unknown.or(tag::MUST_UNDERSTAND.contains(&tag).then_some(tag));
            rest = behind;
        }
        match unknown {
            Some(tag) => Err(CodecError::NotUnderstood(self.event, tag)),
            None => Ok(Extensions(tags)),
        }
    }

    /// Of a record that has no extensions in this version: whatever stands there is passed over if it may be.
    pub(super) fn bare<T>(&self, said: T) -> Result<T, CodecError> {
        match self.extensions() {
            Err(error @ CodecError::NotUnderstood(..)) => Err(error),
            _ => Ok(said),
        }
    }
}

pub(super) fn label(bytes: &[u8], event: EventType) -> Result<saga::Label, CodecError> {
    let name = std::str::from_utf8(bytes).ok().and_then(|name| saga::Label::new(name).ok());
    name.ok_or(CodecError::Value(event))
}

pub(super) type TaggedValue<'a> = ((u8, &'a [u8]), &'a [u8]);

pub(super) fn split_tag(bytes: &[u8]) -> Option<TaggedValue<'_>> {
    let (&[tag, low, high], rest) = bytes.split_first_chunk::<3>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    Some(((tag, value), rest))
}

/// Extensions that were checked to be whole.
#[derive(Clone, Copy)]
pub(super) struct Extensions<'a>(&'a [u8]);

impl<'a> Extensions<'a> {
    pub(super) fn iter(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (entry, behind) = split_tag(rest)?;
            rest = behind;
            Some(entry)
        })
    }

    pub(super) fn find(self, tag: u8) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    pub(super) fn array<const N: usize>(
        self,
        tag: u8,
        event: EventType,
    ) -> Result<Option<[u8; N]>, CodecError> {
        let bad = CodecError::Extensions(event);
        self.find(tag).map(|value| value.try_into().map_err(|_| bad)).transpose()
    }

    /// A value that may stand in parts.
    pub(super) fn bytes(self, tag: u8) -> Arc<[u8]> {
        let mut parts = self.iter().filter(|(found, _)| *found == tag).map(|(_, value)| value);
        let first = parts.next().unwrap_or(&[]);
        match parts.next() {
            None => first.into(),
            Some(second) => {
                let mut whole = [first, second].concat();
                parts.for_each(|part| whole.extend_from_slice(part));
                whole.into()
            }
        }
    }

    pub(super) fn label(
        self,
        tag: u8,
        event: EventType,
    ) -> Result<Option<saga::Label>, CodecError> {
        self.find(tag).map(|bytes| label(bytes, event)).transpose()
    }

    pub(super) fn timeout(
        self,
        event: EventType,
    ) -> Result<Option<std::time::Duration>, CodecError> {
        let nanos = self.array(tag::TIMEOUT, event)?.map(u64::from_le_bytes);
        Ok(nanos.map(std::time::Duration::from_nanos))
    }

    pub(super) fn numbers(self, tag: u8, event: EventType) -> Result<Option<Vec<u32>>, CodecError> {
        let Some(list) = self.find(tag) else { return Ok(None) };
        let (list, rest) = list.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(CodecError::Extensions(event));
        }
        Ok(Some(list.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()))
    }

    pub(super) fn flag(self, tag: u8, event: EventType) -> Result<bool, CodecError> {
        match self.array(tag, event)? {
            None | Some([0]) => Ok(false),
            Some([1]) => Ok(true),
            Some(_) => Err(CodecError::Value(event)),
        }
    }

    pub(super) fn output(self, event: EventType) -> Result<Option<Output>, CodecError> {
        if self.find(tag::OUTPUT).is_none() {
            return Ok(None);
        }
        let value = self.bytes(tag::OUTPUT);
        match value.split_first() {
            Some((0, bytes)) => Ok(Some(Output::Inline(bytes.into()))),
            Some((1, rest)) => {
                let mut reader = Reader { event, rest };
                let (hash, bytes) = (reader.array()?, reader.u64()?);
                Ok(Some(Output::Hashed { hash, bytes }))
            }
            _ => Err(CodecError::Value(event)),
        }
    }

    pub(super) fn order(self, event: EventType) -> Result<Option<Box<saga::Order>>, CodecError> {
        let Some(value) = self.find(tag::ORDER) else { return Ok(None) };
        let mut reader = Reader { event, rest: value };
        let [code] = reader.array()?;
        let who = usize::from(u16::from_le_bytes(reader.array()?));
        let (who, why) = reader.rest.split_at_checked(who).ok_or(CodecError::Extensions(event))?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| CodecError::Value(event));
        let what = match code {
            0 => saga::What::RetryNow,
            1 => saga::What::MarkDone,
            2 => saga::What::CloseUnanswered,
            3 => saga::What::Override { body: self.bytes(tag::BODY) },
            4 => match self.undo(event)? {
                Undo::Transaction(branches) => saga::What::Instead { branches },
                _ => return Err(CodecError::Value(event)),
            },
            _ => return Err(CodecError::Value(event)),
        };
        let (who, why) = (text(who)?.into(), text(why)?.into());
        Ok(Some(Box::new(saga::Order { who, why, what })))
    }

    pub(super) fn audit(self, event: EventType) -> Result<Option<Arc<Audit>>, CodecError> {
        let value = self.find(tag::FORCED);
        value.map(|value| read_audit(event, value).map(Arc::new)).transpose()
    }

    pub(super) fn request_key(self, event: EventType) -> Result<Option<RequestKey>, CodecError> {
        let bad = CodecError::Extensions(event);
        self.find(tag::REQUEST_KEY).map(|key| RequestKey::new(key).map_err(|_| bad)).transpose()
    }

    pub(super) fn parent(self, event: EventType) -> Result<Option<ParentStep>, CodecError> {
        let Some(value) = self.array::<PARENT_BYTES>(tag::PARENT, event)? else { return Ok(None) };
        let mut reader = Reader { event, rest: &value };
        let (saga, step) = (OperationId(reader.u64()?), reader.u32()?);
        match reader.array()? {
            [undo @ (0 | 1)] => Ok(Some(ParentStep { saga, step, undo: undo == 1 })),
            _ => Err(CodecError::Value(event)),
        }
    }

    pub(super) fn performer(self, event: EventType, depth: u32) -> Result<Performer, CodecError> {
        let value = self.bytes(tag::PERFORMER);
        match value.split_first() {
            None if self.find(tag::PERFORMER).is_none() => Ok(Performer::Node),
            Some((&CALL, [])) => Ok(Performer::Node),
            Some((&TRANSACTION, rest)) => branches(event, rest).map(Performer::Transaction),
            Some((&SAGA, rest)) => {
                let definition = decode_definition(event, rest, depth + 1)?;
                Ok(Performer::Saga(Arc::new(definition)))
            }
            _ => Err(CodecError::Value(event)),
        }
    }

    pub(super) fn undo(self, event: EventType) -> Result<Undo, CodecError> {
        let value = self.bytes(tag::UNDO);
        match value.split_first() {
            None if self.find(tag::UNDO).is_none() => Ok(Undo::Call),
            Some((&CALL, [])) => Ok(Undo::Call),
            Some((&TRANSACTION, rest)) => branches(event, rest).map(Undo::Transaction),
            Some((&SAGA, [])) => Ok(Undo::Reverse),
            _ => Err(CodecError::Value(event)),
        }
    }

    pub(super) fn epoch(self, event: EventType) -> Result<Epoch, CodecError> {
        let value = self.array(tag::EPOCH, event)?.map_or(0, u32::from_le_bytes);
        if value > Epoch::MAX.value() {
            return Err(CodecError::Value(event));
        }
        Ok(Epoch::new(value))
    }

    pub(super) fn participants(self, event: EventType) -> Result<Vec<Member>, CodecError> {
        let list = self.find(tag::PARTICIPANTS).unwrap_or(&[]);
        let (list, rest) = list.as_chunks::<PARTICIPANT_BYTES>();
        if !rest.is_empty() {
            return Err(CodecError::Extensions(event));
        }
        list.iter()
            .map(|bytes| {
                let mut reader = Reader { event, rest: bytes };
                let (shard, node) = (ShardId(reader.array()?), NodeName(reader.array()?));
                let (store, boot) = (StoreId(reader.u64()?), BootCount(reader.u32()?));
                Ok(Member { shard, node, store: (boot.0 > 0).then_some((store, boot)) })
            })
            .collect()
    }
}

/// See [`put_branches`].
pub(super) fn branches(event: EventType, value: &[u8]) -> Result<Arc<[Branch]>, CodecError> {
    let mut reader = Reader { event, rest: value };
    let mut branches = Vec::new();
    while !reader.rest.is_empty() {
        let (shard, node) = (ShardId(reader.array()?), NodeName(reader.array()?));
        branches.push(Branch { shard, node, work: reader.long()?.into() });
    }
    Ok(branches.into())
}

/// See [`put_definition`].
pub(super) fn decode_definition(
    event: EventType,
    value: &[u8],
    depth: u32,
) -> Result<Definition, CodecError> {
    let bad = CodecError::Value(event);
    if depth > DEPTH_MAX {
        return Err(bad);
    }
    let mut whole = Reader { event, rest: value };
    let mut payloads = Vec::new();
    while !whole.rest.is_empty() {
        payloads.push(whole.long()?);
    }
    let mut events = payloads.into_iter().enumerate().map(|(at, payload)| {
        let event = if at == 0 { EventType::SAGA_CREATED } else { EventType::SAGA_STEP_ADDED };
        let mut payload = Reader { event, rest: payload };
        payload.u64()?;
        decode_saga(event, payload, depth)
    });
    let Some(saga::Event::Created { terms, .. }) = events.next().transpose()? else {
        return Err(bad);
    };
    let steps = events.collect::<Result<Vec<_>, _>>()?;
    Definition::from_log(&terms, &steps).ok_or(bad)
}

/// Sagas within sagas are read so deep, whatever a payload says.
pub(crate) const DEPTH_MAX: u32 = 16;

fn read_audit(event: EventType, value: &[u8]) -> Result<Audit, CodecError> {
    let mut reader = Reader { event, rest: value };
    let at_ms = i64::from_le_bytes(reader.array()?);
    let who = usize::from(u16::from_le_bytes(reader.array()?));
    let (who, why) = reader.rest.split_at_checked(who).ok_or(CodecError::Extensions(event))?;
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| CodecError::Value(event));
    Ok(Audit { at_ms, who: text(who)?.into(), why: text(why)?.into() })
}

/// Reads what [`audit_value`](super::audit_value) writes; `None` if it is anything else.
pub(crate) fn decode_audit(value: &[u8]) -> Option<Audit> {
    read_audit(EventType::CHECKPOINT, value).ok()
}
