//! Which copies are to lie elsewhere, so that every member is filled in proportion to its size. Pure.
//!
//! Copies of a slot lie on different members, so that a large member may have to do with less than its share: of any k
//! members a slot of c copies has min(c, k) at most. `targets` is what comes closest to equal shares under that rule.
//! `plan` moves what members have beyond their targets to those that lack it. Which slots these are is drawn by lot from
//! all that would do, so that slots side by side come to lie on different pairs of members.
//!
//! A member that leaves is one that should have nothing. What lies there moves first.

use super::redundancy::mirror::Copies;
use super::state::State;
use crate::base::limits::COPIES_MAX;
use crate::base::units::{MemberId, SlotIndex, VolumeId};
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// A copy that is to lie on another member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    pub volume: VolumeId,
    pub slot: SlotIndex,
    pub from: MemberId,
    pub to: MemberId,
}

/// Moves that go a way round are looked for so often.
const DETOURS: usize = 16;

/// What a member needs of what it could get is counted in these units.
const WHOLE: u64 = 1 << 20;

/// The extents that each member should have in use, for members of these sizes in extents, where `slots[c - 1]` slots
/// have c copies. The sum is that of all copies.
///
/// Members are taken by size, the largest first. As long as a group of the largest cannot have its share, since it may
/// have so many copies of a slot and no more, it gets all it may have, in proportion; then the next ones.
pub fn targets(totals: &[u64], slots: [u64; COPIES_MAX]) -> Vec<u64> {
    let most = |members: usize| -> u64 {
        let of = |(copies, count): (u64, u64)| count * copies.min(members as u64); // widening
        (1..).zip(slots).map(of).sum()
    };
    let mut order: Vec<usize> = (0..totals.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(totals[*i]), *i));
    let mut wanted = vec![0; totals.len()];
    let mut first = 0;
    while first < order.len() {
        let (end, copies, extents) = tightest(first, &order, totals, &most);
        share(&order[first..end], copies, extents, totals, &mut wanted);
        first = end;
    }
    wanted
}

/// The group from `first` on that may have least for its size: its end, its copies, its extents.
fn tightest(
    first: usize,
    order: &[usize],
    totals: &[u64],
    most: &impl Fn(usize) -> u64,
) -> (usize, u64, u64) {
    let mut best = (order.len(), most(order.len()) - most(first), 0);
    best.2 = order[first..].iter().map(|i| totals[*i]).sum();
    let mut extents = 0;
    for end in first + 1..order.len() {
        extents += totals[order[end - 1]];
        let copies = most(end) - most(first);
        if u128::from(copies) * u128::from(best.2) < u128::from(best.1) * u128::from(extents) {
            best = (end, copies, extents);
        }
    }
    best
}

/// Divides copies among members in proportion, what is left over to the largest fractions.
fn share(group: &[usize], copies: u64, extents: u64, totals: &[u64], wanted: &mut [u64]) {
    let extents = u128::from(extents.max(1));
    let exact = |i: usize| u128::from(copies) * u128::from(totals[i]);
    let mut left = copies;
    for i in group {
        wanted[*i] = u64::try_from(exact(*i) / extents).unwrap_or(u64::MAX);
        left -= wanted[*i];
    }
    let mut by_fraction = group.to_vec();
    by_fraction.sort_by_key(|i| (std::cmp::Reverse(exact(*i) % extents), *i));
    by_fraction.iter().take(usize::try_from(left).unwrap_or(usize::MAX)).for_each(|i| wanted[*i] += 1);
}

/// The moves after which the members are filled as they should be, as far as that can be; none if they are. Only members
/// in sync take part, and slots all of whose copies lie on such ones.
pub fn plan(state: &State) -> Vec<Move> {
    let Some(mut draft) = Draft::of(state) else { return Vec::new() };
    draft.move_straight();
    for _ in 0..DETOURS {
        let before = draft.beyond();
        if before == 0 || !draft.move_round() || draft.beyond() >= before {
            break;
        }
    }
    draft.leaving_first()
}

