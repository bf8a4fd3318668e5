//! Whole measurements against our own server: what is written to, and above all what is not.

use super::*;
use crate::base::units::Span;
use crate::block::{Payload, WriteFlags};
use crate::io::driver::{Address, Driver};
use crate::io::uring::{Handles, UringConfig, UringDriver};
use crate::nvmf::subsystem::nqn_of;
use crate::reactor::CoreIndex;
use crate::reactor::threads::{CorePlan, DriverFactory, build};
use crate::target::{Protocol, Target, TargetConfig};
use crate::volume::Volume;
use crate::volume::catalog::Catalog;
use crate::volume::memory::MemoryVolume;
use figure::Outcome;
use measure_nbd::tells_names_apart;
use measure_nvme::Which;
use std::sync::Arc;

const SIZE: u64 = 8 << 20;

/// More volumes on the same server, of zeroes.
const OTHERS: [(&str, u64); 3] = [("scratch", 2 * SIZE), ("ours", SIZE), ("small", 1 << 20)];

fn core() -> Core {
    let handles = Handles::new();
    let factory: DriverFactory<std::io::Error> = Arc::new(move |buffers| {
        let driver = UringDriver::new(UringConfig::default(), buffers, handles.clone());
        Ok(Box::new(driver.map_err(std::io::Error::other)?) as Box<dyn Driver>)
    });
    build(CorePlan { index: CoreIndex(0), cpu: None, arena: 32 << 20, seed: 1 }, &factory).unwrap()
}

/// A server on this core with one volume full of a pattern, and others; that volume and the server's address.
async fn serve(core: &Core) -> (Arc<Volume>, Address, Target) {
    let volume = Arc::new(Volume::in_memory("data", MemoryVolume::new(ByteLen(SIZE))));
    let catalog = Arc::new(Catalog::default());
    catalog.insert(volume.clone());
    for (name, size) in OTHERS {
        catalog.insert(Arc::new(Volume::in_memory(name, MemoryVolume::new(ByteLen(size)))));
    }
    for block in 0..SIZE >> 20 {
        let mut buf = core.buffers().take(1 << 20);
        buf.as_mut_slice().fill(0xd5);
        let span = Span::at(block << 20, 1 << 20);
        volume.handle(core).write(span, &Payload::one(buf.freeze()), WriteFlags::default()).await.unwrap();
    }
    let (target, desks) = Target::new(catalog, TargetConfig::default(), 1);
    for desk in desks {
        core.spawn(desk.attend(core.clone()));
    }
    let address =
        target.listen(core, Address::Tcp("127.0.0.1:0".parse().unwrap()), Protocol::Nbd).await.unwrap();
    (volume, address, target)
}

/// The same volume as `serve` has, for NVMe/TCP hosts.
async fn serve_nvme(core: &Core, volume: &Volume, target: &Target) -> NamespaceEnd {
    let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
    let address = target.listen(core, any, Protocol::NvmeTcp).await.unwrap();
    let identity = volume.identity();
    NamespaceEnd { address, subsystem: nqn_of(identity.pool), which: Which::Number(identity.number) }
}

async fn is_untouched(core: &Core, volume: &Arc<Volume>) -> bool {
    for block in 0..SIZE >> 20 {
        let bytes = volume.handle(core).read(Span::at(block << 20, 1 << 20)).await.unwrap().to_vec();
        if bytes.iter().any(|b| *b != 0xd5) {
            return false;
        }
    }
    true
}

fn plan() -> Plan {
    Plan { run: Duration::from_millis(200), connections: 2, region: ByteLen(SIZE) }
}

fn measured(figures: &Figures) -> usize {
    figures.outcomes.values().filter(|o| matches!(o, Outcome::Measured(_))).count()
}

#[test]
fn nothing_is_written_that_was_not_lent() {
    let core = core();
    core.run_until({
        let core = core.clone();
        async move {
            let (volume, address, target) = serve(&core).await;
            let end = Endpoint { address, export: "data".to_owned() };
            let ends = Ends { volume: Some(end.clone()), network: Some(end), ..Ends::default() };
            let report = measure(&core, &ends, &plan()).await;
            assert_eq!(measured(&report.measured.network), 3, "the reads: {:?}", report.remarks());
            assert_eq!(measured(&report.measured.end_to_end), 3, "the reads: {:?}", report.remarks());
            assert!(is_untouched(&core, &volume).await);
            target.stop(&core, Duration::from_secs(1)).await;
        }
    });
    core.drain();
}

#[test]
fn scratch_and_lent_exports_are_measured_in_full() {
    let core = core();
    core.run_until({
        let core = core.clone();
        async move {
            let (volume, address, target) = serve(&core).await;
            let end = Endpoint { address, export: "data".to_owned() };
            let network = Some(end.clone());
            let ends = Ends { scratch: Some(end), network, network_lent: true, ..Ends::default() };
            let report = measure(&core, &ends, &plan()).await;
            assert_eq!(measured(&report.measured.network), 6, "{:?}", report.remarks());
            assert_eq!(measured(&report.measured.end_to_end), 6, "{:?}", report.remarks());
            assert_eq!(report.measured.facts.scratch_bytes, SIZE);
            assert!(!is_untouched(&core, &volume).await, "the check above can fail");
            target.stop(&core, Duration::from_secs(1)).await;
        }
    });
    core.drain();
}

