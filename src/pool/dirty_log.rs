//! The dirty-region log of one member: a bit for each of its regions, in two planes.
//!
//! - `Dirty`: the region may have been written since it was last known to be equal on all copies with right
//!   checksums. Durable on every copy's member *before* the first write to the region is issued; cleared lazily.
//! - `Missed`: some copy of the region, on another member, did not get a write. Cleared by a resync.
//!
//! Sectors of 512 bytes with a checksum each, so that a torn write leaves sectors old or new; a sector that does
//! not verify counts as all ones. Writes to one block of sectors are issued one at a time.

use super::layout::{DIRTY_BITS_PER_SECTOR, DIRTY_HEADER_LEN, MemberLayout};
use super::planted::{Planted, is_planted};
use crate::base::bitmap::Bitmap;
use crate::base::checksum::structure_sum;
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, ByteOffset};
use crate::disk::{Disk, Patience};
use crate::io::buf::Buf;
use crate::reactor::Core;
use crate::reactor::sync::{WaitList, lock};
use futures_util::future::select;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::Mutex;

const MAGIC: u32 = u32::from_le_bytes(*b"DSDL");
const SECTOR: usize = 512;
const SECTORS_PER_BLOCK: usize = BLOCK as usize / SECTOR; // constants
const BITS: usize = DIRTY_BITS_PER_SECTOR as usize; // a constant
const BITS_PER_BLOCK: usize = BITS * SECTORS_PER_BLOCK;
const WORDS_PER_BLOCK: usize = BITS_PER_BLOCK / 64;

/// One of the two bitmaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Plane {
    Dirty,
    Missed,
}

/// The log of one member, as it is in memory and as it is known to be on the disk.
pub struct DirtyLog {
    start: ByteOffset,
    plane_len: ByteLen,
    state: Mutex<State>,
    written: WaitList,
}

struct State {
    planes: [PlaneState; 2],
    /// Blocks being written.
    writing: BTreeMap<(Plane, usize), ()>,
}

struct PlaneState {
    bits: Bitmap,
    /// Bits that are set in memory and known to be set on the disk.
    durable: Bitmap,
    /// Blocks with bits that were cleared in memory only.
    behind: Bitmap,
}

impl DirtyLog {
    /// A log with no bit set, as `format` writes it.
    pub fn empty(layout: &MemberLayout) -> DirtyLog {
        let bits = ByteLen(layout.regions()).as_usize();
        let plane = || PlaneState {
            bits: Bitmap::new(bits),
            durable: Bitmap::new(bits),
            behind: Bitmap::new(bits.div_ceil(BITS_PER_BLOCK).max(1)),
        };
        let state = State { planes: [plane(), plane()], writing: BTreeMap::new() };
        DirtyLog {
            start: layout.dirty_start,
            plane_len: layout.dirty_plane,
            state: Mutex::new(state),
            written: WaitList::default(),
        }
    }

    /// A log that could not be read: every region may be dirty, and may have been missed.
    pub fn unknown(layout: &MemberLayout) -> DirtyLog {
        let log = DirtyLog::empty(layout);
        for plane in &mut lock(&log.state).planes {
            plane.bits.set_range(0..plane.bits.len(), true);
        }
        log
    }

    /// Reads the log from its member.
    pub async fn load(core: &Core, disk: &Disk, layout: &MemberLayout) -> Result<DirtyLog, Errno> {
        let log = DirtyLog::empty(layout);
        for plane in [Plane::Dirty, Plane::Missed] {
            let bytes = super::log::read_bytes(core, disk, log.plane_start(plane), log.plane_len).await?;
            let mut state = lock(&log.state);
            let bits = &mut state.planes[plane_index(plane)];
            parse_plane(plane, &bytes, &mut bits.bits);
            bits.durable = bits.bits.clone();
        }
        Ok(log)
    }

    /// Writes a log without a bit set.
    pub async fn format(core: &Core, disk: &Disk, layout: &MemberLayout) -> Result<(), Errno> {
        let log = DirtyLog::empty(layout);
        for plane in [Plane::Dirty, Plane::Missed] {
            // Two mebibytes for 16 TB, in as few writes as there can be.
            let blocks = ByteLen(log.plane_len.0 / BLOCK).as_usize();
            let bytes: Vec<u8> = (0..blocks).flat_map(|n| emit_block(plane, n, &Bitmap::new(0))).collect();
            super::log::write_bytes(core, disk, log.plane_start(plane), &bytes, Patience::Opening).await?;
        }
        Ok(())
    }

