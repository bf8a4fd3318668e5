//! A volume in memory: what the network benchmark serves, and what protocol tests write to.
//!
//! Sparse: chunks of 64 KiB exist where something was written, and a bit for each of their pages says whether it
//! was. Invariant: the bytes of a page that is not written are zero. Chunks are spread over locked shards, so cores
//! seldom meet; a lock is held for one chunk's copy, which makes each block old or new for every reader.

use crate::base::limits::{BLOCK, CHUNK_MAX};
use crate::base::units::{ByteLen, ByteOffset, Span};
use crate::block::{Allocation, AllocationRun, Geometry, Payload, Status, WriteFlags, ZeroFlags, pieces};
use crate::reactor::Core;
use crate::reactor::sync::lock;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

const CHUNK: u64 = 64 << 10;
const SHARDS: u64 = 64;

const _: () = assert!(CHUNK / BLOCK == u16::BITS as u64); // widening
const _: () = assert!(CHUNK_MAX.is_multiple_of(CHUNK));

/// A sparse volume in memory.
pub struct MemoryVolume {
    size: ByteLen,
    shards: Vec<Mutex<BTreeMap<u64, Chunk>>>,
    read_only: bool,
    discards_writes: bool,
    bad: Option<Span>,
}

struct Chunk {
    bytes: Box<[u8]>,
    /// One bit for each page.
    written: u16,
}

/// The part of a span that lies in one chunk.
#[derive(Clone)]
struct Part {
    chunk: u64,
    /// Bytes within the chunk.
    range: Range<usize>,
}

impl MemoryVolume {
    pub fn new(size: ByteLen) -> MemoryVolume {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        MemoryVolume { size, shards, read_only: false, discards_writes: false, bad: None }
    }

    /// Takes writes and keeps nothing of them: the network is measured, not the memory.
    pub fn discarding_writes(mut self) -> MemoryVolume {
        self.discards_writes = true;
        self
    }

    /// Refuses everything that writes.
    pub fn read_only(mut self) -> MemoryVolume {
        self.read_only = true;
        self
    }

    /// Fails every read and write that touches `bad` with `Status::Io`, for tests of what happens then.
    pub fn with_bad_range(mut self, bad: Span) -> MemoryVolume {
        self.bad = Some(bad);
        self
    }

    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub fn geometry(&self) -> Geometry {
        Geometry { size: self.size, block: 4096, preferred: 128 << 10, rotational: false }
    }

    /// The bytes of a span; where nothing was written they are the shared zeroes of the core, not a copy.
    pub async fn read(&self, core: &Core, span: Span) -> Result<Payload, Status> {
        self.check_bad(span)?;
        if let Some(payload) = self.read_one_chunk(core, span) {
            return Ok(payload);
        }
        let mut payload = Payload::default();
        let mut at = span.offset();
        for run in self.runs(span, usize::MAX) {
            for piece in pieces(Span::at(at.0, run.len.0)) {
                let len = piece.span.len().as_usize();
                payload.parts.push(match run.hole {
                    true => core.buffers().zeroes(len),
                    false => {
                        let mut buf = core.buffers().take(len);
                        self.copy_out(piece.span, buf.as_mut_slice());
                        buf.freeze()
                    }
                });
            }
            at += run.len;
        }
        Ok(payload)
    }

    pub async fn write(
        &self,
        _core: &Core,
        span: Span,
        data: Payload,
        _flags: WriteFlags,
    ) -> Result<(), Status> {
        self.check_writable(span)?;
        if self.discards_writes {
            return Ok(());
        }
        let mut at = span.offset();
        for buf in &data.parts {
            let mut rest = buf.as_slice();
            for part in parts(Span::at(at.0, buf.len() as u64)) {
                // usize to u64 above is widening.
                let (head, tail) = rest.split_at(part.range.len());
                self.with_chunk(part.chunk, |chunk| {
                    chunk.bytes[part.range.clone()].copy_from_slice(head);
                    chunk.written |= touched(&part.range);
                });
                rest = tail;
            }
            at += ByteLen(buf.len() as u64); // widening
        }
        Ok(())
    }

