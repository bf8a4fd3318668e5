//! NVMe over Fabrics on TCP: the same volumes as namespaces of a subsystem.
//!
//! Rank 7. So far the bytes: what goes over the wire, with its parsers and emitters. Sections named here are those of the
//! NVM Express TCP Transport and Base specifications.

pub mod command;
pub mod host;
pub mod pdu;
pub mod uri;
