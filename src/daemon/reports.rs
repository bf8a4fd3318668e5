//! A pool's figures in the words of the control protocol. Pure.

use crate::base::limits::BLOCK;
use crate::control::api::{
    DriveReport, DriveState, LostReport, PoolReport, PoolState, ScrubReport, VolumeReport, WorkReport,
};
use crate::pool::meter::seconds;
use crate::pool::report::{LostRange, MemberFacts, PoolFacts, VolumeFacts};
use crate::pool::reserve::Margin;
use crate::pool::state::ScrubRun;

/// What the pool's figures do not contain.
pub struct Beside {
    pub work: Vec<WorkReport>,
}

/// The report of a pool; `connections` tells how many clients have a volume open.
pub fn pool_report(facts: &PoolFacts, beside: Beside, connections: impl Fn(&str) -> u32) -> PoolReport {
    let sum = |pick: fn(&VolumeFacts) -> u64| facts.volumes.iter().map(pick).sum();
    let name = &facts.state.name;
    PoolReport {
        name: name.clone(),
        uuid: facts.state.pool.to_string(),
        state: pool_state(facts),
        copies: facts.state.copies,
        extent_bytes: facts.state.extent.0,
        raw_bytes: facts.raw.0,
        free_bytes: facts.free.map(|f| f.0),
        usable_bytes: facts.usable.map(|u| u.0),
        allocated_bytes: sum(|v| v.allocated.0),
        below_promise_bytes: sum(|v| v.below_promise.0),
        single_copy_bytes: sum(|v| v.single_copy.0),
        unavailable_bytes: sum(|v| v.unavailable.0),
        heal_needed_bytes: facts.heal_needed.0,
        heal_possible: facts.heal_possible,
        heal_spare_bytes: spare_bytes(facts),
        heal_short_bytes: match facts.margin {
            Margin::Short(slots) => slots * facts.state.extent.0,
            Margin::Spare(_) | Margin::Nowhere => 0,
        },
        reserve_enforced: facts.reserve_enforced,
        protected_bytes: facts.protected.0,
        heal_bytes_per_second: facts.copy_rate,
        heal_rate_measured: facts.copy_rate_measured,
        drives: facts.members.iter().map(|m| drive_report(m, name, facts.copy_rate)).collect(),
        volumes: facts.volumes.iter().map(|v| volume_report(v, name, connections(&v.name))).collect(),
        votes_present: u32::try_from(facts.votes.present).unwrap_or(u32::MAX),
        votes_total: u32::try_from(facts.votes.total).unwrap_or(u32::MAX),
        epoch: facts.epoch,
        forced: facts.state.forced,
        spreading: facts.state.spreading,
        work: beside.work,
        last_scrub: facts.state.scrubs.last.as_ref().map(scrub_report),
        next_scrub_unix_ns: facts.state.scrubs.due_wall_ns(),
        lost: facts.lost.iter().map(lost_report).collect(),
        full_in_seconds: None,
    }
}

fn scrub_report(run: &ScrubRun) -> ScrubReport {
    ScrubReport {
        ended_unix_ns: run.ended_wall_ns,
        checked_bytes: run.found.blocks * BLOCK,
        repaired_blocks: run.found.repaired,
        unrepaired_blocks: run.found.unrepaired,
        different_blocks: run.found.different,
        lost_blocks: run.found.lost,
    }
}

fn lost_report(lost: &LostRange) -> LostReport {
    LostReport {
        volume: lost.volume.clone(),
        offset_bytes: lost.span.offset().0,
        length_bytes: lost.span.len().0,
    }
}

fn pool_state(facts: &PoolFacts) -> PoolState {
    let any = |pick: fn(&VolumeFacts) -> u64| facts.volumes.iter().any(|v| pick(v) > 0);
    let promised = facts.state.copies > 1 || facts.volumes.iter().any(|v| v.copies > 1);
    if any(|v| v.unavailable.0) || !facts.lost.is_empty() {
        PoolState::DataUnavailable
    } else if any(|v| v.below_promise.0) {
        PoolState::AtRisk
    } else if promised {
        PoolState::Safe
    } else {
        PoolState::Unprotected
    }
}

/// What can be stored at all is no more than what is free.
fn spare_bytes(facts: &PoolFacts) -> Option<u64> {
    let free = facts.free.get(usize::from(facts.state.copies.max(1)) - 1).map_or(0, |free| free.0);
    match facts.margin {
        Margin::Spare(slots) => Some(slots.saturating_mul(facts.state.extent.0).min(free)),
        Margin::Short(_) => Some(0),
        Margin::Nowhere => None,
    }
}

fn drive_report(member: &MemberFacts, pool: &str, rate: u64) -> DriveReport {
    let heals = member.does_not_heal.0 == 0;
    DriveReport {
        name: member.name.clone(),
        path: member.path.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        uuid: member.uuid.to_string(),
        pool: pool.to_owned(),
        size_bytes: member.size.0,
        state: DriveState::from(member.state),
        leaving: member.leaving,
        reason: member.reason.clone(),
        rotational: member.rotational,
        used_bytes: member.used.0,
        lost_bytes: member.lost_without.0,
        exposed_bytes: member.exposed_without.0,
        heals_bytes: member.heals.0,
        does_not_heal_bytes: member.does_not_heal.0,
        heal_seconds: seconds(member.heals.0, rate).filter(|_| heals),
        read_errors: member.read_errors,
        write_errors: member.write_errors,
        checksum_errors: member.checksum_errors,
        healed_blocks: member.healed_blocks,
    }
}

fn volume_report(volume: &VolumeFacts, pool: &str, connections: u32) -> VolumeReport {
    VolumeReport {
        name: volume.name.clone(),
        pool: pool.to_owned(),
        uuid: volume.uuid.to_string(),
        size_bytes: volume.size.0,
        copies: volume.copies,
        fewest_copies: volume.fewest_copies,
        lacking_slots: volume.lacking,
        surplus_slots: volume.surplus,
        columns: volume.columns,
        stripe_unit_bytes: volume.unit.0,
        checksums: volume.checksums,
        lba_bytes: volume.lba_bytes,
        namespace: volume.id.one_based(),
        allocated_bytes: volume.allocated.0,
        single_copy_bytes: volume.single_copy.0,
        unavailable_bytes: volume.unavailable.0,
        connections,
        unavailable: Vec::new(),
        unavailable_more: false,
    }
}
