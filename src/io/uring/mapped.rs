//! Files of memory file systems, mapped: their bytes are copied by the CPU, without a system call for each.
//!
//! Such a copy can fail like any I/O: the file was cut, or the file system is full. The kernel tells that by
//! SIGBUS in the middle of the copy. The copy is a routine of its own, and the signal's handler makes it return
//! "failed" when it was in there; the caller then does the same by a system call, which names the error.
//! Only where that routine exists (x86-64); elsewhere nothing is mapped.

use crate::base::bitmap::word_masks;
use crate::io::buf::BUF_MAX;
use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Copies are whole multiples of this, bytes; all that a pool does is.
const UNIT: usize = 64;

/// Bytes of a page: on x86-64 there are no others.
const PAGE: usize = 4096;

/// Pages of the largest buffer, and one for a start in the middle of one.
const PAGES_MAX: usize = BUF_MAX / PAGE + 1;

/// A file's bytes as memory, shared with whoever else has the file. Nobody borrows them: every access is a copy.
#[derive(Debug)]
pub(super) struct Mapped {
    map: MmapRaw,
    /// A bit for each page that is known to be no hole. Looking into a hole of a sparse file would fill it.
    known: Box<[AtomicU64]>,
}

impl Mapped {
    /// Maps a file's first `size` bytes for reading and writing. None where that cannot be done.
    pub fn new(file: BorrowedFd<'_>, size: u64) -> Option<Mapped> {
        let len = usize::try_from(size).ok().filter(|len| *len > 0)?;
        guarded::prepare().ok()?;
        let map = MmapOptions::new().len(len).map_raw(file.as_raw_fd()).ok()?;
        let known = (0..len.div_ceil(PAGE * 64)).map(|_| AtomicU64::new(0)).collect();
        Some(Mapped { map, known })
    }

    /// Fills the buffer from `offset` on; false if that must be done otherwise.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        let Some(at) = self.place(offset, into.len()) else { return false };
        let pages = pages(offset, into.len());
        if !self.is_known(pages.clone()) {
            if !is_present(at, into.len()) {
                return false;
            }
            self.note(pages, true);
        }
        // SAFETY: `place` checked that the mapping covers the bytes; the slice is exclusively borrowed and apart
        // from the mapping, of which no references exist; both lengths are a multiple of UNIT.
        unsafe { guarded::copy(into.as_mut_ptr(), at, into.len(), guarded::Into::Buffer) }
    }

    /// Writes the bytes at `offset`; false if that must be done otherwise. Some may be written then.
    pub fn write(&self, offset: u64, from: &[u8]) -> bool {
        let Some(at) = self.place(offset, from.len()).filter(|at| at.addr().is_multiple_of(UNIT)) else {
            return false;
        };
        // SAFETY: as in `read`, with the roles exchanged; the target is aligned as streaming stores need it.
        let copied = unsafe { guarded::copy(at, from.as_ptr(), from.len(), guarded::Into::File) };
        if copied {
            self.note(pages(offset, from.len()), true);
        }
        copied
    }

    /// Some bytes are about to become a hole.
    pub fn forget(&self, offset: u64, len: u64) {
        let (offset, len) = (usize::try_from(offset).ok(), usize::try_from(len).ok());
        let end = offset.zip(len).and_then(|(offset, len)| offset.checked_add(len));
        if let (Some(offset), Some(end)) = (offset, end) {
            self.note(offset / PAGE..end.min(self.map.len()).div_ceil(PAGE), false);
        }
    }

    fn is_known(&self, pages: Range<usize>) -> bool {
        let mut words = word_masks(pages);
        words.all(|(word, mask)| self.known[word].load(Ordering::Relaxed) & mask == mask)
    }

    fn note(&self, pages: Range<usize>, known: bool) {
        for (word, mask) in word_masks(pages) {
            let word = &self.known[word];
            let is = word.load(Ordering::Relaxed);
            // Only a change is worth the bus: most of the time there is none.
            if known && is & mask != mask {
                word.fetch_or(mask, Ordering::Relaxed);
            } else if !known && is & mask != 0 {
                word.fetch_and(!mask, Ordering::Relaxed);
            }
        }
    }

    fn place(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let start = usize::try_from(offset).ok()?;
        let inside = start.checked_add(len).is_some_and(|end| end <= self.map.len());
        (inside && len > 0 && len.is_multiple_of(UNIT)).then(|| self.map.as_mut_ptr().wrapping_add(start))
    }
}

