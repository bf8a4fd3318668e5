//! Sockets on the loopback.

use super::*;
use std::path::PathBuf;

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
    let token = rig.begin(Op::Recv { socket: far, into: RecvInto { first, second: Some(second) }, least: 1 });
    let (result, into) = rig.received(token);
    assert_eq!(result, Ok(300));
    let second = into.second.unwrap();
    assert_eq!([into.first.as_slice(), &second.as_slice()[..200]].concat(), pattern(300, 4));
    let into = RecvInto { first: rig.pool.take(0), second: None };
    let token = rig.begin(Op::Recv { socket: far, into, least: 1 });
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
        let waiting = rig.begin(Op::Recv { socket: near, into, least: 1 });
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
    let waiting = rig.begin(Op::Recv { socket: near, into, least: 1 });
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
