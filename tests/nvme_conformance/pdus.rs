//! Items 1 to 12: the PDU layer.

use crate::host::{
    CAPSULE, Command, Conn, Data, EVERY_NAMESPACE, HEADERS, HOST_DATA, HOST_TERMINATION, Host, IC_REQUEST,
    LAST, PAYLOADS, READY, introduction, pattern, pdu, read, sum, u16_at, u32_at, write,
};
use crate::server::{Rig, tank, wait_until};
use drystone::base::prng::Prng;
use drystone::target::TargetConfig;
use std::time::{Duration, Instant};

/// A common header with nothing behind it but zeroes.
fn bare(kind: u8, flags: u8, len: u8, place: u8, whole: u32) -> Vec<u8> {
    let mut bytes = vec![kind, flags, len, place];
    bytes.extend(whole.to_le_bytes());
    bytes.resize(160, 0);
    bytes
}

/// How the target ends a connection on which this is said next: FES and FEI. Checks that what is to blame comes along.
fn blamed(mut conn: Conn, bytes: &[u8]) -> (u16, u32) {
    conn.try_send(bytes);
    let (status, information, excerpt) = conn.termination();
    let len = excerpt.len().min(bytes.len()).min(8);
    assert_eq!(excerpt[..len], bytes[..len], "the offending PDU");
    (status, information)
}

#[test]
fn c1_introductions_are_answered_with_the_digests_that_were_asked_for() {
    let rig = tank();
    for digests in 0..4 {
        let mut conn = Conn::open(rig.server.address);
        let answer = conn.introduce(digests);
        assert_eq!(answer[..12], [1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, digests]);
        let most = u32_at(&answer, 12);
        assert_eq!((most, most % 4), (1 << 20, 0), "MAXH2CDATA");
        rig.connect().over(&mut conn).ok();
    }
}

#[test]
fn c2_the_first_pdu_is_an_introduction_of_a_known_form_and_no_other_is() {
    let rig = tank();
    let fresh = || Conn::open(rig.server.address);
    let capsule = pdu(CAPSULE, 0, 0, &Command::new(2, 1).0, &[]);
    assert_eq!(blamed(fresh(), &capsule), (2, 0));
    assert_eq!(blamed(rig.introduced(0), &introduction(0)), (2, 0));
    assert_eq!(blamed(rig.queue(0), &introduction(0)), (2, 0));
    let changed = |at: usize, value: u8| {
        let mut bytes = introduction(0);
        bytes[at] = value;
        bytes
    };
    assert_eq!(blamed(fresh(), &changed(8, 1)), (6, 8), "PFV");
    assert_eq!(blamed(fresh(), &changed(9, 1)), (6, 8), "PFV");
    for alignment in [1, 7, 31] {
        assert_eq!(blamed(fresh(), &changed(10, alignment)), (6, 10), "HPDA {alignment} is not supported");
    }
    for alignment in [32, 255] {
        assert_eq!(blamed(fresh(), &changed(10, alignment)), (1, 10), "HPDA {alignment} does not exist");
    }
    let mut several = fresh();
    several.send(&changed(12, 3));
    assert_eq!(several.receive().kind, 1, "hosts may offer to serve several R2Ts");
}