#[test]
fn a_namespace_is_measured_alone_or_beside_the_export_and_written_only_if_lent() {
    let core = core();
    core.run_until({
        let core = core.clone();
        async move {
            let (volume, address, target) = serve(&core).await;
            let end = serve_nvme(&core, &volume, &target).await;
            let alone = Ends { namespace: Some(end.clone()), ..Ends::default() };
            let report = measure(&core, &alone, &plan()).await;
            assert_eq!(measured(&report.measured.end_to_end), 3, "the reads: {:?}", report.remarks());
            assert_eq!((report.measured.over_nvme.is_none(), report.measured.facts.connections), (true, 2));
            assert!(is_untouched(&core, &volume).await);
            let export = Some(Endpoint { address, export: "data".to_owned() });
            let which = Which::Volume(volume.identity().volume);
            let namespace = Some(NamespaceEnd { which, ..end.clone() });
            let both = Ends { scratch: export, namespace, namespace_lent: true, ..Ends::default() };
            let report = measure(&core, &both, &plan()).await;
            assert_eq!(measured(&report.measured.end_to_end), 6, "{:?}", report.remarks());
            let nvme = report.measured.over_nvme.as_ref().unwrap();
            assert_eq!(measured(nvme), 6, "{:?}", report.remarks());
            assert!(report_table::render(&report).contains("over NVMe"));
            let missing = NamespaceEnd { which: Which::Number(300), ..end };
            let nothing = Ends { namespace: Some(missing), ..Ends::default() };
            let report = measure(&core, &nothing, &plan()).await;
            assert!(report.remarks().iter().any(|line| line.contains("no namespace 300")));
            target.stop(&core, Duration::from_secs(1)).await;
        }
    });
    core.drain();
}

#[test]
fn other_servers_have_turns_and_are_written_only_if_that_was_said() {
    let core = core();
    core.run_until({
        let core = core.clone();
        async move {
            let (precious, address, target) = serve(&core).await;
            let end = |export: &str| Endpoint { address: address.clone(), export: export.to_owned() };
            let other = |export, written| Other { name: format!("to {export}"), end: end(export), written };
            let others = vec![other("data", false), other("small", false), other("none", false)];
            let ends = Ends { scratch: Some(end("scratch")), others, ..Ends::default() };
            let short = Plan { run: Duration::from_millis(40), ..plan() };
            let report = measure(&core, &ends, &Plan { region: ByteLen(2 * SIZE), ..short }).await;
            assert_eq!(measured(&report.measured.end_to_end), 6, "{:?}", report.remarks());
            let [data, small, none] = &report.measured.peers[..] else { panic!("three peers") };
            assert_eq!((measured(&data.figures), data.contests.len()), (3, 3), "{:?}", report.remarks());
            assert_eq!((data.used, data.connections), (ByteLen(SIZE), 2));
            assert_eq!(report.measured.facts.scratch_bytes, SIZE, "as much of ours as of the smallest");
            assert!(is_untouched(&core, &precious).await);
            assert_eq!((small.contests.len(), none.contests.len()), (0, 0));
            let remarks = report.remarks().join("\n");
            for part in
                ["to data writes: not measured: the other server is only read", "to none: ", "less than 4"]
            {
                assert!(remarks.contains(part), "{part}: {remarks}");
            }
            let ends = Ends { others: vec![other("data", true)], ..ends };
            let report = measure(&core, &ends, &short).await;
            assert_eq!(report.measured.peers[0].contests.len(), 6, "{:?}", report.remarks());
            assert!(!is_untouched(&core, &precious).await, "the check above can fail");
            target.stop(&core, Duration::from_secs(1)).await;
        }
    });
    core.drain();
}

#[test]
fn no_other_server_is_written_where_ours_is_not() {
    let core = core();
    core.run_until({
        let core = core.clone();
        async move {
            let (precious, address, target) = serve(&core).await;
            let end = |export: &str| Endpoint { address: address.clone(), export: export.to_owned() };
            let others = vec![Other { name: "to data".to_owned(), end: end("data"), written: true }];
            let ends = Ends { volume: Some(end("ours")), others, ..Ends::default() };
            let report = measure(&core, &ends, &Plan { run: Duration::from_millis(40), ..plan() }).await;
            assert_eq!(report.measured.peers[0].contests.len(), 3, "{:?}", report.remarks());
            assert!(is_untouched(&core, &precious).await);
            let ends = Ends { volume: None, ..ends };
            let report = measure(&core, &ends, &plan()).await;
            let remarks = report.remarks().join("\n");
            assert!(remarks.contains("to data: not measured: there are no figures of drystone"), "{remarks}");
            target.stop(&core, Duration::from_secs(1)).await;
        }
    });
    core.drain();
}

#[test]
fn our_server_tells_names_apart_and_nobody_is_not_believed() {
    let core = core();
    core.run_until({
        let core = core.clone();
        async move {
            let (_, address, target) = serve(&core).await;
            assert!(tells_names_apart(&core, &address).await);
            target.stop(&core, Duration::from_secs(1)).await;
            assert!(!tells_names_apart(&core, &address).await, "nobody listens");
        }
    });
    core.drain();
}

#[test]
fn drives_are_measured_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let disks: Vec<PathBuf> = ["a.img", "b.img"].map(|name| folder.path().join(name)).into();
    for disk in &disks {
        std::fs::write(disk, vec![0xd5; 4 << 20]).unwrap();
    }
    let core = core();
    let outcome = core.run_until({
        let (core, disks) = (core.clone(), disks.clone());
        async move {
            let plan = DiskPlan { run: Duration::from_millis(100), scratch: ByteLen(4 << 20) };
            measure_disks(&core, &disks, plan).await
        }
    });
    core.drain();
    assert_eq!(outcome.drives.iter().map(|d| measured(&d.figures)).collect::<Vec<_>>(), [6, 6]);
    assert_eq!(measured(outcome.together.as_ref().unwrap()), 6);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no scratch file is left");
    assert!(disks.iter().all(|d| std::fs::read(d).unwrap().iter().all(|b| *b == 0xd5)));
}
