//! What a hostile server can say, to the pure halves (checklist 90 to 94).

use super::super::decoder::{Asked, Decoder, Event, Violation, fuzz_decoder};
use super::super::negotiation::{Negotiation, Refusal, Step, Wish, fuzz_negotiation};
use crate::base::prng::Prng;
use crate::base::units::Span;
use crate::nbd::wire::number::{CHUNK_DONE, NbdError, OptionCode, chunk, export, reply};
use crate::nbd::wire::{
    ChunkHeader, Extent, Greeting, HolePayload, InfoItem, OptionReplyHeader, ReplyMode, SimpleReply,
};

const SPAN: u64 = 4096;

fn simple(cookie: u64, error: u32) -> Vec<u8> {
    SimpleReply { error, cookie }.emit().to_vec()
}

fn chunk_of(cookie: u64, kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u64;
    let mut bytes = ChunkHeader { flags, kind, cookie, offset: 0, len }.emit_structured().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn data(cookie: u64, offset: u64, len: usize, flags: u16) -> Vec<u8> {
    let mut payload = offset.to_be_bytes().to_vec();
    payload.resize(8 + len, 7);
    chunk_of(cookie, chunk::OFFSET_DATA, flags, &payload)
}

fn hole(cookie: u64, offset: u64, len: u32, flags: u16) -> Vec<u8> {
    chunk_of(cookie, chunk::OFFSET_HOLE, flags, &HolePayload { offset, len }.emit())
}

fn error(cookie: u64, number: u32, flags: u16) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.extend_from_slice(&[0, 3]);
    payload.extend_from_slice(b"bad");
    chunk_of(cookie, chunk::ERROR, flags, &payload)
}

fn status(cookie: u64, context: u32, extents: &[(u32, u32)], flags: u16) -> Vec<u8> {
    let mut payload = context.to_be_bytes().to_vec();
    for (len, state) in extents {
        payload.extend_from_slice(&len.to_be_bytes());
        payload.extend_from_slice(&state.to_be_bytes());
    }
    chunk_of(cookie, chunk::BLOCK_STATUS, flags, &payload)
}

/// All events of a stream, moving announced data out of it, fed in pieces of this size.
fn run(decoder: &mut Decoder, bytes: &[u8], piece: usize) -> Result<Vec<Event>, Violation> {
    let (mut events, mut skip) = (Vec::new(), 0usize);
    for part in bytes.chunks(piece) {
        let mut stream = part;
        loop {
            let moved = skip.min(stream.len());
            (stream, skip) = (&stream[moved..], skip - moved);
            if skip > 0 {
                break;
            }
            match decoder.next(&mut stream)? {
                None => break,
                Some(event) => {
                    if let Event::Data { len, .. } = event {
                        skip = usize::try_from(len).unwrap();
                    }
                    events.push(event);
                }
            }
        }
    }
    Ok(events)
}

/// A decoder with one request in flight, and its cookie.
fn decoder(mode: ReplyMode, asked: Asked) -> (Decoder, u64) {
    let mut decoder = Decoder::new(mode, Some(5), 1 << 20);
    let (_, cookie) = decoder.expect(asked);
    (decoder, cookie)
}

/// What a structured answer to a READ of 4096 bytes at 8192 gives, the same in pieces of every size.
fn read_answer(answer: impl Fn(u64) -> Vec<u8>) -> Result<Vec<Event>, Violation> {
    let outcome = |piece| {
        let (mut decoder, cookie) = decoder(ReplyMode::Structured, Asked::Read(Span::at(8192, SPAN)));
        run(&mut decoder, &answer(cookie), piece)
    };
    let whole = outcome(usize::MAX);
    assert!([1, 3, 19, 20, 21, 29].into_iter().all(|piece| outcome(piece) == whole));
    whole
}

fn status_answer(answer: impl Fn(u64) -> Vec<u8>) -> Result<Vec<Event>, Violation> {
    let (mut decoder, cookie) = decoder(ReplyMode::Structured, Asked::Status(Span::at(8192, SPAN)));
    run(&mut decoder, &answer(cookie), usize::MAX)
}

fn done(outcome: Result<Vec<Extent>, NbdError>) -> Event {
    Event::Done { key: 0, outcome }
}

