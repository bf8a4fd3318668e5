//! Drives that are taken out of an open pool: what clients notice, where everything lies then, what a restart, a lost
//! drive and a change of mind do to it, and that the drive is free afterwards.

#[path = "shared/payload.rs"]
mod payload;
#[allow(dead_code)] // It has more than is needed here.
#[path = "metadata/rig.rs"]
mod rig;

use drystone::base::units::{ByteLen, MemberId};
use drystone::pool::{Pool, PoolError, VolumePlan};
use drystone::sim::{Crash, DiskShape, Process};
use drystone::volume::Volume;
use rig::{MIB, Rig, in_sync, put};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Mebibytes in the volume `data`, and the byte of the mebibyte at `at`.
const FULL: u64 = 20;

fn byte(at: u64) -> u8 {
    u8::try_from(at % 251 + 1).unwrap()
}

/// So many drives with twenty slots of two copies; open.
fn filled(seed: u64, drives: usize) -> (Rig, Process, Pool) {
    let rig = Rig::used(seed, drives);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    for at in 0..FULL {
        rig.write(&head, &pool, at * MIB, MIB, byte(at));
    }
    (rig, head, pool)
}

/// Another volume, with so many slots of the pool's own number of copies.
fn fill_more(rig: &Rig, head: &Process, pool: &Pool, slots: u64) {
    let plan = VolumePlan {
        name: "more".into(),
        size: ByteLen(slots * MIB),
        copies: None,
        unit: None,
        checksums: true,
        lba_bytes: None,
    };
    let (core, maker) = (head.core(0).clone(), pool.clone());
    rig.on(head, async move {
        let volume = maker.create_volume(&core, &plan).await.expect("made");
        let handle = Arc::new(Volume::in_pool(volume)).handle(&core);
        for at in 0..slots {
            put(&handle, at * MIB, 4096, 9).await.expect("written");
        }
    });
}

fn remove(rig: &Rig, head: &Process, pool: &Pool, member: u16) -> Result<(), PoolError> {
    let pool = pool.clone();
    rig.on(head, async move { pool.remove_disk(MemberId(member)).await })
}

/// Members by number, and the slots on each.
fn used(pool: &Pool) -> Vec<(u16, u64)> {
    pool.facts().members.iter().map(|m| (m.id.0, m.used.0 / MIB)).collect()
}

fn is_member(pool: &Pool, member: u16) -> bool {
    pool.facts().members.iter().any(|m| m.id.0 == member)
}

