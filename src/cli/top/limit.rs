//! What the limit is now, in one sentence. Pure.

use super::super::words::bytes;
use super::rates::Rates;
use crate::cli::status::work_label;
use serde::Serialize;

/// From these shares on something is full, thousandths. A link's own framing takes some of what it can carry.
const LINK_FULL: u64 = 900;
const CORE_FULL: u64 = 950;
const DRIVE_FULL: u64 = 900;

/// What keeps clients from getting more.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Link,
    Core,
    Drive,
    /// Nothing is full, and background work goes on.
    Work,
    /// Nothing is full.
    Clients,
    /// There are no clients.
    Nobody,
}

/// The limit and its sentence. The first that is full is named: behind a full link nothing else can fill.
pub fn limit(rates: &Rates) -> (Limit, String) {
    let found = link_full(rates).or_else(|| core_full(rates)).or_else(|| drives_full(rates));
    found.unwrap_or_else(|| nothing_full(rates))
}

fn link_full(rates: &Rates) -> Option<(Limit, String)> {
    let full = rates.links.iter().find_map(|link| {
        let (most, way) = match link.sent_bytes >= link.received_bytes {
            true => (link.sent_bytes, "sends"),
            false => (link.received_bytes, "receives"),
        };
        let limit = link.limit_bytes.filter(|limit| *limit > 0)?;
        let full = u128::from(most) * 1000 >= u128::from(limit) * u128::from(LINK_FULL);
        full.then(|| format!("{} {way} {}/s of {}/s", link.name, bytes(most), bytes(limit)))
    })?;
    Some((Limit::Link, format!("the link is full: {full}")))
}

fn core_full(rates: &Rates) -> Option<(Limit, String)> {
    let busiest = rates.cores.iter().max_by_key(|core| core.busy_permille)?;
    let share = busiest.busy_permille;
    let others = match rates.cores.iter().filter(|core| core.busy_permille >= CORE_FULL).count() {
        n if n == rates.cores.len() => "every core is full",
        _ => "one core is full, more connections use the others",
    };
    (share >= CORE_FULL)
        .then(|| (Limit::Core, format!("{others}: core {} is busy for {} %", busiest.index, share / 10)))
}

fn drives_full(rates: &Rates) -> Option<(Limit, String)> {
    let busy = |drive: &super::rates::DriveRate| drive.device.as_ref().map_or(0, |d| d.busy_permille);
    let busiest = rates.drives.iter().max_by_key(|drive| busy(drive)).filter(|d| busy(d) >= DRIVE_FULL)?;
    let full = rates.drives.iter().filter(|drive| busy(drive) >= DRIVE_FULL).count();
    let (name, share) = (&busiest.name, busy(busiest) / 10);
    let sentence = match full {
        1 => format!("drive {name} has something to do for {share} % of the time"),
        n => format!("{n} drives have something to do nearly all the time, most of all {name}"),
    };
    Some((Limit::Drive, sentence))
}

fn nothing_full(rates: &Rates) -> (Limit, String) {
    // Of files the kernel counts nothing.
    let full = match rates.drives.iter().any(|d| d.device.is_none()) {
        true => "nothing that is measured here is full",
        false => "nothing is full",
    };
    if let Some(work) = rates.work.first() {
        let kind = work_label(work.work.kind);
        let sentence =
            format!("{full}: the {kind} of {} goes as fast as clients and drives bear it", work.pool);
        return (Limit::Work, sentence);
    }
    let nobody = rates.volumes.iter().all(|v| v.nbd_connections + v.nvme_hosts == 0);
    match nobody {
        true => (Limit::Nobody, "no client is connected".to_owned()),
        false => (Limit::Clients, format!("{full}: clients ask for no more")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::picture;
    use super::*;
    use crate::control::api::{WorkKind, WorkReport};
    use crate::control::counters::PoolWork;

    fn told(change: impl Fn(&mut Rates)) -> (Limit, String) {
        let mut rates = picture();
        change(&mut rates);
        limit(&rates)
    }

    #[test]
    fn what_is_full_is_named() {
        let (limit, sentence) = told(|r| r.links[0].sent_bytes = 117_000_000);
        assert_eq!(limit, Limit::Link);
        assert_eq!(sentence, "the link is full: eno1 sends 117.0 MB/s of 125.0 MB/s");
        let (_, sentence) = told(|r| r.links[0].received_bytes = 113_000_000);
        assert!(sentence.contains("eno1 receives 113.0 MB/s"), "{sentence}");
        let (limit, sentence) = told(|r| r.cores[1].busy_permille = 970);
        assert_eq!(limit, Limit::Core);
        assert_eq!(sentence, "one core is full, more connections use the others: core 1 is busy for 97 %");
        let (_, sentence) = told(|r| r.cores.iter_mut().for_each(|c| c.busy_permille = 999));
        assert!(sentence.starts_with("every core is full"), "{sentence}");
        let (limit, sentence) = told(|r| r.drives[0].device.as_mut().unwrap().busy_permille = 940);
        assert_eq!(limit, Limit::Drive);
        assert_eq!(sentence, "drive sda has something to do for 94 % of the time");
    }

    #[test]
    fn a_full_link_comes_before_what_is_behind_it() {
        let (limit, _) = told(|r| {
            r.links[0].sent_bytes = 117_000_000;
            r.cores[0].busy_permille = 1000;
            r.drives[0].device.as_mut().unwrap().busy_permille = 1000;
        });
        assert_eq!(limit, Limit::Link);
    }

    #[test]
    fn where_nothing_is_full_it_says_who_could_ask_for_more() {
        let (limit, sentence) = told(|_| ());
        assert_eq!(limit, Limit::Clients);
        assert_eq!(sentence, "nothing that is measured here is full: clients ask for no more");
        let (_, sentence) = told(|r| r.drives.truncate(1));
        assert_eq!(sentence, "nothing is full: clients ask for no more");
        let (limit, _) =
            told(|r| r.volumes.iter_mut().for_each(|v| (v.nbd_connections, v.nvme_hosts) = (0, 0)));
        assert_eq!(limit, Limit::Nobody);
        let work = WorkReport { kind: WorkKind::Rebuild, done_bytes: 1, total_bytes: 2, bytes_per_second: 1 };
        let (limit, sentence) = told(|r| r.work.push(PoolWork { pool: "tank".into(), work: work.clone() }));
        assert_eq!(limit, Limit::Work);
        assert!(sentence.contains("the rebuild of tank goes as fast as"), "{sentence}");
        // A link of unknown speed is never full.
        let (limit, _) = told(|r| (r.links[0].sent_bytes, r.links[0].limit_bytes) = (u64::MAX, None));
        assert_eq!(limit, Limit::Clients);
    }
}
