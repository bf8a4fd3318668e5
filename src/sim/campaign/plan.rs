//! What a seed stands for: drives, volumes, dials and the size of the load. Decided before anything runs, each
//! part from a generator of its own, so that leaving a fault out changes nothing else.

use crate::base::prng::Prng;
use crate::base::units::ByteLen;
use crate::pool::planted::Planted;
use crate::sim::DiskShape;

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
}

/// All of them.
pub const FAULTS: [Fault; 9] = [
    Fault::PowerCut,
    Fault::Kill,
    Fault::CrashInRecovery,
    Fault::Unplug,
    Fault::Failing,
    Fault::ReadError,
    Fault::Rot,
    Fault::Slow,
    Fault::Minority,
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
    /// A bug that the pool is given; takes effect in test builds only.
    pub planted: Planted,
    /// Says each step as it comes, on standard error.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { without: Vec::new(), requests_max: 60, rounds_max: 4, planted: Planted::None, trace: false }
    }
}

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
    pub extent: Option<ByteLen>,
    pub cores: u16,
    /// Memory for regions, bytes: little of it, so that regions are forgotten and loaded again.
    pub cache: ByteLen,
    pub volumes: Vec<VolumeSpec>,
    pub clients: u64,
    pub requests: u64,
    pub rounds: u64,
    pub faults: Vec<Fault>,
}

impl Plan {
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

/// The plan of a seed.
pub fn plan(seed: u64, options: &Options) -> Plan {
    let mut root = Prng::from_seed(seed ^ 0xca3b_a160_0000_0001);
    let [mut shapes, mut volumes, mut dials, mut size] = [(); 4].map(|()| root.fork());
    let drives: Vec<DiskShape> = (0..drive_count(&mut shapes)).map(|_| drive(&mut shapes)).collect();
    let extent = pick(&mut shapes, &[None, None, None, Some(2 << 20), Some(4 << 20)]);
    let count = 1 + volumes.below(3);
    // Drawn for every fault, so that one left out does not move the others.
    let drawn: Vec<Fault> = FAULTS.into_iter().filter(|_| dials.below(3) > 0).collect();
    Plan {
        extent: extent.map(ByteLen),
        cores: pick(&mut shapes, &[1, 2, 2]),
        cache: ByteLen(pick(&mut shapes, &[0, 0, 1 << 20, 8 << 20])),
        volumes: (0..count).map(|_| volume(&mut volumes, drives.len())).collect(),
        clients: 1 + size.below(6),
        requests: (10 + size.below(60)).min(options.requests_max),
        rounds: (1 + size.below(4)).min(options.rounds_max),
        faults: drawn.into_iter().filter(|f| !options.without.contains(f)).collect(),
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
