//! One connection as a sequence of PDUs: what comes from the host, checked as far as it can be without knowing more than
//! the connection (TCP Transport specification). Pure.

use super::command::{DataPlace, Sqe, Status};
use super::pdu::{
    COMMON_LEN, DataLimits, Digests, Fatal, Frame, IC_LEN, IcReq, Kind, SHORT_LEN, SQE_LEN, Side, Transfer,
    parse_termination,
};

/// Bytes of data that a command may bring along, whatever the queue (Fabrics commands).
pub const FABRICS_DATA_MAX: u32 = 8192;

/// What a host sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incoming {
    Introduction(IcReq),
    Command(Sqe),
    Data(Transfer),
    /// The host ends the connection: FES and FEI.
    Termination(u16, u32),
}

/// A PDU whose head was received; its data follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pdu {
    pub frame: Frame,
    pub incoming: Incoming,
}

/// Where a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Nothing came yet.
    New,
    /// The introductions were exchanged.
    Introduced,
}

/// Reads the head of the next PDU. None: more bytes are needed.
///
/// # Errors
/// Why the connection cannot go on.
pub fn next(bytes: &[u8], stage: Stage, digests: Digests, limits: DataLimits) -> Result<Option<Pdu>, Fatal> {
    let Some(common) = bytes.first_chunk::<COMMON_LEN>() else { return Ok(None) };
    let frame = Frame::of(common, Side::Host, digests, limits)?;
    let is_introduction = frame.kind == Kind::IcReq;
    if is_introduction != (stage == Stage::New) {
        return Err(Fatal::Sequence);
    }
    let Some(head) = bytes.get(..frame.head_len()) else { return Ok(None) };
    frame.check_header(head)?;
    let incoming = match frame.kind {
        Kind::IcReq => Incoming::Introduction(IcReq::parse(part::<0, IC_LEN>(head)?)?),
        Kind::CapsuleCmd => Incoming::Command(Sqe::new(*part::<COMMON_LEN, SQE_LEN>(head)?)),
        Kind::H2cData => {
            let transfer = Transfer::parse(part::<0, SHORT_LEN>(head)?);
            if transfer.len != frame.data_len {
                return Err(Fatal::InvalidField(16));
            }
            Incoming::Data(transfer)
        }
        Kind::H2cTerm => {
            let (status, information) = parse_termination(part::<0, SHORT_LEN>(head)?);
            Incoming::Termination(status, information)
        }
        Kind::IcResp | Kind::C2hTerm | Kind::CapsuleResp | Kind::C2hData | Kind::R2t => {
            return Err(Fatal::InvalidField(0));
        }
    };
    Ok(Some(Pdu { frame, incoming }))
}

/// A part of a head that is as long as its kind says.
fn part<const AT: usize, const LEN: usize>(head: &[u8]) -> Result<&[u8; LEN], Fatal> {
    head[AT..].first_chunk().ok_or(Fatal::InvalidField(4))
}

/// How a command's data gets here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// There is none.
    None,
    /// It lies behind the command.
    Here,
    /// It has to be asked for.
    OnRequest,
}

/// Checks where the data of a command is that is to bring `wanted` bytes; `behind` lie behind it.
///
/// # Errors
/// What is wrong with the descriptor.
pub fn arrival(sqe: &Sqe, wanted: u32, behind: u32, capsule_max: u32) -> Result<Arrival, Status> {
    match sqe.data()? {
        DataPlace::InCapsule { offset, len } => {
            if offset != 0 || len > capsule_max {
                return Err(Status::SGL_OFFSET);
            }
            if wanted == 0 {
                // What a host wants to have cannot lie behind its command.
                return Err(Status::INVALID_FIELD);
            }
            if len != wanted || len != behind { Err(Status::SGL_LENGTH) } else { Ok(Arrival::Here) }
        }
        DataPlace::ByTransfer { .. } if behind > 0 => Err(Status::SGL_LENGTH),
        DataPlace::ByTransfer { .. } if wanted == 0 => Ok(Arrival::None),
        DataPlace::ByTransfer { len } if len == wanted => Ok(Arrival::OnRequest),
        DataPlace::ByTransfer { .. } => Err(Status::SGL_LENGTH),
    }
}

/// A transfer that was asked for, as far as it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    pub command: u16,
    /// Bytes asked for, and received so far.
    pub len: u32,
    pub received: u32,
}

