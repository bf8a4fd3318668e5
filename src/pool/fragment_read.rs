//! Reading a fragment: zeros where nothing was written, otherwise from the copy that answers first, verified.

use super::heal::{assemble, heal_later};
use super::load::ensure_loaded;
use super::planted::{Planted, is_planted};
use super::reach::{Reach, Reached};
use super::redundancy::mirror::{Load, hedge_after, read_order};
use super::redundancy::stripe::Fragment;
use super::region::{Hold, Placement};
use super::volume::{PoolVolume, blocks_of};
use crate::base::bitmap::Bitmap;
use crate::base::checksum::block_sum;
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, ByteOffset};
use crate::block::Status;
use crate::disk::Patience;
use crate::io::buf::{Buf, BufMut};
use crate::reactor::Core;
use futures_util::future::{Either, select};
use smallvec::SmallVec;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

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
    let Some(mut whole) = read_blocks(volume, core, &hold, blocks.clone()).await? else {
        return Ok(core.buffers().zeroes(fragment.len.as_usize()));
    };
    let start = whole.window().start + within.as_usize() - block_start(blocks.start);
    whole.set_window(start..start + fragment.len.as_usize());
    Ok(whole.freeze())
}

/// Whole blocks of a region that the caller holds and that is loaded; None if none of them was ever written.
pub async fn read_blocks(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    blocks: Range<u32>,
) -> Result<Option<BufMut>, Status> {
    let Some(wanted) = plan(hold, &blocks) else { return Ok(None) };
    let key = hold.region().key;
    let reach = volume.pool.reach(&wanted.placement, key.region);
    let tries = in_order(&reach, u64::from(key.slot.0) + u64::from(key.region.0));
    let known_lost = wanted.lost.is_some();
    let tried =
        if known_lost { Tried::default() } else { read_in_turn(volume, core, hold, &wanted, &tries).await };
    if let Some(mut buf) = tried.right {
        if tried.failed {
            heal_later(volume, core, key, blocks);
        }
        if !is_planted(&volume.pool, Planted::SkipZeroing) {
            zero_unwritten(&wanted, &mut buf);
        }
        return Ok(Some(buf));
    }
    // No copy has all of them: block by block, then.
    heal_later(volume, core, key, blocks.clone());
    Box::pin(assemble(volume, core, hold, blocks)).await
}

/// What a read of some blocks needs to know, taken under the region's lock.
pub struct Wanted {
    pub placement: Placement,
    pub blocks: Range<u32>,
    /// One bit for each of the blocks, set where it was never written. None if all were.
    gaps: Option<Box<Bitmap>>,
    /// Set where no copy has what was written. None if there is no such block.
    lost: Option<Box<Bitmap>>,
    pub sums: Option<SmallVec<[u32; 8]>>,
}

impl Wanted {
    /// Whether the block at this place of the range was ever written.
    pub fn is_written(&self, at: usize) -> bool {
        self.gaps.as_ref().is_none_or(|gaps| !gaps.get(at))
    }

    /// Whether the block at this place was written and is known to be lost.
    pub fn is_lost(&self, at: usize) -> bool {
        self.lost.as_ref().is_some_and(|lost| lost.get(at))
    }
}

/// None if none of the blocks was ever written.
pub fn plan(hold: &Hold, blocks: &Range<u32>) -> Option<Wanted> {
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
    let lost = state.lost.as_ref().and_then(|lost| lost_among(lost, &state.written, &range));
    let sums = state.sums.as_ref().map(|sums| SmallVec::from_slice(&sums[range]));
    Some(Wanted { placement, blocks: blocks.clone(), gaps, lost, sums })
}

fn lost_among(lost: &Bitmap, written: &Bitmap, range: &Range<usize>) -> Option<Box<Bitmap>> {
    let mut among = Bitmap::new(range.len());
    for (at, block) in range.clone().enumerate() {
        among.set(at, lost.get(block) && written.get(block));
    }
    (!among.is_empty()).then(|| Box::new(among))
}

/// A copy to be tried.
struct Try<'a> {
    from: &'a Reached,
    /// What its member's reads take, nanoseconds.
    read_ns: u64,
}

/// All copies that can be read, the one that is expected to answer first in front.
fn in_order(reach: &Reach, spread: u64) -> SmallVec<[Try<'_>; 3]> {
    let of = |i: usize, load: &Load| Try { from: &reach.copies[i], read_ns: load.read_ns };
    let loads: SmallVec<[Load; 3]> = reach.copies.iter().map(|r| r.member.load()).collect();
    if let [only] = &loads[..] {
        return SmallVec::from_iter([of(0, only)]);
    }
    read_order(&loads, spread).iter().map(|i| of(*i, &loads[*i])).collect()
}

