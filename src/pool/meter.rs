//! The meter: what is protected, what is lost with each member, and what would be made again after that. Pure.
//!
//! Slots whose copies lie on the same members are alike, so that everything is counted for groups of them: as many as
//! there are sets of members in use, however many slots there are.
//!
//! Whether the copies that are lacking once a member is gone all find a new place is a flow: from each group, as many
//! units as copies it lacks, at most one for each slot to a member, to the members in sync that hold none of its
//! slots, at most as many as these have free extents. Units that a group gives to members, no member getting more than
//! there are slots, can always be dealt out so that no slot gives two to the same member: one after the other, round
//! and round. So the largest flow is exactly what can be placed. The rebuild itself (`rebuild.rs`) decides slot by
//! slot; where hardly anything is free it may place less.

use super::redundancy::mirror::Copies;
use crate::base::units::MemberId;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// What background copying is expected to reach before a rebuild has shown it, bytes per second: what one slow drive of
/// the kind does while it seeks, or while it is full.
const RATE_ROTATIONAL: u64 = 60_000_000;
const RATE_FLASH: u64 = 100_000_000;

/// What a member can do when another one is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// In sync: it takes new copies as far as it has room.
    InSync,
    /// There, but its copies are to be brought up to date first.
    Behind,
    /// Not there, or failed: its copies are to be made again, too.
    Gone,
}

/// A member as the meter sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gauge {
    pub member: MemberId,
    pub standing: Standing,
    /// Extents that new copies may take.
    pub free: u32,
}

pub type Members = SmallVec<[MemberId; 3]>;

/// Slots whose copies lie on the same members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// The members that have a copy, in order.
    pub members: Members,
    /// Those of them without which nothing was written: what they hold can be read and copied.
    pub sources: Members,
    pub slots: u64,
}

/// What the loss of a member would mean, in slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IfLost {
    /// Copies that lie on it.
    pub held: u64,
    /// Slots that have no other copy that can be read.
    pub lost: u64,
    /// Slots with several copies that would be left with one that can be read.
    pub exposed: u64,
    /// Copies that would be made again: of all slots that can be read still, those on members that are gone.
    pub heals: u64,
    /// Copies that would have no place on any member that has no copy of their slot.
    pub homeless: u64,
}

/// Slots with these copies in groups; `sources` tells who has all that was written to one with such copies.
pub fn groups<'a>(
    slots: impl Iterator<Item = &'a Copies>,
    sources: impl Fn(&Copies) -> Members,
) -> Vec<Group> {
    let mut found: BTreeMap<Members, (u64, &Copies)> = BTreeMap::new();
    for copies in slots {
        let mut members: Members = copies.iter().map(|c| c.member).collect();
        members.sort_unstable();
        found.entry(members).or_insert((0, copies)).0 += 1;
    }
    let group = |(members, (slots, copies))| Group { members, sources: sources(copies), slots };
    found.into_iter().map(group).collect()
}

/// Slots that can be read whichever member is lost.
pub fn protected(groups: &[Group]) -> u64 {
    groups.iter().filter(|g| g.sources.len() > 1).map(|g| g.slots).sum()
}

/// What happens if this member is lost now.
pub fn if_lost(groups: &[Group], gauges: &[Gauge], member: MemberId) -> IfLost {
    let mut found = IfLost::default();
    for group in groups.iter().filter(|g| g.members.contains(&member)) {
        found.held += group.slots;
        if group.sources.contains(&member) {
            match group.sources.len() {
                1 => found.lost += group.slots,
                2 if group.members.len() > 1 => found.exposed += group.slots,
                _ => {}
            }
        }
    }
    let rest: Vec<Gauge> = gauges.iter().copied().filter(|g| g.member != member).collect();
    let stays = |m: &MemberId| rest.iter().any(|g| g.member == *m && g.standing != Standing::Gone);
    let readable = groups.iter().filter(|g| g.sources.iter().any(|m| *m != member));
    let mut flow = Flow::new(&rest);
    for group in readable {
        let lacking = group.members.iter().filter(|m| !stays(m)).count() as u64; // widening
        let takes = |g: &Gauge| g.standing == Standing::InSync && !group.members.contains(&g.member);
        let to = rest.iter().enumerate().filter(|(_, g)| takes(g)).map(|(at, _)| at).collect();
        flow.add(Demand { to, slots: group.slots, units: lacking * group.slots });
    }
    (found.heals, found.homeless) = flow.run();
    found
}

/// How fast copies are expected to be made anew, bytes per second, where some drive rotates or none does.
pub fn rate_expected(rotational: bool) -> u64 {
    if rotational { RATE_ROTATIONAL } else { RATE_FLASH }
}

