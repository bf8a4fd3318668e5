//! Moving a copy of a slot to another member while clients go on.
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

/// Which copy of which slot is to lie elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Job {
    pub volume: VolumeId,
    pub slot: SlotIndex,
    /// Of the slot as it was when the job was decided: one that was freed and allocated again is another.
    pub stamp: u64,
    pub from: Copy,
    /// None: the copy is on a drive that is gone, and anywhere else is right. Otherwise it is as good as its new place
    /// will be, and what cannot be read stays where it is.
    pub to: Option<MemberId>,
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
    passed: u32,
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
        let Incomer { copy, .. } = under_way.get(&(volume, slot)).filter(known)?;
        // A region that was forgotten since has been passed as a whole: it is held in memory while it is copied.
        Some(Incoming { copy: *copy, upto: u32::MAX, torn: false })
    }

    /// False if another copy of the slot is being moved: one at a time.
    fn begin(&self, job: &Job, to: Copy) -> bool {
        let mut under_way = lock(&self.under_way);
        let free = !under_way.contains_key(&(job.volume, job.slot));
        if free {
            under_way.insert((job.volume, job.slot), Incomer { stamp: job.stamp, copy: to, passed: 0 });
        }
        free
    }

    fn set(&self, job: &Job, to: Copy, passed: u32) {
        lock(&self.under_way).insert((job.volume, job.slot), Incomer { stamp: job.stamp, copy: to, passed });
    }

    fn end(&self, job: &Job) {
        lock(&self.under_way).remove(&(job.volume, job.slot));
    }
}

