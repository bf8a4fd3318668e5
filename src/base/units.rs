//! Newtypes for the quantities that would otherwise all be `u64`.
//!
//! Owns: byte offsets and lengths, and the index types of pools. A signature that takes two of them cannot
//! be called with the arguments swapped.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

/// A position in bytes from the start of a volume, member or file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteOffset(pub u64);

/// A length in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteLen(pub u64);

/// A member's number within its pool; never reused while the pool lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u16);

/// A volume's number within its pool; never reused while the pool lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VolumeId(pub u32);

impl VolumeId {
    /// The number that clients know the volume by where numbers begin with 1.
    pub fn one_based(self) -> u32 {
        self.0.saturating_add(1)
    }
}

/// The number of an extent on one member, counted from the start of its extent area.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtentIndex(pub u32);

/// The number of a slot of a volume: one extent's worth of its bytes, held by `copies` extents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SlotIndex(pub u32);

/// The number of a region within its slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionIndex(pub u32);

/// A contiguous byte range: `offset .. offset + len`. Construction checks that the end fits in a `u64`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    offset: ByteOffset,
    len: ByteLen,
}

impl Span {
    /// The range of `len` bytes at `offset`, or None if its end exceeds `u64::MAX`.
    pub fn new(offset: ByteOffset, len: ByteLen) -> Option<Span> {
        offset.0.checked_add(len.0).map(|_| Span { offset, len })
    }

    /// The range of `len` bytes at `offset` where the caller knows that the end fits.
    ///
    /// # Panics
    /// If the end exceeds `u64::MAX`.
    pub fn at(offset: u64, len: u64) -> Span {
        Span::new(ByteOffset(offset), ByteLen(len)).expect("caller-checked span end fits in u64")
    }

    pub fn offset(self) -> ByteOffset {
        self.offset
    }

    pub fn len(self) -> ByteLen {
        self.len
    }

    pub fn end(self) -> ByteOffset {
        ByteOffset(self.offset.0 + self.len.0)
    }

    pub fn is_empty(self) -> bool {
        self.len.0 == 0
    }
}

impl ByteOffset {
    pub fn is_aligned(self, unit: u64) -> bool {
        self.0.is_multiple_of(unit)
    }
}

impl ByteLen {
    pub fn is_aligned(self, unit: u64) -> bool {
        self.0.is_multiple_of(unit)
    }

    /// The length as an in-memory size.
    ///
    /// # Panics
    /// Never on the 64-bit platforms this program supports.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).expect("64-bit platform")
    }
}

impl Add<ByteLen> for ByteOffset {
    type Output = ByteOffset;
    fn add(self, len: ByteLen) -> ByteOffset {
        ByteOffset(self.0 + len.0)
    }
}

impl AddAssign<ByteLen> for ByteOffset {
    fn add_assign(&mut self, len: ByteLen) {
        self.0 += len.0;
    }
}

impl Sub for ByteOffset {
    type Output = ByteLen;
    fn sub(self, earlier: ByteOffset) -> ByteLen {
        ByteLen(self.0 - earlier.0)
    }
}

impl Add for ByteLen {
    type Output = ByteLen;
    fn add(self, other: ByteLen) -> ByteLen {
        ByteLen(self.0 + other.0)
    }
}

impl Sub for ByteLen {
    type Output = ByteLen;
    fn sub(self, other: ByteLen) -> ByteLen {
        ByteLen(self.0 - other.0)
    }
}

macro_rules! plain_debug {
    ($($name:ident $prefix:literal),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    )*};
}
plain_debug!(ByteOffset "@", ByteLen "+", MemberId "m", VolumeId "v", ExtentIndex "x", SlotIndex "s", RegionIndex "r");

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}+{}]", self.offset.0, self.len.0)
    }
}

/// The smallest multiple of `unit` that is at least `n`.
pub const fn round_up(n: u64, unit: u64) -> u64 {
    n.div_ceil(unit) * unit
}

/// The largest multiple of `unit` that is at most `n`.
pub const fn round_down(n: u64, unit: u64) -> u64 {
    n / unit * unit
}
