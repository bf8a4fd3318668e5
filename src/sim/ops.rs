//! The way of an operation through the world: submitted, handed to files or sockets, completed.

use super::world::{Event, Flight, State};
use crate::io::driver::{Completion, Done, Op, Token};
use nix::errno::Errno;

impl State {
    pub(super) fn submit(&mut self, driver: usize, token: Token, op: Op) {
        if !self.alive(self.drivers[driver].process) {
            // The dead do nothing; their buffers go back when the core is drained.
            let done = failed(op, Errno::ECANCELED);
            self.drivers[driver].ready.push(Completion { token, done });
            return;
        }
        self.flights_begun += 1;
        let id = self.flights_begun;
        let kind = kind_of(&op);
        self.note(kind, [id, driver as u64, token.0, 0]); // widening
        self.flights.insert(id, Flight { driver, token, op, io: None, sum: 0 });
        match &self.flights[&id].op {
            Op::Read { .. } | Op::Write { .. } | Op::Flush { .. } | Op::Discard { .. } | Op::Zero { .. } => {
                self.begin_io(id);
            }
            Op::Accept { .. } | Op::Connect { .. } | Op::Recv { .. } | Op::Send { .. } => self.begin_net(id),
            Op::Open { .. }
            | Op::Close { .. }
            | Op::Size { .. }
            | Op::Listen { .. }
            | Op::LocalAddress { .. }
            | Op::Shutdown { .. }
            | Op::CloseSocket { .. } => {
                let at = self.now + self.short_delay();
                self.schedule(at, Event::Finish(id));
            }
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Early(id) => self.early_io(id),
            Event::Finish(id) => self.finish(id),
            Event::Refuse(id, errno) => self.fail(id, errno),
            Event::Net(event) => self.net_event(event),
            Event::Call(_) => unreachable!("calls are made with no borrow held"),
        }
    }

    pub(super) fn finish(&mut self, id: u64) {
        let Some(flight) = self.flights.get(&id) else { return };
        match &flight.op {
            Op::Read { .. } | Op::Write { .. } | Op::Flush { .. } | Op::Discard { .. } | Op::Zero { .. } => {
                self.finish_io(id);
            }
            Op::Open { path, access } => {
                let (path, access) = (path.clone(), *access);
                self.finish_open(id, &path, access);
            }
            Op::Close { file } => self.finish_close(id, *file),
            Op::Size { file } => self.finish_size(id, *file),
            Op::Listen { .. }
            | Op::LocalAddress { .. }
            | Op::Accept { .. }
            | Op::Connect { .. }
            | Op::Recv { .. }
            | Op::Send { .. }
            | Op::Shutdown { .. }
            | Op::CloseSocket { .. } => self.finish_net(id),
        }
    }

    /// Ends an operation with an error after a short while.
    pub(super) fn refuse(&mut self, id: u64, errno: Errno) {
        let at = self.now + self.short_delay();
        self.schedule(at, Event::Refuse(id, errno));
    }

    /// Ends an operation with an error now.
    pub(super) fn fail(&mut self, id: u64, errno: Errno) {
        if self.flights.contains_key(&id) {
            self.note("fail    ", [id, errno as u64, 0, 0]); // the number, for the digest
            self.complete(id, |op| failed(op, errno));
        }
    }

    /// Ends an operation now.
    pub(super) fn complete(&mut self, id: u64, done: impl FnOnce(Op) -> Done) {
        let flight = self.flights.remove(&id).expect("it is in flight");
        let done = done(flight.op);
        self.drivers[flight.driver].ready.push(Completion { token: flight.token, done });
    }
}

/// The end of an operation that failed, with its buffers.
pub(super) fn failed(op: Op, errno: Errno) -> Done {
    match op {
        Op::Open { .. } => Done::Opened(Err(errno)),
        Op::Size { .. } => Done::Size(Err(errno)),
        Op::Read { into, .. } => Done::Read(Err(errno), into),
        Op::Listen { .. } | Op::Connect { .. } => Done::Socket(Err(errno)),
        Op::LocalAddress { .. } => Done::LocalAddress(Err(errno)),
        Op::Accept { .. } => Done::Accepted(Err(errno)),
        Op::Recv { into, .. } => Done::Received(Err(errno), into),
        Op::Send { from, .. } => Done::Sent(Err(errno), from),
        Op::Close { .. }
        | Op::Write { .. }
        | Op::Flush { .. }
        | Op::Discard { .. }
        | Op::Zero { .. }
        | Op::Shutdown { .. }
        | Op::CloseSocket { .. } => Done::Finished(Err(errno)),
    }
}

/// Eight characters for the digest and the trail.
fn kind_of(op: &Op) -> &'static str {
    match op {
        Op::Open { .. } => "+open   ",
        Op::Close { .. } => "+close  ",
        Op::Size { .. } => "+size   ",
        Op::Read { .. } => "+read   ",
        Op::Write { durable: false, .. } => "+write  ",
        Op::Write { durable: true, .. } => "+fua    ",
        Op::Flush { .. } => "+flush  ",
        Op::Discard { .. } => "+discard",
        Op::Zero { .. } => "+zero   ",
        Op::Listen { .. } => "+listen ",
        Op::LocalAddress { .. } => "+address",
        Op::Accept { .. } => "+accept ",
        Op::Connect { .. } => "+connect",
        Op::Recv { .. } => "+recv   ",
        Op::Send { .. } => "+send   ",
        Op::Shutdown { .. } => "+shut   ",
        Op::CloseSocket { .. } => "+hangup ",
    }
}
