//! Items 66 to 76: structured and extended replies, block status.

use crate::client::{Answer, Client, Content, EINVAL, EIO, READ, STATUS, WRITE, ZERO, pattern, request};
use crate::server::{SIZE, Server, tank};
use drystone::base::prng::Prng;
use drystone::base::units::{ByteLen, Span};
use drystone::nbd::wire::{Extent, ReplyMode, StatusQuery};
use drystone::volume::memory::MemoryVolume;
use std::time::{Duration, Instant};

const CHUNKED: [ReplyMode; 2] = [ReplyMode::Structured, ReplyMode::Extended];
const HOLE_AND_ZERO: u64 = 3;

fn extents(answer: &Answer) -> Vec<Extent> {
    assert_eq!((answer.error, answer.extents.len()), (0, 1), "one chunk for the one context");
    answer.extents[0].1.clone()
}

#[test]
fn c66_c67_a_failing_read_is_a_structured_error_and_a_write_fails_too() {
    let bad = Span::at(10 << 20, 4096);
    let volume = MemoryVolume::new(ByteLen(SIZE)).with_bad_range(bad);
    let server = Server::start(vec![("tank", volume)]);
    for mode in CHUNKED {
        let mut client = Client::open(server.address, "tank", mode);
        // The error is in the middle: the volume was read before any chunk was sent.
        let answer = client.ask(0, READ, 9 << 20, 4 << 20);
        assert_eq!((answer.error, answer.chunks, answer.content.len()), (EIO, 1, 0));
        assert_eq!(client.ask(0, READ, SIZE, 1).error, EINVAL);
        assert_eq!(client.write(10 << 20, &[1; 512]), EIO);
        assert_eq!(client.read(0, 4096), vec![0; 4096]);
        client.expect_alive();
    }
    let mut client = Client::open(server.address, "tank", ReplyMode::Simple);
    assert_eq!(client.ask(0, READ, 10 << 20, 1).error, EIO);
    client.expect_alive();
}

#[test]
fn c68_random_reads_are_covered_without_overlap_and_are_right() {
    let server = tank();
    let mut model = vec![0u8; usize::try_from(SIZE).unwrap()];
    let mut prng = Prng::from_seed(68);
    let mut client = Client::open(server.address, "tank", ReplyMode::Structured);
    for _ in 0..120 {
        let offset = prng.below(SIZE);
        let len = usize::try_from(prng.below(60_000).min(SIZE - offset)).unwrap();
        let data = pattern(prng.u64() >> 8, len);
        assert_eq!(client.write(offset, &data), 0);
        let at = usize::try_from(offset).unwrap();
        model[at..at + len].copy_from_slice(&data);
    }
    for mode in CHUNKED {
        let mut client = Client::open(server.address, "tank", mode);
        for _ in 0..150 {
            let offset = prng.below(SIZE);
            let len = prng.below(2 << 20).min(SIZE - offset);
            let flags = if prng.chance(300) { request::DF } else { 0 };
            let at = usize::try_from(offset).unwrap();
            let wanted = &model[at..at + usize::try_from(len).unwrap()];
            let answer = client.ask(flags, READ, offset, len);
            assert!(answer.bytes(offset, len) == wanted, "{mode:?} {offset}+{len}");
        }
    }
}

#[test]
fn c69_df_gives_one_content_chunk_for_mixed_ranges_up_to_32_mib() {
    let server = tank();
    for mode in CHUNKED {
        let mut client = Client::open(server.address, "tank", mode);
        for i in 0..8 {
            client.write(i << 22, &pattern(i, 4096));
        }
        for len in [65536u64, 32 << 20] {
            let mixed = client.ask(request::DF, READ, 0, len);
            assert!(matches!(mixed.content.as_slice(), [(0, Content::Data(_))]));
            assert!(client.ask(0, READ, 0, len).content.len() > 1, "without DF the holes show");
        }
        let holes = client.ask(request::DF, READ, 1 << 20, 65536);
        assert!(matches!(holes.content.as_slice(), [(_, Content::Hole(65536) | Content::Data(_))]));
    }
}

