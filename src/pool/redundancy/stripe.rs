//! Striping: which slot, and which byte of it, holds a byte of a volume.
//!
//! A volume is a sequence of segments; the stripes of a segment have equal width. A stripe of `columns` slots
//! covers `columns * extent` bytes, dealt out in stripe units round robin. A volume that grows gets a new segment;
//! nothing that was placed moves.

use crate::base::limits::CHUNK_MAX;
use crate::base::units::{ByteLen, ByteOffset, SlotIndex, Span};

/// A run of stripes of equal width.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub columns: u32,
    pub stripes: u32,
}

/// The address arithmetic of one volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Geometry {
    pub extent: ByteLen,
    pub region: ByteLen,
    pub unit: ByteLen,
    pub segments: Vec<Segment>,
}

/// A piece of a request that lies in one region of one slot, contiguously.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    pub slot: SlotIndex,
    /// Where it starts within the slot.
    pub offset: ByteLen,
    pub len: ByteLen,
    /// Where it starts within the volume.
    pub at: ByteOffset,
}

impl Geometry {
    /// Slots in all segments.
    pub fn slots(&self) -> u64 {
        self.segments.iter().map(|s| u64::from(s.columns) * u64::from(s.stripes)).sum()
    }

    /// Bytes that the segments cover.
    pub fn capacity(&self) -> ByteLen {
        ByteLen(self.slots() * self.extent.0)
    }

    /// Adds segments until `size` bytes are covered: whole stripes of `columns`, then one narrower stripe for the
    /// rest, so that no slot is wasted.
    pub fn cover(&mut self, size: ByteLen, columns: u32) {
        let missing = size.0.saturating_sub(self.capacity().0).div_ceil(self.extent.0);
        let stripes = missing / u64::from(columns);
        let rest = missing % u64::from(columns);
        let narrow = |n: u64| u32::try_from(n).expect("slots of a volume are counted in u32");
        if stripes > 0 {
            self.segments.push(Segment { columns, stripes: narrow(stripes) });
        }
        if rest > 0 {
            self.segments.push(Segment { columns: narrow(rest), stripes: 1 });
        }
    }

