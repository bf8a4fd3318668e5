//! Opening a pool: find its members, choose the log to go on from, start a new epoch, settle what a crash left.
//!
//! Nothing is written before a majority of the votes has been seen.

use super::create::{WITNESS_AREA, WITNESS_LEN, disk_error, open_exclusive, witness_path};
use super::dirty_log::DirtyLog;
use super::ends::{HOLLOW, is_hollow, mend};
use super::error::PoolError;
use super::home::{Home, cleaner, remember_missed};
use super::kept_marks::KeptMarks;
use super::layout::{MemberLayout, member_layout};
use super::lifecycle::{Event, after};
use super::log::{Age, LogArea, Position, Replayed, read_bytes};
use super::member::Member;
use super::planted::{Planted, hand_down, is_planted};
use super::quorum::{Elected, QuorumError, Voter, elect, newest_by_counter};
use super::replay::replay;
use super::returning::{self, Back, returned};
use super::shared::{Live, Shared};
use super::state::{Absence, Change, FreeExtents, MemberRecord, MemberState, Rank, State};
use super::superblock::{Superblock, SuperblockError, VERSION};
use super::volume::PoolVolume;
use super::votes::{Place, Vote, Votes};
use super::{Pool, resync, settle, suspicion};
use super::{rebalance, rebuild, scrub};
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, ByteOffset, MemberId, round_down};
use crate::disk::{Disk, in_words};
use crate::io::driver::Access;
use crate::reactor::Core;
use crate::reactor::mailbox::mailbox;
use crate::reactor::sync::lock;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use uuid::Uuid;

/// What is needed to open a pool.
#[derive(Clone, Debug)]
pub struct OpenPlan {
    /// Drives that may be members; others among them are ignored.
    pub disks: Vec<PathBuf>,
    /// The pool that is meant; members of others are left alone. None: the one that the drives belong to.
    pub pool: Option<Uuid>,
    /// The folder that the witness lies in.
    pub witness_folder: PathBuf,
    /// Open without a majority. Recorded in the pool for ever.
    pub force: bool,
    /// Memory for the regions' state, bytes.
    pub cache: ByteLen,
    /// How long a member may be away before its copies are made anew on others.
    pub rebuild_after: Duration,
    /// Where memory is found that outlives the process; None to do without.
    pub memory_folder: Option<PathBuf>,
}

/// Why a member is not used whose copies were given up by order.
pub const SAID_DEAD: &str = "it was said to be dead: its copies are made anew on other drives";

/// Why a member gets everything.
pub const OLD_IMAGE: &str =
    "it is an old image of itself: commits are missing in its log; everything is copied to it";

/// Why a member gets what the others remember.
pub const WAS_AWAY: &str = "it was away; what it missed is being copied";

/// Commits of an opening before anything else is written: see `is_current`.
const COMMITS_BEFORE_SERVING: usize = 3;

/// A drive with one of our superblocks, opened exclusively.
struct Candidate {
    disk: Disk,
    superblock: Superblock,
    layout: MemberLayout,
    replayed: Option<Replayed>,
    /// Why it cannot be a member in sync.
    flaw: Option<String>,
    /// Its end is gone: it counts as having nothing.
    hollow: bool,
}

/// Opens the pool that the drives belong to.
pub async fn open(core: &Core, plan: &OpenPlan) -> Result<Pool, PoolError> {
    let candidates = find_candidates(core, plan).await?;
    let pool = match one_pool(&candidates) {
        Ok(pool) => pool,
        Err(PoolError::Twins(..)) if is_planted(core, Planted::TwinsAccepted) => {
            candidates[0].superblock.pool
        }
        Err(error) => {
            close_candidates(core, candidates).await;
            return Err(error);
        }
    };
    let path = witness_path(&plan.witness_folder, pool);
    let witness = match open_exclusive(core, &path, Access::Exclusive).await {
        Ok(disk) => {
            let log = replay(core, &disk, WITNESS_AREA).await.ok().flatten();
            Some((disk, log.filter(|l| l.state.pool == pool)))
        }
        Err(PoolError::Busy { path }) => {
            close_candidates(core, candidates).await;
            return Err(PoolError::Busy { path });
        }
        // The state folder can be lost without losing data: then the witness has no vote.
        Err(_) => None,
    };
    start(core, plan, candidates, witness).await
}

