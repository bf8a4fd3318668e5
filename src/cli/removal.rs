//! `disk remove`, `disk replace`: drives that leave a pool.

use super::args::{RemoveArgs, ReplaceArgs};
use super::confirm::{Unasked, confirm};
use super::disk::gate;
use super::disks;
use super::exit::Ended;
use super::pool::erasing;
use super::session::{Session, unexpected};
use crate::control::api::{DiskAdd, DriveReport, Reply, Request};
use crate::disk::inspect::{self, Drive, Standing};

pub fn remove(session: &Session, args: &RemoveArgs) -> Result<(), Ended> {
    let disk = named(session, &args.disk)?.map_or(args.disk.clone(), |member| member.name);
    if args.dead {
        return session.change(&Request::DiskDead { disk });
    }
    if args.cancel {
        return session.change(&Request::DiskKeep { disk });
    }
    let request = |look: bool| Request::DiskRemove { disk: disk.clone(), look };
    let what = match session.ask(&request(true))? {
        Reply::Done { message } => message,
        other => return Err(unexpected(&other)),
    };
    confirm(session, &what, &disk, args.yes, Unasked::Refuse)?;
    session.change(&request(false))
}

pub fn replace(session: &Session, args: &ReplaceArgs) -> Result<(), Ended> {
    let old = named(session, &args.old)?;
    let request = DiskAdd {
        disks: disks::paths(std::slice::from_ref(&args.new))?,
        pool: None,
        erase: disks::paths(&args.erase)?,
        replaces: Some(old.as_ref().map_or(args.old.clone(), |member| member.name.clone())),
    };
    let drives = disks::look_at(&request.disks)?;
    gate(session, &request, &drives)?;
    // One that no pool knows is refused by whoever does the work.
    if let Some(member) = old {
        confirm(session, &what_goes(&member, &drives), &member.name, args.yes, Unasked::Refuse)?;
    }
    session.change(&Request::DiskAdd(request))
}

/// What a replacement does to both drives.
fn what_goes(old: &DriveReport, new: &[Drive]) -> String {
    let erased: Vec<&Drive> = new.iter().filter(|d| d.standing() == Standing::HasData).collect();
    let erases = if erased.is_empty() { String::new() } else { format!("{}\n", erasing(&erased)) };
    let goes = match old.state.is_in_sync() {
        true => "leaves its pool when all that lies on it is on other drives; then it is free",
        false => "is given up for good, and what lay on it is made again",
    };
    format!("{erases}{} {goes}.", old.name)
}

/// The member of an open pool that is meant: by its name, its uuid, or a name that this machine has for its disk.
fn named(session: &Session, typed: &str) -> Result<Option<DriveReport>, Ended> {
    let path = inspect::resolve(typed).map(|path| path.display().to_string()).unwrap_or_default();
    let report = session.status(None)?;
    let members = || report.pools.iter().flat_map(|pool| &pool.drives);
    let by_name = members().find(|d| d.name == typed || d.uuid == typed);
    let by_path = || members().find(|d| !d.path.is_empty() && (d.path == typed || d.path == path));
    Ok(by_name.or_else(by_path).cloned())
}
