//! Whole associations: what comes back is what was written, and every fault surfaces as an error.

use super::super::{Host, HostError, HostOptions, Queue, Refusal, ZeroWish};
use super::controller::{Manner, SIZE, core};
use crate::base::limits::CHUNK_MAX;
use crate::base::units::Span;
use crate::block::Payload;
use crate::io::driver::Address;
use crate::nvmf::command::Status;
use crate::nvmf::pdu::Digests;
use crate::reactor::Core;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

const SUBSYSTEM: &str = "nqn.2014-08.org.nvmexpress:uuid:0f3c2b1a-5d4e-4f60-8a7b-9c8d7e6f5a4b";

fn options(digests: Digests) -> HostOptions {
    HostOptions { digests, depth: 8, stall: Duration::from_secs(10), ..HostOptions::of(Uuid::from_u128(1)) }
}

async fn connect(core: &Core, digests: Digests) -> Result<Host, HostError> {
    let address = Address::Tcp("127.0.0.1:1".parse().unwrap());
    Host::connect(core, address, SUBSYSTEM, options(digests)).await
}

/// A queue to the first namespace.
async fn queue(core: &Core, digests: Digests) -> Result<(Host, Queue), HostError> {
    let host = connect(core, digests).await?;
    let queue = host.queue(&host.namespace(1).await?).await?;
    Ok((host, queue))
}

fn pattern(core: &Core, len: usize, seed: u8) -> Payload {
    let mut buf = core.buffers().take(len);
    buf.as_mut_slice().iter_mut().enumerate().for_each(|(at, b)| *b = (at % 251) as u8 ^ seed);
    Payload::one(buf.freeze())
}

/// Runs something on a core with a controller of this manner; every buffer must come back.
fn with_controller<T: 'static, F: Future<Output = T> + 'static>(
    manner: Manner,
    work: impl FnOnce(Core) -> F,
) -> T {
    let (core, _) = core(manner);
    let outcome = core.run_until(work(core.clone()));
    core.drain();
    assert_eq!(core.buffers().in_use(), (0, 0), "every buffer came back");
    outcome
}

/// Writes and reads across buffer boundaries, several at a time, does everything else once, and ends in order.
async fn session(core: Core, digests: Digests) -> Result<(), HostError> {
    let (host, queue) = queue(&core, digests).await?;
    let spans = [Span::at(CHUNK_MAX - 1024, 300_032), Span::at(512, 512), Span::at(2 << 20, 299_520)];
    for (seed, span) in (1u8..).zip(spans) {
        queue.write(span, pattern(&core, span.len().as_usize(), seed), seed == 1).await?;
    }
    queue.flush().await?;
    let reads = (1u8..).zip(spans).map(|(seed, span)| {
        let (queue, core) = (queue.clone(), core.clone());
        async move {
            let got = queue.read(span).await?.to_vec();
            assert!(got == pattern(&core, got.len(), seed).to_vec() && got.len() == span.len().as_usize());
            Ok::<(), HostError>(())
        }
    });
    futures_util::future::try_join_all(reads).await?;
    assert!(queue.compare(spans[2], pattern(&core, 299_520, 3)).await?);
    assert!(!queue.compare(spans[2], pattern(&core, 299_520, 4)).await?);
    queue.write_zeroes(spans[1], ZeroWish { fua: true, deallocate: true }).await?;
    queue.deallocate(&[spans[0], Span::at(0, 0), spans[2]]).await?;
    assert!(queue.read(Span::at(0, 3 << 20)).await?.to_vec().iter().all(|b| *b == 0));
    host.disconnect().await
}

fn every_digest() -> [Digests; 4] {
    [0, 1, 2, 3].map(|bits| Digests { header: bits & 1 == 1, data: bits & 2 == 2 })
}

