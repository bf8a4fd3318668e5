//! Writing a fragment: mark the region, write all copies in sync, declare a failed copy stale, then answer.
//!
//! The order that durability rests on:
//! 1. the slot has a committed place;
//! 2. the region's dirty bit is durable on every copy (R29);
//! 3. the data goes to every copy in sync;
//! 4. a copy that failed is committed as stale (R20);
//! 5. only then is the write answered.
//!
//! That a block was written at all is remembered in memory and saved by the next flush, which is all that an
//! unflushed write may ask for.

use super::dirty_log::Plane;
use super::fragment_read::{block_start, index, read_blocks};
use super::kept_marks::Marks;
use super::load::{ensure_loaded, ensure_placed};
use super::planted::{Planted, first_of, is_planted};
use super::reach::{Reach, Reached};
use super::redundancy::stripe::Fragment;
use super::region::{Hold, Mark, Placement};
use super::volume::{PoolVolume, blocks_of, is_direct};
use crate::base::checksum::block_sum;
use crate::base::limits::{BLOCK, DIRTY_REGIONS_MAX};
use crate::base::units::ByteLen;
use crate::block::Status;
use crate::disk::in_words;
use crate::io::buf::Buf;
use crate::reactor::Core;
use futures_util::future::join_all;
use nix::errno::Errno;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::atomic::Ordering;

const BLOCK_LEN: usize = BLOCK as usize; // a constant of 4096

/// Writes a fragment, and says where the written marks of its blocks are.
pub async fn write(
    volume: &PoolVolume,
    core: &Core,
    fragment: Fragment,
    data: Buf,
    fua: bool,
) -> Result<Marks, Status> {
    let (region, within) = volume.region_of(&fragment);
    let blocks = blocks_of(within, fragment.len);
    let shared = is_planted(&volume.pool, Planted::ShareWrites)
        || is_planted(&volume.pool, Planted::SharePartialWrites) && !is_direct(&data, within);
    let hold = region.hold(blocks.clone(), !shared).await;
    ensure_loaded(volume, core, &hold).await?;
    let placement = ensure_placed(volume, &hold).await?;
    let data = if is_direct(&data, within) {
        data
    } else {
        Box::pin(whole_blocks(volume, core, &hold, &blocks, within, data)).await?
    };
    let sums = checksums(volume, &hold, &placement, &blocks, &data);
    begin(volume, core, &hold, &placement).await?;
    let written = write_copies(volume, core, &hold, &placement, &blocks, &data, fua).await;
    settle(volume, core, &hold, &blocks, sums, written)
}

/// A copy of the data as whole blocks, aligned in memory, with what is there already where a block is written in
/// part.
async fn whole_blocks(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    blocks: &Range<u32>,
    within: ByteLen,
    data: Buf,
) -> Result<Buf, Status> {
    let start = within.as_usize() - block_start(blocks.start);
    let end = start + data.len();
    let mut whole = core.buffers().take(blocks.len() * BLOCK_LEN);
    let partial_first = start > 0;
    let partial_last = end < whole.len();
    if partial_first {
        let first = blocks.start..blocks.start + 1;
        copy_old(volume, core, hold, first, &mut whole.as_mut_slice()[..BLOCK_LEN]).await?;
    }
    if partial_last && !(partial_first && blocks.len() == 1) {
        let last = blocks.end - 1..blocks.end;
        let at = whole.len() - BLOCK_LEN;
        copy_old(volume, core, hold, last, &mut whole.as_mut_slice()[at..]).await?;
    }
    whole.as_mut_slice()[start..end].copy_from_slice(data.as_slice());
    Ok(whole.freeze())
}

async fn copy_old(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    block: Range<u32>,
    out: &mut [u8],
) -> Result<(), Status> {
    match read_blocks(volume, core, hold, block).await? {
        Some(old) => out.copy_from_slice(old.as_slice()),
        None => out.fill(0),
    }
    Ok(())
}

fn checksums(
    volume: &PoolVolume,
    hold: &Hold,
    placement: &Placement,
    blocks: &Range<u32>,
    data: &Buf,
) -> Option<SmallVec<[u32; 8]>> {
    volume.checksums.then(|| {
        let key = hold.region().key;
        let each = data.as_slice().chunks_exact(BLOCK_LEN).zip(blocks.clone());
        each.map(|(bytes, block)| block_sum(volume.block_seed(key, placement.stamp, block), bytes)).collect()
    })
}