#[test]
fn c3_wrong_lengths_end_the_connection_and_take_no_memory() {
    let rig = tank();
    let before = rig.server.target.budget_free();
    let wholes = [0, 7, 8, 23, 71, 127, 129, 1 << 20, u32::MAX];
    let lens = [0, 7, 8, 23, 25, 71, 73, 127, 129, 255];
    for (kind, right) in [(IC_REQUEST, 128), (CAPSULE, 72), (HOST_DATA, 24), (HOST_TERMINATION, 24)] {
        let conn = || if kind == 0 { Conn::open(rig.server.address) } else { rig.introduced(0) };
        for len in lens {
            assert_eq!(blamed(conn(), &bare(kind, 0, len, 0, u32::from(len))), (1, 2), "{kind} HLEN {len}");
        }
        for whole in wholes.into_iter().filter(|whole| *whole != u32::from(right)) {
            let is_excerpt = kind == HOST_TERMINATION && (24..=152).contains(&whole);
            for place in [0, right] {
                let is_capsule = kind == CAPSULE && place != 0 && (73..=8264).contains(&whole);
                if is_excerpt || is_capsule {
                    continue;
                }
                let found = blamed(conn(), &bare(kind, 0, right, place, whole));
                let is_named = found.0 == 1 && [3, 4, 16].contains(&found.1);
                assert!(is_named, "{kind} PLEN {whole} PDO {place}: {found:?}");
            }
        }
    }
    rig.wait_for_connections(0);
    wait_until("nothing is held", || rig.server.target.budget_free() == before);
}

#[test]
fn c4_kinds_that_hosts_do_not_send_end_the_connection() {
    let rig = tank();
    for kind in [1, 3, 5, 7, 8, 9, 0x0a, 0x0b, 0xff] {
        for stage in 0..3 {
            let conn = match stage {
                0 => Conn::open(rig.server.address),
                1 => rig.introduced(0),
                _ => rig.queue(0),
            };
            assert_eq!(blamed(conn, &bare(kind, 0, 24, 0, 24)), (1, 0), "{kind}");
        }
    }
}

/// A whole session in bytes: introduction, Connect, and some reads and writes; and how many completions it has.
fn session_bytes(host: &Host, tank: u32) -> (Vec<u8>, usize) {
    let mut bytes = introduction(0);
    let connect = host.connect_of(1);
    let data = connect.data();
    bytes.extend(pdu(CAPSULE, 0, 0, &connect.command().here(1024).0, &data));
    for id in 2..10_u16 {
        let at = u64::from(id) * 8;
        let command = write(tank, at, 8).id(id).here(4096);
        bytes.extend(pdu(CAPSULE, 0, 0, &command.0, &pattern(at, 4096)));
    }
    for id in 10..14_u16 {
        let command = Command::new(0, EVERY_NAMESPACE).id(id).moved(0);
        bytes.extend(pdu(CAPSULE, 0, 0, &command.0, &[]));
    }
    (bytes, 13)
}

fn expect_session(mut conn: Conn, completions: usize, tank: u32) {
    assert_eq!(conn.receive().kind, 1);
    for _ in 0..completions {
        assert_eq!(conn.completion().status, 0);
    }
    for at in (16..80).step_by(8) {
        assert_eq!(conn.ask(&read(tank, at, 8), Data::Back(4096)).bytes(), pattern(at, 4096));
    }
}

#[test]
fn c5_pdus_may_be_cut_and_joined_in_any_way() {
    let rig = tank();
    let host = rig.host();
    let (bytes, completions) = session_bytes(&host, rig.tank);
    let mut whole = Conn::open(rig.server.address);
    whole.send(&bytes);
    expect_session(whole, completions, rig.tank);
    let mut prng = Prng::from_seed(5);
    for _ in 0..20 {
        let mut conn = Conn::open(rig.server.address);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = 1 << prng.below(13);
            let cut = usize::try_from(1 + prng.below(most)).unwrap().min(rest.len());
            conn.send(&rest[..cut]);
            rest = &rest[cut..];
        }
        expect_session(conn, completions, rig.tank);
    }
    let mut drops = Conn::open(rig.server.address);
    let head = 128 + 72 + 1024 + 72 + 64;
    bytes[..head].iter().for_each(|byte| drops.send(&[*byte]));
    drops.send(&bytes[head..]);
    expect_session(drops, completions, rig.tank);
}

