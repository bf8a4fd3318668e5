//! Judging requests and building replies.

use super::*;
use crate::base::prng::Prng;

const SIZE: ByteLen = ByteLen(1 << 40);

fn terms(mode: ReplyMode) -> Terms {
    Terms { mode, alignment: 1, read_only: false, allocation_context: Some(7) }
}

fn ask(command: Command, flags: u16, offset: u64, len: u64) -> Request {
    Request { flags, command: command.to_wire(), cookie: 9, offset, len }
}

fn invalid(payload: u64) -> Verdict {
    Verdict::Refuse { error: NbdError::Invalid, payload }
}

#[test]
fn section_13_ranges_are_checked_without_overflow() {
    let judge = |command, offset, len| {
        super::judge(&ask(command, 0, offset, len), &terms(ReplyMode::Simple), SIZE, false)
    };
    let read = |offset, len| Verdict::Run(Action::Read { span: Span::at(offset, len), whole: false });
    assert_eq!(judge(Command::Read, SIZE.0 - 1, 1), read(SIZE.0 - 1, 1));
    assert_eq!(judge(Command::Read, SIZE.0, 1), invalid(0));
    assert_eq!(judge(Command::Read, SIZE.0, 0), Verdict::Run(Action::Nothing));
    assert_eq!(judge(Command::Read, u64::MAX, 1), invalid(0));
    assert_eq!(judge(Command::Read, 0, PAYLOAD_MAX), read(0, PAYLOAD_MAX));
    assert_eq!(judge(Command::Read, 0, PAYLOAD_MAX + 1), invalid(0));
    for command in [Command::Write, Command::WriteZeroes] {
        let payload = if command == Command::Write { 2 } else { 0 };
        let refused = Verdict::Refuse { error: NbdError::NoSpace, payload };
        assert_eq!(judge(command, SIZE.0 - 1, 2), refused);
    }
    assert_eq!(judge(Command::Trim, SIZE.0 - 1, 2), invalid(0));
    assert_eq!(judge(Command::Flush, 5, 5), Verdict::Run(Action::Flush));
}

#[test]
fn section_13_payloads_are_drained_refused_or_end_the_connection() {
    let write = |mode, len| judge(&ask(Command::Write, 0, 0, len), &terms(mode), SIZE, false);
    let span = Span::at(0, PAYLOAD_MAX);
    assert_eq!(
        write(ReplyMode::Simple, PAYLOAD_MAX),
        Verdict::Run(Action::Write { span, flags: WriteFlags { fua: false } })
    );
    assert_eq!(write(ReplyMode::Simple, PAYLOAD_MAX + 1), invalid(PAYLOAD_MAX + 1));
    assert_eq!(write(ReplyMode::Simple, PAYLOAD_DRAIN_MAX), invalid(PAYLOAD_DRAIN_MAX));
    assert_eq!(write(ReplyMode::Simple, PAYLOAD_DRAIN_MAX + 1), Verdict::Close);
    assert_eq!(write(ReplyMode::Extended, PAYLOAD_MAX + 1), Verdict::Close);
    let flags = request::PAYLOAD_LEN;
    let read = judge(&ask(Command::Read, flags, 0, 100), &terms(ReplyMode::Extended), SIZE, false);
    assert_eq!(read, invalid(100), "a payload that READ does not take is drained");
    let compact = judge(&ask(Command::Read, flags, 0, 100), &terms(ReplyMode::Simple), SIZE, false);
    assert_eq!(compact, invalid(0), "compact headers know no PAYLOAD_LEN");
}

