//! What can be typed: the command line's grammar, and the values in it.

use super::events::{Since, parse_since};
use crate::base::limits::{COPIES_MAX, LBA_BYTES, LBA_BYTES_DEFAULT, MEMORY_DEFAULT, MEMORY_MIN, NAME_MAX};
use crate::base::size::parse_size;
use crate::base::units::ByteLen;
use crate::io::driver::Address;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The port that IANA gave to NBD.
pub const NBD_PORT: u16 = 10809;

/// Where NVMe/TCP hosts look for volumes, and for somebody who knows where volumes are.
pub const NVME_PORT: u16 = 4420;
pub const NVME_DISCOVERY_PORT: u16 = 8009;

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Spoken {
    Nbd,
    Nvme,
}

/// One `--nvme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NvmeListen {
    Off,
    At(SocketAddr),
}

const STATE_DEFAULT: &str = "/var/lib/drystone";
const CONTROL_DEFAULT: &str = "/run/drystone/control.sock";

/// Mismatched drives as one redundant disk, served over NBD.
#[derive(Parser, Debug)]
#[command(name = "drystone", version, about, max_term_width = 110, disable_help_subcommand = true)]
#[command(after_help = "DISK is a block device (sda, /dev/sda, a by-id name) or a regular file.\n\
    SIZE is a number and a unit; 80GB and 80GiB mean what they say.\n\
    Exit codes: 0 done, 1 failed, 2 usage, 3 refused and nothing written, 4 daemon not reachable,\n\
    5 interrupted while work goes on. `check` has its own.")]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Debug, Clone)]
pub struct Globals {
    /// The folder with the witness and the places of known disks
    #[arg(long, global = true, value_name = "DIR", env = "DRYSTONE_STATE", default_value = STATE_DEFAULT)]
    pub state: PathBuf,
    /// The daemon's control socket
    #[arg(long, global = true, value_name = "SOCKET", env = "DRYSTONE_CONTROL", default_value = CONTROL_DEFAULT)]
    pub control: PathBuf,
    /// Print JSON on stdout, and never ask
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// What these drives would give; writes nothing
    Plan(PlanArgs),
    /// Make, find, look at and end pools
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Make, look at and change volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// The drives of this machine
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Serve the volumes of all known pools, in the foreground
    Serve(ServeArgs),
    /// How clients reach the volumes
    #[command(subcommand)]
    Export(ExportCommand),
    /// One screen: safe? what if a drive dies? what to do
    Status(StatusArgs),
    /// Measure disk, network and end to end, and name the bottleneck
    Bench(BenchArgs),
    /// One line for monitoring; exit 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN
    Check(CheckArgs),
    /// Try everything on files in a temporary folder
    Demo(DemoArgs),
    /// What a code means, and what to do
    Explain(ExplainArgs),
    /// What happened, newest last; times are UTC
    Events(EventsArgs),
    /// Live: link, cores, drives, volumes, background work, and what the limit is now; q ends it
    Top(TopArgs),
}

#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Block devices or files
    #[arg(required_unless_present = "add", value_name = "DISK")]
    pub disks: Vec<String>,
    /// What this pool would be with them, instead of a pool of their own
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// The same disks, named behind --pool
    #[arg(long, value_name = "DISK", num_args = 1.., requires = "pool", conflicts_with = "disks")]
    pub add: Vec<String>,
}

#[derive(Subcommand, Debug)]
pub enum PoolCommand {
    /// Format disks as a pool; refuses disks that hold something
    Create(PoolCreateArgs),
    /// The pools that are known here
    List,
    /// A pool in detail
    Show { pool: Option<String> },
    /// Open a pool whose disks came from elsewhere
    Import(PoolImportArgs),
    /// Close a pool cleanly, so that its disks can go elsewhere
    Export { pool: String },
    /// Read every copy of everything and repair what is wrong
    Scrub(PoolScrubArgs),
    /// End a pool and everything in it
    Destroy(PoolDestroyArgs),
}

/// What a pool promises to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protect {
    /// One copy
    None,
    /// The loss of any one drive
    Drive,
    /// The loss of any one machine
    Machine,
}