/// The witness, made if it was not there. Only for a pool that a majority was found of: nothing is written before that.
async fn witness_to_write(
    core: &Core,
    plan: &OpenPlan,
    pool: Uuid,
    found: Option<(Disk, Option<Replayed>)>,
) -> Option<Disk> {
    if let Some((disk, _)) = found {
        if disk.facts().size >= WITNESS_LEN {
            return Some(disk);
        }
        disk.close(core).await;
    }
    let path = witness_path(&plan.witness_folder, pool);
    open_exclusive(core, &path, Access::ExclusiveCreate { size: WITNESS_LEN }).await.ok()
}

async fn close_candidates(core: &Core, candidates: Vec<Candidate>) {
    for candidate in candidates {
        candidate.disk.close(core).await;
    }
}

async fn find_candidates(core: &Core, plan: &OpenPlan) -> Result<Vec<Candidate>, PoolError> {
    let mut found = Vec::new();
    for path in &plan.disks {
        let meant = |s: &Superblock| plan.pool.is_none_or(|pool| pool == s.pool);
        match find_candidate(core, path, meant).await {
            Ok(Some(candidate)) => found.push(candidate),
            // A drive that is not there, or is not ours, is not a reason to give up the others.
            Ok(None) | Err(PoolError::Open { .. } | PoolError::Disk { .. }) => {}
            Err(error) => {
                close_candidates(core, found).await;
                return Err(error);
            }
        }
    }
    Ok(found)
}

/// Looks at a drive before taking hold of it: nothing of somebody else's is even locked.
async fn find_candidate(
    core: &Core,
    path: &Path,
    meant: impl Fn(&Superblock) -> bool,
) -> Result<Option<Candidate>, PoolError> {
    let seen = Disk::open(core, path, Access::Inspect).await;
    let seen = seen.map_err(|errno| PoolError::Open { path: path.to_owned(), errno })?;
    let superblock = read_superblock(core, &seen).await;
    seen.close(core).await;
    if !superblock?.is_some_and(|s| meant(&s)) {
        return Ok(None);
    }
    let disk = open_exclusive(core, path, Access::Exclusive).await?;
    // Before it was locked somebody may have made something else of it.
    let superblock = match read_superblock(core, &disk).await {
        Ok(superblock) => superblock.filter(&meant),
        Err(error) => {
            disk.close(core).await;
            return Err(error);
        }
    };
    let Some((superblock, layout)) = superblock.and_then(|s| s.layout().map(|layout| (s, layout))) else {
        disk.close(core).await;
        return Ok(None);
    };
    let flaw = (disk.facts().size < superblock.size).then(|| {
        let (is, was) = (disk.facts().size, superblock.size);
        format!("it is truncated: {} bytes of {}", is.0, was.0)
    });
    let hollow = flaw.is_none() && is_hollow(core, &disk).await;
    let mut candidate = Candidate { disk, superblock, layout, replayed: None, flaw, hollow };
    let area = LogArea { start: super::layout::LOG_START, generation_len: layout.log_generation };
    if candidate.flaw.is_none() {
        match replay(core, &candidate.disk, area).await {
            Ok(log) => candidate.replayed = log.filter(|l| l.state.pool == candidate.superblock.pool),
            Err(errno) => {
                candidate.flaw = Some(format!("its metadata log cannot be read: {}", in_words(errno)))
            }
        }
    }
    Ok(Some(candidate))
}

/// A member that is gone, at a path where it may be again. None if something else is there, or it cannot be used.
pub async fn find_member(core: &Core, pool: &Shared, gone: &Member, path: &Path) -> Option<Back> {
    // Others are not even locked: somebody may be about to add them.
    let meant = |s: &Superblock| s.pool == pool.uuid && s.member == gone.uuid;
    let candidate = find_candidate(core, path, meant).await.ok().flatten()?;
    let disk = Arc::new(candidate.disk);
    let fits = candidate.layout == gone.layout && candidate.flaw.is_none();
    match member_back(core, gone, &disk, &candidate.superblock).await {
        Some(back) if fits => Some(Back { hollow: candidate.hollow, ..back }),
        Some(_) | None => {
            disk.close(core).await;
            None
        }
    }
}

