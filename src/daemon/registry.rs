//! What the state folder remembers: which pools there are and where their members were last seen.
//!
//! Only a convenience: the members themselves say what they belong to, and a lost file is made again by
//! `pool import`. Written as a whole, renamed into place.

use crate::control::api::Failure;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const FILE: &str = "pools.json";

/// A pool and where it was.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct KnownPool {
    pub uuid: Uuid,
    pub name: String,
    pub disks: Vec<PathBuf>,
}

#[derive(Default, Serialize, Deserialize)]
struct Contents {
    pools: Vec<KnownPool>,
}

/// The pools that the state folder knows.
///
/// # Errors
/// `STATE_UNUSABLE` if the file is there and cannot be read.
pub fn load(state: &Path) -> Result<Vec<KnownPool>, Failure> {
    let path = state.join(FILE);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let contents: Contents = serde_json::from_slice(&bytes).map_err(|e| unusable(&path, &e))?;
            Ok(contents.pools)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(unusable(&path, &error)),
    }
}

/// Remembers a pool, instead of what was known of it before.
pub fn remember(state: &Path, pool: KnownPool) -> Result<(), Failure> {
    let mut pools = load(state)?;
    pools.retain(|known| known.uuid != pool.uuid);
    pools.push(pool);
    save(state, pools)
}

/// Where to look for a pool's members: where they were, and, if one of them was a drive, every drive of this
/// machine. Names of drives mean nothing: a drive on another port has another one.
pub fn places(remembered: &[PathBuf]) -> Vec<PathBuf> {
    let mut places: BTreeSet<PathBuf> = remembered.iter().map(|path| canonical(path)).collect();
    if remembered.iter().any(|path| path.starts_with("/dev")) {
        places.extend(block_devices());
    }
    places.into_iter().collect()
}

/// What to remember of a pool: where members are, and, while some are not there, where these may be again.
pub fn to_remember(
    here: Vec<PathBuf>,
    all_here: bool,
    looked_at: &[PathBuf],
    before: &[PathBuf],
) -> Vec<PathBuf> {
    if all_here {
        return here;
    }
    // Of the drives that were looked at, which is every one of this machine, only those that were members before:
    // one of them is enough for all to be looked at again.
    let files = looked_at.iter().filter(|path| !path.starts_with("/dev"));
    let absent: BTreeSet<&PathBuf> = files.chain(before).filter(|path| !here.contains(path)).collect();
    let absent: Vec<PathBuf> = absent.into_iter().cloned().collect();
    here.into_iter().chain(absent).collect()
}

fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Every drive and partition that the kernel knows.
fn block_devices() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/sys/class/block") else { return Vec::new() };
    entries.flatten().map(|entry| Path::new("/dev").join(entry.file_name())).collect()
}

pub fn forget(state: &Path, pool: Uuid) -> Result<(), Failure> {
    let mut pools = load(state)?;
    pools.retain(|known| known.uuid != pool);
    save(state, pools)
}

fn save(state: &Path, pools: Vec<KnownPool>) -> Result<(), Failure> {
    let path = state.join(FILE);
    let fresh = state.join(format!("{FILE}.new"));
    let text = serde_json::to_vec_pretty(&Contents { pools }).expect("paths and names are text");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)
    };
    write().map_err(|e| unusable(&path, &e))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::failed("STATE_UNUSABLE", format!("{} cannot be used: {error}", path.display()))
        .with("another folder: --state DIR (or DRYSTONE_STATE)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_remembered_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), Ok(vec![]));
        let pool = KnownPool { uuid: Uuid::from_u128(1), name: "tank".into(), disks: vec!["/a".into()] };
        remember(dir.path(), pool.clone()).unwrap();
        remember(dir.path(), KnownPool { disks: vec!["/b".into()], ..pool.clone() }).unwrap();
        assert_eq!(load(dir.path()).unwrap()[0].disks, [PathBuf::from("/b")]);
        forget(dir.path(), pool.uuid).unwrap();
        assert_eq!(load(dir.path()), Ok(vec![]));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(load(dir.path()).unwrap_err().code, "STATE_UNUSABLE");
    }

    #[test]
    fn the_only_drive_among_files_is_looked_for_again_after_a_start_without_it() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let (before, looked_at) = (paths(&["/a", "/dev/loop0"]), paths(&["/a", "/b", "/dev/sda"]));
        let remembered = to_remember(paths(&["/a"]), false, &looked_at, &before);
        assert_eq!(remembered, paths(&["/a", "/b", "/dev/loop0"]));
        assert_eq!(to_remember(paths(&["/a", "/dev/loop1"]), true, &looked_at, &before).len(), 2);
    }
}
