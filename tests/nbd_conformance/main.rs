//! Conformance of the NBD server, over real sockets: the checklist of the protocol reference, item by item.
//!
//! A real server runs on the production driver on threads of the test, with volumes in memory behind it. A test's
//! name carries the number of its item (`c57_…`); tests without a number are about many, bad and leaving clients.
//! Item 33 (error texts) and the forms of 20, 66 and 73 are checked by the client for every reply of every test.
//!
//! | items | not here, because |
//! |---|---|
//! | 35 to 44 | no TLS: item 34 is what is left of it |
//! | 67 in part | a volume is read completely before its reply begins, so no error can follow a data chunk |
//! | 71, two contexts | there is one context |
//! | 77, 80 to 83 | durability over crashes and power cuts: a volume in memory has none; the simulator tests it |
//! | 78 in part | that a flush covers all connections is shown; that it survives is the simulator's |
//! | 84 to 89 | real clients (kernel, libnbd, QEMU, fio) are run by hand and in a VM |
//! | 90 to 94 | robustness of the client |

mod chunks;
mod client;
mod handshake;
mod hostile;
mod server;
#[path = "../shared/server.rs"]
mod shared;
mod transmission;
