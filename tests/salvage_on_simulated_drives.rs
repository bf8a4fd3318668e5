//! What can be salvaged from what is left of a pool, and what a drive that is looked at tells; one behaviour a test.

#[path = "shared/payload.rs"]
mod payload;

use drystone::base::units::{ByteLen, ByteOffset, Span, VolumeId};
use drystone::block::{Status, WriteFlags};
use drystone::io::driver::Access;
use drystone::pool::layout::{MemberLayout, member_layout};
use drystone::pool::salvage::{self, Fate, Remains, SalvageError, SalvagePlan, Sink};
use drystone::pool::survey::{self, LogEnd, SuperblockFlaw, Survey};
use drystone::pool::{self, CreatePlan, OpenPlan, Pool, VolumePlan};
use drystone::sim::{Damage, DiskShape, Process, World};
use drystone::volume::{Handle, Volume};
use payload::payload;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;
const SIZE: u64 = 20 * MIB;

/// Three drives, a pool and a volume `data` of two copies, in which some bytes were written and flushed.
struct Rig {
    world: World,
    disks: Vec<PathBuf>,
    layouts: Vec<MemberLayout>,
}

/// A volume in memory, and what was told about it.
#[derive(Default)]
struct Memory {
    bytes: Vec<u8>,
    told: Vec<(Span, Fate)>,
}

impl Sink for Memory {
    fn put(&mut self, at: ByteOffset, bytes: &[u8]) -> std::io::Result<()> {
        let at = ByteLen(at.0).as_usize();
        assert!(self.bytes[at..at + bytes.len()].iter().all(|b| *b == 0), "each byte comes once");
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn tell(&mut self, span: Span, fate: Fate) -> std::io::Result<()> {
        let last = self.told.last();
        assert_eq!(last.map_or(ByteOffset(0), |(s, _)| s.end()), span.offset(), "in order, no gap");
        assert_ne!(last.map(|(_, f)| *f), Some(fate), "neighbours differ");
        self.told.push((span, fate));
        Ok(())
    }
}

impl Memory {
    fn spans(&self, fate: Fate) -> Vec<Span> {
        self.told.iter().filter(|(_, f)| *f == fate).map(|(span, _)| *span).collect()
    }

    fn sum(&self, fate: Fate) -> u64 {
        self.spans(fate).iter().map(|s| s.len().0).sum()
    }
}

/// What the volume holds: its first eight mebibytes, and one odd place.
fn expected() -> Vec<u8> {
    let mut bytes = vec![0; ByteLen(SIZE).as_usize()];
    bytes[..8 << 20].fill(7);
    bytes[12_000_001..12_000_334].fill(9);
    bytes
}

impl Rig {
    fn new(seed: u64) -> Rig {
        let rig = Rig::blank(seed);
        let (head, pool) = rig.used();
        rig.close(&head, pool);
        rig.world.bury(head);
        rig
    }

    fn blank(seed: u64) -> Rig {
        let world = World::new(seed);
        let disks: Vec<PathBuf> = (0..3).map(|i| PathBuf::from(format!("/dev/d{i}"))).collect();
        let sizes = [80_000_000, 80_000_000, 120_000_000];
        disks.iter().zip(sizes).for_each(|(path, size)| {
            world.add_disk(path, DiskShape::flash(ByteLen(size)));
        });
        let layouts = sizes.map(|size| member_layout(ByteLen(size), ByteLen(MIB)).unwrap()).to_vec();
        Rig { world, disks, layouts }
    }

    /// The pool, made and written to, still open.
    fn used(&self) -> (Process, Pool) {
        let head = self.world.boot(1);
        self.create(&head);
        let pool = self.open(&head).expect("opens");
        let core = head.core(0).clone();
        let plan = VolumePlan {
            name: "data".into(),
            size: ByteLen(SIZE),
            copies: Some(2),
            unit: None,
            checksums: true,
            lba_bytes: None,
        };
        let pool = self.on(&head, async move {
            pool.create_volume(&core, &plan).await.expect("volume");
            pool
        });
        let handle = handle(&head, &pool);
        self.on(&head, async move {
            put(&handle, 0, 8 * MIB, 7).await.unwrap();
            put(&handle, 12_000_001, 333, 9).await.unwrap();
            handle.flush().await.unwrap();
        });
        (head, pool)
    }

