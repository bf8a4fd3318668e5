//! The bytes of Reservation Register, Acquire and Release (Base specification, sections of these names).

use super::Kind;
use crate::base::codec::Reader;
use crate::nvmf::command::{Sqe, Status};

pub const REGISTER: u8 = 0x0d;
pub const REPORT: u8 = 0x0e;
pub const ACQUIRE: u8 = 0x11;
pub const RELEASE: u8 = 0x15;

/// Dword 10: the action.
const ACTION_MASK: u32 = 0b111;
/// Dword 10: IEKEY, ignore the existing key.
const IGNORE_KEY: u32 = 1 << 3;

/// A command that changes reservations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    Register(Register),
    Acquire(Acquire),
    Release(Release),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    pub action: RegisterAction,
    pub ignore_key: bool,
    pub persist: PersistChange,
    pub current_key: u64,
    /// Not zero where the action looks at it.
    pub new_key: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegisterAction {
    Register,
    Unregister,
    Replace,
}

/// What becomes of the persistence through a loss of power (the field CPTPL).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PersistChange {
    Keep,
    Off,
    On,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acquire {
    pub action: AcquireAction,
    pub kind: Kind,
    pub current_key: u64,
    pub preempted_key: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcquireAction {
    Acquire,
    Preempt,
    PreemptAndAbort,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Release {
    pub action: ReleaseAction,
    pub current_key: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReleaseAction {
    /// A reservation of this type.
    Release(Kind),
    Clear,
}

/// The bytes of data that a host sends with one of the three commands; None for any other.
pub fn data_len(opcode: u8) -> Option<u32> {
    match opcode {
        REGISTER | ACQUIRE => Some(16),
        RELEASE => Some(8),
        _ => None,
    }
}

impl Command {
    /// Reads a command; more data than it has fields is left alone.
    ///
    /// # Errors
    /// What to answer: for values that the specification reserves, and for data that ends too early.
    pub fn parse(sqe: &Sqe, data: &[u8]) -> Result<Command, Status> {
        match sqe.opcode() {
            REGISTER => parse_register(sqe.dword(10), data).map(Command::Register),
            ACQUIRE => parse_acquire(sqe.dword(10), data).map(Command::Acquire),
            RELEASE => parse_release(sqe.dword(10), data).map(Command::Release),
            _ => Err(Status::INVALID_OPCODE),
        }
    }
}

fn parse_register(dword: u32, data: &[u8]) -> Result<Register, Status> {
    let (current_key, new_key) = keys(data)?;
    let action = match dword & ACTION_MASK {
        0 => RegisterAction::Register,
        1 => RegisterAction::Unregister,
        2 => RegisterAction::Replace,
        _ => return Err(Status::INVALID_FIELD),
    };
    let persist = match dword >> 30 {
        0 => PersistChange::Keep,
        2 => PersistChange::Off,
        3 => PersistChange::On,
        _ => return Err(Status::INVALID_FIELD),
    };
    // Zero means "all" where a key is preempted: nobody may have it.
    if new_key == 0 && action != RegisterAction::Unregister {
        return Err(Status::INVALID_FIELD);
    }
    Ok(Register { action, ignore_key: dword & IGNORE_KEY != 0, persist, current_key, new_key })
}

fn parse_acquire(dword: u32, data: &[u8]) -> Result<Acquire, Status> {
    let (current_key, preempted_key) = keys(data)?;
    let kind = kind_of(dword)?;
    let action = match dword & ACTION_MASK {
        0 => AcquireAction::Acquire,
        1 => AcquireAction::Preempt,
        2 => AcquireAction::PreemptAndAbort,
        _ => return Err(Status::INVALID_FIELD),
    };
    Ok(Acquire { action, kind, current_key, preempted_key })
}

fn parse_release(dword: u32, data: &[u8]) -> Result<Release, Status> {
    let current_key = Reader::new(data).u64().map_err(|_| Status::SGL_LENGTH)?;
    let action = match dword & ACTION_MASK {
        0 => ReleaseAction::Release(kind_of(dword)?),
        1 if dword & IGNORE_KEY == 0 => ReleaseAction::Clear,
        _ => return Err(Status::INVALID_FIELD),
    };
    Ok(Release { action, current_key })
}

/// The type of reservation. Next to it IEKEY must not be set: these commands always need the key.
fn kind_of(dword: u32) -> Result<Kind, Status> {
    let code = u8::try_from(dword >> 8 & 0xff).expect("eight bits");
    Kind::from_code(code).filter(|_| dword & IGNORE_KEY == 0).ok_or(Status::INVALID_FIELD)
}

fn keys(data: &[u8]) -> Result<(u64, u64), Status> {
    let mut r = Reader::new(data);
    let first = r.u64().map_err(|_| Status::SGL_LENGTH)?;
    Ok((first, r.u64().map_err(|_| Status::SGL_LENGTH)?))
}