#[test]
fn c70_holes_are_where_data_reads_zero_and_the_map_agrees() {
    let server = tank();
    for mode in CHUNKED {
        let mut client = Client::open(server.address, "tank", mode);
        client.write(8192, &[1; 100]);
        client.write(1 << 20, &vec![2; 1 << 20]);
        client.ask(0, ZERO, (1 << 20) + 4096, 8192);
        client.ask(request::NO_HOLE, ZERO, 32 << 20, 65536);
        let map = extents(&client.ask(0, STATUS, 0, SIZE));
        let data = client.read(0, 32 << 20);
        let mut at = 0u64;
        for extent in &map {
            let end = (at + extent.len).min(32 << 20);
            if extent.status & 2 != 0 && at < end {
                let range = usize::try_from(at).unwrap()..usize::try_from(end).unwrap();
                assert!(data[range].iter().all(|b| *b == 0), "zero at {at}");
            }
            at += extent.len;
        }
        assert_eq!(at, SIZE, "the map ends at the end");
        let status_at = |wanted: u64| {
            let mut at = 0;
            map.iter()
                .find(|extent| {
                    at += extent.len;
                    at > wanted
                })
                .unwrap()
                .status
        };
        assert_eq!([0, 8192, 1 << 20, (1 << 20) + 4096, 3 << 20].map(status_at), [3, 0, 0, 3, 3]);
        assert_eq!(status_at(32 << 20) & 1, 0, "NO_HOLE allocates");
        assert_eq!(map, extents(&client.ask(0, STATUS, 0, SIZE)), "asked twice, the same");
    }
}

#[test]
fn c71_block_status_keeps_the_rules_of_sums() {
    let server = tank();
    let mut prng = Prng::from_seed(71);
    for mode in CHUNKED {
        let mut client = Client::open(server.address, "tank", mode);
        for i in 0..50 {
            client.write(i * 1_000_003, &[3; 5000]);
        }
        for _ in 0..200 {
            let offset = prng.below(SIZE);
            let len = (prng.below(SIZE - offset) + 1).min(SIZE - offset);
            let one = extents(&client.ask(request::REQ_ONE, STATUS, offset, len));
            assert!(one.len() == 1 && one[0].len >= 1 && one[0].len <= len);
            let all = extents(&client.ask(0, STATUS, offset, len));
            let sum: u64 = all.iter().map(|extent| extent.len).sum();
            let but_last = sum - all.last().unwrap().len;
            assert!(but_last < len && offset + sum <= SIZE && all.iter().all(|extent| extent.len > 0));
            assert!(all.windows(2).all(|pair| pair[0].status != pair[1].status), "neighbours are merged");
        }
    }
    let mut none = Client::haggling(server.address);
    none.go("tank", &[]);
    assert_eq!(none.ask(0, STATUS, 0, 4096).error, EINVAL, "no context was selected");
}

#[test]
fn c72_worst_fragmentation_stays_within_the_limit_and_makes_progress() {
    // Every other block of 1 GiB: 2^18 extents in all.
    let size = 1u64 << 30;
    let server = Server::start(vec![("tank", MemoryVolume::new(ByteLen(size)))]);
    let mut client = Client::open(server.address, "tank", ReplyMode::Extended);
    let mut block = 0;
    while block < size / 4096 {
        let count = 128;
        for i in 0..count {
            client.send_write(0, i, (block + 2 * i) * 4096, &[5; 4096]);
        }
        assert!((0..count).all(|_| client.answer().error == 0));
        block += 2 * count;
    }
    for mode in CHUNKED {
        let mut client = Client::open(server.address, "tank", mode);
        let (mut at, mut rounds) = (0, 0);
        while at < size {
            let found = extents(&client.ask(0, STATUS, at, size - at));
            assert!(found.len() <= 65536 && found.iter().all(|extent| extent.len == 4096));
            assert_eq!(found[0].status, 0);
            at += found.iter().map(|extent| extent.len).sum::<u64>();
            rounds += 1;
        }
        assert_eq!((at, rounds), (size, 4));
        // A READ of such a range has as many chunks, all of them right.
        let read = client.ask(0, READ, 0, 4 << 20);
        assert_eq!(read.content.len(), 1024);
        read.bytes(0, 4 << 20);
    }
}

