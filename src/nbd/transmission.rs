//! Transmission (sections 11 to 13 and 16) without I/O: what to do about a request, and the bytes of replies.
//!
//! `judge` checks in the order of section 13 and says how the connection goes on. `ReplyTo` emits the headers of
//! all replies to one request; bulk data is never copied here, it follows its header as buffers of its own.

use super::wire::number::{CHUNK_DONE, Command, NbdError, allocation, chunk, request};
use super::wire::{
    ChunkHeader, ErrorPayload, HolePayload, ReplyMode, Request, SimpleReply, StatusPayload, StatusQuery,
};
use crate::base::limits::{PAYLOAD_DRAIN_MAX, PAYLOAD_MAX, STATUS_EXTENTS_MAX};
use crate::base::units::{ByteLen, ByteOffset, Span};
use crate::block::{AllocationRun, Status, WriteFlags, ZeroFlags};
use crate::link::{HEAD_MAX, Head};
use smallvec::SmallVec;

/// What negotiation left for judging requests.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub mode: ReplyMode,
    /// The alignment that the client promised to keep; 1 if none.
    pub alignment: u32,
    pub read_only: bool,
    /// The id of `base:allocation`, if it was selected.
    pub allocation_context: Option<u32>,
}

/// What a volume is asked to do; ranges and flags are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The answer is known without asking: the length is zero, or there is no cache to fill.
    Nothing,
    Read {
        span: Span,
        /// One content chunk only (DF).
        whole: bool,
    },
    Write {
        span: Span,
        flags: WriteFlags,
    },
    Flush,
    Trim {
        span: Span,
        flags: WriteFlags,
    },
    Zero {
        span: Span,
        flags: ZeroFlags,
    },
    Status {
        span: Span,
        /// One extent only (REQ_ONE).
        one: bool,
    },
}

/// How the connection goes on after a request's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Execute. A `Write` has its span's length of payload behind the header.
    Run(Action),
    /// Take this many bytes of payload as a `StatusQuery`, then ask `judge_query`.
    Query { payload: usize },
    /// Drop the payload and answer with an error.
    Refuse { error: NbdError, payload: u64 },
    /// The client leaves (DISC).
    Disconnect,
    /// The client broke a rule that leaves no way to go on.
    Close,
}

/// Decides about a request, for a volume of this size.
pub fn judge(request: &Request, terms: &Terms, size: ByteLen, stopping: bool) -> Verdict {
    let command = Command::from_wire(request.command);
    if command == Some(Command::Disconnect) {
        return Verdict::Disconnect;
    }
    let payload = if carries_payload(request, terms.mode) { request.len } else { 0 };
    let refuse = |error| Verdict::Refuse { error, payload };
    let extended = terms.mode == ReplyMode::Extended;
    if payload > PAYLOAD_DRAIN_MAX || (extended && payload > PAYLOAD_MAX) {
        return Verdict::Close;
    }
    if stopping {
        return refuse(NbdError::Shutdown);
    }
    let Some(command) = command else { return refuse(NbdError::Invalid) };
    if payload > PAYLOAD_MAX || request.flags & !known_flags(command, terms) != 0 {
        return refuse(NbdError::Invalid);
    }
    if command == Command::BlockStatus && request.flags & request::PAYLOAD_LEN != 0 {
        return judge_query_len(payload);
    }
    match check(request, command, terms, size) {
        Ok(span) => Verdict::Run(action(request, command, span)),
        Err(error) => refuse(error),
    }
}

/// Decides about a BLOCK_STATUS whose contexts came as payload (section 16).
pub fn judge_query(request: &Request, payload: &[u8], terms: &Terms, size: ByteLen) -> Verdict {
    let refuse = Verdict::Refuse { error: NbdError::Invalid, payload: 0 };
    let Ok(query) = StatusQuery::parse(payload) else { return refuse };
    // There is one context: asking for another, for none, or for this one twice, is invalid.
    if terms.allocation_context.is_none() || query.contexts.as_slice() != terms.allocation_context.as_slice()
    {
        return refuse;
    }
    let request = Request { len: query.len, ..*request };
    match check(&request, Command::BlockStatus, terms, size) {
        Ok(span) => Verdict::Run(action(&request, Command::BlockStatus, span)),
        Err(error) => Verdict::Refuse { error, payload: 0 },
    }
}

