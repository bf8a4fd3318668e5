//! Numbers and tables for people.

use crate::base::size::show_size;
use crate::base::units::ByteLen;

pub fn bytes(count: u64) -> String {
    show_size(ByteLen(count))
}

/// `1 volume`, `3 volumes`.
pub fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// A time that people plan with: whole seconds, minutes, hours or days.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds.div_ceil(60)),
        7_200..=172_799 => format!("{} h", seconds.div_ceil(3_600)),
        172_800.. => format!("{} d", seconds.div_ceil(86_400)),
    }
}

/// The share of `done` in `total`, rounded down: 100 means all of it.
pub fn percent(done: u64, total: u64) -> u64 {
    if total == 0 {
        100
    } else {
        u64::try_from(u128::from(done.min(total)) * 100 / u128::from(total)).unwrap_or(100)
    }
}

/// `[#####...............]`
pub fn bar(percent: u64) -> String {
    let filled = usize::try_from(percent.min(100) / 5).expect("20 at most");
    format!("[{}{}]", "#".repeat(filled), ".".repeat(20 - filled))
}

/// How a column is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Left,
    Right,
}

/// Rows under headings, each column as wide as its widest cell, no blanks at line ends.
pub fn table(columns: &[(&str, Side)], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([columns[at].0.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let set = cells.iter().zip(columns).zip(&widths).map(|((cell, (_, side)), width)| match side {
            Side::Left => format!("{cell:<width$}"),
            Side::Right => format!("{cell:>width$}"),
        });
        format!("{}\n", set.collect::<Vec<_>>().join("   ").trim_end())
    };
    let heading = line(columns.iter().map(|(name, _)| *name).collect());
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(heading).chain(body).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_round() {
        let shown: Vec<_> = [0, 119, 120, 1_162, 7_200, 172_800].map(duration).into();
        assert_eq!(shown, ["0 s", "119 s", "2 min", "20 min", "2 h", "2 d"]);
    }

    #[test]
    fn a_bar_is_full_only_at_the_end() {
        assert_eq!((percent(999, 1000), percent(1, 0), percent(u64::MAX, u64::MAX)), (99, 100, 100));
        assert_eq!(bar(42), "[########............]");
        assert_eq!(bar(100), "[####################]");
    }

    #[test]
    fn tables_line_up() {
        let rows =
            [vec!["sda".to_owned(), "80.0 GB".to_owned()], vec!["nvme0n1".to_owned(), "9 B".to_owned()]];
        let text = table(&[("DRIVE", Side::Left), ("SIZE", Side::Right)], &rows);
        assert_eq!(text, "DRIVE        SIZE\nsda       80.0 GB\nnvme0n1       9 B\n");
    }
}