/// Makes sure that the region's dirty bit is durable on every copy, and counts a write in. `settle` counts it out.
pub async fn begin(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    placement: &Placement,
) -> Result<(), Status> {
    if volume.pool.doubts.concern(volume.id, hold.region().key.slot) {
        return Err(Status::Io);
    }
    if !volume.has_marks(placement) || is_planted(&volume.pool, Planted::SkipDirtyMark) {
        hold.region().state().writing += 1;
        return Ok(());
    }
    let full = volume.pool.dirty_regions.load(Ordering::Relaxed) >= DIRTY_REGIONS_MAX;
    if !full && count_in(volume, hold) {
        return Ok(());
    }
    Box::pin(mark(volume, core, hold, placement)).await
}

/// Counts a write in if the region's dirty bit is durable under the present membership.
fn count_in(volume: &PoolVolume, hold: &Hold) -> bool {
    let membership = volume.pool.membership();
    let mut state = hold.region().state();
    let marked = state.mark == Mark::Durable { membership };
    state.writing += u32::from(marked);
    marked
}

async fn mark(volume: &PoolVolume, core: &Core, hold: &Hold, placement: &Placement) -> Result<(), Status> {
    let region = hold.region();
    loop {
        wait_for_room(volume).await;
        let ticket = region.changed.ticket();
        let membership = volume.pool.membership();
        let was = {
            let mut state = region.state();
            let was = state.mark;
            match was {
                Mark::Durable { membership: known } if known == membership => {
                    state.writing += 1;
                    return Ok(());
                }
                Mark::Underway => {}
                Mark::Clear | Mark::Durable { .. } => state.mark = Mark::Underway,
            }
            was
        };
        if was == Mark::Underway {
            ticket.await;
            continue;
        }
        let reach = volume.pool.reach(placement, region.key.region);
        let failed = mark_copies(core, hold, &reach).await;
        // Bits that were set and are not relied on cost nothing but work after a crash.
        let marked = failed.is_empty() && reach.writable;
        region.state().mark = if marked { Mark::Durable { membership } } else { was };
        if was == Mark::Clear && marked {
            volume.pool.dirty_regions.fetch_add(1, Ordering::Relaxed);
        }
        region.changed.wake_all();
        if !reach.writable {
            return Err(Status::Io);
        }
        give_up(volume, &reach, failed, |_| true).await?;
    }
}

async fn wait_for_room(volume: &PoolVolume) {
    let pool = &volume.pool;
    while pool.dirty_regions.load(Ordering::Relaxed) >= DIRTY_REGIONS_MAX {
        let ticket = pool.cleaned.ticket();
        pool.clean_now.store(true, Ordering::Release);
        pool.clean_wanted.wake_all();
        if pool.dirty_regions.load(Ordering::Relaxed) >= DIRTY_REGIONS_MAX {
            ticket.await;
        }
    }
}

async fn mark_copies(core: &Core, hold: &Hold, reach: &Reach) -> Vec<(Reached, Errno)> {
    let copies = if is_planted(core, Planted::MarkOneCopy) { 1 } else { usize::MAX };
    let marks = reach.all().take(copies).map(async |reached| {
        let (disk, member, patience) = (reached.disk(), &reached.member, reach.patience(reached));
        let number = member.layout.region_number(reached.copy.extent, hold.region().key.region);
        let mut result = member.dirty.mark(core, disk, Plane::Dirty, number, patience).await;
        if reach.degraded && result.is_ok() && !is_planted(core, Planted::MissedNotRecorded) {
            result = member.dirty.mark(core, disk, Plane::Missed, number, patience).await;
        }
        result.err().map(|errno| (reached.clone(), errno))
    });
    join_all(marks).await.into_iter().flatten().collect()
}

/// Writes the data to every copy that can be believed. Ok only if each copy that counts as in sync afterwards holds it.
async fn write_copies(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    placement: &Placement,
    blocks: &Range<u32>,
    data: &Buf,
    fua: bool,
) -> Result<(), Status> {
    let region = hold.region().key.region;
    let reach = volume.pool.reach(placement, region);
    if !reach.writable || reach.copies.is_empty() {
        return Err(Status::Io);
    }
    let offset = volume.offset_in_extent(region, ByteLen(u64::from(blocks.start) * BLOCK));
    let durable = fua && !is_planted(&volume.pool, Planted::IgnoreFua);
    if write_now(core, &reach, blocks.start, offset, data, durable) {
        return Ok(());
    }
    // Apart, so that a write to memory does not carry along what waiting needs.
    Box::pin(wait_for_copies(volume, core, placement, reach, (blocks.start, offset), data, durable)).await
}

/// Writes copies whose disks are all memory; false if one must be waited for: then all are to be written.
fn write_now(core: &Core, reach: &Reach, first: u32, offset: ByteLen, data: &Buf, durable: bool) -> bool {
    reach.written_from(first).all(|Reached { copy, member }| {
        let at = member.layout.data(copy.extent, offset);
        member.disk.as_ref().is_some_and(|disk| disk.write_now(core, at, data, durable))
    })
}

