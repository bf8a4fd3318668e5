//! Clients: tasks that make requests at random and check each answer against the model.

use super::model::{Model, Moment, Stores};
use super::plan::{VolumeSpec, pick};
use super::report::{Counts, Failure, Oracle, Verdict};
use super::stamp::{self, SECTOR};
use crate::base::prng::Prng;
use crate::base::units::Span;
use crate::block::{Payload, Status, WriteFlags, ZeroFlags, pieces};
use crate::reactor::Core;
use crate::volume::Handle;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// The longest that a request may take, virtual time.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// What clients, checks and faults of a run share.
pub struct Field {
    pub model: RefCell<Model>,
    pub volumes: Vec<VolumeSpec>,
    pub failure: RefCell<Option<Failure>>,
    pub counts: RefCell<Counts>,
    /// For each volume: a member it needs is or was away, so that requests may fail.
    pub may_fail: Vec<Cell<bool>>,
    /// Space may be short: members are out of sync.
    pub may_lack_space: Cell<bool>,
    /// More may be lost than the copies bear.
    pub beyond: bool,
}

impl Field {
    pub fn new(volumes: Vec<VolumeSpec>, beyond: bool) -> Field {
        Field {
            model: RefCell::new(Model::new(volumes.len())),
            may_fail: volumes.iter().map(|_| Cell::new(false)).collect(),
            volumes,
            failure: RefCell::default(),
            counts: RefCell::default(),
            may_lack_space: Cell::new(false),
            beyond,
        }
    }

    /// Keeps the first failure.
    pub fn fail(&self, failure: Failure) {
        self.failure.borrow_mut().get_or_insert(failure);
    }

    /// Whether a request may end like this; None if it was answered well.
    fn excuse(&self, volume: usize, what: &str, status: Status) -> Verdict {
        self.counts.borrow_mut().failed_requests += 1;
        let excused = match status {
            Status::Io => self.may_fail[volume].get(),
            Status::NoSpace => self.may_lack_space.get(),
            Status::OutOfRange | Status::ReadOnly | Status::NotFast | Status::ShuttingDown => false,
        };
        if excused {
            return Ok(());
        }
        Err(Failure::new(Oracle::Answers, format!("volume {volume}: {what} ended with `{status}`")))
    }

    /// Judges the bytes that a read which began at `began` returned.
    pub fn judge(&self, volume: usize, span: Span, bytes: &[u8], began: Moment) -> Verdict {
        let mut model = self.model.borrow_mut();
        for (number, sector) in sectors(span).zip(bytes.chunks_exact(SECTOR)) {
            let serial = stamp::parse(volume, number, sector).map_err(|what| {
                Failure::new(Oracle::Bytes, format!("volume {volume} sector {number} {what}"))
            })?;
            model.judge(volume, number, serial, began)?;
        }
        model.end_read(began);
        self.counts.borrow_mut().sectors_judged += bytes.len() as u64 / SECTOR as u64; // widening
        Ok(())
    }
}

/// The sectors of a span, which begins and ends at sectors.
pub fn sectors(span: Span) -> Range<u64> {
    span.offset().0 / SECTOR as u64..span.end().0 / SECTOR as u64 // widening
}

/// Makes requests until it has made its number or somebody found something.
pub async fn client(field: Rc<Field>, handles: Vec<Handle>, mut prng: Prng, requests: u64) {
    for _ in 0..requests {
        if field.failure.borrow().is_some() {
            return;
        }
        let volume = usize::try_from(prng.below(handles.len() as u64)).expect("a list's index"); // widening
        let handle = &handles[volume];
        let begun = handle.core().now();
        if let Err(failure) = request(&field, handle, volume, &mut prng).await {
            field.fail(failure);
        }
        let took = handle.core().now().since(begun);
        // What only one drive has is waited for much longer where that drive says nothing.
        let waits = field.volumes[volume].copies == 1 || field.beyond;
        let limit = if waits { 40 * REQUEST_LIMIT } else { REQUEST_LIMIT };
        if took > limit {
            field.fail(Failure::new(Oracle::Liveness, format!("a request took {took:?}")));
        }
        field.counts.borrow_mut().requests += 1;
        pause(handle.core(), &mut prng).await;
    }
}

