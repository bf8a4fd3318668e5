//! What all cores share of an open pool.

use super::cache::{REGION_COST, RegionCache};
use super::doubt::Doubts;
use super::home::HomeRequest;
use super::kept_marks::KeptMarks;
use super::layout::region_size;
use super::lost::LostBlocks;
use super::member::Member;
use super::moving::Moves;
use super::open::OpenPlan;
use super::pace::Pace;
use super::progress::Progress;
use super::redundancy::mirror::Copy;
use super::region::{Placement, Region, RegionKey};
use super::state::{FreeExtents, State};
use super::volume::PoolVolume;
use crate::base::units::{ByteLen, MemberId, RegionIndex, SlotIndex, VolumeId};
use crate::block::Status;
use crate::reactor::mailbox::Sender;
use crate::reactor::sync::{Budget, WaitList, lock, oneshot};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

/// The committed state, and what is derived from it.
pub struct Live {
    pub state: State,
    /// Without the extents that copies are being moved to.
    pub free: FreeExtents,
    pub reserved: Vec<Copy>,
    pub epoch: u64,
    pub votes_present: usize,
}

/// Units of `Shared::background`.
pub const BACKGROUND_UNITS: u64 = 16;

/// One open pool.
pub struct Shared {
    pub uuid: Uuid,
    /// The pool's part of every checksum's seed.
    pub seed: u64,
    pub extent: ByteLen,
    pub region: ByteLen,
    pub members: ArcSwap<BTreeMap<MemberId, Arc<Member>>>,
    /// Members that are gone, for whoever looked them up a moment ago.
    parted: Mutex<BTreeMap<MemberId, Arc<Member>>>,
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
    /// Woken when `closing` is set.
    pub closed: WaitList,
    /// Background work takes one unit while it is at it; closing takes all.
    pub background: Budget,
    /// Paths that members may be found at.
    pub places: Mutex<Vec<PathBuf>>,
    /// Woken when there is a member to bring up to date.
    pub resync_wanted: WaitList,
    pub resync_progress: Progress,
    /// Woken to begin or go on with a scrub; and when one has ended.
    pub scrub_wanted: WaitList,
    pub scrub_changed: WaitList,
    pub scrub_progress: Progress,
    /// Woken when a member leaves or is given up.
    pub rebuild_wanted: WaitList,
    pub rebuild_progress: Progress,
    /// Woken when members were added or are to leave, and when nothing else is in the way of moving slots to them.
    pub spread_wanted: WaitList,
    /// Counts what was asked for that made slots move.
    pub spread_asked: AtomicU64,
    /// What lies on members that leave finds no place at the moment.
    pub leave_stuck: AtomicBool,
    pub spread_progress: Progress,
    /// Counts how often a volume was to have another number of copies.
    pub copies_asked: AtomicU64,
    /// Copies that slots are to get find no place at the moment.
    pub copies_stuck: AtomicBool,
    /// Of copies that slots are to get or to lose.
    pub copies_progress: Progress,
    /// How long a member may be away before its copies are made anew.
    pub rebuild_after: Duration,
    /// No slot is allocated that would leave too little free to heal (`reserve.rs`).
    pub reserve_enforced: AtomicBool,
    /// The last rebuild found too little free space.
    pub no_room: AtomicBool,
    pub moves: Moves,
    pub pace: Pace,
    pub lost: LostBlocks,
    pub doubts: Doubts,
    pub kept_marks: KeptMarks,
    pub home: Sender<HomeRequest>,
    #[cfg(any(test, feature = "planted-bugs"))]
    pub planted: Mutex<super::planted::Planted>,
}

