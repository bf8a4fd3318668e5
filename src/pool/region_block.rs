//! The block that describes a region: which of its blocks were ever written, and their checksums. Bytes only.
//!
//! A region has two of them on each member that holds it, written in turn; the newer valid one counts. It names
//! the slot's stamp, so that what an earlier user of the extent left there says nothing about the present one.
//! Table in docs/format.md.

use crate::base::bitmap::Bitmap;
use crate::base::checksum::structure_sum;
use crate::base::codec::{Reader, Writer};
use crate::base::limits::{BLOCK, REGION_MAX};
use crate::base::units::{ByteLen, ByteOffset, RegionIndex, SlotIndex, VolumeId};
use uuid::Uuid;

const MAGIC: u32 = u32::from_le_bytes(*b"DSRG");
const LEN: usize = BLOCK as usize; // a constant of 4096
const SUM_AT: usize = LEN - 8;
const WRITTEN_AT: usize = 128;
const LOST_AT: usize = 192;
const SUMS_AT: usize = 256;

/// Blocks of the largest region.
pub const BLOCKS_MAX: usize = (REGION_MAX / BLOCK) as usize; // a constant of 512

const _: () = assert!(WRITTEN_AT + BLOCKS_MAX / 8 <= LOST_AT && LOST_AT + BLOCKS_MAX / 8 <= SUMS_AT);
const _: () = assert!(SUMS_AT + BLOCKS_MAX * 4 <= SUM_AT);

/// Whose region it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub pool: Uuid,
    pub volume: VolumeId,
    pub slot: SlotIndex,
    pub region: RegionIndex,
    /// The commit that allocated the slot.
    pub stamp: u64,
}

/// What is stored about a region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegionBlock {
    /// Counts the saves of this region; decides which of the two blocks is newer, and which is written next.
    pub version: u64,
    pub written: Bitmap,
    /// One checksum for each block; meaningful where `written` is set. None if the volume has no checksums.
    pub sums: Option<Box<[u32]>>,
    /// Written blocks that no copy has any more, of a volume whose checksums do not tell. None if there is none.
    pub lost: Option<Box<Bitmap>>,
}

impl RegionBlock {
    /// The bytes for the region block at `at`.
    pub fn emit(&self, owner: &Owner, at: ByteOffset) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(MAGIC).u32(u32::from(self.sums.is_some())).u64(at.0).uuid(owner.pool);
        w.u32(owner.volume.0).u32(owner.slot.0).u32(owner.region.0).u32(0);
        w.u64(owner.stamp).u64(self.version);
        let mut bytes = w.finish();
        bytes.resize(WRITTEN_AT, 0);
        self.written.words().iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes.resize(LOST_AT, 0);
        let lost = self.lost.iter().flat_map(|lost| lost.words());
        lost.for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes.resize(SUMS_AT, 0);
        self.sums.iter().flat_map(|s| s.iter()).for_each(|sum| bytes.extend_from_slice(&sum.to_le_bytes()));
        bytes.resize(SUM_AT, 0);
        let sum = structure_sum(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads the block found at `at` as this owner's, for a region of `blocks` blocks. None if it is damaged or
    /// somebody else's.
    pub fn parse(bytes: &[u8], owner: &Owner, blocks: usize, at: ByteOffset) -> Option<RegionBlock> {
        let block = bytes.get(..LEN)?;
        let (with_sums, version) = head(block, owner, at)?;
        let sum = u64::from_le_bytes(block[SUM_AT..].try_into().expect("eight bytes"));
        if structure_sum(&block[..SUM_AT]) != sum {
            return None;
        }
        let bitmap = |bytes: &[u8]| {
            let word = |word: &[u8]| u64::from_le_bytes(word.try_into().expect("eight bytes"));
            let words: Vec<u64> = bytes.chunks_exact(8).map(word).collect();
            Bitmap::from_words(blocks, &words)
        };
        let lost = bitmap(&block[LOST_AT..SUMS_AT]);
        let sums = with_sums.then(|| {
            let four = |sum: &[u8]| u32::from_le_bytes(sum.try_into().expect("four bytes"));
            block[SUMS_AT..SUM_AT].chunks_exact(4).take(blocks).map(four).collect()
        });
        let lost = (!lost.is_empty()).then(|| Box::new(lost));
        Some(RegionBlock { version, written: bitmap(&block[WRITTEN_AT..LOST_AT]), sums, lost })
    }
}

/// What the two places of a region block on one copy hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Places {
    pub newest: Option<RegionBlock>,
    /// One of them is this region's and not what was written: torn by a crash, or rotten.
    pub damaged: bool,
    /// And it says that it is newer than the other.
    pub doubtful: bool,
}

impl Places {
    /// Reads both places, of which the first is at `at`.
    pub fn parse(both: &[u8], owner: &Owner, blocks: usize, at: ByteOffset) -> Places {
        let places = || both.chunks_exact(LEN).zip([at, at + ByteLen(BLOCK)]);
        let sound = places().filter_map(|(bytes, at)| RegionBlock::parse(bytes, owner, blocks, at));
        let newest = sound.max_by_key(|block| block.version);
        let known = newest.as_ref().map_or(0, |block| block.version);
        let damaged: Vec<u64> =
            places().filter_map(|(bytes, at)| damaged_version(bytes, owner, at)).collect();
        Places {
            newest,
            damaged: !damaged.is_empty(),
            doubtful: damaged.iter().any(|version| *version > known),
        }
    }
}

