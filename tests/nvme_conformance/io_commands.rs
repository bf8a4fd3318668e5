//! Items 53, 55 to 58 and 60: I/O commands.

use crate::host::{Answer, Command, Conn, Data, Host, pattern, read, write};
use crate::server::{SIZE, tank};
use drystone::base::units::ByteLen;
use drystone::volume::memory::MemoryVolume;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const COMPARE: u8 = 0x05;
const ZEROES: u8 = 0x08;
const DATASET: u8 = 0x09;
const VERIFY: u8 = 0x0c;

/// One range of Dataset Management.
fn range(first: u64, count: u32) -> Vec<u8> {
    [&[0; 4][..], &count.to_le_bytes(), &first.to_le_bytes()].concat()
}

/// Gives back what the ranges say; `count` is how many are counted.
fn dataset(queue: &mut Conn, namespace: u32, count: u32, deallocate: bool, ranges: &[u8]) -> u16 {
    let command = Command::new(DATASET, namespace).dword(10, count - 1).dword(11, u32::from(deallocate) << 2);
    let answer = queue.ask(&command, Data::Here(ranges));
    assert!(answer.status == 0 || answer.no_retry);
    answer.status
}

fn fill(queue: &mut Conn, namespace: u32, blocks: u32) -> Vec<u8> {
    let data = pattern(u64::from(blocks), blocks as usize * 512);
    queue.ask(&write(namespace, 0, blocks), Data::Asked(&data)).ok();
    data
}

fn content(queue: &mut Conn, namespace: u32, blocks: u32) -> Vec<u8> {
    queue.ask(&read(namespace, 0, blocks), Data::Back(blocks * 512)).bytes()
}

#[test]
fn c53_ranges_end_at_the_last_block() {
    let rig = tank();
    let large = rig.export_large_blocks();
    let mut queue = rig.queue(0);
    for (namespace, block) in [(rig.tank, 512_u32), (large, 4096)] {
        let end = SIZE / u64::from(block);
        let data = vec![0; block as usize];
        for opcode in [1, 2, COMPARE, ZEROES, VERIFY, DATASET] {
            for (first, count, is_in) in [
                (end - 1, 1, true),
                (end, 1, false),
                (end - 1, 2, false),
                (u64::MAX, 1, false),
                (u64::MAX, 2, false),
                (u64::MAX / u64::from(block), 1, false),
                (1 << 55, 1, false),
            ] {
                let command = Command::new(opcode, namespace).blocks(first, count);
                let bytes = data.repeat(count as usize);
                let answer = match opcode {
                    1 | COMPARE => queue.start_and_finish(&command, &bytes, is_in),
                    2 => queue.ask(&command, Data::Back(block * count)),
                    DATASET => {
                        let list = range(first, count);
                        let command = Command::new(DATASET, namespace).dword(11, 4);
                        queue.ask(&command, Data::Here(&list))
                    }
                    _ => queue.ask(&command, Data::None),
                };
                assert_eq!(answer.status, if is_in { 0 } else { 0x080 }, "{opcode:x} {first} {count}");
                assert_eq!(answer.no_retry, !is_in);
            }
        }
    }
}

impl Conn {
    /// A command with data: one that is refused is not asked for any.
    fn start_and_finish(&mut self, command: &Command, data: &[u8], is_taken: bool) -> Answer {
        let id = self.start(command, Data::Asked(data));
        self.finish(id, if is_taken { Data::Asked(data) } else { Data::None })
    }
}

#[test]
fn c53_namespaces_that_are_not_active_have_no_blocks() {
    let rig = tank();
    let mut queue = rig.queue(0);
    for namespace in [0, rig.tank + 1, 1 << 20, 0xffff_fffe, u32::MAX] {
        for opcode in [0, 1, 2, COMPARE, ZEROES, DATASET, VERIFY, 0x0d, 0x0e, 0x11, 0x15] {
            let answer = queue.ask(&Command::new(opcode, namespace), Data::None);
            let is_flush_of_all = opcode == 0 && namespace == u32::MAX;
            assert_eq!(answer.status, if is_flush_of_all { 0 } else { 0x00b }, "{opcode:x} {namespace:x}");
            assert_eq!(answer.no_retry, !is_flush_of_all);
        }
    }
}

