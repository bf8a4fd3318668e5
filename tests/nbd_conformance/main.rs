//! Conformance of the NBD server, over real sockets: the checklist of the protocol reference, item by item.
//! A test's name carries the number of its item.
mod client;
mod handshake;
mod server;
