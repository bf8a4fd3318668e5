//! Items 25 to 36: moving data.

use crate::host::{
    Command, Completion, Conn, Connect, DATA, Data, LAST, PAYLOADS, Pdu, READY, SUCCESS, pattern, pdu, read,
    write,
};
use crate::server::{BAD, Rig, tank, wait_until};
use drystone::target::TargetConfig;
use std::collections::BTreeMap;
use std::time::Duration;

const MEBI: u32 = 1 << 20;

#[test]
fn c25_every_size_goes_there_and_back_with_every_digest() {
    let rig = tank();
    for digests in 0..4 {
        let (host, mut queue) = rig.session(digests);
        let mut other = host.queue(2);
        let sizes = [512, 1024, 3584, 4096, 4608, 8192, 65_536, 131_072, 524_800, 1 << 20];
        for (round, size) in (0..).zip(sizes) {
            let count = u32::try_from(size / 512).unwrap();
            let first = 7 + round * 3000 + u64::from(digests);
            let data = pattern(first, size);
            queue.ask(&write(rig.tank, first, count), Data::Asked(&data)).ok();
            let wanted = u32::try_from(size).unwrap();
            assert!(other.ask(&read(rig.tank, first, count), Data::Back(wanted)).bytes() == data, "{size}");
            let data = pattern(first + 1, size);
            queue.ask(&write(rig.tank, first, count), Data::Here(&data)).ok();
            let found = other.ask(&read(rig.tank, first, count), Data::Back(wanted)).bytes();
            assert!(found == data, "{size} behind the command");
        }
    }
}

#[test]
fn c26_data_in_capsules_has_its_limit() {
    let rig = tank();
    let (mut host, mut queue) = rig.session(0);
    let most = pattern(1, 1 << 20);
    queue.ask(&write(rig.tank, 0, 2048), Data::Here(&most)).ok();
    let answer = queue.ask(&write(rig.tank, 0, 2049), Data::Here(&most));
    assert_eq!((answer.status, answer.no_retry), (0x002, true), "more than a command can bring");
    // Fabrics commands may bring 8192 bytes on any queue; this one is not known.
    assert_eq!(queue.ask(&Command::fabrics(5), Data::Here(&[0; 8192])).status, 0x001);
    assert_eq!(host.admin.ask(&Command::fabrics(5), Data::Here(&[0; 8192])).status, 0x001);
    assert!(queue.ask(&read(rig.tank, 0, 2048), Data::Back(MEBI)).bytes() == most);
    let behavior = Command::new(9, 0).dword(10, 0x16);
    host.admin.ask(&behavior, Data::Here(&[0; 512])).ok();
    let bytes = host.admin.capsule(&behavior.here(12288), &[0; 12288]);
    let bytes = [bytes, queue.capsule(&write(rig.tank, 0, 2049).here(MEBI + 512), &vec![0; (1 << 20) + 512])];
    for (conn, bytes) in [&mut host.admin, &mut queue].into_iter().zip(bytes) {
        conn.try_send(&bytes);
        let (status, information, _) = conn.termination();
        assert_eq!((status, information), (1, 4), "more than any capsule has");
    }
}

#[test]
fn c27_of_all_descriptors_two_are_taken() {
    let rig = tank();
    let mut queue = rig.queue(0);
    for identifier in 0..=0xff {
        for command in [write(rig.tank, 0, 1), read(rig.tank, 0, 1)] {
            let is_read = command.0[0] == 2;
            let id = queue.new_id();
            queue.submit(&command.id(id).place(identifier, 0, 512), &[]);
            let answer = match identifier {
                0x5a if is_read => queue.finish(id, Data::Back(512)),
                0x5a => queue.finish(id, Data::Asked(&[0; 512])),
                _ => queue.finish(id, Data::None),
            };
            let wanted = match identifier {
                0x5a => 0,
                0x01 if is_read => 0x002,
                0x01 => 0x00f,
                _ => 0x011,
            };
            assert_eq!(answer.status, wanted, "{identifier:x}");
            assert_eq!(answer.no_retry, wanted != 0);
        }
    }
    for flags in [0x00, 0x80, 0xc0, 0x41, 0x42, 0x43] {
        let mut command = write(rig.tank, 0, 1).here(512).id(9);
        command.0[1] = flags;
        queue.submit(&command, &[0; 512]);
        let done = queue.completion();
        assert_eq!((done.id, done.status), (9, 0x002), "PSDT and FUSE {flags:x}");
    }
    queue.submit(&write(rig.tank, 0, 1).place(0x01, 4, 512).id(9), &[0; 512]);
    assert_eq!(queue.completion().status, 0x016, "an offset");
    queue.expect_alive(false);
}

