//! What `disk show` tells of a member from the drive alone: superblocks, layout, log, state, dirty log.

use super::status::state_of;
use super::words::{Side, bytes, table};
use crate::base::units::MemberId;
use crate::control::api::{DriveState, Failure};
use crate::daemon::cores;
use crate::disk::Disk;
use crate::io::driver::Access;
use crate::pool::log::Replayed;
use crate::pool::state::{MemberState, State};
use crate::pool::survey::{Half, Inside, LogEnd, PlaneFound, SuperblockFound, Survey, survey};
use nix::errno::Errno;
use serde::Serialize;
use std::path::Path;

/// Memory for buffers while a drive is looked at, bytes.
const ARENA: usize = 8 << 20;

/// What lies on a member.
#[derive(Serialize, Debug)]
pub struct Contents {
    superblocks: [SuperblockShown; 2],
    identity: Option<Identity>,
    layout: Option<LayoutShown>,
    /// The two halves of the metadata log.
    log: Vec<HalfShown>,
    /// What the newest sound half says.
    state: Option<StateShown>,
    dirty: Option<PlaneShown>,
    missed: Option<PlaneShown>,
}

#[derive(Serialize, Debug)]
struct SuperblockShown {
    place: &'static str,
    offset_bytes: u64,
    sound: bool,
    /// `sound`, or what is wrong.
    condition: String,
}

#[derive(Serialize, Debug)]
struct Identity {
    pool: String,
    pool_uuid: String,
    member: u16,
    member_uuid: String,
    size_bytes: u64,
    joined_unix_ns: u64,
}

#[derive(Serialize, Debug)]
struct LayoutShown {
    log_offset_bytes: u64,
    log_half_bytes: u64,
    dirty_log_offset_bytes: u64,
    dirty_plane_bytes: u64,
    region_blocks_offset_bytes: u64,
    regions: u64,
    region_bytes: u64,
    extents_offset_bytes: u64,
    extents: u32,
    extent_bytes: u64,
    /// None: no state says so.
    extents_used: Option<u64>,
}

#[derive(Serialize, Debug)]
struct HalfShown {
    offset_bytes: u64,
    frames: u64,
    generation: Option<u64>,
    epoch: Option<u64>,
    sequence: Option<u64>,
    used_bytes: u64,
    /// One word.
    end: &'static str,
    /// Why it is read no further.
    reason: String,
}

#[derive(Serialize, Debug)]
struct StateShown {
    half: usize,
    pool: String,
    pool_uuid: String,
    clean: bool,
    forced: bool,
    members: Vec<MemberShown>,
    volumes: Vec<VolumeShown>,
}

#[derive(Serialize, Debug)]
struct MemberShown {
    member: u16,
    name: String,
    uuid: String,
    state: &'static str,
    size_bytes: u64,
    here: bool,
}

#[derive(Serialize, Debug)]
struct VolumeShown {
    name: String,
    uuid: String,
    size_bytes: u64,
    copies: u8,
    slots: usize,
    slots_here: usize,
}

#[derive(Serialize, Debug)]
struct PlaneShown {
    regions: u64,
    marked: u64,
    damaged_sectors: u64,
    /// Why it cannot be read.
    unreadable: Option<String>,
}

/// Looks at a drive. Whoever has it open is not disturbed.
pub fn look_at(path: &Path) -> Result<Contents, Failure> {
    let core = cores::here(ARENA)?;
    let (inner, path) = (core.clone(), path.to_owned());
    let found = core.run_until(async move {
        let disk = Disk::open(&inner, &path, Access::Inspect).await.map_err(|errno| {
            Failure::failed("DISK_UNREADABLE", format!("{}: {}", path.display(), errno.desc()))
        })?;
        let found = survey(&inner, &disk).await;
        disk.close(&inner).await;
        Ok(found)
    });
    core.drain();
    found.map(|found| contents(&found))
}

fn contents(survey: &Survey) -> Contents {
    let [front, back] = &survey.superblocks;
    let superblocks = [superblock("front", front), superblock("back", back)];
    let Some(inside) = &survey.inside else {
        let (state, dirty, missed) = (None, None, None);
        return Contents { superblocks, identity: None, layout: None, log: vec![], state, dirty, missed };
    };
    let [dirty, missed] = inside.planes;
    Contents {
        superblocks,
        identity: Some(identity(inside)),
        layout: Some(layout(inside)),
        log: inside.halves.iter().map(half).collect(),
        state: inside.log.as_ref().map(|(half, log)| state(*half, log, inside.superblock.id)),
        dirty: Some(plane(inside, dirty)),
        missed: Some(plane(inside, missed)),
    }
}

