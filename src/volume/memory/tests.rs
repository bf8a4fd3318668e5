//! The volume in memory.

use super::*;
use crate::base::prng::Prng;
use crate::io::buf::BufPool;
use crate::io::driver::{Completion, Driver, Op, Token, Unpark};
use crate::io::time::Instant;
use crate::reactor::CoreIndex;
use std::sync::Arc;

/// A driver for a volume that asks nothing of it.
struct NoWorld;

impl Unpark for NoWorld {
    fn unpark(&self) {}
}

impl Driver for NoWorld {
    fn now(&self) -> Instant {
        Instant::default()
    }
    fn wall_ns(&self) -> u64 {
        0
    }
    fn submit(&mut self, _token: Token, _op: Op) {
        unreachable!("a volume in memory does no I/O")
    }
    fn reap(&mut self, _completions: &mut Vec<Completion>) {}
    fn park(&mut self, _until: Option<Instant>) {
        unreachable!("a volume in memory never waits")
    }
    fn unparker(&self) -> Arc<dyn Unpark> {
        Arc::new(NoWorld)
    }
}

fn core() -> Core {
    let buffers = BufPool::new(8 << 20).unwrap();
    Core::new(CoreIndex(0), Box::new(NoWorld), buffers, Prng::from_seed(1))
}

fn payload(core: &Core, span: Span, fill: u8) -> Payload {
    let parts = pieces(span)
        .map(|piece| core.buffers().copy_of(&vec![fill; piece.span.len().as_usize()]).freeze())
        .collect();
    Payload { parts }
}

#[test]
fn what_was_written_reads_back_and_the_rest_is_zero() {
    let core = core();
    let inner = core.clone();
    core.run_until(async move {
        let volume = MemoryVolume::new(ByteLen(8 << 20));
        let mut model = vec![0u8; 8 << 20];
        let mut prng = Prng::from_seed(5);
        for round in 0..600u32 {
            let offset = prng.below(8 << 20);
            let span = Span::at(offset, prng.below(200_000).min((8 << 20) - offset));
            let range = ByteLen(offset).as_usize()..ByteLen(span.end().0).as_usize();
            let fill = u8::try_from(round % 255 + 1).unwrap();
            match round % 5 {
                0 => {
                    let allocate = prng.chance(500);
                    let flags = ZeroFlags { allocate, ..ZeroFlags::default() };
                    volume.write_zeroes(span, flags).await.unwrap();
                    model[range.clone()].fill(0);
                }
                1 => {
                    volume.discard(span, WriteFlags::default()).await.unwrap();
                    let (start, end) = (range.start.next_multiple_of(4096), range.end / 4096 * 4096);
                    model[start.min(end)..end].fill(0);
                }
                _ => {
                    let data = payload(&inner, span, fill);
                    volume.write(&inner, span, &data, WriteFlags::default()).await.unwrap();
                    model[range.clone()].fill(fill);
                }
            }
            let read = volume.read(&inner, span).await.unwrap();
            assert!(read.to_vec() == model[range], "round {round}: {span:?}");
        }
        let all = Span::at(0, 8 << 20);
        assert!(volume.read(&inner, all).await.unwrap().to_vec() == model);
        let mut at = 0;
        for run in volume.allocation(all, usize::MAX).await.unwrap().runs {
            let end = at + run.len.as_usize();
            assert!(!run.zero || model[at..end].iter().all(|b| *b == 0), "a hole reads as zeroes");
            at = end;
        }
        assert_eq!(at, 8 << 20);
    });
}

