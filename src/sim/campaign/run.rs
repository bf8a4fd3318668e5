//! One run: create, then rounds of load, faults, reopening and checks, then healing, a clean end, and a last look.

use super::life::{LIMIT, Life, Machine};
use super::nemesis::mirrored_copies;
use super::network::is_networked;
use super::operator::direct;
use super::oracles::{Rotten, out_of_sync};
use super::plan::{Fault, Options, pick, plan};
use super::report::{Failure, Oracle, Report, Verdict};
use super::workload::client;
use crate::base::units::ByteOffset;
use crate::sim::{Damage, Stop};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering;

/// Runs a seed. A panic of the program is a finding like any other (where panics unwind).
pub fn run(seed: u64, options: &Options) -> Report {
    let mut machine = Machine::new(seed, plan(seed, options), options);
    machine.describe(seed);
    let ended = catch_unwind(AssertUnwindSafe(|| machine.play()));
    let verdict = ended.unwrap_or_else(|panic| Err(Failure::new(Oracle::Panic, words_of(panic.as_ref()))));
    let counts = *machine.field.counts.borrow();
    let report = Report {
        seed,
        digest: machine.world.digest(),
        failure: verdict.err(),
        steps: machine.steps.take(),
        counts,
    };
    if matches!(&report.failure, Some(f) if f.oracle == Oracle::Panic) {
        // Its tasks may hold what the panic left half done: better not touched again.
        std::mem::forget(machine);
    } else {
        machine.world.end();
    }
    report
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

/// How a load ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    Done,
    Crashed,
}

impl Machine {
    fn describe(&self, seed: u64) {
        let plan = &self.plan;
        let drives: Vec<String> = plan
            .drives
            .iter()
            .map(|d| {
                format!(
                    "{} MB/{}{}",
                    d.size.0 / 1_000_000,
                    d.logical_sector,
                    if d.volatile_cache { "" } else { " no cache" }
                )
            })
            .collect();
        self.step(format!(
            "seed {seed}: drives {}; {} cores, cache {}, extent {:?}; {} clients, {} requests, {} rounds; {:?}",
            drives.join(", "),
            plan.cores,
            plan.cache.0,
            plan.extent,
            plan.clients,
            plan.requests,
            plan.rounds,
            plan.faults
        ));
        for (number, volume) in plan.volumes.iter().enumerate() {
            self.step(format!("volume {number}: {volume:?}"));
        }
    }

    /// The whole run.
    pub fn play(&mut self) -> Verdict {
        self.create_pool()?;
        let mut life = self.first_life()?;
        for _ in 0..self.plan.rounds {
            life = self.round(life)?;
        }
        self.finish(life)
    }

    pub fn first_life(&mut self) -> Verdict<Life> {
        let faults = std::mem::take(&mut self.plan.faults);
        let life = self.open().and_then(|life| self.create_volumes(life));
        self.plan.faults = faults;
        life
    }

    fn round(&mut self, life: Life) -> Verdict<Life> {
        let armed = self.arm(&life);
        let loaded = match is_networked(self) {
            true => {
                let operated = self.send_operator(&life);
                self.load_over_network(&life, &operated, &armed.on.clone())?
            }
            false => self.load(&life)?,
        };
        drop(armed);
        self.step(if loaded == Loaded::Crashed { "crashed" } else { "loaded" });
        let life = if self.wounded { self.mend(life)? } else { life };
        match loaded {
            Loaded::Crashed => self.recover(life),
            Loaded::Done => self.pause(life),
        }
    }

    /// The member that lost writes does so no more, and a scrub makes every copy right.
    fn mend(&mut self, life: Life) -> Verdict<Life> {
        self.heal_reads();
        let life = self.check_scrub(life, Rotten::Some)?;
        let life = self.check_scrub(life, Rotten::Nothing)?;
        // What tells a wrong copy from a right one in a dirty region is saved when the region is cleaned.
        let shared = life.pool.shared();
        let clean = || shared.dirty_regions.load(Ordering::Relaxed) == 0;
        self.world.run(&life.process.cores, LIMIT, clean)?;
        self.wounded = false;
        Ok(life)
    }

