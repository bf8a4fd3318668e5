//! Sleeping and waking, handles between cores, and the end of a driver.

use super::*;

#[test]
fn park_returns_at_its_time_and_not_before() {
    let mut rig = Rig::new();
    rig.reap();
    for ms in [0, 1, 30] {
        let until = rig.driver.now() + Duration::from_millis(ms);
        rig.driver.park(Some(until));
        let now = rig.driver.now();
        assert!(now >= until, "woke early");
        assert!(now.since(until) < Duration::from_secs(1));
    }
    rig.driver.park(Some(Instant::from_ns(0)));
}

#[test]
fn an_unpark_from_any_thread_ends_the_next_park_once() {
    let mut rig = Rig::new();
    let unparker = rig.driver.unparker();
    unparker.unpark();
    unparker.unpark();
    rig.driver.park(None);
    unparker.unpark();
    rig.reap();
    rig.driver.park(None);
    let quiet = rig.driver.now() + Duration::from_millis(20);
    rig.driver.park(Some(quiet));
    assert!(rig.driver.now() >= quiet, "two unparks before a park are one");
    for _ in 0..50 {
        let unparker = unparker.clone();
        let other = std::thread::spawn(move || unparker.unpark());
        rig.driver.park(None);
        other.join().unwrap();
    }
}

#[test]
fn a_driver_wakes_for_nothing_but_a_reason() {
    let mut rig = Rig::new();
    rig.reap();
    let switches = || nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
    let before = switches().voluntary_context_switches();
    rig.driver.park(Some(rig.driver.now() + Duration::from_millis(200)));
    let after = switches().voluntary_context_switches();
    assert!(after - before <= 3, "{} wake-ups in an idle sleep", after - before);
}

#[test]
fn ids_of_the_wrong_kind_are_refused() {
    let mut rig = Rig::new();
    let folder = tempfile::tempdir().unwrap();
    let file = rig.create(&folder.path().join("disk"), 4096);
    let (listener, _) = rig.listen(loopback());
    assert_eq!(rig.read(FileId(listener.0), 0, 512), Err(Errno::EBADF));
    assert_eq!(rig.finish(Op::Close { file: FileId(listener.0) }), Err(Errno::EBADF));
    let span = Span::at(0, 512);
    assert_eq!(rig.finish(Op::Discard { file: FileId(listener.0), span }), Err(Errno::EBADF));
    assert_eq!(rig.finish(Op::Zero { file: FileId(77), span }), Err(Errno::EBADF));
    let accept = rig.begin(Op::Accept { socket: SocketId(file.0) });
    assert_eq!(rig.accepted(accept).unwrap_err(), Errno::ENOTSOCK);
    assert_eq!(rig.finish(Op::CloseSocket { socket: SocketId(file.0) }), Err(Errno::EBADF));
    assert_eq!(rig.finish(Op::Flush { file }), Ok(()), "none of this closed it");
}

#[test]
fn a_handle_serves_every_core_and_closes_when_the_last_lets_go() {
    let shared = Handles::new();
    let mut rig = Rig::sharing(shared.clone(), UringConfig::default());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let file = rig.create(&path, 1 << 20);
    assert_eq!(rig.write(file, 0, &[5; 4096], false), Ok(()));
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (quit, may_quit) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        let mut rig = Rig::sharing(shared, UringConfig::default());
        assert_eq!(rig.read(file, 0, 4096).unwrap(), vec![5; 4096]);
        ready.send(()).unwrap();
        // Asleep, as a core with nothing to do: only the close can wake it.
        rig.driver.park(None);
        rig.reap();
        assert_eq!(rig.read(file, 0, 4096), Err(Errno::EBADF));
        may_quit.recv().unwrap();
    });
    is_ready.recv().unwrap();
    assert_eq!(rig.finish(Op::Close { file }), Ok(()));
    assert!(rig.open(&path, Access::Exclusive).is_ok(), "the lock is gone when the close has ended");
    quit.send(()).unwrap();
    other.join().unwrap();
}

#[test]
fn a_dropped_driver_gets_its_buffers_back_first() {
    let shared = Handles::new();
    let folder = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let mut rig = Rig::sharing(shared.clone(), UringConfig::default());
        let (near, far, _) = rig.pair(loopback());
        let path = folder.path().join(format!("disk{round}"));
        let file = rig.create(&path, 1 << 20);
        let into = RecvInto { first: rig.pool.take(4096), second: Some(rig.pool.take(4096)) };
        rig.begin(Op::Recv { socket: near, into, least: 1 });
        let big: Vec<Buf> = (0..8).map(|_| rig.pool.zeroes(1 << 20)).collect();
        rig.begin(Op::Send { socket: far, from: big });
        rig.begin(Op::Accept { socket: near });
        for at in 0..32 {
            let from = rig.pool.copy_of(&[3; 4096]).freeze();
            rig.begin(Op::Write { file, offset: ByteOffset(at * 4096), from, durable: true });
        }
        if round % 2 == 0 {
            rig.reap();
        }
        let Rig { driver, pool, ended, .. } = rig;
        drop(ended);
        drop(driver);
        assert_eq!(pool.in_use(), (0, 0), "nothing was leaked");
    }
}

#[test]
fn setup_errors_say_what_to_do() {
    let blocked = SetupError::Blocked { errno: Errno::EPERM, disabled: Some(2) };
    assert_eq!(blocked.code(), "URING_BLOCKED");
    assert_eq!(blocked.to_string(), "this kernel refuses io_uring (io_uring_setup: Operation not permitted)");
    assert!(blocked.facts()[0].ends_with("-> sudo sysctl kernel.io_uring_disabled=0"));
    let low = Warning::MemlockLow { arena: 64 << 20, limit: Some(8 << 20) };
    assert_eq!(low.to_string(), "64 MiB of buffers cannot be locked (limit 8 MiB)");
}

#[test]
fn a_core_never_reads_another_file_through_a_recycled_descriptor() {
    let shared = Handles::new();
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::sharing(shared.clone(), UringConfig::default());
    for name in [1u8, 2] {
        std::fs::write(folder.path().join(name.to_string()), vec![name; 65536]).unwrap();
    }
    // The file to read: its id, and in the lowest bit which one it is.
    let (current, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (reading, stopping) = (current.clone(), stop.clone());
    let reader = std::thread::spawn(move || {
        let mut rig = Rig::sharing(shared, UringConfig::default());
        let (mut right, mut closed) = (0, 0);
        while !stopping.load(Ordering::Relaxed) {
            let now = reading.load(Ordering::Acquire);
            match rig.read(FileId(now >> 1), 0, 4096) {
                Ok(bytes) => {
                    assert_eq!(bytes, vec![u8::try_from(now & 1).unwrap() + 1; 4096], "of file {now}");
                    right += 1;
                }
                Err(errno) => {
                    assert_eq!(errno, Errno::EBADF);
                    closed += 1;
                }
            }
        }
        (right, closed)
    });
    for round in 0..400u32 {
        let which = round & 1;
        let path = folder.path().join((which + 1).to_string());
        let (file, _) = rig.open(&path, Access::Inspect).unwrap();
        current.store(file.0 << 1 | which, Ordering::Release);
        rig.driver.park(Some(rig.driver.now() + Duration::from_micros(300)));
        assert_eq!(rig.finish(Op::Close { file }), Ok(()));
    }
    stop.store(true, Ordering::Relaxed);
    let (right, closed) = reader.join().unwrap();
    assert!(right > 50 && closed > 0, "read {right} times, too late {closed} times");
}
