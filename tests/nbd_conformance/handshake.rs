//! Items 1 to 34: the handshake.

use crate::client::{Client, STATUS, contexts, export, meta, option_bytes, query};
use crate::server::{SIZE, Server, tank};
use drystone::base::units::ByteLen;
use drystone::nbd::wire::number::reply;
use drystone::nbd::wire::{InfoItem, OptionHeader, ReplyMode, ServerEntry};
use drystone::volume::memory::MemoryVolume;
use std::io::Write;
use std::time::{Duration, Instant};

const LIST: u32 = 3;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED: u32 = 8;
const LIST_META: u32 = 9;
const SET_META: u32 = 10;
const EXTENDED: u32 = 11;

fn two() -> Server {
    Server::start(vec![("tank", MemoryVolume::new(ByteLen(SIZE))), ("b", MemoryVolume::new(ByteLen(8192)))])
}

#[test]
fn c01_greeting_is_18_bytes_and_comes_without_waiting() {
    let server = tank();
    let start = Instant::now();
    // `connect` checks all 18 bytes, and has sent nothing.
    drop(Client::connect(server.address));
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn c02_c03_export_name_is_padded_unless_no_zeroes_was_agreed() {
    let server = tank();
    for (flags, padding) in [(0u32, 124), (1, 124), (2, 0), (3, 0)] {
        let mut client = Client::connect(server.address);
        client.send(&flags.to_be_bytes());
        client.send_option(1, b"tank");
        let answer = client.take(10);
        assert_eq!(answer[..8], SIZE.to_be_bytes());
        assert_eq!(client.take(padding), vec![0; padding]);
        client.expect_alive();
    }
}

#[test]
fn c04_unknown_client_flags_close_the_connection() {
    let server = tank();
    for flags in [4u32, 1 << 31, 7] {
        let mut client = Client::connect(server.address);
        client.send(&flags.to_be_bytes());
        client.expect_close();
    }
}

#[test]
fn c05_an_option_with_wrong_magic_closes() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    client.send(b"IHAVEOPX\0\0\0\x03\0\0\0\0");
    client.expect_close();
    drop(Client::open(server.address, "tank", ReplyMode::Simple));
}

#[test]
fn c06_unknown_options_are_unsupported_and_the_next_one_works() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    for option in [4, 12, 0xffff_ffff] {
        for len in [0, 7, 4096] {
            assert_eq!(client.kinds(option, &vec![0xee; len]), [reply::ERR_UNSUP]);
        }
    }
    assert_eq!(client.kinds(LIST, b""), [reply::SERVER, reply::ACK]);
}

#[test]
fn c07_option_length_ffffffff_closes_at_once() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    let start = Instant::now();
    client.send(&OptionHeader { option: GO, len: u32::MAX }.emit());
    client.expect_close();
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn c08_option_data_of_1_mib_is_drained_and_refused() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    assert_eq!(client.kinds(LIST, &vec![0; 1 << 20]), [reply::ERR_TOO_BIG]);
    assert_eq!(client.kinds(LIST, b""), [reply::SERVER, reply::ACK]);
}

#[test]
fn c09_65_options_are_too_many() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    for _ in 0..64 {
        assert_eq!(client.kinds(4, b""), [reply::ERR_UNSUP]);
    }
    client.send_option(4, b"");
    client.expect_close();
}

#[test]
fn c10_one_byte_per_second_is_closed_at_the_deadline() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    let start = Instant::now();
    let bytes = option_bytes(GO, &query("tank", &[0; 100]));
    for byte in bytes {
        if client.stream.write_all(&[byte]).is_err() || start.elapsed() > Duration::from_secs(20) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1000));
    }
    let passed = start.elapsed();
    assert!((14..19).contains(&passed.as_secs()), "closed after {passed:?}");
}

