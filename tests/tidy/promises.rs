//! The promises R1 to R50 of docs/consistency.md: each has a test that is named after it, and the table there says so.

use crate::source::Source;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

pub const PROMISES: RangeInclusive<u32> = 1..=50;

/// The heading above the table.
const HEADING: &str = "## Invariants and their tests";

/// The names in code that name a promise: `r07_…`, or `c61_r13_…`.
pub fn names(source: &Source) -> BTreeSet<&str> {
    identifiers(&source.code).filter(|name| !numbers(name).is_empty()).collect()
}

fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// The promises that a name names: parts of an `r` and two digits, with something behind them.
fn numbers(name: &str) -> Vec<u32> {
    let parts: Vec<&str> = name.split('_').collect();
    let number = |part: &&str| {
        let digits = part.strip_prefix('r').filter(|d| d.len() == 2)?;
        digits.parse().ok().filter(|n| PROMISES.contains(n))
    };
    parts[..parts.len() - 1].iter().filter_map(number).collect()
}

/// Promises that no test is named after, but for those known to lack one; and those that have one by now.
pub fn without_test(names: &BTreeSet<&str>, lacking: &[u32]) -> Vec<String> {
    let named: BTreeSet<u32> = names.iter().flat_map(|name| numbers(name)).collect();
    let missing = PROMISES.filter(|n| !named.contains(n) && !lacking.contains(n));
    let missing = missing.map(|n| format!("no test is named r{n:02}_…"));
    let stale = lacking.iter().filter(|n| named.contains(n));
    missing.chain(stale.map(|n| format!("R{n} has a test by now: take it from the list"))).collect()
}

/// Rows of the table that name no test of their promise, or one that does not exist.
pub fn rows_without_test(page: &str, names: &BTreeSet<&str>, lacking: &[u32]) -> Vec<String> {
    let table = page.split(HEADING).nth(1).unwrap_or_default();
    let row = |n: u32| table.lines().find(|line| line.starts_with(&format!("| {n} |")));
    let mut found = Vec::new();
    for n in PROMISES {
        let Some(row) = row(n) else {
            found.push(format!("the table has no row for R{n}"));
            continue;
        };
        let told: Vec<&str> = identifiers(row).filter(|name| !numbers(name).is_empty()).collect();
        if !lacking.contains(&n) && !told.iter().any(|name| numbers(name).contains(&n)) {
            found.push(format!("the row of R{n} names no test r{n:02}_…"));
        }
        let gone = told.iter().filter(|name| !names.contains(*name));
        found.extend(gone.map(|name| format!("the row of R{n} names {name}, which does not exist")));
    }
    found
}