#[test]
fn c27_lengths_that_do_not_fit_the_command_take_no_memory() {
    let rig = tank();
    let mut queue = rig.queue(0);
    let before = rig.server.target.budget_free();
    for len in [0, 1, 511, 513, 1024, MEBI, MEBI + 512, u32::MAX, u32::MAX - 511] {
        for command in [write(rig.tank, 0, 1), read(rig.tank, 0, 1)] {
            queue.submit(&command.id(9).moved(len), &[]);
            let done = queue.completion();
            assert_eq!((done.status, done.no_retry), (0x00f, true), "{len}");
        }
    }
    for count in [2049, 4096, 65536] {
        for command in [write(rig.tank, 0, count), read(rig.tank, 0, count)] {
            queue.submit(&command.id(9).moved(count * 512), &[]);
            let done = queue.completion();
            assert_eq!((done.status, done.no_retry), (0x002, true), "more than MDTS");
        }
    }
    for flush in [Command::new(0, rig.tank), Command::new(8, rig.tank)] {
        queue.submit(&flush.id(9).moved(512), &[]);
        assert_eq!(queue.completion().status, 0x00f, "no data belongs to it");
    }
    wait_until("nothing is held", || rig.server.target.budget_free() == before);
    queue.expect_alive(false);
}

/// A queue with a write of 8192 bytes that was asked for; its command is 3.
fn asked(rig: &Rig) -> (Conn, Pdu) {
    let mut queue = rig.queue(0);
    queue.submit(&write(rig.tank, 100, 16).id(3).moved(8192), &[]);
    let ready = queue.receive();
    assert_eq!((ready.kind, ready.command(), ready.window()), (READY, 3, (0, 8192)));
    (queue, ready)
}

/// How the connection ends when this piece comes.
fn ends(mut queue: Conn, piece: &[u8]) -> (u16, u32) {
    queue.try_send(piece);
    let (status, information, excerpt) = queue.termination();
    assert_eq!(excerpt[..8], piece[..8]);
    (status, information)
}

#[test]
fn c28_data_that_was_not_asked_for_ends_the_connection() {
    let rig = tank();
    let (_, ready) = asked(&rig);
    let right = ready.tag();
    for tag in [0, 1, 127, 128, 129, 65535].into_iter().filter(|tag| *tag != right) {
        let (queue, _) = asked(&rig);
        let piece = queue.piece(3, tag, 0, &[1; 8192], LAST);
        assert_eq!(ends(queue, &piece), (1, 10), "TTAG {tag}");
    }
    let wrong = |command: u16, offset: u32, len: usize, flags: u8| {
        let (queue, ready) = asked(&rig);
        let piece = queue.piece(command, ready.tag(), offset, &vec![1; len], flags);
        ends(queue, &piece)
    };
    assert_eq!(wrong(4, 0, 8192, LAST), (1, 8), "CCCID");
    assert_eq!(wrong(3, 512, 4096, 0), (4, 0), "a gap");
    assert_eq!(wrong(3, u32::MAX, 4096, 0), (4, 0), "far away");
    assert_eq!(wrong(3, 0, 8196, LAST), (5, 0), "too much");
    assert_eq!(wrong(3, 0, 1 << 20, LAST), (5, 0), "too much");
    assert_eq!(wrong(3, 0, (1 << 20) + 4, LAST), (1, 4), "more than MAXH2CDATA");
    assert_eq!(wrong(3, 0, 8192, 0), (1, 1), "LAST is missing");
    assert_eq!(wrong(3, 0, 4096, LAST), (1, 1), "LAST comes early");
    let (queue, ready) = asked(&rig);
    let nothing = queue.piece(3, ready.tag(), 0, &[], LAST);
    assert_eq!(ends(queue, &nothing), (4, 0), "no data");
    let (queue, ready) = asked(&rig);
    let mut other = queue.piece(3, ready.tag(), 0, &[1; 4096], 0);
    other[16] = 1;
    assert_eq!(ends(queue, &other), (1, 16), "DATAL is not what lies there");
}

