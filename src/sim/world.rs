//! The simulated world: one clock, one queue of events, processes and their cores, and the digest of all that
//! happened.
//!
//! Everything happens at an event, and events run one at a time in the order of (time, serial): that is why the
//! same seed gives the same run. `State` is what one borrow guards; no user code runs while it is borrowed.

use super::driver::SimDriver;
use super::faults::Incident;
use super::net::{Net, NetEvent};
use super::storage::{Io, Storage};
use crate::base::prng::Prng;
use crate::io::driver::{Completion, Done, Driver, Op, Token};
use crate::io::time::Instant;
use nix::errno::Errno;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// 2026-01-01 00:00 UTC, nanoseconds since 1970: where the wall clock starts.
const WALL_ORIGIN_NS: u64 = 1_767_225_600_000_000_000;

/// Records kept for messages about runs that went wrong.
const TRAIL_MAX: usize = 64;

/// A process of the simulated machines; a new one is a new life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ProcessId(pub(super) u32);

/// Which machine a process runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The machine that has the drives; `power_cut` hits it.
    Head,
    /// Any other machine.
    Elsewhere,
}

/// How a life ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// Drives keep what they have; of operations in flight any part has happened.
    Kill,
    /// Drives also lose any part of what is not stable.
    PowerCut,
}

/// The handle to a world; clones are handles to the same.
#[derive(Clone)]
pub struct World {
    pub(super) state: Rc<RefCell<State>>,
}

