//! The bytes of reservations: what Reservation Report gives, and what is kept over a restart.

use super::command::REPORT;
use super::{Held, HostId, Kind, REGISTRANTS_MAX, Registrant, Reservations};
use crate::base::codec::{Malformed, Reader, Writer};
use crate::base::limits::RESERVATIONS_LEN_MAX;
use crate::nvmf::command::{Sqe, Status};
use std::collections::BTreeMap;

/// The version of the kept bytes. Others are refused.
const VERSION: u8 = 1;

const ENTRY_LEN: usize = 16 + 8 + 2;

/// The most bytes that `encode` gives.
pub const ENCODED_MAX: usize = 1 + 4 + 1 + 1 + 16 + 2 + REGISTRANTS_MAX * ENTRY_LEN;

const _: () = assert!(ENCODED_MAX <= RESERVATIONS_LEN_MAX);

/// What a Reservation Report asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Bytes that the host takes; what of the report is beyond is not sent.
    pub len: u64,
    pub extended: bool,
}

/// Reads a Reservation Report command.
///
/// # Errors
/// If it is none.
pub fn parse_report(sqe: &Sqe) -> Result<Report, Status> {
    if sqe.opcode() != REPORT {
        return Err(Status::INVALID_OPCODE);
    }
    // The number of dwords is 0-based.
    Ok(Report { len: (u64::from(sqe.dword(10)) + 1) * 4, extended: sqe.dword(11) & 1 == 1 })
}

impl Reservations {
    /// The whole Reservation Status data structure: extended with 128-bit host identifiers, or the basic one with
    /// the first 64 bits of each. Fabrics hosts have 128 bits, so that a controller may answer the basic form with
    /// `Status::HOST_ID_FORMAT` instead.
    pub fn report(&self, extended: bool) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(self.generation).u8(self.held.map_or(0, |held| held.kind.code()));
        w.u16(u16::try_from(self.registrants.len()).expect("64 at most"));
        w.bytes(&[0; 2]).bool(self.persists).bytes(&[0; 14]);
        if extended {
            w.bytes(&[0; 40]);
        }
        for (host, registrant) in &self.registrants {
            w.u16(registrant.controller).bool(self.is_holder(*host)).bytes(&[0; 5]);
            match extended {
                true => w.u64(registrant.key).bytes(&host.0).bytes(&[0; 32]),
                false => w.bytes(&host.0[..8]).u64(registrant.key),
            };
        }
        w.finish()
    }

    /// The bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(VERSION).u32(self.generation).bool(self.persists);
        w.u8(self.held.map_or(0, |held| held.kind.code()));
        if let Some(Held { holder: Some(holder), .. }) = &self.held {
            w.bytes(&holder.0);
        }
        w.u16(u16::try_from(self.registrants.len()).expect("64 at most"));
        for (host, registrant) in &self.registrants {
            w.bytes(&host.0).u64(registrant.key).u16(registrant.controller);
        }
        let bytes = w.finish();
        assert!(bytes.len() <= ENCODED_MAX, "registrants are bounded");
        bytes
    }

    /// Reads what was kept; nothing kept is nobody registered.
    ///
    /// # Errors
    /// Bytes that `encode` does not make.
    pub fn decode(bytes: &[u8]) -> Result<Reservations, Malformed> {
        if bytes.is_empty() {
            return Ok(Reservations::default());
        }
        let mut r = Reader::new(bytes);
        require(r.u8()? == VERSION)?;
        let (generation, persists) = (r.u32()?, r.bool()?);
        let held = match r.u8()? {
            0 => None,
            code => {
                let kind = Kind::from_code(code).ok_or(Malformed)?;
                let holder = if kind.is_of_all_registrants() { None } else { Some(HostId(r.array()?)) };
                Some(Held { kind, holder })
            }
        };
        let registrants = decode_registrants(&mut r)?;
        r.finish()?;
        let held_by_someone = match &held {
            None => true,
            Some(Held { holder: Some(holder), .. }) => registrants.contains_key(holder),
            Some(Held { holder: None, .. }) => !registrants.is_empty(),
        };
        require(held_by_someone)?;
        Ok(Reservations { generation, persists, registrants, held })
    }
}

fn decode_registrants(r: &mut Reader) -> Result<BTreeMap<HostId, Registrant>, Malformed> {
    let count = r.u16()?;
    require(usize::from(count) <= REGISTRANTS_MAX)?;
    let mut registrants: BTreeMap<HostId, Registrant> = BTreeMap::new();
    for _ in 0..count {
        let (host, registrant) = (HostId(r.array()?), Registrant { key: r.u64()?, controller: r.u16()? });
        require(registrants.last_key_value().is_none_or(|(last, _)| *last < host) && registrant.key != 0)?;
        registrants.insert(host, registrant);
    }
    Ok(registrants)
}

fn require(condition: bool) -> Result<(), Malformed> {
    if condition { Ok(()) } else { Err(Malformed) }
}

/// For fuzzing: parses any bytes as kept reservations.
pub fn fuzz_reservations(bytes: &[u8]) {
    if let Ok(reservations) = Reservations::decode(bytes) {
        assert_eq!(Reservations::decode(&reservations.encode()), Ok(reservations));
    }
}
