//! What a volume keeps besides its bytes, sectors and reservations, and pools of the version that knew neither.

use crate::rig::{MIB, Rig, in_sync, restore};
use drystone::base::checksum::structure_sum;
use drystone::base::units::ByteLen;
use drystone::block::{ReservationBytes, ReservationError, Status};
use drystone::pool::superblock::VERSION;
use drystone::pool::{self, Pool, PoolError, VolumePlan};
use drystone::sim::{Crash, Process};
use drystone::volume::Volume;
use futures_util::future::join_all;
use std::sync::Arc;

fn set(rig: &Rig, head: &Process, pool: &Pool, expected: u64, bytes: &[u8], durable: bool) {
    let (handle, bytes) = (rig.handle(head, pool), Arc::from(bytes));
    rig.on(head, async move { handle.set_reservations(expected, bytes, durable).await }).expect("set");
}

fn found(rig: &Rig, head: &Process, pool: &Pool) -> ReservationBytes {
    ReservationBytes::clone(&rig.handle(head, pool).reservations())
}

/// What the next start finds, whose version is 0.
fn after_power_cut(rig: &Rig, head: Process, pool: Pool) -> Vec<u8> {
    rig.cut(head, pool);
    rig.visit(|head, pool| {
        let found = found(rig, head, pool);
        assert_eq!(found.version, 0);
        found.bytes.to_vec()
    })
}

#[test]
fn durable_reservations_survive_a_power_cut_at_once() {
    let rig = Rig::used(71, 3);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    assert_eq!(found(&rig, &head, &pool), ReservationBytes { version: 0, bytes: [].into() });
    set(&rig, &head, &pool, 0, b"held by a", true);
    assert_eq!(found(&rig, &head, &pool), ReservationBytes { version: 1, bytes: (*b"held by a").into() });
    assert_eq!(after_power_cut(&rig, head, pool), b"held by a");
}

#[test]
fn other_reservations_end_with_the_process_and_take_the_kept_ones_with_them() {
    let rig = Rig::used(72, 3);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    set(&rig, &head, &pool, 0, b"held by a", true);
    set(&rig, &head, &pool, 1, b"held by b", false);
    assert_eq!(found(&rig, &head, &pool).bytes.as_ref(), b"held by b");
    assert_eq!(after_power_cut(&rig, head, pool), b"");
}

#[test]
fn what_is_not_kept_is_not_written() {
    let rig = Rig::used(73, 3);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    rig.pass(&head, 10);
    let before = rig.frames(0).len();
    for version in 0..5 {
        set(&rig, &head, &pool, version, b"held", false);
    }
    assert_eq!(rig.frames(0).len(), before);
    set(&rig, &head, &pool, 5, b"held", true);
    assert_eq!(rig.frames(0).len(), before + 1);
    rig.close(head, pool);
}

#[test]
fn of_those_who_decide_on_the_same_version_one_wins() {
    let rig = Rig::used(74, 3);
    rig.visit(|head, pool| {
        let handle = rig.handle(head, pool);
        let results = rig.on(head, async move {
            let set = |n: u8, durable| handle.set_reservations(0, [n].into(), durable);
            let mut results = join_all([set(1, true), set(2, true), set(3, false)]).await;
            results.push(handle.set_reservations(0, [4].into(), true).await);
            results
        });
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
        assert!(results.iter().all(|r| matches!(r, Ok(()) | Err(ReservationError::Raced))));
        let won = results.iter().position(Result::is_ok).unwrap();
        let won = u8::try_from(won + 1).unwrap();
        assert_eq!(found(&rig, head, pool), ReservationBytes { version: 1, bytes: [won].into() });
    });
}

#[test]
fn reservations_follow_a_volume_to_its_new_name_and_end_with_it() {
    let rig = Rig::used(75, 3);
    rig.visit(|head, pool| {
        let old = rig.handle(head, pool);
        set(&rig, head, pool, 0, b"held", true);
        let (renaming, pool) = (pool.clone(), pool.clone());
        rig.on(head, async move {
            renaming.rename_volume("data", "other").await.unwrap();
            renaming.rename_volume("other", "data").await.unwrap();
        });
        assert_eq!(found(&rig, head, &pool).bytes.as_ref(), b"held");
        let end = rig.on(head, async move {
            pool.destroy_volume("data").await.unwrap();
            old.set_reservations(1, [].into(), true).await
        });
        assert_eq!(end, Err(ReservationError::Failed(Status::ShuttingDown)));
    });
}

#[test]
fn reservations_that_no_majority_has_are_refused_and_change_nothing() {
    let rig = Rig::used(76, 3);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    (1..3).for_each(|i| rig.disk(i).unplug());
    let handle = rig.handle(&head, &pool);
    let end = rig.on(&head, async move { handle.set_reservations(0, [1].into(), true).await });
    assert_eq!(end, Err(ReservationError::Failed(Status::Io)));
    assert_eq!(found(&rig, &head, &pool), ReservationBytes { version: 0, bytes: [].into() });
    rig.cut(head, pool);
}

