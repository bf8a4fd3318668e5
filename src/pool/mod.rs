//! Members made into redundant space: the pool.
//!
//! Rank 5. One way in: `Pool` (create, open, change, close) and `PoolVolume` (requests). Underneath:
//! - bytes: `superblock`, `record`, `state_codec`, `region_block`, `dirty_log`;
//! - decisions: `layout`, `alloc`, `leaving`, `copies`, `reserve`, `meter`, `redundancy`, `state`, `quorum`, `lifecycle`;
//! - I/O: `log`, `votes`, `load`, `fragment_read`, `fragment_write`, `zero`, `flush`, `settle`, `create`, `open`,
//!   and the `home` task that commits every change.

pub mod alloc;
pub mod balance;
mod cache;
pub mod copies;
mod copy_bytes;
pub mod create;
mod crew;
pub mod dirty_log;
mod doubt;
mod dropping;
mod ends;
pub mod error;
mod flush;
mod fragment_read;
mod fragment_write;
pub mod heal;
mod home;
mod joining;
pub mod kept_marks;
pub mod layout;
pub mod leaving;
pub mod lifecycle;
mod load;
pub mod log;
pub mod lost;
pub mod member;
pub mod meter;
mod moving;
pub mod open;
mod pace;
mod parting;
pub mod planted;
pub mod progress;
pub mod quorum;
pub mod reach;
mod rebalance;
mod rebuild;
pub mod record;
pub mod redundancy;
pub mod region;
pub mod region_block;
pub mod replay;
pub mod report;
mod reservations;
pub mod reserve;
mod resync;
mod returning;
pub mod salvage;
pub mod scrub;
mod settle;
pub mod shared;
mod shrink;
pub mod state;
pub mod state_codec;
pub mod superblock;
pub mod survey;
mod suspicion;
pub mod unavailable;
pub mod verdict;
pub mod volume;
pub mod votes;
mod zero;

pub use create::{CreatePlan, create};
pub use error::PoolError;
pub use open::{OpenPlan, open};
pub use rebuild::DELAY_DEFAULT as REBUILD_AFTER;
pub use volume::PoolVolume;

use crate::base::limits::{
    COLUMNS_MAX, COPIES_MAX, LBA_BYTES, LBA_BYTES_DEFAULT, STRIPE_UNIT_DEFAULT, STRIPE_UNIT_MAX,
    STRIPE_UNIT_MIN, VOLUME_SIZE_MAX, VOLUMES_MAX,
};
use crate::base::units::{ByteLen, round_up};
use crate::disk::Disk;
use crate::reactor::Core;
use crate::reactor::sync::{lock, oneshot};
use home::{HomeRequest, VolumeChange};
use planted::{Planted, is_planted};
use redundancy::stripe::Geometry;
use shared::{BACKGROUND_UNITS, Shared};
use state::VolumeRecord;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An open pool, on its home core. Volumes are used from any core.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    witness: Option<Arc<Disk>>,
}

/// A volume to be made.
#[derive(Clone, Debug)]
pub struct VolumePlan {
    pub name: String,
    pub size: ByteLen,
    /// None: as many as the pool promises.
    pub copies: Option<u8>,
    pub unit: Option<ByteLen>,
    pub checksums: bool,
    /// The sector for hosts that count in sectors, bytes. None: 512.
    pub lba_bytes: Option<u32>,
}

impl Pool {
    pub fn uuid(&self) -> uuid::Uuid {
        self.shared.uuid
    }

