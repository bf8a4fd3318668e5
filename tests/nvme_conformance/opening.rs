//! Items 13 to 24: Connect, the state of a controller, and its end.

use crate::host::{
    Answer, Command, Conn, Connect, DISCOVERY, Data, Host, LAST, READY, introduction, read, write,
};
use crate::server::{Rig, tank, wait_until};
use drystone::target::{Stopped, TargetConfig};
use std::collections::BTreeSet;
use std::time::Duration;

/// Status, and dword 0, and whether trying again is no use.
fn refusal(answer: &Answer) -> (u16, u64, bool) {
    (answer.status, answer.result, answer.no_retry)
}

/// How a Connect is refused, sent as it is on a connection of its own.
fn refused(rig: &Rig, command: &Command, data: &[u8]) -> (u16, u64, bool) {
    let mut conn = rig.introduced(0);
    let id = conn.new_id();
    conn.submit(&command.id(id), data);
    refusal(&conn.finish(id, Data::None))
}

const WRONG_IN_DATA: u64 = 1 << 16;

#[test]
fn c13_nothing_is_answered_before_connect_and_that_but_once() {
    let rig = tank();
    for command in [Command::new(6, 0).dword(10, 1), Command::fabrics(4), Command::new(0x18, 0)] {
        let mut conn = rig.introduced(0);
        let answer = conn.ask(&command, Data::None);
        assert_eq!((answer.status, answer.no_retry), (0x00c, true));
        rig.connect().over(&mut conn).ok();
        assert_eq!(rig.connect().over(&mut conn).status, 0x00c, "a second one");
    }
    let mut conn = rig.introduced(0);
    for _ in 0..2 {
        assert_eq!(conn.ask(&read(1, 0, 1), Data::Back(512)).status, 0x00c);
    }
    conn.expect_close();
    let (host, mut queue) = rig.session(0);
    assert_eq!(host.connect_of(1).over(&mut queue).status, 0x00c);
    let get = Command::fabrics(4).dword(11, 8);
    assert_eq!(queue.ask(&get, Data::None).status, 0x001, "properties are the admin queue's");
    queue.expect_alive(false);
}

#[test]
fn c13_a_connect_of_a_wrong_form_is_refused_with_its_reason() {
    let rig = tank();
    let connect = rig.connect();
    let (command, data) = (connect.command(), connect.data());
    let mut no_list = command.here(1024);
    no_list.0[1] = 0;
    assert_eq!(refused(&rig, &no_list, &data), (0x002, 0, true), "PSDT 0");
    for len in [0_usize, 1020, 1023, 1025, 8192] {
        let narrow = u32::try_from(len).unwrap();
        let mut bytes = data.clone();
        bytes.resize(len, 0);
        assert_eq!(refused(&rig, &command.here(narrow), &bytes).0, 0x00f, "{len} bytes behind it");
        assert_eq!(refused(&rig, &command.moved(narrow), &[]).0, 0x00f, "{len} bytes to be asked for");
    }
    assert_eq!(refused(&rig, &command.here(1024).with(40, &[1]), &data), (0x180, 0, true), "RECFMT 1");
    for size in [0, 128, 65535] {
        let connect = Connect { size, ..connect.clone() };
        assert_eq!(refused(&rig, &connect.command().here(1024), &data), (0x182, 44, true), "SQSIZE {size}");
    }
    let astray = Connect { queue: 65535, controller: 1, ..connect.clone() };
    assert_eq!(refused(&rig, &astray.command().here(1024), &astray.data()).0, 0x182);
    let host = rig.host();
    let unknown = host.connect_of(65535);
    assert_eq!(refused(&rig, &unknown.command().here(1024), &unknown.data()), (0x182, 42, true));
}

#[test]
fn c14_queues_join_the_controller_of_their_host_and_subsystem_alone() {
    let rig = tank();
    let admin = Connect { controller: 1, ..rig.connect() };
    let answer = admin.attempt(rig.server.address).err().unwrap();
    assert_eq!(refusal(&answer), (0x182, 16 | WRONG_IN_DATA, true), "controllers are given, not chosen");
    let host = rig.host();
    let right = host.connect_of(1);
    let foreign = [
        Connect { controller: host.controller ^ 1, ..right.clone() },
        Connect { controller: 0xffff, ..right.clone() },
        Connect { host: format!("{}x", right.host), ..right.clone() },
        Connect { id: [8; 16], ..right.clone() },
        Connect { subsystem: DISCOVERY.to_owned(), ..right.clone() },
    ];
    for connect in foreign {
        let answer = connect.attempt(rig.server.address).err().unwrap();
        // A daemon that was restarted does not know the controller either: the host is to come again.
        assert_eq!(refusal(&answer), (0x182, 16 | WRONG_IN_DATA, false));
    }
    assert!(right.attempt(rig.server.address).is_ok());
}

