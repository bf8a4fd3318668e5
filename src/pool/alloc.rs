//! Placement: which members get the copies of a new slot, and how much could be placed in all.
//!
//! Pure. `usable` is the arithmetic bound; `choose` never lowers it by more than the slot it places, so that
//! repeated choosing reaches the bound exactly (proved in the comment of `choose`, checked by a property test).

use crate::base::checksum::lot_of;
use crate::base::units::{MemberId, SlotIndex, VolumeId};

/// A member as placement sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    pub member: MemberId,
    /// Extents not in use.
    pub free: u32,
    /// Extents in all.
    pub total: u32,
    /// Slots of the same stripe that already lie on this member.
    pub in_stripe: u32,
    /// What decides between members that are about equally full: see `lot`.
    pub lot: u16,
}

/// The lot that a member draws for a slot. Without it members as good as equal would always be chosen in the same order,
/// and so always have their slots together: then one drive alone has all that another one loses, the rebuild reads from one
/// drive only, and copies find no room beside each other although there is plenty.
pub fn lot(volume: VolumeId, slot: SlotIndex, member: MemberId) -> u16 {
    lot_of(volume.0, slot.0, member.0)
}

/// Members that differ by less than so many free extents are as good as equal.
const ABOUT_EQUAL: u64 = 2;

