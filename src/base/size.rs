//! Sizes as people write and read them: `80GB` is 80 × 10⁹ bytes, `80GiB` is 80 × 2³⁰.

use super::units::ByteLen;

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("`{0}` is not a size: write a number and a unit, such as 80GB, 512MiB or 4096B")]
    Malformed(String),
    #[error("`{0}` is larger than this program can count")]
    TooLarge(String),
}

const UNITS: [(&str, u64); 12] = [
    ("", 1),
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("TIB", 1 << 40),
    ("PIB", 1 << 50),
];

/// `1 copy`, `2 copies`.
pub fn show_copies(number: u8) -> String {
    if number == 1 { "1 copy".to_owned() } else { format!("{number} copies") }
}

/// Reads a size. Units are not case-sensitive; one decimal point is allowed (`1.5TB`).
pub fn parse_size(text: &str) -> Result<ByteLen, SizeError> {
    let malformed = || SizeError::Malformed(text.to_owned());
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let unit = unit.trim().to_ascii_uppercase();
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, f)| *f).ok_or_else(malformed)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return Err(malformed());
    }
    let too_large = || SizeError::TooLarge(text.to_owned());
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).expect("nine digits at most"));
    let fraction: u64 = fraction.parse().map_err(|_| malformed())?;
    let bytes = u128::from(whole) * u128::from(factor) + u128::from(fraction) * u128::from(factor) / scale;
    u64::try_from(bytes).map(ByteLen).map_err(|_| too_large())
}

/// Writes a size in decimal units with one digit after the point: `80.0 GB`.
pub fn show_size(len: ByteLen) -> String {
    let units = [("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    // Rounding to one digit is meant; exact bytes are in --json.
    let bytes = len.0 as f64;
    match units.iter().find(|(_, factor)| bytes >= *factor) {
        Some((unit, factor)) => format!("{:.1} {unit}", bytes / factor),
        None => format!("{} B", len.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_and_binary_units_mean_what_they_say() {
        let read = |t| parse_size(t).map(|l| l.0);
        assert_eq!(read("80GB"), Ok(80_000_000_000));
        assert_eq!(read("80 GiB"), Ok(80 << 30));
        assert_eq!(read("1.5kb"), Ok(1500));
        assert_eq!(read("4096"), Ok(4096));
        for bad in ["", "GB", "1.2.3GB", "-1", "5 apples", ".5GB", "1.GB", "99999999PB"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_in_decimal() {
        assert_eq!(show_size(ByteLen(80_000_000_000)), "80.0 GB");
        assert_eq!(show_size(ByteLen(12)), "12 B");
    }
}
