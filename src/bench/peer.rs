//! Other servers beside ours: what the rounds in which all had their turns say together. Pure.

use super::figure::{Cpu, Figure, Figures};
use super::limits::Link;
use super::report_table::rate;
use super::workload::Workload;
use crate::base::units::ByteLen;
use std::collections::BTreeMap;

/// Turns of every server for each workload: an odd number, so that the median is a round that was run.
pub const ROUNDS: usize = 5;

/// Ours divided by theirs, of each round's pair.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ratio {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

/// Ours against theirs in one workload. A time is missing where a round had too few requests to tell it.
#[derive(Clone, PartialEq, Debug)]
pub struct Contest {
    /// Of what the workload is judged by: over 1, ours is faster.
    pub rate: Ratio,
    /// Of latencies: under 1, ours is faster.
    pub p50: Option<Ratio>,
    pub p99: Option<Ratio>,
    pub p999: Option<Ratio>,
    /// Of the servers' processor time for a request, all rounds together: under 1, ours needs less.
    pub server_cpu: Option<f64>,
}

/// Another server, measured in turns with ours.
#[derive(Clone, PartialEq, Debug)]
pub struct Peer {
    /// The address as it was typed.
    pub name: String,
    /// What lies between here and there.
    pub link: Link,
    /// It is reached as ours is, so that the measured network carries as much for both.
    pub same_way: bool,
    pub connections: usize,
    /// Bytes from its start that were used, the same number as of ours.
    pub used: ByteLen,
    /// The length of a turn, nanoseconds.
    pub turn_ns: u64,
    /// Medians of the rounds.
    pub figures: Figures,
    pub contests: BTreeMap<Workload, Contest>,
    pub notes: Vec<String>,
}

impl Peer {
    /// One that could not be measured at all, and why.
    pub fn without(name: &str, figures: Figures) -> Peer {
        Peer {
            name: name.to_owned(),
            link: Link::Unknown,
            same_way: false,
            connections: 0,
            used: ByteLen(0),
            turn_ns: 0,
            figures,
            contests: BTreeMap::new(),
            notes: Vec::new(),
        }
    }
}

/// What a peer is called where there is little room: by its number, where there are several.
pub fn short_name(number: usize, count: usize) -> String {
    if count == 1 { "other".to_owned() } else { format!("other {}", number + 1) }
}

/// The ratios of the rounds that both had.
pub fn contest(workload: Workload, ours: &[Figure], theirs: &[Figure]) -> Option<Contest> {
    let ratios = |of: &dyn Fn(&Figure) -> Option<f64>| {
        let pairs = ours.iter().zip(theirs);
        ratio(pairs.map(|(a, b)| Some(of(a)? / of(b)?)).collect::<Option<Vec<f64>>>()?)
    };
    // Rounding is meant: below 2^53 ns, and for people.
    let time = |ns: Option<u64>| ns.map(|ns| ns as f64);
    Some(Contest {
        rate: ratios(&|figure| Some(rate(workload, figure)))?,
        p50: ratios(&|figure| time(figure.p50_ns)),
        p99: ratios(&|figure| time(figure.p99_ns)),
        p999: ratios(&|figure| time(figure.p999_ns)),
        server_cpu: cpu_per_request(ours).zip(cpu_per_request(theirs)).map(|(a, b)| a / b),
    })
}

fn ratio(mut values: Vec<f64>) -> Option<Ratio> {
    values.sort_by(f64::total_cmp);
    let (least, most) = (*values.first()?, *values.last()?);
    let median = values[values.len() / 2];
    [least, median, most].iter().all(|value| value.is_finite()).then_some(Ratio { median, least, most })
}

/// A server's processor time for a request, nanoseconds. The kernel counts it in hundredths of a second, so it is
/// taken over all rounds; a server that used none has processes that were not looked at.
fn cpu_per_request(rounds: &[Figure]) -> Option<f64> {
    let used: u64 = rounds.iter().map(|figure| figure.cpu.server_ns).sum::<Option<u64>>()?;
    let requests: u64 = rounds.iter().map(|figure| figure.requests).sum();
    // Rounding is meant.
    (used > 0 && requests > 0).then(|| used as f64 / requests as f64)
}

