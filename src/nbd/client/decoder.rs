//! What the server sends during transmission, checked against what was asked (sections 11, 16 and 20.8). Pure.
//!
//! Owns the table of requests in flight. The decoder is fed the stream in pieces of any size; when data of a READ
//! begins, it says how many bytes follow and for what, and the caller moves them out of the stream itself. Any
//! error it returns means that the stream cannot be trusted any more: the connection must end.

use crate::base::units::Span;
use crate::nbd::wire::number::{
    CHUNK_DONE, EXTENDED_REPLY_MAGIC, NbdError, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk,
};
use crate::nbd::wire::transmission::DATA_OFFSET_LEN;
use crate::nbd::wire::{
    ChunkHeader, ErrorPayload, Extent, HolePayload, ReplyMode, SimpleReply, StatusPayload, WireError,
};
use slab::Slab;

/// Bytes of an error chunk's text and frame that are accepted (section 20.9).
const ERROR_PAYLOAD_MAX: u64 = 6 + 4096 + 8;

/// Bytes of a status chunk that are accepted: 2^20 extents (section 20.9).
const STATUS_EXTENTS_MAX: u64 = 1 << 20;

/// Separate pieces that one READ may be answered in at the same time.
const PIECES_MAX: usize = 4096;

/// What a server did that the protocol forbids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    #[error("a reply with an unknown magic number")]
    Magic,
    #[error("a reply to a request that was not made, or was answered already")]
    Cookie,
    #[error("a kind of reply that was not agreed on or does not fit the request")]
    Kind,
    #[error("a chunk whose length cannot be right")]
    Length,
    #[error("a chunk outside the range that was asked for")]
    Range,
    #[error("two chunks for the same bytes")]
    Overlap,
    #[error("a successful answer that leaves out bytes")]
    Missing,
    #[error("an error chunk without an error")]
    NoError,
    #[error("extents that do not add up")]
    Extents,
    #[error("a structure that cannot be parsed")]
    Malformed,
    #[error("bytes that nobody asked for")]
    Unasked,
}

impl From<WireError> for Violation {
    fn from(_: WireError) -> Violation {
        Violation::Malformed
    }
}

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    Read(Span),
    Status(Span),
    /// Anything whose success has no content.
    Effect,
}

/// A request in flight, for the caller's own table. Never reused while the request is in flight.
pub type Key = usize;

/// Something that the stream says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The next `len` bytes of the stream belong at `at` from the start of the request's span.
    Data { key: Key, at: u64, len: u64 },
    /// These bytes of the request's span are zeroes.
    Hole { key: Key, at: u64, len: u64 },
    /// The request has ended, with the extents if it asked for them.
    Done { key: Key, outcome: Result<Vec<Extent>, NbdError> },
}

struct Pending {
    generation: u32,
    asked: Asked,
    covered: Covered,
    error: Option<NbdError>,
    extents: Option<Vec<Extent>>,
}

enum State {
    Header,
    /// Collecting the head of a chunk's payload: all of it, or the offset of its data.
    Body {
        header: ChunkHeader,
        key: Key,
        need: usize,
    },
    /// The content of the last chunk was announced; the request ends when the caller has moved it.
    Finish {
        key: Key,
    },
}

/// The receiving side of one connection.
pub struct Decoder {
    mode: ReplyMode,
    context: Option<u32>,
    size: u64,
    pending: Slab<Pending>,
    generation: u32,
    state: State,
    held: Vec<u8>,
}

impl Decoder {
    /// `context` is the id of the one metadata context that was selected, `size` that of the export.
    pub fn new(mode: ReplyMode, context: Option<u32>, size: u64) -> Decoder {
        let (pending, held) = (Slab::new(), Vec::new());
        Decoder { mode, context, size, pending, generation: 0, state: State::Header, held }
    }

    /// Registers a request; the cookie goes on the wire.
    pub fn expect(&mut self, asked: Asked) -> (Key, u64) {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let covered = Covered::default();
        let key = self.pending.insert(Pending { generation, asked, covered, error: None, extents: None });
        let low = u64::try_from(key).expect("a small table") & 0xffff_ffff;
        (key, u64::from(generation) << 32 | low)
    }

