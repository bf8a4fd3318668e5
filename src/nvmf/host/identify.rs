//! What a host needs of the Identify data structures (Base specification, Identify; NVM command set). Pure.
//!
//! Every number is checked before anything is derived from it, and nothing is sized by one.

use super::refusal::Refusal;
use crate::base::codec::{Malformed, Reader};
use crate::base::limits::{PAYLOAD_MAX, VOLUME_SIZE_MAX, VOLUMES_MAX};
use crate::nvmf::host::draft::{BLOCKS_MAX, IDENTIFY_LEN};
use uuid::Uuid;

/// The page size that MDTS counts in with CAP.MPSMIN 0, bytes.
const PAGE: u64 = 4096;

/// Block sizes that are understood, as powers of two.
const BLOCK_SHIFTS: std::ops::RangeInclusive<u8> = 9..=16;

/// Namespaces of a controller that are listed, at most.
pub const NAMESPACES_MAX: usize = VOLUMES_MAX;

/// Offsets in Identify Controller.
mod controller {
    pub const SERIAL: usize = 4;
    pub const MODEL: usize = 24;
    pub const FIRMWARE: usize = 64;
    pub const TRANSFER: usize = 77;
    pub const ID: usize = 78;
    pub const KIND: usize = 111;
    pub const KEEP_ALIVE: usize = 320;
    pub const COMMANDS_MAX: usize = 514;
    pub const NAMESPACES: usize = 516;
    pub const OPTIONAL: usize = 520;
    pub const CACHE: usize = 525;
    pub const SGL: usize = 536;
    pub const CAPSULE: usize = 1792;
    pub const RESPONSE: usize = 1796;
    pub const CAPSULE_OFFSET: usize = 1800;
}

/// Offsets in Identify Namespace.
mod namespace {
    pub const SIZE: usize = 0;
    pub const USED: usize = 16;
    pub const FORMAT: usize = 26;
    pub const FORMATS: usize = 25;
    pub const DEALLOCATED: usize = 33;
    pub const ATTRIBUTES: usize = 99;
    pub const NGUID: usize = 104;
    pub const FORMAT_TABLE: usize = 128;
}

/// An Identify data structure, whole.
struct Structure<'a> {
    bytes: &'a [u8],
}

impl<'a> Structure<'a> {
    fn of(bytes: &'a [u8]) -> Result<Structure<'a>, Refusal> {
        match u64::try_from(bytes.len()) {
            Ok(IDENTIFY_LEN) => Ok(Structure { bytes }),
            Ok(_) | Err(_) => Err(Refusal::Broken("an Identify structure that is not 4096 bytes")),
        }
    }

    fn u8(&self, at: usize) -> u8 {
        self.bytes[at]
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from(self.u8(at)) | u16::from(self.u8(at + 1)) << 8
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    /// Printable characters only: they are shown to people.
    fn text(&self, at: usize, len: usize) -> String {
        let printable = |b: &u8| if (b' '..=b'~').contains(b) { char::from(*b) } else { '?' };
        let text: String = self.bytes[at..at + len].iter().take_while(|b| **b != 0).map(printable).collect();
        text.trim().to_owned()
    }
}

/// Commands that a controller may lack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offers {
    pub compare: bool,
    pub deallocate: bool,
    pub write_zeroes: bool,
    /// There is a volatile write cache: Flush and FUA mean something.
    pub volatile_cache: bool,
}

/// A controller, as far as a host needs to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Controller {
    pub id: u16,
    pub serial: String,
    pub model: String,
    pub firmware: String,
    /// As in the property VS: major << 16 | minor << 8 | tertiary.
    pub version: u32,
    /// Bytes of one read or write, at most.
    pub transfer_max: u64,
    /// Bytes of data behind an I/O command, at most.
    pub capsule_max: u32,
    /// Commands in flight on one I/O queue, at most.
    pub depth_max: u16,
    /// I/O queues that were granted.
    pub queues: u16,
    /// The largest number that a namespace can have.
    pub namespace_max: u32,
    pub offers: Offers,
}

