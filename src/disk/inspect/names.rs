//! Names of disks: from what people type to a path, and from a path to the name that stays.

use super::InspectError;
use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

const BY_ID: &str = "/dev/disk/by-id";

/// The path of what was typed: a path, a kernel name (`sda`) or a by-id name. Absolute, without links.
pub fn resolve(text: &str) -> Result<PathBuf, InspectError> {
    let device = |folder: &str| Path::new(folder).join(text).canonicalize().ok().filter(|p| is_block(p));
    let plain = !text.contains('/') && !text.is_empty();
    if let Some(found) = plain.then(|| device(BY_ID).or_else(|| device("/dev"))).flatten() {
        return Ok(found);
    }
    match Path::new(text).canonicalize() {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(InspectError::NotFound(text.to_owned())),
        Err(source) => Err(InspectError::Io { path: text.into(), source }),
    }
}

fn is_block(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.file_type().is_block_device())
}

/// The by-id names of all devices, with the kernel's name of each.
pub fn by_id() -> Vec<(String, String)> {
    // No udev, no names: then the kernel's names are shown.
    let Ok(entries) = std::fs::read_dir(BY_ID) else { return Vec::new() };
    let named = entries.filter_map(Result::ok).filter_map(|entry| {
        let target = entry.path().canonicalize().ok()?;
        Some((text_of(entry.file_name())?, text_of(target.file_name()?.to_owned())?))
    });
    named.collect()
}

fn text_of(name: OsString) -> Option<String> {
    name.into_string().ok()
}

/// The best by-id name of a device: the one with maker and serial number in it; ties by alphabet.
pub fn stable_name(by_id: &[(String, String)], kernel: &str) -> Option<String> {
    let names = by_id.iter().filter(|(_, device)| device == kernel).map(|(name, _)| name);
    names.min_by_key(|name| (preference(name), name.as_str())).cloned()
}

fn preference(name: &str) -> usize {
    const WORST_LAST: [&str; 8] =
        ["nvme-eui.", "nvme-nvme.", "nvme-uuid.", "scsi-0", "scsi-3", "wwn-", "dm-uuid-", "lvm-pv-"];
    const BEST_FIRST: [&str; 8] =
        ["ata-", "nvme-", "scsi-", "usb-", "mmc-", "virtio-", "dm-name-", "md-name-"];
    if let Some(at) = WORST_LAST.iter().position(|p| name.starts_with(p)) {
        return BEST_FIRST.len() + 1 + at;
    }
    BEST_FIRST.iter().position(|p| name.starts_with(p)).unwrap_or(BEST_FIRST.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_with_maker_and_serial_number_is_preferred() {
        let links = [
            ("wwn-0x5000c5007a", "sda"),
            ("ata-ST380815AS_6QZ0X1AB", "sda"),
            ("nvme-eui.0026b7", "nvme0n1"),
            ("nvme-KINGSTON_SA2000_50026B", "nvme0n1"),
            ("wwn-0x5000c5007b", "sdb"),
        ];
        let links: Vec<_> = links.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(stable_name(&links, "sda").as_deref(), Some("ata-ST380815AS_6QZ0X1AB"));
        assert_eq!(stable_name(&links, "nvme0n1").as_deref(), Some("nvme-KINGSTON_SA2000_50026B"));
        assert_eq!(stable_name(&links, "sdb").as_deref(), Some("wwn-0x5000c5007b"));
        assert_eq!(stable_name(&links, "sdc"), None);
    }

    #[test]
    fn what_does_not_exist_is_not_found() {
        for name in ["", "no-such-disk", "/dev/no-such-disk", "./no-such-file"] {
            assert!(matches!(resolve(name), Err(InspectError::NotFound(_))), "{name:?}");
        }
    }

    #[test]
    fn a_link_to_a_file_gives_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().canonicalize().unwrap().join("disk");
        std::fs::write(&file, "").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(resolve(link.to_str().unwrap()).unwrap(), file);
    }
}
