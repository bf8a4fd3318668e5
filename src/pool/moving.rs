//! Moving a copy of a slot to another member while clients go on, or making one more there.
//!
//! ```text
//! reserve an extent ─▶ for each region: it is written on the new copy too from here on ─▶ copy it, chunk by chunk
//!                  ─▶ save and flush ─▶ hold the slot, commit "it lies there now", release
//! ```
//!
//! Until that commit the new copy counts for nothing: it is not read, a write needs the others, and a crash leaves a
//! free extent. What an earlier attempt left there is older than what is written now, place by place.

use super::error::PoolError;
use super::flush::{give_block, save, still};
use super::home::HomeRequest;
use super::load::ensure_loaded;
use super::planted::{Planted, is_planted};
use super::progress::Progress;
use super::reach::Reached;
use super::redundancy::mirror::{Copies, Copy};
use super::region::{Hold, Incoming, Placement, Region};
use super::resync::{Unreadable, copy_chunk, take_part};
use super::shared::Shared;
use super::volume::PoolVolume;
use crate::base::units::{MemberId, RegionIndex, SlotIndex, VolumeId};
use crate::block::Status;
use crate::disk::Patience;
use crate::reactor::Core;
use crate::reactor::sync::{lock, oneshot};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What is to become of a slot's copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// This one is to lie elsewhere.
    Another(Copy),
    /// There is to be one more.
    More,
    /// This one is not to be there any more (`dropping`).
    Less(Copy),
}

impl Place {
    /// Whether an extent is needed for it.
    pub fn takes_room(self) -> bool {
        match self {
            Place::Another(_) | Place::More => true,
            Place::Less(_) => false,
        }
    }

    /// The copy that is not there any more afterwards.
    pub fn gone(self) -> Option<Copy> {
        match self {
            Place::Another(copy) | Place::Less(copy) => Some(copy),
            Place::More => None,
        }
    }

    /// The copies of a slot afterwards, where `to` is the new one. Those that stay keep their order.
    pub fn after(self, copies: &Copies, to: Option<Copy>) -> Copies {
        match self {
            Place::Another(from) => {
                copies.iter().map(|c| if *c == from { to.unwrap_or(from) } else { *c }).collect()
            }
            Place::More => copies.iter().copied().chain(to).collect(),
            Place::Less(gone) => copies.iter().copied().filter(|c| *c != gone).collect(),
        }
    }
}

/// Which copy of which slot is to lie elsewhere, to come or to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Job {
    pub volume: VolumeId,
    pub slot: SlotIndex,
    /// Of the slot as it was when the job was decided: one that was freed and allocated again is another.
    pub stamp: u64,
    pub place: Place,
    /// None: any member will do.
    pub to: Option<MemberId>,
}

impl Job {
    /// Whether it is about a slot with this stamp and these copies.
    pub fn is_of(&self, stamp: u64, copies: &Copies) -> bool {
        stamp == self.stamp && self.place.gone().is_none_or(|gone| copies.contains(&gone))
    }

    /// What becomes of what cannot be read. A copy that is on a drive that is gone is made anew from what there is; in
    /// all other cases what there is is as good as what comes, and stays as it is.
    fn unreadable(&self) -> Unreadable {
        match self.place {
            Place::Another(_) if self.to.is_none() => Unreadable::Lost,
            Place::Another(_) | Place::More | Place::Less(_) => Unreadable::Stays,
        }
    }
}

/// Why a copy was not moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stuck {
    /// No member that has no copy of the slot yet has a free extent.
    NoRoom,
    /// The slot was freed or moved meanwhile, or the pool closes.
    Gone,
    /// Another copy of the slot is being moved.
    Moving,
    /// No copy that can be believed is there, or the new copy's member failed.
    Failed,
}

/// Moves under way: the new copies, and in how many of a slot's regions they are written.
#[derive(Default)]
pub struct Moves {
    under_way: Mutex<BTreeMap<(VolumeId, SlotIndex), Incomer>>,
}

/// The new copy of a slot with this stamp, written in so many of its regions.
#[derive(Clone, Copy)]
struct Incomer {
    stamp: u64,
    copy: Copy,
    more: bool,
    passed: u32,
}

impl Incomer {
    fn of(job: &Job, copy: Copy, passed: u32) -> Incomer {
        Incomer { stamp: job.stamp, copy, more: job.place == Place::More, passed }
    }
}

