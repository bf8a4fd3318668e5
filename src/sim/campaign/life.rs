//! The machine of a run and its lives: making the pool, opening it until that works, ending a life.

use super::ledger::{Entry, Operation};
use super::network::Service;
use super::plan::{Fault, Options, Plan};
use super::report::{Failure, Oracle, Verdict};
use super::workload::Field;
use crate::base::prng::Prng;
use crate::pool::create::witness_path;
use crate::pool::{self, CreatePlan, OpenPlan, Pool, PoolError, VolumePlan};
use crate::reactor::Core;
use crate::sim::{Crash, DiskHandle, DiskShape, Image, Process, Stop, World};
use crate::volume::{Handle, Volume};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Virtual time within which everything must end.
pub const LIMIT: Duration = Duration::from_secs(900);

const WITNESS_FOLDER: &str = "/state";

/// The simulated machine, what is known about it, and the generator of everything that happens to it.
pub struct Machine {
    pub world: World,
    pub plan: Plan,
    pub options: Options,
    pub field: Rc<Field>,
    pub prng: Prng,
    /// Where the members may be found.
    pub disks: Vec<PathBuf>,
    members: Vec<DiskHandle>,
    /// Drives that are no members yet; looked at when the pool is opened, for one of them may be about to be.
    pub spares: Vec<(PathBuf, DiskHandle)>,
    /// Other drives that are looked at when the pool is opened.
    pub strangers: Vec<PathBuf>,
    /// Members as they were between two earlier lives.
    pub memories: Vec<(usize, Image)>,
    /// The witness as it was then, and of how many members.
    pub witness_memory: Option<(usize, Image)>,
    /// The witness was lost: in this life it has no vote.
    pub witness_lost: bool,
    /// Members that missed something by a fault: they may be out of sync.
    pub touched: BTreeSet<usize>,
    /// A member may hold what was not written there, or lack what was: a scrub has to come first.
    pub wounded: bool,
    /// Those of them whose copies were all made anew elsewhere.
    pub rebuilt: BTreeSet<usize>,
    /// Some openings of this run crash, also while other faults rest.
    pub openings_are_cut_off: bool,
    /// Power cuts that the model knows of.
    power_cuts_known: Cell<u64>,
    pub steps: RefCell<Vec<String>>,
    pub pool: Option<uuid::Uuid>,
    /// Members that were given up as dead: they are taken away for good.
    pub dead: BTreeSet<usize>,
    /// Those that are members no more, and are taken away, too.
    pub gone: BTreeSet<usize>,
    /// Decides who is taken out; of its own, so that runs without that are as they were.
    pub removals: Prng,
    /// Draws what the operator changes about copies; apart, for the same reason.
    pub recounts: Prng,
    /// An operator changes the set of volumes in this run.
    pub plan_had_operator: bool,
}

/// One life: a process with the pool open, and a handle to each volume on each core.
pub struct Life {
    pub process: Process,
    pub pool: Pool,
    /// By core, then volume.
    pub handles: Vec<Vec<Handle>>,
    /// The server, once clients came over the network.
    pub service: RefCell<Option<Service>>,
}

/// How an attempt to open ended.
pub enum Attempt {
    Opened(Box<Life>),
    Refused(PoolError),
    Crashed,
}

impl Machine {
    pub fn new(seed: u64, plan: Plan, options: &Options) -> Machine {
        let world = World::new(seed);
        let had_operator = plan.has(Fault::Operator);
        let path = |i: usize| PathBuf::from(format!("/dev/d{i}"));
        let disks: Vec<PathBuf> = (0..plan.drives.len()).map(path).collect();
        let members =
            disks.iter().zip(&plan.drives).map(|(path, shape)| world.add_disk(path, *shape)).collect();
        let spare = |(i, shape): (usize, &DiskShape)| {
            let path = PathBuf::from(format!("/dev/s{i}"));
            (path.clone(), world.add_disk(path, *shape))
        };
        let spares = plan.spares.iter().enumerate().map(spare).collect();
        let openings_are_cut_off = plan.has(Fault::CrashInRecovery);
        Machine {
            field: Rc::new(Field::new(plan.volumes.clone(), plan.has(Fault::Beyond))),
            prng: Prng::from_seed(seed ^ 0xca3b_a160_0000_0002),
            world,
            plan,
            options: options.clone(),
            disks,
            members,
            spares,
            dead: BTreeSet::new(),
            gone: BTreeSet::new(),
            removals: Prng::from_seed(seed ^ 0xca3b_a160_0000_0007),
            recounts: Prng::from_seed(seed ^ 0xca3b_a160_0000_0009),
            plan_had_operator: had_operator,
            strangers: Vec::new(),
            memories: Vec::new(),
            witness_memory: None,
            witness_lost: false,
            touched: BTreeSet::new(),
            rebuilt: BTreeSet::new(),
            openings_are_cut_off,
            wounded: false,
            power_cuts_known: Cell::new(0),
            steps: RefCell::default(),
            pool: None,
        }
    }

