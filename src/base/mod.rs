//! What every other module stands on: units, limits, randomness, bitmaps, checksums, byte codecs, counters.
//!
//! Rank 0. Nothing here does I/O, knows the time or holds global state.

pub mod bitmap;
pub mod checksum;
pub mod codec;
pub mod limits;
pub mod metrics;
pub mod planted;
pub mod prng;
pub mod size;
pub mod units;
pub mod uri;
