//! Members made into redundant space: the pool.
//!
//! Rank 5.

pub mod alloc;
pub mod layout;
pub mod log;
pub mod quorum;
pub mod record;
pub mod redundancy;
pub mod state;
pub mod state_codec;
pub mod superblock;
