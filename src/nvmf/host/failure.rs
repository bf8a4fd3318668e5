//! How a command ends that did not succeed, in words. Pure.

use crate::nvmf::command::{Cqe, Status};
use std::fmt;

/// A command that did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    pub status: Status,
    /// Trying again would end the same way.
    pub no_retry: bool,
    /// Dwords 0 and 1: for some commands they say what was wrong.
    pub result: u64,
}

impl Failure {
    pub fn of(cqe: &Cqe) -> Failure {
        Failure { status: cqe.status, no_retry: cqe.no_retry, result: cqe.result }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (status {:#05x})", words(self.status), self.status.0)
    }
}

/// What a status means (Base specification, status values).
fn words(status: Status) -> &'static str {
    match status {
        Status::SUCCESS => "success",
        Status::INVALID_OPCODE => "no such command",
        Status::INVALID_FIELD => "invalid field in the command",
        Status::COMMAND_ID_CONFLICT => "command id in use already",
        Status::INTERNAL => "internal error",
        Status::ABORTED => "aborted",
        Status::INVALID_NAMESPACE => "no such namespace",
        Status::COMMAND_SEQUENCE => "not at this time",
        Status::SGL_LENGTH => "data of the wrong length",
        Status::SGL_TYPE | Status::SGL_OFFSET => "data in the wrong place",
        Status::WRITE_PROTECTED => "write protected",
        Status::INTERRUPTED => "interrupted",
        Status::TRANSIENT_TRANSPORT => "data was damaged on its way",
        Status::LBA_OUT_OF_RANGE => "out of range",
        Status::CAPACITY_EXCEEDED => "no space left",
        Status::RESERVATION_CONFLICT => "reserved by another host",
        Status::CONNECT_FORMAT => "unknown format of Connect",
        Status::CONNECT_BUSY => "the controller is busy",
        Status::CONNECT_PARAMETERS => "no such subsystem, or wrong parameters",
        Status::CONNECT_HOST => "this host may not connect",
        Status::WRITE_FAULT => "the write failed",
        Status::UNRECOVERED_READ => "the data cannot be read",
        Status::COMPARE_FAILED => "the data differs",
        _ => match status.0 >> 8 {
            3 => "not by this path now",
            2 => "media error",
            _ => "failed",
        },
    }
}
