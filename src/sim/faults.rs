//! What can go wrong with a drive: by chance (`Dials`) and by hand (`DiskHandle`).

use super::disk::{Action, DiskShape, Image, Link, Pulse, sectors_of};
use super::media::{garbage_of, patches_of, zeros_of};
use super::world::{Event, World};
use crate::base::units::{ByteLen, ByteOffset, Span};
use nix::errno::Errno;
use std::path::Path;

/// Chances per mille for each operation that a drive gets. All zero to begin with.
#[derive(Clone, Debug, Default)]
pub struct Dials {
    /// A read fails with EIO.
    pub read_error: u64,
    /// A write, zero or discard fails with EIO; any of its sectors may have been stored.
    pub write_error: u64,
    /// A flush fails with EIO; with even chance no later flush makes up for it.
    pub flush_error: u64,
    /// A read or write error stays with the sectors: reads until they are written, writes until `heal`.
    pub sticky: u64,
    /// A write is acknowledged and not stored.
    pub lost_write: u64,
    /// A write is acknowledged and stored up to 256 sectors away.
    pub misdirected_write: u64,
    /// A read returns what lies up to 256 sectors away.
    pub misdirected_read: u64,
    /// A bit of what is being read flips for good.
    pub rot: u64,
    /// An operation takes up to two seconds longer.
    pub stutter: u64,
    /// Where reads and writes may be struck; nowhere else. None means everywhere.
    pub area: Option<Vec<Span>>,
}

impl Dials {
    pub(super) fn reaches(&self, action: Action, span: Span) -> bool {
        if action == Action::Flush {
            return true;
        }
        let within = |area: &Span| area.offset() <= span.offset() && span.end() <= area.end();
        !span.is_empty() && self.area.as_ref().is_none_or(|areas| areas.iter().any(within))
    }
}

/// A fault that a dial caused.
#[derive(Clone, Debug)]
pub struct Incident {
    /// Virtual time, nanoseconds.
    pub at_ns: u64,
    /// As `DiskHandle::index` tells it.
    pub disk: usize,
    /// What was asked for.
    pub asked: Span,
    /// What was hit: differs for misdirected operations.
    pub struck: Span,
    pub what: &'static str,
}

/// Bytes at rest are replaced by these.
#[derive(Clone, Copy, Debug)]
pub enum Damage {
    Zeroes,
    Garbage,
    /// One bit, at a random place of the span.
    BitFlip,
}

/// The way to one drive. It stays with the drive when that is renamed.
#[derive(Clone)]
pub struct DiskHandle {
    pub(super) world: World,
    pub(super) index: usize,
}

impl DiskHandle {
    /// The drive's number in this world, from 0 in order of creation.
    pub fn index(&self) -> usize {
        self.index
    }

    pub fn size(&self) -> ByteLen {
        self.with(|disk| ByteLen(disk.size))
    }

    /// Sets the chances of faults.
    pub fn set_dials(&self, dials: Dials) {
        self.with(|disk| disk.dials = dials);
    }

    /// Makes every operation take `factor` times as long.
    pub fn set_slow(&self, factor: u64) {
        self.with(|disk| disk.slow_factor = factor.max(1));
    }

    /// Fails the next operation of this kind; calls add up.
    pub fn fail_next(&self, action: Action, errno: Errno) {
        self.with(|disk| disk.pending_errors.push((action, errno)));
    }

    /// Makes the span's sectors unreadable (EIO) until they are written.
    pub fn break_reads(&self, span: Span) {
        self.with(|disk| disk.bad_reads.extend(sectors_of(span)));
    }

    /// Makes writes to the span's sectors fail (EIO) until `heal`.
    pub fn break_writes(&self, span: Span) {
        self.with(|disk| disk.bad_writes.extend(sectors_of(span)));
    }

    /// Ends what can end: dials to zero, speed to normal, bad sectors good, no pending errors, not hung, not gone.
    pub fn heal(&self) {
        self.with(|disk| {
            disk.dials = Dials::default();
            disk.slow_factor = 1;
            disk.bad_reads.clear();
            disk.bad_writes.clear();
            disk.pending_errors.clear();
        });
        self.release();
        self.plug();
    }

    /// No operation ends until `release`. What is submitted meanwhile waits too.
    pub fn hang(&self) {
        self.with(|disk| disk.pulse = Pulse::Hung);
    }

    /// Lets a hung drive go on: what waited ends soon, in random order.
    pub fn release(&self) {
        let mut state = self.world.state.borrow_mut();
        let disk = &mut state.storage.disks[self.index];
        disk.pulse = Pulse::Beating;
        let held = std::mem::take(&mut disk.held);
        for id in held {
            let at = state.now + state.storage.disks[self.index].prng.below(1_000_000);
            state.schedule(at, Event::Finish(id));
        }
    }

    /// Takes the drive away, its power too: unflushed sectors are lost in part, operations in flight end with
    /// EIO, files open on it give ENODEV for ever, opening gives ENOENT.
    pub fn unplug(&self) {
        {
            let mut state = self.world.state.borrow_mut();
            state.cut_off(self.index, |_| true);
            let disk = &mut state.storage.disks[self.index];
            disk.media.power_cut(&mut disk.prng);
            disk.link = Link::Gone;
            disk.generation += 1;
            disk.holder = None;
        }
        self.release();
    }

    /// Brings the drive back as it was left. What was open before stays dead.
    pub fn plug(&self) {
        self.with(|disk| disk.link = Link::Up);
    }

