//! What can be tried in full: a crash at every change of a drive within a script of administrative work and again at
//! every change of its recovery; a failure of every single operation; every order of losing and returning drives.
//!
//! Each of them runs on a small pool with a few clients; the oracles are those of the campaign.

use super::life::{Attempt, Life, Machine};
use super::model::Model;
use super::oracles::{Rotten, Scene, check_extents};
use super::plan::{Fault, Options, Plan, VolumeSpec};
use super::report::{Failure, Oracle, Verdict};
use super::run::Loaded;
use crate::base::units::{ByteLen, MemberId};
use crate::pool::planted::Planted;
use crate::pool::state::VolumeRecord;
use crate::pool::{OpenPlan, Pool, PoolError, VolumePlan};
use crate::reactor::Core;
use crate::reactor::sync::lock;
use crate::sim::{Crash, DiskShape, Stop};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Administrative work that is cut off at every step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Script {
    /// A volume is made, grown, renamed and destroyed.
    Volumes,
    /// A drive that was away is brought up to date; then everything is scrubbed.
    Resync,
    /// What a drive that is gone had is made anew; then everything is scrubbed.
    Rebuild,
    /// A drive is added, and slots are spread over all of them; then everything is scrubbed.
    Add,
    /// A drive is emptied and taken out; then everything is scrubbed.
    Remove,
    /// Volumes with so many copies get so many others; then everything is scrubbed.
    Copies(u8, u8),
    /// The same from two to one while a drive is away that missed something.
    CopiesWithout,
}

impl Script {
    /// The copies that volumes have before and in the end.
    fn copies(self) -> Option<(u8, u8)> {
        match self {
            Script::Copies(from, to) => Some((from, to)),
            Script::CopiesWithout => Some((2, 1)),
            Script::Volumes | Script::Resync | Script::Rebuild | Script::Add | Script::Remove => None,
        }
    }
}

pub const SCRIPTS: [Script; 10] = [
    Script::Volumes,
    Script::Resync,
    Script::Rebuild,
    Script::Add,
    Script::Remove,
    Script::Copies(1, 2),
    Script::Copies(2, 1),
    Script::Copies(2, 3),
    Script::Copies(3, 2),
    Script::CopiesWithout,
];

/// The drive that a script adds.
const SPARE: &str = "/dev/s0";

/// The drive that a script takes out.
const LEAVES: MemberId = MemberId(0);

/// How much of an exhaustive mode is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Of the second crashes, a few for each first one.
    Quick,
    Full,
}

/// The volume that scripts make.
const OTHER: [&str; 2] = ["other", "renamed"];

const OTHER_SIZES: [ByteLen; 2] = [ByteLen(2 << 20), ByteLen(3 << 20)];

fn machine(seed: u64, drives: usize, copies: u8, rebuild_after: Duration) -> Machine {
    machine_with(seed, drives, copies, rebuild_after, 1)
}

fn machine_with(seed: u64, drives: usize, copies: u8, rebuild_after: Duration, spares: usize) -> Machine {
    let volume = VolumeSpec { size: ByteLen(4 << 20), copies, unit: None, checksums: true };
    let plan = Plan {
        drives: vec![DiskShape::flash(ByteLen(72_000_000)); drives],
        spares: vec![DiskShape::flash(ByteLen(72_000_000)); spares],
        extent: None,
        cores: 1,
        cache: ByteLen(1 << 20),
        volumes: vec![volume.clone(), VolumeSpec { checksums: false, ..volume }],
        clients: 2,
        requests: 6,
        rounds: 1,
        faults: Vec::new(),
        rebuild_after,
    };
    Machine::new(seed, plan, &Options::default())
}

/// How far a script came: the steps that ended.
type Progress = Rc<Cell<usize>>;

impl Machine {
    /// Runs all clients once.
    fn work(&mut self, life: &Life) -> Verdict {
        match self.load(life)? {
            Loaded::Done => Ok(()),
            Loaded::Crashed => Err(Failure::new(Oracle::Liveness, "crashed without an order")),
        }
    }

