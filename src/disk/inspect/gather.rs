//! Looking at disks: everything that touches the system, one fact at a time. Reads only.

use super::names::{by_id, stable_name};
use super::tools::{Node, Signature, lsblk, wipefs};
use super::{Drive, Holding, InspectError, MEMBER_MAGIC, SUPERBLOCK};
use crate::base::units::{ByteLen, ByteOffset, round_down};
use crate::io::driver::FileKind;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How much of both ends of a file must be zero for it to count as empty, bytes.
const FILE_EDGE: u64 = 1 << 20;

/// Looks at one disk. The path is one that `resolve` gave.
pub fn inspect(path: &Path) -> Result<Drive, InspectError> {
    let meta = path.metadata().map_err(|source| InspectError::Io { path: path.to_owned(), source })?;
    if meta.file_type().is_block_device() {
        if has_no_medium(&meta) {
            return Err(InspectError::NoMedium(path.display().to_string()));
        }
        let nodes = lsblk(Some(path))?;
        let node = nodes.first().ok_or_else(|| InspectError::NotFound(path.display().to_string()))?;
        device(node, &by_id())
    } else if meta.is_file() {
        regular_file(path, ByteLen(meta.len()))
    } else {
        Err(InspectError::NotADisk(path.display().to_string()))
    }
}

/// Whether a block device says that it has no bytes at all; lsblk leaves such out.
fn has_no_medium(meta: &std::fs::Metadata) -> bool {
    let device = meta.rdev();
    let size = format!("/sys/dev/block/{}:{}/size", libc::major(device), libc::minor(device));
    std::fs::read_to_string(size).is_ok_and(|size| size.trim() == "0")
}

/// Looks at every drive of this machine. A drive that cannot be examined is listed with the reason.
pub fn list() -> Result<Vec<Drive>, InspectError> {
    let links = by_id();
    let nodes = lsblk(None)?;
    let drives = nodes.iter().filter(|n| n.size.unwrap_or(0) > 0 && n.kind != "rom");
    drives.map(|node| device(node, &links)).collect()
}

fn device(node: &Node, links: &[(String, String)]) -> Result<Drive, InspectError> {
    let mut holdings = holdings_of_node(node);
    holdings.extend(sysfs_holders(&node.name).into_iter().map(|device| Holding::Holder { device }));
    let size = ByteLen(node.size.unwrap_or(0));
    let reading = read_device(&node.path, size);
    match wipefs(&node.path) {
        Ok(signatures) => holdings.extend(signatures.into_iter().map(Holding::from)),
        Err(missing @ InspectError::ToolMissing(_)) => return Err(missing),
        // lsblk knows the signature from udev; without that, and unread, the disk may hold anything.
        Err(error) => holdings.extend(holding_known_to_udev(node).or_else(|| unexamined(&error, &reading))),
    }
    holdings.extend(reading.err());
    let name = stable_name(links, &node.name).unwrap_or_else(|| node.name.clone());
    Ok(Drive {
        name,
        kernel: Some(node.name.clone()),
        path: node.path.clone(),
        kind: FileKind::BlockDevice,
        size,
        rotational: node.rota,
        model: trimmed(node.model.as_ref()),
        serial: trimmed(node.serial.as_ref()),
        wwn: trimmed(node.wwn.as_ref()),
        part_of: node.pkname.clone().filter(|_| node.kind == "part"),
        holdings: in_order(holdings),
    })
}

fn trimmed(text: Option<&String>) -> Option<String> {
    text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
}

fn holding_known_to_udev(node: &Node) -> Option<Holding> {
    let kind = node.fstype.clone()?;
    Some(Holding::Signature { kind, label: node.label.clone() })
}

/// That the tool failed, unless the reading tells why already.
fn unexamined(error: &InspectError, reading: &Result<(), Holding>) -> Option<Holding> {
    reading.is_ok().then(|| Holding::Unexamined { reason: error.to_string() })
}

impl From<Signature> for Holding {
    fn from(signature: Signature) -> Holding {
        Holding::Signature { kind: signature.kind, label: signature.label }
    }
}

/// What lsblk knows: mounts, swap, partitions and devices that stand on this one, at any depth.
pub(super) fn holdings_of_node(node: &Node) -> Vec<Holding> {
    let mut found: Vec<_> = node.mountpoints.iter().flatten().map(|at| mount(at)).collect();
    found.extend(node.ro.then_some(Holding::ReadOnly));
    for child in &node.children {
        if child.kind == "part" {
            found.push(Holding::Partition { name: child.name.clone(), content: child.fstype.clone() });
        } else {
            found.push(Holding::Holder { device: child.name.clone() });
        }
        found.extend(holdings_of_node(child));
    }
    in_order(found)
}

fn mount(at: &str) -> Holding {
    match at {
        "[SWAP]" => Holding::Swap,
        "/" | "/usr" | "/var" | "/efi" => Holding::System { at: at.to_owned() },
        boot if boot == "/boot" || boot.starts_with("/boot/") => Holding::System { at: boot.to_owned() },
        at => Holding::Mounted { at: at.to_owned() },
    }
}

