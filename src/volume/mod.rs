//! A named virtual disk as protocols see it.
//!
//! Rank 6. Owns: validation of ranges, the catalog of what is exported, and the choice of what stands behind a
//! name: a pool's volume, or memory (benchmarks, tests).

pub mod catalog;
pub mod memory;
pub mod sweep;

use crate::base::units::{ByteLen, Span};
use crate::block::{Allocation, Geometry, Payload, Status, WriteFlags, ZeroFlags};
use crate::pool::PoolVolume;
use crate::reactor::Core;
use memory::MemoryVolume;
use std::sync::Arc;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

/// A volume, shared by all cores.
pub struct Volume {
    name: String,
    description: String,
    backing: Backing,
}

/// What a volume is, whatever it is called: never changes, and no other volume anywhere has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub pool: Uuid,
    pub volume: Uuid,
    /// Tells it from the other volumes of its pool; never zero, and never given to another one.
    pub number: u32,
}

/// What stands behind a name.
enum Backing {
    Memory(MemoryVolume),
    Pool(Arc<PoolVolume>),
}

impl Volume {
    pub fn in_memory(name: &str, memory: MemoryVolume) -> Volume {
        Volume { name: name.to_owned(), description: "memory".to_owned(), backing: Backing::Memory(memory) }
    }

    /// A volume of a pool under its present name; a renamed one is another `Volume`.
    pub fn in_pool(volume: Arc<PoolVolume>) -> Volume {
        let copies = volume.copies;
        let description = format!("{copies} {}", if copies == 1 { "copy" } else { "copies" });
        Volume { name: volume.shape.load().name.clone(), description, backing: Backing::Pool(volume) }
    }

    /// The name it is exported under.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn identity(&self) -> Identity {
        match &self.backing {
            // Memory has no pool that could keep an identity: it follows from the name.
            Backing::Memory(_) => Identity {
                pool: Uuid::from_u128(xxh3_128(b"drystone memory")),
                volume: Uuid::from_u128(xxh3_128(self.name.as_bytes())),
                number: u32::from(xxh3_128(self.name.as_bytes()).to_le_bytes()[0]) + 1,
            },
            Backing::Pool(volume) => Identity {
                pool: volume.pool.uuid,
                volume: volume.uuid,
                number: volume.id.0.saturating_add(1),
            },
        }
    }

    /// One line for people (NBD INFO_DESCRIPTION).
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Size and preferred sizes now; the size grows when the volume is grown and never shrinks while served.
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
            Backing::Pool(volume) => volume.shape.load().size,
        }
    }

    /// Bytes that take space in the pool, copies counted once.
    pub fn used(&self) -> ByteLen {
        match &self.backing {
            Backing::Memory(memory) => memory.geometry().size,
            Backing::Pool(volume) => volume.used(),
        }
    }

    /// Bytes of a sector as NVMe hosts see it: 512 or 4096.
    pub fn lba_bytes(&self) -> u32 {
        512
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

    fn validate(&self, span: Span) -> Result<(), Status> {
        if span.end().0 > self.volume.size().0 { Err(Status::OutOfRange) } else { Ok(()) }
    }
}
