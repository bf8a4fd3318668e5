//! Members made into redundant space: the pool.
//!
//! Rank 5.

pub mod alloc;
pub mod cache;
pub mod dirty_log;
pub mod layout;
pub mod log;
pub mod quorum;
pub mod record;
pub mod redundancy;
pub mod region;
pub mod region_block;
pub mod state;
pub mod state_codec;
pub mod superblock;
