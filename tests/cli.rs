//! The program as a user runs it: exit codes, refusals on real files, and what it asks a daemon.
//!
//! The daemon here is a thread that answers fixed reports and writes down what it was asked.

use drystone::control::api::*;
use drystone::control::codec::{self, LineBuffer};
use drystone::control::counters::CountersReport;
use drystone::control::event::{Event, EventKind, EventPage, Level};
use drystone::control::presence::{Role, StateLock};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

/// What the daemon says to a request.
type Answer = fn(&Request) -> Reply;

/// A folder with a state folder, a place for a socket, and disks.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// A file of this size with these bytes at its beginning.
    fn disk(&self, name: &str, size: u64, head: &[u8]) -> String {
        let path = self.path(name);
        let mut file = std::fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(head).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output().unwrap();
        Ran::new(&output)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("DRYSTONE_STATE", self.path("state")).env("DRYSTONE_CONTROL", self.path("socket"));
        command
    }

    /// Starts a daemon that answers every request with what `answer` gives.
    fn daemon(&self, answer: Answer) -> Arc<Mutex<Vec<Request>>> {
        let listener = UnixListener::bind(self.path("socket")).unwrap();
        let asked: Arc<Mutex<Vec<Request>>> = Arc::default();
        let log = asked.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map(Result::unwrap) {
                let (mut lines, mut buf) = (LineBuffer::default(), [0; 4096]);
                while let Ok(received @ 1..) = stream.read(&mut buf) {
                    lines.push(&buf[..received]);
                    while let Some(line) = lines.next_line().unwrap() {
                        let request: Request = codec::parse(&line).unwrap();
                        let reply = codec::emit(&answer(&request)).unwrap();
                        log.lock().unwrap().push(request);
                        stream.write_all(&reply).unwrap();
                    }
                }
            }
        });
        asked
    }
}

struct Ran {
    code: i32,
    out: String,
    talk: String,
}

impl Ran {
    fn new(output: &Output) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(&output.stdout), talk: text(&output.stderr) }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

const SIZE: u64 = 100_000_000;

fn drive(name: &str, state: DriveState) -> DriveReport {
    DriveReport {
        name: name.into(),
        path: format!("/dev/{name}"),
        uuid: "u".into(),
        pool: "tank".into(),
        size_bytes: 500_000_000_000,
        state,
        leaving: false,
        reason: String::new(),
        rotational: true,
        used_bytes: 10_000_000_000,
        lost_bytes: 0,
        exposed_bytes: 10_000_000_000,
        heals_bytes: 10_000_000_000,
        does_not_heal_bytes: 0,
        heal_seconds: Some(167),
        read_errors: 0,
        write_errors: 0,
        checksum_errors: 0,
        healed_blocks: 0,
    }
}

fn volume() -> VolumeReport {
    VolumeReport {
        name: "data".into(),
        pool: "tank".into(),
        uuid: "v".into(),
        size_bytes: 70_000_000_000,
        copies: 2,
        fewest_copies: 0,
        lacking_slots: 0,
        surplus_slots: 0,
        columns: 1,
        stripe_unit_bytes: 131_072,
        checksums: true,
        lba_bytes: 512,
        namespace: 1,
        allocated_bytes: 10_000_000_000,
        single_copy_bytes: 0,
        unavailable_bytes: 0,
        connections: 0,
        unavailable: Vec::new(),
        unavailable_more: false,
    }
}

