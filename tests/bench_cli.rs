//! `bench --against` as a user runs it: a daemon on files, one of its volumes measured beside another one.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// A folder with a state folder, a place for a socket, and disks.
struct Place {
    folder: tempfile::TempDir,
}

/// A daemon that ends with the test.
struct Daemon {
    process: Child,
    /// `nbd://HOST:PORT`
    address: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already; then the test has failed for that.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Place {
    /// With a pool `tank` of two files, and volumes `data` and `other`.
    fn new() -> Place {
        let place = Place { folder: tempfile::tempdir().unwrap() };
        for name in ["a", "b"] {
            std::fs::File::create(place.path(name)).unwrap().set_len(300_000_000).unwrap();
        }
        place.done(&["pool", "create", "tank", "a", "b"]);
        place.done(&["volume", "create", "data", "--size", "32MiB"]);
        place.done(&["volume", "create", "other", "--size", "16MiB"]);
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

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn done(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", talk(&output));
    }

    /// A daemon; returns when it serves.
    fn serve(&self) -> Daemon {
        let mut command = self.command(&["serve", "--nbd", "127.0.0.1:0", "--nvme", "off"]);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        let serving = said.find_map(|line| line.unwrap().strip_prefix("serving NBD on ").map(str::to_owned));
        let address = serving.expect("it serves").split_ascii_whitespace().next().unwrap().to_owned();
        std::thread::spawn(move || said.for_each(drop));
        Daemon { process, address: format!("nbd://{}", address.trim_end_matches(';')) }
    }
}

fn talk(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn ratios(peer: &Value) -> Vec<&str> {
    peer["ratios"].as_array().unwrap().iter().map(|r| r["workload"].as_str().unwrap()).collect()
}

#[test]
fn another_server_is_read_beside_the_volume_and_one_that_is_silent_is_reported() {
    let place = Place::new();
    let daemon = place.serve();
    let (other, nobody) = (format!("{}/other", daemon.address), "nbd+unix:///?socket=/no/such/socket");
    let bench = ["bench", "data", "--seconds", "1", "--out", "report", "--json"];
    let ran = place.run(&[&bench[..], &["--against", &other, "--against", nobody]].concat());
    assert_eq!(ran.status.code(), Some(1), "{}", talk(&ran));
    assert!(talk(&ran).contains("[NOT_COMPARED]") && talk(&ran).contains(nobody), "{}", talk(&ran));
    // The report, and behind it the error as every command gives it with --json.
    let mut documents = serde_json::Deserializer::from_slice(&ran.stdout).into_iter::<Value>();
    let report = documents.next().unwrap().unwrap();
    assert!(documents.next().unwrap().unwrap().to_string().contains("NOT_COMPARED"));
    let against = &report["against"];
    assert_eq!(ratios(&against[0]), ["sequential_read", "random_read", "random_read_deep"], "{against}");
    assert!(against[0]["ratios"][1]["p50"]["median_permille"].as_u64().unwrap() > 0);
    assert_eq!((&against[0]["area_bytes"], &against[0]["rounds"]), (&(16 << 20).into(), &5.into()));
    assert_eq!(against[1]["workloads"][0]["outcome"], "failed");
    assert_eq!(report["end_to_end"][1]["outcome"], "measured", "ours is written in a scratch volume");
    let page = std::fs::read_to_string(place.path("report/index.html")).unwrap();
    assert!(page.contains(&format!("Against {other}")) && page.contains("--against-write"), "{page}");
    assert!(
        std::fs::read_to_string(place.path("report/throughput.svg")).unwrap().contains("drystone : other 1")
    );
}

#[test]
fn writing_to_the_measured_volume_by_another_name_is_refused() {
    let place = Place::new();
    let daemon = place.serve();
    let itself = format!("{}/data", daemon.address);
    let ran = place.run(&["bench", "data", "--seconds", "1", "--against", &itself, "--against-write"]);
    assert_eq!(ran.status.code(), Some(3), "{}", talk(&ran));
    assert!(talk(&ran).contains("[AGAINST_ITSELF]"), "{}", talk(&ran));
    let alone = place.run(&["bench", "data", "--against-write"]);
    assert_eq!(alone.status.code(), Some(2), "{}", talk(&alone));
    let disks = place.run(&["bench", "./a", "--against", &itself]);
    assert!(talk(&disks).contains("[NOTHING_TO_COMPARE]"), "{}", talk(&disks));
}
