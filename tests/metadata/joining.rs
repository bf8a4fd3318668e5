//! Drives that join a pool: what is there after it, after every crash on the way, and without some of them.

use crate::rig::{MIB, Rig, SIZE, in_sync, restore};
use drystone::base::units::{ByteLen, ByteOffset};
use drystone::pool::{Pool, PoolError};
use drystone::sim::{Crash, DiskShape, Process, Stop};
use std::path::PathBuf;

/// The rig with more drives than the pool has members.
fn with_spares(mut rig: Rig, spares: usize) -> (Rig, Vec<PathBuf>) {
    let have = rig.disks.len();
    let paths: Vec<PathBuf> = (have..have + spares).map(|i| PathBuf::from(format!("/dev/d{i}"))).collect();
    for path in &paths {
        rig.world.add_disk(path, DiskShape::flash(ByteLen(SIZE)));
    }
    rig.disks.extend(paths.iter().cloned());
    (rig, paths)
}

fn add(rig: &Rig, head: &Process, pool: &Pool, paths: &[PathBuf]) -> Result<(), PoolError> {
    try_add(rig, head, pool, paths).expect("no crash")
}

fn try_add(rig: &Rig, head: &Process, pool: &Pool, paths: &[PathBuf]) -> Result<Result<(), PoolError>, Stop> {
    let (core, pool) = (head.core(0).clone(), pool.clone());
    let disks: Vec<(PathBuf, String)> = paths.iter().map(|p| (p.clone(), p.display().to_string())).collect();
    rig.try_on(head, async move { pool.add_disks(&core, &disks).await })
}

fn usable(pool: &Pool) -> u64 {
    pool.facts().usable[1].0
}

#[test]
fn a_pool_is_larger_at_once_and_stays_so_over_a_power_cut() {
    let (rig, new) = with_spares(Rig::used(81, 2), 2);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    let before = usable(&pool);
    add(&rig, &head, &pool, &new).expect("added");
    assert_eq!((usable(&pool), pool.facts().votes.total), (2 * before, 5));
    // Room for more than two drives had.
    rig.write(&head, &pool, 8 * MIB, 12 * MIB, 9);
    rig.cut(head, pool);
    rig.visit(|head, pool| {
        assert_eq!(in_sync(pool), [true; 4]);
        assert_eq!(usable(pool), 2 * before);
        assert!(rig.read(head, pool, 0, 8 * MIB).expect("readable").iter().all(|b| *b == 7));
        assert!(rig.read(head, pool, 8 * MIB, 12 * MIB).expect("readable").iter().all(|b| *b == 9));
    });
}

#[test]
fn without_some_of_the_new_drives_the_pool_opens_as_without_any_others() {
    let (rig, new) = with_spares(Rig::used(82, 3), 2);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    add(&rig, &head, &pool, &new).expect("added");
    rig.close(head, pool);
    let head = rig.world.boot(1);
    let most = rig.part(&[0, 1, 2], "/state");
    let pool = most.open(&head).expect("three of five");
    assert_eq!(in_sync(&pool), [true, true, true, false, false]);
    most.check(&head, &pool);
    most.close(head, pool);
    let error = rig.part(&[0, 1], "/state").refused(false).to_string();
    assert!(error.contains("only 2 of 5 votes") && error.contains("/dev/d3, /dev/d4"), "{error}");
    rig.visit(|head, pool| {
        rig.pass(head, 30);
        assert_eq!(in_sync(pool), [true; 5]);
    });
}

#[test]
fn drives_that_cannot_join_are_refused_and_nothing_is_changed() {
    let (rig, new) = with_spares(Rig::used(83, 2), 1);
    let small = PathBuf::from("/dev/small");
    rig.world.add_disk(&small, DiskShape::flash(ByteLen(10 * MIB)));
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    let changes = rig.world.changes();
    let refused = |paths: &[PathBuf]| add(&rig, &head, &pool, paths).expect_err("refused");
    assert!(matches!(refused(&[new[0].clone(), small.clone()]), PoolError::TooSmall { .. }));
    assert!(matches!(refused(&["/dev/none".into()]), PoolError::Open { .. }));
    assert!(matches!(refused(&[rig.disks[0].clone()]), PoolError::Busy { .. }));
    assert!(matches!(refused(&[new[0].clone(), new[0].clone()]), PoolError::Busy { .. }));
    assert_eq!((rig.world.changes(), in_sync(&pool)), (changes, vec![true; 2]));
    // One that is a member and away.
    rig.close(head, pool);
    let head = rig.world.boot(1);
    let part = rig.part(&[0], "/state");
    let pool = part.open(&head).expect("one and the witness");
    let error = add(&rig, &head, &pool, &[rig.disks[1].clone()]).expect_err("refused").to_string();
    assert!(error.ends_with("is a member of this pool"), "{error}");
    part.close(head, pool);
    rig.visit(|head, pool| rig.check(head, pool));
}

