//! Many clients, bad clients, and stopping: what the server does for the others.

use crate::client::{Client, ESHUTDOWN, READ, ZERO, meta, option_bytes, pattern, query, request};
use crate::server::{SIZE, Server, tank};
use drystone::base::prng::Prng;
use drystone::base::units::ByteLen;
use drystone::nbd::wire::ReplyMode;
use drystone::nbd::wire::number::reply;
use drystone::target::{Stopped, TargetConfig};
use drystone::volume::memory::MemoryVolume;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const CLEAN: Stopped = Stopped { cut: 0, stuck: 0 };

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_thousand_connections_are_served_on_two_cores() {
    let config = TargetConfig::default();
    let server = Server::start_with(vec![("tank", MemoryVolume::new(ByteLen(SIZE)))], config, 2, None);
    let mut clients: Vec<_> =
        (0..1000).map(|_| Client::open(server.address, "tank", ReplyMode::Simple)).collect();
    wait_until("all are counted", || server.target.connections_of("tank") == 1000);
    let loads = server.target.loads();
    assert!(loads.iter().all(|load| (450..=550).contains(load)), "{loads:?}");
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.write(i as u64 * 4096, &pattern(i as u64, 4096)), 0);
    }
    for (i, client) in clients.iter_mut().enumerate() {
        let at = (i + 500) % 1000;
        assert!(client.read(at as u64 * 4096, 4096) == pattern(at as u64, 4096));
    }
    drop(clients);
    wait_until("all are gone", || server.target.connections_of("tank") == 0);
    assert_eq!(server.stop(Duration::from_secs(5)), CLEAN);
}

#[test]
fn garbage_and_mutated_sessions_harm_nobody_else() {
    let server = tank();
    let mut good = Client::open(server.address, "tank", ReplyMode::Structured);
    good.write(SIZE - 4096, &pattern(0, 4096));
    let mut prng = Prng::from_seed(99);
    for round in 0..400 {
        let mut bad = TcpStream::connect(server.address).unwrap();
        let mut bytes = session_bytes();
        if round % 4 == 0 {
            prng.fill(&mut bytes);
        }
        for _ in 0..prng.below(8) {
            let at = usize::try_from(prng.below(bytes.len() as u64)).unwrap();
            bytes[at] = u8::try_from(prng.below(256)).unwrap();
        }
        bytes.truncate(usize::try_from(prng.below(bytes.len() as u64 + 1)).unwrap());
        // It may have been closed already: that is what is wanted.
        let _ = bad.write_all(&bytes);
        if round % 3 == 0 {
            bad.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            let _ = bad.read(&mut [0; 4096]);
        }
        drop(bad);
        if round % 20 == 0 {
            assert!(good.read(SIZE - 4096, 4096) == pattern(0, 4096));
        }
    }
    good.expect_alive();
    wait_until("the bad ones are gone", || server.target.loads() == [1]);
}

/// A plausible session that never touches the last block.
fn session_bytes() -> Vec<u8> {
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(option_bytes(8, b""));
    bytes.extend(option_bytes(10, &meta("tank", &["base:allocation"])));
    bytes.extend(option_bytes(7, &query("tank", &[3])));
    let request = |flags: u16, command: u16, offset: u64, len: u64| {
        drystone::nbd::wire::Request { flags, command, cookie: 1, offset, len }.emit_compact()
    };
    for command in [0u16, 3, 4, 6, 7] {
        bytes.extend(request(0, command, 4096, 8192));
    }
    bytes.extend(request(0, 1, 0, 4096));
    bytes.extend([0; 4096]);
    bytes.extend(request(0, 2, 0, 0));
    bytes
}