    /// Writes down what happens, for the report.
    pub fn step(&self, what: impl Into<String>) {
        let what = format!("{:>12} {}", self.world.now().as_ns() / 1000, what.into());
        if self.options.trace {
            eprintln!("{what}");
        }
        self.steps.borrow_mut().push(what);
    }

    pub fn disk(&self, index: usize) -> DiskHandle {
        self.members[index].clone()
    }

    /// A spare drive is a member now: the next one.
    pub fn join(&mut self, path: &Path) {
        if let Some(at) = self.spares.iter().position(|(spare, _)| spare == path) {
            let (path, disk) = self.spares.remove(at);
            self.disks.push(path);
            self.members.push(disk);
        }
    }

    /// The last member is none again: everything is put back.
    pub fn unjoin(&mut self) {
        let last = self.disks.pop().zip(self.members.pop());
        self.spares.extend(last);
        self.spares.sort_by(|(a, _), (b, _)| a.cmp(b));
    }

    /// The path that names a member now.
    pub fn path_of(&self, index: usize) -> PathBuf {
        let names = |path: &&PathBuf| {
            self.world.find_disk(path).is_some_and(|disk| disk.index() == self.members[index].index())
        };
        self.disks.iter().find(names).expect("every member has a path").clone()
    }

    pub fn witness_path(&self) -> PathBuf {
        witness_path(Path::new(WITNESS_FOLDER), self.pool.expect("the pool was made"))
    }

    /// The witness, unless it is lost.
    pub fn witness(&self) -> Option<DiskHandle> {
        self.pool.and_then(|pool| self.world.find_disk(witness_path(Path::new(WITNESS_FOLDER), pool)))
    }

    /// How many members there are, present or not.
    pub fn members_now(&self) -> usize {
        self.disks.len() - self.gone.len()
    }

    /// Whether the votes may be others than the last opening told: somebody is taken out, or said to be dead.
    pub fn votes_may_change(&self) -> bool {
        self.field.parting.get() || self.dead.iter().any(|index| !self.gone.contains(index))
    }

    pub fn plugged(&self) -> usize {
        (0..self.disks.len()).filter(|i| self.disk(*i).is_plugged()).count()
    }

    /// Formats the drives; a crash on the way costs another attempt.
    pub fn create_pool(&mut self) -> Verdict {
        if self.plan.has(Fault::CrashInRecovery) && self.prng.chance(200) {
            self.arm_crash(40);
        }
        while !self.try_create()? {
            self.step("crash while the pool was made");
        }
        Ok(())
    }

    /// Formats the drives; false if that crashed.
    pub fn try_create(&mut self) -> Verdict<bool> {
        let plan = CreatePlan {
            name: "tank".to_owned(),
            disks: self.disks.iter().map(|p| (p.clone(), p.display().to_string())).collect(),
            copies: 2.min(u8::try_from(self.disks.len()).expect("5 at most")),
            extent: self.plan.extent,
            witness_folder: WITNESS_FOLDER.into(),
        };
        let process = self.world.boot(1);
        let core = process.core(0).clone();
        let made = self.on(&process, async move { pool::create(&core, &plan).await });
        self.world.crash_no_more();
        let made = match made {
            Ok(made) => Some(made),
            Err(Stop::Crashed) => None,
            Err(stop) => return Err(stop.into()),
        };
        self.bury(process)?;
        match made {
            Some(Ok(uuid)) => {
                self.pool = Some(uuid);
                Ok(true)
            }
            Some(Err(error)) => Err(Failure::new(Oracle::Quorum, format!("create: {error}"))),
            None => Ok(false),
        }
    }