#[test]
fn c28_a_piece_may_not_come_twice_nor_for_what_takes_none() {
    let rig = tank();
    let (mut queue, ready) = asked(&rig);
    let piece = queue.piece(3, ready.tag(), 0, &[1; 4096], 0);
    queue.send(&piece);
    assert_eq!(ends(queue, &piece), (4, 0), "the same again");
    let (mut queue, ready) = asked(&rig);
    let piece = queue.piece(3, ready.tag(), 0, &[1; 8192], LAST);
    queue.send(&piece);
    assert_eq!(queue.completion().status, 0);
    assert_eq!(ends(queue, &piece), (1, 10), "a tag that was freed");
    let conn = rig.introduced(0);
    let piece = conn.piece(3, 0, 0, &[1; 512], LAST);
    assert_eq!(ends(conn, &piece), (2, 0), "before Connect");
    let mut queue = rig.queue(0);
    let id = queue.start(&read(rig.tank, 0, 16), Data::Back(8192));
    queue.finish(id, Data::Back(8192)).bytes();
    let piece = queue.piece(id, 0, 0, &[1; 8192], LAST);
    assert_eq!(ends(queue, &piece), (1, 10), "for a read");
    assert_eq!(rig.queue(0).ask(&read(rig.tank, 100, 16), Data::Back(8192)).bytes(), [1; 8192]);
}

#[test]
fn c28_pieces_of_several_commands_may_come_in_turn() {
    let rig = tank();
    let mut queue = rig.queue(PAYLOADS);
    let mut tags = BTreeMap::new();
    for id in 1..=8_u16 {
        queue.submit(&write(rig.tank, u64::from(id) * 64, 16).id(id).moved(8192), &[]);
        let ready = queue.receive();
        assert_eq!(ready.command(), id);
        assert!(tags.insert(ready.tag(), id).is_none(), "a tag of its own");
    }
    for at in (0..8192_u32).step_by(1024) {
        for (tag, id) in &tags {
            let data = &pattern(u64::from(*id), 8192)[at as usize..][..1024];
            let piece = queue.piece(*id, *tag, at, data, if at == 7168 { LAST } else { 0 });
            queue.send(&piece);
        }
    }
    let done: Vec<u16> = tags.iter().map(|_| queue.completion().id).collect();
    assert_eq!(done, tags.into_values().collect::<Vec<_>>());
    for id in 1..=8_u64 {
        let found = queue.ask(&read(rig.tank, id * 64, 16), Data::Back(8192)).bytes();
        assert!(found == pattern(id, 8192));
    }
}

