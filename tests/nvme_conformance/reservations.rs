//! Items 67 to 69: reservations, by hosts that are told apart by their identifiers alone.

use crate::host::{Command, Conn, Connect, Data, Host, LAST, READY, read, u16_at, u32_at, u64_at, write};
use crate::server::{Rig, tank};

const REGISTER: u8 = 0x0d;
const REPORT: u8 = 0x0e;
const ACQUIRE: u8 = 0x11;
const RELEASE: u8 = 0x15;
const CONFLICT: u16 = 0x083;

/// A host with an I/O queue, and a key of its own.
struct Party {
    host: Host,
    queue: Conn,
    namespace: u32,
    key: u64,
}

impl Party {
    fn new(rig: &Rig, number: u8) -> Party {
        let connect = Connect { id: [number; 16], ..rig.connect() };
        let host = Host::enabled(rig.server.address, &connect, 0);
        let queue = host.queue(1);
        Party { host, queue, namespace: rig.tank, key: 0x1000 + u64::from(number) }
    }

    /// Status of a reservation command with two keys.
    fn change(&mut self, opcode: u8, dword: u32, first: u64, second: u64) -> u16 {
        let keys = [first.to_le_bytes(), second.to_le_bytes()].concat();
        let len = if opcode == RELEASE { 8 } else { 16 };
        let command = Command::new(opcode, self.namespace).dword(10, dword);
        let answer = self.queue.ask(&command, Data::Here(&keys[..len]));
        // Whoever is in the way may go away.
        assert_eq!(answer.no_retry, ![0, CONFLICT].contains(&answer.status), "{answer:?}");
        answer.status
    }

    fn register(&mut self) -> u16 {
        self.change(REGISTER, 0, 0, self.key)
    }

    fn unregister(&mut self) -> u16 {
        self.change(REGISTER, 1, self.key, 0)
    }

    fn acquire(&mut self, kind: u32) -> u16 {
        self.change(ACQUIRE, kind << 8, self.key, 0)
    }

    fn preempt(&mut self, kind: u32, key: u64, abort: bool) -> u16 {
        self.change(ACQUIRE, kind << 8 | if abort { 2 } else { 1 }, self.key, key)
    }

    fn release(&mut self, kind: u32) -> u16 {
        self.change(RELEASE, kind << 8, self.key, 0)
    }

    fn clear(&mut self) -> u16 {
        self.change(RELEASE, 1, self.key, 0)
    }

    /// Whether the host may do what an I/O command does.
    fn may(&mut self, opcode: u8) -> bool {
        let command = Command::new(opcode, self.namespace).blocks(0, 8);
        let answer = match opcode {
            1 | 5 => self.queue.ask(&command, Data::Here(&[0; 4096])),
            2 => self.queue.ask(&command, Data::Back(4096)),
            9 => self.queue.ask(&Command::new(9, self.namespace).dword(11, 4), Data::Here(&[0; 16])),
            _ => self.queue.ask(&command, Data::None),
        };
        assert!([0, CONFLICT].contains(&answer.status), "{opcode:x}: {answer:?}");
        assert!(answer.status == 0 || !answer.no_retry);
        answer.status == 0
    }

    fn report(&mut self) -> Vec<u8> {
        let command = Command::new(REPORT, self.namespace).dword(10, 4096 / 4 - 1).dword(11, 1);
        self.queue.ask(&command, Data::Back(4096)).bytes()
    }

    /// The next event, and the notice that it is about: type, how many more, namespace.
    fn notice(&mut self) -> (u8, u8, u32) {
        let told = match self.host.admin.early.pop() {
            Some(early) => early,
            None => self.host.admin.completion(),
        };
        assert_eq!((told.status, told.result), (0, 0x0080_0006));
        let page = self.host.log(0x80, 0, 64, false).bytes();
        self.host.listen();
        (page[8], page[9], u32_at(&page, 12))
    }
}

fn parties(rig: &Rig) -> [Party; 3] {
    [1, 2, 3].map(|number| Party::new(rig, number))
}

