//! What slots lack and have too many, what goes first, and the refusals with their numbers.

use super::super::balance::{fill, pool};
use super::*;
use crate::base::size::show_size;
use crate::pool::state::{Absence, Rank};

const MIB: u64 = 1 << 20;
const DATA: VolumeId = VolumeId(0);

fn set(state: &mut State, copies: u8) {
    state.volumes.get_mut(&DATA).unwrap().copies = copies;
}

fn out(state: &mut State, member: u16, standing: MemberState, left: u64) {
    let record = state.members.get_mut(&MemberId(member)).unwrap();
    let rank = Rank { left, kept: left };
    (record.state, record.absence) = (standing, Absence { rank, ..Absence::default() });
}

/// One slot with copies on these members.
fn one(members: &[u16], copies: u8) -> State {
    let mut state = pool(&[100, 100, 100, 100]);
    fill(&mut state, 1, 1, 4);
    let slot = state.volumes.get_mut(&DATA).unwrap().slots.get_mut(&SlotIndex(0)).unwrap();
    let extent = slot.copies[0].extent;
    slot.copies = members.iter().map(|m| Copy { member: MemberId(*m), extent }).collect();
    set(&mut state, copies);
    state
}

/// The member whose copy goes.
fn goes(state: &State) -> Option<u16> {
    that_goes(state, |_| 1, DATA, SlotIndex(0)).map(|copy| copy.member.0)
}

fn free(state: &State) -> FreeExtents {
    FreeExtents::of(state).unwrap()
}

#[test]
fn slots_with_the_fewest_copies_get_theirs_first_and_those_with_the_most_lose_theirs_first() {
    let mut state = pool(&[100, 100, 100]);
    fill(&mut state, 1, 2, 3);
    assert_eq!((lacking(&state), surplus(&state)), (vec![], vec![]));
    set(&mut state, 3);
    let slots = |tasks: Vec<Task>| tasks.iter().map(|t| t.slot.0).collect::<Vec<u32>>();
    assert_eq!(slots(lacking(&state)), [0, 1, 0, 1], "each gets its second one before any gets its third");
    let spare = Copy { member: MemberId(9), extent: crate::base::units::ExtentIndex(0) };
    let record = state.volumes.get_mut(&DATA).unwrap();
    record.slots.get_mut(&SlotIndex(1)).unwrap().copies.push(spare);
    assert_eq!(slots(lacking(&state)), [0, 0, 1]);
    set(&mut state, 1);
    assert_eq!((slots(lacking(&state)), slots(surplus(&state))), (vec![], vec![1]));
}

#[test]
fn a_copy_is_added_only_where_nothing_is_lacking() {
    let mut state = one(&[0, 1], 3);
    assert!(may_grow(&state, DATA, SlotIndex(0)));
    out(&mut state, 2, MemberState::Missing, 5);
    assert!(may_grow(&state, DATA, SlotIndex(0)), "who has no copy of it is in nobody's way");
    out(&mut state, 2, MemberState::Rebuilding, 5);
    assert!(!may_grow(&state, DATA, SlotIndex(0)));
    let mut state = one(&[0, 1], 3);
    out(&mut state, 1, MemberState::Missing, 5);
    assert!(!may_grow(&state, DATA, SlotIndex(0)));
    assert!(!may_grow(&one(&[0, 1], 2), DATA, SlotIndex(0)), "it was set back");
}

#[test]
fn what_is_out_of_sync_goes_first_and_the_last_one_in_sync_never() {
    assert_eq!(goes(&one(&[0, 1], 2)), None);
    for (standing, wanted) in [
        (MemberState::Missing, Some(0)),
        (MemberState::Faulted, Some(0)),
        (MemberState::Rebuilding, Some(0)),
        (MemberState::Resyncing, None),
    ] {
        let mut state = one(&[0, 1], 1);
        out(&mut state, 0, standing, 5);
        assert_eq!(goes(&state), wanted, "{standing:?}");
        out(&mut state, 1, MemberState::Missing, 6);
        assert_eq!(goes(&state), None, "nobody has all of it");
    }
    let mut state = one(&[0, 1, 2], 2);
    out(&mut state, 0, MemberState::Missing, 9);
    out(&mut state, 1, MemberState::Missing, 5);
    assert_eq!(goes(&state), Some(1), "who left first misses most");
}

#[test]
fn of_copies_in_sync_one_goes_from_a_drive_that_leaves_or_that_is_filled_most() {
    let mut state = one(&[0, 1, 2], 2);
    let used = |member: MemberId| [10, 40, 30, 0][usize::from(member.0)];
    let from = |state: &State| that_goes(state, used, DATA, SlotIndex(0)).unwrap().member.0;
    assert_eq!(from(&state), 1);
    state.members.get_mut(&MemberId(2)).unwrap().extents = 60;
    assert_eq!(from(&state), 2);
    state.members.get_mut(&MemberId(0)).unwrap().leaving = true;
    assert_eq!(from(&state), 0);
}

#[test]
fn more_copies_need_drives_and_room() {
    let mut state = pool(&[100, 60, 100]);
    fill(&mut state, 1, 100, 3);
    let check = |state: &State, copies| check(state, DATA, copies, true, &free(state));
    assert!(check(&state, 2).is_ok());
    let error = check(&state, 3).unwrap_err();
    // Of a hundred slots sixty have a copy on each.
    assert!(
        matches!(&error, PoolError::NoRoomForCopies { needed, short, .. }
            if (needed.0, short.0) == (200 * MIB, 40 * MIB)),
        "{error}"
    );
    assert!(error.to_string().contains(&show_size(ByteLen(40 * MIB))), "{error}");
    out(&mut state, 2, MemberState::Missing, 5);
    let error = check(&state, 3).unwrap_err().to_string();
    assert_eq!(error, "3 copies need 3 drives in sync, and the pool has 2");
    assert!(check(&state, 4).is_err() && check(&state, 0).is_err());
}

#[test]
fn one_copy_has_to_be_meant() {
    let mut state = pool(&[100, 100, 200]);
    fill(&mut state, 2, 40, 3);
    let error = check(&state, DATA, 1, false, &free(&state)).unwrap_err();
    let PoolError::WouldBeUnprotected { stored, lost, .. } = &error else { panic!("{error}") };
    // In proportion the largest keeps half of it.
    assert_eq!(stored.0, 40 * MIB);
    assert!((18..=22).contains(&(lost.0 / MIB)), "{error}");
    assert!(check(&state, DATA, 1, true, &free(&state)).is_ok());
    set(&mut state, 1);
    assert!(check(&state, DATA, 1, false, &free(&state)).is_ok(), "it is that already");
    assert!(check(&state, DATA, 2, false, &free(&state)).is_ok(), "setting it back takes no room");
}
