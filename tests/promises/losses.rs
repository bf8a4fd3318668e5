//! More drives are lost than copies bear: what is gone is told exactly, everything else goes on, and what was gone is there
//! again when a drive is.

use super::rig::{BLOCK, MIB, Rig, SIZE, expect, get, put, write};
use drystone::base::units::Span;
use drystone::block::Status;
use std::collections::BTreeSet;

/// A block every so many bytes is looked at.
const STEP: u64 = 64 << 10;
const SKIP: usize = 64 << 10;

fn byte(at: u64) -> u8 {
    u8::try_from(at / STEP % 250 + 1).unwrap()
}

/// Blocks of the volume in these ranges, at every step.
fn steps(ranges: &[Span]) -> BTreeSet<u64> {
    let within = |at: &u64| ranges.iter().any(|r| (r.offset().0..r.end().0).contains(at));
    (0..SIZE).step_by(SKIP).filter(within).collect()
}

#[test]
fn two_drives_of_five_are_lost_and_exactly_what_only_they_had_is_gone() {
    for checksums in [false, true] {
        let (rig, live) = Rig::with(1400, 5, 2, checksums);
        rig.run(&live, async |volume| {
            for at in (0..SIZE).step_by(SKIP) {
                put(&volume, at, BLOCK, byte(at)).await;
            }
            volume.flush().await.expect("flushed");
        });
        let only_there = |at: u64| rig.places(&live, at).iter().all(|(disk, _)| [1, 3].contains(disk));
        let wanted: BTreeSet<u64> = (0..SIZE).step_by(SKIP).filter(|at| only_there(*at)).collect();
        assert!(
            !wanted.is_empty() && wanted.len() < 128,
            "some slots are on just these two: {}",
            wanted.len()
        );
        rig.close(live);
        [1, 3].iter().for_each(|i| rig.disk(*i).unplug());

        let live = rig.open();
        let told = live.pool.unavailable("data", 1000);
        assert!(!told.more);
        assert_eq!(steps(&told.ranges), wanted, "what is told is what lies there");
        let sum: u64 = told.ranges.iter().map(|r| r.len().0).sum();
        assert_eq!(sum, live.pool.facts().volumes[0].unavailable.0);
        let gone = wanted.clone();
        rig.run(&live, async move |volume| {
            for at in (0..SIZE).step_by(SKIP) {
                if gone.contains(&at) {
                    assert_eq!(volume.read(Span::at(at, BLOCK)).await.err(), Some(Status::Io), "{at}");
                    assert_eq!(write(&volume, at, BLOCK, 251, false).await, Err(Status::Io), "{at}");
                } else {
                    expect(&volume, at, BLOCK, byte(at)).await;
                    put(&volume, at + BLOCK, BLOCK, 252).await;
                }
            }
            volume.flush().await.expect("what could be written is durable");
            // Where data is can be asked for everywhere: what is gone counts as data.
            let mut at = 0;
            while at < SIZE {
                let asked = Span::at(at, SIZE - at);
                let answer = volume.allocation(asked, 64).await.expect("no error, whatever is gone");
                at = answer.span.end().0;
            }
        });
        rig.close(live);

        [1, 3].iter().for_each(|i| rig.disk(*i).plug());
        let live = rig.open();
        rig.wait(&live, || Rig::all_in_sync(&live));
        assert!(live.pool.unavailable("data", 1000).ranges.is_empty());
        rig.run(&live, async move |volume| {
            for at in (0..SIZE).step_by(SKIP) {
                expect(&volume, at, BLOCK, byte(at)).await;
                let beside = if wanted.contains(&at) { 0 } else { 252 };
                let bytes = get(&volume, at + BLOCK, BLOCK).await;
                assert!(bytes.iter().all(|b| *b == beside), "{at}");
            }
        });
        rig.close(live);
    }
}

#[test]
fn what_is_gone_can_be_all_of_a_volume_with_one_copy() {
    let (rig, live) = Rig::new(1410, 3, 1);
    rig.run(&live, async |volume| {
        put(&volume, 0, 8 * MIB, 7).await;
        volume.flush().await.expect("flushed");
    });
    rig.close(live);
    rig.disk(0).unplug();
    let live = rig.open();
    let told = live.pool.unavailable("data", 1000);
    assert!(!told.ranges.is_empty());
    let few = live.pool.unavailable("data", 1);
    assert_eq!((few.ranges.len(), few.more), (1, told.ranges.len() > 1));
    rig.run(&live, async move |volume| {
        for at in (0..8 * MIB).step_by(SKIP) {
            let gone = told.ranges.iter().any(|r| (r.offset().0..r.end().0).contains(&at));
            assert_eq!(volume.read(Span::at(at, BLOCK)).await.is_err(), gone, "{at}");
        }
    });
    rig.close(live);
    rig.disk(0).plug();
    let live = rig.open();
    rig.run(&live, async |volume| expect(&volume, 0, 8 * MIB, 7).await);
    rig.close(live);
}
