//! Plans that fill members in proportion: few moves, copies on different members, slots side by side on different pairs.

use super::super::alloc::{Room, choose, lot};
use super::super::redundancy::mirror::Copy;
use super::super::state::{Absence, FreeExtents, MemberRecord, MemberState, SlotRecord, VolumeRecord};
use super::*;
use crate::base::units::{ByteLen, ExtentIndex};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

fn member(extents: u32) -> MemberRecord {
    MemberRecord {
        uuid: Uuid::from_u128(u128::from(extents)),
        size: ByteLen(u64::from(extents) << 20),
        extents,
        state: MemberState::Active,
        leaving: false,
        absence: Absence::default(),
        name: String::new(),
    }
}

fn id(i: usize) -> MemberId {
    MemberId(u16::try_from(i).unwrap())
}

pub fn pool(extents: &[u32]) -> State {
    State {
        pool: Uuid::nil(),
        name: "tank".to_owned(),
        extent: ByteLen(1 << 20),
        copies: 2,
        clean: false,
        spreading: false,
        forced: false,
        lineage: Vec::new(),
        scrubs: Default::default(),
        members: extents.iter().enumerate().map(|(i, e)| (id(i), member(*e))).collect(),
        next_member: id(extents.len()),
        volumes: BTreeMap::new(),
        next_volume: 0,
    }
}

/// A volume of so many slots on the first members, placed as the pool places them.
pub fn fill(state: &mut State, copies: u8, slots: u32, on: usize) -> u32 {
    let volume = VolumeRecord {
        uuid: Uuid::nil(),
        name: format!("v{}", state.next_volume),
        size: ByteLen(u64::from(slots) << 20),
        copies,
        unit: ByteLen(128 << 10),
        checksums: true,
        lba_bytes: 512,
        reservations: Arc::default(),
        segments: Vec::new(),
        slots: BTreeMap::new(),
    };
    let mut free = FreeExtents::of(state).unwrap();
    let mut placed = BTreeMap::new();
    for slot in 0..slots {
        let room = |(member, record): (&MemberId, &MemberRecord)| {
            let (free, total) = (free.free(*member), record.extents);
            Room {
                member: *member,
                free,
                total,
                in_stripe: 0,
                lot: lot(VolumeId(1), SlotIndex(slot), *member),
            }
        };
        let rooms: Vec<Room> = state.members.iter().take(on).map(room).collect();
        let Some(chosen) = choose(&rooms, copies) else { break };
        let copies = chosen.into_iter().map(|m| Copy { member: m, extent: free.take(m).unwrap() }).collect();
        placed.insert(SlotIndex(slot), SlotRecord { stamp: 1, copies });
    }
    let count = u32::try_from(placed.len()).unwrap();
    state.volumes.insert(VolumeId(state.next_volume), VolumeRecord { slots: placed, ..volume });
    state.next_volume += 1;
    count
}

/// Does what a plan says; every step must be possible.
fn follow(state: &mut State, moves: &[Move]) -> Result<(), TestCaseError> {
    for Move { volume, slot, from, to } in moves {
        let record = state.volumes.get_mut(volume).unwrap().slots.get_mut(slot).unwrap();
        prop_assert!(record.copies.iter().all(|c| c.member != *to), "two copies on {to:?}");
        let copy = record.copies.iter_mut().find(|c| c.member == *from);
        prop_assert!(copy.is_some(), "no copy on {from:?}");
        // Extents are numbered by whoever reserves them; here only their number counts.
        *copy.unwrap() = Copy { member: *to, extent: ExtentIndex(0) };
    }
    Ok(())
}

fn used(state: &State) -> Vec<u64> {
    let mut used = vec![0; state.members.len()];
    state.extents_in_use().for_each(|(copy, _, _)| used[usize::from(copy.member.0)] += 1);
    used
}

fn wanted(state: &State) -> Vec<u64> {
    let totals: Vec<u64> = state.members.values().map(|m| u64::from(m.extents)).collect();
    let mut slots = [0; COPIES_MAX];
    let records = state.volumes.values().flat_map(|v| v.slots.values());
    records.for_each(|r| slots[r.copies.len() - 1] += 1);
    targets(&totals, slots)
}

#[test]
fn targets_are_shares_as_far_as_copies_on_different_members_allow() {
    assert_eq!(targets(&[100, 100, 100, 100], [0, 40, 0]), [20, 20, 20, 20]);
    assert_eq!(targets(&[100, 300], [40, 0, 0]), [10, 30]);
    // A quarter and three quarters of the copies would be two copies of most slots on the larger one.
    assert_eq!(targets(&[100, 300], [0, 40, 0]), [40, 40]);
    assert_eq!(targets(&[80, 500, 500], [0, 108, 0]), [16, 100, 100]);
    assert_eq!(targets(&[10, 10, 1000, 100], [0, 60, 0]), [5, 5, 60, 50]);
    assert_eq!(targets(&[100, 100, 100], [0, 0, 7]), [7, 7, 7]);
    assert_eq!(targets(&[100, 100, 100], [1, 0, 0]), [1, 0, 0]);
    assert_eq!(targets(&[], [0, 0, 0]), [0u64; 0]);
}

