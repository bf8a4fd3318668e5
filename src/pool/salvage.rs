//! What is left of a pool, put to use without opening it: the newest log among some drives, and the copies on them.
//!
//! No majority is asked for and nothing is written. What that costs is told: what the newest log may lack, and which
//! bytes may be old.

mod choice;
mod copying;

pub use choice::Fate;
pub use copying::Sink;

use super::create::{WITNESS_AREA, witness_path};
use super::dirty_log::{Plane, read_plane};
use super::layout::{LOG_START, MemberLayout, region_size};
use super::log::{LogArea, Position, Replayed, read_bytes};
use super::quorum::{Tally, Voter, is_forked, tally};
use super::replay::replay;
use super::state::{MemberRecord, MemberState, Rank, State, VolumeRecord};
use super::superblock::Superblock;
use super::survey::superblocks;
use crate::base::bitmap::Bitmap;
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, MemberId, VolumeId};
use crate::disk::{Disk, in_words};
use crate::io::driver::Access;
use crate::reactor::Core;
use choice::rank_of;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Where to look.
#[derive(Clone, Debug)]
pub struct SalvagePlan {
    pub disks: Vec<PathBuf>,
    /// The name or uuid of the pool that is meant, where the drives hold several.
    pub pool: Option<String>,
    /// The folder that the witness may lie in.
    pub witness_folder: PathBuf,
}

/// Why nothing can be salvaged.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error("none of these drives belongs to a pool")]
    NoMembers { left_out: Vec<(PathBuf, String)> },
    #[error("none of these drives belongs to pool {0}")]
    NotOfPool(String),
    #[error("these drives belong to different pools: {}", .0.join(", "))]
    SeveralPools(Vec<String>),
    #[error("{} and {} claim to be the same member: one is a copy of the other", .0.display(), .1.display())]
    Twins(PathBuf, PathBuf),
    #[error("pool {0}: no drive here has a readable metadata log")]
    NoLog(String),
}

/// What is left of a pool. The drives stay open, for looking only, until `close`.
pub struct Remains {
    pub facts: Facts,
    state: State,
    /// The size of a region.
    region: ByteLen,
    drives: BTreeMap<MemberId, Drive>,
    /// Of every member, there or not.
    ranks: BTreeMap<MemberId, Rank>,
}

/// A member that is there.
struct Drive {
    disk: Disk,
    layout: MemberLayout,
    rank: Rank,
    /// None: it cannot be read, so everything may have been being written.
    dirty: Option<Bitmap>,
}

/// What was found, for people.
#[derive(Clone, Debug)]
pub struct Facts {
    pub pool: Uuid,
    pub pool_name: String,
    /// Where the newest log was: a drive, or the witness file.
    pub source: PathBuf,
    pub position: Position,
    /// The pool was closed in order.
    pub clean: bool,
    pub votes: Tally,
    pub drives: Vec<DriveFacts>,
    /// Drives that are of no use, and why.
    pub left_out: Vec<(PathBuf, String)>,
    /// Members that are not there, by their names.
    pub missing: Vec<(String, MemberState)>,
}

/// A drive that is used.
#[derive(Clone, Debug)]
pub struct DriveFacts {
    pub path: PathBuf,
    pub name: String,
    pub state: MemberState,
    /// It holds everything that its pool wrote, as far as the newest log knows.
    pub in_sync: bool,
    pub remarks: Vec<String>,
}

/// A drive with a superblock.
struct Candidate {
    disk: Disk,
    superblock: Superblock,
    layout: MemberLayout,
    remarks: Vec<String>,
    log: Option<Replayed>,
}

/// Opens the drives for looking and finds the newest log among them.
pub async fn find(core: &Core, plan: &SalvagePlan) -> Result<Remains, SalvageError> {
    let (mut candidates, mut left_out) = (Vec::new(), Vec::new());
    for path in &plan.disks {
        match candidate(core, path).await {
            Ok(candidate) => candidates.push(candidate),
            Err(why) => left_out.push((path.clone(), why)),
        }
    }
    if candidates.is_empty() {
        return Err(SalvageError::NoMembers { left_out });
    }
    let pool = match one_pool(&candidates, plan.pool.as_deref()) {
        Ok(pool) => pool,
        Err(error) => return close_all(core, candidates, error).await,
    };
    let (ours, others): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|c| c.superblock.pool == pool);
    for other in others {
        let why = format!("it belongs to pool {}", other.superblock.pool_name);
        left_out.push((other.disk.path().to_owned(), why));
        other.disk.close(core).await;
    }
    if let Some(twins) = twins(&ours) {
        return close_all(core, ours, twins).await;
    }
    let mut remains = together(core, plan, pool, ours).await?;
    remains.facts.left_out.extend(left_out);
    Ok(remains)
}

