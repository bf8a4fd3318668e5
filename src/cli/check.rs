//! `check`: one line for monitoring, by the rule of monitoring plugins: a state, a sentence, `|`, numbers.
//!
//! Anything less than full redundancy is never OK, and what cannot be told is UNKNOWN.

use super::args::CheckArgs;
use super::exit::{Ended, Exit};
use super::session::Session;
use super::status::{full_in, reserve_is_low, state_of, state_word};
use super::words::bytes;
use crate::control::api::{DriveState, PoolReport, PoolState, StatusReport};
use crate::daemon::events::FILLING_SOON;
use serde::Serialize;

/// How bad it is, the worse the later; UNKNOWN only stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Ok,
    Warning,
    Critical,
    Unknown,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
            Level::Unknown => "UNKNOWN",
        }
    }

    fn exit(self) -> Exit {
        Exit::Check(match self {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Critical => 2,
            Level::Unknown => 3,
        })
    }
}

#[derive(Debug, PartialEq, Serialize)]
struct Verdict {
    state: Level,
    message: String,
    perfdata: String,
}

pub fn run(session: &Session, args: &CheckArgs) -> Exit {
    let verdict = match session.status(args.pool.as_ref()) {
        Ok(report) => verdict(&report),
        Err(ended) => unknown(&ended),
    };
    if session.screen.json {
        session.screen.document("drystone.check/1", &verdict);
    } else {
        session.screen.print(&line(&verdict));
    }
    verdict.state.exit()
}

fn line(verdict: &Verdict) -> String {
    let perfdata =
        if verdict.perfdata.is_empty() { String::new() } else { format!(" | {}", verdict.perfdata) };
    // A bar or a line break in the text would be taken for the format's own.
    let message = verdict.message.replace(['|', '\n'], " ");
    format!("DRYSTONE {} - {message}{perfdata}\n", verdict.state.word())
}

fn unknown(ended: &Ended) -> Verdict {
    let message = format!("[{}] {}", ended.failure.code, ended.failure.message);
    Verdict { state: Level::Unknown, message, perfdata: String::new() }
}

fn verdict(report: &StatusReport) -> Verdict {
    let mut findings: Vec<(Level, String)> = report.pools.iter().flat_map(findings_of).collect();
    if report.pools.is_empty() {
        findings.push((Level::Unknown, "no pool is known here".to_owned()));
    } else if report.listening.is_empty() {
        findings.push((Level::Warning, "no daemon is running: nothing is served".to_owned()));
    }
    // The worst comes first; equals keep their order.
    findings.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    let state = findings.first().map_or(Level::Ok, |(level, _)| *level);
    let mut told: Vec<String> = findings.into_iter().map(|(_, text)| text).collect();
    told.extend(report.pools.iter().map(summary));
    let perfdata: Vec<_> = report.pools.iter().map(perfdata).collect();
    Verdict { state, message: told.join("; "), perfdata: perfdata.join(" ") }
}

fn summary(pool: &PoolReport) -> String {
    format!(
        "{} {}, {} of {} used",
        pool.name,
        state_word(pool.state),
        bytes(pool.allocated_bytes),
        bytes(pool.usable())
    )
}

fn findings_of(pool: &PoolReport) -> Vec<(Level, String)> {
    let name = &pool.name;
    let mut found = Vec::new();
    match pool.state {
        PoolState::DataUnavailable => {
            found
                .push((Level::Critical, format!("{name}: {} cannot be read", bytes(pool.unavailable_bytes))));
        }
        PoolState::AtRisk => {
            let less = bytes(pool.below_promise_bytes);
            found.push((Level::Warning, format!("{name}: {less} have fewer copies than promised")));
        }
        PoolState::Safe | PoolState::Unprotected => {}
    }
    if let Some(scrub) = pool.last_scrub.as_ref().filter(|s| s.lost_blocks > 0) {
        found.push((Level::Critical, format!("{name}: {} blocks were lost", scrub.lost_blocks)));
    }
    found.extend(drive_findings(pool));
    if pool.work.iter().any(|w| w.kind.heals()) {
        found.push((Level::Warning, format!("{name}: copies are being made again")));
    }
    if pool.votes_present < pool.votes_total {
        let votes = format!("{name}: {} of {} votes are here", pool.votes_present, pool.votes_total);
        found.push((Level::Warning, votes));
    }
    if pool.copies > 1 && !pool.heal_possible {
        found.push((Level::Warning, format!("{name}: no room to heal after losing the largest drive")));
    } else if pool.copies > 1 && reserve_is_low(pool) {
        let (spare, needed) = (pool.heal_spare_bytes.unwrap_or(0), bytes(pool.heal_needed_bytes));
        let low =
            format!("{name}: only {} to spare of the {needed} that must stay free to heal", bytes(spare));
        found.push((Level::Warning, low));
    }
    if let Some(time) = full_in(pool).filter(|_| pool.full_in_seconds.is_some_and(|s| s < FILLING_SOON)) {
        found.push((Level::Warning, format!("{name}: {time} [POOL_FILLING]")));
    }
    found
}

fn drive_findings(pool: &PoolReport) -> impl Iterator<Item = (Level, String)> {
    pool.drives.iter().filter_map(|drive| match drive.state {
        DriveState::Suspect
        | DriveState::Missing
        | DriveState::Stale
        | DriveState::Resyncing
        | DriveState::Rebuilding
        | DriveState::Faulted => {
            Some((Level::Warning, format!("{} is {}", drive.name, state_of(drive.state))))
        }
        DriveState::Active if drive.read_errors + drive.write_errors > 0 => {
            let errors = format!(
                "{} has {} read and {} write errors",
                drive.name, drive.read_errors, drive.write_errors
            );
            Some((Level::Warning, errors))
        }
        DriveState::Active | DriveState::Removed => None,
    })
}

