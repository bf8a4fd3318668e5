//! The table of simulated sockets: who listens where, and which connections there are.

use super::lives::ProcessId;
use super::net::NetEvent;
use super::pipe::Pipe;
use crate::base::prng::Prng;
use crate::io::driver::{Accepted, Address, SocketId};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;

const WINDOW_MIN: usize = 1024;
const BACKLOG_MAX: usize = 1024;

/// The ports given out where 0 was asked for, and to the connecting ends.
const PORTS_FROM: u16 = 32_768;

/// How the network behaves, for every connection. Chances are per mille of segments.
#[derive(Clone, Debug)]
pub struct NetDials {
    /// One way, nanoseconds; and up to so much more.
    pub latency_ns: u64,
    pub jitter_ns: u64,
    /// A segment is at most 16 bytes; a receive gets at most 16.
    pub tiny: u64,
    /// Bytes on the way and unread, per direction; each new connection draws its own up to this.
    pub window_max: usize,
    /// A segment resets its connection instead of arriving.
    pub reset: u64,
    /// A segment clogs its connection for up to two seconds.
    pub clog: u64,
}

impl Default for NetDials {
    fn default() -> NetDials {
        let window_max = 256 << 10;
        NetDials { latency_ns: 30_000, jitter_ns: 100_000, tiny: 100, window_max, reset: 0, clog: 0 }
    }
}

/// Names a connection, in order of connecting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub(super) u32);

pub(super) struct Net {
    pub(super) prng: Prng,
    pub(super) dials: NetDials,
    pub(super) sockets: BTreeMap<SocketId, Socket>,
    pub(super) sockets_made: u32,
    pub(super) listeners: BTreeMap<Key, SocketId>,
    /// Local socket files whose listener died without removing them.
    pub(super) stale: BTreeSet<Key>,
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    pub(super) connections_made: u32,
    pub(super) ports_given: u16,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

pub(super) struct Socket {
    pub(super) process: ProcessId,
    pub(super) local: Option<Address>,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Listener(Listener),
    /// `side` reads `pipes[side]` and writes the other.
    End {
        connection: ConnectionId,
        side: usize,
    },
}

#[derive(Default)]
pub(super) struct Listener {
    pub(super) backlog: VecDeque<Accepted>,
    pub(super) accepts: VecDeque<u64>,
    pub(super) stopped: bool,
}

pub(super) struct Connection {
    /// `pipes[n]` carries bytes to side n; side 0 connected, side 1 accepted.
    pub(super) pipes: [Pipe; 2],
    pub(super) clogged: bool,
    /// What arrived while it was clogged, oldest first: it is seen after that, even if its sender is gone by then.
    pub(super) held: VecDeque<NetEvent>,
    pub(super) reset: bool,
    /// One end's machine lost power: nothing gets through until the other end gives up.
    pub(super) dark: bool,
}

impl Connection {
    fn new(pipes: [Pipe; 2]) -> Connection {
        Connection { pipes, clogged: false, held: VecDeque::new(), reset: false, dark: false }
    }

    /// Segments may leave.
    pub(super) fn is_open(&self) -> bool {
        !self.clogged && !self.reset && !self.dark
    }
}

impl Net {
    pub(super) fn new(prng: Prng) -> Net {
        Net {
            prng,
            dials: NetDials::default(),
            sockets: BTreeMap::new(),
            sockets_made: 0,
            listeners: BTreeMap::new(),
            stale: BTreeSet::new(),
            connections: BTreeMap::new(),
            connections_made: 0,
            ports_given: 0,
        }
    }

    pub(super) fn delay(&mut self) -> u64 {
        self.dials.latency_ns + self.prng.below(self.dials.jitter_ns + 1)
    }

    pub(super) fn port(&mut self) -> u16 {
        self.ports_given = (self.ports_given + 1) % PORTS_FROM;
        PORTS_FROM + self.ports_given
    }

    pub(super) fn add_socket(&mut self, process: ProcessId, local: Option<Address>, kind: Kind) -> SocketId {
        self.sockets_made += 1;
        let id = SocketId(self.sockets_made);
        self.sockets.insert(id, Socket { process, local, kind });
        id
    }

