//! A member of an open pool: its disk, if it is there, and whether its copies are in sync.

use super::dirty_log::DirtyLog;
use super::layout::MemberLayout;
use super::log::LogArea;
use crate::base::units::MemberId;
use crate::disk::Disk;
use crate::reactor::sync::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// One member at run time.
pub struct Member {
    pub id: MemberId,
    pub uuid: Uuid,
    /// The name that people know it by.
    pub name: String,
    pub layout: MemberLayout,
    /// None: not there.
    pub disk: Option<Disk>,
    pub dirty: DirtyLog,
    in_sync: AtomicBool,
    reason: Mutex<String>,
}

impl Member {
    pub fn new(
        id: MemberId,
        uuid: Uuid,
        name: String,
        layout: MemberLayout,
        disk: Option<Disk>,
        dirty: DirtyLog,
    ) -> Member {
        let in_sync = AtomicBool::new(false);
        Member { id, uuid, name, layout, disk, dirty, in_sync, reason: Mutex::default() }
    }

    /// Whether its copies may be read and must be written.
    pub fn is_in_sync(&self) -> bool {
        self.in_sync.load(Ordering::Acquire)
    }

    /// Follows a committed state change; `reason` says why it is out of sync, in words.
    pub fn set_in_sync(&self, in_sync: bool, reason: &str) {
        reason.clone_into(&mut lock(&self.reason));
        self.in_sync.store(in_sync, Ordering::Release);
    }

    pub fn reason(&self) -> String {
        lock(&self.reason).clone()
    }

    /// The disk that a slot's copy may be read from and written to. Where it is the slot's only copy, being out
    /// of sync means nothing: there is no other copy that has what this one missed.
    pub fn usable(&self, copies: usize) -> Option<&Disk> {
        self.disk.as_ref().filter(|_| self.is_in_sync() || copies == 1)
    }

    pub fn log_area(&self) -> LogArea {
        LogArea { start: super::layout::LOG_START, generation_len: self.layout.log_generation }
    }
}
