//! How fast background work may go: at full speed while no client waits, otherwise as fast as their latency bears,
//! and never slower than a floor.
//!
//! ```text
//! every 100 ms with clients:  9 of 10 times work, then rest: what clients wait without us is measured there
//!                             waits much longer while we work?  slower.   hardly longer?  faster.
//! ```

use crate::io::time::Instant;
use crate::reactor::Core;
use crate::reactor::sync::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Background work gets at least this much while clients are served, bytes per second.
pub const FLOOR: u64 = 8 << 20;

/// The rate is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Every so many looks is a rest.
const REST_EVERY: u64 = 10;

/// Clients that asked for nothing for so long are away.
const AWAY_AFTER: Duration = Duration::from_millis(300);

/// Where a rate begins when clients come.
const FIRST_RATE: u64 = 64 << 20;

const FASTEST: u64 = 16 << 30;

/// The rate of background work of one pool; safe to use from any core.
#[derive(Default)]
pub struct Pace {
    /// Works that go by it; while there is one, clients measure their requests.
    works: AtomicUsize,
    requests: AtomicU64,
    waited_ns: AtomicU64,
    state: Mutex<State>,
}

/// What is known of the clients, and what follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct State {
    /// Bytes per second; zero: no client is there.
    rate: u64,
    /// When the next bytes may go.
    next: Instant,
    looked: Instant,
    looks: u64,
    last_request: Option<Instant>,
    /// Mean waits, nanoseconds, while background work rested and while it went on.
    rested: Option<u64>,
    worked: Option<u64>,
}

impl Pace {
    /// Whether requests are to be measured.
    pub fn is_on(&self) -> bool {
        self.works.load(Ordering::Relaxed) > 0
    }

    /// A client's request ended that took so long.
    pub fn note_request(&self, waited: Duration) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.waited_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// A background work begins.
    pub fn enter(&self) {
        self.works.fetch_add(1, Ordering::Relaxed);
    }

    /// It has ended.
    pub fn leave(&self) {
        if self.works.fetch_sub(1, Ordering::Relaxed) == 1 {
            *lock(&self.state) = State::default();
        }
    }

    /// Whether clients asked for something a moment ago.
    pub fn has_clients(&self, now: Instant) -> bool {
        self.look(now).rate > 0
    }

    /// Blocks to be held at the same time: few, where a client may wait for them.
    pub fn step_blocks(&self, now: Instant) -> u32 {
        if self.look(now).rate == 0 { 256 } else { 16 }
    }

    /// Waits until so many bytes may be copied.
    pub async fn take(&self, core: &Core, bytes: u64) {
        let until = {
            let mut state = lock(&self.state);
            self.look_at(&mut state, core.now());
            state.take(core.now(), bytes)
        };
        if until > core.now() {
            core.sleep_until(until).await;
        }
    }

    fn look(&self, now: Instant) -> State {
        let mut state = lock(&self.state);
        self.look_at(&mut state, now);
        *state
    }

    fn look_at(&self, state: &mut State, now: Instant) {
        if now.since(state.looked) >= LOOK_EVERY {
            let requests = self.requests.swap(0, Ordering::Relaxed);
            let waited = self.waited_ns.swap(0, Ordering::Relaxed);
            state.look(now, requests, waited);
        }
    }
}

impl State {
    /// Takes in what clients waited since the last look.
    fn look(&mut self, now: Instant, requests: u64, waited_ns: u64) {
        if requests > 0 {
            self.last_request = Some(now);
        }
        let away = self.last_request.is_none_or(|last| now.since(last) >= AWAY_AFTER);
        if away {
            *self = State { looked: now, last_request: self.last_request, ..State::default() };
            return;
        }
        let rested = self.is_rest();
        self.looked = now;
        self.looks += 1;
        if let Some(mean) = waited_ns.checked_div(requests) {
            let known = if rested { &mut self.rested } else { &mut self.worked };
            *known = Some(known.map_or(mean, |known| (known * 3 + mean) / 4));
        }
        if self.rate == 0 {
            self.rate = FIRST_RATE;
        } else if let (false, Some(rested), Some(worked)) = (rested, self.rested, self.worked) {
            self.rate = next_rate(self.rate, rested, worked);
        }
    }

    fn is_rest(&self) -> bool {
        self.looks.is_multiple_of(REST_EVERY)
    }

    /// When so many bytes may go.
    fn take(&mut self, now: Instant, bytes: u64) -> Instant {
        if self.rate == 0 {
            return now;
        }
        let begins = self.next.max(now);
        let took = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.rate);
        self.next = begins + took;
        // The floor holds while resting, too: the rest is made up for.
        if self.is_rest() { begins.max(self.looked + LOOK_EVERY) } else { begins }
    }
}

/// Slower where clients wait half as long again, faster where they hardly notice.
fn next_rate(rate: u64, rested_ns: u64, worked_ns: u64) -> u64 {
    // Less than this is no wait, whatever it was before.
    let slack = 50_000;
    let much = rested_ns + rested_ns / 2 + slack;
    let little = rested_ns + rested_ns / 5 + slack;
    let next = if worked_ns > much {
        rate / 4 * 3
    } else if worked_ns < little {
        rate + rate / 8
    } else {
        rate
    };
    next.clamp(FLOOR, FASTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_ns(ms * 1_000_000)
    }

    #[test]
    fn without_clients_nothing_waits() {
        let mut state = State::default();
        state.look(at(100), 0, 0);
        assert_eq!(state.take(at(100), 1 << 30), at(100));
        assert_eq!(state.take(at(100), 1 << 30), at(100));
    }

    #[test]
    fn clients_that_wait_longer_make_it_slower_down_to_the_floor() {
        let mut state = State::default();
        let mut rates = Vec::new();
        for look in 1..200 {
            let wait = if state.is_rest() { 1_000_000 } else { 3_000_000 };
            state.look(at(look * 100), 10, 10 * wait);
            rates.push(state.rate);
        }
        assert_eq!(rates[0], FIRST_RATE);
        assert_eq!(rates.last(), Some(&FLOOR));
    }

    #[test]
    fn clients_that_do_not_notice_make_it_faster_and_those_who_leave_set_it_free() {
        let mut state = State::default();
        (1..100).for_each(|look| state.look(at(look * 100), 10, 10_000_000));
        assert!(state.rate > 4 * FIRST_RATE, "{}", state.rate);
        (100..110).for_each(|look| state.look(at(look * 100), 0, 0));
        assert_eq!(state.rate, 0);
    }

    #[test]
    fn bytes_go_at_the_rate() {
        let mut state = State { rate: 10 << 20, looks: 1, looked: at(0), ..State::default() };
        assert_eq!(state.take(at(0), 1 << 20), at(0));
        assert_eq!(state.take(at(0), 1 << 20), at(100));
        assert_eq!(state.take(at(500), 1 << 20), at(500), "what was not used is gone");
    }
}
