//! A named virtual disk as protocols see it.
//!
//! Rank 6. Owns: validation of ranges, the catalog of what is exported, and the choice of what stands behind a
//! name: a pool's volume, or memory (benchmarks, tests).

pub mod catalog;
pub mod memory;
pub mod sweep;

use crate::base::checksum::structure_sum;
use crate::base::limits::RESERVATIONS_LEN_MAX;
use crate::base::units::{ByteLen, Span};
use crate::block::{
    Allocation, Geometry, Payload, ReservationBytes, ReservationCell, ReservationError, Status, WriteFlags,
    ZeroFlags,
};
use crate::pool::PoolVolume;
use crate::reactor::Core;
use arc_swap::Guard;
use memory::MemoryVolume;
use std::sync::Arc;
use uuid::Uuid;

/// A volume, shared by all cores.
pub struct Volume {
    name: String,
    description: String,
    backing: Backing,
}

/// What stands behind a name.
enum Backing {
    Memory(MemoryVolume),
    Pool(Arc<PoolVolume>),
}

/// What tells a volume from all others, wherever they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub pool: Uuid,
    pub volume: Uuid,
    /// From 1; never given to another volume of its pool.
    pub number: u32,
}

/// Numbers of volumes in memory: 1 to this.
const MEMORY_NUMBER_MAX: u64 = 4095;

impl Volume {
    pub fn in_memory(name: &str, memory: MemoryVolume) -> Volume {
        Volume { name: name.to_owned(), description: "memory".to_owned(), backing: Backing::Memory(memory) }
    }

    /// A volume of a pool under its present name; a renamed one is another `Volume`.
    pub fn in_pool(volume: Arc<PoolVolume>) -> Volume {
        let copies = volume.copies();
        let description = format!("{copies} {}", if copies == 1 { "copy" } else { "copies" });
        Volume { name: volume.shape.load().name.clone(), description, backing: Backing::Pool(volume) }
    }

    /// The name it is exported under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One line for people (NBD INFO_DESCRIPTION).
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Size and preferred sizes now; the size changes when the volume is grown or shrunk.
    pub fn geometry(&self) -> Geometry {
        match &self.backing {
            Backing::Memory(memory) => memory.geometry(),
            Backing::Pool(volume) => volume.geometry(),
        }
    }

    /// `geometry().size`, for every request.
    pub fn size(&self) -> ByteLen {
        match &self.backing {
            Backing::Memory(memory) => memory.geometry().size,
            Backing::Pool(volume) => volume.size(),
        }
    }

    /// Bytes that take space in the pool, copies counted once.
    pub fn used(&self) -> ByteLen {
        match &self.backing {
            Backing::Memory(memory) => memory.geometry().size,
            Backing::Pool(volume) => volume.used(),
        }
    }

    /// The sector for hosts that count in sectors, bytes.
    pub fn lba_bytes(&self) -> u32 {
        match &self.backing {
            Backing::Memory(memory) => memory.lba_bytes(),
            Backing::Pool(volume) => volume.lba_bytes,
        }
    }

    pub fn identity(&self) -> Identity {
        match &self.backing {
            Backing::Memory(_) => identity_in_memory(&self.name),
            Backing::Pool(volume) => {
                Identity { pool: volume.pool.uuid, volume: volume.uuid, number: volume.id.one_based() }
            }
        }
    }

    fn reservation_cell(&self) -> &ReservationCell {
        match &self.backing {
            Backing::Memory(memory) => memory.reservations(),
            Backing::Pool(volume) => &volume.reservations,
        }
    }

    pub fn is_read_only(&self) -> bool {
        match &self.backing {
            Backing::Memory(memory) => memory.is_read_only(),
            Backing::Pool(_) => false,
        }
    }

    /// The way to this volume from one core.
    pub fn handle(self: &Arc<Volume>, core: &Core) -> Handle {
        Handle { core: core.clone(), volume: self.clone() }
    }
}