/// Of these the ones of slots that have a copy on a member that leaves.
pub fn plan_departures(state: &State) -> Vec<Move> {
    let mut moves = plan(state);
    let of: BTreeSet<(VolumeId, SlotIndex)> =
        moves.iter().filter(|m| state.is_leaving(m.from)).map(|m| (m.volume, m.slot)).collect();
    moves.retain(|m| of.contains(&(m.volume, m.slot)));
    moves
}

/// Copies that lie on members that leave.
pub fn to_leave(state: &State) -> u64 {
    let leaving = state.extents_in_use().filter(|(copy, _, _)| state.is_leaving(copy.member));
    leaving.count() as u64 // widening
}

/// Whether members have what they should have, but for one extent or two in a hundred of theirs, and those that leave
/// nothing.
pub fn is_even(state: &State) -> bool {
    to_leave(state) == 0
        && Draft::of(state).is_none_or(|draft| {
            let mut members = draft.totals.iter().zip(draft.used.iter().zip(&draft.wanted));
            members.all(|(total, (used, wanted))| used.abs_diff(*wanted) <= (*total / 50).max(1))
        })
}

/// Where a slot's copies lie: indices of members, in the order of the copies; the rest is `NOBODY`.
type Held = [u8; COPIES_MAX];

const NOBODY: u8 = u8::MAX;

/// A slot that takes part, and where its copies would lie by now.
struct Row {
    volume: VolumeId,
    slot: SlotIndex,
    held: Held,
}

/// A plan that is being made. Members are indices of these lists.
struct Draft {
    members: Vec<MemberId>,
    /// None for one that leaves.
    totals: Vec<u64>,
    leaving: Vec<bool>,
    used: Vec<u64>,
    wanted: Vec<u64>,
    rows: Vec<Row>,
    moves: Vec<Move>,
}

impl Draft {
    /// What there is; None if there is nothing to be moved.
    fn of(state: &State) -> Option<Draft> {
        let members: Vec<MemberId> =
            state.members.keys().copied().filter(|id| state.is_in_sync(*id)).collect();
        let leaving: Vec<bool> = members.iter().map(|id| state.is_leaving(*id)).collect();
        let extents = |id: &MemberId| u64::from(state.members[id].extents);
        let total = |(id, leaves): (&MemberId, &bool)| if *leaves { 0 } else { extents(id) };
        let totals = members.iter().zip(&leaving).map(total).collect();
        let (used, wanted, rows, moves) = (vec![0; members.len()], Vec::new(), Vec::new(), Vec::new());
        let mut draft = Draft { members, totals, leaving, used, wanted, rows, moves };
        let mut slots = [0; COPIES_MAX];
        for (volume, record) in &state.volumes {
            for (slot, record) in &record.slots {
                if let Some(held) = draft.count(&record.copies) {
                    slots[record.copies.len() - 1] += 1;
                    draft.rows.push(Row { volume: *volume, slot: *slot, held });
                }
            }
        }
        draft.wanted = targets(&draft.totals, slots);
        (draft.beyond() > 0).then_some(draft)
    }

    /// Counts the copies of a slot. None if one of its members takes no part: then the extents of the others do not either.
    fn count(&mut self, copies: &Copies) -> Option<Held> {
        let known = |member: MemberId| self.members.binary_search(&member).ok();
        let found: SmallVec<[Option<usize>; COPIES_MAX]> = copies.iter().map(|c| known(c.member)).collect();
        let whole = found.iter().all(Option::is_some);
        let mut held = [NOBODY; COPIES_MAX];
        for (place, at) in held.iter_mut().zip(found.into_iter().flatten()) {
            match whole {
                true => self.used[at] += 1,
                false => self.totals[at] = self.totals[at].saturating_sub(1),
            }
            *place = u8::try_from(at).expect("a pool has 64 members at most");
        }
        whole.then_some(held)
    }

