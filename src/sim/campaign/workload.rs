//! Clients: tasks that make requests at random and check each answer against the model.

use super::ledger::Ledger;
use super::model::{Model, Moment, Stores};
use super::plan::{VolumeSpec, pick};
use super::port::{Miss, Port, Way};
use super::report::{Counts, Failure, Oracle, Verdict};
use super::stamp::{self, SECTOR};
use crate::base::prng::Prng;
use crate::base::units::{ByteLen, Span};
use crate::block::{Payload, Status, pieces};
use crate::io::driver::Address;
use crate::reactor::Core;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// The longest that a request may take, virtual time.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// What clients, checks and faults of a run share.
pub struct Field {
    pub model: RefCell<Model>,
    /// Those of the plan, then those that the operator made, with their sizes of now.
    volumes: RefCell<Vec<VolumeSpec>>,
    pub ledger: RefCell<Ledger>,
    /// The volume that is being destroyed.
    pub leaving: Cell<Option<usize>>,
    connections: Cell<u32>,
    pub failure: RefCell<Option<Failure>>,
    pub counts: RefCell<Counts>,
    /// For each volume of the plan: a member it needs is or was away, so that requests may fail.
    pub may_fail: Vec<Cell<bool>>,
    /// Space may be short: members are out of sync.
    pub may_lack_space: Cell<bool>,
    /// More may be lost than the copies bear.
    pub beyond: bool,
    /// Drives that the operator added, by their paths, in order.
    pub joined: RefCell<Vec<PathBuf>>,
    /// He adds some, or has got no answer: they are in the pool or not.
    pub joining: Cell<bool>,
    /// A drive is being taken out.
    pub parting: Cell<bool>,
    /// Some volume was to have more copies than the plan has.
    pub recounted: Cell<bool>,
}

impl Field {
    pub fn new(volumes: Vec<VolumeSpec>, beyond: bool) -> Field {
        Field {
            model: RefCell::new(Model::new(volumes.len())),
            may_fail: volumes.iter().map(|_| Cell::new(false)).collect(),
            volumes: RefCell::new(volumes),
            ledger: RefCell::default(),
            leaving: Cell::new(None),
            connections: Cell::new(0),
            failure: RefCell::default(),
            counts: RefCell::default(),
            may_lack_space: Cell::new(false),
            beyond,
            joined: RefCell::default(),
            joining: Cell::new(false),
            parting: Cell::new(false),
            recounted: Cell::new(false),
        }
    }

    /// One more volume; its number.
    pub fn add_volume(&self, spec: VolumeSpec) -> usize {
        self.volumes.borrow_mut().push(spec);
        self.model.borrow_mut().add_volume()
    }

    /// The size of a volume as far as it was answered.
    pub fn size(&self, volume: usize) -> u64 {
        self.volumes.borrow()[volume].size.0
    }

    pub fn set_size(&self, volume: usize, size: u64) {
        self.volumes.borrow_mut()[volume].size = ByteLen(size);
    }

    pub fn copies(&self, volume: usize) -> u8 {
        self.volumes.borrow()[volume].copies
    }

    /// Where no connection went before.
    pub fn fresh_address(&self) -> Address {
        let number = self.connections.get() + 1;
        self.connections.set(number);
        let [_, a, b, c] = number.to_be_bytes();
        Address::Tcp(([10, a, b, c], 10809).into())
    }

