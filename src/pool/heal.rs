//! Healing: every copy of some blocks is read and judged, and those that are wrong are written again from one that is
//! right (R40, R41).
//!
//! ```text
//! a read that one copy could not answer ─┐
//!                                        ├─▶ hold the blocks ─▶ read all copies ─▶ judge each block ─▶ rewrite
//! a scrub that found a difference ───────┘
//! ```
//!
//! No dirty mark is needed: a copy that is wrong before and after a crash is as wrong as it was.

use super::copy_bytes::{CopyBytes, Silent, read_all};
use super::fragment_read::{Wanted, plan};
use super::load::ensure_loaded;
use super::lost::LostBlock;
use super::planted::{Planted, is_planted};
use super::reach::{Reach, Reached};
use super::region::{Hold, RegionKey};
use super::verdict::{Findings, Verdict, judge};
use super::volume::PoolVolume;
use crate::base::checksum::block_sum;
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, ByteOffset};
use crate::block::Status;
use crate::disk::Patience;
use crate::io::buf::BufMut;
use crate::reactor::Core;
use futures_util::future::join_all;
use std::ops::Range;
use std::sync::atomic::Ordering;

const BLOCK_LEN: usize = BLOCK as usize; // a constant of 4096

/// All reachable copies of some written blocks, judged.
struct Judged {
    wanted: Wanted,
    reach: Reach,
    copies: Vec<CopyBytes>,
    /// For each block; None where it was never written.
    verdicts: Vec<Option<Verdict>>,
}

/// Reads and compares some blocks that the caller holds; writes nothing.
pub async fn examine(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    blocks: Range<u32>,
) -> Result<Findings, Status> {
    let judged = judge_blocks(volume, core, hold, blocks).await?;
    Ok(judged.map(|judged| judged.findings()).unwrap_or_default())
}

/// Makes every copy of some blocks right, as far as a right one is known. The caller holds them alone.
pub async fn heal(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    blocks: Range<u32>,
) -> Result<Findings, Status> {
    let Some(judged) = judge_blocks(volume, core, hold, blocks).await? else {
        return Ok(Findings::default());
    };
    let mut findings = judged.findings();
    for (at, verdict) in judged.verdicts.iter().enumerate() {
        let block = judged.wanted.blocks.start + u32::try_from(at).expect("512 at most");
        match verdict {
            Some(Verdict::Right { copy, wrong }) => {
                let from =
                    if is_planted(&volume.pool, Planted::HealFromWrongCopy) { wrong.first() } else { None };
                let from = *from.unwrap_or(copy);
                for index in wrong {
                    count_wrong(&judged, *index, at);
                    let repaired = rewrite(volume, core, hold, &judged, (from, *index, at)).await;
                    findings.repaired += u64::from(repaired);
                    findings.unrepaired += u64::from(!repaired);
                }
                volume.pool.lost.forget(
                    volume.id,
                    hold.region().key.slot,
                    volume.in_slot(hold.region().key, &(block..block + 1)),
                );
            }
            Some(Verdict::Lost) => {
                if !judged.wanted.is_lost(at) {
                    (0..judged.copies.len()).for_each(|index| count_wrong(&judged, index, at));
                }
                note_lost(volume, hold, block);
            }
            Some(Verdict::Undecided { .. }) | None => {}
        }
    }
    Ok(findings)
}

