//! What went on between two looks at the counters. Pure.

use crate::control::counters::{
    CountersReport, DeviceCounters, DriveCounters, LinkCounters, PoolWork, VolumeCounters,
};
use serde::Serialize;

/// One picture. Rates are for each second; busy shares are thousandths.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
pub struct Rates {
    /// The time between the two looks, nanoseconds.
    pub took_ns: u64,
    pub links: Vec<LinkRate>,
    pub cores: Vec<CoreRate>,
    pub drives: Vec<DriveRate>,
    pub volumes: Vec<VolumeCounters>,
    pub work: Vec<PoolWork>,
}

#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct LinkRate {
    pub name: String,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// What the interface sends and receives at most, bytes a second; None: not known.
    pub limit_bytes: Option<u64>,
}

#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct CoreRate {
    pub index: u32,
    pub busy_permille: u64,
    pub connections: u32,
}

#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct DriveRate {
    pub pool: String,
    pub name: String,
    /// Reads of the daemon, and the mean time of the last ones, nanoseconds.
    pub reads: u64,
    pub read_ns: u64,
    pub in_flight: u32,
    /// Since it was opened.
    pub errors: u64,
    /// None: it is a file, of which the kernel counts nothing.
    pub device: Option<DeviceRate>,
}

#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct DeviceRate {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    pub busy_permille: u64,
}

/// The picture between two looks. What is in only one of them has not moved; a counter that began anew neither.
pub fn rates(before: &CountersReport, after: &CountersReport) -> Rates {
    let took_ns = after.at_ns.saturating_sub(before.at_ns);
    let span = Span { ns: took_ns.max(1) };
    let core = |core: &crate::control::counters::CoreCounters| {
        let old = before.cores.iter().find(|b| b.index == core.index).map_or(core.busy_ns, |b| b.busy_ns);
        CoreRate {
            index: core.index,
            busy_permille: span.permille(old, core.busy_ns),
            connections: core.connections,
        }
    };
    Rates {
        took_ns,
        links: after.links.iter().map(|link| link_rate(span, &before.links, link)).collect(),
        cores: after.cores.iter().map(core).collect(),
        drives: after.drives.iter().map(|drive| drive_rate(span, &before.drives, drive)).collect(),
        volumes: after.volumes.clone(),
        work: after.work.clone(),
    }
}

/// The time that counters moved in.
#[derive(Clone, Copy)]
struct Span {
    ns: u64,
}

impl Span {
    fn a_second(self, then: u64, now: u64) -> u64 {
        let moved = u128::from(now.saturating_sub(then));
        u64::try_from(moved * 1_000_000_000 / u128::from(self.ns)).unwrap_or(u64::MAX)
    }

    /// The share of the time that a counter of nanoseconds moved by, 1000 at most.
    fn permille(self, then: u64, now: u64) -> u64 {
        let moved = u128::from(now.saturating_sub(then));
        u64::try_from(moved * 1000 / u128::from(self.ns)).unwrap_or(u64::MAX).min(1000)
    }
}

fn link_rate(span: Span, before: &[LinkCounters], link: &LinkCounters) -> LinkRate {
    let old = before.iter().find(|b| b.name == link.name).unwrap_or(link);
    LinkRate {
        name: link.name.clone(),
        received_bytes: span.a_second(old.received_bytes, link.received_bytes),
        sent_bytes: span.a_second(old.sent_bytes, link.sent_bytes),
        limit_bytes: link.megabits.map(|megabits| u64::from(megabits) * 125_000),
    }
}

fn drive_rate(span: Span, before: &[DriveCounters], drive: &DriveCounters) -> DriveRate {
    let old = before.iter().find(|b| b.uuid == drive.uuid).unwrap_or(drive);
    let device = |new: &DeviceCounters| {
        let old = old.device.as_ref().unwrap_or(new);
        DeviceRate {
            reads: span.a_second(old.reads, new.reads),
            read_bytes: span.a_second(old.read_bytes, new.read_bytes),
            writes: span.a_second(old.writes, new.writes),
            written_bytes: span.a_second(old.written_bytes, new.written_bytes),
            busy_permille: span.permille(old.busy_ns, new.busy_ns),
        }
    };
    DriveRate {
        pool: drive.pool.clone(),
        name: drive.name.clone(),
        reads: span.a_second(old.reads, drive.reads),
        read_ns: drive.read_ns,
        in_flight: drive.in_flight,
        errors: drive.errors,
        device: drive.device.as_ref().map(device),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::counters;
    use super::*;

    #[test]
    fn rates_are_for_a_second_whatever_the_time_between() {
        let (mut before, mut after) = (counters(), counters());
        (before.at_ns, after.at_ns) = (1_000_000_000, 3_000_000_000);
        after.links[0].sent_bytes += 200_000_000;
        after.cores[1].busy_ns += 1_000_000_000;
        after.drives[0].reads += 50;
        let device = after.drives[0].device.as_mut().unwrap();
        (device.written_bytes, device.busy_ns) = (device.written_bytes + 8192, device.busy_ns + 500_000_000);
        let rates = rates(&before, &after);
        assert_eq!((rates.links[0].sent_bytes, rates.links[0].received_bytes), (100_000_000, 0));
        assert_eq!(rates.links[0].limit_bytes, Some(125_000_000));
        assert_eq!((rates.cores[0].busy_permille, rates.cores[1].busy_permille), (0, 500));
        let device = rates.drives[0].device.as_ref().unwrap();
        assert_eq!((rates.drives[0].reads, device.written_bytes, device.busy_permille), (25, 4096, 250));
    }

    #[test]
    fn what_is_new_or_began_anew_has_not_moved() {
        let (before, mut after) = (counters(), counters());
        after.at_ns = before.at_ns;
        after.cores[0].busy_ns = 0;
        after.links[0].name = "new0".into();
        after.drives[0].uuid = "new".into();
        after.drives[1].reads = 0;
        let rates = rates(&before, &after);
        assert!(rates.links.iter().all(|l| l.sent_bytes + l.received_bytes == 0));
        assert!(rates.cores.iter().all(|c| c.busy_permille == 0));
        assert!(rates.drives.iter().all(|d| d.reads == 0));
    }
}