#[test]
fn c29_a_write_that_fails_takes_in_all_that_was_asked_for() {
    let rig = tank();
    let bad = rig.export_bad();
    let (host, mut queue) = rig.session(0);
    let first = BAD.0 / 512;
    let answer = queue.ask(&write(bad, first, 256), Data::Asked(&[1; 131_072]));
    assert_eq!((answer.status, answer.no_retry), (0x280, true));
    queue.expect_alive(false);
    // Of a damaged transfer no piece is lost count of, and its tag is not given to another meanwhile.
    let mut queue = host.queue_with(2, PAYLOADS);
    queue.submit(&write(rig.tank, 0, 16).id(3).moved(8192), &[]);
    let ready = queue.receive();
    let mut piece = queue.piece(3, ready.tag(), 0, &[1; 4096], 0);
    piece[30] ^= 1;
    queue.send(&piece);
    queue.submit(&write(rig.tank, 16, 16).id(4).moved(8192), &[]);
    let other = queue.receive();
    assert!(other.kind == READY && other.tag() != ready.tag());
    let rest = queue.piece(3, ready.tag(), 4096, &[1; 4096], LAST);
    queue.send(&rest);
    let done = queue.completion();
    assert_eq!((done.id, done.status, done.no_retry), (3, 0x022, false));
    let whole = queue.piece(4, other.tag(), 0, &[1; 8192], LAST);
    queue.send(&whole);
    let done = queue.completion();
    assert_eq!((done.id, done.status), (4, 0));
}

#[test]
fn c30_the_data_of_a_command_that_fails_is_passed_over() {
    let rig = tank();
    let locked = rig.export_read_only();
    for digests in 0..4 {
        let mut queue = rig.queue(digests);
        let wrong: [(Command, u16); 6] = [
            (write(0x00ff_0000, 0, 8), 0x00b),
            (write(rig.tank, u64::MAX, 8), 0x080),
            (write(locked, 0, 8), 0x020),
            (Command::new(0x81, rig.tank), 0x001),
            (read(rig.tank, 0, 8), 0x002),
            (write(rig.tank, 0, 4), 0x00f),
        ];
        let mut bytes = Vec::new();
        for (id, (command, _)) in (1..).zip(&wrong) {
            bytes.extend(queue.capsule(&command.id(id).here(4096), &pattern(u64::from(id), 4096)));
        }
        bytes.extend(queue.capsule(&write(rig.tank, 40, 8).id(7).here(4096), &pattern(7, 4096)));
        queue.send(&bytes);
        for (id, (_, status)) in (1..).zip(&wrong) {
            let done = queue.completion();
            assert_eq!((done.id, done.status, done.no_retry), (id, *status, true));
        }
        assert_eq!(queue.completion().status, 0);
        assert_eq!(queue.ask(&read(rig.tank, 40, 8), Data::Back(4096)).bytes(), pattern(7, 4096));
    }
}

#[test]
fn c31_a_read_that_fails_gives_no_data() {
    let rig = tank();
    let bad = rig.export_bad();
    let mut queue = rig.queue(0);
    let first = BAD.0 / 512;
    for (from, count) in [(first, 8), (first - 100, 200), (first - 1000, 2048), (first + 2047, 1)] {
        let id = queue.start(&read(bad, from, count), Data::Back(count * 512));
        let done = queue.completion();
        assert_eq!((done.id, done.status, done.no_retry), (id, 0x281, true));
    }
    let whole = queue.ask(&read(bad, first - 100, 100), Data::Back(51_200));
    assert_eq!(whole.bytes(), vec![0; 51_200]);
}

#[test]
fn c32_success_goes_with_the_data_only_where_the_host_needs_no_queue_head() {
    let rig = tank();
    let host = rig.host();
    for (attributes, number) in [(0, 1), (4, 2), (0x0b, 3), (0x0f, 4)] {
        let connect = Connect { attributes, size: 3, ..host.connect_of(number) };
        let mut queue = rig.introduced(0);
        let answer = connect.over(&mut queue);
        let is_free = attributes & 4 != 0;
        assert_eq!((answer.status, answer.queue_head), (0, if is_free { 0xffff } else { 1 }));
        for round in 2..11_u16 {
            let id = queue.start(&read(rig.tank, 0, 8), Data::Back(4096));
            let data = queue.receive();
            assert_eq!((data.kind, data.command()), (DATA, id));
            assert_eq!(data.flags, if is_free { LAST | SUCCESS } else { LAST });
            if !is_free {
                let done = queue.completion();
                assert_eq!((done.status, done.queue_head), (0, round % 4), "modulo the size");
            }
        }
        let flush = queue.ask(&Command::new(0, rig.tank), Data::None);
        assert_eq!(flush.queue_head, if is_free { 0xffff } else { 11 % 4 });
    }
}

