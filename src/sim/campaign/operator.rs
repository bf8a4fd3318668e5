//! The operator: makes, grows, shrinks, renames and destroys volumes, begins scrubs, gives up drives, adds others, takes some out and
//! replaces some, gives volumes more copies and takes them away, while clients work.
//!
//! What was answered is in the ledger for good. Volumes of the operator have numbers of their own in the model, each
//! one a new number, so that what an extent held for another volume would be seen. They are used from the home core.

use super::ledger::{Entry, Operation};
use super::life::{Life, Machine};
use super::model::Stores;
use super::plan::{Fault, VolumeSpec, pick};
use super::port::{Port, Way};
use super::report::{Failure, Oracle, Verdict};
use super::workload::{Field, request, sectors};
use crate::base::limits::COPIES_MAX;
use crate::base::prng::Prng;
use crate::base::units::{ByteLen, MemberId, Span};
use crate::pool::state::{MemberRecord, MemberState};
use crate::pool::{Pool, PoolError, VolumePlan};
use crate::reactor::Core;
use crate::reactor::sync::lock;
use crate::volume::Volume;
use futures_util::future::join;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Volumes of the operator at a time, and bytes of the largest.
const VOLUMES_MAX: usize = 2;
const SIZE_MAX: u64 = 2 << 20;

/// By how much volumes of the clients may grow in all, bytes.
const GROWTH_MAX: u64 = 1 << 20;

const BLOCK: u64 = 4096;

/// What the operator of one load works with.
struct Operator {
    field: Rc<Field>,
    pool: Pool,
    core: Core,
    prng: Prng,
    /// How volumes are made.
    spec: VolumeSpec,
    /// The sizes that the clients' volumes began with.
    sizes: Vec<u64>,
    /// Drives that are gone may be given up.
    gives_up: bool,
    /// Drives to be added, and before which step.
    adds: Vec<PathBuf>,
    adds_at: u64,
    /// What he takes out, and before which step.
    removal: Option<Removal>,
    replacement: Option<PathBuf>,
    /// Changes of how many copies a volume has, and before which step.
    recounts: Vec<Recount>,
}

/// A volume gets more copies than those that the plan promises of it, or only those again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Recount {
    at: u64,
    /// Which one of those that there are by then.
    volume: u64,
    /// Beyond what is promised; zero: no more than that.
    more: u8,
}

/// A drive that is taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Removal {
    at: u64,
    member: MemberId,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Remove,
    /// It stays after all, after so long.
    Keep(Duration),
    /// A spare drive comes in its place.
    Replace,
}

impl Machine {
    /// Sends an operator along with a load, if the plan has one and nothing is unsettled. The cell tells when he is done.
    pub fn send_operator(&mut self, life: &Life) -> Rc<Cell<bool>> {
        let done = Rc::new(Cell::new(true));
        if !self.plan.has(Fault::Operator)
            || self.field.ledger.borrow().is_unsettled()
            || self.prng.chance(250)
        {
            return done;
        }
        done.set(false);
        let steps = 1 + self.prng.below(10);
        let (adds, adds_at) = self.draw_additions(steps);
        let removal = self.draw_removal(steps, adds.is_empty());
        let recounts = self.draw_recounts(steps);
        let replacement = removal.filter(|r| r.how == How::Replace).map(|_| self.spares[0].0.clone());
        let operator = Operator {
            field: self.field.clone(),
            pool: life.pool.clone(),
            core: life.process.core(0).clone(),
            prng: self.prng.fork(),
            spec: self.spec_of_operator(),
            sizes: self.plan.volumes.iter().map(|v| v.size.0).collect(),
            gives_up: self.plan.is_mirrored() && !self.plan.has(Fault::Beyond),
            adds,
            adds_at,
            removal,
            replacement,
            recounts,
        };
        self.step(format!("an operator does {steps} things"));
        let ended = done.clone();
        life.process.core(0).spawn(async move {
            operator.work(steps).await;
            ended.set(true);
        });
        done
    }

    /// Spare drives that he adds, and when.
    fn draw_additions(&mut self, steps: u64) -> (Vec<PathBuf>, u64) {
        if self.spares.is_empty() {
            return (Vec::new(), 0);
        }
        let count = usize::try_from(self.prng.below(1 + self.spares.len() as u64)).expect("a few"); // widening
        let paths: Vec<PathBuf> = self.spares.iter().take(count).map(|(path, _)| path.clone()).collect();
        if count > 0 {
            self.step(format!("he adds {paths:?}"));
        }
        (paths, self.prng.below(steps))
    }

