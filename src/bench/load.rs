//! The closed loop: so many tasks, each with one request in flight, for a given time.
//!
//! Latency is what a task waits for its request. A run has a short lead-in that is not counted. Reads count until
//! the time is up; a run of writes ends when all of them have been answered and flushed, because data that lies in
//! a cache has not been written yet.

use super::figure::{Figure, Tally};
use super::processor::{Server, Snapshot};
use super::workload::{Places, Workload};
use crate::base::units::Span;
use crate::block::Payload;
use crate::io::buf::Buf;
use crate::io::driver::{Done, FileId, Op};
use crate::io::time::Instant;
use crate::nbd::client::{Client, ClientError};
use crate::nvmf::host::{HostError, Queue};
use crate::reactor::Core;
use crate::reactor::sync::{Answer, oneshot};
use nix::errno::Errno;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// The longest lead-in of a run.
const LEAD_IN_MAX: Duration = Duration::from_millis(250);

/// Requests in flight while a scratch area is filled.
const FILL_DEPTH: usize = 4;

/// Why a run failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the drive failed: {}", .0.desc())]
    Disk(Errno),
    #[error("the file ended early")]
    Short,
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("too small for one request")]
    TooSmall,
    #[error("no request ended in time")]
    Nothing,
}

/// One way to what is measured.
#[derive(Clone)]
pub enum Way {
    Disk(FileId),
    Volume(Client),
    Namespace(Queue),
}

/// What is measured: the bytes in a region, and one or more ways to them.
#[derive(Clone)]
pub struct Subject {
    pub ways: Vec<Way>,
    pub region: Span,
}

/// One run.
#[derive(Clone, Copy)]
pub struct Run {
    pub workload: Workload,
    pub time: Duration,
    pub server: Server,
}

impl Way {
    async fn read(&self, core: &Core, span: Span) -> Result<(), LoadError> {
        let file = match self {
            Way::Volume(client) => return Ok(client.read(span).await.map(drop)?),
            Way::Namespace(queue) => return Ok(queue.read(span).await.map(drop)?),
            Way::Disk(file) => *file,
        };
        let into = core.buffers().take(span.len().as_usize());
        match core.op(Op::Read { file, offset: span.offset(), into }).await {
            Done::Read(Ok(read), _) if read == span.len().as_usize() => Ok(()),
            Done::Read(Ok(_), _) => Err(LoadError::Short),
            Done::Read(Err(errno), _) => Err(LoadError::Disk(errno)),
            _ => unreachable!("Read ends with Read"),
        }
    }

    async fn write(&self, core: &Core, span: Span, from: Buf) -> Result<(), LoadError> {
        match self {
            Way::Volume(client) => Ok(client.write(span, Payload::one(from), false).await?),
            Way::Namespace(queue) => Ok(queue.write(span, Payload::one(from), false).await?),
            Way::Disk(file) => {
                finished(core, Op::Write { file: *file, offset: span.offset(), from, durable: false }).await
            }
        }
    }

    async fn flush(&self, core: &Core) -> Result<(), LoadError> {
        match self {
            Way::Volume(client) => Ok(client.flush().await?),
            Way::Namespace(queue) => Ok(queue.flush().await?),
            Way::Disk(file) => finished(core, Op::Flush { file: *file }).await,
        }
    }
}

async fn finished(core: &Core, op: Op) -> Result<(), LoadError> {
    match core.op(op).await {
        Done::Finished(result) => result.map_err(LoadError::Disk),
        _ => unreachable!("Write and Flush end with Finished"),
    }
}

/// What the tasks of a run share.
struct Shared {
    core: Core,
    workload: Workload,
    from: Instant,
    until: Instant,
    /// Random bytes that writes are made from.
    source: Option<Buf>,
    counted: RefCell<Tally>,
    /// Reads that ended when the time was up already.
    late: RefCell<Tally>,
    failed: Cell<bool>,
}

impl Shared {
    async fn request(&self, way: &Way, span: Span) -> Result<(), LoadError> {
        match &self.source {
            None => way.read(&self.core, span).await,
            Some(source) => way.write(&self.core, span, self.bytes(source, span)).await,
        }
    }

    /// Some of the random bytes: other ones for each block, so that nothing below can save the work.
    fn bytes(&self, source: &Buf, span: Span) -> Buf {
        let (len, all) = (span.len().as_usize(), source.len());
        let choices = (all - len) / 512 + 1;
        let block = usize::try_from(span.offset().0 / span.len().0).unwrap_or(0);
        let start = block % choices * 512;
        source.slice(start..start + len)
    }

