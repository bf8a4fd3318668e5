//! Copies and members: who is believed, what a member that was away gets, what the pool says about itself.

use crate::rig::{BLOCK, LIMIT, MIB, Rig, expect, put, write};
use drystone::base::units::ByteOffset;
use drystone::pool::PoolError;
use drystone::sim::{Action, DiskShape};
use nix::errno::Errno;
use std::time::Duration;

#[test]
fn r20_a_write_is_answered_only_when_the_copy_that_missed_it_is_out() {
    let (rig, live) = Rig::new(20, 3, 2);
    rig.run(&live, async |volume| put(&volume, 0, MIB, 1).await);
    let struck = rig.places(&live, 0)[0].0;
    rig.disk(struck).unplug();
    rig.run(&live, async |volume| {
        put(&volume, 0, MIB, 2).await;
        volume.flush().await.expect("flushed");
    });
    rig.cut(live);
    rig.disk(struck).plug();
    let live = rig.open();
    rig.run(&live, async |volume| expect(&volume, 0, MIB, 2).await);
    rig.wait(&live, || Rig::all_in_sync(&live));
    rig.close(live);
    rig.without_each(|live| {
        rig.run(&live, async |volume| expect(&volume, 0, MIB, 2).await);
        rig.bury(live);
    });
}

#[test]
fn r22_two_halves_that_were_used_apart_are_not_mixed() {
    let (rig, live) = Rig::new(22, 2, 2);
    rig.run(&live, async |volume| write(&volume, 0, MIB, 1, true).await).expect("written");
    rig.close(live);
    let half = |index: usize, folder: &str, force, byte| {
        rig.disk(1 - index).unplug();
        let head = rig.world.boot(2);
        let pool = rig.open_with(&head, &rig.disks, folder, force).expect("opens");
        let volume =
            std::sync::Arc::new(drystone::volume::Volume::in_pool(pool.volume("data").expect("made")));
        let volume = vec![volume.handle(head.core(0))];
        let live = crate::rig::Live { head, pool, volume };
        rig.run(&live, async move |volume| write(&volume, 0, MIB, byte, true).await).expect("written");
        rig.close(live);
        rig.disk(1 - index).plug();
    };
    half(0, "/state", false, 2);
    half(1, "/elsewhere", true, 3);
    match rig.try_open() {
        Err(error) => assert!(matches!(error, PoolError::Forked { .. }), "{error}"),
        Ok(live) => {
            rig.run(&live, async |volume| expect(&volume, 0, MIB, 2).await);
            rig.close(live);
        }
    }
}

#[test]
fn r26_a_drive_is_known_by_what_is_on_it() {
    let (rig, live) = Rig::new(26, 3, 2);
    rig.run(&live, async |volume| {
        put(&volume, 0, MIB, 1).await;
        put(&volume, MIB, MIB, 2).await;
    });
    rig.close(live);
    rig.world.swap_disks("/dev/d0", "/dev/d2");
    rig.world.swap_disks("/dev/d0", "/dev/d1");
    let live = rig.open();
    assert!(Rig::all_in_sync(&live));
    rig.run(&live, async |volume| {
        expect(&volume, 0, MIB, 1).await;
        expect(&volume, MIB, MIB, 2).await;
    });
    rig.close(live);
}

#[test]
fn r27_not_one_byte_of_a_foreign_drive_is_written() {
    let (mut rig, live) = Rig::new(27, 2, 2);
    rig.close(live);
    let foreign = rig.world.add_disk("/dev/foreign", DiskShape::flash(rig.disk(0).size()));
    let len = usize::try_from(foreign.size().0).expect("100 MB");
    foreign.poke(ByteOffset(0), &vec![0xa5; len / 512 * 512]);
    rig.disks.push("/dev/foreign".into());
    let live = rig.open();
    rig.run(&live, async |volume| put(&volume, 0, 4 * MIB, 1).await);
    rig.close(live);
    assert!(foreign.peek(ByteOffset(0), len / 512 * 512).iter().all(|b| *b == 0xa5));
}

#[test]
fn r28_a_second_head_is_refused_while_the_first_one_lives() {
    let (rig, live) = Rig::new(28, 2, 2);
    assert!(matches!(rig.try_open(), Err(PoolError::Busy { .. })));
    rig.run(&live, async |volume| write(&volume, 0, MIB, 1, true).await).expect("the first goes on");
    rig.bury(live);
    rig.close(rig.open());
}

