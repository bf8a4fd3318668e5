//! Operations on simulated sockets over time: addresses are plain keys, connections are two pipes.
//!
//! Nothing is lost or reordered within a connection, as TCP promises; everything else may happen: segments of
//! any size down to one byte, delays of any length, peers that stop reading, resets, and silence (`clog`).

use super::lives::{Crash, ProcessId};
use super::pipe::{Departure, Fin, Pipe};
use super::sockets::{Connection, ConnectionId, Kind, NetDials, Socket, key_of};
use super::world::{Event, State, World};
use crate::base::checksum::structure_sum;
use crate::io::buf::Buf;
use crate::io::driver::{Address, Direction, Done, Op, SocketId};
use nix::errno::Errno;

const SEGMENT_MAX: u64 = 64 << 10;

/// A peer's machine that lost power is found out within this, nanoseconds.
const PEER_SILENCE_MAX_NS: u64 = 5_000_000_000;

pub(super) enum NetEvent {
    /// A connection attempt reaches its address.
    Knock {
        op: u64,
    },
    /// And its answer comes back.
    Connected {
        op: u64,
        socket: SocketId,
    },
    Segment {
        connection: ConnectionId,
        to: usize,
        bytes: Vec<u8>,
    },
    Fin {
        connection: ConnectionId,
        to: usize,
    },
    Reset {
        connection: ConnectionId,
    },
    Unclog {
        connection: ConnectionId,
    },
}

impl State {
    /// Accept, Connect, Recv and Send: they take their place in line at once.
    pub(super) fn begin_net(&mut self, id: u64) {
        let process = self.process_of(id);
        let result = match &self.flights[&id].op {
            Op::Accept { socket } => {
                let socket = *socket;
                self.net.listener(socket, process).map(|l| l.accepts.push_back(id)).map(|()| {
                    self.serve_accepts(socket);
                })
            }
            Op::Connect { .. } => {
                let at = self.now + self.net.delay();
                self.schedule(at, Event::Net(NetEvent::Knock { op: id }));
                Ok(())
            }
            Op::Recv { socket, into, .. } => {
                let (socket, room) = (*socket, into.room());
                self.begin_recv(id, socket, process, room)
            }
            Op::Send { socket, from } => {
                let (socket, len, sum) = (*socket, from.iter().map(Buf::len).sum(), sum_of(from));
                self.begin_send(id, socket, process, len, sum)
            }
            _ => unreachable!("the other socket operations end in finish_net"),
        };
        if let Err(errno) = result {
            self.refuse(id, errno);
        }
    }

    fn begin_recv(
        &mut self,
        id: u64,
        socket: SocketId,
        process: ProcessId,
        room: usize,
    ) -> Result<(), Errno> {
        let (connection, side) = self.net.end(socket, process)?;
        if room == 0 {
            return Err(Errno::EINVAL);
        }
        let line = self.net.connections.get_mut(&connection).filter(|c| !c.reset).ok_or(Errno::ECONNRESET)?;
        line.pipes[side].receives.push_back(id);
        self.serve_receives(connection, side);
        Ok(())
    }

    fn begin_send(
        &mut self,
        id: u64,
        socket: SocketId,
        process: ProcessId,
        len: usize,
        sum: u64,
    ) -> Result<(), Errno> {
        let (connection, side) = self.net.end(socket, process)?;
        let line = self.net.connections.get_mut(&connection).filter(|c| !c.reset).ok_or(Errno::ECONNRESET)?;
        if line.pipes[1 - side].fin != Fin::Open {
            return Err(Errno::EPIPE);
        }
        self.note("send    ", [id, len as u64, sum, 0]); // widening
        self.flights.get_mut(&id).expect("it begins").sum = sum;
        if len == 0 {
            self.end_send(id);
            return Ok(());
        }
        let line = self.net.connections.get_mut(&connection).expect("found above");
        line.pipes[1 - side].push_send(id, len);
        self.pump(connection, 1 - side);
        Ok(())
    }

    /// Listen, LocalAddress, Shutdown and CloseSocket.
    pub(super) fn finish_net(&mut self, id: u64) {
        let process = self.process_of(id);
        match &self.flights[&id].op {
            Op::Listen { address } => {
                let made = self.net.listen(process, address.clone());
                self.complete(id, |_| Done::Socket(made));
            }
            Op::LocalAddress { socket } => {
                let local = self.net.socket(*socket, process);
                let local = local.and_then(|s| s.local.clone().ok_or(Errno::EADDRNOTAVAIL));
                self.complete(id, |_| Done::LocalAddress(local));
            }
            Op::Shutdown { socket, direction } => {
                let result = self.shutdown(*socket, process, *direction);
                self.complete(id, |_| Done::Finished(result));
            }
            Op::CloseSocket { socket } => {
                let socket = *socket;
                let result = self.net.socket(socket, process).map(|_| ());
                if result.is_ok() {
                    self.close_socket(socket);
                }
                self.complete(id, |_| Done::Finished(result));
            }
            _ => unreachable!("begun in begin_net"),
        }
    }

