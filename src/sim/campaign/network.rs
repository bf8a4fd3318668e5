//! Clients on other machines: NBD and NVMe/TCP over the simulated network to the production server, on the pool's own
//! cores.
//!
//! ```text
//! Fleet: machines ── clients ── Line (one volume, its connection of the moment) ─ network ─ Target ─ volumes
//! ```
//!
//! Several clients share a connection, several connections a volume. Connections are reset, clogged (silent, then on
//! again or reset, as the kernel's probes do with a peer that says nothing), and machines vanish.
//!
//! **Outcomes.** A request whose connection died may take effect until the server has ended that connection: only then
//! nothing of it is running (R12). Each connection goes to an address of its own, by which the world tells whether the
//! server's end is still there. Until then the change stays open in the model, as one in flight; then it counts as one
//! that failed: it happened or not, but not later. In a load without disturbance no connection may break at all.

use super::life::{LIMIT, Life, Machine};
use super::plan::{Fault, pick};
use super::port::{Broken, BrokenKind, Call, Fault as Failed, Way, Wire};
use super::report::{Failure, Oracle, Verdict};
use super::run::Loaded;
use super::workload::{Field, client};
use crate::base::limits::PAYLOAD_MAX;
use crate::base::prng::Prng;
use crate::io::driver::Address;
use crate::nbd::client::{Client, ClientOptions};
use crate::nbd::wire::ReplyMode;
use crate::nvmf::host::{Host, HostOptions};
use crate::nvmf::pdu::Digests;
use crate::nvmf::subsystem::nqn_of;
use crate::reactor::Core;
use crate::sim::{ConnectionId, NetDials, Place, Process, ProcessId, Stop, World};
use crate::target::{Protocol, Stopped, Target, TargetConfig};
use crate::volume::Identity;
use crate::volume::catalog::Catalog;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const PORT: u16 = 10809;
const NVME_PORT: u16 = 4420;

/// Within this a client must have been let in, virtual time: longer than any silence.
const CONNECT_LIMIT: Duration = Duration::from_secs(300);

const RETRY: Duration = Duration::from_millis(50);

/// Within this the server ends connections that were closed, where nothing was disturbed.
const GOODBYE_LIMIT: Duration = Duration::from_secs(60);

/// And where it was: the longest silence, and then the server's patience.
const SILENCE_LIMIT: Duration = Duration::from_secs(200);

/// Machines that vanish in one load, at most.
const VANISH_MAX: u64 = 2;

/// The server of a life.
#[derive(Clone)]
pub struct Service {
    target: Target,
    budget: u64,
}

/// What the clients of one load share.
pub struct Net {
    field: Rc<Field>,
    world: World,
    /// The process that serves.
    head: ProcessId,
    /// Changes that were issued and not answered.
    open: RefCell<BTreeMap<u64, Open>>,
    /// Connections may break, or be silent.
    disturbed: Cell<bool>,
    /// How long clients wait for an answer.
    stall: Duration,
    /// What the volumes are over NVMe, by their numbers.
    identities: Vec<Identity>,
}

/// A change that was issued and not answered.
struct Open {
    machine: u32,
    address: Address,
    /// No answer will come any more.
    lost: bool,
}

/// A way to one volume, shared by some clients of one machine.
pub struct Line {
    net: Rc<Net>,
    machine: u32,
    volume: usize,
    core: Core,
    speaks: Speaks,
    slot: RefCell<Option<(Wire, Address)>>,
}

/// What is spoken on a line.
#[derive(Clone, Copy, Debug)]
enum Speaks {
    Nbd(ReplyMode),
    /// As a host of this name.
    Nvme {
        digests: Digests,
        capsule: u32,
        host: Uuid,
    },
}

impl Net {
    fn fail(&self, oracle: Oracle, what: String) -> Failure {
        Failure::new(oracle, format!("over the network: {what}"))
    }

    /// Whether an error of the network needs no excuse: the server is gone, or the network was disturbed.
    fn bears(&self) -> bool {
        self.disturbed.get() || !self.world.is_alive(self.head)
    }

    pub fn is_disturbed(&self) -> bool {
        self.disturbed.get()
    }

    /// Ends the changes in the model that were lost and whose connection the server has ended.
    fn reap(&self) {
        self.open.borrow_mut().retain(|change, open| {
            let over = open.lost && !self.world.is_served(&open.address);
            if over {
                self.field.model.borrow_mut().end(*change, false);
            }
            !over
        });
    }

