//! The bytes of the commands that a host sends: submission queue entries, and the data of Connect and of Dataset
//! Management. Pure.
//!
//! A `Draft` is a command without its id and without the place of its data: both are known when it is sent.

use crate::nvmf::command::DataPlace;
use crate::nvmf::fabrics::{self, CONNECT_LEN, kind};
use crate::nvmf::pdu::SQE_LEN;
use uuid::Uuid;

/// Bytes of data behind a Fabrics or admin command that every controller takes (TCP Transport).
pub const FABRICS_CAPSULE_MAX: u32 = 8192;

/// Bytes of an Identify data structure.
pub const IDENTIFY_LEN: u64 = 4096;

/// Ranges of one Dataset Management command.
pub const RANGES_MAX: usize = 256;

/// Blocks of one command whose count is 16 bits, counted from 0.
pub const BLOCKS_MAX: u64 = 1 << 16;

mod opcode {
    pub const LOG_PAGE: u8 = 0x02;
    pub const IDENTIFY: u8 = 0x06;
    pub const SET_FEATURES: u8 = 0x09;
    pub const KEEP_ALIVE: u8 = 0x18;
    pub const FLUSH: u8 = 0x00;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
}

/// Commands on a range of blocks (NVM command set).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnBlocks {
    Write,
    Read,
    Compare,
    WriteZeroes,
}

impl OnBlocks {
    fn opcode(self) -> u8 {
        match self {
            OnBlocks::Write => 0x01,
            OnBlocks::Read => 0x02,
            OnBlocks::Compare => 0x05,
            OnBlocks::WriteZeroes => 0x08,
        }
    }
}

/// Which Identify data structure (CNS).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    Namespace,
    Controller,
    /// Active namespaces with larger numbers than the one named.
    Namespaces,
    Descriptors,
}

/// Controller properties that a host uses, by offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Property {
    /// CAP.
    Capabilities,
    /// VS.
    Version,
    /// CC.
    Configuration,
    /// CSTS.
    Status,
}

impl Property {
    fn offset(self) -> u32 {
        match self {
            Property::Capabilities => 0x00,
            Property::Version => 0x08,
            Property::Configuration => 0x14,
            Property::Status => 0x1c,
        }
    }

    /// ATTRIB: 1 for the property of 8 bytes.
    fn attribute(self) -> u8 {
        u8::from(self == Property::Capabilities)
    }
}

/// A command that is not sent yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Draft {
    bytes: [u8; SQE_LEN],
}

impl Draft {
    fn new(opcode: u8) -> Draft {
        let mut bytes = [0; SQE_LEN];
        bytes[0] = opcode;
        bytes[1] = 0x40; // PSDT 01: an SGL
        Draft { bytes }
    }

    fn fabrics(kind: u8) -> Draft {
        Draft::new(fabrics::OPCODE).with(4, &[kind])
    }

    fn with(mut self, at: usize, field: &[u8]) -> Draft {
        self.bytes[at..at + field.len()].copy_from_slice(field);
        self
    }

    fn with_u32(self, at: usize, value: u32) -> Draft {
        self.with(at, &value.to_le_bytes())
    }

    /// Whether every controller takes `FABRICS_CAPSULE_MAX` of data behind it, on any queue.
    pub fn is_fabrics(&self) -> bool {
        self.bytes[0] == fabrics::OPCODE
    }

    /// The entry as it is sent.
    pub fn seal(self, id: u16, place: DataPlace) -> [u8; SQE_LEN] {
        let (identifier, len) = match place {
            DataPlace::InCapsule { len, .. } => (0x01, len),
            DataPlace::ByTransfer { len } => (0x5a, len),
        };
        self.with(2, &id.to_le_bytes()).with_u32(32, len).with(39, &[identifier]).bytes
    }
}

