//! Each bug on purpose is found. A test starts with the seed that is known to find its bug (`sim --planted all` prints
//! them); when the campaign has changed, so that this one no longer does, up to a thousand are tried.

use super::super::exhaustive::{Extent, Script, crash_everywhere_with};
use super::super::{Options, run};
use crate::pool::planted::{BUGS, Planted};

/// Seeds that are tried for one bug.
const SEEDS: u64 = 1000;

fn is_found(bug: Planted, known: u64) {
    let options = Options { planted: bug, ..Options::default() };
    let seeds = std::iter::once(known).chain((0..SEEDS).filter(|seed| *seed != known));
    let found = seeds.map(|seed| (seed, run(seed, &options))).find(|(_, report)| report.failure.is_some());
    let (seed, report) = found.unwrap_or_else(|| panic!("{bug:?} was not found in {SEEDS} seeds"));
    println!("{bug:?}: seed {seed}: {}", report.failure.expect("looked for"));
}

macro_rules! found {
    ($($name:ident $bug:ident $seed:literal,)+) => {
        $(#[test]
        fn $name() {
            is_found(Planted::$bug, $seed);
        })+

        const TESTED: &[Planted] = &[$(Planted::$bug),+];
    };
}

found! {
    r20_a_write_answered_at_its_first_copy AckAtFirstCopy 3,
    r20_a_loss_that_is_not_committed LossNotCommitted 11,
    r09_writes_without_an_order ShareWrites 14,
    r18_partial_writes_without_an_order SharePartialWrites 14,
    r29_regions_without_a_mark SkipDirtyMark 1,
    r29_marks_that_are_not_durable MarkNotDurable 233,
    r29_marks_on_one_copy_only MarkOneCopy 3,
    r29_marks_taken_away_early ClearDirtyEarly 1,
    r29_missed_regions_that_are_not_remembered MissedNotRecorded 11,
    r16_trims_without_a_mark TrimNotMarked 22,
    r16_trims_that_a_flush_forgets TrimForgotten 5,
    marks_that_die_with_the_process MarksNotKept 0,
    r01_a_flush_that_skips_a_member FlushSkipsMember 0,
    r03_a_flush_of_one_core_only FlushFirstCoreOnly 14,
    r04_a_flush_that_joins_an_older_one JoinOlderFlush 7,
    r02_fua_that_is_ignored IgnoreFua 1,
    r02_fua_without_the_written_mark FuaForgetsMark 2,
    r01_a_flush_that_forgets_the_written_marks ForgetUnsaved 2,
    r15_written_marks_before_their_data SaveMarksBeforeData 22,
    r01_written_marks_that_are_not_flushed SaveWithoutFlush 10,
    r45_region_blocks_overwritten_in_place RegionBlockInPlace 22,
    r34_slots_without_a_committed_place AllocationNotCommitted 0,
    r34_extents_that_are_free_before_the_commit FreeNotCommitted 1,
    r15_freed_regions_that_are_remembered KeepFreedRegion 1,
    r15_extents_used_again_under_the_old_stamp ReuseStamp 15,
    r15_unwritten_blocks_read_from_the_drive SkipZeroing 0,
    r36_copies_on_one_member CopiesOnOneMember 1,
    r37_checksums_that_are_trusted TrustChecksums 14,
    r41_healing_from_the_wrong_copy HealFromWrongCopy 14,
    r41_the_first_copy_that_wins FirstCopyWins 29,
    r41_scrubs_that_only_look ScrubOnlyLooks 29,
    r41_scrubs_that_skip ScrubSkips 62,
    r11_settling_that_only_reads SettleOnlyReads 2,
    r48_a_crash_taken_for_a_close BelieveClean 6,
    r48_a_clean_mark_that_is_too_early CleanMarkTooEarly 2,
    r30_resync_without_write_through ResyncWithoutWriteThrough 15,
    r30_resync_that_skips_zeroes ResyncSkipsZeroes 2,
    r32_in_sync_before_the_flush InSyncBeforeFlush 33,
    r33_rebuild_without_write_through RebuildWithoutWriteThrough 7,
    r33_moves_that_regions_do_not_hear_of MoveForgetsRegions 3,
    r20_commits_that_one_vote_has CommitAtOneVote 1,
    r45_checkpoints_overwritten_in_place CheckpointInPlace 293,
    r22_openings_by_a_minority MinorityIsEnough 3,
    r21_a_member_that_returns_alone LoneReturnServed 14,
    r24_old_images_that_are_believed OldImageBelieved 14,
    r20_a_failed_write_that_is_not_noticed IgnoreFailedWrite 51,
    r33_rebuild_that_commits_before_the_flush RebuildWithoutFlush 63,
    r25_twins_that_are_accepted TwinsAccepted 10,
    r09_writes_answered_before_they_are_done AnswerBeforeWrite 8,
    r09_nvme_writes_answered_before_they_are_done NvmeAnswerBeforeWrite 7,
    r09_nvme_data_beside_its_place NvmeDataShifted 0,
    r09_nvme_reads_that_failed_and_are_answered NvmeFailedReadAnswered 242,
    r01_nvme_flushes_that_do_nothing NvmeFlushIsNothing 9,
    r24_members_that_return_without_the_log RejoinWithoutLog 143,
    r23_the_log_that_counts_most NewestByCounter 40,
    r37_blocks_that_are_not_asked_whose_they_are ChecksumWithoutAddress 1,
    r24_drives_whose_end_is_gone HollowBelieved 95,
    r36_copies_that_move_beside_others MoveBesideCopy 11,
    r33_copies_that_count_before_they_are_whole CopyCountedBeforeWhole 81,
    r34_moves_that_are_not_committed MoveNotCommitted 3,
    r34_slots_that_come_to_a_drive_that_leaves LeavingGetsSlots 7,
}