fn pool(state: PoolState, second: DriveState) -> PoolReport {
    PoolReport {
        name: "tank".into(),
        uuid: "p".into(),
        state,
        copies: 2,
        extent_bytes: 64 << 20,
        raw_bytes: 1_500_000_000_000,
        free_bytes: [1_480_000_000_000, 740_000_000_000, 490_000_000_000],
        usable_bytes: [1_500_000_000_000, 750_000_000_000, 500_000_000_000],
        allocated_bytes: 10_000_000_000,
        below_promise_bytes: 0,
        single_copy_bytes: 0,
        unavailable_bytes: 0,
        heal_needed_bytes: 250_000_000_000,
        heal_possible: true,
        heal_spare_bytes: Some(490_000_000_000),
        heal_short_bytes: 0,
        reserve_enforced: false,
        protected_bytes: 10_000_000_000,
        heal_bytes_per_second: 60_000_000,
        heal_rate_measured: false,
        drives: vec![
            drive("sda", DriveState::Active),
            drive("sdb", second),
            drive("sdc", DriveState::Active),
        ],
        volumes: vec![volume()],
        votes_present: 4,
        votes_total: 4,
        epoch: 1,
        forced: false,
        spreading: false,
        work: vec![],
        last_scrub: None,
        next_scrub_unix_ns: None,
        lost: vec![],
        full_in_seconds: None,
    }
}

fn happened(after: u64) -> EventPage {
    let event = Event {
        seq: 1,
        time_unix_ns: 1_763_164_800_000_000_000,
        level: Level::Info,
        kind: EventKind::DaemonStarted,
        code: None,
        pool: None,
        subject: "daemon".into(),
        message: "the daemon started".into(),
    };
    EventPage { events: if after == 0 { vec![event] } else { vec![] }, newest: 1 }
}

fn answer_with(pool: PoolReport, request: &Request) -> Reply {
    match request {
        Request::Status { .. } => Reply::Status(StatusReport {
            pools: vec![pool],
            listening: vec!["127.0.0.1:10809".into()],
            listening_nvme: vec!["127.0.0.1:4420".into()],
        }),
        Request::PoolList | Request::PoolShow { .. } => Reply::Pools { pools: vec![pool] },
        Request::VolumeList { .. } | Request::VolumeShow { .. } => Reply::Volumes { volumes: pool.volumes },
        Request::DiskShow { .. } => Reply::Disk(pool.drives[0].clone()),
        Request::VolumeRename { .. } => {
            Reply::Failed(Failure::refused("NO_VOLUME", "there is no such volume"))
        }
        Request::BenchBegin { .. } => Reply::Bench { export: "x".into() },
        Request::Events { after, .. } => Reply::Events(happened(*after)),
        Request::Counters => Reply::Counters(CountersReport::default()),
        Request::PoolCreate(_)
        | Request::PoolImport { .. }
        | Request::PoolExport { .. }
        | Request::PoolScrubEvery { .. }
        | Request::DiskAdd(_)
        | Request::DiskDead { .. }
        | Request::DiskRemove { .. }
        | Request::DiskKeep { .. }
        | Request::PoolScrub { .. }
        | Request::PoolDestroy { .. }
        | Request::VolumeCreate(_)
        | Request::VolumeGrow { .. }
        | Request::VolumeShrink { .. }
        | Request::VolumeCopies { .. }
        | Request::VolumeDestroy { .. }
        | Request::Stop => Reply::Done { message: "done".into() },
    }
}

fn well(request: &Request) -> Reply {
    answer_with(pool(PoolState::Safe, DriveState::Active), request)
}

fn ailing(request: &Request) -> Reply {
    answer_with(pool(PoolState::AtRisk, DriveState::Missing), request)
}

fn dead(request: &Request) -> Reply {
    answer_with(pool(PoolState::DataUnavailable, DriveState::Faulted), request)
}