    fn lose_machine(&self, machine: u32) {
        self.open.borrow_mut().values_mut().filter(|o| o.machine == machine).for_each(|o| o.lost = true);
    }
}

impl Line {
    pub fn core(&self) -> &Core {
        &self.core
    }

    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The connection, made anew until it works.
    pub async fn call(self: &Rc<Line>) -> Verdict<Call> {
        let begun = self.core.now();
        loop {
            if let Some((wire, address)) = self.slot.borrow().clone() {
                return Ok(Call { wire, address, line: self.clone() });
            }
            if let Err(error) = self.connect().await? {
                let waited = self.core.now().since(begun);
                if waited > CONNECT_LIMIT && self.net.world.is_alive(self.net.head) {
                    let what = format!("not connected after {waited:?}: {}", error.text);
                    return Err(self.net.fail(Oracle::Liveness, what));
                }
                self.core.sleep(RETRY).await;
            }
        }
    }

    async fn connect(&self) -> Verdict<Result<(), Broken>> {
        let (net, least) = (&self.net, self.net.field.size(self.volume));
        let address = net.field.fresh_address();
        let connected = match self.speaks {
            Speaks::Nbd(replies) => self.attach(address.clone(), replies).await,
            Speaks::Nvme { digests, capsule, host } => {
                self.associate(with_port(&address), digests, capsule, host).await
            }
        };
        let address = match self.speaks {
            Speaks::Nbd(_) => address,
            Speaks::Nvme { .. } => with_port(&address),
        };
        match connected {
            Ok(wire) if wire.size() < least => {
                let what = format!("v{} is said to have {} bytes, not {least}", self.volume, wire.size());
                Err(net.fail(Oracle::Answers, what))
            }
            Ok(wire) => {
                net.field.counts.borrow_mut().connections += 1;
                *self.slot.borrow_mut() = Some((wire, address));
                Ok(Ok(()))
            }
            Err(Failed::Broken(broken)) if net.bears() && broken.kind != BrokenKind::Violation => {
                Ok(Err(broken))
            }
            Err(Failed::Broken(broken)) => {
                Err(net.fail(Oracle::Answers, format!("v{}: no connection: {}", self.volume, broken.text)))
            }
            Err(Failed::Said(status)) => {
                Err(net.fail(Oracle::Answers, format!("v{}: not let in: {status}", self.volume)))
            }
        }
    }

    async fn attach(&self, address: Address, replies: ReplyMode) -> Result<Wire, Failed> {
        let options = ClientOptions {
            replies,
            allocation: replies != ReplyMode::Simple,
            stall: self.net.stall,
            ..ClientOptions::default()
        };
        let name = format!("v{}", self.volume);
        Ok(Wire::Nbd(Client::connect(&self.core, address, &name, options).await?))
    }

    async fn associate(
        &self,
        address: Address,
        digests: Digests,
        capsule: u32,
        host: Uuid,
    ) -> Result<Wire, Failed> {
        let identity = self.net.identities[self.volume];
        let options =
            HostOptions { digests, capsule, queues: 1, stall: self.net.stall, ..HostOptions::of(host) };
        let host = Host::connect(&self.core, address, &nqn_of(identity.pool), options).await?;
        let namespace = host.namespace(identity.number).await?;
        let queue = host.queue(&namespace).await?;
        Ok(Wire::Nvme(host, queue))
    }

    /// A request found the connection dead: the next one makes another.
    pub fn broke(&self, address: &Address, broken: &Broken) {
        let mut slot = self.slot.borrow_mut();
        if slot.as_ref().is_some_and(|(_, a)| a == address) {
            *slot = None;
            self.net.field.counts.borrow_mut().connections_lost += 1;
        }
        drop(slot);
        // What only a silent drive has is waited for longer than clients wait.
        let waits = self.net.field.copies(self.volume) == 1 || self.net.field.beyond;
        match broken.kind {
            BrokenKind::NotSent => return,
            BrokenKind::Stalled if waits => return,
            BrokenKind::Violation => {}
            BrokenKind::Lost | BrokenKind::Stalled | BrokenKind::Refused if self.net.bears() => return,
            BrokenKind::Lost | BrokenKind::Stalled | BrokenKind::Refused => {}
        }
        self.net.field.fail(self.net.fail(Oracle::Answers, format!("a request ended with: {}", broken.text)));
    }

    /// A change goes out on a connection.
    pub fn sent(&self, change: u64, address: &Address) {
        let open = Open { machine: self.machine, address: address.clone(), lost: false };
        self.net.open.borrow_mut().insert(change, open);
    }

