//! The simulated world: drives, network, clock and power, in one thread, from one seed.
//!
//! The production code runs unchanged on it, through `io::driver::Driver`. Used by tests and `tools/sim.rs`.
//!
//! ```text
//! let world = World::new(seed);
//! let drive = world.add_disk("/dev/a", DiskShape::flash(ByteLen(256 << 20)));
//! let head = world.boot(2);                                   // a process of two cores
//! let pool = world.run_on(&head.cores, head.core(0), Duration::from_secs(60), async move { … })?;
//! world.after(Duration::from_millis(30), |w| w.disk("/dev/a").unplug());
//! world.power_cut();                                          // or kill, or crash_at_change(n, …) beforehand
//! assert_eq!(world.bury(head), 0, "no buffer leaked");        // drops the tasks of the old life
//! let head = world.boot(2);                                   // the next life sees the same drives
//! println!("{:016x}", world.digest());
//! ```
//!
//! - **Time** is virtual and passes only in `World::run`, `run_on`, `pass`, `step`, and where a core parks alone.
//!   `run` ends with `Stop` when a life ended, when nothing can happen any more, when the limit of virtual time
//!   is over (liveness), or when tasks spin. Between events, every core that has something to do gets turns in
//!   random order; a round of turns takes a few virtual microseconds.
//! - **Drives** (`media`, `disk`, `storage`): a write is seen by reads when it completes, parts of it earlier; it is
//!   stable when it was durable, or when a flush that was *submitted* after its completion has ended well. A
//!   power cut keeps of every other sector any version since, each sector by itself; of operations in flight any
//!   sectors have happened. A file that was created is there for certain after its first flush.
//! - **Faults** (`faults`): `world.disk(path)` gives a handle for everything done by hand (`unplug`, `plug`, `hang`,
//!   `release`, `set_slow`, `snapshot`, `restore`, `damage`, `break_reads`, `fail_next`, …) and `set_dials` for
//!   chances per operation. `incidents` tells what the dials did, for oracles that keep a fault atlas.
//! - **Network** (`net`, `pipe`): addresses are plain keys; connections deliver in order, in segments of any size,
//!   with bounded buffers. `set_net` has the dials, `connections`, `clog`, `unclog` and `reset_connection` work by
//!   hand. A process on another machine (`boot_at(Place::Elsewhere, …)`) outlives a power cut of the head and
//!   hears of it late; if its own machine goes (`vanish`), the head hears of that late.
//! - **Oracles** look past time and faults with `peek` and `peek_stable`. Every buffer of a write or send is
//!   checked at completion to be what it was at submission.
//! - **Lives**: `boot` starts a process, `kill` and `power_cut` end it, `bury` drops its cores. Completions of a
//!   life that ended never reach its tasks; what its tasks still submit has no effect. A core and its tasks keep
//!   each other alive: memory comes back only where every process is buried.
//! - The **digest** covers every operation, its data and its end: same seed, same code, same digest.

pub mod campaign;
mod disk;
mod driver;
mod faults;
mod lasting;
mod lives;
mod media;
mod net;
mod ops;
mod pipe;
mod schedule;
mod sockets;
mod storage;
#[cfg(test)]
mod tests;
mod world;

pub use disk::{Action, DiskShape, Image, Latency};
pub use faults::{Damage, Dials, DiskHandle, Incident};
pub use lives::{Crash, Place, ProcessId};
pub use schedule::{Process, Stop};
pub use sockets::{ConnectionId, NetDials};
pub use world::{Step, World};
