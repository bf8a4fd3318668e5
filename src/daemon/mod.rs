//! Serving pools, and executing requests where no daemon runs.

use crate::cli::args::{DemoArgs, Globals, ServeArgs};
use crate::control::api::{Failure, Reply, Request};
use crate::control::presence::{Role, StateLock};
use std::path::Path;

/// Serves all known pools until it is stopped.
pub fn serve(globals: &Globals, _args: &ServeArgs) -> Result<(), Failure> {
    let _lock = StateLock::take(&globals.state, Role::Daemon)?;
    Err(not_here("serve"))
}

/// Shows everything once, on files.
pub fn demo(_globals: &Globals, _args: &DemoArgs) -> Result<(), Failure> {
    Err(not_here("demo"))
}

/// Executes a request in this process, with the state folder to itself.
pub fn execute_offline(state: &Path, _request: Request) -> Reply {
    match StateLock::take(state, Role::Command) {
        Ok(_lock) => Reply::Failed(not_here("working without a daemon")),
        Err(failure) => Reply::Failed(failure),
    }
}

fn not_here(what: &str) -> Failure {
    Failure::failed("NOT_IN_THIS_BUILD", format!("{what} is not part of this build"))
}
