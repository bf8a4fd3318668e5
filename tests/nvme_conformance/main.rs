//! Conformance of the NVMe/TCP target, over real sockets: the checklist of docs/nvme-conformance.md, item by item.
//!
//! A real server runs on the production driver on threads of the test, with volumes in memory behind it. A test's name
//! carries the numbers of its items (`c28_…`). The host is written from the protocol and shares no table with the target;
//! it checks the form of every PDU that it receives, so that the forms need no tests of their own.

mod admin;
mod association;
mod discovery;
mod events;
mod host;
mod hostile;
mod io_commands;
mod opening;
mod pdus;
mod reservations;
mod server;
#[path = "../shared/server.rs"]
mod shared;
mod transfers;
