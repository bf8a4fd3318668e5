//! Halves, old images, twins, foreign drives, renamed and truncated ones (R22 to R27).

use crate::rig::{MIB, Rig, SIZE, in_sync, put, restore};
use drystone::base::units::{ByteLen, ByteOffset, MemberId, RegionIndex, SlotIndex};
use drystone::disk::{Disk, Patience};
use drystone::io::driver::Access;
use drystone::pool::dirty_log::{DirtyLog, Plane};
use drystone::pool::state::MemberState;
use drystone::pool::{PoolError, VolumePlan};
use drystone::sim::DiskShape;
use drystone::volume::Volume;
use std::sync::Arc;

/// Four drives used as two halves, each long enough that no log reaches back to where they parted.
fn halves() -> (Rig, Rig, Rig) {
    let rig = Rig::used(21, 4);
    let (left, right) = (rig.part(&[0, 1], "/state"), rig.part(&[2, 3], "/other"));
    for byte in 1..4 {
        left.visit(|head, pool| left.write(head, pool, 16 * MIB, MIB, byte));
    }
    assert!(matches!(right.refused(false), PoolError::NoMajority { .. }), "two of five votes");
    for byte in 11..18 {
        let head = right.world.boot(1);
        let pool = right.open_forced(&head).expect("by order");
        assert!(pool.facts().state.forced);
        right.write(&head, &pool, 16 * MIB, MIB, byte);
        right.close(head, pool);
    }
    (rig, left, right)
}

#[test]
fn r22_two_halves_are_never_both_open_and_never_merged_however_long_ago_they_parted() {
    let (rig, left, right) = halves();
    for force in [false, true] {
        assert!(matches!(rig.refused(force), PoolError::Forked { .. }));
    }
    left.visit(|head, pool| {
        assert!(left.read(head, pool, 16 * MIB, MIB).unwrap().iter().all(|b| *b == 3));
        assert!(!pool.facts().state.forced);
    });
    // A single drive of the other half among those of this one.
    assert!(matches!(rig.part(&[0, 1, 2], "/state").refused(false), PoolError::Forked { .. }));
    // What was forced stays recorded.
    let head = right.world.boot(1);
    let pool = right.open_forced(&head).expect("by order");
    assert!(pool.facts().state.forced);
    right.close(head, pool);
}

#[test]
fn r22_a_drive_of_the_other_half_that_comes_while_the_pool_is_open_is_refused() {
    let (rig, left, _) = halves();
    (2..4).for_each(|i| rig.disk(i).unplug());
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("two drives and the witness");
    (2..4).for_each(|i| rig.disk(i).plug());
    rig.pass(&head, 60);
    assert_eq!(in_sync(&pool), [true, true, false, false]);
    assert!(left.read(&head, &pool, 16 * MIB, MIB).unwrap().iter().all(|b| *b == 3));
    let reason = &pool.facts().members[2].reason;
    assert!(reason.contains("two different histories"), "{reason}");
    rig.close(head, pool);
}

#[test]
fn r23_more_openings_do_not_make_a_half_the_newer_one() {
    let (rig, left, _) = halves();
    let (own, other) = (left.replay(0).unwrap().position, rig.replay(2).unwrap().position);
    assert!(other.epoch > own.epoch, "the forced half counts more openings");
    assert!(matches!(rig.refused(false), PoolError::Forked { .. }));
}

#[test]
fn r24_an_image_from_before_a_write_is_stale_even_if_only_data_was_written_since() {
    let rig = Rig::used(24, 3);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    rig.write(&head, &pool, 0, 8 * MIB, 7);
    rig.pass(&head, 60);
    let image = rig.disk(0).snapshot();
    rig.write(&head, &pool, 0, 8 * MIB, 7);
    rig.write(&head, &pool, 0, 4 * MIB, 9);
    rig.pass(&head, 60);
    rig.cut(head, pool);
    rig.disk(0).restore(&image);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    assert!(!in_sync(&pool)[0], "it is an old image of itself");
    assert!(pool.facts().members[0].reason.contains("old image"), "{}", pool.facts().members[0].reason);
    assert!(rig.read(&head, &pool, 0, 4 * MIB).unwrap().iter().all(|b| *b == 9));
    rig.pass(&head, 300);
    assert_eq!(in_sync(&pool), [true; 3]);
    rig.close(head, pool);
    // Now it has everything: it serves without each of the others.
    let images = rig.images();
    for gone in 1..3 {
        restore(&images);
        let two = rig.part(&[0, 3 - gone], "/state");
        two.visit(|head, pool| {
            assert!(two.read(head, pool, 0, 4 * MIB).unwrap().iter().all(|b| *b == 9));
        });
    }
}

