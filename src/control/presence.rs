//! Who uses a state folder: one process at a time, a daemon or a command that works without one.
//!
//! The lock is on `drystone.lock` in the folder and ends with the process that holds it, however it ends. The
//! file's text (`daemon 812`, `command 813`) only says whom to name in a message; the lock is what counts.

use super::api::Failure;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

const LOCK_FILE: &str = "drystone.lock";

/// Looking whether somebody holds the lock holds it for a moment; a quarter of a second outlasts that.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// What a process that holds the lock is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Serves until it is stopped.
    Daemon,
    /// Executes one request and ends.
    Command,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Daemon => "daemon",
            Role::Command => "command",
        }
    }
}

/// The right to work with a state folder; dropping it gives the right back.
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the folder, making it if needed.
    ///
    /// # Errors
    /// `STATE_UNUSABLE` if the folder cannot be made or written, `STATE_IN_USE` if somebody else has it.
    pub fn take(state: &Path, role: Role) -> Result<StateLock, Failure> {
        std::fs::create_dir_all(state).map_err(|e| unusable(state, &e))?;
        let path = state.join(LOCK_FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(|e| unusable(state, &e))?;
        lock_soon(state, &mut file)?;
        let text = format!("{} {}\n", role.word(), std::process::id());
        let written = file.set_len(0).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|e| unusable(state, &e))?;
        Ok(StateLock { _file: file })
    }
}

/// Locks at once, or as soon as somebody who only looked (`holder`) has let go.
fn lock_soon(state: &Path, file: &mut File) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Err(in_use(state, &read_text(file))),
            Err(TryLockError::Error(e)) => return Err(unusable(state, &e)),
        }
    }
}

/// The process that has the folder, as it wrote itself down (`daemon 812`); None if nobody has.
pub fn holder(state: &Path) -> Option<String> {
    let mut file = File::open(state.join(LOCK_FILE)).ok()?;
    match file.try_lock_shared() {
        Ok(()) | Err(TryLockError::Error(_)) => None,
        Err(TryLockError::WouldBlock) => Some(read_text(&mut file)),
    }
}

fn read_text(file: &mut File) -> String {
    let mut text = String::new();
    // Only words for a message: a text that cannot be read leaves them out.
    let read = file.rewind().and_then(|()| file.take(64).read_to_string(&mut text));
    match read {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        Ok(_) | Err(_) => "process unknown".to_owned(),
    }
}

fn in_use(state: &Path, holder: &str) -> Failure {
    let message = format!("another drystone ({holder}) works with {}", state.display());
    Failure::refused("STATE_IN_USE", message).with("wait until it ends, or give another folder: --state DIR")
}

fn unusable(state: &Path, error: &std::io::Error) -> Failure {
    let message = format!("the state folder {} cannot be used: {error}", state.display());
    Failure::failed("STATE_UNUSABLE", message)
        .with("run as root, or give a folder of your own: --state DIR (or DRYSTONE_STATE=DIR)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_and_the_lock_ends_with_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("made/on/the/way");
        assert_eq!(holder(&state), None);
        let lock = StateLock::take(&state, Role::Daemon).unwrap();
        assert_eq!(holder(&state), Some(format!("daemon {}", std::process::id())));
        let second = StateLock::take(&state, Role::Command).err().expect("taken");
        assert_eq!((second.refused, second.code.as_str()), (true, "STATE_IN_USE"));
        drop(lock);
        assert_eq!(holder(&state), None);
        StateLock::take(&state, Role::Command).unwrap();
    }

    #[test]
    fn somebody_who_only_looks_keeps_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        drop(StateLock::take(folder.path(), Role::Command).unwrap());
        let looking = File::open(folder.path().join(LOCK_FILE)).unwrap();
        looking.try_lock_shared().unwrap();
        let looker = std::thread::spawn(move || {
            std::thread::sleep(LOCK_PAUSE);
            drop(looking);
        });
        assert!(StateLock::take(folder.path(), Role::Daemon).is_ok());
        looker.join().unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_names_the_flag() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let failure = StateLock::take(&file.join("state"), Role::Daemon).err().expect("not a folder");
        assert_eq!(failure.code, "STATE_UNUSABLE");
        assert!(failure.details[0].contains("--state"), "{failure:?}");
    }
}