/// What the properties say, before Identify.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Properties {
    /// CAP.MQES: entries of a queue, counted from 0.
    pub queue_entries: u16,
    /// CAP.MPSMIN: the smallest page is 4 KiB << this; at most 15.
    pub page_shift: u8,
    pub version: u32,
    /// The id that Connect gave.
    pub id: u16,
    /// Whether a keep-alive timer was asked for.
    pub keep_alive: bool,
    /// A controller for discovery is wanted: it has no I/O queues.
    pub discovery: bool,
}

impl Controller {
    /// Reads Identify Controller; the number of queues is not known yet.
    ///
    /// # Errors
    /// A controller that cannot be used, or contradicts itself.
    pub fn parse(bytes: &[u8], properties: Properties) -> Result<Controller, Refusal> {
        let page = Structure::of(bytes)?;
        if page.u16(controller::ID) != properties.id {
            return Err(Refusal::Broken("Identify names another controller than Connect"));
        }
        // Controllers before 1.4 leave the kind 0.
        match (properties.discovery, page.u8(controller::KIND)) {
            (true, 0 | 2) | (false, 0 | 1) => {}
            (true, _) => return Err(Refusal::NotDiscovery),
            (false, _) => return Err(Refusal::NoNamespaces),
        }
        if page.u32(controller::SGL) & 3 == 0 {
            return Err(Refusal::Broken("no support for SGLs"));
        }
        let capsule_max = match properties.discovery {
            true => 0,
            false => capsule_max(&page)?,
        };
        if properties.keep_alive && page.u16(controller::KEEP_ALIVE) == 0 {
            return Err(Refusal::Broken("no support for keep alive"));
        }
        let entries = page.u16(controller::COMMANDS_MAX);
        let depth = properties.queue_entries;
        let optional = page.u16(controller::OPTIONAL);
        Ok(Controller {
            id: properties.id,
            serial: page.text(controller::SERIAL, 20),
            model: page.text(controller::MODEL, 40),
            firmware: page.text(controller::FIRMWARE, 8),
            version: properties.version,
            transfer_max: transfer_max(page.u8(controller::TRANSFER), properties.page_shift),
            capsule_max,
            depth_max: if entries == 0 { depth } else { depth.min(entries) },
            queues: 0,
            namespace_max: page.u32(controller::NAMESPACES),
            offers: Offers {
                compare: optional & 1 != 0,
                deallocate: optional & 1 << 2 != 0,
                write_zeroes: optional & 1 << 3 != 0,
                volatile_cache: page.u8(controller::CACHE) & 1 != 0,
            },
        })
    }

    /// Namespaces have descriptors since version 1.3.
    pub fn has_descriptors(&self) -> bool {
        self.version >= 0x0001_0300
    }
}

/// MDTS: a power of two of pages; 0 is no limit but ours.
fn transfer_max(power: u8, page_shift: u8) -> u64 {
    let shift = u32::from(power) + u32::from(page_shift);
    match power {
        0 => PAYLOAD_MAX,
        // Anything with so many bits is above our own limit.
        _ if shift > 32 => PAYLOAD_MAX,
        _ => (PAGE << shift).min(PAYLOAD_MAX),
    }
}

/// IOCCSZ, units of 16 bytes: the entry, and what may lie behind it, without a gap.
fn capsule_max(page: &Structure<'_>) -> Result<u32, Refusal> {
    if page.u16(controller::CAPSULE_OFFSET) != 0 || page.u32(controller::RESPONSE) < 1 {
        return Err(Refusal::Broken("capsules of a form that the transport does not have"));
    }
    let bytes = u64::from(page.u32(controller::CAPSULE)) * 16;
    let data = bytes.checked_sub(64).ok_or(Refusal::Broken("capsules too small for a command"))?;
    let most = data.min(PAYLOAD_MAX);
    Ok(u32::try_from(most).expect("a payload is below 4 GiB"))
}

