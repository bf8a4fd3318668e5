//! `volume create | list | show | grow | rename | destroy`; `volume salvage` is in `salvage`.

use super::args::{VolumeCommand, VolumeCreateArgs, VolumeSetArgs};
use super::confirm::{Unasked, confirm};
use super::exit::{Ended, Exit};
use super::pool::copies_of;
use super::salvage;
use super::session::Session;
use super::words::{Side, bytes, count, table};
use crate::base::limits::LBA_BYTES_DEFAULT;
use crate::base::size::show_size;
use crate::base::units::ByteLen;
use crate::control::api::{Request, VolumeCreate, VolumeReport};

pub fn run(session: &Session, command: &VolumeCommand) -> Result<Exit, Ended> {
    match command {
        VolumeCommand::Create(args) => create(session, args)?,
        VolumeCommand::List { pool } => list(session, pool.as_ref())?,
        VolumeCommand::Show { volume } => show(session, volume)?,
        VolumeCommand::Grow { volume, size } => {
            session.change(&Request::VolumeGrow { volume: volume.clone(), size_bytes: size.0 })?;
            session.screen.say("then on the client: reconnect, and resize2fs or xfs_growfs");
        }
        VolumeCommand::Shrink { volume, size, yes } => shrink(session, volume, *size, *yes)?,
        VolumeCommand::Rename { volume, name } => {
            session.change(&Request::VolumeRename { volume: volume.clone(), name: name.clone() })?;
        }
        VolumeCommand::Set(args) => set(session, args)?,
        VolumeCommand::Destroy { volume, yes } => destroy(session, volume, *yes)?,
        VolumeCommand::Salvage(args) => return salvage::run(session, args),
    }
    Ok(Exit::Done)
}

fn create(session: &Session, args: &VolumeCreateArgs) -> Result<(), Ended> {
    session.change(&Request::VolumeCreate(VolumeCreate {
        name: args.name.clone(),
        size_bytes: args.size.0,
        pool: args.pool.clone(),
        copies: args.copies,
        stripe_unit_bytes: args.stripe_unit.map(|unit| unit.0),
        checksums: !args.no_checksum,
        lba_bytes: Some(args.lba).filter(|bytes| *bytes != LBA_BYTES_DEFAULT),
    }))
}

fn list(session: &Session, pool: Option<&String>) -> Result<(), Ended> {
    let volumes = session.volumes(&Request::VolumeList { pool: pool.cloned() })?;
    if session.screen.json {
        session.screen.document("drystone.volumes/1", &serde_json::json!({ "volumes": volumes }));
    } else if volumes.is_empty() {
        session.screen.say("There is no volume. Make one: drystone volume create NAME --size SIZE");
    } else {
        session.screen.print(&list_screen(&volumes));
    }
    Ok(())
}

/// The table of volumes; empty if there are none.
pub fn list_screen(volumes: &[VolumeReport]) -> String {
    let columns = [
        ("VOLUME", Side::Left),
        ("POOL", Side::Left),
        ("SIZE", Side::Right),
        ("STORED", Side::Right),
        ("COPIES", Side::Right),
        ("STATE", Side::Left),
        ("CLIENTS", Side::Right),
    ];
    let row = |volume: &VolumeReport| {
        vec![
            volume.name.clone(),
            volume.pool.clone(),
            bytes(volume.size_bytes),
            bytes(volume.allocated_bytes),
            volume.copies.to_string(),
            state(volume),
            volume.connections.to_string(),
        ]
    };
    if volumes.is_empty() {
        String::new()
    } else {
        table(&columns, &volumes.iter().map(row).collect::<Vec<_>>())
    }
}

fn state(volume: &VolumeReport) -> String {
    match (volume.unavailable_bytes, volume.single_copy_bytes, volume.copies) {
        (0, 0, _) | (0, _, 1) => "ok".to_owned(),
        (0, single, _) => format!("{} on one copy", bytes(single)),
        (gone, _, _) => format!("{} cannot be read", bytes(gone)),
    }
}

fn show(session: &Session, name: &str) -> Result<(), Ended> {
    for volume in &session.volumes(&Request::VolumeShow { volume: name.to_owned() })? {
        if session.screen.json {
            session.screen.document("drystone.volume/1", volume);
        } else {
            session.screen.print(&show_screen(volume));
        }
    }
    Ok(())
}