async fn close_all<T>(
    core: &Core,
    candidates: Vec<Candidate>,
    error: SalvageError,
) -> Result<T, SalvageError> {
    for candidate in candidates {
        candidate.disk.close(core).await;
    }
    Err(error)
}

/// A drive that is a member, or in words why it is of no use.
async fn candidate(core: &Core, path: &Path) -> Result<Candidate, String> {
    let opened = Disk::open(core, path, Access::Inspect).await;
    let disk = opened.map_err(|errno| format!("it cannot be opened: {}", in_words(errno)))?;
    let [front, back] = superblocks(core, &disk).await;
    let (superblock, remark) = match (front.content, back.content) {
        (Ok(superblock), Ok(_)) => (superblock, None),
        (Ok(superblock), Err(flaw)) => (superblock, Some(format!("back superblock: {flaw}"))),
        (Err(flaw), Ok(superblock)) => (superblock, Some(format!("front superblock: {flaw}"))),
        (Err(front), Err(back)) => {
            disk.close(core).await;
            let same = front == back;
            let why = if same { format!("{front}") } else { format!("front: {front}; back: {back}") };
            return Err(format!("it has no sound superblock ({why})"));
        }
    };
    let Some(layout) = superblock.layout() else {
        disk.close(core).await;
        return Err("its superblock gives no layout".to_owned());
    };
    let mut remarks: Vec<String> = remark.into_iter().collect();
    let size = disk.facts().size;
    if size < superblock.size {
        remarks.push(format!("truncated: {} bytes of {}", size.0, superblock.size.0));
    }
    let area = LogArea { start: LOG_START, generation_len: layout.log_generation };
    let log = match replay(core, &disk, area).await {
        Ok(log) => log.filter(|l| l.state.pool == superblock.pool),
        Err(errno) => {
            remarks.push(format!("its metadata log cannot be read: {}", in_words(errno)));
            None
        }
    };
    Ok(Candidate { disk, superblock, layout, remarks, log })
}

/// The pool that is meant.
fn one_pool(candidates: &[Candidate], wanted: Option<&str>) -> Result<Uuid, SalvageError> {
    let meant = |s: &Superblock| wanted.is_none_or(|w| s.pool_name == w || s.pool.to_string() == w);
    let found: BTreeMap<Uuid, &str> = candidates
        .iter()
        .filter(|c| meant(&c.superblock))
        .map(|c| (c.superblock.pool, c.superblock.pool_name.as_str()))
        .collect();
    let mut pools = found.iter();
    match (pools.next(), pools.next()) {
        (Some((pool, _)), None) => Ok(*pool),
        (None, _) => Err(SalvageError::NotOfPool(wanted.unwrap_or_default().to_owned())),
        (Some(_), Some(_)) => {
            let names = found.iter().map(|(pool, name)| format!("{name} ({pool})"));
            Err(SalvageError::SeveralPools(names.collect()))
        }
    }
}

fn twins(candidates: &[Candidate]) -> Option<SalvageError> {
    let mut seen: BTreeMap<Uuid, &Path> = BTreeMap::new();
    candidates.iter().find_map(|c| {
        let other = seen.insert(c.superblock.member, c.disk.path());
        other.map(|other| SalvageError::Twins(other.to_owned(), c.disk.path().to_owned()))
    })
}

/// A log, and where it was found.
struct FoundLog {
    voter: Voter,
    path: PathBuf,
    log: Replayed,
}

/// Puts the drives of one pool together.
async fn together(
    core: &Core,
    plan: &SalvagePlan,
    pool: Uuid,
    mut candidates: Vec<Candidate>,
) -> Result<Remains, SalvageError> {
    let mut logs = Vec::new();
    for candidate in &mut candidates {
        let (voter, path) = (Voter::Member(candidate.superblock.id), candidate.disk.path().to_owned());
        logs.extend(candidate.log.take().map(|log| FoundLog { voter, path, log }));
    }
    logs.extend(witness(core, &plan.witness_folder, pool).await);
    let age = |l: &&FoundLog| (l.log.position.epoch, l.log.position.sequence, std::cmp::Reverse(l.voter));
    let Some(newest) = logs.iter().max_by_key(age) else {
        let name = candidates.first().map_or(String::new(), |c| c.superblock.pool_name.clone());
        return close_all(core, candidates, SalvageError::NoLog(name)).await;
    };
    let state = newest.log.state.clone();
    let facts = Facts {
        pool,
        pool_name: state.name.clone(),
        source: newest.path.clone(),
        position: newest.log.position,
        clean: state.clean,
        votes: tally(&state, logs.iter().map(|l| l.voter)),
        drives: Vec::new(),
        left_out: Vec::new(),
        missing: Vec::new(),
    };
    let region = region_size(state.extent);
    let mut remains = Remains { facts, state, region, drives: BTreeMap::new(), ranks: BTreeMap::new() };
    for candidate in candidates {
        remains.take_in(core, candidate, &logs, &newest.log).await;
    }
    remains.count_missing();
    Ok(remains)
}

