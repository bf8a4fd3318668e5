//! What holds a result back, decided from the measured rates alone. Pure.
//!
//! A layer's limit is what it gave alone. The lowest limit is the bottleneck when the result comes close to it;
//! when it comes close to none, a full processor is, and else nothing measured here explains it and we say so.
//! At depth 1 nothing is ever full: there the time of one request is split between the layers instead.

use super::figure::{Figure, Figures};
use super::workload::{Unit, Workload};
use serde::Serialize;

/// A result this close to a limit has reached it.
const REACHED: f64 = 0.85;

/// A result this far above a limit shows that the limit was measured too low (a cache, for instance).
const BEYOND: f64 = 1.15;

/// A processor this busy has no more to give.
const BUSY: f64 = 0.90;

/// The slowest drive is named alone when it is below this part of the mean of all.
const SLOWEST_STANDS_OUT: f64 = 0.9;

/// What a verdict is made from: rates in one unit, bytes or requests a second.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rates {
    /// Each drive alone.
    pub drives: Vec<(String, f64)>,
    /// All drives at the same time, added up.
    pub together: Option<f64>,
    /// The network, measured or in theory.
    pub network: Option<f64>,
    /// Through the volume.
    pub got: f64,
    pub copies: u8,
    pub writes: bool,
    /// Both ends share one machine, so the network's limit is the processor's.
    pub local: bool,
    pub processor: Processor,
}

/// How busy processors were during the run through the volume, 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Processor {
    /// All processors of this machine.
    pub machine: Option<f64>,
    /// The thread that made the load.
    pub client: Option<f64>,
}

/// What holds a result back.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "bottleneck", rename_all = "snake_case")]
pub enum Bottleneck {
    /// The network carries no more; the share of what it can that was got.
    Network { share: f64 },
    /// One drive that everything waits for.
    Drive { name: String, share: f64 },
    /// All drives together.
    Drives { share: f64 },
    /// All processors of this machine.
    Processor { busy: f64 },
    /// The one processor that made the load.
    LoadGenerator { busy: f64 },
    /// Depth 1: where the time of the median request goes, nanoseconds.
    Waiting { drives_ns: u64, network_ns: u64, rest_ns: u64 },
    /// No limit was reached; the shares of those that are known.
    Open { network: Option<f64>, drives: Option<f64> },
}

/// The limits of the layers below a result, and what holds it back.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Verdict {
    pub workload: Workload,
    /// In bytes a second (sequential) or requests a second (random).
    pub drives_limit: Option<f64>,
    pub network_limit: Option<f64>,
    pub got: f64,
    #[serde(flatten)]
    pub bottleneck: Bottleneck,
}

/// The drives' limit for a workload, and the drive that sets it alone.
fn drives_limit(rates: &Rates) -> Option<(f64, Option<&str>)> {
    let count = rates.drives.len() as f64; // a handful
    let together = rates.together.or_else(|| (rates.drives.len() == 1).then(|| rates.drives[0].1))?;
    if !rates.writes || rates.drives.is_empty() {
        return Some((together, None));
    }
    let (name, slowest) = rates.drives.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    // Every write goes to `copies` drives and is answered when the last has it. Spread evenly, each drive takes
    // copies/count of the writes, and the slowest one sets the pace of all.
    let copies = f64::from(rates.copies.max(1)).min(count);
    let even = slowest * count / copies;
    let sum = together / copies;
    let mean = rates.drives.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let stands_out = rates.drives.len() > 1 && *slowest < mean * SLOWEST_STANDS_OUT;
    Some((even.min(sum), stands_out.then_some(name.as_str())))
}

