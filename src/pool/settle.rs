//! After an unclean stop: the copies of every dirty region are made equal before any of its blocks is read.
//!
//! What differs is an unflushed write that reached one copy and not the other; either is right, but from here on
//! it must be one of them on every copy (R11). The source is the copy whose region block is newest, so that every
//! block that a flush promised is among its written ones; a block of another copy is taken where the source's
//! cannot be read, or where only the other one matches its checksum.

use super::copy_bytes::{CopyBytes, read_all};
use super::dirty_log::Plane;
use super::error::PoolError;
use super::fragment_read::index;
use super::load::{ensure_loaded, owner, stored_by_copy};
use super::member::Member;
use super::planted::{Planted, is_planted};
use super::reach::{Reach, Reached};
use super::region::{Placement, Region};
use super::region_block::{Owner, RegionBlock};
use super::shared::Shared;
use super::volume::PoolVolume;
use crate::base::bitmap::Bitmap;
use crate::base::checksum::block_sum;
use crate::base::limits::{BLOCK, CHUNK_MAX};
use crate::base::units::{ByteLen, RegionIndex};
use crate::disk::{Patience, in_words};
use crate::io::buf::Buf;
use crate::reactor::Core;
use crate::reactor::sync::lock;
use futures_util::future::join_all;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Regions settled at the same time.
const AT_ONCE: usize = 8;

/// Regions saved together: a flush is dear on a disk, and a region block is small.
const BATCH: usize = 256;

/// Blocks compared at the same time.
const STEP: u32 = (CHUNK_MAX / BLOCK) as u32; // a constant of 256

const BLOCK_LEN: usize = BLOCK as usize; // a constant of 4096

/// A dirty region and where it lies.
struct Dirty {
    volume: Arc<PoolVolume>,
    region: Arc<Region>,
    placement: Placement,
    /// The copies that are compared: those that can be believed.
    reach: Reach,
}

/// Settles every region that a member in sync has marked dirty.
pub async fn settle(core: &Core, pool: &Arc<Shared>) -> Result<(), PoolError> {
    let dirty = dirty_regions(pool);
    if !dirty.is_empty() {
        tracing::info!(regions = dirty.len(), "settling regions after an unclean stop");
    }
    remember_missed(core, pool, &dirty).await?;
    for batch in dirty.chunks(BATCH) {
        settle_batch(core, pool, batch).await?;
    }
    // Volumes with one copy may have no marks. What they hold that was never flushed stays from the first reading on.
    flush_members(core, pool).await
}

/// What is settled while a copy is away, that copy misses. All others remember it: the mark that made a region dirty may
/// be on one of them only, left over from a time before it was cleaned, and that one may be the next to go.
async fn remember_missed(core: &Core, pool: &Shared, dirty: &[Dirty]) -> Result<(), PoolError> {
    let mut members = BTreeMap::new();
    for Dirty { region, reach, .. } in dirty.iter().filter(|dirty| dirty.reach.degraded) {
        for Reached { copy, member } in &reach.copies {
            let number = member.layout.region_number(copy.extent, region.key.region);
            member.dirty.note_missed_range(number..number + 1);
            members.insert(member.id, member.clone());
        }
    }
    // Also those out of sync that nobody has more than.
    for member in members.values() {
        let Some(disk) = &member.disk else { continue };
        if let Err(errno) = member.dirty.save_missed(core, disk, Patience::Opening).await {
            give_up(pool, member, errno).await?;
        }
    }
    Ok(())
}

/// Settles some regions, with two flushes for all of them.
async fn settle_batch(core: &Core, pool: &Shared, batch: &[Dirty]) -> Result<(), PoolError> {
    let mut settled = Vec::new();
    for few in batch.chunks(AT_ONCE) {
        for (entry, block) in few.iter().zip(join_all(few.iter().map(|d| settle_region(core, d))).await) {
            settled.extend(block?.map(|block| (entry, block)));
        }
    }
    // The blocks they describe are durable first: a written mark never leads the data.
    flush_members(core, pool).await?;
    for few in settled.chunks(AT_ONCE) {
        for result in join_all(few.iter().map(|(entry, block)| save(core, entry, block))).await {
            result?;
        }
    }
    flush_members(core, pool).await?;
    for (entry, block) in settled {
        entry.region.state().fill(Some(entry.placement.clone()), Some(block));
        pool.kept_marks.settled(&entry.region.key, entry.placement.stamp);
        for Reached { copy, member } in &entry.reach.copies {
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
            let placement = Placement { stamp: place.stamp, copies: place.copies.clone(), incoming: None };
            for region in (0..pool.regions_per_slot()).map(RegionIndex) {
                let reach = pool.reach(&placement, region);
                if is_dirty(&reach, region) {
                    let region = pool.region(volume.id, *slot, region, volume.checksums);
                    let (volume, placement) = (volume.clone(), placement.clone());
                    found.push(Dirty { volume, region, placement, reach });
                }
            }
        }
    }
    found
}