fn partition_table() -> Vec<u8> {
    let mut sector = vec![0; 512];
    sector[446..454].copy_from_slice(&[0x80, 0, 2, 0, 0x83, 0, 0, 0]);
    sector[454..458].copy_from_slice(&2048u32.to_le_bytes());
    sector[458..462].copy_from_slice(&2048u32.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn ext4(path: &str) {
    let made = Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-L", "old-root", path]).status().unwrap();
    assert!(made.success());
}

#[test]
fn help_is_an_answer_and_a_wrong_word_is_a_usage_error() {
    let place = Place::new();
    let help = place.run(&["--help"]);
    assert_eq!((help.code, help.out.contains("Exit codes:")), (0, true));
    let version = place.run(&["--version"]);
    assert_eq!(
        (version.code, version.out.as_str()),
        (0, concat!("drystone ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    let wrong = place.run(&["statsu"]);
    assert_eq!((wrong.code, wrong.out.as_str()), (2, ""));
    assert!(wrong.talk.contains("status"), "{}", wrong.talk);
    assert_eq!(place.run(&[]).code, 2);
}

#[test]
fn a_plan_tells_exact_bytes_and_writes_nothing() {
    let place = Place::new();
    let (a, b) = (place.disk("a", SIZE, b""), place.disk("b", 5 * SIZE, &partition_table()));
    let before = std::fs::read(&b).unwrap();
    let ran = place.run(&["plan", &a, &b, "--json"]);
    let plan = ran.json();
    assert_eq!((ran.code, plan["schema"].as_str()), (0, Some("drystone.plan/1")));
    assert!(ran.out.starts_with("{\n  \"schema\""), "{}", ran.out);
    let usable = plan["layouts"][1]["usable_bytes"].as_u64().unwrap();
    assert!(usable > 90_000_000 && usable < SIZE && usable.is_multiple_of(1 << 20), "{usable}");
    assert_eq!(plan["drives"][1]["standing"], "has_data");
    let text = place.run(&["plan", "a", "b"]);
    assert_eq!(text.code, 0);
    assert!(
        text.out.contains(&usable.to_string()) && text.out.contains("Nothing was written."),
        "{}",
        text.out
    );
    assert!(!text.out.contains('\x1b'), "no colour in a pipe");
    assert_eq!(std::fs::read(&b).unwrap(), before);
    assert!(!place.path("state").exists(), "a plan leaves no trace");
}

#[test]
fn a_disk_that_holds_something_is_refused_by_name_and_left_alone() {
    let place = Place::new();
    let free = place.disk("free", SIZE, b"");
    let file_system = place.disk("fs", SIZE, b"");
    ext4(&file_system);
    let held = [
        (file_system, "DISK_HAS_DATA", "an ext4 file system \"old-root\""),
        (place.disk("table", SIZE, &partition_table()), "DISK_HAS_DATA", "a partition table (dos)"),
        (place.disk("bytes", SIZE, b"some bytes"), "DISK_HAS_DATA", "data that is not zero"),
        (place.disk("member", SIZE, b"DRYSTONE"), "DISK_IS_MEMBER", "is a member of a drystone pool"),
    ];
    for (disk, code, words) in held {
        let before = std::fs::read(&disk).unwrap();
        let ran = place.run(&["pool", "create", "tank", &free, &disk]);
        assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{}", ran.talk);
        assert!(ran.talk.starts_with(&format!("refused [{code}]: {disk}")), "{}", ran.talk);
        assert!(ran.talk.contains(words) && ran.talk.contains("\n  Nothing was written.\n"), "{}", ran.talk);
        assert_eq!(ran.talk.contains("--erase"), code == "DISK_HAS_DATA", "{}", ran.talk);
        assert_eq!(std::fs::read(&disk).unwrap(), before);
    }
    assert!(std::fs::read(&free).unwrap().iter().all(|b| *b == 0));
    assert!(!place.path("state").exists(), "a refusal leaves no trace");
}

#[test]
fn no_flag_erases_a_member_and_yes_is_no_permission() {
    let place = Place::new();
    let (free, member) = (place.disk("free", SIZE, b""), place.disk("member", SIZE, b"DRYSTONE"));
    let ran = place.run(&["pool", "create", "tank", &free, &member, "--erase", &member, "--yes"]);
    assert_eq!(ran.code, 3);
    assert!(ran.talk.contains("[DISK_IS_MEMBER]"), "{}", ran.talk);
    let bytes = place.disk("bytes", SIZE, b"some bytes");
    let ran = place.run(&["pool", "create", "tank", &free, &bytes, "--yes"]);
    assert_eq!(ran.code, 3);
    assert!(ran.talk.contains("[DISK_HAS_DATA]"), "{}", ran.talk);
    let ran = place.run(&["pool", "create", "tank", &free, "--copies", "1", "--erase", &bytes]);
    assert_eq!(ran.code, 3);
    assert!(ran.talk.contains("[ERASE_UNNAMED]"), "{}", ran.talk);
}

#[test]
fn a_destroyed_pool_leaves_blank_files_behind() {
    let place = Place::new();
    let (a, b) = (place.disk("a", SIZE, b""), place.disk("b", SIZE, b""));
    for _ in 0..2 {
        let made = place.run(&["pool", "create", "tank", &a, &b]);
        assert_eq!(made.code, 0, "{}", made.talk);
        assert_eq!(place.run(&["volume", "create", "data", "--size", "10MB"]).code, 0);
        let gone = place.run(&["pool", "destroy", "tank", "--yes"]);
        assert_eq!(gone.code, 0, "{}", gone.talk);
    }
}

#[test]
fn a_drive_of_another_format_is_named_and_its_pool_not_opened_without_it() {
    use drystone::base::checksum::structure_sum;
    use std::os::unix::fs::FileExt;
    let place = Place::new();
    let disks = ["a", "b", "c"].map(|name| place.disk(name, SIZE, b""));
    assert_eq!(place.run(&["pool", "create", "tank", &disks[0], &disks[1], &disks[2]]).code, 0);
    let file = std::fs::File::options().read(true).write(true).open(&disks[1]).unwrap();
    for at in [0, SIZE / 4096 * 4096 - 4096] {
        let mut block = [0; 4096];
        file.read_exact_at(&mut block, at).unwrap();
        block[8..12].copy_from_slice(&8u32.to_le_bytes());
        let sum = structure_sum(&block[..4088]);
        block[4088..].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&block, at).unwrap();
    }
    let ran = place.run(&["volume", "create", "data", "--size", "10MB"]);
    assert_eq!(ran.code, 3, "{}", ran.talk);
    assert!(ran.talk.contains("[UNKNOWN_FORMAT]") && ran.talk.contains("format 8"), "{}", ran.talk);
    assert!(ran.talk.contains(&disks[1]), "{}", ran.talk);
}

#[test]
fn impossible_pools_are_refused() {
    let place = Place::new();
    let (a, b) = (place.disk("a", SIZE, b""), place.disk("b", SIZE, b""));
    let tiny = place.disk("tiny", 1 << 20, b"");
    let cases: [(&[&str], &str); 6] = [
        (&["tank", &a], "TOO_FEW_DISKS"),
        (&["tank", &a, &a], "SAME_DISK"),
        (&["tank", &a, "./b", &b], "SAME_DISK"),
        (&["tank", &a, &tiny], "DISK_TOO_SMALL"),
        (&["tank", &a, &b, "--protect", "machine"], "ONE_MACHINE"),
        (&["tank", &a, &b, "--protect", "none", "--copies", "2"], "COPIES_CONTRADICT"),
    ];
    for (arguments, code) in cases {
        let ran = place.run(&[&["pool", "create"], arguments].concat());
        assert_eq!(ran.code, 3, "{}", ran.talk);
        assert!(ran.talk.contains(&format!("refused [{code}]")), "{}", ran.talk);
    }
    assert_eq!(place.run(&["pool", "create", "a/b", &a, &b]).code, 2, "names are plain");
}

#[test]
fn what_is_not_there_or_no_disk_is_a_failure() {
    let place = Place::new();
    let missing = place.run(&["plan", "no-such-disk", "--json"]);
    assert_eq!((missing.code, missing.json()["code"].as_str()), (1, Some("DISK_NOT_FOUND")));
    assert_eq!(missing.json()["schema"], "drystone.failure/1");
    assert!(missing.talk.contains("error [DISK_NOT_FOUND]: there is no disk or file `no-such-disk`"));
    let folder = place.run(&["plan", "/"]);
    assert_eq!(folder.code, 1);
    assert!(folder.talk.contains("[NOT_A_DISK]"), "{}", folder.talk);
}

#[test]
fn a_loop_device_in_use_is_off_limits() {
    let place = Place::new();
    let (a, b) = (place.disk("a", SIZE, b""), place.disk("b", SIZE, b""));
    let made = Command::new("/usr/sbin/losetup").args(["--find", "--show", &b]).output();
    let Some(device) = made.ok().filter(|o| o.status.success()) else {
        // Loop devices need root; the rule itself is tested on lsblk's output.
        return;
    };
    let device = String::from_utf8(device.stdout).unwrap().trim().to_owned();
    let ran = place.run(&["pool", "create", "tank", &a, &b, "--erase", &b, "--yes"]);
    let shown = place.run(&["disk", "show", &device, "--json"]);
    let detached = Command::new("/usr/sbin/losetup").args(["--detach", &device]).status().unwrap();
    assert!(detached.success());
    assert_eq!(ran.code, 3);
    assert!(
        ran.talk.contains("[DISK_IN_USE]") && ran.talk.contains(device.trim_start_matches("/dev/")),
        "{}",
        ran.talk
    );
    assert_eq!(
        (shown.json()["disk"]["state"].as_str(), shown.json()["disk"]["size_bytes"].as_u64()),
        (Some("free"), Some(SIZE / 512 * 512))
    );
}

#[test]
fn the_disk_list_never_calls_the_system_disk_free() {
    let place = Place::new();
    let ran = place.run(&["disk", "list", "--json"]);
    let list = ran.json();
    assert_eq!((ran.code, list["schema"].as_str()), (0, Some("drystone.disks/1")));
    for disk in list["disks"].as_array().unwrap() {
        let system = disk["holds"].as_str().unwrap().contains("(this system)");
        assert!(!system || disk["state"] == "off limits", "{disk}");
    }
}

#[test]
fn a_state_folder_that_is_held_without_a_socket_is_exit_4() {
    let place = Place::new();
    let _lock = StateLock::take(&place.path("state"), Role::Daemon).unwrap();
    let ran = place.run(&["status", "--json"]);
    assert_eq!((ran.code, ran.json()["code"].as_str()), (4, Some("DAEMON_DEAF")));
    assert!(ran.talk.contains(&format!("daemon {}", std::process::id())), "{}", ran.talk);
    let check = place.run(&["check"]);
    assert_eq!(check.code, 3);
    assert!(check.out.starts_with("DRYSTONE UNKNOWN - [DAEMON_DEAF]"), "{}", check.out);
}

#[test]
fn a_daemon_that_is_starting_is_waited_for() {
    let place = Place::new();
    let _lock = StateLock::take(&place.path("state"), Role::Daemon).unwrap();
    let child =
        place.command(&["pool", "list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    place.daemon(well);
    let ran = Ran::new(&child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.contains("tank")), (0, true), "{}", ran.talk);
}

#[test]
fn sockets_of_a_killed_daemon_are_waited_for() {
    let place = Place::new();
    let control = UnixListener::bind(place.path("socket")).unwrap();
    let nbd = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nbd.local_addr().unwrap().to_string();
    let mut daemon = place
        .command(&["serve", "--nbd", &address, "--nvme", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    std::thread::sleep(std::time::Duration::from_millis(300));
    drop(control);
    std::thread::sleep(std::time::Duration::from_millis(300));
    drop(nbd);
    let mut said = BufReader::new(daemon.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.starts_with(&format!("serving NBD on {address}"))));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(said.count(), 1, "stopping");
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn a_daemon_that_hangs_up_is_exit_4() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path("socket")).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
        }
    });
    let ran = place.run(&["status"]);
    assert_eq!(ran.code, 4);
    assert!(ran.talk.contains("[DAEMON_UNREACHABLE]") && ran.talk.contains("--control"), "{}", ran.talk);
}

#[test]
fn a_daemon_that_is_silent_is_exit_4_and_never_sees_the_change() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path("socket")).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).unwrap();
        String::from_utf8(seen).unwrap()
    });
    let ran = place.run(&["volume", "destroy", "data", "--yes"]);
    assert_eq!(ran.code, 4);
    assert!(
        ran.talk.contains("no answer within 10 s") && ran.talk.contains("Nothing was written."),
        "{}",
        ran.talk
    );
    assert!(!server.join().unwrap().contains("destroy"));
}