#[test]
fn what_was_written_is_read_back_in_every_manner_of_moving_data() {
    let usual = Manner::default();
    for manner in [
        usual,
        Manner { success: false, ..usual },
        Manner { data_out: 4100, ..usual },
        Manner { request: 10_240, data_max: 4096, ..usual },
        Manner { transfer_power: 1, capsule: 0, ..usual },
        Manner { transfer_power: 0, capsule: 1 << 20, ..usual },
    ] {
        for digests in every_digest() {
            for piece in [usize::MAX, 4099] {
                let manner = Manner { piece, ..manner };
                let outcome = with_controller(manner, |core| session(core, digests));
                assert_eq!(outcome, Ok(()), "{digests:?} {piece}");
            }
        }
    }
    let slow = Manner { piece: 77, data_out: 5000, ..usual };
    assert_eq!(with_controller(slow, |core| session(core, Digests { header: true, data: true })), Ok(()));
}

#[test]
fn writes_that_fit_lie_behind_their_command_and_others_are_asked_for() {
    let (core, seen) = core(Manner { capsule: 4096, data_max: 8192, ..Manner::default() });
    core.run_until({
        let core = core.clone();
        async move {
            let (_host, queue) = queue(&core, Digests::default()).await.unwrap();
            queue.write(Span::at(0, 4096), pattern(&core, 4096, 1), false).await.unwrap();
            queue.write(Span::at(0, 20_480), pattern(&core, 20_480, 1), false).await.unwrap();
        }
    });
    core.drain();
    assert_eq!(seen.borrow().commands, [(1, 4096), (1, 20_480)]);
    assert_eq!(seen.borrow().transfers, [8192, 8192, 4096]);
}

#[test]
fn a_controller_that_closes_anywhere_gives_an_error_and_leaks_nothing() {
    // What a session receives at least: its reads.
    let total = 2 * 128 + 3 * 4096 + 300_032 + 512 + 299_520 + (3 << 20);
    let near: Vec<usize> = (0..700)
        .step_by(3)
        .chain((700..10_000).step_by(501))
        .chain((10_000..total).step_by(90_011))
        .collect();
    for digests in [Digests::default(), Digests { header: true, data: true }] {
        for end_after in near.iter().copied() {
            let manner = Manner { end_after, ..Manner::default() };
            let outcome = with_controller(manner, |core| session(core, digests));
            assert!(outcome.is_err(), "closed after {end_after} bytes: {outcome:?}");
        }
    }
}

#[test]
fn a_controller_that_falls_silent_is_given_up_at_every_step() {
    // Connect, CAP, CC, CSTS, VS, Identify, queues; namespace, descriptors; Connect of the queue; requests.
    for silent_after in 0..16 {
        let started = Rc::new(Cell::new(0));
        let manner = Manner { silent_after, ..Manner::default() };
        let outcome = with_controller(manner, {
            let started = started.clone();
            |core| async move {
                let outcome = session(core.clone(), Digests::default()).await;
                started.set(core.now().as_ns());
                outcome
            }
        });
        assert_eq!(outcome, Err(HostError::Stalled), "after {silent_after} answers");
        assert!(started.get() <= 25_000_000_000, "every wait is bounded: {}", started.get());
    }
    let mute =
        with_controller(Manner { piece: 0, ..Manner::default() }, |core| session(core, Digests::default()));
    assert_eq!(mute, Err(HostError::Stalled), "no ICResp");
}

#[test]
fn section_15_the_controller_hears_from_an_idle_host_twice_in_each_timeout() {
    let (core, seen) = core(Manner::default());
    core.run_until({
        let core = core.clone();
        async move {
            let (_host, queue) = queue(&core, Digests::default()).await.unwrap();
            core.sleep(Duration::from_secs(26)).await;
            queue.read(Span::at(0, 4096)).await.unwrap();
        }
    });
    core.drain();
    assert_eq!(seen.borrow().keep_alives, 10);
    assert_eq!(seen.borrow().connections, 2);
}

#[test]
fn an_association_whose_keep_alive_fails_is_lost_with_its_queues() {
    let outcome = with_controller(Manner { alive: 1, ..Manner::default() }, |core| async move {
        let (host, queue) = queue(&core, Digests::default()).await.unwrap();
        let error = queue.end().await;
        assert_eq!(host.namespaces().await, Err(error.clone()));
        assert_eq!(queue.read(Span::at(0, 4096)).await.err(), Some(error.clone()));
        (error, core.now().as_ns() / 1_000_000_000)
    });
    let (HostError::Command(failure), 5) = outcome else { panic!("{outcome:?}") };
    assert_eq!(failure.status, Status::INTERNAL);
}

