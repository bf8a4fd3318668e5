//! Timers of one core: a heap of due times and the tasks that wait for them.

use super::core::Core;
use crate::io::time::Instant;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Waiting tasks by due time; the second key part keeps equal times apart and in order.
#[derive(Default)]
pub(super) struct Timers {
    waiting: BTreeMap<(Instant, u64), Waker>,
    serial: u64,
}

impl Timers {
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.keys().next().map(|(due, _)| *due)
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Waker> {
        if self.next_due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let later = self.waiting.split_off(&(Instant::from_ns(now.as_ns() + 1), 0));
        std::mem::replace(&mut self.waiting, later).into_values().collect()
    }

    /// Whether this entry is still there, for this very task.
    fn waits(&self, due: Instant, serial: u64, waker: &Waker) -> bool {
        self.waiting.get(&(due, serial)).is_some_and(|known| known.will_wake(waker))
    }

    fn add(&mut self, due: Instant, waker: Waker) -> u64 {
        self.serial += 1;
        self.waiting.insert((due, self.serial), waker);
        self.serial
    }
}

/// Resolves when its time has come.
pub struct Sleep {
    core: Core,
    until: Instant,
    entry: Option<u64>,
}

impl Sleep {
    pub(super) fn new(core: Core, until: Instant) -> Sleep {
        Sleep { core, until, entry: None }
    }

    fn forget(&mut self) {
        if let Some(serial) = self.entry.take() {
            let waker = self.core.with_timers(|t| t.waiting.remove(&(self.until, serial)));
            drop(waker);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // A task that waits for other things as well is polled for those far more often than for this.
        let waits = |serial| this.core.with_timers(|t| t.waits(this.until, serial, cx.waker()));
        if this.entry.is_some_and(waits) {
            return Poll::Pending;
        }
        this.forget();
        if this.core.now() >= this.until {
            return Poll::Ready(());
        }
        this.entry = Some(this.core.with_timers(|t| t.add(this.until, cx.waker().clone())));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}
