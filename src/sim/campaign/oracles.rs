//! Checks of a pool at rest: bytes, extents, equal copies, membership, and every member removed in turn.

use super::life::{LIMIT, Life, Machine};
use super::operator::way_to;
use super::plan::Fault;
use super::report::{Failure, Oracle, Verdict};
use super::workload::verify;
use crate::base::units::{ByteLen, MemberId};
use crate::pool::Pool;
use crate::pool::balance::is_even;
use crate::pool::copies::are_as_asked;
use crate::pool::member::Member;
use crate::pool::quorum::witness_counts;
use crate::pool::report::{MemberFacts, PoolFacts};
use crate::pool::shared::Shared;
use crate::pool::state::{FreeExtents, MemberState};
use crate::pool::verdict::Findings;
use crate::reactor::sync::lock;
use crate::sim::{DiskShape, Image, Stop};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a change of the map may take, virtual time.
const EXTENTS_LIMIT: Duration = Duration::from_secs(60);

/// What a volume must give: all of it, or what can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Readable {
    Whole,
    InPart,
}

/// Whether copies were damaged since the last scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rotten {
    Nothing,
    Some,
}

impl Machine {
    /// All checks of a pool that nobody uses. None if it crashed meanwhile.
    pub fn inspect(&mut self, mut life: Life, scrub: bool) -> Verdict<Option<Life>> {
        self.check_membership(&life.pool)?;
        self.await_extents(&life)?;
        if self.verify_all(&life)?.is_none() {
            return Ok(None);
        }
        if scrub {
            life = self.check_scrub(life, Rotten::Nothing)?;
        }
        Ok(Some(life))
    }

    /// Reads every volume from a random core. Gives the bytes that could not be read, None after a crash.
    pub fn verify_all(&mut self, life: &Life) -> Verdict<Option<u64>> {
        let facts = life.pool.facts();
        let mut unreadable = 0;
        let volumes: Vec<(String, usize)> = {
            let ledger = self.field.ledger.borrow();
            ledger.volumes().iter().map(|(name, entry)| (name.clone(), entry.number)).collect()
        };
        for (name, volume) in volumes {
            let cores = life.handles.len() as u64; // widening
            let core = usize::try_from(self.prng.below(cores)).expect("a list's index");
            let handle = way_to(&life.pool, life.process.core(core), &name)?;
            let field = self.field.clone();
            let mut prng = self.prng.fork();
            let work = async move { verify(&field, &handle, volume, &mut prng).await };
            let lost = match self.world.run_on(&life.process.cores, life.process.core(core), LIMIT, work) {
                Ok(lost) => lost?,
                Err(Stop::Crashed) => return Ok(None),
                Err(stop) => return Err(stop.into()),
            };
            if lost > 0 && readable(&life.pool, &facts, &name) == Readable::Whole {
                let what = format!("volume {volume}: {lost} bytes could not be read, every slot has a copy");
                return Err(Failure::new(Oracle::Answers, what));
            }
            unreadable += lost;
        }
        Ok(Some(unreadable))
    }

    /// Every drive that is there gets in sync by itself in bounded time; it may be struck again then.
    pub fn settle(&mut self, life: &Life) -> Verdict {
        let plugged: Vec<usize> = (0..self.disks.len()).filter(|i| self.disk(*i).is_plugged()).collect();
        // What a drive lacks may be on one that is away.
        if self.plan.has(Fault::Beyond) && plugged.len() < self.members_now() {
            return Ok(());
        }
        let shared = life.pool.shared();
        // What only such a drive has stays refused until the next opening.
        let failed = |m: &Member| m.disk.as_ref().is_some_and(|d| d.has_failed_flush());
        let alone = !self.plan.is_mirrored() || self.plan.has(Fault::Beyond);
        if alone && shared.all_members().iter().any(|m| failed(m)) {
            return Ok(());
        }
        // What only an old image should have nobody has: nothing can be copied from anywhere.
        if alone && shared.all_members().iter().any(|m| m.lacks_all()) {
            return Ok(());
        }
        let id = |i: &usize| MemberId(u16::try_from(*i).expect("5 at most"));
        let members = || shared.members.load();
        // Whoever was taken out meanwhile is not waited for.
        let in_sync = || plugged.iter().all(|i| members().get(&id(i)).is_none_or(|m| m.is_in_sync()));
        match self.world.run(&life.process.cores, LIMIT, in_sync) {
            Ok(()) => {}
            Err(stop) => {
                let what = format!("not in sync again{}; {stop}", out_of_sync(&life.pool.facts()));
                return Err(Failure::new(Oracle::Liveness, what));
            }
        }
        self.touched.retain(|i| !plugged.contains(i));
        self.rebuilt.retain(|i| self.touched.contains(i));
        self.step("in sync");
        self.await_rebuild(life)?;
        self.await_recounts(life)?;
        self.await_spread(life)?;
        self.take_dead_away(&life.pool);
        Ok(())
    }

