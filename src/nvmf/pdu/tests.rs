//! Golden bytes (of a Linux 6.1 host connecting to the kernel's target), round trips, and what must be refused.

use super::*;
use crate::base::prng::Prng;

const LIMITS: DataLimits = DataLimits { capsule: 8192, data: 1 << 20 };

const NONE: Digests = Digests { header: false, data: false };
const BOTH: Digests = Digests { header: true, data: true };

fn all_digests() -> impl Iterator<Item = Digests> {
    (0..4).map(Digests::parse)
}

fn frame(bytes: &[u8], sender: Side, digests: Digests) -> Result<Frame, Fatal> {
    Frame::of(bytes[..COMMON_LEN].try_into().unwrap(), sender, digests, LIMITS)
}

fn common_header(kind: u8, flags: u8, header_len: u8, data_at: u8, whole: u32) -> Vec<u8> {
    [&[kind, flags, header_len, data_at][..], &whole.to_le_bytes()].concat()
}

#[test]
fn crc32c_has_the_known_values() {
    let sum = |bytes: &[u8]| u32::from_le_bytes(digest(bytes));
    assert_eq!(sum(b""), 0);
    assert_eq!(sum(b"123456789"), 0xe306_9283);
    assert_eq!(sum(&[0; 32]), 0x8a91_36aa);
    assert_eq!(sum(&[0xff; 32]), 0x62a8_ab43);
    assert_eq!(sum(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
}

#[test]
fn a_linux_host_introduces_itself() {
    let mut golden = vec![0; IC_LEN];
    golden[..8].copy_from_slice(&[0, 0, 0x80, 0, 0x80, 0, 0, 0]);
    let request = IcReq::parse(golden[..].try_into().unwrap()).unwrap();
    assert_eq!(request, IcReq { alignment: 0, digests: NONE, r2t_max: 0 });
    assert_eq!(request.emit(), golden);
    let mut answer = vec![0; IC_LEN];
    answer[..16].copy_from_slice(&[1, 0, 0x80, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0]);
    let response = IcResp { alignment: 0, digests: NONE, data_max: 4 << 20 };
    assert_eq!(response.emit(), answer);
    assert_eq!(IcResp::parse(answer[..].try_into().unwrap()), Ok(response));
}

#[test]
fn introductions_go_there_and_back_with_all_digests() {
    for digests in all_digests() {
        let request = IcReq { alignment: 7, digests, r2t_max: 3 };
        let bytes = request.emit();
        assert_eq!(IcReq::parse(bytes[..].try_into().unwrap()), Ok(request));
        assert_eq!(frame(&bytes, Side::Host, digests).unwrap().data_at, IC_LEN, "never with a digest");
        let response = IcResp { alignment: 0, digests, data_max: 4096 };
        assert_eq!(IcResp::parse(response.emit()[..].try_into().unwrap()), Ok(response));
    }
}

#[test]
fn introductions_that_no_version_knows_are_refused() {
    let with = |at: usize, byte: u8| {
        let mut bytes = IcReq { alignment: 0, digests: NONE, r2t_max: 0 }.emit();
        bytes[at] = byte;
        IcReq::parse(bytes[..].try_into().unwrap())
    };
    assert_eq!(with(8, 1), Err(Fatal::Unsupported(8)));
    assert_eq!(with(10, 32), Err(Fatal::InvalidField(10)));
    assert!(with(10, 31).is_ok());
    for data_max in [0, 4095, 4098] {
        let bytes = IcResp { alignment: 0, digests: NONE, data_max }.emit();
        assert_eq!(IcResp::parse(bytes[..].try_into().unwrap()), Err(Fatal::InvalidField(12)));
    }
}

#[test]
fn capsules_and_responses_have_the_bytes_of_linux() {
    let mut sqe = [0; SQE_LEN];
    sqe[..4].copy_from_slice(&[0x7f, 0x40, 0, 0]);
    let bytes = emit_capsule(&sqe, 1024, NONE);
    assert_eq!(bytes[..12], [4, 0, 0x48, 0x48, 0x48, 4, 0, 0, 0x7f, 0x40, 0, 0]);
    assert_eq!(emit_capsule(&sqe, 0, NONE)[..8], [4, 0, 0x48, 0, 0x48, 0, 0, 0]);
    let cqe: [u8; CQE_LEN] = [0x60, 0, 0x46, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0x10, 0, 0];
    let golden = [5, 0, 0x18, 0, 0x18, 0, 0, 0, 0x60, 0, 0x46, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0x10, 0, 0];
    assert_eq!(emit_response(&cqe, NONE)[..], golden);
    let data = Transfer { command: 0x1a, tag: 0, offset: 0, len: 4096 };
    let golden = [7, 4, 0x18, 0x18, 0x18, 0x10, 0, 0, 0x1a, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0];
    assert_eq!(data.emit_c2h(true, false, NONE)[..], golden);
}

#[test]
fn every_pdu_is_framed_as_it_was_emitted() {
    let mut prng = Prng::from_seed(4);
    for digests in all_digests() {
        for len in [0u32, 4, 512, 4096, 8192] {
            let transfer = Transfer { command: 9, tag: 3, offset: 77, len };
            let sent = [
                (emit_capsule(&[7; SQE_LEN], len, digests), Side::Host, len),
                (transfer.emit_h2c(true, digests).to_vec(), Side::Host, len),
                (transfer.emit_c2h(false, true, digests).to_vec(), Side::Controller, len),
                (transfer.emit_r2t(digests).to_vec(), Side::Controller, 0),
                (emit_response(&[5; CQE_LEN], digests).to_vec(), Side::Controller, 0),
            ];
            for (head, sender, data_len) in sent {
                let found = frame(&head, sender, digests).unwrap();
                assert_eq!((found.data_len, found.data_at), (data_len, head.len()), "{found:?}");
                assert_eq!(found.has_data_digest, digests.data && data_len > 0);
                assert_eq!(found.check_header(&head), Ok(()));
                let whole = u32::from_le_bytes(head[4..8].try_into().unwrap());
                let tail = if found.has_data_digest { DIGEST_LEN } else { 0 };
                assert_eq!(whole as usize, head.len() + data_len as usize + tail);
                if digests.header {
                    let mut spoilt = head.clone();
                    let at = usize::try_from(prng.below(head.len() as u64)).unwrap();
                    spoilt[at] ^= 1 << prng.below(8);
                    assert!(matches!(found.check_header(&spoilt), Err(Fatal::HeaderDigest(_))));
                }
            }
            let header = transfer.emit_h2c(false, digests);
            assert_eq!(Transfer::parse(header[..SHORT_LEN].try_into().unwrap()), transfer);
        }
    }
}

#[test]
fn success_goes_only_with_the_last_data() {
    let transfer = Transfer { command: 1, tag: 0, offset: 0, len: 512 };
    let flags = |last, success| transfer.emit_c2h(last, success, NONE)[1];
    assert_eq!(
        [flags(false, false), flags(false, true), flags(true, false), flags(true, true)],
        [0, 0, 4, 12]
    );
}

#[test]
fn kinds_that_are_unknown_or_come_from_the_wrong_side_are_refused() {
    for number in 0..=u8::MAX {
        for sender in [Side::Host, Side::Controller] {
            let known =
                KINDS.iter().find(|(_, n, _)| *n == number).filter(|(kind, ..)| kind.sender() == sender);
            let header_len = known.map_or(24, |(.., len)| *len as u8);
            let found = frame(&common_header(number, 0, header_len, 0, u32::from(header_len)), sender, NONE);
            match known {
                Some((kind, ..)) => assert_eq!(found.unwrap().kind, *kind),
                None => assert_eq!(found, Err(Fatal::InvalidField(0))),
            }
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused_with_the_field_that_is_wrong() {
    let host = |flags, header_len, data_at, whole, digests| {
        frame(&common_header(4, flags, header_len, data_at, whole), Side::Host, digests)
    };
    for header_len in [0, 7, 71, 73, 255] {
        assert_eq!(host(0, header_len, 0, 72, NONE), Err(Fatal::InvalidField(2)));
    }
    for whole in [0, 7, 71] {
        assert_eq!(host(0, 72, 0, whole, NONE), Err(Fatal::InvalidField(4)), "{whole}");
    }
    assert_eq!(host(0, 72, 0, 73, NONE), Err(Fatal::InvalidField(3)), "data without a place");
    for data_at in [1, 71, 73, 74, 255] {
        assert_eq!(host(0, 72, data_at, 1096, NONE), Err(Fatal::InvalidField(3)), "{data_at}");
    }
    assert_eq!(host(1, 72, 72, 1100, Digests { header: true, data: false }), Err(Fatal::InvalidField(3)));
    assert!(host(1, 72, 76, 1100, Digests { header: true, data: false }).is_ok());
    assert_eq!(host(0, 72, 72, 72 + 8193, NONE), Err(Fatal::InvalidField(4)), "more than a capsule may have");
    assert_eq!(host(0, 72, 72, 72 + 8192, NONE).unwrap().data_len, 8192);
    assert_eq!(host(0, 72, 72, u32::MAX, NONE), Err(Fatal::InvalidField(4)));
    // A response has no data.
    let response = common_header(5, 0, 24, 24, 28);
    assert_eq!(frame(&response, Side::Controller, NONE), Err(Fatal::InvalidField(4)));
}

#[test]
fn digest_flags_are_as_agreed() {
    for digests in all_digests() {
        let head = emit_capsule(&[0; SQE_LEN], 512, digests);
        for other in all_digests().filter(|other| *other != digests) {
            assert!(frame(&head, Side::Host, other).is_err(), "{digests:?} taken for {other:?}");
        }
    }
}

#[test]
fn no_header_makes_the_parser_panic() {
    let mut prng = Prng::from_seed(11);
    for _ in 0..100_000 {
        let mut bytes = prng.u64().to_le_bytes();
        if prng.chance(700) {
            bytes[0] %= 10;
            bytes[2] = [24, 72, 128][usize::try_from(prng.below(3)).unwrap()];
            bytes[6..].fill(0);
        }
        let digests = Digests::parse(bytes[1]);
        for sender in [Side::Host, Side::Controller] {
            if let Ok(found) = Frame::of(&bytes, sender, digests, LIMITS) {
                assert!(found.data_len <= LIMITS.data && found.data_at <= 255);
            }
        }
    }
}

#[test]
fn a_termination_carries_the_offending_header() {
    let offending = emit_capsule(&[3; SQE_LEN], 0, BOTH);
    let bytes = emit_termination(Fatal::InvalidField(3), &offending);
    assert_eq!(bytes[..14], [3, 0, 24, 0, 100, 0, 0, 0, 1, 0, 3, 0, 0, 0]);
    assert_eq!(bytes[SHORT_LEN..], offending[..]);
    assert_eq!(frame(&bytes, Side::Controller, BOTH).unwrap().data_len as usize, offending.len());
    assert_eq!(parse_termination(bytes[..SHORT_LEN].try_into().unwrap()), (1, 3));
    assert!(emit_termination(Fatal::Sequence, &[]).len() >= 28, "hosts with digests wait for that much");
    assert_eq!(emit_termination(Fatal::TooMuchData, &[1; 500]).len(), SHORT_LEN + EXCERPT_MAX);
    let found = [1, 2, 3, 4];
    let bytes = emit_termination(Fatal::HeaderDigest(found), &offending);
    assert_eq!((bytes[8], &bytes[10..14]), (3, &found[..]));
}
