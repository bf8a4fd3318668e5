//! Managing a daemon: requests and replies as JSON lines over a unix socket.
//!
//! Rank 8.

pub mod api;
