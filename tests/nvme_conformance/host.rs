//! A raw host: says what a test says, byte by byte, and checks of every PDU that it is one.
//!
//! Written from the protocol, and apart from the tables of the product, so that no error is made on both sides.

pub use crate::association::{Connect, Host, log_command, read, write};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take before a test fails.
pub const TIMEOUT: Duration = Duration::from_secs(20);

pub const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";
pub const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-00000000beef";
pub const EVERY_NAMESPACE: u32 = u32::MAX;

/// The kinds of PDUs.
pub const IC_REQUEST: u8 = 0;
pub const IC_RESPONSE: u8 = 1;
pub const HOST_TERMINATION: u8 = 2;
pub const TERMINATION: u8 = 3;
pub const CAPSULE: u8 = 4;
pub const RESPONSE: u8 = 5;
pub const HOST_DATA: u8 = 6;
pub const DATA: u8 = 7;
pub const READY: u8 = 9;

/// Flags of PDUs.
pub const LAST: u8 = 4;
pub const SUCCESS: u8 = 8;

/// Digests of a connection, as bits of the introduction.
pub const HEADERS: u8 = 1;
pub const PAYLOADS: u8 = 2;

/// A digest, as it stands on the wire.
pub fn sum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).to_le_bytes()
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// A PDU from its parts: the header behind the common one, and the data.
pub fn pdu(kind: u8, flags: u8, digests: u8, header: &[u8], data: &[u8]) -> Vec<u8> {
    let may_have = !matches!(kind, IC_REQUEST | HOST_TERMINATION);
    let has_header = may_have && digests & HEADERS != 0;
    let has_data = may_have && digests & PAYLOADS != 0 && !data.is_empty();
    let header_len = 8 + header.len();
    let start = header_len + if has_header { 4 } else { 0 };
    let whole = start + data.len() + if has_data { 4 } else { 0 };
    let place = if data.is_empty() { 0 } else { start };
    let flags = flags | u8::from(has_header) | u8::from(has_data) << 1;
    let narrow = |n: usize| u8::try_from(n).unwrap();
    let mut bytes = vec![kind, flags, narrow(header_len), narrow(place)];
    bytes.extend(u32::try_from(whole).unwrap().to_le_bytes());
    bytes.extend(header);
    if has_header {
        bytes.extend(sum(&bytes));
    }
    bytes.extend(data);
    if has_data {
        bytes.extend(sum(data));
    }
    bytes
}

/// The introduction of a host.
pub fn introduction(digests: u8) -> Vec<u8> {
    let mut header = [0; 120];
    header[3] = digests;
    pdu(IC_REQUEST, 0, 0, &header, &[])
}

/// A received PDU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pdu {
    pub kind: u8,
    pub flags: u8,
    /// The whole header, the common one included.
    pub header: Vec<u8>,
    pub data: Vec<u8>,
}

impl Pdu {
    /// The command that it belongs to, of one that moves data.
    pub fn command(&self) -> u16 {
        u16_at(&self.header, 8)
    }

    pub fn tag(&self) -> u16 {
        u16_at(&self.header, 10)
    }

    /// Where its data belongs, and how much there is.
    pub fn window(&self) -> (u32, u32) {
        (u32_at(&self.header, 12), u32_at(&self.header, 16))
    }
}

/// A completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    pub result: u64,
    pub queue_head: u16,
    pub id: u16,
    /// Type and code: type << 8 | code.
    pub status: u16,
    pub no_retry: bool,
}

impl Completion {
    pub fn of(pdu: &Pdu) -> Completion {
        assert_eq!(pdu.kind, RESPONSE, "{pdu:?}");
        let cqe = &pdu.header[8..24];
        assert_eq!(u16_at(cqe, 10), 0, "the queue's number is reserved");
        let status = u16_at(cqe, 14);
        assert_eq!(status & 0x7001, 0, "no phase, no delay, no more");
        Completion {
            result: u64_at(cqe, 0),
            queue_head: u16_at(cqe, 8),
            id: u16_at(cqe, 12),
            status: status >> 1 & 0x7ff,
            no_retry: status >> 15 == 1,
        }
    }
}

