//! Volumes whose number of copies is changed while they are in use: what is stored where in the end, what clients notice,
//! what a crash, a lost drive and a change of mind do to it.

#[path = "shared/payload.rs"]
mod payload;
#[allow(dead_code)] // It has more than is needed here.
#[path = "metadata/rig.rs"]
mod rig;

use drystone::base::units::ByteLen;
use drystone::pool::{Pool, PoolError, VolumePlan};
use drystone::sim::{Crash, Process};
use drystone::volume::{Handle, Volume};
use rig::{MIB, Rig, in_sync, put};
use std::sync::Arc;
use std::time::Duration;

/// Mebibytes in the volume `data`, and the byte of the mebibyte at `at`.
const FULL: u64 = 12;

fn byte(at: u64) -> u8 {
    u8::try_from(at % 251 + 1).unwrap()
}

/// Drives with twelve slots of so many copies in a volume of twice that; open.
fn stored(seed: u64, drives: usize, copies: u8, checksums: bool) -> (Rig, Process, Pool) {
    let rig = Rig::blank(seed, drives);
    let head = rig.world.boot(1);
    rig.create(&head);
    let pool = rig.open(&head).expect("opens");
    let plan = VolumePlan {
        name: "data".into(),
        size: ByteLen(2 * FULL * MIB),
        copies: Some(copies),
        unit: None,
        checksums,
        lba_bytes: None,
    };
    let (core, made) = (head.core(0).clone(), pool.clone());
    rig.on(&head, async move { made.create_volume(&core, &plan).await.map(|_| ()) }).expect("volume");
    for at in 0..FULL {
        rig.write(&head, &pool, at * MIB, MIB, byte(at));
    }
    (rig, head, pool)
}

fn set(rig: &Rig, head: &Process, pool: &Pool, copies: u8) -> Result<(), PoolError> {
    let pool = pool.clone();
    rig.on(head, async move { pool.set_copies("data", copies, true).await })
}

/// How many slots have how many copies.
fn slots(pool: &Pool) -> [usize; 3] {
    let state = pool.facts().state;
    let mut found = [0; 3];
    let volumes = state.volumes.values();
    volumes.flat_map(|v| v.slots.values()).for_each(|slot| found[slot.copies.len() - 1] += 1);
    found
}

fn all(copies: u8, slots: u64) -> [usize; 3] {
    let mut all = [0; 3];
    all[usize::from(copies) - 1] = usize::try_from(slots).unwrap();
    all
}

fn used(pool: &Pool) -> u64 {
    pool.facts().members.iter().map(|m| m.used.0 / MIB).sum()
}

fn await_copies(rig: &Rig, head: &Process, pool: &Pool, copies: u8) {
    for _ in 0..1000 {
        if slots(pool) == all(copies, slots(pool).iter().sum::<usize>() as u64) {
            return;
        }
        rig.pass(head, 1);
    }
    panic!("not {copies} copies of all: {:?}", slots(pool));
}

fn check(rig: &Rig, head: &Process, pool: &Pool) {
    for at in 0..FULL {
        let read = rig.read(head, pool, at * MIB, MIB).expect("readable");
        assert!(read.iter().all(|b| *b == byte(at)), "mebibyte {at}");
    }
    let (core, pool) = (head.core(0).clone(), pool.clone());
    let found = rig.on(head, async move { pool.scrub(&core).await }).expect("scrubbed");
    assert!(found.is_clean(), "{found:?}");
}

fn handle(pool: &Pool, head: &Process) -> Handle {
    Arc::new(Volume::in_pool(pool.volume("data").expect("exists"))).handle(head.core(0))
}

/// Everything is there without any one of the drives, after a power cut.
fn survives_any_loss(rig: &Rig, head: Process, pool: Pool) {
    rig.cut(head, pool);
    for away in 0..rig.disks.len() {
        let here: Vec<usize> = (0..rig.disks.len()).filter(|i| *i != away).collect();
        let part = rig.part(&here, "/state");
        let head = part.world.boot(1);
        let pool = part.open(&head).expect("all but one and the witness");
        for at in 0..FULL {
            let read = part.read(&head, &pool, at * MIB, MIB).expect("readable");
            assert!(read.iter().all(|b| *b == byte(at)), "mebibyte {at} without drive {away}");
        }
        drop(pool);
        rig.world.bury(head);
        let head = rig.world.boot(1);
        let pool = rig.open(&head).expect("opens");
        rig.pass(&head, 60);
        assert!(in_sync(&pool).iter().all(|sync| *sync));
        rig.cut(head, pool);
    }
}

