//! `events` and `top` as a user runs them: what a daemon on files tells, live, later, and after a restart.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Longer than anything here takes; what does not come is an error, and does not hang.
const LIMIT: Duration = Duration::from_secs(60);

/// A folder with a state folder, a place for a socket, and disks.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// With a pool `tank` of three files.
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        for name in ["a", "b", "c"] {
            std::fs::File::create(place.path(name)).unwrap().set_len(100_000_000).unwrap();
        }
        place.done(&["pool", "create", "tank", "a", "b", "c"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drystone"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env("DRYSTONE_STATE", self.path("state")).env("DRYSTONE_CONTROL", self.path("socket"));
        command
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {talk}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn events(&self) -> Vec<Value> {
        let lines = self.done(&["events", "--json"]);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The kinds of all events, in their order.
    fn kinds(&self) -> Vec<String> {
        self.events().iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect()
    }

    /// A daemon; returns when it serves.
    fn serve(&self) -> Daemon {
        let mut command = self.command(&["serve", "--nbd", "127.0.0.1:0", "--nvme", "off"]);
        let mut daemon = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(daemon.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().starts_with("serving NBD on ")));
        std::thread::spawn(move || said.for_each(drop));
        Daemon(daemon)
    }

    fn follow(&self) -> Follower {
        let mut command = self.command(&["events", "-f", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines() {
                let event = serde_json::from_str(&line.unwrap()).unwrap();
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Follower { child, lines }
    }
}

/// A running `events -f`.
struct Follower {
    child: Child,
    lines: Receiver<Value>,
}

impl Follower {
    /// Waits for an event like this.
    fn sees(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = self.lines.recv_timeout(LIMIT).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(event["schema"], "drystone.event/1");
            if is(&event) {
                return event;
            }
        }
    }

    fn sees_kind(&self, kind: &str, subject: &str) -> Value {
        self.sees(kind, |e| e["kind"] == kind && e["subject"].as_str().unwrap().ends_with(subject))
    }

    /// The exit code and what was said on stderr.
    fn ended(mut self) -> (i32, String) {
        let mut talk = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut talk).unwrap();
        (self.child.wait().unwrap().code().unwrap(), talk)
    }
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

/// A daemon that does not outlive a test that failed.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stop(mut daemon: Daemon) {
    signal(&daemon.0, nix::sys::signal::Signal::SIGTERM);
    assert!(daemon.0.wait().unwrap().success());
}

#[test]
fn what_happens_is_told_live_and_is_still_there_after_a_restart() {
    let place = Place::new();
    assert_eq!(place.kinds(), ["pool_made"], "also without a daemon");
    let daemon = place.serve();
    let (follower, other) = (place.follow(), place.follow());
    follower.sees_kind("pool_opened", "tank");
    place.done(&["volume", "create", "data", "--size", "10MB"]);
    follower.sees_kind("volume_made", "data");
    place.done(&["volume", "grow", "data", "--size", "20MB"]);
    follower.sees_kind("volume_grown", "data");
    place.done(&["volume", "rename", "data", "more"]);
    follower.sees_kind("volume_renamed", "more");
    place.done(&["pool", "scrub", "tank"]);
    follower.sees_kind("work_ended", "scrub");
    std::fs::OpenOptions::new().write(true).open(place.path("c")).unwrap().set_len(4096).unwrap();
    let gone = follower.sees_kind("drive_state", "c");
    assert_eq!((&gone["level"], &gone["code"]), (&"warning".into(), &"DRIVE_FAILED".into()), "{gone}");
    assert!(gone["message"].as_str().unwrap().ends_with(": every block has all its copies"), "{gone}");
    // Ctrl-C ends one of them well; the other one sees the daemon go.
    signal(&follower.child, nix::sys::signal::Signal::SIGINT);
    assert_eq!(follower.ended(), (0, String::new()));
    stop(daemon);
    other.sees_kind("daemon_stopping", "daemon");
    let (code, talk) = other.ended();
    assert_eq!(code, 4, "{talk}");
    assert!(talk.contains("[DAEMON_GONE]"), "{talk}");
    let before = place.events();
    assert_eq!(before.last().unwrap()["kind"], "daemon_stopped");
    let daemon = place.serve();
    let after = place.events();
    assert_eq!(after[..before.len()], before[..]);
    let started = &after[before.len()];
    assert_eq!((&started["kind"], &started["level"]), (&"daemon_started".into(), &"info".into()));
    let numbers: Vec<u64> = after.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=after.len() as u64).collect::<Vec<_>>());
    assert_eq!(place.done(&["events", "--since", "2100-01-01"]), "");
    assert_eq!(place.done(&["events", "--since", "1h"]).lines().count(), after.len());
    stop(daemon);
}

