//! Everything once, on files in a temporary folder: a real daemon, real requests, a drive pulled in the middle.
//!
//! The daemon is this program started as a child; the demo talks to it as any user and client would.

use super::cores;
use crate::base::prng::Prng;
use crate::base::size::show_size;
use crate::base::units::{ByteLen, Span};
use crate::bench::processor::Server;
use crate::bench::{Endpoint, Ends, Plan, measure, report_table};
use crate::block::{Payload, pieces};
use crate::cli::args::{DemoArgs, Globals};
use crate::control::api::{DriveState, Failure, PoolCreate, PoolReport, Reply, Request, VolumeCreate};
use crate::control::client::Client as Control;
use crate::io::driver::Address;
use crate::nbd::client::{Client, ClientOptions};
use crate::reactor::Core;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const DRIVES_MB: [u64; 6] = [80, 500, 500, 500, 500, 500];
const SAFE: &str = "safe";
const FAST: &str = "fast";
const SCRATCH: &str = "scratch";
const VOLUME: ByteLen = ByteLen(256 << 20);
const CONTENT: ByteLen = ByteLen(48 << 20);
const BENCH_TIME: Duration = Duration::from_secs(12);
const PATIENCE: Duration = Duration::from_secs(30);
const ARENA: usize = 64 << 20;

/// Shows everything once.
pub fn demo(_globals: &Globals, args: &DemoArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let mut stage = Stage::set()?;
    stage.build_pool()?;
    let core = cores::here(ARENA)?;
    let result = stage.play(&core);
    core.drain();
    result?;
    println!(
        "\nDone in {:.0} s: written and read back over NBD, and still right without a drive.",
        began.elapsed().as_secs_f64()
    );
    if args.keep { stage.keep() } else { stage.strike() }
}

/// The temporary folder, the drives in it, and the daemon that serves them.
struct Stage {
    folder: PathBuf,
    drives: Vec<PathBuf>,
    daemon: Option<Child>,
    kept: bool,
}