    /// A change was answered.
    pub fn answered(&self, change: u64) {
        self.net.open.borrow_mut().remove(&change);
    }

    /// A change will not be answered any more.
    pub fn lost(&self, change: u64) {
        self.net.field.counts.borrow_mut().outcomes_unknown += 1;
        self.net.open.borrow_mut().get_mut(&change).expect("it was sent").lost = true;
    }

    /// Says goodbye if nobody else uses this line.
    pub async fn leave(self: Rc<Line>) -> Verdict {
        if Rc::strong_count(&self) > 1 {
            return Ok(());
        }
        let Some((wire, _)) = self.slot.borrow_mut().take() else { return Ok(()) };
        match wire.leave().await {
            Err(Failed::Broken(broken)) if !self.net.bears() => {
                Err(self.net.fail(Oracle::Answers, format!("a goodbye ended with: {}", broken.text)))
            }
            Err(Failed::Said(status)) => {
                Err(self.net.fail(Oracle::Answers, format!("a goodbye was answered: {status}")))
            }
            Ok(()) | Err(Failed::Broken(_)) => Ok(()),
        }
    }
}

/// The client machines of one load.
struct Fleet {
    net: Rc<Net>,
    machines: Vec<Crew>,
    booted: u32,
    /// Machines that are to vanish.
    orders: Rc<Cell<u64>>,
}

/// A machine and its clients.
struct Crew {
    number: u32,
    process: Process,
    clients: u64,
    ended: Rc<Cell<u64>>,
}

impl Fleet {
    fn is_done(&self) -> bool {
        self.machines.iter().all(|m| m.ended.get() == m.clients)
    }

    fn cores(&self, life: &Life) -> Vec<Core> {
        let mine = self.machines.iter().flat_map(|m| m.process.cores.iter());
        life.process.cores.iter().chain(mine).cloned().collect()
    }
}

impl Machine {
    /// Lets clients on other machines work over the network, to their end or to a crash.
    pub fn load_over_network(
        &mut self,
        life: &Life,
        operated: &Cell<bool>,
        on: &Rc<Cell<bool>>,
    ) -> Verdict<Loaded> {
        let service = match self.serve(life) {
            Ok(service) => service,
            Err(Stop::Crashed) => return Ok(Loaded::Crashed),
            Err(stop) => return Err(stop.into()),
        };
        let mut fleet = self.launch(life);
        self.disturb(&fleet, on);
        let ended = self.sail(life, &mut fleet, operated);
        self.meet_joined();
        on.set(false);
        let ended = match ended {
            Ok(Loaded::Done) => self.await_goodbyes(life, &fleet, &service),
            other => other,
        };
        self.world.set_net(NetDials::default());
        for crew in fleet.machines {
            let buried = self.bury(crew.process);
            if ended.is_ok() {
                buried?;
            }
        }
        ended
    }

    /// The server of this life.
    fn serve(&mut self, life: &Life) -> Result<Service, Stop> {
        if let Some(service) = life.service.borrow().clone() {
            return Ok(service);
        }
        let catalog = Arc::new(Catalog::default());
        life.handles[0].iter().for_each(|handle| catalog.insert(handle.volume().clone()));
        let budget = pick(&mut self.prng, &[2 * PAYLOAD_MAX, 8 * PAYLOAD_MAX]);
        let config = TargetConfig {
            budget_bytes: budget,
            handshakes_max: pick(&mut self.prng, &[1, 4, 64]),
            patience: pick(&mut self.prng, &[5, 60].map(Duration::from_secs)),
            ..TargetConfig::default()
        };
        let (target, desks) = Target::new(catalog, config, life.process.cores.len());
        for desk in desks {
            let core = life.process.core(desk.index()).clone();
            life.process.core(desk.index()).spawn(desk.attend(core));
        }
        let (listening, core) = (target.clone(), life.process.core(0).clone());
        let any = |port: u16| Address::Tcp(([0, 0, 0, 0], port).into());
        let bound = self.on(&life.process, async move {
            listening.listen(&core, any(PORT), Protocol::Nbd).await?;
            listening.listen(&core, any(NVME_PORT), Protocol::NvmeTcp).await
        })?;
        bound.expect("nobody else listens on this machine");
        let service = Service { target, budget };
        *life.service.borrow_mut() = Some(service.clone());
        Ok(service)
    }