/// What rules out writing first, each thing once. A drive that is busy for a known reason needs no second one.
fn in_order(mut holdings: Vec<Holding>) -> Vec<Holding> {
    holdings.sort();
    holdings.dedup();
    let known = holdings.iter().any(|h| {
        matches!(h, Holding::System { .. } | Holding::Mounted { .. } | Holding::Swap)
            || matches!(h, Holding::Holder { .. } | Holding::Member { .. })
    });
    holdings.retain(|h| !(known && *h == Holding::Busy));
    holdings
}

fn sysfs_holders(kernel: &str) -> Vec<String> {
    // An exotic device without the folder has no holders that could be named; the exclusive open still tells.
    let Ok(entries) = std::fs::read_dir(Path::new("/sys/class/block").join(kernel).join("holders")) else {
        return Vec::new();
    };
    entries.filter_map(Result::ok).filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Reads the head of a device and tries to have it alone; an error is what was found.
fn read_device(path: &Path, size: ByteLen) -> Result<(), Holding> {
    let open = |flags: i32| OpenOptions::new().read(true).custom_flags(flags).open(path);
    let mut file = open(0).map_err(|e| unreadable(&e))?;
    member_mark(&mut file, size).map_err(|e| unreadable(&e))?.map_or(Ok(()), Err)?;
    match open(libc::O_EXCL) {
        Ok(_) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Err(Holding::Busy),
        Err(e) => Err(unreadable(&e)),
    }
}

fn unreadable(error: &std::io::Error) -> Holding {
    // EPERM comes also to root, from a device that is closed to everybody here; EACCES is a matter of rights.
    let reason = if error.raw_os_error() == Some(libc::EACCES) {
        "looking at it needs root".to_owned()
    } else {
        format!("reading it failed: {error}")
    };
    Holding::Unexamined { reason }
}

/// A superblock at the beginning, or in the last whole block.
fn member_mark(file: &mut File, size: ByteLen) -> std::io::Result<Option<Holding>> {
    let last = round_down(size.0, SUPERBLOCK).saturating_sub(SUPERBLOCK);
    for at in [0, last] {
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(at))?;
        Read::by_ref(file).take(SUPERBLOCK).read_to_end(&mut block)?;
        if block.starts_with(&MEMBER_MAGIC) {
            return Ok(Some(Holding::Member { block, at: ByteOffset(at) }));
        }
    }
    Ok(None)
}

fn regular_file(path: &Path, size: ByteLen) -> Result<Drive, InspectError> {
    let mut holdings: Vec<_> = loops_on(path).into_iter().map(|device| Holding::Holder { device }).collect();
    holdings.extend(is_swap_file(path).then_some(Holding::Swap));
    match file_content(path, size) {
        Ok(content) => holdings.extend(content),
        Err(e) => holdings.push(unreadable(&e)),
    }
    if holdings.is_empty() || holdings == [Holding::Bytes] {
        let signatures = wipefs(path)?;
        if !signatures.is_empty() {
            holdings = signatures.into_iter().map(Holding::from).collect();
        }
    }
    Ok(Drive {
        name: path.display().to_string(),
        kernel: None,
        path: path.to_owned(),
        kind: FileKind::RegularFile,
        size,
        rotational: false,
        model: None,
        serial: None,
        wwn: None,
        part_of: None,
        holdings: in_order(holdings),
    })
}

/// A member's mark, or bytes that are not zero near either end.
fn file_content(path: &Path, size: ByteLen) -> std::io::Result<Option<Holding>> {
    let mut file = File::open(path)?;
    if let Some(member) = member_mark(&mut file, size)? {
        return Ok(Some(member));
    }
    let last = size.0.saturating_sub(FILE_EDGE);
    for start in [0, last] {
        file.seek(SeekFrom::Start(start))?;
        let mut edge = Vec::new();
        Read::by_ref(&mut file).take(FILE_EDGE).read_to_end(&mut edge)?;
        if edge.iter().any(|b| *b != 0) {
            return Ok(Some(Holding::Bytes));
        }
    }
    Ok(None)
}

/// Loop devices that stand on this file.
fn loops_on(path: &Path) -> Vec<String> {
    let Ok(devices) = std::fs::read_dir("/sys/class/block") else { return Vec::new() };
    let stands_on = |device: &PathBuf| {
        std::fs::read_to_string(device.join("loop/backing_file"))
            .is_ok_and(|f| Path::new(f.trim_end_matches('\n')) == path)
    };
    let found = devices.filter_map(Result::ok).map(|d| d.path()).filter(stands_on);
    found.filter_map(|d| d.file_name().and_then(|n| n.to_str()).map(str::to_owned)).collect()
}

fn is_swap_file(path: &Path) -> bool {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).any(|f| Path::new(f) == path)
}
