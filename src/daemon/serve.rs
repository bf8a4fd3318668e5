//! The daemon: boots its cores, opens the pools, serves until it is told to stop, and closes everything cleanly.

use super::cores::{self, CoreError};
use super::service::Service;
use crate::base::limits::HANDSHAKES_MAX;
use crate::base::units::ByteLen;
use crate::cli::args::{Globals, NVME_DISCOVERY_PORT, NVME_PORT, NvmeListen, Reserve, ServeArgs};
use crate::control::api::Failure;
use crate::control::event::EventKind;
use crate::control::presence::{Role, StateLock};
use crate::control::server;
use crate::io::driver::{Address, Direction};
use crate::reactor::Core;
use crate::reactor::mailbox::{Receiver, mailbox};
use crate::reactor::net::stop;
use crate::reactor::threads::{DriverFactory, build, launch};
use crate::target::{Desk, Protocol, Target, TargetConfig};
use crate::volume::catalog::Catalog;
use futures_util::future::select;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long clients may take to finish when the daemon stops.
const GRACE: Duration = Duration::from_secs(20);

/// How long a start waits for a socket that another process has, and how often it tries.
const LET_GO_MAX: Duration = Duration::from_secs(3);
const LET_GO_PAUSE: Duration = Duration::from_millis(50);

/// How the memory given to the daemon is used.
struct MemoryPlan {
    /// The buffer arena of each core, bytes.
    arena: usize,
    /// Payloads and replies of all connections.
    payloads: u64,
    /// The state of regions: written marks and checksums.
    cache: ByteLen,
}

/// Half of it for buffers, of which a quarter is left to the pool's own I/O and receive buffers; a quarter for the
/// regions' state; the rest for everything small.
fn plan_memory(memory: ByteLen, cores: usize) -> MemoryPlan {
    let arenas = memory.0 / 2;
    let arena = ByteLen(arenas / cores as u64).as_usize(); // widening
    MemoryPlan { arena, payloads: arenas / 4 * 3, cache: ByteLen(memory.0 / 4) }
}

/// Serves all known pools until SIGTERM, SIGINT or a request to stop.
pub fn serve(globals: &Globals, args: &ServeArgs) -> Result<(), Failure> {
    let _lock = StateLock::take(&globals.state, Role::Daemon)?;
    // Blocked before any thread starts, so that all of them inherit it and one thread waits for signals.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().map_err(|e| Failure::failed("SYSTEM", format!("signals cannot be held: {e}")))?;
    let cpus = args.cores.as_ref().map_or_else(cores::cpus, |list| list.0.clone());
    let memory = plan_memory(args.memory, cpus.len());
    let catalog: Arc<Catalog> = Arc::default();
    let config =
        TargetConfig { budget_bytes: memory.payloads, handshakes_max: HANDSHAKES_MAX, ..Default::default() };
    let (target, mut desks) = Target::new(catalog.clone(), config, cpus.len());
    let drivers = cores::drivers();
    let home_desk = desks.remove(0);
    let home = build(plan(0, cpus[0], &memory)?, &drivers).map_err(|e| e.to_failure())?;
    let others = start_others(desks, &cpus, &memory, &drivers)?;
    let stops = forward_signals(signals)?;
    let mut service = Service::new(&home, globals.state.clone(), memory.cache, catalog, Some(target));
    service.rebuild_after = Duration::from_secs(60 * u64::from(args.rebuild_after));
    service.reserve_enforced = args.reserve == Reserve::Enforce;
    let service = Rc::new(service);
    let (globals, args) = (globals.clone(), args.clone());
    let core = home.clone();
    let result = home.run_until(async move { run(core, service, home_desk, globals, args, stops).await });
    home.drain();
    for other in others {
        // A core that panicked has said so; the others have closed what was open.
        let _ = other.join();
    }
    result
}

fn plan(index: usize, cpu: usize, memory: &MemoryPlan) -> Result<crate::reactor::threads::CorePlan, Failure> {
    let index = u16::try_from(index).expect("cores are few");
    cores::plan(index, Some(cpu), memory.arena).map_err(|e| CoreError::from(e).to_failure())
}

type Thread = JoinHandle<Result<(), CoreError>>;

fn start_others(
    desks: Vec<Desk>,
    cpus: &[usize],
    memory: &MemoryPlan,
    drivers: &DriverFactory<CoreError>,
) -> Result<Vec<Thread>, Failure> {
    let mut threads = Vec::new();
    for desk in desks {
        let plan = plan(desk.index(), cpus[desk.index()], memory)?;
        let attend = move |core: Core| desk.attend(core);
        let started = launch(plan, drivers.clone(), attend);
        threads.push(started.map_err(|e| Failure::failed("SYSTEM", format!("no thread for a core: {e}")))?);
    }
    Ok(threads)
}

/// One thread waits for signals and passes them on as messages.
fn forward_signals(signals: SigSet) -> Result<Receiver<Signal>, Failure> {
    let (sender, receiver) = mailbox();
    let wait = move || {
        while let Ok(signal) = signals.wait() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    };
    let started = std::thread::Builder::new().name("signals".to_owned()).spawn(wait);
    started.map(|_| receiver).map_err(|e| Failure::failed("SYSTEM", format!("no thread for signals: {e}")))
}