    pub(super) fn listen(&mut self, process: ProcessId, address: Address) -> Result<SocketId, Errno> {
        let address = match address {
            Address::Tcp(at) if at.port() == 0 => Address::Tcp(SocketAddr::new(at.ip(), self.port())),
            named => named,
        };
        let key = key_of(&address);
        if self.listeners.contains_key(&key) {
            return Err(Errno::EADDRINUSE);
        }
        self.stale.remove(&key);
        let socket = self.add_socket(process, Some(address), Kind::Listener(Listener::default()));
        self.listeners.insert(key, socket);
        Ok(socket)
    }

    /// The listener that a connection to this address reaches.
    pub(super) fn reached(&self, address: &Address) -> Result<SocketId, Errno> {
        let key = key_of(address);
        let any = match &key {
            Key::Tcp(at) => self.listeners.iter().find(|(key, _)| match key {
                Key::Tcp(bound) => bound.ip().is_unspecified() && bound.port() == at.port(),
                Key::Unix(_) => false,
            }),
            Key::Unix(_) => None,
        };
        match (self.listeners.get(&key).or(any.map(|(_, socket)| socket)), &key) {
            (Some(socket), _) => Ok(*socket),
            (None, Key::Unix(_)) if !self.stale.contains(&key) => Err(Errno::ENOENT),
            (None, Key::Unix(_) | Key::Tcp(_)) => Err(Errno::ECONNREFUSED),
        }
    }

    /// Makes both ends of a connection; the accepted one waits in the listener's backlog.
    pub(super) fn connect(
        &mut self,
        from: ProcessId,
        address: &Address,
    ) -> Result<(SocketId, SocketId), Errno> {
        let listener = self.reached(address)?;
        let process = self.sockets[&listener].process;
        self.connections_made += 1;
        let connection = ConnectionId(self.connections_made);
        let mut pipe = || {
            let most = self.dials.window_max.max(1);
            let least = most.min(WINDOW_MIN);
            let more = self.prng.below((most - least) as u64 + 1); // widening
            Pipe::new(least + usize::try_from(more).expect("at most window_max"))
        };
        let pipes = [pipe(), pipe()];
        self.connections.insert(connection, Connection::new(pipes));
        let (peer, local) = match address {
            Address::Tcp(at) => {
                let near = SocketAddr::new(at.ip(), self.port());
                (near.to_string(), Some(Address::Tcp(near)))
            }
            Address::Unix(_) => ("unix".to_owned(), None),
        };
        let near = self.add_socket(from, local, Kind::End { connection, side: 0 });
        let far = self.add_socket(process, Some(address.clone()), Kind::End { connection, side: 1 });
        match &mut self.sockets.get_mut(&listener).expect("it was reached").kind {
            Kind::Listener(l) if l.backlog.len() < BACKLOG_MAX && !l.stopped => {
                l.backlog.push_back(Accepted { socket: far, peer });
                Ok((near, listener))
            }
            Kind::Listener(_) | Kind::End { .. } => {
                self.sockets.remove(&near);
                self.sockets.remove(&far);
                self.connections.remove(&connection);
                Err(Errno::ECONNREFUSED)
            }
        }
    }

    pub(super) fn socket(&mut self, id: SocketId, process: ProcessId) -> Result<&mut Socket, Errno> {
        self.sockets.get_mut(&id).filter(|s| s.process == process).ok_or(Errno::EBADF)
    }

    /// Removes a connection that both ends have closed.
    pub(super) fn forget_closed(&mut self, connection: ConnectionId) {
        let closed = |c: &Connection| c.pipes.iter().all(|p| p.reader_closed);
        if self.connections.get(&connection).is_some_and(closed) {
            self.connections.remove(&connection);
        }
    }

    /// The connection and side of a connected socket.
    pub(super) fn end(&mut self, id: SocketId, process: ProcessId) -> Result<(ConnectionId, usize), Errno> {
        match self.socket(id, process)?.kind {
            Kind::End { connection, side } => Ok((connection, side)),
            Kind::Listener(_) => Err(Errno::ENOTCONN),
        }
    }

    pub(super) fn listener(&mut self, id: SocketId, process: ProcessId) -> Result<&mut Listener, Errno> {
        match &mut self.socket(id, process)?.kind {
            Kind::Listener(listener) => Ok(listener),
            Kind::End { .. } => Err(Errno::EINVAL),
        }
    }
}

pub(super) fn key_of(address: &Address) -> Key {
    match address {
        Address::Tcp(at) => Key::Tcp(*at),
        Address::Unix(path) => Key::Unix(path.clone()),
    }
}
