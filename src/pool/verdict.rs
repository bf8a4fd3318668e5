//! What the copies of one block say about each other, and the sum of it over many. Pure.

use smallvec::SmallVec;

/// Which copy of a block is right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// This copy is right; these others are wrong or could not be read.
    Right { copy: usize, wrong: SmallVec<[usize; 3]> },
    /// Copies differ, and nothing tells which of them is right. The first that can be read is served.
    Undecided { copy: usize },
    /// No copy is right.
    Lost,
}

/// What was found in some blocks, and done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Blocks compared, each counted once.
    pub blocks: u64,
    /// Blocks whose copies differ and nothing tells which is right.
    pub different: u64,
    /// Copies of blocks that are not what was written.
    pub mismatched: u64,
    /// Copies of blocks that could not be read.
    pub unreadable: u64,
    /// Copies that were written again, and those that could not be.
    pub repaired: u64,
    pub unrepaired: u64,
    /// Blocks with no right copy.
    pub lost: u64,
}

impl Findings {
    pub fn add(&mut self, other: &Findings) {
        self.blocks += other.blocks;
        self.different += other.different;
        self.mismatched += other.mismatched;
        self.unreadable += other.unreadable;
        self.repaired += other.repaired;
        self.unrepaired += other.unrepaired;
        self.lost += other.lost;
    }

    /// Whether every copy is right.
    pub fn is_clean(&self) -> bool {
        *self == Findings { blocks: self.blocks, ..Findings::default() }
    }
}

/// Whether bytes match the checksum.
pub type IsRight<'a> = &'a dyn Fn(&[u8]) -> bool;

/// Judges the copies of a block, None where one could not be read. With a checksum, `is_right` decides; without one,
/// most of the readable copies have to agree.
pub fn judge(copies: &[Option<&[u8]>], is_right: Option<IsRight>) -> Verdict {
    let Some(is_right) = is_right else { return by_majority(copies) };
    let right: SmallVec<[bool; 3]> = copies.iter().map(|c| c.is_some_and(is_right)).collect();
    match right.iter().position(|right| *right) {
        Some(copy) => Verdict::Right { copy, wrong: (0..copies.len()).filter(|i| !right[*i]).collect() },
        None => Verdict::Lost,
    }
}

fn by_majority(copies: &[Option<&[u8]>]) -> Verdict {
    let readable = copies.iter().flatten().count();
    let votes = |copy: &[u8]| copies.iter().flatten().filter(|other| **other == copy).count();
    let most = copies.iter().enumerate().filter_map(|(i, c)| c.map(|c| (i, votes(c))));
    // The earlier one of equals.
    let Some((copy, votes)) = most.rev().max_by_key(|(_, votes)| *votes) else { return Verdict::Lost };
    if 2 * votes <= readable {
        return Verdict::Undecided { copy };
    }
    Verdict::Right { copy, wrong: (0..copies.len()).filter(|i| copies[*i] != copies[copy]).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(copy: usize, wrong: &[usize]) -> Verdict {
        Verdict::Right { copy, wrong: wrong.iter().copied().collect() }
    }

    #[test]
    fn r40_a_checksum_decides_whatever_the_others_say() {
        let sound = |bytes: &[u8]| bytes == b"good";
        let judge = |copies: &[Option<&[u8]>]| judge(copies, Some(&sound));
        assert_eq!(judge(&[Some(b"good"), Some(b"good")]), right(0, &[]));
        assert_eq!(judge(&[Some(b"evil"), Some(b"good"), Some(b"evil")]), right(1, &[0, 2]));
        assert_eq!(judge(&[None, Some(b"good")]), right(1, &[0]));
        assert_eq!(judge(&[Some(b"evil"), Some(b"evil")]), Verdict::Lost);
        assert_eq!(judge(&[None, Some(b"evil")]), Verdict::Lost);
        assert_eq!(judge(&[]), Verdict::Lost);
    }

    #[test]
    fn without_checksums_most_readable_copies_must_agree() {
        let judge = |copies: &[Option<&[u8]>]| judge(copies, None);
        assert_eq!(judge(&[Some(b"a"), Some(b"a")]), right(0, &[]));
        assert_eq!(judge(&[None, Some(b"a")]), right(1, &[0]));
        assert_eq!(judge(&[Some(b"b"), Some(b"a"), Some(b"a")]), right(1, &[0]));
        assert_eq!(judge(&[Some(b"a"), Some(b"b")]), Verdict::Undecided { copy: 0 });
        assert_eq!(judge(&[None, Some(b"a"), Some(b"b")]), Verdict::Undecided { copy: 1 });
        assert_eq!(judge(&[None, None]), Verdict::Lost);
    }

    #[test]
    fn findings_that_only_count_blocks_are_clean() {
        let mut sum = Findings::default();
        sum.add(&Findings { blocks: 7, ..Findings::default() });
        assert!(sum.is_clean());
        sum.add(&Findings { lost: 1, ..Findings::default() });
        assert!(!sum.is_clean() && sum.blocks == 7);
    }
}
