//! Judging an I/O command before anything of it is done: what it asks for, and whether it may (NVM Command Set).

use super::command::{Sqe, Status};
use super::identify::TRANSFER_MAX;
use super::reservation::{self, Access, parse_report};
use crate::base::units::Span;
use crate::block::{WriteFlags, ZeroFlags};
use smallvec::SmallVec;

/// Opcodes.
pub mod opcode {
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const COMPARE: u8 = 0x05;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    pub const VERIFY: u8 = 0x0c;
    pub const RESERVATION_REGISTER: u8 = 0x0d;
    pub const RESERVATION_REPORT: u8 = 0x0e;
    pub const RESERVATION_ACQUIRE: u8 = 0x11;
    pub const RESERVATION_RELEASE: u8 = 0x15;
}

/// All of them, and whether they change what is stored.
pub const EFFECTS: [(u8, bool); 11] = [
    (opcode::FLUSH, false),
    (opcode::WRITE, true),
    (opcode::READ, false),
    (opcode::COMPARE, false),
    (opcode::WRITE_ZEROES, true),
    (opcode::DATASET_MANAGEMENT, true),
    (opcode::VERIFY, false),
    (opcode::RESERVATION_REGISTER, false),
    (opcode::RESERVATION_REPORT, false),
    (opcode::RESERVATION_ACQUIRE, false),
    (opcode::RESERVATION_RELEASE, false),
];

/// Bytes of one range of Dataset Management, and of the most that there are.
const RANGE_LEN: usize = 16;
const RANGES_LEN_MAX: u32 = 4096;

/// What a command asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Read {
        span: Span,
    },
    /// Brings the bytes of the span.
    Write {
        span: Span,
        flags: WriteFlags,
    },
    /// Brings the bytes of the span.
    Compare {
        span: Span,
    },
    Verify {
        span: Span,
    },
    Zero {
        span: Span,
        flags: ZeroFlags,
    },
    /// Brings `len` bytes that say what is given back; without `deallocate` nothing is.
    Deallocate {
        ranges: u16,
        len: u32,
        deallocate: bool,
    },
    Flush,
    /// Brings `len` bytes.
    Reserve {
        len: u32,
    },
    /// Gives `len` bytes.
    ReportReservations {
        len: u32,
        extended: bool,
    },
}

/// What judging needs to know of a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical block.
    pub lba: u32,
    pub read_only: bool,
}

impl Action {
    /// Bytes that come from the host.
    pub fn data_in(&self) -> u32 {
        match self {
            Action::Write { span, .. } | Action::Compare { span } => span_len(*span),
            Action::Deallocate { len, .. } | Action::Reserve { len } => *len,
            Action::Read { .. }
            | Action::Verify { .. }
            | Action::Zero { .. }
            | Action::Flush
            | Action::ReportReservations { .. } => 0,
        }
    }

    /// What reservations may forbid of it; None for commands that check the registration themselves. Flush is one of
    /// the writes in the specification's table of command groups, and in Linux' target.
    pub fn access(&self) -> Option<Access> {
        match self {
            Action::Read { .. } | Action::Compare { .. } | Action::Verify { .. } => Some(Access::Read),
            Action::Write { .. } | Action::Zero { .. } | Action::Deallocate { .. } | Action::Flush => {
                Some(Access::Write)
            }
            Action::Reserve { .. } | Action::ReportReservations { .. } => None,
        }
    }

    /// Bytes of memory that it holds while it runs.
    pub fn memory(&self) -> u32 {
        match self {
            Action::Read { span } | Action::Write { span, .. } => span_len(*span),
            Action::Compare { span } => 2 * span_len(*span),
            Action::Verify { span } => span_len(*span).min(TRANSFER_MAX),
            Action::Deallocate { len, .. }
            | Action::Reserve { len }
            | Action::ReportReservations { len, .. } => *len,
            Action::Zero { .. } | Action::Flush => 0,
        }
    }
}

/// Spans of commands with data are at most as long as a transfer.
fn span_len(span: Span) -> u32 {
    u32::try_from(span.len().0).unwrap_or(u32::MAX)
}