#[derive(Args, Debug)]
pub struct PoolCreateArgs {
    #[arg(value_parser = parse_name)]
    pub name: String,
    #[arg(required = true, value_name = "DISK")]
    pub disks: Vec<String>,
    /// What volumes survive unless they ask for something else; `drive` unless given
    #[arg(long, value_enum)]
    pub protect: Option<Protect>,
    /// Copies of every block, on different drives
    #[arg(long, value_parser = parse_copies)]
    pub copies: Option<u8>,
    /// The unit of allocation, a power of two from 1MiB to 256MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub extent: Option<ByteLen>,
    /// A disk of this pool whose present content may be lost; once for each
    #[arg(long, value_name = "DISK")]
    pub erase: Vec<String>,
    /// Answer the question that is asked before erasing
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args, Debug)]
pub struct PoolImportArgs {
    /// The disks to look at; those remembered from before if none are given
    #[arg(value_name = "DISK")]
    pub disks: Vec<String>,
    /// The pool's name, where the disks hold several
    #[arg(long)]
    pub pool: Option<String>,
    /// Open without a majority of the members, and record that: the others are refused for ever
    #[arg(long)]
    pub force: bool,
    /// Answer the question that --force asks
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args, Debug)]
pub struct PoolScrubArgs {
    pub pool: Option<String>,
    /// Show how far a scrub is, how the last one ended and when the next one begins; begin none
    #[arg(long, conflicts_with_all = ["wait", "every"])]
    pub status: bool,
    /// From now on begin one by itself so many days after the last one ended, 0 for never; 30 unless set
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(0..=3650), conflicts_with = "wait")]
    pub every: Option<u32>,
    /// Come back when it has ended
    #[arg(long)]
    pub wait: bool,
}

#[derive(Args, Debug)]
pub struct PoolDestroyArgs {
    pub pool: String,
    /// Answer the question that is asked before
    #[arg(long)]
    pub yes: bool,
}

#[derive(Subcommand, Debug)]
pub enum VolumeCommand {
    /// Make a volume; it takes space as it is written
    Create(VolumeCreateArgs),
    /// All volumes
    List {
        #[arg(long)]
        pool: Option<String>,
    },
    /// A volume in detail
    Show { volume: String },
    /// Make a volume larger
    Grow {
        volume: String,
        /// The new size
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        size: ByteLen,
    },
    /// Make a volume smaller, while nobody has it attached
    Shrink {
        volume: String,
        /// The new size
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        size: ByteLen,
        /// Answer the question that is asked before data is given up
        #[arg(long)]
        yes: bool,
    },
    /// Change how many copies a volume has, while it is in use
    Set(VolumeSetArgs),
    /// Give a volume another name
    Rename {
        volume: String,
        #[arg(value_parser = parse_name)]
        name: String,
    },
    /// End a volume and what is in it
    Destroy {
        volume: String,
        /// Answer the question that is asked before
        #[arg(long)]
        yes: bool,
    },
    /// Put a volume together in a new file from whatever drives are left; writes to none of them
    Salvage(VolumeSalvageArgs),
}

#[derive(Args, Debug)]
pub struct VolumeSetArgs {
    pub volume: String,
    /// Copies of every block, on different drives
    #[arg(long, value_parser = parse_copies, required_unless_present = "protect")]
    pub copies: Option<u8>,
    /// What the volume is to survive
    #[arg(long, value_enum)]
    pub protect: Option<Protect>,
    /// One copy is enough: what a drive has that dies is lost
    #[arg(long)]
    pub allow_unprotected: bool,
    /// Answer the question that is asked before copies are given up
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args, Debug)]
pub struct VolumeCreateArgs {
    #[arg(value_parser = parse_name)]
    pub name: String,
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub size: ByteLen,
    /// May be left out when there is one pool
    #[arg(long)]
    pub pool: Option<String>,
    /// Copies of every block; the pool's number unless given
    #[arg(long, value_parser = parse_copies)]
    pub copies: Option<u8>,
    /// How much lies on one drive before the next one's turn
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub stripe_unit: Option<ByteLen>,
    /// Do not keep checksums: wrong bytes of a drive are not noticed
    #[arg(long)]
    pub no_checksum: bool,
    /// Bytes of a sector that NVMe hosts see; 512 works everywhere
    #[arg(long, value_name = "BYTES", default_value_t = LBA_BYTES_DEFAULT, value_parser = parse_lba)]
    pub lba: u32,
}

#[derive(Args, Debug)]
pub struct VolumeSalvageArgs {
    /// The volume's name or uuid
    pub volume: String,
    /// All drives of its pool that can still be read
    #[arg(required = true, value_name = "DISK")]
    pub disks: Vec<String>,
    /// The file to make; it gets the volume's size, and takes space only for what was written
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Write what became of each range into this new file: offset, length, status; one range a line
    #[arg(long, value_name = "FILE")]
    pub map: Option<PathBuf>,
    /// The pool's name or uuid, where the disks hold several
    #[arg(long)]
    pub pool: Option<String>,
}

