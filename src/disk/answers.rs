//! How a disk answers: how long its reads take, and which operations did not end in time.
//!
//! An operation that is not waited for any longer goes on in the drive: it may still take effect. As long as there is
//! one, the disk is *late*. Nobody who has another copy begins anything on it then, and who has none waits: so nothing
//! that is written later can be overtaken by what was given up, and its buffers and extents are not used again.

use crate::io::driver::{Done, Op};
use crate::io::time::Instant;
use crate::reactor::Core;
use crate::reactor::sync::WaitList;
use futures_util::future::{Either, select};
use nix::errno::Errno;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

/// How long an answer is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Another copy can stand in: clients wait no longer than this.
    Peers,
    /// The pool is being opened: drives may have to spin up first.
    Opening,
    /// Nothing else has what is asked for.
    Alone,
}

impl Patience {
    pub fn longest(self) -> Duration {
        match self {
            Patience::Peers => Duration::from_secs(3),
            Patience::Opening => Duration::from_secs(20),
            Patience::Alone => Duration::from_secs(60),
        }
    }
}

/// What one disk's answers have been like; safe to use from any core.
#[derive(Default)]
pub struct Answers {
    in_flight: AtomicU32,
    /// Operations that were given up and have not ended.
    late: AtomicU32,
    /// Woken when there are fewer of these.
    ended: WaitList,
    /// Mean time of the last reads, nanoseconds; zero: none was timed.
    read_ns: AtomicU64,
    /// The same over a long time.
    usual_ns: AtomicU64,
    reads: AtomicU64,
    /// When an operation ended last, or began with none in flight; nanoseconds of the core's clock.
    moved_ns: AtomicU64,
}

/// One operation in flight.
struct InFlight(Arc<Answers>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Answers {
    /// Operations in flight, late ones included.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub fn is_late(&self) -> bool {
        self.late.load(Ordering::Acquire) > 0
    }

    /// Mean time of the last reads, nanoseconds; zero where none was timed.
    pub fn read_ns(&self) -> u64 {
        self.read_ns.load(Ordering::Relaxed)
    }

    /// Mean time of reads over a long time, nanoseconds.
    pub fn usual_ns(&self) -> u64 {
        self.usual_ns.load(Ordering::Relaxed)
    }

    /// Reads that were timed so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// For how long nothing has ended although something was asked.
    pub fn silence(&self, now: Instant) -> Duration {
        if self.in_flight() == 0 {
            return Duration::ZERO;
        }
        now.since(Instant::from_ns(self.moved_ns.load(Ordering::Relaxed)))
    }

    /// A read took so long.
    pub fn note_read(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.reads.fetch_add(1, Ordering::Relaxed);
        // Two reads that end at the same time may lose one of the two: it is a mean.
        self.read_ns.store(moved_mean(self.read_ns(), ns, 8), Ordering::Relaxed);
        self.usual_ns.store(moved_mean(self.usual_ns(), ns, 1024.min(self.reads())), Ordering::Relaxed);
    }

    /// Carries an operation out, if it ends in time.
    ///
    /// # Errors
    /// ETIMEDOUT if it did not, or was not begun because others are late. It may take effect all the same, later;
    /// `afterwards` then gets its end.
    pub async fn within(
        self: &Arc<Answers>,
        core: &Core,
        op: Op,
        patience: Patience,
        afterwards: impl FnOnce(Done) + 'static,
    ) -> Result<Done, Errno> {
        if self.is_late() {
            Box::pin(self.wait_for_late(core, patience)).await?;
        }
        if self.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            self.moved_ns.store(core.turn_at().as_ns(), Ordering::Relaxed);
        }
        let in_flight = InFlight(self.clone());
        let mut op = core.op(op);
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(Pin::new(&mut op).poll(cx))).await {
            return Ok(done);
        }
        match select(op, core.sleep(patience.longest())).await {
            Either::Left((done, _)) => {
                self.moved_ns.store(core.turn_at().as_ns(), Ordering::Relaxed);
                Ok(done)
            }
            Either::Right(((), op)) => {
                self.late.fetch_add(1, Ordering::AcqRel);
                core.spawn(async move {
                    afterwards(op.await);
                    let answers = in_flight.0.clone();
                    drop(in_flight);
                    answers.late.fetch_sub(1, Ordering::AcqRel);
                    answers.ended.wake_all();
                });
                Err(Errno::ETIMEDOUT)
            }
        }
    }

    async fn wait_for_late(&self, core: &Core, patience: Patience) -> Result<(), Errno> {
        let until = match patience {
            Patience::Peers => core.now(),
            Patience::Opening | Patience::Alone => core.now() + patience.longest(),
        };
        loop {
            let ticket = self.ended.ticket();
            if !self.is_late() {
                return Ok(());
            }
            if core.now() >= until {
                return Err(Errno::ETIMEDOUT);
            }
            select(ticket, core.sleep_until(until)).await;
        }
    }
}

/// A mean over about so many values, one more taken in.
fn moved_mean(mean: u64, value: u64, values: u64) -> u64 {
    if mean == 0 {
        return value;
    }
    let part = |x: u64| x / values;
    mean - part(mean) + part(value).max(u64::from(value > mean))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_follow_their_values() {
        assert_eq!(moved_mean(0, 500, 8), 500);
        let long = (0..100).fold(500, |mean, _| moved_mean(mean, 50_000, 8));
        assert!((40_000..=50_000).contains(&long), "{long}");
        let short = (0..200).fold(long, |mean, _| moved_mean(mean, 500, 8));
        assert!(short < 1000, "{short}");
    }
}
