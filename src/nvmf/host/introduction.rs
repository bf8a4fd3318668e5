//! A host's half of the first exchange on a connection: ICReq and ICResp (TCP Transport). Pure.
//!
//! Nothing is kept of what a controller sends before its length is known to be right.

use super::refusal::Refusal;
use crate::nvmf::pdu::{
    COMMON_LEN, DataLimits, Digests, Frame, IC_LEN, IcReq, IcResp, Kind, SHORT_LEN, Side, parse_termination,
};

/// What both sides agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    pub digests: Digests,
    /// Bytes of data in one H2CData PDU, at most.
    pub data_max: u32,
}

/// The first bytes of a connection: one R2T at a time for each command, data without padding.
pub fn introduce(digests: Digests) -> Vec<u8> {
    IcReq { alignment: 0, digests, r2t_max: 0 }.emit()
}

/// Reads the answer from the start of the stream; None while it is not whole.
///
/// # Errors
/// An answer that is none, or terms that cannot be met: what was asked for must be granted exactly, and there is no
/// padding.
pub fn hear(asked: Digests, stream: &[u8]) -> Result<Option<Terms>, Refusal> {
    let Some(common) = stream.first_chunk::<COMMON_LEN>() else { return Ok(None) };
    let none = DataLimits { capsule: 0, data: 0 };
    let frame = Frame::of(common, Side::Controller, Digests::default(), none).map_err(Refusal::Answer)?;
    match frame.kind {
        Kind::IcResp => {}
        Kind::C2hTerm => {
            let Some(header) = stream.first_chunk::<SHORT_LEN>() else { return Ok(None) };
            let (status, info) = parse_termination(header);
            return Err(Refusal::Terminated { status, info });
        }
        Kind::IcReq
        | Kind::H2cTerm
        | Kind::CapsuleCmd
        | Kind::CapsuleResp
        | Kind::H2cData
        | Kind::C2hData
        | Kind::R2t => return Err(Refusal::Broken("it does not begin with ICResp")),
    }
    let Some(bytes) = stream.first_chunk::<IC_LEN>() else { return Ok(None) };
    let answer = IcResp::parse(bytes).map_err(Refusal::Answer)?;
    if answer.digests != asked {
        return Err(Refusal::Digests);
    }
    if answer.alignment != 0 {
        return Err(Refusal::Alignment((u32::from(answer.alignment) + 1) * 4));
    }
    if stream.len() > IC_LEN {
        return Err(Refusal::Broken("it speaks before it is asked"));
    }
    Ok(Some(Terms { digests: answer.digests, data_max: answer.data_max }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvmf::pdu::{Fatal, emit_termination};

    fn answer(alignment: u8, digests: Digests, data_max: u32) -> Vec<u8> {
        IcResp { alignment, digests, data_max }.emit()
    }

    #[test]
    fn terms_are_heard_when_the_answer_is_whole() {
        for bits in 0..4 {
            let digests = Digests { header: bits & 1 == 1, data: bits & 2 == 2 };
            let bytes = answer(0, digests, 8192);
            assert!((0..IC_LEN).all(|len| hear(digests, &bytes[..len]) == Ok(None)));
            assert_eq!(hear(digests, &bytes), Ok(Some(Terms { digests, data_max: 8192 })));
            let other = Digests { header: !digests.header, ..digests };
            assert_eq!(hear(other, &bytes), Err(Refusal::Digests), "not asked for, or not granted");
        }
    }

    #[test]
    fn checklist_79_terms_that_cannot_be_met_are_refused_by_name() {
        let none = Digests::default();
        for data_max in [0, 4092, 4095, 4097, u32::MAX] {
            assert_eq!(hear(none, &answer(0, none, data_max)), Err(Refusal::Answer(Fatal::InvalidField(12))));
        }
        assert!(hear(none, &answer(0, none, u32::MAX - 3)).is_ok());
        assert_eq!(hear(none, &answer(31, none, 4096)), Err(Refusal::Alignment(128)));
        assert_eq!(hear(none, &answer(32, none, 4096)), Err(Refusal::Answer(Fatal::InvalidField(10))));
        let mut newer = answer(0, none, 4096);
        newer[8] = 1;
        assert_eq!(hear(none, &newer), Err(Refusal::Answer(Fatal::Unsupported(8))));
        let more = [answer(0, none, 4096), vec![5]].concat();
        assert!(matches!(hear(none, &more), Err(Refusal::Broken(_))));
    }

    #[test]
    fn answers_that_are_none_are_refused_from_their_first_bytes() {
        let none = Digests::default();
        assert_eq!(hear(none, b"SSH-2.0-"), Err(Refusal::Answer(Fatal::InvalidField(0))));
        let long = [1, 0, 128, 0, 255, 255, 255, 255];
        assert_eq!(hear(none, &long), Err(Refusal::Answer(Fatal::InvalidField(3))));
        assert!(matches!(hear(none, &[5, 0, 24, 0, 24, 0, 0, 0]), Err(Refusal::Broken(_))));
        let ended = emit_termination(Fatal::Unsupported(8), &[0; 8]);
        assert_eq!(hear(none, &ended), Err(Refusal::Terminated { status: 6, info: 8 }));
    }
}