#[test]
fn section_2_2_every_flag_is_accepted_or_invalid_as_the_table_says() {
    let simple = [
        (Command::Read, 0b00_0001),
        (Command::Write, 0b00_0001),
        (Command::Flush, 0b00_0001),
        (Command::Trim, 0b00_0001),
        (Command::Cache, 0b00_0001),
        (Command::WriteZeroes, 0b01_0011),
        (Command::BlockStatus, 0b00_1001),
    ];
    for (command, allowed) in simple {
        for bit in 0..16 {
            let verdict = judge(&ask(command, 1 << bit, 0, 512), &terms(ReplyMode::Simple), SIZE, false);
            let runs = matches!(verdict, Verdict::Run(_));
            assert_eq!(runs, allowed >> bit & 1 == 1, "{command:?} bit {bit}: {verdict:?}");
        }
    }
    let df = judge(&ask(Command::Read, request::DF, 0, 512), &terms(ReplyMode::Structured), SIZE, false);
    assert_eq!(df, Verdict::Run(Action::Read { span: Span::at(0, 512), whole: true }));
}

#[test]
fn read_only_stopping_and_unknown_commands_have_their_errors() {
    let read_only = Terms { read_only: true, ..terms(ReplyMode::Simple) };
    for command in [Command::Write, Command::Trim, Command::WriteZeroes] {
        let verdict = judge(&ask(command, 0, 0, 512), &read_only, SIZE, false);
        assert!(matches!(verdict, Verdict::Refuse { error: NbdError::Perm, .. }), "{verdict:?}");
    }
    let write = ask(Command::Write, 0, 0, 512);
    let stopped = judge(&write, &terms(ReplyMode::Simple), SIZE, true);
    assert_eq!(stopped, Verdict::Refuse { error: NbdError::Shutdown, payload: 512 });
    let unknown = Request { command: 9, ..ask(Command::Read, 0, 0, 512) };
    assert_eq!(judge(&unknown, &terms(ReplyMode::Simple), SIZE, false), invalid(0));
    let disc = ask(Command::Disconnect, 0xffff, 7, 7);
    assert_eq!(judge(&disc, &terms(ReplyMode::Simple), SIZE, true), Verdict::Disconnect);
    let none = Terms { allocation_context: None, ..terms(ReplyMode::Structured) };
    assert_eq!(judge(&ask(Command::BlockStatus, 0, 0, 512), &none, SIZE, false), invalid(0));
    let promised = Terms { alignment: 512, ..terms(ReplyMode::Simple) };
    assert_eq!(judge(&ask(Command::Read, 0, 1, 512), &promised, SIZE, false), invalid(0));
}

#[test]
fn section_16_status_payload_names_exactly_the_one_context() {
    let extended = terms(ReplyMode::Extended);
    let ask_len = |len| ask(Command::BlockStatus, request::PAYLOAD_LEN, 4096, len);
    for len in [8, 9, 11, 8 + 4 * 100_000] {
        let verdict = judge(&ask_len(len), &extended, SIZE, false);
        assert_eq!(verdict, invalid(len));
    }
    assert_eq!(judge(&ask_len(12), &extended, SIZE, false), Verdict::Query { payload: 12 });
    let payload = |contexts: &[u32]| {
        let mut bytes = Vec::new();
        StatusQuery { len: 8192, contexts: contexts.to_vec() }.emit(&mut bytes);
        bytes
    };
    let verdict = judge_query(&ask_len(12), &payload(&[7]), &extended, SIZE);
    assert_eq!(verdict, Verdict::Run(Action::Status { span: Span::at(4096, 8192), one: false }));
    for wrong in [&[7, 7][..], &[8], &[]] {
        assert_eq!(judge_query(&ask_len(12), &payload(wrong), &extended, SIZE), invalid(0));
    }
}

