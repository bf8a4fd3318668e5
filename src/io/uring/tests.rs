//! The driver against the running kernel: files in temporary folders, sockets on the loopback.

use super::*;
use crate::base::prng::Prng;
use crate::base::units::{ByteLen, ByteOffset, Span};
use crate::io::buf::{Buf, BufMut};
use crate::io::driver::{
    Accepted, Access, Address, Direction, FileFacts, FileId, FileKind, RecvInto, SocketId,
};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
        let token = self.begin(Op::Recv { socket, into });
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

#[test]
fn what_is_written_is_read_on_every_kind_of_file() {
    let mut rig = Rig::new();
    for folder in folders() {
        let file = rig.create(&folder.path().join("disk"), 8 << 20);
        for (durable, offset, len) in [(false, 0, 4096), (true, 1 << 20, 1 << 20), (true, 65536, 8192)] {
            let bytes = pattern(len, offset);
            assert_eq!(rig.write(file, offset, &bytes, durable), Ok(()));
            assert_eq!(rig.finish(Op::Flush { file }), Ok(()));
            assert!(rig.read(file, offset, len).unwrap() == bytes, "at {offset}");
        }
        assert_eq!(rig.finish(Op::Close { file }), Ok(()));
        assert_eq!(rig.finish(Op::Flush { file }), Err(Errno::EBADF));
    }
}

#[test]
fn buffers_outside_the_arena_work_too() {
    let mut rig = Rig::new();
    let held: Vec<BufMut> = (0..4).map(|_| rig.pool.take(2 << 20)).collect();
    assert!(!rig.pool.take(1).is_registered(), "the arena is exhausted");
    for folder in folders() {
        let file = rig.create(&folder.path().join("disk"), 1 << 20);
        let bytes = pattern(65536, 1);
        assert_eq!(rig.write(file, 4096, &bytes, true), Ok(()));
        assert!(rig.read(file, 4096, 65536).unwrap() == bytes);
    }
    drop(held);
}

#[test]
fn a_read_ends_short_only_at_the_end_of_the_file() {
    let mut rig = Rig::new();
    for folder in folders() {
        let path = folder.path().join("odd");
        std::fs::write(&path, vec![7; 10_000]).unwrap();
        let (file, facts) = rig.open(&path, Access::Inspect).unwrap();
        assert_eq!(facts.size, ByteLen(10_000));
        assert_eq!(rig.read(file, 0, 16384).unwrap(), vec![7; 10_000]);
        assert_eq!(rig.read(file, 8192, 4096).unwrap(), vec![7; 1808]);
        assert_eq!(rig.read(file, 12288, 4096).unwrap(), Vec::<u8>::new());
        assert_eq!(rig.read(file, 0, 0).unwrap(), Vec::<u8>::new());
        assert_eq!(rig.read(file, u64::MAX - 4095, 4096), Err(Errno::EINVAL));
    }
}

#[test]
fn an_exclusive_open_is_refused_until_the_close_has_ended() {
    let shared = Handles::new();
    let mut rig = Rig::sharing(shared.clone(), UringConfig::default());
    for folder in folders() {
        let path = folder.path().join("disk");
        let first = rig.create(&path, 1 << 20);
        assert_eq!(rig.open(&path, Access::Exclusive).unwrap_err(), Errno::EBUSY);
        let create = Access::ExclusiveCreate { size: ByteLen(5) };
        assert_eq!(rig.open(&path, create).unwrap_err(), Errno::EBUSY);
        let (looking, facts) = rig.open(&path, Access::Inspect).unwrap();
        assert_eq!(facts.size, ByteLen(1 << 20));
        assert!(rig.write(looking, 0, &[0; 4096], false).is_err(), "opened for reading only");
        assert_eq!(rig.finish(Op::Close { file: first }), Ok(()));
        let (again, facts) = rig.open(&path, create).unwrap();
        assert_eq!(facts.size, ByteLen(1 << 20), "what exists keeps its size");
        assert_ne!(again, first, "ids are not used again");
        assert_eq!(rig.finish(Op::Close { file: first }), Err(Errno::EBADF));
    }
}

