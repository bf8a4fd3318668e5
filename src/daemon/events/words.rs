//! Figures of a pool in words. Pure.

use crate::base::size::show_size;
use crate::base::units::ByteLen;
use crate::control::api::{PoolReport, PoolState, WorkKind};

pub fn show(bytes: u64) -> String {
    show_size(ByteLen(bytes))
}

pub fn state_word(state: PoolState) -> &'static str {
    match state {
        PoolState::Safe => "safe",
        PoolState::AtRisk => "at risk",
        PoolState::DataUnavailable => "without some of its data",
        PoolState::Unprotected => "unprotected, as asked for",
    }
}

pub fn work_word(kind: WorkKind) -> &'static str {
    match kind {
        WorkKind::Resync => "resync",
        WorkKind::Rebuild => "rebuild",
        WorkKind::Scrub => "scrub",
        WorkKind::Spread => "spreading",
        WorkKind::Leave => "evacuation",
        WorkKind::Copies => "change of copies",
    }
}

/// How the data of a pool stands.
pub fn protection(pool: &PoolReport) -> String {
    let lost: u64 = pool.lost.iter().map(|l| l.length_bytes).sum();
    match pool.unavailable_bytes.saturating_add(lost) {
        0 if pool.single_copy_bytes > 0 && pool.below_promise_bytes > 0 => {
            format!("everything can be read, {} have one copy left", show(pool.single_copy_bytes))
        }
        0 if pool.below_promise_bytes > 0 => {
            let less = show(pool.below_promise_bytes);
            format!("everything can be read, {less} have fewer copies than promised")
        }
        0 => "every block has all its copies".to_owned(),
        none => format!("{} cannot be read", show(none)),
    }
}
