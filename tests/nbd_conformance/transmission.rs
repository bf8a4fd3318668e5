//! Items 45 to 65, 78 and 79: commands, limits, and the end of a session.

use crate::client::{
    CACHE, Client, DISC, EINVAL, ENOSPC, EPERM, FLUSH, READ, STATUS, TRIM, WRITE, ZERO, pattern, request,
};
use crate::server::{SIZE, Server, tank};
use drystone::base::units::ByteLen;
use drystone::nbd::wire::ReplyMode;
use drystone::target::TargetConfig;
use drystone::volume::memory::MemoryVolume;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const MODES: [ReplyMode; 3] = [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended];
const MIB: usize = 1 << 20;

fn read_only() -> Server {
    Server::start(vec![("tank", MemoryVolume::new(ByteLen(SIZE)).read_only())])
}

#[test]
fn c45_what_is_written_reads_back_in_every_mode() {
    let server = tank();
    let places =
        [(0u64, 512usize), (4096, 4096), (1, 1), (4095, 2), (MIB as u64 - 700, 3 * MIB + 1300), (999, 65537)];
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        for (offset, len) in places {
            let data = pattern(offset + mode as u64, len);
            assert_eq!(client.write(offset, &data), 0);
            assert!(client.read(offset, len as u64) == data, "{mode:?} {offset}+{len}");
        }
        assert_eq!(client.ask(request::FUA, ZERO, 100, 5000).error, 0);
        assert_eq!(client.read(100, 5000), vec![0; 5000]);
        assert_eq!(client.ask(0, TRIM, 0, SIZE).error, 0);
        assert_eq!(client.read(0, SIZE / 4), vec![0; MIB * 16]);
    }
}

#[test]
fn c46_cookies_are_echoed_also_when_two_are_the_same() {
    let server = tank();
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        for cookie in [0, u64::MAX, 0x8000_0000_0000_0001] {
            client.send_request(0, FLUSH, cookie, 0, 0);
            assert_eq!(client.answer().cookie, cookie);
        }
        for _ in 0..3 {
            client.send_request(0, TRIM, 5, 0, 4096);
        }
        assert!((0..3).all(|_| client.answer().cookie == 5));
    }
}

#[test]
fn c47_a_thousand_pipelined_requests_are_all_answered_once() {
    let server = tank();
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        client.write(0, &pattern(0, 1000 * 512));
        let mut sender = client.stream.try_clone().unwrap();
        let requests: Vec<u8> =
            (0..1000u64).flat_map(|i| client.request_bytes(0, READ, i, i * 512, 512)).collect();
        let pipe = std::thread::spawn(move || sender.write_all(&requests).unwrap());
        for i in 0..1000 {
            client.expect_read(i, i * 512, 512);
        }
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let answer = client.answer();
            let cookie = answer.cookie;
            assert!(seen.insert(cookie));
            assert!(answer.bytes(cookie * 512, 512) == pattern(cookie * 512, 512));
        }
        pipe.join().unwrap();
    }
}

#[test]
fn c47_mixed_pipelined_writes_and_reads_of_all_sizes_stay_in_step() {
    let server = Server::start_with(
        vec![("tank", MemoryVolume::new(ByteLen(SIZE)))],
        TargetConfig { budget_bytes: 64 << 20, ..TargetConfig::default() },
        1,
        None,
    );
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        let lens = [1usize, 512, 4096, 5000, 32 << 10, 100_000, MIB, 2 * MIB + 77];
        let mut sender = client.stream.try_clone().unwrap();
        let mut bytes = Vec::new();
        let payload = if mode == ReplyMode::Extended { request::PAYLOAD_LEN } else { 0 };
        let mut offset = 123u64;
        let mut places = Vec::new();
        for round in 0..48u64 {
            let len = lens[usize::try_from(round).unwrap() % lens.len()];
            bytes.extend(client.request_bytes(payload, WRITE, round, offset, len as u64));
            bytes.extend(pattern(offset, len));
            bytes.extend(client.request_bytes(0, FLUSH, 1000 + round, 0, 0));
            places.push((offset, len));
            offset += len as u64;
        }
        let pipe = std::thread::spawn(move || {
            // Odd pieces: headers and payloads are cut everywhere.
            bytes.chunks(77_777).for_each(|piece| sender.write_all(piece).unwrap());
        });
        for _ in 0..96 {
            assert_eq!(client.answer().error, 0);
        }
        pipe.join().unwrap();
        for (offset, len) in places {
            assert!(client.read(offset, len as u64) == pattern(offset, len), "{mode:?} {offset}+{len}");
        }
    }
    assert_eq!(server.target.budget_free(), 64 << 20, "every grant came back");
}

