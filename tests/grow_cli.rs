//! `disk add`, `disk remove` and `disk replace` on real files, as a user runs it: with a daemon and without one, refusals, and how far it is.

use drystone::base::units::{ByteLen, Span};
use drystone::block::{Payload, WriteFlags, pieces};
use drystone::daemon::cores;
use drystone::pool::{self, CreatePlan, OpenPlan, VolumePlan};
use drystone::reactor::Core;
use drystone::volume::Volume;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const DISK: u64 = 80_000_000;

/// A folder with a state folder, a place for a socket, and disks.
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
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// A file of this size with these bytes at its beginning.
    fn disk(&self, name: &str, size: u64, head: &[u8]) -> String {
        let path = self.path(name);
        let mut file = std::fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        file.write_all(head).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("DRYSTONE_STATE", self.path("state")).env("DRYSTONE_CONTROL", self.path("socket"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(&output.stdout), talk: text(&output.stderr) }
    }

    fn done(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.talk);
        ran.out
    }

    /// The pool in `status --json`.
    fn pool(&self) -> serde_json::Value {
        let status: serde_json::Value = serde_json::from_str(&self.done(&["status", "--json"])).unwrap();
        status["pools"][0].clone()
    }

    /// Bytes in use on each drive.
    fn used(&self) -> Vec<u64> {
        let pool = self.pool();
        let drives = pool["drives"].as_array().unwrap();
        drives.iter().map(|d| d["used_bytes"].as_u64().unwrap()).collect()
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{arguments:?}: {}", ran.talk);
        assert!(ran.talk.contains("\n  Nothing was written.\n"), "{}", ran.talk);
        ran.talk
    }

    /// As `refused`, where a pool's own drives are meant.
    fn unchanged(&self, arguments: &[&str], code: &str) -> String {
        let ran = self.run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{arguments:?}: {}", ran.talk);
        assert!(ran.talk.starts_with(&format!("refused [{code}]: ")), "{}", ran.talk);
        assert!(ran.talk.contains("\n  Nothing was changed.\n"), "{}", ran.talk);
        ran.talk
    }

    fn await_quiet(&self) {
        for _ in 0..600 {
            if self.pool()["spreading"] == false {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("it goes on: {}", self.done(&["status"]));
    }

    /// A daemon; returns when it serves.
    fn serve(&self) -> Child {
        let mut daemon = self
            .command(&["serve", "--nbd", "127.0.0.1:0", "--nvme", "off"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut said = BufReader::new(daemon.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().starts_with("serving NBD on ")));
        // Nobody reads on; what it says later goes to a thread that throws it away.
        std::thread::spawn(move || said.for_each(drop));
        daemon
    }
}

fn stop(mut daemon: Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(daemon.wait().unwrap().success());
}

/// Two drives with a mirrored volume `data` of twenty mebibytes, all written.
fn filled() -> Place {
    let place = Place::new();
    let disks = ["a", "b"].map(|name| PathBuf::from(place.disk(name, DISK, b"")));
    let core = cores::here(32 << 20).unwrap();
    let (inner, state, drives) = (core.clone(), place.path("state"), disks.clone());
    core.run_until(async move { fill(&inner, &drives, &state).await });
    core.drain();
    let [a, b] = disks.map(|disk| disk.to_str().unwrap().to_owned());
    place.done(&["pool", "import", &a, &b]);
    place
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
    let size = ByteLen(20 * MIB);
    let plan =
        VolumePlan { name: "data".into(), size, copies: None, unit: None, checksums: true, lba_bytes: None };
    let volume = pool.create_volume(core, &plan).await.unwrap();
    let handle = Arc::new(Volume::in_pool(volume)).handle(core);
    for at in 0..20 {
        let span = Span::at(at * MIB, MIB);
        let mut payload = Payload::default();
        for piece in pieces(span) {
            let mut buf = handle.core().buffers().take(piece.span.len().as_usize());
            buf.as_mut_slice().fill(7);
            payload.parts.push(buf.freeze());
        }
        handle.write(span, &payload, WriteFlags::default()).await.unwrap();
    }
    handle.flush().await.unwrap();
    drop(handle);
    pool.close(core).await.unwrap();
}

#[test]
fn a_pool_grows_without_a_daemon_and_what_is_stored_spreads_when_one_runs() {
    let place = filled();
    let c = place.disk("c", DISK, b"");
    let d = place.disk("d", 2 * DISK, b"some bytes");
    let before = place.pool()["usable_bytes"][1].as_u64().unwrap();
    let said = place.done(&["disk", "add", &c, &d, "--erase", &d]);
    assert!(said.starts_with(&format!("+ {c} (80.0 MB)\n+ {d} (160.0 MB)\ntank: ")), "{said}");
    assert!(said.contains(" usable, 2 copies. 25.2 MB spread over all drives while a daemon runs"), "{said}");
    let pool = place.pool();
    assert_eq!(pool["drives"].as_array().unwrap().len(), 4);
    assert!(pool["usable_bytes"][1].as_u64().unwrap() > 2 * before);
    assert_eq!(pool["spreading"], true);
    // Half of all space is on the first three, and each keeps what it has, so long as nothing runs for long.
    let daemon = place.serve();
    for _ in 0..600 {
        if place.pool()["spreading"] == false {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(place.used().map_to_mib(), [8, 8, 8, 16]);
    let screen = place.done(&["status"]);
    assert!(screen.starts_with("tank      SAFE      every block has 2 copies on 2 drives\n"), "{screen}");
    assert!(!screen.contains("spread"), "{screen}");
    stop(daemon);
    let scrubbed = place.done(&["pool", "scrub"]);
    assert!(scrubbed.contains("every copy is right"), "{scrubbed}");
}

trait ToMib {
    fn map_to_mib(&self) -> Vec<u64>;
}

impl ToMib for Vec<u64> {
    fn map_to_mib(&self) -> Vec<u64> {
        self.iter().map(|bytes| bytes / MIB).collect()
    }
}

#[test]
fn a_daemon_adds_drives_and_remembers_where_they_are() {
    let place = filled();
    let daemon = place.serve();
    let c = place.disk("c", DISK, b"");
    let said = place.done(&["disk", "add", "c", "--pool", "tank"]);
    assert!(said.contains(". Spreading 13.6 MB over all drives: drystone status\n"), "{said}");
    let again = place.refused(&["disk", "add", &c]);
    assert!(again.contains("[DISK_IN_USE]") || again.contains("[DISK_IS_MEMBER]"), "{again}");
    stop(daemon);
    let pool = place.pool();
    let drives = pool["drives"].as_array().unwrap();
    assert!(drives.len() == 3 && drives.iter().all(|d| d["state"] == "active"), "{drives:?}");
    assert_eq!(drives[2]["path"], c);
}

#[test]
fn drives_that_must_not_be_used_are_refused_and_left_alone() {
    let place = filled();
    let bytes = place.disk("bytes", DISK, b"some bytes");
    let small = place.disk("small", MIB, b"");
    let member = place.disk("member", DISK, b"DRYSTONE");
    let a = place.path("a").to_str().unwrap().to_owned();
    let files = [&bytes, &small, &member, &a].map(|file| (file.clone(), std::fs::read(file).unwrap()));
    let has_data = place.refused(&["disk", "add", &bytes]);
    assert!(has_data.starts_with(&format!("refused [DISK_HAS_DATA]: {bytes}")), "{has_data}");
    assert!(has_data.contains(&format!("drystone disk add {bytes} --erase {bytes}")), "{has_data}");
    let code = |arguments: &[&str], code: &str| {
        let said = place.refused(&[&["disk", "add"], arguments].concat());
        assert!(said.contains(&format!("[{code}]")), "{said}");
    };
    code(&[&bytes, "--yes"], "DISK_HAS_DATA");
    code(&[&small], "DISK_TOO_SMALL");
    code(&[&member, "--erase", &member], "DISK_IS_MEMBER");
    code(&[&a], "DISK_IS_MEMBER");
    code(&[&bytes, &bytes, "--erase", &bytes], "SAME_DISK");
    code(&[&small, "--erase", &bytes], "ERASE_UNNAMED");
    assert_eq!(place.run(&["disk", "add", "--pool", "tank"]).code, 2);
    assert_eq!(place.run(&["disk", "add", &bytes, "--erase", &bytes, "--pool", "barn"]).code, 1);
    assert_eq!(place.run(&["disk", "add", "nothing"]).code, 1);
    for (file, before) in files {
        // The pool was opened and closed meanwhile: its own drive has other bytes in its log.
        assert!(file == a || std::fs::read(&file).unwrap() == before, "{file}");
    }
    assert_eq!(place.pool()["drives"].as_array().unwrap().len(), 2);
}

/// The drives in `status --json`: name, and whether it leaves.
fn drives(place: &Place) -> Vec<(String, bool)> {
    let pool = place.pool();
    let drives = pool["drives"].as_array().unwrap().clone();
    let each = |d: &serde_json::Value| (d["name"].as_str().unwrap().to_owned(), d["leaving"] == true);
    drives.iter().map(each).collect()
}

fn is_blank(path: &str) -> bool {
    let bytes = std::fs::read(path).unwrap();
    bytes[..4096].iter().all(|b| *b == 0) && bytes[bytes.len() - 4096..].iter().all(|b| *b == 0)
}

#[test]
fn a_drive_is_emptied_and_taken_out_while_a_daemon_serves_and_can_be_added_again() {
    let place = filled();
    let (a, c) = (place.path("a").to_str().unwrap().to_owned(), place.disk("c", DISK, b""));
    let daemon = place.serve();
    place.done(&["disk", "add", "c"]);
    place.await_quiet();
    // Nobody is asked here, so that permission is needed.
    let unasked = place.refused(&["disk", "remove", "a"]);
    assert!(unasked.starts_with(&format!("refused [NOT_CONFIRMED]: {a} leaves tank: ")), "{unasked}");
    assert!(unasked.contains(" tank then has "), "{unasked}");
    let said = place.done(&["disk", "remove", "a", "--yes"]);
    assert!(
        said.starts_with(&format!("{a} leaves tank: 14.7 MB move to the other drives. tank then has ")),
        "{said}"
    );
    place.await_quiet();
    assert_eq!(drives(&place), [(place.path("b").to_str().unwrap().to_owned(), false), (c.clone(), false)]);
    assert_eq!(place.used().map_to_mib(), [20, 20]);
    // Its superblocks are cleared a moment after the pool does not know it any more.
    for _ in 0..100 {
        if is_blank(&a) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let listed: serde_json::Value =
        serde_json::from_str(&place.done(&["disk", "show", &a, "--json"])).unwrap();
    assert_ne!(listed["disk"]["state"], "in a pool", "{listed}");
    let few = place.unchanged(&["disk", "remove", "c", "--yes"], "TOO_FEW_DISKS");
    assert!(few.contains("there are 1 drives, and 2 copies need as many"), "{few}");
    assert_eq!(place.run(&["disk", "remove", "a", "--yes"]).code, 1, "it is no drive of the pool");
    place.done(&["disk", "add", &a, "--erase", &a, "--yes"]);
    place.await_quiet();
    assert_eq!(drives(&place).len(), 3);
    stop(daemon);
    let scrubbed = place.done(&["pool", "scrub"]);
    assert!(scrubbed.contains("every copy is right"), "{scrubbed}");
}

#[test]
fn a_drive_that_was_to_leave_can_stay_and_nothing_moves_without_a_daemon() {
    let place = filled();
    let (b, c) = (place.path("b").to_str().unwrap().to_owned(), place.disk("c", DISK, b""));
    place.done(&["disk", "add", &c]);
    place.unchanged(&["disk", "remove", &b, "--cancel"], "NOT_LEAVING");
    let said = place.done(&["disk", "remove", &b, "--yes"]);
    assert!(said.contains(" move to the other drives while a daemon runs (drystone serve)."), "{said}");
    assert_eq!(drives(&place).iter().map(|(_, leaves)| *leaves).collect::<Vec<_>>(), [false, true, false]);
    let screen = place.done(&["status"]);
    assert!(
        screen.contains("  leaving  ") && screen.contains("can be taken out when it is empty"),
        "{screen}"
    );
    let stays = place.done(&["disk", "remove", &b, "--cancel"]);
    assert!(stays.starts_with(&format!("{b} stays; ")), "{stays}");
    assert!(drives(&place).iter().all(|(_, leaves)| !leaves));
    let there = place.unchanged(&["disk", "remove", &b, "--dead"], "DISK_IN_USE");
    assert!(there.contains(&format!("drystone disk remove {b}")), "{there}");
}

#[test]
fn a_drive_that_is_gone_is_given_up_by_order_and_replaced() {
    let place = filled();
    let a = place.path("a").to_str().unwrap().to_owned();
    let hidden = place.path("hidden");
    std::fs::rename(&a, &hidden).unwrap();
    let gone = place.unchanged(&["disk", "remove", &a, "--yes"], "DISK_MISSING");
    assert!(gone.contains(&format!("drystone disk remove {a} --dead")), "{gone}");
    let bytes = place.disk("bytes", DISK, b"some bytes");
    let refused = place.refused(&["disk", "replace", &a, &bytes, "--yes"]);
    assert!(refused.contains(&format!("drystone disk replace {a} {bytes} --erase {bytes}")), "{refused}");
    let daemon = place.serve();
    let said = place.done(&["disk", "replace", &a, &bytes, "--erase", &bytes, "--yes"]);
    assert!(said.contains(&format!("- {a} is given up: what lay on it is made again")), "{said}");
    for _ in 0..600 {
        if drives(&place).len() == 2 && place.used().map_to_mib() == [20, 20] {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let names: Vec<String> = drives(&place).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [place.path("b").to_str().unwrap().to_owned(), bytes]);
    let screen = place.done(&["status"]);
    assert!(screen.starts_with("tank      SAFE      every block has 2 copies on 2 drives\n"), "{screen}");
    stop(daemon);
}

#[test]
fn a_drive_is_replaced_by_another_and_both_answers_say_what_happens() {
    let place = filled();
    let (a, c) = (place.path("a").to_str().unwrap().to_owned(), place.disk("c", 2 * DISK, b""));
    let small = place.disk("small", MIB, b"");
    assert!(
        place.refused(&["disk", "replace", "a", "small", "--yes"]).contains("[DISK_TOO_SMALL]"),
        "{small}"
    );
    assert_eq!(drives(&place).iter().filter(|(_, leaves)| *leaves).count(), 0);
    let daemon = place.serve();
    let said = place.done(&["disk", "replace", "a", "c", "--yes"]);
    assert!(
        said.starts_with(&format!("+ {c} (160.0 MB)\n- {a} leaves: 21.0 MB are copied to other drives")),
        "{said}"
    );
    place.await_quiet();
    assert_eq!(place.used().map_to_mib(), [20, 20]);
    assert_eq!(drives(&place)[1].0, c);
    stop(daemon);
    let scrubbed = place.done(&["pool", "scrub"]);
    assert!(scrubbed.contains("every copy is right"), "{scrubbed}");
}
