//! What a hostile controller can send on a queue, to the decoder (checklist 79).

use super::super::Failure;
use super::super::decoder::{Asked, Completion, Decoder, Event, Violation, fuzz_decoder};
use crate::base::prng::Prng;
use crate::nvmf::command::{Cqe, Status};
use crate::nvmf::pdu::{Digests, Fatal, IcResp, Transfer, digest, emit_response, emit_termination};

const NONE: Digests = Digests { header: false, data: false };
const BOTH: Digests = Digests { header: true, data: true };
const LEN: u32 = 8192;

fn response_with(id: u16, status: Status, digests: Digests) -> Vec<u8> {
    let cqe = Cqe { result: 7, queue_head: 3, command: id, status, no_retry: true };
    emit_response(&cqe.emit(), digests).to_vec()
}

fn response(id: u16, status: Status) -> Vec<u8> {
    response_with(id, status, NONE)
}

fn data_with(id: u16, offset: u32, len: u32, last: bool, success: bool, digests: Digests) -> Vec<u8> {
    let mut bytes = Transfer { command: id, tag: 0, offset, len }.emit_c2h(last, success, digests).to_vec();
    let data = vec![7; len as usize];
    bytes.extend_from_slice(&data);
    if digests.data && len > 0 {
        bytes.extend_from_slice(&digest(&data));
    }
    bytes
}

fn data(id: u16, offset: u32, len: u32, last: bool) -> Vec<u8> {
    data_with(id, offset, len, last, false, NONE)
}

fn wanted(id: u16, tag: u16, offset: u32, len: u32) -> Vec<u8> {
    Transfer { command: id, tag, offset, len }.emit_r2t(NONE).to_vec()
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
                        skip = len as usize;
                    }
                    events.push(event);
                }
            }
        }
    }
    Ok(events)
}

/// What an answer to one command gives, the same in pieces of every size.
fn answered(
    asked: Asked,
    digests: Digests,
    success: bool,
    answer: impl Fn(u16) -> Vec<u8>,
) -> Result<Vec<Event>, Violation> {
    let outcome = |piece| {
        let mut decoder = Decoder::new(digests);
        if success {
            decoder.allow_success();
        }
        let (_, id) = decoder.expect(asked);
        run(&mut decoder, &answer(id), piece)
    };
    let whole = outcome(usize::MAX);
    assert!([1, 3, 7, 8, 9, 24, 25, 29].into_iter().all(|piece| outcome(piece) == whole));
    whole
}

fn read(answer: impl Fn(u16) -> Vec<u8>) -> Result<Vec<Event>, Violation> {
    answered(Asked::Read(LEN), NONE, false, answer)
}

fn write(answer: impl Fn(u16) -> Vec<u8>) -> Result<Vec<Event>, Violation> {
    answered(Asked::Write(LEN), NONE, false, answer)
}

const DONE: Event = Event::Done { key: 0, outcome: Ok(Completion { result: 7, queue_head: 3 }) };
const IMPLIED: Event = Event::Done { key: 0, outcome: Ok(Completion { result: 0, queue_head: 0 }) };

fn failed(status: Status) -> Event {
    Event::Done { key: 0, outcome: Err(Failure { status, no_retry: true, result: 7 }) }
}

fn arrived(at: u32, len: u32) -> Event {
    Event::Data { key: 0, at, len }
}

#[test]
fn section_5_4_reads_come_in_order_and_end_with_a_response() {
    let events = read(|id| {
        [data(id, 0, 4096, false), data(id, 4096, 4096, true), response(id, Status::SUCCESS)].concat()
    });
    assert_eq!(events.unwrap(), [arrived(0, 4096), arrived(4096, 4096), DONE]);
    let failure = read(|id| [data(id, 0, 4096, false), response(id, Status::UNRECOVERED_READ)].concat());
    assert_eq!(failure.unwrap(), [arrived(0, 4096), failed(Status::UNRECOVERED_READ)]);
    assert_eq!(read(|id| response(id, Status::INVALID_FIELD)).unwrap(), [failed(Status::INVALID_FIELD)]);
}

