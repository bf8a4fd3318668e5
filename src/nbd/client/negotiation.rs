//! The client's half of the option haggling (sections 4 to 7 and 20.1 to 20.7). Pure: bytes in, bytes out.
//!
//! Every length that the server announces is capped before anything is kept, and so is the number of replies to
//! one option.

use super::decoder::Violation;
use crate::base::limits::{NBD_STRING_MAX, PAYLOAD_MAX, VOLUME_SIZE_MAX};
use crate::nbd::wire::number::{OptionCode, export, handshake, info, reply};
use crate::nbd::wire::{
    ExportNameReply, ExportQuery, Greeting, InfoItem, MetaContext, MetaQuery, OptionHeader,
    OptionReplyHeader, ReplyMode,
};

/// The one metadata context that is asked for.
const ALLOCATION: &str = "base:allocation";

/// Replies that one option may have.
const REPLIES_MAX: u32 = 64;

/// Bytes of one option reply: a string and the fields before it.
const REPLY_DATA_MAX: u32 = 4096 + 16;

/// Characters of a server's text that are shown.
const TEXT_MAX: usize = 256;

const _: () = assert!(NBD_STRING_MAX <= 4096);

/// What the client wants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wish {
    pub export: String,
    /// The reply mode to ask for; a server without it gives a simpler one.
    pub replies: ReplyMode,
    /// Ask for `base:allocation`; needs structured or extended replies.
    pub allocation: bool,
}

/// What both sides agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Export {
    /// Bytes.
    pub size: u64,
    /// Transmission flags, with meaningless combinations masked out.
    pub flags: u16,
    pub replies: ReplyMode,
    /// The id of `base:allocation`, if it was selected.
    pub context: Option<u32>,
    /// Requests are multiples of this, bytes.
    pub block_min: u32,
    pub block_preferred: u32,
    /// Bytes of payload in one READ or WRITE.
    pub payload_max: u64,
}

impl Export {
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Why there is no agreement.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("this is not an NBD server")]
    NotNbd,
    #[error("the server speaks a form of NBD that is too old")]
    TooOld,
    #[error("the server has no export of that name{0}")]
    UnknownExport(Said),
    #[error("the server asks for TLS, which this client does not speak{0}")]
    NeedsTls(Said),
    #[error("the server is shutting down{0}")]
    ShuttingDown(Said),
    #[error("the server refuses{0}")]
    Refused(Said),
    #[error("the server broke the protocol in negotiation: {0}")]
    Broken(&'static str),
}

/// What the server said in words, safe to print: shortened and without control characters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said(String);

impl Said {
    fn new(bytes: &[u8]) -> Said {
        let text = String::from_utf8_lossy(bytes);
        let safe = text.chars().take(TEXT_MAX).map(|c| if c.is_control() { '?' } else { c });
        Said(safe.collect())
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " (it says: {})", self.0) }
    }
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// More bytes are needed; nothing was taken.
    More,
    /// These were taken; send the answer, which may be empty.
    Took { bytes: usize, answer: Vec<u8> },
    /// Transmission begins after these bytes.
    Agreed { bytes: usize, export: Export },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Greeting,
    /// Waiting for the final reply to this option.
    Option(OptionCode),
}

/// One negotiation.
pub struct Negotiation {
    wish: Wish,
    state: State,
    replies: u32,
    no_zeroes: bool,
    mode: ReplyMode,
    context: Option<u32>,
    size: Option<(u64, u16)>,
    blocks: Option<(u32, u32, u32)>,
}

impl Negotiation {
    pub fn new(wish: Wish) -> Negotiation {
        Negotiation {
            wish,
            state: State::Greeting,
            replies: 0,
            no_zeroes: false,
            mode: ReplyMode::Simple,
            context: None,
            size: None,
            blocks: None,
        }
    }

    /// Looks at what has arrived and was not taken yet.
    pub fn next(&mut self, stream: &[u8]) -> Result<Step, Refusal> {
        match self.state {
            State::Greeting => self.greeting(stream),
            State::Option(OptionCode::ExportName) => self.export_name(stream),
            State::Option(option) => self.reply(option, stream),
        }
    }

