//! Torn and rotten metadata logs (R45), and recovery that is cut off (R46).

use crate::rig::{MIB, Rig, in_sync, restore};
use drystone::base::units::{ByteLen, ByteOffset, SlotIndex, Span};
use drystone::pool::PoolError;
use drystone::pool::record::{self, Header, Kind};
use drystone::pool::redundancy::stripe::Segment;
use drystone::pool::state::Change;
use drystone::pool::state_codec::emit_changes;
use drystone::pool::survey::LogEnd;
use drystone::sim::{Crash, Damage};

const SECTOR: u64 = 512;

/// The frame that a member's log would go on with: a volume more, in some sectors.
fn next_frame(rig: &Rig, disk: usize, name: &str, segments: usize) -> (ByteOffset, Vec<u8>) {
    let log = rig.replay(disk).expect("a log");
    let mut volume = log.state.volumes.values().next().expect("a volume").clone();
    volume.name = name.to_owned();
    volume.slots.clear();
    volume.segments = vec![Segment { columns: 1, stripes: 1 }; segments];
    let id = drystone::base::units::VolumeId(log.state.next_volume);
    let body = emit_changes(&[Change::VolumeCreated { id, volume }]);
    let header = Header {
        kind: Kind::Changes,
        generation: log.cursor.generation,
        epoch: log.position.epoch,
        sequence: log.position.sequence + 1,
        before: log.position.link,
        body_len: body.len() as u64,
    };
    let at = rig.logs()[disk].1.at(log.cursor);
    (at, record::emit(&header, &body, at))
}

#[test]
fn r45_a_last_frame_torn_at_any_sector_on_every_vote_is_dropped() {
    let rig = Rig::used(1, 2);
    let images = rig.images();
    let votes = rig.logs();
    let members: Vec<_> = (0..2).map(|i| next_frame(&rig, i, "torn", 200)).collect();
    let sectors = members[0].1.len() as u64 / SECTOR;
    let needed = (64 + 200 * 8) / SECTOR + 1;
    for kept in 0..needed {
        restore(&images);
        for (i, (at, frame)) in members.iter().enumerate() {
            // Any subset of sectors may be there; here the first ones, or all but the first ones.
            let part = usize::try_from(kept * SECTOR).unwrap();
            let part = if i == 0 { 0..part } else { part + 512..frame.len() };
            votes[i].0.poke(*at + ByteLen(part.start as u64), &frame[part]);
        }
        assert!(sectors >= needed);
        rig.visit(|head, pool| {
            assert!(pool.volume("torn").is_none(), "{kept} sectors");
            assert_eq!(in_sync(pool), [true, true]);
            rig.check(head, pool);
        });
    }
    // Whole on a single one: it may have been acknowledged, and it is taken.
    restore(&images);
    votes[1].0.poke(members[1].0, &members[1].1);
    rig.visit(|_, pool| assert!(pool.volume("torn").is_some()));
}

#[test]
fn r45_damage_in_any_frame_of_one_member_changes_nothing_and_is_repaired() {
    let rig = Rig::used(2, 3);
    let images = rig.images();
    let before = rig.replay(0).unwrap();
    let frames = rig.frames(0);
    assert!(frames.len() > 4, "a checkpoint and commits");
    for (n, (at, len)) in frames.iter().enumerate() {
        for damage in [Damage::Garbage, Damage::Zeroes, Damage::BitFlip] {
            restore(&images);
            let span = match damage {
                Damage::BitFlip => Span::at(at.0, 64),
                Damage::Garbage | Damage::Zeroes => Span::at(at.0, *len),
            };
            rig.disk(0).damage(span, damage);
            let log = rig.replay(0).unwrap();
            if n + 1 < frames.len() {
                assert_eq!(log.held, before.held, "frame {n}: what it had shows behind the damage");
            }
            rig.visit(|head, pool| {
                assert_eq!(in_sync(pool), [true; 3], "frame {n}, {damage:?}");
                assert_eq!(pool.facts().state.volumes, before.state.volumes);
                rig.check(head, pool);
            });
            let (repaired, other) = (rig.replay(0).unwrap(), rig.replay(1).unwrap());
            assert_eq!(repaired.position, other.position);
            assert_eq!(repaired.state, other.state);
        }
    }
}

