//! `export list | show [--for-client]`: how clients reach the volumes, with stock tools.

use super::args::{ExportCommand, NBD_PORT, NVME_PORT, Spoken};
use super::exit::{Ended, Exit};
use super::recipe::{Recipe, screen};
use super::session::Session;
use super::words::{Side, bytes, table};
use crate::control::api::{Failure, PoolReport, StatusReport, VolumeReport};
use crate::nvmf::subsystem::nqn_of;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

pub fn run(session: &Session, command: &ExportCommand) -> Result<Exit, Ended> {
    let report = session.status(None)?;
    let host = host_name();
    match command {
        ExportCommand::List => list(session, &report, &host),
        ExportCommand::Show { volume, for_client, protocol } => {
            // What rides out a restart comes first.
            let first = match report.listening_nvme.is_empty() && !report.listening.is_empty() {
                true => Spoken::Nbd,
                false => Spoken::Nvme,
            };
            show(session, &report, &host, volume, for_client.then(|| protocol.unwrap_or(first)))?;
        }
    }
    Ok(Exit::Done)
}

fn host_name() -> String {
    // A machine without a name is printed as a placeholder that cannot be mistaken for one.
    let name = nix::sys::utsname::uname().ok().and_then(|n| n.nodename().to_str().map(str::to_owned));
    name.filter(|n| !n.is_empty()).unwrap_or("SERVER".to_owned())
}

/// How far away a client may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    Network,
    ThisMachine,
    /// No daemon listens.
    Nobody,
}

/// The address that clients should use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    pub spoken: Spoken,
    pub host: String,
    pub port: u16,
    pub reach: Reach,
}

/// Both ways to the volumes.
struct Doors {
    nbd: Door,
    nvme: Door,
}

impl Doors {
    fn of(report: &StatusReport, host: &str) -> Doors {
        Doors {
            nbd: door(Spoken::Nbd, &report.listening, host),
            nvme: door(Spoken::Nvme, &report.listening_nvme, host),
        }
    }

    fn of_protocol(&self, spoken: Spoken) -> &Door {
        match spoken {
            Spoken::Nbd => &self.nbd,
            Spoken::Nvme => &self.nvme,
        }
    }
}

/// The best of the addresses that are listened on: one that the network reaches, else one of this machine.
pub fn door(spoken: Spoken, listening: &[String], host: &str) -> Door {
    let tcp: Vec<SocketAddr> = listening.iter().filter_map(|a| a.parse().ok()).collect();
    let open = tcp.iter().find(|a| !a.ip().is_loopback());
    match (open, tcp.first()) {
        (Some(a), _) if a.ip().is_unspecified() => {
            Door { spoken, host: host.to_owned(), port: a.port(), reach: Reach::Network }
        }
        (Some(a), _) => Door { spoken, host: a.ip().to_string(), port: a.port(), reach: Reach::Network },
        (None, Some(a)) => {
            Door { spoken, host: a.ip().to_string(), port: a.port(), reach: Reach::ThisMachine }
        }
        (None, None) => {
            Door { spoken, host: host.to_owned(), port: usual_port(spoken), reach: Reach::Nobody }
        }
    }
}

/// The port where clients look by themselves.
pub fn usual_port(spoken: Spoken) -> u16 {
    match spoken {
        Spoken::Nbd => NBD_PORT,
        Spoken::Nvme => NVME_PORT,
    }
}

impl Door {
    fn uri(&self, volume: &VolumeReport, pool: &PoolReport) -> String {
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            Ok(IpAddr::V4(_)) | Err(_) => self.host.clone(),
        };
        let port =
            if self.port == usual_port(self.spoken) { String::new() } else { format!(":{}", self.port) };
        match self.spoken {
            Spoken::Nbd => format!("nbd://{host}{port}/{}", volume.name),
            Spoken::Nvme => format!("nvme://{host}{port}/{}/{}", nqn_of(&pool.uuid), volume.namespace),
        }
    }

    fn warning(&self) -> Option<String> {
        let (option, name) = match self.spoken {
            Spoken::Nbd => ("--nbd", "NBD"),
            Spoken::Nvme => ("--nvme", "NVMe/TCP"),
        };
        let open = format!("drystone serve {option} 0.0.0.0:{}", self.port);
        match self.reach {
            Reach::Network => None,
            Reach::ThisMachine => Some(format!(
                "the daemon listens on {} only: just this machine can attach.\n\
                 to open it to the network:   {open}\n\
                 {name} here knows no passwords: open it only to a network where every machine is trusted.",
                self.host
            )),
            Reach::Nobody => Some(format!(
                "no daemon listens: start one first.\n\
                 for this machine only:       drystone serve\n\
                 for a trusted network:       {open}"
            )),
        }
    }
}

fn volumes(report: &StatusReport) -> impl Iterator<Item = (&PoolReport, &VolumeReport)> {
    report.pools.iter().flat_map(|pool| pool.volumes.iter().map(move |volume| (pool, volume)))
}