#[test]
fn c11_options_may_arrive_byte_by_byte_or_two_at_once() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    for byte in option_bytes(INFO, &query("tank", &[3])) {
        client.send(&[byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.option_replies(INFO).len(), 3);
    client.send(&[option_bytes(LIST, b""), option_bytes(STRUCTURED, b"")].concat());
    assert_eq!(client.option_replies(LIST).len(), 2);
    assert_eq!(client.option_replies(STRUCTURED).len(), 1);
    // Requests may come in one segment with GO.
    client.mode = ReplyMode::Structured;
    let flush = client.request_bytes(0, crate::client::FLUSH, 5, 0, 0);
    client.send(&[option_bytes(GO, &query("tank", &[])), flush].concat());
    assert_eq!(client.option_replies(GO).len(), 2);
    assert_eq!(client.answer().cookie, 5);
}

#[test]
fn c12_abort_is_acknowledged_and_closes() {
    let server = tank();
    for data in [&b""[..], b"rubbish"] {
        let mut client = Client::haggling(server.address);
        assert_eq!(client.kinds(2, data), [reply::ACK]);
        client.expect_close();
    }
    let mut client = Client::haggling(server.address);
    client.send_option(2, b"");
    drop(client);
    drop(Client::open(server.address, "tank", ReplyMode::Simple));
}

#[test]
fn c13_list_names_every_export_and_each_name_works() {
    for (count, name_len) in [(0usize, 1), (1, 1), (1, 255), (1, 4096), (1000, 40)] {
        let name = |i: usize| {
            let mut name = format!("v{i}-ä");
            while name.len() < name_len {
                name.push('x');
            }
            if name_len == 1 { "v".to_owned() } else { name }
        };
        let names: Vec<String> = (0..count).map(name).collect();
        let volumes = names.iter().map(|n| (n.as_str(), MemoryVolume::new(ByteLen(4096)))).collect();
        let server = Server::start(volumes);
        let mut client = Client::haggling(server.address);
        let replies = client.option(LIST, b"");
        assert_eq!(replies.len(), count + 1);
        let listed = replies.iter().filter(|(kind, _)| *kind == reply::SERVER);
        let listed: Vec<_> = listed.map(|(_, data)| ServerEntry::parse(data).unwrap().name).collect();
        assert!(names.iter().all(|name| listed.contains(&name.as_str())));
        if let Some(name) = listed.last() {
            client.go(name, &[]);
            client.expect_alive();
        }
    }
}

#[test]
fn c14_c15_list_takes_no_data_and_may_be_asked_twice() {
    let server = two();
    let mut client = Client::haggling(server.address);
    assert_eq!(client.kinds(LIST, b"x"), [reply::ERR_INVALID]);
    for _ in 0..2 {
        assert_eq!(client.kinds(LIST, b""), [reply::SERVER, reply::SERVER, reply::ACK]);
    }
}

#[test]
fn c16_info_and_go_data_must_add_up() {
    let server = tank();
    let good = query("tank", &[3]);
    let mut long_name = good.clone();
    long_name[3] = 200;
    let mut odd = good.clone();
    odd.push(0);
    let mut too_many = good.clone();
    too_many[9] = 2;
    let mut client = Client::haggling(server.address);
    for option in [INFO, GO] {
        for data in [&long_name[..], &odd, &too_many, &good[..good.len() - 1], b"", b"\0\0\0\0"] {
            assert_eq!(client.kinds(option, data), [reply::ERR_INVALID]);
        }
    }
    // 65535 requests do not fit into what is looked at of an option.
    assert_eq!(client.kinds(INFO, &query("tank", &[999; 65535])), [reply::ERR_TOO_BIG]);
    assert_eq!(client.kinds(INFO, &query("tank", &[999; 30000])), [reply::INFO, reply::ACK]);
}

#[test]
fn c17_an_unknown_name_is_unknown_and_a_good_one_works_afterwards() {
    let server = two();
    let mut client = Client::haggling(server.address);
    assert_eq!(client.kinds(INFO, &query("none", &[])), [reply::ERR_UNKNOWN]);
    assert_eq!(client.kinds(GO, &query("none", &[])), [reply::ERR_UNKNOWN]);
    assert_eq!(client.kinds(GO, &query("", &[])), [reply::ERR_UNKNOWN], "no default among two");
    client.go("tank", &[]);
    client.expect_alive();
}

#[test]
fn c18_names_that_are_no_strings_are_refused() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    let raw = |name: &[u8]| [&u32::try_from(name.len()).unwrap().to_be_bytes(), name, &[0, 0]].concat();
    for option in [INFO, GO] {
        assert_eq!(client.kinds(option, &raw(b"ta\0nk")), [reply::ERR_INVALID]);
        assert_eq!(client.kinds(option, &raw(b"\xc3\x28")), [reply::ERR_INVALID]);
        assert_eq!(client.kinds(option, &raw(&[b'a'; 4097])), [reply::ERR_TOO_BIG]);
    }
    for name in [&b"ta\0nk"[..], b"\xff", &[b'a'; 4097]] {
        let mut client = Client::haggling(server.address);
        client.send_option(1, name);
        client.expect_close();
    }
}