/// A member that failed, on the disk that is open still. None if that cannot be read any more.
pub async fn find_in_place(core: &Core, pool: &Shared, gone: &Member) -> Option<Back> {
    let disk = gone.disk.as_ref()?;
    // It may be shorter than when it was opened.
    let size = disk.size(core).await.ok()?;
    let superblock = read_superblock(core, disk).await.ok().flatten()?;
    if superblock.pool != pool.uuid || size < superblock.size {
        return None;
    }
    let hollow = is_hollow(core, disk).await;
    member_back(core, gone, disk, &superblock).await.map(|back| Back { hollow, ..back })
}

async fn member_back(core: &Core, gone: &Member, disk: &Arc<Disk>, superblock: &Superblock) -> Option<Back> {
    if superblock.member != gone.uuid {
        return None;
    }
    let log = replay(core, disk, gone.log_area()).await.ok().flatten()?;
    let dirty = DirtyLog::load(core, disk, &gone.layout).await.ok()?;
    let disk = Some(disk.clone());
    let member = Member::new(gone.id, gone.uuid, gone.name.clone(), gone.layout, disk, dirty);
    Some(Back { member: Arc::new(member), log, hollow: false })
}

/// The superblock of a drive: the front one, or the back one where the front one is damaged. A format that is not known
/// is an error: leaving such a drive aside could open its pool without it.
async fn read_superblock(core: &Core, disk: &Disk) -> Result<Option<Superblock>, PoolError> {
    let size = round_down(disk.facts().size.0, BLOCK);
    if size < 2 * BLOCK {
        return Ok(None);
    }
    let mut failed = None;
    for at in [ByteOffset(0), ByteOffset(size - BLOCK)] {
        match read_bytes(core, disk, at, ByteLen(BLOCK)).await {
            Ok(bytes) => match Superblock::parse(&bytes, at) {
                Ok(superblock) => return Ok(Some(superblock)),
                Err(SuperblockError::Version(found)) => {
                    let path = disk.path().to_owned();
                    return Err(PoolError::UnknownFormat { path, found, known: VERSION });
                }
                Err(SuperblockError::Features(unknown)) => {
                    return Err(PoolError::UnknownFeatures { path: disk.path().to_owned(), unknown });
                }
                Err(SuperblockError::Absent | SuperblockError::Damaged) => {}
            },
            Err(errno) => failed = Some(disk_error(disk, "read", errno)),
        }
    }
    failed.map_or(Ok(None), Err)
}

fn one_pool(candidates: &[Candidate]) -> Result<Uuid, PoolError> {
    let first = candidates.first().ok_or(PoolError::NoMembers)?;
    if candidates.iter().any(|c| c.superblock.pool != first.superblock.pool) {
        let names: std::collections::BTreeSet<String> = candidates
            .iter()
            .map(|c| format!("{} ({})", c.superblock.pool_name, c.superblock.pool))
            .collect();
        return Err(PoolError::SeveralPools(names.into_iter().collect::<Vec<_>>().join(", ")));
    }
    let mut by_member = BTreeMap::new();
    for candidate in candidates {
        if let Some(other) = by_member.insert(candidate.superblock.member, candidate.disk.path()) {
            return Err(PoolError::Twins(other.to_owned(), candidate.disk.path().to_owned()));
        }
    }
    Ok(first.superblock.pool)
}

