//! Running cores over virtual time, and starting and ending lives.

use super::lives::{Place, ProcessId};
use super::world::World;
use crate::io::buf::BufPool;
use crate::io::time::Instant;
use crate::reactor::{Core, CoreIndex};
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// Rounds of turns that may pass without an event before a run counts as spinning.
const ROUNDS_MAX: u32 = 100_000;

/// The arena of a simulated core, bytes: small, so that its memory is reused soon and the heap serves at times.
const ARENA: usize = 8 << 20;

/// Virtual time that a round of turns takes at most, nanoseconds.
const ROUND_NS_MAX: u64 = 4_000;

/// A running process and its cores.
pub struct Process {
    pub id: ProcessId,
    pub cores: Vec<Core>,
}

impl Process {
    pub fn core(&self, index: usize) -> &Core {
        &self.cores[index]
    }
}

/// Why a run ended before what it waited for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Stop {
    /// A life ended: by `kill`, `power_cut` or `crash_at_change`.
    #[error("a process crashed")]
    Crashed,
    #[error("nothing can happen any more at {at:?}; the last events were\n{trail}")]
    NoProgress { at: Instant, trail: String },
    #[error("not finished within {limit:?} of virtual time; the last events were\n{trail}")]
    Deadline { limit: Duration, trail: String },
    #[error("tasks wake each other without end at {at:?}; the last events were\n{trail}")]
    Spinning { at: Instant, trail: String },
}

impl World {
    /// Starts a process of `cores` cores on the head.
    pub fn boot(&self, cores: u16) -> Process {
        self.boot_at(Place::Head, cores)
    }

    /// Starts a process of `cores` cores.
    pub fn boot_at(&self, place: Place, cores: u16) -> Process {
        let id = self.add_process(place);
        let core = |index| {
            let buffers = BufPool::new(ARENA).expect("8 MiB of memory");
            let prng = self.with_prng(|p| p.fork());
            Core::new(CoreIndex(index), self.driver_of(id), buffers, prng)
        };
        Process { id, cores: (0..cores).map(core).collect() }
    }

    /// Drops the tasks of a process that has ended, or ends it by `kill` first, and takes its buffers back.
    /// Returns the bytes of buffers that somebody still holds: 0 if none leaked.
    pub fn bury(&self, process: Process) -> usize {
        self.kill(process.id);
        process.cores.iter().for_each(Core::drain);
        process.cores.iter().map(|core| core.buffers().in_use()).map(|(arena, heap)| arena + heap).sum()
    }

    /// Turns the cores, in random order, and passes the time until `done` says so. `limit` is virtual time from now.
    pub fn run(&self, cores: &[Core], limit: Duration, mut done: impl FnMut() -> bool) -> Result<(), Stop> {
        let (deadline, crashes) = (self.now() + limit, self.crashes());
        let (mut rounds, mut events) = (0, self.events_happened());
        loop {
            let round = self.round(cores);
            if !round.busy || self.events_happened() != events {
                (rounds, events) = (0, self.events_happened());
            }
            if self.crashes() != crashes {
                return Err(Stop::Crashed);
            }
            if done() {
                return Ok(());
            }
            rounds += 1;
            if rounds > ROUNDS_MAX {
                return Err(Stop::Spinning { at: self.now(), trail: self.trail() });
            }
            if self.now() >= deadline {
                return Err(Stop::Deadline { limit, trail: self.trail() });
            }
            if !round.busy {
                let until = round.due.map_or(deadline, |due| due.min(deadline));
                if round.due.is_none() && self.is_quiet() {
                    return Err(Stop::NoProgress { at: self.now(), trail: self.trail() });
                }
                self.step(Some(until));
            }
        }
    }

    /// Runs a future on one of the cores until it has ended.
    pub fn run_on<T: 'static>(
        &self,
        cores: &[Core],
        core: &Core,
        limit: Duration,
        future: impl Future<Output = T> + 'static,
    ) -> Result<T, Stop> {
        let slot: Rc<RefCell<Option<T>>> = Rc::default();
        let out = slot.clone();
        core.spawn(async move {
            let value = future.await;
            *out.borrow_mut() = Some(value);
        });
        self.run(cores, limit, || slot.borrow().is_some())?;
        let value = slot.borrow_mut().take();
        Ok(value.expect("it is there: that ended the run"))
    }

    /// Lets this much virtual time pass while the cores run.
    pub fn pass(&self, cores: &[Core], time: Duration) -> Result<(), Stop> {
        let end = self.now() + time;
        let passed = Rc::new(RefCell::new(false));
        let flag = passed.clone();
        self.after(time, move |_| *flag.borrow_mut() = true);
        self.run(cores, time + Duration::from_secs(1), || *passed.borrow() && self.now() >= end)
    }

    /// One turn of most cores; busy if another round may find more.
    fn round(&self, cores: &[Core]) -> Round {
        let mut order: Vec<&Core> = cores.iter().collect();
        let mut round = Round { busy: false, due: None };
        while !order.is_empty() {
            let next = self.with_prng(|p| p.below(order.len() as u64)); // widening
            let core = order.swap_remove(usize::try_from(next).expect("a list's index"));
            // Now and then a core is late: its siblings go on without it.
            if cores.len() > 1 && self.with_prng(|p| p.chance(200)) {
                round.busy = true;
                continue;
            }
            let turn = core.turn();
            round.busy |= turn.busy;
            round.due = [round.due, turn.due].into_iter().flatten().min();
        }
        if round.busy {
            let ns = self.with_prng(|p| p.below(ROUND_NS_MAX));
            self.pass_cpu_time(Duration::from_nanos(ns));
        }
        round
    }
}

struct Round {
    busy: bool,
    due: Option<Instant>,
}
