//! A volume of a pool: requests cut into fragments, each done under its region's guard.

use super::kept_marks::Marks;
use super::planted::{Planted, is_planted};
use super::redundancy::stripe::{Fragment, Geometry};
use super::region::{Placement, Region, RegionKey};
use super::reservations::SetReservations;
use super::shared::Shared;
use super::state::VolumeRecord;
use super::{fragment_read, fragment_write};
use crate::base::checksum::block_seed;
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, RegionIndex, Span, VolumeId};
use crate::block::{self, Payload, ReservationCell, ReservationError, Status, WriteFlags};
use crate::disk::Rounds;
use crate::io::buf::Buf;
use crate::io::time::Instant;
use crate::reactor::Core;
use crate::reactor::sync::{Budget, WaitList, lock};
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// What of a volume changes when its size does, or its name.
#[derive(Clone, Debug)]
pub struct Shape {
    pub name: String,
    pub size: ByteLen,
    pub geometry: Geometry,
}

/// A volume at run time, shared by all cores.
pub struct PoolVolume {
    pub pool: Arc<Shared>,
    pub id: VolumeId,
    pub uuid: Uuid,
    /// Copies that new slots get, and that all slots are to have.
    copies: AtomicU8,
    /// No slot has fewer.
    fewest: AtomicU8,
    pub checksums: bool,
    /// The sector for hosts that count in sectors, bytes.
    pub lba_bytes: u32,
    pub reservations: ReservationCell,
    pub shape: ArcSwap<Shape>,
    /// While the volume is made smaller: nothing beyond is taken.
    pub limit: AtomicU64,
    /// Regions whose written marks are newer in memory than on the members.
    pub unsaved: Mutex<BTreeSet<RegionKey>>,
    /// What was answered before a kill lay on drives that are not there: the next flush says so.
    pub flush_fails_once: AtomicBool,
    pub flush_rounds: Rounds,
    /// One save of regions at a time.
    pub save_turn: Budget,
    destroyed: AtomicBool,
    entered: AtomicUsize,
    left: WaitList,
}

/// A request under way.
pub struct Entered<'a> {
    volume: &'a PoolVolume,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.volume.entered.fetch_sub(1, Ordering::AcqRel) == 1 && self.volume.is_destroyed() {
            self.volume.left.wake_all();
        }
    }
}

/// A client's request whose time counts for the pace of background work, while there is any.
struct Measured<'a>(Option<(&'a Shared, &'a Core, Instant)>);

impl<'a> Measured<'a> {
    fn begin(pool: &'a Shared, core: &'a Core) -> Measured<'a> {
        Measured(pool.pace.is_on().then(|| (pool, core, core.now())))
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        if let Some((pool, core, begun)) = self.0 {
            pool.pace.note_request(core.now().since(begun));
        }
    }
}

impl PoolVolume {
    pub fn new(pool: Arc<Shared>, id: VolumeId, record: &VolumeRecord) -> PoolVolume {
        let shape = shape_of(&pool, record);
        PoolVolume {
            pool,
            id,
            uuid: record.uuid,
            copies: AtomicU8::new(record.copies),
            fewest: AtomicU8::new(record.fewest_copies()),
            checksums: record.checksums,
            lba_bytes: record.lba_bytes,
            reservations: ReservationCell::new(record.reservations.clone()),
            shape: ArcSwap::from_pointee(shape),
            limit: AtomicU64::new(u64::MAX),
            unsaved: Mutex::default(),
            flush_fails_once: AtomicBool::new(false),
            flush_rounds: Rounds::default(),
            save_turn: Budget::new(1),
            destroyed: AtomicBool::new(false),
            entered: AtomicUsize::new(0),
            left: WaitList::default(),
        }
    }

    /// Sets the reservations that were decided on the ones of this version. With `durable` they are kept over a restart;
    /// otherwise nothing is.
    ///
    /// # Errors
    /// `Raced` if others were set in the meantime; otherwise what kept the commit from being made.
    ///
    /// # Panics
    /// If they are longer than `RESERVATIONS_LEN_MAX`.
    pub async fn set_reservations(
        &self,
        expected: u64,
        bytes: Arc<[u8]>,
        durable: bool,
    ) -> Result<(), ReservationError> {
        self.pool.set_reservations(SetReservations { volume: self.id, expected, bytes, durable }).await
    }

    /// Copies that new slots get.
    pub fn copies(&self) -> u8 {
        self.copies.load(Ordering::Acquire)
    }

    /// Copies that every slot has at least.
    pub fn fewest_copies(&self) -> u8 {
        self.fewest.load(Ordering::Acquire)
    }