fn show_screen(volume: &VolumeReport) -> String {
    let width = match volume.columns {
        1 => "1 drive".to_owned(),
        many => format!("{many} drives"),
    };
    format!(
        "{}\npool        {}\nsize        {} ({} B), {} stored\nstate       {}\ncopies      {} on different drives\n\
         stripes     {} wide, {} on each in turn\nchecksums   {}\nsectors     {} for NVMe hosts\nclients     {}\nuuid        {}\n",
        volume.name,
        volume.pool,
        bytes(volume.size_bytes),
        volume.size_bytes,
        bytes(volume.allocated_bytes),
        state(volume),
        copies_words(volume),
        width,
        bytes(volume.stripe_unit_bytes),
        if volume.checksums { "on" } else { "off: wrong bytes of a drive are not noticed" },
        format_args!("{} B", volume.lba_bytes),
        count(usize::try_from(volume.connections).unwrap_or(usize::MAX), "connection"),
        volume.uuid,
    ) + &gone_lines(volume)
}

/// How many copies it has, and of how much that is not so yet.
fn copies_words(volume: &VolumeReport) -> String {
    let slots = |count: u64| self::count(usize::try_from(count).unwrap_or(usize::MAX), "slot");
    let lacking = match volume.lacking_slots {
        0 => String::new(),
        lacking => format!(" ({} not yet)", slots(lacking)),
    };
    match volume.surplus_slots {
        0 => format!("{}{lacking}", volume.copies),
        surplus => format!("{}{lacking} ({} with more still)", volume.copies, slots(surplus)),
    }
}

/// Ranges that are shown; `--json` has more.
const RANGES_SHOWN: usize = 16;

/// Where the volume cannot be read, and what that means.
fn gone_lines(volume: &VolumeReport) -> String {
    if volume.unavailable.is_empty() {
        return String::new();
    }
    let many = count(volume.unavailable.len(), "place");
    let many = if volume.unavailable_more { format!("more than {many}") } else { many };
    let mut text = format!(
        "\nno drive that is here has {} of it, in {many}; there, reads and writes fail, and everywhere else they go on:\n",
        bytes(volume.unavailable_bytes)
    );
    for part in volume.unavailable.iter().take(RANGES_SHOWN) {
        let (from, len) = (part.offset_bytes, part.length_bytes);
        text += &format!("  {len} bytes at offset {from}\n");
    }
    if volume.unavailable.len() > RANGES_SHOWN {
        text += &format!("  and more: drystone volume show {} --json\n", volume.name);
    }
    text + "It is all there again when a drive that has it is connected again (drystone status names them).\n"
}

/// Asks only where something would be lost.
fn shrink(session: &Session, name: &str, size: ByteLen, yes: bool) -> Result<(), Ended> {
    let request = |give_up| Request::VolumeShrink { volume: name.to_owned(), size_bytes: size.0, give_up };
    let refused = match session.change(&request(false)) {
        Err(ended) if ended.failure.code == "DATA_BEYOND" => ended,
        other => return other,
    };
    let loss = format!("{}; all of it beyond {} is given up.", refused.failure.message, show_size(size));
    confirm(session, &loss, name, yes, Unasked::Refuse)?;
    session.change(&request(true))
}

/// Asks where fewer copies are left; that one is, the daemon refuses unless it was said to be meant.
fn set(session: &Session, args: &VolumeSetArgs) -> Result<(), Ended> {
    let (volume, copies) = (&args.volume, copies_of(args.protect, args.copies)?);
    let volumes = session.volumes(&Request::VolumeShow { volume: volume.clone() })?;
    let more = volumes.iter().find(|v| v.copies > copies && copies > 1);
    if let Some(more) = more {
        let loss = format!(
            "Volume {volume} with {} of data gives up copies: {} of {} stay, so that it survives the loss of {} instead of {}.",
            bytes(more.allocated_bytes),
            copies,
            more.copies,
            count(usize::from(copies) - 1, "drive"),
            more.copies - 1,
        );
        confirm(session, &loss, volume, args.yes, Unasked::Refuse)?;
    }
    let allow_unprotected = args.allow_unprotected;
    session.change(&Request::VolumeCopies { volume: volume.clone(), copies, allow_unprotected })
}

