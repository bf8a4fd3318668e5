//! A pool on simulated drives, and ways to look at its metadata and to put other metadata there.

use super::payload::payload;
use drystone::base::units::{ByteLen, ByteOffset, Span};
use drystone::block::{Status, WriteFlags};
use drystone::disk::Disk;
use drystone::io::driver::Access;
use drystone::pool::create::{WITNESS_AREA, witness_path};
use drystone::pool::layout::{LOG_START, MemberLayout, member_layout};
use drystone::pool::log::{Cursor, LogArea, Replayed};
use drystone::pool::record;
use drystone::pool::replay;
use drystone::pool::survey::{self, Survey};
use drystone::pool::{self, CreatePlan, OpenPlan, Pool, PoolError, VolumePlan};
use drystone::sim::{DiskHandle, DiskShape, Image, Process, Stop, World};
use drystone::volume::{Handle, Volume};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub const MIB: u64 = 1 << 20;
pub const SIZE: u64 = 80_000_000;
const LIMIT: Duration = Duration::from_secs(3000);

pub struct Rig {
    pub world: World,
    pub disks: Vec<PathBuf>,
    pub state: PathBuf,
}

impl Rig {
    pub fn blank(seed: u64, drives: usize) -> Rig {
        let world = World::new(seed);
        let disks: Vec<PathBuf> = (0..drives).map(|i| PathBuf::from(format!("/dev/d{i}"))).collect();
        disks.iter().for_each(|path| {
            world.add_disk(path, DiskShape::flash(ByteLen(SIZE)));
        });
        Rig { world, disks, state: "/state".into() }
    }

    /// A pool with a volume `data` of two copies, eight mebibytes of sevens in it; closed.
    pub fn used(seed: u64, drives: usize) -> Rig {
        let rig = Rig::blank(seed, drives);
        let head = rig.world.boot(1);
        rig.create(&head);
        let pool = rig.open(&head).expect("opens");
        rig.volume(&head, &pool, "data");
        rig.write(&head, &pool, 0, 8 * MIB, 7);
        rig.close(head, pool);
        rig
    }

    /// The same drives seen by somebody with another state folder, or with fewer of them.
    pub fn part(&self, disks: &[usize], state: &str) -> Rig {
        let disks = disks.iter().map(|i| self.disks[*i].clone()).collect();
        Rig { world: self.world.clone(), disks, state: state.into() }
    }

    pub fn layout(&self) -> MemberLayout {
        member_layout(ByteLen(SIZE), ByteLen(MIB)).unwrap()
    }

    pub fn disk(&self, i: usize) -> DiskHandle {
        self.world.disk(&self.disks[i])
    }

