//! The pool on simulated drives: what it promises, one behaviour a test.

#[path = "shared/payload.rs"]
mod payload;

use drystone::base::units::{ByteLen, MemberId, Span};
use drystone::block::{Status, WriteFlags, ZeroFlags};
use drystone::pool::reserve::Margin;
use drystone::pool::{self, CreatePlan, OpenPlan, Pool, VolumePlan};
use drystone::reactor::Core;
use drystone::sim::{DiskShape, Process, World};
use drystone::volume::{Handle, Volume};
use payload::payload;
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
        self.open_for(head, drystone::pool::REBUILD_AFTER)
    }

    fn open_for(&self, head: &Process, rebuild_after: Duration) -> Result<Pool, pool::PoolError> {
        let plan = OpenPlan {
            disks: self.disks.clone(),
            pool: None,
            witness_folder: "/state".into(),
            force: false,
            cache: ByteLen(8 << 20),
            rebuild_after,
            memory_folder: None,
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
            lba_bytes: None,
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

/// A flush that is under way while a copy is made says nothing about the new one: the region block has to get there
/// all the same (seed 298).
#[test]
fn a_copy_that_is_made_beside_flushes_has_its_region_blocks() {
    for seed in 0..40 {
        let rig = Rig::new(seed, &[80, 80, 80]);
        let head = rig.world.boot(1);
        rig.create(&head, 2);
        let pool = rig.open(&head).expect("opens");
        let (pool, handle) = rig.volume(&head, pool, "data", 16 << 20, 2);
        let disk = rig.world.disk("/dev/d0");
        let pool = rig.on(&head, async move {
            for slot in 0..16 {
                put(&handle, slot << 20, 4096, 1).await.unwrap();
            }
            handle.flush().await.unwrap();
            disk.unplug();
            put(&handle, 0, 16 << 20, 1).await.unwrap();
            let writer = async |first: u64| {
                for round in 0..8 {
                    let slot = (first + round * 3) % 16;
                    handle.discard(Span::at((slot << 20) + 8192, 8192), WriteFlags::default()).await.unwrap();
                    put(&handle, (slot << 20) + 8192, 4096, 2).await.unwrap();
                    handle.flush().await.unwrap();
                }
            };
            let order = async {
                handle.core().sleep(Duration::from_millis(seed / 2)).await;
                match seed % 2 {
                    0 => pool.declare_dead(MemberId(0)).await.unwrap(),
                    _ => disk.plug(),
                }
            };
            futures_util::future::join4(writer(0), writer(5), writer(10), order).await;
            handle.core().sleep(Duration::from_secs(20)).await;
            let found = pool.scrub(handle.core()).await.expect("scrubbed");
            assert!(found.is_clean(), "seed {seed}: {found:?}");
            pool
        });
        assert!(pool.facts().volumes.iter().all(|v| v.below_promise.0 == 0), "seed {seed}: not made anew");
        rig.close(&head, pool);
    }
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

/// The longest that anybody may wait for a drive that does not answer.
const STALL_MAX: Duration = Duration::from_secs(5);

/// What an operation gave, and how long it took.
async fn timed<T>(handle: &Handle, work: impl Future<Output = T>) -> (T, Duration) {
    let begun = handle.core().now();
    let ended = work.await;
    (ended, handle.core().now().since(begun))
}

/// Reads of 4 KiB here and there; how long each took, ascending.
async fn reads(handle: &Handle, count: u64, blocks: u64) -> Vec<Duration> {
    let mut took = Vec::new();
    for number in 0..count {
        let (_, each) = timed(handle, get(handle, number * 7919 % blocks * 4096, 4096)).await;
        took.push(each);
    }
    took.sort_unstable();
    took
}

#[test]
fn r43_a_drive_that_says_nothing_holds_nobody_for_long_and_is_brought_up_to_date_when_it_answers() {
    let rig = Rig::new(43, &[120, 120, 120]);
    let head = rig.world.boot(1);
    rig.create(&head, 2);
    let pool = rig.open(&head).expect("opens");
    let (pool, handle) = rig.volume(&head, pool, "data", 16 << 20, 2);
    let mine = handle.clone();
    rig.on(&head, async move { put(&mine, 0, 16 << 20, 1).await.expect("written") });
    rig.world.disk("/dev/d1").hang();
    let mine = handle.clone();
    let longest = rig.on(&head, async move {
        let mut longest = Duration::ZERO;
        for round in 0..40u64 {
            let at = round * 400 * 1024 % (15 << 20);
            let (written, took) = timed(&mine, put(&mine, at, 4096, 2)).await;
            written.expect("the other copy took it");
            longest = longest.max(took);
            let (bytes, took) = timed(&mine, get(&mine, at, 4096)).await;
            assert!(bytes.iter().all(|b| *b == 2), "round {round}");
            longest = longest.max(took);
            let (flushed, took) = timed(&mine, mine.flush()).await;
            flushed.expect("the other copies are durable");
            longest = longest.max(took);
        }
        longest
    });
    assert!(longest < STALL_MAX, "somebody waited for {longest:?}");
    let hung =
        |pool: &Pool| pool.facts().members.into_iter().find(|m| m.name == "/dev/d1").expect("a member");
    assert!(!hung(&pool).in_sync, "it lacks what was written");
    rig.world.disk("/dev/d1").release();
    let in_sync = || hung(&pool).in_sync;
    rig.world.run(&head.cores, LIMIT, in_sync).expect("it is brought up to date");
    rig.world.disk("/dev/d0").unplug();
    let mine = handle.clone();
    let bytes = rig.on(&head, async move { get(&mine, 400 * 1024, 4096).await });
    assert!(bytes.iter().all(|b| *b == 2), "what it missed is there without the others");
    drop((handle, pool));
}

#[test]
fn r43_what_only_a_silent_drive_has_is_waited_for() {
    let rig = Rig::new(44, &[120]);
    let head = rig.world.boot(1);
    rig.create(&head, 1);
    let pool = rig.open(&head).expect("opens");
    let (pool, handle) = rig.volume(&head, pool, "data", 8 << 20, 1);
    let mine = handle.clone();
    rig.on(&head, async move { put(&mine, 0, 4096, 1).await.expect("written") });
    let disk = rig.world.disk("/dev/d0");
    disk.hang();
    rig.world.after(Duration::from_secs(20), move |_| disk.release());
    let mine = handle.clone();
    let took = rig.on(&head, async move {
        let (bytes, took) = timed(&mine, get(&mine, 0, 4096)).await;
        assert!(bytes.iter().all(|b| *b == 1));
        put(&mine, 0, 4096, 2).await.expect("written");
        mine.flush().await.expect("flushed");
        took
    });
    assert!(took > Duration::from_secs(15), "{took:?}");
    drop(handle);
    rig.close(&head, pool);
}

/// What a write that failed left on its only copy is old or new; it is not given up with the drive, nor is what the drive
/// could not give in time, whenever it answers again.
#[test]
fn what_a_silent_drive_alone_has_stays_readable_when_the_drive_is_given_up() {
    for (number, silent) in (0..10).map(|number| (number, Duration::from_secs(110 + 8 * number))) {
        let rig = Rig::new(460 + number, &[120, 120, 120]);
        let head = rig.world.boot(1);
        rig.create(&head, 2);
        let pool = rig.open_for(&head, Duration::from_secs(100)).expect("opens");
        let (pool, mirrored) = rig.volume(&head, pool, "mirrored", 4 << 20, 2);
        let (pool, single) = rig.volume(&head, pool, "single", 12 << 20, 1);
        let writer = (mirrored.clone(), single.clone());
        rig.on(&head, async move {
            put(&writer.0, 0, 4 << 20, 1).await.expect("written");
            put(&writer.1, 0, 12 << 20, 1).await.expect("written");
            writer.1.flush().await.expect("flushed");
        });
        rig.world.disk("/dev/d1").hang();
        let failed = rig.on(&head, async move {
            put(&mirrored, 0, 4 << 20, 2).await.expect("the other copies took it");
            let writes = (0..12).map(|at| put(&single, at << 20, 8192, 2));
            futures_util::future::join_all(writes).await.into_iter().filter(Result::is_err).count()
        });
        assert!(failed > 0, "some of it lies on the silent drive");
        rig.world.pass(&head.cores, silent).expect("it is given up");
        rig.world.disk("/dev/d1").release();
        rig.world.pass(&head.cores, Duration::from_secs(120)).expect("what can be moved is");
        let core = head.core(0).clone();
        // Not closed cleanly: the next opening is to look at what the failed writes left.
        let _ = rig.on(&head, async move { pool.close(&core).await });
        rig.world.bury(head);
        let head = rig.world.boot(1);
        let pool = rig.open(&head).expect("opens");
        let single = Arc::new(Volume::in_pool(pool.volume("single").expect("exists"))).handle(head.core(0));
        let bytes = rig.on(&head, async move { get(&single, 0, 12 << 20).await });
        for (at, block) in bytes.chunks(4096).enumerate() {
            let one_of = |values: &[u8]| values.contains(&block[0]) && block.iter().all(|b| *b == block[0]);
            let written = at % 256 < 2;
            assert!(one_of(if written { &[1, 2] } else { &[1] }), "block {at} after {silent:?}");
        }
        rig.close(&head, pool);
    }
}

#[test]
fn r44_one_slow_drive_does_not_make_reads_slow_and_is_read_again_when_it_is_fast() {
    let rig = Rig::new(45, &[120, 120]);
    let head = rig.world.boot(1);
    rig.create(&head, 2);
    let pool = rig.open(&head).expect("opens");
    let (pool, handle) = rig.volume(&head, pool, "data", 16 << 20, 2);
    let mine = handle.clone();
    let healthy = rig.on(&head, async move {
        put(&mine, 0, 16 << 20, 1).await.expect("written");
        mine.flush().await.expect("flushed");
        reads(&mine, 2000, 4096).await
    });
    let state = || {
        let shown = pool.facts().members.into_iter().find(|m| m.name == "/dev/d0");
        shown.expect("a member").state
    };
    rig.world.disk("/dev/d0").set_slow(100);
    let mine = handle.clone();
    let slow = rig.on(&head, async move { reads(&mine, 20_000, 4096).await });
    let p99 = |took: &[Duration]| took[took.len() * 99 / 100];
    assert!(p99(&slow) <= 3 * p99(&healthy), "{:?} beside {:?}", p99(&slow), p99(&healthy));
    assert_eq!(state(), drystone::pool::state::MemberState::Suspect, "it is shown");
    rig.world.disk("/dev/d0").set_slow(1);
    let mine = handle.clone();
    let core = head.core(0).clone();
    rig.on(&head, async move {
        core.sleep(Duration::from_secs(60)).await;
        reads(&mine, 1000, 4096).await;
    });
    assert_eq!(state(), drystone::pool::state::MemberState::Active, "it has earned its place back");
    drop(handle);
    rig.close(&head, pool);
}

#[test]
fn a_region_that_was_looked_at_before_its_slot_was_allocated_is_rebuilt_too() {
    let rig = Rig::new(46, &[200, 200, 200]);
    let head = rig.world.boot(1);
    let plan = CreatePlan {
        name: "tank".into(),
        disks: rig.disks.iter().map(|p| (p.clone(), p.display().to_string())).collect(),
        copies: 2,
        extent: Some(ByteLen(4 << 20)),
        witness_folder: "/state".into(),
    };
    let core = head.core(0).clone();
    rig.on(&head, async move { pool::create(&core, &plan).await }).expect("created");
    let pool = rig.open(&head).expect("opens");
    let (pool, handle) = rig.volume(&head, pool, "data", 4 << 20, 2);
    let mine = handle.clone();
    rig.on(&head, async move {
        get(&mine, 3 << 20, 4096).await;
        put(&mine, 0, 4096, 7).await.expect("written");
        mine.flush().await.expect("flushed");
    });
    let used = |pool: &Pool| pool.facts().members.into_iter().filter(|m| m.used.0 > 0).collect::<Vec<_>>();
    let lost = used(&pool)[0].id;
    rig.world.disk(format!("/dev/d{}", lost.0)).unplug();
    let mine = handle.clone();
    rig.on(&head, async move { put(&mine, 4096, 4096, 8).await.expect("written") });
    let core = head.core(0).clone();
    let pool = rig.on(&head, async move {
        pool.declare_dead(lost).await.expect("given up");
        core.sleep(Duration::from_secs(30)).await;
        pool
    });
    assert!(used(&pool).iter().all(|m| m.id != lost), "every slot has two copies again");
    drop(handle);
}

/// Writes one block of each stripe unit; gives the places that were refused for lack of space.
async fn fill(handle: &Handle, len: u64) -> Vec<u64> {
    let mut refused = Vec::new();
    for at in (0..len).step_by(128 << 10) {
        match put(handle, at, 4096, 5).await {
            Ok(()) => {}
            Err(Status::NoSpace) => refused.push(at),
            Err(other) => panic!("{other}"),
        }
    }
    refused
}

/// A drive is gone for good; waits until everything was made anew that can be.
async fn lose(core: &Core, pool: &Pool, member: MemberId) {
    core.sleep(Duration::from_secs(10)).await;
    pool.declare_dead(member).await.expect("the loss was noticed");
    core.sleep(Duration::from_secs(120)).await;
}

#[test]
fn a_reserve_that_is_enforced_stays_free_and_heals_the_largest_drive() {
    let rig = Rig::new(7, &[80, 120, 120, 120]);
    let head = rig.world.boot(1);
    rig.create(&head, 2);
    let pool = rig.open(&head).expect("opens");
    let (usable, needed) = (pool.facts().usable[1], pool.facts().heal_needed);
    assert!(needed.0 > 0 && pool.facts().heal_possible);
    pool.enforce_reserve(true);
    let (pool, handle) = rig.volume(&head, pool, "data", usable.0, 2);
    let mine = handle.clone();
    let refused = rig.on(&head, async move { fill(&mine, usable.0).await });
    // Slots of stripes always lie on the same pairs here, so that more must stay free than the sums say.
    let stored = usable.0 - refused.len() as u64 * (128 << 10);
    assert!(stored <= usable.0 - needed.0 && stored > usable.0 / 2, "{stored} of {}", usable.0);
    let facts = pool.facts();
    assert!(facts.heal_possible && matches!(facts.margin, Margin::Spare(_)), "{:?}", facts.margin);
    let (mine, beyond) = (handle.clone(), refused[0]);
    let pool = rig.on(&head, async move {
        put(&mine, 0, 1 << 16, 6).await.expect("overwrites go on");
        assert_eq!(put(&mine, beyond, 4096, 7).await, Err(Status::NoSpace));
        pool.enforce_reserve(false);
        put(&mine, beyond, 4096, 7).await.expect("a warning refuses nothing");
        assert!(!pool.facts().heal_possible, "it was refused for a reason");
        pool.enforce_reserve(true);
        mine.discard(Span::at(0, 8 << 20), WriteFlags::default()).await.expect("trims go on");
        put(&mine, 0, 4096, 7).await.expect("there is room again");
        pool
    });
    assert!(pool.facts().heal_possible, "{:?}", pool.facts().members);
    rig.world.disk("/dev/d1").unplug();
    let pool = rig.on(&head, async move {
        lose(handle.core(), &pool, MemberId(1)).await;
        pool
    });
    assert_eq!(pool.facts().volumes[0].below_promise, ByteLen(0));
}

#[test]
fn what_is_said_of_a_drive_is_what_happens_when_it_dies() {
    for lost in 0..3u16 {
        let rig = Rig::new(8, &[80, 80, 120]);
        let head = rig.world.boot(1);
        rig.create(&head, 2);
        let pool = rig.open(&head).expect("opens");
        let (pool, double) = rig.volume(&head, pool, "double", 70 << 20, 2);
        let (pool, single) = rig.volume(&head, pool, "single", 30 << 20, 1);
        rig.on(&head, async move {
            assert!(fill(&double, 70 << 20).await.is_empty());
            assert!(fill(&single, 30 << 20).await.is_empty());
        });
        let said = pool.facts().members[usize::from(lost)].clone();
        let all: u64 = pool.facts().members.iter().map(|m| m.lost_without.0).sum();
        assert_eq!(pool.facts().protected.0 + all, 100 << 20);
        rig.world.disk(format!("/dev/d{lost}")).unplug();
        let core = head.core(0).clone();
        let pool = rig.on(&head, async move {
            lose(&core, &pool, MemberId(lost)).await;
            pool
        });
        let handle = rig.handle(&head, &pool, "single");
        let unreadable = rig.on(&head, async move {
            let mut units = 0;
            for at in (0..30 << 20).step_by(128 << 10) {
                units += u64::from(handle.read(Span::at(at, 4096)).await.is_err());
            }
            units
        });
        let facts = pool.facts();
        let double = facts.volumes.iter().find(|v| v.name == "double").expect("there");
        assert_eq!(unreadable * (128 << 10), said.lost_without.0, "drive {lost}");
        assert_eq!(double.below_promise, said.does_not_heal, "drive {lost}");
        assert_eq!(said.heals.0 + said.does_not_heal.0 + said.lost_without.0, said.used.0, "drive {lost}");
    }
}