/// What is wrong, the bytes for an id, and what the decoder is to say.
type Case = (&'static str, fn(u16) -> Vec<u8>, Violation);

#[test]
fn checklist_79_gaps_overlap_excess_and_shortage_break_the_connection() {
    let cases: [Case; 12] = [
        ("a gap at the start", |id| data(id, 4, 8188, true), Violation::Range),
        ("a gap", |id| [data(id, 0, 4, false), data(id, 8, 4, true)].concat(), Violation::Range),
        ("overlap", |id| [data(id, 0, 8, false), data(id, 4, 8, true)].concat(), Violation::Range),
        ("twice", |id| [data(id, 0, 8192, false), data(id, 0, 8192, true)].concat(), Violation::Range),
        ("excess", |id| data(id, 0, 8196, true), Violation::Range),
        ("excess later", |id| [data(id, 0, 8192, false), data(id, 8192, 4, true)].concat(), Violation::Range),
        ("an overflow", |id| data(id, u32::MAX, 4, true), Violation::Range),
        ("nothing", |id| data(id, 0, 0, true), Violation::Length),
        ("behind the last", |id| [data(id, 0, 4, true), data(id, 4, 4, true)].concat(), Violation::AfterLast),
        (
            "success and too little",
            |id| [data(id, 0, 8188, true), response(id, Status::SUCCESS)].concat(),
            Violation::Missing,
        ),
        ("success and nothing", |id| response(id, Status::SUCCESS), Violation::Missing),
        ("a request for data", |id| wanted(id, 0, 0, 4), Violation::Kind),
    ];
    for (name, answer, violation) in cases {
        assert_eq!(read(answer), Err(violation), "{name}");
    }
    assert_eq!(write(|id| data(id, 0, 8192, true)), Err(Violation::Kind), "data for a write");
    let effect = |answer: fn(u16) -> Vec<u8>| answered(Asked::Effect, NONE, false, answer);
    assert_eq!(effect(|id| data(id, 0, 4, true)), Err(Violation::Kind));
    assert_eq!(effect(|id| wanted(id, 0, 0, 4)), Err(Violation::Kind), "in-capsule data is not asked for");
}

#[test]
fn a_length_in_the_header_must_be_that_of_the_pdu() {
    let lied = |len: u32| {
        move |id: u16| {
            let mut bytes = data(id, 0, 8192, true);
            bytes[16..20].copy_from_slice(&len.to_le_bytes());
            bytes
        }
    };
    assert_eq!(read(lied(8188)), Err(Violation::Length));
    assert_eq!(read(lied(u32::MAX)), Err(Violation::Length));
    let huge = |id: u16| {
        let mut bytes = data(id, 0, 8192, true);
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes[16..20].copy_from_slice(&(u32::MAX - 24).to_le_bytes());
        bytes
    };
    assert_eq!(read(huge), Err(Violation::Range), "four gigabytes, refused before anything is kept");
}

#[test]
fn data_may_lie_behind_padding() {
    let padded = |id: u16| {
        let mut bytes = data(id, 0, 8192, true);
        bytes[3] = 64;
        bytes[4..8].copy_from_slice(&(64u32 + 8192).to_le_bytes());
        bytes.splice(24..24, [0; 40]);
        [bytes, response(id, Status::SUCCESS)].concat()
    };
    assert_eq!(read(padded).unwrap(), [arrived(0, 8192), DONE]);
}

#[test]
fn section_5_4_success_stands_for_a_response_only_where_agreed_and_with_all_data() {
    let stands =
        |success: bool, answer: fn(u16) -> Vec<u8>| answered(Asked::Read(LEN), NONE, success, answer);
    let whole: fn(u16) -> Vec<u8> = |id| data_with(id, 0, 8192, true, true, NONE);
    assert_eq!(stands(true, whole).unwrap(), [arrived(0, 8192), IMPLIED]);
    assert_eq!(stands(false, whole), Err(Violation::Success));
    let without_last: fn(u16) -> Vec<u8> = |id| {
        let mut bytes = data(id, 0, 8192, false);
        bytes[1] |= 8;
        bytes
    };
    assert_eq!(stands(true, without_last), Err(Violation::Success));
    assert_eq!(stands(true, |id| data_with(id, 0, 4, true, true, NONE)), Err(Violation::Missing));
    let both = |id| [whole(id), response(id, Status::SUCCESS)].concat();
    assert_eq!(answered(Asked::Read(LEN), NONE, true, both), Err(Violation::Command), "answered twice");
}

#[test]
fn checklist_79_answers_to_idle_stale_and_unknown_commands_break_the_connection() {
    let mut decoder = Decoder::new(NONE);
    let (key, old) = decoder.expect(Asked::Effect);
    assert_eq!(run(&mut decoder, &response(old, Status::SUCCESS), 24).unwrap(), [DONE]);
    let (again, new) = decoder.expect(Asked::Effect);
    assert!(key == again && old != new);
    for id in [old, new ^ 1, new | 0x3ff, u16::MAX] {
        let mut decoder = Decoder::new(NONE);
        decoder.expect(Asked::Effect);
        run(&mut decoder, &response(old, Status::SUCCESS), 24).unwrap();
        decoder.expect(Asked::Effect);
        assert_eq!(run(&mut decoder, &response(id, Status::SUCCESS), 24), Err(Violation::Command));
    }
}

#[test]
fn ids_of_commands_in_flight_differ_and_generations_come_round() {
    let mut decoder = Decoder::new(NONE);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let (_, id) = decoder.expect(Asked::Effect);
        assert!(seen.insert(id), "64 generations");
        run(&mut decoder, &response(id, Status::SUCCESS), 24).unwrap();
    }
    let (_, first) = decoder.expect(Asked::Effect);
    let (_, second) = decoder.expect(Asked::Effect);
    assert!(seen.contains(&first) && first != second);
}

