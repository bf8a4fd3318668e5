//! Items 75 to 78: many, bad and leaving hosts, and what the target does for the others.

use crate::host::{
    CAPSULE, Command, Completion, Conn, Connect, DATA, Data, HOST_DATA, Host, LAST, READY, introduction,
    pattern, pdu, read, u16_at, u32_at, u64_at, write,
};
use crate::server::{Rig, tank, wait_until};
use drystone::base::prng::Prng;
use drystone::base::units::ByteLen;
use drystone::target::{Stopped, TargetConfig};
use drystone::volume::memory::MemoryVolume;
use socket2::SockRef;
use std::net::SocketAddr;
use std::time::Duration;

/// Ends a connection so that the other side sees a reset.
fn reset(conn: Conn) {
    SockRef::from(&conn.stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn c75_half_open_connections_delay_nobody() {
    let rig = Rig::start(TargetConfig { handshakes_max: 300, ..TargetConfig::default() }, 1);
    let address = rig.server.address;
    let mut silent: Vec<Conn> = (0..100).map(|_| Conn::open(address)).collect();
    silent.extend((0..100).map(|_| Conn::introduced(address, 0)));
    let (mut host, mut queue) = rig.session(3);
    host.admin.expect_alive(true);
    queue.ask(&write(rig.tank, 0, 8), Data::Here(&[1; 4096])).ok();
    drop(silent);
    rig.wait_for_connections(2);
}

/// Comes, reads and writes a little, and goes, in good order or not.
fn visit(connect: &Connect, address: SocketAddr, namespace: u32, round: u64) {
    let host = Host::enabled(address, connect, (round % 4) as u8); // below 4
    let mut queue = host.queue(1);
    let data = pattern(round, 65_536);
    queue.ask(&write(namespace, 512, 128), Data::Asked(&data)).ok();
    queue.ask(&read(namespace, 512, 128), Data::Back(65_536)).bytes();
    queue.start(&read(namespace, 0, 2048), Data::Back(1 << 20));
    queue.start(&write(namespace, 0, 2048), Data::Asked(&vec![0; 1 << 20]));
    match round % 3 {
        0 => reset(queue),
        1 => reset(host.admin),
        _ => {}
    }
}

#[test]
fn c75_hosts_that_come_and_go_leave_nothing() {
    let rig = Rig::start(TargetConfig::default(), 2);
    let before = rig.server.target.budget_free();
    let (namespace, address) = (rig.tank, rig.server.address);
    let visitors: Vec<_> = (0..4_u8)
        .map(|number| {
            let connect = Connect { id: [number; 16], ..rig.connect() };
            std::thread::spawn(move || (0..15).for_each(|i| visit(&connect, address, namespace, i)))
        })
        .collect();
    let mut steady = rig.queue(0);
    while visitors.iter().any(|visitor| !visitor.is_finished()) {
        let data = pattern(1, 4096);
        steady.ask(&write(rig.tank, 4096, 8), Data::Here(&data)).ok();
        assert!(steady.ask(&read(rig.tank, 4096, 8), Data::Back(4096)).bytes() == data);
    }
    visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
    drop(steady);
    rig.wait_for_connections(0);
    wait_until("nothing is held", || rig.server.target.budget_free() == before);
    assert_eq!(rig.server.stop(Duration::from_secs(10)), Stopped { cut: 0, stuck: 0 });
}

#[test]
fn c75_a_reset_at_any_byte_harms_nobody() {
    let rig = tank();
    let before = rig.server.target.budget_free();
    let host = rig.host();
    let mut bytes = introduction(3);
    let connect = host.connect_of(1);
    bytes.extend(pdu(CAPSULE, 0, 3, &connect.command().here(1024).0, &connect.data()));
    bytes.extend(pdu(CAPSULE, 0, 3, &write(rig.tank, 0, 8).id(1).here(4096).0, &pattern(1, 4096)));
    bytes.extend(pdu(CAPSULE, 0, 3, &write(rig.tank, 8, 8).id(2).moved(4096).0, &[]));
    let mut header = [0; 16];
    header[0] = 2;
    header[8..12].copy_from_slice(&4096_u32.to_le_bytes());
    bytes.extend(pdu(HOST_DATA, LAST, 3, &header, &pattern(1, 4096)));
    let edges = (0..bytes.len()).filter(|at| at % 97 == 0 || bytes.len() - at < 30);
    for at in edges.chain(100..140).chain(1290..1320) {
        let mut conn = Conn::open(rig.server.address);
        conn.try_send(&bytes[..at]);
        reset(conn);
    }
    rig.wait_for_connections(1);
    let mut queue = host.queue(1);
    queue.expect_alive(false);
    drop((host, queue));
    rig.wait_for_connections(0);
    wait_until("nothing is held", || rig.server.target.budget_free() == before);
}

#[test]
fn c75_garbage_ends_connections_and_nothing_else() {
    let rig = tank();
    let mut good = rig.queue(0);
    let mut prng = Prng::from_seed(75);
    for round in 0..300 {
        let mut bytes = introduction((round % 4) as u8); // below 4
        bytes.extend(pdu(CAPSULE, 0, 0, &rig.connect().command().here(1024).0, &rig.connect().data()));
        bytes.extend(pdu(CAPSULE, 0, 0, &Command::new(6, 0).dword(10, 1).moved(4096).0, &[]));
        let start = if round % 2 == 0 { 128 } else { 0 };
        for _ in 0..prng.below(6) {
            let at = start + usize::try_from(prng.below((bytes.len() - start) as u64)).unwrap();
            bytes[at] = u8::try_from(prng.below(256)).unwrap();
        }
        let mut bad = Conn::open(rig.server.address);
        bad.try_send(&bytes);
        if round % 30 == 0 {
            good.expect_alive(false);
        }
    }
    good.expect_alive(false);
    rig.wait_for_connections(2);
}

/// A namespace of 1 MiB, and what should be in it.
struct Shadow {
    namespace: u32,
    bytes: Vec<u8>,
}

const BLOCKS: u32 = 2048;

impl Shadow {
    /// What a command that succeeded has done.
    fn apply(&mut self, command: &Command, data: &[u8]) {
        let sqe = &command.0;
        if u32_at(sqe, 4) != self.namespace {
            return;
        }
        let at = usize::try_from(u64_at(sqe, 40)).unwrap_or(usize::MAX);
        let len = (usize::from(u16_at(sqe, 48)) + 1) * 512;
        match sqe[0] {
            0x01 => self.bytes[at * 512..][..len].copy_from_slice(&data[..len]),
            0x08 => self.bytes[at * 512..][..len].fill(0),
            0x09 if sqe[44] & 4 != 0 => {
                data.chunks(16).take(usize::from(sqe[40]) + 1).for_each(|range| self.give_back(range));
            }
            _ => {}
        }
    }

    /// Whole blocks of 4 KiB are given back.
    fn give_back(&mut self, range: &[u8]) {
        let from = u64_at(range, 8) * 512;
        let end = from + u64::from(u32_at(range, 4)) * 512;
        let (from, end) = (from.next_multiple_of(4096), end / 4096 * 4096);
        if from < end {
            self.bytes[from as usize..end as usize].fill(0); // within 1 MiB
        }
    }
}

/// A command that is nearly one: of likely values, some of them wrong.
fn nearly(prng: &mut Prng, namespace: u32) -> (Command, Vec<u8>) {
    let mut below = |most: u64| prng.below(most);
    let opcode = [0, 1, 1, 2, 2, 5, 8, 9, 9, 0x0c, 0x0e, below(256)][below(12) as usize]; // one of these
    let count = 1 + below(8) as u32; // 8 at most
    let mut command = Command::new(u8::try_from(opcode).unwrap(), namespace).blocks(below(2060), count);
    if opcode == 9 {
        command = Command::new(9, namespace).dword(10, count - 1).dword(11, below(8) as u32); // small
    }
    let len = match opcode {
        9 => 16 * count,
        1 | 2 | 5 => 512 * count,
        _ => 0,
    };
    let data: Vec<u8> = match opcode {
        9 => (0..count)
            .flat_map(|_| {
                let mut range = [0; 16];
                range[4] = u8::try_from(below(64)).unwrap();
                range[8..10].copy_from_slice(&u16::try_from(below(2000)).unwrap().to_le_bytes());
                range
            })
            .collect(),
        _ => pattern(below(1 << 40), len as usize),
    };
    let is_here = !data.is_empty() && opcode != 2 && below(2) == 0;
    command = if is_here { command.here(len) } else { command.moved(len) };
    for _ in 0..[0, 0, 1, 2][below(4) as usize] {
        let at = usize::try_from(below(64)).unwrap();
        // A command keeps its name: that is the host's to get right.
        if ![2, 3].contains(&at) {
            command.0[at] ^= 1 << below(8);
        }
    }
    (command, data)
}

/// Sends a command whatever it is, and sees it through; the data that it took, if it succeeded.
fn try_out(conn: &mut Conn, command: &Command, data: &[u8]) -> Option<Vec<u8>> {
    let id = conn.new_id();
    let command = command.id(id);
    let is_here = command.0[39] == 1 && !data.is_empty();
    conn.submit(&command, if is_here { data } else { &[] });
    let mut taken = if is_here { data.to_vec() } else { Vec::new() };
    loop {
        let pdu = conn.receive();
        match pdu.kind {
            READY => {
                let (from, len) = pdu.window();
                assert_eq!(from, 0);
                taken = data.iter().copied().cycle().take(len as usize).collect();
                taken.resize(len as usize, 0);
                let piece = conn.piece(id, pdu.tag(), 0, &taken, LAST);
                conn.send(&piece);
            }
            DATA => assert_eq!(pdu.command(), id),
            _ => {
                let done = Completion::of(&pdu);
                assert_eq!(done.id, id);
                return (done.status == 0).then_some(taken);
            }
        }
    }
}

#[test]
fn c76_commands_that_are_nearly_right_do_what_they_say_or_nothing() {
    let rig = tank();
    let namespace = rig.export("fuzzed", MemoryVolume::new(ByteLen(u64::from(BLOCKS) * 512)));
    let mut shadow = Shadow { namespace, bytes: vec![0; 1 << 20] };
    let mut queue = rig.queue(0);
    let mut prng = Prng::from_seed(76);
    let mut done = 0;
    for round in 1..=6000 {
        let (command, data) = nearly(&mut prng, namespace);
        if let Some(taken) = try_out(&mut queue, &command, &data) {
            shadow.apply(&command, &taken);
            done += 1;
        }
        if round % 200 == 0 {
            let found = queue.ask(&read(namespace, 0, BLOCKS), Data::Back(1 << 20)).bytes();
            let wrong = (0..found.len()).find(|at| found[*at] != shadow.bytes[*at]);
            assert_eq!(wrong, None, "after {round} commands");
        }
    }
    assert!(done > 1000, "{done} commands were right");
}

#[test]
fn c76_any_bytes_as_admin_commands_are_answered() {
    let rig = tank();
    let mut host = rig.host();
    let mut prng = Prng::from_seed(77);
    for round in 0..3000 {
        let mut command = Command::new(0, 0);
        prng.fill(&mut command.0);
        let known = [0x02, 0x06, 0x08, 0x09, 0x0a, 0x18, 0x7f, 0x81];
        command.0[0] = known[usize::try_from(prng.below(8)).unwrap()];
        (command.0[1], command.0[39]) = (0x40, if round % 5 == 0 { 1 } else { 0x5a });
        command = command.with(32, &[0, if round % 2 == 0 { 0x10 } else { 0 }, 0, 0]);
        if round % 3 == 0 {
            command = command.with(40, &u32::try_from(prng.below(0x90)).unwrap().to_le_bytes());
        }
        let is_of_time = command.0[0] == 0x09 && command.0[40] == 0x0f;
        if !is_of_time {
            try_out(&mut host.admin, &command, &[]);
        }
    }
    host.configure(0x0046_0000);
    host.configure(0x0046_0001);
    host.identify(0, rig.tank).bytes();
}

#[test]
fn c77_hosts_that_do_not_read_hold_no_more_than_their_part() {
    let budget = 128 << 20;
    let patience = Duration::from_secs(3);
    let config = TargetConfig { budget_bytes: budget, patience, ..TargetConfig::default() };
    let rig = Rig::start(config, 1);
    let before = rig.server.target.budget_free();
    let host = rig.host();
    let mut lazy = [1, 2, 3].map(|number| host.queue(number));
    for queue in &mut lazy {
        for id in 0..100 {
            queue.submit(&read(rig.tank, 0, 2048).id(id).moved(1 << 20), &[]);
        }
    }
    let mut good = host.queue(4);
    for _ in 0..20 {
        // One connection holds a quarter at most, so a fourth of it is always left.
        assert!(rig.server.target.budget_free() >= budget / 4 - (4 << 20));
        good.ask(&read(rig.tank, 0, 2048), Data::Back(1 << 20)).bytes();
        good.ask(&write(rig.tank, 0, 2048), Data::Asked(&vec![0; 1 << 20])).ok();
    }
    wait_until("they are given up", || rig.server.target.loads() == [2]);
    drop((good, host));
    wait_until("all of it is given back", || rig.server.target.budget_free() == before);
}

#[test]
fn c78_two_hosts_with_one_name_are_two_associations() {
    let rig = tank();
    let (mut first, mut queue) = rig.session(0);
    let (mut second, mut other) = rig.session(0);
    assert_ne!(first.controller, second.controller);
    queue.ask(&write(rig.tank, 0, 8), Data::Here(&[1; 4096])).ok();
    assert_eq!(other.ask(&read(rig.tank, 0, 8), Data::Back(4096)).bytes(), [1; 4096]);
    let stranger = Connect { id: [9; 16], ..first.connect_of(2) };
    let refused = stranger.attempt(rig.server.address).err().unwrap();
    assert_eq!((refused.status, refused.result), (0x182, 16 | 1 << 16), "another identifier");
    first.admin.expect_alive(true);
    drop(first);
    queue.drain();
    second.admin.expect_alive(true);
    other.expect_alive(false);
}