    fn launch(&mut self, life: &Life) -> Fleet {
        let stall = pick(&mut self.prng, &[12, 20, 60].map(Duration::from_secs));
        let net = Net {
            field: self.field.clone(),
            world: self.world.clone(),
            head: life.process.id,
            open: RefCell::default(),
            disturbed: Cell::new(false),
            stall,
            identities: life.handles[0].iter().map(|handle| handle.volume().identity()).collect(),
        };
        let mut fleet = Fleet { net: Rc::new(net), machines: Vec::new(), booted: 0, orders: Rc::default() };
        let machines = (1 + self.prng.below(2)).min(self.plan.clients);
        for machine in 0..machines {
            let clients = (self.plan.clients - machine).div_ceil(machines);
            self.boot_crew(&mut fleet, clients, self.plan.requests);
        }
        fleet
    }

    /// A machine with clients; some of them share connections.
    fn boot_crew(&mut self, fleet: &mut Fleet, clients: u64, requests: u64) {
        let number = fleet.booted;
        fleet.booted += 1;
        let process = self.world.boot_at(Place::Elsewhere, 1);
        let ended: Rc<Cell<u64>> = Rc::default();
        let bundles = 1 + self.prng.below(clients);
        let bundles: Vec<Vec<Way>> =
            (0..bundles).map(|_| self.lines(fleet, number, process.core(0))).collect();
        for client_number in 0..clients {
            let bundle = usize::try_from(client_number).expect("few") % bundles.len();
            let (field, ways, done) = (self.field.clone(), bundles[bundle].clone(), ended.clone());
            let prng = self.prng.fork();
            process.core(0).spawn(async move {
                client(field, ways, prng, requests).await;
                done.set(done.get() + 1);
            });
        }
        fleet.machines.push(Crew { number, process, clients, ended });
    }

    /// A line to each volume.
    fn lines(&mut self, fleet: &Fleet, machine: u32, core: &Core) -> Vec<Way> {
        let line = |volume| Line {
            net: fleet.net.clone(),
            machine,
            volume,
            core: core.clone(),
            speaks: speaks(&mut self.prng),
            slot: RefCell::default(),
        };
        (0..self.plan.volumes.len()).map(line).map(|line| Way::Network(Rc::new(line))).collect()
    }

    /// Orders what happens to the network in this load; now and then nothing does.
    fn disturb(&mut self, fleet: &Fleet, on: &Rc<Cell<bool>>) {
        let quiet = self.prng.chance(250);
        let rare = |prng: &mut Prng, values: &[u64]| if quiet { 0 } else { pick(prng, values) };
        let dials = NetDials {
            latency_ns: pick(&mut self.prng, &[30_000, 30_000, 300_000]),
            tiny: pick(&mut self.prng, &[0, 100, 400]),
            window_max: pick(&mut self.prng, &[16 << 10, 256 << 10, 4 << 20]),
            reset: rare(&mut self.prng, &[0, 0, 0, 2, 10]),
            clog: rare(&mut self.prng, &[0, 0, 0, 5]),
            ..NetDials::default()
        };
        let events = rare(&mut self.prng, &[0, 1, 2, 4, 8]);
        self.step(format!(
            "network: {} machines, {events} events, {} resets and {} clogs of 1000, window {}",
            fleet.machines.len(),
            dials.reset,
            dials.clog,
            dials.window_max
        ));
        fleet.net.disturbed.set(events + dials.reset + dials.clog > 0);
        self.world.set_net(dials);
        for _ in 0..events {
            let (delay, prng, on) = (self.moment(), self.prng.fork(), on.clone());
            let orders = fleet.orders.clone();
            self.world.after(delay, move |world| {
                if on.get() {
                    strike(world, prng, &orders);
                }
            });
        }
    }

    /// Runs clients and operator to their end, or to a crash; machines vanish when it is their time.
    fn sail(&mut self, life: &Life, fleet: &mut Fleet, operated: &Cell<bool>) -> Verdict<Loaded> {
        let mut vanished = 0;
        loop {
            let (field, cores) = (self.field.clone(), fleet.cores(life));
            let done = || {
                fleet.net.reap();
                let over = fleet.is_done() && operated.get();
                over || fleet.orders.get() > 0 || field.failure.borrow().is_some()
            };
            let result = self.world.run(&cores, LIMIT, done);
            if let Some(failure) = self.field.failure.take() {
                return Err(failure);
            }
            match result {
                Ok(()) => {}
                Err(Stop::Crashed) => return Ok(Loaded::Crashed),
                Err(stop) => return Err(stop.into()),
            }
            if fleet.orders.take() == 0 {
                return Ok(Loaded::Done);
            }
            if vanished < VANISH_MAX {
                vanished += 1;
                self.lose_crew(fleet)?;
            }
        }
    }