pub(super) struct State {
    pub(super) now: u64,
    serial: u64,
    events: BTreeMap<(u64, u64), Event>,
    pub(super) prng: Prng,
    digest: u64,
    trail: VecDeque<(u64, &'static str, [u64; 4])>,
    wall_shift: i64,
    processes: Vec<Process>,
    pub(super) drivers: Vec<DriverState>,
    pub(super) flights: BTreeMap<u64, Flight>,
    flights_begun: u64,
    pub(super) storage: Storage,
    pub(super) net: Net,
    pub(super) incidents: Vec<Incident>,
    trip: Option<(u64, Crash)>,
    changes_begun: u64,
    crashes: u64,
}

struct Process {
    place: Place,
    alive: bool,
}

/// One core's end of the world.
pub(super) struct DriverState {
    pub(super) process: ProcessId,
    pub(super) ready: Vec<Completion>,
    /// The process has ended and its core is being drained.
    pub(super) draining: bool,
}

/// An operation between submission and completion; it owns the buffers.
pub(super) struct Flight {
    pub(super) driver: usize,
    pub(super) token: Token,
    pub(super) op: Op,
    pub(super) io: Option<Io>,
    /// Sends: the checksum of the bytes at submission.
    pub(super) sum: u64,
}

pub(super) enum Event {
    /// A part of a read or write takes effect.
    Early(u64),
    Finish(u64),
    Refuse(u64, Errno),
    Net(NetEvent),
    Call(Box<dyn FnOnce(&World)>),
}

/// What `World::step` did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// One event happened.
    Event,
    /// The clock reached the limit; no event was due before.
    Limit,
    /// There is no event and no limit.
    Nothing,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut prng = Prng::from_seed(seed);
        let net = Net::new(prng.fork());
        let state = State {
            now: 0,
            serial: 0,
            events: BTreeMap::new(),
            prng,
            digest: seed,
            trail: VecDeque::new(),
            wall_shift: 0,
            processes: Vec::new(),
            drivers: Vec::new(),
            flights: BTreeMap::new(),
            flights_begun: 0,
            storage: Storage::default(),
            net,
            incidents: Vec::new(),
            trip: None,
            changes_begun: 0,
            crashes: 0,
        };
        World { state: Rc::new(RefCell::new(state)) }
    }

    pub fn now(&self) -> Instant {
        Instant::from_ns(self.state.borrow().now)
    }

    /// The checksum over everything that happened so far.
    pub fn digest(&self) -> u64 {
        self.state.borrow().digest
    }

    /// The last things that happened, one a line, for messages.
    pub fn trail(&self) -> String {
        let state = self.state.borrow();
        state.trail.iter().fold(String::new(), |mut text, (at, what, n)| {
            let _ = writeln!(text, "{at:>14} {what} {} {:x} {:x} {:x}", n[0], n[1], n[2], n[3]);
            text
        })
    }

    /// Draws from the world's generator, for schedules of faults and the like.
    pub fn with_prng<T>(&self, draw: impl FnOnce(&mut Prng) -> T) -> T {
        draw(&mut self.state.borrow_mut().prng)
    }

    /// Does something at a later moment, between two events. It may use the world freely, but must not turn cores.
    pub fn after(&self, delay: Duration, call: impl FnOnce(&World) + 'static) {
        let mut state = self.state.borrow_mut();
        let at = Instant::from_ns(state.now) + delay;
        state.schedule(at.as_ns(), Event::Call(Box::new(call)));
    }

    /// Moves the wall clock of all machines, forward or back; monotonic time goes on as before.
    pub fn shift_wall_clock(&self, by_ns: i64) {
        self.state.borrow_mut().wall_shift += by_ns;
    }

    /// Starts a process without cores; `driver_of` gives it some. `boot` does both.
    pub fn add_process(&self, place: Place) -> ProcessId {
        let mut state = self.state.borrow_mut();
        let id = ProcessId(u32::try_from(state.processes.len()).expect("few processes"));
        state.processes.push(Process { place, alive: true });
        id
    }

    /// A driver for one core of the youngest process on the head, which is started if there is none alive.
    pub fn driver(&self) -> Box<dyn Driver> {
        let youngest = {
            let state = self.state.borrow();
            let alive = state.processes.iter().rposition(|p| p.alive && p.place == Place::Head);
            alive.map(|index| ProcessId(u32::try_from(index).expect("few processes")))
        };
        self.driver_of(youngest.unwrap_or_else(|| self.add_process(Place::Head)))
    }

    /// A driver for one more core of a process.
    pub fn driver_of(&self, process: ProcessId) -> Box<dyn Driver> {
        let mut state = self.state.borrow_mut();
        state.drivers.push(DriverState { process, ready: Vec::new(), draining: false });
        Box::new(SimDriver::new(self.clone(), state.drivers.len() - 1))
    }

    pub fn is_alive(&self, process: ProcessId) -> bool {
        self.state.borrow().alive(process)
    }

    /// The head loses power: its processes end, drives keep what is stable and any part of the rest.
    pub fn power_cut(&self) {
        self.state.borrow_mut().power_cut();
    }

    /// A process is killed: its files and sockets close, locks are released, drives keep all they have.
    pub fn kill(&self, process: ProcessId) {
        self.state.borrow_mut().kill(process);
    }

    /// Lets the life of the process that submits it end at the `nth` change of a drive (write, zero, discard or
    /// flush; 1 is the next one), while that is in flight. Replaces an earlier order.
    pub fn crash_at_change(&self, nth: u64, crash: Crash) {
        self.state.borrow_mut().trip = Some((nth.max(1), crash));
    }

    /// Takes back `crash_at_change`.
    pub fn crash_no_more(&self) {
        self.state.borrow_mut().trip = None;
    }

    /// Changes of drives submitted so far: what `crash_at_change` counts.
    pub fn changes(&self) -> u64 {
        self.state.borrow().changes_begun
    }

    /// Lives that have ended by `kill`, `power_cut` or `crash_at_change`.
    pub fn crashes(&self) -> u64 {
        self.state.borrow().crashes
    }

    /// Lets the next event happen, or the clock reach `limit`, whichever is earlier.
    pub fn step(&self, limit: Option<Instant>) -> Step {
        let event = {
            let mut state = self.state.borrow_mut();
            let due = state.events.keys().next().map(|(at, _)| *at);
            match (due, limit.map(Instant::as_ns)) {
                (None, None) => return Step::Nothing,
                (due, Some(limit)) if due.is_none_or(|due| due > limit) => {
                    state.now = state.now.max(limit);
                    return Step::Limit;
                }
                _ => {}
            }
            let ((at, _), event) = state.events.pop_first().expect("due was found");
            state.now = state.now.max(at);
            event
        };
        match event {
            Event::Call(call) => call(self),
            event => self.state.borrow_mut().happen(event),
        }
        Step::Event
    }

    /// No event is waiting.
    pub(super) fn is_quiet(&self) -> bool {
        self.state.borrow().events.is_empty()
    }

    /// Lets `by` pass for computing: events that are due meanwhile happen first.
    pub(super) fn pass_cpu_time(&self, by: Duration) {
        let until = self.now() + by;
        while self.step(Some(until)) == Step::Event {}
    }
}

