//! Copying a volume out of what is left of its pool: stripe by stripe, in the order of the volume's bytes, with a few
//! mebibytes of memory.

use super::super::redundancy::mirror::Copy;
use super::super::redundancy::stripe::Segment;
use super::super::region_block::{Owner, Places, RegionBlock};
use super::super::state::{SlotRecord, VolumeRecord};
use super::choice::{Fate, Plan, Seen, View, plan};
use super::{Drive, Remains};
use crate::base::checksum::{block_seed, block_sum};
use crate::base::limits::{BLOCK, CHUNK_MAX};
use crate::base::units::{ByteLen, ByteOffset, RegionIndex, SlotIndex, Span, VolumeId};
use crate::disk::Patience;
use crate::io::buf::BufMut;
use crate::reactor::Core;
use futures_util::future::join_all;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::io;
use std::ops::Range;

const BLOCK_LEN: usize = BLOCK as usize; // a constant of 4096

/// Blocks read at once.
const STEP: usize = (CHUNK_MAX / BLOCK) as usize; // a constant of 256

/// Where the bytes of a volume go.
pub trait Sink {
    /// Takes bytes of the volume. They come roughly in order, each once; what never comes reads as zeros.
    fn put(&mut self, at: ByteOffset, bytes: &[u8]) -> io::Result<()>;

    /// Told what became of a range: in order, without a gap, neighbours with different fates.
    fn tell(&mut self, span: Span, fate: Fate) -> io::Result<()>;
}

/// Slots that hold contiguous bytes of the volume together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stripe {
    first: u32,
    columns: u32,
    at: u64,
}

/// One region's copies that are there.
struct Present<'a> {
    drive: &'a Drive,
    copy: Copy,
}

/// What belongs to one region while it is copied.
struct Work<'a> {
    owner: Owner,
    /// The number of its first block in the slot.
    first_block: u32,
    present: SmallVec<[Present<'a>; 3]>,
    plan: Plan,
    /// Volume byte of each stripe unit's beginning, and how long they are.
    place: Place,
}

/// Where the bytes of one column's region lie in the volume.
#[derive(Clone, Copy)]
struct Place {
    /// The first byte of the row: the same region of all columns.
    row: u64,
    columns: u64,
    column: u64,
    unit: u64,
    /// The volume's size.
    end: u64,
}

impl Place {
    /// Where a byte of the region lies in the volume.
    fn of(&self, within: u64) -> u64 {
        let (unit, rest) = (within / self.unit, within % self.unit);
        self.row + (unit * self.columns + self.column) * self.unit + rest
    }
}

/// Tells ranges that have one fate as one.
struct Teller<'a, S> {
    sink: &'a RefCell<S>,
    from: u64,
    until: u64,
    fate: Fate,
    end: u64,
}

impl<S: Sink> Teller<'_, S> {
    /// The range up to here has this fate.
    fn tell(&mut self, until: u64, fate: Fate) -> io::Result<()> {
        let until = until.min(self.end);
        if until <= self.until {
            return Ok(());
        }
        if fate != self.fate {
            self.finish()?;
            self.fate = fate;
        }
        self.until = until;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.until > self.from {
            self.sink.borrow_mut().tell(Span::at(self.from, self.until - self.from), self.fate)?;
            self.from = self.until;
        }
        Ok(())
    }
}

impl Remains {
    /// Copies a volume into the sink.
    ///
    /// # Errors
    /// What the sink says; what the drives say becomes a fate.
    pub async fn copy<S: Sink>(&self, core: &Core, id: VolumeId, sink: &RefCell<S>) -> io::Result<()> {
        let volume = &self.state.volumes[&id];
        let end = volume.size.0;
        let mut teller = Teller { sink, from: 0, until: 0, fate: Fate::Hole, end };
        for stripe in stripes(volume, self.state.extent) {
            teller.tell(stripe.at, Fate::Hole)?;
            for region in 0..self.regions_per_slot() {
                let row = stripe.at + u64::from(region) * u64::from(stripe.columns) * self.region.0;
                if row < end {
                    self.copy_row(core, id, stripe, RegionIndex(region), row, &mut teller).await?;
                }
            }
        }
        teller.tell(end, Fate::Hole)?;
        teller.finish()
    }