/// Mostly none; now and then long enough for the cleaner to find quiet regions.
async fn pause(core: &Core, prng: &mut Prng) {
    let ns = match prng.below(100) {
        0..=1 => prng.below(4_000_000_000),
        2..=20 => prng.below(2_000_000),
        _ => return,
    };
    core.sleep(Duration::from_nanos(ns)).await;
}

async fn request(field: &Field, handle: &Handle, volume: usize, prng: &mut Prng) -> Verdict {
    let size = field.volumes[volume].size.0;
    let fua = prng.chance(150);
    match prng.below(100) {
        0..=39 => write(field, handle, volume, span(prng, size), fua).await,
        40..=67 => read(field, handle, volume, span(prng, size)).await,
        68..=79 => flush(field, handle, volume).await,
        80..=86 => zero(field, handle, volume, span(prng, size), (fua, prng.chance(300))).await,
        87..=93 => discard(field, handle, volume, large_span(prng, size), fua).await,
        _ => allocation(field, handle, volume, large_span(prng, size), 1 + prng.below(20)).await,
    }
}

/// A span of whole sectors, often in a small part of the volume, so that requests meet.
fn span(prng: &mut Prng, size: u64) -> Span {
    let longest = pick(prng, &[512, 2048, 4096, 4096, 16 << 10, 64 << 10, 64 << 10, 256 << 10, 1 << 20]);
    span_of(prng, size, longest)
}

/// Also spans of whole extents, or of all of it, which give space back.
fn large_span(prng: &mut Prng, size: u64) -> Span {
    match prng.below(8) {
        0 => return Span::at(0, size),
        1 => {
            let start = prng.below(size.div_ceil(MIB)) * MIB;
            return Span::at(start, MIB.min(size - start));
        }
        _ => {}
    }
    let longest = pick(prng, &[4096, 64 << 10, 1 << 20, 8 << 20]);
    span_of(prng, size, longest)
}

fn span_of(prng: &mut Prng, size: u64, longest: u64) -> Span {
    let unit = pick(prng, &[512, 512, BLOCK, BLOCK, BLOCK]);
    let len = (1 + prng.below(longest)).div_ceil(unit) * unit;
    let place = match prng.below(10) {
        0..=3 => prng.below(64 << 10),
        4..=6 => (1 << 20) - (32 << 10) + prng.below(64 << 10),
        7 => size - prng.below(256 << 10).min(size),
        _ => prng.below(size),
    };
    let start = place.min(size - unit) / unit * unit;
    Span::at(start, len.min(size - start))
}

async fn write(field: &Field, handle: &Handle, volume: usize, span: Span, fua: bool) -> Verdict {
    let id = field.model.borrow_mut().begin(volume, sectors(span), Stores::Stamps, fua);
    let payload = payload(handle.core(), volume, span, id);
    let result = handle.write(span, &payload, WriteFlags { fua }).await;
    end(field, volume, id, &format!("write {id} of {span:?}, fua {fua}"), result)
}

fn end(field: &Field, volume: usize, id: u64, what: &str, result: Result<(), Status>) -> Verdict {
    field.model.borrow_mut().end(id, result.is_ok());
    result.or_else(|status| field.excuse(volume, what, status))
}

/// The stamps of a write, in buffers cut and aligned as the protocols do.
fn payload(core: &Core, volume: usize, span: Span, serial: u64) -> Payload {
    let mut payload = Payload::default();
    for piece in pieces(span) {
        let len = piece.span.len().as_usize();
        let mut buf = core.buffers().take(piece.skew + len);
        buf.set_window(piece.skew..piece.skew + len);
        for (number, out) in sectors(piece.span).zip(buf.as_mut_slice().chunks_exact_mut(SECTOR)) {
            out.copy_from_slice(&stamp::emit(volume, number, serial));
        }
        payload.parts.push(buf.freeze());
    }
    payload
}

