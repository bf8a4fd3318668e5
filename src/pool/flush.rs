//! Flushing a volume, and cleaning regions: the two ways in which what is in memory reaches the members.
//!
//! A region block may say that a block was written only when the block's data is durable: otherwise a crash could
//! show what an earlier user of the extent left there. Hence the order of a save:
//! 1. take what the region blocks shall say, from writes that have completed;
//! 2. flush the members: the data of those writes is durable;
//! 3. write the region blocks to every copy in sync, each to the older of its two places;
//! 4. flush the members again.

use super::dirty_log::Plane;
use super::load::owner;
use super::planted::{Planted, is_planted};
use super::region::{Load, Mark, Placement, Region, RegionKey};
use super::region_block::RegionBlock;
use super::shared::Shared;
use super::volume::PoolVolume;
use crate::base::bitmap::Bitmap;
use crate::base::units::MemberId;
use crate::block::Status;
use crate::reactor::Core;
use crate::reactor::sync::lock;
use futures_util::future::join_all;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a region is quiet before the cleaner takes its dirty mark away.
const QUIET: Duration = Duration::from_secs(2);

/// Regions that the cleaner saves in one go.
const CLEAN_BATCH: usize = 256;

impl PoolVolume {
    /// Makes every write that was answered before this call durable on every copy in sync.
    pub async fn flush(&self, core: &Core) -> Result<(), Status> {
        let _entered = self.enter()?;
        let ok = self.flush_rounds.join(|| flush_round(self, core)).await;
        if ok { Ok(()) } else { Err(Status::Io) }
    }
}

async fn flush_round(volume: &PoolVolume, core: &Core) -> bool {
    let mut keys = std::mem::take(&mut *lock(&volume.unsaved));
    if is_planted(&volume.pool, Planted::ForgetUnsaved) {
        keys.clear();
    }
    let regions: Vec<Arc<Region>> = keys
        .iter()
        .map(|key| volume.pool.region(key.volume, key.slot, key.region, volume.checksums))
        .collect();
    let result = save(volume, core, &regions).await;
    let behind = |region: &&Arc<Region>| {
        let state = region.state();
        result.is_err() || state.written != state.saved
    };
    let again: Vec<RegionKey> = regions.iter().filter(behind).map(|region| region.key).collect();
    lock(&volume.unsaved).extend(again);
    result.is_ok()
}

/// What a region block shall say.
struct Snapshot {
    region: Arc<Region>,
    placement: Placement,
    block: RegionBlock,
    changes: u64,
}

/// Makes all completed writes durable, and the state of these regions with them.
async fn save(volume: &PoolVolume, core: &Core, regions: &[Arc<Region>]) -> Result<(), Status> {
    let _turn = volume.save_turn.take(1).await;
    if volume.is_destroyed() {
        return Ok(());
    }
    let snapshots: Vec<Snapshot> = regions.iter().filter_map(snapshot).collect();
    let result = save_snapshots(volume, core, &snapshots).await;
    for snapshot in &snapshots {
        finish(snapshot, result.is_ok());
    }
    result
}

async fn save_snapshots(volume: &PoolVolume, core: &Core, snapshots: &[Snapshot]) -> Result<(), Status> {
    if !is_planted(&volume.pool, Planted::SaveMarksBeforeData) {
        flush_members(volume, core).await?;
    }
    if snapshots.is_empty() {
        return Ok(());
    }
    for batch in snapshots.chunks(64) {
        let ended: Result<Vec<()>, Status> =
            join_all(batch.iter().map(|s| write_region_block(volume, core, s))).await.into_iter().collect();
        ended?;
    }
    flush_members(volume, core).await
}

fn snapshot(region: &Arc<Region>) -> Option<Snapshot> {
    let mut state = region.state();
    if state.load != Load::Loaded || !state.is_unsaved() {
        return None;
    }
    let placement = state.placement.clone()?;
    state.saving += 1;
    let block =
        RegionBlock { version: state.version + 1, written: state.written.clone(), sums: state.sums.clone() };
    Some(Snapshot { region: region.clone(), placement, block, changes: state.changes })
}

async fn write_region_block(volume: &PoolVolume, core: &Core, snapshot: &Snapshot) -> Result<(), Status> {
    // A block that was zeroed since the snapshot stays zero whatever a crash does; one that was written for the
    // first time since is not durable yet and is left out: the snapshot and the present must agree.
    let mut block = snapshot.block.clone();
    block.written = both(&block.written, &snapshot.region.state().written);
    let owner = owner(volume, &snapshot.region, &snapshot.placement);
    let copies = snapshot.placement.copies.len();
    let writes = snapshot.placement.copies.iter().map(async |copy| {
        let member = volume.pool.member(copy.member);
        let disk = member.usable(copies)?;
        let at = member.layout.region_block(copy.extent, snapshot.region.key.region, block.version);
        let bytes = core.buffers().copy_of(&block.emit(&owner, at)).freeze();
        Some((copy.member, disk.write(core, at, bytes, false).await))
    });
    let ended: Vec<_> = join_all(writes).await.into_iter().flatten().collect();
    if !ended.iter().any(|(_, result)| result.is_ok()) {
        return Err(Status::Io);
    }
    for (member, result) in ended {
        if let Err(errno) = result {
            volume.pool.member_failed(member, format!("a write failed: {}", errno.desc())).await?;
        }
    }
    let mut state = snapshot.region.state();
    state.saved = block.written;
    state.version = block.version;
    Ok(())
}

