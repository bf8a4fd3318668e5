//! Files.

use super::rig::{Fixture, Rig, finished, pattern, read_bytes};
use drystone::base::units::{ByteLen, Span};
use drystone::io::driver::{Access, Done, FileId, FileKind, Op};
use nix::errno::Errno;

const SIZE: u64 = 1 << 20;

fn rig_with_file(fixture: &mut impl Fixture) -> (Rig, FileId) {
    let path = fixture.file(SIZE);
    let mut rig = Rig::new(fixture, 1);
    let file = rig.open(0, &path, Access::Exclusive);
    (rig, file)
}

fn size_of(rig: &mut Rig, file: FileId) -> Result<ByteLen, Errno> {
    match rig.run(0, Op::Size { file }) {
        Done::Size(result) => result,
        _ => panic!("Size ends with Size"),
    }
}

pub fn what_was_written_reads_back(fixture: &mut impl Fixture) {
    let (mut rig, file) = rig_with_file(fixture);
    let bytes = pattern(1, 3 * 4096);
    rig.write(0, file, 8192, &bytes).unwrap();
    assert_eq!(rig.read(0, file, 8192, bytes.len()).unwrap(), bytes);
    assert_eq!(rig.read(0, file, 12288, 4096).unwrap(), bytes[4096..8192]);
    assert_eq!(rig.read(0, file, 0, 8192).unwrap(), vec![0; 8192], "what was not written is as before");
}

pub fn a_read_ends_short_at_the_end_of_the_file_only(fixture: &mut impl Fixture) {
    let (mut rig, file) = rig_with_file(fixture);
    let size = usize::try_from(SIZE).unwrap();
    assert_eq!(rig.read(0, file, 0, size).unwrap().len(), size);
    assert_eq!(rig.read(0, file, SIZE - 4096, 3 * 4096).unwrap().len(), 4096);
    assert_eq!(rig.read(0, file, SIZE, 4096).unwrap().len(), 0);
    assert_eq!(rig.read(0, file, SIZE + 8192, 4096).unwrap().len(), 0);
}

pub fn a_write_past_the_end_makes_a_file_longer(fixture: &mut impl Fixture) {
    let (mut rig, file) = rig_with_file(fixture);
    assert_eq!(size_of(&mut rig, file), Ok(ByteLen(SIZE)));
    rig.write(0, file, SIZE + 4096, &pattern(2, 4096)).unwrap();
    assert_eq!(size_of(&mut rig, file), Ok(ByteLen(SIZE + 8192)));
    assert_eq!(rig.read(0, file, SIZE, 4096).unwrap(), vec![0; 4096]);
}

pub fn durable_writes_and_flushes_end_well(fixture: &mut impl Fixture) {
    let (mut rig, file) = rig_with_file(fixture);
    let (first, second) = (pattern(3, 4096), pattern(4, 4096));
    let durable = rig.write_op(file, 0, &first, true);
    rig.finish(0, durable).unwrap();
    rig.write(0, file, 4096, &second).unwrap();
    rig.finish(0, Op::Flush { file }).unwrap();
    assert_eq!(rig.read(0, file, 0, 8192).unwrap(), [first, second].concat());
}

pub fn many_operations_end_once_each(fixture: &mut impl Fixture) {
    let (mut rig, file) = rig_with_file(fixture);
    let blocks: Vec<Vec<u8>> = (0..200).map(|n| pattern(n, 4096)).collect();
    let mut tokens = Vec::new();
    for (offset, block) in (0u64..).step_by(4096).zip(&blocks) {
        let op = rig.write_op(file, offset, block, false);
        tokens.push(rig.submit(0, op));
    }
    for token in tokens.drain(..).rev() {
        finished(rig.wait(token)).unwrap();
    }
    for offset in (0u64..).step_by(4096).take(blocks.len()) {
        let op = rig.read_op(file, offset, 4096);
        tokens.push(rig.submit(0, op));
    }
    for (token, block) in tokens.into_iter().zip(&blocks) {
        assert_eq!(&read_bytes(rig.wait(token)).unwrap(), block);
    }
}

pub fn r28_an_exclusive_open_is_refused_until_the_holder_closes(fixture: &mut impl Fixture) {
    let path = fixture.file(SIZE);
    let mut rig = Rig::new(fixture, 2);
    let file = rig.open(0, &path, Access::Exclusive);
    assert_eq!(rig.try_open(1, &path, Access::Exclusive), Err(Errno::EBUSY));
    let create = Access::ExclusiveCreate { size: ByteLen(4096) };
    assert_eq!(rig.try_open(0, &path, create), Err(Errno::EBUSY));
    let inspected = rig.open(1, &path, Access::Inspect);
    let pending = rig.read_op(file, 0, 4096);
    let pending = rig.submit(0, pending);
    rig.finish(0, Op::Close { file }).unwrap();
    assert_eq!(read_bytes(rig.wait(pending)).unwrap().len(), 4096, "what was in flight ends as usual");
    let again = rig.open(1, &path, Access::Exclusive);
    rig.finish(1, Op::Close { file: again }).unwrap();
    rig.finish(0, Op::Close { file: inspected }).unwrap();
}

