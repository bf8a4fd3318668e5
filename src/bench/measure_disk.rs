//! Drives alone and all together, past the page cache where the file system allows that.
//!
//! A drive is opened for reading only, which works beside a daemon that has it. What is written goes to a scratch
//! file next to a drive that is itself a regular file; its name is taken away as soon as it is open, so that its
//! space comes back however this ends. Nothing is ever written to a block device.

use super::figure::{Figures, Outcome};
use super::load::{self, LoadError, Run, Subject, Way};
use super::processor::Server;
use super::report::DriveResult;
use super::workload::Workload;
use crate::base::units::{ByteLen, Span, round_down};
use crate::io::driver::{Access, Done, FileId, FileKind, Op, Opened};
use crate::reactor::Core;
use nix::errno::Errno;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of a drive's free space, the part that a scratch file may take.
const SCRATCH_SHARE: u64 = 4;

/// The smallest scratch file that is worth measuring with, bytes.
const SCRATCH_MIN: u64 = 4 << 20;

const OVERWRITES: &str = "not measured: it would overwrite data";

/// How drives are measured.
#[derive(Clone, Copy, Debug)]
pub struct DiskPlan {
    /// Length of one run.
    pub run: Duration,
    /// Bytes of a scratch file, at most.
    pub scratch: ByteLen,
}

/// Drives alone, and all of them at the same time.
pub struct DisksMeasured {
    pub drives: Vec<DriveResult>,
    pub together: Option<Figures>,
}

/// A drive that is being measured.
struct Drive {
    result: DriveResult,
    files: Vec<FileId>,
    read: Option<Subject>,
    write: Result<Subject, String>,
}

/// Measures each drive alone, then all of them together.
pub async fn measure_disks(core: &Core, paths: &[PathBuf], plan: DiskPlan) -> DisksMeasured {
    let mut drives = Vec::new();
    for path in paths {
        let mut drive = open_drive(core, path, plan).await;
        if let Some(read) = drive.read.clone() {
            drive.result.figures = measure(core, &[read], as_one(&drive.write), plan).await;
        }
        drives.push(drive);
    }
    let together = if drives.len() > 1 { Some(measure_together(core, &drives, plan).await) } else { None };
    for file in drives.iter().flat_map(|d| d.files.iter().copied()) {
        // A failure to close changes no figure; the scratch file has no name any more.
        let _ = core.op(Op::Close { file }).await;
    }
    DisksMeasured { drives: drives.into_iter().map(|d| d.result).collect(), together }
}

fn as_one(write: &Result<Subject, String>) -> Result<Vec<Subject>, String> {
    write.clone().map(|subject| vec![subject])
}

async fn measure_together(core: &Core, drives: &[Drive], plan: DiskPlan) -> Figures {
    let reads: Vec<Subject> = drives.iter().filter_map(|d| d.read.clone()).collect();
    if reads.len() < drives.len() {
        return Figures::not_measured("not every drive could be opened");
    }
    let writes: Result<Vec<Subject>, String> = drives.iter().map(|d| d.write.clone()).collect();
    measure(core, &reads, writes, plan).await
}

async fn measure(
    core: &Core,
    reads: &[Subject],
    writes: Result<Vec<Subject>, String>,
    plan: DiskPlan,
) -> Figures {
    let mut figures = Figures::default();
    for workload in Workload::ALL {
        let run = Run { workload, time: plan.run, server: Server::default() };
        let outcome = match (workload.is_write(), &writes) {
            (true, Err(reason)) => Outcome::not_measured(reason),
            (true, Ok(writes)) => outcome(load::run(core, writes, run).await),
            (false, _) => outcome(load::run(core, reads, run).await),
        };
        figures.record(workload, outcome);
    }
    figures
}

/// A run's result as an outcome.
pub fn outcome(result: Result<super::figure::Figure, LoadError>) -> Outcome {
    match result {
        Ok(figure) => Outcome::Measured(figure),
        Err(error) => Outcome::Failed { reason: error.to_string() },
    }
}

async fn open(core: &Core, path: PathBuf, access: Access) -> Result<Opened, Errno> {
    match core.op(Op::Open { path, access }).await {
        Done::Opened(result) => result,
        _ => unreachable!("Open ends with Opened"),
    }
}

