//! A raw client: sends what a test says, and checks of every reply that it is one.

use drystone::nbd::wire::number::{CHUNK_DONE, chunk, reply};
use drystone::nbd::wire::{
    ChunkHeader, ErrorPayload, ExportQuery, Extent, HolePayload, InfoItem, MetaContext, MetaQuery,
    OptionHeader, OptionReplyHeader, ReplyMode, Request, SimpleReply, StatusPayload,
};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

pub use drystone::nbd::wire::number::{export, request};

/// How long a reply may take before a test fails.
pub const TIMEOUT: Duration = Duration::from_secs(20);

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const ZERO: u16 = 6;
pub const STATUS: u16 = 7;

pub const EPERM: u32 = 1;
pub const EIO: u32 = 5;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;
pub const ESHUTDOWN: u32 = 108;

pub struct Client {
    pub stream: TcpStream,
    pub mode: ReplyMode,
    /// The length of each READ in flight, for simple replies, and its offset.
    reads: HashMap<u64, (u64, u64)>,
    /// Answers of which chunks have come and the last has not.
    partial: HashMap<u64, Answer>,
    pub size: u64,
    pub flags: u16,
}

/// A complete answer to one request.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    pub cookie: u64,
    /// 0 for success.
    pub error: u32,
    pub content: Vec<(u64, Content)>,
    pub extents: Vec<(u32, Vec<Extent>)>,
    pub chunks: usize,
}

#[derive(Debug, PartialEq)]
pub enum Content {
    Data(Vec<u8>),
    Hole(u64),
}

impl Content {
    pub fn len(&self) -> u64 {
        match self {
            Content::Data(data) => data.len() as u64,
            Content::Hole(len) => *len,
        }
    }
}

impl Answer {
    /// The bytes of a READ; checks that the chunks cover the range without overlap.
    pub fn bytes(mut self, offset: u64, len: u64) -> Vec<u8> {
        assert_eq!(self.error, 0);
        self.content.sort_by_key(|(offset, _)| *offset);
        let mut out = Vec::new();
        for (at, content) in &self.content {
            assert_eq!(*at, offset + out.len() as u64, "no gap and no overlap");
            assert!(content.len() > 0, "no empty chunk");
            match content {
                Content::Data(data) => out.extend_from_slice(data),
                Content::Hole(len) => out.resize(out.len() + usize::try_from(*len).unwrap(), 0),
            }
        }
        assert_eq!(out.len() as u64, len, "the chunks cover the request");
        out
    }
}

impl Client {
    /// Connects, and takes the greeting.
    pub fn connect(address: std::net::SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Client {
            stream,
            mode: ReplyMode::Simple,
            reads: HashMap::new(),
            partial: HashMap::new(),
            size: 0,
            flags: 0,
        };
        assert_eq!(client.take(18), b"NBDMAGICIHAVEOPT\0\x03");
        client
    }

    /// Connects and sends client flags 3.
    pub fn haggling(address: std::net::SocketAddr) -> Client {
        let mut client = Client::connect(address);
        client.send(&3u32.to_be_bytes());
        client
    }