    /// Changes of volumes' copies. What the plan promises is kept all the time, so that it may be relied on at any moment.
    fn draw_recounts(&mut self, steps: u64) -> Vec<Recount> {
        let prng = &mut self.recounts;
        if !prng.chance(300) {
            return Vec::new();
        }
        let count = 1 + prng.below(4);
        let recount = |prng: &mut Prng| {
            let (at, volume) = (prng.below(steps), prng.below(1000));
            Recount { at, volume, more: pick(prng, &[0, 0, 1, 1, 1, 2]) }
        };
        let recounts: Vec<Recount> = (0..count).map(|_| recount(prng)).collect();
        self.step(format!("he changes copies: {recounts:?}"));
        recounts
    }

    /// A drive that he takes out, and how; one in whose place another comes needs a spare.
    fn draw_removal(&mut self, steps: u64, has_spare: bool) -> Option<Removal> {
        let prng = &mut self.removals;
        if !prng.chance(350) {
            return None;
        }
        let here: Vec<usize> = (0..self.disks.len()).filter(|i| !self.gone.contains(i)).collect();
        let member = MemberId(u16::try_from(pick(prng, &here)).expect("a few"));
        let how = match prng.below(4) {
            0 => How::Keep(Duration::from_millis(prng.below(2000))),
            1 if has_spare && !self.spares.is_empty() => How::Replace,
            _ => How::Remove,
        };
        let removal = Removal { at: prng.below(steps), member, how };
        self.step(format!("he takes one out: {removal:?}"));
        Some(removal)
    }

    /// What the operator was told to have added.
    pub fn meet_joined(&mut self) {
        let joined = self.field.joined.take();
        joined.iter().for_each(|path| self.join(path));
    }

    /// What an opening tells: whether drives were added whose addition was not answered.
    pub fn meet_members(&mut self, pool: &Pool) {
        for member in pool.facts().members {
            if usize::from(member.id.0) >= self.disks.len() {
                self.step(format!("{} is a member", member.name));
                self.join(Path::new(&member.name));
            }
        }
    }

    /// Volumes that bear as much as those of the plan do.
    fn spec_of_operator(&mut self) -> VolumeSpec {
        let drives = u8::try_from(self.members_now()).expect("a few");
        let copies = u8::try_from(self.plan.spare() + 1).expect("3 at most").min(drives);
        let marked = copies == 1 || self.plan.volumes.iter().all(|v| v.checksums);
        VolumeSpec {
            size: ByteLen(SIZE_MAX),
            copies,
            unit: pick(&mut self.prng, &[None, Some(4 << 10), Some(16 << 10), Some(1 << 20)]).map(ByteLen),
            checksums: marked || self.prng.chance(500),
        }
    }

    /// Drives that were said to be dead are never used again, so nobody leaves them where they are.
    pub fn take_dead_away(&mut self, pool: &Pool) {
        let members = lock(&pool.shared().live).state.members.clone();
        for (id, _) in members.iter().filter(|(_, record)| record.absence.dead) {
            let index = usize::from(id.0);
            if self.dead.insert(index) {
                self.step(format!("drive {index} is dead"));
                self.touched.insert(index);
            }
            if self.disk(index).is_plugged() {
                self.disk(index).unplug();
            }
        }
        self.take_gone_away(&members);
    }

    /// Drives that were taken out are free: nobody leaves them where they were.
    fn take_gone_away(&mut self, members: &BTreeMap<MemberId, MemberRecord>) {
        for index in 0..self.disks.len() {
            let id = MemberId(u16::try_from(index).expect("a few"));
            if !members.contains_key(&id) && self.gone.insert(index) {
                self.step(format!("drive {index} is gone"));
                self.field.counts.borrow_mut().taken_out += 1;
                self.touched.remove(&index);
                self.rebuilt.remove(&index);
                if self.disk(index).is_plugged() {
                    self.disk(index).unplug();
                }
            }
        }
        let parting = members.values().any(|m| m.leaving || m.state == MemberState::Removed);
        self.field.parting.set(parting);
    }

