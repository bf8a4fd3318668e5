//! Faults of drives: what a client sees, what is repaired, what is final.

use crate::rig::{BLOCK, Live, MIB, Rig, expect, put, write};
use drystone::base::units::{MemberId, Span};
use drystone::block::{Status, WriteFlags};
use drystone::pool::verdict::Findings;
use drystone::reactor::sync::lock;
use drystone::sim::{Action, Damage};
use nix::errno::Errno;
use std::time::Duration;

fn filled(seed: u64) -> (Rig, Live) {
    let (rig, live) = Rig::new(seed, 2, 2);
    rig.run(&live, async |volume| {
        put(&volume, 0, 2 * MIB, 1).await;
        volume.flush().await.expect("flushed");
    });
    (rig, live)
}

fn scrub(rig: &Rig, live: Live) -> (Live, Findings) {
    let Live { head, pool, volume } = live;
    let core = head.core(0).clone();
    let (pool, found) = rig.on(&head, async move {
        let found = pool.scrub(&core).await.expect("scrubbed");
        (pool, found)
    });
    (Live { head, pool, volume }, found)
}

/// Reads everything again and again until this copy is right.
fn read_until_healed(rig: &Rig, live: &Live, right: impl Fn() -> bool) {
    for _ in 0..50 {
        rig.run(live, async |volume| {
            expect(&volume, 0, 2 * MIB, 1).await;
            volume.core().sleep(Duration::from_millis(50)).await;
        });
        if right() {
            return;
        }
    }
    panic!("it was not healed");
}

#[test]
fn r36_any_one_drive_may_go_at_any_moment() {
    for seed in 0..9 {
        let (rig, live) = Rig::new(3600 + seed, 3, 2);
        let struck = rig.disk(usize::try_from(seed % 3).expect("below 3"));
        rig.world.after(Duration::from_micros(200 + seed * 900), move |_| struck.unplug());
        rig.run(&live, async |volume| {
            for round in 0..20u64 {
                put(&volume, round * 100 * BLOCK, 100 * BLOCK, 7).await;
                volume.flush().await.expect("flushed");
            }
            expect(&volume, 0, 2000 * BLOCK, 7).await;
        });
        rig.cut(live);
        let live = rig.open();
        rig.run(&live, async |volume| expect(&volume, 0, 2000 * BLOCK, 7).await);
        rig.bury(live);
    }
}

#[test]
fn r37_rot_is_not_given_out_and_is_healed() {
    let (rig, live) = filled(37);
    let (drive, at) = rig.places(&live, 0)[0];
    rig.disk(drive).damage(Span::at(at.0, 512), Damage::Garbage);
    read_until_healed(&rig, &live, || rig.disk(drive).peek(at, 512).iter().all(|b| *b == 1));
    let facts = live.pool.facts();
    assert_eq!(facts.members.iter().map(|m| (m.checksum_errors, m.healed_blocks)).max(), Some((1, 1)));
    rig.close(live);
}

#[test]
fn r38_a_block_that_one_drive_cannot_read_is_served_and_written_again() {
    let (rig, live) = filled(38);
    let (drive, at) = rig.places(&live, 0)[0];
    rig.disk(drive).break_reads(Span::at(at.0, 4096));
    read_until_healed(&rig, &live, || live.pool.facts().members.iter().any(|m| m.healed_blocks == 1));
    let (live, found) = scrub(&rig, live);
    assert!(found.is_clean(), "{found:?}");
    rig.close(live);
}

#[test]
fn r39_a_write_that_a_drive_lost_is_found_by_the_next_scrub_and_the_newer_copy_wins() {
    let (rig, live) = filled(39);
    let (drive, at) = rig.places(&live, 0)[0];
    let old = rig.disk(drive).peek(at, 4096);
    rig.run(&live, async |volume| {
        put(&volume, 0, BLOCK, 2).await;
        volume.flush().await.expect("flushed");
    });
    rig.disk(drive).poke(at, &old);
    let (live, found) = scrub(&rig, live);
    assert_eq!((found.mismatched, found.repaired, found.lost), (1, 1, 0));
    assert!(rig.disk(drive).peek(at, 4096).iter().all(|b| *b == 2));
    rig.close(live);
}

