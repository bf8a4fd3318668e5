//! NVMe over Fabrics on TCP: the same volumes as namespaces of a subsystem.
//!
//! Rank 7. Bytes: `pdu`, `command`, `fabrics`, `identify`, `log_page`. Decisions, pure: `qpair` a connection's PDUs,
//! `admin` and `events` a controller, `io_command`, `reservation`. Shared by the cores: `controller`, `subsystem`. I/O:
//! `conn`. `host` is the other end. Sections named here are those of the NVM Express TCP Transport and Base specifications.

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
pub mod reservation;
pub mod subsystem;
pub mod uri;