#[test]
fn c67_each_type_keeps_out_whom_it_is_to_keep_out() {
    let rig = tank();
    let [mut holder, mut registrant, mut stranger] = parties(&rig);
    assert_eq!((holder.register(), registrant.register()), (0, 0));
    for kind in 1..=6 {
        assert_eq!(stranger.acquire(kind), CONFLICT, "only registrants reserve");
        assert_eq!(holder.acquire(kind), 0);
        let others_read = kind % 2 == 1;
        let shared = kind >= 3;
        for opcode in [0x02, 0x05, 0x0c] {
            assert!(holder.may(opcode));
            assert_eq!(registrant.may(opcode), shared || others_read, "{kind} {opcode:x}");
            assert_eq!(stranger.may(opcode), others_read, "{kind} {opcode:x}");
        }
        // Flush is in the group of commands that write.
        for opcode in [0x00, 0x01, 0x08, 0x09] {
            assert!(holder.may(opcode));
            assert_eq!(registrant.may(opcode), shared, "{kind} {opcode:x}");
            assert!(!stranger.may(opcode), "{kind} {opcode:x}");
        }
        let again = registrant.acquire(kind);
        assert_eq!(again, if kind >= 5 { 0 } else { CONFLICT }, "all registrants hold it");
        assert_eq!(holder.acquire(kind % 6 + 1), CONFLICT, "another type");
        assert_eq!(holder.release(kind % 6 + 1), CONFLICT);
        assert_eq!(holder.release(kind), 0);
        assert!(stranger.may(1) && registrant.may(1));
    }
}

#[test]
fn c67_another_path_of_the_host_shares_its_registration() {
    let rig = tank();
    let [mut holder, mut other, _] = parties(&rig);
    let mut path = Party::new(&rig, 1);
    assert_eq!((holder.register(), holder.acquire(2)), (0, 0));
    assert!(path.may(1) && path.may(2) && !other.may(2));
    drop(holder);
    assert!(path.may(1) && !other.may(2), "it outlives the association");
    assert_eq!(path.release(2), 0);
    assert!(other.may(1));
}

#[test]
fn c67_commands_of_hosts_without_the_right_key_are_refused() {
    let rig = tank();
    let [mut holder, mut other, mut stranger] = parties(&rig);
    assert_eq!(holder.register(), 0);
    assert_eq!(holder.change(REGISTER, 0, 0, 5), CONFLICT, "registered with another key");
    assert_eq!(holder.register(), 0, "with the same key");
    assert_eq!(holder.change(REGISTER, 2, 5, 6), CONFLICT, "replacing a key that it has not");
    assert_eq!(holder.change(REGISTER, 2, holder.key, 6), 0);
    assert_eq!(holder.acquire(1), CONFLICT, "the old key");
    assert_eq!(holder.change(REGISTER, 2 | 8, 99, holder.key), 0, "IEKEY");
    assert_eq!(holder.acquire(1), 0);
    assert_eq!(other.register(), 0);
    for opcode in [ACQUIRE, RELEASE] {
        assert_eq!(other.change(opcode, 1 << 8, 7, 0), CONFLICT);
        assert_eq!(stranger.change(opcode, 1 << 8, 7, 0), CONFLICT);
    }
    assert_eq!(other.release(1), 0, "what one does not hold");
    assert!(!other.may(1));
    assert_eq!(stranger.unregister(), CONFLICT);
    for (opcode, reserved) in [
        (REGISTER, 3),
        (REGISTER, 1 << 30),
        (ACQUIRE, 3 | 1 << 8),
        (ACQUIRE, 0),
        (ACQUIRE, 7 << 8),
        (RELEASE, 2 | 1 << 8),
        (RELEASE, 7 << 8),
    ] {
        assert_eq!(holder.change(opcode, reserved, holder.key, 9), 0x002, "{opcode:x} {reserved:x}");
    }
    assert_eq!(holder.change(REGISTER, 2, holder.key, 0), 0x002, "zero is nobody's key");
}

#[test]
fn c68_preempting_takes_over_and_clearing_ends_it_all() {
    let rig = tank();
    let [mut holder, mut other, mut third] = parties(&rig);
    for abort in [false, true] {
        for party in [&mut holder, &mut other, &mut third] {
            assert_eq!(party.register(), 0);
        }
        assert_eq!(holder.acquire(1), 0);
        let key = holder.key;
        assert_eq!(other.preempt(2, key, abort), 0);
        assert!(!holder.may(2) && other.may(1) && !third.may(2));
        assert_eq!(holder.release(1), CONFLICT, "it is not registered any more");
        assert_eq!(other.preempt(2, 0x9999, abort), CONFLICT, "nobody has this key");
        assert_eq!(third.clear(), 0, "any registrant may");
        assert!(holder.may(1) && other.may(1) && third.may(1));
        assert_eq!(u16_at(&holder.report(), 5), 0, "nobody is registered");
    }
}

