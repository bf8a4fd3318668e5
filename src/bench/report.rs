//! Everything that one benchmark found out, before it becomes a table, JSON or a page.

use super::figure::Figures;
use super::limits::Link;
use super::peer::Peer;
use super::verdict::{Layers, Verdict, verdict};
use super::workload::Workload;
use std::collections::BTreeMap;

/// What the layer is called that has the volume over NVMe/TCP, beside the one that has it over NBD.
pub const OVER_NVME: &str = "over NVMe";

/// One drive, alone.
#[derive(Clone, PartialEq, Debug)]
pub struct DriveResult {
    pub name: String,
    pub size_bytes: u64,
    pub rotational: bool,
    pub figures: Figures,
    /// What a reader should know about how it was measured.
    pub notes: Vec<String>,
}

/// How and where it was measured.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Facts {
    /// What was measured: a URI, a volume, or drives.
    pub target: String,
    pub kernel: String,
    pub connections: usize,
    /// Length of one run, nanoseconds.
    pub run_ns: u64,
    /// Bytes that were written to before measuring, and then read and written.
    pub scratch_bytes: u64,
    /// When it began, nanoseconds since 1970.
    pub began_ns: u64,
}

/// What was measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    pub drives: Vec<DriveResult>,
    /// All drives at the same time; None for fewer than two.
    pub together: Option<Figures>,
    pub network: Figures,
    pub end_to_end: Figures,
    /// The same over NVMe/TCP, where `end_to_end` is over NBD.
    pub over_nvme: Option<Figures>,
    /// Other servers, measured in turns with `end_to_end`.
    pub peers: Vec<Peer>,
    pub link: Link,
    /// Copies of each block that a write makes; 1 where it is not known.
    pub copies: u8,
    pub facts: Facts,
    pub notes: Vec<String>,
}

/// What was measured and what follows from it.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    pub measured: Measured,
    pub verdicts: BTreeMap<Workload, Verdict>,
    /// For each of the peers, in their order.
    pub peer_verdicts: Vec<BTreeMap<Workload, Verdict>>,
}

impl Report {
    pub fn new(measured: Measured) -> Report {
        let peer_verdicts = measured.peers.iter().map(|peer| peer_verdicts(&measured, peer)).collect();
        let drives: Vec<(String, &Figures)> =
            measured.drives.iter().map(|d| (d.name.clone(), &d.figures)).collect();
        let layers = Layers {
            drives: &drives,
            together: measured.together.as_ref(),
            network: &measured.network,
            link_limit: measured.link.payload_limit(),
            got: &measured.end_to_end,
            copies: measured.copies,
            local: measured.link == Link::Local,
        };
        let verdicts = Workload::ALL.into_iter().filter_map(|w| Some((w, verdict(&layers, w)?))).collect();
        Report { measured, verdicts, peer_verdicts }
    }

    /// The drives at the same time, or the only one.
    pub fn drives_together(&self) -> Option<&Figures> {
        match (&self.measured.together, self.measured.drives.as_slice()) {
            (Some(together), _) => Some(together),
            (None, [only]) => Some(&only.figures),
            (None, _) => None,
        }
    }

    /// Why figures are missing, each reason once, and what else a reader should know.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = self.measured.notes.clone();
        for drive in &self.measured.drives {
            remarks.extend(drive.notes.iter().map(|note| format!("{}: {note}", drive.name)));
            remarks.extend(missing(&drive.name, &drive.figures));
        }
        remarks.extend(missing("network", &self.measured.network));
        remarks.extend(missing("end to end", &self.measured.end_to_end));
        remarks.extend(self.measured.over_nvme.iter().flat_map(|nvme| missing(OVER_NVME, nvme)));
        for peer in &self.measured.peers {
            remarks.extend(peer.notes.iter().map(|note| format!("{}: {note}", peer.name)));
            remarks.extend(missing(&peer.name, &peer.figures));
        }
        remarks
    }
}

