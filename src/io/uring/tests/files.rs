//! Files and block devices.

use super::*;

#[test]
fn what_is_written_is_read_on_every_kind_of_file() {
    let mut rig = Rig::new();
    for folder in folders() {
        let file = rig.create(&folder.path().join("disk"), 8 << 20);
        for (durable, offset, len) in [(false, 0, 4096), (true, 1 << 20, 1 << 20), (true, 65536, 8192)] {
            let bytes = pattern(len, offset);
            assert_eq!(rig.write(file, offset, &bytes, durable), Ok(()));
            assert_eq!(rig.finish(Op::Flush { file }), Ok(()));
            assert!(rig.read(file, offset, len).unwrap() == bytes, "at {offset}");
        }
        assert_eq!(rig.finish(Op::Close { file }), Ok(()));
        assert_eq!(rig.finish(Op::Flush { file }), Err(Errno::EBADF));
    }
}

#[test]
fn buffers_outside_the_arena_work_too() {
    let mut rig = Rig::new();
    let held: Vec<BufMut> = (0..4).map(|_| rig.pool.take(2 << 20)).collect();
    assert!(!rig.pool.take(1).is_registered(), "the arena is exhausted");
    for folder in folders() {
        let file = rig.create(&folder.path().join("disk"), 1 << 20);
        let bytes = pattern(65536, 1);
        assert_eq!(rig.write(file, 4096, &bytes, true), Ok(()));
        assert!(rig.read(file, 4096, 65536).unwrap() == bytes);
    }
    drop(held);
}

#[test]
fn a_read_ends_short_only_at_the_end_of_the_file() {
    let mut rig = Rig::new();
    for folder in folders() {
        let path = folder.path().join("odd");
        std::fs::write(&path, vec![7; 10_000]).unwrap();
        let (file, facts) = rig.open(&path, Access::Inspect).unwrap();
        assert_eq!(facts.size, ByteLen(10_000));
        assert_eq!(rig.read(file, 0, 16384).unwrap(), vec![7; 10_000]);
        assert_eq!(rig.read(file, 8192, 4096).unwrap(), vec![7; 1808]);
        assert_eq!(rig.read(file, 12288, 4096).unwrap(), Vec::<u8>::new());
        assert_eq!(rig.read(file, 0, 0).unwrap(), Vec::<u8>::new());
        assert_eq!(rig.read(file, u64::MAX - 4095, 4096), Err(Errno::EINVAL));
    }
}

#[test]
fn an_exclusive_open_is_refused_until_the_close_has_ended() {
    let shared = Handles::new();
    let mut rig = Rig::sharing(shared.clone(), UringConfig::default());
    for folder in folders() {
        let path = folder.path().join("disk");
        let first = rig.create(&path, 1 << 20);
        assert_eq!(rig.open(&path, Access::Exclusive).unwrap_err(), Errno::EBUSY);
        let create = Access::ExclusiveCreate { size: ByteLen(5) };
        assert_eq!(rig.open(&path, create).unwrap_err(), Errno::EBUSY);
        let (looking, facts) = rig.open(&path, Access::Inspect).unwrap();
        assert_eq!(facts.size, ByteLen(1 << 20));
        assert!(rig.write(looking, 0, &[0; 4096], false).is_err(), "opened for reading only");
        assert_eq!(rig.finish(Op::Close { file: first }), Ok(()));
        let (again, facts) = rig.open(&path, create).unwrap();
        assert_eq!(facts.size, ByteLen(1 << 20), "what exists keeps its size");
        assert_ne!(again, first, "ids are not used again");
        assert_eq!(rig.finish(Op::Close { file: first }), Err(Errno::EBADF));
    }
}

#[test]
fn only_files_and_block_devices_are_opened() {
    let mut rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [Path::new("/dev/null"), folder.path(), &fifo] {
        for access in [Access::Inspect, Access::Exclusive, Access::ExclusiveCreate { size: ByteLen(1) }] {
            assert_eq!(rig.open(path, access).unwrap_err(), Errno::EINVAL, "{path:?}");
        }
    }
    let missing = folder.path().join("missing");
    assert_eq!(rig.open(&missing, Access::Exclusive).unwrap_err(), Errno::ENOENT);
    assert!(!missing.exists());
}

