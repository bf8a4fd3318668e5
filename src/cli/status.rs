//! `status`: is my data safe, what if a drive dies, what should I do.
//!
//! The screen is a pure function of the report; nothing here asks the system.

use super::args::StatusArgs;
use super::exit::{Ended, Exit};
use super::screen::{Paint, Tone};
use super::session::Session;
use super::words::{Side, bar, bytes, count, duration, percent, table};
use crate::base::size::show_copies;
use crate::control::api::{
    DriveReport, DriveState, LostReport, PoolReport, PoolState, StatusReport, VolumeReport, WorkKind,
    WorkReport,
};

/// What is said where there is nothing to show.
pub const NO_POOL: &str = "No pool is known here.\n\
    what drives would give:    drystone plan DISK...\n\
    a new pool:                drystone pool create NAME DISK...\n\
    one that exists already:   drystone pool import DISK...";

/// Lost ranges that are named on the screen.
const LOST_SHOWN: usize = 5;

/// The width of the words before a line's text.
const LABEL: usize = 10;

pub fn run(session: &Session, args: &StatusArgs) -> Result<Exit, Ended> {
    let report = session.status(args.pool.as_ref())?;
    if session.screen.json {
        session.screen.document("drystone.status/1", &report);
    } else if report.pools.is_empty() {
        session.screen.say(NO_POOL);
    } else {
        session.screen.print(&screen(&report, session.screen.paint));
    }
    Ok(Exit::Done)
}

/// One screen for all pools of a report.
pub fn screen(report: &StatusReport, paint: Paint) -> String {
    let pools: Vec<_> = report.pools.iter().map(|pool| pool_screen(pool, paint)).collect();
    let served = match report.listening.as_slice() {
        [] => line("hint", "no daemon is running: nothing is served.   drystone serve"),
        addresses => line("served", &format!("NBD on {}", addresses.join(", "))),
    };
    format!("{}{served}", pools.join("\n"))
}

/// One pool: its state, why, space, work, what if, and what to do.
pub fn pool_screen(pool: &PoolReport, paint: Paint) -> String {
    let mut text = headline(pool, paint);
    text += &why(pool);
    text += &space_lines(pool);
    pool.work.iter().for_each(|work| text += &work_line(work));
    text += &copies_wait(pool);
    text += &spread_waits(pool);
    if pool.forced {
        text += &line("forced", "once opened by order without all its drives: what only they held is lost");
    }
    if pool.last_scrub.is_some() {
        text += &line("scrub", &scrub_line(pool));
    }
    text += &gone_lines(pool);
    text += &lost_lines(pool);
    text += "\n";
    text += &if_this_dies(pool);
    let advice: String = [duty(pool), hints(pool)].concat();
    if advice.is_empty() { text } else { format!("{text}\n{advice}") }
}

/// What no drive that is here has: how much of which volume, and where to see more.
fn gone_lines(pool: &PoolReport) -> String {
    let gone = pool.volumes.iter().filter(|v| v.unavailable_bytes > 0);
    let told = |volume: &VolumeReport| {
        let (name, gone) = (&volume.name, bytes(volume.unavailable_bytes));
        line(
            "gone",
            &format!("{gone} of volume {name}; all else is read and written.   drystone volume show {name}"),
        )
    };
    gone.map(told).collect()
}

fn line(label: &str, text: &str) -> String {
    format!("{label:<LABEL$}{text}\n")
}

fn more(text: &str) -> String {
    line("", &format!("  {text}"))
}

pub fn state_word(state: PoolState) -> &'static str {
    match state {
        PoolState::Safe => "SAFE",
        PoolState::AtRisk => "AT RISK",
        PoolState::DataUnavailable => "DATA UNAVAILABLE",
        PoolState::Unprotected => "UNPROTECTED",
    }
}

fn tone(state: PoolState) -> Tone {
    match state {
        PoolState::Safe => Tone::Good,
        PoolState::AtRisk | PoolState::Unprotected => Tone::Warning,
        PoolState::DataUnavailable => Tone::Bad,
    }
}

fn headline(pool: &PoolReport, paint: Paint) -> String {
    let word = state_word(pool.state);
    let set = format!(
        "{}{}",
        paint.word(tone(pool.state), word),
        " ".repeat(LABEL.saturating_sub(word.len()).max(2))
    );
    line(&format!("{:<w$} ", pool.name, w = LABEL - 1), &format!("{set}{}", sentence(pool)))
}

