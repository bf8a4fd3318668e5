//! Which of several logs is the pool's: the newest one, if a majority is there and they are one history. Pure.
//!
//! A commit that was acknowledged is in a majority of the copies, so that any majority has one that had it. What a copy
//! had is not always what can be read of it (`replay`): damage hides commits, it does not undo them.
//!
//! | the copies that are there | then |
//! | --- | --- |
//! | no majority of all votes | refused; by order: the newest that can be read, and that is recorded |
//! | a majority, and what can be read reaches as far as what any of them had | the newest is elected; copies that are damaged, torn or behind get a checkpoint of it |
//! | a majority, and one had commits that none gives any more, and a majority is known not to have had them | never acknowledged: as above, without them |
//! | the same, and no majority is known not to have had them | refused, since they may have been acknowledged: other drives may have them; by order: the newest that can be read, and that is recorded |
//! | two that left their common history | refused, also by order |
//!
//! **Who votes** changes when members are added. The commit that adds them is written to the old votes first, and to the
//! new ones only when a majority of the old ones has it; it is done when a majority of the new ones has it too. A crash
//! in between leaves old votes with it and others without. So that never some of them open the pool with the new
//! members and others without, whose log does not know yet that it has a vote counts only where a majority of those is
//! present who have one by that log. Then: whoever opens with the new members has a new one whose log has the commit, and
//! so has a majority of the old votes; or has a majority of the old votes with him; or counts old votes alone, and needs
//! no fewer of them than a majority of the old ones. None of these leaves a majority of the old votes to anybody else.
//!
//! When a member is taken out there are two commits. The first one says that it is *removed*, the second one that it is
//! *gone*. A log that says that a member is removed opens only with a majority of all votes *and* one of the votes without
//! it, and so is the first commit done; the second one is written to the votes without it, when the first one is done.
//! Then: two that do not know of the removal, or one of them and one that knows of the first commit, need a majority of
//! the old votes each; two that know of the first commit or the second one, a majority of the new votes each; and once the
//! second one is written anywhere no majority of the old votes is left that does not know of the first.

use super::log::{Position, Replayed};
use super::state::{MemberState, State};
use crate::base::units::MemberId;

/// Who holds a copy of the metadata log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Voter {
    Member(MemberId),
    Witness,
}

/// Votes of a pool: its members and the witness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tally {
    pub present: usize,
    pub total: usize,
}

impl Tally {
    pub fn is_majority(self) -> bool {
        2 * self.present > self.total
    }
}

/// Why no log can be chosen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuorumError {
    /// Nobody has a readable log.
    #[error("no readable metadata log")]
    NoLog,
    /// Too few votes: the newest state may be on the ones that are not there.
    #[error("{} of {} votes", .0.present, .0.total)]
    NoMajority(Tally),
    /// One copy had commits that none gives any more, and they may have been acknowledged.
    #[error("damage hides {commits} commits")]
    Damaged { voter: Voter, commits: u64 },
    /// Two logs left the common history: the pool was opened twice, each time without the other half.
    #[error("two histories")]
    Forked(Voter),
}

/// The log to go on from.
#[derive(Debug)]
pub struct Elected<'a> {
    pub leader: Voter,
    pub replayed: &'a Replayed,
    pub tally: Tally,
    /// It is believed only because somebody ordered it.
    pub forced: bool,
}

/// Chooses the newest log. Every vote that is present counts, old and damaged ones too: what each of them had is known.
pub fn elect<'a>(votes: &'a [(Voter, Replayed)], forced: bool) -> Result<Elected<'a>, QuorumError> {
    let Elected { leader, replayed: newest, tally, .. } = newest_by_counter(votes)?;
    // Who is removed has a vote as long as it is not gone: both majorities are needed.
    if !tally.is_majority() && !forced {
        return Err(QuorumError::NoMajority(tally));
    }
    if let Some((voter, _)) = votes.iter().find(|(_, r)| is_forked(newest, r)) {
        return Err(QuorumError::Forked(*voter));
    }
    let hidden = hidden_by_damage(newest, votes);
    match hidden {
        Some(error) if !forced => Err(error),
        hidden => {
            let forced = !tally.is_majority() || hidden.is_some();
            Ok(Elected { leader, replayed: newest, tally, forced })
        }
    }
}

