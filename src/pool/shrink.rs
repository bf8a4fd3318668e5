//! Making a volume smaller: what lies beyond its new end is given up, and never seen again.
//!
//! ```text
//! nothing beyond is taken any more ─▶ discard it, flush ─▶ commit the size, if no slot lies beyond
//! ```
//!
//! A crash before the commit leaves the volume as large as it was, with zeros at its end. What may still lie behind the
//! end in a slot that is kept (a write on another core that was let in a moment before) is discarded by the next growth,
//! before it could be read.

use super::error::PoolError;
use super::home::VolumeChange;
use super::volume::PoolVolume;
use super::{Pool, alloc, check_size, check_slots};
use crate::base::limits::COLUMNS_MAX;
use crate::base::units::{ByteLen, ByteOffset, SlotIndex, Span};
use crate::block::{AllocationRun, Status, WriteFlags};
use crate::reactor::Core;
use crate::reactor::sync::lock;
use std::sync::atomic::Ordering;

/// How often the end is discarded before it is said that somebody writes there all the time.
const ATTEMPTS: u32 = 8;

impl Pool {
    /// Makes a volume smaller. With `give_up` also where something is stored beyond the new end.
    ///
    /// # Errors
    /// `DataBeyond` if something is stored there and `give_up` is false: nothing was changed. Otherwise if the end cannot
    /// be discarded or the size cannot be committed: then the volume is as large as it was.
    pub async fn shrink_volume(
        &self,
        core: &Core,
        name: &str,
        size: ByteLen,
        give_up: bool,
    ) -> Result<(), PoolError> {
        let volume = self.find(name)?;
        let size = check_size(size)?;
        let old = volume.size();
        if size > old {
            return Err(PoolError::Invalid(format!("volume {name} is smaller than that already")));
        }
        let silent = |_| PoolError::Invalid(format!("the end of volume {name} cannot be looked at now"));
        if !give_up {
            let end = volume.end_of_data(core).await.map_err(silent)?;
            if end.0 > size.0 {
                return Err(PoolError::DataBeyond { name: name.to_owned(), end: ByteLen(end.0) });
            }
        }
        volume.limit.store(size.0, Ordering::Release);
        let shrunk = self.shrink(core, &volume, (size, old)).await;
        volume.limit.store(u64::MAX, Ordering::Release);
        shrunk
    }

    async fn shrink(
        &self,
        core: &Core,
        volume: &PoolVolume,
        (size, old): (ByteLen, ByteLen),
    ) -> Result<(), PoolError> {
        let mut result = Ok(());
        for _ in 0..ATTEMPTS {
            volume.discard_end(core, size, old).await?;
            result = self.change(VolumeChange::Shrink { id: volume.id, size }).await;
            // Somebody was let in just before.
            if !matches!(result, Err(PoolError::DataBeyond { .. })) {
                return result;
            }
        }
        result
    }

    /// Makes a volume larger.
    ///
    /// # Errors
    /// If it is larger already, what an earlier size left behind its end cannot be discarded, or the change cannot be
    /// committed.
    pub async fn grow_volume(&self, core: &Core, name: &str, size: ByteLen) -> Result<(), PoolError> {
        let volume = self.find(name)?;
        let size = check_size(size)?;
        let columns = alloc::columns_for(self.members_in_sync(), volume.copies(), COLUMNS_MAX);
        check_slots(size, self.shared.extent)?;
        let (end, capacity) = (volume.size(), volume.shape.load().geometry.capacity());
        volume.discard_end(core, end, ByteLen(capacity.0.min(size.0))).await?;
        self.change(VolumeChange::Grow { id: volume.id, size, columns }).await
    }
}

impl PoolVolume {
    /// Discards what lies between two sizes, for good.
    async fn discard_end(&self, core: &Core, size: ByteLen, old: ByteLen) -> Result<(), PoolError> {
        if old <= size || !self.has_slots_from(size) {
            return Ok(());
        }
        let beyond = Span::at(size.0, old.0 - size.0);
        self.discard(core, beyond, WriteFlags { fua: true }).await.map_err(|status| {
            let name = &self.shape.load().name;
            PoolError::Invalid(format!("the end of volume {name} cannot be discarded now: {status}"))
        })
    }

    /// Whether a slot is allocated that holds bytes beyond this size.
    fn has_slots_from(&self, size: ByteLen) -> bool {
        let shape = self.shape.load();
        if size >= shape.geometry.capacity() {
            return false;
        }
        let (stripe, _) = shape.geometry.stripe_at(ByteOffset(size.0));
        let live = lock(&self.pool.live);
        let record = live.state.volumes.get(&self.id);
        record.is_some_and(|v| v.slots.keys().next_back().is_some_and(|last| last.0 >= stripe.start))
    }

    /// Where the last block ends that was ever written, as far as can be told: what cannot be looked at counts as written.
    ///
    /// # Errors
    /// If the volume goes away.
    pub async fn end_of_data(&self, core: &Core) -> Result<ByteOffset, Status> {
        let _entered = self.enter()?;
        let mut before = u32::MAX;
        loop {
            let last = {
                let live = lock(&self.pool.live);
                let Some(record) = live.state.volumes.get(&self.id) else { return Ok(ByteOffset(0)) };
                record.slots.range(..SlotIndex(before)).next_back().map(|(slot, _)| *slot)
            };
            let Some(last) = last else { return Ok(ByteOffset(0)) };
            let shape = self.shape.load_full();
            let slots = shape.geometry.stripe_of(last);
            let Some(start) = shape.geometry.byte_of(SlotIndex(slots.start), ByteLen(0)) else {
                return Ok(ByteOffset(shape.size.0));
            };
            let stripe = shape.geometry.stripe_at(start).1;
            let end = stripe.end().0.min(shape.size.0);
            let mut runs = Vec::new();
            if end > start.0 {
                self.runs_in_stripe(core, Span::at(start.0, end - start.0), usize::MAX, &mut runs).await?;
            }
            if let Some(data) = end_of_runs(&runs) {
                return Ok(ByteOffset(start.0 + data.0));
            }
            before = slots.start;
        }
    }
}

/// Where the last run of data ends, from the start of the first run.
fn end_of_runs(runs: &[AllocationRun]) -> Option<ByteLen> {
    let mut at = 0;
    let mut found = None;
    for run in runs {
        at += run.len.0;
        if !run.zero {
            found = Some(ByteLen(at));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_ends_with_the_last_run_that_is_not_zero() {
        let run = |len, zero| AllocationRun { len: ByteLen(len), hole: zero, zero };
        assert_eq!(end_of_runs(&[]), None);
        assert_eq!(end_of_runs(&[run(4096, true)]), None);
        let runs = [run(4096, false), run(8192, true), run(4096, false), run(100, true)];
        assert_eq!(end_of_runs(&runs), Some(ByteLen(16384)));
    }
}