impl Stage {
    fn set() -> Result<Stage, Failure> {
        let folder = std::env::temp_dir().join(format!("drystone-demo-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(|e| system("the temporary folder", &e))?;
        let mut stage = Stage { folder, drives: Vec::new(), daemon: None, kept: false };
        for (index, mb) in DRIVES_MB.iter().enumerate() {
            let path = stage.folder.join(format!("drive{}-{mb}MB.img", index + 1));
            let file = std::fs::File::create(&path).map_err(|e| system("a drive's file", &e))?;
            file.set_len(mb * 1_000_000).map_err(|e| system("a drive's file", &e))?;
            stage.drives.push(path);
        }
        println!("1 drives    one of 80 MB, five of 500 MB, as sparse files in {}", stage.folder.display());
        stage.daemon = Some(stage.start_daemon()?);
        Ok(stage)
    }

    fn start_daemon(&self) -> Result<Child, Failure> {
        let program = std::env::current_exe().map_err(|e| system("this program's path", &e))?;
        let log = std::fs::File::create(self.folder.join("daemon.log")).map_err(|e| system("the log", &e))?;
        Command::new(program)
            .args(["--state".as_ref(), self.folder.join("state").as_os_str()])
            .args(["--control".as_ref(), self.control_path().as_os_str()])
            .args(["serve", "--nbd", "127.0.0.1:0", "--nvme", "127.0.0.1:0", "--memory", "256MiB"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|e| system("the daemon", &e))
    }

    fn control_path(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    fn control(&self) -> Result<Control, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            match Control::connect(&self.control_path()) {
                Ok(control) => return Ok(control),
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => {
                    let log = std::fs::read_to_string(self.folder.join("daemon.log")).unwrap_or_default();
                    return Err(Failure::failed(
                        "DAEMON_UNREACHABLE",
                        format!("the daemon did not start: {error}"),
                    )
                    .with(log.trim().to_owned()));
                }
            }
        }
    }

    fn ask(&self, request: &Request) -> Result<Reply, Failure> {
        let reply = self.control()?.ask(request, PATIENCE);
        match reply.map_err(|e| Failure::failed("DAEMON_UNREACHABLE", e.to_string()))? {
            Reply::Failed(failure) => Err(failure),
            reply => Ok(reply),
        }
    }

    fn change(&self, step: &str, request: &Request) -> Result<(), Failure> {
        if let Reply::Done { message } = self.ask(request)? {
            println!("{step:<12}{message}");
        }
        Ok(())
    }

    fn build_pool(&self) -> Result<(), Failure> {
        let create = PoolCreate {
            name: "tank".to_owned(),
            disks: self.drives.clone(),
            copies: 2,
            extent_bytes: None,
            erase: Vec::new(),
        };
        self.change("2 pool", &Request::PoolCreate(create))?;
        self.change("3 volumes", &volume(SAFE, 2))?;
        self.change("", &volume(FAST, 1))
    }

    fn status(&self) -> Result<(PoolReport, Address), Failure> {
        let Reply::Status(status) = self.ask(&Request::Status { pool: None })? else {
            return Err(unexpected());
        };
        let address = status.listening.first().and_then(|a| a.parse().ok()).ok_or_else(unexpected)?;
        let pool = status.pools.into_iter().next().ok_or_else(unexpected)?;
        Ok((pool, Address::Tcp(address)))
    }

    fn play(&self, core: &Core) -> Result<(), Failure> {
        let (_, address) = self.status()?;
        for name in [SAFE, FAST] {
            let took = on(core, write_and_check(core.clone(), address.clone(), name, 1))?;
            let rate = CONTENT.0 as f64 / took.as_secs_f64() / 1e6; // a rate for people
            let size = show_size(CONTENT);
            println!(
                "{:<12}{name}: {size} written, flushed, read back over NBD: right ({rate:.0} MB/s)",
                "4 data"
            );
        }
        self.bench(core, &address)?;
        self.pull(core, &address)
    }

    fn bench(&self, core: &Core, address: &Address) -> Result<(), Failure> {
        self.ask(&volume(SCRATCH, 2))?;
        let mut control = self.control()?;
        let begin = Request::BenchBegin { size_bytes: VOLUME.0 };
        let network = match control.ask(&begin, PATIENCE) {
            Ok(Reply::Bench { export }) => Some(Endpoint { address: address.clone(), export }),
            Ok(_) | Err(_) => None,
        };
        let ends = Ends {
            target: "the mirrored pool".to_owned(),
            drives: self.drives[..2].to_vec(),
            network_lent: network.is_some(),
            network,
            volume: None,
            scratch: Some(Endpoint { address: address.clone(), export: SCRATCH.to_owned() }),
            copies: 2,
            namespace: None,
            namespace_lent: false,
            server: Server { pid: self.daemon.as_ref().map(Child::id) },
            others: Vec::new(),
        };
        let plan = Plan { region: ByteLen(64 << 20), ..Plan::in_all(BENCH_TIME, &ends) };
        let measured = core.clone();
        let report = core.run_until(async move { measure(&measured, &ends, &plan).await });
        println!("\n5 bench     drives, network, and the way through both, in short runs\n");
        println!("{}", report_table::render(&report));
        drop(control);
        self.remove(SCRATCH)
    }

    /// Destroys a volume once its last connection is gone.
    fn remove(&self, name: &str) -> Result<(), Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.ask(&Request::VolumeDestroy { volume: name.to_owned() }) {
                Err(failure) if failure.code == "VOLUME_IN_USE" && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => return other.map(|_| ()),
            }
        }
    }

