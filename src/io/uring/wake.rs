//! How other threads reach a core's driver: an eventfd that its ring reads, and a box of notes.
//!
//! Protocol, for an `unpark` that is never lost and costs at most one system call per sleep:
//! - `unpark` sets `pending` and writes to the eventfd only if it was not set.
//! - The driver clears `pending` when its read of the eventfd has completed, and looks at everything that was
//!   announced (its notes; the executor's queue) only after that. Whoever found `pending` set before it was
//!   cleared announced earlier, and the exchange makes that visible.

use crate::io::driver::{Token, Unpark};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;

/// What one driver is told by others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Note {
    /// Somebody closes this handle: let go of it.
    Release(u32),
    /// A handle whose closing was asked for here is closed everywhere.
    Closed(Token),
    /// The operation in this slot was carried out by another thread.
    Offloaded { key: u32, result: Result<(), Errno> },
}

/// The end of a driver that other threads hold.
pub(super) struct Peer {
    event: EventFd,
    owner: ThreadId,
    pending: AtomicBool,
    notes: Mutex<Vec<Note>>,
    has_notes: AtomicBool,
}

impl Peer {
    /// The end of a driver that lives on the calling thread.
    pub fn new() -> Result<Peer, Errno> {
        Ok(Peer {
            // Blocking: io_uring would end a read of a non-blocking eventfd with EAGAIN instead of waiting.
            event: EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?,
            owner: std::thread::current().id(),
            pending: AtomicBool::new(false),
            notes: Mutex::default(),
            has_notes: AtomicBool::new(false),
        })
    }

    /// Leaves a note and wakes the driver. The driver itself looks at its notes before it sleeps, so that a
    /// note to oneself needs no waking.
    pub fn post(&self, note: Note) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
        self.has_notes.store(true, Ordering::Release);
        if std::thread::current().id() != self.owner {
            self.unpark();
        }
    }

    /// Takes what was left, without a lock when there is nothing.
    pub fn take_notes(&self) -> Vec<Note> {
        if !self.has_notes.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_notes.store(false, Ordering::Release);
        std::mem::take(&mut notes)
    }

    pub fn has_notes(&self) -> bool {
        self.has_notes.load(Ordering::Acquire)
    }

    /// The driver's read of the eventfd completed.
    pub fn read_completed(&self) {
        self.pending.swap(false, Ordering::SeqCst);
    }

    pub fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

impl Unpark for Peer {
    fn unpark(&self) {
        if !self.pending.swap(true, Ordering::SeqCst) {
            // Fails only when the counter is full, and then the driver is being woken anyway.
            let _ = self.event.write(1);
        }
    }
}
