//! Which events there are about the drives of a pool. Pure.

use super::draft::Draft;
use super::words::{protection, show};
use crate::control::api::{DriveReport, DriveState, PoolReport};
use crate::control::event::{EventKind, Level};

/// A drive with nothing to tell.
pub fn make_well(drive: &mut DriveReport) {
    drive.state = DriveState::Active;
    (drive.read_errors, drive.write_errors) = (0, 0);
    (drive.checksum_errors, drive.healed_blocks) = (0, 0);
}

/// What happened to the drives of a pool between two looks.
pub fn drive_changes(before: &PoolReport, after: &PoolReport) -> Vec<Draft> {
    let pool = &after.name;
    let mut drafts = Vec::new();
    for drive in before.drives.iter().filter(|d| after.drives.iter().all(|a| a.uuid != d.uuid)) {
        drafts.push(left(pool, drive));
    }
    for drive in &after.drives {
        match before.drives.iter().find(|b| b.uuid == drive.uuid) {
            Some(old) => {
                drafts.extend(state_change(old, drive, after));
                drafts.extend(errors(old, drive, pool));
                drafts.extend(wrong_blocks(old, drive, pool));
            }
            None => {
                let (name, size) = (&drive.name, show(drive.size_bytes));
                let message =
                    format!("drive {name} ({size}) joined pool {pool}; what is stored spreads to it");
                drafts.push(Draft::info(EventKind::DriveAdded, pool, name, message));
            }
        }
    }
    drafts
}

fn left(pool: &str, drive: &DriveReport) -> Draft {
    let message = format!("drive {} is no part of pool {pool} any more", drive.name);
    Draft::info(EventKind::DriveLeft, pool, &drive.name, message)
}

fn state_change(before: &DriveReport, drive: &DriveReport, pool: &PoolReport) -> Option<Draft> {
    if before.state == drive.state {
        return None;
    }
    let (tank, name, kind) = (&pool.name, &drive.name, EventKind::DriveState);
    let why = if drive.reason.is_empty() { String::new() } else { format!(" ({})", drive.reason) };
    let data = protection(pool);
    let bad = |code: &str, what: &str| {
        let message = format!("drive {name} {what}{why}: {data}");
        Some(Draft::coded(code, Level::Warning, kind, tank, name, message))
    };
    let good = |message: String| Some(Draft::info(kind, tank, name, message));
    match (before.state, drive.state) {
        (DriveState::Rebuilding, DriveState::Missing) => {
            good(format!("drive {name} is not needed any more, its copies were made anew on others: {data}"))
        }
        (_, DriveState::Missing) => bad("DRIVE_MISSING", "is gone"),
        (_, DriveState::Faulted) => bad("DRIVE_FAILED", "failed and is not used"),
        (_, DriveState::Stale) => bad("DRIVE_STALE", "is there, but missed writes and is not read"),
        (_, DriveState::Suspect) => {
            bad("DRIVE_SLOW", "answers slowly, other copies are read where there are any")
        }
        (_, DriveState::Rebuilding) => {
            bad("DRIVE_GIVEN_UP", "is given up, its copies are made anew on other drives")
        }
        (_, DriveState::Resyncing) => {
            good(format!("drive {name} is back; what it missed is copied to it, then its copies count again"))
        }
        (DriveState::Suspect, DriveState::Active) => good(format!("drive {name} answers as usual again")),
        (_, DriveState::Active) => good(format!("drive {name} is in sync again, its copies count: {data}")),
        (_, DriveState::Removed) => good(format!("drive {name} was taken out of pool {tank}: {data}")),
    }
}

fn errors(before: &DriveReport, drive: &DriveReport, pool: &str) -> Option<Draft> {
    let reads = drive.read_errors.saturating_sub(before.read_errors);
    let writes = drive.write_errors.saturating_sub(before.write_errors);
    if reads + writes == 0 {
        return None;
    }
    let name = &drive.name;
    let message = format!(
        "drive {name} gave {reads} read and {writes} write errors; other copies stand in where there are any"
    );
    Some(Draft::coded("DRIVE_ERRORS", Level::Warning, EventKind::DriveErrors, pool, name, message))
}

fn wrong_blocks(before: &DriveReport, drive: &DriveReport, pool: &str) -> Option<Draft> {
    let wrong = drive.checksum_errors.saturating_sub(before.checksum_errors);
    let healed = drive.healed_blocks.saturating_sub(before.healed_blocks);
    if wrong + healed == 0 {
        return None;
    }
    let name = &drive.name;
    let message = format!(
        "drive {name} gave {wrong} wrong blocks; {healed} were written again from a copy that is right"
    );
    Some(Draft::coded("SUM_MISMATCH", Level::Warning, EventKind::DriveHealed, pool, name, message))
}
