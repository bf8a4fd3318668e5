//! Latency distributions of the 4 KiB workloads, by percentile, both axes logarithmic: the tail is what hurts. Pure.

use super::chart::{Anchor, DRIVES, FAINT, Font, GOT, GRID, INK, NETWORK, PEERS, Svg, shorten};
use super::figure::{CurvePoint, Figure, Figures};
use super::peer::short_name;
use super::report::Report;
use super::report_table::show_time;
use super::workload::Workload;

const WIDTH: f64 = 960.0;
const TOP: f64 = 96.0;
const PANEL_WIDTH: f64 = 385.0;
const PANEL_HEIGHT: f64 = 240.0;
const LEFT: f64 = 78.0;
const GAP_X: f64 = 82.0;
const GAP_Y: f64 = 84.0;

/// Single drives that get a line of their own; of more only all together are shown.
const DRIVE_LINES_MAX: usize = 3;

const PANELS: [(Workload, &str); 4] = [
    (Workload::RandomRead, "4 KiB random read, one at a time"),
    (Workload::RandomWrite, "4 KiB random write, one at a time"),
    (Workload::RandomReadDeep, "4 KiB random read, 32 in flight"),
    (Workload::RandomWriteDeep, "4 KiB random write, 32 in flight"),
];

const SHADES: [&str; DRIVE_LINES_MAX] = ["#6b7486", "#a3acba", "#c3c9d2"];

struct Series<'a> {
    name: String,
    colour: &'static str,
    dashed: bool,
    figures: &'a Figures,
}

/// The ranges of both axes, the same for all panels so that they compare.
struct Axes {
    /// Powers of ten of nanoseconds.
    low: f64,
    high: f64,
    /// Nines of the rarest percentile.
    nines: f64,
}

/// The whole picture.
pub fn render(report: &Report) -> String {
    let height = TOP + 2.0 * (PANEL_HEIGHT + GAP_Y) + 14.0;
    let target = shorten(&report.measured.facts.target, 60);
    let mut svg = Svg::new(WIDTH, height, &format!("Latency of {target}"));
    svg.text(24.0, 34.0, Font::new(20.0, INK, Anchor::Start).bold(), &format!("Latency of {target}"));
    let subtitle = "how long requests take: the share on the lower axis takes at most the time on the left";
    svg.text(24.0, 55.0, Font::new(13.0, FAINT, Anchor::Start), subtitle);
    let series = series(report);
    legend(&mut svg, &series);
    let axes = axes(&series);
    for (number, (workload, title)) in PANELS.into_iter().enumerate() {
        let column = (number % 2) as f64; // 0 or 1
        let row = (number / 2) as f64; // 0 or 1
        let corner = (LEFT + column * (PANEL_WIDTH + GAP_X), TOP + 22.0 + row * (PANEL_HEIGHT + GAP_Y));
        draw_panel(&mut svg, &series, workload, title, &axes, corner);
    }
    let footer = super::chart_throughput::footer(report);
    svg.text(24.0, height - 10.0, Font::new(11.0, FAINT, Anchor::Start), &footer);
    svg.finish()
}

fn series(report: &Report) -> Vec<Series<'_>> {
    let measured = &report.measured;
    let mut series = Vec::new();
    if measured.drives.len() <= DRIVE_LINES_MAX {
        for (drive, colour) in measured.drives.iter().zip(SHADES) {
            let name = format!("drive {}", shorten(&drive.name, 18));
            series.push(Series { name, colour, dashed: true, figures: &drive.figures });
        }
    } else if let Some(figures) = &measured.together {
        let name = format!("{} drives together", measured.drives.len());
        series.push(Series { name, colour: DRIVES, dashed: true, figures });
    }
    let network =
        Series { name: "network".to_owned(), colour: NETWORK, dashed: false, figures: &measured.network };
    let got =
        Series { name: "end to end".to_owned(), colour: GOT, dashed: false, figures: &measured.end_to_end };
    series.extend([network, got]);
    let peers = &measured.peers;
    series.extend(peers.iter().zip(PEERS).enumerate().map(|(number, (peer, colour))| {
        let name = short_name(number, peers.len());
        Series { name, colour, dashed: false, figures: &peer.figures }
    }));
    series.retain(|s| PANELS.iter().any(|(workload, _)| s.figures.figure(*workload).is_some()));
    series
}