impl Moves {
    /// The new copy of a slot, if this region is written there too.
    pub fn incoming(
        &self,
        volume: VolumeId,
        slot: SlotIndex,
        stamp: u64,
        region: RegionIndex,
    ) -> Option<Incoming> {
        let under_way = lock(&self.under_way);
        let known = |incomer: &&Incomer| incomer.stamp == stamp && region.0 < incomer.passed;
        let Incomer { copy, more, .. } = under_way.get(&(volume, slot)).filter(known)?;
        // A region that was forgotten since has been passed as a whole: it is held in memory while it is copied.
        Some(Incoming { copy: *copy, upto: u32::MAX, more: *more, torn: false })
    }

    /// False if another copy of the slot is being moved: one at a time. One that goes is no new one of any region.
    pub fn begin(&self, job: &Job, to: Copy) -> bool {
        let mut under_way = lock(&self.under_way);
        let free = !under_way.contains_key(&(job.volume, job.slot));
        if free {
            under_way.insert((job.volume, job.slot), Incomer::of(job, to, 0));
        }
        free
    }

    fn set(&self, job: &Job, to: Copy, passed: u32) {
        lock(&self.under_way).insert((job.volume, job.slot), Incomer::of(job, to, passed));
    }

    pub fn end(&self, job: &Job) {
        lock(&self.under_way).remove(&(job.volume, job.slot));
    }
}

/// Moves one copy, or makes one more. Gives the place where it lies now.
pub async fn move_copy(
    core: &Core,
    pool: &Arc<Shared>,
    job: Job,
    progress: &Progress,
) -> Result<Copy, Stuck> {
    let to = reserve(pool, job).await?;
    if !pool.moves.begin(&job, to) {
        unreserve(pool, to).await;
        return Err(Stuck::Moving);
    }
    let target = Reached { copy: to, member: pool.member(to.member) };
    let mut moved = copy_slot(core, pool, &job, &target, progress).await;
    if moved.is_ok() {
        moved = switch(core, pool, &job, &target).await;
    }
    if moved.is_err() {
        withdraw(pool, &job, to).await;
    }
    moved.map(|()| to)
}

async fn reserve(pool: &Shared, job: Job) -> Result<Copy, Stuck> {
    let (answer, asked) = oneshot();
    let request = HomeRequest::Reserve { job, answer };
    pool.home.send(request).map_err(|_| Stuck::Gone)?;
    asked.await.unwrap_or(Err(Stuck::Gone))
}

/// Nothing is written to the new copy any more; then its extent is free again.
async fn withdraw(pool: &Shared, job: &Job, to: Copy) {
    pool.moves.end(job);
    for region in pool.cache.select(|r| r.key.volume == job.volume && r.key.slot == job.slot) {
        let _hold = region.hold(0..pool.region_blocks(), true).await;
        still(&region).await;
        if let Some(placement) = &mut region.state().placement {
            placement.incoming = None;
        }
    }
    unreserve(pool, to).await;
}

async fn unreserve(pool: &Shared, to: Copy) {
    let (answer, asked) = oneshot();
    if pool.home.send(HomeRequest::Unreserve { copy: to, answer }).is_ok() {
        // The pool that closes forgets reservations anyway.
        let _ = asked.await;
    }
}

pub fn volume_of(pool: &Shared, job: &Job) -> Result<Arc<PoolVolume>, Stuck> {
    pool.volumes.load().get(&job.volume).cloned().ok_or(Stuck::Gone)
}

async fn copy_slot(
    core: &Core,
    pool: &Arc<Shared>,
    job: &Job,
    target: &Reached,
    progress: &Progress,
) -> Result<(), Stuck> {
    let early = job.place == Place::More && is_planted(pool, Planted::CopyCountedBeforeWhole);
    let mut regions = Vec::new();
    for number in 0..pool.regions_per_slot() {
        if pool.is_closing() || !target.member.is_in_sync() {
            return Err(Stuck::Failed);
        }
        let volume = volume_of(pool, job)?;
        let _entered = volume.enter().map_err(|_| Stuck::Gone)?;
        let region = pool.region(volume.id, job.slot, RegionIndex(number), volume.checksums);
        admit(core, pool, &volume, job, &region, target).await?;
        pool.moves.set(job, target.copy, number + 1);
        if !early {
            let copied = copy_region(core, pool, &volume, job, &region, target).await;
            copied.map_err(|_| Stuck::Failed)?;
        }
        progress.add(pool.region.0);
        regions.push(region);
    }
    let volume = volume_of(pool, job)?;
    if early || is_planted(pool, Planted::RebuildWithoutFlush) {
        return Ok(());
    }
    save(&volume, core, &regions).await.map_err(|_| Stuck::Failed)
}