    /// Follows a committed state. While all slots have the same number of copies that takes no time.
    pub fn follow_copies(&self, record: &VolumeRecord) {
        if self.copies() != record.copies || self.fewest_copies() != record.copies {
            self.fewest.store(record.fewest_copies(), Ordering::Release);
            self.copies.store(record.copies, Ordering::Release);
        }
    }

    /// Follows a committed change of size or name.
    pub fn reshape(&self, record: &VolumeRecord) {
        self.shape.store(Arc::new(shape_of(&self.pool, record)));
    }

    pub fn geometry(&self) -> block::Geometry {
        let shape = self.shape.load();
        let members = self.pool.members.load();
        let disks = members.values().filter_map(|m| m.disk.as_ref());
        block::Geometry {
            size: self.size(),
            block: u32::try_from(BLOCK).expect("4096"),
            preferred: u32::try_from(shape.geometry.unit.0).expect("1 MiB at most"),
            rotational: disks.into_iter().any(|d| d.facts().rotational),
        }
    }

    /// Bytes that can be used now.
    pub fn size(&self) -> ByteLen {
        ByteLen(self.shape.load().size.0.min(self.limit.load(Ordering::Acquire)))
    }

    /// Bytes of the slots that are allocated, each counted once.
    pub fn used(&self) -> ByteLen {
        let slots = lock(&self.pool.live).state.volumes.get(&self.id).map_or(0, |v| v.slots.len());
        self.pool.slot_bytes(slots)
    }

    /// The bytes of a span, which lies within the volume.
    pub async fn read(&self, core: &Core, span: Span) -> Result<Payload, Status> {
        let _entered = self.enter()?;
        let _measured = Measured::begin(&self.pool, core);
        if let Some(fragment) = self.only_fragment(span) {
            return fragment_read::read(self, core, fragment).await.map(Payload::one);
        }
        let reads = self.fragments(span).into_iter().map(|f| fragment_read::read(self, core, f));
        let parts: Result<SmallVec<[Buf; 2]>, Status> = Box::pin(join_all(reads)).await.into_iter().collect();
        Ok(Payload { parts: parts? })
    }

    /// Writes a payload; its span lies within the volume.
    pub async fn write(
        &self,
        core: &Core,
        span: Span,
        payload: &Payload,
        flags: WriteFlags,
    ) -> Result<(), Status> {
        let _entered = self.enter()?;
        let _measured = Measured::begin(&self.pool, core);
        let write = |fragment: Fragment| {
            let data = payload_part(core, payload, span, fragment);
            fragment_write::write(self, core, fragment, data, flags.fua)
        };
        let marks = if let Some(fragment) = self.only_fragment(span) {
            write(fragment).await?
        } else {
            let writes = join_all(self.fragments(span).into_iter().map(write));
            let ended: Result<Vec<Marks>, Status> = Box::pin(writes).await.into_iter().collect();
            ended?.into_iter().max().unwrap_or(Marks::Saved)
        };
        // The data is durable, but a block written for the first time is found again only by its written mark.
        let durable = flags.fua && !is_planted(core, Planted::FuaForgetsMark);
        self.secure(core, marks, durable).await
    }

    /// Lets a change be answered that has set or cleared these marks: what only this process knows is saved first, and
    /// for a durable change all that is not.
    pub async fn secure(&self, core: &Core, marks: Marks, durable: bool) -> Result<(), Status> {
        let saves = match marks {
            Marks::Saved => false,
            Marks::Kept => durable,
            Marks::Exposed => true,
        };
        if saves { Box::pin(self.flush_known(core)).await } else { Ok(()) }
    }

    /// The fragment that is the whole span, if there is one.
    fn only_fragment(&self, span: Span) -> Option<Fragment> {
        self.shape.load().geometry.fragments(span).next().filter(|first| first.len == span.len())
    }

    pub fn fragments(&self, span: Span) -> SmallVec<[Fragment; 8]> {
        self.shape.load().geometry.fragments(span).collect()
    }

    /// The region of a fragment, and where the fragment starts within it.
    pub fn region_of(&self, fragment: &Fragment) -> (Arc<Region>, ByteLen) {
        let region_len = self.pool.region.0;
        let index = u32::try_from(fragment.offset.0 / region_len).expect("128 at most");
        let region = self.pool.region(self.id, fragment.slot, RegionIndex(index), self.checksums);
        (region, ByteLen(fragment.offset.0 % region_len))
    }

