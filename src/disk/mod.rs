//! One member device: opened exclusively, read, written, flushed; its errors and its flush state counted.
//!
//! Rank 4. A `Disk` is shared by all cores; each issues its operations on its own ring. What a drive *holds*
//! (file systems, partitions) is `inspect`; what it *is* (by-id name, serial) is `identify`.

mod answers;
pub mod inspect;
mod rounds;

pub use answers::{Answers, Patience};
pub use rounds::Rounds;

use crate::base::planted::{Planted, is_planted};
use crate::base::units::{ByteLen, ByteOffset, Span};
use crate::io::buf::{Buf, BufMut};
use crate::io::driver::{Access, Done, FileFacts, FileId, Op};
use crate::reactor::Core;
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Discards and zeroes are cut into pieces of this size, so that a slow one is not taken for a drive that hangs.
const PIECE_MAX: ByteLen = ByteLen(256 << 20);

/// Errors of one disk since it was opened.
#[derive(Default, Debug)]
pub struct ErrorCounts {
    pub read: AtomicU64,
    pub write: AtomicU64,
    pub checksum: AtomicU64,
    /// Blocks that were wrong or unreadable and were written again from another copy.
    pub healed: AtomicU64,
}

/// An open disk.
pub struct Disk {
    path: PathBuf,
    file: FileId,
    facts: FileFacts,
    pub errors: ErrorCounts,
    pub answers: Arc<Answers>,
    durability: Arc<Durability>,
    flush_rounds: Rounds,
}

