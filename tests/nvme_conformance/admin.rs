//! Items 37 to 40, 42, 46 and 62: what a controller says about itself, and every command that it could be asked.

use crate::host::{
    Answer, Command, Connect, DISCOVERY, Data, EVERY_NAMESPACE, Host, LAST, log_command, read, u16_at,
    u32_at, u64_at,
};
use crate::server::{SIZE, tank, wait_until};
use drystone::base::units::ByteLen;
use drystone::volume::memory::MemoryVolume;
use std::collections::BTreeSet;

/// The largest number of a namespace (NN).
const NAMESPACE_MAX: u32 = (1 << 20) - 1;

fn refusal(answer: &Answer) -> u16 {
    assert!(answer.status == 0 || answer.no_retry, "{answer:?}");
    answer.status
}

/// What Identify is to answer for a structure of a namespace.
fn identify_status(structure: u8, namespace: u32, tank: u32) -> u16 {
    let can_be = (1..=NAMESPACE_MAX).contains(&namespace);
    let invalid = |is_valid: bool| if is_valid { 0 } else { 0x00b };
    match structure {
        0x01 | 0x06 | 0x13 => 0,
        0x00 | 0x05 | 0x08 | 0x11 => invalid(can_be),
        0x02 | 0x07 | 0x10 => invalid(namespace < 0xffff_fffe),
        0x03 | 0x12 => invalid(namespace == tank),
        _ => 0x002,
    }
}

#[test]
fn c37_every_structure_of_every_namespace_is_answered() {
    let rig = tank();
    let mut host = rig.host();
    let inactive = rig.tank + 1;
    let numbers = [0, rig.tank, inactive, NAMESPACE_MAX, NAMESPACE_MAX + 1, 0xffff_fffe, EVERY_NAMESPACE];
    for structure in 0..=0xff {
        for namespace in numbers {
            let answer = host.identify(structure, namespace);
            let wanted = identify_status(structure, namespace, rig.tank);
            assert_eq!(refusal(&answer), wanted, "CNS {structure:x} of {namespace:x}");
            assert_eq!(answer.data.len(), if wanted == 0 { 4096 } else { 0 });
        }
    }
    for structure in [0x00, 0x05, 0x08, 0x11] {
        assert_eq!(host.identify(structure, inactive).bytes(), vec![0; 4096], "{structure:x}");
    }
    for set in 1..=0xff_u32 {
        for structure in [5, 6, 7] {
            let command = Command::new(6, rig.tank).dword(10, structure).dword(11, set << 24);
            assert_eq!(host.admin.ask(&command, Data::Back(4096)).status, 0x002, "CSI {set}");
        }
    }
    for len in [0, 4, 4092, 4100, 1 << 20] {
        let command = Command::new(6, 0).dword(10, 1);
        assert_eq!(host.admin.ask(&command, Data::Back(len)).status, 0x00f, "{len} bytes");
    }
}

#[test]
fn c38_the_controller_says_what_hosts_insist_on() {
    let rig = tank();
    let mut host = rig.host();
    let page = host.identify(1, 0).bytes();
    assert!(page[4..24].iter().all(u8::is_ascii_graphic), "a serial number");
    assert!(page[24..64].starts_with(b"drystone ") && page[64..72].is_ascii());
    assert_eq!(page[76], 0b1010, "CMIC: several controllers, ANA");
    assert_eq!((page[77], u16_at(&page, 78)), (8, host.controller), "MDTS, CNTLID");
    assert_eq!(u64::from(u32_at(&page, 80)), host.property(8, false), "VER is VS");
    assert_eq!(u32_at(&page, 92), 1 << 8 | 1 << 11, "OAES");
    assert_eq!(u32_at(&page, 96) & 0x41, 0x41, "CTRATT: long host identifiers, traffic keeps alive");
    assert_eq!((page[111], page[258], page[259]), (1, 3, 3), "CNTRLTYPE, ACL, AERL");
    assert_eq!(page[261] & 6, 6, "LPA: effects, offsets");
    assert!(u16_at(&page, 320) > 0, "KAS");
    assert!(page[342] > 0 && page[343] & 0x5f == 0x5f, "ANATT, ANACAP");
    assert_eq!((u32_at(&page, 344), u32_at(&page, 348)), (1, 1), "ANAGRPMAX, NANAGRPID");
    assert_eq!((page[512], page[513], u16_at(&page, 514)), (0x66, 0x44, 128));
    let (most, at_once) = (u32_at(&page, 516), u32_at(&page, 540));
    assert_eq!((most, at_once), (NAMESPACE_MAX, 4096), "NN, MNAN");
    assert!(16 + 32 + 4 * at_once <= 1 << 20, "the ANA log is one transfer");
    assert_eq!(u16_at(&page, 520), 0b1110_1101, "ONCS");
    assert_eq!(u16_at(&page, 522), 0, "FUSES");
    assert_eq!(page[525], 0b111, "VWC, and a flush of all namespaces");
    assert_eq!(u32_at(&page, 536) & 3, 1, "SGLS");
    assert_eq!(&page[768..768 + rig.subsystem.len() + 1], format!("{}\0", rig.subsystem).as_bytes());
    assert_eq!((u32_at(&page, 1792), u32_at(&page, 1796)), ((64 + (1 << 20)) / 16, 1), "IOCCSZ, IORCSZ");
    assert_eq!((u16_at(&page, 1800), page[1802] & 1, page[1803]), (0, 0, 1), "ICDOFF, FCATT, MSDBD");
    let mut other = rig.host();
    let second = other.identify(1, 0).bytes();
    assert_ne!(other.controller, host.controller);
    assert!(page[..78] == second[..78] && page[80..] == second[80..], "but for its number the same");
}

