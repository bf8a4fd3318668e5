//! Throughput against both limits: for each workload what the drives can, what the network can, what was got, and what
//! other servers gave. Pure.

use super::chart::{Anchor, DRIVES, FAINT, Font, GOT, GRID, INK, NETWORK, PEERS, Svg, shorten, ticks};
use super::figure::Figures;
use super::peer::short_name;
use super::report::Report;
use super::report_table::{rate, show_rate};
use super::workload::{Unit, Workload};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 92.0;
const BAR: f64 = 17.0;
const BAR_GAP: f64 = 4.0;
const PEER_LINE: f64 = 18.0;
const PANEL_HEAD: f64 = 34.0;
const AXIS: f64 = 40.0;

struct Panel {
    title: &'static str,
    unit: &'static str,
    workloads: [(Workload, &'static str); 2],
}

const PANELS: [Panel; 2] = [
    Panel {
        title: "Sequential, 1 MiB requests, 4 in flight",
        unit: "MB/s",
        workloads: [(Workload::SequentialRead, "read"), (Workload::SequentialWrite, "write")],
    },
    Panel {
        title: "Random, 4 KiB requests, 32 in flight",
        unit: "requests per second",
        workloads: [(Workload::RandomReadDeep, "read"), (Workload::RandomWriteDeep, "write")],
    },
];

struct Bar {
    name: String,
    colour: &'static str,
    rate: Option<f64>,
    /// Drystone's rate divided by this one, where it is another server's.
    ratio: Option<f64>,
}

/// The height of a workload's bars and of the line below them.
fn group_height(report: &Report) -> f64 {
    let bars = 3 + report.measured.peers.len();
    bars as f64 * (BAR + BAR_GAP) + 34.0 // a handful
}

/// The whole picture.
pub fn render(report: &Report) -> String {
    let panel_height = PANEL_HEAD + 2.0 * group_height(report) + AXIS;
    let top = TOP + report.measured.peers.len() as f64 * PEER_LINE; // a handful
    let height = top + 2.0 * panel_height + 26.0;
    let target = shorten(&report.measured.facts.target, 60);
    let mut svg = Svg::new(WIDTH, height, &format!("Throughput of {target} against its limits"));
    svg.text(24.0, 34.0, Font::new(20.0, INK, Anchor::Start).bold(), &format!("Throughput of {target}"));
    let subtitle = format!("what the drives and the network can alone, and what was got; {}", link(report));
    svg.text(24.0, 55.0, Font::new(13.0, FAINT, Anchor::Start), &shorten(&subtitle, 120));
    legend(&mut svg, report);
    for (number, panel) in PANELS.iter().enumerate() {
        draw_panel(&mut svg, report, panel, top + number as f64 * panel_height); // 0 or 1
    }
    svg.text(24.0, height - 12.0, Font::new(11.0, FAINT, Anchor::Start), &footer(report));
    svg.finish()
}

fn link(report: &Report) -> String {
    format!("link: {}", report.measured.link.describe())
}

/// How it was measured, in one small line.
pub fn footer(report: &Report) -> String {
    let facts = &report.measured.facts;
    let drives = report.measured.drives.len();
    let run = super::report_table::show_time(facts.run_ns);
    format!(
        "drystone bench · {drives} drives · {} connections · runs of {run} · Linux {} · writes include the final flush",
        facts.connections,
        shorten(&facts.kernel, 40)
    )
}

fn legend(svg: &mut Svg, report: &Report) {
    let mut x = 24.0;
    for (name, colour) in [("drives' limit", DRIVES), ("network's limit", NETWORK), ("got, end to end", GOT)]
    {
        svg.rect(x, 68.0, 13.0, 13.0, colour);
        svg.text(x + 19.0, 79.0, Font::new(13.0, INK, Anchor::Start), name);
        x += 34.0 + 7.6 * name.len() as f64; // short names
    }
    let peers = &report.measured.peers;
    for (number, (peer, colour)) in peers.iter().zip(PEERS).enumerate() {
        let y = 68.0 + (number + 1) as f64 * PEER_LINE; // a handful
        svg.rect(24.0, y, 13.0, 13.0, colour);
        let text = format!("{}: {}", short_name(number, peers.len()), shorten(&peer.name, 100));
        svg.text(43.0, y + 11.0, Font::new(13.0, INK, Anchor::Start), &text);
    }
}

/// The bars of a workload; without a result the layers that were measured are shown as they are.
fn bars(report: &Report, workload: Workload) -> Vec<Bar> {
    let alone =
        |figures: Option<&Figures>| figures.and_then(|f| f.figure(workload)).map(|f| rate(workload, f));
    let verdict = report.verdicts.get(&workload);
    let drives = match verdict {
        Some(verdict) => verdict.drives_limit,
        None => alone(report.drives_together()),
    };
    let network = match verdict {
        Some(verdict) => verdict.network_limit,
        None => alone(Some(&report.measured.network)),
    };
    let bar = |name: &str, colour, rate| Bar { name: name.to_owned(), colour, rate, ratio: None };
    let mut bars = vec![
        bar("drives", DRIVES, drives),
        bar("network", NETWORK, network),
        bar("got", GOT, verdict.map(|v| v.got)),
    ];
    let peers = &report.measured.peers;
    bars.extend(peers.iter().zip(PEERS).enumerate().map(|(number, (peer, colour))| Bar {
        name: short_name(number, peers.len()),
        colour,
        rate: alone(Some(&peer.figures)),
        ratio: peer.contests.get(&workload).map(|contest| contest.rate.median),
    }));
    bars
}

fn draw_panel(svg: &mut Svg, report: &Report, panel: &Panel, top: f64) {
    let groups = panel.workloads.map(|(workload, name)| (workload, name, bars(report, workload)));
    let theory = theory(report, panel);
    let rates = groups.iter().flat_map(|(_, _, bars)| bars.iter().filter_map(|b| b.rate));
    let most = rates.chain(theory).fold(0.0, f64::max);
    let scale = scale_of(panel);
    let ticks = ticks(most / scale);
    let last = ticks.last().copied().unwrap_or(1.0) * scale;
    let across = |rate: f64| LEFT + rate / last * (WIDTH - LEFT - RIGHT);
    svg.text(24.0, top + 20.0, Font::new(15.0, INK, Anchor::Start).bold(), panel.title);
    let group = group_height(report);
    let (begin, end) = (top + PANEL_HEAD, top + PANEL_HEAD + 2.0 * group);
    draw_axis(svg, panel, &ticks, scale, &across, (begin, end));
    if let Some(theory) = theory {
        svg.line((across(theory), begin - 4.0), (across(theory), end), NETWORK, true);
        let text = format!("the link's limit in theory: {}", show_rate(panel.workloads[0].0, theory));
        let font = Font::new(11.0, FAINT, Anchor::End);
        svg.text(across(theory) - 6.0, begin - 7.0, font, &text);
    }
    for (number, (workload, name, bars)) in groups.iter().enumerate() {
        let y = begin + number as f64 * group + 6.0; // 0 or 1
        draw_group(svg, report, *workload, (name, bars), &across, y);
    }
}

/// What one unit of the axis is, in the rates' own unit.
fn scale_of(panel: &Panel) -> f64 {
    match panel.workloads[0].0.unit() {
        Unit::MegabytesPerSecond => 1e6,
        Unit::RequestsPerSecond => 1.0,
    }
}

fn theory(report: &Report, panel: &Panel) -> Option<f64> {
    let sequential = panel.workloads[0].0.is_sequential();
    report.measured.link.payload_limit().filter(|_| sequential)
}

fn draw_axis(
    svg: &mut Svg,
    panel: &Panel,
    ticks: &[f64],
    scale: f64,
    across: &impl Fn(f64) -> f64,
    (begin, end): (f64, f64),
) {
    for tick in ticks {
        let x = across(tick * scale);
        svg.line((x, begin), (x, end), GRID, false);
        let text = match *tick < 10.0 && tick.fract() != 0.0 {
            true => format!("{tick}"),
            false => super::report_table::show_thousands(*tick),
        };
        svg.text(x, end + 16.0, Font::new(11.0, FAINT, Anchor::Middle), &text);
    }
    let centre = (across(0.0) + WIDTH - RIGHT) / 2.0;
    svg.text(centre, end + 31.0, Font::new(11.0, FAINT, Anchor::Middle), panel.unit);
}

fn draw_group(
    svg: &mut Svg,
    report: &Report,
    workload: Workload,
    (name, bars): (&str, &[Bar]),
    across: &impl Fn(f64) -> f64,
    top: f64,
) {
    svg.text(24.0, top + 13.0, Font::new(14.0, INK, Anchor::Start).bold(), name);
    for (number, bar) in bars.iter().enumerate() {
        let y = top + number as f64 * (BAR + BAR_GAP); // a handful
        svg.text(LEFT - 8.0, y + 13.0, Font::new(12.0, FAINT, Anchor::End), &bar.name);
        let Some(rate) = bar.rate else {
            svg.text(LEFT + 4.0, y + 13.0, Font::new(12.0, FAINT, Anchor::Start), "not measured");
            continue;
        };
        let x = across(rate);
        svg.rect(LEFT, y, (x - LEFT).max(1.0), BAR, bar.colour);
        let font = Font { bold: bar.name == "got", ..Font::new(12.0, INK, Anchor::Start).halo() };
        let text = match bar.ratio {
            Some(ratio) => format!("{} (drystone : {} {ratio:.2})", show_rate(workload, rate), bar.name),
            None => show_rate(workload, rate),
        };
        // To the left of the bar's end where there is no room to its right.
        let inside = bar.ratio.is_some() && x > WIDTH - 200.0;
        let (x, font) =
            if inside { (x - 6.0, Font { anchor: Anchor::End, ..font }) } else { (x + 6.0, font) };
        svg.text(x, y + 13.0, font, &text);
    }
    if let Some(verdict) = report.verdicts.get(&workload) {
        let y = top + bars.len() as f64 * (BAR + BAR_GAP) + 10.0; // a handful
        let text = format!("bottleneck: {}", verdict.bottleneck.sentence());
        svg.text(LEFT, y, Font::new(12.0, INK, Anchor::Start).halo(), &shorten(&text, 110));
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Report, sample};
    use super::*;

    #[test]
    fn the_picture_has_a_title_units_a_legend_and_the_verdicts() {
        let picture = render(&sample::report());
        for part in [
            "Throughput of nbd://stonebox/data",
            "MB/s",
            "requests per second",
            "drives' limit",
            "bottleneck: network, 100",
            "the link's limit in theory: 117.7",
        ] {
            assert!(picture.contains(part), "{part}");
        }
        assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn other_servers_have_bars_a_legend_and_ratios() {
        let picture = render(&sample::report_with_peers());
        assert_eq!(picture.matches(PEERS[0]).count(), 1 + 2, "the legend, and the two reads");
        for part in ["other 1: nbd://stonebox:1/", "(drystone : other 1 1.50)", "other 2: nbd://nobody"] {
            assert!(picture.contains(part), "{part}");
        }
    }

    #[test]
    fn a_report_without_figures_still_makes_a_picture() {
        let mut measured = sample::report().measured;
        measured.drives.clear();
        measured.together = None;
        measured.network = Figures::not_measured("no");
        measured.end_to_end = Figures::not_measured("no");
        let picture = render(&Report::new(measured));
        assert_eq!(picture.matches("not measured").count(), 12);
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }
}