#[test]
fn queues_live_as_long_as_somebody_uses_them_and_so_does_the_association() {
    let (core, seen) = core(Manner::default());
    core.run_until({
        let core = core.clone();
        async move {
            let (host, queue) = queue(&core, Digests::default()).await.unwrap();
            drop(host);
            core.sleep(Duration::from_secs(6)).await;
            queue.write(Span::at(0, 512), pattern(&core, 512, 1), false).await.unwrap();
        }
    });
    core.drain();
    assert_eq!(core.buffers().in_use(), (0, 0));
    assert!(!seen.borrow().shut_down, "dropped, not ended in order");
}

#[test]
fn ending_in_order_shuts_the_controller_down_and_ends_the_queues() {
    let (core, seen) = core(Manner::default());
    core.run_until({
        let core = core.clone();
        async move {
            let (host, queue) = queue(&core, Digests::default()).await.unwrap();
            host.disconnect().await.unwrap();
            assert_eq!(queue.flush().await, Err(HostError::Closed));
        }
    });
    core.drain();
    assert!(seen.borrow().shut_down);
}

#[test]
fn damaged_data_fails_its_read_and_nothing_else() {
    let digests = Digests { header: false, data: true };
    with_controller(Manner { damage: true, ..Manner::default() }, |core| async move {
        let (_host, queue) = queue(&core, digests).await.unwrap();
        for span in [Span::at(0, 4096), Span::at(0, 300_032)] {
            let Err(HostError::Command(failure)) = queue.read(span).await else { panic!("damaged") };
            assert_eq!((failure.status, failure.no_retry), (Status::TRANSIENT_TRANSPORT, false));
        }
        queue.write(Span::at(0, 512), pattern(&core, 512, 1), false).await.unwrap();
    });
}

#[test]
fn nothing_is_sent_that_was_not_offered_or_does_not_fit() {
    let (core, seen) = core(Manner { optional: 0, cache: false, ..Manner::default() });
    core.run_until({
        let core = core.clone();
        async move {
            let (_host, queue) = queue(&core, Digests::default()).await.unwrap();
            let (size, block) = (SIZE as u64, Span::at(0, 4096));
            for bad in
                [Span::at(size - 512, 1024), Span::at(u64::MAX - 511, 0), Span::at(1, 512), Span::at(0, 1)]
            {
                assert_eq!(queue.read(bad).await.err(), Some(HostError::Invalid), "{bad:?}");
            }
            let short = pattern(&core, 512, 0);
            assert_eq!(queue.write(block, short.clone(), false).await, Err(HostError::Invalid));
            assert_eq!(queue.compare(block, short).await, Err(HostError::NotOffered));
            assert_eq!(queue.deallocate(&[block]).await, Err(HostError::NotOffered));
            assert_eq!(queue.write_zeroes(block, ZeroWish::default()).await, Err(HostError::NotOffered));
            assert_eq!(queue.flush().await, Ok(()), "without a cache everything is durable");
            assert!(queue.read(Span::at(size, 0)).await.unwrap().is_empty());
        }
    });
    core.drain();
    assert_eq!(seen.borrow().commands, []);
}

#[test]
fn a_read_only_namespace_is_not_written_to() {
    with_controller(Manner { read_only: true, ..Manner::default() }, |core| async move {
        let (_host, queue) = queue(&core, Digests::default()).await.unwrap();
        let block = Span::at(0, 4096);
        let full = pattern(&core, 4096, 0);
        assert_eq!(queue.write(block, full, false).await, Err(HostError::NotOffered));
        assert_eq!(queue.deallocate(&[block]).await, Err(HostError::NotOffered));
        assert_eq!(queue.write_zeroes(block, ZeroWish::default()).await, Err(HostError::NotOffered));
        assert!(queue.read(block).await.is_ok());
    });
}

