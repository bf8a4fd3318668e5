//! Negotiation (sections 3 to 10) as a pure state machine: bytes in, bytes and a next step out.
//!
//! ```text
//! ClientFlags --4 bytes--> Options <--> Options ...      EXPORT_NAME, GO -> Transmission
//!                            |  ^                        ABORT, EXPORT_NAME of nothing, broken rules -> Close
//!               too long data v  | all of it seen
//!                          Discarding
//! ```
//! Exports are known through `Exports`, as plain data asked for when an option names one: nothing is opened before
//! GO. An error reply leaves the connection usable. The selection of meta contexts belongs to the export name it
//! was made for, and is forgotten at the start of every SET_META_CONTEXT.

use super::wire::number::{OptionCode, export, handshake, info, reply};
use super::wire::{
    ExportNameReply, ExportQuery, Greeting, InfoItem, MetaContext, MetaQuery, OptionHeader,
    OptionReplyHeader, ReplyMode, ServerEntry, WireError, text,
};
use crate::base::limits::{
    META_QUERIES_MAX, NBD_STRING_MAX, OPTION_DATA_MAX, OPTION_DRAIN_MAX, OPTIONS_MAX, PAYLOAD_MAX,
};
use crate::block::Geometry;

/// The one meta context there is.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// The smallest unit that clients are told to keep to. Smaller ones are served too, to those who did not ask.
const SECTOR: u32 = 512;

/// An export as negotiation needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The canonical name.
    pub name: String,
    pub description: String,
    pub geometry: Geometry,
    pub read_only: bool,
}

/// Where exports are looked up.
pub trait Exports {
    /// The export of this name; the empty name is the default export.
    fn find(&self, name: &str) -> Option<Export>;
    fn list(&self) -> Vec<Export>;
}

/// What both sides agreed on when negotiation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The canonical name of the export.
    pub export: String,
    pub mode: ReplyMode,
    /// The id of `base:allocation`, if it was selected for this export.
    pub allocation_context: Option<u32>,
    /// The alignment that the client promised to keep; 1 if it promised nothing.
    pub alignment: u32,
    /// The transmission flags that it was told.
    pub flags: u16,
}

/// What the connection does next, after sending what was emitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// More bytes are needed.
    Receive,
    Close,
    Transmit(Agreement),
}

enum State {
    ClientFlags,
    Options,
    /// The data of an option was too long to look at.
    Discarding {
        option: u32,
        left: u32,
    },
    Ended,
}

/// One connection's negotiation.
pub struct Negotiation {
    state: State,
    mode: ReplyMode,
    padded: bool,
    options: u32,
    selection: Option<Selection>,
    /// Ids are not used twice on a connection.
    context_id: u32,
    stopping: bool,
}

/// The contexts selected by the last SET_META_CONTEXT, and the name it was made for.
struct Selection {
    name: String,
    allocation: u32,
}

impl Default for Negotiation {
    fn default() -> Negotiation {
        Negotiation {
            state: State::ClientFlags,
            mode: ReplyMode::Simple,
            padded: true,
            options: 0,
            selection: None,
            context_id: 0,
            stopping: false,
        }
    }
}

impl Negotiation {
    /// The first bytes of a connection.
    pub fn greeting() -> [u8; Greeting::LEN] {
        Greeting { flags: handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES }.emit()
    }

