//! The driver of one simulated core.
//!
//! `park` never blocks: it lets virtual time pass until something is there for this core. So one core can run
//! alone (`Core::run_until`, `Core::drain`). Several cores of one world are turned by `World::run`, which calls
//! `Core::turn` only and passes the time itself; a core that parked would let time pass under its siblings' feet.

use super::world::{Step, World};
use crate::io::driver::{Completion, Driver, LastingMemory, Op, Token, Unpark};
use crate::io::time::Instant;
use nix::errno::Errno;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) struct SimDriver {
    world: World,
    index: usize,
    unpark: Arc<Flag>,
}

#[derive(Default)]
struct Flag {
    set: AtomicBool,
}

impl Unpark for Flag {
    fn unpark(&self) {
        self.set.store(true, Ordering::SeqCst);
    }
}

impl SimDriver {
    pub(super) fn new(world: World, index: usize) -> SimDriver {
        SimDriver { world, index, unpark: Arc::default() }
    }

    fn is_dead(&self) -> bool {
        let state = self.world.state.borrow();
        !state.alive(state.drivers[self.index].process)
    }

    fn has_completions(&self) -> bool {
        !self.world.state.borrow().drivers[self.index].ready.is_empty()
    }
}

impl Driver for SimDriver {
    fn now(&self) -> Instant {
        self.world.now()
    }

    fn wall_ns(&self) -> u64 {
        self.world.state.borrow().wall_ns()
    }

    fn lasting_memory(&self, path: &Path, words: usize) -> Result<Arc<dyn LastingMemory>, Errno> {
        let mut state = self.world.state.borrow_mut();
        let process = state.drivers[self.index].process;
        state.lasting_memory(process, path, words)
    }

    fn submit(&mut self, token: Token, op: Op) {
        self.world.state.borrow_mut().submit(self.index, token, op);
    }

    /// Nothing comes from a life that has ended, except to a core that is drained: only that one parks.
    fn reap(&mut self, completions: &mut Vec<Completion>) {
        let dead = self.is_dead();
        let mut state = self.world.state.borrow_mut();
        let driver = &mut state.drivers[self.index];
        if !dead || driver.draining {
            completions.append(&mut driver.ready);
        }
    }

    /// # Panics
    /// If nothing can ever wake this core: no event is left and there is no limit.
    fn park(&mut self, until: Option<Instant>) {
        if self.is_dead() {
            self.world.state.borrow_mut().drivers[self.index].draining = true;
            return;
        }
        while !self.unpark.set.swap(false, Ordering::SeqCst) && !self.has_completions() && !self.is_dead() {
            match self.world.step(until) {
                Step::Event => {}
                Step::Limit => return,
                Step::Nothing => {
                    panic!("a core parks for ever; the last events were\n{}", self.world.trail())
                }
            }
        }
    }

    fn unparker(&self) -> Arc<dyn Unpark> {
        self.unpark.clone()
    }
}
