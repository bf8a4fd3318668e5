//! Operations in flight, at addresses that do not move, reused without allocation.

use crate::base::units::Span;
use crate::io::buf::{Buf, BufMut};
use crate::io::driver::{RecvInto, Token};
use nix::errno::Errno;
use socket2::SockAddr;
use std::os::fd::OwnedFd;

/// What an operation in flight is about. Offsets and progress are in bytes.
pub(super) enum Work {
    /// The slot is free, or its work is being looked at.
    Idle,
    Read(Reading),
    Write(Writing),
    Flush {
        file: u32,
    },
    Allocate(Allocating),
    /// The length of a regular file: its file system may have to ask somebody.
    Stat(Box<Stating>),
    /// A discard on a block device, by a command through the ring.
    Discard {
        file: u32,
        span: Span,
    },
    /// Another thread carries it out and leaves a note.
    Offloaded {
        file: u32,
    },
    Accept {
        socket: u32,
    },
    Connect(Box<Connecting>),
    Receive(Receiving),
    Send(Sending),
}

pub(super) struct Reading {
    pub file: u32,
    pub offset: u64,
    pub into: BufMut,
    pub done: usize,
    /// The unit of unbuffered I/O: a read that ends elsewhere has met the end of the file.
    pub direct: Option<u32>,
}

pub(super) struct Writing {
    pub file: u32,
    pub offset: u64,
    pub from: Buf,
    pub done: usize,
    pub durable: bool,
}

/// A fallocate with the ways to try, the cheapest first.
pub(super) struct Allocating {
    pub file: u32,
    pub span: Span,
    pub modes: &'static [i32],
}

pub(super) struct Stating {
    pub file: u32,
    pub answer: libc::statx,
}

pub(super) struct Connecting {
    pub socket: OwnedFd,
    pub address: SockAddr,
    pub tcp: bool,
}

pub(super) struct Receiving {
    pub socket: u32,
    pub into: RecvInto,
    /// Bytes worth waking up for.
    pub least: usize,
}

pub(super) struct Sending {
    pub socket: u32,
    pub from: Vec<Buf>,
    /// The first buffer with unsent bytes, and how many of its bytes are sent.
    pub at: usize,
    pub within: usize,
}

impl Work {
    /// The handle that the operation keeps in use.
    pub fn handle(&self) -> Option<u32> {
        match self {
            Work::Idle | Work::Connect(_) => None,
            Work::Read(Reading { file, .. })
            | Work::Write(Writing { file, .. })
            | Work::Flush { file }
            | Work::Allocate(Allocating { file, .. })
            | Work::Discard { file, .. }
            | Work::Offloaded { file } => Some(*file),
            Work::Stat(stating) => Some(stating.file),
            Work::Accept { socket }
            | Work::Receive(Receiving { socket, .. })
            | Work::Send(Sending { socket, .. }) => Some(*socket),
        }
    }

    /// Whether a disk is at work on it, as opposed to a peer.
    pub fn is_disk(&self) -> bool {
        match self {
            Work::Read(_)
            | Work::Write(_)
            | Work::Flush { .. }
            | Work::Allocate(_)
            | Work::Stat(_)
            | Work::Discard { .. } => true,
            Work::Idle
            | Work::Offloaded { .. }
            | Work::Accept { .. }
            | Work::Connect(_)
            | Work::Receive(_)
            | Work::Send(_) => false,
        }
    }
}

/// One operation in flight, with the arrays that its entry points to.
pub(super) struct Slot {
    pub token: Token,
    pub work: Work,
    pub iovecs: Vec<libc::iovec>,
    pub message: libc::msghdr,
    pub address: libc::sockaddr_storage,
    pub address_len: libc::socklen_t,
}

impl Stating {
    pub fn new(file: u32) -> Stating {
        // SAFETY: a plain C structure of integers, for which all zeros is a valid value.
        Stating { file, answer: unsafe { std::mem::zeroed() } }
    }
}

/// All slots of a driver. A key names one; keys of finished operations are used again.
#[derive(Default)]
pub(super) struct Slots {
    /// Boxed: the kernel has pointers into the slots while the vector grows.
    #[expect(clippy::vec_box)]
    slots: Vec<Box<Slot>>,
    free: Vec<u32>,
    disks: usize,
}

impl Slots {
    pub fn insert(&mut self, token: Token, work: Work) -> u32 {
        self.disks += usize::from(work.is_disk());
        if let Some(key) = self.free.pop() {
            let slot = self.at(key);
            slot.token = token;
            slot.work = work;
            return key;
        }
        let key = u32::try_from(self.slots.len()).expect("fewer than 2^32 operations in flight");
        self.slots.push(Box::new(Slot::new(token, work)));
        key
    }

    pub fn at(&mut self, key: u32) -> &mut Slot {
        &mut self.slots[key as usize] // u32 to usize
    }

    /// Takes the work out, to look at its result; it goes back with `put`, or the slot is freed with `free`.
    pub fn take(&mut self, key: u32) -> Work {
        let work = std::mem::replace(&mut self.at(key).work, Work::Idle);
        self.disks -= usize::from(work.is_disk());
        work
    }

    pub fn put(&mut self, key: u32, work: Work) {
        self.disks += usize::from(work.is_disk());
        self.at(key).work = work;
    }

    /// Frees a slot whose work was taken.
    pub fn free(&mut self, key: u32) -> Token {
        self.free.push(key);
        self.at(key).token
    }

    /// Whether any disk is at work.
    pub fn disks_busy(&self) -> bool {
        self.disks > 0
    }
}

impl Slot {
    fn new(token: Token, work: Work) -> Slot {
        // SAFETY: both are plain C structures of integers and pointers, for which all zeros is a valid value.
        let (message, address) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Slot { token, work, iovecs: Vec::new(), message, address, address_len: 0 }
    }
}

/// The value of a result: a count, or the error.
pub(super) fn outcome(result: i32) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| Errno::from_raw(result.wrapping_neg()))
}
