//! What happens again and again is told a few times and then only counted. Pure.

use super::draft::Draft;
use crate::control::event::EventKind;
use crate::io::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often one kind of thing may happen to one subject within `WINDOW` and still be told each time.
const TOLD: u32 = 10;
const WINDOW: Duration = Duration::from_secs(600);

/// Subjects that are watched at the same time; beyond that the oldest is forgotten.
const SUBJECTS: usize = 1024;

type Key = (EventKind, Option<String>, String);

/// One subject's events of one kind since the first of them.
struct Streak {
    since: Instant,
    seen: u32,
    last: Draft,
}

/// The events of the last while, by what happened to whom.
#[derive(Default)]
pub struct Repeats {
    streaks: BTreeMap<Key, Streak>,
}

impl Repeats {
    /// The event, unless there were too many of its kind.
    pub fn admit(&mut self, draft: Draft, now: Instant) -> Option<Draft> {
        let key = (draft.kind, draft.pool.clone(), draft.subject.clone());
        match self.streaks.get_mut(&key) {
            Some(streak) => {
                streak.seen = streak.seen.saturating_add(1);
                streak.last = draft.clone();
                (streak.seen <= TOLD).then_some(draft)
            }
            None => {
                self.make_room();
                self.streaks.insert(key, Streak { since: now, seen: 1, last: draft.clone() });
                Some(draft)
            }
        }
    }

    fn make_room(&mut self) {
        if self.streaks.len() >= SUBJECTS {
            let oldest = self.streaks.iter().min_by_key(|(_, s)| s.since).map(|(key, _)| key.clone());
            oldest.map(|key| self.streaks.remove(&key));
        }
    }

    /// What was only counted in the windows that have ended: one event for each.
    pub fn ended(&mut self, now: Instant) -> Vec<Draft> {
        let over = |streak: &Streak| now.since(streak.since) >= WINDOW;
        let summaries = self.streaks.values().filter(|s| over(s) && s.seen > TOLD).map(summary).collect();
        self.streaks.retain(|_, streak| !over(streak));
        summaries
    }
}

fn summary(streak: &Streak) -> Draft {
    let (more, minutes) = (streak.seen - TOLD, WINDOW.as_secs() / 60);
    let message = format!("{more} more like this in {minutes} minutes; the last: {}", streak.last.message);
    Draft { kind: EventKind::Repeated, message, ..streak.last.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::event::Level;

    fn draft(subject: &str, message: &str) -> Draft {
        Draft::coded("DRIVE_MISSING", Level::Warning, EventKind::DriveState, "tank", subject, message)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_ns(seconds * 1_000_000_000)
    }

    #[test]
    fn a_drive_that_comes_and_goes_fills_nothing() {
        let mut repeats = Repeats::default();
        let told =
            (0..500).filter(|n| repeats.admit(draft("sda", &format!("gone {n}")), at(*n)).is_some()).count();
        assert_eq!(told, 10);
        assert!(repeats.admit(draft("sdb", "gone"), at(500)).is_some(), "another drive is told");
        assert_eq!(repeats.ended(at(599)), []);
        let ended = repeats.ended(at(600));
        assert_eq!(ended.len(), 1);
        assert_eq!(ended[0].message, "490 more like this in 10 minutes; the last: gone 499");
        assert_eq!((ended[0].kind, ended[0].subject.as_str()), (EventKind::Repeated, "sda"));
        assert!(repeats.admit(draft("sda", "gone"), at(601)).is_some(), "a new window");
    }

    #[test]
    fn what_is_watched_is_bounded() {
        let mut repeats = Repeats::default();
        for n in 0..5_000u64 {
            assert!(repeats.admit(draft(&n.to_string(), "gone"), at(n / 100)).is_some());
        }
        assert_eq!(repeats.streaks.len(), SUBJECTS);
    }
}
