//! `volume salvage` and `disk show` on real files, as a user runs them: exit codes, words, maps.

use drystone::base::units::{ByteLen, Span};
use drystone::block::{Payload, WriteFlags, pieces};
use drystone::daemon::cores;
use drystone::pool::layout::member_layout;
use drystone::pool::{self, CreatePlan, OpenPlan, VolumePlan};
use drystone::reactor::Core;
use drystone::volume::{Handle, Volume};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
const DISK: u64 = 80_000_000;
const SIZE: u64 = 12 * MIB;

/// Two drives with a mirrored volume `data`: its first mebibyte is ones, its sixth is twos.
struct Place {
    folder: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    talk: String,
}

impl Place {
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(place.path("state")).unwrap();
        let disks = ["a", "b"].map(|name| place.path(name));
        disks.iter().for_each(|disk| std::fs::File::create(disk).unwrap().set_len(DISK).unwrap());
        let core = cores::here(32 << 20).unwrap();
        let (inner, state) = (core.clone(), place.path("state"));
        core.run_until(async move { fill(&inner, &disks, &state).await });
        core.drain();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        // A machine that never knew the pool.
        command.env("DRYSTONE_STATE", self.path("elsewhere")).env("DRYSTONE_CONTROL", self.path("socket"));
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        assert!(!self.path("elsewhere").exists(), "looking leaves no trace");
        Ran { code: output.status.code().unwrap(), out: text(&output.stdout), talk: text(&output.stderr) }
    }

    /// Garbage over some bytes of a drive.
    fn rot(&self, disk: &str, at: u64, len: usize) {
        let file = std::fs::File::options().write(true).open(self.path(disk)).unwrap();
        file.write_all_at(&vec![0xa5; len], at).unwrap();
    }

    /// Where the first bytes of the volume lie on a drive: the first place that has a whole extent of ones.
    fn first_extent(&self, disk: &str) -> u64 {
        let layout = member_layout(ByteLen(DISK), ByteLen(MIB)).unwrap();
        let bytes = std::fs::read(self.path(disk)).unwrap();
        let starts = (0..u64::from(layout.extents)).map(|x| layout.extents_start.0 + x * MIB);
        let ones = |at: &u64| {
            let at = ByteLen(*at).as_usize();
            bytes[at..at + (128 << 10)].iter().all(|b| *b == 1)
        };
        starts.into_iter().find(ones).expect("written")
    }

    fn expected(&self) -> Vec<u8> {
        let mut bytes = vec![0; ByteLen(SIZE).as_usize()];
        bytes[..1 << 20].fill(1);
        bytes[5 << 20..6 << 20].fill(2);
        bytes
    }
}

async fn fill(core: &Core, disks: &[PathBuf], state: &Path) {
    let plan = CreatePlan {
        name: "tank".into(),
        disks: disks.iter().map(|d| (d.clone(), d.display().to_string())).collect(),
        copies: 2,
        extent: Some(ByteLen(MIB)),
        witness_folder: state.to_owned(),
    };
    pool::create(core, &plan).await.unwrap();
    let plan = OpenPlan {
        disks: disks.to_vec(),
        pool: None,
        witness_folder: state.to_owned(),
        force: false,
        cache: ByteLen(1 << 20),
        rebuild_after: drystone::pool::REBUILD_AFTER,
        memory_folder: None,
    };
    let pool = pool::open(core, &plan).await.unwrap();
    let plan = VolumePlan {
        name: "data".into(),
        size: ByteLen(SIZE),
        copies: None,
        unit: None,
        checksums: true,
        lba_bytes: None,
    };
    let volume = pool.create_volume(core, &plan).await.unwrap();
    let handle = Arc::new(Volume::in_pool(volume)).handle(core);
    put(&handle, 0, 1).await;
    put(&handle, 5 * MIB, 2).await;
    handle.flush().await.unwrap();
    drop(handle);
    pool.close(core).await.unwrap();
}

/// Fills a mebibyte.
async fn put(handle: &Handle, at: u64, byte: u8) {
    let span = Span::at(at, MIB);
    let mut payload = Payload::default();
    for piece in pieces(span) {
        let mut buf = handle.core().buffers().take(piece.span.len().as_usize());
        buf.as_mut_slice().fill(byte);
        payload.parts.push(buf.freeze());
    }
    handle.write(span, &payload, WriteFlags::default()).await.unwrap();
}

#[test]
fn a_volume_is_put_together_from_all_drives_or_from_one_of_two() {
    let place = Place::new();
    for (file, disks) in [("both", &["a", "b"][..]), ("first", &["a"]), ("second", &["b"])] {
        let ran = place.run(&[&["volume", "salvage", "data", "--to", file], disks].concat());
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.talk);
        assert!(ran.out.contains("everything is there"), "{}", ran.out);
        assert_eq!(ran.out.contains("missing   "), disks.len() == 1, "{}", ran.out);
        assert!(std::fs::read(place.path(file)).unwrap() == place.expected(), "{file}");
    }
    use std::os::unix::fs::MetadataExt;
    let blocks = place.path("both").metadata().unwrap().blocks();
    assert!(blocks * 512 < SIZE / 2, "holes take no space: {blocks}");
}

