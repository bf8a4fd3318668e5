//! A member of an open pool: its disk, if it is there, and which of its copies can be believed.
//!
//! A member that comes back while the pool is open is a new `Member` in the pool's table: requests that still hold
//! the old one cannot touch it.

use super::dirty_log::DirtyLog;
use super::layout::MemberLayout;
use super::log::LogArea;
use super::redundancy::mirror::Load;
use super::state::{Absence, Rank};
use crate::base::bitmap::Bitmap;
use crate::base::units::{ByteLen, MemberId};
use crate::disk::Disk;
use crate::reactor::sync::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// One member at run time.
pub struct Member {
    pub id: MemberId,
    pub uuid: Uuid,
    /// The name that people know it by.
    pub name: String,
    pub layout: MemberLayout,
    /// None: not there.
    pub disk: Option<Arc<Disk>>,
    pub dirty: DirtyLog,
    in_sync: AtomicBool,
    suspect: AtomicBool,
    standing: Mutex<Standing>,
}

/// What is known of a member out of sync.
#[derive(Default)]
struct Standing {
    rank: Rank,
    /// It does not hold what its rank says: it is an old image, or cannot tell.
    whole: bool,
    /// Its regions that lack something, while a resync goes on: it has all others.
    behind: Option<Bitmap>,
    reason: String,
}

impl Member {
    pub fn new(
        id: MemberId,
        uuid: Uuid,
        name: String,
        layout: MemberLayout,
        disk: Option<Arc<Disk>>,
        dirty: DirtyLog,
    ) -> Member {
        let in_sync = AtomicBool::new(false);
        let suspect = AtomicBool::new(false);
        Member { id, uuid, name, layout, disk, dirty, in_sync, suspect, standing: Mutex::default() }
    }

    /// Whether all its copies may be read and must be written.
    pub fn is_in_sync(&self) -> bool {
        self.in_sync.load(Ordering::Acquire)
    }

    /// Follows the commit that brought it in sync.
    pub fn set_in_sync(&self) {
        let mut standing = lock(&self.standing);
        *standing = Standing { rank: Rank::IN_SYNC, ..Standing::default() };
        self.in_sync.store(true, Ordering::Release);
    }

    /// Follows the commit that says it is out of sync; `reason` says why, in words.
    pub fn set_out_of_sync(&self, Absence { rank, whole, .. }: Absence, reason: &str) {
        let mut standing = lock(&self.standing);
        *standing = Standing { rank, whole, behind: None, reason: reason.to_owned() };
        self.in_sync.store(false, Ordering::Release);
    }

    /// A resync begins: from here on it is written, and has every region but these.
    pub fn follow(&self, behind: Bitmap) {
        lock(&self.standing).behind = Some(behind);
    }

    /// It got a region that it lacked.
    pub fn caught_up(&self, region: u64) {
        self.note_behind(region, false);
    }

    /// It lacks a region after all.
    pub fn fell_behind(&self, region: u64) {
        self.note_behind(region, true);
    }

    fn note_behind(&self, region: u64, lacks: bool) {
        if let Some(behind) = &mut lock(&self.standing).behind {
            behind.set(ByteLen(region).as_usize(), lacks);
        }
    }

    pub fn is_following(&self) -> bool {
        lock(&self.standing).behind.is_some()
    }

    /// Regions that it lacks; None if no resync goes on.
    pub fn behind(&self) -> Option<Bitmap> {
        lock(&self.standing).behind.clone()
    }

    /// Whether a resync goes on and it has everything in these regions.
    pub fn has(&self, regions: std::ops::Range<u64>) -> bool {
        let (start, end) = (ByteLen(regions.start).as_usize(), ByteLen(regions.end).as_usize());
        lock(&self.standing).behind.as_ref().is_some_and(|behind| !behind.any(start..end))
    }

    pub fn rank(&self) -> Rank {
        lock(&self.standing).rank
    }

    /// Whether it is to get everything: it holds less than its rank says.
    pub fn lacks_all(&self) -> bool {
        lock(&self.standing).whole
    }

    /// As the read balance sees it; of a member that is there.
    pub fn load(&self) -> Load {
        self.disk.as_ref().map_or(Load::default(), |disk| Load {
            in_flight: disk.load(),
            read_ns: disk.answers.read_ns(),
            suspect: self.is_suspect() || disk.answers.is_late(),
        })
    }

    /// Whether it does not answer as it used to.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    pub fn set_suspect(&self, suspect: bool) {
        self.suspect.store(suspect, Ordering::Relaxed);
    }

    pub fn reason(&self) -> String {
        lock(&self.standing).reason.clone()
    }

    pub fn set_reason(&self, reason: String) {
        lock(&self.standing).reason = reason;
    }

    pub fn log_area(&self) -> LogArea {
        LogArea { start: super::layout::LOG_START, generation_len: self.layout.log_generation }
    }
}