    pub fn name(&self) -> String {
        lock(&self.shared.live).state.name.clone()
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The volumes, by name.
    pub fn volumes(&self) -> BTreeMap<String, Arc<PoolVolume>> {
        let volumes = self.shared.volumes.load();
        volumes.values().map(|v| (v.shape.load().name.clone(), v.clone())).collect()
    }

    pub fn volume(&self, name: &str) -> Option<Arc<PoolVolume>> {
        self.shared.volumes.load().values().find(|v| v.shape.load().name == name).cloned()
    }

    /// Makes a volume. Its space is taken from the pool as it is written.
    pub async fn create_volume(&self, core: &Core, plan: &VolumePlan) -> Result<Arc<PoolVolume>, PoolError> {
        create::check_name(&plan.name)?;
        let record = self.volume_record(core, plan)?;
        self.change(VolumeChange::Create(Box::new(record))).await?;
        self.volume(&plan.name).ok_or(PoolError::Closing)
    }

    /// Whether slots are refused that would leave too little free to heal after losing the largest member.
    pub fn enforce_reserve(&self, enforce: bool) {
        self.shared.reserve_enforced.store(enforce, Ordering::Release);
    }

    pub async fn rename_volume(&self, name: &str, to: &str) -> Result<(), PoolError> {
        create::check_name(to)?;
        let volume = self.find(name)?;
        self.change(VolumeChange::Rename { id: volume.id, name: to.to_owned() }).await
    }

    /// Changes how many copies a volume has. New slots have the number at once; those that there are get their copies, or lose
    /// them, in the background (`rebalance`). With `unprotected` also to one copy.
    ///
    /// # Errors
    /// `TooFewForCopies`, `NoRoomForCopies`, `WouldBeUnprotected`: nothing was changed. Otherwise if it cannot be committed.
    pub async fn set_copies(&self, name: &str, copies: u8, unprotected: bool) -> Result<(), PoolError> {
        let volume = self.find(name)?;
        self.change(VolumeChange::Copies { id: volume.id, copies, unprotected }).await?;
        self.shared.copies_asked.fetch_add(1, Ordering::AcqRel);
        self.shared.spread_wanted.wake_all();
        // What was to be made anew may be one too many.
        self.shared.rebuild_wanted.wake_all();
        Ok(())
    }

    /// Destroys a volume and gives its space back. Requests under way are waited for, later ones are refused.
    pub async fn destroy_volume(&self, name: &str) -> Result<(), PoolError> {
        let volume = self.find(name)?;
        volume.retire().await;
        self.change(VolumeChange::Destroy { id: volume.id }).await
    }

    /// Flushes everything, marks the pool clean and closes its disks. The caller has stopped all requests.
    ///
    /// # Errors
    /// If something could not be made durable: the pool stays marked as in use, and the next opening settles it.
    pub async fn close(&self, core: &Core) -> Result<(), PoolError> {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.clean_wanted.wake_all();
        self.shared.resync_wanted.wake_all();
        self.shared.rebuild_wanted.wake_all();
        self.shared.spread_wanted.wake_all();
        self.shared.scrub_wanted.wake_all();
        self.shared.scrub_changed.wake_all();
        self.shared.closed.wake_all();
        let _background = self.shared.background.take(BACKGROUND_UNITS).await;
        let (cleaned, flushed) = match is_planted(core, Planted::CleanMarkTooEarly) {
            true => (Ok(0), Ok(())),
            false => (flush::clean(&self.shared, core, true).await, self.flush_all(core).await),
        };
        // A write that failed on its only copy left something that only the next opening can look at.
        let unsettled =
            self.shared.cache.select(|r| r.state().unsettled && r.state().mark != region::Mark::Clear);
        let result = match (cleaned, flushed) {
            (Ok(_), Ok(())) if unsettled.is_empty() => self.ask(|answer| HomeRequest::Close { answer }).await,
            _ => Err(PoolError::Invalid(
                "not everything could be flushed; the next start checks it".to_owned(),
            )),
        };
        if result.is_ok() {
            self.shared.kept_marks.close();
        }
        for disk in self.shared.all_members().iter().filter_map(|m| m.disk.as_ref()) {
            disk.close(core).await;
        }
        if let Some(witness) = &self.witness {
            witness.close(core).await;
        }
        result
    }

    async fn flush_all(&self, core: &Core) -> Result<(), crate::block::Status> {
        let volumes = self.shared.volumes.load_full();
        for volume in volumes.values() {
            volume.flush(core).await?;
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Arc<PoolVolume>, PoolError> {
        self.volume(name).ok_or_else(|| PoolError::NoVolume(name.to_owned()))
    }

    /// Members that new slots can lie on.
    fn members_in_sync(&self) -> usize {
        let members = self.shared.members_in_sync();
        let live = lock(&self.shared.live);
        members.iter().filter(|m| !live.state.is_leaving(m.id)).count()
    }

    fn volume_record(&self, core: &Core, plan: &VolumePlan) -> Result<VolumeRecord, PoolError> {
        let copies = plan.copies.unwrap_or(lock(&self.shared.live).state.copies);
        if !(1..=COPIES_MAX).contains(&usize::from(copies)) {
            return Err(PoolError::Invalid(format!("a volume has 1 to {COPIES_MAX} copies")));
        }
        let members = self.members_in_sync();
        if usize::from(copies) > members {
            let why = format!("{copies} copies need {copies} drives, and {members} can be used");
            return Err(PoolError::Invalid(why));
        }
        let unit = plan.unit.unwrap_or(ByteLen(STRIPE_UNIT_DEFAULT));
        if !unit.0.is_power_of_two() || !(STRIPE_UNIT_MIN..=STRIPE_UNIT_MAX).contains(&unit.0) {
            return Err(PoolError::Invalid("the stripe unit is a power of two from 4KiB to 1MiB".to_owned()));
        }
        if self.shared.volumes.load().len() >= VOLUMES_MAX {
            return Err(PoolError::Invalid(format!("a pool has at most {VOLUMES_MAX} volumes")));
        }
        let size = check_size(plan.size)?;
        check_slots(size, self.shared.extent)?;
        let (extent, region) = (self.shared.extent, self.shared.region);
        let mut geometry = Geometry { extent, region, unit, segments: Vec::new() };
        geometry.cover(size, alloc::columns_for(members, copies, COLUMNS_MAX));
        Ok(VolumeRecord {
            uuid: core.with_prng(crate::base::prng::Prng::uuid),
            name: plan.name.clone(),
            size,
            copies,
            unit,
            checksums: plan.checksums,
            lba_bytes: check_lba(plan.lba_bytes)?,
            reservations: Arc::default(),
            segments: geometry.segments,
            slots: BTreeMap::new(),
        })
    }

    async fn change(&self, change: VolumeChange) -> Result<(), PoolError> {
        self.ask(|answer| HomeRequest::Change { change, answer }).await
    }

    async fn ask(
        &self,
        request: impl FnOnce(crate::reactor::sync::Answer<Result<(), PoolError>>) -> HomeRequest,
    ) -> Result<(), PoolError> {
        let (answer, asked) = oneshot();
        self.shared.home.send(request(answer)).map_err(|_| PoolError::Closing)?;
        asked.await.unwrap_or(Err(PoolError::Closing))
    }
}

/// Sizes are whole blocks of 4096 bytes; a request for less than a whole block more is rounded up.
fn check_size(size: ByteLen) -> Result<ByteLen, PoolError> {
    if size.0 == 0 || size.0 > VOLUME_SIZE_MAX {
        return Err(PoolError::Invalid("a volume has 1 byte to 8 EiB".to_owned()));
    }
    Ok(ByteLen(round_up(size.0, crate::base::limits::BLOCK)))
}

fn check_lba(asked: Option<u32>) -> Result<u32, PoolError> {
    match asked.unwrap_or(LBA_BYTES_DEFAULT) {
        bytes if LBA_BYTES.contains(&bytes) => Ok(bytes),
        other => Err(PoolError::Invalid(format!("a sector has 512 or 4096 bytes, not {other}"))),
    }
}

fn check_slots(size: ByteLen, extent: ByteLen) -> Result<(), PoolError> {
    if size.0.div_ceil(extent.0) >= u64::from(u32::MAX) {
        let why = format!("a volume of this pool has at most {} extents", u32::MAX);
        return Err(PoolError::Invalid(why));
    }
    Ok(())
}
