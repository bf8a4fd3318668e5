//! Disk, network and the way through both, measured alike; names what holds the result back.
//!
//! Rank 9. Three layers are measured with the same six workloads: the drives alone, the network alone (an export
//! in memory), and a volume over NBD, NVMe/TCP, or both. `verdict` compares them. Other NBD servers can be measured in
//! turns with the volume. Everything that decides or renders is pure; the I/O is in `load`, `turns` and the `measure_…`
//! files, on one core of the reactor.

mod chart;
mod chart_latency;
mod chart_throughput;
mod command;
mod daemon_ends;
pub mod figure;
pub mod limits;
mod listener;
pub mod load;
pub mod measure_disk;
pub mod measure_nbd;
pub mod measure_nvme;
pub mod measure_volume;
pub mod peer;
pub mod processor;
pub mod report;
pub mod report_html;
pub mod report_json;
mod report_peers;
pub mod report_table;
mod turns;
pub mod verdict;
pub mod workload;

pub use command::run;
pub use measure_disk::{DiskPlan, DisksMeasured, measure_disks};
pub use measure_nbd::{Endpoint, connect};
pub use measure_nvme::{NamespaceEnd, associate};
pub use measure_volume::{Contents, Opened, TargetMeasured, TargetPlan, measure_target};
pub use report::{Facts, Measured, Report};
pub use turns::Other;

use crate::base::units::ByteLen;
use crate::io::driver::Address;
use crate::reactor::Core;
use figure::Figures;
use limits::{Link, link_towards};
use measure_nbd::unwritten_share;
use measure_volume::failed;
use peer::Peer;
use processor::Server;
use std::path::{Path, PathBuf};
use std::time::Duration;
use turns::{Beside, measure_in_turns, nothing_beside};
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
    /// Other servers, measured in turns with the volume.
    pub others: Vec<Other>,
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
    let network = match &ends.network {
        None => Figures::not_measured("the server has no export in memory to measure it with"),
        Some(end) => {
            let contents = if ends.network_lent { Contents::Memory } else { Contents::Precious(NOT_LENT) };
            measure_export(core, end, contents, ends, plan, &[]).await.end_to_end
        }
    };
    let Through { end_to_end, used, over_nvme, peers } = measure_through(core, ends, plan, &mut notes).await;
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
    let measured =
        Measured { drives, together, network, end_to_end, over_nvme, peers, link, copies, facts, notes };
    Report::new(measured)
}

/// What came through the volume, and through other servers beside it.
struct Through {
    end_to_end: Figures,
    used: Option<Used>,
    over_nvme: Option<Figures>,
    peers: Vec<Peer>,
}

/// The volume over NBD, where there is that way, and over NVMe/TCP. Others are compared with the first of them.
async fn measure_through(core: &Core, ends: &Ends, plan: &Plan, notes: &mut Vec<String>) -> Through {
    let others = ends.others.as_slice();
    let end = ends.scratch.as_ref().or(ends.volume.as_ref());
    let over_nbd = match end {
        Some(end) => {
            let lent = ends.scratch.is_some();
            if !lent {
                notes.extend(note_unwritten(core, end, plan.region).await);
            }
            let contents = if lent { Contents::Scratch } else { Contents::Precious(NO_SCRATCH) };
            Some(measure_export(core, end, contents, ends, plan, others).await)
        }
        None => None,
    };
    let left = if over_nbd.is_some() { &[] } else { others };
    let over_nvme = match &ends.namespace {
        Some(end) => Some(measure_namespace(core, end, ends, plan, notes, left).await),
        None => None,
    };
    match (over_nbd, over_nvme) {
        (Some(nbd), nvme) => Through { over_nvme: nvme.map(|through| through.end_to_end), ..nbd },
        (None, Some(nvme)) => nvme,
        (None, None) => Through::without(Figures::not_measured("no volume was named"), others),
    }
}

impl Through {
    fn without(end_to_end: Figures, others: &[Other]) -> Through {
        let peers = others.iter().map(|other| Peer::without(&other.name, nothing_beside())).collect();
        Through { end_to_end, used: None, over_nvme: None, peers }
    }

    /// All that an open volume can give: alone, or in turns with others.
    async fn measure(core: &Core, opened: Opened, plan: TargetPlan, beside: Beside<'_>) -> Through {
        let connections = opened.ways.len();
        let (measured, peers) = match beside.others {
            [] => (measure_target(core, opened, plan).await, Vec::new()),
            _ => measure_in_turns(core, opened, plan, beside).await,
        };
        let used = Some(Used { connections, bytes: measured.used });
        Through { end_to_end: measured.figures, used, over_nvme: None, peers }
    }
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
    others: &[Other],
) -> Through {
    let connections = plan.connections.max(1);
    let connected = match connect(core, end, connections).await {
        Ok(connected) => connected,
        Err(error) => return Through::without(failed(&error.to_string()), others),
    };
    let target = TargetPlan { run: plan.run, region: plan.region, contents, server: ends.server };
    let beside = Beside { address: &end.address, others, connections };
    let through = Through::measure(core, connected.opened(), target, beside).await;
    connected.close().await;
    through
}

async fn measure_namespace(
    core: &Core,
    end: &NamespaceEnd,
    ends: &Ends,
    plan: &Plan,
    notes: &mut Vec<String>,
    others: &[Other],
) -> Through {
    let connections = plan.connections.max(1);
    let associated = match associate(core, end, connections).await {
        Ok(associated) => associated,
        Err(error) => return Through::without(failed(&error.to_string()), others),
    };
    let contents = if ends.namespace_lent { Contents::Scratch } else { Contents::Precious(NO_SCRATCH) };
    if !ends.namespace_lent {
        notes.extend(unwritten_note("the namespace", associated.unwritten_share()));
    }
    let target = TargetPlan { run: plan.run, region: plan.region, contents, server: ends.server };
    let beside = Beside { address: &end.address, others, connections };
    let through = Through::measure(core, associated.opened(), target, beside).await;
    associated.close().await;
    through
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