    /// After an opening: the volumes are those of the ledger.
    pub fn check_ledger(&self, pool: &Pool) -> Verdict {
        if !self.plan_had_operator {
            return Ok(());
        }
        let found: BTreeMap<String, u64> =
            pool.volumes().into_iter().map(|(name, v)| (name, v.shape.load().size.0)).collect();
        let mut ledger = self.field.ledger.borrow_mut();
        ledger.judge(&found)?;
        ledger.volumes().values().for_each(|entry| self.field.set_size(entry.number, entry.size));
        Ok(())
    }
}

impl Operator {
    async fn work(mut self, steps: u64) {
        for step in 0..steps {
            if let Some(removal) = self.removal.take_if(|removal| removal.at == step)
                && let Err(failure) = self.take_out(removal).await
            {
                self.field.fail(failure);
            }
            for recount in self.recounts.clone().into_iter().filter(|r| r.at == step) {
                if let Err(failure) = self.recount(recount).await {
                    self.field.fail(failure);
                }
            }
            if step == self.adds_at
                && !self.adds.is_empty()
                && let Err(failure) = self.add().await
            {
                self.field.fail(failure);
            }
            let most = pick(&mut self.prng, &[3_000_000, 30_000_000, 300_000_000, 2_000_000_000]);
            let pause = Duration::from_nanos(self.prng.below(most));
            self.core.sleep(pause).await;
            if self.field.failure.borrow().is_some() || self.field.ledger.borrow().is_unsettled() {
                return;
            }
            if let Err(failure) = self.step().await {
                self.field.fail(failure);
            }
        }
    }

    async fn step(&mut self) -> Verdict {
        let mine = self.mine();
        let one = if mine.is_empty() { None } else { Some(pick(&mut self.prng, &mine)) };
        match (self.prng.below(10), one) {
            (0..=1, _) => self.grow_one().await,
            (2, _) => self.scrub().await,
            (3, _) => self.give_up().await,
            (_, None) => self.create().await,
            (4..=5, Some(_)) if mine.len() < VOLUMES_MAX => self.create().await,
            (6, Some(number)) => self.rename(number).await,
            (7, Some(number)) => self.destroy(number).await,
            (8, Some(number)) => self.shrink(number).await,
            (_, Some(number)) => self.use_one(number).await,
        }
    }

    /// Drives are added. What is not answered, or fails with the majority, is known after the next opening.
    async fn add(&mut self) -> Verdict {
        let paths = std::mem::take(&mut self.adds);
        let disks: Vec<(PathBuf, String)> =
            paths.iter().map(|path| (path.clone(), path.display().to_string())).collect();
        self.field.counts.borrow_mut().operations += 1;
        self.field.joining.set(true);
        let added = self.pool.add_disks(&self.core, &disks).await;
        self.field.joining.set(matches!(added, Err(PoolError::Frozen)));
        match added {
            Ok(()) => self.field.joined.borrow_mut().extend(paths),
            // With too few votes, or none, there is no joining.
            Err(_) if self.field.may_lack_space.get() => {}
            Err(error) => {
                return Err(Failure::new(Oracle::Answers, format!("drives were not added: {error}")));
            }
        }
        Ok(())
    }

    /// A volume is to have another number of copies. What is not answered may be so or not.
    async fn recount(&mut self, Recount { volume, more, .. }: Recount) -> Verdict {
        let all: Vec<(String, Entry)> = {
            let ledger = self.field.ledger.borrow();
            ledger.volumes().iter().map(|(name, entry)| (name.clone(), *entry)).collect()
        };
        let Some((name, entry)) = all.get(usize::try_from(volume).expect("small") % all.len().max(1)) else {
            return Ok(());
        };
        let most = u8::try_from(COPIES_MAX).expect("three");
        let copies = (self.field.copies(entry.number) + more).min(most);
        self.field.counts.borrow_mut().operations += 1;
        // With more copies than the plan has, space may be short where it has plenty.
        self.field.recounted.set(self.field.recounted.get() || more > 0);
        match self.pool.set_copies(name, copies, true).await {
            Ok(()) | Err(PoolError::TooFewForCopies { .. } | PoolError::NoRoomForCopies { .. }) => Ok(()),
            Err(_) if self.field.may_lack_space.get() || self.field.parting.get() => Ok(()),
            Err(error) => Err(Failure::new(Oracle::Answers, format!("copies were not changed: {error}"))),
        }
    }