/// What the state means, in bytes.
fn sentence(pool: &PoolReport) -> String {
    match pool.state {
        PoolState::Safe if pool.allocated_bytes == 0 => {
            format!("nothing is stored yet; every block will have {}", show_copies(pool.copies))
        }
        PoolState::Safe => {
            let fewest = pool.volumes.iter().map(VolumeReport::copies_now).min().unwrap_or(pool.copies);
            format!("every block has {} on {fewest} drives", show_copies(fewest))
        }
        PoolState::AtRisk => at_risk(pool),
        PoolState::DataUnavailable => {
            let lost: u64 = pool.lost.iter().map(|l| l.length_bytes).sum();
            format!("{} cannot be read", bytes(pool.unavailable_bytes + lost))
        }
        PoolState::Unprotected => {
            "one copy of everything, as asked for: a drive that dies takes data along".to_owned()
        }
    }
}

fn at_risk(pool: &PoolReport) -> String {
    let healing = pool.work.iter().filter(|w| w.kind.heals()).filter_map(seconds_left).max();
    let until = healing.map_or(String::new(), |seconds| format!(" for {} more", duration(seconds)));
    if pool.single_copy_bytes > 0 {
        format!("{} have one copy{until}", bytes(pool.single_copy_bytes))
    } else if pool.below_promise_bytes > 0 {
        format!("{} have fewer copies than promised{until}", bytes(pool.below_promise_bytes))
    } else {
        "a drive is not there; nothing that is stored lost a copy".to_owned()
    }
}

fn why(pool: &PoolReport) -> String {
    let mut lines: Vec<_> =
        absent(pool).map(|d| line("why", &format!("{} {}", d.name, complaint(d)))).collect();
    if pool.votes_present < pool.votes_total && lines.is_empty() {
        let votes =
            format!("{} of {} votes are here: the witness is missing", pool.votes_present, pool.votes_total);
        lines.push(line("why", &votes));
    }
    lines.concat()
}

fn absent(pool: &PoolReport) -> impl Iterator<Item = &DriveReport> {
    pool.drives.iter().filter(|d| !matches!(d.state, DriveState::Active | DriveState::Removed))
}

fn complaint(drive: &DriveReport) -> String {
    let what = match drive.state {
        DriveState::Active => "is in use",
        DriveState::Suspect => "answers slowly",
        DriveState::Missing => "is missing",
        DriveState::Stale => "missed writes and is not read",
        DriveState::Resyncing => "is being brought up to date",
        DriveState::Rebuilding => "is given up: its copies are being made on other drives",
        DriveState::Faulted => "failed",
        DriveState::Removed => "is no part of the pool any more",
    };
    if drive.reason.is_empty() { what.to_owned() } else { format!("{what}: {}", drive.reason) }
}

fn space_lines(pool: &PoolReport) -> String {
    let (used, volumes) = (bytes(pool.allocated_bytes), count(pool.volumes.len(), "volume"));
    let full = full_in(pool).map_or(String::new(), |time| format!("; {time}"));
    let sum =
        format!("{} usable = {used} in {volumes} + {} free{full}", bytes(pool.usable()), bytes(pool.free()));
    line("space", &sum) + &protected_line(pool) + &heal_line(pool)
}

/// When nothing more fits, if what is stored grows as it did; None where that is not known.
pub fn full_in(pool: &PoolReport) -> Option<String> {
    pool.full_in_seconds.map(|seconds| format!("full in {} at this rate", duration(seconds)))
}

/// How much survives any drive, where only part of it does.
fn protected_line(pool: &PoolReport) -> String {
    let protected = pool.protected_bytes;
    match pool.allocated_bytes.checked_sub(protected) {
        Some(others) if protected > 0 && others > 0 => {
            let text = format!("{} survive any drive; {} do not", bytes(protected), bytes(others));
            line("protected", &text)
        }
        Some(_) | None => String::new(),
    }
}

