//! The figures that the design promises, and the words for them.

use super::*;
use crate::control::api::PoolReport;
use crate::disk::inspect::Holding;
use crate::io::driver::FileKind;

const GB: u64 = 1_000_000_000;

fn drive(kernel: &str, size: u64) -> Drive {
    Drive {
        name: kernel.to_owned(),
        kernel: Some(kernel.to_owned()),
        path: format!("/dev/{kernel}").into(),
        kind: FileKind::BlockDevice,
        size: ByteLen(size),
        rotational: true,
        model: None,
        serial: None,
        wwn: None,
        part_of: None,
        holdings: vec![],
    }
}

/// What the drives give is the promised figure, less what the pool keeps for itself (below 1 %).
fn close(actual: u64, promised: u64) -> bool {
    actual <= promised && actual > promised / 1000 * 990
}

#[test]
fn two_drives_give_what_the_smaller_one_has() {
    let plan = plan(&[drive("sda", 80 * GB), drive("sdb", 500 * GB)]);
    assert_eq!(plan.raw_bytes, 580 * GB);
    let usable: Vec<_> = plan.layouts.iter().map(|l| l.usable_bytes).collect();
    assert!(close(usable[0], 580 * GB) && close(usable[1], 80 * GB), "{usable:?}");
    assert_eq!(usable[2], 0);
    assert_eq!(plan.layouts[1].heals_up_to_bytes, 0, "nowhere to rebuild to");
    assert_eq!(plan.layouts[1].heal_seconds, None);
    assert!(close(plan.cannot_be_mirrored_bytes, 420 * GB));
    assert!(close(plan.would_help.unwrap().usable_bytes, 540 * GB));
}

#[test]
fn six_drives_heal_themselves_up_to_the_known_figure() {
    let mut drives = vec![drive("sda", 80 * GB)];
    drives.extend((0..5).map(|n| drive(&format!("sdb{n}"), 500 * GB)));
    let plan = plan(&drives);
    assert!(close(plan.layouts[1].usable_bytes, 1290 * GB), "{:?}", plan.layouts);
    assert!(close(plan.layouts[1].heals_up_to_bytes, 1040 * GB), "{:?}", plan.layouts);
    // 2 x 1040 GB in proportion: 403 GB on a drive of 500 GB, at 60 MB/s.
    assert!(close(plan.layouts[1].heal_seconds.unwrap(), 6720), "{:?}", plan.layouts);
    assert_eq!((plan.cannot_be_mirrored_bytes, plan.would_help), (0, None));
}

#[test]
fn every_usable_byte_is_a_whole_number_of_extents() {
    let plan = plan(&[drive("a", 81 * GB + 12_345), drive("b", 250 * GB), drive("c", 333 * GB)]);
    assert!(
        plan.layouts.iter().all(|l| l.usable_bytes > 0 && l.usable_bytes.is_multiple_of(plan.extent_bytes))
    );
}

