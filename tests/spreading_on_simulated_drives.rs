//! Slots that move to drives that were added: where they lie in the end, what clients notice, what a restart and a lost
//! drive do to it.

#[path = "shared/payload.rs"]
mod payload;
#[allow(dead_code)] // It has more than is needed here.
#[path = "metadata/rig.rs"]
mod rig;

use drystone::base::units::ByteLen;
use drystone::pool::Pool;
use drystone::sim::{DiskShape, Process};
use drystone::volume::{Handle, Volume};
use rig::{MIB, Rig, in_sync, put};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Mebibytes in the volume `data`, and the byte of the mebibyte at `at`.
const FULL: u64 = 20;

fn byte(at: u64) -> u8 {
    u8::try_from(at % 251 + 1).unwrap()
}

/// Two drives with twenty slots of two copies, and more drives of so many megabytes that are added; open.
fn grown(seed: u64, sizes_mb: &[u64]) -> (Rig, Process, Pool) {
    let mut rig = Rig::used(seed, 2);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    for at in 0..FULL {
        rig.write(&head, &pool, at * MIB, MIB, byte(at));
    }
    let mut new = Vec::new();
    for (i, mb) in sizes_mb.iter().enumerate() {
        let path = PathBuf::from(format!("/dev/new{i}"));
        rig.world.add_disk(&path, DiskShape::flash(ByteLen(mb * 1_000_000)));
        new.push((path.clone(), path.display().to_string()));
        rig.disks.push(path);
    }
    let (core, grown) = (head.core(0).clone(), pool.clone());
    rig.on(&head, async move { grown.add_disks(&core, &new).await }).expect("added");
    (rig, head, pool)
}

fn used(pool: &Pool) -> Vec<u64> {
    pool.facts().members.iter().map(|m| m.used.0 / MIB).collect()
}

fn await_spread(rig: &Rig, head: &Process, pool: &Pool) {
    for _ in 0..1000 {
        if !pool.facts().state.spreading {
            return;
        }
        rig.pass(head, 1);
    }
    panic!("slots are not spread: {:?}", used(pool));
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

#[test]
fn every_drive_is_filled_in_proportion_to_its_size_and_every_byte_is_where_it_was() {
    let (rig, head, pool) = grown(91, &[160, 80]);
    await_spread(&rig, &head, &pool);
    // Forty copies on 74, 74, 152 and 74 extents.
    assert_eq!(used(&pool), [8, 8, 16, 8]);
    check(&rig, &head, &pool);
    let state = pool.facts().state;
    let pairs: BTreeSet<Vec<u16>> = state
        .volumes
        .values()
        .flat_map(|v| v.slots.values())
        .map(|slot| {
            let mut pair: Vec<u16> = slot.copies.iter().map(|c| c.member.0).collect();
            pair.sort_unstable();
            pair
        })
        .collect();
    assert!(pairs.len() >= 4, "{pairs:?}");
    rig.close(head, pool);
    rig.visit(|head, pool| {
        rig.pass(head, 30);
        assert_eq!(used(pool), [8, 8, 16, 8], "what is spread stays where it is");
        check(&rig, head, pool);
    });
}

#[test]
fn writes_that_come_meanwhile_are_on_every_copy() {
    let (rig, head, pool) = grown(92, &[80, 80]);
    let writer = handle(&pool, &head);
    let mut round = 0u64;
    while pool.facts().state.spreading {
        round += 1;
        let (writer, at) = (writer.clone(), round * 7 % FULL);
        rig.on(&head, async move {
            // The same bytes again: what they are is known whenever it is looked at.
            put(&writer, at * MIB, MIB, byte(at)).await.expect("written");
            writer.core().sleep(std::time::Duration::from_millis(3)).await;
        });
        assert!(round < 100_000, "spreading ends although clients go on");
    }
    assert_eq!(used(&pool), [10; 4]);
    check(&rig, &head, &pool);
    // Each drive has what the others do not need to give.
    rig.cut(head, pool);
    for away in 0..4 {
        let here: Vec<usize> = (0..4).filter(|i| *i != away).collect();
        let part = rig.part(&here, "/state");
        let head = part.world.boot(1);
        let pool = part.open(&head).expect("three of four and the witness");
        for at in 0..FULL {
            let read = part.read(&head, &pool, at * MIB, MIB).expect("readable");
            assert!(read.iter().all(|b| *b == byte(at)), "mebibyte {at} without drive {away}");
        }
        drop(pool);
        rig.world.bury(head);
        let head = rig.world.boot(1);
        let pool = rig.open(&head).expect("opens");
        rig.pass(&head, 60);
        assert_eq!(in_sync(&pool), [true; 4]);
        rig.cut(head, pool);
    }
}

#[test]
fn a_restart_in_the_middle_goes_on_with_it() {
    let (rig, mut head, mut pool) = grown(93, &[80, 80]);
    let mut lives = 0;
    let mut seen = used(&pool)[2];
    while pool.facts().state.spreading && lives < 200 {
        rig.world.crash_at_change(40, drystone::sim::Crash::PowerCut);
        let crashed = rig.world.pass(&head.cores, std::time::Duration::from_secs(30)).is_err();
        rig.world.crash_no_more();
        if crashed {
            drop(pool);
            rig.world.bury(head);
            head = rig.world.boot(1);
            pool = rig.open(&head).expect("opens");
            lives += 1;
            let now = used(&pool)[2];
            assert!(now >= seen, "what was moved stays: {now} after {seen}");
            seen = now;
        }
    }
    assert!(lives > 2, "{lives} restarts");
    assert_eq!(used(&pool), [10; 4]);
    check(&rig, &head, &pool);
    rig.close(head, pool);
}

#[test]
fn a_drive_that_is_lost_meanwhile_comes_first() {
    let (rig, head, pool) = grown(94, &[80, 80]);
    rig.disk(1).unplug();
    rig.write(&head, &pool, 0, MIB, byte(0));
    let before = used(&pool);
    rig.pass(&head, 120);
    let facts = pool.facts();
    assert_eq!(in_sync(&pool), [true, false, true, true]);
    assert!(facts.state.spreading);
    assert!(
        used(&pool).iter().zip(&before).all(|(now, before)| now.abs_diff(*before) <= 1),
        "{:?}",
        used(&pool)
    );
    rig.disk(1).plug();
    await_spread(&rig, &head, &pool);
    assert_eq!((in_sync(&pool), used(&pool)), (vec![true; 4], vec![10; 4]));
    check(&rig, &head, &pool);
    rig.close(head, pool);
}

#[test]
fn progress_tells_how_much_is_moved_and_how_fast() {
    let (rig, head, pool) = grown(95, &[80, 80]);
    let mut seen = Vec::new();
    while pool.facts().state.spreading && seen.len() < 10_000 {
        rig.world.pass(&head.cores, std::time::Duration::from_millis(2)).expect("time passes");
        seen.extend(pool.shared().spread_progress.underway(head.core(0).now()));
    }
    assert!(seen.iter().all(|p| p.total == ByteLen(20 * MIB)), "{seen:?}");
    assert!(seen.is_sorted_by_key(|p| p.done) && seen.iter().any(|p| p.done.0 > 0 && p.rate > 0), "{seen:?}");
    assert_eq!(pool.shared().spread_progress.underway(head.core(0).now()), None);
    rig.close(head, pool);
}
