//! What a seed stands for: drives, volumes, dials and the size of the load. Decided before anything runs, each
//! part from a generator of its own, so that leaving a fault out changes nothing else.

use crate::base::prng::Prng;
use crate::base::units::ByteLen;
use crate::pool::planted::Planted;
use crate::sim::DiskShape;
use std::time::Duration;

/// A kind of fault that a run may have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Power cuts while requests are served.
    PowerCut,
    /// Process kills while requests are served.
    Kill,
    /// Either of them again while the pool opens.
    CrashInRecovery,
    /// A member is unplugged while it serves, or absent at an opening; it comes back old.
    Unplug,
    /// A write or a flush of one member fails.
    Failing,
    /// Unreadable sectors on one copy.
    ReadError,
    /// Flipped bits at rest on one copy of volumes with checksums.
    Rot,
    /// A member is slow.
    Slow,
    /// The pool is opened without a majority, which must be refused.
    Minority,
    /// A member does not answer for a while.
    Hang,
    /// Reads of one member fail now and then; some sectors stay unreadable until they are written.
    Transient,
    /// Sectors of one member that cannot be written.
    BadSector,
    /// One member acknowledges writes that it stored nowhere or elsewhere, and reads from elsewhere.
    LostWrite,
    /// A member takes up to seconds now and then.
    Stutter,
    /// A member comes back as it was some lives ago.
    Old,
    /// Twins, drives of nobody under a member's path, exchanged paths, truncated drives, a lost or old witness.
    Stranger,
    /// More is lost at a time than the copies bear: errors are right then, other data never is.
    Beyond,
    /// Clients come over a network, which breaks connections, falls silent, and loses client machines.
    Network,
    /// Volumes are made, grown, renamed and destroyed while requests are served; scrubs begin, drives are given up.
    Operator,
}

/// All of them.
pub const FAULTS: [Fault; 19] = [
    Fault::PowerCut,
    Fault::Kill,
    Fault::CrashInRecovery,
    Fault::Unplug,
    Fault::Failing,
    Fault::ReadError,
    Fault::Rot,
    Fault::Slow,
    Fault::Minority,
    Fault::Hang,
    Fault::Transient,
    Fault::BadSector,
    Fault::LostWrite,
    Fault::Stutter,
    Fault::Old,
    Fault::Stranger,
    Fault::Beyond,
    Fault::Network,
    Fault::Operator,
];

impl Fault {
    /// The word that names it on a command line.
    pub fn word(self) -> &'static str {
        match self {
            Fault::PowerCut => "power-cut",
            Fault::Kill => "kill",
            Fault::CrashInRecovery => "crash-in-recovery",
            Fault::Unplug => "unplug",
            Fault::Failing => "failing",
            Fault::ReadError => "read-error",
            Fault::Rot => "rot",
            Fault::Slow => "slow",
            Fault::Minority => "minority",
            Fault::Hang => "hang",
            Fault::Transient => "transient",
            Fault::BadSector => "bad-sector",
            Fault::LostWrite => "lost-write",
            Fault::Stutter => "stutter",
            Fault::Old => "old",
            Fault::Stranger => "stranger",
            Fault::Beyond => "beyond",
            Fault::Network => "network",
            Fault::Operator => "operator",
        }
    }
}

/// What of a seed is run, and what is planted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Faults that are left out.
    pub without: Vec<Fault>,
    /// Requests of one client in one load, at most.
    pub requests_max: u64,
    /// Loads, at most.
    pub rounds_max: u64,
    /// Drives and volumes, at most.
    pub drives_max: usize,
    pub volumes_max: usize,
    /// A bug that the pool is given; takes effect in test builds only.
    pub planted: Planted,
    /// Says each step as it comes, on standard error.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            without: Vec::new(),
            requests_max: 60,
            rounds_max: 4,
            drives_max: DRIVES_MAX,
            volumes_max: VOLUMES_MAX,
            planted: Planted::None,
            trace: false,
        }
    }
}

/// Drives that are added in a run, at most.
const SPARES_MAX: u64 = 2;

/// Drives and volumes of the largest runs.
const DRIVES_MAX: usize = 5;
const VOLUMES_MAX: usize = 3;

/// A volume to be made.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    pub size: ByteLen,
    pub copies: u8,
    pub unit: Option<ByteLen>,
    pub checksums: bool,
}

/// What a seed stands for.
#[derive(Clone, Debug)]
pub struct Plan {
    pub drives: Vec<DiskShape>,
    /// Drives that an operator may add.
    pub spares: Vec<DiskShape>,
    pub extent: Option<ByteLen>,
    pub cores: u16,
    /// Memory for regions, bytes: little of it, so that regions are forgotten and loaded again.
    pub cache: ByteLen,
    pub volumes: Vec<VolumeSpec>,
    pub clients: u64,
    pub requests: u64,
    pub rounds: u64,
    pub faults: Vec<Fault>,
    /// How long a drive may be away before it is given up.
    pub rebuild_after: Duration,
}