#[test]
fn namespaces_are_listed_page_by_page_and_only_so_many() {
    for (there, found) in
        [(0, Some(0)), (3, Some(3)), (1024, Some(1024)), (1025, Some(1025)), (1 << 20, None)]
    {
        with_controller(Manner { namespaces: there, ..Manner::default() }, move |core| async move {
            let host = connect(&core, Digests::default()).await.unwrap();
            let list = host.namespaces().await;
            match found {
                Some(count) => assert_eq!(list, Ok((1..=count).collect())),
                None => assert!(matches!(list, Err(HostError::Refused(Refusal::Broken(_))))),
            }
        });
    }
    with_controller(Manner::default(), |core| async move {
        let host = connect(&core, Digests::default()).await.unwrap();
        let missing = host.namespace(4).await.unwrap_err();
        assert_eq!(missing, HostError::Refused(Refusal::NoNamespace(4)));
        assert_eq!(host.namespace(2).await.unwrap().uuid.map(|uuid| uuid.as_u128() >> 112), Some(0xd5d5));
    });
}

#[test]
fn section_17_the_discovery_log_is_read_until_it_holds_still() {
    let discover = |manner| {
        with_controller(manner, |core| async move {
            let address = Address::Tcp("127.0.0.1:1".parse().unwrap());
            let records = Host::discover(&core, address, options(Digests::default())).await;
            records.map(|records| records.iter().map(|record| record.port).collect::<Vec<u16>>())
        })
    };
    let usual = Manner::default();
    assert_eq!(discover(usual), Ok(vec![1, 2]));
    assert_eq!(discover(Manner { records: 0, ..usual }), Ok(vec![]));
    assert_eq!(discover(Manner { changes: 5, ..usual }), Ok(vec![1, 2]));
    let restless = Manner { changes: u64::MAX, ..usual };
    assert_eq!(discover(restless), Err(HostError::Refused(Refusal::Restless)));
    let endless = Manner { records: 1 << 63, ..usual };
    assert!(matches!(discover(endless), Err(HostError::Refused(Refusal::Broken(_)))));
}

#[test]
fn no_more_queues_are_opened_than_were_granted() {
    with_controller(Manner::default(), |core| async move {
        let host = connect(&core, Digests::default()).await.unwrap();
        let namespace = host.namespace(1).await.unwrap();
        let mut queues = Vec::new();
        for _ in 0..host.controller().queues {
            queues.push(host.queue(&namespace).await.unwrap());
        }
        assert_eq!(queues.len(), 4);
        assert_eq!(host.queue(&namespace).await.err(), Some(HostError::NotOffered));
    });
}

#[test]
fn dropped_requests_keep_their_place_until_answered_and_the_connection_goes_on() {
    with_controller(Manner { piece: 1000, ..Manner::default() }, |core| async move {
        let (_host, queue) = queue(&core, Digests::default()).await.unwrap();
        for round in 0..20u8 {
            let nap = core.sleep(Duration::ZERO);
            // The nap ends first: the request is dropped in flight.
            if round % 2 == 0 {
                let read = queue.read(Span::at(0, 51_200));
                let _ = futures_util::future::select(std::pin::pin!(read), std::pin::pin!(nap)).await;
            } else {
                let write = queue.write(Span::at(8192, 51_200), pattern(&core, 51_200, round), false);
                let _ = futures_util::future::select(std::pin::pin!(write), std::pin::pin!(nap)).await;
            }
        }
        let span = Span::at(4096, 4096);
        queue.write(span, pattern(&core, 4096, 3), false).await.unwrap();
        let got = queue.read(span).await.unwrap().to_vec();
        assert!(got == pattern(&core, 4096, 3).to_vec());
    });
}

#[test]
fn a_name_that_is_none_is_not_sent() {
    with_controller(Manner::default(), |core| async move {
        let address = Address::Tcp("127.0.0.1:1".parse().unwrap());
        for name in ["", "data", &format!("nqn.{}", "a".repeat(300))] {
            let outcome =
                Host::connect(&core, address.clone(), name, HostOptions::of(Uuid::from_u128(1))).await;
            assert_eq!(outcome.err(), Some(HostError::Invalid), "{name}");
        }
    });
}
