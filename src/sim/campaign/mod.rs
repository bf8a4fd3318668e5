//! The campaign: seeded runs of the production pool and volumes on the simulated world, which try to break it.
//!
//! ```text
//! plan ──▶ machine: create ─▶ open ─▶ volumes ─▶ rounds of { load + faults ─▶ crash | stop ─▶ open ─▶ checks }
//!                   ─▶ heal ─▶ clean close ─▶ open ─▶ checks ─▶ rot ─▶ open ─▶ checks ─▶ close
//! ```
//!
//! - `plan`: what a seed stands for. `run(seed, &Options)` is the way in.
//! - `workload`: clients, and reading everything back. `nemesis`: faults while they work. `strangers`: between lives.
//! - `network`, `port`: clients on other machines, over NBD, and how a request reaches its volume. `operator`, `ledger`:
//!   volumes that come, grow and go meanwhile.
//! - `life`: opening and ending.
//! - `exhaustive`: what can be tried in full, beside the seeds.
//! - `model`, `stamp`: what every sector may hold. `oracles`: checks of a pool at rest. `report`: findings.
//!
//! Faults stay within the fault model: what a run breaks, another copy still has, and a majority of votes remains
//! unless the run wants to see a refusal. The same seed gives the same run, to the digest.

pub mod exhaustive;
mod ledger;
mod life;
mod model;
mod nemesis;
mod network;
mod operator;
mod oracles;
mod plan;
mod port;
mod report;
mod run;
mod stamp;
mod strangers;
#[cfg(test)]
mod tests;
mod workload;

pub use plan::{FAULTS, Fault, Options, Plan, plan};
pub use report::{Counts, Failure, Oracle, Report};
pub use run::run;