/// The region is written on the new copy too from here on.
async fn admit(
    core: &Core,
    pool: &Arc<Shared>,
    volume: &PoolVolume,
    job: &Job,
    region: &Arc<Region>,
    target: &Reached,
) -> Result<(), Stuck> {
    let hold = region.hold(0..pool.region_blocks(), true).await;
    let placement = placed(core, pool, volume, job, &hold).await?;
    take_part(core, pool, &hold, &placement, target).await.map_err(|_| Stuck::Failed)?;
    if !is_planted(pool, Planted::RebuildWithoutWriteThrough)
        && let Some(placement) = &mut region.state().placement
    {
        let more = job.place == Place::More;
        placement.incoming = Some(Incoming { copy: target.copy, upto: 0, more, torn: false });
    }
    if job.place == Place::More && !volume.has_marks(&placement) {
        // Without marks a crash may have torn its block, and nothing told; with a second copy that would be damage.
        region.state().sums_unsaved = true;
    }
    give_block(volume, core, &hold, target).await.map_err(|_| Stuck::Failed)
}

/// Where the slot of a held region lies, if the copy is still there that is to be moved or to go, and one to copy from.
pub async fn placed(
    core: &Core,
    pool: &Shared,
    volume: &PoolVolume,
    job: &Job,
    hold: &Hold,
) -> Result<Placement, Stuck> {
    ensure_loaded(volume, core, hold).await.map_err(|_| Stuck::Failed)?;
    let placement = {
        let mut state = hold.region().state();
        // A region that was looked at before its slot was allocated, and not written since, does not know yet.
        if state.placement.is_none() {
            state.placement = pool.placement_of(&hold.region().key);
        }
        state.placement.clone()
    };
    let same = |p: &Placement| job.is_of(p.stamp, &p.copies);
    let placement = placement.filter(same).ok_or(Stuck::Gone)?;
    let reach = pool.reach(&placement, hold.region().key.region);
    // What a failed write left there is for the next opening to look at.
    if job.unreadable() == Unreadable::Stays && hold.region().state().unsettled {
        return Err(Stuck::Failed);
    }
    if reach.writable && !reach.copies.is_empty() { Ok(placement) } else { Err(Stuck::Failed) }
}

/// Chunk by chunk, so that clients wait for one chunk at most.
async fn copy_region(
    core: &Core,
    pool: &Arc<Shared>,
    volume: &PoolVolume,
    job: &Job,
    region: &Arc<Region>,
    target: &Reached,
) -> Result<(), Stuck> {
    let mut first = 0;
    while first < pool.region_blocks() {
        let blocks = pool.next_step(core, region, first).await;
        let hold = region.hold(blocks.clone(), true).await;
        placed(core, pool, volume, job, &hold).await?;
        // What a failed write left does not fit its checksum, and the next opening takes it for what it is.
        let unreadable = if region.state().unsettled { Unreadable::Stays } else { job.unreadable() };
        let copied = copy_chunk(volume, core, &hold, target, blocks.clone(), unreadable).await;
        copied.map_err(|_| Stuck::Failed)?;
        if let Some(incoming) = region.state().placement.as_mut().and_then(|p| p.incoming.as_mut()) {
            incoming.upto = blocks.end;
        }
        first = blocks.end;
    }
    Ok(())
}

/// Holds all of a slot, if it is as it was when the job was decided.
pub async fn hold_slot(
    core: &Core,
    pool: &Arc<Shared>,
    volume: &PoolVolume,
    job: &Job,
) -> Result<Vec<Hold>, Stuck> {
    let mut holds: Vec<Hold> = Vec::new();
    for number in 0..pool.regions_per_slot() {
        let region = pool.region(volume.id, job.slot, RegionIndex(number), volume.checksums);
        let hold = region.hold(0..pool.region_blocks(), true).await;
        let placement = placed(core, pool, volume, job, &hold).await?;
        if placement.incoming.is_some_and(|incoming| incoming.torn) {
            return Err(Stuck::Failed);
        }
        holds.push(hold);
    }
    Ok(holds)
}

