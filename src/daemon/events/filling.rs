//! When a pool will be full, from how what is stored grew over the last hours. Pure.

use crate::io::time::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// How often what is stored is written down, and how many of these notes are kept: six hours.
const EVERY: Duration = Duration::from_secs(60);
const KEPT: usize = 360;

/// A shorter time tells nothing about a rate.
const TELLING: Duration = Duration::from_secs(600);

/// What lies further ahead is not foretold, seconds: a year.
const FAR: u64 = 365 * 24 * 3600;

/// What one pool had stored at some moments.
#[derive(Default)]
pub struct Filling {
    samples: VecDeque<(Instant, u64)>,
}

impl Filling {
    /// Notes what is stored, if it is time.
    pub fn note(&mut self, now: Instant, allocated_bytes: u64) {
        if self.samples.back().is_some_and(|(at, _)| now.since(*at) < EVERY) {
            return;
        }
        if self.samples.len() >= KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back((now, allocated_bytes));
    }

    /// What was stored before does not tell what will be: much of it was destroyed.
    pub fn begin_anew(&mut self) {
        self.samples.clear();
    }

    /// Seconds until so much is stored in addition. None: nothing grows, too little is known, or it takes over a year.
    pub fn full_in(&self, free_bytes: u64) -> Option<u64> {
        let ((first, then), (last, now)) = (self.samples.front()?, self.samples.back()?);
        let took = last.since(*first);
        let grown = now.checked_sub(*then).filter(|grown| *grown > 0 && took >= TELLING)?;
        let seconds = u128::from(free_bytes) * u128::from(took.as_secs()) / u128::from(grown);
        u64::try_from(seconds).ok().filter(|seconds| *seconds <= FAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    /// So many minutes, each with what was stored then.
    fn minutes(count: u64, stored: impl Fn(u64) -> u64) -> Filling {
        let mut filling = Filling::default();
        (0..count).for_each(|m| filling.note(Instant::from_ns(m * 60 * GB), stored(m)));
        filling
    }

    #[test]
    fn steady_growth_tells_when_there_is_no_room() {
        // 60 GB an hour.
        assert_eq!(minutes(11, |m| m * GB).full_in(60 * GB), Some(3600));
        assert_eq!(minutes(300, |m| m * GB).full_in(1440 * GB), Some(24 * 3600));
        assert_eq!(minutes(300, |m| m * GB).full_in(0), Some(0));
    }

    #[test]
    fn nothing_is_said_that_is_not_known() {
        assert_eq!(Filling::default().full_in(GB), None);
        assert_eq!(minutes(10, |m| m * GB).full_in(60 * GB), None, "nine minutes");
        assert_eq!(minutes(300, |_| GB).full_in(GB), None, "no growth");
        assert_eq!(minutes(300, |m| (400 - m) * GB).full_in(GB), None, "it shrinks");
        assert_eq!(minutes(11, |m| m).full_in(u64::MAX), None, "longer than a year");
    }

    #[test]
    fn old_notes_go_and_notes_are_a_minute_apart() {
        let filling = minutes(10_000, |m| if m < 9_000 { 0 } else { (m - 9_000) * GB });
        assert_eq!(filling.samples.len(), KEPT);
        assert_eq!(filling.full_in(60 * GB), Some(3600), "what was hours ago is forgotten");
        let mut often = Filling::default();
        (0..3600).for_each(|s| often.note(Instant::from_ns(s * GB), s));
        assert_eq!(often.samples.len(), 60);
        often.begin_anew();
        assert_eq!(often.full_in(1), None);
    }
}
