//! The simulated world does what its module comment says.

mod network;

use super::*;
use crate::base::units::{ByteLen, ByteOffset, Span};
use crate::io::driver::{Access, Done, FileId, Op};
use crate::reactor::Core;
use nix::errno::Errno;
use std::time::Duration;

const DRIVE: &str = "/dev/a";
const LIMIT: Duration = Duration::from_secs(60);

async fn open(core: &Core, access: Access) -> Result<FileId, Errno> {
    match core.op(Op::Open { path: DRIVE.into(), access }).await {
        Done::Opened(result) => result.map(|o| o.file),
        _ => unreachable!(),
    }
}

async fn finished(core: &Core, op: Op) -> Result<(), Errno> {
    match core.op(op).await {
        Done::Finished(result) => result,
        _ => unreachable!(),
    }
}

async fn write(
    core: &Core,
    file: FileId,
    offset: u64,
    tag: u8,
    len: usize,
    durable: bool,
) -> Result<(), Errno> {
    let mut buf = core.buffers().take(len);
    buf.as_mut_slice().fill(tag);
    finished(core, Op::Write { file, offset: ByteOffset(offset), from: buf.freeze(), durable }).await
}

async fn read(core: &Core, file: FileId, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let into = core.buffers().take(len);
    match core.op(Op::Read { file, offset: ByteOffset(offset), into }).await {
        Done::Read(result, buf) => result.map(|n| buf.as_slice()[..n].to_vec()),
        _ => unreachable!(),
    }
}

fn world_with_drive(seed: u64) -> (World, DiskHandle) {
    let world = World::new(seed);
    let drive = world.add_disk(DRIVE, DiskShape::flash(ByteLen(1 << 20)));
    (world, drive)
}

/// Sectors of `tag` in a 4 KiB block.
fn sectors_of_tag(block: &[u8], tag: u8) -> usize {
    block.chunks(512).filter(|sector| sector.iter().all(|b| *b == tag)).count()
}

/// Flushes tag 1 into block 0, writes tag 2 durably into block 1, tag 3 into block 0 without a flush; crashes.
fn crash_run(seed: u64, crash: Crash) -> (usize, usize, usize) {
    let (world, drive) = world_with_drive(seed);
    let head = world.boot(1);
    let core = head.core(0).clone();
    let task = async move {
        let file = open(&core, Access::Exclusive).await.unwrap();
        write(&core, file, 0, 1, 4096, false).await.unwrap();
        finished(&core, Op::Flush { file }).await.unwrap();
        write(&core, file, 4096, 2, 4096, true).await.unwrap();
        write(&core, file, 0, 3, 4096, false).await.unwrap();
    };
    world.run_on(&head.cores, head.core(0), LIMIT, task).unwrap();
    match crash {
        Crash::Kill => world.kill(head.id),
        Crash::PowerCut => world.power_cut(),
    }
    assert_eq!(world.bury(head), 0);
    let (first, second) = (drive.peek(ByteOffset(0), 4096), drive.peek(ByteOffset(4096), 4096));
    (sectors_of_tag(&first, 1), sectors_of_tag(&first, 3), sectors_of_tag(&second, 2))
}

#[test]
fn a_power_cut_keeps_what_was_flushed_or_durable_and_tears_the_rest() {
    let (mut kept, mut lost, mut torn) = (false, false, false);
    for seed in 0..100 {
        let (old, new, durable) = crash_run(seed, Crash::PowerCut);
        assert_eq!((old + new, durable), (8, 8), "seed {seed}");
        kept |= new == 8;
        lost |= new == 0;
        torn |= (1..8).contains(&new);
    }
    assert_eq!((kept, lost, torn), (true, true, true));
}

#[test]
fn a_kill_keeps_all_that_completed() {
    for seed in 0..20 {
        assert_eq!(crash_run(seed, Crash::Kill), (0, 8, 8), "seed {seed}");
    }
}