    /// A pool with data, in which the script can begin. No life is left.
    fn set_stage(&mut self, script: Script) -> Verdict {
        self.create_pool()?;
        let life = self.first_life()?;
        self.work(&life)?;
        if matches!(script, Script::Resync | Script::Rebuild | Script::CopiesWithout) {
            self.touch(0);
            self.disk(0).unplug();
            self.work(&life)?;
        }
        if script == Script::Resync {
            self.disk(0).plug();
        }
        self.close(life)?;
        (0..self.plan.volumes.len()).for_each(|v| self.field.model.borrow_mut().closed(v));
        Ok(())
    }

    /// Plays the script in a new life, to its end or to a crash.
    fn play_script(&mut self, script: Script, progress: &Progress) -> Verdict<Loaded> {
        let life = match self.attempt()? {
            Attempt::Opened(life) => *life,
            Attempt::Crashed => return Ok(Loaded::Crashed),
            Attempt::Refused(error) => return Err(Failure::new(Oracle::Quorum, format!("refused: {error}"))),
        };
        let Life { process, pool, handles, service } = life;
        drop((handles, service));
        let (core, progress) = (process.core(0).clone(), progress.clone());
        let played = self.on(&process, async move { perform(&core, pool, script, &progress).await });
        self.world.crash_no_more();
        self.bury(process)?;
        match played {
            Ok(Ok(())) => Ok(Loaded::Done),
            Ok(Err(error)) => Err(Failure::new(Oracle::Answers, format!("{script:?}: {error}"))),
            Err(Stop::Crashed) => Ok(Loaded::Crashed),
            Err(stop) => Err(stop.into()),
        }
    }

    /// Opens after the crash, waits until everything is in sync, checks all of it, and closes.
    fn recover_from(&mut self, script: Script, done: usize) -> Verdict {
        self.note_end();
        // Where the commits are cut off that change who votes; each of them comes before a step has ended.
        if script == Script::Add && done == 0 || script == Script::Remove && done == 1 {
            self.check_halves()?;
        }
        let life = self.open()?;
        check_extents(&life.pool)?;
        check_other(&life.pool, script, done)?;
        if script != Script::Rebuild {
            self.settle(&life)?;
        }
        if let Some((from, to)) = script.copies() {
            self.await_copies(&life, if done > 0 { to } else { from })?;
        }
        if script == Script::Remove && done > 0 && self.gone.is_empty() {
            return Err(Failure::new(Oracle::Liveness, "the drive was not taken out"));
        }
        if self.verify_all(&life)?.is_some_and(|unreadable| unreadable > 0) {
            return Err(Failure::new(Oracle::Answers, "some bytes cannot be read"));
        }
        let life = self.check_scrub(life, Rotten::Nothing)?;
        self.close(life)?;
        Ok(())
    }

    /// Every slot of every volume comes to have the number of copies that was asked for last; while nothing was answered
    /// that may be any.
    fn await_copies(&mut self, life: &Life, wanted: u8) -> Verdict {
        for _ in 0..600 {
            if has_copies(&life.pool, None) {
                break;
            }
            self.world.pass(&life.process.cores, Duration::from_secs(1))?;
        }
        match has_copies(&life.pool, Some(wanted))
            || wanted == self.plan.volumes[0].copies && has_copies(&life.pool, None)
        {
            true => Ok(()),
            false => Err(Failure::new(Oracle::Liveness, format!("not {wanted} copies of all in the end"))),
        }
    }

