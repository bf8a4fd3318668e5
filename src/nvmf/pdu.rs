//! The bytes of NVMe/TCP: every PDU with its parser and its emitter, for targets and hosts.
//!
//! ```text
//! | common header 8 | the rest of the header | header digest 4 | padding | data | data digest 4 |
//!   kind flags HLEN PDO PLEN                                              ^ at PDO            PLEN ends
//! ```
//!
//! Decides nothing and does no I/O. All integers are little-endian. A receiver looks at the common header first
//! (`Frame::of`): only a PDU that is legal, in this direction and as long as it may be, is received any further.

use crate::base::codec::{Malformed, Reader, Writer};

/// Bytes of the common header.
pub const COMMON_LEN: usize = 8;

/// Bytes of a digest (CRC32C).
pub const DIGEST_LEN: usize = 4;

/// Bytes of a command capsule without its data.
pub const CAPSULE_LEN: usize = COMMON_LEN + SQE_LEN;

/// Bytes of a submission queue entry.
pub const SQE_LEN: usize = 64;

/// Bytes of a completion queue entry.
pub const CQE_LEN: usize = 16;

/// Bytes of ICReq and ICResp.
pub const IC_LEN: usize = 128;

/// Bytes of the headers of H2CData, C2HData, R2T, CapsuleResp and both termination requests.
pub const SHORT_LEN: usize = 24;

/// Bytes of the offending PDU that a termination request carries, at most.
pub const EXCERPT_MAX: usize = 128;

mod flag {
    pub const HEADER_DIGEST: u8 = 1;
    pub const DATA_DIGEST: u8 = 2;
    pub const LAST: u8 = 4;
    pub const SUCCESS: u8 = 8;
}

/// The kinds of PDUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    IcReq,
    IcResp,
    H2cTerm,
    C2hTerm,
    CapsuleCmd,
    CapsuleResp,
    H2cData,
    C2hData,
    R2t,
}

/// All of them, with the number on the wire and the length of the header, bytes, digest not counted.
const KINDS: [(Kind, u8, usize); 9] = [
    (Kind::IcReq, 0, IC_LEN),
    (Kind::IcResp, 1, IC_LEN),
    (Kind::H2cTerm, 2, SHORT_LEN),
    (Kind::C2hTerm, 3, SHORT_LEN),
    (Kind::CapsuleCmd, 4, CAPSULE_LEN),
    (Kind::CapsuleResp, 5, SHORT_LEN),
    (Kind::H2cData, 6, SHORT_LEN),
    (Kind::C2hData, 7, SHORT_LEN),
    (Kind::R2t, 9, SHORT_LEN),
];

impl Kind {
    pub fn number(self) -> u8 {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or(u8::MAX, |(_, number, _)| *number)
    }

    pub fn header_len(self) -> usize {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or(0, |(.., len)| *len)
    }

    /// Who sends it.
    pub fn sender(self) -> Side {
        match self {
            Kind::IcReq | Kind::H2cTerm | Kind::CapsuleCmd | Kind::H2cData => Side::Host,
            Kind::IcResp | Kind::C2hTerm | Kind::CapsuleResp | Kind::C2hData | Kind::R2t => Side::Controller,
        }
    }

    /// Whether data may follow the header.
    fn may_have_data(self) -> bool {
        match self {
            Kind::CapsuleCmd | Kind::H2cData | Kind::C2hData | Kind::H2cTerm | Kind::C2hTerm => true,
            Kind::IcReq | Kind::IcResp | Kind::CapsuleResp | Kind::R2t => false,
        }
    }

    /// Whether the header says where the data begins. Behind a termination's header it follows at once, and the field
    /// is reserved.
    fn says_where_data_is(self) -> bool {
        !matches!(self, Kind::H2cTerm | Kind::C2hTerm)
    }

    /// Connection and termination PDUs never carry digests.
    fn has_header_digest(self, digests: Digests) -> bool {
        match self {
            Kind::IcReq | Kind::IcResp | Kind::H2cTerm | Kind::C2hTerm => false,
            Kind::CapsuleCmd | Kind::CapsuleResp | Kind::H2cData | Kind::C2hData | Kind::R2t => {
                digests.header
            }
        }
    }