async fn open_drive(core: &Core, path: &Path, plan: DiskPlan) -> Drive {
    let name = name_of(path);
    let opened = match open(core, path.to_owned(), Access::Inspect).await {
        Ok(opened) => opened,
        Err(errno) => {
            let figures = Figures::not_measured(&format!("cannot be opened: {}", errno.desc()));
            let result = DriveResult { name, size_bytes: 0, rotational: false, figures, notes: Vec::new() };
            return Drive { result, files: Vec::new(), read: None, write: Err(OVERWRITES.to_owned()) };
        }
    };
    let facts = opened.facts;
    let figures = Figures::default();
    let (size_bytes, rotational) = (facts.size.0, facts.rotational);
    let mut result = DriveResult { name, size_bytes, rotational, figures, notes: notes_on(path) };
    let disk = Subject { ways: vec![Way::Disk(opened.file)], region: Span::at(0, facts.size.0) };
    let mut files = vec![opened.file];
    let (read, write) = match facts.kind {
        FileKind::BlockDevice => (disk, Err(OVERWRITES.to_owned())),
        FileKind::RegularFile => match make_scratch(core, path, plan).await {
            Err(reason) => (disk, Err(reason)),
            Ok((file, scratch)) => {
                files.push(file);
                // Holes of a sparse file are read without the drive.
                let read = if is_sparse(path) { scratch.clone() } else { disk };
                (read, Ok(scratch))
            }
        },
    };
    if write.is_err() && is_sparse(path) {
        result.notes.push("the file is sparse: parts of it were read without the drive".to_owned());
    }
    Drive { result, files, read: Some(read), write }
}

/// A scratch file beside a drive that is a file: filled, open, and without a name.
async fn make_scratch(core: &Core, path: &Path, plan: DiskPlan) -> Result<(FileId, Subject), String> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let free = statvfs(directory).map(|s| s.blocks_available() * s.fragment_size());
    let free = free.map_err(|errno| format!("no scratch file: {}", errno.desc()))?;
    let size = round_down(plan.scratch.0.min(free / SCRATCH_SHARE), 1 << 20);
    if size < SCRATCH_MIN {
        return Err("no room for a scratch file".to_owned());
    }
    let unique = core.with_prng(|prng| prng.u64()) ^ core.wall_ns();
    let scratch = directory.join(format!(".drystone-bench-{unique:016x}"));
    let opened = open(core, scratch.clone(), Access::ExclusiveCreate { size: ByteLen(size) }).await;
    // Also when opening failed half-way; without a name the space is given back with the last use.
    let removed = std::fs::remove_file(&scratch);
    let file = opened.map_err(|errno| format!("no scratch file: {}", errno.desc()))?.file;
    removed.map_err(|error| format!("the scratch file {} stays: {error}", scratch.display()))?;
    let empty = Subject { ways: vec![Way::Disk(file)], region: Span::at(0, size) };
    let filled = load::fill(core, &empty, fill_limit(plan.run)).await;
    match filled {
        Ok(region) => Ok((file, Subject { region, ..empty })),
        Err(error) => {
            // It has no name any more; closing it gives the space back.
            let _ = core.op(Op::Close { file }).await;
            Err(format!("the scratch file could not be written: {error}"))
        }
    }
}

/// How long filling a scratch area may take.
pub fn fill_limit(run: Duration) -> Duration {
    (run * 4).max(Duration::from_secs(2))
}

/// The name that people know a drive by: for a link, that of what it leads to.
fn name_of(path: &Path) -> String {
    let real = std::fs::canonicalize(path);
    let name = real.as_deref().unwrap_or(path).file_name();
    name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn is_sparse(path: &Path) -> bool {
    // Blocks of stat(2) are 512 bytes whatever the file system's own are.
    std::fs::metadata(path).is_ok_and(|facts| facts.blocks() * 512 < facts.len())
}

/// What keeps a figure from being the drive's own.
fn notes_on(path: &Path) -> Vec<String> {
    let mut notes = Vec::new();
    if statfs(path).is_ok_and(|facts| facts.filesystem_type() == TMPFS_MAGIC) {
        notes.push("lies in memory, not on a drive".to_owned());
    } else if std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).is_err() {
        notes.push("the page cache could not be bypassed".to_owned());
    }
    notes
}