    /// Sets a region's bit; returns when it is durable. ETIMEDOUT if that takes longer than `patience` has.
    pub async fn mark(
        &self,
        core: &Core,
        disk: &Disk,
        plane: Plane,
        region: u64,
        patience: Patience,
    ) -> Result<(), Errno> {
        let bit = ByteLen(region).as_usize();
        let until = core.turn_at() + patience.longest();
        lock(&self.state).planes[plane_index(plane)].bits.set(bit, true);
        loop {
            let ticket = self.written.ticket();
            let buf = {
                let mut state = lock(&self.state);
                if state.planes[plane_index(plane)].durable.get(bit) {
                    return Ok(());
                }
                self.begin_write(core, &mut state, plane, bit / BITS_PER_BLOCK)
            };
            match buf {
                // Whoever writes the block may have more patience.
                None if core.now() >= until => return Err(Errno::ETIMEDOUT),
                None => {
                    select(ticket, core.sleep_until(until)).await;
                }
                Some((buf, bits)) => {
                    self.write_block(core, disk, plane, bit / BITS_PER_BLOCK, buf, bits, true, patience)
                        .await?
                }
            }
        }
    }

    /// Clears a region's bit in memory; `save_cleared` brings it to the disk.
    pub fn clear(&self, plane: Plane, region: u64) {
        let bit = ByteLen(region).as_usize();
        let mut state = lock(&self.state);
        let bits = &mut state.planes[plane_index(plane)];
        bits.durable.set(bit, false);
        if bits.bits.set(bit, false) {
            bits.behind.set(bit / BITS_PER_BLOCK, true);
        }
    }

    /// Writes the blocks with cleared bits; not durable by itself, since a bit that is still set costs only work.
    pub async fn save_cleared(&self, core: &Core, disk: &Disk, patience: Patience) -> Result<(), Errno> {
        for plane in [Plane::Dirty, Plane::Missed] {
            let behind: Vec<usize> = lock(&self.state).planes[plane_index(plane)].behind.iter().collect();
            for block in behind {
                let begun = self.begin_write(core, &mut lock(&self.state), plane, block);
                // A block that is being written is left for the next time.
                if let Some((buf, words)) = begun {
                    self.write_block(core, disk, plane, block, buf, words, false, patience).await?;
                }
            }
        }
        Ok(())
    }

    /// In memory, every dirty region counts as missed by some copy from now on; `save_missed` makes that durable.
    /// Done without a pause together with the change of membership, so that no region is cleaned in between.
    pub fn note_missed(&self) {
        let mut state = lock(&self.state);
        let [dirty, missed] = &mut state.planes;
        for region in dirty.bits.iter() {
            missed.bits.set(region, true);
        }
    }

    /// In memory, these regions count as missed by some copy.
    pub fn note_missed_range(&self, regions: std::ops::Range<u64>) {
        let (start, end) = (ByteLen(regions.start).as_usize(), ByteLen(regions.end).as_usize());
        lock(&self.state).planes[plane_index(Plane::Missed)].bits.set_range(start..end, true);
    }

    /// Makes the missed plane durable as it is in memory.
    pub async fn save_missed(&self, core: &Core, disk: &Disk, patience: Patience) -> Result<(), Errno> {
        let wanted: Vec<u64> = {
            let state = lock(&self.state);
            let missed = &state.planes[plane_index(Plane::Missed)];
            missed.bits.iter().filter(|bit| !missed.durable.get(*bit)).map(|bit| bit as u64).collect() // widening
        };
        for region in wanted {
            self.mark(core, disk, Plane::Missed, region, patience).await?;
        }
        Ok(())
    }

    /// The regions whose bit is set.
    pub fn marked(&self, plane: Plane) -> Vec<u64> {
        lock(&self.state).planes[plane_index(plane)].bits.iter().map(|bit| bit as u64).collect() // widening
    }

    pub fn is_marked(&self, plane: Plane, region: u64) -> bool {
        lock(&self.state).planes[plane_index(plane)].bits.get(ByteLen(region).as_usize())
    }