#[test]
fn c6_silent_connections_end_at_the_deadline_and_delay_nobody() {
    let rig = tank();
    let mut silent = Conn::open(rig.server.address);
    let mut introduced = rig.introduced(0);
    let mut half = Conn::open(rig.server.address);
    half.send(&introduction(0)[..100]);
    let (_host, mut queue) = rig.session(0);
    queue.expect_alive(false);
    let start = Instant::now();
    silent.drain();
    introduced.drain();
    half.drain();
    assert!(start.elapsed() < Duration::from_secs(25));
    queue.expect_alive(false);
}

#[test]
fn c7_a_header_digest_is_right_and_there_exactly_if_it_was_agreed_upon() {
    let rig = tank();
    let flush = Command::new(0, EVERY_NAMESPACE).moved(0);
    let with = pdu(CAPSULE, 0, HEADERS, &flush.0, &[]);
    let without = pdu(CAPSULE, 0, 0, &flush.0, &[]);
    for at in [9, 40, 71, 72, 75] {
        let mut bad = with.clone();
        bad[at] ^= 0x10;
        let found = u32_at(&bad, 72);
        assert_eq!(blamed(rig.queue(HEADERS), &bad), (3, found), "{at}");
    }
    assert_eq!(blamed(rig.queue(HEADERS), &without), (1, 1), "absent");
    assert_eq!(blamed(rig.queue(0), &with), (1, 1), "unexpected");
    assert_eq!(blamed(rig.introduced(HEADERS), &without), (1, 1), "before Connect");
    let mut queue = rig.queue(HEADERS);
    queue.send(&with);
    assert_eq!(queue.completion().status, 0);
}

#[test]
fn c8_a_wrong_data_digest_fails_the_command_and_not_the_connection() {
    let rig = tank();
    for digests in [PAYLOADS, HEADERS | PAYLOADS] {
        let (_host, mut queue) = rig.session(digests);
        let command = write(rig.tank, 0, 8).id(9).here(4096);
        let mut bytes = queue.capsule(&command, &pattern(1, 4096));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        queue.send(&bytes);
        let done = queue.completion();
        assert_eq!((done.id, done.status, done.no_retry), (9, 0x022, false));
        queue.submit(&write(rig.tank, 0, 16).id(10).moved(8192), &[]);
        let asked = queue.receive();
        assert_eq!(asked.kind, READY);
        let mut bytes = queue.piece(10, asked.tag(), 0, &[7; 4096], 0);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        queue.send(&bytes);
        let rest = queue.piece(10, asked.tag(), 4096, &[7; 4096], LAST);
        queue.send(&rest);
        let done = queue.completion();
        assert_eq!((done.id, done.status, done.no_retry), (10, 0x022, false));
        assert_eq!(queue.ask(&read(rig.tank, 0, 16), Data::Back(8192)).bytes(), [0; 8192], "not written");
        let mut unmarked = queue.capsule(&command, &[0; 4096]);
        unmarked[1] &= !2;
        assert_eq!(blamed(queue, &unmarked), (1, 1), "absent");
    }
}

#[test]
fn c8_a_connect_with_a_wrong_digest_may_be_tried_again() {
    let rig = tank();
    let connect = rig.connect();
    let mut conn = rig.introduced(PAYLOADS);
    let mut bytes = conn.capsule(&connect.command().here(1024), &connect.data());
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    conn.send(&bytes);
    let done = conn.completion();
    assert_eq!(done.status, 0x022);
    connect.over(&mut conn).ok();
}