fn legend(svg: &mut Svg, series: &[Series<'_>]) {
    let mut x = 24.0;
    for series in series {
        svg.path(&[(x, 75.0), (x + 26.0, 75.0)], series.colour, 3.0, series.dashed);
        svg.text(x + 33.0, 79.0, Font::new(13.0, INK, Anchor::Start), &series.name);
        x += 52.0 + 7.6 * series.name.chars().count() as f64; // a short name
    }
}

fn figures<'a>(series: &'a [Series<'_>]) -> impl Iterator<Item = &'a Figure> {
    series.iter().flat_map(|s| PANELS.iter().filter_map(|(workload, _)| s.figures.figure(*workload)))
}

fn axes(series: &[Series<'_>]) -> Axes {
    let times = || figures(series).flat_map(|f| f.curve.iter().map(|p| p.latency_ns.max(1)));
    let (low, high) = (times().min().unwrap_or(10_000), times().max().unwrap_or(1_000_000));
    // Rounding is meant: these are positions in a picture.
    let low = (low as f64).log10().floor();
    let high = (high as f64).log10().ceil().max(low + 1.0); // as above
    let nines = figures(series).map(|f| nines_of_last(f.requests)).fold(1.0, f64::max).ceil();
    Axes { low, high, nines: nines.clamp(2.0, 5.0) }
}

/// Where the slowest of so many requests is drawn: as the one in that many.
fn nines_of_last(requests: u64) -> f64 {
    // Rounding is meant.
    (requests.max(1) as f64).log10().min(5.0)
}

/// Nines of a percentile: 0 at the fastest, 1 at 90 %, 2 at 99 %.
fn nines(point: &CurvePoint, requests: u64) -> f64 {
    match point.per_100k {
        100_000.. => nines_of_last(requests),
        part => (100_000.0 / f64::from(100_000 - part)).log10(),
    }
}

fn draw_panel(
    svg: &mut Svg,
    series: &[Series<'_>],
    workload: Workload,
    title: &str,
    axes: &Axes,
    (left, top): (f64, f64),
) {
    let across = |nines: f64| left + nines / axes.nines * PANEL_WIDTH;
    let down = |ns: f64| top + (axes.high - ns.log10()) / (axes.high - axes.low) * PANEL_HEIGHT;
    svg.text(left, top - 9.0, Font::new(14.0, INK, Anchor::Start).bold(), title);
    draw_grid(svg, axes, (left, top), &across, &down);
    let mut drawn = 0;
    for series in series {
        let Some(figure) = series.figures.figure(workload) else { continue };
        let place = |p: &CurvePoint| (across(nines(p, figure.requests)), down(p.latency_ns.max(1) as f64)); // as above
        let points: Vec<(f64, f64)> = figure.curve.iter().map(place).collect();
        svg.path(&points, series.colour, 2.4, series.dashed);
        if let Some((x, y)) = points.last() {
            svg.dot(*x, *y, series.colour);
        }
        drawn += 1;
    }
    if drawn == 0 {
        let (x, y) = (left + PANEL_WIDTH / 2.0, top + PANEL_HEIGHT / 2.0);
        svg.text(x, y, Font::new(13.0, FAINT, Anchor::Middle), "not measured");
    }
}

fn draw_grid(
    svg: &mut Svg,
    axes: &Axes,
    (left, top): (f64, f64),
    across: &impl Fn(f64) -> f64,
    down: &impl Fn(f64) -> f64,
) {
    let bottom = top + PANEL_HEIGHT;
    let mut power = axes.low;
    while power <= axes.high {
        let y = down(10f64.powf(power));
        svg.line((left, y), (left + PANEL_WIDTH, y), GRID, false);
        let ns = 10f64.powf(power).round() as u64; // a power of ten below 10^11
        svg.text(left - 7.0, y + 4.0, Font::new(11.0, FAINT, Anchor::End), &round_time(ns));
        power += 1.0;
    }
    let marks = [
        (0.0, "fastest"),
        (std::f64::consts::LOG10_2, "50 %"),
        (1.0, "90 %"),
        (2.0, "99 %"),
        (3.0, "99.9 %"),
        (4.0, "99.99 %"),
    ];
    for (nines, name) in marks.into_iter().filter(|(nines, _)| *nines <= axes.nines) {
        let x = across(nines);
        svg.line((x, top), (x, bottom), GRID, false);
        // The median's mark is too near to the first one in a wide range.
        let crowded = nines == 0.0 && axes.nines > 2.5;
        if !crowded {
            svg.text(x, bottom + 16.0, Font::new(11.0, FAINT, Anchor::Middle), name);
        }
    }
    let centre = left + PANEL_WIDTH / 2.0;
    svg.text(
        centre,
        bottom + 33.0,
        Font::new(11.0, FAINT, Anchor::Middle),
        "share of requests, slowest at the right",
    );
}

/// A power of ten of nanoseconds, without digits behind a point.
fn round_time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{} µs", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        1_000_000_000..=99_999_999_999 => format!("{} s", ns / 1_000_000_000),
        _ => show_time(ns),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Report, sample};
    use super::*;

    #[test]
    fn the_picture_has_a_line_for_each_layer_and_named_axes() {
        let picture = render(&sample::report());
        // Four series in four panels and in the legend.
        assert_eq!(picture.matches("<polyline").count(), 4 * 4 + 4);
        for part in ["Latency of nbd://stonebox/data", "99.9 %", "10 ms", "drive sdb", "end to end"] {
            assert!(picture.contains(part), "{part}");
        }
    }

    #[test]
    fn other_servers_have_lines_where_they_were_measured() {
        let picture = render(&sample::report_with_peers());
        assert_eq!(picture.matches(PEERS[0]).count(), 1 + 2 * 2, "the legend, two reads with their ends");
        assert!(picture.contains(">other 1<") && !picture.contains("other 2"));
    }

    #[test]
    fn a_report_without_figures_still_makes_a_picture() {
        let mut measured = sample::report().measured;
        measured.drives.clear();
        measured.network = Figures::not_measured("no");
        measured.end_to_end = Figures::not_measured("no");
        let picture = render(&Report::new(measured));
        assert_eq!(picture.matches("not measured").count(), 4);
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }
}