    /// However those who have votes are parted, never do both halves open.
    fn check_halves(&mut self) -> Verdict {
        let scene = self.scene();
        let drives = self.disks.len() + self.spares.len();
        for half in 0..1u32 << drives {
            let mut opened = Vec::new();
            for (part, with_witness) in [(half, true), (!half, false)] {
                self.set_scene(&scene);
                let handles: Vec<_> =
                    self.disks.iter().chain(self.spares.iter().map(|(path, _)| path)).cloned().collect();
                let here = |at: &usize| part >> *at & 1 == 1;
                let plan = OpenPlan {
                    disks: (0..drives).filter(here).map(|at| handles[at].clone()).collect(),
                    ..self.open_plan()
                };
                if !with_witness && self.witness().is_some() {
                    self.world.remove_disk(self.witness_path());
                }
                match self.attempt_by(plan)? {
                    Attempt::Opened(life) => {
                        opened.push(part);
                        self.end(*life)?;
                    }
                    Attempt::Refused(_) => {}
                    Attempt::Crashed => {
                        return Err(Failure::new(Oracle::Liveness, "crashed without an order"));
                    }
                }
            }
            if opened.len() > 1 {
                return Err(Failure::new(
                    Oracle::Quorum,
                    format!("both halves open: {half:b} and the others"),
                ));
            }
        }
        self.set_scene(&scene);
        Ok(())
    }

    /// Opens with a crash at a change; true if it came.
    fn recover_in_part(&mut self, nth: u64, crash: Crash) -> Verdict<bool> {
        self.world.crash_at_change(nth, crash);
        let attempt = self.attempt()?;
        let life = match attempt {
            Attempt::Crashed => return Ok(true),
            Attempt::Refused(error) => return Err(Failure::new(Oracle::Quorum, format!("refused: {error}"))),
            Attempt::Opened(life) => *life,
        };
        // The background work that the opening began goes on for a while.
        let passed = self.world.pass(&life.process.cores, Duration::from_millis(1500));
        self.world.crash_no_more();
        self.end(life)?;
        match passed {
            Ok(()) => Ok(false),
            Err(Stop::Crashed) => Ok(true),
            Err(stop) => Err(stop.into()),
        }
    }
}

async fn perform(core: &Core, pool: Pool, script: Script, progress: &Progress) -> Result<(), PoolError> {
    let step = || progress.set(progress.get() + 1);
    match script {
        Script::Volumes => {
            let plan = VolumePlan {
                name: OTHER[0].to_owned(),
                size: OTHER_SIZES[0],
                copies: Some(2),
                unit: None,
                checksums: true,
                lba_bytes: None,
            };
            pool.create_volume(core, &plan).await?;
            step();
            pool.grow_volume(core, OTHER[0], OTHER_SIZES[1]).await?;
            step();
            pool.rename_volume(OTHER[0], OTHER[1]).await?;
            step();
            pool.destroy_volume(OTHER[1]).await?;
            step();
        }
        Script::Resync => {
            while pool.facts().members.iter().any(|m| !m.in_sync) {
                core.sleep(Duration::from_millis(100)).await;
            }
            pool.scrub(core).await?;
        }
        Script::Add => {
            pool.add_disks(core, &[(SPARE.into(), SPARE.to_owned())]).await?;
            step();
            while lock(&pool.shared().live).state.spreading {
                core.sleep(Duration::from_millis(100)).await;
            }
            pool.scrub(core).await?;
        }
        Script::Remove => {
            pool.remove_disk(LEAVES).await?;
            step();
            while pool.facts().members.iter().any(|m| m.id == LEAVES) {
                core.sleep(Duration::from_millis(100)).await;
            }
            step();
            pool.scrub(core).await?;
        }
        Script::Copies(..) | Script::CopiesWithout => {
            let to = script.copies().map_or(1, |(_, to)| to);
            for name in pool.volumes().keys() {
                pool.set_copies(name, to, true).await?;
            }
            step();
            while !has_copies(&pool, Some(to)) {
                core.sleep(Duration::from_millis(100)).await;
            }
            pool.scrub(core).await?;
        }
        Script::Rebuild => {
            while pool.facts().volumes.iter().any(|v| v.below_promise.0 > 0) {
                core.sleep(Duration::from_millis(100)).await;
            }
            pool.scrub(core).await?;
        }
    }
    pool.close(core).await
}