    /// What lay on drives that stay away gets its copies elsewhere, if there is room; more may be lost then.
    fn await_rebuild(&mut self, life: &Life) -> Verdict {
        let shared = life.pool.shared();
        if self.plan.rebuild_after > PATIENCE || self.touched.is_empty() {
            return Ok(());
        }
        let looks = std::cell::Cell::new(0u32);
        let done = || {
            looks.set(looks.get() + 1);
            looks.get().is_multiple_of(64) && (shared.no_room.load(Ordering::Relaxed) || is_rebuilt(shared))
        };
        if let Err(stop) = self.world.run(&life.process.cores, LIMIT, done) {
            let left: Vec<String> = life
                .pool
                .facts()
                .members
                .iter()
                .map(|m| format!("{:?} {:?} {:?}", m.id, m.state, m.used))
                .collect();
            let what = format!("copies were not made anew: {}; {stop}", left.join(", "));
            return Err(Failure::new(Oracle::Liveness, what));
        }
        if is_rebuilt(shared) {
            self.step("rebuilt");
            self.field.counts.borrow_mut().rebuilt += 1;
            self.rebuilt = self.touched.clone();
        }
        Ok(())
    }

    /// Slots come to have the copies that they are to have, where nothing keeps them from it.
    fn await_recounts(&mut self, life: &Life) -> Verdict {
        let shared = life.pool.shared();
        let failed = |m: &Member| m.disk.as_ref().is_some_and(|d| d.has_failed_flush());
        let alone = !self.plan.is_mirrored() || self.plan.has(Fault::Beyond);
        let touched = !self.touched.is_empty() || shared.all_members().iter().any(|m| failed(m));
        if alone || touched || are_as_asked(&lock(&shared.live).state) {
            return Ok(());
        }
        let looks = std::cell::Cell::new(0u32);
        let done = || {
            looks.set(looks.get() + 1);
            let stuck = shared.copies_stuck.load(Ordering::Relaxed);
            looks.get().is_multiple_of(64) && (stuck || are_as_asked(&lock(&shared.live).state))
        };
        if let Err(stop) = self.world.run(&life.process.cores, LIMIT, done) {
            let volumes = life.pool.facts().volumes;
            let left: Vec<String> = volumes
                .iter()
                .map(|v| format!("{} {}: {}, {}", v.name, v.copies, v.lacking, v.surplus))
                .collect();
            let what = format!("slots have other copies than they are to have: {}; {stop}", left.join(", "));
            return Err(Failure::new(Oracle::Liveness, what));
        }
        self.step("recounted");
        Ok(())
    }

