//! Log pages, as bytes (Base specification, Get Log Page; Fabrics, Discovery Log Page).

use super::identify::ANA_GROUP;
use super::subsystem::{DISCOVERY_NQN, Namespaces};
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

/// The pages that there are.
pub mod id {
    pub const SUPPORTED: u8 = 0x00;
    pub const ERRORS: u8 = 0x01;
    pub const SMART: u8 = 0x02;
    pub const FIRMWARE: u8 = 0x03;
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    pub const EFFECTS: u8 = 0x05;
    pub const ANA: u8 = 0x0c;
    pub const DISCOVERY: u8 = 0x70;
    pub const RESERVATION: u8 = 0x80;
}

/// Namespaces that a list of changed ones has room for.
const CHANGED_MAX: usize = 1024;

/// Bytes of a discovery record, and of the header before them.
const RECORD_LEN: usize = 1024;

/// What a host has read and written since the daemon started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    pub reads: u64,
    pub writes: u64,
    /// Bytes.
    pub read: u64,
    pub written: u64,
}

impl Traffic {
    pub fn with(self, other: &Traffic) -> Traffic {
        Traffic {
            reads: self.reads + other.reads,
            writes: self.writes + other.writes,
            read: self.read + other.read,
            written: self.written + other.written,
        }
    }
}

/// A part of a page, from an offset on; zeroes behind its end.
pub fn part(page: &[u8], offset: u64, len: usize) -> Vec<u8> {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(page.len());
    let mut part: Vec<u8> = page[from..].iter().copied().take(len).collect();
    part.resize(len, 0);
    part
}

/// Supported log pages (00h): bit 0 of each page's dword.
pub fn supported(pages: &[u8]) -> Vec<u8> {
    let mut page = vec![0; 1024];
    pages.iter().for_each(|id| page[4 * usize::from(*id)] = 1);
    page
}

/// Error information (01h): one entry, never used; errors go with the answer they belong to.
pub fn errors() -> Vec<u8> {
    vec![0; 64]
}

/// SMART and health (02h).
pub fn smart(traffic: &Traffic) -> Vec<u8> {
    let mut page = vec![0; 512];
    (page[3], page[4]) = (100, 10); // spare space and its threshold, per cent: the pool has its own words for that
    let units = |bytes: u64| bytes.div_ceil(512_000).to_le_bytes();
    page[32..40].copy_from_slice(&units(traffic.read));
    page[48..56].copy_from_slice(&units(traffic.written));
    page[64..72].copy_from_slice(&traffic.reads.to_le_bytes());
    page[80..88].copy_from_slice(&traffic.writes.to_le_bytes());
    page
}

/// Firmware slots (03h): one.
pub fn firmware() -> Vec<u8> {
    let mut page = vec![0; 512];
    page[0] = 1;
    page[8..16].fill(b' ');
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let len = version.len().min(8);
    page[8..8 + len].copy_from_slice(&version[..len]);
    page
}

/// Changed namespaces (04h).
pub fn changed_namespaces(changed: &BTreeSet<u32>) -> Vec<u8> {
    let too_many = changed.len() > CHANGED_MAX;
    let mut page: Vec<u8> = match too_many {
        true => u32::MAX.to_le_bytes().to_vec(),
        false => changed.iter().flat_map(|number| number.to_le_bytes()).collect(),
    };
    page.resize(4 * CHANGED_MAX, 0);
    page
}

/// Commands supported and effects (05h). Bit 0: supported, bit 1: changes what is stored.
pub fn effects(admin: &[u8], io: &[(u8, bool)]) -> Vec<u8> {
    let mut page = vec![0; 4096];
    admin.iter().for_each(|opcode| page[4 * usize::from(*opcode)] = 1);
    for (opcode, changes) in io {
        page[1024 + 4 * usize::from(*opcode)] = 1 | u8::from(*changes) << 1;
    }
    page
}

/// Asymmetric namespace access (0Ch): one group, optimized on every path.
pub fn ana(namespaces: &Namespaces, change: u64, groups_only: bool) -> Vec<u8> {
    const OPTIMIZED: u8 = 1;
    let listed = if groups_only { 0 } else { namespaces.len() };
    let mut page = Vec::with_capacity(48 + 4 * listed);
    page.extend_from_slice(&change.to_le_bytes());
    page.extend_from_slice(&1_u16.to_le_bytes());
    page.extend_from_slice(&[0; 6]);
    page.extend_from_slice(&ANA_GROUP.to_le_bytes());
    page.extend_from_slice(&u32::try_from(listed).expect("4096 at most").to_le_bytes());
    page.extend_from_slice(&change.to_le_bytes());
    page.push(OPTIMIZED);
    page.extend_from_slice(&[0; 15]);
    page.extend(namespaces.keys().take(listed).flat_map(|number| number.to_le_bytes()));
    page
}

