//! The campaign's own tests: planted bugs are found, and by which oracle.

use super::*;

#[test]
fn a_few_seeds_pass() {
    for seed in 0..3 {
        let report = run(seed, &Options::default());
        assert_eq!(report.failure, None, "seed {seed}\n{}", report.steps.join("\n"));
    }
}