/// What holds another server back. The measured network counts where it is reached as ours is; of its drives nothing
/// is known.
fn peer_verdicts(measured: &Measured, peer: &Peer) -> BTreeMap<Workload, Verdict> {
    let unknown = Figures::default();
    let layers = Layers {
        drives: &[],
        together: None,
        network: if peer.same_way { &measured.network } else { &unknown },
        link_limit: peer.link.payload_limit(),
        got: &peer.figures,
        copies: 1,
        local: peer.link == Link::Local,
    };
    Workload::ALL.into_iter().filter_map(|w| Some((w, verdict(&layers, w)?))).collect()
}

/// One line for each reason why a layer has no figures, with the workloads that it concerns.
fn missing(layer: &str, figures: &Figures) -> Vec<String> {
    let mut by_reason: BTreeMap<&str, Vec<Workload>> = BTreeMap::new();
    for workload in Workload::ALL {
        if let Some(reason) = figures.reason(workload) {
            by_reason.entry(reason).or_default().push(workload);
        }
    }
    let line = |(reason, workloads): (&str, Vec<Workload>)| {
        let what = match workloads.len() {
            6 => String::new(),
            3 if workloads.iter().all(|w| w.is_write()) => " writes".to_owned(),
            3 if workloads.iter().all(|w| !w.is_write()) => " reads".to_owned(),
            _ => format!(" {}", workloads.iter().map(|w| w.title()).collect::<Vec<_>>().join(" and ")),
        };
        format!("{layer}{what}: {reason}")
    };
    by_reason.into_iter().map(line).collect()
}

#[cfg(test)]
pub(super) mod sample {
    use super::*;
    use crate::base::prng::Prng;
    use crate::base::units::ByteLen;
    use crate::bench::figure::{Cpu, Outcome, Tally};
    use crate::bench::peer::contest;
    use std::time::Duration;

    /// A run of `count` requests whose latencies lie around `median_us`.
    fn run(workload: Workload, count: u64, median_us: u64, seconds: f64) -> Outcome {
        let mut tally = Tally::default();
        let mut prng = Prng::from_seed(median_us);
        for _ in 0..count {
            let us = median_us * (70 + prng.below(60)) / 100;
            let slow = if prng.chance(8) { us * (2 + prng.below(4)) } else { us };
            tally.add(Duration::from_micros(slow), workload.request().0);
        }
        let cpu = Cpu { client_ns: Some(100_000_000), server_ns: None, machine_permille: Some(210) };
        Outcome::Measured(tally.figure(Duration::from_secs_f64(seconds), cpu))
    }

    /// MB/s, MB/s, and IOPS with latency for reads and writes at depth 1 and 32.
    fn figures(read: u64, write: u64, reads: [(u64, u64); 2], writes: [(u64, u64); 2]) -> Figures {
        let mut figures = Figures::default();
        // 1 MiB requests for ten seconds.
        let requests = |megabytes: u64| megabytes * 10_000_000 / (1 << 20);
        figures.record(Workload::SequentialRead, run(Workload::SequentialRead, requests(read), 30_000, 10.0));
        figures
            .record(Workload::SequentialWrite, run(Workload::SequentialWrite, requests(write), 60_000, 10.0));
        let small = [
            (Workload::RandomRead, reads[0]),
            (Workload::RandomReadDeep, reads[1]),
            (Workload::RandomWrite, writes[0]),
            (Workload::RandomWriteDeep, writes[1]),
        ];
        for (workload, (iops, us)) in small {
            figures.record(workload, run(workload, iops * 10, us, 10.0));
        }
        figures
    }