/// The log that counts most openings and commits. Nothing says yet that the others are of its history.
pub fn newest_by_counter<'a>(votes: &'a [(Voter, Replayed)]) -> Result<Elected<'a>, QuorumError> {
    let (leader, newest) = votes
        .iter()
        .max_by_key(|(voter, r)| (r.position.age(), std::cmp::Reverse(*voter)))
        .map(|(voter, r)| (*voter, r))
        .ok_or(QuorumError::NoLog)?;
    let tally = tally_of(&newest.state, votes);
    Ok(Elected { leader, replayed: newest, tally, forced: false })
}

/// Commits after the newest one that can be read, which some copy had and which a majority may have had.
fn hidden_by_damage(newest: &Replayed, votes: &[(Voter, Replayed)]) -> Option<QuorumError> {
    let end = newest.position.age();
    let (voter, longest) = votes.iter().max_by_key(|(_, r)| r.held).filter(|(_, r)| r.held > end)?;
    let without = votes.iter().filter(|(_, r)| r.held <= end).map(|(voter, _)| *voter);
    let commits = longest.held.sequence.saturating_sub(end.sequence);
    let error = QuorumError::Damaged { voter: *voter, commits };
    // Where a member is removed, hidden commits may be from after it was gone.
    (!tally_without_removed(&newest.state, without).is_majority()).then_some(error)
}

/// Whether the witness has a vote: it breaks the tie of an even number of members. With an odd number there is no
/// tie, and its vote would only be one more that can be lost.
pub fn witness_counts(members: usize) -> bool {
    members.is_multiple_of(2)
}

/// The votes of a pool with so many members.
pub fn votes_of(members: usize) -> usize {
    members + usize::from(witness_counts(members))
}

/// Counts the votes that the state knows of.
pub fn tally(state: &State, present: impl Iterator<Item = Voter>) -> Tally {
    let present = present.filter(|voter| is_voter(state, *voter)).count();
    Tally { present, total: votes_of(state.members.len()) }
}

/// Counts the votes that the newest state knows of, as said above. Where a member is removed and not gone, of the votes
/// with it and without it those that are fewer than needed.
fn tally_of(newest: &State, votes: &[(Voter, Replayed)]) -> Tally {
    let among = |state: &State| tally(state, votes.iter().map(|(voter, _)| *voter));
    let counts = |(voter, log): &&(Voter, Replayed)| {
        is_voter(&log.state, *voter)
            || is_voter_without_removed(&log.state, *voter)
            || among(&log.state).is_majority()
    };
    let present = || votes.iter().filter(counts).map(|(voter, _)| *voter);
    let all = tally(newest, present());
    if all.is_majority() { tally_without_removed(newest, present()) } else { all }
}

/// Whether somebody has a vote by a state.
fn is_voter(state: &State, voter: Voter) -> bool {
    match voter {
        Voter::Member(id) => state.members.contains_key(&id),
        Voter::Witness => witness_counts(state.members.len()),
    }
}

/// Counts the votes that are left when members that are removed are gone.
fn tally_without_removed(state: &State, present: impl Iterator<Item = Voter>) -> Tally {
    let present = present.filter(|voter| is_voter_without_removed(state, *voter)).count();
    Tally { present, total: votes_of(staying(state)) }
}

fn is_voter_without_removed(state: &State, voter: Voter) -> bool {
    match voter {
        Voter::Member(id) => state.members.get(&id).is_some_and(|m| m.state != MemberState::Removed),
        Voter::Witness => witness_counts(staying(state)),
    }
}

fn staying(state: &State) -> usize {
    state.members.values().filter(|m| m.state != MemberState::Removed).count()
}

/// Whether a log left the history of the newest one. One commit more than the common history, of an older epoch,
/// is what a crash cut off before a majority had it: it never counted. Links tell it where both logs reach, the
/// lineage of openings however long ago it was.
pub fn is_forked(newest: &Replayed, other: &Replayed) -> bool {
    links_part(newest, other) || lineages_part(newest, other)
}