    /// A drive is to leave. What is not answered, or fails with the majority, is known after the next opening.
    async fn take_out(&mut self, Removal { member, how, .. }: Removal) -> Verdict {
        let left = lock(&self.pool.shared().live).state.members.len().saturating_sub(1);
        if left < usize::from(self.spec.copies) && how != How::Replace {
            return Ok(());
        }
        self.field.counts.borrow_mut().operations += 1;
        self.field.parting.set(true);
        let begun = match how {
            How::Replace => return self.replace(member).await,
            How::Remove | How::Keep(_) => self.pool.remove_disk(member).await,
        };
        if let (Ok(()), How::Keep(after)) = (&begun, how) {
            self.core.sleep(after).await;
            // It may be gone by then, which is a reason to refuse.
            let _ = self.pool.keep_disk(member).await;
        }
        self.judge_removal(begun)
    }

    async fn replace(&mut self, member: MemberId) -> Verdict {
        let Some(path) = self.replacement.take() else { return Ok(()) };
        let name = path.display().to_string();
        self.field.joining.set(true);
        let replaced = self.pool.replace_disk(&self.core, member, &(path.clone(), name)).await;
        self.field.joining.set(matches!(replaced, Err(PoolError::Frozen)));
        if replaced.is_ok() {
            self.field.joined.borrow_mut().push(path);
        }
        self.judge_removal(replaced)
    }

    /// Who has to stay stays: too few others, one out of sync, no majority without it.
    fn judge_removal(&self, result: Result<(), PoolError>) -> Verdict {
        match result {
            Ok(()) | Err(PoolError::TooFewWithout { .. } | PoolError::NotWhole { .. }) => Ok(()),
            Err(PoolError::Invalid(_)) => Ok(()),
            Err(_) if self.field.may_lack_space.get() => Ok(()),
            Err(PoolError::NoRoomWithout { .. }) if self.field.recounted.get() => Ok(()),
            Err(error) => Err(Failure::new(Oracle::Answers, format!("a drive was not taken out: {error}"))),
        }
    }

    /// The numbers of the volumes that are not of the plan.
    fn mine(&self) -> Vec<usize> {
        let ledger = self.field.ledger.borrow();
        ledger.volumes().values().map(|e| e.number).filter(|n| *n >= self.sizes.len()).collect()
    }

    fn name_of(&self, number: usize) -> String {
        let ledger = self.field.ledger.borrow();
        let (name, _) = ledger.volumes().iter().find(|(_, e)| e.number == number).expect("it is known");
        name.clone()
    }

    /// An operation ended. One that failed is unsettled until the next opening.
    fn ended(&self, what: &str, result: Result<(), PoolError>) -> Verdict<bool> {
        self.field.counts.borrow_mut().operations += 1;
        match result {
            Ok(()) => {
                self.field.ledger.borrow_mut().done();
                Ok(true)
            }
            // Without some drives, or with one that leaves, there are too few for the copies, or no majority.
            Err(_) if self.field.may_lack_space.get() || self.field.parting.get() => Ok(false),
            Err(error) => Err(Failure::new(Oracle::Answers, format!("{what}: {error}"))),
        }
    }

    async fn create(&mut self) -> Verdict {
        let size = (1 + self.prng.below(SIZE_MAX / BLOCK)) * BLOCK;
        let spec = VolumeSpec { size: ByteLen(size), ..self.spec.clone() };
        let number = self.field.add_volume(spec.clone());
        let name = format!("w{number}");
        let plan = VolumePlan {
            name: name.clone(),
            size: spec.size,
            copies: Some(spec.copies),
            unit: spec.unit,
            checksums: spec.checksums,
            lba_bytes: None,
        };
        self.begin(Operation::Create { name, entry: Entry { number, size } });
        let made = self.pool.create_volume(&self.core, &plan).await.map(drop);
        match self.ended("a volume was not made", made)? {
            true => self.use_one(number).await,
            false => Ok(()),
        }
    }

    fn begin(&self, operation: Operation) {
        self.field.ledger.borrow_mut().begin(operation);
    }

    async fn grow_one(&mut self) -> Verdict {
        let all: Vec<Entry> = self.field.ledger.borrow().volumes().values().copied().collect();
        let Entry { number, size } = pick(&mut self.prng, &all);
        let most = self.sizes.get(number).map_or(SIZE_MAX, |size| size + GROWTH_MAX);
        let larger = size + (1 + self.prng.below(64)) * BLOCK;
        if larger > most {
            return Ok(());
        }
        let name = self.name_of(number);
        self.begin(Operation::Resize { name: name.clone(), size: larger });
        let grown = self.pool.grow_volume(&self.core, &name, ByteLen(larger)).await;
        if self.ended("a volume was not grown", grown)? {
            self.field.set_size(number, larger);
        }
        Ok(())
    }

