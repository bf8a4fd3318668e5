//! What the client machine has to type to attach a volume, and why each line is as it is.

use super::args::{NBD_PORT, NVME_DISCOVERY_PORT, NVME_PORT, Spoken};
use super::export::{Door, Reach};
use super::words::bytes;
use crate::control::api::{PoolReport, VolumeReport};
use crate::nvmf::subsystem::nqn_of;

/// One command for the client, and why it is as it is.
pub struct Step {
    pub why: String,
    pub command: String,
}

/// All of them, and what may be done another way.
pub struct Recipe {
    pub steps: Vec<Step>,
    /// Lines of comment below.
    beside: Vec<String>,
}

fn step(why: impl Into<String>, command: String) -> Step {
    Step { why: why.into(), command }
}

impl Recipe {
    pub fn of(door: &Door, pool: &PoolReport, volume: &VolumeReport) -> Recipe {
        match door.spoken {
            Spoken::Nbd => nbd(door, volume),
            Spoken::Nvme => nvme(door, pool, volume),
        }
    }
}

fn nbd(door: &Door, volume: &VolumeReport) -> Recipe {
    let (name, host) = (&volume.name, &door.host);
    let (port, by_hand) = match door.port {
        NBD_PORT => (String::new(), String::new()),
        port => (format!(",port={port}"), format!(" {port}")),
    };
    let line = format!("nbd0 {host} {name} conns=4,bs=4096,persist{port}");
    let mount = format!("/srv/{name}");
    let fstab = format!("/dev/nbd0 {mount} ext4 _netdev,nofail,x-systemd.requires=nbd@nbd0.service 0 0");
    let steps = vec![
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
        format_step("Or mkfs.xfs", "mkfs.ext4 /dev/nbd0".to_owned()),
        fstab_step(&fstab),
        step("", format!("mkdir -p {mount} && mount {mount}")),
    ];
    let beside = vec![
        format!(
            "without nbdtab, until the next boot:  modprobe nbd && \
             nbd-client -N {name} {host}{by_hand} /dev/nbd0 -C 4 -b 4096 -persist"
        ),
        format!("to let go:  umount {mount} && nbd-client -d /dev/nbd0"),
        format!("want it to ride out a restart of {host}? NVMe/TCP does that best: add --protocol nvme"),
    ];
    Recipe { steps, beside }
}

/// Once, on an empty volume.
fn format_step(or: &str, command: String) -> Step {
    step(format!("once, on an empty volume: this erases what is on it. {or}"), command)
}

fn fstab_step(line: &str) -> Step {
    step(
        "_netdev waits for the network, nofail lets the machine boot while the server is away",
        format!("echo '{line}' >> /etc/fstab"),
    )
}

