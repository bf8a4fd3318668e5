//! From an operation to the ring entry that starts or continues it.

use super::locals::Target;
use super::setup::PIECE_MAX;
use super::slots::{Allocating, Connecting, Reading, Receiving, Sending, Slot, Stating, Work, Writing};
use crate::io::buf::Buf;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};
use std::ptr::{addr_of, addr_of_mut};

/// Buffers in one send. The kernel's own limit (UIO_MAXIOV).
const SEND_BUFFERS_MAX: usize = 1024;

/// Bytes in one send: more at once only delays the first of them. Batches of replies are shorter.
const SEND_BYTES_MAX: usize = 512 << 10;

/// `BLOCK_URING_CMD_DISCARD` of linux/blkdev.h, since Linux 6.12: `_IO(0x12, 0)`.
const COMMAND_DISCARD: u32 = 0x1200;

/// Where the registered memory is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arena {
    base: usize,
    len: usize,
}

impl Arena {
    /// The arena at this address; `len` is 0 if it is not registered.
    pub fn new(base: *const u8, len: usize) -> Arena {
        Arena { base: base.addr(), len }
    }

    /// The fixed buffer that these bytes lie in.
    fn index(self, at: *const u8, len: usize) -> Option<u16> {
        let start = at.addr().checked_sub(self.base)?;
        let end = start.checked_add(len)?;
        // Buffers are aligned to their size and smaller than a piece, so they lie in one piece.
        (end <= self.len).then(|| u16::try_from(start / PIECE_MAX).ok()).flatten()
    }
}

/// The entry for the next step of the work in this slot. It points into the slot and to the work's buffers.
///
/// # Panics
/// If the slot is idle or its work is done elsewhere.
pub(super) fn entry(slot: &mut Slot, target: Target, arena: Arena) -> squeue::Entry {
    let (fd, flags) = match target {
        Target::Fd(fd) => (Fd(fd), squeue::Flags::empty()),
        Target::Registered(index) => {
            (Fd(i32::try_from(index).expect("tables are small")), squeue::Flags::FIXED_FILE)
        }
    };
    let entry = match &mut slot.work {
        Work::Read(reading) => read(reading, fd, arena),
        Work::Write(writing) => write(writing, fd, arena),
        Work::Flush { .. } => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        Work::Allocate(allocating) => allocate(allocating, fd),
        Work::Stat(stating) => stat(stating, fd),
        Work::Discard { span, .. } => {
            // The command takes its length where other operations have `addr3`, the first half of `cmd`.
            let mut command = [0; 16];
            command[..8].copy_from_slice(&span.len().0.to_ne_bytes());
            opcode::UringCmd16::new(fd, COMMAND_DISCARD).addr(Some(span.offset().0)).cmd(command).build()
        }
        Work::Accept { .. } => accept(slot, fd),
        Work::Connect(connecting) => connect(connecting, fd),
        Work::Receive(receiving) => receive(receiving, &mut slot.iovecs, &mut slot.message, fd),
        Work::Send(sending) => send(sending, &mut slot.iovecs, &mut slot.message, fd),
        Work::Idle | Work::Offloaded { .. } => unreachable!("such work does not go through the ring"),
    };
    entry.flags(flags)
}

fn stat(stating: &mut Stating, fd: Fd) -> squeue::Entry {
    let answer = addr_of_mut!(stating.answer).cast();
    opcode::Statx::new(fd, c"".as_ptr(), answer).flags(libc::AT_EMPTY_PATH).mask(libc::STATX_SIZE).build()
}

fn read(reading: &mut Reading, fd: Fd, arena: Arena) -> squeue::Entry {
    let left = reading.into.len() - reading.done;
    let at = reading.into.as_mut_ptr().wrapping_add(reading.done);
    let offset = reading.offset + reading.done as u64; // usize to u64: widening
    match arena.index(at, left) {
        Some(index) => opcode::ReadFixed::new(fd, at, length(left), index).offset(offset).build(),
        None => opcode::Read::new(fd, at, length(left)).offset(offset).build(),
    }
}

