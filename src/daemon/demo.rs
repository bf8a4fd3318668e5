//! Everything once, on files in a temporary folder.

use crate::cli::args::{DemoArgs, Globals};
use crate::control::api::Failure;

/// Shows everything once.
pub fn demo(_globals: &Globals, _args: &DemoArgs) -> Result<(), Failure> {
    Err(Failure::failed("NOT_IN_THIS_BUILD", "the demo is not there yet"))
}
