//! The admin queue without a connection: what each command is answered, and what it changes.

use super::*;
use crate::base::units::ByteLen;
use crate::io::time::Instant;
use crate::nvmf::controller::Seat;
use crate::nvmf::fabrics::{Connect, HostName};
use crate::nvmf::pdu::SQE_LEN;
use crate::nvmf::subsystem::DISCOVERY_NQN;
use crate::volume::catalog::Catalog;
use crate::volume::memory::MemoryVolume;
use std::sync::Arc;

const USABLE: u32 = 0x0046_0000;

struct Rig {
    fabric: Arc<Fabric>,
    controller: Arc<Controller>,
    admin: Admin,
    wall_ns: u64,
    local: Option<SocketAddr>,
    _seat: Seat,
}

/// A command: its fields at their offsets.
fn sqe(opcode: u8, namespace: u32, len: u32, dwords: &[(usize, u32)]) -> Sqe {
    let mut bytes = [0; SQE_LEN];
    (bytes[0], bytes[1], bytes[39]) = (opcode, 0x40, 0x5a);
    bytes[4..8].copy_from_slice(&namespace.to_le_bytes());
    bytes[32..36].copy_from_slice(&len.to_le_bytes());
    for (number, value) in dwords {
        bytes[4 * number..4 * number + 4].copy_from_slice(&value.to_le_bytes());
    }
    Sqe::new(bytes)
}

fn volume(name: &str, blocks: u64) -> Arc<Volume> {
    Arc::new(Volume::in_memory(name, MemoryVolume::new(ByteLen(blocks * 4096))))
}

impl Rig {
    fn connected(is_discovery: bool) -> Rig {
        let catalog: Arc<Catalog> = Arc::default();
        catalog.insert(volume("data", 16));
        let fabric = Arc::new(Fabric::new(catalog));
        let pool = subsystem::all(&fabric.catalog)[0].pool;
        let connect = Connect {
            host: HostName { nqn: "nqn.host".to_owned(), id: [9; 16] },
            subsystem: if is_discovery { DISCOVERY_NQN.to_owned() } else { nqn_of(pool) },
            controller: 0xffff,
            queue: 0,
            size: 32,
            no_flow_control: false,
            keep_alive_ms: 5000,
        };
        let created = fabric.create(&connect, 1, Instant::default());
        let (seat, controller) = created.unwrap_or_else(|why| panic!("{why:?}"));
        let world = World { fabric: &fabric, controller: &controller, wall_ns: 0, local: None };
        let admin = Admin::new(5000, &world);
        Rig { fabric, controller, admin, wall_ns: 0, local: None, _seat: seat }
    }

    fn enabled() -> Rig {
        let mut rig = Rig::connected(false);
        rig.configure(USABLE | 1);
        rig
    }

    fn discovery() -> Rig {
        let mut rig = Rig::connected(true);
        rig.configure(USABLE | 1);
        rig
    }

    fn ask(&mut self, sqe: &Sqe, data: &[u8]) -> Answer {
        let (fabric, controller) = (self.fabric.clone(), self.controller.clone());
        let world =
            World { fabric: &fabric, controller: &controller, wall_ns: self.wall_ns, local: self.local };
        self.admin.answer(sqe, data, &world)
    }

    fn configure(&mut self, value: u32) {
        let set = sqe(fabrics::OPCODE, u32::from(kind::PROPERTY_SET), 0, &[(11, 0x14), (12, value)]);
        assert_eq!(self.ask(&set, &[]), Answer::Done(0));
    }

    fn property(&mut self, offset: u32, is_long: bool) -> Answer {
        let kind = u32::from(kind::PROPERTY_GET);
        self.ask(&sqe(fabrics::OPCODE, kind, 0, &[(10, u32::from(is_long)), (11, offset)]), &[])
    }

    fn state(&mut self) -> u64 {
        match self.property(0x1c, false) {
            Answer::Done(state) => state,
            other => panic!("{other:?}"),
        }
    }

    fn identify(&mut self, structure: u32, namespace: u32) -> Answer {
        self.ask(&sqe(opcode::IDENTIFY, namespace, 4096, &[(10, structure)]), &[])
    }

