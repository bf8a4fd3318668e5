//! Fabrics commands: Connect with its data, and the properties of a controller. Bytes and checks only.

use super::command::{Sqe, Status};
use super::subsystem::NQN_MAX;

/// The opcode of all of them.
pub const OPCODE: u8 = 0x7f;

/// The kinds that are known (FCTYPE).
pub mod kind {
    pub const PROPERTY_SET: u8 = 0x00;
    pub const CONNECT: u8 = 0x01;
    pub const PROPERTY_GET: u8 = 0x04;
}

/// Bytes of Connect's data.
pub const CONNECT_LEN: u32 = 1024;

/// A host asks for any controller: the only choice here (the dynamic model).
pub const ANY_CONTROLLER: u16 = 0xffff;

/// The greatest number that a controller can have.
pub const CONTROLLER_MAX: u16 = 0xffef;

/// Entries of a queue at most.
pub const QUEUE_MAX: u16 = 128;

/// I/O queues of one controller at most.
pub const QUEUES_MAX: u16 = 128;

/// Who a host is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostName {
    pub nqn: String,
    pub id: [u8; 16],
}

/// What a Connect command asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connect {
    pub host: HostName,
    /// The name of the subsystem.
    pub subsystem: String,
    pub controller: u16,
    /// 0 for the admin queue.
    pub queue: u16,
    /// Commands that the host may have outstanding.
    pub size: u16,
    /// The host needs no SQHD, so a read may end with its data.
    pub no_flow_control: bool,
    /// Milliseconds; zero: none.
    pub keep_alive_ms: u32,
}

/// Why a Connect is refused: the status, and dword 0 of the completion, which names the field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub status: Status,
    pub field: u64,
    /// Trying again would end the same way.
    pub for_good: bool,
}

impl Refusal {
    pub fn new(status: Status) -> Refusal {
        Refusal { status, field: 0, for_good: true }
    }

    /// A wrong field of the command.
    pub fn command(offset: u64) -> Refusal {
        Refusal { status: Status::CONNECT_PARAMETERS, field: offset, for_good: true }
    }

    /// A wrong field of the data.
    pub fn data(offset: u64) -> Refusal {
        Refusal::command(offset | 1 << 16)
    }

    /// The same may go well later.
    pub fn for_now(self) -> Refusal {
        Refusal { for_good: false, ..self }
    }
}

/// Offsets of Connect's fields that can be wrong.
pub mod field {
    pub const QUEUE: u64 = 42;
    pub const SIZE: u64 = 44;
    pub const CONTROLLER: u64 = 16;
    pub const SUBSYSTEM: u64 = 256;
    pub const HOST: u64 = 512;
}

impl Connect {
    /// Reads a Connect with its data.
    ///
    /// # Errors
    /// What is wrong with it, as the host is to be told.
    pub fn parse(sqe: &Sqe, data: &[u8]) -> Result<Connect, Refusal> {
        if data.len() != CONNECT_LEN as usize {
            return Err(Refusal::new(Status::SGL_LENGTH));
        }
        if sqe.u16(40) != 0 {
            return Err(Refusal::new(Status::CONNECT_FORMAT));
        }
        let subsystem = name(&data[256..512]).ok_or(Refusal::data(field::SUBSYSTEM))?;
        let host = name(&data[512..768]).ok_or(Refusal::data(field::HOST))?;
        let (queue, size) = (sqe.u16(42), sqe.u16(44));
        if size == 0 || size >= QUEUE_MAX {
            return Err(Refusal::command(field::SIZE));
        }
        let mut id = [0; 16];
        id.copy_from_slice(&data[..16]);
        Ok(Connect {
            host: HostName { nqn: host, id },
            subsystem,
            controller: u16::from_le_bytes([data[16], data[17]]),
            queue,
            size: size + 1,
            no_flow_control: sqe.byte(46) & 4 != 0,
            keep_alive_ms: sqe.u32(48),
        })
    }
}

/// An NQN in its field: with an end, not empty, and text.
fn name(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&field[..end]).ok()?;
    let is_plain = text.chars().all(|c| !c.is_control());
    (text.starts_with("nqn.") && end <= NQN_MAX && is_plain).then(|| text.to_owned())
}

/// The properties that a controller has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Property {
    Capabilities,
    Version,
    Configuration,
    State,
}

impl Property {
    /// The property of a Property Get or Set.
    ///
    /// # Errors
    /// There is none at this offset with this length.
    pub fn of(sqe: &Sqe) -> Result<Property, Status> {
        let is_long = match sqe.byte(40) & 7 {
            0 => false,
            1 => true,
            _ => return Err(Status::INVALID_FIELD),
        };
        match (sqe.u32(44), is_long) {
            (0x00, true) => Ok(Property::Capabilities),
            (0x08, false) => Ok(Property::Version),
            (0x14, false) => Ok(Property::Configuration),
            (0x1c, false) => Ok(Property::State),
            _ => Err(Status::INVALID_FIELD),
        }
    }
}

