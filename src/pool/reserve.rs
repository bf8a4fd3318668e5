//! The reserve: what must stay free so that everything gets its copies back after the largest member is lost. Pure.
//!
//! An arithmetic bound, cheap enough for every allocation. Without the largest member, and without the room that single
//! copies take on the others, slots fit with each copy on another member if and only if for j = 0, 1, 2 the copies that
//! cannot lie on the j largest of them have room on the rest. What breaks the bound cannot heal, so that nothing is
//! refused in its name that could. What keeps it may still not heal: where the same members always have their slots
//! together, the copies of one have too few places. So `Reserve`, which says what is admitted, asks `meter` as well,
//! when the room is not so large that wherever they lie they find a place.

use super::meter::{Gauge, Group, Standing, groups, if_lost};
use super::redundancy::mirror::Copy;
use super::state::{FreeExtents, State};
use crate::base::limits::COPIES_MAX;
use crate::base::units::MemberId;
use std::collections::BTreeMap;

/// What is stored, as the bound sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stored {
    /// Extents of the members that the pool counts on.
    members: BTreeMap<MemberId, u64>,
    /// Slots with single copies on each member: they stay where they are, and are lost with it.
    singles: BTreeMap<MemberId, u64>,
    /// Slots with 1, 2 and 3 copies.
    slots: [u64; COPIES_MAX],
}

/// How far what is stored is from what can heal, in slots of one number of copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Margin {
    /// There are no more members than copies: nothing gets its copies back, however little is stored.
    Nowhere,
    /// So many more may be stored.
    Spare(u64),
    /// At least so many are stored that should not be.
    Short(u64),
}

impl Stored {
    /// What a state has stored, on the members that it counts on.
    pub fn of(state: &State, free: &FreeExtents) -> Stored {
        let mut stored = Stored::default();
        for (id, record) in &state.members {
            if record.counts(free.in_use(*id)) {
                stored.members.insert(*id, u64::from(record.extents));
            }
        }
        for slot in state.volumes.values().flat_map(|v| v.slots.values()) {
            stored.slots[slot.copies.len() - 1] += 1;
            if let [only] = slot.copies[..] {
                *stored.singles.entry(only.member).or_default() += 1;
            }
        }
        stored
    }

    /// One more slot, with its copies on these members.
    pub fn add(&mut self, members: &[MemberId]) {
        self.slots[members.len() - 1] += 1;
        if let [member] = members {
            *self.singles.entry(*member).or_default() += 1;
        }
    }

    /// Whether all slots with several copies have room for them without the largest member.
    pub fn heals(&self) -> bool {
        self.largest().all(|lost| self.slack(lost).all(|slack| slack >= 0))
    }

    /// What may still be stored with so many copies so that it heals.
    pub fn margin(&self, copies: u8) -> Margin {
        if copies < 2 || self.members.len() <= usize::from(copies) {
            return Margin::Nowhere;
        }
        let (mut spare, mut short) = (u64::MAX, 0);
        for lost in self.largest() {
            for (j, slack) in (0..u64::from(copies)).zip(self.slack(lost)) {
                let each = u64::from(copies) - j;
                match u64::try_from(slack) {
                    Ok(slack) => spare = spare.min(slack / each),
                    Err(_) => short = short.max(slack.unsigned_abs().div_ceil(each)),
                }
            }
        }
        if short > 0 { Margin::Short(short) } else { Margin::Spare(spare) }
    }

