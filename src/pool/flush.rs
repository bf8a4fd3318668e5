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
use super::member::Member;
use super::planted::{Planted, is_planted};
use super::reach::Reached;
use super::redundancy::mirror::Copies;
use super::region::{Hold, Load, Mark, Placement, Region, RegionKey};
use super::region_block::RegionBlock;
use super::shared::Shared;
use super::volume::PoolVolume;
use crate::base::bitmap::Bitmap;
use crate::base::units::MemberId;
use crate::block::Status;
use crate::disk::{Patience, in_words};
use crate::reactor::Core;
use crate::reactor::sync::{lock, yield_now};
use futures_util::future::join_all;
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a region is quiet before the cleaner takes its dirty mark away.
const QUIET: Duration = Duration::from_secs(2);

/// Regions that the cleaner saves in one go.
const CLEAN_BATCH: usize = 256;

impl PoolVolume {
    /// Makes every write that was answered before this call durable on every copy in sync. Fails once if the last process
    /// answered writes that it cannot be told of any more whether they are.
    pub async fn flush(&self, core: &Core) -> Result<(), Status> {
        if self.flush_fails_once.swap(false, Ordering::AcqRel) {
            return Err(Status::Io);
        }
        self.flush_known(core).await
    }

    /// The same for what this process knows of.
    pub async fn flush_known(&self, core: &Core) -> Result<(), Status> {
        let _entered = self.enter()?;
        let ok = self.flush_rounds.join(core, None, || flush_round(self, core)).await;
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
    let result = save_all(volume, core, &regions).await;
    let behind = |region: &&Arc<Region>| {
        let state = region.state();
        result.is_err() || state.written != state.saved
    };
    let again: Vec<RegionKey> = regions.iter().filter(behind).map(|region| region.key).collect();
    lock(&volume.unsaved).extend(again);
    result.is_ok()
}

/// Saves these regions, those too whose slot is just being freed or comes to lie elsewhere: until that is committed
/// nothing tells after a crash that their blocks were discarded, and it may fail.
async fn save_all(volume: &PoolVolume, core: &Core, regions: &[Arc<Region>]) -> Result<(), Status> {
    let mut left = save_some(volume, core, regions).await?;
    while !left.is_empty() {
        for region in &left {
            // Who frees a slot, or moves it, holds all of it.
            drop(region.hold(0..volume.pool.region_blocks(), false).await);
        }
        // Should it still look as if it were being freed, the core is not lost.
        yield_now().await;
        left = save_some(volume, core, &left).await?;
    }
    Ok(())
}

/// What a region block shall say.
struct Snapshot {
    region: Arc<Region>,
    placement: Placement,
    block: RegionBlock,
    changes: u64,
}

/// Makes all completed writes durable, and the state of these regions with them.
pub async fn save(volume: &PoolVolume, core: &Core, regions: &[Arc<Region>]) -> Result<(), Status> {
    save_some(volume, core, regions).await.map(|_| ())
}

/// The same; gives the regions whose state could not be saved because their slot is being freed, or just coming to lie
/// elsewhere.
async fn save_some(
    volume: &PoolVolume,
    core: &Core,
    regions: &[Arc<Region>],
) -> Result<Vec<Arc<Region>>, Status> {
    let _turn = volume.save_turn.take(1).await;
    if volume.is_destroyed() {
        return Ok(Vec::new());
    }
    let between: Vec<Arc<Region>> = regions.iter().filter(|r| r.state().is_between()).cloned().collect();
    let snapshots: Vec<Snapshot> = regions.iter().filter_map(snapshot).collect();
    let result = save_snapshots(volume, core, &snapshots).await;
    for snapshot in &snapshots {
        finish(volume, snapshot, result.is_ok());
    }
    result.map(|()| between)
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
    if is_planted(&volume.pool, Planted::SaveWithoutFlush) {
        return Ok(());
    }
    flush_members(volume, core).await
}

fn snapshot(region: &Arc<Region>) -> Option<Snapshot> {
    let mut state = region.state();
    if state.load != Load::Loaded || !state.is_unsaved() || state.switching {
        return None;
    }
    let placement = state.placement.clone()?;
    state.saving += 1;
    let block = RegionBlock {
        version: state.version + 1,
        written: state.written.clone(),
        sums: state.sums.clone(),
        lost: state.lost.clone(),
    };
    Some(Snapshot { region: region.clone(), placement, block, changes: state.changes })
}

async fn write_region_block(volume: &PoolVolume, core: &Core, snapshot: &Snapshot) -> Result<(), Status> {
    // A block that was zeroed since the snapshot stays zero whatever a crash does; one that was written for the
    // first time since is not durable yet and is left out: the snapshot and the present must agree.
    let mut block = snapshot.block.clone();
    block.written = both(&block.written, &snapshot.region.state().written);
    let owner = owner(volume, &snapshot.region, &snapshot.placement);
    let reach = volume.pool.reach(&snapshot.placement, snapshot.region.key.region);
    let writes = reach.all().map(async |reached| {
        let Reached { copy, member } = reached;
        let turn = if is_planted(core, Planted::RegionBlockInPlace) { 0 } else { block.version };
        let at = member.layout.region_block(copy.extent, snapshot.region.key.region, turn);
        let bytes = core.buffers().copy_of(&block.emit(&owner, at)).freeze();
        (reached, reached.disk().write(core, at, bytes, false, reach.patience(reached)).await)
    });
    let ended: Vec<_> = join_all(writes).await;
    let stored = |r: &Reached| ended.iter().any(|(e, result)| e.copy == r.copy && result.is_ok());
    if !reach.writable || !reach.copies.iter().any(stored) {
        return Err(Status::Io);
    }
    for (reached, result) in &ended {
        if let Err(errno) = result {
            if volume.pool.is_sole_authority(&snapshot.placement.copies, reached.copy.member) {
                return Err(Status::Io);
            }
            volume
                .pool
                .member_failed(&reached.member, format!("a write failed: {}", in_words(*errno)))
                .await?;
        }
    }
    let mut state = snapshot.region.state();
    state.saved = block.written;
    state.version = block.version;
    Ok(())
}

/// Gives another copy the region block that the others have. It is written like them already, and the caller holds
/// the whole region: a save that begins from here on reaches it, and one that began before is waited for. So if the
/// region is not saved now, the next save will do it.
///
/// The others keep theirs: a region that is not marked dirty never has a block that a crash could tear.
pub async fn give_block(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    Reached { copy, member }: &Reached,
) -> Result<(), Errno> {
    let region = hold.region();
    still(region).await;
    let Some((placement, block)) = stored_block(region) else {
        let mut state = region.state();
        // Also should its marks become again what they were before the next save.
        state.sums_unsaved |= state.is_unsaved();
        return Ok(());
    };
    let disk = member.disk.as_ref().ok_or(Errno::ENODEV)?;
    let at = member.layout.region_block(copy.extent, region.key.region, block.version);
    let bytes = core.buffers().copy_of(&block.emit(&owner(volume, region, &placement), at)).freeze();
    disk.write(core, at, bytes, false, Patience::Peers).await
}

/// Waits until no save of the region is under way. The caller holds it, so that none that matters begins.
pub async fn still(region: &Arc<Region>) {
    loop {
        let ticket = region.changed.ticket();
        if region.state().saving == 0 {
            return;
        }
        ticket.await;
    }
}

/// The region block that the copies have; None if there is none, or a newer one is due.
fn stored_block(region: &Region) -> Option<(Placement, RegionBlock)> {
    let state = region.state();
    let placement = state.placement.clone().filter(|_| state.version > 0 && !state.is_unsaved())?;
    let (written, sums, lost) = (state.written.clone(), state.sums.clone(), state.lost.clone());
    Some((placement, RegionBlock { version: state.version, written, sums, lost }))
}

fn both(a: &Bitmap, b: &Bitmap) -> Bitmap {
    let words: Vec<u64> = a.words().iter().zip(b.words()).map(|(a, b)| a & b).collect();
    Bitmap::from_words(a.len(), &words)
}

fn finish(volume: &PoolVolume, snapshot: &Snapshot, saved: bool) {
    {
        let mut state = snapshot.region.state();
        state.saving -= 1;
        state.sums_unsaved &= !saved || state.changes != snapshot.changes;
        // It may be on some of the copies.
        state.sums_unsaved |= !saved;
        if !state.is_unsaved() {
            volume.pool.kept_marks.release(&mut state);
        }
    }
    snapshot.region.changed.wake_all();
}

/// Flushes every member that has something to flush. A member that fails is given up if the volume has a copy of
/// everything elsewhere (R42).
async fn flush_members(volume: &PoolVolume, core: &Core) -> Result<(), Status> {
    let members = volume.pool.all_members();
    let spared = has_spare_copies(volume, &members);
    let flushes = members.iter().map(async |member| {
        let skipped = is_planted(&volume.pool, Planted::FlushSkipsMember)
            && members.last().is_some_and(|last| last.id == member.id);
        let disk = member.disk.as_ref().filter(|_| !skipped)?;
        let follows = member.is_following();
        // Of a member out of sync only what nothing else has is used.
        let used = member.is_in_sync() || follows || !disk.is_flushed() && has_only_copy(volume, member.id);
        let patience = if follows || spared { Patience::Peers } else { Patience::Alone };
        let failed = if used { disk.flush(core, patience).await.err() } else { None };
        // The other flushes may take longer than this process lives.
        failed.is_some().then(|| volume.pool.doubt_drive(member));
        failed.map(|errno| (member, errno))
    });
    let failed: Vec<(&Arc<Member>, Errno)> = join_all(flushes).await.into_iter().flatten().collect();
    for (member, errno) in failed {
        if has_only_copy(volume, member.id) {
            return Err(Status::Io);
        }
        volume.pool.member_failed(member, format!("a flush failed: {}", in_words(errno))).await?;
    }
    Ok(())
}

/// Whether each slot of the volume has copies on two members in sync at least, whichever they are.
fn has_spare_copies(volume: &PoolVolume, members: &[Arc<Member>]) -> bool {
    let out = members.iter().filter(|m| !m.is_in_sync()).count();
    usize::from(volume.fewest_copies()) >= out + 2
}

/// Whether some slot of the volume can be written to this member and to no other.
fn has_only_copy(volume: &PoolVolume, member: MemberId) -> bool {
    let slots: Vec<Copies> = {
        let live = lock(&volume.pool.live);
        let Some(record) = live.state.volumes.get(&volume.id) else { return false };
        let here = |copies: &Copies| copies.iter().any(|c| c.member == member);
        record.slots.values().map(|slot| &slot.copies).filter(|c| here(c)).cloned().collect()
    };
    slots.iter().any(|copies| volume.pool.is_sole_authority(copies, member))
}

/// Takes the dirty marks of quiet regions away: their data, checksums and written marks are made durable first.
/// With `all`, regions that were written a moment ago too. Gives the number of marks taken away.
pub async fn clean(pool: &Shared, core: &Core, all: bool) -> Result<usize, Status> {
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
    let mut saved: Vec<(Arc<Region>, u64)> = Vec::new();
    for volume in volumes.values() {
        let regions = pool.cache.select(|r| r.key.volume == volume.id && due(r));
        for batch in regions.chunks(CLEAN_BATCH) {
            let before: Vec<u64> = batch.iter().map(|r| r.state().changes).collect();
            if let Err(status) = save(volume, core, batch).await {
                // The other volumes are cleaned all the same.
                result = Err(status);
                break;
            }
            saved.extend(batch.iter().cloned().zip(before));
            forget_saved(volume, batch);
        }
    }
    if saved.iter().any(|(r, _)| matches!(r.state().mark, Mark::Durable { .. })) {
        // An image of a member from before the writes lacks these commits, and is not believed to have what nobody
        // compares any more. Where nothing can be committed the marks go all the same: a full dirty log would stop
        // every write.
        let _ = pool.part_images().await;
    }
    let cleaned = saved.iter().filter(|(r, changes)| unmark(pool, r, *changes)).count();
    pool.dirty_regions.fetch_sub(cleaned, Ordering::Relaxed);
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
    let incoming = placement.incoming.map(|incoming| incoming.copy);
    for copy in placement.copies.iter().chain(&incoming) {
        let member = pool.member(copy.member);
        member.dirty.clear(Plane::Dirty, member.layout.region_number(copy.extent, region.key.region));
    }
    if !early {
        state.mark = Mark::Clear;
    }
    !early
}

async fn save_cleared(pool: &Shared, core: &Core) {
    for member in pool.all_members().iter().filter(|m| m.is_in_sync() || m.is_following()) {
        if let Some(disk) = &member.disk {
            // A bit that stays set on the disk costs work after a crash and nothing else; the disk's error
            // is counted and shows at the next write that matters.
            let _ = member.dirty.save_cleared(core, disk, Patience::Peers).await;
        }
    }
}