/// A submission queue entry.
#[derive(Clone, Copy)]
pub struct Command(pub [u8; 64]);

impl Command {
    pub fn new(opcode: u8, namespace: u32) -> Command {
        let mut command = Command([0; 64]);
        (command.0[0], command.0[1]) = (opcode, 0x40);
        command.with(4, &namespace.to_le_bytes())
    }

    /// Fabrics commands have their kind where others have a namespace.
    pub fn fabrics(kind: u8) -> Command {
        Command::new(0x7f, u32::from(kind))
    }

    pub fn with(mut self, at: usize, bytes: &[u8]) -> Command {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Command dword `number`.
    pub fn dword(self, number: usize, value: u32) -> Command {
        self.with(4 * number, &value.to_le_bytes())
    }

    /// The blocks of a command that has some: the first, and how many.
    pub fn blocks(self, first: u64, count: u32) -> Command {
        self.with(40, &first.to_le_bytes()).with(48, &u16::try_from(count - 1).unwrap().to_le_bytes())
    }

    pub fn id(self, id: u16) -> Command {
        self.with(2, &id.to_le_bytes())
    }

    /// The descriptor of its data.
    pub fn place(self, identifier: u8, address: u64, len: u32) -> Command {
        self.with(24, &address.to_le_bytes()).with(32, &len.to_le_bytes()).with(39, &[identifier])
    }

    pub fn here(self, len: u32) -> Command {
        self.place(0x01, 0, len)
    }

    pub fn moved(self, len: u32) -> Command {
        self.place(0x5a, 0, len)
    }
}

/// The data of a command.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    None,
    /// Sent behind the command.
    Here(&'a [u8]),
    /// Sent when it is asked for.
    Asked(&'a [u8]),
    /// So many bytes are wanted from the controller.
    Back(u32),
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Answer {
    pub result: u64,
    pub queue_head: u16,
    pub status: u16,
    pub no_retry: bool,
    pub data: Vec<u8>,
}

impl Answer {
    /// The data of a command that succeeded.
    pub fn bytes(self) -> Vec<u8> {
        assert_eq!(self.status, 0, "{self:?}");
        self.data
    }

    pub fn ok(self) -> u64 {
        assert_eq!(self.status, 0, "{self:?}");
        self.result
    }
}

/// One connection.
pub struct Conn {
    pub stream: TcpStream,
    pub digests: u8,
    next: u16,
    /// Completions that came while another one was waited for.
    pub early: Vec<Completion>,
    /// The admin queue of its association, where a test needs no more of that than that it is there.
    pub admin: Option<Box<Conn>>,
}

impl Conn {
    /// Before any introduction.
    pub fn open(address: SocketAddr) -> Conn {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        Conn { stream, digests: 0, next: 1, early: Vec::new(), admin: None }
    }

    /// Behind the introductions.
    pub fn introduced(address: SocketAddr, digests: u8) -> Conn {
        let mut conn = Conn::open(address);
        conn.introduce(digests);
        conn
    }

    /// Exchanges introductions; gives the controller's.
    pub fn introduce(&mut self, digests: u8) -> Vec<u8> {
        self.send(&introduction(digests));
        let answer = self.receive();
        assert_eq!((answer.kind, answer.flags, answer.header.len()), (IC_RESPONSE, 0, 128));
        assert_eq!(answer.header[11], digests, "hosts insist on what they asked for");
        self.digests = digests;
        answer.header
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends to a connection that may be closed meanwhile.
    pub fn try_send(&mut self, bytes: &[u8]) {
        // Whether it came to that is seen by what is received.
        let _ = self.stream.write_all(bytes);
    }

    fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        match self.stream.read_exact(&mut bytes) {
            Ok(()) => Some(bytes),
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => None,
            Err(e) => panic!("nothing comes: {e}"),
        }
    }

    /// The next PDU, checked; None if the connection is closed.
    pub fn try_receive(&mut self) -> Option<Pdu> {
        let mut header = self.exactly(8)?;
        let (kind, flags, len, place) = (header[0], header[1], usize::from(header[2]), header[3]);
        let whole = u32_at(&header, 4) as usize;
        let wanted = match kind {
            IC_RESPONSE => 128,
            TERMINATION | RESPONSE | DATA | READY => 24,
            other => panic!("a controller does not send {other}"),
        };
        assert_eq!(len, wanted, "HLEN of {kind}");
        let may_have = matches!(kind, RESPONSE | DATA | READY);
        let has_header = may_have && self.digests & HEADERS != 0;
        header.extend(self.exactly(len - 8).expect("the rest of a header"));
        if has_header {
            assert_eq!(self.exactly(4).unwrap(), sum(&header), "header digest");
        }
        let start = len + if has_header { 4 } else { 0 };
        let has_data = kind == DATA && self.digests & PAYLOADS != 0;
        let data_len = whole.checked_sub(start + if has_data { 4 } else { 0 }).expect("PLEN");
        assert!(data_len > 0 || !matches!(kind, DATA), "data without data");
        assert!(data_len == 0 || matches!(kind, DATA | TERMINATION), "{kind} has no data");
        let wanted_place = if kind == DATA { start } else { 0 };
        assert_eq!(usize::from(place), wanted_place, "PDO of {kind}");
        let allowed = if kind == DATA { LAST | SUCCESS } else { 0 };
        let agreed = u8::from(has_header) | u8::from(has_data) << 1;
        assert_eq!(flags & !allowed, agreed, "flags of {kind}");
        let data = self.exactly(data_len).expect("the data");
        if has_data {
            assert_eq!(self.exactly(4).unwrap(), sum(&data), "data digest");
        }
        check_reserved(kind, &header);
        Some(Pdu { kind, flags, header, data })
    }

    pub fn receive(&mut self) -> Pdu {
        self.try_receive().expect("the connection is there")
    }

    pub fn completion(&mut self) -> Completion {
        Completion::of(&self.receive())
    }

    /// FES and FEI of a termination, and what of the offending PDU came with it; then the end.
    pub fn termination(&mut self) -> (u16, u32, Vec<u8>) {
        let pdu = self.receive();
        assert_eq!(pdu.kind, TERMINATION, "{pdu:?}");
        assert!((4..=128).contains(&pdu.data.len()), "{}", pdu.data.len());
        self.expect_close();
        (u16_at(&pdu.header, 8), u32_at(&pdu.header, 10), pdu.data)
    }

    /// Nothing more comes but the end.
    pub fn expect_close(&mut self) {
        let next = self.try_receive();
        assert_eq!(next, None, "the connection is closed");
    }

    /// The end comes, whatever else came before it.
    pub fn drain(&mut self) {
        while self.try_receive().is_some() {}
    }

    /// Whether nothing comes for a moment.
    pub fn is_silent(&mut self, moment: Duration) -> bool {
        self.stream.set_read_timeout(Some(moment)).unwrap();
        let found = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        matches!(found.map_err(|e| e.kind()), Err(ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    pub fn new_id(&mut self) -> u16 {
        self.next = self.next.wrapping_add(1) & 0x7fff;
        self.next
    }

    /// The capsule of a command, with the data that lies behind it.
    pub fn capsule(&self, command: &Command, data: &[u8]) -> Vec<u8> {
        pdu(CAPSULE, 0, self.digests, &command.0, data)
    }

    /// Sends a command as it is.
    pub fn submit(&mut self, command: &Command, data: &[u8]) {
        let bytes = self.capsule(command, data);
        self.send(&bytes);
    }

    /// A piece of data that was asked for.
    pub fn piece(&self, command: u16, tag: u16, offset: u32, data: &[u8], flags: u8) -> Vec<u8> {
        let mut header = [0; 16];
        header[..2].copy_from_slice(&command.to_le_bytes());
        header[2..4].copy_from_slice(&tag.to_le_bytes());
        header[4..8].copy_from_slice(&offset.to_le_bytes());
        header[8..12].copy_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
        pdu(HOST_DATA, flags, self.digests, &header, data)
    }

    /// Sends a command with its descriptor and a name of its own; gives the name.
    pub fn start(&mut self, command: &Command, data: Data<'_>) -> u16 {
        let id = self.new_id();
        let len = |data: &[u8]| u32::try_from(data.len()).unwrap();
        let command = command.id(id);
        match data {
            Data::None => self.submit(&command.moved(0), &[]),
            Data::Here(data) => self.submit(&command.here(len(data)), data),
            Data::Asked(data) => self.submit(&command.moved(len(data)), &[]),
            Data::Back(len) => self.submit(&command.moved(len), &[]),
        }
        id
    }

    /// Sends a command and sees it through to its answer.
    pub fn ask(&mut self, command: &Command, data: Data<'_>) -> Answer {
        let id = self.start(command, data);
        self.finish(id, data)
    }

    /// Sees a command through whose capsule was sent; completions of others are kept.
    pub fn finish(&mut self, id: u16, data: Data<'_>) -> Answer {
        let mut back = Vec::new();
        if let Some(at) = self.early.iter().position(|one| one.id == id) {
            return answer(self.early.remove(at), back);
        }
        loop {
            let pdu = self.receive();
            match pdu.kind {
                READY => {
                    let Data::Asked(bytes) = data else { panic!("nothing to ask for: {pdu:?}") };
                    assert_eq!(pdu.command(), id);
                    let (from, len) = pdu.window();
                    assert!(len > 0);
                    let bytes = &bytes[from as usize..(from + len) as usize];
                    let piece = self.piece(id, pdu.tag(), from, bytes, LAST);
                    self.send(&piece);
                }
                DATA => {
                    let Data::Back(wanted) = data else { panic!("no data was wanted: {pdu:?}") };
                    assert_eq!((pdu.command(), pdu.tag()), (id, 0));
                    let len = u32::try_from(pdu.data.len()).unwrap();
                    assert_eq!(pdu.window(), (u32::try_from(back.len()).unwrap(), len), "no gap");
                    back.extend(&pdu.data);
                    let is_last = back.len() == wanted as usize;
                    assert_eq!(pdu.flags & LAST != 0, is_last, "LAST on the last one alone");
                    if pdu.flags & SUCCESS != 0 {
                        assert!(is_last);
                        let (status, no_retry) = (0, false);
                        return Answer { result: 0, queue_head: u16::MAX, status, no_retry, data: back };
                    }
                }
                _ => {
                    let done = Completion::of(&pdu);
                    if done.id == id {
                        return answer(done, back);
                    }
                    self.early.push(done);
                }
            }
        }
    }

    /// Works until the controller has answered something.
    pub fn expect_alive(&mut self, on_admin_queue: bool) {
        let command = if on_admin_queue { Command::new(0x18, 0) } else { Command::new(0, EVERY_NAMESPACE) };
        self.ask(&command, Data::None).ok();
    }
}

fn answer(done: Completion, data: Vec<u8>) -> Answer {
    let Completion { result, queue_head, status, no_retry, .. } = done;
    Answer { result, queue_head, status, no_retry, data }
}

/// Reserved bytes are zero.
fn check_reserved(kind: u8, header: &[u8]) {
    let reserved = match kind {
        IC_RESPONSE => 16..128,
        TERMINATION => 14..24,
        DATA | READY => 20..24,
        _ => return,
    };
    assert!(header[reserved].iter().all(|byte| *byte == 0), "reserved bytes of {kind}");
}

/// Bytes that tell where they belong.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    drystone::base::prng::Prng::from_seed(seed).fill(&mut bytes);
    bytes
}
