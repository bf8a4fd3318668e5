//! One simulated drive (or regular file): its shape, its speed, its content and what is wrong with it.
//!
//! A drive does not know about time or operations in flight: `storage` schedules, this decides and stores.

use super::faults::Dials;
use super::media::{Media, SECTOR};
use crate::base::prng::Prng;
use crate::base::units::{ByteLen, Span};
use crate::io::driver::{FileFacts, FileId, FileKind};
use nix::errno::Errno;
use std::collections::BTreeSet;

/// How long a drive takes for things.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Every operation, nanoseconds.
    pub base_ns: u64,
    /// For each 4 KiB moved, nanoseconds.
    pub page_ns: u64,
    /// Up to this much more, drawn for each operation, nanoseconds.
    pub jitter_ns: u64,
    /// A flush on top of `base_ns`, nanoseconds.
    pub flush_ns: u64,
}

/// What a drive is made as.
#[derive(Clone, Copy, Debug)]
pub struct DiskShape {
    pub kind: FileKind,
    pub size: ByteLen,
    /// 512 or 4096. I/O is refused unless it is aligned to this, and writes tear at it.
    pub logical_sector: u32,
    pub physical_sector: u32,
    pub rotational: bool,
    pub discards: bool,
    /// Whether there is a cache that a power cut empties; without one, what has completed is stable.
    pub volatile_cache: bool,
    pub latency: Latency,
}

impl DiskShape {
    /// A flash drive with 512-byte sectors and a volatile cache.
    pub fn flash(size: ByteLen) -> DiskShape {
        let latency = Latency { base_ns: 60_000, page_ns: 2_000, jitter_ns: 100_000, flush_ns: 500_000 };
        DiskShape {
            kind: FileKind::BlockDevice,
            size,
            logical_sector: 512,
            physical_sector: 4096,
            rotational: false,
            discards: true,
            volatile_cache: true,
            latency,
        }
    }

    /// A spinning drive with 4096-byte sectors and a volatile cache.
    pub fn spinning(size: ByteLen) -> DiskShape {
        let latency =
            Latency { base_ns: 2_000_000, page_ns: 25_000, jitter_ns: 12_000_000, flush_ns: 9_000_000 };
        DiskShape {
            logical_sector: 4096,
            rotational: true,
            discards: false,
            latency,
            ..DiskShape::flash(size)
        }
    }

    /// A regular file on a flash drive. Its length can grow by writes.
    pub fn file(size: ByteLen) -> DiskShape {
        DiskShape { kind: FileKind::RegularFile, ..DiskShape::flash(size) }
    }
}

/// A drive's content at some moment, to be put back later.
#[derive(Clone)]
pub struct Image {
    pub(super) media: Media,
    pub(super) size: u64,
}

/// Whether operations reach the drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Up,
    Gone,
}

/// Whether operations on a drive end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pulse {
    Beating,
    Hung,
}

pub(super) struct Disk {
    pub(super) shape: DiskShape,
    pub(super) size: u64,
    pub(super) media: Media,
    pub(super) link: Link,
    pub(super) pulse: Pulse,
    /// Counts replugs: what was opened before stays dead.
    pub(super) generation: u32,
    /// Who has it exclusively.
    pub(super) holder: Option<FileId>,
    /// A file that was created and never flushed can be missing after a power cut.
    pub(super) entry_durable: bool,
    /// Every duration is multiplied by this.
    pub(super) slow_factor: u64,
    pub(super) dials: Dials,
    pub(super) bad_reads: BTreeSet<u64>,
    pub(super) bad_writes: BTreeSet<u64>,
    /// Errors for the next operations of a kind, set by hand.
    pub(super) pending_errors: Vec<(Action, Errno)>,
    /// Operations that would have ended while it hung.
    pub(super) held: Vec<u64>,
    pub(super) prng: Prng,
}

