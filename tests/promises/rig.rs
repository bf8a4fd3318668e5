//! The rig: a machine with a few drives, one volume, and ways to end a life and begin another.

use super::payload::payload;
use drystone::base::units::{ByteLen, ByteOffset, Span};
use drystone::block::{Status, WriteFlags};
use drystone::pool::create::witness_path;
use drystone::pool::{self, CreatePlan, OpenPlan, Pool, PoolError, VolumePlan};
use drystone::sim::{DiskHandle, DiskShape, Image, Process, World};
use drystone::volume::{Handle, Volume};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub const LIMIT: Duration = Duration::from_secs(600);
pub const BLOCK: u64 = 4096;
pub const MIB: u64 = 1 << 20;
/// Bytes of the volume.
pub const SIZE: u64 = 16 * MIB;

pub struct Rig {
    pub world: World,
    pub disks: Vec<PathBuf>,
    pub copies: u8,
}

/// A process that has the pool open.
pub struct Live {
    pub head: Process,
    pub pool: Pool,
    /// The volume, on each core.
    pub volume: Vec<Handle>,
}

impl Rig {
    /// A pool of so many drives with a volume of so many copies, open.
    pub fn new(seed: u64, drives: usize, copies: u8) -> (Rig, Live) {
        Rig::with(seed, drives, copies, true)
    }

    /// The same, with or without checksums.
    pub fn with(seed: u64, drives: usize, copies: u8, checksums: bool) -> (Rig, Live) {
        let world = World::new(seed);
        let disks: Vec<PathBuf> = (0..drives).map(|i| PathBuf::from(format!("/dev/d{i}"))).collect();
        for path in &disks {
            world.add_disk(path, DiskShape::flash(ByteLen(100_000_000)));
        }
        let rig = Rig { world, disks, copies };
        let head = rig.world.boot(2);
        rig.create(&head);
        let pool = rig.open_with(&head, &rig.disks, "/state", false).expect("opens");
        let plan = VolumePlan {
            name: "data".into(),
            size: ByteLen(SIZE),
            copies: Some(copies),
            unit: None,
            checksums,
            lba_bytes: None,
        };
        let core = head.core(0).clone();
        let pool = rig.on(&head, async move {
            pool.create_volume(&core, &plan).await.expect("a volume");
            pool
        });
        let live = rig.live(head, pool);
        (rig, live)
    }

    fn create(&self, head: &Process) {
        let plan = CreatePlan {
            name: "tank".into(),
            disks: self.disks.iter().map(|p| (p.clone(), p.display().to_string())).collect(),
            copies: self.copies,
            extent: None,
            witness_folder: "/state".into(),
        };
        let core = head.core(0).clone();
        self.on(head, async move { pool::create(&core, &plan).await }).expect("created");
    }

    fn live(&self, head: Process, pool: Pool) -> Live {
        let volume = Arc::new(Volume::in_pool(pool.volume("data").expect("it was made")));
        let volume = head.cores.iter().map(|core| volume.handle(core)).collect();
        Live { head, pool, volume }
    }