    /// The moves, those of slots first that have a copy on a member that leaves. The moves of one slot keep their order.
    fn leaving_first(mut self) -> Vec<Move> {
        let leaves = |m: &Move| self.members.binary_search(&m.from).is_ok_and(|at| self.leaving[at]);
        let urgent: BTreeSet<(VolumeId, SlotIndex)> =
            self.moves.iter().filter(|m| leaves(m)).map(|m| (m.volume, m.slot)).collect();
        self.moves.sort_by_key(|m| !urgent.contains(&(m.volume, m.slot)));
        self.moves
    }

    /// Copies on members that have more than they should.
    fn beyond(&self) -> u64 {
        (0..self.members.len()).map(|i| self.surplus(i)).sum()
    }

    fn surplus(&self, i: usize) -> u64 {
        self.used[i].saturating_sub(self.wanted[i])
    }

    fn lack(&self, i: usize) -> u64 {
        self.wanted[i].saturating_sub(self.used[i])
    }

    fn go(&mut self, row: usize, from: usize, to: usize) {
        let Row { volume, slot, held } = &mut self.rows[row];
        let entry = held.iter_mut().find(|i| usize::from(**i) == from).expect("it has a copy there");
        *entry = u8::try_from(to).expect("a pool has 64 members at most");
        self.moves.push(Move {
            volume: *volume,
            slot: *slot,
            from: self.members[from],
            to: self.members[to],
        });
        (self.used[from], self.used[to]) = (self.used[from] - 1, self.used[to] + 1);
    }

    /// From members that have too much to those that lack something; first to those that need most of what they could
    /// get.
    fn move_straight(&mut self) {
        let mut lacking: Vec<usize> = (0..self.members.len()).filter(|i| self.lack(*i) > 0).collect();
        let could: Vec<u64> = lacking.iter().map(|to| self.givers(*to).len() as u64).collect(); // widening
        let need = |at: usize| WHOLE * self.lack(lacking[at]) / could[at].max(1);
        let mut order: Vec<usize> = (0..lacking.len()).collect();
        order.sort_by_key(|at| (std::cmp::Reverse(need(*at)), *at));
        lacking = order.into_iter().map(|at| lacking[at]).collect();
        for to in lacking {
            self.move_to(to);
        }
    }

    /// Slots that have a copy on a member with too much, and none here.
    fn givers(&self, to: usize) -> Vec<usize> {
        let lacks = |row: &Row| !has(&row.held, to) && who(&row.held).any(|i| self.surplus(i) > 0);
        (0..self.rows.len()).filter(|row| lacks(&self.rows[*row])).collect()
    }

    /// Gives a member what it lacks.
    fn move_to(&mut self, to: usize) {
        let mut givers = self.givers(to);
        // Where nearly all must give, those that can do it in one way only come first.
        let scarce = 10 * self.lack(to) > 9 * givers.len() as u64; // widening
        let ways = |row: usize| who(&self.rows[row].held).filter(|i| self.surplus(*i) > 0).count();
        let key = |row: &usize| {
            let row_ways = if scarce { ways(*row) } else { 0 };
            let stays = !who(&self.rows[*row].held).any(|i| self.leaving[i]);
            (row_ways, stays, !scarce && self.is_beside(*row, to), draw(&self.rows[*row], to), *row)
        };
        givers.sort_by_cached_key(key);
        for row in givers {
            if self.lack(to) == 0 {
                return;
            }
            let much = |i: &usize| (self.leaving[*i], self.surplus(*i), std::cmp::Reverse(*i));
            let giver = who(&self.rows[row].held).filter(|i| self.surplus(*i) > 0).max_by_key(much);
            if let Some(from) = giver {
                self.go(row, from, to);
            }
        }
    }

    /// Whether a member has the slot before or behind.
    fn is_beside(&self, row: usize, member: usize) -> bool {
        let here = &self.rows[row];
        let beside = |other: Option<&Row>| {
            other.is_some_and(|other| {
                other.volume == here.volume
                    && other.slot.0.abs_diff(here.slot.0) == 1
                    && has(&other.held, member)
            })
        };
        beside(row.checked_sub(1).and_then(|at| self.rows.get(at))) || beside(self.rows.get(row + 1))
    }