#[test]
fn r45_a_sector_of_a_log_that_cannot_be_read_is_damage_and_not_the_end() {
    let rig = Rig::used(3, 3);
    let images = rig.images();
    let before = rig.replay(0).unwrap();
    for (at, _) in rig.frames(0) {
        restore(&images);
        rig.disk(0).heal();
        rig.disk(0).break_reads(Span::at(at.0, SECTOR));
        rig.visit(|head, pool| {
            assert_eq!(in_sync(pool), [true; 3], "at {at:?}");
            assert_eq!(pool.facts().state.volumes, before.state.volumes);
            rig.check(head, pool);
        });
    }
}

#[test]
fn r45_damage_on_all_votes_below_an_acknowledged_commit_is_refused_and_never_a_shorter_history() {
    // Without the witness, which has no vote here and would help out all the same.
    let all = Rig::used(4, 3);
    let rig = all.part(&[0, 1, 2], "/none");
    let images = rig.images();
    let before = rig.replay(0).unwrap();
    let frames = rig.frames(0);
    for (n, (at, len)) in frames.iter().enumerate().take(frames.len() - 1) {
        restore(&images);
        (0..3).for_each(|i| rig.disk(i).damage(Span::at(at.0, *len), Damage::Garbage));
        let rig = all.part(&[0, 1, 2], &format!("/none-{n}"));
        let error = rig.refused(false);
        // The checkpoint before this generation is sound still.
        assert!(matches!(error, PoolError::LogDamaged { commits: 1.., .. }), "frame {n}: {error}");
        // By order: what can be read, and that is recorded for ever.
        let head = rig.world.boot(1);
        let pool = rig.open_forced(&head).expect("opens by order");
        assert!(pool.facts().state.forced);
        rig.close(head, pool);
        let state = rig.visit(|_, pool| pool.facts().state);
        assert!(state.forced, "frame {n}");
    }
    // A last frame that is too short to be torn was there once.
    restore(&images);
    let (last, _) = frames[frames.len() - 1];
    (0..3).for_each(|i| rig.disk(i).damage(Span::at(last.0 + 60, 4), Damage::BitFlip));
    assert!(matches!(rig.refused(false), PoolError::LogDamaged { commits: 1, .. }));
    let log = rig.replay(0).unwrap();
    assert_eq!((log.position.sequence + 1, log.held), (before.position.sequence, before.held));
}

#[test]
fn r45_a_damaged_vote_and_an_old_one_are_no_majority_for_a_shorter_history() {
    let rig = Rig::used(5, 3);
    let old = rig.disk(1).snapshot();
    rig.visit(|head, pool| rig.volume(head, pool, "later"));
    let frames = rig.frames(0);
    rig.disk(1).restore(&old);
    rig.disk(0).damage(Span::at(frames[1].0.0, 4096), Damage::Garbage);
    let images = rig.images();
    let two = rig.part(&[0, 1], "/none");
    assert!(matches!(two.refused(false), PoolError::LogDamaged { .. }));
    rig.part(&[0, 1], "/state").visit(|_, pool| {
        assert!(pool.volume("later").is_some(), "the witness has no vote, and has what the damage hides");
    });
    // The third drive has what the damage hides.
    restore(&images);
    rig.visit(|head, pool| {
        assert!(pool.volume("later").is_some());
        assert_eq!(in_sync(pool), [true, false, true]);
        rig.check(head, pool);
    });
}

#[test]
fn r45_a_member_whose_whole_log_is_gone_has_no_vote_and_gets_everything_anew() {
    let rig = Rig::used(6, 3);
    let area = rig.logs()[0].1;
    rig.disk(0).damage(Span::at(area.start.0, 2 * area.generation_len.0), Damage::Garbage);
    assert!(matches!(rig.part(&[0, 1], "/state").refused(false), PoolError::NoMajority { .. }));
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("two of three");
    assert_eq!(in_sync(&pool), [false, true, true]);
    rig.check(&head, &pool);
    rig.pass(&head, 120);
    assert_eq!(in_sync(&pool), [true; 3]);
    rig.close(head, pool);
    assert!(rig.survey(0).inside.unwrap().log.is_some());
}