fn heal_line(pool: &PoolReport) -> String {
    let largest = pool.drives.iter().map(|d| d.size_bytes).max().unwrap_or(0);
    if pool.copies < 2 {
        return String::new();
    }
    let keep = format!(
        "keep {} free to rebuild after losing the largest drive ({})",
        bytes(pool.heal_needed_bytes),
        bytes(largest)
    );
    let present = pool.drives.iter().filter(|d| d.state == DriveState::Active).count();
    if present <= usize::from(pool.copies) {
        return line("heal", "after losing a drive there is nowhere to rebuild to, until it is replaced");
    }
    line("heal", &format!("{keep}: {}", reserve_words(pool)))
}

/// How the reserve stands.
fn reserve_words(pool: &PoolReport) -> String {
    let refused = if pool.reserve_enforced { "; what would take it is refused" } else { "" };
    match pool.heal_spare_bytes {
        _ if pool.heal_short_bytes > 0 => {
            format!("at least {} too much is stored", bytes(pool.heal_short_bytes))
        }
        _ if !pool.heal_possible => format!("too little is free{}", homeless(pool)),
        Some(spare) if reserve_is_low(pool) => format!("only {} to spare{refused}", bytes(spare)),
        Some(spare) => format!("ok, {} to spare{refused}", bytes(spare)),
        // A daemon of an older version does not say.
        None => "ok".to_owned(),
    }
}

/// What of the drive with most of it would find no place.
fn homeless(pool: &PoolReport) -> String {
    let in_use = pool.drives.iter().filter(|d| d.state == DriveState::Active);
    match in_use.map(|d| d.does_not_heal_bytes).max() {
        Some(most) if most > 0 => format!(", {} would find no place", bytes(most)),
        Some(_) | None => String::new(),
    }
}

/// Whether less than a tenth of what must stay free is to spare, or no extent: soon it will not heal any more.
pub fn reserve_is_low(pool: &PoolReport) -> bool {
    let early = (pool.heal_needed_bytes / 10).max(pool.extent_bytes);
    pool.allocated_bytes > 0 && pool.heal_spare_bytes.is_some_and(|spare| spare < early)
}

/// How long background work will take, if its rate is known.
pub fn seconds_left(work: &WorkReport) -> Option<u64> {
    work.total_bytes.saturating_sub(work.done_bytes).checked_div(work.bytes_per_second)
}

/// What background work is called.
pub fn work_label(kind: WorkKind) -> &'static str {
    match kind {
        WorkKind::Resync => "resync",
        WorkKind::Rebuild => "rebuild",
        WorkKind::Scrub => "scrub",
        WorkKind::Spread => "spread",
        WorkKind::Leave => "leaving",
        WorkKind::Copies => "copies",
    }
}

fn work_line(work: &WorkReport) -> String {
    let label = work_label(work.kind);
    let done = percent(work.done_bytes, work.total_bytes);
    let amount =
        format!("{}  {done} %   {} of {}", bar(done), bytes(work.done_bytes), bytes(work.total_bytes));
    match seconds_left(work) {
        None => line(label, &amount),
        Some(left) => {
            line(label, &format!("{amount}   {}/s   {} left", bytes(work.bytes_per_second), duration(left)))
        }
    }
}

/// Volumes are to have other numbers of copies, and that does not go on at the moment.
fn copies_wait(pool: &PoolReport) -> String {
    if pool.work.iter().any(|w| w.kind == WorkKind::Copies) {
        return String::new();
    }
    let left = |v: &&VolumeReport| v.lacking_slots + v.surplus_slots > 0;
    let waits = pool.volumes.iter().filter(left).map(|v| {
        let slots = v.lacking_slots + v.surplus_slots;
        let why = match absent(pool).next() {
            Some(_) => "when every drive is in sync again",
            None if v.lacking_slots > 0 => "while a daemon runs, as far as there is room",
            None => "while a daemon runs",
        };
        let slots = count(usize::try_from(slots).unwrap_or(usize::MAX), "slot");
        line("copies", &format!("{slots} of {} come to have {} {why}", v.name, show_copies(v.copies)))
    });
    waits.collect()
}