    fn has_data_digest(self, digests: Digests) -> bool {
        match self {
            Kind::CapsuleCmd | Kind::H2cData | Kind::C2hData => digests.data,
            Kind::IcReq | Kind::IcResp | Kind::H2cTerm | Kind::C2hTerm | Kind::CapsuleResp | Kind::R2t => {
                false
            }
        }
    }
}

/// An end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Host,
    Controller,
}

/// Which digests were agreed upon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    pub header: bool,
    pub data: bool,
}

impl Digests {
    fn parse(bits: u8) -> Digests {
        Digests { header: bits & 1 != 0, data: bits & 2 != 0 }
    }

    fn bits(self) -> u8 {
        u8::from(self.header) | u8::from(self.data) << 1
    }
}

/// The digest of some bytes: CRC32C, as it stands on the wire.
pub fn digest(bytes: &[u8]) -> [u8; DIGEST_LEN] {
    crc32c::crc32c(bytes).to_le_bytes()
}

/// Why a connection cannot go on (TCP Transport, Fatal Error Status), with the offset of the field where there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fatal {
    #[error("the field at offset {0} of a PDU header is invalid")]
    InvalidField(u32),
    #[error("a PDU out of sequence")]
    Sequence,
    #[error("a header digest that does not match")]
    HeaderDigest([u8; DIGEST_LEN]),
    #[error("a data transfer out of range")]
    OutOfRange,
    #[error("more data than was asked for")]
    TooMuchData,
    #[error("the parameter at offset {0} is not supported")]
    Unsupported(u32),
}

impl Fatal {
    /// FES and FEI.
    fn numbers(self) -> (u16, u32) {
        match self {
            Fatal::InvalidField(offset) => (1, offset),
            Fatal::Sequence => (2, 0),
            Fatal::HeaderDigest(found) => (3, u32::from_le_bytes(found)),
            Fatal::OutOfRange => (4, 0),
            Fatal::TooMuchData => (5, 0),
            Fatal::Unsupported(offset) => (6, offset),
        }
    }
}

/// How much data a receiver takes with one PDU, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataLimits {
    /// Behind a command.
    pub capsule: u32,
    /// In an H2CData or C2HData PDU.
    pub data: u32,
}

/// What the common header says about a PDU, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    pub kind: Kind,
    /// The last PDU of a transfer.
    pub last: bool,
    /// A C2HData PDU that stands for the response, too.
    pub success: bool,
    /// Bytes of the header, digest not counted.
    pub header_len: usize,
    pub has_header_digest: bool,
    /// Where the data starts, bytes from the start of the PDU.
    pub data_at: usize,
    /// Bytes of data.
    pub data_len: u32,
    pub has_data_digest: bool,
}

impl Frame {
    /// Reads the common header of a PDU that came from `sender`.
    ///
    /// # Errors
    /// The field that is wrong (section 3.5 of the checks a receiver makes): what follows cannot be found then.
    pub fn of(
        common: &[u8; COMMON_LEN],
        sender: Side,
        digests: Digests,
        limits: DataLimits,
    ) -> Result<Frame, Fatal> {
        let [number, flags, header_len, data_at, a, b, c, d] = *common;
        let whole = u32::from_le_bytes([a, b, c, d]);
        let known = KINDS.iter().find(|(_, known, _)| *known == number);
        let Some((kind, _, wanted_len)) = known.filter(|(kind, ..)| kind.sender() == sender) else {
            return Err(Fatal::InvalidField(0));
        };
        let frame = Frame {
            kind: *kind,
            last: flags & flag::LAST != 0,
            success: flags & flag::SUCCESS != 0,
            header_len: *wanted_len,
            has_header_digest: kind.has_header_digest(digests),
            data_at: usize::from(data_at),
            data_len: 0,
            has_data_digest: false,
        };
        if usize::from(header_len) != *wanted_len {
            return Err(Fatal::InvalidField(2));
        }
        if (flags & flag::HEADER_DIGEST != 0) != frame.has_header_digest {
            return Err(Fatal::InvalidField(1));
        }
        frame.with_data(flags, whole, kind.has_data_digest(digests), limits)
    }