    /// What cannot go straight goes by way of others: the slots of one that has too much have a copy already on the one
    /// that lacks something. False if there is no way.
    fn move_round(&mut self) -> bool {
        let mut quota = self.ways();
        let before = self.moves.len();
        let mut rows: Vec<usize> = (0..self.rows.len()).collect();
        rows.sort_by_cached_key(|row| (draw(&self.rows[*row], 0), *row));
        for row in rows {
            for from in who(&self.rows[row].held).collect::<SmallVec<[usize; COPIES_MAX]>>() {
                let held = self.rows[row].held;
                let fits = |to: &usize| quota[from][*to] > 0 && !has(&held, *to);
                if let Some(to) = (0..self.members.len()).filter(fits).max_by_key(|to| quota[from][*to]) {
                    quota[from][to] -= 1;
                    self.go(row, from, to);
                }
            }
        }
        self.moves.len() > before
    }

    /// How many copies should go from whom to whom.
    fn ways(&self) -> Vec<Vec<u64>> {
        let count = self.members.len();
        // How many copies of each could go to which other.
        let mut could = vec![vec![0u64; count]; count];
        for row in &self.rows {
            let free = (0..count).filter(|to| !has(&row.held, *to));
            free.for_each(|to| who(&row.held).for_each(|from| could[from][to] += 1));
        }
        let mut quota = vec![vec![0; count]; count];
        let mut surplus: Vec<u64> = (0..count).map(|i| self.surplus(i)).collect();
        let mut lack: Vec<u64> = (0..count).map(|i| self.lack(i)).collect();
        while let Some(way) = shortest(&could, &surplus, &lack) {
            let (from, to) = (way[0], way[way.len() - 1]);
            let steps = || way.windows(2).map(|w| (w[0], w[1]));
            let narrow = steps().map(|(a, b)| could[a][b]).min().unwrap_or(0);
            let much = narrow.min(surplus[from]).min(lack[to]);
            for (a, b) in steps() {
                quota[a][b] += much;
                could[a][b] -= much;
            }
            (surplus[from], lack[to]) = (surplus[from] - much, lack[to] - much);
        }
        quota
    }
}

/// The shortest way from one that has too much to one that lacks something.
fn shortest(could: &[Vec<u64>], surplus: &[u64], lack: &[u64]) -> Option<Vec<usize>> {
    let count = could.len();
    let mut before: Vec<Option<usize>> = vec![None; count];
    let mut reached: Vec<usize> = (0..count).filter(|i| surplus[*i] > 0).collect();
    let mut seen: Vec<bool> = surplus.iter().map(|s| *s > 0).collect();
    let mut at = 0;
    while at < reached.len() {
        let here = reached[at];
        if lack[here] > 0 {
            let mut way = vec![here];
            while let Some(earlier) = before[way[way.len() - 1]] {
                way.push(earlier);
            }
            way.reverse();
            return Some(way);
        }
        for next in (0..count).filter(|next| could[here][*next] > 0) {
            if !std::mem::replace(&mut seen[next], true) {
                before[next] = Some(here);
                reached.push(next);
            }
        }
        at += 1;
    }
    None
}

fn who(held: &Held) -> impl Iterator<Item = usize> + '_ {
    held.iter().filter(|i| **i != NOBODY).map(|i| usize::from(*i))
}

fn has(held: &Held, member: usize) -> bool {
    who(held).any(|i| i == member)
}

/// A number that looks like chance and is the same every time.
fn draw(row: &Row, to: usize) -> u64 {
    let place = u64::from(row.volume.0) << 32 | u64::from(row.slot.0);
    let mut x = place ^ (to as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15); // widening
    for _ in 0..2 {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
    }
    x
}

#[cfg(test)]
pub use tests::{fill, pool};

#[cfg(test)]
mod tests;