/// A copy that could be read and is wrong counts against its drive; one that could not be read was counted there.
fn count_wrong(judged: &Judged, index: usize, at: usize) {
    if judged.copies[index].block(at).is_some() {
        judged.reach.copies[index].disk().errors.checksum.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes a block of one copy over that of another. The drive keeps its place in the pool if that fails: its other
/// blocks are worth more than none, and the next scrub finds this one again.
async fn rewrite(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    judged: &Judged,
    (from, to, at): (usize, usize, usize),
) -> bool {
    let reached = &judged.reach.copies[to];
    let offset = place(volume, hold, reached, judged.wanted.blocks.start, at);
    let bytes = judged.copies[from].slice(at);
    let written = reached.disk().write(core, offset, bytes, false, Patience::Peers).await;
    if written.is_ok() {
        reached.disk().errors.healed.fetch_add(1, Ordering::Relaxed);
        tracing::info!(drive = reached.member.name, at = offset.0, "a block was repaired from another copy");
    }
    written.is_ok()
}

/// The bytes of some blocks, each from a copy that is right. For a read that no single copy answered in whole.
pub async fn assemble(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    blocks: Range<u32>,
) -> Result<Option<BufMut>, Status> {
    let Some(judged) = judge_blocks(volume, core, hold, blocks).await? else { return Ok(None) };
    let mut whole = core.buffers().take(judged.verdicts.len() * BLOCK_LEN);
    whole.as_mut_slice().fill(0);
    let mut lost = false;
    for (at, verdict) in judged.verdicts.iter().enumerate() {
        match verdict {
            Some(Verdict::Right { copy, .. } | Verdict::Undecided { copy }) => {
                let bytes = judged.copies[*copy].block(at).expect("a copy is chosen among the readable ones");
                whole.as_mut_slice()[at * BLOCK_LEN..(at + 1) * BLOCK_LEN].copy_from_slice(bytes);
            }
            Some(Verdict::Lost) => {
                note_lost(volume, hold, judged.wanted.blocks.start + u32::try_from(at).expect("512 at most"));
                lost = true;
            }
            None => {}
        }
    }
    if lost { Err(Status::Io) } else { Ok(Some(whole)) }
}

/// Heals some blocks in a task of its own, unless much of that goes on already: a scrub finds what is left.
pub fn heal_later(volume: &PoolVolume, core: &Core, key: RegionKey, blocks: Range<u32>) {
    let Some(unit) = volume.pool.background.try_take(1) else { return };
    let Some(volume) = volume.pool.volumes.load().get(&volume.id).cloned() else { return };
    let on = core.clone();
    core.spawn(async move {
        let _unit = unit;
        let Ok(_entered) = volume.enter() else { return };
        let region = volume.pool.region(key.volume, key.slot, key.region, volume.checksums);
        let alone = !is_planted(&on, Planted::HealWithoutHold);
        let hold = region.hold(if alone { blocks.clone() } else { 0..0 }, true).await;
        if ensure_loaded(&volume, &on, &hold).await.is_ok() {
            // What could not be healed is met again by the next read or scrub.
            let _ = heal(&volume, &on, &hold, blocks).await;
        }
    });
}

async fn judge_blocks(
    volume: &PoolVolume,
    core: &Core,
    hold: &Hold,
    blocks: Range<u32>,
) -> Result<Option<Judged>, Status> {
    let Some(wanted) = plan(hold, &blocks) else { return Ok(None) };
    let reach = volume.pool.reach(&wanted.placement, hold.region().key.region);
    let reads = reach.copies.iter().map(|reached| {
        let at = place(volume, hold, reached, blocks.start, 0);
        read_all(core, reached.disk(), at, blocks.len(), reach.patience(reached))
    });
    let read: Vec<Result<CopyBytes, Silent>> = join_all(reads).await;
    let silent = read.iter().any(Result::is_err);
    // What a drive does not say is not wrong: it is left out, and may not be missed.
    let (present, copies): (Vec<Reached>, Vec<CopyBytes>) = reach
        .copies
        .iter()
        .zip(read)
        .filter_map(|(reached, bytes)| Some((reached.clone(), bytes.ok()?)))
        .unzip();
    let verdicts: Vec<Option<Verdict>> =
        (0..blocks.len()).map(|at| verdict(volume, hold, &wanted, &copies, at)).collect();
    if silent && (copies.is_empty() || verdicts.iter().flatten().any(|v| matches!(v, Verdict::Lost))) {
        return Err(Status::Io);
    }
    let reach = Reach { copies: present.into(), ..reach };
    Ok(Some(Judged { wanted, reach, copies, verdicts }))
}

fn verdict(
    volume: &PoolVolume,
    hold: &Hold,
    wanted: &Wanted,
    copies: &[CopyBytes],
    at: usize,
) -> Option<Verdict> {
    if !wanted.is_written(at) {
        return None;
    }
    if wanted.is_lost(at) {
        return Some(Verdict::Lost);
    }
    let bytes: Vec<Option<&[u8]>> = copies.iter().map(|c| c.block(at)).collect();
    let Some(sums) = &wanted.sums else { return Some(judge(&bytes, None)) };
    let block = wanted.blocks.start + u32::try_from(at).expect("512 at most");
    let seed = volume.block_seed(hold.region().key, wanted.placement.stamp, block);
    let first = is_planted(&volume.pool, Planted::FirstCopyWins);
    Some(judge(&bytes, Some(&|bytes: &[u8]| first || block_sum(seed, bytes) == sums[at])))
}

impl Judged {
    fn findings(&self) -> Findings {
        let mut found = Findings::default();
        for (at, verdict) in self.verdicts.iter().enumerate() {
            let Some(verdict) = verdict else { continue };
            let unreadable = self.copies.iter().filter(|c| c.block(at).is_none()).count() as u64; // widening
            found.blocks += 1;
            found.unreadable += unreadable;
            match verdict {
                Verdict::Right { wrong, .. } => found.mismatched += wrong.len() as u64 - unreadable, // widening
                Verdict::Undecided { .. } => found.different += 1,
                Verdict::Lost => {
                    let known = self.wanted.is_lost(at);
                    found.mismatched += if known { 0 } else { self.copies.len() as u64 - unreadable }; // widening
                    found.lost += 1;
                }
            }
        }
        found
    }
}

/// Where the block `at` blocks after `first` lies on a copy's member.
fn place(volume: &PoolVolume, hold: &Hold, reached: &Reached, first: u32, at: usize) -> ByteOffset {
    let within = ByteLen((u64::from(first) + at as u64) * BLOCK); // widening
    let offset = volume.offset_in_extent(hold.region().key.region, within);
    reached.member.layout.data(reached.copy.extent, offset)
}

fn note_lost(volume: &PoolVolume, hold: &Hold, block: u32) {
    let key = hold.region().key;
    let block = volume.in_slot(key, &(block..block + 1)).start;
    let lost = LostBlock { volume: volume.id, slot: key.slot, block };
    volume.pool.lost.note(lost);
}
