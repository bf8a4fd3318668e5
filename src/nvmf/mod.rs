//! NVMe over Fabrics on TCP: the same volumes as namespaces of a subsystem.
//!
//! Rank 7. `host` is the other end. Sections named here are those of the
//! NVM Express TCP Transport and Base specifications.

pub mod admin;
pub mod command;
pub mod conn;
pub mod controller;
pub mod events;
pub mod fabrics;
pub mod host;
pub mod identify;
pub mod io_command;
pub mod log_page;
pub mod pdu;
pub mod qpair;
pub mod subsystem;
pub mod uri;