#[test]
fn r45_a_torn_checkpoint_leaves_the_generation_before_it() {
    let rig = Rig::used(7, 2);
    let images = rig.images();
    let inside = rig.survey(0).inside.unwrap();
    let (half, log) = inside.log.unwrap();
    let votes = rig.logs();
    let body = drystone::pool::state_codec::emit_state(&log.state);
    let (generation, offset) = (log.cursor.generation + 1, ByteLen(0));
    let header = Header {
        kind: Kind::Checkpoint,
        generation,
        epoch: log.position.epoch + 1,
        sequence: log.position.sequence + 1,
        before: 1,
        body_len: body.len() as u64,
    };
    for kept in 0..(64 + body.len() as u64).div_ceil(SECTOR) {
        restore(&images);
        for (disk, area) in &votes {
            let at = area.at(drystone::pool::log::Cursor { generation, offset });
            let frame = record::emit(&header, &body, at);
            disk.poke(at, &frame[..usize::try_from(kept * SECTOR).unwrap()]);
        }
        let end = rig.survey(0).inside.unwrap().halves[1 - half].end;
        assert!(!matches!(end, LogEnd::Damaged { .. }), "{kept} sectors: {end:?}");
        rig.visit(|head, pool| {
            assert_eq!(in_sync(pool), [true, true]);
            rig.check(head, pool);
        });
    }
}

#[test]
fn r46_an_opening_cut_off_at_any_change_and_again_in_the_next_ends_in_the_same_state() {
    let rig = Rig::used(8, 3);
    // One log is damaged, and the pool was not closed.
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    rig.write(&head, &pool, 0, MIB, 7);
    rig.cut(head, pool);
    rig.disk(0).damage(Span::at(rig.frames(0)[1].0.0, 4096), Damage::Garbage);
    let images = rig.images();
    let mut cut_off = 0;
    for nth in 1..400 {
        restore(&images);
        let crash = if nth % 2 == 0 { Crash::Kill } else { Crash::PowerCut };
        let first = open_with_crash(&rig, nth, crash);
        cut_off += u32::from(!first);
        open_with_crash(&rig, 1 + nth % 7, crash);
        rig.visit(|head, pool| {
            assert_eq!(in_sync(pool), [true; 3], "cut off at change {nth}");
            rig.check(head, pool);
        });
        if first {
            break;
        }
    }
    assert!(cut_off > 10, "{cut_off} changes were tried");
}

#[test]
fn r46_what_a_killed_opening_left_in_the_caches_is_durable_before_the_next_one_writes_over_anything() {
    let rig = Rig::used(12, 3);
    let images = rig.images();
    for (killed, cut) in (1..6).flat_map(|killed| (1..14).map(move |cut| (killed, cut))) {
        restore(&images);
        open_until(&rig, killed, Crash::Kill);
        open_with_crash(&rig, cut, Crash::PowerCut);
        rig.visit(|head, pool| {
            assert_eq!(in_sync(pool), [true; 3], "killed at change {killed}, power lost at change {cut}");
            rig.check(head, pool);
        });
    }
}

/// Opens with a crash ordered, and loses the power; true if the opening ended before it.
fn open_with_crash(rig: &Rig, nth: u64, crash: Crash) -> bool {
    let done = open_until(rig, nth, crash);
    rig.world.power_cut();
    done
}

fn open_until(rig: &Rig, nth: u64, crash: Crash) -> bool {
    let head = rig.world.boot(1);
    rig.world.crash_at_change(nth, crash);
    let opened = rig.open_by(&head, &rig.plan(false));
    rig.world.crash_no_more();
    let done = opened.is_ok();
    drop(opened);
    rig.world.bury(head);
    done
}

#[test]
fn r46_reading_a_log_twice_gives_the_same_and_changes_nothing() {
    let rig = Rig::used(9, 2);
    rig.disk(0).damage(Span::at(rig.frames(0)[2].0.0, 512), Damage::Garbage);
    let before = rig.world.changes();
    let (first, second) = (rig.replay(0).unwrap(), rig.replay(0).unwrap());
    assert_eq!((first.position, first.held, first.state), (second.position, second.held, second.state));
    assert_eq!(rig.world.changes(), before);
    let slot =
        rig.replay(1).unwrap().state.volumes.values().next().unwrap().slots.contains_key(&SlotIndex(0));
    assert!(slot);
}