    /// The same with what lies behind the header.
    fn with_data(mut self, flags: u8, whole: u32, digest: bool, limits: DataLimits) -> Result<Frame, Fatal> {
        let start = self.header_len + if self.has_header_digest { DIGEST_LEN } else { 0 };
        if !self.kind.says_where_data_is() {
            self.data_at = start;
        }
        let whole = usize::try_from(whole).map_err(|_| Fatal::InvalidField(4))?;
        if self.data_at == 0 || whole == start {
            // A header with nothing behind it; its digest flag for data says nothing then.
            return match whole == start {
                true => Ok(Frame { data_at: start, ..self }),
                false => Err(Fatal::InvalidField(if whole < start { 4 } else { 3 })),
            };
        }
        if !self.kind.may_have_data() {
            return Err(Fatal::InvalidField(4));
        }
        if self.data_at < start || !self.data_at.is_multiple_of(4) {
            return Err(Fatal::InvalidField(3));
        }
        if (flags & flag::DATA_DIGEST != 0) != digest {
            return Err(Fatal::InvalidField(1));
        }
        let tail = if digest { DIGEST_LEN } else { 0 };
        let len = whole.checked_sub(self.data_at + tail).ok_or(Fatal::InvalidField(4))?;
        let data_len = u32::try_from(len).map_err(|_| Fatal::InvalidField(4))?;
        if data_len > self.most(limits) {
            return Err(Fatal::InvalidField(4));
        }
        Ok(Frame { data_len, has_data_digest: digest && data_len > 0, ..self })
    }

    fn most(self, limits: DataLimits) -> u32 {
        match self.kind {
            Kind::CapsuleCmd => limits.capsule,
            Kind::H2cData | Kind::C2hData => limits.data,
            Kind::H2cTerm | Kind::C2hTerm => 128, // EXCERPT_MAX
            Kind::IcReq | Kind::IcResp | Kind::CapsuleResp | Kind::R2t => 0,
        }
    }

    /// Bytes before the data: header, digest and padding.
    pub fn head_len(&self) -> usize {
        self.data_at
    }

    /// Bytes behind the head: the data with its digest.
    pub fn behind(&self) -> u64 {
        let digest = if self.has_data_digest { DIGEST_LEN as u64 } else { 0 }; // widening
        u64::from(self.data_len) + digest
    }

    /// Checks the digest of a header that was received as a whole.
    ///
    /// # Errors
    /// The digest that was found.
    pub fn check_header(&self, head: &[u8]) -> Result<(), Fatal> {
        if !self.has_header_digest {
            return Ok(());
        }
        let (header, rest) = head.split_at(self.header_len);
        let found = [rest[0], rest[1], rest[2], rest[3]];
        if digest(header) == found { Ok(()) } else { Err(Fatal::HeaderDigest(found)) }
    }
}

/// The common header of a PDU with `data_len` bytes of data behind its header.
fn common(kind: Kind, flags: u8, digests: Digests, data_len: u32) -> [u8; COMMON_LEN] {
    let with_header = kind.has_header_digest(digests);
    let with_data = kind.has_data_digest(digests) && data_len > 0;
    let start = kind.header_len() + if with_header { DIGEST_LEN } else { 0 };
    let tail = if with_data { DIGEST_LEN } else { 0 };
    let all = |bit: u8, set: bool| if set { bit } else { 0 };
    let flags = flags | all(flag::HEADER_DIGEST, with_header) | all(flag::DATA_DIGEST, with_data);
    let narrow = |len: usize| u8::try_from(len).expect("headers are below 256 bytes");
    let whole =
        u32::try_from(start + tail).expect("small").checked_add(data_len).expect("data is below 4 GiB");
    let [a, b, c, d] = whole.to_le_bytes();
    let data_at = if data_len > 0 && kind.says_where_data_is() { narrow(start) } else { 0 };
    [kind.number(), flags, narrow(kind.header_len()), data_at, a, b, c, d]
}