fn want(tag: u16, at: u32, len: u32) -> Event {
    Event::Wanted { key: 0, id: 0, tag, at, len }
}

#[test]
fn section_5_3_data_is_asked_for_in_order_one_request_at_a_time() {
    let mut decoder = Decoder::new(NONE);
    let (_, id) = decoder.expect(Asked::Write(LEN));
    assert_eq!(run(&mut decoder, &wanted(id, 9, 0, 4096), 24).unwrap(), [want(9, 0, 4096)]);
    decoder.sent(id);
    assert_eq!(run(&mut decoder, &wanted(id, 9, 4096, 4096), 24).unwrap(), [want(9, 4096, 4096)]);
    decoder.sent(id);
    assert_eq!(run(&mut decoder, &response(id, Status::SUCCESS), 24).unwrap(), [DONE]);
    // Data for a command that has ended meanwhile is nobody's.
    decoder.sent(id);
}

#[test]
fn checklist_79_requests_out_of_turn_break_the_connection() {
    let cases: [Case; 7] = [
        ("nothing", |id| wanted(id, 0, 0, 0), Violation::Request),
        ("beyond", |id| wanted(id, 0, 0, 8193), Violation::Request),
        ("far beyond", |id| wanted(id, 0, 0, u32::MAX), Violation::Request),
        ("an overflow", |id| wanted(id, 0, u32::MAX, 2), Violation::Request),
        ("not from the start", |id| wanted(id, 0, 4, 4), Violation::Request),
        ("two at a time", |id| [wanted(id, 0, 0, 4), wanted(id, 1, 4, 4)].concat(), Violation::Request),
        (
            "success before the data",
            |id| [wanted(id, 0, 0, 8192), response(id, Status::SUCCESS)].concat(),
            Violation::Missing,
        ),
    ];
    for (name, answer, violation) in cases {
        assert_eq!(write(answer), Err(violation), "{name}");
    }
    assert_eq!(write(|id| response(id, Status::SUCCESS)), Err(Violation::Missing), "without the data");
    let failure = write(|id| [wanted(id, 0, 0, 8192), response(id, Status::WRITE_FAULT)].concat());
    assert_eq!(failure.unwrap(), [want(0, 0, 8192), failed(Status::WRITE_FAULT)]);
    let mut decoder = Decoder::new(NONE);
    let (_, id) = decoder.expect(Asked::Write(LEN));
    run(&mut decoder, &wanted(id, 0, 0, 4), 24).unwrap();
    decoder.sent(id);
    assert_eq!(run(&mut decoder, &wanted(id, 0, 0, 4), 24), Err(Violation::Request), "backwards");
}

