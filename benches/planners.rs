//! What the hot paths are made of, one by one: checksums, parsing, a turn of the executor, a message to a task.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use drystone::base::checksum::{block_seed, block_sum, structure_sum};
use drystone::base::prng::Prng;
use drystone::base::units::Span;
use drystone::io::buf::BufPool;
use drystone::io::driver::{Completion, Driver, Op, Token, Unpark};
use drystone::io::time::Instant;
use drystone::nbd::client::decoder::{Asked, Decoder};
use drystone::nbd::wire::{ReplyMode, Request, SimpleReply};

use drystone::nvmf::pdu::{COMMON_LEN, DataLimits, Digests, Frame, SQE_LEN, Side, emit_capsule};
use drystone::reactor::mailbox::mailbox;
use drystone::reactor::{Core, CoreIndex};
use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

fn checksums(c: &mut Criterion) {
    let mut block = vec![0; 4096];
    Prng::from_seed(1).fill(&mut block);
    let mut group = c.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(4096));
    group.bench_function("block, 4 KiB", |b| {
        b.iter(|| block_sum(block_seed(7, 1, 2, 3, black_box(4)), black_box(&block)))
    });
    group.bench_function("structure, 4 KiB", |b| b.iter(|| structure_sum(black_box(&block))));
    group.finish();
}

fn parsing(c: &mut Criterion) {
    let request = Request { flags: 0, command: 0, cookie: 7, offset: 4096, len: 4096 };
    let stream: Vec<u8> = (0..32).flat_map(|_| request.emit_compact()).collect();
    let mut group = c.benchmark_group("nbd");
    group.throughput(Throughput::Elements(32));
    group.bench_function("32 requests parsed", |b| {
        b.iter(|| {
            let requests = black_box(&stream).chunks_exact(Request::COMPACT_LEN);
            requests
                .map(|bytes| Request::parse(ReplyMode::Simple, bytes).expect("well-formed").len)
                .sum::<u64>()
        })
    });
    group.bench_function("32 reads answered to a client", |b| {
        b.iter_batched_ref(
            answered_reads,
            |(decoder, stream)| decode_all(decoder, stream),
            BatchSize::SmallInput,
        )
    });
    group.finish();
    let head = emit_capsule(&[0; SQE_LEN], 4096, Digests::default());
    let common: [u8; COMMON_LEN] = *head.first_chunk().expect("longer than that");
    let limits = DataLimits { capsule: 1 << 20, data: 1 << 20 };
    c.bench_function("nvme: a capsule's header parsed", |b| {
        b.iter(|| Frame::of(black_box(&common), Side::Host, Digests::default(), limits))
    });
}

/// A client's decoder with 32 reads of 4 KiB in flight, and the stream that answers them.
fn answered_reads() -> (Decoder, Vec<u8>) {
    let mut decoder = Decoder::new(ReplyMode::Simple, None, 1 << 30);
    let mut stream = Vec::new();
    for block in 0..32u64 {
        let (_, cookie) = decoder.expect(Asked::Read(Span::at(block * 4096, 4096)));
        stream.extend_from_slice(&SimpleReply { error: 0, cookie }.emit());
        stream.resize(stream.len() + 4096, 0);
    }
    (decoder, stream)
}

fn decode_all(decoder: &mut Decoder, stream: &[u8]) -> usize {
    use drystone::nbd::client::decoder::Event;
    let (mut rest, mut ended) = (stream, 0);
    while let Some(event) = decoder.next(&mut rest).expect("a good stream") {
        match event {
            Event::Data { len, .. } => rest = &rest[usize::try_from(len).expect("4 KiB")..],
            Event::Hole { .. } => {}
            Event::Done { .. } => ended += 1,
        }
    }
    assert_eq!(ended, 32);
    ended
}

/// A driver that does nothing: what is left is the executor.
struct Idle;

impl Driver for Idle {
    fn now(&self) -> Instant {
        Instant::default()
    }

    fn wall_ns(&self) -> u64 {
        0
    }

    fn submit(&mut self, _token: Token, _op: Op) {
        unreachable!("nothing is asked of it");
    }

    fn reap(&mut self, _completions: &mut Vec<Completion>) {}

    fn park(&mut self, _until: Option<Instant>) {}

    fn unparker(&self) -> Arc<dyn Unpark> {
        struct Awake;
        impl Unpark for Awake {
            fn unpark(&self) {}
        }
        Arc::new(Awake)
    }
}

fn core() -> Core {
    Core::new(CoreIndex(0), Box::new(Idle), BufPool::new(0).expect("no arena"), Prng::from_seed(1))
}

/// Lets the executor go round once.
struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn executor(c: &mut Criterion) {
    let mut group = c.benchmark_group("executor");
    let idle = core();
    group.bench_function("a turn with nothing to do", |b| b.iter(|| black_box(idle.turn())));
    let busy = core();
    for _ in 0..32 {
        busy.spawn(async {
            loop {
                Yield(false).await;
            }
        });
    }
    group.throughput(Throughput::Elements(32));
    group.bench_function("a turn with 32 tasks", |b| b.iter(|| black_box(busy.turn())));
    group.finish();
    busy.drain();
}

fn mailboxes(c: &mut Criterion) {
    let core = core();
    let (to_task, mut inbox) = mailbox::<u64>();
    let (to_us, mut answers) = mailbox::<u64>();
    core.spawn(async move {
        while let Some(message) = inbox.receive().await {
            // The receiver below lives as long as the benchmark.
            let _ = to_us.send(message + 1);
        }
    });
    core.turn();
    c.bench_function("mailbox: to a task and back", |b| {
        b.iter(|| {
            let sent = to_task.send(black_box(1));
            assert!(sent.is_ok());
            core.turn();
            answers.try_receive().expect("answered within the turn")
        })
    });
    drop(to_task);
    core.drain();
}

criterion_group!(planners, checksums, parsing, executor, mailboxes);
criterion_main!(planners);
