//! I/O on files in memory file systems (tmpfs, ramfs), done on the spot.
//!
//! Such files refuse RWF_NOWAIT, so the ring would hand every operation to a kernel worker thread and back; a
//! copy on the spot takes less than that hand-over. It cannot wait for a device, because there is none (a
//! page that was swapped out is the exception, and then the machine has other problems). There is no cache to
//! flush either: durable means nothing here. Where the file is mapped, the copy needs no system call.

use super::handles::Held;
use super::settle::{self, Step};
use super::slots::{Reading, Work, Writing};
use crate::io::driver::Done;
use nix::errno::Errno;
use nix::sys::uio::{pread, pwrite};

/// Carries out a read, write or flush to its end.
///
/// # Panics
/// If the work is of another kind.
pub(super) fn perform(held: &Held, work: Work) -> Done {
    let mut work = work;
    loop {
        let step = match work {
            Work::Read(reading) => read(held, reading),
            Work::Write(writing) => write(held, writing),
            Work::Flush { .. } => settle::finished(nix::unistd::fdatasync(held).map(|()| 0)),
            Work::Idle
            | Work::Allocate(_)
            | Work::Stat(_)
            | Work::Discard { .. }
            | Work::Offloaded { .. }
            | Work::Accept { .. }
            | Work::Connect(_)
            | Work::Receive(_)
            | Work::Send(_) => unreachable!("only reads, writes and flushes are done on the spot"),
        };
        match step {
            Step::Again(more) => work = more,
            Step::Done(done) => return done,
        }
    }
}

fn read(held: &Held, mut reading: Reading) -> Step {
    let mapped = held.mapped().filter(|_| reading.done == 0);
    if mapped.is_some_and(|mapped| mapped.read(reading.offset, reading.into.as_mut_slice())) {
        let count = reading.into.len();
        return settle::read(reading, Ok(count));
    }
    let result = file_offset(reading.offset, reading.done)
        .and_then(|offset| pread(held, &mut reading.into.as_mut_slice()[reading.done..], offset));
    settle::read(reading, result)
}

fn write(held: &Held, writing: Writing) -> Step {
    let mapped = held.mapped().filter(|_| writing.done == 0);
    if mapped.is_some_and(|mapped| mapped.write(writing.offset, writing.from.as_slice())) {
        let count = writing.from.len();
        return settle::write(writing, Ok(count));
    }
    let result = file_offset(writing.offset, writing.done)
        .and_then(|offset| pwrite(held, &writing.from.as_slice()[writing.done..], offset));
    settle::write(writing, result)
}

fn file_offset(offset: u64, done: usize) -> Result<libc::off_t, Errno> {
    // usize to u64: widening
    offset.checked_add(done as u64).and_then(|at| libc::off_t::try_from(at).ok()).ok_or(Errno::EINVAL)
}