#[test]
fn a_volume_keeps_its_sectors_and_its_identity() {
    let rig = Rig::used(77, 3);
    let plan = |lba_bytes| VolumePlan {
        name: "large".into(),
        size: ByteLen(MIB),
        copies: Some(2),
        unit: None,
        checksums: true,
        lba_bytes,
    };
    let of = |pool: &Pool, name: &str| {
        let volume = Volume::in_pool(pool.volume(name).expect("exists"));
        assert_eq!(volume.identity().pool, pool.uuid());
        (volume.lba_bytes(), volume.identity())
    };
    let before = rig.visit(|head, pool| {
        let (core, making) = (head.core(0).clone(), pool.clone());
        let refused = rig.on(head, async move {
            making.create_volume(&core, &plan(Some(4096))).await.unwrap();
            making.create_volume(&core, &VolumePlan { name: "odd".into(), ..plan(Some(520)) }).await.err()
        });
        assert!(matches!(refused, Some(PoolError::Invalid(_))));
        [of(pool, "data"), of(pool, "large")]
    });
    assert_eq!(before.map(|(lba, identity)| (lba, identity.number)), [(512, 1), (4096, 2)]);
    assert_ne!(before[0].1.volume, before[1].1.volume);
    let after = rig.visit(|_, pool| [of(pool, "data"), of(pool, "large")]);
    assert_eq!(after, before);
}

/// Makes a member one of an older version: what it stores in its log is the same in both as long as nothing new is used.
fn make_old(rig: &Rig, disk: usize, version: u32) {
    for place in rig.layout().superblocks() {
        let mut bytes = rig.disk(disk).peek(place, 4096);
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let sum = structure_sum(&bytes[..4088]);
        bytes[4088..].copy_from_slice(&sum.to_le_bytes());
        rig.disk(disk).poke(place, &bytes);
    }
}

/// The versions of a member's superblocks, the front one first.
fn versions(rig: &Rig, disk: usize) -> Vec<u32> {
    let version = |bytes: Vec<u8>| u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    rig.layout().superblocks().into_iter().map(|at| version(rig.disk(disk).peek(at, 4096))).collect()
}

#[test]
fn a_pool_of_version_3_or_4_opens_and_is_one_of_version_5_from_then_on() {
    for version in 3..VERSION {
        let rig = Rig::used(78, 3);
        (0..3).for_each(|disk| make_old(&rig, disk, version));
        let seen = rig.survey(0).superblocks[0].content.as_ref().unwrap().version;
        assert_eq!(seen, version, "looking changes nothing");
        rig.visit(|head, pool| {
            assert!((0..3).all(|disk| versions(&rig, disk) == [VERSION; 2]));
            assert_eq!(in_sync(pool), [true; 3]);
            rig.check(head, pool);
            let handle = rig.handle(head, pool);
            assert_eq!(handle.volume().lba_bytes(), 512);
            assert_eq!(found(&rig, head, pool).bytes.as_ref(), b"");
            set(&rig, head, pool, 0, b"held", true);
        });
        rig.visit(|head, pool| assert_eq!(found(&rig, head, pool).bytes.as_ref(), b"held"));
    }
}

#[test]
fn a_member_that_was_away_becomes_one_of_version_5_when_it_comes_back() {
    for open in [false, true] {
        let rig = Rig::used(79, 3);
        (0..3).for_each(|disk| make_old(&rig, disk, 3));
        rig.disk(2).unplug();
        let head = rig.world.boot(1);
        let pool = rig.open(&head).expect("two of three");
        set(&rig, &head, &pool, 0, b"held", true);
        assert_eq!([0, 1, 2].map(|disk| versions(&rig, disk)[0]), [VERSION, VERSION, 3]);
        if open {
            rig.disk(2).plug();
            rig.pass(&head, 120);
            assert_eq!(in_sync(&pool), [true; 3]);
            rig.close(head, pool);
        } else {
            rig.cut(head, pool);
            rig.disk(2).plug();
            rig.visit(|head, pool| rig.check(head, pool));
        }
        assert_eq!(versions(&rig, 2), [VERSION; 2]);
        rig.visit(|head, pool| assert_eq!(found(&rig, head, pool).bytes.as_ref(), b"held"));
    }
}

/// Wherever the power goes while a pool of version 3 is opened and gets its first reservations, the next opening has all
/// members in sync, of the present version, and the reservations if they were acknowledged.
#[test]
fn a_power_cut_at_any_change_of_the_first_opening_costs_nothing() {
    let rig = Rig::used(80, 2);
    (0..2).for_each(|disk| make_old(&rig, disk, 3));
    let images = rig.images();
    let mut crashes = 0;
    for nth in 1.. {
        restore(&images);
        let head = rig.world.boot(1);
        rig.world.crash_at_change(nth, Crash::PowerCut);
        let plan = rig.plan(false);
        let core = head.core(0).clone();
        let ended = rig.try_on(&head, async move {
            let pool = pool::open(&core, &plan).await.expect("opens");
            let handle = Arc::new(Volume::in_pool(pool.volume("data").unwrap())).handle(&core);
            handle.set_reservations(0, (*b"held").into(), true).await.expect("set");
        });
        let acknowledged = ended.is_ok();
        rig.world.crash_no_more();
        rig.world.power_cut();
        rig.world.bury(head);
        rig.visit(|head, pool| {
            assert_eq!(in_sync(pool), [true; 2], "crash {nth}");
            rig.check(head, pool);
            let bytes = found(&rig, head, pool).bytes;
            assert!(bytes.as_ref() == b"held" || (!acknowledged && bytes.is_empty()), "crash {nth}");
        });
        assert!((0..2).all(|disk| versions(&rig, disk) == [VERSION; 2]), "crash {nth}");
        if acknowledged {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 10, "{crashes}");
}
