//! Reading one copy of some blocks, down to single blocks where something cannot be read: a bad sector costs one block.

use crate::base::bitmap::Bitmap;
use crate::base::limits::BLOCK;
use crate::base::units::ByteOffset;
use crate::disk::{Disk, Patience};
use crate::io::buf::Buf;
use crate::reactor::Core;
use nix::errno::Errno;
use std::ops::Range;

const BLOCK_LEN: usize = BLOCK as usize; // a constant of 4096

/// Reads of one chunk that may fail before the rest of it counts as unreadable.
const FAILED_READS_MAX: u32 = 64;

/// One copy of some blocks.
pub struct CopyBytes {
    buf: Buf,
    /// Blocks that could not be read; None: all could.
    gaps: Option<Bitmap>,
}

/// A drive did not answer in time.
pub struct Silent;

impl CopyBytes {
    /// The block at this place; None if it could not be read.
    pub fn block(&self, at: usize) -> Option<&[u8]> {
        let readable = self.gaps.as_ref().is_none_or(|gaps| !gaps.get(at));
        readable.then(|| &self.buf.as_slice()[at * BLOCK_LEN..(at + 1) * BLOCK_LEN])
    }

    /// The bytes of a block that could be read, to be written elsewhere.
    pub fn slice(&self, at: usize) -> Buf {
        self.buf.slice(at * BLOCK_LEN..(at + 1) * BLOCK_LEN)
    }
}

/// Reads so many blocks of a drive from `at` on; where a read fails, its halves are read, down to single blocks.
///
/// # Errors
/// If the drive does not answer in time: it is not asked again.
pub async fn read_all(
    core: &Core,
    disk: &Disk,
    at: ByteOffset,
    blocks: usize,
    patience: Patience,
) -> Result<CopyBytes, Silent> {
    let read = async |part: Range<usize>| {
        let into = core.buffers().take(part.len() * BLOCK_LEN);
        let at = ByteOffset(at.0 + part.start as u64 * BLOCK); // widening
        disk.read(core, at, into, patience).await
    };
    match read(0..blocks).await {
        Ok(buf) => return Ok(CopyBytes { buf: buf.freeze(), gaps: None }),
        Err(Errno::ETIMEDOUT) => return Err(Silent),
        Err(_) => {}
    }
    let mut gaps = Bitmap::new(blocks);
    let mut whole = core.buffers().take(blocks * BLOCK_LEN);
    whole.as_mut_slice().fill(0);
    let mut parts = halves(0..blocks);
    let mut failed = 1;
    while let Some(part) = parts.pop() {
        let got = if failed < FAILED_READS_MAX { read(part.clone()).await.ok() } else { None };
        match got {
            Some(buf) => whole.as_mut_slice()[part.start * BLOCK_LEN..part.end * BLOCK_LEN]
                .copy_from_slice(buf.as_slice()),
            None if part.len() > 1 && failed < FAILED_READS_MAX => {
                failed += 1;
                parts.extend(halves(part));
            }
            None => {
                failed += 1;
                gaps.set_range(part, true);
            }
        }
    }
    Ok(CopyBytes { buf: whole.freeze(), gaps: Some(gaps) })
}

/// The two halves of a range, or the only block again.
fn halves(part: Range<usize>) -> Vec<Range<usize>> {
    let middle = part.start + part.len() / 2;
    let halves = [part.start..middle, middle..part.end];
    halves.into_iter().filter(|half| !half.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_ends_at_single_blocks() {
        assert_eq!(halves(0..5), [0..2, 2..5]);
        assert_eq!(halves(3..4), vec![3..4; 1]);
    }
}