    fn pull(&self, core: &Core, address: &Address) -> Result<(), Failure> {
        self.remove(FAST)?;
        println!(
            "6 drive     {FAST} has one copy and is removed first; then a 500 MB drive is cut off while writing"
        );
        let drive = self.drives[2].clone();
        let cut = move || std::fs::OpenOptions::new().write(true).open(&drive).and_then(|f| f.set_len(0));
        let puller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            cut()
        });
        on(core, write_and_check(core.clone(), address.clone(), SAFE, 2))?;
        let pulled = puller.join().map_err(|_| unexpected())?;
        pulled.map_err(|e| system("cutting off the drive", &e))?;
        let report = self.wait_for_loss()?;
        on(core, check(core.clone(), address.clone(), SAFE, 2))?;
        let lost: Vec<&str> =
            report.drives.iter().filter(|d| d.state != DriveState::Active).map(|d| d.path.as_str()).collect();
        println!("{:<12}lost: {}", "", lost.join(", "));
        let single = show_size(ByteLen(report.single_copy_bytes));
        println!(
            "{:<12}{SAFE}: every byte right, no error seen by the client; {single} are on one copy now",
            ""
        );
        Ok(())
    }

    fn wait_for_loss(&self) -> Result<PoolReport, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let (report, _) = self.status()?;
            if report.drives.iter().any(|d| d.state != DriveState::Active) {
                return Ok(report);
            }
            if Instant::now() >= until {
                return Err(Failure::failed(
                    "DEMO_FAILED",
                    "the daemon did not notice that a drive was cut off",
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn keep(&mut self) -> Result<(), Failure> {
        self.kept = true;
        let (_, address) = self.status()?;
        let Address::Tcp(address) = address else { return Err(unexpected()) };
        let pid = self.daemon.as_ref().map_or(0, Child::id);
        let (folder, control) = (self.folder.display(), self.control_path());
        println!("\nStill serving (process {pid}), on one drive less:");
        println!("  look:    drystone --control {} status", control.display());
        println!("  attach:  sudo nbd-client 127.0.0.1 {} /dev/nbd0 -N {SAFE} -C 4", address.port());
        println!("  or:      nbdinfo nbd://127.0.0.1:{}/{SAFE}", address.port());
        println!("  end it:  kill {pid} && rm -r {folder}");
        Ok(())
    }

    fn strike(&mut self) -> Result<(), Failure> {
        self.ask(&Request::Stop)?;
        if let Some(mut daemon) = self.daemon.take() {
            let status = daemon.wait().map_err(|e| system("the daemon's end", &e))?;
            if !status.success() {
                return Err(Failure::failed("DEMO_FAILED", format!("the daemon ended with {status}")));
            }
        }
        println!("Everything was removed again. `drystone demo --keep` leaves it serving.");
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Some(mut daemon) = self.daemon.take() {
            // It may have ended by itself; either way nothing of it is left afterwards.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn volume(name: &str, copies: u8) -> Request {
    Request::VolumeCreate(VolumeCreate {
        name: name.to_owned(),
        size_bytes: VOLUME.0,
        pool: None,
        copies: Some(copies),
        stripe_unit_bytes: None,
        checksums: true,
        lba_bytes: None,
    })
}

fn on<T: 'static>(
    core: &Core,
    work: impl Future<Output = Result<T, Failure>> + 'static,
) -> Result<T, Failure> {
    core.run_until(work)
}

async fn connect(core: &Core, address: Address, name: &str) -> Result<Client, Failure> {
    let connected = Client::connect(core, address, name, ClientOptions::default()).await;
    connected.map_err(|e| Failure::failed("DEMO_FAILED", format!("{name} cannot be attached: {e}")))
}

/// Writes content made from a seed, flushes, reads it back. The time that took.
async fn write_and_check(
    core: Core,
    address: Address,
    name: &'static str,
    seed: u64,
) -> Result<Duration, Failure> {
    let client = connect(&core, address.clone(), name).await?;
    let began = core.now();
    for span in steps() {
        let written = client.write(span, content(&core, span, seed), false).await;
        written.map_err(|e| Failure::failed("DEMO_FAILED", format!("{name}: a write failed: {e}")))?;
    }
    client
        .flush()
        .await
        .map_err(|e| Failure::failed("DEMO_FAILED", format!("{name}: the flush failed: {e}")))?;
    drop(client);
    check(core.clone(), address, name, seed).await?;
    Ok(core.now() - began)
}

async fn check(core: Core, address: Address, name: &'static str, seed: u64) -> Result<(), Failure> {
    let client = connect(&core, address, name).await?;
    for span in steps() {
        let read = client.read(span).await;
        let read = read.map_err(|e| Failure::failed("DEMO_FAILED", format!("{name}: a read failed: {e}")))?;
        if read.to_vec() != content(&core, span, seed).to_vec() {
            return Err(Failure::failed("DEMO_FAILED", format!("{name}: wrong data at {:?}", span.offset())));
        }
    }
    // The answer to a goodbye is the end of the connection, which may be there already.
    let _ = client.disconnect().await;
    Ok(())
}

fn steps() -> impl Iterator<Item = Span> {
    (0..CONTENT.0 >> 20).map(|n| Span::at(n << 20, 1 << 20))
}

fn content(core: &Core, span: Span, seed: u64) -> Payload {
    let mut prng = Prng::from_seed(seed ^ span.offset().0);
    let mut payload = Payload::default();
    for piece in pieces(span) {
        let mut buf = core.buffers().take(piece.span.len().as_usize());
        prng.fill(buf.as_mut_slice());
        payload.parts.push(buf.freeze());
    }
    payload
}

fn system(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::failed("SYSTEM", format!("{what}: {error}"))
}

fn unexpected() -> Failure {
    Failure::failed("ANSWER_UNEXPECTED", "the daemon answered something else")
}
