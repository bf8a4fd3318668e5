//! What the cases stand on: a place to run in, and drivers to submit to and wait on.

use drystone::base::units::ByteOffset;
use drystone::io::buf::{Buf, BufPool};
use drystone::io::driver::{
    Accepted, Access, Address, Completion, Direction, Done, Driver, FileId, Op, Opened, RecvInto, SocketId,
    Token, Unpark,
};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// One implementation of the driver, and a machine to use it on.
pub trait Fixture {
    /// A driver for one more core of the same process, on this thread.
    fn driver(&mut self, buffers: &BufPool) -> Box<dyn Driver>;
    /// A regular file of zeros.
    fn file(&mut self, size: u64) -> PathBuf;
    /// A path where there is nothing, in a folder that exists.
    fn free_path(&mut self) -> PathBuf;
    /// An address for local sockets that nobody uses.
    fn local_address(&mut self) -> Address;
    /// Calls `unpark` after a while, from wherever this world does such things.
    fn unpark_after(&mut self, unpark: Arc<dyn Unpark>, delay: Duration);
    /// Whether its files are read and written at any byte, as those of memory file systems are.
    fn knows_no_sectors(&self) -> bool {
        false
    }
    /// Whether memory can be had in its folders that outlives a process.
    fn has_lasting_memory(&self) -> bool {
        true
    }
}

/// How long a case waits for an operation, in the driver's time.
const PATIENCE: Duration = Duration::from_secs(20);

/// What disks and reactor do on the spot.
fn now(driver: &mut dyn Driver, op: Op) -> Result<Done, Box<Op>> {
    match op {
        Op::Read { file, offset, mut into } => match driver.read_now(file, offset, &mut into) {
            true => Ok(Done::Read(Ok(into.len()), into)),
            false => driver.try_now(Op::Read { file, offset, into }).map_err(Box::new),
        },
        Op::Write { file, offset, from, .. } if driver.write_now(file, offset, &from) => {
            Ok(Done::Finished(Ok(())))
        }
        other => driver.try_now(other).map_err(Box::new),
    }
}

/// Some cores' drivers, waited on together.
pub struct Rig {
    pub drivers: Vec<Box<dyn Driver>>,
    pub buffers: BufPool,
    ended: BTreeMap<u64, Done>,
    tokens: u64,
}

impl Rig {
    pub fn new(fixture: &mut impl Fixture, cores: usize) -> Rig {
        let buffers = BufPool::new(8 << 20).unwrap();
        let drivers = (0..cores).map(|_| fixture.driver(&buffers)).collect();
        Rig { drivers, buffers, ended: BTreeMap::new(), tokens: 0 }
    }