    /// What lay beyond the new end is gone for good, also when the volume has grown again.
    async fn shrink(&mut self, number: usize) -> Verdict {
        let (name, size) = (self.name_of(number), self.field.size(number));
        let smaller = size - self.prng.below(size / BLOCK) * BLOCK;
        let gives_up = self.prng.chance(700);
        if smaller == size {
            return Ok(());
        }
        let beyond = sectors(Span::at(smaller, size - smaller));
        let change = self.field.model.borrow_mut().begin(number, beyond, Stores::Zeros, true);
        self.begin(Operation::Resize { name: name.clone(), size: smaller });
        let shrunk = self.pool.shrink_volume(&self.core, &name, ByteLen(smaller), gives_up).await;
        self.field.model.borrow_mut().end(change, shrunk.is_ok());
        if !gives_up && matches!(shrunk, Err(PoolError::DataBeyond { .. })) {
            self.field.ledger.borrow_mut().refused();
            return Ok(());
        }
        if self.ended("a volume was not shrunk", shrunk)? {
            self.field.set_size(number, smaller);
        }
        Ok(())
    }

    async fn rename(&mut self, number: usize) -> Verdict {
        let (from, to) = (self.name_of(number), format!("w{number}-{}", self.prng.below(1000)));
        if from == to {
            return Ok(());
        }
        self.begin(Operation::Rename { from: from.clone(), to: to.clone() });
        let renamed = self.pool.rename_volume(&from, &to).await;
        self.ended("a volume was not renamed", renamed).map(drop)
    }

    /// Destroys a volume that somebody uses still: requests under way end, later ones are refused.
    async fn destroy(&mut self, number: usize) -> Verdict {
        let (name, field, mut prng) = (self.name_of(number), self.field.clone(), self.prng.fork());
        let port = Port::Direct(way_to(&self.pool, &self.core, &name)?);
        self.begin(Operation::Destroy { name: name.clone() });
        field.leaving.set(Some(number));
        let using = async {
            for _ in 0..prng.below(6) {
                request(&field, &port, number, &mut prng).await?;
            }
            Verdict::Ok(())
        };
        let (used, destroyed) = join(using, self.pool.destroy_volume(&name)).await;
        field.leaving.set(None);
        used?;
        self.ended("a volume was not destroyed", destroyed).map(drop)
    }

    /// Some requests to one of his volumes.
    async fn use_one(&mut self, number: usize) -> Verdict {
        let port = Port::Direct(way_to(&self.pool, &self.core, &self.name_of(number))?);
        for _ in 0..1 + self.prng.below(8) {
            request(&self.field, &port, number, &mut self.prng).await?;
        }
        Ok(())
    }

    async fn scrub(&mut self) -> Verdict {
        self.field.counts.borrow_mut().operations += 1;
        match self.pool.begin_scrub(&self.core).await {
            Err(error) if !self.field.may_lack_space.get() => {
                Err(Failure::new(Oracle::Answers, format!("a scrub did not begin: {error}")))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A drive that is gone is said to be dead: its copies are made anew at once.
    async fn give_up(&mut self) -> Verdict {
        let facts = self.pool.facts();
        let gone = |s: MemberState| matches!(s, MemberState::Missing | MemberState::Faulted);
        let gone: Vec<MemberId> = facts.members.iter().filter(|m| gone(m.state)).map(|m| m.id).collect();
        if gone.is_empty() || !self.gives_up {
            return Ok(());
        }
        self.field.counts.borrow_mut().operations += 1;
        // Once it is empty its vote goes, whether or not somebody sees that before the next crash.
        self.field.parting.set(true);
        // It may come back meanwhile, which is a reason to refuse.
        let _ = self.pool.declare_dead(pick(&mut self.prng, &gone)).await;
        Ok(())
    }
}

/// A way to a volume of a pool by its present name, from one core.
pub fn way_to(pool: &Pool, core: &Core, name: &str) -> Verdict<crate::volume::Handle> {
    match pool.volume(name) {
        Some(volume) => Ok(Arc::new(Volume::in_pool(volume)).handle(core)),
        None => Err(Failure::new(Oracle::Durability, format!("there is no volume {name}"))),
    }
}

/// The same, as clients have it.
pub fn direct(handles: &[crate::volume::Handle]) -> Vec<Way> {
    handles.iter().cloned().map(Way::Direct).collect()
}
