//! `disk list | show | add | locate`; `remove` and `replace` are in `removal.rs`.

use super::args::{AddArgs, DiskCommand, LocateArgs};
use super::confirm::{Unasked, confirm};
use super::disks;
use super::exit::{Ended, Exit};
use super::pool::{erasing, is_hidden};
use super::removal;
use super::session::{Session, unexpected};
use super::status::standing_of;
use super::survey::{self, Contents};
use super::words::{Side, bytes, table};
use crate::control::api::{DiskAdd, DriveReport, Failure, Reply, Request, StatusReport};
use crate::control::client::Client;
use crate::control::refusal::{admit_added, not_inspected, pool_of};
use crate::disk::inspect::{self, Drive, InspectError, Standing};
use crate::io::driver::FileKind;
use serde::Serialize;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

/// One burst of reading, and the pause after it: what an eye sees as blinking.
const BLINK: Duration = Duration::from_millis(400);

const IN_A_POOL: &str = "in a pool";

pub fn run(session: &Session, command: &DiskCommand) -> Result<Exit, Ended> {
    match command {
        DiskCommand::List => list(session)?,
        DiskCommand::Show { disk } => show(session, disk)?,
        DiskCommand::Add(args) => add(session, args)?,
        DiskCommand::Locate(args) => locate(session, args)?,
        DiskCommand::Remove(args) => removal::remove(session, args)?,
        DiskCommand::Replace(args) => removal::replace(session, args)?,
    }
    Ok(Exit::Done)
}

fn add(session: &Session, args: &AddArgs) -> Result<(), Ended> {
    let request = DiskAdd {
        disks: disks::paths(&args.disks)?,
        pool: args.pool.clone(),
        erase: disks::paths(&args.erase)?,
        replaces: None,
    };
    let drives = disks::look_at(&request.disks)?;
    gate(session, &request, &drives)?;
    let erased: Vec<&Drive> = drives.iter().filter(|d| d.standing() == Standing::HasData).collect();
    if !erased.is_empty()
        && let Some(pool) = pool_meant(session, args)?
    {
        confirm(session, &erasing(&erased), &pool, args.yes, Unasked::GoOn)?;
    }
    session.change(&Request::DiskAdd(request))
}

/// A daemon may look at disks that this user may not; it passes the same gate, and knows the pool.
pub fn gate(session: &Session, request: &DiskAdd, drives: &[Drive]) -> Result<(), Ended> {
    if !drives.iter().any(is_hidden) || session.daemon()?.is_none() {
        admit_added(request, drives, None)?;
    }
    Ok(())
}

/// The pool's name; None where it is not clear which one is meant, which is refused before anything is written.
fn pool_meant(session: &Session, args: &AddArgs) -> Result<Option<String>, Ended> {
    if args.pool.is_some() {
        return Ok(args.pool.clone());
    }
    let mut pools = session.pools(&Request::PoolList)?.into_iter();
    Ok(pools.next().filter(|_| pools.next().is_none()).map(|pool| pool.name))
}

/// A drive as it is printed.
#[derive(Serialize, Debug, PartialEq)]
struct Listed {
    name: String,
    kernel: Option<String>,
    path: String,
    size_bytes: u64,
    rotational: bool,
    model: Option<String>,
    serial: Option<String>,
    wwn: Option<String>,
    holds: String,
    state: &'static str,
    /// The pool that it belongs to, where that is known.
    pool: Option<String>,
}

fn list(session: &Session) -> Result<(), Ended> {
    let drives = inspect::list().map_err(|e| not_inspected(&e))?;
    let mut listed: Vec<Listed> = drives.iter().map(describe).collect();
    // Files that are members are on no list of the kernel's; a daemon knows them. Without one they are left out.
    if matches!(session.daemon(), Ok(Some(_))) {
        match session.status(None) {
            Ok(report) => add_members(&mut listed, &report),
            Err(ended) => session.screen.say(&format!("pools are not shown: {}", ended.failure.message)),
        }
    }
    if session.screen.json {
        session.screen.document("drystone.disks/1", &serde_json::json!({ "disks": listed }));
    } else {
        session.screen.print(&list_screen(&listed));
    }
    Ok(())
}