#[test]
fn c73_extended_replies_echo_the_offset_and_an_unwanted_payload_is_drained() {
    let server = tank();
    // `Client` checks of every chunk: offset echoed, status of type 6, no simple reply.
    let mut client = Client::open(server.address, "tank", ReplyMode::Extended);
    for len in [100usize, 1 << 20] {
        for command in [READ, ZERO, 3, 4, 5, 9] {
            let mut bytes = client.request_bytes(request::PAYLOAD_LEN, command, 7, 4096, len as u64);
            bytes.extend(vec![0x25; len]);
            client.send(&bytes);
            let answer = client.answer();
            assert_eq!((answer.cookie, answer.error), (7, EINVAL), "command {command}");
        }
    }
    assert_eq!(client.read(4096, 4096), vec![0; 4096]);
    // A WRITE without the bit is tolerated: its payload follows in any case.
    let mut bytes = client.request_bytes(0, WRITE, 8, 0, 512);
    bytes.extend([6; 512]);
    client.send(&bytes);
    assert_eq!(client.answer().error, 0);
    assert_eq!(client.read(0, 512), vec![6; 512]);
}

#[test]
fn c74_zero_of_a_huge_export_succeeds_or_is_cancelled_by_leaving() {
    let size = (1u64 << 63) - 4096;
    let server = Server::start(vec![("huge", MemoryVolume::new(ByteLen(size)))]);
    let mut client = Client::open(server.address, "huge", ReplyMode::Extended);
    client.write(1 << 62, &[1; 4096]);
    let whole = extents(&client.ask(0, STATUS, 0, size));
    assert_eq!(whole[0], Extent { len: 1 << 62, status: HOLE_AND_ZERO });
    assert_eq!(client.ask(request::FUA, ZERO, 0, size).error, 0, "holes are skipped, whatever their length");
    assert_eq!(client.read(1 << 62, 4096), vec![0; 4096]);
    // NO_HOLE cannot be skipped: it would write for years. Other requests are served meanwhile.
    let server = Server::start(vec![("huge", MemoryVolume::new(ByteLen(size)).discarding_writes())]);
    let mut client = Client::open(server.address, "huge", ReplyMode::Extended);
    client.send_request(request::NO_HOLE, ZERO, 1, 0, size);
    for _ in 0..50 {
        assert_eq!(client.read(1 << 40, 512), vec![0; 512]);
    }
    drop(client);
    let start = Instant::now();
    while server.target.connections_of("huge") > 0 {
        assert!(start.elapsed() < Duration::from_secs(5), "leaving cancels it");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn c75_status_payloads_must_name_the_context_once() {
    let server = tank();
    let mut client = Client::open(server.address, "tank", ReplyMode::Extended);
    let id = client.ask(0, STATUS, 0, 4096).extents[0].0;
    let mut ask = |payload: &[u8]| {
        let len = payload.len() as u64;
        let mut bytes = client.request_bytes(request::PAYLOAD_LEN, STATUS, 9, 4096, len);
        bytes.extend_from_slice(payload);
        client.send(&bytes);
        client.answer()
    };
    let query = |len: u64, contexts: &[u32]| {
        let mut payload = Vec::new();
        StatusQuery { len, contexts: contexts.to_vec() }.emit(&mut payload);
        payload
    };
    let good = ask(&query(8192, &[id]));
    assert_eq!(good.extents, [(id, vec![Extent { len: 8192, status: HOLE_AND_ZERO }])]);
    for bad in [&[id, id][..], &[id + 1], &[]] {
        assert_eq!(ask(&query(8192, bad)).error, EINVAL);
    }
    for len in [0, 1, 8, 9, 11, 13, 8 + 4 * 100_000] {
        assert_eq!(ask(&vec![0; len]).error, EINVAL, "{len} bytes");
    }
    assert_eq!(ask(&query(SIZE, &[id])).error, EINVAL, "past the end");
    client.expect_alive();
}

#[test]
fn c76_error_chunks_are_small() {
    // `Client` fails on any chunk of another kind than data and status with more than 1000 bytes.
    let server = tank();
    for mode in CHUNKED {
        let mut client = Client::open(server.address, "tank", mode);
        let answer = client.ask(0xffdf, READ, 0, 1);
        assert_eq!((answer.error, answer.chunks), (EINVAL, 1));
    }
}