#[test]
fn a_state_folder_that_cannot_be_used_names_the_flag() {
    let place = Place::new();
    place.disk("file", 10, b"");
    let state = place.path("file/state");
    let ran = place.run(&["--state", state.to_str().unwrap(), "pool", "list"]);
    assert_eq!(ran.code, 1);
    assert!(ran.talk.contains("[STATE_UNUSABLE]") && ran.talk.contains("--state DIR"), "{}", ran.talk);
}

#[test]
fn requests_are_what_was_typed() {
    let place = Place::new();
    let asked = place.daemon(well);
    let (a, b) = (place.disk("a", SIZE, b""), place.disk("b", SIZE, b"some bytes"));
    let done = |line: &[&str]| {
        let ran = place.run(line);
        assert_eq!((ran.code, ran.out.as_str()), (0, "done\n"), "{line:?}: {}", ran.talk);
        asked.lock().unwrap().pop().unwrap()
    };
    let create = done(&[
        "pool",
        "create",
        "tank",
        "a",
        "./b",
        "--protect",
        "drive",
        "--extent",
        "1MiB",
        "--erase",
        "b",
    ]);
    let expected = PoolCreate {
        name: "tank".into(),
        disks: vec![a.clone().into(), b.clone().into()],
        copies: 2,
        extent_bytes: Some(1 << 20),
        erase: vec![b.into()],
    };
    assert_eq!(create, Request::PoolCreate(expected));
    let create =
        done(&["volume", "create", "data", "--size", "70GB", "--no-checksum", "--stripe-unit", "64KiB"]);
    let expected = VolumeCreate {
        name: "data".into(),
        size_bytes: 70_000_000_000,
        pool: None,
        copies: None,
        stripe_unit_bytes: Some(65_536),
        checksums: false,
        lba_bytes: None,
    };
    assert_eq!(create, Request::VolumeCreate(expected));
    let grow = Request::VolumeGrow { volume: "data".into(), size_bytes: 80 << 30 };
    assert_eq!(done(&["volume", "grow", "data", "--size", "80GiB"]), grow);
    let shrink = Request::VolumeShrink { volume: "data".into(), size_bytes: 1 << 30, give_up: false };
    assert_eq!(done(&["volume", "shrink", "data", "--size", "1GiB", "--yes"]), shrink, "nothing to give up");
    let set = |copies, allow_unprotected| Request::VolumeCopies {
        volume: "data".into(),
        copies,
        allow_unprotected,
    };
    assert_eq!(done(&["volume", "set", "data", "--copies", "3"]), set(3, false));
    assert_eq!(done(&["volume", "set", "data", "--protect", "drive"]), set(2, false));
    assert_eq!(done(&["volume", "set", "data", "--protect", "none", "--allow-unprotected"]), set(1, true));
    assert_eq!(
        done(&["volume", "destroy", "data", "--yes"]),
        Request::VolumeDestroy { volume: "data".into() }
    );
    assert_eq!(done(&["pool", "destroy", "tank", "--yes"]), Request::PoolDestroy { pool: "tank".into() });
    assert_eq!(done(&["pool", "export", "tank"]), Request::PoolExport { pool: "tank".into() });
    assert_eq!(done(&["pool", "scrub"]), Request::PoolScrub { pool: None });
    let add =
        DiskAdd { disks: vec![a.clone().into()], pool: Some("tank".into()), erase: vec![], replaces: None };
    assert_eq!(done(&["disk", "add", "a", "--pool", "tank"]), Request::DiskAdd(add));
    let import = Request::PoolImport { disks: vec![a.into()], pool: Some("tank".into()), force: false };
    assert_eq!(done(&["pool", "import", "a", "--pool", "tank"]), import);
}

