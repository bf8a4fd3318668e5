//! Files and drives of the simulated machine: names, open files, locks, and operations on them over time.
//!
//! A read or write takes effect between its submission and its completion: with even chance some of its sectors
//! at a random moment before, the rest at the completion. Nothing is ordered between operations in flight.

use super::disk::{Action, Disk, DiskShape, Link, Pulse, sectors_of};
use super::faults::Incident;
use super::lives::ProcessId;
use super::media::{Patch, garbage_of, pages_of, patches_of, zeros_of};
use super::world::{Event, Flight, State};
use crate::base::checksum::structure_sum;
use crate::base::units::{ByteLen, Span};
use crate::io::driver::{Access, Done, FileId, Op, Opened};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What memory must be aligned to, bytes: O_DIRECT on the strictest of common drives.
const MEMORY_ALIGN: usize = 512;

#[derive(Default)]
pub(super) struct Storage {
    pub(super) disks: Vec<Disk>,
    pub(super) paths: BTreeMap<PathBuf, usize>,
    files: BTreeMap<FileId, OpenFile>,
    files_opened: u32,
}

struct OpenFile {
    process: ProcessId,
    disk: usize,
    generation: u32,
    writable: bool,
    in_flight: u32,
    /// The Close that waits for the operations in flight.
    closing: Option<u64>,
}

/// A read, write or flush on its way.
pub(super) struct Io {
    pub(super) disk: usize,
    file: FileId,
    action: Action,
    span: Span,
    /// Where it really goes: elsewhere when it is misdirected.
    offset: u64,
    fate: Fate,
    /// What is left to store.
    patches: Vec<Patch>,
    /// Reads: the part of the buffer that was filled before the end.
    sampled: Range<usize>,
    /// Flushes: the completed writes they cover.
    covers: u64,
    durable: bool,
    /// Writes: the checksum of the bytes at submission.
    sum: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Succeeds,
    Fails(Errno),
    /// Acknowledged and not stored.
    Lost,
}

impl Storage {
    /// The drive behind a path, gone or not.
    pub(super) fn find(&self, path: &Path) -> Option<usize> {
        self.paths.get(path).copied()
    }

    /// The drives that have any of the process's operations or files lose them: locks are released.
    pub(super) fn process_ended(&mut self, process: ProcessId) {
        let gone: Vec<FileId> =
            self.files.iter().filter(|(_, f)| f.process == process).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|file| self.forget(file));
    }

    /// Files that were made and never flushed may be gone after a power cut.
    pub(super) fn lose_new_files(&mut self) {
        let disks = &mut self.disks;
        self.paths.retain(|_, index| disks[*index].entry_durable || disks[*index].prng.chance(500));
    }

    fn forget(&mut self, file: FileId) {
        let Some(open) = self.files.remove(&file) else { return };
        let disk = &mut self.disks[open.disk];
        if disk.holder == Some(file) {
            disk.holder = None;
        }
    }

    /// An operation has ended; returns the Close that waited for it as the last one.
    fn io_ended(&mut self, file: FileId) -> Option<u64> {
        let open = self.files.get_mut(&file)?;
        open.in_flight -= 1;
        let closed = open.closing.filter(|_| open.in_flight == 0)?;
        self.forget(file);
        Some(closed)
    }

    /// The open file as this process may use it.
    fn usable(&self, file: FileId, process: ProcessId) -> Result<&OpenFile, Errno> {
        let open = self
            .files
            .get(&file)
            .filter(|f| f.process == process && f.closing.is_none())
            .ok_or(Errno::EBADF)?;
        let disk = &self.disks[open.disk];
        match disk.link {
            Link::Up if disk.generation == open.generation => Ok(open),
            Link::Up | Link::Gone => Err(Errno::ENODEV),
        }
    }
}

