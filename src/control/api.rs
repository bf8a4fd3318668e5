//! What can be asked of a daemon, and what it answers: plain data, one JSON object a line.
//!
//! The same requests are executed by the command line itself when no daemon runs. Bytes and nanoseconds are
//! integers; names of enums are lower case; additions only.

use super::counters::CountersReport;
use super::event::EventPage;
use crate::pool::state::MemberState;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A request. Unknown fields are ignored, so that an older daemon serves a newer client as far as it can.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    Status {
        pool: Option<String>,
    },
    PoolCreate(PoolCreate),
    PoolList,
    PoolShow {
        pool: Option<String>,
    },
    /// Opens the pool that these disks (or the remembered ones) belong to.
    PoolImport {
        disks: Vec<PathBuf>,
        pool: Option<String>,
        force: bool,
    },
    /// Closes a pool cleanly and forgets where its members are.
    PoolExport {
        pool: String,
    },
    PoolScrub {
        pool: Option<String>,
    },
    /// A drive that is there is emptied and taken out; with `look` it is only said what that means.
    DiskRemove {
        disk: String,
        look: bool,
    },
    /// A drive that is being taken out stays after all.
    DiskKeep {
        disk: String,
    },
    /// A drive that is gone will not come back: its copies are made anew now.
    DiskDead {
        disk: String,
    },
    /// Empty drives join a pool.
    DiskAdd(DiskAdd),
    /// From now on a scrub begins by itself so long after the last one; zero: never.
    PoolScrubEvery {
        pool: Option<String>,
        seconds: u32,
    },
    PoolDestroy {
        pool: String,
    },
    VolumeCreate(VolumeCreate),
    VolumeList {
        pool: Option<String>,
    },
    VolumeShow {
        volume: String,
    },
    VolumeGrow {
        volume: String,
        size_bytes: u64,
    },
    /// Refused where something is stored beyond the new end, unless `give_up` is set.
    VolumeShrink {
        volume: String,
        size_bytes: u64,
        give_up: bool,
    },
    VolumeRename {
        volume: String,
        name: String,
    },
    /// Refused where one copy would be left, unless `allow_unprotected` is set.
    VolumeCopies {
        volume: String,
        copies: u8,
        allow_unprotected: bool,
    },
    VolumeDestroy {
        volume: String,
    },
    DiskShow {
        disk: String,
    },
    /// Makes the reserved in-memory export for a network benchmark; it goes away with the connection that asked.
    BenchBegin {
        size_bytes: u64,
    },
    Stop,
    /// What happened after the event of this number. Where that is nothing, the answer waits for so long, milliseconds.
    Events {
        after: u64,
        wait_ms: u32,
    },
    /// What drives, links and cores have done so far.
    Counters,
}

