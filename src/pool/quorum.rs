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
    match votes.iter().find(|(_, r)| is_forked(newest, &r.position)) {
        Some((voter, _)) => Err(QuorumError::Forked(*voter)),
        None => Ok(Elected { leader, replayed: newest, tally }),
    }
}

/// Counts the votes that the state knows of.
pub fn tally(state: &State, present: impl Iterator<Item = Voter>) -> Tally {
    let counts = |voter: &Voter| match voter {
        Voter::Member(id) => state.members.contains_key(id),
        Voter::Witness => true,
    };
    Tally { present: present.filter(counts).count(), total: state.members.len() + 1 }
}

/// Whether a position contradicts the newest log: same place in the sequence, another frame. A position from
/// before the newest log's checkpoint cannot be compared; it is older in any case and its data is not read.
fn is_forked(newest: &Replayed, other: &Position) -> bool {
    let same_place = newest.history.iter().find(|p| p.sequence == other.sequence);
    same_place.is_some_and(|p| p.link != other.link)
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
}