#[test]
fn r30_what_is_written_during_a_resync_is_neither_lost_nor_overtaken() {
    let (rig, live) = Rig::new(30, 2, 2);
    rig.run(&live, async |volume| put(&volume, 0, 8 * MIB, 1).await);
    rig.disk(1).unplug();
    rig.run(&live, async |volume| put(&volume, 0, 8 * MIB, 2).await);
    rig.disk(1).plug();
    rig.run(&live, async |volume| {
        for round in 0..400u64 {
            put(&volume, round * 37 % 2000 * BLOCK, BLOCK, 3).await;
            volume.core().sleep(Duration::from_millis(5)).await;
        }
    });
    rig.wait(&live, || Rig::all_in_sync(&live));
    rig.run(&live, async |volume| volume.flush().await).expect("flushed");
    rig.cut(live);
    rig.without_each(|live| {
        rig.run(&live, async |volume| {
            let overwritten: Vec<u64> = (0..400u64).map(|round| round * 37 % 2000).collect();
            for block in 0..2000u64 {
                let byte = if overwritten.contains(&block) { 3 } else { 2 };
                expect(&volume, block * BLOCK, BLOCK, byte).await;
            }
        });
        rig.bury(live);
    });
}

#[test]
fn r31_writes_to_the_same_blocks_reach_all_copies_in_one_order() {
    let (rig, live) = Rig::new(31, 2, 2);
    rig.run(&live, async |volume| {
        let write = async |n: u8| put(&volume, u64::from(n % 5) * 512, 9000, n).await;
        futures_util::future::join_all((1..=60).map(write)).await;
    });
    let [first, second] = [0, 1].map(|i| {
        let (drive, at) = rig.places(&live, 0)[i];
        rig.disk(drive).peek(at, 12288)
    });
    assert!(first == second, "the copies differ");
    rig.close(live);
}

#[test]
fn r34_space_is_used_again_only_when_it_is_free_for_good() {
    for seed in 0..6 {
        let (rig, live) = Rig::new(3400 + seed, 2, 2);
        rig.run(&live, async |volume| {
            put(&volume, 0, 4 * MIB, 1).await;
            volume.flush().await.expect("flushed");
        });
        let volume = live.volume[0].clone();
        live.head.core(0).spawn(async move {
            let span = drystone::base::units::Span::at(0, 2 * MIB);
            let _ = volume.discard(span, Default::default()).await;
            let _ = write(&volume, 8 * MIB, 2 * MIB, 5, false).await;
        });
        let world = rig.world.clone();
        rig.world.after(Duration::from_micros(300 + seed * 700), move |_| world.power_cut());
        assert!(rig.world.run(&live.head.cores, Duration::from_secs(2), || false).is_err());
        rig.bury(live);
        let live = rig.open();
        rig.run(&live, async |volume| {
            // What was not discarded is untouched by whoever got the space.
            expect(&volume, 2 * MIB, 2 * MIB, 1).await;
            let old = crate::rig::get(&volume, 0, 2 * MIB).await;
            assert!(old.iter().all(|b| *b == 0 || *b == 1));
        });
        rig.close(live);
    }
}

#[test]
fn r49_everything_is_in_sync_again_although_clients_go_on() {
    let (rig, live) = Rig::new(49, 2, 2);
    rig.run(&live, async |volume| put(&volume, 0, 8 * MIB, 1).await);
    rig.disk(0).fail_next(Action::Write, Errno::EIO);
    let volume = live.volume[0].clone();
    live.head.core(0).spawn(async move {
        for round in 0..100_000u64 {
            if write(&volume, round % 2000 * BLOCK, BLOCK, 2, false).await.is_err() {
                return;
            }
            volume.core().sleep(Duration::from_millis(2)).await;
        }
    });
    rig.wait(&live, || !Rig::all_in_sync(&live));
    let begun = rig.world.now();
    rig.wait(&live, || Rig::all_in_sync(&live));
    assert!(rig.world.now().since(begun) < LIMIT / 10);
    rig.bury(live);
}

#[test]
fn r50_what_is_said_to_be_lost_with_a_drive_is_what_is_lost() {
    for copies in [1, 2] {
        let (rig, live) = Rig::new(50, 3, copies);
        rig.run(&live, async |volume| write(&volume, 0, 6 * MIB, 1, true).await).expect("written");
        let said: Vec<u64> = live.pool.facts().members.iter().map(|m| m.lost_without.0).collect();
        assert_eq!(said.iter().sum::<u64>() > 0, copies == 1, "{said:?}");
        rig.close(live);
        let lost = std::cell::RefCell::new(Vec::new());
        rig.without_each(|live| {
            lost.borrow_mut().push(live.pool.facts().volumes[0].unavailable.0);
            rig.bury(live);
        });
        assert_eq!(lost.into_inner(), said);
    }
}
