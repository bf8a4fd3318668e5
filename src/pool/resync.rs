//! Resync: what a member missed while it was away is copied to it, region by region, while clients go on.
//!
//! ```text
//! hold the region ─▶ copy its written blocks ─▶ from here on it is written like the others ─▶ release
//!                                    then, for many regions together: save region blocks, flush ─▶ forget "missed"
//! nothing is lacking ─▶ its dirty marks as the others have them ─▶ flush ─▶ commit "in sync"
//! ```
//!
//! The member counts as in sync last of all (R32): until then a crash costs another resync of what is still marked.

use super::dirty_log::Plane;
use super::flush::{give_block, save};
use super::fragment_read::{index, read_blocks};
use super::fragment_write::begin;
use super::home::{HomeRequest, remember_missed};
use super::load::{ensure_loaded, stored_by_copy};
use super::member::Member;
use super::open::{OLD_IMAGE, WAS_AWAY};
use super::planted::{Planted, is_planted};
use super::reach::Reached;
use super::redundancy::mirror::Copy;
use super::region::{Hold, Mark, Placement, Region};
use super::shared::Shared;
use super::volume::PoolVolume;
use crate::base::bitmap::Bitmap;
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, RegionIndex, SlotIndex, VolumeId};
use crate::block::Status;
use crate::disk::{Patience, in_words};
use crate::io::buf::BufMut;
use crate::reactor::Core;
use crate::reactor::sync::{lock, oneshot};
use futures_util::future::join_all;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Regions copied at the same time.
const AT_ONCE: usize = 4;

/// Regions whose blocks are saved together.
const BATCH: usize = 32;

/// How often members are looked at that could not be brought further.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One region of a member that lacks something.
#[derive(Clone, Copy, Debug)]
struct Lacking {
    volume: VolumeId,
    slot: SlotIndex,
    region: RegionIndex,
    copy: Copy,
}

impl Shared {
    /// From here on the member is written where it lacks nothing. What it lacks is found without a pause, so that no
    /// write falls between.
    pub fn begin_resync(&self, member: Arc<Member>) {
        let regions = ByteLen(member.layout.regions()).as_usize();
        let mut all = Bitmap::new(regions);
        all.set_range(0..regions, true);
        let said = member.reason();
        let absence = lock(&self.live).state.members[&member.id].absence;
        let reason = match (said.is_empty(), absence.whole) {
            (false, _) => said.as_str(),
            (true, true) => OLD_IMAGE,
            (true, false) => WAS_AWAY,
        };
        member.set_out_of_sync(absence, reason);
        member.follow(all);
        self.replace(member.clone());
        let mut behind = Bitmap::new(regions);
        for lacking in self.lacking(&member) {
            behind.set(
                ByteLen(member.layout.region_number(lacking.copy.extent, lacking.region)).as_usize(),
                true,
            );
        }
        member.follow(behind);
        self.resync_wanted.wake_all();
    }

    /// The regions of a member that another copy has and it may lack, in the order of the map.
    fn lacking(&self, member: &Member) -> Vec<Lacking> {
        let live = lock(&self.live);
        let whole = live.state.members.get(&member.id).is_some_and(|m| m.absence.whole);
        let mut found = Vec::new();
        for (id, volume) in &live.state.volumes {
            for (slot, record) in &volume.slots {
                let Some(copy) = record.copies.iter().find(|c| c.member == member.id) else { continue };
                let authorities = self.authorities(&record.copies);
                if authorities.contains(&member.id) {
                    continue;
                }
                let sources: Vec<(Copy, Arc<Member>)> = record
                    .copies
                    .iter()
                    .filter(|c| authorities.contains(&c.member))
                    .map(|c| (*c, self.member(c.member)))
                    .collect();
                for region in (0..self.regions_per_slot()).map(RegionIndex) {
                    let missed = |(c, m): &(Copy, Arc<Member>)| {
                        m.dirty.is_marked(Plane::Missed, m.layout.region_number(c.extent, region))
                    };
                    if whole || sources.is_empty() || sources.iter().any(missed) {
                        found.push(Lacking { volume: *id, slot: *slot, region, copy: *copy });
                    }
                }
            }
        }
        found
    }
}

