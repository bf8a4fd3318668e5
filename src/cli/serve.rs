//! `serve`: the daemon in the foreground.

use super::args::ServeArgs;
use super::exit::{Ended, Exit};
use super::session::Session;
use crate::daemon;

pub fn run(session: &Session, args: &ServeArgs) -> Result<Exit, Ended> {
    daemon::serve(&session.globals, args)?;
    Ok(Exit::Done)
}