fn list(session: &Session, report: &StatusReport, host: &str) {
    let doors = Doors::of(report, host);
    if session.screen.json {
        let export = |(pool, v): (&PoolReport, &VolumeReport)| {
            serde_json::json!({
                "name": v.name, "uri": doors.nbd.uri(v, pool), "nvme_uri": doors.nvme.uri(v, pool),
                "size_bytes": v.size_bytes, "connections": v.connections,
            })
        };
        let exports: Vec<_> = volumes(report).map(export).collect();
        let body = serde_json::json!({
            "listening": report.listening, "listening_nvme": report.listening_nvme, "exports": exports,
        });
        session.screen.document("drystone.exports/1", &body);
        return;
    }
    let row = |(pool, v): (&PoolReport, &VolumeReport)| {
        let clients = v.connections.to_string();
        let first = vec![v.name.clone(), doors.nbd.uri(v, pool), bytes(v.size_bytes), clients];
        let nvme = (doors.nvme.reach != Reach::Nobody)
            .then(|| vec![String::new(), doors.nvme.uri(v, pool), String::new(), String::new()]);
        [Some(first), nvme].into_iter().flatten()
    };
    let rows: Vec<_> = volumes(report).flat_map(row).collect();
    let columns =
        [("VOLUME", Side::Left), ("ADDRESS", Side::Left), ("SIZE", Side::Right), ("CLIENTS", Side::Right)];
    if !rows.is_empty() {
        session.screen.print(&table(&columns, &rows));
    }
    let nothing = rows
        .is_empty()
        .then(|| "There is no volume. Make one: drystone volume create NAME --size SIZE".to_owned());
    nothing.into_iter().chain(doors.nbd.warning()).for_each(|text| session.screen.say(&text));
}

fn show(
    session: &Session,
    report: &StatusReport,
    host: &str,
    name: &str,
    for_client: Option<Spoken>,
) -> Result<(), Ended> {
    let known = volumes(report).find(|(_, v)| v.name == name);
    let (pool, volume) = known.ok_or_else(|| {
        Failure::failed("NO_VOLUME", format!("there is no volume `{name}`"))
            .with("`drystone volume list` shows them")
    })?;
    let doors = Doors::of(report, host);
    let door = doors.of_protocol(for_client.unwrap_or(Spoken::Nbd));
    if session.screen.json {
        let commands = |door: &Door| -> Vec<String> {
            Recipe::of(door, pool, volume).steps.into_iter().map(|step| step.command).collect()
        };
        let body = serde_json::json!({
            "name": volume.name, "uri": doors.nbd.uri(volume, pool), "reach": doors.nbd.reach,
            "nvme_uri": doors.nvme.uri(volume, pool), "nvme_reach": doors.nvme.reach,
            "size_bytes": volume.size_bytes, "connections": volume.connections,
            "client_commands": commands(&doors.nbd), "nvme_client_commands": commands(&doors.nvme),
        });
        session.screen.document("drystone.export/1", &body);
    } else if for_client.is_some() {
        session.screen.print(&screen(&Recipe::of(door, pool, volume), door, volume));
    } else {
        let next = format!("to attach it:  drystone export show {name} --for-client");
        let facts = format!(
            "{name}   {}   {}   {} clients\n{:width$}   {}",
            doors.nbd.uri(volume, pool),
            bytes(volume.size_bytes),
            volume.connections,
            "",
            doors.nvme.uri(volume, pool),
            width = name.chars().count(),
        );
        session.screen.print(&format!("{facts}\n{next}\n"));
    }
    door.warning().into_iter().for_each(|text| session.screen.say(&text));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::healthy;
    use super::*;

    fn opened(spoken: Spoken, listening: &[&str]) -> Door {
        door(spoken, &listening.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), "stonebox")
    }

    #[test]
    fn the_address_is_one_that_the_client_can_reach() {
        let pool = healthy();
        let uri = |spoken, listening: &[&str]| opened(spoken, listening).uri(&pool.volumes[0], &pool);
        let nbd = |listening| uri(Spoken::Nbd, listening);
        assert_eq!(nbd(&["127.0.0.1:10809", "0.0.0.0:10809"]), "nbd://stonebox/data");
        assert_eq!(nbd(&["192.168.1.5:7000"]), "nbd://192.168.1.5:7000/data");
        assert_eq!(nbd(&["[fd00::1]:10809"]), "nbd://[fd00::1]/data");
        assert_eq!(nbd(&["127.0.0.1:10809"]), "nbd://127.0.0.1/data");
        assert_eq!(nbd(&["unix:/run/nbd.sock"]), "nbd://stonebox/data");
        let name = format!("nqn.2014-08.org.nvmexpress:uuid:{}", pool.uuid);
        assert_eq!(uri(Spoken::Nvme, &["0.0.0.0:4420"]), format!("nvme://stonebox/{name}/1"));
        assert_eq!(uri(Spoken::Nvme, &["[fd00::1]:4421"]), format!("nvme://[fd00::1]:4421/{name}/1"));
    }

    #[test]
    fn loopback_only_and_no_daemon_are_warned_about() {
        assert_eq!(opened(Spoken::Nbd, &["0.0.0.0:10809"]).warning(), None);
        let local = opened(Spoken::Nbd, &["127.0.0.1:7000"]);
        assert_eq!(local.reach, Reach::ThisMachine);
        assert!(local.warning().unwrap().contains("drystone serve --nbd 0.0.0.0:7000\n"));
        let nvme = opened(Spoken::Nvme, &["127.0.0.1:4420"]);
        assert!(nvme.warning().unwrap().contains("drystone serve --nvme 0.0.0.0:4420\n"));
        let nobody = opened(Spoken::Nbd, &[]);
        assert_eq!(nobody.reach, Reach::Nobody);
        assert!(nobody.warning().unwrap().contains("no daemon listens"));
    }
}