/// Judges a result with requests in flight at the same time.
pub fn judge(rates: &Rates) -> (Option<f64>, Bottleneck) {
    let drives = drives_limit(rates);
    let share = |limit: f64| rates.got / limit;
    let usable = |share: &f64| share.is_finite() && *share <= BEYOND;
    let drives_share = drives.map(|(limit, _)| share(limit)).filter(usable);
    let network_share = rates.network.map(share).filter(usable);
    let limit = drives.map(|(limit, _)| limit);
    let full = rates.processor.machine.filter(|busy| *busy >= BUSY);
    if let Some(network) = network_share.filter(|n| *n >= REACHED && *n >= drives_share.unwrap_or(0.0)) {
        let bottleneck = match full.filter(|_| rates.local) {
            Some(busy) => Bottleneck::Processor { busy },
            None => Bottleneck::Network { share: network },
        };
        return (limit, bottleneck);
    }
    if let Some(share) = drives_share.filter(|d| *d >= REACHED) {
        let bottleneck = match drives.and_then(|(_, name)| name) {
            Some(name) => Bottleneck::Drive { name: name.to_owned(), share },
            None => Bottleneck::Drives { share },
        };
        return (limit, bottleneck);
    }
    let client = rates.processor.client.filter(|busy| *busy >= BUSY);
    let bottleneck = match (full, client) {
        (Some(busy), _) => Bottleneck::Processor { busy },
        (None, Some(busy)) => Bottleneck::LoadGenerator { busy },
        (None, None) => Bottleneck::Open { network: network_share, drives: drives_share },
    };
    (limit, bottleneck)
}

/// Splits the median request at depth 1 between the layers; None where a layer is not known.
pub fn split(got: &Figure, drives_p50_ns: Option<u64>, network_p50_ns: Option<u64>) -> Option<Bottleneck> {
    let (got, network_ns, drives_ns) = (got.p50_ns?, network_p50_ns?, drives_p50_ns?);
    let sum = network_ns.saturating_add(drives_ns);
    if sum <= got {
        return Some(Bottleneck::Waiting { drives_ns, network_ns, rest_ns: got - sum });
    }
    // The layers were slower alone (the machine had other things to do): only their proportion is known.
    let part = u128::from(got) * u128::from(network_ns) / u128::from(sum);
    let network_ns = u64::try_from(part).expect("a part of a u64");
    Some(Bottleneck::Waiting { drives_ns: got - network_ns, network_ns, rest_ns: 0 })
}

/// The layers of one measurement.
pub struct Layers<'a> {
    /// Each drive alone, with its name.
    pub drives: &'a [(String, &'a Figures)],
    pub together: Option<&'a Figures>,
    pub network: &'a Figures,
    /// What the link carries in theory, bytes a second, for where the network was not measured.
    pub link_limit: Option<f64>,
    pub got: &'a Figures,
    pub copies: u8,
    pub local: bool,
}

/// The verdict on one workload; None where there is no result through the volume.
pub fn verdict(layers: &Layers<'_>, workload: Workload) -> Option<Verdict> {
    let figure = layers.got.figure(workload)?;
    let rates = rates(layers, workload, figure);
    let (drives_limit, judged) = judge(&rates);
    let waiting = (workload.depth() == 1).then(|| {
        let network = layers.network.figure(workload).and_then(|f| f.p50_ns);
        split(figure, drive_p50_ns(layers, workload), network)
    });
    let bottleneck = waiting.flatten().unwrap_or(judged);
    Some(Verdict { workload, drives_limit, network_limit: rates.network, got: rates.got, bottleneck })
}

fn rates(layers: &Layers<'_>, workload: Workload, got: &Figure) -> Rates {
    let rate = |figure: &Figure| match workload.unit() {
        Unit::MegabytesPerSecond => figure.bytes_per_second(),
        Unit::RequestsPerSecond => figure.requests_per_second(),
    };
    let theory = layers.link_limit.map(|bytes| match workload.unit() {
        Unit::MegabytesPerSecond => bytes,
        // Rounding is meant.
        Unit::RequestsPerSecond => bytes / workload.request().0 as f64,
    });
    let drives = layers.drives.iter();
    Rates {
        drives: drives.filter_map(|(name, f)| Some((name.clone(), rate(f.figure(workload)?)))).collect(),
        together: layers.together.and_then(|f| f.figure(workload)).map(rate),
        network: layers.network.figure(workload).map(rate).or(theory),
        got: rate(got),
        copies: layers.copies,
        writes: workload.is_write(),
        local: layers.local,
        processor: Processor {
            machine: got.cpu.machine_permille.map(|permille| f64::from(permille) / 1000.0),
            client: got.client_busy(),
        },
    }
}