#[test]
fn nothing_is_overwritten_and_names_are_told() {
    let place = Place::new();
    std::fs::write(place.path("there"), "precious").unwrap();
    for arguments in [["--to", "there", "a"], ["--map=there", "--to=new", "a"], ["--to", "a", "b"]] {
        let ran = place.run(&[&["volume", "salvage", "data"], &arguments[..]].concat());
        assert_eq!(ran.code, 3, "{}", ran.talk);
        assert!(ran.talk.starts_with("refused [FILE_EXISTS]"), "{}", ran.talk);
    }
    assert_eq!(std::fs::read(place.path("there")).unwrap(), b"precious");
    let ran = place.run(&["volume", "salvage", "other", "--to", "new", "a", "b"]);
    assert_eq!(ran.code, 1);
    assert!(ran.talk.contains("[NO_VOLUME]") && ran.talk.contains("its volumes: data ("), "{}", ran.talk);
    assert!(!place.path("new").exists());
}

#[test]
fn a_block_that_is_rotten_on_both_drives_is_listed_and_one_on_one_is_not() {
    let place = Place::new();
    place.rot("a", place.first_extent("a"), 8192);
    let ran = place.run(&["volume", "salvage", "data", "--to", "right", "a", "b"]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.talk);
    assert!(std::fs::read(place.path("right")).unwrap() == place.expected());
    place.rot("b", place.first_extent("b") + 4096, 8192);
    let ran = place.run(&["volume", "salvage", "data", "--to", "part", "--map", "map", "a", "b"]);
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.talk);
    assert!(
        ran.out.contains("MISSING   4096 B in 1 range:\n          offset 4096, 4096 B: lost\n"),
        "{}",
        ran.out
    );
    let map = std::fs::read_to_string(place.path("map")).unwrap();
    let lines: Vec<&str> = map.lines().collect();
    assert_eq!(lines[..3], ["0 4096 sound", "4096 4096 lost", "8192 1040384 sound"], "{map}");
    let ends = lines.iter().map(|l| l.split(' ').nth(1).unwrap().parse::<u64>().unwrap());
    assert_eq!(ends.sum::<u64>(), SIZE);
    let mut want = place.expected();
    want[4096..8192].fill(0);
    assert!(std::fs::read(place.path("part")).unwrap() == want);
    let ran = place.run(&["volume", "salvage", "data", "--to", "json", "a", "b", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (report["schema"].as_str(), report["lost_bytes"].as_u64()),
        (Some("drystone.salvage/1"), Some(4096))
    );
    assert_eq!(report["ranges"][0]["offset_bytes"], 4096);
}

#[test]
fn damaged_superblocks_and_logs_are_gone_around_and_shown() {
    let place = Place::new();
    let layout = member_layout(ByteLen(DISK), ByteLen(MIB)).unwrap();
    let shown = place.run(&["disk", "show", "a"]);
    assert_eq!(shown.code, 0, "{}", shown.talk);
    assert!(shown.out.contains("front     superblock at 0: sound\n"), "{}", shown.out);
    let state = place.run(&["disk", "show", "a", "--json"]);
    let before: serde_json::Value = serde_json::from_str(&state.out).unwrap();
    assert_eq!(before["contents"]["state"]["volumes"][0]["slots_here"], 2);
    let half = before["contents"]["state"]["half"].as_u64().unwrap();
    place.rot("a", 0, 4096);
    place.rot("a", layout.log_start(half).0, 4096);
    place.rot("a", layout.dirty_start.0, 512);
    let shown = place.run(&["disk", "show", "a"]);
    assert_eq!(shown.code, 0, "{}", shown.talk);
    for words in [
        "front     superblock at 0: no superblock lies there\n",
        "back      superblock at 79994880: sound\n",
        " is damaged; ",
        "dirty     74 of 74 regions; 1 damaged sectors",
    ] {
        assert!(shown.out.contains(words), "{words} in {}", shown.out);
    }
    let after = place.run(&["disk", "show", "a", "--json"]);
    let after: serde_json::Value = serde_json::from_str(&after.out).unwrap();
    assert_eq!(after["contents"]["log"][ByteLen(half).as_usize()]["end"], "damaged");
    let ran = place.run(&["volume", "salvage", "data", "--to", "file", "a", "b"]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.talk);
    assert!(ran.out.contains("front superblock: no superblock lies there"), "{}", ran.out);
    assert!(std::fs::read(place.path("file")).unwrap() == place.expected());
    place.rot("a", layout.superblocks()[1].0, 4096);
    let shown = place.run(&["disk", "show", "a"]);
    assert!(shown.code == 0 && !shown.out.contains("superblock"), "no member any more: {}", shown.out);
}

#[test]
fn a_copy_of_a_drive_is_refused_with_both_names() {
    let place = Place::new();
    std::fs::copy(place.path("a"), place.path("twin")).unwrap();
    let ran = place.run(&["volume", "salvage", "data", "--to", "file", "a", "b", "twin"]);
    assert_eq!(ran.code, 3, "{}", ran.talk);
    let (a, twin) = (place.path("a"), place.path("twin"));
    let words = format!("refused [TWINS]: {} and {} claim", a.display(), twin.display());
    assert!(ran.talk.starts_with(&words), "{}", ran.talk);
    assert!(!place.path("file").exists());
    let twice = place.run(&["volume", "salvage", "data", "--to", "file", "a", "./a", "b"]);
    assert_eq!(twice.code, 0, "one drive named twice is no twin: {}", twice.talk);
}

#[test]
fn a_drive_in_use_is_warned_about_and_read() {
    let place = Place::new();
    let held = std::fs::File::open(place.path("a")).unwrap();
    held.try_lock().unwrap();
    let ran = place.run(&["volume", "salvage", "data", "--to", "file", "a", "b"]);
    assert_eq!(ran.code, 0, "{}", ran.talk);
    assert!(ran.talk.starts_with("warning: ") && ran.talk.matches("is in use").count() == 1, "{}", ran.talk);
}
