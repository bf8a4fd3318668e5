//! The driver against the running kernel: files in temporary folders, sockets on the loopback.

mod files;
mod life;
mod sockets;

use super::*;
use crate::base::prng::Prng;
use crate::base::units::{ByteLen, ByteOffset, Span};
use crate::io::buf::{Buf, BufMut};
use crate::io::driver::{
    Accepted, Access, Address, Direction, FileFacts, FileId, FileKind, RecvInto, SocketId,
};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tempfile::TempDir;

/// A driver with its pool; operations are run one at a time, or begun and awaited by token.
struct Rig {
    driver: UringDriver,
    pool: BufPool,
    tokens: u64,
    ended: BTreeMap<u64, Done>,
}

impl Rig {
    fn new() -> Rig {
        Rig::sharing(Handles::new(), UringConfig::default())
    }

    fn sharing(shared: Arc<Handles>, config: UringConfig) -> Rig {
        let pool = BufPool::new(8 << 20).unwrap();
        let driver = UringDriver::new(config, &pool, shared).unwrap();
        Rig { driver, pool, tokens: 0, ended: BTreeMap::new() }
    }

    fn begin(&mut self, op: Op) -> u64 {
        self.tokens += 1;
        self.driver.submit(Token(self.tokens), op);
        self.tokens
    }

    fn reap(&mut self) -> usize {
        let mut completions = Vec::new();
        self.driver.reap(&mut completions);
        let count = completions.len();
        for Completion { token, done } in completions {
            assert!(self.ended.insert(token.0, done).is_none(), "{token:?} completed twice");
        }
        count
    }

    /// Waits for an operation, at most ten seconds.
    fn end(&mut self, token: u64) -> Done {
        let give_up = self.driver.now() + Duration::from_secs(10);
        loop {
            self.reap();
            if let Some(done) = self.ended.remove(&token) {
                return done;
            }
            assert!(self.driver.now() < give_up, "operation {token} does not end");
            self.driver.park(Some(give_up));
        }
    }

    fn run(&mut self, op: Op) -> Done {
        let token = self.begin(op);
        self.end(token)
    }

    fn open(&mut self, path: &Path, access: Access) -> Result<(FileId, FileFacts), Errno> {
        match self.run(Op::Open { path: path.to_owned(), access }) {
            Done::Opened(result) => result.map(|opened| (opened.file, opened.facts)),
            _ => panic!("Open ends with Opened"),
        }
    }

    fn create(&mut self, path: &Path, size: u64) -> FileId {
        self.open(path, Access::ExclusiveCreate { size: ByteLen(size) }).unwrap().0
    }

    fn finish(&mut self, op: Op) -> Result<(), Errno> {
        match self.run(op) {
            Done::Finished(result) => result,
            _ => panic!("ends with Finished"),
        }
    }

    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8], durable: bool) -> Result<(), Errno> {
        let from = self.pool.copy_of(bytes).freeze();
        self.finish(Op::Write { file, offset: ByteOffset(offset), from, durable })
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let into = self.pool.take(len);
        match self.run(Op::Read { file, offset: ByteOffset(offset), into }) {
            Done::Read(result, into) => result.map(|count| into.as_slice()[..count].to_vec()),
            _ => panic!("Read ends with Read"),
        }
    }

    fn listen(&mut self, address: Address) -> (SocketId, Address) {
        let socket = match self.run(Op::Listen { address }) {
            Done::Socket(result) => result.unwrap(),
            _ => panic!("Listen ends with Socket"),
        };
        match self.run(Op::LocalAddress { socket }) {
            Done::LocalAddress(result) => (socket, result.unwrap()),
            _ => panic!("LocalAddress ends with LocalAddress"),
        }
    }

    fn connect(&mut self, address: Address) -> Result<SocketId, Errno> {
        match self.run(Op::Connect { address }) {
            Done::Socket(result) => result,
            _ => panic!("Connect ends with Socket"),
        }
    }

    fn accepted(&mut self, token: u64) -> Result<Accepted, Errno> {
        match self.end(token) {
            Done::Accepted(result) => result,
            _ => panic!("Accept ends with Accepted"),
        }
    }

    /// Two ends of a connection and what was said about the connecting one.
    fn pair(&mut self, listen_on: Address) -> (SocketId, SocketId, String) {
        let (listener, address) = self.listen(listen_on);
        let accept = self.begin(Op::Accept { socket: listener });
        let near = self.connect(address).unwrap();
        let Accepted { socket: far, peer } = self.accepted(accept).unwrap();
        assert_eq!(self.finish(Op::CloseSocket { socket: listener }), Ok(()));
        (near, far, peer)
    }

    fn received(&mut self, token: u64) -> (Result<usize, Errno>, RecvInto) {
        match self.end(token) {
            Done::Received(result, into) => (result, into),
            _ => panic!("Recv ends with Received"),
        }
    }

    fn recv(&mut self, socket: SocketId, len: usize) -> Vec<u8> {
        let into = RecvInto { first: self.pool.take(len), second: None };
        let token = self.begin(Op::Recv { socket, into, least: 1 });
        let (result, into) = self.received(token);
        into.first.as_slice()[..result.unwrap()].to_vec()
    }

    fn sent(&mut self, token: u64) -> Result<(), Errno> {
        match self.end(token) {
            Done::Sent(result, _) => result,
            _ => panic!("Send ends with Sent"),
        }
    }
}

fn loopback() -> Address {
    Address::Tcp("127.0.0.1:0".parse().unwrap())
}

/// Folders to test files in: on the disk, and on a memory file system where there is one.
fn folders() -> Vec<TempDir> {
    let mut folders = vec![tempfile::tempdir().unwrap()];
    folders.extend(tempfile::tempdir_in("/dev/shm"));
    folders
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut prng = Prng::from_seed(seed);
    (0..len).map(|_| u8::try_from(prng.below(256)).unwrap()).collect()
}