/// Writes the same bytes again while slots change; what they are is known whenever it is looked at.
fn write_meanwhile(rig: &Rig, head: &Process, pool: &Pool, copies: u8) {
    let writer = handle(pool, head);
    let mut round = 0u64;
    while slots(pool) != all(copies, FULL) {
        round += 1;
        let (writer, at) = (writer.clone(), round * 7 % FULL);
        rig.on(head, async move {
            put(&writer, at * MIB, MIB, byte(at)).await.expect("written");
            writer.core().sleep(Duration::from_millis(3)).await;
        });
        assert!(round < 100_000, "it ends although clients go on: {:?}", slots(pool));
    }
    let writer = handle(pool, head);
    rig.on(head, async move { writer.flush().await }).expect("flushed");
}

#[test]
fn a_volume_that_was_raised_while_it_was_written_survives_the_loss_of_any_drive() {
    for (seed, checksums) in [(1, true), (2, false)] {
        let (rig, head, pool) = stored(200 + seed, 3, 1, checksums);
        set(&rig, &head, &pool, 2).expect("raised");
        write_meanwhile(&rig, &head, &pool, 2);
        assert_eq!((used(&pool), pool.facts().volumes[0].copies), (2 * FULL, 2));
        check(&rig, &head, &pool);
        survives_any_loss(&rig, head, pool);
    }
}

#[test]
fn three_copies_come_and_go_one_after_the_other() {
    let (rig, head, pool) = stored(203, 4, 1, true);
    for (copies, most) in [(3, 3), (2, 3), (3, 3), (1, 3)] {
        set(&rig, &head, &pool, copies).expect("set");
        write_meanwhile(&rig, &head, &pool, copies);
        assert!(used(&pool) == u64::from(copies) * FULL && copies <= most);
        check(&rig, &head, &pool);
    }
    rig.close(head, pool);
}

#[test]
fn what_was_given_up_is_free_and_can_be_used_again() {
    let (rig, head, pool) = stored(204, 3, 3, true);
    let before = pool.facts().free[0];
    set(&rig, &head, &pool, 1).expect("lowered");
    await_copies(&rig, &head, &pool, 1);
    assert_eq!(pool.facts().free[0], ByteLen(before.0 + 2 * FULL * MIB));
    let drives: Vec<u64> = pool.facts().members.iter().map(|m| m.used.0 / MIB).collect();
    assert_eq!(drives, [FULL / 3; 3], "from whoever has most");
    // Other slots come to lie where copies were; what they do not have reads as zeros.
    for at in FULL..2 * FULL {
        rig.write(&head, &pool, at * MIB, 4096, 9);
    }
    let read = rig.read(&head, &pool, FULL * MIB, MIB).expect("readable");
    assert!(read[..4096].iter().all(|b| *b == 9) && read[4096..].iter().all(|b| *b == 0));
    check(&rig, &head, &pool);
    rig.close(head, pool);
}

#[test]
fn new_slots_have_the_new_number_at_once() {
    let (rig, head, pool) = stored(205, 3, 1, true);
    set(&rig, &head, &pool, 2).expect("raised");
    rig.write(&head, &pool, FULL * MIB, MIB, byte(FULL));
    let state = pool.facts().state;
    let volume = state.volumes.values().next().unwrap();
    assert_eq!(volume.slots.values().next_back().unwrap().copies.len(), 2);
    await_copies(&rig, &head, &pool, 2);
    rig.close(head, pool);
}

#[test]
fn setting_it_back_in_the_middle_ends_it() {
    let (rig, head, pool) = stored(206, 3, 1, true);
    set(&rig, &head, &pool, 2).expect("raised");
    let progress = |head: &Process| pool.shared().copies_progress.underway(head.core(0).now());
    while progress(&head).is_none_or(|going| going.done.0 == 0) {
        rig.world.pass(&head.cores, Duration::from_micros(50)).expect("time passes");
    }
    assert!(slots(&pool)[0] > 0, "{:?}", slots(&pool));
    set(&rig, &head, &pool, 1).expect("lowered");
    await_copies(&rig, &head, &pool, 1);
    assert_eq!(used(&pool), FULL);
    check(&rig, &head, &pool);
    rig.close(head, pool);
}

