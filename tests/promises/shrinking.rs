//! Volumes that are made smaller: what lies beyond the end is refused or given up, is never seen again, and a crash leaves
//! the one or the other.

use super::rig::{BLOCK, MIB, Rig, SIZE, expect, get, put, write};
use drystone::base::units::{ByteLen, ByteOffset, Span};
use drystone::block::{Status, WriteFlags};
use drystone::pool::PoolError;
use drystone::sim::Crash;

const HALF: u64 = SIZE / 2;

/// Some data all over the volume, flushed; in the middle of a slot, too.
fn filled(seed: u64, drives: usize) -> (Rig, super::rig::Live) {
    let (rig, live) = Rig::new(seed, drives, 2);
    rig.run(&live, async |volume| {
        put(&volume, 0, SIZE - MIB, 1).await;
        volume.flush().await.expect("flushed");
    });
    (rig, live)
}

fn shrink(rig: &Rig, live: &super::rig::Live, size: u64, give_up: bool) -> Result<(), PoolError> {
    let (core, pool) = (live.head.core(0).clone(), live.pool.clone());
    rig.on(&live.head, async move { pool.shrink_volume(&core, "data", ByteLen(size), give_up).await })
}

fn used(live: &super::rig::Live) -> u64 {
    live.pool.volume("data").expect("exists").used().0
}

#[test]
fn what_lies_beyond_is_refused_with_its_end_and_then_given_up() {
    for drives in [2, 4] {
        let (rig, live) = filled(1500, drives);
        let before = used(&live);
        let refused = shrink(&rig, &live, HALF + 3 * BLOCK, false);
        assert!(
            matches!(&refused, Err(PoolError::DataBeyond { end, .. }) if end.0 == SIZE - MIB),
            "{refused:?}"
        );
        assert_eq!((used(&live), live.volume[0].volume().size().0), (before, SIZE), "nothing was changed");
        shrink(&rig, &live, HALF + 3 * BLOCK, true).expect("given up");
        assert_eq!(live.volume[0].volume().size().0, HALF + 3 * BLOCK);
        assert!(used(&live) < before, "its space is free");
        rig.run(&live, async |volume| {
            expect(&volume, 0, HALF + 3 * BLOCK, 1).await;
            let beyond = Span::at(HALF + 2 * BLOCK, 2 * BLOCK);
            assert_eq!(volume.read(beyond).await.err(), Some(Status::OutOfRange));
            assert_eq!(write(&volume, HALF + 3 * BLOCK, BLOCK, 9, false).await, Err(Status::OutOfRange));
        });
        rig.close(live);
        let live = rig.open();
        assert_eq!(live.volume[0].volume().size().0, HALF + 3 * BLOCK);
        let live = rig.grow(live, SIZE);
        rig.run(&live, async |volume| {
            expect(&volume, 0, HALF + 3 * BLOCK, 1).await;
            expect(&volume, HALF + 3 * BLOCK, SIZE - HALF - 3 * BLOCK, 0).await;
        });
        rig.close(live);
    }
}

#[test]
fn what_was_discarded_needs_nobody_s_permission() {
    let (rig, live) = filled(1510, 3);
    rig.run(&live, async |volume| {
        let rest = Span::at(5 * MIB, SIZE - 5 * MIB);
        volume.discard(rest, WriteFlags::default()).await.expect("discarded");
    });
    let end = {
        let (core, volume) = (live.head.core(0).clone(), live.pool.volume("data").expect("exists"));
        rig.on(&live.head, async move { volume.end_of_data(&core).await })
    };
    assert_eq!(end, Ok(ByteOffset(5 * MIB)));
    assert!(shrink(&rig, &live, 5 * MIB - BLOCK, false).is_err());
    shrink(&rig, &live, 5 * MIB, false).expect("nothing lies beyond");
    assert!(shrink(&rig, &live, 6 * MIB, true).is_err(), "that would be larger");
    rig.close(live);
}

#[test]
fn a_crash_leaves_the_old_size_or_the_new_one_and_no_old_bytes_beyond() {
    for (crash, seed) in [(Crash::Kill, 1520), (Crash::PowerCut, 1530)] {
        let mut sizes = std::collections::BTreeSet::new();
        for nth in 1.. {
            let (rig, live) = filled(seed, 3);
            rig.world.crash_at_change(nth, crash);
            let (core, pool) = (live.head.core(0).clone(), live.pool.clone());
            let cores = live.head.cores.clone();
            let ended = rig.world.run_on(&cores, &core.clone(), super::rig::LIMIT, async move {
                pool.shrink_volume(&core, "data", ByteLen(HALF + BLOCK), true).await
            });
            rig.world.crash_no_more();
            let done = matches!(ended, Ok(Ok(())));
            rig.bury(live);
            let live = rig.open();
            let size = live.volume[0].volume().size().0;
            sizes.insert(size);
            assert!(size == SIZE || size == HALF + BLOCK, "{size}");
            assert!(!done || size == HALF + BLOCK, "what was answered is done");
            let live = rig.grow(live, SIZE);
            rig.run(&live, async move |volume| {
                expect(&volume, 0, HALF + BLOCK, 1).await;
                // Given up already, or not yet.
                let beyond = get(&volume, HALF + BLOCK, SIZE - HALF - BLOCK).await;
                let kept = size == SIZE && beyond.iter().all(|b| *b <= 1);
                assert!(kept || beyond.iter().all(|b| *b == 0), "after a crash at change {nth}");
            });
            rig.close(live);
            if done {
                break;
            }
        }
        assert_eq!(sizes.len(), 2, "both happen");
    }
}

#[test]
fn writes_beyond_the_new_end_that_come_meanwhile_are_not_seen_later() {
    let (rig, live) = filled(1540, 3);
    let (core, pool) = (live.head.core(0).clone(), live.pool.clone());
    let volume = live.volume[1].clone();
    let on = live.head.core(1).clone();
    live.head.core(1).spawn(async move {
        for round in 0..200_u64 {
            // Refused from some moment on.
            let at = HALF + (round % 64) * 16 * BLOCK;
            let _ = write(&volume, at, 16 * BLOCK, 7, false).await;
            on.sleep(std::time::Duration::from_micros(20)).await;
        }
    });
    rig.on(&live.head, async move { pool.shrink_volume(&core, "data", ByteLen(HALF + BLOCK), true).await })
        .expect("shrunk");
    let live = rig.grow(live, SIZE);
    rig.run(&live, async |volume| {
        // The writer goes on, and may write again what the volume has again.
        let beyond = get(&volume, HALF + BLOCK, SIZE - HALF - BLOCK).await;
        assert!(beyond.iter().all(|b| [0, 7].contains(b)), "nothing of before");
    });
    rig.close(live);
}
