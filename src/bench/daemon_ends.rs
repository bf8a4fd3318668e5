//! What a daemon on this machine lends to a benchmark: where its drives are, an export in memory, and a scratch
//! volume of the same kind as the one that is measured.
//!
//! The export goes away with the connection that asked for it, also when this process dies. The scratch volume is
//! destroyed when it is given back, and when the loan is dropped.

use super::measure_nvme::Which;
use super::{Endpoint, Ends, NETWORK_EXPORT, NamespaceEnd, Plan};
use crate::base::limits::BLOCK;
use crate::base::units::round_down;
use crate::cli::args::Globals;
use crate::control::api::{
    DriveState, Failure, PoolReport, Reply, Request, StatusReport, VolumeCreate, VolumeReport,
};
use crate::control::client::{Client, ClientError};
use crate::io::driver::Address;
use crate::nvmf::subsystem::nqn_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the daemon may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// How long connections to the scratch volume may linger before it can be destroyed.
const LINGER: Duration = Duration::from_secs(5);

/// Of a pool's free space, the part that a scratch volume may take.
const SCRATCH_SHARE: u64 = 4;

/// The smallest scratch volume that is worth measuring with, bytes.
const SCRATCH_MIN: u64 = 16 << 20;

/// What was lent.
pub struct Borrowed {
    control: PathBuf,
    scratch: Option<String>,
    /// The connection that the export in memory lives as long as.
    _network: Option<Client>,
}

impl Borrowed {
    /// Gives everything back, and says so if that failed.
    pub fn give_back(mut self) -> Result<(), Failure> {
        self.destroy_scratch()
    }

    fn destroy_scratch(&mut self) -> Result<(), Failure> {
        let Some(volume) = self.scratch.take() else { return Ok(()) };
        let until = Instant::now() + LINGER;
        loop {
            let destroy = Request::VolumeDestroy { volume: volume.clone() };
            match connect(&self.control).and_then(|mut client| ask(&mut client, &destroy)) {
                Ok(_) => return Ok(()),
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(100)),
                Err(failure) => {
                    return Err(failure.with(format!("to remove it: drystone volume destroy {volume}")));
                }
            }
        }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Err(failure) = self.destroy_scratch() {
            // Nobody is left to take the error; the user can still act on the words.
            eprintln!("warning [{}]: {}", failure.code, failure.message);
        }
    }
}

fn connect(control: &Path) -> Result<Client, Failure> {
    Client::connect(control).map_err(|error| {
        let failure = Failure::failed("DAEMON_UNREACHABLE", format!("no daemon to ask: {error}"));
        match error {
            ClientError::NoDaemon => {
                failure.with("name disks or an nbd:// address, or start `drystone serve`")
            }
            ClientError::Socket(_) | ClientError::Silent(_) | ClientError::Gone | ClientError::Garbage(_) => {
                failure
            }
        }
    })
}

fn ask(client: &mut Client, request: &Request) -> Result<Reply, Failure> {
    let reply = client.ask(request, ANSWER);
    match reply.map_err(|error| Failure::failed("DAEMON_UNREACHABLE", format!("the daemon: {error}")))? {
        Reply::Failed(failure) => Err(failure),
        reply => Ok(reply),
    }
}

/// Finds the drives behind a volume (or behind the only pool) and borrows what is needed to measure them.
pub fn borrow(
    globals: &Globals,
    volume: Option<&str>,
    plan: &Plan,
    ends: &mut Ends,
) -> Result<Borrowed, Failure> {
    let control = globals.control.clone();
    let mut client = connect(&control)?;
    let status = status(&mut client)?;
    let (pool, volume) = choose(&status, volume)?;
    let address = address(&status.listening)?;
    let pool_name = &pool.name;
    ends.target = volume.map_or_else(|| format!("pool {pool_name}"), |v| format!("volume {}", v.name));
    ends.copies = volume.map_or(pool.copies, |v| v.copies);
    if ends.drives.is_empty() {
        let active = pool.drives.iter().filter(|d| d.state == DriveState::Active);
        ends.drives = active.map(|d| d.path.clone().into()).collect();
    }
    ends.volume = volume.map(|v| Endpoint { address: address.clone(), export: v.name.clone() });
    let network = client_with_network(&control, plan);
    ends.network =
        network.as_ref().map(|(_, export)| Endpoint { address: address.clone(), export: export.clone() });
    ends.network_lent = network.is_some();
    let scratch = make_scratch(&mut client, pool, volume, plan);
    ends.namespace = namespace(&mut client, &status, pool, scratch.as_deref().or(volume.map(|v| &*v.name)));
    ends.namespace_lent = scratch.is_some();
    ends.scratch = scratch.as_ref().map(|name| Endpoint { address, export: name.clone() });
    Ok(Borrowed { control, scratch, _network: network.map(|(client, _)| client) })
}

