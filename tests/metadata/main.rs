//! What the pool does when its metadata is torn, rotten, old, doubled, foreign or made up: on simulated drives.

mod attributes;
mod damage;
mod hostile;
mod identity;
mod joining;
#[path = "../shared/payload.rs"]
mod payload;
mod rig;
