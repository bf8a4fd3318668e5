//! No content of a drive makes the program crash, loop, or read out of range (R47).

use crate::rig::{MIB, Rig, restore};
use drystone::base::checksum::structure_sum;
use drystone::base::prng::Prng;
use drystone::base::units::{ByteLen, ByteOffset, ExtentIndex, RegionIndex, Span};
use drystone::pool::PoolError;
use drystone::pool::record;
use drystone::sim::DiskHandle;

fn index(prng: &mut Prng, below: usize) -> usize {
    usize::try_from(prng.below(below as u64)).unwrap()
}

/// Changes some bytes to what is likely to hurt.
fn mutate(prng: &mut Prng, bytes: &mut [u8]) {
    for _ in 0..=prng.below(3) {
        let at = index(prng, bytes.len());
        match prng.below(4) {
            0 => bytes[at] ^= 1 << prng.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][index(prng, 5)],
            2 => {
                let end = bytes.len().min(at + 8);
                bytes[at..end].fill(0xff);
            }
            _ => bytes[at] = (prng.u64() & 0xff) as u8,
        }
    }
}

/// A block whose last eight bytes are its checksum, changed, with a fitting checksum.
fn forge_block(prng: &mut Prng, disk: &DiskHandle, at: ByteOffset) {
    let mut bytes = disk.peek(at, 4096);
    mutate(prng, &mut bytes[..4088]);
    let sum = structure_sum(&bytes[..4088]);
    bytes[4088..].copy_from_slice(&sum.to_le_bytes());
    disk.poke(at, &bytes);
}

/// A log frame, its body or its header changed, with a fitting checksum.
fn forge_frame(prng: &mut Prng, disk: &DiskHandle, at: ByteOffset) {
    let first = disk.peek(at, 4096);
    let Some(mut header) = record::parse_header(&first, at) else { return };
    let len = usize::try_from(record::frame_len(header.body_len)).unwrap();
    let frame = disk.peek(at, len);
    let mut body = frame[64..64 + usize::try_from(header.body_len).unwrap()].to_vec();
    match prng.below(5) {
        0 => header.generation = prng.u64(),
        1 => header.sequence = prng.u64() >> prng.below(64),
        2 => header.epoch = prng.u64() >> prng.below(64),
        _ => mutate(prng, &mut body),
    }
    disk.poke(at, &record::emit(&header, &body, at));
}

fn strike(prng: &mut Prng, rig: &Rig, frames: &[(ByteOffset, u64)]) {
    let all = prng.below(3) == 0;
    let layout = rig.layout();
    let kind = prng.below(8);
    let (one, frame) = (index(prng, 3), index(prng, frames.len()));
    let extent = ExtentIndex(u32::try_from(prng.below(20)).unwrap());
    for i in (0..3).filter(|i| all || *i == one) {
        let disk = rig.disk(i);
        match kind {
            0 => forge_block(prng, &disk, layout.superblocks()[0]),
            1 => {
                let at = layout.superblocks()[0];
                let mut bytes = disk.peek(at, 512);
                mutate(prng, &mut bytes[..100]);
                disk.poke(at, &bytes);
            }
            2..=4 => forge_frame(prng, &disk, frames[frame].0),
            5 => {
                let at = layout.dirty_start + ByteLen(512 * prng.below(8));
                let mut bytes = disk.peek(at, 512);
                mutate(prng, &mut bytes);
                disk.poke(at, &bytes);
            }
            _ => {
                let version = prng.below(2);
                forge_block(prng, &disk, layout.region_block(extent, RegionIndex(0), version));
            }
        }
    }
}

#[test]
fn r47_no_metadata_makes_the_program_crash_or_loop() {
    let rig = Rig::used(47, 3);
    // Also the way after a crash, with dirty regions.
    let head = rig.world.boot(1);
    let pool = rig.open(&head).expect("opens");
    rig.write(&head, &pool, 0, 3 * MIB, 7);
    rig.cut(head, pool);
    let images = rig.images();
    let frames = rig.frames(0);
    let (mut opened, mut refused) = (0, 0);
    for seed in 0..ROUNDS {
        restore(&images);
        let mut prng = Prng::from_seed(seed);
        for _ in 0..=prng.below(2) {
            strike(&mut prng, &rig, &frames);
        }
        let head = rig.world.boot(1);
        match rig.open_by(&head, &rig.plan(prng.below(2) == 0)).unwrap_or_else(|e| panic!("seed {seed}: {e}"))
        {
            Err(_) => refused += 1,
            Ok(pool) => {
                opened += 1;
                use_what_is_there(&rig, &head, &pool);
            }
        }
        rig.world.power_cut();
        rig.world.bury(head);
    }
    assert!(opened > ROUNDS / 10 && refused > ROUNDS / 50, "{opened} opened, {refused} refused");
}

const ROUNDS: u64 = 300;

/// Reads and writes; errors are answers here.
fn use_what_is_there(rig: &Rig, head: &drystone::sim::Process, pool: &drystone::pool::Pool) {
    let Some(volume) = pool.volume("data") else { return };
    let handle = std::sync::Arc::new(drystone::volume::Volume::in_pool(volume)).handle(head.core(0));
    rig.on(head, async move {
        for at in [0, 5 * MIB, 19 * MIB] {
            let _ = handle.read(Span::at(at, 64 << 10)).await;
            let _ = crate::rig::put(&handle, at, 4096, 3).await;
        }
        let _ = handle.flush().await;
    });
    rig.pass(head, 2);
    let (core, pool) = (head.core(0).clone(), pool.clone());
    let _ = rig.on(head, async move { pool.close(&core).await });
}

#[test]
fn r47_versions_and_features_that_are_not_known_are_refused_and_nothing_is_written() {
    let rig = Rig::used(48, 3);
    let images = rig.images();
    let set = |at: usize, value: u32| {
        restore(&images);
        for place in rig.layout().superblocks() {
            let mut bytes = rig.disk(1).peek(place, 4096);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let sum = structure_sum(&bytes[..4088]);
            bytes[4088..].copy_from_slice(&sum.to_le_bytes());
            rig.disk(1).poke(place, &bytes);
        }
    };
    set(8, 77);
    assert!(matches!(rig.refused(true), PoolError::UnknownFormat { found: 77, .. }));
    set(12, 1 << 5);
    let error = rig.refused(true);
    assert!(matches!(error, PoolError::UnknownFeatures { unknown: 32, .. }));
    assert!(error.to_string().contains("feature 5 is not known"), "{error}");
}