    async fn copy_row<S: Sink>(
        &self,
        core: &Core,
        id: VolumeId,
        stripe: Stripe,
        region: RegionIndex,
        row: u64,
        teller: &mut Teller<'_, S>,
    ) -> io::Result<()> {
        let volume = &self.state.volumes[&id];
        let columns = u64::from(stripe.columns);
        // A single column has no stripe units: its region is one piece.
        let unit = if columns == 1 { self.region.0 } else { volume.unit.0 };
        let place = |column| Place { row, columns, column: u64::from(column), unit, end: volume.size.0 };
        let copies = (0..stripe.columns).map(|column| {
            self.copy_region(core, id, SlotIndex(stripe.first + column), region, place(column), teller.sink)
        });
        let columns: Vec<Vec<Fate>> = join_all(copies).await.into_iter().collect::<io::Result<_>>()?;
        let mut fates = vec![Fate::Hole; columns.len() * self.region_blocks()];
        for (column, found) in (0..).zip(&columns) {
            for (within, fate) in (0..).step_by(BLOCK_LEN).zip(found) {
                fates[ByteLen((place(column).of(within) - row) / BLOCK).as_usize()] = *fate;
            }
        }
        for (number, fate) in (1..).zip(fates) {
            teller.tell(row + number * BLOCK, fate)?;
        }
        Ok(())
    }

    /// Copies one region; gives the fate of each of its blocks.
    async fn copy_region<S: Sink>(
        &self,
        core: &Core,
        id: VolumeId,
        slot: SlotIndex,
        region: RegionIndex,
        place: Place,
        sink: &RefCell<S>,
    ) -> io::Result<Vec<Fate>> {
        let volume = &self.state.volumes[&id];
        let blocks = self.region_blocks();
        let Some(record) = volume.slots.get(&slot) else { return Ok(vec![Fate::Hole; blocks]) };
        let owner = Owner { pool: self.state.pool, volume: id, slot, region, stamp: record.stamp };
        let (present, views) = self.views(core, volume, record, &owner).await;
        let top = record.copies.iter().map(|c| self.rank(c.member)).max().unwrap_or_default();
        let Some(plan) = plan(&views, top) else { return Ok(vec![Fate::Lost; blocks]) };
        let mut fates = vec![plan.unwritten(); blocks];
        let first_block = region.0 * u32::try_from(blocks).expect("512 at most");
        let work = Work { owner, first_block, present, plan, place };
        let Some(block) = &work.plan.block else { return Ok(fates) };
        for first in (0..blocks).step_by(STEP) {
            let step = first..(first + STEP).min(blocks);
            let written: Vec<usize> = step.filter(|b| block.written.get(*b)).collect();
            if let (Some(first), Some(last)) = (written.first(), written.last()) {
                let (bytes, found) = work.read(core, block, *first..last + 1).await;
                written.iter().for_each(|b| fates[*b] = found[*b - first]);
                work.put(&bytes, *first, &found, sink)?;
            }
        }
        Ok(fates)
    }