    /// Makes the volumes of the plan in a fresh life.
    pub fn create_volumes(&mut self, life: Life) -> Verdict<Life> {
        let Life { process, mut pool, .. } = life;
        for (number, spec) in self.plan.volumes.iter().enumerate() {
            let (core, unit) = (process.core(0).clone(), spec.unit);
            let plan = VolumePlan {
                name: format!("v{number}"),
                size: spec.size,
                copies: Some(spec.copies),
                unit,
                checksums: spec.checksums,
                lba_bytes: None,
            };
            let (back, made) = self.on(&process, async move {
                let made = pool.create_volume(&core, &plan).await.map(|_| ());
                (pool, made)
            })?;
            pool = back;
            made.map_err(|e| Failure::new(Oracle::Answers, format!("volume {number}: {e}")))?;
            let (name, entry) = (format!("v{number}"), Entry { number, size: spec.size.0 });
            let mut ledger = self.field.ledger.borrow_mut();
            ledger.begin(Operation::Create { name, entry });
            ledger.done();
        }
        Ok(self.live(process, pool))
    }

    /// Opens the pool, through as many crashes as the plan has for it.
    pub fn open(&mut self) -> Verdict<Life> {
        let mut crashes = match self.plan.has(Fault::CrashInRecovery) {
            true => self.prng.below(4),
            false => 0,
        };
        loop {
            if crashes > 0 {
                self.arm_crash(60);
            }
            let attempt = self.attempt()?;
            self.world.crash_no_more();
            match attempt {
                Attempt::Opened(life) => {
                    self.meet_members(&life.pool);
                    self.check_ledger(&life.pool)?;
                    self.take_dead_away(&life.pool);
                    return Ok(*life);
                }
                Attempt::Refused(error) => {
                    let what = format!(
                        "{} of {} drives are there, but: {error}",
                        self.plugged(),
                        self.members_now()
                    );
                    return Err(Failure::new(Oracle::Quorum, what));
                }
                Attempt::Crashed => {
                    self.step("crash while the pool opened");
                    self.note_end();
                    self.field.counts.borrow_mut().crashes_in_recovery += 1;
                    crashes = crashes.saturating_sub(1);
                }
            }
        }
    }

    /// Opens the pool where that must be refused.
    pub fn open_in_vain(&mut self) -> Verdict {
        match self.attempt()? {
            Attempt::Refused(PoolError::NoMajority { .. } | PoolError::NoMembers | PoolError::Twins(..)) => {
                Ok(())
            }
            Attempt::Refused(error) => {
                Err(Failure::new(Oracle::Quorum, format!("no majority, but: {error}")))
            }
            Attempt::Opened(_) => Err(Failure::new(Oracle::Quorum, "opened what must be refused")),
            Attempt::Crashed => Err(Failure::new(Oracle::Liveness, "crashed without an order")),
        }
    }

    /// Opens the pool once, in a new life.
    pub fn attempt(&mut self) -> Verdict<Attempt> {
        self.attempt_by(self.open_plan())
    }

    pub fn open_plan(&self) -> OpenPlan {
        OpenPlan {
            disks: self
                .disks
                .iter()
                .chain(self.spares.iter().map(|(p, _)| p))
                .chain(&self.strangers)
                .cloned()
                .collect(),
            pool: None,
            witness_folder: WITNESS_FOLDER.into(),
            force: false,
            cache: self.plan.cache,
            rebuild_after: self.plan.rebuild_after,
            memory_folder: Some("/memory".into()),
        }
    }

    /// Opens the pool once as a plan says, in a new life.
    pub fn attempt_by(&mut self, plan: OpenPlan) -> Verdict<Attempt> {
        let process = self.world.boot(self.plan.cores);
        self.plant(&process);
        let core = process.core(0).clone();
        let opened = self.on(&process, async move { pool::open(&core, &plan).await });
        match opened {
            Ok(Ok(pool)) => Ok(Attempt::Opened(Box::new(self.live(process, pool)))),
            Ok(Err(error)) => {
                self.bury(process)?;
                Ok(Attempt::Refused(error))
            }
            Err(Stop::Crashed) => {
                self.bury(process)?;
                Ok(Attempt::Crashed)
            }
            Err(stop) => Err(stop.into()),
        }
    }

