//! A picture as text, and on a terminal. Pure.

use super::super::words::{Side, bar, bytes, count, duration, percent, table};
use super::rates::{DriveRate, LinkRate, Rates};
use crate::cli::status::{seconds_left, work_label};
use crate::control::counters::PoolWork;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

/// Volumes in the picture; the ones with clients come first.
const VOLUMES_SHOWN: usize = 12;

/// Everything but the sentence; parts have a blank line between them, and a heading each.
pub fn text(rates: &Rates) -> String {
    let parts = [links(rates), cores(rates), drives(rates), volumes(rates), work(rates)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Draws on a terminal: the sentence stays in sight however little room there is.
pub fn draw(frame: &mut Frame, rates: &Rates, sentence: &str) {
    let [above, below] = Layout::vertical([Constraint::Min(0), Constraint::Length(2)]).areas(frame.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let text = text(rates);
    let mut heading = true;
    let lines = text.lines().map(|line| {
        let style = if std::mem::replace(&mut heading, line.is_empty()) { bold } else { Style::new() };
        Line::styled(line.to_owned(), style)
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), above);
    let foot = vec![Line::styled(format!("now  {sentence}"), bold), Line::raw("q ends")];
    frame.render_widget(Paragraph::new(foot), below);
}

fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

fn share(permille: u64) -> String {
    format!("{} %", permille / 10)
}

fn links(rates: &Rates) -> String {
    let columns = [("LINK", Side::Left), ("IN", Side::Right), ("OUT", Side::Right), ("OF", Side::Right)];
    let row = |link: &LinkRate| {
        let limit = link.limit_bytes.map_or("-".to_owned(), rate);
        vec![link.name.clone(), rate(link.received_bytes), rate(link.sent_bytes), limit]
    };
    // An interface without a speed on which nothing moves tells nothing.
    let shown = |l: &&LinkRate| l.limit_bytes.is_some() || l.received_bytes + l.sent_bytes > 0;
    part(&columns, rates.links.iter().filter(shown).map(row).collect())
}

fn cores(rates: &Rates) -> String {
    let columns =
        [("CORE", Side::Left), ("BUSY", Side::Right), ("", Side::Left), ("CONNECTIONS", Side::Right)];
    let row = |core: &super::rates::CoreRate| {
        let busy = core.busy_permille;
        vec![core.index.to_string(), share(busy), bar(busy / 10), core.connections.to_string()]
    };
    part(&columns, rates.cores.iter().map(row).collect())
}

fn drives(rates: &Rates) -> String {
    let columns = [
        ("DRIVE", Side::Left),
        ("POOL", Side::Left),
        ("READS/s", Side::Right),
        ("READ", Side::Right),
        ("WRITES/s", Side::Right),
        ("WRITTEN", Side::Right),
        ("BUSY", Side::Right),
        ("READ TAKES", Side::Right),
        ("IN FLIGHT", Side::Right),
        ("ERRORS", Side::Right),
    ];
    let row = |drive: &DriveRate| {
        let unknown = || "-".to_owned();
        let device = drive.device.as_ref();
        let takes = if drive.read_ns == 0 { unknown() } else { time(drive.read_ns) };
        vec![
            drive.name.clone(),
            drive.pool.clone(),
            device.map_or(drive.reads, |d| d.reads).to_string(),
            device.map_or_else(unknown, |d| rate(d.read_bytes)),
            device.map_or_else(unknown, |d| d.writes.to_string()),
            device.map_or_else(unknown, |d| rate(d.written_bytes)),
            device.map_or_else(unknown, |d| share(d.busy_permille)),
            takes,
            drive.in_flight.to_string(),
            drive.errors.to_string(),
        ]
    };
    part(&columns, rates.drives.iter().map(row).collect())
}

/// A short time: microseconds or milliseconds.
fn time(ns: u64) -> String {
    match ns {
        0..10_000_000 => format!("{} us", ns / 1000),
        _ => format!("{} ms", ns / 1_000_000),
    }
}

fn volumes(rates: &Rates) -> String {
    let columns =
        [("VOLUME", Side::Left), ("POOL", Side::Left), ("NBD", Side::Right), ("NVMe HOSTS", Side::Right)];
    let mut volumes: Vec<_> = rates.volumes.iter().collect();
    volumes.sort_by_key(|v| std::cmp::Reverse(v.nbd_connections));
    let row = |v: &&crate::control::counters::VolumeCounters| {
        vec![v.name.clone(), v.pool.clone(), v.nbd_connections.to_string(), v.nvme_hosts.to_string()]
    };
    let mut rows: Vec<_> = volumes.iter().take(VOLUMES_SHOWN).map(row).collect();
    if volumes.len() > VOLUMES_SHOWN {
        rows.push(vec![format!("and {}", count(volumes.len() - VOLUMES_SHOWN, "more volume"))]);
    }
    part(&columns, rows)
}

fn work(rates: &Rates) -> String {
    let columns = [
        ("WORK", Side::Left),
        ("POOL", Side::Left),
        ("DONE", Side::Left),
        ("", Side::Left),
        ("LEFT", Side::Right),
    ];
    let row = |work: &PoolWork| {
        let (pool, work) = (work.pool.clone(), &work.work);
        let done = percent(work.done_bytes, work.total_bytes);
        let left = seconds_left(work).map_or("-".to_owned(), duration);
        let amount = format!(
            "{done} %, {} of {}, {}",
            bytes(work.done_bytes),
            bytes(work.total_bytes),
            rate(work.bytes_per_second)
        );
        vec![work_label(work.kind).to_owned(), pool, bar(done), amount, left]
    };
    part(&columns, rates.work.iter().map(row).collect())
}

fn part(columns: &[(&str, Side)], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() { String::new() } else { table(columns, &rows) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::picture;
    use super::*;
    use crate::control::api::{WorkKind, WorkReport};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn full() -> Rates {
        let mut rates = picture();
        let work = WorkReport {
            kind: WorkKind::Rebuild,
            done_bytes: 30_000_000_000,
            total_bytes: 120_000_000_000,
            bytes_per_second: 60_000_000,
        };
        rates.work.push(PoolWork { pool: "tank".into(), work });
        rates
    }

    #[test]
    fn every_part_is_in_the_text() {
        let expected = "\
LINK         IN         OUT           OF
eno1   1.0 MB/s   34.0 MB/s   125.0 MB/s

CORE   BUSY                            CONNECTIONS
0      12 %   [##..................]             2
1       3 %   [....................]             1

DRIVE   POOL   READS/s        READ   WRITES/s    WRITTEN   BUSY   READ TAKES   IN FLIGHT   ERRORS
sda     tank       120   30.0 MB/s         40   4.0 MB/s   41 %       800 us           3        0
b       tank         7           -          -          -      -        12 ms           0        1

VOLUME   POOL   NBD   NVMe HOSTS
data     tank     2            1

WORK      POOL   DONE                                                                      LEFT
rebuild   tank   [#####...............]   25 %, 30.0 GB of 120.0 GB, 60.0 MB/s   25 min
";
        let text = text(&full());
        let blanks_go = |text: &str| {
            text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(blanks_go(&text), blanks_go(expected), "\n{text}");
    }

    #[test]
    fn the_sentence_is_in_sight_on_every_terminal() {
        for (width, height) in [(100, 40), (100, 3), (20, 2), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &full(), "clients ask for no more")).unwrap();
            let drawn = terminal.backend().to_string();
            let row = |at: u16| drawn.lines().nth(usize::from(at)).unwrap_or_default().to_owned();
            if width == 100 {
                assert!(row(height - 2).contains("now  clients ask for no more"), "{drawn}");
                assert!(row(0).contains("LINK"), "{drawn}");
            }
        }
    }

    #[test]
    fn headings_are_bold_and_figures_are_not() {
        let mut terminal = Terminal::new(TestBackend::new(100, 40)).unwrap();
        terminal.draw(|frame| draw(frame, &full(), "x")).unwrap();
        let buffer = terminal.backend().buffer();
        let bold = |y: u16| buffer.cell((0, y)).unwrap().modifier.contains(Modifier::BOLD);
        assert_eq!([0, 1, 3, 4].map(bold), [true, false, true, false]);
    }

    #[test]
    fn many_volumes_are_cut_and_counted() {
        let mut rates = picture();
        let volume = rates.volumes[0].clone();
        rates.volumes = vec![volume; 20];
        assert!(text(&rates).contains("and 8 more volumes"));
        assert_eq!(text(&Rates::default()), "");
    }
}
