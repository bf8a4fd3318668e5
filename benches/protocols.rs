//! NBD against NVMe/TCP, in turns: one core serves a volume in memory, one is the client, over loopback.
//!
//! ```text
//! cargo bench --bench protocols [-- ROUNDS [WORDS]]
//! ```
//!
//! Default: 5 rounds of half a second for each workload and protocol. WORDS: workloads whose names have them alone.
//!
//! Printed are medians of the rounds: what the client got, what the server's thread used of its processor for it, and the
//! ratio of NVMe to NBD of each round's pair. More than 1 is better for NVMe.

use drystone::base::prng::Prng;
use drystone::base::units::{ByteLen, Span};
use drystone::block::Payload;
use drystone::io::driver::{Address, Driver};
use drystone::io::uring::{Handles, UringConfig, UringDriver};
use drystone::nbd::client::{Client, ClientOptions};
use drystone::nvmf::host::{Host, HostOptions, Queue};
use drystone::nvmf::subsystem::nqn_of;
use drystone::reactor::mailbox::mailbox;
use drystone::reactor::threads::{CorePlan, DriverFactory, launch};
use drystone::reactor::{Core, CoreIndex};
use drystone::target::{Protocol, Target, TargetConfig};
use drystone::volume::Volume;
use drystone::volume::catalog::Catalog;
use drystone::volume::memory::MemoryVolume;
use futures_util::future::join_all;
use std::cell::{Cell, RefCell};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const SIZE: u64 = 256 << 20;
const ROUND: Duration = Duration::from_millis(500);

#[derive(Clone, Copy)]
struct Workload {
    name: &'static str,
    len: u64,
    depth: usize,
    random: bool,
    writes: bool,
}

const WORKLOADS: [Workload; 6] = [
    Workload { name: "random read 4k, depth 1", len: 4096, depth: 1, random: true, writes: false },
    Workload { name: "random read 4k, depth 32", len: 4096, depth: 32, random: true, writes: false },
    Workload { name: "random write 4k, depth 32", len: 4096, depth: 32, random: true, writes: true },
    Workload { name: "sequential read 1M, depth 4", len: 1 << 20, depth: 4, random: false, writes: false },
    Workload {
        name: "sequential write 128k, depth 16",
        len: 128 << 10,
        depth: 16,
        random: false,
        writes: true,
    },
    Workload { name: "sequential write 1M, depth 4", len: 1 << 20, depth: 4, random: false, writes: true },
];

enum Wire {
    Nbd(Client),
    Nvme(Queue),
}

impl Wire {
    async fn read(&self, span: Span) {
        let read = match self {
            Wire::Nbd(client) => client.read(span).await.map_err(|e| e.to_string()),
            Wire::Nvme(queue) => queue.read(span).await.map_err(|e| e.to_string()),
        };
        assert_eq!(read.expect("the server is there").len(), span.len());
    }

    async fn write(&self, span: Span, payload: Payload) {
        let written = match self {
            Wire::Nbd(client) => client.write(span, payload, false).await.map_err(|e| e.to_string()),
            Wire::Nvme(queue) => queue.write(span, payload, false).await.map_err(|e| e.to_string()),
        };
        written.expect("the server is there");
    }
}

/// Where the server is: both addresses, and its thread.
struct Served {
    nbd: Address,
    nvme: Address,
    thread: i32,
}

fn factory(handles: Arc<Handles>) -> DriverFactory<std::io::Error> {
    Arc::new(move |buffers| {
        let driver = UringDriver::new(UringConfig::default(), buffers, handles.clone());
        driver.map(|driver| Box::new(driver) as Box<dyn Driver>).map_err(std::io::Error::other)
    })
}

fn plan(index: u16) -> CorePlan {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let cpu = Some(usize::from(index) % cpus);
    CorePlan { index: CoreIndex(index), cpu, arena: 128 << 20, seed: u64::from(index) }
}

/// Nanoseconds of processor time of a thread of this process.
fn used(thread: i32) -> u64 {
    let text =
        std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).expect("the thread runs");
    text.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("schedstat begins with a number")
}

