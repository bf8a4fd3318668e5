//! One vote: a copy of the metadata log, on a member or in the witness file.
//!
//! The log has two generations. Each starts with a checkpoint; records follow. A new checkpoint goes to the
//! generation that is not in use, so the old one stays whole until the new one is durable. Everything is written
//! durable, one frame at a time; a frame that is torn was never acknowledged.

use super::record::{self, Header, Kind};
use super::state::{Contradiction, State};
use super::state_codec::{parse_changes, parse_state};
use crate::base::limits::{BLOCK, CHUNK_MAX};
use crate::base::units::{ByteLen, ByteOffset};
use crate::disk::Disk;
use crate::io::buf::BufMut;
use crate::reactor::Core;
use nix::errno::Errno;

/// Where a log lies on its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogArea {
    pub start: ByteOffset,
    pub generation_len: ByteLen,
}

/// The place in a history that a log has reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub epoch: u64,
    pub sequence: u64,
    /// The link of the last commit; it stands for everything before it.
    pub link: u64,
}

/// What a log says, replayed to its end.
#[derive(Clone, Debug)]
pub struct Replayed {
    pub state: State,
    pub position: Position,
    /// The positions since the checkpoint, oldest first, the last one included.
    pub history: Vec<Position>,
    pub cursor: Cursor,
}

/// Where the next frame of a log goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    pub generation: u64,
    pub offset: ByteLen,
}

impl LogArea {
    fn at(&self, cursor: Cursor) -> ByteOffset {
        self.start + ByteLen((cursor.generation % 2) * self.generation_len.0) + cursor.offset
    }

    /// Whether a frame with this body fits behind the cursor.
    pub fn fits(&self, cursor: Cursor, body_len: u64) -> bool {
        cursor.offset.0 + record::frame_len(body_len) <= self.generation_len.0
    }
}

/// Reads a log to its end. None if neither generation starts with a whole checkpoint.
///
/// # Errors
/// What the disk said, when it could not be read.
pub async fn replay(core: &Core, disk: &Disk, area: LogArea) -> Result<Option<Replayed>, Errno> {
    let mut best: Option<Replayed> = None;
    for half in 0..2 {
        if let Some(found) = replay_generation(core, disk, area, half).await? {
            let newer = best.as_ref().is_none_or(|b| {
                (found.position.epoch, found.position.sequence) > (b.position.epoch, b.position.sequence)
            });
            if newer {
                best = Some(found);
            }
        }
    }
    Ok(best)
}

async fn replay_generation(
    core: &Core,
    disk: &Disk,
    area: LogArea,
    half: u64,
) -> Result<Option<Replayed>, Errno> {
    let first = Cursor { generation: half, offset: ByteLen(0) };
    let Some((header, body)) = read_frame(core, disk, area, first).await? else { return Ok(None) };
    if header.kind != Kind::Checkpoint || header.generation % 2 != half {
        return Ok(None);
    }
    let Ok(state) = parse_state(&body) else { return Ok(None) };
    let position = Position { epoch: header.epoch, sequence: header.sequence, link: header.before };
    let offset = ByteLen(record::frame_len(header.body_len));
    let cursor = Cursor { generation: header.generation, offset };
    let mut replayed = Replayed { state, position, history: vec![position], cursor };
    while let Some((header, body)) = read_frame(core, disk, area, replayed.cursor).await? {
        match extend(&mut replayed, &header, &body) {
            Ok(true) => {}
            Ok(false) => break,
            // The frame is what was written and follows the one before it, and yet it cannot be: not a log.
            Err(Contradiction) => return Ok(None),
        }
    }
    Ok(Some(replayed))
}

/// Appends a record to what was replayed; false if it is not the next one.
fn extend(replayed: &mut Replayed, header: &Header, body: &[u8]) -> Result<bool, Contradiction> {
    let position = replayed.position;
    let next = header.kind == Kind::Changes
        && header.generation == replayed.cursor.generation
        && header.sequence == position.sequence + 1
        && header.epoch == position.epoch
        && header.before == position.link;
    if !next {
        return Ok(false);
    }
    for change in parse_changes(body).map_err(|_| Contradiction)? {
        replayed.state.apply(header.sequence, &change)?;
    }
    let link = record::link(header, body);
    replayed.position = Position { epoch: header.epoch, sequence: header.sequence, link };
    replayed.history.push(replayed.position);
    replayed.cursor.offset = replayed.cursor.offset + ByteLen(record::frame_len(header.body_len));
    Ok(true)
}

async fn read_frame(
    core: &Core,
    disk: &Disk,
    area: LogArea,
    cursor: Cursor,
) -> Result<Option<(Header, Vec<u8>)>, Errno> {
    if !area.fits(cursor, 0) {
        return Ok(None);
    }
    let at = area.at(cursor);
    let first = read_bytes(core, disk, at, ByteLen(BLOCK)).await?;
    let Some(header) = record::parse_header(&first, at) else { return Ok(None) };
    if !area.fits(cursor, header.body_len) {
        return Ok(None);
    }
    let len = ByteLen(record::frame_len(header.body_len));
    let frame = if len.0 == BLOCK { first } else { read_bytes(core, disk, at, len).await? };
    Ok(record::verify(&frame, &header).map(|body| (header, body.to_vec())))
}

/// Reads bytes that need not fit into one buffer.
pub async fn read_bytes(core: &Core, disk: &Disk, at: ByteOffset, len: ByteLen) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < len.0 {
        // widening
        let step = (len.0 - bytes.len() as u64).min(CHUNK_MAX); // widening
        let buf: BufMut = core.buffers().take(ByteLen(step).as_usize());
        let buf = disk.read(core, at + ByteLen(bytes.len() as u64), buf).await?; // widening
        bytes.extend_from_slice(buf.as_slice());
    }
    Ok(bytes)
}

/// Writes a frame where the cursor points, durable; gives the cursor behind it.
pub async fn append(
    core: &Core,
    disk: &Disk,
    area: LogArea,
    cursor: Cursor,
    header: &Header,
    body: &[u8],
) -> Result<Cursor, Errno> {
    let at = area.at(cursor);
    let bytes = record::emit(header, body, at);
    write_bytes(core, disk, at, &bytes).await?;
    let offset = cursor.offset + ByteLen(record::frame_len(header.body_len));
    Ok(Cursor { generation: cursor.generation, offset })
}

/// Writes bytes that need not fit into one buffer, durable.
pub async fn write_bytes(core: &Core, disk: &Disk, at: ByteOffset, bytes: &[u8]) -> Result<(), Errno> {
    let chunk = ByteLen(CHUNK_MAX).as_usize();
    for (index, part) in bytes.chunks(chunk).enumerate() {
        let buf = core.buffers().copy_of(part).freeze();
        disk.write(core, at + ByteLen((index * chunk) as u64), buf, true).await?; // widening
    }
    Ok(())
}
