//! What a client sees: flushes, FUA, order, neighbours, zeros, space.

use crate::rig::{BLOCK, MIB, Rig, SIZE, expect, get, put, write};
use drystone::base::units::{ByteLen, ByteOffset, Span};
use drystone::block::{Status, WriteFlags, ZeroFlags};
use drystone::disk::{Disk, Patience, Rounds};
use drystone::io::driver::Access;
use drystone::sim::{Action, DiskShape, World};
use futures_util::future::join_all;
use nix::errno::Errno;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

#[test]
fn r01_flushed_bytes_survive_a_power_cut_and_then_the_loss_of_any_drive() {
    let (rig, live) = Rig::new(1, 3, 2);
    rig.run(&live, async |volume| {
        put(&volume, 0, 3 * MIB, 1).await;
        volume.flush().await.expect("flushed");
        put(&volume, 4 * MIB, MIB, 2).await;
    });
    rig.cut(live);
    rig.without_each(|live| {
        rig.run(&live, async |volume| expect(&volume, 0, 3 * MIB, 1).await);
        rig.bury(live);
    });
}

#[test]
fn r02_a_fua_write_survives_a_power_cut_at_its_completion() {
    for seed in 0..8 {
        let (rig, live) = Rig::new(200 + seed, 2, 2);
        rig.run(&live, async |volume| write(&volume, 3 * BLOCK, 9 * BLOCK, 7, true).await).expect("written");
        rig.cut(live);
        rig.without_each(|live| {
            rig.run(&live, async |volume| expect(&volume, 3 * BLOCK, 9 * BLOCK, 7).await);
            rig.bury(live);
        });
    }
}

#[test]
fn r03_a_flush_covers_what_another_core_wrote() {
    for seed in 0..4 {
        let (rig, live) = Rig::new(300 + seed, 2, 2);
        let other = live.volume[1].clone();
        let written = async move { put(&other, 0, MIB, 3).await };
        let (cores, core) = (&live.head.cores, live.head.core(1));
        rig.world.run_on(cores, core, Duration::from_secs(60), written).expect("it ends");
        rig.run(&live, async |volume| volume.flush().await).expect("flushed");
        rig.cut(live);
        let live = rig.open();
        rig.run(&live, async |volume| expect(&volume, 0, MIB, 3).await);
        rig.close(live);
    }
}

#[test]
fn r04_who_asks_while_a_round_runs_is_served_by_one_that_starts_afterwards() {
    let world = World::new(4);
    let head = world.boot(1);
    let core = head.core(0).clone();
    let (rounds, started) = (Rc::new(Rounds::default()), Rc::new(Cell::new(0)));
    let ask = {
        let (rounds, started, core) = (rounds, started.clone(), core.clone());
        move |after: u64| {
            let (rounds, started, core) = (rounds.clone(), started.clone(), core.clone());
            async move {
                core.sleep(Duration::from_millis(after)).await;
                let before = started.get();
                let work = || async {
                    started.set(started.get() + 1);
                    core.sleep(Duration::from_millis(10)).await;
                    true
                };
                assert!(rounds.join(&core, None, work).await);
                started.get() - before
            }
        }
    };
    let all = join_all([0, 3, 5].map(ask));
    let rounds = world.run_on(&head.cores, &core, Duration::from_secs(5), all).expect("they end");
    assert_eq!(rounds, [1, 1, 1], "each saw a round start after it had asked");
    assert_eq!(started.get(), 2, "and those who wait share one");
}

/// Nobody waits longer than he would for a round of his own because somebody else has more patience.
#[test]
fn r43_who_joins_a_flush_that_takes_too_long_leaves_it() {
    let world = World::new(43);
    let head = world.boot(1);
    let core = head.core(0).clone();
    let work = async move {
        let rounds = Rc::new(Rounds::default());
        let long = || async {
            core.sleep(Duration::from_secs(60)).await;
            true
        };
        let leader = rounds.join(&core, None, long);
        let follower = async {
            core.sleep(Duration::from_secs(1)).await;
            let until = core.now() + Duration::from_secs(3);
            let good = rounds.join(&core, Some(until), || async { true }).await;
            (good, core.now().since(until))
        };
        futures_util::future::join(leader, follower).await
    };
    let limit = Duration::from_secs(100);
    let (led, (joined, beyond)) = world.run_on(&head.cores, head.core(0), limit, work).expect("ends");
    assert!(led && !joined);
    assert!(beyond < Duration::from_secs(1), "{beyond:?} too late");
}

