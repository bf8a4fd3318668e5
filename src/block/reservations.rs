//! The reservations of a volume, as bytes that only a protocol understands: one newest value for all cores.

use super::Status;
use arc_swap::{ArcSwap, Guard};
use std::sync::Arc;

/// Reservations as they were set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReservationBytes {
    /// Counts the changes since the volume was opened: the same version is the same bytes.
    pub version: u64,
    /// Empty until they are set.
    pub bytes: Arc<[u8]>,
}

/// Why reservations were not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReservationError {
    /// They are not of the expected version any more: read them, and decide again.
    #[error("reservations were changed by somebody else in the meantime")]
    Raced,
    #[error("{0}")]
    Failed(#[from] Status),
}

/// Where the newest reservations of a volume are; safe to use from any core, and cheap enough for every request.
pub struct ReservationCell {
    newest: ArcSwap<ReservationBytes>,
}

impl ReservationCell {
    pub fn new(bytes: Arc<[u8]>) -> ReservationCell {
        ReservationCell { newest: ArcSwap::from_pointee(ReservationBytes { version: 0, bytes }) }
    }

    pub fn load(&self) -> Guard<Arc<ReservationBytes>> {
        self.newest.load()
    }

    /// Puts bytes in the place of those of this version, unless others are there already.
    pub fn replace(&self, expected: u64, bytes: Arc<[u8]>) -> Result<(), ReservationError> {
        let before = self.newest.load();
        if before.version != expected {
            return Err(ReservationError::Raced);
        }
        let next = Arc::new(ReservationBytes { version: expected + 1, bytes });
        let found = self.newest.compare_and_swap(&*before, next);
        if Arc::ptr_eq(&found, &before) { Ok(()) } else { Err(ReservationError::Raced) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_who_saw_the_same_version_one_is_told_to_look_again() {
        let cell = ReservationCell::new([].into());
        assert_eq!(cell.replace(0, [1].into()), Ok(()));
        assert_eq!(cell.replace(0, [2].into()), Err(ReservationError::Raced));
        assert_eq!(cell.replace(1, [3].into()), Ok(()));
        assert_eq!(**cell.load(), ReservationBytes { version: 2, bytes: [3].into() });
    }
}
