//! Assembly: the daemon that serves pools, and the same service in a command's own process.
//!
//! Rank 9.

mod adding;
pub mod cores;
mod counting;
mod demo;
pub mod events;
mod failures;
mod registry;
mod removing;
mod reports;
mod serve;
mod service;
mod watching;

pub use demo::demo;
pub use serve::serve;
pub use service::Service;

use crate::base::units::ByteLen;
use crate::control::api::{Failure, Reply, Request};
use crate::control::presence::{Role, StateLock};
use std::path::Path;
use std::rc::Rc;

/// Memory for a command that works without a daemon, bytes: buffers, and the regions' state.
const COMMAND_ARENA: usize = 32 << 20;
const COMMAND_CACHE: ByteLen = ByteLen(16 << 20);

/// Executes a request in this process, with the state folder to itself.
pub fn execute_offline(state: &Path, request: Request) -> Reply {
    execute_here(state, request).unwrap_or_else(Reply::Failed)
}

fn execute_here(state: &Path, request: Request) -> Result<Reply, Failure> {
    let _lock = StateLock::take(state, Role::Command)?;
    let core = cores::here(COMMAND_ARENA)?;
    let service = Rc::new(Service::new(&core, state.to_owned(), COMMAND_CACHE, Default::default(), None));
    let reply = core.run_until(async move {
        let opened = match request {
            // What is about to be opened by the request itself is not opened before it.
            Request::PoolImport { .. } => Ok(Vec::new()),
            _ => service.open_known().await,
        };
        let before = begin_events(&service, &request);
        let reply = match opened {
            Ok(failures) => say_first(&request, failures, service.execute(None, request.clone()).await),
            Err(failure) => Reply::Failed(failure),
        };
        service.watch.append(&service.state, before);
        match service.close().await {
            Ok(()) => reply,
            Err(failure) => Reply::Failed(failure),
        }
    });
    core.drain();
    Ok(reply)
}

/// What a command changes is told like what a daemon does; returns the number of the newest event before.
fn begin_events(service: &Service, request: &Request) -> u64 {
    if !request.is_read_only() {
        service.watch.begin(&service.state);
        service.watch.begin_with(service.reports(None).unwrap_or_default());
    }
    service.watch.newest()
}

/// A pool that could not be opened is the reason why there is "no such pool".
fn say_first(_request: &Request, failures: Vec<Failure>, reply: Reply) -> Reply {
    let mut failures = failures.into_iter();
    match (failures.next(), reply) {
        (Some(first), Reply::Failed(_)) => Reply::Failed(first),
        (Some(first), reply) => {
            eprintln!("error [{}]: {}", first.code, first.message);
            first.details.iter().for_each(|line| eprintln!("  {line}"));
            reply
        }
        (None, reply) => reply,
    }
}