#[test]
fn facts_of_a_file_are_told() {
    let mut rig = Rig::new();
    for folder in folders() {
        let path = folder.path().join("disk");
        let (file, facts) = rig.open(&path, Access::ExclusiveCreate { size: ByteLen(12_288) }).unwrap();
        assert_eq!((facts.kind, facts.size), (FileKind::RegularFile, ByteLen(12_288)));
        assert!([512, 4096].contains(&facts.logical_sector), "{facts:?}");
        assert!(facts.physical_sector >= facts.logical_sector && facts.discards);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(5).unwrap();
        match rig.run(Op::Size { file }) {
            Done::Size(size) => assert_eq!(size, Ok(ByteLen(5))),
            _ => panic!("Size ends with Size"),
        }
    }
}

#[test]
fn discarded_and_zeroed_spans_read_as_zeros_and_their_neighbours_stay() {
    let mut rig = Rig::new();
    for folder in folders() {
        let path = folder.path().join("disk");
        let file = rig.create(&path, 1 << 20);
        let bytes = vec![9; 1 << 20];
        assert_eq!(rig.write(file, 0, &bytes, false), Ok(()));
        let span = Span::at(65536, 131_072);
        assert_eq!(rig.finish(Op::Zero { file, span }), Ok(()));
        assert_eq!(rig.finish(Op::Discard { file, span: Span::at(524_288, 262_144) }), Ok(()));
        assert_eq!(rig.finish(Op::Discard { file, span: Span::at(0, 0) }), Ok(()));
        assert_eq!(rig.finish(Op::Zero { file, span: Span::at(1 << 63, 4096) }), Err(Errno::EINVAL));
        let all = rig.read(file, 0, 1 << 20).unwrap();
        assert_eq!(all.iter().filter(|b| **b == 0).count(), 131_072 + 262_144);
        assert!(all[65536..196_608].iter().all(|b| *b == 0) && all[524_288..786_432].iter().all(|b| *b == 0));
        assert_eq!(rig.finish(Op::Flush { file }), Ok(()));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&path).unwrap());
        assert!(blocks * 512 <= (1 << 20) - 262_144 + 65536, "the discarded space is back: {blocks}");
    }
}

#[test]
fn more_operations_than_the_queues_hold_all_complete() {
    let config = UringConfig { entries: 4, completions: 8, files: 1 };
    let mut rig = Rig::sharing(Handles::new(), config);
    for folder in folders() {
        let file = rig.create(&folder.path().join("disk"), 4 << 20);
        let mut tokens = Vec::new();
        for at in 0..200u64 {
            let from = rig.pool.copy_of(&vec![u8::try_from(at).unwrap(); 4096]).freeze();
            tokens.push(rig.begin(Op::Write { file, offset: ByteOffset(at * 4096), from, durable: false }));
        }
        for token in tokens {
            assert!(matches!(rig.end(token), Done::Finished(Ok(()))));
        }
        for at in 0..200u64 {
            assert_eq!(rig.read(file, at * 4096, 4096).unwrap(), vec![u8::try_from(at).unwrap(); 4096]);
        }
    }
}

#[test]
fn work_on_memory_files_leaves_room_for_others_and_keeps_the_driver_awake() {
    let mut rig = Rig::new();
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let file = rig.create(&folder.path().join("disk"), 8 << 20);
    let size = 1 << 20;
    for at in 0..4 {
        let into = rig.pool.take(size);
        rig.begin(Op::Read { file, offset: ByteOffset(at << 20), into });
    }
    let before = rig.driver.now();
    rig.driver.park(None);
    assert!(rig.driver.now().since(before) < Duration::from_secs(1));
    let counts: Vec<usize> = (0..4).map(|_| rig.reap()).collect();
    assert!(counts.iter().all(|n| *n <= 2) && counts.iter().sum::<usize>() == 4, "{counts:?}");
}

/// A loop device over a file of its own; None where this user cannot make one.
struct LoopDevice {
    path: std::path::PathBuf,
    _folder: TempDir,
}