impl State {
    pub(super) fn begin_io(&mut self, id: u64) {
        let flight = &self.flights[&id];
        let process = self.drivers[flight.driver].process;
        let plan = match plan_of(&flight.op) {
            Some(plan) => plan,
            None => unreachable!("only reads, writes, flushes, zeroes and discards come here"),
        };
        match self.admit(process, &flight.op, &plan) {
            Err(errno) => self.refuse(id, errno),
            Ok(disk) => {
                let mut io = Io { disk, ..plan };
                self.strike(&mut io);
                self.prepare(id, &mut io);
                self.start(id, io);
            }
        }
    }

    /// Checks what a real kernel would check before it asks the drive.
    fn admit(&self, process: ProcessId, op: &Op, io: &Io) -> Result<usize, Errno> {
        let open = self.storage.usable(io.file, process)?;
        if io.action == Action::Write && !open.writable {
            return Err(Errno::EBADF);
        }
        self.storage.disks[open.disk].check(io.action, io.span)?;
        if !memory_of(op).is_multiple_of(MEMORY_ALIGN) {
            return Err(Errno::EINVAL);
        }
        Ok(open.disk)
    }

    /// Decides what goes wrong with this operation.
    fn strike(&mut self, io: &mut Io) {
        if let Some(left) = &mut self.failing {
            *left -= 1;
            if *left == 0 {
                self.failing = None;
                io.fate = Fate::Fails(Errno::EIO);
                return;
            }
        }
        let disk = &mut self.storage.disks[io.disk];
        let pending = disk.pending_errors.iter().position(|(action, _)| *action == io.action);
        let by_hand = pending.map(|i| disk.pending_errors.remove(i).1);
        if let Some(errno) = by_hand.or_else(|| disk.bad_sector(io.action, io.span)) {
            io.fate = Fate::Fails(errno);
            return;
        }
        if !disk.dials.reaches(io.action, io.span) {
            return;
        }
        let dials = disk.dials.clone();
        let what = match io.action {
            Action::Read if disk.prng.chance(dials.rot) => rot(disk, io.span),
            Action::Read if disk.prng.chance(dials.read_error) => {
                io.fate = Fate::Fails(Errno::EIO);
                if disk.prng.chance(dials.sticky) {
                    disk.bad_reads.extend(sectors_of(io.span).take(8));
                }
                "read error"
            }
            Action::Read if disk.prng.chance(dials.misdirected_read) => {
                misdirect(disk, io, "misdirected read")
            }
            Action::Write if disk.prng.chance(dials.write_error) => {
                io.fate = Fate::Fails(Errno::EIO);
                if disk.prng.chance(dials.sticky) {
                    disk.bad_writes.extend(sectors_of(io.span).take(8));
                }
                "write error"
            }
            Action::Write if disk.prng.chance(dials.lost_write) => {
                io.fate = Fate::Lost;
                "lost write"
            }
            Action::Write if disk.prng.chance(dials.misdirected_write) => {
                misdirect(disk, io, "misdirected write")
            }
            Action::Flush if disk.prng.chance(dials.flush_error) => {
                io.fate = Fate::Fails(Errno::EIO);
                "flush error"
            }
            Action::Read | Action::Write | Action::Flush => return,
        };
        let at = Span::at(io.offset, io.span.len().0);
        self.incidents.push(Incident { at_ns: self.now, disk: io.disk, asked: io.span, struck: at, what });
    }

    /// Takes what is needed from the operation's buffers and the drive at submission.
    fn prepare(&mut self, id: u64, io: &mut Io) {
        let disk = &mut self.storage.disks[io.disk];
        let len = io.span.len().as_usize();
        io.covers = disk.media.completions();
        match &self.flights[&id].op {
            Op::Write { from, .. } => {
                io.sum = structure_sum(from.as_slice());
                io.patches = patches_of(io.offset, from.as_slice());
            }
            Op::Zero { .. } => io.patches = zeros_of(io.offset, len),
            Op::Discard { .. } => {
                io.patches = match disk.prng.below(3) {
                    0 => Vec::new(),
                    1 => zeros_of(io.offset, len),
                    _ => garbage_of(io.offset, len, &mut disk.prng),
                }
            }
            _ => {}
        }
    }

