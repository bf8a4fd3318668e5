//! Which events there are between two looks at the pools. Pure.

use super::draft::Draft;
use super::drives::drive_changes;
use super::words::{protection, show, state_word, work_word};
use crate::base::size::show_copies;
use crate::control::api::{
    LostReport, PoolReport, PoolState, Request, ScrubReport, VolumeReport, WorkReport,
};
use crate::control::event::{EventKind, Level};

/// Sooner full than this is worth a warning, seconds: a week.
pub const FILLING_SOON: u64 = 7 * 24 * 3600;

/// What happened between two looks; `asked` is the change that was asked for between them.
pub fn changes(before: &[PoolReport], after: &[PoolReport], asked: Option<&Request>) -> Vec<Draft> {
    let find = |pools: &[PoolReport], uuid: &str| pools.iter().position(|p| p.uuid == uuid);
    let mut drafts: Vec<Draft> =
        before.iter().filter(|p| find(after, &p.uuid).is_none()).map(|p| gone(p, asked)).collect();
    for pool in after {
        match find(before, &pool.uuid) {
            Some(at) => drafts.extend(pool_changes(&before[at], pool)),
            None => {
                drafts.push(appeared(pool, asked));
                drafts.extend(pool_changes(&at_its_best(pool), pool));
            }
        }
    }
    drafts
}

fn appeared(pool: &PoolReport, asked: Option<&Request>) -> Draft {
    let name = &pool.name;
    let drives = pool.drives.len();
    match asked {
        Some(Request::PoolCreate(_)) => {
            let message = format!("pool {name} was made of {drives} drives");
            Draft::info(EventKind::PoolMade, name, name, message)
        }
        Some(_) | None => {
            let message = format!("pool {name} is open: {}, {}", state_word(pool.state), protection(pool));
            Draft::info(EventKind::PoolOpened, name, name, message)
        }
    }
}

fn gone(pool: &PoolReport, asked: Option<&Request>) -> Draft {
    let name = &pool.name;
    match asked {
        Some(Request::PoolDestroy { .. }) => {
            let message = format!("pool {name} was destroyed, and all that was in it");
            Draft::info(EventKind::PoolDestroyed, name, name, message)
        }
        Some(_) | None => {
            let message = format!("pool {name} is closed: it is not served, and its data is as it was");
            Draft::info(EventKind::PoolClosed, name, name, message)
        }
    }
}

/// A pool as it would be with all well: what differs from it is told when the pool is opened.
fn at_its_best(pool: &PoolReport) -> PoolReport {
    let mut best = pool.clone();
    best.state = match pool.state {
        PoolState::Unprotected => PoolState::Unprotected,
        PoolState::Safe | PoolState::AtRisk | PoolState::DataUnavailable => PoolState::Safe,
    };
    best.drives.iter_mut().for_each(super::drives::make_well);
    (best.heal_possible, best.votes_present) = (true, pool.votes_total);
    (best.free_bytes, best.full_in_seconds) = (pool.usable_bytes, None);
    best.work.clear();
    best.lost.clear();
    best
}

fn pool_changes(before: &PoolReport, after: &PoolReport) -> Vec<Draft> {
    let mut drafts = volume_changes(before, after);
    drafts.extend(drive_changes(before, after));
    drafts.extend(votes_change(before, after));
    drafts.extend(state_change(before, after));
    drafts.extend(lost_blocks(before, after));
    drafts.extend(work_changes(before, after));
    drafts.extend(scrub_end(before, after));
    drafts.extend(reserve_change(before, after));
    drafts.extend(space_change(before, after));
    drafts.extend(filling_change(before, after));
    drafts
}

fn volume_changes(before: &PoolReport, after: &PoolReport) -> Vec<Draft> {
    let pool = &after.name;
    let mut drafts = Vec::new();
    for volume in before.volumes.iter().filter(|v| after.volumes.iter().all(|a| a.uuid != v.uuid)) {
        let message = format!("volume {} was destroyed, and what was in it", volume.name);
        drafts.push(Draft::info(EventKind::VolumeDestroyed, pool, &volume.name, message));
    }
    for volume in &after.volumes {
        let name = &volume.name;
        let size = show(volume.size_bytes);
        let Some(old) = before.volumes.iter().find(|b| b.uuid == volume.uuid) else {
            let copies = show_copies(volume.copies);
            let message = format!("volume {name} was made: {size}, {copies}");
            drafts.push(Draft::info(EventKind::VolumeMade, pool, name, message));
            continue;
        };
        if old.name != *name {
            let message = format!("volume {} is now called {name}", old.name);
            drafts.push(Draft::info(EventKind::VolumeRenamed, pool, name, message));
        }
        if old.size_bytes != volume.size_bytes {
            let message = format!("volume {name} was {}, and is {size} now", show(old.size_bytes));
            drafts.push(Draft::info(EventKind::VolumeGrown, pool, name, message));
        }
        drafts.extend(copies_change(pool, old, volume));
    }
    drafts
}