async fn read(field: &Field, handle: &Handle, volume: usize, span: Span) -> Verdict {
    let began = field.model.borrow_mut().begin_read();
    match handle.read(span).await {
        Ok(payload) => field.judge(volume, span, &payload.to_vec(), began),
        Err(status) => field.excuse(volume, &format!("read of {span:?}"), status),
    }
}

async fn flush(field: &Field, handle: &Handle, volume: usize) -> Verdict {
    let issued = field.model.borrow_mut().now();
    match handle.flush().await {
        Ok(()) => {
            field.model.borrow_mut().flushed(volume, issued);
            Ok(())
        }
        Err(status) => field.excuse(volume, "flush", status),
    }
}

async fn zero(
    field: &Field,
    handle: &Handle,
    volume: usize,
    span: Span,
    (fua, allocate): (bool, bool),
) -> Verdict {
    let id = field.model.borrow_mut().begin(volume, sectors(span), Stores::Zeros, fua);
    let flags = ZeroFlags { fua, allocate, fast_only: false };
    let result = handle.write_zeroes(span, flags).await;
    end(field, volume, id, &format!("zeroes {id} of {span:?}, fua {fua}, allocate {allocate}"), result)
}

/// Blocks covered in part keep their bytes, so only whole ones change.
async fn discard(field: &Field, handle: &Handle, volume: usize, span: Span, fua: bool) -> Verdict {
    let (start, end_) = (span.offset().0.div_ceil(BLOCK) * BLOCK, span.end().0 / BLOCK * BLOCK);
    let whole = Span::at(start, end_.saturating_sub(start));
    let id = field.model.borrow_mut().begin(volume, sectors(whole), Stores::Zeros, fua);
    let result = handle.discard(span, WriteFlags { fua }).await;
    end(field, volume, id, &format!("discard {id} of {span:?}, fua {fua}"), result)
}

async fn allocation(field: &Field, handle: &Handle, volume: usize, span: Span, runs_max: u64) -> Verdict {
    let began = field.model.borrow_mut().begin_read();
    let runs_max = usize::try_from(runs_max).expect("20 at most");
    let answer = match handle.allocation(span, runs_max).await {
        Ok(answer) => answer,
        Err(status) => return field.excuse(volume, &format!("allocation of {span:?}"), status),
    };
    let bad = |what: String| Err(Failure::new(Oracle::Answers, format!("allocation of {span:?}: {what}")));
    let covered: u64 = answer.runs.iter().map(|r| r.len.0).sum();
    let right = answer.span.offset() == span.offset() && covered == answer.span.len().0;
    if !right || covered == 0 || covered > span.len().0 || answer.runs.len() > runs_max {
        return bad(format!("{covered} bytes in {} runs for {:?}", answer.runs.len(), answer.span));
    }
    let mut model = field.model.borrow_mut();
    model.end_read(began);
    let mut at = span.offset().0;
    for run in &answer.runs {
        let numbers = sectors(Span::at(at, run.len.0));
        at += run.len.0;
        if let Some(number) = numbers.filter(|_| run.zero).find(|n| !model.may_be_zeros(volume, *n, began)) {
            return bad(format!("sector {number} is said to be zeros and cannot be"));
        }
    }
    Ok(())
}

/// Reads a volume whole, judges it, and gives the bytes that could not be read. Nothing else is under way.
pub async fn verify(field: &Field, handle: &Handle, volume: usize, prng: &mut Prng) -> Verdict<u64> {
    let size = field.volumes[volume].size.0;
    let step = pick(prng, &[64 << 10, 256 << 10, 1 << 20]);
    let mut unreadable = 0;
    for start in (0..size).step_by(usize::try_from(step).expect("64-bit platform")) {
        let span = Span::at(start, step.min(size - start));
        let known = field.model.borrow().any_changed(volume, sectors(span));
        // What was never touched is looked at now and then.
        if !known && prng.below(4) > 0 {
            continue;
        }
        let began = field.model.borrow_mut().begin_read();
        match handle.read(span).await {
            Ok(payload) => field.judge(volume, span, &payload.to_vec(), began)?,
            Err(Status::Io) => unreadable += span.len().0,
            Err(status) => field.excuse(volume, &format!("read of {span:?}"), status)?,
        }
    }
    Ok(unreadable)
}