#[test]
fn only_files_and_block_devices_are_opened() {
    let mut rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [Path::new("/dev/null"), folder.path(), &fifo] {
        for access in [Access::Inspect, Access::Exclusive, Access::ExclusiveCreate { size: ByteLen(1) }] {
            assert_eq!(rig.open(path, access).unwrap_err(), Errno::EINVAL, "{path:?}");
        }
    }
    let missing = folder.path().join("missing");
    assert_eq!(rig.open(&missing, Access::Exclusive).unwrap_err(), Errno::ENOENT);
    assert!(!missing.exists());
}

#[test]
fn facts_of_a_file_are_told() {
    let mut rig = Rig::new();
    for folder in folders() {
        let path = folder.path().join("disk");
        let (file, facts) = rig.open(&path, Access::ExclusiveCreate { size: ByteLen(12_288) }).unwrap();
        assert_eq!((facts.kind, facts.size), (FileKind::RegularFile, ByteLen(12_288)));
        assert!([512, 4096].contains(&facts.logical_sector), "{facts:?}");
        assert!(facts.physical_sector >= facts.logical_sector && facts.discards);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(5).unwrap();
        match rig.run(Op::Size { file }) {
            Done::Size(size) => assert_eq!(size, Ok(ByteLen(5))),
            _ => panic!("Size ends with Size"),
        }
    }
}

#[test]
fn discarded_and_zeroed_spans_read_as_zeros_and_their_neighbours_stay() {
    let mut rig = Rig::new();
    for folder in folders() {
        let path = folder.path().join("disk");
        let file = rig.create(&path, 1 << 20);
        let bytes = vec![9; 1 << 20];
        assert_eq!(rig.write(file, 0, &bytes, false), Ok(()));
        let span = Span::at(65536, 131_072);
        assert_eq!(rig.finish(Op::Zero { file, span }), Ok(()));
        assert_eq!(rig.finish(Op::Discard { file, span: Span::at(524_288, 262_144) }), Ok(()));
        assert_eq!(rig.finish(Op::Discard { file, span: Span::at(0, 0) }), Ok(()));
        assert_eq!(rig.finish(Op::Zero { file, span: Span::at(1 << 63, 4096) }), Err(Errno::EINVAL));
        let all = rig.read(file, 0, 1 << 20).unwrap();
        assert_eq!(all.iter().filter(|b| **b == 0).count(), 131_072 + 262_144);
        assert!(all[65536..196_608].iter().all(|b| *b == 0) && all[524_288..786_432].iter().all(|b| *b == 0));
        assert_eq!(rig.finish(Op::Flush { file }), Ok(()));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
        assert!(blocks * 512 <= (1 << 20) - 262_144 + 65536, "the discarded space is back: {blocks}");
    }
}

#[test]
fn more_operations_than_the_queues_hold_all_complete() {
    let config = UringConfig { entries: 4, completions: 8, files: 1 };
    let mut rig = Rig::sharing(Handles::new(), config);
    for folder in folders() {
        let file = rig.create(&folder.path().join("disk"), 4 << 20);
        let mut tokens = Vec::new();
        for at in 0..200u64 {
            let from = rig.pool.copy_of(&vec![u8::try_from(at).unwrap(); 4096]).freeze();
            tokens.push(rig.begin(Op::Write { file, offset: ByteOffset(at * 4096), from, durable: false }));
        }
        for token in tokens {
            assert!(matches!(rig.end(token), Done::Finished(Ok(()))));
        }
        for at in 0..200u64 {
            assert_eq!(rig.read(file, at * 4096, 4096).unwrap(), vec![u8::try_from(at).unwrap(); 4096]);
        }
    }
}

#[test]
fn work_on_memory_files_leaves_room_for_others_and_keeps_the_driver_awake() {
    let mut rig = Rig::new();
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let file = rig.create(&folder.path().join("disk"), 8 << 20);
    let size = 1 << 20;
    for at in 0..4 {
        let into = rig.pool.take(size);
        rig.begin(Op::Read { file, offset: ByteOffset(at << 20), into });
    }
    let before = rig.driver.now();
    rig.driver.park(None);
    assert!(rig.driver.now().since(before) < Duration::from_secs(1));
    let counts: Vec<usize> = (0..4).map(|_| rig.reap()).collect();
    assert!(counts.iter().all(|n| *n <= 2) && counts.iter().sum::<usize>() == 4, "{counts:?}");
}

