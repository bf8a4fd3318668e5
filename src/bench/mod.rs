//! Measuring disk, network, and both together.

use crate::cli::args::{BenchArgs, Globals};
use crate::control::api::Failure;

/// Measures, and prints the report.
pub fn run(_globals: &Globals, _args: &BenchArgs) -> Result<(), Failure> {
    Err(Failure::failed("NOT_IN_THIS_BUILD", "bench is not part of this build"))
}