#[test]
fn half_open_and_slow_clients_delay_nobody_and_end_at_the_deadline() {
    let config = TargetConfig { handshakes_max: 60, ..TargetConfig::default() };
    let server = Server::start_with(vec![("tank", MemoryVolume::new(ByteLen(SIZE)))], config, 1, None);
    let silent: Vec<_> = (0..50).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    wait_until("they are accepted", || server.target.loads() == [50]);
    let start = Instant::now();
    let mut good = Client::open(server.address, "tank", ReplyMode::Simple);
    assert!(start.elapsed() < Duration::from_secs(3));
    // A client in transmission may be as slow as it likes.
    for byte in good.request_bytes(0, READ, 5, 0, 512) {
        good.send(&[byte]);
        std::thread::sleep(Duration::from_millis(5));
    }
    good.expect_read(5, 0, 512);
    assert_eq!(good.answer().bytes(0, 512), vec![0; 512]);
    while server.target.loads() != [1] {
        assert!(start.elapsed() < Duration::from_secs(25), "silent clients are closed at the deadline");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(silent);
    good.expect_alive();
}

#[test]
fn too_many_negotiations_wait_in_the_backlog_and_are_served_later() {
    let config = TargetConfig { handshakes_max: 4, ..TargetConfig::default() };
    let server = Server::start_with(vec![("tank", MemoryVolume::new(ByteLen(SIZE)))], config, 1, None);
    let mut first: Vec<_> = (0..4).map(|_| Client::connect(server.address)).collect();
    let mut waiting = TcpStream::connect(server.address).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(waiting.read(&mut [0; 18]).is_err(), "no greeting yet");
    drop(first.pop());
    waiting.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut greeting = [0; 18];
    waiting.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
}

#[test]
fn a_payload_that_does_not_arrive_is_not_waited_for_for_ever() {
    let config = TargetConfig { patience: Duration::from_secs(2), ..TargetConfig::default() };
    let server = Server::start_with(vec![("tank", MemoryVolume::new(ByteLen(SIZE)))], config, 1, None);
    let mut slow = Client::open(server.address, "tank", ReplyMode::Simple);
    slow.send_request(0, crate::client::WRITE, 1, 0, 32 << 20);
    slow.send(&[1; 100_000]);
    let start = Instant::now();
    wait_until("the payload's memory is reserved", || server.target.budget_free() < 512 << 20);
    slow.expect_close();
    assert!((1..8).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    wait_until("it is gone", || server.target.loads() == [0]);
    assert_eq!(server.target.budget_free(), 512 << 20);
    assert_eq!(Client::open(server.address, "tank", ReplyMode::Simple).read(0, 4096), vec![0; 4096]);
}

#[test]
fn stopping_closes_idle_connections_at_once() {
    let server = tank();
    let clients: Vec<_> = (0..10).map(|_| Client::open(server.address, "tank", ReplyMode::Simple)).collect();
    let address = server.address;
    let start = Instant::now();
    assert_eq!(server.stop(Duration::from_secs(20)), CLEAN);
    assert!(start.elapsed() < Duration::from_secs(5));
    clients.into_iter().for_each(Client::expect_close);
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn stopping_refuses_new_requests_finishes_old_ones_and_cuts_what_is_left() {
    let huge = MemoryVolume::new(ByteLen((1 << 63) - 4096)).discarding_writes();
    let server = Server::start(vec![("huge", huge)]);
    let mut client = Client::open(server.address, "huge", ReplyMode::Extended);
    client.send_request(request::NO_HOLE, ZERO, 1, 0, 1 << 62);
    client.read(0, 512);
    server.begin_stop(Duration::from_secs(3));
    std::thread::sleep(Duration::from_millis(300));
    for mode_error in [READ, ZERO] {
        let answer = client.ask(0, mode_error, 0, 512);
        assert_eq!(answer.error, ESHUTDOWN);
    }
    client.send_write(0, 4, 0, &[1; 100_000]);
    assert_eq!(client.answer().error, ESHUTDOWN);
    let start = Instant::now();
    assert_eq!(server.stopped(), Stopped { cut: 1, stuck: 0 });
    assert!(start.elapsed() < Duration::from_secs(5));
    client.expect_close();
}

#[test]
fn stopping_answers_options_with_err_shutdown() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    assert_eq!(client.kinds(8, b""), [reply::ACK]);
    let mut aborting = Client::haggling(server.address);
    assert_eq!(aborting.kinds(8, b""), [reply::ACK]);
    server.begin_stop(Duration::from_secs(10));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(client.kinds(7, &query("tank", &[])), [reply::ERR_SHUTDOWN]);
    client.expect_close();
    assert_eq!(aborting.kinds(2, b""), [reply::ACK]);
    aborting.expect_close();
    assert_eq!(server.stopped(), CLEAN);
}

#[test]
fn a_unix_socket_is_served_like_tcp() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    let config = TargetConfig::default();
    let server = Server::start_with(vec![("tank", MemoryVolume::new(ByteLen(SIZE)))], config, 1, Some(&path));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    stream.write_all(&option_bytes(1, b"tank")).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[..8], SIZE.to_be_bytes());
    assert_eq!(server.stop(Duration::from_secs(5)), CLEAN);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "closed");
}