#[test]
fn c48_length_zero_disconnects_nobody() {
    let server = tank();
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        for command in [READ, TRIM, ZERO, STATUS, CACHE] {
            let simple_status = command == STATUS && mode == ReplyMode::Simple;
            let error = if simple_status { EINVAL } else { 0 };
            assert_eq!(client.ask(0, command, 4096, 0).error, error, "{mode:?} {command}");
        }
        assert_eq!(client.write(0, b""), 0);
        client.expect_alive();
    }
}

#[test]
fn c49_reads_are_checked_against_the_end() {
    let server = tank();
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        let places = [
            (SIZE - 1, 1, 0),
            (SIZE, 1, EINVAL),
            (SIZE, 0, 0),
            (u64::MAX, 1, EINVAL),
            (1 << 63, u64::from(u32::MAX), EINVAL),
            (SIZE - 1, 2, EINVAL),
        ];
        for (offset, len, error) in places {
            assert_eq!(client.ask(0, READ, offset, len).error, error, "{mode:?} {offset}+{len}");
        }
        client.expect_alive();
    }
}

#[test]
fn c50_a_write_past_the_end_is_enospc_and_its_payload_is_consumed() {
    let server = tank();
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        assert_eq!(client.write(SIZE - 512, &[1; 1024]), ENOSPC);
        assert_eq!(client.write(SIZE, &vec![1; MIB]), ENOSPC);
        assert_eq!(client.write(u64::MAX, &[1; 1]), ENOSPC);
        assert_eq!(client.ask(0, ZERO, SIZE - 1, 2).error, ENOSPC);
        assert_eq!(client.ask(0, TRIM, SIZE - 1, 2).error, EINVAL);
        assert_eq!(client.read(SIZE - 512, 512), vec![0; 512], "nothing of it was applied");
        client.expect_alive();
    }
}

#[test]
fn c51_c52_a_read_only_export_refuses_what_writes() {
    let server = read_only();
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        assert_ne!(client.flags & crate::client::export::READ_ONLY, 0);
        assert_eq!(client.write(0, &vec![1; 100_000]), EPERM);
        assert_eq!(client.ask(0, TRIM, 0, 4096).error, EPERM);
        assert_eq!(client.ask(0, ZERO, 0, 4096).error, EPERM);
        assert_eq!(client.read(0, 4096), vec![0; 4096]);
        client.expect_alive();
    }
}

#[test]
fn c53_unknown_commands_are_invalid() {
    let server = tank();
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        for command in [8, 9, 0xffff] {
            assert_eq!(client.ask(0, command, 0, 512).error, EINVAL);
        }
        client.expect_alive();
    }
}

#[test]
fn c54_c55_every_flag_bit_on_every_command_is_served_or_invalid() {
    let server = tank();
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        for (command, allowed) in
            [(READ, 0b0001), (FLUSH, 1), (TRIM, 1), (CACHE, 1), (ZERO, 0b1_0011), (STATUS, 0b1001)]
        {
            let allowed = match (command, mode) {
                (READ, ReplyMode::Structured | ReplyMode::Extended) => 0b0101,
                (STATUS, ReplyMode::Simple) => 0,
                _ => allowed,
            };
            for bit in 0..16 {
                if (bit, mode) == (5, ReplyMode::Extended) {
                    continue; // announces a payload: item 73
                }
                let answer = client.ask(1 << bit, command, 0, 4096);
                let error = if allowed >> bit & 1 == 1 { 0 } else { EINVAL };
                assert_eq!(answer.error, error, "{mode:?} command {command} bit {bit}");
            }
        }
        for bit in 0..16 {
            if (bit, mode) == (5, ReplyMode::Extended) {
                continue; // `send_write` sets it
            }
            client.send_write(1 << bit, 1, 0, &[7; 4096]);
            assert_eq!(client.answer().error, if bit == 0 { 0 } else { EINVAL }, "{mode:?} WRITE bit {bit}");
        }
        client.expect_alive();
    }
}

#[test]
fn c56_flush_with_offset_and_length_keeps_the_connection() {
    let server = tank();
    let mut client = Client::open(server.address, "tank", ReplyMode::Simple);
    assert_eq!(client.ask(0, FLUSH, 512, 512).error, 0);
    client.expect_alive();
}