impl Request {
    /// Whether the request changes nothing, so that asking again is harmless.
    pub fn is_read_only(&self) -> bool {
        match self {
            Request::Status { .. }
            | Request::PoolList
            | Request::PoolShow { .. }
            | Request::VolumeList { .. }
            | Request::VolumeShow { .. }
            | Request::DiskShow { .. }
            | Request::Events { .. }
            | Request::Counters => true,
            Request::DiskRemove { look, .. } => *look,
            Request::PoolCreate(_)
            | Request::PoolImport { .. }
            | Request::PoolExport { .. }
            | Request::PoolScrub { .. }
            | Request::PoolScrubEvery { .. }
            | Request::DiskKeep { .. }
            | Request::DiskDead { .. }
            | Request::DiskAdd(_)
            | Request::PoolDestroy { .. }
            | Request::VolumeCreate(_)
            | Request::VolumeGrow { .. }
            | Request::VolumeShrink { .. }
            | Request::VolumeRename { .. }
            | Request::VolumeCopies { .. }
            | Request::VolumeDestroy { .. }
            | Request::BenchBegin { .. }
            | Request::Stop => false,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct PoolCreate {
    pub name: String,
    pub disks: Vec<PathBuf>,
    /// Copies that a volume gets unless it asks for another number.
    pub copies: u8,
    pub extent_bytes: Option<u64>,
    /// Disks whose present content may be lost.
    pub erase: Vec<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct DiskAdd {
    pub disks: Vec<PathBuf>,
    pub pool: Option<String>,
    /// Disks whose present content may be lost.
    pub erase: Vec<PathBuf>,
    /// The drive of the pool in whose place the only disk comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct VolumeCreate {
    pub name: String,
    pub size_bytes: u64,
    pub pool: Option<String>,
    pub copies: Option<u8>,
    pub stripe_unit_bytes: Option<u64>,
    pub checksums: bool,
    /// The sector that NVMe hosts see; none: 512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lba_bytes: Option<u32>,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    Done { message: String },
    Status(StatusReport),
    Pools { pools: Vec<PoolReport> },
    Volumes { volumes: Vec<VolumeReport> },
    Disk(DriveReport),
    Bench { export: String },
    Failed(Failure),
    Events(EventPage),
    Counters(CountersReport),
}

/// A refusal or an error, in the form of ux.md: `kind [CODE]: sentence`, facts, next command.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Failure {
    /// True: refused for safety, nothing was written (exit 3). False: failed (exit 1).
    pub refused: bool,
    /// Such as `DISK_HAS_DATA`; never changes meaning.
    pub code: String,
    /// One sentence in the user's words.
    pub message: String,
    /// Further lines: facts, what was (not) written, the next command.
    pub details: Vec<String>,
}

impl Failure {
    /// Refused for safety, with nothing written: exit 3.
    pub fn refused(code: &str, message: impl Into<String>) -> Failure {
        let nothing = "Nothing was written.".to_owned();
        Failure { refused: true, code: code.to_owned(), message: message.into(), details: vec![nothing] }
    }

    /// Refused where no drive is new to the pool, so that the question is whether anything changed: exit 3.
    pub fn unchanged(code: &str, message: impl Into<String>) -> Failure {
        let nothing = vec!["Nothing was changed.".to_owned()];
        Failure { details: nothing, ..Failure::refused(code, message) }
    }

    /// Tried and failed: exit 1.
    pub fn failed(code: &str, message: impl Into<String>) -> Failure {
        Failure { refused: false, code: code.to_owned(), message: message.into(), details: Vec::new() }
    }

    /// Adds a line: a fact or the next command.
    pub fn with(mut self, detail: impl Into<String>) -> Failure {
        self.details.push(detail.into());
        self
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct StatusReport {
    pub pools: Vec<PoolReport>,
    /// NBD addresses that are listened on; empty without a daemon.
    pub listening: Vec<String>,
    /// NVMe/TCP addresses that are listened on.
    pub listening_nvme: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum PoolState {
    /// Every block has as many copies as its volume promises.
    Safe,
    /// Some block has fewer copies than promised, all can be read.
    AtRisk,
    /// Some block has no copy that can be read.
    DataUnavailable,
    /// One copy only, as asked for.
    Unprotected,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct PoolReport {
    pub name: String,
    pub uuid: String,
    pub state: PoolState,
    /// Default copies of new volumes.
    pub copies: u8,
    pub extent_bytes: u64,
    /// Sum of all members' extents.
    pub raw_bytes: u64,
    /// What can still be allocated for volumes of 1, 2 and 3 copies (index 0, 1, 2).
    pub free_bytes: [u64; 3],
    /// What could be allocated of an empty pool of the present members, for 1, 2 and 3 copies.
    pub usable_bytes: [u64; 3],
    /// Allocated to volumes, counted once (not per copy).
    pub allocated_bytes: u64,
    /// Allocated bytes that have fewer readable copies than promised, and that have exactly one.
    pub below_promise_bytes: u64,
    pub single_copy_bytes: u64,
    /// Allocated bytes with no readable copy.
    pub unavailable_bytes: u64,
    /// Volume bytes that must stay free to heal after losing the largest drive, to be compared with `free_bytes`
    /// of the pool's default copies; and whether that much is there on the right drives.
    pub heal_needed_bytes: u64,
    pub heal_possible: bool,
    /// What volumes of the pool's default copies may still store so that it can heal, by the arithmetic; zero when too
    /// much is stored, and None where no drive could take new copies.
    #[serde(default)]
    pub heal_spare_bytes: Option<u64>,
    /// At least so much is stored beyond that.
    #[serde(default)]
    pub heal_short_bytes: u64,
    /// What would leave less free than must stay free is refused: `serve --reserve enforce`.
    #[serde(default)]
    pub reserve_enforced: bool,
    /// Allocated bytes that stay readable whichever drive dies.
    #[serde(default)]
    pub protected_bytes: u64,
    /// How fast copies are made anew, for the times of the drives: what the last rebuild of 1 GiB or more reached since
    /// the daemon started, and until then 60 MB/s where a drive rotates and 100 MB/s where none does.
    #[serde(default)]
    pub heal_bytes_per_second: u64,
    #[serde(default)]
    pub heal_rate_measured: bool,
    pub drives: Vec<DriveReport>,
    pub volumes: Vec<VolumeReport>,
    /// Votes present and votes there are (members of the pool and the witness).
    pub votes_present: u32,
    pub votes_total: u32,
    pub epoch: u64,
    /// It was opened by order once, without all that had been acknowledged.
    #[serde(default)]
    pub forced: bool,
    /// Drives were added or leave, and slots are still to be moved until all are filled in proportion.
    #[serde(default)]
    pub spreading: bool,
    /// What is being done in the background.
    #[serde(default)]
    pub work: Vec<WorkReport>,
    /// The last scrub that went through to its end.
    #[serde(default)]
    pub last_scrub: Option<ScrubReport>,
    /// When the next one begins by itself, nanoseconds since 1970 (UTC); None: never.
    #[serde(default)]
    pub next_scrub_unix_ns: Option<u64>,
    /// What no copy gives any more, as far as it was met.
    #[serde(default)]
    pub lost: Vec<LostReport>,
    /// When no room is left at the rate of the last hours, seconds; None: not within a year, or not known.
    #[serde(default)]
    pub full_in_seconds: Option<u64>,
}

/// Bytes of a volume that cannot be read: every copy is wrong or unreadable.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct LostReport {
    pub volume: String,
    pub offset_bytes: u64,
    pub length_bytes: u64,
}

impl PoolReport {
    /// Bytes that are free for the pool's own number of copies.
    pub fn free(&self) -> u64 {
        self.free_bytes.get(usize::from(self.copies.max(1) - 1)).copied().unwrap_or(0)
    }

    /// That and what is allocated, bytes.
    pub fn usable(&self) -> u64 {
        self.allocated_bytes.saturating_add(self.free())
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// Bringing copies that missed writes up to date.
    Resync,
    /// Making new copies in free space.
    Rebuild,
    Scrub,
    /// Moving slots to drives that were added.
    Spread,
    /// Moving what lies on drives that are being taken out.
    Leave,
    /// Giving volumes the number of copies that they are to have.
    Copies,
}

impl WorkKind {
    /// Whether it makes copies that are lacking.
    pub fn heals(self) -> bool {
        match self {
            WorkKind::Resync | WorkKind::Rebuild => true,
            WorkKind::Scrub | WorkKind::Spread | WorkKind::Leave | WorkKind::Copies => false,
        }
    }
}

/// Background work that is going on; a rate of zero means that it is not known yet.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct WorkReport {
    pub kind: WorkKind,
    pub done_bytes: u64,
    pub total_bytes: u64,
    pub bytes_per_second: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct ScrubReport {
    /// When it ended, nanoseconds since 1970 (UTC).
    pub ended_unix_ns: u64,
    pub checked_bytes: u64,
    /// Copies of blocks that were wrong or unreadable: written again from another copy, and those where that failed.
    pub repaired_blocks: u64,
    #[serde(default)]
    pub unrepaired_blocks: u64,
    /// Blocks whose copies differ while nothing tells which is right.
    #[serde(default)]
    pub different_blocks: u64,
    /// Blocks with no good copy left.
    pub lost_blocks: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum DriveState {
    Active,
    /// In sync, but slow or silent at the moment.
    Suspect,
    /// Not there.
    Missing,
    /// There, but its copies missed writes and are not read.
    Stale,
    /// There, and what it missed is being copied to it.
    Resyncing,
    /// Given up: its copies are being made anew on other drives.
    Rebuilding,
    /// There, but failed.
    Faulted,
    /// Taken out of the pool.
    Removed,
}

impl DriveState {
    /// Whether its copies count.
    pub fn is_in_sync(self) -> bool {
        matches!(self, DriveState::Active | DriveState::Suspect)
    }
}

impl From<MemberState> for DriveState {
    fn from(state: MemberState) -> DriveState {
        match state {
            MemberState::Active => DriveState::Active,
            MemberState::Suspect => DriveState::Suspect,
            MemberState::Missing => DriveState::Missing,
            MemberState::Stale => DriveState::Stale,
            MemberState::Resyncing => DriveState::Resyncing,
            MemberState::Rebuilding => DriveState::Rebuilding,
            MemberState::Faulted => DriveState::Faulted,
            MemberState::Removed => DriveState::Removed,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct DriveReport {
    /// The stable name shown to people (by-id name, or the file's name).
    pub name: String,
    pub path: String,
    pub uuid: String,
    pub pool: String,
    pub size_bytes: u64,
    pub state: DriveState,
    /// It is being taken out: what lies on it moves to others, and then it is no drive of the pool.
    #[serde(default)]
    pub leaving: bool,
    /// Why it is not active, or why it cannot leave, in words.
    pub reason: String,
    pub rotational: bool,
    /// Bytes of extents in use on it.
    pub used_bytes: u64,
    /// If this drive dies now: bytes without any copy, and bytes left with one copy.
    pub lost_bytes: u64,
    pub exposed_bytes: u64,
    /// If this drive dies now: bytes of copies that would be made again on other drives, together with those lacking
    /// already, and bytes of copies that would find no place.
    #[serde(default)]
    pub heals_bytes: u64,
    #[serde(default)]
    pub does_not_heal_bytes: u64,
    /// How long that takes from when it begins (`serve --rebuild-after`), at `heal_bytes_per_second` of the pool: then
    /// everything that is left has all its copies. None: some would find no place.
    #[serde(default)]
    pub heal_seconds: Option<u64>,
    pub read_errors: u64,
    pub write_errors: u64,
    pub checksum_errors: u64,
    /// Blocks of it that were written again from another copy.
    #[serde(default)]
    pub healed_blocks: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct VolumeReport {
    pub name: String,
    pub pool: String,
    pub uuid: String,
    pub size_bytes: u64,
    /// Copies that new slots get, and that all others are to have.
    pub copies: u8,
    /// Copies that every slot has at least; zero: a daemon of an older version does not say.
    #[serde(default)]
    pub fewest_copies: u8,
    /// Slots that have fewer copies than that so far, and slots that have more still.
    #[serde(default)]
    pub lacking_slots: u64,
    #[serde(default)]
    pub surplus_slots: u64,
    pub columns: u32,
    pub stripe_unit_bytes: u64,
    pub checksums: bool,
    /// The sector that NVMe hosts see.
    #[serde(default = "lba_bytes_default")]
    pub lba_bytes: u32,
    /// Its number among the namespaces that NVMe hosts see.
    #[serde(default)]
    pub namespace: u32,
    pub allocated_bytes: u64,
    pub single_copy_bytes: u64,
    pub unavailable_bytes: u64,
    pub connections: u32,
    /// Where it cannot be read, in order: only where one volume is asked for, and `UNAVAILABLE_MAX` at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unavailable: Vec<RangeReport>,
    /// There are more of them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unavailable_more: bool,
}

impl VolumeReport {
    /// Copies that every slot has at least.
    pub fn copies_now(&self) -> u8 {
        if self.fewest_copies == 0 { self.copies } else { self.fewest_copies }
    }
}

/// Ranges that are listed for a volume.
pub const UNAVAILABLE_MAX: usize = 4096;

/// A part of a volume.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct RangeReport {
    pub offset_bytes: u64,
    pub length_bytes: u64,
}

fn lba_bytes_default() -> u32 {
    crate::base::limits::LBA_BYTES_DEFAULT
}
