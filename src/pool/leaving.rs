//! Whether a member can be taken out of a pool: the others must hold all that is stored, its copies on different members.
//! Pure.
//!
//! Everything can be moved, so that only sums count. Of slots of c copies, at most min(c, j) copies lie on j members; so
//! at most that many for all slots, and what the other members have room for, find a place, for every j. Where the j
//! members are the largest ones this is least, and then that many do find one (the cut that limits a flow).

use super::alloc::usable;
use super::error::PoolError;
use super::state::{FreeExtents, MemberState, SlotRecord, State, VolumeRecord};
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
    let rooms: Vec<u32> = others.map(|(_, m)| m.extents).collect();
    let most = |v: &VolumeRecord| v.slots.values().map(|s| s.copies.len()).max().unwrap_or(0);
    let stored = state.volumes.values().map(most).max().unwrap_or(0);
    let promised = state.volumes.values().map(|v| v.copies).chain([state.copies]).max().unwrap_or(1);
    let copies = promised.max(u8::try_from(stored).unwrap_or(u8::MAX));
    if rooms.len() < usize::from(copies) {
        return Err(PoolError::TooFewWithout { name, copies, drives: rooms.len() });
    }
    let held = state.extents_in_use().filter(|(copy, _, _)| copy.member == leaving).count() as u64; // widening
    let homeless = Fit::new(rooms.iter().map(|room| u64::from(*room)).collect(), state).homeless();
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

/// What is stored, and the members that are to hold it.
pub struct Fit {
    /// Extents of these members, the largest first.
    rooms: Vec<u64>,
    /// Slots with 1, 2 and 3 copies.
    slots: [u64; COPIES_MAX],
}

impl Fit {
    /// With all copies that slots have, and those that they are to get.
    fn new(rooms: Vec<u64>, state: &State) -> Fit {
        Fit::count(rooms, state, |volume, slot| slot.copies.len().max(usize::from(volume.copies)))
    }

    /// With the copies that slots are to have, in the end.
    pub fn promised(rooms: Vec<u64>, state: &State) -> Fit {
        Fit::count(rooms, state, |volume, _| usize::from(volume.copies))
    }

    fn count(
        mut rooms: Vec<u64>,
        state: &State,
        copies: impl Fn(&VolumeRecord, &SlotRecord) -> usize,
    ) -> Fit {
        rooms.sort_unstable_by_key(|room| std::cmp::Reverse(*room));
        let mut slots = [0; COPIES_MAX];
        for volume in state.volumes.values() {
            volume.slots.values().for_each(|slot| slots[copies(volume, slot) - 1] += 1);
        }
        Fit { rooms, slots }
    }

    /// What is to be held without the members that leave; None if none does.
    pub fn of(state: &State, free: &FreeExtents) -> Option<Fit> {
        let stays = state.members.iter().filter(|(id, m)| m.counts(free.in_use(**id)));
        let rooms = stays.map(|(_, m)| u64::from(m.extents)).collect();
        state.members.values().any(|m| m.leaving).then(|| Fit::new(rooms, state))
    }

    /// Copies that have no place, however they lie.
    pub fn homeless(&self) -> u64 {
        let beyond = |j: usize| {
            let room: u64 = self.rooms.iter().skip(j).sum();
            let of = |(copies, count): (usize, u64)| count * copies.saturating_sub(j) as u64; // widening
            let copies: u64 = (1..).zip(self.slots).map(of).sum();
            copies.saturating_sub(room)
        };
        (0..=COPIES_MAX).map(beyond).max().unwrap_or(0)
    }

    /// Whether one more slot of so many copies leaves room for all that is to be moved. If so it counts from here on. Where
    /// there is none already, since a member was lost, nothing is refused on that account.
    pub fn admits(&mut self, copies: usize) -> bool {
        let before = self.homeless();
        self.slots[copies - 1] += 1;
        let admitted = before > 0 || self.homeless() == 0;
        if !admitted {
            self.slots[copies - 1] -= 1;
        }
        admitted
    }

    /// How many more slots of so many copies there is room for.
    pub fn spare(&self, copies: usize) -> u64 {
        let fits = |more: u64| {
            let mut slots = self.slots;
            slots[copies - 1] += more;
            Fit { rooms: self.rooms.clone(), slots }.homeless() == 0
        };
        let (mut low, mut high): (u64, u64) = (0, self.rooms.iter().sum());
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        low
    }
}

#[cfg(test)]
mod tests;