    /// The copies of a region that are there, and what they say about it.
    async fn views(
        &self,
        core: &Core,
        volume: &VolumeRecord,
        record: &SlotRecord,
        owner: &Owner,
    ) -> (SmallVec<[Present<'_>; 3]>, Vec<View>) {
        let there = record.copies.iter().filter_map(|copy| {
            let drive = self.drives.get(&copy.member)?;
            (copy.extent.0 < drive.layout.extents).then_some(Present { drive, copy: *copy })
        });
        let present: SmallVec<[Present; 3]> = there.collect();
        // A slot without marks tells nothing of where writes were under way.
        let unmarked = record.copies.len() == 1 && !volume.checksums;
        let views = present.iter().map(async |p| {
            let number = p.drive.layout.region_number(p.copy.extent, owner.region);
            let marked = p.drive.dirty.as_ref().is_none_or(|bits| bits.get(ByteLen(number).as_usize()));
            View {
                rank: p.drive.rank,
                dirty: !self.state.clean && (marked || unmarked),
                places: read_places(core, p, owner, self.region_blocks()).await,
            }
        });
        let views = join_all(views).await;
        (present, views)
    }
}

async fn read_places(core: &Core, p: &Present<'_>, owner: &Owner, blocks: usize) -> Option<Places> {
    let at = p.drive.layout.region_block(p.copy.extent, owner.region, 0);
    let both =
        p.drive.disk.read(core, at, core.buffers().take(2 * BLOCK_LEN), Patience::Opening).await.ok()?;
    Some(Places::parse(both.as_slice(), owner, blocks, at))
}

impl Work<'_> {
    /// Reads some blocks of the region, each from the copy to take; those that were never written are not told apart.
    async fn read(&self, core: &Core, block: &RegionBlock, blocks: Range<usize>) -> (BufMut, Vec<Fate>) {
        let mut fates = vec![Fate::Hole; blocks.len()];
        let whole = self.read_copy(core, 0, blocks.start, blocks.len()).await;
        let readable = whole.is_some();
        let mut bytes = whole.unwrap_or_else(|| core.buffers().take(blocks.len() * BLOCK_LEN));
        for (at, number) in blocks.enumerate().filter(|(_, number)| block.written.get(*number)) {
            let range = at * BLOCK_LEN..(at + 1) * BLOCK_LEN;
            let first = readable.then(|| self.check(block, number, &bytes.as_slice()[range.clone()]));
            let chosen = first.and_then(|seen| self.plan.choose(&[seen]));
            fates[at] = match chosen {
                Some((_, fate)) => fate,
                None => self.search(core, block, number, &mut bytes.as_mut_slice()[range]).await,
            };
        }
        (bytes, fates)
    }

    /// Looks for a block on every copy.
    async fn search(&self, core: &Core, block: &RegionBlock, number: usize, into: &mut [u8]) -> Fate {
        let reads = (0..self.plan.order.len()).map(|at| self.read_copy(core, at, number, 1));
        let found: Vec<Option<BufMut>> = join_all(reads).await;
        let look = |bytes: &Option<BufMut>| match bytes {
            Some(bytes) => self.check(block, number, bytes.as_slice()),
            None => Seen::Unreadable,
        };
        let seen: Vec<Seen> = found.iter().map(look).collect();
        let chosen = self.plan.choose(&seen).and_then(|(at, fate)| found[at].as_ref().map(|b| (b, fate)));
        let Some((bytes, fate)) = chosen else { return Fate::Lost };
        into.copy_from_slice(bytes.as_slice());
        fate
    }

    fn check(&self, block: &RegionBlock, number: usize, bytes: &[u8]) -> Seen {
        if block.lost.as_ref().is_some_and(|lost| lost.get(number)) {
            return Seen::Unreadable;
        }
        let Some(sums) = &block.sums else { return Seen::NoSum };
        let (pool, _) = self.owner.pool.as_u64_pair();
        let in_slot = self.first_block + u32::try_from(number).expect("512 at most");
        let seed = block_seed(pool, self.owner.volume.0, self.owner.slot.0, self.owner.stamp, in_slot);
        if block_sum(seed, bytes) == sums[number] { Seen::Matches } else { Seen::Differs }
    }

