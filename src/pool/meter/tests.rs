//! The meter against pools that are small enough to try everything.

use super::super::alloc::{Room, choose, lot};
use super::*;
use crate::base::units::{ExtentIndex, SlotIndex, VolumeId};
use crate::pool::redundancy::mirror::Copy;
use proptest::prelude::*;

/// A pool of few members: what is free on each, how each stands, and the members of each slot.
#[derive(Clone, Debug)]
struct Small {
    gauges: Vec<Gauge>,
    slots: Vec<Members>,
}

fn id(index: usize) -> MemberId {
    MemberId(u16::try_from(index).unwrap())
}

/// Members that can be read: those in sync, or where none is, those that are behind.
fn sources(gauges: &[Gauge], members: &[MemberId]) -> Members {
    let of = |standing| -> Members {
        members.iter().copied().filter(|m| gauges[usize::from(m.0)].standing == standing).collect()
    };
    let in_sync = of(Standing::InSync);
    if in_sync.is_empty() { of(Standing::Behind) } else { in_sync }
}

impl Small {
    fn groups(&self) -> Vec<Group> {
        let mut found: BTreeMap<Members, u64> = BTreeMap::new();
        self.slots.iter().for_each(|members| *found.entry(members.clone()).or_default() += 1);
        let group = |(members, slots): (Members, u64)| Group {
            sources: sources(&self.gauges, &members),
            members,
            slots,
        };
        found.into_iter().map(group).collect()
    }

    /// For each slot that can be read without this member: where the copies that it lacks may go, and how many.
    fn lacking(&self, lost: MemberId) -> Vec<(Vec<usize>, usize)> {
        let gone = |m: MemberId| m == lost || self.gauges[usize::from(m.0)].standing == Standing::Gone;
        let readable = |s: &&Members| sources(&self.gauges, s).iter().any(|m| *m != lost);
        let of = |slot: &Members| {
            let takes =
                |g: &&Gauge| g.member != lost && g.standing == Standing::InSync && !slot.contains(&g.member);
            let to = self.gauges.iter().filter(takes).map(|g| usize::from(g.member.0)).collect();
            (to, slot.iter().filter(|m| gone(**m)).count())
        };
        self.slots.iter().filter(readable).map(of).collect()
    }

    fn free(&self) -> Vec<u32> {
        self.gauges.iter().map(|g| g.free).collect()
    }
}

/// The most copies that can be placed, by trying everything: one slot after the other, any set of its members.
fn most(lacking: &[(Vec<usize>, usize)], free: &mut Vec<u32>) -> u64 {
    let Some(((to, copies), rest)) = lacking.split_first() else { return 0 };
    let mut best = 0;
    for set in 0u32..1 << to.len() {
        let chosen: Vec<usize> = (0..to.len()).filter(|i| set & (1 << i) != 0).map(|i| to[i]).collect();
        if chosen.len() > *copies || chosen.iter().any(|m| free[*m] == 0) {
            continue;
        }
        chosen.iter().for_each(|m| free[*m] -= 1);
        best = best.max(chosen.len() as u64 + most(rest, free));
        chosen.iter().for_each(|m| free[*m] += 1);
    }
    best
}