#[test]
fn what_a_new_drive_gets_comes_from_all_others_and_nothing_more_is_moved() {
    let mut state = pool(&[300, 300, 600]);
    assert_eq!(fill(&mut state, 2, 200, 2), 200);
    let moves = plan(&state);
    assert_eq!(used(&state), [200, 200, 0]);
    follow(&mut state, &moves).unwrap();
    assert_eq!((used(&state), moves.len()), (vec![100, 100, 200], 200));
    assert!(is_even(&state) && plan(&state).is_empty());
}

#[test]
fn members_out_of_sync_and_what_lies_on_them_stay_as_they_are() {
    let mut state = pool(&[300, 300, 300, 300]);
    fill(&mut state, 2, 100, 3);
    state.members.get_mut(&id(0)).unwrap().state = MemberState::Faulted;
    let moves = plan(&state);
    assert!(!moves.is_empty());
    for Move { volume, slot, from, to } in &moves {
        let copies = &state.volumes[volume].slots[slot].copies;
        assert!(![*from, *to].contains(&id(0)) && copies.iter().all(|c| c.member != id(0)));
    }
}

#[test]
fn slots_side_by_side_come_to_lie_on_different_pairs() {
    let mut state = pool(&[1000, 1000, 1000, 1000]);
    fill(&mut state, 2, 800, 2);
    let moves = plan(&state);
    follow(&mut state, &moves).unwrap();
    let slots = &state.volumes[&VolumeId(0)].slots;
    let pair = |slot: u32| {
        let mut pair: Vec<MemberId> = slots[&SlotIndex(slot)].copies.iter().map(|c| c.member).collect();
        pair.sort();
        pair
    };
    for first in (0..800).step_by(16) {
        let mut pairs: Vec<_> = (first..first + 16).map(pair).collect();
        pairs.sort();
        pairs.dedup();
        assert!(pairs.len() >= 3, "slots from {first} on lie on {pairs:?}");
    }
}

/// A plan for a pool of a million slots: with a second look at every slot for each move this would not end.
#[test]
fn a_million_slots_are_planned_in_a_few_passes() {
    let mut state = pool(&[1_200_000, 1_200_000, 1_200_000, 400_000]);
    let slot = |n: u32| {
        let copy = |i: u32| Copy { member: id(i as usize), extent: ExtentIndex(n) };
        (SlotIndex(n), SlotRecord { stamp: 1, copies: [copy(0), copy(1)].into_iter().collect() })
    };
    fill(&mut state, 2, 0, 2);
    state.volumes.get_mut(&VolumeId(0)).unwrap().slots = (0..1_000_000).map(slot).collect();
    let moves = plan(&state);
    assert_eq!(moves.len(), 800_000);
}

/// Sizes up to a hundred to one.
fn sizes() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![8u32..40, 40u32..200, 200u32..800], 2..=24)
}

/// No plan has fewer moves: what a member has too much moves once, and twice where those that lack something have a copy
/// of all that could move.
fn least(state: &State, used: &[u64], wanted: &[u64]) -> u64 {
    let has = |r: &SlotRecord, i: usize| r.copies.iter().any(|c| c.member == id(i));
    let records = || state.volumes.values().flat_map(|v| v.slots.values());
    let members = 0..used.len();
    let (over, under) =
        (|i: usize| used[i].saturating_sub(wanted[i]), |i: usize| wanted[i].saturating_sub(used[i]));
    let (mut out, mut kept_out) = (0, 0);
    for i in members.clone() {
        let gives = |r: &&SlotRecord| has(r, i) && members.clone().any(|j| under(j) > 0 && !has(r, j));
        out += over(i).saturating_sub(records().filter(gives).count() as u64);
        let takes = |r: &&SlotRecord| !has(r, i) && members.clone().any(|j| over(j) > 0 && has(r, j));
        kept_out += under(i).saturating_sub(records().filter(takes).count() as u64);
    }
    members.map(over).sum::<u64>() + out.max(kept_out)
}

