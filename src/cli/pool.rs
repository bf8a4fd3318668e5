//! `pool create | list | show | import | export | scrub | destroy`.

use super::args::{PoolCommand, PoolCreateArgs, PoolDestroyArgs, PoolImportArgs, PoolScrubArgs, Protect};
use super::confirm::{Unasked, confirm};
use super::disks;
use super::exit::{Ended, Exit};
use super::interrupt::Interrupt;
use super::session::Session;
use super::words::{Side, bytes, count, duration, percent, table};
use super::{status, volume};
use crate::base::size::show_copies;
use crate::control::api::{Failure, PoolCreate, PoolReport, Request, WorkKind, WorkReport};
use crate::control::refusal::admit;
use crate::disk::inspect::{Drive, Holding, Standing};
use std::time::Duration;

/// How often a scrub's progress is asked for.
const SCRUB_LOOK: Duration = Duration::from_secs(1);

pub fn run(session: &Session, command: &PoolCommand) -> Result<Exit, Ended> {
    match command {
        PoolCommand::Create(args) => create(session, args),
        PoolCommand::List => list(session),
        PoolCommand::Show { pool } => show(session, pool.as_ref()),
        PoolCommand::Import(args) => import(session, args),
        PoolCommand::Export { pool } => {
            session.change(&Request::PoolExport { pool: pool.clone() }).map(|()| Exit::Done)
        }
        PoolCommand::Scrub(args) => scrub(session, args),
        PoolCommand::Destroy(args) => destroy(session, args),
    }
}

fn create(session: &Session, args: &PoolCreateArgs) -> Result<Exit, Ended> {
    let request = PoolCreate {
        name: args.name.clone(),
        disks: disks::paths(&args.disks)?,
        copies: copies_of(args.protect, args.copies)?,
        extent_bytes: args.extent.map(|extent| extent.0),
        erase: disks::paths(&args.erase)?,
    };
    let drives = disks::look_at(&request.disks)?;
    // A daemon may look at disks that this user may not; it passes the same gate before it writes.
    if !drives.iter().any(is_hidden) || session.daemon()?.is_none() {
        admit(&request, &drives)?;
    }
    let erased: Vec<&Drive> = drives.iter().filter(|d| d.standing() != Standing::Free).collect();
    if !erased.is_empty() {
        confirm(session, &erasing(&erased), &args.name, args.yes, Unasked::GoOn)?;
    }
    session.change(&Request::PoolCreate(request)).map(|()| Exit::Done)
}

pub fn is_hidden(drive: &Drive) -> bool {
    drive.holdings.iter().any(|h| matches!(h, Holding::Unexamined { .. }))
}

pub fn erasing(drives: &[&Drive]) -> String {
    let list: Vec<_> = drives.iter().map(|d| format!("  {} holds {}", d.label(), d.holds())).collect();
    format!("This erases {} that holds data:\n{}", count(drives.len(), "drive"), list.join("\n"))
}

/// How many copies were asked for.
/// The copies that were asked for in either way.
///
/// # Errors
/// If both contradict each other, or machines are to survive.
pub fn copies_of(protect: Option<Protect>, copies: Option<u8>) -> Result<u8, Failure> {
    match (protect, copies) {
        (Some(Protect::Machine), _) => Err(Failure::refused(
            "ONE_MACHINE",
            "--protect machine needs drives on two machines, and this program sees one",
        )
        .with("to survive the loss of a drive: --protect drive")),
        (Some(Protect::None), None | Some(1)) | (None, Some(1)) => Ok(1),
        (Some(Protect::None), Some(more)) => Err(contradiction("none", more)),
        (Some(Protect::Drive), Some(1)) => Err(contradiction("drive", 1)),
        (Some(Protect::Drive) | None, copies) => Ok(copies.unwrap_or(2)),
    }
}

fn contradiction(protect: &str, copies: u8) -> Failure {
    let message = format!("--protect {protect} and {} contradict each other", show_copies(copies));
    Failure::refused("COPIES_CONTRADICT", message).with("`none` means one copy, `drive` two or more")
}

fn list(session: &Session) -> Result<Exit, Ended> {
    let pools = session.pools(&Request::PoolList)?;
    if session.screen.json {
        session.screen.document("drystone.pools/1", &serde_json::json!({ "pools": pools }));
    } else if pools.is_empty() {
        session.screen.say(status::NO_POOL);
    } else {
        session.screen.print(&list_screen(&pools));
    }
    Ok(Exit::Done)
}

fn list_screen(pools: &[PoolReport]) -> String {
    let columns = [
        ("POOL", Side::Left),
        ("STATE", Side::Left),
        ("COPIES", Side::Right),
        ("USABLE", Side::Right),
        ("USED", Side::Right),
        ("DRIVES", Side::Right),
        ("VOLUMES", Side::Right),
    ];
    let row = |pool: &PoolReport| {
        vec![
            pool.name.clone(),
            status::state_word(pool.state).to_owned(),
            pool.copies.to_string(),
            bytes(pool.usable()),
            bytes(pool.allocated_bytes),
            pool.drives.len().to_string(),
            pool.volumes.len().to_string(),
        ]
    };
    table(&columns, &pools.iter().map(row).collect::<Vec<_>>())
}

