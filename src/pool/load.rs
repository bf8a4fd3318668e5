//! Bringing a region's state into memory: where its slot lies, and the newest region block of any copy.

use super::fragment_read::Unreadable;
use super::planted::{Planted, is_planted};
use super::reach::{Reach, Reached};
use super::region::{Hold, Load, Placement, Region};
use super::region_block::{Owner, Places, RegionBlock, parse_whosever};
use super::volume::PoolVolume;
use crate::base::limits::BLOCK;
use crate::base::units::ByteLen;
use crate::block::Status;
use crate::reactor::Core;
use crate::reactor::sync::lock;
use futures_util::future::join_all;
use smallvec::SmallVec;

/// Reads that take less than this are not slow, whatever the others take; nanoseconds.
const SLOW_MIN_NS: u64 = 20_000_000;

/// Makes sure that the region's state is in memory. The caller holds some of its blocks, so that the slot cannot
/// be freed meanwhile.
///
/// # Errors
/// `Io` if no copy's region block could be read.
pub async fn ensure_loaded(volume: &PoolVolume, core: &Core, hold: &Hold) -> Result<(), Status> {
    if hold.region().state().load == Load::Loaded {
        return Ok(());
    }
    // Apart from the common case, so that this is not carried along in every request.
    Box::pin(load(volume, core, hold.region())).await
}

async fn load(volume: &PoolVolume, core: &Core, region: &Region) -> Result<(), Status> {
    loop {
        let ticket = region.changed.ticket();
        let lead = {
            let mut state = region.state();
            match state.load {
                Load::Loaded => return Ok(()),
                Load::Loading => false,
                Load::Unloaded => {
                    state.load = Load::Loading;
                    true
                }
            }
        };
        if !lead {
            ticket.await;
            continue;
        }
        let placement = volume.pool.placement_of(&region.key);
        let stored = match &placement {
            Some(placement) => newest(volume, core, region, placement).await,
            None => Ok(None),
        };
        let reach = placement.as_ref().map(|placement| volume.pool.reach(placement, region.key.region));
        let result = {
            let mut state = region.state();
            match stored {
                Ok(stored) => {
                    state.fill(placement, stored);
                    let kept = &volume.pool.kept_marks;
                    if reach.is_some_and(|reach| kept.restore(region, &mut state, &reach)) {
                        volume.note_unsaved(region.key);
                    }
                    Ok(())
                }
                Err(Unreadable) => {
                    state.load = Load::Unloaded;
                    Err(Status::Io)
                }
            }
        };
        region.changed.wake_all();
        return result;
    }
}

/// Whose region block it is.
pub fn owner(volume: &PoolVolume, region: &Region, placement: &Placement) -> Owner {
    Owner {
        pool: volume.pool.uuid,
        volume: volume.id,
        slot: region.key.slot,
        region: region.key.region,
        stamp: if is_planted(&volume.pool, Planted::ReuseStamp) { 0 } else { placement.stamp },
    }
}

/// The region block with the highest version on any copy in sync; None if the region was never saved.
///
/// A damaged block that may be newer than what is known is nothing to go on with: its region is not dirty, so no
/// crash explains it, and what only it knows of would read as zeros.
async fn newest(
    volume: &PoolVolume,
    core: &Core,
    region: &Region,
    placement: &Placement,
) -> Result<Option<RegionBlock>, Unreadable> {
    let reach = volume.pool.reach(placement, region.key.region);
    let prompt = prompt(&reach);
    let mut found = stored_by_copy(volume, core, region, placement, &prompt).await;
    if prompt.copies.len() < reach.copies.len() && !is_sure(&found) {
        found = stored_by_copy(volume, core, region, placement, &reach).await;
    }
    let nothing = found.iter().all(Option::is_none);
    if nothing || volume.has_marks(placement) && !is_sure(&found) {
        return Err(Unreadable);
    }
    Ok(found.into_iter().flatten().filter_map(|places| places.newest).max_by_key(|block| block.version))
}

/// Whether one of the newest is whole, with nothing damaged beside it that may be newer.
fn is_sure(found: &[Option<Places>]) -> bool {
    let version = |places: &Places| places.newest.as_ref().map_or(0, |block| block.version);
    let highest = found.iter().flatten().map(version).max();
    found.iter().flatten().any(|places| Some(version(places)) == highest && !places.doubtful)
}

/// The copies in sync that answer soon (R44): each of them has every save. All copies if there is none.
fn prompt(reach: &Reach) -> Reach {
    let in_sync = || reach.copies.iter().filter(|reached| reached.member.is_in_sync());
    let fastest = in_sync().map(|reached| reached.member.load().read_ns).min().unwrap_or(0);
    let soon = |reached: &&Reached| {
        let load = reached.member.load();
        !load.suspect && load.read_ns <= SLOW_MIN_NS.max(fastest.saturating_mul(4))
    };
    let copies: SmallVec<[Reached; 3]> = in_sync().filter(soon).cloned().collect();
    let copies = if copies.is_empty() { reach.copies.clone() } else { copies };
    Reach { copies, degraded: reach.degraded, writable: reach.writable, incoming: None }
}

/// What each of these copies has stored about a region; None where the copy cannot be read.
pub async fn stored_by_copy(
    volume: &PoolVolume,
    core: &Core,
    region: &Region,
    placement: &Placement,
    reach: &Reach,
) -> Vec<Option<Places>> {
    let owner = owner(volume, region, placement);
    let blocks = ByteLen(u64::from(volume.pool.region_blocks())).as_usize();
    let reads = reach.copies.iter().map(async |reached| {
        let Reached { copy, member } = reached;
        let disk = member.disk.as_ref()?;
        let at = member.layout.region_block(copy.extent, region.key.region, 0);
        let into = core.buffers().take(2 * ByteLen(BLOCK).as_usize());
        let both = disk.read(core, at, into, reach.patience(reached)).await.ok()?;
        if is_planted(&volume.pool, Planted::ChecksumWithoutAddress) {
            return Some(parse_whosever(both.as_slice(), blocks));
        }
        Some(Places::parse(both.as_slice(), &owner, blocks, at))
    });
    join_all(reads).await
}

/// Where the slot of a loaded region lies, allocating it if it has no place yet.
pub async fn ensure_placed(volume: &PoolVolume, hold: &Hold) -> Result<Placement, Status> {
    let region = hold.region();
    if let Some(placement) = &region.state().placement {
        return Ok(placement.clone());
    }
    let placement = volume.pool.allocate(volume.id, region.key.slot).await?;
    let mut state = region.state();
    // Another writer of the same region may have been faster; the answer is the same.
    state.placement = Some(placement.clone());
    Ok(placement)
}

/// Whether a slot has a place at all; cheaper than loading its regions.
pub fn is_allocated(volume: &PoolVolume, slot: crate::base::units::SlotIndex) -> bool {
    lock(&volume.pool.live).state.volumes.get(&volume.id).is_some_and(|v| v.slots.contains_key(&slot))
}