#[test]
fn r05_a_flush_is_left_out_only_after_one_that_succeeded() {
    let world = World::new(5);
    world.add_disk("/dev/d0", DiskShape::flash(ByteLen(1_000_000)));
    let (head, handle) = (world.boot(1), world.disk("/dev/d0"));
    let core = head.core(0).clone();
    let on = core.clone();
    let ended = async move {
        let disk = Disk::open(&on, "/dev/d0".as_ref(), Access::Exclusive).await.expect("opens");
        let write = async || {
            let bytes = on.buffers().zeroes(4096);
            disk.write(&on, ByteOffset(0), bytes, false, Patience::Peers).await.expect("written");
        };
        write().await;
        assert!(!disk.is_flushed());
        disk.flush(&on, Patience::Peers).await.expect("flushed");
        assert!(disk.is_flushed());
        // There is nothing to flush: the error meets the next one.
        handle.fail_next(Action::Flush, Errno::EIO);
        disk.flush(&on, Patience::Peers).await.expect("left out");
        write().await;
        assert_eq!(disk.flush(&on, Patience::Peers).await, Err(Errno::EIO));
        assert!(!disk.is_flushed());
        assert_eq!(disk.flush(&on, Patience::Peers).await, Err(Errno::EIO), "a later one proves nothing");
        disk.close(&on).await;
    };
    world.run_on(&head.cores, &core, Duration::from_secs(60), ended).expect("it ends");
}

#[test]
fn r08_a_read_beside_writes_sees_every_block_whole() {
    let (rig, live) = Rig::new(8, 3, 2);
    rig.run(&live, async |volume| {
        let writer = async {
            for byte in 1..=60 {
                put(&volume, 0, 16 * BLOCK, byte).await;
            }
        };
        let reader = async {
            for _ in 0..200 {
                let bytes = get(&volume, 0, 16 * BLOCK).await;
                let whole = |block: &[u8]| block.iter().all(|b| *b == block[0]);
                assert!(bytes.chunks(4096).all(whole), "a block is mixed");
            }
        };
        futures_util::future::join(writer, reader).await;
    });
    rig.close(live);
}

#[test]
fn r14_a_request_that_is_refused_changes_nothing() {
    let (rig, live) = Rig::new(14, 2, 2);
    rig.run(&live, async |volume| {
        put(&volume, SIZE - BLOCK, BLOCK, 5).await;
        let past = write(&volume, SIZE - BLOCK, 2 * BLOCK, 6, false).await;
        assert_eq!(past, Err(Status::OutOfRange));
        let flags = WriteFlags::default();
        assert_eq!(volume.discard(Span::at(SIZE - BLOCK, 2 * BLOCK), flags).await, Err(Status::OutOfRange));
        expect(&volume, SIZE - BLOCK, BLOCK, 5).await;
    });
    rig.close(live);
}

#[test]
fn r15_what_was_never_written_reads_as_zeros_wherever_it_lies() {
    let (rig, live) = Rig::new(15, 2, 2);
    rig.run(&live, async |volume| {
        put(&volume, 0, SIZE, 9).await;
        volume.flush().await.expect("flushed");
        volume.discard(Span::at(0, SIZE), WriteFlags::default()).await.expect("discarded");
        // The extents are used again, one block of each.
        for at in (0..SIZE).step_by(128 << 10) {
            put(&volume, at, 512, 1).await;
        }
        volume.flush().await.expect("flushed");
    });
    rig.cut(live);
    rig.without_each(|live| {
        rig.run(&live, async |volume| {
            for at in (0..SIZE).step_by(128 << 10) {
                expect(&volume, at, 512, 1).await;
                expect(&volume, at + 512, (128 << 10) - 512, 0).await;
            }
        });
        rig.bury(live);
    });
}

#[test]
fn r16_what_was_trimmed_stays_zeros_without_any_drive() {
    let (rig, live) = Rig::new(16, 2, 2);
    rig.run(&live, async |volume| {
        put(&volume, 0, 2 * MIB, 9).await;
        volume.flush().await.expect("flushed");
        volume.discard(Span::at(MIB, 256 << 10), WriteFlags::default()).await.expect("discarded");
        volume.write_zeroes(Span::at(0, 10_000), ZeroFlags::default()).await.expect("zeroed");
        volume.flush().await.expect("flushed");
    });
    rig.cut(live);
    rig.without_each(|live| {
        rig.run(&live, async |volume| {
            expect(&volume, MIB, 256 << 10, 0).await;
            expect(&volume, 0, 10_000, 0).await;
            expect(&volume, 10_000, MIB - 10_000, 9).await;
        });
        rig.bury(live);
    });
}

