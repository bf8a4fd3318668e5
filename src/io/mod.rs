//! The seam: everything below it is the world (disks, sockets, clock), everything above it is ours.
//!
//! Rank 1. `driver` says what can be asked; `uring` asks Linux. The simulator has a driver of its own, so that
//! the same code runs on both. Owns all `unsafe` code but that of `disk::identify`.

pub mod buf;
pub mod driver;
pub mod time;
pub mod uring;