/// A read waits for one drive, whichever has the block; a write for the slowest.
fn drive_p50_ns(layers: &Layers<'_>, workload: Workload) -> Option<u64> {
    let medians: Option<Vec<u64>> =
        layers.drives.iter().map(|(_, f)| f.figure(workload).and_then(|f| f.p50_ns)).collect();
    let medians = medians.filter(|m| !m.is_empty())?;
    let count = u64::try_from(medians.len()).ok()?;
    match workload.is_write() && layers.copies > 1 {
        true => medians.into_iter().max(),
        false => Some(medians.iter().sum::<u64>() / count),
    }
}

impl Bottleneck {
    /// One phrase for people.
    pub fn sentence(&self) -> String {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        match self {
            Bottleneck::Network { share } => format!("network, {} of what it can carry", percent(*share)),
            Bottleneck::Drive { name, share } => {
                format!("drive {name}: every write waits for it, {} of what that allows", percent(*share))
            }
            Bottleneck::Drives { share } => format!("drives, {} of what they give together", percent(*share)),
            Bottleneck::Processor { busy } => format!("the processor, {} busy", percent(*busy)),
            Bottleneck::LoadGenerator { busy } => {
                format!("the load generator: its processor is {} busy", percent(*busy))
            }
            Bottleneck::Waiting { drives_ns, network_ns, rest_ns } => {
                waiting_sentence(*drives_ns, *network_ns, *rest_ns)
            }
            Bottleneck::Open { network, drives } => open_sentence(*network, *drives),
        }
    }
}

fn waiting_sentence(drives_ns: u64, network_ns: u64, rest_ns: u64) -> String {
    let time = super::report_table::show_time;
    let parts = [("drives", drives_ns), ("network", network_ns), ("server", rest_ns)];
    let (name, ns) = parts.iter().max_by_key(|(_, ns)| *ns).expect("three parts");
    let total = drives_ns + network_ns + rest_ns;
    let others: Vec<String> =
        parts.iter().filter(|(n, _)| n != name).map(|(n, ns)| format!("{n} {}", time(*ns))).collect();
    format!("waiting: {name} {} of {}, {}", time(*ns), time(total), others.join(", "))
}