/// The same with waiting. The data begins in this block of the region, and at this place in an extent.
async fn wait_for_copies(
    volume: &PoolVolume,
    core: &Core,
    placement: &Placement,
    reach: Reach,
    (first, offset): (u32, ByteLen),
    data: &Buf,
    durable: bool,
) -> Result<(), Status> {
    let write_one = async |reached: &Reached| {
        let Reached { copy, member } = reached;
        let disk = member.disk.as_ref().ok_or(Errno::ENODEV)?;
        let patience = reach.patience(reached);
        disk.write(core, member.layout.data(copy.extent, offset), data.clone(), durable, patience).await
    };
    if let ([only], [_], None) = (&reach.copies[..], &placement.copies[..], &reach.incoming) {
        return write_one(only).await.map_err(|_| Status::Io);
    }
    let writes =
        reach.written_from(first).map(async |reached| Some((reached.clone(), write_one(reached).await)));
    let ended = if is_planted(&volume.pool, Planted::AckAtFirstCopy) {
        Box::pin(first_of(writes)).await
    } else {
        Box::pin(join_all(writes)).await.into_iter().flatten().collect()
    };
    conclude(volume, &reach, ended).await
}

/// Gives up the copies that failed. Ok if one that counts as in sync afterwards holds the data.
async fn conclude(
    volume: &PoolVolume,
    reach: &Reach,
    ended: SmallVec<[(Reached, Result<(), Errno>); 3]>,
) -> Result<(), Status> {
    let ignored = is_planted(&volume.pool, Planted::IgnoreFailedWrite);
    if ignored || ended.iter().all(|(_, result)| result.is_ok()) {
        return Ok(());
    }
    let (mut holds, mut failed) = (Vec::new(), Vec::new());
    for (reached, result) in ended {
        match result {
            Ok(()) => holds.push(reached.copy),
            Err(errno) => failed.push((reached, errno)),
        }
    }
    Box::pin(give_up(volume, reach, failed, |copy| holds.contains(&copy.copy))).await
}

/// Declares the members of failed copies out of sync, if another copy that is enough by itself satisfies `holds`.
async fn give_up(
    volume: &PoolVolume,
    reach: &Reach,
    failed: Vec<(Reached, Errno)>,
    holds: impl Fn(&Reached) -> bool,
) -> Result<(), Status> {
    for (reached, errno) in &failed {
        let spared = |c: &&Reached| failed.iter().all(|(f, _)| f.copy != c.copy) && holds(c);
        // A member in sync leaves with the highest rank: only others in sync are worth as much without it.
        let enough = |c: &Reached| c.member.is_in_sync() || c.member.rank() > reached.member.rank();
        if !reach.copies.iter().filter(spared).any(enough) {
            return Err(Status::Io);
        }
        volume.pool.member_failed(&reached.member, format!("a write failed: {}", in_words(*errno))).await?;
    }
    Ok(())
}

/// Records how a write ended; before it is answered, its written marks are where a kill does not reach them.
fn settle(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    blocks: &Range<u32>,
    sums: Option<SmallVec<[u32; 8]>>,
    written: Result<(), Status>,
) -> Result<Marks, Status> {
    let mut state = hold.region().state();
    state.writing -= 1;
    state.changes += 1;
    state.touched = core.turn_at();
    if written.is_err() {
        // Copies may differ now, and nobody may take the mark away before they have been compared.
        state.unsettled = true;
        if let Some(incoming) = state.placement.as_mut().and_then(|placement| placement.incoming.as_mut()) {
            incoming.torn = true;
        }
    }
    written?;
    let range = index(blocks.start)..index(blocks.end);
    state.written.set_range(range.clone(), true);
    // A save under way may have looked at the marks before this write: it does not count.
    let fresh = !state.saved.all(range.clone()) || state.saving > 0;
    let found = state.found(range.clone());
    let kept = volume.pool.keep_marks(hold.region().key, &mut state);
    if let (Some(known), Some(sums)) = (&mut state.sums, sums) {
        known[range].copy_from_slice(&sums);
        state.sums_unsaved = true;
    }
    drop(state);
    if fresh || found {
        volume.note_unsaved(hold.region().key);
    }
    if !volume.pool.lost.is_empty() {
        volume.pool.lost.forget(volume.id, hold.region().key.slot, volume.in_slot(hold.region().key, blocks));
    }
    Ok(match kept {
        // That they were lost before is not kept.
        _ if found => Marks::Exposed,
        Marks::Exposed => Marks::Exposed,
        Marks::Saved | Marks::Kept if fresh => Marks::Kept,
        Marks::Saved | Marks::Kept => Marks::Saved,
    })
}