    fn log(&mut self, page: u8, offset: u64, len: u32, retain: bool) -> Answer {
        let dwords = len / 4 - 1;
        let first = u32::from(page) | u32::from(retain) << 15 | (dwords & 0xffff) << 16;
        let (low, high) =
            (u32::try_from(offset & 0xffff_ffff).unwrap(), u32::try_from(offset >> 32).unwrap());
        self.ask(
            &sqe(opcode::GET_LOG_PAGE, 0, len, &[(10, first), (11, dwords >> 16), (12, low), (13, high)]),
            &[],
        )
    }

    fn feature(&mut self, id: u8, select: u32) -> Answer {
        self.ask(&sqe(opcode::GET_FEATURES, 0, 0, &[(10, u32::from(id) | select << 8)]), &[])
    }

    fn set_feature(&mut self, id: u8, value: u32) -> Answer {
        self.ask(&sqe(opcode::SET_FEATURES, 0, 0, &[(10, u32::from(id)), (11, value)]), &[])
    }

    fn look(&mut self) {
        let (fabric, controller) = (self.fabric.clone(), self.controller.clone());
        let world = World { fabric: &fabric, controller: &controller, wall_ns: 0, local: None };
        self.admin.look_for_changes(&world);
    }

    fn number(&self, name: &str) -> u32 {
        self.fabric.catalog.find(name).expect("it is exported").identity().number
    }

    /// Holds a request; the event that it is answered with at once, if there is one.
    fn listen(&mut self) -> Option<u64> {
        assert_eq!(self.ask(&sqe(opcode::EVENT_REQUEST, 0, 0, &[]), &[]), Answer::Held);
        self.admin.events.due().map(|(_, event)| event)
    }
}

