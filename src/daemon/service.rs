//! The open pools of a process, and what can be asked of them. Lives on the home core.
//!
//! The same service works in a daemon (with a target that serves clients) and in a command that runs without one.
//! Changes are made one at a time.

use super::events::Watch;
use super::failures::pool_failure;
use super::registry::{self, KnownPool};
use super::reports::{Beside, pool_report};
use crate::base::limits::BLOCK;
use crate::base::size::{show_copies, show_size};
use crate::base::units::{ByteLen, Span};
use crate::bench::NETWORK_EXPORT;
use crate::control::api::{
    Failure, PoolCreate, PoolReport, RangeReport, Reply, Request, StatusReport, UNAVAILABLE_MAX,
    VolumeCreate, VolumeReport, WorkKind, WorkReport,
};
use crate::control::refusal::{admit, not_inspected};
use crate::control::server::ConnectionId;
use crate::disk::inspect::{Drive, inspect};
use crate::nvmf::subsystem::nqn_of;
use crate::pool::progress::Progress;
use crate::pool::unavailable::Unavailable;
use crate::pool::verdict::Findings;
use crate::pool::{self, CreatePlan, OpenPlan, Pool, PoolError, REBUILD_AFTER, VolumePlan};
use crate::reactor::Core;
use crate::reactor::sync::{Budget, WaitList, lock, oneshot};
use crate::target::Target;
use crate::volume::Volume;
use crate::volume::catalog::Catalog;
use crate::volume::memory::MemoryVolume;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Memory that outlives the daemon lies here: on every Linux a memory file system.
const MEMORY_FOLDER: &str = "/dev/shm";

/// How long a start waits for drives that another process holds, and how often it tries.
const BUSY_PATIENCE: Duration = Duration::from_secs(20);
const BUSY_RETRY: Duration = Duration::from_millis(100);

/// Open pools and their surroundings.
pub struct Service {
    pub core: Core,
    pub state: PathBuf,
    /// Memory for the state of regions, of each pool.
    pub cache: ByteLen,
    /// How long a member may be away before its copies are made anew on others.
    pub rebuild_after: Duration,
    /// Nothing is stored that would leave too little free to heal.
    pub reserve_enforced: bool,
    pub catalog: Arc<Catalog>,
    pub target: Option<Target>,
    pub listening: RefCell<Vec<String>>,
    pub listening_nvme: RefCell<Vec<String>>,
    /// Woken by a request to stop.
    pub stop_asked: WaitList,
    pub stopping: Cell<bool>,
    pub(super) pools: RefCell<BTreeMap<String, Rc<OpenPool>>>,
    turn: Budget,
    benches: RefCell<BTreeSet<ConnectionId>>,
    pub watch: Watch,
}

/// A pool and what is going on with it.
pub(super) struct OpenPool {
    pub(super) pool: Pool,
}

impl Service {
    pub fn new(
        core: &Core,
        state: PathBuf,
        cache: ByteLen,
        catalog: Arc<Catalog>,
        target: Option<Target>,
    ) -> Service {
        Service {
            core: core.clone(),
            state,
            cache,
            rebuild_after: REBUILD_AFTER,
            reserve_enforced: false,
            catalog,
            target,
            listening: RefCell::default(),
            listening_nvme: RefCell::default(),
            stop_asked: WaitList::default(),
            stopping: Cell::new(false),
            pools: RefCell::default(),
            turn: Budget::new(1),
            benches: RefCell::default(),
            watch: Watch::default(),
        }
    }

    /// Opens every pool that the state folder knows; gives what went wrong with the others.
    pub async fn open_known(&self) -> Result<Vec<Failure>, Failure> {
        let mut failures = Vec::new();
        for known in registry::load(&self.state)? {
            if let Err(failure) = self.open_patiently(&known).await {
                failures.push(failure.with(format!("pool {} is not open", known.name)));
            }
        }
        Ok(failures)
    }

