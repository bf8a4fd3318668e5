//! Disk, network and the way through both, measured alike; names what holds the result back.
//!
//! Rank 9. Three layers are measured with the same six workloads: the drives alone, the network alone (an export
//! in memory), and a volume over NBD, NVMe/TCP, or both. `verdict` compares them. Everything that decides or renders is
//! pure; the I/O is in `load` and the `measure_…` files, on one core of the reactor.

mod chart;
mod chart_latency;
mod chart_throughput;
mod command;
mod daemon_ends;
pub mod figure;
pub mod limits;
pub mod load;
pub mod measure_disk;
pub mod measure_nbd;
pub mod measure_nvme;
pub mod measure_volume;
pub mod processor;
pub mod report;
pub mod report_html;
pub mod report_json;
pub mod report_table;
pub mod verdict;
pub mod workload;

pub use command::run;
pub use measure_disk::{DiskPlan, DisksMeasured, measure_disks};
pub use measure_nbd::{Endpoint, connect};
pub use measure_nvme::{NamespaceEnd, associate};
pub use measure_volume::{Contents, Opened, TargetMeasured, TargetPlan, measure_target};
pub use report::{Facts, Measured, Report};

use crate::base::units::ByteLen;
use crate::io::driver::Address;
use crate::reactor::Core;
use figure::Figures;
use limits::{Link, link_towards};
use measure_nbd::unwritten_share;
use measure_volume::failed;
use processor::Server;
use std::path::{Path, PathBuf};
use std::time::Duration;
use workload::Workload;

/// The name of the export in memory that exists only during a benchmark. No volume can have it: the command line
/// takes no name that begins with a point.
pub const NETWORK_EXPORT: &str = ".drystone-bench";

/// The length of the shortest run.
const RUN_MIN: Duration = Duration::from_millis(150);

/// Part of the bytes that are read that may never have been written before it is worth a note.
const UNWRITTEN_NOTED: f64 = 0.01;

const NOT_LENT: &str = "not measured: the export in memory was made for somebody else";
const NO_SCRATCH: &str = "not measured: writing needs a scratch volume";

/// Where the parts to be measured are. What is not there is not measured.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// What people call it.
    pub target: String,
    pub drives: Vec<PathBuf>,
    /// The export in memory.
    pub network: Option<Endpoint>,
    /// The export in memory was made for this measurement; only then it is written to.
    pub network_lent: bool,
    /// A volume that may be read.
    pub volume: Option<Endpoint>,
    /// A volume that may be overwritten; measured instead of `volume`.
    pub scratch: Option<Endpoint>,
    /// The same volume over NVMe/TCP, or one that is there by that way only.
    pub namespace: Option<NamespaceEnd>,
    /// The namespace was made for this measurement; only then it is written to.
    pub namespace_lent: bool,
    /// Copies that each block of the volume has; 0 where that is not known.
    pub copies: u8,
    /// The server's process, where it runs on this machine.
    pub server: Server,
}

impl Ends {
    /// Where the server is.
    fn any_address(&self) -> Option<&Address> {
        let export = self.scratch.as_ref().or(self.volume.as_ref()).or(self.network.as_ref());
        let namespace = self.namespace.as_ref().map(|end| &end.address);
        export.map(|end| &end.address).or(namespace)
    }
}

/// How long, and with how much.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The length of one run: one workload on one layer. Filling scratch areas comes on top.
    pub run: Duration,
    pub connections: usize,
    /// Bytes that are read and, in scratch areas, written.
    pub region: ByteLen,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { run: Duration::from_secs(1), connections: 4, region: ByteLen(1 << 30) }
    }
}

impl Plan {
    /// So long for each layer, shared by its workloads.
    pub fn per_layer(time: Duration) -> Plan {
        let workloads = u32::try_from(Workload::ALL.len()).expect("six");
        Plan { run: (time / workloads).max(RUN_MIN), ..Plan::default() }
    }

    /// So long for everything there is, for short demonstrations.
    pub fn in_all(time: Duration, ends: &Ends) -> Plan {
        let drives = ends.drives.len();
        let layers = drives
            + usize::from(drives > 1)
            + usize::from(ends.network.is_some())
            + usize::from(ends.volume.is_some() || ends.scratch.is_some())
            + usize::from(ends.namespace.is_some());
        Plan::per_layer(time / u32::try_from(layers.max(1)).unwrap_or(u32::MAX))
    }
}