#[test]
fn sectors_have_512_bytes_unless_4096_are_asked_for() {
    let place = Place::new();
    let asked = place.daemon(well);
    let typed = |lba: &[&str]| place.run(&[&["volume", "create", "data", "--size", "1GB"], lba].concat());
    for (lba, wanted) in [(&[][..], None), (&["--lba", "512"], None), (&["--lba", "4096"], Some(4096))] {
        assert_eq!(typed(lba).code, 0);
        let Some(Request::VolumeCreate(create)) = asked.lock().unwrap().pop() else { panic!("a volume") };
        assert_eq!(create.lba_bytes, wanted);
    }
    let odd = typed(&["--lba", "520"]);
    assert!(odd.code == 2 && odd.talk.contains("512 or 4096"), "{}", odd.talk);
}

#[test]
fn nothing_is_destroyed_without_an_answer() {
    let place = Place::new();
    let asked = place.daemon(well);
    let losses: [&[&str]; 3] =
        [&["volume", "destroy", "data"], &["pool", "destroy", "tank"], &["pool", "import", "--force"]];
    for line in losses {
        for json in [false, true] {
            let line = [line, if json { &["--json"] } else { &[] }].concat();
            let ran = place.run(&line);
            assert_eq!(ran.code, 3, "{line:?}: {}", ran.talk);
            assert!(ran.talk.contains("[NOT_CONFIRMED]") && ran.talk.contains("--yes"), "{}", ran.talk);
        }
    }
    assert!(asked.lock().unwrap().iter().all(Request::is_read_only), "{asked:?}");
}

