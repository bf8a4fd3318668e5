//! Sockets.

use super::rig::{Fixture, Rig, accepted, finished, pattern, received, sent};
use drystone::io::driver::{Address, Direction, Op, SocketId};
use nix::errno::Errno;
use std::time::Duration;

/// Time in which something that should not end has the chance to.
const A_WHILE: Duration = Duration::from_millis(20);

fn any_port() -> Address {
    Address::Tcp("127.0.0.1:0".parse().unwrap())
}

fn rig_with_connection(fixture: &mut impl Fixture) -> (Rig, SocketId, SocketId) {
    let mut rig = Rig::new(fixture, 1);
    let (_, near, far) = rig.connected(&any_port());
    (rig, near, far)
}

fn echo(rig: &mut Rig, address: &Address) {
    let (listener, near, far) = rig.connected(address);
    let question = pattern(1, 5000);
    let asked = rig.start_send(0, near, &question);
    let heard = rig.receive_all(0, far, question.len());
    let answered = rig.start_send(0, far, &heard);
    assert_eq!(rig.receive_all(0, near, question.len()), question);
    for send in [asked, answered] {
        sent(rig.wait(send)).unwrap();
    }
    for socket in [near, far, listener] {
        rig.finish(0, Op::CloseSocket { socket }).unwrap();
    }
}

pub fn bytes_go_there_and_back_over_tcp(fixture: &mut impl Fixture) {
    let mut rig = Rig::new(fixture, 1);
    echo(&mut rig, &any_port());
}

pub fn bytes_go_there_and_back_locally(fixture: &mut impl Fixture) {
    let address = fixture.local_address();
    let mut rig = Rig::new(fixture, 1);
    echo(&mut rig, &address);
    echo(&mut rig, &address);
}

pub fn connecting_to_nobody_is_refused(fixture: &mut impl Fixture) {
    let local = fixture.local_address();
    let mut rig = Rig::new(fixture, 1);
    let listener = rig.listen(0, &any_port()).unwrap();
    let address = rig.address_of(0, listener);
    rig.finish(0, Op::CloseSocket { socket: listener }).unwrap();
    assert_eq!(rig.connect(0, &address), Err(Errno::ECONNREFUSED));
    assert_eq!(rig.connect(0, &local), Err(Errno::ENOENT));
}

pub fn an_address_is_listened_on_once(fixture: &mut impl Fixture) {
    let local = fixture.local_address();
    let mut rig = Rig::new(fixture, 1);
    let listener = rig.listen(0, &any_port()).unwrap();
    let address = rig.address_of(0, listener);
    assert!(matches!(&address, Address::Tcp(at) if at.port() != 0));
    assert_eq!(rig.listen(0, &address), Err(Errno::EADDRINUSE));
    rig.listen(0, &local).unwrap();
    assert_eq!(rig.listen(0, &local), Err(Errno::EADDRINUSE));
}

pub fn the_first_window_is_filled_before_the_second(fixture: &mut impl Fixture) {
    let (mut rig, near, far) = rig_with_connection(fixture);
    let bytes = pattern(2, 3000);
    let send = rig.start_send(0, near, &bytes);
    let (mut all, mut both) = (Vec::new(), false);
    while all.len() < bytes.len() {
        let op = rig.receive_op(far, 7, Some(500));
        let part = received(rig.run(0, op)).unwrap();
        assert!(!part.is_empty() && part.len() <= 507);
        both |= part.len() > 7;
        all.extend(part);
    }
    assert_eq!(all, bytes, "the windows laid end to end are the stream");
    assert!(both);
    sent(rig.wait(send)).unwrap();
}

pub fn a_large_scattered_send_arrives_in_order(fixture: &mut impl Fixture) {
    let (mut rig, near, far) = rig_with_connection(fixture);
    let sizes = (0..40).map(|n| match n % 4 {
        0 => 28,
        1 => 128 << 10,
        2 => 1,
        _ => 4096,
    });
    let bytes = pattern(3, sizes.clone().sum());
    let mut from = Vec::new();
    let mut start = 0;
    for size in sizes {
        from.push(rig.buf(&bytes[start..start + size]));
        start += size;
    }
    let send = rig.submit(0, Op::Send { socket: near, from });
    assert_eq!(rig.receive_all(0, far, bytes.len()), bytes);
    sent(rig.wait(send)).unwrap();
}

