//! Faults: what is done to the machine while requests are served, and between lives.

use super::life::{Life, Machine};
use super::plan::{Fault, pick};
use super::report::{Failure, Oracle, Verdict};
use super::run::Loaded;
use crate::base::units::{ByteLen, ExtentIndex, MemberId, Span};
use crate::pool::layout::REGION_BLOCKS_LEN;
use crate::pool::quorum::{votes_of, witness_counts};
use crate::pool::redundancy::mirror::Copy;
use crate::reactor::sync::lock;
use crate::sim::{Action, Dials, DiskHandle, World};
use nix::errno::Errno;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Faults that were ordered for one load; dropping it takes back what did not happen.
pub struct Armed {
    pub on: Rc<Cell<bool>>,
    hung: Vec<DiskHandle>,
    world: World,
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.on.set(false);
        self.world.crash_no_more();
        self.hung.iter().for_each(DiskHandle::release);
    }
}

impl Machine {
    /// Orders the faults of one load.
    pub fn arm(&mut self, life: &Life) -> Armed {
        let on = Rc::new(Cell::new(true));
        if self.plan.has(Fault::Slow) && self.prng.chance(300) {
            self.slow_down();
        }
        if self.plan.has(Fault::LostWrite) && self.prng.chance(300) && self.lose_writes(life) {
            return Armed { on, world: self.world.clone(), hung: Vec::new() };
        }
        let failing = self.plan.has(Fault::Transient) && self.prng.chance(300) && self.fail_reads(life);
        if self.plan.has(Fault::BadSector) && self.prng.chance(150) {
            self.break_writes(life);
        }
        if self.plan.has(Fault::Stutter) && self.prng.chance(150) {
            self.stutter(life);
        }
        // Reads fail on one member at a time.
        if self.plan.has(Fault::ReadError) && !failing && self.touched.is_empty() && self.prng.chance(500) {
            self.break_one_copy(life);
        }
        if self.plan.has(Fault::Failing) && self.prng.chance(250) {
            self.fail_once(&on);
        }
        if self.plan.has(Fault::Unplug) && self.prng.chance(350) {
            self.unplug_soon(&on);
        }
        if self.plan.has(Fault::Hang) && self.prng.chance(200) {
            self.hang_soon(&on);
        }
        self.crash_soon(life, &on);
        let hung = (0..self.disks.len()).map(|i| self.disk(i)).collect();
        Armed { on, hung, world: self.world.clone() }
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
    pub fn moment(&mut self) -> Duration {
        let most = pick(&mut self.prng, &[3_000_000, 30_000_000, 300_000_000, 3_000_000_000]);
        Duration::from_nanos(1 + self.prng.below(most))
    }

    fn slow_down(&mut self) {
        let index = self.any_disk();
        let factor = 2 + self.prng.below(9);
        self.step(format!("drive {index} is {factor} times slower"));
        self.disk(index).set_slow(factor);
    }

    pub fn any_disk(&mut self) -> usize {
        let here: Vec<usize> = (0..self.disks.len()).filter(|i| !self.gone.contains(i)).collect();
        pick(&mut self.prng, &here)
    }

    /// A member that may miss something without harm to any mirrored volume, or to the majority.
    pub fn expendable(&mut self) -> Option<usize> {
        let spare = if self.plan.has(Fault::Beyond) { usize::MAX } else { self.plan.spare() };
        let index = self.any_disk();
        let after = self.touched.len() + usize::from(!self.touched.contains(&index));
        // Whoever is taken out takes a vote along at some time.
        let members = self.members_now();
        let fewer = usize::from(self.votes_may_change()).min(members - 1);
        let majority = (members - fewer..=members).all(|members| {
            let (total, silent) =
                (votes_of(members), usize::from(self.witness_lost && witness_counts(members)));
            2 * total.saturating_sub(after + silent) > total
        });
        // What lay on a drive that was rebuilt has all its copies elsewhere.
        let lacking = after - self.rebuilt.iter().filter(|i| **i != index).count();
        (lacking <= spare && majority).then_some(index)
    }

    /// From now on this member may be out of sync, and what only it has may fail.
    pub fn touch(&mut self, index: usize) {
        self.heal_reads();
        self.touched.insert(index);
        self.rebuilt.remove(&index);
        self.field.may_lack_space.set(true);
        self.expect_failures(true);
        self.field.counts.borrow_mut().members_lost += 1;
    }

    /// Whether requests to volumes without a copy to spare may fail.
    pub fn expect_failures(&self, may: bool) {
        let bears = |copies: u8| copies > 1 && !self.plan.has(Fault::Beyond);
        let volumes = self.plan.volumes.iter().zip(&self.field.may_fail);
        volumes.filter(|(v, _)| !bears(v.copies)).for_each(|(_, may_fail)| may_fail.set(may));
    }

    /// One member acknowledges writes that it stores nowhere or elsewhere. False if the run cannot bear that: every
    /// block needs a checksum and another copy, and a crash would take the checksums away that tell.
    fn lose_writes(&mut self, life: &Life) -> bool {
        let told = self.plan.volumes.iter().all(|v| v.checksums && v.copies > 1);
        if !told || !self.touched.is_empty() {
            return false;
        }
        let (index, chance) = (self.any_disk(), pick(&mut self.prng, &[5, 30, 200]));
        let (lost_write, misdirected_write) =
            pick(&mut self.prng, &[(chance, 0), (0, chance), (chance, chance)]);
        // Each strikes within its own area: data is hit by data, region blocks by region blocks.
        let (data, blocks) = (data_area(life, index), region_block_area(life, index));
        let areas = [vec![data], vec![data, blocks], vec![blocks]];
        let area = Some(areas[usize::try_from(self.prng.below(3)).expect("below 3")].clone());
        let misdirected_read = pick(&mut self.prng, &[0, chance]);
        self.step(format!(
            "drive {index} loses {lost_write}, misdirects {misdirected_write} and {misdirected_read} of 1000"
        ));
        self.disk(index).set_dials(Dials {
            lost_write,
            misdirected_write,
            misdirected_read,
            area,
            ..Dials::default()
        });
        self.wounded = true;
        true
    }

    /// Reads of one member fail now and then. False if the run cannot bear that.
    fn fail_reads(&mut self, life: &Life) -> bool {
        if !self.touched.is_empty() || !self.plan.is_mirrored() {
            return false;
        }
        let index = self.any_disk();
        let (read_error, sticky) = (pick(&mut self.prng, &[5, 50, 300]), pick(&mut self.prng, &[0, 300]));
        self.step(format!("drive {index} fails {read_error} of 1000 reads, {sticky} of 1000 for good"));
        let area = Some(vec![data_area(life, index)]);
        self.disk(index).set_dials(Dials { read_error, sticky, area, ..Dials::default() });
        true
    }

    /// Some sectors of a member cannot be written any more.
    fn break_writes(&mut self, life: &Life) {
        let Some(index) = self.expendable() else { return };
        let mine = mirrored_copies(life, |_| true).into_iter().filter(|c| usize::from(c.member.0) == index);
        let mine: Vec<Copy> = mine.collect();
        if mine.is_empty() {
            return;
        }
        self.touch(index);
        for _ in 0..1 + self.prng.below(4) {
            let copy = pick(&mut self.prng, &mine);
            let span = self.part_of(life, copy);
            self.step(format!("drive {index} cannot write {span:?}"));
            self.disk(index).break_writes(span);
        }
    }

    fn stutter(&mut self, life: &Life) {
        let Some(index) = self.expendable() else { return };
        self.touch(index);
        // All of it, or what it has about regions: a save that takes long while all else goes on.
        let (stutter, area) = match self.prng.chance(500) {
            true => (pick(&mut self.prng, &[2, 10, 50]), None),
            false => {
                let area = vec![region_block_area(life, index)];
                (pick(&mut self.prng, &[50, 200, 500]), Some(area))
            }
        };
        let part = if area.is_some() { " on region blocks" } else { "" };
        self.step(format!("drive {index} stutters at {stutter} of 1000 operations{part}"));
        self.disk(index).set_dials(Dials { stutter, area, ..Dials::default() });
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

    fn hang_soon(&mut self, on: &Rc<Cell<bool>>) {
        let Some(index) = self.expendable() else { return };
        self.touch(index);
        let (delay, disk, on) = (self.moment(), self.disk(index), on.clone());
        let lasts = pick(&mut self.prng, &[200, 2000, 5000, 30_000, 200_000].map(Duration::from_millis));
        self.step(format!("order: drive {index} hangs in {delay:?} for {lasts:?}"));
        self.world.after(delay, move |world| {
            if on.get() {
                disk.hang();
                world.after(lasts, move |_| disk.release());
            }
        });
    }

    /// Drives leave one after another under load, each when the one before it is in sync again; the last one stays away.
    /// False if no drive can be spared.
    pub fn lose_one_after_another(&mut self, life: &Life) -> Verdict<bool> {
        let most = 2 + self.prng.below(2);
        let mut before = None;
        for number in 0..most {
            self.take_dead_away(&life.pool);
            if let Some(index) = before {
                if self.dead.contains(&index) || self.gone.contains(&index) {
                    return Ok(true);
                }
                let id = MemberId(u16::try_from(index).expect("5 at most"));
                if life.pool.shared().member(id).is_in_sync() {
                    // Nothing was asked of it: the pool does not know yet that it lacks what was in its cache.
                    return Ok(true);
                }
                self.disk(index).plug();
                self.settle(life)?;
            }
            let next = (0..8).find_map(|_| self.expendable().filter(|index| Some(*index) != before));
            let Some(index) = next.filter(|_| self.touched.is_empty()) else { return Ok(number > 0) };
            self.touch(index);
            self.step(format!("drive {index} leaves"));
            self.disk(index).unplug();
            if self.load(life)? == Loaded::Crashed {
                return Err(Failure::new(Oracle::Liveness, "crashed without an order"));
            }
            before = Some(index);
        }
        self.take_dead_away(&life.pool);
        Ok(true)
    }

    fn fail_once(&mut self, on: &Rc<Cell<bool>>) {
        let Some(index) = self.expendable() else { return };
        self.touch(index);
        // Without copies or marks nothing can tell after a restart what a failed flush made doubtful.
        let unmarked = self.plan.volumes.iter().any(|v| v.copies == 1 && !v.checksums);
        let action = pick(&mut self.prng, &[Action::Write, Action::Write, Action::Flush]);
        let action = if unmarked { Action::Write } else { action };
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
        if self.plan.has(Fault::Old) {
            self.turn_back_time();
        }
        for index in 0..self.disks.len() {
            let away = !self.disk(index).is_plugged() && !self.gone.contains(&index);
            if away && !self.dead.contains(&index) && self.prng.chance(700) {
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
        if !self.bears_losses() {
            self.forget_unflushed();
        }
        // A fault that was ordered and did not happen yet may still meet what has one copy only.
        let away = self.plugged() < self.members_now() || !self.touched.is_empty();
        self.expect_failures(away);
    }

    /// Takes drives away until there is no majority; gives them.
    pub fn take_majority(&mut self) -> Vec<usize> {
        let members = self.members_now();
        let (total, witness) = (votes_of(members), usize::from(witness_counts(members)));
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

/// Where a member has the data of slots.
fn data_area(life: &Life, index: usize) -> Span {
    let member = life.pool.shared().member(MemberId(u16::try_from(index).expect("5 at most")));
    let start = member.layout.data(ExtentIndex(0), ByteLen(0)).0;
    Span::at(start, u64::from(member.layout.extents) * life.pool.shared().extent.0)
}

/// Where a member has the blocks that describe regions.
fn region_block_area(life: &Life, index: usize) -> Span {
    let member = life.pool.shared().member(MemberId(u16::try_from(index).expect("5 at most")));
    let start = member.layout.regions_start.0;
    Span::at(start, member.layout.regions() * REGION_BLOCKS_LEN)
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