#[test]
fn c33_more_commands_than_the_queue_has_end_the_connection() {
    let rig = tank();
    let host = rig.host();
    for (number, size) in [(1, 1), (2, 3), (3, 127)] {
        let mut queue = rig.introduced(0);
        Connect { size, ..host.connect_of(number) }.over(&mut queue).ok();
        for id in 0..=size {
            queue.submit(&write(rig.tank, 0, 1).id(id).moved(512), &[]);
            assert_eq!(queue.receive().kind, READY);
        }
        queue.submit(&Command::new(0, rig.tank).id(size + 1).moved(0), &[]);
        queue.expect_close();
    }
    let mut admin = rig.introduced(0);
    Connect { size: 1, ..rig.connect() }.over(&mut admin).ok();
    let enable = Command::fabrics(0).dword(11, 0x14).dword(12, 0x0046_0001);
    admin.ask(&enable, Data::None).ok();
    for id in 10..13 {
        admin.try_send(&pdu(4, 0, 0, &Command::new(0x0c, 0).id(id).moved(0).0, &[]));
    }
    admin.expect_close();
}

#[test]
fn c34_a_name_in_use_ends_the_connection_and_every_name_is_taken() {
    let rig = tank();
    let (mut queue, _) = asked(&rig);
    queue.submit(&Command::new(0, rig.tank).id(3).moved(0), &[]);
    queue.expect_close();
    let mut queue = rig.queue(0);
    for id in [0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff] {
        queue.submit(&Command::new(0, rig.tank).id(id).moved(0), &[]);
        assert_eq!((queue.completion().id, id), (id, id));
        queue.submit(&write(rig.tank, 0, 16).id(id).moved(8192), &[]);
        let ready = queue.receive();
        let piece = queue.piece(id, ready.tag(), 0, &[0; 8192], LAST);
        queue.send(&piece);
        assert_eq!(queue.completion().id, id);
    }
}

#[test]
fn c35_a_queue_that_is_not_read_delays_no_other() {
    let rig = tank();
    let (mut host, mut lazy) = rig.session(0);
    let mut other = host.queue(2);
    for _ in 0..60 {
        lazy.start(&read(rig.tank, 0, 2048), Data::Back(MEBI));
    }
    let mut slow = host.queue(3);
    slow.submit(&write(rig.tank, 0, 2048).id(1).moved(MEBI), &[]);
    assert_eq!(slow.receive().kind, READY);
    for round in 0..50 {
        let data = pattern(round, 65_536);
        other.ask(&write(rig.tank, 8192, 128), Data::Asked(&data)).ok();
        assert!(other.ask(&read(rig.tank, 8192, 128), Data::Back(65_536)).bytes() == data);
        host.admin.expect_alive(true);
        host.identify(1, 0).bytes();
    }
}

/// Writes `count` times a MiB on a queue, all at once, and sees all of it done.
fn flood(queue: &mut Conn, namespace: u32, count: u16) {
    let data = vec![3; MEBI as usize];
    let mut ids = Vec::new();
    for at in 0..count {
        ids.push(queue.start(&write(namespace, u64::from(at % 60) * 2048, 2048), Data::Asked(&data)));
    }
    while !ids.is_empty() {
        let pdu = queue.receive();
        if pdu.kind == READY {
            assert_eq!(pdu.window(), (0, MEBI));
            let piece = queue.piece(pdu.command(), pdu.tag(), 0, &data, LAST);
            queue.send(&piece);
            continue;
        }
        let done = Completion::of(&pdu);
        assert_eq!(done.status, 0);
        ids.retain(|id| *id != done.id);
    }
}