#[test]
fn c68_a_write_that_was_asked_for_does_not_outlive_its_registration() {
    let rig = tank();
    let [mut holder, mut other, _] = parties(&rig);
    assert_eq!((holder.register(), other.register(), holder.acquire(1)), (0, 0, 0));
    holder.queue.submit(&write(rig.tank, 0, 16).id(900).moved(8192), &[]);
    let ready = holder.queue.receive();
    assert_eq!(ready.kind, READY);
    let key = holder.key;
    assert_eq!(other.preempt(1, key, true), 0);
    let piece = holder.queue.piece(900, ready.tag(), 0, &[9; 8192], LAST);
    holder.queue.send(&piece);
    let done = holder.queue.completion();
    assert_eq!((done.id, done.status), (900, CONFLICT));
    assert_eq!(other.queue.ask(&read(rig.tank, 0, 16), Data::Back(8192)).bytes(), [0; 8192]);
}

#[test]
fn c68_who_loses_something_is_told_and_who_masked_it_is_not() {
    let rig = tank();
    let [mut holder, mut other, mut masked] = parties(&rig);
    for party in [&mut holder, &mut other, &mut masked] {
        assert_eq!(party.register(), 0);
        party.host.listen();
    }
    let mask = Command::new(0x09, rig.tank).dword(10, 0x82).dword(11, 0b1110);
    masked.host.admin.ask(&mask, Data::None).ok();
    assert_eq!((holder.acquire(3), holder.release(3)), (0, 0));
    assert_eq!(other.notice(), (2, 0, rig.tank), "released");
    assert_eq!(holder.acquire(1), 0);
    let key = holder.key;
    assert_eq!(other.preempt(1, key, false), 0);
    assert_eq!(holder.notice(), (1, 0, rig.tank), "registration preempted");
    assert_eq!((holder.register(), holder.clear()), (0, 0));
    assert_eq!(other.notice(), (3, 0, rig.tank), "reservation preempted");
    masked.host.admin.expect_alive(true);
    assert!(masked.host.admin.early.is_empty());
    assert_eq!(masked.host.log(0x80, 0, 64, false).bytes(), [0; 64]);
}

#[test]
fn c68_persistence_is_kept_as_a_setting() {
    let rig = tank();
    let [mut holder, ..] = parties(&rig);
    let key = holder.key;
    assert_eq!(holder.change(REGISTER, 3 << 30, 0, key), 0);
    assert_eq!(holder.report()[9], 1, "PTPLS");
    assert_eq!(holder.change(REGISTER, 2 << 30, 0, key), 0);
    assert_eq!(holder.report()[9], 0);
}

#[test]
fn c69_a_report_has_exactly_the_bytes_that_were_asked_for() {
    let rig = tank();
    let [mut holder, mut other, mut stranger] = parties(&rig);
    assert_eq!((holder.register(), other.register(), holder.acquire(4)), (0, 0, 0));
    let page = stranger.report();
    assert_eq!((u32_at(&page, 0), page[4], u16_at(&page, 5), page[9]), (2, 4, 2, 0));
    for (at, party, is_holder) in [(64, &holder, 1), (128, &other, 0)] {
        let entry = &page[at..at + 64];
        assert_eq!((u16_at(entry, 0), entry[2] & 1), (party.host.controller, is_holder));
        assert_eq!((u64_at(entry, 8), &entry[16..32]), (party.key, &party.host.connect.id[..]));
    }
    assert!(page[192..].iter().all(|byte| *byte == 0));
    for len in [4, 60, 64, 100, 128, 192, 196, 8192, 1 << 20] {
        let command = Command::new(REPORT, rig.tank).dword(10, len / 4 - 1).dword(11, 1);
        let part = stranger.queue.ask(&command, Data::Back(len)).bytes();
        let shared = part.len().min(page.len());
        assert!(part.len() == len as usize && part[..shared] == page[..shared], "{len}");
        let wrong = stranger.queue.ask(&command, Data::Back(len + 4));
        assert_eq!((wrong.status, wrong.no_retry), (0x00f, true));
    }
    let much = Command::new(REPORT, rig.tank).dword(10, u32::MAX).dword(11, 1);
    assert_eq!(stranger.queue.ask(&much, Data::Back(4096)).status, 0x002);
    let basic = Command::new(REPORT, rig.tank).dword(10, 1023);
    let answer = stranger.queue.ask(&basic, Data::Back(4096));
    assert_eq!((answer.status, answer.no_retry), (0x018, false), "hosts ask again in the long form");
}