/// A volume in memory is the same one after a restart if it has the same name. Two may have one number.
fn identity_in_memory(name: &str) -> Identity {
    let sum = |part: &str| structure_sum(format!("memory {part} {name}").as_bytes());
    let uuid = |high: u64, low: u64| {
        let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    };
    let pool = uuid(structure_sum(b"memory pool"), structure_sum(b"memory pool, low"));
    let number = u32::try_from(sum("number") % MEMORY_NUMBER_MAX + 1).expect("4095 at most");
    Identity { pool, volume: uuid(sum("high"), sum("low")), number }
}

/// One core's way to a volume. All methods validate the span against the current size; an empty span succeeds.
/// Requests may be made concurrently; overlapping ones are ordered by arrival, block by block.
#[derive(Clone)]
pub struct Handle {
    core: Core,
    volume: Arc<Volume>,
}

impl Handle {
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The bytes of a span.
    pub async fn read(&self, span: Span) -> Result<Payload, Status> {
        self.validate(span)?;
        match &self.volume.backing {
            Backing::Memory(memory) => memory.read(&self.core, span).await,
            Backing::Pool(volume) => volume.read(&self.core, span).await,
        }
    }

    /// Writes a payload whose length is the span's.
    pub async fn write(&self, span: Span, payload: &Payload, flags: WriteFlags) -> Result<(), Status> {
        assert_eq!(payload.len(), span.len(), "the protocol reads exactly the announced payload");
        self.validate(span)?;
        match &self.volume.backing {
            Backing::Memory(memory) => memory.write(&self.core, span, payload, flags).await,
            Backing::Pool(volume) => volume.write(&self.core, span, payload, flags).await,
        }
    }

    /// Makes every write that was answered before this call durable.
    pub async fn flush(&self) -> Result<(), Status> {
        match &self.volume.backing {
            Backing::Memory(_) => Ok(()),
            Backing::Pool(volume) => volume.flush(&self.core).await,
        }
    }

    /// Gives space back; the span reads as zeros where it was given back.
    pub async fn discard(&self, span: Span, flags: WriteFlags) -> Result<(), Status> {
        self.validate(span)?;
        match &self.volume.backing {
            Backing::Memory(memory) => memory.discard(span, flags).await,
            Backing::Pool(volume) => volume.discard(&self.core, span, flags).await,
        }
    }

    /// Makes the span read as zeros.
    pub async fn write_zeroes(&self, span: Span, flags: ZeroFlags) -> Result<(), Status> {
        self.validate(span)?;
        match &self.volume.backing {
            Backing::Memory(memory) => memory.write_zeroes(span, flags).await,
            Backing::Pool(volume) => volume.write_zeroes(&self.core, span, flags).await,
        }
    }

    /// The allocation state from the span's start, in at most `runs_max` runs of different state; the answer may
    /// end before the span does, but covers at least one byte of a span that is not empty.
    pub async fn allocation(&self, span: Span, runs_max: usize) -> Result<Allocation, Status> {
        self.validate(span)?;
        match &self.volume.backing {
            Backing::Memory(memory) => memory.allocation(span, runs_max).await,
            Backing::Pool(volume) => volume.allocation(&self.core, span, runs_max).await,
        }
    }

    /// The newest reservations; without a lock, for every request.
    pub fn reservations(&self) -> Guard<Arc<ReservationBytes>> {
        self.volume.reservation_cell().load()
    }

    /// Sets the reservations that were decided on the ones of this version. With `durable` they are kept over a restart;
    /// otherwise nothing is. When this succeeds every core sees them.
    ///
    /// # Errors
    /// `Raced` if others were set in the meantime: read them and decide again.
    ///
    /// # Panics
    /// If they are longer than `RESERVATIONS_LEN_MAX`.
    pub async fn set_reservations(
        &self,
        expected: u64,
        bytes: Arc<[u8]>,
        durable: bool,
    ) -> Result<(), ReservationError> {
        assert!(bytes.len() <= RESERVATIONS_LEN_MAX, "what a protocol keeps is bounded");
        match &self.volume.backing {
            // Nothing of a volume in memory outlives a restart.
            Backing::Memory(memory) => memory.reservations().replace(expected, bytes),
            Backing::Pool(volume) => volume.set_reservations(expected, bytes, durable).await,
        }
    }

    fn validate(&self, span: Span) -> Result<(), Status> {
        if span.end().0 > self.volume.size().0 { Err(Status::OutOfRange) } else { Ok(()) }
    }
}
