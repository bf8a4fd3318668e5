//! How a client reaches a volume: directly, on a core of the pool's process, or over the network with NBD.

use super::network::Line;
use super::report::Verdict;
use crate::base::units::{ByteLen, ByteOffset, Span};
use crate::block::{AllocationRun, Payload, Status, WriteFlags, ZeroFlags};
use crate::io::driver::Address;
use crate::nbd::client::{Client, ClientError, ZeroWish};
use crate::nbd::wire::number::{NbdError, allocation};
use crate::reactor::Core;
use crate::volume::Handle;
use std::rc::Rc;

/// A way to one volume.
#[derive(Clone)]
pub enum Way {
    Direct(Handle),
    Network(Rc<Line>),
}

/// A way that can be used now, for one request.
pub enum Port {
    Direct(Handle),
    Network(Call),
}

/// A connection that was there when a request was about to be made.
pub struct Call {
    pub client: Client,
    pub address: Address,
    pub line: Rc<Line>,
}

/// How a request ended that did not end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Miss {
    Status(Status),
    /// Its connection died: it may have happened, or may yet, until the server has ended that connection.
    Unknown,
}

impl From<Status> for Miss {
    fn from(status: Status) -> Miss {
        Miss::Status(status)
    }
}

/// The allocation of a span: where it begins, and runs from there on.
pub struct Runs {
    pub from: ByteOffset,
    pub runs: Vec<AllocationRun>,
}

impl Way {
    pub fn core(&self) -> &Core {
        match self {
            Way::Direct(handle) => handle.core(),
            Way::Network(line) => line.core(),
        }
    }

    /// Whether the network may be silent, or break it.
    pub fn is_disturbed(&self) -> bool {
        match self {
            Way::Direct(_) => false,
            Way::Network(line) => line.net().is_disturbed(),
        }
    }

    /// Connects if there is no connection.
    pub async fn port(&self) -> Verdict<Port> {
        match self {
            Way::Direct(handle) => Ok(Port::Direct(handle.clone())),
            Way::Network(line) => line.call().await.map(Port::Network),
        }
    }

    /// Says goodbye, if nobody else uses this way.
    pub async fn leave(self) -> Verdict {
        match self {
            Way::Direct(_) => Ok(()),
            Way::Network(line) => line.leave().await,
        }
    }
}

impl Port {
    pub fn core(&self) -> &Core {
        match self {
            Port::Direct(handle) => handle.core(),
            Port::Network(call) => call.line.core(),
        }
    }

    /// The bytes that may be asked for. A connection keeps the size that it was told.
    pub fn size(&self, now: u64) -> u64 {
        match self {
            Port::Direct(_) => now,
            Port::Network(call) => now.min(call.client.export().size),
        }
    }

    pub fn tells_allocation(&self) -> bool {
        match self {
            Port::Direct(_) => true,
            Port::Network(call) => call.client.export().context.is_some(),
        }
    }

    pub async fn read(&self, span: Span) -> Result<Payload, Miss> {
        match self {
            Port::Direct(handle) => Ok(handle.read(span).await?),
            Port::Network(call) => call.ended(call.client.read(span).await),
        }
    }

    pub async fn write(&self, span: Span, payload: Payload, fua: bool) -> Result<(), Miss> {
        match self {
            Port::Direct(handle) => Ok(handle.write(span, &payload, WriteFlags { fua }).await?),
            Port::Network(call) => call.ended(call.client.write(span, payload, fua).await),
        }
    }

    pub async fn flush(&self) -> Result<(), Miss> {
        match self {
            Port::Direct(handle) => Ok(handle.flush().await?),
            Port::Network(call) => call.ended(call.client.flush().await),
        }
    }

    pub async fn discard(&self, span: Span, fua: bool) -> Result<(), Miss> {
        match self {
            Port::Direct(handle) => Ok(handle.discard(span, WriteFlags { fua }).await?),
            Port::Network(call) => call.ended(call.client.trim(span, fua).await),
        }
    }

    pub async fn write_zeroes(&self, span: Span, fua: bool, allocate: bool) -> Result<(), Miss> {
        match self {
            Port::Direct(handle) => {
                Ok(handle.write_zeroes(span, ZeroFlags { fua, allocate, fast_only: false }).await?)
            }
            Port::Network(call) => {
                let wish = ZeroWish { fua, allocate, fast_only: false };
                call.ended(call.client.write_zeroes(span, wish).await)
            }
        }
    }

    /// In at most `runs_max` runs; over the network in as many as the server likes.
    pub async fn allocation(&self, span: Span, runs_max: usize) -> Result<Runs, Miss> {
        match self {
            Port::Direct(handle) => {
                let answer = handle.allocation(span, runs_max).await?;
                Ok(Runs { from: answer.span.offset(), runs: answer.runs })
            }
            Port::Network(call) => {
                let extents = call.ended(call.client.block_status(span).await)?;
                let bit = |status: u64, bit: u32| status & u64::from(bit) != 0;
                let run = |len: u64, status: u64| AllocationRun {
                    len: ByteLen(len),
                    hole: bit(status, allocation::HOLE),
                    zero: bit(status, allocation::ZERO),
                };
                let runs = extents.iter().map(|e| run(e.len, e.status)).collect();
                Ok(Runs { from: span.offset(), runs })
            }
        }
    }
}

impl Call {
    /// Tells what the server said about a request from what became of the connection.
    fn ended<T>(&self, result: Result<T, ClientError>) -> Result<T, Miss> {
        result.map_err(|error| match error {
            ClientError::Server(error) => Miss::Status(status_of(error)),
            other => {
                self.line.broke(&self.address, &other);
                Miss::Unknown
            }
        })
    }
}

/// What the server's word for a failure stands for.
fn status_of(error: NbdError) -> Status {
    match error {
        NbdError::Io => Status::Io,
        NbdError::NoSpace => Status::NoSpace,
        NbdError::Perm => Status::ReadOnly,
        NbdError::NotSup => Status::NotFast,
        NbdError::Shutdown => Status::ShuttingDown,
        _ => Status::OutOfRange,
    }
}
