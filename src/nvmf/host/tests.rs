//! The host against scripted controllers: pure halves first, then whole associations on a driver in memory.

mod both;
mod controller;
mod hostile;
mod sequence;
mod whole;
