//! What lies on one drive: its superblocks, its copy of the metadata log, its dirty log. Only read, and damage is an
//! answer, not an error.

use super::dirty_log::{Plane, read_plane};
use super::layout::{LOG_START, MemberLayout};
use super::log::{LogArea, Replayed, read_bytes};
use super::replay::{Look, read_halves};
use super::superblock::{Superblock, SuperblockError, features_words};
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, ByteOffset, round_down};
use crate::disk::Disk;
use crate::reactor::Core;
use nix::errno::Errno;

pub use super::replay::{Half, LogEnd};

/// What a drive holds.
pub struct Survey {
    /// The front one and the back one.
    pub superblocks: [SuperblockFound; 2],
    /// None if no superblock is sound: then nobody can tell where anything lies.
    pub inside: Option<Inside>,
}

/// One of the two superblocks.
pub struct SuperblockFound {
    pub at: ByteOffset,
    pub content: Result<Superblock, SuperblockFlaw>,
}

/// Why a superblock cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SuperblockFlaw {
    #[error("no superblock lies there")]
    Absent,
    #[error("damaged")]
    Damaged,
    #[error("of format {0}, which this program does not know")]
    Version(u32),
    #[error("{}", features_words(*.0))]
    Features(u32),
    #[error("the drive ends before it")]
    BeyondEnd,
    #[error("cannot be read: {}", .0.desc())]
    Unreadable(Errno),
}

/// What a member holds, at the places that its superblock gives.
pub struct Inside {
    pub superblock: Superblock,
    pub layout: MemberLayout,
    pub halves: [Half; 2],
    /// The newest state that the log tells, with the half that it is in.
    pub log: Option<(usize, Replayed)>,
    /// `Plane::Dirty` and `Plane::Missed`.
    pub planes: [Result<PlaneFound, Errno>; 2],
}

/// One plane of the dirty log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlaneFound {
    pub marked: u64,
    /// Sectors that do not verify; all their regions count as marked.
    pub damaged_sectors: u64,
}

/// Looks at everything on a drive but region blocks and data.
pub async fn survey(core: &Core, disk: &Disk) -> Survey {
    let superblocks = superblocks(core, disk).await;
    let sound = superblocks.iter().find_map(|s| s.content.as_ref().ok());
    let inside = match sound.map(|s| (s.clone(), s.layout())) {
        Some((superblock, Some(layout))) => Some(look_inside(core, disk, superblock, layout).await),
        Some((_, None)) | None => None,
    };
    Survey { superblocks, inside }
}

async fn look_inside(core: &Core, disk: &Disk, superblock: Superblock, layout: MemberLayout) -> Inside {
    let area = LogArea { start: LOG_START, generation_len: layout.log_generation };
    let (halves, log) = read_halves(core, disk, area, Look::Everywhere).await;
    let planes = [
        look_at_plane(core, disk, &layout, Plane::Dirty).await,
        look_at_plane(core, disk, &layout, Plane::Missed).await,
    ];
    Inside { superblock, layout, halves, log, planes }
}

/// Both superblocks. The back one is looked for where the front one says that the member ends, or else at the end of
/// the drive.
pub async fn superblocks(core: &Core, disk: &Disk) -> [SuperblockFound; 2] {
    let front = superblock_at(core, disk, ByteOffset(0)).await;
    let end = match &front.content {
        Ok(superblock) => superblock.size.0,
        Err(_) => round_down(disk.facts().size.0, BLOCK),
    };
    let back = superblock_at(core, disk, ByteOffset(end.saturating_sub(BLOCK))).await;
    [front, back]
}

async fn superblock_at(core: &Core, disk: &Disk, at: ByteOffset) -> SuperblockFound {
    if at.0 + BLOCK > disk.facts().size.0 {
        return SuperblockFound { at, content: Err(SuperblockFlaw::BeyondEnd) };
    }
    let content = match read_bytes(core, disk, at, ByteLen(BLOCK)).await {
        Ok(bytes) => Superblock::parse(&bytes, at).map_err(SuperblockFlaw::from),
        Err(errno) => Err(SuperblockFlaw::Unreadable(errno)),
    };
    SuperblockFound { at, content }
}

impl From<SuperblockError> for SuperblockFlaw {
    fn from(error: SuperblockError) -> SuperblockFlaw {
        match error {
            SuperblockError::Absent => SuperblockFlaw::Absent,
            SuperblockError::Damaged => SuperblockFlaw::Damaged,
            SuperblockError::Version(version) => SuperblockFlaw::Version(version),
            SuperblockError::Features(unknown) => SuperblockFlaw::Features(unknown),
        }
    }
}

async fn look_at_plane(
    core: &Core,
    disk: &Disk,
    layout: &MemberLayout,
    plane: Plane,
) -> Result<PlaneFound, Errno> {
    let start = match plane {
        Plane::Dirty => layout.dirty_start,
        Plane::Missed => layout.dirty_start + layout.dirty_plane,
    };
    let bytes = read_bytes(core, disk, start, layout.dirty_plane).await?;
    let (bits, damaged) = read_plane(plane, &bytes, layout.regions());
    Ok(PlaneFound { marked: bits.count() as u64, damaged_sectors: damaged as u64 }) // widening
}