/// Brings members up to date, until the pool closes.
pub async fn run(core: Core, pool: Arc<Shared>) {
    while !pool.is_closing() {
        let wanted = pool.resync_wanted.ticket();
        let at_work = pool.background.take(1).await;
        for member in pool.all_members().iter().filter(|m| m.is_following()) {
            if let Err(error) = resync(&core, &pool, member).await {
                tracing::warn!(member = member.name, %error, "resync stopped");
            }
        }
        drop(at_work);
        pool.resync_progress.end();
        let idle = !pool.all_members().iter().any(|m| m.is_following());
        if pool.is_closing() {
            return;
        }
        let pause = if idle { Duration::from_secs(3600) } else { LOOK_EVERY };
        futures_util::future::select(wanted, core.sleep(pause)).await;
    }
}

/// Copies what a member lacks, as far as there are sources; declares it in sync when it lacks nothing.
async fn resync(core: &Core, pool: &Arc<Shared>, member: &Arc<Member>) -> Result<(), super::PoolError> {
    if lock(&pool.live).state.members.get(&member.id).is_some_and(|m| m.absence.whole) {
        remember_whole(core, pool, member).await;
    }
    let work = without_the_known(pool, member);
    pool.resync_progress.begin(work.len() as u64 * pool.region.0, core.now()); // widening
    let _at_work = pool.pace.enter(core.now());
    for batch in work.chunks(BATCH) {
        if pool.is_closing() || !member.is_following() {
            return Ok(());
        }
        copy_batch(core, pool, member, batch).await;
    }
    finish(core, pool, member, &work).await
}

/// What a member lacks and could get now. What it was thought to lack while its sources were not there, and does not,
/// is settled on the way; nothing was written there meanwhile.
fn without_the_known(pool: &Shared, member: &Member) -> Vec<Lacking> {
    let Some(behind) = member.behind() else { return Vec::new() };
    let number = |l: &Lacking| member.layout.region_number(l.copy.extent, l.region);
    let lacking = pool.lacking(member);
    let really: std::collections::BTreeSet<u64> = lacking.iter().map(number).collect();
    let all = behind.iter().map(|bit| bit as u64); // widening
    all.filter(|bit| !really.contains(bit)).for_each(|bit| member.caught_up(bit));
    let wanted = |l: &Lacking| {
        let placement = pool.placement(l.volume, l.slot);
        let source = placement.is_some_and(|p| pool.reach(&p, l.region).writable);
        source && behind.get(ByteLen(number(l)).as_usize())
    };
    lacking.into_iter().filter(wanted).collect()
}

/// The others' missed bits do not say all that an old image lacks: now they do.
async fn remember_whole(core: &Core, pool: &Arc<Shared>, member: &Member) {
    for lacking in pool.lacking(member) {
        let Some(placement) = pool.placement(lacking.volume, lacking.slot) else { continue };
        for copy in placement.copies.iter().filter(|c| c.member != member.id) {
            let source = pool.member(copy.member);
            let number = source.layout.region_number(copy.extent, lacking.region);
            source.dirty.note_missed_range(number..number + 1);
        }
    }
    // If a loss cannot be committed nothing can: this resync will not be finished either.
    let _ = remember_missed(pool, core).await;
}