#[test]
fn c38_a_namespace_says_its_size_in_its_blocks() {
    let rig = tank();
    let (large, locked) = (rig.export_large_blocks(), rig.export_read_only());
    let mut host = rig.host();
    let mut names = BTreeSet::new();
    for (number, shift, is_locked) in [(rig.tank, 9, 0), (large, 12, 0), (locked, 9, 1)] {
        let page = host.identify(0, number).bytes();
        let blocks = SIZE >> shift;
        assert_eq!([0, 8].map(|at| u64_at(&page, at)), [blocks; 2], "NSZE, NCAP");
        assert!(u64_at(&page, 16) <= blocks, "NUSE");
        assert_eq!((page[24] & 8, page[25], page[26], page[29]), (8, 0, 0, 0), "one format, no protection");
        assert_eq!((page[30], page[31], page[33]), (1, 0xff, 9), "NMIC, RESCAP, DLFEAT");
        let granule = (u32::from(u16_at(&page, 64)) + 1) << shift;
        assert_eq!(granule, 4096, "NPWG");
        assert_eq!((u32_at(&page, 92), page[99]), (1, is_locked), "ANAGRPID, NSATTR");
        assert_eq!((u16_at(&page, 128), page[130]), (0, shift));
        let name = page[104..120].to_vec();
        assert_ne!(name, [0; 16], "NGUID");
        let list = host.identify(3, number).bytes();
        assert_eq!((list[..4].to_vec(), &list[4..20]), (vec![2, 16, 0, 0], &name[..]));
        assert_eq!(list[20..24], [3, 16, 0, 0], "UUID");
        assert_ne!(list[24..40], [0; 16]);
        assert_eq!(list[40..49], [4, 1, 0, 0, 0, 0, 0, 0, 0], "CSI, and the end");
        let independent = host.identify(8, number).bytes();
        assert_eq!((independent[1], independent[2], independent[14]), (1, 0xff, 1));
        assert_eq!((u32_at(&independent, 4), independent[8]), (1, is_locked));
        assert!(names.insert(name), "no two namespaces have one name");
    }
    let mut wanted = [rig.tank, large, locked];
    wanted.sort_unstable();
    let list = host.identify(2, 0).bytes();
    assert_eq!([0, 4, 8, 12].map(|at| u32_at(&list, at)), [wanted[0], wanted[1], wanted[2], 0]);
    let rest = host.identify(2, wanted[0]).bytes();
    assert_eq!([0, 4, 8].map(|at| u32_at(&rest, at)), [wanted[1], wanted[2], 0]);
    let list = host.identify(0x13, 0).bytes();
    assert_eq!((u16_at(&list, 0), u16_at(&list, 2)), (1, host.controller));
}

/// The pages of an I/O controller, with the length of those that have one.
const PAGES: [(u8, usize); 8] =
    [(0, 1024), (1, 64), (2, 512), (3, 512), (4, 4096), (5, 4096), (0x0c, 52), (0x80, 64)];

