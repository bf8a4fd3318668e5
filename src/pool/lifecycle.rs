//! The life of a member: one enum (`state::MemberState`), one transition function.
//!
//! ```text
//!            Slow               Failed
//! Active ◀────────▶ Suspect ───────────▶ Faulted ───────────┐
//!   ▲ │      Answers               Absent                   │ GivenUp
//!   │ └──────────────────────────────────▶ Missing ─────────┤
//!   │ Synced              Back               │ Back         ▼
//!   └───────── Resyncing ◀──── Stale ◀───────┴───────── Rebuilding ───▶ Removed
//!                        Began                  Back             Evacuated
//!                                                    Emptied: Missing
//! ```
//!
//! A member in sync that leaves is evacuated, too, when nothing lies on it; one that is given up and does not come back,
//! when everything has its copies elsewhere.
//!
//! A member out of sync that fails again is faulted, one that is not there is missing, whatever it was doing; one
//! that is there is stale until its resync begins.

use super::state::MemberState;

/// What can happen to a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The pool is opened without it.
    Absent,
    /// The pool is opened with it, and its log is the newest or misses at most the commit that a crash cut off.
    Current,
    /// The pool is opened with it, but it missed commits: an old image of itself.
    Old,
    /// A write, a flush or a commit failed on it, or it did not answer in time, or it vanished.
    Failed,
    /// It takes much longer than it used to.
    Slow,
    /// It is as fast as it used to be.
    Answers,
    /// It is there again, and out of sync.
    Back,
    /// What it missed is being copied.
    Began,
    /// Everything it missed was copied and flushed.
    Synced,
    /// It has been away for too long, or is said to be dead: its copies are made anew elsewhere.
    GivenUp,
    /// Nothing lies on it any more; it may come back with all its space free.
    Emptied,
    /// Nothing lies on it any more, and it was taken out of the pool.
    Evacuated,
}

/// The state after an event; None if it cannot happen in this state.
pub fn after(event: Event, state: MemberState) -> Option<MemberState> {
    use MemberState::{Active, Faulted, Missing, Rebuilding, Removed, Resyncing, Stale, Suspect};
    let in_sync = matches!(state, Active | Suspect);
    let next = match event {
        _ if state == Removed => return None,
        Event::Current if in_sync => Active,
        Event::Current | Event::Old | Event::Back => Stale,
        Event::Absent if state == Rebuilding => Rebuilding,
        Event::Absent => Missing,
        Event::Failed if matches!(state, Missing | Rebuilding) => state,
        Event::Failed => Faulted,
        Event::Slow if in_sync => Suspect,
        Event::Answers if in_sync => Active,
        Event::Began if matches!(state, Stale | Resyncing) => Resyncing,
        Event::Synced if state == Resyncing => Active,
        Event::GivenUp if matches!(state, Missing | Faulted | Rebuilding) => Rebuilding,
        Event::Emptied if state == Rebuilding => Missing,
        Event::Evacuated if in_sync || state == Rebuilding => Removed,
        Event::Slow
        | Event::Answers
        | Event::Began
        | Event::Synced
        | Event::GivenUp
        | Event::Emptied
        | Event::Evacuated => return None,
    };
    Some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemberState::{Active, Faulted, Missing, Rebuilding, Removed, Resyncing, Stale, Suspect};

    const STATES: [MemberState; 8] =
        [Active, Suspect, Missing, Stale, Resyncing, Rebuilding, Faulted, Removed];

    const EVENTS: [Event; 11] = [
        Event::Absent,
        Event::Current,
        Event::Old,
        Event::Failed,
        Event::Slow,
        Event::Answers,
        Event::Back,
        Event::Began,
        Event::Synced,
        Event::GivenUp,
        Event::Evacuated,
    ];

    #[test]
    fn r32_only_a_finished_resync_brings_a_member_back_in_sync() {
        for state in STATES {
            for event in EVENTS {
                let in_sync = |s: MemberState| matches!(s, Active | Suspect);
                if after(event, state).is_some_and(in_sync) && !in_sync(state) {
                    assert_eq!((state, event), (Resyncing, Event::Synced));
                }
            }
        }
    }

    #[test]
    fn a_removed_member_stays_removed_and_every_other_can_fail_and_vanish() {
        for event in EVENTS {
            assert_eq!(after(event, Removed), None);
        }
        for state in STATES.into_iter().filter(|s| *s != Removed) {
            for event in [Event::Failed, Event::Absent] {
                let next = after(event, state).expect("possible in every state");
                assert!(matches!(next, Faulted | Missing | Rebuilding), "{state:?} {event:?}");
            }
        }
    }
}
