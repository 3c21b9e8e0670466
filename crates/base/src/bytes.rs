//! Values as bytes, little-endian, for logs and wires: a writer, and a reader that believes no length.

use crate::{NodeName, Ratio, ShardId, Time, Token};

/// These bytes are not what was expected: cut, too long, or of another version. Whoever sent them is
/// asked again, or is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong.
    pub what: &'static str,
    /// Where, in bytes from the beginning.
    pub at: u64,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for Malformed {}

/// Writes values behind each other.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins with these bytes.
    #[must_use]
    pub fn behind(bytes: Vec<u8>) -> Writer {
        Writer(bytes)
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Writer {
        self.0.push(value);
        self
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    /// Sixteen bytes.
    pub fn u128(&mut self, value: u128) -> &mut Writer {
        self.raw(&value.to_le_bytes())
    }

    /// One byte, 0 or 1.
    pub fn bool(&mut self, value: bool) -> &mut Writer {
        self.u8(u8::from(value))
    }

    /// The bytes as they are: whoever reads knows how many.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Their number in four bytes, and the bytes.
    ///
    /// # Panics
    /// If there are 4 GiB or more of them: nothing that is written here is as long.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.len(bytes.len()).raw(bytes)
    }

    /// How many follow, in four bytes.
    ///
    /// # Panics
    /// As [`bytes`](Self::bytes).
    pub fn len(&mut self, many: usize) -> &mut Writer {
        self.u32(u32::try_from(many).expect("lists and texts on wires and in logs are short"))
    }

    /// 32 bytes.
    pub fn node(&mut self, node: NodeName) -> &mut Writer {
        self.raw(&node.0)
    }

    /// Nanoseconds, in eight bytes.
    pub fn time(&mut self, time: Time) -> &mut Writer {
        self.u64(time.as_nanos())
    }

    /// Parts per million, in four bytes.
    pub fn ratio(&mut self, ratio: Ratio) -> &mut Writer {
        self.u32(ratio.parts_per_million())
    }
}

/// Reads what a [`Writer`] has written. It never reads behind the end, and takes no memory for a length
/// before the bytes are seen to be there.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the beginning of these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// Something is wrong here.
    #[must_use]
    pub fn wrong(&self, what: &'static str) -> Malformed {
        Malformed { what, at: self.at as u64 }
    }

    /// So many bytes.
    ///
    /// # Errors
    /// [`Malformed`]: fewer are left.
    pub fn raw(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count);
        let slice = end.and_then(|end| self.bytes.get(self.at..end));
        let slice = slice.ok_or(self.wrong("it ends too early"))?;
        self.at += count;
        Ok(slice)
    }

    /// A number of bytes that is known where this is compiled.
    ///
    /// # Errors
    /// [`Malformed`]: fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Two bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Sixteen bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn u128(&mut self) -> Result<u128, Malformed> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// 0 or 1.
    ///
    /// # Errors
    /// [`Malformed`]: it is neither.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.wrong("neither yes nor no")),
        }
    }

    /// A length of at most `max`, and so many bytes.
    ///
    /// # Errors
    /// [`Malformed`]: it is longer than that, or than what is left.
    pub fn bytes(&mut self, max: u32) -> Result<&'a [u8], Malformed> {
        let length = self.u32()?;
        if length > max {
            return Err(self.wrong("longer than it may be"));
        }
        self.raw(length as usize)
    }

    /// How many follow, at most `max`, each of at least `each` bytes.
    ///
    /// # Errors
    /// [`Malformed`]: more than that, or than the rest has room for.
    pub fn len(&mut self, max: u32, each: usize) -> Result<u32, Malformed> {
        let many = self.u32()?;
        let room = (self.bytes.len() - self.at) / each.max(1);
        if many > max || many as usize > room {
            return Err(self.wrong("more than there can be"));
        }
        Ok(many)
    }

    /// A node.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn node(&mut self) -> Result<NodeName, Malformed> {
        Ok(NodeName(self.array()?))
    }

    /// A shard.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn shard(&mut self) -> Result<ShardId, Malformed> {
        Ok(ShardId(self.array()?))
    }

    /// A time.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn time(&mut self) -> Result<Time, Malformed> {
        Ok(Time::from_nanos(self.u64()?))
    }

    /// A token.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn token(&mut self) -> Result<Token, Malformed> {
        Ok(Token(self.array()?))
    }

    /// A ratio.
    ///
    /// # Errors
    /// [`Malformed`]: above one.
    pub fn ratio(&mut self) -> Result<Ratio, Malformed> {
        let parts = self.u32()?;
        if parts > Ratio::ONE.parts_per_million() {
            return Err(self.wrong("a ratio above one"));
        }
        Ok(Ratio::per_million(parts))
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// [`Malformed`]: something is.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.wrong("something is left")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_no_length_is_believed() {
        let mut writer = Writer::default();
        writer.u8(1).u16(2).u32(3).u64(4).u128(5).bool(true).bytes(b"six").len(1).raw(&[7; 16]);
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.u8(), reader.u16(), reader.u32()), (Ok(1), Ok(2), Ok(3)));
        assert_eq!((reader.u64(), reader.u128(), reader.bool()), (Ok(4), Ok(5), Ok(true)));
        assert_eq!((reader.bytes(3), reader.len(1, 16)), (Ok(&b"six"[..]), Ok(1)));
        assert!(reader.end().is_err());
        assert_eq!((reader.token(), reader.end()), (Ok(Token([7; 16])), Ok(())));
        let long = [0xFF; 8];
        assert!(Reader::new(&long).bytes(u32::MAX).is_err());
        assert!(Reader::new(&long).len(u32::MAX, 1).is_err());
        assert!(Reader::new(&long).bool().is_err() && Reader::new(&long).ratio().is_err());
        assert!(Reader::new(&long).raw(usize::MAX).is_err());
    }
}