/// The kinds of operations that faults strike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Read,
    /// Also Zero and Discard.
    Write,
    Flush,
}

impl Disk {
    pub(super) fn new(shape: DiskShape, prng: Prng) -> Disk {
        Disk {
            size: shape.size.0,
            media: Media::new(u64::from(shape.logical_sector)),
            shape,
            link: Link::Up,
            pulse: Pulse::Beating,
            generation: 0,
            holder: None,
            entry_durable: true,
            slow_factor: 1,
            dials: Dials::default(),
            bad_reads: BTreeSet::new(),
            bad_writes: BTreeSet::new(),
            pending_errors: Vec::new(),
            held: Vec::new(),
            prng,
        }
    }

    pub(super) fn facts(&self) -> FileFacts {
        FileFacts {
            kind: self.shape.kind,
            size: ByteLen(self.size),
            logical_sector: self.shape.logical_sector,
            physical_sector: self.shape.physical_sector,
            rotational: self.shape.rotational,
            discards: self.shape.discards,
            stay: u64::from(self.generation),
        }
    }

    /// How long an operation that moves this many bytes takes, nanoseconds.
    pub(super) fn duration_ns(&mut self, action: Action, bytes: u64) -> u64 {
        let latency = self.shape.latency;
        let mut ns = latency.base_ns + bytes.div_ceil(4096) * latency.page_ns;
        if action == Action::Flush {
            ns += latency.flush_ns;
        }
        ns += self.prng.below(latency.jitter_ns + 1);
        ns * self.slow_factor
    }

    /// How much longer this operation takes because the drive stutters, nanoseconds. Flushes are of the whole drive.
    pub(super) fn stutter_ns(&mut self, action: Action, span: Span) -> u64 {
        let whole = self.dials.area.is_none();
        let struck = match action {
            Action::Flush => whole,
            Action::Read | Action::Write => whole || self.dials.reaches(action, span),
        };
        let stutters = struck && self.prng.chance(self.dials.stutter);
        if stutters { self.prng.below(2_000_000_000) * self.slow_factor } else { 0 }
    }

    /// Whether a span may be read or written: aligned, and (but for growing files) inside.
    pub(super) fn check(&self, action: Action, span: Span) -> Result<(), Errno> {
        let sector = u64::from(self.shape.logical_sector);
        if !span.offset().is_aligned(sector) || !span.len().is_aligned(sector) {
            return Err(Errno::EINVAL);
        }
        let inside = span.end().0 <= self.size;
        match (action, self.shape.kind) {
            (Action::Write, FileKind::BlockDevice) if !inside => Err(Errno::ENOSPC),
            (Action::Read | Action::Write | Action::Flush, _) => Ok(()),
        }
    }

    /// The error that a bad sector in this span gives. Reads of it fail until it is written.
    pub(super) fn bad_sector(&self, action: Action, span: Span) -> Option<Errno> {
        let bad = match action {
            Action::Read => &self.bad_reads,
            Action::Write => &self.bad_writes,
            Action::Flush => return None,
        };
        let hit = !span.is_empty() && bad.range(sectors_of(span)).next().is_some();
        hit.then_some(Errno::EIO)
    }

    /// What a completed write leaves behind besides content: it heals unreadable sectors and grows files.
    pub(super) fn note_written(&mut self, span: Span) {
        if self.shape.kind == FileKind::RegularFile {
            self.size = self.size.max(span.end().0);
        }
        if !self.bad_reads.is_empty() && !span.is_empty() {
            let healed: Vec<u64> = self.bad_reads.range(sectors_of(span)).copied().collect();
            healed.iter().for_each(|sector| {
                self.bad_reads.remove(sector);
            });
        }
    }
}

/// The 512-byte sectors of a span, by number.
pub(super) fn sectors_of(span: Span) -> std::ops::Range<u64> {
    span.offset().0 / SECTOR..span.end().0.div_ceil(SECTOR)
}
