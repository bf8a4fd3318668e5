//! After an unclean stop: the copies of every dirty region are made equal before any of its blocks is read.
//!
//! What differs is an unflushed write that reached one copy and not the other; either is right, but from here on
//! it must be one of them on every copy (R11). The source is the copy whose region block is newest, so that every
//! block that a flush promised is among its written ones; a block of another copy is taken where the source's
//! cannot be read, or where only the other one matches its checksum.

use super::dirty_log::Plane;
use super::error::PoolError;
use super::fragment_read::index;
use super::load::{owner, stored_by_copy};
use super::redundancy::mirror::{Copies, Copy};
use super::region::{Load, Placement, Region};
use super::region_block::{Owner, RegionBlock};
use super::shared::Shared;
use super::volume::PoolVolume;
use crate::base::bitmap::Bitmap;
use crate::base::checksum::block_sum;
use crate::base::limits::{BLOCK, CHUNK_MAX};
use crate::base::units::{ByteLen, MemberId, RegionIndex, SlotIndex};
use crate::io::buf::Buf;
use crate::reactor::Core;
use crate::reactor::sync::lock;
use futures_util::future::join_all;
use nix::errno::Errno;
use std::ops::Range;
use std::sync::Arc;

/// Regions settled at the same time.
const AT_ONCE: usize = 8;

/// Blocks compared at the same time.
const STEP: u32 = (CHUNK_MAX / BLOCK) as u32; // a constant of 256

const BLOCK_LEN: usize = BLOCK as usize; // a constant of 4096

/// A dirty region and where it lies.
struct Dirty {
    volume: Arc<PoolVolume>,
    region: Arc<Region>,
    placement: Placement,
}

/// Settles every region that a member in sync has marked dirty.
pub async fn settle(core: &Core, pool: &Arc<Shared>) -> Result<(), PoolError> {
    let dirty = dirty_regions(pool);
    if !dirty.is_empty() {
        tracing::info!(regions = dirty.len(), "settling regions after an unclean stop");
    }
    for batch in dirty.chunks(AT_ONCE) {
        for result in join_all(batch.iter().map(|d| settle_region(core, d))).await {
            result?;
        }
    }
    flush_members(core, pool).await?;
    for entry in dirty.iter().filter(|d| d.region.state().load == Load::Loaded) {
        for copy in &entry.placement.copies {
            let member = pool.member(copy.member);
            let number = member.layout.region_number(copy.extent, entry.region.key.region);
            member.dirty.clear(Plane::Dirty, number);
        }
    }
    Ok(())
}

fn dirty_regions(pool: &Arc<Shared>) -> Vec<Dirty> {
    let live = lock(&pool.live);
    let mut found = Vec::new();
    for (id, volume) in pool.volumes.load().iter() {
        let record = &live.state.volumes[id];
        for (slot, place) in &record.slots {
            let placement = Placement { stamp: place.stamp, copies: place.copies.clone() };
            for region in (0..pool.regions_per_slot()).map(RegionIndex) {
                if is_dirty(pool, &placement.copies, region) {
                    found.push(dirty(pool, volume, *slot, region, placement.clone()));
                }
            }
        }
    }
    found
}

fn dirty(
    pool: &Shared,
    volume: &Arc<PoolVolume>,
    slot: SlotIndex,
    region: RegionIndex,
    placement: Placement,
) -> Dirty {
    let region = pool.region(volume.id, slot, region, volume.checksums);
    Dirty { volume: volume.clone(), region, placement }
}

fn is_dirty(pool: &Shared, copies: &Copies, region: RegionIndex) -> bool {
    copies.iter().any(|copy| {
        let member = pool.member(copy.member);
        let number = member.layout.region_number(copy.extent, region);
        member.usable(copies.len()).is_some() && member.dirty.is_marked(Plane::Dirty, number)
    })
}

