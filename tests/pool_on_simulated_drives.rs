//! The pool on simulated drives: what it promises, one behaviour a test.

use drystone::base::units::{ByteLen, Span};
use drystone::block::{Payload, Status, WriteFlags, ZeroFlags, pieces};
use drystone::pool::{self, CreatePlan, OpenPlan, Pool, VolumePlan};
use drystone::reactor::Core;
use drystone::sim::{DiskShape, Process, World};
use drystone::volume::{Handle, Volume};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);

struct Rig {
    world: World,
    disks: Vec<PathBuf>,
}

impl Rig {
    fn new(seed: u64, sizes_mb: &[u64]) -> Rig {
        let world = World::new(seed);
        let mut disks = Vec::new();
        for (i, mb) in sizes_mb.iter().enumerate() {
            let path = PathBuf::from(format!("/dev/d{i}"));
            world.add_disk(&path, DiskShape::flash(ByteLen(mb * 1_000_000)));
            disks.push(path);
        }
        Rig { world, disks }
    }

    fn on<T: 'static>(&self, head: &Process, work: impl Future<Output = T> + 'static) -> T {
        self.world.run_on(&head.cores, head.core(0), LIMIT, work).expect("settles")
    }

    fn create(&self, head: &Process, copies: u8) {
        let plan = CreatePlan {
            name: "tank".into(),
            disks: self.disks.iter().map(|p| (p.clone(), p.display().to_string())).collect(),
            copies,
            extent: None,
            witness_folder: "/state".into(),
        };
        let core = head.core(0).clone();
        self.on(head, async move { pool::create(&core, &plan).await }).expect("created");
    }

    fn open(&self, head: &Process) -> Result<Pool, pool::PoolError> {
        let plan = OpenPlan {
            disks: self.disks.clone(),
            pool: None,
            witness_folder: "/state".into(),
            force: false,
            cache: ByteLen(8 << 20),
        };
        let core = head.core(0).clone();
        self.on(head, async move { pool::open(&core, &plan).await })
    }

    fn close(&self, head: &Process, pool: Pool) {
        let core = head.core(0).clone();
        self.on(head, async move { pool.close(&core).await }).expect("closed");
    }

    fn volume(&self, head: &Process, pool: Pool, name: &str, size: u64, copies: u8) -> (Pool, Handle) {
        let plan = VolumePlan {
            name: name.into(),
            size: ByteLen(size),
            copies: Some(copies),
            unit: None,
            checksums: true,
        };
        let core = head.core(0).clone();
        self.on(head, async move {
            let volume = pool.create_volume(&core, &plan).await.expect("volume");
            let handle = Arc::new(Volume::in_pool(volume)).handle(&core);
            (pool, handle)
        })
    }

    fn handle(&self, head: &Process, pool: &Pool, name: &str) -> Handle {
        Arc::new(Volume::in_pool(pool.volume(name).expect("exists"))).handle(head.core(0))
    }
}

fn payload(core: &Core, span: Span, byte: u8) -> Payload {
    let mut payload = Payload::default();
    for piece in pieces(span) {
        let len = piece.span.len().as_usize();
        let mut buf = core.buffers().take(piece.skew + len);
        buf.set_window(piece.skew..piece.skew + len);
        buf.as_mut_slice().fill(byte);
        payload.parts.push(buf.freeze());
    }
    payload
}

async fn put(handle: &Handle, at: u64, len: u64, byte: u8) -> Result<(), Status> {
    let span = Span::at(at, len);
    handle.write(span, &payload(handle.core(), span, byte), WriteFlags::default()).await
}

async fn get(handle: &Handle, at: u64, len: u64) -> Vec<u8> {
    handle.read(Span::at(at, len)).await.expect("readable").to_vec()
}

#[test]
fn written_bytes_read_back_across_a_clean_restart() {
    let rig = Rig::new(1, &[80, 120, 120]);
    let head = rig.world.boot(1);
    rig.create(&head, 2);
    let pool = rig.open(&head).expect("opens");
    let (pool, handle) = rig.volume(&head, pool, "data", 40 << 20, 2);
    rig.on(&head, async move {
        put(&handle, 0, 3 << 20, 1).await.unwrap();
        put(&handle, 5_000_001, 333, 2).await.unwrap();
        assert_eq!(get(&handle, 5_000_000, 3).await, [0, 2, 2]);
        assert_eq!(get(&handle, (3 << 20) - 1, 2).await, [1, 0]);
        handle.write_zeroes(Span::at(4096, 8192), ZeroFlags::default()).await.unwrap();
        assert!(get(&handle, 4096, 8192).await.iter().all(|b| *b == 0));
        assert_eq!(get(&handle, 4095, 1).await, [1]);
    });
    rig.close(&head, pool);
    assert_eq!(rig.world.bury(head), 0);
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens again");
    let handle = rig.handle(&head, &pool, "data");
    rig.on(&head, async move {
        assert_eq!(get(&handle, 5_000_000, 3).await, [0, 2, 2]);
        assert_eq!(get(&handle, 4094, 4).await, [1, 1, 0, 0]);
        assert_eq!(get(&handle, 12288, 1).await, [1]);
    });
    rig.close(&head, pool);
}

