//! A driver in memory whose one socket leads to a small NBD server, with faults: pieces of any size, an end after
//! any number of bytes, silence. Time passes only when a core parks.

use crate::base::prng::Prng;
use crate::io::buf::BufPool;
use crate::io::driver::{Completion, Done, Driver, Op, SocketId, Token, Unpark};
use crate::io::time::Instant;
use crate::nbd::wire::number::{CHUNK_DONE, Command, OptionCode, chunk, export, reply};
use crate::nbd::wire::{
    ChunkHeader, ExportNameReply, Greeting, HolePayload, InfoItem, OptionHeader, OptionReplyHeader,
    ReplyMode, Request, SimpleReply,
};
use crate::reactor::{Core, CoreIndex};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::sync::Arc;

pub const SIZE: usize = 4 << 20;

/// How the server behaves.
#[derive(Clone, Copy)]
pub struct Manner {
    /// Bytes handed out at once.
    pub piece: usize,
    /// Bytes sent before the stream ends.
    pub end_after: usize,
    /// Requests answered before the server falls silent.
    pub silent_after: usize,
    /// Options that this server refuses as unknown.
    pub unsupported: &'static [OptionCode],
    pub flags: u16,
}

impl Default for Manner {
    fn default() -> Manner {
        let flags = export::HAS_FLAGS | export::SEND_FLUSH | export::SEND_FUA | export::SEND_TRIM;
        Manner { piece: usize::MAX, end_after: usize::MAX, silent_after: usize::MAX, unsupported: &[], flags }
    }
}

/// A core whose connections lead to a server of this manner.
pub fn core(manner: Manner) -> Core {
    let driver =
        ScriptDriver { server: Server::new(manner), ended: VecDeque::new(), recv: None, now: 0, open: true };
    Core::new(CoreIndex(0), Box::new(driver), BufPool::new(8 << 20).unwrap(), Prng::from_seed(1))
}

struct Server {
    manner: Manner,
    mode: ReplyMode,
    transmission: bool,
    saw_flags: bool,
    input: Vec<u8>,
    output: VecDeque<u8>,
    sent: usize,
    answered: usize,
    finished: bool,
    disk: Vec<u8>,
}