/// Starts a header that is put together piece by piece.
fn begin(kind: Kind, digests: Digests, data_len: u32) -> Writer {
    let mut w = Writer::new();
    w.bytes(&common(kind, 0, digests, data_len));
    w
}

/// Ends a header: with its digest, if there is one.
fn seal(kind: Kind, w: Writer, digests: Digests) -> Vec<u8> {
    let mut bytes = w.finish();
    bytes.resize(kind.header_len(), 0);
    if kind.has_header_digest(digests) {
        let sum = digest(&bytes);
        bytes.extend_from_slice(&sum);
    }
    bytes
}

/// What ICReq and ICResp have in common: alignment, digests, and the number behind them.
fn introduction(bytes: &[u8; IC_LEN]) -> Result<(u8, Digests, u32), Fatal> {
    let mut r = Reader::new(&bytes[COMMON_LEN..]);
    let mut read = || -> Result<(u16, u8, u8, u32), Malformed> { Ok((r.u16()?, r.u8()?, r.u8()?, r.u32()?)) };
    let (version, alignment, bits, number) = read().map_err(|_| Fatal::InvalidField(4))?;
    if version != 0 {
        return Err(Fatal::Unsupported(8));
    }
    if alignment > 31 {
        return Err(Fatal::InvalidField(10));
    }
    Ok((alignment, Digests::parse(bits), number))
}

/// Initialize Connection Request: a host's first PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcReq {
    /// Alignment that the host wants for data, dwords, counted from 0.
    pub alignment: u8,
    pub digests: Digests,
    /// R2Ts outstanding for one command, counted from 0.
    pub r2t_max: u32,
}

impl IcReq {
    /// Reads a whole ICReq.
    ///
    /// # Errors
    /// A format version or an alignment that no version of the transport has.
    pub fn parse(bytes: &[u8; IC_LEN]) -> Result<IcReq, Fatal> {
        let (alignment, digests, r2t_max) = introduction(bytes)?;
        Ok(IcReq { alignment, digests, r2t_max })
    }

    pub fn emit(&self) -> Vec<u8> {
        let mut w = begin(Kind::IcReq, Digests::default(), 0);
        w.u16(0).u8(self.alignment).u8(self.digests.bits()).u32(self.r2t_max);
        seal(Kind::IcReq, w, Digests::default())
    }
}

/// Initialize Connection Response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcResp {
    /// Alignment that the controller wants for data, dwords, counted from 0.
    pub alignment: u8,
    pub digests: Digests,
    /// Bytes of data in one H2CData PDU, at most; a multiple of 4, at least 4096.
    pub data_max: u32,
}

impl IcResp {
    /// Reads a whole ICResp.
    ///
    /// # Errors
    /// What the transport does not allow.
    pub fn parse(bytes: &[u8; IC_LEN]) -> Result<IcResp, Fatal> {
        let (alignment, digests, data_max) = introduction(bytes)?;
        if data_max < 4096 || !data_max.is_multiple_of(4) {
            return Err(Fatal::InvalidField(12));
        }
        Ok(IcResp { alignment, digests, data_max })
    }

    pub fn emit(&self) -> Vec<u8> {
        let mut w = begin(Kind::IcResp, Digests::default(), 0);
        w.u16(0).u8(self.alignment).u8(self.digests.bits()).u32(self.data_max);
        seal(Kind::IcResp, w, Digests::default())
    }
}

/// The header of a PDU that moves data, or asks for it: H2CData, C2HData and R2T have one layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// The command that the data belongs to.
    pub command: u16,
    /// The controller's name for the transfer; zero in C2HData.
    pub tag: u16,
    /// Where the data belongs, bytes from the start of the command's data.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

impl Transfer {
    /// Reads the header behind the common one.
    pub fn parse(header: &[u8; SHORT_LEN]) -> Transfer {
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        Transfer { command: u16_at(8), tag: u16_at(10), offset: u32_at(12), len: u32_at(16) }
    }