async fn copy_batch(core: &Core, pool: &Arc<Shared>, member: &Arc<Member>, batch: &[Lacking]) {
    let mut copied: Vec<(Arc<PoolVolume>, Arc<Region>, Lacking)> = Vec::new();
    for few in batch.chunks(if pool.pace.has_clients(core.now()) { 1 } else { AT_ONCE }) {
        let ended = join_all(few.iter().map(|lacking| copy_region(core, pool, member, *lacking))).await;
        copied.extend(ended.into_iter().flatten());
    }
    for (volume, _, _) in copied.clone().chunk_by(|a, b| Arc::ptr_eq(&a.0, &b.0)).filter_map(<[_]>::first) {
        let mine = copied.iter().filter(|(v, _, _)| Arc::ptr_eq(v, volume));
        let regions: Vec<Arc<Region>> = mine.clone().map(|(_, region, _)| region.clone()).collect();
        if is_planted(core, Planted::InSyncBeforeFlush) || save(volume, core, &regions).await.is_ok() {
            mine.for_each(|(_, _, lacking)| forget_missed(pool, *lacking));
        }
    }
    pool.resync_progress.add(batch.len() as u64 * pool.region.0); // widening
}

/// Copies one region; None if that did not succeed and will be tried again.
async fn copy_region(
    core: &Core,
    pool: &Arc<Shared>,
    member: &Arc<Member>,
    lacking: Lacking,
) -> Option<(Arc<PoolVolume>, Arc<Region>, Lacking)> {
    let volume = pool.volumes.load().get(&lacking.volume).cloned()?;
    let entered = volume.enter().ok()?;
    let region = pool.region(volume.id, lacking.slot, lacking.region, volume.checksums);
    pool.pace.take(core, written_bytes(&volume, core, &region).await).await;
    let held = if is_planted(core, Planted::ResyncWithoutHold) { 0 } else { pool.region_blocks() };
    let hold = region.hold(0..held, true).await;
    ensure_loaded(&volume, core, &hold).await.ok()?;
    let placement = region.state().placement.clone();
    let number = member.layout.region_number(lacking.copy.extent, lacking.region);
    let Some(placement) = placement.filter(|p| p.copies.contains(&lacking.copy)) else {
        // The slot was freed meanwhile: there is nothing to have.
        member.caught_up(number);
        return None;
    };
    let target = Reached { copy: lacking.copy, member: member.clone() };
    if !pool.reach(&placement, lacking.region).writable {
        return None;
    }
    copy_blocks(&volume, core, &hold, &target).await.ok()?;
    take_part(core, pool, &hold, &placement, &target).await.ok()?;
    let skipped = is_planted(core, Planted::ResyncSkipsZeroes);
    if !skipped && give_block(&volume, core, &hold, &target).await.is_err() {
        member.fell_behind(number);
        return None;
    }
    drop(hold);
    drop(entered);
    Some((volume, region, lacking))
}

/// How much there is to copy; nothing if that cannot be known now.
async fn written_bytes(volume: &PoolVolume, core: &Core, region: &Arc<Region>) -> u64 {
    let hold = region.hold(0..1, false).await;
    match ensure_loaded(volume, core, &hold).await {
        Ok(()) => region.state().written.count() as u64 * BLOCK, // widening
        Err(_) => 0,
    }
}

/// Copies all written blocks of a region that the caller holds to another member.
pub async fn copy_blocks(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    target: &Reached,
) -> Result<(), Status> {
    let mut first = 0;
    while first < volume.pool.region_blocks() {
        let step = volume.pool.pace.step_blocks(core.now());
        let blocks = first..(first + step).min(volume.pool.region_blocks());
        copy_chunk(volume, core, hold, target, blocks.clone(), Unreadable::Lost).await?;
        first = blocks.end;
    }
    Ok(())
}

/// What becomes of a block that no copy gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// There is no better one: it is lost, and the others are copied.
    Lost,
    /// Where it is, it may be read the next time: nothing is copied.
    Stays,
}

/// Copies the written ones of some blocks that the caller holds to another member.
pub async fn copy_chunk(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    target: &Reached,
    blocks: Range<u32>,
    unreadable: Unreadable,
) -> Result<(), Status> {
    for run in written_runs(hold, &blocks) {
        copy_run(volume, core, hold, target, run, unreadable).await?;
    }
    Ok(())
}

