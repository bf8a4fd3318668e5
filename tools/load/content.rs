//! What a written sector looks like: sixteen cells of 32 bytes, each of which says on its own who wrote it.
//!
//! A cell is four little-endian words: magic and stamp, sector number, seed, checksum of the three and of the
//! cell's place. So any piece of a sector tells which write it came from, a tear inside a sector shows, and data
//! of another sector or another run is recognised as such.

/// The unit that a stamp is kept for, bytes.
pub const SECTOR: usize = 512;

const CELL: usize = 32;
const MAGIC: u64 = 0x4453_4c44; // "DSLD"

/// What a piece of a sector turned out to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// All of it is what the write with this stamp put there.
    Stamp(u32),
    Zero,
    /// Cells of this place, but of more than one write.
    Torn {
        first: u32,
        then: u32,
    },
    /// Written by a run with another seed, or for another sector.
    Foreign {
        seed: u64,
        sector: u64,
        stamp: u32,
    },
    Garbage,
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Stamp(stamp) => write!(f, "stamp {stamp}"),
            Value::Zero => write!(f, "zeros"),
            Value::Torn { first, then } => write!(f, "a torn sector (stamps {first} and {then})"),
            Value::Foreign { seed, sector, stamp } => {
                write!(f, "foreign data (seed {seed}, sector {sector}, stamp {stamp})")
            }
            Value::Garbage => write!(f, "garbage"),
        }
    }
}

/// Appends the content that write `stamp` gives to `sector`.
pub fn emit(seed: u64, sector: u64, stamp: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&sector_bytes(seed, sector, stamp));
}

fn sector_bytes(seed: u64, sector: u64, stamp: u32) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    for (place, cell) in (0u64..).zip(bytes.chunks_exact_mut(CELL)) {
        let words = cell_words(seed, sector, stamp, place);
        for (word, at) in words.iter().zip(cell.chunks_exact_mut(8)) {
            at.copy_from_slice(&word.to_le_bytes());
        }
    }
    bytes
}

fn cell_words(seed: u64, sector: u64, stamp: u32, place: u64) -> [u64; 4] {
    let head = MAGIC << 32 | u64::from(stamp);
    let sum = mix(mix(mix(head ^ place << 56) ^ sector) ^ seed);
    [head, sector, seed, sum]
}

/// The finalizer of SplitMix64.
pub fn mix(word: u64) -> u64 {
    let z = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What the two pieces of a sector before and from byte `cut` hold. With `cut` 0 there is one piece, given twice.
///
/// # Panics
/// If `bytes` is not one sector.
pub fn inspect(seed: u64, sector: u64, bytes: &[u8], cut: usize) -> [Value; 2] {
    assert_eq!(bytes.len(), SECTOR, "content is looked at by whole sectors");
    if cut == 0 {
        return [piece(seed, sector, bytes, 0, SECTOR); 2];
    }
    [piece(seed, sector, bytes, 0, cut), piece(seed, sector, bytes, cut, SECTOR)]
}

fn piece(seed: u64, sector: u64, bytes: &[u8], from: usize, to: usize) -> Value {
    if bytes[from..to].iter().all(|b| *b == 0) {
        return Value::Zero;
    }
    let cells: Vec<Option<Cell>> = cells_within(from, to).map(|place| parse_cell(bytes, place)).collect();
    let Some(Some(first)) = cells.first().copied() else { return Value::Garbage };
    if (first.seed, first.sector) != (seed, sector) {
        return Value::Foreign { seed: first.seed, sector: first.sector, stamp: first.stamp };
    }
    if bytes[from..to] == sector_bytes(seed, sector, first.stamp)[from..to] {
        return Value::Stamp(first.stamp);
    }
    let other = cells.iter().flatten().find(|c| c.stamp != first.stamp);
    match other {
        Some(other) => Value::Torn { first: first.stamp, then: other.stamp },
        None => Value::Garbage,
    }
}

/// The places of the cells that lie wholly in a byte range.
fn cells_within(from: usize, to: usize) -> std::ops::Range<usize> {
    from.div_ceil(CELL)..to / CELL
}

#[derive(Clone, Copy)]
struct Cell {
    stamp: u32,
    sector: u64,
    seed: u64,
}

fn parse_cell(sector_bytes: &[u8], place: usize) -> Option<Cell> {
    let at = place * CELL;
    let mut words = sector_bytes[at..at + CELL].chunks_exact(8).map(|w| {
        let w: [u8; 8] = w.try_into().expect("chunks of eight");
        u64::from_le_bytes(w)
    });
    let mut next = || words.next().expect("a cell has four words");
    let (head, sector, seed, sum) = (next(), next(), next(), next());
    let stamp = u32::try_from(head & 0xffff_ffff).expect("masked");
    let place = u64::try_from(place).expect("a small number");
    ([head, sector, seed, sum] == cell_words(seed, sector, stamp, place)).then_some(Cell {
        stamp,
        sector,
        seed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(stamp: u32) -> Vec<u8> {
        let mut out = Vec::new();
        emit(7, 99, stamp, &mut out);
        out
    }

    #[test]
    fn a_sector_tells_its_write_and_zeros_are_zeros() {
        assert_eq!(inspect(7, 99, &written(5), 0), [Value::Stamp(5); 2]);
        assert_eq!(inspect(7, 99, &[0; SECTOR], 0), [Value::Zero; 2]);
        assert_eq!(inspect(7, 99, &[1; SECTOR], 0), [Value::Garbage; 2]);
    }

    #[test]
    fn misplaced_and_foreign_sectors_are_recognised() {
        let foreign = Value::Foreign { seed: 7, sector: 99, stamp: 5 };
        assert_eq!(inspect(7, 98, &written(5), 0), [foreign; 2]);
        assert_eq!(inspect(8, 99, &written(5), 0), [foreign; 2]);
    }

    #[test]
    fn a_tear_shows_at_every_byte_but_not_at_the_servers_sector_edge() {
        for cut in 64..=448 {
            let mut mixed = written(5)[..cut].to_vec();
            mixed.extend_from_slice(&written(6)[cut..]);
            assert!(!matches!(inspect(7, 99, &mixed, 0)[0], Value::Stamp(_)), "cut {cut}");
            assert_eq!(inspect(7, 99, &mixed, cut), [Value::Stamp(5), Value::Stamp(6)], "cut {cut}");
        }
    }

    #[test]
    fn every_flipped_bit_shows() {
        for bit in 0..SECTOR * 8 {
            let mut bytes = written(5);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(inspect(7, 99, &bytes, 0)[0], Value::Stamp(5), "bit {bit}");
        }
    }
}
