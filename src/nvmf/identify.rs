//! The data structures that Identify answers, 4096 bytes each (Base and NVM Command Set specifications, Identify).

use super::fabrics::{QUEUE_MAX, VERSION};
use super::reservation::RESCAP;
use super::subsystem::{NAMESPACE_MAX, NAMESPACES_MAX, Namespaces};
use crate::block::Geometry;
use crate::volume::Identity;
use uuid::Uuid;

/// Bytes of every structure.
pub const LEN: usize = 4096;

/// The largest transfer of one command, bytes, and the power of two of pages of 4 KiB that says so (MDTS).
pub const TRANSFER_MAX: u32 = 1 << 20;
const TRANSFER_LOG2: u8 = 8;

/// Bytes of data behind a command on an I/O queue: all that a command can bring. Data that has to be asked for costs a message
/// each way and comes a round trip later.
pub const CAPSULE_DATA_MAX: u32 = TRANSFER_MAX;

/// The one ANA group that all namespaces are in.
pub const ANA_GROUP: u32 = 1;

/// Seconds that a change of an ANA state may take.
const ANA_SECONDS: u8 = 10;

/// Asynchronous events that hosts may ask for (OAES and the feature).
pub mod events {
    pub const NAMESPACES: u32 = 1 << 8;
    pub const ANA: u32 = 1 << 11;
    pub const DISCOVERY: u32 = 1 << 31;
    /// What an I/O controller tells.
    pub const IO: u32 = NAMESPACES | ANA;
    /// Critical warnings, which OAES does not speak of.
    pub const HEALTH: u32 = 0xff;
}

/// What a controller says about itself.
#[derive(Clone, Copy, Debug)]
pub struct ControllerView<'a> {
    pub id: u16,
    /// The name of its subsystem.
    pub subsystem: &'a str,
    /// None: a discovery controller.
    pub pool: Option<Uuid>,
}

/// A namespace at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamespaceView {
    pub identity: Identity,
    pub geometry: Geometry,
    /// Bytes of a logical block: 512 or 4096.
    pub lba: u32,
    /// Bytes that take space.
    pub used: u64,
    pub read_only: bool,
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Text in a field that is filled up with blanks.
fn put_text(page: &mut [u8], at: usize, len: usize, text: &str) {
    page[at..at + len].fill(b' ');
    let bytes = text.as_bytes();
    put(page, at, &bytes[..bytes.len().min(len)]);
}

/// Identify Controller (CNS 01h).
pub fn controller(view: &ControllerView<'_>) -> Vec<u8> {
    let mut page = vec![0; LEN];
    let serial = view.pool.map_or_else(|| "discovery".to_owned(), |pool| pool.simple().to_string());
    put_text(&mut page, 4, 20, &serial);
    put_text(&mut page, 24, 40, "drystone");
    put_text(&mut page, 64, 8, env!("CARGO_PKG_VERSION"));
    page[77] = TRANSFER_LOG2;
    put(&mut page, 78, &view.id.to_le_bytes());
    put(&mut page, 80, &VERSION.to_le_bytes()[..4]);
    put(&mut page, 96, &(1_u32 | 1 << 6).to_le_bytes()); // 128-bit host identifiers, any traffic keeps alive
    page[258] = 3; // aborts
    page[259] = EVENTS_HELD_MAX - 1;
    page[260] = 3; // one firmware slot, read-only
    put(&mut page, 320, &10_u16.to_le_bytes()); // keep alive in steps of a second
    page[512] = 0x66;
    page[513] = 0x44;
    put(&mut page, 514, &QUEUE_MAX.to_le_bytes());
    put(&mut page, 536, &0x0010_0001_u32.to_le_bytes()); // SGLs of any alignment, offsets in the capsule
    put(&mut page, 768, view.subsystem.as_bytes());
    put(&mut page, 1792, &((64 + CAPSULE_DATA_MAX) / 16).to_le_bytes());
    put(&mut page, 1796, &1_u32.to_le_bytes());
    page[1803] = 1;
    match view.pool {
        None => discovery_part(&mut page),
        Some(_) => io_part(&mut page),
    }
    page
}

/// Asynchronous events that a host may have outstanding.
pub const EVENTS_HELD_MAX: u8 = 4;

fn discovery_part(page: &mut [u8]) {
    put(page, 92, &events::DISCOVERY.to_le_bytes());
    page[111] = 2;
    page[261] = 1 << 2; // logs are read from any offset
}

