//! Making a pool: what is written to each drive, and in which order.
//!
//! A drive is a member only when its superblocks are there, and they are written last: an interrupted creation
//! leaves drives that belong to nothing.

use super::dirty_log::DirtyLog;
use super::error::PoolError;
use super::layout::{MemberLayout, extent_size_for, member_layout, member_size_min};
use super::log::{Cursor, LogArea, append, write_bytes};
use super::record::{Header, Kind};
use super::scrub::EVERY_DEFAULT_S;
use super::state::{Absence, MemberRecord, MemberState, Scrubs, State};
use super::state_codec::emit_state;
use super::superblock::{Superblock, VERSION};
use crate::base::limits::{BLOCK, CHUNK_MAX, EXTENT_MAX, EXTENT_MIN, MEMBERS_MAX, NAME_MAX};
use crate::base::units::{ByteLen, ByteOffset, MemberId, Span};
use crate::disk::{Disk, Patience};
use crate::io::driver::Access;
use crate::reactor::Core;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a pool is made of.
#[derive(Clone, Debug)]
pub struct CreatePlan {
    pub name: String,
    /// The drives, and the names that people know them by.
    pub disks: Vec<(PathBuf, String)>,
    /// Copies of a volume that does not ask for another number.
    pub copies: u8,
    pub extent: Option<ByteLen>,
    /// The folder that the witness is made in.
    pub witness_folder: PathBuf,
}

/// The bytes of the witness file.
pub const WITNESS_LEN: ByteLen = ByteLen(super::layout::LOG_START.0 + 2 * super::layout::LOG_GENERATION_MAX);

/// Where the witness keeps its log.
pub const WITNESS_AREA: LogArea =
    LogArea { start: super::layout::LOG_START, generation_len: ByteLen(super::layout::LOG_GENERATION_MAX) };

/// The witness file of a pool.
pub fn witness_path(folder: &Path, pool: uuid::Uuid) -> PathBuf {
    folder.join(format!("witness-{pool}"))
}

/// Whether a text can be the name of a pool or a volume.
pub fn check_name(name: &str) -> Result<(), PoolError> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
        let rule = "a name has 1 to 64 letters, digits, dots, dashes and underscores";
        return Err(PoolError::Invalid(format!("`{name}` is not a name here: {rule}")));
    }
    Ok(())
}

/// Formats the drives as a new pool; gives its uuid. The caller has made sure that nothing of value is on them.
pub async fn create(core: &Core, plan: &CreatePlan) -> Result<uuid::Uuid, PoolError> {
    check_name(&plan.name)?;
    let mut disks = Vec::new();
    for (path, name) in &plan.disks {
        let disk = open_exclusive(core, path, Access::Exclusive).await;
        match disk {
            Ok(disk) => disks.push((disk, name.clone())),
            Err(error) => {
                close_all(core, disks).await;
                return Err(error);
            }
        }
    }
    let result = format(core, plan, &disks).await;
    close_all(core, disks).await;
    result
}

/// Opens a disk for exclusive use, telling "in use" from other errors.
pub async fn open_exclusive(core: &Core, path: &Path, access: Access) -> Result<Disk, PoolError> {
    Disk::open(core, path, access).await.map_err(|errno| match errno {
        Errno::EBUSY | Errno::EWOULDBLOCK => PoolError::Busy { path: path.to_owned() },
        errno => PoolError::Open { path: path.to_owned(), errno },
    })
}

async fn close_all(core: &Core, disks: Vec<(Disk, String)>) {
    for (disk, _) in disks {
        disk.close(core).await;
    }
}

async fn format(core: &Core, plan: &CreatePlan, disks: &[(Disk, String)]) -> Result<uuid::Uuid, PoolError> {
    let layouts = layouts(plan, disks)?;
    let (pool, members) = core.with_prng(|prng| {
        let pool = prng.uuid();
        (pool, disks.iter().map(|_| prng.uuid()).collect::<Vec<_>>())
    });
    let ids: Vec<MemberId> =
        (0..disks.len()).map(|i| MemberId(u16::try_from(i).expect("64 members at most"))).collect();
    let mut records = BTreeMap::new();
    for (i, layout) in layouts.iter().enumerate() {
        let name = disks[i].1.chars().take(80).collect();
        let (size, extents) = (layout.size, layout.extents);
        records.insert(
            ids[i],
            MemberRecord {
                uuid: members[i],
                size,
                extents,
                state: MemberState::Active,
                leaving: false,
                absence: Absence::default(),
                name,
            },
        );
    }
    let state = State {
        pool,
        name: plan.name.clone(),
        extent: layouts[0].extent,
        copies: plan.copies,
        clean: true,
        spreading: false,
        forced: false,
        lineage: Vec::new(),
        scrubs: Scrubs { since_wall_ns: core.wall_ns(), every_s: EVERY_DEFAULT_S, ..Scrubs::default() },
        members: records,
        next_member: MemberId(u16::try_from(disks.len()).expect("64 members at most")),
        volumes: BTreeMap::new(),
        next_volume: 0,
    };
    let body = emit_state(&state);
    let witness = witness_path(&plan.witness_folder, pool);
    let witness = open_exclusive(core, &witness, Access::ExclusiveCreate { size: WITNESS_LEN }).await?;
    let wrote = write_log(core, &witness, WITNESS_AREA, &body).await;
    witness.close(core).await;
    wrote.map_err(|errno| disk_error(&witness, "written", errno))?;
    for ((disk, _), layout) in disks.iter().zip(&layouts) {
        format_member(core, disk, layout, &body)
            .await
            .map_err(|errno| disk_error(disk, "formatted", errno))?;
    }
    for (i, (disk, _)) in disks.iter().enumerate() {
        let superblock = Superblock {
            version: VERSION,
            pool,
            pool_name: plan.name.clone(),
            member: members[i],
            id: ids[i],
            size: layouts[i].size,
            extent: layouts[i].extent,
            created_wall_ns: core.wall_ns(),
        };
        write_superblocks(core, disk, &layouts[i], &superblock)
            .await
            .map_err(|errno| disk_error(disk, "formatted", errno))?;
    }
    Ok(pool)
}