async fn flush_members(core: &Core, pool: &Shared) -> Result<(), PoolError> {
    for member in pool.members.values() {
        let Some(disk) = &member.disk else { continue };
        match disk.flush(core).await {
            Err(errno) if member.is_in_sync() => give_up(pool, member.id, errno).await?,
            // Of a drive out of sync only slots without another copy are used: those who write them hear of it.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

async fn settle_region(core: &Core, dirty: &Dirty) -> Result<(), PoolError> {
    let Dirty { volume, region, placement } = dirty;
    let stored = stored_by_copy(volume, core, region, placement).await;
    if stored.iter().all(Option::is_none) {
        // No copy says what was written: the region stays unloaded, and reading it is an error, not zeros.
        return Ok(());
    }
    let newest = stored.iter().flatten().flatten().max_by_key(|block| block.version).cloned();
    // Nothing was ever saved about this region: no flush promised anything, all of it reads as zeros.
    let Some(mut block) = newest else {
        region.state().fill(Some(placement.clone()), None);
        return Ok(());
    };
    let source = stored
        .iter()
        .position(|s| s.as_ref().and_then(Option::as_ref).is_some_and(|b| b.version == block.version))
        .expect("the newest block came from some copy");
    bring_up(core, dirty, &stored, &block).await?;
    let order = source_first(volume, placement, source);
    for first in (0..volume.pool.region_blocks()).step_by(index(STEP)) {
        let blocks = first..(first + STEP).min(volume.pool.region_blocks());
        if block.written.any(index(blocks.start)..index(blocks.end)) {
            settle_blocks(core, dirty, &order, &blocks, &mut block).await?;
        }
    }
    block.version += 1;
    save(core, dirty, &order, &block).await?;
    region.state().fill(Some(placement.clone()), Some(block));
    Ok(())
}

fn source_first(volume: &PoolVolume, placement: &Placement, source: usize) -> Vec<Copy> {
    let usable = |c: &Copy| volume.pool.member(c.member).usable(placement.copies.len()).is_some();
    let source = placement.copies[source];
    let others = placement.copies.iter().copied().filter(|c| *c != source);
    std::iter::once(source).chain(others).filter(usable).collect()
}

/// Reads some blocks from every copy, chooses the right bytes of each, and writes them where a copy differs.
async fn settle_blocks(
    core: &Core,
    dirty: &Dirty,
    order: &[Copy],
    blocks: &Range<u32>,
    block: &mut RegionBlock,
) -> Result<(), PoolError> {
    let reads = order.iter().map(|copy| read_copy(core, dirty, *copy, blocks));
    let found: Vec<Option<Buf>> = join_all(reads).await;
    let mut chosen = core.buffers().take(blocks.len() * BLOCK_LEN);
    chosen.as_mut_slice().fill(0);
    let mut unreadable = Bitmap::new(blocks.len());
    for (at, number) in blocks.clone().enumerate() {
        if !block.written.get(index(number)) {
            continue;
        }
        let range = at * BLOCK_LEN..(at + 1) * BLOCK_LEN;
        let seed = dirty.volume.block_seed(dirty.region.key, dirty.placement.stamp, number);
        let wanted = block.sums.as_ref().map(|sums| sums[index(number)]);
        match choose(&found, &range, seed, wanted) {
            Some(bytes) => {
                chosen.as_mut_slice()[range].copy_from_slice(bytes);
                if let Some(sums) = &mut block.sums {
                    sums[index(number)] = block_sum(seed, bytes);
                }
            }
            None => {
                unreadable.set(at, true);
            }
        }
    }
    let chosen = chosen.freeze();
    for (copy, bytes) in order.iter().zip(&found) {
        write_differences(core, dirty, *copy, blocks, (bytes.as_ref(), &chosen, &unreadable), block).await?;
    }
    Ok(())
}

/// The bytes of a block to go on with: a copy that matches the stored checksum, or else the first readable one.
fn choose<'a>(
    found: &'a [Option<Buf>],
    range: &Range<usize>,
    seed: u64,
    wanted: Option<u32>,
) -> Option<&'a [u8]> {
    let readable = || found.iter().flatten().map(|buf| &buf.as_slice()[range.clone()]);
    let matching = wanted.and_then(|sum| readable().find(|bytes| block_sum(seed, bytes) == sum));
    matching.or_else(|| readable().next())
}

async fn read_copy(core: &Core, dirty: &Dirty, copy: Copy, blocks: &Range<u32>) -> Option<Buf> {
    let member = dirty.volume.pool.member(copy.member);
    let disk = member.usable(dirty.placement.copies.len())?;
    let within = ByteLen(u64::from(blocks.start) * BLOCK);
    let offset = dirty.volume.offset_in_extent(dirty.region.key.region, within);
    let whole = core.buffers().take(blocks.len() * BLOCK_LEN);
    // A copy that cannot be read here is rewritten from another one, as far as another one can be read.
    disk.read(core, member.layout.data(copy.extent, offset), whole)
        .await
        .ok()
        .map(crate::io::buf::BufMut::freeze)
}

async fn write_differences(
    core: &Core,
    dirty: &Dirty,
    copy: Copy,
    blocks: &Range<u32>,
    (found, chosen, unreadable): (Option<&Buf>, &Buf, &Bitmap),
    block: &RegionBlock,
) -> Result<(), PoolError> {
    let member = dirty.volume.pool.member(copy.member);
    let Some(disk) = member.usable(dirty.placement.copies.len()) else { return Ok(()) };
    for (at, number) in blocks.clone().enumerate() {
        let range = at * BLOCK_LEN..(at + 1) * BLOCK_LEN;
        let wanted = block.written.get(index(number)) && !unreadable.get(at);
        let same = found.is_some_and(|f| f.as_slice()[range.clone()] == chosen.as_slice()[range.clone()]);
        if !wanted || same {
            continue;
        }
        let within = ByteLen(u64::from(number) * BLOCK);
        let at =
            member.layout.data(copy.extent, dirty.volume.offset_in_extent(dirty.region.key.region, within));
        if let Err(errno) = disk.write(core, at, chosen.slice(range), false).await {
            return give_up(&dirty.volume.pool, copy.member, errno).await;
        }
    }
    Ok(())
}

async fn save(core: &Core, dirty: &Dirty, order: &[Copy], block: &RegionBlock) -> Result<(), PoolError> {
    let owner = owner(&dirty.volume, &dirty.region, &dirty.placement);
    // The blocks they describe are durable first: a written mark never leads the data.
    flush_members(core, &dirty.volume.pool).await?;
    for copy in order {
        save_copy(core, dirty, *copy, &owner, block, false).await?;
    }
    Ok(())
}

/// Gives copies whose region block is older the newest one, durable. The two places of a region block are used in
/// turn: the save that follows would go to the place where such a copy has its only good one.
async fn bring_up(
    core: &Core,
    dirty: &Dirty,
    stored: &[Option<Option<RegionBlock>>],
    newest: &RegionBlock,
) -> Result<(), PoolError> {
    let owner = owner(&dirty.volume, &dirty.region, &dirty.placement);
    for (copy, found) in dirty.placement.copies.iter().zip(stored) {
        if !matches!(found, Some(Some(block)) if block.version == newest.version) {
            save_copy(core, dirty, *copy, &owner, newest, true).await?;
        }
    }
    Ok(())
}

async fn save_copy(
    core: &Core,
    dirty: &Dirty,
    copy: Copy,
    owner: &Owner,
    block: &RegionBlock,
    durable: bool,
) -> Result<(), PoolError> {
    let member = dirty.volume.pool.member(copy.member);
    let Some(disk) = member.usable(dirty.placement.copies.len()) else { return Ok(()) };
    let at = member.layout.region_block(copy.extent, dirty.region.key.region, block.version);
    let bytes = core.buffers().copy_of(&block.emit(owner, at)).freeze();
    match disk.write(core, at, bytes, durable).await {
        Ok(()) => Ok(()),
        Err(errno) => give_up(&dirty.volume.pool, copy.member, errno).await,
    }
}

/// A member that cannot be written is declared out of sync, as it would be while serving.
async fn give_up(pool: &Shared, member: MemberId, errno: Errno) -> Result<(), PoolError> {
    let given_up = pool.member_failed(member, format!("a write failed: {}", errno.desc())).await;
    given_up.map_err(|_| PoolError::Frozen)
}
