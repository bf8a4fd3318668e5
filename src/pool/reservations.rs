//! Setting a volume's reservations: the pool stores the bytes and does not look into them.
//!
//! Only the home sets them, one after the other, so that of two cores that decided on the same version one is told to look
//! again. What is to survive a restart is committed before any core can see it; the rest is in memory alone.

use super::home::{Batch, Decided, HomeRequest};
use super::shared::Shared;
use super::state::Change;
use crate::base::limits::RESERVATIONS_LEN_MAX;
use crate::base::units::VolumeId;
use crate::block::{ReservationError, Status};
use crate::reactor::sync::oneshot;
use std::sync::Arc;

/// Reservations to be set.
pub struct SetReservations {
    pub volume: VolumeId,
    /// The version that they were decided on.
    pub expected: u64,
    pub bytes: Arc<[u8]>,
    /// Kept over a restart. Otherwise nothing is, not even what was kept before.
    pub durable: bool,
}

impl Batch {
    /// Decides to set reservations; what is committed for that may be nothing.
    pub fn set_reservations(&mut self, pool: &Shared, set: &SetReservations) -> Result<(), ReservationError> {
        let volumes = pool.volumes.load();
        let volume = volumes.get(&set.volume).ok_or(Status::ShuttingDown)?;
        let record = self.state.volumes.get(&set.volume).ok_or(Status::ShuttingDown)?;
        let pending = self.decided.iter().any(|decided| match decided {
            Decided::ReservationsSet { set: other, .. } => other.volume == set.volume,
            Decided::Placed { .. }
            | Decided::Freed { .. }
            | Decided::Changed { .. }
            | Decided::Reserved { .. }
            | Decided::Unreserved { .. } => false,
        });
        if pending || volume.reservations.load().version != set.expected {
            return Err(ReservationError::Raced);
        }
        let reservations = if set.durable { set.bytes.clone() } else { Arc::default() };
        if record.reservations != reservations {
            self.apply(Change::VolumeReserved { id: set.volume, reservations });
        }
        Ok(())
    }
}

impl Shared {
    /// Asks the home to set reservations. When this succeeds every core sees them.
    pub async fn set_reservations(&self, set: SetReservations) -> Result<(), ReservationError> {
        assert!(set.bytes.len() <= RESERVATIONS_LEN_MAX, "what a protocol keeps is bounded");
        let (answer, asked) = oneshot();
        let request = HomeRequest::SetReservations { set, answer };
        self.home.send(request).map_err(|_| Status::ShuttingDown)?;
        asked.await.unwrap_or(Err(Status::ShuttingDown.into()))
    }

    /// What was decided is committed: all cores see it from now on.
    pub fn publish_reservations(&self, set: SetReservations) -> Result<(), ReservationError> {
        let volumes = self.volumes.load();
        let volume = volumes.get(&set.volume).ok_or(Status::ShuttingDown)?;
        let replaced = volume.reservations.replace(set.expected, set.bytes);
        assert!(replaced.is_ok(), "only the home sets reservations");
        Ok(())
    }
}
