//! Faults: what is done to the machine while requests are served, and between lives.

use super::life::{Life, Machine};
use super::plan::{Fault, pick};
use crate::base::units::{ByteLen, MemberId, Span};
use crate::pool::quorum::{votes_of, witness_counts};
use crate::pool::redundancy::mirror::Copy;
use crate::reactor::sync::lock;
use crate::sim::{Action, World};
use nix::errno::Errno;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Faults that were ordered for one load; dropping it takes back what did not happen.
pub struct Armed {
    on: Rc<Cell<bool>>,
    world: World,
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.on.set(false);
        self.world.crash_no_more();
    }
}

impl Machine {
    /// Orders the faults of one load.
    pub fn arm(&mut self, life: &Life) -> Armed {
        let on = Rc::new(Cell::new(true));
        if self.plan.has(Fault::Slow) && self.prng.chance(300) {
            self.slow_down();
        }
        if self.plan.has(Fault::ReadError) && self.touched.is_empty() && self.prng.chance(500) {
            self.break_one_copy(life);
        }
        if self.plan.has(Fault::Failing) && self.prng.chance(250) {
            self.fail_once(&on);
        }
        if self.plan.has(Fault::Unplug) && self.prng.chance(350) {
            self.unplug_soon(&on);
        }
        self.crash_soon(life, &on);
        Armed { on, world: self.world.clone() }
    }

    fn crash_soon(&mut self, life: &Life, on: &Rc<Cell<bool>>) {
        let (cut, kill) = (self.plan.has(Fault::PowerCut), self.plan.has(Fault::Kill));
        if !(cut || kill) || self.prng.chance(250) {
            return;
        }
        if self.prng.chance(500) {
            return self.arm_crash_of(cut, kill);
        }
        let cut = cut && (!kill || self.prng.chance(600));
        let (delay, id) = (self.moment(), life.process.id);
        self.step(format!("order: {} in {delay:?}", if cut { "power cut" } else { "kill" }));
        let on = on.clone();
        self.world.after(delay, move |world| match (on.get(), cut) {
            (true, true) => world.power_cut(),
            (true, false) => world.kill(id),
            (false, _) => {}
        });
    }

    fn arm_crash_of(&mut self, cut: bool, kill: bool) {
        let most = 1 + self.prng.below(600);
        let nth = 1 + self.prng.below(most);
        let crash = match cut && (!kill || self.prng.chance(600)) {
            true => crate::sim::Crash::PowerCut,
            false => crate::sim::Crash::Kill,
        };
        self.world.crash_at_change(nth, crash);
        self.step(format!("order: {crash:?} at change {nth}"));
    }

    /// Early moments are likelier, whatever the speed of the drives.
    fn moment(&mut self) -> Duration {
        let most = pick(&mut self.prng, &[3_000_000, 30_000_000, 300_000_000, 3_000_000_000]);
        Duration::from_nanos(1 + self.prng.below(most))
    }

    fn slow_down(&mut self) {
        let index = self.any_disk();
        let factor = 2 + self.prng.below(9);
        self.step(format!("drive {index} is {factor} times slower"));
        self.disk(index).set_slow(factor);
    }

    fn any_disk(&mut self) -> usize {
        usize::try_from(self.prng.below(self.disks.len() as u64)).expect("a list's index") // widening
    }

    /// A member that may miss something without harm to any mirrored volume, or to the majority.
    fn expendable(&mut self) -> Option<usize> {
        let total = votes_of(self.disks.len());
        let mirrored = self.plan.volumes.iter().filter(|v| v.copies > 1);
        let spare = mirrored.map(|v| usize::from(v.copies) - 1).min().unwrap_or(1);
        let index = self.any_disk();
        let after = self.touched.len() + usize::from(!self.touched.contains(&index));
        let majority = 2 * (total - after) > total;
        (after <= spare && majority).then_some(index)
    }

    /// From now on this member may be out of sync, and what only it has may fail.
    pub fn touch(&mut self, index: usize) {
        self.heal_reads();
        self.touched.insert(index);
        self.field.may_lack_space.set(true);
        let single = self.plan.volumes.iter().zip(&self.field.may_fail).filter(|(v, _)| v.copies == 1);
        single.for_each(|(_, may_fail)| may_fail.set(true));
        self.field.counts.borrow_mut().members_lost += 1;
    }