#[test]
fn c36_writes_that_wait_for_memory_all_get_it() {
    let config = TargetConfig { budget_bytes: 64 << 20, ..TargetConfig::default() };
    let rig = Rig::start(config, 1);
    let before = rig.server.target.budget_free();
    let host = rig.host();
    let (tank, queues) = (rig.tank, [1, 2, 3].map(|number| host.queue(number)));
    let writers = queues.map(|mut queue| std::thread::spawn(move || flood(&mut queue, tank, 30)));
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    drop(host);
    wait_until("all of it is given back", || rig.server.target.budget_free() == before);
}

#[test]
fn c36_writes_that_bring_their_data_along_wait_for_memory_too() {
    let config = TargetConfig { budget_bytes: 64 << 20, ..TargetConfig::default() };
    let rig = Rig::start(config, 1);
    let before = rig.server.target.budget_free();
    let host = rig.host();
    let (tank, queues) = (rig.tank, [1, 2, 3].map(|number| host.queue(number)));
    let data = std::sync::Arc::new(pattern(5, 1 << 20));
    let writers = queues.map(|mut queue| {
        let data = data.clone();
        std::thread::spawn(move || {
            for id in 0..60 {
                queue.submit(&write(tank, u64::from(id) * 2048, 2048).id(id).here(MEBI), &data);
            }
            let mut done: Vec<u16> = (0..60)
                .map(|_| queue.completion())
                .map(|done| {
                    assert_eq!(done.status, 0);
                    done.id
                })
                .collect();
            done.sort_unstable();
            assert!(done == (0..60).collect::<Vec<_>>());
        })
    });
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    drop(host);
    wait_until("all of it is given back", || rig.server.target.budget_free() == before);
}

#[test]
fn c36_data_brought_along_does_not_wait_behind_data_that_was_asked_for() {
    let config = TargetConfig { budget_bytes: 64 << 20, ..TargetConfig::default() };
    let rig = Rig::start(config, 1);
    let host = rig.host();
    let mut queue = host.queue(1);
    let data = pattern(5, 1 << 20);
    for id in 0..40 {
        queue.submit(&write(rig.tank, 0, 2048).id(id).moved(MEBI), &[]);
    }
    queue.submit(&write(rig.tank, 4096, 2048).id(99).here(MEBI), &data);
    let mut done = 0;
    while done < 41 {
        let pdu = queue.receive();
        if pdu.kind == READY {
            let piece = queue.piece(pdu.command(), pdu.tag(), 0, &data, LAST);
            queue.send(&piece);
            continue;
        }
        let Completion { id, status, no_retry, .. } = Completion::of(&pdu);
        // Its memory can only come from those whose data lies behind it.
        assert_eq!((status, no_retry), (if id == 99 { 0x021 } else { 0 }, false), "{id}");
        done += 1;
    }
    queue.ask(&write(rig.tank, 4096, 2048), Data::Here(&data)).ok();
    assert!(queue.ask(&read(rig.tank, 4096, 2048), Data::Back(MEBI)).bytes() == data);
}

#[test]
fn c36_writes_whose_data_does_not_come_do_not_keep_the_memory() {
    let patience = Duration::from_secs(2);
    let config = TargetConfig { budget_bytes: 64 << 20, patience, ..TargetConfig::default() };
    let rig = Rig::start(config, 1);
    let host = rig.host();
    let mut greedy = [1, 2].map(|number| host.queue(number));
    for queue in &mut greedy {
        for id in 0..40 {
            queue.submit(&write(rig.tank, 0, 2048).id(id).moved(MEBI), &[]);
        }
    }
    wait_until("the memory is gone", || rig.server.target.budget_free() < 2 << 20);
    // Its wait is bounded by the patience with those that were asked and are silent.
    let mut modest = host.queue(3);
    let data = pattern(1, 1 << 20);
    modest.ask(&write(rig.tank, 4096, 2048), Data::Asked(&data)).ok();
    assert!(modest.ask(&read(rig.tank, 4096, 2048), Data::Back(MEBI)).bytes() == data);
    greedy.iter_mut().for_each(Conn::drain);
    modest.expect_alive(false);
}
