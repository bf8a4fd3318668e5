//! Mirroring: which copies of a slot are written, and in which order they are tried for a read. Pure.

use crate::base::units::{ExtentIndex, MemberId};
use smallvec::SmallVec;
use std::time::Duration;

/// One copy of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Copy {
    pub member: MemberId,
    pub extent: ExtentIndex,
}

/// The copies of one slot, each on another member.
pub type Copies = SmallVec<[Copy; 3]>;

/// A member as the read balance sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Requests in flight on it.
    pub in_flight: u32,
    /// What its reads take, nanoseconds; zero: not known.
    pub read_ns: u64,
    /// It does not answer as it used to: read only where nothing else can be.
    pub suspect: bool,
}

/// The order in which copies are tried for a read: the one that is expected to answer first, the spread number
/// breaking ties so that neighbouring regions start on different members.
///
/// Members that take less than twice as long as the fastest count as equal: what is left then is chance.
pub fn read_order(loads: &[Load], spread: u64) -> SmallVec<[usize; 3]> {
    let count = loads.len().max(1) as u64; // widening
    let turn = |index: usize| (index as u64 + spread) % count; // widening
    let fastest = loads.iter().map(|load| load.read_ns).min().unwrap_or(0);
    let weight = |load: &Load| match load.read_ns.checked_div(fastest) {
        Some(ratio) if ratio >= 2 => ratio,
        Some(_) | None => 1,
    };
    let expected = |load: &Load| weight(load) * (u64::from(load.in_flight) + 1);
    let mut order: SmallVec<[usize; 3]> = (0..loads.len()).collect();
    order.sort_unstable_by_key(|i| (loads[*i].suspect, expected(&loads[*i]), turn(*i)));
    order
}

/// Reads that take less than this are not worth asking twice.
const HEDGE_MIN: Duration = Duration::from_millis(1);

const HEDGE_MAX: Duration = Duration::from_millis(500);

/// After what time a read is asked of the next copy too, given what reads of that one take, nanoseconds.
pub fn hedge_after(next_read_ns: u64) -> Duration {
    match next_read_ns {
        0 => HEDGE_MAX / 10,
        known => Duration::from_nanos(known.saturating_mul(4)).clamp(HEDGE_MIN, HEDGE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(loads: &[(u32, u64, bool)], spread: u64) -> Vec<usize> {
        let load = |(in_flight, read_ns, suspect): &(u32, u64, bool)| Load {
            in_flight: *in_flight,
            read_ns: *read_ns,
            suspect: *suspect,
        };
        read_order(&loads.iter().map(load).collect::<Vec<_>>(), spread).to_vec()
    }

    #[test]
    fn the_idle_copy_is_read_first_and_ties_are_spread() {
        let idle = (0, 0, false);
        assert_eq!(order(&[(3, 0, false), (1, 0, false)], 0), [1, 0]);
        assert_eq!(order(&[idle; 3], 0), [0, 1, 2]);
        assert_eq!(order(&[idle; 3], 1), [2, 0, 1]);
        assert!(order(&[], 5).is_empty());
    }

    #[test]
    fn r44_a_copy_that_takes_much_longer_is_read_where_the_others_are_that_busy() {
        assert_eq!(order(&[(0, 10_000, false), (0, 100, false)], 0), [1, 0]);
        assert_eq!(order(&[(0, 10_000, false), (200, 100, false)], 0), [0, 1]);
        assert_eq!(order(&[(0, 150, false), (1, 100, false)], 0), [0, 1], "a little slower is no difference");
    }

    #[test]
    fn r43_a_suspect_copy_comes_last() {
        assert_eq!(order(&[(0, 0, true), (9, 9, false)], 0), [1, 0]);
    }

    #[test]
    fn a_read_is_asked_again_when_the_next_copy_would_have_answered_long_ago() {
        assert_eq!(hedge_after(0), Duration::from_millis(50));
        assert_eq!(hedge_after(1000), HEDGE_MIN);
        assert_eq!(hedge_after(8_000_000), Duration::from_millis(32));
        assert_eq!(hedge_after(u64::MAX), HEDGE_MAX);
    }
}