    /// Cuts a span into fragments, in the order of the volume's bytes.
    ///
    /// # Panics
    /// While iterating, if the span is not covered by the segments.
    pub fn fragments(&self, span: Span) -> impl Iterator<Item = Fragment> + '_ {
        let mut at = span.offset().0;
        let end = span.end().0;
        std::iter::from_fn(move || {
            if at == end {
                return None;
            }
            let fragment = self.fragment_at(ByteOffset(at), ByteLen(end - at));
            at += fragment.len.0;
            Some(fragment)
        })
    }

    /// The stripe that a byte belongs to: its slots, and the bytes of the volume that they hold.
    pub fn stripe_at(&self, at: ByteOffset) -> (std::ops::Range<u32>, Span) {
        let (first_slot, segment, within) = self.locate(at);
        let len = u64::from(segment.columns) * self.extent.0;
        let first = first_slot + within / len * u64::from(segment.columns);
        let first = u32::try_from(first).expect("slots of a volume are counted in u32");
        (first..first + segment.columns, Span::at(at.0 - within % len, len))
    }

    /// The byte of the volume that lies at an offset of a slot: the way back from a fragment. None beyond the segments.
    pub fn byte_of(&self, slot: SlotIndex, offset: ByteLen) -> Option<ByteOffset> {
        let (mut first, mut start) = (0, 0);
        for segment in &self.segments {
            let (columns, slots) = (u64::from(segment.columns), u64::from(segment.columns * segment.stripes));
            let within = u64::from(slot.0).checked_sub(first)?;
            if within < slots {
                let (stripe, column) = (within / columns, within % columns);
                let unit = if columns == 1 { self.extent.0 } else { self.unit.0 };
                let in_stripe = (offset.0 / unit * columns + column) * unit + offset.0 % unit;
                return Some(ByteOffset(start + stripe * columns * self.extent.0 + in_stripe));
            }
            first += slots;
            start += slots * self.extent.0;
        }
        None
    }

    /// The slots of the stripe that a slot belongs to.
    pub fn stripe_of(&self, slot: SlotIndex) -> std::ops::Range<u32> {
        let mut first = 0;
        for segment in &self.segments {
            let slots = segment.columns * segment.stripes;
            if slot.0 < first + slots {
                let start = first + (slot.0 - first) / segment.columns * segment.columns;
                return start..start + segment.columns;
            }
            first += slots;
        }
        panic!("slot {slot:?} is beyond the volume")
    }

    fn fragment_at(&self, at: ByteOffset, longest: ByteLen) -> Fragment {
        let (first_slot, segment, within) = self.locate(at);
        let columns = u64::from(segment.columns);
        let stripe_len = columns * self.extent.0;
        let (stripe, inside) = (within / stripe_len, within % stripe_len);
        // One column has no stripe units: its bytes are contiguous.
        let (column, offset, contiguous) = if columns == 1 {
            (0, inside, self.extent.0 - inside)
        } else {
            let (unit, rest) = (inside / self.unit.0, inside % self.unit.0);
            (unit % columns, unit / columns * self.unit.0 + rest, self.unit.0 - rest)
        };
        let to_region_end = self.region.0 - offset % self.region.0;
        // A payload comes in pieces that end at multiples of CHUNK_MAX: a fragment lies in one of them.
        let to_chunk_end = CHUNK_MAX - at.0 % CHUNK_MAX;
        let slot = first_slot + stripe * columns + column;
        Fragment {
            slot: SlotIndex(u32::try_from(slot).expect("slots of a volume are counted in u32")),
            offset: ByteLen(offset),
            len: ByteLen(longest.0.min(contiguous).min(to_region_end).min(to_chunk_end)),
            at,
        }
    }

    /// The segment of a byte: its first slot, itself, and the byte's place within it.
    fn locate(&self, at: ByteOffset) -> (u64, Segment, u64) {
        let (mut slot, mut start) = (0, 0);
        for segment in &self.segments {
            let slots = u64::from(segment.columns) * u64::from(segment.stripes);
            let len = slots * self.extent.0;
            if at.0 < start + len {
                return (slot, *segment, at.0 - start);
            }
            slot += slots;
            start += len;
        }
        panic!("byte {at:?} is beyond the volume")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn geometry(size: u64, columns: u32) -> Geometry {
        let mut g = Geometry {
            extent: ByteLen(1 << 20),
            region: ByteLen(1 << 20),
            unit: ByteLen(128 << 10),
            segments: vec![],
        };
        g.cover(ByteLen(size), columns);
        g
    }

    #[test]
    fn every_byte_has_its_own_place() {
        let mut g = geometry(7 << 20, 3);
        g.cover(ByteLen(12 << 20), 2);
        assert_eq!(g.slots(), 12);
        let mut seen = BTreeSet::new();
        for f in g.fragments(Span::at(0, 12 << 20)) {
            for block in 0..f.len.0 / 4096 {
                assert!(seen.insert((f.slot, f.offset.0 / 4096 + block)));
                let back = g.byte_of(f.slot, f.offset + ByteLen(block * 4096));
                assert_eq!(back, Some(f.at + ByteLen(block * 4096)));
            }
        }
        assert_eq!(seen.len(), 12 * 256);
        assert_eq!(g.byte_of(SlotIndex(12), ByteLen(0)), None);
    }

    #[test]
    fn fragments_cover_odd_spans_in_order() {
        let g = geometry(6 << 20, 4);
        let span = Span::at(100_001, 3_000_003);
        let mut at = span.offset().0;
        for f in g.fragments(span) {
            assert_eq!(f.at.0, at);
            assert!(f.len.0 <= 128 << 10);
            at += f.len.0;
        }
        assert_eq!(at, span.end().0);
    }

    #[test]
    fn a_sequential_read_of_one_stripe_touches_all_columns_evenly() {
        let g = geometry(4 << 20, 4);
        let slots: Vec<u32> = g.fragments(Span::at(0, 1 << 20)).map(|f| f.slot.0).collect();
        assert_eq!(slots, [0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(g.stripe_of(SlotIndex(2)), 0..4);
        assert_eq!(g.stripe_at(ByteOffset(3_000_000)), (0..4, Span::at(0, 4 << 20)));
    }

    #[test]
    fn one_column_is_contiguous_up_to_the_region() {
        let g = geometry(2 << 20, 1);
        let lens: Vec<u64> = g.fragments(Span::at(4096, (2 << 20) - 4096)).map(|f| f.len.0).collect();
        assert_eq!(lens, [(1 << 20) - 4096, 1 << 20]);
    }
}