    pub fn is_plugged(&self) -> bool {
        self.with(|disk| disk.link == Link::Up)
    }

    /// What reads see now, as an image to `restore` later: here (an old image) or on another drive (a twin).
    pub fn snapshot(&self) -> Image {
        self.with(|disk| {
            let mut media = disk.media.clone();
            media.all_stable();
            Image { media, size: disk.size }
        })
    }

    /// Replaces the content, and the size, by an image. Do it while the drive is unplugged or nothing runs.
    pub fn restore(&self, image: &Image) {
        self.with(|disk| {
            disk.media = image.media.clone();
            disk.size = image.size;
        });
    }

    /// Changes bytes at rest (whole 512-byte sectors for zeros and garbage), stable and cached.
    pub fn damage(&self, span: Span, damage: Damage) {
        self.with(|disk| match damage {
            Damage::Zeroes => disk.media.damage(&zeros_of(span.offset().0, span.len().as_usize())),
            Damage::Garbage => {
                let patches = garbage_of(span.offset().0, span.len().as_usize(), &mut disk.prng);
                disk.media.damage(&patches);
            }
            Damage::BitFlip => {
                let offset = span.offset().0 + disk.prng.below(span.len().0);
                let bit = u8::try_from(disk.prng.below(8)).expect("below 8");
                disk.media.flip(offset, bit);
            }
        });
    }

    /// What a read would see now, past locks, time and faults: for oracles. Zeros beyond the end.
    pub fn peek(&self, offset: ByteOffset, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.with(|disk| disk.media.read(offset.0, &mut out));
        out
    }

    /// What would be there if a power cut lost all that is not stable: for oracles.
    pub fn peek_stable(&self, offset: ByteOffset, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.with(|disk| disk.media.read_stable(offset.0, &mut out));
        out
    }

    /// Puts bytes there at once and stable, behind everybody's back (whole 512-byte sectors).
    pub fn poke(&self, offset: ByteOffset, bytes: &[u8]) {
        self.with(|disk| disk.media.damage(&patches_of(offset.0, bytes)));
    }

    /// A checksum of all that reads see.
    pub fn content_sum(&self) -> u64 {
        self.with(|disk| disk.media.content_sum())
    }

    /// 512-byte sectors that a power cut may change now.
    pub fn volatile_sectors(&self) -> u64 {
        self.with(|disk| disk.media.volatile_sectors())
    }

    /// Truncates or enlarges; new bytes are zeros.
    pub fn resize(&self, size: ByteLen) {
        self.with(|disk| {
            disk.size = size.0;
            disk.media.truncate(size.0);
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut super::disk::Disk) -> T) -> T {
        f(&mut self.world.state.borrow_mut().storage.disks[self.index])
    }
}

impl World {
    /// Makes a drive of zeros under a path (replacing what the path named).
    pub fn add_disk(&self, path: impl AsRef<Path>, shape: DiskShape) -> DiskHandle {
        let index = self.state.borrow_mut().add_disk(path.as_ref(), shape);
        DiskHandle { world: self.clone(), index }
    }

    /// The drive or file that a path names now.
    ///
    /// # Panics
    /// If there is none.
    pub fn disk(&self, path: impl AsRef<Path>) -> DiskHandle {
        self.find_disk(path.as_ref()).unwrap_or_else(|| panic!("no drive {}", path.as_ref().display()))
    }

    /// The drive or file that a path names now, if any.
    pub fn find_disk(&self, path: impl AsRef<Path>) -> Option<DiskHandle> {
        let index = self.state.borrow().storage.find(path.as_ref())?;
        Some(DiskHandle { world: self.clone(), index })
    }

    /// A copy of a drive under another path: a twin.
    pub fn copy_disk(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> DiskHandle {
        let from = self.disk(from);
        let (image, shape) = (from.snapshot(), from.with(|disk| disk.shape));
        let copy = self.add_disk(to, shape);
        copy.restore(&image);
        copy
    }

    /// Gives a drive another name. Files that are open stay open.
    pub fn rename_disk(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        let mut state = self.state.borrow_mut();
        let index = state.storage.paths.remove(from.as_ref()).expect("there is such a drive");
        state.storage.paths.insert(to.as_ref().to_owned(), index);
    }

    /// Exchanges two drives' names.
    pub fn swap_disks(&self, a: impl AsRef<Path>, b: impl AsRef<Path>) {
        let (x, y) = (self.disk(&a).index, self.disk(&b).index);
        let paths = &mut self.state.borrow_mut().storage.paths;
        paths.insert(a.as_ref().to_owned(), y);
        paths.insert(b.as_ref().to_owned(), x);
    }

    /// Removes a name; the drive is unplugged.
    pub fn remove_disk(&self, path: impl AsRef<Path>) {
        self.disk(&path).unplug();
        self.state.borrow_mut().storage.paths.remove(path.as_ref());
    }

    /// Fails the `nth` read, write or flush of any drive from now on; 1 is the next one. Replaces an earlier order.
    pub fn fail_nth(&self, nth: u64) {
        self.state.borrow_mut().failing = Some(nth.max(1));
    }

    /// Takes back `fail_nth`; false if it had happened.
    pub fn fail_no_more(&self) -> bool {
        self.state.borrow_mut().failing.take().is_some()
    }

    /// The faults that dials caused so far.
    pub fn incidents(&self) -> Vec<Incident> {
        self.state.borrow().incidents.clone()
    }
}
