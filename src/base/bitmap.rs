//! A fixed-size set of small numbers, kept as 64-bit words.

/// A bitmap of a fixed number of bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bitmap {
    words: Vec<u64>,
    bits: usize,
}

impl Bitmap {
    pub fn new(bits: usize) -> Bitmap {
        Bitmap { words: vec![0; bits.div_ceil(64)], bits }
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
    pub fn set_range(&mut self, range: std::ops::Range<usize>, value: bool) -> bool {
        range.fold(false, |changed, bit| self.set(bit, value) | changed)
    }

    pub fn count(&self) -> usize {
        self.words.iter().map(|w| usize::try_from(w.count_ones()).expect("64 at most")).sum()
    }

    pub fn all(&self, mut range: std::ops::Range<usize>) -> bool {
        range.all(|bit| self.get(bit))
    }

    pub fn any(&self, mut range: std::ops::Range<usize>) -> bool {
        range.any(|bit| self.get(bit))
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
        let mut map = Bitmap { words: words[..bits.div_ceil(64)].to_vec(), bits };
        if !bits.is_multiple_of(64) {
            let last = map.words.len() - 1;
            map.words[last] &= (1 << (bits % 64)) - 1;
        }
        map
    }
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
    fn words_round_trip_and_drop_the_excess() {
        let mut map = Bitmap::new(70);
        map.set(69, true);
        assert_eq!(Bitmap::from_words(70, map.words()), map);
        assert_eq!(Bitmap::from_words(70, &[u64::MAX; 2]).count(), 70);
    }
}