#[test]
fn c57_write_of_32_mib_is_served_and_larger_is_refused() {
    let server = tank();
    for mode in [ReplyMode::Simple, ReplyMode::Structured] {
        let mut client = Client::open(server.address, "tank", mode);
        let data = pattern(512, 32 * MIB);
        assert_eq!(client.write(512, &data), 0);
        assert!(client.read(512, 32 << 20) == data);
        assert_eq!(client.write(0, &vec![9; 32 * MIB + 1]), EINVAL);
        assert_eq!(client.write(0, &vec![9; 64 * MIB]), EINVAL);
        assert_eq!(client.read(0, 512), vec![0; 512], "nothing of it was applied");
        client.expect_alive();
        let before = server.target.budget_free();
        client.send_request(0, WRITE, 1, 0, u64::from(u32::MAX));
        client.expect_close();
        assert_eq!(server.target.budget_free(), before, "nothing was reserved for it");
    }
    let mut client = Client::open(server.address, "tank", ReplyMode::Extended);
    client.send_request(request::PAYLOAD_LEN, WRITE, 1, 0, (32 << 20) + 1);
    client.expect_close();
}

#[test]
fn c58_a_read_of_4_gib_is_refused_and_one_of_32_mib_is_served() {
    let server = Server::start(vec![("tank", MemoryVolume::new(ByteLen(8 << 40)))]);
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        assert_eq!(client.ask(0, READ, 0, u64::from(u32::MAX)).error, EINVAL);
        assert_eq!(client.read(4096, 32 << 20), vec![0; 32 * MIB]);
        client.expect_alive();
    }
}

#[test]
fn c59_trim_and_zero_of_4_gib_succeed_and_reads_interleave() {
    let server = Server::start(vec![("tank", MemoryVolume::new(ByteLen(8 << 40)))]);
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        for gib in 0..64u64 {
            assert_eq!(client.write(gib << 26, &[7; 4096]), 0);
        }
        client.expect_read(2, 6 << 40, 4096);
        // In one segment: else the TRIM may be over before the READ is sent.
        let trim = client.request_bytes(request::FUA, TRIM, 1, 0, u64::from(u32::MAX));
        let read = client.request_bytes(0, READ, 2, 6 << 40, 4096);
        client.send(&[trim, read].concat());
        let (first, second) = (client.answer(), client.answer());
        assert_eq!((first.cookie, second.cookie), (2, 1), "the READ did not wait for the TRIM");
        assert_eq!(second.error, 0);
        assert_eq!(client.read(5 << 26, 4096), vec![0; 4096]);
        assert_eq!(client.write(5 << 26, &[7; 4096]), 0);
        assert_eq!(client.ask(request::FAST_ZERO, ZERO, 0, u64::from(u32::MAX)).error, 0);
        assert_eq!(client.read(5 << 26, 4096), vec![0; 4096]);
    }
}

#[test]
fn c60_a_wrong_magic_after_good_requests_closes_when_they_are_answered() {
    let server = tank();
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        let mut bytes = client.request_bytes(0, TRIM, 1, 0, 4096);
        bytes.extend(client.request_bytes(0, FLUSH, 2, 0, 0));
        bytes.extend([0xee; 100]);
        client.send(&bytes);
        assert_eq!((client.answer().cookie, client.answer().cookie), (1, 2));
        client.expect_close();
    }
}

#[test]
fn c61_r13_half_a_header_or_half_a_payload_leaves_no_trace() {
    let server = tank();
    for mode in MODES {
        for len in [4096usize, 200_000, 3 * MIB] {
            for kept in [10, 40, 28 + len / 2, 28 + len - 1] {
                let mut client = Client::open(server.address, "tank", mode);
                let payload = if mode == ReplyMode::Extended { request::PAYLOAD_LEN } else { 0 };
                let mut bytes = client.request_bytes(payload, WRITE, 1, 0, len as u64);
                bytes.extend(vec![0xab; len]);
                client.send(&bytes[..kept]);
                client.half_close();
                client.expect_close();
            }
        }
    }
    let mut client = Client::open(server.address, "tank", ReplyMode::Simple);
    assert_eq!(client.read(0, 4 << 20), vec![0; 4 * MIB]);
}