    /// The seed of the checksum of one block of a region.
    pub fn block_seed(&self, key: RegionKey, stamp: u64, block: u32) -> u64 {
        if is_planted(&self.pool, Planted::ChecksumWithoutAddress) {
            return self.pool.seed;
        }
        let in_slot = key.region.0 * self.pool.region_blocks() + block;
        block_seed(self.pool.seed, self.id.0, key.slot.0, stamp, in_slot)
    }

    /// Blocks of a region, counted from the start of their slot.
    pub fn in_slot(&self, key: RegionKey, blocks: &std::ops::Range<u32>) -> std::ops::Range<u32> {
        let first = key.region.0 * self.pool.region_blocks();
        first + blocks.start..first + blocks.end
    }

    /// Remembers that a region's written marks must be saved by the next flush.
    pub fn note_unsaved(&self, key: RegionKey) {
        lock(&self.unsaved).insert(key);
    }

    /// Whether a crash could leave the copies of a slot different, or its checksums stale. Before there is a second one:
    /// what is written while it is made is marked by then.
    pub fn has_marks(&self, placement: &Placement) -> bool {
        self.checksums
            || placement.copies.len() > 1
            || placement.incoming.is_some_and(|incoming| incoming.more)
    }

    /// Counts a request in, unless the volume takes none any more.
    pub fn enter(&self) -> Result<Entered<'_>, Status> {
        self.entered.fetch_add(1, Ordering::AcqRel);
        let entered = Entered { volume: self };
        if self.is_destroyed() { Err(Status::ShuttingDown) } else { Ok(entered) }
    }

    pub fn is_destroyed(&self) -> bool {
        self.destroyed.load(Ordering::Acquire)
    }

    /// Takes no more requests and waits for those under way: afterwards nobody touches the volume's extents.
    pub async fn retire(&self) {
        self.destroyed.store(true, Ordering::Release);
        loop {
            let ticket = self.left.ticket();
            if self.entered.load(Ordering::Acquire) == 0 {
                break;
            }
            ticket.await;
        }
        // A save under way ends, and none starts: `save` looks at `destroyed` once it has its turn.
        drop(self.save_turn.take(1).await);
    }

    /// Where a block of a region starts in the volume's slot.
    pub fn offset_in_extent(&self, region: RegionIndex, within: ByteLen) -> ByteLen {
        ByteLen(u64::from(region.0) * self.pool.region.0) + within
    }
}

fn shape_of(pool: &Shared, record: &VolumeRecord) -> Shape {
    Shape { name: record.name.clone(), size: record.size, geometry: record.geometry(pool.extent) }
}

/// The part of a payload that a fragment covers: shared where it lies in one buffer with the volume's alignment,
/// copied otherwise.
fn payload_part(core: &Core, payload: &Payload, span: Span, fragment: Fragment) -> Buf {
    let start = (fragment.at - span.offset()).as_usize();
    let len = fragment.len.as_usize();
    let mut skipped = 0;
    for part in &payload.parts {
        if start >= skipped && start + len <= skipped + part.len() {
            return part.slice(start - skipped..start - skipped + len);
        }
        skipped += part.len();
    }
    let mut copy = core.buffers().take(len);
    gather(payload, start, copy.as_mut_slice());
    copy.freeze()
}

/// Copies the payload's bytes from `start` on.
fn gather(payload: &Payload, start: usize, out: &mut [u8]) {
    let (mut skipped, mut done) = (0, 0);
    for part in &payload.parts {
        let bytes = part.as_slice();
        let from = (start + done).saturating_sub(skipped).min(bytes.len());
        let step = (bytes.len() - from).min(out.len() - done);
        if start + done >= skipped && step > 0 {
            out[done..done + step].copy_from_slice(&bytes[from..from + step]);
            done += step;
        }
        skipped += bytes.len();
    }
    assert_eq!(done, out.len(), "the payload covers its span");
}

/// Whether bytes can go to a disk as they are: whole blocks, aligned in memory.
pub fn is_direct(buf: &Buf, within: ByteLen) -> bool {
    let aligned = |n: u64| n.is_multiple_of(BLOCK);
    aligned(within.0) && aligned(buf.len() as u64) && aligned(buf.as_ptr().addr() as u64) // widening
}

/// The blocks of a region that a range of its bytes touches.
pub fn blocks_of(within: ByteLen, len: ByteLen) -> std::ops::Range<u32> {
    let first = within.0 / BLOCK;
    let end = (within.0 + len.0).div_ceil(BLOCK);
    u32::try_from(first).expect("512 at most")..u32::try_from(end).expect("512 at most")
}