#[test]
fn a_drive_lost_while_serving_costs_no_data_and_no_error() {
    let rig = Rig::new(2, &[80, 120, 120]);
    let head = rig.world.boot(1);
    rig.create(&head, 2);
    let pool = rig.open(&head).expect("opens");
    let (pool, handle) = rig.volume(&head, pool, "data", 40 << 20, 2);
    let unplug = rig.world.disk("/dev/d1");
    let again = handle.clone();
    rig.on(&head, async move {
        put(&handle, 0, 8 << 20, 7).await.unwrap();
        unplug.unplug();
        assert!(get(&handle, 0, 8 << 20).await.iter().all(|b| *b == 7));
        put(&handle, 1 << 20, 8 << 20, 8).await.unwrap();
        handle.flush().await.unwrap();
        assert!(get(&handle, 1 << 20, 8 << 20).await.iter().all(|b| *b == 8));
    });
    let facts = pool.facts();
    assert!(facts.volumes[0].single_copy.0 > 0);
    assert_eq!(facts.members.iter().filter(|m| m.in_sync).count(), 2);
    drop(again);
    // The drive comes back with old bytes: it is recognised and not read.
    rig.world.power_cut();
    assert_eq!(rig.world.bury(head), 0);
    rig.world.disk("/dev/d1").plug();
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("two drives and the witness are a majority");
    let handle = rig.handle(&head, &pool, "data");
    rig.on(&head, async move {
        assert!(get(&handle, 1 << 20, 8 << 20).await.iter().all(|b| *b == 8));
        assert!(get(&handle, 0, 1 << 20).await.iter().all(|b| *b == 7));
    });
    assert_eq!(pool.facts().members.iter().filter(|m| m.in_sync).count(), 2);
    rig.close(&head, pool);
}

#[test]
fn what_plan_and_status_call_usable_can_be_written_to_the_byte() {
    for copies in 1..=3u8 {
        let rig = Rig::new(3, &[80, 500, 500]);
        let head = rig.world.boot(1);
        rig.create(&head, copies);
        let pool = rig.open(&head).expect("opens");
        let usable = pool.facts().usable[usize::from(copies) - 1];
        assert_eq!(pool.facts().free[usize::from(copies) - 1], usable);
        let (pool, handle) = rig.volume(&head, pool, "data", usable.0 + (4 << 20), copies);
        rig.on(&head, async move {
            // One block of each extent is enough to take it.
            let mut written = 0;
            let mut at = 0;
            let end = usable.0 + (4 << 20);
            let mut full = 0;
            while at < end {
                match put(&handle, at, 4096, 5).await {
                    Ok(()) => written += 1,
                    Err(Status::NoSpace) => full += 1,
                    Err(other) => panic!("{other}"),
                }
                at += 128 << 10;
            }
            assert!(written * (128 << 10) == usable.0, "{written} blocks in {copies} copies, {full} refused");
        });
        assert_eq!(pool.facts().free[usize::from(copies) - 1].0, 0);
        rig.close(&head, pool);
    }
}

#[test]
fn discarded_space_comes_back_and_never_shows_old_bytes() {
    let rig = Rig::new(4, &[80, 80]);
    let head = rig.world.boot(1);
    rig.create(&head, 2);
    let pool = rig.open(&head).expect("opens");
    let free = pool.facts().free[1];
    let (pool, handle) = rig.volume(&head, pool, "data", 20 << 20, 2);
    rig.on(&head, async move {
        put(&handle, 0, 20 << 20, 9).await.unwrap();
        handle.flush().await.unwrap();
        handle.discard(Span::at(0, 20 << 20), WriteFlags::default()).await.unwrap();
    });
    assert_eq!(pool.facts().free[1], free);
    let (pool, other) = rig.volume(&head, pool, "other", 20 << 20, 2);
    rig.on(&head, async move {
        put(&other, 4096, 512, 1).await.unwrap();
        let bytes = get(&other, 0, 1 << 20).await;
        assert!(bytes.iter().enumerate().all(|(i, b)| *b == u8::from((4096..4608).contains(&i))));
    });
    rig.close(&head, pool);
}
