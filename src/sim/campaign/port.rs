//! How a client reaches a volume: directly, on a core of the pool's process, or over the network with NBD or NVMe/TCP.

use super::network::Line;
use super::report::Verdict;
use crate::base::units::{ByteLen, ByteOffset, Span};
use crate::block::{AllocationRun, Payload, Status, WriteFlags, ZeroFlags};
use crate::io::driver::Address;
use crate::nbd::client::{Client, ClientError, ZeroWish};
use crate::nbd::wire::Extent;
use crate::nbd::wire::number::{NbdError, allocation};
use crate::nvmf;
use crate::nvmf::host::{self, Host, HostError, Queue};
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

/// A connection to a volume, whatever it speaks.
#[derive(Clone)]
pub enum Wire {
    Nbd(Client),
    Nvme(Host, Queue),
}

/// Why a request over a connection was not answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    pub kind: BrokenKind,
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BrokenKind {
    /// The connection is gone.
    Lost,
    /// No answer came for too long.
    Stalled,
    /// The server broke the protocol.
    Violation,
    /// The request was not sent at all.
    NotSent,
    /// The server does not let this client in.
    Refused,
}

/// A connection that was there when a request was about to be made.
pub struct Call {
    pub wire: Wire,
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
            Port::Network(call) => now.min(call.wire.size()),
        }
    }

    pub fn tells_allocation(&self) -> bool {
        match self {
            Port::Direct(_) => true,
            Port::Network(call) => call.wire.tells_allocation(),
        }
    }

    pub async fn read(&self, span: Span) -> Result<Payload, Miss> {
        match self {
            Port::Direct(handle) => Ok(handle.read(span).await?),
            Port::Network(call) => call.ended(call.wire.read(span).await),
        }
    }

    pub async fn write(&self, span: Span, payload: Payload, fua: bool) -> Result<(), Miss> {
        match self {
            Port::Direct(handle) => Ok(handle.write(span, &payload, WriteFlags { fua }).await?),
            Port::Network(call) => call.ended(call.wire.write(span, payload, fua).await),
        }
    }

    pub async fn flush(&self) -> Result<(), Miss> {
        match self {
            Port::Direct(handle) => Ok(handle.flush().await?),
            Port::Network(call) => call.ended(call.wire.flush().await),
        }
    }

    pub async fn discard(&self, span: Span, fua: bool) -> Result<(), Miss> {
        match self {
            Port::Direct(handle) => Ok(handle.discard(span, WriteFlags { fua }).await?),
            Port::Network(call) => call.ended(call.wire.discard(span, fua).await),
        }
    }

    pub async fn write_zeroes(&self, span: Span, fua: bool, allocate: bool) -> Result<(), Miss> {
        match self {
            Port::Direct(handle) => {
                Ok(handle.write_zeroes(span, ZeroFlags { fua, allocate, fast_only: false }).await?)
            }
            Port::Network(call) => call.ended(call.wire.write_zeroes(span, fua, allocate).await),
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
                let extents = call.ended(call.wire.extents(span).await)?;
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
    fn ended<T>(&self, result: Result<T, Fault>) -> Result<T, Miss> {
        result.map_err(|fault| match fault {
            Fault::Said(status) => Miss::Status(status),
            Fault::Broken(broken) => {
                self.line.broke(&self.address, &broken);
                Miss::Unknown
            }
        })
    }
}

/// How a request over a connection failed.
pub enum Fault {
    /// The server said so.
    Said(Status),
    Broken(Broken),
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Fault {
        let kind = match &error {
            ClientError::Server(said) => return Fault::Said(status_of(*said)),
            ClientError::Stalled => BrokenKind::Stalled,
            ClientError::Violation(_) => BrokenKind::Violation,
            ClientError::Invalid | ClientError::NotOffered => BrokenKind::NotSent,
            ClientError::Refused(_) => BrokenKind::Refused,
            _ => BrokenKind::Lost,
        };
        Fault::Broken(Broken { kind, text: error.to_string() })
    }
}

impl From<HostError> for Fault {
    fn from(error: HostError) -> Fault {
        let kind = match &error {
            HostError::Command(failure) => return Fault::Said(status_of_nvme(failure.status)),
            HostError::Stalled => BrokenKind::Stalled,
            HostError::Violation(_) => BrokenKind::Violation,
            HostError::Invalid | HostError::NotOffered => BrokenKind::NotSent,
            HostError::Refused(_) => BrokenKind::Refused,
            HostError::Connect(_) | HostError::Socket(_) | HostError::Closed => BrokenKind::Lost,
        };
        Fault::Broken(Broken { kind, text: error.to_string() })
    }
}

impl Wire {
    pub fn size(&self) -> u64 {
        match self {
            Wire::Nbd(client) => client.export().size,
            Wire::Nvme(_, queue) => queue.namespace().size,
        }
    }

    fn tells_allocation(&self) -> bool {
        match self {
            Wire::Nbd(client) => client.export().context.is_some(),
            Wire::Nvme(..) => false,
        }
    }

    async fn read(&self, span: Span) -> Result<Payload, Fault> {
        match self {
            Wire::Nbd(client) => Ok(client.read(span).await?),
            Wire::Nvme(_, queue) => Ok(queue.read(span).await?),
        }
    }

    async fn write(&self, span: Span, payload: Payload, fua: bool) -> Result<(), Fault> {
        match self {
            Wire::Nbd(client) => Ok(client.write(span, payload, fua).await?),
            Wire::Nvme(_, queue) => Ok(queue.write(span, payload, fua).await?),
        }
    }

    async fn flush(&self) -> Result<(), Fault> {
        match self {
            Wire::Nbd(client) => Ok(client.flush().await?),
            Wire::Nvme(_, queue) => Ok(queue.flush().await?),
        }
    }

    /// NVMe has no FUA here: a flush behind it does the same.
    async fn discard(&self, span: Span, fua: bool) -> Result<(), Fault> {
        match self {
            Wire::Nbd(client) => Ok(client.trim(span, fua).await?),
            Wire::Nvme(_, queue) => {
                queue.deallocate(&[span]).await?;
                if fua { Ok(queue.flush().await?) } else { Ok(()) }
            }
        }
    }

    async fn write_zeroes(&self, span: Span, fua: bool, allocate: bool) -> Result<(), Fault> {
        match self {
            Wire::Nbd(client) => {
                let wish = ZeroWish { fua, allocate, fast_only: false };
                Ok(client.write_zeroes(span, wish).await?)
            }
            Wire::Nvme(_, queue) => {
                let wish = host::ZeroWish { fua, deallocate: !allocate };
                Ok(queue.write_zeroes(span, wish).await?)
            }
        }
    }

    async fn extents(&self, span: Span) -> Result<Vec<Extent>, Fault> {
        match self {
            Wire::Nbd(client) => Ok(client.block_status(span).await?),
            Wire::Nvme(..) => Err(HostError::NotOffered.into()),
        }
    }

    /// Says goodbye.
    pub async fn leave(self) -> Result<(), Fault> {
        match self {
            Wire::Nbd(client) => Ok(client.disconnect().await?),
            Wire::Nvme(host, queue) => {
                drop(queue);
                Ok(host.disconnect().await?)
            }
        }
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

fn status_of_nvme(status: nvmf::command::Status) -> Status {
    use nvmf::command::Status as Nvme;
    match status {
        Nvme::UNRECOVERED_READ | Nvme::WRITE_FAULT => Status::Io,
        Nvme::CAPACITY_EXCEEDED => Status::NoSpace,
        Nvme::WRITE_PROTECTED => Status::ReadOnly,
        Nvme::PATH => Status::ShuttingDown,
        _ => Status::OutOfRange,
    }
}
