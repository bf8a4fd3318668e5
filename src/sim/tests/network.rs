//! Connections: limits, faults, and what the ends of lives do to them.

use crate::io::driver::{Address, RecvInto};
use crate::reactor::Core;
use crate::reactor::net::{Listener, Stream};
use crate::sim::{NetDials, Place, Process, Stop, World};
use nix::errno::Errno;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn address() -> Address {
    Address::Tcp("10.0.0.1:10809".parse().unwrap())
}

/// A head that holds what it accepted, and a client elsewhere that is connected to it.
struct Pair {
    world: World,
    head: Process,
    client: Process,
    cores: Vec<Core>,
    near: Rc<Stream>,
    far: Rc<Stream>,
}

fn pair(seed: u64, dials: NetDials) -> Pair {
    let world = World::new(seed);
    world.set_net(dials);
    let (head, client) = (world.boot(1), world.boot_at(Place::Elsewhere, 1));
    let cores = [&head.cores[..], &client.cores[..]].concat();
    let accepted: Rc<RefCell<Option<Stream>>> = Rc::default();
    let (slot, core) = (accepted.clone(), head.core(0).clone());
    let listening = world
        .run_on(&cores, head.core(0), LIMIT, async move { Listener::bind(&core, address()).await.unwrap() });
    let (listening, core) = (listening.unwrap(), head.core(0).clone());
    head.core(0).spawn(async move {
        let accepted = listening.accept().await.unwrap();
        *slot.borrow_mut() = Some(Stream::adopt(&core, accepted.socket));
    });
    let core = client.core(0).clone();
    let near = world.run_on(&cores, client.core(0), LIMIT, async move {
        Stream::connect(&core, address()).await.unwrap()
    });
    world.run(&cores, LIMIT, || accepted.borrow().is_some()).unwrap();
    let far = accepted.borrow_mut().take().unwrap();
    Pair { world, head, client, cores, near: Rc::new(near.unwrap()), far: Rc::new(far) }
}

impl Pair {
    fn bury(self) {
        let Pair { world, head, client, near, far, .. } = self;
        // A stream that is dropped hangs up, on a core that is still there.
        drop((near, far));
        assert_eq!((world.bury(head), world.bury(client)), (0, 0));
    }
}

async fn receive(stream: &Stream, len: usize) -> Result<Vec<u8>, Errno> {
    let into = RecvInto { first: stream.core().buffers().take(len), second: None };
    let (result, into) = stream.receive(into).await;
    result.map(|n| into.first.as_slice()[..n].to_vec())
}

async fn send(stream: &Stream, bytes: &[u8]) -> Result<(), Errno> {
    let from = vec![stream.core().buffers().copy_of(bytes).freeze()];
    stream.send(from).await.0
}

#[test]
fn single_bytes_arrive_in_order() {
    for seed in 0..10 {
        let pair = pair(seed, NetDials { tiny: 1000, window_max: 5, ..NetDials::default() });
        let bytes: Vec<u8> = (0..200).collect();
        let (near, sent) = (pair.near.clone(), bytes.clone());
        pair.client.core(0).spawn(async move { send(&near, &sent).await.unwrap() });
        let far = pair.far.clone();
        let all = pair.world.run_on(&pair.cores, pair.head.core(0), LIMIT, async move {
            let mut all = Vec::new();
            while all.len() < 200 {
                let part = receive(&far, 200).await.unwrap();
                assert!(part.len() <= 5);
                all.extend(part);
            }
            all
        });
        assert_eq!(all.unwrap(), bytes, "seed {seed}");
        pair.bury();
    }
}

#[test]
fn a_peer_that_does_not_read_stops_the_sender() {
    let pair = pair(1, NetDials::default());
    let near = pair.near.clone();
    let sending = pair
        .world
        .run_on(&pair.cores, pair.client.core(0), LIMIT, async move { send(&near, &vec![7; 1 << 20]).await });
    assert!(matches!(sending, Err(Stop::NoProgress { .. })), "{sending:?}");
    pair.bury();
}

#[test]
fn a_clogged_connection_is_silent_until_it_is_unclogged() {
    let pair = pair(1, NetDials::default());
    let connection = pair.world.connections()[0];
    pair.world.clog(connection);
    let near = pair.near.clone();
    pair.client.core(0).spawn(async move { send(&near, b"hello").await.unwrap() });
    pair.world.after(Duration::from_secs(9), move |world| world.unclog(connection));
    let far = pair.far.clone();
    let task = async move { receive(&far, 1).await };
    let heard = pair.world.run_on(&pair.cores, pair.head.core(0), LIMIT, task);
    assert_eq!(heard.unwrap(), Ok(b"h".to_vec()));
    assert!(pair.world.now().as_ns() > 9_000_000_000);
    pair.bury();
}

