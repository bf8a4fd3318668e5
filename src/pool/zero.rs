//! Zeroes and discards: blocks are marked as never written, and slots without a written block go back to the pool.

use super::fragment_read::index;
use super::fragment_write::{begin, write};
use super::kept_marks::Marks;
use super::load::{ensure_loaded, ensure_placed, is_allocated};
use super::planted::{Planted, is_planted};
use super::redundancy::stripe::Fragment;
use super::region::{Hold, Load, Placement};
use super::volume::PoolVolume;
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, ByteOffset, RegionIndex, SlotIndex, Span, round_down, round_up};
use crate::block::{Allocation, AllocationRun, Status, WriteFlags, ZeroFlags};
use crate::reactor::Core;
use crate::reactor::sync::lock;
use std::collections::BTreeSet;
use std::ops::Range;

/// Stripes that one question about allocation looks at, at most.
const STRIPES_PER_ANSWER: usize = 64;

impl PoolVolume {
    /// Gives space back. Blocks covered in part keep their bytes.
    pub async fn discard(&self, core: &Core, span: Span, flags: WriteFlags) -> Result<(), Status> {
        let _entered = self.enter()?;
        let start = round_up(span.offset().0, BLOCK);
        let end = round_down(span.end().0, BLOCK);
        let mut marks = Marks::Saved;
        if start < end {
            marks = self.clear(core, Span::at(start, end - start), false).await?;
        }
        if flags.fua { self.flush(core).await } else { self.secure(core, marks, false).await }
    }

    /// Makes a span read as zeros.
    pub async fn write_zeroes(&self, core: &Core, span: Span, flags: ZeroFlags) -> Result<(), Status> {
        let _entered = self.enter()?;
        let marks;
        let (first, last) = (round_up(span.offset().0, BLOCK), round_down(span.end().0, BLOCK));
        if first >= last {
            // Less than two blocks have to be written: nothing would be faster than a WRITE.
            if flags.fast_only {
                return Err(Status::NotFast);
            }
            marks = self.zero_part(core, span, flags.allocate).await?;
        } else {
            let (head, tail) = (first - span.offset().0, span.end().0 - last);
            let head = self.zero_part(core, Span::at(span.offset().0, head), flags.allocate).await?;
            let middle = self.clear(core, Span::at(first, last - first), flags.allocate).await?;
            let tail = self.zero_part(core, Span::at(last, tail), flags.allocate).await?;
            marks = head.max(middle).max(tail);
        }
        if flags.fua { self.flush(core).await } else { self.secure(core, marks, false).await }
    }

    /// Writes zeros into parts of blocks; where no slot is allocated they are zero already, and written only to
    /// allocate it.
    async fn zero_part(&self, core: &Core, span: Span, allocate: bool) -> Result<Marks, Status> {
        let mut marks = Marks::Saved;
        for fragment in self.fragments(span) {
            let zeroes = core.buffers().zeroes(fragment.len.as_usize());
            if allocate || is_allocated(self, fragment.slot) {
                marks = marks.max(write(self, core, fragment, zeroes, false).await?);
            }
        }
        Ok(marks)
    }

    /// Clears the written marks of whole blocks, stripe by stripe.
    async fn clear(&self, core: &Core, span: Span, allocate: bool) -> Result<Marks, Status> {
        let (mut at, mut marks) = (span.offset(), Marks::Saved);
        while at < span.end() {
            let (slots, stripe) = self.shape.load().geometry.stripe_at(at);
            let end = stripe.end().min(span.end());
            let part = Span::at(at.0, (end - at).0);
            if allocate || slots.clone().any(|slot| is_allocated(self, SlotIndex(slot))) {
                marks = marks.max(self.clear_in_stripe(core, part, allocate).await?);
            }
            at = if allocate { end } else { self.next_allocated(slots.end, end, span) };
        }
        Ok(marks)
    }