    /// Opens a pool, waiting a while for drives that are in use: the kernel lets go of the drives of a process
    /// that was killed only when it has ended that process's last operations.
    async fn open_patiently(&self, known: &KnownPool) -> Result<Rc<OpenPool>, Failure> {
        let until = self.core.now() + BUSY_PATIENCE;
        loop {
            match self.open(registry::places(&known.disks), Some(known.uuid), false).await {
                Err(failure) if failure.code == "DISK_IN_USE" && self.core.now() < until => {
                    self.core.sleep(BUSY_RETRY).await;
                }
                result => return result,
            }
        }
    }

    /// Closes every pool.
    pub async fn close(&self) -> Result<(), Failure> {
        let pools = std::mem::take(&mut *self.pools.borrow_mut());
        let mut result = Ok(());
        for pool in pools.values() {
            self.withdraw(pool);
            let closed = pool.pool.close(&self.core).await;
            result = result.and(closed.map_err(|e| pool_failure(&e)));
        }
        result
    }

    /// Executes a request.
    pub async fn execute(self: &Rc<Service>, from: Option<ConnectionId>, request: Request) -> Reply {
        let result = if request.is_read_only() {
            self.answer(request).await
        } else {
            let _turn = self.turn.take(1).await;
            let result = self.change(from, request.clone()).await;
            self.look(Some(&request));
            result
        };
        result.unwrap_or_else(Reply::Failed)
    }

    /// A control connection has gone: what was made for it goes too.
    pub fn ended(&self, connection: ConnectionId) {
        if self.benches.borrow_mut().remove(&connection) && self.benches.borrow().is_empty() {
            self.catalog.remove(NETWORK_EXPORT);
        }
    }

