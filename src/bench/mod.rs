//! Disk, network and the way through both, measured alike; names what holds the result back.
//!
//! Rank 9.

pub mod figure;
pub mod limits;
mod processor;
pub mod report;
pub mod report_json;
pub mod report_table;
pub mod verdict;
pub mod workload;