/// Moves one copy. Gives the place where it lies now.
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
    let mut moved = copy_slot(core, pool, &job, to, progress).await;
    if moved.is_ok() {
        moved = switch(core, pool, &job, to).await;
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

fn volume_of(pool: &Shared, job: &Job) -> Result<Arc<PoolVolume>, Stuck> {
    pool.volumes.load().get(&job.volume).cloned().ok_or(Stuck::Gone)
}

async fn copy_slot(
    core: &Core,
    pool: &Arc<Shared>,
    job: &Job,
    to: Copy,
    progress: &Progress,
) -> Result<(), Stuck> {
    let target = Reached { copy: to, member: pool.member(to.member) };
    let mut regions = Vec::new();
    for number in 0..pool.regions_per_slot() {
        if pool.is_closing() || !target.member.is_in_sync() {
            return Err(Stuck::Failed);
        }
        let volume = volume_of(pool, job)?;
        let _entered = volume.enter().map_err(|_| Stuck::Gone)?;
        let region = pool.region(volume.id, job.slot, RegionIndex(number), volume.checksums);
        admit(core, pool, &volume, job, &region, &target).await?;
        pool.moves.set(job, to, number + 1);
        let copied = copy_region(core, pool, &volume, job, &region, &target).await;
        copied.map_err(|_| Stuck::Failed)?;
        progress.add(pool.region.0);
        regions.push(region);
    }
    let volume = volume_of(pool, job)?;
    if is_planted(pool, Planted::RebuildWithoutFlush) {
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
        placement.incoming = Some(Incoming { copy: target.copy, upto: 0, torn: false });
    }
    give_block(volume, core, &hold, target).await.map_err(|_| Stuck::Failed)
}

/// Where the slot of a held region lies, if the copy is still there that is to be moved, and one to copy from.
async fn placed(
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
    let same = |p: &Placement| p.stamp == job.stamp && p.copies.contains(&job.from);
    let placement = placement.filter(same).ok_or(Stuck::Gone)?;
    let reach = pool.reach(&placement, hold.region().key.region);
    // What a failed write left there is for the next opening to look at.
    if job.to.is_some() && hold.region().state().unsettled {
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
        let stays = job.to.is_some() || region.state().unsettled;
        let unreadable = if stays { Unreadable::Stays } else { Unreadable::Lost };
        let copied = copy_chunk(volume, core, &hold, target, blocks.clone(), unreadable).await;
        copied.map_err(|_| Stuck::Failed)?;
        if let Some(incoming) = region.state().placement.as_mut().and_then(|p| p.incoming.as_mut()) {
            incoming.upto = blocks.end;
        }
        first = blocks.end;
    }
    Ok(())
}

/// From here on the slot lies elsewhere. Nobody touches it meanwhile: what reached the old copy reached it before.
async fn switch(core: &Core, pool: &Arc<Shared>, job: &Job, to: Copy) -> Result<(), Stuck> {
    let volume = volume_of(pool, job)?;
    let _entered = volume.enter().map_err(|_| Stuck::Gone)?;
    let mut holds: Vec<Hold> = Vec::new();
    for number in 0..pool.regions_per_slot() {
        let region = pool.region(volume.id, job.slot, RegionIndex(number), volume.checksums);
        let hold = region.hold(0..pool.region_blocks(), true).await;
        let placement = placed(core, pool, &volume, job, &hold).await?;
        if placement.incoming.is_some_and(|incoming| incoming.torn) {
            return Err(Stuck::Failed);
        }
        holds.push(hold);
    }
    // What is saved from here on must not reach the old copy any more: its extent is another's after the commit.
    let _switching = (!is_planted(pool, Planted::SaveWhileSwitching)).then(|| Switching::begin(&holds));
    for hold in &holds {
        still(hold.region()).await;
    }
    // What was flushed meanwhile is on the new copy, and what was not is marked there.
    let disk = pool.member(to.member).disk.clone().ok_or(Stuck::Failed)?;
    if !is_planted(pool, Planted::RebuildWithoutFlush) && disk.flush(core, Patience::Peers).await.is_err() {
        let reason = "a flush failed".to_owned();
        pool.member_failed(&pool.member(to.member), reason).await.map_err(|_| Stuck::Failed)?;
        return Err(Stuck::Failed);
    }
    for hold in &holds {
        let another = Reached { copy: to, member: pool.member(to.member) };
        pool.keep_marks_of(another, hold.region().key, &mut hold.region().state());
    }
    commit(pool, job, to).await.map_err(|_| Stuck::Failed)?;
    for hold in &holds {
        if let Some(placement) = &mut hold.region().state().placement {
            if !is_planted(pool, Planted::MoveForgetsRegions) {
                placement.copies = moved(&placement.copies, job.from, to);
            }
            placement.incoming = None;
        }
    }
    pool.moves.end(job);
    Ok(())
}

/// Regions that are not saved while it lasts.
struct Switching(Vec<Arc<Region>>);

impl Switching {
    fn begin(holds: &[Hold]) -> Switching {
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

async fn commit(pool: &Shared, job: &Job, to: Copy) -> Result<(), Status> {
    let (answer, asked) = oneshot();
    pool.home.send(HomeRequest::Moved { job: *job, to, answer }).map_err(|_| Status::ShuttingDown)?;
    let committed: Option<Result<(), PoolError>> = asked.await;
    committed.unwrap_or(Err(PoolError::Closing)).map_err(|_| Status::Io)
}

/// The copies of a slot when one of them lies elsewhere.
pub fn moved(copies: &Copies, from: Copy, to: Copy) -> Copies {
    copies.iter().map(|c| if *c == from { to } else { *c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::{ExtentIndex, MemberId};

    fn copy(member: u16, extent: u32) -> Copy {
        Copy { member: MemberId(member), extent: ExtentIndex(extent) }
    }

    #[test]
    fn the_copy_that_moves_keeps_its_place_among_the_others() {
        let copies: Copies = [copy(0, 5), copy(1, 6)].into_iter().collect();
        assert_eq!(moved(&copies, copy(0, 5), copy(2, 9))[..], [copy(2, 9), copy(1, 6)]);
    }

    #[test]
    fn a_region_is_written_on_the_new_copy_once_it_was_admitted() {
        let moves = Moves::default();
        let job = Job { volume: VolumeId(1), slot: SlotIndex(2), stamp: 7, from: copy(0, 5), to: None };
        assert!(moves.begin(&job, copy(2, 9)));
        assert!(!moves.begin(&Job { from: copy(1, 6), ..job }, copy(3, 9)), "one copy of a slot at a time");
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