    fn start(&mut self, id: u64, io: Io) {
        let disk = &mut self.storage.disks[io.disk];
        let moved = match self.flights[&id].op {
            Op::Zero { .. } | Op::Discard { .. } => 0,
            _ => io.span.len().0,
        };
        let duration = disk.duration_ns(io.action, moved) + disk.stutter_ns(io.action, io.span);
        let early = disk.prng.chance(500).then(|| disk.prng.below(duration));
        let (action, index, offset, sum) = (io.action, io.disk, io.offset, io.sum);
        self.storage.files.get_mut(&io.file).expect("admitted").in_flight += 1;
        self.note("io      ", [id, index as u64, offset, moved]); // widening
        self.note("bytes   ", [id, sum, 0, 0]);
        self.flights.get_mut(&id).expect("it begins").io = Some(io);
        if let Some(after) = early {
            self.schedule(self.now + after, Event::Early(id));
        }
        self.schedule(self.now + duration, Event::Finish(id));
        if action != Action::Read {
            self.count_down(id);
        }
    }

    /// Some of an operation takes effect before it completes.
    pub(super) fn early_io(&mut self, id: u64) {
        let Some(Flight { op, io: Some(io), .. }) = self.flights.get_mut(&id) else { return };
        let disk = &mut self.storage.disks[io.disk];
        if disk.pulse == Pulse::Hung || io.fate != Fate::Succeeds {
            return;
        }
        match op {
            Op::Read { into, .. } => {
                let sector = u64::from(disk.shape.logical_sector);
                let sectors = io.span.len().0 / sector;
                let cut = ByteLen(disk.prng.below(sectors + 1) * sector).as_usize();
                io.sampled = if disk.prng.chance(500) { 0..cut } else { cut..into.len() };
                let range = io.sampled.clone();
                disk.media.read(io.offset + range.start as u64, &mut into.as_mut_slice()[range]); // widening
            }
            _ => {
                let part = disk.media.split(&mut io.patches, &mut disk.prng);
                disk.media.apply(id, &part);
            }
        }
    }

    pub(super) fn finish_io(&mut self, id: u64) {
        let Some(Flight { op, io: Some(io), .. }) = self.flights.get_mut(&id) else { return };
        let disk = &mut self.storage.disks[io.disk];
        if disk.pulse == Pulse::Hung && disk.link == Link::Up {
            disk.held.push(id);
            return;
        }
        if let Op::Write { from, .. } = op {
            assert_eq!(
                io.sum,
                structure_sum(from.as_slice()),
                "a buffer changed while its write was in flight"
            );
        }
        let result = match (&mut *op, io.action) {
            (Op::Read { into, .. }, _) => end_read(disk, io, into.as_mut_slice()),
            (_, Action::Flush) => end_flush(disk, io).map(|()| 0),
            _ => end_write(disk, id, io).map(|()| 0),
        };
        let (file, sum) = (io.file, read_sum(op, result));
        let closed = self.storage.io_ended(file);
        self.note("end     ", [id, result.map_or_else(|e| e as u64, |n| n as u64), sum, 0]); // for the digest only
        self.complete(id, |op| match op {
            Op::Read { into, .. } => Done::Read(result, into),
            _ => Done::Finished(result.map(|_| ())),
        });
        if let Some(close) = closed {
            self.complete(close, |_| Done::Finished(Ok(())));
        }
    }