    fn begin_write(
        &self,
        core: &Core,
        state: &mut State,
        plane: Plane,
        block: usize,
    ) -> Option<(Buf, Vec<u64>)> {
        if state.writing.contains_key(&(plane, block)) {
            return None;
        }
        state.writing.insert((plane, block), ());
        let bits = &mut state.planes[plane_index(plane)];
        bits.behind.set(block, false);
        let buf = core.buffers().copy_of(&emit_block(plane, block, &bits.bits)).freeze();
        let words = bits.bits.words();
        let first = block * WORDS_PER_BLOCK;
        Some((buf, words[first..(first + WORDS_PER_BLOCK).min(words.len())].to_vec()))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one private call site shape; a struct would name nothing new"
    )]
    async fn write_block(
        &self,
        core: &Core,
        disk: &Disk,
        plane: Plane,
        block: usize,
        buf: Buf,
        words: Vec<u64>,
        durable: bool,
        patience: Patience,
    ) -> Result<(), Errno> {
        let past_cache = durable && !is_planted(core, Planted::MarkNotDurable);
        let result = disk.write(core, self.block_at(plane, block), buf, past_cache, patience).await;
        {
            let mut state = lock(&self.state);
            state.writing.remove(&(plane, block));
            let now = &mut state.planes[plane_index(plane)];
            if result.is_ok() && durable {
                let first = block * BITS_PER_BLOCK;
                for bit in first..(first + BITS_PER_BLOCK).min(now.bits.len()) {
                    // A bit cleared meanwhile is no longer relied on; one set meanwhile is not on the disk yet.
                    let within = bit - first;
                    if words[within / 64] >> (within % 64) & 1 == 1 && now.bits.get(bit) {
                        now.durable.set(bit, true);
                    }
                }
            }
        }
        self.written.wake_all();
        result
    }

    fn plane_start(&self, plane: Plane) -> ByteOffset {
        self.start + ByteLen(plane_index(plane) as u64 * self.plane_len.0) // widening
    }

    fn block_at(&self, plane: Plane, block: usize) -> ByteOffset {
        self.plane_start(plane) + ByteLen(block as u64 * BLOCK) // widening
    }
}

fn plane_index(plane: Plane) -> usize {
    match plane {
        Plane::Dirty => 0,
        Plane::Missed => 1,
    }
}

/// The bytes of one block of sectors of a plane; bits beyond the bitmap are zero.
fn emit_block(plane: Plane, block: usize, bits: &Bitmap) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SECTOR * SECTORS_PER_BLOCK);
    for sector in block * SECTORS_PER_BLOCK..(block + 1) * SECTORS_PER_BLOCK {
        let words =
            (0..BITS / 64).map(|word| bits.words().get(sector * (BITS / 64) + word).copied().unwrap_or(0));
        let body: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.extend_from_slice(&sector_header(plane, sector, &body));
        bytes.extend_from_slice(&body);
    }
    bytes
}

fn parse_plane(plane: Plane, bytes: &[u8], bits: &mut Bitmap) {
    let header_len = ByteLen(DIRTY_HEADER_LEN).as_usize();
    for (sector, raw) in bytes.chunks_exact(SECTOR).enumerate() {
        let (header, body) = raw.split_at(header_len);
        let sound = header == sector_header(plane, sector, body);
        for within in 0..BITS {
            let bit = sector * BITS + within;
            if bit < bits.len() {
                bits.set(bit, !sound || body[within / 8] >> (within % 8) & 1 == 1);
            }
        }
    }
}

/// What the bytes of a plane say of so many regions: their bits, and how many sectors do not verify.
pub fn read_plane(plane: Plane, bytes: &[u8], regions: u64) -> (Bitmap, usize) {
    let mut bits = Bitmap::new(ByteLen(regions).as_usize());
    parse_plane(plane, bytes, &mut bits);
    let header_len = ByteLen(DIRTY_HEADER_LEN).as_usize();
    let unsound = |(sector, raw): &(usize, &[u8])| {
        let (header, body) = raw.split_at(header_len);
        header != sector_header(plane, *sector, body)
    };
    let used = bits.len().div_ceil(BITS);
    let damaged = bytes.chunks_exact(SECTOR).enumerate().take(used).filter(unsound).count();
    (bits, damaged)
}

fn sector_header(plane: Plane, sector: usize, body: &[u8]) -> [u8; 16] {
    let number = u32::try_from(sector * 2 + plane_index(plane)).expect("sectors of a plane are few");
    let mut header = [0; 16];
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&number.to_le_bytes());
    let sum = structure_sum(body) ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    header[8..].copy_from_slice(&sum.to_le_bytes());
    header
}

const _: () = assert!(BITS.is_multiple_of(64) && DIRTY_HEADER_LEN == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_round_trip_and_a_damaged_sector_counts_as_all_ones() {
        let mut bits = Bitmap::new(BITS + 100);
        bits.set(3, true);
        bits.set(BITS + 7, true);
        let mut bytes = emit_block(Plane::Dirty, 0, &bits);
        let mut back = Bitmap::new(bits.len());
        parse_plane(Plane::Dirty, &bytes, &mut back);
        assert_eq!(back, bits);
        bytes[SECTOR + 20] ^= 1;
        parse_plane(Plane::Dirty, &bytes, &mut back);
        assert!(back.all(BITS..BITS + 100) && back.get(3) && !back.get(4));
        assert_eq!(read_plane(Plane::Dirty, &bytes, back.len() as u64), (back.clone(), 1));
        parse_plane(Plane::Missed, &emit_block(Plane::Dirty, 0, &bits), &mut back);
        assert_eq!(back.count(), back.len(), "a sector of the other plane does not verify");
    }
}