#[test]
fn allocation_alternates_and_ends_after_so_many_runs() {
    let core = core();
    let inner = core.clone();
    core.run_until(async move {
        let volume = MemoryVolume::new(ByteLen(1 << 62));
        for block in 0..20 {
            let span = Span::at(block * 8192, 4096);
            volume.write(&inner, span, &payload(&inner, span, 1), WriteFlags::default()).await.unwrap();
        }
        let found = volume.allocation(Span::at(0, 1 << 62), 1000).await.unwrap();
        assert_eq!((found.runs.len(), found.span.len()), (40, ByteLen(1 << 62)));
        assert!(found.runs.iter().enumerate().all(|(i, run)| run.hole == (i % 2 == 1)));
        let first = volume.allocation(Span::at(4096, 1 << 61), 3).await.unwrap();
        assert_eq!(first.runs.iter().map(|r| r.len.0).collect::<Vec<_>>(), [4096; 3]);
        volume.discard(Span::at(0, 1 << 62), WriteFlags::default()).await.unwrap();
        let found = volume.allocation(Span::at(512, 1 << 61), 9).await.unwrap();
        assert_eq!(found.runs, [AllocationRun { len: ByteLen(1 << 61), hole: true, zero: true }]);
        assert!(volume.shards.iter().all(|shard| lock(shard).is_empty()), "memory is given back");
    });
}

#[test]
fn unwritten_bytes_are_the_shared_zeroes_and_bad_ranges_fail() {
    let core = core();
    let inner = core.clone();
    core.run_until(async move {
        let volume = MemoryVolume::new(ByteLen(1 << 40)).with_bad_range(Span::at(1 << 30, 1));
        let zeroes = inner.buffers().zeroes(1).as_ptr();
        let read = volume.read(&inner, Span::at(5, 3 << 20)).await.unwrap();
        assert!(read.parts.iter().all(|part| part.as_ptr() == zeroes));
        assert_eq!(read.len(), ByteLen(3 << 20));
        let span = Span::at((1 << 30) - 1, 2);
        assert_eq!(volume.read(&inner, span).await.err(), Some(Status::Io));
        assert!(volume.read(&inner, Span::at(1 << 30, 0)).await.is_ok());
        let data = payload(&inner, span, 1);
        assert_eq!(volume.write(&inner, span, &data, WriteFlags::default()).await, Err(Status::Io));
        let volume = MemoryVolume::new(ByteLen(4096)).read_only();
        assert_eq!(volume.discard(Span::at(0, 1), WriteFlags::default()).await, Err(Status::ReadOnly));
        let volume = MemoryVolume::new(ByteLen(4096)).discarding_writes();
        let span = Span::at(0, 4096);
        volume.write(&inner, span, &payload(&inner, span, 7), WriteFlags::default()).await.unwrap();
        assert_eq!(volume.read(&inner, span).await.unwrap().to_vec(), vec![0; 4096]);
    });
}

#[test]
fn sectors_reservations_and_the_identity_of_a_volume_in_memory() {
    use crate::block::ReservationError;
    use crate::volume::Volume;
    let volume =
        |name: &str| Arc::new(Volume::in_memory(name, MemoryVolume::new(ByteLen(1 << 20)).with_lba(4096)));
    let (data, core) = (volume("data"), core());
    assert_eq!(data.lba_bytes(), 4096);
    let (one, other) = (data.handle(&core), data.handle(&core));
    let set = |expected, bytes: &[u8]| {
        futures_util::FutureExt::now_or_never(one.set_reservations(expected, bytes.into(), true)).unwrap()
    };
    assert_eq!(set(0, b"held"), Ok(()));
    assert_eq!(set(0, b"else"), Err(ReservationError::Raced));
    assert_eq!((other.reservations().version, other.reservations().bytes.as_ref()), (1, &b"held"[..]));
    // The same name is the same volume, also in the next process.
    assert_eq!(data.identity(), volume("data").identity());
    assert_ne!(data.identity().volume, volume("other").identity().volume);
    assert_eq!(data.identity().pool, volume("other").identity().pool);
    let numbers = (0..1000).map(|n| volume(&format!("v{n}")).identity().number);
    assert!(numbers.into_iter().all(|number| (1..=4095).contains(&number)));
}
