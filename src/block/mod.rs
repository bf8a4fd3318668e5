//! The language that protocols, volumes and pools share: statuses, geometry, payloads, allocation runs.
//!
//! Rank 3. No I/O here.

pub mod places;
mod reservations;

pub use reservations::{ReservationBytes, ReservationCell, ReservationError};

use crate::base::limits::{BLOCK, CHUNK_MAX};
use crate::base::units::{ByteLen, Span};
use crate::io::buf::Buf;
use smallvec::SmallVec;

/// How a request on a volume ended. Small and Copy: the data path carries no strings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Status {
    /// The range is not within the volume.
    #[error("out of range")]
    OutOfRange,
    /// No space left in the pool for blocks that were never allocated.
    #[error("no space left in the pool")]
    NoSpace,
    /// No copy could be read, or the write reached no copy.
    #[error("input/output error")]
    Io,
    /// The volume may not be written.
    #[error("read-only")]
    ReadOnly,
    /// Only a fast answer was asked for and there is none.
    #[error("not supported as asked")]
    NotFast,
    /// The pool is closing.
    #[error("shutting down")]
    ShuttingDown,
}

/// What a client needs to know about a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    pub size: ByteLen,
    /// The unit that is written without read-modify-write, bytes.
    pub block: u32,
    /// The request size that uses the drives best, bytes (a power of two).
    pub preferred: u32,
    pub rotational: bool,
}

/// The bytes of a READ or WRITE: a chain of buffers, in order. Any split is allowed.
#[derive(Clone, Default)]
pub struct Payload {
    pub parts: SmallVec<[Buf; 2]>,
}

impl Payload {
    pub fn one(buf: Buf) -> Payload {
        let mut parts = SmallVec::new();
        parts.push(buf);
        Payload { parts }
    }

    pub fn len(&self) -> ByteLen {
        ByteLen(self.parts.iter().map(|p| p.len() as u64).sum()) // widening
    }

    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(Buf::is_empty)
    }

    /// Some of the bytes, sharing the memory.
    ///
    /// # Panics
    /// If the range does not lie within the payload.
    pub fn slice(&self, at: u64, len: u64) -> Payload {
        let (mut skip, mut left) = (ByteLen(at).as_usize(), ByteLen(len).as_usize());
        let mut parts = SmallVec::new();
        for part in &self.parts {
            let start = skip.min(part.len());
            let take = left.min(part.len() - start);
            skip -= start;
            left -= take;
            if take > 0 {
                parts.push(part.slice(start..start + take));
            }
        }
        assert!(skip == 0 && left == 0, "a slice of {at}+{len} of {} bytes", self.len().0);
        Payload { parts }
    }

    /// The bytes in one vector, for tests and small reads.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts.iter().flat_map(|p| p.as_slice().iter().copied()).collect()
    }
}

/// How a write is to be treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteFlags {
    /// Durable on every in-sync copy before the answer.
    pub fua: bool,
}

/// How zeroes are to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ZeroFlags {
    pub fua: bool,
    /// Space must be allocated, so that a later write cannot run out of it (NBD NO_HOLE).
    pub allocate: bool,
    /// Fail with `NotFast` rather than write zeroes block by block (NBD FAST_ZERO).
    pub fast_only: bool,
}

/// A run of a volume's bytes with one allocation state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AllocationRun {
    pub len: ByteLen,
    /// A write here may need new space from the pool.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

/// What of a volume lies where, as answered for a span; the runs cover it from its start, gap-free.
pub struct Allocation {
    pub span: Span,
    pub runs: Vec<AllocationRun>,
}

/// One piece of a payload's span: its place in the volume and where it lies in its buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub span: Span,
    /// Where the bytes start in their buffer, so that block boundaries of the volume are aligned in memory.
    pub skew: usize,
}

/// Cuts a span into the pieces that a payload for it should have: no piece crosses a multiple of `CHUNK_MAX` of
/// the volume, and each lies in its buffer with the alignment it has in the volume. A payload cut this way is
/// written without copying.
pub fn pieces(span: Span) -> impl Iterator<Item = Piece> {
    let mut at = span.offset().0;
    let end = span.end().0;
    std::iter::from_fn(move || {
        if at == end {
            return None;
        }
        let stop = (at / CHUNK_MAX + 1).saturating_mul(CHUNK_MAX).min(end);
        let piece = Piece { span: Span::at(at, stop - at), skew: ByteLen(at % BLOCK).as_usize() };
        at = stop;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::buf::BufPool;

    #[test]
    fn a_slice_of_a_payload_takes_the_right_parts() {
        let pool = BufPool::new(0).unwrap();
        let part = |bytes: &[u8]| pool.copy_of(bytes).freeze();
        let payload = Payload { parts: [part(&[0, 1, 2]), part(&[3]), part(&[4, 5])].into_iter().collect() };
        let slice = |at, len| payload.slice(at, len);
        assert_eq!((slice(1, 4).to_vec(), slice(1, 4).parts.len()), (vec![1, 2, 3, 4], 3));
        assert_eq!((slice(3, 1).to_vec(), slice(3, 1).parts.len()), (vec![3], 1));
        assert!(slice(6, 0).is_empty() && slice(0, 6).to_vec() == payload.to_vec());
    }

    #[test]
    fn pieces_cover_the_span_and_keep_its_alignment() {
        let span = Span::at(CHUNK_MAX - 512, CHUNK_MAX + 1024);
        let cut: Vec<_> = pieces(span).map(|p| (p.span.offset().0, p.span.len().0, p.skew)).collect();
        assert_eq!(cut, [(CHUNK_MAX - 512, 512, 3584), (CHUNK_MAX, CHUNK_MAX, 0), (2 * CHUNK_MAX, 512, 0)]);
        assert_eq!(pieces(Span::at(5, 0)).count(), 0);
    }
}