/// Numbers as `label=value;warn;crit;min;max`.
fn perfdata(pool: &PoolReport) -> String {
    let bad =
        pool.drives.iter().filter(|d| !matches!(d.state, DriveState::Active | DriveState::Removed)).count();
    let name = &pool.name;
    format!(
        "{name}_used={}B;;;0;{} {name}_below_promise={}B;0;;0 {name}_unavailable={}B;;0;0 {name}_drives_bad={bad};0;;0;{}",
        pool.allocated_bytes,
        pool.usable(),
        pool.below_promise_bytes,
        pool.unavailable_bytes,
        pool.drives.len()
    )
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::{degraded, healthy};
    use super::*;
    use crate::control::api::{Failure, ScrubReport};

    fn check(pool: PoolReport) -> Verdict {
        verdict(&StatusReport {
            pools: vec![pool],
            listening: vec!["127.0.0.1:10809".into()],
            listening_nvme: vec![],
        })
    }

    #[test]
    fn all_well_is_one_line_with_numbers() {
        let verdict = check(healthy());
        assert_eq!(verdict.state.exit().number(), 0);
        let expected = "DRYSTONE OK - tank SAFE, 310.0 GB of 540.0 GB used | tank_used=310000000000B;;;0;540000000000 \
                        tank_below_promise=0B;0;;0 tank_unavailable=0B;;0;0 tank_drives_bad=0;0;;0;3\n";
        assert_eq!(line(&verdict), expected);
    }

    #[test]
    fn less_than_full_redundancy_is_never_ok() {
        let degraded = check(degraded());
        assert_eq!((degraded.state, degraded.state.exit().number()), (Level::Warning, 1));
        assert!(
            degraded.message.starts_with("tank: 69.7 GB have fewer copies than promised; "),
            "{}",
            degraded.message
        );
        let changes: [fn(&mut PoolReport); 5] = [
            |p| p.state = PoolState::AtRisk,
            |p| p.heal_possible = false,
            |p| p.votes_present = 3,
            |p| p.drives[0].state = DriveState::Stale,
            |p| p.drives[0].write_errors = 1,
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut pool = healthy();
            change(&mut pool);
            assert_eq!(check(pool).state, Level::Warning, "change {at}");
        }
    }

    #[test]
    fn a_reserve_that_is_nearly_used_is_said_before_it_is_broken() {
        let mut pool = healthy();
        pool.heal_spare_bytes = Some(20_000_000_000);
        assert_eq!(check(pool.clone()).state, Level::Ok, "a tenth of 200 GB");
        pool.heal_spare_bytes = Some(19_000_000_000);
        let low = check(pool);
        assert_eq!(low.state, Level::Warning);
        let said = "tank: only 19.0 GB to spare of the 200.0 GB that must stay free to heal; ";
        assert!(low.message.starts_with(said), "{}", low.message);
    }

    #[test]
    fn a_pool_that_is_full_within_a_week_is_a_warning() {
        let mut pool = healthy();
        pool.full_in_seconds = Some(FILLING_SOON);
        assert_eq!(check(pool.clone()).state, Level::Ok, "a week");
        pool.full_in_seconds = Some(FILLING_SOON - 1);
        let soon = check(pool);
        assert_eq!(soon.state, Level::Warning);
        assert!(
            soon.message.starts_with("tank: full in 7 d at this rate [POOL_FILLING]; "),
            "{}",
            soon.message
        );
    }

    #[test]
    fn unreadable_or_lost_data_is_critical_and_said_first() {
        let mut pool = degraded();
        (pool.state, pool.unavailable_bytes) = (PoolState::DataUnavailable, 5_000_000);
        let unreadable = check(pool);
        assert_eq!(unreadable.state.exit().number(), 2);
        assert!(unreadable.message.starts_with("tank: 5.0 MB cannot be read; "), "{}", unreadable.message);
        let mut pool = healthy();
        pool.last_scrub = Some(ScrubReport {
            ended_unix_ns: 0,
            checked_bytes: 0,
            repaired_blocks: 0,
            unrepaired_blocks: 0,
            different_blocks: 0,
            lost_blocks: 2,
        });
        assert_eq!(check(pool).state, Level::Critical);
    }

    #[test]
    fn one_copy_as_asked_for_is_ok() {
        let mut pool = healthy();
        (pool.state, pool.copies, pool.heal_possible) = (PoolState::Unprotected, 1, false);
        assert_eq!(check(pool).state, Level::Ok);
    }

    #[test]
    fn what_is_not_served_or_not_known_is_not_ok() {
        let alone =
            verdict(&StatusReport { pools: vec![healthy()], listening: vec![], listening_nvme: vec![] });
        assert_eq!(alone.state, Level::Warning);
        let nothing = verdict(&StatusReport { pools: vec![], listening: vec![], listening_nvme: vec![] });
        assert_eq!(nothing.state.exit().number(), 3);
        let ended = Ended::unreachable(Failure::failed("DAEMON_DEAF", "a | b\nc"));
        assert_eq!(line(&unknown(&ended)), "DRYSTONE UNKNOWN - [DAEMON_DEAF] a   b c\n");
    }
}