async fn run(
    core: Core,
    service: Rc<Service>,
    desk: Desk,
    globals: Globals,
    args: ServeArgs,
    mut stops: Receiver<Signal>,
) -> Result<(), Failure> {
    core.spawn(desk.attend(core.clone()));
    let target = service.target.clone().expect("a daemon has a target");
    let begun = begin(&core, &service, &target, &globals, &args).await;
    if let Ok(control) = &begun {
        announce(&service);
        let asked = service.stop_asked.ticket();
        if !service.stopping.get() {
            select(pin!(asked), pin!(stops.receive())).await;
        }
        eprintln!("stopping: finishing what is in flight");
        service.tell(EventKind::DaemonStopping, "the daemon stops: nothing is served any more");
        stop(&core, *control, Direction::Both).await;
    }
    let stopped = target.stop(&core, GRACE).await;
    if stopped.cut > 0 {
        tracing::warn!(cut = stopped.cut, stuck = stopped.stuck, "connections were cut");
    }
    service.watch.pause();
    let closed = service.close().await;
    if closed.is_ok() {
        service.tell(EventKind::DaemonStopped, "the daemon stopped; every pool is closed as it should be");
    }
    service.watch.close();
    if begun.is_ok() {
        // The socket file is ours, and nobody listens on it any more.
        let _ = std::fs::remove_file(&globals.control);
    }
    begun.map(|_| ()).and(closed)
}

async fn begin(
    core: &Core,
    service: &Rc<Service>,
    target: &Target,
    globals: &Globals,
    args: &ServeArgs,
) -> Result<crate::io::driver::SocketId, Failure> {
    let taken = |error: &server::ListenError| matches!(error, server::ListenError::Taken(_));
    let listener = once_let_go(core, || server::listen(core, &globals.control), taken).await;
    let listener = listener.map_err(|error| match error {
        server::ListenError::Taken(_) => Failure::failed("STATE_IN_USE", error.to_string()),
        server::ListenError::NotASocket(_) | server::ListenError::Io { .. } => {
            Failure::failed("SYSTEM", format!("the control socket: {error}"))
                .with("another place: --control SOCKET")
        }
    })?;
    let cleanly = service.watch.begin(&globals.state);
    service.watch.write_to(&globals.state);
    let failures = service.open_known().await?;
    service.tell_start(cleanly, &failures);
    for failure in failures {
        eprintln!("error [{}]: {}", failure.code, failure.message);
        failure.details.iter().for_each(|line| eprintln!("  {line}"));
    }
    core.spawn(service.clone().keep_looking());
    for address in &args.nbd {
        let taken = |errno: &Errno| *errno == Errno::EADDRINUSE;
        let attempt = || target.listen(core, address.clone(), Protocol::Nbd);
        let bound = once_let_go(core, attempt, taken).await;
        let bound = bound.map_err(|errno| port_taken(address, errno, "--nbd ADDRESS:PORT"))?;
        service.listening.borrow_mut().push(show(&bound));
    }
    for listen in &args.nvme {
        if let NvmeListen::At(address) = listen {
            listen_nvme(core, service, target, *address).await?;
        }
    }
    let socket = listener.socket();
    let (handler, ender) = (service.clone(), service.clone());
    let handle = move |connection, request| {
        let service = handler.clone();
        async move { service.execute(Some(connection), request).await }
    };
    let ended = move |connection| ender.ended(connection);
    core.spawn(server::serve_connections(core.clone(), listener, handle, ended));
    Ok(socket)
}

/// Listens for NVMe/TCP hosts, and beside the standard port where they ask what there is.
async fn listen_nvme(
    core: &Core,
    service: &Service,
    target: &Target,
    address: SocketAddr,
) -> Result<(), Failure> {
    let taken = |errno: &Errno| *errno == Errno::EADDRINUSE;
    let at = |address: SocketAddr, protocol| target.listen(core, Address::Tcp(address), protocol);
    let bound = once_let_go(core, || at(address, Protocol::NvmeTcp), taken).await;
    let hint = "--nvme ADDRESS:PORT, or --nvme off";
    let bound = bound.map_err(|errno| port_taken(&Address::Tcp(address), errno, hint))?;
    service.listening_nvme.borrow_mut().push(show(&bound));
    if address.port() == NVME_PORT {
        let beside = SocketAddr::new(address.ip(), NVME_DISCOVERY_PORT);
        if let Err(errno) = once_let_go(core, || at(beside, Protocol::NvmeDiscovery), taken).await {
            // Hosts can ask at the other port, too.
            eprintln!(
                "warning: {beside} cannot be listened on: {}; nvme discover needs -s {NVME_PORT}",
                errno.desc()
            );
        }
    }
    Ok(())
}

/// Tries until it does not fail with "taken", for a while: a process that was killed keeps its sockets until the
/// kernel has ended what its ring was doing.
async fn once_let_go<T, E, F: Future<Output = Result<T, E>>>(
    core: &Core,
    attempt: impl Fn() -> F,
    is_taken: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let give_up = core.now() + LET_GO_MAX;
    loop {
        match attempt().await {
            Err(error) if is_taken(&error) && core.now() < give_up => core.sleep(LET_GO_PAUSE).await,
            ended => return ended,
        }
    }
}

fn port_taken(address: &Address, errno: Errno, elsewhere: &str) -> Failure {
    Failure::failed("PORT_TAKEN", format!("{} cannot be listened on: {}", show(address), errno.desc()))
        .with(format!("listen elsewhere: {elsewhere}"))
}

fn show(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn announce(service: &Service) {
    let listening = service.listening.borrow().join(", ");
    let nvme = service.listening_nvme.borrow().join(", ");
    let beside = if nvme.is_empty() { String::new() } else { format!(", NVMe/TCP on {nvme}") };
    eprintln!("serving NBD on {listening}{beside}; stop with SIGTERM or Ctrl-C");
    for volume in service.catalog.list() {
        eprintln!("  {}  {}", volume.name(), crate::base::size::show_size(volume.geometry().size));
    }
}
