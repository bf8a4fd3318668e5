//! Managing a daemon: requests and replies as JSON lines over a unix socket.
//!
//! Rank 8. Owns: what can be asked (`api`), what happened (`event`), what was done so far (`counters`), the framing (`codec`), both ends of the socket (`server`, `client`),
//! who uses a state folder (`presence`), and the words of refusals that both a daemon and the command line give
//! (`refusal`).

pub mod api;
pub mod client;
pub mod codec;
pub mod counters;
pub mod event;
pub mod presence;
pub mod refusal;
pub mod server;
