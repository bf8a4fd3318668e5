//! The campaign's own tests: two hundred seeds pass, the same seed is the same run, planted bugs are found.

use super::*;
use crate::pool::planted::Planted;
use std::ops::Range;

fn pass(seeds: Range<u64>) {
    for seed in seeds {
        let report = run(seed, &Options::default());
        assert_eq!(report.failure, None, "seed {seed}\n{}", report.steps.join("\n"));
    }
}

macro_rules! seeds {
    ($($name:ident $range:expr),*) => {$(
        #[test]
        fn $name() {
            pass($range);
        }
    )*};
}
seeds!(
    seeds_0_to_24 0..25, seeds_25_to_49 25..50, seeds_50_to_74 50..75, seeds_75_to_99 75..100,
    seeds_100_to_124 100..125, seeds_125_to_149 125..150, seeds_150_to_174 150..175, seeds_175_to_199 175..200
);

#[test]
fn the_same_seed_gives_the_same_digest() {
    for seed in [3, 17] {
        let (first, second) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert_eq!(first.digest, second.digest, "seed {seed}");
    }
    assert_ne!(run(3, &Options::default()).digest, run(17, &Options::default()).digest);
}

/// Runs seeds with a bug planted until an oracle speaks.
fn is_found(bug: Planted) {
    let options = Options { planted: bug, ..Options::default() };
    let found = (0..200).find_map(|seed| run(seed, &options).failure.map(|failure| (seed, failure)));
    let (seed, failure) = found.unwrap_or_else(|| panic!("{bug:?} was not found in 200 seeds"));
    println!("{bug:?}: seed {seed}: {failure:?}");
}

#[test]
fn a_flush_that_forgets_the_written_marks_is_found() {
    is_found(Planted::ForgetUnsaved);
}

#[test]
fn ignored_fua_is_found() {
    is_found(Planted::IgnoreFua);
}

#[test]
fn a_flush_that_skips_a_member_is_found() {
    is_found(Planted::FlushSkipsMember);
}

#[test]
fn unmarked_regions_are_found() {
    is_found(Planted::SkipDirtyMark);
}