/// A flush that meets a slot that is just being freed: what was discarded there before is durable all the same.
#[test]
fn r16_a_flush_waits_for_the_slot_that_is_being_freed() {
    for delay in 0..40 {
        let (rig, live) = Rig::new(160 + delay, 2, 2);
        rig.run(&live, async move |volume| {
            put(&volume, 0, MIB, 9).await;
            volume.flush().await.expect("flushed");
            volume.discard(Span::at(0, 512 << 10), WriteFlags::default()).await.expect("discarded");
            let (other, core) = (volume.clone(), volume.core().clone());
            core.spawn(async move {
                // The power goes before this is answered, or after it.
                let _ = other.discard(Span::at(512 << 10, 512 << 10), WriteFlags::default()).await;
            });
            core.sleep(Duration::from_micros(20 * delay)).await;
            volume.flush().await.expect("flushed");
        });
        rig.cut(live);
        let live = rig.open();
        rig.run(&live, async |volume| expect(&volume, 0, 512 << 10, 0).await);
        rig.bury(live);
    }
}

/// The commit that frees a slot reaches one vote of three: nobody can know whether the next opening will find the slot free.
#[test]
fn r20_nothing_is_answered_that_a_free_in_doubt_would_take_away() {
    let (rig, live) = Rig::new(201, 3, 2);
    rig.run(&live, async |volume| {
        put(&volume, 0, MIB, 9).await;
        volume.flush().await.expect("flushed");
    });
    let holders: Vec<usize> = rig.places(&live, 0).into_iter().map(|(index, _)| index).collect();
    let other = (0..3).find(|index| !holders.contains(index)).expect("two copies on three drives");
    rig.disk(other).unplug();
    rig.disk(holders[1]).fail_next(Action::Write, Errno::EIO);
    let answered = rig.run(&live, async |volume| {
        let freed = volume.discard(Span::at(0, SIZE), WriteFlags::default()).await;
        assert_eq!(freed, Err(Status::Io), "it is in doubt");
        let answered = write(&volume, 0, BLOCK, 7, true).await.is_ok();
        let _ = get(&volume, 0, BLOCK).await;
        answered
    });
    rig.cut(live);
    rig.disk(other).plug();
    let live = rig.open();
    if answered {
        rig.run(&live, async |volume| expect(&volume, 0, BLOCK, 7).await);
    }
    rig.bury(live);
}

#[test]
fn r17_a_full_pool_refuses_new_blocks_and_nothing_else() {
    let (rig, live) = Rig::new(17, 2, 2);
    let room = live.pool.facts().free[1].0;
    let live = rig.grow(live, room + 8 * MIB);
    rig.run(&live, async move |volume| {
        let mut full = 0;
        for at in (0..room + 8 * MIB).step_by(128 << 10) {
            match write(&volume, at, BLOCK, 1, false).await {
                Ok(()) => {}
                Err(Status::NoSpace) => full += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(full > 0, "it is full");
        put(&volume, 0, 64 << 10, 2).await;
        volume.write_zeroes(Span::at(0, BLOCK), ZeroFlags::default()).await.expect("zeroed");
        volume.flush().await.expect("flushed");
        expect(&volume, BLOCK, 15 * BLOCK, 2).await;
    });
    rig.close(live);
}

#[test]
fn r18_writes_to_the_sectors_of_one_block_all_survive() {
    let (rig, live) = Rig::new(18, 2, 2);
    rig.run(&live, async |volume| {
        let sector = async |n: u8| put(&volume, 20 * BLOCK + u64::from(n) * 512, 512, n + 1).await;
        for _ in 0..10 {
            join_all((0..8).map(sector)).await;
            let bytes = get(&volume, 20 * BLOCK, BLOCK).await;
            let right = |(n, part): (usize, &[u8])| part.iter().all(|b| usize::from(*b) == n + 1);
            assert!(bytes.chunks(512).enumerate().all(right));
            put(&volume, 20 * BLOCK, BLOCK, 0).await;
        }
    });
    rig.close(live);
}

#[test]
fn r35_a_size_that_was_shown_is_never_taken_back() {
    let (rig, live) = Rig::new(35, 2, 2);
    let live = rig.grow(live, 2 * SIZE);
    rig.run(&live, async |volume| write(&volume, 2 * SIZE - BLOCK, BLOCK, 4, true).await).expect("written");
    rig.cut(live);
    rig.without_each(|live| {
        assert_eq!(live.pool.facts().volumes[0].size, ByteLen(2 * SIZE));
        rig.run(&live, async |volume| expect(&volume, 2 * SIZE - BLOCK, BLOCK, 4).await);
        rig.bury(live);
    });
}