/// A crash at every change of the addition: the pool has the old members or the new ones, all of them in sync, with every
/// byte, and without any one drive just so; what did not join can be added again.
#[test]
fn an_addition_cut_off_at_any_change_leaves_the_old_members_or_the_new_ones() {
    let (cut, kill) = (Crash::PowerCut, Crash::Kill);
    for (have, spares, crash) in [(2, 1, cut), (2, 2, kill), (3, 1, kill), (3, 2, cut)] {
        let (rig, new) = with_spares(Rig::used(84, have), spares);
        let start = rig.images();
        for nth in 1.. {
            restore(&start);
            let head = rig.world.boot(1);
            let pool = rig.open(&head).expect("opens");
            rig.world.crash_at_change(nth, crash);
            let ended = try_add(&rig, &head, &pool, &new);
            rig.world.crash_no_more();
            drop(pool);
            rig.world.bury(head);
            let crashed = ended.is_err();
            let after = rig.images();
            for away in 0..=rig.disks.len() {
                restore(&after);
                let here: Vec<usize> = (0..rig.disks.len()).filter(|i| *i != away).collect();
                let part = rig.part(&here, "/state");
                let head = rig.world.boot(1);
                let pool = part.open(&head).unwrap_or_else(|e| panic!("{have}+{spares}, {nth}, {away}: {e}"));
                let members = pool.facts().members;
                let name = |i: usize| rig.disks[i].display().to_string();
                let out: Vec<String> =
                    members.iter().filter(|m| !m.in_sync).map(|m| m.name.clone()).collect();
                let expected: Vec<String> = if away < members.len() { vec![name(away)] } else { Vec::new() };
                assert_eq!(out, expected, "{have}+{spares}, crash {nth}, without {away}");
                assert!(crashed && members.len() == have || members.len() == have + spares);
                part.check(&head, &pool);
                if members.len() == have {
                    let rest: Vec<PathBuf> = new.iter().filter(|p| part.disks.contains(p)).cloned().collect();
                    add(&part, &head, &pool, &rest).expect("added again");
                    assert_eq!(pool.facts().members.len(), have + rest.len());
                }
                part.close(head, pool);
            }
            if !crashed {
                break;
            }
        }
    }
}

/// A drive that was to join and did not has a number that another one got since.
#[test]
fn a_drive_that_did_not_join_is_left_aside_whatever_joins_instead() {
    // What of the operations in flight happens at a kill is drawn.
    assert!((86..96).any(did_not_join), "some crash leaves a drive that names the pool");
}

/// Kills an addition at each change. True if one left a drive that names the pool and does not belong to it.
fn did_not_join(seed: u64) -> bool {
    let (rig, new) = with_spares(Rig::used(seed, 3), 2);
    let start = rig.images();
    let mut seen = false;
    for nth in 1.. {
        restore(&start);
        let head = rig.world.boot(1);
        let pool = rig.open(&head).expect("opens");
        rig.world.crash_at_change(nth, Crash::Kill);
        let ended = try_add(&rig, &head, &pool, &new[..1]);
        rig.world.crash_no_more();
        drop(pool);
        rig.world.bury(head);
        if ended.is_ok() {
            break;
        }
        let named = rig.disk(3).peek(ByteOffset(0), 8) == b"DRYSTONE";
        let head = rig.world.boot(1);
        let pool = rig.open(&head).expect("opens");
        if pool.facts().members.len() > 3 {
            rig.close(head, pool);
            continue;
        }
        seen |= named;
        add(&rig, &head, &pool, &new[1..]).expect("added");
        rig.close(head, pool);
        // With five votes, two members and the drive that has the number of a third are none.
        if named {
            let error = rig.part(&[0, 1, 3], "/elsewhere").refused(false).to_string();
            assert!(error.contains("only 2 of 5 votes"), "{error}");
        }
        rig.visit(|head, pool| {
            assert_eq!(in_sync(pool), [true; 4]);
            rig.check(head, pool);
        });
    }
    seen
}