fn status(client: &mut Client) -> Result<StatusReport, Failure> {
    match ask(client, &Request::Status { pool: None })? {
        Reply::Status(status) => Ok(status),
        _ => Err(Failure::failed("ANSWER_UNEXPECTED", "the daemon answered something else")),
    }
}

/// Where NVMe/TCP hosts find a volume; None where the daemon does not serve them. The volume may be newer than what is
/// known of the pool.
fn namespace(
    client: &mut Client,
    known: &StatusReport,
    pool: &PoolReport,
    volume: Option<&str>,
) -> Option<NamespaceEnd> {
    let address = address(&known.listening_nvme).ok()?;
    let now = status(client).ok()?;
    let volumes = now.pools.iter().filter(|p| p.uuid == pool.uuid).flat_map(|p| &p.volumes);
    let uuid = volumes.filter(|v| Some(v.name.as_str()) == volume).find_map(|v| v.uuid.parse().ok())?;
    let subsystem = nqn_of(pool.uuid.parse::<uuid::Uuid>().ok()?);
    Some(NamespaceEnd { address, subsystem, which: Which::Volume(uuid) })
}

/// The volume of this name and its pool; without a name the only pool.
fn choose<'a>(
    status: &'a StatusReport,
    volume: Option<&str>,
) -> Result<(&'a PoolReport, Option<&'a VolumeReport>), Failure> {
    match (volume, status.pools.as_slice()) {
        (Some(name), pools) => {
            let all = pools.iter().flat_map(|pool| pool.volumes.iter().map(move |volume| (pool, volume)));
            let found = all.into_iter().find(|(_, volume)| volume.name == name);
            let found = found.map(|(pool, volume)| (pool, Some(volume)));
            found.ok_or_else(|| Failure::failed("NO_VOLUME", format!("there is no volume or disk `{name}`")))
        }
        (None, [pool]) => Ok((pool, None)),
        (None, []) => Err(Failure::failed("NO_VOLUME", "no pool is open: name disks or an nbd:// address")),
        (None, _) => Err(Failure::failed("NO_VOLUME", "there are several pools: name a volume of one")),
    }
}

/// An address that the daemon listens on, as it is reached from this machine.
fn address(listening: &[String]) -> Result<Address, Failure> {
    let parse = |text: &String| match text.strip_prefix("unix:") {
        Some(path) => Some(Address::Unix(path.into())),
        None => text.parse().ok().map(|address| Address::Tcp(from_here(address))),
    };
    let mut found: Vec<Address> = listening.iter().filter_map(parse).collect();
    // TCP first: that is what clients elsewhere use.
    found.sort_by_key(|address| matches!(address, Address::Unix(_)));
    let first = found.into_iter().next();
    first.ok_or_else(|| Failure::failed("NOT_SERVING", "the daemon serves no NBD address"))
}

/// A wildcard address is listened on, not connected to.
fn from_here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// Asks for the export in memory on a connection of its own; without it the network is not measured.
fn client_with_network(control: &Path, plan: &Plan) -> Option<(Client, String)> {
    let mut client = connect(control).ok()?;
    match ask(&mut client, &Request::BenchBegin { size_bytes: plan.region.0 }) {
        Ok(Reply::Bench { export }) => Some((client, export)),
        Ok(Reply::Done { .. }) => Some((client, NETWORK_EXPORT.to_owned())),
        Ok(_) | Err(_) => None,
    }
}

/// A volume like the one that is measured, but for its name and size; None where there is no room for it: then
/// the volume itself is read, and writes are not measured.
fn make_scratch(
    client: &mut Client,
    pool: &PoolReport,
    like: Option<&VolumeReport>,
    plan: &Plan,
) -> Option<String> {
    let create = scratch_volume(pool, like, plan, std::process::id())?;
    let name = create.name.clone();
    ask(client, &Request::VolumeCreate(create)).ok().map(|_| name)
}