/// A volume is to have another number of copies, or all of it has that number.
fn copies_change(pool: &str, old: &VolumeReport, volume: &VolumeReport) -> Option<Draft> {
    let left = |v: &VolumeReport| v.lacking_slots + v.surplus_slots;
    let (name, copies) = (&volume.name, show_copies(volume.copies));
    let message = match (old.copies != volume.copies, left(volume)) {
        (true, 1..) => {
            let so_far = show_copies(old.copies);
            format!(
                "volume {name} is to have {copies}, and had {so_far}; {} slots are left to do",
                left(volume)
            )
        }
        (true, 0) => format!("volume {name} has {copies}"),
        (false, 0) if left(old) > 0 => format!("volume {name} has {copies} of everything"),
        (false, _) => return None,
    };
    Some(Draft::info(EventKind::VolumeCopies, pool, name, message))
}

fn votes_change(before: &PoolReport, after: &PoolReport) -> Option<Draft> {
    let majority = |p: &PoolReport| 2 * u64::from(p.votes_present) > u64::from(p.votes_total);
    let (name, kind) = (&after.name, EventKind::VotesChanged);
    match (majority(before), majority(after)) {
        (true, false) => {
            let message = format!(
                "only {} of {} votes are left: pool {name} takes no changes any more, and writes to new places fail",
                after.votes_present, after.votes_total
            );
            Some(Draft::coded("MAJORITY_LOST", Level::Critical, kind, name, name, message))
        }
        (false, true) => {
            let message = format!("pool {name} has a majority of its votes again and takes changes");
            Some(Draft::info(kind, name, name, message))
        }
        (true, true) | (false, false) => None,
    }
}

fn state_change(before: &PoolReport, after: &PoolReport) -> Option<Draft> {
    if before.state == after.state {
        return None;
    }
    let (name, kind) = (&after.name, EventKind::PoolState);
    let message = format!("pool {name} is {}: {}", state_word(after.state), protection(after));
    Some(match after.state {
        PoolState::Safe | PoolState::Unprotected => Draft::info(kind, name, name, message),
        PoolState::AtRisk => Draft::coded("POOL_AT_RISK", Level::Warning, kind, name, name, message),
        PoolState::DataUnavailable => {
            Draft::coded("DATA_UNAVAILABLE", Level::Critical, kind, name, name, message)
        }
    })
}

fn lost_blocks(before: &PoolReport, after: &PoolReport) -> Option<Draft> {
    let sum = |lost: &[LostReport]| lost.iter().map(|l| l.length_bytes).sum::<u64>();
    let more = sum(&after.lost).checked_sub(sum(&before.lost)).filter(|more| *more > 0)?;
    let first = after.lost.iter().find(|l| !before.lost.contains(l)).or(after.lost.first())?;
    let (name, volume) = (&after.name, &first.volume);
    let message = format!(
        "{more} bytes more have no good copy left, at offset {} of volume {volume}: restore them from a backup",
        first.offset_bytes
    );
    Some(Draft::coded("BLOCKS_LOST", Level::Critical, EventKind::BlocksLost, name, volume, message))
}

fn work_changes(before: &PoolReport, after: &PoolReport) -> Vec<Draft> {
    let name = &after.name;
    let find = |works: &[WorkReport], like: &WorkReport| works.iter().any(|w| w.kind == like.kind);
    let begun = after.work.iter().filter(|w| !find(&before.work, w)).map(|work| {
        let word = work_word(work.kind);
        let message = format!("{word} of pool {name} began: {} to go through", show(work.total_bytes));
        Draft::info(EventKind::WorkBegun, name, word, message)
    });
    let ended = before.work.iter().filter(|w| !find(&after.work, w)).map(|work| {
        let word = work_word(work.kind);
        let amount = format!("{} of {}", show(work.done_bytes), show(work.total_bytes));
        let message =
            format!("{word} of pool {name} ended, {amount} done when last seen: {}", protection(after));
        Draft::info(EventKind::WorkEnded, name, word, message)
    });
    ended.chain(begun).collect()
}

