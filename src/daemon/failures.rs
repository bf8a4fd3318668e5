//! Errors of pools and drivers in the form that people read.

use crate::base::size::show_size;
use crate::control::api::Failure;
use crate::io::uring::SetupError;
use crate::pool::PoolError;

/// A pool's error with its code and the next command.
pub fn pool_failure(error: &PoolError) -> Failure {
    let text = error.to_string();
    match error {
        PoolError::Open { .. } | PoolError::Disk { .. } => Failure::failed("DISK_UNREADABLE", text),
        PoolError::Busy { .. } => Failure::refused("DISK_IN_USE", text),
        PoolError::TooSmall { .. } => Failure::refused("DISK_TOO_SMALL", text),
        PoolError::NoMembers => {
            Failure::failed("NO_MEMBERS", text).with("where are its drives? drystone pool import DISK…")
        }
        PoolError::UnknownFormat { .. } => Failure::refused("UNKNOWN_FORMAT", text)
            .with("Nothing was written.")
            .with("serve it with the version of drystone that made it"),
        PoolError::UnknownFeatures { .. } => Failure::refused("UNKNOWN_FORMAT", text)
            .with("Nothing was written.")
            .with("serve it with the version of drystone that made it, or a newer one"),
        PoolError::SeveralPools(_) => Failure::refused("SEVERAL_POOLS", text).with("name one: --pool NAME"),
        PoolError::Twins(_, _) => {
            Failure::refused("TWINS", text).with("neither is used until one of them is taken away")
        }
        PoolError::NoMajority { .. } => Failure::refused("NO_MAJORITY", text)
            .with("bring the missing drives back, then: drystone pool import DISK…")
            .with(
                "they are gone for good? `drystone pool import --force DISK…` goes on without them, records",
            )
            .with("that, and refuses them for ever; what only they held is lost"),
        PoolError::Forked { .. } => Failure::refused("TWO_HISTORIES", text)
            .with("each half was used without the other; take one half away, then import the other"),
        PoolError::LogDamaged { .. } => Failure::refused("LOG_DAMAGED", text)
            .with("nothing was written. Bring the drives that are missing, then: drystone pool import DISK…")
            .with("none is missing? `drystone pool import --force DISK…` goes on with what can be read, and records that"),
        PoolError::NoLog { .. } => Failure::failed("NO_LOG", text),
        PoolError::Frozen => Failure::failed("MAJORITY_LOST", text)
            .with("stop the daemon, bring the missing drives back, and start it again"),
        PoolError::LogFull(_) => Failure::failed("LOG_FULL", text),
        PoolError::NotWhole { .. } => Failure::unchanged("NOT_IN_SYNC", text)
            .with("wait until the copies are made again: drystone status"),
        PoolError::TooFewWithout { .. } => Failure::unchanged("TOO_FEW_DISKS", text)
            .with("add a drive first: drystone disk add DISK"),
        PoolError::NoRoomWithout { short, .. } => Failure::unchanged("NO_ROOM", text)
            .with(format!("{} would have no place", show_size(*short)))
            .with("add a drive first: drystone disk add DISK, or give space back: drystone volume destroy VOLUME"),
        PoolError::TooFewForCopies { .. } => Failure::unchanged("TOO_FEW_DISKS", text)
            .with("add a drive first: drystone disk add DISK, or wait until all are in sync: drystone status"),
        PoolError::NoRoomForCopies { .. } => Failure::unchanged("NO_ROOM", text)
            .with("add a drive first: drystone disk add DISK, or give space back: drystone volume destroy VOLUME"),
        PoolError::WouldBeUnprotected { .. } => Failure::refused("UNPROTECTED", text)
            .with("that is meant? add --allow-unprotected"),
        PoolError::DataBeyond { .. } => Failure::refused("DATA_BEYOND", text)
            .with("make the file system in it smaller first (resize2fs; xfs cannot), and let it discard what it freed (fstrim)")
            .with("what lies beyond is not needed? add --yes: it is discarded"),
        PoolError::Invalid(_) => Failure::refused("INVALID", text),
        PoolError::NoVolume(_) => Failure::failed("NO_VOLUME", text).with("drystone volume list"),
        PoolError::VolumeExists(_) => Failure::refused("VOLUME_EXISTS", text),
        PoolError::Closing => Failure::failed("CLOSING", text),
    }
}

/// Why there is no driver, with the fix.
pub fn setup_failure(error: &SetupError) -> Failure {
    let mut failure = Failure::failed(error.code(), error.to_string());
    for line in error.facts() {
        failure = failure.with(line);
    }
    failure
}
