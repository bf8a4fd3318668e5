//! Mirroring: which copies of a slot are written, and in which order they are tried for a read. Pure.

use crate::base::units::{ExtentIndex, MemberId};
use smallvec::SmallVec;

/// One copy of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Copy {
    pub member: MemberId,
    pub extent: ExtentIndex,
}

/// The copies of one slot, each on another member.
pub type Copies = SmallVec<[Copy; 3]>;

/// A member's load as the read balance sees it: requests in flight on it.
pub type Load = u32;

/// The copies that may be read, best first: the one with the least in flight, the spread number breaking ties so
/// that neighbouring regions start on different members.
pub fn read_order(copies: &[Copy], in_sync: impl Fn(MemberId) -> Option<Load>, spread: u64) -> Copies {
    let mut order: SmallVec<[(Load, u64, Copy); 3]> = SmallVec::new();
    for (index, copy) in copies.iter().enumerate() {
        if let Some(load) = in_sync(copy.member) {
            let turn = (index as u64 + spread) % copies.len() as u64; // widening
            order.push((load, turn, *copy));
        }
    }
    order.sort_unstable();
    order.into_iter().map(|(_, _, copy)| copy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_copy_is_read_first_and_a_stale_one_never() {
        let copy = |m| Copy { member: MemberId(m), extent: ExtentIndex(0) };
        let copies = [copy(0), copy(1), copy(2)];
        let order = |loads: [Option<u32>; 3], spread| -> Vec<u16> {
            read_order(&copies, |m| loads[usize::from(m.0)], spread).iter().map(|c| c.member.0).collect()
        };
        assert_eq!(order([Some(3), Some(1), None], 0), [1, 0]);
        assert_eq!(order([Some(0), Some(0), Some(0)], 0), [0, 1, 2]);
        assert_eq!(order([Some(0), Some(0), Some(0)], 1), [2, 0, 1]);
        assert!(order([None, None, None], 0).is_empty());
    }
}
