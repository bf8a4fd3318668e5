//! The ring itself: entries in, results out, nothing lost in between.
//!
//! The kernel may be unable to take more entries for a moment (out of memory, completion queue overflown);
//! such entries wait in `backlog`. What the kernel took is told by the queue's head alone, never by what a
//! system call returned.

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, squeue};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::time::Duration;

/// The pause before entries that the kernel had no room for are offered again.
const BACKLOG_PAUSE: Duration = Duration::from_millis(1);

/// The result of one entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub user_data: u64,
    pub result: i32,
}

pub(super) struct Ring {
    uring: IoUring,
    backlog: VecDeque<squeue::Entry>,
    /// Entries queued whose result has not been seen.
    outstanding: usize,
    can_wait_uncounted: bool,
}

impl Ring {
    pub fn new(uring: IoUring) -> Ring {
        let can_wait_uncounted = uring.params().is_feature_no_iowait();
        Ring { uring, backlog: VecDeque::new(), outstanding: 0, can_wait_uncounted }
    }

    /// Queues an entry that has exactly one result. It reaches the kernel at the next `submit` or `wait`, or
    /// now if the queue is full.
    ///
    /// # Safety
    /// Everything that the entry points to must stay valid and in place until its result has been collected.
    pub unsafe fn push(&mut self, entry: squeue::Entry) {
        self.outstanding += 1;
        if self.backlog.is_empty() && push_now(&mut self.uring, &entry) {
            return;
        }
        self.backlog.push_back(entry);
        self.submit();
    }

    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Whether entering the kernel would start or finish anything.
    pub fn has_work(&mut self) -> bool {
        let sq = self.uring.submission();
        !sq.is_empty() || sq.taskrun() || sq.cq_overflow() || !self.backlog.is_empty()
    }

    /// Hands the queue to the kernel and lets it finish what is ready, without waiting.
    pub fn submit(&mut self) {
        // Errors are temporary (EAGAIN, EBUSY, EINTR): what was not taken stays queued for the next time.
        while self.enter(0, None, false).is_ok() && self.refill() {}
    }

    /// Hands the queue to the kernel and waits for a result, until `timeout` has passed. May return early.
    /// `idle` keeps the wait out of the machine's I/O wait figures.
    pub fn wait(&mut self, timeout: Option<Duration>, idle: bool) {
        self.refill();
        // What the kernel could not take yet is offered again soon, and not after something else happens.
        let timeout = match (timeout, self.backlog.is_empty()) {
            (timeout, true) => timeout,
            (timeout, false) => Some(timeout.map_or(BACKLOG_PAUSE, |timeout| timeout.min(BACKLOG_PAUSE))),
        };
        // ETIME and EINTR are ordinary ends of a wait; after the others the caller's next turn tries again.
        let _ = self.enter(1, timeout, idle);
        self.refill();
    }

    /// Appends all results that are there.
    ///
    /// # Panics If the kernel ran out of memory so badly that it lost a result: the buffers of that operation
    /// can never be used or freed again, and the process must start anew.
    pub fn collect(&mut self, ended: &mut Vec<Ended>) {
        loop {
            let before = ended.len();
            ended.extend(
                self.uring.completion().map(|c| Ended { user_data: c.user_data(), result: c.result() }),
            );
            self.outstanding -= ended.len() - before;
            // The kernel keeps what did not fit; it hands it over when asked with room in the queue.
            if !self.uring.submission().cq_overflow() || self.enter(0, None, false).is_err() {
                return;
            }
        }
    }

    /// Fills a slot of the table of registered files, or empties it (-1); says whether that worked.
    pub fn register_file(&mut self, slot: u32, fd: std::os::fd::RawFd) -> bool {
        self.uring.submitter().register_files_update(slot, &[fd]).is_ok()
    }

    /// Gives registered files and memory back now. Dropping the ring does that too, but some time later, and
    /// until then exclusive devices stay taken and locked memory stays counted.
    pub fn unregister(&mut self) {
        // Fails only when nothing was registered.
        let _ = self.uring.submitter().unregister_files();
        let _ = self.uring.submitter().unregister_buffers();
    }

    fn enter(&mut self, want: u32, timeout: Option<Duration>, idle: bool) -> Result<(), Errno> {
        let len = self.uring.submission().len();
        let len = u32::try_from(len).expect("the queue has at most 32768 entries");
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if idle && self.can_wait_uncounted {
            flags |= EnterFlags::NO_IOWAIT;
        }
        let timespec = timeout.map(Timespec::from);
        let args = match &timespec {
            Some(timespec) => SubmitArgs::new().timespec(timespec),
            None => SubmitArgs::new(),
        };
        // SAFETY: the argument is the structure that EXT_ARG announces and lives through the call, as does
        // the timespec it points to; what the queued entries point to is upheld by the callers of `push`.
        let entered = unsafe { self.uring.submitter().enter(len, want, flags.bits(), Some(&args)) };
        match entered {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBADR) => {
                panic!("the kernel had no memory to keep the result of an operation")
            }
            Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    /// Moves entries from the backlog to the queue; says whether any were moved.
    fn refill(&mut self) -> bool {
        let mut moved = false;
        while let Some(entry) = self.backlog.front() {
            if !push_now(&mut self.uring, entry) {
                break;
            }
            self.backlog.pop_front();
            moved = true;
        }
        moved
    }
}

fn push_now(uring: &mut IoUring, entry: &squeue::Entry) -> bool {
    // SAFETY: `Ring::push` passes its caller's promise on: what the entry points to outlives its result.
    unsafe { uring.submission().push(entry).is_ok() }
}