    fn greeting(&mut self, stream: &[u8]) -> Result<Step, Refusal> {
        if Greeting::is_oldstyle(stream) {
            return Err(Refusal::TooOld);
        }
        if stream.len() < Greeting::LEN {
            let known = b"NBDMAGIC";
            let same = known.len().min(stream.len());
            return if stream[..same] == known[..same] { Ok(Step::More) } else { Err(Refusal::NotNbd) };
        }
        let greeting = Greeting::parse(stream).map_err(|_| Refusal::NotNbd)?;
        if greeting.flags & handshake::FIXED_NEWSTYLE == 0 {
            return Err(Refusal::TooOld);
        }
        self.no_zeroes = greeting.flags & handshake::NO_ZEROES != 0;
        let zeroes = if self.no_zeroes { handshake::CLIENT_NO_ZEROES } else { 0 };
        let mut answer = (handshake::CLIENT_FIXED_NEWSTYLE | zeroes).to_be_bytes().to_vec();
        answer.extend(match self.wish.replies {
            ReplyMode::Simple => self.ask_go(),
            ReplyMode::Structured => self.ask(OptionCode::StructuredReply, &[]),
            ReplyMode::Extended => self.ask(OptionCode::ExtendedHeaders, &[]),
        });
        Ok(Step::Took { bytes: Greeting::LEN, answer })
    }

    fn ask(&mut self, option: OptionCode, data: &[u8]) -> Vec<u8> {
        self.state = State::Option(option);
        self.replies = 0;
        let len = u32::try_from(data.len()).expect("names are bounded");
        let mut bytes = OptionHeader { option: option.to_wire(), len }.emit().to_vec();
        bytes.extend_from_slice(data);
        bytes
    }

    fn ask_go(&mut self) -> Vec<u8> {
        let mut data = Vec::new();
        ExportQuery { name: &self.wish.export, wanted: vec![info::BLOCK_SIZE] }.emit(&mut data);
        self.ask(OptionCode::Go, &data)
    }

    fn ask_context_or_go(&mut self) -> Vec<u8> {
        if !self.wish.allocation || self.mode == ReplyMode::Simple {
            return self.ask_go();
        }
        let mut data = Vec::new();
        MetaQuery { name: &self.wish.export, count: 1, queries: vec![ALLOCATION] }.emit(&mut data);
        self.ask(OptionCode::SetMetaContext, &data)
    }

    fn reply(&mut self, option: OptionCode, stream: &[u8]) -> Result<Step, Refusal> {
        if stream.len() < OptionReplyHeader::LEN {
            return Ok(Step::More);
        }
        let header = OptionReplyHeader::parse(stream).map_err(|_| Refusal::Broken("wrong magic number"))?;
        if header.option != option.to_wire() {
            return Err(Refusal::Broken("an answer to another option"));
        }
        if header.len > REPLY_DATA_MAX {
            return Err(Refusal::Broken("an answer that is far too long"));
        }
        let bytes = OptionReplyHeader::LEN + usize::try_from(header.len).expect("checked above");
        let Some(data) = stream.get(OptionReplyHeader::LEN..bytes) else { return Ok(Step::More) };
        self.replies += 1;
        if self.replies > REPLIES_MAX {
            return Err(Refusal::Broken("answers without end"));
        }
        if header.kind & reply::ERROR_BIT != 0 {
            let answer = self.refused(option, header.kind, data)?;
            return Ok(Step::Took { bytes, answer });
        }
        match header.kind {
            reply::ACK if !data.is_empty() => Err(Refusal::Broken("an acknowledgement with data")),
            reply::ACK => self.accepted(option, bytes),
            kind => {
                self.item(option, kind, data)?;
                Ok(Step::Took { bytes, answer: Vec::new() })
            }
        }
    }

    /// A reply that is not the last.
    fn item(&mut self, option: OptionCode, kind: u32, data: &[u8]) -> Result<(), Refusal> {
        let malformed = |_| Refusal::Broken("a malformed answer");
        match (option, kind) {
            (OptionCode::Go, reply::INFO) => match InfoItem::parse(data).map_err(malformed)? {
                InfoItem::Export { size, flags } => self.size = Some((size, flags)),
                InfoItem::BlockSize { minimum, preferred, maximum } => {
                    self.blocks = Some((minimum, preferred, maximum));
                }
                InfoItem::Name(_) | InfoItem::Description(_) | InfoItem::Unknown(_) => {}
            },
            (OptionCode::SetMetaContext, reply::META_CONTEXT) => {
                let context = MetaContext::parse(data).map_err(malformed)?;
                if context.name != ALLOCATION || self.context.is_some() {
                    return Err(Refusal::Broken("a context that was not asked for"));
                }
                self.context = Some(context.id);
            }
            _ => return Err(Refusal::Broken("a kind of answer that does not fit the option")),
        }
        Ok(())
    }

    fn accepted(&mut self, option: OptionCode, bytes: usize) -> Result<Step, Refusal> {
        let took = |answer| Ok(Step::Took { bytes, answer });
        match option {
            OptionCode::ExtendedHeaders => {
                self.mode = ReplyMode::Extended;
                took(self.ask_context_or_go())
            }
            OptionCode::StructuredReply => {
                self.mode = ReplyMode::Structured;
                took(self.ask_context_or_go())
            }
            OptionCode::SetMetaContext => took(self.ask_go()),
            OptionCode::Go => self.agree(bytes),
            OptionCode::ExportName
            | OptionCode::Abort
            | OptionCode::List
            | OptionCode::StartTls
            | OptionCode::Info
            | OptionCode::ListMetaContext => unreachable!("never asked, or answered without an envelope"),
        }
    }