/// Found by a crash at every change of an addition, and of the halves that are left one by one.
const BY_CRASHES: &[Planted] = &[Planted::NewVotesFirst, Planted::NamedAfterJoining];

/// Found by the same for a drive that is taken out.
const BY_CRASHES_OF_REMOVALS: &[Planted] = &[Planted::PartedAtOnce, Planted::VoteBeforeData];

/// What of the operations in flight happens at a crash is drawn: seeds that are tried for one bug.
const DRAWS: std::ops::Range<u64> = 1..9;

fn is_found_by_crashes(bug: Planted, script: Script) {
    let found = DRAWS.clone().find_map(|seed| {
        // What the program notices by itself ends it.
        match std::panic::catch_unwind(|| crash_everywhere_with(bug, script, seed, Extent::Quick)) {
            Ok(Ok(_)) => None,
            Ok(Err(failure)) => Some((seed, failure.to_string())),
            Err(_) => Some((seed, "the program noticed it".to_owned())),
        }
    });
    let (seed, how) = found.unwrap_or_else(|| panic!("{bug:?} was not found in {DRAWS:?}"));
    println!("{bug:?}: seed {seed}: {how}");
}

#[test]
fn r22_r33_additions_that_a_crash_leaves_in_pieces() {
    BY_CRASHES.iter().for_each(|bug| is_found_by_crashes(*bug, Script::Add));
}

#[test]
fn r22_r33_removals_that_a_crash_leaves_in_pieces() {
    BY_CRASHES_OF_REMOVALS.iter().for_each(|bug| is_found_by_crashes(*bug, Script::Remove));
}

#[test]
fn r33_the_last_good_copy_that_goes() {
    BY_CRASHES_OF_COPIES.iter().for_each(|bug| is_found_by_crashes(*bug, Script::CopiesWithout));
}

/// Found by the same while a drive is away.
const BY_CRASHES_OF_COPIES: &[Planted] = &[Planted::DroppedWrongCopy];

/// Found by `sim --planted`, and too far out, or too slow, to be looked for in every test run.
const BY_TOOL_ONLY: &[Planted] = &[
    Planted::RetryFailedFlush,
    Planted::IgnoreFailedFlush,
    Planted::ResyncWithoutHold,
    Planted::ReadStaleCopy,
    Planted::ForgetMissedOfOthers,
    Planted::HealWithoutHold,
    Planted::FreeDuringSave,
    Planted::SaveWhileSwitching,
];

#[test]
fn every_bug_is_looked_for() {
    let known = |bug: &Planted| {
        [TESTED, BY_CRASHES, BY_CRASHES_OF_REMOVALS, BY_CRASHES_OF_COPIES, BY_TOOL_ONLY]
            .iter()
            .any(|list| list.contains(bug))
    };
    let missing: Vec<&Planted> = BUGS.iter().filter(|bug| !known(bug)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
