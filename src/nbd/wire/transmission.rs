//! Requests and replies of the transmission phase (sections 11 and 16).

use super::number::{
    EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use super::{Fields, ReplyMode, WireError, complete, concat};

/// A request without its payload, as it stands on the wire: nothing is checked but the magic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub flags: u16,
    pub command: u16,
    /// The client's name for the request; echoed bit for bit.
    pub cookie: u64,
    pub offset: u64,
    /// Bytes of payload if the request carries one, else bytes that the command is about.
    pub len: u64,
}

impl Request {
    pub const COMPACT_LEN: usize = 28;
    pub const EXTENDED_LEN: usize = 32;

    /// Parses the form of this mode. Truncated input with a wrong magic is reported as such once 4 bytes are there.
    pub fn parse(mode: ReplyMode, bytes: &[u8]) -> Result<Request, WireError> {
        let extended = mode == ReplyMode::Extended;
        let mut f = Fields::new(bytes);
        if f.u32()? != if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC } {
            return Err(WireError::Magic);
        }
        let (flags, command, cookie, offset) = (f.u16()?, f.u16()?, f.u64()?, f.u64()?);
        let len = if extended { f.u64()? } else { u64::from(f.u32()?) };
        Ok(Request { flags, command, cookie, offset, len })
    }

    /// The compact form.
    ///
    /// # Panics
    /// If the length does not fit 32 bits: only extended headers can say that.
    pub fn emit_compact(&self) -> [u8; Self::COMPACT_LEN] {
        let len = u32::try_from(self.len).expect("compact requests have 32-bit lengths");
        concat(&[
            &REQUEST_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.command.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &len.to_be_bytes(),
        ])
    }

    pub fn emit_extended(&self) -> [u8; Self::EXTENDED_LEN] {
        concat(&[
            &EXTENDED_REQUEST_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.command.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }
}

/// A simple reply without its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimpleReply {
    /// 0 for success, else the number of an `NbdError`.
    pub error: u32,
    pub cookie: u64,
}

impl SimpleReply {
    pub const LEN: usize = 16;

    pub fn emit(self) -> [u8; Self::LEN] {
        concat(&[&SIMPLE_REPLY_MAGIC.to_be_bytes(), &self.error.to_be_bytes(), &self.cookie.to_be_bytes()])
    }

    pub fn parse(bytes: &[u8]) -> Result<SimpleReply, WireError> {
        let mut f = Fields::new(bytes);
        if f.u32()? != SIMPLE_REPLY_MAGIC {
            return Err(WireError::Magic);
        }
        Ok(SimpleReply { error: f.u32()?, cookie: f.u64()? })
    }
}

/// A structured or extended chunk without its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkHeader {
    pub flags: u16,
    pub kind: u16,
    pub cookie: u64,
    /// The request's offset. Only the extended form carries it: 0 when a structured chunk was parsed.
    pub offset: u64,
    /// Bytes of payload.
    pub len: u64,
}

impl ChunkHeader {
    pub const STRUCTURED_LEN: usize = 20;
    pub const EXTENDED_LEN: usize = 32;

    /// The structured form.
    ///
    /// # Panics
    /// If the length does not fit 32 bits.
    pub fn emit_structured(&self) -> [u8; Self::STRUCTURED_LEN] {
        let len = u32::try_from(self.len).expect("structured chunks have 32-bit lengths");
        concat(&[
            &STRUCTURED_REPLY_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.kind.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &len.to_be_bytes(),
        ])
    }

    pub fn emit_extended(&self) -> [u8; Self::EXTENDED_LEN] {
        concat(&[
            &EXTENDED_REPLY_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.kind.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }

    pub fn parse_structured(bytes: &[u8]) -> Result<ChunkHeader, WireError> {
        let mut f = Fields::new(bytes);
        if f.u32()? != STRUCTURED_REPLY_MAGIC {
            return Err(WireError::Magic);
        }
        let (flags, kind, cookie) = (f.u16()?, f.u16()?, f.u64()?);
        Ok(ChunkHeader { flags, kind, cookie, offset: 0, len: u64::from(f.u32()?) })
    }

    pub fn parse_extended(bytes: &[u8]) -> Result<ChunkHeader, WireError> {
        let mut f = Fields::new(bytes);
        if f.u32()? != EXTENDED_REPLY_MAGIC {
            return Err(WireError::Magic);
        }
        let (flags, kind, cookie) = (f.u16()?, f.u16()?, f.u64()?);
        Ok(ChunkHeader { flags, kind, cookie, offset: f.u64()?, len: f.u64()? })
    }
}

/// The payload of OFFSET_HOLE. (That of OFFSET_DATA is a u64 offset, `DATA_OFFSET_LEN` bytes, then the data.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HolePayload {
    pub offset: u64,
    pub len: u32,
}

/// Bytes of the offset at the start of an OFFSET_DATA payload.
pub const DATA_OFFSET_LEN: usize = 8;

impl HolePayload {
    pub const LEN: usize = 12;

