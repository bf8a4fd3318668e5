//! Counters and a picture that the tests of the parts begin with.

use super::rates::{CoreRate, DeviceRate, DriveRate, LinkRate, Rates};
use crate::control::counters::{
    CoreCounters, CountersReport, DeviceCounters, DriveCounters, LinkCounters, VolumeCounters,
};

fn volume() -> VolumeCounters {
    VolumeCounters { pool: "tank".into(), name: "data".into(), nbd_connections: 2, nvme_hosts: 1 }
}

fn drive(name: &str, device: Option<DeviceCounters>) -> DriveCounters {
    DriveCounters {
        pool: "tank".into(),
        name: name.into(),
        uuid: name.into(),
        read_ns: 800_000,
        in_flight: 3,
        errors: 0,
        reads: 1000,
        device,
    }
}

/// Two cores, one link, a device and a file.
pub fn counters() -> CountersReport {
    let device =
        DeviceCounters { reads: 10, read_bytes: 1000, writes: 20, written_bytes: 2000, busy_ns: 1_000 };
    let core = |index| CoreCounters { index, busy_ns: 500, connections: 1 };
    let link = LinkCounters { name: "eno1".into(), received_bytes: 10, sent_bytes: 20, megabits: Some(1000) };
    CountersReport {
        at_ns: 1_000,
        cores: vec![core(0), core(1)],
        links: vec![link],
        drives: vec![drive("sda", Some(device)), drive("b", None)],
        volumes: vec![volume()],
        work: vec![],
    }
}

/// A picture in which nothing is full.
pub fn picture() -> Rates {
    let device = DeviceRate {
        reads: 120,
        read_bytes: 30_000_000,
        writes: 40,
        written_bytes: 4_000_000,
        busy_permille: 410,
    };
    let drive = |name: &str, reads, read_ns, in_flight, errors, device| DriveRate {
        pool: "tank".into(),
        name: name.into(),
        reads,
        read_ns,
        in_flight,
        errors,
        device,
    };
    Rates {
        took_ns: 1_000_000_000,
        links: vec![LinkRate {
            name: "eno1".into(),
            received_bytes: 1_000_000,
            sent_bytes: 34_000_000,
            limit_bytes: Some(125_000_000),
        }],
        cores: vec![
            CoreRate { index: 0, busy_permille: 125, connections: 2 },
            CoreRate { index: 1, busy_permille: 30, connections: 1 },
        ],
        drives: vec![drive("sda", 100, 800_000, 3, 0, Some(device)), drive("b", 7, 12_000_000, 0, 1, None)],
        volumes: vec![volume()],
        work: vec![],
    }
}
