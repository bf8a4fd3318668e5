//! Bugs on purpose: each is switched on by the simulator to prove that its oracles find it. Only test builds, and
//! builds with the feature `planted-bugs`, can be given one; in others every question is answered by a constant.
//!
//! A bug is given to the cores of a process, and by the one that opens a pool to that pool.

use std::sync::Arc;

/// Makes the enum and the list of all its bugs.
macro_rules! bugs {
    ($($(#[doc = $text:literal])+ $name:ident,)+) => {
        /// A bug that the program can be given.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
        pub enum Planted {
            #[default]
            None,
            $($(#[doc = $text])+ $name,)+
        }

        /// All bugs.
        pub const BUGS: &[Planted] = &[$(Planted::$name),+];
    };
}

bugs! {
    // Writes, their order and their marks.
    /// A write is answered when its first copy is written.
    AckAtFirstCopy,
    /// A write that fails on one copy is answered as if it had not.
    IgnoreFailedWrite,
    /// A failed member is not written any more, but the record of it is not committed.
    LossNotCommitted,
    /// Writes to one block are not ordered.
    ShareWrites,
    /// Writes of parts of one block are not ordered.
    SharePartialWrites,
    /// A region's dirty mark is not set before it is written.
    SkipDirtyMark,
    /// A dirty mark counts as durable when the drive has it in its cache.
    MarkNotDurable,
    /// Only the first copy gets the dirty mark.
    MarkOneCopy,
    /// A dirty mark is taken away from the drives while writes rely on it.
    ClearDirtyEarly,
    /// What a copy out of sync misses is not remembered.
    MissedNotRecorded,
    /// A trim does not mark its region.
    TrimNotMarked,
    /// A flush does not save what was trimmed.
    TrimForgotten,
    /// Written marks are only in memory that dies with the process.
    MarksNotKept,

    // Flushes.
    /// A flush leaves out the last member.
    FlushSkipsMember,
    /// Only what the first core wrote counts as something to flush.
    FlushFirstCoreOnly,
    /// A flush joins one that is under way already.
    JoinOlderFlush,
    /// A failed flush counts as a good one.
    IgnoreFailedFlush,
    /// A flush that succeeds after one that failed is believed.
    RetryFailedFlush,
    /// FUA is treated as a plain write.
    IgnoreFua,
    /// FUA makes a block durable, and not that it was written.
    FuaForgetsMark,
    /// A flush does not save the written marks.
    ForgetUnsaved,
    /// Written marks are saved before the data they speak of is durable.
    SaveMarksBeforeData,
    /// Written marks are saved and not flushed.
    SaveWithoutFlush,
    /// A region block is overwritten where it is.
    RegionBlockInPlace,

    // Space.
    /// The place of a new slot is not committed.
    AllocationNotCommitted,
    /// Extents are free before that is committed.
    FreeNotCommitted,
    /// A slot is freed while one of its region blocks is being written.
    FreeDuringSave,
    /// A region of a freed slot keeps what it knew.
    KeepFreedRegion,
    /// An extent that is used again keeps its stamp.
    ReuseStamp,
    /// Blocks that were never written are read from the drive.
    SkipZeroing,
    /// All copies of a slot lie on one member.
    CopiesOnOneMember,

    // Reads, checksums, healing.
    /// A copy that misses writes is read.
    ReadStaleCopy,
    /// A checksum that does not match is not noticed.
    TrustChecksums,
    /// Neither a checksum nor a region block is asked whose it is and where it belongs.
    ChecksumWithoutAddress,
    /// A wrong copy is healed with what it has itself.
    HealFromWrongCopy,
    /// The first copy that can be read counts as right.
    FirstCopyWins,
    /// Healing does not wait for writes.
    HealWithoutHold,
    /// A scrub finds what is wrong and leaves it.
    ScrubOnlyLooks,
    /// A scrub leaves out every other slot.
    ScrubSkips,

    // Crashes.
    /// Dirty regions are read and not made equal.
    SettleOnlyReads,
    /// An opening takes the pool for one that was closed.
    BelieveClean,
    /// Closing marks the pool clean before everything is flushed.
    CleanMarkTooEarly,

    // Resync and rebuild.
    /// A region is copied to a member while it is written.
    ResyncWithoutHold,
    /// What was copied to a member is not written there.
    ResyncWithoutWriteThrough,
    /// Zeros and discards are not copied to a member.
    ResyncSkipsZeroes,
    /// A member counts as in sync before it is flushed.
    InSyncBeforeFlush,
    /// What a third copy misses is forgotten when the second is in sync.
    ForgetMissedOfOthers,
    /// What is written while a copy is being made does not reach it.
    RebuildWithoutWriteThrough,
    /// A slot lies on its new extent before that is flushed.
    RebuildWithoutFlush,
    /// Regions go on with the old place of a slot that was moved.
    MoveForgetsRegions,
    /// One more copy of a slot counts before it has all that the others have.
    CopyCountedBeforeWhole,
    /// Of a slot with a copy too many the best one goes.
    DroppedWrongCopy,
    /// While a slot comes to lie elsewhere its regions may be saved where it lay, in an extent that is another's soon.
    SaveWhileSwitching,

    // The metadata log, and who is believed.
    /// A commit counts when the first vote has it.
    CommitAtOneVote,
    /// A checkpoint overwrites the generation in use.
    CheckpointInPlace,
    /// A member that comes back has its vote before it has the log.
    RejoinWithoutLog,
    /// A pool opens with any number of votes.
    MinorityIsEnough,
    /// A member that returns alone is believed.
    LoneReturnServed,
    /// An old image of a member is believed.
    OldImageBelieved,
    /// A member whose end was cut off while nobody looked is believed to have everything.
    HollowBelieved,
    /// Of two histories the one that counts more openings and commits is believed.
    NewestByCounter,
    /// A commit that adds members is written to the new votes first.
    NewVotesFirst,
    /// A drive gets its superblocks when it is a member.
    NamedAfterJoining,
    /// A member is taken out by one commit, which only those need that stay.
    PartedAtOnce,
    /// A member is taken out while something lies on it.
    VoteBeforeData,
    /// A member that leaves gets new slots.
    LeavingGetsSlots,
    /// A copy that moves may go to a member that has another copy of the slot.
    MoveBesideCopy,
    /// That a slot lies elsewhere is not committed.
    MoveNotCommitted,
    /// Of two drives with one identity the first is used.
    TwinsAccepted,

    // Connections.
    /// A WRITE is answered over the network before the volume has done it.
    AnswerBeforeWrite,
    /// An NVMe Write is answered before the volume has done it.
    NvmeAnswerBeforeWrite,
    /// An NVMe Flush is answered and nothing is flushed.
    NvmeFlushIsNothing,
    /// Data that an NVMe host was asked for lies a sector too far.
    NvmeDataShifted,
    /// An NVMe Read that failed is answered with zeros and the flag for success.
    NvmeFailedReadAnswered,
}

impl Planted {
    /// The bug of this name.
    pub fn named(name: &str) -> Option<Planted> {
        BUGS.iter().copied().find(|bug| format!("{bug:?}") == name)
    }
}

/// What can be given a bug.
pub trait Plantable {
    fn planted(&self) -> Planted;
}

impl<T: Plantable> Plantable for Arc<T> {
    fn planted(&self) -> Planted {
        T::planted(self)
    }
}

/// Whether this bug was planted here.
#[cfg(any(test, feature = "planted-bugs"))]
pub fn is_planted(here: &impl Plantable, bug: Planted) -> bool {
    here.planted() == bug
}

#[cfg(not(any(test, feature = "planted-bugs")))]
pub const fn is_planted<T>(_here: &T, _bug: Planted) -> bool {
    false
}