/// Whether all slots have the number of copies of their volumes, and these this one.
fn has_copies(pool: &Pool, wanted: Option<u8>) -> bool {
    let live = lock(&pool.shared().live);
    let whole = |v: &VolumeRecord| v.slots.values().all(|s| s.copies.len() == usize::from(v.copies));
    live.state.volumes.values().all(|v| whole(v) && wanted.is_none_or(|wanted| v.copies == wanted))
}

/// The other volume is as it was before the step that was cut off, or as after it.
fn check_other(pool: &Pool, script: Script, done: usize) -> Verdict {
    if script != Script::Volumes {
        return Ok(());
    }
    let volumes = pool.facts().volumes;
    let is = |step: usize| {
        let wanted = match step {
            1 => Some((OTHER[0], OTHER_SIZES[0])),
            2 => Some((OTHER[0], OTHER_SIZES[1])),
            3 => Some((OTHER[1], OTHER_SIZES[1])),
            _ => None,
        };
        let found = volumes.iter().find(|v| OTHER.contains(&v.name.as_str()));
        found.map(|v| (v.name.as_str(), v.size)) == wanted
    };
    match is(done) || is(done + 1) {
        true => Ok(()),
        false => {
            Err(Failure::new(Oracle::Durability, format!("{done} steps had ended, and there is {volumes:?}")))
        }
    }
}

/// Crashes at every change of the script, and again at changes of the recovery. Gives the number of crashes.
pub fn crash_everywhere(script: Script, seed: u64, extent: Extent) -> Verdict<u64> {
    crash_everywhere_with(Planted::None, script, seed, extent)
}

/// The same for a program that has a bug.
pub fn crash_everywhere_with(planted: Planted, script: Script, seed: u64, extent: Extent) -> Verdict<u64> {
    let rebuild_after = if script == Script::Rebuild { Duration::ZERO } else { Duration::from_secs(600) };
    // Two and a witness have one majority more to lose than three.
    let drives = if script == Script::Add { 2 } else { 3 };
    let spares = usize::from(script != Script::Remove);
    let copies = script.copies().map_or(2, |(from, _)| from);
    let mut machine = machine_with(seed, drives, copies, rebuild_after, spares);
    machine.options.planted = planted;
    machine.set_stage(script)?;
    let (scene, model) = (machine.scene(), machine.field.model.borrow().clone());
    let mut crashes = 0;
    for crash in [Crash::PowerCut, Crash::Kill] {
        for nth in 1.. {
            machine.set_scene(&scene);
            *machine.field.model.borrow_mut() = model.clone();
            let progress = Progress::default();
            machine.world.crash_at_change(nth, crash);
            let played = machine.play_script(script, &progress);
            let named = |failure: Failure| {
                Failure::new(
                    failure.oracle,
                    format!("{script:?}, seed {seed}, {crash:?} at change {nth}: {}", failure.what),
                )
            };
            let ended = played.map_err(named)?;
            crashes += u64::from(ended == Loaded::Crashed);
            let after = machine.scene();
            machine.recover_from(script, progress.get()).map_err(named)?;
            if ended == Loaded::Done {
                break;
            }
            crashes +=
                crash_again(&mut machine, script, (&after, progress.get(), nth), extent).map_err(named)?;
        }
    }
    Ok(crashes)
}

/// Crashes at every change of the making of a pool, and again at every change when it is made once more over what was
/// left. What is left is an empty pool or is refused; in the end there is a pool that works. Gives the number of crashes.
pub fn crash_creation(seed: u64) -> Verdict<u64> {
    let mut crashes = 0;
    for crash in [Crash::PowerCut, Crash::Kill] {
        for nth in 1.. {
            let named = |failure: Failure| {
                Failure::new(
                    failure.oracle,
                    format!("making a pool, {crash:?} at change {nth}: {}", failure.what),
                )
            };
            let mut machine = machine(seed, 3, 2, Duration::from_secs(600));
            machine.world.crash_at_change(nth, crash);
            if machine.try_create().map_err(named)? {
                machine.use_new_pool().map_err(named)?;
                break;
            }
            crashes += 1 + create_again(&mut machine, crash).map_err(named)?;
        }
    }
    Ok(crashes)
}