    /// Forgets the whole blocks of a span; parts of blocks at its ends stay as they are.
    pub async fn discard(&self, span: Span, _flags: WriteFlags) -> Result<(), Status> {
        self.check_writable(span)?;
        self.for_existing(span, |chunk, range| chunk.forget(covered(range)));
        Ok(())
    }

    pub async fn write_zeroes(&self, span: Span, flags: ZeroFlags) -> Result<(), Status> {
        self.check_writable(span)?;
        if flags.allocate && !self.discards_writes {
            for part in parts(span) {
                self.with_chunk(part.chunk, |chunk| {
                    chunk.bytes[part.range.clone()].fill(0);
                    chunk.written |= touched(&part.range);
                });
            }
            return Ok(());
        }
        self.for_existing(span, |chunk, range| {
            chunk.bytes[range.clone()].fill(0);
            chunk.forget(covered(range));
        });
        Ok(())
    }

    pub async fn allocation(&self, span: Span, runs_max: usize) -> Result<Allocation, Status> {
        let runs = self.runs(span, runs_max);
        let covered = ByteLen(runs.iter().map(|run| run.len.0).sum());
        Ok(Allocation { span: Span::at(span.offset().0, covered.0), runs })
    }

    /// The span's bytes when it lies in one chunk and is all of one kind: the path of small reads.
    fn read_one_chunk(&self, core: &Core, span: Span) -> Option<Payload> {
        let part = parts(span).next()?;
        if span.len().as_usize() != part.range.len() {
            return None;
        }
        let shard = lock(self.shard(part.chunk));
        let Some(chunk) = shard.get(&part.chunk) else {
            return Some(Payload::one(core.buffers().zeroes(part.range.len())));
        };
        let pages = touched(&part.range);
        match chunk.written & pages {
            0 => Some(Payload::one(core.buffers().zeroes(part.range.len()))),
            written if written == pages => {
                Some(Payload::one(core.buffers().copy_of(&chunk.bytes[part.range]).freeze()))
            }
            _ => None,
        }
    }

    /// The runs of written and unwritten bytes from the span's start.
    fn runs(&self, span: Span, runs_max: usize) -> Vec<AllocationRun> {
        let mut runs: Vec<AllocationRun> = Vec::new();
        let (mut at, end) = (span.offset().0, span.end().0);
        while at < end {
            let (len, hole) = self.run_at(at, end);
            let full = runs.len() == runs_max;
            match runs.last_mut() {
                Some(last) if last.hole == hole => last.len = last.len + ByteLen(len),
                Some(_) if full => break,
                Some(_) | None => runs.push(AllocationRun { len: ByteLen(len), hole, zero: hole }),
            }
            at += len;
        }
        runs
    }

    /// Bytes of one kind from `at`, within one chunk where it exists, and whether they are a hole.
    fn run_at(&self, at: u64, end: u64) -> (u64, bool) {
        let index = at / CHUNK;
        let shard = lock(self.shard(index));
        let Some(chunk) = shard.get(&index) else {
            drop(shard);
            let next = self.next_chunk(index).map_or(end, |next| (next * CHUNK).min(end));
            return (next - at, true);
        };
        let page = (at % CHUNK) / BLOCK;
        let rest = chunk.written >> page;
        let hole = rest & 1 == 0;
        let same = if hole { rest.trailing_zeros() } else { rest.trailing_ones() };
        // The shift brought zeroes in from above, so the count may reach past the chunk.
        let stop = index * CHUNK + ((page + u64::from(same)) * BLOCK).min(CHUNK);
        (stop.min(end) - at, hole)
    }

    /// The first chunk after `index` that exists.
    fn next_chunk(&self, index: u64) -> Option<u64> {
        let after =
            |shard: &Mutex<BTreeMap<u64, Chunk>>| lock(shard).range(index + 1..).next().map(|(i, _)| *i);
        self.shards.iter().filter_map(after).min()
    }

