//! How payloads are written: the fixed front, and the tags behind it.

use super::{EXTENSION_VERSION, tag};
use base::{OperationId, ParentStep};
use saga::{Branch, Output};
use twopc::Audit;
use twopc::coordinator::Member;

// ---- writing ----

/// Up to `N` bytes of which the compiler knows where each part goes: they are put together and then
/// appended in one piece.
pub(super) struct Fixed<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Fixed<N> {
    #[inline]
    pub(super) fn of(id: OperationId) -> Fixed<N> {
        Fixed { bytes: [0; N], len: 0 }.put(&id.0.to_le_bytes())
    }

    #[inline]
    pub(super) fn put<const M: usize>(mut self, part: &[u8; M]) -> Fixed<N> {
        self.bytes[self.len..self.len + M].copy_from_slice(part);
        self.len += M;
        self
    }

    #[inline]
    pub(super) fn tag<const M: usize>(self, tag: u8, value: &[u8; M]) -> Fixed<N> {
        self.put(&tag_head(tag, M)).put(value)
    }

    #[inline]
    pub(super) fn append(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes[..self.len]);
    }

    /// Appends it and goes on with extensions, of which it holds some.
    #[inline]
    pub(super) fn tags(self, out: &mut Vec<u8>) -> Tags<'_> {
        self.append(out);
        Tags { out, begun: true }
    }
}

#[inline]
pub(super) fn tag_head(tag: u8, len: usize) -> [u8; 3] {
    let len = u16::try_from(len).expect("parts are cut to fit");
    let [low, high] = len.to_le_bytes();
    [tag, low, high]
}

pub(super) fn words(out: &mut Vec<u8>, id: OperationId, numbers: &[u32]) {
    out.extend_from_slice(&id.0.to_le_bytes());
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

/// Writes extensions behind a prefix; the version byte comes with the first.
pub(super) struct Tags<'a> {
    out: &'a mut Vec<u8>,
    begun: bool,
}

impl<'a> Tags<'a> {
    pub(super) fn behind(out: &'a mut Vec<u8>) -> Tags<'a> {
        Tags { out, begun: false }
    }

    #[inline]
    pub(super) fn put(&mut self, tag: u8, value: &[u8]) -> &mut Self {
        if value.len() > usize::from(u16::MAX) {
            return self.put_parts(tag, value);
        }
        self.head(tag, value.len());
        self.out.extend_from_slice(value);
        self
    }

    /// Puts a value that is longer than one can be: it stands in several.
    #[cold]
    fn put_parts(&mut self, tag: u8, value: &[u8]) -> &mut Self {
        for part in value.chunks(usize::from(u16::MAX)) {
            self.put(tag, part);
        }
        self
    }

    /// Puts a value of a length that the compiler knows.
    #[inline]
    pub(super) fn fixed<const M: usize>(&mut self, tag: u8, value: &[u8; M]) -> &mut Self {
        self.head(tag, M);
        self.out.extend_from_slice(value);
        self
    }

    /// Puts numbers, one behind the other.
    pub(super) fn numbers(&mut self, tag: u8, numbers: &[u32]) -> &mut Self {
        let bytes = numbers.len() * 4;
        if bytes > usize::from(u16::MAX) {
            let long: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            return self.put(tag, &long);
        }
        self.head(tag, bytes);
        let at = self.out.len();
        self.out.resize(at + bytes, 0);
        for (place, number) in self.out[at..].as_chunks_mut().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        self
    }

    /// How many bytes [`put`](Self::put) adds for a value, the version byte aside.
    pub(super) fn bytes(value: usize) -> usize {
        TAG_HEAD_BYTES * value.div_ceil(usize::from(u16::MAX)).max(1) + value
    }

    #[inline]
    pub(super) fn head(&mut self, tag: u8, len: usize) {
        if !self.begun {
            self.out.push(EXTENSION_VERSION);
            self.begun = true;
        }
        self.out.extend_from_slice(&tag_head(tag, len));
    }

    pub(super) fn participants(&mut self, list: impl ExactSizeIterator<Item = Member>) {
        // At most 64 participants of 76 bytes: one part.
        let bytes = list.len() * PARTICIPANT_BYTES;
        self.head(tag::PARTICIPANTS, bytes);
        let at = self.out.len();
        self.out.resize(at + bytes, 0);
        let entries = self.out[at..].as_chunks_mut::<PARTICIPANT_BYTES>().0;
        for (entry, Member { shard, node, store }) in entries.iter_mut().zip(list) {
            let (store, boot) = store.unwrap_or_default();
            entry[..32].copy_from_slice(&shard.0);
            entry[32..64].copy_from_slice(&node.0);
            entry[64..72].copy_from_slice(&store.0.to_le_bytes());
            entry[72..].copy_from_slice(&boot.0.to_le_bytes());
        }
    }
}

pub(super) const PARTICIPANT_BYTES: usize = 76;

/// A tag and a length.
pub(super) const TAG_HEAD_BYTES: usize = 3;

pub(super) fn put_output(tags: &mut Tags<'_>, output: &Output) {
    match output {
        Output::Inline(bytes) => tags.put(tag::OUTPUT, &[&[0], &bytes[..]].concat()),
        Output::Hashed { hash, bytes } => {
            tags.put(tag::OUTPUT, &[&[1], &hash[..], &bytes.to_le_bytes()].concat())
        }
    };
}

pub(super) const PARENT_BYTES: usize = 13;

pub(super) fn parent_bytes(parent: ParentStep) -> [u8; PARENT_BYTES] {
    let mut bytes = [0; PARENT_BYTES];
    bytes[..8].copy_from_slice(&parent.saga.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&parent.step.to_le_bytes());
    bytes[12] = u8::from(parent.undo);
    bytes
}

/// Behind the code of who does it or undoes it: for each branch its shard, its node, the length of its work
/// u32, and the work.
pub(super) fn put_branches(tags: &mut Tags<'_>, tag: u8, code: u8, branches: &[Branch]) {
    let mut value = vec![code];
    for Branch { shard, node, work } in branches {
        value.extend_from_slice(&shard.0);
        value.extend_from_slice(&node.0);
        put_long(work, &mut value);
    }
    tags.put(tag, &value);
}

/// A length u32, and so many bytes.
pub(super) fn put_long(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).expect("a payload is far shorter than 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The codes of [`tag::PERFORMER`] and [`tag::UNDO`].
pub(super) const CALL: u8 = 0;

pub(super) const TRANSACTION: u8 = 1;

pub(super) const SAGA: u8 = 2;

#[cold]
pub(super) fn put_audit(tags: &mut Tags<'_>, audit: &Audit) {
    tags.put(tag::FORCED, &audit_value(audit));
}

/// Who, when and why, as it stands under its tag.
pub(crate) fn audit_value(audit: &Audit) -> Vec<u8> {
    let who = &audit.who.as_bytes()[..audit.who.len().min(Audit::TEXT_BYTES_MAX as usize)];
    let why = &audit.why.as_bytes()[..audit.why.len().min(Audit::TEXT_BYTES_MAX as usize)];
    let head = u16::try_from(who.len()).expect("cut to fit").to_le_bytes();
    [&audit.at_ms.to_le_bytes()[..], &head, who, why].concat()
}