    fn on<T: 'static>(&self, head: &Process, work: impl Future<Output = T> + 'static) -> T {
        self.world.run_on(&head.cores, head.core(0), LIMIT, work).expect("settles")
    }

    fn create(&self, head: &Process) {
        let plan = CreatePlan {
            name: "tank".into(),
            disks: self.disks.iter().map(|p| (p.clone(), p.display().to_string())).collect(),
            copies: 2,
            extent: Some(ByteLen(MIB)),
            witness_folder: "/state".into(),
        };
        let core = head.core(0).clone();
        self.on(head, async move { pool::create(&core, &plan).await }).expect("created");
    }

    fn open(&self, head: &Process) -> Result<Pool, pool::PoolError> {
        let plan = OpenPlan {
            disks: self.disks.clone(),
            pool: None,
            witness_folder: "/state".into(),
            force: false,
            cache: ByteLen(8 << 20),
            rebuild_after: drystone::pool::REBUILD_AFTER,
            memory_folder: None,
        };
        let core = head.core(0).clone();
        self.on(head, async move { pool::open(&core, &plan).await })
    }

    fn close(&self, head: &Process, pool: Pool) {
        let core = head.core(0).clone();
        self.on(head, async move { pool.close(&core).await }).expect("closed");
    }

    fn find(&self, disks: &[usize]) -> Result<(Process, Remains), SalvageError> {
        let head = self.world.boot(1);
        let disks = disks.iter().map(|i| self.disks[*i].clone()).collect();
        let plan = SalvagePlan { disks, pool: None, witness_folder: "/nowhere".into() };
        let core = head.core(0).clone();
        let remains = self.on(&head, async move { salvage::find(&core, &plan).await })?;
        Ok((head, remains))
    }

    /// Salvages the volume from some of the drives.
    fn salvage(&self, disks: &[usize]) -> Memory {
        let before: Vec<Vec<u8>> = self.disks.iter().map(|d| self.content(d)).collect();
        let (head, remains) = self.find(disks).expect("found");
        let (id, size) = remains.volume("data").map(|(id, v)| (id, v.size)).expect("volume");
        let memory = Memory { bytes: vec![0; size.as_usize()], told: Vec::new() };
        let core = head.core(0).clone();
        let sink = Rc::new(RefCell::new(memory));
        let into = sink.clone();
        self.on(&head, async move {
            remains.copy(&core, id, &into).await.unwrap();
            remains.close(&core).await;
        });
        assert_eq!(self.world.bury(head), 0);
        let memory = Rc::into_inner(sink).unwrap().into_inner();
        assert_eq!(memory.told.last().unwrap().0.end(), ByteOffset(SIZE), "all of it was told of");
        assert!(self.disks.iter().map(|d| self.content(d)).eq(before), "nothing was written");
        memory
    }

    fn content(&self, disk: &PathBuf) -> Vec<u8> {
        let disk = self.world.disk(disk);
        disk.peek(ByteOffset(0), disk.size().as_usize())
    }

    fn survey(&self, disk: usize) -> Survey {
        let head = self.world.boot(1);
        let (core, path) = (head.core(0).clone(), self.disks[disk].clone());
        self.on(&head, async move {
            let disk = drystone::disk::Disk::open(&core, &path, Access::Inspect).await.unwrap();
            let survey = survey::survey(&core, &disk).await;
            disk.close(&core).await;
            survey
        })
    }

    fn rot(&self, disk: usize, at: ByteOffset, len: u64) {
        self.world.disk(&self.disks[disk]).damage(Span::at(at.0, len), Damage::Garbage);
    }

    /// Where the copies of a block of the volume's first stripe unit are, as drive and offset.
    fn copies_of_the_first_block(&self) -> Vec<(usize, ByteOffset)> {
        let (head, remains) = self.find(&[0, 1, 2]).expect("found");
        let volume = remains.volumes().next().unwrap().1;
        let copies: Vec<_> = volume.slots.first_key_value().unwrap().1.copies.to_vec();
        self.world.bury(head);
        let place = |c: &drystone::pool::redundancy::mirror::Copy| {
            let disk = usize::from(c.member.0);
            (disk, self.layouts[disk].data(c.extent, ByteLen(0)))
        };
        copies.iter().map(place).collect()
    }
}

