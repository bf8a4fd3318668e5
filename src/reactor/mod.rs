//! One core: an executor whose tasks wait for operations of the driver, for time, and for each other.
//!
//! Rank 2. Owns: the executor (`core`), the life cycle of operations (`op`), timers, primitives that tasks wait on
//! (`sync`, usable between cores), mailboxes, socket handles (`net`), and starting pinned threads (`threads`).
//! There are no thread-locals and no globals: in the simulator several cores live on one thread.

pub mod core;
pub mod mailbox;
pub mod net;
mod op;
pub mod sync;
pub mod threads;
mod timers;

pub use self::core::{Core, CoreIndex, Turn};
pub use op::OpFuture;