#[derive(Subcommand, Debug)]
pub enum DiskCommand {
    /// Every drive of this machine and what it holds
    List,
    /// A drive in detail
    Show {
        #[arg(value_name = "DISK")]
        disk: String,
    },
    /// Make a pool larger: empty drives join it, and what is stored spreads over all of them by itself
    Add(AddArgs),
    /// Where a drive is: serial number, connector, and its light
    Locate(LocateArgs),
    /// Empty a drive and take it out of its pool, while clients go on; or give up one that is gone
    Remove(RemoveArgs),
    /// Take a drive out and put another one in its place, while clients go on
    Replace(ReplaceArgs),
}

#[derive(Args, Debug)]
pub struct AddArgs {
    #[arg(value_name = "DISK", required = true)]
    pub disks: Vec<String>,
    /// The pool, where there are several
    #[arg(long)]
    pub pool: Option<String>,
    /// This disk may be erased although it holds something; once for each such disk
    #[arg(long, value_name = "DISK")]
    pub erase: Vec<String>,
    /// Do not ask; gives no permission to erase
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// The drive's name in `drystone status`
    #[arg(value_name = "DRIVE")]
    pub disk: String,
    /// It is dead or will not come back: its copies are made anew on the others now. If it comes back, it is not used again
    #[arg(long, conflicts_with = "cancel")]
    pub dead: bool,
    /// It was to be taken out, and stays after all
    #[arg(long)]
    pub cancel: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args, Debug)]
pub struct ReplaceArgs {
    /// The drive's name in `drystone status`
    #[arg(value_name = "OLD")]
    pub old: String,
    /// The empty drive that comes in its place
    #[arg(value_name = "NEW")]
    pub new: String,
    /// NEW may be erased although it holds something
    #[arg(long, value_name = "NEW")]
    pub erase: Vec<String>,
    /// Do not ask; gives no permission to erase
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args, Debug)]
pub struct LocateArgs {
    #[arg(value_name = "DISK")]
    pub disk: String,
    /// Read from it in bursts for so many seconds, so that its light blinks
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=3600))]
    pub blink: u32,
}

#[derive(Args, Debug, Clone)]
pub struct ServeArgs {
    /// Where NBD clients connect: ADDRESS[:PORT] or unix:PATH; may be given more than once
    #[arg(long, value_name = "ADDR", value_parser = parse_listen, default_value = "127.0.0.1:10809")]
    pub nbd: Vec<Address>,
    /// Where NVMe/TCP hosts connect: ADDRESS[:PORT], or `off`; may be given more than once. Beside port 4420 port 8009
    /// tells them what there is
    #[arg(long, value_name = "ADDR", value_parser = parse_nvme_listen, default_value = "127.0.0.1:4420")]
    pub nvme: Vec<NvmeListen>,
    /// The CPUs to run on, such as 0,2-3; all that this process may use unless given
    #[arg(long, value_name = "LIST", value_parser = parse_cores)]
    pub cores: Option<CoreList>,
    /// Memory for buffers and caches
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, default_value = "512MiB")]
    pub memory: ByteLen,
    /// A drive that was away for so long is given up: its copies are made anew in free space
    #[arg(long, value_name = "MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=525_600))]
    pub rebuild_after: u32,
    /// What must stay free to heal after losing the largest drive: `warn` when it is nearly used, or `enforce` it, so
    /// that writes to new places are refused with "no space" instead
    #[arg(long, value_enum, default_value_t = Reserve::Warn)]
    pub reserve: Reserve,
}

/// What becomes of a write that would take what must stay free.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    Warn,
    Enforce,
}

/// CPU numbers, ascending, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(pub Vec<usize>);

#[derive(Subcommand, Debug)]
pub enum ExportCommand {
    /// Volumes and where clients find them
    List,
    /// One volume
    Show {
        volume: String,
        /// Print the commands for the client machine
        #[arg(long)]
        for_client: bool,
        /// What the client is to speak; NVMe/TCP unless the daemon does not serve it
        #[arg(long, value_enum, requires = "for_client")]
        protocol: Option<Spoken>,
    },
}

#[derive(Args, Debug)]
pub struct StatusArgs {
    pub pool: Option<String>,
}