#[test]
fn a_restart_in_the_middle_goes_on_with_it() {
    for (seed, from, to) in [(1, 1, 2), (2, 2, 1), (3, 2, 3), (4, 3, 2)] {
        let (rig, mut head, mut pool) = stored(210 + seed, 4, from, seed % 2 == 0);
        set(&rig, &head, &pool, to).expect("set");
        let mut lives = 0;
        while slots(&pool) != all(to, FULL) && lives < 200 {
            let crash = if lives % 2 == 0 { Crash::PowerCut } else { Crash::Kill };
            rig.world.crash_at_change(if to < from { 11 } else { 60 }, crash);
            let (writer, at) = (handle(&pool, &head), lives * 5 % FULL);
            let written = rig.try_on(&head, async move {
                let written = put(&writer, at * MIB, MIB, byte(at)).await;
                writer.core().sleep(Duration::from_secs(15)).await;
                written
            });
            rig.world.crash_no_more();
            if written.is_err() {
                drop(pool);
                rig.world.bury(head);
                head = rig.world.boot(1);
                pool = rig.open(&head).expect("opens");
                lives += 1;
            }
        }
        assert!(lives > 1, "{lives} restarts from {from} to {to}");
        assert_eq!(pool.facts().volumes[0].copies, to);
        check(&rig, &head, &pool);
        rig.close(head, pool);
    }
}

#[test]
fn a_copy_on_a_drive_that_is_away_goes_first_and_the_good_one_stays() {
    for (seed, from, to) in [(1, 2, 1), (2, 3, 2)] {
        let (rig, head, pool) = stored(220 + seed, 3, from, true);
        rig.disk(1).unplug();
        for at in 0..FULL {
            rig.write(&head, &pool, at * MIB, MIB, byte(at + 1));
            rig.write(&head, &pool, at * MIB, MIB, byte(at));
        }
        assert_eq!(in_sync(&pool), [true, false, true]);
        set(&rig, &head, &pool, to).expect("lowered");
        await_copies(&rig, &head, &pool, to);
        let gone = &pool.facts().members[1];
        assert_eq!(gone.used, ByteLen(0), "nothing has to be made anew of what was there");
        check(&rig, &head, &pool);
        rig.disk(1).plug();
        rig.pass(&head, 60);
        assert_eq!(in_sync(&pool), [true; 3]);
        check(&rig, &head, &pool);
        rig.close(head, pool);
    }
}

#[test]
fn raising_waits_for_what_is_made_anew_and_the_number_is_right_in_the_end() {
    let (rig, head, pool) = stored(230, 4, 2, true);
    rig.disk(1).unplug();
    rig.write(&head, &pool, 0, MIB, byte(0));
    set(&rig, &head, &pool, 3).expect("three are left");
    rig.pass(&head, 60);
    assert_eq!(slots(&pool), all(2, FULL));
    // Given up after ten minutes: rebuilt, and then raised.
    await_copies(&rig, &head, &pool, 3);
    assert_eq!(pool.facts().members[1].used, ByteLen(0));
    check(&rig, &head, &pool);
    rig.close(head, pool);
}

#[test]
fn what_cannot_be_is_refused_with_the_numbers() {
    let (rig, head, pool) = stored(231, 2, 2, true);
    let error = set(&rig, &head, &pool, 3).unwrap_err().to_string();
    assert_eq!(error, "3 copies need 3 drives in sync, and the pool has 2");
    let one = pool.clone();
    let refused = rig.on(&head, async move { one.set_copies("data", 1, false).await }).unwrap_err();
    let PoolError::WouldBeUnprotected { stored, lost, .. } = refused else { panic!("{refused}") };
    assert_eq!((stored, lost), (ByteLen(FULL * MIB), ByteLen(FULL / 2 * MIB)));
    assert_eq!(pool.facts().volumes[0].copies, 2);
    rig.close(head, pool);
}

#[test]
fn progress_tells_how_much_is_copied_and_how_fast() {
    let (rig, head, pool) = stored(232, 3, 1, true);
    set(&rig, &head, &pool, 2).expect("raised");
    let mut seen = Vec::new();
    while slots(&pool) != all(2, FULL) && seen.len() < 10_000 {
        rig.world.pass(&head.cores, Duration::from_millis(2)).expect("time passes");
        seen.extend(pool.shared().copies_progress.underway(head.core(0).now()));
    }
    assert!(seen.iter().all(|p| p.total == ByteLen(FULL * MIB)), "{seen:?}");
    assert!(seen.iter().any(|p| p.done.0 > 0 && p.rate > 0), "{seen:?}");
    rig.close(head, pool);
}
