//! What a daemon's drives, links and cores have done so far: counters, from which two looks make rates. Plain data.

use super::api::WorkReport;
use serde::{Deserialize, Serialize};

/// Counters at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct CountersReport {
    /// The daemon's monotonic clock, nanoseconds.
    pub at_ns: u64,
    pub cores: Vec<CoreCounters>,
    pub links: Vec<LinkCounters>,
    pub drives: Vec<DriveCounters>,
    pub volumes: Vec<VolumeCounters>,
    pub work: Vec<PoolWork>,
}

/// A core of the daemon.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct CoreCounters {
    pub index: u32,
    /// Processor time that its thread used, nanoseconds.
    pub busy_ns: u64,
    pub connections: u32,
}

/// A network interface of the machine, all that goes through it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct LinkCounters {
    pub name: String,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Megabits a second, where the interface has a speed.
    pub megabits: Option<u32>,
}

/// A drive that is there.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct DriveCounters {
    pub pool: String,
    pub name: String,
    pub uuid: String,
    /// Mean time of the last reads, nanoseconds; zero: none yet.
    pub read_ns: u64,
    /// Operations in flight.
    pub in_flight: u32,
    /// Errors of reading and writing, and wrong checksums.
    pub errors: u64,
    /// Reads of the daemon.
    pub reads: u64,
    /// What the kernel counted on the whole device; None: it is a file.
    pub device: Option<DeviceCounters>,
}

/// A block device, whoever uses it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct DeviceCounters {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    /// Time with something in flight, nanoseconds.
    pub busy_ns: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct VolumeCounters {
    pub pool: String,
    pub name: String,
    /// NBD connections, and NVMe hosts that have the pool's volumes.
    pub nbd_connections: u32,
    pub nvme_hosts: u32,
}

/// Background work of a pool.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct PoolWork {
    pub pool: String,
    pub work: WorkReport,
}
