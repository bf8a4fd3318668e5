//! Who can be taken out: the sums against the flow of the meter, and the refusals with their numbers.

use super::super::balance::{fill, pool};
use super::super::meter::{Gauge, Group, Standing, if_lost};
use super::super::state::{Change, State};
use super::*;
use crate::base::size::show_size;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// Extents in use on a member.
fn held_by(state: &State, member: u16) -> u64 {
    state.extents_in_use().filter(|(copy, _, _)| copy.member == MemberId(member)).count() as u64
}

fn refusal(state: &State, member: u16) -> String {
    departure(state, MemberId(member)).unwrap_err().to_string()
}

#[test]
fn what_others_have_room_for_can_go_and_nothing_more() {
    let mut state = pool(&[100, 100, 100]);
    fill(&mut state, 2, 100, 3);
    let gone = departure(&state, MemberId(2)).unwrap();
    assert_eq!((gone.usable.0, gone.held.0 / MIB), (100 * MIB, held_by(&state, 2)));
    let mut full = pool(&[100, 100, 100]);
    fill(&mut full, 2, 101, 3);
    let error = departure(&full, MemberId(1)).unwrap_err();
    assert!(
        matches!(error, PoolError::NoRoomWithout { held, fits, short, .. }
            if (held.0 - fits.0, short.0) == (2 * MIB, 2 * MIB)),
        "{error}"
    );
    let [held, fits] = [0, 2].map(|short| show_size(ByteLen((held_by(&full, 1) - short) * MIB)));
    let said = format!(" holds {held}, and the other drives have room for {fits} of that");
    assert!(error.to_string().contains(&said), "{error}");
}

#[test]
fn copies_need_drives_and_all_others_must_be_whole() {
    assert!(refusal(&pool(&[100, 100]), 0).ends_with("there are 1 drives, and 2 copies need as many drives"));
    let mut state = pool(&[100, 100, 100]);
    state.copies = 1;
    fill(&mut state, 2, 10, 2);
    state.members.get_mut(&MemberId(2)).unwrap().state = MemberState::Missing;
    // One that is away and holds nothing is in nobody's way, and has no room.
    assert!(refusal(&state, 0).contains("there are 1 drives"), "{}", refusal(&state, 0));
    state.members.get_mut(&MemberId(1)).unwrap().state = MemberState::Stale;
    assert!(refusal(&state, 0).contains("while"), "{}", refusal(&state, 0));
    assert!(refusal(&state, 1).contains("not in sync"));
    assert_eq!(refusal(&state, 9), "there is no such drive");
}

#[test]
fn one_that_leaves_already_has_no_room_for_another() {
    let mut state = pool(&[100, 100, 100, 100]);
    fill(&mut state, 2, 100, 4);
    state.apply(2, &Change::MemberLeaving { member: MemberId(0), leaving: true }).unwrap();
    assert_eq!(departure(&state, MemberId(1)).unwrap().usable.0, 100 * MIB);
    state.apply(3, &Change::MemberLeaving { member: MemberId(1), leaving: true }).unwrap();
    assert!(refusal(&state, 2).contains("there are 1 drives"));
}

#[test]
fn nothing_new_comes_to_a_member_that_leaves_and_one_that_is_gone_is_not_known() {
    let mut state = pool(&[100, 100, 100]);
    fill(&mut state, 2, 3, 2);
    let slot = state.volumes.values().next().unwrap().slots.values().next().unwrap().clone();
    let (id, slot_index) = (crate::base::units::VolumeId(0), crate::base::units::SlotIndex(0));
    state.apply(2, &Change::MemberLeaving { member: MemberId(0), leaving: true }).unwrap();
    assert!(state.spreading);
    // The other copy moves: the one on the member that leaves stays for now.
    let mut copies = slot.copies.clone();
    copies.iter_mut().find(|c| c.member == MemberId(1)).unwrap().member = MemberId(2);
    state.clone().apply(3, &Change::SlotMoved { id, slot: slot_index, copies }).unwrap();
    let new = crate::base::units::SlotIndex(50);
    assert!(state.clone().apply(3, &Change::SlotAllocated { id, slot: new, copies: slot.copies }).is_err());
    let removed = |member| {
        let absence = crate::pool::state::Absence::default();
        Change::MemberState { member: MemberId(member), state: MemberState::Removed, absence }
    };
    assert!(state.clone().apply(3, &removed(0)).is_err(), "something lies on it");
    assert!(
        state.clone().apply(3, &Change::MemberGone { member: MemberId(2) }).is_err(),
        "it was not removed"
    );
    state.apply(3, &removed(2)).unwrap();
    assert_eq!(state.parting(), Some(MemberId(2)));
    state.apply(4, &Change::MemberGone { member: MemberId(2) }).unwrap();
    assert_eq!((state.members.len(), state.next_member, state.parting()), (2, MemberId(3), None));
}

#[test]
fn what_is_to_be_moved_keeps_its_room_while_slots_are_allocated() {
    let mut state = pool(&[100, 100, 100]);
    fill(&mut state, 2, 90, 3);
    let fit = |state: &State| Fit::of(state, &FreeExtents::of(state).unwrap());
    assert!(fit(&state).is_none(), "nobody leaves");
    state.apply(2, &Change::MemberLeaving { member: MemberId(0), leaving: true }).unwrap();
    let mut going = fit(&state).unwrap();
    assert_eq!([1, 2, 3].map(|copies| going.spare(copies)), [20, 10, 0]);
    assert_eq!((0..20).filter(|_| going.admits(2)).count(), 10);
    assert!(!going.admits(1));
    // Without another one there is no room anyway: that is no reason to refuse.
    state.members.get_mut(&MemberId(1)).unwrap().state = MemberState::Rebuilding;
    assert!(fit(&state).unwrap().admits(2));
}

proptest! {
    /// Everything stored lies on members that are gone, and the flow of the meter gives it new places.
    #[test]
    fn the_sums_are_the_flow(
        rooms in prop::collection::vec(0u32..30, 3..8), slots in prop::array::uniform3(0u64..25)
    ) {
        let mut state = pool(&[1000, 1000, 1000]);
        for (copies, count) in (1u8..).zip(slots) {
            fill(&mut state, copies, u32::try_from(count).unwrap(), 3);
        }
        let gone = |copies: u16| (100..100 + copies).map(MemberId).collect::<super::super::meter::Members>();
        let groups: Vec<Group> = (1u16..).zip(slots).map(|(copies, slots)| {
            Group { members: gone(copies), sources: gone(copies), slots }
        }).collect();
        let gauge = |(i, free): (u16, &u32)| Gauge { member: MemberId(i), standing: Standing::InSync, free: *free };
        let gauges: Vec<Gauge> = (0u16..).zip(&rooms).map(gauge).collect();
        let flow = if_lost(&groups, &gauges, MemberId(999));
        let rooms = rooms.iter().map(|room| u64::from(*room)).collect();
        prop_assert_eq!(Fit::new(rooms, &state).homeless(), flow.homeless);
    }
}
