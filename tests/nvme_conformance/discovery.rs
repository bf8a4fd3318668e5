//! Items 48 to 51: the discovery service.

use crate::host::{Command, Connect, DISCOVERY, Data, Host, u16_at, u32_at, u64_at};
use crate::server::{Rig, tank};
use drystone::base::units::ByteLen;
use drystone::volume::memory::MemoryVolume;
use std::time::Duration;

fn asker(rig: &Rig) -> Host {
    Host::enabled(rig.server.address, &Connect::to(DISCOVERY), 0)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end_matches([' ', '\0'])
}

/// The whole log: its header, and what it lists.
fn whole(host: &mut Host) -> Vec<u8> {
    let header = host.log(0x70, 0, 1024, true).bytes();
    let records = u32::try_from(u64_at(&header, 8)).unwrap();
    let page = host.log(0x70, 0, 1024 * (records + 1), true).bytes();
    assert!(page[..1024] == header);
    page
}

#[test]
fn c48_the_log_is_read_in_pieces_of_any_length_from_any_offset() {
    let rig = tank();
    let mut host = asker(&rig);
    let page = whole(&mut host);
    for chunk in [4, 16, 20, 64, 512, 1020, 1024, 1028, 4096, 8192] {
        let mut joined = Vec::new();
        while joined.len() < page.len() {
            joined.extend(host.log(0x70, joined.len() as u64, chunk, true).bytes());
        }
        assert!(joined[..page.len()] == page, "in pieces of {chunk}");
        assert!(joined[page.len()..].iter().all(|byte| *byte == 0), "zeroes behind the end");
    }
    assert_eq!(host.log(0x70, page.len() as u64, 4096, true).bytes(), vec![0; 4096]);
    assert_eq!(host.log(0x70, page.len() as u64 + 4, 4, true).status, 0x002);
    assert_eq!(host.log(0x70, 2, 4, true).status, 0x002);
}

#[test]
fn c48_the_generation_is_another_one_after_every_change() {
    let rig = tank();
    let mut host = asker(&rig);
    let generation = |host: &mut Host| u64_at(&host.log(0x70, 0, 20, true).bytes(), 0);
    let first = generation(&mut host);
    assert!(first > 0);
    assert_eq!(generation(&mut host), first);
    rig.export("more", MemoryVolume::new(ByteLen(1 << 20)));
    assert!(generation(&mut host) > first);
}

#[test]
fn c49_a_record_is_what_the_host_needs_to_connect() {
    let rig = tank();
    let mut host = asker(&rig);
    let page = whole(&mut host);
    assert_eq!(u16_at(&page, 16), 0, "RECFMT");
    let records: Vec<&[u8]> = page[1024..].chunks(1024).collect();
    assert_eq!(records.len(), 2, "the discovery service and the pool");
    for record in &records {
        assert_eq!(record[..2], [3, 1], "TCP, IPv4");
        assert_eq!(record[3], 4, "TREQ: no flow control needed, nothing about a secure channel");
        assert_eq!((u16_at(record, 6), u16_at(record, 8)), (0xffff, 32), "CNTLID, ASQSZ");
        assert_eq!(text(&record[32..64]), rig.server.address.port().to_string());
        assert_eq!(text(&record[512..768]), rig.server.address.ip().to_string());
        assert_eq!(record[768], 0, "no TLS");
    }
    assert_eq!((records[0][2], u16_at(records[0], 10)), (3, 3), "persistent, and known already");
    assert_eq!(text(&records[0][256..512]), DISCOVERY);
    assert_eq!((records[1][2], u16_at(records[1], 10)), (2, 0));
    let found = Connect::to(text(&records[1][256..512]));
    Host::enabled(rig.server.address, &found, 0).identify(0, rig.tank).bytes();
}

#[test]
fn c49_a_log_without_subsystems_is_a_log() {
    let rig = tank();
    rig.catalog.remove("tank");
    let page = whole(&mut asker(&rig));
    assert_eq!(u64_at(&page, 8), 1, "the discovery service itself");
}

#[test]
fn c50_a_change_is_told_until_the_log_was_read() {
    let rig = tank();
    let mut host = asker(&rig);
    host.set_feature(0x0b, 1 << 31).ok();
    host.listen();
    assert!(host.admin.is_silent(Duration::from_millis(100)));
    rig.export("more", MemoryVolume::new(ByteLen(1 << 20)));
    let told = host.admin.completion();
    assert_eq!((told.status, told.result), (0, 0x0070_f002));
    host.listen();
    rig.catalog.remove("more");
    assert!(host.admin.is_silent(Duration::from_millis(100)));
    host.log(0x70, 0, 1024, true).bytes();
    assert!(host.admin.is_silent(Duration::from_millis(100)));
    host.log(0x70, 0, 1024, false).bytes();
    let told = match host.admin.early.pop() {
        Some(early) => early,
        None => host.admin.completion(),
    };
    assert_eq!(told.result, 0x0070_f002);
}

#[test]
fn c51_a_discovery_controller_is_asked_and_nothing_else() {
    let rig = tank();
    let mut host = asker(&rig);
    let page = host.identify(1, 0).bytes();
    assert_eq!((page[111], page[76], page[261] & 6), (2, 0, 4), "CNTRLTYPE, CMIC, LPA");
    assert_eq!((u16_at(&page, 78), u32_at(&page, 92)), (host.controller, 1 << 31));
    assert_eq!(text(&page[768..1024]), DISCOVERY);
    for structure in (0..=0xff).filter(|structure| *structure != 1) {
        let answer = host.identify(structure, rig.tank);
        assert_eq!((answer.status, answer.no_retry), (0x002, true), "CNS {structure:x}");
    }
    for log in 0..=0xff_u8 {
        let wanted = if [0, 0x70].contains(&log) { 0 } else { 0x109 };
        assert_eq!(host.log(log, 0, 4, true).status, wanted, "{log:x}");
    }
    for feature in 0..=0xff_u8 {
        let wanted = if [0x0b, 0x0f].contains(&feature) { 0 } else { 0x002 };
        assert_eq!(host.feature(feature, 0).status, wanted, "{feature:x}");
    }
    let identity = Command::new(0x0a, 0).dword(10, 0x81).dword(11, 1);
    assert_eq!(host.admin.ask(&identity, Data::Back(16)).bytes(), [7; 16]);
    let connect = Connect { size: 31, ..host.connect_of(1) };
    let refused = connect.attempt(rig.server.address).err().unwrap();
    assert_eq!((refused.status, refused.result), (0x182, 42));
    for opcode in (0..=0xff_u8).filter(|opcode| ![0x7f, 0x0c].contains(opcode)) {
        let is_known = [0x02, 0x06, 0x09, 0x0a, 0x18].contains(&opcode);
        let answer = host.admin.ask(&Command::new(opcode, 0), Data::None);
        assert_eq!(answer.status == 0x001, !is_known, "{opcode:x}");
    }
    host.admin.expect_alive(true);
}