#[test]
fn c15_names_are_texts_that_end_and_subsystems_that_are_there() {
    let rig = tank();
    let connect = rig.connect();
    let data = |at: usize, name: &[u8]| {
        let mut data = connect.data();
        data[at..at + 256].fill(0);
        data[at..at + name.len()].copy_from_slice(name);
        refused(&rig, &connect.command().here(1024), &data)
    };
    let long = [&b"nqn."[..], &[b'x'; 220]].concat();
    for at in [256, 512] {
        let wrong = (0x182, at as u64 | WRONG_IN_DATA, true);
        assert_eq!(data(at, &[b'n'; 256]), wrong, "without an end");
        assert_eq!(data(at, b""), wrong, "empty");
        assert_eq!(data(at, &long), wrong, "224 bytes");
        assert_eq!(data(at, b"nqn.\xff\xfe"), wrong, "no text");
        assert_eq!(data(at, b"nqn.a\x1b[2J"), wrong, "control characters");
    }
    assert_eq!(data(256, b"nqn.2024-01.example:nobody"), (0x182, 256 | WRONG_IN_DATA, true));
    let closed = b"nqn.2014-08.org.nvmexpress:uuid:00000000-0000-0000-0000-000000000001";
    assert_eq!(data(256, closed), (0x182, 256 | WRONG_IN_DATA, false), "a pool that may be opened");
    assert_eq!(data(512, &long[..223]).0, 0, "223 bytes");
}

#[test]
fn c16_connect_brings_its_data_along_or_is_asked_for_it() {
    let rig = tank();
    for digests in 0..4 {
        let connect = rig.connect();
        let mut admin = rig.introduced(digests);
        let controller = connect.clone();
        let answer = admin.ask(&connect.command(), Data::Asked(&controller.data()));
        let mut host = Host {
            controller: u16::try_from(answer.ok()).unwrap(),
            admin,
            address: rig.server.address,
            connect,
        };
        host.configure(0x0046_0001);
        host.set_feature(7, 1 | 1 << 16).ok();
        let (first, second) = (host.connect_of(1), host.connect_of(2));
        first.over(&mut rig.introduced(digests)).ok();
        let mut queue = rig.introduced(digests);
        queue.ask(&second.command(), Data::Asked(&second.data())).ok();
    }
    let connect = rig.connect();
    let mut pieces = rig.introduced(0);
    pieces.submit(&connect.command().id(5).moved(1024), &[]);
    let asked = pieces.receive();
    assert_eq!((asked.kind, asked.command(), asked.window()), (READY, 5, (0, 1024)));
    for at in (0..1024).step_by(256) {
        let flags = if at == 768 { LAST } else { 0 };
        let piece = pieces.piece(5, asked.tag(), at, &connect.data()[at as usize..][..256], flags);
        pieces.send(&piece);
    }
    assert_eq!(pieces.completion().status, 0);
}

#[test]
fn c17_a_queue_that_is_taken_is_free_again_when_its_connection_has_ended() {
    let rig = tank();
    let (host, first) = rig.session(0);
    let again = host.connect_of(1).attempt(rig.server.address).err().unwrap();
    assert_eq!((again.status, again.no_retry), (0x101, false));
    drop(first);
    let mut queue = host.queue(1);
    queue.expect_alive(false);
}

#[test]
fn c18_before_it_is_enabled_a_controller_has_properties_and_nothing_else() {
    let rig = tank();
    let mut host = Host::connected(rig.server.address, &rig.connect(), 0);
    assert_eq!(host.property(0x1c, false), 0);
    for opcode in (0..=0xff_u8).filter(|opcode| *opcode != 0x7f) {
        let answer = host.admin.ask(&Command::new(opcode, 1), Data::None);
        assert_eq!((answer.status, answer.no_retry), (0x00c, true), "{opcode:x}");
    }
    let answer = host.connect_of(1).attempt(rig.server.address).err().unwrap();
    assert_eq!((answer.status, answer.no_retry), (0x00c, false));
    host.configure(0x0046_0001);
    host.set_feature(7, 0).ok();
    assert!(host.connect_of(1).attempt(rig.server.address).is_ok());
}