    pub(super) fn net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::Knock { op } => self.knock(op),
            NetEvent::Connected { op, socket } => {
                if self.flights.contains_key(&op) {
                    self.complete(op, |_| Done::Socket(Ok(socket)));
                }
            }
            NetEvent::Segment { connection, to, bytes } => {
                let clogged = self.net.connections.get_mut(&connection).filter(|c| c.clogged && !c.reset);
                match clogged {
                    Some(line) => line.held.push_back(NetEvent::Segment { connection, to, bytes }),
                    None => self.segment(connection, to, &bytes),
                }
            }
            NetEvent::Fin { connection, to } => {
                let Some(line) = self.net.connections.get_mut(&connection) else { return };
                if line.clogged {
                    return line.held.push_back(NetEvent::Fin { connection, to });
                }
                line.pipes[to].fin = Fin::Arrived;
                self.serve_receives(connection, to);
            }
            NetEvent::Reset { connection } => {
                self.reset(connection);
                self.net.forget_closed(connection);
            }
            NetEvent::Unclog { connection } => self.unclog(connection),
        }
    }

    fn knock(&mut self, op: u64) {
        let Some(flight) = self.flights.get(&op) else { return };
        let Op::Connect { address } = &flight.op else { unreachable!("only Connect knocks") };
        let process = self.drivers[flight.driver].process;
        match self.net.connect(process, address) {
            Err(errno) => self.refuse(op, errno),
            Ok((socket, listener)) => {
                self.note("knock   ", [op, u64::from(socket.0), u64::from(listener.0), 0]);
                let at = self.now + self.net.delay();
                self.schedule(at, Event::Net(NetEvent::Connected { op, socket }));
                self.serve_accepts(listener);
            }
        }
    }

    fn serve_accepts(&mut self, socket: SocketId) {
        while let Some(Socket { kind: Kind::Listener(listener), .. }) = self.net.sockets.get_mut(&socket) {
            if listener.stopped {
                let accepts = std::mem::take(&mut listener.accepts);
                accepts.into_iter().for_each(|op| self.fail(op, Errno::EINVAL));
                return;
            }
            let (Some(_), Some(op)) = (listener.backlog.front(), listener.accepts.front().copied()) else {
                return;
            };
            listener.accepts.pop_front();
            let accepted = listener.backlog.pop_front().expect("looked at above");
            self.note("accept  ", [op, u64::from(accepted.socket.0), 0, 0]);
            self.complete(op, |_| Done::Accepted(Ok(accepted)));
        }
    }

    /// Sends on what the window has room for.
    fn pump(&mut self, connection: ConnectionId, to: usize) {
        loop {
            let tiny = self.net.prng.chance(self.net.dials.tiny);
            let len_max = 1 + self.net.prng.below(if tiny { 16 } else { SEGMENT_MAX });
            let delay = self.net.delay();
            let Some(line) = self.net.connections.get_mut(&connection).filter(|c| c.is_open()) else {
                return;
            };
            let pipe = &mut line.pipes[to];
            let departure = pipe.depart(usize::try_from(len_max).expect("at most 64 KiB"));
            let at = pipe.last_arrival.max(self.now + delay);
            let event = match departure {
                None => return,
                Some(Departure::Fin) => NetEvent::Fin { connection, to },
                Some(Departure::Bytes { op, start, len }) => {
                    let Op::Send { from, .. } = &self.flights[&op].op else {
                        unreachable!("pipes carry sends")
                    };
                    NetEvent::Segment { connection, to, bytes: bytes_of(from, start, len) }
                }
            };
            pipe.last_arrival = at;
            self.schedule(at, Event::Net(event));
        }
    }

    fn segment(&mut self, connection: ConnectionId, to: usize, bytes: &[u8]) {
        let (reset, clog) = (self.net.dials.reset, self.net.dials.clog);
        let (reset, clog) = (self.net.prng.chance(reset), self.net.prng.chance(clog));
        let Some(line) = self.net.connections.get_mut(&connection).filter(|c| !c.reset && !c.dark) else {
            return;
        };
        let ended = line.pipes[to].arrive(bytes);
        if line.pipes[to].reader_closed || reset {
            // The sends that arrived in full are among those that fail: their bytes were never read.
            ended.into_iter().for_each(|op| self.fail(op, Errno::ECONNRESET));
            self.reset(connection);
            return;
        }
        if clog {
            line.clogged = true;
            let at = self.now + self.net.prng.below(2_000_000_000);
            self.schedule(at, Event::Net(NetEvent::Unclog { connection }));
        }
        self.note("segment ", [u64::from(connection.0), to as u64, bytes.len() as u64, 0]); // widening
        ended.into_iter().for_each(|op| self.end_send(op));
        self.serve_receives(connection, to);
    }

    fn end_send(&mut self, op: u64) {
        let Some(flight) = self.flights.get(&op) else { return };
        let Op::Send { from, .. } = &flight.op else { unreachable!("pipes carry sends") };
        assert_eq!(flight.sum, sum_of(from), "a buffer changed while its send was in flight");
        self.complete(op, |op| match op {
            Op::Send { from, .. } => Done::Sent(Ok(()), from),
            _ => unreachable!("matched above"),
        });
    }

    fn serve_receives(&mut self, connection: ConnectionId, side: usize) {
        while let Some(line) = self.net.connections.get_mut(&connection) {
            let pipe = &mut line.pipes[side];
            let Some(op) = pipe.receives.front().copied() else { break };
            let Some(Op::Recv { into, least, .. }) = self.flights.get_mut(&op).map(|f| &mut f.op) else {
                pipe.receives.pop_front();
                continue;
            };
            if !pipe.is_readable((*least).min(into.room())) {
                break;
            }
            pipe.receives.pop_front();
            let mut len = into.room().min(pipe.unread());
            if len > 1 && self.net.prng.chance(self.net.dials.tiny) {
                len = len.min(1 + usize::try_from(self.net.prng.below(16)).expect("below 16"));
            }
            let first = len.min(into.first.len());
            pipe.take(&mut into.first.as_mut_slice()[..first]);
            if let Some(second) = &mut into.second {
                pipe.take(&mut second.as_mut_slice()[..len - first]);
            }
            self.note("receive ", [op, len as u64, 0, 0]); // widening
            self.complete(op, |op| match op {
                Op::Recv { into, .. } => Done::Received(Ok(len), into),
                _ => unreachable!("matched above"),
            });
        }
        self.pump(connection, side);
    }

    fn shutdown(&mut self, socket: SocketId, process: ProcessId, direction: Direction) -> Result<(), Errno> {
        let (reads, writes) = match direction {
            Direction::Read => (true, false),
            Direction::Write => (false, true),
            Direction::Both => (true, true),
        };
        if let Kind::Listener(listener) = &mut self.net.socket(socket, process)?.kind {
            listener.stopped |= reads;
            self.serve_accepts(socket);
            return Ok(());
        }
        let (connection, side) = self.net.end(socket, process)?;
        let line = self.net.connections.get_mut(&connection).filter(|c| !c.reset).ok_or(Errno::ENOTCONN)?;
        if reads {
            line.pipes[side].read_shut = true;
            self.serve_receives(connection, side);
        }
        if writes {
            self.end_writing(connection, side, false);
        }
        Ok(())
    }

    /// The end of the stream follows what has departed; sends that have not are given up.
    fn end_writing(&mut self, connection: ConnectionId, side: usize, all: bool) {
        let Some(line) = self.net.connections.get_mut(&connection) else { return };
        let pipe = &mut line.pipes[1 - side];
        let given_up = pipe.give_up_sends(all);
        if pipe.fin == Fin::Open {
            pipe.fin = Fin::Queued;
        }
        given_up.into_iter().for_each(|op| self.fail(op, Errno::EPIPE));
        self.pump(connection, 1 - side);
    }

    fn close_socket(&mut self, socket: SocketId) {
        let Some(closed) = self.net.sockets.remove(&socket) else { return };
        match closed.kind {
            Kind::Listener(listener) => {
                if let Some(address) = &closed.local {
                    self.net.listeners.remove(&key_of(address));
                }
                listener.accepts.into_iter().for_each(|op| self.fail(op, Errno::EINVAL));
                let waiting: Vec<SocketId> = listener.backlog.iter().map(|a| a.socket).collect();
                for socket in waiting {
                    self.reset_socket(socket);
                    self.close_socket(socket);
                }
            }
            Kind::End { connection, side } => self.close_end(connection, side),
        }
    }

    fn close_end(&mut self, connection: ConnectionId, side: usize) {
        let Some(line) = self.net.connections.get_mut(&connection) else { return };
        let pipe = &mut line.pipes[side];
        let unread = pipe.unread() > 0;
        pipe.read_shut = true;
        pipe.reader_closed = true;
        let receives = std::mem::take(&mut pipe.receives);
        for op in receives {
            self.complete_empty_receive(op);
        }
        self.end_writing(connection, side, true);
        if unread {
            // As TCP: data that nobody will read resets the connection.
            self.reset(connection);
        }
        self.net.forget_closed(connection);
    }

    fn complete_empty_receive(&mut self, op: u64) {
        if self.flights.contains_key(&op) {
            self.complete(op, |op| match op {
                Op::Recv { into, .. } => Done::Received(Ok(0), into),
                _ => unreachable!("receives wait in line"),
            });
        }
    }

    fn reset_socket(&mut self, socket: SocketId) {
        if let Some(Socket { kind: Kind::End { connection, .. }, .. }) = self.net.sockets.get(&socket) {
            self.reset(*connection);
        }
    }

    fn reset(&mut self, connection: ConnectionId) {
        let Some(line) = self.net.connections.get_mut(&connection) else { return };
        line.reset = true;
        line.held.clear();
        let ops: Vec<u64> = line.pipes.iter_mut().flat_map(Pipe::clear).collect();
        self.note("reset   ", [u64::from(connection.0), 0, 0, 0]);
        ops.into_iter().for_each(|op| self.fail(op, Errno::ECONNRESET));
    }

    fn unclog(&mut self, connection: ConnectionId) {
        let Some(line) = self.net.connections.get_mut(&connection) else { return };
        line.clogged = false;
        // The first of them may clog it anew.
        let held = std::mem::take(&mut line.held);
        held.into_iter().for_each(|event| self.net_event(event));
        self.pump(connection, 0);
        self.pump(connection, 1);
    }

    fn process_of(&self, id: u64) -> ProcessId {
        self.drivers[self.flights[&id].driver].process
    }

    /// The sockets of a process that ended: the kernel closes them after a kill; after a power cut the other
    /// machines hear nothing for a while and then a reset.
    pub(super) fn net_process_ended(&mut self, process: ProcessId, crash: Crash) {
        let mine = self.net.sockets.iter().filter(|(_, s)| s.process == process);
        let mine: Vec<SocketId> = mine.map(|(id, _)| *id).collect();
        for socket in mine {
            let Some(Socket { kind, local, .. }) = self.net.sockets.get(&socket) else { continue };
            match (kind, crash) {
                (Kind::Listener(_), _) => {
                    if let Some(address @ Address::Unix(_)) = local {
                        self.net.stale.insert(key_of(address));
                    }
                    self.close_socket(socket);
                }
                (Kind::End { .. }, Crash::Kill) => self.close_socket(socket),
                (Kind::End { connection, side }, Crash::PowerCut) => {
                    let (connection, side) = (*connection, *side);
                    self.net.sockets.remove(&socket);
                    if let Some(line) = self.net.connections.get_mut(&connection) {
                        line.dark = true;
                        line.pipes[side].reader_closed = true;
                    }
                    let at = self.now + self.net.prng.below(PEER_SILENCE_MAX_NS);
                    self.schedule(at, Event::Net(NetEvent::Reset { connection }));
                }
            }
        }
    }
}