fn judge_query_len(payload: u64) -> Verdict {
    // Room for a few ids more than there are contexts; what is longer is wrong whatever it says.
    match usize::try_from(payload) {
        Ok(payload @ 12..=64) => Verdict::Query { payload },
        Ok(_) | Err(_) => Verdict::Refuse { error: NbdError::Invalid, payload },
    }
}

/// Whether `len` bytes of payload follow the header. A WRITE without PAYLOAD_LEN is tolerated.
fn carries_payload(request: &Request, mode: ReplyMode) -> bool {
    let announced = mode == ReplyMode::Extended && request.flags & request::PAYLOAD_LEN != 0;
    announced || Command::from_wire(request.command) == Some(Command::Write)
}

fn known_flags(command: Command, terms: &Terms) -> u16 {
    let extended = terms.mode == ReplyMode::Extended;
    let own = match command {
        Command::Read if terms.mode != ReplyMode::Simple => request::DF,
        Command::Write if extended => request::PAYLOAD_LEN,
        Command::WriteZeroes => request::NO_HOLE | request::FAST_ZERO,
        Command::BlockStatus if extended && terms.allocation_context.is_some() => {
            request::REQ_ONE | request::PAYLOAD_LEN
        }
        Command::BlockStatus => request::REQ_ONE,
        Command::Read
        | Command::Write
        | Command::Disconnect
        | Command::Flush
        | Command::Trim
        | Command::Cache => 0,
    };
    own | request::FUA
}

/// Checks 4 to 6 of section 13; the answer is the span the command is about.
fn check(request: &Request, command: Command, terms: &Terms, size: ByteLen) -> Result<Span, NbdError> {
    let writes = matches!(command, Command::Write | Command::Trim | Command::WriteZeroes);
    if writes && terms.read_only {
        return Err(NbdError::Perm);
    }
    if command == Command::Flush {
        // Its offset and length should be zero and mean nothing.
        return Ok(Span::at(0, 0));
    }
    if command == Command::BlockStatus && terms.allocation_context.is_none() {
        return Err(NbdError::Invalid);
    }
    let beyond = match command {
        Command::Write | Command::WriteZeroes => NbdError::NoSpace,
        Command::Read
        | Command::Disconnect
        | Command::Flush
        | Command::Trim
        | Command::Cache
        | Command::BlockStatus => NbdError::Invalid,
    };
    let span = Span::new(ByteOffset(request.offset), ByteLen(request.len))
        .filter(|span| span.end().0 <= size.0)
        .ok_or(beyond)?;
    let unit = u64::from(terms.alignment);
    let moves_data = writes || command == Command::Read;
    if moves_data && !(span.offset().is_aligned(unit) && span.len().is_aligned(unit)) {
        return Err(NbdError::Invalid);
    }
    if command == Command::Read && request.len > PAYLOAD_MAX {
        return Err(NbdError::Invalid);
    }
    Ok(span)
}

fn action(request: &Request, command: Command, span: Span) -> Action {
    let has = |flag| request.flags & flag != 0;
    let flags = WriteFlags { fua: has(request::FUA) };
    match command {
        Command::Flush => Action::Flush,
        // A span of no bytes has no extents; what else it could mean, the document leaves open.
        _ if span.is_empty() => Action::Nothing,
        Command::Read => Action::Read { span, whole: has(request::DF) },
        Command::Write => Action::Write { span, flags },
        Command::Trim => Action::Trim { span, flags },
        Command::Cache | Command::Disconnect => Action::Nothing,
        Command::WriteZeroes => Action::Zero {
            span,
            flags: ZeroFlags {
                fua: flags.fua,
                allocate: has(request::NO_HOLE),
                fast_only: has(request::FAST_ZERO),
            },
        },
        Command::BlockStatus => Action::Status { span, one: has(request::REQ_ONE) },
    }
}

/// The error that a client is told for a volume's status (section 13).
pub fn error_of(status: Status) -> NbdError {
    match status {
        Status::OutOfRange => NbdError::Invalid,
        Status::NoSpace => NbdError::NoSpace,
        Status::Io => NbdError::Io,
        Status::ReadOnly => NbdError::Perm,
        Status::NotFast => NbdError::NotSup,
        Status::ShuttingDown => NbdError::Shutdown,
    }
}

const _: () = assert!(ChunkHeader::EXTENDED_LEN + ErrorPayload::HEAD_LEN + NbdError::TEXT_MAX <= HEAD_MAX);

