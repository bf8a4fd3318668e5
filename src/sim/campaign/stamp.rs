//! What a sector of a simulated volume holds: zeros, or a stamp that says which write put it there. Bytes only.
//!
//! A stamp fills its whole sector and names volume, sector and serial, so that a misplaced, mixed or damaged one
//! is recognised.

/// The unit that the model works in, bytes.
pub const SECTOR: usize = 512;

/// The serial of the write that a sector holds; 0 is a sector of zeros.
pub type Serial = u64;

const WORDS: usize = SECTOR / 8;

/// The bytes that a write with this serial stores in a sector.
pub fn emit(volume: usize, sector: u64, serial: Serial) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    let key = (volume as u64) << 56 ^ sector << 24 ^ serial; // widening
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = match index {
            0 => serial,
            1 => sector,
            2 => volume as u64 + 1,                                    // widening
            n => (key + n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), // widening
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Which write a sector's bytes are from, or what is wrong with them.
pub fn parse(volume: usize, sector: u64, bytes: &[u8]) -> Result<Serial, String> {
    if bytes == [0; SECTOR] {
        return Ok(0);
    }
    let word = |n: usize| u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().expect("eight bytes"));
    let (serial, place, owner) = (word(0), word(1), word(2));
    if bytes == emit(volume, sector, serial) {
        return Ok(serial);
    }
    let foreign = owner != volume as u64 + 1 || place != sector; // widening
    let whole = owner > 0 && owner < 1 << 8 && foreign && {
        let owner = usize::try_from(owner - 1).expect("below 256");
        bytes == emit(owner, place, serial)
    };
    Err(match whole {
        true => format!("holds write {serial} of sector {place} of volume {}", owner - 1),
        false => format!(
            "holds bytes that were never written (words {serial:x} {place:x} {owner:x}; {})",
            mixed(bytes)
        ),
    })
}

fn mixed(bytes: &[u8]) -> String {
    let zeros = bytes.iter().filter(|b| **b == 0).count();
    format!("{zeros} of {SECTOR} bytes are zeros")
}

const _: () = assert!(WORDS > 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_names_its_write_and_a_foreign_or_damaged_one_is_seen() {
        let bytes = emit(1, 77, 5);
        assert_eq!(parse(1, 77, &bytes), Ok(5));
        assert_eq!(parse(1, 77, &[0; SECTOR]), Ok(0));
        assert!(parse(1, 78, &bytes).unwrap_err().contains("write 5 of sector 77 of volume 1"));
        assert!(parse(0, 77, &bytes).is_err());
        for at in 0..SECTOR {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert!(parse(1, 77, &bad).is_err(), "byte {at}");
        }
    }
}