/// What of a disk's writes is durable.
#[derive(Debug)]
struct Durability {
    /// Writes that completed without being durable by themselves.
    written: AtomicU64,
    /// The value of `written` when the last successful flush was submitted.
    flushed: AtomicU64,
    /// A flush failed: what was written before it may be lost, and no later flush proves otherwise.
    flush_failed: AtomicBool,
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
                answers: Arc::default(),
                // Whoever had it before may have left something in its write cache: the first flush is not skipped.
                durability: Arc::new(Durability {
                    written: AtomicU64::new(1),
                    flushed: AtomicU64::new(0),
                    flush_failed: AtomicBool::new(false),
                }),
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
        self.answers.in_flight()
    }

    /// Fills the buffer's window from `offset`; a disk that ends earlier is an error.
    ///
    /// # Errors
    /// What the disk said; ETIMEDOUT if it said nothing for as long as `patience` has.
    pub async fn read(
        &self,
        core: &Core,
        offset: ByteOffset,
        into: BufMut,
        patience: Patience,
    ) -> Result<BufMut, Errno> {
        let wanted = into.len();
        let begun = core.turn_at();
        let op = Op::Read { file: self.file, offset, into };
        let result = match self.answers.within(core, op, patience, drop).await {
            Ok(Done::Read(Ok(got), buf)) if got == wanted => Ok(buf),
            Ok(Done::Read(Ok(_), _)) => Err(Errno::EIO),
            Ok(Done::Read(Err(error), _)) | Err(error) => Err(error),
            Ok(_) => unreachable!("Read ends with Read"),
        };
        if result.is_err() {
            self.errors.read.fetch_add(1, Ordering::Relaxed);
        }
        self.answers.note_read(core.turn_at().since(begun));
        result
    }

    /// Writes the buffer at `offset`; with `durable`, past the disk's write cache before it completes.
    ///
    /// # Errors
    /// What the disk said; ETIMEDOUT if it said nothing for as long as `patience` has: it may be written later then.
    pub async fn write(
        &self,
        core: &Core,
        offset: ByteOffset,
        from: Buf,
        durable: bool,
        patience: Patience,
    ) -> Result<(), Errno> {
        let op = Op::Write { file: self.file, offset, from, durable };
        let durability = self.durability.clone();
        let late = move |_| durability.note_write(durable);
        let result = self.answers.within(core, op, patience, late).await.and_then(finished);
        self.note_write(core, durable);
        if result.is_err() {
            self.errors.write.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn note_write(&self, core: &Core, durable: bool) {
        let left_out = core.index().0 > 0 && is_planted(core, Planted::FlushFirstCoreOnly);
        self.durability.note_write(durable || left_out);
    }

    /// The same as `read` for a disk that is memory; false if that must be waited for, with `read`. So a request whose
    /// disks are memory does not carry along what waiting needs.
    pub fn read_now(&self, core: &Core, offset: ByteOffset, into: &mut BufMut) -> bool {
        let done = !self.answers.is_late() && core.read_now(self.file, offset, into);
        if done {
            self.answers.note_read(Duration::ZERO);
        }
        done
    }

    /// The same as `write` for a disk that is memory; false if that must be waited for, with `write`: some of the bytes may
    /// be there then.
    pub fn write_now(&self, core: &Core, offset: ByteOffset, from: &Buf, durable: bool) -> bool {
        let done = !self.answers.is_late() && core.write_now(self.file, offset, from);
        if done {
            self.note_write(core, durable);
        }
        done
    }

    /// Makes every write that completed before this call durable. Skipped when there is none; joins a flush of
    /// another task only if that one is submitted after this call.
    ///
    /// # Errors
    /// EIO if a flush of this disk ever failed; ETIMEDOUT if it did not end for as long as `patience` has.
    pub async fn flush(&self, core: &Core, patience: Patience) -> Result<(), Errno> {
        let need = self.durability.written.load(Ordering::Acquire);
        let until = core.turn_at() + patience.longest();
        if is_planted(core, Planted::RetryFailedFlush) {
            self.durability.flush_failed.store(false, Ordering::Release);
        }
        loop {
            if self.has_failed_flush() {
                return Err(Errno::EIO);
            }
            if self.durability.flushed.load(Ordering::Acquire) >= need {
                return Ok(());
            }
            // Whoever leads the round may have more patience, or less.
            if self.flush_rounds.join(core, Some(until), || self.flush_now(core, patience)).await {
                return Ok(());
            }
            if !self.has_failed_flush() && (patience == Patience::Peers || core.now() >= until) {
                return Err(Errno::ETIMEDOUT);
            }
        }
    }

    async fn flush_now(&self, core: &Core, patience: Patience) -> bool {
        let covers = self.durability.written.load(Ordering::Acquire);
        let durability = self.durability.clone();
        let late = move |done| {
            durability.note_flush(&finished(done), 0);
        };
        match self.answers.within(core, Op::Flush { file: self.file }, patience, late).await {
            Ok(done) => {
                let ended = finished(done).or_else(|e| match is_planted(core, Planted::IgnoreFailedFlush) {
                    true => Ok(()),
                    false => Err(e),
                });
                self.errors.write.fetch_add(u64::from(ended.is_err()), Ordering::Relaxed);
                self.durability.note_flush(&ended, covers)
            }
            Err(_) => {
                self.errors.write.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// Whether a flush failed: what was written before it may be lost.
    pub fn has_failed_flush(&self) -> bool {
        self.durability.flush_failed.load(Ordering::Acquire)
    }

    /// Whether every completed write is known to be durable.
    pub fn is_flushed(&self) -> bool {
        !self.has_failed_flush()
            && self.durability.flushed.load(Ordering::Acquire)
                >= self.durability.written.load(Ordering::Acquire)
    }

    /// Gives space back to the device. Advisory: an error changes nothing that anybody relies on.
    pub async fn discard(&self, core: &Core, span: Span) {
        let mut rest = span;
        while self.facts.discards && !rest.is_empty() {
            let piece = Span::at(rest.offset().0, rest.len().0.min(PIECE_MAX.0));
            rest = Span::at(piece.end().0, rest.len().0 - piece.len().0);
            let op = Op::Discard { file: self.file, span: piece };
            if !matches!(
                self.answers.within(core, op, Patience::Peers, drop).await,
                Ok(Done::Finished(Ok(())))
            ) {
                return;
            }
        }
    }

    /// Makes a span read as zeros, in the cheapest way that the device has; a flush makes that durable.
    ///
    /// # Errors
    /// What the disk said; ETIMEDOUT if it said nothing for as long as `patience` has, for each 256 MiB.
    pub async fn zero(&self, core: &Core, span: Span, patience: Patience) -> Result<(), Errno> {
        let mut rest = span;
        while !rest.is_empty() {
            let piece = Span::at(rest.offset().0, rest.len().0.min(PIECE_MAX.0));
            rest = Span::at(piece.end().0, rest.len().0 - piece.len().0);
            let op = Op::Zero { file: self.file, span: piece };
            let durability = self.durability.clone();
            let late = move |_| durability.note_write(false);
            let result = self.answers.within(core, op, patience, late).await.and_then(finished);
            self.durability.note_write(false);
            result?;
        }
        Ok(())
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

impl Durability {
    /// A write ended. A durable one needs no flush; any other is covered by the next one that starts from here on.
    fn note_write(&self, durable: bool) {
        if !durable {
            self.written.fetch_add(1, Ordering::Release);
        }
    }

    /// A flush ended that covers so many writes; true if they are durable.
    fn note_flush(&self, ended: &Result<(), Errno>, covers: u64) -> bool {
        match ended {
            Ok(()) => self.flushed.fetch_max(covers, Ordering::AcqRel),
            Err(_) => u64::from(self.flush_failed.swap(true, Ordering::AcqRel)),
        };
        ended.is_ok() && !self.flush_failed.load(Ordering::Acquire)
    }
}

/// What an error of a disk says, in words.
pub fn in_words(errno: Errno) -> &'static str {
    match errno {
        Errno::ETIMEDOUT => "it did not answer in time",
        other => other.desc(),
    }
}

fn finished(done: Done) -> Result<(), Errno> {
    match done {
        Done::Finished(result) => result,
        _ => unreachable!("this operation ends with Finished"),
    }
}
