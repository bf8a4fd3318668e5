//! How far background work has come, and how fast it goes.

use crate::base::units::ByteLen;
use crate::io::time::Instant;
use crate::reactor::sync::lock;
use std::sync::Mutex;
use std::time::Duration;

/// Background work of one kind; safe to look at from any core.
#[derive(Default)]
pub struct Progress {
    state: Mutex<Option<Going>>,
}

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
}
