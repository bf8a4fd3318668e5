//! Every code that this program prints, with what it means. A code never changes its meaning.
//!
//! The test below reads the source and fails when a failure is made with a code that is not here.

use serde::Serialize;

/// A code and its long text.
#[derive(Serialize, Debug)]
pub struct Code {
    pub name: &'static str,
    pub meaning: &'static str,
    pub remedy: &'static str,
}

const fn code(name: &'static str, meaning: &'static str, remedy: &'static str) -> Code {
    Code { name, meaning, remedy }
}

/// All codes, by name.
pub const CODES: &[Code] = &[
    code(
        "AGAINST_ITSELF",
        "--against-write would overwrite the volume that is measured: --against names it.",
        "Name another server, or leave --against-write away: then it is only read.",
    ),
    code(
        "ANSWER_TOO_LONG",
        "The daemon's answer does not fit in one line of the control protocol (1 MiB).",
        "Ask for one pool or volume by name.",
    ),
    code(
        "ANSWER_UNEXPECTED",
        "The daemon answered something that does not belong to the question.",
        "Daemon and command are of different versions: restart the daemon after an update.",
    ),
    code(
        "BAD_ADDRESS",
        "The address of a volume cannot be used or leads nowhere.",
        "Write it as nbd://HOST/VOLUME, nbd+unix:///VOLUME?socket=PATH or nvme://HOST/NQN/NUMBER.",
    ),
    code("BENCH_STOPPED", "The measurement was stopped before its end.", "Its scratch volume was removed."),
    code(
        "BLOCKS_LOST",
        "Blocks were met that no copy gives any more: every copy is wrong or unreadable. Reading them fails, everything else is as it was.",
        "`drystone status` names the volume and the place. Restore it from a backup: a block reads again once it is written.",
    ),
    code(
        "CLOSING",
        "The pool or the daemon is being closed and takes no more changes.",
        "Start the daemon again, or open the pool with `drystone pool import`.",
    ),
    code(
        "CONTROL_GARBAGE",
        "A request on the control socket was not one JSON object a line of this protocol.",
        "Use this program's own commands, or fix the script that writes to the socket.",
    ),
    code(
        "COPIES_CONTRADICT",
        "--protect and --copies ask for different things: `none` is one copy, `drive` two or more.",
        "Give one of the two flags.",
    ),
    code(
        "DAEMON_DEAF",
        "A drystone process holds the state folder, but nobody listens on the control socket. Working beside it \
         would damage pools, so nothing was done.",
        "If the daemon uses another socket, give it with --control. If it hangs, end it by the number shown.",
    ),
    code(
        "DAEMON_GONE",
        "The daemon ended, or its connection broke, while a command was looking on.",
        "Start it again: drystone serve. What happened before it ended is still in `drystone events`.",
    ),
    code(
        "DAEMON_LOST",
        "The daemon ended the connection while it executed a change. Whether the change was made is not known.",
        "Look with `drystone status`; the change was made as a whole or not at all.",
    ),
    code(
        "DAEMON_UNREACHABLE",
        "The control socket is there, but the daemon gave no answer in time, or this user may not connect.",
        "Use sudo, or join the group of the socket; if the daemon hangs, restart it.",
    ),
    code(
        "DATA_BEYOND",
        "Something is stored beyond the end that the volume is to have. Nothing was changed.",
        "Make the file system smaller first (resize2fs; xfs cannot) and discard what it freed; or give up what lies beyond: --yes.",
    ),
    code(
        "DATA_UNAVAILABLE",
        "No drive that is here holds a readable copy of some of the pool's data. Reading it fails until a drive that has it is back.",
        "Bring back the drives that are missing: `drystone status` names them. Nothing needs to be restored if they come back whole.",
    ),
    code(
        "DEMO_FAILED",
        "A step of the demonstration did not end as it should.",
        "This is a fault of the program, or of the machine's temporary folder: look at the message, and report it.",
    ),
    code(
        "DISK_HAS_DATA",
        "The disk is not empty: a file system, a partition table or other data was found on it.",
        "If the content may be lost, name the disk with --erase. Look at it first: `drystone disk show DISK`.",
    ),
    code(
        "DISK_IN_USE",
        "The disk is in use or cannot be examined: mounted, swap, the system's own, part of another device, \
         read-only, open elsewhere, or unreadable for this user. No flag overrides that.",
        "Unmount it or end what uses it, run as root, or choose another disk.",
    ),
    code(
        "DISK_IS_MEMBER",
        "The disk carries a drystone superblock: it belongs to a pool, here or on another machine.",
        "`drystone pool import` opens that pool; `drystone pool destroy` frees all its disks.",
    ),
    code(
        "DISK_MISSING",
        "A drive is to be taken out that is not there, so that nothing can be moved from it.",
        "Connect it again, or give it up: drystone disk remove DRIVE --dead. Then its copies are made anew on the others.",
    ),
    code(
        "DISK_NOT_FOUND",
        "There is no block device or file of that name.",
        "`drystone disk list` shows what there is.",
    ),
    code(
        "DISK_TOO_SMALL",
        "The disk is too small to hold a pool's own records and a useful number of extents.",
        "Take a larger one.",
    ),
    code(
        "DISK_UNREADABLE",
        "Reading the disk failed.",
        "Check its cable, and `dmesg` for what the kernel says.",
    ),
    code(
        "DRIVE_ERRORS",
        "A drive answered reads or writes with errors. Reads were served from another copy where there is one; a drive that fails a write is taken out of use.",
        "Check its cable and `dmesg`. A drive that does it again should be replaced.",
    ),
    code(
        "DRIVE_FAILED",
        "A drive failed a write, a flush or did not answer in time, and is not used until it has been brought up to date again.",
        "Check its cable and power: drystone disk locate DRIVE. It is tried again by itself.",
    ),
    code(
        "DRIVE_GIVEN_UP",
        "A drive was away for longer than --rebuild-after, or was given up by order: its copies are made anew on other drives.",
        "Nothing now: `drystone status` shows how far that is. Then replace the drive.",
    ),
    code(
        "DRIVE_MISSING",
        "A drive of the pool is not there. What it held is read from other copies where there are any.",
        "Connect it again, it is brought up to date by itself: drystone disk locate DRIVE.",
    ),
    code(
        "DRIVE_SLOW",
        "A drive answers much more slowly than it used to, or is silent at the moment. Other copies are read instead.",
        "Once is harmless. If it happens often, check the drive's cable and its health, and replace it.",
    ),
    code(
        "DRIVE_STALE",
        "A drive is there, but writes went on without it. Its copies are not read until what it missed has been copied to it.",
        "A running daemon does that by itself: `drystone status` shows how far it is.",
    ),
    code(
        "ERASE_UNNAMED",
        "--erase names a disk that is not among the disks of the pool. It permits, it does not add.",
        "Name the disk in both places, or correct the name.",
    ),
    code(
        "FILES_UNREGISTERED",
        "The kernel did not take files into io_uring's table. Everything works, a little slower.",
        "Raise the limit on open files (LimitNOFILE= in the unit, `ulimit -n`).",
    ),
    code(
        "FILE_EXISTS",
        "What is to be written into a new file exists already, and is not overwritten.",
        "Give another name, or remove the file if nothing in it is needed.",
    ),
    code(
        "FILE_UNWRITABLE",
        "The file cannot be made or written: the message has the system's words. What was written so far stays.",
        "Choose a place with enough space on a file system that takes a file of the volume's size.",
    ),
    code(
        "INTERRUPTED",
        "The command was interrupted; what it had started goes on in the daemon.",
        "`drystone status` shows how far it is.",
    ),
    code(
        "INVALID",
        "What was asked for does not fit: a name, a size, a number of copies. The message says what.",
        "Ask again with a value that fits.",
    ),
    code("KERNEL_TOO_OLD", "This Linux lacks something that the program needs.", "Use Linux 6.1 or newer."),
    code(
        "LEAVING",
        "The drive is being taken out already.",
        "`drystone status` shows how far it is; `drystone disk remove DRIVE --cancel` keeps it.",
    ),
    code(
        "LOG_DAMAGED",
        "The newest changes of the pool's metadata are hidden by damage in every copy that is here. Going on without them could give freed space to somebody else or forget where flushed bytes are.",
        "Bring the pool's other drives. If there are none: drystone pool import --force DISK…",
    ),
    code(
        "LOG_FULL",
        "The pool's metadata does not fit in the log of its smallest drive.",
        "Use larger extents for pools of this size, or replace the smallest drive.",
    ),
    code(
        "MAJORITY_LOST",
        "So many drives failed that fewer than half of the votes are left: changes can no longer be made safe.",
        "Stop the daemon, bring the drives back, start it again.",
    ),
    code(
        "MEMLOCK_LOW",
        "The limit on locked memory is below the buffers' size. Everything works, a little slower.",
        "The packaged unit sets LimitMEMLOCK=infinity; by hand: `ulimit -l unlimited` as root.",
    ),
    code(
        "NOTHING_TO_COMPARE",
        "--against compares a volume with other servers, and no volume is measured.",
        "Name a volume, or an address such as nbd://stonebox/data.",
    ),
    code(
        "NOT_A_DISK",
        "The name is of something else than a block device or a regular file.",
        "Choose a disk or a file.",
    ),
    code(
        "NOT_COMPARED",
        "A server of --against could not be measured at all; the rest of the report is whole.",
        "The report's notes say why: it does not answer, is too small, or has no such export.",
    ),
    code(
        "NOT_CONFIRMED",
        "The question before a loss was not answered with the name, or nobody was there to answer it.",
        "Type the name, or give --yes.",
    ),
    code(
        "NOT_IN_SYNC",
        "A drive is to be taken out while it, or another one, has not all that it should have.",
        "Wait until every drive is active: `drystone status` shows how long that takes.",
    ),
    code("NOT_LEAVING", "A drive is to stay that is not being taken out.", "There is nothing to be done."),
    code("NOT_SERVING", "The daemon listens on no address for NBD.", "Start it with --nbd ADDRESS."),
    code("NO_CODE", "There is no such code.", "`drystone explain` lists all codes."),
    code("NO_DAEMON", "Only a running daemon can do this.", "Start one: drystone serve."),
    code(
        "NO_LOG",
        "None of the drives has a readable metadata log, so nobody knows what lies where.",
        "Look for the pool's other drives and import them together.",
    ),
    code(
        "NO_MAJORITY",
        "Fewer than half of the pool's votes (its drives and the witness in the state folder) are here. The newest state may be on the ones that are missing.",
        "Bring the missing drives back. If they are gone for good: drystone pool import --force DISK…",
    ),
    code(
        "NO_MEDIUM",
        "The block device has no bytes: a drive without a medium, or a loop device that is attached to no file.",
        "Insert or attach it (losetup), or name another drive.",
    ),
    code(
        "NO_MEMBERS",
        "None of the drives that were named or remembered belongs to a pool.",
        "Look for them with `drystone disk list`, and name them: drystone pool import DISK…",
    ),
    code(
        "NO_POOL",
        "There is no open pool of this name.",
        "drystone pool list shows the open ones; drystone pool import DISK… opens one.",
    ),
    code(
        "NO_ROOM",
        "The other drives cannot hold all that is stored, with the copies of every block on different drives.",
        "Add a drive first (drystone disk add DISK), replace it instead (drystone disk replace OLD NEW), or destroy a volume.",
    ),
    code(
        "NO_ROOM_TO_HEAL",
        "If the largest drive died now, some copies would find no place on the others: the pool would stay with fewer copies than promised.",
        "Add a drive (`drystone disk add`) or free space. `drystone status` says how much must stay free.",
    ),
    code(
        "NO_VOLUME",
        "There is no volume of that name in any open pool.",
        "`drystone volume list` shows them.",
    ),
    code(
        "ONE_AT_A_TIME",
        "One volume or address is measured at a time.",
        "Measure them one after the other.",
    ),
    code(
        "ONE_MACHINE",
        "--protect machine needs copies on two machines; this version knows the drives of one.",
        "Use --protect drive.",
    ),
    code(
        "POOL_AT_RISK",
        "Some blocks have fewer copies than their volume promises. Everything can be read.",
        "`drystone status` says why, for how long, and what to do.",
    ),
    code(
        "POOL_EXISTS",
        "A pool of this name is open already.",
        "Choose another name, or export the other pool first.",
    ),
    code(
        "POOL_FILLING",
        "At the rate at which the pool grew during the last hours it is full within a week. Then writes to new places fail.",
        "Add a drive (`drystone disk add`), or free space: destroy volumes, or trim them on the client (fstrim).",
    ),
    code(
        "POOL_IN_USE",
        "NVMe hosts have the subsystem of the pool.",
        "Disconnect them first: umount, then nvme disconnect -n NQN.",
    ),
    code(
        "PORT_TAKEN",
        "The address to listen on is in use, or not one of this machine.",
        "Stop who uses it, or listen elsewhere: drystone serve --nbd ADDRESS:PORT.",
    ),
    code(
        "SAME_DISK",
        "Two of the disks are the same drive: named twice, a drive and its partition, or two partitions of it.",
        "Name each drive once.",
    ),
    code(
        "SCRUB_FOUND",
        "A scrub found blocks that it could not repair: no copy is right, or the copies differ and nothing tells which is right, or the drive does not take the right one.",
        "`drystone status` names the drive that gave them and the lost places. Restore those from a backup: a block reads again once it is written.",
    ),
    code("SCRUB_RUNNING", "A scrub of this pool is running.", "Wait for it: `drystone status` shows it."),
    code(
        "SEVERAL_POOLS",
        "There are several pools, and it was not said which one is meant.",
        "Name one: --pool NAME.",
    ),
    code(
        "SPACE_LOW",
        "Less than a tenth of the pool's space is free. When none is left, writes to new places fail.",
        "Add a drive (`drystone disk add`), or free space: destroy volumes, or trim them on the client (fstrim).",
    ),
    code(
        "SPACE_OUT",
        "No space is left in the pool: writes to new places fail with \"no space\". What is stored is safe and can be written over.",
        "Add a drive (`drystone disk add`), or free space: destroy volumes, or trim them on the client (fstrim).",
    ),
    code(
        "STATE_IN_USE",
        "Another drystone process works with this state folder; two would damage pools.",
        "Wait until it ends, or use its control socket (--control).",
    ),
    code(
        "STATE_UNUSABLE",
        "The state folder cannot be made or written by this user.",
        "Run as root, or name a folder of your own with --state.",
    ),
    code(
        "STILL_WORKING",
        "The daemon has not finished the change yet; it goes on without this command.",
        "`drystone status` shows how far it is.",
    ),
    code(
        "SUM_MISMATCH",
        "A drive gave bytes that do not fit their checksum. Another copy was right and was used, and the wrong one was written again where that could be done.",
        "Read everything once: drystone pool scrub. A drive that does it again should be replaced.",
    ),
    code("SYSTEM", "The operating system refused something ordinary.", "The message has its words."),
    code(
        "TOOL_FAILED",
        "lsblk or wipefs could not say what a disk holds, so it is not touched.",
        "Run the tool by hand to see why; often the drive does not answer, or root is needed.",
    ),
    code(
        "TOOL_MISSING",
        "lsblk or wipefs is not installed; without them nothing is known about a disk, so it is not touched.",
        "apt install util-linux",
    ),
    code(
        "TOO_FEW_DISKS",
        "Every copy must be on another drive, and there are, or would be, fewer drives than copies.",
        "Add drives, or ask for fewer copies (--protect none is one).",
    ),
    code("TOO_MANY_DISKS", "A pool has a limited number of drives.", "Make two pools."),
    code("TOO_MANY_OTHERS", "--against takes 4 servers at most.", "Measure them in several runs."),
    code(
        "TWINS",
        "Two drives claim to be the same member of a pool: one is a copy of the other.",
        "Take one of them away. Neither is used before.",
    ),
    code(
        "TWO_HISTORIES",
        "The pool was used twice, each time without the other half of its drives. The halves contradict each other.",
        "Take one half away and import the other; then decide which one to keep.",
    ),
    code(
        "UNCLEAN_STOP",
        "The daemon before this one did not end as it should: a crash, a kill, or a power cut. What clients had flushed is there; copies that may differ are made equal.",
        "Nothing. If it happens without a power cut, look into the journal of the system for the reason.",
    ),
    code(
        "UNKNOWN_FORMAT",
        "A drive was written by another version of drystone, in a format or with a feature that this one does not know. Its pool is not opened: going on without that drive could be wrong.",
        "Serve the pool with the version that made it. Nothing was written.",
    ),
    code(
        "UNPROTECTED",
        "With one copy of every block, a drive that dies takes what lies on it along. Nothing was changed.",
        "Keep two copies; or, if that is meant, add --allow-unprotected.",
    ),
    code(
        "URING_BLOCKED",
        "The kernel refuses io_uring: by the sysctl kernel.io_uring_disabled, or by a container's seccomp profile.",
        "sudo sysctl kernel.io_uring_disabled=0, or run on the host.",
    ),
    code(
        "URING_FAILED",
        "io_uring could not be started; the message has the kernel's words.",
        "Raise the limits on open files and locked memory.",
    ),
    code("VOLUME_EXISTS", "A volume of this name exists already.", "Choose another name."),
    code(
        "VOLUME_IN_USE",
        "Clients are connected to the volume.",
        "Detach it on the clients first: umount, then nbd-client -d.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Literals that look like codes, where failures are made.
    fn codes_in(text: &str) -> BTreeSet<String> {
        let places = [
            "Failure::refused(",
            "Failure::failed(",
            "failed(\"",
            "refused(\"",
            "coded(",
            "bad(",
            "code: \"",
            "code: Some(\"",
            "=> \"",
        ];
        let mut found = BTreeSet::new();
        for place in places {
            for (at, _) in text.match_indices(place) {
                let rest = text[at + place.trim_end_matches('"').len()..].trim_start();
                let Some(rest) = rest.strip_prefix('"') else { continue };
                let word: String = rest.chars().take_while(|c| *c != '"').collect();
                let plain = word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
                // In a match arm a word in capitals may be anything; with an underscore it is a code.
                if word.len() > 3 && plain && (place != "=> \"" || word.contains('_')) {
                    found.insert(word);
                }
            }
        }
        found
    }

    fn sources(folder: &Path, texts: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, texts);
            } else if path.extension().is_some_and(|e| e == "rs") {
                texts.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }

    #[test]
    fn every_code_that_is_printed_is_explained() {
        let mut texts = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
        let mut used = BTreeSet::new();
        for (file, text) in &texts {
            let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for code in codes_in(product) {
                assert!(CODES.iter().any(|c| c.name == code), "{code} in {file} is not explained");
                used.insert(code);
            }
        }
        assert!(
            used.contains("DISK_HAS_DATA") && used.contains("DAEMON_DEAF"),
            "the search finds codes: {used:?}"
        );
    }

    #[test]
    fn the_search_finds_codes_in_all_their_forms() {
        let text = r#"Failure::refused("A_CODE", x); Failure::failed(
            "B_CODE", y); let f = failed("C_CODE"); Failure { code: "D_CODE".into() }; failed("no code"); X => "E_CODE", Y => "BIG""#;
        let found: Vec<_> = codes_in(text).into_iter().collect();
        assert_eq!(found, ["A_CODE", "B_CODE", "C_CODE", "D_CODE", "E_CODE"]);
    }

    #[test]
    fn codes_are_sorted_and_unique() {
        assert!(CODES.windows(2).all(|pair| pair[0].name < pair[1].name));
    }
}