/// How long it takes to copy so many bytes, seconds, rounded up. None at a rate of zero.
pub fn seconds(bytes: u64, rate: u64) -> Option<u64> {
    (rate > 0).then(|| bytes.div_ceil(rate))
}

/// Copies that slots of a group lack.
struct Demand {
    /// Where they may go, as indices of members.
    to: Vec<usize>,
    /// At most so many to the same member.
    slots: u64,
    /// So many in all.
    units: u64,
}

/// Copies on their way to free extents.
struct Flow {
    demands: Vec<Demand>,
    /// What of each demand has no place yet.
    left: Vec<u64>,
    /// What each demand gives to each member.
    given: Vec<Vec<u64>>,
    /// Free extents of each member.
    room: Vec<u64>,
}

impl Flow {
    fn new(members: &[Gauge]) -> Flow {
        let room = |g: &Gauge| if g.standing == Standing::InSync { u64::from(g.free) } else { 0 };
        let room = members.iter().map(room).collect();
        Flow { demands: Vec::new(), left: Vec::new(), given: Vec::new(), room }
    }

    fn add(&mut self, demand: Demand) {
        if demand.units > 0 {
            self.demands.push(demand);
        }
    }

    /// Units that find a place, and units that find none.
    fn run(&mut self) -> (u64, u64) {
        // Who has least choice comes first: then there is seldom something to be put right.
        self.demands.sort_by_key(|d| d.to.len());
        self.left = self.demands.iter().map(|d| d.units).collect();
        self.given = vec![vec![0; self.room.len()]; self.demands.len()];
        for demand in 0..self.demands.len() {
            self.give(demand);
        }
        while let Some(path) = self.path() {
            self.shift(&path);
        }
        let homeless: u64 = self.left.iter().sum();
        let units: u64 = self.demands.iter().map(|d| d.units).sum();
        (units - homeless, homeless)
    }

    /// Gives what a demand has to the members with most room.
    fn give(&mut self, demand: usize) {
        let Demand { to, slots, .. } = &self.demands[demand];
        let mut to = to.clone();
        to.sort_by_key(|m| (std::cmp::Reverse(self.room[*m]), *m));
        for member in to {
            let units = self.left[demand].min(*slots).min(self.room[member]);
            self.given[demand][member] += units;
            self.left[demand] -= units;
            self.room[member] -= units;
        }
    }

    /// The shortest way from a demand with something left to a member with room, each demand with the member that it
    /// gives more to; the next demand on the way gives that member less.
    fn path(&self) -> Option<Vec<(usize, usize)>> {
        let mut by_demand: Vec<Option<usize>> = vec![None; self.room.len()];
        let mut by_member: Vec<Option<usize>> = vec![None; self.demands.len()];
        let mut seen: Vec<bool> = self.left.iter().map(|left| *left > 0).collect();
        let mut queue: std::collections::VecDeque<usize> =
            (0..self.demands.len()).filter(|d| seen[*d]).collect();
        while let Some(demand) = queue.pop_front() {
            for member in self.demands[demand].to.iter().copied() {
                if by_demand[member].is_some() || self.given[demand][member] >= self.demands[demand].slots {
                    continue;
                }
                by_demand[member] = Some(demand);
                if self.room[member] > 0 {
                    return Some(way_back(member, &by_demand, &by_member));
                }
                for other in (0..self.demands.len()).filter(|d| self.given[*d][member] > 0) {
                    if !seen[other] {
                        seen[other] = true;
                        by_member[other] = Some(member);
                        queue.push_back(other);
                    }
                }
            }
        }
        None
    }

    /// Sends as much as goes along a path; the end of the way comes first.
    fn shift(&mut self, path: &[(usize, usize)]) {
        let (end, start) = (path[0].1, path[path.len() - 1].0);
        let mut units = self.room[end].min(self.left[start]);
        for (demand, member) in path {
            units = units.min(self.demands[*demand].slots - self.given[*demand][*member]);
        }
        for pair in path.windows(2) {
            units = units.min(self.given[pair[0].0][pair[1].1]);
        }
        path.iter().for_each(|(demand, member)| self.given[*demand][*member] += units);
        path.windows(2).for_each(|pair| self.given[pair[0].0][pair[1].1] -= units);
        self.room[end] -= units;
        self.left[start] -= units;
    }
}

/// The way by which a member was reached, its end first.
fn way_back(end: usize, by_demand: &[Option<usize>], by_member: &[Option<usize>]) -> Vec<(usize, usize)> {
    let mut path = Vec::new();
    let mut next = Some(end);
    while let Some((member, demand)) = next.and_then(|m| Some((m, by_demand[m]?))) {
        path.push((demand, member));
        next = by_member[demand];
    }
    path
}

#[cfg(test)]
mod tests;