fn destroy(session: &Session, name: &str, yes: bool) -> Result<(), Ended> {
    let volumes = session.volumes(&Request::VolumeShow { volume: name.to_owned() })?;
    let stored: u64 = volumes.iter().map(|v| v.allocated_bytes).sum();
    let clients: u32 = volumes.iter().map(|v| v.connections).sum();
    let used = if clients > 0 { format!(" {clients} clients are connected to it.") } else { String::new() };
    let loss = format!("This ends volume {name} with {} of data.{used}", bytes(stored));
    confirm(session, &loss, name, yes, Unasked::Refuse)?;
    session.change(&Request::VolumeDestroy { volume: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::RangeReport;

    fn volume() -> VolumeReport {
        VolumeReport {
            name: "data".into(),
            pool: "tank".into(),
            uuid: "6f1c".into(),
            size_bytes: 70_000_000_000,
            copies: 2,
            fewest_copies: 2,
            lacking_slots: 0,
            surplus_slots: 0,
            columns: 3,
            stripe_unit_bytes: 131_072,
            checksums: true,
            lba_bytes: 512,
            namespace: 1,
            allocated_bytes: 19_000_000_000,
            single_copy_bytes: 0,
            unavailable_bytes: 0,
            connections: 4,
            unavailable: Vec::new(),
            unavailable_more: false,
        }
    }

    #[test]
    fn slots_with_other_copies_are_counted() {
        let with = |lacking_slots, surplus_slots| {
            copies_words(&VolumeReport { lacking_slots, surplus_slots, ..volume() })
        };
        assert_eq!((with(0, 0), with(1, 0)), ("2".to_owned(), "2 (1 slot not yet)".to_owned()));
        assert_eq!(with(0, 3), "2 (3 slots with more still)");
    }

    #[test]
    fn what_is_gone_is_listed_with_its_places() {
        let part = |offset_bytes| RangeReport { offset_bytes, length_bytes: 131_072 };
        let gone = VolumeReport {
            unavailable_bytes: 2_000_000,
            unavailable: (0..17).map(|i| part(i * 262_144)).collect(),
            ..volume()
        };
        let text = show_screen(&gone);
        assert!(text.contains("no drive that is here has 2.0 MB of it, in 17 places;"), "{text}");
        assert!(
            text.contains("  131072 bytes at offset 3932160\n  and more: drystone volume show data --json"),
            "{text}"
        );
        assert!(!text.contains("4194304"), "{text}");
        assert!(!show_screen(&volume()).contains("no drive"));
        let all = VolumeReport { unavailable: vec![part(0)], unavailable_more: true, ..gone };
        assert!(show_screen(&all).contains("in more than 1 place;"));
    }

    #[test]
    fn a_list_of_volumes() {
        let bad = VolumeReport { name: "old".into(), single_copy_bytes: 1_000_000_000, ..volume() };
        let expected = "\
VOLUME   POOL      SIZE    STORED   COPIES   STATE                CLIENTS
data     tank   70.0 GB   19.0 GB        2   ok                         4
old      tank   70.0 GB   19.0 GB        2   1.0 GB on one copy         4
";
        assert_eq!(list_screen(&[volume(), bad]), expected);
        assert_eq!(list_screen(&[]), "");
    }

    #[test]
    fn one_copy_as_asked_for_is_ok_and_unreadable_is_said_first() {
        assert_eq!(state(&VolumeReport { copies: 1, single_copy_bytes: 5, ..volume() }), "ok");
        let gone = VolumeReport { unavailable_bytes: 2_000_000, single_copy_bytes: 5, ..volume() };
        assert_eq!(state(&gone), "2.0 MB cannot be read");
    }

    #[test]
    fn a_volume_in_detail() {
        let text = show_screen(&volume());
        assert!(
            text.starts_with("data\npool        tank\nsize        70.0 GB (70000000000 B), 19.0 GB stored\n"),
            "{text}"
        );
        assert!(text.contains("stripes     3 drives wide, 131.1 kB on each in turn\n"), "{text}");
        assert!(text.contains("sectors     512 B for NVMe hosts\n"), "{text}");
        assert!(text.contains("clients     4 connections\n"), "{text}");
    }
}
