//! What the pool promises, one test for each promise, named by its number in docs/consistency.md: production code on
//! simulated drives.

mod copies;
mod crashes;
mod faults;
mod flushes;
mod losses;
#[path = "../shared/payload.rs"]
mod payload;
mod rig;
mod shrinking;
