//! Opening files and block devices, and learning about them. Rare, so it is done on the spot.
//!
//! What is neither a block device nor a regular file is not even opened: opening can have effects (a tape
//! rewinds, a pipe waits for a writer).

use super::handles::{Descriptor, FileTraits, Held, Traits};
use super::mapped::Mapped;
use crate::base::checksum::structure_sum;
use crate::base::units::ByteLen;
use crate::io::driver::{Access, FileFacts, FileKind};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, stat};
use nix::sys::statfs::fstatfs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

nix::ioctl_read!(block_size_u64, 0x12, 114, u64); // BLKGETSIZE64
nix::ioctl_read_bad!(block_sector_logical, libc::BLKSSZGET, libc::c_int);
nix::ioctl_read_bad!(block_sector_physical, libc::BLKPBSZGET, libc::c_uint);

/// `linux/magic.h`
const RAMFS_MAGIC: i64 = 0x8584_58f6;
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// What of a number is used to tell one stay of a device from another.
const STAY_MASK: u64 = (1 << 48) - 1;

/// The unit of I/O on a file in the page cache, bytes.
const BUFFERED_SECTOR: u32 = 512;

/// The unit that is right on every disk, bytes, for a file whose file system does not tell.
const CAREFUL_SECTOR: u32 = 4096;

/// Opens a file for this access. Errors: EBUSY when it is in exclusive use; EINVAL for a directory, character
/// device, pipe or socket; otherwise as open(2).
pub(super) fn open_file(path: &Path, access: Access) -> Result<(Held, FileFacts), Errno> {
    let (fd, direct) = match access {
        Access::Inspect => open_existing(path, OFlag::O_RDONLY, OFlag::empty())?,
        Access::Exclusive => open_existing(path, OFlag::O_RDWR, OFlag::O_EXCL)?,
        Access::ExclusiveCreate { .. } => open_or_create(path)?,
    };
    let found = fstat(&fd)?;
    let kind = kind_of(&found)?;
    let exclusive = !matches!(access, Access::Inspect);
    let descriptor = match kind {
        FileKind::RegularFile if exclusive => Descriptor::Locked(lock(fd)?),
        FileKind::RegularFile | FileKind::BlockDevice => Descriptor::Plain(fd),
    };
    let fd = descriptor.as_fd();
    // Under the lock: a file that this process made, or that was left empty when making it was interrupted.
    if let (Access::ExclusiveCreate { size }, FileKind::RegularFile) = (access, kind)
        && fstat(fd)?.st_size == 0
    {
        fill(&fd, path, size)?;
    }
    let in_memory = kind == FileKind::RegularFile && is_in_memory(&fd)?;
    let facts = facts(&fd, kind, direct && !in_memory)?;
    let direct = (direct && !in_memory).then_some(facts.logical_sector);
    let mapped = if in_memory && exclusive { Mapped::new(fd, facts.size.0) } else { None };
    let traits = Traits::File(FileTraits { kind, in_memory, mapped, direct });
    Ok((Held::new(descriptor, traits), facts))
}

/// The size now, bytes.
pub(super) fn size(fd: &impl AsFd, kind: FileKind) -> Result<ByteLen, Errno> {
    match kind {
        FileKind::RegularFile => {
            let size = fstat(fd)?.st_size;
            Ok(ByteLen(u64::try_from(size).map_err(|_| Errno::EOVERFLOW)?))
        }
        FileKind::BlockDevice => {
            let mut size = 0;
            // SAFETY: BLKGETSIZE64 writes one u64, which lives on this stack frame.
            unsafe { block_size_u64(fd.as_fd().as_raw_fd(), &raw mut size) }?;
            Ok(ByteLen(size))
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Descriptor::Plain(fd) => fd.as_fd(),
            Descriptor::Locked(fd) => fd.as_fd(),
        }
    }
}

/// Opens what exists; `on_device` flags are for block devices only. Says whether it is unbuffered.
fn open_existing(path: &Path, flags: OFlag, on_device: OFlag) -> Result<(OwnedFd, bool), Errno> {
    let flags = match kind_of(&stat(path)?)? {
        FileKind::BlockDevice => flags | on_device,
        FileKind::RegularFile => flags,
    };
    open_direct(path, flags)
}

fn open_or_create(path: &Path) -> Result<(OwnedFd, bool), Errno> {
    match open_existing(path, OFlag::O_RDWR, OFlag::O_EXCL) {
        // Not O_EXCL: whoever was faster with the same intent is sorted out by the lock.
        Err(Errno::ENOENT) => open_direct(path, OFlag::O_RDWR | OFlag::O_CREAT),
        other => other,
    }
}

/// Opens past the page cache, or through it where the file system knows no other way.
fn open_direct(path: &Path, flags: OFlag) -> Result<(OwnedFd, bool), Errno> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    match open(path, flags | OFlag::O_DIRECT, mode) {
        Ok(fd) => Ok((fd, true)),
        Err(Errno::EINVAL) => open(path, flags, mode).map(|fd| (fd, false)),
        Err(errno) => Err(errno),
    }
}

