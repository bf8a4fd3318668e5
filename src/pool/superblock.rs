//! The superblock: says whose member this is and where things lie. Bytes only; table in docs/format.md.
//!
//! Written when the member joins a pool, at both ends of it; what changes afterwards is in the metadata log.

use super::layout::{MemberLayout, member_layout};
use crate::base::checksum::structure_sum;
use crate::base::codec::{Malformed, Reader, Writer};
use crate::base::limits::{BLOCK, EXTENT_MAX, EXTENT_MIN, NAME_MAX};
use crate::base::units::{ByteLen, ByteOffset, MemberId};
use uuid::Uuid;

/// The first bytes of every member.
pub const MAGIC: [u8; 8] = *b"DRYSTONE";

/// The version of everything on a member that this program has opened to write. Newer ones are refused.
pub const VERSION: u32 = 7;

/// The oldest version that is still read. What it stores means the same in version 7; see `ends::mend` for how its
/// members become members of version 7.
pub const VERSION_MIN: u32 = 3;

/// The feature bits that this program knows: none so far. A member with others is refused.
pub const FEATURES: u32 = 0;

const LEN: usize = BLOCK as usize; // a constant of 4096
const SUM_AT: usize = LEN - 8;

/// A member's identity and geometry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// From `VERSION_MIN` to `VERSION`.
    pub version: u32,
    pub pool: Uuid,
    pub pool_name: String,
    pub member: Uuid,
    pub id: MemberId,
    /// The member's size when it joined, bytes, rounded down to whole blocks.
    pub size: ByteLen,
    pub extent: ByteLen,
    /// When the member joined, nanoseconds since 1970.
    pub created_wall_ns: u64,
}

/// Why a block is not a usable superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SuperblockError {
    #[error("no drystone superblock")]
    Absent,
    #[error("the superblock is damaged")]
    Damaged,
    #[error("format version {0} is not known to this program")]
    Version(u32),
    /// The bits that are not known.
    #[error("{}", features_words(*.0))]
    Features(u32),
}

/// Names features that are not known: by their bits, since only the program that made them has words for them.
pub fn features_words(unknown: u32) -> String {
    let bits: Vec<String> =
        (0..u32::BITS).filter(|bit| unknown >> bit & 1 == 1).map(|bit| bit.to_string()).collect();
    format!("feature {} is not known to this program", bits.join(", "))
}

impl From<Malformed> for SuperblockError {
    fn from(_: Malformed) -> SuperblockError {
        SuperblockError::Damaged
    }
}

impl Superblock {
    /// The bytes for the superblock at `at`.
    pub fn emit(&self, at: ByteOffset) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(&MAGIC).u32(self.version).u32(FEATURES).u64(at.0);
        w.uuid(self.pool).uuid(self.member).u16(self.id.0);
        w.u64(self.size.0).u64(self.extent.0).u64(self.created_wall_ns).string(&self.pool_name);
        let mut bytes = w.finish();
        bytes.resize(SUM_AT, 0);
        let sum = structure_sum(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads the superblock that was found at `at`.
    pub fn parse(bytes: &[u8], at: ByteOffset) -> Result<Superblock, SuperblockError> {
        let block = bytes.get(..LEN).ok_or(SuperblockError::Absent)?;
        let mut r = Reader::new(block);
        if r.array::<8>()? != MAGIC {
            return Err(SuperblockError::Absent);
        }
        let version = r.u32()?;
        let sum = u64::from_le_bytes(block[SUM_AT..].try_into().expect("eight bytes"));
        if structure_sum(&block[..SUM_AT]) != sum {
            return Err(SuperblockError::Damaged);
        }
        // The sum was right, so this is what somebody wrote: a version to refuse, not damage.
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(SuperblockError::Version(version));
        }
        let (features, own) = (r.u32()?, r.u64()?);
        if features & !FEATURES != 0 {
            return Err(SuperblockError::Features(features & !FEATURES));
        }
        if own != at.0 {
            return Err(SuperblockError::Damaged);
        }
        let superblock = Superblock {
            version,
            pool: r.uuid()?,
            member: r.uuid()?,
            id: MemberId(r.u16()?),
            size: ByteLen(r.u64()?),
            extent: ByteLen(r.u64()?),
            created_wall_ns: r.u64()?,
            pool_name: r.string(NAME_MAX)?,
        };
        let extent_ok =
            superblock.extent.0.is_power_of_two() && (EXTENT_MIN..=EXTENT_MAX).contains(&superblock.extent.0);
        if !extent_ok || superblock.layout().is_none() {
            return Err(SuperblockError::Damaged);
        }
        Ok(superblock)
    }