/// What is stored is to spread over drives that were added, and does not at the moment.
fn spread_waits(pool: &PoolReport) -> String {
    if !pool.spreading || pool.work.iter().any(|w| matches!(w.kind, WorkKind::Spread | WorkKind::Leave)) {
        return String::new();
    }
    let why = match absent(pool).next() {
        Some(_) => "when every drive is in sync again",
        None => "while a daemon runs",
    };
    let leaving: Vec<&str> = leaving(pool).map(|d| d.name.as_str()).collect();
    if !leaving.is_empty() {
        return line("leaving", &format!("what lies on {} moves to the others {why}", leaving.join(", ")));
    }
    line("spread", &format!("what is stored spreads over all drives {why}"))
}

/// Drives that are there and are being taken out.
fn leaving(pool: &PoolReport) -> impl Iterator<Item = &DriveReport> {
    pool.drives.iter().filter(|d| d.leaving && d.state.is_in_sync())
}

/// How the last scrub ended, and when the next one begins.
pub fn scrub_line(pool: &PoolReport) -> String {
    let next = pool.next_scrub_unix_ns.map_or("no next one".to_owned(), |ns| format!("next {}", day(ns)));
    let Some(scrub) = &pool.last_scrub else { return format!("never scrubbed, {next}") };
    let kinds = [
        (scrub.lost_blocks, "lost"),
        (scrub.different_blocks, "differ"),
        (scrub.unrepaired_blocks, "could not be repaired"),
    ];
    let bad: Vec<String> =
        kinds.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {} {what}", count_u64(*n))).collect();
    format!(
        "last {}, {} checked, {} repaired{}, {next}",
        day(scrub.ended_unix_ns),
        bytes(scrub.checked_bytes),
        count_u64(scrub.repaired_blocks),
        bad.concat()
    )
}

/// The day of a time; one beyond the calendar is shown as what it is not.
fn day(unix_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(unix_ns))
        .map_or("unknown".to_owned(), |t| t.strftime("%F").to_string())
}

/// Which bytes of which volumes no copy gives any more.
pub fn lost_lines(pool: &PoolReport) -> String {
    let name = |lost: &LostReport| {
        let (length, at) = (lost.length_bytes, lost.offset_bytes);
        line("lost", &format!("volume {}: {length} bytes at offset {at} have no good copy", lost.volume))
    };
    let mut text: String = pool.lost.iter().take(LOST_SHOWN).map(name).collect();
    if pool.lost.len() > LOST_SHOWN {
        let rest = pool.lost.len() - LOST_SHOWN;
        text += &more(&format!("and {}: drystone status --json", count(rest, "more range")));
    }
    text
}

fn count_u64(blocks: u64) -> String {
    if blocks == 1 { "1 block".to_owned() } else { format!("{blocks} blocks") }
}

fn if_this_dies(pool: &PoolReport) -> String {
    let columns = [
        ("IF THIS DIES", Side::Left),
        ("COPIES THERE", Side::Right),
        ("YOU LOSE", Side::Right),
        ("LEFT ON ONE COPY", Side::Right),
        ("THEN", Side::Left),
        ("STATE", Side::Left),
        ("ERRORS r/w/sum", Side::Right),
    ];
    let row = |drive: &DriveReport| {
        let errors = format!("{}/{}/{}", drive.read_errors, drive.write_errors, drive.checksum_errors);
        let nothing = || "-".to_owned();
        let (lost, exposed, then) = match drive.state {
            DriveState::Active | DriveState::Suspect => {
                (bytes(drive.lost_bytes), bytes(drive.exposed_bytes), then(drive))
            }
            // Out of sync, and yet the only one that has something.
            _ if drive.lost_bytes > 0 => (bytes(drive.lost_bytes), nothing(), nothing()),
            // Its copies do not count any more: nothing further is lost with it.
            DriveState::Missing
            | DriveState::Stale
            | DriveState::Resyncing
            | DriveState::Rebuilding
            | DriveState::Faulted
            | DriveState::Removed => (nothing(), nothing(), nothing()),
        };
        let state = standing_of(drive).to_owned();
        vec![drive.name.clone(), bytes(drive.used_bytes), lost, exposed, then, state, errors]
    };
    table(&columns, &pool.drives.iter().map(row).collect::<Vec<_>>())
}