    /// Runs all clients to their end, or to a crash.
    pub fn load(&mut self, life: &Life) -> Verdict<Loaded> {
        let ended = Rc::new(Cell::new(0));
        let operated = self.send_operator(life);
        for _ in 0..self.plan.clients {
            let core = usize::try_from(self.prng.below(life.handles.len() as u64)).expect("a list's index"); // widening
            let (field, ways, done) = (self.field.clone(), direct(&life.handles[core]), ended.clone());
            let (prng, requests) = (self.prng.fork(), self.plan.requests);
            life.process.core(core).spawn(async move {
                client(field, ways, prng, requests).await;
                done.set(done.get() + 1);
            });
        }
        let clients = self.plan.clients;
        let field = self.field.clone();
        let done = || ended.get() == clients && operated.get() || field.failure.borrow().is_some();
        let result = self.world.run(&life.process.cores, LIMIT, done);
        self.meet_joined();
        if let Some(failure) = self.field.failure.take() {
            return Err(failure);
        }
        match result {
            Ok(()) => Ok(Loaded::Done),
            Err(Stop::Crashed) => Ok(Loaded::Crashed),
            Err(stop) => Err(stop.into()),
        }
    }

    /// After a load that nothing ended: go on, stop and start again, or crash at rest.
    fn pause(&mut self, life: Life) -> Verdict<Life> {
        self.heal_reads();
        self.take_dead_away(&life.pool);
        self.await_extents(&life)?;
        // What only a drive has that was away is not served again before the next opening.
        let alone = !self.plan.is_mirrored() || self.plan.has(Fault::Beyond);
        if !alone && self.prng.chance(500) {
            self.settle(&life)?;
        }
        match self.prng.below(4) {
            _ if self.prng.chance(100) => {
                // Each drive is missed at the first opening: nothing has tidied up before.
                self.remove_in_turn(life)?;
                self.reopen()
            }
            0 => Ok(life),
            1 => {
                self.step("power cut at rest");
                self.world.power_cut();
                self.recover(life)
            }
            2 => {
                self.step("kill at rest");
                self.recover(life)
            }
            _ => self.restart(life),
        }
    }

    /// Closes and opens.
    fn restart(&mut self, life: Life) -> Verdict<Life> {
        let clean = self.close(life)?;
        self.step(if clean { "closed" } else { "not closed cleanly" });
        let mut model = self.field.model.borrow_mut();
        for volume in 0..model.volume_count() {
            match clean {
                true => model.closed(volume),
                false => model.crash(volume),
            }
        }
        drop(model);
        self.reopen()
    }

    /// Ends a life that crashed and begins another.
    fn recover(&mut self, life: Life) -> Verdict<Life> {
        self.field.counts.borrow_mut().crashes += 1;
        self.end(life)?;
        self.note_end();
        self.reopen()
    }

    fn reopen(&mut self) -> Verdict<Life> {
        // Who is a member tells the next opening.
        let joining = self.field.joining.take() || self.votes_may_change();
        if !joining && self.draws(Fault::Minority, 150) {
            let taken = self.take_majority();
            self.step(format!("without drives {taken:?} there is no majority"));
            self.open_in_vain()?;
            taken.iter().for_each(|i| self.disk(*i).plug());
            // Their caches are empty, and another one that cannot be read would be one fault too many.
            self.forget_unflushed();
            self.heal_reads();
        }
        self.witness_lost = false;
        if !joining && self.draws(Fault::Stranger, 300) {
            self.meet_stranger()?;
        }
        if !joining {
            self.between_lives();
        }
        let life = self.open()?;
        let facts = life.pool.facts();
        self.step(format!("opened, epoch {}{}", facts.epoch, out_of_sync(&facts)));
        self.heal_reads();
        if self.prng.chance(250) {
            // The next load meets what the opening has left to do.
            return Ok(life);
        }
        if self.prng.chance(600) {
            self.settle(&life)?;
        }
        let scrub = self.prng.chance(400);
        let life = self.inspect(life, scrub)?.ok_or_else(unordered)?;
        if self.prng.chance(300) {
            self.remove_in_turn(life)?;
            let life = self.open()?;
            return self.inspect(life, false)?.ok_or_else(unordered);
        }
        Ok(life)
    }