/// How many slots of `copies` copies, each copy on another member, fit into these numbers of free extents: the
/// largest N with sum(min(free, N)) >= copies * N.
pub fn usable(free: &[u32], copies: u8) -> u64 {
    let copies = u64::from(copies);
    let fits = |n: u64| free.iter().map(|f| u64::from(*f).min(n)).sum::<u64>() >= copies * n;
    let sum: u64 = free.iter().map(|f| u64::from(*f)).sum();
    let (mut low, mut high) = (0, sum / copies.max(1));
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

/// The members for the copies of one new slot, or None if they do not fit on different members.
///
/// Members that the stripe does not use yet come first, then the ones with the largest free share, drawn by lot where that is
/// about equal. With N =
/// `usable` now, a member with at least N free extents is *needed*: each of the N slots still to come takes one
/// of its extents unless there is slack (sum(min(free, N)) - copies * N). Leaving out more needed members than
/// there is slack would lower the bound below N - 1, so they displace the last choices.
pub fn choose(rooms: &[Room], copies: u8) -> Option<Vec<MemberId>> {
    let copies = usize::from(copies);
    let free: Vec<u32> = rooms.iter().map(|r| r.free).collect();
    let bound = usable(&free, u8::try_from(copies).expect("three at most"));
    if bound == 0 {
        return None;
    }
    let mut order: Vec<&Room> = rooms.iter().filter(|r| r.free > 0).collect();
    order.sort_by_key(|room| preference(room));
    let needed = |r: &Room| u64::from(r.free) >= bound;
    let slack = free.iter().map(|f| u64::from(*f).min(bound)).sum::<u64>() - bound * copies as u64; // widening
    let (mut chosen, rest) = order.split_at(copies.min(order.len()));
    let mut chosen: Vec<&Room> = std::mem::take(&mut chosen).to_vec();
    let mut left_out: Vec<&Room> = rest.iter().copied().filter(|r| needed(r)).rev().collect();
    while left_out.len() as u64 > slack {
        // widening
        let Some(place) = chosen.iter().rposition(|r| !needed(r)) else { break };
        let Some(room) = left_out.pop() else { break };
        chosen[place] = room;
    }
    Some(chosen.into_iter().map(|r| r.member).collect())
}

/// Sort key: unused by the stripe first, then the largest free share (compared as fractions, after each member got up to
/// `ABOUT_EQUAL` extents by lot), then the number.
fn preference(room: &Room) -> (u32, std::cmp::Reverse<u128>, MemberId) {
    let scale = u64::from(u16::MAX) + 1;
    let free = u64::from(room.free) * scale + u64::from(room.lot) * ABOUT_EQUAL;
    let share = (u128::from(free) << 32) / u128::from(room.total.max(1)); // widening
    (room.in_stripe, std::cmp::Reverse(share), room.member)
}

/// Columns for the stripes of a new segment: as many as different members can serve at the same time.
pub fn columns_for(active_members: usize, copies: u8, columns_max: u32) -> u32 {
    let columns = active_members / usize::from(copies.max(1));
    u32::try_from(columns).unwrap_or(columns_max).clamp(1, columns_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn rooms(free: &[u32]) -> Vec<Room> {
        let id = |i| MemberId(u16::try_from(i).unwrap());
        free.iter()
            .enumerate()
            .map(|(i, f)| Room { member: id(i), free: *f, total: *f, in_stripe: 0, lot: 0 })
            .collect()
    }

    #[test]
    fn usable_is_the_known_arithmetic() {
        assert_eq!(usable(&[80, 500], 2), 80);
        assert_eq!(usable(&[80, 500, 500, 500, 500, 500], 2), 1290);
        assert_eq!(usable(&[80, 500], 1), 580);
        assert_eq!(usable(&[80, 500], 3), 0);
        assert_eq!(usable(&[80, 500, 500], 3), 80);
        assert_eq!(usable(&[], 1), 0);
    }

    proptest! {
        #[test]
        fn choosing_reaches_the_bound(
            // Up to 24 drives, the largest a hundred times as large as the smallest.
            free in prop_oneof![
                prop::collection::vec(0u32..60, 1..10),
                prop::collection::vec(3u32..=300, 2..=24),
            ],
            copies in 1u8..=3,
            volume in any::<u32>(),
        ) {
            let mut rooms = rooms(&free);
            let bound = usable(&free, copies);
            for placed in 0..bound {
                let slot = SlotIndex(u32::try_from(placed).unwrap());
                rooms.iter_mut().for_each(|r| r.lot = lot(VolumeId(volume), slot, r.member));
                let chosen = choose(&rooms, copies);
                prop_assert!(chosen.is_some(), "stuck after {placed} of {bound} in {free:?}");
                let mut chosen = chosen.unwrap();
                chosen.sort();
                chosen.dedup();
                prop_assert_eq!(chosen.len(), usize::from(copies), "copies on different members");
                for member in chosen {
                    let room = rooms.iter_mut().find(|r| r.member == member).unwrap();
                    room.free -= 1;
                    room.in_stripe = (room.in_stripe + 1) % 4;
                }
            }
            prop_assert_eq!(choose(&rooms, copies), None);
        }
    }

    /// How often each pair of members has a slot, for members of these sizes that are filled to this share.
    fn pairs(sizes: &[u32], share: (u32, u32)) -> BTreeMap<(MemberId, MemberId), u32> {
        let mut rooms = rooms(sizes);
        let slots = usable(sizes, 2) * u64::from(share.0) / u64::from(share.1);
        let mut found = BTreeMap::new();
        for slot in 0..u32::try_from(slots).unwrap() {
            rooms.iter_mut().for_each(|r| r.lot = lot(VolumeId(1), SlotIndex(slot), r.member));
            let mut chosen = choose(&rooms, 2).expect("below the bound");
            chosen.sort();
            *found.entry((chosen[0], chosen[1])).or_default() += 1;
            chosen.iter().for_each(|m| rooms[usize::from(m.0)].free -= 1);
        }
        found
    }

    #[test]
    fn every_pair_of_members_has_its_part_of_the_slots() {
        for sizes in [[400; 5], [400, 399, 398, 397, 396], [300, 400, 400, 400, 400]] {
            let found = pairs(&sizes, (3, 4));
            let all: u32 = found.values().sum();
            assert_eq!(found.len(), 10, "{sizes:?}: {found:?}");
            let least = found.values().min().unwrap();
            assert!(least * 10 * 2 > all, "{sizes:?}: {found:?}");
        }
    }

    #[test]
    fn members_are_filled_evenly_all_the_same() {
        let mut rooms = rooms(&[400, 400, 200, 100]);
        for slot in 0..300 {
            rooms.iter_mut().for_each(|r| r.lot = lot(VolumeId(1), SlotIndex(slot), r.member));
            choose(&rooms, 2).unwrap().iter().for_each(|m| rooms[usize::from(m.0)].free -= 1);
        }
        let left: Vec<u32> = rooms.iter().map(|r| r.free * 100 / r.total).collect();
        assert!(left.iter().max().unwrap() - left.iter().min().unwrap() <= 2, "{left:?} percent");
    }

    #[test]
    fn a_stripe_spreads_over_members_it_does_not_use_yet() {
        let mut rooms = rooms(&[80, 500]);
        rooms[1].in_stripe = 1;
        assert_eq!(choose(&rooms, 1), Some(vec![MemberId(0)]));
    }
}