fn handle(head: &Process, pool: &Pool) -> Handle {
    Arc::new(Volume::in_pool(pool.volume("data").expect("exists"))).handle(head.core(0))
}

async fn put(handle: &Handle, at: u64, len: u64, byte: u8) -> Result<(), Status> {
    let span = Span::at(at, len);
    handle.write(span, &payload(handle.core(), span, byte), WriteFlags::default()).await
}

#[test]
fn all_drives_give_every_byte_and_holes_where_nothing_was_written() {
    let rig = Rig::new(1);
    let found = rig.salvage(&[0, 1, 2]);
    assert!(found.bytes == expected());
    assert_eq!(found.sum(Fate::Sound), 8 * MIB + 4096);
    assert_eq!(found.sum(Fate::Hole), SIZE - 8 * MIB - 4096);
    let (_head, remains) = rig.find(&[0, 1, 2]).unwrap();
    assert_eq!((remains.facts.pool_name.as_str(), remains.facts.clean), ("tank", true));
    assert!(remains.facts.missing.is_empty() && remains.facts.votes.is_majority());
    assert!(remains.facts.drives.iter().all(|d| d.in_sync && d.remarks.is_empty()), "{:?}", remains.facts);
}

#[test]
fn any_one_drive_can_be_missing() {
    let rig = Rig::new(2);
    for missing in 0..3 {
        let disks: Vec<usize> = (0..3).filter(|d| *d != missing).collect();
        let found = rig.salvage(&disks);
        assert!(found.bytes == expected(), "without {missing}");
        assert_eq!(found.sum(Fate::Sound), 8 * MIB + 4096);
        let (_head, remains) = rig.find(&disks).unwrap();
        assert_eq!(remains.facts.missing[0].0, format!("/dev/d{missing}"));
    }
    let one = rig.salvage(&[2]);
    assert_eq!(one.sum(Fate::Sound) + lost_data(&one), 8 * MIB + 4096);
    assert!(one.sum(Fate::Lost) > 0, "two drives of three hold some slots alone");
    for (at, byte) in one.bytes.iter().enumerate() {
        assert!(*byte == 0 || *byte == expected_at(at), "never anything else");
    }
}

fn expected_at(at: usize) -> u8 {
    match at {
        0..8_388_608 => 7,
        12_000_001..12_000_334 => 9,
        _ => 0,
    }
}

/// Bytes of what was written that are told to be lost.
fn lost_data(found: &Memory) -> u64 {
    let written = |at: u64| at < 8 * MIB || (at..at + 4096).contains(&12_000_001);
    let blocks = found.spans(Fate::Lost).into_iter().flat_map(|s| (s.offset().0..s.end().0).step_by(4096));
    blocks.filter(|at| written(*at)).count() as u64 * 4096
}

#[test]
fn damaged_superblocks_and_log_halves_are_gone_around() {
    let rig = Rig::new(3);
    rig.rot(0, ByteOffset(0), 4096);
    rig.rot(1, rig.layouts[1].superblocks()[1], 4096);
    // On the third drive the half that is in use: what can be read of its log is old, what it has is not.
    let (half, _) = rig.survey(2).inside.unwrap().log.unwrap();
    rig.rot(2, rig.layouts[2].log_start(half as u64), 4096);
    let found = rig.salvage(&[0, 1, 2]);
    assert!(found.bytes == expected());
    assert_eq!(found.sum(Fate::Sound), 8 * MIB + 4096);
    let (_head, remains) = rig.find(&[0, 1, 2]).unwrap();
    let remarks = |disk: usize| remains.facts.drives[disk].remarks.join("; ");
    assert_eq!(remarks(0), "front superblock: no superblock lies there");
    assert_eq!(remarks(1), "back superblock: no superblock lies there");
    assert!(remains.facts.drives[2].in_sync, "{:?}", remains.facts.drives[2]);
    assert!(remarks(2).contains("its metadata log is damaged"), "{}", remarks(2));
}

