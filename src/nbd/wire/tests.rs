//! Golden bytes, round trips and truncation of every structure on the wire.

use super::number::{CHUNK_DONE, Command, NbdError, OptionCode, chunk, export, handshake, request};
use super::*;
use crate::base::prng::Prng;

/// Checks that a parser answers `error` to every proper prefix of a structure.
fn truncated(bytes: &[u8], error: WireError, failure: impl Fn(&[u8]) -> Option<WireError>) {
    assert_eq!(failure(bytes), None, "{bytes:02x?}");
    for len in 0..bytes.len() {
        assert_eq!(failure(&bytes[..len]), Some(error), "{len} of {} bytes", bytes.len());
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn section_4_greeting_and_option_headers_have_their_golden_bytes() {
    let greeting = Greeting { flags: handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES };
    assert_eq!(greeting.emit().as_slice(), b"NBDMAGICIHAVEOPT\0\x03");
    assert_eq!(Greeting::parse(&greeting.emit()), Ok(greeting));
    truncated(&greeting.emit(), WireError::Truncated, |b| Greeting::parse(b).err());
    assert!(Greeting::is_oldstyle(&hex("4e42444d41474943 0000420281861253")));

    let option = OptionHeader { option: OptionCode::Go.to_wire(), len: 6 };
    assert_eq!(option.emit().as_slice(), b"IHAVEOPT\0\0\0\x07\0\0\0\x06");
    assert_eq!(OptionHeader::parse(&option.emit()), Ok(option));
    truncated(&option.emit(), WireError::Truncated, |b| OptionHeader::parse(b).err());

    let reply = OptionReplyHeader { option: 3, kind: number::reply::ERR_POLICY, len: 0 };
    assert_eq!(reply.emit().to_vec(), hex("0003e889045565a9 00000003 80000002 00000000"));
    assert_eq!(OptionReplyHeader::parse(&reply.emit()), Ok(reply));
    truncated(&reply.emit(), WireError::Truncated, |b| OptionReplyHeader::parse(b).err());

    let old = ExportNameReply { size: 1 << 40, flags: export::HAS_FLAGS };
    assert_eq!(old.emit().to_vec(), hex("0000010000000000 0001"));
    truncated(&old.emit(), WireError::Truncated, |b| ExportNameReply::parse(b).err());
}

#[test]
fn section_5_option_data_round_trips_and_every_cut_is_a_length_error() {
    let query = ExportQuery { name: "tank", wanted: vec![3, 0] };
    let mut bytes = Vec::new();
    query.emit(&mut bytes);
    assert_eq!(bytes, hex("00000004 74616e6b 0002 0003 0000"));
    assert_eq!(ExportQuery::parse(&bytes), Ok(query));
    truncated(&bytes, WireError::Length, |b| ExportQuery::parse(b).err());
    bytes.push(0);
    assert_eq!(ExportQuery::parse(&bytes), Err(WireError::Length), "an odd tail");

    let meta = MetaQuery { name: "a", count: 2, queries: vec!["base:", "x:y"] };
    let mut bytes = Vec::new();
    meta.emit(&mut bytes);
    assert_eq!(bytes, hex("00000001 61 00000002 00000005 626173653a 00000003 783a79"));
    assert_eq!(MetaQuery::parse(&bytes, 64), Ok(meta));
    truncated(&bytes, WireError::Length, |b| MetaQuery::parse(b, 64).err());
    assert_eq!(MetaQuery::parse(&bytes, 1).unwrap().queries, ["base:"], "only so many are kept");
}

#[test]
fn section_2_5_strings_are_short_utf8_without_nul() {
    let name = "n".repeat(NBD_STRING_MAX);
    assert_eq!(text(name.as_bytes()), Ok(name.as_str()));
    assert_eq!(text(&[b'n'; NBD_STRING_MAX + 1]), Err(WireError::TooLong));
    assert_eq!(text(b"a\0b"), Err(WireError::Text));
    assert_eq!(text(b"\xff"), Err(WireError::Text));
}

#[test]
fn section_7_info_items_have_their_exact_lengths() {
    let items = [
        (InfoItem::Export { size: 4096, flags: 0x0d }, "0000 0000000000001000 000d"),
        (InfoItem::Name("n"), "0001 6e"),
        (InfoItem::Description("dd"), "0002 6464"),
        (
            InfoItem::BlockSize { minimum: 512, preferred: 4096, maximum: 32 << 20 },
            "0003 00000200 00001000 02000000",
        ),
        (InfoItem::Unknown(999), "03e7"),
    ];
    for (item, golden) in items {
        let mut bytes = Vec::new();
        item.emit(&mut bytes);
        assert_eq!(bytes, hex(golden));
        assert_eq!(InfoItem::parse(&bytes), Ok(item));
    }
    truncated(&hex("0000 0000000000001000 000d"), WireError::Length, |b| InfoItem::parse(b).err());
    truncated(&hex("0003 00000200 00001000 02000000"), WireError::Length, |b| InfoItem::parse(b).err());
    assert_eq!(InfoItem::parse(&hex("0000 0000000000001000 000d 00")), Err(WireError::Length));
}

#[test]
fn list_and_meta_replies_round_trip() {
    let entry = ServerEntry { name: "tank", description: "two copies" };
    let mut bytes = Vec::new();
    entry.emit(&mut bytes);
    assert_eq!(bytes, b"\0\0\0\x04tanktwo copies");
    assert_eq!(ServerEntry::parse(&bytes), Ok(entry));
    assert_eq!(ServerEntry::parse(&bytes[..7]), Err(WireError::Length));

    let context = MetaContext { id: 7, name: "base:allocation" };
    let mut bytes = Vec::new();
    context.emit(&mut bytes);
    assert_eq!(bytes, b"\0\0\0\x07base:allocation");
    assert_eq!(MetaContext::parse(&bytes), Ok(context));
    assert_eq!(MetaContext::parse(&bytes[..3]), Err(WireError::Length));
}

#[test]
fn section_11_requests_have_their_golden_bytes() {
    let read =
        Request { flags: request::DF, command: 0, cookie: 0x0102_0304_0506_0708, offset: 4096, len: 512 };
    let compact = read.emit_compact();
    assert_eq!(compact.to_vec(), hex("25609513 0004 0000 0102030405060708 0000000000001000 00000200"));
    assert_eq!(Request::parse(ReplyMode::Simple, &compact), Ok(read));
    truncated(&compact, WireError::Truncated, |b| Request::parse(ReplyMode::Structured, b).err());
    assert_eq!(Request::parse(ReplyMode::Extended, &compact), Err(WireError::Magic));

    let big = Request { command: Command::Trim.to_wire(), len: 1 << 40, ..read };
    let extended = big.emit_extended();
    assert_eq!(
        extended.to_vec(),
        hex("21e41c71 0004 0004 0102030405060708 0000000000001000 0000010000000000")
    );
    assert_eq!(Request::parse(ReplyMode::Extended, &extended), Ok(big));
    truncated(&extended, WireError::Truncated, |b| Request::parse(ReplyMode::Extended, b).err());
}

#[test]
fn section_11_replies_have_their_golden_bytes() {
    let simple = SimpleReply { error: NbdError::Io.to_wire(), cookie: 1 };
    assert_eq!(simple.emit().to_vec(), hex("67446698 00000005 0000000000000001"));
    assert_eq!(SimpleReply::parse(&simple.emit()), Ok(simple));
    truncated(&simple.emit(), WireError::Truncated, |b| SimpleReply::parse(b).err());

    let header = ChunkHeader { flags: CHUNK_DONE, kind: chunk::OFFSET_DATA, cookie: 2, offset: 0, len: 520 };
    let structured = header.emit_structured();
    assert_eq!(structured.to_vec(), hex("668e33ef 0001 0001 0000000000000002 00000208"));
    assert_eq!(ChunkHeader::parse_structured(&structured), Ok(header));
    truncated(&structured, WireError::Truncated, |b| ChunkHeader::parse_structured(b).err());

    let header = ChunkHeader { offset: 1 << 33, ..header };
    let extended = header.emit_extended();
    assert_eq!(
        extended.to_vec(),
        hex("6e8a278c 0001 0001 0000000000000002 0000000200000000 0000000000000208")
    );
    assert_eq!(ChunkHeader::parse_extended(&extended), Ok(header));
    truncated(&extended, WireError::Truncated, |b| ChunkHeader::parse_extended(b).err());
}

#[test]
fn section_11_3_chunk_payloads_check_their_lengths() {
    let hole = HolePayload { offset: 8192, len: 4096 };
    assert_eq!(hole.emit().to_vec(), hex("0000000000002000 00001000"));
    assert_eq!(HolePayload::parse(&hole.emit()), Ok(hole));
    truncated(&hole.emit(), WireError::Length, |b| HolePayload::parse(b).err());

    let error = hex("00000005 0003 626164 0000000000001000");
    let parsed = ErrorPayload { error: 5, message: b"bad", offset: Some(4096) };
    assert_eq!(ErrorPayload::parse(&error, true), Ok(parsed));
    truncated(&error, WireError::Length, |b| ErrorPayload::parse(b, true).err());

    let status = hex("00000001 00001000 00000003 00000200 00000000");
    let parsed = StatusPayload::parse(&status, false).unwrap();
    assert_eq!(parsed.extents, [Extent { len: 4096, status: 3 }, Extent { len: 512, status: 0 }]);
    assert_eq!(StatusPayload::parse(&status[..4], false), Err(WireError::Length), "no extent at all");
    assert_eq!(StatusPayload::parse(&status[..11], false), Err(WireError::Length));
    let wide = hex("00000001 00000001 0000000100000000 0000000000000002");
    assert_eq!(StatusPayload::parse(&wide, true).unwrap().extents, [Extent { len: 1 << 32, status: 2 }]);
    truncated(&wide, WireError::Length, |b| StatusPayload::parse(b, true).err());

    let query = StatusQuery { len: 1 << 40, contexts: vec![1, 9] };
    let mut bytes = Vec::new();
    query.emit(&mut bytes);
    assert_eq!(StatusQuery::parse(&bytes), Ok(query));
    assert_eq!(StatusQuery::parse(&bytes[..9]), Err(WireError::Length));
}

#[test]
fn error_texts_are_short_and_numbers_round_trip() {
    for error in NbdError::ALL {
        assert!(error.text().len() <= NbdError::TEXT_MAX);
        assert_eq!(NbdError::from_wire(error.to_wire()), Some(*error));
    }
    assert!(Command::ALL.iter().all(|c| Command::from_wire(c.to_wire()) == Some(*c)));
    assert_eq!(OptionCode::from_wire(4), None, "PEEK_EXPORT was withdrawn");
}

#[test]
fn no_parser_panics_on_any_bytes() {
    let mut prng = Prng::from_seed(11);
    for _ in 0..20_000 {
        let len = usize::try_from(prng.below(64)).unwrap();
        // Small values make plausible lengths; the others make hostile ones.
        let bytes: Vec<u8> = (0..len)
            .map(|_| if prng.chance(800) { 0 } else { u8::try_from(prng.below(256)).unwrap() })
            .collect();
        fuzz_wire(&bytes);
        let mut request = hex("21e41c71");
        request.extend_from_slice(&bytes);
        fuzz_wire(&request);
    }
}