async fn start(
    core: &Core,
    plan: &OpenPlan,
    mut candidates: Vec<Candidate>,
    mut witness: Option<(Disk, Option<Replayed>)>,
) -> Result<Pool, PoolError> {
    let logs = take_logs(&mut candidates, &mut witness);
    let name = candidates.first().map(|c| c.superblock.pool_name.clone()).unwrap_or_default();
    let forced = plan.force || is_planted(core, Planted::MinorityIsEnough);
    let elected = match elect(&logs, forced) {
        Err(QuorumError::Forked(_)) if is_planted(core, Planted::NewestByCounter) => newest_by_counter(&logs),
        elected => elected,
    };
    let elected = match elected {
        Ok(elected) => elected,
        Err(error) => {
            let error = explain(&name, &error, &logs, &candidates);
            if let Some((disk, _)) = witness {
                disk.close(core).await;
            }
            close_candidates(core, candidates).await;
            return Err(error);
        }
    };
    let forced = elected.forced;
    if forced {
        tracing::warn!(pool = name, "opened by order, without all that was acknowledged: recorded for ever");
    }
    let old = elected.replayed.state.clone();
    refuse_dead(&elected.replayed.state, &mut candidates);
    let opening = core.with_prng(|prng| prng.u64() | 1);
    let opened = Change::Opened { forced, mark: opening };
    let newest = elected.replayed.position.age();
    for (voter, log) in &logs {
        tracing::debug!(?voter, held = ?log.held, ?newest, current = is_current(newest, log.held), "log found");
    }
    let current = |age: Age| is_planted(core, Planted::OldImageBelieved) || is_current(newest, age);
    let (changes, reasons) = judge(&elected, &logs, &candidates, (opened, current), core.wall_ns());
    let position = elected.replayed.position;
    let mut state = old.clone();
    for change in &changes {
        state
            .apply(position.sequence + 1, change)
            .map_err(|_| PoolError::Invalid("contradiction".to_owned()))?;
    }
    let members = build_members(core, &state, candidates, &reasons).await?;
    let witness = witness_to_write(core, plan, state.pool, witness).await;
    let mut votes = build_votes(&state, &members, witness, &logs, position, forced);
    let witness = witness_of(&votes);
    votes.secure(core).await;
    votes.catch_up(core, &old, &behind(position, &logs)).await;
    let kept_marks = KeptMarks::open(core, plan.memory_folder.as_deref(), &plan.witness_folder, state.pool);
    kept_marks.begin(&old, position.sequence, opening);
    let opened =
        run(core, plan, state, members.clone(), votes, (&changes, old.clean, opening), kept_marks).await;
    if opened.is_err() {
        for disk in members.values().filter_map(|m| m.disk.as_ref()).chain(&witness) {
            disk.close(core).await;
        }
    }
    opened
}

/// The logs that may vote. A drive that was about to join when a crash came, and did not, has a log, too: it says nothing
/// that others do not say, and its number may be another drive's by now.
fn take_logs(
    candidates: &mut [Candidate],
    witness: &mut Option<(Disk, Option<Replayed>)>,
) -> Vec<(Voter, Replayed)> {
    let mut logs = Vec::new();
    for candidate in candidates {
        let (owner, voter) = (candidate.superblock.member, Voter::Member(candidate.superblock.id));
        logs.extend(candidate.replayed.take().map(|log| (Some(owner), voter, log)));
    }
    logs.extend(witness.iter_mut().filter_map(|(_, log)| log.take()).map(|log| (None, Voter::Witness, log)));
    let newest = logs.iter().max_by_key(|(_, _, log)| log.position.age());
    let members = newest.map(|(_, _, log)| log.state.members.clone()).unwrap_or_default();
    let belongs = |owner: Option<Uuid>, voter: &Voter| match voter {
        Voter::Witness => true,
        Voter::Member(id) => members.get(id).is_some_and(|m| Some(m.uuid) == owner),
    };
    // Where only such drives are here, the state in them tells who is missing.
    if logs.iter().any(|(owner, voter, _)| belongs(*owner, voter)) {
        logs.retain(|(owner, voter, _)| belongs(*owner, voter));
    }
    logs.into_iter().map(|(_, voter, log)| (voter, log)).collect()
}

/// A member that was said to be dead is not used, whatever it still holds.
fn refuse_dead(state: &State, candidates: &mut [Candidate]) {
    for candidate in candidates {
        let record = state.members.values().find(|m| m.uuid == candidate.superblock.member);
        if record.is_some_and(|m| m.absence.dead) {
            candidate.flaw = Some(SAID_DEAD.to_owned());
        }
    }
}

fn witness_of(votes: &Votes) -> Option<Arc<Disk>> {
    votes.votes.iter().find_map(|v| match &v.place {
        Place::Witness(disk) => Some(disk.clone()),
        Place::Member(_) => None,
    })
}