    async fn answer(&self, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::Status { pool } => {
                let listening = self.listening.borrow().clone();
                let listening_nvme = self.listening_nvme.borrow().clone();
                let pools = self.reports(pool.as_deref())?;
                Ok(Reply::Status(StatusReport { pools, listening, listening_nvme }))
            }
            Request::PoolList => Ok(Reply::Pools { pools: self.reports(None)? }),
            Request::PoolShow { pool } => Ok(Reply::Pools { pools: self.reports(pool.as_deref())? }),
            Request::VolumeList { pool } => {
                let volumes = self.reports(pool.as_deref())?.into_iter().flat_map(|p| p.volumes).collect();
                Ok(Reply::Volumes { volumes })
            }
            Request::VolumeShow { volume } => {
                let volumes: Vec<VolumeReport> = self
                    .reports(None)?
                    .into_iter()
                    .flat_map(|p| p.volumes)
                    .filter(|v| v.name == volume)
                    .collect();
                if volumes.is_empty() {
                    return Err(no_volume(&volume));
                }
                let volumes = volumes.into_iter().map(|v| self.with_ranges(v)).collect();
                Ok(Reply::Volumes { volumes })
            }
            Request::DiskShow { disk } => self.show_disk(&disk),
            Request::DiskRemove { disk, look: true } => {
                Ok(Reply::Done { message: self.would_remove(&disk)? })
            }
            Request::Events { after, wait_ms } => {
                self.events_after(after, Duration::from_millis(u64::from(wait_ms))).await
            }
            Request::Counters => self.counters().await,
            _ => unreachable!("`is_read_only` lists what is answered here"),
        }
    }

    async fn change(
        self: &Rc<Service>,
        from: Option<ConnectionId>,
        request: Request,
    ) -> Result<Reply, Failure> {
        if self.stopping.get() {
            return Err(Failure::failed("CLOSING", "the daemon is stopping"));
        }
        let message = match request {
            Request::PoolCreate(create) => self.create_pool(create).await?,
            Request::PoolImport { disks, pool, force } => self.import(disks, pool.as_deref(), force).await?,
            Request::PoolExport { pool } => self.export(&pool, true).await?,
            Request::PoolScrub { pool } => self.scrub(pool.as_deref()).await?,
            Request::PoolScrubEvery { pool, seconds } => self.scrub_every(pool.as_deref(), seconds).await?,
            Request::PoolDestroy { pool } => self.destroy_pool(&pool).await?,
            Request::DiskAdd(add) => self.add_disks(add).await?,
            Request::DiskRemove { disk, look: _ } => self.remove_disk(&disk).await?,
            Request::DiskKeep { disk } => self.keep_disk(&disk).await?,
            Request::DiskDead { disk } => self.declare_dead(&disk).await?,
            Request::VolumeCreate(create) => self.create_volume(create).await?,
            Request::VolumeGrow { volume, size_bytes } => self.grow(&volume, ByteLen(size_bytes)).await?,
            Request::VolumeShrink { volume, size_bytes, give_up } => {
                self.shrink(&volume, ByteLen(size_bytes), give_up).await?
            }
            Request::VolumeCopies { volume, copies, allow_unprotected } => {
                self.set_copies(&volume, copies, allow_unprotected).await?
            }
            Request::VolumeRename { volume, name } => self.rename(&volume, &name).await?,
            Request::VolumeDestroy { volume } => self.destroy_volume(&volume).await?,
            Request::BenchBegin { size_bytes } => return self.begin_bench(from, ByteLen(size_bytes)),
            Request::Stop => {
                self.stopping.set(true);
                self.stop_asked.wake_all();
                "stopping".to_owned()
            }
            _ => unreachable!("`is_read_only` lists what is not changed here"),
        };
        Ok(Reply::Done { message })
    }

    // Pools.

    async fn create_pool(&self, create: PoolCreate) -> Result<String, Failure> {
        if self.pools.borrow().contains_key(&create.name) {
            let message = format!("a pool named {} exists already", create.name);
            return Err(Failure::refused("POOL_EXISTS", message));
        }
        let drives = self.look_at(create.disks.clone()).await?;
        admit(&create, &drives)?;
        let plan = CreatePlan {
            name: create.name.clone(),
            disks: drives.iter().map(|d| (d.path.clone(), d.name.clone())).collect(),
            copies: create.copies,
            extent: create.extent_bytes.map(ByteLen),
            witness_folder: self.state.clone(),
        };
        pool::create(&self.core, &plan).await.map_err(|e| pool_failure(&e))?;
        self.open(create.disks, None, false).await?;
        let report = &self.reports(Some(&create.name))?[0];
        let copies = usize::from(create.copies);
        let usable = show_size(ByteLen(report.usable_bytes[copies - 1]));
        let survives = match create.copies {
            1 => "one copy: survives no loss".to_owned(),
            2 => "2 copies, survives any 1 drive".to_owned(),
            n => format!("{n} copies, survives any {} drives", n - 1),
        };
        Ok(format!("pool {}: {usable}, {survives}", create.name))
    }

    /// Looks at disks on a thread of its own: the tools that are asked may take their time.
    pub(super) async fn look_at(&self, paths: Vec<PathBuf>) -> Result<Vec<Drive>, Failure> {
        let (answer, asked) = oneshot();
        std::thread::spawn(move || {
            let drives: Result<Vec<Drive>, _> = paths.iter().map(|path| inspect(path)).collect();
            answer.send(drives.map_err(|error| not_inspected(&error)));
        });
        asked.await.unwrap_or_else(|| Err(Failure::failed("SYSTEM", "the drives could not be looked at")))
    }

    async fn import(&self, disks: Vec<PathBuf>, pool: Option<&str>, force: bool) -> Result<String, Failure> {
        let (disks, uuid) = match disks.is_empty() {
            true => self.remembered(pool).map(|known| (registry::places(&known.disks), Some(known.uuid)))?,
            false => (disks, None),
        };
        let open = self.open(disks, uuid, force).await?;
        Ok(format!("pool {} is open", open.pool.name()))
    }

    fn remembered(&self, pool: Option<&str>) -> Result<KnownPool, Failure> {
        let known = registry::load(&self.state)?;
        let mut fits = known.into_iter().filter(|k| pool.is_none_or(|name| k.name == name));
        match (fits.next(), fits.next()) {
            (Some(known), None) => Ok(known),
            (None, _) => Err(Failure::failed("NO_POOL", "no such pool is remembered here")
                .with("name its drives: drystone pool import DISK…")),
            (Some(_), Some(_)) => Err(Failure::refused("SEVERAL_POOLS", "several pools are remembered here")
                .with("name one: --pool NAME")),
        }
    }

    async fn open(
        &self,
        disks: Vec<PathBuf>,
        uuid: Option<Uuid>,
        force: bool,
    ) -> Result<Rc<OpenPool>, Failure> {
        let witness_folder = self.state.clone();
        let (cache, rebuild_after) = (self.cache, self.rebuild_after);
        let memory_folder = Some(MEMORY_FOLDER.into());
        let plan = OpenPlan { disks, pool: uuid, witness_folder, force, cache, rebuild_after, memory_folder };
        let pool = pool::open(&self.core, &plan).await.map_err(|e| pool_failure(&e))?;
        pool.enforce_reserve(self.reserve_enforced);
        let name = pool.name();
        if self.pools.borrow().contains_key(&name) {
            // The error of closing what was opened for nothing would hide the reason.
            let _ = pool.close(&self.core).await;
            return Err(Failure::refused("POOL_EXISTS", format!("another pool named {name} is open")));
        }
        self.remember(&pool, &name, &plan.disks)?;
        let open = Rc::new(OpenPool { pool });
        self.offer(&open);
        self.pools.borrow_mut().insert(name, open.clone());
        Ok(open)
    }

    /// Remembers where the members are, and the places of those that are not there now.
    pub(super) fn remember(&self, pool: &Pool, name: &str, looked_at: &[PathBuf]) -> Result<(), Failure> {
        let members = pool.facts().members;
        let here: Vec<PathBuf> = members.iter().filter_map(|m| m.path.clone()).collect();
        let known = registry::load(&self.state)?.into_iter().filter(|k| k.uuid == pool.uuid());
        let before: Vec<PathBuf> = known.flat_map(|k| k.disks).collect();
        let all_here = here.len() == members.len();
        let disks = registry::to_remember(here, all_here, looked_at, &before);
        registry::remember(&self.state, KnownPool { uuid: pool.uuid(), name: name.to_owned(), disks })
    }

    /// Puts a pool's volumes into the catalog. A name that another pool has already is left to that one.
    fn offer(&self, open: &OpenPool) {
        for volume in open.pool.volumes().into_values() {
            let volume = Arc::new(Volume::in_pool(volume));
            if self.catalog.list().iter().any(|v| v.name() == volume.name()) {
                tracing::warn!(volume = volume.name(), "not served: another pool has a volume of this name");
            } else {
                self.catalog.insert(volume);
            }
        }
    }

    fn withdraw(&self, open: &OpenPool) {
        for name in open.pool.volumes().keys() {
            self.catalog.remove(name);
        }
    }

    async fn export(&self, name: &str, forget: bool) -> Result<String, Failure> {
        let open = self.find_pool(Some(name))?;
        for volume in open.pool.volumes().keys() {
            self.refuse_if_connected(volume)?;
        }
        self.refuse_if_hosts(&open.pool)?;
        self.withdraw(&open);
        self.pools.borrow_mut().remove(name);
        let closed = open.pool.close(&self.core).await;
        if forget {
            registry::forget(&self.state, open.pool.uuid())?;
        }
        closed.map_err(|e| pool_failure(&e))?;
        Ok(format!("pool {name} is closed; its drives can go elsewhere"))
    }

    async fn destroy_pool(&self, name: &str) -> Result<String, Failure> {
        let open = self.find_pool(Some(name))?;
        let disks: Vec<PathBuf> = open.pool.facts().members.into_iter().filter_map(|m| m.path).collect();
        let (uuid, pool) = (open.pool.uuid(), open);
        drop(pool);
        self.export(name, true).await?;
        for disk in &disks {
            pool::create::erase(&self.core, disk).await.map_err(|e| pool_failure(&e))?;
        }
        // The pool is gone: a witness that stays behind takes a little space and means nothing.
        let _ = std::fs::remove_file(pool::create::witness_path(&self.state, uuid));
        Ok(format!("pool {name} is destroyed; its {} drives are free", disks.len()))
    }

    async fn scrub(self: &Rc<Service>, name: Option<&str>) -> Result<String, Failure> {
        let open = self.find_pool(name)?;
        if open.pool.is_scrubbing() {
            return Err(Failure::refused("SCRUB_RUNNING", "a scrub of this pool is running"));
        }
        if self.target.is_some() {
            open.pool.begin_scrub(&self.core).await.map_err(|e| pool_failure(&e))?;
            return Ok("scrub started".to_owned());
        }
        let found = open.pool.scrub(&self.core).await.map_err(|e| pool_failure(&e))?;
        let checked = show_size(ByteLen(found.blocks * BLOCK));
        let repaired = match found.repaired {
            0 => String::new(),
            n => format!(", {n} wrong copies repaired"),
        };
        match found.lost + found.different + found.unrepaired {
            0 => Ok(format!("scrub: {checked} read{repaired}, every copy is right")),
            _ => Err(Failure::failed(
                "SCRUB_FOUND",
                format!("{checked} read{repaired}; {}", what_is_left(&found)),
            )),
        }
    }

    async fn scrub_every(&self, name: Option<&str>, seconds: u32) -> Result<String, Failure> {
        let open = self.find_pool(name)?;
        open.pool.scrub_every(seconds).await.map_err(|e| pool_failure(&e))?;
        Ok(match seconds {
            0 => "no scrub begins by itself any more".to_owned(),
            _ => format!("a scrub begins by itself {} days after the last one", seconds / (24 * 3600)),
        })
    }

    pub(super) fn find_pool(&self, name: Option<&str>) -> Result<Rc<OpenPool>, Failure> {
        let pools = self.pools.borrow();
        match name {
            Some(name) => pools.get(name).cloned().ok_or_else(|| no_pool(name)),
            None if pools.len() > 1 => {
                Err(Failure::refused("SEVERAL_POOLS", "there are several pools")
                    .with("name one: --pool NAME"))
            }
            None => pools.values().next().cloned().ok_or_else(|| {
                Failure::failed("NO_POOL", "there is no pool yet").with("drystone pool create NAME DISK…")
            }),
        }
    }

    pub(super) fn reports(&self, name: Option<&str>) -> Result<Vec<PoolReport>, Failure> {
        let pools = self.pools.borrow();
        let wanted = |n: &String| name.is_none_or(|name| name == n);
        let found: Vec<PoolReport> =
            pools.iter().filter(|(n, _)| wanted(n)).map(|(_, p)| self.report(p)).collect();
        match name {
            Some(name) if found.is_empty() => Err(no_pool(name)),
            Some(_) | None => Ok(found),
        }
    }

    /// A volume with the places where it cannot be read.
    fn with_ranges(&self, mut report: VolumeReport) -> VolumeReport {
        let pools = self.pools.borrow();
        if let Some(open) = pools.get(&report.pool).filter(|_| report.unavailable_bytes > 0) {
            let Unavailable { ranges, more } = open.pool.unavailable(&report.name, UNAVAILABLE_MAX);
            let part =
                |span: &Span| RangeReport { offset_bytes: span.offset().0, length_bytes: span.len().0 };
            report.unavailable = ranges.iter().map(part).collect();
            report.unavailable_more = more;
        }
        report
    }

    pub(super) fn report(&self, open: &OpenPool) -> PoolReport {
        let facts = open.pool.facts();
        let beside = Beside { work: self.work(open) };
        let hosts = self.hosts(open.pool.uuid());
        let report = pool_report(&facts, beside, |volume| self.connections(volume) + hosts);
        PoolReport { full_in_seconds: self.watch.full_in(&report), ..report }
    }

    /// What is being done in the background.
    pub(super) fn work(&self, open: &OpenPool) -> Vec<WorkReport> {
        let shared = open.pool.shared();
        let leaves = {
            let live = lock(&shared.live);
            live.state.members.iter().any(|(id, m)| m.leaving && live.free.in_use(*id) > 0)
        };
        let moving = if leaves { WorkKind::Leave } else { WorkKind::Spread };
        let works = [
            (WorkKind::Resync, &shared.resync_progress),
            (WorkKind::Rebuild, &shared.rebuild_progress),
            (WorkKind::Scrub, &shared.scrub_progress),
            (WorkKind::Copies, &shared.copies_progress),
            (moving, &shared.spread_progress),
        ];
        let report = |(kind, progress): (WorkKind, &Progress)| {
            let underway = progress.underway(self.core.now())?;
            let (done_bytes, total_bytes) = (underway.done.0, underway.total.0);
            Some(WorkReport { kind, done_bytes, total_bytes, bytes_per_second: underway.rate })
        };
        works.into_iter().filter_map(report).collect()
    }

    pub(super) fn open_pools(&self) -> Vec<Rc<OpenPool>> {
        self.pools.borrow().values().cloned().collect()
    }

    fn show_disk(&self, disk: &str) -> Result<Reply, Failure> {
        let drives = self.reports(None)?.into_iter().flat_map(|p| p.drives);
        let mut found = drives.filter(|d| d.name == disk || d.path == disk || d.uuid == disk);
        found.next().map(Reply::Disk).ok_or_else(|| no_disk(disk))
    }

    // Volumes.

    async fn create_volume(&self, create: VolumeCreate) -> Result<String, Failure> {
        if self.catalog.list().iter().any(|v| v.name() == create.name) {
            return Err(pool_failure(&PoolError::VolumeExists(create.name)));
        }
        let open = self.find_pool(create.pool.as_deref())?;
        let plan = VolumePlan {
            name: create.name.clone(),
            size: ByteLen(create.size_bytes),
            copies: create.copies,
            unit: create.stripe_unit_bytes.map(ByteLen),
            checksums: create.checksums,
            lba_bytes: create.lba_bytes,
        };
        let volume = open.pool.create_volume(&self.core, &plan).await.map_err(|e| pool_failure(&e))?;
        let (size, copies) = (volume.shape.load().size, volume.copies());
        self.catalog.insert(Arc::new(Volume::in_pool(volume)));
        let copies = show_copies(copies);
        let served = if self.listening.borrow().is_empty() { "" } else { "; served at once" };
        Ok(format!("volume {}: {}, {copies}{served}", create.name, show_size(size)))
    }

    async fn grow(&self, name: &str, size: ByteLen) -> Result<String, Failure> {
        let open = self.pool_of(name)?;
        open.pool.grow_volume(&self.core, name, size).await.map_err(|e| pool_failure(&e))?;
        self.catalog.note_change();
        let seen = "NVMe hosts see it at once, NBD clients when they attach again";
        Ok(format!("volume {name}: {}; {seen}", show_size(size)))
    }

    async fn shrink(&self, name: &str, size: ByteLen, give_up: bool) -> Result<String, Failure> {
        let open = self.pool_of(name)?;
        // Who has it attached goes by its size.
        self.refuse_if_connected(name)?;
        let shrunk = open.pool.shrink_volume(&self.core, name, size, give_up).await;
        shrunk.map_err(|e| pool_failure(&e))?;
        self.catalog.note_change();
        Ok(format!("volume {name}: {}; what lay beyond is gone, and its space is free", show_size(size)))
    }

    async fn set_copies(&self, name: &str, copies: u8, unprotected: bool) -> Result<String, Failure> {
        let open = self.pool_of(name)?;
        open.pool.set_copies(name, copies, unprotected).await.map_err(|e| pool_failure(&e))?;
        let facts = open.pool.facts();
        let left = facts.volumes.iter().find(|v| v.name == name).map_or(0, |v| v.lacking + v.surplus);
        let amount = show_size(ByteLen(left * facts.state.extent.0));
        let then = match left {
            0 => "that is what there is".to_owned(),
            _ => format!("{amount} of it are changed in the background: drystone status"),
        };
        Ok(format!("volume {name}: {}; {then}", show_copies(copies)))
    }

    async fn rename(&self, name: &str, to: &str) -> Result<String, Failure> {
        let open = self.pool_of(name)?;
        if to != name && self.catalog.list().iter().any(|v| v.name() == to) {
            return Err(pool_failure(&PoolError::VolumeExists(to.to_owned())));
        }
        open.pool.rename_volume(name, to).await.map_err(|e| pool_failure(&e))?;
        self.catalog.remove(name);
        if let Some(volume) = open.pool.volume(to) {
            self.catalog.insert(Arc::new(Volume::in_pool(volume)));
        }
        Ok(format!("volume {name} is now {to}; clients attach it under the new name"))
    }

    async fn destroy_volume(&self, name: &str) -> Result<String, Failure> {
        let open = self.pool_of(name)?;
        self.refuse_if_connected(name)?;
        self.catalog.remove(name);
        open.pool.destroy_volume(name).await.map_err(|e| pool_failure(&e))?;
        Ok(format!("volume {name} is destroyed; its space is free"))
    }

    fn pool_of(&self, volume: &str) -> Result<Rc<OpenPool>, Failure> {
        let pools = self.pools.borrow();
        pools.values().find(|p| p.pool.volume(volume).is_some()).cloned().ok_or_else(|| no_volume(volume))
    }

    pub(super) fn connections(&self, volume: &str) -> u32 {
        self.target.as_ref().map_or(0, |target| target.connections_of(volume))
    }

    /// NVMe hosts that have the volumes of a pool. They have all of them, mounted or not, so that none of these is said
    /// to be in use by that alone.
    pub(super) fn hosts(&self, pool: Uuid) -> u32 {
        let hosts = self.target.as_ref().map_or(0, |target| target.hosts_of(pool));
        u32::try_from(hosts).unwrap_or(u32::MAX)
    }

    fn refuse_if_hosts(&self, pool: &Pool) -> Result<(), Failure> {
        match self.hosts(pool.uuid()) {
            0 => Ok(()),
            n => {
                Err(Failure::refused("POOL_IN_USE", format!("{n} NVMe hosts have the volumes of this pool"))
                    .with(format!(
                        "disconnect them first: umount, then nvme disconnect -n {}",
                        nqn_of(pool.uuid())
                    )))
            }
        }
    }

    fn refuse_if_connected(&self, volume: &str) -> Result<(), Failure> {
        match self.connections(volume) {
            0 => Ok(()),
            n => Err(Failure::refused("VOLUME_IN_USE", format!("volume {volume} has {n} connections"))
                .with("detach it on the client first: umount, then nbd-client -d")),
        }
    }

    fn begin_bench(&self, from: Option<ConnectionId>, size: ByteLen) -> Result<Reply, Failure> {
        let Some(from) = from else {
            return Err(Failure::failed(
                "NO_DAEMON",
                "the network is measured against a daemon, and none runs",
            ));
        };
        self.benches.borrow_mut().insert(from);
        let memory = MemoryVolume::new(size).discarding_writes();
        self.catalog.insert(Arc::new(Volume::in_memory(NETWORK_EXPORT, memory)));
        Ok(Reply::Bench { export: NETWORK_EXPORT.to_owned() })
    }
}

fn no_pool(name: &str) -> Failure {
    Failure::failed("NO_POOL", format!("there is no open pool named {name}"))
        .with("drystone pool list; closed ones: drystone pool import DISK…")
}

pub(super) fn no_disk(name: &str) -> Failure {
    Failure::failed("DISK_NOT_FOUND", format!("{name} is no drive of an open pool"))
        .with("drystone disk list")
}

fn no_volume(name: &str) -> Failure {
    pool_failure(&PoolError::NoVolume(name.to_owned()))
}

/// What a scrub could not repair.
fn what_is_left(found: &Findings) -> String {
    let kinds = [
        (found.lost, "have no good copy left"),
        (found.different, "differ between their copies, and nothing tells which is right"),
        (found.unrepaired, "are wrong on one copy that could not be written"),
    ];
    let said = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} blocks {what}"));
    said.collect::<Vec<_>>().join("; ")
}