pub fn exclusive_create_makes_the_file_once(fixture: &mut impl Fixture) {
    let path = fixture.free_path();
    let mut rig = Rig::new(fixture, 1);
    let opened = rig.try_open(0, &path, Access::ExclusiveCreate { size: ByteLen(16384) }).unwrap();
    assert_eq!((opened.facts.size, opened.facts.kind), (ByteLen(16384), FileKind::RegularFile));
    let bytes = pattern(5, 4096);
    rig.write(0, opened.file, 4096, &bytes).unwrap();
    rig.finish(0, Op::Close { file: opened.file }).unwrap();
    let opened = rig.try_open(0, &path, Access::ExclusiveCreate { size: ByteLen(4096) }).unwrap();
    assert_eq!(opened.facts.size, ByteLen(16384), "a file that is there stays as it is");
    assert_eq!(rig.read(0, opened.file, 0, 8192).unwrap(), [vec![0; 4096], bytes].concat());
}

pub fn opening_nothing_gives_enoent(fixture: &mut impl Fixture) {
    let path = fixture.free_path();
    let mut rig = Rig::new(fixture, 1);
    assert_eq!(rig.try_open(0, &path, Access::Exclusive), Err(Errno::ENOENT));
    assert_eq!(rig.try_open(0, &path, Access::Inspect), Err(Errno::ENOENT));
}

pub fn zeroes_read_as_zeros_and_discards_spare_the_neighbours(fixture: &mut impl Fixture) {
    let (mut rig, file) = rig_with_file(fixture);
    let bytes = pattern(6, 8 * 4096);
    rig.write(0, file, 0, &bytes).unwrap();
    rig.finish(0, Op::Zero { file, span: Span::at(4096, 8192) }).unwrap();
    rig.finish(0, Op::Discard { file, span: Span::at(5 * 4096, 8192) }).unwrap();
    let after = rig.read(0, file, 0, bytes.len()).unwrap();
    assert_eq!(after[..4096], bytes[..4096]);
    assert_eq!(after[4096..3 * 4096], [0; 8192]);
    assert_eq!(after[3 * 4096..5 * 4096], bytes[3 * 4096..5 * 4096]);
    assert_eq!(after[7 * 4096..], bytes[7 * 4096..]);
    assert_eq!(size_of(&mut rig, file), Ok(ByteLen(SIZE)));
}

pub fn a_closed_file_gives_ebadf(fixture: &mut impl Fixture) {
    let (mut rig, file) = rig_with_file(fixture);
    rig.finish(0, Op::Close { file }).unwrap();
    assert_eq!(rig.read(0, file, 0, 4096), Err(Errno::EBADF));
    assert_eq!(rig.write(0, file, 0, &[0; 4096]), Err(Errno::EBADF));
    assert_eq!(rig.finish(0, Op::Flush { file }), Err(Errno::EBADF));
    assert_eq!(size_of(&mut rig, file), Err(Errno::EBADF));
    assert_eq!(rig.finish(0, Op::Close { file }), Err(Errno::EBADF));
}

pub fn a_file_opened_for_inspection_is_not_written(fixture: &mut impl Fixture) {
    let path = fixture.file(SIZE);
    let mut rig = Rig::new(fixture, 1);
    let file = rig.open(0, &path, Access::Inspect);
    assert_eq!(rig.write(0, file, 0, &[1; 4096]), Err(Errno::EBADF));
    assert_eq!(rig.read(0, file, 0, 4096).unwrap(), vec![0; 4096]);
}

pub fn unaligned_access_gives_einval(fixture: &mut impl Fixture) {
    if fixture.knows_no_sectors() {
        return;
    }
    let (mut rig, file) = rig_with_file(fixture);
    // Written first: a hole in a file is read at any alignment.
    let bytes = pattern(8, 8192);
    rig.write(0, file, 0, &bytes).unwrap();
    assert_eq!(rig.read(0, file, 100, 4096).err(), Some(Errno::EINVAL));
    assert_eq!(rig.read(0, file, 0, 1000).err(), Some(Errno::EINVAL));
    assert_eq!(rig.write(0, file, 100, &[1; 4096]), Err(Errno::EINVAL));
    assert_eq!(rig.write(0, file, 0, &[1; 1000]), Err(Errno::EINVAL));
    assert!(rig.read(0, file, 0, 8192).unwrap() == bytes, "nothing was written");
}

pub fn nothing_to_move_ends_well(fixture: &mut impl Fixture) {
    let (mut rig, file) = rig_with_file(fixture);
    assert_eq!(rig.read(0, file, 4096, 0).unwrap(), Vec::<u8>::new());
    assert_eq!(rig.write(0, file, 4096, &[]), Ok(()));
}

pub fn a_file_works_on_every_core(fixture: &mut impl Fixture) {
    let path = fixture.file(SIZE);
    let mut rig = Rig::new(fixture, 3);
    let file = rig.open(0, &path, Access::Exclusive);
    let bytes = pattern(7, 4096);
    rig.write(1, file, 4096, &bytes).unwrap();
    rig.finish(2, Op::Flush { file }).unwrap();
    assert_eq!(rig.read(2, file, 4096, 4096).unwrap(), bytes);
    rig.finish(2, Op::Close { file }).unwrap();
    assert_eq!(rig.read(1, file, 4096, 4096), Err(Errno::EBADF));
}