impl State {
    pub(super) fn wall_ns(&self) -> u64 {
        (WALL_ORIGIN_NS + self.now).saturating_add_signed(self.wall_shift)
    }

    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.serial += 1;
        self.events.insert((at.max(self.now), self.serial), event);
    }

    /// Folds something that happened into the digest.
    pub(super) fn note(&mut self, what: &'static str, numbers: [u64; 4]) {
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&self.now.to_le_bytes());
        bytes[8..16].copy_from_slice(what.as_bytes().first_chunk().unwrap_or(&[0; 8]));
        for (slot, number) in bytes[16..].chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        self.digest = xxh3_64_with_seed(&bytes, self.digest);
        if self.trail.len() == TRAIL_MAX {
            self.trail.pop_front();
        }
        self.trail.push_back((self.now, what, numbers));
    }

    pub(super) fn alive(&self, process: ProcessId) -> bool {
        self.processes[process.0 as usize].alive // u32 to usize
    }

    /// How long small things take that never reach a drive or a wire, nanoseconds.
    pub(super) fn short_delay(&mut self) -> u64 {
        1_000 + self.prng.below(50_000)
    }

    pub(super) fn submit(&mut self, driver: usize, token: Token, op: Op) {
        if !self.alive(self.drivers[driver].process) {
            // The dead do nothing; their buffers go back when the core is drained.
            let done = failed(op, Errno::ECANCELED);
            self.drivers[driver].ready.push(Completion { token, done });
            return;
        }
        self.flights_begun += 1;
        let id = self.flights_begun;
        let kind = kind_of(&op);
        self.note(kind, [id, driver as u64, token.0, 0]); // widening
        self.flights.insert(id, Flight { driver, token, op, io: None, sum: 0 });
        match &self.flights[&id].op {
            Op::Read { .. } | Op::Write { .. } | Op::Flush { .. } | Op::Discard { .. } | Op::Zero { .. } => {
                self.begin_io(id);
            }
            Op::Accept { .. } | Op::Connect { .. } | Op::Recv { .. } | Op::Send { .. } => self.begin_net(id),
            Op::Open { .. }
            | Op::Close { .. }
            | Op::Size { .. }
            | Op::Listen { .. }
            | Op::LocalAddress { .. }
            | Op::Shutdown { .. }
            | Op::CloseSocket { .. } => {
                let at = self.now + self.short_delay();
                self.schedule(at, Event::Finish(id));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Early(id) => self.early_io(id),
            Event::Finish(id) => self.finish(id),
            Event::Refuse(id, errno) => self.fail(id, errno),
            Event::Net(event) => self.net_event(event),
            Event::Call(_) => unreachable!("calls are made with no borrow held"),
        }
    }

    fn finish(&mut self, id: u64) {
        let Some(flight) = self.flights.get(&id) else { return };
        match &flight.op {
            Op::Read { .. } | Op::Write { .. } | Op::Flush { .. } | Op::Discard { .. } | Op::Zero { .. } => {
                self.finish_io(id);
            }
            Op::Open { path, access } => {
                let (path, access) = (path.clone(), *access);
                self.finish_open(id, &path, access);
            }
            Op::Close { file } => self.finish_close(id, *file),
            Op::Size { file } => self.finish_size(id, *file),
            Op::Listen { .. }
            | Op::LocalAddress { .. }
            | Op::Accept { .. }
            | Op::Connect { .. }
            | Op::Recv { .. }
            | Op::Send { .. }
            | Op::Shutdown { .. }
            | Op::CloseSocket { .. } => self.finish_net(id),
        }
    }

    /// Ends an operation with an error after a short while.
    pub(super) fn refuse(&mut self, id: u64, errno: Errno) {
        let at = self.now + self.short_delay();
        self.schedule(at, Event::Refuse(id, errno));
    }

    /// Ends an operation with an error now.
    pub(super) fn fail(&mut self, id: u64, errno: Errno) {
        if self.flights.contains_key(&id) {
            self.note("fail    ", [id, errno as u64, 0, 0]); // the number, for the digest
            self.complete(id, |op| failed(op, errno));
        }
    }

    /// Ends an operation now.
    pub(super) fn complete(&mut self, id: u64, done: impl FnOnce(Op) -> Done) {
        let flight = self.flights.remove(&id).expect("it is in flight");
        let done = done(flight.op);
        self.drivers[flight.driver].ready.push(Completion { token: flight.token, done });
    }

    /// Counts a change of a drive, and ends the life if it is the one.
    pub(super) fn count_down(&mut self, id: u64) {
        self.changes_begun += 1;
        let Some((left, crash)) = &mut self.trip else { return };
        *left -= 1;
        if *left > 0 {
            return;
        }
        let crash = *crash;
        self.trip = None;
        match crash {
            Crash::Kill => self.kill(self.drivers[self.flights[&id].driver].process),
            Crash::PowerCut => self.power_cut(),
        }
    }

    fn power_cut(&mut self) {
        self.note("power cut", [0; 4]);
        for disk in 0..self.storage.disks.len() {
            self.cut_off(disk, |_| true);
            let disk = &mut self.storage.disks[disk];
            disk.media.power_cut(&mut disk.prng);
        }
        self.storage.lose_new_files();
        let head = (0u32..).zip(&self.processes).filter(|(_, p)| p.alive && p.place == Place::Head);
        let head: Vec<ProcessId> = head.map(|(index, _)| ProcessId(index)).collect();
        head.into_iter().for_each(|process| self.end_life(process, Crash::PowerCut));
    }

    fn kill(&mut self, process: ProcessId) {
        if !self.alive(process) {
            return;
        }
        self.note("kill    ", [u64::from(process.0), 0, 0, 0]);
        let mine: Vec<bool> = self.drivers.iter().map(|d| d.process == process).collect();
        for disk in 0..self.storage.disks.len() {
            self.cut_off(disk, |flight| mine[flight.driver]);
        }
        self.end_life(process, Crash::Kill);
    }

    fn end_life(&mut self, process: ProcessId, crash: Crash) {
        self.processes[process.0 as usize].alive = false; // u32 to usize
        self.crashes += 1;
        let drivers = &self.drivers;
        let orphans: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, f)| drivers[f.driver].process == process)
            .map(|(id, _)| *id)
            .collect();
        for id in orphans {
            self.complete(id, |op| failed(op, Errno::ECANCELED));
        }
        self.storage.process_ended(process);
        self.net_process_ended(process, crash);
    }
}