/// The runs of written blocks within some blocks.
fn written_runs(hold: &Hold, blocks: &Range<u32>) -> Vec<Range<u32>> {
    let state = hold.region().state();
    let mut runs: Vec<Range<u32>> = Vec::new();
    for block in blocks.clone().filter(|b| state.written.get(index(*b))) {
        match runs.last_mut() {
            Some(run) if run.end == block => run.end = block + 1,
            Some(_) | None => runs.push(block..block + 1),
        }
    }
    runs
}

async fn copy_run(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    target: &Reached,
    run: Range<u32>,
    unreadable: Unreadable,
) -> Result<(), Status> {
    match read_blocks(volume, core, hold, run.clone()).await {
        Ok(bytes) => give_run(volume, core, hold, target, run.start, bytes).await,
        Err(_) if unreadable == Unreadable::Stays => Err(Status::Io),
        // One bad block does not keep the others from being copied; it stays bad, on every copy.
        Err(_) if run.len() > 1 => {
            for block in run {
                Box::pin(copy_run(volume, core, hold, target, block..block + 1, unreadable)).await?;
            }
            Ok(())
        }
        Err(_) => copy_again(volume, core, hold, target, run.start).await,
    }
}

/// Copies a block that could not be read, if it can be now that its drive is known to answer: it may only have been silent.
async fn copy_again(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    target: &Reached,
    block: u32,
) -> Result<(), Status> {
    // What a drive that is about to fail does not give is not lost.
    if !has_live_source(volume, core, hold).await {
        return Err(Status::Io);
    }
    match read_blocks(volume, core, hold, block..block + 1).await {
        Ok(bytes) => give_run(volume, core, hold, target, block, bytes).await,
        Err(_) if !has_live_source(volume, core, hold).await => Err(Status::Io),
        // Where nothing tells that what the target has there is not what was written, that is remembered.
        Err(_) if !volume.checksums => lose(volume, core, hold, block).await,
        Err(_) => Ok(()),
    }
}

/// Writes blocks that were read, from this one on, to another member; None: none of them was ever written.
async fn give_run(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    target: &Reached,
    first: u32,
    bytes: Option<BufMut>,
) -> Result<(), Status> {
    let Some(bytes) = bytes else { return Ok(()) };
    let offset = volume.offset_in_extent(hold.region().key.region, ByteLen(u64::from(first) * BLOCK));
    let at = target.member.layout.data(target.copy.extent, offset);
    let written = target.disk().write(core, at, bytes.freeze(), false, Patience::Peers).await;
    if let Err(errno) = written {
        let reason = format!("a write failed: {}", in_words(errno));
        volume.pool.member_failed(&target.member, reason).await?;
        return Err(Status::Io);
    }
    Ok(())
}

/// Whether a drive with a copy of a region that can be believed still answers: it gives the region block.
async fn has_live_source(volume: &PoolVolume, core: &Core, hold: &Hold) -> bool {
    let region = hold.region();
    let Some(placement) = region.state().placement.clone() else { return false };
    let reach = volume.pool.reach(&placement, region.key.region);
    let stored = stored_by_copy(volume, core, region, &placement, &reach).await;
    reach.writable && stored.iter().any(Option::is_some)
}

/// Remembers that no copy has a block any more, with the next save of its region.
async fn lose(volume: &PoolVolume, core: &Core, hold: &Hold, block: u32) -> Result<(), Status> {
    let placement = hold.region().state().placement.clone().ok_or(Status::Io)?;
    begin(volume, core, hold, &placement).await?;
    {
        let mut state = hold.region().state();
        state.writing -= 1;
        state.changes += 1;
        state.touched = core.now();
        state.lose(index(block));
    }
    volume.note_unsaved(hold.region().key);
    Ok(())
}