    /// Whether a member that this volume needs is or was away.
    fn may_fail(&self, volume: usize) -> bool {
        match self.may_fail.get(volume) {
            Some(may) => may.get(),
            None if self.copies(volume) > 1 && !self.beyond => false,
            None => self.may_fail.iter().any(Cell::get),
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
            Status::Io => self.may_fail(volume),
            Status::NoSpace => self.may_lack_space.get() || self.recounted.get(),
            Status::ShuttingDown => self.leaving.get() == Some(volume),
            Status::OutOfRange | Status::ReadOnly | Status::NotFast => false,
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
pub async fn client(field: Rc<Field>, ways: Vec<Way>, mut prng: Prng, requests: u64) {
    for _ in 0..requests {
        if field.failure.borrow().is_some() {
            return;
        }
        let volume = usize::try_from(prng.below(ways.len() as u64)).expect("a list's index"); // widening
        let way = &ways[volume];
        let begun = way.core().now();
        let made = match way.port().await {
            Ok(port) => request(&field, &port, volume, &mut prng).await,
            Err(failure) => Err(failure),
        };
        made.unwrap_or_else(|failure| field.fail(failure));
        let took = way.core().now().since(begun);
        // What only one drive has is waited for much longer where that drive says nothing; a network may be silent too.
        let waits = field.copies(volume) == 1 || field.beyond || way.is_disturbed();
        let limit = if waits { 40 * REQUEST_LIMIT } else { REQUEST_LIMIT };
        if took > limit {
            field.fail(Failure::new(Oracle::Liveness, format!("a request took {took:?}")));
        }
        field.counts.borrow_mut().requests += 1;
        pause(way.core(), &mut prng).await;
    }
    if prng.chance(500) {
        for way in ways {
            way.leave().await.unwrap_or_else(|failure| field.fail(failure));
        }
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

/// One request at random.
pub async fn request(field: &Field, port: &Port, volume: usize, prng: &mut Prng) -> Verdict {
    let size = port.size(field.size(volume));
    let fua = prng.chance(150);
    match prng.below(100) {
        0..=39 => write(field, port, volume, span(prng, size), fua).await,
        40..=67 => read(field, port, volume, span(prng, size)).await,
        68..=79 => flush(field, port, volume).await,
        80..=86 => zero(field, port, volume, span(prng, size), (fua, prng.chance(300))).await,
        87..=93 => discard(field, port, volume, large_span(prng, size), fua).await,
        _ if !port.tells_allocation() => read(field, port, volume, large_span(prng, size)).await,
        _ => allocation(field, port, volume, large_span(prng, size), 1 + prng.below(20)).await,
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

async fn write(field: &Field, port: &Port, volume: usize, span: Span, fua: bool) -> Verdict {
    let id = begin(field, port, volume, span, (Stores::Stamps, fua));
    let payload = payload(port.core(), volume, span, id);
    let result = port.write(span, payload, fua).await;
    end(field, port, (volume, id), &format!("write {id} of {span:?}, fua {fua}"), result)
}

/// A change is issued.
fn begin(field: &Field, port: &Port, volume: usize, span: Span, (stores, fua): (Stores, bool)) -> u64 {
    let id = field.model.borrow_mut().begin(volume, sectors(span), stores, fua);
    if let Port::Network(call) = port {
        call.line.sent(id, &call.address);
    }
    id
}

/// A change was answered, or will not be.
fn end(
    field: &Field,
    port: &Port,
    (volume, id): (usize, u64),
    what: &str,
    result: Result<(), Miss>,
) -> Verdict {
    match (&result, port) {
        (Err(Miss::Unknown), Port::Network(call)) => {
            call.line.lost(id);
            return Ok(());
        }
        (_, Port::Network(call)) => call.line.answered(id),
        (_, Port::Direct(_)) => {}
    }
    field.model.borrow_mut().end(id, result.is_ok());
    result.or_else(|miss| missed(field, volume, what, miss))
}

/// A request that did not end well.
fn missed(field: &Field, volume: usize, what: &str, miss: Miss) -> Verdict {
    match miss {
        Miss::Status(status) => field.excuse(volume, what, status),
        // Whether a connection may die is judged where that is noticed.
        Miss::Unknown => Ok(()),
    }
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

async fn read(field: &Field, port: &Port, volume: usize, span: Span) -> Verdict {
    let began = field.model.borrow_mut().begin_read();
    match port.read(span).await {
        Ok(payload) => field.judge(volume, span, &payload.to_vec(), began),
        Err(miss) => {
            field.model.borrow_mut().end_read(began);
            missed(field, volume, &format!("read of {span:?}"), miss)
        }
    }
}

async fn flush(field: &Field, port: &Port, volume: usize) -> Verdict {
    let issued = field.model.borrow_mut().now();
    match port.flush().await {
        Ok(()) => {
            field.model.borrow_mut().flushed(volume, issued);
            Ok(())
        }
        Err(miss) => missed(field, volume, "flush", miss),
    }
}

async fn zero(
    field: &Field,
    port: &Port,
    volume: usize,
    span: Span,
    (fua, allocate): (bool, bool),
) -> Verdict {
    let id = begin(field, port, volume, span, (Stores::Zeros, fua));
    let result = port.write_zeroes(span, fua, allocate).await;
    let what = format!("zeroes {id} of {span:?}, fua {fua}, allocate {allocate}");
    end(field, port, (volume, id), &what, result)
}

/// Blocks covered in part keep their bytes, so only whole ones change.
async fn discard(field: &Field, port: &Port, volume: usize, span: Span, fua: bool) -> Verdict {
    let (start, end_) = (span.offset().0.div_ceil(BLOCK) * BLOCK, span.end().0 / BLOCK * BLOCK);
    let whole = Span::at(start, end_.saturating_sub(start));
    let id = begin(field, port, volume, whole, (Stores::Zeros, fua));
    let result = port.discard(span, fua).await;
    end(field, port, (volume, id), &format!("discard {id} of {span:?}, fua {fua}"), result)
}

async fn allocation(field: &Field, port: &Port, volume: usize, span: Span, runs_max: u64) -> Verdict {
    let began = field.model.borrow_mut().begin_read();
    let runs_max = usize::try_from(runs_max).expect("20 at most");
    let answer = match port.allocation(span, runs_max).await {
        Ok(answer) => answer,
        Err(miss) => {
            field.model.borrow_mut().end_read(began);
            return missed(field, volume, &format!("allocation of {span:?}"), miss);
        }
    };
    let runs_max = if matches!(port, Port::Direct(_)) { runs_max } else { usize::MAX };
    let bad = |what: String| Err(Failure::new(Oracle::Answers, format!("allocation of {span:?}: {what}")));
    let covered: u64 = answer.runs.iter().map(|r| r.len.0).sum();
    if answer.from != span.offset() || covered == 0 || covered > span.len().0 || answer.runs.len() > runs_max
    {
        return bad(format!("{covered} bytes in {} runs from {:?}", answer.runs.len(), answer.from));
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
pub async fn verify(
    field: &Field,
    handle: &crate::volume::Handle,
    volume: usize,
    prng: &mut Prng,
) -> Verdict<u64> {
    let size = field.size(volume);
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
