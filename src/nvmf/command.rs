//! The bytes of commands: submission and completion queue entries, the one SGL descriptor of a capsule, status codes.

use super::pdu::{CQE_LEN, SQE_LEN};

/// A status code: type and code, as in SCT << 8 | SC (Base specification, status field).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub u16);

impl Status {
    pub const SUCCESS: Status = Status(0x000);
    pub const INVALID_OPCODE: Status = Status(0x001);
    pub const INVALID_FIELD: Status = Status(0x002);
    pub const DATA_TRANSFER: Status = Status(0x004);
    pub const COMMAND_ID_CONFLICT: Status = Status(0x003);
    pub const INTERNAL: Status = Status(0x006);
    pub const ABORTED: Status = Status(0x007);
    pub const INVALID_NAMESPACE: Status = Status(0x00b);
    pub const COMMAND_SEQUENCE: Status = Status(0x00c);
    pub const SGL_LENGTH: Status = Status(0x00f);
    pub const SGL_TYPE: Status = Status(0x011);
    pub const SGL_OFFSET: Status = Status(0x016);
    pub const HOST_ID_FORMAT: Status = Status(0x018);
    pub const WRITE_PROTECTED: Status = Status(0x020);
    pub const INTERRUPTED: Status = Status(0x021);
    pub const TRANSIENT_TRANSPORT: Status = Status(0x022);
    pub const LBA_OUT_OF_RANGE: Status = Status(0x080);
    pub const CAPACITY_EXCEEDED: Status = Status(0x081);
    pub const RESERVATION_CONFLICT: Status = Status(0x083);
    pub const INVALID_QUEUE: Status = Status(0x101);
    pub const EVENT_LIMIT: Status = Status(0x105);
    pub const INVALID_LOG_PAGE: Status = Status(0x109);
    pub const NOT_SAVEABLE: Status = Status(0x10d);
    pub const CONNECT_FORMAT: Status = Status(0x180);
    pub const CONNECT_BUSY: Status = Status(0x181);
    pub const CONNECT_PARAMETERS: Status = Status(0x182);
    pub const CONNECT_HOST: Status = Status(0x184);
    pub const WRITE_FAULT: Status = Status(0x280);
    pub const UNRECOVERED_READ: Status = Status(0x281);
    pub const COMPARE_FAILED: Status = Status(0x285);
    /// Another path may do better.
    pub const PATH: Status = Status(0x300);
}

/// Where a command's data is (Base specification, SGL descriptors; in a capsule there is exactly one).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataPlace {
    /// Behind the command.
    InCapsule { offset: u64, len: u32 },
    /// Moved by data PDUs.
    ByTransfer { len: u32 },
}

impl DataPlace {
    /// Bytes.
    pub fn len(self) -> u32 {
        match self {
            DataPlace::InCapsule { len, .. } | DataPlace::ByTransfer { len } => len,
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// A submission queue entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sqe {
    bytes: [u8; SQE_LEN],
}

impl Sqe {
    pub fn new(bytes: [u8; SQE_LEN]) -> Sqe {
        Sqe { bytes }
    }

    pub fn as_bytes(&self) -> &[u8; SQE_LEN] {
        &self.bytes
    }

    pub fn byte(&self, at: usize) -> u8 {
        self.bytes[at]
    }

    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    pub fn opcode(&self) -> u8 {
        self.bytes[0]
    }

    /// The host's name for the command; echoed bit for bit.
    pub fn id(&self) -> u16 {
        self.u16(2)
    }

    /// The kind of a Fabrics command.
    pub fn fabrics_type(&self) -> u8 {
        self.bytes[4]
    }

    pub fn namespace(&self) -> u32 {
        self.u32(4)
    }

    /// Command dword `number`, 10 to 15.
    ///
    /// # Panics
    /// If there is no such dword.
    pub fn dword(&self, number: usize) -> u32 {
        assert!((10..=15).contains(&number), "command dwords are 10 to 15");
        self.u32(4 * number)
    }

    /// The lowest byte of command dword 10: which feature, log page, structure, how many ranges.
    pub fn dword_low_byte(&self) -> u8 {
        self.bytes[40]
    }

    /// Where the data is.
    ///
    /// # Errors
    /// Fused commands, pointers that are no SGLs, and descriptors that the transport does not have.
    pub fn data(&self) -> Result<DataPlace, Status> {
        // FUSE (bits 1:0) is not supported; PSDT (bits 7:6) is 01 in Fabrics: an SGL.
        if self.bytes[1] & 0xc3 != 0x40 {
            return Err(Status::INVALID_FIELD);
        }
        let (address, len) = (self.u64(24), self.u32(32));
        match self.bytes[39] {
            0x01 => Ok(DataPlace::InCapsule { offset: address, len }),
            0x5a => Ok(DataPlace::ByTransfer { len }),
            _ => Err(Status::SGL_TYPE),
        }
    }
}

/// A completion queue entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cqe {
    /// Dwords 0 and 1: what the command answers.
    pub result: u64,
    /// Where the controller is in the submission queue; all ones without flow control.
    pub queue_head: u16,
    pub command: u16,
    pub status: Status,
    /// Trying again would end the same way.
    pub no_retry: bool,
}

impl Cqe {
    pub fn emit(&self) -> [u8; CQE_LEN] {
        let mut bytes = [0; CQE_LEN];
        bytes[..8].copy_from_slice(&self.result.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.queue_head.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.command.to_le_bytes());
        let status = self.status.0 << 1 | u16::from(self.no_retry) << 15;
        bytes[14..].copy_from_slice(&status.to_le_bytes());
        bytes
    }