    /// Takes bytes from the front of the stream up to the next event; None means that all were taken and more
    /// are needed. After `Data` the caller moves the announced bytes before it calls again.
    pub fn next(&mut self, stream: &mut &[u8]) -> Result<Option<Event>, Violation> {
        loop {
            match self.state {
                State::Finish { key } => {
                    self.state = State::Header;
                    return self.finish(key).map(Some);
                }
                State::Header => {
                    let Some(event) = self.header(stream)? else { return Ok(None) };
                    if let Step::Event(event) = event {
                        return Ok(Some(event));
                    }
                }
                State::Body { header, key, need } => {
                    if !self.collect(stream, need) {
                        return Ok(None);
                    }
                    let body = std::mem::take(&mut self.held);
                    let event = self.body(header, key, &body);
                    self.held = body;
                    self.held.clear();
                    if let Step::Event(event) = event? {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// Collects `need` bytes in `held`; false when the stream ended first.
    fn collect(&mut self, stream: &mut &[u8], need: usize) -> bool {
        let take = (need - self.held.len()).min(stream.len());
        let (head, tail) = stream.split_at(take);
        self.held.extend_from_slice(head);
        *stream = tail;
        self.held.len() == need
    }

    fn header(&mut self, stream: &mut &[u8]) -> Result<Option<Step>, Violation> {
        if self.held.len() < 4 && !self.collect(stream, 4) {
            return Ok(None);
        }
        let magic = u32::from_be_bytes(self.held[..4].try_into().expect("four bytes"));
        let simple = match (magic, self.mode) {
            (SIMPLE_REPLY_MAGIC, ReplyMode::Simple | ReplyMode::Structured) => true,
            (STRUCTURED_REPLY_MAGIC, ReplyMode::Structured) | (EXTENDED_REPLY_MAGIC, ReplyMode::Extended) => {
                false
            }
            _ => return Err(Violation::Magic),
        };
        let need = if simple { SimpleReply::LEN } else { self.mode.reply_len() };
        if !self.collect(stream, need) {
            return Ok(None);
        }
        let step = match simple {
            true => SimpleReply::parse(&self.held).map_err(Violation::from).and_then(|r| self.simple(r)),
            false => match self.mode {
                ReplyMode::Extended => ChunkHeader::parse_extended(&self.held),
                ReplyMode::Simple | ReplyMode::Structured => ChunkHeader::parse_structured(&self.held),
            }
            .map_err(Violation::from)
            .and_then(|header| self.chunk(header)),
        };
        self.held.clear();
        step.map(Some)
    }

    fn lookup(&self, cookie: u64) -> Result<Key, Violation> {
        let key = usize::try_from(cookie & 0xffff_ffff).map_err(|_| Violation::Cookie)?;
        let known = self.pending.get(key).filter(|p| u64::from(p.generation) == cookie >> 32);
        known.map(|_| key).ok_or(Violation::Cookie)
    }

    fn simple(&mut self, reply: SimpleReply) -> Result<Step, Violation> {
        let key = self.lookup(reply.cookie)?;
        let pending = &mut self.pending[key];
        let structured = self.mode != ReplyMode::Simple;
        match (pending.asked, reply.error) {
            (Asked::Read(_), _) if structured => Err(Violation::Kind),
            (Asked::Status(_), 0) => Err(Violation::Kind),
            (Asked::Read(span), 0) => {
                pending.covered.add(0, span.len().0)?;
                self.state = State::Finish { key };
                Ok(Step::Event(Event::Data { key, at: 0, len: span.len().0 }))
            }
            (Asked::Effect, 0) => self.finish(key).map(Step::Event),
            (Asked::Read(_) | Asked::Status(_) | Asked::Effect, error) => {
                pending.error = Some(known_error(error));
                self.finish(key).map(Step::Event)
            }
        }
    }

    /// Checks a chunk's header against its request and says what of its payload to collect.
    fn chunk(&mut self, header: ChunkHeader) -> Result<Step, Violation> {
        let key = self.lookup(header.cookie)?;
        let asked = self.pending[key].asked;
        let extended = self.mode == ReplyMode::Extended;
        if let (true, Asked::Read(span) | Asked::Status(span)) = (extended, asked)
            && header.offset != span.offset().0
        {
            return Err(Violation::Range);
        }
        let need = match (header.kind, asked) {
            (chunk::NONE, _) => {
                if header.len != 0 || header.flags & CHUNK_DONE == 0 {
                    return Err(Violation::Length);
                }
                return self.finish(key).map(Step::Event);
            }
            (chunk::OFFSET_DATA, Asked::Read(span)) => {
                let head = DATA_OFFSET_LEN as u64; // 8
                let fits = header.len > head && header.len - head <= span.len().0;
                if fits { head } else { return Err(Violation::Length) }
            }
            (chunk::OFFSET_HOLE, Asked::Read(_)) => {
                let whole = HolePayload::LEN as u64; // 12
                if header.len == whole { whole } else { return Err(Violation::Length) }
            }
            (chunk::BLOCK_STATUS, Asked::Status(_)) if !extended => status_need(header.len, false)?,
            (chunk::BLOCK_STATUS_EXT, Asked::Status(_)) if extended => status_need(header.len, true)?,
            (kind, _) if kind & chunk::ERROR_BIT != 0 => {
                if header.len > ERROR_PAYLOAD_MAX {
                    return Err(Violation::Length);
                }
                header.len
            }
            (_, Asked::Read(_) | Asked::Status(_) | Asked::Effect) => return Err(Violation::Kind),
        };
        let need = usize::try_from(need).map_err(|_| Violation::Length)?;
        self.state = State::Body { header, key, need };
        Ok(Step::Again)
    }

    /// The collected head of a payload.
    fn body(&mut self, header: ChunkHeader, key: Key, body: &[u8]) -> Result<Step, Violation> {
        let done = header.flags & CHUNK_DONE != 0;
        self.state = if done { State::Finish { key } } else { State::Header };
        let pending = &mut self.pending[key];
        match (header.kind, pending.asked) {
            (chunk::OFFSET_DATA, Asked::Read(span)) => {
                let offset = u64::from_be_bytes(body.try_into().expect("collected eight bytes"));
                let len = header.len - DATA_OFFSET_LEN as u64; // 8
                let at = within(span, offset, len)?;
                pending.covered.add(at, len)?;
                Ok(Step::Event(Event::Data { key, at, len }))
            }
            (chunk::OFFSET_HOLE, Asked::Read(span)) => {
                let hole = HolePayload::parse(body)?;
                let len = u64::from(hole.len);
                let at = within(span, hole.offset, len)?;
                pending.covered.add(at, len)?;
                Ok(Step::Event(Event::Hole { key, at, len }))
            }
            (chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT, Asked::Status(span)) => {
                let status = StatusPayload::parse(body, self.mode == ReplyMode::Extended)?;
                if Some(status.context) != self.context || pending.extents.is_some() {
                    return Err(Violation::Extents);
                }
                check_extents(&status.extents, span, self.size)?;
                pending.extents = Some(status.extents);
                Ok(Step::Again)
            }
            (kind, asked) => {
                let error = ErrorPayload::parse(body, kind == chunk::ERROR_OFFSET)?;
                let outside = |span: Span| error.offset.is_some_and(|at| within(span, at, 0).is_err());
                match asked {
                    Asked::Read(span) if outside(span) => return Err(Violation::Range),
                    Asked::Read(_) | Asked::Status(_) | Asked::Effect => {}
                }
                if error.error == 0 {
                    return Err(Violation::NoError);
                }
                pending.error.get_or_insert(known_error(error.error));
                Ok(Step::Again)
            }
        }
    }

    fn finish(&mut self, key: Key) -> Result<Event, Violation> {
        let pending = self.pending.remove(key);
        let outcome = match (pending.error, pending.asked) {
            (Some(error), _) => Err(error),
            (None, Asked::Read(span)) if !pending.covered.is_all(span.len().0) => {
                return Err(Violation::Missing);
            }
            (None, Asked::Status(_)) => Ok(pending.extents.ok_or(Violation::Missing)?),
            (None, Asked::Read(_) | Asked::Effect) => Ok(Vec::new()),
        };
        Ok(Event::Done { key, outcome })
    }
}

enum Step {
    Event(Event),
    /// Nothing to tell yet.
    Again,
}

/// Errors outside the protocol's list mean EINVAL (section 13).
fn known_error(error: u32) -> NbdError {
    NbdError::from_wire(error).unwrap_or(NbdError::Invalid)
}

fn status_need(len: u64, extended: bool) -> Result<u64, Violation> {
    let (head, each) = match extended {
        true => (8, StatusPayload::EXTENT_LEN_EXTENDED as u64), // 16
        false => (4, StatusPayload::EXTENT_LEN as u64),         // 8
    };
    let fits = len >= head + each && len <= head + each * STATUS_EXTENTS_MAX;
    if fits { Ok(len) } else { Err(Violation::Length) }
}

/// Where an absolute range of a chunk lies in the span that was asked for.
fn within(span: Span, offset: u64, len: u64) -> Result<u64, Violation> {
    let at = offset.checked_sub(span.offset().0).ok_or(Violation::Range)?;
    let end = at.checked_add(len).ok_or(Violation::Range)?;
    if end <= span.len().0 { Ok(at) } else { Err(Violation::Range) }
}

/// Section 10.3: no empty extent, nothing past the export, only the last may reach past what was asked.
fn check_extents(extents: &[Extent], span: Span, size: u64) -> Result<(), Violation> {
    let mut sum = 0u64;
    for extent in extents {
        if extent.len == 0 || sum >= span.len().0 {
            return Err(Violation::Extents);
        }
        sum = sum.checked_add(extent.len).ok_or(Violation::Extents)?;
    }
    let end = span.offset().0.checked_add(sum).ok_or(Violation::Extents)?;
    if end <= size { Ok(()) } else { Err(Violation::Extents) }
}

/// Which bytes of a READ have arrived: disjoint ranges, ascending, never touching.
#[derive(Default)]
struct Covered {
    ranges: Vec<(u64, u64)>,
}

impl Covered {
    fn add(&mut self, start: u64, len: u64) -> Result<(), Violation> {
        if len == 0 {
            return Err(Violation::Length);
        }
        let end = start + len; // both were checked to lie within the request
        let at = self.ranges.partition_point(|(_, e)| *e < start);
        let after = self.ranges.partition_point(|(s, _)| *s <= end);
        let touching = &self.ranges[at..after];
        if touching.iter().any(|(s, e)| *s < end && start < *e) {
            return Err(Violation::Overlap);
        }
        let merged = touching.iter().fold((start, end), |(a, b), (s, e)| (a.min(*s), b.max(*e)));
        self.ranges.splice(at..after, [merged]);
        if self.ranges.len() > PIECES_MAX { Err(Violation::Length) } else { Ok(()) }
    }

    fn is_all(&self, len: u64) -> bool {
        self.ranges.as_slice() == [(0, len)]
    }
}

/// Feeds any bytes to a decoder with one request of each kind in flight, in pieces: nothing may panic, and the
/// announced data never exceeds what was asked for.
pub fn fuzz_decoder(mode: ReplyMode, bytes: &[u8], piece: usize) {
    let mut decoder = Decoder::new(mode, Some(1), 1 << 20);
    for asked in [Asked::Read(Span::at(4096, 64)), Asked::Status(Span::at(0, 4096)), Asked::Effect] {
        decoder.expect(asked);
    }
    let mut skip = 0u64;
    for chunk in bytes.chunks(piece.max(1)) {
        let mut stream = chunk;
        loop {
            let moved = usize::try_from(skip).map_or(stream.len(), |skip| skip.min(stream.len()));
            skip -= u64::try_from(moved).expect("a slice");
            stream = &stream[moved..];
            if skip > 0 {
                break;
            }
            match decoder.next(&mut stream) {
                Ok(Some(Event::Data { at, len, .. })) => {
                    assert!(at + len <= 64, "data within the request");
                    skip = len;
                }
                Ok(Some(Event::Hole { .. } | Event::Done { .. })) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}