/// What replies to one request must repeat, and the form they take.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTo {
    mode: ReplyMode,
    cookie: u64,
    offset: u64,
    /// READ and BLOCK_STATUS are answered in chunks where there are chunks, in errors too.
    chunked: bool,
}

impl ReplyTo {
    pub fn new(mode: ReplyMode, request: &Request) -> ReplyTo {
        let chunked = match Command::from_wire(request.command) {
            Some(Command::Read | Command::BlockStatus) => mode != ReplyMode::Simple,
            Some(
                Command::Write
                | Command::Disconnect
                | Command::Flush
                | Command::Trim
                | Command::Cache
                | Command::WriteZeroes,
            )
            | None => mode == ReplyMode::Extended,
        };
        ReplyTo { mode, cookie: request.cookie, offset: request.offset, chunked }
    }

    /// Success without content.
    pub fn done(&self) -> Head {
        match self.chunked {
            true => self.chunk(CHUNK_DONE, chunk::NONE, 0, &[]),
            false => self.simple(0),
        }
    }

    pub fn error(&self, error: NbdError) -> Head {
        if !self.chunked {
            return self.simple(error.to_wire());
        }
        let text = error.text();
        let text_len = u16::try_from(text.len()).expect("TEXT_MAX");
        let parts = [&error.to_wire().to_be_bytes()[..], &text_len.to_be_bytes(), text.as_bytes()];
        self.chunk(CHUNK_DONE, chunk::ERROR, 0, &parts)
    }

    /// The header of a part of a READ's answer. In simple mode there is one part, the whole.
    pub fn content(&self, section: &Section, last: bool) -> Head {
        if self.mode == ReplyMode::Simple {
            return self.simple(0);
        }
        let flags = if last { CHUNK_DONE } else { 0 };
        let offset = section.span.offset().0;
        if section.hole {
            let len = u32::try_from(section.span.len().0).expect("a READ is at most 32 MiB");
            return self.chunk(flags, chunk::OFFSET_HOLE, 0, &[&HolePayload { offset, len }.emit()]);
        }
        self.chunk(flags, chunk::OFFSET_DATA, section.span.len().0, &[&offset.to_be_bytes()])
    }

    /// The header of the only chunk of a BLOCK_STATUS answer, for `extents` bytes of extents.
    pub fn status(&self, context: u32, extents: usize) -> Head {
        let body = extents as u64; // usize to u64 is widening
        let id = context.to_be_bytes();
        if self.mode != ReplyMode::Extended {
            return self.chunk(CHUNK_DONE, chunk::BLOCK_STATUS, body, &[&id]);
        }
        let count = u32::try_from(extents / StatusPayload::EXTENT_LEN_EXTENDED).expect("STATUS_EXTENTS_MAX");
        self.chunk(CHUNK_DONE, chunk::BLOCK_STATUS_EXT, body, &[&id, &count.to_be_bytes()])
    }

    fn simple(&self, error: u32) -> Head {
        Head::new(&SimpleReply { error, cookie: self.cookie }.emit())
    }

    /// A chunk whose payload is `start` and then `body` bytes that are not in the head.
    fn chunk(&self, flags: u16, kind: u16, body: u64, start: &[&[u8]]) -> Head {
        let start_len: usize = start.iter().map(|part| part.len()).sum();
        let len = start_len as u64 + body; // usize to u64 is widening
        let header = ChunkHeader { flags, kind, cookie: self.cookie, offset: self.offset, len };
        let mut head = match self.mode {
            ReplyMode::Extended => Head::new(&header.emit_extended()),
            ReplyMode::Simple | ReplyMode::Structured => Head::new(&header.emit_structured()),
        };
        start.iter().for_each(|part| head.push(part));
        head
    }
}

/// A part of a READ's answer that becomes one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section {
    pub span: Span,
    /// It reads as zeroes and no data is sent for it.
    pub hole: bool,
    /// How many of the payload's parts it takes.
    pub parts: usize,
}

/// Holes are told only when they are this long and start and end at multiples of `HOLE_ALIGN`.
const HOLE_MIN: u64 = 4096;
const HOLE_ALIGN: u64 = 512;

