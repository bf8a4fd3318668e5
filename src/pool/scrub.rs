//! Reading everything and comparing: every written block of every copy, against its checksum and the other copies.

use super::Pool;
use super::fragment_read::index;
use super::load::ensure_loaded;
use super::region::{Hold, Placement};
use super::volume::PoolVolume;
use crate::base::checksum::block_sum;
use crate::base::limits::{BLOCK, CHUNK_MAX};
use crate::base::units::{ByteLen, RegionIndex, SlotIndex};
use crate::io::buf::Buf;
use crate::reactor::Core;
use crate::reactor::sync::lock;
use futures_util::future::join_all;
use std::ops::Range;

/// What a scrub found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubFacts {
    /// Blocks compared, each counted once.
    pub blocks: u64,
    /// Blocks whose copies differ from each other.
    pub different: u64,
    /// Copies of blocks that do not match their checksum.
    pub mismatched: u64,
    /// Copies of blocks that could not be read.
    pub unreadable: u64,
}

const STEP: u32 = (CHUNK_MAX / BLOCK) as u32; // a constant of 256
const BLOCK_LEN: usize = BLOCK as usize; // a constant of 4096

impl Pool {
    /// Reads and compares everything that was written. Repairs nothing.
    pub async fn scrub(&self, core: &Core) -> ScrubFacts {
        let mut facts = ScrubFacts::default();
        let volumes = self.shared.volumes.load_full();
        for volume in volumes.values() {
            let slots: Vec<SlotIndex> = {
                let live = lock(&self.shared.live);
                live.state
                    .volumes
                    .get(&volume.id)
                    .map(|v| v.slots.keys().copied().collect())
                    .unwrap_or_default()
            };
            for slot in slots {
                for region in 0..self.shared.regions_per_slot() {
                    scrub_region(volume, core, slot, RegionIndex(region), &mut facts).await;
                }
            }
        }
        facts
    }
}

async fn scrub_region(
    volume: &PoolVolume,
    core: &Core,
    slot: SlotIndex,
    region: RegionIndex,
    facts: &mut ScrubFacts,
) {
    let Ok(_entered) = volume.enter() else { return };
    let region = volume.pool.region(volume.id, slot, region, volume.checksums);
    for first in (0..volume.pool.region_blocks()).step_by(index(STEP)) {
        let blocks = first..(first + STEP).min(volume.pool.region_blocks());
        let hold = region.hold(blocks.clone(), false).await;
        if ensure_loaded(volume, core, &hold).await.is_err() {
            facts.unreadable += u64::from(blocks.end - blocks.start);
            continue;
        }
        let placement = {
            let state = region.state();
            let any = state.written.any(index(blocks.start)..index(blocks.end));
            state.placement.clone().filter(|_| any)
        };
        if let Some(placement) = placement {
            compare(volume, core, &hold, &placement, &blocks, facts).await;
        }
    }
}

async fn compare(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    placement: &Placement,
    blocks: &Range<u32>,
    facts: &mut ScrubFacts,
) {
    let within = ByteLen(u64::from(blocks.start) * BLOCK);
    let offset = volume.offset_in_extent(hold.region().key.region, within);
    let reads = placement.copies.iter().map(async |copy| {
        let member = volume.pool.member(copy.member);
        let disk = member.usable(placement.copies.len())?;
        let into = core.buffers().take(blocks.len() * BLOCK_LEN);
        Some(disk.read(core, member.layout.data(copy.extent, offset), into).await.ok().map(|b| b.freeze()))
    });
    let copies: Vec<Option<Buf>> = join_all(reads).await.into_iter().flatten().collect();
    let state = hold.region().state();
    for (at, block) in blocks.clone().enumerate().filter(|(_, block)| state.written.get(index(*block))) {
        facts.blocks += 1;
        facts.unreadable += copies.iter().filter(|c| c.is_none()).count() as u64; // widening
        let range = at * BLOCK_LEN..(at + 1) * BLOCK_LEN;
        let bytes: Vec<&[u8]> = copies.iter().flatten().map(|buf| &buf.as_slice()[range.clone()]).collect();
        facts.different += u64::from(bytes.windows(2).any(|pair| pair[0] != pair[1]));
        if let Some(sums) = &state.sums {
            let seed = volume.block_seed(hold.region().key, placement.stamp, block);
            let bad = bytes.iter().filter(|bytes| block_sum(seed, bytes) != sums[index(block)]).count();
            facts.mismatched += bad as u64; // widening
        }
    }
}