    /// The members that none is larger than.
    fn largest(&self) -> impl Iterator<Item = MemberId> + '_ {
        let most = self.members.values().copied().max().unwrap_or(0);
        self.members.iter().filter(move |(_, extents)| **extents == most).map(|(id, _)| *id)
    }

    /// Without this member: the room on all but the j largest of the others, less the copies that must lie there, for
    /// j = 0, 1, 2. Where there are fewer members than copies, a slot has as many as there are members.
    fn slack(&self, lost: MemberId) -> impl Iterator<Item = i64> {
        let room = |(id, extents): (&MemberId, &u64)| {
            extents.saturating_sub(self.singles.get(id).copied().unwrap_or(0))
        };
        let mut rooms: Vec<u64> = self.members.iter().filter(|(id, _)| **id != lost).map(room).collect();
        rooms.sort_unstable_by_key(|room| std::cmp::Reverse(*room));
        let slots = self.slots;
        (0..COPIES_MAX).map(move |j| {
            let there: u64 = rooms.iter().skip(j).sum();
            let of = |(copies, slots): (usize, u64)| {
                slots * copies.min(rooms.len()).saturating_sub(j) as u64 // widening
            };
            let needed: u64 = (2..).zip(slots.into_iter().skip(1)).map(of).sum();
            there.cast_signed() - needed.cast_signed()
        })
    }
}

/// What may be allocated so that everything heals after the largest member is lost.
pub struct Reserve {
    stored: Stored,
    /// Slots that could get their copies back. A member that is only away counts as there.
    groups: Vec<Group>,
    gauges: Vec<Gauge>,
}

impl Reserve {
    /// As it is in a state, with these extents free, and these not yet in use but not free either.
    pub fn of(state: &State, free: &FreeExtents, reserved: &[Copy]) -> Reserve {
        let stored = Stored::of(state, free);
        let gauge = |id: &MemberId| {
            let there = stored.members.contains_key(id);
            let leaves = state.is_leaving(*id);
            let standing = if there || leaves { Standing::InSync } else { Standing::Gone };
            let reserved = reserved.iter().filter(|c| c.member == *id).count();
            let free = free.free(*id).saturating_add(u32::try_from(reserved).unwrap_or(0));
            Gauge { member: *id, standing, free: if leaves { 0 } else { free } }
        };
        let gauges = state.members.keys().map(gauge).collect();
        let slots = state.volumes.values().flat_map(|v| v.slots.values()).map(|s| &s.copies);
        let mut groups = groups(slots, |copies| copies.iter().map(|c| c.member).collect());
        groups.retain(|g| g.members.len() < stored.members.len());
        Reserve { stored, groups, gauges }
    }

    /// Whether a slot may get its copies on these members. If so it counts as allocated from here on.
    pub fn admits(&mut self, members: &[MemberId]) -> bool {
        let mut after = self.stored.clone();
        after.add(members);
        if !after.heals() {
            return false;
        }
        self.count(members, true);
        let admitted = members.len() >= after.members.len()
            || after.largest().all(|lost| self.is_roomy(lost) || self.heals_without(lost));
        if admitted {
            self.stored = after;
        } else {
            self.count(members, false);
        }
        admitted
    }

    fn heals_without(&self, lost: MemberId) -> bool {
        if_lost(&self.groups, &self.gauges, lost).homeless == 0
    }

    /// Whether there is room for all that this member has, even if none of it may go to the two with most room: a slot
    /// has at most two copies besides.
    fn is_roomy(&self, lost: MemberId) -> bool {
        let all_there = self.gauges.iter().all(|g| g.standing == Standing::InSync);
        let held = self.groups.iter().filter(|g| g.members.contains(&lost)).map(|g| g.slots).sum::<u64>();
        let others = self.gauges.iter().filter(|g| g.member != lost);
        let mut rooms: Vec<u64> = others.map(|g| u64::from(g.free)).collect();
        rooms.sort_unstable_by_key(|room| std::cmp::Reverse(*room));
        all_there && rooms.iter().skip(COPIES_MAX - 1).sum::<u64>() >= held
    }