    /// All operations on its way to a drive are cut off: any of their sectors may have been stored.
    pub(super) fn cut_off(&mut self, disk: usize, mine: impl Fn(&Flight) -> bool) {
        for (id, flight) in self.flights.iter_mut().filter(|(_, f)| mine(f)) {
            let Some(io) = flight.io.as_mut().filter(|io| io.disk == disk) else { continue };
            let stored = match io.fate {
                Fate::Succeeds | Fate::Fails(_) => std::mem::take(&mut io.patches),
                Fate::Lost => Vec::new(),
            };
            let disk = &mut self.storage.disks[disk];
            let mut stored = stored;
            let part = disk.media.split(&mut stored, &mut disk.prng);
            disk.media.apply(*id, &part);
            disk.media.complete(*id, pages_of(io.offset, io.span.len().0));
            if !part.is_empty() {
                disk.note_written(io.span);
            }
            io.fate = Fate::Fails(Errno::EIO);
        }
    }

    pub(super) fn finish_open(&mut self, id: u64, path: &Path, access: Access) {
        let process = self.drivers[self.flights[&id].driver].process;
        let result = self.open(process, path, access);
        self.note("open    ", [id, result.as_ref().map_or(0, |o| u64::from(o.file.0)), 0, 0]);
        self.complete(id, |_| Done::Opened(result));
    }

    fn open(&mut self, process: ProcessId, path: &Path, access: Access) -> Result<Opened, Errno> {
        let index = match (self.storage.find(path), access) {
            (Some(index), _) => index,
            (None, Access::ExclusiveCreate { size }) => {
                let index = self.add_disk(path, DiskShape::file(size));
                self.storage.disks[index].entry_durable = false;
                index
            }
            (None, Access::Inspect | Access::Exclusive) => return Err(Errno::ENOENT),
        };
        let disk = &mut self.storage.disks[index];
        if disk.link == Link::Gone {
            return Err(Errno::ENOENT);
        }
        let writable = access != Access::Inspect;
        if writable && disk.holder.is_some() {
            return Err(Errno::EBUSY);
        }
        self.storage.files_opened += 1;
        let file = FileId(self.storage.files_opened);
        if writable {
            disk.holder = Some(file);
        }
        let (generation, facts) = (disk.generation, disk.facts());
        let open = OpenFile { process, disk: index, generation, writable, in_flight: 0, closing: None };
        self.storage.files.insert(file, open);
        Ok(Opened { file, facts })
    }

    pub(super) fn add_disk(&mut self, path: &Path, shape: DiskShape) -> usize {
        let prng = self.prng.fork();
        let index = self.storage.disks.len();
        self.storage.disks.push(Disk::new(shape, prng));
        self.storage.paths.insert(path.to_owned(), index);
        index
    }

    pub(super) fn finish_close(&mut self, id: u64, file: FileId) {
        let process = self.drivers[self.flights[&id].driver].process;
        let open = self.storage.files.get_mut(&file).filter(|f| f.process == process && f.closing.is_none());
        match open {
            None => self.fail(id, Errno::EBADF),
            // The file is closed, and its lock free, when the last operation has ended.
            Some(open) if open.in_flight > 0 => open.closing = Some(id),
            Some(_) => {
                self.storage.forget(file);
                self.complete(id, |_| Done::Finished(Ok(())));
            }
        }
    }

    pub(super) fn finish_size(&mut self, id: u64, file: FileId) {
        let process = self.drivers[self.flights[&id].driver].process;
        let open = self.storage.usable(file, process);
        let result = open.map(|open| ByteLen(self.storage.disks[open.disk].size));
        self.complete(id, |_| Done::Size(result));
    }
}

fn plan_of(op: &Op) -> Option<Io> {
    let (file, action, span, durable) = match op {
        Op::Read { file, offset, into } => {
            (*file, Action::Read, Span::new(*offset, ByteLen(into.len() as u64))?, false) // widening
        }
        Op::Write { file, offset, from, durable } => {
            (*file, Action::Write, Span::new(*offset, ByteLen(from.len() as u64))?, *durable) // widening
        }
        Op::Flush { file } => (*file, Action::Flush, Span::at(0, 0), false),
        Op::Discard { file, span } | Op::Zero { file, span } => (*file, Action::Write, *span, false),
        _ => return None,
    };
    Some(Io {
        disk: 0,
        file,
        action,
        span,
        offset: span.offset().0,
        fate: Fate::Succeeds,
        patches: Vec::new(),
        sampled: 0..0,
        covers: 0,
        durable,
        sum: 0,
    })
}