/// Both places for `ChecksumWithoutAddress`: each is believed to be what it says.
pub fn parse_whosever(both: &[u8], blocks: usize) -> Places {
    let sound = |bytes: &[u8]| {
        let (own, owner, _, _) = said(bytes)?;
        RegionBlock::parse(bytes, &owner, blocks, own)
    };
    let newest = both.chunks_exact(LEN).filter_map(sound).max_by_key(|block| block.version);
    Places { newest, damaged: false, doubtful: false }
}

/// The version of a block that names this owner and is not what was written.
fn damaged_version(bytes: &[u8], owner: &Owner, at: ByteOffset) -> Option<u64> {
    let block = bytes.get(..LEN)?;
    let sum = structure_sum(&block[..SUM_AT]).to_le_bytes();
    head(block, owner, at).filter(|_| block[SUM_AT..] != sum).map(|(_, version)| version)
}

/// Whether there are checksums, and the version; None if the block names another place or owner.
fn head(block: &[u8], owner: &Owner, at: ByteOffset) -> Option<(bool, u64)> {
    let (own, found, with_sums, version) = said(block)?;
    (own == at && found == *owner).then_some((with_sums, version))
}

/// What a block says of itself: its place, its owner, whether there are checksums, and the version.
fn said(block: &[u8]) -> Option<(ByteOffset, Owner, bool, u64)> {
    let mut r = Reader::new(block);
    if r.u32().ok()? != MAGIC {
        return None;
    }
    let (with_sums, own) = (r.u32().ok()? == 1, r.u64().ok()?);
    let found = Owner {
        pool: r.uuid().ok()?,
        volume: VolumeId(r.u32().ok()?),
        slot: SlotIndex(r.u32().ok()?),
        region: RegionIndex(r.u32().ok()?),
        stamp: r.u32().and_then(|_| r.u64()).ok()?,
    };
    let version = r.u64().ok()?;
    Some((ByteOffset(own), found, with_sums, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner {
            pool: Uuid::from_u128(1),
            volume: VolumeId(2),
            slot: SlotIndex(3),
            region: RegionIndex(4),
            stamp: 5,
        }
    }

    fn sample() -> RegionBlock {
        let mut written = Bitmap::new(512);
        written.set_range(100..300, true);
        let mut lost = Bitmap::new(512);
        lost.set(299, true);
        RegionBlock { version: 9, written, sums: Some((0..512).collect()), lost: Some(Box::new(lost)) }
    }

    #[test]
    fn round_trip_and_golden_bytes() {
        let bytes = sample().emit(&owner(), ByteOffset(8192));
        assert_eq!(bytes.len(), 4096);
        assert_eq!(&bytes[..16], b"DSRG\x01\0\0\0\0\x20\0\0\0\0\0\0");
        assert_eq!(RegionBlock::parse(&bytes, &owner(), 512, ByteOffset(8192)), Some(sample()));
    }

    #[test]
    fn a_damaged_place_is_in_doubt_only_if_it_may_be_the_newer_one() {
        let block = |version| RegionBlock { version, ..sample() };
        let both =
            |even: &[u8], odd: &[u8]| Places::parse(&[even, odd].concat(), &owner(), 512, ByteOffset(4096));
        let even = block(8).emit(&owner(), ByteOffset(4096));
        let (older, newer) =
            (block(7).emit(&owner(), ByteOffset(8192)), block(9).emit(&owner(), ByteOffset(8192)));
        let rotten = |bytes: &[u8]| [&bytes[..200], &[!bytes[200]], &bytes[201..]].concat();
        let version = |places: &Places| places.newest.as_ref().map(|b| b.version);
        assert_eq!(version(&both(&even, &newer)), Some(9));
        let places = both(&even, &rotten(&newer));
        assert_eq!((version(&places), places.damaged, places.doubtful), (Some(8), true, true));
        let places = both(&even, &rotten(&older));
        assert_eq!((version(&places), places.damaged, places.doubtful), (Some(8), true, false));
        let nothing = both(&[0; 4096], &[7; 4096]);
        assert_eq!(nothing, Places { newest: None, damaged: false, doubtful: false });
    }

    #[test]
    fn damage_another_place_or_another_stamp_say_nothing() {
        let bytes = sample().emit(&owner(), ByteOffset(8192));
        let parse = |bytes: &[u8], owner: &Owner, at| RegionBlock::parse(bytes, owner, 512, ByteOffset(at));
        assert_eq!(parse(&bytes, &owner(), 4096), None);
        assert_eq!(parse(&bytes, &Owner { stamp: 6, ..owner() }, 8192), None);
        for at in (0..4096).step_by(7) {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(parse(&bad, &owner(), 8192), None, "byte {at}");
            let names_us = at >= 56 || (4..8).contains(&at) || (44..48).contains(&at);
            assert_eq!(damaged_version(&bad, &owner(), ByteOffset(8192)).is_some(), names_us, "byte {at}");
        }
        assert!((0..4096).all(|len| parse(&bytes[..len], &owner(), 8192).is_none()));
    }
}