fn io_part(page: &mut [u8]) {
    page[76] = 1 << 1 | 1 << 3; // several controllers, ANA
    put(page, 92, &events::IO.to_le_bytes());
    page[111] = 1;
    page[261] = 1 << 1 | 1 << 2; // effects, logs from any offset
    page[342] = ANA_SECONDS;
    page[343] = 0x1f | 1 << 6; // all states, group numbers stay
    put(page, 344, &ANA_GROUP.to_le_bytes());
    put(page, 348, &ANA_GROUP.to_le_bytes());
    put(page, 516, &NAMESPACE_MAX.to_le_bytes());
    // Compare, Dataset Management, Write Zeroes, reservations, timestamp, Verify.
    put(page, 520, &(1_u16 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7).to_le_bytes());
    page[525] = 1 | 3 << 1; // a volatile cache; a flush may be for all namespaces
    put(page, 540, &NAMESPACES_MAX.to_le_bytes());
    put(page, 2048, &0x09c4_u16.to_le_bytes()); // one power state, 25 W
}

/// Identify Namespace (CNS 00h).
pub fn namespace(view: &NamespaceView) -> Vec<u8> {
    let mut page = vec![0; LEN];
    let lba = u64::from(view.lba);
    let blocks = view.geometry.size.0 / lba;
    let zero_based =
        |bytes: u32| u16::try_from((bytes / view.lba).max(1) - 1).unwrap_or(u16::MAX).to_le_bytes();
    put(&mut page, 0, &blocks.to_le_bytes());
    put(&mut page, 8, &blocks.to_le_bytes());
    put(&mut page, 16, &(view.used / lba).min(blocks).to_le_bytes());
    page[24] = 1 | 1 << 3 | 1 << 4; // thin, identifiers used once, write granularity given
    page[30] = 1; // shared by controllers
    page[31] = RESCAP;
    page[33] = 1 | 1 << 3; // what was deallocated reads as zeroes, also by Write Zeroes
    put(&mut page, 64, &zero_based(view.geometry.block));
    put(&mut page, 66, &zero_based(view.geometry.block));
    put(&mut page, 68, &zero_based(view.geometry.block));
    put(&mut page, 70, &zero_based(view.geometry.block));
    put(&mut page, 72, &zero_based(view.geometry.preferred));
    put(&mut page, 92, &ANA_GROUP.to_le_bytes());
    page[99] = u8::from(view.read_only);
    put(&mut page, 104, view.identity.volume.as_bytes());
    page[128 + 2] = u8::try_from(view.lba.ilog2()).expect("below 32");
    page
}

/// Namespace identification descriptors (CNS 03h): NGUID, UUID and command set.
pub fn descriptors(view: &NamespaceView) -> Vec<u8> {
    let mut page = Vec::with_capacity(LEN);
    let uuid = view.identity.volume.as_bytes();
    for (kind, id) in [(2, &uuid[..]), (3, &uuid[..]), (4, &[0])] {
        page.extend_from_slice(&[kind, u8::try_from(id.len()).expect("16 at most"), 0, 0]);
        page.extend_from_slice(id);
    }
    page.resize(LEN, 0);
    page
}

/// The numbers of active namespaces behind one, in order (CNS 02h).
pub fn active(namespaces: &Namespaces, behind: u32) -> Vec<u8> {
    let numbers = namespaces.range(behind.saturating_add(1)..).map(|(number, _)| *number);
    let mut page: Vec<u8> = numbers.take(LEN / 4).flat_map(u32::to_le_bytes).collect();
    page.resize(LEN, 0);
    page
}

/// Limits of the NVM command set (CNS 06h): Write Zeroes and deallocation have none but the range count.
pub fn nvm_controller() -> Vec<u8> {
    let mut page = vec![0; LEN];
    page[0] = TRANSFER_LOG2; // Verify reads in pieces
    page
}

/// What does not depend on the command set (CNS 08h).
pub fn independent_namespace(view: &NamespaceView) -> Vec<u8> {
    let mut page = vec![0; LEN];
    page[0] = u8::from(view.geometry.rotational) << 4;
    page[1] = 1;
    page[2] = RESCAP;
    put(&mut page, 4, &ANA_GROUP.to_le_bytes());
    page[8] = u8::from(view.read_only);
    page[14] = 1; // ready
    page
}

