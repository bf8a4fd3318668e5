//! What is told of fixed reports.

use super::*;
use crate::control::api::{DriveReport, DriveState, PoolCreate, VolumeReport, WorkKind};

const GB: u64 = 1_000_000_000;

fn drive(name: &str) -> DriveReport {
    DriveReport {
        name: name.into(),
        path: format!("/dev/{name}"),
        uuid: name.into(),
        pool: "tank".into(),
        size_bytes: 500 * GB,
        state: DriveState::Active,
        reason: String::new(),
        rotational: false,
        used_bytes: 100 * GB,
        lost_bytes: 0,
        exposed_bytes: 100 * GB,
        heals_bytes: 100 * GB,
        does_not_heal_bytes: 0,
        heal_seconds: None,
        read_errors: 0,
        write_errors: 0,
        checksum_errors: 0,
        healed_blocks: 0,
        leaving: false,
    }
}

fn volume(name: &str) -> VolumeReport {
    VolumeReport {
        name: name.into(),
        pool: "tank".into(),
        uuid: name.into(),
        size_bytes: 70 * GB,
        copies: 2,
        fewest_copies: 0,
        lacking_slots: 0,
        surplus_slots: 0,
        columns: 1,
        stripe_unit_bytes: 131_072,
        checksums: true,
        lba_bytes: 512,
        namespace: 1,
        allocated_bytes: 60 * GB,
        single_copy_bytes: 0,
        unavailable_bytes: 0,
        connections: 0,
        unavailable: Vec::new(),
        unavailable_more: false,
    }
}

fn tank() -> PoolReport {
    PoolReport {
        name: "tank".into(),
        uuid: "p".into(),
        state: PoolState::Safe,
        copies: 2,
        extent_bytes: 64 << 20,
        raw_bytes: 1500 * GB,
        free_bytes: [1380 * GB, 690 * GB, 460 * GB],
        usable_bytes: [1500 * GB, 750 * GB, 500 * GB],
        allocated_bytes: 60 * GB,
        below_promise_bytes: 0,
        single_copy_bytes: 0,
        unavailable_bytes: 0,
        heal_needed_bytes: 250 * GB,
        heal_possible: true,
        heal_spare_bytes: None,
        heal_short_bytes: 0,
        reserve_enforced: false,
        protected_bytes: 60 * GB,
        heal_bytes_per_second: 100,
        heal_rate_measured: false,
        drives: vec![drive("sda"), drive("sdb"), drive("sdc")],
        volumes: vec![volume("data")],
        votes_present: 4,
        votes_total: 4,
        epoch: 1,
        forced: false,
        spreading: false,
        work: vec![],
        last_scrub: None,
        next_scrub_unix_ns: None,
        lost: vec![],
        full_in_seconds: None,
    }
}

/// What a change of the pool, between two looks, is told as: level, code, sentence.
fn told(change: impl Fn(&mut PoolReport)) -> Vec<(Level, Option<String>, String)> {
    let mut after = tank();
    change(&mut after);
    let drafts = changes(&[tank()], &[after], None);
    drafts.into_iter().map(|d| (d.level, d.code, d.message)).collect()
}

/// As `told`, where one thing is.
fn one(change: impl Fn(&mut PoolReport)) -> (Level, String, String) {
    let mut told = told(change);
    assert_eq!(told.len(), 1, "{told:?}");
    let (level, code, message) = told.remove(0);
    (level, code.unwrap_or_default(), message)
}

#[test]
fn nothing_is_told_of_what_stays() {
    assert_eq!(changes(&[tank()], &[tank()], None), []);
    assert_eq!(changes(&[], &[], None), []);
    // What is written and read is no event, nor is work that goes on.
    assert!(told(|p| (p.allocated_bytes, p.epoch) = (61 * GB, 9)).is_empty());
}

#[test]
fn pools_come_and_go_as_they_were_asked_to() {
    let create = Request::PoolCreate(PoolCreate {
        name: "tank".into(),
        disks: vec![],
        copies: 2,
        extent_bytes: None,
        erase: vec![],
    });
    let kinds = |before: &[PoolReport], after: &[PoolReport], asked: Option<&Request>| {
        changes(before, after, asked).iter().map(|d| d.kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&[], &[tank()], Some(&create)), [EventKind::PoolMade]);
    assert_eq!(kinds(&[], &[tank()], None), [EventKind::PoolOpened]);
    let destroy = Request::PoolDestroy { pool: "tank".into() };
    assert_eq!(kinds(&[tank()], &[], Some(&destroy)), [EventKind::PoolDestroyed]);
    assert_eq!(kinds(&[tank()], &[], None), [EventKind::PoolClosed]);
}

