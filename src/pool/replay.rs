//! Reading one copy of the metadata log, and telling whether its end is its end.
//!
//! A copy is on one member or in the witness. Frames are appended one at a time, each durable before the next is
//! begun, and a commit waits for every vote. So only the last frame of a copy can be torn, and a torn one was never
//! acknowledged; while a frame that is not sound and has later ones behind it was, and is damaged. Damage hides
//! commits. It is never taken for the end of the history:
//!
//! | in one copy of the log | it is | the copy says that it had |
//! | --- | --- | --- |
//! | no frame of this log where the next one would be, nothing of it behind | the end | what was read |
//! | a frame that is not sound, nothing of this log behind | torn, never acknowledged: dropped | what was read |
//! | a frame that is not sound and is no longer than a sector, which cannot tear | damaged | one commit more |
//! | anything, or a sector that cannot be read, and sound frames of this log behind | damaged | the last one behind |
//! | no sound checkpoint at the start of a half, sound frames of a later generation behind it | damaged; what the other half has is read | the last one behind |
//! | the same, nothing of a later generation behind it | a torn checkpoint: dropped; the other half is the log | what was read |
//! | no sound checkpoint in either half | no log, and no vote | |
//! | sound frames that contradict each other | as a half without a sound checkpoint | |
//!
//! What the copies together say is decided in `quorum`. A copy that is damaged is repaired by the checkpoint that
//! every opening writes to every vote: into the half that nothing was read from, with a generation above any there.
//! Reading a log changes nothing, so that it can be done again at any moment with the same result.

use super::log::{Age, Cursor, LogArea, Position, Replayed, begin, extend, read_bytes};
use super::record::{self, Header, Kind, frame_len};
use super::state::Contradiction;
use super::state_codec::emit_state;
use crate::base::limits::{BLOCK, CHUNK_MAX};
use crate::base::units::{ByteLen, ByteOffset};
use crate::disk::Disk;
use crate::reactor::Core;
use nix::errno::Errno;

/// How far behind the end of a log frames are looked for that should not be there, bytes.
const LOOK_BEHIND: u64 = 4 << 20;

/// What a power cut leaves whole: a frame this short is there or is not.
const SECTOR: u64 = 512;

/// Blocks in a row that cannot be read before the rest is not tried.
const UNREADABLE_MAX: u64 = 16;

/// One half of the metadata log.
pub struct Half {
    pub start: ByteOffset,
    /// Whole frames that belong to it, the checkpoint included.
    pub frames: u64,
    /// Of its newest frame; None if there is none.
    pub newest: Option<(Cursor, Position)>,
    pub end: LogEnd,
}

/// Why a half of the log is read no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogEnd {
    /// It was never used.
    Empty,
    /// Nothing more was written.
    Clean,
    /// The half is full.
    Full,
    /// The last frame is not whole, as a crash leaves it.
    Torn { at: ByteOffset },
    /// A frame is not what was written: it is too short to be torn, or later ones lie behind it.
    Damaged { at: ByteOffset, behind: u64 },
    /// What is at its start is no whole checkpoint.
    NoCheckpoint,
    /// A sound frame cannot follow the ones before it: the half is worth nothing.
    Contradiction { at: ByteOffset },
    /// Nothing of this log lies behind.
    Unreadable { at: ByteOffset, errno: Errno },
}

/// Reads a log to its end. None if neither half has one.
///
/// # Errors
/// What the disk said, when nothing could be read.
pub async fn replay(core: &Core, disk: &Disk, area: LogArea) -> Result<Option<Replayed>, Errno> {
    let (halves, log) = read_halves(core, disk, area, Look::AtTheLog).await;
    match (log, halves[0].end, halves[1].end) {
        (Some((_, log)), _, _) => Ok(Some(log)),
        (None, LogEnd::Unreadable { errno, .. }, LogEnd::Unreadable { .. }) => Err(errno),
        (None, _, _) => Ok(None),
    }
}

/// In which halves damage is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Where the log is: enough to know what it had.
    AtTheLog,
    /// Also in the half that is not used any more.
    Everywhere,
}