#[test]
fn a_write_in_flight_when_power_goes_may_be_stored_in_part() {
    let mut counts = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let (world, drive) = world_with_drive(seed);
        world.crash_at_change(1, Crash::PowerCut);
        let head = world.boot(1);
        let core = head.core(0).clone();
        let task = async move {
            let file = open(&core, Access::Exclusive).await.unwrap();
            write(&core, file, 0, 1, 4096, true).await.unwrap();
        };
        let ended = world.run_on(&head.cores, head.core(0), LIMIT, task);
        assert_eq!(ended, Err(Stop::Crashed));
        assert_eq!(world.bury(head), 0);
        counts.insert(sectors_of_tag(&drive.peek(ByteOffset(0), 4096), 1));
    }
    assert!(counts.contains(&0) && counts.contains(&8) && counts.len() > 2, "{counts:?}");
}

/// Two cores write and read at random for a while; returns the digest.
fn noisy_run(seed: u64) -> u64 {
    let (world, _) = world_with_drive(seed);
    let head = world.boot(2);
    let core = head.core(0).clone();
    let file =
        world.run_on(&head.cores, head.core(0), LIMIT, async move { open(&core, Access::Exclusive).await });
    let file = file.unwrap().unwrap();
    for core in &head.cores {
        let core = core.clone();
        core.clone().spawn(async move {
            for tag in 0..50 {
                let offset = core.with_prng(|p| p.below(64)) * 4096;
                write(&core, file, offset, tag, 8192, tag % 7 == 0).await.unwrap();
                read(&core, file, offset, 4096).await.unwrap();
            }
        });
    }
    world.pass(&head.cores, Duration::from_millis(100)).unwrap();
    world.power_cut();
    world.bury(head);
    world.digest()
}

#[test]
fn the_same_seed_gives_the_same_digest_and_another_seed_another() {
    assert_eq!(noisy_run(5), noisy_run(5));
    assert_ne!(noisy_run(5), noisy_run(6));
}

#[test]
fn a_hung_drive_answers_nothing_until_it_is_released() {
    let (world, drive) = world_with_drive(1);
    let head = world.boot(1);
    let core = head.core(0).clone();
    let file = world
        .run_on(
            &head.cores,
            head.core(0),
            LIMIT,
            async move { open(&core, Access::Exclusive).await.unwrap() },
        )
        .unwrap();
    drive.hang();
    let core = head.core(0).clone();
    let stuck =
        world.run_on(&head.cores, head.core(0), LIMIT, async move { read(&core, file, 0, 512).await });
    assert!(matches!(stuck, Err(Stop::NoProgress { .. })), "{stuck:?}");
    let released = drive.clone();
    world.after(Duration::from_secs(3), move |_| released.release());
    let core = head.core(0).clone();
    let read = world.run_on(&head.cores, head.core(0), LIMIT, async move { read(&core, file, 0, 512).await });
    assert_eq!(read.unwrap().unwrap().len(), 512);
    assert!(world.now().as_ns() > 3_000_000_000);
    assert_eq!(world.bury(head), 0);
}

#[test]
fn an_unplugged_drive_is_gone_for_its_files_and_comes_back_as_an_old_image() {
    let (world, drive) = world_with_drive(1);
    let head = world.boot(1);
    let (core, handle) = (head.core(0).clone(), drive.clone());
    let task = async move {
        let file = open(&core, Access::Exclusive).await.unwrap();
        write(&core, file, 0, 1, 4096, true).await.unwrap();
        let old = handle.snapshot();
        write(&core, file, 0, 2, 4096, true).await.unwrap();
        handle.unplug();
        assert_eq!(read(&core, file, 0, 4096).await, Err(Errno::ENODEV));
        assert_eq!(open(&core, Access::Inspect).await, Err(Errno::ENOENT));
        handle.plug();
        assert_eq!(read(&core, file, 0, 4096).await, Err(Errno::ENODEV));
        let file = open(&core, Access::Exclusive).await.unwrap();
        assert_eq!(read(&core, file, 0, 4096).await.unwrap(), vec![2; 4096]);
        handle.unplug();
        handle.restore(&old);
        handle.plug();
        let file = open(&core, Access::Exclusive).await.unwrap();
        assert_eq!(read(&core, file, 0, 4096).await.unwrap(), vec![1; 4096]);
    };
    world.run_on(&head.cores, head.core(0), LIMIT, task).unwrap();
    assert_eq!(world.bury(head), 0);
}