impl World {
    pub fn set_net(&self, dials: NetDials) {
        self.state.borrow_mut().net.dials = dials;
    }

    /// The connections that both ends have made and neither closed, oldest first.
    pub fn connections(&self) -> Vec<ConnectionId> {
        let state = self.state.borrow();
        let open = |c: &Connection| !c.reset && c.pipes.iter().all(|p| !p.reader_closed);
        state.net.connections.iter().filter(|(_, c)| open(c)).map(|(id, _)| *id).collect()
    }

    /// Both ends get ECONNRESET.
    pub fn reset_connection(&self, connection: ConnectionId) {
        self.state.borrow_mut().reset(connection);
    }

    /// Nothing gets through any more, in either direction, until `unclog`: for ever, it is half-open. What was on its
    /// way by then arrives after that, even if its sender has closed its end meanwhile.
    pub fn clog(&self, connection: ConnectionId) {
        if let Some(line) = self.state.borrow_mut().net.connections.get_mut(&connection) {
            line.clogged = true;
        }
    }

    /// Whether the end that accepted a connection to this very address has it open still, or is yet to accept it.
    pub fn is_served(&self, address: &Address) -> bool {
        let state = self.state.borrow();
        let accepted =
            |s: &Socket| matches!(s.kind, Kind::End { side: 1, .. }) && s.local.as_ref() == Some(address);
        state.net.sockets.values().any(accepted)
    }

    /// Lets a clogged connection go on.
    pub fn unclog(&self, connection: ConnectionId) {
        self.state.borrow_mut().unclog(connection);
    }
}

fn sum_of(buffers: &[Buf]) -> u64 {
    buffers.iter().fold(0, |sum, buf| sum.rotate_left(1) ^ structure_sum(buf.as_slice()))
}

/// `len` bytes from `start` on of the buffers laid end to end.
fn bytes_of(buffers: &[Buf], start: usize, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    let mut skip = start;
    for buf in buffers {
        let part = buf.as_slice().get(skip..).unwrap_or(&[]);
        skip = skip.saturating_sub(buf.len());
        out.extend_from_slice(&part[..part.len().min(len - out.len())]);
    }
    out
}