    /// Slots come to lie as they should on members that were added, where nothing keeps them from it.
    fn await_spread(&mut self, life: &Life) -> Verdict {
        let shared = life.pool.shared();
        let failed = |m: &Member| m.disk.as_ref().is_some_and(|d| d.has_failed_flush());
        let spreading = || lock(&shared.live).state.spreading;
        if !self.touched.is_empty() || shared.all_members().iter().any(|m| failed(m)) || !spreading() {
            return Ok(());
        }
        let looks = std::cell::Cell::new(0u32);
        let done = || {
            looks.set(looks.get() + 1);
            looks.get().is_multiple_of(64) && !spreading()
        };
        if let Err(stop) = self.world.run(&life.process.cores, LIMIT, done) {
            let members = life.pool.facts().members;
            let used: Vec<String> =
                members.iter().map(|m| format!("{:?} {:?} {:?}", m.id, m.state, m.used)).collect();
            let what = format!("slots are not spread: {}; {stop}", used.join(", "));
            return Err(Failure::new(Oracle::Liveness, what));
        }
        self.step("spread");
        self.field.counts.borrow_mut().spread += 1;
        // What cannot be read, or was not written well, stays where it is.
        let alone = !self.plan.is_mirrored() || self.plan.has(Fault::Beyond);
        let even = is_even(&lock(&shared.live).state);
        match even || alone {
            true => Ok(()),
            false => Err(Failure::new(Oracle::Extents, "slots are said to be spread and are not")),
        }
    }

    /// Extents and map agree, at the latest when a change that is under way is done: an extent is free some time after the
    /// commit that says so.
    pub fn await_extents(&mut self, life: &Life) -> Verdict {
        let looks = std::cell::Cell::new(0u32);
        let agree = || {
            looks.set(looks.get() + 1);
            looks.get().is_multiple_of(64) && check_extents(&life.pool).is_ok()
        };
        if check_extents(&life.pool).is_err() {
            // Whatever ends the waiting, the last look tells.
            let _ = self.world.run(&life.process.cores, EXTENTS_LIMIT, agree);
        }
        check_extents(&life.pool)
    }

    /// Members that nothing happened to are in sync.
    pub fn check_membership(&self, pool: &Pool) -> Verdict {
        for member in pool.facts().members {
            let index = usize::from(member.id.0);
            // After openings that were cut off one by one, a member may be brought up to date that lacks nothing.
            let needless = member.state == MemberState::Resyncing && self.openings_are_cut_off;
            let removed = member.state == MemberState::Removed;
            if !member.in_sync && !self.touched.contains(&index) && !needless && !removed {
                let what = format!("drive {index} is {:?}: {}", member.state, member.reason);
                return Err(Failure::new(Oracle::Membership, what));
            }
        }
        Ok(())
    }

    /// Scrubs: every copy is right, or, where something rotted, was made so.
    pub fn check_scrub(&mut self, life: Life, rotten: Rotten) -> Verdict<Life> {
        let Life { process, pool, handles, service } = life;
        let core = process.core(0).clone();
        let (pool, found) = self.on(&process, async move {
            // One that an operator began tells also what it met while things were wrong.
            if pool.is_scrubbing() {
                let _ = pool.scrub(&core).await;
            }
            let found = pool.scrub(&core).await;
            (pool, found)
        })?;
        let found = match found {
            Ok(found) => found,
            // A pool without a majority serves what it has and commits nothing.
            Err(_) if !self.touched.is_empty() => return Ok(Life { process, pool, handles, service }),
            Err(error) => return Err(Failure::new(Oracle::Answers, format!("a scrub failed: {error}"))),
        };
        let excused = self.field.may_fail.iter().any(std::cell::Cell::get);
        let forgiven = match rotten {
            Rotten::Some => Findings { mismatched: 0, repaired: 0, ..found },
            Rotten::Nothing => found,
        };
        let forgiven = if excused { Findings { unreadable: 0, lost: 0, ..forgiven } } else { forgiven };
        if !forgiven.is_clean() {
            return Err(Failure::new(Oracle::CopiesEqual, format!("a scrub found {found:?}")));
        }
        Ok(Life { process, pool, handles, service })
    }