#[test]
fn c19_a_configuration_that_cannot_be_is_a_fatal_state_until_the_reset() {
    let rig = tank();
    let mut host = Host::connected(rig.server.address, &rig.connect(), 0);
    for wrong in [0x0045_0001, 0x0056_0001, 0x0046_0061, 0x0046_0081, 0x0046_0801] {
        host.configure(wrong);
        assert_eq!(host.property(0x1c, false), 2, "{wrong:x}: fatal, not ready");
        assert_eq!(host.identify(1, 0).status, 0x00c);
        assert_eq!(host.property(0x14, false), u64::from(wrong));
        host.configure(0x0046_0000);
        assert_eq!(host.property(0x1c, false), 0);
    }
    host.configure(0x0046_0001);
    assert_eq!(host.property(0x1c, false), 1);
    host.identify(1, 0).bytes();
}

#[test]
fn c19_a_reset_ends_the_io_queues_and_gives_back_the_event_requests() {
    let rig = tank();
    let mut host = rig.host();
    for round in 0..100 {
        let mut queue = (round % 10 == 0).then(|| host.queue(1));
        let listening = host.listen();
        host.configure(0x0046_0000);
        let aborted = match host.admin.early.pop() {
            Some(early) => early,
            None => host.admin.completion(),
        };
        assert_eq!((aborted.id, aborted.status), (listening, 0x007));
        if let Some(queue) = &mut queue {
            queue.expect_close();
        }
        assert_eq!(host.property(0x1c, false), 0);
        host.configure(0x0046_0001);
        assert_eq!(host.property(0x1c, false), 1);
    }
    host.queue(2).expect_alive(false);
}

#[test]
fn c19_a_shutdown_is_complete_at_once_and_ends_the_io_queues() {
    let rig = tank();
    for notice in [1, 2] {
        let (mut host, mut queue) = rig.session(0);
        host.configure(0x0046_0001 | notice << 14);
        assert_eq!(host.property(0x1c, false) & 0xc, 8, "SHST");
        queue.expect_close();
        assert_eq!(host.identify(1, 0).status, 0x00c);
        host.configure(0x0046_0000);
        host.configure(0x0046_0001);
        assert_eq!(host.property(0x1c, false), 1);
        host.queue(1).expect_alive(false);
    }
}

#[test]
fn c20_there_are_four_properties_and_each_has_one_length() {
    let rig = tank();
    let mut host = rig.host();
    let known = [(0x00, true), (0x08, false), (0x14, false), (0x1c, false)];
    for offset in 0..=0x70 {
        for is_long in [false, true] {
            let get = Command::fabrics(4).with(40, &[u8::from(is_long)]).dword(11, offset);
            let answer = host.admin.ask(&get, Data::None);
            let is_known = known.contains(&(offset, is_long));
            assert_eq!(answer.status, if is_known { 0 } else { 0x002 }, "{offset:x}");
            assert!(is_known || answer.no_retry);
            let set = Command::fabrics(0).with(40, &[u8::from(is_long)]).dword(11, offset);
            if offset != 0x14 {
                assert_eq!(host.admin.ask(&set, Data::None).status, 0x002, "{offset:x}");
            }
        }
    }
    let capabilities = host.property(0, true);
    assert_eq!(capabilities & 0xffff, 127, "MQES");
    assert_eq!(capabilities >> 16 & 1, 1, "CQR");
    assert!(capabilities >> 24 & 0xff > 0, "TO");
    assert_eq!(capabilities >> 37 & 0xff, 1, "the NVM command set");
    assert_eq!(capabilities >> 48 & 0xf, 0, "MPSMIN");
    assert_eq!(capabilities >> 59, 0, "no CRTO");
    assert_eq!(host.property(8, false), 0x0001_0400);
    for unknown in [2, 3, 5, 6, 8, 0xff] {
        let answer = host.admin.ask(&Command::fabrics(unknown), Data::None);
        assert_eq!((answer.status, answer.no_retry), (0x001, true), "FCTYPE {unknown}");
    }
}

