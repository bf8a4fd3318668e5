//! `plan`: what drives would give, before anything is written.
//!
//! The arithmetic is the pool's own (`pool::alloc`, `pool::layout`), so that the plan is what one gets.

mod growth;

use super::args::PlanArgs;
use super::disks;
use super::exit::{Ended, Exit};
use super::session::Session;
use super::words::{Side, bytes, duration, table};
use crate::base::limits::COPIES_MAX;
use crate::base::units::ByteLen;
use crate::control::api::Failure;
use crate::control::refusal::word;
use crate::disk::inspect::{Drive, Standing};
use crate::pool::alloc::usable;
use crate::pool::balance::targets;
use crate::pool::layout::{extent_size_for, member_layout, member_size_min};
use crate::pool::meter::{rate_expected, seconds};
use serde::Serialize;
use std::collections::BTreeSet;

pub fn run(session: &Session, args: &PlanArgs) -> Result<Exit, Ended> {
    let typed = if args.add.is_empty() { &args.disks } else { &args.add };
    let paths = disks::paths(typed)?;
    let distinct: BTreeSet<_> = paths.iter().collect();
    if distinct.len() < paths.len() {
        return Err(Failure::failed("SAME_DISK", "a disk is named twice; it counts once").into());
    }
    let drives = disks::look_at(&paths)?;
    if let Some(pool) = &args.pool {
        return grow(session, pool, &drives, typed);
    }
    let plan = plan(&drives);
    if session.screen.json {
        session.screen.document("drystone.plan/1", &plan);
    } else {
        session.screen.print(&screen(&plan, typed));
    }
    Ok(Exit::Done)
}

/// What a pool would be with these drives.
fn grow(session: &Session, pool: &String, drives: &[Drive], typed: &[String]) -> Result<Exit, Ended> {
    let report = session.status(Some(pool))?;
    let Some(pool) = report.pools.first() else {
        return Err(Failure::failed("NO_POOL", format!("there is no pool {pool} here")).into());
    };
    let growth = growth::growth(pool, drives);
    if session.screen.json {
        session.screen.document("drystone.growth/1", &growth);
    } else {
        session.screen.print(&growth::screen(&growth, typed));
    }
    Ok(Exit::Done)
}

/// What the drives would give.
#[derive(Debug, Serialize, PartialEq)]
struct Plan {
    raw_bytes: u64,
    extent_bytes: u64,
    drives: Vec<PlannedDrive>,
    layouts: Vec<Layout>,
    /// What of the largest drive has no place for a second copy.
    cannot_be_mirrored_bytes: u64,
    /// A drive that would change that, and what two copies would give then.
    would_help: Option<Help>,
}

#[derive(Debug, Serialize, PartialEq)]
struct PlannedDrive {
    name: String,
    size_bytes: u64,
    holds: String,
    standing: State,
    extents: u32,
}

#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum State {
    Free,
    HasData,
    Member,
    OffLimits,
    TooSmall,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Free => "free",
            State::HasData => "has data",
            State::Member => "in a pool",
            State::OffLimits => "off limits",
            State::TooSmall => "too small",
        }
    }
}

/// One number of copies.
#[derive(Debug, Serialize, PartialEq)]
struct Layout {
    copies: u8,
    usable_bytes: u64,
    survives_drives: u8,
    /// What may be stored so that, after losing the largest drive, every block gets all its copies again.
    heals_up_to_bytes: u64,
    /// How long that takes with so much stored, seconds, at the rate that is expected of such drives. None: it does not.
    heal_seconds: Option<u64>,
}

#[derive(Debug, Serialize, PartialEq)]
struct Help {
    drive_bytes: u64,
    usable_bytes: u64,
}

