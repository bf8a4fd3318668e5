//! NBD: the wire, negotiation, transmission, the connections of the server, and the client.
//!
//! Rank 7. `wire` is bytes, `negotiation` and `transmission` are decisions, `conn` is I/O; `client` is the other end.

pub mod client;
pub mod conn;
pub mod negotiation;
pub mod transmission;
pub mod uri;
pub mod wire;