/// Reservation notification (80h): the oldest that was not read, of namespace and type; `before` were read. All zeroes
/// if there is none.
pub fn reservation(before: u64, notices: &VecDeque<(u32, u8)>) -> Vec<u8> {
    let mut page = vec![0; 64];
    if let Some((namespace, kind)) = notices.front() {
        page[..8].copy_from_slice(&(before + 1).to_le_bytes());
        page[8] = *kind;
        page[9] = u8::try_from(notices.len() - 1).unwrap_or(u8::MAX);
        page[12..16].copy_from_slice(&namespace.to_le_bytes());
    }
    page
}

/// Where a subsystem can be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub kind: RecordKind,
    pub address: SocketAddr,
    /// Counts listeners.
    pub port: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// Another address that answers the same questions.
    Referral,
    /// A subsystem with namespaces.
    Subsystem(String),
    /// The discovery subsystem that answers.
    ThisDiscovery,
}

/// The discovery log (70h). `generation` differs whenever the records do.
pub fn discovery(generation: u64, records: &[Record]) -> Vec<u8> {
    let mut page = vec![0; RECORD_LEN];
    page[..8].copy_from_slice(&generation.to_le_bytes());
    page[8..16].copy_from_slice(&(records.len() as u64).to_le_bytes()); // widening
    for record in records {
        page.extend_from_slice(&emit_record(record));
    }
    page
}

fn emit_record(record: &Record) -> [u8; RECORD_LEN] {
    let mut bytes = [0; RECORD_LEN];
    bytes[0] = 3; // TCP
    bytes[1] = if record.address.is_ipv4() { 1 } else { 2 };
    // Duplicate information: all records of a referral are here already. An explicit persistent connection is useful.
    let (subtype, nqn, flags): (u8, &str, u16) = match &record.kind {
        RecordKind::Referral => (1, DISCOVERY_NQN, 1),
        RecordKind::Subsystem(nqn) => (2, nqn, 0),
        RecordKind::ThisDiscovery => (3, DISCOVERY_NQN, 3),
    };
    bytes[2] = subtype;
    // Hosts may do without SQ flow control. Of a secure channel nothing is said: "not required" makes nvme-cli's
    // connect-all ask the kernel for TLS.
    bytes[3] = 1 << 2;
    bytes[4..6].copy_from_slice(&record.port.to_le_bytes());
    bytes[6..8].copy_from_slice(&0xffff_u16.to_le_bytes());
    bytes[8..10].copy_from_slice(&32_u16.to_le_bytes());
    bytes[10..12].copy_from_slice(&flags.to_le_bytes());
    let mut text = |at: usize, len: usize, text: &str| {
        bytes[at..at + len].fill(b' ');
        bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    text(32, 32, &record.address.port().to_string());
    text(512, 256, &record.address.ip().to_string());
    bytes[256..256 + nqn.len()].copy_from_slice(nqn.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_in_zeroes() {
        let page = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(part(&page, 4, 8), [5, 6, 7, 8, 0, 0, 0, 0]);
        assert_eq!(part(&page, 8, 4), [0; 4]);
        assert_eq!(part(&page, 1 << 63, 4), [0; 4]);
    }

    #[test]
    fn too_many_changed_namespaces_are_all_of_them() {
        let few = changed_namespaces(&[2, 7].into());
        assert_eq!((few[..9].to_vec(), few.len()), (vec![2, 0, 0, 0, 7, 0, 0, 0, 0], 4096));
        let many = changed_namespaces(&(1..=1025).collect());
        assert_eq!((many[..5].to_vec(), many.len()), (vec![255, 255, 255, 255, 0], 4096));
    }

    #[test]
    fn the_oldest_notice_comes_first() {
        assert_eq!(reservation(7, &VecDeque::new()), [0; 64]);
        let page = reservation(7, &[(3, 2), (4, 1)].into());
        assert_eq!(page[..16], [8, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn records_say_where_and_what() {
        let kind = RecordKind::Subsystem("nqn.x".to_owned());
        let record = Record { kind, address: "10.0.0.2:4420".parse().unwrap(), port: 5 };
        let page = discovery(9, &[record]);
        assert_eq!(page.len(), 2048);
        assert_eq!((page[0], page[8], page[16]), (9, 1, 0));
        let bytes = &page[1024..];
        assert_eq!(bytes[..12], [3, 1, 2, 4, 5, 0, 255, 255, 32, 0, 0, 0]);
        assert!(bytes[32..64].starts_with(b"4420  ") && bytes[512..].starts_with(b"10.0.0.2  "));
        assert!(bytes[256..].starts_with(b"nqn.x\0"));
    }

    #[test]
    fn the_ana_log_lists_every_namespace() {
        let namespaces = Namespaces::new();
        let page = ana(&namespaces, 4, false);
        assert_eq!((page.len(), page[0], page[8], page[16], page[32]), (48, 4, 1, 1, 1));
    }
}
