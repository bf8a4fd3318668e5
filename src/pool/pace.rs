//! How fast background work may go: at full speed while no client waits, otherwise as fast as the slowest of their
//! requests bear, and never slower than a floor.
//!
//! ```text
//! every 100 ms with clients:  9 of 10 times work, then rest: what 99 % of the requests keep below is learnt there
//!   more than 1 % wait half as long again while we work?  smaller steps, slower.
//!   hardly any?                                           faster; larger steps where these hold us back.
//! ```
//!
//! A step is what a client may find before it at a drive. It is as small as reaches the rate that clients bear, or the
//! floor: small where drives answer at once, large where each step costs a movement of the heads.

use super::fragment_read::index;
use super::region::Region;
use super::shared::Shared;
use crate::base::limits::BLOCK;
use crate::io::time::Instant;
use crate::reactor::Core;
use crate::reactor::sync::lock;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Background work gets at least this much while clients are served, bytes per second.
pub const FLOOR: u64 = 8 << 20;

/// The rate is looked at so often.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Every so many looks is a rest.
const REST_EVERY: u64 = 10;

/// The floor where work goes on, so that it holds over a rest as well.
const FLOOR_AT_WORK: u64 = FLOOR * REST_EVERY / (REST_EVERY - 1);

/// Clients that asked for nothing for so long are away.
const AWAY_AFTER: Duration = Duration::from_millis(300);

/// Where a rate begins when clients come.
const FIRST_RATE: u64 = 64 << 20;

const FASTEST: u64 = 16 << 30;

/// Blocks of a step without clients, and the largest with them.
const LARGEST_STEP: u32 = 256;
const SMALLEST_STEP: u32 = 4;

/// The rate of background work of one pool; safe to use from any core.
#[derive(Default)]
pub struct Pace {
    /// Works that go by it; while there is one, clients measure their requests.
    works: AtomicUsize,
    waits: Waits,
    state: Mutex<State>,
}

/// A background work that goes on.
pub struct AtWork<'a>(&'a Pace);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.works.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What clients waited since the last look.
struct Waits {
    count: AtomicU64,
    by_length: [AtomicU64; LENGTHS],
}

/// Lengths are told apart by a quarter of an octave, from about a microsecond to half a minute.
const LENGTHS: usize = 100;
const SHORTEST_LOG2: u32 = 10;

/// How many requests waited how long; older ones count less and less. A request counts `WEIGHT` at first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tail([u64; LENGTHS]);

const WEIGHT: u64 = 256;

/// What is known of the clients, and what follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct State {
    /// None: no client is there.
    served: Option<Served>,
    looked: Instant,
    last_request: Option<Instant>,
}

/// While clients are served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Served {
    /// Bytes per second.
    rate: u64,
    /// Blocks.
    step: u32,
    /// When the next bytes may go.
    next: Instant,
    looks: u64,
    /// Whether somebody had to wait for the rate since the last look.
    held_back: bool,
    /// Bytes begun since the last look.
    taken: u64,
    rested: Tail,
    worked: Tail,
}

impl Pace {
    /// Whether requests are to be measured.
    pub fn is_on(&self) -> bool {
        self.works.load(Ordering::Relaxed) > 0
    }

    /// A client's request ended that took so long.
    pub fn note_request(&self, waited: Duration) {
        self.waits.note(waited);
    }

    /// A background work begins; it ends when what is given is dropped. Clients are thought to be there until it is
    /// known better.
    pub fn enter(&self, now: Instant) -> AtWork<'_> {
        if self.works.fetch_add(1, Ordering::Relaxed) == 0 {
            self.waits.take();
            *lock(&self.state) = State { served: Some(Served::new()), looked: now, last_request: None };
        }
        AtWork(self)
    }

    /// Whether clients asked for something a moment ago.
    pub fn has_clients(&self, now: Instant) -> bool {
        self.look(now).served.is_some()
    }

    /// Blocks to be held or read at the same time: few, where a client may wait for them.
    pub fn step_blocks(&self, now: Instant) -> u32 {
        self.look(now).served.map_or(LARGEST_STEP, |served| served.step)
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
        let is_due = now.since(state.looked) >= LOOK_EVERY;
        // Those who come are not to wait for the next look.
        if is_due || state.served.is_none() && self.waits.count.load(Ordering::Relaxed) > 0 {
            state.look(now, &self.waits.take());
        }
    }
}

