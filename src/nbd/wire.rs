//! The bytes of NBD: every structure of the protocol with its parser and its emitter, for servers and clients.
//!
//! Owns: the numbers of the protocol and the layout of each message. Decides nothing and does no I/O. All integers
//! are big-endian. A parser never trusts a length: it takes a slice and answers `Truncated` when that ends early.
//! Sections named here are those of the protocol reference: Values (2), handshake (4), options (5 to 7),
//! transmission (11) and extended headers (16).

pub mod number;
pub mod option;
pub mod transmission;

pub use option::{
    ExportNameReply, ExportQuery, Greeting, InfoItem, MetaContext, MetaQuery, OptionHeader,
    OptionReplyHeader, ServerEntry,
};
pub use transmission::{
    ChunkHeader, ErrorPayload, Extent, HolePayload, Request, SimpleReply, StatusPayload, StatusQuery,
};

use crate::base::limits::NBD_STRING_MAX;

/// Why bytes are not the structure that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// More bytes are needed.
    #[error("the structure ends early")]
    Truncated,
    /// The magic number is another one: the stream cannot be resynchronised.
    #[error("wrong magic number")]
    Magic,
    /// Lengths inside contradict each other or the whole.
    #[error("lengths do not add up")]
    Length,
    /// A string is longer than the protocol allows.
    #[error("string too long")]
    TooLong,
    /// A string is not UTF-8, or contains NUL.
    #[error("not a valid string")]
    Text,
}

/// How the server answers requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplyMode {
    #[default]
    Simple,
    Structured,
    Extended,
}

impl ReplyMode {
    /// Bytes of a request without its payload.
    pub const fn request_len(self) -> usize {
        match self {
            ReplyMode::Simple | ReplyMode::Structured => Request::COMPACT_LEN,
            ReplyMode::Extended => Request::EXTENDED_LEN,
        }
    }

    /// Bytes of a chunk header. In `Simple` there are no chunks: the length of a simple reply.
    pub const fn reply_len(self) -> usize {
        match self {
            ReplyMode::Simple => SimpleReply::LEN,
            ReplyMode::Structured => ChunkHeader::STRUCTURED_LEN,
            ReplyMode::Extended => ChunkHeader::EXTENDED_LEN,
        }
    }
}

/// A string of the protocol (section 2.5): at most 4096 bytes of UTF-8 without NUL.
pub fn text(bytes: &[u8]) -> Result<&str, WireError> {
    if bytes.len() > NBD_STRING_MAX {
        return Err(WireError::TooLong);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        Ok(_) | Err(_) => Err(WireError::Text),
    }
}

/// Takes big-endian fields from the front of a slice.
#[derive(Clone)]
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string with a 32-bit length before it.
    fn text(&mut self) -> Result<&'a str, WireError> {
        let len = usize::try_from(self.u32()?).map_err(|_| WireError::Truncated)?;
        text(self.bytes(len)?)
    }
}

/// Inside a structure whose length was announced, an early end is a contradiction, not a wait for more.
fn complete<T>(result: Result<T, WireError>) -> Result<T, WireError> {
    result.map_err(|error| match error {
        WireError::Truncated => WireError::Length,
        WireError::Magic | WireError::Length | WireError::TooLong | WireError::Text => error,
    })
}

/// The length of something that this program emits and that its limits keep far below 4 GiB.
fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("emitted structures are bounded by the limits")
}

/// Fills a fixed array from parts whose lengths add up to it.
fn concat<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    let mut at = 0;
    for part in parts {
        out[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    assert_eq!(at, N, "the parts fill the structure");
    out
}

/// Feeds any bytes to every parser: none may panic, and what parses must have come from those bytes.
pub fn fuzz_wire(bytes: &[u8]) {
    // What comes out does not matter here; that nothing panics does.
    let _ = (Greeting::parse(bytes), OptionHeader::parse(bytes), OptionReplyHeader::parse(bytes));
    let _ = (ExportNameReply::parse(bytes), ExportQuery::parse(bytes), MetaQuery::parse(bytes, 2));
    let _ = (InfoItem::parse(bytes), ServerEntry::parse(bytes), MetaContext::parse(bytes));
    let _ = (SimpleReply::parse(bytes), HolePayload::parse(bytes), StatusQuery::parse(bytes));
    let _ = (ErrorPayload::parse(bytes, true), StatusPayload::parse(bytes, bytes.len().is_multiple_of(2)));
    let _ = (ChunkHeader::parse_structured(bytes), ChunkHeader::parse_extended(bytes));
    if let Ok(request) = Request::parse(ReplyMode::Extended, bytes) {
        assert_eq!(request.emit_extended().as_slice(), &bytes[..Request::EXTENDED_LEN]);
    }
}

#[cfg(test)]
mod tests;