#[test]
fn c21_numbers_of_controllers_are_unique_and_not_given_again_at_once() {
    let rig = tank();
    let mut seen = BTreeSet::new();
    let mut kept = Vec::new();
    for round in 0..300 {
        let (conn, number) = rig.connect().attempt(rig.server.address).ok().unwrap();
        assert!(seen.insert(number) && (1..=0xffef).contains(&number), "{number}");
        if round % 3 == 0 {
            kept.push(conn);
        }
    }
}

#[test]
fn c22_queues_for_which_there_is_no_memory_are_refused_for_now() {
    let config = TargetConfig { budget_bytes: 64 << 20, ..TargetConfig::default() };
    let rig = Rig::start(config, 1);
    let (host, mut good) = rig.session(0);
    let mut queues = Vec::new();
    let refused = loop {
        let number = u16::try_from(queues.len() + 2).unwrap();
        let connect = Connect { size: 127, ..host.connect_of(number) };
        match connect.attempt(rig.server.address) {
            Ok((conn, _)) => queues.push(conn),
            Err(answer) => break answer,
        }
    };
    assert_eq!((refused.status, refused.no_retry), (0x181, false));
    assert!(queues.len() > 100);
    good.expect_alive(false);
    queues.truncate(50);
    wait_until("room", || rig.server.target.budget_free() > 10 << 20);
    queues.push(host.queue(100));
    queues.iter_mut().for_each(|queue| queue.expect_alive(false));
}

#[test]
fn c22_connections_beyond_the_limit_are_closed() {
    let config = TargetConfig { connections_max: 3, ..TargetConfig::default() };
    let rig = Rig::start(config, 1);
    let (host, mut queue) = rig.session(0);
    let third = host.queue(2);
    let mut fourth = Conn::open(rig.server.address);
    fourth.try_send(&introduction(0));
    fourth.expect_close();
    queue.expect_alive(false);
    drop(third);
    rig.wait_for_connections(2);
    host.queue(2).expect_alive(false);
}

/// A host that goes as far as a step and vanishes there.
fn vanish(rig: &Rig, step: usize) {
    let mut conn = Conn::open(rig.server.address);
    if step == 0 {
        return;
    }
    conn.introduce(0);
    if step == 1 {
        return;
    }
    if step == 2 {
        conn.submit(&rig.connect().command().moved(1024), &[]);
        assert_eq!(conn.receive().kind, READY);
        return;
    }
    let mut host = Host::connected(rig.server.address, &rig.connect(), 0);
    if step == 3 {
        return;
    }
    host.configure(0x0046_0001);
    host.set_feature(7, 3 | 3 << 16).ok();
    host.listen();
    if step == 4 {
        return;
    }
    let mut queue = host.queue(1);
    if step >= 6 {
        queue.submit(&write(rig.tank, 0, 256).id(3).moved(131_072), &[]);
    }
    if step >= 7 {
        let asked = queue.receive();
        let piece = queue.piece(3, asked.tag(), 0, &[1; 65536], 0);
        queue.send(&piece[..if step == 7 { piece.len() } else { 10_000 }]);
    }
    if step == 9 {
        drop(host);
        queue.drain();
    }
}

#[test]
fn c23_of_a_host_that_vanishes_nothing_is_left() {
    let rig = tank();
    let before = rig.server.target.budget_free();
    let pool = rig.catalog.list()[0].identity().pool;
    for step in (0..10).cycle().take(30) {
        vanish(&rig, step);
        rig.wait_for_connections(0);
        assert_eq!(rig.server.target.hosts_of(pool), 0, "step {step}");
        wait_until("nothing is held", || rig.server.target.budget_free() == before);
    }
    let mut queue = rig.queue(0);
    assert_eq!(queue.ask(&read(rig.tank, 0, 256), Data::Back(131_072)).bytes(), vec![0; 131_072]);
}

#[test]
fn stopping_ends_associations_and_refuses_new_ones() {
    let rig = tank();
    let (mut host, mut queue) = rig.session(0);
    host.listen();
    let address = rig.server.address;
    let stopped = rig.server.stop(Duration::from_secs(10));
    assert_eq!(stopped, Stopped { cut: 0, stuck: 0 });
    host.admin.drain();
    queue.drain();
    assert!(std::net::TcpStream::connect(address).is_err());
}
