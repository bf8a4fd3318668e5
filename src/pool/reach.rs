//! Which copies of a region hold what was written: they may be read, and must be written.
//!
//! - Copies on members in sync.
//! - Where none of a slot's members is in sync, those of the highest rank: nothing was written without them. A slot
//!   with a single copy is the plain case of this.
//! - Copies on members being resynced, in regions that they do not lack. They alone are not enough for a write: the
//!   next opening could not tell that they have it.

use super::member::Member;
use super::planted::{Planted, is_planted};
use super::redundancy::mirror::{Copies, Copy};
use super::region::{Incoming, Placement};
use super::shared::Shared;
use super::state::Rank;
use crate::base::units::{MemberId, RegionIndex};
use crate::disk::{Disk, Patience};
use smallvec::SmallVec;
use std::sync::Arc;

/// A copy that can be reached.
#[derive(Clone)]
pub struct Reached {
    pub copy: Copy,
    pub member: Arc<Member>,
}

impl Reached {
    pub fn disk(&self) -> &Arc<Disk> {
        self.member.disk.as_ref().expect("only members that are there are reached")
    }
}

/// The copies of a region that hold what was written.
pub struct Reach {
    pub copies: SmallVec<[Reached; 3]>,
    /// Some copy misses what is written now.
    pub degraded: bool,
    /// A copy of the highest rank is among them.
    pub writable: bool,
    /// A copy being made, and the blocks below which it is written. It counts for nothing yet.
    pub incoming: Option<Box<(Reached, u32)>>,
}

impl Reach {
    /// How long is waited for one of these copies: shorter where another is enough without it.
    pub fn patience(&self, reached: &Reached) -> Patience {
        let others = self.copies.iter().filter(|c| c.copy != reached.copy);
        // A member in sync leaves with the highest rank: only others in sync are worth as much without it.
        let enough = |c: &Reached| c.member.is_in_sync() || c.member.rank() > reached.member.rank();
        if others.into_iter().any(enough) { Patience::Peers } else { Patience::Alone }
    }

    /// All that is written where a write begins at this block of the region.
    pub fn written_from(&self, block: u32) -> impl Iterator<Item = &Reached> {
        let incoming = self.incoming.iter().filter(move |incoming| block < incoming.1);
        self.copies.iter().chain(incoming.map(|incoming| &incoming.0))
    }

    /// All that is told what concerns the whole region.
    pub fn all(&self) -> impl Iterator<Item = &Reached> {
        self.copies.iter().chain(self.incoming.iter().map(|incoming| &incoming.0))
    }
}

impl Shared {
    /// The copies of a region that hold what was written to it.
    pub fn reach(&self, placement: &Placement, region: RegionIndex) -> Reach {
        let members = self.members.load();
        let of = |copy: &Copy| members.get(&copy.member).expect("placements name members of the pool");
        let mut reach = Reach { copies: SmallVec::new(), degraded: false, writable: true, incoming: None };
        for copy in &placement.copies {
            let member = of(copy);
            if member.is_in_sync() {
                reach.copies.push(Reached { copy: *copy, member: member.clone() });
            } else {
                reach.degraded = true;
            }
        }
        if reach.degraded {
            self.reach_others(placement, region, &mut reach);
        }
        if let Some(Incoming { copy, upto, .. }) = placement.incoming {
            let member = of(&copy).clone();
            if member.is_in_sync() {
                reach.incoming = Some(Box::new((Reached { copy, member }, upto)));
            }
        }
        reach
    }

    /// Adds the copies on members that are not in sync, as far as they can be believed.
    fn reach_others(&self, placement: &Placement, region: RegionIndex, reach: &mut Reach) {
        let in_sync = !reach.copies.is_empty();
        let top = self.top_rank(&placement.copies);
        for copy in &placement.copies {
            let member = self.member(copy.member);
            if member.is_in_sync() || member.disk.is_none() {
                continue;
            }
            let number = member.layout.region_number(copy.extent, region);
            if !in_sync && leads(&placement.copies, &member, top)
                || (member.has(number..number + 1) || is_planted(self, Planted::ReadStaleCopy))
                    && !(in_sync && is_planted(self, Planted::ResyncWithoutWriteThrough))
            {
                reach.copies.push(Reached { copy: *copy, member });
            }
        }
        reach.degraded = reach.copies.len() < placement.copies.len();
        reach.writable = in_sync || reach.copies.iter().any(|r| leads(&placement.copies, &r.member, top));
    }

    fn top_rank(&self, copies: &Copies) -> Rank {
        let counts = |m: &Arc<Member>| m.disk.is_some() || !is_planted(self, Planted::LoneReturnServed);
        copies
            .iter()
            .map(|c| self.member(c.member))
            .filter(counts)
            .map(|m| m.rank())
            .max()
            .unwrap_or_default()
    }

    /// The members that are there and without which nothing was written to a slot.
    pub fn authorities(&self, copies: &Copies) -> SmallVec<[MemberId; 3]> {
        let top = self.top_rank(copies);
        let holds = |m: &Member| m.disk.is_some() && leads(copies, m, top);
        copies.iter().map(|c| c.member).filter(|m| holds(&self.member(*m))).collect()
    }

    /// Whether a slot cannot be written without this member.
    pub fn is_sole_authority(&self, copies: &Copies, member: MemberId) -> bool {
        self.authorities(copies)[..] == [member]
    }

    /// The members that hold all of a slot.
    pub fn holders(&self, copies: &Copies) -> SmallVec<[MemberId; 3]> {
        let top = self.top_rank(copies);
        let holds = |copy: &&Copy| {
            let member = self.member(copy.member);
            let first = member.layout.region_number(copy.extent, RegionIndex(0));
            let regions = first..first + u64::from(self.regions_per_slot());
            member.disk.is_some() && (leads(copies, &member, top) || member.has(regions))
        };
        copies.iter().filter(holds).map(|c| c.member).collect()
    }
}

/// Whether a member has all that was written to these copies: it left last, and holds what it had then. What only an old
/// image has is used where there never was another copy (known gap 2 of docs/consistency.md).
fn leads(copies: &Copies, member: &Member, top: Rank) -> bool {
    member.rank() == top && (copies.len() == 1 || !member.lacks_all())
}
