//! One member device: opened exclusively, read, written, flushed; its errors and its flush state counted.
//!
//! Rank 4. A `Disk` is shared by all cores; each issues its operations on its own ring. What a drive *holds*
//! (file systems, partitions) is `inspect`; what it *is* (by-id name, serial) is `identify`.

pub mod inspect;
mod rounds;

pub use rounds::Rounds;

use crate::base::units::{ByteLen, ByteOffset, Span};
use crate::io::buf::{Buf, BufMut};
use crate::io::driver::{Access, Done, FileFacts, FileId, Op};
use crate::reactor::Core;
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Errors of one disk since it was opened.
#[derive(Default, Debug)]
pub struct ErrorCounts {
    pub read: AtomicU64,
    pub write: AtomicU64,
    pub checksum: AtomicU64,
}

/// An open disk.
pub struct Disk {
    path: PathBuf,
    file: FileId,
    facts: FileFacts,
    pub errors: ErrorCounts,
    in_flight: AtomicU32,
    /// Writes that completed without being durable by themselves.
    written: AtomicU64,
    /// The value of `written` when the last successful flush was submitted.
    flushed: AtomicU64,
    /// A flush failed: what was written before it may be lost, and no later flush proves otherwise.
    flush_failed: AtomicBool,
    flush_rounds: Rounds,
}

impl Disk {
    /// Opens a disk for exclusive use, or for looking at it.
    pub async fn open(core: &Core, path: &Path, access: Access) -> Result<Disk, Errno> {
        match core.op(Op::Open { path: path.to_owned(), access }).await {
            Done::Opened(result) => result.map(|opened| Disk {
                path: path.to_owned(),
                file: opened.file,
                facts: opened.facts,
                errors: ErrorCounts::default(),
                in_flight: AtomicU32::new(0),
                // Whoever had it before may have left something in its write cache: the first flush is not skipped.
                written: AtomicU64::new(1),
                flushed: AtomicU64::new(0),
                flush_failed: AtomicBool::new(false),
                flush_rounds: Rounds::default(),
            }),
            _ => unreachable!("Open ends with Opened"),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn facts(&self) -> &FileFacts {
        &self.facts
    }

    /// Operations in flight, all cores together.
    pub fn load(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Fills the buffer's window from `offset`; a disk that ends earlier is an error.
    pub async fn read(&self, core: &Core, offset: ByteOffset, into: BufMut) -> Result<BufMut, Errno> {
        let wanted = into.len();
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let done = core.op(Op::Read { file: self.file, offset, into }).await;
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let result = match done {
            Done::Read(Ok(got), buf) if got == wanted => Ok(buf),
            Done::Read(Ok(_), _) => Err(Errno::EIO),
            Done::Read(Err(error), _) => Err(error),
            _ => unreachable!("Read ends with Read"),
        };
        if result.is_err() {
            self.errors.read.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Writes the buffer at `offset`; with `durable`, past the disk's write cache before it completes.
    pub async fn write(
        &self,
        core: &Core,
        offset: ByteOffset,
        from: Buf,
        durable: bool,
    ) -> Result<(), Errno> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let result = finished(core.op(Op::Write { file: self.file, offset, from, durable }).await);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        // A durable write needs no flush; any other is covered by the next one that starts from here on.
        if !durable {
            self.written.fetch_add(1, Ordering::Release);
        }
        if result.is_err() {
            self.errors.write.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Makes every write that completed before this call durable. Skipped when there is none; joins a flush of
    /// another task only if that one is submitted after this call.
    pub async fn flush(&self, core: &Core) -> Result<(), Errno> {
        let need = self.written.load(Ordering::Acquire);
        if self.flush_failed.load(Ordering::Acquire) {
            return Err(Errno::EIO);
        }
        if self.flushed.load(Ordering::Acquire) >= need {
            return Ok(());
        }
        let ok = self.flush_rounds.join(|| self.flush_now(core)).await;
        if ok { Ok(()) } else { Err(Errno::EIO) }
    }

    async fn flush_now(&self, core: &Core) -> bool {
        let covers = self.written.load(Ordering::Acquire);
        match finished(core.op(Op::Flush { file: self.file }).await) {
            Ok(()) => {
                self.flushed.fetch_max(covers, Ordering::AcqRel);
                !self.flush_failed.load(Ordering::Acquire)
            }
            Err(_) => {
                self.flush_failed.store(true, Ordering::Release);
                self.errors.write.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// Gives space back to the device. Advisory: an error changes nothing that anybody relies on.
    pub async fn discard(&self, core: &Core, span: Span) {
        if self.facts.discards {
            let _ = finished(core.op(Op::Discard { file: self.file, span }).await);
        }
    }

    /// The disk's size now.
    pub async fn size(&self, core: &Core) -> Result<ByteLen, Errno> {
        match core.op(Op::Size { file: self.file }).await {
            Done::Size(result) => result,
            _ => unreachable!("Size ends with Size"),
        }
    }

    /// Closes the disk and gives up its exclusive hold.
    pub async fn close(&self, core: &Core) {
        // The descriptor is gone whatever close says, and everything that matters was flushed before.
        let _ = finished(core.op(Op::Close { file: self.file }).await);
    }
}

fn finished(done: Done) -> Result<(), Errno> {
    match done {
        Done::Finished(result) => result,
        _ => unreachable!("this operation ends with Finished"),
    }
}
