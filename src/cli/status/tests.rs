//! Screens of fixed reports, as text.

use super::*;
use crate::control::api::{ScrubReport, VolumeReport};

const GB: u64 = 1_000_000_000;
const PLAIN: Paint = Paint { on: false };

pub fn drive(name: &str, size: u64, used: u64) -> DriveReport {
    DriveReport {
        name: name.into(),
        path: format!("/dev/{name}"),
        uuid: "u".into(),
        pool: "tank".into(),
        size_bytes: size,
        state: DriveState::Active,
        leaving: false,
        reason: String::new(),
        rotational: true,
        used_bytes: used,
        lost_bytes: 0,
        exposed_bytes: used,
        heals_bytes: used,
        does_not_heal_bytes: 0,
        heal_seconds: Some(used.div_ceil(60_000_000)),
        read_errors: 0,
        write_errors: 0,
        checksum_errors: 0,
        healed_blocks: 0,
    }
}

fn volume(allocated: u64) -> VolumeReport {
    VolumeReport {
        name: "data".into(),
        pool: "tank".into(),
        uuid: "v".into(),
        size_bytes: 310 * GB,
        copies: 2,
        fewest_copies: 0,
        lacking_slots: 0,
        surplus_slots: 0,
        columns: 3,
        stripe_unit_bytes: 128 << 10,
        checksums: true,
        lba_bytes: 512,
        namespace: 1,
        allocated_bytes: allocated,
        single_copy_bytes: 0,
        unavailable_bytes: 0,
        connections: 0,
        unavailable: Vec::new(),
        unavailable_more: false,
    }
}

/// Three drives with 310 GB in one volume, all well.
pub fn healthy() -> PoolReport {
    PoolReport {
        name: "tank".into(),
        uuid: "6f1c".into(),
        state: PoolState::Safe,
        copies: 2,
        extent_bytes: 64 << 20,
        raw_bytes: 1080 * GB,
        free_bytes: [460 * GB, 230 * GB, 0],
        usable_bytes: [1080 * GB, 540 * GB, 80 * GB],
        allocated_bytes: 310 * GB,
        below_promise_bytes: 0,
        single_copy_bytes: 0,
        unavailable_bytes: 0,
        heal_needed_bytes: 200 * GB,
        heal_possible: true,
        heal_spare_bytes: Some(30 * GB),
        heal_short_bytes: 0,
        reserve_enforced: false,
        protected_bytes: 310 * GB,
        heal_bytes_per_second: 60_000_000,
        heal_rate_measured: false,
        drives: vec![
            drive("ata-ST380815AS_6QZ0X1AB", 80 * GB, 46 * GB),
            drive("ata-WD5000AAKX_WCC2EK4J", 500 * GB, 287 * GB),
            drive("ata-ST500DM002_Z3T0A1A", 500 * GB, 287 * GB),
        ],
        volumes: vec![volume(310 * GB)],
        votes_present: 4,
        votes_total: 4,
        epoch: 7,
        forced: false,
        spreading: false,
        work: vec![],
        last_scrub: None,
        next_scrub_unix_ns: Some(1_765_756_800_000_000_000),
        lost: vec![],
        full_in_seconds: None,
    }
}

/// The same with one drive gone and a rebuild under way.
pub fn degraded() -> PoolReport {
    let mut pool = healthy();
    pool.state = PoolState::AtRisk;
    pool.single_copy_bytes = 69_700_000_000;
    pool.below_promise_bytes = 69_700_000_000;
    pool.drives[2].state = DriveState::Missing;
    pool.drives[2].reason = "3 write timeouts, then gone from the bus".into();
    pool.drives[1].lost_bytes = 16_800_000_000;
    for (drive, heals) in [(0, 0), (1, 34 * GB)] {
        let drive = &mut pool.drives[drive];
        (drive.heals_bytes, drive.does_not_heal_bytes) = (heals, drive.used_bytes - heals);
        drive.heal_seconds = None;
    }
    pool.work = vec![WorkReport {
        kind: WorkKind::Rebuild,
        done_bytes: 50_500_000_000,
        total_bytes: 120_200_000_000,
        bytes_per_second: 60_000_000,
    }];
    pool.votes_present = 3;
    pool
}

