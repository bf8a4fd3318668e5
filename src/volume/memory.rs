//! A volume in memory: what the network benchmark serves, and what protocol tests write to.
//!
//! Sparse: a page of 4 KiB exists where something was written; regions of 4 MiB hold the pages. Regions are spread
//! over locked shards, so cores seldom meet. A lock is held while at most a mebibyte is copied, which makes each
//! block old or new for every reader.

use crate::base::limits::{BLOCK, CHUNK_MAX, LBA_BYTES, LBA_BYTES_DEFAULT};
use crate::base::units::{ByteLen, Span};
use crate::block::{
    Allocation, AllocationRun, Geometry, Payload, ReservationCell, Status, WriteFlags, ZeroFlags, pieces,
};
use crate::reactor::Core;
use crate::reactor::sync::lock;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

const PAGE: usize = BLOCK as usize; // 4096
const REGION: u64 = 4 << 20;
const PAGES: usize = REGION as usize / PAGE; // 4 MiB fits
const SHARDS: u64 = 64;

const _: () = assert!(REGION.is_multiple_of(CHUNK_MAX) && REGION.is_multiple_of(BLOCK));

/// A sparse volume in memory.
pub struct MemoryVolume {
    size: ByteLen,
    shards: Vec<Mutex<BTreeMap<u64, Region>>>,
    read_only: bool,
    discards_writes: bool,
    bad: Option<Span>,
    lba_bytes: u32,
    reservations: ReservationCell,
}

/// The pages of 4 MiB; what is not there reads as zeroes.
struct Region {
    pages: Box<[Option<Page>]>,
    present: usize,
}

type Page = Box<[u8; PAGE]>;

/// The part of a span that lies in one region, in bytes from the region's start.
struct Part {
    region: u64,
    range: Range<usize>,
}

impl MemoryVolume {
    pub fn new(size: ByteLen) -> MemoryVolume {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        MemoryVolume {
            size,
            shards,
            read_only: false,
            discards_writes: false,
            bad: None,
            lba_bytes: LBA_BYTES_DEFAULT,
            reservations: ReservationCell::new(Arc::default()),
        }
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

    /// Has sectors of this many bytes for hosts that count in sectors.
    ///
    /// # Panics
    /// If no volume has such sectors.
    pub fn with_lba(mut self, bytes: u32) -> MemoryVolume {
        assert!(LBA_BYTES.contains(&bytes), "a sector has 512 or 4096 bytes");
        self.lba_bytes = bytes;
        self
    }

    pub fn lba_bytes(&self) -> u32 {
        self.lba_bytes
    }

    pub fn reservations(&self) -> &ReservationCell {
        &self.reservations
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
        let mut payload = Payload::default();
        for piece in pieces(span) {
            let part = part_at(piece.span.offset().0, piece.span.len().0);
            match lock(self.shard(part.region)).get(&part.region) {
                Some(region) => region.read(core, part.range, &mut payload),
                None => payload.parts.push(core.buffers().zeroes(part.range.len())),
            }
        }
        Ok(payload)
    }

    pub async fn write(
        &self,
        _core: &Core,
        span: Span,
        data: &Payload,
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
                let mut shard = lock(self.shard(part.region));
                shard.entry(part.region).or_insert_with(Region::new).write(part.range.start, head);
                rest = tail;
            }
            at += ByteLen(buf.len() as u64); // widening
        }
        Ok(())
    }

    /// Forgets the whole blocks of a span; parts of blocks at its ends stay as they are.
    pub async fn discard(&self, span: Span, _flags: WriteFlags) -> Result<(), Status> {
        self.check_writable(span)?;
        self.for_existing(span, |region, range| region.discard(range));
        Ok(())
    }

    pub async fn write_zeroes(&self, span: Span, flags: ZeroFlags) -> Result<(), Status> {
        self.check_writable(span)?;
        if flags.allocate && !self.discards_writes {
            for part in parts(span) {
                let mut shard = lock(self.shard(part.region));
                shard.entry(part.region).or_insert_with(Region::new).allocate_zeroes(part.range);
            }
        } else {
            self.for_existing(span, |region, range| {
                region.zero_present(range.clone());
                region.discard(range);
            });
        }
        Ok(())
    }

    pub async fn allocation(&self, span: Span, runs_max: usize) -> Result<Allocation, Status> {
        let runs = self.runs(span, runs_max);
        let covered = ByteLen(runs.iter().map(|run| run.len.0).sum());
        Ok(Allocation { span: Span::at(span.offset().0, covered.0), runs })
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

    /// Bytes of one kind from `at`, within one region where it exists, and whether they are a hole.
    fn run_at(&self, at: u64, end: u64) -> (u64, bool) {
        let part = part_at(at, (REGION - at % REGION).min(end - at));
        let shard = lock(self.shard(part.region));
        match shard.get(&part.region) {
            Some(region) => {
                let (len, hole) = region.run_at(part.range);
                (len as u64, hole) // widening
            }
            None => {
                drop(shard);
                let next = self.next_region(part.region).map_or(end, |next| (next * REGION).min(end));
                (next - at, true)
            }
        }
    }

    /// The first region after `index` that exists.
    fn next_region(&self, index: u64) -> Option<u64> {
        let after =
            |shard: &Mutex<BTreeMap<u64, Region>>| lock(shard).range(index + 1..).next().map(|(i, _)| *i);
        self.shards.iter().filter_map(after).min()
    }

    /// Changes the regions of a span that exist, and drops those that nothing is left of.
    fn for_existing(&self, span: Span, change: impl Fn(&mut Region, Range<usize>)) {
        let mut next = Some(span.offset().0 / REGION);
        while let Some(index) = next.filter(|index| !span.is_empty() && index * REGION < span.end().0) {
            let start = span.offset().0.max(index * REGION);
            let part = part_at(start, span.end().0.min((index + 1) * REGION) - start);
            let mut shard = lock(self.shard(index));
            if let Some(region) = shard.get_mut(&index) {
                change(region, part.range);
                if region.present == 0 {
                    shard.remove(&index);
                }
            }
            drop(shard);
            next = self.next_region(index);
        }
    }

    fn shard(&self, region: u64) -> &Mutex<BTreeMap<u64, Region>> {
        &self.shards[ByteLen(region % SHARDS).as_usize()]
    }

    fn check_bad(&self, span: Span) -> Result<(), Status> {
        let hit = |bad: &Span| bad.offset() < span.end() && span.offset() < bad.end();
        if self.bad.as_ref().is_some_and(hit) { Err(Status::Io) } else { Ok(()) }
    }

    fn check_writable(&self, span: Span) -> Result<(), Status> {
        if self.read_only { Err(Status::ReadOnly) } else { self.check_bad(span) }
    }
}