#[derive(Args, Debug)]
pub struct CheckArgs {
    pub pool: Option<String>,
}

#[derive(Args, Debug, Clone)]
pub struct BenchArgs {
    /// nbd:// or nvme:// addresses, volumes or disks; everything that is known unless given
    #[arg(value_name = "URI|VOLUME|DISK")]
    pub targets: Vec<String>,
    /// Another NBD server to measure in turns with the volume, such as nbd+unix:///?socket=PATH; up to 4 times.
    /// It is only read, unless --against-write
    #[arg(long, value_name = "URI")]
    pub against: Vec<String>,
    /// Also write to the servers of --against: DESTROYS what the first part of them holds (up to 1 GiB). Only where
    /// drystone can make a scratch volume to write to as well
    #[arg(long, requires = "against")]
    pub against_write: bool,
    /// Time for each measurement; each server of --against takes 3 times as long
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Write the report into this folder
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Args, Debug, Clone)]
pub struct DemoArgs {
    /// Leave it serving, and print how to attach
    #[arg(long)]
    pub keep: bool,
}

#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// All codes unless given
    pub code: Option<String>,
}

#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Go on showing what happens, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Only what happened since: a duration such as 90s, 10m, 2h, 3d, or a time such as 2026-05-01T08:30:00Z
    #[arg(long, value_name = "DURATION|TIME", value_parser = parse_since)]
    pub since: Option<Since>,
    /// Only this pool, and the daemon
    #[arg(long)]
    pub pool: Option<String>,
}

#[derive(Args, Debug)]
pub struct TopArgs {
    /// Seconds from one picture to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub interval: u32,
    /// Print one picture as text, and end; so does a pipe, and --json
    #[arg(long)]
    pub once: bool,
}

/// A pool's or volume's name: it appears in NBD addresses and shell commands, so it is plain.
pub fn parse_name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= NAME_MAX;
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if fits && plain && !text.starts_with(['-', '.']) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a name has 1 to {NAME_MAX} letters, digits, `-`, `_` or `.`, and starts with none of `-` and `.`"
        ))
    }
}

fn parse_copies(text: &str) -> Result<u8, String> {
    let copies = text.parse::<u8>().ok().filter(|n| (1..=COPIES_MAX).contains(&usize::from(*n)));
    copies.ok_or_else(|| format!("a number from 1 to {COPIES_MAX}"))
}

fn parse_lba(text: &str) -> Result<u32, String> {
    let bytes = text.parse::<u32>().ok().filter(|n| LBA_BYTES.contains(n));
    bytes.ok_or_else(|| "512 or 4096".to_owned())
}

fn parse_memory(text: &str) -> Result<ByteLen, String> {
    let size = parse_size(text).map_err(|e| e.to_string())?;
    if size.0 < MEMORY_MIN { Err(format!("{}MiB at least", MEMORY_MIN >> 20)) } else { Ok(size) }
}

fn parse_listen(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() {
            Err("unix: needs a path".to_owned())
        } else {
            Ok(Address::Unix(path.into()))
        };
    }
    parse_socket(text, NBD_PORT)
        .map(Address::Tcp)
        .ok_or("an address such as 0.0.0.0, 192.168.1.5:10809, [::]:10809 or unix:PATH".to_owned())
}

fn parse_nvme_listen(text: &str) -> Result<NvmeListen, String> {
    if text == "off" {
        return Ok(NvmeListen::Off);
    }
    parse_socket(text, NVME_PORT)
        .map(NvmeListen::At)
        .ok_or("an address such as 0.0.0.0, 192.168.1.5:4420, [::]:4420, or off".to_owned())
}

/// An address with or without a port.
fn parse_socket(text: &str, port: u16) -> Option<SocketAddr> {
    let text = text.replacen("localhost", "127.0.0.1", 1);
    let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
    text.parse::<SocketAddr>().or(bare).ok()
}

fn parse_cores(text: &str) -> Result<CoreList, String> {
    let malformed = || format!("`{text}` is not a list of CPUs such as 0,2-3");
    let mut cores = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |n: &str| n.trim().parse::<usize>().ok().filter(|n| *n < 4096).ok_or_else(malformed);
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(malformed());
        }
        cores.extend(first..=last);
    }
    Ok(CoreList(cores.into_iter().collect()))
}

const _: () = assert!(MEMORY_DEFAULT == 512 << 20, "the default of --memory says so");

#[cfg(test)]
mod tests;