impl Server {
    fn new(manner: Manner) -> Server {
        let disk = vec![0; SIZE];
        let (input, output) = (Vec::new(), Greeting { flags: 3 }.emit().into());
        Server {
            manner,
            mode: ReplyMode::Simple,
            transmission: false,
            saw_flags: false,
            input,
            output,
            sent: 0,
            answered: 0,
            finished: false,
            disk,
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while self.step() {}
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        self.input.drain(..bytes).collect()
    }

    fn step(&mut self) -> bool {
        if !self.saw_flags {
            self.saw_flags = self.input.len() >= 4;
            if self.saw_flags {
                self.take(4);
            }
            return self.saw_flags;
        }
        if self.transmission { self.request() } else { self.option() }
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        self.output.extend(OptionReplyHeader { option, kind, len }.emit());
        self.output.extend(data);
    }

    fn option(&mut self) -> bool {
        let Ok(header) = OptionHeader::parse(&self.input) else { return false };
        let whole = 16 + header.len as usize;
        if self.input.len() < whole {
            return false;
        }
        let data = self.take(whole).split_off(16);
        let option = OptionCode::from_wire(header.option).expect("a known option");
        if self.manner.unsupported.contains(&option) {
            self.reply(header.option, reply::ERR_UNSUP, b"what is that?");
            return true;
        }
        let (size, flags) = (SIZE as u64, self.manner.flags);
        match option {
            OptionCode::Go => {
                let mut info = Vec::new();
                InfoItem::Export { size, flags }.emit(&mut info);
                self.reply(header.option, reply::INFO, &info);
                self.transmission = true;
            }
            OptionCode::ExportName => {
                self.output.extend(ExportNameReply { size, flags }.emit());
                self.transmission = true;
                return true;
            }
            OptionCode::StructuredReply => self.mode = ReplyMode::Structured,
            OptionCode::ExtendedHeaders => self.mode = ReplyMode::Extended,
            OptionCode::SetMetaContext => {
                let name = data[data.len() - 15..].to_vec();
                self.reply(header.option, reply::META_CONTEXT, &[&9u32.to_be_bytes()[..], &name].concat());
            }
            OptionCode::Abort
            | OptionCode::List
            | OptionCode::StartTls
            | OptionCode::Info
            | OptionCode::ListMetaContext => panic!("not asked by this client"),
        }
        self.reply(header.option, reply::ACK, &[]);
        true
    }

    fn request(&mut self) -> bool {
        let Ok(request) = Request::parse(self.mode, &self.input) else { return false };
        let command = Command::from_wire(request.command).expect("a known command");
        let head = self.mode.request_len();
        let payload = if command == Command::Write { request.len as usize } else { 0 };
        if self.input.len() < head + payload {
            return false;
        }
        let payload = self.take(head + payload).split_off(head);
        self.answered += 1;
        if self.answered > self.manner.silent_after {
            return true;
        }
        let range = request.offset as usize..(request.offset + request.len) as usize;
        match command {
            Command::Read => self.read(&request, range),
            Command::Write => {
                self.disk[range].copy_from_slice(&payload);
                self.effect(&request);
            }
            Command::Disconnect => self.finished = true,
            Command::BlockStatus => self.status(&request),
            Command::Flush | Command::Trim | Command::WriteZeroes => self.effect(&request),
            Command::Cache => panic!("not asked by this client"),
        }
        true
    }

    fn chunk(&mut self, request: &Request, kind: u16, flags: u16, payload: &[u8]) {
        let (cookie, offset, len) = (request.cookie, request.offset, payload.len() as u64);
        let header = ChunkHeader { flags, kind, cookie, offset, len };
        match self.mode {
            ReplyMode::Extended => self.output.extend(header.emit_extended()),
            ReplyMode::Simple | ReplyMode::Structured => self.output.extend(header.emit_structured()),
        }
        self.output.extend(payload);
    }

    fn effect(&mut self, request: &Request) {
        match self.mode {
            ReplyMode::Extended => self.chunk(request, chunk::NONE, CHUNK_DONE, &[]),
            ReplyMode::Simple | ReplyMode::Structured => {
                self.output.extend(SimpleReply { error: 0, cookie: request.cookie }.emit());
            }
        }
    }

    /// In two chunks, each a hole where it is zero.
    fn read(&mut self, request: &Request, range: std::ops::Range<usize>) {
        let data = self.disk[range].to_vec();
        if self.mode == ReplyMode::Simple {
            self.output.extend(SimpleReply { error: 0, cookie: request.cookie }.emit());
            self.output.extend(data);
            return;
        }
        let half = data.len() / 2;
        let parts = [(0, &data[..half], 0), (half, &data[half..], CHUNK_DONE)];
        for (start, part, flags) in parts.into_iter().filter(|(_, part, _)| !part.is_empty()) {
            let offset = request.offset + start as u64;
            if part.iter().all(|b| *b == 0) {
                let hole = HolePayload { offset, len: part.len() as u32 }.emit();
                self.chunk(request, chunk::OFFSET_HOLE, flags, &hole);
            } else {
                self.chunk(request, chunk::OFFSET_DATA, flags, &[&offset.to_be_bytes()[..], part].concat());
            }
        }
    }

    fn status(&mut self, request: &Request) {
        let (mut payload, extended) = (9u32.to_be_bytes().to_vec(), self.mode == ReplyMode::Extended);
        if extended {
            payload.extend_from_slice(&1u32.to_be_bytes());
            payload.extend_from_slice(&request.len.to_be_bytes());
            payload.extend_from_slice(&3u64.to_be_bytes());
            return self.chunk(request, chunk::BLOCK_STATUS_EXT, CHUNK_DONE, &payload);
        }
        payload.extend_from_slice(&(request.len as u32).to_be_bytes());
        payload.extend_from_slice(&3u32.to_be_bytes());
        self.chunk(request, chunk::BLOCK_STATUS, CHUNK_DONE, &payload);
    }

    /// The next bytes for the client; Some(empty) is the end of the stream.
    fn send(&mut self, room: usize) -> Option<Vec<u8>> {
        let may = self.manner.piece.min(room).min(self.manner.end_after - self.sent).min(self.output.len());
        self.sent += may;
        let ended = self.sent == self.manner.end_after || (self.finished && self.output.is_empty());
        if may == 0 && !ended { None } else { Some(self.output.drain(..may).collect()) }
    }
}

struct ScriptDriver {
    server: Server,
    ended: VecDeque<Completion>,
    recv: Option<(Token, crate::io::driver::RecvInto)>,
    now: u64,
    open: bool,
}

impl ScriptDriver {
    fn pump(&mut self) {
        let Some((token, mut into)) = self.recv.take() else { return };
        let room = into.first.len() + into.second.as_ref().map_or(0, |b| b.len());
        let bytes = if self.open { self.server.send(room) } else { Some(Vec::new()) };
        let Some(bytes) = bytes else {
            self.recv = Some((token, into));
            return;
        };
        let first = bytes.len().min(into.first.len());
        into.first.as_mut_slice()[..first].copy_from_slice(&bytes[..first]);
        if let Some(second) = &mut into.second {
            second.as_mut_slice()[..bytes.len() - first].copy_from_slice(&bytes[first..]);
        }
        self.ended.push_back(Completion { token, done: Done::Received(Ok(bytes.len()), into) });
    }
}

impl Driver for ScriptDriver {
    fn now(&self) -> Instant {
        Instant::from_ns(self.now)
    }

    fn wall_ns(&self) -> u64 {
        self.now
    }

    fn submit(&mut self, token: Token, op: Op) {
        let done = match op {
            Op::Connect { .. } => Done::Socket(Ok(SocketId(1))),
            Op::Recv { into, .. } => {
                assert!(self.recv.is_none(), "one receiver at a time");
                self.recv = Some((token, into));
                return;
            }
            Op::Send { from, .. } => {
                let bytes: Vec<u8> = from.iter().flat_map(|b| b.as_slice().to_vec()).collect();
                self.server.receive(&bytes);
                Done::Sent(if self.open { Ok(()) } else { Err(Errno::EPIPE) }, from)
            }
            Op::Shutdown { .. } | Op::CloseSocket { .. } => {
                self.open = false;
                Done::Finished(Ok(()))
            }
            _ => panic!("a client does nothing else"),
        };
        self.ended.push_back(Completion { token, done });
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        self.pump();
        completions.extend(self.ended.drain(..));
    }

    fn park(&mut self, until: Option<Instant>) {
        self.pump();
        if !self.ended.is_empty() {
            return;
        }
        self.now =
            until.expect("without a timer nothing would ever happen again: a hang").as_ns().max(self.now);
    }

    fn unparker(&self) -> Arc<dyn Unpark> {
        struct Awake;
        impl Unpark for Awake {
            fn unpark(&self) {}
        }
        Arc::new(Awake)
    }
}