/// Connect for queue `queue`, which takes `depth` commands at a time and one entry more. SQ flow control is declined:
/// the depth bounds what is in flight.
pub fn connect(queue: u16, depth: u16, keep_alive_ms: u32) -> Draft {
    let draft = Draft::fabrics(kind::CONNECT).with(42, &queue.to_le_bytes()).with(44, &depth.to_le_bytes());
    draft.with(46, &[1 << 2]).with_u32(48, keep_alive_ms)
}

/// The data of Connect. Names are at most 223 bytes.
///
/// # Panics
/// If a name does not fit: whoever takes one from outside checks it.
pub fn connect_data(host: Uuid, controller: u16, subsystem: &str, host_name: &str) -> Vec<u8> {
    let mut data = vec![0; CONNECT_LEN as usize]; // 1024
    data[..16].copy_from_slice(host.as_bytes());
    data[16..18].copy_from_slice(&controller.to_le_bytes());
    for (at, name) in [(256, subsystem), (512, host_name)] {
        assert!(name.len() < 256, "an NQN of {} bytes", name.len());
        data[at..at + name.len()].copy_from_slice(name.as_bytes());
    }
    data
}

pub fn property_of(property: Property) -> Draft {
    Draft::fabrics(kind::PROPERTY_GET).with(40, &[property.attribute()]).with_u32(44, property.offset())
}

pub fn set_property(property: Property, value: u32) -> Draft {
    let draft =
        Draft::fabrics(kind::PROPERTY_SET).with(40, &[property.attribute()]).with_u32(44, property.offset());
    draft.with(48, &u64::from(value).to_le_bytes())
}

pub fn identify(page: Page, namespace: u32) -> Draft {
    let number = match page {
        Page::Namespace => 0x00,
        Page::Controller => 0x01,
        Page::Namespaces => 0x02,
        Page::Descriptors => 0x03,
    };
    Draft::new(opcode::IDENTIFY).with_u32(4, namespace).with_u32(40, number)
}

/// The discovery log (page 70h): `len` bytes from `offset` on, both multiples of 4. Reading it re-arms no event.
///
/// # Panics
/// If there is nothing to read, or no such length.
pub fn discovery_log(offset: u64, len: u32) -> Draft {
    let last = (len / 4).checked_sub(1).expect("something to read");
    let retain = 1 << 15;
    let draft = Draft::new(opcode::LOG_PAGE).with_u32(40, last << 16 | retain | 0x70);
    draft.with_u32(44, last >> 16).with(48, &offset.to_le_bytes())
}

/// Set Features 07: so many I/O queues, at least 1.
pub fn number_of_queues(count: u16) -> Draft {
    let last = u32::from(count.max(1) - 1);
    Draft::new(opcode::SET_FEATURES).with_u32(40, 0x07).with_u32(44, last << 16 | last)
}

pub fn keep_alive() -> Draft {
    Draft::new(opcode::KEEP_ALIVE)
}

pub fn flush(namespace: u32) -> Draft {
    Draft::new(opcode::FLUSH).with_u32(4, namespace)
}

/// How a command on blocks is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Manner {
    /// Durable before it is answered.
    pub fua: bool,
    /// Zeroes may be left unallocated.
    pub deallocate: bool,
}

/// A command on `blocks` blocks, 1 to `BLOCKS_MAX`, from `first` on.
///
/// # Panics
/// If the count is out of range.
pub fn on_blocks(what: OnBlocks, namespace: u32, first: u64, blocks: u64, manner: Manner) -> Draft {
    let last = blocks.checked_sub(1).and_then(|last| u16::try_from(last).ok());
    let last = last.expect("a command has 1 to 65536 blocks");
    let bits = u32::from(manner.fua) << 30 | u32::from(manner.deallocate) << 25;
    let draft = Draft::new(what.opcode()).with_u32(4, namespace).with(40, &first.to_le_bytes());
    draft.with_u32(48, u32::from(last) | bits)
}

