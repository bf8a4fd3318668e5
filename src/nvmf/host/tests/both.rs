//! What this host says is what our own target understands, and the other way round.

use super::super::draft;
use super::super::identify::{self, Controller, Namespace, Offers, Properties};
use crate::base::units::ByteLen;
use crate::block::Geometry;
use crate::nvmf::command::{DataPlace, Sqe};
use crate::nvmf::fabrics::{Connect, HostName};
use crate::nvmf::identify::{ControllerView, NamespaceView, controller, descriptors, namespace};
use crate::nvmf::subsystem::DISCOVERY_NQN;
use crate::volume::Identity;
use uuid::Uuid;

#[test]
fn connect_is_understood() {
    let data = draft::connect_data(Uuid::from_u128(9), 3, "nqn.x:subsystem", "nqn.x:host");
    let sqe = Sqe::new(draft::connect(2, 64, 0).seal(5, DataPlace::InCapsule { offset: 0, len: 1024 }));
    let connect = Connect::parse(&sqe, &data).unwrap();
    let host = HostName { nqn: "nqn.x:host".to_owned(), id: *Uuid::from_u128(9).as_bytes() };
    let subsystem = "nqn.x:subsystem".to_owned();
    let (no_flow_control, keep_alive_ms) = (true, 0);
    let expected =
        Connect { host, subsystem, controller: 3, queue: 2, size: 65, no_flow_control, keep_alive_ms };
    assert_eq!(connect, expected);
}

#[test]
fn our_discovery_log_is_read() {
    let page = controller(&ControllerView { id: 7, subsystem: DISCOVERY_NQN, pool: None });
    let properties = Properties { queue_entries: 127, id: 7, discovery: true, ..Properties::default() };
    assert!(Controller::parse(&page, properties).is_ok());
}

#[test]
fn our_controllers_and_namespaces_are_usable() {
    let pool = Uuid::from_u128(0xd5);
    let page = controller(&ControllerView { id: 7, subsystem: "nqn.x", pool: Some(pool) });
    let version = 0x0001_0400;
    let properties =
        Properties { queue_entries: 127, version, id: 7, keep_alive: true, ..Properties::default() };
    let found = Controller::parse(&page, properties).unwrap();
    assert_eq!((found.model.as_str(), found.depth_max), ("drystone", 127));
    let all = Offers { compare: true, deallocate: true, write_zeroes: true, volatile_cache: true };
    assert_eq!(found.offers, all);
    let identity = Identity { pool, volume: Uuid::from_u128(5), number: 4 };
    let geometry = Geometry { size: ByteLen(1 << 30), block: 4096, preferred: 1 << 20, rotational: false };
    for lba in [512, 4096] {
        let view = NamespaceView { identity, geometry, lba, used: 0, read_only: true };
        let seen = Namespace::parse(&namespace(&view), 4, found.transfer_max).unwrap();
        assert_eq!((seen.size, seen.block, seen.read_only), (1 << 30, lba, true));
        assert!(seen.zeroes_deallocate && seen.deallocated_zero);
        assert_eq!(identify::uuid_of(&descriptors(&view)), Ok(Some(identity.volume)));
    }
}