fn open_sentence(network: Option<f64>, drives: Option<f64>) -> String {
    let used: Vec<String> = [("network", network), ("drives", drives)]
        .into_iter()
        .filter_map(|(name, share)| share.map(|share| format!("{name} {:.1} % used", share * 100.0)))
        .collect();
    match used.is_empty() {
        true => "not known: no limit could be measured".to_owned(),
        false => format!("no limit reached: {}", used.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of ux.md 3.6: sda 61/58, sdb 128/124 MB/s, a gigabit, two copies.
    fn example(writes: bool, got: f64) -> Rates {
        let (a, b) = if writes { (58.0, 124.0) } else { (61.0, 128.0) };
        Rates {
            drives: vec![("sda".to_owned(), a), ("sdb".to_owned(), b)],
            together: Some(a + b),
            network: Some(117.6),
            got,
            copies: 2,
            writes,
            local: false,
            processor: Processor::default(),
        }
    }

    #[test]
    fn reads_at_line_rate_are_held_back_by_the_network() {
        let (limit, bottleneck) = judge(&example(false, 117.1));
        assert_eq!(limit, Some(189.0));
        assert_eq!(bottleneck.sentence(), "network, 99.6 % of what it can carry");
    }

    #[test]
    fn mirrored_writes_wait_for_the_slower_drive() {
        let (limit, bottleneck) = judge(&example(true, 57.4));
        assert_eq!(limit, Some(58.0));
        assert_eq!(bottleneck.sentence(), "drive sda: every write waits for it, 99.0 % of what that allows");
    }

    #[test]
    fn equal_drives_are_named_together() {
        let mut rates = example(true, 110.0);
        rates.drives = (1..=4).map(|n| (format!("sd{n}"), 60.0)).collect();
        rates.together = Some(230.0);
        let (limit, bottleneck) = judge(&rates);
        assert_eq!(limit, Some(115.0), "every byte goes to two of the four drives");
        assert!(matches!(bottleneck, Bottleneck::Drives { share } if share > 0.95));
    }

    #[test]
    fn the_lower_limit_is_named_when_both_are_near() {
        let mut rates = example(false, 110.0);
        rates.together = Some(112.0);
        assert!(matches!(judge(&rates).1, Bottleneck::Drives { .. }));
        rates.together = Some(125.0);
        assert!(matches!(judge(&rates).1, Bottleneck::Network { .. }));
    }

    #[test]
    fn a_full_processor_is_named_when_no_layer_is_full() {
        let mut rates = example(false, 50.0);
        assert!(matches!(judge(&rates).1, Bottleneck::Open { network: Some(_), drives: Some(_) }));
        rates.processor.client = Some(0.97);
        assert!(matches!(judge(&rates).1, Bottleneck::LoadGenerator { .. }));
        rates.processor.machine = Some(0.98);
        assert_eq!(judge(&rates).1.sentence(), "the processor, 98.0 % busy");
    }

    #[test]
    fn on_one_machine_a_full_network_is_a_full_processor() {
        let mut rates = example(false, 117.1);
        rates.processor.machine = Some(0.99);
        assert!(matches!(judge(&rates).1, Bottleneck::Network { .. }), "the wire is full, whatever else is");
        rates.local = true;
        assert!(matches!(judge(&rates).1, Bottleneck::Processor { .. }));
    }

    #[test]
    fn results_far_above_the_drives_do_not_blame_them() {
        let mut rates = example(false, 90.0);
        rates.together = Some(20.0);
        assert!(matches!(judge(&rates).1, Bottleneck::Open { drives: None, network: Some(_) }));
    }

    #[test]
    fn without_any_limit_nothing_is_blamed() {
        let rates = Rates { got: 5.0, copies: 1, ..Rates::default() };
        let (limit, bottleneck) = judge(&rates);
        assert_eq!(limit, None);
        assert_eq!(bottleneck.sentence(), "not known: no limit could be measured");
    }

    #[test]
    fn one_drive_alone_is_all_drives_together() {
        let rates = Rates { drives: vec![("sda".into(), 60.0)], got: 59.0, copies: 1, ..Rates::default() };
        assert!(matches!(judge(&rates), (Some(60.0), Bottleneck::Drives { .. })));
        let one = Rates { writes: true, copies: 2, ..rates };
        assert!(matches!(judge(&one), (Some(60.0), Bottleneck::Drives { .. })));
    }

    fn median(ns: u64) -> Figure {
        let mut tally = crate::bench::figure::Tally::default();
        tally.add(std::time::Duration::from_nanos(ns), 4096);
        let mut figure = tally.figure(std::time::Duration::from_secs(1), Default::default());
        figure.p50_ns = Some(ns);
        figure
    }

    #[test]
    fn one_request_at_a_time_is_split_into_where_it_waits() {
        let bottleneck = split(&median(11_200_000), Some(10_900_000), Some(200_000)).unwrap();
        assert_eq!(
            bottleneck,
            Bottleneck::Waiting { drives_ns: 10_900_000, network_ns: 200_000, rest_ns: 100_000 }
        );
        assert!(bottleneck.sentence().starts_with("waiting: drives 10.9 ms of 11.2 ms"), "{bottleneck:?}");
        let over = split(&median(100), Some(300), Some(100)).unwrap();
        assert_eq!(over, Bottleneck::Waiting { drives_ns: 75, network_ns: 25, rest_ns: 0 });
        assert_eq!(split(&median(5), None, Some(1)), None);
    }

    #[test]
    fn theory_stands_in_for_a_network_that_was_not_measured() {
        let mut got = Figures::default();
        let mut tally = crate::bench::figure::Tally::default();
        (0..117).for_each(|_| tally.add(std::time::Duration::from_millis(8), 1_000_000));
        let figure = tally.figure(std::time::Duration::from_secs(1), Default::default());
        got.record(Workload::SequentialRead, super::super::figure::Outcome::Measured(figure));
        let network = Figures::not_measured("no bench export");
        let link_limit = super::super::limits::tcp_payload_limit(1000, 1500);
        let layers = Layers {
            drives: &[],
            together: None,
            network: &network,
            link_limit,
            got: &got,
            copies: 2,
            local: false,
        };
        let verdict = verdict(&layers, Workload::SequentialRead).unwrap();
        assert_eq!(verdict.bottleneck.sentence(), "network, 99.4 % of what it can carry");
        assert!(super::verdict(&layers, Workload::SequentialWrite).is_none());
    }
}
