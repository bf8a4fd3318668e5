//! `plan --pool`: what a pool would be with more drives.

use super::{Layout, PlannedDrive, drives_table, layout, layout_row, objection_to, planned};
use crate::base::limits::COPIES_MAX;
use crate::base::size::show_copies;
use crate::base::units::ByteLen;
use crate::cli::words::{Side, bytes, count, duration, table};
use crate::control::api::{DriveReport, DriveState, PoolReport};
use crate::control::refusal::word;
use crate::disk::inspect::Drive;
use crate::pool::balance::targets;
use crate::pool::layout::member_layout;
use crate::pool::meter::{rate_expected, seconds};
use serde::Serialize;

/// A pool now and with more drives.
#[derive(Debug, Serialize, PartialEq)]
pub(super) struct Growth {
    pool: String,
    copies: u8,
    stored_bytes: u64,
    drives: Vec<PlannedDrive>,
    /// Drives of the pool that do not count now: they are not there, or are given up.
    not_counted: Vec<String>,
    /// What the pool gives with each number of copies, now and with the drives.
    now: Vec<Layout>,
    then: Vec<Layout>,
    /// Bytes that would move until every drive is filled in proportion, and how long that takes at the rate that is
    /// expected of such drives, seconds.
    moves_bytes: u64,
    move_seconds: Option<u64>,
}

/// Whether a drive of a pool counts for what it gives.
fn counts(drive: &DriveReport) -> bool {
    match drive.state {
        _ if drive.leaving => false,
        DriveState::Active | DriveState::Suspect | DriveState::Stale | DriveState::Resyncing => true,
        DriveState::Missing | DriveState::Faulted | DriveState::Rebuilding | DriveState::Removed => false,
    }
}

pub(super) fn growth(pool: &PoolReport, drives: &[Drive]) -> Growth {
    let extent = ByteLen(pool.extent_bytes);
    let extents_of = |size: ByteLen| member_layout(size, extent).map_or(0, |layout| layout.extents);
    let planned: Vec<PlannedDrive> = drives.iter().map(|drive| planned(drive, &extents_of)).collect();
    let counted: Vec<&DriveReport> = pool.drives.iter().filter(|d| counts(d)).collect();
    let now: Vec<u32> = counted.iter().map(|d| extents_of(ByteLen(d.size_bytes))).collect();
    let then: Vec<u32> = now.iter().copied().chain(planned.iter().map(|d| d.extents)).collect();
    let rotates = counted.iter().any(|d| d.rotational) || drives.iter().any(|d| d.rotational);
    let expected = rate_expected(rotates);
    let rate = if pool.heal_rate_measured { pool.heal_bytes_per_second } else { expected };
    let layouts = |extents: &[u32]| {
        (1..=COPIES_MAX).map(|copies| layout(copies, extents, extent, rate)).collect::<Vec<_>>()
    };
    let used = counted.iter().map(|d| d.used_bytes / extent.0);
    // What lies on drives that leave moves as well.
    let left: u64 = pool.drives.iter().filter(|d| d.leaving).map(|d| d.used_bytes / extent.0).sum();
    let moves_bytes = (left + moved(used, &then, pool)) * extent.0;
    Growth {
        pool: pool.name.clone(),
        copies: pool.copies,
        stored_bytes: pool.allocated_bytes,
        drives: planned,
        not_counted: pool
            .drives
            .iter()
            .filter(|d| !counts(d) && d.state != DriveState::Removed)
            .map(|d| d.name.clone())
            .collect(),
        now: layouts(&now),
        then: layouts(&then),
        moves_bytes,
        move_seconds: seconds(moves_bytes, rate),
    }
}

/// Extents that move: what members have beyond their share of what is stored.
fn moved(used: impl Iterator<Item = u64>, then: &[u32], pool: &PoolReport) -> u64 {
    let mut slots = [0; COPIES_MAX];
    for volume in &pool.volumes {
        slots[usize::from(volume.copies.clamp(1, 3)) - 1] += volume.allocated_bytes / pool.extent_bytes;
    }
    let totals: Vec<u64> = then.iter().map(|e| u64::from(*e)).collect();
    used.zip(targets(&totals, slots)).map(|(used, wanted)| used.saturating_sub(wanted)).sum()
}

pub(super) fn screen(growth: &Growth, typed: &[String]) -> String {
    let raw: u64 = growth.drives.iter().map(|d| d.size_bytes).sum();
    let mut text = format!(
        "{} with {}, {} raw. Nothing was written.\n\n",
        growth.pool,
        count(growth.drives.len(), "more drive"),
        bytes(raw)
    );
    text += &drives_table(&growth.drives);
    text += "\n";
    let row = |(now, then): (&Layout, &Layout)| {
        let mut row = layout_row(then, growth.drives.iter().filter(|d| d.extents > 0).count());
        row.insert(1, if now.usable_bytes == 0 { "-".to_owned() } else { bytes(now.usable_bytes) });
        row
    };
    text += &table(
        &[
            ("COPIES", Side::Left),
            ("NOW", Side::Right),
            ("USABLE", Side::Right),
            ("BYTES", Side::Right),
            ("SURVIVES", Side::Left),
            ("HEALS ITSELF AFTER LOSING THE LARGEST", Side::Left),
        ],
        &growth.now.iter().zip(&growth.then).map(row).collect::<Vec<_>>(),
    );
    format!("{text}\n{}\n", advice(growth, typed).join("\n"))
}

fn advice(growth: &Growth, typed: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    let of = |layouts: &[Layout]| layouts[usize::from(growth.copies.clamp(1, 3)) - 1].usable_bytes;
    let (now, then) = (of(&growth.now), of(&growth.then));
    let copies = show_copies(growth.copies);
    let name = &growth.pool;
    lines.push(match then > now {
        true => format!("{name} has {copies}: {} -> {} usable, {} stored.", bytes(now), bytes(then), bytes(growth.stored_bytes)),
        false => format!("{name} has {copies}: no more usable space. The other drives have no room for the second copies of more."),
    });
    if growth.moves_bytes > 0 {
        let took =
            growth.move_seconds.map_or(String::new(), |s| format!(", {} without clients", duration(s)));
        lines.push(format!(
            "{} would move until every drive is filled in proportion{took}. Writes are never stopped, and nothing has fewer copies meanwhile.",
            bytes(growth.moves_bytes)
        ));
    }
    if !growth.not_counted.is_empty() {
        lines.push(format!(
            "Not counted, since they are not in use or leave: {}.",
            growth.not_counted.join(", ")
        ));
    }
    lines.extend(growth.drives.iter().filter_map(|drive| objection_to("disk add", drive)));
    let disks: Vec<_> = typed.iter().map(|t| word(t)).collect();
    lines.push(format!("next: drystone disk add {} --pool {}", disks.join(" "), word(name)));
    lines
}