    fn count(&self, began: Instant, ended: Instant, bytes: u64) {
        if ended < self.from {
            return;
        }
        let late = ended > self.until && !self.workload.is_write();
        let tally = if late { &self.late } else { &self.counted };
        tally.borrow_mut().add(ended.since(began), bytes);
    }
}

/// One request after the other until the time is up.
async fn work(shared: Rc<Shared>, way: Way, places: Rc<RefCell<Places>>) -> Result<(), LoadError> {
    loop {
        let began = shared.core.now();
        if began >= shared.until || shared.failed.get() {
            return Ok(());
        }
        let span = places.borrow_mut().take();
        let outcome = shared.request(&way, span).await;
        if outcome.is_err() {
            shared.failed.set(true);
            return outcome;
        }
        shared.count(began, shared.core.now(), span.len().0);
    }
}

/// Runs one workload on all subjects at the same time; each gets the workload's depth, spread over its ways.
pub async fn run(core: &Core, subjects: &[Subject], run: Run) -> Result<Figure, LoadError> {
    let from = core.now() + (run.time / 8).min(LEAD_IN_MAX);
    let shared = Rc::new(Shared {
        core: core.clone(),
        workload: run.workload,
        from,
        until: from + run.time,
        source: run.workload.is_write().then(|| random_bytes(core)),
        counted: RefCell::default(),
        late: RefCell::default(),
        failed: Cell::new(false),
    });
    let mut ends = Vec::new();
    for subject in subjects {
        let prng = core.with_prng(|prng| prng.fork());
        let places = Places::new(run.workload, subject.region, prng).ok_or(LoadError::TooSmall)?;
        let places = Rc::new(RefCell::new(places));
        for way in subject.ways.iter().cycle().take(run.workload.depth()) {
            let (answer, asked) = oneshot();
            core.spawn(report(work(shared.clone(), way.clone(), places.clone()), answer));
            ends.push(asked);
        }
    }
    core.sleep_until(from).await;
    let before = Snapshot::take(run.server);
    for end in ends {
        end.await.expect("a task answers before it ends")?;
    }
    if run.workload.is_write() {
        flush(core, subjects).await?;
    }
    let cpu = Snapshot::take(run.server).since(&before);
    shared.figure(core.now(), cpu)
}

impl Shared {
    fn figure(&self, now: Instant, cpu: super::figure::Cpu) -> Result<Figure, LoadError> {
        let (counted, late) = (self.counted.borrow(), self.late.borrow());
        if counted.requests > 0 {
            let end = if self.workload.is_write() { now } else { self.until };
            return Ok(counted.figure(end.since(self.from), cpu));
        }
        // So slow that no request ended within the time: those that were in flight are all there is.
        if late.requests > 0 { Ok(late.figure(now.since(self.from), cpu)) } else { Err(LoadError::Nothing) }
    }
}

async fn report(work: impl Future<Output = Result<(), LoadError>>, answer: Answer<Result<(), LoadError>>) {
    answer.send(work.await);
}

async fn flush(core: &Core, subjects: &[Subject]) -> Result<(), LoadError> {
    // All ways of a subject lead to one device, so one flush covers them (NBD section 14.3; NVMe: Flush
    // covers what was written by any queue).
    for way in subjects.iter().filter_map(|s| s.ways.first()) {
        way.flush(core).await?;
    }
    Ok(())
}

fn random_bytes(core: &Core) -> Buf {
    let request = Workload::SequentialWrite.request().as_usize();
    let mut buf = core.buffers().take(request);
    core.with_prng(|prng| prng.fill(buf.as_mut_slice()));
    buf.freeze()
}

/// Writes a region from its start until it is full or the time is up, flushes, and says what was filled.
pub async fn fill(core: &Core, subject: &Subject, limit: Duration) -> Result<Span, LoadError> {
    let until = core.now() + limit;
    let request = Workload::SequentialWrite.request().0;
    let source = random_bytes(core);
    let slots = subject.region.len().0 / request;
    let mut filled = 0u64;
    while filled < slots && (filled == 0 || core.now() < until) {
        let batch = (slots - filled).min(u64::try_from(FILL_DEPTH).expect("a small number"));
        let writes = (filled..filled + batch).zip(subject.ways.iter().cycle()).map(|(slot, way)| {
            let span = Span::at(subject.region.offset().0 + slot * request, request);
            way.write(core, span, source.clone())
        });
        futures_util::future::try_join_all(writes).await?;
        filled += batch;
    }
    flush(core, std::slice::from_ref(subject)).await?;
    match filled {
        0 => Err(LoadError::TooSmall),
        _ => Ok(Span::at(subject.region.offset().0, filled * request)),
    }
}