#[test]
fn a_rotten_block_is_taken_from_the_other_copy_and_lost_where_both_are_rotten() {
    let rig = Rig::new(4);
    let copies = rig.copies_of_the_first_block();
    rig.rot(copies[0].0, copies[0].1, 8192);
    let found = rig.salvage(&[0, 1, 2]);
    assert!(found.bytes == expected());
    rig.rot(copies[1].0, copies[1].1 + ByteLen(4096), 8192);
    let found = rig.salvage(&[0, 1, 2]);
    assert_eq!(found.spans(Fate::Lost), [Span::at(4096, 4096)]);
    let mut want = expected();
    want[4096..8192].fill(0);
    assert!(found.bytes == want, "the bad block is zeros, all others are right");
}

#[test]
fn blocks_that_cannot_be_read_cost_no_others() {
    let rig = Rig::new(5);
    for (disk, at) in rig.copies_of_the_first_block() {
        rig.world.disk(&rig.disks[disk]).break_reads(Span::at(at.0 + 40_960, 512));
    }
    let found = rig.salvage(&[0, 1, 2]);
    assert_eq!(found.spans(Fate::Lost), [Span::at(40_960, 4096)]);
    assert_eq!(found.sum(Fate::Sound), 8 * MIB);
}

#[test]
fn a_drive_that_was_lost_while_serving_is_old_and_the_others_are_not() {
    let rig = Rig::blank(6);
    let (head, pool) = rig.used();
    let gone = rig.copies_of_the_first_block_in(&pool)[0];
    rig.world.disk(&rig.disks[gone]).unplug();
    let handle = handle(&head, &pool);
    rig.on(&head, async move {
        put(&handle, 0, 8 * MIB, 8).await.unwrap();
        handle.flush().await.unwrap();
    });
    rig.world.power_cut();
    rig.world.bury(head);
    drop(pool);
    rig.world.disk(&rig.disks[gone]).plug();
    let mut want = expected();
    want[..8 << 20].fill(8);
    let all = rig.salvage(&[0, 1, 2]);
    assert!(all.bytes == want, "the newest bytes although the old drive is there");
    assert_eq!(all.sum(Fate::Lost) + all.sum(Fate::Old), 0);
    let others: Vec<usize> = (0..3).filter(|d| *d != gone).collect();
    assert!(rig.salvage(&others).bytes == want);
    // The old drive and one other: what only these two lack is told to be old, not passed off as new.
    let two = rig.salvage(&[gone, others[0]]);
    assert!(two.sum(Fate::Old) > 0);
    for (span, fate) in &two.told {
        let range = ByteLen(span.offset().0).as_usize()..ByteLen(span.end().0).as_usize();
        assert!(*fate == Fate::Old || two.bytes[range.clone()] == want[range], "{span:?} {fate:?}");
    }
}

impl Rig {
    /// The drives of the first slot's copies in an open pool.
    fn copies_of_the_first_block_in(&self, pool: &Pool) -> Vec<usize> {
        let live = drystone::reactor::sync::lock(&pool.shared().live);
        let slot = live.state.volumes[&VolumeId(0)].slots.first_key_value().unwrap().1;
        slot.copies.iter().map(|c| usize::from(c.member.0)).collect()
    }
}

#[test]
fn after_a_crash_everything_that_was_flushed_is_there() {
    let rig = Rig::blank(7);
    let (head, pool) = rig.used();
    let handle = handle(&head, &pool);
    // Overwritten and flushed: the checksums on the drives may be those from before.
    rig.on(&head, async move {
        put(&handle, 0, 4 * MIB, 8).await.unwrap();
        handle.flush().await.unwrap();
    });
    rig.world.power_cut();
    rig.world.bury(head);
    drop(pool);
    let mut want = expected();
    want[..4 << 20].fill(8);
    let found = rig.salvage(&[0, 1, 2]);
    assert!(found.bytes == want);
    assert_eq!(found.sum(Fate::Lost) + found.sum(Fate::Old), 0);
}

