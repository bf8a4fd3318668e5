//! A driver in memory whose sockets lead to a small NVMe/TCP controller, with faults: pieces of any size, an end after
//! any number of bytes, silence, damaged data. Time passes only when a core parks.

use crate::base::prng::Prng;
use crate::io::buf::BufPool;
use crate::io::driver::{Completion, Done, Driver, Op, RecvInto, SocketId, Token, Unpark};
use crate::io::time::Instant;
use crate::nvmf::command::{Cqe, DataPlace, Sqe, Status};
use crate::nvmf::pdu::{
    COMMON_LEN, DataLimits, Digests, Frame, IC_LEN, IcReq, IcResp, Kind, SHORT_LEN, Side, Transfer, digest,
    emit_response,
};
use crate::reactor::{Core, CoreIndex};
use nix::errno::Errno;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

pub const SIZE: usize = 4 << 20;
pub const BLOCK: usize = 512;

/// How the controller behaves.
#[derive(Clone, Copy)]
pub struct Manner {
    /// Bytes handed out at once.
    pub piece: usize,
    /// Bytes sent, on all connections together, before they end.
    pub end_after: usize,
    /// Commands answered before the controller falls silent.
    pub silent_after: usize,
    /// Bytes of one C2HData PDU, of one R2T, and MAXH2CDATA.
    pub data_out: usize,
    pub request: usize,
    pub data_max: u32,
    /// MDTS, and bytes behind a command.
    pub transfer_power: u8,
    pub capsule: u32,
    /// Data stands for responses.
    pub success: bool,
    /// Data of reads is damaged on its way.
    pub damage: bool,
    /// Keep Alive commands answered before one fails.
    pub alive: usize,
    pub read_only: bool,
    /// ONCS and VWC.
    pub optional: u8,
    pub cache: bool,
    pub namespaces: u32,
    /// Records of the discovery log.
    pub records: u64,
    /// The log changes so many times while it is read.
    pub changes: u64,
}

impl Default for Manner {
    fn default() -> Manner {
        Manner {
            piece: usize::MAX,
            end_after: usize::MAX,
            silent_after: usize::MAX,
            data_out: usize::MAX,
            request: usize::MAX,
            data_max: 128 << 10,
            transfer_power: 8,
            capsule: 8192,
            success: true,
            damage: false,
            alive: usize::MAX,
            read_only: false,
            optional: 0x0d,
            cache: true,
            namespaces: 3,
            records: 2,
            changes: 0,
        }
    }
}

/// What a test may look at afterwards.
#[derive(Default)]
pub struct Seen {
    /// I/O opcodes and the bytes of their data, in order.
    pub commands: Vec<(u8, u32)>,
    pub keep_alives: usize,
    /// H2CData PDUs, by length.
    pub transfers: Vec<u32>,
    pub shut_down: bool,
    pub connections: usize,
}

/// A core whose connections lead to a controller of this manner.
pub fn core(manner: Manner) -> (Core, Rc<RefCell<Seen>>) {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let shared =
        Shared { manner, disk: vec![0; SIZE], sent: 0, answered: 0, ready: false, seen: seen.clone() };
    let driver = ScriptDriver {
        shared,
        connections: BTreeMap::new(),
        receivers: BTreeMap::new(),
        ended: VecDeque::new(),
        now: 0,
    };
    let buffers = BufPool::new(8 << 20).unwrap();
    (Core::new(CoreIndex(0), Box::new(driver), buffers, Prng::from_seed(1)), seen)
}

struct Shared {
    manner: Manner,
    disk: Vec<u8>,
    sent: usize,
    answered: usize,
    ready: bool,
    seen: Rc<RefCell<Seen>>,
}

/// One connection: a queue.
#[derive(Default)]
struct Connection {
    digests: Digests,
    introduced: bool,
    queue: u16,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// Writes that wait for data, by tag.
    writes: BTreeMap<u16, Write>,
    closed: bool,
}

struct Write {
    entry: Sqe,
    data: Vec<u8>,
    len: usize,
    /// Bytes asked for so far.
    asked: usize,
}

const LIMITS: DataLimits = DataLimits { capsule: 1 << 20, data: 1 << 20 };

impl Connection {
    fn receive(&mut self, bytes: &[u8], shared: &mut Shared) {
        self.input.extend_from_slice(bytes);
        while self.step(shared) {}
    }