/// What came of trying copies.
#[derive(Default)]
struct Tried {
    right: Option<BufMut>,
    /// One of them could not be read, or was wrong.
    failed: bool,
}

/// Copies in turn until one is right.
async fn read_in_turn(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    wanted: &Wanted,
    tries: &[Try<'_>],
) -> Tried {
    let mut failed = false;
    for (at, this) in tries.iter().enumerate() {
        match read_copy_now(volume, core, hold, wanted, this.from) {
            Some(Ok(buf)) => return Tried { right: Some(buf), failed },
            Some(Err(Unreadable)) => failed = true,
            None => {
                // Apart, so that a read of memory does not carry along what waiting needs.
                let waiting = Box::pin(wait_in_turn(volume, core, hold, wanted, &tries[at..]));
                let tried = waiting.await;
                return Tried { failed: tried.failed || failed, ..tried };
            }
        }
    }
    Tried { right: None, failed }
}

/// The same with waiting; a copy that takes too long is not waited for before the next is asked too.
async fn wait_in_turn(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    wanted: &Wanted,
    tries: &[Try<'_>],
) -> Tried {
    let mut tried = Tried::default();
    for (at, this) in tries.iter().enumerate() {
        let rest = &tries[at + 1..];
        let mut read = pin!(read_copy(volume, core, hold, wanted, this.from));
        let first_poll = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await;
        let result = match (first_poll, rest) {
            (Poll::Ready(result), _) => result,
            (Poll::Pending, []) => read.await,
            (Poll::Pending, [next, ..]) => {
                let others = wait_in_turn(volume, core, hold, wanted, rest);
                let mut ended =
                    Box::pin(hedge(core, read, this.from, hedge_after(next.read_ns), others)).await;
                ended.failed |= tried.failed;
                return ended;
            }
        };
        match result {
            Ok(buf) => {
                tried.right = Some(buf);
                return tried;
            }
            Err(Unreadable) => tried.failed = true,
        }
    }
    tried
}

/// Waits for a read; after some time asks the others too, and takes the first right answer.
async fn hedge(
    core: &Core,
    read: impl Future<Output = Result<BufMut, Unreadable>> + Unpin,
    from: &Reached,
    patience: Duration,
    others: impl Future<Output = Tried>,
) -> Tried {
    let right = |buf| Tried { right: Some(buf), failed: false };
    let (read, others) = match select(read, core.sleep(patience)).await {
        Either::Left((Ok(buf), _)) => return right(buf),
        Either::Left((Err(Unreadable), _)) => return Tried { failed: true, ..others.await },
        Either::Right(((), read)) => {
            // It may never end: that it takes so long counts now.
            from.disk().answers.note_read(patience);
            (read, pin!(others))
        }
    };
    match select(read, others).await {
        Either::Left((Ok(buf), _)) => right(buf),
        Either::Left((Err(Unreadable), others)) => Tried { failed: true, ..others.await },
        Either::Right((Tried { right: None, .. }, read)) => Tried { right: read.await.ok(), failed: true },
        Either::Right((tried, _)) => tried,
    }
}

/// A copy whose disk is memory; None if it must be waited for.
fn read_copy_now(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    wanted: &Wanted,
    from: &Reached,
) -> Option<Result<BufMut, Unreadable>> {
    let disk = from.member.disk.as_ref()?;
    let mut into = core.buffers().take(wanted.blocks.len() * BLOCK_LEN);
    disk.read_now(core, place_on(volume, hold, wanted, from), &mut into)
        .then(|| verified(volume, hold, wanted, into))
}

async fn read_copy(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    wanted: &Wanted,
    from: &Reached,
) -> Result<BufMut, Unreadable> {
    let disk = from.member.disk.as_ref().ok_or(Unreadable)?;
    let into = core.buffers().take(wanted.blocks.len() * BLOCK_LEN);
    let buf = disk.read(core, place_on(volume, hold, wanted, from), into, Patience::Alone).await;
    verified(volume, hold, wanted, buf.map_err(|_| Unreadable)?)
}

/// Where the wanted blocks of a copy lie on its disk.
fn place_on(volume: &PoolVolume, hold: &Hold, wanted: &Wanted, from: &Reached) -> ByteOffset {
    let first = ByteLen(u64::from(wanted.blocks.start) * BLOCK);
    let offset = volume.offset_in_extent(hold.region().key.region, first);
    from.member.layout.data(from.copy.extent, offset)
}

/// What was read, if it is what was written.
fn verified(volume: &PoolVolume, hold: &Hold, wanted: &Wanted, buf: BufMut) -> Result<BufMut, Unreadable> {
    match first_mismatch(volume, hold, wanted, &buf) {
        None => Ok(buf),
        Some(_) if is_planted(&volume.pool, Planted::TrustChecksums) => Ok(buf),
        // It is counted by the healing that follows.
        Some(_) => Err(Unreadable),
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