fn show(session: &Session, pool: Option<&String>) -> Result<Exit, Ended> {
    let pools = session.pools(&Request::PoolShow { pool: pool.cloned() })?;
    for pool in &pools {
        if session.screen.json {
            session.screen.document("drystone.pool/1", pool);
            continue;
        }
        let facts = format!(
            "uuid      {}\nextents   {} each, {} raw\nvotes     {} of {}, epoch {}\n",
            pool.uuid,
            bytes(pool.extent_bytes),
            bytes(pool.raw_bytes),
            pool.votes_present,
            pool.votes_total,
            pool.epoch
        );
        let volumes = volume::list_screen(&pool.volumes);
        session
            .screen
            .print(&format!("{}{facts}\n{volumes}", status::pool_screen(pool, session.screen.paint)));
    }
    Ok(Exit::Done)
}

fn import(session: &Session, args: &PoolImportArgs) -> Result<Exit, Ended> {
    let disks = disks::paths(&args.disks)?;
    if args.force {
        let loss = "This opens the pool without a majority of its members. Members that are missing now are \
                    refused for ever after, with whatever only they hold.";
        let name = args.pool.as_deref().unwrap_or("force");
        confirm(session, loss, name, args.yes, Unasked::Refuse)?;
    }
    let request = Request::PoolImport { disks, pool: args.pool.clone(), force: args.force };
    session.change(&request).map(|()| Exit::Done)
}

fn destroy(session: &Session, args: &PoolDestroyArgs) -> Result<Exit, Ended> {
    // A pool that cannot be opened can be given up all the same; then less is known about what is lost.
    let known = session.pools(&Request::PoolShow { pool: Some(args.pool.clone()) });
    let loss = match known.as_deref() {
        Ok([pool]) => format!(
            "This ends pool {} with {} and {} of data.",
            pool.name,
            count(pool.volumes.len(), "volume"),
            bytes(pool.allocated_bytes)
        ),
        Ok(_) | Err(_) => format!("This ends pool {} and everything in it.", args.pool),
    };
    confirm(session, &loss, &args.pool, args.yes, Unasked::Refuse)?;
    session.change(&Request::PoolDestroy { pool: args.pool.clone() }).map(|()| Exit::Done)
}

/// Starts a scrub. Without a daemon it runs to its end in this process; with one it is waited for if asked.
fn scrub(session: &Session, args: &PoolScrubArgs) -> Result<Exit, Ended> {
    if args.status {
        let pools = session.pools(&Request::PoolShow { pool: args.pool.clone() })?;
        return Ok(scrubbed(session, &pools));
    }
    if let Some(days) = args.every {
        let seconds = days.saturating_mul(24 * 3600);
        return session
            .change(&Request::PoolScrubEvery { pool: args.pool.clone(), seconds })
            .map(|()| Exit::Done);
    }
    let background = session.daemon()?.is_some();
    if !(background && args.wait) {
        return session.change(&Request::PoolScrub { pool: args.pool.clone() }).map(|()| Exit::Done);
    }
    let mut interrupt = Interrupt::hold().map_err(|e| Failure::failed("SYSTEM", format!("signals: {e}")))?;
    session.ask(&Request::PoolScrub { pool: args.pool.clone() })?;
    loop {
        if interrupt.wait(SCRUB_LOOK) {
            let message = "the scrub goes on without this command";
            return Err(Ended::interrupted(
                Failure::failed("INTERRUPTED", message).with("`drystone status` shows how far it is"),
            ));
        }
        let pools = session.pools(&Request::PoolShow { pool: args.pool.clone() })?;
        let running: Vec<&WorkReport> =
            pools.iter().flat_map(|p| &p.work).filter(|w| w.kind == WorkKind::Scrub).collect();
        if running.is_empty() {
            return Ok(scrubbed(session, &pools));
        }
        running.iter().for_each(|work| session.screen.say(&progress(work)));
    }
}

fn progress(work: &WorkReport) -> String {
    let left = status::seconds_left(work).map_or(String::new(), |s| format!(", {} left", duration(s)));
    format!("scrub {} % of {}{left}", percent(work.done_bytes, work.total_bytes), bytes(work.total_bytes))
}

fn scrubbed(session: &Session, pools: &[PoolReport]) -> Exit {
    if session.screen.json {
        let list: Vec<_> = pools
            .iter()
            .map(|p| {
                serde_json::json!({
                    "name": p.name,
                    "work": p.work.iter().find(|w| w.kind == WorkKind::Scrub),
                    "last_scrub": p.last_scrub,
                    "next_scrub_unix_ns": p.next_scrub_unix_ns,
                })
            })
            .collect();
        session.screen.document("drystone.scrub/1", &serde_json::json!({ "pools": list }));
    } else {
        for pool in pools {
            let running = pool.work.iter().find(|w| w.kind == WorkKind::Scrub).map(progress);
            running.iter().for_each(|line| session.screen.print(&format!("{}: {line}\n", pool.name)));
            session.screen.print(&format!("{}: {}\n", pool.name, status::scrub_line(pool)));
            session.screen.print(&status::lost_lines(pool));
        }
    }
    let lost = pools.iter().filter_map(|p| p.last_scrub.as_ref()).any(|s| s.lost_blocks > 0);
    if lost { Exit::Failed } else { Exit::Done }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protection_decides_the_number_of_copies() {
        assert_eq!(copies_of(None, None), Ok(2));
        assert_eq!(copies_of(None, Some(1)), Ok(1));
        assert_eq!(copies_of(Some(Protect::None), None), Ok(1));
        assert_eq!(copies_of(Some(Protect::Drive), Some(3)), Ok(3));
        let code = |p, c| copies_of(Some(p), c).unwrap_err().code;
        assert_eq!(code(Protect::None, Some(2)), "COPIES_CONTRADICT");
        assert_eq!(code(Protect::Drive, Some(1)), "COPIES_CONTRADICT");
        assert_eq!(code(Protect::Machine, None), "ONE_MACHINE");
    }
}