/// What opening changes: the members' states, and that the pool is open. With why each is not active, in words.
fn judge(
    elected: &Elected<'_>,
    logs: &[(Voter, Replayed)],
    candidates: &[Candidate],
    (opened, is_current): (Change, impl Fn(Age) -> bool),
    wall_ns: u64,
) -> (Vec<Change>, BTreeMap<MemberId, String>) {
    let newest = elected.replayed;
    let mut changes = vec![opened];
    let mut reasons = BTreeMap::new();
    for (id, record) in &newest.state.members {
        let found = candidates.iter().find(|c| c.superblock.member == record.uuid);
        let candidate = found.filter(|c| c.flaw.is_none());
        let hollow = candidate.is_some_and(|c| c.hollow);
        let flaw = match hollow {
            true => Some(HOLLOW.to_owned()),
            false => found.and_then(|c| c.flaw.clone()),
        };
        // What it had counts, not what can be read of it: its data is as new.
        let held = logs.iter().find(|(v, _)| *v == Voter::Member(*id) && !hollow).map(|(_, log)| log.held);
        let event = match (candidate, held) {
            (None, _) => Event::Absent,
            (Some(_), Some(held)) if is_current(held) => Event::Current,
            (Some(_), _) => Event::Old,
        };
        let Some(next) = after(event, record.state) else { continue };
        // One that is there is resynced at once.
        let next = after(Event::Began, next).unwrap_or(next);
        let mut absence = absence_after(record, held, next, newest, wall_ns);
        // It cannot say what it has: it counts as having nothing.
        absence.whole |= (event, held) == (Event::Old, None);
        if elected.forced && absence.whole {
            // Whoever wants to go on with what there is takes it for what it is.
            let left = held.filter(|_| !record.absence.whole).map_or(0, |held| held.sequence);
            absence.rank = Rank { left, kept: 0 };
        }
        if next != record.state || absence != record.absence {
            changes.push(Change::MemberState { member: *id, state: next, absence });
        }
        reasons.insert(*id, reason(event, record.state, next, flaw));
    }
    (changes, reasons)
}

/// How a member out of sync left: now, if the log has it in sync.
fn absence_after(
    record: &MemberRecord,
    held: Option<Age>,
    next: MemberState,
    newest: &Replayed,
    wall_ns: u64,
) -> Absence {
    if next == MemberState::Active {
        return record.absence;
    }
    let mut record = record.clone();
    if record.state == MemberState::Active {
        let left = newest.position.sequence + 1;
        let epoch = newest.position.epoch;
        record.absence = Absence {
            rank: Rank { left, kept: left },
            epoch,
            whole: false,
            dead: false,
            since_wall_ns: wall_ns,
        };
    }
    match held {
        Some(held) => returned(&record, held, &newest.state, &newest.position),
        None => record.absence,
    }
}

/// Whether a member's log is the newest one, or lacks only what crashes cut off.
///
/// Commits are made one at a time and wait for every vote, so that a member in sync misses at most the last one of
/// its epoch; and the first one of every later opening that was cut off before it had reached all votes. An opening
/// that went on to serve has made `COMMITS_BEFORE_SERVING` commits, so that its epoch cannot be taken for one that
/// was cut off.
pub fn is_current(newest: Age, held: Age) -> bool {
    let epochs = newest.epoch.saturating_sub(held.epoch);
    let commits = newest.sequence.saturating_sub(held.sequence);
    commits <= epochs + 1
}

/// The votes that lack the newest commit and may be given it. An old image may not: with the newest log it would
/// pass for a member that missed nothing, if the opening were cut off before its state is committed.
fn behind(newest: Position, logs: &[(Voter, Replayed)]) -> Vec<Voter> {
    let lacks = |log: &Replayed| log.held < newest.age() && is_current(newest.age(), log.held);
    logs.iter().filter(|(_, log)| lacks(log)).map(|(voter, _)| *voter).collect()
}

fn reason(event: Event, before: MemberState, next: MemberState, flaw: Option<String>) -> String {
    let words = match (next, event, before) {
        (MemberState::Active, _, _) => "",
        (MemberState::Missing | MemberState::Rebuilding, _, _) => "it is not there",
        (_, Event::Old, MemberState::Active) => OLD_IMAGE,
        _ => WAS_AWAY,
    };
    flaw.unwrap_or_else(|| words.to_owned())
}