impl Plan {
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Whether every block has a copy on another member.
    pub fn is_mirrored(&self) -> bool {
        self.volumes.iter().all(|v| v.copies > 1)
    }

    /// Members that may lack something at a time without harm to any mirrored volume.
    pub fn spare(&self) -> usize {
        let mirrored = self.volumes.iter().filter(|v| v.copies > 1);
        mirrored.map(|v| usize::from(v.copies) - 1).min().unwrap_or(1)
    }
}

/// The plan of a seed.
pub fn plan(seed: u64, options: &Options) -> Plan {
    let mut root = Prng::from_seed(seed ^ 0xca3b_a160_0000_0001);
    let [mut shapes, mut volumes, mut dials, mut size, mut rebuild, mut spares] =
        [(); 6].map(|()| root.fork());
    let mut drives: Vec<DiskShape> = (0..drive_count(&mut shapes)).map(|_| drive(&mut shapes)).collect();
    let extent = pick(&mut shapes, &[None, None, None, Some(2 << 20), Some(4 << 20)]);
    let count = 1 + volumes.below(3);
    let mut specs: Vec<VolumeSpec> = (0..count).map(|_| volume(&mut volumes, drives.len())).collect();
    drives.truncate(options.drives_max);
    specs.truncate(options.volumes_max);
    let most = u8::try_from(drives.len()).expect("5 at most");
    specs.iter_mut().for_each(|v| v.copies = v.copies.min(most));
    // Drawn for every fault, so that one left out does not move the others.
    let mut is_drawn = |fault: &Fault| match fault {
        // It excuses errors: most runs are better without.
        Fault::Beyond => dials.below(6) == 0,
        // The volumes by themselves are what most of the rules are about.
        Fault::Network | Fault::Operator => dials.below(2) == 0,
        _ => dials.below(3) > 0,
    };
    let drawn: Vec<Fault> = FAULTS.into_iter().filter(|fault| is_drawn(fault)).collect();
    let faults: Vec<Fault> = drawn.into_iter().filter(|f| !options.without.contains(f)).collect();
    let most = if faults.contains(&Fault::Operator) { spares.below(4) } else { 0 };
    Plan {
        spares: (0..most.min(SPARES_MAX)).map(|_| drive(&mut spares)).collect(),
        extent: extent.map(ByteLen),
        cores: pick(&mut shapes, &[1, 2, 2]),
        cache: ByteLen(pick(&mut shapes, &[0, 0, 1 << 20, 8 << 20])),
        volumes: specs,
        clients: 1 + size.below(6),
        requests: (10 + size.below(60)).min(options.requests_max),
        rounds: (1 + size.below(4)).min(options.rounds_max),
        rebuild_after: pick(&mut rebuild, &[0, 5, 200, 3000, 600_000].map(Duration::from_millis)),
        faults,
        drives,
    }
}

fn drive_count(prng: &mut Prng) -> u64 {
    pick(prng, &[1, 2, 2, 2, 3, 3, 3, 4, 5])
}

fn drive(prng: &mut Prng) -> DiskShape {
    let size = ByteLen((70 + prng.below(131)) * 1_000_000 / 4096 * 4096);
    match prng.below(5) {
        0 => DiskShape::spinning(size),
        1 => DiskShape { logical_sector: 4096, ..DiskShape::flash(size) },
        2 => DiskShape { volatile_cache: false, ..DiskShape::flash(size) },
        _ => DiskShape::flash(size),
    }
}

fn volume(prng: &mut Prng, drives: usize) -> VolumeSpec {
    let most = drives.min(3) as u64; // at most 3
    let copies = match prng.chance(200) {
        true => 1 + prng.below(most),
        // Mirrors are what most of the rules are about.
        false => most.min(2 + prng.below(2)),
    };
    VolumeSpec {
        size: ByteLen((1 + prng.below(10)) * (1 << 20) + prng.below(256) * 4096),
        copies: u8::try_from(copies).expect("3 at most"),
        unit: pick(prng, &[None, Some(4 << 10), Some(16 << 10), Some(1 << 20)]).map(ByteLen),
        checksums: prng.chance(600),
    }
}

/// One of a few values.
pub fn pick<T: Copy>(prng: &mut Prng, values: &[T]) -> T {
    values[usize::try_from(prng.below(values.len() as u64)).expect("a list's index")] // widening
}
