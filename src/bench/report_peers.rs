//! Ours beside another server as rows of text, for the terminal and the page. Pure.

use super::figure::Figure;
use super::peer::{Contest, Peer, ROUNDS, Ratio};
use super::report::Report;
use super::report_table::{rate, show_percentiles, show_rate, show_time};
use super::workload::{Unit, Workload};
use crate::base::size::show_size;

/// What the columns are.
pub const HEAD: [&str; 6] = ["", "", "drystone", "other", "drystone : other", "bottleneck of the other"];

/// One row; what is not known is empty.
pub type Row = [String; HEAD.len()];

/// Rates of all workloads, latencies of the small ones, and the servers' processor time where it is known.
pub fn rows(report: &Report, number: usize) -> Vec<Row> {
    let peer = &report.measured.peers[number];
    let rates = Workload::ALL.map(|workload| rate_row(report, number, workload));
    let small = Workload::ALL.into_iter().filter(|workload| !workload.is_sequential());
    let latencies = small.map(|workload| latency_row(report, peer, workload));
    // At depth 1 a server does so little in a turn that the kernel's counter says nothing.
    let busy = Workload::ALL.into_iter().filter(|workload| workload.depth() > 1);
    let processor = busy.filter_map(|workload| processor_row(report, peer, workload));
    rates.into_iter().chain(latencies).chain(processor).collect()
}

/// Both figures of a workload in words.
fn both(report: &Report, peer: &Peer, workload: Workload, show: impl Fn(&Figure) -> String) -> [String; 2] {
    [&report.measured.end_to_end, &peer.figures].map(|f| f.figure(workload).map(&show).unwrap_or_default())
}

fn rate_row(report: &Report, number: usize, workload: Workload) -> Row {
    let peer = &report.measured.peers[number];
    let unit = match workload.unit() {
        Unit::MegabytesPerSecond => "MB/s",
        Unit::RequestsPerSecond => "IOPS",
    };
    let [ours, theirs] = both(report, peer, workload, |figure| show_rate(workload, rate(workload, figure)));
    let ratio = peer.contests.get(&workload).map(|contest| show_ratio(contest.rate)).unwrap_or_default();
    let verdict = report.peer_verdicts[number].get(&workload);
    let bottleneck = match (verdict, peer.figures.reason(workload)) {
        (Some(verdict), _) => verdict.bottleneck.sentence(),
        (None, Some(_)) => "not measured, see the notes".to_owned(),
        (None, None) => String::new(),
    };
    [workload.title().to_owned(), unit.to_owned(), ours, theirs, ratio, bottleneck]
}

fn latency_row(report: &Report, peer: &Peer, workload: Workload) -> Row {
    let kind = if workload.is_write() { "write" } else { "read" };
    let title = format!("latency 4k {kind}, depth {}", workload.depth());
    let [ours, theirs] = both(report, peer, workload, show_percentiles);
    let ratio = peer.contests.get(&workload).map(show_latency_ratios).unwrap_or_default();
    [title, "ms".to_owned(), ours, theirs, ratio, "p50 / p99 / p99.9".to_owned()]
}

/// None where it is known of neither.
fn processor_row(report: &Report, peer: &Peer, workload: Workload) -> Option<Row> {
    let show = |figure: &Figure| match figure.server_ns_per_request() {
        // Rounding is meant.
        Some(ns) => format!("{:.1}", ns as f64 / 1e3),
        None => String::new(),
    };
    let [ours, theirs] = both(report, peer, workload, show);
    if ours.is_empty() && theirs.is_empty() {
        return None;
    }
    let ratio = peer.contests.get(&workload).and_then(|contest| contest.server_cpu);
    let ratio = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
    let title = format!("processor, {}", workload.title());
    Some([title, "µs".to_owned(), ours, theirs, ratio, "of the server, for a request".to_owned()])
}

/// The median of the rounds' ratios, and the range.
pub fn show_ratio(ratio: Ratio) -> String {
    format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.least, ratio.most)
}

fn show_latency_ratios(contest: &Contest) -> String {
    let show = |ratio: Option<Ratio>| ratio.map_or_else(|| "-".to_owned(), |r| format!("{:.2}", r.median));
    [contest.p50, contest.p99, contest.p999].map(show).join(" / ")
}

/// How it was compared, in lines.
pub fn method(report: &Report) -> Vec<String> {
    let measured = report.measured.peers.iter().filter(|peer| !peer.contests.is_empty());
    let (ours, mut lines) = (report.measured.facts.connections, Vec::new());
    for peer in measured {
        let (turn, area, connections) = (show_time(peer.turn_ns), show_size(peer.used), peer.connections);
        lines.push(format!(
            "against {}: {ROUNDS} rounds of turns of {turn} on the first {area}; \
             connections: drystone {ours}, other {connections}.",
            peer.name
        ));
    }
    if !lines.is_empty() {
        let meaning = "drystone : other is the median of the rounds (least to most). \
                       Rates: over 1 drystone is faster. Times: under 1 drystone needs less.";
        lines.push(meaning.to_owned());
    }
    lines
}
