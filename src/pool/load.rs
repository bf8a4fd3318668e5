//! Bringing a region's state into memory: where its slot lies, and the newest region block of any copy.

use super::fragment_read::Unreadable;
use super::region::{Hold, Load, Placement, Region};
use super::region_block::{Owner, RegionBlock};
use super::volume::PoolVolume;
use crate::base::limits::BLOCK;
use crate::base::units::ByteLen;
use crate::block::Status;
use crate::reactor::Core;
use crate::reactor::sync::lock;
use futures_util::future::join_all;

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
        let placement = volume.pool.placement(volume.id, region.key.slot);
        let stored = match &placement {
            Some(placement) => newest(volume, core, region, placement).await,
            None => Ok(None),
        };
        let result = {
            let mut state = region.state();
            match stored {
                Ok(stored) => {
                    state.fill(placement, stored);
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
        stamp: placement.stamp,
    }
}

/// The region block with the highest version on any copy in sync; None if the region was never saved.
async fn newest(
    volume: &PoolVolume,
    core: &Core,
    region: &Region,
    placement: &Placement,
) -> Result<Option<RegionBlock>, Unreadable> {
    let found = stored_by_copy(volume, core, region, placement).await;
    if found.iter().all(Option::is_none) {
        return Err(Unreadable);
    }
    Ok(found.into_iter().flatten().flatten().max_by_key(|block| block.version))
}

/// What each copy has stored about a region, in the order of the placement: None where the copy cannot be read,
/// Some(None) where it has nothing.
pub async fn stored_by_copy(
    volume: &PoolVolume,
    core: &Core,
    region: &Region,
    placement: &Placement,
) -> Vec<Option<Option<RegionBlock>>> {
    let owner = owner(volume, region, placement);
    let blocks = ByteLen(u64::from(volume.pool.region_blocks())).as_usize();
    let reads = placement.copies.iter().map(async |copy| {
        let member = volume.pool.member(copy.member);
        let disk = member.usable(placement.copies.len())?;
        let at = member.layout.region_block(copy.extent, region.key.region, 0);
        let into = core.buffers().take(2 * ByteLen(BLOCK).as_usize());
        let both = disk.read(core, at, into).await.ok()?;
        let (even, odd) = both.as_slice().split_at(ByteLen(BLOCK).as_usize());
        let even = RegionBlock::parse(even, &owner, blocks, at);
        let odd = RegionBlock::parse(odd, &owner, blocks, at + ByteLen(BLOCK));
        Some([even, odd].into_iter().flatten().max_by_key(|block| block.version))
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
