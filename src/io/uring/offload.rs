//! A thread for the one thing that older kernels (before Linux 6.12) can only do while the caller waits:
//! discard on a block device. It starts at the first such operation and ends with the driver.

use super::handles::Held;
use super::wake::{Note, Peer};
use crate::base::units::Span;
use nix::errno::Errno;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

nix::ioctl_write_ptr_bad!(block_discard, nix::request_code_none!(0x12, 119), [u64; 2]); // BLKDISCARD

/// A span to discard for the operation in a slot.
pub(super) struct Job {
    pub key: u32,
    pub held: Arc<Held>,
    pub span: Span,
}

/// The way to the thread, once it was needed.
#[derive(Default)]
pub(super) struct Offload {
    jobs: Option<Sender<Job>>,
}

impl Offload {
    /// Hands a job to the thread; its result comes as a note. EAGAIN if there can be no thread.
    pub fn start(&mut self, job: Job, peer: &Arc<Peer>) -> Result<(), Errno> {
        if self.jobs.is_none() {
            self.jobs = Some(spawn(peer.clone())?);
        }
        let jobs = self.jobs.as_ref().expect("made above");
        jobs.send(job).map_err(|_| Errno::EAGAIN)
    }
}

fn spawn(peer: Arc<Peer>) -> Result<Sender<Job>, Errno> {
    let (sender, receiver) = channel();
    let named = std::thread::Builder::new().name("discard".to_owned());
    // Not joined: a discard may take minutes, and holds nothing but its share of the device.
    named.spawn(move || serve(&receiver, &peer)).map_err(|_| Errno::EAGAIN)?;
    Ok(sender)
}

fn serve(jobs: &Receiver<Job>, peer: &Peer) {
    for Job { key, held, span } in jobs {
        let range = [span.offset().0, span.len().0];
        // SAFETY: BLKDISCARD reads two u64, which live on this stack frame.
        let result = unsafe { block_discard(held.raw(), &raw const range) }.map(drop);
        // The share goes first, so that a close that waits for it is not later than this operation.
        drop(held);
        peer.post(Note::Offloaded { key, result });
    }
}