async fn witness(core: &Core, folder: &Path, pool: Uuid) -> Option<FoundLog> {
    let path = witness_path(folder, pool);
    let disk = Disk::open(core, &path, Access::Inspect).await.ok()?;
    let log = replay(core, &disk, WITNESS_AREA).await.ok().flatten();
    disk.close(core).await;
    let log = log.filter(|l| l.state.pool == pool)?;
    Some(FoundLog { voter: Voter::Witness, path, log })
}

impl Remains {
    /// The pool's volumes.
    pub fn volumes(&self) -> impl Iterator<Item = (VolumeId, &VolumeRecord)> {
        self.state.volumes.iter().map(|(id, volume)| (*id, volume))
    }

    /// The volume of this name, or else of this uuid.
    pub fn volume(&self, name: &str) -> Option<(VolumeId, &VolumeRecord)> {
        let named = self.volumes().find(|(_, v)| v.name == name);
        named.or_else(|| self.volumes().find(|(_, v)| v.uuid.to_string() == name.to_lowercase()))
    }

    pub async fn close(self, core: &Core) {
        for drive in self.drives.into_values() {
            drive.disk.close(core).await;
        }
    }

    async fn take_in(&mut self, core: &Core, candidate: Candidate, logs: &[FoundLog], newest: &Replayed) {
        let Candidate { disk, superblock, layout, mut remarks, .. } = candidate;
        let path = disk.path().to_owned();
        let known = self.state.members.iter().find(|(_, r)| r.uuid == superblock.member);
        let Some((id, record)) = known.map(|(id, record)| (*id, record.clone())) else {
            self.facts.left_out.push((path, "it is no part of its pool any more".to_owned()));
            disk.close(core).await;
            return;
        };
        let log = logs.iter().find(|l| l.path == path).map(|l| &l.log);
        let forked = log.is_some_and(|log| is_forked(newest, log));
        // What damage in its log hides it had all the same.
        let own = log.map(|log| Position { epoch: log.held.epoch, sequence: log.held.sequence, link: 0 });
        if let Some(log) = log.filter(|log| log.held > log.position.age()) {
            let hidden = log.held.sequence.saturating_sub(log.position.sequence);
            remarks.push(format!("its metadata log is damaged: {hidden} commits in it cannot be read"));
        }
        let rank = match forked {
            // What it wrote on its own is not in the history that is gone by.
            true => Rank::default(),
            false => rank_of(&record, true, own.as_ref(), &self.facts.position),
        };
        remarks.extend(remark(&record, rank, forked, own.as_ref(), &self.facts.position));
        let dirty = read_bytes(core, &disk, layout.dirty_start, layout.dirty_plane).await;
        let dirty = dirty.ok().map(|bytes| read_plane(Plane::Dirty, &bytes, layout.regions()).0);
        if dirty.is_none() {
            remarks.push("its dirty log cannot be read".to_owned());
        }
        let in_sync = rank == Rank::IN_SYNC;
        self.facts.drives.push(DriveFacts { path, name: record.name, state: record.state, in_sync, remarks });
        self.ranks.insert(id, rank);
        self.drives.insert(id, Drive { disk, layout, rank, dirty });
    }

    fn count_missing(&mut self) {
        for (id, record) in &self.state.members {
            if !self.drives.contains_key(id) {
                self.ranks.insert(*id, rank_of(record, false, None, &self.facts.position));
                if record.state != MemberState::Removed {
                    self.facts.missing.push((record.name.clone(), record.state));
                }
            }
        }
    }

    fn rank(&self, member: MemberId) -> Rank {
        self.ranks.get(&member).copied().unwrap_or_default()
    }

    fn regions_per_slot(&self) -> u32 {
        u32::try_from(self.state.extent.0 / self.region.0).expect("128 at most")
    }

    /// Blocks of one region.
    fn region_blocks(&self) -> usize {
        ByteLen(self.region.0 / BLOCK).as_usize()
    }
}

/// Why a drive does not count as in sync, in words.
fn remark(
    record: &MemberRecord,
    rank: Rank,
    forked: bool,
    own: Option<&Position>,
    newest: &Position,
) -> Option<String> {
    if rank == Rank::IN_SYNC {
        return None;
    }
    let behind = newest.sequence.saturating_sub(own.map_or(0, |p| p.sequence));
    Some(match (forked, own) {
        (true, _) => {
            "it was used apart from the others: give only drives of its half to get what it holds".to_owned()
        }
        (false, None) => {
            "no metadata log can be read on it: only what a checksum proves is taken from it".to_owned()
        }
        (false, Some(_)) if record.state == MemberState::Active => {
            format!("an old image of itself: its log lacks {behind} commits")
        }
        (false, Some(_)) => "its copies lack what was written since it went out of sync".to_owned(),
    })
}