    /// A client machine is gone, with all that its clients knew; another one goes on.
    fn lose_crew(&mut self, fleet: &mut Fleet) -> Verdict {
        let index = usize::try_from(self.prng.below(fleet.machines.len() as u64)).expect("a list's index"); // widening
        if fleet.machines[index].ended.get() == fleet.machines[index].clients {
            return Ok(());
        }
        let number = fleet.machines[index].number;
        self.step(format!("client machine {number} vanishes"));
        self.world.vanish(fleet.machines[index].process.id);
        fleet.net.lose_machine(number);
        self.boot_crew(fleet, 1, self.plan.requests / 2);
        let crew = fleet.machines.swap_remove(index);
        self.bury(crew.process)
    }

    /// The clients are gone. The server forgets all of them in bounded time, and nothing of them is kept.
    fn await_goodbyes(&mut self, life: &Life, fleet: &Fleet, service: &Service) -> Verdict<Loaded> {
        // Requests may wait for drives that do not answer.
        let waits = !self.plan.is_mirrored()
            || [Fault::Hang, Fault::Stutter, Fault::Beyond].into_iter().any(|f| self.plan.has(f));
        let limit = match (fleet.net.is_disturbed(), waits) {
            (false, _) => GOODBYE_LIMIT,
            (true, false) => SILENCE_LIMIT,
            (true, true) => LIMIT,
        };
        let gone = || {
            fleet.net.reap();
            service.target.loads().iter().sum::<usize>() == 0 && fleet.net.open.borrow().is_empty()
        };
        match self.world.run(&fleet.cores(life), limit, gone) {
            Ok(()) => {}
            Err(Stop::Crashed) => return Ok(Loaded::Crashed),
            Err(stop) => {
                let what =
                    format!("connections that were closed live on: {:?}; {stop}", service.target.loads());
                return Err(fleet.net.fail(Oracle::Liveness, what));
            }
        }
        match service.target.budget_free() {
            free if free == service.budget => Ok(Loaded::Done),
            free => {
                let what = format!("{free} of {} bytes of the budget came back", service.budget);
                Err(fleet.net.fail(Oracle::Buffers, what))
            }
        }
    }

    /// Ends the server of a life, if it has one: nobody is connected any more.
    pub fn stop_serving(&self, process: &Process, service: Option<Service>) -> Verdict {
        let Some(Service { target, .. }) = service else { return Ok(()) };
        let core = process.core(0).clone();
        let stopped = self.on(process, async move { target.stop(&core, Duration::from_secs(10)).await })?;
        match stopped {
            Stopped { cut: 0, stuck: 0 } => Ok(()),
            Stopped { .. } => {
                Err(Failure::new(Oracle::Liveness, format!("the server ended with {stopped:?}")))
            }
        }
    }
}

fn speaks(prng: &mut Prng) -> Speaks {
    if prng.chance(500) {
        let digests = Digests { header: prng.chance(300), data: prng.chance(300) };
        // Data that some hosts bring along, others want to be asked for.
        let capsule = pick(prng, &[0, 4096, u32::MAX]);
        return Speaks::Nvme { digests, capsule, host: prng.uuid() };
    }
    Speaks::Nbd(pick(prng, &[ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended]))
}

/// The same machine where NVMe/TCP is spoken.
fn with_port(address: &Address) -> Address {
    match address {
        Address::Tcp(address) => Address::Tcp((address.ip(), NVME_PORT).into()),
        Address::Unix(_) => address.clone(),
    }
}

/// Does something to a connection, or orders that a machine vanishes.
fn strike(world: &World, mut prng: Prng, orders: &Cell<u64>) {
    if prng.chance(150) {
        return orders.set(orders.get() + 1);
    }
    let connections = world.connections();
    if connections.is_empty() {
        return;
    }
    let connection: ConnectionId = pick(&mut prng, &connections);
    if prng.chance(400) {
        return world.reset_connection(connection);
    }
    world.clog(connection);
    // The kernel asks a silent peer whether it is there, and gives it up about so late.
    let lasts = pick(&mut prng, &[100, 1000, 8000, 30_000, 100_000].map(Duration::from_millis));
    let returns = prng.chance(600);
    world.after(lasts, move |world| match returns {
        true => world.unclog(connection),
        false => world.reset_connection(connection),
    });
}

/// Whether a plan has its clients on other machines.
pub fn is_networked(machine: &mut Machine) -> bool {
    machine.plan.has(Fault::Network) && machine.prng.chance(750)
}
