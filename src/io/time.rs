//! Points in time as the driver tells them: nanoseconds since an origin of the driver's choice.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in monotonic time. Only the driver makes new ones; there is no way to ask the system from here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct Instant {
    ns: u64,
}

impl Instant {
    pub const fn from_ns(ns: u64) -> Instant {
        Instant { ns }
    }

    pub const fn as_ns(self) -> u64 {
        self.ns
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(earlier.ns))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, d: Duration) -> Instant {
        let ns = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Instant { ns: self.ns.saturating_add(ns) }
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}
