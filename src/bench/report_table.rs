//! The report as text for a terminal (ux.md 3.6). Pure.

use super::figure::{Figure, Figures};
use super::limits::Link;
use super::report::{OVER_NVME, Report};
use super::report_peers;
use super::verdict::{Bottleneck, Verdict};
use super::workload::{Unit, Workload};
use crate::base::size::show_size;
use crate::base::units::ByteLen;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// With more drives than this the table shows the slowest and the sum, and the drives get a table of their own.
const DRIVE_COLUMNS_MAX: usize = 3;

/// Characters of the longest bar.
const BAR_MAX: usize = 48;

/// A time with a unit that fits: `840 ns`, `12.3 µs`, `11.2 ms`, `1.50 s`.
pub fn show_time(ns: u64) -> String {
    // Rounding is meant; exact nanoseconds are in the JSON.
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", show_digits(value / 1e3)),
        1_000_000..1_000_000_000 => format!("{} ms", show_digits(value / 1e6)),
        1_000_000_000.. => format!("{:.2} s", value / 1e9),
    }
}

fn show_digits(value: f64) -> String {
    if value < 9.95 {
        format!("{value:.2}")
    } else if value < 999.5 {
        format!("{value:.1}")
    } else {
        show_thousands(value)
    }
}

/// A rounded number with a space between groups of three digits.
pub fn show_thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// A rate in the unit of its workload: bytes a second as MB/s, requests a second as they are.
pub fn show_rate(workload: Workload, rate: f64) -> String {
    match workload.unit() {
        Unit::MegabytesPerSecond => show_digits(rate / 1e6),
        Unit::RequestsPerSecond if rate < 99.5 => format!("{rate:.1}"),
        Unit::RequestsPerSecond => show_thousands(rate),
    }
}

/// The rate that a workload is judged by, of a figure.
pub fn rate(workload: Workload, figure: &Figure) -> f64 {
    match workload.unit() {
        Unit::MegabytesPerSecond => figure.bytes_per_second(),
        Unit::RequestsPerSecond => figure.requests_per_second(),
    }
}

/// The whole report.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    out += &main_table(report);
    if report.measured.drives.len() > DRIVE_COLUMNS_MAX {
        out += &format!("\n{}", drives_table(report));
    }
    for number in 0..report.measured.peers.len() {
        out += &format!("\n{}", peer_table(report, number));
    }
    for workload in [Workload::SequentialRead, Workload::SequentialWrite] {
        if let Some(verdict) = report.verdicts.get(&workload) {
            out += &format!("\n{}", bars(verdict));
        }
    }
    out.push('\n');
    out.extend(summary(report).into_iter().map(|line| line + "\n"));
    out.extend(report.remarks().into_iter().map(|line| format!("note: {line}\n")));
    out
}

struct Column<'a> {
    title: String,
    figures: Option<&'a Figures>,
}

