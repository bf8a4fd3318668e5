//! Members made into redundant space: the pool.

pub mod alloc;
pub mod layout;
pub mod redundancy;