/// Both halves, and the log: the newer one, with the half that it is in.
pub async fn read_halves(
    core: &Core,
    disk: &Disk,
    area: LogArea,
    look: Look,
) -> ([Half; 2], Option<(usize, Replayed)>) {
    let (first, first_log) = read_half(core, disk, area, 0).await;
    let (second, second_log) = read_half(core, disk, area, 1).await;
    let mut halves = [first, second];
    let (half, mut log, other) = match (first_log, second_log) {
        (None, None) => return (halves, None),
        (Some(log), None) => (0, log, None),
        (None, Some(log)) => (1, log, None),
        (Some(first), Some(second)) if second.position.age() > first.position.age() => {
            (1, second, Some(first))
        }
        (Some(first), Some(second)) => (0, first, Some(second)),
    };
    look_behind(core, disk, area, &mut log, &mut halves[half]).await;
    match other {
        Some(mut other) if look == Look::Everywhere => {
            look_behind(core, disk, area, &mut other, &mut halves[1 - half]).await;
        }
        Some(_) => {}
        None => look_for_later_generation(core, disk, area, &mut log, &mut halves[1 - half]).await,
    }
    (halves, Some((half, log)))
}

/// What is where a frame is looked for.
enum Found {
    Frame(Header, Vec<u8>),
    /// A frame's header, but not the frame that it tells of.
    Unsound(Header),
    /// No frame of this place.
    Other {
        blank: bool,
    },
    /// No room for a frame.
    End,
}

async fn read_half(core: &Core, disk: &Disk, area: LogArea, half: u64) -> (Half, Option<Replayed>) {
    let start = area.at(Cursor { generation: half, offset: ByteLen(0) });
    let mut found = Half { start, frames: 0, newest: None, end: LogEnd::Clean };
    let mut log: Option<Replayed> = None;
    loop {
        let cursor = log.as_ref().map_or(Cursor { generation: half, offset: ByteLen(0) }, |l| l.cursor);
        let at = area.at(cursor);
        let next = match read_frame(core, disk, area, cursor).await {
            Ok(next) => next,
            Err(errno) => {
                found.end = LogEnd::Unreadable { at, errno };
                break;
            }
        };
        if let Some(end) = add(&mut log, half, at, &next) {
            found.end = end;
            break;
        }
        found.frames += 1;
        found.newest = log.as_ref().map(|log| (log.cursor, log.position));
    }
    (found, log)
}

/// Adds what was found to the log; if it does not belong to it, says why the log ends.
fn add(log: &mut Option<Replayed>, half: u64, at: ByteOffset, next: &Found) -> Option<LogEnd> {
    let Some(so_far) = log else {
        *log = match next {
            Found::Frame(header, body) => begin(half, header, body),
            Found::Other { blank: true } => return Some(LogEnd::Empty),
            Found::Unsound(_) | Found::Other { blank: false } | Found::End => None,
        };
        return log.is_none().then_some(LogEnd::NoCheckpoint);
    };
    match next {
        Found::Frame(header, body) => match extend(so_far, header, body) {
            Ok(true) => None,
            Ok(false) => Some(LogEnd::Clean),
            Err(Contradiction) => {
                *log = None;
                Some(LogEnd::Contradiction { at })
            }
        },
        Found::Unsound(header) if is_too_short_to_tear(so_far, header) => {
            so_far.held = Age { sequence: so_far.position.sequence + 1, ..so_far.held };
            Some(LogEnd::Damaged { at, behind: 0 })
        }
        Found::Unsound(_) => Some(LogEnd::Torn { at }),
        Found::Other { .. } => Some(LogEnd::Clean),
        Found::End => Some(LogEnd::Full),
    }
}

/// Whether a frame that is not sound was whole once: it lies in a single sector, and its header is of this log.
fn is_too_short_to_tear(log: &Replayed, header: &Header) -> bool {
    header.kind == Kind::Changes
        && header.generation == log.cursor.generation
        && record::HEADER_LEN as u64 + header.body_len <= SECTOR // widening
}