/// What a command asks of a namespace.
///
/// # Errors
/// Why it cannot be done, for the host; nothing of it was done.
pub fn judge(sqe: &Sqe, extent: &Extent) -> Result<Action, Status> {
    let len = sqe.data()?.len();
    let fua = sqe.dword(12) >> 30 & 1 == 1;
    let has_protection = sqe.dword(12) >> 26 & 0xf != 0;
    let action = match sqe.opcode() {
        opcode::READ => Action::Read { span: span(sqe, extent)? },
        opcode::WRITE => Action::Write { span: span(sqe, extent)?, flags: WriteFlags { fua } },
        opcode::COMPARE => Action::Compare { span: span(sqe, extent)? },
        opcode::VERIFY => Action::Verify { span: span(sqe, extent)? },
        opcode::WRITE_ZEROES => {
            // DEAC: space may be given back. Without it a later write is not to run out of space.
            let allocate = sqe.dword(12) >> 25 & 1 == 0;
            Action::Zero { span: span(sqe, extent)?, flags: ZeroFlags { fua, allocate, fast_only: false } }
        }
        opcode::DATASET_MANAGEMENT => {
            let ranges = u16::from(sqe.dword_low_byte()) + 1;
            Action::Deallocate { ranges, len, deallocate: sqe.dword(11) >> 2 & 1 == 1 }
        }
        opcode::FLUSH => Action::Flush,
        opcode::RESERVATION_REPORT => {
            Action::ReportReservations { len, extended: parse_report(sqe)?.extended }
        }
        other => Action::Reserve { len: reservation::data_len(other).ok_or(Status::INVALID_OPCODE)? },
    };
    check(&action, sqe, extent, len, has_protection).map(|()| action)
}

fn check(action: &Action, sqe: &Sqe, extent: &Extent, len: u32, has_protection: bool) -> Result<(), Status> {
    let writes = EFFECTS.iter().any(|(opcode, changes)| *changes && *opcode == sqe.opcode());
    if writes && extent.read_only {
        return Err(Status::WRITE_PROTECTED);
    }
    let moved = match action {
        Action::Read { span } | Action::Write { span, .. } | Action::Compare { span } => {
            if has_protection || span.len().0 > u64::from(TRANSFER_MAX) {
                return Err(Status::INVALID_FIELD);
            }
            span_len(*span)
        }
        Action::Deallocate { ranges, .. } => {
            let needed = u32::from(*ranges) * 16;
            if len < needed || len > RANGES_LEN_MAX {
                return Err(Status::SGL_LENGTH);
            }
            len
        }
        Action::ReportReservations { .. } => {
            let wanted = parse_report(sqe)?.len;
            if wanted > u64::from(TRANSFER_MAX) {
                return Err(Status::INVALID_FIELD);
            }
            u32::try_from(wanted).map_err(|_| Status::INVALID_FIELD)?
        }
        Action::Reserve { len } => *len,
        Action::Verify { .. } | Action::Zero { .. } | Action::Flush => 0,
    };
    if moved == len { Ok(()) } else { Err(Status::SGL_LENGTH) }
}

/// The blocks of a command, as bytes of the volume.
fn span(sqe: &Sqe, extent: &Extent) -> Result<Span, Status> {
    let count = u64::from(sqe.dword(12) & 0xffff) + 1;
    blocks(sqe.u64(40), count, extent)
}

fn blocks(first: u64, count: u64, extent: &Extent) -> Result<Span, Status> {
    let lba = u64::from(extent.lba);
    let end = first.checked_add(count).filter(|end| *end <= extent.size / lba);
    end.map(|_| Span::at(first * lba, count * lba)).ok_or(Status::LBA_OUT_OF_RANGE)
}

/// The spans of a Dataset Management command's data; empty ranges are left out.
///
/// # Errors
/// One of them is not within the namespace: then nothing is given back.
pub fn ranges(data: &[u8], count: u16, extent: &Extent) -> Result<SmallVec<[Span; 4]>, Status> {
    let mut spans = SmallVec::new();
    for range in data.chunks_exact(RANGE_LEN).take(usize::from(count)) {
        let u32_at = |at: usize| u32::from_le_bytes([range[at], range[at + 1], range[at + 2], range[at + 3]]);
        let first = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
        let len = u64::from(u32_at(4));
        let span = blocks(first, len, extent)?;
        if len > 0 {
            spans.push(span);
        }
    }
    Ok(spans)
}

