//! The production driver: Linux io_uring, one ring per core, never shared between threads.
//!
//! The way of an operation: `try_now` (in `now`) carries out on the spot what is only a copy; `submit` (in
//! `begin`) checks any other, takes its handle into use and puts it in a slot that does not move; `entries`
//! makes the ring entry; the next `reap` or `park` hands all queued entries to the kernel in one system call;
//! `settle` decides from the result whether it goes on or has ended. Buffers, address structures and iovec
//! arrays belong to the slot until the result has been seen.
//!
//! Rules:
//! - The thread that makes a driver is the only one to use it (SINGLE_ISSUER), and drops it.
//! - The kernel finishes operations only inside `reap` and `park` (DEFER_TASKRUN): nothing runs behind our
//!   back.
//! - A descriptor is closed only when no core has anything queued on it (see `handles`).
//! - A driver that is dropped first gets everything back from the kernel; what the kernel keeps is leaked.

mod begin;
mod entries;
mod finish;
mod handles;
mod lasting;
mod locals;
mod mapped;
mod memory;
mod now;
mod offload;
mod open;
mod ring;
mod settle;
mod setup;
mod slots;
mod sockets;
#[cfg(test)]
mod tests;
mod wake;

pub use handles::Handles;
pub use setup::{SetupError, Warning};

use super::buf::{Buf, BufMut, BufPool};
use super::driver::{Completion, Done, Driver, FileId, LastingMemory, Op, Token, Unpark};
use super::time::Instant;
use crate::base::units::ByteOffset;
use entries::Arena;
use io_uring::opcode;
use io_uring::types::{CancelBuilder, Fd};
use lasting::Mapping;
use locals::Locals;
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use offload::Offload;
use ring::{Ended, Ring};
use slots::Slots;
use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use wake::Peer;

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Operations that can be queued before they are handed to the kernel.
    pub entries: u32,
    /// Results that fit before the kernel has to keep them aside.
    pub completions: u32,
    /// Files and sockets that are registered; more than that are served without.
    pub files: u32,
}

impl Default for UringConfig {
    fn default() -> UringConfig {
        UringConfig { entries: 512, completions: 8192, files: 2048 }
    }
}

/// Bytes copied to and from memory file systems in one turn before the network gets its turn again: about a
/// tenth of a millisecond.
const INLINE_BYTES_PER_TURN: usize = 1 << 20;

/// The longest sleep. The kernel adds it to its clock, which must not overflow.
const SLEEP_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long a dropped driver waits for disks to finish with its buffers before it leaks them.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// `user_data` of the read that waits for `unpark`; operations have the numbers of their slots, below 2^32.
const WAKE: u64 = u64::MAX;

/// `user_data` of cancellations.
const CANCEL: u64 = u64::MAX - 1;

/// One core's driver.
pub struct UringDriver {
    ring: Ring,
    slots: Slots,
    locals: Locals,
    shared: Arc<Handles>,
    peer: Arc<Peer>,
    arena: Arena,
    /// Keeps the registered memory mapped until the ring is gone.
    buffers: BufPool,
    /// Where the kernel puts the eventfd's count.
    wake_count: Box<UnsafeCell<u64>>,
    woken: bool,
    /// Has ended, and is to be reported by the next `reap`.
    ready: Vec<Completion>,
    /// Slots with work on memory file systems that exceeds this turn's share.
    deferred: VecDeque<u32>,
    inline_bytes_left: usize,
    /// What the sends of `now` point to, used again for each.
    iovecs: Vec<libc::iovec>,
    commands: bool,
    offload: Offload,
    ended: Vec<Ended>,
    warnings: Vec<Warning>,
}