#[test]
fn c9_data_lies_where_the_header_says() {
    let rig = tank();
    let command = write(rig.tank, 0, 1).id(4).here(512);
    let capsule = |place: u8, pad: usize| {
        let mut bytes = bare(CAPSULE, 0, 72, place, u32::try_from(72 + pad + 512).unwrap());
        bytes.truncate(8);
        bytes.extend(command.0);
        bytes.resize(72 + pad, 0);
        bytes.extend(pattern(3, 512));
        bytes
    };
    for place in [0, 1, 4, 24, 68, 71, 73, 74, 75, 255] {
        assert_eq!(blamed(rig.queue(0), &capsule(place, 0)), (1, 3), "{place}");
    }
    for pad in [0, 4, 56] {
        let (_host, mut queue) = rig.session(0);
        queue.send(&capsule(u8::try_from(72 + pad).unwrap(), pad));
        assert_eq!(queue.completion().status, 0, "padding of {pad} bytes");
        assert_eq!(queue.ask(&read(rig.tank, 0, 1), Data::Back(512)).bytes(), pattern(3, 512));
    }
    // With a header digest the data begins at 76.
    let (_host, mut queue) = rig.session(HEADERS);
    assert_eq!(queue.ask(&write(rig.tank, 0, 1), Data::Here(&[5; 512])).status, 0);
    let mut bytes = queue.capsule(&command, &[5; 512]);
    bytes[3] = 72;
    let digest = sum(&bytes[..72]);
    bytes[72..76].copy_from_slice(&digest);
    assert_eq!(blamed(queue, &bytes), (1, 3));
}

#[test]
fn c10_terminations_carry_the_pdu_that_is_to_blame() {
    let rig = tank();
    for digests in 0..4 {
        let (_host, mut queue) = rig.session(digests);
        let piece = queue.piece(3, 0x1234, 0, &[1; 512], LAST);
        queue.send(&piece);
        let (status, information, excerpt) = queue.termination();
        assert_eq!((status, information), (1, 10));
        assert_eq!(excerpt[..24], piece[..24]);
    }
}

#[test]
fn c11_a_termination_by_the_host_is_not_answered() {
    let rig = tank();
    for stage in 0..3 {
        for (place, excerpt) in [(0, 0), (0, 72), (24, 128), (0, 128)] {
            let mut conn = match stage {
                0 => rig.introduced(0),
                1 => Host::enabled(rig.server.address, &rig.connect(), 0).admin,
                _ => rig.queue(HEADERS | PAYLOADS),
            };
            let mut bytes = bare(HOST_TERMINATION, 0, 24, place, 24 + excerpt);
            bytes[8] = 1;
            bytes.truncate(24 + excerpt as usize);
            conn.send(&bytes);
            conn.expect_close();
        }
    }
}

#[test]
fn c12_digests_are_crc32c_and_little_endian() {
    assert_eq!(sum(b""), [0; 4]);
    assert_eq!(sum(b"123456789"), [0x83, 0x92, 0x06, 0xe3]);
    assert_eq!(sum(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
    assert_eq!(sum(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
    let rig = tank();
    let mut conn = rig.introduced(HEADERS | PAYLOADS);
    // The host checks every digest that it receives, so this is one of each kind of PDU.
    rig.connect().over(&mut conn).ok();
    let mut host = Host { admin: conn, address: rig.server.address, connect: rig.connect(), controller: 0 };
    host.configure(0x0046_0001);
    let page = host.identify(1, 0).bytes();
    host.controller = u16_at(&page, 78);
    host.set_feature(7, 0).ok();
    let mut queue = host.queue(1);
    let data = pattern(2, 65536);
    queue.ask(&write(rig.tank, 0, 128), Data::Asked(&data)).ok();
    assert_eq!(queue.ask(&read(rig.tank, 0, 128), Data::Back(65536)).bytes(), data);
}

#[test]
fn a_begun_pdu_that_does_not_go_on_ends_the_connection() {
    let config = TargetConfig { patience: Duration::from_secs(1), ..TargetConfig::default() };
    let rig = Rig::start(config, 1);
    let (_host, mut queue) = rig.session(0);
    let command = write(rig.tank, 0, 8).id(1).here(4096);
    let bytes = queue.capsule(&command, &[1; 4096]);
    for cut in [4, 40, 80, 3000] {
        let (_other, mut slow) = rig.session(0);
        slow.send(&bytes[..cut]);
        slow.drain();
        queue.expect_alive(false);
    }
    wait_until("they are gone", || rig.server.target.loads() == [2]);
}
