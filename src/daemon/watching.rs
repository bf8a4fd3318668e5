//! The service looks at its pools and tells what happened.

use super::events::{Draft, Moment, started};
use super::service::Service;
use crate::control::api::{Failure, Reply, Request};
use crate::control::event::{EventKind, Level};
use futures_util::future::select;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How often the pools are looked at. Looking costs time in proportion to what a pool holds: it takes a hundredth of the
/// core's time at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const SHARE: u32 = 100;

/// The longest wait for something to happen, whatever is asked for.
const WAIT_MAX: Duration = Duration::from_secs(10);

impl Service {
    fn moment(&self) -> Moment {
        Moment { now: self.core.now(), wall_ns: self.core.wall_ns() }
    }

    /// Tells what happened since the last look; `asked` is the change that was made.
    pub(super) fn look(&self, asked: Option<&Request>) {
        self.watch.look(self.moment(), self.reports(None).unwrap_or_default(), asked);
    }

    /// The daemon has opened what it could.
    pub(super) fn tell_start(&self, cleanly: bool, failures: &[Failure]) {
        self.watch.note(self.moment(), started(cleanly));
        for failure in failures {
            let message = failure.details.last().map_or(String::new(), |pool| format!("{pool}: "));
            let message = format!("{message}{}", failure.message);
            let (kind, code) = (EventKind::PoolNotOpened, Some(failure.code.clone()));
            self.watch
                .note(self.moment(), Draft { code, level: Level::Critical, ..Draft::daemon(kind, message) });
        }
        self.look(None);
    }

    pub(super) fn tell(&self, kind: EventKind, message: &str) {
        self.watch.note(self.moment(), Draft::daemon(kind, message));
    }

    /// Looks at the pools again and again, until the daemon ends.
    pub(super) async fn keep_looking(self: Rc<Service>) {
        loop {
            let began = self.core.now();
            self.look(None);
            let took = self.core.now().since(began);
            self.core.sleep(LOOK_EVERY.max(took.saturating_mul(SHARE))).await;
        }
    }

    /// What happened after an event; waits for something, no longer than is asked for.
    pub(super) async fn events_after(&self, after: u64, wait: Duration) -> Result<Reply, Failure> {
        let until = self.core.now() + wait.min(WAIT_MAX);
        loop {
            let ticket = self.watch.changed.ticket();
            let page = self.watch.page(after);
            if !page.events.is_empty() || self.core.now() >= until {
                return Ok(Reply::Events(page));
            }
            select(pin!(ticket), pin!(self.core.sleep_until(until))).await;
        }
    }
}