fn layouts(plan: &CreatePlan, disks: &[(Disk, String)]) -> Result<Vec<MemberLayout>, PoolError> {
    if disks.is_empty() || disks.len() > MEMBERS_MAX {
        return Err(PoolError::Invalid(format!("a pool has 1 to {MEMBERS_MAX} drives")));
    }
    let min = member_size_min();
    if let Some((small, _)) = disks.iter().find(|(d, _)| d.facts().size < min) {
        return Err(PoolError::TooSmall { path: small.path().to_owned(), min: min.0 });
    }
    let sizes: Vec<ByteLen> = disks.iter().map(|(d, _)| d.facts().size).collect();
    let extent = plan.extent.unwrap_or_else(|| extent_size_for(&sizes));
    if !extent.0.is_power_of_two() || !(EXTENT_MIN..=EXTENT_MAX).contains(&extent.0) {
        return Err(PoolError::Invalid("the extent size is a power of two from 1MiB to 256MiB".to_owned()));
    }
    let layout = |(disk, _): &(Disk, String)| {
        member_layout(disk.facts().size, extent)
            .ok_or_else(|| PoolError::TooSmall { path: disk.path().to_owned(), min: extent.0 * 2 })
    };
    disks.iter().map(layout).collect()
}

async fn format_member(core: &Core, disk: &Disk, layout: &MemberLayout, body: &[u8]) -> Result<(), Errno> {
    clear_member(core, disk, layout).await?;
    let area = LogArea { start: super::layout::LOG_START, generation_len: layout.log_generation };
    write_log(core, disk, area, body).await
}

/// Makes an empty member of a drive, that has no log and no superblocks yet.
pub async fn clear_member(core: &Core, disk: &Disk, layout: &MemberLayout) -> Result<(), Errno> {
    // What was here before shall not be found again: old superblocks, signatures of other formats, old logs.
    let zeroes = vec![0; ByteLen(BLOCK).as_usize() * 16];
    write_bytes(core, disk, ByteOffset(0), &zeroes, Patience::Opening).await?;
    write_bytes(core, disk, ByteOffset(layout.size.0 - zeroes.len() as u64), &zeroes, Patience::Opening)
        .await?; // widening
    // All of the log: frames of an earlier pool may have the generation and the epoch that this one comes to.
    let log = Span::at(layout.log_start(0).0, 2 * layout.log_generation.0);
    disk.zero(core, log, Patience::Opening).await?;
    DirtyLog::format(core, disk, layout).await?;
    disk.flush(core, Patience::Opening).await
}

/// Writes the first checkpoint, into generation 1; generation 0 is empty.
async fn write_log(core: &Core, disk: &Disk, area: LogArea, body: &[u8]) -> Result<(), Errno> {
    let cursor = Cursor { generation: 1, offset: ByteLen(0) };
    let body_len = body.len() as u64; // widening
    let header = Header { kind: Kind::Checkpoint, generation: 1, epoch: 1, sequence: 1, before: 0, body_len };
    append(core, disk, area, cursor, &header, body, Patience::Opening).await.map(|_| ())
}

pub async fn write_superblocks(
    core: &Core,
    disk: &Disk,
    layout: &MemberLayout,
    sb: &Superblock,
) -> Result<(), Errno> {
    // The back one first: the front one is what makes the drive a member.
    for at in layout.superblocks().into_iter().rev() {
        write_bytes(core, disk, at, &sb.emit(at), Patience::Opening).await?;
    }
    Ok(())
}

/// Takes the superblocks away again.
pub async fn clear_superblocks(core: &Core, disk: &Disk, layout: &MemberLayout) -> Result<(), Errno> {
    let zeroes = vec![0; ByteLen(BLOCK).as_usize()];
    // The front one first: without it the drive is no member.
    for at in layout.superblocks() {
        write_bytes(core, disk, at, &zeroes, Patience::Opening).await?;
    }
    Ok(())
}

/// Makes a drive no member any more: the first and the last mebibyte, superblocks included, are overwritten, so that
/// nothing is found on it.
pub async fn erase(core: &Core, path: &Path) -> Result<(), PoolError> {
    let disk = open_exclusive(core, path, Access::Exclusive).await?;
    let end = crate::base::units::round_down(disk.facts().size.0, BLOCK);
    let len = ByteLen(CHUNK_MAX.min(end));
    let zeroes = vec![0; len.as_usize()];
    let mut result = Ok(());
    for at in [0, end - len.0] {
        result = result.and(write_bytes(core, &disk, ByteOffset(at), &zeroes, Patience::Opening).await);
    }
    disk.close(core).await;
    result.map_err(|errno| disk_error(&disk, "erased", errno))
}

pub fn disk_error(disk: &Disk, what: &'static str, errno: Errno) -> PoolError {
    PoolError::Disk { path: disk.path().to_owned(), what, errno }
}