#[test]
fn park_returns_at_its_time_and_not_before() {
    let mut rig = Rig::new();
    rig.reap();
    for ms in [0, 1, 30] {
        let until = rig.driver.now() + Duration::from_millis(ms);
        rig.driver.park(Some(until));
        let now = rig.driver.now();
        assert!(now >= until, "woke early");
        assert!(now.since(until) < Duration::from_secs(1));
    }
    rig.driver.park(Some(Instant::from_ns(0)));
}

#[test]
fn an_unpark_from_any_thread_ends_the_next_park_once() {
    let mut rig = Rig::new();
    let unparker = rig.driver.unparker();
    unparker.unpark();
    unparker.unpark();
    rig.driver.park(None);
    unparker.unpark();
    rig.reap();
    rig.driver.park(None);
    let quiet = rig.driver.now() + Duration::from_millis(20);
    rig.driver.park(Some(quiet));
    assert!(rig.driver.now() >= quiet, "two unparks before a park are one");
    for _ in 0..50 {
        let unparker = unparker.clone();
        let other = std::thread::spawn(move || unparker.unpark());
        rig.driver.park(None);
        other.join().unwrap();
    }
}

#[test]
fn a_driver_wakes_for_nothing_but_a_reason() {
    let mut rig = Rig::new();
    rig.reap();
    let switches = || nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
    let before = switches().voluntary_context_switches();
    rig.driver.park(Some(rig.driver.now() + Duration::from_millis(200)));
    let after = switches().voluntary_context_switches();
    assert!(after - before <= 3, "{} wake-ups in an idle sleep", after - before);
}

#[test]
fn bytes_go_both_ways_over_tcp_and_local_sockets() {
    let mut rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    let local = folder.path().join("socket");
    for (address, says) in [
        (loopback(), "127.0.0.1:"),
        (Address::Tcp("[::1]:0".parse().unwrap()), "[::1]:"),
        (Address::Unix(local), "unix"),
    ] {
        let (near, far, peer) = rig.pair(address);
        assert!(peer.starts_with(says), "{peer}");
        for (from, to) in [(near, far), (far, near)] {
            let bytes: Vec<Buf> =
                [&b"dry"[..], b"", b"stone"].iter().map(|b| rig.pool.copy_of(b).freeze()).collect();
            let send = rig.begin(Op::Send { socket: from, from: bytes });
            assert_eq!(rig.recv(to, 64), b"drystone");
            assert_eq!(rig.sent(send), Ok(()));
        }
        assert_eq!(rig.finish(Op::CloseSocket { socket: near }), Ok(()));
        assert_eq!(rig.recv(far, 64), b"", "the end of the stream");
        assert_eq!(rig.finish(Op::CloseSocket { socket: far }), Ok(()));
        assert_eq!(rig.finish(Op::CloseSocket { socket: far }), Err(Errno::EBADF));
    }
    assert_eq!(rig.driver.shared.open_count(), 0);
}

#[test]
fn a_receive_fills_the_first_window_before_the_second() {
    let mut rig = Rig::new();
    let (near, far, _) = rig.pair(loopback());
    let from = vec![rig.pool.copy_of(&pattern(300, 4)).freeze()];
    let send = rig.begin(Op::Send { socket: near, from });
    assert_eq!(rig.sent(send), Ok(()));
    let (mut first, mut second) = (rig.pool.take(4096), rig.pool.take(4096));
    first.set_window(1000..1100);
    second.set_window(8..4096);
    let token = rig.begin(Op::Recv { socket: far, into: RecvInto { first, second: Some(second) } });
    let (result, into) = rig.received(token);
    assert_eq!(result, Ok(300));
    let second = into.second.unwrap();
    assert_eq!([into.first.as_slice(), &second.as_slice()[..200]].concat(), pattern(300, 4));
    let into = RecvInto { first: rig.pool.take(0), second: None };
    let token = rig.begin(Op::Recv { socket: far, into });
    assert_eq!(rig.received(token).0, Err(Errno::EINVAL), "no room is not the end of the stream");
}