fn is_dirty(reach: &Reach, region: RegionIndex) -> bool {
    reach.copies.iter().any(|Reached { copy, member }| {
        let number = member.layout.region_number(copy.extent, region);
        member.dirty.is_marked(Plane::Dirty, number)
    })
}

/// Makes everything durable that was written to any member; gives up those on which that fails.
pub async fn flush_members(core: &Core, pool: &Shared) -> Result<(), PoolError> {
    for member in &pool.all_members() {
        let Some(disk) = &member.disk else { continue };
        match disk.flush(core, Patience::Opening).await {
            Err(errno) if member.is_in_sync() => give_up(pool, member, errno).await?,
            // Of a drive out of sync only slots without another copy are used: those who write them hear of it.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Makes the copies of a region equal. Gives the region block that is to be saved on all of them; None if it cannot be
/// told what was written.
async fn settle_region(core: &Core, dirty: &Dirty) -> Result<Option<RegionBlock>, PoolError> {
    let Dirty { volume, region, placement, reach } = dirty;
    let stored = stored_by_copy(volume, core, region, placement, reach).await;
    if stored.iter().all(Option::is_none) {
        // No copy says what was written: the region stays unloaded, and reading it is an error, not zeros.
        return Ok(None);
    }
    let stored: Vec<Option<RegionBlock>> =
        stored.into_iter().map(|places| places.and_then(|places| places.newest)).collect();
    let newest = stored.iter().flatten().max_by_key(|block| block.version).cloned();
    let left = volume.pool.kept_marks.left(&region.key, placement.stamp);
    let left = left.filter(|left| reach.copies.iter().any(|reached| left.is_on(reached)));
    // Nothing was ever saved about this region: no flush promised anything, and if only the process died its marks are
    // left. What a torn block may look like later, or a copy that is not here may have saved, is older than this.
    let mut block = newest.clone().unwrap_or_else(|| first_block(volume));
    let version = |stored: &Option<RegionBlock>| stored.as_ref().map(|block| block.version);
    let source = newest
        .as_ref()
        .and_then(|block| stored.iter().position(|stored| version(stored) == Some(block.version)));
    if newest.is_some() {
        bring_up(core, dirty, &stored, &block).await?;
    }
    let order = source_first(reach, source.unwrap_or(0));
    let mut sources = Sources { whole: order.len(), order, fresh: Bitmap::new(block.written.len()) };
    if let Some(left) = left {
        let written = left.written(block.written.len());
        sources.prefer(|reached| left.is_on(reached), written.iter().filter(|at| !block.written.get(*at)));
        block.written = written;
    } else if reach.copies.iter().any(|reached| has_stayed(volume, reached)) {
        sources.prefer(|reached| has_stayed(volume, reached), std::iter::empty());
    }
    for first in (0..volume.pool.region_blocks()).step_by(index(STEP)) {
        let step = first..(first + STEP).min(volume.pool.region_blocks());
        if let Some(blocks) = span_written(&block, step) {
            settle_blocks(core, dirty, &sources, &blocks, &mut block).await?;
        }
    }
    block.version += 1;
    Ok(Some(block))
}

/// Whether a copy has everything that the last process answered, since its drive lost no power.
fn has_stayed(volume: &PoolVolume, reached: &Reached) -> bool {
    volume.pool.kept_marks.stayed(reached) == Some(true)
}

/// From the first to the last written one of some blocks.
fn span_written(block: &RegionBlock, blocks: Range<u32>) -> Option<Range<u32>> {
    let is_written = |number: &u32| block.written.get(index(*number));
    let first = blocks.clone().find(is_written)?;
    let last = blocks.rev().find(is_written)?;
    Some(first..last + 1)
}

/// Nothing is written, and nothing was saved.
fn first_block(volume: &PoolVolume) -> RegionBlock {
    let blocks = index(volume.pool.region_blocks());
    let sums = volume.checksums.then(|| vec![0; blocks].into_boxed_slice());
    RegionBlock { version: 0, written: Bitmap::new(blocks), sums, lost: None }
}

fn source_first(reach: &Reach, source: usize) -> Vec<Reached> {
    let others = reach.copies.iter().enumerate().filter(|(index, _)| *index != source);
    std::iter::once(&reach.copies[source]).chain(others.map(|(_, reached)| reached)).cloned().collect()
}

/// The copies that are compared, in the order in which they are asked.
struct Sources {
    order: Vec<Reached>,
    /// So many of the first ones have all that was answered.
    whole: usize,
    /// Blocks of which the others have nothing.
    fresh: Bitmap,
}

impl Sources {
    /// Copies that have all that was answered come first.
    fn prefer(&mut self, is_whole: impl Fn(&Reached) -> bool, fresh: impl Iterator<Item = usize>) {
        self.order.sort_by_key(|reached| !is_whole(reached));
        self.whole = self.order.iter().filter(|reached| is_whole(reached)).count();
        for block in fresh {
            self.fresh.set(block, true);
        }
    }
}

/// Reads some blocks from every copy, chooses the right bytes of each, and writes them where a copy differs.
async fn settle_blocks(
    core: &Core,
    dirty: &Dirty,
    sources: &Sources,
    blocks: &Range<u32>,
    block: &mut RegionBlock,
) -> Result<(), PoolError> {
    let reads = sources.order.iter().map(|reached| read_copy(core, dirty, reached, blocks));
    let found: Vec<Option<CopyBytes>> = join_all(reads).await;
    let mut chosen = core.buffers().take(blocks.len() * BLOCK_LEN);
    chosen.as_mut_slice().fill(0);
    let mut unreadable = Bitmap::new(blocks.len());
    for (at, number) in blocks.clone().enumerate() {
        if !block.written.get(index(number)) {
            continue;
        }
        let seed = dirty.volume.block_seed(dirty.region.key, dirty.placement.stamp, number);
        let wanted = block.sums.as_ref().map(|sums| sums[index(number)]);
        let (whole, others) = found.split_at(sources.whole);
        let is_fresh = sources.fresh.get(index(number));
        let others = if is_fresh { &[] } else { others };
        let bytes = choose(whole, at, seed, wanted).or_else(|| choose(others, at, seed, wanted));
        match bytes {
            Some(bytes) => {
                chosen.as_mut_slice()[at * BLOCK_LEN..(at + 1) * BLOCK_LEN].copy_from_slice(bytes);
                if let Some(sums) = &mut block.sums {
                    sums[index(number)] = block_sum(seed, bytes);
                }
            }
            None => {
                unreadable.set(at, true);
                if is_fresh {
                    // What the others have there is of an earlier use of the extent, and without checksums nothing tells.
                    let lost = block.lost.get_or_insert_with(|| Box::new(Bitmap::new(block.written.len())));
                    lost.set(index(number), true);
                }
            }
        }
    }
    let chosen = chosen.freeze();
    for (reached, bytes) in sources.order.iter().zip(&found) {
        write_differences(core, dirty, reached, blocks, (bytes.as_ref(), &chosen, &unreadable), block)
            .await?;
    }
    Ok(())
}

/// The bytes of a block to go on with: a copy that matches the stored checksum, or else the first readable one.
fn choose(found: &[Option<CopyBytes>], at: usize, seed: u64, wanted: Option<u32>) -> Option<&[u8]> {
    let readable = || found.iter().flatten().filter_map(|copy| copy.block(at));
    let matching = wanted.and_then(|sum| readable().find(|bytes| block_sum(seed, bytes) == sum));
    matching.or_else(|| readable().next())
}

/// None if the drive does not answer.
async fn read_copy(core: &Core, dirty: &Dirty, reached: &Reached, blocks: &Range<u32>) -> Option<CopyBytes> {
    let Reached { copy, member } = reached;
    let within = ByteLen(u64::from(blocks.start) * BLOCK);
    let offset = dirty.volume.offset_in_extent(dirty.region.key.region, within);
    let at = member.layout.data(copy.extent, offset);
    // What cannot be read here is rewritten from another one, as far as another one can be read.
    read_all(core, reached.disk(), at, blocks.len(), Patience::Opening).await.ok()
}

async fn write_differences(
    core: &Core,
    dirty: &Dirty,
    reached: &Reached,
    blocks: &Range<u32>,
    (found, chosen, unreadable): (Option<&CopyBytes>, &Buf, &Bitmap),
    block: &RegionBlock,
) -> Result<(), PoolError> {
    let Reached { copy, member } = reached;
    // After a failed flush, what can be read may be gone with the next power cut, and a later flush is no proof: it is
    // written again. A member that has another copy beside it left when its flush failed.
    let stayed = dirty.volume.pool.kept_marks.stayed(reached);
    let doubtful = !member.is_in_sync() || dirty.placement.copies.len() == 1 || stayed == Some(false);
    for (at, number) in blocks.clone().enumerate() {
        let range = at * BLOCK_LEN..(at + 1) * BLOCK_LEN;
        let wanted = block.written.get(index(number)) && !unreadable.get(at);
        let same = !doubtful
            && found
                .and_then(|f| f.block(at))
                .is_some_and(|bytes| *bytes == chosen.as_slice()[range.clone()]);
        if !wanted || same || is_planted(core, Planted::SettleOnlyReads) {
            continue;
        }
        let within = ByteLen(u64::from(number) * BLOCK);
        let at =
            member.layout.data(copy.extent, dirty.volume.offset_in_extent(dirty.region.key.region, within));
        if let Err(errno) =
            reached.disk().write(core, at, chosen.slice(range), false, Patience::Opening).await
        {
            return give_up(&dirty.volume.pool, member, errno).await;
        }
    }
    Ok(())
}

async fn save(core: &Core, dirty: &Dirty, block: &RegionBlock) -> Result<(), PoolError> {
    let owner = owner(&dirty.volume, &dirty.region, &dirty.placement);
    for reached in &dirty.reach.copies {
        save_copy(core, dirty, reached, &owner, block).await?;
    }
    Ok(())
}

/// Gives copies whose region block is older the newest one. The two places of a region block are used in turn: the
/// save that follows, after a flush, would go to the place where such a copy has its only good one.
async fn bring_up(
    core: &Core,
    dirty: &Dirty,
    stored: &[Option<RegionBlock>],
    newest: &RegionBlock,
) -> Result<(), PoolError> {
    let owner = owner(&dirty.volume, &dirty.region, &dirty.placement);
    for (reached, found) in dirty.reach.copies.iter().zip(stored) {
        if !matches!(found, Some(block) if block.version == newest.version) {
            save_copy(core, dirty, reached, &owner, newest).await?;
        }
    }
    Ok(())
}

async fn save_copy(
    core: &Core,
    dirty: &Dirty,
    reached: &Reached,
    owner: &Owner,
    block: &RegionBlock,
) -> Result<(), PoolError> {
    let Reached { copy, member } = reached;
    let at = member.layout.region_block(copy.extent, dirty.region.key.region, block.version);
    let bytes = core.buffers().copy_of(&block.emit(owner, at)).freeze();
    match reached.disk().write(core, at, bytes, false, Patience::Opening).await {
        Ok(()) => Ok(()),
        Err(errno) => give_up(&dirty.volume.pool, member, errno).await,
    }
}

/// Loads the regions whose marks the last process left, and which were not dirty: of volumes with nothing to compare.
/// They are saved at once, so that what is read stays.
pub async fn restore_marks(core: &Core, pool: &Shared) {
    let volumes = pool.volumes.load_full();
    for keys in pool.kept_marks.all_left().chunks(AT_ONCE) {
        let loads = keys.iter().filter_map(|key| volumes.get(&key.volume).map(|volume| (volume, key)));
        let loads = loads.map(async |(volume, key)| {
            let region = pool.region(key.volume, key.slot, key.region, volume.checksums);
            let hold = region.hold(0..pool.region_blocks(), false).await;
            // One that cannot be loaded is an error for whoever reads it; its marks wait until it can.
            let _ = ensure_loaded(volume, core, &hold).await;
        });
        join_all(loads).await;
    }
    for volume in volumes.values() {
        // What is read from here on stays. Should this fail, the next flush says so.
        let _ = volume.flush_known(core).await;
    }
    for volume in pool.kept_marks.all_left().iter().filter_map(|key| volumes.get(&key.volume)) {
        volume.flush_fails_once.store(true, Ordering::Release);
    }
}

/// A member that cannot be written is declared out of sync, as it would be while serving.
async fn give_up(pool: &Shared, member: &Arc<Member>, errno: Errno) -> Result<(), PoolError> {
    let given_up = pool.member_failed(member, format!("a write failed: {}", in_words(errno))).await;
    given_up.map_err(|_| PoolError::Frozen)
}