/// The rounds as one figure: the round whose rate is the median, with the medians of the percentiles.
pub fn median(workload: Workload, rounds: &[Figure]) -> Option<Figure> {
    let mut ordered: Vec<&Figure> = rounds.iter().collect();
    ordered.sort_by(|a, b| rate(workload, a).total_cmp(&rate(workload, b)));
    let middle = *ordered.get(rounds.len() / 2)?;
    let middle_of = |of: &dyn Fn(&Figure) -> Option<u64>| {
        let mut values = rounds.iter().map(of).collect::<Option<Vec<u64>>>()?;
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    let server_ns = cpu_per_request(rounds).map(|ns| {
        // Rounding is meant; less than the run's length times the processors.
        (ns * middle.requests as f64).round() as u64
    });
    Some(Figure {
        p50_ns: middle_of(&|figure| figure.p50_ns),
        p99_ns: middle_of(&|figure| figure.p99_ns),
        p999_ns: middle_of(&|figure| figure.p999_ns),
        cpu: Cpu { server_ns, ..middle.cpu },
        ..middle.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::Tally;
    use std::time::Duration;

    fn round(requests: u64, us: u64, server_ms: Option<u64>) -> Figure {
        let mut tally = Tally::default();
        (0..requests).for_each(|_| tally.add(Duration::from_micros(us), 4096));
        let server_ns = server_ms.map(|ms| ms * 1_000_000);
        tally.figure(Duration::from_secs(1), Cpu { server_ns, ..Cpu::default() })
    }

    #[test]
    fn ratios_are_made_of_pairs_and_not_of_medians() {
        let ours = [round(100, 10, None), round(200, 10, None), round(400, 10, None)];
        let theirs = [round(200, 20, None), round(400, 20, None), round(100, 20, None)];
        let contest = contest(Workload::RandomRead, &ours, &theirs).unwrap();
        assert_eq!(contest.rate, Ratio { median: 0.5, least: 0.5, most: 4.0 });
        assert!((contest.p50.unwrap().median - 0.5).abs() < 0.01);
        assert_eq!((contest.p999, contest.server_cpu), (None, None));
    }

    #[test]
    fn processor_time_is_taken_over_all_rounds_and_none_is_not_believed() {
        let ours = [round(100, 10, Some(0)), round(100, 10, Some(10)), round(100, 10, Some(20))];
        let theirs = [round(100, 10, Some(60)), round(100, 10, Some(0)), round(100, 10, Some(0))];
        assert_eq!(contest(Workload::RandomRead, &ours, &theirs).unwrap().server_cpu, Some(0.5));
        assert_eq!(median(Workload::RandomRead, &ours).unwrap().cpu.server_ns, Some(10_000_000));
        let none = [round(100, 10, Some(0))];
        assert_eq!(contest(Workload::RandomRead, &none, &theirs).unwrap().server_cpu, None);
        assert_eq!(median(Workload::RandomRead, &none).unwrap().cpu.server_ns, None);
    }

    #[test]
    fn the_median_is_a_round_that_was_run() {
        let rounds = [round(500, 30, None), round(100, 10, None), round(300, 20, None)];
        let figure = median(Workload::RandomRead, &rounds).unwrap();
        assert_eq!(figure.requests, 300);
        assert!(figure.p50_ns.unwrap().abs_diff(20_000) < 100);
        assert!(figure.p99_ns.is_some());
        assert_eq!(median(Workload::RandomRead, &[]), None);
        assert!(contest(Workload::RandomRead, &rounds, &[]).is_none());
    }

    #[test]
    fn peers_have_numbers_only_where_there_are_several() {
        assert_eq!([short_name(0, 1), short_name(1, 2)], ["other", "other 2"]);
    }
}