    /// Where the next stripe with an allocated slot starts, from slot `from` on.
    fn next_allocated(&self, from: u32, at: ByteOffset, span: Span) -> ByteOffset {
        let next = {
            let live = lock(&self.pool.live);
            let record = live.state.volumes.get(&self.id);
            record.and_then(|v| v.slots.range(SlotIndex(from)..).next().map(|(slot, _)| *slot))
        };
        let Some(next) = next else { return span.end() };
        let geometry = &self.shape.load().geometry;
        let mut start = at;
        while start < span.end() && !geometry.stripe_at(start).0.contains(&next.0) {
            start = geometry.stripe_at(start).1.end();
        }
        start.min(span.end())
    }

    async fn clear_in_stripe(&self, core: &Core, span: Span, allocate: bool) -> Result<Marks, Status> {
        let (mut touched, mut marks) = (BTreeSet::new(), Marks::Saved);
        for fragment in self.fragments(span) {
            if allocate || is_allocated(self, fragment.slot) {
                marks = marks.max(self.clear_fragment(core, fragment, allocate).await?);
                touched.insert(fragment.slot);
            }
        }
        if !allocate {
            for slot in touched {
                self.free_if_empty(core, slot).await?;
            }
        }
        Ok(marks)
    }

    async fn clear_fragment(&self, core: &Core, fragment: Fragment, allocate: bool) -> Result<Marks, Status> {
        let (region, within) = self.region_of(&fragment);
        let blocks = super::volume::blocks_of(within, fragment.len);
        let hold = region.hold(blocks.clone(), true).await;
        ensure_loaded(self, core, &hold).await?;
        if allocate {
            ensure_placed(self, &hold).await?;
        }
        let range = index(blocks.start)..index(blocks.end);
        let placement = {
            let state = region.state();
            if !state.written.any(range.clone()) {
                return Ok(Marks::Saved);
            }
            state.placement.clone().expect("written blocks lie somewhere")
        };
        // Copies whose region blocks differ after a crash are settled by the dirty mark, as for a write.
        match is_planted(&self.pool, Planted::TrimNotMarked) {
            true => region.state().writing += 1,
            false => begin(self, core, &hold, &placement).await?,
        }
        let marks = {
            let mut state = region.state();
            state.writing -= 1;
            state.changes += 1;
            state.touched = core.now();
            state.written.set_range(range, false);
            self.pool.keep_marks(region.key, &mut state)
        };
        if !is_planted(&self.pool, Planted::TrimForgotten) {
            self.note_unsaved(region.key);
        }
        self.pool.lost.forget(self.id, region.key.slot, self.in_slot(region.key, &blocks));
        Ok(marks)
    }