impl Shared {
    /// The next blocks of a region for background work, when clients bear it: what was never written costs nothing.
    pub async fn next_step(&self, core: &Core, region: &Region, first: u32) -> Range<u32> {
        let step = self.pace.step_blocks(core.now());
        let blocks = first..(first + step).min(self.region_blocks());
        if region.state().written.any(index(blocks.start)..index(blocks.end)) {
            self.pace.take(core, u64::from(blocks.end - blocks.start) * BLOCK).await;
        }
        blocks
    }
}

impl Default for Waits {
    fn default() -> Waits {
        Waits { count: AtomicU64::new(0), by_length: [const { AtomicU64::new(0) }; LENGTHS] }
    }
}

impl Waits {
    fn note(&self, waited: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.by_length[length_of(waited)].fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> Tail {
        self.count.store(0, Ordering::Relaxed);
        Tail(std::array::from_fn(|at| self.by_length[at].swap(0, Ordering::Relaxed) * WEIGHT))
    }
}

/// Which of the lengths a wait is: the octave and the two bits below.
fn length_of(waited: Duration) -> usize {
    let ns = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX).max(1 << SHORTEST_LOG2);
    let octave = ns.ilog2();
    let quarter = ns >> (octave - 2) & 3;
    let length = u64::from((octave - SHORTEST_LOG2) * 4) + quarter;
    usize::try_from(length).unwrap_or(LENGTHS).min(LENGTHS - 1)
}

impl Tail {
    const NOTHING: Tail = Tail([0; LENGTHS]);

    fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    fn add(&mut self, new: &Tail) {
        self.0.iter_mut().zip(new.0).for_each(|(known, new)| *known = *known - known.div_ceil(4) + new);
    }

    /// What 99 % keep below; None if nothing is known.
    fn p99(&self) -> Option<usize> {
        let mut above = self.total() / 100;
        self.0.iter().rposition(|count| {
            let is_within = *count > above;
            above = above.saturating_sub(*count);
            is_within
        })
    }

    /// How many waited longer than a length.
    fn above(&self, length: usize) -> u64 {
        self.0.iter().skip(length + 1).sum()
    }
}

impl State {
    /// Takes in what clients waited since the last look.
    fn look(&mut self, now: Instant, waits: &Tail) {
        self.looked = now;
        let is_asked = waits.total() > 0;
        if is_asked {
            self.last_request = Some(now);
        }
        let away = self.last_request.is_none_or(|last| now.since(last) >= AWAY_AFTER);
        match &mut self.served {
            _ if away => self.served = None,
            // These waited for all that was begun before.
            None => self.served = Some(Served::new()),
            Some(served) => served.look(waits),
        }
    }

    /// When so many bytes may go.
    fn take(&mut self, now: Instant, bytes: u64) -> Instant {
        let rest_ends = self.looked + LOOK_EVERY;
        let Some(served) = &mut self.served else { return now };
        let begins = served.next.max(if served.is_rest() { rest_ends } else { now });
        served.next = begins + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / served.rate);
        served.held_back |= begins > now;
        served.taken += bytes;
        begins
    }
}

impl Served {
    /// Begins with a rest, in which what was begun before comes to its end, and another one.
    fn new() -> Served {
        Served {
            rate: FIRST_RATE,
            step: SMALLEST_STEP,
            next: Instant::default(),
            looks: 0,
            held_back: false,
            taken: 0,
            rested: Tail::NOTHING,
            worked: Tail::NOTHING,
        }
    }

    fn is_rest(&self) -> bool {
        self.looks <= 1 || self.looks.is_multiple_of(REST_EVERY)
    }

    fn look(&mut self, waits: &Tail) {
        if !self.is_rest() {
            self.worked.add(waits);
            self.steer();
        } else if self.looks > 0 {
            self.rested.add(waits);
        }
        self.looks += 1;
        (self.held_back, self.taken) = (false, 0);
    }