fn scrub_end(before: &PoolReport, after: &PoolReport) -> Option<Draft> {
    let scrub = after.last_scrub.as_ref().filter(|s| before.last_scrub.as_ref() != Some(*s))?;
    let (name, kind, subject) = (&after.name, EventKind::WorkEnded, "scrub");
    let bad = scrub.lost_blocks + scrub.different_blocks + scrub.unrepaired_blocks;
    let message = format!("scrub of pool {name}: {}", scrub_words(scrub));
    Some(match (bad, scrub.lost_blocks) {
        (0, _) => Draft::info(kind, name, subject, message),
        (_, 0) => Draft::coded("SCRUB_FOUND", Level::Warning, kind, name, subject, message),
        (_, _) => Draft::coded("SCRUB_FOUND", Level::Critical, kind, name, subject, message),
    })
}

fn scrub_words(scrub: &ScrubReport) -> String {
    let kinds = [
        (scrub.repaired_blocks, "wrong blocks were repaired"),
        (scrub.unrepaired_blocks, "wrong blocks could not be repaired"),
        (scrub.different_blocks, "blocks differ between their copies"),
        (scrub.lost_blocks, "blocks have no good copy left"),
    ];
    let said: Vec<String> =
        kinds.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
    let right = if said.is_empty() { ", every copy is right" } else { "" };
    format!("{} read{right}{}", show(scrub.checked_bytes), said.concat())
}

fn reserve_change(before: &PoolReport, after: &PoolReport) -> Option<Draft> {
    let (name, kind) = (&after.name, EventKind::HealReserve);
    match (before.heal_possible, after.heal_possible) {
        (true, false) if after.copies > 1 => {
            let message = format!(
                "pool {name} could not heal itself after losing its largest drive: some copies would find no place"
            );
            Some(Draft::coded("NO_ROOM_TO_HEAL", Level::Warning, kind, name, name, message))
        }
        (false, true) if after.copies > 1 => {
            let message = format!("pool {name} has room to heal itself after losing its largest drive");
            Some(Draft::info(kind, name, name, message))
        }
        (_, _) => None,
    }
}

/// How near a pool is to being full.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Room {
    Enough,
    /// Less than a tenth.
    Low,
    None,
}

fn room(pool: &PoolReport) -> Room {
    match pool.free() {
        _ if pool.allocated_bytes == 0 => Room::Enough,
        0 => Room::None,
        free if free < pool.usable() / 10 => Room::Low,
        _ => Room::Enough,
    }
}

fn space_change(before: &PoolReport, after: &PoolReport) -> Option<Draft> {
    let (name, kind) = (&after.name, EventKind::Space);
    let left = format!("{} of {} are free in pool {name}", show(after.free()), show(after.usable()));
    match (room(before), room(after)) {
        (was, is) if was == is => None,
        (_, Room::None) => {
            let message = format!("pool {name} is full: writes to new places fail with \"no space\"");
            Some(Draft::coded("SPACE_OUT", Level::Critical, kind, name, name, message))
        }
        (Room::Enough, Room::Low) => {
            let message = format!("only {left}: when it is full, writes to new places fail");
            Some(Draft::coded("SPACE_LOW", Level::Warning, kind, name, name, message))
        }
        (_, Room::Enough | Room::Low) => Some(Draft::info(kind, name, name, format!("again {left}"))),
    }
}

fn filling_change(before: &PoolReport, after: &PoolReport) -> Option<Draft> {
    let soon = |p: &PoolReport| p.full_in_seconds.filter(|seconds| *seconds < FILLING_SOON);
    let (name, kind) = (&after.name, EventKind::Filling);
    match (soon(before), soon(after)) {
        (None, Some(seconds)) => {
            let hours = seconds / 3600;
            let message = format!(
                "pool {name} is full in {} days and {} hours if it grows as in the last hours",
                hours / 24,
                hours % 24
            );
            Some(Draft::coded("POOL_FILLING", Level::Warning, kind, name, name, message))
        }
        (Some(_), None) => {
            let message = format!("pool {name} does not fill within a week any more");
            Some(Draft::info(kind, name, name, message))
        }
        (Some(_), Some(_)) | (None, None) => None,
    }
}

#[cfg(test)]
mod tests;