fn small() -> impl Strategy<Value = Small> {
    let standing = prop_oneof![
        6 => Just(Standing::InSync), 1 => Just(Standing::Behind), 1 => Just(Standing::Gone)
    ];
    let members = prop::collection::vec((0u32..4, standing), 3..=6);
    members.prop_flat_map(|members| {
        let gauge = |(i, (free, standing)): (usize, &(u32, Standing))| Gauge {
            member: id(i),
            standing: *standing,
            free: *free,
        };
        let gauges: Vec<Gauge> = members.iter().enumerate().map(gauge).collect();
        let all: Vec<MemberId> = gauges.iter().map(|g| g.member).collect();
        let slot = prop::sample::subsequence(all, 1..=3).prop_map(Members::from_vec);
        prop::collection::vec(slot, 0..6).prop_map(move |slots| Small { gauges: gauges.clone(), slots })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_heals_is_the_most_that_can_be_placed(small in small()) {
        let groups = small.groups();
        for gauge in &small.gauges {
            let lacking = small.lacking(gauge.member);
            let found = if_lost(&groups, &small.gauges, gauge.member);
            let copies: usize = lacking.iter().map(|(_, copies)| copies).sum();
            prop_assert_eq!(found.heals, most(&lacking, &mut small.free()), "{:?}", gauge.member);
            prop_assert_eq!(found.heals + found.homeless, copies as u64);
        }
    }

    #[test]
    fn what_is_lost_and_exposed_is_what_a_member_takes_along(small in small()) {
        let groups = small.groups();
        let readable = |s: &Members| !sources(&small.gauges, s).is_empty();
        let mut lost = 0;
        for gauge in &small.gauges {
            let left = |s: &Members| sources(&small.gauges, s).iter().filter(|m| **m != gauge.member).count();
            let taken = |s: &Members| sources(&small.gauges, s).contains(&gauge.member);
            let count = |pick: &dyn Fn(&Members) -> bool| {
                small.slots.iter().filter(|s| pick(s)).count() as u64
            };
            let found = if_lost(&groups, &small.gauges, gauge.member);
            prop_assert_eq!(found.held, count(&|s| s.contains(&gauge.member)));
            prop_assert_eq!(found.lost, count(&|s| readable(s) && left(s) == 0));
            prop_assert_eq!(found.exposed, count(&|s| taken(s) && left(s) == 1));
            lost += found.lost;
        }
        let all = small.slots.iter().filter(|s| readable(s)).count() as u64;
        prop_assert_eq!(protected(&groups) + lost, all, "each slot is protected, or lost with one member");
    }
}

#[test]
fn slots_are_grouped_by_their_members_in_any_order() {
    let copies = |members: &[u16]| -> Copies {
        members.iter().map(|m| Copy { member: MemberId(*m), extent: ExtentIndex(0) }).collect()
    };
    let slots = [copies(&[1, 0]), copies(&[0, 1]), copies(&[2])];
    let groups = groups(slots.iter(), |copies| copies.iter().map(|c| c.member).collect());
    let found: Vec<_> = groups.iter().map(|g| (g.members.to_vec(), g.slots)).collect();
    assert_eq!(found, [(vec![id(0), id(1)], 2), (vec![id(2)], 1)]);
}

/// Two slots and two places, of which the first could take both: who has no other choice is let in.
#[test]
fn a_place_is_left_to_who_has_no_other() {
    let gauge = |i, free| Gauge { member: id(i), standing: Standing::InSync, free };
    let gauges = [gauge(0, 0), gauge(1, 0), gauge(2, 1), gauge(3, 1)];
    let group = |a, b, slots| {
        let members: Members = [id(a), id(b)].into_iter().collect();
        Group { sources: members.clone(), members, slots }
    };
    let groups = [group(0, 1, 1), group(0, 3, 1)];
    assert_eq!(
        if_lost(&groups, &gauges, id(0)),
        IfLost { held: 2, lost: 0, exposed: 2, heals: 2, homeless: 0 }
    );
    let groups = [group(0, 3, 2)];
    assert_eq!(
        if_lost(&groups, &gauges, id(0)),
        IfLost { held: 2, lost: 0, exposed: 2, heals: 1, homeless: 1 }
    );
}

/// The largest pool, filled by `alloc`: first with room for all that one member holds, then with a little less.
#[test]
fn the_largest_pool_is_counted_in_groups() {
    let room = |i| Room { member: id(i), free: 2000, total: 2000, in_stripe: 0, lot: 0 };
    let mut rooms: Vec<Room> = (0..64).map(room).collect();
    let mut slots: Vec<Copies> = Vec::new();
    for number in 0..50_000_u32 {
        rooms.iter_mut().for_each(|r| r.lot = lot(VolumeId(1), SlotIndex(number), r.member));
        let chosen = choose(&rooms, if number % 5 == 0 { 3 } else { 2 }).expect("room");
        chosen.iter().for_each(|m| rooms[usize::from(m.0)].free -= 1);
        let copy = |member: MemberId| Copy { member, extent: ExtentIndex(number) };
        slots.push(chosen.into_iter().map(copy).collect());
    }
    let groups = groups(slots.iter(), |copies| copies.iter().map(|c| c.member).collect());
    for (free, homeless) in [(u32::MAX, false), (10, true)] {
        let gauge = |r: &Room| Gauge { member: r.member, standing: Standing::InSync, free: r.free.min(free) };
        let gauges: Vec<Gauge> = rooms.iter().map(gauge).collect();
        for gauge in &gauges {
            let found = if_lost(&groups, &gauges, gauge.member);
            let places: u64 = gauges.iter().map(|g| u64::from(g.free)).sum::<u64>() - u64::from(gauge.free);
            assert_eq!((found.heals, found.lost), (found.held.min(places), 0));
            assert_eq!(found.homeless > 0, homeless);
        }
    }
}

#[test]
fn times_are_rounded_up_and_unknown_without_a_rate() {
    assert_eq!((seconds(0, 60), seconds(61, 60), seconds(5, 0)), (Some(0), Some(2), None));
}
