//! The report as one page: no scripts, nothing loaded from elsewhere, the charts inside. Pure.

use super::chart::escape;
use super::figure::{Figure, Figures};
use super::peer::short_name;
use super::report::{OVER_NVME, Report};
use super::report_peers;
use super::report_table::{rate, show_rate, show_time, summary};
use super::workload::{Unit, Workload};
use super::{chart_latency, chart_throughput};
use crate::base::size::show_size;
use crate::base::units::ByteLen;

const STYLE: &str = "\
body{font:16px/1.5 'Inter','Segoe UI','DejaVu Sans',sans-serif;color:#1d2430;background:#f4f6f8;margin:0}\
main{max-width:1010px;margin:0 auto;padding:28px 24px 60px}\
h1{font-size:28px;margin:0 0 4px}h2{font-size:20px;margin:34px 0 10px}\
p.lead{color:#5c6675;margin:0 0 18px}\
figure{background:#fff;border:1px solid #dfe4ea;border-radius:8px;margin:0 0 22px;padding:8px;overflow-x:auto}\
figure svg{display:block;width:100%;height:auto}\
ul.verdict{list-style:none;padding:14px 18px;margin:0 0 22px;background:#fff;border:1px solid #dfe4ea;\
border-left:5px solid #1f6fb2;border-radius:8px}\
table{border-collapse:collapse;background:#fff;font-size:14px;width:100%}\
th,td{padding:6px 10px;border-bottom:1px solid #e3e7ec;text-align:right;font-variant-numeric:tabular-nums}\
th{background:#eef1f5;font-weight:600}th:first-child,td:first-child,td.text,th.text{text-align:left}\
td.none{color:#9aa3af}small,footer{color:#5c6675}div.wide{overflow-x:auto}";

/// The whole page.
pub fn render(report: &Report) -> String {
    let target = escape(&report.measured.facts.target);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Benchmark of {target}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{target}</h1>\n\
         <p class=\"lead\">Drives, network, and the way through both, measured alike on {}.</p>\n",
        escape(&date(report.measured.facts.began_ns))
    );
    page += &list("verdict", &summary(report));
    page += &format!("<figure>\n{}</figure>\n", chart_throughput::render(report));
    page += &format!("<figure>\n{}</figure>\n", chart_latency::render(report));
    page += "<h2>Rates</h2>\n";
    page += &rates(report);
    page += "<h2>Latency: p50 / p99 / p99.9</h2>\n";
    page += &latencies(report);
    for (number, peer) in report.measured.peers.iter().enumerate() {
        let name = short_name(number, report.measured.peers.len());
        page += &format!("<h2>Against {} ({name})</h2>\n", escape(&peer.name));
        page += &table(&report_peers::HEAD.map(str::to_owned), peer_rows(report, number));
    }
    let remarks = report.remarks();
    if !remarks.is_empty() {
        page += "<h2>Notes</h2>\n";
        page += &list("notes", &remarks);
    }
    page += &format!(
        "<footer>{}</footer>\n</main>\n</body>\n</html>\n",
        escape(&chart_throughput::footer(report))
    );
    page
}

fn list(class: &str, lines: &[String]) -> String {
    let items: String = lines.iter().map(|line| format!("<li>{}</li>\n", escape(line.trim()))).collect();
    format!("<ul class=\"{class}\">\n{items}</ul>\n")
}

