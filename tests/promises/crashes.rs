//! Power cuts in the middle of writes, and one answer afterwards.

use crate::rig::{BLOCK, Live, MIB, Rig, expect, get, put};
use drystone::base::units::Span;
use drystone::block::{Status, WriteFlags, ZeroFlags};
use drystone::pool::dirty_log::Plane;
use drystone::sim::{Action, Crash};
use drystone::volume::Handle;
use nix::errno::Errno;
use std::time::Duration;

const SECTORS: u64 = 64;

/// Sectors written and flushed as 1, being written again as 2 when the power fails.
fn torn(seed: u64, at: u64, len: u64) -> Rig {
    let (rig, live) = Rig::new(seed, 2, 2);
    let core = live.head.core(0).clone();
    let volume = live.volume[0].clone();
    rig.run(&live, async |volume| {
        put(&volume, 0, SECTORS * 512, 1).await;
        volume.flush().await.expect("flushed");
    });
    let world = rig.world.clone();
    core.spawn(async move {
        // Nobody waits for the answer.
        let _ = crate::rig::write(&volume, at, len, 2, false).await;
    });
    rig.world.after(Duration::from_micros(20 + seed * 37 % 400), move |_| world.power_cut());
    let crashed = rig.world.run(&live.head.cores, Duration::from_secs(1), || false);
    assert!(crashed.is_err());
    rig.bury(live);
    rig
}

/// The values of the sectors; each must be whole.
fn sectors(rig: &Rig, live: &Live) -> Vec<u8> {
    rig.run(live, async |volume| {
        let bytes = get(&volume, 0, SECTORS * 512).await;
        let value = |sector: &[u8]| {
            assert!(sector.iter().all(|b| *b == sector[0]), "a sector is mixed");
            sector[0]
        };
        bytes.chunks(512).map(value).collect()
    })
}

#[test]
fn r06_after_a_power_cut_every_sector_of_every_copy_is_old_or_new() {
    for seed in 0..12 {
        let rig = torn(600 + seed, 0, SECTORS * 512);
        rig.without_each(|live| {
            assert!(sectors(&rig, &live).iter().all(|s| *s == 1 || *s == 2));
            rig.bury(live);
        });
    }
}

#[test]
fn r07_a_torn_sector_spares_its_flushed_neighbours() {
    for seed in 0..12 {
        let rig = torn(700 + seed, 3 * 512, 512);
        rig.without_each(|live| {
            let found = sectors(&rig, &live);
            let others = found.iter().enumerate().filter(|(n, _)| *n != 3);
            assert!(others.map(|(_, s)| *s).all(|s| s == 1), "{found:?}");
            assert!(found[3] == 1 || found[3] == 2);
            rig.bury(live);
        });
    }
}

#[test]
fn r10_an_unanswered_write_is_old_or_new_and_touches_nothing_else() {
    let mut seen = [0, 0];
    for seed in 0..12 {
        let rig = torn(1000 + seed, 8 * 512, 16 * 512);
        let live = rig.open();
        for (number, value) in sectors(&rig, &live).into_iter().enumerate() {
            assert!(value == 1 || value == 2 && (8..24).contains(&number), "sector {number} is {value}");
            seen[usize::from(value) - 1] += u32::from((8..24).contains(&number));
        }
        rig.close(live);
    }
    assert!(seen[0] > 0 && seen[1] > 0, "some are old and some are new: {seen:?}");
}

#[test]
fn r11_what_was_read_after_a_crash_is_the_answer_for_good() {
    for seed in 0..12 {
        let rig = torn(1100 + seed, 0, SECTORS * 512);
        let live = rig.open();
        let first = sectors(&rig, &live);
        rig.cut(live);
        rig.without_each(|live| {
            assert_eq!(sectors(&rig, &live), first);
            rig.bury(live);
        });
    }
}

/// A drive that failed a flush has lost some of what it reads, and nobody could commit that it did.
#[test]
fn r11_after_a_failed_flush_and_a_kill_what_was_read_is_the_answer_for_good() {
    for (kill, checksums) in (1..8).flat_map(|kill| [(kill, false), (kill, true)]) {
        let (rig, live) = Rig::with(1400 + kill, 2, 2, checksums);
        rig.run(&live, async |volume| {
            put(&volume, 0, MIB, 1).await;
            volume.flush().await.expect("flushed");
            put(&volume, 0, MIB, 2).await;
        });
        rig.disk(0).fail_next(Action::Flush, Errno::EIO);
        rig.world.crash_at_change(kill, Crash::Kill);
        let volume = live.volume[0].clone();
        live.head.core(0).spawn(async move {
            let _ = volume.flush().await;
        });
        let _ = rig.world.run(&live.head.cores, Duration::from_secs(1), || false);
        rig.world.crash_no_more();
        rig.bury(live);
        let live = rig.open();
        // Where the loss was committed it gets everything again.
        rig.wait(&live, || Rig::all_in_sync(&live));
        let first = rig.run(&live, async |volume| get(&volume, 0, MIB).await);
        rig.cut(live);
        rig.without_each(|live| {
            let now = rig.run(&live, async |volume| get(&volume, 0, MIB).await);
            assert!(now == first, "killed at change {kill}");
            rig.bury(live);
        });
    }
}