    /// Heals everything, closes, damages one copy where checksums see it, and looks once more.
    fn finish(&mut self, life: Life) -> Verdict {
        let alive = (0..self.disks.len()).filter(|i| !self.dead.contains(i) && !self.gone.contains(i));
        alive.for_each(|i| self.disk(i).heal());
        let life = self.restart(life)?;
        self.settle(&life)?;
        let life = self.check_scrub(life, Rotten::Nothing)?;
        let life = self.relay(life)?;
        let rot = if self.draws(Fault::Rot, 1000) { self.rotten(&life) } else { Vec::new() };
        let life = self.restart_with(life, &rot)?;
        if self.close(life)? || !self.touched.is_empty() {
            return Ok(());
        }
        Err(Failure::new(Oracle::Answers, "the last close failed"))
    }

    /// Every drive may leave in turn, in one life. After a power cut the pool does with any of the others, whatever the
    /// last one that left says when it is back.
    fn relay(&mut self, life: Life) -> Verdict<Life> {
        let alone = !self.plan.is_mirrored() || self.plan.has(Fault::Beyond);
        if alone || !self.draws(Fault::Unplug, 500) || !self.lose_one_after_another(&life)? {
            return Ok(life);
        }
        self.remove_in_turn(life)?;
        let alive = (0..self.disks.len()).filter(|i| !self.dead.contains(i) && !self.gone.contains(i));
        alive.for_each(|i| self.disk(i).plug());
        let life = self.open()?;
        self.settle(&life)?;
        self.check_scrub(life, Rotten::Nothing)
    }

    /// Closes, flips bits, opens, reads, scrubs: after that every copy is right again.
    fn restart_with(&mut self, life: Life, rot: &[(usize, u64)]) -> Verdict<Life> {
        if rot.is_empty() {
            return Ok(life);
        }
        if !self.close(life)? {
            self.forget_unflushed();
            return self.open();
        }
        {
            let mut model = self.field.model.borrow_mut();
            (0..model.volume_count()).for_each(|v| model.closed(v));
        }
        for (index, at) in rot {
            let (_, other) = pick(&mut self.prng, rot);
            self.spoil(*index, *at, other);
        }
        let faults = std::mem::take(&mut self.plan.faults);
        let life = self.open()?;
        self.plan.faults = faults;
        if self.prng.chance(700) {
            self.verify_all(&life)?.ok_or_else(unordered)?;
        }
        let life = self.check_scrub(life, Rotten::Some)?;
        let life = self.check_scrub(life, Rotten::Nothing)?;
        let life = self.restart(life)?;
        self.step("rot healed");
        let life = self.inspect(life, false)?.ok_or_else(unordered)?;
        let life = self.check_scrub(life, Rotten::Nothing)?;
        if self.prng.chance(500) {
            return Ok(life);
        }
        // The copies that rotted have to do without the others.
        self.remove_in_turn(life)?;
        self.open()
    }

    /// A bit of a block flips, or the block holds what belongs to another one of its drive.
    fn spoil(&mut self, index: usize, at: u64, other: u64) {
        let disk = self.disk(index);
        if at == other || self.prng.chance(600) {
            let damage = pick(&mut self.prng, &[Damage::BitFlip, Damage::Garbage, Damage::Zeroes]);
            disk.damage(crate::base::units::Span::at(at, 512), damage);
            return self.step(format!("drive {index} rots at {at}: {damage:?}"));
        }
        let bytes = disk.peek(ByteOffset(other), 4096);
        disk.poke(ByteOffset(at), &bytes);
        self.step(format!("drive {index} has at {at} what belongs to {other}"));
    }

    /// Sectors of one member to be damaged: data whose volume has checksums and another copy.
    fn rotten(&mut self, life: &Life) -> Vec<(usize, u64)> {
        let copies = mirrored_copies(life, |checksums| checksums);
        if copies.is_empty() {
            return Vec::new();
        }
        let victim = pick(&mut self.prng, &copies).member;
        let mine: Vec<_> = copies.into_iter().filter(|c| c.member == victim).collect();
        let count = 1 + self.prng.below(8);
        (0..count)
            .map(|_| {
                let copy = pick(&mut self.prng, &mine);
                (usize::from(victim.0), self.part_of(life, copy).offset().0)
            })
            .collect()
    }
}

fn unordered() -> Failure {
    Failure::new(Oracle::Liveness, "crashed without an order")
}
