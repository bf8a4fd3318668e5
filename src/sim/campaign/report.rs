//! What a run found: which oracle, in which words, and how to see it again.

use crate::sim::Stop;
use std::fmt;

/// The rules that a run is judged by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Oracle {
    /// A sector holds what nobody wrote there.
    Bytes,
    /// A read returned something older than what had been answered (or seen) before it began.
    Order,
    /// After a crash a sector is older than what was flushed.
    Durability,
    /// A sector changed although nothing was written since it was last read.
    Stability,
    /// Copies differ, or do not match their checksums, when nothing is under way.
    CopiesEqual,
    /// Two slots share an extent, or an extent is lost.
    Extents,
    /// A buffer was not given back.
    Buffers,
    /// Something was not answered in bounded virtual time.
    Liveness,
    /// A pool opened without a majority, or did not open with one.
    Quorum,
    /// A member is out of sync though nothing happened to it.
    Membership,
    /// What the pool says would be lost with a member is not what is lost.
    Honesty,
    /// A request failed for no reason.
    Answers,
    /// Two runs of one seed differ.
    Determinism,
    /// An assertion of the program failed.
    Panic,
}

/// What a run was stopped by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub oracle: Oracle,
    pub what: String,
}

pub type Verdict<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(oracle: Oracle, what: impl Into<String>) -> Failure {
        Failure { oracle, what: what.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.oracle, self.what)
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Failure {
        Failure::new(Oracle::Liveness, stop.to_string())
    }
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    /// The world's digest: equal for equal seeds.
    pub digest: u64,
    pub failure: Option<Failure>,
    /// What was done, one line each.
    pub steps: Vec<String>,
    pub counts: Counts,
}

/// How much a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub requests: u64,
    pub failed_requests: u64,
    pub crashes: u64,
    pub crashes_in_recovery: u64,
    pub members_lost: u64,
    pub sectors_judged: u64,
    pub members_removed: u64,
    /// Times that all copies of drives that stayed away were made anew.
    pub rebuilt: u64,
    /// Members taken out of the pool.
    pub taken_out: u64,
    /// Slots were spread over drives that had been added.
    pub spread: u64,
    pub connections: u64,
    pub connections_lost: u64,
    /// Changes whose connection died before they were answered.
    pub outcomes_unknown: u64,
    /// What operators did beside the load.
    pub operations: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.requests += other.requests;
        self.failed_requests += other.failed_requests;
        self.crashes += other.crashes;
        self.crashes_in_recovery += other.crashes_in_recovery;
        self.members_lost += other.members_lost;
        self.sectors_judged += other.sectors_judged;
        self.members_removed += other.members_removed;
        self.rebuilt += other.rebuilt;
        self.spread += other.spread;
        self.taken_out += other.taken_out;
        self.connections += other.connections;
        self.connections_lost += other.connections_lost;
        self.outcomes_unknown += other.outcomes_unknown;
        self.operations += other.operations;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests ({} failed), {} crashes ({} during recovery), {} members lost, {} removed in turn, {} rebuilt, {} spread, {} taken out, {} connections ({} lost, {} outcomes unknown), {} operations, {} sectors judged",
            self.requests,
            self.failed_requests,
            self.crashes,
            self.crashes_in_recovery,
            self.members_lost,
            self.members_removed,
            self.rebuilt,
            self.spread,
            self.taken_out,
            self.connections,
            self.connections_lost,
            self.outcomes_unknown,
            self.operations,
            self.sectors_judged
        )
    }
}