/// Cuts a READ's answer, given as the lengths of its parts and whether they are zeroes, into chunks. With `whole`
/// it is one chunk, as DF and simple replies want it; `holes` says whether a hole can be told at all.
pub fn sections(
    start: ByteOffset,
    parts: impl Iterator<Item = (ByteLen, bool)>,
    whole: bool,
    holes: bool,
) -> SmallVec<[Section; 2]> {
    let mut cut: SmallVec<[Section; 2]> = SmallVec::new();
    let mut at = start;
    for (len, zero) in parts {
        let span = Span::at(at.0, len.0);
        push(&mut cut, Section { span, hole: zero && holes, parts: 1 });
        at += len;
    }
    let good = |section: &Section| {
        let (start, end) = (section.span.offset(), section.span.end());
        section.span.len().0 >= HOLE_MIN && start.is_aligned(HOLE_ALIGN) && end.is_aligned(HOLE_ALIGN)
    };
    let mixed = whole && cut.len() > 1;
    if !mixed && cut.iter().all(|section| !section.hole || good(section)) {
        return cut;
    }
    let mut merged = SmallVec::new();
    for section in cut {
        push(&mut merged, Section { hole: section.hole && !mixed && good(&section), ..section });
    }
    merged
}

/// Appends a section, or lengthens the last one if it is of the same kind.
fn push(cut: &mut SmallVec<[Section; 2]>, next: Section) {
    match cut.last_mut() {
        Some(last) if last.hole == next.hole => {
            last.span = Span::at(last.span.offset().0, last.span.len().0 + next.span.len().0);
            last.parts += next.parts;
        }
        Some(_) | None => cut.push(next),
    }
}

/// Bytes of the extents of so many runs.
pub fn extents_len(mode: ReplyMode, runs: usize) -> usize {
    let each = match mode {
        ReplyMode::Simple | ReplyMode::Structured => StatusPayload::EXTENT_LEN,
        ReplyMode::Extended => StatusPayload::EXTENT_LEN_EXTENDED,
    };
    runs.min(STATUS_EXTENTS_MAX) * each
}

/// Emits the extents of a BLOCK_STATUS answer; `out` has `extents_len` bytes.
pub fn emit_extents(mode: ReplyMode, runs: &[AllocationRun], out: &mut [u8]) {
    let each = extents_len(mode, 1);
    for (run, out) in runs.iter().zip(out.chunks_exact_mut(each)) {
        let status = status_of(run);
        let (len, rest) = out.split_at_mut(each / 2);
        match mode {
            ReplyMode::Extended => {
                len.copy_from_slice(&run.len.0.to_be_bytes());
                rest.copy_from_slice(&u64::from(status).to_be_bytes());
            }
            ReplyMode::Simple | ReplyMode::Structured => {
                let run_len = u32::try_from(run.len.0).expect("a run is within its request's 32-bit length");
                len.copy_from_slice(&run_len.to_be_bytes());
                rest.copy_from_slice(&status.to_be_bytes());
            }
        }
    }
}

fn status_of(run: &AllocationRun) -> u32 {
    let hole = if run.hole { allocation::HOLE } else { 0 };
    let zero = if run.zero { allocation::ZERO } else { 0 };
    hole | zero
}

/// Judges any bytes as requests of each mode: nothing may panic, and what runs lies within the volume.
pub fn fuzz_transmission(bytes: &[u8], size: ByteLen) {
    for mode in [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended] {
        let terms = Terms { mode, alignment: 1, read_only: false, allocation_context: Some(1) };
        let Ok(request) = Request::parse(mode, bytes) else { continue };
        let mut verdict = judge(&request, &terms, size, false);
        if let Verdict::Query { payload } = verdict {
            let rest = &bytes[mode.request_len()..];
            verdict = judge_query(&request, &rest[..payload.min(rest.len())], &terms, size);
        }
        let reply = ReplyTo::new(mode, &request);
        assert!(reply.done().as_slice().len() <= HEAD_MAX);
        match verdict {
            Verdict::Run(
                Action::Read { span, .. }
                | Action::Write { span, .. }
                | Action::Trim { span, .. }
                | Action::Zero { span, .. }
                | Action::Status { span, .. },
            ) => assert!(span.end().0 <= size.0 && !span.is_empty()),
            Verdict::Refuse { error, payload } => {
                assert!(payload <= PAYLOAD_DRAIN_MAX && reply.error(error).as_slice().len() <= HEAD_MAX);
            }
            Verdict::Run(Action::Nothing | Action::Flush)
            | Verdict::Query { .. }
            | Verdict::Disconnect
            | Verdict::Close => {}
        }
    }
}

#[cfg(test)]
mod tests;