#[test]
fn what_was_on_its_way_when_a_connection_was_clogged_comes_late_though_its_sender_closed() {
    let Pair { world, head, client, cores, near, far } = pair(1, NetDials::default());
    let connection = world.connections()[0];
    let silent = world.clone();
    client.core(0).spawn(async move {
        let core = near.core().clone();
        {
            let sending = std::pin::pin!(send(&near, b"hello"));
            let clogging = std::pin::pin!(async {
                core.sleep(Duration::from_micros(10)).await;
                silent.clog(connection);
                core.sleep(Duration::from_secs(1)).await;
            });
            futures_util::future::select(sending, clogging).await;
        }
        drop(near);
    });
    world.after(Duration::from_secs(9), move |world| world.unclog(connection));
    let receiver = far.clone();
    let heard = world.run_on(&cores, head.core(0), LIMIT, async move { receive(&receiver, 5).await });
    assert_eq!(heard.unwrap().map(|bytes| bytes[0]), Ok(b'h'));
    assert!(world.now().as_ns() > 9_000_000_000);
    drop(far);
    assert_eq!((world.bury(head), world.bury(client)), (0, 0));
}

#[test]
fn a_machine_that_vanishes_is_heard_of_late() {
    let pair = pair(1, NetDials::default());
    pair.world.vanish(pair.client.id);
    let began = pair.world.now();
    let far = pair.far.clone();
    let task = async move { receive(&far, 1).await };
    let heard = pair.world.run_on(&pair.cores, pair.head.core(0), LIMIT, task);
    assert_eq!(heard.unwrap(), Err(Errno::ECONNRESET));
    assert!(pair.world.now() > began);
    pair.bury();
}

#[test]
fn a_reset_ends_both_ends() {
    let pair = pair(1, NetDials::default());
    let connection = pair.world.connections()[0];
    pair.world.after(Duration::from_millis(1), move |world| world.reset_connection(connection));
    for (stream, core) in [(&pair.near, pair.client.core(0)), (&pair.far, pair.head.core(0))] {
        let stream = stream.clone();
        let task = async move { receive(&stream, 1).await };
        assert_eq!(pair.world.run_on(&pair.cores, core, LIMIT, task).unwrap(), Err(Errno::ECONNRESET));
    }
    assert!(pair.world.connections().is_empty());
    pair.bury();
}

/// What the client's receive ends with when the head's life ends, and after how much time. `says` is sent first.
fn receive_over(
    seed: u64,
    says: &'static [u8],
    end: impl Fn(&World, &Process),
) -> (Result<Vec<u8>, Errno>, Duration) {
    let pair = pair(seed, NetDials::default());
    let near = pair.near.clone();
    let start = pair.world.now();
    end(&pair.world, &pair.head);
    let speaker = near.clone();
    pair.client.core(0).spawn(async move {
        // How it ends does not matter: nobody is there to take it.
        let _ = send(&speaker, says).await;
    });
    let task = async move { receive(&near, 1).await };
    let heard = pair.world.run_on(&pair.client.cores, pair.client.core(0), LIMIT, task).unwrap();
    let took = pair.world.now().since(start);
    pair.bury();
    (heard, took)
}

#[test]
fn a_killed_process_hangs_up_and_a_dark_machine_is_noticed_late() {
    let mut late = false;
    for seed in 0..10 {
        let (heard, took) = receive_over(seed, b"", |world, head| world.kill(head.id));
        assert_eq!(heard, Ok(Vec::new()));
        assert!(took < Duration::from_millis(10), "{took:?}");
        let (heard, took) = receive_over(seed, b"anybody there?", |world, _| world.power_cut());
        assert_eq!(heard, Err(Errno::ECONNRESET));
        late |= took > Duration::from_secs(1);
    }
    assert!(late);
}

#[test]
fn the_next_life_listens_at_the_same_address() {
    let pair = pair(1, NetDials::default());
    pair.world.power_cut();
    let head = pair.world.boot(1);
    let core = head.core(0).clone();
    let task = async move { Listener::bind(&core, address()).await.map(|_| ()) };
    assert_eq!(pair.world.run_on(&head.cores, head.core(0), LIMIT, task), Ok(Ok(())));
    assert_eq!(pair.world.bury(head), 0);
    pair.bury();
}