    /// Takes each member away in turn, each time from the same situation, and reads everything: it must be what
    /// it was with all of them, and missing only where the pool said so. The life ends by a power cut first, so
    /// what was read before must be on the drives.
    pub fn remove_in_turn(&mut self, life: Life) -> Verdict {
        // One that was rebuilt may have lost its vote since the last look.
        self.take_dead_away(&life.pool);
        let facts = life.pool.facts();
        // A witness that was lost has no vote before the next opening.
        if self.witness_lost || self.field.joining.get() || is_parting(&facts) {
            self.world.power_cut();
            self.end(life)?;
            self.note_end();
            return Ok(());
        }
        self.world.power_cut();
        self.end(life)?;
        self.note_end();
        let (scene, model) = (self.scene(), self.field.model.borrow().clone());
        let touched = self.touched.clone();
        for index in 0..self.disks.len() {
            if !self.disk(index).is_plugged() {
                continue;
            }
            self.touched.insert(index);
            self.step(format!("drive {index} is removed"));
            self.disk(index).unplug();
            // Where it has no vote, the state folder may be lost with it: what was acknowledged is on the drives.
            if !witness_counts(self.members_now()) && self.witness().is_some() && self.prng.chance(500) {
                self.step("the witness is lost with it");
                self.world.remove_disk(self.witness_path());
            }
            let lone = self.return_alone(index);
            let result = self.look_without(index, &facts, !lone.is_empty());
            lone.into_iter().for_each(|lone| self.disk(lone).unplug());
            self.disk(index).plug();
            result?;
            // What was never flushed may be there without one drive and not without another.
            self.set_scene(&scene);
            self.field.model.borrow_mut().clone_from(&model);
            self.touched.clone_from(&touched);
        }
        Ok(())
    }

    /// The content of all drives and the witness. Nothing runs.
    pub fn scene(&self) -> Scene {
        let members = (0..self.disks.len()).map(|i| self.disk(i).snapshot()).collect();
        let spares = self.spares.iter().map(|(_, disk)| disk.snapshot()).collect();
        let (gone, witness) = (self.gone.clone(), self.witness().map(|w| w.snapshot()));
        Scene { members, spares, gone, witness }
    }

    /// Puts the content back. Nothing runs.
    pub fn set_scene(&mut self, scene: &Scene) {
        (scene.members.len()..self.disks.len()).for_each(|_| self.unjoin());
        for index in self.gone.difference(&scene.gone).filter(|i| **i < self.disks.len()) {
            self.disk(*index).plug();
        }
        self.gone.clone_from(&scene.gone);
        scene.members.iter().enumerate().for_each(|(i, image)| self.disk(i).restore(image));
        self.spares.iter().zip(&scene.spares).for_each(|((_, disk), image)| disk.restore(image));
        match (self.witness(), &scene.witness) {
            (Some(witness), Some(image)) => witness.restore(image),
            (Some(_), None) => self.world.remove_disk(self.witness_path()),
            (None, Some(image)) => {
                self.world.add_disk(self.witness_path(), DiskShape::file(ByteLen(0))).restore(image);
            }
            (None, None) => {}
        }
    }

    fn look_without(&mut self, index: usize, before: &PoolFacts, returned: bool) -> Verdict {
        self.field.counts.borrow_mut().members_removed += 1;
        if 2 * (self.plugged() + 1) <= self.members_now() + 1 {
            return self.open_in_vain();
        }
        let recoveries = std::mem::take(&mut self.plan.faults);
        let opened = self.open();
        self.plan.faults = recoveries;
        let life = opened?;
        self.check_membership(&life.pool)?;
        let id = MemberId(u16::try_from(index).expect("5 at most"));
        let said = before.members.iter().find(|m| m.id == id).map_or(0, |m| m.lost_without.0);
        let gone = |facts: &PoolFacts| facts.volumes.iter().map(|v| v.unavailable.0).sum::<u64>();
        // Who returned may have brought something back.
        let lost = gone(&life.pool.facts()).saturating_sub(gone(before));
        // A resync that ended with the power may count or not; a copy that was made anew may have been committed.
        let some = |state: MemberState| before.members.iter().any(|m| m.state == state);
        let bettered = returned || some(MemberState::Rebuilding);
        // What was moving when the power went may lie where it was or where it was to be.
        let moved = before.state.spreading || !are_as_asked(&before.state);
        // One that left a moment ago, and of which nothing was asked since, was counted as there.
        let unnoticed = before.members.iter().any(|m| {
            let away = |at: usize| at != index && !self.disk(at).is_plugged();
            m.in_sync && away(usize::from(m.id.0))
        });
        if (lost > said && !unnoticed || lost < said && !bettered) && !some(MemberState::Resyncing) && !moved
        {
            let what = format!("without drive {index} {lost} bytes are lost, said were {said}");
            return Err(Failure::new(Oracle::Honesty, what));
        }
        self.verify_all(&life)?;
        self.end(life)
    }