#[test]
fn twins_foreign_drives_and_two_pools_are_refused() {
    let mut rig = Rig::new(8);
    rig.world.copy_disk("/dev/d0", "/dev/twin");
    rig.world.add_disk("/dev/other", DiskShape::flash(ByteLen(80_000_000)));
    rig.disks.extend(["/dev/twin".into(), "/dev/other".into()]);
    let Err(SalvageError::Twins(a, b)) = rig.find(&[0, 1, 3]) else { panic!("twins") };
    assert_eq!((a, b), ("/dev/d0".into(), "/dev/twin".into()));
    assert!(matches!(rig.find(&[4]), Err(SalvageError::NoMembers { .. })));
    let (_head, remains) = rig.find(&[1, 2, 4]).unwrap();
    assert_eq!(remains.facts.left_out.len(), 1);
    assert!(remains.facts.left_out[0].1.contains("no sound superblock"), "{:?}", remains.facts.left_out);
    assert!(remains.volume("nothing").is_none());
    let uuid = remains.volumes().next().unwrap().1.uuid.to_string();
    assert!(remains.volume(&uuid).is_some());
    // The third drive becomes a pool of its own.
    let third = Rig { world: rig.world.clone(), disks: vec!["/dev/d2".into()], layouts: vec![] };
    let head = third.world.boot(1);
    third.create(&head);
    let Err(SalvageError::SeveralPools(pools)) = rig.find(&[0, 1, 2]) else { panic!("two pools") };
    assert_eq!(pools.len(), 2);
}

#[test]
fn a_survey_tells_what_is_sound_and_what_is_damaged() {
    let rig = Rig::new(9);
    let survey = rig.survey(0);
    assert!(survey.superblocks.iter().all(|s| s.content.is_ok()));
    let inside = survey.inside.unwrap();
    let (half, log) = inside.log.unwrap();
    assert_eq!((log.state.name.as_str(), log.state.clean), ("tank", true));
    assert_eq!(inside.halves[half].end, LogEnd::Clean);
    assert!(inside.halves[half].frames > 3, "a checkpoint and commits");
    assert!(inside.planes.iter().all(|p| p.unwrap().damaged_sectors == 0));

    rig.rot(0, ByteOffset(0), 4096);
    rig.rot(0, rig.layouts[0].dirty_start, 512);
    // A frame in the middle is not a torn end: later ones are behind it.
    rig.rot(0, rig.layouts[0].log_start(half as u64) + ByteLen(4096), 4096);
    let survey = rig.survey(0);
    assert_eq!(survey.superblocks[0].content.as_ref().err(), Some(&SuperblockFlaw::Absent));
    let inside = survey.inside.unwrap();
    let at = rig.layouts[0].log_start(half as u64) + ByteLen(4096);
    assert!(
        matches!(inside.halves[half].end, LogEnd::Damaged { at: a, behind: 1.. } if a == at),
        "{:?}",
        inside.halves[half].end
    );
    let dirty = inside.planes[0].unwrap();
    assert_eq!((dirty.damaged_sectors, dirty.marked), (1, rig.layouts[0].regions()));

    rig.rot(0, rig.layouts[0].superblocks()[1], 4096);
    assert!(rig.survey(0).inside.is_none());
    let checkpoint = rig.layouts[1].log_start(half as u64);
    rig.rot(1, checkpoint, 4096);
    let end = rig.survey(1).inside.unwrap().halves[half].end;
    assert!(matches!(end, LogEnd::Damaged { at, behind: 1.. } if at == checkpoint), "{end:?}");
}

#[test]
fn a_last_frame_that_is_too_short_to_tear_is_damaged_and_not_the_end() {
    let rig = Rig::new(10);
    let inside = rig.survey(0).inside.unwrap();
    let (half, log) = inside.log.unwrap();
    let last = rig.layouts[0].log_start(half as u64) + log.cursor.offset - ByteOffset(0);
    let last = ByteOffset(last.0 - 4096);
    let disk = rig.world.disk(&rig.disks[0]);
    let mut block = disk.peek(last, 512);
    block[64] ^= 1;
    disk.poke(last, &block);
    let end = rig.survey(0).inside.unwrap().halves[half].end;
    assert_eq!(end, LogEnd::Damaged { at: last, behind: 0 });
}