#[test]
fn what_is_wrong_with_a_pool_is_told_when_it_opens() {
    let mut pool = tank();
    pool.state = PoolState::AtRisk;
    pool.drives[1].state = DriveState::Missing;
    (pool.single_copy_bytes, pool.below_promise_bytes, pool.votes_present) = (20 * GB, 20 * GB, 3);
    let codes: Vec<_> = changes(&[], &[pool], None).into_iter().filter_map(|d| d.code).collect();
    assert_eq!(codes, ["DRIVE_MISSING", "POOL_AT_RISK"]);
}

#[test]
fn volumes_are_made_renamed_grown_and_destroyed() {
    let (_, _, made) = one(|p| p.volumes.push(volume("more")));
    assert_eq!(made, "volume more was made: 70.0 GB, 2 copies");
    let (_, _, renamed) = one(|p| p.volumes[0].name = "old".into());
    assert_eq!(renamed, "volume data is now called old");
    let (_, _, grown) = one(|p| p.volumes[0].size_bytes = 90 * GB);
    assert_eq!(grown, "volume data was 70.0 GB, and is 90.0 GB now");
    let (_, _, gone) = one(|p| p.volumes.clear());
    assert_eq!(gone, "volume data was destroyed, and what was in it");
}

#[test]
fn a_change_of_copies_has_a_begin_and_an_end() {
    let with = |copies, lacking_slots| PoolReport {
        volumes: vec![VolumeReport { copies, lacking_slots, ..volume("data") }],
        ..tank()
    };
    let said = |before, after| -> Vec<String> {
        changes(&[before], &[after], None).into_iter().map(|draft| draft.message).collect()
    };
    let begun = said(with(2, 0), with(3, 12));
    assert_eq!(begun, ["volume data is to have 3 copies, and had 2 copies; 12 slots are left to do"]);
    assert_eq!(said(with(3, 12), with(3, 5)), Vec::<String>::new());
    assert_eq!(said(with(3, 5), with(3, 0)), ["volume data has 3 copies of everything"]);
    assert_eq!(said(with(2, 0), with(3, 0)), ["volume data has 3 copies"]);
}

#[test]
fn every_state_of_a_drive_says_what_it_means_for_the_data() {
    let lacking = |p: &mut PoolReport, state| {
        p.drives[2].state = state;
        p.drives[2].reason = "no answer for 3 s".into();
        (p.single_copy_bytes, p.below_promise_bytes) = (20 * GB, 20 * GB);
    };
    let expected = [
        (DriveState::Missing, "DRIVE_MISSING"),
        (DriveState::Faulted, "DRIVE_FAILED"),
        (DriveState::Stale, "DRIVE_STALE"),
        (DriveState::Suspect, "DRIVE_SLOW"),
        (DriveState::Rebuilding, "DRIVE_GIVEN_UP"),
    ];
    for (state, expected) in expected {
        let (level, code, message) = one(|p| lacking(p, state));
        assert_eq!((level, code.as_str()), (Level::Warning, expected));
        assert!(message.starts_with("drive sdc ") && message.contains("(no answer for 3 s)"), "{message}");
        assert!(message.ends_with(": everything can be read, 20.0 GB have one copy left"), "{message}");
    }
    let back = |from, to| {
        let (mut before, mut after) = (tank(), tank());
        (before.drives[0].state, after.drives[0].state) = (from, to);
        let draft = changes(&[before], &[after], None).remove(0);
        assert_eq!((draft.level, draft.code), (Level::Info, None));
        draft.message
    };
    assert!(back(DriveState::Missing, DriveState::Resyncing).starts_with("drive sda is back; "));
    assert!(back(DriveState::Resyncing, DriveState::Active).starts_with("drive sda is in sync again"));
    assert!(back(DriveState::Suspect, DriveState::Active).contains("answers as usual again"));
    assert!(back(DriveState::Rebuilding, DriveState::Missing).contains("not needed any more"));
}

#[test]
fn errors_are_told_by_how_many_came() {
    let (_, code, message) = one(|p| (p.drives[0].read_errors, p.drives[0].write_errors) = (3, 1));
    assert_eq!(code, "DRIVE_ERRORS");
    assert!(message.starts_with("drive sda gave 3 read and 1 write errors"), "{message}");
    let (_, code, message) = one(|p| (p.drives[0].checksum_errors, p.drives[0].healed_blocks) = (2, 2));
    assert_eq!(code, "SUM_MISMATCH");
    assert!(message.starts_with("drive sda gave 2 wrong blocks; 2 were written again"), "{message}");
    let mut before = tank();
    before.drives[0].read_errors = 9;
    assert_eq!(changes(&[before], &[tank()], None), [], "a drive that was opened again counts from zero");
}