fn write(writing: &Writing, fd: Fd, arena: Arena) -> squeue::Entry {
    let left = writing.from.len() - writing.done;
    let at = writing.from.as_ptr().wrapping_add(writing.done);
    let offset = writing.offset + writing.done as u64; // usize to u64: widening
    let flags = if writing.durable { libc::RWF_DSYNC } else { 0 };
    match arena.index(at, left) {
        Some(index) => {
            opcode::WriteFixed::new(fd, at, length(left), index).offset(offset).rw_flags(flags).build()
        }
        None => opcode::Write::new(fd, at, length(left)).offset(offset).rw_flags(flags).build(),
    }
}

fn allocate(allocating: &Allocating, fd: Fd) -> squeue::Entry {
    let mode = allocating.modes.first().copied().expect("work without a mode left has ended");
    let span = allocating.span;
    opcode::Fallocate::new(fd, span.len().0).offset(span.offset().0).mode(mode).build()
}

fn accept(slot: &mut Slot, fd: Fd) -> squeue::Entry {
    slot.address_len = socklen(size_of::<libc::sockaddr_storage>());
    let address = addr_of_mut!(slot.address).cast();
    opcode::Accept::new(fd, address, addr_of_mut!(slot.address_len)).flags(libc::SOCK_CLOEXEC).build()
}

fn connect(connecting: &Connecting, fd: Fd) -> squeue::Entry {
    let address = &connecting.address;
    opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build()
}

fn receive(
    receiving: &mut Receiving,
    iovecs: &mut Vec<libc::iovec>,
    message: &mut libc::msghdr,
    fd: Fd,
) -> squeue::Entry {
    iovecs.clear();
    let into = &mut receiving.into;
    let windows = std::iter::once(&mut into.first).chain(into.second.as_mut());
    for window in windows.filter(|window| !window.is_empty()) {
        iovecs.push(libc::iovec { iov_base: window.as_mut_ptr().cast(), iov_len: window.len() });
    }
    match iovecs.as_slice() {
        [one] => opcode::Recv::new(fd, one.iov_base.cast(), length(one.iov_len)).build(),
        _ => {
            point(message, iovecs);
            opcode::RecvMsg::new(fd, addr_of_mut!(*message)).build()
        }
    }
}

fn send(
    sending: &Sending,
    iovecs: &mut Vec<libc::iovec>,
    message: &mut libc::msghdr,
    fd: Fd,
) -> squeue::Entry {
    gather(&sending.from[sending.at..], sending.within, iovecs);
    // WAITALL: the kernel continues after a partial send by itself. NOSIGNAL: EPIPE instead of SIGPIPE.
    let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
    match iovecs.as_slice() {
        [one] => {
            opcode::Send::new(fd, one.iov_base.cast_const().cast(), length(one.iov_len)).flags(flags).build()
        }
        _ => {
            point(message, iovecs);
            opcode::SendMsg::new(fd, addr_of!(*message)).flags(flags.cast_unsigned()).build()
        }
    }
}

/// Collects the next unsent bytes, of which the first `skip` are sent already, up to the limits of one call.
pub(super) fn gather(from: &[Buf], mut skip: usize, iovecs: &mut Vec<libc::iovec>) {
    iovecs.clear();
    let mut room = SEND_BYTES_MAX;
    for buf in from {
        if iovecs.len() == SEND_BUFFERS_MAX || room == 0 {
            break;
        }
        let len = (buf.len() - skip).min(room);
        if len > 0 {
            let base = buf.as_ptr().wrapping_add(skip).cast_mut().cast();
            iovecs.push(libc::iovec { iov_base: base, iov_len: len });
        }
        room -= len;
        skip = 0;
    }
}

pub(super) fn point(message: &mut libc::msghdr, iovecs: &mut Vec<libc::iovec>) {
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len() as _; // usize in glibc, int in musl; at most SEND_BUFFERS_MAX
}

fn length(len: usize) -> u32 {
    u32::try_from(len).expect("buffers are at most 2 MiB")
}

fn socklen(len: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(len).expect("addresses are small")
}