#[test]
fn c39_every_log_page_is_read_in_any_pieces() {
    let rig = tank();
    let mut host = rig.host();
    for page in 0..=0xff {
        let known = PAGES.iter().find(|(known, _)| *known == page);
        let answer = host.log(page, 0, 4, true);
        assert_eq!(refusal(&answer), if known.is_some() { 0 } else { 0x109 }, "{page:x}");
        let Some((_, len)) = known else { continue };
        let whole = host.log(page, 0, u32::try_from(*len).unwrap(), true).bytes();
        let mut joined = Vec::new();
        while joined.len() < *len {
            joined.extend(host.log(page, joined.len() as u64, 12, true).bytes());
        }
        joined.truncate(*len);
        assert!(joined == whole, "{page:x} in pieces");
        let longer = host.log(page, 0, u32::try_from(*len).unwrap() + 512, true).bytes();
        assert!(longer[..*len] == whole && longer[*len..] == [0; 512], "zeroes behind the end");
        assert_eq!(host.log(page, *len as u64, 64, true).bytes(), [0; 64], "at the end");
        for beyond in [*len as u64 + 4, 1 << 32, 1 << 63, u64::MAX - 3] {
            assert_eq!(refusal(&host.log(page, beyond, 4, true)), 0x002, "{page:x} from {beyond}");
        }
        for unaligned in [1, 2, 3, 5] {
            assert_eq!(refusal(&host.log(page, unaligned, 4, true)), 0x002);
        }
        assert_eq!(host.log(page, 0, 1 << 20, true).bytes().len(), 1 << 20, "MDTS");
    }
    let supported = host.log(0, 0, 1024, true).bytes();
    let listed: Vec<usize> = (0..256).filter(|id| supported[4 * id] & 1 == 1).collect();
    assert_eq!(listed, PAGES.map(|(id, _)| usize::from(id)));
}

#[test]
fn c39_lengths_that_cannot_be_take_no_memory() {
    let rig = tank();
    let mut host = rig.host();
    let before = rig.server.target.budget_free();
    for len in [0, (1 << 20) + 4, u32::MAX - 3] {
        // A length of 0 is what 2^32 dwords come to.
        let answer = host.admin.ask(&log_command(2, 0, len, true), Data::Back(len));
        assert_eq!(refusal(&answer), 0x002, "{len}");
    }
    for len in [0, 508, 516, u32::MAX] {
        let answer = host.admin.ask(&log_command(2, 0, 512, true), Data::Back(len));
        assert_eq!(refusal(&answer), 0x00f, "{len}");
    }
    wait_until("nothing is held", || rig.server.target.budget_free() == before);
}

#[test]
fn c39_the_health_page_counts_what_was_moved_and_the_effects_are_what_is_done() {
    let rig = tank();
    let (mut host, mut queue) = rig.session(0);
    for _ in 0..5 {
        queue.ask(&read(rig.tank, 0, 2048), Data::Back(1 << 20)).bytes();
    }
    queue.ask(&Command::new(1, rig.tank).blocks(0, 1), Data::Here(&[0; 512])).ok();
    let page = host.log(2, 0, 512, false).bytes();
    assert_eq!([32, 48, 64, 80].map(|at| u64_at(&page, at)), [11, 1, 5, 1]);
    let effects = host.log(5, 0, 4096, false).bytes();
    for opcode in 0..=0xff_u8 {
        let admin = u32_at(&effects, 4 * usize::from(opcode)) & 1 == 1;
        let io = u32_at(&effects, 1024 + 4 * usize::from(opcode));
        assert_eq!(admin, ADMIN.contains(&opcode), "{opcode:x}");
        assert_eq!(io & 1 == 1, IO.contains(&opcode), "{opcode:x}");
        assert_eq!(io & 2 == 2, [1, 8, 9].contains(&opcode), "{opcode:x}");
    }
}

/// The features without data, what they are at first, and whether they can be changed.
const FEATURES: [(u8, u32, bool); 12] = [
    (0x01, 0, true),
    (0x02, 0, true),
    (0x04, 0, true),
    (0x05, 0, true),
    (0x06, 1, false),
    (0x07, 127 | 127 << 16, true),
    (0x08, 0, true),
    (0x09, 0, true),
    (0x0a, 0, true),
    (0x0b, 0, true),
    (0x0f, 0, true),
    (0x82, 0, true),
];

