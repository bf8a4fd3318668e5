//! How far background work has come, and how fast it goes.

use crate::base::units::ByteLen;
use crate::io::time::Instant;
use crate::reactor::sync::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Background work of one kind; safe to look at from any core.
#[derive(Default)]
pub struct Progress {
    state: Mutex<Option<Going>>,
    /// Bytes per second of the last work that came far enough to tell; zero until then.
    reached: AtomicU64,
}

/// Work shorter than this tells nothing about its rate.
const TELLING: u64 = 1 << 30;

#[derive(Clone, Copy)]
struct Going {
    since: Instant,
    done: u64,
    total: u64,
}

/// Work that goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Underway {
    pub done: ByteLen,
    pub total: ByteLen,
    /// Bytes per second since it began; zero while nothing is done.
    pub rate: u64,
}

impl Progress {
    /// Work of so many bytes begins.
    pub fn begin(&self, total: u64, now: Instant) {
        *lock(&self.state) = (total > 0).then_some(Going { since: now, done: 0, total });
    }

    pub fn add(&self, bytes: u64) {
        if let Some(going) = &mut *lock(&self.state) {
            going.done = (going.done + bytes).min(going.total);
        }
    }

    /// Keeps the rate that the work has reached so far, before it ends.
    pub fn keep_rate(&self, now: Instant) {
        if let Some(Underway { rate, .. }) = self.underway(now).filter(|u| u.done.0 >= TELLING) {
            self.reached.store(rate, Ordering::Relaxed);
        }
    }

    /// The rate of the last work of this kind, bytes per second. None: there was none, or too little.
    pub fn rate_reached(&self) -> Option<u64> {
        Some(self.reached.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    pub fn end(&self) {
        *lock(&self.state) = None;
    }

    /// None if there is no work.
    pub fn underway(&self, now: Instant) -> Option<Underway> {
        let going = (*lock(&self.state))?;
        let took = now.since(going.since).max(Duration::from_millis(1));
        let rate = u128::from(going.done) * 1_000_000_000 / took.as_nanos();
        Some(Underway {
            done: ByteLen(going.done),
            total: ByteLen(going.total),
            rate: u64::try_from(rate).unwrap_or(u64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_goes_on_tells_its_rate_and_ended_work_nothing() {
        let progress = Progress::default();
        assert_eq!(progress.underway(Instant::from_ns(5)), None);
        progress.begin(1000, Instant::from_ns(0));
        progress.add(500);
        let underway = progress.underway(Instant::from_ns(2_000_000_000)).expect("begun");
        assert_eq!(underway, Underway { done: ByteLen(500), total: ByteLen(1000), rate: 250 });
        progress.end();
        assert_eq!(progress.underway(Instant::from_ns(5)), None);
    }

    #[test]
    fn the_rate_of_work_that_was_long_enough_is_kept() {
        let progress = Progress::default();
        for (bytes, kept) in [(1 << 20, None), (2 << 30, Some(1 << 30)), (1 << 20, Some(1 << 30))] {
            progress.begin(bytes, Instant::from_ns(0));
            progress.add(bytes);
            progress.keep_rate(Instant::from_ns(2_000_000_000));
            progress.end();
            progress.keep_rate(Instant::from_ns(3_000_000_000));
            assert_eq!(progress.rate_reached(), kept);
        }
    }
}
