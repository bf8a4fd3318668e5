//! Disk, network and the way through both, measured alike; names what holds the result back.
//!
//! Rank 9. Three layers are measured with the same six workloads: the drives alone, the network alone (an export
//! in memory), and a volume over NBD. `verdict` compares them. Everything that decides or renders is pure; the I/O
//! is in `load`, `measure_disk` and `measure_nbd`, on one core of the reactor.

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
pub mod processor;
pub mod report;
pub mod report_html;
pub mod report_json;
pub mod report_table;
pub mod verdict;
pub mod workload;

pub use command::run;
pub use measure_disk::{DiskPlan, DisksMeasured, measure_disks};
pub use measure_nbd::{Contents, Endpoint, TargetMeasured, TargetPlan, connect, measure_target};
pub use report::{Facts, Measured, Report};

use crate::base::units::ByteLen;
use crate::reactor::Core;
use figure::Figures;
use limits::{Link, link_towards};
use measure_nbd::{failed, unwritten_share};
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
    /// Copies that each block of the volume has; 0 where that is not known.
    pub copies: u8,
    /// The server's process, where it runs on this machine.
    pub server: Server,
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
            + usize::from(ends.volume.is_some() || ends.scratch.is_some());
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
    let (end_to_end, used) = match (&ends.scratch, &ends.volume) {
        (Some(end), _) => measure_export(core, end, Contents::Scratch, ends, plan).await,
        (None, Some(end)) => {
            notes.extend(note_unwritten(core, end, plan.region).await);
            measure_export(core, end, Contents::Precious(NO_SCRATCH), ends, plan).await
        }
        (None, None) => (Figures::not_measured("no volume was named"), None),
    };
    let any = ends.scratch.as_ref().or(ends.volume.as_ref()).or(ends.network.as_ref());
    let link = any.map_or(Link::Unknown, |end| link_towards(&end.address));
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
    Report::new(Measured { drives, together, network, end_to_end, link, copies, facts, notes })
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
    let clients = match connect(core, end, plan.connections.max(1)).await {
        Ok(clients) => clients,
        Err(error) => return (failed(&error.to_string()), None),
    };
    let target = TargetPlan { run: plan.run, region: plan.region, contents, server: ends.server };
    let measured = measure_target(core, &clients, target).await;
    let used = Used { connections: clients.len(), bytes: measured.used };
    for client in clients {
        // A failed goodbye changes no figure; a failed connection has shown in them already.
        let _ = client.disconnect().await;
    }
    (measured.figures, Some(used))
}

async fn note_unwritten(core: &Core, end: &Endpoint, region: ByteLen) -> Option<String> {
    let share = unwritten_share(core, end, region).await.filter(|share| *share > UNWRITTEN_NOTED)?;
    let percent = share * 100.0;
    Some(format!("{percent:.0} % of what was read was never written: reading that needs no drive"))
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