/// The pages that a range touches; it lies within the mapping.
fn pages(offset: u64, len: usize) -> Range<usize> {
    let start = usize::try_from(offset).expect("within the mapping");
    start / PAGE..(start + len).div_ceil(PAGE)
}

/// Whether all pages of a range of a mapping are in memory.
fn is_present(at: *mut u8, len: usize) -> bool {
    let within = at.addr() % PAGE;
    let mut pages = [0u8; PAGES_MAX];
    let count = (within + len).div_ceil(PAGE);
    if count > PAGES_MAX {
        return false;
    }
    let start = at.wrapping_sub(within).cast();
    // SAFETY: the kernel writes a byte for each page of the range, for which `pages` was found large enough; it
    // does not touch the range itself.
    let failed = unsafe { libc::mincore(start, within + len, pages.as_mut_ptr()) };
    failed == 0 && pages[..count].iter().all(|page| page & 1 == 1)
}

#[cfg(target_arch = "x86_64")]
mod guarded {
    use super::Errno;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    use std::ffi::{c_int, c_void};
    use std::sync::OnceLock;

    /// Where a copy goes to.
    #[derive(Clone, Copy)]
    pub enum Into {
        /// Soon read again: through the caches.
        Buffer = 0,
        /// Past the caches: the file's memory need not be read to be overwritten.
        File = 1,
    }

    // fn(rdi: to, rsi: from, rdx: length, ecx: kind) -> eax: 0 when all was copied, 1 after a fault. It keeps
    // nothing on the stack, so that returning from any of its instructions is as good as from the last.
    std::arch::global_asm!(
        ".globl drystone_copy",
        ".globl drystone_copy_failed",
        ".hidden drystone_copy",
        ".hidden drystone_copy_failed",
        "drystone_copy:",
        "test ecx, ecx",
        "jnz 3f",
        "2:",
        // The file's bytes are read once: they need not push the buffer out of the caches.
        "prefetchnta [rsi + 1024]",
        "movdqu xmm0, [rsi]",
        "movdqu xmm1, [rsi + 16]",
        "movdqu xmm2, [rsi + 32]",
        "movdqu xmm3, [rsi + 48]",
        "movdqu [rdi], xmm0",
        "movdqu [rdi + 16], xmm1",
        "movdqu [rdi + 32], xmm2",
        "movdqu [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "sub rdx, 64",
        "jnz 2b",
        "xor eax, eax",
        "ret",
        "3:",
        "movdqu xmm0, [rsi]",
        "movdqu xmm1, [rsi + 16]",
        "movdqu xmm2, [rsi + 32]",
        "movdqu xmm3, [rsi + 48]",
        "movntdq [rdi], xmm0",
        "movntdq [rdi + 16], xmm1",
        "movntdq [rdi + 32], xmm2",
        "movntdq [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "sub rdx, 64",
        "jnz 3b",
        "sfence",
        "xor eax, eax",
        "ret",
        "drystone_copy_failed:",
        "sfence",
        "mov eax, 1",
        "ret",
    );

    unsafe extern "C" {
        fn drystone_copy(to: *mut u8, from: *const u8, len: usize, kind: c_int) -> c_int;
        /// Not a function to call: where a copy goes on after a fault.
        fn drystone_copy_failed();
    }

    /// What SIGBUS did before.
    static BEFORE: OnceLock<Result<SigAction, Errno>> = OnceLock::new();

    /// Installs the handler, once in the life of the process.
    pub fn prepare() -> Result<(), Errno> {
        let before = BEFORE.get_or_init(|| {
            let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
            let action = SigAction::new(SigHandler::SigAction(on_bus_error), flags, SigSet::empty());
            // SAFETY: the handler touches nothing but the interrupted thread's registers and `BEFORE`, and hands
            // every fault that is not a copy's to the handler that was there before.
            unsafe { sigaction(Signal::SIGBUS, &action) }
        });
        before.as_ref().map(|_| ()).map_err(|errno| *errno)
    }