/// `spare`: moves beyond those that the members' figures ask for, as a part of these, at most.
fn check(mut state: State, spare: u64) -> Result<(), TestCaseError> {
    let (before, wanted) = (used(&state), wanted(&state));
    let needed = least(&state, &before, &wanted);
    let moves = plan(&state);
    follow(&mut state, &moves)?;
    let after = used(&state);
    for (i, record) in state.members.values().enumerate() {
        let off = after[i].abs_diff(wanted[i]);
        let allowed = u64::from(record.extents / 50).max(1);
        prop_assert!(off <= allowed, "{before:?} became {after:?}, wanted {wanted:?}");
        prop_assert!(after[i] <= u64::from(record.extents));
    }
    prop_assert!(is_even(&state));
    // In a pool of a few extents one that goes round is much.
    let most = needed + (needed / spare).max(10);
    prop_assert!(
        moves.len() as u64 <= most,
        "{} moves, {needed} would do: {before:?} {wanted:?}",
        moves.len()
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn members_are_filled_in_proportion_by_few_moves(
        sizes in sizes(),
        first in 1usize..24,
        volumes in prop::collection::vec((1u8..=3, 1u32..3000), 1..4),
    ) {
        let mut state = pool(&sizes);
        for (copies, slots) in volumes {
            let on = first.clamp(usize::from(copies).min(sizes.len()), sizes.len());
            fill(&mut state, copies, slots, on);
        }
        check(state, 10)?;
    }

    #[test]
    fn wherever_the_copies_lie_before_even_where_the_pool_does_not_place_them(
        sizes in sizes(),
        copies in 1usize..=3,
        lots in prop::collection::vec(any::<u32>(), 1..2000),
    ) {
        let mut state = pool(&sizes);
        let mut free = FreeExtents::of(&state).unwrap();
        fill(&mut state, 1, 0, 1);
        for (slot, lot) in (0u32..).zip(lots) {
            let start = lot as usize % sizes.len();
            let order = (0..sizes.len()).map(|i| id((start + i * (1 + lot as usize / 97 % 5)) % sizes.len()));
            let mut held: Vec<Copy> = Vec::new();
            for member in order {
                if held.len() < copies && held.iter().all(|c| c.member != member) && free.free(member) > 0 {
                    held.push(Copy { member, extent: free.take(member).unwrap() });
                }
            }
            if held.len() == copies.min(sizes.len()) {
                let record = SlotRecord { stamp: 1, copies: held.into_iter().collect() };
                state.volumes.get_mut(&VolumeId(0)).unwrap().slots.insert(SlotIndex(slot), record);
            }
        }
        check(state, 1)?;
    }
}

/// Some members with volumes of one, two and three copies that fit without the first one.
fn leaves(state: &mut State, member: usize) {
    let change = super::super::state::Change::MemberLeaving { member: id(member), leaving: true };
    state.apply(2, &change).unwrap();
}

#[test]
fn what_lies_on_a_member_that_leaves_goes_to_the_new_one_and_nothing_else_is_moved() {
    let mut state = pool(&[300, 300, 300]);
    assert_eq!(fill(&mut state, 2, 150, 3), 150);
    state.members.insert(id(3), member(300));
    leaves(&mut state, 1);
    let moves = plan(&state);
    assert_eq!(moves.len(), 100);
    assert!(moves.iter().all(|m| (m.from, m.to) == (id(1), id(3))), "{moves:?}");
    assert!(!is_even(&state));
    follow(&mut state, &moves).unwrap();
    assert_eq!((used(&state), to_leave(&state)), (vec![100, 0, 100, 100], 0));
    assert!(is_even(&state) && plan(&state).is_empty());
}

#[test]
fn what_leaves_moves_before_what_only_spreads() {
    let mut state = pool(&[300, 300, 300]);
    fill(&mut state, 2, 200, 3);
    state.members.insert(id(3), member(600));
    leaves(&mut state, 0);
    let moves = plan(&state);
    let first = moves.iter().take_while(|m| m.from == id(0)).count();
    assert_eq!(u64::try_from(first).unwrap(), to_leave(&state));
    assert!(moves.len() > first, "the others give to the new one, too");
    assert_eq!(plan_departures(&state), moves[..first]);
    follow(&mut state, &moves).unwrap();
    assert_eq!(used(&state)[0], 0);
}

proptest! {
    #[test]
    fn a_member_that_leaves_has_nothing_in_the_end(
        extents in prop::collection::vec(5u32..60, 4..8),
        slots in prop::array::uniform3(0u32..30),
        leaving in 0usize..4,
    ) {
        let mut state = pool(&extents);
        let members = extents.len();
        (1u8..).zip(slots).for_each(|(copies, slots)| { fill(&mut state, copies, slots, members); });
        state.copies = 1;
        prop_assume!(super::super::leaving::departure(&state, id(leaving)).is_ok());
        leaves(&mut state, leaving);
        // One pass after the other, as the pool does it.
        for _ in 0..6 {
            let moves = plan(&state);
            follow(&mut state, &moves)?;
            if to_leave(&state) == 0 {
                break;
            }
        }
        prop_assert_eq!(to_leave(&state), 0);
        let used = used(&state);
        for (used, extents) in used.iter().zip(&extents) {
            prop_assert!(*used <= u64::from(*extents), "{:?} of {:?}", used, extents);
        }
    }
}
