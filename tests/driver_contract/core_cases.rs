//! Time, parking, and what a core relies on.

use super::rig::{Fixture, Rig};
use drystone::base::prng::Prng;
use drystone::base::units::ByteOffset;
use drystone::io::buf::BufPool;
use drystone::io::driver::{Access, Address, Done, LastingMemory, Op, RecvInto};
use drystone::reactor::net::{Listener, Stream};
use drystone::reactor::{Core, CoreIndex};
use futures_util::future::{Either, select};
use nix::errno::Errno;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(10);

pub fn park_ends_at_its_limit(fixture: &mut impl Fixture) {
    let mut rig = Rig::new(fixture, 1);
    let driver = &mut rig.drivers[0];
    let start = driver.now();
    driver.park(Some(start + SHORT));
    let slept = driver.now().since(start);
    assert!(slept >= SHORT && slept < LONG, "{slept:?}");
    driver.park(Some(start));
    assert!(driver.now().since(start) < LONG, "a limit that has passed ends it at once");
}

pub fn memory_that_lasts_is_one_handle_s_alone_and_keeps_its_words(fixture: &mut impl Fixture) {
    let (rig, path, there) = (Rig::new(fixture, 2), fixture.free_path(), fixture.has_lasting_memory());
    let take = |core: usize, words| rig.drivers[core].lasting_memory(&path, words);
    if !there {
        assert_eq!(take(0, 64).err(), Some(Errno::EOPNOTSUPP));
        assert!(!path.exists(), "nothing is left behind");
        return;
    }
    let all = |memory: &dyn LastingMemory| (0..64).map(|at| memory.load(at)).collect::<Vec<_>>();
    let memory = take(0, 64).unwrap();
    assert_eq!(all(&*memory), [0; 64]);
    memory.store(0, 7);
    memory.store(63, u64::MAX);
    let found = all(&*memory);
    assert_eq!(take(1, 64).err(), Some(Errno::EBUSY));
    drop(memory);
    let memory = take(1, 64).unwrap();
    assert_eq!(all(&*memory), found, "what one handle stored the next one finds");
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| memory.load(64))).is_err());
    drop(memory);
    let memory = take(0, 128).unwrap();
    assert!((0..128).all(|at| memory.load(at) == 0), "another length is another memory");
    memory.store(5, 5);
    memory.remove();
    drop(memory);
    assert_eq!(take(0, 128).unwrap().load(5), 0, "what was removed is not found again");
}

pub fn park_ends_at_an_unpark(fixture: &mut impl Fixture) {
    let mut rig = Rig::new(fixture, 1);
    let driver = &mut rig.drivers[0];
    fixture.unpark_after(driver.unparker(), SHORT);
    let start = driver.now();
    driver.park(Some(start + LONG));
    let slept = driver.now().since(start);
    assert!(slept < LONG, "{slept:?}");
}

pub fn an_unpark_before_the_park_is_not_lost(fixture: &mut impl Fixture) {
    let mut rig = Rig::new(fixture, 1);
    let driver = &mut rig.drivers[0];
    driver.unparker().unpark();
    let start = driver.now();
    driver.park(Some(start + LONG));
    assert!(driver.now().since(start) < LONG);
}

pub fn clocks_go_forward(fixture: &mut impl Fixture) {
    const YEAR_2020_NS: u64 = 1_577_836_800_000_000_000;
    let mut rig = Rig::new(fixture, 1);
    let driver = &mut rig.drivers[0];
    let (now, wall) = (driver.now(), driver.wall_ns());
    driver.park(Some(now + SHORT));
    assert!(driver.now() > now);
    assert!(wall > YEAR_2020_NS && driver.wall_ns() > wall);
}

/// Starts reads and a receive, drops their futures at once, and waits for the core to settle.
async fn drop_futures(core: Core, path: PathBuf) {
    let Done::Opened(opened) = core.op(Op::Open { path, access: Access::Exclusive }).await else {
        panic!("Open ends with Opened")
    };
    let file = opened.unwrap().file;
    for n in 0..16 {
        let read = core.op(Op::Read { file, offset: ByteOffset(n * 4096), into: core.buffers().take(4096) });
        match select(read, pin!(core.sleep(Duration::ZERO))).await {
            Either::Left((Done::Read(result, _), _)) => assert_eq!(result, Ok(4096)),
            Either::Left(_) => panic!("Read ends with Read"),
            Either::Right(_) => {}
        }
    }
    let listener = Listener::bind(&core, Address::Tcp("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let near = Stream::connect(&core, listener.local_address().await.unwrap()).await.unwrap();
    let far = Stream::adopt(&core, listener.accept().await.unwrap().socket);
    let into = RecvInto { first: core.buffers().take(100), second: Some(core.buffers().take(100)) };
    let silent = matches!(select(pin!(far.receive(into)), pin!(core.sleep(SHORT))).await, Either::Right(_));
    assert!(silent, "nothing was sent");
    drop(near);
}

pub fn r19_dropped_futures_give_their_buffers_back(fixture: &mut impl Fixture) {
    let path = fixture.file(1 << 20);
    let buffers = BufPool::new(8 << 20).unwrap();
    let core = Core::new(CoreIndex(0), fixture.driver(&buffers), buffers.clone(), Prng::from_seed(1));
    core.run_until(drop_futures(core.clone(), path));
    core.drain();
    assert_eq!((core.ops_in_flight(), buffers.in_use()), (0, (0, 0)));
}
