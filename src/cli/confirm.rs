//! Asking before something is lost.
//!
//! On a terminal the name must be typed. `--yes` answers that question and no other; `--json` and a missing
//! terminal never ask.

use super::exit::Ended;
use super::session::Session;
use crate::control::api::Failure;
use std::io::{BufRead, IsTerminal};

/// What happens where nobody can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unasked {
    /// The command line named what is lost: that is permission enough.
    GoOn,
    /// Refuse; the message names `--yes`.
    Refuse,
}

/// Asks for `name` to be typed; `loss` says what will be lost.
///
/// # Errors
/// `NOT_CONFIRMED`, and nothing was written.
pub fn confirm(session: &Session, loss: &str, name: &str, yes: bool, unasked: Unasked) -> Result<(), Ended> {
    if yes {
        return Ok(());
    }
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if session.screen.json || !terminal {
        return match unasked {
            Unasked::GoOn => Ok(()),
            Unasked::Refuse => {
                let message = format!("{} Nobody is there to confirm that", loss.trim_end());
                Err(Failure::refused("NOT_CONFIRMED", message)
                    .with("to go on without being asked: --yes")
                    .into())
            }
        };
    }
    session.screen.say(loss);
    session.screen.say(&format!("Type the name to go on ({name}):"));
    let mut typed = String::new();
    // An end of input, or a terminal that went away, is an answer that does not match.
    let read = std::io::stdin().lock().read_line(&mut typed);
    if read.is_ok() && typed.trim() == name {
        return Ok(());
    }
    Err(Failure::refused("NOT_CONFIRMED", format!("`{name}` was not typed")).into())
}