fn describe(drive: &Drive) -> Listed {
    let state = match drive.standing() {
        Standing::Free => "free",
        Standing::HasData => "has data",
        Standing::Member => IN_A_POOL,
        Standing::OffLimits => "off limits",
    };
    Listed {
        name: drive.name.clone(),
        kernel: drive.kernel.clone(),
        path: drive.path.display().to_string(),
        size_bytes: drive.size.0,
        rotational: drive.rotational,
        model: drive.model.clone(),
        serial: drive.serial.clone(),
        wwn: drive.wwn.clone(),
        holds: drive.holds(),
        state,
        pool: pool_of(drive),
    }
}

fn add_members(listed: &mut Vec<Listed>, report: &StatusReport) {
    for member in report.pools.iter().flat_map(|p| &p.drives) {
        match listed.iter_mut().find(|l| l.path == member.path) {
            Some(found) => found.pool = Some(member.pool.clone()),
            None => listed.push(member_only(member)),
        }
    }
}

fn member_only(member: &DriveReport) -> Listed {
    Listed {
        name: member.name.clone(),
        kernel: None,
        path: member.path.clone(),
        size_bytes: member.size_bytes,
        rotational: member.rotational,
        model: None,
        serial: None,
        wwn: None,
        holds: "a member of a drystone pool".to_owned(),
        state: IN_A_POOL,
        pool: Some(member.pool.clone()),
    }
}

fn list_screen(listed: &[Listed]) -> String {
    let columns = [
        ("DRIVE", Side::Left),
        ("", Side::Left),
        ("SIZE", Side::Right),
        ("STATE", Side::Left),
        ("HOLDS", Side::Left),
    ];
    let row = |drive: &Listed| {
        let kernel = drive.kernel.as_ref().filter(|k| **k != drive.name);
        let holds = match &drive.pool {
            Some(pool) => format!("pool {pool}"),
            None if drive.holds.is_empty() => "-".to_owned(),
            None => drive.holds.clone(),
        };
        let bracketed = kernel.map_or(String::new(), |k| format!("({k})"));
        vec![drive.name.clone(), bracketed, bytes(drive.size_bytes), drive.state.to_owned(), holds]
    };
    table(&columns, &listed.iter().map(row).collect::<Vec<_>>())
}

#[derive(Serialize)]
struct Shown {
    disk: Option<Listed>,
    /// What its pool says about it.
    member: Option<DriveReport>,
    /// What of its pool lies on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<Contents>,
}

fn show(session: &Session, typed: &str) -> Result<(), Ended> {
    let mut shown = find(session, typed)?;
    if let Some(disk) = shown.disk.as_ref().filter(|d| d.state == IN_A_POOL) {
        match survey::look_at(Path::new(&disk.path)) {
            Ok(contents) => shown.contents = Some(contents),
            Err(failure) => session.screen.say(&format!("what lies on it is not shown: {}", failure.message)),
        }
    }
    if session.screen.json {
        session.screen.document("drystone.disk/1", &shown);
        return Ok(());
    }
    let found = shown.disk.iter().map(facts);
    let member = shown.member.iter().map(member_facts);
    let contents = shown.contents.iter().map(survey::screen);
    session.screen.print(&found.chain(member).chain(contents).collect::<String>());
    Ok(())
}

