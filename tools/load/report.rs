//! What a run found: counters and latencies, as JSON on standard output and one line for people on standard error.

use crate::ledger::Mismatch;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

/// Runs of mismatches that are described; all sectors are counted.
const DESCRIBED_MAX: usize = 20;
const LATENCY_MAX_NS: u64 = 600_000_000_000;

/// Which latencies are kept together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Read,
    Write,
    Flush,
}

pub struct Stats {
    reads: Latencies,
    writes: Latencies,
    flushes: Latencies,
    /// Requests that were answered with an error, and the first of them in words.
    pub errors: u64,
    first_error: Option<String>,
    mismatches: u64,
    findings: Vec<String>,
    pub reconnects: u64,
}

struct Latencies {
    bytes: u64,
    histogram: Histogram<u64>,
}

impl Latencies {
    fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("constant bounds are valid");
        Latencies { bytes: 0, histogram }
    }

    fn summary(&self) -> LatencySummary {
        LatencySummary {
            count: self.histogram.len(),
            bytes: self.bytes,
            p50_ns: self.histogram.value_at_quantile(0.5),
            p99_ns: self.histogram.value_at_quantile(0.99),
            p999_ns: self.histogram.value_at_quantile(0.999),
            max_ns: self.histogram.max(),
        }
    }
}

impl Stats {
    pub fn new() -> Stats {
        Stats {
            reads: Latencies::new(),
            writes: Latencies::new(),
            flushes: Latencies::new(),
            errors: 0,
            first_error: None,
            mismatches: 0,
            findings: Vec::new(),
            reconnects: 0,
        }
    }

    pub fn count(&mut self, class: Class, bytes: u64, latency: Duration) {
        let of = match class {
            Class::Read => &mut self.reads,
            Class::Write => &mut self.writes,
            Class::Flush => &mut self.flushes,
        };
        of.bytes += bytes;
        of.histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn error(&mut self, what: String) {
        self.errors += 1;
        self.first_error.get_or_insert(what);
    }

    pub fn mismatches(&mut self, found: &[Mismatch], at: Duration) {
        self.mismatches += u64::try_from(found.len()).expect("a count fits");
        for run in found.chunk_by(|a, b| a.sector + 1 == b.sector && a.why == b.why) {
            if self.findings.len() < DESCRIBED_MAX {
                let more = if run.len() > 1 {
                    format!(", and {} sectors after it", run.len() - 1)
                } else {
                    String::new()
                };
                let text = format!("at {:.3} s: {}{more}", at.as_secs_f64(), run[0]);
                eprintln!("load: MISMATCH {text}");
                self.findings.push(text);
            }
        }
    }

    pub fn summary(&self, what: &'static str, elapsed: Duration, end: End) -> Summary {
        let (reads, writes) = (self.reads.summary(), self.writes.summary());
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let per_second = |n: u64| n as f64 / seconds; // for people: the rounding of large counts does not matter
        Summary {
            schema: "drystone.load/1",
            what,
            seconds,
            iops: per_second(reads.count + writes.count),
            mb_per_second: per_second(reads.bytes + writes.bytes) / 1e6,
            reads,
            writes,
            flushes: self.flushes.summary(),
            errors: self.errors,
            first_error: self.first_error.clone(),
            mismatches: self.mismatches,
            findings: self.findings.clone(),
            reconnects: self.reconnects,
            end,
        }
    }
}

/// How a run came to its end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Finished,
    /// The server went away, and that was not to be survived.
    Lost(String),
    /// No request was answered for too long.
    Hung(String),
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct LatencySummary {
    pub count: u64,
    pub bytes: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub schema: &'static str,
    pub what: &'static str,
    pub seconds: f64,
    pub iops: f64,
    pub mb_per_second: f64,
    pub reads: LatencySummary,
    pub writes: LatencySummary,
    pub flushes: LatencySummary,
    pub errors: u64,
    pub first_error: Option<String>,
    pub mismatches: u64,
    pub findings: Vec<String>,
    pub reconnects: u64,
    pub end: End,
}

impl Summary {
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).expect("plain data"));
        eprintln!("load: {}", self.line());
    }

    fn line(&self) -> String {
        let ms = |ns: u64| format!("{:.3}", Duration::from_nanos(ns).as_secs_f64() * 1e3);
        let mut line = format!(
            "{} {:.1} s: {:.0} IOPS, {:.1} MB/s",
            self.what, self.seconds, self.iops, self.mb_per_second
        );
        for (name, of) in [("reads", &self.reads), ("writes", &self.writes), ("flushes", &self.flushes)] {
            if of.count > 0 {
                let [p50, p99, p999] = [of.p50_ns, of.p99_ns, of.p999_ns].map(ms);
                line += &format!("; {} {name} p50/p99/p99.9 {p50}/{p99}/{p999} ms", of.count);
            }
        }
        if self.reconnects > 0 {
            line += &format!("; reconnected {} times", self.reconnects);
        }
        line + &self.verdict()
    }

    fn verdict(&self) -> String {
        let errors = match &self.first_error {
            Some(first) => format!("; {} ERRORS, first: {first}", self.errors),
            None => String::new(),
        };
        let mismatches = match self.mismatches {
            0 => "; no mismatch".to_owned(),
            n => format!("; {n} MISMATCHES"),
        };
        match &self.end {
            End::Finished => errors + &mismatches,
            End::Lost(why) => format!("{errors}{mismatches}; connection lost: {why}"),
            End::Hung(why) => format!("{errors}{mismatches}; HUNG: {why}"),
        }
    }

    /// 0 all well, 1 wrong data, errors or a hang, 4 the server went away.
    pub fn exit_code(&self) -> ExitCode {
        match self.end {
            _ if self.mismatches > 0 || self.errors > 0 => ExitCode::from(1),
            End::Hung(_) => ExitCode::from(1),
            End::Lost(_) => ExitCode::from(4),
            End::Finished => ExitCode::SUCCESS,
        }
    }
}