    fn unplug_soon(&mut self, on: &Rc<Cell<bool>>) {
        let Some(index) = self.expendable() else { return };
        self.touch(index);
        let (delay, disk, on) = (self.moment(), self.disk(index), on.clone());
        let back = self.prng.chance(300).then(|| self.moment());
        self.step(format!("order: drive {index} is unplugged in {delay:?}, back after {back:?}"));
        self.world.after(delay, move |world| {
            if on.get() {
                disk.unplug();
                if let Some(back) = back {
                    world.after(back, move |_| {
                        if on.get() {
                            disk.plug();
                        }
                    });
                }
            }
        });
    }

    fn fail_once(&mut self, on: &Rc<Cell<bool>>) {
        let Some(index) = self.expendable() else { return };
        self.touch(index);
        let action = pick(&mut self.prng, &[Action::Write, Action::Write, Action::Flush]);
        let (delay, disk, on) = (self.moment(), self.disk(index), on.clone());
        self.step(format!("order: the next {action:?} of drive {index} fails after {delay:?}"));
        self.world.after(delay, move |_| {
            if on.get() {
                disk.fail_next(action, Errno::EIO);
            }
        });
    }

    /// Makes some of one member's data unreadable where other copies are whole.
    fn break_one_copy(&mut self, life: &Life) {
        let copies = mirrored_copies(life, |_| true);
        if copies.is_empty() {
            return;
        }
        let victim = pick(&mut self.prng, &copies).member;
        for _ in 0..1 + self.prng.below(6) {
            let copy = pick(&mut self.prng, &copies);
            if copy.member == victim {
                let span = self.part_of(life, copy);
                self.step(format!("drive {} cannot read {span:?}", victim.0));
                self.disk(usize::from(victim.0)).break_reads(span);
            }
        }
    }

    /// Some blocks of a copy's data.
    pub fn part_of(&mut self, life: &Life, copy: Copy) -> Span {
        let member = life.pool.shared().member(copy.member);
        let blocks = life.pool.shared().extent.0 / 4096;
        // The first blocks are where most requests go.
        let most = pick(&mut self.prng, &[16, 16, blocks]);
        let first = self.prng.below(most);
        let count = 1 + self.prng.below(3).min(blocks - first - 1);
        Span::at(member.layout.data(copy.extent, ByteLen(first * 4096)).0, count * 4096)
    }

    /// Ends read errors and slowness; drives that are gone stay gone.
    pub fn heal_reads(&self) {
        for index in 0..self.disks.len() {
            if self.disk(index).is_plugged() {
                self.disk(index).heal();
            }
        }
    }

    /// Between two lives: drives come back, or one is absent.
    pub fn between_lives(&mut self) {
        for index in 0..self.disks.len() {
            if !self.disk(index).is_plugged() && self.prng.chance(700) {
                self.step(format!("drive {index} is back"));
                self.disk(index).plug();
            }
        }
        if self.plan.has(Fault::Unplug)
            && self.prng.chance(150)
            && let Some(index) = self.expendable().filter(|i| self.disk(*i).is_plugged())
        {
            self.touch(index);
            self.step(format!("drive {index} is absent"));
            self.disk(index).unplug();
        }
        let away = self.plugged() < self.disks.len();
        let single = self.plan.volumes.iter().zip(&self.field.may_fail).filter(|(v, _)| v.copies == 1);
        single.for_each(|(_, may_fail)| may_fail.set(away));
    }

    /// Takes drives away until there is no majority; gives them.
    pub fn take_majority(&mut self) -> Vec<usize> {
        let (total, witness) = (votes_of(self.disks.len()), usize::from(witness_counts(self.disks.len())));
        let there: Vec<usize> = (0..self.disks.len()).filter(|i| self.disk(*i).is_plugged()).collect();
        let mut taken = Vec::new();
        for index in there {
            if 2 * (self.plugged() + witness) > total {
                self.disk(index).unplug();
                taken.push(index);
            }
        }
        taken
    }
}

/// Copies of slots that have another copy in sync, in volumes that satisfy a condition (by their checksums).
pub fn mirrored_copies(life: &Life, checksums: impl Fn(bool) -> bool) -> Vec<Copy> {
    let shared = life.pool.shared();
    let in_sync = |m: MemberId| shared.member(m).is_in_sync();
    let live = lock(&shared.live);
    let volumes = live.state.volumes.values().filter(|v| checksums(v.checksums));
    let slots = volumes.flat_map(|v| v.slots.values());
    let whole = slots.filter(|s| s.copies.len() > 1 && s.copies.iter().all(|c| in_sync(c.member)));
    whole.flat_map(|s| s.copies.iter().copied()).collect()
}
