//! Operations that are carried out on the spot, with no entry in the ring and no completion: what is only a copy
//! between memories. Their buffers are still in the CPU's caches when the caller goes on with them.

use super::begin::{fits, transfer};
use super::mapped::Mapped;
use super::{UringDriver, entries, memory};
use crate::io::buf::{Buf, BufMut};
use crate::io::driver::{Done, FileId, Op, SocketId};
use nix::errno::Errno;

/// Sends of so many bytes go out at once. Shorter ones share the system call of the next receive.
const SEND_NOW_MIN: usize = 32 << 10;

pub(super) fn try_now(driver: &mut UringDriver, op: Op) -> Result<Done, Op> {
    match op {
        Op::Read { file, offset, ref into } => on_memory(driver, file, offset.0, into.len(), op),
        Op::Write { file, offset, ref from, .. } => on_memory(driver, file, offset.0, from.len(), op),
        Op::Flush { file } => on_memory(driver, file, 0, 1, op),
        Op::Send { socket, from } => send(driver, socket, from),
        Op::Open { .. }
        | Op::Close { .. }
        | Op::Size { .. }
        | Op::Discard { .. }
        | Op::Zero { .. }
        | Op::Listen { .. }
        | Op::LocalAddress { .. }
        | Op::Accept { .. }
        | Op::Connect { .. }
        | Op::Recv { .. }
        | Op::Shutdown { .. }
        | Op::CloseSocket { .. } => Err(op),
    }
}

/// A read of a mapped file. What it is about stays where it is: an operation of its own would be moved a dozen times.
pub(super) fn read(driver: &mut UringDriver, file: FileId, offset: u64, into: &mut BufMut) -> bool {
    let Some(mapped) = mapped(driver, file) else { return false };
    let done = mapped.read(offset, into.as_mut_slice());
    done && take_share(driver, into.len())
}

/// The same for a write.
pub(super) fn write(driver: &mut UringDriver, file: FileId, offset: u64, from: &Buf) -> bool {
    let Some(mapped) = mapped(driver, file) else { return false };
    let done = mapped.write(offset, from.as_slice());
    done && take_share(driver, from.len())
}

/// The memory of a file, if there is some of this turn's share left.
fn mapped(driver: &UringDriver, file: FileId) -> Option<&Mapped> {
    let held = driver.locals.known(file.0).filter(|_| driver.inline_bytes_left > 0)?;
    held.mapped()
}

/// Counts what was done against this turn's share.
fn take_share(driver: &mut UringDriver, len: usize) -> bool {
    driver.inline_bytes_left = driver.inline_bytes_left.saturating_sub(len);
    true
}

/// Files on memory file systems, up to this turn's share. Anything unusual is left to `begin`.
fn on_memory(driver: &mut UringDriver, file: FileId, offset: u64, len: usize, op: Op) -> Result<Done, Op> {
    let Some(held) = driver.locals.known(file.0) else { return Err(op) };
    let in_memory = held.file().is_some_and(|traits| traits.in_memory);
    let plain = len > 0 && fits(offset, len as u64); // usize to u64: widening
    if !in_memory || !plain || driver.inline_bytes_left == 0 {
        return Err(op);
    }
    driver.inline_bytes_left = driver.inline_bytes_left.saturating_sub(len);
    Ok(memory::perform(held, transfer(op)))
}

/// Hands over as much as the socket takes; the rest is left to the ring, which waits for room.
fn send(driver: &mut UringDriver, socket: SocketId, mut from: Vec<Buf>) -> Result<Done, Op> {
    let bytes: usize = from.iter().map(Buf::len).sum();
    let held = driver.locals.known(socket.0).filter(|held| held.socket().is_some());
    let (Some(held), true) = (held, bytes >= SEND_NOW_MIN) else { return Err(Op::Send { socket, from }) };
    entries::gather(&from, 0, &mut driver.iovecs);
    match sendmsg(held.raw(), &mut driver.iovecs) {
        Ok(sent) if sent == bytes => Ok(Done::Sent(Ok(()), from)),
        Ok(sent) => {
            drop_front(&mut from, sent);
            Err(Op::Send { socket, from })
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Err(Op::Send { socket, from }),
        Err(errno) => Ok(Done::Sent(Err(errno), from)),
    }
}

fn sendmsg(fd: std::os::fd::RawFd, iovecs: &mut Vec<libc::iovec>) -> Result<usize, Errno> {
    // SAFETY: a plain C structure of integers and pointers, for which all zeros is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    entries::point(&mut message, iovecs);
    // SAFETY: the message points to the vectors, and these to buffers that the caller holds; all live through
    // the call, which writes to none of them.
    let sent = unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    Errno::result(sent).map(|sent| usize::try_from(sent).expect("errors are negative"))
}

/// Removes the first `count` bytes.
fn drop_front(from: &mut Vec<Buf>, mut count: usize) {
    let whole = from.iter().take_while(|buf| {
        let fits = buf.len() <= count;
        count -= if fits { buf.len() } else { 0 };
        fits
    });
    let whole = whole.count();
    from.drain(..whole);
    if let Some(first) = from.first_mut().filter(|_| count > 0) {
        *first = first.slice(count..first.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buf::BufPool;

    #[test]
    fn what_was_sent_is_cut_off_byte_by_byte() {
        let pool = BufPool::new(0).unwrap();
        let all: Vec<u8> = (0..10).collect();
        for count in 0..=all.len() {
            let mut from: Vec<Buf> =
                [0..3, 3..3, 3..4, 4..10].map(|part| pool.copy_of(&all[part]).freeze()).into();
            drop_front(&mut from, count);
            let left: Vec<u8> = from.iter().flat_map(|buf| buf.as_slice().to_vec()).collect();
            assert_eq!(left, all[count..]);
        }
    }
}