#[test]
fn the_screen_says_what_helps_and_what_is_next() {
    let mut second = drive("sdb", 500 * GB);
    second.holdings = vec![Holding::Signature { kind: "ext4".into(), label: None }];
    let text = screen(&plan(&[drive("sda", 80 * GB), second]), &["sda".into(), "/my disks/b".into()]);
    let expected = "\
2 drives, 580.0 GB raw. Nothing was written.

DRIVE       SIZE   STATE      HOLDS
sda      80.0 GB   free       -
sdb     500.0 GB   has data   an ext4 file system

COPIES     USABLE          BYTES   SURVIVES             HEALS ITSELF AFTER LOSING THE LARGEST
1        ";
    assert!(text.starts_with(expected), "{text}");
    for line in [
        "of sdb cannot be mirrored: the other drives have no room for it.",
        "One more drive of 500.0 GB would raise mirrored space from 79.5 GB to 537.5 GB.",
        "After losing a drive you would run on one copy until you replace it.",
        "sdb holds data: `pool create` asks for --erase sdb.",
        "next: drystone pool create NAME sda '/my disks/b' --protect drive",
        "needs 1 more drive",
        "no: there is nowhere to rebuild to",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[test]
fn one_drive_alone_is_planned_without_protection() {
    let text = screen(&plan(&[drive("sda", 80 * GB)]), &["sda".into()]);
    assert!(text.contains("--protect none") && text.contains("needs 1 more drive"), "{text}");
    assert!(text.contains("One more drive of 80.0 GB would raise mirrored space from 0 B to 79."), "{text}");
}

#[test]
fn a_drive_that_is_too_small_is_not_counted() {
    let plan = plan(&[drive("sda", 80 * GB), drive("tiny", 1 << 20)]);
    assert_eq!((plan.drives[1].standing, plan.drives[1].extents), (State::TooSmall, 0));
    assert_eq!(plan.layouts[1].usable_bytes, 0);
}

/// The story: 80 and 500 GB with 70 GB stored, and four more drives.
#[test]
fn a_pool_with_more_drives_is_what_the_same_drives_would_be() {
    let pool = pool_of(&[80 * GB, 500 * GB], 70 * GB);
    let more: Vec<Drive> = (0..4).map(|n| drive(&format!("sdb{n}"), 500 * GB)).collect();
    let growth = growth::growth(&pool, &more);
    let mut all = vec![drive("sda", 80 * GB), drive("sdz", 500 * GB)];
    all.extend(more.clone());
    let text = growth::screen(&growth, &["sdb0".into(), "sdb1".into()]);
    for line in [
        "tank with 4 more drives, 2.0 TB raw. Nothing was written.",
        "tank has 2 copies: 79.", // less what the pool keeps for itself
        "would move until every drive is filled in proportion",
        "next: drystone disk add sdb0 sdb1 --pool tank",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let json = serde_json::to_value(&growth).unwrap();
    let usable = |key: &str, copies: usize| json[key][copies - 1]["usable_bytes"].as_u64().unwrap();
    assert!(close(usable("now", 2), 80 * GB) && close(usable("then", 2), 1290 * GB), "{json}");
    let plan = plan(&all);
    assert!(usable("then", 2).abs_diff(plan.layouts[1].usable_bytes) < GB, "as a pool of its own");
    // 140 GB of copies on 2580 GB: 4.3 GB stay on the small drive of its 70, 27 GB on the large one.
    let moves = json["moves_bytes"].as_u64().unwrap();
    assert!(close(moves, 109 * GB) || moves.abs_diff(108_500_000_000) < GB, "{moves}");
}

#[test]
fn a_drive_that_does_not_help_is_told() {
    let pool = pool_of(&[500 * GB], 0);
    let pool = PoolReport { copies: 1, ..pool };
    let tiny = growth::growth(&pool, &[drive("sdx", 1_000_000)]);
    let text = growth::screen(&tiny, &["sdx".into()]);
    assert!(text.contains("tank has 1 copy: no more usable space."), "{text}");
    assert!(text.contains("sdx is too small and was not counted."), "{text}");
    let mut missing = pool_of(&[80 * GB, 500 * GB], 0);
    missing.drives[1].state = crate::control::api::DriveState::Missing;
    let text = growth::screen(&growth::growth(&missing, &[drive("sdx", 80 * GB)]), &["sdx".into()]);
    assert!(text.contains("Not counted, since they are not in use or leave: drive1."), "{text}");
    let mut leaving = pool_of(&[80 * GB, 500 * GB, 500 * GB], 0);
    let usable = |pool: &PoolReport| {
        let json = serde_json::to_value(growth::growth(pool, &[drive("sdx", 80 * GB)])).unwrap();
        json["now"][1]["usable_bytes"].as_u64().unwrap()
    };
    let with_all = usable(&leaving);
    leaving.drives[2].leaving = true;
    assert!(usable(&leaving) < with_all / 5, "a drive that leaves gives nothing");
}

/// A pool of drives of these sizes that has so much stored with two copies, on the first two.
fn pool_of(sizes: &[u64], stored: u64) -> PoolReport {
    let drives: Vec<serde_json::Value> = sizes
        .iter()
        .enumerate()
        .map(|(i, size)| {
            serde_json::json!({
                "name": format!("drive{i}"), "path": "", "uuid": "", "pool": "tank", "size_bytes": size,
                "state": "active", "reason": "", "rotational": true, "used_bytes": stored,
                "lost_bytes": 0, "exposed_bytes": 0, "read_errors": 0, "write_errors": 0, "checksum_errors": 0,
            })
        })
        .collect();
    let volume = serde_json::json!({
        "name": "data", "pool": "tank", "uuid": "", "size_bytes": stored, "copies": 2, "columns": 1,
        "stripe_unit_bytes": 131_072, "checksums": true, "allocated_bytes": stored, "single_copy_bytes": 0,
        "unavailable_bytes": 0, "connections": 0,
    });
    serde_json::from_value(serde_json::json!({
        "name": "tank", "uuid": "", "state": "safe", "copies": 2, "extent_bytes": 64 << 20, "raw_bytes": 0,
        "free_bytes": [0, 0, 0], "usable_bytes": [0, 0, 0], "allocated_bytes": stored, "below_promise_bytes": 0,
        "single_copy_bytes": 0, "unavailable_bytes": 0, "heal_needed_bytes": 0, "heal_possible": false,
        "drives": drives, "volumes": [volume], "votes_present": 3, "votes_total": 3, "epoch": 1,
    }))
    .expect("a report")
}