fn bytes(answer: Answer) -> Vec<u8> {
    match answer {
        Answer::Data(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn refused(status: Status) -> Answer {
    Answer::Refused(status)
}

#[test]
fn properties_are_read_in_every_state() {
    let mut rig = Rig::connected(false);
    for configuration in [USABLE, USABLE | 1, USABLE | 1 | 1 << 14, 0x61] {
        rig.configure(configuration);
        assert_eq!(rig.property(0, true), Answer::Done(CAPABILITIES));
        assert_eq!(rig.property(8, false), Answer::Done(VERSION));
        assert_eq!(rig.property(0x14, false), Answer::Done(u64::from(configuration)));
        assert_eq!(rig.property(0x20, false), refused(Status::INVALID_FIELD));
    }
    let connect = sqe(fabrics::OPCODE, u32::from(kind::CONNECT), 0, &[]);
    assert_eq!(rig.ask(&connect, &[]), refused(Status::COMMAND_SEQUENCE));
    assert_eq!(rig.ask(&sqe(fabrics::OPCODE, 8, 0, &[]), &[]), refused(Status::INVALID_OPCODE));
}

#[test]
fn the_state_follows_the_configuration() {
    let (ready, fatal, shut_down) = (1, 2, 8);
    let mut rig = Rig::connected(false);
    let steps = [
        (USABLE, 0),
        (USABLE | 1, ready),
        (USABLE | 1, ready),
        (USABLE, 0),
        (1, fatal),
        (USABLE | 1, fatal),
        (USABLE, 0),
        (USABLE | 1, ready),
        (USABLE | 1 | 1 << 14, ready | shut_down),
        (USABLE | 1, ready | shut_down),
        (USABLE, 0),
        (USABLE | 1 | 2 << 14, ready | shut_down),
        (USABLE, 0),
        (USABLE | 1 << 14, shut_down),
        (USABLE | 1, ready),
    ];
    for (step, (configuration, state)) in steps.into_iter().enumerate() {
        rig.configure(configuration);
        assert_eq!(rig.state(), state, "step {step}");
        let is_at_work = state == ready;
        let done = rig.ask(&sqe(opcode::KEEP_ALIVE, 0, 0, &[]), &[]);
        // Also one that shuts down: a refused Keep Alive is a broken connection to hosts.
        let lives = configuration & 1 == 1;
        let wanted = if lives { Answer::Done(0) } else { refused(Status::COMMAND_SEQUENCE) };
        assert_eq!(done, wanted, "step {step}");
        let brought = rig.admin.data_in(&sqe(opcode::SET_FEATURES, 0, 8, &[(10, 0x0e)]));
        assert_eq!(brought, if is_at_work { Ok(8) } else { Err(Status::COMMAND_SEQUENCE) });
    }
}

#[test]
fn a_reset_gives_back_the_requests_and_forgets_what_was_wanted() {
    let mut rig = Rig::enabled();
    rig.set_feature(feature::EVENTS, events::NAMESPACES);
    assert_eq!(rig.listen(), None);
    rig.configure(USABLE);
    assert_eq!(rig.admin.aborted, [0]);
    rig.configure(USABLE | 1);
    assert_eq!(rig.feature(feature::EVENTS, 0), Answer::Done(0));
}

#[test]
fn patience_is_half_as_long_again_and_begins_when_enabled() {
    let mut rig = Rig::connected(false);
    assert_eq!(rig.admin.patience(), None);
    rig.configure(USABLE | 1);
    assert_eq!(rig.admin.patience(), Some(Duration::from_millis(7500)));
    for (ms, wanted) in [(1, 2001), (1000, 3000), (u32::MAX, u64::from(u32::MAX) * 3 / 2)] {
        rig.set_feature(feature::KEEP_ALIVE, ms);
        let found = rig.admin.patience().expect("it is on");
        assert_eq!(found.as_millis(), u128::from(wanted));
    }
    rig.set_feature(feature::KEEP_ALIVE, 0);
    assert_eq!(rig.admin.patience(), None);
}

#[test]
fn data_is_brought_by_two_features_and_nothing_else() {
    let rig = Rig::enabled();
    for opcode in 0..=u8::MAX {
        for len in [0, 8, 512, 4096] {
            for feature in [0, feature::TIMESTAMP, feature::HOST_BEHAVIOR] {
                let found = rig.admin.data_in(&sqe(opcode, 0, len, &[(10, u32::from(feature))]));
                let wanted = match (opcode, feature) {
                    (opcode::SET_FEATURES, feature::TIMESTAMP) if len == 8 => Ok(8),
                    (opcode::SET_FEATURES, feature::HOST_BEHAVIOR) if len == 512 => Ok(512),
                    (opcode::SET_FEATURES, 0) if len == 0 => Ok(0),
                    (opcode::SET_FEATURES, _) => Err(Status::SGL_LENGTH),
                    (fabrics::OPCODE, _) => Ok(0),
                    (known, _) if ALL.contains(&known) => Ok(0),
                    _ => Err(Status::INVALID_OPCODE),
                };
                assert_eq!(found, wanted, "{opcode:x} {len} {feature:x}");
            }
        }
    }
}

#[test]
fn events_that_are_not_offered_are_refused_and_change_nothing() {
    let mut rig = Rig::enabled();
    assert_eq!(rig.set_feature(feature::EVENTS, events::IO | events::HEALTH), Answer::Done(0));
    for bit in (0..32).filter(|bit| (events::IO | events::HEALTH) >> bit & 1 == 0) {
        let set = rig.set_feature(feature::EVENTS, events::NAMESPACES | 1 << bit);
        assert_eq!(set, refused(Status::INVALID_FIELD), "{bit}");
    }
    assert_eq!(rig.feature(feature::EVENTS, 0), Answer::Done(u64::from(events::IO | events::HEALTH)));
}

#[test]
fn every_feature_has_a_value_a_default_and_capabilities() {
    let mut rig = Rig::enabled();
    let changeable = [0x01_u8, 0x02, 0x04, 0x05, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0e, 0x0f, 0x16, 0x82];
    let fixed = [0x06, 0x81];
    for id in 0..=u8::MAX {
        let is_known = changeable.contains(&id) || fixed.contains(&id);
        let of_namespaces = u64::from(id == feature::RESERVATION_MASK) << 1;
        let wanted = match is_known {
            true => Answer::Done(u64::from(changeable.contains(&id)) << 2 | of_namespaces),
            false => refused(Status::INVALID_FIELD),
        };
        assert_eq!(rig.feature(id, 3), wanted, "{id:x}");
        for select in 4..8 {
            assert_eq!(rig.feature(id, select), refused(Status::INVALID_FIELD), "{id:x} SEL {select}");
        }
        let save = sqe(opcode::SET_FEATURES, 0, 0, &[(10, u32::from(id) | 1 << 31)]);
        assert_eq!(rig.ask(&save, &[]), refused(Status::NOT_SAVEABLE));
        if !is_known {
            assert_eq!(rig.set_feature(id, 1), refused(Status::INVALID_FIELD), "{id:x}");
            assert_eq!(rig.feature(id, 0), refused(Status::INVALID_FIELD), "{id:x}");
        }
    }
    for id in feature::STORED {
        assert_eq!(rig.set_feature(id, 0x1234), Answer::Done(0));
        assert_eq!(rig.feature(id, 0), Answer::Done(0x1234));
        assert_eq!((rig.feature(id, 1), rig.feature(id, 2)), (Answer::Done(0), Answer::Done(0)));
    }
}

#[test]
fn features_with_a_meaning_keep_to_it() {
    let mut rig = Rig::enabled();
    assert_eq!(rig.feature(feature::WRITE_CACHE, 0), Answer::Done(1));
    assert_eq!(rig.set_feature(feature::WRITE_CACHE, 0), refused(Status::INVALID_FIELD));
    assert_eq!(rig.set_feature(feature::QUEUES, 4 | 2 << 16), Answer::Done(2 | 2 << 16));
    assert_eq!(rig.feature(feature::QUEUES, 0), Answer::Done(2 | 2 << 16));
    assert_eq!(rig.feature(feature::QUEUES, 1), Answer::Done(127 | 127 << 16));
    assert_eq!(rig.set_feature(feature::QUEUES, 0xffff), refused(Status::INVALID_FIELD));
    assert_eq!(rig.set_feature(feature::HOST_ID, 0), refused(Status::COMMAND_SEQUENCE));
    let identifier = |len: u32, extended: u32| {
        sqe(opcode::GET_FEATURES, 0, len, &[(10, u32::from(feature::HOST_ID)), (11, extended)])
    };
    assert_eq!(rig.ask(&identifier(16, 1), &[]), Answer::Data(vec![9; 16]));
    assert_eq!(rig.ask(&identifier(8, 1), &[]), refused(Status::SGL_LENGTH));
    assert_eq!(rig.ask(&identifier(8, 0), &[]), refused(Status::INVALID_FIELD));
}

#[test]
fn a_timestamp_goes_on_from_what_the_host_said() {
    let mut rig = Rig::enabled();
    let told = sqe(opcode::GET_FEATURES, 0, 8, &[(10, u32::from(feature::TIMESTAMP))]);
    assert_eq!(rig.ask(&told, &[]), Answer::Data(vec![0; 8]));
    rig.wall_ns = 5_000_000_000;
    let set = sqe(opcode::SET_FEATURES, 0, 8, &[(10, u32::from(feature::TIMESTAMP))]);
    let said = 1_000_000_u64.to_le_bytes();
    assert_eq!(rig.ask(&set, &said), Answer::Done(0));
    rig.wall_ns += 7_000_000;
    let mut wanted = 1_000_007_u64.to_le_bytes();
    wanted[6] = 2;
    assert_eq!(rig.ask(&told, &[]), Answer::Data(wanted.to_vec()));
}

#[test]
fn reservation_masks_are_per_namespace() {
    let mut rig = Rig::enabled();
    let number = rig.number("data");
    let id = u32::from(feature::RESERVATION_MASK);
    let set = |namespace: u32| sqe(opcode::SET_FEATURES, namespace, 0, &[(10, id), (11, 0b0010)]);
    assert_eq!(rig.ask(&set(number + 1), &[]), refused(Status::INVALID_NAMESPACE));
    assert_eq!(rig.ask(&set(ALL_NAMESPACES), &[]), Answer::Done(0));
    let told = sqe(opcode::GET_FEATURES, number, 0, &[(10, id)]);
    assert_eq!(rig.ask(&told, &[]), Answer::Done(0b0010));
    rig.admin.note_reservations(vec![(number, 1), (number, 2), (number, 3)]);
    assert_eq!(rig.listen(), Some(0x0080_0006));
    let first = bytes(rig.log(page::RESERVATION, 0, 64, true));
    assert_eq!((first[0], first[8], first[9]), (1, 2, 1), "retained");
    assert_eq!(bytes(rig.log(page::RESERVATION, 0, 64, false)), first);
    let second = bytes(rig.log(page::RESERVATION, 0, 64, false));
    assert_eq!((second[0], second[8], second[9]), (2, 3, 0));
    assert_eq!(bytes(rig.log(page::RESERVATION, 0, 64, false)), [0; 64]);
}

#[test]
fn logs_are_read_in_dwords_up_to_their_end() {
    let mut rig = Rig::enabled();
    for (page, len) in [(page::SUPPORTED, 1024), (page::ERRORS, 64), (page::SMART, 512), (page::ANA, 52)] {
        assert_eq!(bytes(rig.log(page, 0, len, true)).len(), len as usize);
        assert_eq!(bytes(rig.log(page, u64::from(len), 8, true)), [0; 8], "{page:x}: at the end");
        let beyond = rig.log(page, u64::from(len) + 4, 8, true);
        assert_eq!(beyond, refused(Status::INVALID_FIELD), "{page:x}: behind the end");
        assert_eq!(rig.log(page, 1, 8, true), refused(Status::INVALID_FIELD));
        assert_eq!(rig.log(page, 1 << 63, 8, true), refused(Status::INVALID_FIELD));
    }
    assert_eq!(rig.log(page::SMART, 0, TRANSFER_MAX + 4, true), refused(Status::INVALID_FIELD));
    assert_eq!(rig.log(page::DISCOVERY, 0, 4, true), refused(Status::INVALID_LOG_PAGE));
    let short = sqe(opcode::GET_LOG_PAGE, 0, 8, &[(10, u32::from(page::SMART))]);
    assert_eq!(rig.ask(&short, &[]), refused(Status::SGL_LENGTH), "one dword in a place for two");
}

#[test]
fn what_changes_in_the_catalog_is_told_and_listed_until_it_was_read() {
    let mut rig = Rig::enabled();
    rig.set_feature(feature::EVENTS, events::NAMESPACES | events::ANA);
    rig.look();
    assert_eq!(rig.listen(), None, "nothing happened since Connect");
    rig.fabric.catalog.insert(volume("more", 16));
    let number = rig.number("more");
    rig.look();
    let told = [rig.listen(), rig.listen()].map(Option::unwrap_or_default);
    assert_eq!(told, [0x0004_0002, 0x000c_0302], "it came");
    let listed = |rig: &mut Rig, retain: bool| {
        let page = bytes(rig.log(page::CHANGED_NAMESPACES, 0, 4096, retain));
        u32::from_le_bytes([page[0], page[1], page[2], page[3]])
    };
    rig.fabric.catalog.insert(volume("more", 32));
    rig.look();
    assert_eq!(rig.admin.events.due(), None, "the log was not read");
    assert_eq!((listed(&mut rig, true), rig.admin.events.due()), (number, None), "retained");
    let unread = sqe(opcode::GET_LOG_PAGE, 0, 8, &[(10, u32::from(page::CHANGED_NAMESPACES))]);
    assert_eq!(rig.ask(&unread, &[]), refused(Status::SGL_LENGTH));
    assert_eq!(listed(&mut rig, false), number);
    assert_eq!(rig.admin.events.due().map(|(_, event)| event), Some(0x0004_0002), "it grew");
    assert_eq!(listed(&mut rig, false), 0);
    rig.fabric.catalog.remove("more");
    rig.look();
    bytes(rig.log(page::ANA, 0, 52, false));
    let told = [rig.listen(), rig.listen()].map(Option::unwrap_or_default);
    assert_eq!(told, [0x0004_0002, 0x000c_0302], "it went");
    assert_eq!(listed(&mut rig, false), number);
}

#[test]
fn every_structure_is_answered_for_every_kind_of_namespace() {
    let mut rig = Rig::enabled();
    let number = rig.number("data");
    let wrong = refused(Status::INVALID_NAMESPACE);
    for structure in 0..=0xff {
        for namespace in [0, number, number + 1, NAMESPACE_MAX + 1, 0xffff_fffe, ALL_NAMESPACES] {
            let found = rig.identify(structure, namespace);
            let can_be = namespace == number || namespace == number + 1;
            let is_right = match structure {
                0x01 | 0x06 | 0x13 => true,
                0x00 | 0x05 | 0x08 | 0x11 => can_be,
                0x02 | 0x07 | 0x10 => namespace < 0xffff_fffe,
                0x03 | 0x12 => namespace == number,
                _ => {
                    assert_eq!(found, refused(Status::INVALID_FIELD), "{structure:x}");
                    continue;
                }
            };
            match is_right {
                true => assert_eq!(bytes(found).len(), identify::LEN, "{structure:x} {namespace:x}"),
                false => assert_eq!(found, wrong, "{structure:x} {namespace:x}"),
            }
        }
    }
    assert_eq!(bytes(rig.identify(0, number + 1)), vec![0; 4096], "inactive");
    let short = sqe(opcode::IDENTIFY, 0, 4092, &[(10, 1)]);
    assert_eq!(rig.ask(&short, &[]), refused(Status::SGL_LENGTH));
}

#[test]
fn a_discovery_controller_has_its_own_few_answers() {
    let mut rig = Rig::discovery();
    bytes(rig.identify(1, 0));
    assert_eq!(rig.identify(0, 1), refused(Status::INVALID_FIELD));
    assert_eq!(rig.identify(2, 0), refused(Status::INVALID_FIELD));
    assert_eq!(rig.ask(&sqe(opcode::ABORT, 0, 0, &[]), &[]), refused(Status::INVALID_OPCODE));
    assert_eq!(rig.feature(feature::QUEUES, 0), refused(Status::INVALID_FIELD));
    assert_eq!(rig.set_feature(feature::QUEUES, 0), refused(Status::INVALID_FIELD));
    assert_eq!(rig.log(page::SMART, 0, 512, true), refused(Status::INVALID_LOG_PAGE));
    assert_eq!(rig.set_feature(feature::EVENTS, u32::MAX), refused(Status::INVALID_FIELD));
    assert_eq!(rig.set_feature(feature::EVENTS, events::DISCOVERY), Answer::Done(0));
    assert_eq!(rig.feature(feature::EVENTS, 0), Answer::Done(u64::from(events::DISCOVERY)));
    rig.fabric.catalog.insert(volume("more", 16));
    rig.look();
    assert_eq!(rig.listen(), Some(0x0070_f002));
}

/// Kind, address and port number of the records of a discovery log.
fn records(page: &[u8]) -> Vec<(u8, String, u8)> {
    let text = |field: &[u8]| String::from_utf8(field.to_vec()).unwrap().trim_end().to_owned();
    let record = |r: &[u8]| (r[2], format!("{} {}", text(&r[512..768]), text(&r[32..64])), r[4]);
    page[1024..].chunks(1024).map(record).collect()
}

#[test]
fn a_listener_on_every_address_is_where_the_host_found_it() {
    let mut rig = Rig::discovery();
    let portals = ["0.0.0.0:4420", "10.0.0.7:4421", "[::]:4420", "10.0.0.7:4420"];
    portals.iter().for_each(|portal| rig.fabric.add_portal(portal.parse().unwrap(), 1_000_000_000));
    rig.local = Some("10.0.0.7:4420".parse().unwrap());
    let found = records(&bytes(rig.log(page::DISCOVERY, 0, 5 * 1024, true)));
    let mine = "10.0.0.7 4420".to_owned();
    let other = "10.0.0.7 4421".to_owned();
    let wanted = [(3, mine.clone(), 0), (2, mine, 0), (1, other.clone(), 1), (2, other, 1)];
    assert_eq!(found, wanted, "each address once");
    rig.local = Some("[fd00::1]:8009".parse().unwrap());
    let found = records(&bytes(rig.log(page::DISCOVERY, 0, 7 * 1024, true)));
    let places: Vec<&str> = found.iter().map(|(_, place, _)| place.as_str()).collect();
    assert_eq!(places.len(), 6);
    assert!(places.contains(&"fd00::1 4420") && places.contains(&"10.0.0.7 4421"));
    assert!(found.iter().all(|(kind, ..)| *kind != 3), "asked elsewhere than where pools are");
}