    fn step(&mut self, shared: &mut Shared) -> bool {
        if !self.introduced {
            let Some(bytes) = self.input.first_chunk::<IC_LEN>() else { return false };
            self.digests = IcReq::parse(bytes).unwrap().digests;
            self.input.drain(..IC_LEN);
            self.introduced = true;
            let data_max = shared.manner.data_max;
            self.output.extend(IcResp { alignment: 0, digests: self.digests, data_max }.emit());
            return true;
        }
        let Some(common) = self.input.first_chunk::<COMMON_LEN>() else { return false };
        let whole = u32::from_le_bytes([common[4], common[5], common[6], common[7]]) as usize;
        if self.input.len() < whole {
            return false;
        }
        let frame = Frame::of(common, Side::Host, self.digests, LIMITS).expect("a host that keeps to it");
        let pdu: Vec<u8> = self.input.drain(..whole).collect();
        frame.check_header(&pdu[..frame.head_len()]).expect("a good digest");
        let data = pdu[frame.head_len()..][..frame.data_len as usize].to_vec();
        if frame.has_data_digest {
            assert_eq!(digest(&data), pdu[whole - 4..], "a good digest");
        }
        match frame.kind {
            Kind::CapsuleCmd => self.command(Sqe::new(pdu[8..72].try_into().unwrap()), data, shared),
            Kind::H2cData => {
                self.data(&frame, Transfer::parse(pdu[..SHORT_LEN].try_into().unwrap()), data, shared)
            }
            _ => panic!("{frame:?}"),
        }
        true
    }

    fn command(&mut self, entry: Sqe, data: Vec<u8>, shared: &mut Shared) {
        match entry.opcode() {
            0x7f => return self.fabrics(&entry, &data, shared),
            0x02 if self.queue == 0 => return self.discovery_log(&entry, shared),
            0x06 => return self.identify(&entry, shared),
            // Set Features; on I/O queues the number is Dataset Management's.
            0x09 if self.queue == 0 => return self.respond(&entry, 0x0003_0003, Status::SUCCESS, shared),
            0x18 => {
                let mut seen = shared.seen.borrow_mut();
                seen.keep_alives += 1;
                let alive = seen.keep_alives <= shared.manner.alive;
                drop(seen);
                let status = if alive { Status::SUCCESS } else { Status::INTERNAL };
                return self.respond(&entry, 0, status, shared);
            }
            _ => {}
        }
        let place = entry.data().unwrap();
        shared.seen.borrow_mut().commands.push((entry.opcode(), place.len()));
        match (place, entry.opcode()) {
            (DataPlace::InCapsule { len, .. }, _) => {
                assert!(len == data.len() as u32 && len <= shared.manner.capsule, "fits the capsule");
                self.execute(&entry, &data, shared);
            }
            (DataPlace::ByTransfer { len }, 0x01 | 0x05 | 0x09) => {
                let tag = (0..).find(|tag| !self.writes.contains_key(tag)).unwrap();
                let len = len as usize;
                self.writes.insert(tag, Write { entry, data: Vec::new(), len, asked: 0 });
                self.request(tag, shared.manner.request);
            }
            (DataPlace::ByTransfer { .. }, _) => self.execute(&entry, &[], shared),
        }
    }

    fn request(&mut self, tag: u16, most: usize) {
        let write = self.writes.get_mut(&tag).unwrap();
        let len = (write.len - write.asked).min(most);
        let (command, offset) = (write.entry.id(), write.asked as u32);
        write.asked += len;
        let transfer = Transfer { command, tag, offset, len: len as u32 };
        self.output.extend(transfer.emit_r2t(self.digests).to_vec());
    }

    fn data(&mut self, frame: &Frame, transfer: Transfer, data: Vec<u8>, shared: &mut Shared) {
        shared.seen.borrow_mut().transfers.push(transfer.len);
        let write = self.writes.get_mut(&transfer.tag).expect("a tag that was given");
        assert_eq!((transfer.command, transfer.offset as usize), (write.entry.id(), write.data.len()));
        assert!(transfer.len <= shared.manner.data_max && transfer.len == data.len() as u32);
        write.data.extend_from_slice(&data);
        assert!(write.data.len() <= write.asked);
        assert_eq!(frame.last, write.data.len() == write.asked);
        if write.data.len() == write.len {
            let write = self.writes.remove(&transfer.tag).unwrap();
            self.execute(&write.entry, &write.data, shared);
        } else if frame.last {
            self.request(transfer.tag, shared.manner.request);
        }
    }

