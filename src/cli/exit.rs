//! How a command ends.

use crate::control::api::Failure;
use std::process::ExitCode;

/// The exit codes of every command but `check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Usage,
    /// Refused for safety; nothing was written.
    Refused,
    /// A daemon is there, or should be, and cannot be reached.
    Unreachable,
    /// Interrupted or timed out while the work goes on.
    Interrupted,
    /// What `check` says; see `check`.
    Check(u8),
}

impl Exit {
    pub fn number(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Unreachable => 4,
            Exit::Interrupted => 5,
            Exit::Check(number) => number,
        }
    }

    pub fn code(self) -> ExitCode {
        ExitCode::from(self.number())
    }
}

/// A command that did not do what was asked.
#[derive(Debug, PartialEq)]
pub struct Ended {
    pub exit: Exit,
    pub failure: Failure,
}

impl Ended {
    pub fn unreachable(failure: Failure) -> Ended {
        Ended { exit: Exit::Unreachable, failure }
    }

    pub fn interrupted(failure: Failure) -> Ended {
        Ended { exit: Exit::Interrupted, failure }
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        let exit = if failure.refused { Exit::Refused } else { Exit::Failed };
        Ended { exit, failure }
    }
}