impl UringDriver {
    /// A driver for the calling thread, which alone may use it.
    pub fn new(
        config: UringConfig,
        buffers: &BufPool,
        shared: Arc<Handles>,
    ) -> Result<UringDriver, SetupError> {
        let uring = setup::make_ring(config)?;
        let mut warnings = Vec::new();
        let (base, size) = buffers.arena();
        let registered = setup::register_arena(&uring, buffers).map_err(|warning| warnings.push(warning));
        let files = setup::register_files(&uring, config.files).map_err(|warning| warnings.push(warning));
        let commands = setup::has_commands(&uring);
        let peer = Peer::new().map_err(|errno| SetupError::Failed { step: "eventfd", errno })?;
        let mut driver = UringDriver {
            ring: Ring::new(uring),
            slots: Slots::default(),
            locals: Locals::new(shared.clone(), files.unwrap_or(0)),
            shared,
            peer: Arc::new(peer),
            arena: Arena::new(base, registered.map_or(0, |()| size)),
            buffers: buffers.clone(),
            wake_count: Box::default(),
            woken: false,
            ready: Vec::new(),
            deferred: VecDeque::new(),
            inline_bytes_left: INLINE_BYTES_PER_TURN,
            iovecs: Vec::new(),
            commands,
            offload: Offload::default(),
            ended: Vec::new(),
            warnings,
        };
        driver.await_wake();
        Ok(driver)
    }

    /// What makes this driver slower than it could be, for the operator.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    fn await_wake(&mut self) {
        let read = opcode::Read::new(Fd(self.peer.event()), self.wake_count.get().cast(), 8);
        // SAFETY: the count is boxed and owned by the driver, whose drop waits for the result of this read,
        // or leaks the box. The descriptor belongs to the peer, which the driver holds.
        unsafe { self.ring.push(read.build().user_data(WAKE)) }
    }

    fn complete(&mut self, token: Token, done: Done) {
        self.ready.push(Completion { token, done });
    }

    /// Whether `park` must not sleep.
    fn is_pending(&self) -> bool {
        self.woken || !self.ready.is_empty() || !self.deferred.is_empty() || self.peer.has_notes()
    }
}

impl Driver for UringDriver {
    fn now(&self) -> Instant {
        Instant::from_ns(clock_ns(ClockId::CLOCK_MONOTONIC))
    }

    fn wall_ns(&self) -> u64 {
        clock_ns(ClockId::CLOCK_REALTIME)
    }

    fn try_now(&mut self, op: Op) -> Result<Done, Op> {
        now::try_now(self, op)
    }

    fn read_now(&mut self, file: FileId, offset: ByteOffset, into: &mut BufMut) -> bool {
        now::read(self, file, offset.0, into)
    }

    fn write_now(&mut self, file: FileId, offset: ByteOffset, from: &Buf) -> bool {
        now::write(self, file, offset.0, from)
    }

    fn lasting_memory(&self, path: &Path, words: usize) -> Result<Arc<dyn LastingMemory>, Errno> {
        Ok(Arc::new(Mapping::open(path, words)?))
    }

    fn submit(&mut self, token: Token, op: Op) {
        self.begin(token, op);
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        self.read_notes();
        self.perform_deferred();
        if self.ring.has_work() {
            self.ring.submit();
        }
        self.look_at_results();
        completions.append(&mut self.ready);
    }

    fn park(&mut self, until: Option<Instant>) {
        self.read_notes();
        self.look_at_results();
        if !self.is_pending() {
            let timeout = until.map(|until| until.since(self.now()).min(SLEEP_MAX));
            match timeout {
                Some(Duration::ZERO) => self.ring.submit(),
                Some(_) | None => self.ring.wait(timeout, !self.slots.disks_busy()),
            }
            self.look_at_results();
        }
        self.woken = false;
    }

    fn unparker(&self) -> Arc<dyn Unpark> {
        self.peer.clone()
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        // Results of cancelled operations are not looked at: nobody is left to be told.
        let give_up = self.now() + DRAIN_MAX;
        while self.ring.outstanding() > 0 && self.now() < give_up {
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(CANCEL);
            // SAFETY: a cancellation points to nothing.
            unsafe { self.ring.push(cancel) };
            self.ring.wait(Some(Duration::from_millis(100)), true);
            self.ended.clear();
            self.ring.collect(&mut self.ended);
        }
        if self.ring.outstanding() == 0 {
            self.ring.unregister();
        } else {
            // A disk that does not answer may still write into these buffers, even when the ring is gone.
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(std::mem::take(&mut self.wake_count));
            std::mem::forget(self.buffers.clone());
        }
    }
}

fn clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("Linux has this clock");
    let (seconds, nanoseconds) = (time.tv_sec(), time.tv_nsec());
    u64::try_from(seconds).unwrap_or(0) * 1_000_000_000 + u64::try_from(nanoseconds).unwrap_or(0)
}
