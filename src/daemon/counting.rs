//! Counters of the daemon: its own, and what the kernel counts for its threads, links and block devices.
//!
//! The kernel's are read on a thread of its own: no core waits for /proc and /sys. What cannot be read is left out.

use super::service::{OpenPool, Service};
use crate::control::api::{Failure, Reply};
use crate::control::counters::{
    CoreCounters, CountersReport, DeviceCounters, DriveCounters, LinkCounters, PoolWork, VolumeCounters,
};
use crate::pool::member::Member;
use crate::reactor::sync::oneshot;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// The unit of /sys/block/NAME/stat, bytes, whatever the sectors of the drive are.
const SECTOR: u64 = 512;

/// Links and volumes that are told: more do not fit on a screen, nor in a line of the control protocol.
const LINKS_MAX: usize = 64;
const VOLUMES_MAX: usize = 512;

impl Service {
    pub(super) async fn counters(&self) -> Result<Reply, Failure> {
        let mut report = CountersReport { at_ns: self.core.now().as_ns(), ..CountersReport::default() };
        let mut places = Vec::new();
        for (name, open) in &*self.pools.borrow() {
            for member in open.pool.shared().all_members() {
                let Some(counters) = drive_counters(name, &member) else { continue };
                report.drives.push(counters);
                places.push(member.disk.as_ref().map(|d| d.path().to_owned()));
            }
            report.volumes.extend(self.volume_counters(name, open));
            let work = self.work(open).into_iter();
            report.work.extend(work.map(|work| PoolWork { pool: name.clone(), work }));
        }
        report.volumes.truncate(VOLUMES_MAX);
        let loads = self.target.as_ref().map_or(Vec::new(), |target| target.loads());
        let (answer, asked) = oneshot();
        std::thread::spawn(move || answer.send(kernel_counters(report, &places, &loads)));
        let none = || Failure::failed("SYSTEM", "the kernel's counters could not be read");
        asked.await.map(Reply::Counters).ok_or_else(none)
    }

    fn volume_counters(&self, pool: &str, open: &OpenPool) -> Vec<VolumeCounters> {
        let nvme_hosts = self.hosts(open.pool.uuid());
        let counters = |name: String| VolumeCounters {
            pool: pool.to_owned(),
            nbd_connections: self.connections(&name),
            nvme_hosts,
            name,
        };
        open.pool.volumes().into_keys().map(counters).collect()
    }
}

/// None: the drive is not there.
fn drive_counters(pool: &str, member: &Member) -> Option<DriveCounters> {
    let disk = member.disk.as_ref()?;
    let errors = [&disk.errors.read, &disk.errors.write, &disk.errors.checksum];
    Some(DriveCounters {
        pool: pool.to_owned(),
        name: member.name.clone(),
        uuid: member.uuid.to_string(),
        read_ns: disk.answers.read_ns(),
        in_flight: disk.load(),
        errors: errors.iter().map(|n| n.load(Ordering::Relaxed)).sum(),
        reads: disk.answers.reads(),
        device: None,
    })
}

/// Adds what the kernel says; `places` are where the drives of the report are.
fn kernel_counters(
    mut report: CountersReport,
    places: &[Option<PathBuf>],
    loads: &[usize],
) -> CountersReport {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    report.cores = cores(loads);
    report.links = parse_links(&read("/proc/net/dev"));
    report.links.truncate(LINKS_MAX);
    for link in &mut report.links {
        let speed = read(&format!("/sys/class/net/{}/speed", link.name));
        // An interface without a speed says -1 or fails to be read.
        link.megabits = speed.trim().parse().ok().filter(|megabits| *megabits > 0);
    }
    for (drive, place) in report.drives.iter_mut().zip(places) {
        drive.device = place.as_ref().and_then(|path| device(path));
    }
    report
}

/// The threads of this process that are cores: the first one, and those named so.
fn cores(loads: &[usize]) -> Vec<CoreCounters> {
    let process = std::process::id().to_string();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let mut cores = Vec::new();
    for task in tasks.flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let first = task.file_name().to_str() == Some(&process);
        let index = if first { Some(0) } else { core_of(&read("comm")) };
        let Some((index, busy_ns)) = index.zip(parse_busy(&read("schedstat"))) else { continue };
        let load = usize::try_from(index).ok().and_then(|at| loads.get(at));
        let connections = load.map_or(0, |n| u32::try_from(*n).unwrap_or(u32::MAX));
        cores.push(CoreCounters { index, busy_ns, connections });
    }
    cores.sort_by_key(|core| core.index);
    cores
}

/// The number in a thread's name.
fn core_of(name: &str) -> Option<u32> {
    name.trim().strip_prefix("core-")?.parse().ok()
}

/// Nanoseconds on a processor, the first number of /proc/PID/schedstat.
fn parse_busy(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// The interfaces of /proc/net/dev: two lines of heading, then `name: received, 7 more, sent, ...`.
fn parse_links(text: &str) -> Vec<LinkCounters> {
    let link = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let mut numbers = rest.split_ascii_whitespace().map_while(|n| n.parse().ok());
        let (received_bytes, sent_bytes) = (numbers.next()?, numbers.nth(7)?);
        Some(LinkCounters { name: name.trim().to_owned(), received_bytes, sent_bytes, megabits: None })
    };
    text.lines().skip(2).filter_map(link).collect()
}

/// What a block device did; None for a file.
fn device(path: &Path) -> Option<DeviceCounters> {
    let meta = std::fs::metadata(path).ok().filter(|meta| meta.file_type().is_block_device())?;
    let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
    parse_device(&std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?)
}

/// The numbers of /sys/block/NAME/stat: reads, merged, sectors, ms; writes, merged, sectors, ms; in flight, busy ms.
fn parse_device(text: &str) -> Option<DeviceCounters> {
    let numbers: Vec<u64> = text.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
    let at = |index: usize| numbers.get(index).copied();
    Some(DeviceCounters {
        reads: at(0)?,
        read_bytes: at(2)?.saturating_mul(SECTOR),
        writes: at(4)?,
        written_bytes: at(6)?.saturating_mul(SECTOR),
        busy_ns: at(9)?.saturating_mul(1_000_000),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_from_the_kernels_table() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets\n    \
                    lo: 1000 10 0 0 0 0 0 0 2000 10 0 0 0 0 0 0\n  eno1:5 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\nbad: 1 2\n";
        let links = parse_links(text);
        let shown: Vec<_> = links.iter().map(|l| (l.name.as_str(), l.received_bytes, l.sent_bytes)).collect();
        assert_eq!(shown, [("lo", 1000, 2000), ("eno1", 5, 7)]);
    }

    #[test]
    fn devices_count_in_sectors_of_512_bytes() {
        let device = parse_device("   100 1 2000 30 50 2 4000 60 1 90 150\n").unwrap();
        assert_eq!((device.reads, device.read_bytes), (100, 1_024_000));
        assert_eq!((device.writes, device.written_bytes, device.busy_ns), (50, 2_048_000, 90_000_000));
        assert!(parse_device("1 2 3").is_none() && parse_device("").is_none());
    }

    #[test]
    fn the_threads_of_this_process_are_counted() {
        assert_eq!(core_of("core-12\n"), Some(12));
        assert_eq!(core_of("events\n"), None);
        assert_eq!(parse_busy("123456 78 9\n"), Some(123_456));
        let cores = cores(&[3]);
        assert_eq!((cores[0].index, cores[0].connections), (0, 3));
    }
}