#[test]
fn r12_a_write_of_a_dead_process_does_not_come_late() {
    for seed in 0..6 {
        let (rig, live) = Rig::new(1200 + seed, 2, 2);
        for number in 0..40 {
            let volume = live.volume[0].clone();
            live.head.core(0).spawn(async move {
                let _ = crate::rig::write(&volume, number * BLOCK, BLOCK, 1, false).await;
            });
        }
        let mut turns = 0;
        rig.wait(&live, || {
            turns += 1;
            turns > 20 + seed * 40
        });
        rig.bury(live);
        let live = rig.open();
        rig.run(&live, async |volume| {
            put(&volume, 0, 40 * BLOCK, 2).await;
            for _ in 0..20 {
                volume.core().sleep(Duration::from_millis(50)).await;
                expect(&volume, 0, 40 * BLOCK, 2).await;
            }
        });
        rig.close(live);
    }
}

/// Blocks written, trimmed and zeroed for the first time since the last flush, all answered; and then a kill.
fn killed_after_answers(seed: u64, copies: u8, checksums: bool) -> Rig {
    let (rig, live) = with_answers(seed, copies, checksums);
    rig.bury(live);
    rig
}

fn with_answers(seed: u64, copies: u8, checksums: bool) -> (Rig, Live) {
    let (rig, live) = Rig::with(seed, 2, copies, checksums);
    rig.run(&live, async |volume| {
        put(&volume, 0, 8 * MIB, 1).await;
        volume.flush().await.expect("flushed");
        put(&volume, 9 * MIB, MIB, 2).await;
        put(&volume, MIB, BLOCK, 2).await;
        volume.discard(Span::at(2 * MIB, MIB), WriteFlags::default()).await.expect("trimmed");
        volume.write_zeroes(Span::at(4 * MIB + 512, MIB), ZeroFlags::default()).await.expect("zeroed");
        put(&volume, 2 * MIB + BLOCK, BLOCK, 3).await;
    });
    (rig, live)
}

async fn all_of_it_is_there(volume: &Handle) {
    expect(volume, MIB, BLOCK, 2).await;
    expect(volume, 4 * MIB, 512, 1).await;
    expect(volume, 4 * MIB + 512, MIB, 0).await;
    expect(volume, 5 * MIB + 512, 512, 1).await;
    expect(volume, 9 * MIB, MIB, 2).await;
    expect(volume, 2 * MIB, BLOCK, 0).await;
    expect(volume, 2 * MIB + BLOCK, BLOCK, 3).await;
    expect(volume, 2 * MIB + 2 * BLOCK, MIB - 2 * BLOCK, 0).await;
    expect(volume, 4 * MIB + BLOCK, MIB - BLOCK, 0).await;
    expect(volume, 15 * MIB, MIB, 0).await;
}

#[test]
fn a_kill_loses_nothing_that_was_answered() {
    for (copies, checksums) in [(1, false), (1, true), (2, false), (2, true)] {
        let rig = killed_after_answers(1300, copies, checksums);
        let live = rig.open();
        rig.run(&live, async |volume| all_of_it_is_there(&volume).await);
        // Not by another kill either, and what was read after the first one is durable.
        rig.bury(live);
        let live = rig.open();
        rig.run(&live, async |volume| all_of_it_is_there(&volume).await);
        rig.cut(live);
        let live = rig.open();
        rig.run(&live, async |volume| all_of_it_is_there(&volume).await);
        rig.close(live);
    }
}

#[test]
fn after_a_kill_and_a_power_cut_only_what_was_flushed_is_sure() {
    for (copies, checksums) in [(1, false), (2, true)] {
        let rig = killed_after_answers(1310, copies, checksums);
        rig.world.power_cut();
        let live = rig.open();
        rig.run(&live, async |volume| {
            let fresh = get(&volume, 9 * MIB, MIB).await;
            assert!(fresh.iter().all(|b| *b == 0), "its marks were in memory");
            expect(&volume, 0, MIB, 1).await;
            expect(&volume, 6 * MIB, 2 * MIB, 1).await;
        });
        rig.close(live);
    }
}

