//! What all cores share of an open pool.

use super::cache::RegionCache;
use super::home::HomeRequest;
use super::member::Member;
use super::region::{Placement, Region, RegionKey};
use super::state::{FreeExtents, State};
use super::volume::PoolVolume;
use crate::base::units::{ByteLen, MemberId, RegionIndex, SlotIndex, VolumeId};
use crate::block::Status;
use crate::reactor::mailbox::Sender;
use crate::reactor::sync::{WaitList, lock, oneshot};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// The committed state, and what is derived from it.
pub struct Live {
    pub state: State,
    pub free: FreeExtents,
    pub epoch: u64,
    pub votes_present: usize,
}

/// One open pool.
pub struct Shared {
    pub uuid: Uuid,
    /// The pool's part of every checksum's seed.
    pub seed: u64,
    pub extent: ByteLen,
    pub region: ByteLen,
    pub members: BTreeMap<MemberId, Arc<Member>>,
    pub live: Mutex<Live>,
    pub cache: RegionCache,
    pub volumes: ArcSwap<BTreeMap<VolumeId, Arc<PoolVolume>>>,
    /// Counts the changes of which members are in sync.
    pub membership: AtomicU64,
    /// Regions whose dirty mark is set.
    pub dirty_regions: AtomicUsize,
    /// Woken by the cleaner when there are fewer of them.
    pub cleaned: WaitList,
    /// Somebody waits for the cleaner.
    pub clean_now: AtomicBool,
    pub clean_wanted: WaitList,
    /// No request is taken any more.
    pub closing: AtomicBool,
    pub home: Sender<HomeRequest>,
    #[cfg(any(test, feature = "planted-bugs"))]
    pub planted: Mutex<super::planted::Planted>,
}

impl Shared {
    pub fn member(&self, id: MemberId) -> &Member {
        self.members.get(&id).expect("placements name members of the pool")
    }

    pub fn membership(&self) -> u64 {
        self.membership.load(Ordering::Acquire)
    }

    /// Blocks of one region.
    pub fn region_blocks(&self) -> u32 {
        u32::try_from(self.region.0 / crate::base::limits::BLOCK).expect("512 at most")
    }

    pub fn regions_per_slot(&self) -> u32 {
        u32::try_from(self.extent.0 / self.region.0).expect("128 at most")
    }

    /// A region, from memory or newly made (and then still to be loaded).
    pub fn region(
        &self,
        volume: VolumeId,
        slot: SlotIndex,
        region: RegionIndex,
        checksums: bool,
    ) -> Arc<Region> {
        let key = RegionKey { volume, slot, region };
        self.cache.find(key, || Region::new(key, self.region_blocks(), checksums))
    }

    /// Where a slot lies now.
    pub fn placement(&self, volume: VolumeId, slot: SlotIndex) -> Option<Placement> {
        let live = lock(&self.live);
        let record = live.state.volumes.get(&volume)?.slots.get(&slot)?;
        Some(Placement { stamp: record.stamp, copies: record.copies.clone() })
    }

    /// Asks the home core to place a slot; an answer that exists already is given again.
    pub async fn allocate(&self, volume: VolumeId, slot: SlotIndex) -> Result<Placement, Status> {
        let (answer, asked) = oneshot();
        self.ask(HomeRequest::Allocate { volume, slot, answer })?;
        asked.await.unwrap_or(Err(Status::ShuttingDown))
    }

    /// Asks the home core to free a slot, whose regions the caller holds.
    pub async fn free(&self, volume: VolumeId, slot: SlotIndex) -> Result<(), Status> {
        let (answer, asked) = oneshot();
        self.ask(HomeRequest::Free { volume, slot, answer })?;
        asked.await.unwrap_or(Err(Status::ShuttingDown))
    }

    /// Declares a member's copies out of sync. When this returns, that is committed: the next crash will not
    /// bring its old bytes back.
    pub async fn member_failed(&self, member: MemberId, reason: String) -> Result<(), Status> {
        let (answer, asked) = oneshot();
        self.ask(HomeRequest::MemberFailed { member, reason, answer })?;
        asked.await.unwrap_or(Err(Status::ShuttingDown))
    }

    fn ask(&self, request: HomeRequest) -> Result<(), Status> {
        self.home.send(request).map_err(|_| Status::ShuttingDown)
    }

    /// Whether some region is marked dirty, or some written mark is not saved.
    pub fn has_work_for_cleaner(&self) -> bool {
        self.dirty_regions.load(Ordering::Relaxed) > 0
            || self.volumes.load().values().any(|v| !lock(&v.unsaved).is_empty())
    }

    /// Bytes of `slots` slots.
    pub fn slot_bytes(&self, slots: usize) -> ByteLen {
        ByteLen(slots as u64 * self.extent.0) // widening
    }
}