fn await_gone(rig: &Rig, head: &Process, pool: &Pool, member: u16) {
    for _ in 0..1000 {
        if !is_member(pool, member) && !pool.facts().state.spreading {
            return;
        }
        rig.pass(head, 1);
    }
    panic!("it is there still: {:?}", used(pool));
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

/// Nothing names a drive any more.
fn is_blank(rig: &Rig, disk: usize) -> bool {
    rig.survey(disk).superblocks.iter().all(|s| s.content.is_err())
}

#[test]
fn a_drive_is_emptied_while_clients_write_and_is_no_member_then() {
    let (rig, head, pool) = filled(101, 4);
    remove(&rig, &head, &pool, 1).expect("it leaves");
    let usable = pool.facts().usable[1].0 / MIB;
    let writer = rig.handle(&head, &pool);
    let mut round = 0u64;
    while is_member(&pool, 1) {
        round += 1;
        let (writer, at) = (writer.clone(), round * 7 % FULL);
        rig.on(&head, async move {
            put(&writer, at * MIB, MIB, byte(at)).await.expect("written");
            writer.core().sleep(Duration::from_millis(3)).await;
        });
        assert!(round < 100_000, "it ends although clients go on");
    }
    drop(writer);
    await_gone(&rig, &head, &pool, 1);
    let counts: Vec<u64> = used(&pool).iter().map(|(_, used)| *used).collect();
    assert_eq!((counts.iter().sum::<u64>(), counts.len()), (40, 3));
    assert!(counts.iter().all(|n| (13..=14).contains(n)), "{counts:?}");
    assert_eq!(pool.facts().usable[1].0 / MIB, usable, "it did not count while it was leaving");
    assert_eq!(pool.facts().votes.total, 3);
    check(&rig, &head, &pool);
    rig.close(head, pool);
    assert!(is_blank(&rig, 1));
    // The others are the pool, with or without it, and any two of them are enough.
    rig.visit(|head, pool| {
        assert_eq!(in_sync(pool), [true; 3]);
        check(&rig, head, pool);
    });
    for here in [[0, 2], [2, 3], [0, 3]] {
        let part = rig.part(&here, "/elsewhere");
        let head = part.world.boot(1);
        let pool = part.open(&head).expect("two of three");
        for at in 0..FULL {
            let read = part.read(&head, &pool, at * MIB, MIB).expect("readable");
            assert!(read.iter().all(|b| *b == byte(at)), "mebibyte {at} of {here:?}");
        }
        part.cut(head, pool);
        let head = rig.world.boot(1);
        let pool = rig.open(&head).expect("opens");
        rig.pass(&head, 60);
        assert_eq!(in_sync(&pool), [true; 3]);
        rig.cut(head, pool);
    }
}

#[test]
fn slots_that_are_new_never_lie_on_a_drive_that_leaves() {
    let rig = Rig::used(102, 3);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    remove(&rig, &head, &pool, 2).expect("it leaves");
    for at in 8..FULL {
        rig.write(&head, &pool, at * MIB, MIB, byte(at));
        let state = pool.facts().state;
        let slots = state.volumes.values().flat_map(|v| v.slots.iter());
        let mut late = slots.filter(|(slot, _)| u64::from(slot.0) >= 8);
        assert!(late.all(|(_, record)| record.copies.iter().all(|c| c.member.0 != 2)));
    }
    await_gone(&rig, &head, &pool, 2);
    assert!(rig.read(&head, &pool, 0, 8 * MIB).expect("readable").iter().all(|b| *b == 7));
    rig.close(head, pool);
}

#[test]
fn a_restart_in_the_middle_goes_on_with_it() {
    let (rig, mut head, mut pool) = filled(103, 4);
    remove(&rig, &head, &pool, 0).expect("it leaves");
    let mut lives = 0;
    let mut seen = u64::MAX;
    while is_member(&pool, 0) && lives < 200 {
        rig.world.crash_at_change(25, Crash::PowerCut);
        let crashed = rig.world.pass(&head.cores, Duration::from_secs(30)).is_err();
        rig.world.crash_no_more();
        if crashed {
            drop(pool);
            rig.world.bury(head);
            head = rig.world.boot(1);
            pool = rig.open(&head).expect("opens");
            lives += 1;
            let now = used(&pool).iter().find(|(id, _)| *id == 0).map_or(0, |(_, used)| *used);
            assert!(now <= seen, "what was moved stays: {now} after {seen}");
            seen = now;
        }
    }
    assert!(lives > 2, "{lives} restarts");
    await_gone(&rig, &head, &pool, 0);
    check(&rig, &head, &pool);
    rig.close(head, pool);
}

#[test]
fn one_that_stays_after_all_gets_its_share_again() {
    let (rig, head, pool) = filled(104, 4);
    remove(&rig, &head, &pool, 3).expect("it leaves");
    let before = used(&pool)[3].1;
    while used(&pool)[3].1 == before {
        rig.world.pass(&head.cores, Duration::from_millis(2)).expect("time passes");
    }
    assert!(is_member(&pool, 3));
    let keeper = pool.clone();
    rig.on(&head, async move { keeper.keep_disk(MemberId(3)).await }).expect("it stays");
    for _ in 0..100 {
        rig.pass(&head, 1);
    }
    assert!(!pool.facts().state.spreading && pool.facts().members.iter().all(|m| !m.leaving));
    assert_eq!(used(&pool), [(0, 10), (1, 10), (2, 10), (3, 10)]);
    let keeper = pool.clone();
    let again = rig.on(&head, async move { keeper.keep_disk(MemberId(3)).await });
    assert!(matches!(again, Err(PoolError::Invalid(_))), "{again:?}");
    check(&rig, &head, &pool);
    rig.close(head, pool);
}

#[test]
fn one_that_dies_while_it_leaves_is_a_lost_drive_and_is_gone_when_its_copies_are_made_again() {
    let (rig, head, pool) = filled(105, 4);
    remove(&rig, &head, &pool, 2).expect("it leaves");
    let before = used(&pool)[2].1;
    while used(&pool)[2].1 == before {
        rig.world.pass(&head.cores, Duration::from_millis(2)).expect("time passes");
    }
    assert!(used(&pool)[2].1 > 0, "{:?}", used(&pool));
    rig.disk(2).unplug();
    rig.write(&head, &pool, 0, MIB, byte(0));
    rig.pass(&head, 60);
    assert_eq!(in_sync(&pool), [true, true, false, true]);
    rig.pass(&head, 900);
    await_gone(&rig, &head, &pool, 2);
    check(&rig, &head, &pool);
    rig.close(head, pool);
    // It names the pool still, and the pool does not know it.
    rig.disk(2).plug();
    rig.visit(|head, pool| {
        rig.pass(head, 30);
        assert_eq!(in_sync(pool), [true; 3]);
        check(&rig, head, pool);
    });
}

#[test]
fn one_that_is_away_for_a_moment_while_it_leaves_goes_on_leaving() {
    let (rig, head, pool) = filled(106, 4);
    remove(&rig, &head, &pool, 2).expect("it leaves");
    rig.disk(2).unplug();
    rig.write(&head, &pool, 0, MIB, byte(0));
    rig.pass(&head, 5);
    rig.disk(2).plug();
    await_gone(&rig, &head, &pool, 2);
    check(&rig, &head, &pool);
    rig.close(head, pool);
    assert!(is_blank(&rig, 2));
}

#[test]
fn a_drive_without_which_there_is_no_room_stays_and_nothing_is_changed() {
    let (rig, head, pool) = filled(107, 2);
    let changes = rig.world.changes();
    let refused = remove(&rig, &head, &pool, 1);
    assert!(matches!(refused, Err(PoolError::TooFewWithout { copies: 2, drives: 1, .. })), "{refused:?}");
    assert_eq!(rig.world.changes(), changes);
    rig.close(head, pool);
    // Three of 74 extents each; two of them have room for 74 slots.
    let (rig, head, pool) = filled(110, 3);
    fill_more(&rig, &head, &pool, 60);
    let refused = remove(&rig, &head, &pool, 1);
    let Err(PoolError::NoRoomWithout { held, fits, short, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((held.0 - fits.0, short.0), (12 * MIB, 12 * MIB), "80 slots are six too many");
    assert!(pool.facts().members.iter().all(|m| !m.leaving) && !pool.facts().state.spreading);
    // With less of it there is room.
    let gone = pool.clone();
    rig.on(&head, async move { gone.destroy_volume("more").await }).expect("destroyed");
    remove(&rig, &head, &pool, 1).expect("it leaves");
    await_gone(&rig, &head, &pool, 1);
    check(&rig, &head, &pool);
    rig.close(head, pool);
}

#[test]
fn a_drive_that_was_taken_out_can_be_added_again_under_a_new_number() {
    let (rig, head, pool) = filled(108, 3);
    remove(&rig, &head, &pool, 2).expect("it leaves");
    await_gone(&rig, &head, &pool, 2);
    assert_eq!(pool.facts().votes.total, 3, "two and the witness");
    let (core, grown, path) = (head.core(0).clone(), pool.clone(), rig.disks[2].clone());
    rig.on(&head, async move { grown.add_disks(&core, &[(path, "again".into())]).await }).expect("added");
    assert!(is_member(&pool, 3) && !is_member(&pool, 2));
    for _ in 0..100 {
        rig.pass(&head, 1);
    }
    assert_eq!(used(&pool).len(), 3);
    check(&rig, &head, &pool);
    rig.close(head, pool);
    rig.visit(|head, pool| check(&rig, head, pool));
}

#[test]
fn one_that_was_said_to_be_dead_is_gone_when_its_copies_are_made_again() {
    let (rig, head, pool) = filled(109, 4);
    rig.disk(0).unplug();
    rig.write(&head, &pool, 0, MIB, byte(0));
    rig.pass(&head, 60);
    let dead = pool.clone();
    rig.on(&head, async move { dead.declare_dead(MemberId(0)).await }).expect("it is lost");
    await_gone(&rig, &head, &pool, 0);
    assert_eq!((in_sync(&pool), pool.facts().votes.total), (vec![true; 3], 3));
    check(&rig, &head, &pool);
    rig.close(head, pool);
}

/// A drive that falls silent at any moment of its way out keeps clients waiting no longer than any other.
#[test]
fn clients_do_not_wait_long_for_a_drive_that_hangs_while_it_leaves() {
    for at_us in (0..1200).step_by(60) {
        let rig = Rig::used(700 + at_us, 3);
        let head = rig.world.boot(1);
        let pool = rig.open(&head).expect("opens");
        let (core, remover) = (head.core(0).clone(), pool.clone());
        rig.on(&head, async move {
            remover.remove_disk(MemberId(1)).await.expect("it leaves");
            while remover.facts().members.iter().any(|m| m.id.0 == 1 && m.used.0 > 0) {
                core.sleep(Duration::from_micros(20)).await;
            }
            core.sleep(Duration::from_micros(at_us)).await;
        });
        rig.disk(1).hang();
        let writer = rig.handle(&head, &pool);
        let took = rig.on(&head, async move {
            let begun = writer.core().now();
            put(&writer, 12 * MIB, MIB, 3).await.expect("written");
            writer.core().now().since(begun)
        });
        assert!(took < Duration::from_secs(10), "{took:?} with a drive that hangs after {at_us} us");
        rig.disk(1).release();
        rig.pass(&head, 100);
        rig.check(&head, &pool);
        rig.close(head, pool);
    }
}

/// A new drive of so many megabytes in the place of a member.
fn replace(rig: &mut Rig, head: &Process, pool: &Pool, member: u16, mb: u64) -> Result<(), PoolError> {
    let path = PathBuf::from("/dev/new");
    if rig.world.find_disk(&path).is_none() {
        rig.world.add_disk(&path, DiskShape::flash(ByteLen(mb * 1_000_000)));
        rig.disks.push(path.clone());
    }
    let (core, pool) = (head.core(0).clone(), pool.clone());
    rig.on(head, async move { pool.replace_disk(&core, MemberId(member), &(path, "new".into())).await })
}

#[test]
fn a_drive_that_is_there_is_replaced_by_copying_straight_to_the_new_one() {
    let (mut rig, head, pool) = filled(111, 3);
    let before = used(&pool);
    replace(&mut rig, &head, &pool, 1, 80).expect("replaced");
    assert!(pool.facts().members.iter().any(|m| m.id.0 == 1 && m.leaving));
    await_gone(&rig, &head, &pool, 1);
    assert_eq!(used(&pool), [before[0], before[2], (3, before[1].1)], "nothing else was moved");
    assert_eq!((in_sync(&pool), pool.facts().votes.total), (vec![true; 3], 3));
    check(&rig, &head, &pool);
    rig.close(head, pool);
    assert!(is_blank(&rig, 1));
    rig.visit(|head, pool| check(&rig, head, pool));
}

#[test]
fn two_drives_can_be_replaced_although_neither_could_be_taken_out() {
    let (mut rig, head, pool) = filled(112, 2);
    replace(&mut rig, &head, &pool, 0, 80).expect("replaced");
    await_gone(&rig, &head, &pool, 0);
    assert_eq!(used(&pool), [(1, FULL), (2, FULL)]);
    check(&rig, &head, &pool);
    rig.close(head, pool);
}

#[test]
fn a_drive_that_is_gone_is_replaced_by_making_its_copies_again() {
    let (mut rig, head, pool) = filled(113, 2);
    rig.disk(0).unplug();
    rig.write(&head, &pool, 0, MIB, byte(0));
    rig.pass(&head, 30);
    replace(&mut rig, &head, &pool, 0, 80).expect("replaced");
    await_gone(&rig, &head, &pool, 0);
    assert_eq!(used(&pool), [(1, FULL), (2, FULL)]);
    check(&rig, &head, &pool);
    rig.close(head, pool);
    rig.disk(0).plug();
    rig.visit(|head, pool| {
        assert_eq!(in_sync(pool), [true; 2]);
        check(&rig, head, pool);
    });
}

#[test]
fn a_replacement_that_cannot_be_done_changes_nothing() {
    let (mut rig, head, pool) = filled(114, 2);
    fill_more(&rig, &head, &pool, 50);
    let refused = replace(&mut rig, &head, &pool, 1, 70);
    assert!(matches!(refused, Err(PoolError::NoRoomWithout { .. })), "{refused:?}");
    assert!(matches!(replace(&mut rig, &head, &pool, 9, 70), Err(PoolError::Invalid(_))));
    assert_eq!(used(&pool), [(0, 70), (1, 70)]);
    assert!(pool.facts().members.iter().all(|m| !m.leaving) && !pool.facts().state.spreading);
    rig.close(head, pool);
    assert!(is_blank(&rig, 2), "the new one was not touched");
}