/// From the situation after a crash: the pool is made again, with a crash at every change of that.
fn create_again(machine: &mut Machine, crash: Crash) -> Verdict<u64> {
    machine.look_at_leftovers()?;
    let after = machine.scene();
    for nth in 1.. {
        machine.set_scene(&after);
        machine.world.crash_at_change(nth, crash);
        if machine.try_create()? {
            machine.use_new_pool()?;
            return Ok(nth - 1);
        }
        machine.look_at_leftovers()?;
        machine.create_pool()?;
        machine.use_new_pool()?;
    }
    unreachable!("making a pool ends")
}

impl Machine {
    /// What a crash left of a pool that was being made.
    fn look_at_leftovers(&mut self) -> Verdict {
        match self.attempt()? {
            Attempt::Opened(life) if life.pool.facts().volumes.is_empty() => self.end(*life),
            Attempt::Opened(_) => {
                Err(Failure::new(Oracle::Durability, "a pool that was never made has volumes"))
            }
            Attempt::Refused(
                PoolError::NoMajority { .. }
                | PoolError::NoMembers
                | PoolError::NoLog { .. }
                | PoolError::SeveralPools(_),
            ) => Ok(()),
            Attempt::Refused(error) => Err(Failure::new(Oracle::Quorum, format!("leftovers: {error}"))),
            Attempt::Crashed => Err(Failure::new(Oracle::Liveness, "crashed without an order")),
        }
    }

    fn use_new_pool(&mut self) -> Verdict {
        *self.field.model.borrow_mut() = Model::new(self.plan.volumes.len());
        let life = self.first_life()?;
        self.work(&life)?;
        self.verify_all(&life)?;
        let life = self.check_scrub(life, Rotten::Nothing)?;
        self.close(life)?;
        Ok(())
    }
}

/// From the situation after a crash: another one at changes of the recovery.
fn crash_again(
    machine: &mut Machine,
    script: Script,
    (after, done, first): (&Scene, usize, u64),
    extent: Extent,
) -> Verdict<u64> {
    let model = machine.field.model.borrow().clone();
    let mut crashes = 0;
    let stride = if extent == Extent::Full { 1 } else { 11 };
    for nth in (1 + first % stride..).step_by(usize::try_from(stride).expect("small")) {
        let crash = if nth % 2 == 0 { Crash::Kill } else { Crash::PowerCut };
        machine.set_scene(after);
        *machine.field.model.borrow_mut() = model.clone();
        let again = |failure: Failure| {
            Failure::new(
                failure.oracle,
                format!("again, {crash:?} at change {nth} of the recovery: {}", failure.what),
            )
        };
        if !machine.recover_in_part(nth, crash).map_err(again)? {
            break;
        }
        crashes += 1;
        machine.recover_from(script, done).map_err(again)?;
    }
    Ok(crashes)
}

/// Fails every single read, write and flush of an opening with some load and a close: no request may notice.
pub fn fail_everywhere(seed: u64) -> Verdict<u64> {
    let mut machine = machine(seed, 3, 2, Duration::from_secs(600));
    machine.set_stage(Script::Volumes)?;
    let (scene, model) = (machine.scene(), machine.field.model.borrow().clone());
    for nth in 1.. {
        machine.set_scene(&scene);
        *machine.field.model.borrow_mut() = model.clone();
        let named = |failure: Failure| {
            Failure::new(failure.oracle, format!("seed {seed}, operation {nth} fails: {}", failure.what))
        };
        // Any member may be the one that is struck.
        machine.touched = (0..3).collect();
        machine.world.fail_nth(nth);
        let life = machine.open().map_err(named)?;
        machine.work(&life).map_err(named)?;
        let failed = !machine.world.fail_no_more();
        machine.settle(&life).map_err(named)?;
        machine.verify_all(&life).map_err(named)?;
        let life = machine.check_scrub(life, Rotten::Some).map_err(named)?;
        let life = machine.check_scrub(life, Rotten::Nothing).map_err(named)?;
        machine.close(life).map_err(named)?;
        if !failed {
            return Ok(nth - 1);
        }
    }
    unreachable!("a workload ends")
}