    /// In transmission, in this mode, with `base:allocation` selected where the mode has it.
    pub fn open(address: std::net::SocketAddr, name: &str, mode: ReplyMode) -> Client {
        let mut client = Client::haggling(address);
        let option = match mode {
            ReplyMode::Simple => None,
            ReplyMode::Structured => Some(8),
            ReplyMode::Extended => Some(11),
        };
        if let Some(option) = option {
            assert_eq!(client.kinds(option, b""), [reply::ACK]);
            client.mode = mode;
            assert_eq!(
                client.kinds(10, &meta(name, &["base:allocation"])),
                [reply::META_CONTEXT, reply::ACK]
            );
        }
        client.go(name, &[]);
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Checks that the server closes, at once and with nothing more to say.
    pub fn expect_close(mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        assert_eq!(rest, b"", "nothing comes before the close");
    }

    pub fn half_close(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    pub fn send_option(&mut self, option: u32, data: &[u8]) {
        self.send(&option_bytes(option, data));
    }

    /// Sends an option and takes its replies up to the final one.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(option, data);
        self.option_replies(option)
    }

    pub fn option_replies(&mut self, option: u32) -> Vec<(u32, Vec<u8>)> {
        let mut replies = Vec::new();
        loop {
            let header = OptionReplyHeader::parse(&self.take(OptionReplyHeader::LEN)).unwrap();
            assert_eq!(header.option, option, "the option is echoed");
            let data = self.take(usize::try_from(header.len).unwrap());
            if header.kind & reply::ERROR_BIT != 0 {
                // Item 33 of the list, for every error reply of every test.
                let text = std::str::from_utf8(&data).expect("the text is UTF-8");
                assert!(text.len() <= 256 && !text.contains('\0') && !text.contains('\n'), "{text:?}");
            }
            if header.kind == reply::ACK {
                assert!(data.is_empty(), "an ACK has no data");
            }
            let last = header.kind == reply::ACK || header.kind & reply::ERROR_BIT != 0;
            replies.push((header.kind, data));
            if last {
                return replies;
            }
        }
    }

    pub fn kinds(&mut self, option: u32, data: &[u8]) -> Vec<u32> {
        self.option(option, data).into_iter().map(|(kind, _)| kind).collect()
    }

    /// GO; checks the order and number of the replies.
    pub fn go(&mut self, name: &str, wanted: &[u16]) -> Vec<(u32, Vec<u8>)> {
        let replies = self.option(7, &query(name, wanted));
        let exports: Vec<_> = replies
            .iter()
            .filter_map(|(kind, data)| match InfoItem::parse(data) {
                Ok(InfoItem::Export { size, flags }) if *kind == reply::INFO => Some((size, flags)),
                _ => None,
            })
            .collect();
        assert_eq!(exports.len(), 1, "exactly one EXPORT: {replies:?}");
        assert_eq!(replies.last().unwrap().0, reply::ACK);
        (self.size, self.flags) = exports[0];
        replies
    }

    pub fn request_bytes(&self, flags: u16, command: u16, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
        let request = Request { flags, command, cookie, offset, len };
        match self.mode {
            ReplyMode::Extended => request.emit_extended().to_vec(),
            ReplyMode::Simple | ReplyMode::Structured => request.emit_compact().to_vec(),
        }
    }

    pub fn send_request(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, len: u64) {
        if command == READ {
            self.reads.insert(cookie, (offset, len));
        }
        let bytes = self.request_bytes(flags, command, cookie, offset, len);
        self.send(&bytes);
    }

    pub fn send_write(&mut self, flags: u16, cookie: u64, offset: u64, data: &[u8]) {
        let payload = if self.mode == ReplyMode::Extended { request::PAYLOAD_LEN } else { 0 };
        let mut bytes = self.request_bytes(flags | payload, WRITE, cookie, offset, data.len() as u64);
        bytes.extend_from_slice(data);
        self.send(&bytes);
    }

    /// Sends a request and takes its answer; nothing else may be in flight.
    pub fn ask(&mut self, flags: u16, command: u16, offset: u64, len: u64) -> Answer {
        let cookie = 0x5eed_0000 + u64::from(command);
        self.send_request(flags, command, cookie, offset, len);
        let answer = self.answer();
        assert_eq!(answer.cookie, cookie);
        answer
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        self.send_write(0, 77, offset, data);
        self.answer().error
    }

    pub fn read(&mut self, offset: u64, len: u64) -> Vec<u8> {
        self.ask(0, READ, offset, len).bytes(offset, len)
    }

    /// That the connection is in step: a FLUSH is answered.
    pub fn expect_alive(&mut self) {
        self.send_request(0, FLUSH, 0xa11_fe, 0, 0);
        let answer = self.answer();
        assert_eq!((answer.cookie, answer.error), (0xa11_fe, 0));
    }

    /// The next complete answer.
    pub fn answer(&mut self) -> Answer {
        loop {
            if let Some(answer) = self.frame() {
                return answer;
            }
        }
    }

    /// Takes one simple reply or one chunk; Some if that completed an answer.
    fn frame(&mut self) -> Option<Answer> {
        let magic = self.take(4);
        let len = match u32::from_be_bytes(magic.as_slice().try_into().unwrap()) {
            0x6744_6698 => SimpleReply::LEN,
            0x668e_33ef => ChunkHeader::STRUCTURED_LEN,
            0x6e8a_278c => ChunkHeader::EXTENDED_LEN,
            other => panic!("{other:08x} is no reply"),
        };
        let head = [magic, self.take(len - 4)].concat();
        match len {
            SimpleReply::LEN => Some(self.simple(&head)),
            ChunkHeader::STRUCTURED_LEN => self.chunk(ChunkHeader::parse_structured(&head).unwrap()),
            _ => self.chunk(ChunkHeader::parse_extended(&head).unwrap()),
        }
    }

    fn simple(&mut self, head: &[u8]) -> Answer {
        let SimpleReply { error, cookie } = SimpleReply::parse(head).unwrap();
        assert_ne!(self.mode, ReplyMode::Extended, "no simple reply with extended headers");
        let mut answer = Answer { cookie, error, ..Answer::default() };
        if let Some((offset, len)) = self.reads.remove(&cookie) {
            assert_eq!(self.mode, ReplyMode::Simple, "READ is answered in chunks");
            if error == 0 && len > 0 {
                let data = self.take(usize::try_from(len).unwrap());
                answer.content.push((offset, Content::Data(data)));
            }
        }
        answer
    }

    fn chunk(&mut self, header: ChunkHeader) -> Option<Answer> {
        let extended = self.mode == ReplyMode::Extended;
        let len = usize::try_from(header.len).unwrap();
        assert!(
            header.kind == chunk::OFFSET_DATA
                || header.kind == chunk::BLOCK_STATUS
                || header.kind == chunk::BLOCK_STATUS_EXT
                || ChunkHeader::EXTENDED_LEN + len <= 1000
        );
        assert!(len <= (32 << 20) + 8, "a data chunk of {len} bytes");
        let payload = self.take(len);
        let mut answer = self.partial.remove(&header.cookie).unwrap_or_default();
        answer.cookie = header.cookie;
        answer.chunks += 1;
        if let (true, Some((offset, _))) = (extended, self.reads.get(&header.cookie)) {
            assert_eq!(header.offset, *offset, "the request's offset is echoed");
        }
        match header.kind {
            chunk::NONE => assert!(payload.is_empty() && header.flags & CHUNK_DONE != 0),
            chunk::OFFSET_DATA => {
                let offset = u64::from_be_bytes(payload[..8].try_into().unwrap());
                answer.content.push((offset, Content::Data(payload[8..].to_vec())));
            }
            chunk::OFFSET_HOLE => {
                let hole = HolePayload::parse(&payload).unwrap();
                answer.content.push((hole.offset, Content::Hole(u64::from(hole.len))));
            }
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => {
                assert_eq!(extended, header.kind == chunk::BLOCK_STATUS_EXT);
                let status = StatusPayload::parse(&payload, extended).unwrap();
                answer.extents.push((status.context, status.extents));
            }
            chunk::ERROR | chunk::ERROR_OFFSET => {
                let error = ErrorPayload::parse(&payload, header.kind == chunk::ERROR_OFFSET).unwrap();
                assert!(std::str::from_utf8(error.message).is_ok());
                assert_ne!(error.error, 0);
                answer.error = error.error;
            }
            other => panic!("chunk of type {other}"),
        }
        if header.flags & CHUNK_DONE == 0 {
            self.partial.insert(header.cookie, answer);
            return None;
        }
        self.reads.remove(&header.cookie);
        Some(answer)
    }
}

pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let header = OptionHeader { option, len: u32::try_from(data.len()).unwrap() };
    [header.emit().as_slice(), data].concat()
}

pub fn query(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    ExportQuery { name, wanted: wanted.to_vec() }.emit(&mut out);
    out
}

pub fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    let count = u32::try_from(queries.len()).unwrap();
    MetaQuery { name, count, queries: queries.to_vec() }.emit(&mut out);
    out
}

/// The ids and names of META_CONTEXT replies.
pub fn contexts(replies: &[(u32, Vec<u8>)]) -> Vec<(u32, String)> {
    let of = |data: &[u8]| MetaContext::parse(data).map(|c| (c.id, c.name.to_owned())).unwrap();
    replies.iter().filter(|(kind, _)| *kind == reply::META_CONTEXT).map(|(_, data)| of(data)).collect()
}

/// Bytes that differ from place to place, so that a misplaced one shows.
pub fn pattern(offset: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| {
            let word = (offset + i) / 8;
            let mixed = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (word >> 29);
            mixed.to_le_bytes()[usize::try_from((offset + i) % 8).unwrap()]
        })
        .collect()
}
