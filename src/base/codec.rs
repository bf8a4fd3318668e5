//! Reading and writing little-endian structures of variable length, with every read bounds-checked.

/// The bytes ended early or held a value that their type does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed structure")]
pub struct Malformed;

/// Takes fields from the front of a byte slice.
#[derive(Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[b]| b)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn uuid(&mut self) -> Result<uuid::Uuid, Malformed> {
        self.array().map(uuid::Uuid::from_bytes)
    }

    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// A string of at most `max` bytes with a 16-bit length before it.
    pub fn string(&mut self, max: usize) -> Result<String, Malformed> {
        let len = usize::from(self.u16()?);
        if len > max {
            return Err(Malformed);
        }
        std::str::from_utf8(self.bytes(len)?).map(str::to_owned).map_err(|_| Malformed)
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Checks that nothing is left.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Appends fields to a byte vector.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn u8(&mut self, v: u8) -> &mut Writer {
        self.bytes(&[v])
    }

    pub fn u16(&mut self, v: u16) -> &mut Writer {
        self.bytes(&v.to_le_bytes())
    }

    pub fn u32(&mut self, v: u32) -> &mut Writer {
        self.bytes(&v.to_le_bytes())
    }

    pub fn u64(&mut self, v: u64) -> &mut Writer {
        self.bytes(&v.to_le_bytes())
    }

    pub fn uuid(&mut self, v: uuid::Uuid) -> &mut Writer {
        self.bytes(v.as_bytes())
    }

    pub fn bool(&mut self, v: bool) -> &mut Writer {
        self.u8(u8::from(v))
    }

    /// A string with its 16-bit length before it.
    ///
    /// # Panics
    /// If it is longer than 65535 bytes; names are bounded long before.
    pub fn string(&mut self, v: &str) -> &mut Writer {
        self.u16(u16::try_from(v.len()).expect("names are bounded"));
        self.bytes(v.as_bytes())
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_round_trip_and_truncation_is_malformed_at_every_length() {
        let mut w = Writer::new();
        w.u8(1).u16(2).u32(3).u64(4).bool(true).string("tank");
        let bytes = w.finish();
        let read = |bytes: &[u8]| -> Result<(u64, String), Malformed> {
            let mut r = Reader::new(bytes);
            let sum = u64::from(r.u8()?) + u64::from(r.u16()?) + u64::from(r.u32()?) + r.u64()?;
            r.bool()?;
            let name = r.string(64)?;
            r.finish()?;
            Ok((sum, name))
        };
        assert_eq!(read(&bytes), Ok((10, "tank".to_owned())));
        assert!((0..bytes.len()).all(|len| read(&bytes[..len]) == Err(Malformed)));
    }
}
