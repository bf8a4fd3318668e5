//! Ctrl-C while a command waits: the wait ends, the work goes on.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;
use std::time::Duration;

/// Holds back the signals that end a program, and tells when one came.
pub struct Interrupt {
    signals: SignalFd,
    mask: SigSet,
}

impl Interrupt {
    /// From here on SIGINT and SIGTERM are only noticed by `wait`, in this thread.
    pub fn hold() -> nix::Result<Interrupt> {
        let mask = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        mask.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Interrupt { signals: SignalFd::with_flags(&mask, flags)?, mask })
    }

    /// Waits for a signal, `limit` at the most; whether one came.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut watched = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        // A poll that fails says the same as one that ran out: nothing came.
        let came = poll(&mut watched, timeout).is_ok_and(|ready| ready > 0);
        came && matches!(self.signals.read_signal(), Ok(Some(_)))
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        // The signals were taken above; if this fails they stay blocked until the program ends, soon.
        let _ = self.mask.thread_unblock();
    }
}
