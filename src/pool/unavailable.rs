//! Where a volume cannot be read, because no drive that is there has a copy: the bytes that are gone, as its user counts
//! them. Pure but for `Pool::unavailable`.

use super::Pool;
use super::redundancy::stripe::Geometry;
use crate::base::units::{ByteLen, SlotIndex, Span};
use crate::reactor::sync::lock;

/// The parts of a volume that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unavailable {
    /// In order, apart from each other, as many as were asked for.
    pub ranges: Vec<Span>,
    /// There are more.
    pub more: bool,
}

impl Pool {
    /// The parts of a volume that no drive that is there has, `most` ranges of them. Empty for a volume that does not
    /// exist.
    pub fn unavailable(&self, volume: &str, most: usize) -> Unavailable {
        let state = lock(&self.shared.live).state.clone();
        let Some((id, record)) = state.volumes.iter().find(|(_, v)| v.name == volume) else {
            return Unavailable::default();
        };
        let Some(shape) = self.shared.volumes.load().get(id).map(|v| v.shape.load_full()) else {
            return Unavailable::default();
        };
        let gone = |copies| self.shared.holders(copies).is_empty();
        let slots = record.slots.iter().filter(|(_, slot)| gone(&slot.copies)).map(|(slot, _)| *slot);
        ranges_of(&shape.geometry, shape.size, slots, most)
    }
}

/// The bytes of a volume of this size that lie on these slots, which come in order.
fn ranges_of(
    geometry: &Geometry,
    size: ByteLen,
    slots: impl Iterator<Item = SlotIndex>,
    most: usize,
) -> Unavailable {
    let mut found = Unavailable::default();
    let mut slots = slots.peekable();
    while let Some(first) = slots.next() {
        // Slots of a stripe are dealt out in turn: only together they are in order.
        let stripe = geometry.stripe_of(first);
        let mut parts = parts_of(geometry, first);
        while let Some(slot) = slots.next_if(|slot| stripe.contains(&slot.0)) {
            parts.extend(parts_of(geometry, slot));
        }
        parts.sort_unstable_by_key(|part| part.offset());
        for part in parts {
            let end = part.end().0.min(size.0);
            if part.offset().0 >= end {
                continue;
            }
            let is_full = found.ranges.len() == most;
            match found.ranges.last_mut() {
                Some(last) if last.end() == part.offset() => {
                    *last = Span::at(last.offset().0, end - last.offset().0);
                }
                Some(_) | None if is_full => {
                    found.more = true;
                    return found;
                }
                Some(_) | None => found.ranges.push(Span::at(part.offset().0, end - part.offset().0)),
            }
        }
    }
    found
}

/// The bytes that a slot holds: one piece for each stripe unit.
fn parts_of(geometry: &Geometry, slot: SlotIndex) -> Vec<Span> {
    let alone = geometry.stripe_of(slot).len() == 1;
    let piece = if alone { geometry.extent } else { geometry.unit };
    let part = |offset: u64| {
        let at = geometry.byte_of(slot, ByteLen(offset))?;
        Some(Span::at(at.0, piece.0))
    };
    (0..geometry.extent.0).step_by(piece.as_usize()).filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::redundancy::stripe::Segment;

    const MIB: u64 = 1 << 20;

    fn geometry() -> Geometry {
        Geometry {
            extent: ByteLen(4 * MIB),
            region: ByteLen(MIB),
            unit: ByteLen(MIB),
            segments: vec![Segment { columns: 2, stripes: 2 }, Segment { columns: 1, stripes: 2 }],
        }
    }

    fn found(slots: &[u32], size: u64, most: usize) -> (Vec<(u64, u64)>, bool) {
        let slots = slots.iter().map(|slot| SlotIndex(*slot));
        let Unavailable { ranges, more } = ranges_of(&geometry(), ByteLen(size * MIB), slots, most);
        (ranges.iter().map(|r| (r.offset().0 / MIB, r.len().0 / MIB)).collect(), more)
    }

    #[test]
    fn a_slot_of_a_stripe_is_gone_in_pieces_of_a_unit() {
        assert_eq!(found(&[1], 24, 9), (vec![(1, 1), (3, 1), (5, 1), (7, 1)], false));
        assert_eq!(found(&[3], 24, 3), (vec![(9, 1), (11, 1), (13, 1)], true));
    }

    #[test]
    fn neighbours_are_one_range_and_nothing_lies_beyond_the_end() {
        assert_eq!(found(&[0, 1], 24, 9), (vec![(0, 8)], false));
        assert_eq!(found(&[2, 3, 4, 5], 24, 9), (vec![(8, 16)], false));
        assert_eq!(found(&[4, 5], 21, 9), (vec![(16, 5)], false));
        assert_eq!(found(&[5], 20, 9), (vec![], false));
        assert_eq!(found(&[], 24, 9), (vec![], false));
    }

    /// Byte by byte the same as what the way from bytes to slots says.
    #[test]
    fn it_is_the_way_back_from_reading() {
        let slots = [1_u32, 2, 4];
        let (ranges, _) = found(&slots, 24, 99);
        for at in 0..24 {
            let fragment = geometry().fragments(Span::at(at * MIB, 1)).next().unwrap();
            let is_gone = slots.contains(&fragment.slot.0);
            assert_eq!(ranges.iter().any(|(from, len)| (*from..from + len).contains(&at)), is_gone, "{at}");
        }
    }
}
