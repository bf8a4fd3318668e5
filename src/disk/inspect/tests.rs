//! Rules on real files, and on what lsblk printed on real machines.

use super::gather::holdings_of_node;
use super::tools::{find_tool, parse_lsblk, parse_wipefs};
use super::*;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

const SIZE: u64 = 16 << 20;

fn file_with(folder: &Path, name: &str, at: u64, bytes: &[u8]) -> PathBuf {
    let path = folder.canonicalize().unwrap().join(name);
    let mut file = std::fs::File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
    path
}

/// The boot sector of a disk with one Linux partition.
fn partition_table() -> Vec<u8> {
    let mut sector = vec![0; 512];
    sector[446..454].copy_from_slice(&[0x80, 0, 2, 0, 0x83, 0, 0, 0]);
    sector[454..458].copy_from_slice(&2048u32.to_le_bytes());
    sector[458..462].copy_from_slice(&2048u32.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[test]
fn a_file_of_zeros_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let drive = inspect(&file_with(folder.path(), "a", 0, &[0; 4096])).unwrap();
    assert_eq!((drive.standing(), drive.size, drive.holds()), (Standing::Free, ByteLen(SIZE), String::new()));
    assert_eq!(drive.kind, FileKind::RegularFile);
}

#[test]
fn bytes_at_either_end_of_a_file_are_data() {
    let folder = tempfile::tempdir().unwrap();
    for at in [0, 5000, (1 << 20) - 1, SIZE - (1 << 20), SIZE - 1] {
        let drive = inspect(&file_with(folder.path(), "a", at, b"x")).unwrap();
        assert_eq!((drive.standing(), drive.holdings), (Standing::HasData, vec![Holding::Bytes]), "at {at}");
    }
}

#[test]
fn a_file_system_is_named_with_its_label() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_with(folder.path(), "a", 0, b"");
    let made =
        Command::new("/usr/sbin/mkfs.ext4").args(["-q", "-L", "old-root"]).arg(&path).status().unwrap();
    assert!(made.success());
    let drive = inspect(&path).unwrap();
    assert_eq!(drive.standing(), Standing::HasData);
    assert_eq!(drive.holds(), "an ext4 file system \"old-root\"");
}

#[test]
fn a_partition_table_is_data() {
    let folder = tempfile::tempdir().unwrap();
    let drive = inspect(&file_with(folder.path(), "a", 0, &partition_table())).unwrap();
    assert_eq!((drive.standing(), drive.holds().as_str()), (Standing::HasData, "a partition table (dos)"));
}

#[test]
fn a_superblock_of_ours_at_either_end_makes_it_a_member() {
    let folder = tempfile::tempdir().unwrap();
    for at in [0, SIZE - SUPERBLOCK] {
        let drive = inspect(&file_with(folder.path(), "a", at, b"DRYSTONE and more")).unwrap();
        assert_eq!(drive.standing(), Standing::Member);
        let Holding::Member { block, at: found } = &drive.holdings[0] else { panic!("{:?}", drive.holdings) };
        assert_eq!((block.len(), found.0, &block[..17]), (4096, at, &b"DRYSTONE and more"[..]));
    }
}

#[test]
fn what_is_no_disk_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(inspect(folder.path()), Err(InspectError::NotADisk(_))));
    assert!(matches!(inspect(Path::new("/dev/null")), Err(InspectError::NotADisk(_))));
}

const LAPTOP: &[u8] = br#"{"blockdevices": [
  {"name":"nvme0n1","path":"/dev/nvme0n1","size":250059350016,"rota":false,"type":"disk","model":"KINGSTON",
   "serial":"50026B","wwn":null,"fstype":null,"label":null,"mountpoints":[null],"ro":false,"pkname":null,
   "children":[
    {"name":"nvme0n1p1","path":"/dev/nvme0n1p1","size":512,"rota":false,"type":"part","fstype":"vfat",
     "mountpoints":["/boot/efi"],"ro":false,"pkname":"nvme0n1"},
    {"name":"nvme0n1p2","path":"/dev/nvme0n1p2","size":512,"rota":false,"type":"part","fstype":"LVM2_member",
     "mountpoints":[null],"ro":false,"pkname":"nvme0n1","children":[
      {"name":"vg-root","path":"/dev/mapper/vg-root","size":512,"rota":false,"type":"lvm","fstype":"ext4",
       "mountpoints":["/"],"ro":false,"pkname":"nvme0n1p2"}]}]},
  {"name":"sdb","path":"/dev/sdb","size":500107862016,"rota":true,"type":"disk","fstype":null,
   "mountpoints":["/srv","/mnt"],"ro":false,"pkname":null},
  {"name":"sdc","path":"/dev/sdc","size":500107862016,"rota":true,"type":"disk","fstype":"swap",
   "mountpoints":["[SWAP]"],"ro":false,"pkname":null}]}"#;

#[test]
fn the_disk_that_the_machine_runs_from_is_found_through_lvm() {
    let nodes = parse_lsblk(LAPTOP).unwrap();
    let holdings = holdings_of_node(&nodes[0]);
    assert_eq!(holdings[0], Holding::System { at: "/".into() });
    assert_eq!(holdings[1], Holding::System { at: "/boot/efi".into() });
    assert!(holdings.contains(&Holding::Holder { device: "vg-root".into() }));
    assert!(
        holdings.contains(&Holding::Partition { name: "nvme0n1p1".into(), content: Some("vfat".into()) })
    );
}

#[test]
fn mounts_and_swap_are_off_limits() {
    let nodes = parse_lsblk(LAPTOP).unwrap();
    let mounted = holdings_of_node(&nodes[1]);
    assert_eq!(mounted, [Holding::Mounted { at: "/mnt".into() }, Holding::Mounted { at: "/srv".into() }]);
    assert!(mounted.iter().all(|h| h.standing() == Standing::OffLimits));
    assert_eq!(holdings_of_node(&nodes[2]), [Holding::Swap]);
}

#[test]
fn wipefs_is_understood_in_all_its_forms() {
    assert_eq!(parse_wipefs(b"").unwrap(), []);
    assert_eq!(parse_wipefs(br#"{"signatures": []}"#).unwrap(), []);
    let found =
        parse_wipefs(br#"{"signatures":[{"device":"sda","offset":"0x0","type":"gpt","label":null}]}"#);
    assert_eq!(found.unwrap()[0].kind, "gpt");
    assert!(matches!(parse_wipefs(b"usage: ..."), Err(InspectError::ToolFailed { .. })));
}

#[test]
fn a_missing_tool_is_an_error_and_no_silent_pass() {
    let folder = tempfile::tempdir().unwrap();
    let missing = find_tool("wipefs", [folder.path().to_owned()]);
    assert!(matches!(missing, Err(InspectError::ToolMissing(tool)) if tool == "wipefs"));
}

#[test]
fn what_cannot_be_examined_is_off_limits() {
    let reason = "looking at it needs root".to_owned();
    assert_eq!(Holding::Unexamined { reason }.standing(), Standing::OffLimits);
}

#[test]
fn signatures_have_words() {
    let words = |kind: &str, label: Option<&str>| signature_words(kind, label);
    assert_eq!(words("vfat", Some("EFI")), "a vfat file system \"EFI\"");
    assert_eq!(words("linux_raid_member", None), "part of a Linux RAID (md)");
    assert_eq!(words("zfs_member", Some("tank")), "part of a ZFS pool \"tank\"");
    assert_eq!(words("xfs", Some("")), "an xfs file system");
}