    fn fabrics(&mut self, entry: &Sqe, data: &[u8], shared: &mut Shared) {
        let result = match (entry.fabrics_type(), entry.u32(44)) {
            (0x01, _) => {
                assert_eq!((data.len(), entry.byte(46)), (1024, 4));
                self.queue = entry.u16(42);
                assert_eq!(&data[16..18], if self.queue == 0 { [0xff, 0xff] } else { [7, 0] });
                7
            }
            (0x00, 0x14) => {
                shared.ready = entry.u64(48) & 1 == 1;
                if entry.u64(48) >> 14 & 3 == 1 {
                    shared.seen.borrow_mut().shut_down = true;
                }
                0
            }
            (0x04, 0x00) => 127 | 1 << 37,
            (0x04, 0x08) => 0x0001_0400,
            (0x04, 0x1c) if shared.seen.borrow().shut_down => 1 | 2 << 2,
            (0x04, 0x1c) => u64::from(shared.ready),
            (kind, offset) => panic!("{kind:#x} {offset:#x}"),
        };
        self.respond(entry, result, Status::SUCCESS, shared);
    }

    fn identify(&mut self, entry: &Sqe, shared: &mut Shared) {
        let mut page = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        let manner = shared.manner;
        match entry.dword(10) {
            0x01 => {
                put(77, &[manner.transfer_power, 7]);
                put(320, &[10]);
                put(516, &u32::MAX.to_le_bytes());
                put(520, &[manner.optional, 0, 0, 0, 0, u8::from(manner.cache)]);
                put(536, &[1]);
                put(1792, &((64 + manner.capsule) / 16).to_le_bytes());
                put(1796, &[1]);
            }
            0x00 if entry.namespace() <= manner.namespaces => {
                put(0, &((SIZE / BLOCK) as u64).to_le_bytes());
                put(33, &[0x09]);
                put(99, &[u8::from(manner.read_only)]);
                put(130, &[9]);
            }
            0x00 => {}
            0x02 => {
                let after = (entry.namespace() + 1..=manner.namespaces).take(1024);
                after.enumerate().for_each(|(at, number)| put(4 * at, &number.to_le_bytes()));
            }
            0x03 => put(0, &[3, 16, 0, 0, 0xd5, 0xd5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            other => panic!("{other}"),
        }
        self.answer(entry, &page, shared);
    }

    fn discovery_log(&mut self, entry: &Sqe, shared: &mut Shared) {
        assert_eq!((entry.dword(10), entry.dword(11), entry.data().unwrap().len()), (0x00ff_8070, 0, 1024));
        let mut page = vec![0; 1024];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        match entry.dword(12) / 1024 {
            0 => {
                let manner = &mut shared.manner;
                put(0, &manner.changes.to_le_bytes());
                put(8, &manner.records.to_le_bytes());
                manner.changes = manner.changes.saturating_sub(1);
            }
            number => {
                put(0, &[3, 1, 2, 0, number as u8, 0]);
                put(256, b"nqn.x");
            }
        }
        self.answer(entry, &page, shared);
    }

    fn execute(&mut self, entry: &Sqe, data: &[u8], shared: &mut Shared) {
        let start = entry.u64(40) as usize * BLOCK;
        let len = ((entry.dword(12) & 0xffff) as usize + 1) * BLOCK;
        match entry.opcode() {
            0x00 => {}
            0x01 => shared.disk[start..start + len].copy_from_slice(data),
            0x02 => {
                let bytes = shared.disk[start..start + len].to_vec();
                return self.answer(entry, &bytes, shared);
            }
            0x05 if shared.disk[start..start + len] != *data => {
                return self.respond(entry, 0, Status::COMPARE_FAILED, shared);
            }
            0x05 => {}
            0x08 => shared.disk[start..start + len].fill(0),
            0x09 => {
                assert_eq!(data.len(), (entry.dword(10) as usize + 1) * 16);
                for range in data.chunks(16) {
                    let blocks = u32::from_le_bytes(range[4..8].try_into().unwrap()) as usize;
                    let first = u64::from_le_bytes(range[8..].try_into().unwrap()) as usize;
                    shared.disk[first * BLOCK..(first + blocks) * BLOCK].fill(0);
                }
            }
            other => panic!("{other}"),
        }
        self.respond(entry, 0, Status::SUCCESS, shared);
    }

    /// Data, and what stands behind it.
    fn answer(&mut self, entry: &Sqe, bytes: &[u8], shared: &mut Shared) {
        if shared.answered >= shared.manner.silent_after {
            return;
        }
        let (mut at, success) = (0, shared.manner.success);
        for part in bytes.chunks(shared.manner.data_out) {
            let transfer =
                Transfer { command: entry.id(), tag: 0, offset: at as u32, len: part.len() as u32 };
            at += part.len();
            let last = at == bytes.len();
            self.output.extend(transfer.emit_c2h(last, success, self.digests).to_vec());
            let sum = digest(part);
            let mut part = part.to_vec();
            part[0] ^= u8::from(shared.manner.damage && entry.opcode() == 0x02);
            self.output.extend(part);
            if self.digests.data {
                self.output.extend(sum);
            }
        }
        if success {
            shared.answered += 1;
        } else {
            self.respond(entry, 0, Status::SUCCESS, shared);
        }
    }

    fn respond(&mut self, entry: &Sqe, result: u64, status: Status, shared: &mut Shared) {
        if shared.answered < shared.manner.silent_after {
            shared.answered += 1;
            let cqe = Cqe { result, queue_head: u16::MAX, command: entry.id(), status, no_retry: true };
            self.output.extend(emit_response(&cqe.emit(), self.digests).to_vec());
        }
    }

    /// The next bytes for the host; Some(empty) is the end of the stream.
    fn send(&mut self, room: usize, shared: &mut Shared) -> Option<Vec<u8>> {
        let left = shared.manner.end_after - shared.sent;
        let may = shared.manner.piece.min(room).min(left).min(self.output.len());
        shared.sent += may;
        if self.closed {
            return Some(Vec::new());
        }
        if may == 0 && left > 0 { None } else { Some(self.output.drain(..may).collect()) }
    }
}

struct ScriptDriver {
    shared: Shared,
    connections: BTreeMap<u32, Connection>,
    receivers: BTreeMap<u32, (Token, RecvInto)>,
    ended: VecDeque<Completion>,
    now: u64,
}

impl ScriptDriver {
    fn pump(&mut self) {
        for (socket, (token, mut into)) in std::mem::take(&mut self.receivers) {
            let room = into.first.len() + into.second.as_ref().map_or(0, |b| b.len());
            let bytes = match self.connections.get_mut(&socket) {
                Some(connection) => connection.send(room, &mut self.shared),
                None => Some(Vec::new()),
            };
            let Some(bytes) = bytes else {
                self.receivers.insert(socket, (token, into));
                continue;
            };
            let first = bytes.len().min(into.first.len());
            into.first.as_mut_slice()[..first].copy_from_slice(&bytes[..first]);
            if let Some(second) = &mut into.second {
                second.as_mut_slice()[..bytes.len() - first].copy_from_slice(&bytes[first..]);
            }
            self.ended.push_back(Completion { token, done: Done::Received(Ok(bytes.len()), into) });
        }
    }

    fn connect(&mut self) -> SocketId {
        let mut seen = self.shared.seen.borrow_mut();
        seen.connections += 1;
        let socket = seen.connections as u32;
        self.connections.insert(socket, Connection::default());
        SocketId(socket)
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
            Op::Connect { .. } => Done::Socket(Ok(self.connect())),
            Op::Recv { socket, into, .. } => {
                let earlier = self.receivers.insert(socket.0, (token, into));
                assert!(earlier.is_none(), "one receiver at a time");
                return;
            }
            Op::Send { socket, from } => {
                let bytes: Vec<u8> = from.iter().flat_map(|b| b.as_slice().to_vec()).collect();
                match self.connections.get_mut(&socket.0).filter(|connection| !connection.closed) {
                    Some(connection) => {
                        connection.receive(&bytes, &mut self.shared);
                        Done::Sent(Ok(()), from)
                    }
                    None => Done::Sent(Err(Errno::EPIPE), from),
                }
            }
            Op::Shutdown { socket, .. } => {
                if let Some(connection) = self.connections.get_mut(&socket.0) {
                    connection.closed = true;
                }
                Done::Finished(Ok(()))
            }
            Op::CloseSocket { socket } => {
                self.connections.remove(&socket.0);
                Done::Finished(Ok(()))
            }
            _ => panic!("a host does nothing else"),
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