/// The end of an operation that failed, with its buffers.
fn failed(op: Op, errno: Errno) -> Done {
    match op {
        Op::Open { .. } => Done::Opened(Err(errno)),
        Op::Size { .. } => Done::Size(Err(errno)),
        Op::Read { into, .. } => Done::Read(Err(errno), into),
        Op::Listen { .. } | Op::Connect { .. } => Done::Socket(Err(errno)),
        Op::LocalAddress { .. } => Done::LocalAddress(Err(errno)),
        Op::Accept { .. } => Done::Accepted(Err(errno)),
        Op::Recv { into, .. } => Done::Received(Err(errno), into),
        Op::Send { from, .. } => Done::Sent(Err(errno), from),
        Op::Close { .. }
        | Op::Write { .. }
        | Op::Flush { .. }
        | Op::Discard { .. }
        | Op::Zero { .. }
        | Op::Shutdown { .. }
        | Op::CloseSocket { .. } => Done::Finished(Err(errno)),
    }
}

/// Eight characters for the digest and the trail.
fn kind_of(op: &Op) -> &'static str {
    match op {
        Op::Open { .. } => "+open   ",
        Op::Close { .. } => "+close  ",
        Op::Size { .. } => "+size   ",
        Op::Read { .. } => "+read   ",
        Op::Write { durable: false, .. } => "+write  ",
        Op::Write { durable: true, .. } => "+fua    ",
        Op::Flush { .. } => "+flush  ",
        Op::Discard { .. } => "+discard",
        Op::Zero { .. } => "+zero   ",
        Op::Listen { .. } => "+listen ",
        Op::LocalAddress { .. } => "+address",
        Op::Accept { .. } => "+accept ",
        Op::Connect { .. } => "+connect",
        Op::Recv { .. } => "+recv   ",
        Op::Send { .. } => "+send   ",
        Op::Shutdown { .. } => "+shut   ",
        Op::CloseSocket { .. } => "+hangup ",
    }
}
