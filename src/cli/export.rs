//! `export list | show [--for-client]`: how clients reach the volumes, with stock tools.

use super::args::{ExportCommand, NBD_PORT};
use super::exit::{Ended, Exit};
use super::session::Session;
use super::words::{Side, bytes, table};
use crate::control::api::{Failure, StatusReport, VolumeReport};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

pub fn run(session: &Session, command: &ExportCommand) -> Result<Exit, Ended> {
    let report = session.status(None)?;
    let host = host_name();
    match command {
        ExportCommand::List => list(session, &report, &host),
        ExportCommand::Show { volume, for_client } => show(session, &report, &host, volume, *for_client)?,
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
enum Reach {
    Network,
    ThisMachine,
    /// No daemon listens.
    Nobody,
}

/// The address that clients should use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Door {
    host: String,
    port: u16,
    reach: Reach,
}

/// The best of the addresses that are listened on: one that the network reaches, else one of this machine.
fn door(listening: &[String], host: &str) -> Door {
    let tcp: Vec<SocketAddr> = listening.iter().filter_map(|a| a.parse().ok()).collect();
    let open = tcp.iter().find(|a| !a.ip().is_loopback());
    match (open, tcp.first()) {
        (Some(a), _) if a.ip().is_unspecified() => {
            Door { host: host.to_owned(), port: a.port(), reach: Reach::Network }
        }
        (Some(a), _) => Door { host: a.ip().to_string(), port: a.port(), reach: Reach::Network },
        (None, Some(a)) => Door { host: a.ip().to_string(), port: a.port(), reach: Reach::ThisMachine },
        (None, None) => Door { host: host.to_owned(), port: NBD_PORT, reach: Reach::Nobody },
    }
}

impl Door {
    fn uri(&self, volume: &str) -> String {
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            Ok(IpAddr::V4(_)) | Err(_) => self.host.clone(),
        };
        let port = if self.port == NBD_PORT { String::new() } else { format!(":{}", self.port) };
        format!("nbd://{host}{port}/{volume}")
    }

    fn warning(&self) -> Option<String> {
        let open = format!("drystone serve --nbd 0.0.0.0:{}", self.port);
        match self.reach {
            Reach::Network => None,
            Reach::ThisMachine => Some(format!(
                "the daemon listens on {} only: just this machine can attach.\n\
                 to open it to the network:   {open}\n\
                 NBD knows no passwords: open it only to a network where every machine is trusted.",
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

fn volumes(report: &StatusReport) -> impl Iterator<Item = &VolumeReport> {
    report.pools.iter().flat_map(|pool| &pool.volumes)
}

fn list(session: &Session, report: &StatusReport, host: &str) {
    let door = door(&report.listening, host);
    if session.screen.json {
        let exports: Vec<_> = volumes(report)
            .map(|v| serde_json::json!({ "name": v.name, "uri": door.uri(&v.name), "size_bytes": v.size_bytes, "connections": v.connections }))
            .collect();
        let body = serde_json::json!({ "listening": report.listening, "exports": exports });
        session.screen.document("drystone.exports/1", &body);
        return;
    }
    let row = |v: &VolumeReport| {
        vec![v.name.clone(), door.uri(&v.name), bytes(v.size_bytes), v.connections.to_string()]
    };
    let rows: Vec<_> = volumes(report).map(row).collect();
    let columns =
        [("VOLUME", Side::Left), ("ADDRESS", Side::Left), ("SIZE", Side::Right), ("CLIENTS", Side::Right)];
    if !rows.is_empty() {
        session.screen.print(&table(&columns, &rows));
    }
    let nothing = rows
        .is_empty()
        .then(|| "There is no volume. Make one: drystone volume create NAME --size SIZE".to_owned());
    nothing.into_iter().chain(door.warning()).for_each(|text| session.screen.say(&text));
}

fn show(
    session: &Session,
    report: &StatusReport,
    host: &str,
    name: &str,
    for_client: bool,
) -> Result<(), Ended> {
    let known = volumes(report).find(|v| v.name == name);
    let volume = known.ok_or_else(|| {
        Failure::failed("NO_VOLUME", format!("there is no volume `{name}`"))
            .with("`drystone volume list` shows them")
    })?;
    let door = door(&report.listening, host);
    let recipe = recipe(&door, volume);
    if session.screen.json {
        let commands: Vec<_> = recipe.iter().map(|step| &step.command).collect();
        let body = serde_json::json!({
            "name": volume.name, "uri": door.uri(name), "reach": door.reach, "size_bytes": volume.size_bytes,
            "connections": volume.connections, "client_commands": commands,
        });
        session.screen.document("drystone.export/1", &body);
    } else if for_client {
        session.screen.print(&recipe_screen(&recipe, &door, volume));
    } else {
        let next = format!("to attach it:  drystone export show {name} --for-client");
        let facts = format!(
            "{name}   {}   {}   {} clients",
            door.uri(name),
            bytes(volume.size_bytes),
            volume.connections
        );
        session.screen.print(&format!("{facts}\n{next}\n"));
    }
    door.warning().into_iter().for_each(|text| session.screen.say(&text));
    Ok(())
}

/// One command for the client, and why it is as it is.
struct Step {
    why: &'static str,
    command: String,
}

fn recipe(door: &Door, volume: &VolumeReport) -> Vec<Step> {
    let (name, host) = (&volume.name, &door.host);
    let port = if door.port == NBD_PORT { String::new() } else { format!(",port={}", door.port) };
    let line = format!("nbd0 {host} {name} conns=4,bs=4096,persist{port}");
    let mount = format!("/srv/{name}");
    let fstab = format!("/dev/nbd0 {mount} ext4 _netdev,nofail,x-systemd.requires=nbd@nbd0.service 0 0");
    let step = |why, command| Step { why, command };
    vec![
        step("stock tools, nothing of ours to install", "apt install nbd-client".to_owned()),
        step(
            "4 connections let several requests travel at once; bs=4096 spares the server half-written blocks; \
             persist makes nbd-client try again when the connection breaks",
            format!("echo '{line}' >> /etc/nbdtab"),
        ),
        step(
            "attaches /dev/nbd0 now and at every boot, after the network is up",
            "systemctl enable --now nbd@nbd0".to_owned(),
        ),
        step(
            "once, on an empty volume: this erases what is on it. Or mkfs.xfs",
            "mkfs.ext4 /dev/nbd0".to_owned(),
        ),
        step(
            "_netdev waits for the network, nofail lets the machine boot while the server is away",
            format!("echo '{fstab}' >> /etc/fstab"),
        ),
        step("", format!("mkdir -p {mount} && mount {mount}")),
    ]
}

fn recipe_screen(recipe: &[Step], door: &Door, volume: &VolumeReport) -> String {
    let place = match door.reach {
        Reach::Network | Reach::Nobody => "on the client machine",
        Reach::ThisMachine => "on this machine",
    };
    let mut text = format!("# {place}, as root: {} of {}\n", volume.name, bytes(volume.size_bytes));
    for step in recipe {
        if !step.why.is_empty() {
            text += &format!("# {}\n", step.why);
        }
        text += &format!("{}\n", step.command);
    }
    let port = if door.port == NBD_PORT { String::new() } else { format!(" {}", door.port) };
    let by_hand =
        format!("nbd-client -N {} {}{port} /dev/nbd0 -C 4 -b 4096 -persist", volume.name, door.host);
    text + &format!(
        "# without nbdtab, until the next boot:  modprobe nbd && {by_hand}\n# to let go:  umount /srv/{0} && nbd-client -d /dev/nbd0\n",
        volume.name
    )
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::healthy;
    use super::*;

    fn opened(listening: &[&str]) -> Door {
        door(&listening.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), "stonebox")
    }

    #[test]
    fn the_address_is_one_that_the_client_can_reach() {
        let uri = |listening: &[&str]| opened(listening).uri("data");
        assert_eq!(uri(&["127.0.0.1:10809", "0.0.0.0:10809"]), "nbd://stonebox/data");
        assert_eq!(uri(&["192.168.1.5:7000"]), "nbd://192.168.1.5:7000/data");
        assert_eq!(uri(&["[fd00::1]:10809"]), "nbd://[fd00::1]/data");
        assert_eq!(uri(&["127.0.0.1:10809"]), "nbd://127.0.0.1/data");
        assert_eq!(uri(&["unix:/run/nbd.sock"]), "nbd://stonebox/data");
    }

    #[test]
    fn loopback_only_and_no_daemon_are_warned_about() {
        assert_eq!(opened(&["0.0.0.0:10809"]).warning(), None);
        let local = opened(&["127.0.0.1:7000"]);
        assert_eq!(local.reach, Reach::ThisMachine);
        assert!(local.warning().unwrap().contains("drystone serve --nbd 0.0.0.0:7000\n"));
        let nobody = opened(&[]);
        assert_eq!(nobody.reach, Reach::Nobody);
        assert!(nobody.warning().unwrap().contains("no daemon listens"));
    }

    #[test]
    fn the_recipe_is_complete() {
        let volume = healthy().volumes.remove(0);
        let door = opened(&["0.0.0.0:10810"]);
        let expected = "\
# on the client machine, as root: data of 310.0 GB
# stock tools, nothing of ours to install
apt install nbd-client
# 4 connections let several requests travel at once; bs=4096 spares the server half-written blocks; persist makes \
nbd-client try again when the connection breaks
echo 'nbd0 stonebox data conns=4,bs=4096,persist,port=10810' >> /etc/nbdtab
# attaches /dev/nbd0 now and at every boot, after the network is up
systemctl enable --now nbd@nbd0
# once, on an empty volume: this erases what is on it. Or mkfs.xfs
mkfs.ext4 /dev/nbd0
# _netdev waits for the network, nofail lets the machine boot while the server is away
echo '/dev/nbd0 /srv/data ext4 _netdev,nofail,x-systemd.requires=nbd@nbd0.service 0 0' >> /etc/fstab
mkdir -p /srv/data && mount /srv/data
# without nbdtab, until the next boot:  modprobe nbd && nbd-client -N data stonebox 10810 /dev/nbd0 -C 4 -b 4096 -persist
# to let go:  umount /srv/data && nbd-client -d /dev/nbd0
";
        assert_eq!(recipe_screen(&recipe(&door, &volume), &door, &volume), expected);
    }
}
