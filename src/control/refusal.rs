//! Whether disks may be written, and the words when they may not.
//!
//! The one gate before the first byte of a disk is written: the command line passes it to ask and explain early,
//! and whoever executes the request passes it again. Decisions only; `disk::inspect` gathered the facts.

use super::api::{DiskAdd, Failure, PoolCreate};
use crate::base::limits::MEMBERS_MAX;
use crate::base::size::show_size;
use crate::base::units::ByteLen;
use crate::disk::inspect::{Drive, Holding, InspectError, Standing};
use crate::pool::layout::member_size_min;
use crate::pool::superblock::Superblock;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Whether a pool may be made of these disks: every disk of the request is among `drives`.
///
/// # Errors
/// A refusal that names the disk, what it holds, and the next command.
pub fn admit(request: &PoolCreate, drives: &[Drive]) -> Result<(), Failure> {
    enough_disks(request, drives)?;
    different_disks(drives, &[])?;
    only_named(&request.erase, &request.disks)?;
    let again = command_line(request);
    drives.iter().try_for_each(|drive| writable(drive, &request.erase, &again, |_| false))
}

/// A pool that disks are added to.
pub struct Joined {
    pub pool: Uuid,
    /// The uuids of its members.
    pub members: Vec<Uuid>,
    /// Those of them that are here.
    pub drives: Vec<Drive>,
}

/// Whether these disks may be added to a pool: every disk of the request is among `drives`. Without the pool what only it
/// can tell is left to whoever knows it.
///
/// # Errors
/// As for a new pool.
pub fn admit_added(request: &DiskAdd, drives: &[Drive], joined: Option<&Joined>) -> Result<(), Failure> {
    let members = joined.map_or(0, |joined| joined.members.len());
    if members + drives.len() > MEMBERS_MAX {
        return Err(too_many());
    }
    different_disks(drives, joined.map_or(&[], |joined| &joined.drives))?;
    only_named(&request.erase, &request.disks)?;
    // One that was about to be added when it was cut off names the pool, and is none of its members: nothing is on it.
    let unjoined = |superblock: &Superblock| {
        joined.is_none_or(|j| j.pool == superblock.pool && !j.members.contains(&superblock.member))
    };
    let again = command_line_add(request);
    drives.iter().try_for_each(|drive| writable(drive, &request.erase, &again, unjoined))
}

/// Whether a disk may be written; `again` is the command that was given, `empty` says of which members nothing is lost.
fn writable(
    drive: &Drive,
    erase: &[PathBuf],
    again: &str,
    empty: impl Fn(&Superblock) -> bool,
) -> Result<(), Failure> {
    match drive.standing() {
        Standing::Free => {}
        Standing::HasData if erase.contains(&drive.path) => {}
        Standing::HasData => return Err(has_data(again, drive)),
        Standing::Member if superblock_of(drive).is_some_and(|s| empty(&s)) => {}
        Standing::Member => return Err(is_member(drive)),
        Standing::OffLimits => return Err(off_limits(drive)),
    }
    if drive.size < member_size_min() { Err(too_small(drive)) } else { Ok(()) }
}

fn too_many() -> Failure {
    Failure::refused("TOO_MANY_DISKS", format!("a pool has {MEMBERS_MAX} drives at most"))
}

fn enough_disks(request: &PoolCreate, drives: &[Drive]) -> Result<(), Failure> {
    if drives.len() < usize::from(request.copies) {
        let message = format!("{} copies need {} drives", request.copies, request.copies);
        let next = "one copy, which no drive's death survives: --protect none";
        return Err(Failure::refused("TOO_FEW_DISKS", message).with(next));
    }
    if drives.len() > MEMBERS_MAX { Err(too_many()) } else { Ok(()) }
}

/// No disk twice, no two partitions of one drive, none of a drive that is in the pool already.
fn different_disks(drives: &[Drive], members: &[Drive]) -> Result<(), Failure> {
    for (at, drive) in drives.iter().enumerate() {
        let others = drives[..at].iter().chain(members);
        if let Some(other) = others.into_iter().find(|other| same_hardware(other, drive)) {
            let message = format!("{} and {} are the same drive", other.label(), drive.label());
            let why = "two copies on one drive would die together";
            return Err(Failure::refused("SAME_DISK", message).with(why));
        }
    }
    Ok(())
}