#[test]
fn c19_unknown_info_types_are_ignored() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    assert_eq!(client.kinds(INFO, &query("tank", &[0, 1, 2, 3])), [3, 3, 3, 3, 1]);
    assert_eq!(client.kinds(INFO, &query("tank", &[999])), [3, 1]);
    assert_eq!(client.kinds(INFO, &query("tank", &[])), [3, 1]);
    assert_eq!(client.kinds(INFO, &query("tank", &[1, 1, 1])), [3, 3, 1], "answered once");
}

#[test]
fn c20_c21_go_says_what_info_said_and_then_nothing() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    let info = client.option(INFO, &query("tank", &[1, 3]));
    assert_eq!(client.go("tank", &[1, 3]), info);
    client.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let quiet = std::io::Read::read(&mut client.stream, &mut [0]).unwrap_err();
    assert!(matches!(quiet.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
}

#[test]
fn c22_block_size_comes_before_export_and_fits_the_size() {
    for size in [SIZE, 4096 + 512, 1000, (1 << 63) - 4096] {
        let server = Server::start(vec![("v", MemoryVolume::new(ByteLen(size)))]);
        let mut client = Client::haggling(server.address);
        let replies = client.option(INFO, &query("v", &[3]));
        assert_eq!(replies[0].1.len(), 14);
        let Ok(InfoItem::BlockSize { minimum, preferred, maximum }) = InfoItem::parse(&replies[0].1) else {
            panic!("BLOCK_SIZE is first: {replies:?}");
        };
        assert!(minimum.is_power_of_two() && size % u64::from(minimum) == 0 && minimum <= 65536);
        assert!(preferred.is_power_of_two() && preferred >= minimum.max(512));
        assert_eq!(maximum, 32 << 20);
        assert_eq!(replies[1].1[..10], [&[0, 0][..], &size.to_be_bytes()].concat());
    }
}

#[test]
fn c23_c24_export_name_opens_the_default_or_closes() {
    let server = two();
    for name in [&b"none"[..], b""] {
        let mut client = Client::haggling(server.address);
        client.send_option(1, name);
        client.expect_close();
    }
    let server = tank();
    let mut client = Client::haggling(server.address);
    client.send_option(1, b"");
    assert_eq!(client.take(10)[..8], SIZE.to_be_bytes());
    client.expect_alive();
}

#[test]
fn c25_structured_reply_takes_no_data_and_may_be_repeated() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    assert_eq!(client.kinds(STRUCTURED, b"x"), [reply::ERR_INVALID]);
    client.go("tank", &[]);
    client.read(0, 512);
    let mut client = Client::haggling(server.address);
    assert_eq!(client.kinds(STRUCTURED, b""), [reply::ACK]);
    assert_eq!(client.kinds(STRUCTURED, b""), [reply::ACK]);
}

#[test]
fn c26_send_df_is_offered_only_with_chunks() {
    let server = tank();
    for (mode, df, payload) in [
        (ReplyMode::Simple, false, false),
        (ReplyMode::Structured, true, false),
        (ReplyMode::Extended, true, true),
    ] {
        let client = Client::open(server.address, "tank", mode);
        assert_eq!(client.flags & export::SEND_DF != 0, df);
        assert_eq!(client.flags & export::BLOCK_STATUS_PAYLOAD != 0, payload);
        let always = export::HAS_FLAGS | export::SEND_FLUSH | export::SEND_FUA | export::CAN_MULTI_CONN;
        assert_eq!(client.flags & always, always);
    }
}

#[test]
fn c27_set_meta_context_needs_structured_replies() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    assert_eq!(client.kinds(SET_META, &meta("tank", &["base:allocation"])), [reply::ERR_INVALID]);
    assert_eq!(client.kinds(LIST, b""), [reply::SERVER, reply::ACK]);
}