/// What this machine and the pool know of a disk; it is enough if one of them knows it.
fn find(session: &Session, typed: &str) -> Result<Shown, Ended> {
    let here = inspect::resolve(typed).and_then(|path| inspect::inspect(&path));
    let disk = match here {
        Ok(drive) => Some(drive),
        Err(InspectError::NotFound(_)) => None,
        Err(error) => return Err(not_inspected(&error).into()),
    };
    if disk.as_ref().is_some_and(|d| d.standing() != Standing::Member) {
        return Ok(Shown { disk: disk.as_ref().map(describe), member: None, contents: None });
    }
    // A pool is not opened for being looked at: without a daemon the drive itself tells what is known.
    if disk.is_some() && Client::connect(&session.globals.control).is_err() {
        return Ok(Shown { disk: disk.as_ref().map(describe), member: None, contents: None });
    }
    let name = disk.as_ref().map_or(typed.to_owned(), |d| d.path.display().to_string());
    let member = match session.ask(&Request::DiskShow { disk: name }) {
        Ok(Reply::Disk(report)) => Some(report),
        Ok(other) => return Err(unexpected(&other)),
        // A member of a pool that is not open here is shown with what its superblock says.
        Err(_) if disk.is_some() => None,
        Err(ended) => return Err(ended),
    };
    Ok(Shown { disk: disk.as_ref().map(describe), member, contents: None })
}

fn facts(disk: &Listed) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or("-".to_owned());
    let holds = if disk.holds.is_empty() { "nothing" } else { &disk.holds };
    format!(
        "{}\npath      {}\nsize      {} ({} B)\nkind      {}\nmodel     {}\nserial    {}\nwwn       {}\n\
         state     {}\nholds     {holds}\npool      {}\n",
        disk.name,
        disk.path,
        bytes(disk.size_bytes),
        disk.size_bytes,
        if disk.rotational { "rotating" } else { "solid state, or a file" },
        or_dash(&disk.model),
        or_dash(&disk.serial),
        or_dash(&disk.wwn),
        disk.state,
        or_dash(&disk.pool),
    )
}

fn member_facts(member: &DriveReport) -> String {
    let reason = if member.reason.is_empty() { String::new() } else { format!(": {}", member.reason) };
    format!(
        "member    {} of pool {}, {}{reason}\nused      {}\nif it dies now: {} lost, {} left on one copy\n\
         errors    {} read, {} write, {} checksum\n",
        member.name,
        member.pool,
        standing_of(member),
        bytes(member.used_bytes),
        bytes(member.lost_bytes),
        bytes(member.exposed_bytes),
        member.read_errors,
        member.write_errors,
        member.checksum_errors,
    )
}

/// Says where a drive is, and lets its light blink if asked.
fn locate(session: &Session, args: &LocateArgs) -> Result<(), Ended> {
    let shown = find(session, &args.disk)?;
    let connector = shown.disk.as_ref().and_then(|disk| connector(Path::new(&disk.path)));
    if session.screen.json {
        let body = serde_json::json!({ "disk": shown.disk, "member": shown.member, "connector": connector });
        session.screen.document("drystone.locate/1", &body);
    } else {
        session.screen.print(&place(&shown, connector.as_deref()));
    }
    match &shown.disk {
        Some(disk) if args.blink > 0 => {
            session
                .screen
                .say(&format!("reading from it in bursts for {} s: look for the blinking light", args.blink));
            blink(Path::new(&disk.path), Duration::from_secs(args.blink.into()))
        }
        Some(_) | None => Ok(()),
    }
}

fn place(shown: &Shown, connector: Option<&str>) -> String {
    let Some(disk) = &shown.disk else {
        let last = shown.member.as_ref().map_or(String::new(), |m| format!("last seen at {}\n", m.path));
        return format!("it is not connected\n{last}its serial number is in its name, and on its label\n");
    };
    let serial = disk.serial.as_deref().unwrap_or("none known");
    let connector = connector.unwrap_or(if disk.kernel.is_some() { "not known" } else { "it is a file" });
    let kernel =
        disk.kernel.as_ref().filter(|k| **k != disk.name).map_or(String::new(), |k| format!(" ({k})"));
    format!("{}{kernel}\nserial      {serial}   (printed on its label)\nconnector   {connector}\n", disk.name)
}