fn scrubbing(request: &Request) -> Reply {
    let mut pool = pool(PoolState::Safe, DriveState::Active);
    pool.work = vec![WorkReport {
        kind: WorkKind::Scrub,
        done_bytes: 5_000_000_000,
        total_bytes: 20_000_000_000,
        bytes_per_second: 100_000_000,
    }];
    answer_with(pool, request)
}

#[test]
fn an_interrupted_wait_is_exit_5_and_says_that_the_work_goes_on() {
    let place = Place::new();
    place.daemon(scrubbing);
    let mut child = place
        .command(&["pool", "scrub", "--wait"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut talk = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    talk.read_line(&mut first).unwrap();
    assert_eq!(first, "scrub 25 % of 20.0 GB, 3 min left\n");
    let child_id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(child_id, nix::sys::signal::Signal::SIGINT).unwrap();
    let mut rest = String::new();
    talk.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert!(rest.contains("[INTERRUPTED]: the scrub goes on"), "{rest}");
}

#[test]
fn a_scrub_that_is_waited_for_tells_how_it_ended() {
    let place = Place::new();
    place.daemon(|request| {
        let mut pool = pool(PoolState::Safe, DriveState::Active);
        let (checked_bytes, ended_unix_ns) = (20_000_000_000, 1_763_164_800_000_000_000);
        pool.last_scrub = Some(ScrubReport {
            ended_unix_ns,
            checked_bytes,
            repaired_blocks: 2,
            unrepaired_blocks: 0,
            different_blocks: 0,
            lost_blocks: 0,
        });
        answer_with(pool, request)
    });
    let ran = place.run(&["pool", "scrub", "--wait"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "tank: last 2025-11-15, 20.0 GB checked, 2 blocks repaired, no next one\n")
    );
}

#[test]
fn a_daemons_refusal_is_exit_3_with_its_words() {
    let place = Place::new();
    place.daemon(well);
    let ran = place.run(&["volume", "rename", "x", "y"]);
    assert_eq!(ran.code, 3);
    assert_eq!(ran.talk, "refused [NO_VOLUME]: there is no such volume\n  Nothing was written.\n");
}

#[test]
fn every_reading_command_has_a_schema() {
    let place = Place::new();
    place.daemon(well);
    let commands: [(&[&str], &str); 13] = [
        (&["status"], "drystone.status/1"),
        (&["pool", "list"], "drystone.pools/1"),
        (&["pool", "show"], "drystone.pool/1"),
        (&["volume", "list"], "drystone.volumes/1"),
        (&["volume", "show", "data"], "drystone.volume/1"),
        (&["disk", "show", "gone"], "drystone.disk/1"),
        (&["disk", "locate", "gone"], "drystone.locate/1"),
        (&["export", "list"], "drystone.exports/1"),
        (&["export", "show", "data"], "drystone.export/1"),
        (&["check"], "drystone.check/1"),
        (&["explain", "DISK_HAS_DATA"], "drystone.explain/1"),
        (&["events"], "drystone.event/1"),
        (&["top"], "drystone.top/1"),
    ];
    for (line, schema) in commands {
        let ran = place.run(&[line, &["--json"]].concat());
        assert_eq!((ran.code, ran.json()["schema"].as_str()), (0, Some(schema)), "{line:?}: {}", ran.talk);
        let text = place.run(line);
        assert_eq!(text.code, 0, "{line:?}");
        assert!(!text.out.is_empty() && !text.out.contains('\x1b'), "{line:?}: {}", text.out);
    }
    let status = place.run(&["status", "--json"]).json();
    assert_eq!(status["pools"][0]["state"], "safe");
    assert_eq!(status["pools"][0]["allocated_bytes"], 10_000_000_000u64);
}

#[test]
fn check_speaks_the_language_of_monitoring() {
    let cases: [(Answer, i32, &str); 3] =
        [(well, 0, "DRYSTONE OK - "), (ailing, 1, "DRYSTONE WARNING - "), (dead, 2, "DRYSTONE CRITICAL - ")];
    for (answer, code, words) in cases {
        let place = Place::new();
        place.daemon(answer);
        let ran = place.run(&["check"]);
        assert_eq!(ran.code, code, "{}", ran.out);
        assert!(ran.out.starts_with(words) && ran.out.lines().count() == 1, "{}", ran.out);
        assert!(ran.out.contains(" | tank_used=10000000000B;"), "{}", ran.out);
        assert_eq!(place.run(&["status"]).code, 0, "status worked, whatever it had to say");
    }
}

#[test]
fn the_clients_commands_are_printed_and_loopback_is_warned_about() {
    let place = Place::new();
    place.daemon(well);
    let first = place.run(&["export", "show", "data", "--for-client"]);
    assert!(first.out.contains("apt install nvme-cli\n"), "what rides out a restart: {}", first.out);
    let ran = place.run(&["export", "show", "data", "--for-client", "--protocol", "nbd"]);
    assert_eq!(ran.code, 0);
    for line in
        ["apt install nbd-client\n", "nbd0 127.0.0.1 data conns=4,", "_netdev,nofail", "mkfs.ext4 /dev/nbd0"]
    {
        assert!(ran.out.contains(line), "{line} in {}", ran.out);
    }
    assert!(ran.talk.contains("drystone serve --nbd 0.0.0.0:10809"), "{}", ran.talk);
    let unknown = place.run(&["export", "show", "nothing"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.talk.contains("[NO_VOLUME]"), "{}", unknown.talk);
}

#[test]
fn codes_are_explained() {
    let place = Place::new();
    for code in drystone::cli::codes::CODES {
        let ran = place.run(&["explain", code.name]);
        assert_eq!((ran.code, ran.out.starts_with(code.name)), (0, true));
    }
    assert_eq!(place.run(&["explain", "NONSENSE"]).code, 1);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let place = Place::new();
    let mut child =
        place.command(&["explain"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn the_socket_and_state_can_be_given_by_flag() {
    let place = Place::new();
    place.daemon(well);
    let elsewhere = Path::new("/nowhere");
    let mut command = place.command(&["--control", place.path("socket").to_str().unwrap(), "status"]);
    let output = command.env("DRYSTONE_CONTROL", elsewhere).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "the flag beats the environment");
}