/// Requests in half a second, and processor time of the server for each, ns.
async fn run(core: &Core, wire: &Wire, workload: Workload, thread: i32) -> (f64, f64) {
    let (requests, at) = (Cell::new(0_u64), Cell::new(0_u64));
    let prng = RefCell::new(Prng::from_seed(7));
    let payload = Payload::one({
        let mut buf = core.buffers().take(usize::try_from(workload.len).expect("small"));
        buf.as_mut_slice().fill(7);
        buf.freeze()
    });
    let (begun, before) = (Instant::now(), used(thread));
    let one = || async {
        while begun.elapsed() < ROUND {
            let places = SIZE / workload.len;
            let place = if workload.random { prng.borrow_mut().below(places) } else { at.get() % places };
            at.set(at.get() + 1);
            let span = Span::at(place * workload.len, workload.len);
            match workload.writes {
                true => wire.write(span, payload.clone()).await,
                false => wire.read(span).await,
            }
            requests.set(requests.get() + 1);
        }
    };
    join_all((0..workload.depth).map(|_| one())).await;
    let count = requests.get() as f64;
    (count / begun.elapsed().as_secs_f64(), (used(thread) - before) as f64 / count)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What was asked for on the command line.
struct Asked {
    rounds: usize,
    words: String,
}

async fn measure(core: Core, served: Served, nqn: String, number: u32, asked: Asked) {
    let Asked { rounds, words } = asked;
    let client = Client::connect(&core, served.nbd, "data", ClientOptions::default()).await.expect("NBD");
    let options = HostOptions::of(uuid::Uuid::from_u128(1));
    let host = Host::connect(&core, served.nvme, &nqn, options).await.expect("NVMe/TCP");
    let namespace = host.namespace(number).await.expect("the volume");
    let queue = host.queue(&namespace).await.expect("a queue");
    let wires = [Wire::Nbd(client), Wire::Nvme(queue)];
    println!("{:33}{:>22}{:>22}{:>26}", "", "NBD", "NVMe/TCP", "NVMe : NBD");
    println!(
        "{:33}{:>12}{:>10}{:>12}{:>10}{:>14}{:>12}",
        "", "per s", "ns", "per s", "ns", "rate", "per CPU s"
    );
    for workload in WORKLOADS.into_iter().filter(|workload| workload.name.contains(&words)) {
        let mut found: [Vec<(f64, f64)>; 2] = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            // Every second round the other way round.
            for turn in 0..2 {
                let which = (round + turn) % 2;
                found[which].push(run(&core, &wires[which], workload, served.thread).await);
            }
        }
        let of = |which: usize, pick: fn(&(f64, f64)) -> f64| median(found[which].iter().map(pick).collect());
        let ratio = |pick: fn(&(f64, f64)) -> f64| {
            median(found[1].iter().zip(&found[0]).map(|(nvme, nbd)| pick(nvme) / pick(nbd)).collect())
        };
        println!(
            "{:33}{:12.0}{:10.0}{:12.0}{:10.0}{:14.3}{:12.3}",
            workload.name,
            of(0, |f| f.0),
            of(0, |f| f.1),
            of(1, |f| f.0),
            of(1, |f| f.1),
            ratio(|f| f.0),
            1.0 / ratio(|f| f.1),
        );
    }
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let rounds = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(5);
    let asked = Asked { rounds, words: args.next().unwrap_or_default() };
    let catalog: Arc<Catalog> = Arc::default();
    let volume = Arc::new(Volume::in_memory("data", MemoryVolume::new(ByteLen(SIZE))));
    let identity = volume.identity();
    catalog.insert(volume.clone());
    let (target, mut desks) = Target::new(catalog, TargetConfig::default(), 1);
    let desk = desks.remove(0);
    let (stop, mut stops) = mailbox::<()>();
    let (told, tells) = mpsc::channel();
    let handles = Handles::new();
    let server = launch(plan(0), factory(handles.clone()), move |core: Core| async move {
        let any = || Address::Tcp("127.0.0.1:0".parse().expect("an address"));
        let filling = volume.handle(&core);
        for at in (0..SIZE).step_by(1 << 20) {
            let mut buf = core.buffers().take(1 << 20);
            buf.as_mut_slice().fill(3);
            let bytes = Payload::one(buf.freeze());
            let filled = filling.write(Span::at(at, 1 << 20), &bytes, Default::default());
            filled.await.expect("memory");
        }
        let nbd = target.listen(&core, any(), Protocol::Nbd).await.expect("a free port");
        let nvme = target.listen(&core, any(), Protocol::NvmeTcp).await.expect("a free port");
        let thread = nix::unistd::gettid().as_raw();
        told.send(Served { nbd, nvme, thread }).expect("the client waits for it");
        core.spawn(desk.attend(core.clone()));
        stops.receive().await;
        target.stop(&core, Duration::from_secs(5)).await
    });
    let server = server.expect("a thread");
    let served = tells.recv().expect("the server starts");
    let nqn = nqn_of(identity.pool);
    let client = launch(plan(1), factory(handles), move |core: Core| async move {
        measure(core, served, nqn, identity.number, asked).await;
    });
    client.expect("a thread").join().expect("no panic").expect("a ring");
    stop.send(()).expect("the server runs");
    let stopped = server.join().expect("no panic").expect("a ring");
    assert_eq!(stopped.cut, 0, "all connections ended");
}