/// The target has the region now: it is written like the other copies from here on, with the same marks.
pub async fn take_part(
    core: &Core,
    pool: &Shared,
    hold: &Hold,
    placement: &Placement,
    Reached { copy, member }: &Reached,
) -> Result<(), Status> {
    let region = hold.region();
    let number = member.layout.region_number(copy.extent, region.key.region);
    let disk = member.disk.as_ref().ok_or(Status::Io)?;
    if region.state().mark != Mark::Clear {
        member.dirty.mark(core, disk, Plane::Dirty, number, Patience::Peers).await.map_err(|_| Status::Io)?;
    }
    let others_lack = {
        let holders = pool.reach(placement, region.key.region).copies.len();
        holders + 1 < placement.copies.len()
    };
    if others_lack {
        member
            .dirty
            .mark(core, disk, Plane::Missed, number, Patience::Peers)
            .await
            .map_err(|_| Status::Io)?;
    }
    member.caught_up(number);
    Ok(())
}

/// Every copy has the region, durable: nobody missed anything any more.
fn forget_missed(pool: &Shared, lacking: Lacking) {
    let Some(placement) = pool.placement(lacking.volume, lacking.slot) else { return };
    let reach = pool.reach(&placement, lacking.region);
    if reach.degraded && !is_planted(pool, Planted::ForgetMissedOfOthers) {
        return;
    }
    for Reached { copy, member } in &reach.copies {
        member.dirty.clear(Plane::Missed, member.layout.region_number(copy.extent, lacking.region));
    }
}

/// Declares the member in sync if it lacks nothing.
async fn finish(
    core: &Core,
    pool: &Arc<Shared>,
    member: &Arc<Member>,
    work: &[Lacking],
) -> Result<(), super::PoolError> {
    if !member.behind().is_some_and(|behind| behind.is_empty()) {
        return Ok(());
    }
    let Some(disk) = &member.disk else { return Ok(()) };
    tracing::info!(member = member.name, regions = work.len(), "resync complete");
    // Marks made from here on are made on this member too; those that were made before are copied.
    pool.membership.fetch_add(1, Ordering::AcqRel);
    let marked = copy_marks(core, pool, member, disk).await;
    let early = is_planted(core, Planted::InSyncBeforeFlush);
    if marked.is_err() || !early && disk.flush(core, Patience::Peers).await.is_err() {
        let reason = "a write failed at the end of a resync".to_owned();
        pool.member_failed(member, reason).await.map_err(|_| super::PoolError::Frozen)?;
        return Ok(());
    }
    let (answer, asked) = oneshot();
    let member = member.clone();
    let request = HomeRequest::MemberSynced { member, answer };
    pool.home.send(request).map_err(|_| super::PoolError::Closing)?;
    asked.await.unwrap_or(Err(super::PoolError::Closing))
}

/// Gives the member the dirty marks that other copies of its regions have.
async fn copy_marks(
    core: &Core,
    pool: &Shared,
    member: &Member,
    disk: &crate::disk::Disk,
) -> Result<(), nix::errno::Errno> {
    let mut wanted = Vec::new();
    {
        let live = lock(&pool.live);
        for record in live.state.volumes.values().flat_map(|v| v.slots.values()) {
            let Some(mine) = record.copies.iter().find(|c| c.member == member.id) else { continue };
            for other in record.copies.iter().filter(|c| c.member != member.id) {
                let source = pool.member(other.member);
                for region in (0..pool.regions_per_slot()).map(RegionIndex) {
                    if source.dirty.is_marked(Plane::Dirty, source.layout.region_number(other.extent, region))
                    {
                        wanted.push(member.layout.region_number(mine.extent, region));
                    }
                }
            }
        }
    }
    for number in wanted {
        member.dirty.mark(core, disk, Plane::Dirty, number, Patience::Peers).await?;
    }
    Ok(())
}
