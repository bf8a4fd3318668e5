//! `demo`: everything once, on files in a temporary folder.

use super::args::DemoArgs;
use super::exit::{Ended, Exit};
use super::session::Session;
use crate::daemon;

pub fn run(session: &Session, args: &DemoArgs) -> Result<Exit, Ended> {
    daemon::demo(&session.globals, args)?;
    Ok(Exit::Done)
}