fn kind_of(found: &FileStat) -> Result<FileKind, Errno> {
    match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Ok(FileKind::RegularFile),
        SFlag::S_IFBLK => Ok(FileKind::BlockDevice),
        _ => Err(Errno::EINVAL),
    }
}

/// flock belongs to the open file, so it also keeps out a second open by this process.
fn lock(fd: OwnedFd) -> Result<Flock<OwnedFd>, Errno> {
    Flock::lock(fd, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Errno::EBUSY,
        other => other,
    })
}

/// Gives a new file its size, and makes its name durable.
fn fill(fd: &impl AsFd, path: &Path, size: ByteLen) -> Result<(), Errno> {
    let len = libc::off_t::try_from(size.0).map_err(|_| Errno::EFBIG)?;
    nix::unistd::ftruncate(fd, len)?;
    nix::unistd::fsync(fd)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = open(folder, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::fsync(folder)
}

pub(super) fn is_in_memory(fd: &impl AsFd) -> Result<bool, Errno> {
    // The type of the magic number differs between C libraries.
    #[allow(clippy::unnecessary_cast)]
    let magic = fstatfs(fd)?.filesystem_type().0 as i64;
    Ok(magic == TMPFS_MAGIC || magic == RAMFS_MAGIC)
}

fn facts(fd: &impl AsFd, kind: FileKind, direct: bool) -> Result<FileFacts, Errno> {
    let size = size(fd, kind)?;
    let found = fstat(fd)?;
    match kind {
        FileKind::BlockDevice => {
            let queue = Queue::of(found.st_rdev);
            Ok(FileFacts {
                kind,
                size,
                logical_sector: logical_sector(fd)?,
                physical_sector: physical_sector(fd)?,
                rotational: queue.number("rotational") == Some(1),
                discards: queue.number("discard_max_bytes").is_some_and(|max| max > 0),
                stay: queue.stay() & STAY_MASK,
            })
        }
        FileKind::RegularFile => {
            let queue = Queue::of(found.st_dev);
            let logical_sector =
                if direct { direct_unit(fd).unwrap_or(CAREFUL_SECTOR) } else { BUFFERED_SECTOR };
            let physical = queue.number("physical_block_size").and_then(|n| u32::try_from(n).ok());
            Ok(FileFacts {
                kind,
                size,
                logical_sector,
                physical_sector: physical.unwrap_or(CAREFUL_SECTOR).max(logical_sector),
                rotational: queue.number("rotational") == Some(1),
                // A hole in a file gives its space back to the file system.
                discards: true,
                stay: structure_sum(&[queue.stay(), found.st_ino].map(u64::to_le_bytes).concat()) & STAY_MASK,
            })
        }
    }
}

fn logical_sector(fd: &impl AsFd) -> Result<u32, Errno> {
    let mut bytes = 0;
    // SAFETY: BLKSSZGET writes one int, which lives on this stack frame.
    unsafe { block_sector_logical(fd.as_fd().as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(|_| Errno::EINVAL)
}

fn physical_sector(fd: &impl AsFd) -> Result<u32, Errno> {
    let mut bytes = 0;
    // SAFETY: BLKPBSZGET writes one unsigned int, which lives on this stack frame.
    unsafe { block_sector_physical(fd.as_fd().as_raw_fd(), &raw mut bytes) }?;
    Ok(bytes)
}

/// The unit of unbuffered I/O on a file, bytes, at least a sector; None if the kernel does not tell.
fn direct_unit(fd: &impl AsFd) -> Option<u32> {
    /// `STATX_DIOALIGN`, since Linux 6.1.
    const DIOALIGN: libc::c_uint = 0x2000;
    /// Where `stx_dio_offset_align` is in `struct statx`, in units of u32.
    const OFFSET_ALIGN: usize = 156 / 4;
    let mut answer = [0u32; 64];
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes one `struct statx` of 256 bytes, which is the size of `answer`; its fields
    // are integers. The path is an empty C string.
    let failed =
        unsafe { libc::statx(raw, c"".as_ptr(), libc::AT_EMPTY_PATH, DIOALIGN, answer.as_mut_ptr().cast()) };
    let told = failed == 0 && answer[0] & DIOALIGN != 0 && answer[OFFSET_ALIGN] != 0;
    told.then(|| answer[OFFSET_ALIGN].max(BUFFERED_SECTOR))
}

/// What the kernel says about the request queue of a disk.
struct Queue {
    folder: PathBuf,
}

impl Queue {
    fn of(device: libc::dev_t) -> Queue {
        let name = format!("{}:{}", libc::major(device), libc::minor(device));
        let device = Path::new("/sys/dev/block").join(name);
        // A partition has no queue of its own; its disk is the folder above.
        let folder = match std::fs::canonicalize(&device) {
            Ok(real) if real.join("partition").exists() => real.join("../queue"),
            Ok(real) => real.join("queue"),
            Err(_) => device,
        };
        Queue { folder }
    }

    /// The sequence number of the disk, which is new whenever it appears (`diskseq`, since Linux 5.15). 0 if there is none.
    fn stay(&self) -> u64 {
        self.number("../diskseq").unwrap_or(0)
    }

    fn number(&self, name: &str) -> Option<u64> {
        std::fs::read_to_string(self.folder.join(name)).ok()?.trim().parse().ok()
    }
}