async fn build_members(
    core: &Core,
    state: &State,
    candidates: Vec<Candidate>,
    reasons: &BTreeMap<MemberId, String>,
) -> Result<BTreeMap<MemberId, Arc<Member>>, PoolError> {
    let mut candidates: BTreeMap<Uuid, Candidate> =
        candidates.into_iter().map(|c| (c.superblock.member, c)).collect();
    let mut members = BTreeMap::new();
    for (id, record) in &state.members {
        let layout = member_layout(record.size, state.extent)
            .ok_or_else(|| PoolError::Invalid(format!("member {} has no layout", record.name)))?;
        let candidate = candidates.remove(&record.uuid);
        let flawed = candidate.as_ref().is_some_and(|c| c.flaw.is_some());
        let (disk, dirty) = match candidate {
            Some(c) if !flawed && c.layout == layout => match DirtyLog::load(core, &c.disk, &layout).await {
                Ok(dirty) => (Some(Arc::new(c.disk)), dirty),
                Err(errno) => {
                    tracing::warn!(
                        member = record.name,
                        error = in_words(errno),
                        "its dirty-region log cannot be read"
                    );
                    (Some(Arc::new(c.disk)), DirtyLog::unknown(&layout))
                }
            },
            Some(c) => {
                c.disk.close(core).await;
                (None, DirtyLog::empty(&layout))
            }
            None => (None, DirtyLog::empty(&layout)),
        };
        let member = Member::new(*id, record.uuid, record.name.clone(), layout, disk, dirty);
        match record.state == MemberState::Active && member.disk.is_some() {
            true => member.set_in_sync(),
            false => member.set_out_of_sync(record.absence, reasons.get(id).map_or("", String::as_str)),
        }
        members.insert(*id, Arc::new(member));
    }
    close_candidates(core, candidates.into_values().collect()).await;
    Ok(members)
}

fn build_votes(
    state: &State,
    members: &BTreeMap<MemberId, Arc<Member>>,
    witness: Option<Disk>,
    logs: &[(Voter, Replayed)],
    position: Position,
    forced: bool,
) -> Votes {
    let log_of = |voter| logs.iter().find(|(v, _)| *v == voter).map(|(_, log)| log);
    let generation = |voter| log_of(voter).map_or(0, |log: &Replayed| log.generation_next() - 1);
    let vote = |voter, place, area| Vote {
        voter,
        place,
        area,
        cursor: None,
        generation: generation(voter),
        alive: true,
    };
    let parting = state.parting();
    let mut votes: Vec<Vote> = members
        .values()
        .filter(|m| m.disk.is_some())
        .map(|m| vote(Voter::Member(m.id), Place::Member(m.clone()), m.log_area()))
        .collect();
    votes.extend(witness.map(|disk| vote(Voter::Witness, Place::Witness(Arc::new(disk)), WITNESS_AREA)));
    let members = members.len();
    Votes { votes, position, members, parting, frozen: false, forced, failed: Vec::new() }
}