#[test]
fn c28_set_meta_context_selects_what_it_knows_and_checks_its_lengths() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    assert_eq!(client.kinds(STRUCTURED, b""), [reply::ACK]);
    for nothing in [&[][..], &["x-foo:bar"], &["base:"], &["base:other", "qemu:allocation-depth"]] {
        assert_eq!(client.kinds(SET_META, &meta("tank", nothing)), [reply::ACK]);
    }
    let twice = client.option(SET_META, &meta("tank", &["base:allocation", "base:allocation"]));
    assert_eq!(contexts(&twice).len(), 1);
    assert_eq!(client.kinds(SET_META, &meta("tank", &["nocolon"])), [reply::ERR_INVALID]);
    let mut past = meta("tank", &["base:allocation"]);
    past[15] = 0xff;
    assert_eq!(client.kinds(SET_META, &past), [reply::ERR_INVALID]);
    let mut leftover = meta("tank", &["base:allocation"]);
    leftover.extend_from_slice(b"more");
    assert_eq!(client.kinds(SET_META, &leftover), [reply::ERR_INVALID]);
    let many = vec!["x:"; 10_000];
    assert_eq!(client.kinds(SET_META, &meta("tank", &many)), [reply::ERR_TOO_BIG]);
    let hostile = [b"\0\0\0\x04tank".as_slice(), &[0xff; 4]].concat();
    assert_eq!(client.kinds(SET_META, &hostile), [reply::ERR_INVALID]);
    assert_eq!(client.kinds(SET_META, &meta("none", &["base:allocation"])), [reply::ERR_UNKNOWN]);
}

#[test]
fn c29_list_meta_context_knows_wildcards() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    let all = [(0, "base:allocation".to_owned())];
    for queries in [&[][..], &["base:"], &["base:allocation"]] {
        assert_eq!(contexts(&client.option(LIST_META, &meta("tank", queries))), all);
    }
    for queries in [&["qemu:"][..], &["x-foo:"], &["base:alloc"]] {
        assert_eq!(client.kinds(LIST_META, &meta("tank", queries)), [reply::ACK]);
    }
    assert_eq!(client.kinds(LIST_META, &meta("none", &[])), [reply::ERR_UNKNOWN]);
}

#[test]
fn c30_a_selection_for_another_export_is_dropped() {
    let server = two();
    let mut client = Client::haggling(server.address);
    client.kinds(STRUCTURED, b"");
    client.mode = ReplyMode::Structured;
    assert_eq!(client.kinds(SET_META, &meta("tank", &["base:allocation"])).len(), 2);
    client.go("b", &[]);
    assert_eq!(client.ask(0, STATUS, 0, 4096).error, crate::client::EINVAL);
    client.expect_alive();
}

#[test]
fn c31_a_failed_set_meta_context_clears_the_earlier_one() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    client.kinds(STRUCTURED, b"");
    client.mode = ReplyMode::Structured;
    assert_eq!(client.kinds(SET_META, &meta("tank", &["base:allocation"])).len(), 2);
    assert_eq!(client.kinds(SET_META, &meta("none", &["base:allocation"])), [reply::ERR_UNKNOWN]);
    client.go("tank", &[]);
    assert_eq!(client.ask(0, STATUS, 0, 4096).error, crate::client::EINVAL);
}

#[test]
fn c32_extended_headers_exclude_structured_reply_and_export_name() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    assert_eq!(client.kinds(EXTENDED, b"x"), [reply::ERR_INVALID]);
    assert_eq!(client.kinds(EXTENDED, b""), [reply::ACK]);
    assert_eq!(client.kinds(EXTENDED, b""), [reply::ACK]);
    assert_eq!(client.kinds(STRUCTURED, b""), [reply::ERR_EXT_HEADER_REQD]);
    client.send_option(1, b"tank");
    client.expect_close();
}

#[test]
fn c34_without_tls_starttls_is_refused_and_the_plain_connection_goes_on() {
    let server = tank();
    let mut client = Client::haggling(server.address);
    assert_eq!(client.kinds(5, b""), [reply::ERR_POLICY]);
    client.go("tank", &[]);
    client.expect_alive();
}
