//! What a result means for a transfer: finished, or to be continued. Decisions only.

use super::slots::{Allocating, Reading, Receiving, Sending, Work, Writing};
use crate::io::driver::Done;
use nix::errno::Errno;

/// What comes after a result.
pub(super) enum Step {
    /// More is to be done.
    Again(Work),
    Done(Done),
}

/// `Read` may end short only at the end of the file, so a short read goes on until there is nothing more.
pub(super) fn read(mut reading: Reading, result: Result<usize, Errno>) -> Step {
    match result {
        Err(Errno::EINTR) => Step::Again(Work::Read(reading)),
        Err(errno) => Step::Done(Done::Read(Err(errno), reading.into)),
        Ok(count) => {
            reading.done += count;
            let next = reading.offset + reading.done as u64; // usize to u64: widening
            // Unbuffered I/O cannot go on from an odd place; only the file's end leaves it there.
            let odd = reading.direct.is_some_and(|unit| !next.is_multiple_of(u64::from(unit)));
            let at_end = count == 0 || odd;
            if at_end || reading.done == reading.into.len() {
                Step::Done(Done::Read(Ok(reading.done), reading.into))
            } else {
                Step::Again(Work::Read(reading))
            }
        }
    }
}

/// `Write` succeeds only when everything was written.
pub(super) fn write(mut writing: Writing, result: Result<usize, Errno>) -> Step {
    match result {
        Err(Errno::EINTR) => Step::Again(Work::Write(writing)),
        Err(errno) => Step::Done(Done::Finished(Err(errno))),
        // Accepting nothing without saying why: trying again could last forever.
        Ok(0) => Step::Done(Done::Finished(Err(Errno::EIO))),
        Ok(count) => {
            writing.done += count;
            if writing.done == writing.from.len() {
                Step::Done(Done::Finished(Ok(())))
            } else {
                Step::Again(Work::Write(writing))
            }
        }
    }
}

/// Tries the next way when this one is not supported here.
pub(super) fn allocate(mut allocating: Allocating, result: Result<usize, Errno>) -> Step {
    match result {
        Err(Errno::EINTR) => Step::Again(Work::Allocate(allocating)),
        Err(Errno::EOPNOTSUPP) if allocating.modes.len() > 1 => {
            allocating.modes = &allocating.modes[1..];
            Step::Again(Work::Allocate(allocating))
        }
        result => finished(result),
    }
}

pub(super) fn receive(receiving: Receiving, result: Result<usize, Errno>) -> Step {
    match result {
        Err(Errno::EINTR) => Step::Again(Work::Receive(receiving)),
        result => Step::Done(Done::Received(result, receiving.into)),
    }
}

/// All bytes of all buffers are sent, however many calls it takes.
pub(super) fn send(mut sending: Sending, result: Result<usize, Errno>) -> Step {
    match result {
        Err(Errno::EINTR) => Step::Again(Work::Send(sending)),
        Err(errno) => Step::Done(Done::Sent(Err(errno), sending.from)),
        // Nothing was taken although there was something: the connection will take no more.
        Ok(0) => Step::Done(Done::Sent(Err(Errno::EPIPE), sending.from)),
        Ok(count) => {
            sending.advance(count);
            if sending.is_over() {
                Step::Done(Done::Sent(Ok(()), sending.from))
            } else {
                Step::Again(Work::Send(sending))
            }
        }
    }
}

pub(super) fn finished(result: Result<usize, Errno>) -> Step {
    Step::Done(Done::Finished(result.map(drop)))
}

impl Sending {
    /// Counts bytes as sent.
    fn advance(&mut self, mut count: usize) {
        while let Some(buf) = self.from.get(self.at) {
            let left = buf.len() - self.within;
            if count < left {
                self.within += count;
                return;
            }
            count -= left;
            self.at += 1;
            self.within = 0;
        }
        assert!(count == 0, "the kernel sent {count} bytes more than there are");
    }

    /// Whether nothing is left to send; empty buffers count as sent.
    pub fn is_over(&self) -> bool {
        self.from[self.at..].iter().all(crate::io::buf::Buf::is_empty)
    }
}