#[test]
fn a_large_send_of_many_buffers_arrives_whole_and_in_order() {
    let mut rig = Rig::new();
    let (near, far, _) = rig.pair(loopback());
    let whole = pattern(3 << 20, 5);
    let mut from: Vec<Buf> = Vec::new();
    let mut prng = Prng::from_seed(6);
    let mut at = 0;
    while at < whole.len() {
        // Thousands of small buffers, then large ones.
        let most = if from.len() < 3000 { 64 } else { 300_000 };
        let len = usize::try_from(prng.below(most)).unwrap().min(whole.len() - at);
        from.push(rig.pool.copy_of(&whole[at..at + len]).freeze());
        at += len;
    }
    assert!(from.len() > 3000);
    let send = rig.begin(Op::Send { socket: near, from });
    let mut got = Vec::new();
    while got.len() < whole.len() {
        got.extend(rig.recv(far, 200_000));
    }
    assert!(got == whole);
    assert_eq!(rig.sent(send), Ok(()));
    let nothing = rig.begin(Op::Send { socket: near, from: Vec::new() });
    assert_eq!(rig.sent(nothing), Ok(()));
}

#[test]
fn a_shutdown_ends_what_waits() {
    let mut rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    for address in [loopback(), Address::Unix(folder.path().join("socket"))] {
        let (listener, _) = rig.listen(address.clone());
        let accept = rig.begin(Op::Accept { socket: listener });
        rig.reap();
        let stop = Op::Shutdown { socket: listener, direction: Direction::Read };
        assert_eq!(rig.finish(stop), Ok(()));
        assert_eq!(rig.accepted(accept).unwrap_err(), Errno::EINVAL);
        assert_eq!(rig.finish(Op::CloseSocket { socket: listener }), Ok(()));

        let (near, far, _) = rig.pair(address);
        let into = RecvInto { first: rig.pool.take(64), second: None };
        let waiting = rig.begin(Op::Recv { socket: near, into });
        rig.reap();
        assert_eq!(rig.finish(Op::Shutdown { socket: near, direction: Direction::Read }), Ok(()));
        assert_eq!(rig.received(waiting).0, Ok(0));
        assert_eq!(rig.finish(Op::Shutdown { socket: near, direction: Direction::Write }), Ok(()));
        assert_eq!(rig.recv(far, 64), b"");
        let from = vec![rig.pool.copy_of(b"x").freeze()];
        let send = rig.begin(Op::Send { socket: near, from });
        assert_eq!(rig.sent(send), Err(Errno::EPIPE));
    }
}

#[test]
fn closing_a_socket_ends_what_waits_on_it() {
    let mut rig = Rig::new();
    let (near, far, _) = rig.pair(loopback());
    let into = RecvInto { first: rig.pool.take(64), second: None };
    let waiting = rig.begin(Op::Recv { socket: near, into });
    rig.reap();
    assert_eq!(rig.finish(Op::CloseSocket { socket: near }), Ok(()));
    assert_eq!(rig.received(waiting).0, Ok(0));
    assert_eq!(rig.recv(far, 64), b"");
    let (listener, address) = rig.listen(loopback());
    let accept = rig.begin(Op::Accept { socket: listener });
    assert_eq!(rig.finish(Op::CloseSocket { socket: listener }), Ok(()));
    assert_eq!(rig.accepted(accept).unwrap_err(), Errno::EINVAL);
    assert_eq!(rig.connect(address.clone()), Err(Errno::ECONNREFUSED));
    assert_eq!(rig.listen(address.clone()).1, address, "the port is free again");
}