#[test]
fn c40_every_feature_is_told_and_set() {
    let rig = tank();
    let mut host = rig.host();
    for id in 0..=0xff {
        let has_data = [0x0e, 0x16, 0x81].contains(&id);
        if has_data {
            continue;
        }
        let known = FEATURES.iter().find(|(known, ..)| *known == id);
        let Some((_, first, is_changeable)) = known else {
            for select in 0..8 {
                assert_eq!(refusal(&host.feature(id, select)), 0x002, "{id:x} SEL {select}");
            }
            assert_eq!(refusal(&host.set_feature(id, 0)), 0x002, "{id:x}");
            continue;
        };
        assert_eq!(host.feature(id, 0).ok(), u64::from(*first), "{id:x}");
        assert_eq!(host.feature(id, 3).ok() >> 2 & 1 == 1, *is_changeable, "{id:x}");
        assert_eq!(host.feature(id, 3).ok() & 1, 0, "nothing is saved");
        for select in 4..8 {
            assert_eq!(refusal(&host.feature(id, select)), 0x002, "SEL {select}");
        }
        let save = Command::new(9, 0).dword(10, u32::from(id) | 1 << 31).dword(11, 1);
        assert_eq!(refusal(&host.admin.ask(&save, Data::None)), 0x10d, "{id:x} SV");
    }
}

#[test]
fn c40_a_feature_that_is_set_is_what_it_is_and_its_default_stays() {
    let rig = tank();
    let mut host = rig.host();
    for id in [0x01, 0x02, 0x04, 0x05, 0x08, 0x09, 0x0a, 0x0b, 0x0f] {
        let value = if id == 0x0b { 1 << 8 | 1 << 11 } else { 0x0001_e240 };
        let default = host.feature(id, 1).ok();
        host.set_feature(id, value).ok();
        assert_eq!(host.feature(id, 0).ok(), u64::from(value), "{id:x}");
        assert_eq!(host.feature(id, 1).ok(), default, "{id:x}: the default");
        assert_eq!(host.feature(id, 2).ok(), default, "{id:x}: nothing was saved");
    }
    assert_eq!(refusal(&host.set_feature(0x06, 0)), 0x002, "the cache cannot be switched off");
    host.set_feature(0x06, 1).ok();
    for wrong in [0xffff, 0xffff << 16, u32::MAX] {
        assert_eq!(refusal(&host.set_feature(0x07, wrong)), 0x002);
    }
    assert_eq!(host.set_feature(0x07, 3 | 7 << 16).ok(), 3 | 3 << 16);
    assert_eq!(host.feature(0x07, 0).ok(), 3 | 3 << 16);
    assert_eq!(host.set_feature(0x07, 0xfffe | 0xfffe << 16).ok(), 127 | 127 << 16);
    let mask = |namespace: u32| Command::new(9, namespace).dword(10, 0x82).dword(11, 0xe);
    host.admin.ask(&mask(rig.tank), Data::None).ok();
    assert_eq!(refusal(&host.admin.ask(&mask(rig.tank + 1), Data::None)), 0x00b);
    let told = Command::new(0x0a, rig.tank).dword(10, 0x82);
    assert_eq!(host.admin.ask(&told, Data::None).ok(), 0xe);
}

#[test]
fn c40_features_with_data_have_its_exact_length() {
    let rig = tank();
    let mut host = rig.host();
    let set = |id: u32| Command::new(9, 0).dword(10, id);
    let told = |id: u32| Command::new(0x0a, 0).dword(10, id);
    let millis = 1_700_000_000_000_u64;
    host.admin.ask(&set(0x0e), Data::Here(&millis.to_le_bytes())).ok();
    let time = host.admin.ask(&told(0x0e), Data::Back(8)).bytes();
    let passed = (u64_at(&time, 0) & 0xffff_ffff_ffff) - millis;
    assert!(passed < 60_000 && time[6] == 2, "as the host said, and later");
    let mut behavior = [0; 512];
    behavior[0] = 1;
    host.admin.ask(&set(0x16), Data::Asked(&behavior)).ok();
    assert_eq!(host.admin.ask(&told(0x16), Data::Back(512)).bytes(), behavior);
    let identity = told(0x81).dword(11, 1);
    assert_eq!(host.admin.ask(&identity, Data::Back(16)).bytes(), [7; 16]);
    assert_eq!(refusal(&host.admin.ask(&told(0x81), Data::Back(8))), 0x002, "the short form");
    assert_eq!(refusal(&host.set_feature(0x81, 1)), 0x00c);
    for (id, len) in [(0x0e, 8_usize), (0x16, 512)] {
        for wrong in [0, len - 4, len + 4] {
            let bytes = vec![0; wrong];
            assert_eq!(refusal(&host.admin.ask(&set(id), Data::Here(&bytes))), 0x00f, "{id:x}");
            let narrow = u32::try_from(wrong).unwrap();
            assert_eq!(refusal(&host.admin.ask(&told(id), Data::Back(narrow))), 0x00f, "{id:x}");
        }
    }
}