async fn read_frame(core: &Core, disk: &Disk, area: LogArea, cursor: Cursor) -> Result<Found, Errno> {
    if !area.fits(cursor, 0) {
        return Ok(Found::End);
    }
    let at = area.at(cursor);
    let first = read_bytes(core, disk, at, ByteLen(BLOCK)).await?;
    let Some(header) = record::parse_header(&first, at) else {
        return Ok(Found::Other { blank: first.iter().all(|b| *b == 0) });
    };
    if !area.fits(cursor, header.body_len) {
        return Ok(Found::Unsound(header));
    }
    let frame = match frame_len(header.body_len) {
        BLOCK => first,
        len => read_bytes(core, disk, at, ByteLen(len)).await?,
    };
    let body = record::verify(&frame, &header).map(<[u8]>::to_vec);
    Ok(body.map_or(Found::Unsound(header), |body| Found::Frame(header, body)))
}

/// Sound frames that lie where they should not.
#[derive(Default)]
struct Behind {
    count: u64,
    newest: Option<Age>,
    generation_max: u64,
}

/// A log that ends while later frames of it are there did not end there: a frame is damaged.
async fn look_behind(core: &Core, disk: &Disk, area: LogArea, log: &mut Replayed, half: &mut Half) {
    let Cursor { generation, offset } = log.cursor;
    let Position { epoch, sequence, .. } = log.position;
    let later = |h: &Header| h.generation == generation && h.epoch == epoch && h.sequence > sequence + 1;
    let reach = Reach { generation, from: offset.0, until: offset.0.saturating_add(LOOK_BEHIND) };
    let behind = frames_within(core, disk, area, reach, later).await;
    if let Some(newest) = behind.newest {
        log.held = log.held.max(newest);
        half.end = LogEnd::Damaged { at: area.at(log.cursor), behind: behind.count };
    }
}

/// A half that cannot be used was the newer one if frames of a later generation lie in it.
async fn look_for_later_generation(
    core: &Core,
    disk: &Disk,
    area: LogArea,
    log: &mut Replayed,
    other: &mut Half,
) {
    let half = (log.cursor.generation + 1) % 2;
    let after = log.cursor.generation;
    let age = log.position.age();
    let later = |h: &Header| {
        h.generation > after && h.generation % 2 == half && (h.epoch, h.sequence) > (age.epoch, age.sequence)
    };
    // The checkpoint that is damaged has about the size of one of this state.
    let until = frame_len(emit_state(&log.state).len() as u64) + LOOK_BEHIND; // widening
    let behind = frames_within(core, disk, area, Reach { generation: half, from: 0, until }, later).await;
    if let Some(newest) = behind.newest {
        log.held = log.held.max(newest);
        log.generation_max = log.generation_max.max(behind.generation_max);
        other.end = LogEnd::Damaged { at: other.start, behind: behind.count };
    }
}

/// A part of one half, bytes from its start.
#[derive(Clone, Copy)]
struct Reach {
    generation: u64,
    from: u64,
    until: u64,
}

/// Sound frames of the kind that is asked for, wherever a block begins.
async fn frames_within(
    core: &Core,
    disk: &Disk,
    area: LogArea,
    reach: Reach,
    wanted: impl Fn(&Header) -> bool,
) -> Behind {
    let mut found = Behind::default();
    let (mut offset, mut unreadable) = (reach.from, 0);
    let until = area.generation_len.0.min(reach.until);
    while offset < until && unreadable < UNREADABLE_MAX {
        let cursor = Cursor { generation: reach.generation, offset: ByteLen(offset) };
        let len = (until - offset).min(if unreadable > 0 { BLOCK } else { CHUNK_MAX });
        let Ok(bytes) = read_bytes(core, disk, area.at(cursor), ByteLen(len)).await else {
            // Somewhere in there a sector is bad: go on block by block, and over the bad one.
            unreadable += 1;
            offset += if len == BLOCK || unreadable > 1 { BLOCK } else { 0 };
            continue;
        };
        unreadable = 0;
        for (block, n) in bytes.chunks_exact(ByteLen(BLOCK).as_usize()).zip(0..) {
            let cursor = Cursor { offset: ByteLen(offset + n * BLOCK), ..cursor };
            let header = record::parse_header(block, area.at(cursor)).filter(&wanted);
            if let Some(header) = header
                && let Ok(Found::Frame(..)) = read_frame(core, disk, area, cursor).await
            {
                found.count += 1;
                found.newest = found.newest.max(Some(Age { epoch: header.epoch, sequence: header.sequence }));
                found.generation_max = found.generation_max.max(header.generation);
            }
        }
        offset += len;
    }
    found
}