fn plan(drives: &[Drive]) -> Plan {
    let sizes: Vec<ByteLen> = drives.iter().map(|d| d.size).filter(|s| *s >= member_size_min()).collect();
    let extent = extent_size_for(&sizes);
    let extents_of = |size: ByteLen| member_layout(size, extent).map_or(0, |layout| layout.extents);
    let extents: Vec<u32> = sizes.iter().map(|size| extents_of(*size)).collect();
    let largest = extents.iter().copied().max().unwrap_or(0);
    let rate = rate_expected(drives.iter().any(|d| d.rotational));
    let sum = |list: &[u32]| list.iter().map(|n| u64::from(*n)).sum::<u64>();
    let cannot_be_mirrored = (2 * u64::from(largest)).saturating_sub(sum(&extents));
    Plan {
        raw_bytes: drives.iter().map(|d| d.size.0).sum(),
        extent_bytes: extent.0,
        drives: drives.iter().map(|drive| planned(drive, &extents_of)).collect(),
        layouts: (1..=COPIES_MAX).map(|copies| layout(copies, &extents, extent, rate)).collect(),
        cannot_be_mirrored_bytes: cannot_be_mirrored * extent.0,
        would_help: (cannot_be_mirrored > 0).then(|| help(&sizes, &extents, extent)),
    }
}

fn planned(drive: &Drive, extents_of: &impl Fn(ByteLen) -> u32) -> PlannedDrive {
    let enough = drive.size >= member_size_min();
    let standing = match drive.standing() {
        Standing::Free | Standing::HasData | Standing::Member | Standing::OffLimits if !enough => {
            State::TooSmall
        }
        Standing::Free => State::Free,
        Standing::HasData => State::HasData,
        Standing::Member => State::Member,
        Standing::OffLimits => State::OffLimits,
    };
    PlannedDrive {
        name: drive.name.clone(),
        size_bytes: drive.size.0,
        holds: drive.holds(),
        standing,
        extents: if enough { extents_of(drive.size) } else { 0 },
    }
}

fn layout(copies: usize, extents: &[u32], extent: ByteLen, rate: u64) -> Layout {
    let copies = u8::try_from(copies).expect("three at most");
    let mut rest = extents.to_vec();
    rest.sort_unstable();
    rest.pop();
    let most = if copies > 1 { usable(&rest, copies) } else { 0 };
    let held = on_the_largest(extents, copies, most) * extent.0;
    Layout {
        copies,
        usable_bytes: usable(extents, copies) * extent.0,
        survives_drives: copies - 1,
        heals_up_to_bytes: most * extent.0,
        heal_seconds: seconds(held, rate).filter(|_| most > 0),
    }
}

/// Extents in use on the largest drive when so many slots are stored, spread as the pool spreads them.
fn on_the_largest(extents: &[u32], copies: u8, slots: u64) -> u64 {
    let totals: Vec<u64> = extents.iter().map(|e| u64::from(*e)).collect();
    let mut stored = [0; COPIES_MAX];
    stored[usize::from(copies) - 1] = slots;
    let wanted = targets(&totals, stored);
    totals.iter().zip(wanted).max_by_key(|(total, _)| **total).map_or(0, |(_, wanted)| wanted)
}

/// One more drive as large as the largest.
fn help(sizes: &[ByteLen], extents: &[u32], extent: ByteLen) -> Help {
    let drive = sizes.iter().copied().max().unwrap_or_default();
    let more: Vec<u32> = extents.iter().copied().chain(extents.iter().copied().max()).collect();
    Help { drive_bytes: drive.0, usable_bytes: usable(&more, 2) * extent.0 }
}

fn screen(plan: &Plan, typed: &[String]) -> String {
    let drives = super::words::count(plan.drives.len(), "drive");
    let usable_drives = plan.drives.iter().filter(|d| d.extents > 0).count();
    let mut text = format!("{drives}, {} raw. Nothing was written.\n\n", bytes(plan.raw_bytes));
    text += &drives_table(&plan.drives);
    text += "\n";
    text += &table(
        &[
            ("COPIES", Side::Left),
            ("USABLE", Side::Right),
            ("BYTES", Side::Right),
            ("SURVIVES", Side::Left),
            ("HEALS ITSELF AFTER LOSING THE LARGEST", Side::Left),
        ],
        &plan.layouts.iter().map(|l| layout_row(l, usable_drives)).collect::<Vec<_>>(),
    );
    let advice = advice(plan, typed);
    if advice.is_empty() { text } else { format!("{text}\n{}\n", advice.join("\n")) }
}