    pub fn parse(bytes: &[u8; CQE_LEN]) -> Cqe {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut result = [0; 8];
        result.copy_from_slice(&bytes[..8]);
        Cqe {
            result: u64::from_le_bytes(result),
            queue_head: u16_at(8),
            command: u16_at(12),
            status: Status(u16_at(14) >> 1 & 0x7ff),
            no_retry: u16_at(14) >> 15 == 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqe(fields: &[(usize, &[u8])]) -> Sqe {
        let mut bytes = [0; SQE_LEN];
        bytes[1] = 0x40;
        for (at, field) in fields {
            bytes[*at..at + field.len()].copy_from_slice(field);
        }
        Sqe::new(bytes)
    }

    #[test]
    fn fields_lie_where_linux_puts_them() {
        // Property Get of CAP, then Get Log Page 0x70 of 1024 bytes, as Linux 6.1 sends them.
        let get = sqe(&[(0, &[0x7f]), (2, &[1, 0]), (4, &[4]), (39, &[0x5a, 1])]);
        assert_eq!((get.opcode(), get.id(), get.fabrics_type(), get.byte(40)), (0x7f, 1, 4, 1));
        assert_eq!(get.data(), Ok(DataPlace::ByTransfer { len: 0 }));
        let log = sqe(&[(0, &[2]), (2, &[0x1d]), (33, &[4]), (39, &[0x5a, 0x70, 0x80, 0xff])]);
        assert_eq!((log.id(), log.dword(10)), (0x1d, 0x00ff_8070));
        assert_eq!(log.data().map(DataPlace::len), Ok(1024));
        assert!(get.data().unwrap().is_empty());
    }

    #[test]
    fn only_the_two_descriptors_of_the_transport_are_taken() {
        for identifier in 0..=u8::MAX {
            let found = sqe(&[(24, &[8, 0, 0, 0, 0, 0, 0, 1]), (33, &[0x10]), (39, &[identifier])]).data();
            match identifier {
                0x01 => assert_eq!(found, Ok(DataPlace::InCapsule { offset: 8 | 1 << 56, len: 4096 })),
                0x5a => assert_eq!(found, Ok(DataPlace::ByTransfer { len: 4096 })),
                _ => assert_eq!(found, Err(Status::SGL_TYPE)),
            }
        }
        for flags in [0x00, 0x41, 0x42, 0x80, 0xc0] {
            assert_eq!(sqe(&[(1, &[flags]), (39, &[0x5a])]).data(), Err(Status::INVALID_FIELD), "{flags:x}");
        }
    }

    #[test]
    fn completions_go_there_and_back() {
        let cqe = Cqe {
            result: 0x0f00_03ff_0000_0820,
            queue_head: 2,
            command: 0x2001,
            status: Status::CONNECT_PARAMETERS,
            no_retry: true,
        };
        let bytes = cqe.emit();
        assert_eq!(bytes[10..], [0, 0, 0x01, 0x20, 0x04, 0x83]);
        assert_eq!(Cqe::parse(&bytes), cqe);
        let done = Cqe { status: Status::SUCCESS, no_retry: false, ..cqe };
        assert_eq!(done.emit()[14..], [0, 0]);
    }
}
