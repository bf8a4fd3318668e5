//! Where the bytes of a read go: the buffers of one span, filled in any order and in pieces of any size. Pure.
//!
//! A receiver borrows a place to let the socket fill it directly; while it is lent nothing else touches it.

use super::{Payload, Piece, pieces};
use crate::base::units::Span;
use crate::io::buf::{BufMut, BufPool};

/// The buffers of a span.
#[derive(Default)]
pub struct Places {
    places: Vec<Place>,
}

/// The buffer of a piece of the span.
struct Place {
    /// From the start of the span, bytes.
    at: u64,
    skew: usize,
    len: usize,
    /// None while it is lent.
    buf: Option<BufMut>,
}

/// Bytes to put somewhere.
#[derive(Clone, Copy)]
pub enum Fill<'a> {
    Copy(&'a [u8]),
    Zeroes(usize),
}

impl Fill<'_> {
    fn len(&self) -> usize {
        match self {
            Fill::Copy(bytes) => bytes.len(),
            Fill::Zeroes(len) => *len,
        }
    }
}

/// The buffer of a place, its window set to what is wanted, and the place's number to give it back by.
pub struct Lent {
    pub number: usize,
    pub buf: BufMut,
}

impl Places {
    pub fn new(buffers: &BufPool, span: Span) -> Places {
        let place = |piece: Piece| {
            let len = piece.span.len().as_usize();
            let at = (piece.span.offset() - span.offset()).0;
            Place { at, skew: piece.skew, len, buf: Some(buffers.take(piece.skew + len)) }
        };
        Places { places: pieces(span).map(place).collect() }
    }

    /// The place that holds this position of the span, by number.
    fn number_of(&self, at: u64) -> usize {
        self.places.partition_point(|p| p.at <= at) - 1
    }

    /// Puts bytes where they belong.
    ///
    /// # Panics
    /// If they do not lie within the span, or their place is lent.
    pub fn fill(&mut self, at: u64, bytes: Fill<'_>) {
        let mut done = 0;
        self.visit(at, bytes.len(), |room| {
            match bytes {
                Fill::Copy(bytes) => room.copy_from_slice(&bytes[done..done + room.len()]),
                Fill::Zeroes(_) => room.fill(0),
            }
            done += room.len();
        });
    }

    /// Shows some of the span's bytes, piece by piece.
    ///
    /// # Panics
    /// If they do not lie within the span, or their place is lent.
    pub fn visit(&mut self, at: u64, len: usize, mut show: impl FnMut(&mut [u8])) {
        let (mut at, mut left) = (at, len);
        while left > 0 {
            let number = self.number_of(at);
            let place = &mut self.places[number];
            let inside = usize::try_from(at - place.at).expect("a place is a buffer");
            let take = (place.len - inside).min(left);
            let start = place.skew + inside;
            let buf = place.buf.as_mut().expect("one receiver at a time");
            buf.set_window(start..start + take);
            show(buf.as_mut_slice());
            left -= take;
            at += u64::try_from(take).expect("a buffer's length");
        }
    }

    /// Lends the buffer that holds this position, at most `len` bytes of it.
    ///
    /// # Panics
    /// If it is lent already.
    pub fn lend(&mut self, at: u64, len: u64) -> Lent {
        let number = self.number_of(at);
        let place = &mut self.places[number];
        let inside = usize::try_from(at - place.at).expect("a place is a buffer");
        let take = usize::try_from(len).unwrap_or(usize::MAX).min(place.len - inside);
        let mut buf = place.buf.take().expect("one receiver at a time");
        buf.set_window(place.skew + inside..place.skew + inside + take);
        Lent { number, buf }
    }

    pub fn give_back(&mut self, lent: Lent) {
        self.places[lent.number].buf = Some(lent.buf);
    }

    /// The buffers as one payload.
    ///
    /// # Panics
    /// If one of them is lent.
    pub fn into_payload(self) -> Payload {
        let whole = |place: Place| {
            let mut buf = place.buf.expect("nothing is received into a request that has ended");
            buf.set_window(place.skew..place.skew + place.len);
            buf.freeze()
        };
        Payload { parts: self.places.into_iter().map(whole).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::CHUNK_MAX;

    #[test]
    fn bytes_end_up_where_they_belong_across_buffers() {
        let pool = BufPool::new(0).unwrap();
        let mut places = Places::new(&pool, Span::at(CHUNK_MAX - 3, 6));
        places.fill(0, Fill::Zeroes(6));
        places.fill(1, Fill::Copy(&[1, 2, 3, 4]));
        let mut seen = Vec::new();
        places.visit(2, 3, |bytes| seen.push(bytes.to_vec()));
        assert_eq!(seen, [vec![2], vec![3, 4]]);
        let mut lent = places.lend(4, 9);
        assert_eq!(lent.buf.as_slice(), [4, 0], "what is left of that buffer");
        lent.buf.as_mut_slice()[1] = 9;
        places.give_back(lent);
        let payload = places.into_payload();
        assert_eq!((payload.parts.len(), payload.to_vec()), (2, vec![0, 1, 2, 3, 4, 9]));
    }
}