fn superblock(place: &'static str, found: &SuperblockFound) -> SuperblockShown {
    let condition = match &found.content {
        Ok(_) => "sound".to_owned(),
        Err(flaw) => flaw.to_string(),
    };
    SuperblockShown { place, offset_bytes: found.at.0, sound: found.content.is_ok(), condition }
}

fn identity(inside: &Inside) -> Identity {
    let superblock = &inside.superblock;
    Identity {
        pool: superblock.pool_name.clone(),
        pool_uuid: superblock.pool.to_string(),
        member: superblock.id.0,
        member_uuid: superblock.member.to_string(),
        size_bytes: superblock.size.0,
        joined_unix_ns: superblock.created_wall_ns,
    }
}

fn layout(inside: &Inside) -> LayoutShown {
    let layout = &inside.layout;
    let on_it = |state: &State| {
        let used = state.extents_in_use().filter(|(copy, _, _)| copy.member == inside.superblock.id);
        used.count() as u64 // widening
    };
    LayoutShown {
        log_offset_bytes: layout.log_start(0).0,
        log_half_bytes: layout.log_generation.0,
        dirty_log_offset_bytes: layout.dirty_start.0,
        dirty_plane_bytes: layout.dirty_plane.0,
        region_blocks_offset_bytes: layout.regions_start.0,
        regions: layout.regions(),
        region_bytes: layout.region.0,
        extents_offset_bytes: layout.extents_start.0,
        extents: layout.extents,
        extent_bytes: layout.extent.0,
        extents_used: inside.log.as_ref().map(|(_, log)| on_it(&log.state)),
    }
}

fn half(half: &Half) -> HalfShown {
    let (end, reason) = end_words(&half.end);
    HalfShown {
        offset_bytes: half.start.0,
        frames: half.frames,
        generation: half.newest.map(|(cursor, _)| cursor.generation),
        epoch: half.newest.map(|(_, position)| position.epoch),
        sequence: half.newest.map(|(_, position)| position.sequence),
        used_bytes: half.newest.map_or(0, |(cursor, _)| cursor.offset.0),
        end,
        reason,
    }
}

/// Why a half of the log is read no further, as a word and in words.
fn end_words(end: &LogEnd) -> (&'static str, String) {
    match end {
        LogEnd::Empty => ("empty", "it was never used".to_owned()),
        LogEnd::Clean => ("clean", "nothing more was written".to_owned()),
        LogEnd::Full => ("full", "it is full".to_owned()),
        LogEnd::Torn { at } => {
            ("torn", format!("the frame at {} is not whole, as a crash leaves the last one", at.0))
        }
        LogEnd::Damaged { at, behind: 0 } => {
            ("damaged", format!("the frame at {} is damaged: it is too short for a crash to tear it", at.0))
        }
        LogEnd::Damaged { at, behind } => {
            ("damaged", format!("the frame at {} is damaged; {behind} later ones lie behind it", at.0))
        }
        LogEnd::NoCheckpoint => ("no_checkpoint", "what is at its start is no whole checkpoint".to_owned()),
        LogEnd::Contradiction { at } => {
            ("contradiction", format!("the frame at {} cannot follow those before it: worth nothing", at.0))
        }
        LogEnd::Unreadable { at, errno } => ("unreadable", format!("reading at {}: {}", at.0, errno.desc())),
    }
}

fn state(half: usize, log: &Replayed, here: MemberId) -> StateShown {
    let state = &log.state;
    let members = state.members.iter().map(|(id, record)| MemberShown {
        member: id.0,
        name: record.name.clone(),
        uuid: record.uuid.to_string(),
        state: member_word(record.state),
        size_bytes: record.size.0,
        here: *id == here,
    });
    let volumes = state.volumes.values().map(|volume| VolumeShown {
        name: volume.name.clone(),
        uuid: volume.uuid.to_string(),
        size_bytes: volume.size.0,
        copies: volume.copies,
        slots: volume.slots.len(),
        slots_here: volume.slots.values().filter(|s| s.copies.iter().any(|c| c.member == here)).count(),
    });
    StateShown {
        half,
        pool: state.name.clone(),
        pool_uuid: state.pool.to_string(),
        clean: state.clean,
        forced: state.forced,
        members: members.collect(),
        volumes: volumes.collect(),
    }
}

/// The word for a member's state, as in `status`.
pub fn member_word(state: MemberState) -> &'static str {
    state_of(DriveState::from(state))
}

fn plane(inside: &Inside, found: Result<PlaneFound, Errno>) -> PlaneShown {
    let regions = inside.layout.regions();
    match found {
        Ok(PlaneFound { marked, damaged_sectors }) => {
            PlaneShown { regions, marked, damaged_sectors, unreadable: None }
        }
        Err(errno) => PlaneShown {
            regions,
            marked: regions,
            damaged_sectors: 0,
            unreadable: Some(errno.desc().to_owned()),
        },
    }
}