/// A list of controllers from a number on (CNS 12h, 13h).
pub fn controllers(ids: impl Iterator<Item = u16>, from: u16) -> Vec<u8> {
    let found: Vec<u16> = ids.filter(|id| *id >= from).take(LEN / 2 - 1).collect();
    let count = u16::try_from(found.len()).expect("below 2048");
    let mut page: Vec<u8> = std::iter::once(count).chain(found).flat_map(u16::to_le_bytes).collect();
    page.resize(LEN, 0);
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::ByteLen;
    use crate::nvmf::subsystem::nqn_of;

    fn u(page: &[u8], at: usize, len: usize) -> u64 {
        page[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn view(lba: u32) -> NamespaceView {
        NamespaceView {
            identity: Identity {
                pool: Uuid::from_u128(1),
                volume: Uuid::from_u128(0x0102 << 112),
                number: 3,
            },
            geometry: Geometry { size: ByteLen(1 << 30), block: 4096, preferred: 1 << 16, rotational: false },
            lba,
            used: 8192,
            read_only: false,
        }
    }

    #[test]
    fn a_controller_says_what_linux_insists_on() {
        let pool = Uuid::from_u128(0xabcd);
        let subsystem = nqn_of(pool);
        let page = controller(&ControllerView { id: 7, subsystem: &subsystem, pool: Some(pool) });
        assert_eq!(page.len(), LEN);
        assert_eq!((u(&page, 78, 2), u(&page, 80, 4)), (7, 0x0001_0400));
        assert!(page[76] & 0b1010 == 0b1010, "several controllers, ANA");
        assert!(1 << (12 + page[77]) == u64::from(TRANSFER_MAX));
        assert!(u(&page, 320, 2) > 0 && u(&page, 536, 4) & 3 == 1);
        assert!(u(&page, 1792, 4) >= 4 && u(&page, 1796, 4) == 1 && u(&page, 1800, 2) == 0);
        let (numbers, at_once) = (u(&page, 516, 4), u(&page, 540, 4));
        assert!(0 < at_once && at_once <= numbers);
        assert!(16 + 32 * u(&page, 348, 4) + 4 * at_once <= u64::from(TRANSFER_MAX), "the ANA log");
        assert!(page[768..].starts_with(subsystem.as_bytes()) && page[768 + subsystem.len()] == 0);
        assert_eq!(&page[4..24], b"00000000000000000000", "the first digits of the pool's uuid");
        assert!(page[24..64].starts_with(b"drystone  "));
    }

    #[test]
    fn a_discovery_controller_has_no_namespaces() {
        let page = controller(&ControllerView { id: 9, subsystem: "nqn.d", pool: None });
        assert_eq!((page[111], page[76], u(&page, 516, 4), u(&page, 540, 4)), (2, 0, 0, 0));
        assert_eq!(u(&page, 92, 4), 1 << 31);
    }

    #[test]
    fn a_namespace_counts_in_its_blocks() {
        let page = namespace(&view(512));
        assert_eq!((u(&page, 0, 8), u(&page, 8, 8), u(&page, 16, 8)), (1 << 21, 1 << 21, 16));
        assert_eq!((page[130], page[25], page[26]), (9, 0, 0));
        assert_eq!((u(&page, 64, 2), u(&page, 72, 2)), (7, 127));
        assert_eq!(&page[104..106], &[1, 2]);
        let page = namespace(&view(4096));
        assert_eq!((u(&page, 0, 8), page[130], u(&page, 64, 2), u(&page, 72, 2)), (1 << 18, 12, 0, 15));
    }

    #[test]
    fn descriptors_have_exact_lengths() {
        let page = descriptors(&view(512));
        assert_eq!(page[..6], [2, 16, 0, 0, 1, 2]);
        assert_eq!(page[20..26], [3, 16, 0, 0, 1, 2]);
        assert_eq!(page[40..46], [4, 1, 0, 0, 0, 0]);
        assert_eq!(page.len(), LEN);
    }

    #[test]
    fn lists_begin_behind_the_number_that_is_given() {
        use crate::volume::{Volume, memory::MemoryVolume};
        let volume = std::sync::Arc::new(Volume::in_memory("a", MemoryVolume::new(ByteLen(4096))));
        let namespaces: Namespaces = (1..=1030).map(|number| (number, volume.clone())).collect();
        let page = active(&namespaces, 0);
        assert_eq!((u(&page, 0, 4), u(&page, 4092, 4)), (1, 1024));
        let page = active(&namespaces, 1024);
        assert_eq!((u(&page, 0, 4), u(&page, 20, 4), u(&page, 24, 4)), (1025, 1030, 0));
        assert_eq!(u(&active(&namespaces, u32::MAX), 0, 4), 0);
        let page = controllers([3, 5, 9].into_iter(), 4);
        assert_eq!(page[..6], [2, 0, 5, 0, 9, 0]);
    }
}