#[test]
fn c55_ranges_that_are_given_back_read_as_zeroes() {
    let rig = tank();
    let mut queue = rig.queue(0);
    let mut model = fill(&mut queue, rig.tank, 2048);
    // Of 256 ranges of a block of 4 KiB every second one; the last in reverse and overlapping.
    let ranges: Vec<u8> = (0..128).flat_map(|i| [range(i * 16, 8), range(i * 16, 4)].concat()).collect();
    assert_eq!(dataset(&mut queue, rig.tank, 256, true, &ranges), 0);
    (0..128).for_each(|i| model[i * 8192..][..4096].fill(0));
    assert!(content(&mut queue, rig.tank, 2048) == model);
    let mut padded = [range(8, 0), range(8, 8)].concat();
    padded.resize(4096, 0xff);
    assert_eq!(dataset(&mut queue, rig.tank, 2, true, &padded), 0, "what is behind the count means nothing");
    model[4096..8192].fill(0);
    assert!(content(&mut queue, rig.tank, 2048) == model);
    assert_eq!(dataset(&mut queue, rig.tank, 1, false, &range(24, 8)), 0, "without AD nothing is done");
    let beyond = [range(24, 8), range(SIZE / 512 - 1, 2)].concat();
    assert_eq!(dataset(&mut queue, rig.tank, 2, true, &beyond), 0x080, "all of them, or none");
    assert_eq!(dataset(&mut queue, rig.tank, 2, true, &[range(24, 8), range(0, u32::MAX)].concat()), 0x080);
    assert!(content(&mut queue, rig.tank, 2048) == model);
}

#[test]
fn c55_as_many_ranges_as_are_counted_must_be_there() {
    let rig = tank();
    let mut queue = rig.queue(0);
    for count in [1, 2, 3, 255, 256] {
        let ranges = range(0, 0).repeat(count as usize);
        assert_eq!(dataset(&mut queue, rig.tank, count, true, &ranges), 0, "{count}");
        let short = &ranges[..ranges.len() - 16];
        assert_eq!(dataset(&mut queue, rig.tank, count, true, short), 0x00f, "{count}");
    }
    let command = Command::new(DATASET, rig.tank).dword(11, 4).id(8).moved(8192);
    queue.submit(&command, &[]);
    assert_eq!(queue.completion().status, 0x00f, "more than 256 ranges");
}

#[test]
fn c56_zeroes_are_written_with_and_without_giving_back() {
    let rig = tank();
    let (host, mut queue) = rig.session(0);
    for deallocate in [0, 1 << 25] {
        let mut model = fill(&mut queue, rig.tank, 2048);
        for (first, count) in [(3, 1), (8, 8), (100, 1000)] {
            let command = Command::new(ZEROES, rig.tank).dword(12, deallocate).blocks(first, count);
            queue.ask(&command.with(51, &[u8::try_from(deallocate >> 24).unwrap()]), Data::None).ok();
            model[first as usize * 512..][..count as usize * 512].fill(0);
        }
        assert!(content(&mut queue, rig.tank, 2048) == model);
        let all = Command::new(ZEROES, rig.tank).blocks(0, 65536);
        queue.ask(&all.with(51, &[u8::try_from(deallocate >> 24).unwrap()]), Data::None).ok();
        assert!(content(&mut host.queue(2), rig.tank, 2048) == vec![0; 1 << 20]);
        let crossing = Command::new(ZEROES, rig.tank).blocks(SIZE / 512 - 65535, 65536);
        assert_eq!(queue.ask(&crossing, Data::None).status, 0x080);
    }
}