#[test]
fn a_daemon_that_was_killed_and_a_torn_line_are_survived() {
    let place = Place::new();
    let daemon = place.serve();
    place.done(&["volume", "create", "data", "--size", "10MB"]);
    let follower = place.follow();
    follower.sees_kind("volume_made", "data");
    drop(daemon);
    assert_eq!(follower.ended().0, 4);
    let file = place.path("state").join("events.jsonl");
    let mut bytes = std::fs::read(&file).unwrap();
    let newest = bytes.split(|b| *b == b'\n').rev().nth(1).unwrap().len();
    bytes.truncate(bytes.len() - newest / 2);
    bytes.splice(0..0, *b"\xff\xfe garbage\n");
    std::fs::write(&file, &bytes).unwrap();
    let left = place.kinds();
    assert_eq!(left[0], "pool_made");
    let daemon = place.serve();
    let events = place.events();
    assert_eq!(events[left.len()]["code"], "UNCLEAN_STOP", "{events:?}");
    stop(daemon);
    // Nobody is there to be followed.
    let follower = place.follow();
    follower.sees_kind("daemon_stopped", "daemon");
    let (code, talk) = follower.ended();
    assert!(code == 4 && talk.contains("[NO_DAEMON]"), "{code}: {talk}");
}

/// `top` on a terminal of its own, which `script` makes; what is drawn comes back as bytes.
struct Live {
    child: Child,
    drawn: Receiver<u8>,
    seen: String,
}

impl Live {
    /// The terminal's settings are printed when `top` has ended.
    fn start(place: &Place) -> Live {
        let line = format!(
            "stty rows 40 cols 120; {} top; code=$?; stty -a; exit $code",
            env!("CARGO_BIN_EXE_drystone")
        );
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).current_dir(place.folder.path());
        command.env("DRYSTONE_STATE", place.path("state")).env("DRYSTONE_CONTROL", place.path("socket"));
        command.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, drawn) = channel();
        let out = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            BufReader::new(out).bytes().map_while(Result::ok).all(|byte| sender.send(byte).is_ok());
        });
        Live { child, drawn, seen: String::new() }
    }

    fn sees(&mut self, what: &str) {
        // Pictures come for ever: their bytes are counted as well.
        while !self.seen.contains(what) && self.seen.len() < 1 << 20 {
            let byte =
                self.drawn.recv_timeout(LIMIT).unwrap_or_else(|e| panic!("{what}: {e}: {}", self.seen));
            self.seen.push(char::from(byte));
        }
        assert!(self.seen.contains(what), "{what}: {}", self.seen);
    }

    /// The exit code, after checking that the terminal is as it was.
    fn ended(mut self) -> (i32, String) {
        self.sees("-extproc");
        self.drawn.iter().for_each(|byte| self.seen.push(char::from(byte)));
        let left = self.seen.rfind("\x1b[?1049l").expect("it leaves the other screen");
        let settings = &self.seen[left..];
        for setting in ["icanon", "echo", "isig", "opost"] {
            assert!(settings.split_whitespace().any(|word| word == setting), "{setting}: {settings}");
        }
        (self.child.wait().unwrap().code().unwrap(), settings.to_owned())
    }
}

#[test]
fn a_picture_of_a_daemon_as_text_and_as_json() {
    let place = Place::new();
    let output = place.command(&["top"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "no daemon");
    let daemon = place.serve();
    place.done(&["volume", "create", "data", "--size", "10MB"]);
    let text = place.done(&["top", "--once"]);
    for part in ["CORE ", "DRIVE ", "VOLUME ", "data", "\nnow  "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json: Value = serde_json::from_str(&place.done(&["top", "--json"])).unwrap();
    assert_eq!(json["schema"], "drystone.top/1");
    assert_eq!(json["drives"].as_array().unwrap().len(), 3);
    assert_eq!(json["cores"][0]["index"], 0);
    assert!(json["took_ns"].as_u64().unwrap() >= 1_000_000_000 && json["limit"].is_string(), "{json}");
    stop(daemon);
}

#[test]
fn the_terminal_is_as_it_was_after_a_key_and_after_an_error() {
    let place = Place::new();
    let daemon = place.serve();
    for key in [b"q".as_slice(), b"\x03"] {
        let mut live = Live::start(&place);
        live.sees("CONNECTIONS");
        live.child.stdin.as_mut().unwrap().write_all(key).unwrap();
        assert_eq!(live.ended().0, 0);
    }
    let mut live = Live::start(&place);
    live.sees("CONNECTIONS");
    stop(daemon);
    let (code, after) = live.ended();
    assert!(code == 4 && after.contains("[DAEMON_GONE]"), "{code}: {after}");
}