fn nvme(door: &Door, pool: &PoolReport, volume: &VolumeReport) -> Recipe {
    let (name, host, nqn) = (&volume.name, &door.host, nqn_of(&pool.uuid));
    // Hosts ask beside the standard port what there is; at any other they ask at that one.
    let discovery = if door.port == NVME_PORT { NVME_DISCOVERY_PORT } else { door.port };
    let patience = "--ctrl-loss-tmo=-1 --reconnect-delay=2 --keep-alive-tmo=5";
    let device = format!("/dev/disk/by-id/nvme-uuid.{}", volume.uuid);
    let mount = format!("/srv/{name}");
    let fstab = format!("{device} {mount} ext4 _netdev,nofail,x-systemd.after=nvmf-autoconnect.service 0 0");
    let steps = vec![
        step("stock tools, nothing of ours to install", "apt install nvme-cli".to_owned()),
        step(
            "the kernel's own client, now and at every boot",
            "echo nvme-tcp > /etc/modules-load.d/nvme-tcp.conf && modprobe nvme-tcp".to_owned(),
        ),
        step(
            "ctrl-loss-tmo=-1 never gives up, so files wait for a server that is away and go on when it is back; \
             reconnect-delay=2 tries every 2 s; keep-alive-tmo=5 notices within 5 s that the server is gone",
            format!("echo '-t tcp -a {host} -s {discovery} {patience}' >> /etc/nvme/discovery.conf"),
        ),
        step(
            "connects now and at every boot, after the network is up",
            "systemctl enable --now nvmf-autoconnect".to_owned(),
        ),
        // Linux takes the smaller of preferred and atomic writes for the physical block. That a block of 4096 bytes is
        // not torn by a power cut cannot be promised on drives with sectors of 512.
        format_step(
            "Or mkfs.xfs -s size=4096: sectors of 512 bytes, its choice here, would be half-written blocks",
            format!("mkfs.ext4 {device}"),
        ),
        fstab_step(&fstab),
        step("", format!("mkdir -p {mount} && mount {mount}")),
    ];
    let beside = vec![
        format!(
            "without discovery.conf, until the next boot:  modprobe nvme-tcp && \
             nvme connect -t tcp -a {host} -s {} -n {nqn} {patience}",
            door.port
        ),
        format!("to let go:  umount {mount} && nvme disconnect -n {nqn}"),
        format!(
            "after {host} lost power, if this machine did not: umount, fsck, mount; no client is told what was not flushed"
        ),
        "two network cards: connect to both addresses; the kernel uses both, and goes on when one is cut"
            .to_owned(),
        "no nvme-tcp in this kernel? add --protocol nbd; a restart of the server is then an I/O error"
            .to_owned(),
    ];
    Recipe { steps, beside }
}

/// The whole, to be read and to be copied.
pub fn screen(recipe: &Recipe, door: &Door, volume: &VolumeReport) -> String {
    let place = match door.reach {
        Reach::Network | Reach::Nobody => "on the client machine",
        Reach::ThisMachine => "on this machine",
    };
    let mut text = format!("# {place}, as root: {} of {}\n", volume.name, bytes(volume.size_bytes));
    for step in &recipe.steps {
        if !step.why.is_empty() {
            text += &format!("# {}\n", step.why);
        }
        text += &format!("{}\n", step.command);
    }
    for line in &recipe.beside {
        text += &format!("# {line}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::export::door;
    use super::super::status::tests::healthy;
    use super::*;

    fn printed(spoken: Spoken, address: &str) -> String {
        let pool = healthy();
        let door = door(spoken, &[address.to_owned()], "stonebox");
        screen(&Recipe::of(&door, &pool, &pool.volumes[0]), &door, &pool.volumes[0])
    }

    #[test]
    fn the_recipe_for_nbd_is_complete() {
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
# want it to ride out a restart of stonebox? NVMe/TCP does that best: add --protocol nvme
";
        assert_eq!(printed(Spoken::Nbd, "0.0.0.0:10810"), expected);
    }

    #[test]
    fn the_recipe_for_nvme_says_what_the_waiting_is_for() {
        let text = printed(Spoken::Nvme, "0.0.0.0:4420");
        let options = "--ctrl-loss-tmo=-1 --reconnect-delay=2 --keep-alive-tmo=5";
        assert!(
            text.contains(&format!(
                "echo '-t tcp -a stonebox -s 8009 {options}' >> /etc/nvme/discovery.conf\n"
            ))
        );
        assert!(text.contains("# ctrl-loss-tmo=-1 never gives up, so files wait"));
        let pool = healthy();
        assert!(text.contains(". Or mkfs.xfs -s size=4096: "));
        assert!(text.contains(&format!("mkfs.ext4 /dev/disk/by-id/nvme-uuid.{}\n", pool.volumes[0].uuid)));
        let by_hand =
            format!("nvme connect -t tcp -a stonebox -s 4420 -n {} {options}\n", nqn_of(&pool.uuid));
        assert!(text.contains(&by_hand), "{text}");
        assert!(printed(Spoken::Nvme, "0.0.0.0:4444").contains("-s 4444 --ctrl"), "it is asked there, too");
    }
}