    pub fn on<T: 'static>(&self, head: &Process, work: impl Future<Output = T> + 'static) -> T {
        self.world.run_on(&head.cores, head.core(0), LIMIT, work).expect("it ends")
    }

    pub fn open_with(
        &self,
        head: &Process,
        disks: &[PathBuf],
        folder: &str,
        force: bool,
    ) -> Result<Pool, PoolError> {
        let plan = OpenPlan {
            disks: disks.to_vec(),
            pool: None,
            witness_folder: folder.into(),
            force,
            cache: ByteLen(8 << 20),
            rebuild_after: pool::REBUILD_AFTER,
            memory_folder: Some("/memory".into()),
        };
        let core = head.core(0).clone();
        self.on(head, async move { pool::open(&core, &plan).await })
    }

    pub fn try_open(&self) -> Result<Live, PoolError> {
        let head = self.world.boot(2);
        match self.open_with(&head, &self.disks, "/state", false) {
            Ok(pool) => Ok(self.live(head, pool)),
            Err(error) => {
                self.world.bury(head);
                Err(error)
            }
        }
    }

    pub fn open(&self) -> Live {
        self.try_open().expect("opens")
    }

    /// Runs something with the volume, on the first core.
    pub fn run<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        live: &Live,
        work: impl FnOnce(Handle) -> F,
    ) -> T {
        self.on(&live.head, work(live.volume[0].clone()))
    }

    /// Makes the volume larger.
    pub fn grow(&self, live: Live, size: u64) -> Live {
        let Live { head, pool, volume } = live;
        let core = head.core(0).clone();
        let pool = self.on(&head, async move {
            pool.grow_volume(&core, "data", ByteLen(size)).await.expect("grown");
            pool
        });
        Live { head, pool, volume }
    }

    /// Waits for something, in virtual time.
    pub fn wait(&self, live: &Live, done: impl FnMut() -> bool) {
        self.world.run(&live.head.cores, LIMIT, done).expect("it comes");
    }

    /// The power fails.
    pub fn cut(&self, live: Live) {
        self.world.power_cut();
        self.bury(live);
    }

    /// Ends a life as kill -9 does, if nothing has ended it.
    pub fn bury(&self, live: Live) {
        let Live { head, pool, volume } = live;
        drop((pool, volume));
        assert_eq!(self.world.bury(head), 0, "every buffer was given back");
    }

    pub fn close(&self, live: Live) {
        let Live { head, pool, volume } = live;
        drop(volume);
        let core = head.core(0).clone();
        self.on(&head, async move { pool.close(&core).await }).expect("closed");
        assert_eq!(self.world.bury(head), 0);
    }

    pub fn disk(&self, index: usize) -> DiskHandle {
        self.world.disk(&self.disks[index])
    }

    /// Does something with each drive taken away in turn, each time from the same situation. Nothing is open.
    pub fn without_each(&self, look: impl Fn(Live)) {
        let all = || {
            let mut all: Vec<DiskHandle> = (0..self.disks.len()).map(|i| self.disk(i)).collect();
            let pool = self.open();
            let witness = witness_path(Path::new("/state"), pool.pool.uuid());
            self.bury(pool);
            all.push(self.world.disk(witness));
            all
        };
        let all = all();
        let images: Vec<Image> = all.iter().map(DiskHandle::snapshot).collect();
        for index in 0..self.disks.len() {
            self.disk(index).unplug();
            look(self.open());
            self.disk(index).plug();
            all.iter().zip(&images).for_each(|(disk, image)| disk.restore(image));
        }
    }

    /// Where the copies of a block of the volume lie: drive and offset there.
    pub fn places(&self, live: &Live, at: u64) -> Vec<(usize, ByteOffset)> {
        let volume = live.pool.volume("data").expect("it was made");
        let fragment = volume.fragments(Span::at(at, BLOCK))[0];
        let shared = live.pool.shared();
        let placement = shared.placement(volume.id, fragment.slot).expect("it was written");
        let place = |copy: &drystone::pool::redundancy::mirror::Copy| {
            let member = shared.member(copy.member);
            (usize::from(copy.member.0), member.layout.data(copy.extent, fragment.offset))
        };
        placement.copies.iter().map(place).collect()
    }

    pub fn all_in_sync(live: &Live) -> bool {
        live.pool.facts().members.iter().all(|m| m.in_sync)
    }
}

pub async fn write(volume: &Handle, at: u64, len: u64, byte: u8, fua: bool) -> Result<(), Status> {
    let span = Span::at(at, len);
    volume.write(span, &payload(volume.core(), span, byte), WriteFlags { fua }).await
}

pub async fn put(volume: &Handle, at: u64, len: u64, byte: u8) {
    write(volume, at, len, byte, false).await.expect("written");
}

pub async fn get(volume: &Handle, at: u64, len: u64) -> Vec<u8> {
    volume.read(Span::at(at, len)).await.expect("readable").to_vec()
}

/// Checks that all these bytes are this one.
pub async fn expect(volume: &Handle, at: u64, len: u64, byte: u8) {
    let bytes = get(volume, at, len).await;
    let wrong = bytes.iter().position(|b| *b != byte);
    assert_eq!(wrong.map(|i| (at + i as u64, bytes[i])), None, "all of {at}+{len} should be {byte}");
}