pub fn shutdown_ends_a_waiting_receive(fixture: &mut impl Fixture) {
    let (mut rig, near, far) = rig_with_connection(fixture);
    let op = rig.receive_op(far, 100, None);
    let waiting = rig.submit(0, op);
    assert!(!rig.ends_within(waiting, A_WHILE));
    rig.shutdown(0, far, Direction::Read).unwrap();
    assert_eq!(received(rig.wait(waiting)), Ok(Vec::new()));
    rig.send(0, far, b"still writes").unwrap();
    assert_eq!(rig.receive_all(0, near, 12), b"still writes");
}

pub fn shutdown_ends_a_waiting_accept(fixture: &mut impl Fixture) {
    let mut rig = Rig::new(fixture, 1);
    let listener = rig.listen(0, &any_port()).unwrap();
    let waiting = rig.submit(0, Op::Accept { socket: listener });
    assert!(!rig.ends_within(waiting, A_WHILE));
    rig.shutdown(0, listener, Direction::Read).unwrap();
    assert_eq!(accepted(rig.wait(waiting)), Err(Errno::EINVAL));
    let next = rig.run(0, Op::Accept { socket: listener });
    assert_eq!(accepted(next), Err(Errno::EINVAL));
}

pub fn closing_ends_what_waits(fixture: &mut impl Fixture) {
    let mut rig = Rig::new(fixture, 1);
    let (listener, near, far) = rig.connected(&any_port());
    let op = rig.receive_op(far, 100, Some(100));
    let receive = rig.submit(0, op);
    let accept = rig.submit(0, Op::Accept { socket: listener });
    assert!(!rig.ends_within(receive, A_WHILE) && !rig.ends_within(accept, A_WHILE));
    let closes = [far, listener].map(|socket| rig.submit(0, Op::CloseSocket { socket }));
    assert_eq!(received(rig.wait(receive)), Ok(Vec::new()));
    assert_eq!(accepted(rig.wait(accept)), Err(Errno::EINVAL));
    for close in closes {
        finished(rig.wait(close)).unwrap();
    }
    assert_eq!(rig.receive(0, near, 10), Ok(Vec::new()), "the peer sees the end");
    assert_eq!(rig.buffers.in_use(), (0, 0));
}

pub fn the_end_of_the_stream_follows_its_bytes(fixture: &mut impl Fixture) {
    let (mut rig, near, far) = rig_with_connection(fixture);
    let bytes = pattern(4, 1000);
    rig.send(0, near, &bytes).unwrap();
    rig.finish(0, Op::CloseSocket { socket: near }).unwrap();
    assert_eq!(rig.receive_all(0, far, bytes.len()), bytes);
    assert_eq!(rig.receive(0, far, 10), Ok(Vec::new()));
    assert_eq!(rig.receive(0, far, 10), Ok(Vec::new()), "and stays");
}

pub fn a_receive_of_many_bytes_gets_what_comes_before_the_end(fixture: &mut impl Fixture) {
    for close in [false, true] {
        let (mut rig, near, far) = rig_with_connection(fixture);
        let bytes = pattern(5, 700);
        let op = rig.receive_least_op(far, 5000, Some(500), 5000);
        let mut waiting = rig.submit(0, op);
        rig.send(0, near, &bytes).unwrap();
        match close {
            true => rig.finish(0, Op::CloseSocket { socket: near }).unwrap(),
            false => rig.shutdown(0, near, Direction::Write).unwrap(),
        }
        let mut all = Vec::new();
        loop {
            let part = received(rig.wait(waiting)).unwrap();
            if part.is_empty() {
                break;
            }
            all.extend(part);
            let op = rig.receive_least_op(far, 5000, None, 5000);
            waiting = rig.submit(0, op);
        }
        assert_eq!(all, bytes);
    }
}

pub fn a_receive_of_many_bytes_does_not_outwait_the_connection(fixture: &mut impl Fixture) {
    for address in [any_port(), fixture.local_address()] {
        let mut rig = Rig::new(fixture, 1);
        let (_, near, far) = rig.connected(&address);
        // More than any connection holds: what is on its way and unread has a limit.
        let whole = pattern(6, 24 << 20);
        let parts = whole.chunks(1 << 20).map(|part| rig.buf(part)).collect();
        let send = rig.submit(0, Op::Send { socket: near, from: parts });
        let mut all = Vec::new();
        while all.len() < whole.len() {
            // The last receive wants no more than is still to come.
            let room = (whole.len() - all.len()).min(2 << 20);
            let op = rig.receive_least_op(far, room, None, room);
            let part = received(rig.run(0, op)).unwrap();
            assert!(!part.is_empty());
            all.extend(part);
        }
        assert!(all == whole);
        sent(rig.wait(send)).unwrap();
    }
}

