//! The trait that disks, sockets and time are reached through, and the closed set of things that can be asked.
//!
//! Contract, checked by `tests/driver_contract.rs` against every implementation:
//! - Every submitted operation completes exactly once, with the token it was given.
//! - The driver owns the buffers of an operation from `submit` until its completion has been reaped.
//! - `Write` succeeds only when all bytes were written; `Read` may end short only at the end of the file.
//! - `Write` with `durable` and `Flush` complete only when the bytes are past every volatile cache.
//! - `park` returns at `until` at the latest, and at once when a completion or an unpark is pending.
//! - File and socket ids are valid on every core of the process (of the simulated machine).
//! - Lasting memory has what was stored last when the process has been killed, and is zeros after a power cut.

use super::buf::{Buf, BufMut};
use super::time::Instant;
use crate::base::units::{ByteLen, ByteOffset, Span};
use nix::errno::Errno;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names an operation between `submit` and its completion; chosen by the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Token(pub u64);

/// An open file or block device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct FileId(pub u32);

/// An open socket, listening or connected.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct SocketId(pub u32);

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read only, shared, O_DIRECT where the file allows it.
    Inspect,
    /// Read and write, exclusively: O_EXCL on a block device, a lock on a regular file. Fails with EBUSY when
    /// somebody else has it. O_DIRECT where the file allows it.
    Exclusive,
    /// As `Exclusive`, but makes a regular file of this size if there is none.
    ExclusiveCreate { size: ByteLen },
}

/// What kind of thing was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    BlockDevice,
    RegularFile,
}

/// What the driver learned when it opened a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFacts {
    pub kind: FileKind,
    pub size: ByteLen,
    /// The smallest unit of I/O, bytes: 512 or 4096.
    pub logical_sector: u32,
    /// The unit that the device writes atomically, bytes.
    pub physical_sector: u32,
    pub rotational: bool,
    /// Discard gives space back (and is worth sending).
    pub discards: bool,
    /// Tells this stay of the device from later ones: one that was away has lost what was in its cache. 48 bits.
    pub stay: u64,
}

/// A file that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub file: FileId,
    pub facts: FileFacts,
}

/// Where a socket listens or connects to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A connection that was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    pub socket: SocketId,
    /// The other end, for logs.
    pub peer: String,
}

/// Which direction of a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Read,
    Write,
    Both,
}

/// Where received bytes go: the first buffer's window is filled before the second's.
pub struct RecvInto {
    pub first: BufMut,
    pub second: Option<BufMut>,
}

impl RecvInto {
    /// Bytes of both windows.
    pub fn room(&self) -> usize {
        self.first.len() + self.second.as_ref().map_or(0, |second| second.len())
    }
}

/// Something to do. Buffers are owned by the operation until its completion.
pub enum Op {
    Open {
        path: PathBuf,
        access: Access,
    },
    Close {
        file: FileId,
    },
    /// The file's size now, to notice truncation and growth.
    Size {
        file: FileId,
    },
    Read {
        file: FileId,
        offset: ByteOffset,
        into: BufMut,
    },
    Write {
        file: FileId,
        offset: ByteOffset,
        from: Buf,
        durable: bool,
    },
    Flush {
        file: FileId,
    },
    /// Gives the space back; what is read there afterwards is undefined.
    Discard {
        file: FileId,
        span: Span,
    },
    /// Makes the span read as zeros, in the cheapest way the device has.
    Zero {
        file: FileId,
        span: Span,
    },
    Listen {
        address: Address,
    },
    /// The address a listening socket got (the port, where 0 was asked for).
    LocalAddress {
        socket: SocketId,
    },
    Accept {
        socket: SocketId,
    },
    Connect {
        address: Address,
    },
    /// At least one byte, or 0 at the end of the stream. A receive that finds nothing may wait for `least` bytes, to
    /// save the wakings in between. It ends with fewer at the end of the stream, and when the connection holds no
    /// more. Of the receives that wait on one socket at a time, none or all have the same `least`.
    Recv {
        socket: SocketId,
        into: RecvInto,
        least: usize,
    },
    /// All bytes of all buffers, in order.
    Send {
        socket: SocketId,
        from: Vec<Buf>,
    },
    /// Ends a direction; a pending `Recv` or `Accept` on it completes.
    Shutdown {
        socket: SocketId,
        direction: Direction,
    },
    CloseSocket {
        socket: SocketId,
    },
}

/// How an operation ended, with the buffers it held.
pub enum Done {
    Opened(Result<Opened, Errno>),
    Size(Result<ByteLen, Errno>),
    Read(Result<usize, Errno>, BufMut),
    Socket(Result<SocketId, Errno>),
    LocalAddress(Result<Address, Errno>),
    Accepted(Result<Accepted, Errno>),
    Received(Result<usize, Errno>, RecvInto),
    Sent(Result<(), Errno>, Vec<Buf>),
    /// Close, Write, Flush, Discard, Zero, Shutdown, CloseSocket.
    Finished(Result<(), Errno>),
}

/// The end of one operation.
pub struct Completion {
    pub token: Token,
    pub done: Done,
}

/// Wakes a parked driver from any thread.
pub trait Unpark: Send + Sync {
    fn unpark(&self);
}

/// Memory under a name. It outlives the process that wrote it, however that ended, and not the machine's power.
/// All cores of the process share it. A word is stored whole or not at all, and what one thread stores is there in
/// that order.
pub trait LastingMemory: Send + Sync {
    /// # Panics
    /// If `at` is not within the memory; `store` too.
    fn load(&self, at: usize) -> u64;

    fn store(&self, at: usize, word: u64);

    /// Takes the name away: nobody finds what is in it again.
    fn remove(&self);
}

/// One core's way to the world.
pub trait Driver {
    /// Monotonic time.
    fn now(&self) -> Instant;

    /// Wall-clock time, nanoseconds since 1970 (UTC), for records that people read; never for decisions.
    fn wall_ns(&self) -> u64;

    /// Carries out what takes no waiting, here and now; gives anything else back, to be submitted.
    fn try_now(&mut self, op: Op) -> Result<Done, Op> {
        Err(op)
    }

    /// Fills the buffer's window as a read would, where the file's bytes are memory and no system call is needed; false
    /// if that is not so: then the read is to be submitted.
    fn read_now(&mut self, _file: FileId, _offset: ByteOffset, _into: &mut BufMut) -> bool {
        false
    }

    /// Writes the bytes, under the same condition; false if the write is to be submitted. Some of the bytes may have been
    /// written then.
    fn write_now(&mut self, _file: FileId, _offset: ByteOffset, _from: &Buf) -> bool {
        false
    }

    /// Takes an operation; it may start at once or at the next `reap` or `park`.
    fn submit(&mut self, token: Token, op: Op);

    /// Starts what was submitted and appends what has ended, without waiting.
    fn reap(&mut self, completions: &mut Vec<Completion>);

    /// Waits until something completed, an unpark came, or `until` has passed.
    fn park(&mut self, until: Option<Instant>);

    /// The memory of this name, `words` long; zeros if there was none, or one of another length. Taken for this process
    /// alone until the last handle to it is dropped.
    ///
    /// # Errors
    /// EBUSY when another process has it (or this one already); EOPNOTSUPP when the folder is not in memory; EPERM when
    /// others may write what is there; otherwise as open(2) and fallocate(2).
    fn lasting_memory(&self, _path: &Path, _words: usize) -> Result<Arc<dyn LastingMemory>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// The handle that wakes this driver.
    fn unparker(&self) -> Arc<dyn Unpark>;
}