#[test]
fn r24_two_members_restored_together_are_both_old() {
    let rig = Rig::used(25, 3);
    let images = [rig.disk(0).snapshot(), rig.disk(1).snapshot()];
    rig.visit(|head, pool| rig.volume(head, pool, "later"));
    images.iter().enumerate().for_each(|(i, image)| rig.disk(i).restore(image));
    rig.visit(|_, pool| {
        assert!(pool.volume("later").is_some(), "the one that is not old decides");
        assert_eq!(in_sync(pool), [false, false, true]);
    });
}

#[test]
fn r24_an_image_from_before_a_resync_is_old() {
    let rig = Rig::used(26, 3);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    rig.disk(1).unplug();
    rig.write(&head, &pool, 0, 8 * MIB, 8);
    let image = rig.disk(1).snapshot();
    rig.disk(1).plug();
    rig.pass(&head, 300);
    assert_eq!(in_sync(&pool), [true; 3]);
    rig.cut(head, pool);
    rig.disk(1).restore(&image);
    rig.visit(|head, pool| {
        assert_eq!(in_sync(pool), [true, false, true]);
        assert!(rig.read(head, pool, 0, 8 * MIB).unwrap().iter().all(|b| *b == 8));
    });
}

/// A file that is cut and made as long as it was, in a region that is dirty: its checksums are older than its data.
#[test]
fn r24_a_drive_that_was_cut_and_is_as_long_as_before_gets_everything_anew() {
    for closed in [true, false] {
        let rig = Rig::used(33, 3);
        let head = rig.world.boot(1);
        let pool = rig.open(&head).expect("opens");
        rig.write(&head, &pool, 0, 8 * MIB, 9);
        match closed {
            true => rig.close(head, pool),
            false => rig.cut(head, pool),
        }
        let size = rig.disk(0).size();
        rig.disk(0).resize(ByteLen(size.0 / 4));
        rig.disk(0).resize(size);
        let head = rig.world.boot(1);
        let pool = rig.open(&head).expect("opens");
        let facts = pool.facts();
        assert!(!facts.members[0].in_sync);
        assert!(
            facts.members[0].reason.contains("end was overwritten or cut off"),
            "{}",
            facts.members[0].reason
        );
        assert!(rig.read(&head, &pool, 0, 8 * MIB).unwrap().iter().all(|b| *b == 9));
        rig.pass(&head, 300);
        assert_eq!(in_sync(&pool), [true; 3]);
        rig.close(head, pool);
        // Its end is written again, and it has everything.
        rig.part(&[0, 1], "/state").visit(|head, pool| {
            assert_eq!(in_sync(pool), [true, true, false]);
            assert!(rig.read(head, pool, 0, 8 * MIB).unwrap().iter().all(|b| *b == 9));
        });
    }
}

#[test]
fn r24_a_drive_that_comes_back_cut_and_as_long_as_before_gets_everything_anew() {
    let rig = Rig::used(34, 3);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    rig.write(&head, &pool, 0, 8 * MIB, 7);
    rig.disk(1).unplug();
    rig.write(&head, &pool, 0, MIB, 8);
    let size = rig.disk(1).size();
    rig.disk(1).resize(ByteLen(size.0 / 4));
    rig.disk(1).resize(size);
    rig.disk(1).plug();
    rig.pass(&head, 300);
    assert_eq!(in_sync(&pool), [true; 3]);
    rig.close(head, pool);
    rig.part(&[0, 1], "/state").visit(|head, pool| {
        assert!(rig.read(head, pool, 0, MIB).unwrap().iter().all(|b| *b == 8));
        assert!(rig.read(head, pool, MIB, 7 * MIB).unwrap().iter().all(|b| *b == 7));
    });
}