    /// Slower where more than one in a hundred waits much longer, faster where hardly any does.
    fn steer(&mut self) {
        let Some(usual) = self.rested.p99() else { return };
        // Two quarters of an octave up: about half as long again.
        let (slow, all) = (self.worked.above(usual + 2), self.worked.total());
        let look = |rate: u64| rate * 3 / 4 / 10; // bytes of a look that make full use of a rate
        if self.taken < look(FLOOR) && !self.held_back {
            // The drives are slow at each step, and clients are used to that.
            self.step = (self.step * 2).min(LARGEST_STEP);
        } else if slow * 100 > all {
            self.step = (self.step / 2).max(SMALLEST_STEP);
            let share = if slow * 30 > all { 2 } else { 4 };
            self.rate = (self.rate - self.rate / share).max(FLOOR_AT_WORK);
        } else if slow * 1000 <= all && self.taken < look(self.rate) {
            self.step = (self.step * 2).min(LARGEST_STEP);
        } else if slow * 1000 <= all {
            self.rate = (self.rate + self.rate / 16).min(FASTEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_ns(ms * 1_000_000)
    }

    fn waits(count: u64, ms: u64) -> Tail {
        let mut tail = Tail::NOTHING;
        tail.0[length_of(Duration::from_millis(ms))] = count * WEIGHT;
        tail
    }

    /// Clients whose requests wait 1 ms, and some of them longer while background work goes on.
    fn with_clients(looks: std::ops::Range<u64>, slow_per_1000: u64) -> State {
        let mut state = State { served: Some(Served::new()), ..State::default() };
        for look in looks {
            let is_rest = state.served.is_some_and(|s| s.is_rest());
            let mut tail = waits(1000, 1);
            if !is_rest {
                tail.add(&waits(slow_per_1000, 3));
            }
            // Work goes at the rate that is allowed.
            while state.take(at(look * 100), 1 << 16) < at(look * 100 + 100) {}
            state.look(at(look * 100 + 100), &tail);
        }
        state
    }

    #[test]
    fn without_clients_nothing_waits() {
        let mut state = State { served: Some(Served::new()), ..State::default() };
        state.look(at(100), &Tail::NOTHING);
        assert_eq!(state.take(at(100), 1 << 30), at(100));
        assert_eq!(state.take(at(100), 1 << 30), at(100));
    }

    #[test]
    fn work_begins_with_a_rest_and_those_who_come_later_get_one_too() {
        let mut state = State { served: Some(Served::new()), looked: at(50), last_request: None };
        assert_eq!(state.take(at(60), 1), at(150));
        (1..9).for_each(|look| state.look(at(50 + look * 100), &Tail::NOTHING));
        assert_eq!(state.take(at(860), 1), at(860));
        state.look(at(870), &waits(1, 1));
        assert_eq!(state.take(at(870), 1), at(970));
        assert_eq!(state.served.unwrap().rested, Tail::NOTHING, "these waited for what was begun before");
    }

    #[test]
    fn two_in_a_hundred_that_wait_longer_make_it_slower_down_to_the_floor() {
        let served = with_clients(0..200, 20).served.unwrap();
        assert_eq!((served.rate, served.step), (FLOOR_AT_WORK, SMALLEST_STEP));
    }

    #[test]
    fn clients_that_do_not_notice_make_it_faster_and_those_who_leave_set_it_free() {
        let mut state = with_clients(0..100, 0);
        assert!(state.served.unwrap().rate > 4 * FIRST_RATE, "{state:?}");
        (100..104).for_each(|look| state.look(at(look * 100), &Tail::NOTHING));
        assert_eq!(state.served, None);
    }

    #[test]
    fn where_no_step_is_quick_enough_for_the_floor_steps_grow() {
        let mut state = State { served: Some(Served::new()), ..State::default() };
        for look in 0..20 {
            // The heads move: ten steps in each look, whatever their size, and everybody waits for them.
            let served = state.served.unwrap();
            for ms in (0..100).step_by(10) {
                let _ = state.take(at(look * 100 + ms), u64::from(served.step) * 4096);
            }
            state.look(at(look * 100 + 100), &waits(5, if served.is_rest() { 8 } else { 50 }));
        }
        let step = state.served.unwrap().step;
        assert!((8..=16).contains(&step), "{step}");
    }

    #[test]
    fn the_tail_is_what_one_in_a_hundred_is_beyond() {
        let mut tail = waits(1000, 1);
        tail.add(&waits(5, 9));
        let worse = waits(20, 9);
        assert_eq!(tail.p99(), Some(length_of(Duration::from_millis(1))));
        tail.add(&worse);
        assert_eq!(tail.p99(), Some(length_of(Duration::from_millis(9))));
        assert_eq!(
            (Tail::NOTHING.p99(), waits(1, 2).p99()),
            (None, Some(length_of(Duration::from_millis(2))))
        );
    }

    #[test]
    fn bytes_go_at_the_rate() {
        let served = Served { rate: 10 << 20, looks: 2, ..Served::new() };
        let mut state = State { served: Some(served), ..State::default() };
        assert_eq!(state.take(at(0), 1 << 20), at(0));
        assert_eq!(state.take(at(0), 1 << 20), at(100));
        assert_eq!(state.take(at(500), 1 << 20), at(500), "what was not used is gone");
    }
}