#[test]
fn healthy_pool() {
    let mut pool = healthy();
    pool.last_scrub = Some(ScrubReport {
        ended_unix_ns: 1_763_164_800_000_000_000,
        checked_bytes: 620 * GB,
        repaired_blocks: 1,
        unrepaired_blocks: 0,
        different_blocks: 0,
        lost_blocks: 0,
    });
    let report =
        StatusReport { pools: vec![pool], listening: vec!["0.0.0.0:10809".into()], listening_nvme: vec![] };
    let expected = "\
tank      SAFE      every block has 2 copies on 2 drives
space     540.0 GB usable = 310.0 GB in 1 volume + 230.0 GB free
heal      keep 200.0 GB free to rebuild after losing the largest drive (500.0 GB): ok, 30.0 GB to spare
scrub     last 2025-11-15, 620.0 GB checked, 1 block repaired, next 2025-12-15

IF THIS DIES              COPIES THERE   YOU LOSE   LEFT ON ONE COPY   THEN                          STATE    ERRORS r/w/sum
ata-ST380815AS_6QZ0X1AB        46.0 GB        0 B            46.0 GB   46.0 GB made again, 13 min    active            0/0/0
ata-WD5000AAKX_WCC2EK4J       287.0 GB        0 B           287.0 GB   287.0 GB made again, 80 min   active            0/0/0
ata-ST500DM002_Z3T0A1A        287.0 GB        0 B           287.0 GB   287.0 GB made again, 80 min   active            0/0/0
served    NBD on 0.0.0.0:10809
";
    assert_eq!(screen(&report, PLAIN), expected);
}

