//! One vote: a copy of the metadata log, on a member or in the witness file.
//!
//! The log has two generations. Each starts with a checkpoint; records follow. A new checkpoint goes to the
//! generation that is not in use, so the old one stays whole until the new one is durable. Everything is written
//! durable, one frame at a time; a frame that is torn was never acknowledged. How a log is read, and how it is told
//! whether its end is its end, is in `replay`.

use super::record::{self, Header, Kind};
use super::state::{Contradiction, State};
use super::state_codec::{parse_changes, parse_state};
use crate::base::limits::CHUNK_MAX;
use crate::base::units::{ByteLen, ByteOffset};
use crate::disk::{Disk, Patience};
use crate::io::buf::BufMut;
use crate::reactor::Core;
use nix::errno::Errno;

/// Where a log lies on its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogArea {
    pub start: ByteOffset,
    pub generation_len: ByteLen,
}

/// Orders commits. Only commits of one history can be compared by it: see `quorum`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Age {
    pub epoch: u64,
    pub sequence: u64,
}

/// The place in a history that a log has reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub epoch: u64,
    pub sequence: u64,
    /// The link of the last commit; it stands for everything before it.
    pub link: u64,
}

impl Position {
    pub fn age(&self) -> Age {
        Age { epoch: self.epoch, sequence: self.sequence }
    }
}

/// What a log says, replayed to its end.
#[derive(Clone, Debug)]
pub struct Replayed {
    pub state: State,
    pub position: Position,
    /// The positions since the checkpoint, oldest first, the last one included.
    pub history: Vec<Position>,
    pub cursor: Cursor,
    /// The newest commit that this copy is known to have had: later than `position` if damage hides it.
    pub held: Age,
    /// The greatest generation that any frame in the area has.
    pub generation_max: u64,
}

impl Replayed {
    /// The generation of the next checkpoint: it goes to the half that this log is not in, and no frame that lies
    /// there can be taken for one that follows it.
    pub fn generation_next(&self) -> u64 {
        let next = self.cursor.generation + 1;
        let above = self.generation_max.max(self.cursor.generation) + 1;
        above + (above ^ next) % 2
    }
}

/// Where the next frame of a log goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    pub generation: u64,
    pub offset: ByteLen,
}

impl LogArea {
    pub fn at(&self, cursor: Cursor) -> ByteOffset {
        self.start + ByteLen((cursor.generation % 2) * self.generation_len.0) + cursor.offset
    }

    /// Whether a frame with this body fits behind the cursor.
    pub fn fits(&self, cursor: Cursor, body_len: u64) -> bool {
        cursor.offset.0 + record::frame_len(body_len) <= self.generation_len.0
    }
}

/// What the first frame of a half says; None if that is no checkpoint of this half.
pub fn begin(half: u64, header: &Header, body: &[u8]) -> Option<Replayed> {
    if header.kind != Kind::Checkpoint || header.generation % 2 != half {
        return None;
    }
    let state = parse_state(body).ok()?;
    let position = Position { epoch: header.epoch, sequence: header.sequence, link: header.before };
    let offset = ByteLen(record::frame_len(header.body_len));
    let cursor = Cursor { generation: header.generation, offset };
    let (held, generation_max) = (position.age(), header.generation);
    Some(Replayed { state, position, history: vec![position], cursor, held, generation_max })
}

/// Appends a record to what was replayed; false if it is not the next one.
pub fn extend(replayed: &mut Replayed, header: &Header, body: &[u8]) -> Result<bool, Contradiction> {
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
    replayed.held = replayed.position.age();
    replayed.history.push(replayed.position);
    replayed.cursor.offset = replayed.cursor.offset + ByteLen(record::frame_len(header.body_len));
    Ok(true)
}

/// Reads bytes that need not fit into one buffer.
pub async fn read_bytes(core: &Core, disk: &Disk, at: ByteOffset, len: ByteLen) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < len.0 {
        // widening
        let step = (len.0 - bytes.len() as u64).min(CHUNK_MAX); // widening
        let buf: BufMut = core.buffers().take(ByteLen(step).as_usize());
        let buf = disk.read(core, at + ByteLen(bytes.len() as u64), buf, Patience::Opening).await?; // widening
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
    patience: Patience,
) -> Result<Cursor, Errno> {
    let at = area.at(cursor);
    let bytes = record::emit(header, body, at);
    write_bytes(core, disk, at, &bytes, patience).await?;
    let offset = cursor.offset + ByteLen(record::frame_len(header.body_len));
    Ok(Cursor { generation: cursor.generation, offset })
}

/// Writes bytes that need not fit into one buffer, durable.
pub async fn write_bytes(
    core: &Core,
    disk: &Disk,
    at: ByteOffset,
    bytes: &[u8],
    patience: Patience,
) -> Result<(), Errno> {
    let chunk = ByteLen(CHUNK_MAX).as_usize();
    for (index, part) in bytes.chunks(chunk).enumerate() {
        let buf = core.buffers().copy_of(part).freeze();
        disk.write(core, at + ByteLen((index * chunk) as u64), buf, true, patience).await?; // widening
    }
    Ok(())
}