#[test]
fn a_local_listener_replaces_a_dead_one_and_not_a_living_one() {
    use std::os::unix::fs::PermissionsExt;
    let mut rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left behind");
    let (listener, address) = rig.listen(Address::Unix(path.clone()));
    assert_eq!(address, Address::Unix(path.clone()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
    let refused = |rig: &mut Rig, path: PathBuf| match rig.run(Op::Listen { address: Address::Unix(path) }) {
        Done::Socket(result) => result.unwrap_err(),
        _ => panic!("Listen ends with Socket"),
    };
    assert_eq!(refused(&mut rig, path.clone()), Errno::EADDRINUSE);
    assert_eq!(rig.finish(Op::CloseSocket { socket: listener }), Ok(()));
    assert!(!path.exists(), "removed by the one who made it");
    std::fs::write(&path, b"precious").unwrap();
    assert_eq!(refused(&mut rig, path.clone()), Errno::EADDRINUSE);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn ids_of_the_wrong_kind_are_refused() {
    let mut rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    let file = rig.create(&folder.path().join("disk"), 4096);
    let (listener, _) = rig.listen(loopback());
    assert_eq!(rig.read(FileId(listener.0), 0, 512), Err(Errno::EBADF));
    assert_eq!(rig.finish(Op::Close { file: FileId(listener.0) }), Err(Errno::EBADF));
    let span = Span::at(0, 512);
    assert_eq!(rig.finish(Op::Discard { file: FileId(listener.0), span }), Err(Errno::EBADF));
    assert_eq!(rig.finish(Op::Zero { file: FileId(77), span }), Err(Errno::EBADF));
    let accept = rig.begin(Op::Accept { socket: SocketId(file.0) });
    assert_eq!(rig.accepted(accept).unwrap_err(), Errno::ENOTSOCK);
    assert_eq!(rig.finish(Op::CloseSocket { socket: SocketId(file.0) }), Err(Errno::EBADF));
    assert_eq!(rig.finish(Op::Flush { file }), Ok(()), "none of this closed it");
}

#[test]
fn a_handle_serves_every_core_and_closes_when_the_last_lets_go() {
    let shared = Handles::new();
    let mut rig = Rig::sharing(shared.clone(), UringConfig::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let file = rig.create(&path, 1 << 20);
    assert_eq!(rig.write(file, 0, &[5; 4096], false), Ok(()));
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (quit, may_quit) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        let mut rig = Rig::sharing(shared, UringConfig::default());
        assert_eq!(rig.read(file, 0, 4096).unwrap(), vec![5; 4096]);
        ready.send(()).unwrap();
        // Asleep, as a core with nothing to do: only the close can wake it.
        rig.driver.park(None);
        rig.reap();
        assert_eq!(rig.read(file, 0, 4096), Err(Errno::EBADF));
        may_quit.recv().unwrap();
    });
    is_ready.recv().unwrap();
    assert_eq!(rig.finish(Op::Close { file }), Ok(()));
    assert!(rig.open(&path, Access::Exclusive).is_ok(), "the lock is gone when the close has ended");
    quit.send(()).unwrap();
    other.join().unwrap();
}

#[test]
fn a_dropped_driver_gets_its_buffers_back_first() {
    let shared = Handles::new();
    let folder = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let mut rig = Rig::sharing(shared.clone(), UringConfig::default());
        let (near, far, _) = rig.pair(loopback());
        let path = folder.path().join(format!("disk{round}"));
        let file = rig.create(&path, 1 << 20);
        let into = RecvInto { first: rig.pool.take(4096), second: Some(rig.pool.take(4096)) };
        rig.begin(Op::Recv { socket: near, into });
        let big: Vec<Buf> = (0..8).map(|_| rig.pool.zeroes(1 << 20)).collect();
        rig.begin(Op::Send { socket: far, from: big });
        rig.begin(Op::Accept { socket: near });
        for at in 0..32 {
            let from = rig.pool.copy_of(&[3; 4096]).freeze();
            rig.begin(Op::Write { file, offset: ByteOffset(at * 4096), from, durable: true });
        }
        if round % 2 == 0 {
            rig.reap();
        }
        let Rig { driver, pool, ended, .. } = rig;
        drop(ended);
        drop(driver);
        assert_eq!(pool.in_use(), (0, 0), "nothing was leaked");
    }
}

#[test]
fn setup_errors_say_what_to_do() {
    let blocked = SetupError::Blocked { errno: Errno::EPERM, disabled: Some(2) };
    assert_eq!(blocked.code(), "URING_BLOCKED");
    assert_eq!(blocked.to_string(), "this kernel refuses io_uring (io_uring_setup: Operation not permitted)");
    assert!(blocked.facts()[0].ends_with("-> sudo sysctl kernel.io_uring_disabled=0"));
    let low = Warning::MemlockLow { arena: 64 << 20, limit: Some(8 << 20) };
    assert_eq!(low.to_string(), "64 MiB of buffers cannot be locked (limit 8 MiB)");
}