/// CAP: queues of 128 contiguous entries, 8 seconds to become ready, the NVM command set, pages of 4 KiB.
pub const CAPABILITIES: u64 = (QUEUE_MAX as u64 - 1) | 1 << 16 | 15 << 24 | 1 << 37;

/// VS: 1.4.
pub const VERSION: u64 = 0x0001_0400;

/// Fields of CC and CSTS.
pub mod bits {
    pub const ENABLE: u32 = 1;
    pub const SHUTDOWN: u32 = 3 << 14;
    pub const READY: u32 = 1;
    pub const FATAL: u32 = 1 << 1;
    pub const SHUT_DOWN: u32 = 2 << 2;
}

/// Whether a controller can be enabled so: entry sizes of 64 and 16 bytes, the NVM command set, pages of 4 KiB, round
/// robin.
pub fn is_usable(configuration: u32) -> bool {
    let field = |shift: u32, width: u32| configuration >> shift & ((1 << width) - 1);
    field(4, 3) == 0 && field(7, 4) == 0 && field(11, 3) == 0 && field(16, 4) == 6 && field(20, 4) == 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvmf::pdu::SQE_LEN;

    fn connect(change: impl FnOnce(&mut [u8; SQE_LEN], &mut Vec<u8>)) -> Result<Connect, Refusal> {
        let mut sqe = [0; SQE_LEN];
        (sqe[0], sqe[4]) = (OPCODE, kind::CONNECT);
        sqe[44..46].copy_from_slice(&31_u16.to_le_bytes());
        sqe[48..52].copy_from_slice(&5000_u32.to_le_bytes());
        let mut data = vec![0; 1024];
        data[..16].fill(7);
        data[16..18].fill(0xff);
        data[256..259].copy_from_slice(b"nqn");
        data[256..261].copy_from_slice(b"nqn.a");
        data[512..517].copy_from_slice(b"nqn.b");
        change(&mut sqe, &mut data);
        Connect::parse(&Sqe::new(sqe), &data)
    }

    #[test]
    fn a_connect_is_read() {
        let wanted = Connect {
            host: HostName { nqn: "nqn.b".to_owned(), id: [7; 16] },
            subsystem: "nqn.a".to_owned(),
            controller: ANY_CONTROLLER,
            queue: 0,
            size: 32,
            no_flow_control: false,
            keep_alive_ms: 5000,
        };
        assert_eq!(connect(|_, _| ()), Ok(wanted.clone()));
        let queue = |sqe: &mut [u8; SQE_LEN], _: &mut Vec<u8>| {
            (sqe[42], sqe[46]) = (3, 4);
        };
        assert_eq!(connect(queue), Ok(Connect { queue: 3, no_flow_control: true, ..wanted }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let size = |size: u16| {
            connect(move |sqe, _| sqe[44..46].copy_from_slice(&size.to_le_bytes())).map_err(|e| e.field)
        };
        assert_eq!(size(0), Err(44));
        assert_eq!(size(65535), Err(44));
        assert_eq!(size(128), Err(44));
        assert!(size(127).is_ok());
        assert_eq!(connect(|sqe, _| sqe[40] = 1), Err(Refusal::new(Status::CONNECT_FORMAT)));
        assert_eq!(connect(|_, data| data.truncate(1023)), Err(Refusal::new(Status::SGL_LENGTH)));
        let data = |change: fn(&mut Vec<u8>)| connect(|_, data| change(data)).map_err(|e| e.field);
        assert_eq!(data(|d| d[256..512].fill(b'n')), Err(256 | 1 << 16), "without an end");
        assert_eq!(data(|d| d[256..512].fill(0)), Err(256 | 1 << 16), "empty");
        assert_eq!(data(|d| d[516] = 0xff), Err(512 | 1 << 16), "no text");
        assert_eq!(data(|d| d[516..512 + 224].fill(b'x')), Err(512 | 1 << 16), "too long");
    }

    #[test]
    fn properties_have_one_length() {
        let property = |offset: u32, attribute: u8| {
            let mut sqe = [0; SQE_LEN];
            sqe[40] = attribute;
            sqe[44..48].copy_from_slice(&offset.to_le_bytes());
            Property::of(&Sqe::new(sqe))
        };
        let known: Vec<(u32, u8)> = (0..0x80)
            .flat_map(|offset| (0..8).map(move |size| (offset, size)))
            .filter(|(offset, size)| property(*offset, *size).is_ok())
            .collect();
        assert_eq!(known, [(0, 1), (8, 0), (0x14, 0), (0x1c, 0)]);
    }

    #[test]
    fn controllers_are_enabled_as_linux_does_it() {
        assert!(is_usable(0x0046_0000) && is_usable(0x0046_0001));
        for wrong in [0x0046_0060, 0x0045_0001, 0x0036_0001, 0x0046_0081, 0x0046_0801, 0] {
            assert!(!is_usable(wrong), "{wrong:x}");
        }
    }
}
