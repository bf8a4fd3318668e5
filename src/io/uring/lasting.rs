//! Memory that outlives the process: a file of a memory file system, mapped.
//!
//! The kernel keeps its pages when the process is killed, also between two instructions of it. Space is taken when the
//! file is made, so that no store finds the file system full.

use super::open::is_in_memory;
use crate::io::driver::LastingMemory;
use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, OFlag, fallocate, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{ftruncate, geteuid};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const WORD: usize = size_of::<u64>();

pub(super) struct Mapping {
    map: MmapRaw,
    path: PathBuf,
    /// Keeps others out.
    _file: Flock<OwnedFd>,
}

impl Mapping {
    /// The file at this path, made if there is none.
    pub fn open(path: &Path, words: usize) -> Result<Mapping, Errno> {
        let len = words.checked_mul(WORD).filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        let folder = path.parent().ok_or(Errno::EINVAL)?;
        if !is_in_memory(&open(folder, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)? {
            return Err(Errno::EOPNOTSUPP);
        }
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
        let fd = open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        if !is_ours(&fd)? {
            return Err(Errno::EPERM);
        }
        let file = Flock::lock(fd, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => Errno::EBUSY,
            other => other,
        })?;
        let size = libc::off_t::try_from(len).map_err(|_| Errno::EFBIG)?;
        if fstat(&*file)?.st_size != size {
            ftruncate(&*file, 0)?;
            fallocate(&*file, FallocateFlags::empty(), 0, size)?;
        }
        let map = MmapOptions::new().len(len).map_raw(file.as_raw_fd());
        let map = map.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        Ok(Mapping { map, path: path.to_owned(), _file: file })
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.map.len() / WORD, "a word of the memory");
        // SAFETY: the word lies within the mapping, which lives as long as `self` and starts at a page, so that it is
        // aligned; it is never accessed but as an atomic, and other processes are kept out by the lock.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(at)) }
    }
}

impl LastingMemory for Mapping {
    fn load(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Acquire)
    }

    fn store(&self, at: usize, word: u64) {
        self.word(at).store(word, Ordering::Release);
    }

    fn remove(&self) {
        // It is in nobody's way if that fails: what it says is of an opening that has ended.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether it is a regular file that nobody else may write.
fn is_ours(fd: &OwnedFd) -> Result<bool, Errno> {
    let found = fstat(fd)?;
    let mode = Mode::from_bits_truncate(found.st_mode);
    let regular = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
    let closed = !mode.intersects(Mode::S_IWGRP | Mode::S_IWOTH);
    Ok(regular && closed && found.st_uid == geteuid().as_raw())
}