/// The by-path name of a device: controller and port.
fn connector(device: &Path) -> Option<String> {
    let links = std::fs::read_dir("/dev/disk/by-path").ok()?.filter_map(Result::ok);
    let mut names: Vec<String> = links
        .filter(|link| link.path().canonicalize().is_ok_and(|target| target == device))
        .filter_map(|link| link.file_name().into_string().ok())
        .collect();
    names.sort();
    names.into_iter().next()
}

/// Reads in bursts; nothing is written. Jumps about, so that no cache answers.
fn blink(device: &Path, how_long: Duration) -> Result<(), Ended> {
    let failed = |e: std::io::Error| Failure::failed("DISK_UNREADABLE", format!("{}: {e}", device.display()));
    let meta = std::fs::metadata(device).map_err(failed)?;
    let drive = inspect::inspect(device).map_err(|e| not_inspected(&e))?;
    if drive.kind == FileKind::RegularFile || meta.is_file() {
        return Err(Failure::failed("NOT_A_DISK", "a file has no light").into());
    }
    let mut file = File::open(device).map_err(failed)?;
    let (start, mut at, mut buf) = (Instant::now(), 0u64, vec![0; 1 << 20]);
    while start.elapsed() < how_long {
        let burst = Instant::now();
        while burst.elapsed() < BLINK {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            file.seek(SeekFrom::Start(at % drive.size.0.max(1))).map_err(failed)?;
            // A sector that cannot be read makes the light blink as well.
            let _ = file.read(&mut buf);
        }
        std::thread::sleep(BLINK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::drive;
    use super::*;

    fn listed() -> Listed {
        Listed {
            name: "ata-ST380815AS_6QZ0X1AB".into(),
            kernel: Some("sda".into()),
            path: "/dev/sda".into(),
            size_bytes: 80_000_000_000,
            rotational: true,
            model: Some("ST380815AS".into()),
            serial: Some("6QZ0X1AB".into()),
            wwn: None,
            holds: "an ext4 file system \"old-root\"".into(),
            state: "has data",
            pool: None,
        }
    }

    #[test]
    fn every_drive_is_listed_with_what_it_holds() {
        let mut all = vec![listed()];
        let mut member = drive("sda", 80_000_000_000, 5);
        let mut file = drive("disk.img", 1_000_000_000, 5);
        file.path = "/srv/disk.img".into();
        add_members(&mut all, &report(vec![file]));
        let expected = "\
DRIVE                              SIZE   STATE       HOLDS
ata-ST380815AS_6QZ0X1AB   (sda)   80.0 GB   has data    an ext4 file system \"old-root\"
disk.img                          1.0 GB   in a pool   pool tank
";
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeezed(&list_screen(&all)), squeezed(expected));
        member.path = "/dev/sda".into();
        add_members(&mut all, &report(vec![member]));
        assert_eq!((all.len(), all[0].pool.as_deref()), (2, Some("tank")));
    }

    fn report(drives: Vec<DriveReport>) -> StatusReport {
        let mut pool = super::super::status::tests::healthy();
        pool.drives = drives;
        StatusReport { pools: vec![pool], listening: vec![], listening_nvme: vec![] }
    }

    #[test]
    fn a_drive_is_found_by_its_serial_number_and_connector() {
        let shown = Shown { disk: Some(listed()), member: None, contents: None };
        let expected = "ata-ST380815AS_6QZ0X1AB (sda)\nserial      6QZ0X1AB   (printed on its label)\n\
                        connector   pci-0000:00:1f.2-ata-2\n";
        assert_eq!(place(&shown, Some("pci-0000:00:1f.2-ata-2")), expected);
        let gone = Shown { disk: None, member: Some(drive("sdb", 1, 1)), contents: None };
        assert!(place(&gone, None).starts_with("it is not connected\nlast seen at /dev/sdb\n"));
    }
}