fn drives_table(drives: &[PlannedDrive]) -> String {
    table(
        &[("DRIVE", Side::Left), ("SIZE", Side::Right), ("STATE", Side::Left), ("HOLDS", Side::Left)],
        &drives.iter().map(drive_row).collect::<Vec<_>>(),
    )
}

fn drive_row(drive: &PlannedDrive) -> Vec<String> {
    let holds = if drive.holds.is_empty() { "-" } else { &drive.holds };
    vec![drive.name.clone(), bytes(drive.size_bytes), drive.standing.word().to_owned(), holds.to_owned()]
}

fn layout_row(layout: &Layout, usable_drives: usize) -> Vec<String> {
    let copies = layout.copies.to_string();
    if layout.usable_bytes == 0 {
        let missing = usize::from(layout.copies).saturating_sub(usable_drives);
        let needs = format!("needs {missing} more drive{}", if missing == 1 { "" } else { "s" });
        return vec![copies, "-".to_owned(), "0".to_owned(), needs, String::new()];
    }
    let survives = match layout.survives_drives {
        0 => "nothing".to_owned(),
        1 => "any 1 drive".to_owned(),
        more => format!("any {more} drives"),
    };
    let took = layout.heal_seconds.map_or(String::new(), |s| format!(", in {}", duration(s)));
    let heals = match (layout.copies, layout.heals_up_to_bytes) {
        (1, _) => "no: there is no second copy".to_owned(),
        (_, 0) => "no: there is nowhere to rebuild to".to_owned(),
        (_, most) if most >= layout.usable_bytes => format!("yes{took}"),
        (_, most) => {
            format!("up to {} stored{took}: keep {} free", bytes(most), bytes(layout.usable_bytes - most))
        }
    };
    vec![copies, bytes(layout.usable_bytes), layout.usable_bytes.to_string(), survives, heals]
}

fn advice(plan: &Plan, typed: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    let largest = plan.drives.iter().filter(|d| d.extents > 0).max_by_key(|d| d.size_bytes);
    if let (Some(largest), Some(help)) = (largest, &plan.would_help) {
        let stranded = bytes(plan.cannot_be_mirrored_bytes);
        lines.push(format!(
            "{stranded} of {} cannot be mirrored: the other drives have no room for it.",
            largest.name
        ));
        let (size, gain) = (bytes(help.drive_bytes), bytes(help.usable_bytes));
        let now = bytes(plan.layouts[1].usable_bytes);
        lines.push(format!("One more drive of {size} would raise mirrored space from {now} to {gain}."));
    }
    let mirror = &plan.layouts[1];
    if mirror.usable_bytes > 0 && mirror.heals_up_to_bytes == 0 {
        lines.push("After losing a drive you would run on one copy until you replace it.".to_owned());
    }
    lines.extend(plan.drives.iter().filter_map(|drive| objection_to("pool create", drive)));
    let protect = if mirror.usable_bytes > 0 { "drive" } else { "none" };
    let disks: Vec<_> = typed.iter().map(|t| word(t)).collect();
    lines.push(format!("next: drystone pool create NAME {} --protect {protect}", disks.join(" ")));
    lines
}

/// What the command that comes next would say about a drive.
fn objection_to(command: &str, drive: &PlannedDrive) -> Option<String> {
    let name = &drive.name;
    match drive.standing {
        State::Free => None,
        State::HasData => Some(format!("{name} holds data: `{command}` asks for --erase {}.", word(name))),
        State::Member => Some(format!("{name} is in a pool already: `{command}` refuses it.")),
        State::OffLimits => Some(format!("{name} is in use: `{command}` refuses it.")),
        State::TooSmall => Some(format!("{name} is too small and was not counted.")),
    }
}

#[cfg(test)]
mod tests;