/// What is wrong, the bytes for a cookie, and what the decoder is to say.
type Case = (&'static str, fn(u64) -> Vec<u8>, Violation);

#[test]
fn section_11_2_simple_replies_end_requests() {
    let (mut read, cookie) = decoder(ReplyMode::Simple, Asked::Read(Span::at(0, SPAN)));
    let mut bytes = simple(cookie, 0);
    bytes.resize(16 + 4096, 1);
    let data = Event::Data { key: 0, at: 0, len: SPAN };
    assert_eq!(run(&mut read, &bytes, 100).unwrap(), [data, done(Ok(vec![]))]);

    let (mut write, cookie) = decoder(ReplyMode::Simple, Asked::Effect);
    assert_eq!(run(&mut write, &simple(cookie, 28), 5).unwrap(), [done(Err(NbdError::NoSpace))]);
    let (mut write, cookie) = decoder(ReplyMode::Simple, Asked::Effect);
    let unknown = run(&mut write, &simple(cookie, 4242), 5).unwrap();
    assert_eq!(unknown, [done(Err(NbdError::Invalid))], "unknown errors are EINVAL (section 13)");
}

#[test]
fn checklist_91_unknown_magics_cookies_and_duplicates_break_the_connection() {
    for mode in [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended] {
        let (mut hostile, _) = decoder(mode, Asked::Effect);
        assert_eq!(run(&mut hostile, b"\x12\x34\x56\x78rest of it", 3), Err(Violation::Magic));
    }
    let (mut unasked, cookie) = decoder(ReplyMode::Simple, Asked::Effect);
    assert_eq!(run(&mut unasked, &simple(cookie ^ 1, 0), 9), Err(Violation::Cookie));
    let (mut stale, cookie) = decoder(ReplyMode::Simple, Asked::Effect);
    assert_eq!(run(&mut stale, &simple(cookie ^ (1 << 40), 0), 9), Err(Violation::Cookie));
    let (mut twice, cookie) = decoder(ReplyMode::Simple, Asked::Effect);
    let both = [simple(cookie, 0), simple(cookie, 0)].concat();
    assert_eq!(run(&mut twice, &both, 7), Err(Violation::Cookie));
    let (mut mixed, cookie) = decoder(ReplyMode::Simple, Asked::Read(Span::at(0, SPAN)));
    assert_eq!(run(&mut mixed, &data(cookie, 0, 4096, CHUNK_DONE), 99), Err(Violation::Magic));
}

#[test]
fn a_cookie_is_not_good_for_the_next_request_in_its_place() {
    let (mut decoder, old) = decoder(ReplyMode::Simple, Asked::Effect);
    run(&mut decoder, &simple(old, 0), 16).unwrap();
    let (key, new) = decoder.expect(Asked::Effect);
    assert_eq!((key, old == new), (0, false));
    assert_eq!(run(&mut decoder, &simple(old, 0), 16), Err(Violation::Cookie));
}

#[test]
fn section_11_3_reads_in_any_order_of_chunks_and_holes() {
    let events = read_answer(|c| {
        [data(c, 8192 + 1024, 1024, 0), hole(c, 8192 + 2048, 2048, 0), data(c, 8192, 1024, CHUNK_DONE)]
            .concat()
    });
    assert_eq!(
        events.unwrap(),
        [
            Event::Data { key: 0, at: 1024, len: 1024 },
            Event::Hole { key: 0, at: 2048, len: 2048 },
            Event::Data { key: 0, at: 0, len: 1024 },
            done(Ok(vec![])),
        ]
    );
    let whole = read_answer(|c| [data(c, 8192, 4096, 0), chunk_of(c, chunk::NONE, CHUNK_DONE, &[])].concat());
    assert_eq!(whole.unwrap().last(), Some(&done(Ok(vec![]))));
}

#[test]
fn checklist_91_chunks_outside_overlapping_missing_or_after_the_end() {
    let cases: [Case; 12] = [
        ("before the span", |c| data(c, 8191, 4096, CHUNK_DONE), Violation::Range),
        ("behind the span", |c| data(c, 8193, 4096, CHUNK_DONE), Violation::Range),
        ("far away", |c| data(c, u64::MAX, 1, CHUNK_DONE), Violation::Range),
        ("longer than the span", |c| data(c, 8192, 4097, CHUNK_DONE), Violation::Length),
        ("data without data", |c| data(c, 8192, 0, CHUNK_DONE), Violation::Length),
        ("an empty hole", |c| hole(c, 8192, 0, CHUNK_DONE), Violation::Length),
        ("a hole too long", |c| hole(c, 8192, u32::MAX, CHUNK_DONE), Violation::Range),
        ("overlap", |c| [data(c, 8192, 100, 0), hole(c, 8291, 10, 0)].concat(), Violation::Overlap),
        ("a simple reply", |c| simple(c, 0), Violation::Kind),
        ("error 0", |c| error(c, 0, CHUNK_DONE), Violation::NoError),
        ("status for a read", |c| status(c, 5, &[(4096, 0)], CHUNK_DONE), Violation::Kind),
        ("an unknown chunk", |c| chunk_of(c, 77, CHUNK_DONE, b"x"), Violation::Kind),
    ];
    for (name, answer, violation) in cases {
        assert_eq!(read_answer(answer), Err(violation), "{name}");
    }
    let missing = |c| [data(c, 8192, 4095, 0), chunk_of(c, chunk::NONE, CHUNK_DONE, &[])].concat();
    assert_eq!(read_answer(missing), Err(Violation::Missing));
    let nothing = |c| chunk_of(c, chunk::NONE, CHUNK_DONE, &[]);
    assert_eq!(read_answer(nothing), Err(Violation::Missing));
    let undone = |c| chunk_of(c, chunk::NONE, 0, &[]);
    assert_eq!(read_answer(undone), Err(Violation::Length), "NONE must be the last");
    let twice = |c| [error(c, 5, CHUNK_DONE), chunk_of(c, chunk::NONE, CHUNK_DONE, &[])].concat();
    assert_eq!(read_answer(twice), Err(Violation::Cookie));
}

#[test]
fn a_chunk_length_of_four_gigabytes_is_refused_before_anything_is_kept() {
    for kind in [chunk::OFFSET_DATA, chunk::OFFSET_HOLE, chunk::ERROR, chunk::BLOCK_STATUS, 0x8777] {
        for asked in [Asked::Read(Span::at(0, SPAN)), Asked::Status(Span::at(0, SPAN))] {
            let (mut hostile, cookie) = decoder(ReplyMode::Structured, asked);
            let header = ChunkHeader { flags: 0, kind, cookie, offset: 0, len: u64::from(u32::MAX) };
            let outcome = run(&mut hostile, &header.emit_structured(), 20);
            assert!(matches!(outcome, Err(Violation::Length | Violation::Kind)), "{kind} {outcome:?}");
        }
    }
}

#[test]
fn errors_in_chunks_fail_the_request_and_keep_the_connection() {
    let padded = read_answer(|c| [data(c, 8192, 4096, 0), error(c, 5, CHUNK_DONE)].concat()).unwrap();
    assert_eq!(padded.last(), Some(&done(Err(NbdError::Io))), "an error behind the data fails the read");
    let first = read_answer(|c| [error(c, 5, 0), error(c, 12, CHUNK_DONE)].concat()).unwrap();
    assert_eq!(first, [done(Err(NbdError::Io))]);
    let unknown = read_answer(|c| {
        let mut payload = 5u32.to_be_bytes().to_vec();
        payload.extend_from_slice(&[0, 0, 1, 2, 3]);
        chunk_of(c, 0x8123, CHUNK_DONE, &payload)
    });
    assert_eq!(unknown.unwrap(), [done(Err(NbdError::Io))], "unknown error types fail this request only");
    let at = |offset: u64| {
        move |c| {
            let mut payload = 5u32.to_be_bytes().to_vec();
            payload.extend_from_slice(&[0, 0]);
            payload.extend_from_slice(&offset.to_be_bytes());
            chunk_of(c, chunk::ERROR_OFFSET, CHUNK_DONE, &payload)
        }
    };
    assert_eq!(read_answer(at(9000)).unwrap(), [done(Err(NbdError::Io))]);
    assert_eq!(read_answer(at(1)), Err(Violation::Range));
}

#[test]
fn checklist_92_status_chunks_must_add_up() {
    let good = status_answer(|c| status(c, 5, &[(1024, 3), (100_000, 0)], CHUNK_DONE)).unwrap();
    let extents = vec![Extent { len: 1024, status: 3 }, Extent { len: 100_000, status: 0 }];
    assert_eq!(good, [done(Ok(extents))], "the last extent may reach past what was asked");
    let cases: [Case; 7] = [
        ("wrong context", |c| status(c, 6, &[(4096, 0)], CHUNK_DONE), Violation::Extents),
        ("empty extent", |c| status(c, 5, &[(0, 0)], CHUNK_DONE), Violation::Extents),
        ("no extent", |c| status(c, 5, &[], CHUNK_DONE), Violation::Length),
        ("one too many", |c| status(c, 5, &[(4096, 0), (1, 0)], CHUNK_DONE), Violation::Extents),
        ("past the export", |c| status(c, 5, &[(u32::MAX, 0)], CHUNK_DONE), Violation::Extents),
        ("half an extent", |c| chunk_of(c, chunk::BLOCK_STATUS, 1, &[0; 15]), Violation::Malformed),
        ("success without status", |c| chunk_of(c, chunk::NONE, 1, &[]), Violation::Missing),
    ];
    for (name, answer, violation) in cases {
        assert_eq!(status_answer(answer), Err(violation), "{name}");
    }
    let twice = |c| [status(c, 5, &[(4096, 0)], 0), status(c, 5, &[(4096, 0)], 1)].concat();
    assert_eq!(status_answer(twice), Err(Violation::Extents));
    let (mut extended, cookie) = decoder(ReplyMode::Extended, Asked::Status(Span::at(0, SPAN)));
    let mut payload = [5u32.to_be_bytes(), 2u32.to_be_bytes()].concat();
    for _ in 0..2 {
        payload.extend_from_slice(&(u64::MAX / 2 + 1).to_be_bytes());
        payload.extend_from_slice(&[0; 8]);
    }
    let len = payload.len() as u64;
    let header = ChunkHeader { flags: 1, kind: chunk::BLOCK_STATUS_EXT, cookie, offset: 0, len };
    let bytes = [header.emit_extended().to_vec(), payload].concat();
    assert_eq!(run(&mut extended, &bytes, 11), Err(Violation::Extents), "the sum overflows");
}

#[test]
fn section_16_extended_chunks_carry_the_offset_of_their_request() {
    for (offset, outcome) in [(8192, Ok(())), (8193, Err(Violation::Range))] {
        let (mut decoder, cookie) = decoder(ReplyMode::Extended, Asked::Read(Span::at(8192, SPAN)));
        let header = ChunkHeader { flags: 1, kind: chunk::OFFSET_HOLE, cookie, offset, len: 12 };
        let hole = HolePayload { offset: 8192, len: 4096 }.emit();
        let bytes = [header.emit_extended().as_slice(), &hole].concat();
        assert_eq!(run(&mut decoder, &bytes, 13).map(drop), outcome);
    }
}

fn option_reply(option: OptionCode, kind: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    let mut bytes = OptionReplyHeader { option: option.to_wire(), kind, len }.emit().to_vec();
    bytes.extend_from_slice(data);
    bytes
}

fn info(item: InfoItem<'_>) -> Vec<u8> {
    let mut data = Vec::new();
    item.emit(&mut data);
    option_reply(OptionCode::Go, reply::INFO, &data)
}

/// The end of a negotiation whose greeting was good and whose answer to GO is this.
fn go(answer: &[u8]) -> Result<Step, Refusal> {
    let mut negotiation = Negotiation::new(Wish { export: "data".to_owned(), ..Wish::default() });
    let greeting = Greeting { flags: 3 }.emit();
    assert!(matches!(negotiation.next(&greeting), Ok(Step::Took { bytes: 18, .. })));
    let mut rest = answer;
    loop {
        match negotiation.next(rest)? {
            Step::Took { bytes, .. } => rest = &rest[bytes..],
            step => return Ok(step),
        }
    }
}

const ACK: u32 = reply::ACK;

#[test]
fn checklist_90_hostile_negotiations_end_with_a_reason() {
    let ack = option_reply(OptionCode::Go, ACK, &[]);
    let good = InfoItem::Export { size: 1 << 30, flags: export::HAS_FLAGS };
    assert!(matches!(go(&[info(good), ack.clone()].concat()), Ok(Step::Agreed { .. })));
    let too_big = InfoItem::Export { size: u64::MAX, flags: export::HAS_FLAGS };
    let no_flags = InfoItem::Export { size: 4096, flags: 0 };
    let endless = info(good).repeat(100);
    let huge = OptionReplyHeader { option: 7, kind: reply::INFO, len: 2 << 30 }.emit();
    let cases: [(&str, Vec<u8>); 9] = [
        ("size 2^64-1", [info(too_big), ack.clone()].concat()),
        ("flags 0", [info(no_flags), ack.clone()].concat()),
        ("no size", ack.clone()),
        ("ACK with data", option_reply(OptionCode::Go, ACK, b"x")),
        ("another option", option_reply(OptionCode::List, ACK, &[])),
        ("endless answers", endless),
        ("2 GiB of answer", huge.to_vec()),
        ("INFO of odd length", option_reply(OptionCode::Go, reply::INFO, &[0, 0, 1])),
        ("an answer of another kind", option_reply(OptionCode::Go, reply::SERVER, b"\0\0\0\0")),
    ];
    for (name, answer) in cases {
        assert!(matches!(go(&answer), Err(Refusal::Broken(_))), "{name}: {:?}", go(&answer));
    }
}

#[test]
fn checklist_94_a_servers_words_are_made_harmless() {
    let answer = option_reply(OptionCode::Go, reply::ERR_UNKNOWN, b"no \x1b[31mred\x07\nname");
    let Err(refusal) = go(&answer) else { panic!("an error is an error") };
    let text = refusal.to_string();
    assert!(text.ends_with("(it says: no ?[31mred??name)"), "{text}");
    let long = option_reply(OptionCode::Go, reply::ERR_POLICY, &[b'a'; 4000]);
    assert!(go(&long).unwrap_err().to_string().len() < 400);
    assert!(matches!(go(&option_reply(OptionCode::Go, reply::ERR_TLS_REQD, &[])), Err(Refusal::NeedsTls(_))));
}

#[test]
fn greetings_of_something_else_are_told_apart() {
    let first = |bytes: &[u8]| Negotiation::new(Wish::default()).next(bytes);
    assert_eq!(first(b"HTTP/1.1 400 Bad"), Err(Refusal::NotNbd));
    assert_eq!(first(b"SSH-2.0-OpenSSH_9.9 and more"), Err(Refusal::NotNbd));
    assert_eq!(first(b"NBDM"), Ok(Step::More));
    assert_eq!(first(b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\0\0"), Err(Refusal::TooOld));
    assert_eq!(first(&Greeting { flags: 2 }.emit()), Err(Refusal::TooOld), "not fixed newstyle");
}

#[test]
fn block_sizes_that_are_not_legal_are_ignored() {
    let ack = option_reply(OptionCode::Go, ACK, &[]);
    let good = InfoItem::Export { size: 1 << 30, flags: export::HAS_FLAGS | export::SEND_DF };
    let agreed = |minimum, preferred, maximum| {
        let blocks = InfoItem::BlockSize { minimum, preferred, maximum };
        let Ok(Step::Agreed { export, .. }) = go(&[info(blocks), info(good), ack.clone()].concat()) else {
            panic!("agreed")
        };
        assert!(!export.has(export::SEND_DF), "meaningless with simple replies");
        (export.block_min, export.block_preferred, export.payload_max)
    };
    assert_eq!(agreed(512, 65536, u32::MAX), (512, 65536, 32 << 20));
    assert_eq!(agreed(4096, 4096, 1 << 20), (4096, 4096, 1 << 20));
    for (minimum, preferred, maximum) in
        [(0, 4096, 1 << 20), (3, 4096, 1 << 20), (512, 256, 1 << 20), (512, 4096, 9)]
    {
        assert_eq!(agreed(minimum, preferred, maximum), (1, 4096, 32 << 20));
    }
}

#[test]
fn no_bytes_make_the_pure_halves_panic() {
    let mut prng = Prng::from_seed(90);
    for round in 0..20_000u32 {
        let mode = [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended][(round % 3) as usize];
        let len = usize::try_from(prng.below(120)).unwrap();
        let mut bytes: Vec<u8> = (0..len)
            .map(|_| if prng.chance(700) { 0 } else { u8::try_from(prng.below(256)).unwrap() })
            .collect();
        fuzz_negotiation(mode, &[Greeting { flags: 3 }.emit().as_slice(), &bytes].concat());
        // Plausible headers: the right magic, and cookies of the requests in flight.
        let magic: u32 = match (mode, prng.chance(500)) {
            (ReplyMode::Simple, _) | (ReplyMode::Structured, true) => 0x6744_6698,
            (ReplyMode::Structured, false) => 0x668e_33ef,
            (ReplyMode::Extended, _) => 0x6e8a_278c,
        };
        let kinds = [0u16, 1, 2, 5, 6, 0x8001, 0x8002, 0x8003];
        if bytes.len() >= 24 {
            let key = prng.below(3);
            bytes[0..4].copy_from_slice(&magic.to_be_bytes());
            if magic != 0x6744_6698 {
                bytes[6..8].copy_from_slice(&kinds[usize::try_from(prng.below(8)).unwrap()].to_be_bytes());
            }
            bytes[8..16].copy_from_slice(&((key + 1) << 32 | key).to_be_bytes());
        }
        fuzz_decoder(mode, &bytes, usize::try_from(prng.below(40)).unwrap());
    }
}
