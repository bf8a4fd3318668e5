//! The client against scripted servers: pure halves first, then whole connections on a driver in memory.

mod hostile;
mod server;
mod whole;