#[test]
fn c62_a_client_that_does_not_read_holds_bounded_memory_and_is_closed() {
    let budget = 256 << 20;
    let config =
        TargetConfig { budget_bytes: budget, patience: Duration::from_secs(4), ..TargetConfig::default() };
    let server = Server::start_with(vec![("tank", MemoryVolume::new(ByteLen(SIZE)))], config, 1, None);
    let mut writer = Client::open(server.address, "tank", ReplyMode::Simple);
    writer.write(0, &pattern(0, 32 * MIB));
    let mut stuck = Client::open(server.address, "tank", ReplyMode::Simple);
    stuck.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let requests: Vec<u8> = (0..2000).flat_map(|i| stuck.request_bytes(0, READ, i, 0, 1 << 20)).collect();
    // The server stops reading at some point, so this may not go through.
    let _ = stuck.stream.write_all(&requests);
    let start = Instant::now();
    let mut lowest = budget;
    while start.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        assert!(writer.read(0, 4096) == pattern(0, 4096));
        assert!(asked.elapsed() < Duration::from_secs(2), "another client is not held up");
        lowest = lowest.min(server.target.budget_free());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(lowest >= budget - (64 << 20) - (1 << 20), "one connection holds a quarter at most: {lowest}");
    assert!(lowest < budget, "it did hold something");
    while server.target.connections_of("tank") > 1 {
        assert!(start.elapsed() < Duration::from_secs(15), "closed after its patience");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.target.budget_free(), budget, "everything it held came back");
    writer.expect_alive();
}

#[test]
fn c63_disc_with_writes_in_flight_applies_and_answers_them_all() {
    let server = tank();
    for mode in MODES {
        let mut client = Client::open(server.address, "tank", mode);
        let fill = mode as u8 + 1;
        for i in 0..40 {
            client.send_write(0, i, i * 100_000, &vec![fill; 100_000]);
        }
        client.send_request(0x1f, DISC, 99, 12345, 678);
        assert!((0..40).all(|_| client.answer().error == 0));
        client.expect_close();
        let mut client = Client::open(server.address, "tank", mode);
        assert!(client.read(0, 4_000_000) == vec![fill; 4_000_000]);
    }
}

#[test]
fn c64_replies_still_arrive_after_a_half_close() {
    let server = tank();
    for with_disc in [true, false] {
        let mut client = Client::open(server.address, "tank", ReplyMode::Structured);
        client.write(0, &pattern(0, 8 * MIB));
        for i in 0..8 {
            client.send_request(0, READ, i, i << 20, 1 << 20);
        }
        if with_disc {
            client.send_request(0, DISC, 0, 0, 0);
        }
        client.half_close();
        for _ in 0..8 {
            let answer = client.answer();
            let offset = answer.cookie << 20;
            assert!(answer.bytes(offset, 1 << 20) == pattern(offset, MIB));
        }
        client.expect_close();
    }
}

#[test]
fn c65_connections_beyond_the_limit_are_refused_and_the_others_unharmed() {
    let config = TargetConfig { connections_max: 20, ..TargetConfig::default() };
    let server = Server::start_with(vec![("tank", MemoryVolume::new(ByteLen(SIZE)))], config, 1, None);
    let mut served: Vec<_> =
        (0..20).map(|_| Client::open(server.address, "tank", ReplyMode::Simple)).collect();
    for _ in 0..300 {
        let mut refused = std::net::TcpStream::connect(server.address).unwrap();
        let mut bytes = Vec::new();
        refused.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let end = refused.read_to_end(&mut bytes);
        assert!(bytes.is_empty(), "closed without a greeting: {end:?}");
    }
    served.iter_mut().for_each(Client::expect_alive);
    drop(served.pop());
    let start = Instant::now();
    while server.target.connections_of("tank") > 19 {
        assert!(start.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
    Client::open(server.address, "tank", ReplyMode::Simple).expect_alive();
}

#[test]
fn c78_c79_an_answered_write_is_seen_by_every_connection_on_every_core() {
    let config = TargetConfig::default();
    let server = Server::start_with(vec![("tank", MemoryVolume::new(ByteLen(SIZE)))], config, 2, None);
    let mut clients: Vec<_> =
        (0..4).map(|_| Client::open(server.address, "tank", ReplyMode::Structured)).collect();
    assert_eq!(server.target.loads(), [2, 2], "spread over the cores");
    for round in 0..200u64 {
        let (writer, reader) =
            (usize::try_from(round % 4).unwrap(), usize::try_from((round + 1) % 4).unwrap());
        let data = pattern(round * 7777, 5000);
        assert_eq!(clients[writer].write(round * 3000, &data), 0);
        assert!(clients[reader].read(round * 3000, 5000) == data);
        clients[reader].expect_alive();
    }
}