    /// Counts one slot more or less.
    fn count(&mut self, members: &[MemberId], more: bool) {
        for gauge in self.gauges.iter_mut().filter(|g| members.contains(&g.member)) {
            gauge.free = if more { gauge.free.saturating_sub(1) } else { gauge.free.saturating_add(1) };
        }
        let mut members: super::meter::Members = members.iter().copied().collect();
        members.sort_unstable();
        match self.groups.iter_mut().find(|g| g.members == members) {
            Some(group) => group.slots = if more { group.slots + 1 } else { group.slots - 1 },
            None => self.groups.push(Group { sources: members.clone(), members, slots: 1 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::alloc::usable;
    use super::*;
    use proptest::prelude::*;

    fn stored(extents: &[u64], slots: [u64; 3]) -> Stored {
        let members = (0..).map(MemberId).zip(extents.iter().copied()).collect();
        Stored { members, singles: BTreeMap::new(), slots }
    }

    #[test]
    fn the_margin_is_the_known_arithmetic() {
        let drives = [80, 500, 500, 500, 500, 500];
        assert_eq!(stored(&drives, [0, 310, 0]).margin(2), Margin::Spare(1040 - 310));
        assert_eq!(stored(&drives, [0, 1100, 0]).margin(2), Margin::Short(60));
        assert_eq!(stored(&[80, 500], [0, 1, 0]).margin(2), Margin::Nowhere);
        assert!(stored(&[80, 500], [0, 80, 0]).heals(), "nothing could heal: nothing is refused");
        assert_eq!(stored(&[80, 500, 500], [0, 80, 0]).margin(2), Margin::Spare(0));
    }

    #[test]
    fn single_copies_take_room_where_they_stay_and_none_where_they_are_lost() {
        let mut on_the_largest = stored(&[80, 80, 500], [0, 80, 0]);
        (0..400).for_each(|_| on_the_largest.add(&[MemberId(2)]));
        assert_eq!(on_the_largest.margin(2), Margin::Spare(0));
        let mut beside = stored(&[80, 80, 500], [0, 70, 0]);
        (0..10).for_each(|_| beside.add(&[MemberId(0)]));
        assert_eq!((beside.margin(2), beside.heals()), (Margin::Spare(0), true));
        beside.add(&[MemberId(1)]);
        assert!(beside.heals(), "70 still fit on both");
        beside.add(&[MemberId(0)]);
        assert_eq!((beside.margin(2), beside.heals()), (Margin::Short(1), false));
    }

    /// Members of the same size: slots on pairs that are always the same stop being admitted when the copies of one
    /// member have no place any more, whatever the sums say.
    #[test]
    fn what_lies_on_the_same_members_is_admitted_as_far_as_it_heals() {
        for (pairs, most) in
            [(&[(0, 1), (2, 3)][..], 133), (&[(0, 1), (2, 3), (0, 2), (1, 3), (0, 3), (1, 2)], 150)]
        {
            let gauge = |i| Gauge { member: MemberId(i), standing: Standing::InSync, free: 100 };
            let mut reserve = Reserve {
                stored: stored(&[100; 4], [0; 3]),
                groups: Vec::new(),
                gauges: (0..4).map(gauge).collect(),
            };
            let mut turns = pairs.iter().cycle();
            let mut next = || turns.next().map(|(a, b)| [MemberId(*a), MemberId(*b)]).unwrap();
            let admitted = (0..200).take_while(|_| reserve.admits(&next())).count();
            assert_eq!(admitted, most, "{pairs:?}");
            let heals = |i| if_lost(&reserve.groups, &reserve.gauges, MemberId(i)).homeless == 0;
            assert!((0..4).all(heals));
        }
    }

    proptest! {
        #[test]
        fn with_one_number_of_copies_it_is_what_is_usable_without_the_largest(
            extents in prop::collection::vec(1u32..60, 2..8), copies in 2u8..=3, part in 0u64..=120
        ) {
            let mut rest = extents.clone();
            rest.sort_unstable();
            rest.pop();
            let most = usable(&rest, copies);
            let slots = usable(&extents, copies) * part / 120;
            let mut stored = stored(&extents.iter().map(|e| u64::from(*e)).collect::<Vec<_>>(), [0; 3]);
            stored.slots[usize::from(copies) - 1] = slots;
            if extents.len() <= usize::from(copies) {
                prop_assert_eq!(stored.margin(copies), Margin::Nowhere);
                prop_assert!(stored.heals());
            } else if slots <= most {
                prop_assert_eq!(stored.margin(copies), Margin::Spare(most - slots));
            } else {
                prop_assert!(matches!(stored.margin(copies), Margin::Short(n) if n <= slots - most));
                prop_assert!(!stored.heals());
            }
        }
    }
}
