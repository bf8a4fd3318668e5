//! What one run of one workload gave: throughput, latency distribution, processor time. Pure.

use super::workload::Workload;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Latencies above this count as this, nanoseconds (one minute).
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// The points of a latency curve, in hundred-thousandths of all requests (99.99 % = 99_990).
const CURVE: [u32; 16] = [
    0, 10_000, 25_000, 50_000, 75_000, 90_000, 95_000, 98_000, 99_000, 99_500, 99_800, 99_900, 99_950,
    99_980, 99_990, 100_000,
];

/// The sum of a run while it goes on.
pub struct Tally {
    latency: Histogram<u64>,
    pub requests: u64,
    pub bytes: u64,
}

impl Default for Tally {
    fn default() -> Tally {
        let latency =
            Histogram::new_with_max(LATENCY_MAX_NS, 3).expect("3 digits up to a minute are allowed");
        Tally { latency, requests: 0, bytes: 0 }
    }
}

impl Tally {
    pub fn add(&mut self, latency: Duration, bytes: u64) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(ns);
        self.requests += 1;
        self.bytes += bytes;
    }

    /// The figure of a run that took `elapsed`.
    pub fn figure(&self, elapsed: Duration, cpu: Cpu) -> Figure {
        let curve = CURVE.iter().filter(|p| self.supports(**p)).map(|p| self.point(*p)).collect();
        Figure {
            requests: self.requests,
            bytes: self.bytes,
            elapsed_ns: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
            p50_ns: self.percentile(50_000),
            p99_ns: self.percentile(99_000),
            p999_ns: self.percentile(99_900),
            max_ns: self.percentile(100_000),
            curve,
            cpu,
        }
    }

    /// A percentile is only told when at least one request lies beyond it.
    fn supports(&self, per_100k: u32) -> bool {
        let beyond = u64::from(100_000 - per_100k);
        self.requests > 0 && (beyond == 0 || self.requests.saturating_mul(beyond) >= 100_000)
    }

    fn percentile(&self, per_100k: u32) -> Option<u64> {
        self.supports(per_100k).then(|| self.latency.value_at_quantile(f64::from(per_100k) / 100_000.0))
    }

    fn point(&self, per_100k: u32) -> CurvePoint {
        let latency_ns = self.latency.value_at_quantile(f64::from(per_100k) / 100_000.0);
        CurvePoint { per_100k, latency_ns }
    }
}

/// Processor time of a run. What is not known is None.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Cpu {
    /// Of the thread that made the load, nanoseconds.
    pub client_ns: Option<u64>,
    /// Of the server's process, nanoseconds.
    pub server_ns: Option<u64>,
    /// How busy all processors of this machine were, in thousandths.
    pub machine_permille: Option<u32>,
}

/// One point of a latency distribution: this share of requests took at most this long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct CurvePoint {
    /// In hundred-thousandths of all requests.
    pub per_100k: u32,
    pub latency_ns: u64,
}

/// The result of one run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Figure {
    pub requests: u64,
    pub bytes: u64,
    pub elapsed_ns: u64,
    /// Percentiles of latency; None where too few requests were made to tell.
    pub p50_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    pub p999_ns: Option<u64>,
    pub max_ns: Option<u64>,
    pub curve: Vec<CurvePoint>,
    pub cpu: Cpu,
}

impl Figure {
    fn per_second(&self, count: u64) -> f64 {
        // Rounding is meant: these are for people and comparisons; the exact counts are in the fields.
        if self.elapsed_ns == 0 { 0.0 } else { count as f64 * 1e9 / self.elapsed_ns as f64 }
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.per_second(self.bytes)
    }

    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes_per_second() / 1e6
    }

    pub fn requests_per_second(&self) -> f64 {
        self.per_second(self.requests)
    }

    /// How busy the loading thread was, 0 to 1.
    pub fn client_busy(&self) -> Option<f64> {
        // Rounding is meant, as above.
        self.cpu.client_ns.filter(|_| self.elapsed_ns > 0).map(|ns| ns as f64 / self.elapsed_ns as f64)
    }

    /// Processor time of the server for one request, nanoseconds.
    pub fn server_ns_per_request(&self) -> Option<u64> {
        self.cpu.server_ns.filter(|_| self.requests > 0).map(|ns| ns / self.requests)
    }
}

/// How a measurement ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Measured(Figure),
    /// It was not tried, and why.
    NotMeasured {
        reason: String,
    },
    /// It was tried and ended with an error.
    Failed {
        reason: String,
    },
}

impl Outcome {
    pub fn not_measured(reason: &str) -> Outcome {
        Outcome::NotMeasured { reason: reason.to_owned() }
    }

    pub fn figure(&self) -> Option<&Figure> {
        match self {
            Outcome::Measured(figure) => Some(figure),
            Outcome::NotMeasured { .. } | Outcome::Failed { .. } => None,
        }
    }
}

/// The outcomes of all workloads on one layer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Figures {
    pub outcomes: BTreeMap<Workload, Outcome>,
}

impl Figures {
    /// No workload measured, for one reason.
    pub fn not_measured(reason: &str) -> Figures {
        let outcomes = Workload::ALL.iter().map(|w| (*w, Outcome::not_measured(reason))).collect();
        Figures { outcomes }
    }

    pub fn record(&mut self, workload: Workload, outcome: Outcome) {
        self.outcomes.insert(workload, outcome);
    }

    pub fn figure(&self, workload: Workload) -> Option<&Figure> {
        self.outcomes.get(&workload).and_then(Outcome::figure)
    }

    /// Why there is no figure, where there is none.
    pub fn reason(&self, workload: Workload) -> Option<&str> {
        match self.outcomes.get(&workload) {
            Some(Outcome::NotMeasured { reason } | Outcome::Failed { reason }) => Some(reason),
            Some(Outcome::Measured(_)) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(count: u64) -> Tally {
        let mut tally = Tally::default();
        (1..=count).for_each(|n| tally.add(Duration::from_micros(n), 4096));
        tally
    }

    #[test]
    fn rates_and_percentiles_come_from_what_was_counted() {
        let figure = tally(1000).figure(Duration::from_secs(2), Cpu::default());
        assert_eq!(figure.requests_per_second(), 500.0);
        assert_eq!(figure.bytes_per_second(), 500.0 * 4096.0);
        let near = |ns: Option<u64>, us: u64| ns.unwrap().abs_diff(us * 1000) <= us;
        assert!(near(figure.p50_ns, 500) && near(figure.p99_ns, 990) && near(figure.p999_ns, 999));
        assert!(near(figure.max_ns, 1000));
    }

    #[test]
    fn percentiles_without_requests_beyond_them_are_not_told() {
        let figure = tally(50).figure(Duration::from_secs(1), Cpu::default());
        assert!(figure.p50_ns.is_some() && figure.p99_ns.is_none() && figure.p999_ns.is_none());
        let last = figure.curve.iter().rev().nth(1).unwrap();
        assert_eq!(last.per_100k, 98_000, "the curve goes from the last supported point to the maximum");
        let none = Tally::default().figure(Duration::from_secs(1), Cpu::default());
        assert!(none.p50_ns.is_none() && none.curve.is_empty());
    }

    #[test]
    fn latencies_beyond_a_minute_count_as_a_minute() {
        let mut tally = Tally::default();
        tally.add(Duration::from_secs(3600), 1);
        let max = tally.figure(Duration::from_secs(1), Cpu::default()).max_ns.unwrap();
        assert!((LATENCY_MAX_NS..2 * LATENCY_MAX_NS).contains(&max));
    }
}
