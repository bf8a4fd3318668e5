//! Adding drives to a pool: the gate, the act, and what it gave in words.

use super::failures::pool_failure;
use super::service::Service;
use crate::base::size::{show_copies, show_size};
use crate::base::units::ByteLen;
use crate::control::api::{DiskAdd, Failure, PoolReport};
use crate::control::refusal::{Joined, admit_added};
use crate::disk::inspect::Drive;
use crate::pool::Pool;
use crate::pool::balance;
use crate::pool::report::{MemberFacts, PoolFacts};
use std::path::PathBuf;

impl Service {
    pub(super) async fn add_disks(&self, add: DiskAdd) -> Result<String, Failure> {
        let replaced = match &add.replaces {
            Some(old) => Some(self.member_named(old)?),
            None => None,
        };
        let open = match &replaced {
            Some((open, _)) => open.clone(),
            None => self.find_pool(add.pool.as_deref())?,
        };
        let drives = self.look_at(add.disks.clone()).await?;
        let joined = self.joined(&open.pool, &drives).await;
        admit_added(&add, &drives, Some(&joined))?;
        let before = self.report(&open);
        let disks: Vec<(PathBuf, String)> = drives.iter().map(|d| (d.path.clone(), d.name.clone())).collect();
        let added = match (&replaced, disks.as_slice()) {
            (None, disks) => open.pool.add_disks(&self.core, disks).await,
            (Some((_, old)), [new]) => open.pool.replace_disk(&self.core, old.id, new).await,
            (Some(_), _) => return Err(Failure::refused("INVALID", "one drive is replaced by one")),
        };
        added.map_err(|e| pool_failure(&e))?;
        self.remember(&open.pool, &before.name, &add.disks)?;
        let facts = open.pool.facts();
        if let Some((_, old)) = replaced {
            return Ok(told_of_replacement(&drives, &old, self.target.is_some()));
        }
        Ok(told(&drives, &before, &self.report(&open), to_spread(&facts), self.target.is_some()))
    }

    /// What the pool is made of. Its own drives are looked at only where one of the new ones could be a part of them; one
    /// that cannot be looked at is not compared with.
    async fn joined(&self, pool: &Pool, new: &[Drive]) -> Joined {
        let members = pool.facts().members;
        let compared = new.iter().any(|d| d.kernel.is_some());
        let mut drives = Vec::new();
        for path in members.iter().filter(|_| compared).filter_map(|m| m.path.clone()) {
            drives.extend(self.look_at(vec![path]).await.unwrap_or_default());
        }
        Joined { pool: pool.uuid(), members: members.iter().map(|m| m.uuid).collect(), drives }
    }
}

/// What was replaced by what, and what happens now.
fn told_of_replacement(new: &[Drive], old: &MemberFacts, serves: bool) -> String {
    let mut lines: Vec<String> = new.iter().map(|d| format!("+ {}", d.label())).collect();
    let when = if serves { ": drystone status" } else { " while a daemon runs: drystone serve" };
    lines.push(match old.in_sync {
        true => format!("- {} leaves: {} are copied to other drives{when}", old.name, show_size(old.used)),
        false => format!("- {} is given up: what lay on it is made again{when}", old.name),
    });
    lines.join("\n")
}

/// Bytes that are to move until every drive is filled in proportion.
fn to_spread(facts: &PoolFacts) -> ByteLen {
    ByteLen(balance::plan(&facts.state).len() as u64 * facts.state.extent.0) // widening
}

/// What was added, and what the pool is now.
fn told(drives: &[Drive], before: &PoolReport, after: &PoolReport, spread: ByteLen, serves: bool) -> String {
    let mut lines: Vec<String> = drives.iter().map(|d| format!("+ {}", d.label())).collect();
    let show = |report: &PoolReport| show_size(ByteLen(report.usable()));
    let copies = show_copies(after.copies);
    let spreading = match (spread.0, serves) {
        (0, _) => String::new(),
        (_, true) => format!(" Spreading {} over all drives: drystone status", show_size(spread)),
        (_, false) => {
            format!(" {} spread over all drives while a daemon runs: drystone serve", show_size(spread))
        }
    };
    lines.push(format!("{}: {} -> {} usable, {copies}.{spreading}", after.name, show(before), show(after)));
    lines.push(match after.usable() > before.usable() {
        true => {
            "Writes were never stopped. Room for a volume: drystone volume grow VOLUME --size SIZE".to_owned()
        }
        false => format!("There is no more usable space: {copies} need free space on as many drives"),
    });
    lines.join("\n")
}
