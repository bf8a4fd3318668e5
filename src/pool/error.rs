//! What can go wrong when a pool is made, opened or changed, in the user's words.

use super::quorum::Tally;
use super::superblock::features_words;
use crate::base::size::show_size;
use crate::base::units::ByteLen;
use nix::errno::Errno;
use std::path::PathBuf;

/// An error of the control path. The data path has `block::Status`.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error("{} cannot be opened: {}", path.display(), crate::disk::in_words(*errno))]
    Open { path: PathBuf, errno: Errno },
    #[error("{} is in use by another process (a daemon that serves its pool?)", path.display())]
    Busy { path: PathBuf },
    #[error("{} cannot be {what}: {}", path.display(), crate::disk::in_words(*errno))]
    Disk { path: PathBuf, what: &'static str, errno: Errno },
    #[error("{} is too small: a drive needs at least {min} bytes", path.display())]
    TooSmall { path: PathBuf, min: u64 },
    #[error("{} is of drystone's format {found}; this program knows format {known}", path.display())]
    UnknownFormat { path: PathBuf, found: u32, known: u32 },
    #[error("{}: {}", path.display(), features_words(*unknown))]
    UnknownFeatures { path: PathBuf, unknown: u32 },
    #[error("none of these drives belongs to a pool")]
    NoMembers,
    #[error("these drives belong to different pools: {0}")]
    SeveralPools(String),
    #[error("{} and {} claim to be the same member: one is a copy of the other", .0.display(), .1.display())]
    Twins(PathBuf, PathBuf),
    #[error("pool {name}: only {} of {} votes are here, more than half are needed; missing: {missing}", tally.present, tally.total)]
    NoMajority { name: String, tally: Tally, missing: String },
    #[error("pool {name}: its drives tell two different histories; {who} left the common one")]
    Forked { name: String, who: String },
    #[error(
        "pool {name}: damage hides its last {commits} changes in the metadata log of {who}, and no other log that is here has them"
    )]
    LogDamaged { name: String, who: String, commits: u64 },
    #[error("pool {name}: no drive has a readable metadata log")]
    NoLog { name: String },
    #[error("the metadata log has lost its majority; the pool takes no changes")]
    Frozen,
    #[error("the metadata log is full: {0}")]
    LogFull(&'static str),
    #[error("{name} cannot be taken out while {behind} is not in sync")]
    NotWhole { name: String, behind: String },
    #[error("without {name} there are {drives} drives, and {copies} copies need as many drives")]
    TooFewWithout { name: String, copies: u8, drives: usize },
    #[error(
        "{name} holds {}, and the other drives have room for {} of that, with the copies on different drives",
        show_size(*held), show_size(*fits)
    )]
    NoRoomWithout { name: String, held: ByteLen, fits: ByteLen, short: ByteLen },
    #[error("{copies} copies need {copies} drives in sync, and the pool has {drives}")]
    TooFewForCopies { name: String, copies: u8, drives: usize },
    #[error(
        "{copies} copies of what {name} stores take {} more, and {} of what the pool would have to hold finds no place on its drives",
        show_size(*needed), show_size(*short)
    )]
    NoRoomForCopies { name: String, copies: u8, needed: ByteLen, short: ByteLen },
    #[error(
        "with one copy nothing of {name} survives the loss of its drive: {} of {} would be lost with the drive that has most of it",
        show_size(*lost), show_size(*stored)
    )]
    WouldBeUnprotected { name: String, stored: ByteLen, lost: ByteLen },
    #[error("volume {name} has data up to {} bytes", end.0)]
    DataBeyond { name: String, end: ByteLen },
    #[error("{0}")]
    Invalid(String),
    #[error("there is no volume named {0}")]
    NoVolume(String),
    #[error("a volume named {0} exists already")]
    VolumeExists(String),
    #[error("the pool is closing")]
    Closing,
}