/// A mark that only one drive has, left over from before a region was cleaned; that drive is the next to lose all.
#[test]
fn r29_what_is_settled_while_a_drive_is_away_is_remembered_by_all_others() {
    let rig = Rig::blank(36, 3);
    let head = rig.world.boot(1);
    rig.create(&head);
    rig.world.bury(head);
    rig.visit(|head, pool| {
        let plan = VolumePlan {
            name: "three".into(),
            size: ByteLen(8 * MIB),
            copies: Some(3),
            unit: None,
            checksums: true,
            lba_bytes: None,
        };
        let (core, pool) = (head.core(0).clone(), pool.clone());
        rig.on(head, async move {
            pool.create_volume(&core, &plan).await.expect("created");
            let volume = Volume::in_pool(pool.volume("three").expect("exists"));
            let handle = Arc::new(volume).handle(&core);
            put(&handle, 0, MIB, 9).await.expect("written");
            handle.flush().await.expect("flushed");
        });
    });
    let state = rig.replay(0).expect("a log").state;
    let three = state.volumes.values().find(|v| v.name == "three").expect("in the log");
    let copy = three.slots[&SlotIndex(0)]
        .copies
        .iter()
        .find(|c| c.member == MemberId(0))
        .copied()
        .expect("three copies");
    let head = rig.world.boot(1);
    let (core, layout, path) = (head.core(0).clone(), rig.layout(), rig.disks[0].clone());
    rig.on(&head, async move {
        let disk = Disk::open(&core, &path, Access::Exclusive).await.expect("opens");
        let dirty = DirtyLog::load(&core, &disk, &layout).await.expect("readable");
        let region = layout.region_number(copy.extent, RegionIndex(0));
        dirty.mark(&core, &disk, Plane::Dirty, region, Patience::Alone).await.expect("marked");
        disk.close(&core).await;
    });
    rig.world.bury(head);
    rig.disk(2).unplug();
    rig.visit(|_, pool| assert_eq!(in_sync(pool), [true, true, false]));
    let size = rig.disk(0).size();
    rig.disk(0).resize(ByteLen(size.0 / 2));
    rig.disk(0).resize(size);
    rig.disk(2).plug();
    rig.visit(|head, pool| {
        rig.pass(head, 300);
        assert_eq!(in_sync(pool), [true; 3]);
        let (core, pool) = (head.core(0).clone(), pool.clone());
        let found = rig.on(head, async move { pool.scrub(&core).await }).expect("scrubbed");
        assert!(found.is_clean(), "{found:?}");
    });
}

#[test]
fn a_superblock_that_rots_is_written_again() {
    for front in [true, false] {
        let rig = Rig::used(35, 3);
        let disk = rig.disk(0);
        let at = if front { 0 } else { SIZE / 4096 * 4096 - 4096 };
        let sound = disk.peek(ByteOffset(at), 4096);
        let mut rotten = sound.clone();
        rotten[100] ^= 1;
        disk.poke(ByteOffset(at), &rotten);
        rig.visit(|_, pool| {
            assert_eq!(in_sync(pool), [true; 3], "front {front}: {}", pool.facts().members[0].reason)
        });
        assert_eq!(disk.peek(ByteOffset(at), 4096), sound);
    }
}

#[test]
fn r25_twins_are_refused_until_one_is_taken_away() {
    let mut rig = Rig::used(27, 3);
    rig.world.copy_disk("/dev/d0", "/dev/twin");
    rig.disks.push("/dev/twin".into());
    for force in [false, true] {
        assert!(matches!(rig.refused(force), PoolError::Twins(..)));
    }
    rig.world.disk("/dev/twin").unplug();
    rig.visit(|head, pool| rig.check(head, pool));
}

#[test]
fn r25_twins_that_appear_while_the_pool_is_open_are_not_taken_in() {
    let mut rig = Rig::used(28, 3);
    rig.disks.push("/dev/twin".into());
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    rig.disk(0).unplug();
    rig.write(&head, &pool, 0, MIB, 7);
    let copy = rig.world.copy_disk("/dev/d0", "/dev/twin");
    copy.plug();
    rig.disk(0).plug();
    rig.pass(&head, 100);
    let facts = pool.facts();
    assert!(!facts.members[0].in_sync);
    assert!(facts.members[0].reason.contains("claim to be the same member"), "{}", facts.members[0].reason);
    copy.unplug();
    rig.pass(&head, 4000);
    assert_eq!(in_sync(&pool), [true; 3]);
    rig.check(&head, &pool);
    rig.close(head, pool);
}

#[test]
fn r26_any_order_of_names_gives_the_same_bytes() {
    let rig = Rig::used(29, 3);
    for (a, b) in [("/dev/d0", "/dev/d1"), ("/dev/d1", "/dev/d2"), ("/dev/d0", "/dev/d2")] {
        rig.world.swap_disks(a, b);
        rig.visit(|head, pool| {
            assert_eq!(in_sync(pool), [true; 3]);
            rig.check(head, pool);
        });
    }
}