impl Shared {
    /// A pool that was opened, before any of its tasks runs.
    pub fn new(
        live: Live,
        members: BTreeMap<MemberId, Arc<Member>>,
        plan: &OpenPlan,
        kept_marks: KeptMarks,
        home: Sender<HomeRequest>,
    ) -> Shared {
        let (seed, _) = live.state.pool.as_u64_pair();
        let extent = live.state.extent;
        Shared {
            uuid: live.state.pool,
            seed,
            extent,
            region: region_size(extent),
            members: ArcSwap::from_pointee(members),
            parted: Default::default(),
            live: live.into(),
            cache: RegionCache::new(usize::try_from(plan.cache.0 / REGION_COST).unwrap_or(usize::MAX)),
            volumes: Default::default(),
            membership: 0.into(),
            dirty_regions: 0.into(),
            cleaned: Default::default(),
            clean_now: false.into(),
            clean_wanted: Default::default(),
            closing: false.into(),
            closed: Default::default(),
            background: Budget::new(BACKGROUND_UNITS),
            places: Mutex::new(plan.disks.clone()),
            resync_wanted: Default::default(),
            resync_progress: Default::default(),
            scrub_wanted: Default::default(),
            scrub_changed: Default::default(),
            scrub_progress: Default::default(),
            rebuild_wanted: Default::default(),
            rebuild_progress: Default::default(),
            spread_wanted: Default::default(),
            spread_asked: 0.into(),
            leave_stuck: false.into(),
            spread_progress: Default::default(),
            copies_asked: 0.into(),
            copies_stuck: false.into(),
            copies_progress: Default::default(),
            rebuild_after: plan.rebuild_after,
            reserve_enforced: false.into(),
            no_room: false.into(),
            moves: Default::default(),
            pace: Default::default(),
            lost: Default::default(),
            doubts: Default::default(),
            kept_marks,
            home,
            #[cfg(any(test, feature = "planted-bugs"))]
            planted: Default::default(),
        }
    }

    pub fn member(&self, id: MemberId) -> Arc<Member> {
        let present = self.members.load().get(&id).cloned();
        let parted = || lock(&self.parted).get(&id).cloned();
        present.or_else(parted).expect("placements name members of the pool")
    }

    /// All members as they are now, by number.
    pub fn all_members(&self) -> Vec<Arc<Member>> {
        self.members.load().values().cloned().collect()
    }

    pub fn members_in_sync(&self) -> Vec<Arc<Member>> {
        self.members.load().values().filter(|m| m.is_in_sync()).cloned().collect()
    }

    pub fn membership(&self) -> u64 {
        self.membership.load(Ordering::Acquire)
    }

    /// Puts a member in the place of an earlier one.
    pub fn replace(&self, member: Arc<Member>) {
        let mut members = (*self.members.load_full()).clone();
        members.insert(member.id, member);
        self.members.store(Arc::new(members));
        self.membership.fetch_add(1, Ordering::AcqRel);
        self.note_drives();
    }

    /// A member is none any more.
    pub fn part(&self, member: &Arc<Member>) {
        lock(&self.parted).insert(member.id, member.clone());
        let mut members = (*self.members.load_full()).clone();
        members.remove(&member.id);
        self.members.store(Arc::new(members));
        self.membership.fetch_add(1, Ordering::AcqRel);
        self.note_drives();
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
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

    /// Where a region's slot lies now, and whether it is written on a new copy too.
    pub fn placement_of(&self, key: &RegionKey) -> Option<Placement> {
        let mut placement = self.placement(key.volume, key.slot)?;
        placement.incoming = self.moves.incoming(key.volume, key.slot, placement.stamp, key.region);
        Some(placement)
    }

    /// Where a slot lies now.
    pub fn placement(&self, volume: VolumeId, slot: SlotIndex) -> Option<Placement> {
        let live = lock(&self.live);
        let record = live.state.volumes.get(&volume)?.slots.get(&slot)?;
        Some(Placement { stamp: record.stamp, copies: record.copies.clone(), incoming: None })
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
    /// bring its old bytes back. Nothing happens to a member that was replaced since by one that came back.
    pub async fn member_failed(&self, member: &Arc<Member>, reason: String) -> Result<(), Status> {
        self.doubt_drive(member);
        let (answer, asked) = oneshot();
        self.ask(HomeRequest::MemberFailed { member: member.clone(), reason, answer })?;
        asked.await.unwrap_or(Err(Status::ShuttingDown))
    }

    /// Puts so many commits between what was made durable before and what comes after that an image of a member from
    /// before cannot pass for one that lacks only what a crash cut off (`open::is_current`).
    pub async fn part_images(&self) -> Result<(), Status> {
        let (answer, asked) = oneshot();
        self.ask(HomeRequest::PartImages { answer })?;
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
