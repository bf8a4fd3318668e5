//! `bench`: disk, network, end to end.

use super::args::BenchArgs;
use super::exit::{Ended, Exit};
use super::session::Session;
use crate::bench;

pub fn run(session: &Session, args: &BenchArgs) -> Result<Exit, Ended> {
    bench::run(&session.globals, args)?;
    Ok(Exit::Done)
}