    /// Copies; false if a fault came in between.
    ///
    /// # Safety
    /// Both ranges are mapped (if not necessarily backed) and do not overlap; nobody else uses the buffer's; `len`
    /// is a multiple of 64 and not 0; a file's range starts at a multiple of 16.
    pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize, kind: Into) -> bool {
        // SAFETY: the routine above reads and writes exactly these ranges, under the caller's promises.
        unsafe { drystone_copy(to, from, len, kind as c_int) == 0 }
    }

    extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        let registers: *mut libc::ucontext_t = context.cast();
        // SAFETY: with SA_SIGINFO the kernel passes the interrupted thread's context, which nobody else uses.
        let at = unsafe { &mut (*registers).uc_mcontext.gregs[libc::REG_RIP as usize] }; // a small constant
        let (copy, failed) = (drystone_copy as *const (), drystone_copy_failed as *const ());
        let (copy, failed) = (copy.addr().cast_signed() as i64, failed.addr().cast_signed() as i64);
        if (copy..failed).contains(at) {
            *at = failed;
            return;
        }
        match BEFORE.get().and_then(|before| before.as_ref().ok()).map(SigAction::handler) {
            Some(SigHandler::SigAction(before)) => before(signal, info, context),
            Some(SigHandler::Handler(before)) => before(signal),
            Some(SigHandler::SigDfl | SigHandler::SigIgn) | None => {
                let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
                // SAFETY: the default action runs no code of ours: the fault comes again and ends the process.
                let _ = unsafe { sigaction(Signal::SIGBUS, &default) };
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod guarded {
    use super::Errno;

    #[derive(Clone, Copy)]
    pub enum Into {
        Buffer,
        File,
    }

    pub fn prepare() -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// # Safety
    /// None: it is never called, for want of a mapping.
    pub unsafe fn copy(_to: *mut u8, _from: *const u8, _len: usize, _kind: Into) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    fn file(size: u64) -> File {
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(size).unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read_back_and_is_in_the_file() {
        use std::os::unix::fs::FileExt;
        let file = file(1 << 20);
        let Some(mapped) = Mapped::new(file.as_fd(), 1 << 20) else { return };
        assert!(!mapped.read(4096, &mut [0; 4096]), "a hole stays one");
        let data: Vec<u8> = (0..65536u32).map(|n| (n % 251) as u8).collect();
        assert!(mapped.write(4096, &data));
        let (mut back, mut direct) = (vec![0; data.len()], vec![0; data.len()]);
        assert!(mapped.read(4096, &mut back));
        assert!(mapped.is_known(1..17) && !mapped.is_known(0..1) && !mapped.is_known(1..18));
        file.read_exact_at(&mut direct, 4096).unwrap();
        assert!(back == data && direct == data);
        assert!(!mapped.read((1 << 20) - 64, &mut back), "beyond the end");
        assert!(!mapped.read(0, &mut [0; 100]) && !mapped.write(8, &data), "odd lengths and places");
        mapped.forget(8192, 4096);
        assert!(mapped.is_known(1..2) && !mapped.is_known(2..3) && mapped.is_known(3..17));
        mapped.forget(0, u64::MAX);
        mapped.forget(1 << 30, 4096);
    }

    #[test]
    fn a_file_that_is_cut_fails_the_copy_and_nothing_else() {
        let file = file(1 << 20);
        let Some(mapped) = Mapped::new(file.as_fd(), 1 << 20) else { return };
        let mut buf = vec![7; 4096];
        file.set_len(8192).unwrap();
        for _ in 0..3 {
            assert!(mapped.write(4096, &buf) && mapped.read(4096, &mut buf));
            assert!(!mapped.write(8192, &buf) && !mapped.read(65536, &mut buf));
            // A copy that starts where there is something and ends where there is nothing.
            assert!(!mapped.write(4096, &vec![0; 8192]));
            // As if the page went away after it was looked at.
            let gone = mapped.place(65536, 4096).unwrap();
            // SAFETY: mapped, if not backed; the buffer is ours.
            assert!(!unsafe { guarded::copy(buf.as_mut_ptr(), gone, 4096, guarded::Into::Buffer) });
        }
        // The same on another thread.
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(!mapped.write(65536, &[0; 64])));
        });
    }
}