/// Nothing is to be erased that is not used.
fn only_named(erase: &[PathBuf], disks: &[PathBuf]) -> Result<(), Failure> {
    match erase.iter().find(|path| !disks.contains(path)) {
        None => Ok(()),
        Some(path) => {
            let message = format!("--erase names {}, which is not among the disks", path.display());
            Err(Failure::refused("ERASE_UNNAMED", message))
        }
    }
}

fn same_hardware(a: &Drive, b: &Drive) -> bool {
    let whole = |drive: &Drive| drive.part_of.clone().or_else(|| drive.kernel.clone());
    a.path == b.path || (a.kernel.is_some() && whole(a) == whole(b))
}

fn has_data(again: &str, drive: &Drive) -> Failure {
    let message = format!("{} holds {}", drive.label(), drive.holds());
    let erased = |d: &Drive| format!(" --erase {}", word(&d.name));
    Failure::refused("DISK_HAS_DATA", message)
        .with(format!("to look at it:   {}", look(&drive.path)))
        .with(format!("to erase it:     {again}{}", erased(drive)))
}

fn look(path: &Path) -> String {
    format!("sudo blkid -p {}", word(&path.display().to_string()))
}

/// The name of the pool that a disk is a member of; None if it is none, or its superblock is damaged.
pub fn pool_of(drive: &Drive) -> Option<String> {
    superblock_of(drive).map(|superblock| superblock.pool_name)
}

fn superblock_of(drive: &Drive) -> Option<Superblock> {
    let mut parsed = drive.holdings.iter().filter_map(|holding| match holding {
        Holding::Member { block, at } => Superblock::parse(block, *at).ok(),
        Holding::System { .. }
        | Holding::Mounted { .. }
        | Holding::Swap
        | Holding::Holder { .. }
        | Holding::Busy
        | Holding::ReadOnly
        | Holding::Unexamined { .. }
        | Holding::Partition { .. }
        | Holding::Signature { .. }
        | Holding::Bytes => None,
    });
    parsed.next()
}

fn is_member(drive: &Drive) -> Failure {
    let damaged = || "a drystone pool (its superblock is damaged)".to_owned();
    let pool = pool_of(drive).map_or_else(damaged, |name| format!("pool {name}"));
    let message = format!("{} is a member of {pool}; no flag erases it", drive.label());
    Failure::refused("DISK_IS_MEMBER", message)
        .with("to use the pool:      drystone pool import DISK...")
        .with("to give the pool up:  drystone pool destroy NAME")
}

fn off_limits(drive: &Drive) -> Failure {
    let message = format!("{} cannot be used: it holds {}", drive.label(), drive.holds());
    Failure::refused("DISK_IN_USE", message)
        .with("no flag changes this; `drystone disk list` shows the free drives")
}

fn too_small(drive: &Drive) -> Failure {
    let message = format!(
        "{} is too small: a pool's drive has {} at least",
        drive.label(),
        show_size(member_size_min())
    );
    Failure::refused("DISK_TOO_SMALL", message)
}

/// The failure when a disk could not be looked at: then nothing is done with it.
pub fn not_inspected(error: &InspectError) -> Failure {
    let failed = |code| Failure::failed(code, error.to_string()).with("Nothing was written.");
    match error {
        InspectError::NotFound(_) => {
            failed("DISK_NOT_FOUND").with("`drystone disk list` shows the drives there are")
        }
        InspectError::NotADisk(_) => failed("NOT_A_DISK"),
        InspectError::NoMedium(_) => failed("NO_MEDIUM").with("attach it, or name another drive"),
        InspectError::Io { .. } => failed("DISK_UNREADABLE"),
        InspectError::ToolMissing(_) => {
            let next = "install it: apt install util-linux   (it has lsblk and wipefs)";
            Failure::refused("TOOL_MISSING", error.to_string()).with(next)
        }
        InspectError::ToolFailed { .. } => Failure::refused("TOOL_FAILED", error.to_string()),
    }
}

/// The command that makes this request, for people to repeat with one more flag.
pub fn command_line(request: &PoolCreate) -> String {
    let mut words = vec!["drystone pool create".to_owned(), word(&request.name)];
    words.extend(request.disks.iter().map(|d| word(&d.display().to_string())));
    words.push(match request.copies {
        1 => "--protect none".to_owned(),
        2 => "--protect drive".to_owned(),
        more => format!("--copies {more}"),
    });
    words.extend(request.extent_bytes.map(|bytes| format!("--extent {}", exact(ByteLen(bytes)))));
    words.extend(request.erase.iter().map(|d| format!("--erase {}", word(&d.display().to_string()))));
    words.join(" ")
}