    /// Frees a slot if no block of it is written.
    async fn free_if_empty(&self, core: &Core, slot: SlotIndex) -> Result<(), Status> {
        let regions = 0..self.pool.regions_per_slot();
        for region in regions.clone() {
            if !self.is_empty_region(core, slot, region).await? {
                return Ok(());
            }
        }
        let mut holds: Vec<Hold> = Vec::new();
        for region in regions {
            let region = self.pool.region(self.id, slot, RegionIndex(region), self.checksums);
            let hold = region.hold(0..self.pool.region_blocks(), true).await;
            ensure_loaded(self, core, &hold).await?;
            holds.push(hold);
        }
        let empty = |h: &Hold| h.region().state().written.is_empty();
        if !holds.iter().all(empty) || !is_allocated(self, slot) {
            return Ok(());
        }
        let mut placements = Vec::new();
        for hold in &holds {
            placements.push(take_placement(core, hold).await);
        }
        let freed = self.pool.free(self.id, slot).await;
        if freed.is_err() {
            holds.iter().zip(placements).for_each(|(h, p)| h.region().state().placement = p);
            return freed;
        }
        for hold in &holds {
            let marked = matches!(hold.region().state().mark, super::region::Mark::Durable { .. });
            self.pool.kept_marks.release(&mut hold.region().state());
            if !is_planted(&self.pool, Planted::KeepFreedRegion) {
                hold.region().state().reset();
            }
            if marked {
                self.pool.dirty_regions.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
        Ok(())
    }

    async fn is_empty_region(&self, core: &Core, slot: SlotIndex, region: u32) -> Result<bool, Status> {
        let region = self.pool.region(self.id, slot, RegionIndex(region), self.checksums);
        let loaded = region.state().load == Load::Loaded;
        if !loaded {
            let hold = region.hold(0..1, false).await;
            ensure_loaded(self, core, &hold).await?;
        }
        let empty = region.state().written.is_empty();
        Ok(empty)
    }

    /// What of a span is written. The answer may end before the span does.
    pub async fn allocation(&self, core: &Core, span: Span, runs_max: usize) -> Result<Allocation, Status> {
        let _entered = self.enter()?;
        let mut runs: Vec<AllocationRun> = Vec::new();
        let mut at = span.offset();
        for _ in 0..STRIPES_PER_ANSWER {
            if at >= span.end() || runs.len() >= runs_max {
                break;
            }
            let (slots, stripe) = self.shape.load().geometry.stripe_at(at);
            if slots.clone().any(|slot| is_allocated(self, SlotIndex(slot))) {
                let end = stripe.end().min(span.end());
                at = self.runs_in_stripe(core, Span::at(at.0, (end - at).0), runs_max, &mut runs).await?;
            } else {
                let next = self.next_allocated(slots.end, stripe.end().min(span.end()), span);
                push_run(&mut runs, AllocationRun { len: next - at, hole: true, zero: true });
                at = next;
            }
        }
        // A fragment may have had more runs than there was room for: the answer ends before them.
        runs.drain(runs_max.min(runs.len())..).for_each(|run| at = ByteOffset(at.0 - run.len.0));
        Ok(Allocation { span: Span::at(span.offset().0, (at - span.offset()).0), runs })
    }

    pub(super) async fn runs_in_stripe(
        &self,
        core: &Core,
        span: Span,
        runs_max: usize,
        runs: &mut Vec<AllocationRun>,
    ) -> Result<ByteOffset, Status> {
        for fragment in self.fragments(span) {
            if runs.len() >= runs_max {
                return Ok(fragment.at);
            }
            if !is_allocated(self, fragment.slot) {
                push_run(runs, AllocationRun { len: fragment.len, hole: true, zero: true });
                continue;
            }
            let (region, within) = self.region_of(&fragment);
            let blocks = super::volume::blocks_of(within, fragment.len);
            let hold = region.hold(blocks.clone(), false).await;
            match ensure_loaded(self, core, &hold).await {
                Ok(()) => {
                    let found = written_runs(&hold, blocks, within, fragment.len);
                    found.into_iter().for_each(|run| push_run(runs, run));
                }
                // No drive that is there knows: it may be data, and who reads it hears that it is gone.
                Err(Status::Io) => {
                    push_run(runs, AllocationRun { len: fragment.len, hole: false, zero: false });
                }
                Err(status) => return Err(status),
            }
        }
        Ok(span.end())
    }
}

/// Waits for saves under way and lets none begin: once the slot is freed, another may lie where they would write.
async fn take_placement(core: &Core, hold: &Hold) -> Option<Placement> {
    loop {
        let ticket = hold.region().changed.ticket();
        {
            let mut state = hold.region().state();
            if state.saving == 0 || is_planted(core, Planted::FreeDuringSave) {
                return state.placement.take();
            }
        }
        ticket.await;
    }
}

/// The runs of a fragment in a slot that has its place: written data, or zeros that need no new space.
fn written_runs(hold: &Hold, blocks: Range<u32>, within: ByteLen, len: ByteLen) -> Vec<AllocationRun> {
    let state = hold.region().state();
    let mut runs = Vec::new();
    let end = within.0 + len.0;
    for block in blocks {
        let start = (u64::from(block) * BLOCK).max(within.0);
        let stop = (u64::from(block + 1) * BLOCK).min(end);
        let zero = !state.written.get(index(block));
        push_run(&mut runs, AllocationRun { len: ByteLen(stop - start), hole: false, zero });
    }
    runs
}

fn push_run(runs: &mut Vec<AllocationRun>, run: AllocationRun) {
    match runs.last_mut() {
        Some(last) if last.hole == run.hole && last.zero == run.zero => last.len = last.len + run.len,
        Some(_) | None => runs.push(run),
    }
}