impl LoopDevice {
    fn new(size: u64) -> Option<LoopDevice> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("backing");
        std::fs::File::create(&file).unwrap().set_len(size).unwrap();
        let losetup =
            std::process::Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let path = String::from_utf8(losetup.stdout).unwrap();
        let made = losetup.status.success() && path.starts_with("/dev/loop");
        made.then(|| LoopDevice { path: path.trim().into(), _folder: folder })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// Opens a device that was closed. A child process that another test starts at this moment has copies of all
/// descriptors until it executes its program, and keeps the device busy that long.
fn open_soon(rig: &mut Rig, device: &Path, access: Access) -> FileId {
    for _ in 0..200 {
        match rig.open(device, access) {
            Ok((file, _)) => return file,
            Err(errno) => assert_eq!(errno, Errno::EBUSY),
        }
        rig.driver.park(Some(rig.driver.now() + Duration::from_millis(5)));
    }
    panic!("{device:?} stays busy");
}

#[test]
fn a_block_device_is_opened_exclusively_and_its_facts_are_told() {
    let Some(device) = LoopDevice::new(16 << 20) else { return };
    let shared = Handles::new();
    let mut rig = Rig::sharing(shared.clone(), UringConfig::default());
    let (file, facts) = rig.open(&device.path, Access::Exclusive).unwrap();
    assert_eq!((facts.kind, facts.size), (FileKind::BlockDevice, ByteLen(16 << 20)));
    assert_eq!(facts.logical_sector, 512);
    assert!(facts.discards, "a loop device over a file punches holes");
    assert_eq!(rig.open(&device.path, Access::Exclusive).unwrap_err(), Errno::EBUSY);
    assert!(rig.open(&device.path, Access::Inspect).is_ok());
    let bytes = pattern(1 << 20, 8);
    assert_eq!(rig.write(file, 4096, &bytes, true), Ok(()));
    assert_eq!(rig.finish(Op::Flush { file }), Ok(()));
    assert!(rig.read(file, 4096, 1 << 20).unwrap() == bytes);
    assert_eq!(rig.read(file, (16 << 20) - 4096, 65536).unwrap().len(), 4096, "short at the end");
    assert_eq!(rig.read(file, 7, 512), Err(Errno::EINVAL), "unaligned");
    assert_eq!(rig.finish(Op::Close { file }), Ok(()));
    let file = open_soon(&mut rig, &device.path, Access::ExclusiveCreate { size: ByteLen(1) });
    assert_eq!(rig.write(file, 0, &[1; 512], false), Ok(()));
    drop(rig);
    drop(shared);
    // A dropped driver holds nothing.
    open_soon(&mut Rig::new(), &device.path, Access::Exclusive);
}

#[test]
fn block_devices_discard_and_zero_through_the_ring_and_without() {
    for commands in [true, false] {
        let Some(device) = LoopDevice::new(16 << 20) else { return };
        let mut rig = Rig::new();
        rig.driver.commands &= commands;
        let (file, _) = rig.open(&device.path, Access::Exclusive).unwrap();
        for at in 0..4 {
            assert_eq!(rig.write(file, at << 20, &vec![9; 1 << 20], false), Ok(()));
        }
        assert_eq!(rig.finish(Op::Discard { file, span: Span::at(1 << 20, 1 << 20) }), Ok(()));
        assert_eq!(rig.finish(Op::Zero { file, span: Span::at(3 << 20, 65536) }), Ok(()));
        assert_eq!(rig.finish(Op::Discard { file, span: Span::at(7, 512) }), Err(Errno::EINVAL));
        for (at, len, is) in
            [(0, 1 << 20, 9), (1 << 20, 1 << 20, 0), (2 << 20, 1 << 20, 9), (3 << 20, 65536, 0)]
        {
            assert!(rig.read(file, at, len).unwrap().iter().all(|b| *b == is), "at {at}");
        }
        assert_eq!(rig.finish(Op::Close { file }), Ok(()));
    }
}

#[test]
fn registered_buffers_and_files_are_used_as_such() {
    use crate::io::uring::entries::{Arena, entry};
    use crate::io::uring::locals::Target;
    use crate::io::uring::slots::{Reading, Slots, Work};
    let mut rig = Rig::new();
    if !rig.driver.warnings().is_empty() {
        return; // An unprivileged user may lack the memory; then there is nothing to see here.
    }
    let mut slots = Slots::default();
    let mut code = |into: BufMut, arena: Arena| {
        let reading = Reading { file: 1, offset: 0, into, done: 0, direct: None };
        let key = slots.insert(Token(1), Work::Read(reading));
        entry(slots.at(key), Target::Registered(3), arena).get_opcode()
    };
    let (fixed, plain) = (u32::from(opcode::ReadFixed::CODE), u32::from(opcode::Read::CODE));
    assert_eq!(code(rig.pool.take(4096), rig.driver.arena), fixed);
    assert_eq!(code(BufPool::new(0).unwrap().take(4096), rig.driver.arena), plain);
    assert_eq!(code(rig.pool.take(4096), Arena::new(rig.pool.arena().0, 0)), plain);
    let folder = tempfile::tempdir().unwrap();
    let file = rig.create(&folder.path().join("disk"), 4096);
    rig.driver.locals.begin(file.0, &mut rig.driver.ring, &rig.driver.peer).unwrap();
    assert!(matches!(rig.driver.locals.target(file.0), Target::Registered(_)));
    rig.driver.locals.end(file.0, &mut rig.driver.ring);
}
