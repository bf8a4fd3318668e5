//! Whether a member can be taken out of a pool: the others must hold all that is stored, its copies on different members.
//! Pure.
//!
//! Everything can be moved, so that only sums count. Of slots of c copies, at most min(c, j) copies lie on j members; so
//! at most that many for all slots, and what the other members have room for, find a place, for every j. Where the j
//! members are the largest ones this is least, and then that many do find one (the cut that limits a flow).

use super::alloc::usable;
use super::error::PoolError;
use super::state::{MemberState, State};
use crate::base::limits::COPIES_MAX;
use crate::base::units::{ByteLen, MemberId};

/// What it means to take a member out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Departure {
    /// Bytes of the copies that lie on it.
    pub held: ByteLen,
    /// Bytes that volumes of the pool's default copies could have without it, if nothing were stored.
    pub usable: ByteLen,
}

/// What a pool would be without this member.
///
/// # Errors
/// Why it cannot be taken out, with the numbers.
pub fn departure(state: &State, leaving: MemberId) -> Result<Departure, PoolError> {
    let record =
        state.members.get(&leaving).ok_or_else(|| PoolError::Invalid("there is no such drive".to_owned()))?;
    let name = record.name.clone();
    if record.state != MemberState::Active {
        return Err(PoolError::Invalid(format!(
            "{name} is not in sync, so that nothing can be moved from it"
        )));
    }
    if let Some(behind) = out_of_sync(state) {
        return Err(PoolError::NotWhole { name, behind });
    }
    let others = state
        .members
        .iter()
        .filter(|(id, m)| **id != leaving && !m.leaving && m.state == MemberState::Active);
    let mut rooms: Vec<u32> = others.map(|(_, m)| m.extents).collect();
    let copies = state.volumes.values().map(|v| v.copies).chain([state.copies]).max().unwrap_or(1);
    if rooms.len() < usize::from(copies) {
        return Err(PoolError::TooFewWithout { name, copies, drives: rooms.len() });
    }
    let held = state.extents_in_use().filter(|(copy, _, _)| copy.member == leaving).count() as u64; // widening
    let homeless = homeless(state, &mut rooms);
    let bytes = |extents: u64| ByteLen(extents * state.extent.0);
    if homeless > 0 {
        let fits = bytes(held.saturating_sub(homeless));
        return Err(PoolError::NoRoomWithout { name, held: bytes(held), fits, short: bytes(homeless) });
    }
    Ok(Departure { held: bytes(held), usable: bytes(usable(&rooms, state.copies)) })
}

/// A member that is out of sync while it counts for something.
fn out_of_sync(state: &State) -> Option<String> {
    let out = state.members.iter().find(|(id, m)| match m.state {
        MemberState::Active | MemberState::Suspect | MemberState::Removed => false,
        MemberState::Resyncing => true,
        MemberState::Missing | MemberState::Stale | MemberState::Rebuilding | MemberState::Faulted => {
            state.holds_copies(**id)
        }
    });
    out.map(|(_, m)| m.name.clone())
}

/// Copies that have no place on members of so many extents, however they lie.
fn homeless(state: &State, rooms: &mut [u32]) -> u64 {
    rooms.sort_unstable_by_key(|room| std::cmp::Reverse(*room));
    let mut slots = [0u64; COPIES_MAX];
    let records = state.volumes.values().flat_map(|v| v.slots.values());
    records.for_each(|slot| slots[slot.copies.len() - 1] += 1);
    let beyond = |j: usize| {
        let room: u64 = rooms.iter().skip(j).map(|room| u64::from(*room)).sum();
        let of = |(copies, count): (usize, u64)| count * copies.saturating_sub(j) as u64; // widening
        let copies: u64 = (1..).zip(slots).map(of).sum();
        copies.saturating_sub(room)
    };
    (0..=COPIES_MAX).map(beyond).max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
