//! The one source of randomness: a seeded xoshiro256** generator, handed down from boot.
//!
//! Not for secrets. The same seed gives the same sequence on every machine.

/// A small, fast, seedable generator (Blackman and Vigna's xoshiro256**, seeded by SplitMix64).
#[derive(Clone, Debug)]
pub struct Prng {
    state: [u64; 4],
}

impl Prng {
    pub fn from_seed(seed: u64) -> Prng {
        let mut mix = seed;
        let mut next = || {
            mix = mix.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = mix;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Prng { state: [next(), next(), next(), next()] }
    }

    pub fn u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = self.state;
        let out = s1.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (s2, s3) = (s2 ^ s0, s3 ^ s1);
        self.state = [s0 ^ s3, s1 ^ s2, s2 ^ (s1 << 17), s3.rotate_left(45)];
        out
    }

    /// A number below `bound`, without noticeable bias.
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "an empty range has no member");
        let wide = u128::from(self.u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the high half of a product fits")
    }

    /// True with probability `per_mille` / 1000.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// A random (version 4) uuid.
    pub fn uuid(&mut self) -> uuid::Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// A generator of its own for a part of the program, so that parts do not disturb each other's sequence.
    pub fn fork(&mut self) -> Prng {
        Prng::from_seed(self.u64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_same_sequence() {
        let (mut a, mut b) = (Prng::from_seed(7), Prng::from_seed(7));
        assert!((0..100).all(|_| a.u64() == b.u64()));
        assert_ne!(Prng::from_seed(8).u64(), Prng::from_seed(7).u64());
    }

    #[test]
    fn below_stays_below_and_reaches_all() {
        let mut prng = Prng::from_seed(1);
        let mut seen = [false; 7];
        for _ in 0..1000 {
            seen[usize::try_from(prng.below(7)).unwrap()] = true;
        }
        assert!(seen.iter().all(|s| *s));
    }
}