/// The lines that follow the facts about the drive.
pub fn screen(contents: &Contents) -> String {
    let mut text = String::new();
    for superblock in &contents.superblocks {
        let SuperblockShown { place, offset_bytes, condition, .. } = superblock;
        text.push_str(&format!("{place:<10}superblock at {offset_bytes}: {condition}\n"));
    }
    let Some(identity) = &contents.identity else {
        return text + "no superblock is sound: nobody can tell where anything lies on it\n";
    };
    text.push_str(&format!(
        "identity  member {} of pool {}\n          member {}\n          pool   {}\n",
        identity.member, identity.pool, identity.member_uuid, identity.pool_uuid
    ));
    text.extend(contents.layout.iter().map(layout_lines));
    text.extend(contents.log.iter().enumerate().map(|(half, shown)| half_line(half, shown)));
    match &contents.state {
        Some(state) => text.push_str(&state_lines(state)),
        None => text.push_str("state     no half of the log has one\n"),
    }
    text.extend(contents.dirty.iter().map(|plane| plane_line("dirty", plane)));
    text.extend(contents.missed.iter().map(|plane| plane_line("missed", plane)));
    text
}

fn layout_lines(layout: &LayoutShown) -> String {
    let used = match layout.extents_used {
        Some(used) => format!("{used} used, {} free", u64::from(layout.extents).saturating_sub(used)),
        None => "how many are used is not known".to_owned(),
    };
    format!(
        "layout    log at {}, two halves of {}\n          dirty log at {}\n          \
         region blocks at {}, {} regions of {}\n          extents at {}\n\
         extents   {} of {}: {used}\n",
        layout.log_offset_bytes,
        bytes(layout.log_half_bytes),
        layout.dirty_log_offset_bytes,
        layout.region_blocks_offset_bytes,
        layout.regions,
        bytes(layout.region_bytes),
        layout.extents_offset_bytes,
        layout.extents,
        bytes(layout.extent_bytes),
    )
}

fn half_line(number: usize, half: &HalfShown) -> String {
    let found = match (half.generation, half.epoch, half.sequence) {
        (Some(generation), Some(epoch), Some(sequence)) => format!(
            "generation {generation}, {} frames to epoch {epoch}, commit {sequence}; ends at {}: ",
            half.frames,
            half.offset_bytes + half.used_bytes
        ),
        _ => String::new(),
    };
    format!("log {number}     {found}{}\n", half.reason)
}

fn state_lines(state: &StateShown) -> String {
    let clean = if state.clean { "closed in order" } else { "open, or not closed in order" };
    let forced = if state.forced { ", once opened by force" } else { "" };
    let members = state.members.iter().map(|m| {
        let here = if m.here { "this one" } else { "" };
        vec![m.member.to_string(), m.name.clone(), bytes(m.size_bytes), m.state.to_owned(), here.to_owned()]
    });
    let volumes = state.volumes.iter().map(|v| {
        let here = format!("{} of {}", v.slots_here, v.slots);
        vec![v.name.clone(), bytes(v.size_bytes), v.copies.to_string(), here]
    });
    let member_columns = [
        ("MEMBER", Side::Right),
        ("DRIVE", Side::Left),
        ("SIZE", Side::Right),
        ("STATE", Side::Left),
        ("", Side::Left),
    ];
    let volume_columns =
        [("VOLUME", Side::Left), ("SIZE", Side::Right), ("COPIES", Side::Right), ("SLOTS HERE", Side::Right)];
    let members = table(&member_columns, &members.collect::<Vec<_>>());
    let volumes = if state.volumes.is_empty() {
        "no volume\n".to_owned()
    } else {
        table(&volume_columns, &volumes.collect::<Vec<_>>())
    };
    let indented = |text: &str| text.lines().map(|line| format!("          {line}\n")).collect::<String>();
    format!(
        "state     of half {}: pool {}, {clean}{forced}\n{}{}",
        state.half,
        state.pool,
        indented(&members),
        indented(&volumes)
    )
}

fn plane_line(name: &str, plane: &PlaneShown) -> String {
    let damaged = match (&plane.unreadable, plane.damaged_sectors) {
        (Some(why), _) => format!("; cannot be read ({why}), so all count as marked"),
        (None, 0) => String::new(),
        (None, damaged) => format!("; {damaged} damaged sectors, whose regions all count as marked"),
    };
    format!("{name:<10}{} of {} regions{damaged}\n", plane.marked, plane.regions)
}