#[test]
fn after_a_kill_a_drive_that_was_away_is_not_believed_to_have_what_its_cache_held() {
    for (copies, checksums) in [(1, false), (2, false), (2, true)] {
        let rig = killed_after_answers(1320, copies, checksums);
        for disk in 0..2 {
            rig.disk(disk).unplug();
            rig.disk(disk).plug();
        }
        let live = rig.open();
        rig.run(&live, async |volume| {
            let fresh = get(&volume, 9 * MIB, MIB).await;
            assert!(fresh.iter().all(|b| *b == 0), "zeros, and not what the extent held before");
        });
        rig.close(live);
        if copies == 2 {
            // The other one has all that was answered.
            let rig = killed_after_answers(1330, copies, checksums);
            rig.disk(0).unplug();
            rig.disk(0).plug();
            rig.without_each(|live| {
                rig.run(&live, async |volume| all_of_it_is_there(&volume).await);
                rig.bury(live);
            });
        }
    }
}

#[test]
fn after_a_kill_a_bad_sector_of_the_only_whole_copy_costs_one_block() {
    for checksums in [false, true] {
        let (rig, live) = with_answers(1340, 2, checksums);
        const BAD: u64 = 9 * MIB + 5 * BLOCK;
        let places = rig.places(&live, BAD);
        rig.bury(live);
        rig.disk(0).unplug();
        rig.disk(0).plug();
        let (_, at) = places.iter().find(|(disk, _)| *disk == 1).expect("a copy on each drive");
        rig.disk(1).break_reads(Span::at(at.0, 512));
        for _ in 0..2 {
            let live = rig.open();
            rig.run(&live, async |volume| {
                expect(&volume, 9 * MIB, 5 * BLOCK, 2).await;
                let read = volume.read(Span::at(BAD, BLOCK)).await;
                assert_eq!(read.err(), Some(Status::Io), "an error, and not what the other drive has there");
                expect(&volume, BAD + BLOCK, MIB - 6 * BLOCK, 2).await;
            });
            rig.close(live);
        }
    }
}

#[test]
fn after_a_kill_the_next_flush_tells_of_answered_writes_whose_drive_is_not_there() {
    let rig = killed_after_answers(1350, 1, true);
    rig.disk(0).unplug();
    let live = rig.open();
    rig.run(&live, async |volume| {
        assert_eq!(volume.flush().await, Err(Status::Io), "some of it was on that drive");
        assert_eq!(volume.flush().await, Ok(()), "what is written from here on can be flushed");
    });
    rig.close(live);
}

#[test]
fn a_pool_that_was_closed_leaves_no_marks_behind() {
    let (rig, live) = Rig::new(1340, 2, 2);
    rig.run(&live, async |volume| put(&volume, 0, MIB, 1).await);
    assert!(live.pool.shared().kept_marks.in_use() > 0);
    rig.run(&live, async |volume| volume.flush().await.expect("flushed"));
    assert_eq!(live.pool.shared().kept_marks.in_use(), 0, "the members have them");
    rig.run(&live, async |volume| put(&volume, 0, MIB, 2).await);
    assert_eq!(live.pool.shared().kept_marks.in_use(), 0, "they have not changed");
    rig.close(live);
}

#[test]
fn r29_a_region_is_marked_on_every_copy_before_it_is_written() {
    let (rig, live) = Rig::new(29, 2, 2);
    rig.run(&live, async |volume| put(&volume, 5 * MIB, BLOCK, 1).await);
    let members = live.pool.shared().all_members();
    let marked: Vec<usize> = members.iter().map(|m| m.dirty.marked(Plane::Dirty).len()).collect();
    assert_eq!(marked, [1, 1]);
    rig.cut(live);
    // The marks were durable: the next life finds them and takes them away once the copies are equal.
    let live = rig.open();
    let members = live.pool.shared().all_members();
    assert!(members.iter().all(|m| m.dirty.marked(Plane::Dirty).is_empty()), "settled");
    rig.close(live);
}

#[test]
fn r48_a_pool_is_clean_from_its_close_to_its_next_opening() {
    let (rig, live) = Rig::new(48, 2, 2);
    assert!(!live.pool.facts().state.clean, "it is open");
    rig.run(&live, async |volume| put(&volume, 0, MIB, 1).await);
    rig.close(live);
    let volatile: u64 = (0..2).map(|i| rig.disk(i).volatile_sectors()).sum();
    assert_eq!(volatile, 0, "everything was flushed before the mark");
    rig.world.power_cut();
    let live = rig.open();
    rig.run(&live, async |volume| expect(&volume, 0, MIB, 1).await);
    rig.cut(live);
    let live = rig.open();
    assert!(!live.pool.facts().state.clean);
    rig.close(live);
}
