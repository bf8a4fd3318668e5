//! What a pool decides and reads for each request, each new slot and each region: pure functions.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use drystone::base::bitmap::Bitmap;
use drystone::base::units::{ByteLen, ByteOffset, MemberId, RegionIndex, SlotIndex, Span, VolumeId};
use drystone::pool::alloc::{Room, choose, lot};
use drystone::pool::redundancy::mirror::{Load, read_order};
use drystone::pool::redundancy::stripe::Geometry;
use drystone::pool::region_block::{Owner, RegionBlock};
use std::hint::black_box;
use uuid::Uuid;

fn requests(c: &mut Criterion) {
    let mut geometry = Geometry {
        extent: ByteLen(16 << 20),
        region: ByteLen(2 << 20),
        unit: ByteLen(64 << 10),
        segments: vec![],
    };
    geometry.cover(ByteLen(1 << 40), 4);
    let mut group = c.benchmark_group("request");
    for (name, len) in [("4 KiB cut into fragments", 4096), ("1 MiB cut into fragments", 1 << 20)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let span = Span::at(black_box(777 << 20), len);
                geometry.fragments(span).map(|fragment| fragment.len.0).sum::<u64>()
            })
        });
    }
    let loads = [Load { in_flight: 3, read_ns: 90_000, suspect: false }; 2];
    group.bench_function("order of two copies", |b| b.iter(|| read_order(black_box(&loads), 7)));
    group.finish();
}

fn placement(c: &mut Criterion) {
    let mut group = c.benchmark_group("placement");
    for members in [4u16, 24] {
        let room = |member: u16| Room {
            member: MemberId(member),
            free: 1000 + u32::from(member) * 37 % 500,
            total: 2000,
            in_stripe: u32::from(member % 3),
            lot: lot(VolumeId(1), SlotIndex(9), MemberId(member)),
        };
        let rooms: Vec<Room> = (0..members).map(room).collect();
        group.bench_function(format!("two copies on {members} members"), |b| {
            b.iter(|| choose(black_box(&rooms), 2))
        });
    }
    group.finish();
}

fn region_blocks(c: &mut Criterion) {
    let owner = Owner {
        pool: Uuid::nil(),
        volume: VolumeId(1),
        slot: SlotIndex(2),
        region: RegionIndex(3),
        stamp: 4,
    };
    let sums = Some((0..512).collect());
    let block =
        RegionBlock { version: 5, written: Bitmap::from_words(512, &[u64::MAX; 8]), sums, lost: None };
    let at = ByteOffset(8192);
    let bytes = block.emit(&owner, at);
    let mut group = c.benchmark_group("region block");
    group.throughput(Throughput::Elements(1));
    group.bench_function("emitted", |b| b.iter(|| black_box(&block).emit(&owner, at)));
    group.bench_function("parsed", |b| {
        b.iter(|| RegionBlock::parse(black_box(&bytes), &owner, 512, at).expect("as it was emitted"))
    });
    group.finish();
}

criterion_group!(pool, requests, placement, region_blocks);
criterion_main!(pool);
