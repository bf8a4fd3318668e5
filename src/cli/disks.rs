//! From the disks that were typed to the facts about them.

use super::exit::Ended;
use crate::control::refusal::not_inspected;
use crate::disk::inspect::{Drive, inspect, resolve};
use std::path::PathBuf;

/// The paths of disks, as typed.
pub fn paths(typed: &[String]) -> Result<Vec<PathBuf>, Ended> {
    typed.iter().map(|text| resolve(text).map_err(|e| not_inspected(&e).into())).collect()
}

/// What is known about disks.
pub fn look_at(paths: &[PathBuf]) -> Result<Vec<Drive>, Ended> {
    paths.iter().map(|path| inspect(path).map_err(|e| not_inspected(&e).into())).collect()
}