fn columns(report: &Report) -> Vec<Column<'_>> {
    let measured = &report.measured;
    let mut columns = Vec::new();
    if measured.drives.len() <= DRIVE_COLUMNS_MAX {
        for drive in &measured.drives {
            let title = format!("{} {}", drive.name, show_size(ByteLen(drive.size_bytes)));
            columns.push(Column { title, figures: Some(&drive.figures) });
        }
    }
    if measured.together.is_some() {
        let title = format!("{} drives", measured.drives.len());
        columns.push(Column { title, figures: measured.together.as_ref() });
    }
    columns.push(Column { title: "network".to_owned(), figures: Some(&measured.network) });
    columns.push(Column { title: "end to end".to_owned(), figures: Some(&measured.end_to_end) });
    let nvme = measured.over_nvme.as_ref();
    columns.extend(nvme.map(|figures| Column { title: OVER_NVME.to_owned(), figures: Some(figures) }));
    columns
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn main_table(report: &Report) -> String {
    let columns = columns(report);
    let mut table = plain_table();
    let titles = columns.iter().map(|c| c.title.clone());
    let head = ["".to_owned(), "".to_owned()].into_iter().chain(titles).chain(["bottleneck".to_owned()]);
    table.set_header(head.collect::<Vec<String>>());
    for workload in Workload::ALL {
        table.add_row(rate_row(report, &columns, workload));
    }
    for workload in [Workload::RandomRead, Workload::RandomWrite] {
        table.add_row(latency_row(&columns, workload));
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if at > 1 && at < columns.len() + 2 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    trimmed(&table)
}

fn rate_row(report: &Report, columns: &[Column<'_>], workload: Workload) -> Vec<String> {
    let unit = match workload.unit() {
        Unit::MegabytesPerSecond => "MB/s",
        Unit::RequestsPerSecond => "IOPS",
    };
    let mut row = vec![workload.title().to_owned(), unit.to_owned()];
    row.extend(columns.iter().map(|c| match c.figures.and_then(|f| f.figure(workload)) {
        Some(figure) => show_rate(workload, rate(workload, figure)),
        None => "-".to_owned(),
    }));
    row.push(report.verdicts.get(&workload).map_or_else(String::new, |v| v.bottleneck.sentence()));
    row
}

fn latency_row(columns: &[Column<'_>], workload: Workload) -> Vec<String> {
    let name = if workload.is_write() { "latency 4k write, depth 1" } else { "latency 4k read, depth 1" };
    let mut row = vec![name.to_owned(), "ms".to_owned()];
    row.extend(columns.iter().map(|c| match c.figures.and_then(|f| f.figure(workload)) {
        Some(figure) => show_percentiles(figure),
        None => "-".to_owned(),
    }));
    row.push("p50 / p99 / p99.9".to_owned());
    row
}

/// Milliseconds at p50, p99 and p99.9; a dash where too few requests were made to tell.
pub fn show_percentiles(figure: &Figure) -> String {
    let show = |ns: Option<u64>| match ns {
        // Rounding is meant.
        Some(ns) if ns < 995_000 => format!("{:.3}", ns as f64 / 1e6),
        Some(ns) => show_digits(ns as f64 / 1e6), // as above
        None => "-".to_owned(),
    };
    [figure.p50_ns, figure.p99_ns, figure.p999_ns].map(show).join(" / ")
}

fn peer_table(report: &Report, number: usize) -> String {
    let peer = &report.measured.peers[number];
    if peer.contests.is_empty() {
        return format!("against {}: not measured, see the notes\n", peer.name);
    }
    let mut table = plain_table();
    table.set_header(report_peers::HEAD);
    for row in report_peers::rows(report, number) {
        table.add_row(row.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if (2..5).contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("against {}\n{}", peer.name, trimmed(&table))
}

fn drives_table(report: &Report) -> String {
    let mut table = plain_table();
    let titles = Workload::ALL.iter().map(|w| w.title().to_owned());
    table.set_header(
        ["each drive alone".to_owned(), "".to_owned()].into_iter().chain(titles).collect::<Vec<_>>(),
    );
    for drive in &report.measured.drives {
        let mut row = vec![drive.name.clone(), show_size(ByteLen(drive.size_bytes))];
        row.extend(Workload::ALL.iter().map(|w| match drive.figures.figure(*w) {
            Some(figure) => show_rate(*w, rate(*w, figure)),
            None => "-".to_owned(),
        }));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_padding((0, 2));
        column.set_cell_alignment(CellAlignment::Right);
    }
    trimmed(&table)
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Three bars: what the drives and the network can, and what was got.
fn bars(verdict: &Verdict) -> String {
    let rates = [
        ("drives ", verdict.drives_limit),
        ("network", verdict.network_limit),
        ("got    ", Some(verdict.got)),
    ];
    let most = rates.iter().filter_map(|(_, rate)| *rate).fold(1.0, f64::max);
    let mut out = String::new();
    for (name, rate) in rates {
        let Some(rate) = rate else { continue };
        let title = if out.is_empty() { verdict.workload.title() } else { "" };
        // A bar of at most BAR_MAX characters.
        let length = (rate / most * BAR_MAX as f64).round() as usize;
        let shown = show_rate(verdict.workload, rate);
        out += &format!("{title:<17} {name} |{:<width$}  {shown}\n", "#".repeat(length), width = BAR_MAX);
    }
    out
}

/// What the verdicts mean for the user, and how it was measured.
pub fn summary(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for (what, workload) in [("reads   ", Workload::SequentialRead), ("writes  ", Workload::SequentialWrite)]
    {
        if let Some(verdict) = report.verdicts.get(&workload) {
            lines.push(format!("{what} {}", meaning(&verdict.bottleneck, &report.measured.link)));
        }
    }
    lines.push(method(report));
    lines.extend(report_peers::method(report));
    lines
}

fn meaning(bottleneck: &Bottleneck, link: &Link) -> String {
    match bottleneck {
        Bottleneck::Network { .. } => match link {
            Link::Interface { megabits: Some(megabits), .. } if *megabits <= 1000 => {
                "are as fast as this network allows. Faster needs 2.5 Gb/s or a second link.".to_owned()
            }
            Link::Interface { .. } | Link::Local | Link::Unknown => {
                "are as fast as this network allows.".to_owned()
            }
        },
        Bottleneck::Drive { name, .. } => format!("are held back by one drive, {name}."),
        Bottleneck::Drives { .. } => "are as fast as these drives are together.".to_owned(),
        Bottleneck::Processor { .. } => "are held back by the processor.".to_owned(),
        Bottleneck::LoadGenerator { .. } => {
            "may be faster than this: the processor that made the load was full.".to_owned()
        }
        Bottleneck::Waiting { .. } | Bottleneck::Open { .. } => {
            "reach neither the limit of the drives nor that of the network.".to_owned()
        }
    }
}

fn method(report: &Report) -> String {
    let facts = &report.measured.facts;
    let run = show_time(facts.run_ns);
    let kernel = &facts.kernel;
    let link = report.measured.link.describe();
    let connections = match facts.connections {
        0 => String::new(),
        1 => ", 1 connection".to_owned(),
        n => format!(", {n} connections"),
    };
    format!("runs of {run}; writes include the final flush. kernel {kernel}; {link}{connections}.")
}

#[cfg(test)]
mod tests {
    use super::super::report::sample;
    use super::*;

    #[test]
    fn times_and_rates_are_shown_with_units_that_fit() {
        let shown: Vec<String> = [840, 12_340, 190_000, 11_200_000, 999_999_999, 1_500_000_000]
            .into_iter()
            .map(show_time)
            .collect();
        assert_eq!(shown, ["840 ns", "12.3 µs", "190.0 µs", "11.2 ms", "1 000 ms", "1.50 s"]);
        assert_eq!(show_thousands(1_234_567.4), "1 234 567");
        assert_eq!(show_rate(Workload::SequentialRead, 117_600_000.0), "117.6");
        assert_eq!(show_rate(Workload::SequentialRead, 5_690_000_000.0), "5 690");
        assert_eq!(show_rate(Workload::RandomRead, 28_700.0), "28 700");
    }

    #[test]
    fn the_table_has_every_layer_and_the_verdicts() {
        let text = render(&sample::report());
        for part in [
            "sda 80.0 GB",
            "sdb 500.1 GB",
            "2 drives",
            "network",
            "end to end",
            "drive sda: every write waits for it",
            "reads    are as fast as this network allows. Faster needs 2.5 Gb/s",
            "writes   are held back by one drive, sda.",
            "eno1, 1 Gb/s, MTU 1500, 4 connections.",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line == line.trim_end()));
    }

    #[test]
    fn another_server_gets_a_table_with_ratios_or_a_line() {
        let text = render(&sample::report_with_peers());
        for part in [
            "against nbd://stonebox:1/\n",
            "drystone : other",
            "1.50 (1.50 to 1.50)",
            "no limit reached: network 66.6 % used",
            "against nbd://nobody: not measured, see the notes",
            "note: nbd://nobody: cannot connect",
            "5 rounds of turns of 5.00 s",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.lines().all(|line| line == line.trim_end()));
    }

    #[test]
    fn many_drives_get_a_table_of_their_own() {
        let mut report = sample::report();
        let drive = report.measured.drives[0].clone();
        report.measured.drives.extend([drive.clone(), drive]);
        let text = render(&report);
        assert!(text.contains("each drive alone") && text.contains("4 drives"), "{text}");
    }

    #[test]
    fn missing_figures_are_dashes_with_a_reason_below() {
        let mut report = sample::report();
        report.measured.end_to_end = Figures::not_measured("no volume given");
        let report = Report::new(report.measured);
        let text = render(&report);
        assert!(text.contains("note: end to end: no volume given"), "{text}");
        assert!(!text.contains('#'), "no bars without a result");
    }
}