#[test]
fn what_cannot_be_read_is_critical() {
    let unavailable =
        |p: &mut PoolReport| (p.state, p.unavailable_bytes) = (PoolState::DataUnavailable, 5 * GB);
    let (level, code, message) = one(unavailable);
    assert_eq!((level, code.as_str()), (Level::Critical, "DATA_UNAVAILABLE"));
    assert_eq!(message, "pool tank is without some of its data: 5.0 GB cannot be read");
    let lost = LostReport { volume: "data".into(), offset_bytes: 8192, length_bytes: 4096 };
    let (level, code, message) = one(|p| p.lost.push(lost.clone()));
    assert_eq!((level, code.as_str()), (Level::Critical, "BLOCKS_LOST"));
    assert!(message.starts_with("4096 bytes more have no good copy left, at offset 8192 of volume data"));
    let (level, code, _) = one(|p| p.votes_present = 2);
    assert_eq!((level, code.as_str()), (Level::Critical, "MAJORITY_LOST"));
}

#[test]
fn work_begins_and_ends_with_its_amounts() {
    let work = |done| WorkReport {
        kind: WorkKind::Rebuild,
        done_bytes: done,
        total_bytes: 120 * GB,
        bytes_per_second: 1,
    };
    let (_, _, begun) = one(|p| p.work.push(work(0)));
    assert_eq!(begun, "rebuild of pool tank began: 120.0 GB to go through");
    let mut before = tank();
    before.work.push(work(119 * GB));
    let ended = changes(&[before], &[tank()], None).remove(0).message;
    assert!(ended.starts_with("rebuild of pool tank ended, 119.0 GB of 120.0 GB done"), "{ended}");
    assert!(ended.ends_with("every block has all its copies"), "{ended}");
    let scrub = ScrubReport {
        ended_unix_ns: 1,
        checked_bytes: 60 * GB,
        repaired_blocks: 2,
        unrepaired_blocks: 0,
        different_blocks: 0,
        lost_blocks: 0,
    };
    let (level, _, message) = one(|p| p.last_scrub = Some(scrub.clone()));
    assert_eq!(level, Level::Info);
    assert_eq!(message, "scrub of pool tank: 60.0 GB read, 2 wrong blocks were repaired");
    let bad = ScrubReport { lost_blocks: 1, ..scrub };
    let (level, code, _) = one(|p| p.last_scrub = Some(bad.clone()));
    assert_eq!((level, code.as_str()), (Level::Critical, "SCRUB_FOUND"));
}

#[test]
fn space_is_told_where_it_becomes_less_and_where_it_is_back() {
    let left = |p: &mut PoolReport, free: u64| {
        (p.allocated_bytes, p.free_bytes[1]) = (750 * GB - free, free);
    };
    assert!(told(|p| left(p, 75 * GB)).is_empty(), "a tenth");
    let (level, code, message) = one(|p| left(p, 74 * GB));
    assert_eq!((level, code.as_str()), (Level::Warning, "SPACE_LOW"));
    assert!(message.starts_with("only 74.0 GB of 750.0 GB are free in pool tank"), "{message}");
    let (level, code, _) = one(|p| left(p, 0));
    assert_eq!((level, code.as_str()), (Level::Critical, "SPACE_OUT"));
    let mut full = tank();
    left(&mut full, 0);
    assert_eq!(changes(&[full], &[tank()], None)[0].level, Level::Info);
    let (_, code, message) = one(|p| p.heal_possible = false);
    assert_eq!(code, "NO_ROOM_TO_HEAL");
    assert!(message.contains("could not heal itself"), "{message}");
}

#[test]
fn a_pool_that_fills_within_a_week_is_told_once() {
    assert!(told(|p| p.full_in_seconds = Some(FILLING_SOON)).is_empty());
    let (_, code, message) = one(|p| p.full_in_seconds = Some(2 * 24 * 3600 + 3 * 3600));
    assert_eq!(code, "POOL_FILLING");
    assert!(message.contains("full in 2 days and 3 hours"), "{message}");
    let soon = |seconds| PoolReport { full_in_seconds: Some(seconds), ..tank() };
    assert_eq!(changes(&[soon(5000)], &[soon(4000)], None), []);
}