/// The day and the minute, in UTC.
fn date(began_ns: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(began_ns));
    time.map_or_else(|_| "an unknown day".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

fn layers(report: &Report) -> Vec<(String, &Figures)> {
    let measured = &report.measured;
    let mut layers = Vec::new();
    for drive in &measured.drives {
        layers.push((format!("{}, {}", drive.name, show_size(ByteLen(drive.size_bytes))), &drive.figures));
    }
    if let Some(together) = &measured.together {
        layers.push((format!("{} drives together", measured.drives.len()), together));
    }
    layers.push(("network".to_owned(), &measured.network));
    layers.push(("end to end".to_owned(), &measured.end_to_end));
    layers.extend(measured.over_nvme.as_ref().map(|figures| (OVER_NVME.to_owned(), figures)));
    let count = measured.peers.len();
    let peers = measured.peers.iter().enumerate();
    layers.extend(peers.map(|(number, peer)| (short_name(number, count), &peer.figures)));
    layers
}

/// The table of another server; what was not measured is a dash, as in the other tables.
fn peer_rows(report: &Report, number: usize) -> Vec<Vec<String>> {
    let dashed = |cell: String| if cell.is_empty() { "–".to_owned() } else { cell };
    report_peers::rows(report, number).into_iter().map(|row| row.map(dashed).to_vec()).collect()
}

fn table(head: &[String], rows: Vec<Vec<String>>) -> String {
    let cell = |tag: &str, (at, text): (usize, &String)| {
        let class = match (tag, text.as_str()) {
            ("td", "–") => " class=\"none\"",
            _ if at == 0 => " class=\"text\"",
            _ => "",
        };
        format!("<{tag}{class}>{}</{tag}>", escape(text))
    };
    let line = |tag: &str, cells: &[String]| {
        let cells: String = cells.iter().enumerate().map(|c| cell(tag, c)).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let body: String = rows.iter().map(|row| line("td", row)).collect();
    format!("<div class=\"wide\"><table>\n{}{body}</table></div>\n", line("th", head))
}

/// Layers as rows, workloads as columns: drives may be many.
fn rates(report: &Report) -> String {
    let unit = |w: Workload| match w.unit() {
        Unit::MegabytesPerSecond => "MB/s",
        Unit::RequestsPerSecond => "IOPS",
    };
    let mut head = vec![String::new()];
    head.extend(Workload::ALL.iter().map(|w| format!("{}, {}", w.title(), unit(*w))));
    let show = |w: Workload, figure: &Figure| show_rate(w, rate(w, figure));
    table(&head, rows(report, &Workload::ALL, show))
}

fn latencies(report: &Report) -> String {
    let small: Vec<Workload> = Workload::ALL.into_iter().filter(|w| !w.is_sequential()).collect();
    let mut head = vec![String::new()];
    head.extend(small.iter().map(|w| w.title().to_owned()));
    let show = |_, figure: &Figure| {
        let times = [figure.p50_ns, figure.p99_ns, figure.p999_ns];
        times.map(|ns| ns.map_or_else(|| "–".to_owned(), show_time)).join(" / ")
    };
    table(&head, rows(report, &small, show))
}

fn rows(
    report: &Report,
    workloads: &[Workload],
    show: impl Fn(Workload, &Figure) -> String,
) -> Vec<Vec<String>> {
    let row = |(name, figures): (String, &Figures)| {
        let cell = |w: &Workload| figures.figure(*w).map_or_else(|| "–".to_owned(), |f| show(*w, f));
        [name].into_iter().chain(workloads.iter().map(cell)).collect()
    };
    layers(report).into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::sample;
    use super::*;

    #[test]
    fn the_page_is_whole_and_loads_nothing() {
        let page = render(&sample::report());
        assert_eq!((page.matches("<svg ").count(), page.matches("</svg>").count()), (2, 2));
        for foreign in ["<script", "href=", "src=", "@import", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("2025-11-24") && page.contains("are held back by one drive, sda."));
    }

    #[test]
    fn other_servers_have_tables_and_rows() {
        let page = render(&sample::report_with_peers());
        for part in
            ["Against nbd://stonebox:1/ (other 1)", "1.50 (1.50 to 1.50)", "nbd://nobody: cannot connect"]
        {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let mut report = sample::report_with_peers();
        report.measured.peers[0].name = "<script>\"><b".to_owned();
        report.measured.facts.target = "<script>alert(1)</script>".to_owned();
        report.measured.drives[0].name = "a\"><b".to_owned();
        let page = render(&report);
        assert!(!page.contains("<script") && !page.contains("\"><b"));
    }
}