#[test]
fn c57_compare_tells_equal_from_unequal() {
    let rig = tank();
    let mut queue = rig.queue(0);
    let data = fill(&mut queue, rig.tank, 2048);
    let compare = |first: u64, count: u32| Command::new(COMPARE, rig.tank).blocks(first, count);
    queue.ask(&compare(0, 2048), Data::Asked(&data)).ok();
    queue.ask(&compare(3, 2), Data::Here(&data[1536..2560])).ok();
    for at in [0, 1, 511, 512, 1 << 19, (1 << 20) - 1] {
        let mut other = data.clone();
        other[at] ^= 1;
        let answer = queue.ask(&compare(0, 2048), Data::Asked(&other));
        assert_eq!((answer.status, answer.no_retry), (0x285, true), "{at}");
    }
    assert!(content(&mut queue, rig.tank, 2048) == data, "nothing was written");
    for fuse in [1, 2] {
        let mut pair = compare(0, 1).here(512).id(7);
        pair.0[1] |= fuse;
        queue.submit(&pair, &data[..512]);
        assert_eq!(queue.completion().status, 0x002, "fused commands are refused");
    }
}

#[test]
fn c58_a_read_only_namespace_is_read() {
    let rig = tank();
    let locked = rig.export_read_only();
    let (mut host, mut queue) = rig.session(0);
    for opcode in [1, ZEROES, DATASET] {
        for data in [Data::None, Data::Here(&[0; 512])] {
            let answer = queue.ask(&Command::new(opcode, locked).blocks(0, 1), data);
            assert_eq!((answer.status, answer.no_retry), (0x020, true), "{opcode:x}");
        }
    }
    assert_eq!(content(&mut queue, locked, 8), [0; 4096]);
    queue.ask(&Command::new(COMPARE, locked).blocks(0, 1), Data::Here(&[0; 512])).ok();
    queue.ask(&Command::new(VERIFY, locked).blocks(0, 65536), Data::None).ok();
    queue.ask(&Command::new(0, locked), Data::None).ok();
    assert_eq!(host.identify(0, locked).bytes()[99], 1);
    host.set_feature(0x0b, 1 << 8).ok();
    host.listen();
    rig.export("locked", MemoryVolume::new(ByteLen(SIZE)));
    assert_eq!(host.admin.completion().result, 0x0004_0002);
    assert_eq!(host.identify(0, locked).bytes()[99], 0);
    queue.ask(&write(locked, 0, 1), Data::Here(&[1; 512])).ok();
}

/// Writes a block of one byte, over and over, until told to stop.
fn scribble(mut queue: Conn, namespace: u32, stop: &AtomicBool) {
    for byte in (0..=0xff_u8).cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let data = [byte; 4096];
        let data = if byte % 2 == 0 { Data::Here(&data) } else { Data::Asked(&data) };
        queue.ask(&write(namespace, 8, 8), data).ok();
    }
}

#[test]
fn c60_a_block_is_old_or_new_for_every_reader() {
    let rig = tank();
    let host: Host = rig.host();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = [1, 2]
        .into_iter()
        .map(|number| {
            let (queue, namespace, stop) = (host.queue(number), rig.tank, stop.clone());
            std::thread::spawn(move || scribble(queue, namespace, &stop))
        })
        .collect();
    let mut reader = host.queue(3);
    for _ in 0..1000 {
        let block = reader.ask(&read(rig.tank, 8, 8), Data::Back(4096)).bytes();
        assert!(block.iter().all(|byte| *byte == block[0]), "torn");
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
}

#[test]
fn c54_a_flush_covers_every_queue_and_fua_is_taken() {
    let rig = tank();
    let (host, mut queue) = rig.session(0);
    let mut other = host.queue(2);
    for force in [0, 0x40] {
        let command = write(rig.tank, 0, 8).with(51, &[force]);
        queue.ask(&command, Data::Here(&[force | 1; 4096])).ok();
        other.ask(&Command::new(0, rig.tank), Data::None).ok();
        other.ask(&Command::new(0, u32::MAX), Data::None).ok();
        let command = read(rig.tank, 0, 8).with(51, &[force]);
        assert_eq!(other.ask(&command, Data::Back(4096)).bytes(), [force | 1; 4096]);
    }
}