/// Deallocates `ranges` ranges, 1 to `RANGES_MAX`; they are the command's data.
///
/// # Panics
/// If the count is out of range.
pub fn deallocate(namespace: u32, ranges: usize) -> Draft {
    let last = ranges.checked_sub(1).and_then(|last| u8::try_from(last).ok());
    let last = last.expect("a command has 1 to 256 ranges");
    let draft = Draft::new(opcode::DATASET_MANAGEMENT).with_u32(4, namespace);
    draft.with_u32(40, u32::from(last)).with_u32(44, 1 << 2)
}

/// One range of Dataset Management.
pub fn range(first: u64, blocks: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&blocks.to_le_bytes());
    bytes[8..].copy_from_slice(&first.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvmf::command::Sqe;

    fn sealed(draft: Draft) -> Sqe {
        Sqe::new(draft.seal(0x1403, DataPlace::ByTransfer { len: 4096 }))
    }

    #[test]
    fn fabrics_commands_look_as_linux_sends_them() {
        let connect = sealed(connect(3, 127, 5000));
        assert_eq!((connect.opcode(), connect.id(), connect.fabrics_type()), (0x7f, 0x1403, 1));
        assert_eq!((connect.u16(40), connect.u16(42), connect.u16(44), connect.byte(46)), (0, 3, 127, 4));
        assert_eq!((connect.u32(48), connect.data()), (5000, Ok(DataPlace::ByTransfer { len: 4096 })));
        let data = connect_data(Uuid::from_u128(1), 0xffff, "nqn.s", "nqn.h");
        assert_eq!((data.len(), data[15], &data[16..18]), (1024, 1, &[0xff, 0xff][..]));
        assert_eq!((&data[256..262], &data[512..518]), (&b"nqn.s\0"[..], &b"nqn.h\0"[..]));
        let capabilities = sealed(property_of(Property::Capabilities));
        assert_eq!((capabilities.fabrics_type(), capabilities.byte(40), capabilities.u32(44)), (4, 1, 0));
        let configuration = sealed(set_property(Property::Configuration, 0x0046_0001));
        assert_eq!((configuration.byte(40), configuration.u32(44)), (0, 0x14));
        assert_eq!(configuration.u64(48), 0x0046_0001);
    }

    #[test]
    fn admin_commands_name_what_they_want() {
        let page = sealed(identify(Page::Descriptors, 7));
        assert_eq!((page.opcode(), page.namespace(), page.dword(10)), (6, 7, 3));
        let queues = sealed(number_of_queues(4));
        assert_eq!((queues.opcode(), queues.dword(10), queues.dword(11)), (9, 7, 0x0003_0003));
        assert_eq!(sealed(keep_alive()).opcode(), 0x18);
        let log = sealed(discovery_log(1 << 33 | 1024, 4096));
        assert_eq!((log.opcode(), log.dword(10), log.dword(11)), (2, 0x03ff_8070, 0));
        assert_eq!((log.dword(12), log.dword(13)), (1024, 2));
    }

    #[test]
    fn commands_on_blocks_count_from_zero() {
        let manner = Manner { fua: true, deallocate: false };
        let write = sealed(on_blocks(OnBlocks::Write, 2, 1 << 40, 65536, manner));
        assert_eq!((write.opcode(), write.namespace(), write.u64(40)), (1, 2, 1 << 40));
        assert_eq!(write.dword(12), 0x4000_ffff);
        let manner = Manner { fua: false, deallocate: true };
        assert_eq!(sealed(on_blocks(OnBlocks::WriteZeroes, 2, 0, 1, manner)).dword(12), 0x0200_0000);
        let trim = Sqe::new(deallocate(2, 256).seal(0, DataPlace::InCapsule { offset: 0, len: 4096 }));
        assert_eq!((trim.opcode(), trim.dword(10), trim.dword(11)), (9, 255, 4));
        assert_eq!(trim.data(), Ok(DataPlace::InCapsule { offset: 0, len: 4096 }));
        assert_eq!(range(9, 8), [0, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    }
}
