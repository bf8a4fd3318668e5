//! The frame of what the metadata log holds: checkpoints and records. Bytes only; table in docs/format.md.
//!
//! A frame knows its own address and generation, so that what an earlier generation left behind is not taken for
//! a record of this one. Every commit has a link, made from its content and the link of the commit before it: two
//! logs that share a link share their whole history, wherever on their members they lie.

use crate::base::checksum::structure_sum;
use crate::base::codec::{Reader, Writer};
use crate::base::limits::BLOCK;
use crate::base::units::{ByteOffset, round_up};

const MAGIC: u32 = u32::from_le_bytes(*b"DSLG");
pub const HEADER_LEN: usize = 64;

/// The bytes of body a frame may have: more than any generation of the log.
const BODY_MAX: u64 = 1 << 30;

/// No generation, epoch or sequence comes near this: a frame with a greater one is none of ours.
const COUNTER_MAX: u64 = 1 << 62;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The whole state: the first frame of a generation.
    Checkpoint,
    /// Changes to the state before it.
    Changes,
}

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: Kind,
    pub generation: u64,
    /// Counts the openings of the pool.
    pub epoch: u64,
    /// Counts the commits of the pool, over all epochs.
    pub sequence: u64,
    /// The link of the commit before this one; a checkpoint carries the link of the last commit in it.
    pub before: u64,
    pub body_len: u64,
}

/// Bytes that a frame with this body takes in the log: whole blocks.
pub fn frame_len(body_len: u64) -> u64 {
    round_up(HEADER_LEN as u64 + body_len, BLOCK) // widening
}

/// The link that stands for the history up to and including this frame.
pub fn link(header: &Header, body: &[u8]) -> u64 {
    match header.kind {
        Kind::Checkpoint => header.before,
        Kind::Changes => {
            let mut w = Writer::new();
            w.u64(header.before).u64(header.epoch).u64(header.sequence).u64(structure_sum(body));
            structure_sum(&w.finish())
        }
    }
}

/// The frame for `at`, padded to whole blocks.
pub fn emit(header: &Header, body: &[u8], at: ByteOffset) -> Vec<u8> {
    let mut w = Writer::new();
    let kind = match header.kind {
        Kind::Checkpoint => 1,
        Kind::Changes => 2,
    };
    w.u32(MAGIC).u32(kind).u64(header.generation).u64(header.epoch).u64(header.sequence);
    w.u64(header.before).u64(header.body_len).u64(at.0);
    let mut bytes = w.finish();
    let sum = frame_sum(&bytes, body);
    bytes.extend_from_slice(&sum.to_le_bytes());
    debug_assert_eq!(bytes.len(), HEADER_LEN);
    bytes.extend_from_slice(body);
    bytes.resize(usize::try_from(frame_len(header.body_len)).expect("64-bit platform"), 0);
    bytes
}

/// Reads a header found at `at`; None if there is none. The checksum is checked by `verify` once the body is there.
pub fn parse_header(bytes: &[u8], at: ByteOffset) -> Option<Header> {
    let mut r = Reader::new(bytes.get(..HEADER_LEN)?);
    if r.u32().ok()? != MAGIC {
        return None;
    }
    let kind = match r.u32().ok()? {
        1 => Kind::Checkpoint,
        2 => Kind::Changes,
        _ => return None,
    };
    let header = Header {
        kind,
        generation: r.u64().ok()?,
        epoch: r.u64().ok()?,
        sequence: r.u64().ok()?,
        before: r.u64().ok()?,
        body_len: r.u64().ok()?,
    };
    let counters = [header.generation, header.epoch, header.sequence];
    let sane = header.body_len <= BODY_MAX && counters.iter().all(|c| *c <= COUNTER_MAX);
    (r.u64().ok()? == at.0 && sane).then_some(header)
}

/// The body of a whole frame if its checksum is right: header and body as `emit` made them.
pub fn verify<'a>(frame: &'a [u8], header: &Header) -> Option<&'a [u8]> {
    let body_len = usize::try_from(header.body_len).ok()?;
    let body = frame.get(HEADER_LEN..HEADER_LEN.checked_add(body_len)?)?;
    let (fields, stored) = frame[..HEADER_LEN].split_at(HEADER_LEN - 8);
    let sum = frame_sum(fields, body);
    (sum.to_le_bytes() == stored).then_some(body)
}

fn frame_sum(fields: &[u8], body: &[u8]) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&structure_sum(fields).to_le_bytes());
    both[8..].copy_from_slice(&structure_sum(body).to_le_bytes());
    structure_sum(&both)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(body_len: u64) -> Header {
        Header { kind: Kind::Changes, generation: 3, epoch: 4, sequence: 5, before: 6, body_len }
    }

    #[test]
    fn frames_round_trip_at_their_own_address_only() {
        let bytes = emit(&header(5), b"hello", ByteOffset(65536));
        assert_eq!(bytes.len(), 4096);
        assert_eq!(&bytes[..8], b"DSLG\x02\0\0\0");
        assert_eq!(parse_header(&bytes, ByteOffset(65536)), Some(header(5)));
        assert_eq!(verify(&bytes, &header(5)), Some(&b"hello"[..]));
        assert_eq!(parse_header(&bytes, ByteOffset(0)), None);
        assert!((0..HEADER_LEN).all(|len| parse_header(&bytes[..len], ByteOffset(65536)).is_none()));
    }

    #[test]
    fn golden_bytes() {
        let bytes = emit(&header(5), b"hello", ByteOffset(65536));
        let golden: &[&[u8]] = &[
            b"DSLG",
            &[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0],
            &[6, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0],
        ];
        assert_eq!(&bytes[..56], golden.concat());
        assert_eq!(&bytes[64..70], b"hello\0");
    }

    #[test]
    fn any_damage_to_the_frame_shows() {
        let bytes = emit(&header(5), b"hello", ByteOffset(0));
        for at in 0..HEADER_LEN + 5 {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            let believed = parse_header(&bad, ByteOffset(0)).and_then(|h| verify(&bad, &h).map(<[u8]>::len));
            assert_eq!(believed, None, "byte {at}");
        }
    }

    #[test]
    fn links_depend_on_the_history_and_not_on_the_place() {
        let link_after = |before| link(&Header { before, ..header(5) }, b"hello");
        assert_ne!(link_after(6), link_after(7));
        assert_eq!(link(&Header { generation: 9, ..header(5) }, b"hello"), link_after(6));
        assert_eq!(link(&Header { kind: Kind::Checkpoint, ..header(5) }, b"hello"), 6);
    }

    #[test]
    fn frames_take_whole_blocks() {
        assert_eq!(frame_len(0), 4096);
        assert_eq!(frame_len(4096 - 64), 4096);
        assert_eq!(frame_len(4096 - 63), 8192);
    }
}