/// Every order of losing all drives one after the other and of their return, with work, and a crash or a close, between.
/// Gives the number of orders.
pub fn orders_of_loss(drives: usize, seed: u64) -> Verdict<u64> {
    let orders = permutations(drives);
    let mut played = 0;
    for losses in &orders {
        for returns in &orders {
            for crash in [false, true] {
                play_order(drives, seed + played, (losses, returns), crash).map_err(|failure| {
                    let what = format!(
                        "{drives} drives, seed {}, lost {losses:?}, back {returns:?}, crash {crash}: {}",
                        seed + played,
                        failure.what
                    );
                    Failure::new(failure.oracle, what)
                })?;
                played += 1;
            }
        }
    }
    Ok(played)
}

fn play_order(drives: usize, seed: u64, (losses, returns): (&[usize], &[usize]), crash: bool) -> Verdict {
    let mut machine = machine(seed, drives, 2, Duration::from_secs(600));
    machine.plan.faults = vec![Fault::Beyond];
    machine.create_pool()?;
    let mut life = Some(machine.first_life()?);
    for (lost, index) in losses.iter().map(|i| (true, *i)).chain(returns.iter().map(|i| (false, *i))) {
        if lost {
            machine.touch(index);
            machine.disk(index).unplug();
            if let Some(life) = &life {
                machine.work(life)?;
            }
        }
        life = machine.next_life(life, crash, (!lost).then_some(index))?;
    }
    let life = machine.next_life(life, crash, None)?;
    let life =
        life.ok_or_else(|| Failure::new(Oracle::Quorum, "all drives are there, and it does not open"))?;
    machine.settle(&life)?;
    machine.expect_failures(false);
    if machine.verify_all(&life)?.is_some_and(|unreadable| unreadable > 0) {
        return Err(Failure::new(Oracle::Durability, "all drives are there, and some bytes cannot be read"));
    }
    let life = machine.check_scrub(life, Rotten::Nothing)?;
    machine.close(life)?;
    Ok(())
}

impl Machine {
    /// Ends a life, brings a drive back, and tries to begin another life and to work in it.
    fn next_life(&mut self, life: Option<Life>, crash: bool, back: Option<usize>) -> Verdict<Option<Life>> {
        match life {
            Some(life) if crash => {
                self.world.power_cut();
                self.end(life)?;
                self.note_end();
            }
            Some(life) => {
                let clean = self.close(life)?;
                let mut model = self.field.model.borrow_mut();
                (0..self.plan.volumes.len())
                    .for_each(|v| if clean { model.closed(v) } else { model.crash(v) });
            }
            None => {}
        }
        if let Some(index) = back {
            self.disk(index).plug();
        }
        self.expect_failures(true);
        match self.attempt()? {
            Attempt::Refused(PoolError::NoMajority { .. } | PoolError::NoMembers) => Ok(None),
            Attempt::Refused(error) => Err(Failure::new(Oracle::Quorum, format!("refused: {error}"))),
            Attempt::Crashed => Err(Failure::new(Oracle::Liveness, "crashed without an order")),
            Attempt::Opened(life) => {
                self.verify_all(&life)?;
                self.work(&life)?;
                Ok(Some(*life))
            }
        }
    }
}

fn permutations(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for _ in 0..count {
        let longer = |order: &Vec<usize>| {
            let free = (0..count).filter(|i| !order.contains(i)).collect::<Vec<_>>();
            free.into_iter().map(|i| [&order[..], &[i]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}
