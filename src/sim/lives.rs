//! Processes of the simulated machines: starting them, and the ways they end.

use super::driver::SimDriver;
use super::ops::failed;
use super::world::{DriverState, State, World};
use crate::io::driver::Driver;
use nix::errno::Errno;

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

pub(super) struct Life {
    pub(super) place: Place,
    pub(super) alive: bool,
}

impl World {
    /// Starts a process without cores; `driver_of` gives it some. `boot` does both.
    pub fn add_process(&self, place: Place) -> ProcessId {
        let mut state = self.state.borrow_mut();
        let id = ProcessId(u32::try_from(state.lives.len()).expect("few processes"));
        state.lives.push(Life { place, alive: true });
        id
    }

    /// A driver for one core of the youngest process on the head, which is started if there is none alive.
    pub fn driver(&self) -> Box<dyn Driver> {
        let youngest = {
            let state = self.state.borrow();
            let alive = state.lives.iter().rposition(|p| p.alive && p.place == Place::Head);
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

    /// The machine of a process elsewhere is gone: its peers hear nothing for a while, and then of a reset.
    pub fn vanish(&self, process: ProcessId) {
        let mut state = self.state.borrow_mut();
        if state.alive(process) {
            state.note("vanish  ", [u64::from(process.0), 0, 0, 0]);
            state.end_life(process, Crash::PowerCut);
        }
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

    /// Lives that have ended by `kill`, `power_cut`, `vanish` or `crash_at_change`.
    pub fn crashes(&self) -> u64 {
        self.state.borrow().crashes
    }

    /// How often the head lost its power.
    pub fn power_cuts(&self) -> u64 {
        self.state.borrow().power_cuts
    }
}

impl State {
    pub(super) fn alive(&self, process: ProcessId) -> bool {
        self.lives[process.0 as usize].alive // u32 to usize
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
        self.lasting.power_cut();
        self.power_cuts += 1;
        let head = (0u32..).zip(&self.lives).filter(|(_, p)| p.alive && p.place == Place::Head);
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
        self.lives[process.0 as usize].alive = false; // u32 to usize
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