/// How a volume's answer reads in NVMe, and whether trying again would end the same way.
pub fn status_of(status: crate::block::Status, reads: bool) -> (Status, bool) {
    use crate::block::Status as Block;
    match status {
        Block::OutOfRange => (Status::LBA_OUT_OF_RANGE, true),
        Block::NoSpace => (Status::CAPACITY_EXCEEDED, true),
        Block::Io if reads => (Status::UNRECOVERED_READ, true),
        Block::Io => (Status::WRITE_FAULT, true),
        Block::ReadOnly => (Status::WRITE_PROTECTED, true),
        Block::NotFast => (Status::INTERNAL, true),
        // Another path may serve it, and so may this one when the daemon is there again.
        Block::ShuttingDown => (Status::PATH, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvmf::pdu::SQE_LEN;

    const EXTENT: Extent = Extent { size: 1 << 20, lba: 512, read_only: false };

    fn command(opcode: u8, first: u64, blocks: u32, len: u32) -> Sqe {
        let mut sqe = [0; SQE_LEN];
        (sqe[0], sqe[1], sqe[39]) = (opcode, 0x40, 0x5a);
        sqe[32..36].copy_from_slice(&len.to_le_bytes());
        sqe[40..48].copy_from_slice(&first.to_le_bytes());
        sqe[48..52].copy_from_slice(&(blocks - 1).to_le_bytes());
        Sqe::new(sqe)
    }

    fn judged(opcode: u8, first: u64, blocks: u32, len: u32) -> Result<Action, Status> {
        judge(&command(opcode, first, blocks, len), &EXTENT)
    }

    #[test]
    fn ranges_are_checked_to_the_last_block() {
        for opcode in [opcode::READ, opcode::WRITE, opcode::COMPARE] {
            assert!(judged(opcode, 2047, 1, 512).is_ok());
            assert_eq!(judged(opcode, 2048, 1, 512), Err(Status::LBA_OUT_OF_RANGE));
            assert_eq!(judged(opcode, u64::MAX, 1, 512), Err(Status::LBA_OUT_OF_RANGE));
            assert_eq!(judged(opcode, 0, 2, 512), Err(Status::SGL_LENGTH));
        }
        for opcode in [opcode::WRITE_ZEROES, opcode::VERIFY] {
            assert!(judged(opcode, 0, 2048, 0).is_ok());
            assert_eq!(judged(opcode, 1, 2048, 0), Err(Status::LBA_OUT_OF_RANGE));
        }
    }

    #[test]
    fn no_command_moves_more_than_a_transfer() {
        let large = Extent { size: 1 << 40, ..EXTENT };
        let sqe = command(opcode::READ, 0, 2049, 2049 * 512);
        assert_eq!(judge(&sqe, &large), Err(Status::INVALID_FIELD));
        let sqe = command(opcode::READ, 0, 2048, 1 << 20);
        assert_eq!(judge(&sqe, &large).map(|a| a.memory()), Ok(1 << 20));
    }

    #[test]
    fn a_read_only_namespace_refuses_what_writes() {
        let extent = Extent { read_only: true, ..EXTENT };
        for (opcode, changes) in EXTENT_COMMANDS {
            let len = if matches!(opcode, opcode::WRITE_ZEROES) { 0 } else { 512 };
            let judged = judge(&command(opcode, 0, 1, len), &extent);
            assert_eq!(judged.err() == Some(Status::WRITE_PROTECTED), changes, "{opcode:x}");
        }
    }

    const EXTENT_COMMANDS: [(u8, bool); 4] = [
        (opcode::READ, false),
        (opcode::WRITE, true),
        (opcode::WRITE_ZEROES, true),
        (opcode::DATASET_MANAGEMENT, true),
    ];

    #[test]
    fn commands_are_reads_and_writes_as_the_specifications_table_of_groups_says() {
        let of =
            |code: u8, blocks: u32, len: u32| judged(code, 0, blocks, len).expect("a good command").access();
        assert_eq!(of(opcode::READ, 1, 512), Some(Access::Read));
        assert_eq!(of(opcode::COMPARE, 1, 512), Some(Access::Read));
        assert_eq!(of(opcode::VERIFY, 1, 0), Some(Access::Read));
        assert_eq!(of(opcode::WRITE, 1, 512), Some(Access::Write));
        assert_eq!(of(opcode::WRITE_ZEROES, 1, 0), Some(Access::Write));
        assert_eq!(of(opcode::DATASET_MANAGEMENT, 1, 16), Some(Access::Write));
        assert_eq!(of(opcode::FLUSH, 1, 0), Some(Access::Write));
        assert_eq!(Action::Reserve { len: 16 }.access(), None);
        assert_eq!(Action::ReportReservations { len: 64, extended: false }.access(), None);
    }

    #[test]
    fn linux_sends_all_ranges_it_has_room_for() {
        let mut sqe = *command(opcode::DATASET_MANAGEMENT, 0, 1, 4096).as_bytes();
        (sqe[40], sqe[44]) = (1, 4);
        let action = judge(&Sqe::new(sqe), &EXTENT).unwrap();
        assert_eq!(action, Action::Deallocate { ranges: 2, len: 4096, deallocate: true });
        let mut data = vec![0; 4096];
        data[4] = 8;
        (data[16 + 4], data[16 + 8]) = (0, 9);
        assert_eq!(ranges(&data, 2, &EXTENT).unwrap()[..], [Span::at(0, 4096)]);
        data[16 + 4..16 + 8].fill(0xff);
        assert_eq!(ranges(&data, 2, &EXTENT), Err(Status::LBA_OUT_OF_RANGE));
        assert!(ranges(&data, 1, &EXTENT).is_ok(), "what is behind the count means nothing");
    }

    #[test]
    fn every_opcode_is_answered() {
        for opcode in 0..=u8::MAX {
            let known = EFFECTS.iter().any(|(known, _)| *known == opcode);
            let judged = judge(&command(opcode, 0, 1, 0), &EXTENT);
            assert_eq!(judged == Err(Status::INVALID_OPCODE), !known, "{opcode:x}");
        }
    }
}