    pub fn emit(self) -> [u8; Self::LEN] {
        concat(&[&self.offset.to_be_bytes(), &self.len.to_be_bytes()])
    }

    /// `payload` is the whole payload of the chunk.
    pub fn parse(payload: &[u8]) -> Result<HolePayload, WireError> {
        if payload.len() != Self::LEN {
            return Err(WireError::Length);
        }
        let mut f = Fields::new(payload);
        Ok(HolePayload { offset: f.u64()?, len: f.u32()? })
    }
}

/// The payload of any error chunk: of ERROR, of ERROR_OFFSET, and of types not known yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorPayload<'a> {
    pub error: u32,
    /// Text for people; raw, because a peer may have cut it anywhere.
    pub message: &'a [u8],
    /// Where the error is, in ERROR_OFFSET.
    pub offset: Option<u64>,
}

impl<'a> ErrorPayload<'a> {
    /// Bytes before the message.
    pub const HEAD_LEN: usize = 6;

    /// `payload` is the whole payload; `with_offset` says that the chunk is an ERROR_OFFSET.
    pub fn parse(payload: &'a [u8], with_offset: bool) -> Result<ErrorPayload<'a>, WireError> {
        complete(Self::parse_fields(payload, with_offset))
    }

    fn parse_fields(payload: &'a [u8], with_offset: bool) -> Result<ErrorPayload<'a>, WireError> {
        let mut f = Fields::new(payload);
        let error = f.u32()?;
        let len = usize::from(f.u16()?);
        let message = f.bytes(len)?;
        let offset = if with_offset { Some(f.u64()?) } else { None };
        Ok(ErrorPayload { error, message, offset })
    }
}

/// One extent of a BLOCK_STATUS reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    pub len: u64,
    pub status: u64,
}

/// The payload of BLOCK_STATUS and BLOCK_STATUS_EXT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusPayload {
    pub context: u32,
    pub extents: Vec<Extent>,
}

impl StatusPayload {
    /// Bytes of one extent in the compact and in the extended form.
    pub const EXTENT_LEN: usize = 8;
    pub const EXTENT_LEN_EXTENDED: usize = 16;

    /// `payload` is the whole payload of the chunk; its length bounds the number of extents.
    pub fn parse(payload: &[u8], extended: bool) -> Result<StatusPayload, WireError> {
        complete(Self::parse_fields(payload, extended))
    }

    fn parse_fields(payload: &[u8], extended: bool) -> Result<StatusPayload, WireError> {
        let mut f = Fields::new(payload);
        let context = f.u32()?;
        let announced = if extended { Some(f.u32()?) } else { None };
        let size = if extended { Self::EXTENT_LEN_EXTENDED } else { Self::EXTENT_LEN };
        let count = f.rest.len() / size;
        let whole = f.rest.len().is_multiple_of(size) && count > 0;
        if !whole || announced.is_some_and(|n| u64::from(n) != count as u64) {
            // usize to u64 above is widening.
            return Err(WireError::Length);
        }
        let mut extents = Vec::with_capacity(count);
        for _ in 0..count {
            extents.push(match extended {
                true => Extent { len: f.u64()?, status: f.u64()? },
                false => Extent { len: u64::from(f.u32()?), status: u64::from(f.u32()?) },
            });
        }
        Ok(StatusPayload { context, extents })
    }
}

/// The payload of a BLOCK_STATUS request with PAYLOAD_LEN (section 16): which contexts are asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusQuery {
    /// Bytes that the command is about.
    pub len: u64,
    pub contexts: Vec<u32>,
}

impl StatusQuery {
    /// `payload` is the whole payload of the request.
    pub fn parse(payload: &[u8]) -> Result<StatusQuery, WireError> {
        complete(Self::parse_fields(payload))
    }

    fn parse_fields(payload: &[u8]) -> Result<StatusQuery, WireError> {
        let mut f = Fields::new(payload);
        let len = f.u64()?;
        if !f.rest.len().is_multiple_of(4) {
            return Err(WireError::Length);
        }
        let mut contexts = Vec::with_capacity(f.rest.len() / 4);
        while !f.rest.is_empty() {
            contexts.push(f.u32()?);
        }
        Ok(StatusQuery { len, contexts })
    }

    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.len.to_be_bytes());
        self.contexts.iter().for_each(|id| out.extend_from_slice(&id.to_be_bytes()));
    }
}