#[test]
fn r26_a_drive_put_in_the_place_of_another_while_the_pool_is_open_gets_no_write() {
    let rig = Rig::used(30, 3);
    let foreign = rig.world.add_disk("/dev/foreign", DiskShape::flash(ByteLen(80_000_000)));
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    let own = rig.disk(1);
    rig.world.swap_disks("/dev/d1", "/dev/foreign");
    own.unplug();
    rig.write(&head, &pool, 0, 8 * MIB, 8);
    rig.pass(&head, 60);
    assert_eq!(in_sync(&pool), [true, false, true]);
    assert!(foreign.peek(ByteOffset(0), 80_000_000).iter().all(|b| *b == 0), "not one byte of it changed");
    // It is found under its new name.
    own.plug();
    rig.world.swap_disks("/dev/d1", "/dev/foreign");
    rig.pass(&head, 4000);
    assert_eq!(in_sync(&pool), [true; 3]);
    rig.close(head, pool);
}

#[test]
fn r26_a_truncated_drive_is_said_to_be_truncated() {
    let rig = Rig::used(31, 3);
    rig.disk(2).resize(ByteLen(70_000_000));
    rig.visit(|head, pool| {
        let facts = pool.facts();
        assert_eq!(facts.members[2].state, MemberState::Missing);
        assert!(facts.members[2].reason.contains("truncated"), "{}", facts.members[2].reason);
        rig.check(head, pool);
    });
}

/// A file that is cut while it is in use: nothing makes it longer again, and it is not taken back as it is.
#[test]
fn r26_a_drive_that_is_cut_while_the_pool_is_open_stays_away_until_it_is_whole() {
    let rig = Rig::blank(37, 3);
    rig.world.add_disk(&rig.disks[2], DiskShape::file(ByteLen(SIZE)));
    let head = rig.world.boot(1);
    rig.create(&head);
    let pool = rig.open(&head).expect("opens");
    rig.volume(&head, &pool, "data");
    rig.write(&head, &pool, 0, 8 * MIB, 7);
    let (size, whole) = (rig.disk(2).size(), rig.disk(2).snapshot());
    rig.disk(2).resize(ByteLen(size.0 / 2));
    for _ in 0..20 {
        rig.pass(&head, 5);
        assert!(!in_sync(&pool)[2]);
        assert!(rig.disk(2).size() < size, "nobody made it longer");
    }
    rig.check(&head, &pool);
    rig.disk(2).restore(&whole);
    rig.pass(&head, 4000);
    assert_eq!(in_sync(&pool), [true; 3]);
    rig.check(&head, &pool);
    rig.close(head, pool);
}

#[test]
fn r27_a_drive_of_another_pool_is_left_alone_and_two_pools_are_told_apart() {
    let mut rig = Rig::used(32, 3);
    rig.world.add_disk("/dev/else", DiskShape::flash(ByteLen(80_000_000)));
    let other = Rig { world: rig.world.clone(), disks: vec!["/dev/else".into()], state: "/state".into() };
    let head = other.world.boot(1);
    other.create(&head);
    other.world.bury(head);
    let before = other.disk(0).peek(ByteOffset(0), 80_000_000);
    let uuid = rig.survey(0).inside.unwrap().superblock.pool;
    rig.disks.push("/dev/else".into());
    assert!(matches!(rig.refused(false), PoolError::SeveralPools(_)));
    let head = rig.world.boot(1);
    let plan = drystone::pool::OpenPlan { pool: Some(uuid), ..rig.plan(false) };
    let pool = rig.open_by(&head, &plan).unwrap().expect("opens");
    rig.check(&head, &pool);
    rig.close(head, pool);
    assert!(other.disk(0).peek(ByteOffset(0), 80_000_000) == before, "not one byte was written");
}

#[test]
fn drives_of_a_pool_that_is_gone_make_a_new_one_whose_logs_end_where_they_end() {
    let rig = Rig::blank(77, 3);
    let head = rig.world.boot(1);
    rig.create(&head);
    let pool = rig.open(&head).expect("opens");
    (0..20).for_each(|n| rig.volume(&head, &pool, &format!("old{n}")));
    rig.close(head, pool);
    // The same number of openings, and fewer commits in the last one.
    let again = rig.part(&[0, 1, 2], "/again");
    let head = rig.world.boot(1);
    again.create(&head);
    let pool = again.open(&head).expect("opens");
    again.volume(&head, &pool, "new");
    again.cut(head, pool);
    again.visit(|_, pool| {
        assert_eq!(pool.facts().volumes.len(), 1);
        assert!(pool.facts().members.iter().all(|m| m.in_sync));
    });
}
