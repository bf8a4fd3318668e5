//! The life of a member: one enum (`state::MemberState`), one transition function.
//!
//! ```text
//!            Absent                 Present
//! Active ─────────────▶ Missing ─────────────▶ Stale
//!   │ Failed                                     ▲
//!   └────────▶ Faulted ──────────────────────────┘ Present
//! ```
//!
//! The way back from Stale to Active is a resync; until there is one, a member stays stale.

use super::state::MemberState;

/// What can happen to a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The pool is opened without it.
    Absent,
    /// The pool is opened with it, and its log is the newest or misses at most the commit that a crash cut off.
    Current,
    /// The pool is opened with it, but it missed commits: an old image of itself, or it was away.
    Old,
    /// A write, a flush or a commit failed on it.
    Failed,
}

/// The state after an event.
pub fn after(event: Event, state: MemberState) -> MemberState {
    match (state, event) {
        (MemberState::Active, Event::Current) => MemberState::Active,
        (MemberState::Active, Event::Absent) => MemberState::Missing,
        (MemberState::Active, Event::Old) => MemberState::Stale,
        (MemberState::Active, Event::Failed) => MemberState::Faulted,
        (MemberState::Missing | MemberState::Stale | MemberState::Faulted, Event::Absent) => {
            MemberState::Missing
        }
        (MemberState::Missing | MemberState::Stale | MemberState::Faulted, Event::Current | Event::Old) => {
            MemberState::Stale
        }
        (MemberState::Missing, Event::Failed) => MemberState::Missing,
        (MemberState::Stale | MemberState::Faulted, Event::Failed) => MemberState::Faulted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_staying_current_keeps_a_member_active() {
        use MemberState::{Active, Faulted, Missing, Stale};
        for state in [Active, Missing, Stale, Faulted] {
            for event in [Event::Absent, Event::Current, Event::Old, Event::Failed] {
                let active = after(event, state) == Active;
                assert_eq!(active, state == Active && event == Event::Current, "{state:?} {event:?}");
            }
        }
    }
}
