//! A volume in memory: what the network benchmark serves, and what protocol tests write to.

use crate::base::units::{ByteLen, Span};
use crate::block::{Allocation, Geometry, Payload, Status, WriteFlags, ZeroFlags};
use crate::reactor::Core;

/// A sparse volume in memory.
pub struct MemoryVolume {
    size: ByteLen,
}

impl MemoryVolume {
    pub fn new(size: ByteLen) -> MemoryVolume {
        MemoryVolume { size }
    }

    pub fn geometry(&self) -> Geometry {
        Geometry { size: self.size, block: 4096, preferred: 128 << 10, rotational: false }
    }

    pub async fn read(&self, _core: &Core, _span: Span) -> Result<Payload, Status> {
        Err(Status::Io)
    }

    pub async fn write(
        &self,
        _core: &Core,
        _span: Span,
        _data: Payload,
        _flags: WriteFlags,
    ) -> Result<(), Status> {
        Err(Status::Io)
    }

    pub async fn discard(&self, _span: Span, _flags: WriteFlags) -> Result<(), Status> {
        Err(Status::Io)
    }

    pub async fn write_zeroes(&self, _span: Span, _flags: ZeroFlags) -> Result<(), Status> {
        Err(Status::Io)
    }

    pub async fn allocation(&self, _span: Span, _runs_max: usize) -> Result<Allocation, Status> {
        Err(Status::Io)
    }
}