#[test]
fn dials_lose_misdirect_and_fail_and_tell_of_it() {
    let (world, drive) = world_with_drive(3);
    let head = world.boot(1);
    let core = head.core(0).clone();
    let handle = drive.clone();
    let task = async move {
        let file = open(&core, Access::Exclusive).await.unwrap();
        handle.set_dials(Dials { lost_write: 1000, ..Dials::default() });
        write(&core, file, 0, 1, 4096, true).await.unwrap();
        assert_eq!(read(&core, file, 0, 4096).await.unwrap(), vec![0; 4096]);
        handle.set_dials(Dials { misdirected_write: 1000, ..Dials::default() });
        write(&core, file, 1 << 19, 2, 4096, true).await.unwrap();
        handle.set_dials(Dials { read_error: 1000, sticky: 1000, ..Dials::default() });
        assert_eq!(read(&core, file, 0, 4096).await, Err(Errno::EIO));
        handle.set_dials(Dials::default());
        assert_eq!(read(&core, file, 512, 512).await, Err(Errno::EIO), "it sticks");
        write(&core, file, 0, 3, 4096, false).await.unwrap();
        assert_eq!(read(&core, file, 0, 4096).await.unwrap(), vec![3; 4096], "writing heals");
        handle.set_dials(Dials {
            write_error: 1000,
            area: Some(vec![Span::at(8192, 4096)]),
            ..Dials::default()
        });
        write(&core, file, 0, 4, 4096, false).await.unwrap();
        assert_eq!(write(&core, file, 8192, 4, 4096, false).await, Err(Errno::EIO), "only in the area");
    };
    world.run_on(&head.cores, head.core(0), LIMIT, task).unwrap();
    let incidents = world.incidents();
    assert_eq!(
        incidents.iter().map(|i| i.what).collect::<Vec<_>>(),
        ["lost write", "misdirected write", "read error", "write error"]
    );
    let struck = incidents[1].struck;
    assert_ne!(struck, incidents[1].asked);
    assert_eq!(drive.peek(struck.offset(), 4096), vec![2; 4096]);
    assert_eq!(world.bury(head), 0);
}

#[test]
fn memory_that_is_not_aligned_is_refused_as_by_a_strict_drive() {
    let (world, drive) = world_with_drive(1);
    let head = world.boot(1);
    let core = head.core(0).clone();
    let task = async move {
        let file = open(&core, Access::Exclusive).await.unwrap();
        for (start, result) in [(28, Err(Errno::EINVAL)), (512, Ok(()))] {
            let mut buf = core.buffers().take(8192);
            buf.set_window(start..start + 4096);
            buf.as_mut_slice().fill(1);
            let op = Op::Write { file, offset: ByteOffset(0), from: buf.freeze(), durable: false };
            assert_eq!(finished(&core, op).await, result);
        }
    };
    world.run_on(&head.cores, head.core(0), LIMIT, task).unwrap();
    assert_eq!(drive.peek(ByteOffset(0), 4096), vec![1; 4096]);
    assert_eq!(world.bury(head), 0);
}

#[test]
fn a_run_without_end_is_told_from_one_that_waits() {
    let (world, _) = world_with_drive(1);
    let head = world.boot(1);
    let core = head.core(0).clone();
    let slow = world.run_on(&head.cores, head.core(0), LIMIT, async move {
        core.sleep(Duration::from_secs(3600)).await;
    });
    assert!(matches!(slow, Err(Stop::Deadline { .. })), "{slow:?}");
    let spinning = world.run_on(&head.cores, head.core(0), Duration::from_secs(3600), async {
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            std::task::Poll::<()>::Pending
        })
        .await;
    });
    assert!(matches!(spinning, Err(Stop::Spinning { .. })), "{spinning:?}");
}