    /// The example of ux.md 3.6, with figures of the same kind for what it leaves out.
    pub fn report() -> Report {
        let drive = |name: &str, size_bytes, figures| DriveResult {
            name: name.to_owned(),
            size_bytes,
            rotational: true,
            figures,
            notes: Vec::new(),
        };
        let sda = figures(61, 58, [(84, 11_000), (95, 310_000)], [(110, 9_000), (120, 260_000)]);
        let sdb = figures(128, 124, [(95, 10_200), (140, 220_000)], [(150, 6_600), (170, 190_000)]);
        let together = figures(189, 180, [(180, 10_600), (235, 260_000)], [(260, 7_800), (290, 220_000)]);
        let network = figures(117, 117, [(5_000, 190), (28_700, 1_100)], [(4_900, 200), (28_100, 1_130)]);
        let got = figures(117, 57, [(88, 11_200), (231, 265_000)], [(100, 9_900), (118, 265_000)]);
        Report::new(Measured {
            drives: vec![drive("sda", 80_000_000_000, sda), drive("sdb", 500_100_000_000, sdb)],
            together: Some(together),
            network,
            end_to_end: got,
            over_nvme: None,
            peers: Vec::new(),
            link: Link::Interface { name: "eno1".to_owned(), megabits: Some(1000), mtu: 1500 },
            copies: 2,
            facts: Facts {
                target: "nbd://stonebox/data".to_owned(),
                kernel: "6.12.0".to_owned(),
                connections: 4,
                run_ns: 10_000_000_000,
                scratch_bytes: 1_000_000_000,
                began_ns: 1_764_000_000_000_000_000,
            },
            notes: Vec::new(),
        })
    }

    /// The same beside two other servers: one that is only read, and one that does not answer.
    pub fn report_with_peers() -> Report {
        let mut measured = report().measured;
        let theirs = figures(78, 57, [(90, 10_900), (154, 300_000)], [(100, 9_900), (118, 265_000)]);
        let mut peer =
            Peer { connections: 1, turn_ns: 5_000_000_000, ..Peer::without("nbd://stonebox:1/", theirs) };
        (peer.used, peer.same_way, peer.link) = (ByteLen(1_000_000_000), true, measured.link.clone());
        for workload in Workload::ALL {
            if workload.is_write() {
                peer.figures.record(workload, Outcome::not_measured("only read"));
                continue;
            }
            let of = |figures: &Figures| figures.figure(workload).into_iter().cloned().collect::<Vec<_>>();
            let contest = contest(workload, &of(&measured.end_to_end), &of(&peer.figures));
            peer.contests.insert(workload, contest.expect("both were measured"));
        }
        let silent = Peer::without("nbd://nobody", Figures::not_measured("cannot connect"));
        measured.peers = vec![peer, silent];
        Report::new(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_once_and_with_what_they_concern() {
        let mut report = sample::report();
        let drive = &mut report.measured.drives[0];
        for workload in Workload::ALL.into_iter().filter(|w| w.is_write()) {
            drive
                .figures
                .record(workload, super::super::figure::Outcome::not_measured("would overwrite data"));
        }
        report.measured.network = Figures::not_measured("no server");
        report.measured.over_nvme = Some(Figures::not_measured("no namespace"));
        let nvme = report.remarks().pop();
        assert_eq!(nvme.as_deref(), Some("over NVMe: no namespace"));
        report.measured.over_nvme = None;
        assert_eq!(report.remarks(), ["sda writes: would overwrite data", "network: no server"]);
    }

    #[test]
    fn every_workload_with_a_result_gets_a_verdict() {
        assert_eq!(sample::report().verdicts.len(), Workload::ALL.len());
    }

    #[test]
    fn peers_are_judged_by_the_network_they_share_and_by_no_drives() {
        let mut report = sample::report_with_peers();
        let verdicts = &report.peer_verdicts[0];
        assert_eq!((verdicts.len(), report.peer_verdicts[1].len()), (3, 0), "the reads, and none");
        let read = &verdicts[&Workload::SequentialRead];
        assert_eq!(read.bottleneck.sentence(), "no limit reached: network 66.6 % used");
        assert_eq!(read.drives_limit, None);
        let remarks = report.remarks();
        assert_eq!(remarks, ["nbd://stonebox:1/ writes: only read", "nbd://nobody: cannot connect"]);
        report.measured.peers[0].same_way = false;
        report.measured.peers[0].link = Link::Unknown;
        let sentence =
            Report::new(report.measured).peer_verdicts[0][&Workload::SequentialRead].bottleneck.sentence();
        assert_eq!(sentence, "not known: no limit could be measured");
    }
}