/// A namespace, as far as a host needs to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    pub number: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes that take space, as far as the controller tells them apart; at most `size`.
    pub used: u64,
    /// Bytes of a block; requests are multiples of it.
    pub block: u32,
    /// Bytes of one read, write or compare, at most; a multiple of the block.
    pub transfer_max: u64,
    pub read_only: bool,
    /// Write Zeroes may deallocate.
    pub zeroes_deallocate: bool,
    /// Deallocated blocks read as zeroes.
    pub deallocated_zero: bool,
    pub nguid: Option<[u8; 16]>,
    pub uuid: Option<Uuid>,
}

impl Namespace {
    /// Reads Identify Namespace.
    ///
    /// # Errors
    /// An inactive namespace, or one with a format or a size that cannot be.
    pub fn parse(bytes: &[u8], number: u32, transfer_max: u64) -> Result<Namespace, Refusal> {
        let page = Structure::of(bytes)?;
        let blocks = page.u64(namespace::SIZE);
        if blocks == 0 {
            return Err(Refusal::NoNamespace(number));
        }
        let shift = block_shift(&page)?;
        let block = 1u64 << shift;
        let size = blocks.checked_mul(block).filter(|size| *size <= VOLUME_SIZE_MAX);
        let size = size.ok_or(Refusal::Broken("a namespace of an impossible size"))?;
        let transfer_max = transfer_max.min(BLOCKS_MAX * block) / block * block;
        if transfer_max == 0 {
            return Err(Refusal::Broken("a namespace whose blocks are larger than a transfer"));
        }
        let deallocated = page.u8(namespace::DEALLOCATED);
        let mut nguid = [0; 16];
        nguid.copy_from_slice(&page.bytes[namespace::NGUID..namespace::NGUID + 16]);
        Ok(Namespace {
            number,
            size,
            used: page.u64(namespace::USED).saturating_mul(block).min(size),
            block: 1 << shift,
            transfer_max,
            read_only: page.u8(namespace::ATTRIBUTES) & 1 != 0,
            zeroes_deallocate: deallocated & 1 << 3 != 0,
            deallocated_zero: deallocated & 7 == 1,
            nguid: (nguid != [0; 16]).then_some(nguid),
            uuid: None,
        })
    }
}

/// The format in use: which power of two its blocks are.
fn block_shift(page: &Structure<'_>) -> Result<u8, Refusal> {
    let format = page.u8(namespace::FORMAT);
    let number = (format & 0x0f) | (format >> 1 & 0x30);
    if number > page.u8(namespace::FORMATS) {
        return Err(Refusal::Broken("a namespace in a format that it does not have"));
    }
    let at = namespace::FORMAT_TABLE + 4 * usize::from(number);
    if page.u16(at) != 0 {
        return Err(Refusal::Broken("blocks with metadata, which are not supported"));
    }
    let shift = page.u8(at + 2);
    match BLOCK_SHIFTS.contains(&shift) {
        true => Ok(shift),
        false => Err(Refusal::Broken("blocks of a size that is not supported")),
    }
}

/// One page of a list of namespaces after `last`, in ascending order.
///
/// # Errors
/// A list that is not in order.
pub fn namespaces(bytes: &[u8], last: u32) -> Result<Vec<u32>, Refusal> {
    let page = Structure::of(bytes)?;
    let mut last = last;
    let mut found = Vec::new();
    for at in (0..page.bytes.len()).step_by(4) {
        let number = page.u32(at);
        if number == 0 {
            break;
        }
        if number <= last {
            return Err(Refusal::Broken("a list of namespaces that is not in order"));
        }
        found.push(number);
        last = number;
    }
    Ok(found)
}

/// The UUID among a namespace's descriptors.
///
/// # Errors
/// Descriptors whose lengths cannot be.
pub fn uuid_of(bytes: &[u8]) -> Result<Option<Uuid>, Refusal> {
    let mut reader = Reader::new(Structure::of(bytes)?.bytes);
    find_uuid(&mut reader).map_err(|_| Refusal::Broken("a namespace descriptor of an impossible length"))
}

