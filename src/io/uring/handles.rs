//! The process-wide table of open files and sockets, and what is known about each.
//!
//! An id names the same thing on every core and is never used again. A core that uses an id keeps a share of
//! the `Held` behind it (see `locals`), so that the hot path takes no lock and a file descriptor number
//! cannot be recycled while any core has operations queued on it. Closing removes the id from the table,
//! tells every core that keeps a share to let go, and completes when the last share is gone: then the
//! descriptor is closed and an exclusive lock is free again.

use super::mapped::Mapped;
use super::wake::{Note, Peer};
use crate::io::driver::{FileKind, Token};
use nix::errno::Errno;
use nix::fcntl::Flock;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All open files and sockets of the process; shared by its cores.
#[derive(Default)]
pub struct Handles {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: u32,
    rows: BTreeMap<u32, Row>,
}

struct Row {
    held: Arc<Held>,
    /// The drivers that keep a share.
    users: Vec<Arc<Peer>>,
}

impl Handles {
    pub fn new() -> Arc<Handles> {
        Arc::default()
    }

    /// Open files and sockets.
    pub fn open_count(&self) -> usize {
        self.lock().rows.len()
    }

    /// Gives the thing an id. EMFILE when all four thousand million ids have been used.
    pub(super) fn insert(&self, held: Held) -> Result<u32, Errno> {
        let mut table = self.lock();
        let id = table.last.checked_add(1).ok_or(Errno::EMFILE)?;
        table.last = id;
        table.rows.insert(id, Row { held: Arc::new(held), users: Vec::new() });
        Ok(id)
    }

    /// A share for a driver that will keep it until it is told to let go.
    pub(super) fn share(&self, id: u32, user: &Arc<Peer>) -> Option<Arc<Held>> {
        let mut table = self.lock();
        let row = table.rows.get_mut(&id)?;
        row.users.push(user.clone());
        Some(row.held.clone())
    }

    /// A share to use at once and drop.
    pub(super) fn peek(&self, id: u32) -> Option<Arc<Held>> {
        self.lock().rows.get(&id).map(|row| row.held.clone())
    }

    /// Removes the id. `closer` gets `Note::Closed` when the last share has been dropped; all users but the
    /// closer are told to let go.
    pub(super) fn remove(&self, id: u32, closer: &Arc<Peer>, token: Token) -> Option<Arc<Held>> {
        let row = self.lock().rows.remove(&id)?;
        *lock(&row.held.closer) = Some((closer.clone(), token));
        for user in row.users.iter().filter(|user| !Arc::ptr_eq(user, closer)) {
            user.post(Note::Release(id));
        }
        Some(row.held)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

/// Every critical section here leaves the data whole, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An open file or socket.
pub(super) struct Held {
    /// None only while it is being dropped.
    descriptor: Option<Descriptor>,
    pub traits: Traits,
    closer: Mutex<Option<(Arc<Peer>, Token)>>,
}

pub(super) enum Descriptor {
    Plain(OwnedFd),
    /// A regular file with an exclusive lock, which is released when this is dropped even where the kernel
    /// keeps a registered file for a moment longer (before Linux 6.4).
    Locked(Flock<OwnedFd>),
}

#[derive(Debug)]
pub(super) enum Traits {
    File(FileTraits),
    Socket(SocketTraits),
}

/// What the driver must know of a file to do I/O on it.
#[derive(Debug)]
pub(super) struct FileTraits {
    pub kind: FileKind,
    /// On tmpfs or ramfs, where I/O is a copy.
    pub in_memory: bool,
    /// The bytes of a file in memory.
    pub mapped: Option<Mapped>,
    /// The unit of unbuffered I/O, bytes; None when I/O goes through the page cache.
    pub direct: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct SocketTraits {
    /// A TCP socket, not a local one.
    pub tcp: bool,
    /// Bytes from which on the kernel wakes a receive that waits (SO_RCVLOWAT); 0 before it was ever set.
    pub wakes_at: AtomicUsize,
    /// Where a listening local socket is bound: removed when it is closed.
    pub bound: Option<BoundPath>,
}

/// A socket file that this process made.
#[derive(Clone, Debug)]
pub(super) struct BoundPath {
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
}

impl Held {
    pub fn new(descriptor: Descriptor, traits: Traits) -> Held {
        Held { descriptor: Some(descriptor), traits, closer: Mutex::new(None) }
    }

    pub fn raw(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    pub fn file(&self) -> Option<&FileTraits> {
        match &self.traits {
            Traits::File(traits) => Some(traits),
            Traits::Socket(_) => None,
        }
    }

    pub fn mapped(&self) -> Option<&Mapped> {
        self.file().and_then(|traits| traits.mapped.as_ref())
    }

    pub fn socket(&self) -> Option<&SocketTraits> {
        match &self.traits {
            Traits::File(_) => None,
            Traits::Socket(traits) => Some(traits),
        }
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.descriptor.as_ref().expect("present until dropped") {
            Descriptor::Plain(fd) => fd.as_fd(),
            Descriptor::Locked(fd) => fd.as_fd(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Traits::Socket(SocketTraits { bound: Some(bound), .. }) = &self.traits {
            bound.remove();
        }
        drop(self.descriptor.take());
        // Only now: whoever waits for the close may open the file again.
        let closer = self.closer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((peer, token)) = closer {
            peer.post(Note::Closed(token));
        }
    }
}

impl BoundPath {
    fn remove(&self) {
        let still_ours = nix::sys::stat::lstat(&self.path)
            .is_ok_and(|found| found.st_dev == self.device && found.st_ino == self.inode);
        if still_ours {
            // A leftover socket file is harmless: the next listener finds that nobody answers on it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