impl Region {
    fn new() -> Region {
        Region { pages: (0..PAGES).map(|_| None).collect(), present: 0 }
    }

    /// Appends the bytes of a range: copies of what is there, shared zeroes for what is not.
    fn read(&self, core: &Core, range: Range<usize>, payload: &mut Payload) {
        let mut rest = range;
        while !rest.is_empty() {
            let (len, hole) = self.run_at(rest.clone());
            payload.parts.push(match hole {
                true => core.buffers().zeroes(len),
                false => {
                    let mut buf = core.buffers().take(len);
                    self.copy_out(rest.start, buf.as_mut_slice());
                    buf.freeze()
                }
            });
            rest.start += len;
        }
    }

    fn copy_out(&self, start: usize, out: &mut [u8]) {
        for (page, within, place) in pages_of(start..start + out.len()) {
            let page = self.pages[page].as_ref().expect("the run is of pages that are there");
            out[place.clone()].copy_from_slice(&page[within]);
        }
    }

    fn write(&mut self, start: usize, data: &[u8]) {
        for (page, within, place) in pages_of(start..start + data.len()) {
            self.page(page)[within].copy_from_slice(&data[place]);
        }
    }

    fn allocate_zeroes(&mut self, range: Range<usize>) {
        for (page, within, _) in pages_of(range) {
            self.page(page)[within].fill(0);
        }
    }

    fn zero_present(&mut self, range: Range<usize>) {
        for (page, within, _) in pages_of(range) {
            if let Some(page) = &mut self.pages[page] {
                page[within].fill(0);
            }
        }
    }

    /// Forgets the pages that lie wholly in a range.
    fn discard(&mut self, range: Range<usize>) {
        for (page, within, _) in pages_of(range) {
            if within.len() == PAGE && self.pages[page].take().is_some() {
                self.present -= 1;
            }
        }
    }

    fn page(&mut self, index: usize) -> &mut Page {
        let present = &mut self.present;
        self.pages[index].get_or_insert_with(|| {
            *present += 1;
            Box::new([0; PAGE])
        })
    }

    /// Bytes of one kind from the start of a range that is not empty, and whether they are a hole.
    fn run_at(&self, range: Range<usize>) -> (usize, bool) {
        let first = range.start / PAGE;
        let hole = self.pages[first].is_none();
        let last = range.end.div_ceil(PAGE);
        let same = self.pages[first..last].iter().take_while(|page| page.is_none() == hole).count();
        let stop = ((first + same) * PAGE).min(range.end);
        (stop - range.start, hole)
    }
}

/// The part of a region that starts at a volume's byte; it must not reach into the next region.
fn part_at(at: u64, len: u64) -> Part {
    let start = ByteLen(at % REGION).as_usize();
    Part { region: at / REGION, range: start..start + ByteLen(len).as_usize() }
}

fn parts(span: Span) -> impl Iterator<Item = Part> {
    let (mut at, end) = (span.offset().0, span.end().0);
    std::iter::from_fn(move || {
        let len = (REGION - at % REGION).min(end - at);
        let part = part_at(at, len);
        at += len;
        (len > 0).then_some(part)
    })
}

/// The pages of a range of a region: page, bytes within it, and their place counted from the range's start.
fn pages_of(range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let (page, within, place) = (at / PAGE, at % PAGE, at - range.start);
        let len = (PAGE - within).min(range.end - at);
        at += len;
        (len > 0).then_some((page, within..within + len, place..place + len))
    })
}

#[cfg(test)]
mod tests;