#[test]
fn c42_abort_says_that_nothing_was_aborted() {
    let rig = tank();
    let (mut host, mut queue) = rig.session(0);
    let listening = host.listen();
    queue.submit(&Command::new(1, rig.tank).blocks(0, 16).id(5).moved(8192), &[]);
    let ready = queue.receive();
    let own = host.admin.new_id() + 1;
    for (sort, id) in [(1, 5), (0, listening), (1, 77), (9, 1), (0, own)] {
        let abort = Command::new(8, 0).dword(10, sort | u32::from(id) << 16);
        assert_eq!(host.admin.ask(&abort, Data::None).ok(), 1);
    }
    let piece = queue.piece(5, ready.tag(), 0, &[1; 8192], LAST);
    queue.send(&piece);
    assert_eq!(queue.completion().status, 0, "it goes on");
    assert!(host.admin.early.is_empty());
}

/// The commands that there are.
const ADMIN: [u8; 7] = [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18];
const IO: [u8; 11] = [0x00, 0x01, 0x02, 0x05, 0x08, 0x09, 0x0c, 0x0d, 0x0e, 0x11, 0x15];

#[test]
fn c46_every_opcode_is_answered_on_both_queues() {
    let rig = tank();
    let (mut host, mut queue) = rig.session(0);
    let data = [0; 4096];
    for opcode in (0..=0xff_u8).filter(|opcode| *opcode != 0x7f) {
        let moved = match opcode & 3 {
            1 => vec![Data::None, Data::Here(&data), Data::Asked(&data)],
            2 => vec![Data::None, Data::Back(4096)],
            _ => vec![Data::None],
        };
        for data in moved {
            let is_listening = opcode == 0x0c;
            if !is_listening {
                let answer = host.admin.ask(&Command::new(opcode, rig.tank), data);
                let is_unknown = answer.status == 0x001;
                assert_eq!(is_unknown, !ADMIN.contains(&opcode), "{opcode:x} with {data:?}: {answer:?}");
                assert!(answer.status == 0 || answer.no_retry);
            }
            let answer = queue.ask(&Command::new(opcode, rig.tank), data);
            let is_unknown = answer.status == 0x001;
            assert_eq!(is_unknown, !IO.contains(&opcode), "{opcode:x} with {data:?}: {answer:?}");
        }
    }
    host.admin.expect_alive(true);
    queue.expect_alive(false);
}

#[test]
fn c62_the_ana_log_is_what_its_numbers_say() {
    let rig = tank();
    let mut more: Vec<u32> =
        (0..100).map(|i| rig.export(&format!("v{i}"), MemoryVolume::new(ByteLen(1 << 20)))).collect();
    more.push(rig.tank);
    more.sort_unstable();
    more.dedup();
    let mut host = rig.host();
    let most = 16 + 32 + 4 * 4096;
    let walk = |page: &[u8]| {
        assert_eq!((u16_at(page, 8), &page[10..16]), (1, &[0; 6][..]), "one group");
        assert_eq!((u32_at(page, 16), page[32]), (1, 1), "group 1, optimized");
        assert_eq!(page[33..48], [0; 15]);
        let count = u32_at(page, 20) as usize;
        let listed: Vec<u32> = (0..count).map(|at| u32_at(page, 48 + 4 * at)).collect();
        assert!(page[48 + 4 * count..].iter().all(|byte| *byte == 0));
        (u64_at(page, 0), listed)
    };
    let (change, listed) = walk(&host.log(0x0c, 0, most, false).bytes());
    assert_eq!(listed, more, "every namespace, in order");
    let groups = log_command(0x0c, 0, most, false);
    let groups = groups.with(41, &[groups.0[41] | 1]);
    assert_eq!(walk(&host.admin.ask(&groups, Data::Back(most)).bytes()), (change, vec![]));
    rig.catalog.remove("v7");
    let (later, fewer) = walk(&host.log(0x0c, 0, most, false).bytes());
    assert!(later > change && fewer.len() < listed.len());
}

#[test]
fn c62_all_controllers_of_the_subsystem_have_the_same_view() {
    let rig = tank();
    let (mut first, mut second) = (rig.host(), rig.host());
    for (structure, namespace) in [(0, rig.tank), (2, 0), (3, rig.tank), (8, rig.tank)] {
        assert_eq!(
            first.identify(structure, namespace).bytes(),
            second.identify(structure, namespace).bytes()
        );
    }
    assert_eq!(first.log(0x0c, 0, 52, true).bytes(), second.log(0x0c, 0, 52, true).bytes());
    let mut discovery = Host::enabled(rig.server.address, &Connect::to(DISCOVERY), 0);
    assert_eq!(discovery.log(0x0c, 0, 52, true).status, 0x109);
}