#[test]
fn degraded_pool_that_is_being_rebuilt() {
    let expected = "\
tank      AT RISK   69.7 GB have one copy for 20 min more
why       ata-ST500DM002_Z3T0A1A is missing: 3 write timeouts, then gone from the bus
space     540.0 GB usable = 310.0 GB in 1 volume + 230.0 GB free
heal      after losing a drive there is nowhere to rebuild to, until it is replaced
rebuild   [########............]  42 %   50.5 GB of 120.2 GB   60.0 MB/s   20 min left

IF THIS DIES              COPIES THERE   YOU LOSE   LEFT ON ONE COPY   THEN                                              STATE     ERRORS r/w/sum
ata-ST380815AS_6QZ0X1AB        46.0 GB        0 B            46.0 GB   nowhere to rebuild 46.0 GB                        active             0/0/0
ata-WD5000AAKX_WCC2EK4J       287.0 GB    16.8 GB           287.0 GB   34.0 GB made again, nowhere to rebuild 253.0 GB   active             0/0/0
ata-ST500DM002_Z3T0A1A        287.0 GB          -                  -   -                                                 missing            0/0/0

do        nothing now: the copies are being made again, complete in 20 min
do        connect ata-ST500DM002_Z3T0A1A again; it is brought up to date by itself
            drystone disk locate ata-ST500DM002_Z3T0A1A
";
    assert_eq!(pool_screen(&degraded(), PLAIN), expected);
}

#[test]
fn a_pool_that_grows_is_safe_and_tells_how_far_it_is() {
    let mut pool = healthy();
    pool.spreading = true;
    pool.work = vec![WorkReport {
        kind: WorkKind::Spread,
        done_bytes: 26_600_000_000,
        total_bytes: 70 * GB,
        bytes_per_second: 55_000_000,
    }];
    let text = pool_screen(&pool, PLAIN);
    let line = "spread    [#######.............]  38 %   26.6 GB of 70.0 GB   55.0 MB/s   14 min left\n";
    assert!(text.contains(line) && text.starts_with("tank      SAFE "), "{text}");
    assert!(!text.contains("\ndo "), "nothing is to be done: {text}");
    pool.work.clear();
    assert!(
        pool_screen(&pool, PLAIN)
            .contains("\nspread    what is stored spreads over all drives while a daemon runs\n")
    );
    pool.drives[1].state = DriveState::Resyncing;
    assert!(pool_screen(&pool, PLAIN).contains("over all drives when every drive is in sync again\n"));
}

#[test]
fn a_change_of_copies_is_shown_with_its_progress_or_with_what_it_waits_for() {
    let mut pool = healthy();
    (pool.volumes[0].lacking_slots, pool.volumes[0].fewest_copies) = (12, 1);
    pool.work = vec![WorkReport {
        kind: WorkKind::Copies,
        done_bytes: 26_600_000_000,
        total_bytes: 70 * GB,
        bytes_per_second: 55_000_000,
    }];
    let text = pool_screen(&pool, PLAIN);
    let line = "copies    [#######.............]  38 %   26.6 GB of 70.0 GB   55.0 MB/s   14 min left\n";
    assert!(text.contains(line) && text.contains("every block has 1 copy on 1 drives"), "{text}");
    pool.work.clear();
    let text = pool_screen(&pool, PLAIN);
    let slots =
        format!("copies    12 slots of {} come to have 2 copies while a daemon runs", pool.volumes[0].name);
    assert!(text.contains(&slots), "{text}");
    pool.drives[1].state = DriveState::Resyncing;
    assert!(pool_screen(&pool, PLAIN).contains("2 copies when every drive is in sync again\n"));
}

#[test]
fn a_drive_that_leaves_is_shown_with_its_progress_and_with_what_keeps_it() {
    let mut pool = healthy();
    pool.spreading = true;
    pool.drives[1].leaving = true;
    pool.work = vec![WorkReport {
        kind: WorkKind::Leave,
        done_bytes: 26_600_000_000,
        total_bytes: 70 * GB,
        bytes_per_second: 55_000_000,
    }];
    let text = pool_screen(&pool, PLAIN);
    let line = "leaving   [#######.............]  38 %   26.6 GB of 70.0 GB   55.0 MB/s   14 min left\n";
    assert!(text.contains(line) && text.starts_with("tank      SAFE "), "{text}");
    assert!(text.contains("  leaving  "), "in its row: {text}");
    let duty = "do        nothing now: ata-WD5000AAKX_WCC2EK4J can be taken out in 14 min, and stays in use until then\n";
    assert!(text.contains(duty), "{text}");
    pool.work.clear();
    pool.drives[1].reason = "too little space is free for all that lies on it".into();
    let text = pool_screen(&pool, PLAIN);
    let waits = "\nleaving   what lies on ata-WD5000AAKX_WCC2EK4J moves to the others while a daemon runs\n";
    assert!(text.contains(waits), "{text}");
    let stuck = "do        ata-WD5000AAKX_WCC2EK4J cannot leave: too little space is free for all that lies on it. Add";
    assert!(text.contains(stuck), "{text}");
    assert!(text.contains("drystone disk remove ata-WD5000AAKX_WCC2EK4J --cancel\n"), "{text}");
}

#[test]
fn data_that_cannot_be_read_comes_first() {
    let mut pool = degraded();
    pool.state = PoolState::DataUnavailable;
    pool.unavailable_bytes = 16_800_000_000;
    let text = pool_screen(&pool, PLAIN);
    assert!(text.starts_with("tank      DATA UNAVAILABLE  16.8 GB cannot be read\n"), "{text}");
    assert!(pool_screen(&pool, Paint { on: true }).contains("\x1b[1;31mDATA UNAVAILABLE\x1b[0m"));
}

#[test]
fn one_copy_as_asked_for_says_what_that_means() {
    let mut pool = healthy();
    (pool.state, pool.copies) = (PoolState::Unprotected, 1);
    let text = pool_screen(&pool, PLAIN);
    assert!(text.starts_with("tank      UNPROTECTED  one copy of everything, as asked for"), "{text}");
    assert!(!text.contains("\nheal"), "{text}");
    assert!(
        text.contains("hint      a volume can have two copies: --copies 2 has room for 230.0 GB\n"),
        "{text}"
    );
}

#[test]
fn a_new_pool_says_what_is_next_and_two_drives_cannot_heal() {
    let mut pool = healthy();
    pool.drives.truncate(2);
    (pool.volumes, pool.allocated_bytes, pool.heal_possible) = (vec![], 0, true);
    let text = screen(&StatusReport { pools: vec![pool], listening: vec![], listening_nvme: vec![] }, PLAIN);
    assert!(text.contains("SAFE      nothing is stored yet; every block will have 2 copies\n"), "{text}");
    assert!(text.contains("heal      after losing a drive there is nowhere to rebuild to"), "{text}");
    assert!(text.contains("hint      drystone volume create NAME --size SIZE --pool tank\n"), "{text}");
    assert!(
        text.ends_with("hint      no daemon is running: nothing is served.   drystone serve\n"),
        "{text}"
    );
}

#[test]
fn too_little_free_space_and_a_missing_witness_are_said() {
    let mut pool = healthy();
    (pool.heal_possible, pool.votes_present) = (false, 3);
    let text = pool_screen(&pool, PLAIN);
    assert!(text.contains("(500.0 GB): too little is free\n"), "{text}");
    pool.drives[2].does_not_heal_bytes = 40 * GB;
    let text = pool_screen(&pool, PLAIN);
    assert!(text.contains("(500.0 GB): too little is free, 40.0 GB would find no place\n"), "{text}");
    assert!(text.contains("287.0 GB made again, nowhere to rebuild 40.0 GB"), "{text}");
    assert!(text.contains("why       3 of 4 votes are here: the witness is missing\n"), "{text}");
}

#[test]
fn the_reserve_is_told_before_it_is_broken() {
    let mut pool = healthy();
    pool.heal_spare_bytes = Some(19 * GB);
    assert!(pool_screen(&pool, PLAIN).contains("(500.0 GB): only 19.0 GB to spare\n"));
    pool.reserve_enforced = true;
    let text = pool_screen(&pool, PLAIN);
    assert!(text.contains("only 19.0 GB to spare; what would take it is refused\n"), "{text}");
    (pool.heal_spare_bytes, pool.heal_short_bytes) = (Some(0), 7 * GB);
    let text = pool_screen(&pool, PLAIN);
    assert!(text.contains("(500.0 GB): at least 7.0 GB too much is stored\n"), "{text}");
}

#[test]
fn what_survives_no_drive_is_told_beside_what_does() {
    let mut pool = healthy();
    assert!(!pool_screen(&pool, PLAIN).contains("protected"));
    pool.protected_bytes = 270 * GB;
    let text = pool_screen(&pool, PLAIN);
    assert!(text.contains("\nprotected 270.0 GB survive any drive; 40.0 GB do not\n"), "{text}");
}

#[test]
fn wrong_blocks_ask_for_a_scrub_and_a_stale_drive_for_a_daemon() {
    let mut pool = healthy();
    pool.drives[0].checksum_errors = 3;
    pool.drives[1].state = DriveState::Stale;
    let text = pool_screen(&pool, PLAIN);
    assert!(text.contains("why       ata-WD5000AAKX_WCC2EK4J missed writes and is not read\n"), "{text}");
    assert!(text.contains("            drystone pool scrub tank\n"), "{text}");
    assert!(text.contains("            drystone serve\n"), "{text}");
}

#[test]
fn when_a_pool_is_full_is_said_beside_its_space() {
    let mut pool = healthy();
    let full = "540.0 GB usable = 310.0 GB in 1 volume + 230.0 GB free; full in 12 d at this rate\n";
    assert!(!pool_screen(&pool, PLAIN).contains("at this rate"));
    pool.full_in_seconds = Some(12 * 24 * 3600);
    assert!(pool_screen(&pool, PLAIN).contains(full), "{}", pool_screen(&pool, PLAIN));
}