/// What becomes of the copies that are lacking without a drive.
fn then(drive: &DriveReport) -> String {
    let made = bytes(drive.heals_bytes);
    match (drive.heals_bytes, drive.does_not_heal_bytes, drive.heal_seconds) {
        (0, 0, _) => "-".to_owned(),
        (0, homeless, _) => format!("nowhere to rebuild {}", bytes(homeless)),
        (_, 0, Some(seconds)) => format!("{made} made again, {}", duration(seconds)),
        (_, 0, None) => format!("{made} made again"),
        (_, homeless, _) => format!("{made} made again, nowhere to rebuild {}", bytes(homeless)),
    }
}

/// A drive's state in a word, also that it is being taken out.
pub fn standing_of(drive: &DriveReport) -> &'static str {
    if drive.leaving && drive.state.is_in_sync() { "leaving" } else { state_of(drive.state) }
}

pub fn state_of(state: DriveState) -> &'static str {
    match state {
        DriveState::Active => "active",
        DriveState::Suspect => "suspect",
        DriveState::Missing => "missing",
        DriveState::Stale => "stale",
        DriveState::Resyncing => "resyncing",
        DriveState::Rebuilding => "rebuilding",
        DriveState::Faulted => "failed",
        DriveState::Removed => "removed",
    }
}

/// What should be done now.
fn duty(pool: &PoolReport) -> String {
    let healing = pool.work.iter().find(|w| w.kind.heals());
    let mut lines = Vec::new();
    if let Some(work) = healing {
        let when = seconds_left(work).map_or("when it is done".to_owned(), |s| format!("in {}", duration(s)));
        lines.push(line("do", &format!("nothing now: the copies are being made again, complete {when}")));
    }
    for drive in absent(pool) {
        match drive.state {
            DriveState::Missing => {
                lines.push(line(
                    "do",
                    &format!("connect {} again; it is brought up to date by itself", drive.name),
                ));
                lines.push(more(&format!("drystone disk locate {}", drive.name)));
            }
            DriveState::Faulted => {
                lines.push(line(
                    "do",
                    &format!("check the cable and the power of {}, or have it replaced", drive.name),
                ));
                lines.push(more(&format!("drystone disk locate {}", drive.name)));
            }
            DriveState::Stale if healing.is_none() => {
                lines.push(line(
                    "do",
                    &format!("{} waits to be brought up to date; a daemon does that", drive.name),
                ));
                lines.push(more("drystone serve"));
            }
            DriveState::Stale
            | DriveState::Resyncing
            | DriveState::Rebuilding
            | DriveState::Suspect
            | DriveState::Removed
            | DriveState::Active => {}
        }
    }
    leaving(pool).for_each(|drive| lines.push(leave_duty(pool, drive)));
    if !pool.lost.is_empty() {
        lines.push(line("do", "restore what lies at the lost places: they read again once they are written"));
    }
    for drive in pool.drives.iter().filter(|d| d.checksum_errors > 0 || d.healed_blocks > 0) {
        let healed = drive.healed_blocks;
        lines.push(line(
            "do",
            &format!("{} gave wrong blocks; {healed} were repaired: read everything once", drive.name),
        ));
        lines.push(more(&format!("drystone pool scrub {}", pool.name)));
    }
    lines.concat()
}

/// What to do about a drive that is being taken out.
fn leave_duty(pool: &PoolReport, drive: &DriveReport) -> String {
    let name = &drive.name;
    if !drive.reason.is_empty() {
        let text = format!("{name} cannot leave: {}. Add a drive, or let it stay", drive.reason);
        return line("do", &text)
            + &more("drystone disk add DISK")
            + &more(&format!("drystone disk remove {name} --cancel"));
    }
    let work = pool.work.iter().find(|w| w.kind == WorkKind::Leave);
    let when =
        work.and_then(seconds_left).map_or("when it is empty".to_owned(), |s| format!("in {}", duration(s)));
    line("do", &format!("nothing now: {name} can be taken out {when}, and stays in use until then"))
}

/// What could be better.
fn hints(pool: &PoolReport) -> String {
    let mut lines = Vec::new();
    if pool.volumes.is_empty() {
        lines.push(line("hint", &format!("drystone volume create NAME --size SIZE --pool {}", pool.name)));
    }
    if pool.state == PoolState::Unprotected && pool.usable_bytes[1] > 0 {
        let room = bytes(pool.free_bytes[1]);
        lines.push(line("hint", &format!("a volume can have two copies: --copies 2 has room for {room}")));
    }
    lines.concat()
}

#[cfg(test)]
pub mod tests;