#[test]
fn section_11_heads_have_the_form_of_the_mode() {
    let read = ask(Command::Read, 0, 4096, 512);
    let section = Section { span: Span::at(4096, 512), hole: false, parts: 1 };
    let lens = |mode| {
        let reply = ReplyTo::new(mode, &read);
        let hole = Section { hole: true, ..section };
        [reply.done(), reply.error(NbdError::Io), reply.content(&section, true), reply.content(&hole, false)]
            .map(|head| head.as_slice().len())
    };
    assert_eq!(lens(ReplyMode::Simple), [16, 16, 16, 16]);
    assert_eq!(lens(ReplyMode::Structured), [20, 20 + 6 + 18, 28, 32]);
    assert_eq!(lens(ReplyMode::Extended), [32, 32 + 6 + 18, 40, 44]);
    let reply = ReplyTo::new(ReplyMode::Structured, &read);
    let header = ChunkHeader::parse_structured(reply.content(&section, true).as_slice()).unwrap();
    assert_eq!(header, ChunkHeader { flags: 1, kind: chunk::OFFSET_DATA, cookie: 9, offset: 0, len: 520 });
    let write = ReplyTo::new(ReplyMode::Structured, &ask(Command::Write, 0, 0, 1));
    assert_eq!(write.done().as_slice(), SimpleReply { error: 0, cookie: 9 }.emit());
    let wide = ReplyTo::new(ReplyMode::Extended, &read).error(NbdError::Io);
    let header = ChunkHeader::parse_extended(wide.as_slice()).unwrap();
    assert_eq!((header.offset, header.kind), (4096, chunk::ERROR), "the request's offset is echoed");
    let payload = &wide.as_slice()[ChunkHeader::EXTENDED_LEN..];
    assert_eq!(ErrorPayload::parse(payload, false).unwrap().message, b"input/output error");
}

#[test]
fn sections_tell_only_long_aligned_holes_and_cover_everything() {
    let cut = |start: u64, parts: &[(u64, bool)], whole| {
        let parts = parts.iter().map(|(len, zero)| (ByteLen(*len), *zero));
        sections(ByteOffset(start), parts, whole, true)
            .iter()
            .map(|s| (s.span.offset().0, s.span.len().0, s.hole, s.parts))
            .collect::<Vec<_>>()
    };
    let mixed = [(4096, false), (4096, true), (8192, true), (512, false)];
    assert_eq!(cut(0, &mixed, false), [(0, 4096, false, 1), (4096, 12288, true, 2), (16384, 512, false, 1)]);
    assert_eq!(cut(0, &mixed, true), [(0, 16896, false, 4)], "DF: one chunk of data");
    assert_eq!(cut(0, &[(8192, true)], true), [(0, 8192, true, 1)], "DF: all zeroes may be one hole");
    assert_eq!(cut(0, &[(4096, false), (2048, true), (4096, false)], false), [(0, 10240, false, 3)]);
    assert_eq!(cut(7, &[(8192, true)], false), [(7, 8192, false, 1)], "an unaligned hole is data");
}

#[test]
fn extents_are_emitted_in_the_form_of_the_mode() {
    let runs = [
        AllocationRun { len: ByteLen(4096), hole: true, zero: true },
        AllocationRun { len: ByteLen(512), hole: false, zero: false },
    ];
    for mode in [ReplyMode::Structured, ReplyMode::Extended] {
        let mut out = vec![0; extents_len(mode, runs.len())];
        emit_extents(mode, &runs, &mut out);
        let reply = ReplyTo::new(mode, &ask(Command::BlockStatus, 0, 0, 4608)).status(7, out.len());
        let payload = [&reply.as_slice()[mode.reply_len()..], &out].concat();
        let parsed = StatusPayload::parse(&payload, mode == ReplyMode::Extended).unwrap();
        assert_eq!(parsed.context, 7);
        assert_eq!(
            parsed.extents.iter().map(|e| (e.len, e.status)).collect::<Vec<_>>(),
            [(4096, 3), (512, 0)]
        );
    }
}

#[test]
fn any_request_is_judged_without_a_panic() {
    let mut prng = Prng::from_seed(31);
    for _ in 0..50_000 {
        let mut bytes = [0u8; 64];
        prng.fill(&mut bytes[4..]);
        bytes[6] = 0;
        bytes[7] = u8::try_from(prng.below(10)).unwrap();
        for at in [4, 16, 17, 18, 24, 25, 26] {
            if prng.chance(700) {
                bytes[at] = 0;
            }
        }
        for magic in [0x2560_9513u32, 0x21e4_1c71] {
            bytes[..4].copy_from_slice(&magic.to_be_bytes());
            fuzz_transmission(&bytes, SIZE);
        }
    }
}