/// The same for a request that adds disks.
pub fn command_line_add(request: &DiskAdd) -> String {
    let mut words = vec![match &request.replaces {
        Some(old) => format!("drystone disk replace {}", word(old)),
        None => "drystone disk add".to_owned(),
    }];
    words.extend(request.disks.iter().map(|d| word(&d.display().to_string())));
    words.extend(request.pool.iter().map(|pool| format!("--pool {}", word(pool))));
    words.extend(request.erase.iter().map(|d| format!("--erase {}", word(&d.display().to_string()))));
    words.join(" ")
}

fn exact(len: ByteLen) -> String {
    if len.is_aligned(1 << 20) { format!("{}MiB", len.0 >> 20) } else { format!("{}B", len.0) }
}

/// A word as a shell reads it back.
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::ByteOffset;
    use crate::io::driver::FileKind;
    use std::path::PathBuf;

    fn drive(kernel: &str, holdings: Vec<Holding>) -> Drive {
        Drive {
            name: format!("ata-{kernel}"),
            kernel: Some(kernel.to_owned()),
            path: PathBuf::from(format!("/dev/{kernel}")),
            kind: FileKind::BlockDevice,
            size: ByteLen(80_000_000_000),
            rotational: true,
            model: None,
            serial: None,
            wwn: None,
            part_of: None,
            holdings,
        }
    }

    fn request(drives: &[Drive], erase: &[&str]) -> PoolCreate {
        PoolCreate {
            name: "tank".into(),
            disks: drives.iter().map(|d| d.path.clone()).collect(),
            copies: 2,
            extent_bytes: None,
            erase: erase.iter().map(PathBuf::from).collect(),
        }
    }

    fn ext4() -> Holding {
        Holding::Signature { kind: "ext4".into(), label: Some("old-root".into()) }
    }

    fn code(drives: &[Drive], erase: &[&str]) -> Result<(), String> {
        admit(&request(drives, erase), drives).map_err(|f| {
            assert!(f.refused && f.details.iter().any(|d| d == "Nothing was written."), "{f:?}");
            f.code
        })
    }

    #[test]
    fn data_needs_permission_by_name() {
        let drives = [drive("sda", vec![ext4()]), drive("sdb", vec![])];
        let failure = admit(&request(&drives, &[]), &drives).unwrap_err();
        assert_eq!(failure.message, "ata-sda (sda, 80.0 GB) holds an ext4 file system \"old-root\"");
        let again =
            "to erase it:     drystone pool create tank /dev/sda /dev/sdb --protect drive --erase ata-sda";
        assert_eq!(failure.details[2], again);
        assert_eq!(code(&drives, &["/dev/sda"]), Ok(()));
        assert_eq!(code(&drives, &["/dev/sdc"]), Err("ERASE_UNNAMED".into()));
        let both = [drive("sda", vec![ext4()]), drive("sdb", vec![ext4()])];
        assert_eq!(code(&both, &["/dev/sda"]), Err("DISK_HAS_DATA".into()));
    }

    #[test]
    fn what_is_in_use_cannot_be_erased_at_all() {
        let locked = [
            Holding::System { at: "/".into() },
            Holding::Mounted { at: "/srv".into() },
            Holding::Swap,
            Holding::Holder { device: "md0".into() },
            Holding::Busy,
            Holding::ReadOnly,
            Holding::Unexamined { reason: "no".into() },
        ];
        for holding in locked {
            let drives = [drive("sda", vec![holding.clone(), ext4()]), drive("sdb", vec![])];
            assert_eq!(code(&drives, &["/dev/sda"]), Err("DISK_IN_USE".into()), "{holding:?}");
        }
        let drives =
            [drive("sda", vec![Holding::Member { block: vec![], at: ByteOffset(0) }]), drive("sdb", vec![])];
        assert_eq!(code(&drives, &["/dev/sda"]), Err("DISK_IS_MEMBER".into()));
    }

    #[test]
    fn a_member_is_refused_with_the_name_of_its_pool() {
        let superblock = Superblock {
            version: crate::pool::superblock::VERSION,
            pool: uuid::Uuid::from_u128(1),
            pool_name: "barn".into(),
            member: uuid::Uuid::from_u128(2),
            id: crate::base::units::MemberId(0),
            size: ByteLen(80_000_000_000),
            extent: ByteLen(64 << 20),
            created_wall_ns: 0,
        };
        let block = superblock.emit(ByteOffset(0));
        let drives = [drive("sda", vec![Holding::Member { block, at: ByteOffset(0) }]), drive("sdb", vec![])];
        assert_eq!(pool_of(&drives[0]).as_deref(), Some("barn"));
        let failure = admit(&request(&drives, &[]), &drives).unwrap_err();
        assert_eq!(failure.message, "ata-sda (sda, 80.0 GB) is a member of pool barn; no flag erases it");
    }

    #[test]
    fn disks_are_added_under_the_same_rules_and_leftovers_of_an_addition_are_free() {
        let superblock = |member: u128, pool: u128| {
            let block = Superblock {
                version: crate::pool::superblock::VERSION,
                pool: Uuid::from_u128(pool),
                pool_name: "tank".into(),
                member: Uuid::from_u128(member),
                id: crate::base::units::MemberId(3),
                size: ByteLen(80_000_000_000),
                extent: ByteLen(64 << 20),
                created_wall_ns: 0,
            };
            vec![Holding::Member { block: block.emit(ByteOffset(0)), at: ByteOffset(0) }]
        };
        let part = Drive { part_of: Some("sdz".into()), ..drive("sdz1", superblock(1, 9)) };
        let joined =
            Joined { pool: Uuid::from_u128(9), members: vec![Uuid::from_u128(1)], drives: vec![part] };
        let code = |drives: &[Drive], erase: &[&str]| {
            let disks = drives.iter().map(|d| d.path.clone()).collect();
            let erase = erase.iter().map(PathBuf::from).collect();
            let request = DiskAdd { disks, pool: Some("tank".into()), erase, replaces: None };
            admit_added(&request, drives, Some(&joined)).map_err(|f| (f.code, f.details.join("\n")))
        };
        assert_eq!(code(&[drive("sda", vec![])], &[]), Ok(()));
        let (refused, words) = code(&[drive("sda", vec![ext4()])], &[]).unwrap_err();
        assert_eq!(refused, "DISK_HAS_DATA");
        assert!(words.contains("drystone disk add /dev/sda --pool tank --erase ata-sda"), "{words}");
        assert_eq!(code(&[drive("sda", vec![ext4()])], &["/dev/sda"]), Ok(()));
        // A member, one of another pool, and one that was about to join.
        let named = |member, pool| code(&[drive("sda", superblock(member, pool))], &["/dev/sda"]);
        assert_eq!(named(1, 9).unwrap_err().0, "DISK_IS_MEMBER");
        assert_eq!(named(2, 8).unwrap_err().0, "DISK_IS_MEMBER");
        assert_eq!(named(2, 9), Ok(()));
        let other = Drive { part_of: Some("sdz".into()), ..drive("sdz2", vec![]) };
        assert_eq!(code(&[other], &[]).unwrap_err().0, "SAME_DISK");
        let many: Vec<_> = (0..MEMBERS_MAX).map(|n| drive(&format!("sd{n}"), vec![])).collect();
        assert_eq!(code(&many, &[]).unwrap_err().0, "TOO_MANY_DISKS");
    }

    #[test]
    fn one_drive_is_not_two() {
        assert_eq!(code(&[drive("sda", vec![]), drive("sda", vec![])], &[]), Err("SAME_DISK".into()));
        let part = |n: &str| Drive { part_of: Some("sda".into()), ..drive(n, vec![]) };
        assert_eq!(code(&[part("sda1"), part("sda2")], &[]), Err("SAME_DISK".into()));
        assert_eq!(code(&[drive("sda", vec![]), part("sda2")], &[]), Err("SAME_DISK".into()));
    }

    #[test]
    fn small_disks_and_too_many_are_refused() {
        assert_eq!(code(&[drive("sda", vec![])], &[]), Err("TOO_FEW_DISKS".into()));
        let small = Drive { size: ByteLen(1 << 20), ..drive("sda", vec![]) };
        assert_eq!(code(&[small, drive("sdb", vec![])], &[]), Err("DISK_TOO_SMALL".into()));
        assert_eq!(crate::disk::inspect::MEMBER_MAGIC, crate::pool::superblock::MAGIC);
        let many: Vec<_> = (0..=MEMBERS_MAX).map(|n| drive(&format!("sd{n}"), vec![])).collect();
        assert_eq!(code(&many, &[]), Err("TOO_MANY_DISKS".into()));
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(word("/dev/disk/by-id/ata-X_1"), "/dev/disk/by-id/ata-X_1");
        assert_eq!(word("my disk's"), r"'my disk'\''s'");
        assert_eq!(word(""), "''");
    }
}