#[test]
fn r40_of_a_misdirected_write_both_blocks_are_repaired() {
    let (rig, live) = filled(40);
    let (drive, meant) = rig.places(&live, 0)[0];
    let (_, struck) = *rig.places(&live, 8 * BLOCK).iter().find(|(d, _)| *d == drive).expect("two drives");
    let old = rig.disk(drive).peek(meant, 4096);
    rig.run(&live, async |volume| {
        put(&volume, 0, BLOCK, 2).await;
        volume.flush().await.expect("flushed");
    });
    let new = rig.disk(drive).peek(meant, 4096);
    rig.disk(drive).poke(meant, &old);
    rig.disk(drive).poke(struck, &new);
    let (live, found) = scrub(&rig, live);
    assert_eq!((found.mismatched, found.repaired, found.lost), (2, 2, 0));
    assert!(rig.disk(drive).peek(meant, 4096).iter().all(|b| *b == 2));
    assert!(rig.disk(drive).peek(struck, 4096).iter().all(|b| *b == 1));
    rig.close(live);
}

#[test]
fn r41_one_scrub_finds_every_wrong_copy_and_heals_it_whichever_it_is() {
    let (rig, live) = filled(41);
    let mut damaged = 0;
    for block in (0..512).step_by(7) {
        let places = rig.places(&live, block * BLOCK);
        let (drive, at) = places[usize::try_from(block % 2).expect("0 or 1")];
        rig.disk(drive).damage(Span::at(at.0 + 512 * (block % 8), 512), Damage::BitFlip);
        damaged += 1;
    }
    let (live, found) = scrub(&rig, live);
    assert_eq!((found.mismatched, found.repaired, found.lost), (damaged, damaged, 0));
    let (live, again) = scrub(&rig, live);
    assert!(again.is_clean(), "{again:?}");
    rig.close(live);
    rig.without_each(|live| {
        rig.run(&live, async |volume| expect(&volume, 0, 2 * MIB, 1).await);
        rig.bury(live);
    });
}

#[test]
fn r42_a_failed_flush_is_final_where_there_is_no_other_copy() {
    let (rig, live) = Rig::new(42, 1, 1);
    rig.disk(0).fail_next(Action::Flush, Errno::EIO);
    rig.run(&live, async |volume| {
        put(&volume, 0, MIB, 1).await;
        for _ in 0..3 {
            assert_eq!(volume.flush().await, Err(Status::Io), "until the pool is opened again");
        }
    });
    rig.bury(live);
    let live = rig.open();
    rig.run(&live, async |volume| write(&volume, 0, MIB, 2, true).await).expect("opened again");
    rig.close(live);
}

#[test]
fn r42_a_drive_whose_flush_failed_is_not_believed_about_what_came_before() {
    let (rig, live) = Rig::new(4200, 2, 2);
    rig.disk(0).fail_next(Action::Flush, Errno::EIO);
    rig.run(&live, async |volume| {
        put(&volume, 0, MIB, 1).await;
        volume.flush().await.expect("the other copy is durable");
    });
    rig.cut(live);
    let live = rig.open();
    rig.wait(&live, || Rig::all_in_sync(&live));
    rig.close(live);
    rig.without_each(|live| {
        rig.run(&live, async |volume| expect(&volume, 0, MIB, 1).await);
        rig.bury(live);
    });
}

#[test]
fn a_new_copy_has_its_written_marks_also_if_they_become_again_what_they_were() {
    for seed in 0..12 {
        let (rig, live) = Rig::with(4400 + seed, 3, 2, false);
        rig.run(&live, async |volume| {
            put(&volume, 0, 2 * MIB, 1).await;
            volume.flush().await.expect("flushed");
        });
        let gone = rig.places(&live, 0)[0].0;
        rig.disk(gone).unplug();
        let shared = live.pool.shared().clone();
        let Live { head, pool, volume } = live;
        let mine = volume[0].clone();
        let pool = rig.on(&head, async move {
            put(&mine, MIB, BLOCK, 1).await;
            // Not saved while the new copy is begun, and then as it was.
            mine.discard(Span::at(0, BLOCK), WriteFlags::default()).await.expect("trimmed");
            pool.declare_dead(MemberId(u16::try_from(gone).expect("three"))).await.expect("given up");
            mine.core().sleep(Duration::from_micros(500 * (seed + 1))).await;
            put(&mine, 0, BLOCK, 2).await;
            pool
        });
        let live = Live { head, pool, volume };
        rig.wait(&live, || {
            let live = lock(&shared.live);
            !live.state.extents_in_use().any(|(copy, _, _)| usize::from(copy.member.0) == gone)
        });
        drop(shared);
        rig.close(live);
        let (live, found) = scrub(&rig, rig.open());
        assert!(found.is_clean(), "seed {seed}: {found:?}");
        rig.close(live);
    }
}
