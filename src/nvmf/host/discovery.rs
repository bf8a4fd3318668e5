//! The discovery log: which subsystems there are, and where (Base specification, Discovery Log Page). Pure.
//!
//! A controller may change the log while it is read: it counts only if its generation is the same before and after.

use super::refusal::Refusal;
use crate::base::codec::{Malformed, Reader};

/// Bytes of the header, and of each record behind it.
pub const RECORD_LEN: u64 = 1024;

/// Records that are read, at most.
const RECORDS_MAX: u64 = 1024;

/// Times that a log is read again because it has changed.
pub const TRIES: usize = 10;

/// What a record points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Another discovery service, which knows more.
    Referral,
    Subsystem,
    /// The service that was asked.
    Own,
    Unknown(u8),
}

/// One way to a subsystem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub kind: Kind,
    /// By TCP; other transports are listed, too.
    pub tcp: bool,
    /// The server's number for the address.
    pub port: u16,
    pub subsystem: String,
    pub address: String,
    /// The TCP port, as text.
    pub service: String,
    /// TLS is a must.
    pub secure: bool,
}

/// The start of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub generation: u64,
    /// At most `RECORDS_MAX`.
    pub records: u64,
}

impl Header {
    /// Reads the header.
    ///
    /// # Errors
    /// A format that is not known, or more records than can be.
    pub fn parse(bytes: &[u8]) -> Result<Header, Refusal> {
        let mut reader = Reader::new(bytes);
        let mut read = || -> Result<_, Malformed> { Ok((reader.u64()?, reader.u64()?, reader.u16()?)) };
        let (generation, records, format) =
            read().map_err(|_| Refusal::Broken("a discovery log that ends early"))?;
        match format {
            0 if records <= RECORDS_MAX => Ok(Header { generation, records }),
            0 => Err(Refusal::Broken("a discovery log of more records than can be")),
            _ => Err(Refusal::Broken("a discovery log in an unknown format")),
        }
    }
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// One that is not whole.
    pub fn parse(bytes: &[u8]) -> Result<Record, Refusal> {
        let malformed = |_| Refusal::Broken("a discovery record that is not whole");
        let mut reader = Reader::new(bytes);
        let [transport, _family, kind, requirements] = reader.array().map_err(malformed)?;
        let port = reader.u16().map_err(malformed)?;
        let service = text_at(bytes, 32, 32).map_err(malformed)?;
        let subsystem = text_at(bytes, 256, 256).map_err(malformed)?;
        let address = text_at(bytes, 512, 256).map_err(malformed)?;
        let kind = match kind {
            1 => Kind::Referral,
            2 => Kind::Subsystem,
            3 => Kind::Own,
            other => Kind::Unknown(other),
        };
        let secure = requirements & 3 == 1;
        Ok(Record { kind, tcp: transport == 3, port, subsystem, address, service, secure })
    }
}

/// Text that ends with a zero byte or in blanks; printable characters only, as people see it.
fn text_at(bytes: &[u8], at: usize, len: usize) -> Result<String, Malformed> {
    let field = bytes.get(at..at + len).ok_or(Malformed)?;
    let printable = |b: &u8| if (b' '..=b'~').contains(b) { char::from(*b) } else { '?' };
    let text: String = field.iter().take_while(|b| **b != 0).map(printable).collect();
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(generation: u64, records: u64, format: u16) -> Vec<u8> {
        let mut bytes = [generation.to_le_bytes(), records.to_le_bytes()].concat();
        bytes.extend_from_slice(&format.to_le_bytes());
        bytes.resize(1024, 0);
        bytes
    }

    #[test]
    fn checklist_80_a_log_has_only_so_many_records() {
        assert_eq!(Header::parse(&header(7, 3, 0)), Ok(Header { generation: 7, records: 3 }));
        assert!(Header::parse(&header(7, RECORDS_MAX, 0)).is_ok());
        for (records, format) in [(RECORDS_MAX + 1, 0), (1 << 63, 0), (u64::MAX, 0), (1, 1)] {
            assert!(Header::parse(&header(7, records, format)).is_err(), "{records} {format}");
        }
        assert!((0..18).all(|len| Header::parse(&header(7, 3, 0)[..len]).is_err()));
    }

    #[test]
    fn section_17_records_say_what_is_where() {
        let mut bytes = vec![0; 1024];
        bytes[..6].copy_from_slice(&[3, 1, 2, 1, 5, 0]);
        bytes[32..64].fill(b' ');
        bytes[32..36].copy_from_slice(b"4420");
        bytes[256..261].copy_from_slice(b"nqn.x");
        bytes[512..768].fill(b' ');
        bytes[512..521].copy_from_slice(b"10.0.0.\x1b5");
        let record = Record {
            kind: Kind::Subsystem,
            tcp: true,
            port: 5,
            subsystem: "nqn.x".to_owned(),
            address: "10.0.0.?5".to_owned(),
            service: "4420".to_owned(),
            secure: true,
        };
        assert_eq!(Record::parse(&bytes), Ok(record));
        assert!((0..768).all(|len| Record::parse(&bytes[..len]).is_err()));
        bytes[..4].copy_from_slice(&[1, 1, 77, 0]);
        let other = Record::parse(&bytes).unwrap();
        assert_eq!((other.kind, other.tcp, other.secure), (Kind::Unknown(77), false, false));
    }
}