async fn run(
    core: &Core,
    plan: &OpenPlan,
    state: State,
    members: BTreeMap<MemberId, Arc<Member>>,
    mut votes: Votes,
    (changes, clean, opening): (&[Change], bool, u64),
    kept_marks: KeptMarks,
) -> Result<Pool, PoolError> {
    let mut lost = votes.begin_epoch(core, &state, changes).await?.lost;
    for _ in 1..COMMITS_BEFORE_SERVING {
        let confirmed = [Change::Opened { forced: false, mark: 0 }];
        lost.extend(votes.commit(core, &state, &confirmed).await?.lost);
    }
    kept_marks.begun(opening, votes.position.sequence);
    let (sender, requests) = mailbox();
    let free =
        FreeExtents::of(&state).map_err(|_| PoolError::Invalid("two slots claim one extent".to_owned()))?;
    let (epoch, votes_present) = (votes.position.epoch, votes.tally().present);
    let witness = witness_of(&votes);
    let live = Live { state, free, reserved: Vec::new(), epoch, votes_present };
    for disk in members.values().filter_map(|m| m.disk.as_ref()) {
        mend(core, disk).await;
    }
    let shared = Arc::new(Shared::new(live, members, plan, kept_marks, sender));
    if !shared.kept_marks.knows_drives() {
        shared.note_drives();
    }
    hand_down(core, &shared);
    publish(&shared);
    core.spawn(Home { core: core.clone(), pool: shared.clone(), votes, requests }.run());
    shared.membership.store(1, Ordering::Release);
    for (voter, errno) in lost {
        if let Voter::Member(member) = voter {
            let reason = format!("its metadata log could not be written: {}", in_words(errno));
            let member = shared.member(member);
            shared.member_failed(&member, reason).await.map_err(|_| PoolError::Frozen)?;
        }
    }
    settle_crash(core, &shared, clean).await?;
    settle::restore_marks(core, &shared).await;
    shared.note_drives();
    core.spawn(cleaner(core.clone(), shared.clone()));
    core.spawn(resync::run(core.clone(), shared.clone()));
    core.spawn(scrub::run(core.clone(), shared.clone()));
    core.spawn(rebuild::run(core.clone(), shared.clone()));
    core.spawn(rebalance::run(core.clone(), shared.clone()));
    core.spawn(suspicion::watch(core.clone(), shared.clone()));
    core.spawn(returning::watch(core.clone(), shared.clone()));
    Ok(Pool { shared, witness })
}

fn publish(shared: &Arc<Shared>) {
    let live = lock(&shared.live);
    let volumes = live.state.volumes.iter();
    let volumes =
        volumes.map(|(id, record)| (*id, Arc::new(PoolVolume::new(shared.clone(), *id, record)))).collect();
    shared.volumes.store(Arc::new(volumes));
}

/// Makes copies equal that a crash left different, and begins to bring members up to date that are out of sync.
async fn settle_crash(core: &Core, shared: &Arc<Shared>, clean: bool) -> Result<(), PoolError> {
    let members = shared.all_members();
    let whole = members.iter().all(|m| m.is_in_sync());
    if (clean || is_planted(core, Planted::BelieveClean)) && whole {
        return Ok(());
    }
    if !whole {
        // Also after a clean stop: a member that was away may have been in the middle of something.
        members.iter().filter(|m| m.disk.is_some()).for_each(|m| m.dirty.note_missed());
        remember_missed(shared, core).await.map_err(|_| PoolError::Frozen)?;
    }
    settle::settle(core, shared).await?;
    // One that failed while the pool was opened is looked after by `returning`.
    let resyncing = |m: &Member| lock(&shared.live).state.members[&m.id].state == MemberState::Resyncing;
    for member in members.into_iter().filter(|m| resyncing(m)) {
        shared.begin_resync(member);
    }
    Ok(())
}

fn explain(
    name: &str,
    error: &QuorumError,
    logs: &[(Voter, Replayed)],
    candidates: &[Candidate],
) -> PoolError {
    let name = name.to_owned();
    match error {
        QuorumError::NoLog => PoolError::NoLog { name },
        QuorumError::NoMajority(tally) => {
            let newest = logs.iter().max_by_key(|(_, r)| (r.position.epoch, r.position.sequence));
            let here = |uuid| candidates.iter().any(|c| c.superblock.member == uuid);
            let absent = newest.iter().flat_map(|(_, r)| r.state.members.values().filter(|m| !here(m.uuid)));
            let mut missing: Vec<String> = absent.map(|m| m.name.clone()).collect();
            if !logs.iter().any(|(v, _)| *v == Voter::Witness) {
                missing.push("the witness in the state folder".to_owned());
            }
            PoolError::NoMajority { name, tally: *tally, missing: missing.join(", ") }
        }
        QuorumError::Damaged { voter, commits } => {
            PoolError::LogDamaged { name, who: name_of(*voter, candidates), commits: *commits }
        }
        QuorumError::Forked(voter) => PoolError::Forked { name, who: name_of(*voter, candidates) },
    }
}

fn name_of(voter: Voter, candidates: &[Candidate]) -> String {
    match voter {
        Voter::Witness => "the witness".to_owned(),
        Voter::Member(id) => candidates
            .iter()
            .find(|c| c.superblock.id == id)
            .map_or_else(|| format!("{id:?}"), |c| c.disk.path().display().to_string()),
    }
}