fn scratch_volume(
    pool: &PoolReport,
    like: Option<&VolumeReport>,
    plan: &Plan,
    unique: u32,
) -> Option<VolumeCreate> {
    let copies = like.map_or(pool.copies, |v| v.copies);
    let free = pool.free_bytes.get(usize::from(copies).checked_sub(1)?)?;
    let size_bytes = round_down(plan.region.0.min(free / SCRATCH_SHARE), BLOCK.max(1 << 20));
    (size_bytes >= SCRATCH_MIN).then(|| VolumeCreate {
        name: format!("drystone-bench-{unique}"),
        size_bytes,
        pool: Some(pool.name.clone()),
        copies: Some(copies),
        stripe_unit_bytes: like.map(|v| v.stripe_unit_bytes),
        checksums: like.is_none_or(|v| v.checksums),
        lba_bytes: like.map(|v| v.lba_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::PoolState;

    fn volume(name: &str, copies: u8) -> VolumeReport {
        VolumeReport {
            name: name.to_owned(),
            pool: "tank".to_owned(),
            uuid: String::new(),
            size_bytes: 1 << 40,
            copies,
            fewest_copies: 0,
            lacking_slots: 0,
            surplus_slots: 0,
            columns: 2,
            stripe_unit_bytes: 65536,
            checksums: false,
            lba_bytes: 512,
            namespace: 1,
            allocated_bytes: 0,
            single_copy_bytes: 0,
            unavailable_bytes: 0,
            connections: 0,
            unavailable: Vec::new(),
            unavailable_more: false,
        }
    }

    fn pool(free_bytes: [u64; 3]) -> PoolReport {
        PoolReport {
            name: "tank".to_owned(),
            uuid: String::new(),
            state: PoolState::Safe,
            copies: 2,
            extent_bytes: 1 << 20,
            raw_bytes: 0,
            free_bytes,
            usable_bytes: [0; 3],
            allocated_bytes: 0,
            below_promise_bytes: 0,
            single_copy_bytes: 0,
            unavailable_bytes: 0,
            heal_needed_bytes: 0,
            heal_possible: true,
            heal_spare_bytes: None,
            heal_short_bytes: 0,
            reserve_enforced: false,
            protected_bytes: 0,
            heal_bytes_per_second: 60_000_000,
            heal_rate_measured: false,
            drives: Vec::new(),
            spreading: false,
            volumes: vec![volume("data", 1), volume("more", 2)],
            votes_present: 3,
            votes_total: 3,
            epoch: 1,
            forced: false,
            work: Vec::new(),
            last_scrub: None,
            next_scrub_unix_ns: None,
            lost: vec![],
            full_in_seconds: None,
        }
    }

    #[test]
    fn a_scratch_volume_is_like_the_measured_one_and_leaves_room() {
        let plan = Plan::default();
        let tank = pool([8 << 30, 4 << 30, 0]);
        let like = scratch_volume(&tank, Some(&tank.volumes[0]), &plan, 7).unwrap();
        assert_eq!((like.copies, like.stripe_unit_bytes, like.checksums), (Some(1), Some(65536), false));
        assert_eq!(like.size_bytes, 1 << 30);
        assert_eq!(crate::cli::args::parse_name(&like.name), Ok("drystone-bench-7".to_owned()));
        let small = scratch_volume(&pool([100 << 20, 68 << 20, 0]), None, &plan, 7).unwrap();
        assert_eq!((small.copies, small.size_bytes, small.checksums), (Some(2), 17 << 20, true));
        assert_eq!(scratch_volume(&pool([100 << 20, 60 << 20, 0]), None, &plan, 7), None);
    }

    #[test]
    fn the_volume_is_found_by_name_and_the_only_pool_without() {
        let one =
            StatusReport { pools: vec![pool([0; 3])], listening: Vec::new(), listening_nvme: Vec::new() };
        assert_eq!(choose(&one, Some("more")).unwrap().1.unwrap().name, "more");
        assert!(choose(&one, None).unwrap().1.is_none());
        assert_eq!(choose(&one, Some("less")).unwrap_err().code, "NO_VOLUME");
        let two = StatusReport {
            pools: vec![pool([0; 3]), pool([0; 3])],
            listening: Vec::new(),
            listening_nvme: Vec::new(),
        };
        assert_eq!(choose(&two, None).unwrap_err().code, "NO_VOLUME");
    }

    #[test]
    fn wildcards_are_reached_on_loopback_and_tcp_comes_first() {
        let found = |texts: &[&str]| address(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        let tcp = |text: &str| Ok(Address::Tcp(text.parse().unwrap()));
        assert_eq!(found(&["unix:/run/x", "0.0.0.0:10809"]), tcp("127.0.0.1:10809"));
        assert_eq!(found(&["[::]:7"]), tcp("[::1]:7"));
        assert_eq!(found(&["10.0.0.5:10809"]), tcp("10.0.0.5:10809"));
        assert_eq!(found(&["unix:/run/x"]), Ok(Address::Unix("/run/x".into())));
        assert_eq!(found(&["rubbish"]).unwrap_err().code, "NOT_SERVING");
    }
}