    fn copy_out(&self, span: Span, mut out: &mut [u8]) {
        for part in parts(span) {
            let (head, tail) = out.split_at_mut(part.range.len());
            match lock(self.shard(part.chunk)).get(&part.chunk) {
                Some(chunk) => head.copy_from_slice(&chunk.bytes[part.range]),
                None => head.fill(0),
            }
            out = tail;
        }
    }

    fn with_chunk(&self, index: u64, change: impl FnOnce(&mut Chunk)) {
        let mut shard = lock(self.shard(index));
        change(shard.entry(index).or_insert_with(Chunk::new));
    }

    /// Changes the chunks of a span that exist, and drops those that nothing is left of.
    fn for_existing(&self, span: Span, change: impl Fn(&mut Chunk, &Range<usize>)) {
        let mut next = Some(span.offset().0 / CHUNK);
        while let Some(index) = next.filter(|index| !span.is_empty() && index * CHUNK < span.end().0) {
            let start = span.offset().0.max(index * CHUNK);
            let len = span.end().0.min((index + 1) * CHUNK) - start;
            let range = in_chunk(start, len);
            let mut shard = lock(self.shard(index));
            if let Some(chunk) = shard.get_mut(&index) {
                change(chunk, &range);
                if chunk.written == 0 {
                    shard.remove(&index);
                }
            }
            drop(shard);
            next = self.next_chunk(index);
        }
    }

    fn shard(&self, chunk: u64) -> &Mutex<BTreeMap<u64, Chunk>> {
        &self.shards[ByteLen(chunk % SHARDS).as_usize()]
    }

    fn check_bad(&self, span: Span) -> Result<(), Status> {
        let hit = |bad: &Span| bad.offset() < span.end() && span.offset() < bad.end();
        if self.bad.as_ref().is_some_and(hit) { Err(Status::Io) } else { Ok(()) }
    }

    fn check_writable(&self, span: Span) -> Result<(), Status> {
        if self.read_only { Err(Status::ReadOnly) } else { self.check_bad(span) }
    }
}

impl Chunk {
    fn new() -> Chunk {
        Chunk { bytes: vec![0; ByteLen(CHUNK).as_usize()].into(), written: 0 }
    }

    fn forget(&mut self, pages: u16) {
        let block = ByteLen(BLOCK).as_usize();
        for page in (0..16).filter(|page| pages >> page & 1 == 1) {
            self.bytes[page * block..(page + 1) * block].fill(0);
        }
        self.written &= !pages;
    }
}

fn in_chunk(at: u64, len: u64) -> Range<usize> {
    let start = ByteOffset(at % CHUNK).0;
    ByteLen(start).as_usize()..ByteLen(start + len).as_usize()
}

fn parts(span: Span) -> impl Iterator<Item = Part> {
    let (mut at, end) = (span.offset().0, span.end().0);
    std::iter::from_fn(move || {
        let len = (CHUNK - at % CHUNK).min(end - at);
        let part = Part { chunk: at / CHUNK, range: in_chunk(at, len) };
        at += len;
        (len > 0).then_some(part)
    })
}

/// The pages that a range of a chunk reaches into.
fn touched(range: &Range<usize>) -> u16 {
    let block = ByteLen(BLOCK).as_usize();
    mask(range.start / block, range.end.div_ceil(block))
}

/// The pages that lie wholly in a range of a chunk.
fn covered(range: &Range<usize>) -> u16 {
    let block = ByteLen(BLOCK).as_usize();
    mask(range.start.div_ceil(block), range.end / block)
}

fn mask(from: usize, to: usize) -> u16 {
    let below = |n: usize| if n >= 16 { u16::MAX } else { (1 << n) - 1 };
    if from < to { below(to) & !below(from) } else { 0 }
}

#[cfg(test)]
mod tests;