/// Whether the other log has openings that served and that the newest one does not know, or more commits of a common
/// opening than the newest one has of it.
fn lineages_part(newest: &Replayed, other: &Replayed) -> bool {
    let known = &newest.state.lineage;
    // What damage hides may be of later openings, whose marks are hidden with it.
    let same = other.held.epoch == other.position.epoch;
    let mut end = if same { other.held.sequence } else { other.position.sequence };
    for opening in other.state.lineage.iter().rev() {
        if let Some(at) = known.iter().position(|o| o.mark == opening.mark) {
            let until = known.get(at + 1).map_or(u64::MAX, |next| next.sequence - 1);
            return end > until.saturating_add(1);
        }
        // One that was cut off has made one commit.
        if end > opening.sequence {
            return true;
        }
        end = opening.sequence.saturating_sub(1);
    }
    // Nothing in common: from before the first opening that the newest one remembers.
    known.first().is_some_and(|first| end > first.sequence)
}

fn links_part(newest: &Replayed, other: &Replayed) -> bool {
    let rival = |p: &Position| newest.history.iter().find(|q| q.sequence == p.sequence && q.link != p.link);
    let mut apart = other.history.iter().filter_map(|p| rival(p).map(|q| (p, q)));
    match (apart.next(), apart.next()) {
        (None, _) => false,
        // One commit by itself never reached a majority, nor does an opening serve after one.
        (Some((p, _)), None) => other.position.sequence > p.sequence && other.position.epoch == p.epoch,
        (Some(_), Some(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::{Age, Cursor};
    use super::super::state::{Absence, MemberRecord};
    use super::*;
    use crate::base::units::ByteLen;
    use uuid::Uuid;

    fn log(members: u16, history: &[(u64, u64, u64)]) -> Replayed {
        let member = |n: u16| MemberRecord {
            uuid: Uuid::from_u128(u128::from(n)),
            size: ByteLen(1 << 30),
            extents: 9,
            state: MemberState::Active,
            leaving: false,
            absence: Absence::default(),
            name: String::new(),
        };
        let state = State {
            pool: Uuid::nil(),
            name: "tank".to_owned(),
            extent: ByteLen(1 << 20),
            copies: 2,
            clean: true,
            spreading: false,
            forced: false,
            lineage: Vec::new(),
            scrubs: Default::default(),
            members: (0..members).map(|n| (MemberId(n), member(n))).collect(),
            next_member: MemberId(members),
            volumes: Default::default(),
            next_volume: 0,
        };
        let history: Vec<Position> = history
            .iter()
            .map(|(epoch, sequence, link)| Position { epoch: *epoch, sequence: *sequence, link: *link })
            .collect();
        let position = *history.last().unwrap();
        let cursor = Cursor { generation: 0, offset: ByteLen(0) };
        Replayed { state, position, history, cursor, held: position.age(), generation_max: 0 }
    }

    const M0: Voter = Voter::Member(MemberId(0));
    const M1: Voter = Voter::Member(MemberId(1));

    #[test]
    fn the_newest_of_a_majority_wins_and_a_laggard_does_not_harm() {
        let votes = [(M0, log(2, &[(1, 1, 11)])), (M1, log(2, &[(1, 1, 11), (1, 2, 12)]))];
        assert_eq!(elect(&votes, false).unwrap().leader, M1);
    }

    #[test]
    fn without_a_majority_nothing_is_believed_unless_forced() {
        let votes = [(M0, log(2, &[(1, 1, 11)]))];
        let few = Tally { present: 1, total: 3 };
        assert_eq!(elect(&votes, false).unwrap_err(), QuorumError::NoMajority(few));
        assert!(elect(&votes, true).is_ok());
        assert_eq!(elect(&[], true).unwrap_err(), QuorumError::NoLog);
    }

    fn damaged(log: Replayed, sequence: u64) -> Replayed {
        let held = Age { sequence, ..log.held };
        Replayed { held, ..log }
    }

    #[test]
    fn r45_commits_that_damage_hides_are_never_passed_over() {
        let all = [(1, 1, 11), (1, 2, 12), (1, 3, 13)];
        let (whole, part) = (log(3, &all), log(3, &all[..1]));
        let hidden = |votes: &[(Voter, Replayed)]| elect(votes, false).unwrap_err();
        // One copy has what is hidden in the other.
        let votes = [(M0, damaged(part.clone(), 3)), (M1, whole)];
        assert_eq!(elect(&votes, false).unwrap().leader, M1);
        // None has it; the one that is sound never had it, and is no majority.
        let votes = [(M0, damaged(part.clone(), 3)), (M1, part.clone())];
        assert_eq!(hidden(&votes), QuorumError::Damaged { voter: M0, commits: 2 });
        assert!(elect(&votes, true).unwrap().forced, "by order, and recorded");
        // Two that are sound never had it: nobody was told that it is done.
        let votes =
            [(M0, damaged(part.clone(), 3)), (M1, part.clone()), (Voter::Member(MemberId(2)), part.clone())];
        assert!(!elect(&votes, false).unwrap().forced);
        let votes = [(M0, damaged(part.clone(), 2)), (M1, damaged(part.clone(), 2)), votes[2].clone()];
        assert!(matches!(hidden(&votes), QuorumError::Damaged { commits: 1, .. }));
    }

    #[test]
    fn two_histories_are_refused_even_by_force() {
        let one = [(1, 1, 11), (2, 2, 12), (2, 3, 13), (2, 4, 14)];
        let other = [(1, 1, 11), (2, 2, 97), (2, 3, 98), (2, 4, 99)];
        let votes = [(M0, log(2, &one)), (M1, log(2, &other))];
        assert!(matches!(elect(&votes, true), Err(QuorumError::Forked(_))));
        // An opening that reached one drive only, and another one that did not see that drive.
        let votes = [(M0, log(2, &one)), (M1, log(2, &other[..2]))];
        assert_eq!(elect(&votes, false).unwrap().leader, M0);
    }

    #[test]
    fn a_commit_that_was_cut_off_is_no_history_of_its_own() {
        let newest = log(2, &[(1, 1, 11), (2, 2, 22), (2, 3, 23)]);
        let orphan = log(2, &[(1, 1, 11), (1, 2, 99)]);
        assert_eq!(elect(&[(M0, newest.clone()), (M1, orphan)], false).unwrap().leader, M0);
        let half = log(2, &[(1, 1, 11), (1, 2, 98), (1, 3, 99)]);
        assert!(matches!(elect(&[(M0, newest), (M1, half)], false), Err(QuorumError::Forked(_))));
    }

    /// Every way in which a commit that adds members can be cut off, and every way in which those who are left part: never
    /// do both halves open, and all together always do.
    #[test]
    fn an_addition_that_is_cut_off_never_lets_two_halves_open() {
        for (old, added) in (1u16..=4).flat_map(|old| (1u16..=4).map(move |added| (old, added))) {
            let mut everyone: Vec<Voter> = (0..old + added).map(|n| Voter::Member(MemberId(n))).collect();
            everyone.push(Voter::Witness);
            let bits = |mask: u32| move |at: &usize| mask >> at & 1 == 1;
            let all = 0..1u32 << everyone.len();
            let before = log(old, &[(1, 1, 11)]);
            let after = log(old + added, &[(1, 1, 11), (1, 2, 12)]);
            for has_it in all.clone() {
                let holds = |state: &State| {
                    let here = (0..everyone.len()).filter(bits(has_it)).map(|at| everyone[at]);
                    tally(state, here)
                };
                let new =
                    |at: &usize| !is_voter(&before.state, everyone[*at]) && everyone[*at] != Voter::Witness;
                // New ones have it only when a majority of the old ones has.
                if (0..everyone.len()).filter(bits(has_it)).any(|at| new(&at))
                    && !holds(&before.state).is_majority()
                {
                    continue;
                }
                let votes = |mask: u32| -> Vec<(Voter, Replayed)> {
                    let log_of = |at: usize| if bits(has_it)(&at) { after.clone() } else { before.clone() };
                    (0..everyone.len()).filter(bits(mask)).map(|at| (everyone[at], log_of(at))).collect()
                };
                let opens = |mask: u32| elect(&votes(mask), false).is_ok();
                assert!(opens(all.end - 1), "{old} and {added}: all together, {has_it:b}");
                if old + added > 5 {
                    continue;
                }
                for half in all.clone().filter(|half| *half < all.end - 1 - half) {
                    let both = opens(half) && opens(all.end - 1 - half);
                    assert!(!both, "{old} and {added}: {has_it:b} have it, {half:b} and the others open");
                }
                // Once it is done, nobody goes on without it.
                if holds(&before.state).is_majority() && holds(&after.state).is_majority() {
                    let without = (all.end - 1) & !has_it;
                    assert!(!opens(without), "{old} and {added}: {without:b} go on without what was done");
                }
            }
        }
    }

    /// Every way in which the two commits that take a member out can be cut off, and every way in which those who are left
    /// part: never do both halves open, and all together always do.
    #[test]
    fn a_removal_that_is_cut_off_never_lets_two_halves_open() {
        for old in 2u16..=5 {
            let mut everyone: Vec<Voter> = (0..old).map(|n| Voter::Member(MemberId(n))).collect();
            everyone.push(Voter::Witness);
            let before = log(old, &[(1, 1, 11)]);
            let mut removed = log(old, &[(1, 1, 11), (1, 2, 12)]);
            removed.state.members.get_mut(&MemberId(0)).unwrap().state = MemberState::Removed;
            let mut gone = log(old, &[(1, 1, 11), (1, 2, 12), (1, 3, 13)]);
            gone.state.members.remove(&MemberId(0));
            let all = 1u32 << everyone.len();
            let who = |mask: u32| everyone.iter().enumerate().filter(move |(at, _)| mask >> at & 1 == 1);
            let done = |state: &State, mask: u32| tally(state, who(mask).map(|(_, v)| *v)).is_majority();
            for knows in 0..all {
                let first_done = done(&before.state, knows) && done(&gone.state, knows);
                // The second commit is written to those that stay, each of which had the first.
                let seconds = (0..all).filter(|second| second & !knows == 0 && second & 1 == 0);
                for second in seconds.filter(|second| *second == 0 || first_done) {
                    let log_of = |at: usize| match (second >> at & 1, knows >> at & 1) {
                        (1, _) => gone.clone(),
                        (_, 1) => removed.clone(),
                        _ => before.clone(),
                    };
                    let opens = |mask: u32| {
                        let logs: Vec<_> = who(mask).map(|(at, v)| (*v, log_of(at))).collect();
                        elect(&logs, false).is_ok()
                    };
                    let what = format!("{old}: {knows:b} know, {second:b} have let it go");
                    assert!(opens(all - 1), "{what}: all together");
                    if old > 4 {
                        continue;
                    }
                    for half in (0..all).filter(|half| *half < all - 1 - half) {
                        let both = opens(half) && opens(all - 1 - half);
                        assert!(!both, "{what}: {half:b} and the others open");
                    }
                    if done(&gone.state, second) {
                        assert!(opens(all - 2), "{what}: those that stay need nobody else");
                        assert!(!opens((all - 1) & !second), "{what}: nobody goes on without what was done");
                    }
                }
            }
        }
    }

    #[test]
    fn a_drive_lost_while_another_is_added_does_not_keep_the_pool_shut() {
        // Two and a witness, a third one added; one of the old ones is gone, the new one has not heard of it.
        let (before, after) = (log(2, &[(1, 1, 11)]), log(3, &[(1, 1, 11), (1, 2, 12)]));
        let votes = [
            (M0, after.clone()),
            (Voter::Member(MemberId(2)), before.clone()),
            (Voter::Witness, after.clone()),
        ];
        assert_eq!(elect(&votes, false).unwrap().tally, Tally { present: 2, total: 3 });
        // Without the witness the other one may have gone on without it.
        assert!(elect(&votes[..2], false).is_err());
    }

    #[test]
    fn the_witness_votes_only_where_it_breaks_a_tie() {
        assert_eq!([1, 2, 3, 4].map(votes_of), [1, 3, 3, 5]);
        let votes = [(Voter::Member(MemberId(0)), log(1, &[(1, 1, 11)]))];
        assert!(elect(&votes, false).is_ok(), "one drive whose state folder is lost");
    }
}