#[test]
fn checklist_7_header_digests_must_be_there_and_match() {
    let digests = Digests { header: true, data: false };
    let good = |id| response_with(id, Status::SUCCESS, digests);
    assert_eq!(answered(Asked::Effect, digests, false, good).unwrap(), [DONE]);
    let bad = |id| {
        let mut bytes = response_with(id, Status::SUCCESS, digests);
        bytes[9] ^= 1;
        bytes
    };
    let outcome = answered(Asked::Effect, digests, false, bad);
    assert!(matches!(outcome, Err(Violation::Pdu(Fatal::HeaderDigest(_)))));
    let absent = |id| response(id, Status::SUCCESS);
    assert_eq!(
        answered(Asked::Effect, digests, false, absent),
        Err(Violation::Pdu(Fatal::InvalidField(1))),
        "agreed on and not there"
    );
    assert_eq!(answered(Asked::Effect, NONE, false, good), Err(Violation::Pdu(Fatal::InvalidField(1))));
}

#[test]
fn checklist_8_a_wrong_data_digest_fails_the_command_only() {
    let mut decoder = Decoder::new(BOTH);
    let (key, id) = decoder.expect(Asked::Read(LEN));
    let events = run(&mut decoder, &data_with(id, 0, LEN, true, false, BOTH), 100).unwrap();
    let digest = digest(&[7; LEN as usize]);
    assert_eq!(events, [arrived(0, LEN), Event::Digest { key, at: 0, len: LEN, digest }]);
    decoder.spoil(key);
    let events = run(&mut decoder, &response_with(id, Status::SUCCESS, BOTH), 100).unwrap();
    let failure = Failure { status: Status::TRANSIENT_TRANSPORT, no_retry: false, result: 0 };
    assert_eq!(events, [Event::Done { key, outcome: Err(failure) }]);
    decoder.allow_success();
    let (key, id) = decoder.expect(Asked::Read(LEN));
    let bytes = data_with(id, 0, LEN, true, true, BOTH);
    let mut stream = bytes.as_slice();
    assert_eq!(decoder.next(&mut stream), Ok(Some(arrived(0, LEN))));
    stream = &stream[LEN as usize..];
    assert!(matches!(decoder.next(&mut stream), Ok(Some(Event::Digest { .. }))));
    decoder.spoil(key);
    assert_eq!(decoder.next(&mut stream), Ok(Some(Event::Done { key, outcome: Err(failure) })));
}

#[test]
fn pdus_of_the_other_side_or_out_of_place_break_the_connection() {
    for kind in [0, 2, 4, 6, 8, 10, 255] {
        let outcome = read(|_| vec![kind, 0, 24, 0, 24, 0, 0, 0]);
        assert_eq!(outcome, Err(Violation::Pdu(Fatal::InvalidField(0))), "{kind}");
    }
    let again = IcResp { alignment: 0, digests: NONE, data_max: 4096 }.emit();
    assert_eq!(read(|_| again.clone()), Err(Violation::Pdu(Fatal::Sequence)));
    let ended = emit_termination(Fatal::OutOfRange, &[1; 24]);
    assert_eq!(read(|_| ended.clone()), Err(Violation::Terminated { status: 4, info: 0 }));
    for (at, value) in [(2, 23), (2, 25), (4, 7), (4, 23), (7, 1)] {
        let outcome = read(|id| {
            let mut bytes = response(id, Status::SUCCESS);
            bytes[at] = value;
            bytes
        });
        assert!(matches!(outcome, Err(Violation::Pdu(Fatal::InvalidField(_)))), "{at} {value}: {outcome:?}");
    }
}

#[test]
fn any_bytes_end_in_a_violation_or_nothing_and_never_in_a_panic() {
    let mut prng = Prng::from_seed(79);
    let kinds = [1, 3, 5, 7, 9];
    for round in 0..20_000u32 {
        let mut bytes = vec![0; 160];
        prng.fill(&mut bytes);
        let kind = kinds[round as usize % kinds.len()];
        let header = if kind == 1 { 128 } else { 24 };
        if round % 3 > 0 {
            let common = [kind, bytes[1] & 0x0f, header, bytes[3] & 28, 24 + bytes[4] % 9, 0, 0, 0];
            bytes[..8].copy_from_slice(&common);
            bytes[8] &= 3;
            bytes[9] &= round as u8 & 1;
            bytes[12..16].fill(0);
        }
        for (header, data) in [(false, false), (true, false), (false, true)] {
            fuzz_decoder(Digests { header, data }, round % 2 == 0, &bytes);
        }
    }
}