/// Measures everything that is there.
pub async fn measure(core: &Core, ends: &Ends, plan: &Plan) -> Report {
    let began_ns = core.wall_ns();
    let run = plan.run;
    let disks = measure_disks(core, &ends.drives, DiskPlan { run, scratch: plan.region }).await;
    let mut notes = Vec::new();
    let (network, _) = match &ends.network {
        None => (Figures::not_measured("the server has no export in memory to measure it with"), None),
        Some(end) if ends.network_lent => measure_export(core, end, Contents::Memory, ends, plan).await,
        Some(end) => measure_export(core, end, Contents::Precious(NOT_LENT), ends, plan).await,
    };
    let over_nbd = match (&ends.scratch, &ends.volume) {
        (Some(end), _) => Some(measure_export(core, end, Contents::Scratch, ends, plan).await),
        (None, Some(end)) => {
            notes.extend(note_unwritten(core, end, plan.region).await);
            Some(measure_export(core, end, Contents::Precious(NO_SCRATCH), ends, plan).await)
        }
        (None, None) => None,
    };
    let over_nvme = match &ends.namespace {
        Some(end) => Some(measure_namespace(core, end, ends, plan, &mut notes).await),
        None => None,
    };
    let (end_to_end, used, over_nvme) = match (over_nbd, over_nvme) {
        (Some((nbd, used)), nvme) => (nbd, used, nvme.map(|(figures, _)| figures)),
        (None, Some((nvme, used))) => (nvme, used, None),
        (None, None) => (Figures::not_measured("no volume was named"), None, None),
    };
    let link = ends.any_address().map_or(Link::Unknown, link_towards);
    let facts = Facts {
        target: ends.target.clone(),
        kernel: kernel_release(),
        connections: used.map_or(0, |used| used.connections),
        run_ns: u64::try_from(run.as_nanos()).unwrap_or(u64::MAX),
        scratch_bytes: used.map_or(0, |used| used.bytes.0),
        began_ns,
    };
    let copies = ends.copies.max(1);
    let (drives, together) = (disks.drives, disks.together);
    Report::new(Measured { drives, together, network, end_to_end, over_nvme, link, copies, facts, notes })
}

/// What of an export was used.
#[derive(Clone, Copy)]
struct Used {
    connections: usize,
    bytes: ByteLen,
}

async fn measure_export(
    core: &Core,
    end: &Endpoint,
    contents: Contents,
    ends: &Ends,
    plan: &Plan,
) -> (Figures, Option<Used>) {
    let connected = match connect(core, end, plan.connections.max(1)).await {
        Ok(connected) => connected,
        Err(error) => return (failed(&error.to_string()), None),
    };
    let connections = connected.clients.len();
    let target = TargetPlan { run: plan.run, region: plan.region, contents, server: ends.server };
    let measured = measure_target(core, connected.opened(), target).await;
    connected.close().await;
    (measured.figures, Some(Used { connections, bytes: measured.used }))
}

async fn measure_namespace(
    core: &Core,
    end: &NamespaceEnd,
    ends: &Ends,
    plan: &Plan,
    notes: &mut Vec<String>,
) -> (Figures, Option<Used>) {
    let associated = match associate(core, end, plan.connections.max(1)).await {
        Ok(associated) => associated,
        Err(error) => return (failed(&error.to_string()), None),
    };
    let connections = associated.queues.len();
    let contents = if ends.namespace_lent { Contents::Scratch } else { Contents::Precious(NO_SCRATCH) };
    if !ends.namespace_lent {
        notes.extend(unwritten_note("the namespace", associated.unwritten_share()));
    }
    let target = TargetPlan { run: plan.run, region: plan.region, contents, server: ends.server };
    let measured = measure_target(core, associated.opened(), target).await;
    associated.close().await;
    (measured.figures, Some(Used { connections, bytes: measured.used }))
}

async fn note_unwritten(core: &Core, end: &Endpoint, region: ByteLen) -> Option<String> {
    unwritten_share(core, end, region).await.and_then(|share| unwritten_note("what was read", share))
}

fn unwritten_note(what: &str, share: f64) -> Option<String> {
    let percent = share * 100.0;
    let note = format!("{percent:.0} % of {what} was never written: reading that needs no drive");
    (share > UNWRITTEN_NOTED).then_some(note)
}

fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Writes the report's files into a folder, which is made if there is none; the names of what was written.
pub fn write_files(report: &Report, directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(directory)?;
    let json = serde_json::to_string_pretty(&report_json::render(report))?;
    let files = [
        ("index.html", report_html::render(report)),
        ("throughput.svg", chart_throughput::render(report)),
        ("latency.svg", chart_latency::render(report)),
        ("result.json", json + "\n"),
    ];
    let mut written = Vec::new();
    for (name, text) in files {
        let path = directory.join(name);
        std::fs::write(&path, text)?;
        written.push(path);
    }
    Ok(written)
}

#[cfg(test)]
mod tests;