    pub fn on<T: 'static>(&self, head: &Process, work: impl Future<Output = T> + 'static) -> T {
        self.try_on(head, work).expect("settles")
    }

    pub fn try_on<T: 'static>(
        &self,
        head: &Process,
        work: impl Future<Output = T> + 'static,
    ) -> Result<T, Stop> {
        self.world.run_on(&head.cores, head.core(0), LIMIT, work)
    }

    pub fn pass(&self, head: &Process, seconds: u64) {
        self.world.pass(&head.cores, Duration::from_secs(seconds)).expect("time passes");
    }

    pub fn create(&self, head: &Process) {
        let plan = CreatePlan {
            name: "tank".into(),
            disks: self.disks.iter().map(|p| (p.clone(), p.display().to_string())).collect(),
            copies: 2,
            extent: Some(ByteLen(MIB)),
            witness_folder: self.state.clone(),
        };
        let core = head.core(0).clone();
        self.on(head, async move { pool::create(&core, &plan).await }).expect("created");
    }

    pub fn plan(&self, force: bool) -> OpenPlan {
        OpenPlan {
            disks: self.disks.clone(),
            pool: None,
            witness_folder: self.state.clone(),
            force,
            cache: ByteLen(8 << 20),
            rebuild_after: drystone::pool::REBUILD_AFTER,
            memory_folder: None,
        }
    }

    pub fn open(&self, head: &Process) -> Result<Pool, PoolError> {
        self.open_by(head, &self.plan(false)).expect("no crash")
    }

    pub fn open_forced(&self, head: &Process) -> Result<Pool, PoolError> {
        self.open_by(head, &self.plan(true)).expect("no crash")
    }

    pub fn open_by(&self, head: &Process, plan: &OpenPlan) -> Result<Result<Pool, PoolError>, Stop> {
        let (core, plan) = (head.core(0).clone(), plan.clone());
        self.try_on(head, async move { pool::open(&core, &plan).await })
    }

    /// Opening fails, and nothing was written by it.
    pub fn refused(&self, force: bool) -> PoolError {
        let head = self.world.boot(1);
        let (before, files) = (self.world.changes(), self.world.find_disk(self.state.join("x")).is_some());
        let error = match self.open_by(&head, &self.plan(force)).expect("no crash") {
            Ok(_) => panic!("it opened"),
            Err(error) => error,
        };
        assert_eq!(self.world.changes(), before, "nothing is written before a majority was seen: {error}");
        assert!(!files);
        assert_eq!(self.world.bury(head), 0);
        error
    }

    /// Opens, looks, and closes.
    pub fn visit<T>(&self, look: impl FnOnce(&Process, &Pool) -> T) -> T {
        let head = self.world.boot(1);
        let pool = self.open(&head).expect("opens");
        let seen = look(&head, &pool);
        self.close(head, pool);
        seen
    }

    pub fn close(&self, head: Process, pool: Pool) {
        let core = head.core(0).clone();
        self.on(&head, async move { pool.close(&core).await }).expect("closed");
        assert_eq!(self.world.bury(head), 0);
    }

    /// The power goes.
    pub fn cut(&self, head: Process, pool: Pool) {
        drop(pool);
        self.world.power_cut();
        self.world.bury(head);
    }

    pub fn volume(&self, head: &Process, pool: &Pool, name: &str) {
        let plan = VolumePlan {
            name: name.into(),
            size: ByteLen(20 * MIB),
            copies: Some(2),
            unit: None,
            checksums: true,
            lba_bytes: None,
        };
        let (core, pool) = (head.core(0).clone(), pool.clone());
        self.on(head, async move { pool.create_volume(&core, &plan).await.map(|_| ()) }).expect("volume");
    }

    pub fn handle(&self, head: &Process, pool: &Pool) -> Handle {
        Arc::new(Volume::in_pool(pool.volume("data").expect("exists"))).handle(head.core(0))
    }

    pub fn write(&self, head: &Process, pool: &Pool, at: u64, len: u64, byte: u8) {
        let handle = self.handle(head, pool);
        self.on(head, async move {
            put(&handle, at, len, byte).await.expect("written");
            handle.flush().await.expect("flushed");
        });
    }

    pub fn read(&self, head: &Process, pool: &Pool, at: u64, len: u64) -> Result<Vec<u8>, Status> {
        let handle = self.handle(head, pool);
        self.on(head, async move { handle.read(Span::at(at, len)).await.map(|bytes| bytes.to_vec()) })
    }

    /// The eight mebibytes of `used` are there.
    pub fn check(&self, head: &Process, pool: &Pool) {
        assert!(self.read(head, pool, 0, 8 * MIB).expect("readable").iter().all(|b| *b == 7));
        assert!(self.read(head, pool, 8 * MIB, MIB).expect("readable").iter().all(|b| *b == 0));
    }

    pub fn survey(&self, disk: usize) -> Survey {
        let head = self.world.boot(1);
        let (core, path) = (head.core(0).clone(), self.disks[disk].clone());
        let survey = self.on(&head, async move {
            let disk = Disk::open(&core, &path, Access::Inspect).await.unwrap();
            let survey = survey::survey(&core, &disk).await;
            disk.close(&core).await;
            survey
        });
        self.world.bury(head);
        survey
    }

    /// The drives and the witness, with where their logs are.
    pub fn logs(&self) -> Vec<(DiskHandle, LogArea)> {
        let area = LogArea { start: LOG_START, generation_len: self.layout().log_generation };
        let mut logs: Vec<_> = (0..self.disks.len()).map(|i| (self.disk(i), area)).collect();
        let uuid = self.survey(0).inside.expect("a member").superblock.pool;
        logs.extend(self.world.find_disk(witness_path(&self.state, uuid)).map(|disk| (disk, WITNESS_AREA)));
        logs
    }

    pub fn replay(&self, disk: usize) -> Option<Replayed> {
        let head = self.world.boot(1);
        let (core, path) = (head.core(0).clone(), self.disks[disk].clone());
        let area = self.logs()[disk].1;
        let log = self.on(&head, async move {
            let disk = Disk::open(&core, &path, Access::Inspect).await.unwrap();
            let log = replay::replay(&core, &disk, area).await.unwrap();
            disk.close(&core).await;
            log
        });
        self.world.bury(head);
        log
    }

    /// The frames of the half that a member's log is in: where each begins, and its length.
    pub fn frames(&self, disk: usize) -> Vec<(ByteOffset, u64)> {
        let end = self.replay(disk).expect("a log").cursor;
        let (handle, area) = self.logs()[disk].clone();
        let mut frames = Vec::new();
        let mut offset = 0;
        while offset < end.offset.0 {
            let at = area.at(Cursor { offset: ByteLen(offset), ..end });
            let header = record::parse_header(&handle.peek(at, 4096), at).expect("a frame");
            frames.push((at, record::frame_len(header.body_len)));
            offset += record::frame_len(header.body_len);
        }
        frames
    }

    /// All there is: what `restore` puts back.
    pub fn images(&self) -> Vec<(DiskHandle, Image)> {
        self.logs().into_iter().map(|(disk, _)| (disk.clone(), disk.snapshot())).collect()
    }
}

pub fn restore(images: &[(DiskHandle, Image)]) {
    images.iter().for_each(|(disk, image)| disk.restore(image));
}

pub fn in_sync(pool: &Pool) -> Vec<bool> {
    pool.facts().members.iter().map(|m| m.in_sync).collect()
}

pub async fn put(handle: &Handle, at: u64, len: u64, byte: u8) -> Result<(), Status> {
    let span = Span::at(at, len);
    handle.write(span, &payload(handle.core(), span, byte), WriteFlags::default()).await
}