fn find_uuid(reader: &mut Reader<'_>) -> Result<Option<Uuid>, Malformed> {
    let mut found = None;
    while reader.remaining() >= 4 {
        let (kind, len, _reserved) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let wanted = match kind {
            0 => break,
            1 => Some(8),
            2 | 3 => Some(16),
            4 => Some(1),
            _ => None,
        };
        if len == 0 || wanted.is_some_and(|wanted| wanted != len) {
            return Err(Malformed);
        }
        match kind {
            3 => found = Some(reader.uuid()?).filter(|uuid| !uuid.is_nil()),
            _ => drop(reader.bytes(usize::from(len))?),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        for (at, field) in fields {
            bytes[*at..at + field.len()].copy_from_slice(field);
        }
        bytes
    }

    const GOOD: [(usize, &[u8]); 9] = [
        (4, b"serial  "),
        (24, b"drystone\x07"),
        (77, &[8, 1]),
        (320, &[10]),
        (514, &[64]),
        (516, &[0xff; 4]),
        (520, &[0x0d, 0, 0, 0, 0, 1]),
        (536, &[1]),
        (1792, &[4, 4, 0, 0, 1]),
    ];

    const PROPERTIES: Properties = Properties {
        queue_entries: 127,
        page_shift: 0,
        version: 0x0001_0400,
        id: 1,
        keep_alive: true,
        discovery: false,
    };

    fn controller(changes: &[(usize, &[u8])]) -> Result<Controller, Refusal> {
        Controller::parse(&page(&[&GOOD[..], changes].concat()), PROPERTIES)
    }

    #[test]
    fn section_12_1_fields_become_limits() {
        let found = controller(&[]).unwrap();
        assert_eq!((found.serial.as_str(), found.model.as_str()), ("serial", "drystone?"));
        assert_eq!((found.transfer_max, found.capsule_max, found.depth_max), (1 << 20, 16 << 10, 64));
        assert_eq!(found.namespace_max, u32::MAX, "no memory for so many");
        let offers = Offers { compare: true, deallocate: true, write_zeroes: true, volatile_cache: true };
        assert_eq!(found.offers, offers);
        assert_eq!(controller(&[(514, &[0])]).unwrap().depth_max, 127);
        assert_eq!(controller(&[(1792, &[4, 0])]).unwrap().capsule_max, 0);
        for power in [0, 13, 32, 255] {
            assert_eq!(controller(&[(77, &[power])]).unwrap().transfer_max, PAYLOAD_MAX, "{power}");
        }
        assert_eq!(u64::from(controller(&[(1792, &[0xff; 4])]).unwrap().capsule_max), PAYLOAD_MAX);
    }

    #[test]
    fn checklist_80_controllers_that_cannot_be_are_refused() {
        for (name, change) in [
            ("another id", (78, &[2][..])),
            ("no keep alive", (320, &[0])),
            ("no SGLs", (536, &[0])),
            ("zero IOCCSZ", (1792, &[0, 0])),
            ("IOCCSZ 3", (1792, &[3, 0])),
            ("zero IORCSZ", (1796, &[0])),
            ("an offset", (1800, &[1])),
        ] {
            assert!(matches!(controller(&[change]), Err(Refusal::Broken(_))), "{name}");
        }
        assert_eq!(controller(&[(111, &[2])]), Err(Refusal::NoNamespaces), "for discovery");
        assert!(controller(&[(111, &[1])]).is_ok());
        assert!(Controller::parse(&[0; 4095], PROPERTIES).is_err());
        let discovery = Properties { discovery: true, keep_alive: false, ..PROPERTIES };
        let found = |kind| {
            let bytes = page(&[(78, &[1]), (111, &[kind]), (536, &[1])]);
            Controller::parse(&bytes, discovery).map(|found| found.capsule_max)
        };
        assert_eq!([found(0), found(1), found(2)], [Ok(0), Err(Refusal::NotDiscovery), Ok(0)]);
    }

    fn namespace(changes: &[(usize, &[u8])]) -> Result<Namespace, Refusal> {
        let good: [(usize, &[u8]); 4] = [(0, &[0, 1]), (33, &[0x09]), (104, &[7]), (130, &[12])];
        Namespace::parse(&page(&[&good[..], changes].concat()), 3, 1 << 20)
    }

    #[test]
    fn section_12_2_fields_become_a_geometry() {
        let found = namespace(&[]).unwrap();
        assert_eq!((found.number, found.size, found.block, found.read_only), (3, 1 << 20, 4096, false));
        assert_eq!(
            (found.zeroes_deallocate, found.deallocated_zero, found.transfer_max),
            (true, true, 1 << 20)
        );
        assert_eq!(found.nguid.map(|n| n[0]), Some(7));
        assert_eq!(namespace(&[(16, &[3])]).unwrap().used, 3 * 4096);
        assert_eq!(namespace(&[(16, &[0xff; 8])]).unwrap().used, 1 << 20, "not more than there is");
        let second = namespace(&[(25, &[1, 1]), (134, &[9]), (99, &[1]), (104, &[0])]).unwrap();
        assert_eq!((second.block, second.read_only, second.nguid), (512, true, None));
        let bytes = page(&[(0, &[1]), (130, &[12])]);
        assert_eq!(Namespace::parse(&bytes, 1, 10_000).unwrap().transfer_max, 8192);
        assert!(Namespace::parse(&bytes, 1, 4095).is_err());
    }

    #[test]
    fn checklist_80_namespaces_that_cannot_be_are_refused() {
        assert_eq!(namespace(&[(0, &[0, 0])]), Err(Refusal::NoNamespace(3)));
        for (name, change) in [
            ("size 2^64 - 1", (0, &[0xff; 8][..])),
            ("size 2^52", (6, &[0x10])),
            ("format 1 of 1", (26, &[1])),
            ("format 63", (26, &[0x6f])),
            ("metadata", (128, &[8])),
            ("blocks of 256 bytes", (130, &[8])),
            ("blocks of 2^255 bytes", (130, &[255])),
        ] {
            assert!(matches!(namespace(&[change]), Err(Refusal::Broken(_))), "{name}");
        }
    }

    #[test]
    fn checklist_80_lists_must_ascend() {
        assert_eq!(namespaces(&page(&[(0, &[1, 0, 0, 0, 7])]), 0), Ok(vec![1, 7]));
        assert_eq!(namespaces(&page(&[]), 0), Ok(vec![]));
        assert_eq!(namespaces(&page(&[(4, &[7])]), 0), Ok(vec![]), "zero ends it");
        for (bytes, last) in [([2, 0, 0, 0, 1], 0), ([2, 0, 0, 0, 2], 0), ([2, 0, 0, 0, 3], 2)] {
            assert!(namespaces(&page(&[(0, &bytes)]), last).is_err());
        }
        let full: Vec<u8> = (1..=1024u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(namespaces(&full, 0).map(|list| list.len()), Ok(1024));
    }

    #[test]
    fn section_12_3_descriptors_are_walked_strictly() {
        let id: &[u8] = &[9; 16];
        let descriptors = [&[2, 16, 0, 0][..], id, &[77, 3, 0, 0, 1, 2, 3], &[3, 16, 0, 0], id].concat();
        assert_eq!(uuid_of(&page(&[(0, &descriptors)])), Ok(Some(Uuid::from_bytes([9; 16]))));
        assert_eq!(uuid_of(&page(&[])), Ok(None));
        for bad in [&[3, 15, 0, 0][..], &[3, 17], &[1, 0], &[99, 0], &[4, 2]] {
            assert!(uuid_of(&page(&[(0, bad)])).is_err(), "{bad:?}");
        }
        let endless: Vec<u8> = [99, 251].into_iter().chain([0; 253]).collect::<Vec<u8>>().repeat(17);
        assert!(uuid_of(&endless[..4096]).is_err(), "the last one does not fit");
    }
}