pub fn a_receive_of_many_bytes_ends_at_a_shutdown(fixture: &mut impl Fixture) {
    for side in [Direction::Read, Direction::Both] {
        let (mut rig, near, far) = rig_with_connection(fixture);
        rig.send(0, near, &pattern(7, 700)).unwrap();
        assert_eq!(rig.receive_all(0, far, 100), pattern(7, 700)[..100]);
        let mut all = pattern(7, 700)[..100].to_vec();
        let op = rig.receive_least_op(far, 5000, None, 5000);
        let mut waiting = rig.submit(0, op);
        rig.ends_within(waiting, A_WHILE);
        rig.shutdown(0, far, side).unwrap();
        loop {
            let part = received(rig.wait(waiting)).unwrap();
            if part.is_empty() {
                break;
            }
            all.extend(part);
            let op = rig.receive_least_op(far, 5000, None, 5000);
            waiting = rig.submit(0, op);
        }
        assert_eq!(all, pattern(7, 700), "what has come is not lost");
    }
}

pub fn a_receive_of_few_bytes_follows_one_of_many(fixture: &mut impl Fixture) {
    let (mut rig, near, far) = rig_with_connection(fixture);
    let bytes = pattern(8, 60_000);
    let send = rig.start_send(0, near, &bytes);
    let mut all = Vec::new();
    while all.len() < bytes.len() {
        let op = rig.receive_least_op(far, bytes.len() - all.len(), Some(10), bytes.len() - all.len());
        all.extend(received(rig.run(0, op)).unwrap());
    }
    assert_eq!(all, bytes);
    sent(rig.wait(send)).unwrap();
    let op = rig.receive_op(far, 60_000, None);
    let waiting = rig.submit(0, op);
    rig.ends_within(waiting, A_WHILE);
    rig.send(0, near, b"x").unwrap();
    assert_eq!(received(rig.wait(waiting)).unwrap(), b"x", "it does not wait for more");
}

pub fn sending_after_the_end_gives_epipe(fixture: &mut impl Fixture) {
    let (mut rig, near, far) = rig_with_connection(fixture);
    rig.shutdown(0, near, Direction::Write).unwrap();
    assert_eq!(rig.send(0, near, b"late"), Err(Errno::EPIPE));
    assert_eq!(rig.receive(0, far, 10), Ok(Vec::new()));
    rig.send(0, far, b"the other way").unwrap();
    assert_eq!(rig.receive_all(0, near, 13), b"the other way");
}

pub fn a_receive_without_room_gives_einval(fixture: &mut impl Fixture) {
    let (mut rig, near, _) = rig_with_connection(fixture);
    assert_eq!(rig.receive(0, near, 0), Err(Errno::EINVAL));
}

pub fn a_closed_socket_gives_ebadf(fixture: &mut impl Fixture) {
    let (mut rig, near, _) = rig_with_connection(fixture);
    rig.finish(0, Op::CloseSocket { socket: near }).unwrap();
    assert_eq!(rig.receive(0, near, 10), Err(Errno::EBADF));
    assert_eq!(rig.send(0, near, b"x"), Err(Errno::EBADF));
    assert_eq!(rig.finish(0, Op::CloseSocket { socket: near }), Err(Errno::EBADF));
}

pub fn sockets_work_on_every_core(fixture: &mut impl Fixture) {
    let mut rig = Rig::new(fixture, 3);
    let listener = rig.listen(0, &any_port()).unwrap();
    let address = rig.address_of(1, listener);
    let accept = rig.submit(1, Op::Accept { socket: listener });
    let near = rig.connect(2, &address).unwrap();
    let far = accepted(rig.wait(accept)).unwrap().socket;
    rig.send(0, near, b"from core 0").unwrap();
    assert_eq!(rig.receive_all(2, far, 11), b"from core 0");
    let op = rig.receive_op(far, 10, None);
    let waiting = rig.submit(1, op);
    assert!(!rig.ends_within(waiting, A_WHILE));
    rig.finish(2, Op::CloseSocket { socket: far }).unwrap();
    assert_eq!(received(rig.wait(waiting)), Ok(Vec::new()), "closing on one core ends what waits on another");
    assert_eq!(rig.receive(1, far, 10), Err(Errno::EBADF));
}
