//! The simulated world: one clock, one queue of events, processes and their cores, and the digest of all that
//! happened.
//!
//! Everything happens at an event, and events run one at a time in the order of (time, serial): that is why the
//! same seed gives the same run. `State` is what one borrow guards; no user code runs while it is borrowed.

use super::faults::Incident;
use super::lasting::Lasting;
use super::lives::{Crash, Life, ProcessId};
use super::net::NetEvent;
use super::sockets::Net;
use super::storage::{Io, Storage};
use crate::base::prng::Prng;
use crate::io::driver::{Completion, Op, Token};
use crate::io::time::Instant;
use nix::errno::Errno;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::mem::take;
use std::rc::Rc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// 2026-01-01 00:00 UTC, nanoseconds since 1970: where the wall clock starts.
const WALL_ORIGIN_NS: u64 = 1_767_225_600_000_000_000;

/// Records kept for messages about runs that went wrong.
const TRAIL_MAX: usize = 64;

/// The handle to a world; clones are handles to the same.
#[derive(Clone)]
pub struct World {
    pub(super) state: Rc<RefCell<State>>,
}

pub(super) struct State {
    pub(super) now: u64,
    serial: u64,
    events_happened: u64,
    events: BTreeMap<(u64, u64), Event>,
    pub(super) prng: Prng,
    digest: u64,
    trail: VecDeque<(u64, &'static str, [u64; 4])>,
    wall_shift: i64,
    pub(super) lives: Vec<Life>,
    pub(super) drivers: Vec<DriverState>,
    pub(super) flights: BTreeMap<u64, Flight>,
    pub(super) flights_begun: u64,
    pub(super) storage: Storage,
    pub(super) net: Net,
    pub(super) lasting: Lasting,
    pub(super) incidents: Vec<Incident>,
    /// The change of a drive, counted down, at which a life is to end.
    pub(super) trip: Option<(u64, Crash)>,
    pub(super) changes_begun: u64,
    /// The read, write or flush, counted down, that is to fail.
    pub(super) failing: Option<u64>,
    pub(super) crashes: u64,
    pub(super) power_cuts: u64,
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
    /// Forgets what was still to happen: it may hold this world, which would never be freed.
    pub fn end(&self) {
        let (events, flights, incidents) = {
            let state = &mut *self.state.borrow_mut();
            (take(&mut state.events), take(&mut state.flights), take(&mut state.incidents))
        };
        drop((events, flights, incidents));
    }

    pub fn new(seed: u64) -> World {
        let mut prng = Prng::from_seed(seed);
        let net = Net::new(prng.fork());
        let state = State {
            now: 0,
            serial: 0,
            events_happened: 0,
            events: BTreeMap::new(),
            prng,
            digest: seed,
            trail: VecDeque::new(),
            wall_shift: 0,
            lives: Vec::new(),
            drivers: Vec::new(),
            flights: BTreeMap::new(),
            flights_begun: 0,
            storage: Storage::default(),
            net,
            lasting: Lasting::default(),
            incidents: Vec::new(),
            trip: None,
            changes_begun: 0,
            failing: None,
            crashes: 0,
            power_cuts: 0,
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
            state.events_happened += 1;
            event
        };
        match event {
            Event::Call(call) => call(self),
            event => self.state.borrow_mut().happen(event),
        }
        Step::Event
    }

    /// Events so far.
    pub(super) fn events_happened(&self) -> u64 {
        self.state.borrow().events_happened
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

    /// How long small things take that never reach a drive or a wire, nanoseconds.
    pub(super) fn short_delay(&mut self) -> u64 {
        1_000 + self.prng.below(50_000)
    }
}