    /// Gives a process the bug of this run, where builds can have one.
    #[cfg(any(test, feature = "planted-bugs"))]
    fn plant(&self, process: &Process) {
        process.cores.iter().for_each(|core| core.plant(self.options.planted));
    }

    #[cfg(not(any(test, feature = "planted-bugs")))]
    fn plant(&self, _process: &Process) {
        assert_eq!(self.options.planted, pool::planted::Planted::None, "this build has no bugs to plant");
    }

    fn live(&self, process: Process, pool: Pool) -> Life {
        let volumes: Vec<Arc<Volume>> = (0..self.plan.volumes.len())
            .filter_map(|n| pool.volume(&format!("v{n}")))
            .map(|v| Arc::new(Volume::in_pool(v)))
            .collect();
        let of_core = |core: &Core| volumes.iter().map(|v| v.handle(core)).collect();
        let handles = process.cores.iter().map(of_core).collect();
        Life { process, pool, handles, service: RefCell::default() }
    }

    /// Closes the pool; false if that failed for a reason.
    pub fn close(&mut self, life: Life) -> Verdict<bool> {
        let Life { process, pool, handles, service } = life;
        drop(handles);
        self.stop_serving(&process, service.into_inner())?;
        let core = process.core(0).clone();
        let closed = self.on(&process, async move { pool.close(&core).await })?;
        self.bury(process)?;
        self.field.may_fail.iter().for_each(|f| f.set(f.get() && closed.is_err()));
        match closed {
            Ok(()) => Ok(true),
            Err(error) if self.touched.is_empty() => {
                Err(Failure::new(Oracle::Answers, format!("close: {error}")))
            }
            Err(_) => Ok(false),
        }
    }

    /// Ends a life that crashed, or ends it by a kill.
    pub fn end(&mut self, life: Life) -> Verdict {
        let Life { process, pool, handles, service } = life;
        drop((pool, handles, service));
        self.bury(process)
    }

    /// Every volume's last life has ended by a kill or a power cut, whichever it was. What lay only on drives that went
    /// away in it went with their caches.
    pub fn note_end(&self) {
        let cuts = self.world.power_cuts();
        let cut = self.power_cuts_known.replace(cuts) < cuts;
        let bears = self.bears_losses();
        let mut model = self.field.model.borrow_mut();
        (0..model.volume_count()).for_each(|v| if cut || !bears { model.crash(v) } else { model.kill(v) });
    }

    /// Whether nothing was lost with the caches of drives that went away.
    pub fn bears_losses(&self) -> bool {
        self.touched.is_empty() || self.plan.is_mirrored() && !self.plan.has(Fault::Beyond)
    }

    /// Something happened to the machine after which only what was flushed is sure to be there.
    pub fn forget_unflushed(&self) {
        self.power_cuts_known.set(self.world.power_cuts());
        let mut model = self.field.model.borrow_mut();
        (0..model.volume_count()).for_each(|v| model.crash(v));
    }

    pub fn bury(&self, process: Process) -> Verdict {
        match self.world.bury(process) {
            0 => Ok(()),
            bytes => {
                Err(Failure::new(Oracle::Buffers, format!("{bytes} bytes of buffers were not given back")))
            }
        }
    }

    /// Runs a future on the first core of a process.
    pub fn on<T: 'static>(
        &self,
        process: &Process,
        work: impl Future<Output = T> + 'static,
    ) -> Result<T, Stop> {
        self.world.run_on(&process.cores, process.core(0), LIMIT, work)
    }

    /// Orders a crash at one of the next changes of a drive.
    pub fn arm_crash(&mut self, changes: u64) {
        let most = 1 + self.prng.below(changes);
        let nth = 1 + self.prng.below(most);
        let crash = if self.prng.chance(700) { Crash::PowerCut } else { Crash::Kill };
        self.world.crash_at_change(nth, crash);
        self.step(format!("order: {crash:?} at change {nth}"));
    }
}
