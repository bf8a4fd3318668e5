//! Sockets as tasks use them. A stream closes its socket when it is dropped.

use super::core::Core;
use crate::io::buf::Buf;
use crate::io::driver::{Accepted, Address, Direction, Done, Op, RecvInto, SocketId};
use nix::errno::Errno;

/// A listening socket; dropping it stops listening.
pub struct Listener {
    core: Core,
    socket: SocketId,
}

impl Listener {
    pub async fn bind(core: &Core, address: Address) -> Result<Listener, Errno> {
        match core.op(Op::Listen { address }).await {
            Done::Socket(result) => result.map(|socket| Listener { core: core.clone(), socket }),
            _ => unreachable!("Listen ends with Socket"),
        }
    }

    pub async fn local_address(&self) -> Result<Address, Errno> {
        match self.core.op(Op::LocalAddress { socket: self.socket }).await {
            Done::LocalAddress(result) => result,
            _ => unreachable!("LocalAddress ends with LocalAddress"),
        }
    }

    /// The next connection; EINVAL after `stop`.
    pub async fn accept(&self) -> Result<Accepted, Errno> {
        match self.core.op(Op::Accept { socket: self.socket }).await {
            Done::Accepted(result) => result,
            _ => unreachable!("Accept ends with Accepted"),
        }
    }

    /// The id to `stop` this listener from another task of the same core.
    pub fn socket(&self) -> SocketId {
        self.socket
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.core.submit_detached(Op::CloseSocket { socket: self.socket });
    }
}

/// Makes a pending accept on this socket, or a receive, end.
pub async fn stop(core: &Core, socket: SocketId, direction: Direction) {
    // The socket may have ended by itself already: then there is nothing to stop.
    let _ = core.op(Op::Shutdown { socket, direction }).await;
}

/// A connected socket.
pub struct Stream {
    core: Core,
    socket: SocketId,
}

impl Stream {
    /// Takes over an accepted socket, on the core that will use it.
    pub fn adopt(core: &Core, socket: SocketId) -> Stream {
        Stream { core: core.clone(), socket }
    }

    pub async fn connect(core: &Core, address: Address) -> Result<Stream, Errno> {
        match core.op(Op::Connect { address }).await {
            Done::Socket(result) => result.map(|socket| Stream::adopt(core, socket)),
            _ => unreachable!("Connect ends with Socket"),
        }
    }

    pub fn socket(&self) -> SocketId {
        self.socket
    }

    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Receives at least one byte into the windows; 0 at the end of the stream.
    pub async fn receive(&self, into: RecvInto) -> (Result<usize, Errno>, RecvInto) {
        self.receive_many(into, 1).await
    }

    /// The same; may wait until so many bytes are there.
    pub async fn receive_many(&self, into: RecvInto, least: usize) -> (Result<usize, Errno>, RecvInto) {
        match self.core.op(Op::Recv { socket: self.socket, into, least }).await {
            Done::Received(result, into) => (result, into),
            _ => unreachable!("Recv ends with Received"),
        }
    }

    /// Sends all buffers in order; gives the emptied list back for the next send.
    pub async fn send(&self, from: Vec<Buf>) -> (Result<(), Errno>, Vec<Buf>) {
        match self.core.op(Op::Send { socket: self.socket, from }).await {
            Done::Sent(result, mut from) => {
                from.clear();
                (result, from)
            }
            _ => unreachable!("Send ends with Sent"),
        }
    }

    pub async fn shutdown(&self, direction: Direction) {
        stop(&self.core, self.socket, direction).await;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.core.submit_detached(Op::CloseSocket { socket: self.socket });
    }
}
