//! Reading a fragment: zeros where nothing was written, otherwise from the copy that answers first, verified.

use super::load::ensure_loaded;
use super::planted::{Planted, is_planted};
use super::redundancy::mirror::{Copy, read_order};
use super::redundancy::stripe::Fragment;
use super::region::{Hold, Placement};
use super::volume::{PoolVolume, blocks_of};
use crate::base::bitmap::Bitmap;
use crate::base::checksum::block_sum;
use crate::base::limits::BLOCK;
use crate::base::units::ByteLen;
use crate::block::Status;
use crate::io::buf::{Buf, BufMut};
use crate::reactor::Core;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// No copy could be read.
#[derive(Clone, Copy, Debug)]
pub struct Unreadable;

const BLOCK_LEN: usize = BLOCK as usize; // a constant of 4096

/// The bytes of a fragment.
pub async fn read(volume: &PoolVolume, core: &Core, fragment: Fragment) -> Result<Buf, Status> {
    let (region, within) = volume.region_of(&fragment);
    let blocks = blocks_of(within, fragment.len);
    let hold = region.hold(blocks.clone(), false).await;
    ensure_loaded(volume, core, &hold).await?;
    let Some(whole) = read_blocks(volume, core, &hold, blocks.clone()).await? else {
        return Ok(core.buffers().zeroes(fragment.len.as_usize()));
    };
    let start = within.as_usize() - block_start(blocks.start);
    Ok(whole.freeze().slice(start..start + fragment.len.as_usize()))
}

/// Whole blocks of a region that the caller holds and that is loaded; None if none of them was ever written.
pub async fn read_blocks(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    blocks: Range<u32>,
) -> Result<Option<BufMut>, Status> {
    let Some(wanted) = plan(hold, &blocks) else { return Ok(None) };
    let placement = &wanted.placement;
    let spread = u64::from(hold.region().key.slot.0) + u64::from(hold.region().key.region.0);
    let load =
        |member| volume.pool.member(member).usable(placement.copies.len()).map(crate::disk::Disk::load);
    for copy in read_order(&placement.copies, load, spread) {
        if let Ok(mut buf) = read_copy(volume, core, hold, &wanted, copy).await {
            zero_unwritten(&wanted, &mut buf);
            return Ok(Some(buf));
        }
    }
    Err(Status::Io)
}

/// What a read of some blocks needs to know, taken under the region's lock.
struct Wanted {
    placement: Placement,
    blocks: Range<u32>,
    /// One bit for each of the blocks, set where it was never written. None if all were.
    gaps: Option<Box<Bitmap>>,
    sums: Option<SmallVec<[u32; 8]>>,
}

impl Wanted {
    /// Whether the block at this place of the range was ever written.
    fn is_written(&self, at: usize) -> bool {
        self.gaps.as_ref().is_none_or(|gaps| !gaps.get(at))
    }
}

fn plan(hold: &Hold, blocks: &Range<u32>) -> Option<Wanted> {
    let state = hold.region().state();
    let range = index(blocks.start)..index(blocks.end);
    if !state.written.any(range.clone()) {
        return None;
    }
    let placement = state.placement.clone().expect("written blocks lie somewhere");
    let gaps = (!state.written.all(range.clone())).then(|| {
        let mut gaps = Bitmap::new(range.len());
        range.clone().enumerate().for_each(|(at, block)| {
            gaps.set(at, !state.written.get(block));
        });
        Box::new(gaps)
    });
    let sums = state.sums.as_ref().map(|sums| SmallVec::from_slice(&sums[range]));
    Some(Wanted { placement, blocks: blocks.clone(), gaps, sums })
}

async fn read_copy(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    wanted: &Wanted,
    copy: Copy,
) -> Result<BufMut, Unreadable> {
    let member = volume.pool.member(copy.member);
    let disk = member.usable(wanted.placement.copies.len()).ok_or(Unreadable)?;
    let offset =
        volume.offset_in_extent(hold.region().key.region, ByteLen(u64::from(wanted.blocks.start) * BLOCK));
    let into = core.buffers().take(wanted.blocks.len() * BLOCK_LEN);
    let buf = disk.read(core, member.layout.data(copy.extent, offset), into).await.map_err(|_| Unreadable)?;
    match first_mismatch(volume, hold, wanted, &buf) {
        None => Ok(buf),
        Some(_) if is_planted(&volume.pool, Planted::TrustChecksums) => Ok(buf),
        Some(_) => {
            disk.errors.checksum.fetch_add(1, Ordering::Relaxed);
            Err(Unreadable)
        }
    }
}

/// The first written block whose checksum is not the stored one.
fn first_mismatch(volume: &PoolVolume, hold: &Hold, wanted: &Wanted, buf: &BufMut) -> Option<u32> {
    let sums = wanted.sums.as_ref()?;
    let blocks = buf.as_slice().chunks_exact(BLOCK_LEN).zip(wanted.blocks.clone()).enumerate();
    blocks
        .filter(|(at, _)| wanted.is_written(*at))
        .find(|(at, (bytes, block))| {
            let seed = volume.block_seed(hold.region().key, wanted.placement.stamp, *block);
            block_sum(seed, bytes) != sums[*at]
        })
        .map(|(_, (_, block))| block)
}

fn zero_unwritten(wanted: &Wanted, buf: &mut BufMut) {
    for at in wanted.gaps.iter().flat_map(|gaps| gaps.iter()) {
        buf.as_mut_slice()[at * BLOCK_LEN..][..BLOCK_LEN].fill(0);
    }
}

/// Where a block starts within its region, bytes.
pub fn block_start(block: u32) -> usize {
    index(block) * BLOCK_LEN
}

pub fn index(block: u32) -> usize {
    usize::try_from(block).expect("64-bit platform")
}
