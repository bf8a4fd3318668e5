//! drystone: a striped and mirrored block layer over mismatched drives, served over NBD.
//!
//! Each module uses only those of its rank or below (checked by `tests/tidy.rs`). `docs/architecture.md` has the ranks,
//! the code map and the way of a request through the house.

pub mod base;
pub mod bench;
pub mod block;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod disk;
pub mod io;
pub mod link;
pub mod nbd;
pub mod nvmf;
pub mod pool;
pub mod reactor;
pub mod sim;
pub mod target;
pub mod volume;
