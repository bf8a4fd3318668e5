//! Which of several logs is the pool's: the newest one, if a majority is there and they are one history. Pure.

use super::log::{Position, Replayed};
use super::state::State;
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
}

/// Chooses the newest log. Every vote that is present counts, old ones too: a majority of the votes met the last
/// commit, so any majority contains one that did.
pub fn elect<'a>(votes: &'a [(Voter, Replayed)], forced: bool) -> Result<Elected<'a>, QuorumError> {
    let age = |p: &Position| (p.epoch, p.sequence);
    let (leader, newest) = votes
        .iter()
        .max_by_key(|(voter, r)| (age(&r.position), std::cmp::Reverse(*voter)))
        .map(|(voter, r)| (*voter, r))
        .ok_or(QuorumError::NoLog)?;
    let tally = tally(&newest.state, votes.iter().map(|(voter, _)| *voter));
    if !tally.is_majority() && !forced {
        return Err(QuorumError::NoMajority(tally));
    }
    match votes.iter().find(|(_, r)| is_forked(newest, r)) {
        Some((voter, _)) => Err(QuorumError::Forked(*voter)),
        None => Ok(Elected { leader, replayed: newest, tally }),
    }
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
    let members = state.members.len();
    let counts = |voter: &Voter| match voter {
        Voter::Member(id) => state.members.contains_key(id),
        Voter::Witness => witness_counts(members),
    };
    Tally { present: present.filter(counts).count(), total: votes_of(members) }
}

/// Whether a log left the history of the newest one. One commit more than the common history, of an older epoch,
/// is what a crash cut off before a majority had it: it never counted. Positions from before the newest log's
/// checkpoint cannot be compared; they are older in any case and their data is not read.
fn is_forked(newest: &Replayed, other: &Replayed) -> bool {
    let rival = |p: &Position| newest.history.iter().find(|q| q.sequence == p.sequence && q.link != p.link);
    let mut apart = other.history.iter().filter_map(|p| rival(p).map(|q| (p, q)));
    match (apart.next(), apart.next()) {
        (None, _) => false,
        (Some((p, q)), None) => p.epoch == q.epoch,
        (Some(_), Some(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::Cursor;
    use super::super::state::{MemberRecord, MemberState};
    use super::*;
    use crate::base::units::ByteLen;
    use uuid::Uuid;

    fn log(members: u16, history: &[(u64, u64, u64)]) -> Replayed {
        let member = |n: u16| MemberRecord {
            uuid: Uuid::from_u128(u128::from(n)),
            size: ByteLen(1 << 30),
            extents: 9,
            state: MemberState::Active,
            name: String::new(),
        };
        let state = State {
            pool: Uuid::nil(),
            name: "tank".to_owned(),
            extent: ByteLen(1 << 20),
            copies: 2,
            clean: true,
            forced: false,
            members: (0..members).map(|n| (MemberId(n), member(n))).collect(),
            volumes: Default::default(),
            next_volume: 0,
        };
        let history: Vec<Position> = history
            .iter()
            .map(|(epoch, sequence, link)| Position { epoch: *epoch, sequence: *sequence, link: *link })
            .collect();
        let position = *history.last().unwrap();
        Replayed { state, position, history, cursor: Cursor { generation: 0, offset: ByteLen(0) } }
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

    #[test]
    fn two_histories_are_refused_even_by_force() {
        let votes = [(M0, log(2, &[(1, 1, 11), (1, 2, 12)])), (M1, log(2, &[(1, 1, 11), (1, 2, 99)]))];
        assert!(matches!(elect(&votes, true), Err(QuorumError::Forked(_))));
    }

    #[test]
    fn a_commit_that_was_cut_off_is_no_history_of_its_own() {
        let newest = log(2, &[(1, 1, 11), (2, 2, 22), (2, 3, 23)]);
        let orphan = log(2, &[(1, 1, 11), (1, 2, 99)]);
        assert_eq!(elect(&[(M0, newest.clone()), (M1, orphan)], false).unwrap().leader, M0);
        let half = log(2, &[(1, 1, 11), (1, 2, 98), (1, 3, 99)]);
        assert!(matches!(elect(&[(M0, newest), (M1, half)], false), Err(QuorumError::Forked(_))));
    }

    #[test]
    fn the_witness_votes_only_where_it_breaks_a_tie() {
        assert_eq!([1, 2, 3, 4].map(votes_of), [1, 3, 3, 5]);
        let votes = [(Voter::Member(MemberId(0)), log(1, &[(1, 1, 11)]))];
        assert!(elect(&votes, false).is_ok(), "one drive whose state folder is lost");
    }
}
