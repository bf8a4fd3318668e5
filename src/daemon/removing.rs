//! Taking drives out of a pool: which one is meant, what it would mean, and what was done in words.

use super::failures::pool_failure;
use super::service::{OpenPool, Service, no_disk};
use crate::base::size::{show_copies, show_size};
use crate::control::api::Failure;
use crate::pool::leaving::Departure;
use crate::pool::report::MemberFacts;
use crate::pool::state::MemberState;
use std::rc::Rc;

impl Service {
    /// The member that is meant by a name, a uuid or a path, and its pool.
    pub(super) fn member_named(&self, disk: &str) -> Result<(Rc<OpenPool>, MemberFacts), Failure> {
        let named = |m: &MemberFacts| {
            let path = || m.path.as_ref().is_some_and(|path| path.display().to_string() == disk);
            m.name == disk || m.uuid.to_string() == disk || path()
        };
        let pools = self.open_pools();
        let mut found = pools.into_iter().filter_map(|p| {
            let member = p.pool.facts().members.into_iter().find(named);
            member.map(|member| (p, member))
        });
        found.next().ok_or_else(|| no_disk(disk))
    }

    /// What it would mean to take a drive out.
    pub(super) fn would_remove(&self, disk: &str) -> Result<String, Failure> {
        let (open, member) = self.member_named(disk)?;
        self.judge(&open, &member).map(|departure| self.told(&open, &member, departure, true))
    }

    /// A drive that is there leaves its pool.
    pub(super) async fn remove_disk(&self, disk: &str) -> Result<String, Failure> {
        let (open, member) = self.member_named(disk)?;
        let departure = self.judge(&open, &member)?;
        open.pool.remove_disk(member.id).await.map_err(|e| pool_failure(&e))?;
        Ok(self.told(&open, &member, departure, false))
    }

    fn judge(&self, open: &OpenPool, member: &MemberFacts) -> Result<Departure, Failure> {
        if !member.in_sync {
            return Err(not_there(member));
        }
        if member.leaving {
            let message = format!("{} is being taken out already", member.name);
            return Err(Failure::unchanged("LEAVING", message).with("how far it is: drystone status"));
        }
        open.pool.departure(member.id).map_err(|e| pool_failure(&e))
    }

    fn told(&self, open: &OpenPool, member: &MemberFacts, departure: Departure, look: bool) -> String {
        let Departure { held, usable } = departure;
        let state = open.pool.facts().state;
        let (name, pool, copies) = (&member.name, state.name, state.copies);
        let moved = match (held.0, self.target.is_some()) {
            (0, true) => format!("{name} leaves {pool}; nothing lies on it."),
            (_, true) => format!("{name} leaves {pool}: {} move to the other drives.", show_size(held)),
            (_, false) => format!(
                "{name} leaves {pool}: {} move to the other drives while a daemon runs (drystone serve).",
                show_size(held)
            ),
        };
        let copies = show_copies(copies);
        let after = format!("{pool} then has {} usable, {copies}.", show_size(usable));
        match look {
            true => {
                format!("{moved} {after} Until then it can be kept: drystone disk remove {name} --cancel")
            }
            false => format!(
                "{moved} {after}\nHow far it is: drystone status. To keep it after all: drystone disk remove {name} --cancel"
            ),
        }
    }

    /// A drive that leaves stays.
    pub(super) async fn keep_disk(&self, disk: &str) -> Result<String, Failure> {
        let (open, member) = self.member_named(disk)?;
        if !member.leaving {
            let message = format!("{} is not being taken out", member.name);
            return Err(Failure::unchanged("NOT_LEAVING", message));
        }
        open.pool.keep_disk(member.id).await.map_err(|e| pool_failure(&e))?;
        Ok(format!("{} stays; what is stored spreads over it again: drystone status", member.name))
    }

    pub(super) async fn declare_dead(&self, disk: &str) -> Result<String, Failure> {
        let (open, member) = self.member_named(disk)?;
        if member.in_sync {
            let message = format!("{} is there and in use", member.name);
            return Err(Failure::unchanged("DISK_IN_USE", message)
                .with(format!("to move what lies on it first: drystone disk remove {}", member.name)));
        }
        open.pool.declare_dead(member.id).await.map_err(|e| pool_failure(&e))?;
        Ok(format!(
            "{} is given up; its copies are made anew on the other drives: drystone status",
            member.name
        ))
    }
}

/// A drive that is not in sync has nothing to move.
fn not_there(member: &MemberFacts) -> Failure {
    let name = &member.name;
    let back = "to keep it: connect it again; it is brought up to date by itself";
    match member.state {
        MemberState::Stale | MemberState::Resyncing => {
            Failure::unchanged("NOT_IN_SYNC", format!("{name} is being brought up to date"))
                .with("wait until it is in sync: drystone status")
        }
        _ => Failure::unchanged(
            "DISK_MISSING",
            format!("{name} is not there, so nothing can be moved from it"),
        )
        .with(back)
        .with(format!("it will not come back: drystone disk remove {name} --dead")),
    }
}
