//! A fixed-size set of small numbers, kept as 64-bit words; up to 512 of them without an allocation.

use smallvec::{SmallVec, smallvec};
use std::ops::Range;

/// A bitmap of a fixed number of bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bitmap {
    words: SmallVec<[u64; 8]>,
    bits: usize,
}

impl Bitmap {
    pub fn new(bits: usize) -> Bitmap {
        Bitmap { words: smallvec![0; bits.div_ceil(64)], bits }
    }

    pub fn len(&self) -> usize {
        self.bits
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    pub fn get(&self, bit: usize) -> bool {
        assert!(bit < self.bits, "bit {bit} of {}", self.bits);
        self.words[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// Sets one bit and says whether that changed it.
    pub fn set(&mut self, bit: usize, value: bool) -> bool {
        let changed = self.get(bit) != value;
        if changed {
            self.words[bit / 64] ^= 1 << (bit % 64);
        }
        changed
    }

    /// Sets a range of bits and says whether that changed any.
    pub fn set_range(&mut self, range: Range<usize>, value: bool) -> bool {
        let mut changed = false;
        for (word, mask) in self.masks(range) {
            let is = &mut self.words[word];
            let becomes = if value { *is | mask } else { *is & !mask };
            changed |= *is != becomes;
            *is = becomes;
        }
        changed
    }

    pub fn count(&self) -> usize {
        self.words.iter().map(|w| usize::try_from(w.count_ones()).expect("64 at most")).sum()
    }

    pub fn all(&self, range: Range<usize>) -> bool {
        self.masks(range).all(|(word, mask)| self.words[word] & mask == mask)
    }

    pub fn any(&self, range: Range<usize>) -> bool {
        self.masks(range).any(|(word, mask)| self.words[word] & mask != 0)
    }

    /// `word_masks` of a range of this bitmap.
    fn masks(&self, range: Range<usize>) -> impl Iterator<Item = (usize, u64)> + use<> {
        assert!(range.is_empty() || range.end <= self.bits, "bits {range:?} of {}", self.bits);
        word_masks(range)
    }

    /// The bits that are set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.bits).filter(|bit| self.get(*bit))
    }

    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// The words, least significant bit first; bits beyond `len` are zero.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// A bitmap of `bits` bits from words as `words()` gives them; bits beyond the end are dropped.
    ///
    /// # Panics
    /// If there are fewer words than the bits need.
    pub fn from_words(bits: usize, words: &[u64]) -> Bitmap {
        let mut map = Bitmap { words: SmallVec::from_slice(&words[..bits.div_ceil(64)]), bits };
        if !bits.is_multiple_of(64) {
            let last = map.words.len() - 1;
            map.words[last] &= (1 << (bits % 64)) - 1;
        }
        map
    }
}

/// The 64-bit words that a range of bits touches, each with the bits of it that belong to the range.
pub fn word_masks(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let words = if range.is_empty() { 0..0 } else { range.start / 64..range.end.div_ceil(64) };
    words.map(move |word| {
        let from = range.start.saturating_sub(word * 64);
        let to = (range.end - word * 64).min(64);
        (word, (u64::MAX << from) & (u64::MAX >> (64 - to)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_reports_change_and_count_follows() {
        let mut map = Bitmap::new(130);
        assert!(map.set(129, true) && !map.set(129, true));
        assert!(map.set_range(3..70, true));
        assert_eq!(map.count(), 68);
        assert!(map.all(3..70) && !map.any(70..129));
        assert_eq!(map.iter().next(), Some(3));
    }

    #[test]
    fn ranges_are_the_same_as_bit_by_bit() {
        for start in [0, 1, 63, 64, 65, 127, 128, 199] {
            for end in [0, 1, 63, 64, 65, 128, 129, 200] {
                let mut fast = Bitmap::new(200);
                let mut slow = Bitmap::new(200);
                let changed = (start..end).fold(false, |changed, bit| slow.set(bit, true) | changed);
                assert_eq!(fast.set_range(start..end, true), changed, "{start}..{end}");
                assert_eq!(fast, slow, "{start}..{end}");
                assert!(fast.all(start..end) && fast.any(start..end) == (start < end));
                assert!(start == 0 || !fast.any(0..start));
                fast.set_range(0..200, true);
                fast.set_range(start..end, false);
                assert_eq!(fast.count(), 200 - end.saturating_sub(start));
            }
        }
    }

    #[test]
    fn words_round_trip_and_drop_the_excess() {
        let mut map = Bitmap::new(70);
        map.set(69, true);
        assert_eq!(Bitmap::from_words(70, map.words()), map);
        assert_eq!(Bitmap::from_words(70, &[u64::MAX; 2]).count(), 70);
    }
}