fn both(a: &Bitmap, b: &Bitmap) -> Bitmap {
    let words: Vec<u64> = a.words().iter().zip(b.words()).map(|(a, b)| a & b).collect();
    Bitmap::from_words(a.len(), &words)
}

fn finish(snapshot: &Snapshot, saved: bool) {
    {
        let mut state = snapshot.region.state();
        state.saving -= 1;
        if saved && state.changes == snapshot.changes {
            state.sums_unsaved = false;
        }
    }
    snapshot.region.changed.wake_all();
}

/// Flushes every member that has something to flush. A member that fails is given up if the volume has a copy of
/// everything elsewhere (R42).
async fn flush_members(volume: &PoolVolume, core: &Core) -> Result<(), Status> {
    let flushes = volume.pool.members.values().map(async |member| {
        let skipped = is_planted(&volume.pool, Planted::FlushSkipsMember)
            && volume.pool.members.last_key_value().is_some_and(|(last, _)| *last == member.id);
        let disk = member.disk.as_ref().filter(|_| !skipped)?;
        let failed = disk.flush(core).await.is_err();
        failed.then_some(member.id)
    });
    let failed: Vec<MemberId> = join_all(flushes).await.into_iter().flatten().collect();
    for member in failed {
        if is_only_copy(volume, member) {
            return Err(Status::Io);
        }
        if volume.pool.member(member).is_in_sync() {
            volume.pool.member_failed(member, "a flush failed".to_owned()).await?;
        }
    }
    Ok(())
}

/// Whether some slot of the volume can be read from this member and from no other.
fn is_only_copy(volume: &PoolVolume, member: MemberId) -> bool {
    let live = lock(&volume.pool.live);
    let Some(record) = live.state.volumes.get(&volume.id) else { return false };
    record.slots.values().any(|slot| {
        let usable = |m: MemberId| volume.pool.member(m).usable(slot.copies.len()).is_some();
        slot.copies.iter().any(|c| c.member == member && usable(member))
            && !slot.copies.iter().any(|c| c.member != member && usable(c.member))
    })
}

/// Takes the dirty marks of quiet regions away: their data, checksums and written marks are made durable first.
/// With `all`, regions that were written a moment ago too. Gives the number of marks taken away.
pub async fn clean(pool: &Shared, core: &Core, all: bool) -> Result<usize, Status> {
    let mut cleaned = 0;
    let now = core.now();
    let due = |region: &Region| {
        let state = region.state();
        let all = all || is_planted(pool, Planted::ClearDirtyEarly);
        let quiet = all || now.since(state.touched) >= QUIET;
        let marked = matches!(state.mark, Mark::Durable { .. });
        quiet && state.writing == 0 && (marked || state.is_unsaved()) && state.load == Load::Loaded
    };
    let volumes = pool.volumes.load_full();
    let mut result = Ok(());
    for volume in volumes.values() {
        let regions = pool.cache.select(|r| r.key.volume == volume.id && due(r));
        for batch in regions.chunks(CLEAN_BATCH) {
            let before: Vec<u64> = batch.iter().map(|r| r.state().changes).collect();
            if let Err(status) = save(volume, core, batch).await {
                // The other volumes are cleaned all the same.
                result = Err(status);
                break;
            }
            let unmarked = batch.iter().zip(before).filter(|(r, changes)| unmark(pool, r, *changes)).count();
            pool.dirty_regions.fetch_sub(unmarked, Ordering::Relaxed);
            forget_saved(volume, batch);
            cleaned += unmarked;
        }
    }
    save_cleared(pool, core).await;
    result.map(|()| cleaned)
}

/// Regions whose written marks are saved need no flush.
fn forget_saved(volume: &PoolVolume, regions: &[Arc<Region>]) {
    let mut unsaved = lock(&volume.unsaved);
    for region in regions {
        let state = region.state();
        if state.written == state.saved {
            unsaved.remove(&region.key);
        }
    }
}

/// Takes a region's mark away if nothing happened to it since it was saved.
fn unmark(pool: &Shared, region: &Region, changes: u64) -> bool {
    let mut state = region.state();
    let marked = matches!(state.mark, Mark::Durable { .. });
    let early = is_planted(pool, Planted::ClearDirtyEarly);
    let busy = state.writing > 0 || state.changes != changes || state.unsettled || state.is_unsaved();
    if !marked || !early && busy {
        return false;
    }
    let Some(placement) = state.placement.clone() else { return false };
    for copy in &placement.copies {
        let member = pool.member(copy.member);
        member.dirty.clear(Plane::Dirty, member.layout.region_number(copy.extent, region.key.region));
    }
    state.mark = Mark::Clear;
    true
}

async fn save_cleared(pool: &Shared, core: &Core) {
    for member in pool.members.values().filter(|m| m.is_in_sync()) {
        if let Some(disk) = &member.disk {
            // A bit that stays set on the disk costs work after a crash and nothing else; the disk's error
            // is counted and shows at the next write that matters.
            let _ = member.dirty.save_cleared(core, disk).await;
        }
    }
}
