//! Taking a copy of a slot away while clients go on: its volume is to have fewer.
//!
//! ```text
//! hold the slot ─▶ wait for its saves, begin none ─▶ commit "it has these copies" ─▶ the extent is free, release
//! ```
//!
//! Nothing is copied. Until the commit the copy is written like the others, and a crash leaves it where it is. After it
//! nothing reaches its extent any more, which may be another slot's soon: requests on the slot wait, and saves of its
//! regions do not begin.

use super::flush::still;
use super::moving::{Job, Stuck, Switching, commit, hold_slot, volume_of};
use super::redundancy::mirror::Copy;
use super::shared::Shared;
use crate::reactor::Core;
use std::sync::Arc;

/// Takes one copy away.
pub async fn drop_copy(core: &Core, pool: &Arc<Shared>, job: &Job, copy: Copy) -> Result<(), Stuck> {
    if !pool.moves.begin(job, copy) {
        return Err(Stuck::Moving);
    }
    let dropped = switch(core, pool, job, copy).await;
    pool.moves.end(job);
    dropped
}

/// From here on the slot has one copy less.
async fn switch(core: &Core, pool: &Arc<Shared>, job: &Job, copy: Copy) -> Result<(), Stuck> {
    let volume = volume_of(pool, job)?;
    let _entered = volume.enter().map_err(|_| Stuck::Gone)?;
    let holds = hold_slot(core, pool, &volume, job).await?;
    let _switching = Switching::begin(&holds);
    for hold in &holds {
        still(hold.region()).await;
    }
    if !is_kept(pool, job, copy) {
        return Err(Stuck::Failed);
    }
    commit(pool, job, None).await.map_err(|_| Stuck::Failed)?;
    for hold in &holds {
        if let Some(placement) = &mut hold.region().state().placement {
            placement.copies = job.place.after(&placement.copies, None);
        }
    }
    Ok(())
}

/// Whether what stays can be believed to be on its drives: where a flush failed, only the copy that goes may have what
/// was flushed (R42).
fn is_kept(pool: &Shared, job: &Job, copy: Copy) -> bool {
    let Some(placement) = pool.placement(job.volume, job.slot) else { return false };
    let kept = placement.copies.iter().filter(|c| **c != copy).map(|c| pool.member(c.member));
    kept.filter(|m| m.is_in_sync()).all(|m| m.disk.as_ref().is_some_and(|d| !d.has_failed_flush()))
}
