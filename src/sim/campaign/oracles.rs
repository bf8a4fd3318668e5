//! Checks of a pool at rest: bytes, extents, equal copies, membership, and every member removed in turn.

use super::life::{LIMIT, Life, Machine};
use super::plan::Fault;
use super::report::{Failure, Oracle, Verdict};
use super::workload::verify;
use crate::base::units::MemberId;
use crate::pool::Pool;
use crate::pool::report::PoolFacts;
use crate::pool::scrub::ScrubFacts;
use crate::pool::state::FreeExtents;
use crate::reactor::sync::lock;
use crate::sim::{Image, Stop};
use std::collections::BTreeMap;

/// What a volume must give: all of it, or what can be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Readable {
    Whole,
    InPart,
}

impl Machine {
    /// All checks of a pool that nobody uses. None if it crashed meanwhile.
    pub fn inspect(&mut self, mut life: Life, scrub: bool) -> Verdict<Option<Life>> {
        self.check_membership(&life.pool)?;
        check_extents(&life.pool)?;
        if self.verify_all(&life)?.is_none() {
            return Ok(None);
        }
        if scrub {
            life = self.check_scrub(life, ScrubFacts::default())?;
        }
        Ok(Some(life))
    }

    /// Reads every volume from a random core. Gives the bytes that could not be read, None after a crash.
    pub fn verify_all(&mut self, life: &Life) -> Verdict<Option<u64>> {
        let facts = life.pool.facts();
        let mut unreadable = 0;
        for volume in 0..self.plan.volumes.len() {
            let cores = life.handles.len() as u64; // widening
            let core = usize::try_from(self.prng.below(cores)).expect("a list's index");
            let (field, handle) = (self.field.clone(), life.handles[core][volume].clone());
            let mut prng = self.prng.fork();
            let work = async move { verify(&field, &handle, volume, &mut prng).await };
            let lost = match self.world.run_on(&life.process.cores, life.process.core(core), LIMIT, work) {
                Ok(lost) => lost?,
                Err(Stop::Crashed) => return Ok(None),
                Err(stop) => return Err(stop.into()),
            };
            if lost > 0 && readable(&life.pool, &facts, volume) == Readable::Whole {
                let what = format!("volume {volume}: {lost} bytes could not be read, every slot has a copy");
                return Err(Failure::new(Oracle::Answers, what));
            }
            unreadable += lost;
        }
        Ok(Some(unreadable))
    }

    /// Members that nothing happened to are in sync.
    pub fn check_membership(&self, pool: &Pool) -> Verdict {
        for member in pool.facts().members {
            let index = usize::from(member.id.0);
            if !member.in_sync && !self.touched.contains(&index) {
                let what = format!("drive {index} is {:?}: {}", member.state, member.reason);
                return Err(Failure::new(Oracle::Membership, what));
            }
        }
        Ok(())
    }

    /// Reads all copies and compares them.
    pub fn check_scrub(&mut self, life: Life, expected: ScrubFacts) -> Verdict<Life> {
        let Life { process, pool, handles } = life;
        let core = process.core(0).clone();
        let (pool, found) = self.on(&process, async move {
            let found = pool.scrub(&core).await;
            (pool, found)
        })?;
        let bad = ScrubFacts { blocks: 0, ..found };
        let excused = self.field.may_fail.iter().any(std::cell::Cell::get);
        let bad = if excused { ScrubFacts { unreadable: 0, ..bad } } else { bad };
        if bad != expected {
            return Err(Failure::new(Oracle::CopiesEqual, format!("a scrub found {found:?}")));
        }
        Ok(Life { process, pool, handles })
    }

    /// Takes each member away in turn, each time from the same situation, and reads everything: it must be what
    /// it was with all of them, and missing only where the pool said so. The life ends by a power cut first, so
    /// what was read before must be on the drives.
    pub fn remove_in_turn(&mut self, life: Life) -> Verdict {
        let facts = life.pool.facts();
        self.world.power_cut();
        self.end(life)?;
        (0..self.plan.volumes.len()).for_each(|v| self.field.model.borrow_mut().crash(v));
        let images: Vec<Image> = (0..self.disks.len()).map(|i| self.disk(i).snapshot()).collect();
        let witness = self.witness().snapshot();
        let touched = self.touched.clone();
        for index in 0..self.disks.len() {
            if !self.disk(index).is_plugged() {
                continue;
            }
            self.touched.insert(index);
            self.step(format!("drive {index} is removed"));
            self.disk(index).unplug();
            let result = self.look_without(index, &facts);
            self.disk(index).plug();
            result?;
            images.iter().enumerate().for_each(|(i, image)| self.disk(i).restore(image));
            self.witness().restore(&witness);
            self.touched.clone_from(&touched);
        }
        Ok(())
    }

    fn look_without(&mut self, index: usize, before: &PoolFacts) -> Verdict {
        self.field.counts.borrow_mut().members_removed += 1;
        if 2 * (self.plugged() + 1) <= self.disks.len() + 1 {
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
        let lost = gone(&life.pool.facts()) - gone(before);
        if lost != said {
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

/// Whether every slot of a volume has a copy that can be read.
fn readable(pool: &Pool, facts: &PoolFacts, volume: usize) -> Readable {
    let name = format!("v{volume}");
    let Some(record) = facts.state.volumes.values().find(|v| v.name == name) else { return Readable::InPart };
    let usable = |m: MemberId, copies| pool.shared().member(m).usable(copies).is_some();
    let whole = record.slots.values().all(|s| s.copies.iter().any(|c| usable(c.member, s.copies.len())));
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
        let (free, used) = (live.free.free(*id), live.free.in_use(*id));
        if used != derived.in_use(*id) || free + used != record.extents {
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