    /// Whether the run leaves a fault in.
    pub fn draws(&mut self, fault: Fault, per_mille: u64) -> bool {
        self.plan.has(fault) && self.prng.chance(per_mille)
    }
}

/// The content of all drives at a moment.
#[derive(Clone)]
pub struct Scene {
    members: Vec<Image>,
    spares: Vec<Image>,
    gone: BTreeSet<usize>,
    witness: Option<Image>,
}

/// A drive that may be away for longer than this is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether no slot that can be read lacks a copy because of a drive that is gone.
fn is_rebuilt(shared: &Shared) -> bool {
    let live = lock(&shared.live);
    let gone = |m: MemberId| live.state.members[&m].state != MemberState::Active;
    let slots = live.state.volumes.values().flat_map(|v| v.slots.values());
    let mut lacking = slots.filter(|s| s.copies.iter().any(|c| gone(c.member)));
    lacking.all(|s| shared.authorities(&s.copies).is_empty())
}

/// The members that are not in sync, and why, in words.
pub fn out_of_sync(facts: &PoolFacts) -> String {
    let out = facts.members.iter().filter(|m| !m.in_sync);
    out.map(|m| format!("; {:?} {:?}: {}", m.id, m.state, m.reason)).collect()
}

/// Whether a commit may be under way that takes a vote away: a member that is to go has nothing any more.
fn is_parting(facts: &PoolFacts) -> bool {
    let goes = |m: &MemberFacts| m.leaving || facts.state.members[&m.id].absence.dead;
    let removed = |m: &MemberFacts| m.state == MemberState::Removed;
    facts.members.iter().any(|m| removed(m) || goes(m) && m.used.0 == 0)
}

/// Whether every slot of a volume has a copy that can be read.
fn readable(pool: &Pool, facts: &PoolFacts, name: &str) -> Readable {
    let Some(record) = facts.state.volumes.values().find(|v| v.name == name) else { return Readable::InPart };
    let whole = record.slots.values().all(|s| !pool.shared().authorities(&s.copies).is_empty());
    match whole {
        // A single copy on a drive that vanished while it served is there only by name.
        true if record.copies > 1 => Readable::Whole,
        true if facts.members.iter().all(|m| m.in_sync) => Readable::Whole,
        true | false => Readable::InPart,
    }
}

/// No extent has two users, and the count of free ones agrees with the map.
pub fn check_extents(pool: &Pool) -> Verdict {
    let live = lock(&pool.shared().live);
    let mut users = BTreeMap::new();
    for (copy, volume, slot) in live.state.extents_in_use() {
        if let Some(other) = users.insert(copy, (volume, slot)) {
            let what = format!("{copy:?} belongs to {other:?} and to {:?}", (volume, slot));
            return Err(Failure::new(Oracle::Extents, what));
        }
    }
    let derived = FreeExtents::of(&live.state)
        .map_err(|_| Failure::new(Oracle::Extents, "the map contradicts itself"))?;
    for (id, record) in &live.state.members {
        let reserved = live.reserved.iter().filter(|c| c.member == *id).count();
        let reserved = u32::try_from(reserved).expect("few are moved at a time");
        let (free, used) = (live.free.free(*id), live.free.in_use(*id) - reserved);
        if used != derived.in_use(*id) || free + used + reserved != record.extents {
            let what = format!(
                "{id:?}: {free} free and {used} used of {}, the map has {}",
                record.extents,
                derived.in_use(*id)
            );
            return Err(Failure::new(Oracle::Extents, what));
        }
    }
    Ok(())
}