    /// Blocks of one copy; None if they cannot all be read.
    async fn read_copy(&self, core: &Core, order: usize, first: usize, count: usize) -> Option<BufMut> {
        let Present { drive, copy } = &self.present[self.plan.order[order]];
        let offset = ByteLen((u64::from(self.first_block) + first as u64) * BLOCK); // widening
        let into = core.buffers().take(count * BLOCK_LEN);
        drive.disk.read(core, drive.layout.data(copy.extent, offset), into, Patience::Opening).await.ok()
    }

    /// Gives the sink what was found, in pieces that lie together in the volume.
    fn put<S: Sink>(
        &self,
        bytes: &BufMut,
        first: usize,
        fates: &[Fate],
        sink: &RefCell<S>,
    ) -> io::Result<()> {
        let is_there = |fate: &Fate| matches!(fate, Fate::Sound | Fate::Unchecked | Fate::Old);
        let mut at = 0;
        while at < fates.len() {
            let within = (first + at) as u64 * BLOCK; // widening
            let to_unit_end = ByteLen((self.place.unit - within % self.place.unit) / BLOCK).as_usize();
            let run = fates[at..].iter().take(to_unit_end).take_while(|f| is_there(f)).count();
            if run == 0 {
                at += 1;
                continue;
            }
            let to = self.place.of(within);
            let room = ByteLen(self.place.end.saturating_sub(to)).as_usize();
            let piece = &bytes.as_slice()[at * BLOCK_LEN..(at + run) * BLOCK_LEN];
            if room > 0 {
                sink.borrow_mut().put(ByteOffset(to), &piece[..piece.len().min(room)])?;
            }
            at += run;
        }
        Ok(())
    }
}

/// The stripes that have an allocated slot, in the order of the volume's bytes.
fn stripes(volume: &VolumeRecord, extent: ByteLen) -> Vec<Stripe> {
    let mut found: Vec<Stripe> = Vec::new();
    for slot in volume.slots.keys() {
        let stripe = stripe_of(&volume.segments, *slot, extent);
        found.extend(stripe.filter(|s| found.last() != Some(s) && s.at < volume.size.0));
    }
    found
}

/// The stripe that a slot belongs to; None if it is beyond the segments.
fn stripe_of(segments: &[Segment], slot: SlotIndex, extent: ByteLen) -> Option<Stripe> {
    let (mut first, mut at) = (0u64, 0u64);
    for segment in segments {
        let slots = u64::from(segment.columns) * u64::from(segment.stripes);
        if u64::from(slot.0) < first + slots {
            let stripe =
                (u64::from(slot.0) - first) / u64::from(segment.columns) * u64::from(segment.columns);
            let number = u32::try_from(first + stripe).ok()?;
            return Some(Stripe { first: number, columns: segment.columns, at: at + stripe * extent.0 });
        }
        first += slots;
        at += slots * extent.0;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::super::redundancy::stripe::Geometry;
    use super::*;

    #[test]
    fn rows_are_the_inverse_of_the_volumes_geometry() {
        let (extent, region, unit) = (ByteLen(4 << 20), ByteLen(2 << 20), ByteLen(128 << 10));
        let mut geometry = Geometry { extent, region, unit, segments: vec![] };
        geometry.cover(ByteLen(28 << 20), 3);
        geometry.cover(ByteLen(40 << 20), 2);
        let end = geometry.capacity().0;
        for fragment in geometry.fragments(Span::at(0, end)) {
            let stripe = stripe_of(&geometry.segments, fragment.slot, extent).unwrap();
            let columns = u64::from(stripe.columns);
            let place = Place {
                row: stripe.at + fragment.offset.0 / region.0 * region.0 * columns,
                columns,
                column: u64::from(fragment.slot.0 - stripe.first),
                unit: if columns == 1 { region.0 } else { unit.0 },
                end,
            };
            assert_eq!(place.of(fragment.offset.0 % region.0), fragment.at.0, "{fragment:?}");
        }
        assert_eq!(stripe_of(&geometry.segments, SlotIndex(10), extent), None);
    }
}