impl Progress {
    /// Whether a piece of data is the next one.
    ///
    /// # Errors
    /// Why it is not.
    pub fn accepts(&self, transfer: &Transfer, last: bool) -> Result<(), Fatal> {
        if transfer.command != self.command {
            return Err(Fatal::InvalidField(8));
        }
        if transfer.offset != self.received || transfer.len == 0 {
            return Err(Fatal::OutOfRange);
        }
        let left = self.len - self.received;
        if transfer.len > left {
            return Err(Fatal::TooMuchData);
        }
        if last != (transfer.len == left) { Err(Fatal::InvalidField(1)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvmf::pdu::{emit_capsule, emit_response};

    const LIMITS: DataLimits = DataLimits { capsule: FABRICS_DATA_MAX, data: 1 << 20 };
    const PLAIN: Digests = Digests { header: false, data: false };
    const BOTH: Digests = Digests { header: true, data: true };

    fn introduction() -> Vec<u8> {
        IcReq { alignment: 0, digests: BOTH, r2t_max: 0 }.emit()
    }

    #[test]
    fn the_first_pdu_is_an_introduction_and_no_other() {
        let bytes = introduction();
        for end in 0..bytes.len() {
            assert_eq!(next(&bytes[..end], Stage::New, PLAIN, LIMITS), Ok(None), "{end}");
        }
        assert!(matches!(next(&bytes, Stage::New, PLAIN, LIMITS), Ok(Some(_))));
        assert_eq!(next(&bytes, Stage::Introduced, PLAIN, LIMITS), Err(Fatal::Sequence));
        let command = emit_capsule(&[0; SQE_LEN], 0, PLAIN);
        assert_eq!(next(&command, Stage::New, PLAIN, LIMITS), Err(Fatal::Sequence));
    }

    #[test]
    fn kinds_that_only_controllers_send_are_refused() {
        let response = emit_response(&[0; 16], PLAIN);
        assert_eq!(next(&response, Stage::Introduced, PLAIN, LIMITS), Err(Fatal::InvalidField(0)));
    }

    #[test]
    fn a_wrong_header_digest_ends_the_connection() {
        let mut bytes = emit_capsule(&[7; SQE_LEN], 0, BOTH);
        assert!(matches!(next(&bytes, Stage::Introduced, BOTH, LIMITS), Ok(Some(_))));
        bytes[20] ^= 1;
        let found = next(&bytes, Stage::Introduced, BOTH, LIMITS);
        assert!(matches!(found, Err(Fatal::HeaderDigest(_))), "{found:?}");
    }

    fn command(identifier: u8, address: u64, len: u32) -> Sqe {
        let mut sqe = [0; SQE_LEN];
        (sqe[1], sqe[39]) = (0x40, identifier);
        sqe[24..32].copy_from_slice(&address.to_le_bytes());
        sqe[32..36].copy_from_slice(&len.to_le_bytes());
        Sqe::new(sqe)
    }

    #[test]
    fn data_is_where_and_as_long_as_the_command_says() {
        let here = |address, len, behind| arrival(&command(1, address, len), 4096, behind, 4096);
        assert_eq!(here(0, 4096, 4096), Ok(Arrival::Here));
        assert_eq!(here(1, 4096, 4096), Err(Status::SGL_OFFSET));
        assert_eq!(here(0, 4097, 4097), Err(Status::SGL_OFFSET));
        assert_eq!(here(0, 4095, 4096), Err(Status::SGL_LENGTH));
        assert_eq!(here(0, 4096, 0), Err(Status::SGL_LENGTH));
        assert_eq!(arrival(&command(1, 0, 4096), 0, 4096, 4096), Err(Status::INVALID_FIELD), "a read");
        let by_transfer = |len, behind| arrival(&command(0x5a, 0, len), 4096, behind, 4096);
        assert_eq!(by_transfer(4096, 0), Ok(Arrival::OnRequest));
        assert_eq!(by_transfer(4096, 8), Err(Status::SGL_LENGTH));
        assert_eq!(by_transfer(u32::MAX, 0), Err(Status::SGL_LENGTH));
        assert_eq!(arrival(&command(0x5a, 0, 4096), 0, 0, 4096), Ok(Arrival::None), "a read");
    }

    #[test]
    fn data_comes_in_order_without_gaps_to_the_last_byte() {
        let progress = Progress { command: 3, len: 8192, received: 4096 };
        let piece = |offset, len| Transfer { command: 3, tag: 0, offset, len };
        assert_eq!(progress.accepts(&piece(4096, 4096), true), Ok(()));
        assert_eq!(progress.accepts(&piece(4096, 512), false), Ok(()));
        assert_eq!(
            progress.accepts(&piece(4096, 4096), false),
            Err(Fatal::InvalidField(1)),
            "LAST is missing"
        );
        assert_eq!(progress.accepts(&piece(4096, 512), true), Err(Fatal::InvalidField(1)), "LAST too early");
        assert_eq!(progress.accepts(&piece(0, 4096), false), Err(Fatal::OutOfRange), "again");
        assert_eq!(progress.accepts(&piece(4608, 512), false), Err(Fatal::OutOfRange), "a gap");
        assert_eq!(progress.accepts(&piece(4096, 0), false), Err(Fatal::OutOfRange));
        assert_eq!(progress.accepts(&piece(4096, 4097), true), Err(Fatal::TooMuchData));
        let other = Transfer { command: 4, ..piece(4096, 4096) };
        assert_eq!(progress.accepts(&other, true), Err(Fatal::InvalidField(8)));
    }
}
