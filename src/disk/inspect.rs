//! What a drive or file holds, so that nothing is ever written over by mistake.
//!
//! Facts are gathered by `gather` (lsblk, wipefs, sysfs, an exclusive open); what they mean is decided here,
//! without I/O. A disk is *free* only if nothing at all was found. What cannot be examined is not free.
//! Nothing in this module writes.

mod gather;
mod names;
mod tools;

pub use gather::{inspect, list};
pub use names::resolve;

use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, ByteOffset};
use crate::io::driver::FileKind;
use std::path::PathBuf;

/// The first bytes of every member of a pool.
pub const MEMBER_MAGIC: [u8; 8] = *b"DRYSTONE";

/// The size of a superblock, bytes; one lies at the beginning of a member and one in its last whole block.
const SUPERBLOCK: u64 = BLOCK;

/// A block device or regular file, and what is on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Drive {
    /// The name shown to people: the by-id name, the kernel's name where there is none, a file's path.
    pub name: String,
    /// The kernel's name (`sda`); None for a file.
    pub kernel: Option<String>,
    /// Where it is opened: absolute, without symbolic links.
    pub path: PathBuf,
    pub kind: FileKind,
    pub size: ByteLen,
    pub rotational: bool,
    pub model: Option<String>,
    pub serial: Option<String>,
    pub wwn: Option<String>,
    /// The kernel's name of the whole drive that this is a partition of.
    pub part_of: Option<String>,
    /// Nothing here means free. What rules out writing comes first.
    pub holdings: Vec<Holding>,
}

/// Something that was found on a disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holding {
    /// A file system that this machine runs from.
    System {
        at: String,
    },
    Mounted {
        at: String,
    },
    Swap,
    /// A device of the kernel stands on it (md, device mapper, bcache, loop).
    Holder {
        device: String,
    },
    /// A superblock lies at its beginning or end: it belongs to a pool, or did.
    Member {
        block: Vec<u8>,
        at: ByteOffset,
    },
    /// Somebody has it open exclusively.
    Busy,
    ReadOnly,
    /// It could not be looked at, so it may hold anything.
    Unexamined {
        reason: String,
    },
    Partition {
        name: String,
        content: Option<String>,
    },
    /// A known signature: its kind in blkid's words, and the label.
    Signature {
        kind: String,
        label: Option<String>,
    },
    /// A file that is not empty and has no known signature.
    Bytes,
}

/// What may be done with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds nothing.
    Free,
    /// It holds something that may be erased if its owner says so.
    HasData,
    /// It belongs to a pool.
    Member,
    /// It is in use, or cannot be used or examined.
    OffLimits,
}

/// Why a disk could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("there is no disk or file `{0}`")]
    NotFound(String),
    #[error("{0} is neither a block device nor a regular file")]
    NotADisk(String),
    #[error(
        "{0} is a block device with nothing behind it (a drive without a medium, a loop device without a file)"
    )]
    NoMedium(String),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("`{0}` is not installed; it is needed to see what a disk holds")]
    ToolMissing(String),
    #[error("`{tool}` failed: {reason}")]
    ToolFailed { tool: String, reason: String },
}

impl Drive {
    pub fn standing(&self) -> Standing {
        self.holdings.iter().map(Holding::standing).max_by_key(|s| rank(*s)).unwrap_or(Standing::Free)
    }

    /// `name (sda, 80.0 GB)`, or what of it is known.
    pub fn label(&self) -> String {
        let size = crate::base::size::show_size(self.size);
        match &self.kernel {
            Some(kernel) if *kernel != self.name => format!("{} ({kernel}, {size})", self.name),
            Some(_) | None => format!("{} ({size})", self.name),
        }
    }

    /// What it holds, in a few words; empty for a free disk.
    pub fn holds(&self) -> String {
        let partitioned = self.holdings.iter().any(|h| matches!(h, Holding::Partition { .. }));
        let told = self.holdings.iter().filter(|h| !(partitioned && h.is_partition_table()));
        told.map(Holding::words).collect::<Vec<_>>().join(", ")
    }
}

/// The stricter standing wins.
fn rank(standing: Standing) -> u8 {
    match standing {
        Standing::Free => 0,
        Standing::HasData => 1,
        Standing::OffLimits => 2,
        Standing::Member => 3,
    }
}

impl Holding {
    fn standing(&self) -> Standing {
        match self {
            Holding::System { .. }
            | Holding::Mounted { .. }
            | Holding::Swap
            | Holding::Holder { .. }
            | Holding::Busy
            | Holding::ReadOnly
            | Holding::Unexamined { .. } => Standing::OffLimits,
            Holding::Member { .. } => Standing::Member,
            Holding::Partition { .. } | Holding::Signature { .. } | Holding::Bytes => Standing::HasData,
        }
    }

    fn is_partition_table(&self) -> bool {
        matches!(self, Holding::Signature { kind, .. } if is_table(kind))
    }

    /// What it is, to follow "holds".
    pub fn words(&self) -> String {
        match self {
            Holding::System { at } => format!("{at} (this system)"),
            Holding::Mounted { at } => format!("a file system mounted at {at}"),
            Holding::Swap => "swap space in use".to_owned(),
            Holding::Holder { device } => format!("{device}, which is in use"),
            Holding::Member { .. } => "a member of a drystone pool".to_owned(),
            Holding::Busy => "something that another program has open".to_owned(),
            Holding::ReadOnly => "something read-only".to_owned(),
            Holding::Unexamined { reason } => format!("unknown ({reason})"),
            Holding::Partition { name, content: Some(content) } => format!("partition {name} ({content})"),
            Holding::Partition { name, content: None } => format!("partition {name}"),
            Holding::Signature { kind, label } => signature_words(kind, label.as_deref()),
            Holding::Bytes => "data that is not zero".to_owned(),
        }
    }
}

fn is_table(kind: &str) -> bool {
    matches!(kind, "dos" | "gpt" | "PMBR" | "sun" | "sgi" | "bsd" | "mac" | "atari")
}

fn signature_words(kind: &str, label: Option<&str>) -> String {
    let what = match kind {
        table if is_table(table) => format!("a partition table ({table})"),
        "swap" | "swsuspend" => "swap space".to_owned(),
        "LVM1_member" | "LVM2_member" => "an LVM physical volume".to_owned(),
        "linux_raid_member" => "part of a Linux RAID (md)".to_owned(),
        "zfs_member" => "part of a ZFS pool".to_owned(),
        "crypto_LUKS" => "an encrypted volume (LUKS)".to_owned(),
        "bcache" | "ceph_bluestore" | "drbd" | "DM_integrity" => format!("a {kind} device"),
        raid if raid.ends_with("_member") => format!("part of a RAID ({raid})"),
        vowel if vowel.starts_with(['a', 'e', 'i', 'o', 'u', 'x']) => format!("an {vowel} file system"),
        kind => format!("a {kind} file system"),
    };
    match label {
        Some(label) if !label.is_empty() => format!("{what} \"{label}\""),
        Some(_) | None => what,
    }
}

#[cfg(test)]
mod tests;