/// From here on the slot lies elsewhere. Nobody touches it meanwhile: what reached the old copy reached it before.
async fn switch(core: &Core, pool: &Arc<Shared>, job: &Job, target: &Reached) -> Result<(), Stuck> {
    let volume = volume_of(pool, job)?;
    let _entered = volume.enter().map_err(|_| Stuck::Gone)?;
    let holds = hold_slot(core, pool, &volume, job).await?;
    // What is saved from here on must not reach the old copy any more: its extent is another's after the commit.
    let _switching = (!is_planted(pool, Planted::SaveWhileSwitching)).then(|| Switching::begin(&holds));
    for hold in &holds {
        still(hold.region()).await;
    }
    // What was flushed meanwhile is on the new copy, and what was not is marked there.
    if !is_planted(pool, Planted::RebuildWithoutFlush)
        && target.disk().flush(core, Patience::Peers).await.is_err()
    {
        let reason = "a flush failed".to_owned();
        pool.member_failed(&target.member, reason).await.map_err(|_| Stuck::Failed)?;
        return Err(Stuck::Failed);
    }
    for hold in &holds {
        pool.keep_marks_of(target.clone(), hold.region().key, &mut hold.region().state());
    }
    // One that was lost and is back was not written in between.
    if !Arc::ptr_eq(&pool.member(target.copy.member), &target.member) {
        return Err(Stuck::Failed);
    }
    commit(pool, job, Some(target.copy)).await.map_err(|_| Stuck::Failed)?;
    for hold in &holds {
        if let Some(placement) = &mut hold.region().state().placement {
            if !is_planted(pool, Planted::MoveForgetsRegions) {
                placement.copies = job.place.after(&placement.copies, Some(target.copy));
            }
            placement.incoming = None;
        }
    }
    pool.moves.end(job);
    Ok(())
}

/// Regions that are not saved while it lasts.
pub struct Switching(Vec<Arc<Region>>);

impl Switching {
    pub fn begin(holds: &[Hold]) -> Switching {
        let regions: Vec<Arc<Region>> = holds.iter().map(|hold| hold.region().clone()).collect();
        regions.iter().for_each(|region| region.state().switching = true);
        Switching(regions)
    }
}

impl Drop for Switching {
    fn drop(&mut self) {
        self.0.iter().for_each(|region| region.state().switching = false);
    }
}

/// Commits where a slot's copies lie from here on.
pub async fn commit(pool: &Shared, job: &Job, to: Option<Copy>) -> Result<(), Status> {
    let (answer, asked) = oneshot();
    pool.home.send(HomeRequest::Moved { job: *job, to, answer }).map_err(|_| Status::ShuttingDown)?;
    let committed: Option<Result<(), PoolError>> = asked.await;
    committed.unwrap_or(Err(PoolError::Closing)).map_err(|_| Status::Io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::{ExtentIndex, MemberId};

    fn copy(member: u16, extent: u32) -> Copy {
        Copy { member: MemberId(member), extent: ExtentIndex(extent) }
    }

    #[test]
    fn copies_that_stay_keep_their_places() {
        let copies: Copies = [copy(0, 5), copy(1, 6)].into_iter().collect();
        let after = |place: Place, to| place.after(&copies, to).to_vec();
        assert_eq!(after(Place::Another(copy(0, 5)), Some(copy(2, 9))), [copy(2, 9), copy(1, 6)]);
        assert_eq!(after(Place::More, Some(copy(2, 9))), [copy(0, 5), copy(1, 6), copy(2, 9)]);
        assert_eq!(after(Place::Less(copy(0, 5)), None), [copy(1, 6)]);
    }

    #[test]
    fn a_region_is_written_on_the_new_copy_once_it_was_admitted() {
        let moves = Moves::default();
        let place = Place::Another(copy(0, 5));
        let job = Job { volume: VolumeId(1), slot: SlotIndex(2), stamp: 7, place, to: None };
        assert!(moves.begin(&job, copy(2, 9)));
        assert!(!moves.begin(&Job { place: Place::More, ..job }, copy(3, 9)), "one copy of a slot at a time");
        let incoming = |stamp, region| moves.incoming(VolumeId(1), SlotIndex(2), stamp, RegionIndex(region));
        assert_eq!(incoming(7, 0), None);
        moves.set(&job, copy(2, 9), 3);
        assert_eq!(incoming(7, 2).map(|i| i.copy), Some(copy(2, 9)));
        assert_eq!(
            (incoming(7, 3), moves.incoming(VolumeId(1), SlotIndex(3), 7, RegionIndex(0))),
            (None, None)
        );
        assert_eq!(incoming(8, 2), None, "the slot was freed and allocated again");
        moves.end(&job);
        assert_eq!(incoming(7, 0), None);
    }
}