    /// As the reactor does it: what can be done on the spot is, the rest is submitted.
    pub fn submit(&mut self, core: usize, op: Op) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        match now(self.drivers[core].as_mut(), op) {
            Ok(done) => drop(self.ended.insert(token.0, done)),
            Err(op) => self.drivers[core].submit(token, *op),
        }
        token
    }

    /// Looks at what has ended, on all cores, without waiting.
    pub fn collect(&mut self) {
        let mut completions = Vec::new();
        self.drivers.iter_mut().for_each(|driver| driver.reap(&mut completions));
        for Completion { token, done } in completions {
            assert!(token.0 <= self.tokens, "{token:?} was never submitted");
            assert!(self.ended.insert(token.0, done).is_none(), "{token:?} ended twice");
        }
    }

    pub fn wait(&mut self, token: Token) -> Done {
        let patience_ends = self.drivers[0].now() + PATIENCE;
        loop {
            self.collect();
            if let Some(done) = self.ended.remove(&token.0) {
                return done;
            }
            let now = self.drivers[0].now();
            assert!(now < patience_ends, "{token:?} does not end");
            self.drivers[0].park(Some(now + Duration::from_millis(1)));
        }
    }

    /// Lets some of the driver's time pass; says whether the operation has ended.
    pub fn ends_within(&mut self, token: Token, time: Duration) -> bool {
        let until = self.drivers[0].now() + time;
        loop {
            self.collect();
            if self.ended.contains_key(&token.0) {
                return true;
            }
            if self.drivers[0].now() >= until {
                return false;
            }
            self.drivers[0].park(Some(until));
        }
    }

    pub fn run(&mut self, core: usize, op: Op) -> Done {
        let token = self.submit(core, op);
        self.wait(token)
    }

    pub fn finish(&mut self, core: usize, op: Op) -> Result<(), Errno> {
        finished(self.run(core, op))
    }

    pub fn try_open(&mut self, core: usize, path: &Path, access: Access) -> Result<Opened, Errno> {
        match self.run(core, Op::Open { path: path.to_owned(), access }) {
            Done::Opened(result) => result,
            _ => panic!("Open ends with Opened"),
        }
    }

    pub fn open(&mut self, core: usize, path: &Path, access: Access) -> FileId {
        self.try_open(core, path, access).unwrap().file
    }

    pub fn write_op(&self, file: FileId, offset: u64, bytes: &[u8], durable: bool) -> Op {
        Op::Write { file, offset: ByteOffset(offset), from: self.buf(bytes), durable }
    }

    pub fn read_op(&self, file: FileId, offset: u64, len: usize) -> Op {
        Op::Read { file, offset: ByteOffset(offset), into: self.buffers.take(len) }
    }

    pub fn write(&mut self, core: usize, file: FileId, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let op = self.write_op(file, offset, bytes, false);
        self.finish(core, op)
    }

    pub fn read(&mut self, core: usize, file: FileId, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let op = self.read_op(file, offset, len);
        read_bytes(self.run(core, op))
    }

    pub fn buf(&self, bytes: &[u8]) -> Buf {
        self.buffers.copy_of(bytes).freeze()
    }

    pub fn listen(&mut self, core: usize, address: &Address) -> Result<SocketId, Errno> {
        socket(self.run(core, Op::Listen { address: address.clone() }))
    }

    pub fn address_of(&mut self, core: usize, socket: SocketId) -> Address {
        match self.run(core, Op::LocalAddress { socket }) {
            Done::LocalAddress(result) => result.unwrap(),
            _ => panic!("LocalAddress ends with LocalAddress"),
        }
    }

    pub fn connect(&mut self, core: usize, address: &Address) -> Result<SocketId, Errno> {
        socket(self.run(core, Op::Connect { address: address.clone() }))
    }

    /// A listener, and both ends of a connection to it: the one that connected, the one that was accepted.
    pub fn connected(&mut self, address: &Address) -> (SocketId, SocketId, SocketId) {
        let listener = self.listen(0, address).unwrap();
        let address = self.address_of(0, listener);
        let accept = self.submit(0, Op::Accept { socket: listener });
        let near = self.connect(0, &address).unwrap();
        let far = accepted(self.wait(accept)).unwrap().socket;
        (listener, near, far)
    }

    /// A send that may have to wait for the other end to receive.
    pub fn start_send(&mut self, core: usize, socket: SocketId, bytes: &[u8]) -> Token {
        let from = vec![self.buf(bytes)];
        self.submit(core, Op::Send { socket, from })
    }

    /// A send of so few bytes that they fit into any connection's buffers.
    pub fn send(&mut self, core: usize, socket: SocketId, bytes: &[u8]) -> Result<(), Errno> {
        let send = self.start_send(core, socket, bytes);
        sent(self.wait(send))
    }

    pub fn receive_op(&self, socket: SocketId, first: usize, second: Option<usize>) -> Op {
        self.receive_least_op(socket, first, second, 1)
    }

    pub fn receive_least_op(
        &self,
        socket: SocketId,
        first: usize,
        second: Option<usize>,
        least: usize,
    ) -> Op {
        let second = second.map(|len| self.buffers.take(len));
        Op::Recv { socket, into: RecvInto { first: self.buffers.take(first), second }, least }
    }

    /// One receive; no bytes mean the end of the stream.
    pub fn receive(&mut self, core: usize, socket: SocketId, len: usize) -> Result<Vec<u8>, Errno> {
        let op = self.receive_op(socket, len, None);
        received(self.run(core, op))
    }

    /// Receives until `len` bytes have come.
    pub fn receive_all(&mut self, core: usize, socket: SocketId, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            let part = self.receive(core, socket, (len - all.len()).min(100_000)).unwrap();
            assert!(!part.is_empty(), "the stream ends after {} of {len} bytes", all.len());
            all.extend(part);
        }
        all
    }

    pub fn shutdown(&mut self, core: usize, socket: SocketId, direction: Direction) -> Result<(), Errno> {
        self.finish(core, Op::Shutdown { socket, direction })
    }
}

pub fn finished(done: Done) -> Result<(), Errno> {
    match done {
        Done::Finished(result) => result,
        _ => panic!("it ends with Finished"),
    }
}

pub fn read_bytes(done: Done) -> Result<Vec<u8>, Errno> {
    match done {
        Done::Read(result, into) => result.map(|n| into.as_slice()[..n].to_vec()),
        _ => panic!("Read ends with Read"),
    }
}

pub fn socket(done: Done) -> Result<SocketId, Errno> {
    match done {
        Done::Socket(result) => result,
        _ => panic!("Listen and Connect end with Socket"),
    }
}

pub fn accepted(done: Done) -> Result<Accepted, Errno> {
    match done {
        Done::Accepted(result) => result,
        _ => panic!("Accept ends with Accepted"),
    }
}

pub fn sent(done: Done) -> Result<(), Errno> {
    match done {
        Done::Sent(result, _) => result,
        _ => panic!("Send ends with Sent"),
    }
}

/// The received bytes: what is in the first window, then what is in the second.
pub fn received(done: Done) -> Result<Vec<u8>, Errno> {
    let Done::Received(result, into) = done else { panic!("Recv ends with Received") };
    let len = result?;
    let first = len.min(into.first.len());
    let mut bytes = into.first.as_slice()[..first].to_vec();
    if let Some(second) = &into.second {
        bytes.extend_from_slice(&second.as_slice()[..len - first]);
    }
    Ok(bytes)
}

/// Bytes that differ from place to place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    drystone::base::prng::Prng::from_seed(seed).fill(&mut bytes);
    bytes
}