    /// Where things lie on this member; None only for sizes that no superblock is written for.
    pub fn layout(&self) -> Option<MemberLayout> {
        member_layout(self.size, self.extent)
    }
}

/// For fuzzing: parses any bytes as a superblock.
pub fn fuzz_superblock(bytes: &[u8]) {
    if let Ok(superblock) = Superblock::parse(bytes, ByteOffset(0)) {
        assert_eq!(Superblock::parse(&superblock.emit(ByteOffset(0)), ByteOffset(0)), Ok(superblock));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Superblock {
        Superblock {
            version: VERSION,
            pool: Uuid::from_u128(1),
            pool_name: "tank".to_owned(),
            member: Uuid::from_u128(2),
            id: MemberId(3),
            size: ByteLen(80_000_000 / 4096 * 4096),
            extent: ByteLen(1 << 20),
            created_wall_ns: 5,
        }
    }

    #[test]
    fn round_trip_and_golden_bytes() {
        let bytes = sample().emit(ByteOffset(0));
        assert_eq!(bytes.len(), 4096);
        assert_eq!(Superblock::parse(&bytes, ByteOffset(0)), Ok(sample()));
        assert_eq!(&bytes[..8], b"DRYSTONE");
        assert_eq!(&bytes[8..24], [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for version in [3u8, 4, 5, 6] {
            let old = Superblock { version: version.into(), ..sample() };
            let old_bytes = old.emit(ByteOffset(0));
            assert_eq!(&old_bytes[8..12], [version, 0, 0, 0]);
            assert_eq!((&old_bytes[..8], &old_bytes[12..SUM_AT]), (&bytes[..8], &bytes[12..SUM_AT]));
            assert_eq!(Superblock::parse(&old_bytes, ByteOffset(0)), Ok(old));
        }
        assert_eq!(bytes[39], 1, "pool uuid ends at 40");
        assert_eq!(&bytes[56..58], [3, 0], "member id");
        assert_eq!(&bytes[82..88], [4, 0, b't', b'a', b'n', b'k']);
    }

    #[test]
    fn r47_unknown_versions_and_features_are_refused_by_name() {
        let refused = |at: usize, value: u32| {
            let mut bytes = sample().emit(ByteOffset(0));
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let sum = structure_sum(&bytes[..SUM_AT]);
            bytes[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
            Superblock::parse(&bytes, ByteOffset(0)).unwrap_err()
        };
        for version in [0, VERSION_MIN - 1, VERSION + 1] {
            assert_eq!(refused(8, version), SuperblockError::Version(version));
        }
        assert_eq!(refused(12, 0b1_0010), SuperblockError::Features(0b1_0010));
        assert_eq!(refused(12, 0b1_0010).to_string(), "feature 1, 4 is not known to this program");
    }

    #[test]
    fn a_moved_cut_or_damaged_superblock_is_not_believed() {
        let bytes = sample().emit(ByteOffset(0));
        assert_eq!(Superblock::parse(&bytes, ByteOffset(4096)), Err(SuperblockError::Damaged));
        assert!((0..4096).all(|len| Superblock::parse(&bytes[..len], ByteOffset(0)).is_err()));
        for at in 0..4096 {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(Superblock::parse(&bad, ByteOffset(0)).is_err(), "byte {at}");
        }
        fuzz_superblock(&bytes);
    }
}