    /// From now on options are answered with ERR_SHUTDOWN.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Takes what is complete at the front of `input`; says how many bytes that was and what comes next. After
    /// `Transmit` the rest of the input are requests.
    pub fn advance(&mut self, input: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> (usize, Step) {
        let mut at = 0;
        loop {
            let (taken, step) = match self.state {
                State::ClientFlags => self.client_flags(&input[at..]),
                State::Options => self.next_option(&input[at..], exports, out),
                State::Discarding { option, left } => self.discard(option, left, &input[at..], out),
                State::Ended => (0, Step::Close),
            };
            at += taken;
            if step != Step::Receive {
                self.state = State::Ended;
            }
            if step != Step::Receive || taken == 0 {
                return (at, step);
            }
        }
    }

    fn client_flags(&mut self, input: &[u8]) -> (usize, Step) {
        let Some(bytes) = input.first_chunk() else { return (0, Step::Receive) };
        let flags = u32::from_be_bytes(*bytes);
        if flags & !(handshake::CLIENT_FIXED_NEWSTYLE | handshake::CLIENT_NO_ZEROES) != 0 {
            return (4, Step::Close);
        }
        self.padded = flags & handshake::CLIENT_NO_ZEROES == 0;
        self.state = State::Options;
        (4, Step::Receive)
    }

    fn next_option(&mut self, input: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> (usize, Step) {
        let header = match OptionHeader::parse(input) {
            Ok(header) => header,
            Err(WireError::Truncated) => return (0, Step::Receive),
            Err(WireError::Magic | WireError::Length | WireError::TooLong | WireError::Text) => {
                return (0, Step::Close);
            }
        };
        if header.len > OPTION_DRAIN_MAX || self.options == OPTIONS_MAX {
            return (0, Step::Close);
        }
        if header.len > OPTION_DATA_MAX {
            self.options += 1;
            self.state = State::Discarding { option: header.option, left: header.len };
            return (OptionHeader::LEN, Step::Receive);
        }
        let whole = OptionHeader::LEN + usize::try_from(header.len).expect("bounded by OPTION_DATA_MAX");
        let Some(data) = input.get(OptionHeader::LEN..whole) else { return (0, Step::Receive) };
        self.options += 1;
        let step = self.answer(header.option, data, exports, &mut Replies { option: header.option, out });
        (whole, step)
    }

    fn discard(&mut self, option: u32, left: u32, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let here = u32::try_from(input.len()).unwrap_or(u32::MAX).min(left);
        let taken = usize::try_from(here).expect("at most the input's length");
        if here < left {
            self.state = State::Discarding { option, left: left - here };
            return (taken, Step::Receive);
        }
        self.state = State::Options;
        if OptionCode::from_wire(option) == Some(OptionCode::ExportName) {
            return (taken, Step::Close);
        }
        let kind = match OptionCode::from_wire(option) {
            Some(_) => reply::ERR_TOO_BIG,
            None => reply::ERR_UNSUP,
        };
        Replies { option, out }.error(kind, "option data too long");
        (taken, Step::Receive)
    }

    fn answer(&mut self, option: u32, data: &[u8], exports: &dyn Exports, out: &mut Replies<'_>) -> Step {
        let code = OptionCode::from_wire(option);
        if self.stopping && !matches!(code, Some(OptionCode::Abort | OptionCode::ExportName)) {
            out.error(reply::ERR_SHUTDOWN, "the server is shutting down");
            return Step::Close;
        }
        match code {
            Some(OptionCode::ExportName) => return self.export_name(data, exports, out),
            Some(OptionCode::Abort) => {
                out.ack();
                return Step::Close;
            }
            Some(OptionCode::List) => list(data, exports, out),
            Some(OptionCode::StartTls) => out.error(reply::ERR_POLICY, "TLS is not offered here"),
            Some(OptionCode::Info) => drop(self.info(data, exports, out)),
            Some(OptionCode::Go) => {
                if let Some(agreement) = self.info(data, exports, out) {
                    return Step::Transmit(agreement);
                }
            }
            Some(OptionCode::StructuredReply) => self.structured_reply(data, out),
            Some(OptionCode::ListMetaContext) => self.list_meta(data, exports, out),
            Some(OptionCode::SetMetaContext) => self.set_meta(data, exports, out),
            Some(OptionCode::ExtendedHeaders) => self.extended_headers(data, out),
            None => out.error(reply::ERR_UNSUP, "unknown option"),
        }
        Step::Receive
    }

    /// EXPORT_NAME (section 5.1): it has no way to say no but to close.
    fn export_name(&mut self, data: &[u8], exports: &dyn Exports, out: &mut Replies<'_>) -> Step {
        let found = text(data).ok().and_then(|name| Some((name, exports.find(name)?)));
        let Some((name, export)) = found.filter(|_| !self.stopping && self.mode != ReplyMode::Extended)
        else {
            return Step::Close;
        };
        let agreement = self.agree(name, &export, 1);
        let head = ExportNameReply { size: export.geometry.size.0, flags: agreement.flags };
        out.out.extend_from_slice(&head.emit());
        if self.padded {
            out.out.extend_from_slice(&[0; ExportNameReply::PADDING]);
        }
        Step::Transmit(agreement)
    }

    /// INFO and GO (section 5.5) differ only in what an ACK means.
    fn info(&self, data: &[u8], exports: &dyn Exports, out: &mut Replies<'_>) -> Option<Agreement> {
        let query = match ExportQuery::parse(data) {
            Ok(query) => query,
            Err(error) => {
                out.malformed(error);
                return None;
            }
        };
        let Some(export) = exports.find(query.name) else {
            out.error(reply::ERR_UNKNOWN, "no such export");
            return None;
        };
        let asked = |kind: u16| query.wanted.contains(&kind);
        let sizes = block_sizes(&export.geometry);
        // BLOCK_SIZE goes before EXPORT: one client checks the size against it only in that order (section 7).
        if asked(info::BLOCK_SIZE) {
            out.info(&sizes);
        }
        if asked(info::NAME) {
            out.info(&InfoItem::Name(&export.name));
        }
        if asked(info::DESCRIPTION) {
            out.info(&InfoItem::Description(short(&export.description)));
        }
        let alignment = match sizes {
            InfoItem::BlockSize { minimum, .. } if asked(info::BLOCK_SIZE) => minimum,
            _ => 1,
        };
        let agreement = self.agree(query.name, &export, alignment);
        out.info(&InfoItem::Export { size: export.geometry.size.0, flags: agreement.flags });
        out.ack();
        Some(agreement)
    }

    fn agree(&self, asked_name: &str, export: &Export, alignment: u32) -> Agreement {
        let selection = self.selection.as_ref().filter(|selection| selection.name == asked_name);
        let allocation_context = selection.map(|selection| selection.allocation);
        let flags = transmission_flags(export, self.mode, allocation_context.is_some());
        Agreement { export: export.name.clone(), mode: self.mode, allocation_context, alignment, flags }
    }

    fn structured_reply(&mut self, data: &[u8], out: &mut Replies<'_>) {
        if !data.is_empty() {
            out.error(reply::ERR_INVALID, "this option has no data");
        } else if self.mode == ReplyMode::Extended {
            out.error(reply::ERR_EXT_HEADER_REQD, "extended headers are already agreed");
        } else {
            self.mode = ReplyMode::Structured;
            out.ack();
        }
    }

    fn extended_headers(&mut self, data: &[u8], out: &mut Replies<'_>) {
        if data.is_empty() {
            self.mode = ReplyMode::Extended;
            out.ack();
        } else {
            out.error(reply::ERR_INVALID, "this option has no data");
        }
    }

    fn list_meta(&self, data: &[u8], exports: &dyn Exports, out: &mut Replies<'_>) {
        let Some(query) = meta_query(data, exports, out) else { return };
        let hit = |query: &&str| matches!(*query, "base:" | BASE_ALLOCATION);
        if query.count == 0 || query.queries.iter().any(hit) {
            out.meta_context(0);
        }
        out.ack();
    }

    fn set_meta(&mut self, data: &[u8], exports: &dyn Exports, out: &mut Replies<'_>) {
        self.selection = None;
        if self.mode == ReplyMode::Simple {
            return out.error(reply::ERR_INVALID, "structured replies must be agreed first");
        }
        let Some(query) = meta_query(data, exports, out) else { return };
        if query.queries.contains(&BASE_ALLOCATION) {
            self.context_id += 1;
            self.selection = Some(Selection { name: query.name.to_owned(), allocation: self.context_id });
            out.meta_context(self.context_id);
        }
        out.ack();
    }
}

/// LIST (section 5.3).
fn list(data: &[u8], exports: &dyn Exports, out: &mut Replies<'_>) {
    if !data.is_empty() {
        return out.error(reply::ERR_INVALID, "this option has no data");
    }
    for export in exports.list() {
        let entry = ServerEntry { name: &export.name, description: short(&export.description) };
        out.reply(reply::SERVER, |bytes| entry.emit(bytes));
    }
    out.ack();
}

/// The checked query of a meta context option, or an error reply.
fn meta_query<'a>(data: &'a [u8], exports: &dyn Exports, out: &mut Replies<'_>) -> Option<MetaQuery<'a>> {
    let query = match MetaQuery::parse(data, META_QUERIES_MAX) {
        Ok(query) => query,
        Err(error) => {
            out.malformed(error);
            return None;
        }
    };
    if query.count > META_QUERIES_MAX {
        out.error(reply::ERR_TOO_BIG, "too many queries");
    } else if query.queries.iter().any(|query| !query.contains(':')) {
        out.error(reply::ERR_INVALID, "a query without a namespace");
    } else if exports.find(query.name).is_none() {
        out.error(reply::ERR_UNKNOWN, "no such export");
    } else {
        return Some(query);
    }
    None
}

/// The transmission flags of an export (section 2.2).
fn transmission_flags(export: &Export, mode: ReplyMode, contexts: bool) -> u16 {
    // CAN_MULTI_CONN holds because a volume's flush covers what was answered on every connection (R3).
    let mut flags = export::HAS_FLAGS
        | export::SEND_FLUSH
        | export::SEND_FUA
        | export::SEND_CACHE
        | export::CAN_MULTI_CONN;
    flags |= match export.read_only {
        true => export::READ_ONLY,
        false => export::SEND_TRIM | export::SEND_WRITE_ZEROES | export::SEND_FAST_ZERO,
    };
    if export.geometry.rotational {
        flags |= export::ROTATIONAL;
    }
    if mode != ReplyMode::Simple {
        flags |= export::SEND_DF;
    }
    if mode == ReplyMode::Extended && contexts {
        flags |= export::BLOCK_STATUS_PAYLOAD;
    }
    flags
}

/// The sizes that a client who asks is told (section 8). The size is a multiple of the minimum in any case.
fn block_sizes(geometry: &Geometry) -> InfoItem<'static> {
    let minimum = if geometry.size.is_aligned(u64::from(SECTOR)) { SECTOR } else { 1 };
    let preferred = geometry.preferred.clamp(4096, 16 << 20).next_power_of_two();
    let maximum = u32::try_from(PAYLOAD_MAX).expect("32 MiB");
    InfoItem::BlockSize { minimum, preferred, maximum }
}

/// A text cut to what a string of the protocol may have.
fn short(text: &str) -> &str {
    let mut end = text.len().min(NBD_STRING_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The replies to one option.
struct Replies<'a> {
    option: u32,
    out: &'a mut Vec<u8>,
}

impl Replies<'_> {
    /// Emits a reply whose data `emit` appends.
    fn reply(&mut self, kind: u32, emit: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        self.out.extend_from_slice(&[0; OptionReplyHeader::LEN]);
        emit(self.out);
        let data = start + OptionReplyHeader::LEN;
        let len = u32::try_from(self.out.len() - data).expect("a name and a text at most");
        let header = OptionReplyHeader { option: self.option, kind, len };
        self.out[start..data].copy_from_slice(&header.emit());
    }

    fn ack(&mut self) {
        self.reply(reply::ACK, |_| ());
    }

    fn info(&mut self, item: &InfoItem<'_>) {
        self.reply(reply::INFO, |out| item.emit(out));
    }

    fn meta_context(&mut self, id: u32) {
        self.reply(reply::META_CONTEXT, |out| MetaContext { id, name: BASE_ALLOCATION }.emit(out));
    }

    fn error(&mut self, kind: u32, text: &str) {
        self.reply(kind, |out| out.extend_from_slice(text.as_bytes()));
    }

    fn malformed(&mut self, error: WireError) {
        match error {
            WireError::TooLong => self.error(reply::ERR_TOO_BIG, "string too long"),
            WireError::Text => self.error(reply::ERR_INVALID, "not a valid string"),
            WireError::Length | WireError::Truncated | WireError::Magic => {
                self.error(reply::ERR_INVALID, "the lengths do not add up");
            }
        }
    }
}

/// Feeds any bytes to a negotiation, cut in two places: it may not panic, and cutting changes nothing.
pub fn fuzz_negotiation(bytes: &[u8], exports: &dyn Exports) {
    let mut whole = Vec::new();
    let (taken, step) = Negotiation::default().advance(bytes, exports, &mut whole);
    for cut in [bytes.len() / 3, bytes.len() / 2] {
        let (mut parts, mut negotiation) = (Vec::new(), Negotiation::default());
        let (first, early) = negotiation.advance(&bytes[..cut], exports, &mut parts);
        let (total, last) = match early {
            Step::Receive => {
                let (second, last) = negotiation.advance(&bytes[first..], exports, &mut parts);
                (first + second, last)
            }
            Step::Close | Step::Transmit(_) => (first, early),
        };
        assert_eq!((total, &last, &parts), (taken, &step, &whole), "cut at {cut}");
    }
}

#[cfg(test)]
mod tests;