/// The address of the memory that bytes are moved from or to; 0 if there is none.
fn memory_of(op: &Op) -> usize {
    match op {
        Op::Read { into, .. } if !into.is_empty() => into.as_slice().as_ptr().addr(),
        Op::Write { from, .. } if !from.is_empty() => from.as_ptr().addr(),
        _ => 0,
    }
}

fn end_read(disk: &mut Disk, io: &Io, into: &mut [u8]) -> Result<usize, Errno> {
    if let Fate::Fails(errno) = io.fate {
        // What a failed read left in the buffer is worth nothing: make sure of it.
        disk.prng.fill(into);
        return Err(errno);
    }
    let kept = io.sampled.clone();
    disk.media.read(io.offset, &mut into[..kept.start]);
    disk.media.read(io.offset + kept.end as u64, &mut into[kept.end..]); // widening
    let there = disk.size.saturating_sub(io.span.offset().0).min(io.span.len().0);
    Ok(ByteLen(there).as_usize())
}

fn end_write(disk: &mut Disk, id: u64, io: &mut Io) -> Result<(), Errno> {
    let pages = pages_of(io.offset, io.span.len().0);
    match io.fate {
        Fate::Succeeds => disk.media.apply(id, &io.patches),
        Fate::Fails(_) => {
            let part = disk.media.split(&mut io.patches, &mut disk.prng);
            disk.media.apply(id, &part);
        }
        Fate::Lost => {}
    }
    disk.media.complete(id, pages.clone());
    if io.durable || !disk.shape.volatile_cache {
        disk.media.forced(id, pages);
        disk.entry_durable = true;
    }
    match io.fate {
        Fate::Fails(errno) => Err(errno),
        Fate::Succeeds | Fate::Lost => {
            disk.note_written(io.span);
            Ok(())
        }
    }
}

fn end_flush(disk: &mut Disk, io: &Io) -> Result<(), Errno> {
    if let Fate::Fails(errno) = io.fate {
        if disk.prng.chance(500) {
            disk.media.flush_failed(io.covers);
        }
        return Err(errno);
    }
    disk.media.flushed(io.covers);
    disk.entry_durable = true;
    Ok(())
}

fn rot(disk: &mut Disk, span: Span) -> &'static str {
    let offset = span.offset().0 + disk.prng.below(span.len().0);
    let bit = u8::try_from(disk.prng.below(8)).expect("below 8");
    disk.media.flip(offset, bit);
    "bit rot"
}

/// Sends an operation to another place that is as large, a little before or after its own.
fn misdirect(disk: &mut Disk, io: &mut Io, what: &'static str) -> &'static str {
    let sector = u64::from(disk.shape.logical_sector);
    let room = disk.size.saturating_sub(io.span.len().0) / sector;
    let shift = sector * (1 + disk.prng.below(256));
    let other = match disk.prng.chance(500) {
        true => io.offset.saturating_sub(shift),
        false => io.offset + shift,
    };
    let other = other.min(room * sector);
    // Who is struck by it lies in the area too.
    let areas = disk.dials.area.iter().flatten();
    let mine = areas.clone().find(|a| a.offset() <= io.span.offset() && io.span.end() <= a.end());
    io.offset = mine.map_or(other, |a| other.clamp(a.offset().0, a.end().0 - io.span.len().0));
    what
}

fn read_sum(op: &Op, result: Result<usize, Errno>) -> u64 {
    match (op, result) {
        (Op::Read { into, .. }, Ok(n)) => structure_sum(&into.as_slice()[..n]),
        _ => 0,
    }
}