    fn emit(&self, kind: Kind, flags: u8, digests: Digests, data_len: u32) -> ShortHead {
        let mut body = [0; SHORT_LEN - COMMON_LEN];
        body[..2].copy_from_slice(&self.command.to_le_bytes());
        body[2..4].copy_from_slice(&self.tag.to_le_bytes());
        body[4..8].copy_from_slice(&self.offset.to_le_bytes());
        body[8..12].copy_from_slice(&self.len.to_le_bytes());
        ShortHead::new(kind, flags, digests, data_len, &body)
    }

    /// The head of an R2T: as a whole, since it has no data.
    pub fn emit_r2t(&self, digests: Digests) -> ShortHead {
        self.emit(Kind::R2t, 0, digests, 0)
    }

    /// The head of an H2CData PDU; the data and its digest follow.
    pub fn emit_h2c(&self, last: bool, digests: Digests) -> ShortHead {
        self.emit(Kind::H2cData, if last { flag::LAST } else { 0 }, digests, self.len)
    }

    /// The head of a C2HData PDU; the data and its digest follow. `success`: no response follows the last one.
    pub fn emit_c2h(&self, last: bool, success: bool, digests: Digests) -> ShortHead {
        let last_flag = if last { flag::LAST } else { 0 };
        let flags = if last && success { last_flag | flag::SUCCESS } else { last_flag };
        self.emit(Kind::C2hData, flags, digests, self.len)
    }
}

/// A header of 24 bytes, with its digest if there is one: what goes with every request, made without an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShortHead {
    bytes: [u8; SHORT_LEN + DIGEST_LEN],
    len: usize,
}

impl ShortHead {
    fn new(
        kind: Kind,
        flags: u8,
        digests: Digests,
        data_len: u32,
        body: &[u8; SHORT_LEN - COMMON_LEN],
    ) -> ShortHead {
        let mut bytes = [0; SHORT_LEN + DIGEST_LEN];
        bytes[..COMMON_LEN].copy_from_slice(&common(kind, flags, digests, data_len));
        bytes[COMMON_LEN..SHORT_LEN].copy_from_slice(body);
        let mut len = SHORT_LEN;
        if kind.has_header_digest(digests) {
            let sum = digest(&bytes[..SHORT_LEN]);
            bytes[SHORT_LEN..].copy_from_slice(&sum);
            len += DIGEST_LEN;
        }
        ShortHead { bytes, len }
    }
}

impl std::ops::Deref for ShortHead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The head of a command capsule; its data and their digest follow.
pub fn emit_capsule(sqe: &[u8; SQE_LEN], data_len: u32, digests: Digests) -> Vec<u8> {
    let mut w = begin(Kind::CapsuleCmd, digests, data_len);
    w.bytes(sqe);
    seal(Kind::CapsuleCmd, w, digests)
}

/// A response capsule.
pub fn emit_response(cqe: &[u8; CQE_LEN], digests: Digests) -> ShortHead {
    ShortHead::new(Kind::CapsuleResp, 0, digests, 0, cqe)
}

/// A controller's termination request, with the start of the PDU that is to blame. Hosts with header digests wait for
/// 28 bytes of any PDU: there is always some data.
pub fn emit_termination(why: Fatal, offending: &[u8]) -> Vec<u8> {
    let excerpt = &offending[..offending.len().min(EXCERPT_MAX)];
    let padded = excerpt.len().max(COMMON_LEN);
    let (status, info) = why.numbers();
    let mut w = begin(Kind::C2hTerm, Digests::default(), u32::try_from(padded).expect("128 at most"));
    w.u16(status).u32(info);
    let mut bytes = seal(Kind::C2hTerm, w, Digests::default());
    bytes.extend_from_slice(excerpt);
    bytes.resize(SHORT_LEN + padded, 0);
    bytes
}

/// FES and FEI of a termination request.
pub fn parse_termination(header: &[u8; SHORT_LEN]) -> (u16, u32) {
    let status = u16::from_le_bytes([header[8], header[9]]);
    (status, u32::from_le_bytes([header[10], header[11], header[12], header[13]]))
}

#[cfg(test)]
mod tests;