    /// An error reply: what to ask instead, if there is anything.
    fn refused(&mut self, option: OptionCode, kind: u32, data: &[u8]) -> Result<Vec<u8>, Refusal> {
        match option {
            OptionCode::ExtendedHeaders => Ok(self.ask(OptionCode::StructuredReply, &[])),
            OptionCode::StructuredReply => Ok(self.ask_context_or_go()),
            OptionCode::SetMetaContext => {
                self.context = None;
                Ok(self.ask_go())
            }
            OptionCode::Go if kind == reply::ERR_UNSUP && self.mode != ReplyMode::Extended => {
                let name = self.wish.export.clone();
                Ok(self.ask(OptionCode::ExportName, name.as_bytes()))
            }
            _ => Err(refusal(kind, Said::new(data))),
        }
    }

    /// The answer to EXPORT_NAME; a server that has no such export just closes the connection.
    fn export_name(&mut self, stream: &[u8]) -> Result<Step, Refusal> {
        let padding = if self.no_zeroes { 0 } else { ExportNameReply::PADDING };
        let bytes = ExportNameReply::LEN + padding;
        if stream.len() < bytes {
            return Ok(Step::More);
        }
        let answer = ExportNameReply::parse(stream).map_err(|_| Refusal::Broken("a malformed answer"))?;
        self.size = Some((answer.size, answer.flags));
        self.agree(bytes)
    }

    fn agree(&self, bytes: usize) -> Result<Step, Refusal> {
        let (size, flags) = self.size.ok_or(Refusal::Broken("no size"))?;
        if flags & export::HAS_FLAGS == 0 {
            return Err(Refusal::Broken("no flags"));
        }
        if size > VOLUME_SIZE_MAX {
            return Err(Refusal::Broken("an impossible size"));
        }
        let (block_min, block_preferred, payload_max) = sane_blocks(self.blocks);
        let flags = sane_flags(flags, self.mode);
        let (replies, context) = (self.mode, self.context);
        let export = Export { size, flags, replies, context, block_min, block_preferred, payload_max };
        Ok(Step::Agreed { bytes, export })
    }
}

fn refusal(kind: u32, said: Said) -> Refusal {
    match kind {
        reply::ERR_UNKNOWN => Refusal::UnknownExport(said),
        reply::ERR_TLS_REQD => Refusal::NeedsTls(said),
        reply::ERR_SHUTDOWN => Refusal::ShuttingDown(said),
        _ => Refusal::Refused(said),
    }
}

/// Section 8: constraints that are not legal are ignored. The largest payload is never above ours.
fn sane_blocks(blocks: Option<(u32, u32, u32)>) -> (u32, u32, u64) {
    let legal = |(minimum, preferred, maximum): &(u32, u32, u32)| {
        minimum.is_power_of_two()
            && *minimum <= 65536
            && preferred.is_power_of_two()
            && *preferred >= (*minimum).max(512)
            && maximum >= preferred
    };
    match blocks.filter(legal) {
        Some((minimum, preferred, maximum)) => (minimum, preferred, u64::from(maximum).min(PAYLOAD_MAX)),
        None => (1, 4096, PAYLOAD_MAX),
    }
}

/// Section 2.2: flags that mean nothing without another are dropped.
fn sane_flags(flags: u16, mode: ReplyMode) -> u16 {
    let mut dropped = 0;
    if flags & export::SEND_WRITE_ZEROES == 0 {
        dropped |= export::SEND_FAST_ZERO;
    }
    if mode == ReplyMode::Simple {
        dropped |= export::SEND_DF;
    }
    if mode != ReplyMode::Extended {
        dropped |= export::BLOCK_STATUS_PAYLOAD;
    }
    flags & !dropped
}

/// Bytes behind the end of the negotiation: a server says nothing before it is asked.
pub fn check_silent(rest: &[u8]) -> Result<(), Violation> {
    if rest.is_empty() { Ok(()) } else { Err(Violation::Unasked) }
}

/// Feeds any bytes to a negotiation: nothing may panic, and it ends.
pub fn fuzz_negotiation(mode: ReplyMode, bytes: &[u8]) {
    let mut negotiation =
        Negotiation::new(Wish { export: "data".to_owned(), replies: mode, allocation: true });
    let mut stream = bytes;
    while let Ok(Step::Took { bytes, .. }) = negotiation.next(stream) {
        assert!(bytes > 0, "every step takes something");
        stream = &stream[bytes..];
    }
}
